"""Testing a channel: one message to an admin, sent like every other message, and what the provider answered.

It leaves through the outbox, so that no request waits for a provider. Email goes to the admin's own address only, SMS
to a number that the channel may send to; it counts against the daily cap.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select

from auth_portal.errors import NotFound
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.services import limits
from auth_portal.services.access.admins import Admins
from auth_portal.services.config.channel import cap_key
from auth_portal.services.config.file import Fault
from auth_portal.services.config.store import read_stored
from auth_portal.services.delivery import outbox
from auth_portal.services.delivery.outbox import NewDelivery
from auth_portal.services.directory.person import country_of, mask_contact
from auth_portal.services.limits import DAY, Limit
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import MESSAGE, Attempt, Delivery, DeliveryState
from auth_portal.typed import e164

MOST, WITHIN_SECONDS = 5, 600  # tests of one admin: enough to fix a channel, too few to annoy anyone
LIFETIME = timedelta(seconds=60)  # of one test: the admin who sent it is looking at the page


@dataclass(frozen=True)
class Trial:
    """The result of a test so far. ``detail`` is the provider's answer, masked and cut (R42)."""

    state: str  # of the delivery
    attempts: int
    fate: str = ""
    detail: str = ""
    milliseconds: int | None = None

    @property
    def is_over(self) -> bool:
        """Return True if nothing more will happen."""
        return self.state != DeliveryState.PENDING


class Trials:
    """Send tests and report their results."""

    def __init__(self, transactions: Transactions, admins: Admins, wake: Callable[[], None]) -> None:
        self._transactions = transactions
        self._admins = admins
        self._wake = wake

    def send(self, name: str, kind: str, number: str, admin_id: str) -> str | Fault:
        """Put a test into the outbox and return its id, or what prevents it.

        ``kind`` is ``sms`` or ``email``; ``number`` is used for SMS only. Raise NotFound for the channel, and TooMany
        after five tests in ten minutes.
        """
        mailbox = self._admins.get(admin_id).email
        with self._transactions.write() as work:
            stored = read_stored(work, is_locked=False)
            channel = stored.as_wanted.channels.get(name)
            if channel is None or kind not in channel.message_kinds:
                raise NotFound("not_found")
            to = mailbox if kind == "email" else e164(number, stored.portal.default_region)
            if to is None:
                return Fault("", "number", "is not a phone number; write it with + and its country code")
            if refused := _count(work, channel, to, admin_id):
                return refused
            body = {
                "to": to,
                "subject": f"{stored.portal.name}: test of the channel {name}",
                "text": "If you can read this, the channel works. No customer was sent anything.",
            }
            test = NewDelivery(
                kind=MESSAGE,
                target=name,
                contract=outbox.TEST,
                body=json.dumps(body),
                about=outbox.about_notice(body["subject"], mask_contact(to)),
                priority=outbox.NOTICE_PRIORITY,
                give_up_at=work.now + LIFETIME,
            )
            delivery_id = outbox.add(work, test)
            work.record("channel_tested", admin_id=admin_id, channel=name, carries=kind)
        self._wake()
        return delivery_id

    def trial(self, name: str, delivery_id: str) -> Trial:
        """Return the result of a test of this channel so far. Raise NotFound."""
        row = select(Delivery.state, Delivery.attempts).where(
            Delivery.id == delivery_id, Delivery.target == name, Delivery.contract == outbox.TEST
        )
        last = (
            select(Attempt.fate, Attempt.detail, Attempt.milliseconds)
            .where(Attempt.delivery_id == delivery_id, Attempt.ended_at.is_not(None))
            .order_by(Attempt.id.desc())
            .limit(1)
        )
        with self._transactions.read() as work:
            found = work.execute(row).one_or_none()
            if found is None:
                raise NotFound("not_found")
            attempt = work.execute(last).one_or_none()
        return Trial(found.state, found.attempts, *(attempt or ()))


def _count(work: Work, channel: ChannelConfig, to: str, admin_id: str) -> Fault | None:
    """Count a test for its admin and for the channel's day. Return what prevents it, if anything."""
    carries = "email" if "@" in to else "sms"
    country = country_of(to) if carries == "sms" else ""
    if not channel.sends_to(carries, country):
        allowed = ", ".join(channel.countries)
        return Fault("", "number", f"is of {country or 'an unknown country'}; this channel may send to {allowed}")
    limits.take_or_refuse(work, Limit(f"channel-test:{admin_id}", MOST, WITHIN_SECONDS), "too_many_channel_tests")
    if channel.daily_cap is not None:
        cap = Limit(cap_key(channel.name, country, work.now), channel.daily_cap, DAY)
        (taken,) = limits.take_all(work, [cap])
        if taken.is_over:
            return Fault("", "", "The channel has sent all that its daily cap allows today.")
    return None
