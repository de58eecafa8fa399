"""The frames are held against the packages' own loaders: reading the files in place must change nothing."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from quantflow.data import get_source, packaged, sessions_between
from quantflow.errors import SchemaDriftError, SourceUnavailableError

FAR = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.mark.slow
def test_sp500_is_what_skfolio_loads() -> None:
    from skfolio.datasets import load_sp500_dataset

    theirs = load_sp500_dataset()
    ours = get_source("sp500").read(as_of=FAR).pivot(on="symbol", index="session", values="close").sort("session")
    assert ours.columns[1:] == list(theirs.columns)
    assert ours["session"].to_list() == [stamp.date() for stamp in theirs.index]
    # Polars reads decimals to the nearest float, pandas to one beside it at times.
    assert ours.drop("session").to_numpy() == pytest.approx(theirs.to_numpy(), rel=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize(("symbol", "module"), [("SP500", "sp500"), ("NASDAQ", "nasdaq")])
def test_index_is_what_arch_loads(symbol: str, module: str) -> None:
    from importlib import import_module

    theirs = import_module(f"arch.data.{module}").load()
    ours = get_source("index").read([symbol], as_of=FAR)
    assert ours["session"].to_list() == [stamp.date() for stamp in theirs.index]
    for name in ("open", "high", "low", "close", "volume"):
        assert ours[name].to_numpy() == pytest.approx(theirs[name.capitalize()].to_numpy(), rel=1e-15)
    # Levels of an index have nothing to adjust for, so the set's adjusted close is its close.
    assert (theirs["Adj Close"] == theirs["Close"]).all()


@pytest.mark.parametrize("name", ["sp500", "index"])
def test_the_sets_hold_every_session_and_no_other_day(name: str) -> None:
    bars = get_source(name).read(as_of=FAR)
    first, last = bars["session"].min(), bars["session"].max()
    assert isinstance(first, date)
    assert isinstance(last, date)
    sessions = sessions_between(first, last)
    for symbol in get_source(name).symbols():
        assert bars.filter(pl.col("symbol") == symbol)["session"].equals(sessions.alias("session"))


def test_sp500_has_closes_only_and_says_so() -> None:
    source = get_source("sp500")
    bars = source.read(as_of=FAR)
    assert (bars.height, len(source.symbols())) == (166_260, 20)
    assert bars.select("open", "high", "low", "volume").null_count().row(0) == (166_260,) * 4
    assert source.info.adjustment == "splits_and_dividends"
    assert source.info.survivorship_bias
    assert "survived" in source.info.note


def test_a_bar_is_known_a_quarter_of_an_hour_after_the_close() -> None:
    bars = get_source("sp500").read(["AAPL"], start=date(2022, 11, 23), end=date(2022, 11, 25), as_of=FAR)
    assert bars["known_at"].to_list() == [
        datetime(2022, 11, 23, 21, 15, tzinfo=UTC),
        datetime(2022, 11, 25, 18, 15, tzinfo=UTC),
    ]
    assert (bars["known_at"] - bars["timestamp"] == timedelta(minutes=15)).all()


@pytest.mark.slow
def test_reading_the_sets_imports_neither_package() -> None:
    code = (
        "import sys; from datetime import UTC, datetime; from quantflow.data import get_source\n"
        "for name in ('sp500', 'index'): get_source(name).read(as_of=datetime(2023, 1, 1, tzinfo=UTC))\n"
        "sys.exit(bool({'skfolio', 'arch', 'sklearn', 'plotly'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_absent_package_is_named_with_what_to_do() -> None:
    with pytest.raises(SourceUnavailableError, match="pip install no_such_package"):
        packaged._read_packaged("no_such_package", "data.csv.gz", "%Y-%m-%d")


def test_a_package_that_moved_its_data_is_named() -> None:
    with pytest.raises(SchemaDriftError, match=r"this version of arch has no data/elsewhere.csv.gz"):
        packaged._read_packaged("arch", "data/elsewhere.csv.gz", "%Y-%m-%d")


def test_changed_dates_and_columns_are_drift(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "fake_vendor"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "dates.csv").write_text("Date,Close\n03.01.2022,1.0\n")
    (package / "names.csv").write_text("Day,Close\n2022-01-03,1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SchemaDriftError, match="dates that are not %Y-%m-%d"):
        packaged._read_packaged("fake_vendor", "dates.csv", "%Y-%m-%d")
    with pytest.raises(SchemaDriftError, match="a Date column is known"):
        packaged._read_packaged("fake_vendor", "names.csv", "%Y-%m-%d")
