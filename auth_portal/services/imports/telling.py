"""Telling customers that an import changed their phone number or e-mail address (R13): how many messages, and when.

An import may need more messages than a channel may send on a day, and codes use the same cap. So the messages are put
into the outbox in small batches, each with its place in the import in one transaction: whoever is killed in between
has told nobody twice and forgotten nobody. They take a part of each cap, and wait for the next day beyond it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, func, or_, select

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.services import limits, outbox
from auth_portal.services.channel_usage import cap_key, used_today
from auth_portal.services.imports.staging import BITS, CONTACTS
from auth_portal.services.imports.states import Claim, hold
from auth_portal.services.limits import DAY
from auth_portal.services.notices import kind_of
from auth_portal.store.db import Database
from auth_portal.store.models import StagedRow

CAP_SHARE = 0.4  # of a daily cap: codes without a ticket may use up to 0.7 of it, and an alarm comes at half (R12)
AT_ONCE = 10  # customers told in one transaction, by up to four messages each: about 15 ms
WAITING_AT_MOST = 500  # of these messages in the outbox; a channel that fails then costs no more than these
QUEUE_PAUSE = timedelta(seconds=5)
CAP_PAUSE = timedelta(minutes=10)  # a cap may be raised meanwhile
LONGEST = timedelta(days=7)  # later a customer would not know any more what it is about
WORDS = {"phone": "phone number", "email": "e-mail address"}
QUESTION = "If you did not ask for this, please contact us at once."


class Notices(Protocol):
    """What tells owners and customers, in the caller's transaction."""

    def to_owners(self, connection: Connection, now: datetime, subject: str, lines: Sequence[str]) -> object:
        """Mails all owners."""
        ...

    def to_customer(
        self, connection: Connection, now: datetime, row: str, contacts: Sequence[str], subject: str, text: str, *,
        is_bulk: bool = False,
    ) -> object:  # fmt: skip
        """Tells the same to e-mail addresses and phones of a customer."""
        ...

    def channel_for(self, carries: str, country: str) -> ChannelConfig | None:
        """The channel that a notice would leave by."""
        ...


class NotNow(Exception):
    """There is no room for more messages: the telling goes on later."""

    def __init__(self, pause: timedelta, reason: str) -> None:
        super().__init__(reason)
        self.pause = pause
        self.reason = reason


@dataclass(frozen=True)
class Way:
    """How the messages of one kind, and for SMS to one country, would leave; no channel where they cannot."""

    carries: str
    country: str
    number: int
    channel: str
    cap: int | None = None  # of the channel's day
    used: int = 0  # of it today, by everything

    @property
    def share(self) -> int | None:
        """How much of the cap telling may use; nothing where there is none."""
        return None if self.cap is None else share_of(self.cap)

    @property
    def left(self) -> int | None:
        """How many of these messages could leave today."""
        return None if self.share is None else max(0, self.share - self.used)

    @property
    def days(self) -> int:
        """On how many days they would leave, today among them."""
        if self.left is None or self.share is None or self.number <= self.left:
            return 1
        return 1 + ceil((self.number - self.left) / self.share)

    def __str__(self) -> str:
        what = f"{self.number} SMS to {self.country or 'no country'}" if self.carries == "sms" else _mails(self.number)
        if not self.channel:
            return f"{what}: no channel may send them, so they do not leave"
        if self.cap is None:
            return f"{what} by channel {self.channel}, which has no daily cap"
        cap = f"{self.used} of its daily cap of {self.cap} are used, and telling takes {self.share} of it at most"
        rest = f", all of them within about {self.days} days" if self.days > 1 else ""
        return f"{what} by channel {self.channel}: {self.left} could leave today ({cap}){rest}"


def share_of(cap: int) -> int:
    """How much of a daily cap telling may use. The old and the new number of one customer always have room."""
    return min(cap, max(2, int(cap * CAP_SHARE)))


def longest(ways: Iterable[Way]) -> int:
    """On how many days all of it would leave: in the order of the file, so that one kind may wait for another."""
    return 1 + sum(way.days - 1 for way in ways)


def customers_word(number: int) -> str:
    """So many customers, in words."""
    return "one customer" if number == 1 else f"{number} customers"


def _mails(number: int) -> str:
    return "1 e-mail" if number == 1 else f"{number} e-mails"


class Telling:
    """Says what telling takes, and does it for imports that were switched."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock, notices: Notices) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._notices = notices

    def ways(self, messages: Mapping[str, int]) -> list[Way]:
        """How so many messages, by their kind, would leave today."""
        with self._database.read() as connection:
            return [self._way(connection, kind, number) for kind, number in sorted(messages.items()) if number]

    def _way(self, connection: Connection, kind: str, number: int) -> Way:
        carries, _, country = kind.partition(":")
        channel = self._notices.channel_for(carries, country)
        if channel is None:
            return Way(carries, country, number, "")
        used = used_today(connection, channel, self._clock()).get(country, 0)
        return Way(carries, country, number, channel.name, channel.daily_cap, used)

    def tell(self, held: Claim, *, is_undone: bool) -> Iterator[None]:
        """Puts the messages into the outbox, batch by batch, and gives control back after each.

        With ``is_undone`` those who were told of the import are told of the undo. Raises NotNow, and LostLease.
        """
        place, done = held.row.place, held.row.done
        while rows := self._next(held, place, is_undone=is_undone):
            with self._database.write() as connection:
                count = self._tell(connection, rows, is_undone=is_undone)
                place, done = rows[count - 1].number, done + count
                told = {} if is_undone else {"told_to": place}
                hold(connection, held, self._clock(), place=place, done=done, attempts=0, reason="", **told)
            yield

    def _next(self, held: Claim, place: int, *, is_undone: bool) -> Sequence[Any]:
        wanted = select(StagedRow.__table__).where(*_are_told(held.id), StagedRow.number > place)
        if is_undone:
            wanted = wanted.where(StagedRow.number <= held.row.told_to)
        with self._database.read() as connection:
            return connection.execute(wanted.order_by(StagedRow.number).limit(AT_ONCE)).all()

    def _tell(self, connection: Connection, rows: Sequence[Any], *, is_undone: bool) -> int:
        """Tells as many of these customers as there is room for, in their order. Raises NotNow where that is nobody."""
        if outbox.bulk_waiting(connection, WAITING_AT_MOST) >= WAITING_AT_MOST:
            raise NotNow(QUEUE_PAUSE, "")
        now, told = self._clock(), list[dict[str, list[str]]]()
        room = _Room(connection, self._notices, now)
        for row in rows:
            messages = {_subject(row, name, is_undone=is_undone): self._contacts(row, name) for name in _changed(row)}
            if not room.take([contact for contacts in messages.values() for contact in contacts]):
                break
            told.append(messages)
        if not told:
            raise NotNow(CAP_PAUSE, room.reason)
        for row, messages in zip(rows, told, strict=False):  # those that there was room for
            for subject, contacts in messages.items():
                whom = row.customer_row
                self._notices.to_customer(connection, now, whom, contacts, subject, QUESTION, is_bulk=True)
        room.count()
        return len(told)

    def _contacts(self, row: Any, name: str) -> list[str]:
        """The old and the new one, as far as there are such and a way to them."""
        sealed = (getattr(row, f"old_{name}_sealed"), getattr(row, f"{name}_sealed"))
        found = [self._keyring.open(one, "customers", row.customer_row, name) for one in sealed if one is not None]
        return [contact for contact in found if self._notices.channel_for(*kind_of(contact)) is not None]


def count_told(connection: Connection, import_id: str, last: int) -> int:
    """How many customers are told of an import, up to the staged row with this number."""
    told = select(func.count()).select_from(StagedRow.__table__).where(*_are_told(import_id))
    return int(connection.execute(told.where(StagedRow.number <= last)).scalar_one())


def _are_told(import_id: str) -> tuple[ColumnElement[bool], ...]:
    contacts = or_(*(StagedRow.sets.op("&")(BITS[name]) > 0 for name in CONTACTS))
    return StagedRow.import_id == import_id, StagedRow.is_new.is_(False), contacts


def _changed(row: Any) -> list[str]:
    return [name for name in CONTACTS if row.sets & BITS[name]]


def _subject(row: Any, name: str, *, is_undone: bool) -> str:
    is_gone = getattr(row, f"old_{name}_sealed" if is_undone else f"{name}_sealed") is None
    return f"Your {WORDS[name]} was {'removed' if is_gone else 'changed'}"


class _Room:
    """What is left today of the caps that messages of one batch count against."""

    def __init__(self, connection: Connection, notices: Notices, now: datetime) -> None:
        self._connection = connection
        self._notices = notices
        self._now = now
        self._left: dict[str, int] = {}
        self._taken: Counter[str] = Counter()
        self.reason = ""

    def take(self, contacts: Sequence[str]) -> bool:
        """Takes room for a message to each; where one has none, for none of them."""
        wanted: Counter[str] = Counter()
        for contact in contacts:
            carries, country = kind_of(contact)
            channel = self._notices.channel_for(carries, country)
            if channel is None or channel.daily_cap is None:
                continue
            key = cap_key(channel.name, country, self._now)
            wanted[key] += 1
            if self._taken[key] + wanted[key] > self._room(key, channel, channel.daily_cap, country):
                self.reason = f"today's share of the daily cap of channel {channel.name} is used"
                return False
        self._taken += wanted
        return True

    def _room(self, key: str, channel: ChannelConfig, cap: int, country: str) -> int:
        if key not in self._left:
            used = used_today(self._connection, channel, self._now).get(country, 0)
            self._left[key] = share_of(cap) - used
        return self._left[key]

    def count(self) -> None:
        """Counts what was taken against the caps."""
        if self._taken:
            limits.count(self._connection, self._now, self._taken, DAY)
