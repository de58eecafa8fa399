"""Yahoo's daily prices through yfinance, read once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl

from quantflow.data._yahoo_answers import Answer, AnswerCache
from quantflow.data._yahoo_client import Throttle, YahooClient
from quantflow.data.asof import as_of_view, check_as_of, restate
from quantflow.data.bars import BAR_KEY, BAR_SCHEMA, empty_bars, validate_bars
from quantflow.data.calendar import known_at, session_close, sessions_between, time_zone
from quantflow.data.sources import SourceInfo, check_symbols
from quantflow.errors import DataError

__all__ = ["YahooSource"]

#: Yahoo's histories of US stocks begin here; give ``start`` for an index that is older.
EARLIEST: Final = date(1962, 1, 2)
# A session that Yahoo lacks for longer than this is not merely late.
_LATE: Final = timedelta(days=1)


class YahooSource:
    """Daily bars of the given symbols; the network is used only for what was not read before.

    Each answer is kept as a Parquet file with its request, time and content digest. A read is served
    from the answers that cover it: by the latest one given before ``as_of``, and if there is none, by the
    earliest. What a later answer changed is a restatement, known when that answer was given. A
    session that was still open, or not yet public, when Yahoo answered is not kept.

    Prices carry hindsight, whatever ``as_of``: Yahoo divides its whole history by later splits. Ratios
    of prices are not changed by that, price levels are.

    Parameters
    ----------
    symbols
        Yahoo's symbols.
    adjustment
        ``splits``: Yahoo's open, high, low and close, which it adjusts for splits only.
        ``splits_and_dividends``: its adjusted close, and the other prices times adjusted close / close.
    exchange
        Whose sessions the dates are, as in exchange_calendars.
    delay
        Time from a session's close until its bar is public.
    cache_dir
        Where answers are kept; None: ``yahoo`` in the cache directory of the settings.
    attempts
        Tries of one request; a rate limit, a time-out, no connection and a failing server are met with the next.
    wait_initial_s
        First wait between tries, seconds; it doubles up to a minute. A ``Retry-After`` header wins.
    min_interval_s
        Shortest time between two requests, seconds.
    timeout_s
        Time limit of one request, seconds.
    session
        A curl_cffi or requests session; None: what yfinance prefers.
    now
        Tells the present moment, timezone-aware; tests give their own.
    """

    name = "yahoo"

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        adjustment: Literal["splits", "splits_and_dividends"] = "splits",
        exchange: str = "XNYS",
        delay: timedelta = timedelta(minutes=15),
        cache_dir: str | Path | None = None,
        attempts: int = 5,
        wait_initial_s: float = 2.0,
        min_interval_s: float = 0.5,
        timeout_s: float = 10.0,
        session: Any = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if isinstance(symbols, str) or not symbols:
            raise DataError(f"symbols is {symbols!r}; give a list of Yahoo's symbols, e.g. ['AAPL', 'MSFT']")
        if adjustment not in ("splits", "splits_and_dividends"):
            raise DataError(
                f"adjustment is {adjustment!r}; Yahoo has no raw prices, give 'splits' or 'splits_and_dividends'"
            )
        self._symbols = tuple(sorted({symbol.upper() for symbol in symbols}))
        self._adjustment = adjustment
        self._exchange = exchange
        self._delay = delay
        self._now = now
        root = Path(cache_dir) if cache_dir is not None else _default_cache()
        self._cache = AnswerCache(root / "answers")
        self._client: YahooClient | None = None
        self._client_options = {
            "session": session,
            "throttle": Throttle(min_interval_s),
            "attempts": attempts,
            "wait_initial_s": wait_initial_s,
            "timeout_s": timeout_s,
            "state_dir": root / "yfinance",
        }
        self.info = SourceInfo(
            adjustment=adjustment,
            survivorship_bias=True,
            delay=delay,
            columns=("open", "high", "low", "close", "volume"),
            note=(
                "Yahoo's daily prices through yfinance, adjusted with hindsight for "
                f"{adjustment.replace('_', ' ')}; symbols were chosen by the reader."
            ),
        )

    def symbols(self) -> tuple[str, ...]:
        """Return the symbols given at the start, in alphabetical order."""
        return self._symbols

    def read(
        self,
        symbols: Sequence[str] | None = None,
        *,
        start: date | None = None,
        end: date | None = None,
        as_of: datetime,
    ) -> pl.DataFrame:
        """Return the bars known at ``as_of``; see :class:`~quantflow.data.sources.MarketDataSource`.

        Raises
        ------
        SourceUnavailableError
            Yahoo gave no proper answer after all tries.
        SchemaDriftError
            Its answer does not have the known shape; nothing was kept.
        UnknownSymbolError
            A symbol that was not given at the start, or that Yahoo does not know.
        UnknownSessionError
            Yahoo has prices on a day on which the exchange was closed.
        """
        moment = check_as_of(as_of)
        wanted = check_symbols(symbols, self._symbols, source=self.name)
        first = start or EARLIEST
        last = self._last_session(first, end, min(moment, self._now()))
        if last is None:
            return empty_bars()
        frames = [self._bars_of(symbol, first, last) for symbol in wanted]
        return as_of_view(pl.concat([empty_bars(), *frames]), moment)

    def _last_session(self, first: date, end: date | None, moment: datetime) -> date | None:
        until = moment.date() if end is None else min(end, moment.date())
        sessions = sessions_between(first, until, self._exchange)
        if sessions.is_empty():
            return None
        public = sessions.filter(known_at(sessions, delay=self._delay, exchange=self._exchange) <= moment)
        last = public.max()
        return last if isinstance(last, date) else None

    def _bars_of(self, symbol: str, first: date, last: date) -> pl.DataFrame:
        answers = self._cache.covering(symbol, first, last) or [self._ask(symbol, first, last)]
        rows = self._bars(answers[0], first, last)
        for answer in answers[1:]:
            before = as_of_view(rows, datetime.max.replace(tzinfo=UTC))
            rows = pl.concat([rows, restate(before, self._bars(answer, first, last), observed_at=answer.retrieved_at)])
        return validate_bars(rows.sort(BAR_KEY), source=f"yahoo {symbol}")

    def _ask(self, symbol: str, first: date, last: date) -> Answer:
        if self._client is None:
            self._client = YahooClient(**self._client_options)
        rows, meta = self._client.daily(symbol, first, last)
        retrieved_at = self._now().astimezone(UTC)
        zone = str(meta.get("exchangeTimezoneName", ""))
        if zone and zone != time_zone(self._exchange):
            raise DataError(
                f"{symbol} trades in {zone} and {self._exchange} is in {time_zone(self._exchange)}; give the "
                "exchange of these symbols, e.g. exchange='XLON'"
            )
        # Yahoo adds the running session, whose prices still move.
        rows = rows.filter(pl.col("session") <= last).sort("session")
        answer = Answer(
            symbol=symbol,
            start=first,
            through=self._covered_through(rows, last, retrieved_at),
            retrieved_at=retrieved_at,
            currency=str(meta.get("currency")),
            time_zone=zone,
            client=f"yfinance {_yfinance_version()}",
            rows=rows,
        )
        # Checked before it is kept: a file in the cache is always readable.
        validate_bars(self._bars(answer, first, last), source=f"yahoo {symbol}")
        if not rows.is_empty():
            self._cache.keep(answer)
        return answer

    def _covered_through(self, rows: pl.DataFrame, last: date, retrieved_at: datetime) -> date:
        """Return the last session covered: a row that is merely late must be asked for again."""
        newest = rows["session"].max()
        due = known_at([last], delay=self._delay, exchange=self._exchange)[0]
        if isinstance(newest, date) and newest < last and retrieved_at - due < _LATE:
            return newest
        return last

    def _bars(self, answer: Answer, first: date, last: date) -> pl.DataFrame:
        rows = answer.rows.filter(pl.col("session").is_between(first, last))
        closes = session_close(rows["session"], self._exchange)
        factor = pl.lit(1.0) if self._adjustment == "splits" else pl.col("adj_close") / pl.col("close")
        close = pl.col("close") if self._adjustment == "splits" else pl.col("adj_close")
        return rows.select(
            pl.col("session"),
            *(pl.col(name) * factor for name in ("open", "high", "low")),
            close.alias("close"),
            pl.col("volume"),
            symbol=pl.lit(answer.symbol),
            timestamp=closes,
            known_at=closes + self._delay,
            adjustment=pl.lit(self._adjustment),
            source=pl.lit(self.name),
            frequency=pl.lit("1d"),
        ).select(pl.col(name).cast(dtype) for name, dtype in BAR_SCHEMA.items())


def _default_cache() -> Path:
    from quantflow.settings import Settings

    return Settings.load().cache_dir / "yahoo"


def _yfinance_version() -> str:
    from importlib.metadata import version

    return version("yfinance")
