"""A wall around tests that must not touch the network."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

__all__ = ["NetworkTouched", "no_network"]


class NetworkTouched(Exception):
    """A test tried to reach another machine.

    Not an ``OSError``: code that retries after those must not swallow it.
    """


@contextmanager
def no_network() -> Iterator[None]:
    """Refuse every connection that is made inside: by Python's sockets, and by libcurl, which has its own."""
    from curl_cffi import Curl

    def refuse(*args: Any, **_: Any) -> Any:
        raise NetworkTouched(f"a connection was tried: {args[1:]!r}")

    with (
        patch.object(socket.socket, "connect", refuse),
        patch.object(socket.socket, "connect_ex", refuse),
        patch.object(socket, "getaddrinfo", lambda *args, **options: refuse(None, *args)),
        patch.object(Curl, "perform", refuse),
    ):
        yield
