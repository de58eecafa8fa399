"""Every transport keeps the promises of the seam."""

from __future__ import annotations

import pytest

from quantflow.events.transport import KafkaPythonTransport, LibrdkafkaTransport, Transport
from quantflow.testing.memory import MemoryTransport
from quantflow.testing.transport import TransportConformance


class TestMemory(TransportConformance):
    @pytest.fixture
    def transport(self) -> Transport:
        return MemoryTransport()


@pytest.mark.stack
class TestKafkaPython(TransportConformance):
    @pytest.fixture
    def transport(self, kafka_bootstrap: str) -> Transport:
        return KafkaPythonTransport(kafka_bootstrap)


@pytest.mark.stack
class TestLibrdkafka(TransportConformance):
    @pytest.fixture
    def transport(self, kafka_bootstrap: str) -> Transport:
        return LibrdkafkaTransport(kafka_bootstrap)
