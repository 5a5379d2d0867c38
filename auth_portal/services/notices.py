"""Notices: what the portal tells people besides codes. They leave through the outbox, and commit with what they tell.

Owners hear of every change that an attacker would make (R19); customers of a change to their contacts or credentials.
A notice has no code, link or secret in it, save where the caller puts a one-time link there on purpose.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, select

from auth_portal.clock import WallClock
from auth_portal.crypto import Keyring
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.services import outbox
from auth_portal.services.directory.customers import country_of
from auth_portal.services.journeys import Journeys, Snapshot
from auth_portal.store.models import Admin
from auth_portal.telemetry import log_event

LIFETIME = timedelta(hours=24)  # how long a notice is tried: it is no code, and late is better than never
OWNER = "owner"


class ChangedChannel(NamedTuple):
    """A channel as it was before a change, and whether it is still in use after it."""

    was: ChannelConfig
    is_in_use: bool


class Notices:
    """Puts notices into the outbox, in the caller's transaction."""

    def __init__(self, keyring: Keyring, journeys: Journeys) -> None:
        self._keyring = keyring
        self._journeys = journeys

    @property
    def wall(self) -> WallClock:
        """The clock by which owners read the times in their mail."""
        return self._journeys.current().portal.wall

    def to_owners(
        self, connection: Connection, now: datetime, subject: str, lines: Sequence[str],
        changed: Sequence[ChangedChannel] = (),
    ) -> None:  # fmt: skip
        """Mails every active owner. Without an e-mail channel it is only logged; the audit has the fact itself.

        ``changed`` are the channels in use that this very notice tells of. Whoever redirects the mail must not catch
        the mail about it, so it leaves by each of them as it was; and by another one too, or where there is none by the
        changed one, which may have been changed because it failed.
        """
        owners = connection.execute(
            select(Admin.id, Admin.email_sealed).where(Admin.role == OWNER, Admin.is_active)
        ).all()
        addresses = [self._keyring.open(row.email_sealed, "admins", row.id, "email") for row in owners]
        ways = list(_ways(self._journeys.current(), changed))
        for channel, is_as_was in ways:
            for address in addresses:
                self._add(connection, now, channel, address, subject, "\n".join(lines), is_as_was=is_as_was)
        if not ways:
            log_event("notice_without_channel", level=logging.WARNING, subject=subject)

    def to_admin(self, connection: Connection, now: datetime, address: str, subject: str, text: str) -> None:
        """Mails one admin what concerns their own sign-in."""
        if channel := self._way_to(address, subject):
            self._add(connection, now, channel, address, subject, text)

    def to_customer(
        self, connection: Connection, now: datetime, row: str, contacts: Iterable[str], subject: str, text: str, *,
        is_bulk: bool = False,
    ) -> int:  # fmt: skip
        """Tells the same to e-mail addresses and phones (E.164) of a customer; how many of them there is a way to.

        One of very many (``is_bulk``) leaves after all other messages. With the customer of ``row`` it is erased, and
        with nobody else: a made-up customer with the same contact must not silence it, nor what an admin is told.
        """
        lane = outbox.notice_lane(self._keyring, row)
        ways = [(contact, channel) for contact in contacts if (channel := self._way_to(contact, subject))]
        for contact, channel in ways:
            self._add(connection, now, channel, contact, subject, text, lane=lane, is_bulk=is_bulk)
        return len(ways)

    def _way_to(self, contact: str, subject: str) -> ChannelConfig | None:
        channel = _channel_for(self._journeys.current(), *kind_of(contact))
        if channel is None:
            log_event("notice_without_channel", level=logging.WARNING, subject=subject)
        return channel

    def _add(
        self, connection: Connection, now: datetime, channel: ChannelConfig, contact: str, subject: str, text: str, *,
        lane: bytes | None = None, is_bulk: bool = False, is_as_was: bool = False,
    ) -> None:  # fmt: skip
        notice = {"to": contact, "subject": f"{self._journeys.current().portal.name}: {subject}", "text": text}
        carried = {"channel": channel.model_dump(mode="json", exclude_none=True)} if is_as_was else {}
        outbox.add_notice(
            connection, self._keyring, now, channel.name, json.dumps({**notice, **carried}), now + LIFETIME,
            contract=outbox.AS_WAS if is_as_was else "", lane=lane,
            priority=outbox.BULK_PRIORITY if is_bulk else outbox.NOTICE_PRIORITY,
        )  # fmt: skip

    def reach(self, contacts: Iterable[str]) -> list[str]:
        """Those of the contacts that there is a channel to."""
        snapshot = self._journeys.current()
        return [contact for contact in contacts if _channel_for(snapshot, *kind_of(contact))]

    def channel_for(self, carries: str, country: str) -> ChannelConfig | None:
        """The channel that a notice would leave by: of this kind, and for SMS to this country."""
        return _channel_for(self._journeys.current(), carries, country)


def kind_of(contact: str) -> tuple[str, str]:
    """What carries a message to a contact, and for SMS to which country."""
    return ("email", "") if "@" in contact else ("sms", country_of(contact))


def _channel_for(snapshot: Snapshot, carries: str, country: str) -> ChannelConfig | None:
    """The channel of the settings where it carries this kind, else the first by name that does.

    A country that a channel is not allowed to send to gets no notice by it either (R12).
    """
    fitting = {
        name: channel
        for name, channel in sorted(snapshot.channels.items())
        if carries in channel.message_kinds and snapshot.may_use(channel) and channel.sends_to(carries, country)
    }
    return fitting.get(snapshot.portal.notices_by) or next(iter(fitting.values()), None)


def _ways(snapshot: Snapshot, changed: Sequence[ChangedChannel]) -> Iterator[tuple[ChannelConfig, bool]]:
    """The channels of a notice to owners, and of each whether it carries the channel with it as that was."""
    for was, _is_in_use in changed:
        if "email" in was.message_kinds and snapshot.may_use(was):
            yield was, True
    all_changed = {was.name for was, _is_in_use in changed}
    gone = {was.name for was, is_in_use in changed if not is_in_use}
    for avoided in (all_changed, gone):
        channels = {name: channel for name, channel in snapshot.channels.items() if name not in avoided}
        if way := _channel_for(replace(snapshot, channels=channels), "email", ""):
            yield way, False
            return
