"""The routes: HTTP in, the service's answer out."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader

from quantflow.api import service, strict_json
from quantflow.api.middleware import CORRELATION_HEADER, KEY_HEADER
from quantflow.api.models import (
    ApprovalAnswer,
    Health,
    RunAccepted,
    RunPage,
    RunStatus,
    TriggerRequest,
    WorkflowName,
)
from quantflow.api.problems import PROBLEM_RESPONSES, ProblemError
from quantflow.errors import LogUnavailableError
from quantflow.events.types import RunState, WorkflowType

__all__ = ["health_router", "workflows_router"]


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return strict_json.loads(await self.body())
        except strict_json.UnstorableJsonError as exc:
            raise ProblemError(422, "bad-request", str(exc)) from None
        except strict_json.BadJsonError as exc:
            raise ProblemError(400, "bad-json", str(exc)) from None


class _StrictRoute(APIRoute):
    """A route whose JSON body is read strictly, and must say that it is JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        takes_body = self.body_field is not None

        async def strict(request: Request) -> Response:
            if takes_body and request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
                raise ProblemError(415, "unsupported-media-type", "send JSON with Content-Type: application/json")
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


# The key is checked before any route (middleware.KeyRequired); this documents it, so that /docs can send it.
_documented_key = Security(APIKeyHeader(name=KEY_HEADER, auto_error=False))

workflows_router = APIRouter(
    prefix="/workflows",
    tags=["workflows"],
    route_class=_StrictRoute,
    dependencies=[_documented_key],
    responses=PROBLEM_RESPONSES,
)
health_router = APIRouter(tags=["health"])


def _parts(request: Request) -> service.Parts:
    if not request.app.state.ready.is_set():
        raise LogUnavailableError("the event log has not answered since the API started; try again. See: /health")
    parts: service.Parts = request.app.state.parts
    return parts


Parts = Annotated[service.Parts, Depends(_parts)]
RunId = Annotated[WorkflowName, Path(description="Run id, as the trigger answered it")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]+$",
        description="The same key and body give the same run, however often they are sent",
    ),
]


@workflows_router.post("/trigger", status_code=202, summary="Start a run")
def trigger(
    request: Request, response: Response, parts: Parts, body: TriggerRequest, idempotency_key: IdempotencyKey = None
) -> RunAccepted:
    """Accept a run: it is written to the event log and on its way to its engine when this answers.

    What the run may read is fixed now: the active version, and the offset range of each input topic.
    """
    given = bool(request.scope["state"].get("correlation_given"))
    view = service.trigger(parts, body, idempotency_key=idempotency_key, given_correlation=given)
    if not given:
        response.headers[CORRELATION_HEADER] = view.run_id
    response.headers["Location"] = f"/workflows/{view.run_id}/status"
    return RunAccepted.model_validate(RunStatus.of(view).model_dump())


@workflows_router.get("/{run_id}/status", summary="Show one run")
def status(parts: Parts, run_id: RunId) -> RunStatus:
    """Show a run as the engines were last seen: the fold of its events, not a guess."""
    return RunStatus.of(service.read_run(parts, run_id))


@workflows_router.get("", summary="List runs, newest first")
def list_runs(
    parts: Parts,
    workflow_id: Annotated[WorkflowName | None, Query(description="Only this pipeline")] = None,
    workflow_type: Annotated[WorkflowType | None, Query(description="Only this engine")] = None,
    status: Annotated[RunState | None, Query(description="Only runs in this state")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=500, pattern=r"^[!-~]+$", description="next_cursor of the page before")
    ] = None,
) -> RunPage:
    """List runs; follow ``next_cursor`` for more."""
    page = service.read_runs(
        parts, workflow_id=workflow_id, workflow_type=workflow_type, state=status, limit=limit, cursor=cursor
    )
    return RunPage(runs=[RunStatus.of(view) for view in page.runs], next_cursor=page.next_cursor)


@workflows_router.post("/{run_id}/approval", summary="Answer an approval")
def approve(parts: Parts, run_id: RunId, body: ApprovalAnswer) -> RunStatus:
    """Grant or refuse exactly the proposal and verdict whose hashes are given.

    A late answer, another role, another hash, or an answer that contradicts an earlier one is refused (409).
    """
    service.answer_approval(parts, run_id, body)
    return RunStatus.of(service.read_run(parts, run_id))


@health_router.get(
    "/health",
    summary="Is every dependency alive?",
    responses={503: {"model": Health, "description": "Kafka or PostgreSQL is down: no run can be accepted"}},
)
def health(request: Request, response: Response) -> Health:
    """Show each dependency: 200 while runs can be accepted (``ok`` or ``degraded``), 503 otherwise."""
    found: Health = request.app.state.health.look()
    response.status_code = 503 if found.status == "unavailable" else 200
    return found


@health_router.get("/health/live", summary="Is the API itself alive?")
def live() -> dict[str, str]:
    """Answer 200 whenever the API serves requests, whatever its dependencies do."""
    return {"status": "ok"}
