"""The package's front door."""

from __future__ import annotations

import subprocess
import sys

import pytest

import quantflow.events as events


@pytest.mark.parametrize("name", events.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(events, name) is not None
    assert name in dir(events)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        events.nonsense  # noqa: B018


def test_importing_the_package_loads_no_client() -> None:
    heavy = "{'kafka', 'confluent_kafka', 'psycopg', 'polars'}"
    code = f"import sys, quantflow.events; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
