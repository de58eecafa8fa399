"""What happens to every request before its route: correlation, limits, the API key.

Written against ASGI itself: a request without a key costs no body, no thread, no model.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quantflow.api.problems import problem_response, surprise_response
from quantflow.events.envelope import new_id
from quantflow.telemetry import correlation, get_logger

__all__ = ["CORRELATION_HEADER", "KEY_HEADER", "BodyLimit", "Correlation", "KeyRequired"]

log = get_logger(__name__)

CORRELATION_HEADER = "X-Correlation-ID"
KEY_HEADER = "X-API-Key"

_CORRELATION_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}\Z")
_TRACEPARENT = re.compile(r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


class Correlation:
    """Bind the caller's correlation id, or a new one, and answer it in the response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(CORRELATION_HEADER, "")
        own = given if _CORRELATION_ID.match(given) else None
        trace = headers.get("traceparent", "")
        scope.setdefault("state", {})["correlation_given"] = own is not None
        started = time.perf_counter()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out.setdefault(CORRELATION_HEADER, identity)
                out.setdefault("X-Content-Type-Options", "nosniff")
                out.setdefault("Cache-Control", "no-store")
            await send(message)

        identity = own or new_id()
        with correlation(identity, trace if _TRACEPARENT.match(trace) else None):
            try:
                await self._app(scope, receive, answer)
            except Exception as exc:  # the last place where the id is still bound
                if status:
                    raise  # half an answer is out; the server closes the connection
                await surprise_response(scope["path"], exc)(scope, receive, answer)
            if not scope["path"].startswith(("/health", "/docs")):
                milliseconds = round((time.perf_counter() - started) * 1e3, 1)
                log.info("request", method=scope["method"], path=scope["path"], status=status, duration_ms=milliseconds)


class KeyRequired:
    """Answer 401 to every request without the key, open paths excepted.

    Parameters
    ----------
    key
        The only accepted key. An empty one accepts nobody.
    is_open
        Says of a path that it needs no key.
    """

    def __init__(self, app: ASGIApp, *, key: str, is_open: Callable[[str], bool]) -> None:
        self._app = app
        self._key = key.encode()
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_open(scope["path"]) or self._accepts(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        refusal = problem_response(
            401,
            "unauthorized",
            f"send the API key in the header {KEY_HEADER}; `quantflow up` wrote it to secrets.env in QUANTFLOW_HOME",
            instance=scope["path"],
            headers={"WWW-Authenticate": f'ApiKey realm="quantflow", header="{KEY_HEADER}"'},
        )
        await refusal(scope, receive, send)

    def _accepts(self, headers: Headers) -> bool:
        given = headers.getlist(KEY_HEADER)
        return len(given) == 1 and bool(self._key) and hmac.compare_digest(given[0].encode(), self._key)


class BodyLimit:
    """Read the body whole, within a size and a time, before anything looks at it.

    Parameters
    ----------
    max_bytes
        A larger body is answered 413.
    timeout_s
        A body that takes longer is answered 408.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            await self._refuse(415, "unsupported-encoding", "send the body without Content-Encoding", scope, send)
            return
        try:
            body = await asyncio.wait_for(self._read(request), self._timeout_s)
        except TimeoutError:
            detail = f"the body did not arrive within {self._timeout_s:g} s"
            await self._refuse(408, "slow-body", detail, scope, send)
            return
        if body is None:
            await self._refuse(413, "too-large", f"the body is larger than {self._max_bytes} bytes", scope, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, request: Request) -> bytes | None:
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self._max_bytes:
            return None
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await request.receive()
            if message["type"] != "http.request":
                return b""  # the caller has gone
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                return None
            chunks.append(message.get("body", b""))
            if not message.get("more_body", False):
                return b"".join(chunks)

    @staticmethod
    async def _refuse(status: int, name: str, detail: str, scope: Scope, send: Send) -> None:
        refusal = problem_response(status, name, detail, instance=scope["path"], headers={"Connection": "close"})

        async def nothing() -> Message:
            return {"type": "http.disconnect"}

        await refusal(scope, nothing, send)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
