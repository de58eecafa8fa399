"""The transport through kafka-python."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from quantflow.errors import TransportError
from quantflow.events.transport import (
    MAX_REQUEST_BYTES,
    Isolation,
    Message,
    ReceivedRecord,
    TopicPartitionOffset,
    TopicSpec,
)

with warnings.catch_warnings():
    # kafka-python 3.0 reads its message schemas by a function that Python 3.11 and 3.12 call deprecated.
    warnings.filterwarnings("ignore", message="(read|open)_text is deprecated", category=DeprecationWarning)
    import kafka
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, OffsetSpec
    from kafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code
    from kafka.structs import OffsetAndMetadata, TopicPartition

__all__ = ["PyAdmin", "PyConsumer", "PyProducer"]

_TIMEOUT_MS = 15_000


class PyProducer:
    """An idempotent producer; transactional with a transactional id."""

    def __init__(self, bootstrap: str, transactional_id: str | None) -> None:
        self._bootstrap = bootstrap
        self._failure: Exception | None = None
        with self._translated("make a producer"):
            _reach(bootstrap)
            self._producer = kafka.KafkaProducer(
                **_common(bootstrap),
                # Said in so many words: an explicit acks=1 would silently switch idempotence off.
                enable_idempotence=True,
                acks="all",
                transactional_id=transactional_id,
                transaction_timeout_ms=60_000,
                max_request_size=MAX_REQUEST_BYTES,
                max_block_ms=_TIMEOUT_MS,
                delivery_timeout_ms=60_000,
                linger_ms=0 if transactional_id else 2,
            )
            if transactional_id is not None:
                self._producer.init_transactions()

    def send(self, message: Message) -> None:
        """Queue a record; a failure is raised by a later ``send``, ``flush`` or ``commit``."""
        topic, value, key, headers, partition = message
        with self._translated(f"send to {topic}"):
            self._check()
            future = self._producer.send(topic, value=value, key=key, headers=list(headers), partition=partition)
            future.add_errback(self._note)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Return once the broker has every queued record."""
        with self._translated("flush"):
            self._producer.flush(timeout=timeout_s)
            self._check()

    def begin(self) -> None:
        """Start a transaction."""
        with self._translated("begin a transaction"):
            self._failure = None
            self._producer.begin_transaction()

    def commit(self, timeout_s: float = 30.0) -> None:
        """Make the transaction's records visible, all at once."""
        with self._translated("commit a transaction"):
            self._producer.flush(timeout=timeout_s)
            self._check()
            self._producer.commit_transaction()

    def abort(self) -> None:
        """Drop the transaction's records."""
        with self._translated("abort a transaction"):
            self._producer.abort_transaction()
            self._failure = None

    def close(self) -> None:
        """Release everything; what was not flushed may be lost."""
        with suppress(KafkaError):
            self._producer.close(timeout=1.0)

    def _note(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure

    def _check(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _translated(self, action: str) -> AbstractContextManager[None]:
        return _translated(self._bootstrap, action)


class PyConsumer:
    """A consumer that commits only what it is told to."""

    def __init__(self, bootstrap: str, group: str | None, isolation: Isolation, session_timeout_s: float) -> None:
        self._bootstrap = bootstrap
        with self._translated("make a consumer"):
            _reach(bootstrap)
            self._consumer = kafka.KafkaConsumer(
                **_common(bootstrap),
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level=isolation,
                session_timeout_ms=round(session_timeout_s * 1000),
                heartbeat_interval_ms=round(session_timeout_s * 1000 / 5),
                max_poll_interval_ms=300_000,
                fetch_max_wait_ms=100,
                max_partition_fetch_bytes=4_000_000,
                allow_auto_create_topics=False,
            )

    def subscribe(self, topics: Sequence[str]) -> None:
        """Read the partitions that the group gives to this member, from its committed offsets."""
        with self._translated("subscribe"):
            for topic in topics:
                # A member that joins before it knows its topics is given nothing, and may stay so.
                if not self._consumer.partitions_for_topic(topic):
                    raise UnknownTopicOrPartitionError(topic)
            self._consumer.subscribe(list(topics))

    def assign(self, places: Iterable[TopicPartitionOffset]) -> None:
        """Read exactly these partitions from these offsets."""
        wanted = list(places)
        with self._translated("assign"):
            self._consumer.assign([TopicPartition(place.topic, place.partition) for place in wanted])
            for place in wanted:
                self._consumer.seek(TopicPartition(place.topic, place.partition), place.offset)

    def poll(self, timeout_s: float = 1.0, max_records: int = 500) -> list[ReceivedRecord]:
        """Return up to ``max_records``, waiting at most ``timeout_s`` for the first."""
        with self._translated("poll"):
            batches = self._consumer.poll(timeout_ms=round(timeout_s * 1000), max_records=max_records)
        return [_received(record) for records in batches.values() for record in records]

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Keep the *next* offset to read of each partition."""
        places = {
            TopicPartition(topic, partition): OffsetAndMetadata(offset, "", -1)
            for (topic, partition), offset in offsets.items()
        }
        with self._translated("commit offsets"):
            self._consumer.commit(places, timeout_ms=_TIMEOUT_MS)

    def committed(self, topic: str, partition: int) -> int | None:
        """Return the group's next offset, or None where it has none."""
        with self._translated("read committed offsets"):
            offset = self._consumer.committed(TopicPartition(topic, partition), timeout_ms=_TIMEOUT_MS)
        return None if offset is None or offset < 0 else int(offset)

    def position(self, topic: str, partition: int) -> int | None:
        """Return the next offset that this consumer reads."""
        with self._translated("ask for the position"):
            place = TopicPartition(topic, partition)
            if place not in self._consumer.assignment():
                return None
            offset = self._consumer.position(place, timeout_ms=_TIMEOUT_MS)
        return None if offset is None else int(offset)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Go on reading at this offset."""
        with self._translated("seek"):
            self._consumer.seek(TopicPartition(topic, partition), offset)

    def close(self) -> None:
        """Leave the group."""
        with self._translated("close the consumer"):
            self._consumer.close(autocommit=False, timeout_ms=5_000)

    def _translated(self, action: str) -> AbstractContextManager[None]:
        return _translated(self._bootstrap, action)


class PyAdmin:
    """The administration of topics."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._connected: Any = None

    @property
    def _admin(self) -> Any:
        # The client connects while it is made; the seam's admin must not fail before it is used.
        if self._connected is None:
            _reach(self._bootstrap)
            self._connected = KafkaAdminClient(**_common(self._bootstrap))
        return self._connected

    def ping(self, timeout_s: float = 5.0) -> None:
        """Raise TransportError unless the broker answers."""
        with self._translated("ask for metadata"):
            _reach(self._bootstrap, timeout_s)
            settings = _common(self._bootstrap) | {"bootstrap_timeout_ms": round(timeout_s * 1000)}
            with KafkaAdminClient(**settings) as client:
                client.list_topics()

    def ensure_topics(self, specs: Iterable[TopicSpec]) -> None:
        """Make the topics that are missing and set the given settings on all of them."""
        wanted = list(specs)
        with self._translated("make topics"):
            present = set(self._admin.list_topics())
            missing = [spec for spec in wanted if spec.name not in present]
            if missing:
                self._create(missing)
            existing = [spec for spec in wanted if spec.name in present and spec.settings]
            if existing:
                self._admin.alter_configs(
                    [ConfigResource(ConfigResourceType.TOPIC, spec.name, dict(spec.settings)) for spec in existing]
                )

    def partitions(self, topic: str) -> int:
        """Return the number of partitions."""
        with self._translated(f"look at topic {topic}"):
            found = self._admin.describe_topics([topic])[0]
            if found["error_code"]:
                raise for_code(found["error_code"])(topic)
            return len(found["partitions"])

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """Return the first offset still kept, by partition."""
        return self._offsets(topic, OffsetSpec.EARLIEST)

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Return the offset after the last committed record, by partition."""
        return self._offsets(topic, OffsetSpec.LATEST)

    def delete_topics(self, topics: Iterable[str]) -> None:
        """Delete topics with everything in them; unknown ones are ignored."""
        with self._translated("delete topics"):
            answer = self._admin.delete_topics(list(topics), timeout_ms=_TIMEOUT_MS, raise_errors=False)
            for topic in answer["topics"]:
                failure = for_code(topic["error_code"])
                if topic["error_code"] and failure is not UnknownTopicOrPartitionError:
                    raise failure(topic["name"])

    def close(self) -> None:
        """Release everything."""
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def _create(self, missing: Sequence[TopicSpec]) -> None:
        wanted = {
            spec.name: {
                "num_partitions": spec.partitions,
                "replication_factor": spec.replication,
                "configs": dict(spec.settings),
            }
            for spec in missing
        }
        answer = self._admin.create_topics(wanted, timeout_ms=_TIMEOUT_MS, raise_errors=False)
        for topic in answer["topics"]:
            failure = for_code(topic["error_code"])
            # Another process may have been quicker.
            if topic["error_code"] and failure is not TopicAlreadyExistsError:
                raise failure(f"{topic['name']}: {topic['error_message']}")
        self._admin.wait_for_topics(list(wanted), timeout_ms=_TIMEOUT_MS)

    def _offsets(self, topic: str, spec: Any) -> dict[int, int]:
        count = self.partitions(topic)
        with self._translated(f"list offsets of {topic}"):
            found = self._admin.list_partition_offsets(
                {TopicPartition(topic, partition): spec for partition in range(count)},
                isolation_level="read_committed",
                timeout_ms=_TIMEOUT_MS,
            )
            return {place.partition: int(at.offset) for place, at in found.items()}

    def _translated(self, action: str) -> AbstractContextManager[None]:
        return _translated(self._bootstrap, action)


def _common(bootstrap: str) -> dict[str, Any]:
    return {
        "bootstrap_servers": bootstrap.split(","),
        "client_id": "quantflow",
        "bootstrap_timeout_ms": _TIMEOUT_MS,
        "reconnect_backoff_ms": 50,
        "reconnect_backoff_max_ms": 1_000,
        "metadata_max_age_ms": 10_000,
    }


def _reach(bootstrap: str, timeout_s: float = 5.0) -> None:
    """Fail unless one of the servers accepts connections.

    A client of kafka-python that cannot bootstrap leaves its thread and sockets behind, one more
    with each retry; so it is made only where somebody listens.
    """
    failure: OSError | None = None
    for server in bootstrap.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
        except OSError as exc:
            failure = exc
        else:
            return
    raise failure or OSError("no server is given")


def _received(record: Any) -> ReceivedRecord:
    return ReceivedRecord(
        record.topic,
        record.partition,
        record.offset,
        record.key,
        record.value,
        tuple((name, content or b"") for name, content in record.headers),
        record.timestamp,
    )


@contextmanager
def _translated(bootstrap: str, action: str) -> Iterator[None]:
    try:
        yield
    except (KafkaError, ValueError, TypeError, OSError) as exc:
        reason = str(exc) or type(exc).__name__
        raise TransportError(f"could not {action} at {bootstrap}: {reason}") from exc
