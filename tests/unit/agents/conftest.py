"""A desk on planted returns: what its nodes see is known, so what must come out is known."""

import io
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from langgraph.checkpoint.memory import InMemorySaver

from quantflow.agents import DeskContext, DeskRequest, MemoryJournal, build_desk, run_desk
from quantflow.testing.llm import ScriptedLanguageModel

NOW = datetime(2026, 1, 5, 21, 0, tzinfo=UTC)
CALM = {"max_position": 0.5, "max_gross": 1.0, "max_var": 0.05}


class Desk:
    """One run's surroundings; ``run`` may be called again, as a worker does after a crash."""

    def __init__(self, replies, *, weights, drift, noise=0.005, limits=None, **request):
        self.returns = planted(drift, noise)
        buffer = io.BytesIO()
        self.returns.write_parquet(buffer)
        self.language_model = replies if hasattr(replies, "complete") else ScriptedLanguageModel(replies)
        self.journal = MemoryJournal()
        self.checkpointer = InMemorySaver()
        self.request = DeskRequest(
            pipeline="momentum",
            version_id="a" * 64,
            base_weights=weights,
            returns_blob="b" * 64,
            limits=limits or CALM,
            **request,
        )
        self.context = DeskContext(
            run_id="run-1.desk",
            as_of=NOW,
            request=self.request,
            language_model=self.language_model,
            read_blob=lambda sha: buffer.getvalue(),
            journal=self.journal,
            timeout_s=1,
            now=lambda: NOW,
        )

    def run(self, build=build_desk, approval=None):
        return run_desk(build, self.context, checkpointer=self.checkpointer, approval=approval)

    def events(self, kind):
        return [event for event in self.journal.events.values() if isinstance(event, kind)]


def planted(drift, noise, sessions=300, symbols=("AAA", "BBB")):
    """Daily returns that drift by a known amount a session; noise is an exact alternation, not chance."""
    alternating = noise * np.where(np.arange(sessions) % 2 == 0, 1.0, -1.0)
    days = [date(2025, 1, 1) + timedelta(days=day) for day in range(sessions)]
    return pl.DataFrame({"session": days, **dict.fromkeys(symbols, drift + alternating)})


@pytest.fixture
def desk():
    """Makes desks and checks at the end that every scripted step was used."""
    made = []

    def make(replies=(), **options):
        made.append(Desk(replies, **{"weights": {"AAA": 0.3, "BBB": 0.2}, "drift": 0.002, **options}))
        return made[-1]

    yield make
    for each in made:
        if isinstance(each.language_model, ScriptedLanguageModel):
            each.language_model.check()
