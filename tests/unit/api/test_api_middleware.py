"""A body's size and time are limited before anything looks at it: against ASGI itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from quantflow.api.middleware import BodyLimit

Receive = Callable[[], Coroutine[Any, Any, dict[str, Any]]]
SCOPE: dict[str, Any] = {"type": "http", "method": "POST", "path": "/workflows/trigger", "headers": []}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def answered(receive: Receive, **limits: Any) -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    app = BodyLimit(echo, **{"max_bytes": 10, "timeout_s": 5.0, **limits})
    asyncio.run(asyncio.wait_for(app(dict(SCOPE), receive, send), 20))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def chunks(*parts: bytes) -> Receive:
    left = list(parts)

    async def receive() -> dict[str, Any]:
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    return receive


def test_a_body_in_parts_arrives_whole() -> None:
    assert answered(chunks(b"abc", b"", b"def")) == (200, b"abcdef")


def test_a_body_one_byte_too_large_is_refused() -> None:
    assert answered(chunks(b"a" * 5, b"b" * 5))[0] == 200
    status, body = answered(chunks(b"a" * 5, b"b" * 6))
    assert status == 413
    assert json.loads(body)["type"] == "urn:quantflow:problem:too-large"


def test_a_body_that_never_ends_is_refused_in_time() -> None:
    async def hang() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    status, body = answered(hang, timeout_s=0.05)
    assert status == 408
    assert json.loads(body)["type"] == "urn:quantflow:problem:slow-body"


def test_other_protocols_pass() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async def nothing() -> dict[str, Any]:
        return {}

    asyncio.run(BodyLimit(app, max_bytes=1, timeout_s=1.0)({"type": "lifespan"}, nothing, nothing))  # type: ignore[arg-type]
    assert seen == ["lifespan"]
