"""The registry on a real PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from quantflow.errors import ContractError, UnknownVersionError
from quantflow.events.log import EventLog
from quantflow.events.types import PipelinePromoted
from quantflow.promotion import Registry, bind_signal, load_object, read_plans
from quantflow.testing.pipelines import CONTRACT, write_pipeline

pytestmark = pytest.mark.stack


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    with EventLog(database_url) as event_log:
        event_log.migrate()
        yield event_log


@pytest.fixture
def registry(log: EventLog) -> Registry:
    return Registry(log)


def promotions(log: EventLog) -> list[PipelinePromoted]:
    return [stored.event for stored in log.read_all() if isinstance(stored.event, PipelinePromoted)]


def test_a_version_is_stored_whole_and_said_in_the_log(tmp_path, log, registry):
    version = registry.register(write_pipeline(tmp_path / "project"), promoted_by="ana")
    assert (version.pipeline, version.number, version.promoted_by) == ("tiny", 1, "ana")
    assert set(version.files) == {
        "pipelines/tiny.toml",
        "pipelines/tiny_signal.py",
        "pipelines/tiny_graph.py",
        "notebooks/tiny.ipynb",
    }
    assert registry.get(version.version_id) == version
    assert registry.active_version("tiny") == version
    assert registry.active() == [version]
    event = PipelinePromoted(pipeline="tiny", version_id=version.version_id, number=1, owner="ana", promoted_by="ana")
    assert promotions(log) == [event]
    assert [stored.stream for stored in log.read_all()] == ["pipeline-tiny"]
    assert log.verify() is None


def test_unchanged_files_are_the_same_version_and_write_nothing(tmp_path, log, registry):
    path = write_pipeline(tmp_path / "project")
    assert registry.register(path, promoted_by="ana") == registry.register(path, promoted_by="ben")
    assert len(promotions(log)) == 1


def test_changed_files_are_the_next_version_and_old_files_make_the_old_one_active(tmp_path, log, registry):
    first = registry.register(write_pipeline(tmp_path / "project"), promoted_by="ana")
    second = registry.register(write_pipeline(tmp_path / "project", graph="def build(): return 2"), promoted_by="ana")
    assert (first.number, second.number) == (1, 2)
    assert registry.active_version("tiny") == second
    assert [version.number for version in registry.versions("tiny")] == [2, 1]
    assert registry.register(write_pipeline(tmp_path / "project"), promoted_by="ben") == first
    assert registry.active_version("tiny") == first
    assert [(event.number, event.promoted_by) for event in promotions(log)] == [(1, "ana"), (2, "ana"), (1, "ben")]


def test_editing_the_working_files_afterwards_changes_nothing(tmp_path, registry):
    path = write_pipeline(tmp_path / "project")
    version = registry.register(path, promoted_by="ana")
    write_pipeline(tmp_path / "project", graph="def build(): return 'edited'", signal="raise RuntimeError('edited')")
    directory = registry.materialise(version, tmp_path / "versions")
    assert load_object(directory, version.contract.graph)() == "graph one"
    assert bind_signal(directory, version.contract).name == "crossing"
    assert "window + 1" in (directory / version.notebook).read_text()
    for file in (tmp_path / "project").rglob("*.*"):
        file.unlink()
    assert registry.materialise(version.version_id, tmp_path / "elsewhere").name == version.version_id


def test_a_wrong_contract_writes_nothing(tmp_path, log, registry):
    path = write_pipeline(tmp_path / "project", contract=CONTRACT.replace('owner = "ana"', ""))
    with pytest.raises(ContractError, match="owner: missing"):
        registry.register(path, promoted_by="ana")
    assert promotions(log) == []
    assert registry.active() == []


def test_promotions_at_once_are_one_version(tmp_path, log, registry):
    path = write_pipeline(tmp_path / "project")
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda name: registry.register(path, promoted_by=name), "abcd"))
    assert len({version.version_id for version in versions}) == 1
    assert len(promotions(log)) == 1


def test_unknown_pipelines_and_versions_are_named(tmp_path, registry):
    registry.register(write_pipeline(tmp_path / "project"), promoted_by="ana")
    with pytest.raises(UnknownVersionError, match="no version of 'momentum' is promoted; promoted pipelines: 'tiny'"):
        registry.active_version("momentum")
    with pytest.raises(UnknownVersionError, match="no version 'nonsense' is registered"):
        registry.get("nonsense")


def test_plans_say_what_a_dag_needs(tmp_path, log, registry):
    version = registry.register(write_pipeline(tmp_path / "project"), promoted_by="ana")
    (plan,) = registry.plans()
    assert plan == read_plans(log, pipeline="tiny")[0]
    assert read_plans(log, pipeline="other") == []
    assert (plan.pipeline, plan.dag_id, plan.schedule) == ("tiny", "quantflow__tiny", "30 22 * * MON-FRI")
    assert (plan.owner, plan.number, plan.version_id) == ("ana", 1, version.version_id)


def test_plans_are_read_without_anything_heavy(database_url, log):
    script = (
        "import sys\nfrom quantflow.events.log import EventLog\nfrom quantflow.promotion.plans import read_plans\n"
        f"assert read_plans(EventLog({database_url!r})) == []\n"
        "heavy = {'numba', 'numpy', 'vectorbt', 'langgraph', 'papermill', 'polars', 'pandas', 'nbformat'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_momentum_pipeline_can_be_promoted_and_decides(tmp_path, registry):
    contract = Path(__file__).parents[2] / "pipelines" / "momentum.toml"
    version = registry.register(contract, promoted_by="ana")
    directory = registry.materialise(version, tmp_path / "versions")
    bound = bind_signal(directory, version.contract)
    closes = [100.0 * 1.001**day * (1.01 if day % 2 else 1.0) for day in range(300)]
    assert bound.exposures({"close": closes})[-1] > 0.0
    assert callable(load_object(directory, version.contract.graph))
