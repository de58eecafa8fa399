"""A real Ollama serving the same weights: found by its address, asked by the same code."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from quantflow.agents import RISK_BRIEF
from quantflow.agents._opinions import RiskAnswer
from quantflow.llm import ask, connect
from quantflow.llm.embedded import weights
from quantflow.settings import Settings
from quantflow.testing.wait import wait_until

pytestmark = [pytest.mark.ollama, pytest.mark.slow]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An Ollama of this module's own, with one language model."""
    program = shutil.which("ollama")
    assert program, "the mark `ollama` needs an ollama program on PATH"
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{held.getsockname()[1]}"
    home = tmp_path_factory.mktemp("ollama")
    environment = {**os.environ, "OLLAMA_HOST": place, "OLLAMA_MODELS": str(home / "models")}
    server = subprocess.Popen([program, "serve"], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(f"http://{place}"), 60, "ollama")
        recipe: Path = home / "Modelfile"
        recipe.write_text(f"FROM {weights()}\n")
        subprocess.run([program, "create", "smol", "-f", recipe], env=environment, check=True, capture_output=True)
        yield f"http://{place}"
    finally:
        server.terminate()
        server.wait(30)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/api/tags", timeout=1, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def test_a_running_ollama_is_found_and_answers_in_the_schema(address: str) -> None:
    language_model = connect(Settings(_env_file=None, ollama_url=address))
    assert (language_model.backend, language_model.name) == ("ollama", "smol:latest")
    facts = (
        "Proposed: net +40.0 %, 8 long, 0 short.\nThe limits are comfortable: 45 % of the most used one is taken. "
        "One-day value at risk 0.6 %, CVaR 0.9 %, drawdown 6.0 %."
    )
    answer = ask(language_model, RISK_BRIEF.messages(facts), RiskAnswer, timeout_s=120)
    assert answer.outcome == "ok", answer
    assert answer.usage.output_tokens
