"""Alerts: owners, and a program of the business, are notified once when something goes wrong and once when it is over.

One process evaluates every 15 seconds. An alert is a row, and the transaction that writes or ends it also puts the
mails and the webhook into the outbox, so that any number of processes notify once. The thresholds of begin and end lie
apart, so that a value that wavers around one of them does not notify again and again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import and_, case, func, or_, select, text, update

from auth_portal.clock import iso
from auth_portal.services import limits
from auth_portal.services.audit_chain import chain_fault, stream_fault
from auth_portal.services.config.channel import ALARM_SHARES, OPEN_SHARE, used_this_hour, used_today
from auth_portal.services.config.snapshot import Journeys, Program, Snapshot
from auth_portal.services.delivery.notices import Notices
from auth_portal.services.delivery.outbox import ALERT, LOST
from auth_portal.services.delivery.queues import ALL_PRIORITIES, due_queues
from auth_portal.services.delivery.webhooks import PAUSE_AFTER, Webhooks
from auth_portal.services.limits import Limit
from auth_portal.store.db import Transactions, Work, dialect_insert, first_id
from auth_portal.store.models import (
    CALLBACK,
    MESSAGE,
    AlertRow,
    ChannelState,
    Counter,
    Delivery,
    DeliveryState,
    WebhookEndpoint,
    table_of,
)

EVERY_SECONDS = 15
MOST_SHOWN = 50  # open alerts on a page; there is one for each server, channel and country at most
TURN = Limit("alerts-turn", 1, EVERY_SECONDS)
DISPATCHING = Limit("dispatcher", 1, EVERY_SECONDS)  # counted by each dispatcher when it evaluates: one is at work
SILENT_SECONDS = 30  # after the end of that window no dispatcher is at work
LINKS = {
    "callbacks": "/admin/deliveries",
    "clock": "/admin/",
    "dispatcher": "/admin/deliveries",
    "pumping": "/admin/deliveries?state=dropped&kind=message",
    "queue": "/admin/deliveries",
    "integrity": "/admin/audit",
    "spent_credentials": "/admin/audit",
    "audit": "/admin/audit/check",
    "stream": "/admin/audit",
    "webhook": "/admin/api-keys",
}

WINDOW = timedelta(minutes=10)  # of callbacks that count: the usual life of a chat
CALLBACKS_MINIMUM = 5  # settled within the window, before their share is meaningful
HEARD_SECONDS = 10  # a machine whose clock is wrong says so every 5 s
BAD_SHARE = 0.5  # of them: from here on the server counts as failing
WELL_SHARE = 0.2  # of them: up to here it counts as working again
QUEUE_SECONDS = 30  # a delivery that has been due for this long: from here on its target has too few threads
CALM_SECONDS = 10  # up to here a target has enough of them again
STUCK_TRIES = 4  # a callback tried this often (8 s) without being accepted already counts as failing
WEBHOOK_FAILING = timedelta(minutes=30)  # without an event that its program accepts: it was tried five times
CHANNEL_FAILURES = 3  # messages in a row; one is enough if only an admin can fix it
TITLES = {
    "audit": "the audit trail is not sealed",
    "callbacks": "results do not reach the chat",
    "channel": "a channel fails",
    "cap": "a channel's cap",
    "dispatcher": "nothing is sent",
    "pumping": "SMS are sent to people who do not use them",
    "queue": "deliveries wait too long",
    "clock": "the clock of a server is wrong",
    "integrity": "rows were changed in the database",
    "spent_credentials": "many wrong tries",
    "stream": "audit events do not reach the other system",
    "webhook": "a program does not accept events",
}


_NO_DISPATCHER = (
    "No dispatcher has been at work for half a minute: codes and results are not sent, and nothing expires. Start "
    "`auth-portal dispatch` again or run the servers with PORTAL_DISPATCH=inline. A server sent this message by itself."
)


@dataclass(frozen=True)
class Alert:
    """Something that is wrong now. ``subject`` is the server or channel, ``link`` the page that helps."""

    kind: (
        # audit | callbacks | channel | cap | clock | dispatcher | integrity | pumping | queue | spent_credentials |
        str  # stream | webhook
    )
    subject: str
    since: datetime
    text: str
    link: str


class Alerts:
    """Evaluate what can go wrong, and notify."""

    titles = TITLES

    def __init__(
        self, transactions: Transactions, journeys: Journeys, notices: Notices, webhooks: Webhooks, *, public_url: str
    ) -> None:
        self.clock = transactions.clock
        self._transactions = transactions
        self._journeys = journeys
        self._notices = notices
        self._webhooks = webhooks
        self._public_url = public_url
        self._looked_at: datetime | None = None

    def open(self, now: datetime) -> list[Alert]:
        """Return what is wrong at a time, the newest first."""
        query = select(AlertRow.__table__).where(AlertRow.ended_at.is_(None), AlertRow.since <= now)
        with self._transactions.read() as work:
            return [_alert(row) for row in work.execute(query.order_by(AlertRow.id.desc()).limit(MOST_SHOWN))]

    def evaluate(self, *, is_dispatching: bool = True) -> None:
        """Look for what is wrong if it is time and this process's turn.

        A process that only serves, ``is_dispatching`` false, also looks whether any dispatcher is at work.
        """
        now = self._transactions.clock()
        if self._looked_at is not None and (now - self._looked_at).total_seconds() < EVERY_SECONDS:
            return
        self._looked_at = now
        with self._transactions.write() as work:
            taken = limits.take(work, [TURN, DISPATCHING] if is_dispatching else [TURN])
        if not any(item.is_over for item in taken if item.limit is TURN):
            self.look(is_dispatching=is_dispatching)

    def look(self, *, is_dispatching: bool = True) -> None:
        """Begin and end alerts by what is known now. Never begin the same one twice, whichever processes look."""
        with self._transactions.read() as work:
            found = {symptom.name: symptom for symptom in symptoms(work, self._journeys.current())}
            if is_dispatching or _is_heard(work):
                dispatcher = Symptom("dispatcher", "all", False)
            else:
                dispatcher = Symptom("dispatcher", "all", True, _NO_DISPATCHER)
            found[dispatcher.name] = dispatcher
            opened = {
                (row.kind, row.subject): row
                for row in work.execute(select(AlertRow.__table__).where(AlertRow.ended_at.is_(None)))
            }
        for name, symptom in found.items():
            if symptom.is_bad and name not in opened:
                with self._transactions.write() as work:
                    self._begin(work, symptom)
        for name, row in opened.items():
            if name in found:
                if not found[name].is_bad:
                    self._end(row, notifies=True)
            elif row.kind in TITLES and row.kind != "callbacks":
                # A channel that was switched off and a cap of yesterday end quietly; a server that nothing was sent to
                # is not known to work. A kind that a newer version has is for its processes to end.
                self._end(row, notifies=False)

    def is_dispatching(self, work: Work) -> bool:
        """Report whether a dispatcher has been at work within the last half a minute."""
        return _is_heard(work)

    def open_kinds(self, work: Work) -> dict[str, int]:
        """Return how many alerts of each kind are open."""
        query = select(AlertRow.kind, func.count().label("alerts")).where(AlertRow.ended_at.is_(None))
        found = {row.kind: row.alerts for row in work.execute(query.group_by(AlertRow.kind))}
        return {**dict.fromkeys(TITLES, 0), **found}

    def cap_shares(self, work: Work) -> dict[tuple[str, str, str], float]:
        """Return which share of each cap is used, by channel, country and "day" or "hour"."""
        found: dict[tuple[str, str, str], float] = {}
        for name, channel in sorted(self._journeys.current().channels.items()):
            caps = ("day", channel.daily_cap, used_today), ("hour", channel.hourly_cap, used_this_hour)
            for window, cap, used in caps:
                if cap:
                    sent = used(work.connection, channel, work.now)
                    countries = {*(channel.countries or ("",)), *sent}
                    found |= {(name, one, window): sent.get(one, 0) / cap for one in countries}
        return found

    def note_clock(self, machine: str, words: str) -> None:
        """Begin the alert about a machine whose clock is wrong; it ends once the machine has not said so for a while.

        All its times are the database's: those of the machine itself are what is wrong.
        """
        symptom, now = Symptom("clock", machine, True, words), self._transactions.database.now()
        with self._transactions.write() as work:
            work.now = now or work.now
            limits.take(work, [Limit(f"clock:{machine}", 1, HEARD_SECONDS)])
            self._begin(work, symptom)

    def _begin(self, work: Work, symptom: Symptom) -> None:
        values = {
            "id": work.new_id(),
            "kind": symptom.kind,
            "subject": symptom.subject,
            "words": symptom.words,
            "since": work.now,
        }
        insert = dialect_insert(work.connection.dialect.name, table_of(AlertRow)).values(values)
        written = insert.on_conflict_do_nothing(
            index_elements=["kind", "subject"], index_where=text("ended_at IS NULL")
        ).returning(AlertRow.__table__)
        if (row := work.execute(written).one_or_none()) is not None:
            self._notify(work, row, "opened")

    def _end(self, row: Any, *, notifies: bool) -> None:
        with self._transactions.write() as work:
            ended = (
                update(AlertRow)
                .where(AlertRow.id == row.id, AlertRow.ended_at.is_(None))
                .values(ended_at=work.now)
                .returning(AlertRow.id)
            )
            if work.execute(ended).one_or_none() is not None and notifies:
                self._notify(work, row, "closed")

    def _notify(self, work: Work, row: Any, event: str) -> None:
        alert, portal, is_over = _alert(row), self._journeys.current().portal, event == "closed"
        work.log(f"alert_{event}", level=logging.WARNING, kind=alert.kind, subject=alert.subject)
        work.record(f"alert_{event}", alert=alert.kind, subject=alert.subject)
        words = f"Over since {portal.wall.with_zone(work.now)}: {alert.text}" if is_over else alert.text
        link = f"{self._public_url}{alert.link}"
        if portal.alerts.email:
            subject = f"{'Over' if is_over else 'Alert'}: {TITLES.get(alert.kind, alert.kind)} ({alert.subject})"
            lines = [words, f"Since {portal.wall.with_zone(alert.since)}.", link]
            self._notices.to_owners(work, subject, lines, contract=ALERT)
        if portal.alerts.webhook:
            data = {
                "id": row.id,
                "portal": portal.name,
                "kind": alert.kind,
                "subject": alert.subject,
                "since": iso(alert.since),
                "text": words,
                "link": link,
            }
            content = {"type": f"alert.{event}", "timestamp": iso(work.now), "data": data}
            self._webhooks.add(work, portal.alerts.webhook, content)


def _is_heard(work: Work) -> bool:
    """Report whether a dispatcher has evaluated alerts a moment ago."""
    since = work.now - timedelta(seconds=SILENT_SECONDS)
    query = select(Counter.key).where(Counter.key == DISPATCHING.key, Counter.ends_at > since)
    return work.execute(query).first() is not None


def _alert(row: Any) -> Alert:
    link = (
        f"/admin/channels/{row.subject.split()[0]}"
        if row.kind in ("channel", "cap")
        else LINKS.get(row.kind, "/admin/")
    )
    return Alert(row.kind, row.subject, row.since, row.words, link)


class Symptom(NamedTuple):
    """The state of one server, channel or cap, good or bad. Without one nothing is known about it."""

    kind: str
    subject: str
    is_bad: bool
    words: str = ""

    @property
    def name(self) -> tuple[str, str]:
        """Return kind and subject, which identify it."""
        return self.kind, self.subject


def symptoms(work: Work, snapshot: Snapshot) -> Iterator[Symptom]:
    """Yield everything that is known to be wrong or to work."""
    yield from _callbacks(work)
    yield from _channels(work, snapshot)
    yield from _caps(work, snapshot)
    yield from _hourly_caps(work, snapshot)
    yield from _queues(work)
    key, most = limits.SPENT_CREDENTIALS, limits.SPENT_CREDENTIALS_ALARM
    spent = work.execute(select(Counter.events).where(Counter.key == key, Counter.ends_at > work.now)).scalar() or 0
    words = (
        f"More than {most} customers' methods reached their daily limit of wrong tries within an hour. "
        "Someone may be guessing many people's codes or passwords."
    )
    yield Symptom("spent_credentials", "customers", spent > most, words)
    fault = chain_fault(work, snapshot.portal.retention.audit_stored)
    yield Symptom("audit", "audit trail", bool(fault), fault)
    if (stream := stream_fault(work)) is not None:
        yield Symptom("stream", stream[0], bool(stream[1]), stream[1])
    yield from _integrity(work, snapshot)
    yield from _programs(work)
    held_back = work.execute(
        select(Counter.events).where(Counter.key == limits.BRAKED, Counter.ends_at > work.now)
    ).scalar()
    if held_back:
        words = (
            "Many people at one network address, or in one country, were sent an SMS within an hour and did not use "
            "its code. Someone may be making you pay for messages. There, codes are slowed down to one in 5 minutes "
            "until most people use them; links whose ticket names the phone are not."
        )
        yield Symptom("pumping", "SMS", True, words)
    heard = table_of(Counter).c.ends_at > work.now - timedelta(seconds=HEARD_SECONDS)
    open_ones = select(AlertRow.subject, AlertRow.words).where(AlertRow.kind == "clock", AlertRow.ended_at.is_(None))
    for row in work.execute(open_ones):
        is_heard = work.execute(select(Counter.key).where(Counter.key == f"clock:{row.subject}", heard)).first()
        yield Symptom("clock", row.subject, is_heard is not None, row.words)


def _integrity(work: Work, snapshot: Snapshot) -> Iterator[Symptom]:
    """Yield whether rows were not used because their MACs are wrong (R54)."""
    noted = select(Counter.key).where(Counter.key.startswith(limits.BROKEN_ROWS), Counter.ends_at > work.now)
    tables = [key.removeprefix(limits.BROKEN_ROWS) for key in work.execute(noted).scalars()]
    words = (
        "Rows that say who a person is were changed by someone other than the portal, and are not used: "
        f"{', '.join((*tables, *snapshot.broken))}. Find out who can write the database; "
        "auth-portal doctor names the rows."
    )
    yield Symptom("integrity", "database", bool(tables or snapshot.broken), words)


def _programs(work: Work) -> Iterator[Symptom]:
    """Yield the webhooks that are on, by the queues of their events."""
    for row in work.execute(select(WebhookEndpoint.__table__).where(WebhookEndpoint.is_active)):
        queue, since = Program.of(row).queue, row.failing_since
        is_bad = row.paused_at is not None or (since is not None and work.now - since >= WEBHOOK_FAILING)
        words = (
            f"Webhook {queue} has failed for {WEBHOOK_FAILING.seconds // 60} minutes or more: {row.fault}. Each event "
            f"is tried for 24 hours. After {PAUSE_AFTER.days} days without one that its program accepts, the webhook "
            "is paused; an owner resumes it and sends again what was given up."
        )
        if is_bad or since is None:
            yield Symptom("webhook", queue, is_bad, words)


def _callbacks(work: Work) -> Iterator[Symptom]:
    is_stuck = and_(Delivery.state == DeliveryState.PENDING, Delivery.attempts >= STUCK_TRIES)
    is_bad = or_(Delivery.state.in_(LOST), is_stuck)
    counted = (
        select(
            Delivery.target,
            func.sum(case((is_bad, 1), else_=0)).label("bad"),
            func.sum(case((Delivery.state == DeliveryState.ACCEPTED, 1), else_=0)).label("good"),
        )
        .where(Delivery.id >= first_id(work.now - WINDOW), Delivery.kind == CALLBACK)
        .group_by(Delivery.target)
    )
    for row in work.execute(counted):
        settled = row.bad + row.good
        if settled >= CALLBACKS_MINIMUM and row.bad >= BAD_SHARE * settled:
            words = f"{row.bad} of the last {settled} results for {row.target} were not accepted within 10 minutes."
            yield Symptom("callbacks", row.target, True, words)
        elif row.good and row.bad <= WELL_SHARE * settled:
            yield Symptom("callbacks", row.target, False)


def _queues(work: Work) -> Iterator[Symptom]:
    """Yield the targets for which a result, or a code, has been due for long. Notices may wait."""
    is_open = and_(AlertRow.kind == "queue", AlertRow.ended_at.is_(None))
    opened = work.execute(select(AlertRow.subject, AlertRow.words).where(is_open))
    known = {row.subject: (0.0, row.words) for row in opened}
    waited = dict(known)
    for kind, setting in ((CALLBACK, "PORTAL_CALLBACK_THREADS"), (MESSAGE, "PORTAL_MESSAGE_THREADS")):
        for queue in due_queues(work, kind):
            seconds = (work.now - queue.since).total_seconds()
            is_notice = kind == MESSAGE and queue.priority != ALL_PRIORITIES[0]
            is_news = seconds >= QUEUE_SECONDS or queue.target in known
            if is_news and not is_notice and seconds >= waited.get(queue.target, (0.0, ""))[0]:
                words = (
                    f"A {kind} for {queue.target} has waited {seconds:.0f} s to be sent. Either its server is slow and "
                    f"needs more threads ({setting}), or too few dispatchers run, or none."
                )
                waited[queue.target] = (seconds, words)
    for target, (seconds, words) in waited.items():
        yield Symptom("queue", target, seconds > CALM_SECONDS, words)


def _channels(work: Work, snapshot: Snapshot) -> Iterator[Symptom]:
    for row in work.execute(select(ChannelState.__table__).order_by(ChannelState.name)):
        if row.name not in snapshot.channels:
            continue
        if row.failures_in_row >= (1 if row.needs_admin else CHANNEL_FAILURES):
            hint = " Only you can fix this: check its key, account, funds and settings." if row.needs_admin else ""
            words = f"Channel {row.name} has failed {row.failures_in_row} times in a row: {row.reason}{hint}"
            yield Symptom("channel", row.name, True, words)
        elif not row.failures_in_row:
            yield Symptom("channel", row.name, False)


def _caps(work: Work, snapshot: Snapshot) -> Iterator[Symptom]:
    for name, channel in sorted(snapshot.channels.items()):
        if channel.daily_cap is None:
            continue
        for country, sent in used_today(work.connection, channel, work.now).items():
            reached = [share for share in ALARM_SHARES if sent >= int(channel.daily_cap * share)]
            if reached:
                share = f"{max(reached):.0%}"
                new_day = snapshot.portal.wall.new_day(work.now)
                words = (
                    f"Channel {name} has sent {sent} of the {channel.daily_cap} messages that it may send"
                    f"{f' to {country}' if country else ''} today, {share} or more. From {OPEN_SHARE:.0%} on it sends "
                    f"only for links with a ticket. The count starts again at {new_day} (midnight UTC)."
                )
                yield Symptom("cap", " ".join(part for part in (name, country, share) if part), True, words)


def _hourly_caps(work: Work, snapshot: Snapshot) -> Iterator[Symptom]:
    """Yield the channels and countries that have used half of this hour's cap (R49)."""
    half = ALARM_SHARES[0]
    for name, channel in sorted(snapshot.channels.items()):
        if channel.hourly_cap is None:
            continue
        for country, sent in used_this_hour(work.connection, channel, work.now).items():
            if sent >= int(channel.hourly_cap * half):
                words = (
                    f"Channel {name} has sent {sent} of the {channel.hourly_cap} messages that it may send"
                    f"{f' to {country}' if country else ''} in this hour, {half:.0%} or more. From {OPEN_SHARE:.0%} on "
                    "it sends only for links with a ticket. The count starts again with the next full hour. If you did "
                    "not expect so many, look at Deliveries: someone may be having SMS sent."
                )
                subject = " ".join(part for part in (name, country, f"{half:.0%} of an hour") if part)
                yield Symptom("cap", subject, True, words)
