"""Fixtures on real parts, shared by every test that needs one.

``database_url`` and ``kafka_bootstrap`` use the servers named by
``QUANTFLOW_TEST_DATABASE`` and ``QUANTFLOW_TEST_KAFKA`` where these are set; otherwise the
real parts are started once per session, on free ports, in a temporary home. ``stack`` is
everything that ``quantflow up`` starts.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import pytest

if TYPE_CHECKING:
    from quantflow.testing.stack import LocalStack

pytest_plugins = ["quantflow.testing.parts"]

# Two cores shared with a broker and a database: how long an example takes says nothing about the code.
hypothesis.settings.register_profile(
    "quantflow", deadline=None, max_examples=40, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("quantflow")


@pytest.fixture(scope="session")
def shared_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A broker and a database of this session's own, nothing else."""
    from quantflow.testing.stack import LocalStack

    stack = LocalStack(tmp_path_factory.mktemp("parts"))
    try:
        stack.up("--only", "kafka,postgres")
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """The whole stack on a home and ports of its own, its project a copy that tests may edit."""
    from quantflow.testing.stack import LocalStack, copy_project

    directory = tmp_path_factory.mktemp("stack")
    copy_project(Path(__file__).parent.parent, directory / "project")
    stack = LocalStack(directory, project=directory / "project")
    try:
        stack.up()
        # Read now: what tests run on it later grows its services beyond what a user's start takes.
        stack.status_at_start = json.loads(stack.cli("status", "--json").stdout)
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="session")
def database_server(request: pytest.FixtureRequest) -> str:
    """Address of a PostgreSQL whose role may create databases."""
    if given := os.environ.get("QUANTFLOW_TEST_DATABASE"):
        return given
    servers: LocalStack = request.getfixturevalue("shared_parts")
    return servers.settings.local_database("postgres")


@pytest.fixture
def database_url(database_server: str) -> Iterator[str]:
    """Address of a fresh, empty database, dropped after the test."""
    import psycopg

    name = f"test_{uuid.uuid4().hex[:16]}"
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" STRATEGY file_copy')
    yield urlunsplit(urlsplit(database_server)._replace(path=f"/{name}"))
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def kafka_bootstrap(request: pytest.FixtureRequest) -> str:
    """``host:port`` of a broker; use it with ``topic_prefix``."""
    if given := os.environ.get("QUANTFLOW_TEST_KAFKA"):
        return given
    servers: LocalStack = request.getfixturevalue("shared_parts")
    return servers.settings.kafka


@pytest.fixture
def topic_prefix() -> str:
    """A prefix that no other test uses, for topics, groups and transactional ids."""
    return f"t{uuid.uuid4().hex[:10]}."
