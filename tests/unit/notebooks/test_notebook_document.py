"""Parameters cells: what is accepted, and that everything else is named."""

from __future__ import annotations

import json

import nbformat
import pytest

from quantflow.errors import ContractError, ParameterError
from quantflow.notebooks.document import check_parameters, declared_parameters, read_notebook


def notebook(*sources: str, tag: str = "parameters") -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": [tag]}) for source in sources]
    return nbformat.v4.new_notebook(cells=cells)


def declared(source: str):
    return declared_parameters(notebook(source), path="n.ipynb")


def test_types_and_defaults_are_read_in_order():
    found = declared("n: int = 5\nx: float = -1.5\non: bool = True\nword: str = ''")
    assert [(p.name, p.type, p.default) for p in found.values()] == [
        ("n", "int", 5),
        ("x", "float", -1.5),
        ("on", "bool", True),
        ("word", "str", ""),
    ]


def test_a_whole_number_is_a_float_where_one_is_declared():
    assert declared("x: float = 1")["x"].default == 1.0
    assert type(declared("x: float = 1")["x"].default) is float


@pytest.mark.parametrize("cells", [(), ("a: int = 1", "b: int = 2")])
def test_exactly_one_parameters_cell_is_needed(cells):
    with pytest.raises(ContractError, match=f"has {len(cells)} cells tagged 'parameters'; exactly one"):
        declared_parameters(notebook(*cells), path="n.ipynb")


def test_every_bad_line_is_named_at_once():
    source = "\n".join(
        ["a = 1", "b: int = 1.5", "c: list = []", "d: int = 2 * 3", "e: int = 1", "e: int = 2", "import os"]
    )
    with pytest.raises(ContractError) as caught:
        declared(source)
    lines = caught.value.problems
    assert len(lines) == 6
    assert "line 1: received 'a = 1'; allowed: name: type = default" in lines[0]
    assert "line 2: b: received 1.5 (float); allowed: int" in lines[1]
    assert "line 3: c has type 'list'; allowed: bool, int, float, str" in lines[2]
    assert "line 4: d has default '2 * 3'; allowed: a literal" in lines[3]
    assert "line 6: 'e' is declared twice" in lines[4]
    assert "line 7: received 'import os'" in lines[5]


def test_a_bool_is_no_number():
    with pytest.raises(ContractError, match="received True"):
        declared("n: int = True")


def test_values_not_given_keep_their_default():
    assert check_parameters(declared("n: int = 5\nx: float = 1.0"), {"x": 2}) == {"n": 5, "x": 2.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"m": 1}, "'m' is not a parameter; did you mean 'mm'"),
        ({"n": "5"}, r"n: received '5' \(str\); allowed: int"),
        ({"n": True}, r"n: received True \(bool\); allowed: int"),
        ({"n": 5.0}, r"n: received 5.0 \(float\); allowed: int"),
        ({"x": float("nan")}, "x: received nan; allowed: a finite float"),
        ({"x": float("inf")}, "finite"),
        ({"n=1\n__import__('os').system('true')#": 1}, "is not a parameter"),
    ],
)
def test_unknown_and_mistyped_values_are_refused(given, message):
    with pytest.raises(ParameterError, match=message):
        check_parameters(declared("n: int = 5\nx: float = 1.0\nmm: int = 1"), given)


def test_a_file_that_is_no_notebook_is_refused():
    for content in (b"", b"[]", b'{"cells": 3}', b"\xff\xfe", json.dumps({"nbformat": 4}).encode()):
        with pytest.raises(ContractError, match="is not a Jupyter notebook"):
            read_notebook(content, path="n.ipynb")


def test_a_huge_notebook_is_refused_unread():
    with pytest.raises(ContractError, match="a notebook may have 20,000,000"):
        read_notebook(b" " * 20_000_001, path="n.ipynb")
