"""Running notebooks on a real kernel: outputs, isolation, failures, limits."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import polars as pl
import psutil
import pytest

from quantflow.errors import ContractError, DataError, NotebookFailedError, ParameterError
from quantflow.notebooks import NotebookRun, run_notebook
from quantflow.testing.wait import wait_until


def write_notebook(path: Path, *sources: str, parameters: str = "n: int = 1") -> Path:
    cells = [
        nbformat.v4.new_markdown_cell("# Title"),
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, sources),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def run(tmp_path: Path, *sources: str, name: str = "run", **options) -> NotebookRun:
    parameters = options.pop("parameters", {})
    declared = options.pop("declared", "n: int = 1")
    notebook = write_notebook(tmp_path / "notebooks" / "nb.ipynb", *sources, parameters=declared)
    return run_notebook(notebook, parameters=parameters, output_dir=tmp_path / name, **options)


def test_a_run_records_values_frames_and_a_manifest(tmp_path):
    source = (
        "import polars as pl\nimport numpy as np\nfrom datetime import date\n"
        "from quantflow.notebooks import record, record_frame\n"
        "record('metrics.n', n)\nrecord('metrics.x', np.float64(0.5))\nrecord('nothing', float('nan'))\n"
        "record('day', date(2020, 1, 2))\nrecord('several', {'a': [1, True]})\n"
        "record_frame('equity', pl.DataFrame({'a': [1.0]}))"
    )
    seen = []
    done = run(tmp_path, source, parameters={"n": 7}, on_progress=seen.append)
    assert done.outputs == {
        "metrics.n": 7,
        "metrics.x": 0.5,
        "nothing": None,
        "day": "2020-01-02",
        "several": {"a": [1, True]},
    }
    assert pl.read_parquet(done.artifacts["equity"]).to_dict(as_series=False) == {"a": [1.0]}
    assert done.manifest.state == "succeeded"
    assert done.manifest.parameters == {"n": 7}
    assert set(done.manifest.outputs) == {"values.json", "frames/equity.parquet"}
    assert json.loads(done.artifacts["manifest"].read_text())["notebook"] == "nb.ipynb"
    assert [(at.cell, at.cells) for at in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert "# Values of this run" in done.notebook.read_text()
    assert "Title" in done.html.read_text()


def test_a_kernel_sees_no_setting_and_no_secret_and_works_in_its_own_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTFLOW_API_KEY", "planted-secret")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "planted-secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    here = Path.cwd()
    source = (
        "import os\nfrom quantflow.notebooks import record\n"
        "record('environment', dict(os.environ))\nrecord('cwd', os.getcwd())\nopen('left.txt', 'w').close()"
    )
    done = run(tmp_path, source)
    environment = done.outputs["environment"]
    assert "planted-secret" not in environment.values()
    assert [name for name in environment if name.startswith(("QUANTFLOW_", "AIRFLOW"))] == ["QUANTFLOW_NOTEBOOK_RUN"]
    assert done.outputs["cwd"] == str(tmp_path / "run" / "work")
    assert Path.cwd() == here
    assert (tmp_path / "run" / "work" / "left.txt").exists()


def test_bars_given_by_the_runner_are_read_as_of_the_parameter(tmp_path):
    from quantflow.testing.bars import make_bars

    bars = make_bars({"AAA": [10.0 + n for n in range(30)]})
    bars.write_parquet(tmp_path / "bars.parquet")
    cut = bars["known_at"][9].isoformat()
    source = (
        "from quantflow.notebooks import input_bars, record\n"
        "record('all', input_bars().height)\nrecord('cut', input_bars(as_of=as_of).height)\n"
    )
    done = run(
        tmp_path,
        source,
        declared="as_of: str = ''",
        parameters={"as_of": cut},
        inputs={"bars": tmp_path / "bars.parquet"},
    )
    assert done.outputs == {"all": 30, "cut": 10}
    assert set(done.manifest.inputs) == {"bars"}


def test_the_signal_comes_from_the_code_directory(tmp_path):
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "m.py").write_text("x = 'beside'")
    (tmp_path / "stored").mkdir()
    (tmp_path / "stored" / "m.py").write_text("x = 'stored'")
    source = "from quantflow.notebooks import load_signal, record\nrecord('x', load_signal('m:x'))"
    assert run(tmp_path, source).outputs["x"] == "beside"
    assert run(tmp_path, source, code_dir=tmp_path / "stored").outputs["x"] == "stored"


def test_a_cell_that_raises_is_named_with_source_and_plain_traceback_and_all_is_kept(tmp_path):
    with pytest.raises(NotebookFailedError) as caught:
        run(tmp_path, "from quantflow.notebooks import record\nrecord('before', 1)", "def f():\n    return 1 / 0\nf()")
    failure = caught.value
    assert failure.cell == 5  # title, parameters, the run's values, first cell, this one
    assert failure.source == "def f():\n    return 1 / 0\nf()"
    assert "ZeroDivisionError: division by zero" in failure.traceback
    assert "return 1 / 0" in failure.traceback
    assert "\x1b" not in failure.traceback
    assert "cell 5 of 5 raised ZeroDivisionError" in str(failure)
    partial = nbformat.read(failure.notebook, as_version=4)
    assert partial.cells[4].outputs[0].ename == "ZeroDivisionError"
    assert "ZeroDivisionError" in (tmp_path / "run" / "notebook.html").read_text()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["state"] == "failed"
    assert json.loads((tmp_path / "run" / "values.json").read_text()) == {"before": 1}


@pytest.mark.slow
def test_a_cell_that_exceeds_the_time_limit_ends_with_all_its_processes(tmp_path):
    source = (
        "import subprocess, sys\nfrom pathlib import Path\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "Path('pid').write_text(str(child.pid))\nimport time\ntime.sleep(600)"
    )
    with pytest.raises(NotebookFailedError, match="TimeLimitError: the run's time limit ended") as caught:
        run(tmp_path, source, timeout_s=4)
    assert caught.value.cell == 4
    child = int((tmp_path / "run" / "work" / "pid").read_text())
    wait_until(lambda: not psutil.pid_exists(child), 10, "the cell's child process to end")


@pytest.mark.slow
def test_a_kernel_that_dies_is_reported_at_its_cell(tmp_path):
    with pytest.raises(NotebookFailedError, match="the kernel died while this cell ran") as caught:
        run(tmp_path, "1 + 1", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert caught.value.cell == 5


def test_an_expected_exception_does_not_fail_the_run(tmp_path):
    notebook = write_notebook(tmp_path / "nb.ipynb", "1 / 0")
    content = nbformat.read(notebook, as_version=4)
    content.cells[2].metadata["tags"] = ["raises-exception"]
    nbformat.write(content, notebook)
    assert run_notebook(notebook, parameters={}, output_dir=tmp_path / "run").manifest.state == "succeeded"


def test_bad_parameters_start_no_kernel(tmp_path):
    with pytest.raises(ParameterError, match="'m' is not a parameter"):
        run(tmp_path, "1", parameters={"m": 1})
    with pytest.raises(ParameterError, match="is not a parameter"):
        run(tmp_path, "1", parameters={"n=1\nimport os\nx": 1})
    assert not (tmp_path / "run").exists()


def test_values_of_parameters_never_become_code(tmp_path):
    evil = '\'); import os; os.abort()  # """ {x.__class__} \\'
    source = "from quantflow.notebooks import record\nrecord('text', text)"
    assert run(tmp_path, source, declared="text: str = ''", parameters={"text": evil}).outputs["text"] == evil


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nb\.ipynb cannot be read: No such file"):
        run_notebook(tmp_path / "nb.ipynb", parameters={}, output_dir=tmp_path)
    with pytest.raises(DataError, match=r"do not exist: bars: .*none\.parquet"):
        run(tmp_path, "1", inputs={"bars": tmp_path / "none.parquet"})
    with pytest.raises(ContractError, match="is not a directory of modules"):
        run(tmp_path, "1", code_dir=tmp_path / "none")


def test_runs_in_parallel_threads_do_not_meet(tmp_path):
    source = (
        "import os\nfrom quantflow.notebooks import record\nopen(f'{n}.txt', 'w').close()\n"
        "record('n', n)\nrecord('files', sorted(f for f in os.listdir() if f.endswith('.txt')))"
    )
    notebook = write_notebook(tmp_path / "nb.ipynb", source)

    def one(n: int) -> NotebookRun:
        return run_notebook(notebook, parameters={"n": n}, output_dir=tmp_path / str(n))

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(one, range(3)))
    assert [item.outputs for item in done] == [{"n": n, "files": [f"{n}.txt"]} for n in range(3)]
    assert threading.active_count() < 20


def test_a_second_run_in_the_same_directory_replaces_the_first(tmp_path):
    first = run(tmp_path, "from quantflow.notebooks import record\nrecord('old', 1)")
    assert first.outputs == {"old": 1}
    assert run(tmp_path, "from quantflow.notebooks import record\nrecord('new', 2)").outputs == {"new": 2}


def test_a_process_without_standard_input_can_run_notebooks(tmp_path):
    """An Airflow task is a fork whose standard input is closed."""
    notebook = write_notebook(tmp_path / "nb.ipynb", "from quantflow.notebooks import record\nrecord('n', n)")
    pid = os.fork()
    if pid == 0:
        os.close(0)
        try:
            done = run_notebook(notebook, parameters={"n": 3}, output_dir=tmp_path / "run")
            os._exit(0 if done.outputs == {"n": 3} else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
