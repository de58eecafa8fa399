"""The two compiled engines, the backtest and the account are one set of rules: they agree bit for bit."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantflow.backtest import (
    RAW_METRICS,
    Account,
    Execution,
    Market,
    _portfolio,
    _raw,
    _runs,
    _slots,
    backtest,
    run_portfolio,
    run_slots,
)
from quantflow.backtest._brief import NOT_MEASURED
from quantflow.errors import InvalidBarsError, MissingColumnError, SignalError, UnknownSessionError
from quantflow.testing.signals import bars_of, random_walk, trend

pytestmark = pytest.mark.slow  # as a module

SYMBOLS = ("A", "B", "C")
BARS = 150


def market_bars(count=BARS, *, gaps=0.0, seed=7):
    """Bars of three symbols with open, high, low and volume; some are missing."""
    rng = np.random.default_rng(seed)
    closes = {symbol: random_walk(count, seed=seed + index, volatility=0.03) for index, symbol in enumerate(SYMBOLS)}
    opens = {symbol: path * np.exp(rng.normal(0.0, 0.02, count)) for symbol, path in closes.items()}
    bars = bars_of(
        closes,
        open=opens,
        high={s: np.maximum(closes[s], opens[s]) * (1.0 + np.abs(rng.normal(0.0, 0.01, count))) for s in SYMBOLS},
        low={s: np.minimum(closes[s], opens[s]) * (1.0 - np.abs(rng.normal(0.0, 0.01, count))) for s in SYMBOLS},
        volume={s: rng.integers(0, 4, count) * 1e5 for s in SYMBOLS},
    )
    return bars.filter(pl.Series(rng.random(bars.height) >= gaps))


WHOLE = market_bars()
GAPPED = market_bars(gaps=0.1)
ACTIONS = pl.DataFrame(
    {
        "symbol": ["A", "A", "B"],
        "session": [WHOLE["session"][40], WHOLE["session"][90], WHOLE["session"][60]],
        "split": [2.0, None, 0.5],
        "dividend": [None, 1.5, 0.75],
    }
)

PLAIN = {
    "fill": st.sampled_from(["next_open", "next_close", "same_close"]),
    "fee_bps": st.floats(0.0, 50.0),
    "slippage_bps": st.floats(0.0, 50.0),
    "leverage": st.floats(1.0, 4.0),
    "rebalance": st.sampled_from(["every_bar", "on_change", "weekly", "monthly"]),
}
GENERAL = PLAIN | {
    "fee_fixed": st.floats(0.0, 1.0),
    "half_spread": st.floats(0.0, 0.5),
    "impact_bps": st.sampled_from([0.0, 20.0]),
    "borrow_bps": st.floats(0.0, 500.0),
    "interest_bps": st.floats(0.0, 500.0),
    "lot_size": st.sampled_from([0.0, 1.0, 5.0]),
    "min_order": st.sampled_from([0.0, 200.0]),
    "stop_loss": st.none() | st.floats(0.01, 0.2),
    "take_profit": st.none() | st.floats(0.01, 0.2),
    "trailing_stop": st.none() | st.floats(0.01, 0.2),
}
SINGLE = WHOLE.filter(symbol="A")
SINGLE_MARKETS = {
    acted: Market.of(SINGLE, Execution(impact_bps=1.0, stop_loss=0.1), ACTIONS.filter(symbol="A") if acted else None)
    for acted in (False, True)
}


def executions(options):
    return st.builds(lambda given: Execution(initial_cash=10_000.0, **given), st.fixed_dictionaries(options))


def targets(seed, count, *, nothing_decided=0.1):
    """Runs of the same target, flat, long, short and more than all; sometimes nothing was decided."""
    rng = np.random.default_rng(seed)
    levels = np.array([0.0, 0.0, 0.4, 1.0, 1.0, 1.7, -0.6, -1.0])
    drawn = np.where(rng.random(count) < 0.3, rng.choice(levels, count), np.nan)
    held = drawn[np.maximum.accumulate(np.where(np.isnan(drawn), 0, np.arange(count)))]
    return np.where(rng.random(count) < nothing_decided, np.nan, np.nan_to_num(held))


@settings(deadline=None, max_examples=60)
@given(
    execution=executions(PLAIN) | executions(GENERAL),
    seed=st.integers(0, 2**20),
    acted=st.booleans(),
    start=st.sampled_from([0, 0, 1, 37]),
)
def test_both_engines_agree_bit_for_bit_on_one_symbol(execution, seed, acted, start):
    market = SINGLE_MARKETS[acted]
    block = np.array([targets(seed + lane, BARS) for lane in range(3)])
    slot_paths, path = np.zeros((3, BARS)), np.zeros(BARS)
    slots = run_slots(block, market, 0, execution, start=start, equity=slot_paths)
    for lane in range(3):
        sums = run_portfolio(block[lane].reshape(-1, 1), market, execution, start=start, equity=path)
        np.testing.assert_array_equal(slot_paths[lane], path)
        np.testing.assert_array_equal(slots[lane], sums)


@settings(deadline=None, max_examples=20)
@given(execution=executions(PLAIN) | executions(GENERAL), seed=st.integers(0, 2**20), acted=st.booleans())
def test_an_account_fed_bar_by_bar_equals_the_backtest_bit_for_bit(execution, seed, acted):
    decider = Said({symbol: targets(seed + index, BARS) for index, symbol in enumerate(SYMBOLS)})
    result = backtest(decider, GAPPED, **execution.to_dict(), actions=ACTIONS if acted else None)
    bars = {moment: rows for (moment,), rows in GAPPED.partition_by("timestamp", as_dict=True).items()}
    said = {(row["timestamp"], row["symbol"]): row["weight"] for row in result.exposures.iter_rows(named=True)}
    account, equity, cash, orders = Account(execution, SYMBOLS), [], [], []
    market = Market.of(GAPPED, execution, ACTIONS if acted else None)
    for row, (session, moment) in enumerate(result.equity.select("session", "timestamp").iter_rows()):
        here = {bar["symbol"]: bar for bar in bars[moment].iter_rows(named=True)}
        step = account.step(
            moment,
            {
                c: [here[s][c] if s in here else np.nan for s in SYMBOLS]
                for c in ("open", "high", "low", "close", "volume")
            },
            {symbol: said.get((moment, symbol), np.nan) for symbol in SYMBOLS},
            session=session,
            splits=dict(zip(SYMBOLS, market.splits[row], strict=True)) if acted else None,
            dividends=dict(zip(SYMBOLS, market.dividends[row], strict=True)) if acted else None,
        )
        equity.append(step.equity)
        cash.append(step.cash)
        orders += step.orders
    assert equity == result.equity["equity"].to_list()
    assert cash == result.equity["cash"].to_list()
    assert [tuple(order) for order in orders] == result.orders.rows()
    assert account.positions == {s: n for s, n in zip(SYMBOLS, result.positions.row(-1)[2:], strict=True) if n}


class Said:
    """A decider whose exposures are given: what is tested is the account."""

    kind = "exposure"

    def __init__(self, exposures):
        self.said = exposures

    def evaluate(self, bars):
        days = bars["timestamp"].unique().sort()
        number = pl.DataFrame({"timestamp": days}).with_row_index("day")
        rows = bars.select("symbol", "session", "timestamp").sort("symbol", "timestamp").join(number, on="timestamp")
        said = {symbol: np.where(np.isnan(values), 0.0, values) for symbol, values in self.said.items()}
        exposure = [float(said[row["symbol"]][row["day"]]) for row in rows.iter_rows(named=True)]
        return rows.select("symbol", "session", "timestamp", pl.Series("exposure", exposure)).sort(
            "symbol", "timestamp"
        )


def test_sums_are_those_of_the_backtest():
    execution = Execution(fee_bps=3.0, slippage_bps=4.0, stop_loss=0.05, borrow_bps=100.0, initial_cash=1000.0)
    bound = trend.bind(lookback=10, target_volatility=0.6)
    result = backtest(bound, GAPPED, **execution.to_dict(), risk_free_rate=0.02)
    market = Market.of(GAPPED, execution)
    weights = market.matrix(result.exposures, "weight")
    sums = dict(zip(RAW_METRICS, run_portfolio(weights, market, execution, risk_free_rate=0.02), strict=True))
    returns = result.returns["return"].to_numpy()
    excess = returns - (1.02 ** (1 / 252) - 1.0)
    orders = result.orders
    expected = {
        "periods": len(returns),
        "sum_return": returns.sum(),
        "sum_return_2": (returns**2).sum(),
        "sum_return_3": (returns**3).sum(),
        "sum_return_4": (returns**4).sum(),
        "lowest_return": returns.min(),
        "highest_return": returns.max(),
        "sum_above": np.maximum(excess, 0.0).sum(),
        "sum_below": np.maximum(-excess, 0.0).sum(),
        "sum_below_2": (np.minimum(excess, 0.0) ** 2).sum(),
        "gains": (returns > 0.0).sum(),
        "losses": (returns < 0.0).sum(),
        "final_equity": result.equity["equity"][-1],
        "max_drawdown": result.equity["drawdown"].max(),
        "drawdown_trough": result.equity["drawdown"].arg_max(),
        "sum_gross": result.returns["exposure"].sum(),
        "invested": (result.returns["exposure"] > 0.0).sum(),
        "orders": orders.height,
        "turnover": result.returns["turnover"].sum(),
        "cost": result.returns["cost"].sum(),
        "fees": orders["fee"].sum(),
        "slippage": orders["slippage"].sum(),
        "stops": (orders["reason"] == "stop_loss").sum(),
        "limited": orders["limited_by"].is_not_null().sum(),
        "ruined": -1.0,
    }
    for name, value in expected.items():
        assert sums[name] == pytest.approx(value, rel=1e-11, abs=1e-12), name
    assert sums["stops"] > 0
    assert sums["carry"] > 0.0
    for name, key in {"trades": "trades", "win_rate": "trades_won"}.items():
        counted = result.metrics[name] * (sums["trades"] if name == "win_rate" else 1.0)
        assert counted == pytest.approx(sums[key]), name
    assert result.metrics["profit_factor"] == pytest.approx(sums["trade_profit"] / sums["trade_loss"], rel=1e-9)


def test_each_combination_is_its_own_whatever_its_neighbours_are():
    market, execution = SINGLE_MARKETS[False], Execution(fee_bps=5.0)
    block = np.array([targets(seed, BARS) for seed in range(40)])
    together = run_slots(block, market, 0, execution)
    for first, last in ((0, 1), (3, 19), (39, 40)):
        np.testing.assert_array_equal(run_slots(block[first:last], market, 0, execution), together[first:last])


def test_a_symbol_in_a_market_of_many_is_traded_on_its_own_bars():
    execution = Execution(fee_bps=5.0, rebalance="weekly", trailing_stop=0.1)
    market = Market.of(GAPPED, execution, ACTIONS)
    for index, symbol in enumerate(SYMBOLS):
        own = GAPPED.filter(symbol=symbol)
        alone = Market.of(own, execution, ACTIONS.filter(symbol=symbol))
        said = targets(index, own.height).reshape(1, -1)
        np.testing.assert_array_equal(
            run_slots(said, market, index, execution)[0], run_portfolio(said.T, alone, execution)
        )


def test_a_lost_account_stays_lost_in_both_engines():
    bars = bars_of({"A": [100.0] * 100 + [160.0] + [100.0] * 200}, open={"A": [100.0] * 301})
    market, execution = Market.of(bars, Execution()), Execution(leverage=3.0)
    said = np.full((1, 301), -3.0)
    sums = dict(zip(RAW_METRICS, run_slots(said, market, 0, execution)[0], strict=True))
    np.testing.assert_array_equal(run_portfolio(said.T, market, execution), list(sums.values()))
    assert (sums["ruined"], sums["final_equity"], sums["max_drawdown"], sums["trades"]) == (100.0, 0.0, 1.0, 1.0)
    assert sums["longest_drawdown"] == 201.0


def test_shapes_that_do_not_fit_are_refused():
    market, execution = SINGLE_MARKETS[False], Execution()
    with pytest.raises(SignalError, match=r"targets of A have the shape \(2, 5\)"):
        run_slots(np.zeros((2, 5)), market, 0, execution)
    with pytest.raises(SignalError, match="weights have the shape"):
        run_portfolio(np.zeros((BARS, 2)), market, execution)
    with pytest.raises(SignalError, match="start is 150"):
        run_portfolio(np.zeros((BARS, 1)), market, execution, start=BARS)
    with pytest.raises(SignalError, match="equity is float64"):
        run_slots(np.zeros((2, BARS)), market, 0, execution, equity=np.zeros((2, 5)))


def test_a_market_serves_every_execution_whose_columns_it_has():
    closes = Market.of(bars_of({"A": random_walk(30, seed=1)}), Execution(fill="next_close"))
    run_portfolio(np.zeros((30, 1)), closes, Execution(fill="same_close", lot_size=1.0))
    for options, message in [
        ({"fill": "next_open"}, "fill 'next_open' needs the column 'open'"),
        ({"fill": "next_close", "take_profit": 0.1}, "take_profit needs the column 'open'"),
        ({"fill": "next_close", "impact_bps": 1.0}, "impact_bps needs the column 'volume'"),
    ]:
        with pytest.raises(MissingColumnError, match=message):
            run_portfolio(np.zeros((30, 1)), closes, Execution(**options))


def test_bars_are_checked_for_what_is_used_of_them():
    broken = WHOLE.with_columns(volume=pl.when(pl.col("symbol") == "B").then(-1.0).otherwise("volume"))
    Market.of(broken, Execution())
    with pytest.raises(
        InvalidBarsError, match=r"volume of B at 2020-01-01 is -1\.0 \(150 such rows\); allowed: at least 0"
    ):
        Market.of(broken, Execution(impact_bps=1.0))
    with pytest.raises(UnknownSessionError, match="XNYS has no session on 2020-01-01"):
        Market.of(WHOLE, Execution(calendar="XNYS"))
    Market.of(WHOLE, Execution(calendar="24/7"))


def test_targets_of_what_the_bars_do_not_have_are_refused():
    market = Market.of(WHOLE, Execution())
    frame = pl.DataFrame({"symbol": ["A", "Z"], "timestamp": [WHOLE["timestamp"][0]] * 2, "weight": [1.0, 0.0]})
    assert np.nansum(market.matrix(frame, "weight")) == 1.0
    with pytest.raises(SignalError, match=r"weight is 2\.0 for Z"):
        market.matrix(frame.with_columns(weight=pl.lit(2.0)), "weight")
    with pytest.raises(SignalError, match=r"target of A at .* is infinite"):
        backtest(Said({symbol: np.full(BARS, np.inf) for symbol in SYMBOLS}), WHOLE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop("session"), "needed: symbol, session"),
        (lambda frame: frame.drop("split", "dividend"), "split or dividend"),
        (lambda frame: frame.with_columns(pl.col("session").cast(pl.String)), "give ex-dates"),
        (lambda frame: frame.with_columns(symbol=pl.lit("Z")), "name Z"),
        (lambda frame: pl.concat([frame, frame]), "more than one row for A"),
        (lambda frame: frame.with_columns(split=pl.lit(0.0)), r"split of A .* is 0\.0"),
        (lambda frame: frame.with_columns(dividend=pl.lit(-1.0)), r"dividend of A .* is -1\.0"),
    ],
)
def test_actions_that_are_not_possible_are_refused(change, message):
    with pytest.raises(SignalError, match=message):
        Market.of(WHOLE, Execution(), change(ACTIONS))


def test_actions_that_prices_are_adjusted_for_would_count_twice():
    adjusted = WHOLE.with_columns(adjustment=pl.lit("splits"))
    with pytest.raises(SignalError, match="2 splits are given, but the prices are adjusted"):
        Market.of(adjusted, Execution(), ACTIONS)
    Market.of(adjusted, Execution(), ACTIONS.drop("split"))


def test_actions_between_bars_count_at_the_next_one():
    bars = bars_of({"A": [100.0, 100.0, None, None, 25.0, 25.0], "B": [1.0] * 4 + [None, None]})
    days = bars.filter(symbol="B")["session"]
    actions = pl.DataFrame(
        {"symbol": ["A", "A"], "session": [days[2], days[3]], "split": [2.0, 2.0], "dividend": [1.0, 1.0]}
    )
    execution = Execution(fill="next_close", rebalance="on_change")
    market = Market.of(bars, execution, actions)
    path = np.zeros((1, 4))
    run_slots(np.ones((1, 4)), market, 0, execution, equity=path)
    # One share of 100: two of 50 and 2 in cash, then four of 25 and 4 more.
    np.testing.assert_allclose(path[0], [1.0, 1.0, 1.06, 1.06], rtol=1e-14)
    whole = np.zeros(6)
    run_portfolio(np.ones((6, 2)) * [1.0, 0.0], market, execution, equity=whole)
    np.testing.assert_allclose(whole, [1.0, 1.0, 1.02, 1.06, 1.06, 1.06], rtol=1e-14)


def test_actions_outside_the_bars_change_nothing():
    frame = bars_of({"A": random_walk(20, seed=1)})
    days = frame["session"]
    early, late = days[0].replace(year=2019), days[0].replace(year=2021)
    actions = pl.DataFrame({"symbol": ["A", "A"], "session": [early, late], "split": [2.0, 2.0]})
    execution = Execution(fill="next_close")
    np.testing.assert_array_equal(
        run_portfolio(np.ones((20, 1)), Market.of(frame, execution, actions), execution),
        run_portfolio(np.ones((20, 1)), Market.of(frame, execution), execution),
    )


UNCOMPILED = [
    {"fill": "same_close", "fee_bps": 5.0},
    {"fill": "next_close", "rebalance": "on_change", "slippage_bps": 5.0, "leverage": 1.5},
    {"stop_loss": 0.05, "take_profit": 0.08, "trailing_stop": 0.06, "impact_bps": 20.0, "fee_bps": 3.0},
    {
        "fill": "next_close",
        "lot_size": 5.0,
        "min_order": 200.0,
        "interest_bps": 300.0,
        "leverage": 3.0,
        "stop_loss": 0.1,
    },
]


@pytest.mark.parametrize("options", UNCOMPILED, ids=["same_close", "on_change", "stops", "lots"])
def test_the_engines_come_to_the_same_numbers_as_plain_python(options, monkeypatch):
    """What a debugger steps through is what runs compiled."""
    execution = Execution(initial_cash=10_000.0, **options)
    acted = not execution.is_plain
    block = np.array([targets(seed, BARS) for seed in range(3)])
    block[2] = -2.0  # is lost at three times equity
    market = SINGLE_MARKETS[acted]
    whole = Market.of(GAPPED, execution, ACTIONS if acted else None)
    weights = np.column_stack([targets(seed, BARS) / 2.0 for seed in range(3)])
    compiled = run_slots(block, market, 0, execution), run_portfolio(weights, whole, execution)
    told = backtest(Said({symbol: targets(seed, BARS) for seed, symbol in enumerate(SYMBOLS)}), GAPPED, **options)
    monkeypatch.setattr(_runs, "slots_engine", _slots._loop)
    monkeypatch.setattr(_runs, "portfolio_engine", _portfolio._loop)
    monkeypatch.setattr(_runs, "measure_engine", lambda: _raw.measure)
    with np.errstate(divide="ignore", invalid="ignore"):  # numpy's scalars warn where compiled code goes on
        np.testing.assert_array_equal(run_slots(block, market, 0, execution), compiled[0])
        np.testing.assert_array_equal(run_portfolio(weights, whole, execution), compiled[1])
        stepped = backtest(Said({s: targets(seed, BARS) for seed, s in enumerate(SYMBOLS)}), GAPPED, **options)
    assert stepped.orders.equals(told.orders)


@settings(deadline=None, max_examples=60)
@given(execution=executions(PLAIN), seed=st.integers(0, 2**20), start=st.sampled_from([0, 0, 1, 37]))
def test_the_brief_engine_agrees_on_what_it_measures_and_leaves_the_rest_open(execution, seed, start):
    block = np.array([targets(seed + lane, BARS) for lane in range(3)])
    whole = run_slots(block, SINGLE_MARKETS[False], 0, execution, start=start)
    brief = run_slots(block, SINGLE_MARKETS[False], 0, execution, start=start, brief=True)
    for column, name in enumerate(RAW_METRICS):
        if name in NOT_MEASURED:
            assert np.isnan(brief[:, column]).all(), name
        elif name not in ("lowest_return", "highest_return"):  # followed until they show that returns vary
            np.testing.assert_allclose(brief[:, column], whole[:, column], rtol=1e-11, atol=1e-13, err_msg=name)
