"""Limits: counts in windows, one upsert with RETURNING, exact under any number of threads and machines.

A window begins with its first event. Visible limits raise; silent ones only return a count, so that nothing shows
whether a person exists (R24). The wrong tries of a person and method are not here, but in ``verification.tries``.
"""

from __future__ import annotations

import ipaddress
import logging
import math
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import bindparam, case, delete, select, true, update

from auth_portal.crypto import Keyring
from auth_portal.errors import TooMany
from auth_portal.store.db import Compiled, GivenRows, Work, dialect_insert
from auth_portal.store.models import Counter, table_of

MINUTE = 60
HOUR = 3600
DAY = 86_400
SLOWED_SECONDS = 10  # an address that invents references begins once in this time (R12a)
UNMATCHED_MINIMUM = 20  # callbacks of an address within the hour before its share of refusals counts (R12a)
BROKEN_ROWS = "integrity:"  # the counters of rows with a wrong MAC, by table
SPENT_CREDENTIALS = "spent-credentials"  # the counter of those at their daily limit
SPENT_CREDENTIALS_ALARM = 20  # credentials at their daily limit within the hour (R6)

# The brake on SMS pumping (R49): people who were sent a code in this hour or the last and did not use it, before their
# share counts. Of 2,000 honest people an hour behind one carrier's address, about 20 are typing at any moment.
ADDRESS_FLOOR = 50
COUNTRY_FLOOR = 300
BRAKED_SECONDS = 300  # one code in this time, where the brake is on
BRAKED = "braked"  # the counter of codes that the brake held back
SMS_METHOD = "sms_code"  # what is proved by an SMS

_COUNTERS = table_of(Counter)


@dataclass(frozen=True)
class Limit:
    """At most ``maximum`` events under a key within ``seconds``."""

    key: str
    maximum: int
    seconds: int


@dataclass(frozen=True)
class LimitCount:
    """A limit after this event was counted."""

    limit: Limit
    count: int
    ends_at: datetime

    @property
    def is_over(self) -> bool:
        """Report whether this event was one too many."""
        return self.count > self.limit.maximum


def take(work: Work, limits: Sequence[Limit]) -> list[LimitCount]:
    """Count one event under each limit, in the order of their keys, and return where that leaves them."""
    ordered = sorted(limits, key=lambda limit: limit.key)
    found = {row.key: row for row in work.rows(*_taking_one_of(work, ordered))}
    return [LimitCount(limit, found[limit.key].events, found[limit.key].ends_at) for limit in ordered]


def note(work: Work, limit: Limit) -> None:
    """Count one event under a limit whose count does not matter here."""
    work.write(*_taking_one_of(work, [limit]))


def _taking_one_of(work: Work, limits: Sequence[Limit]) -> tuple[Compiled, Mapping[str, object]]:
    """Return the statement that counts one event under each of these limits, and its values."""
    values: dict[str, object] = {"now": work.now}
    for number, limit in enumerate(limits):
        values[f"key_{number}"] = limit.key
        values[f"ends_at_{number}"] = work.now + timedelta(seconds=limit.seconds)
    return _taking(work.connection.dialect.name, len(limits)), values


@cache
def _taking(dialect: str, rows: int) -> Compiled:
    """Return the upsert for so many limits at once."""
    insert = dialect_insert(dialect, _COUNTERS).values(
        [{"key": bindparam(f"key_{n}"), "events": 1, "ends_at": bindparam(f"ends_at_{n}")} for n in range(rows)]
    )
    is_over = _COUNTERS.c.ends_at <= bindparam("now")
    taking = insert.on_conflict_do_update(
        index_elements=["key"],
        set_={
            "events": case((is_over, 1), else_=_COUNTERS.c.events + 1),
            "ends_at": case((is_over, insert.excluded.ends_at), else_=_COUNTERS.c.ends_at),
        },
    )
    return Compiled(taking.returning(_COUNTERS.c.key, _COUNTERS.c.events, _COUNTERS.c.ends_at))


def count(work: Work, events: Mapping[str, int], seconds: int) -> dict[str, int]:
    """Count so many events under each key at once, in the order of the keys; return where that leaves them.

    No limit is looked at.
    """
    if not events:
        return {}
    values = {"given": sorted(events.items()), "to_end": work.now + timedelta(seconds=seconds), "now": work.now}
    return {row.key: row.events for row in work.rows(_COUNT, values)}


def _in_order(keys: Any, dialect: str) -> Any:
    """Return keys as Python sorts them, whatever the language of the database."""
    return keys.collate("C" if dialect == "postgresql" else "BINARY")


def _counting(dialect: str) -> Any:
    given = _EVENTS.table(dialect)
    ends_at = bindparam("to_end", type_=_COUNTERS.c.ends_at.type)
    rows = select(given.c.of_key, given.c.more, ends_at).where(true()).order_by(_in_order(given.c.of_key, dialect))
    insert = dialect_insert(dialect, _COUNTERS).from_select(["key", "events", "ends_at"], rows)
    is_over, added = _COUNTERS.c.ends_at <= bindparam("now"), insert.excluded
    changes = {
        "events": case((is_over, added.events), else_=_COUNTERS.c.events + added.events),
        "ends_at": case((is_over, added.ends_at), else_=_COUNTERS.c.ends_at),
    }
    counting = insert.on_conflict_do_update(index_elements=["key"], set_=changes)
    return counting.returning(_COUNTERS.c.key, _COUNTERS.c.events)


def _giving_back(dialect: str) -> Any:
    given = _EVENTS.table(dialect)
    # Locked in the order of their keys, as they are counted: two that each wait for the other would end one of them.
    locked = select(_COUNTERS.c.key).where(_COUNTERS.c.key.in_(select(given.c.of_key)))
    held = locked.order_by(_in_order(_COUNTERS.c.key, dialect)).with_for_update().cte("held")
    taken = _COUNTERS.c.key == held.c.key, given.c.of_key == held.c.key
    return update(_COUNTERS).where(*taken).values(events=_COUNTERS.c.events - given.c.more)


_EVENTS = GivenRows(of_key=_COUNTERS.c.key.type, more=_COUNTERS.c.events.type)
_COUNT, _GIVE_BACK = Compiled(_counting), Compiled(_giving_back)


def take_all(work: Work, limits: Sequence[Limit]) -> list[LimitCount]:
    """Count one event under every limit, or under none of them if one has no room."""
    taken = take(work, limits)
    if any(item.is_over for item in taken):
        give_back(work, limits)
    return taken


def give_back(work: Work, limits: Sequence[Limit]) -> None:
    """Take back what was counted for an event that then did not happen."""
    if limits:
        events = Tally(limit.key for limit in limits)
        work.change(_GIVE_BACK, {"given": sorted(events.items())})


def take_or_refuse(work: Work, limit: Limit, code: str) -> None:
    """Count one event. Raise TooMany with the seconds until the window ends if it was one too many."""
    row = work.row(*_taking_one_of(work, [limit]))
    if row.events > limit.maximum:
        work.counts.add("limits_hit", code)
        raise TooMany(code, retry_after_seconds=math.ceil((row.ends_at - work.now).total_seconds()))


def address_key(address: str, keyring: Keyring) -> str:
    """Return the keyed hash of a client's network: an IPv4 address, or an IPv6 /64 (one home has that many)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return keyring.index("address", "unknown")
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        network = str(mapped) if mapped else str(ipaddress.ip_network((parsed, 64), strict=False))
        return keyring.index("address", network)
    return keyring.index("address", str(parsed))


def _events(work: Work, keys: Iterable[str]) -> dict[str, int]:
    """Return what was counted under these keys in windows that are not over."""
    values = {"given": [(key, 0) for key in keys], "now": work.now}
    return {row.key: row.events for row in work.rows(_COUNTED, values)}


_COUNTED = Compiled(
    lambda dialect: select(_COUNTERS.c.key, _COUNTERS.c.events).where(
        _COUNTERS.c.key.in_(select(_EVENTS.table(dialect).c.of_key)), _COUNTERS.c.ends_at > bindparam("now")
    )
)


def slowed_key(address: str) -> str:
    """Return the key of the counter that stands while an address is slowed down."""
    return f"slowed:{address}"


def note_answers(work: Work, answers: Iterable[tuple[str, bool]]) -> None:
    """Count how Flow answered callbacks: the address of each, and whether no chat matched it (R12a).

    An address of which most were unmatched is slowed down.
    """
    events: Tally[str] = Tally()
    suspects = set()
    for address, was_unmatched in answers:
        events[f"answered:{address}"] += 1
        if was_unmatched:
            events[f"unmatched:{address}"] += 1
            suspects.add(address)
    counted = count(work, events, HOUR)
    slowed = {}
    for address in suspects:
        answered, unmatched = counted[f"answered:{address}"], counted[f"unmatched:{address}"]
        if answered >= UNMATCHED_MINIMUM and unmatched * 2 > answered:
            slowed[slowed_key(address)] = 1
    count(work, slowed, HOUR)


def may_pay_for(work: Work, address: str, country: str, person: str) -> bool:
    """Count a person who is about to be sent an SMS; return False, counting nothing, if the brake holds it back (R49).

    It is on for an address (a keyed hash) or a country while most of the people who were sent a code there in this
    hour and the last have not used it, and more than a floor of them. A carrier's people use their codes. What the
    brake of an address lets through does not count for the country, or one address could slow a whole country.
    """
    hours = _hours(work)
    floors = {address: ADDRESS_FLOOR, country: COUNTRY_FLOOR}
    keys = [_asked(scope, hour, person) for scope in floors for hour in hours]
    keys += [f"{kind}:{scope}:{hour}" for kind in ("people", "wins") for scope in floors for hour in hours]
    events = _events(work, keys)
    new: list[Limit] = []
    is_braked = False
    for scope, floor in floors.items():
        is_new = not any(_asked(scope, hour, person) in events for hour in hours)
        people = sum(events.get(f"people:{scope}:{hour}", 0) for hour in hours) + is_new
        unproved = people - sum(events.get(f"wins:{scope}:{hour}", 0) for hour in hours)
        if unproved > floor and unproved * 2 > people:
            (braked,) = take(work, [Limit(f"brake:{scope}", 1, BRAKED_SECONDS)])
            take(work, [Limit(BRAKED, 0, HOUR)])
            if braked.is_over:
                return False
            is_braked = True
        if is_new and (scope == address or not is_braked):
            new += [Limit(key, 1, 2 * HOUR) for key in (_asked(scope, hours[0], person), f"people:{scope}:{hours[0]}")]
    if new:
        take(work, new)
    return True


def note_successes(work: Work, people: Iterable[tuple[str, str, str]]) -> None:
    """Count people who used the code of an SMS, each once, in the hour and only where they were counted (R49).

    Each is an address, a country and a person.
    """
    asked = {
        _asked(scope, hour, person): f"{scope}:{hour}"
        for address, country, person in people
        for scope in (address, country)
        for hour in _hours(work)
    }
    found = _events(work, asked) if asked else ()
    won = count(work, {f"won:{key}": 1 for key in found}, 2 * HOUR)
    count(work, Tally(f"wins:{asked[key.removeprefix('won:')]}" for key, times in won.items() if times == 1), 2 * HOUR)


def _hours(work: Work) -> list[str]:
    """Return this hour and the last (UTC). With one alone, all people would be unproved at the start of each hour."""
    hour = int(work.now.replace(tzinfo=UTC).timestamp()) // HOUR  # a short number: a counter's key has 96 characters
    return [f"{hour}", f"{hour - 1}"]


def _asked(scope: str, hour: str, person: str) -> str:
    """Return the key that says that a person was counted for an address or a country in an hour."""
    return f"asked:{scope}:{hour}:{person}"


def destination_limits(destination_key: str, per_hour: int, per_day: int) -> list[Limit]:
    """Return the limits of one phone number or mailbox (R12)."""
    return [
        Limit(f"destination:hour:{destination_key}", per_hour, HOUR),
        Limit(f"destination:day:{destination_key}", per_day, DAY),
    ]


def note_broken(work: Work, table: str, row: str, *, subject_id: str | None = None, is_writing: bool = True) -> None:
    """Put on record that a row was not used because its MAC is wrong (R54); owners get an alert.

    The event names a customer by ``subject_id`` alone, as all events do. In a transaction that only reads it is logged.
    """
    work.log("integrity_broken", level=logging.ERROR, table=table, row=row)
    if not is_writing:
        return
    (taken,) = take(work, [Limit(f"{BROKEN_ROWS}{table}", 1, HOUR)])
    if not taken.is_over:  # a customer's page may be opened many times
        named = {"subject_id": subject_id} if subject_id else {"row": row}
        work.record("integrity_broken", table=table, **named)


def sweep(work: Work, batch: int) -> int:
    """Remove counters whose window has been over for a minute, as alerts look back. Return how many there were."""
    keys = select(Counter.key).where(Counter.ends_at <= work.now - timedelta(seconds=MINUTE)).limit(batch)
    return work.execute(delete(Counter).where(Counter.key.in_(keys))).rowcount
