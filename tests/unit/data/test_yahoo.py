"""Yahoo at the HTTP border: yfinance itself runs, its session is answered from memory.

The shapes of the answers, and where in yfinance they are taken from: ``quantflow.testing.yahoo``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import stamina
from polars.testing import assert_frame_equal

from quantflow.data import YahooSource, bars_to_returns, get_source
from quantflow.data._yahoo_client import Throttle
from quantflow.errors import (
    DataError,
    InvalidBarsError,
    SchemaDriftError,
    SourceUnavailableError,
    UnknownSessionError,
    UnknownSymbolError,
)
from quantflow.testing.network import NetworkTouched
from quantflow.testing.yahoo import CannedYahoo, Reply, YahooBar, chart_body, error_body, fresh_yfinance

NOW = datetime(2022, 1, 10, 12, tzinfo=UTC)
START = date(2022, 1, 3)
AAPL = [
    YahooBar(date(2022, 1, 3), 177.83, 182.88, 177.71, 182.01, 180.0, 104_487_900),
    YahooBar(date(2022, 1, 4), 182.63, 182.94, 179.12, 179.70, 177.7, 99_310_400),
    YahooBar(date(2022, 1, 5), 179.61, 180.17, 174.64, 174.92, 173.0, 94_537_600, dividend=0.22),
    YahooBar(date(2022, 1, 6), 172.70, 175.30, 171.64, 172.00, 170.3, None),
    YahooBar(date(2022, 1, 7), 172.89, 174.14, 171.03, 172.17, 170.5, 86_709_100),
]


@pytest.fixture(autouse=True)
def _new_process() -> Iterator[None]:
    fresh_yfinance()
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
def yahoo() -> CannedYahoo:
    return CannedYahoo({"AAPL": AAPL})


@pytest.fixture
def source(yahoo: CannedYahoo, tmp_path: Path) -> YahooSource:
    return make(yahoo, tmp_path)


def make(yahoo: CannedYahoo, cache: Path, *, now: datetime = NOW, **options: Any) -> YahooSource:
    symbols = options.pop("symbols", ["AAPL"])
    return YahooSource(
        symbols, cache_dir=cache, session=yahoo.session(), min_interval_s=0.0, now=lambda: now, **options
    )


def body(bars: list[YahooBar] = AAPL, change: Callable[[dict[str, Any]], Any] | None = None) -> str:
    """The chart answer, with something changed in ``chart.result[0]``."""
    answer = chart_body("AAPL", bars)
    if change is not None:
        change(answer["chart"]["result"][0])
    return json.dumps(answer)


def files(cache: Path) -> list[Path]:
    return sorted((cache / "answers").rglob("*.parquet"))


def test_the_wall_stops_python_and_libcurl() -> None:
    import curl_cffi.requests
    import requests

    for library in (requests, curl_cffi.requests):
        with pytest.raises(NetworkTouched):
            library.get("http://127.0.0.1:9/", timeout=1)


def test_prices_are_those_of_yahoo_adjusted_for_splits(source: YahooSource) -> None:
    bars = source.read(start=START, as_of=NOW)
    assert bars["session"].to_list() == [bar.session for bar in AAPL]
    assert bars["close"].to_list() == [bar.close for bar in AAPL]
    assert bars["open"].to_list() == [bar.open for bar in AAPL]
    assert bars["adjustment"].unique().to_list() == ["splits"]
    assert bars["known_at"][0] == datetime(2022, 1, 3, 21, 15, tzinfo=UTC)


def test_dividend_adjusted_prices_scale_open_high_and_low_by_the_same_factor(
    yahoo: CannedYahoo, tmp_path: Path
) -> None:
    bars = make(yahoo, tmp_path, adjustment="splits_and_dividends").read(start=START, as_of=NOW)
    assert bars["close"].to_list() == [bar.adj_close for bar in AAPL]
    first = bars.row(0, named=True)
    assert first["open"] == pytest.approx(177.83 * 180.0 / 182.01)
    assert first["high"] == pytest.approx(182.88 * 180.0 / 182.01)
    assert bars["adjustment"].unique().to_list() == ["splits_and_dividends"]


def test_a_volume_that_yahoo_lacks_is_null_not_zero(source: YahooSource) -> None:
    bars = source.read(start=START, as_of=NOW)
    assert bars.filter(pl.col("volume").is_null())["session"].to_list() == [date(2022, 1, 6)]


def test_raw_prices_are_refused_because_yahoo_has_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Yahoo has no raw prices"):
        YahooSource(["AAPL"], adjustment="raw", cache_dir=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="give a list of Yahoo's symbols"):
        get_source("yahoo", symbols="AAPL")


def test_only_the_sessions_asked_for_are_requested(source: YahooSource, yahoo: CannedYahoo) -> None:
    bars = source.read(start=date(2022, 1, 4), end=date(2022, 1, 5), as_of=NOW)
    assert bars["session"].to_list() == [date(2022, 1, 4), date(2022, 1, 5)]
    asked = yahoo.asked[0]
    # yfinance turns dates into midnights of the exchange's zone.
    assert datetime.fromtimestamp(int(asked["period1"]), UTC) == datetime(2022, 1, 4, 5, tzinfo=UTC)
    assert datetime.fromtimestamp(int(asked["period2"]), UTC) == datetime(2022, 1, 6, 5, tzinfo=UTC)
    assert asked["interval"] == "1d"


# What was read is kept.


def test_a_second_read_asks_nobody(source: YahooSource, yahoo: CannedYahoo, tmp_path: Path) -> None:
    first = source.read(start=START, as_of=NOW)
    yahoo.histories.clear()
    assert_frame_equal(source.read(start=START, as_of=NOW), first)
    assert_frame_equal(make(yahoo, tmp_path).read(start=START, as_of=NOW), first)
    narrower = source.read(start=date(2022, 1, 4), end=date(2022, 1, 5), as_of=NOW)
    assert narrower.height == 2
    assert len(yahoo.asked) == 1


def test_an_answer_carries_request_time_and_digest(source: YahooSource, tmp_path: Path) -> None:
    source.read(start=START, as_of=NOW)
    (file,) = files(tmp_path)
    facts = pl.read_parquet_metadata(file)
    assert facts["quantflow.symbol"] == "AAPL"
    assert facts["quantflow.start"] == "2022-01-03"
    assert facts["quantflow.through"] == "2022-01-07"
    assert facts["quantflow.retrieved_at"] == NOW.isoformat()
    assert facts["quantflow.currency"] == "USD"
    assert facts["quantflow.client"].startswith("yfinance ")
    assert file.stem.endswith(facts["quantflow.digest"][:16])
    kept = pl.read_parquet(file)
    assert kept["dividends"].to_list() == [0.0, 0.0, 0.22, 0.0, 0.0]


def test_an_answer_that_was_tampered_with_is_refused(source: YahooSource, tmp_path: Path) -> None:
    source.read(start=START, as_of=NOW)
    (file,) = files(tmp_path)
    kept, facts = pl.read_parquet(file), pl.read_parquet_metadata(file)
    facts.pop("ARROW:schema", None)
    kept.with_columns(pl.col("close") + 0.01).write_parquet(file, metadata=facts)
    with pytest.raises(DataError, match="no longer holds what was read"):
        source.read(start=START, as_of=NOW)
    file.write_bytes(b"half")
    with pytest.raises(DataError, match="is not a cached answer"):
        source.read(start=START, as_of=NOW)


def test_newer_sessions_are_asked_for(yahoo: CannedYahoo, tmp_path: Path) -> None:
    make(yahoo, tmp_path).read(start=START, as_of=datetime(2022, 1, 5, 23, tzinfo=UTC))
    bars = make(yahoo, tmp_path).read(start=START, as_of=NOW)
    assert (bars.height, len(yahoo.asked), len(files(tmp_path))) == (5, 2, 2)


def test_later_answers_do_not_change_what_was_read_before(yahoo: CannedYahoo, tmp_path: Path) -> None:
    first = make(yahoo, tmp_path).read(start=START, as_of=NOW)
    yahoo.histories["AAPL"] = [
        *AAPL[:2],
        YahooBar(date(2022, 1, 5), 179.61, 180.17, 174.64, 174.90, 173.0, 1),
        *AAPL[3:],
    ]
    later = datetime(2022, 1, 20, 12, tzinfo=UTC)
    make(yahoo, tmp_path, now=later).read(start=START, as_of=later)
    again = make(yahoo, tmp_path, now=later)
    assert_frame_equal(again.read(start=START, end=date(2022, 1, 7), as_of=NOW), first)
    restated = again.read(start=START, end=date(2022, 1, 7), as_of=later).row(2, named=True)
    assert (restated["close"], restated["known_at"]) == (174.90, later)


def test_after_a_split_no_reader_sees_two_scales(yahoo: CannedYahoo, tmp_path: Path) -> None:
    make(yahoo, tmp_path).read(start=START, as_of=NOW)
    scaled = [
        YahooBar(b.session, *(v / 4 if v else v for v in (b.open, b.high, b.low, b.close, b.adj_close)), b.volume)
        for b in AAPL
    ]
    after = YahooBar(date(2022, 1, 10), 43.0, 43.5, 42.5, 43.1, 43.0, 100, split=(4, 1))
    yahoo.histories["AAPL"] = [*scaled, after]
    later = datetime(2022, 1, 12, 12, tzinfo=UTC)
    source = make(yahoo, tmp_path, now=later)
    for as_of in (NOW, datetime(2022, 1, 10, 22, tzinfo=UTC), later):
        returns = bars_to_returns(source.read(start=START, as_of=as_of))["AAPL"].drop_nulls()
        assert (returns.abs() < 0.05).all(), as_of


def test_a_running_session_is_neither_read_nor_kept(yahoo: CannedYahoo, tmp_path: Path) -> None:
    running = datetime(2022, 1, 7, 16, 0, tzinfo=UTC)  # 11:00 in New York
    source = make(yahoo, tmp_path, now=running)
    assert source.read(start=START, as_of=NOW)["session"].max() == date(2022, 1, 6)
    assert pl.read_parquet(files(tmp_path)[0])["session"].max() == date(2022, 1, 6)


def test_a_session_that_yahoo_publishes_late_is_asked_for_again(yahoo: CannedYahoo, tmp_path: Path) -> None:
    yahoo.histories["AAPL"] = AAPL[:4]
    evening = datetime(2022, 1, 7, 22, tzinfo=UTC)
    assert make(yahoo, tmp_path, now=evening).read(start=START, as_of=evening).height == 4
    yahoo.histories["AAPL"] = AAPL
    assert make(yahoo, tmp_path, now=evening).read(start=START, as_of=evening).height == 5


def test_two_symbols_never_share_a_directory(yahoo: CannedYahoo, tmp_path: Path) -> None:
    yahoo.histories |= {"BRK-B": AAPL, "^GSPC": AAPL, "A/B": AAPL}
    make(yahoo, tmp_path, symbols=["BRK-B", "^GSPC"]).read(start=START, as_of=NOW)
    assert {file.parent.name for file in files(tmp_path)} == {"BRK-B", "%5EGSPC"}


def test_nothing_is_asked_for_before_a_first_session_is_known(source: YahooSource, yahoo: CannedYahoo) -> None:
    assert source.read(start=START, as_of=datetime(2022, 1, 3, 21, 14, tzinfo=UTC)).is_empty()
    assert source.read(start=date(2022, 1, 8), end=date(2022, 1, 9), as_of=NOW).is_empty()
    assert yahoo.asked == []


def test_a_range_without_prices_is_empty_and_not_kept(source: YahooSource, yahoo: CannedYahoo, tmp_path: Path) -> None:
    yahoo.histories["AAPL"] = []
    assert source.read(start=START, as_of=NOW).is_empty()
    reason = "Data doesn't exist for startDate = 1641186000, endDate = 1641618000"
    yahoo.replies.append(Reply(400, error_body("Bad Request", reason)))
    assert source.read(start=START, as_of=NOW).is_empty()
    assert files(tmp_path) == []


# Failures that pass are met with another try.


def test_a_rate_limit_is_waited_out(source: YahooSource, yahoo: CannedYahoo) -> None:
    # yfinance tries each refused request again with other cookies, hence two replies a try.
    yahoo.replies.extend([Reply(429, "Too Many Requests")] * 4)
    assert source.read(start=START, as_of=NOW).height == 5
    assert len(yahoo.asked) == 5


def test_a_lasting_rate_limit_is_told(source: YahooSource, yahoo: CannedYahoo) -> None:
    yahoo.replies.extend([Reply(429, "Too Many Requests")] * 50)
    with pytest.raises(SourceUnavailableError, match=r"status 429.*read again in some minutes"):
        source.read(start=START, as_of=NOW)
    assert len(yahoo.asked) == 6


@pytest.mark.parametrize(
    "reply",
    [
        Reply(503, "Service Unavailable"),
        Reply(500, error_body("internal-error", "boom")),
        Reply(200, "<html>Will be right back...</html>"),
    ],
)
def test_a_server_that_fails_is_asked_again(source: YahooSource, yahoo: CannedYahoo, reply: Reply) -> None:
    yahoo.replies.append(reply)
    assert source.read(start=START, as_of=NOW).height == 5


def test_a_server_that_keeps_failing_is_told(source: YahooSource, yahoo: CannedYahoo, tmp_path: Path) -> None:
    yahoo.replies.extend([Reply(502, "Bad Gateway")] * 50)
    with pytest.raises(SourceUnavailableError, match=r"no answer for AAPL in 5 tries: status 502"):
        source.read(start=START, as_of=NOW)
    assert files(tmp_path) == []


def test_no_connection_is_told(yahoo: CannedYahoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    def refuse(*_: Any, **__: Any) -> Any:
        raise requests.exceptions.ConnectionError("Connection refused")

    monkeypatch.setattr(yahoo, "send", refuse)
    with pytest.raises(SourceUnavailableError, match="Connection refused"):
        make(yahoo, tmp_path).read(start=START, as_of=NOW)


def test_waits_grow_and_a_server_that_names_its_wait_gets_it(yahoo: CannedYahoo, tmp_path: Path) -> None:
    waits: list[float] = []
    stamina.set_testing(False)
    stamina.instrumentation.set_on_retry_hooks([lambda details: waits.append(details.wait_for)])
    yahoo.replies.extend([Reply(503), Reply(503), Reply(503)])
    yahoo.replies.extend([Reply(429, headers={"Retry-After": "0.05"})] * 2)
    yahoo.replies.extend([Reply(429, headers={"Retry-After": "Fri, 07 Jan 2022 12:00:00 GMT"})] * 2)
    try:
        source = make(yahoo, tmp_path, attempts=6, wait_initial_s=0.001)
        assert source.read(start=START, as_of=NOW).height == 5
    finally:
        stamina.instrumentation.set_on_retry_hooks(None)
    # 1, 2 and 4 ms, each with up to 1 ms of jitter.
    assert 0.001 <= waits[0] <= 0.002 <= waits[1] <= 0.003
    assert 0.004 <= waits[2] <= 0.005
    assert waits[3] == 0.05
    assert len(waits) == 5


def test_requests_are_throttled() -> None:
    clock = [100.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    throttle = Throttle(0.5, clock=lambda: clock[0], sleep=sleep)
    throttle.wait()
    throttle.wait()
    clock[0] += 0.3
    throttle.wait()
    clock[0] += 9.0
    throttle.wait()
    assert slept == pytest.approx([0.5, 0.2])


# Answers that do not pass are named.


def test_an_unknown_symbol_is_named_with_yahoos_reason(yahoo: CannedYahoo, tmp_path: Path) -> None:
    source = make(yahoo, tmp_path, symbols=["NOPE"])
    with pytest.raises(UnknownSymbolError, match="NOPE: No data found, symbol may be delisted"):
        source.read(start=START, as_of=NOW)


def test_an_empty_chart_is_an_unknown_symbol(source: YahooSource, yahoo: CannedYahoo) -> None:
    yahoo.replies.append(Reply(200, '{"chart": null}'))
    with pytest.raises(UnknownSymbolError, match="Yahoo has nothing for AAPL"):
        source.read(start=START, as_of=NOW)


def test_a_refused_request_is_told_with_yahoos_reason(source: YahooSource, yahoo: CannedYahoo) -> None:
    yahoo.replies.append(Reply(422, error_body("Unprocessable Entity", "1d data not available")))
    with pytest.raises(SourceUnavailableError, match="1d data not available"):
        source.read(start=START, as_of=NOW)


def test_refused_cookies_are_told(source: YahooSource, yahoo: CannedYahoo) -> None:
    refused = json.dumps(
        {"finance": {"result": None, "error": {"code": "Unauthorized", "description": "Invalid Crumb"}}}
    )
    yahoo.replies.extend([Reply(401, refused)] * 4)
    with pytest.raises(SourceUnavailableError, match=r"status 401.*cookies may have expired"):
        source.read(start=START, as_of=NOW)


def _quote(result: dict[str, Any]) -> dict[str, Any]:
    quote: dict[str, Any] = result["indicators"]["quote"][0]
    return quote


DRIFTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no adjusted close": (lambda result: result["indicators"].pop("adjclose"), "no 'indicators.adjclose'"),
    "no close": (lambda result: _quote(result).pop("close"), "'close' is None"),
    "a shorter column": (lambda result: _quote(result)["open"].pop(), "'open' is a list of 4 beside a list of 5"),
    "texts": (lambda result: _quote(result).update(high=["1"] * 5), "'high' holds values that are not numbers"),
    "no quotes": (lambda result: result["indicators"].pop("quote"), "no 'indicators.quote'"),
    "no time stamps": (lambda result: result.pop("timestamp"), "beside None as 'timestamp'"),
    "no time zone": (lambda result: result["meta"].pop("exchangeTimezoneName"), "lacks ['exchangeTimezoneName']"),
    "no description": (lambda result: result.pop("meta"), "'meta' lacks"),
    "weeks": (lambda result: result["meta"].update(dataGranularity="1wk"), "bars of '1wk' instead of '1d'"),
    "another symbol": (lambda result: result["meta"].update(symbol="MSFT"), "prices of 'MSFT'"),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_a_changed_shape_is_refused_and_nothing_is_kept(
    source: YahooSource, yahoo: CannedYahoo, tmp_path: Path, name: str
) -> None:
    change, words = DRIFTS[name]
    yahoo.replies.append(Reply(200, body(change=change)))
    with pytest.raises(SchemaDriftError) as caught:
        source.read(start=START, as_of=NOW)
    assert words in str(caught.value)
    assert "Nothing was kept; look for a newer yfinance" in str(caught.value)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "no 'chart' but a list of 0"),
        ('{"spark": {}}', r"no 'chart' but an object with \['spark'\]"),
        ('{"chart": []}', "'chart' is a list of 0"),
        ('{"chart": {"error": "no"}}', "'chart.error' is 'no'"),
        ('{"chart": {"result": [], "error": null}}', r"'chart.result' is a list of 0; a list of one is known"),
    ],
)
def test_another_frame_around_the_prices_is_refused(
    source: YahooSource, yahoo: CannedYahoo, text: str, words: str
) -> None:
    yahoo.replies.append(Reply(200, text))
    with pytest.raises(SchemaDriftError, match=words):
        source.read(start=START, as_of=NOW)


def test_columns_that_yfinance_changes_are_refused(
    source: YahooSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd
    import yfinance

    def of_download(*_: Any, **__: Any) -> Any:
        # yfinance.multi.download gives columns of two levels.
        columns = pd.MultiIndex.from_product([["Close", "Open"], ["AAPL"]], names=["Price", "Ticker"])
        return pd.DataFrame([[1.0, 1.0]], columns=columns, index=pd.DatetimeIndex(["2022-01-03"], name="Date"))

    monkeypatch.setattr(yfinance.Ticker, "history", of_download)
    with pytest.raises(SchemaDriftError, match=r"gives the columns \[\('Close', 'AAPL'\)"):
        source.read(start=START, as_of=NOW)


def test_naive_dates_of_yfinance_are_refused(source: YahooSource, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd
    import yfinance

    columns = ["Open", "High", "Low", "Close", "Adj Close", "Volume", "Dividends", "Stock Splits"]
    frame = pd.DataFrame([[1.0] * 8], columns=columns, index=pd.DatetimeIndex(["2022-01-03"], name="Date"))
    monkeypatch.setattr(yfinance.Ticker, "history", lambda *_, **__: frame)
    with pytest.raises(SchemaDriftError, match="gives naive dates for AAPL"):
        source.read(start=START, as_of=NOW)


def test_what_yfinance_cannot_read_is_drift(source: YahooSource, monkeypatch: pytest.MonkeyPatch) -> None:
    import yfinance

    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("validRanges")

    monkeypatch.setattr(yfinance.Ticker, "history", broken)
    with pytest.raises(SchemaDriftError, match=r"cannot be read by yfinance .*KeyError: 'validRanges'"):
        source.read(start=START, as_of=NOW)


@pytest.mark.parametrize(
    ("bar", "words"),
    [
        (YahooBar(date(2022, 1, 6), 1.0, 2.0, 0.5, None, None, 10), r"close is missing: rows 1 \(AAPL 2022-01-06\)"),
        (YahooBar(date(2022, 1, 6), 1.0, 0.5, 2.0, 1.0, 1.0, 10), r"high < low: rows 1 \(AAPL 2022-01-06\)"),
        (YahooBar(date(2022, 1, 6), 0.0, 2.0, 0.0, 1.0, 1.0, 10), r"open is not positive: rows 1 \(AAPL 2022-01-06\)"),
    ],
)
def test_prices_that_are_not_bars_are_refused_and_not_kept(
    source: YahooSource, yahoo: CannedYahoo, tmp_path: Path, bar: YahooBar, words: str
) -> None:
    yahoo.histories["AAPL"] = [AAPL[0], bar]
    with pytest.raises(InvalidBarsError, match=words):
        source.read(start=START, as_of=NOW)
    assert files(tmp_path) == []


def test_prices_on_a_holiday_are_refused(yahoo: CannedYahoo, tmp_path: Path) -> None:
    yahoo.histories["AAPL"] = [YahooBar(date(2022, 1, 17), 1.0, 2.0, 0.5, 1.0, 1.0, 10)]
    late = datetime(2022, 2, 1, tzinfo=UTC)
    with pytest.raises(UnknownSessionError, match="XNYS has no session on 2022-01-17"):
        make(yahoo, tmp_path, now=late).read(start=START, as_of=late)


def test_a_symbol_of_another_exchange_is_refused(tmp_path: Path) -> None:
    london = CannedYahoo({"VOD.L": AAPL}, zone="Europe/London")
    with pytest.raises(
        DataError, match=r"VOD.L trades in Europe/London and XNYS is in America/New_York; give the exchange"
    ):
        make(london, tmp_path, symbols=["VOD.L"]).read(start=date(2022, 1, 4), as_of=NOW)
    bars = make(london, tmp_path, symbols=["VOD.L"], exchange="XLON").read(start=date(2022, 1, 4), as_of=NOW)
    assert bars["timestamp"][0] == datetime(2022, 1, 4, 16, 30, tzinfo=UTC)


def test_sessions_are_dates_of_the_exchange_in_summer_and_winter(yahoo: CannedYahoo, tmp_path: Path) -> None:
    days = [date(2022, 3, 11), date(2022, 3, 14), date(2022, 11, 4), date(2022, 11, 7)]
    yahoo.histories["AAPL"] = [YahooBar(day, 10.0, 11.0, 9.0, 10.5, 10.5, 5) for day in days]
    late = datetime(2022, 12, 1, tzinfo=UTC)
    bars = make(yahoo, tmp_path, now=late).read(start=date(2022, 3, 1), as_of=late)
    assert bars["session"].to_list() == days
    assert [stamp.hour for stamp in bars["timestamp"]] == [21, 20, 20, 21]


def test_the_cache_of_the_settings_is_used_by_default(
    yahoo: CannedYahoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTFLOW_CACHE_DIR", str(tmp_path / "cache"))
    source = YahooSource(["AAPL"], session=yahoo.session(), min_interval_s=0.0, now=lambda: NOW)
    source.read(start=START, as_of=NOW)
    assert len(files(tmp_path / "cache" / "yahoo")) == 1


def test_without_a_session_yfinances_own_is_taken_and_meets_the_wall(tmp_path: Path) -> None:
    source = YahooSource(["AAPL"], cache_dir=tmp_path, attempts=1, min_interval_s=0.0, now=lambda: NOW)
    with pytest.raises((NetworkTouched, SchemaDriftError), match="a connection was tried"):
        source.read(start=START, as_of=NOW)
