"""Notices: what the portal tells people besides codes. They leave through the outbox, and commit with what they tell.

Owners hear of every change that an attacker would make (R19); customers of a change to their contacts or credentials.
A notice has no code, link or secret in it, save where the caller puts a one-time link there on purpose.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

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


class Notices:
    """Puts notices into the outbox, in the caller's transaction."""

    def __init__(self, keyring: Keyring, journeys: Journeys) -> None:
        self._keyring = keyring
        self._journeys = journeys

    @property
    def wall(self) -> WallClock:
        """The clock by which owners read the times in their mail."""
        return self._journeys.current().portal.wall

    def to_owners(self, connection: Connection, now: datetime, subject: str, lines: Sequence[str]) -> None:
        """Mails every active owner. Without an e-mail channel it is only logged; the audit has the fact itself."""
        owners = connection.execute(
            select(Admin.id, Admin.email_sealed).where(Admin.role == OWNER, Admin.is_active)
        ).all()
        addresses = [self._keyring.open(row.email_sealed, "admins", row.id, "email") for row in owners]
        self.to_contacts(connection, now, addresses, subject, "\n".join(lines))

    def to_contacts(
        self, connection: Connection, now: datetime, contacts: Iterable[str], subject: str, text: str, *,
        is_bulk: bool = False,
    ) -> int:  # fmt: skip
        """Tells the same to e-mail addresses and phones (E.164); how many of them there is a way to.

        One of very many (``is_bulk``) leaves after all other messages.
        """
        snapshot, priority = self._journeys.current(), outbox.BULK_PRIORITY if is_bulk else outbox.NOTICE_PRIORITY
        sent = 0
        for contact in contacts:
            channel = _channel_for(snapshot, *kind_of(contact))
            if channel is None:
                log_event("notice_without_channel", level=logging.WARNING, subject=subject)
                continue
            body = json.dumps({"to": contact, "subject": f"{snapshot.portal.name}: {subject}", "text": text})
            lane = outbox.notice_lane(self._keyring, contact)
            until = now + LIFETIME
            outbox.add_notice(
                connection, self._keyring, now, channel.name, body, until, lane=lane, priority=priority
            )  # fmt: skip
            sent += 1
        return sent

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
        if carries in channel.message_kinds
        and snapshot.may_use(channel)
        and (carries == "email" or country in (channel.countries or (country,)))
    }
    return fitting.get(snapshot.portal.notices_by) or next(iter(fitting.values()), None)
