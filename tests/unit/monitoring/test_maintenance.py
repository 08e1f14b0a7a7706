"""Maintenance windows: once and again, in their own time zone, over the change of clocks; what they hold back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.monitoring.listings import MaintenanceWindows
from mlcycle_nb.monitoring.maintenance import Maintenance, check_plan, parse_days

NOW = datetime(2027, 1, 6, 12, 0, tzinfo=UTC)  # a Wednesday


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def plan(**fields: Any) -> Maintenance:
    return Maintenance(
        **{
            "id": "m",
            "phase": "planned",
            "created_at": NOW,
            "environment": "production",
            "model": "credit",
            "kind": "",
            "days": (),
            "start": "2027-01-31T22:00",
            "seconds": 7200.0,
            "zone": "UTC",
            "reason": "migration",
            "created_by": "ana",
            **fields,
        }
    )


class TestWhen:
    @pytest.mark.parametrize(
        ("moment", "until"),
        [
            ("2027-01-31T20:59:59", None),
            ("2027-01-31T21:00:00", "2027-01-31T23:00:00"),
            ("2027-01-31T22:59:59", "2027-01-31T23:00:00"),
            ("2027-01-31T23:00:00", None),
        ],
    )
    def test_once_in_its_own_zone(self, moment: str, until: str | None) -> None:
        berlin = plan(zone="Europe/Berlin")

        assert berlin.until(at(moment)) == (None if until is None else at(until))

    def test_every_week_over_midnight(self) -> None:
        sundays = plan(days=("sun",), start="23:00")

        assert sundays.until(at("2027-01-11T00:59:00")) == at("2027-01-11T01:00:00")
        assert sundays.until(at("2027-01-10T22:59:00")) is None
        assert sundays.next_begin(at("2027-01-10T23:00:00")) == at("2027-01-17T23:00:00")

    def test_a_day_of_the_month_that_some_months_lack(self) -> None:
        last = plan(days=("31.",), start="02:00")

        assert last.next_begin(at("2027-01-31T02:00:00")) == at("2027-03-31T02:00:00")

    def test_the_wall_clock_is_kept_when_clocks_change(self) -> None:
        daily = plan(days=parse_days("day"), start="03:00", zone="Europe/Berlin", seconds=3600)

        assert daily.next_begin(at("2027-03-27T03:00:00")) == at("2027-03-28T01:00:00")  # 03:00 in summer time
        assert daily.next_begin(at("2027-03-26T12:00:00")) == at("2027-03-27T02:00:00")  # 03:00 in winter time

    def test_a_time_that_is_skipped_and_one_that_comes_twice(self) -> None:
        daily = plan(days=parse_days("day"), start="02:30", zone="Europe/Berlin", seconds=3600)

        # On 2027-03-28 clocks go from 02:00 to 03:00 at 01:00 UTC: 02:30 does not exist, and 01:30 UTC is 03:30.
        assert daily.next_begin(at("2027-03-28T00:00:00")) == at("2027-03-28T01:30:00")
        # On 2027-10-31 they go back from 03:00 to 02:00 at 01:00 UTC: the first 02:30 is at 00:30 UTC.
        assert daily.next_begin(at("2027-10-30T12:00:00")) == at("2027-10-31T00:30:00")
        assert daily.until(at("2027-10-31T01:29:00")) == at("2027-10-31T01:30:00")
        assert daily.until(at("2027-10-31T01:30:00")) is None

    def test_an_ended_one_is_in_force_no_more(self) -> None:
        assert plan(phase="ended").until(at("2027-01-31T22:30:00")) is None

    def test_whom_it_covers(self) -> None:
        assert plan().covers("production/credit", "data_drift")
        assert not plan().covers("production/other", "data_drift")
        assert not plan().covers("staging/credit", "data_drift")
        assert plan(model="").covers("production/other", "no_data")
        assert not plan(kind="no_data").covers("production/credit", "data_drift")

    def test_the_listing_tells_in_force_next_and_over(self) -> None:
        windows = [plan(), plan(start="2027-01-06T11:00"), plan(start="2027-01-01T00:00"), plan(phase="ended")]
        states = [row[1] for row in MaintenanceWindows(windows, NOW).rows()]

        assert states == ["next 2027-01-31 22:00:00", "in force until 2027-01-06 13:00:00", "over", "ended"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("days", "start", "hours", "zone", "said"),
        [
            ((), "2027-01-31", 1, "Europe/Berln", "did you mean 'Europe/Berlin'"),
            ((), "tomorrow", 1, "UTC", "write a date and time"),
            (("sun",), "2027-01-31T22:00", 1, "UTC", "write a time of day"),
            (("sun",), "25:00", 1, "UTC", "write a time of day"),
            ((), "2027-01-31T22:00+01:00", 1, "UTC", "name the zone with --zone"),
            ((), "2027-01-06T11:00", 1, "UTC", "over already"),
            (("sun",), "02:00", 200, "UTC", "at most 1w"),
            ((), "2027-01-31T22:00", 9000, "UTC", "at most"),
            ((), "2027-01-31T22:00", 1, "../../etc/passwd", "no such time zone"),
            ((), "9999-12-31T23:00", 4, "UTC", "out of range"),
            ((), "0001-01-01T00:00", 1, "Asia/Tokyo", "out of range"),
        ],
    )
    def test_plans_that_cannot_be_meant(self, days, start: str, hours: int, zone: str, said: str) -> None:
        with pytest.raises(InvalidInput, match=said):
            check_plan(days, start, timedelta(hours=hours), zone, NOW)

    @pytest.mark.parametrize("text", ["sundy", "32.", "0.", "mo", "weekdays"])
    def test_days_that_are_none(self, text: str) -> None:
        with pytest.raises(InvalidInput, match="no such day"):
            parse_days(text)

    def test_days(self) -> None:
        assert parse_days("weekend, Sunday, 1.") == ("sat", "sun", "1.")
        assert parse_days("") == ()
