"""When something counts as going wrong, and when as well again. Reads, and decides nothing else.

The thresholds lie apart, so that what wavers about one of them is not told again and again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, and_, case, func, or_, select

from auth_portal.services import limits
from auth_portal.services.channel_usage import OPEN_SHARE, used_today
from auth_portal.services.deliveries import ALARM_SHARES
from auth_portal.services.journeys import Snapshot
from auth_portal.services.outbox import CALLBACK, State
from auth_portal.store.db import first_id
from auth_portal.store.models import ChannelState, Counter, Delivery

WINDOW = timedelta(minutes=10)  # of callbacks that are looked at: the usual life of a chat
CALLBACKS_MINIMUM = 5  # settled within the window, before their share says anything
BAD_SHARE = 0.5  # of them, from which on the server counts as failing
WELL_SHARE = 0.2  # of them, up to which it counts as well again
STUCK_TRIES = 4  # a callback that was tried so often (8 s) without being accepted counts as failing already
CHANNEL_FAILURES = 3  # messages in a row; one is enough where only the admin can mend it
_LOST = (State.REFUSED, State.GIVEN_UP, State.UNCONFIRMED)


class Finding(NamedTuple):
    """The state of one thing. Without a finding nothing is known of it."""

    kind: str
    subject: str
    is_bad: bool
    words: str = ""

    @property
    def name(self) -> tuple[str, str]:
        """What tells it from others."""
        return self.kind, self.subject


def findings(connection: Connection, snapshot: Snapshot, now: datetime) -> list[Finding]:
    """Everything that is known to go wrong or well."""
    return [
        *_callbacks(connection, now),
        *_channels(connection, snapshot),
        *_caps(connection, snapshot, now),
        *_spent_credentials(connection, now),
    ]


def is_over_without(kind: str) -> bool:
    """Whether an alert of this kind is over, quietly, when nothing is found of it any more.

    A channel that was switched off and a cap of yesterday are; a server that nothing was sent to is not known to work.
    """
    return kind != "callbacks"


def _callbacks(connection: Connection, now: datetime) -> Iterator[Finding]:
    is_stuck = and_(Delivery.state == State.PENDING, Delivery.attempts >= STUCK_TRIES)
    is_bad = or_(Delivery.state.in_(_LOST), is_stuck)
    counted = (
        select(
            Delivery.target,
            func.sum(case((is_bad, 1), else_=0)).label("bad"),
            func.sum(case((Delivery.state == State.ACCEPTED, 1), else_=0)).label("good"),
        )
        .where(Delivery.id >= first_id(now - WINDOW), Delivery.kind == CALLBACK)
        .group_by(Delivery.target)
    )
    for row in connection.execute(counted):
        settled = row.bad + row.good
        if settled >= CALLBACKS_MINIMUM and row.bad >= BAD_SHARE * settled:
            words = f"{row.bad} of the last {settled} results for {row.target} were not accepted within 10 minutes."
            yield Finding("callbacks", row.target, True, words)
        elif row.good and row.bad <= WELL_SHARE * settled:
            yield Finding("callbacks", row.target, False)


def _channels(connection: Connection, snapshot: Snapshot) -> Iterator[Finding]:
    for row in connection.execute(select(ChannelState.__table__).order_by(ChannelState.name)):
        if row.name not in snapshot.channels:
            continue
        if row.failures_in_row >= (1 if row.needs_admin else CHANNEL_FAILURES):
            hint = " Only you can mend this: look at its key, account, funds and settings." if row.needs_admin else ""
            words = f"Channel {row.name} has failed {row.failures_in_row} times in a row: {row.reason}{hint}"
            yield Finding("channel", row.name, True, words)
        elif not row.failures_in_row:
            yield Finding("channel", row.name, False)


def _caps(connection: Connection, snapshot: Snapshot, now: datetime) -> Iterator[Finding]:
    for name, channel in sorted(snapshot.channels.items()):
        if channel.daily_cap is None:
            continue
        for country, sent in used_today(connection, channel, now).items():
            reached = [share for share in ALARM_SHARES if sent >= int(channel.daily_cap * share)]
            if reached:
                share = f"{max(reached):.0%}"
                new_day = snapshot.portal.wall.new_day(now)
                words = (
                    f"Channel {name} has sent {sent} of the {channel.daily_cap} messages that it may send"
                    f"{f' to {country}' if country else ''} today, {share} or more. From {OPEN_SHARE:.0%} on it sends "
                    f"only for links with a ticket. It counts anew at {new_day} (midnight UTC)."
                )
                yield Finding("cap", " ".join(part for part in (name, country, share) if part), True, words)


def _spent_credentials(connection: Connection, now: datetime) -> Iterator[Finding]:
    key, most = limits.SPENT_CREDENTIALS, limits.SPENT_CREDENTIALS_ALARM
    count = connection.execute(select(Counter.events).where(Counter.key == key, Counter.ends_at > now)).scalar() or 0
    words = (
        f"More than {most} customers' methods reached their daily limit of wrong tries within an hour. "
        "Somebody may be guessing codes or passwords of many people."
    )
    yield Finding("spent_credentials", "customers", count > most, words)
