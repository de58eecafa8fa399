"""Every topic by name, with every setting of it that we rely on."""

from __future__ import annotations

from dataclasses import dataclass

from quantflow.errors import TransportError
from quantflow.events.transport import Admin, TopicSpec

__all__ = ["DEAD_LETTER_SUFFIX", "TopicSpec", "Topics"]

DEAD_LETTER_SUFFIX = ".dlq"
MARKET_PARTITIONS = 4
WORKFLOW_PARTITIONS = 2

_DAY_MS = 86_400_000
_FOR_EVER = {"retention.ms": "-1", "retention.bytes": "-1"}


@dataclass(frozen=True)
class Topics:
    """The names of all topics under one prefix.

    Parameters
    ----------
    prefix
        Put before every topic and group name (``Settings.topic_prefix``).
    frequencies
        Bar frequencies that have a market topic.
    max_event_bytes
        Largest event that consumers accept (``Settings.max_event_bytes``).
    """

    prefix: str = ""
    frequencies: tuple[str, ...] = ("1d",)
    max_event_bytes: int = 900_000

    @property
    def requests(self) -> str:
        """Asked-for runs, keyed by run id."""
        return f"{self.prefix}workflow.requests"

    @property
    def results(self) -> str:
        """Outcomes of runs, keyed by run id."""
        return f"{self.prefix}workflow.results"

    @property
    def decisions(self) -> str:
        """Decisions, keyed by pipeline."""
        return f"{self.prefix}decisions"

    @property
    def audit_heads(self) -> str:
        """Heads of the event log's hash chain."""
        return f"{self.prefix}audit.heads"

    @property
    def market_ticks(self) -> str:
        """Ticks, keyed by symbol."""
        return f"{self.prefix}market.ticks"

    def market_bars(self, frequency: str = "1d") -> str:
        """Bars of one frequency, keyed by symbol."""
        return f"{self.prefix}market.bars.{frequency}"

    def dead_letter(self, topic: str) -> str:
        """Return the topic that keeps what consumers of ``topic`` could not handle."""
        return f"{topic}{DEAD_LETTER_SUFFIX}"

    def group(self, name: str) -> str:
        """Return the consumer group of that name."""
        return f"{self.prefix}{name}"

    @property
    def outbox_topics(self) -> tuple[str, ...]:
        """Topics that only the outbox relay writes to."""
        return (self.requests, self.results, self.decisions, self.audit_heads)

    @property
    def market_topics(self) -> tuple[str, ...]:
        """Topics of market data."""
        return (self.market_ticks, *(self.market_bars(frequency) for frequency in self.frequencies))

    def resolve(self, name: str) -> str:
        """Return the full name of a topic given by its full or unprefixed name.

        Raises
        ------
        TransportError
            Not one of these topics.
        """
        known = {*self.outbox_topics, *self.market_topics}
        for candidate in (name, f"{self.prefix}{name}"):
            if candidate in known:
                return candidate
        raise TransportError(f"unknown topic {name!r}; known: {', '.join(sorted(known))}")

    def specs(self) -> tuple[TopicSpec, ...]:
        """Return every topic, dead-letter topics included."""
        largest = str(max(1_048_588, 2 * self.max_event_bytes))
        plain = {"cleanup.policy": "delete", "max.message.bytes": largest}
        # Replayed history carries old event times: with CreateTime, retention would delete it at once.
        market = {**plain, **_FOR_EVER, "message.timestamp.type": "LogAppendTime"}
        workflow = {**plain, "retention.ms": str(90 * _DAY_MS)}
        specs = [TopicSpec(name, MARKET_PARTITIONS, market) for name in self.market_topics]
        specs += [
            TopicSpec(self.requests, WORKFLOW_PARTITIONS, workflow),
            TopicSpec(self.results, WORKFLOW_PARTITIONS, workflow),
            TopicSpec(self.decisions, WORKFLOW_PARTITIONS, {**plain, **_FOR_EVER}),
            TopicSpec(self.audit_heads, 1, {**plain, **_FOR_EVER}),
        ]
        return (*specs, *(self._dead_letter_spec(spec) for spec in specs))

    def ensure_all(self, admin: Admin) -> None:
        """Make every topic and give it its settings; safe to call again."""
        admin.ensure_topics(self.specs())

    def _dead_letter_spec(self, spec: TopicSpec) -> TopicSpec:
        # A dead letter is the original record and its reason: it must always fit.
        largest = int(spec.settings["max.message.bytes"]) + 1_000_000
        settings = {"cleanup.policy": "delete", **_FOR_EVER, "max.message.bytes": str(largest)}
        return TopicSpec(self.dead_letter(spec.name), 1, settings)
