"""``ask``: one question in a JSON schema, one recorded answer, no exception for model trouble."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from quantflow.errors import LanguageModelTimeoutError, LanguageModelUnavailableError
from quantflow.events.types import canonical_json
from quantflow.llm._answers import Answer, ChatMessage, LanguageModel, Outcome, SchemaT, Usage
from quantflow.telemetry import get_logger

_log = get_logger(__name__)


def ask(
    language_model: LanguageModel, messages: Sequence[ChatMessage], schema: type[SchemaT], *, timeout_s: float
) -> Answer[SchemaT]:
    """Return the language model's answer as a ``schema``, or an answer that says why there is none.

    Parameters
    ----------
    messages
        ``{"role": "system" | "user" | "assistant", "content": ...}``, oldest first.
    schema
        A flat pydantic model. Bound its strings with ``max_length``, or a small language model
        rambles until its token limit and the JSON never closes.
    timeout_s
        Time limit of the whole call, in seconds.

    Returns
    -------
    Answer
        ``value`` is None unless the text parsed and validated. Nothing is repaired or guessed.
    """
    sent = tuple({"role": message["role"], "content": message["content"]} for message in messages)
    json_schema = schema.model_json_schema()
    digest = request_hash(language_model, sent, json_schema)
    started = time.monotonic()
    value: SchemaT | None = None
    text: str | None = None
    error: str | None = None
    usage = Usage()
    try:
        completion = language_model.complete(sent, json_schema=json_schema, timeout_s=timeout_s)
    except Exception as exc:  # noqa: BLE001 a language model must never break a run, whatever its client raises
        outcome, error = _outcome_of(exc), str(exc) or type(exc).__name__
    else:
        # A half of a surrogate pair cannot be written in UTF-8, so not recorded either.
        text, usage = completion.text.encode("utf-8", "replace").decode(), completion.usage
        value, error = parse_answer(text, schema)
        outcome = "unparsable" if value is None else "ok"
        if error is not None and completion.finish_reason == "length":
            error = f"the answer was cut off at the token limit: {error}"
    duration_s = time.monotonic() - started
    _log.info(
        "language model asked",
        backend=language_model.backend,
        language_model=language_model.name,
        outcome=outcome,
        duration_s=round(duration_s, 3),
        error=error,
    )
    return Answer(
        value=value,
        outcome=outcome,
        backend=language_model.backend,
        language_model=language_model.name,
        request_hash=digest,
        messages=sent,
        json_schema=json_schema,
        text=text,
        error=error,
        usage=usage,
        duration_s=duration_s,
    )


def parse_answer(text: str, schema: type[SchemaT]) -> tuple[SchemaT | None, str | None]:
    """Return ``(value, None)``, or ``(None, reason)`` where the text is not JSON of this schema."""
    try:
        return schema.model_validate_json(text), None
    except ValidationError as exc:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'answer'}: {problem['msg']}"
            for problem in exc.errors(include_url=False, include_input=False)
        )
        return None, f"not a {schema.__name__}: {problems}"


def request_hash(language_model: LanguageModel, messages: Sequence[ChatMessage], json_schema: Mapping[str, Any]) -> str:
    """Return the SHA-256 that identifies a request: back end, language model, parameters, messages and schema."""
    request = {
        "backend": language_model.backend,
        "language_model": language_model.name,
        "parameters": dict(language_model.parameters),
        "messages": [dict(message) for message in messages],
        "json_schema": json_schema,
    }
    return hashlib.sha256(canonical_json(request)).hexdigest()


def _outcome_of(exc: Exception) -> Outcome:
    if isinstance(exc, LanguageModelTimeoutError):
        return "timeout"
    if isinstance(exc, LanguageModelUnavailableError):
        return "unavailable"
    return "error"
