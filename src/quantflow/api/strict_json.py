"""JSON read strictly: what two readers could understand differently is refused.

Python's reader takes ``NaN``, ``1e400``, lone surrogates, NUL characters and repeated keys.
Each of them would fail later, in a database or in another language's reader, or would mean
something else there.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

__all__ = ["BadJsonError", "UnstorableJsonError", "loads"]

_UNSTORABLE_TEXT = re.compile("[\x00\ud800-\udfff]")
_LONGEST_NUMBER = 400
_DEEPEST = 64


class BadJsonError(ValueError):
    """The text is not one unambiguous JSON document in UTF-8."""


class UnstorableJsonError(ValueError):
    """A value that cannot be stored or passed on: not finite, or not valid Unicode text."""


def loads(body: bytes) -> Any:
    """Return the document that these bytes are.

    Raises
    ------
    BadJsonError
        Not UTF-8, not JSON, a key twice in one object, nested deeper than 64 levels, or an
        integer of more than 400 digits.
    UnstorableJsonError
        NaN, an infinity, a number too large for a double, a lone surrogate or a NUL.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise BadJsonError(f"the body is not UTF-8: byte {exc.start} ({exc.reason})") from None
    try:
        document = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded_integer,
        )
    except json.JSONDecodeError as exc:
        raise BadJsonError(f"the body is not JSON: {exc.msg} at character {exc.pos}") from None
    except RecursionError:
        raise BadJsonError(f"the body is nested too deeply; at most {_DEEPEST} levels are read") from None
    _check(document, 0)
    return document


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        raise BadJsonError(f"the key {repeated[0]!r} stands twice in one object")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise UnstorableJsonError(f"{text} is not a JSON number; numbers must be finite")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise UnstorableJsonError(f"the number {text[:20]} is too large; numbers must be finite doubles")
    return value


def _bounded_integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise BadJsonError(f"an integer of {len(text)} digits; at most {_LONGEST_NUMBER} are read")
    return int(text)


def _check(value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise BadJsonError(f"the body is nested too deeply; at most {_DEEPEST} levels are read")
    if isinstance(value, str):
        if found := _UNSTORABLE_TEXT.search(value):
            raise UnstorableJsonError(
                f"text holds U+{ord(found.group()):04X}; NUL characters and lone surrogates are not allowed"
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key, depth + 1)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
