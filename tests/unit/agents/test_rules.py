"""Rules that no reviewer has to remember."""

import ast
import json
import os
from pathlib import Path

import pytest

import quantflow.agents
from quantflow.agents import MANAGER_BRIEF, RISK_BRIEF, TECHNICAL_BRIEF
from quantflow.agents._opinions import ManagerAnswer, RiskAnswer, TechnicalAnswer

PROJECT = Path(__file__).parent.parent.parent.parent
GRAPH_CODE = [*Path(quantflow.agents.__file__).parent.glob("*.py"), *(PROJECT / "pipelines").glob("*.py")]


def calls_interrupt(node: ast.AST) -> bool:
    return any(
        isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "interrupt"
        for part in ast.walk(node)
    )


@pytest.mark.parametrize("path", GRAPH_CODE, ids=lambda path: path.name)
def test_nothing_catches_the_exception_that_stops_a_graph_for_a_person(path):
    guarded = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Try)
               and calls_interrupt(node)]  # fmt: skip
    assert guarded == []


def test_loading_a_checkpoint_runs_no_code():
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    assert os.environ["LANGGRAPH_STRICT_MSGPACK"] == "true"
    strict = JsonPlusSerializer(allowed_msgpack_modules=None)
    foreign = TechnicalAnswer(words="made by naming a class", trend="mixed", confidence="sure")
    restored = strict.loads_typed(strict.dumps_typed({"value": foreign}))
    assert not isinstance(restored["value"], TechnicalAnswer)


def test_the_state_survives_a_checkpoint_unchanged(desk):
    good = [
        {"words": "the trend supports it", "trend": "supports", "confidence": "sure"},
        {"words": "nothing to worry about", "concern": "low", "confidence": "sure"},
        {"words": "all of it is kept", "keep": "all", "confidence": "sure"},
    ]
    made = desk(good)
    made.run()
    values = made.checkpointer.get_tuple({"configurable": {"thread_id": "run-1.desk"}}).checkpoint["channel_values"]
    state = {name: value for name, value in values.items() if ":" not in name}
    assert {"proposal", "verdict", "approval", "decision", "graph_version"} <= set(state)
    assert json.loads(json.dumps(state)) == state


@pytest.mark.parametrize(
    ("brief", "answer"),
    [(TECHNICAL_BRIEF, TechnicalAnswer), (RISK_BRIEF, RiskAnswer), (MANAGER_BRIEF, ManagerAnswer)],
)
def test_every_example_in_a_prompt_is_an_answer_that_would_be_taken(brief, answer):
    for _, example in brief.examples:
        assert answer.model_validate(example)


@pytest.mark.parametrize("answer", [TechnicalAnswer, RiskAnswer, ManagerAnswer])
def test_every_text_in_an_answer_is_bounded_so_that_its_json_closes(answer):
    for name, field in answer.model_json_schema()["properties"].items():
        assert "maxLength" in field or "enum" in field, name


def test_a_request_is_read_without_importing_langgraph():
    import subprocess
    import sys

    code = (
        "import sys; from quantflow.agents import DeskRequest; "
        "sys.exit('langgraph' in sys.modules or 'langchain_core' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
