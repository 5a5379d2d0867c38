"""Limits: counts in windows, one upsert with RETURNING, exact under any number of threads and machines.

A window begins with its first event. Visible limits raise; silent ones only tell, so that nothing shows whether a
person exists (R24). Counts of wrong tries of a person and method live in ``tries`` and act without a sign (R6, R7).
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, case, delete, select, update

from auth_portal.crypto import Keyring
from auth_portal.errors import TooMany
from auth_portal.store.db import upsert
from auth_portal.store.models import Counter, Tries, table_of

MINUTE = 60
HOUR = 3600
DAY = 86_400
SLOWED_SECONDS = 10  # an address that invents references begins once in this time (R12a)
UNMATCHED_MINIMUM = 20  # callbacks of an address within the hour before its share of refusals counts (R12a)
SPENT_CREDENTIALS = "spent-credentials"  # the counter of those at their daily limit
SPENT_CREDENTIALS_ALARM = 20  # credentials at their daily limit within the hour (R6)


_COUNTERS, _TRIES = table_of(Counter), table_of(Tries)


@dataclass(frozen=True)
class Limit:
    """At most ``maximum`` events under a key within ``seconds``."""

    key: str
    maximum: int
    seconds: int


@dataclass(frozen=True)
class Taken:
    """A limit after this event was counted."""

    limit: Limit
    count: int
    ends_at: datetime

    @property
    def is_over(self) -> bool:
        """Whether this event was one too many."""
        return self.count > self.limit.maximum


def take(connection: Connection, now: datetime, limits: Sequence[Limit]) -> list[Taken]:
    """Counts one event under each limit, in the order of their keys, and tells where that leaves them."""
    ordered = sorted(limits, key=lambda limit: limit.key)
    values: dict[str, object] = {"now": now}
    for number, limit in enumerate(ordered):
        values[f"key_{number}"] = limit.key
        values[f"ends_at_{number}"] = now + timedelta(seconds=limit.seconds)
    found = {row.key: row for row in connection.execute(_taking(connection.dialect.name, len(ordered)), values)}
    return [Taken(limit, found[limit.key].events, found[limit.key].ends_at) for limit in ordered]


@cache
def _taking(dialect: str, rows: int) -> Any:
    """The upsert for so many limits at once. Made once: building a statement costs more than running it."""
    insert = upsert(dialect, _COUNTERS).values(
        [{"key": bindparam(f"key_{n}"), "events": 1, "ends_at": bindparam(f"ends_at_{n}")} for n in range(rows)]
    )
    is_over = _COUNTERS.c.ends_at <= bindparam("now")
    return insert.on_conflict_do_update(
        index_elements=["key"],
        set_={
            "events": case((is_over, 1), else_=_COUNTERS.c.events + 1),
            "ends_at": case((is_over, insert.excluded.ends_at), else_=_COUNTERS.c.ends_at),
        },
    ).returning(_COUNTERS.c.key, _COUNTERS.c.events, _COUNTERS.c.ends_at)


def count(connection: Connection, now: datetime, events: Mapping[str, int], seconds: int) -> None:
    """Counts so many events under each key at once, whatever their limit; the caller has looked that there is room."""
    ends_at = now + timedelta(seconds=seconds)
    rows = [{"key": key, "events": number, "ends_at": ends_at} for key, number in sorted(events.items())]
    insert = upsert(connection.dialect.name, _COUNTERS).values(rows)
    is_over, added = _COUNTERS.c.ends_at <= now, insert.excluded
    changes = {
        "events": case((is_over, added.events), else_=_COUNTERS.c.events + added.events),
        "ends_at": case((is_over, added.ends_at), else_=_COUNTERS.c.ends_at),
    }
    connection.execute(insert.on_conflict_do_update(index_elements=["key"], set_=changes))


def take_all(connection: Connection, now: datetime, limits: Sequence[Limit]) -> list[Taken]:
    """Counts one event under every limit, or under none of them where one has no room."""
    taken = take(connection, now, limits)
    if any(item.is_over for item in taken):
        give_back(connection, limits)
    return taken


def give_back(connection: Connection, limits: Sequence[Limit]) -> None:
    """Takes back what was counted for an event that then did not happen."""
    keys = [limit.key for limit in limits]
    connection.execute(update(_COUNTERS).where(_COUNTERS.c.key.in_(keys)).values(events=_COUNTERS.c.events - 1))


def take_or_refuse(connection: Connection, now: datetime, limit: Limit, code: str) -> None:
    """Counts one event. Raises TooMany with the seconds until the window ends where it was one too many."""
    (taken,) = take(connection, now, [limit])
    if taken.is_over:
        raise TooMany(code, retry_after_seconds=math.ceil((taken.ends_at - now).total_seconds()))


def address_key(address: str, keyring: Keyring) -> str:
    """The keyed hash of a client's network: an IPv4 address, or an IPv6 /64 (one home has that many)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return keyring.index("address", "unknown")
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        network = str(mapped) if mapped else str(ipaddress.ip_network((parsed, 64), strict=False))
        return keyring.index("address", network)
    return keyring.index("address", str(parsed))


def slowed_key(address: str) -> str:
    """The counter that stands while an address is slowed down."""
    return f"slowed:{address}"


def note_answer(connection: Connection, now: datetime, address: str, *, was_unmatched: bool) -> None:
    """Counts how Flow answered a callback of this address; slows the address where most were unmatched (R12a)."""
    kinds = ["answered", "unmatched"] if was_unmatched else ["answered"]
    taken = {item.limit.key: item.count for item in take(connection, now, [_hourly(kind, address) for kind in kinds])}
    answered, unmatched = taken[f"answered:{address}"], taken.get(f"unmatched:{address}", 0)
    if answered >= UNMATCHED_MINIMUM and unmatched * 2 > answered:
        take(connection, now, [Limit(slowed_key(address), 1, HOUR)])


def _hourly(kind: str, address: str) -> Limit:
    return Limit(f"{kind}:{address}", 0, HOUR)


def destination_limits(destination_key: str, per_hour: int, per_day: int) -> list[Limit]:
    """The limits of one phone number or mailbox (R12)."""
    return [
        Limit(f"destination:hour:{destination_key}", per_hour, HOUR),
        Limit(f"destination:day:{destination_key}", per_day, DAY),
    ]


def count_try(
    connection: Connection,
    now: datetime,
    person_key: str,
    method: str,
    *,
    per_day: int,
    in_total: int,
    succeeded: bool,
    is_ticketed: bool,
) -> int | None:
    """Counts one judged proof of a person and method, in one conditional write; a success clears the count.

    Gives the wrong tries of the day, or None where the budget was spent already: then the proof counts as wrong,
    whatever it was. Links without a ticket draw from the open budget, those with one from their own, and a success
    with a ticket opens both (R6).
    """
    values = {
        "person_key": person_key,
        "method": method,
        "is_ticketed": is_ticketed,
        "now": now,
        "day_end": now + timedelta(seconds=DAY),
        "per_day": per_day,
        "in_total": in_total,
    }
    count: int | None = connection.execute(_trying(connection.dialect.name, succeeded), values).scalar_one_or_none()
    if succeeded and is_ticketed and count is not None:
        clear_tries(connection, person_key, method, is_ticketed=False)
    return count


@cache
def _trying(dialect: str, succeeded: bool) -> Any:
    c, first = _TRIES.c, 0 if succeeded else 1
    insert = upsert(dialect, _TRIES).values(
        person_key=bindparam("person_key"), method=bindparam("method"), is_ticketed=bindparam("is_ticketed"),
        total=first, day_count=first, day_ends_at=bindparam("day_end"),
    )  # fmt: skip
    is_new_day = c.day_ends_at <= bindparam("now")
    return insert.on_conflict_do_update(
        index_elements=["person_key", "method", "is_ticketed"],
        set_={
            "total": 0 if succeeded else c.total + 1,
            "day_count": 0 if succeeded else case((is_new_day, 1), else_=c.day_count + 1),
            "day_ends_at": case((is_new_day, insert.excluded.day_ends_at), else_=c.day_ends_at),
        },
        where=(c.total < bindparam("in_total")) & (is_new_day | (c.day_count < bindparam("per_day"))),
    ).returning(c.day_count)


def clear_tries(connection: Connection, person_key: str, method: str, *, is_ticketed: bool) -> None:
    """After a success: what it proved starts anew, and nothing else (R11); without a ticket only its open budget."""
    cleared = (True, False) if is_ticketed else (False,)
    of = Tries.person_key == person_key, Tries.method == method, Tries.is_ticketed.in_(cleared)
    connection.execute(update(Tries).where(*of).values(total=0, day_count=0))


def is_spent(
    connection: Connection, now: datetime, person_key: str, method: str, *, per_day: int, in_total: int,
    is_ticketed: bool,
) -> bool:  # fmt: skip
    """Whether a person's budget for a method is used up: then no code is sent either."""
    spent = (Tries.total >= in_total) | ((Tries.day_ends_at > now) & (Tries.day_count >= per_day))
    found = select(Tries.method).where(
        Tries.person_key == person_key, Tries.method == method, Tries.is_ticketed.is_(is_ticketed), spent
    )
    return connection.execute(found).first() is not None


def sweep(connection: Connection, now: datetime, batch: int) -> int:
    """Removes counters whose window is over; how many there were."""
    keys = select(Counter.key).where(Counter.ends_at <= now).limit(batch)
    return connection.execute(delete(Counter).where(Counter.key.in_(keys))).rowcount
