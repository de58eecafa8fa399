"""What a report is made of: recorded outputs and events, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from quantflow.events.types import (
    Approval,
    ApprovalGiven,
    Decision,
    DecisionMade,
    Event,
    LanguageModelCalled,
    NodeCompleted,
    Proposal,
    ProposalMade,
    TopicSlice,
    Verdict,
    VerdictGiven,
)
from quantflow.notebooks.manifest import Manifest

if TYPE_CHECKING:
    import polars as pl

    from quantflow.events.runs import RunView

__all__ = ["LanguageModelUse", "RunReport"]


@dataclass(frozen=True)
class LanguageModelUse:
    """The calls of one language model by one node. Tokens are None where a backend does not count."""

    node: str
    backend: str
    language_model: str
    calls: int
    outcomes: Mapping[str, int]
    input_tokens: int | None
    output_tokens: int | None
    duration_s: float


@dataclass(frozen=True)
class RunReport:
    """Everything that :func:`~quantflow.notebooks.render_report` shows; absent parts are None or empty.

    Attributes
    ----------
    run
        The run as the log tells it.
    version_number, version_files, owner, description
        Of the promoted version.
    parameters
        The value of every parameter.
    metrics
        Figures of the backtest by name.
    target_weights
        What the signal asks for: signed fractions of equity.
    equity, exposures
        Frames as the momentum notebook records them.
    slices, bars
        Offset ranges that were read, and facts about what they held (``rows``, ``digest``, …).
    desk_run_id
        Run of the agents.
    commands
        What to do next: (what it does, command).
    generated_at
        When the page was made, UTC.
    """

    run: RunView
    generated_at: datetime
    version_number: int | None = None
    version_files: Mapping[str, str] | None = None
    owner: str | None = None
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    metrics: Mapping[str, float | None] | None = None
    target_weights: Mapping[str, float] | None = None
    as_of_session: str | None = None
    assumptions: tuple[str, ...] = ()
    equity: pl.DataFrame | None = None
    exposures: pl.DataFrame | None = None
    proposal: Proposal | None = None
    verdict: Verdict | None = None
    approval: Approval | None = None
    decision: Decision | None = None
    nodes: tuple[NodeCompleted, ...] = ()
    language_model_use: tuple[LanguageModelUse, ...] = ()
    slices: tuple[TopicSlice, ...] = ()
    bars: Mapping[str, Any] | None = None
    manifest: Manifest | None = None
    desk_run_id: str | None = None
    commands: tuple[tuple[str, str], ...] = ()

    @classmethod
    def build(
        cls,
        *,
        run: RunView,
        outputs: Mapping[str, Any] | None = None,
        artifacts: Mapping[str, str | Path] | None = None,
        desk_events: Iterable[Event] = (),
        slices: Sequence[TopicSlice] = (),
        bars: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        version_number: int | None = None,
        version_files: Mapping[str, str] | None = None,
        owner: str | None = None,
        description: str | None = None,
        desk_run_id: str | None = None,
        commands: Sequence[tuple[str, str]] = (),
        generated_at: datetime | None = None,
    ) -> Self:
        """Return the report of a run from what it left behind.

        Parameters
        ----------
        run
            The run's view.
        outputs, artifacts
            Of the notebook run (:class:`~quantflow.notebooks.NotebookRun`); None when no
            notebook ran.
        desk_events
            Events of the agents' run, oldest first: proposal, verdict, approval and decision,
            finished nodes and calls of language models are taken from them.
        slices, bars
            What the run read; ``bars`` is what the first task returned.
        generated_at
            Default: now.
        """
        recorded, files = dict(outputs or {}), dict(artifacts or {})
        metrics = {
            name.removeprefix("metrics."): value for name, value in recorded.items() if name.startswith("metrics.")
        }
        manifest = _manifest(files.get("manifest"))
        events = tuple(desk_events)
        return cls(
            run=run,
            generated_at=generated_at or datetime.now(UTC),
            version_number=version_number,
            version_files=version_files,
            owner=owner,
            description=description,
            parameters=parameters if parameters is not None else (manifest.parameters if manifest else None),
            metrics=metrics or None,
            target_weights=recorded.get("target_weights"),
            as_of_session=recorded.get("as_of_session"),
            assumptions=tuple(recorded.get("assumptions") or ()),
            equity=_frame(files.get("equity")),
            exposures=_frame(files.get("exposures")),
            slices=tuple(slices),
            bars=bars,
            manifest=manifest,
            desk_run_id=desk_run_id,
            commands=tuple(commands),
            **_records(events),
        )


def _records(events: Sequence[Event]) -> dict[str, Any]:
    """Return the last record of each kind, the nodes in their order, and the language models' use."""
    records: dict[str, Any] = {}
    for event in events:
        match event:
            case ProposalMade():
                records["proposal"] = event.proposal
            case VerdictGiven():
                records["verdict"] = event.verdict
            case ApprovalGiven():
                records["approval"] = event.approval
            case DecisionMade():
                records["decision"] = event.decision
    nodes = sorted((event for event in events if isinstance(event, NodeCompleted)), key=lambda node: node.index)
    calls = [event for event in events if isinstance(event, LanguageModelCalled)]
    return records | {"nodes": tuple(nodes), "language_model_use": tuple(_use(calls))}


def _use(calls: Sequence[LanguageModelCalled]) -> Iterable[LanguageModelUse]:
    groups: dict[tuple[str, str, str], list[LanguageModelCalled]] = {}
    for call in calls:
        groups.setdefault((call.node, call.backend, call.language_model), []).append(call)
    for (node, backend, language_model), made in groups.items():
        outcomes: dict[str, int] = {}
        for call in made:
            outcomes[call.outcome] = outcomes.get(call.outcome, 0) + 1
        yield LanguageModelUse(
            node=node,
            backend=backend,
            language_model=language_model,
            calls=len(made),
            outcomes=outcomes,
            input_tokens=_total([call.input_tokens for call in made]),
            output_tokens=_total([call.output_tokens for call in made]),
            duration_s=sum(call.duration_s for call in made),
        )


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _frame(path: str | Path | None) -> pl.DataFrame | None:
    if path is None or not Path(path).exists():
        return None
    import polars as pl

    return pl.read_parquet(path)


def _manifest(path: str | Path | None) -> Manifest | None:
    if path is None or not Path(path).exists():
        return None
    return Manifest.model_validate_json(Path(path).read_bytes())
