"""Times as people read and type them: in a zone of their own, over the hours that daylight saving repeats or skips."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from auth_portal.clock import WallClock, iso_exact, zone_names, zones_to_choose

JOHANNESBURG, NEW_YORK = WallClock("Africa/Johannesburg"), WallClock("America/New_York")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_time_is_that_of_the_zone() -> None:
    assert WallClock().full(at("2026-11-22 22:05:09")) == "2026-11-22 22:05:09"
    assert JOHANNESBURG.full(at("2026-11-22 22:05:09")) == "2026-11-23 00:05:09"
    assert JOHANNESBURG.day(at("2026-11-22 22:05:09")) == "2026-11-23"
    assert NEW_YORK.full(at("2026-07-01 12:00")) == "2026-07-01 08:00:00"
    assert NEW_YORK.full(at("2026-12-01 12:00")) == "2026-12-01 07:00:00"


def test_a_time_of_day_has_its_date_where_that_is_another() -> None:
    began = at("2026-11-22 21:59:50")
    assert JOHANNESBURG.time(began) == "23:59:50"
    assert JOHANNESBURG.time(at("2026-11-22 21:59:59"), of=began) == "23:59:59"
    assert JOHANNESBURG.time(at("2026-11-22 22:00:01"), of=began) == "2026-11-23 00:00:01"


def test_the_repeated_hour_says_which_of_the_two_it_is() -> None:
    """On 1 November 2026 New York's clocks go from 02:00 back to 01:00, at 06:00 UTC."""
    assert NEW_YORK.full(at("2026-11-01 05:30")) == "2026-11-01 01:30:00 UTC-4"
    assert NEW_YORK.full(at("2026-11-01 06:30")) == "2026-11-01 01:30:00 UTC-5"
    assert NEW_YORK.full(at("2026-11-01 07:00")) == "2026-11-01 02:00:00"
    assert NEW_YORK.full(at("2026-11-01 04:59")) == "2026-11-01 00:59:00"


@pytest.mark.parametrize(
    ("wall", "typed", "since", "until"),
    [
        (WallClock(), "2026-11-22T14:02", "2026-11-22 14:02", "2026-11-22 14:02"),
        (JOHANNESBURG, "2026-11-22T16:02", "2026-11-22 14:02", "2026-11-22 14:02"),
        (JOHANNESBURG, "2026-11-22", "2026-11-21 22:00", "2026-11-21 22:00"),
        (NEW_YORK, "2026-11-01T01:30", "2026-11-01 05:30", "2026-11-01 06:30"),  # both passes of it are meant
        (NEW_YORK, "2027-03-14T02:30", "2027-03-14 07:00", "2027-03-14 07:00"),  # no clock showed it
        (NEW_YORK, "2027-03-14T03:00", "2027-03-14 07:00", "2027-03-14 07:00"),
        (NEW_YORK, "2027-03-14T01:59", "2027-03-14 06:59", "2027-03-14 06:59"),
        (WallClock("Africa/Cairo"), "2026-04-24", "2026-04-23 22:00", "2026-04-23 22:00"),  # a day without midnight
        (NEW_YORK, "2026-11-01T01:30+02:00", "2026-10-31 23:30", "2026-10-31 23:30"),
        (NEW_YORK, "2026-11-01T01:30Z", "2026-11-01 01:30", "2026-11-01 01:30"),
    ],
)
def test_what_is_typed_is_read_in_the_zone(wall: WallClock, typed: str, since: str, until: str) -> None:
    assert wall.read(typed) == at(since)
    assert wall.read(typed, is_end=True) == at(until)


@pytest.mark.parametrize("typed", ["", "yesterday", "0001-01-01T00:00", "2026-13-01", "14:02"])
def test_what_is_no_time_is_refused(typed: str) -> None:
    with pytest.raises(ValueError, match=None):
        WallClock("Asia/Tokyo").read(typed)


def test_a_message_names_the_zone() -> None:
    assert WallClock().with_zone(at("2026-11-22 14:02")) == "2026-11-22 14:02 (UTC)"
    assert JOHANNESBURG.with_zone(at("2026-11-22 14:02")) == "2026-11-22 16:02 (Africa/Johannesburg, UTC+2)"
    assert WallClock("America/St_Johns").with_zone(at("2026-11-22 14:02")).endswith("UTC-3:30)")


def test_the_day_of_a_daily_cap_begins_at_midnight_utc() -> None:
    assert JOHANNESBURG.new_day(at("2026-11-22 14:02")) == "02:00"
    assert NEW_YORK.new_day(at("2026-11-01 00:10")) == "19:00"
    assert WallClock().new_day(at("2026-11-01 00:00")) == "00:00"


def test_every_zone_that_can_be_chosen_is_there() -> None:
    assert set(zones_to_choose()) <= zone_names()
    assert {"UTC", "Africa/Johannesburg", "America/New_York", "Asia/Kolkata"} <= set(zones_to_choose())
    assert "Factory" not in zone_names()
    for name in zone_names():
        assert WallClock(name).full(at("2026-11-22 14:02"))


def test_programs_are_told_utc() -> None:
    assert iso_exact(JOHANNESBURG.read("2026-11-22T16:02")) == "2026-11-22T14:02:00.000000Z"
