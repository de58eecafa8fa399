"""The envelope: bytes in, the same event out; anything else is refused with a reason."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.errors import EventDecodeError, EventError
from quantflow.events import envelope as envelopes
from quantflow.events.envelope import Envelope, caused_by, decode, derived_id, encode, new_id, wrap
from quantflow.events.types import ErrorDetail, RunErrorRecorded, RunRequested, RunStateObserved
from quantflow.telemetry import correlation

AS_OF = datetime(2022, 12, 28, 21, tzinfo=UTC)

# What JSON can hold: any Unicode text, numbers that a double holds.
texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
attributes = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=50)
moments = st.datetimes(
    datetime(1990, 1, 1),
    datetime(2100, 1, 1),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11))]),
)
requests = st.builds(
    RunRequested,
    run_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,40}", fullmatch=True),
    workflow_id=st.just("momentum"),
    workflow_type=st.sampled_from(["airflow", "langgraph"]),
    parameters=st.dictionaries(texts, json_values, max_size=3),
    as_of=moments,
    requested_by=texts,
)


def request(**changes: Any) -> RunRequested:
    values = {"run_id": "r1", "workflow_id": "momentum", "workflow_type": "airflow", "as_of": AS_OF} | changes
    return RunRequested(requested_by="test", **values)


def wire(**changes: Any) -> bytes:
    return json.dumps(json.loads(encode(wrap(request(), subject="run-r1"))) | changes).encode()


@given(event=requests, subject=attributes, time=moments, cause=st.none() | attributes)
def test_decoding_an_encoded_envelope_gives_it_back(
    event: RunRequested, subject: str, time: datetime, cause: str | None
) -> None:
    sent = wrap(event, subject=subject, time=time, causation_id=cause, correlation_id="c", traceparent="00-a-b-01")
    got = decode(encode(sent))
    assert got == sent
    assert encode(got) == encode(sent)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_other_bytes_are_an_event_decode_error(value: bytes) -> None:
    with pytest.raises(EventDecodeError):
        decode(value)


def test_a_tombstone_is_an_event_decode_error() -> None:
    with pytest.raises(EventDecodeError, match="empty record"):
        decode(None)


def test_an_unknown_type_names_the_known_ones() -> None:
    with pytest.raises(EventDecodeError, match=r"unknown event type 'quantflow\.nonsense'.*quantflow\.run\.requested"):
        decode(wire(type="quantflow.nonsense"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"specversion": "0.3"}, "specversion is '0.3'"),
        ({"id": ""}, "id is empty"),
        ({"id": "a\x00b"}, "id is .*without control characters"),
        ({"subject": "x" * 501}, "subject is .*500 characters"),
        ({"time": "yesterday"}, "time is 'yesterday'.*RFC 3339"),
        ({"time": "2022-12-28T21:00:00"}, "no offset"),
        ({"data": {"run_id": "r1"}}, "workflow_id is .*Field required.*more"),
        ({"data": {}}, "Field required"),
        ({"dataversion": 2}, "has version 2; this program knows up to 1: update quantflow"),
        ({"dataversion": 0}, "version 0 is no longer read"),
        ({"dataversion": "1"}, "not CloudEvents JSON"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(EventDecodeError, match=problem):
        decode(wire(**changes))


def test_numbers_that_are_not_finite_are_refused() -> None:
    for token in (b"NaN", b"Infinity", b"1e999"):
        bad = encode(wrap(request(parameters={"x": 7.25}), subject="run-r1")).replace(b"7.25", token)
        with pytest.raises(EventDecodeError):
            decode(bad)


def test_an_unknown_field_of_the_data_is_refused_and_an_extension_attribute_ignored() -> None:
    data = json.loads(wire())["data"]
    with pytest.raises(EventDecodeError, match="surprise"):
        decode(wire(data=data | {"surprise": 1}))
    assert decode(wire(someextension="x")).data == request()


def test_deeply_nested_json_is_refused_not_fatal() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(EventDecodeError):
        decode(deep)
    with pytest.raises(EventDecodeError):
        decode(wire().replace(b'"parameters": {}', b'"parameters": {"x": ' + deep + b"}"))


def test_text_that_is_not_unicode_cannot_be_encoded() -> None:
    detail = ErrorDetail.model_construct(kind="x", message="\ud800", **dict.fromkeys(
        ("task_id", "cell", "source", "traceback", "artifact")
    ))  # fmt: skip
    event = RunErrorRecorded.model_construct(run_id="r1", error=detail)
    with pytest.raises(EventError):
        encode(wrap(event, subject="run-r1"))


def test_the_wire_is_cloudevents_json() -> None:
    sent = json.loads(encode(wrap(request(), subject="run-r1", event_id="e1", time=AS_OF, traceparent="00-1-2-01")))
    data = sent.pop("data")
    assert sent == {
        "specversion": "1.0",
        "id": "e1",
        "type": "quantflow.run.requested",
        "source": "quantflow",
        "subject": "run-r1",
        "time": "2022-12-28T21:00:00.000000Z",
        "datacontenttype": "application/json",
        "dataversion": 1,
        "correlationid": "e1",
        "traceparent": "00-1-2-01",
    }
    assert data["run_id"] == "r1"


def test_older_versions_are_lifted_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunStateObserved, "version", 3)
    monkeypatch.setitem(envelopes.UPCASTERS, (RunStateObserved.type, 1), lambda data: data | {"origin": "listener"})
    monkeypatch.setitem(envelopes.UPCASTERS, (RunStateObserved.type, 2), lambda data: data | {"detail": "lifted"})
    old = {"run_id": "r1", "engine": "airflow", "state": "queued", "observed_at": "2022-12-28T21:00:00Z"}
    lifted = decode(wire(type=RunStateObserved.type, data=old)).data
    assert isinstance(lifted, RunStateObserved)
    assert (lifted.origin, lifted.detail) == ("listener", "lifted")


def test_context_flows_into_the_envelope_and_on_to_what_it_causes() -> None:
    with correlation("request-1", "00-11111111111111111111111111111111-2222222222222222-01"):
        first = wrap(request(), subject="run-r1")
    assert first.correlation_id == "request-1"
    with caused_by(first):
        second = wrap(request(), subject="run-r1")
    assert (second.correlation_id, second.causation_id) == ("request-1", first.id)
    assert second.traceparent == first.traceparent
    assert wrap(request(), subject="run-r1").causation_id is None


def test_without_context_an_event_starts_its_own_correlation() -> None:
    alone = wrap(request(), subject="run-r1")
    assert alone.correlation_id == alone.id


def test_new_ids_sort_by_the_time_they_were_made() -> None:
    first, second = new_id(), new_id()
    assert uuid.UUID(first).version == 7
    assert uuid.UUID(first).variant == uuid.RFC_4122
    assert first[:13] <= second[:13]
    assert first != second


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_derived_ids_agree_exactly_when_their_parts_do(left: list[str], right: list[str]) -> None:
    assert (derived_id(*left) == derived_id(*right)) == (left == right)


def test_an_envelope_cannot_be_edited() -> None:
    sealed: Envelope = wrap(request(), subject="run-r1")
    with pytest.raises(AttributeError):
        sealed.id = "other"  # type: ignore[misc]
