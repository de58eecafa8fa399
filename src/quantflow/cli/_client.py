"""The quantflow API as seen by the commands: trigger a run, follow it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from quantflow.errors import OrchestrationError

if TYPE_CHECKING:
    from quantflow.settings import Settings

__all__ = ["FINAL_STATES", "ApiClient"]

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})


class ApiClient:
    """A small client; every refusal becomes an :class:`OrchestrationError` with the API's own words."""

    def __init__(self, settings: Settings) -> None:
        import httpx

        self._http = httpx.Client(
            base_url=settings.api,
            headers={"X-API-Key": settings.api_key.get_secret_value()},
            timeout=httpx.Timeout(30.0, connect=5.0),
        )
        self._address = settings.api

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def trigger(
        self,
        workflow_id: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        priority: int = 5,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Ask for a run of a promoted pipeline; return the API's answer, run id included."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        body = {
            "workflow_id": workflow_id,
            "workflow_type": "airflow",
            "parameters": dict(parameters or {}),
            "priority": priority,
        }
        return self._call("POST", "/workflows/trigger", json=body, headers=headers)

    def status(self, run_id: str) -> dict[str, Any]:
        """Return the status of a run."""
        return self._call("GET", f"/workflows/{run_id}/status")

    def follow(self, run_id: str, *, timeout_s: float, poll_s: float = 0.5) -> Iterator[dict[str, Any]]:
        """Yield the status at each look until the run has ended.

        Raises
        ------
        OrchestrationError
            The run has not ended within ``timeout_s`` seconds; it goes on, and the message says how to look again.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status(run_id)
            yield status
            if status["status"] in FINAL_STATES:
                return
            if time.monotonic() > deadline:
                raise OrchestrationError(
                    f"run {run_id} is {status['status']} after {timeout_s:.0f} s. It goes on; look again with: "
                    f"quantflow runs show {run_id}"
                )
            time.sleep(poll_s)

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        import httpx

        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as exc:
            raise OrchestrationError(
                f"the quantflow API does not answer at {self._address} ({type(exc).__name__}). "
                "Start it with: quantflow up"
            ) from exc
        if answer.is_success:
            body: dict[str, Any] = answer.json()
            return body
        raise OrchestrationError(f"the API refused {method} {path}: {_reason(answer)}")


def _reason(answer: Any) -> str:
    try:
        problem = answer.json()
    except ValueError:
        return f"{answer.status_code}"
    detail = problem.get("detail") or problem.get("title") or ""
    errors = "; ".join(str(item) for item in problem.get("errors", []))
    return f"{answer.status_code} {detail}{': ' + errors if errors else ''}"
