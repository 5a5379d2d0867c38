"""Notices to customers whose phone number or email address an import changed (R13): how many messages, and when.

An import may need more messages than a channel may send on a day, and codes use the same cap. So the messages are put
into the outbox in small batches, each with its place in the import in one transaction: a worker that is killed has
notified no customer twice and forgotten none. They take a share of each cap, and wait for the next day beyond it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select

from auth_portal.crypto import SealedColumn
from auth_portal.services import limits
from auth_portal.services.config.channel import cap_key, used_today
from auth_portal.services.delivery import outbox
from auth_portal.services.delivery.notices import Notices, kind_of
from auth_portal.services.directory.fields import CONTACTS, NOTIFIED
from auth_portal.services.imports.staging import BITS
from auth_portal.services.imports.store import ImportClaim, hold
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import StagedRow

CAP_SHARE = 0.4  # of a daily cap: codes without a ticket may use up to 0.7 of it, and an alarm comes at half (R12)
AT_ONCE = 10  # customers notified in one transaction, by up to four messages each: about 15 ms
WAITING_AT_MOST = 500  # of these messages in the outbox; a channel that fails then costs no more than these
QUEUE_PAUSE = timedelta(seconds=5)
CAP_PAUSE = timedelta(minutes=10)  # a cap may be raised in the meantime
LONGEST = timedelta(days=7)  # later a customer would no longer know what it is about
QUESTION = "If you didn't ask for this, contact us immediately."


class NoRoom(Exception):
    """More messages cannot leave now: the notices go on after a pause."""

    def __init__(self, pause: timedelta, reason: str) -> None:
        super().__init__(reason)
        self.pause = pause
        self.reason = reason


@dataclass(frozen=True)
class NoticeRoute:
    """How the messages of one kind, and for SMS to one country, would leave; no channel if they cannot."""

    carries: str
    country: str
    number: int
    channel: str
    cap: int | None = None  # of the channel's day
    used: int = 0  # of it today, by everything

    @property
    def share(self) -> int | None:
        """Return how much of the cap the notices may use; None if there is no cap."""
        return None if self.cap is None else share_of(self.cap)

    @property
    def left(self) -> int | None:
        """Return how many of these messages could leave today."""
        return None if self.share is None else max(0, self.share - self.used)

    @property
    def days(self) -> int:
        """Return on how many days they would leave, including today."""
        if self.left is None or self.share is None or self.number <= self.left:
            return 1
        return 1 + ceil((self.number - self.left) / self.share)

    def __str__(self) -> str:
        if self.carries == "sms":
            what = f"{self.number} SMS to {self.country or 'no country'}"
        else:
            what = "1 email" if self.number == 1 else f"{self.number} emails"
        if not self.channel:
            return f"{what}: no channel may send them, so they are not sent"
        if self.cap is None:
            return f"{what} by channel {self.channel}, which has no daily cap"
        cap = f"{self.used} of its daily cap of {self.cap} are used, and notices take {self.share} of it at most"
        rest = f", all of them within about {self.days} days" if self.days > 1 else ""
        return f"{what} by channel {self.channel}: {self.left} could leave today ({cap}){rest}"


def share_of(cap: int) -> int:
    """Return how much of a daily cap notices may use. The old and the new number of one customer always have room."""
    return min(cap, max(2, int(cap * CAP_SHARE)))


def days_of(routes: Iterable[NoticeRoute]) -> int:
    """Return on how many days all of it would leave: in the order of the file, so that one kind may delay another."""
    return 1 + sum(route.days - 1 for route in routes)


def customers_word(number: int) -> str:
    """Return a number of customers in words."""
    return "one customer" if number == 1 else f"{number} customers"


class ImportNotices:
    """Compute how the notices of an import would leave, and queue them once it is switched."""

    def __init__(self, transactions: Transactions, notices: Notices) -> None:
        self._transactions = transactions
        self._notices = notices

    def routes(self, messages: Mapping[str, int]) -> list[NoticeRoute]:
        """Return how these messages, by their kind, would leave today."""
        routes = []
        with self._transactions.read() as work:
            for kind, number in sorted(messages.items()):
                carries, _, country = kind.partition(":")
                channel = self._notices.channel_for(carries, country)
                if number and channel is None:
                    routes.append(NoticeRoute(carries, country, number, ""))
                elif number and channel is not None:
                    used = used_today(work.connection, channel, work.now).get(country, 0)
                    routes.append(NoticeRoute(carries, country, number, channel.name, channel.daily_cap, used))
        return routes

    def send(self, held: ImportClaim, *, is_undone: bool) -> Iterator[None]:
        """Put the messages into the outbox, batch by batch, and yield after each. Raise NoRoom, and LostLease.

        With ``is_undone`` those who were notified of the import are notified of the undo.
        """
        place, done = held.row.place, held.row.done
        wanted = select(StagedRow.__table__).where(*_are_notified(held.id)).order_by(StagedRow.number).limit(AT_ONCE)
        if is_undone:
            wanted = wanted.where(StagedRow.number <= held.row.told_to)
        while True:
            with self._transactions.read() as work:
                rows = work.execute(wanted.where(StagedRow.number > place)).all()
            if not rows:
                return
            with self._transactions.write() as work:
                count = self._send(work, rows, is_undone=is_undone)
                place, done = rows[count - 1].number, done + count
                reached = {} if is_undone else {"told_to": place}
                hold(work, held, place=place, done=done, attempts=0, reason="", **reached)
            yield

    def _send(self, work: Work, rows: Sequence[Any], *, is_undone: bool) -> int:
        """Notify as many of these customers as there is room for, in their order. Raise NoRoom if that is none."""
        if outbox.bulk_waiting(work, WAITING_AT_MOST) >= WAITING_AT_MOST:
            raise NoRoom(QUEUE_PAUSE, "")
        room, count = _Room(work, self._notices), 0
        for row in rows:
            messages = self._messages(work, row, is_undone=is_undone)
            if not room.take([contact for contacts in messages.values() for contact in contacts]):
                break
            for subject, contacts in messages.items():
                self._notices.to_customer(work, row.customer_row, contacts, subject, QUESTION, is_bulk=True)
            count += 1
        if not count:
            raise NoRoom(CAP_PAUSE, room.reason)
        room.count()
        return count

    def _messages(self, work: Work, row: Any, *, is_undone: bool) -> dict[str, list[str]]:
        """Return by subject the old and the new contact, as far as a channel can send to them."""
        messages = {}
        for name in CONTACTS:
            if row.sets & BITS[name]:
                old, new = getattr(row, f"old_{name}_sealed"), getattr(row, f"{name}_sealed")
                verb = "removed" if (old if is_undone else new) is None else "changed"
                column = SealedColumn("customers", name)
                contacts = [work.open(one, column, row.customer_row) for one in (old, new) if one is not None]
                messages[f"Your {NOTIFIED[name]} was {verb}"] = self._notices.reach(contacts)
        return messages


def count_notified(work: Work, import_id: str, last: int) -> int:
    """Return how many customers are notified of an import, up to the staged row with this number."""
    notified = select(func.count()).select_from(StagedRow.__table__).where(*_are_notified(import_id))
    return int(work.execute(notified.where(StagedRow.number <= last)).scalar_one())


def _are_notified(import_id: str) -> tuple[ColumnElement[bool], ...]:
    contacts = or_(*(StagedRow.sets.op("&")(BITS[name]) > 0 for name in CONTACTS))
    return StagedRow.import_id == import_id, StagedRow.is_new.is_(False), contacts


class _Room:
    """What is left today of the caps that messages of one batch count against."""

    def __init__(self, work: Work, notices: Notices) -> None:
        self._work = work
        self._notices = notices
        self._left: dict[str, int] = {}
        self._taken: Counter[str] = Counter()
        self.reason = ""

    def take(self, contacts: Sequence[str]) -> bool:
        """Take room for a message to each contact, or for none of them if one has no room."""
        wanted: Counter[str] = Counter()
        for contact in contacts:
            carries, country = kind_of(contact)
            channel = self._notices.channel_for(carries, country)
            if channel is None or channel.daily_cap is None:
                continue
            key = cap_key(channel.name, country, self._work.now)
            wanted[key] += 1
            if key not in self._left:
                used = used_today(self._work.connection, channel, self._work.now).get(country, 0)
                self._left[key] = share_of(channel.daily_cap) - used
            if self._taken[key] + wanted[key] > self._left[key]:
                self.reason = f"today's share of the daily cap of channel {channel.name} is used"
                return False
        self._taken += wanted
        return True

    def count(self) -> None:
        """Count what was taken against the caps."""
        if self._taken:
            limits.count(self._work, self._taken, limits.DAY)
