"""The events of the log and the records they carry: frozen, versioned, JSON.

An event's type name never changes; a changed shape gets a higher ``version``. Times are
timezone-aware UTC. Numbers are finite: NaN and infinity are refused. Weights are fractions
of equity, signed, per symbol.
"""

from __future__ import annotations

import hashlib
import json
from datetime import date, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, JsonValue

__all__ = [
    "EVENT_TYPES",
    "Action",
    "Approval",
    "ApprovalGiven",
    "ApprovalRequested",
    "Decision",
    "DecisionMade",
    "ErrorDetail",
    "Event",
    "Finding",
    "LanguageModelCalled",
    "MarketBar",
    "NodeCompleted",
    "PipelinePromoted",
    "Proposal",
    "ProposalMade",
    "Record",
    "RunErrorRecorded",
    "RunRequested",
    "RunResultRecorded",
    "RunState",
    "RunStateObserved",
    "TaskStateObserved",
    "TopicSlice",
    "Verdict",
    "VerdictGiven",
    "WorkflowResult",
    "canonical_json",
]

Action = Literal["LONG", "SHORT", "FLAT", "HOLD"]
WorkflowType = Literal["airflow", "langgraph"]
RunState = Literal["accepted", "queued", "running", "awaiting_approval", "succeeded", "failed", "cancelled"]
Origin = Literal["api", "dispatcher", "listener", "reconciliation", "worker", "task"]


def _to_utc(value: datetime) -> datetime:
    from datetime import UTC

    return value.astimezone(UTC)


Utc = Annotated[AwareDatetime, AfterValidator(_to_utc)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]
# Vendors' symbols: ^GSPC, BRK-B, EURUSD=X, ES=F, BTC/USD.
Symbol = Annotated[str, Field(max_length=50, pattern=r"^[A-Za-z0-9^][A-Za-z0-9.^=/_:-]*$")]
Weights = dict[str, FiniteFloat]


def canonical_json(value: Any) -> bytes:
    """Return the one JSON encoding that hashes are taken of: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


class Record(BaseModel):
    """A frozen value inside an event."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON: the record's identity."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()


class Event(Record):
    """Base of every event: subclasses set ``type`` and raise ``version`` when their shape changes."""

    type: ClassVar[str]
    version: ClassVar[int] = 1


class TopicSlice(Record):
    """Records ``start`` (inclusive) to ``end`` (exclusive) of one partition."""

    topic: Name
    partition: int = Field(ge=0)
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class ErrorDetail(Record):
    """What went wrong, for a person: the cell fields are set when a notebook cell raised."""

    kind: str
    message: str
    task_id: str | None = None
    cell: int | None = None
    source: str | None = None
    traceback: str | None = None
    artifact: str | None = None


class Proposal(Record):
    """What the agents propose; never more exposure than the signal's ``base_weights``.

    ``HOLD`` means: change nothing. Its ``weights`` are empty and ``reason`` says why.
    """

    run_id: Name
    pipeline: Name
    version_id: Sha256
    graph_version: str
    as_of: Utc
    action: Action
    base_weights: Weights
    weights: Weights
    confidence: float = Field(ge=0, le=1)
    reason: str
    language_model: str | None = None


class Finding(Record):
    """One limit that was checked; ``breached`` says with which result."""

    measure: str
    value: float
    limit: float
    breached: bool
    symbol: str | None = None
    message: str


class Verdict(Record):
    """The deterministic risk officer's last word on one exact proposal."""

    proposal_hash: Sha256
    outcome: Literal["approved", "reduced", "rejected"]
    weights: Weights
    findings: tuple[Finding, ...]
    officer: str


class Approval(Record):
    """Permission to act on one exact proposal and verdict, by role, until ``expires_at``."""

    proposal_hash: Sha256
    verdict_hash: Sha256
    mode: Literal["auto", "human"]
    role: str
    approver: str
    granted: bool
    expires_at: Utc


class Decision(Record):
    """What is acted on. Its three hashes bind it to what was proposed, judged and approved."""

    decision_id: Name
    run_id: Name
    pipeline: Name
    version_id: Sha256
    as_of: Utc
    action: Action
    weights: Weights
    reason: str
    proposal_hash: Sha256
    verdict_hash: Sha256
    approval_hash: Sha256


class RunRequested(Event):
    """A run was asked for. Everything that it may read is fixed here."""

    type: ClassVar[str] = "quantflow.run.requested"

    run_id: Name
    workflow_id: Name
    workflow_type: WorkflowType
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    priority: int = Field(default=5, ge=0, le=10)
    version_id: Sha256 | None = None
    as_of: Utc
    inputs: tuple[TopicSlice, ...] = ()
    requested_by: str
    parent_run_id: Name | None = None


class RunStateObserved(Event):
    """An engine was seen in this state; ``observed_at`` is when it was looked at."""

    type: ClassVar[str] = "quantflow.run.state_observed"

    run_id: Name
    engine: WorkflowType
    state: RunState
    observed_at: Utc
    origin: Origin
    detail: str | None = None


class TaskStateObserved(Event):
    """A task of an Airflow run was seen in this state."""

    type: ClassVar[str] = "quantflow.run.task_state_observed"

    run_id: Name
    task_id: str
    state: str
    try_number: int = Field(ge=0)
    tasks_total: int | None = Field(default=None, ge=1)
    observed_at: Utc
    origin: Origin


class NodeCompleted(Event):
    """A graph node finished; ``words`` is what an agent said, ``data`` what it found."""

    type: ClassVar[str] = "quantflow.run.node_completed"

    run_id: Name
    node: str
    index: int = Field(ge=0)
    nodes_total: int = Field(ge=1)
    words: str | None = None
    data: dict[str, JsonValue] = Field(default_factory=dict)


class RunResultRecorded(Event):
    """A run produced its result."""

    type: ClassVar[str] = "quantflow.run.result_recorded"

    run_id: Name
    result: dict[str, JsonValue]


class RunErrorRecorded(Event):
    """A run, or one of its tasks, failed for this reason."""

    type: ClassVar[str] = "quantflow.run.error_recorded"

    run_id: Name
    error: ErrorDetail


class LanguageModelCalled(Event):
    """One call of a language model, failures included, exactly as sent and answered."""

    type: ClassVar[str] = "quantflow.llm.called"

    run_id: Name
    node: str
    backend: str
    language_model: str
    request_hash: Sha256
    messages: tuple[dict[str, JsonValue], ...]
    json_schema: dict[str, JsonValue] | None = None
    outcome: Literal["ok", "unparsable", "timeout", "unavailable", "error"]
    response: str | None = None
    error: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    duration_s: float = Field(ge=0)


class ProposalMade(Event):
    """The graph ended in this proposal."""

    type: ClassVar[str] = "quantflow.proposal.made"

    proposal: Proposal
    proposal_hash: Sha256


class VerdictGiven(Event):
    """The risk officer judged a proposal."""

    type: ClassVar[str] = "quantflow.verdict.given"

    run_id: Name
    verdict: Verdict
    verdict_hash: Sha256


class ApprovalRequested(Event):
    """A person of this role must answer for exactly this proposal and verdict."""

    type: ClassVar[str] = "quantflow.approval.requested"

    run_id: Name
    proposal_hash: Sha256
    verdict_hash: Sha256
    role: str
    expires_at: Utc


class ApprovalGiven(Event):
    """The approval, or refusal, of one exact proposal and verdict."""

    type: ClassVar[str] = "quantflow.approval.given"

    run_id: Name
    approval: Approval
    approval_hash: Sha256


class DecisionMade(Event):
    """A decision; published to the topic ``decisions``."""

    type: ClassVar[str] = "quantflow.decision.made"

    decision: Decision


class WorkflowResult(Event):
    """A workflow's outcome; published to the topic ``workflow.results``."""

    type: ClassVar[str] = "quantflow.workflow.result"

    run_id: Name
    parent_run_id: Name | None = None
    state: Literal["succeeded", "failed", "cancelled"]
    result: dict[str, JsonValue] = Field(default_factory=dict)
    error: ErrorDetail | None = None


class PipelinePromoted(Event):
    """A pipeline version became the one that new runs use."""

    type: ClassVar[str] = "quantflow.pipeline.promoted"

    pipeline: Name
    version_id: Sha256
    number: int = Field(ge=1)
    owner: str
    promoted_by: str


class MarketBar(Event):
    """One bar on a market topic, keyed by symbol. Prices in the quote currency, volume in shares.

    ``timestamp`` is the close of the exchange session; ``known_at`` is when the bar became
    knowable. ``open``, ``high``, ``low`` and ``volume`` are null where the source has none.
    """

    type: ClassVar[str] = "quantflow.market.bar"

    symbol: Symbol
    frequency: str
    session: date
    timestamp: Utc
    open: float | None = None
    high: float | None = None
    low: float | None = None
    close: float
    volume: float | None = None
    known_at: Utc
    adjustment: Literal["raw", "splits", "splits_and_dividends"]
    source: str


def _all_event_types(base: type[Event]) -> dict[str, type[Event]]:
    return {kind.type: kind for kind in base.__subclasses__()}


#: Every event type by its type name.
EVENT_TYPES: dict[str, type[Event]] = _all_event_types(Event)
