from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from quantflow.data import sources
from quantflow.data.packaged import IndexSource
from quantflow.data.sources import check_symbols, get_source, source_names
from quantflow.errors import DataError, UnknownSourceError, UnknownSymbolError


def plugins(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    points = [EntryPoint(name, value, sources.ENTRY_POINT_GROUP) for name, value in values.items()]

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        assert group == "quantflow.sources"
        return [point for point in points if name in (None, point.name)]

    monkeypatch.setattr(sources, "entry_points", entry_points)


def test_the_built_in_sources_are_known_by_name() -> None:
    assert {"sp500", "index", "file", "store", "yahoo"} <= set(source_names())


def test_an_unknown_source_is_named_with_those_that_exist() -> None:
    with pytest.raises(UnknownSourceError, match=r"unknown source 'yaho'; known: 'file', 'index', 'sp500'"):
        get_source("yaho")


def test_options_that_a_source_does_not_take_are_named() -> None:
    with pytest.raises(DataError, match=r"source 'sp500' was given \['colour'\]"):
        get_source("sp500", colour="red")
    with pytest.raises(DataError, match="missing a required argument: 'path'"):
        get_source("file")


def test_a_plugin_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(monkeypatch, mine="quantflow.data.packaged:IndexSource")
    assert "mine" in source_names()
    assert isinstance(get_source("mine"), IndexSource)


def test_a_plugin_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(monkeypatch, broken="no_such_module:Source")
    with pytest.raises(UnknownSourceError, match=r"registered as no_such_module:Source and cannot be imported"):
        get_source("broken")


def test_a_plugin_that_gives_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(monkeypatch, odd="builtins:dict")
    with pytest.raises(UnknownSourceError, match="gives a dict"):
        get_source("odd")


def test_a_text_is_not_a_list_of_symbols() -> None:
    with pytest.raises(DataError, match=r"give a list: \['AAPL'\]"):
        check_symbols("AAPL", ["AAPL"], source="any")


def test_a_long_list_of_symbols_is_shortened() -> None:
    known = [f"S{number:03d}" for number in range(500)]
    with pytest.raises(UnknownSymbolError, match="S029 and 470 more"):
        check_symbols(["X"], known, source="any")


@pytest.mark.parametrize("module", ["polars", "pandas", "skfolio", "arch", "yfinance", "exchange_calendars"])
def test_importing_the_package_loads_no_heavy_module(module: str) -> None:
    code = f"import sys, quantflow.data; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parent).returncode == 0


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import quantflow.data

    unknown: Any = "no_such_name"
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(quantflow.data, unknown)
    assert set(dir(quantflow.data)) == set(quantflow.data.__all__)
    assert all(getattr(quantflow.data, name) is not None for name in quantflow.data.__all__)
