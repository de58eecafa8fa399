"""Versions on disk: they prove themselves, load from their own bytes, and refuse edits."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest

from quantflow.errors import ParameterError, UnknownVersionError
from quantflow.promotion import bind_signal, load_contract_of, load_object
from quantflow.promotion.bundle import Bundle, read_bundle
from quantflow.promotion.versions import notebook_of, write_version
from quantflow.testing.pipelines import CONTRACT, GRAPH, write_pipeline


def stored(bundle: Bundle, directory: Path) -> Path:
    contents = {sha256: bundle.files[path] for path, sha256 in bundle.hashes.items()}
    return write_version(directory, bundle.manifest, contents.__getitem__)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return stored(read_bundle(write_pipeline(tmp_path / "project")), tmp_path / "versions")


def test_a_version_is_named_by_its_content_and_looks_like_the_project(tmp_path, version):
    bundle = read_bundle(tmp_path / "project" / "pipelines" / "tiny.toml")
    assert version.name == bundle.version_id
    assert {str(path.relative_to(version)) for path in version.rglob("*") if path.is_file()} == {
        "version.json",
        "pipelines/tiny.toml",
        "pipelines/tiny_signal.py",
        "pipelines/tiny_graph.py",
        "notebooks/tiny.ipynb",
    }
    assert notebook_of(version) == version / "notebooks" / "tiny.ipynb"
    assert load_contract_of(version) == bundle.contract


def test_the_same_files_elsewhere_are_the_same_version(tmp_path, version):
    assert read_bundle(write_pipeline(tmp_path / "elsewhere")).version_id == version.name


@pytest.mark.parametrize("file", ["tiny.toml", "tiny_signal.py", "tiny_graph.py", "tiny.ipynb"])
def test_any_changed_byte_is_another_version(tmp_path, version, file):
    path = write_pipeline(tmp_path / "project")
    changed = next((tmp_path / "project").rglob(file))
    changed.write_text(changed.read_text().rstrip("\n") + "\n\n")
    assert read_bundle(path).version_id != version.name


def test_editing_the_working_files_changes_nothing_for_a_version(tmp_path, version):
    write_pipeline(tmp_path / "project", graph="def build(): return 'edited'", signal="raise RuntimeError('edited')")
    assert load_object(version, "tiny_graph:build")() == "graph one"
    bound = bind_signal(version, load_contract_of(version))
    np.testing.assert_array_equal(bound.exposures({"close": [1.0, 1, 1, 1, 1, 2, 1]}), [0, 0, 0, 0, 0, 1, 0])


def test_nothing_of_a_version_is_looked_up_on_the_path(version):
    before = list(sys.path)
    load_object(version, "tiny_graph:build")
    assert sys.path == before
    assert "tiny_graph" not in sys.modules
    assert not list(version.rglob("__pycache__"))


def test_parameters_are_bound_from_contract_and_run(version):
    contract = load_contract_of(version)
    assert dict(bind_signal(version, contract).parameters) == {"window": 5}
    assert dict(bind_signal(version, contract, {"window": 7}).parameters) == {"window": 7}
    with pytest.raises(ParameterError, match="window: received 1; allowed: int at least 2"):
        bind_signal(version, contract, {"window": 1})


def test_an_edited_version_is_refused_and_written_again(tmp_path, version):
    (version / "pipelines" / "tiny_graph.py").write_text("def build(): return 'evil'")
    with pytest.raises(UnknownVersionError, match=r"tiny_graph\.py has SHA-256 .* it was edited or damaged"):
        load_object(version, "tiny_graph:build")
    again = stored(read_bundle(tmp_path / "project" / "pipelines" / "tiny.toml"), tmp_path / "versions")
    assert again == version
    assert load_object(version, "tiny_graph:build")() == "graph one"


def test_an_edited_or_missing_manifest_is_refused(version):
    manifest = version / "version.json"
    manifest.write_text(manifest.read_text().replace("tiny_graph", "tiny_other"))
    with pytest.raises(UnknownVersionError, match="its hash is not the directory's name"):
        load_object(version, "tiny_graph:build")
    manifest.unlink()
    with pytest.raises(UnknownVersionError, match="holds no version"):
        load_object(version, "tiny_graph:build")


def test_damaged_stored_bytes_are_never_written(tmp_path):
    bundle = read_bundle(write_pipeline(tmp_path / "project"))
    with pytest.raises(UnknownVersionError, match="it was edited or damaged"):
        write_version(tmp_path / "versions", bundle.manifest, lambda sha256: b"other bytes")
    assert list((tmp_path / "versions").iterdir()) == []


def test_a_signal_in_a_tagged_cell_is_loaded_from_the_stored_notebook(tmp_path):
    from quantflow.testing.pipelines import SIGNAL

    contract = CONTRACT.replace("tiny_signal:crossing", "cell:signal:crossing")
    path = write_pipeline(tmp_path / "project", contract=contract, cells=(SIGNAL,))
    notebook = tmp_path / "project" / "notebooks" / "tiny.ipynb"
    head, _, tail = notebook.read_text().rpartition('"tags": []')
    notebook.write_text(head + '"tags": ["signal"]' + tail)
    version = stored(read_bundle(path), tmp_path / "versions")
    assert not (version / "pipelines" / "tiny_signal.py").exists()
    assert bind_signal(version, load_contract_of(version)).name == "crossing"


def _write(arguments: tuple[str, str]) -> str:
    project, versions = arguments
    bundle = read_bundle(Path(project) / "pipelines" / "tiny.toml")
    return str(stored(bundle, Path(versions)))


@pytest.mark.slow
def test_processes_that_write_a_version_at_once_end_with_one(tmp_path):
    write_pipeline(tmp_path / "project")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        written = pool.map(_write, [(str(tmp_path / "project"), str(tmp_path / "versions"))] * 4)
    assert len(set(written)) == 1
    assert [path.name for path in (tmp_path / "versions").iterdir()] == [Path(written[0]).name]
    assert load_object(Path(written[0]), "tiny_graph:build")() == "graph one"


def test_graph_source_is_the_one_written(version):
    assert (version / "pipelines" / "tiny_graph.py").read_text() == GRAPH
