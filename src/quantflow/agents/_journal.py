"""Where a run's events are recorded under names, so that doing a thing twice records it once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from quantflow.events.envelope import derived_id
from quantflow.events.records import Draft
from quantflow.events.runs import run_stream
from quantflow.events.types import Event

if TYPE_CHECKING:
    from quantflow.events._database import Connection
    from quantflow.events.log import EventLog

__all__ = ["Journal", "LogJournal", "MemoryJournal"]


class Journal(Protocol):
    """The events of one run by name. A name is recorded once; whoever is second gets the first's event."""

    def recall(self, name: str) -> Event | None:
        """Return the event of that name, or None."""
        ...

    def record(self, name: str, event: Event) -> Event:
        """Record the event unless the name has one; return the one that is recorded."""
        ...


class MemoryJournal:
    """A journal for a notebook or a test: nothing outlives it. ``events`` holds them in order."""

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}

    def recall(self, name: str) -> Event | None:
        return self.events.get(name)

    def record(self, name: str, event: Event) -> Event:
        return self.events.setdefault(name, event)


class LogJournal:
    """A journal in the event log: ids follow from run and name, so a repeat adds nothing.

    Parameters
    ----------
    transaction
        Opens the transaction that an event is appended in; a worker's checks its lease there, so
        that one who lost it can write nothing.
    """

    def __init__(
        self, log: EventLog, run_id: str, transaction: Callable[[], AbstractContextManager[Connection]] | None = None
    ) -> None:
        self._log = log
        self._run_id = run_id
        self._transaction = transaction or log.transaction
        self._known: dict[str, Event] = {
            stored.envelope.id: stored.event for stored in log.read_stream(run_stream(run_id))
        }

    def recall(self, name: str) -> Event | None:
        return self._known.get(derived_id(self._run_id, name))

    def record(self, name: str, event: Event) -> Event:
        event_id = derived_id(self._run_id, name)
        if event_id in self._known:
            return self._known[event_id]
        with self._transaction() as connection:
            stored = self._log.append(
                run_stream(self._run_id), [Draft(event, event_id=event_id)], connection=connection
            )
        self._known[event_id] = stored[0].event
        return self._known[event_id]
