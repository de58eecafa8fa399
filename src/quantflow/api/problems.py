"""Errors as RFC 9457 problem documents: one shape for every refusal.

``type`` is a stable URN that a program may compare, ``detail`` is for a person, ``errors``
names each bad field of a request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from quantflow.errors import (
    ApprovalError,
    ContractError,
    EngineUnavailableError,
    EventError,
    EventTooLargeError,
    LogUnavailableError,
    OrchestrationError,
    ParameterError,
    QuantflowError,
    TransportError,
    UnknownRunError,
    UnknownVersionError,
    VersionConflictError,
)
from quantflow.telemetry import current_correlation, get_logger

__all__ = ["PROBLEM_RESPONSES", "Problem", "ProblemError", "install", "problem_response", "surprise_response"]

log = get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
_URN = "urn:quantflow:problem:"
#: Seconds after which a caller may try again when a part of the stack is down.
_RETRY_AFTER_S = "5"

#: First match wins: status and problem name of each of our exceptions.
_BY_EXCEPTION: tuple[tuple[type[QuantflowError], int, str], ...] = (
    (LogUnavailableError, 503, "event-log-unavailable"),
    (TransportError, 503, "broker-unavailable"),
    (EngineUnavailableError, 503, "engine-unavailable"),
    (UnknownRunError, 404, "unknown-run"),
    (UnknownVersionError, 404, "unknown-workflow"),
    (ParameterError, 422, "bad-parameters"),
    (ContractError, 422, "bad-contract"),
    (ApprovalError, 409, "approval-refused"),
    (VersionConflictError, 409, "conflict"),
    (EventTooLargeError, 413, "too-large"),
    (EventError, 422, "bad-request"),
    (OrchestrationError, 502, "engine-refused"),
)


class FieldProblem(BaseModel):
    """What is wrong with one field of the request."""

    field: str = Field(description="Path of the field, such as body.priority")
    message: str = Field(description="What was expected")


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    type: str = Field(description="Stable URN of the kind of problem")
    title: str = Field(description="The HTTP status in words")
    status: int = Field(description="The HTTP status")
    detail: str = Field(description="What was received, what is allowed, what to do next")
    instance: str = Field(description="Path of the request")
    correlation_id: str | None = Field(default=None, description="Look for it in the logs")
    errors: list[FieldProblem] = Field(default_factory=list, description="One entry per bad field")


class ProblemError(HTTPException):
    """A refusal with a status, a stable name and words for a person.

    An HTTPException, because FastAPI lets only those through while it reads a body.
    """

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.name = name
        self.errors = tuple(errors)


def problem_response(
    status: int,
    name: str,
    detail: str,
    *,
    instance: str,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the problem as a response."""
    problem = Problem(
        type=_URN + name,
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance,
        correlation_id=current_correlation(),
        errors=list(errors),
    )
    # ensure_ascii keeps whatever a caller sent, lone surrogates included, writable.
    content = json.dumps(problem.model_dump(exclude_none=True), ensure_ascii=True)
    return Response(content, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def _described(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


#: OpenAPI descriptions of the refusals that every operation may answer with.
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: _described(status) for status in (400, 401, 404, 405, 408, 409, 413, 415, 422, 500, 503)
}


def install(app: FastAPI) -> None:
    """Answer every error that is raised on purpose with a problem document.

    The others are answered by :func:`surprise_response`, where the correlation id is known.
    """
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(QuantflowError, _on_quantflow)


async def _on_problem(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, ProblemError)
    return problem_response(
        exc.status_code, exc.name, exc.detail, instance=request.url.path, errors=exc.errors, headers=exc.headers
    )


async def _on_validation(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    errors = [
        FieldProblem(field=".".join(str(part) for part in item["loc"]), message=str(item["msg"]))
        for item in exc.errors()
    ]
    detail = "; ".join(f"{error.field}: {error.message}" for error in errors[:5])
    return problem_response(422, "bad-request", detail, instance=request.url.path, errors=errors)


async def _on_http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    names = {404: "not-found", 405: "method-not-allowed"}
    name = names.get(exc.status_code, HTTPStatus(exc.status_code).phrase.lower().replace(" ", "-"))
    detail = str(exc.detail)
    if exc.status_code == 404:
        detail = f"no such path: {request.url.path}. See /docs"
    elif exc.status_code == 405:
        allowed = (exc.headers or {}).get("Allow") or (exc.headers or {}).get("allow", "")
        detail = f"{request.method} is not allowed on {request.url.path}; allowed: {allowed}"
    return problem_response(exc.status_code, name, detail, instance=request.url.path, headers=exc.headers)


async def _on_quantflow(request: Request, exc: Exception) -> Response:
    for kind, status, name in _BY_EXCEPTION:
        if isinstance(exc, kind):
            headers = {"Retry-After": _RETRY_AFTER_S} if status == 503 else {}
            if status >= 500:
                log.warning("request failed", path=request.url.path, status=status, error=str(exc))
            return problem_response(status, name, str(exc), instance=request.url.path, headers=headers)
    return surprise_response(request.url.path, exc)


def surprise_response(path: str, exc: Exception) -> Response:
    """Return the answer to an unexpected error: the log gets the traceback, the caller its id."""
    log.error("unexpected error", path=path, exc_info=exc)
    detail = "an unexpected error on our side; the log has it under this correlation id"
    return problem_response(500, "internal-error", detail, instance=path)
