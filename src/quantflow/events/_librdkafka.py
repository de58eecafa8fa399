"""The transport through librdkafka."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin

from quantflow.errors import TransportError
from quantflow.events.transport import (
    MAX_REQUEST_BYTES,
    Isolation,
    Message,
    ReceivedRecord,
    TopicPartitionOffset,
    TopicSpec,
)

__all__ = ["RdAdmin", "RdConsumer", "RdProducer"]

# Its type stubs miss names and make every field of a message optional.
_admin_api: Any = confluent_kafka.admin

_native_log = logging.getLogger("quantflow.kafka")

_OFFSET_UNKNOWN = -1001
_ANY_PARTITION = -1
_SERVE_EVERY = 500
_READER_GROUP = "quantflow-reader"
_ADMIN_TIMEOUT_S = 15.0
_LEADER_TIMEOUT_S = 10.0

_FAILURES = (ck.KafkaException, TimeoutError, RuntimeError, ValueError, TypeError)
_LEADERLESS = frozenset({ck.KafkaError.NOT_LEADER_FOR_PARTITION, ck.KafkaError.LEADER_NOT_AVAILABLE})

#: Outages: the client reconnects on its own, so polling goes on.
_PASSING = frozenset(
    {
        ck.KafkaError._ALL_BROKERS_DOWN,
        ck.KafkaError._TRANSPORT,
        ck.KafkaError._RESOLVE,
        ck.KafkaError._TIMED_OUT,
        ck.KafkaError._MSG_TIMED_OUT,
        ck.KafkaError._WAIT_COORD,
    }
)


class RdProducer:
    """An idempotent producer; transactional with a transactional id."""

    def __init__(self, bootstrap: str, transactional_id: str | None) -> None:
        self._bootstrap = bootstrap
        self._failure: ck.KafkaError | None = None
        self._unserved = 0
        config = _common(bootstrap) | {
            "enable.idempotence": True,
            "acks": "all",
            # As in Java and kafka-python: the same key goes to the same partition whoever sends it.
            "partitioner": "murmur2_random",
            "linger.ms": 2,
            "message.max.bytes": MAX_REQUEST_BYTES,
            "queue.buffering.max.messages": 500_000,
            "queue.buffering.max.kbytes": 262_144,
            "delivery.timeout.ms": 60_000,
            "delivery.report.only.error": True,
            "on_delivery": self._delivered,
        }
        if transactional_id is not None:
            config |= {"transactional.id": transactional_id, "transaction.timeout.ms": 60_000}
        with self._translated("make a producer"):
            self._producer = ck.Producer(config, logger=_native_log)
            if transactional_id is not None:
                self._producer.init_transactions(_ADMIN_TIMEOUT_S)

    def send(self, message: Message) -> None:
        """Queue a record; a failure is raised by a later ``send``, ``flush`` or ``commit``."""
        # The hot path of a replay: no context manager, and callbacks served only now and then.
        topic, value, key, headers, partition = message
        self._unserved += 1
        try:
            if self._unserved >= _SERVE_EVERY:
                self._unserved = 0
                self._producer.poll(0)
            if self._failure is not None:
                self._check()
            while True:
                try:
                    self._producer.produce(topic, value, key, _ANY_PARTITION if partition is None else partition,
                                           headers=list(headers))  # fmt: skip
                    return
                except BufferError:
                    self._producer.poll(0.1)
                    self._check()
        except (ck.KafkaException, TypeError, ValueError) as exc:
            raise _error(self._bootstrap, f"send to {topic}", exc) from exc

    def flush(self, timeout_s: float = 30.0) -> None:
        """Return once the broker has every queued record."""
        with self._translated("flush"):
            left = self._producer.flush(timeout_s)
            self._check()
        if left:
            raise TransportError(f"{left} records not accepted by {self._bootstrap} within {timeout_s:.0f} s")

    def begin(self) -> None:
        """Start a transaction."""
        with self._translated("begin a transaction"):
            self._failure = None
            self._producer.begin_transaction()

    def commit(self, timeout_s: float = 30.0) -> None:
        """Make the transaction's records visible, all at once."""
        with self._translated("commit a transaction"):
            self._producer.commit_transaction(timeout_s)
            self._check()

    def abort(self) -> None:
        """Drop the transaction's records."""
        with self._translated("abort a transaction"):
            self._producer.abort_transaction(_ADMIN_TIMEOUT_S)
            self._failure = None

    def close(self) -> None:
        """Release everything; what was not flushed may be lost."""
        # A fenced producer cannot even be flushed.
        with suppress(ck.KafkaException):
            self._producer.purge()
            self._producer.flush(1.0)

    def _delivered(self, error: ck.KafkaError | None, _message: ck.Message) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    def _check(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise ck.KafkaException(failure)

    def _translated(self, action: str) -> AbstractContextManager[None]:
        return _translated(self._bootstrap, action)


class RdConsumer:
    """A consumer that commits only what it is told to."""

    def __init__(self, bootstrap: str, group: str | None, isolation: Isolation, session_timeout_s: float) -> None:
        self._bootstrap = bootstrap
        self._positions: dict[tuple[str, int], int] = {}
        config = _common(bootstrap) | {
            "group.id": group or _READER_GROUP,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "isolation.level": isolation,
            "session.timeout.ms": round(session_timeout_s * 1000),
            "heartbeat.interval.ms": round(session_timeout_s * 1000 / 5),
            "max.poll.interval.ms": 300_000,
            # An empty fetch waits so long at the broker; data ends the wait at once.
            "fetch.wait.max.ms": 100,
            "fetch.min.bytes": 1,
            "fetch.error.backoff.ms": 100,
            "fetch.message.max.bytes": 4_000_000,
            "queued.max.messages.kbytes": 65_536,
            # Tells the position behind transaction markers, see position().
            "enable.partition.eof": True,
        }
        with self._translated("make a consumer"):
            self._consumer = ck.Consumer(config, logger=_native_log)

    def subscribe(self, topics: Sequence[str]) -> None:
        """Read the partitions that the group gives to this member, from its committed offsets."""
        with self._translated("subscribe"):
            self._consumer.subscribe(list(topics), on_assign=self._forget, on_revoke=self._forget)

    def assign(self, places: Iterable[TopicPartitionOffset]) -> None:
        """Read exactly these partitions from these offsets."""
        wanted = list(places)
        with self._translated("assign"):
            self._positions = {(place.topic, place.partition): place.offset for place in wanted}
            self._consumer.assign([ck.TopicPartition(*place) for place in wanted])

    def poll(self, timeout_s: float = 1.0, max_records: int = 500) -> list[ReceivedRecord]:
        """Return up to ``max_records``, waiting at most ``timeout_s`` for the first.

        The end of a partition also ends the wait, once: who reads a slice need not wait it out.
        """
        with self._translated("poll"):
            # One message first: consume(n) would wait for n of them.
            messages = self._consumer.consume(1, timeout_s)
            if messages and max_records > 1:
                messages += self._consumer.consume(max_records - 1, 0)
            return list(self._records(messages))

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Keep the *next* offset to read of each partition."""
        places = [ck.TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        with self._translated("commit offsets"):
            for place in self._consumer.commit(offsets=places, asynchronous=False) or []:
                if place.error is not None:
                    raise ck.KafkaException(place.error)

    def committed(self, topic: str, partition: int) -> int | None:
        """Return the group's next offset, or None where it has none."""
        with self._translated("read committed offsets"):
            place = self._consumer.committed([ck.TopicPartition(topic, partition)], _ADMIN_TIMEOUT_S)[0]
            if place.error is not None:
                raise ck.KafkaException(place.error)
            return None if place.offset == _OFFSET_UNKNOWN else int(place.offset)

    def position(self, topic: str, partition: int) -> int | None:
        """Return the next offset that this consumer reads.

        librdkafka's own position only counts delivered records; the end-of-partition event also
        counts the markers behind them.
        """
        return self._positions.get((topic, partition))

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Go on reading at this offset."""
        with self._translated("seek"):
            self._consumer.seek(ck.TopicPartition(topic, partition, offset))
            self._positions[topic, partition] = offset

    def close(self) -> None:
        """Leave the group."""
        with self._translated("close the consumer"):
            self._consumer.close()

    def _records(self, messages: Iterable[Any]) -> Iterator[ReceivedRecord]:
        positions = self._positions
        for message in messages:
            error = message.error()
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            if error is None:
                positions[topic, partition] = offset + 1
                headers = message.headers()
                yield ReceivedRecord(
                    topic,
                    partition,
                    offset,
                    message.key(),
                    message.value(),
                    tuple((name, content or b"") for name, content in headers) if headers else (),
                    message.timestamp()[1],
                )
            elif error.code() == ck.KafkaError._PARTITION_EOF:
                positions[topic, partition] = max(offset, positions.get((topic, partition), 0))
            elif error.code() in _PASSING and not error.fatal():
                _native_log.warning("broker away: %s", error.str())
            else:
                raise ck.KafkaException(error)

    def _forget(self, _consumer: ck.Consumer, places: Sequence[ck.TopicPartition]) -> None:
        for place in places:
            self._positions.pop((place.topic, place.partition), None)

    def _translated(self, action: str) -> AbstractContextManager[None]:
        return _translated(self._bootstrap, action)


class RdAdmin:
    """The administration of topics."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        with self._translated("make an admin client"):
            self._admin = _admin_api.AdminClient(_common(bootstrap), logger=_native_log)

    def ping(self, timeout_s: float = 5.0) -> None:
        """Raise TransportError unless the broker answers."""
        with self._translated("ask for metadata"):
            self._admin.list_topics(timeout=timeout_s)

    def ensure_topics(self, specs: Iterable[TopicSpec]) -> None:
        """Make the topics that are missing and set the given settings on all of them."""
        wanted = list(specs)
        with self._translated("make topics"):
            present = self._admin.list_topics(timeout=_ADMIN_TIMEOUT_S).topics
            missing = [spec for spec in wanted if spec.name not in present]
            if missing:
                self._create(missing)
            existing = [spec for spec in wanted if spec.name in present and spec.settings]
            if existing:
                changes = self._admin.incremental_alter_configs([_config_resource(spec) for spec in existing])
                _results(changes)

    def partitions(self, topic: str) -> int:
        """Return the number of partitions."""
        with self._translated(f"look at topic {topic}"):
            found = self._admin.list_topics(topic, timeout=_ADMIN_TIMEOUT_S).topics[topic]
            if found.error is not None:
                raise ck.KafkaException(found.error)
            return len(found.partitions)

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """Return the first offset still kept, by partition."""
        return self._offsets(topic, _admin_api.OffsetSpec.earliest())

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Return the offset after the last committed record, by partition."""
        return self._offsets(topic, _admin_api.OffsetSpec.latest())

    def delete_topics(self, topics: Iterable[str]) -> None:
        """Delete topics with everything in them; unknown ones are ignored."""
        with self._translated("delete topics"):
            _results(self._admin.delete_topics(list(topics)), ignore=ck.KafkaError.UNKNOWN_TOPIC_OR_PART)

    def close(self) -> None:
        """Release everything."""

    def _create(self, missing: Sequence[TopicSpec]) -> None:
        created = self._admin.create_topics(
            [
                _admin_api.NewTopic(spec.name, spec.partitions, spec.replication, config=dict(spec.settings))
                for spec in missing
            ],
            operation_timeout=_ADMIN_TIMEOUT_S,
        )
        _results(created, ignore=ck.KafkaError.TOPIC_ALREADY_EXISTS)
        deadline = time.monotonic() + _LEADER_TIMEOUT_S
        while not self._all_led([spec.name for spec in missing]):
            if time.monotonic() > deadline:
                raise TimeoutError("the new topics have no leaders yet")
            time.sleep(0.05)

    def _all_led(self, names: Sequence[str]) -> bool:
        """Return whether every partition of these topics is ready to be used."""
        known = self._admin.list_topics(timeout=_ADMIN_TIMEOUT_S).topics
        return all(
            name in known and known[name].partitions and all(p.leader >= 0 for p in known[name].partitions.values())
            for name in names
        )

    def _offsets(self, topic: str, spec: Any) -> dict[int, int]:
        count = self.partitions(topic)
        deadline = time.monotonic() + _LEADER_TIMEOUT_S
        while True:
            try:
                return self._list_offsets(topic, count, spec)
            except ck.KafkaException as exc:
                # Right after a topic was made, or a broker came back, partitions have no leader yet.
                if exc.args[0].code() not in _LEADERLESS or time.monotonic() > deadline:
                    raise _error(self._bootstrap, f"list offsets of {topic}", exc) from exc
                time.sleep(0.05)

    def _list_offsets(self, topic: str, count: int, spec: Any) -> dict[int, int]:
        with _translated(self._bootstrap, f"list offsets of {topic}", (TimeoutError, ValueError)):
            asked = self._admin.list_offsets(
                {ck.TopicPartition(topic, partition): spec for partition in range(count)},
                isolation_level=ck.IsolationLevel.READ_COMMITTED,
                request_timeout=_ADMIN_TIMEOUT_S,
            )
            return {place.partition: int(future.result(_ADMIN_TIMEOUT_S).offset) for place, future in asked.items()}

    def _translated(self, action: str) -> AbstractContextManager[None]:
        return _translated(self._bootstrap, action)


def _common(bootstrap: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": bootstrap,
        "client.id": "quantflow",
        "socket.nagle.disable": True,
        "socket.keepalive.enable": True,
        "socket.connection.setup.timeout.ms": 5_000,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        "topic.metadata.refresh.interval.ms": 10_000,
        "allow.auto.create.topics": False,
        "error_cb": _note_error,
    }


def _note_error(error: ck.KafkaError) -> None:
    _native_log.warning("librdkafka: %s", error.str())


def _new_topic(spec: TopicSpec) -> Any:
    return _admin_api.NewTopic(spec.name, spec.partitions, spec.replication, config=dict(spec.settings))


def _config_resource(spec: TopicSpec) -> Any:
    put = _admin_api.AlterConfigOpType.SET
    entries = [_admin_api.ConfigEntry(*pair, incremental_operation=put) for pair in spec.settings.items()]
    return _admin_api.ConfigResource(_admin_api.ResourceType.TOPIC, spec.name, incremental_configs=entries)


def _results(futures: Mapping[Any, Any], ignore: int | None = None) -> None:
    for future in futures.values():
        try:
            future.result(_ADMIN_TIMEOUT_S)
        except ck.KafkaException as exc:
            if exc.args[0].code() != ignore:
                raise


@contextmanager
def _translated(bootstrap: str, action: str, failures: tuple[type[Exception], ...] = _FAILURES) -> Iterator[None]:
    try:
        yield
    except failures as exc:
        raise _error(bootstrap, action, exc) from exc


def _error(bootstrap: str, action: str, exc: Exception) -> TransportError:
    error = exc.args[0] if exc.args else exc
    reason = error.str() if isinstance(error, ck.KafkaError) else str(error) or type(exc).__name__
    return TransportError(f"could not {action} at {bootstrap}: {reason}")
