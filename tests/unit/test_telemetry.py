"""Logs are one JSON object a line, carry the correlation id, and never a secret."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog

from quantflow.telemetry import correlation, current_correlation, get_logger, new_traceparent, setup_logging


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    setup_logging("test", level="info")
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def last_line(stream: io.StringIO) -> dict[str, str]:
    return json.loads(stream.getvalue().splitlines()[-1])


def test_a_line_carries_service_and_correlation_id(log_lines: io.StringIO) -> None:
    with correlation("run-1"):
        get_logger("quantflow.x").info("run accepted", run_id="run-1")
    line = last_line(log_lines)
    assert line["service"] == "test"
    assert line["correlation_id"] == "run-1"
    assert line["event"] == "run accepted"
    assert re.fullmatch(r"[0-9a-f]{32}", line["trace_id"])


def test_foreign_log_lines_have_the_same_shape(log_lines: io.StringIO) -> None:
    logging.getLogger("foreign").warning("slow %s", "broker")
    assert last_line(log_lines)["event"] == "slow broker"


def test_secrets_are_redacted(log_lines: io.StringIO) -> None:
    get_logger("x").info("connect", database_password="hush", address="postgresql://quantflow:hush@db/quantflow")
    assert "hush" not in log_lines.getvalue()


def test_correlation_ends_with_its_block() -> None:
    with correlation("outer"):
        with correlation("inner"):
            assert current_correlation() == "inner"
        assert current_correlation() == "outer"
    assert current_correlation() is None


def test_traceparent_is_w3c() -> None:
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", new_traceparent())
