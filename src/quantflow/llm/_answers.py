"""What is asked of a language model and what comes back, without any back end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel

from quantflow.errors import LanguageModelUnavailableError

Outcome = Literal["ok", "unparsable", "timeout", "unavailable", "error"]
ChatMessage = Mapping[str, str]
SchemaT = TypeVar("SchemaT", bound=BaseModel)


@dataclass(frozen=True)
class Usage:
    """Tokens read and written; None where the back end did not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True)
class Completion:
    """The raw text of one answer. ``finish_reason`` is the back end's own word, e.g. ``stop`` or ``length``."""

    text: str
    usage: Usage = field(default_factory=Usage)
    finish_reason: str | None = None


class LanguageModel(Protocol):
    """Anything that answers messages with text that follows a JSON schema.

    ``parameters`` (temperature, seed, max_tokens) are part of what is recorded and hashed.
    """

    @property
    def backend(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, Any]: ...

    def complete(
        self, messages: Sequence[ChatMessage], *, json_schema: Mapping[str, Any], timeout_s: float
    ) -> Completion:
        """Return the answer, or raise.

        Raises
        ------
        LanguageModelTimeoutError
            The answer was not finished after ``timeout_s``.
        LanguageModelUnavailableError
            Nothing answers at its address.
        LanguageModelError
            The back end refused.
        """
        ...


@dataclass(frozen=True)
class Answer(Generic[SchemaT]):
    """One call, failures included: exactly what was sent and what was answered.

    ``value`` is None unless ``outcome`` is ``"ok"``: None is a failure, whatever the text says.
    """

    value: SchemaT | None
    outcome: Outcome
    backend: str
    language_model: str
    request_hash: str
    messages: tuple[dict[str, str], ...]
    json_schema: dict[str, Any]
    text: str | None
    error: str | None
    usage: Usage
    duration_s: float


@dataclass(frozen=True)
class NoLanguageModel:
    """Stands in where there is no language model; every call is ``unavailable`` with this reason."""

    reason: str
    backend: str = "none"
    name: str = "none"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def complete(
        self, messages: Sequence[ChatMessage], *, json_schema: Mapping[str, Any], timeout_s: float
    ) -> Completion:
        raise LanguageModelUnavailableError(self.reason)
