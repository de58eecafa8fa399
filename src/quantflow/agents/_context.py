"""What belongs to one run and never to its state: how to read, to ask and to record."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

import polars as pl

from quantflow.agents._journal import Journal
from quantflow.agents.request import DeskRequest
from quantflow.errors import GraphError
from quantflow.events.types import LanguageModelCalled
from quantflow.llm import Answer, LanguageModel, Usage, ask, parse_answer, request_hash
from quantflow.llm._answers import ChatMessage, SchemaT

__all__ = ["DeskContext"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class DeskContext:
    """LangGraph's runtime context of one run.

    Parameters
    ----------
    read_blob
        Returns a blob's bytes by its SHA-256.
    journal
        Where events of this run are recorded under names that make a repeat harmless.
    nodes_total
        Number of nodes of the graph, for progress.
    """

    run_id: str
    as_of: datetime
    request: DeskRequest
    language_model: LanguageModel
    read_blob: Callable[[str], bytes]
    journal: Journal
    timeout_s: float = 60.0
    nodes_total: int = 1
    now: Callable[[], datetime] = field(default=_utc_now)

    @cached_property
    def returns(self) -> pl.DataFrame:
        """Simple returns, wide: ``session`` and one column per symbol; nothing after ``as_of``."""
        frame = pl.read_parquet(io.BytesIO(self.read_blob(self.request.returns_blob)))
        if "session" not in frame.columns:
            raise GraphError(f"the returns frame has no column 'session', only {frame.columns}")
        late = frame.filter(pl.col("session") > self.as_of.date()).height
        if late:
            raise GraphError(f"the returns frame holds {late} sessions after as_of {self.as_of.isoformat()}")
        return frame

    def ask(self, node: str, messages: Sequence[ChatMessage], schema: type[SchemaT]) -> Answer[SchemaT]:
        """Return the answer to a node's question, from the journal if it was answered before.

        A node that runs again after a crash gets the recorded answer, so what follows agrees with
        what is in the log, and no call is paid for twice.
        """
        sent = tuple(dict(message) for message in messages)
        digest = request_hash(self.language_model, sent, schema.model_json_schema())
        name = f"llm/{node}/{digest}"
        recorded = self.journal.recall(name)
        if not isinstance(recorded, LanguageModelCalled):
            answer = ask(self.language_model, sent, schema, timeout_s=self.timeout_s)
            recorded = self.journal.record(name, _called(self.run_id, node, answer))
        if not isinstance(recorded, LanguageModelCalled):
            raise GraphError(f"the log holds a {recorded.type} where node {node!r} recorded its call")
        return _answer(recorded, schema)


def _called(run_id: str, node: str, answer: Answer[SchemaT]) -> LanguageModelCalled:
    return LanguageModelCalled(
        run_id=run_id,
        node=node,
        backend=answer.backend,
        language_model=answer.language_model,
        request_hash=answer.request_hash,
        messages=tuple(dict(message) for message in answer.messages),
        json_schema=answer.json_schema,
        outcome=answer.outcome,
        response=answer.text,
        error=answer.error,
        input_tokens=answer.usage.input_tokens,
        output_tokens=answer.usage.output_tokens,
        duration_s=answer.duration_s,
    )


def _answer(called: LanguageModelCalled, schema: type[SchemaT]) -> Answer[SchemaT]:
    value = parse_answer(called.response or "", schema)[0] if called.outcome == "ok" else None
    return Answer(
        value=value,
        outcome=called.outcome,
        backend=called.backend,
        language_model=called.language_model,
        request_hash=called.request_hash,
        messages=tuple({key: str(text) for key, text in message.items()} for message in called.messages),
        json_schema=dict(called.json_schema or {}),
        text=called.response,
        error=called.error,
        usage=Usage(called.input_tokens, called.output_tokens),
        duration_s=called.duration_s,
    )
