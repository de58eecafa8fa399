"""Numbered SQL files, applied in order, each once, each in a transaction of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import psycopg

from quantflow.errors import EventError
from quantflow.telemetry import get_logger

__all__ = ["Migration", "apply", "find"]

_NAME = re.compile(r"^\d{4}_[a-z0-9_]+\.sql$")
_LOCK = 0x51F0_0001

_log = get_logger(__name__)


class Migration(NamedTuple):
    """One file of ``events/migrations``."""

    name: str
    sql: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text: an applied file must not change any more."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def find() -> list[Migration]:
    """Return the migrations of this installation, in order."""
    directory = files("quantflow.events") / "migrations"
    names = sorted(entry.name for entry in directory.iterdir() if _NAME.match(entry.name))
    return [Migration(name, (directory / name).read_text(encoding="utf-8")) for name in names]


def apply(connection: psycopg.Connection[Any], migrations: Sequence[Migration]) -> list[str]:
    """Apply what is missing and return the names; several processes may call this at once.

    Raises
    ------
    EventError
        A file was changed after it had been applied to this database.
    """
    with connection.transaction():
        # Transaction-scoped, so that a killed process cannot leave the lock behind.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (name text PRIMARY KEY, digest text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        applied = {
            str(name): str(digest) for name, digest in connection.execute("SELECT name, digest FROM schema_migrations")
        }
        done = []
        for migration in migrations:
            if migration.name in applied:
                _check_unchanged(migration, applied[migration.name])
                continue
            connection.execute(migration.sql.encode())
            connection.execute(
                "INSERT INTO schema_migrations (name, digest) VALUES (%s, %s)", (migration.name, migration.digest)
            )
            done.append(migration.name)
    if done:
        _log.info("database migrated", applied=done)
    return done


def _check_unchanged(migration: Migration, digest: str) -> None:
    if migration.digest != digest:
        raise EventError(
            f"migration {migration.name} was changed after it had been applied to this database; "
            "undo the change and add a new file with a higher number"
        )
