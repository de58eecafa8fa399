"""Topics carry every setting that quantflow relies on."""

from __future__ import annotations

import pytest

from quantflow.errors import TransportError
from quantflow.events.topics import Topics
from quantflow.testing.memory import MemoryTransport

TOPICS = Topics("t.")
SPECS = {spec.name: spec for spec in TOPICS.specs()}


@pytest.mark.parametrize("name", [*TOPICS.market_topics, TOPICS.audit_heads])
def test_market_data_and_audit_heads_are_kept_for_ever(name: str) -> None:
    assert SPECS[name].settings["retention.ms"] == "-1"


@pytest.mark.parametrize("name", TOPICS.market_topics)
def test_replayed_history_is_dated_by_the_broker(name: str) -> None:
    assert SPECS[name].settings["message.timestamp.type"] == "LogAppendTime"
    assert SPECS[name].partitions == 4


def test_every_topic_has_a_dead_letter_topic_that_takes_its_largest_record() -> None:
    originals = [name for name in SPECS if not name.endswith(".dlq")]
    for name in originals:
        dead = SPECS[TOPICS.dead_letter(name)]
        assert int(dead.settings["max.message.bytes"]) > int(SPECS[name].settings["max.message.bytes"])


def test_topics_accept_more_than_consumers_so_that_oversized_events_become_dead_letters() -> None:
    large = Topics(max_event_bytes=5_000_000)
    assert all(int(spec.settings["max.message.bytes"]) > 5_000_000 for spec in large.specs())


def test_names_carry_the_prefix() -> None:
    assert TOPICS.requests == "t.workflow.requests"
    assert TOPICS.market_bars("1d") == "t.market.bars.1d"
    assert TOPICS.group("dispatcher") == "t.dispatcher"


def test_a_topic_is_found_by_either_name() -> None:
    assert TOPICS.resolve("decisions") == TOPICS.resolve("t.decisions") == "t.decisions"
    with pytest.raises(TransportError, match=r"unknown topic 'orders'; known: .*t\.decisions"):
        TOPICS.resolve("orders")


def test_ensuring_all_topics_makes_them() -> None:
    admin = MemoryTransport().admin()
    TOPICS.ensure_all(admin)
    TOPICS.ensure_all(admin)
    assert admin.partitions(TOPICS.market_bars()) == 4
    assert admin.partitions(TOPICS.dead_letter(TOPICS.requests)) == 1
