"""A pipeline whose contract says `approval = "human"`, end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from quantflow.events.types import DecisionMade, ProposalMade
from quantflow.testing.wait import wait_until

if TYPE_CHECKING:
    from conftest import Production

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def supervised(production: Production) -> str:
    """A promoted copy of the momentum pipeline that asks a person."""
    pipelines = production.stack.settings.project / "pipelines"
    contract = (pipelines / "momentum.toml").read_text()
    contract = contract.replace('pipeline = "momentum"', 'pipeline = "supervised"')
    contract = contract.replace('approval = "auto"', 'approval = "human"').replace(
        "min_confidence = 0.5", "min_confidence = 0.0"
    )
    (pipelines / "supervised.toml").write_text(contract)
    production.stack.cli("promote", "pipelines/supervised.toml", "--wait-s", "90")
    return "supervised"


def test_nothing_is_decided_until_a_person_agrees(production: Production, supervised: str) -> None:
    run_id = production.trigger(supervised)
    wait_until(
        lambda: (
            production.status(run_id)["status"] in ("failed", "succeeded")
            or (
                production.status(run_id)["tasks"].get("await_analysis") == "deferred"
                and desk_state(production, run_id)
            )
        ),
        120,
        lambda: f"the question of {run_id}: {production.status(run_id)}",
        interval_s=0.25,
    )
    assert desk_state(production, run_id) == "awaiting_approval"
    desk = [entry.event for entry in production.events(f"{run_id}.desk")]
    assert any(isinstance(event, ProposalMade) for event in desk)
    assert not any(isinstance(event, DecisionMade) for event in desk)
    assert production.published_decisions(run_id) == []

    answer = production.stack.cli("approve", run_id).stdout

    assert "approved by" in answer
    status = production.finished(run_id)
    assert status["status"] == "succeeded", status["error"]
    assert len(production.decisions(run_id)) == 1
    again = production.stack.cli("approve", run_id, check=False)
    assert again.returncode == 1
    assert "waits for no approval" in again.stderr


def desk_state(production: Production, run_id: str) -> str | None:
    """Return the state of the agents' run once it waits or has ended."""
    from quantflow.errors import OrchestrationError

    try:
        state = str(production.status(f"{run_id}.desk")["status"])
    except OrchestrationError:
        return None
    return state if state in ("awaiting_approval", "succeeded", "failed") else None
