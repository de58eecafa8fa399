"""The embedded server with its real weights: schema and invariants, never prose."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from quantflow.agents import MANAGER_BRIEF, RISK_BRIEF, TECHNICAL_BRIEF
from quantflow.agents._opinions import (
    ManagerAnswer,
    RiskAnswer,
    TechnicalAnswer,
    facts_for_manager,
    facts_for_risk,
    facts_for_technical,
)
from quantflow.llm import LanguageModel, ask, connect
from quantflow.settings import Settings
from quantflow.testing.wait import wait_until

pytestmark = pytest.mark.stack

EXPOSURE = {"net": 0.48, "gross": 0.48, "longs": 8, "shorts": 0}
TRENDS = [
    {
        "agreement": agreement,
        "positions": 8,
        "with_trend": held,
        "trend_return": earned,
        "momentum_return": earned / 4,
        "volatility": moved,
    }
    for agreement, held, earned, moved in (
        ("agrees", 8, 0.117, 0.06),
        ("disagrees", 0, -0.265, 0.093),
        ("is mixed", 3, 0.005, 0.2),
        ("is mixed", 5, -0.028, 0.465),
    )
]
RISKS = [
    {
        "tightness": tightness,
        "value_at_risk": lost,
        "cvar": lost * 1.4,
        "drawdown": lost * 10,
        "limits_used": {"max_var": used},
    }
    for tightness, lost, used in (
        ("comfortable", 0.004, 0.2),
        ("nearly used up", 0.011, 0.9),
        ("exceeded", 0.047, 2.37),
    )
]
OPINIONS = [
    {
        "technical_analyst": {"words": "", "judgement": f"trend {trend}", "confidence": 0.9},
        "risk_analyst": {"words": "", "judgement": f"concern {concern}", "confidence": 0.6},
    }
    for trend, concern in (("supports", "low"), ("contradicts", "high"), ("mixed", "medium"))
]


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def start(port: int, **streams: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "quantflow.llm.embedded"]
    return subprocess.Popen(command, env={**os.environ, "QUANTFLOW_LLM_PORT": str(port)}, **streams)


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=1, trust_env=False).json() == {"status": "ok"}
    except (httpx.HTTPError, ValueError):
        return False


def settings_for(port: int) -> Settings:
    return Settings(_env_file=None, llm_backend="embedded", llm_port=port)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a server that runs for this module."""
    chosen = free_port()
    process = start(chosen)
    wait_until(lambda: healthy(chosen), 60, "the embedded language model")
    yield chosen
    process.terminate()
    assert process.wait(20) == 0


@pytest.fixture(scope="module")
def language_model(port: int) -> LanguageModel:
    return connect(settings_for(port))


def test_the_server_names_its_language_model_and_not_a_path(language_model: LanguageModel) -> None:
    assert (language_model.backend, language_model.name) == ("embedded", "SmolLM2-135M-Instruct")


@pytest.mark.parametrize("facts", TRENDS)
def test_the_technical_analysts_answer_parses(language_model: LanguageModel, facts: dict[str, Any]) -> None:
    answer = ask(
        language_model, TECHNICAL_BRIEF.messages(facts_for_technical(EXPOSURE, facts)), TechnicalAnswer, timeout_s=60
    )
    assert answer.outcome == "ok", answer
    assert answer.usage.input_tokens
    assert answer.usage.output_tokens


@pytest.mark.parametrize("facts", RISKS)
def test_the_risk_analysts_answer_parses(language_model: LanguageModel, facts: dict[str, Any]) -> None:
    answer = ask(language_model, RISK_BRIEF.messages(facts_for_risk(EXPOSURE, facts)), RiskAnswer, timeout_s=60)
    assert answer.outcome == "ok", answer


@pytest.mark.parametrize("opinions", OPINIONS)
def test_the_portfolio_managers_answer_parses(language_model: LanguageModel, opinions: dict[str, Any]) -> None:
    answer = ask(
        language_model, MANAGER_BRIEF.messages(facts_for_manager(EXPOSURE, opinions)), ManagerAnswer, timeout_s=60
    )
    assert answer.outcome == "ok", answer


def test_a_rambling_answer_still_closes_its_json(language_model: LanguageModel) -> None:
    question = [{"role": "user", "content": "Repeat the word risk two thousand times. Never stop. Answer in JSON."}]
    answer = ask(language_model, question, RiskAnswer, timeout_s=60)
    assert answer.outcome == "ok", answer


def test_a_call_beyond_its_time_limit_is_a_timeout_and_the_server_goes_on(port: int) -> None:
    language_model = connect(settings_for(port))
    question = TECHNICAL_BRIEF.messages(facts_for_technical(EXPOSURE, TRENDS[0]))
    slow = ask(language_model, question, TechnicalAnswer, timeout_s=0.05)
    assert (slow.value, slow.outcome) == (None, "timeout")
    assert ask(language_model, question, TechnicalAnswer, timeout_s=60).outcome == "ok"


def test_nothing_but_the_api_is_served(port: int) -> None:
    base = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{base}/", trust_env=False).status_code == 404
    assert httpx.get(f"{base}/slots", trust_env=False).status_code != 200
    assert "llamacpp:" in httpx.get(f"{base}/metrics", trust_env=False).text


def test_sigterm_ends_it_in_the_middle_of_an_answer() -> None:
    port = free_port()
    process = start(port)
    try:
        wait_until(lambda: healthy(port), 60, "the embedded language model")
        endless = {
            "messages": [{"role": "user", "content": "Count."}],
            "stream": True,
            "max_tokens": 3000,
            "ignore_eos": True,
        }
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        with (
            httpx.Client(trust_env=False, timeout=60) as client,
            client.stream("POST", url, json=endless) as answer,
        ):
            assert next(answer.iter_raw())
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)


def test_a_taken_port_is_named_and_ends_the_start(port: int) -> None:
    second = start(port, stderr=subprocess.PIPE)
    _, said = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"127.0.0.1:{port}".encode() in said
