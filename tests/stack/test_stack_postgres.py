"""Where PostgreSQL's programs and data are put, also for root, as whom it cannot run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantflow.settings import Settings, ensure_secrets
from quantflow.stack import postgres
from quantflow.stack.layout import Layout
from quantflow.testing.stack import free_ports

pytestmark = pytest.mark.stack


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    ensure_secrets(tmp_path / "home")
    found = Settings.load(home=tmp_path / "home", postgres_port=free_ports(1)[0])
    yield found
    postgres.remove_data(Layout(found.home))


def test_a_cluster_is_made_once_and_found_again(settings: Settings) -> None:
    layout = Layout(settings.home)
    first = postgres.prepare_postgres(settings, layout)
    identity = (first.data / "PG_VERSION").stat().st_ino
    second = postgres.prepare_postgres(settings, layout)
    assert second == first
    assert (second.data / "PG_VERSION").stat().st_ino == identity
    assert f"port = {settings.postgres_port}" in (first.data / "quantflow.conf").read_text()
    assert (first.data / "pg_hba.conf").read_text() == "host all all all scram-sha-256\n"


def test_no_file_of_the_cluster_holds_its_password_in_the_clear(settings: Settings) -> None:
    server = postgres.prepare_postgres(settings, Layout(settings.home))
    password = settings.database_password.get_secret_value().encode()
    around = [*server.data.rglob("*"), *server.data.parent.iterdir()]
    assert not [path for path in around if path.is_file() and password in path.read_bytes()]


def test_the_data_belong_to_who_runs_the_server(settings: Settings) -> None:
    server = postgres.prepare_postgres(settings, Layout(settings.home))
    owner = server.data.owner()
    assert owner == (server.user or Path(settings.home).owner())
    assert (os.geteuid() == 0) == bool(server.user)


def test_what_an_interrupted_start_left_is_made_anew(settings: Settings) -> None:
    layout = Layout(settings.home)
    server = postgres.prepare_postgres(settings, layout)
    (server.data / "PG_VERSION").unlink()
    (server.data / "rubbish").touch()
    postgres.prepare_postgres(settings, layout)
    assert (server.data / "PG_VERSION").exists()
    assert not (server.data / "rubbish").exists()


def test_removing_the_data_removes_them_wherever_they_are(settings: Settings) -> None:
    layout = Layout(settings.home)
    server = postgres.prepare_postgres(settings, layout)
    postgres.remove_data(layout)
    assert not server.data.exists()
    assert not layout.postgres.exists()


def test_programs_that_others_cannot_reach_are_copied_for_the_servers_user(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    monkeypatch.setattr(postgres, "ROOT_STATE", state)
    monkeypatch.setattr(postgres, "_can_traverse", lambda *_: False)
    server = postgres.locate_server(Layout(settings.home))
    again = postgres.locate_server(Layout(settings.home))
    assert again == server
    assert (server.bin / "postgres").exists()
    # An ordinary user runs the installed programs on data in the home.
    assert server.bin.is_relative_to(state) == (os.geteuid() == 0)
    assert server.data.is_relative_to(state) == (os.geteuid() == 0)
