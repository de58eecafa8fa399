"""What a notebook calls while it runs: its inputs, its signal, its recorded outputs.

The runner tells the kernel where everything is through one file, named by the environment
variable ``QUANTFLOW_NOTEBOOK_RUN``. Without that variable, in JupyterLab, inputs fall back to
real history, code to the ``pipelines/`` directory of the project, and recording only checks.
"""

from __future__ import annotations

import json
import math
import numbers
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantflow.errors import ContractError, DataError, ParameterError
from quantflow.notebooks.code import Code

if TYPE_CHECKING:
    import polars as pl

__all__ = ["CONTEXT_VARIABLE", "RunContext", "input_bars", "load_signal", "record", "record_frame", "run_context"]

#: Environment variable of a kernel that a runner started.
CONTEXT_VARIABLE = "QUANTFLOW_NOTEBOOK_RUN"

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*", re.ASCII)


@dataclass(frozen=True)
class RunContext:
    """Where a run's inputs, code and outputs are. Paths are absolute."""

    output_dir: str
    code_dir: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def values_path(self) -> Path:
        """File of the recorded values."""
        return Path(self.output_dir) / "values.json"

    @property
    def frames_dir(self) -> Path:
        """Directory of the recorded frames."""
        return Path(self.output_dir) / "frames"

    def write(self, path: Path) -> None:
        """Write the file that :func:`run_context` reads."""
        path.write_text(json.dumps(asdict(self) | {"inputs": dict(self.inputs)}, indent=2))


@cache
def _context_at(path: str) -> RunContext:
    return RunContext(**json.loads(Path(path).read_text()))


def run_context() -> RunContext | None:
    """Return the run that this kernel belongs to; None when a person runs the notebook."""
    path = os.environ.get(CONTEXT_VARIABLE)
    return _context_at(path) if path else None


def input_bars(
    name: str = "bars",
    *,
    as_of: datetime | str | None = None,
    symbols: Sequence[str] | None = None,
    start: date | None = None,
    source: str = "sp500",
) -> pl.DataFrame:
    """Return the bars of this run, in the canonical schema, as they were known at ``as_of``.

    Parameters
    ----------
    name
        Name of the runner's input.
    as_of
        Moment of the reader: timezone-aware, or text in ISO format (without an offset: UTC; a
        date means its end). None or empty text: everything that the input holds.
    symbols
        Only these; None: all.
    start
        First session; None: no limit.
    source
        Read instead when no runner gives inputs, which is how a quant works by hand.

    Raises
    ------
    DataError
        The runner gives no input of that name.
    ParameterError
        ``as_of`` is not a moment.
    """
    from quantflow.data import get_source

    moment = _moment(as_of)
    context = run_context()
    if context is None or not context.inputs:
        return get_source(source).read(symbols, start=start, as_of=moment)
    if name not in context.inputs:
        known = ", ".join(sorted(context.inputs))
        raise DataError(f"this run has no input {name!r}; it has: {known}")
    return get_source("file", path=context.inputs[name]).read(symbols, start=start, as_of=moment)


def load_signal(reference: str) -> Any:
    """Return the signal ``module:name``: of the promoted version in a run, of ``pipelines/`` by hand.

    By hand it is read anew on every call, so that an edit shows at once.

    Raises
    ------
    ContractError
        There is no such module or name, or no ``pipelines/`` directory here or above.
    """
    context = run_context()
    if context is not None and context.code_dir is not None:
        directory = Path(context.code_dir)
    else:
        directory = _pipelines_directory(Path.cwd())
    return Code.from_directory(directory).load(reference)


def record(name: str, value: Any) -> None:
    """Record a typed output of this run under a dotted name, such as ``metrics.sharpe_ratio``.

    Numbers, texts, booleans, None, dates, and lists and mappings of them. NaN and infinity
    are recorded as null, because JSON has neither.

    Raises
    ------
    DataError
        The name is not dotted lower case, or the value is of another type.
    """
    values = {_checked(name): _plain(value, name)}
    context = run_context()
    if context is None:
        return
    path = context.values_path
    if path.exists():
        values = json.loads(path.read_text()) | values
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=1, allow_nan=False))
    temporary.replace(path)


def record_frame(name: str, frame: object) -> None:
    """Record a Polars (or pandas) frame of this run as Parquet.

    Raises
    ------
    DataError
        The name is not lower case, or the value is not a frame.
    """
    table = _polars(frame, _checked(name))
    context = run_context()
    if context is None:
        return
    context.frames_dir.mkdir(exist_ok=True)
    path = context.frames_dir / f"{name}.parquet"
    temporary = path.with_suffix(".tmp")
    table.write_parquet(temporary)
    temporary.replace(path)


def _polars(frame: Any, name: str) -> pl.DataFrame:
    import polars as pl

    if isinstance(frame, pl.DataFrame):
        return frame
    if type(frame).__name__ == "DataFrame" and type(frame).__module__.partition(".")[0] == "pandas":
        table: pl.DataFrame = pl.from_pandas(frame)
        return table
    raise DataError(f"frame {name!r} is a {type(frame).__name__}; allowed: a Polars or pandas frame")


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise DataError(f"received output name {name!r}; allowed: dotted lower case, such as 'metrics.sharpe_ratio'")
    return name


def _plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if type(value).__name__ in ("bool", "bool_"):  # NumPy's, without importing NumPy
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    raise DataError(
        f"output {name!r} is a {type(value).__name__}; record a number, text, date, list or mapping of them"
    )


def _moment(as_of: datetime | str | None) -> datetime:
    if as_of is None or as_of == "":
        # Later than any row: a run's input was cut at the moment of its request already.
        return datetime.max.replace(tzinfo=UTC)
    if isinstance(as_of, str):
        text = as_of.strip()
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ParameterError(f"as_of is {text!r}; allowed: ISO time such as 2022-12-28T21:15:00Z") from None
        if len(text) == len("2022-12-28"):
            moment = moment.replace(hour=23, minute=59, second=59, microsecond=999_999)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    if as_of.tzinfo is None:
        raise ParameterError(f"as_of is {as_of.isoformat()} without a timezone; give it one, such as UTC")
    return as_of


def _pipelines_directory(start: Path) -> Path:
    for directory in (start, *start.parents):
        if (directory / "pipelines").is_dir():
            return directory / "pipelines"
    raise ContractError(str(start), ["has no pipelines/ directory, nor has a directory above it"])
