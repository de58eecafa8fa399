"""Checking a cron expression, field by field, with an error that says which field is wrong."""

from __future__ import annotations

import re

__all__ = ["PRESETS", "check_cron"]

PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, ("", *_MONTHS)),
    ("day of week", 0, 7, _DAYS),
)
_PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\d+))?", re.ASCII)


def check_cron(expression: str) -> str:
    """Return a valid cron expression of five fields, or preset, unchanged.

    Raises
    ------
    ValueError
        Names the field that is wrong, what was received and what is allowed.
    """
    if expression in PRESETS:
        return expression
    fields = expression.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f"received {expression!r} with {len(fields)} fields; allowed: 'minute hour day-of-month month day-of-week' "
            f"in UTC, such as '30 22 * * MON-FRI', or one of {', '.join(PRESETS)}"
        )
    for text, (name, low, high, words) in zip(fields, _FIELDS, strict=True):
        for part in text.split(","):
            if not _valid_part(part, low, high, words):
                raise ValueError(
                    f"{name} is {text!r}; allowed: *, {low}-{high}, lists (1,2), ranges (1-5), steps (*/5)"
                )
    return expression


def _valid_part(part: str, low: int, high: int, words: tuple[str, ...]) -> bool:
    match = _PART.fullmatch(part)
    if match is None or (match["step"] is not None and not 1 <= int(match["step"]) <= high):
        return False
    if match["first"] == "*":
        return match["last"] is None
    first = _number(match["first"], words)
    last = _number(match["last"], words) if match["last"] is not None else first
    if first is None or last is None:
        return False
    # A step on a single value ("5/10") means other things to other cron readers.
    return low <= first <= last <= high and (match["step"] is None or match["last"] is not None)


def _number(text: str, words: tuple[str, ...]) -> int | None:
    if text.isdigit():
        return int(text)
    return words.index(text.upper()) if text.upper() in words and text else None
