"""The one source of time, and the one place where a time becomes text and text a time.

Every part is given a clock; none asks the system or SQL. Programs get times in UTC (``iso``), people in the time zone
of the settings (``WallClock``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo

Clock = Callable[[], datetime]
DEFAULT_ZONE = "UTC"
NO_ZONE = "Factory"  # in the time zone database: no zone was chosen
DAY, TIME, SHORT_TIME = "%Y-%m-%d", "%H:%M:%S", "%H:%M"


def system_clock() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """Return a time as programs and Flow read it, such as ``2026-11-22T19:05:00Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_exact(moment: datetime) -> str:
    """Return a time with its microseconds, such as ``2026-11-22T19:05:00.000001Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@cache
def zone_names() -> frozenset[str]:
    """Return every time zone (IANA), from the pinned package, so that all servers know the same ones."""
    return frozenset(files("tzdata").joinpath("zones").read_text().split()) - {NO_ZONE}


@cache
def zones_to_choose() -> Sequence[str]:
    """Return the zones to choose from: those that countries use, without older names of the same, and UTC."""
    lines = files("tzdata").joinpath("zoneinfo", "zone.tab").read_text().splitlines()
    return (DEFAULT_ZONE, *sorted(line.split("\t")[2] for line in lines if not line.startswith("#")))


@dataclass(frozen=True)
class WallClock:
    """The clock in the admins' time zone: writes times for them, and reads those that they type."""

    name: str = DEFAULT_ZONE  # IANA, such as Africa/Johannesburg

    def full(self, moment: datetime) -> str:
        """Return date and time, such as ``2026-11-22 21:05:00``."""
        return self._written(moment, f"{DAY} {TIME}")

    def day(self, moment: datetime) -> str:
        """Return the date there, such as ``2026-11-22``."""
        return f"{self.local(moment):{DAY}}"

    def time(self, moment: datetime, *, of: datetime | None = None) -> str:
        """Return the time of day, such as ``21:05:00``; with its date if that is not the date of ``of``."""
        is_same_day = of is None or self.day(moment) == self.day(of)
        return self._written(moment, TIME) if is_same_day else self.full(moment)

    def with_zone(self, moment: datetime) -> str:
        """Return a time for a message, which has no page: ``2026-11-22 21:05 (Africa/Johannesburg, UTC+2)``."""
        where = ", ".join(dict.fromkeys((self.name, self.offset(moment))))  # UTC once
        return f"{self.local(moment):{DAY} {SHORT_TIME}} ({where})"

    def offset(self, moment: datetime) -> str:
        """Return the offset from UTC at a time: ``UTC+2``, ``UTC-3:30``."""
        minutes = int(_offset(self.local(moment)).total_seconds()) // 60
        if not minutes:
            return DEFAULT_ZONE
        hours, rest = divmod(abs(minutes), 60)
        return f"UTC{'-' if minutes < 0 else '+'}{hours}{f':{rest:02}' if rest else ''}"

    def new_day(self, moment: datetime) -> str:
        """Return when the next day of UTC begins, by which daily caps count: ``02:00``."""
        midnight = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        return f"{self.local(midnight):{SHORT_TIME}}"

    def read(self, typed: str, *, is_end: bool = False) -> datetime:
        """Return a typed time in UTC. Raise ValueError.

        An hour that daylight saving repeats is read so that a range from or to (``is_end``) it includes both of its
        passes; one that it skips is the moment of the jump. A text with its own offset means that.
        """
        read = datetime.fromisoformat(typed)
        try:
            return read.astimezone(UTC) if read.tzinfo else self._passes(read)[is_end]
        except OverflowError as error:  # within hours of the first or last possible day
            raise ValueError(typed) from error

    def _passes(self, local: datetime) -> tuple[datetime, datetime]:
        """Return the first and the last time at which the clock shows this; nearly always the same."""
        before, after = (local.replace(tzinfo=ZoneInfo(self.name), fold=fold).astimezone(UTC) for fold in (0, 1))
        if before <= after:
            return before, after
        # The clock skips it: find the second at which it goes forward, between the two.
        seconds, old = range(int((before - after).total_seconds())), _offset(self.local(after))
        passed = bisect_right(seconds, old, key=lambda second: _offset(self.local(after + timedelta(seconds=second))))
        jump = after + timedelta(seconds=passed)
        return jump, jump

    def _written(self, moment: datetime, form: str) -> str:
        """Return a time in a form, with the offset from UTC if the clock shows this twice."""
        local = self.local(moment)
        is_twice = local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
        return f"{local:{form}} {self.offset(moment)}" if is_twice else f"{local:{form}}"

    def local(self, moment: datetime) -> datetime:
        """Return the same time in the zone."""
        return moment.astimezone(ZoneInfo(self.name))


def _offset(local: datetime) -> timedelta:
    return local.utcoffset() or timedelta()
