"""A LangChain chat model as a :class:`~quantflow.llm.LanguageModel`: the same code for every back end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantflow.errors import LanguageModelError, LanguageModelTimeoutError, LanguageModelUnavailableError
from quantflow.llm._answers import ChatMessage, Completion, Usage

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

#: The chat model with this time limit in seconds.
ChatFactory = Callable[[float], "BaseChatModel"]
#: The keyword arguments of the chat model's ``stream`` that carry a JSON schema.
SchemaBinding = Callable[[Mapping[str, Any]], dict[str, Any]]

_RETRY_AFTER_S = 0.5


@dataclass(frozen=True)
class ChatLanguageModel:
    """Streams an answer so that the time limit holds for the whole of it, and a stop reaches the server.

    Parameters
    ----------
    chat
        Makes the LangChain chat model for a time limit.
    bind
        Says where this chat model takes a JSON schema: the only thing that differs.
    """

    backend: str
    name: str
    parameters: Mapping[str, Any]
    chat: ChatFactory
    bind: SchemaBinding

    def complete(
        self, messages: Sequence[ChatMessage], *, json_schema: Mapping[str, Any], timeout_s: float
    ) -> Completion:
        deadline = time.monotonic() + timeout_s
        try:
            return self._stream(messages, json_schema, deadline, timeout_s)
        except LanguageModelUnavailableError:
            # Once more for a server that is just being restarted; a time-out is not repeated.
            left = deadline - time.monotonic() - _RETRY_AFTER_S
            if left <= 0:
                raise
            time.sleep(_RETRY_AFTER_S)
            return self._stream(messages, json_schema, deadline, left)

    def _stream(
        self, messages: Sequence[ChatMessage], json_schema: Mapping[str, Any], deadline: float, timeout_s: float
    ) -> Completion:
        from langsmith import tracing_context

        sent = [dict(message) for message in messages]
        # Tracing would send prompts to a hosted service wherever its variable happens to be set.
        with tracing_context(enabled=False), _translated(self.backend, timeout_s):
            return _collect(self.chat(timeout_s).stream(sent, **self.bind(json_schema)), deadline, timeout_s)


def _collect(chunks: Iterator[Any], deadline: float, timeout_s: float) -> Completion:
    whole: Any = None
    for chunk in chunks:
        if time.monotonic() > deadline:
            raise LanguageModelTimeoutError(f"no complete answer within {timeout_s:g} s")
        whole = chunk if whole is None else whole + chunk
    if whole is None:
        raise LanguageModelError("the answer was empty: the stream ended before its first token")
    counted = whole.usage_metadata or {}
    reasons = whole.response_metadata
    return Completion(
        text=str(whole.text),
        usage=Usage(counted.get("input_tokens"), counted.get("output_tokens")),
        finish_reason=reasons.get("finish_reason") or reasons.get("done_reason"),
    )


@contextmanager
def _translated(backend: str, timeout_s: float) -> Iterator[None]:
    """Turn what the clients raise (httpx's, openai's and ollama's own classes) into ours."""
    try:
        yield
    except LanguageModelError:
        raise
    except Exception as exc:
        raise _translate(exc, backend, timeout_s) from exc


def _translate(exc: Exception, backend: str, timeout_s: float) -> LanguageModelError:
    chain = [exc, *_causes(exc)]
    names = {kind.__name__ for link in chain for kind in type(link).__mro__}
    text = f"{backend}: {exc or type(exc).__name__}"
    if names & {"APITimeoutError", "TimeoutException", "TimeoutError"}:
        return LanguageModelTimeoutError(f"{backend}: no answer within {timeout_s:g} s")
    # ollama raises the builtin ConnectionError, openai APIConnectionError, httpx TransportError.
    if names & {"APIConnectionError", "TransportError", "ConnectionError"}:
        return LanguageModelUnavailableError(f"{text}; `quantflow status` shows whether it runs")
    if any(getattr(link, "status_code", None) in (502, 503, 504) for link in chain):
        return LanguageModelUnavailableError(text)
    return LanguageModelError(text)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    seen = exc.__cause__ or exc.__context__
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
