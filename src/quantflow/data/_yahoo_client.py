"""Daily prices through yfinance: throttled, retried, and refused when their shape is not the known one.

yfinance hides much: it turns failed answers into empty frames, a missing ``adjclose`` into the
plain close and missing volumes into zero. So each answer of the chart address is looked at when it
arrives, before yfinance sees it. The shapes are those that yfinance 1.7 reads in
``yfinance/scrapers/history.py`` (``PriceHistory.history``) and ``yfinance/utils.py`` (``parse_quotes``).
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import polars as pl
import stamina

from quantflow.data._yahoo_answers import ANSWER_SCHEMA
from quantflow.errors import DataError, SchemaDriftError, SourceUnavailableError, UnknownSymbolError

_CHART = "/v8/finance/chart/"
_QUOTE_KEYS: Final = ("open", "high", "low", "close", "volume")
_META_KEYS: Final = ("currency", "exchangeTimezoneName", "instrumentType")
_COLUMNS: Final = {
    "Open": "open",
    "High": "high",
    "Low": "low",
    "Close": "close",
    "Adj Close": "adj_close",
    "Volume": "volume",
    "Dividends": "dividends",
    "Stock Splits": "splits",
}
# Only funds have it; it is part of the adjusted close already.
_KNOWN_EXTRA: Final = {"Capital Gains"}
_LONGEST_WAIT_S = 60.0
# yfinance keeps its session, cookies and configuration for the whole process.
_yfinance_lock = threading.Lock()


class Temporary(OSError):
    """Yahoo did not answer properly this time."""


class _NoRows(Exception):
    """Yahoo has no prices in the requested range."""


class Throttle:
    """Lets calls pass at most once in ``interval_s`` seconds.

    Parameters
    ----------
    interval_s
        Shortest time between two calls, seconds.
    clock, sleep
        Monotonic seconds, and the waiting; tests give their own.
    """

    def __init__(
        self,
        interval_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._sleep = sleep
        self._next = float("-inf")
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the next call may go."""
        with self._lock:
            delay_s = self._next - self._clock()
            if delay_s > 0:
                self._sleep(delay_s)
            self._next = self._clock() + self._interval_s


class YahooClient:
    """Reads daily prices of one symbol at a time.

    Parameters
    ----------
    session
        A curl_cffi or requests session; None: the one that yfinance prefers.
    throttle
        Passed before every request, cookie requests included.
    attempts
        How often a temporary failure is met with another try.
    wait_initial_s
        First wait between two tries; it doubles, with jitter, up to a minute.
    timeout_s
        Time limit of one request.
    state_dir
        Where yfinance keeps its cookies and time zones.
    """

    def __init__(
        self,
        *,
        session: Any = None,
        throttle: Throttle,
        attempts: int,
        wait_initial_s: float,
        timeout_s: float,
        state_dir: Path,
    ) -> None:
        if session is None:
            from yfinance._http import new_session

            session = new_session()
        self._session = session
        self._watch = _Watch(session.get, throttle)
        session.get = self._watch
        self._attempts = attempts
        self._wait_initial_s = wait_initial_s
        self._timeout_s = timeout_s
        self._state_dir = state_dir

    def daily(self, symbol: str, start: date, through: date) -> tuple[pl.DataFrame, dict[str, Any]]:
        """Return the rows (``ANSWER_SCHEMA``, ascending) and Yahoo's description of the symbol.

        Raises
        ------
        UnknownSymbolError
            Yahoo does not know the symbol.
        SchemaDriftError
            The answer does not have the known shape.
        SourceUnavailableError
            No proper answer after all tries.
        """
        from yfinance.exceptions import YFRateLimitError

        tries = stamina.retry_context(
            on=self._back_off,
            attempts=self._attempts,
            timeout=None,
            wait_initial=self._wait_initial_s,
            wait_max=_LONGEST_WAIT_S,
            wait_jitter=self._wait_initial_s,
        )
        try:
            for attempt in tries:
                with attempt:
                    return self._read(symbol, start, through)
        except YFRateLimitError as exc:
            raise SourceUnavailableError(
                f"Yahoo limits the rate of requests (status 429), still so after {self._attempts} tries for {symbol}; "
                "read again in some minutes, or raise min_interval_s"
            ) from exc
        except OSError as exc:
            raise SourceUnavailableError(f"Yahoo gave no answer for {symbol} in {self._attempts} tries: {exc}") from exc
        raise AssertionError("stamina ends with a value or an exception")

    def _back_off(self, exc: Exception) -> bool | float:
        from yfinance.exceptions import YFRateLimitError

        if isinstance(exc, YFRateLimitError):
            wished = self._watch.retry_after_s
            return min(wished, _LONGEST_WAIT_S) if wished else True
        return isinstance(exc, OSError)

    def _read(self, symbol: str, start: date, through: date) -> tuple[pl.DataFrame, dict[str, Any]]:
        with _yfinance_lock, _yfinance_raises(self._state_dir) as yfinance:
            self._watch.forget()
            try:
                frame = yfinance.Ticker(symbol, session=self._session).history(
                    start=start.isoformat(),
                    end=(through + timedelta(days=1)).isoformat(),
                    interval="1d",
                    auto_adjust=False,
                    actions=True,
                    timeout=self._timeout_s,
                )
            except _NoRows:
                return pl.DataFrame(schema=ANSWER_SCHEMA), self._watch.meta
            except (OSError, DataError, yfinance.exceptions.YFRateLimitError):
                raise
            except Exception as exc:
                raise self._explain(exc, symbol) from exc
            return self._rows(frame, symbol), self._watch.meta

    def _explain(self, exc: Exception, symbol: str) -> DataError:
        if self._watch.status in (401, 403):
            return SourceUnavailableError(
                f"Yahoo refused the request for {symbol} (status {self._watch.status}); its cookies may have expired: "
                f"delete {self._state_dir} and read again"
            )
        return SchemaDriftError(
            f"Yahoo's answer for {symbol} cannot be read by yfinance {_version()}: {type(exc).__name__}: {exc}; "
            "nothing was kept. Look for a newer yfinance"
        )

    def _rows(self, frame: Any, symbol: str) -> pl.DataFrame:
        columns = list(frame.columns)
        known = set(_COLUMNS) | _KNOWN_EXTRA
        if getattr(frame.columns, "nlevels", 1) != 1 or not set(_COLUMNS) <= set(columns) <= known:
            raise SchemaDriftError(
                f"yfinance {_version()} gives the columns {columns} for {symbol}; {list(_COLUMNS)} are known. "
                "Nothing was kept: install the version of requirements.lock"
            )
        if frame.index.tz is None:
            raise SchemaDriftError(
                f"yfinance {_version()} gives naive dates for {symbol}; the exchange's time zone is known"
            )
        values = {ours: frame[theirs].to_numpy(dtype="float64") for theirs, ours in _COLUMNS.items()}
        # Midnights in the exchange's own zone: their dates are the sessions.
        rows = pl.DataFrame({"session": pl.Series(frame.index.date.tolist(), dtype=pl.Date), **values}).fill_nan(None)
        without_volume = self._watch.sessions_without_volume()
        return rows.with_columns(
            # yfinance fills a volume that Yahoo does not have with 0.
            volume=pl.when(pl.col("session").is_in(without_volume)).then(None).otherwise(pl.col("volume"))
        ).cast(ANSWER_SCHEMA)


class _Watch:
    """Stands in for a session's ``get``: throttles every request and looks at every answer about prices."""

    def __init__(self, get: Callable[..., Any], throttle: Throttle) -> None:
        self._get = get
        self._throttle = throttle
        self.forget()

    def forget(self) -> None:
        """Begin a new reading."""
        self.status: int | None = None
        self.retry_after_s: float | None = None
        self._chart: Mapping[str, Any] = {}

    def __call__(self, url: str, **options: Any) -> Any:
        self._throttle.wait()
        response = self._get(url, **options)
        if _CHART in url:
            # yfinance first asks for one day to learn the time zone; before the market opens it has no prices.
            with_prices = "range" not in (options.get("params") or {})
            self._look_at(response, symbol=url.rsplit("/", 1)[1], with_prices=with_prices)
        return response

    @property
    def meta(self) -> dict[str, Any]:
        """Yahoo's description of the symbol, from the latest answer."""
        return dict(self._chart.get("meta") or {})

    def sessions_without_volume(self) -> list[date]:
        """Return the sessions for which the latest answer has no volume."""
        zone = ZoneInfo(self._chart["meta"]["exchangeTimezoneName"])
        stamps = self._chart.get("timestamp", [])
        volumes = self._chart["indicators"]["quote"][0].get("volume", [])
        empty = [stamp for stamp, volume in zip(stamps, volumes, strict=True) if volume is None]
        return [datetime.fromtimestamp(stamp, tz=UTC).astimezone(zone).date() for stamp in empty]

    def _look_at(self, response: Any, *, symbol: str, with_prices: bool) -> None:
        self.status = int(response.status_code)
        if self.status == 429:
            self.retry_after_s = _seconds(response.headers.get("Retry-After"))
            return
        if self.status in (401, 403):
            # yfinance tries again with other cookies.
            return
        if self.status >= 500:
            raise Temporary(f"status {self.status}")
        try:
            body = response.json()
        except (JSONDecodeError, ValueError):
            raise Temporary("the answer is no JSON: Yahoo may be down for maintenance") from None
        self._chart = _checked_chart(body, symbol)
        if with_prices:
            _check_prices(self._chart, symbol)


def _checked_chart(body: Any, symbol: str) -> Mapping[str, Any]:
    """Return ``chart.result[0]`` or say what is wrong with the answer."""
    if not isinstance(body, Mapping) or "chart" not in body:
        raise _drift(symbol, f"no 'chart' but {_keys(body)}")
    chart = body["chart"]
    if chart is None:
        raise UnknownSymbolError(f"Yahoo has nothing for {symbol}; check the symbol on its website")
    if not isinstance(chart, Mapping):
        raise _drift(symbol, f"'chart' is {_keys(chart)}")
    error = chart.get("error")
    if error:
        _raise_error(error, symbol)
    results = chart.get("result")
    if not isinstance(results, list) or len(results) != 1 or not isinstance(results[0], Mapping):
        raise _drift(symbol, f"'chart.result' is {_keys(results)}; a list of one is known")
    result: Mapping[str, Any] = results[0]
    _check_meta(result.get("meta"), symbol)
    return result


def _raise_error(error: Any, symbol: str) -> None:
    if not isinstance(error, Mapping):
        raise _drift(symbol, f"'chart.error' is {_keys(error)}")
    code, description = str(error.get("code")), str(error.get("description"))
    if code == "Not Found":
        raise UnknownSymbolError(f"Yahoo does not know {symbol}: {description}")
    if "Data doesn't exist for startDate" in description:
        raise _NoRows(description)
    raise SourceUnavailableError(f"Yahoo refused the request for {symbol}: {code}: {description}")


def _check_meta(meta: Any, symbol: str) -> None:
    missing = [key for key in _META_KEYS if key not in meta] if isinstance(meta, Mapping) else list(_META_KEYS)
    if missing:
        raise _drift(symbol, f"'meta' lacks {missing}")
    if meta.get("dataGranularity", "1d") != "1d":
        raise _drift(symbol, f"bars of {meta['dataGranularity']!r} instead of '1d'")
    if str(meta.get("symbol", symbol)).upper() != symbol.upper():
        raise _drift(symbol, f"prices of {meta['symbol']!r}")


def _check_prices(result: Mapping[str, Any], symbol: str) -> None:
    quotes = (result.get("indicators") or {}).get("quote")
    if not isinstance(quotes, list) or not quotes or not isinstance(quotes[0], Mapping):
        raise _drift(symbol, "no 'indicators.quote'")
    stamps = result.get("timestamp")
    if not stamps and not quotes[0]:
        raise _NoRows("no prices in the range")
    adjusted = result["indicators"].get("adjclose")
    if not isinstance(adjusted, list) or not adjusted or "adjclose" not in adjusted[0]:
        # yfinance would silently take the close for the adjusted close.
        raise _drift(symbol, "no 'indicators.adjclose'")
    columns = {**{key: quotes[0].get(key) for key in _QUOTE_KEYS}, "adjclose": adjusted[0]["adjclose"]}
    for key, values in columns.items():
        if not isinstance(stamps, list) or not isinstance(values, list) or len(values) != len(stamps):
            raise _drift(symbol, f"{key!r} is {_keys(values)} beside {_keys(stamps)} as 'timestamp'")
        if any(value is not None and not isinstance(value, (int, float)) for value in values):
            raise _drift(symbol, f"{key!r} holds values that are not numbers")


def _drift(symbol: str, what: str) -> SchemaDriftError:
    return SchemaDriftError(
        f"Yahoo's answer for {symbol} does not have the shape that is known (yfinance {_version()}): {what}. "
        "Nothing was kept; look for a newer yfinance and compare its parse_quotes"
    )


def _keys(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object with {sorted(value)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return repr(value)[:60]


def _seconds(header: str | None) -> float | None:
    try:
        return float(header) if header else None
    except ValueError:
        # The header may be a date; then the ordinary back-off holds.
        return None


def _version() -> str:
    from yfinance import __version__

    return str(__version__)


@contextmanager
def _yfinance_raises(state_dir: Path) -> Iterator[Any]:
    """Give yfinance with its errors raised, not logged, and without the answers that it keeps in memory."""
    import yfinance
    from yfinance.data import YfData

    state_dir.mkdir(parents=True, exist_ok=True)
    yfinance.set_tz_cache_location(str(state_dir))
    # It keeps failed answers, too: without this a second try would read the first one again.
    YfData.cache_get.cache_clear()
    hidden = yfinance.config.debug.hide_exceptions
    yfinance.config.debug.hide_exceptions = False
    try:
        with warnings.catch_warnings():
            # yfinance calls pandas in ways that pandas 3.1 announces to end; the lock file holds the two together.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield yfinance
    finally:
        yfinance.config.debug.hide_exceptions = hidden
