"""``ask`` never raises for model trouble and never guesses."""

import pytest
from pydantic import BaseModel, ConfigDict, Field

from quantflow.errors import LanguageModelError, LanguageModelTimeoutError, LanguageModelUnavailableError
from quantflow.llm import NoLanguageModel, Usage, ask, request_hash
from quantflow.testing.llm import ScriptedLanguageModel, Step, UnscriptedCallError

QUESTION = [{"role": "user", "content": "Up or down?"}]


class View(BaseModel):
    model_config = ConfigDict(extra="forbid")

    words: str = Field(max_length=40)
    percent: int = Field(ge=0, le=100)


def test_an_answer_in_the_schema_is_returned_as_its_type():
    with ScriptedLanguageModel([Step({"words": "up", "percent": 70}, usage=Usage(20, 5))]) as scripted:
        answer = ask(scripted, QUESTION, View, timeout_s=1)
    assert answer.value == View(words="up", percent=70)
    assert (answer.outcome, answer.error, answer.usage) == ("ok", None, Usage(20, 5))


def test_what_was_sent_and_answered_is_recorded_exactly():
    with ScriptedLanguageModel(['{"words": "up",  "percent": 70}']) as scripted:
        answer = ask(scripted, QUESTION, View, timeout_s=1)
    assert answer.messages == ({"role": "user", "content": "Up or down?"},)
    assert answer.json_schema == View.model_json_schema()
    assert answer.text == '{"words": "up",  "percent": 70}'
    assert (answer.backend, answer.language_model) == ("scripted", "script")
    assert answer.duration_s >= 0


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("", "answer"),
        ("null", "answer"),
        ('{"words": "up", "percent": 70', "JSON"),
        ('{"words": "up"}', "percent"),
        ('{"words": "up", "percent": 101}', "percent"),
        ('{"words": "up", "percent": 7, "buy": true}', "buy"),
        ("I think it goes up.", "JSON"),
    ],
)
def test_text_that_is_not_the_schema_is_unparsable_and_says_where(reply, named):
    with ScriptedLanguageModel([reply]) as scripted:
        answer = ask(scripted, QUESTION, View, timeout_s=1)
    assert (answer.value, answer.outcome, answer.text) == (None, "unparsable", reply)
    assert named in answer.error


@pytest.mark.parametrize(
    ("trouble", "outcome"),
    [
        (LanguageModelTimeoutError("too slow"), "timeout"),
        (LanguageModelUnavailableError("not there"), "unavailable"),
        (LanguageModelError("refused"), "error"),
        (ValueError("a client's bug"), "error"),
        (KeyError(), "error"),
    ],
)
def test_whatever_goes_wrong_is_an_outcome_and_not_an_exception(trouble, outcome):
    with ScriptedLanguageModel([trouble]) as scripted:
        answer = ask(scripted, QUESTION, View, timeout_s=1)
    assert (answer.value, answer.outcome, answer.text) == (None, outcome, None)
    assert answer.error


def test_without_a_language_model_every_call_is_unavailable_with_the_reason():
    answer = ask(NoLanguageModel("switched off"), QUESTION, View, timeout_s=1)
    assert (answer.value, answer.outcome, answer.error) == (None, "unavailable", "switched off")


def test_the_request_hash_changes_with_everything_that_is_sent():
    one, other = ScriptedLanguageModel([]), ScriptedLanguageModel([])
    other.parameters = {"temperature": 1}
    schema = View.model_json_schema()
    base = request_hash(one, QUESTION, schema)
    assert base == request_hash(one, [dict(QUESTION[0])], schema)
    assert base != request_hash(one, [{"role": "user", "content": "Up or down!"}], schema)
    assert base != request_hash(one, QUESTION, {**schema, "title": "Other"})
    assert base != request_hash(other, QUESTION, schema)


def test_a_script_refuses_the_call_that_it_does_not_have():
    with pytest.raises(UnscriptedCallError, match="not in the script"):
        ask(ScriptedLanguageModel([]), QUESTION, View, timeout_s=1)


def test_a_script_with_a_step_left_over_fails():
    with pytest.raises(AssertionError, match="1 of 1 steps"), ScriptedLanguageModel(["unused"]):
        pass
