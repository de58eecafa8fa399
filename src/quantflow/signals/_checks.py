"""Checks of bars that every kind of signal makes before it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from quantflow.errors import InvalidBarsError, MissingColumnError

__all__ = ["column_matrix", "missing_column", "refuse_duplicates"]


def missing_column(name: str, column: str, present: Sequence[str]) -> MissingColumnError:
    """Return the error for bars that lack a column that the signal ``name`` reads."""
    return MissingColumnError(
        f"signal {name!r} reads the column {column!r}, which these bars do not have "
        f"(they have: {', '.join(present) or 'none'}); use a source that has it or another signal"
    )


def column_matrix(
    name: str, wanted: Sequence[str], columns: Mapping[str, npt.ArrayLike], label: Callable[[int], str]
) -> npt.NDArray[np.float64]:
    """Return ``wanted`` columns as the rows of a C-contiguous float64 matrix, all finite.

    Parameters
    ----------
    name
        Of the signal, for error messages.
    label
        Names a row (a bar) in error messages.

    Raises
    ------
    MissingColumnError
        A column is absent, or NaN throughout.
    InvalidBarsError
        A value is NaN or infinite, or lengths differ.
    """
    for column in wanted:
        if column not in columns:
            raise missing_column(name, column, list(columns))
    arrays = [np.asarray(columns[column], dtype=np.float64) for column in wanted]
    shapes = {column: array.shape for column, array in zip(wanted, arrays, strict=True)}
    if len(set(shapes.values())) != 1 or arrays[0].ndim != 1:
        raise InvalidBarsError([f"columns must be 1-D and of equal length, they are {shapes}"], source=name)
    matrix = np.array(arrays, dtype=np.float64, order="C")
    if not np.isfinite(matrix).all():
        _refuse_holes(name, wanted, columns, matrix, label)
    return matrix


def _refuse_holes(
    name: str,
    wanted: Sequence[str],
    columns: Mapping[str, npt.ArrayLike],
    matrix: npt.NDArray[np.float64],
    label: Callable[[int], str],
) -> None:
    bad = np.argwhere(~np.isfinite(matrix.T))
    row, index = bad[0]
    column = wanted[index]
    if np.isnan(matrix[index]).all():
        raise missing_column(name, column, [other for other in columns if other not in wanted])
    raise InvalidBarsError(
        [f"{column} is {matrix[index, row]} at {label(int(row))} ({len(bad)} such values)"], source=name
    )


def refuse_duplicates(name: str, bars: pl.DataFrame) -> None:
    """Refuse bars in which a symbol has a timestamp twice.

    Raises
    ------
    InvalidBarsError
        Names the first such symbol and session.
    """
    repeated = bars.filter(pl.struct("symbol", "timestamp").is_duplicated())
    if repeated.height:
        first = repeated.row(0, named=True)
        raise InvalidBarsError(
            [f"{repeated.height} rows share a symbol and timestamp, first {first['symbol']} at {first['session']}"],
            source=name,
        )
