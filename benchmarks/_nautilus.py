"""A moving-average cross in nautilus_trader: a program of its own, run by an environment of its own.

``python _nautilus.py PRICES.npz FAST SLOW CASH PART MARGIN``: prints one JSON object with the seconds of
the run (data are loaded before), the orders, and the cash at the end after selling everything.
It imports nothing of ours: that environment has nautilus_trader only.
"""

from __future__ import annotations

import json
import sys
import time
from decimal import Decimal

import numpy as np
from nautilus_trader.backtest.engine import BacktestEngine
from nautilus_trader.config import BacktestEngineConfig, LoggingConfig, StrategyConfig
from nautilus_trader.indicators import SimpleMovingAverage
from nautilus_trader.model.currencies import USD
from nautilus_trader.model.data import Bar, BarType
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue
from nautilus_trader.model.instruments import Equity
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.trading.strategy import Strategy

VENUE = Venue("XNAS")
MINUTE = 60_000_000_000
START = 1_262_379_600_000_000_000


class CrossConfig(StrategyConfig, frozen=True):
    """What the strategy trades and how much of its cash."""

    bar_type: BarType
    fast: int
    slow: int
    part: float
    margin: float


class Cross(Strategy):
    """Long while the fast mean is above the slow one; orders fill at the close that decides."""

    def __init__(self, config: CrossConfig) -> None:
        super().__init__(config)
        self.fast, self.slow = SimpleMovingAverage(config.fast), SimpleMovingAverage(config.slow)
        self.held = 0

    def on_start(self) -> None:
        """Ask for bars."""
        self.register_indicator_for_bars(self.config.bar_type, self.fast)
        self.register_indicator_for_bars(self.config.bar_type, self.slow)
        self.subscribe_bars(self.config.bar_type)

    def on_bar(self, bar: Bar) -> None:
        """Decide."""
        if not self.indicators_initialized():
            return
        above = self.fast.value > self.slow.value + self.config.margin
        if above and not self.held:
            cash = self.portfolio.account(VENUE).balance_free(USD).as_double()
            self.held = int(cash * self.config.part / bar.close.as_double())
            self.send(OrderSide.BUY)
        elif not above and self.held:
            self.send(OrderSide.SELL)
            self.held = 0

    def send(self, side: OrderSide) -> None:
        """Send a market order for the whole position."""
        instrument = self.config.bar_type.instrument_id
        self.submit_order(self.order_factory.market(instrument, side, Quantity.from_int(self.held)))


def main() -> None:
    """Load, run, print."""
    prices = np.load(sys.argv[1])
    fast, slow = (int(given) for given in sys.argv[2:4])
    cash, part, margin = (float(given) for given in sys.argv[4:7])
    instrument = Equity(
        instrument_id=InstrumentId(Symbol("S000"), VENUE),
        raw_symbol=Symbol("S000"),
        currency=USD,
        price_precision=2,
        price_increment=Price.from_str("0.01"),
        lot_size=Quantity.from_int(1),
        maker_fee=Decimal(0),
        taker_fee=Decimal(0),
        ts_event=0,
        ts_init=0,
    )
    bar_type = BarType.from_str(f"{instrument.id}-1-MINUTE-LAST-EXTERNAL")
    volume = Quantity.from_int(1_000_000_000)
    columns = [prices[name] for name in prices.files]
    bars = [
        Bar(bar_type, *(Price(value, 2) for value in row), volume, START + MINUTE * number, START + MINUTE * number)
        for number, row in enumerate(zip(*columns, strict=True))
    ]
    engine = BacktestEngine(config=BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    engine.add_venue(
        venue=VENUE,
        oms_type=OmsType.NETTING,
        account_type=AccountType.CASH,
        base_currency=USD,
        starting_balances=[Money(cash, USD)],
    )
    engine.add_instrument(instrument)
    strategy = Cross(CrossConfig(bar_type=bar_type, fast=fast, slow=slow, part=part, margin=margin))
    engine.add_strategy(strategy)
    engine.add_data(bars)
    started = time.perf_counter()
    engine.run()
    seconds = time.perf_counter() - started
    balance = engine.cache.account_for_venue(VENUE).balance_total(USD).as_double()
    orders = sum(order.is_closed for order in engine.cache.orders())
    last = float(columns[3][-1])
    print(json.dumps({"seconds": seconds, "orders": orders, "equity": balance + strategy.held * last}))


if __name__ == "__main__":
    main()
