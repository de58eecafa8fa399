"""What the tests of the whole stack share: runs, the decisions topic, services to kill."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from quantflow.cli._client import FINAL_STATES, ApiClient
from quantflow.events.log import EventLog
from quantflow.events.topics import Topics
from quantflow.events.transport import LibrdkafkaTransport, current_slices, read_slice
from quantflow.events.types import DecisionMade
from quantflow.testing.wait import wait_until

if TYPE_CHECKING:
    from quantflow.events.records import StoredEvent
    from quantflow.testing.stack import LocalStack


@dataclass
class Production:
    """The running stack as its users see it."""

    stack: LocalStack
    log: EventLog
    api: ApiClient

    def trigger(self, pipeline: str = "momentum", **options: Any) -> str:
        return str(self.api.trigger(pipeline, **options)["run_id"])

    def status(self, run_id: str) -> dict[str, Any]:
        return self.api.status(run_id)

    def finished(self, run_id: str, timeout_s: float = 180.0) -> dict[str, Any]:
        """Wait for the end of a run and return its status; the API may be away meanwhile."""
        from quantflow.errors import OrchestrationError

        last: dict[str, Any] = {}

        def ended() -> dict[str, Any] | None:
            nonlocal last
            try:
                last = self.status(run_id)
            except OrchestrationError as exc:
                last = {"error": str(exc)}
            return last if last.get("status") in FINAL_STATES else None

        return wait_until(ended, timeout_s, lambda: f"run {run_id} to end: {last}", interval_s=0.25)

    def events(self, run_id: str) -> list[StoredEvent]:
        return self.log.read_stream(f"run-{run_id}")

    def decisions(self, run_id: str) -> list[DecisionMade]:
        """Return the decisions of a run in the log, its own and those of its agents' run."""
        stored = [*self.events(run_id), *self.events(f"{run_id}.desk")]
        return [entry.event for entry in stored if isinstance(entry.event, DecisionMade)]

    def published_decisions(self, run_id: str) -> list[dict[str, Any]]:
        """Return what a read_committed reader of the topic sees of a run's decisions."""
        transport = LibrdkafkaTransport(self.stack.settings.kafka)
        topic = Topics(self.stack.settings.topic_prefix).decisions
        records = read_slice(transport, current_slices(transport, [topic]))
        bodies = [json.loads(record.value or b"{}") for record in records]
        decisions = [body["data"]["decision"] for body in bodies]
        return [decision for decision in decisions if decision["run_id"] in {run_id, f"{run_id}.desk"}]

    def services(self) -> dict[str, dict[str, Any]]:
        return {service["name"]: service for service in self._stack_status()["services"]}

    def supervisor(self) -> int:
        """Return the process id of the supervisor."""
        return int(self._stack_status()["supervisor"])

    def _stack_status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.stack.cli("status", "--json", check=False).stdout)
        return found

    def kill(self, service: str) -> int:
        """Kill a service with -9 and return the process id that it had."""
        pid = int(self.services()[service]["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until every service is healthy again."""
        wait_until(
            lambda: all(service["ready"] for service in self.services().values()),
            timeout_s,
            lambda: f"every service to be ready: {self.services()}",
            interval_s=0.5,
        )


@pytest.fixture(scope="session")
def production(stack: LocalStack) -> Iterator[Production]:
    """The whole stack, with prices on the market topic and the momentum pipeline promoted."""
    # All of it: a bar that is older than what a live signal has seen comes too late for it.
    stack.cli("replay", "sp500")
    stack.cli("promote", "pipelines/momentum.toml", "--wait-s", "90")
    log = EventLog(stack.settings.database)
    with ApiClient(stack.settings) as api:
        yield Production(stack, log, api)
    log.close()
