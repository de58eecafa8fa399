"""Code from given bytes: versions side by side, edits without effect, nothing from elsewhere."""

from __future__ import annotations

import inspect
import sys
import traceback
from pathlib import Path

import nbformat
import pytest

from quantflow.errors import ContractError
from quantflow.notebooks.code import Code, load_reference, module_of


def code(**modules: str) -> Code:
    return Code({name: source.encode() for name, source in modules.items()}, Path("/nowhere/pipelines"))


def test_two_contents_of_one_module_live_side_by_side():
    old, new = code(m="def f(): return 1"), code(m="def f(): return 2")
    first, second = old.load("m:f"), new.load("m:f")
    assert (first(), second()) == (1, 2)
    assert first.__module__ != second.__module__


def test_equal_content_is_one_module():
    assert code(m="x = object()").load("m:x") is code(m="x = object()").load("m:x")


def test_modules_reach_each_other_by_relative_import():
    both = code(m="from .helpers import twice\nx = twice(4)", helpers="def twice(n): return 2 * n")
    assert both.load("m:x") == 8


def test_an_absolute_import_of_a_neighbour_is_refused_with_the_remedy():
    with pytest.raises(ContractError, match=r"imports 'neighbour'.*from \.module import"):
        code(m="import neighbour", neighbour="").load("m:x")


def test_a_directory_is_read_anew_so_an_edit_is_other_code(tmp_path):
    (tmp_path / "m.py").write_text("x = 1")
    assert load_reference(tmp_path, "m:x") == 1
    (tmp_path / "m.py").write_text("x = 2")
    assert load_reference(tmp_path, "m:x") == 2


def test_the_path_of_modules_stays_as_it_was():
    before = list(sys.path)
    code(m="x = 1").load("m:x")
    assert sys.path == before
    assert "m" not in sys.modules


def test_source_and_traceback_show_the_bytes_that_ran():
    function = code(m="def f():\n    raise KeyError('planted')  # here\n").load("m:f")
    assert "planted" in inspect.getsource(function)
    with pytest.raises(KeyError) as caught:
        function()
    assert "# here" in "".join(traceback.format_exception(caught.value))


def test_a_tagged_cell_is_a_module_of_its_own():
    cells = [
        nbformat.v4.new_code_cell("raise RuntimeError('other cells do not run')"),
        nbformat.v4.new_code_cell("import math\ndef f(): return math.tau", metadata={"tags": ["signal"]}),
    ]
    stored = nbformat.writes(nbformat.v4.new_notebook(cells=cells)).encode()
    found = Code({}, Path("/nowhere"), stored).load("cell:signal:f")
    assert found() == pytest.approx(6.283185307)
    with pytest.raises(ContractError, match="no cell tagged 'graph'"):
        Code({}, Path("/nowhere"), stored).load("cell:graph:f")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("m", "allowed: module:name or cell:TAG:name"),
        ("m.n:x", "allowed: module:name"),
        ("../m:x", "allowed: module:name"),
        ("m:missing", "names nothing; defined there: x"),
        ("other:x", "no module 'other'; there are: m"),
    ],
)
def test_a_bad_reference_is_named(reference, message):
    with pytest.raises(ContractError, match=message):
        code(m="x = 1").load(reference)


def test_code_that_raises_when_imported_says_so():
    with pytest.raises(ContractError, match="'m:x' raises ZeroDivisionError: division by zero"):
        code(m="x = 1 / 0").load("m:x")


def test_a_reference_names_its_module():
    assert (module_of("m:x"), module_of("cell:signal:f"), module_of("nonsense")) == ("m", None, None)
