from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantflow.data import known_at, session_close, sessions_between
from quantflow.data.calendar import time_zone
from quantflow.errors import DataError, UnknownSessionError


def close(session: date, exchange: str = "XNYS") -> datetime:
    value: datetime = session_close([session], exchange)[0]
    return value


def test_new_york_closes_at_four_in_its_own_time() -> None:
    assert close(date(2022, 1, 3)) == datetime(2022, 1, 3, 21, tzinfo=UTC)
    assert close(date(2022, 7, 1)) == datetime(2022, 7, 1, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("session", "hour"), [(date(1990, 12, 24), 19), (date(2018, 12, 24), 18), (date(2022, 11, 25), 18)]
)
def test_early_closes_are_known_earlier(session: date, hour: int) -> None:
    # At 14:00 in New York until 1992, at 13:00 since.
    assert close(session) == datetime(session.year, session.month, session.day, hour, tzinfo=UTC)


def test_histories_older_than_twenty_years_have_closes() -> None:
    assert close(date(1962, 1, 2)) == datetime(1962, 1, 2, 21, tzinfo=UTC)
    assert close(date(1990, 1, 2)) == datetime(1990, 1, 2, 21, tzinfo=UTC)


def test_closes_come_in_the_order_of_the_sessions() -> None:
    sessions = [date(2022, 1, 5), None, date(2022, 1, 3), date(2022, 1, 5)]
    closes = session_close(pl.Series(sessions, dtype=pl.Date)).to_list()
    assert [moment and moment.day for moment in closes] == [5, None, 3, 5]


def test_days_without_a_session_are_named() -> None:
    with pytest.raises(UnknownSessionError, match="XNYS has no session on 2022-01-01, 2022-07-04") as caught:
        session_close([date(2022, 7, 4), date(2022, 1, 1), date(2022, 1, 3)])
    assert "give the exchange that these rows belong to" in str(caught.value)


def test_many_days_without_a_session_are_counted() -> None:
    sundays = [date(2022, 1, 2) + timedelta(weeks=week) for week in range(9)]
    with pytest.raises(UnknownSessionError, match="and 4 more"):
        session_close(sundays)


def test_another_exchange_has_its_own_sessions() -> None:
    assert close(date(2022, 7, 4), "XLON") == datetime(2022, 7, 4, 15, 30, tzinfo=UTC)
    assert time_zone("XLON") == "Europe/London"


def test_an_exchange_known_from_some_day_on_is_read_from_then() -> None:
    # exchange_calendars knows Tokyo from 1997 on.
    assert len(sessions_between(date(1990, 1, 1), date(1997, 1, 31), "XTKS")) > 10
    with pytest.raises(UnknownSessionError, match="XTKS has no session on 1990-06-01"):
        session_close([date(1990, 6, 1), date(1999, 6, 1)], "XTKS")


def test_an_unknown_exchange_is_named() -> None:
    with pytest.raises(DataError, match="no calendar 'MARS'"):
        session_close([date(2022, 1, 3)], "MARS")


def test_moments_are_not_sessions() -> None:
    with pytest.raises(DataError, match="give dates"):
        session_close(pl.Series([datetime(2022, 1, 3, tzinfo=UTC)]))


def test_a_bar_is_known_when_the_delay_has_passed() -> None:
    known = known_at([date(2022, 11, 25)], delay=timedelta(minutes=15))
    assert known.to_list() == [datetime(2022, 11, 25, 18, 15, tzinfo=UTC)]


def test_nothing_is_known_before_the_close() -> None:
    with pytest.raises(DataError, match="cannot be known before its session closes"):
        known_at([date(2022, 1, 3)], delay=timedelta(seconds=-1))


def test_no_sessions_have_no_closes() -> None:
    assert session_close([]).is_empty()
    assert sessions_between(date(2022, 1, 2), date(2022, 1, 1)).is_empty()
    assert sessions_between(date(2022, 1, 1), date(2022, 1, 2)).is_empty()


@given(first=st.dates(date(1985, 1, 1), date(2026, 1, 1)), days=st.integers(0, 400))
def test_sessions_between_are_those_that_have_a_close(first: date, days: int) -> None:
    last = first + timedelta(days=days)
    sessions = sessions_between(first, last)
    closes = session_close(sessions)
    assert sessions.is_sorted()
    assert closes.is_sorted()
    assert (closes.dt.convert_time_zone("America/New_York").dt.date() == sessions).all()
    assert sessions.is_between(first, last).all()
