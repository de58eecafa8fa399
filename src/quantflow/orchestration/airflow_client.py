"""Airflow's REST API, version 2: start a run once, and look at runs and their tasks.

One client may be used by several threads. Every wait is bounded. Whatever may work later
(Airflow is starting, its DAG processor has not read the DAG yet) is an
:class:`~quantflow.errors.EngineUnavailableError`; what will never work is an
:class:`~quantflow.errors.OrchestrationError`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx

from quantflow.errors import EngineUnavailableError, OrchestrationError

if TYPE_CHECKING:
    from quantflow.events.types import RunState
    from quantflow.settings import Settings

__all__ = ["AirflowClient", "AirflowRun", "AirflowTask"]

_RUN_STATES: dict[str, RunState] = {
    "queued": "queued",
    "running": "running",
    "success": "succeeded",
    "failed": "failed",
}


@dataclass(frozen=True)
class AirflowRun:
    """A DAG run as Airflow reports it; times are timezone-aware UTC."""

    dag_id: str
    dag_run_id: str
    state: RunState
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True)
class AirflowTask:
    """A task instance as Airflow reports it; ``state`` is Airflow's own word, ``"none"`` before it has one."""

    task_id: str
    state: str
    try_number: int
    started_at: datetime | None
    finished_at: datetime | None


class AirflowClient:
    """A client for the Airflow that the settings name; usable as a context manager.

    The user's name and password are exchanged for a token at the first call, and again
    whenever Airflow refuses the token.

    Parameters
    ----------
    settings
        Name Airflow's address, user and password.
    timeout_s
        Longest wait for one answer; connecting may take 3 s of it.
    transport
        An httpx transport, for tests at the HTTP border.
    """

    def __init__(
        self, settings: Settings, *, timeout_s: float = 15.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        password = settings.airflow_password.get_secret_value()
        self._credentials = {"username": settings.airflow_username, "password": password}
        self._address = settings.airflow
        timeout = httpx.Timeout(timeout_s, connect=min(3.0, timeout_s))
        self._http = httpx.Client(base_url=self._address, timeout=timeout, transport=transport)
        self._token: str | None = None
        self._token_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def trigger(self, dag_id: str, dag_run_id: str, conf: dict[str, Any]) -> bool:
        """Create a DAG run and return ``True``, or ``False`` if that run exists already.

        Raises
        ------
        EngineUnavailableError
            Airflow does not answer, does not know the DAG (yet), or cannot import it at present.
        OrchestrationError
            Airflow refused for good; the message carries its words.
        """
        body = {"dag_run_id": dag_run_id, "logical_date": None, "conf": conf}
        answer = self._call("POST", f"/api/v2/dags/{_part(dag_id)}/dagRuns", json=body)
        if answer.status_code == 409:
            return False
        if answer.status_code == 404:
            raise EngineUnavailableError(
                f"Airflow at {self._address} does not know DAG {dag_id} yet: {_words(answer)}. "
                "A promoted pipeline appears within seconds; otherwise see: airflow dags list-import-errors"
            )
        if answer.status_code == 400 and "import errors" in answer.text:
            raise EngineUnavailableError(f"Airflow cannot read DAG {dag_id} at present: {_words(answer)}")
        self._require_success(answer, f"start {dag_id}")
        return True

    def get_dag(self, dag_id: str) -> dict[str, Any] | None:
        """Return what Airflow knows of a DAG, or ``None`` while it has not read it, or cannot."""
        answer = self._call("GET", f"/api/v2/dags/{_part(dag_id)}")
        if answer.status_code == 404:
            return None
        self._require_success(answer, f"show {dag_id}")
        found: dict[str, Any] = answer.json()
        return None if found.get("is_stale") else found

    def run(self, dag_id: str, dag_run_id: str) -> AirflowRun | None:
        """Return a DAG run, or ``None`` if Airflow has no such run."""
        answer = self._call("GET", f"/api/v2/dags/{_part(dag_id)}/dagRuns/{_part(dag_run_id)}")
        if answer.status_code == 404:
            return None
        self._require_success(answer, f"show run {dag_run_id}")
        found = answer.json()
        return AirflowRun(
            dag_id=found["dag_id"],
            dag_run_id=found["dag_run_id"],
            state=_RUN_STATES.get(found["state"], "running"),
            queued_at=_time(found.get("queued_at")),
            started_at=_time(found.get("start_date")),
            finished_at=_time(found.get("end_date")),
        )

    def tasks(self, dag_id: str, dag_run_id: str) -> tuple[AirflowTask, ...]:
        """Return the task instances of a DAG run, ordered by task id."""
        path = f"/api/v2/dags/{_part(dag_id)}/dagRuns/{_part(dag_run_id)}/taskInstances"
        answer = self._call("GET", path, params={"limit": 100})
        self._require_success(answer, f"list the tasks of run {dag_run_id}")
        found = [
            AirflowTask(
                task_id=item["task_id"],
                state=item.get("state") or "none",
                try_number=int(item.get("try_number") or 0),
                started_at=_time(item.get("start_date")),
                finished_at=_time(item.get("end_date")),
            )
            for item in answer.json()["task_instances"]
        ]
        return tuple(sorted(found, key=lambda task: task.task_id))

    def health(self) -> dict[str, str]:
        """Return each Airflow component's status (``healthy`` or not); needs no credentials.

        Raises
        ------
        EngineUnavailableError
            Airflow does not answer.
        """
        answer = self._send("GET", "/api/v2/monitor/health")
        self._require_success(answer, "report its health")
        return {name: str((part or {}).get("status")) for name, part in answer.json().items() if part}

    def run_address(self, dag_id: str, dag_run_id: str) -> str:
        """Return the address of a run's page in Airflow's web UI."""
        return f"{self._address}/dags/{_part(dag_id)}/runs/{_part(dag_run_id)}"

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        token = self._current_token()
        answer = self._send(method, path, headers=_bearer(token), **options)
        if answer.status_code == 401:
            answer = self._send(method, path, headers=_bearer(self._current_token(refused=token)), **options)
        return answer

    def _current_token(self, *, refused: str | None = None) -> str:
        with self._token_lock:
            if self._token is None or self._token == refused:
                self._token = None
                answer = self._send("POST", "/auth/token", json=self._credentials)
                self._require_success(answer, "issue a token")
                self._token = str(answer.json()["access_token"])
            return self._token

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.HTTPError as exc:
            raise EngineUnavailableError(
                f"Airflow does not answer at {self._address} ({type(exc).__name__}). See: quantflow status"
            ) from exc

    def _require_success(self, answer: httpx.Response, what: str) -> None:
        if answer.is_success:
            return
        message = f"Airflow at {self._address} would not {what}: {answer.status_code} {_words(answer)}"
        if answer.status_code in {408, 425, 429} or answer.status_code >= 500:
            raise EngineUnavailableError(message)
        if answer.status_code in {401, 403}:
            message += ". Check QUANTFLOW_AIRFLOW_USERNAME and QUANTFLOW_AIRFLOW_PASSWORD"
        raise OrchestrationError(message)


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _part(text: str) -> str:
    return quote(text, safe="")


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _words(answer: httpx.Response) -> str:
    try:
        detail = answer.json().get("detail", "")
    except (ValueError, AttributeError):
        detail = answer.text
    return str(detail)[:500]
