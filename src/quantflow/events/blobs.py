"""Content by its hash: notebooks, modules, frames that events refer to."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext

from quantflow.errors import EventError, EventTooLargeError
from quantflow.events._database import Connection
from quantflow.events.log import EventLog

__all__ = ["Blobs"]

LARGEST_BLOB_BYTES = 200_000_000


class Blobs:
    """The table ``blobs`` of an event log's database: content never changes under its name."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def put(self, content: bytes, *, connection: Connection | None = None) -> str:
        """Keep the content and return its SHA-256, hexadecimal; the same content is kept once.

        Raises
        ------
        EventTooLargeError
            More than 200 MB.
        """
        if len(content) > LARGEST_BLOB_BYTES:
            raise EventTooLargeError(f"a blob of {len(content):,} bytes; {LARGEST_BLOB_BYTES:,} are allowed")
        name = hashlib.sha256(content).hexdigest()
        with self._log.transaction() if connection is None else nullcontext(connection) as active:
            active.execute(
                "INSERT INTO blobs (sha256, size, content) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (name, len(content), content),
            )
        return name

    def get(self, sha256: str, *, connection: Connection | None = None) -> bytes:
        """Return the content of that hash.

        Raises
        ------
        EventError
            No such blob, or its content no longer has that hash.
        """
        with self._log.transaction() if connection is None else nullcontext(connection) as active:
            row = active.execute("SELECT content FROM blobs WHERE sha256 = %s", (sha256,), binary=True).fetchone()
        if row is None:
            raise EventError(f"no blob {sha256}; was it put into another event log?")
        content = bytes(row[0])
        if hashlib.sha256(content).hexdigest() != sha256:
            raise EventError(f"blob {sha256} was changed in the database: its content has another hash")
        return content
