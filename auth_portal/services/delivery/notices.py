"""Notices: what the portal sends besides codes. They leave through the outbox and commit with what they report.

Owners are notified of every change that an attacker would make (R19), customers of a change to their contacts or
credentials. A notice contains no code, link or secret, unless its caller puts a one-time link there on purpose.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import select

from auth_portal.clock import DEFAULT_ZONE, WallClock
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.services.config.changes import ChangedChannel
from auth_portal.services.config.snapshot import Journeys, Snapshot
from auth_portal.services.delivery.outbox import (
    AS_WAS,
    BULK_PRIORITY,
    CUSTOMER_CHANGED,
    NOTICE_PRIORITY,
    NewDelivery,
    about_notice,
    add,
    new_event,
    notice_lane,
)
from auth_portal.services.directory.person import country_of, mask_contact, program_id
from auth_portal.store.db import Work
from auth_portal.store.models import ADMIN_EMAIL, MESSAGE, Admin, CustomerRow

LIFETIME = timedelta(hours=24)  # how long a notice is tried: it is no code, and late is better than never
OWNER = "owner"


class Notices:
    """Put notices into the outbox, in the caller's transaction."""

    def __init__(self, journeys: Journeys, public_url: str) -> None:
        self._journeys = journeys
        self._public_url = public_url

    @property
    def wall(self) -> WallClock:
        """Return the clock of the admins' time zone, for the times in their mail."""
        return self._journeys.current().portal.wall

    def change_to_owners(
        self,
        work: Work,
        subject: str,
        lines: Sequence[str],
        by: str | None,
        paths: Sequence[str],
        changed: Sequence[ChangedChannel] = (),
    ) -> None:
        """Mail every active owner about a guarded change: what, who, when, from where, and where to see it (R44).

        ``by`` is the admin whose act it was, None for a command; ``paths`` are the pages that show it.
        """
        name = work.execute(select(Admin.name).where(Admin.id == by)).scalar_one_or_none() if by else None
        source = work.origin
        command = f"the command `{source.command}`, run by {source.account}" if source.command else "no admin"
        when = [f"{work.now:%Y-%m-%d %H:%M:%S} UTC"]
        if self.wall.name != DEFAULT_ZONE:
            when.append(self.wall.with_zone(work.now))
        facts = [
            f"By: {name or by or command}",
            f"When: {', '.join(when)}",
            *([f"From: {source.address}"] if source.address else []),
            *(self.page(path) for path in paths),
        ]
        self.to_owners(work, subject, [*lines, "", *facts], changed)

    def to_owners(
        self,
        work: Work,
        subject: str,
        lines: Sequence[str],
        changed: Sequence[ChangedChannel] = (),
        *,
        contract: str = "",
    ) -> None:
        """Mail every active owner; without an email channel only log it, the audit trail has the fact itself.

        ``changed`` are the channels in use that this very notice reports. An attacker who redirects the mail must not
        catch the mail about it, so it leaves through each of them as it was, and through another channel too. If there
        is no other, it also leaves through the changed one, which may have been changed because it failed.
        """
        snapshot = self._journeys.current()
        as_was = [one.was for one in changed if "email" in one.was.message_kinds and snapshot.may_use(one.was)]
        other = _mail_channel(snapshot, {one.was.name for one in changed})
        other = other or _mail_channel(snapshot, {one.was.name for one in changed if not one.is_in_use})
        owners = select(Admin.id, Admin.email_sealed).where(Admin.role == OWNER, Admin.is_active)
        rows = work.execute(owners).all()
        if rows and not as_was and other is None:
            work.log("notice_without_channel", level=logging.WARNING, subject=subject)
        for row in rows:
            notice = self._notice(work.open(row.email_sealed, ADMIN_EMAIL, row.id), subject, "\n".join(lines))
            for channel in as_was:
                carried = {"channel": channel.model_dump(mode="json", exclude_none=True)}
                _add(work, channel, {**notice, **carried}, contract=AS_WAS)
            if other is not None:
                _add(work, other, notice, contract=contract)

    def page(self, path: str) -> str:
        """Return the line of a mail that says where to see what it is about."""
        return f"See: {self._public_url}{path}"

    def one_time_link(self, work: Work, address: str, subject: str, path: str, lines: Sequence[str]) -> None:
        """Mail an admin, or one who is invited, a one-time link."""
        self.to_admin(work, address, subject, "\n".join([*lines, "", f"{self._public_url}{path}"]))

    @property
    def has_mail(self) -> bool:
        """Report whether a channel can carry mail to admins."""
        return _mail_channel(self._journeys.current(), set()) is not None

    def to_issuer(self, work: Work, made_by: str | None, subject: str, lines: Sequence[str]) -> None:
        """Mail the admin who created a one-time link; the owners if a command did, or that admin is switched off."""
        found = select(Admin.email_sealed).where(Admin.id == made_by, Admin.is_active)
        sealed = work.execute(found).scalar_one_or_none() if made_by else None
        if made_by is None or sealed is None:
            self.to_owners(work, subject, lines)
        else:
            self.to_admin(work, work.open(sealed, ADMIN_EMAIL, made_by), subject, "\n".join(lines))

    def to_admin(self, work: Work, address: str, subject: str, text: str) -> None:
        """Mail an admin about their own sign-in."""
        if channel := self._channel_to(work, address, subject):
            _add(work, channel, self._notice(address, subject, text))

    def to_customer(
        self,
        work: Work,
        row: str,
        contacts: Iterable[str],
        subject: str,
        text: str,
        *,
        link: str = "",
        is_bulk: bool = False,
    ) -> int:
        """Send one text to email addresses and phones (E.164) of a customer; return to how many it can be sent.

        Subject and text are English; they leave in the customer's own language. ``link`` stands in for ``%(link)s``.
        One of very many (``is_bulk``) leaves after all other messages. Erasing the customer of ``row`` erases it, and
        erasing no other customer does: a made-up one with the same contact must not silence it.
        """
        locale = work.execute(select(CustomerRow.locale).where(CustomerRow.id == row)).scalar_one_or_none() or ""
        said = {"locale": locale, "said": [subject, text, link]} if locale else {}
        filled = text % {"link": link} if link else text
        lane, priority = notice_lane(work.keyring, row), BULK_PRIORITY if is_bulk else NOTICE_PRIORITY
        sent = 0
        for contact in contacts:
            if channel := self._channel_to(work, contact, subject):
                notice = {**self._notice(contact, subject, filled), **said}
                _add(work, channel, notice, lane=lane, priority=priority)
                sent += 1
        return sent

    def customer_changed(self, work: Work, row: str, customer_id: str | None, change: str) -> None:
        """Report to programs that a customer was ``created``, ``changed`` or, without a customer ID, ``erased``.

        An import is reported once for all of its customers: ``imported``, with an empty ``row`` and no customer ID.
        """
        known_by = program_id(work.keyring, row) if row else None
        data = {"id": known_by, "customer_id": customer_id, "change": change}
        self.to_programs(work, CUSTOMER_CHANGED, data, row)

    def to_programs(self, work: Work, event: str, data: Mapping[str, object], row: str = "") -> None:
        """Put an event into the outbox for each program that asks for it (``outbox.ToPrograms``).

        Erasing the customer of ``row`` erases it, and withdraws it if it has not left. It costs nothing while no
        program asks: the snapshot says so.
        """
        for program in self._journeys.current().programs:
            if event in program.events:
                add(work, new_event(work, program, event, data, row))

    def reach(self, contacts: Iterable[str]) -> list[str]:
        """Return those of the contacts that a channel can send to."""
        return [contact for contact in contacts if self.channel_for(*kind_of(contact))]

    def channel_for(self, carries: str, country: str) -> ChannelConfig | None:
        """Return the channel that a notice would leave through: of this kind, and for SMS to this country."""
        return _channel_for(self._journeys.current(), carries, country)

    def _channel_to(self, work: Work, contact: str, subject: str) -> ChannelConfig | None:
        channel = self.channel_for(*kind_of(contact))
        if channel is None:
            work.log("notice_without_channel", level=logging.WARNING, subject=subject)
        return channel

    def _notice(self, contact: str, subject: str, text: str) -> dict[str, object]:
        return {"to": contact, "subject": f"{self._journeys.current().portal.name}: {subject}", "text": text}


def kind_of(contact: str) -> tuple[str, str]:
    """Return what carries a message to a contact, and for SMS its country."""
    return ("email", "") if "@" in contact else ("sms", country_of(contact))


def _channel_for(snapshot: Snapshot, carries: str, country: str) -> ChannelConfig | None:
    """Return the channel of the settings if it carries this kind, otherwise the first by name that does.

    A notice leaves through no channel that is not allowed to send to its country (R12).
    """
    fitting = {
        name: channel
        for name, channel in sorted(snapshot.channels.items())
        if carries in channel.message_kinds and snapshot.may_use(channel) and channel.sends_to(carries, country)
    }
    return fitting.get(snapshot.portal.notices_by) or next(iter(fitting.values()), None)


def _mail_channel(snapshot: Snapshot, avoided: set[str]) -> ChannelConfig | None:
    channels = {name: channel for name, channel in snapshot.channels.items() if name not in avoided}
    return _channel_for(replace(snapshot, channels=channels), "email", "")


def _add(
    work: Work,
    channel: ChannelConfig,
    notice: dict[str, object],
    *,
    contract: str = "",
    lane: bytes | None = None,
    priority: int = NOTICE_PRIORITY,
) -> None:
    new = NewDelivery(
        kind=MESSAGE,
        target=channel.name,
        contract=contract,
        lane=lane,
        body=json.dumps(notice),
        about=about_notice(notice["subject"], mask_contact(str(notice["to"]))),
        priority=priority,
        give_up_at=work.now + LIFETIME,
    )
    add(work, new)
