"""The one source of time, and the one place where a time becomes text and text a time.

Every part is given a clock; none asks the system or SQL. Programs are told times in UTC (``iso``), people in the time
zone of the settings (``WallClock``).
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
NO_ZONE = "Factory"  # in the database of zones: "nobody chose one"
DAY, TIME, SHORT_TIME = "%Y-%m-%d", "%H:%M:%S", "%H:%M"


def system_clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """A time as programs and Flow read it, such as ``2026-11-22T19:05:00Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_exact(moment: datetime) -> str:
    """The same with its microseconds, such as ``2026-11-22T19:05:00.000001Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@cache
def zone_names() -> frozenset[str]:
    """Every time zone there is (IANA). From the pinned package, so that all servers know the same ones."""
    return frozenset(files("tzdata").joinpath("zones").read_text().split()) - {NO_ZONE}


@cache
def zones_to_choose() -> Sequence[str]:
    """Those that people choose from: the ones that countries use, without older names of the same, and UTC."""
    lines = files("tzdata").joinpath("zoneinfo", "zone.tab").read_text().splitlines()
    return (DEFAULT_ZONE, *sorted(line.split("\t")[2] for line in lines if not line.startswith("#")))


@dataclass(frozen=True)
class WallClock:
    """The clock on the wall where the admins are: writes times for them, and reads those that they type."""

    name: str = DEFAULT_ZONE  # IANA, such as Africa/Johannesburg

    def full(self, moment: datetime) -> str:
        """Date and time, such as ``2026-11-22 21:05:00``."""
        return self._written(moment, f"{DAY} {TIME}")

    def day(self, moment: datetime) -> str:
        """The date there, such as ``2026-11-22``."""
        return f"{self._local(moment):{DAY}}"

    def time(self, moment: datetime, *, of: datetime | None = None) -> str:
        """The time of day, such as ``21:05:00``; with its date where that is not the date of ``of``."""
        is_same_day = of is None or self.day(moment) == self.day(of)
        return self._written(moment, TIME) if is_same_day else self.full(moment)

    def told(self, moment: datetime) -> str:
        """For a message, which has no page around it: ``2026-11-22 21:05 (Africa/Johannesburg, UTC+2)``."""
        where = ", ".join(dict.fromkeys((self.name, self.offset(moment))))  # UTC is not said twice
        return f"{self._local(moment):{DAY} {SHORT_TIME}} ({where})"

    def offset(self, moment: datetime) -> str:
        """How far it is from UTC at a time: ``UTC+2``, ``UTC-3:30``."""
        minutes = int(_offset(self._local(moment)).total_seconds()) // 60
        if not minutes:
            return DEFAULT_ZONE
        hours, rest = divmod(abs(minutes), 60)
        return f"UTC{'-' if minutes < 0 else '+'}{hours}{f':{rest:02}' if rest else ''}"

    def new_day(self, moment: datetime) -> str:
        """When the next day of UTC begins, by which daily caps count: ``02:00``."""
        midnight = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        return f"{self._local(midnight):{SHORT_TIME}}"

    def read(self, typed: str, *, is_end: bool = False) -> datetime:
        """The time that was typed, in UTC. Raises ValueError.

        An hour that daylight saving repeats is read so that a range from or to (``is_end``) it holds both of its
        passes; one that it skips is the moment of the jump. A text with an offset of its own means that.
        """
        read = datetime.fromisoformat(typed)
        try:
            return read.astimezone(UTC) if read.tzinfo else self._passes(read)[is_end]
        except OverflowError as error:  # within hours of the first or last day that there is
            raise ValueError(typed) from error

    def _passes(self, local: datetime) -> tuple[datetime, datetime]:
        """The first and the last time that the clock shows this; nearly always the same."""
        before, after = (local.replace(tzinfo=ZoneInfo(self.name), fold=fold).astimezone(UTC) for fold in (0, 1))
        if before <= after:
            return before, after
        jump = self._jump(after, before)
        return jump, jump

    def _jump(self, start: datetime, end: datetime) -> datetime:
        """When the clock goes forward, between two times around that moment."""
        seconds = range(int((end - start).total_seconds()))
        old = _offset(self._local(start))
        passed = bisect_right(seconds, old, key=lambda second: _offset(self._local(start + timedelta(seconds=second))))
        return start + timedelta(seconds=passed)

    def _written(self, moment: datetime, form: str) -> str:
        """In a form; with the offset from UTC where the clock shows this twice."""
        local = self._local(moment)
        is_twice = local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
        return f"{local:{form}} {self.offset(moment)}" if is_twice else f"{local:{form}}"

    def _local(self, moment: datetime) -> datetime:
        return moment.astimezone(ZoneInfo(self.name))


def _offset(local: datetime) -> timedelta:
    return local.utcoffset() or timedelta()
