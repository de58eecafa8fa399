"""Contracts: every problem is named with its key, what was received and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantflow.errors import ContractError, ParameterError
from quantflow.promotion import load_contract
from quantflow.promotion.cron import PRESETS, check_cron
from quantflow.testing.pipelines import CONTRACT, write_pipeline

PROJECT = Path(__file__).parents[3]


def problems_of(path: Path) -> list[str]:
    with pytest.raises(ContractError) as caught:
        load_contract(path)
    assert str(path.resolve()) in str(caught.value) or str(path) in str(caught.value)
    return list(caught.value.problems)


def problems(tmp_path: Path, **changes) -> list[str]:
    return problems_of(write_pipeline(tmp_path, **changes))


def edited(*changes: tuple[str, str]) -> str:
    text = CONTRACT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def test_a_whole_contract_is_read(tmp_path):
    contract = load_contract(write_pipeline(tmp_path))
    assert (contract.pipeline, contract.owner, contract.schedule) == ("tiny", "ana", "30 22 * * MON-FRI")
    assert (contract.approval, contract.approver_role, contract.min_confidence) == ("auto", "portfolio-manager", 0.4)
    assert [(item.topic, item.event) for item in contract.inputs] == [("market.bars.1d", "quantflow.market.bar")]
    assert contract.limits.max_position == 0.5
    assert contract.module_names == ("tiny_signal", "tiny_graph")
    assert {name: spec.default for name, spec in contract.parameters.items()} == {
        "window": 5,
        "fee_bps": 1.0,
        "side": "long",
    }


def test_the_momentum_contract_is_valid():
    contract = load_contract(PROJECT / "pipelines" / "momentum.toml")
    assert contract.pipeline == "momentum"
    assert "lookback" in contract.parameters


def test_all_problems_are_reported_at_once_with_key_received_and_allowed(tmp_path):
    broken = edited(
        ('pipeline = "tiny"', 'pipeline = "Tiny!"'),
        ('owner = "ana"\n', 'ownr = "ana"\n'),
        ('approval = "auto"', 'approval = "sometimes"'),
        ("min_confidence = 0.4", "min_confidence = 4"),
        ("30 22 * * MON-FRI", "30 25 * * MON-FRI"),
        ("max_position = 0.5", "max_positon = 0.5"),
        ('schema = "quantflow.market.bar"', 'schema = "quantflow.market.bat"'),
        ('signal = "tiny_signal:crossing"', 'signal = "tiny_signal.crossing"'),
        ("default = 5\nlow = 2", 'default = "5"\nlow = 2'),
    )
    found = "\n".join(problems(tmp_path, contract=broken))
    for expected in (
        "pipeline: received 'Tiny!'; allowed: text that matches",
        "owner: missing; it is required",
        "ownr: unknown key; did you mean 'owner'",
        "approval: received 'sometimes'; allowed: 'auto' or 'human'",
        "min_confidence: received 4; allowed: less than or equal to 1",
        "schedule: hour is '25'; allowed: *, 0-23",
        "limits.max_positon: unknown key; did you mean 'max_position'",
        "inputs.0.schema: received 'quantflow.market.bat'",
        "did you mean 'quantflow.market.bar'",
        "signal: received 'tiny_signal.crossing'; allowed: module:name",
        "parameters.window: received '5' (str); allowed: int",
    ):
        assert expected in found, f"{expected!r} not in:\n{found}"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("default = 5", "default = 51"), "parameters.window: received 51; allowed: int at least 2 and at most 50"),
        (
            ('default = "long"', 'default = "short"'),
            "parameters.side: received 'short'; allowed: one of 'long', 'both'",
        ),
        (("low = 2\n", "low = 60\n"), "low 60.0 is above high 50.0"),
        (("[parameters.window]", "[parameters.Window]"), "received name 'Window'; allowed: lower case"),
        (('type = "int"', 'type = "integer"'), "parameters.window.type: received 'integer'; allowed:"),
        (("low = 0.0", "lower = 0.0"), "parameters.fee_bps.lower: unknown key; did you mean 'low'"),
        (('[[inputs]]\ntopic = "market.bars.1d"\n', "[[inputs]]\n"), "inputs.0.topic: missing"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, change, expected):
    assert expected in "\n".join(problems(tmp_path, contract=edited(change)))


def test_files_that_do_not_exist_are_all_named(tmp_path):
    contract = edited(
        ("../notebooks/tiny.ipynb", "../notebooks/other.ipynb"),
        ("tiny_graph:build", "other_graph:build"),
    )
    found = problems(tmp_path, contract=contract)
    assert len(found) == 2
    assert found[0].startswith("notebook = '../notebooks/other.ipynb': ")
    assert "cannot be read: No such file" in found[0]
    assert found[1].startswith("module 'other_graph': ")


def test_files_outside_the_project_are_refused(tmp_path):
    outside = tmp_path / "outside.ipynb"
    path = write_pipeline(tmp_path / "project", contract=edited(("../notebooks/tiny", "../../outside")))
    outside.write_text((tmp_path / "project" / "notebooks" / "tiny.ipynb").read_text())
    assert "lies outside the project" in problems_of(path)[0]
    link = tmp_path / "project" / "notebooks" / "linked.ipynb"
    link.symlink_to(outside)
    path.write_text(edited(("notebooks/tiny", "notebooks/linked")))
    assert "lies outside the project" in problems_of(path)[0]


def test_notebook_and_contract_must_declare_the_same_parameters(tmp_path):
    found = problems(tmp_path, parameters="window: float = 5\nfee_bps: float = 2.0\nextra: int = 1")
    assert sorted(found) == [
        "parameters.extra: missing; the notebook declares extra: int",
        "parameters.fee_bps.default: received 1.0; the notebook has 2.0",
        "parameters.side: the notebook's parameters cell does not declare it; it has window, fee_bps, extra",
        "parameters.window.type: received 'int'; the notebook declares 'float'",
    ]


def test_the_notebook_needs_one_parameters_cell(tmp_path):
    path = write_pipeline(tmp_path)
    notebook = tmp_path / "notebooks" / "tiny.ipynb"
    notebook.write_text(notebook.read_text().replace('"parameters"\n', '"other"\n'))
    assert "has 0 cells tagged 'parameters'; exactly one is needed" in problems_of(path)[0]


def test_the_signals_parameters_must_be_declared_within_its_bounds(tmp_path):
    narrow = """
from quantflow.signals import param, signal

@signal(columns=("close",))
def crossing(bar, window=param(3, low=3, high=10), span=param(2.0)):
    return 0.0
"""
    assert sorted(problems(tmp_path, signal=narrow)) == [
        "parameters.span: missing; the signal 'crossing' has it: a finite number",
        "parameters.window.high: received 50.0; the signal allows a whole number from 3 to 10",
        "parameters.window.low: received 2.0; the signal allows a whole number from 3 to 10",
    ]


def test_signal_and_graph_must_be_what_they_are_called(tmp_path):
    found = problems(tmp_path, signal="crossing = 3", graph="build = 4")
    assert found == [
        "signal: 'tiny_signal:crossing' is a int; allowed: a function decorated with @signal, "
        "@cross_sectional, @column_signal or @estimator_signal",
        "graph: 'tiny_graph:build' is a int; allowed: a function that builds a graph",
    ]


def test_a_module_that_is_not_listed_cannot_be_imported(tmp_path):
    graph = "from .shared import answer\ndef build(): return answer"
    found = problems(tmp_path, graph=graph, modules={"shared": "answer = 42"})
    assert "graph: 'tiny_graph:build' needs what is not there: no module 'shared'" in found[0]
    listed = CONTRACT.replace('approval = "auto"', 'approval = "auto"\nmodules = ["shared"]')
    contract = load_contract(write_pipeline(tmp_path, contract=listed, graph=graph, modules={"shared": "answer = 42"}))
    assert contract.module_names == ("tiny_signal", "tiny_graph", "shared")


def test_a_file_that_is_no_toml_is_named(tmp_path):
    path = write_pipeline(tmp_path, contract='pipeline = "tiny\n')
    assert "is not TOML" in problems_of(path)[0]
    path.write_bytes(b"\xff")
    assert "is not UTF-8" in problems_of(path)[0]
    path.unlink()
    assert "cannot be read: No such file" in problems_of(path)[0]


def test_parameters_of_a_run_are_checked_against_the_contract(tmp_path):
    contract = load_contract(write_pipeline(tmp_path))
    assert contract.resolve_parameters({"fee_bps": 2}) == {"window": 5, "fee_bps": 2.0, "side": "long"}
    with pytest.raises(ParameterError) as caught:
        contract.resolve_parameters({"window": 51, "fee": 1, "side": 3, "fee_bps": True})
    message = str(caught.value)
    assert "'fee' is not a parameter; did you mean 'fee_bps'" in message
    assert "window: received 51; allowed: int at least 2 and at most 50" in message
    assert "side: received 3 (int); allowed: str" in message
    assert "fee_bps: received True (bool); allowed: float" in message


@pytest.mark.parametrize("expression", ["* * * * *", "*/15 0-6,22 1 JAN-MAR 7", "0 0 * * sun", *PRESETS])
def test_cron_expressions_that_airflow_takes(expression):
    assert check_cron(expression) == expression


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "with 0 fields"),
        ("* * * *", "with 4 fields"),
        ("60 * * * *", r"minute is '60'; allowed: \*, 0-59"),
        ("* * 0 * *", "day of month is '0'"),
        ("* * * 13 *", "month is '13'"),
        ("* * * * 8", "day of week is '8'"),
        ("5-1 * * * *", "minute is '5-1'"),
        ("*/0 * * * *", r"minute is '\*/0'"),
        ("@sometimes", "with 1 fields"),
        ("1,,2 * * * *", "minute is '1,,2'"),
    ],
)
def test_cron_expressions_that_are_wrong_name_their_field(expression, message):
    with pytest.raises(ValueError, match=message):
        check_cron(expression)


def test_what_is_accepted_here_is_accepted_by_airflows_cron_reader():
    from croniter import croniter

    for expression in ("* * * * *", "*/15 0-6,22 1 JAN-MAR 7", "30 22 * * MON-FRI", "@daily"):
        assert croniter.is_valid(check_cron(expression))
