"""Market data commands: replay a source's history into a market topic."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantflow.cli._common import load_settings, print_json, say

if TYPE_CHECKING:
    from quantflow.settings import Settings

__all__ = ["replay", "replay_source"]


def replay_source(
    settings: Settings,
    source: str,
    *,
    symbols: list[str] | None = None,
    start: date | None = None,
    end: date | None = None,
) -> dict[str, Any]:
    """Publish a source's bars to ``market.bars.<frequency>``, keyed by symbol, and return what was sent.

    Readers drop what they have seen, so a second replay of the same history doubles no bar.
    """
    from quantflow.data import get_source
    from quantflow.events.market import publish_bars
    from quantflow.events.topics import Topics
    from quantflow.events.transport import LibrdkafkaTransport

    frame = get_source(source).read(symbols, start=start, end=end, as_of=datetime.now(UTC))
    transport = LibrdkafkaTransport(settings.kafka)
    topics = Topics(settings.topic_prefix)
    topics.ensure_all(transport.admin())
    topic = topics.market_bars(frame["frequency"][0])
    sent = publish_bars(transport, topic, frame)
    return {
        "source": source,
        "topic": topic,
        "bars": sent,
        "symbols": frame["symbol"].n_unique(),
        "first_session": frame["session"].min(),
        "last_session": frame["session"].max(),
        "adjustment": frame["adjustment"][0],
    }


def replay(
    source: Annotated[str, typer.Argument(help="Market data source, such as sp500 or index.")] = "sp500",
    symbol: Annotated[list[str] | None, typer.Option(help="Only this symbol; may be repeated.")] = None,
    start: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First session.")] = None,
    end: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last session.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Replay a source's price history into its market topic."""
    sent = replay_source(
        load_settings(),
        source,
        symbols=symbol,
        start=start.date() if start else None,
        end=end.date() if end else None,
    )
    if as_json:
        print_json(sent)
        return
    say(
        f"{sent['bars']:,} bars of {sent['symbols']} symbols, {sent['first_session']} to {sent['last_session']}, "
        f"sent to {sent['topic']}"
    )
