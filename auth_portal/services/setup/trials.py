"""Trying a channel: one message to an admin, by the same guarded way as every other, and what the provider said.

It leaves through the outbox, so that no request waits for a provider and no page hangs with it. E-mail goes to the
admin's own address only, SMS to a number that the channel may send to; it counts against the daily cap.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.errors import NotFound
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.services import audit, limits, outbox
from auth_portal.services.access.admins import Admins
from auth_portal.services.channel_usage import cap_key
from auth_portal.services.config.configuration import Configuration
from auth_portal.services.config.file import Fault
from auth_portal.services.directory.customers import country_of, e164
from auth_portal.services.limits import DAY, Limit
from auth_portal.store.db import Database
from auth_portal.store.models import Attempt, Delivery

MOST, WITHIN_SECONDS = 5, 600  # tests of one admin: enough to mend a channel, too few to annoy anybody
LIFETIME = timedelta(seconds=60)  # of one test: whoever sent it is looking at the page


@dataclass(frozen=True)
class Trial:
    """What became of a test so far. ``detail`` is the provider's answer, masked and cut (R42)."""

    state: str  # of the delivery
    attempts: int
    fate: str = ""
    detail: str = ""
    milliseconds: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state != outbox.State.PENDING


class Trials:
    """Sends tests and tells what came of them."""

    def __init__(
        self, database: Database, keyring: Keyring, clock: Clock, configuration: Configuration, admins: Admins,
        wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._configuration = configuration
        self._admins = admins
        self._wake = wake

    def send(self, name: str, kind: str, number: str, admin_id: str) -> str | Fault:
        """Puts a test into the outbox and gives its id, or says why not.

        ``kind`` is ``sms`` or ``email``; ``number`` counts for SMS alone. Raises NotFound for the channel, and
        TooMany beyond five in ten minutes.
        """
        now, mailbox = self._clock(), self._admins.get(admin_id).email
        with self._database.write() as connection:
            stored = self._configuration.stored(connection, locked=False)
            channel = stored.as_wanted.channels.get(name)
            if channel is None or kind not in channel.message_kinds:
                raise NotFound("not_found")
            to = mailbox if kind == "email" else e164(number, stored.portal.default_region)
            if to is None:
                return Fault("", "number", "is no phone number")
            if refused := self._count(connection, now, channel, to, admin_id):
                return refused
            body = json.dumps(
                {
                    "to": to,
                    "subject": f"{stored.portal.name}: test of the channel {name}",
                    "text": "If you can read this, the channel works. No customer was sent anything.",
                }
            )
            delivery_id = outbox.add_notice(
                connection, self._keyring, now, name, body, now + LIFETIME, contract=outbox.TEST
            )
            audit.record(
                connection, self._keyring, now, "channel_tested", admin_id=admin_id, channel=name, carries=kind
            )
        self._wake()
        return delivery_id

    def _count(
        self, connection: Connection, now: datetime, channel: ChannelConfig, to: str, admin_id: str
    ) -> Fault | None:
        """Counts a test for its admin and for the channel's day."""
        carries = "email" if "@" in to else "sms"
        country = country_of(to) if carries == "sms" else ""
        if not channel.sends_to(carries, country):
            allowed = ", ".join(channel.countries)
            return Fault("", "number", f"is of {country or 'an unknown country'}; this channel may send to {allowed}")
        limits.take_or_refuse(
            connection, now, Limit(f"channel-test:{admin_id}", MOST, WITHIN_SECONDS), "too_many_channel_tests"
        )
        if channel.daily_cap is not None:
            cap = Limit(cap_key(channel.name, country, now), channel.daily_cap, DAY)
            (taken,) = limits.take_all(connection, now, [cap])
            if taken.is_over:
                return Fault("", "", "The channel has sent all that its daily cap allows today.")
        return None

    def trial(self, name: str, delivery_id: str) -> Trial:
        """What became of a test of this channel. Raises NotFound."""
        row = select(Delivery.state, Delivery.attempts).where(
            Delivery.id == delivery_id, Delivery.target == name, Delivery.contract == outbox.TEST
        )
        last = (
            select(Attempt.fate, Attempt.detail, Attempt.milliseconds)
            .where(Attempt.delivery_id == delivery_id, Attempt.ended_at.is_not(None))
            .order_by(Attempt.id.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            found = connection.execute(row).one_or_none()
            if found is None:
                raise NotFound("not_found")
            attempt = connection.execute(last).one_or_none()
        return Trial(found.state, found.attempts, *(attempt or ()))
