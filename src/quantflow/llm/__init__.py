"""Language models behind one call: ``connect`` to one, ``ask`` it in a JSON schema.

::

    class View(BaseModel):
        words: str = Field(max_length=200)
        direction: Literal["up", "down"]

    language_model = connect(settings)
    answer = ask(language_model, [{"role": "user", "content": "Up or down?"}], View, timeout_s=30)
    answer.value        # a View, or None
    answer.outcome      # "ok" | "unparsable" | "timeout" | "unavailable" | "error"
    answer.error        # why there is no value

An answer is an input, never an authority: whatever goes wrong is an ``outcome``, not an
exception, and a missing answer is never replaced by a guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantflow.llm._answers import Answer, Completion, LanguageModel, NoLanguageModel, Outcome, Usage
from quantflow.llm._asking import ask, parse_answer, request_hash

if TYPE_CHECKING:
    from quantflow.llm._backends import connect

__all__ = [
    "Answer",
    "Completion",
    "LanguageModel",
    "NoLanguageModel",
    "Outcome",
    "Usage",
    "ask",
    "connect",
    "parse_answer",
    "request_hash",
]


def __getattr__(name: str) -> Any:
    # LangChain costs a second to import: only who connects pays for it.
    if name == "connect":
        from quantflow.llm._backends import connect

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
