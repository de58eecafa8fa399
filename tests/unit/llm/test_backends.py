"""Both back ends through LangChain, over real HTTP on this machine, with one calling code."""

import socket
import threading

import pytest
from pydantic import BaseModel, ConfigDict, Field

from quantflow.llm import NoLanguageModel, Usage, ask, connect
from quantflow.settings import Settings
from quantflow.testing.llm import ScriptedServer

QUESTION = [{"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": "Up or down?"}]
SMALL = {"name": "smol:135m", "model": "smol:135m", "details": {"family": "llama", "families": ["llama"]}}
EMBEDDING = {"name": "nomic-embed", "model": "nomic-embed", "details": {"family": "bert", "families": ["nomic-bert"]}}


class View(BaseModel):
    model_config = ConfigDict(extra="forbid")

    words: str = Field(max_length=40)


@pytest.fixture
def nothing_there():
    """An address on which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def settings_for(backend, server, other):
    urls = {"embedded": (f"{server.url}/v1", other), "ollama": (f"{other}/v1", server.url)}[backend]
    return Settings(_env_file=None, llm_backend=backend, llm_url=urls[0], ollama_url=urls[1])


@pytest.mark.parametrize("backend", ["embedded", "ollama"])
def test_the_same_call_is_answered_by_either_back_end(backend, nothing_there):
    with ScriptedServer(lambda body: {"words": "up"}, ollama_models=[SMALL]) as server:
        answer = ask(connect(settings_for(backend, server, nothing_there)), QUESTION, View, timeout_s=10)
    assert answer.value == View(words="up")
    assert (answer.backend, answer.usage) == (backend, Usage(11, 7))


@pytest.mark.parametrize("backend", ["embedded", "ollama"])
def test_messages_schema_and_sampling_reach_the_server(backend, nothing_there):
    with ScriptedServer(lambda body: {"words": "up"}, ollama_models=[SMALL]) as server:
        ask(connect(settings_for(backend, server, nothing_there)), QUESTION, View, timeout_s=10)
    (body,) = server.requests
    assert [(message["role"], message["content"]) for message in body["messages"]] == [
        ("system", "Answer in JSON."),
        ("user", "Up or down?"),
    ]
    if backend == "embedded":
        assert body["response_format"]["json_schema"]["schema"] == View.model_json_schema()
        assert (body["temperature"], body["seed"], body["max_tokens"]) == (0, 7, 320)
    else:
        assert body["format"] == View.model_json_schema()
        options = body["options"]
        assert (options["temperature"], options["seed"], options["num_predict"]) == (0, 7, 320)


@pytest.mark.parametrize("backend", ["embedded", "ollama"])
def test_a_server_that_is_too_slow_is_a_timeout(backend, nothing_there):
    release = threading.Event()

    def blocked(body):
        release.wait(10)
        return {"words": "late"}

    with ScriptedServer(blocked, ollama_models=[SMALL]) as server:
        answer = ask(connect(settings_for(backend, server, nothing_there)), QUESTION, View, timeout_s=0.3)
        release.set()
    assert (answer.value, answer.outcome) == (None, "timeout")
    assert answer.duration_s < 5


@pytest.mark.parametrize("backend", ["embedded", "ollama"])
def test_a_server_that_refuses_is_an_error_with_its_words(backend, nothing_there):
    def refuse(body):
        raise ValueError("grammar too large")

    with ScriptedServer(refuse, ollama_models=[SMALL]) as server:
        answer = ask(connect(settings_for(backend, server, nothing_there)), QUESTION, View, timeout_s=5)
    assert (answer.value, answer.outcome) == (None, "error")
    assert "grammar too large" in answer.error


@pytest.mark.parametrize("backend", ["embedded", "ollama"])
def test_a_server_that_went_away_is_unavailable(backend, nothing_there):
    with ScriptedServer(lambda body: {"words": "up"}, ollama_models=[SMALL]) as server:
        language_model = connect(settings_for(backend, server, nothing_there))
    answer = ask(language_model, QUESTION, View, timeout_s=2)
    assert (answer.value, answer.outcome) == (None, "unavailable")


def test_auto_takes_an_ollama_that_has_a_language_model():
    with ScriptedServer(lambda body: {"words": "up"}, ollama_models=[EMBEDDING, SMALL]) as server:
        found = connect(Settings(_env_file=None, llm_url=f"{server.url}/v1", ollama_url=server.url))
    assert (found.backend, found.name) == ("ollama", "smol:135m")


def test_auto_takes_the_embedded_server_where_ollama_only_embeds():
    with ScriptedServer(lambda body: {"words": "up"}, ollama_models=[EMBEDDING]) as server:
        found = connect(Settings(_env_file=None, llm_url=f"{server.url}/v1", ollama_url=server.url))
    assert (found.backend, found.name) == ("embedded", "scripted")


def test_auto_takes_the_embedded_server_where_no_ollama_answers(nothing_there):
    with ScriptedServer(lambda body: {"words": "up"}) as server:
        found = connect(Settings(_env_file=None, llm_url=f"{server.url}/v1", ollama_url=nothing_there))
    assert found.backend == "embedded"


def test_where_nothing_answers_the_result_says_so_at_every_call(nothing_there):
    found = connect(Settings(_env_file=None, llm_url=f"{nothing_there}/v1", ollama_url=nothing_there))
    assert isinstance(found, NoLanguageModel)
    assert nothing_there in ask(found, QUESTION, View, timeout_s=1).error


def test_none_is_a_language_model_that_is_never_there():
    answer = ask(connect(Settings(_env_file=None, llm_backend="none")), QUESTION, View, timeout_s=1)
    assert answer.outcome == "unavailable"
    assert "QUANTFLOW_LLM_BACKEND" in answer.error


def test_no_key_or_organisation_of_the_environment_is_sent(monkeypatch, nothing_there):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-private")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-private")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-private")
    seen = []
    with ScriptedServer(lambda body: {"words": "up"}) as server:
        server.on_headers = seen.append
        ask(connect(settings_for("embedded", server, nothing_there)), QUESTION, View, timeout_s=10)
    assert seen
    assert "private" not in str(seen)
