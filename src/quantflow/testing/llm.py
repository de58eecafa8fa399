"""Language models for tests: a strict script, and a server that speaks the back ends' protocols."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from quantflow.llm import Completion, Usage

__all__ = ["ScriptedLanguageModel", "ScriptedServer", "Step", "UnscriptedCallError"]


class UnscriptedCallError(BaseException):
    """A call that the script does not have; not an ``Exception``, so that nothing under test can swallow it."""


@dataclass(frozen=True)
class Step:
    """One expected call and its answer.

    Parameters
    ----------
    reply
        Text, a dict that is sent as JSON, or an exception that is raised.
    expect
        Must occur in the last message.
    """

    reply: str | Mapping[str, Any] | Exception
    expect: str = ""
    usage: Usage = field(default_factory=lambda: Usage(input_tokens=11, output_tokens=7))


class ScriptedLanguageModel:
    """Answers step by step. An unexpected call, and a step that is left over, fail the test.

    >>> with ScriptedLanguageModel([Step({"words": "hello"})]) as scripted:
    ...     scripted.complete([{"role": "user", "content": "hi"}], json_schema={}, timeout_s=1).text
    '{"words": "hello"}'
    """

    backend = "scripted"
    name = "script"

    def __init__(self, steps: Iterable[Step | Mapping[str, Any] | str | Exception]) -> None:
        self.parameters: Mapping[str, Any] = {"temperature": 0}
        self.calls: list[list[dict[str, str]]] = []
        self._steps = [step if isinstance(step, Step) else Step(step) for step in steps]

    def complete(
        self, messages: Sequence[Mapping[str, str]], *, json_schema: Mapping[str, Any], timeout_s: float
    ) -> Completion:
        self.calls.append([dict(message) for message in messages])
        question = messages[-1]["content"]
        if len(self.calls) > len(self._steps):
            raise UnscriptedCallError(f"call {len(self.calls)} is not in the script: {question!r}")
        step = self._steps[len(self.calls) - 1]
        if step.expect not in question:
            raise UnscriptedCallError(f"call {len(self.calls)} should ask about {step.expect!r}: {question!r}")
        if isinstance(step.reply, Exception):
            raise step.reply
        text = step.reply if isinstance(step.reply, str) else json.dumps(dict(step.reply))
        return Completion(text=text, usage=step.usage, finish_reason="stop")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.check()

    def check(self) -> None:
        """Fail unless every step was used."""
        left = len(self._steps) - len(self.calls)
        assert left == 0, f"{left} of {len(self._steps)} steps of the script were not asked for"


Responder = Callable[[Mapping[str, Any]], str | Mapping[str, Any]]


class ScriptedServer:
    """An HTTP server that streams scripted answers as the embedded server and as Ollama do.

    ``respond`` gets the request's JSON body and returns the answer's text or JSON, and may block
    or raise (then the server answers 500). ``requests`` holds the bodies in order; ``on_headers``
    is shown each request's headers.

    Shapes: server-sent ``chat.completion.chunk`` objects of ``POST /v1/chat/completions`` and the
    list of ``GET /v1/models`` as in openai-python's ``types/chat/chat_completion_chunk.py`` and
    ``types/model.py``; NDJSON of ``POST /api/chat`` and ``GET /api/tags`` as in ollama-python's
    ``_types.py`` (``ChatResponse``, ``ListResponse``).
    """

    def __init__(
        self, respond: Responder, *, language_model: str = "scripted", ollama_models: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.respond = respond
        self.language_model = language_model
        self.ollama_models = [dict(entry) for entry in ollama_models]
        self.requests: list[dict[str, Any]] = []
        self.on_headers: Callable[[dict[str, str]], None] = lambda headers: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on, chosen by the system."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(server: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._json({"object": "list", "data": [{"id": server.language_model, "object": "model"}]})
            elif self.path == "/api/tags" and server.ollama_models:
                self._json({"models": server.ollama_models})
            else:
                self._json({"error": "not found"}, status=404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(body)
            server.on_headers(dict(self.headers.items()))
            try:
                answer = server.respond(body)
            except Exception as exc:  # noqa: BLE001 the script says what the server answers with 500
                self._json({"error": {"message": str(exc)}}, status=500)
                return
            text = answer if isinstance(answer, str) else json.dumps(dict(answer))
            lines = _ollama_lines(server, text) if self.path == "/api/chat" else _openai_lines(server, text)
            kind = "application/x-ndjson" if self.path == "/api/chat" else "text/event-stream"
            self._send("".join(lines).encode(), kind, 200)

        def _json(self, value: Any, *, status: int = 200) -> None:
            self._send(json.dumps(value).encode(), "application/json", status)

        def _send(self, content: bytes, kind: str, status: int) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                return  # the client has gone: what a time-out, and a killed worker, look like from here

    return Handler


def _openai_lines(server: ScriptedServer, text: str) -> list[str]:
    half = len(text) // 2
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": server.language_model}
    deltas: list[dict[str, Any]] = [
        {"delta": {"role": "assistant", "content": text[:half]}, "finish_reason": None},
        {"delta": {"content": text[half:]}, "finish_reason": None},
        {"delta": {}, "finish_reason": "stop"},
    ]
    chunks: list[dict[str, Any]] = [{**base, "choices": [{"index": 0, **delta}]} for delta in deltas]
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    chunks.append({**base, "choices": [], "usage": usage})
    return [*(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks), "data: [DONE]\n\n"]


def _ollama_lines(server: ScriptedServer, text: str) -> list[str]:
    half = len(text) // 2
    base = {"model": server.language_model, "created_at": "2026-01-01T00:00:00Z"}
    parts: list[dict[str, Any]] = [
        {**base, "message": {"role": "assistant", "content": text[:half]}, "done": False},
        {**base, "message": {"role": "assistant", "content": text[half:]}, "done": False},
        {
            **base,
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 11,
            "eval_count": 7,
        },
    ]
    return [json.dumps(part) + "\n" for part in parts]
