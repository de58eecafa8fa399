"""Yahoo's chart address behind a real HTTP session, without a network.

The answers have the shape that yfinance 1.7.0 reads, in its own words:

- ``chart.result[0]`` with ``meta``, ``timestamp``, ``indicators.quote[0]`` and ``indicators.adjclose[0]``:
  ``yfinance/utils.py`` ``parse_quotes``; ``events`` with dividends and splits: ``parse_actions`` there.
- keys of ``meta``: ``yfinance/scrapers/history.py`` ``PriceHistory.history`` (``instrumentType``,
  ``exchangeTimezoneName``, ``currency``, ``validRanges``, ``priceHint``) and ``utils.format_history_metadata``
  (``firstTradeDate``, ``regularMarketTime``, ``currentTradingPeriod``).
- ``chart.error`` with ``code`` and ``description``; the text "No data found, symbol may be delisted" is in
  yfinance's ``tests/test_prices.py`` ``test_prices_missing_error_message_formats``; ``{"chart": null}`` for an
  unknown symbol in ``test_invalid_ticker_raises_prices_missing_not_type_error`` (its issue 2670).
- status 429 and the addresses of cookie and crumb: ``yfinance/data.py`` ``YfData``.
- "Will be right back" instead of JSON: ``PriceHistory.history``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo

import requests
from requests.adapters import BaseAdapter

__all__ = ["CannedYahoo", "Reply", "YahooBar", "chart_body", "error_body", "fresh_yfinance"]

CHART = "/v8/finance/chart/"


@dataclass(frozen=True, slots=True)
class YahooBar:
    """One session as Yahoo tells it; prices are adjusted for splits, ``adj_close`` for dividends, too."""

    session: date
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    adj_close: float | None
    volume: int | None
    dividend: float = 0.0
    split: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that is given instead of the next chart answer."""

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class CannedYahoo(BaseAdapter):
    """Answers every request of a session from memory.

    Parameters
    ----------
    histories
        Symbol -> its bars, in order; other symbols are "Not Found".
    zone
        The exchange's time zone, opening at 09:30.
    """

    def __init__(self, histories: Mapping[str, Sequence[YahooBar]], *, zone: str = "America/New_York") -> None:
        super().__init__()
        self.histories = dict(histories)
        self.zone = zone
        #: Given before the histories are looked at, first in first out; for price requests only.
        self.replies: deque[Reply] = deque()
        #: Query of every price request, in order.
        self.asked: list[dict[str, str]] = []

    def session(self) -> Any:
        """Return a requests session whose every request comes here."""
        session = requests.Session()
        session.mount("https://", self)
        session.mount("http://", self)
        return session

    def send(self, request: Any, *_: Any, **__: Any) -> Any:
        """Answer one prepared request (the border that requests gives to its adapters)."""
        parts = urlsplit(request.url)
        if not parts.path.startswith(CHART):
            return _response(request, Reply(body="crumb" if parts.path.endswith("getcrumb") else ""))
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        symbol = unquote(parts.path.removeprefix(CHART))
        if "range" in query:
            return _response(request, Reply(body=self._answer(symbol, [], query)))
        self.asked.append({"symbol": symbol, **query})
        if self.replies:
            return _response(request, self.replies.popleft())
        first, last = int(query["period1"]), int(query["period2"])
        bars = [bar for bar in self.histories.get(symbol, ()) if first <= self._stamp(bar.session) < last]
        return _response(
            request, Reply(404 if symbol not in self.histories else 200, self._answer(symbol, bars, query))
        )

    def close(self) -> None:
        """Nothing is open."""

    def _answer(self, symbol: str, bars: Sequence[YahooBar], query: Mapping[str, str]) -> str:
        if symbol not in self.histories:
            return error_body("Not Found", "No data found, symbol may be delisted")
        return json.dumps(chart_body(symbol, bars, zone=self.zone))

    def _stamp(self, session: date) -> int:
        return opening_stamp(session, self.zone)


def opening_stamp(session: date, zone: str) -> int:
    """Return the session's opening at 09:30 as Yahoo's timestamp."""
    return int(datetime.combine(session, time(9, 30), tzinfo=ZoneInfo(zone)).timestamp())


def chart_body(symbol: str, bars: Sequence[YahooBar], *, zone: str = "America/New_York") -> dict[str, Any]:
    """Return the chart answer for these bars, as parsed JSON; tests change it to plant drift."""
    stamps = [opening_stamp(bar.session, zone) for bar in bars]
    quote = {name: [getattr(bar, name) for bar in bars] for name in ("open", "high", "low", "close", "volume")}
    result: dict[str, Any] = {
        "meta": _meta(symbol, zone),
        "indicators": {
            "quote": [quote if bars else {}],
            "adjclose": [{"adjclose": [bar.adj_close for bar in bars]} if bars else {}],
        },
    }
    if bars:
        result["timestamp"] = stamps
    dividends = {str(s): {"amount": b.dividend, "date": s} for s, b in zip(stamps, bars, strict=True) if b.dividend}
    splits = {
        str(s): {
            "date": s,
            "numerator": b.split[0],
            "denominator": b.split[1],
            "splitRatio": f"{b.split[0]}:{b.split[1]}",
        }
        for s, b in zip(stamps, bars, strict=True)
        if b.split
    }
    events = {name: values for name, values in (("dividends", dividends), ("splits", splits)) if values}
    if events:
        result["events"] = events
    return {"chart": {"result": [result], "error": None}}


def error_body(code: str, description: str) -> str:
    """Return the chart answer for a refused request."""
    return json.dumps({"chart": {"result": None, "error": {"code": code, "description": description}}})


def _meta(symbol: str, zone: str) -> dict[str, Any]:
    offset = datetime(2022, 1, 3, tzinfo=ZoneInfo(zone)).utcoffset() or timedelta(0)
    period = {"timezone": "EST", "start": 1641220200, "end": 1641243600, "gmtoffset": int(offset.total_seconds())}
    return {
        "currency": "USD",
        "symbol": symbol,
        "exchangeName": "NMS",
        "instrumentType": "EQUITY",
        "firstTradeDate": 345479400,
        "regularMarketTime": 1641243600,
        "gmtoffset": int(offset.total_seconds()),
        "timezone": "EST",
        "exchangeTimezoneName": zone,
        "regularMarketPrice": 100.0,
        "chartPreviousClose": 100.0,
        "priceHint": 2,
        "currentTradingPeriod": {"pre": dict(period), "regular": dict(period), "post": dict(period)},
        "dataGranularity": "1d",
        "range": "",
        "validRanges": ["1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max"],
    }


def _response(request: Any, reply: Reply) -> Any:
    response = requests.Response()
    response.status_code = reply.status
    response._content = reply.body.encode()
    response.headers.update(reply.headers)
    response.url = request.url
    response.request = request
    response.encoding = "utf-8"
    return response


def fresh_yfinance() -> None:
    """Make yfinance forget its process-wide session, cookies and crumb, as in a new process."""
    from yfinance.data import SingletonMeta, YfData

    SingletonMeta._instances.pop(YfData, None)
    YfData.cache_get.cache_clear()
