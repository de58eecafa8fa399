"""What the API takes and answers: strict on the way in, complete on the way out."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from quantflow.events.types import ErrorDetail, RunState, WorkflowType

if TYPE_CHECKING:
    from quantflow.events.runs import RunView

__all__ = [
    "ApprovalAnswer",
    "DependencyHealth",
    "Health",
    "RunAccepted",
    "RunPage",
    "RunStatus",
    "TriggerRequest",
    "WorkflowName",
]

WorkflowName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]
ParameterName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Incoming(BaseModel):
    # strict: "1" is not 1 and true is not 1; a quantity that arrives as text is a caller's mistake.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TriggerRequest(_Incoming):
    """A run to be started."""

    workflow_id: WorkflowName = Field(description="The promoted pipeline", examples=["momentum"])
    workflow_type: WorkflowType = Field(
        default="airflow", description="airflow: the whole pipeline; langgraph: its analysis alone"
    )
    parameters: dict[ParameterName, JsonValue] = Field(
        default_factory=dict,
        max_length=100,
        description="Values for the contract's parameters; what is not given has the contract's default",
        examples=[{}],
    )
    priority: int = Field(default=5, ge=0, le=10, description="0 (last) to 10 (first)")


class ApprovalAnswer(_Incoming):
    """A person's answer to exactly one proposal and verdict."""

    granted: bool = Field(description="true: act on it; false: refuse it")
    approver: WorkflowName = Field(description="Who answers")
    role: WorkflowName = Field(description="In which role; must be the one that was asked for")
    proposal_hash: str = Field(pattern=r"^[0-9a-f]{64}$", description="Hash of the proposal that was read")
    verdict_hash: str = Field(pattern=r"^[0-9a-f]{64}$", description="Hash of the verdict that was read")


class RunStatus(BaseModel):
    """A run, folded from its events."""

    run_id: str
    workflow_id: str
    workflow_type: WorkflowType
    status: RunState
    progress: float = Field(ge=0, le=1)
    priority: int
    result: dict[str, Any] | None = None
    error: ErrorDetail | None = None
    tasks: dict[str, str] = Field(default_factory=dict, description="Each task's state in the engine's words")
    version_id: str | None = None
    parent_run_id: str | None = None
    detail: str | None = Field(default=None, description="What the engine said about the state")
    as_of: datetime = Field(description="Nothing that became known later is read")
    requested_by: str
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    updated_at: datetime
    observed_at: datetime | None = Field(default=None, description="When the engine was last looked at")

    @classmethod
    def of(cls, view: RunView) -> RunStatus:
        """Return the status that a folded run shows."""
        same = {name: getattr(view, name) for name in cls.model_fields if name not in ("status", "tasks")}
        return cls(status=view.state, tasks={task.task_id: task.state for task in view.tasks}, **same)


class RunAccepted(RunStatus):
    """The run that a trigger started, or had started before under the same Idempotency-Key."""


class RunPage(BaseModel):
    """Runs, newest first."""

    runs: list[RunStatus]
    next_cursor: str | None = Field(default=None, description="Give it as cursor to get the next page")


class DependencyHealth(BaseModel):
    """One part that the API depends on."""

    status: Literal["up", "down", "disabled"]
    required: bool = Field(description="Without it no run can be accepted")
    detail: str | None = None
    latency_ms: float | None = None


class Health(BaseModel):
    """``ok``: everything is up. ``degraded``: runs are accepted, some wait. ``unavailable``: none is accepted."""

    status: Literal["ok", "degraded", "unavailable"]
    dependencies: dict[str, DependencyHealth]
    checked_at: datetime
    version: str
