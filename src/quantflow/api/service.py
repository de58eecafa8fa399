"""What the routes do, without HTTP: start a run once, read runs, answer an approval.

A run is accepted by one append to its stream: the request and its outbox row are written
together or not at all, and a second request under the same Idempotency-Key meets the
stream's version and gets the first one's run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from quantflow.api.models import ApprovalAnswer, TriggerRequest
from quantflow.api.problems import FieldProblem, ProblemError
from quantflow.errors import ApprovalError, ParameterError, UnknownRunError, UnknownVersionError, VersionConflictError
from quantflow.events.envelope import derived_id, new_id
from quantflow.events.types import RunRequested, RunState, TopicSlice, WorkflowType
from quantflow.orchestration.names import desk_run_id, run_stream
from quantflow.orchestration.observations import request_id
from quantflow.telemetry import correlation, current_correlation, get_logger

if TYPE_CHECKING:
    import httpx

    from quantflow.events.log import EventLog
    from quantflow.events.runs import RunPage, RunView
    from quantflow.events.topics import Topics
    from quantflow.events.transport import Transport
    from quantflow.settings import Settings

__all__ = ["Parts", "Promotions", "answer_approval", "read_run", "read_runs", "trigger"]

log = get_logger(__name__)

#: The one principal that an API key stands for until there are several.
PRINCIPAL = "api-key"


class Promotions(Protocol):
    """What the API asks of the registry of promoted versions."""

    def active_version(self, pipeline: str) -> Any:
        """Return the active version of a pipeline; UnknownVersionError if there is none."""
        ...

    def get(self, version_id: str) -> Any:
        """Return a version; UnknownVersionError if there is none."""
        ...


@dataclass(frozen=True)
class Parts:
    """Everything that the routes use; built once."""

    settings: Settings
    log: EventLog
    transport: Transport
    topics: Topics
    promotions: Promotions
    http: httpx.Client

    def ping_broker(self) -> str | None:
        """Raise if the broker does not answer."""
        admin = self.transport.admin()
        try:
            admin.ping(2.0)
        finally:
            admin.close()
        return None

    def ping_log(self) -> str | None:
        """Raise if the event log's database does not answer."""
        position, _ = self.log.head()
        return f"{position} events"

    def service_alive(self, service: str, *, within_s: float) -> bool:
        """Say whether a service has shown a sign of life lately."""
        from quantflow.events.heartbeat import alive

        return alive(self.log, service, within_s=within_s)


def trigger(parts: Parts, request: TriggerRequest, *, idempotency_key: str | None, given_correlation: bool) -> RunView:
    """Accept a run and return it; under a known Idempotency-Key, return the run it started.

    Raises
    ------
    ProblemError
        The key was used with another request (422).
    UnknownVersionError
        No version of this pipeline is active.
    ParameterError
        Names the parameter that is unknown, mistyped or out of range.
    TransportError, LogUnavailableError
        Nothing was written.
    """
    run_id = derived_id("run", PRINCIPAL, idempotency_key) if idempotency_key else new_id()
    if idempotency_key and _exists(parts, run_id):
        return _same_request(parts, run_id, request)
    # The correlation id of a run that nobody named is the run id: one id to look for.
    bound = current_correlation() if given_correlation else None
    with correlation(bound or run_id):
        return _accept(parts, _resolve(parts, request, run_id), request)


def _accept(parts: Parts, event: RunRequested, request: TriggerRequest) -> RunView:
    from quantflow.events.log import Draft

    draft = Draft(event, event_id=request_id(event.run_id), topic=parts.topics.requests, key=event.run_id)
    try:
        parts.log.append(run_stream(event.run_id), [draft], expected_version=0)
    except VersionConflictError:
        # The same key, at the same moment: the other request won and this one gets its run.
        return _same_request(parts, event.run_id, request)
    log.info("run accepted", run_id=event.run_id, workflow_id=event.workflow_id, workflow_type=event.workflow_type)
    return read_run(parts, event.run_id)


def _resolve(parts: Parts, request: TriggerRequest, run_id: str) -> RunRequested:
    from quantflow.events.transport import current_slices

    version = parts.promotions.active_version(request.workflow_id)
    inputs: tuple[TopicSlice, ...] = ()
    if request.workflow_type == "airflow":
        version.contract.resolve_parameters(request.parameters)
        topics = sorted({parts.topics.resolve(item.topic) for item in version.contract.inputs})
        inputs = current_slices(parts.transport, topics)
        version_id = version.version_id
    else:
        version_id = _check_desk_request(parts, request)
    return RunRequested(
        run_id=run_id,
        workflow_id=request.workflow_id,
        workflow_type=request.workflow_type,
        parameters=request.parameters,
        priority=request.priority,
        version_id=version_id,
        as_of=datetime.now(UTC),
        inputs=inputs,
        requested_by=PRINCIPAL,
    )


def _check_desk_request(parts: Parts, request: TriggerRequest) -> str:
    from pydantic import ValidationError

    from quantflow.agents.request import DeskRequest

    try:
        desk = DeskRequest.model_validate(request.parameters)
    except ValidationError as exc:
        errors = [
            FieldProblem(field=".".join(["body", "parameters", *map(str, item["loc"])]), message=item["msg"])
            for item in exc.errors(include_url=False)
        ]
        detail = "parameters of a langgraph run are a desk request: " + "; ".join(
            f"{error.field}: {error.message}" for error in errors[:5]
        )
        raise ProblemError(422, "bad-parameters", detail, errors=errors) from None
    if desk.pipeline != request.workflow_id:
        raise ParameterError(
            f"parameters.pipeline is {desk.pipeline!r}; it must be the workflow_id, {request.workflow_id!r}"
        )
    version = parts.promotions.get(desk.version_id)
    if version.pipeline != request.workflow_id:
        raise UnknownVersionError(f"version {desk.version_id} belongs to {version.pipeline!r}, not {desk.pipeline!r}")
    return desk.version_id


def read_run(parts: Parts, run_id: str) -> RunView:
    """Return a run, folded from its events; UnknownRunError if there is none."""
    from quantflow.events.runs import get_run

    return get_run(parts.log, run_id)


def read_runs(
    parts: Parts,
    *,
    workflow_id: str | None,
    workflow_type: WorkflowType | None,
    state: RunState | None,
    limit: int,
    cursor: str | None,
) -> RunPage:
    """Return a page of runs, newest first."""
    from quantflow.events.runs import list_runs

    return list_runs(
        parts.log, workflow_id=workflow_id, workflow_type=workflow_type, state=state, limit=limit, cursor=cursor
    )


def answer_approval(parts: Parts, run_id: str, answer: ApprovalAnswer) -> None:
    """Put a person's answer into the approval ledger.

    A pipeline run's answer goes to the analysis that it waits for.

    Raises
    ------
    UnknownRunError
        No such run.
    ApprovalError
        Nothing was asked, or the answer is late, of another role, or of another proposal; or the
        first answer said otherwise.
    """
    from quantflow.events.approvals import Ledger

    asked = desk_run_id(run_id) if read_run(parts, run_id).workflow_type == "airflow" else run_id
    first = Ledger(parts.log).answer(
        asked,
        proposal_hash=answer.proposal_hash,
        verdict_hash=answer.verdict_hash,
        role=answer.role,
        approver=answer.approver,
        granted=answer.granted,
    )
    if (first.granted, first.approver) != (answer.granted, answer.approver):
        said = "granted" if first.granted else "refused"
        raise ApprovalError(f"run {asked}: {first.approver} {said} it before; the first answer counts")
    log.info("approval answered", run_id=asked, approver=answer.approver, granted=answer.granted)


def _same_request(parts: Parts, run_id: str, request: TriggerRequest) -> RunView:
    stored = parts.log.get(request_id(run_id))
    known = stored.event if stored is not None else None
    names = ("workflow_id", "workflow_type", "parameters", "priority")
    changed = [name for name in names if getattr(known, name, None) != getattr(request, name)]
    if not changed:
        return read_run(parts, run_id)
    raise ProblemError(
        422,
        "idempotency-key-reused",
        f"this Idempotency-Key started run {run_id} with another {', '.join(changed)}. "
        "Send the same request again, or use a new key",
    )


def _exists(parts: Parts, run_id: str) -> bool:
    try:
        read_run(parts, run_id)
    except UnknownRunError:
        return False
    return True
