"""Deliver a message: a code to a customer, a notice, an admin's test of a channel, or a webhook.

A text with a code is made when it is sent and stored nowhere. The last line of
an SMS is ``@host #code``, from which iOS and Android fill the code in. An email has the code in the first words
of its subject.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from jinja2 import BytecodeCache
from sqlalchemy import case, select

from auth_portal.gateways.channels import ChannelConfig, Handover, OutgoingMessage, Receipt, open_channel, parse_channel
from auth_portal.gateways.way_out import WayOut
from auth_portal.methods import CARRIES
from auth_portal.services import limits
from auth_portal.services.config.channel import ALARM_SHARES, CAP, HOURLY_CAP, cap_key, hourly_cap_key, most_today
from auth_portal.services.config.journey import JourneyConfig, JourneyLimits, Payment, ShownPayment, payment_of
from auth_portal.services.config.snapshot import Journeys, Snapshot
from auth_portal.services.delivery.outbox import (
    AS_WAS,
    DATABASE_FAULTS,
    NOT_SENT,
    ROW_FAULTS,
    TEST,
    WEBHOOK,
    AttemptReport,
    ClaimedDelivery,
    FinishedAttempt,
    Recorded,
)
from auth_portal.services.delivery.texts import CodeMessage, SmsText, Texts, sms_in_each_language
from auth_portal.services.delivery.webhooks import Webhooks
from auth_portal.services.directory.credentials import PersonTries
from auth_portal.services.directory.person import Person, country_of, is_trusted, person_of_row
from auth_portal.services.limits import DAY, HOUR, Limit
from auth_portal.store.db import Transactions, Work, dialect_insert, moment_of
from auth_portal.store.models import (
    TICKET_PAYMENT,
    Challenge,
    ChannelState,
    DeliveryState,
    TicketRow,
    Verification,
    signed_columns,
    table_of,
)
from auth_portal.telemetry import log_event, logger, reason_of

EXAMPLE_ADDRESS, EXAMPLE_PAYMENT = "customer@example.com", Payment("500.00", "ZAR", "N. Dlamini")
NOTICE_ATTEMPTS = 60  # about an hour: no customer waits for a notice, and none asks for it again
HELD_UP_SECONDS = 2  # before a message is prepared again: a database that is away needs no thread that asks at once
DATABASE_WAS_AWAY = "the database could not be used"  # the detail of an attempt that was not made
# Why an SMS was held back (R49), as the admin reads it.
SLOWED_DOWN = "slowed down: most people at this address or in this country did not use their codes"
# By what the key of a limit begins with: how it is counted, and why the message did not leave.
_HELD_BACK = {
    CAP: ("daily_cap", "the channel's daily cap is reached"),
    HOURLY_CAP: ("hourly_cap", "the channel's hourly cap is reached"),
    "sends:": ("messages_of_verification", "all messages of this verification were sent"),
    "destination:": ("destination", "destination limit reached"),
}
NEWS_SECONDS = 60  # how old the last success of a channel may be before another one is written


@dataclass(frozen=True)
class PreparedMessage:
    """A message for which only its channel has to be called, and what was counted for it."""

    send: Callable[[], Receipt]
    counted: Sequence[Limit] = ()
    country: str = ""  # of the phone that it goes to


@dataclass(frozen=True)
class FinishedMessage(FinishedAttempt):
    """An attempt to hand a message over, with the channel's receipt if it was called."""

    receipt: Receipt | None
    counted: Sequence[Limit] = ()
    country: str = ""


class MessageDelivery:
    """Hands claimed messages to their channels, and notes the receipts."""

    def __init__(
        self,
        transactions: Transactions,
        journeys: Journeys,
        outbound: WayOut,
        webhooks: Webhooks,
        tries: PersonTries,
        *,
        host: str,
        templates: Path,
        compiled: BytecodeCache,
        sandbox_url: str,
    ) -> None:
        self._transactions = transactions
        self._journeys = journeys
        self._outbound = outbound
        self._texts = Texts(host, templates, compiled)
        self._webhooks = webhooks
        self._tries = tries
        self._sandbox_url = sandbox_url

    def send(self, claimed: ClaimedDelivery) -> FinishedAttempt:
        """Hand over one message once."""
        began = time.perf_counter()
        prepared = self._prepare(claimed)
        result: Receipt | AttemptReport
        if isinstance(prepared, AttemptReport | Receipt):
            result = prepared
        else:  # preparing may have waited for other writers
            result = claimed.why_not(self._transactions.clock()) or prepared.send()
        report = message_report(claimed, result)
        milliseconds = int((time.perf_counter() - began) * 1000)
        receipt = result if isinstance(result, Receipt) else None
        if not isinstance(prepared, PreparedMessage):
            return FinishedMessage(claimed, report, milliseconds, receipt)
        return FinishedMessage(claimed, report, milliseconds, receipt, prepared.counted, prepared.country)

    def note(self, work: Work, recorded: Recorded) -> None:
        """Write how the channels of messages are doing, and take back what was counted for messages not taken."""
        given_back: list[Limit] = []
        receipts: dict[str, list[Receipt]] = defaultdict(list)
        for one, _state in recorded:
            assert isinstance(one, FinishedMessage)
            delivery, receipt = one.delivery, one.receipt
            if receipt is not None and delivery.contract not in (WEBHOOK, AS_WAS):
                receipts[delivery.target].append(receipt)
            # Certainly not taken: what was counted for it goes back, with the report or not at all.
            if receipt is None or receipt.handover is Handover.RETRY:
                given_back += one.counted
            if one.report.fate != NOT_SENT:
                channel = WEBHOOK if delivery.contract == WEBHOOK else delivery.target  # which is the program's host
                work.count("messages", channel, one.country, str(one.report.fate))
                if one.report.state is not DeliveryState.PENDING:
                    work.count("messages_ended", channel, one.country, one.report.state)
                created_at = moment_of(delivery.id)
                if delivery.challenge_id and one.report.state is DeliveryState.ACCEPTED and created_at is not None:
                    work.count("message_seconds", channel, value=(work.now - created_at).total_seconds())
        for name in sorted(receipts):  # in this order, so that no two dispatchers wait for each other
            for handover, some in groupby(receipts[name], attrgetter("handover")):
                for receipt in [next(some)] if handover is Handover.ACCEPTED else some:
                    _note_channel(work, name, receipt)
        limits.give_back(work, given_back)

    def examples(self) -> list[tuple[str, SmsText]]:
        """Return the SMS of a code, for the default journey, in each language that is offered, with its own name."""
        snapshot = self._journeys.renew()
        journey = snapshot.default.config if snapshot.default is not None else None
        return sms_in_each_language(self._example(snapshot, journey), snapshot.portal.offered)

    def preview(self, journey: JourneyConfig, locale: str, *, pays: bool = False) -> tuple[SmsText, OutgoingMessage]:
        """Return the SMS and the email of a code as a journey would send them in a language."""
        message = self._example(self._journeys.current(), journey, pays=pays)
        sms = sms_in_each_language(message, (locale,))[0][1]
        return sms, self._texts.outgoing("email", EXAMPLE_ADDRESS, message, "", locale)

    def _example(self, snapshot: Snapshot, journey: JourneyConfig | None, *, pays: bool = False) -> CodeMessage:
        """Return a message with a code of zeros."""
        bounds = journey.limits if journey is not None else JourneyLimits()
        payment = EXAMPLE_PAYMENT.shown(snapshot.portal.default_region) if pays else None
        return self._message(snapshot, journey, "0" * bounds.code_digits, bounds.code_seconds, payment)

    def _message(
        self, snapshot: Snapshot, journey: JourneyConfig | None, code: str, seconds: int, payment: ShownPayment | None
    ) -> CodeMessage:
        portal, look = snapshot.portal, snapshot.look(journey) if journey is not None else snapshot.portal_look
        return CodeMessage(
            code=code,
            portal=portal.name,
            journey=journey.name if journey is not None else "",
            host=self._texts.host,
            seconds=seconds,
            support=portal.support_contact.removeprefix("mailto:").removeprefix("tel:"),
            latin_name=portal.latin_name,
            payment=payment,
            wording=journey.words if journey is not None else CodeMessage.wording,
            colour=look.colour,
            on_colour=look.on_colour,
        )

    def _prepare(self, claimed: ClaimedDelivery) -> PreparedMessage | AttemptReport | Receipt:
        """Return what is ready to leave, or the report of an attempt that is not made.

        Only here, before a channel is called, may the database fail: then nothing has left, and the report says so. A
        fault of our own counts as one of the channel: it is tried again, and shows in alerts, metrics and on its page;
        but not what is wrong with this one message.
        """
        try:
            return claimed.why_not(self._transactions.clock()) or self._prepared(claimed)
        except DATABASE_FAULTS as fault:
            fields = {"delivery": claimed.id, "target": claimed.target, "why": reason_of(fault) or type(fault).__name__}
            log_event(f"{claimed.kind}_held_up", level=logging.WARNING, **fields)
            return AttemptReport(
                DeliveryState.PENDING,
                NOT_SENT,
                detail=DATABASE_WAS_AWAY,
                is_unclear=claimed.is_unclear,
                retry_after_seconds=HELD_UP_SECONDS,
            )
        except Exception as fault:
            logger.exception("message_fault")
            words = f"the portal could not make the message ({type(fault).__name__}); its log says where"
            handover = Handover.RECIPIENT if isinstance(fault, ROW_FAULTS) else Handover.RETRY
            return Receipt(handover, "fault", words)

    def _prepared(self, claimed: ClaimedDelivery) -> PreparedMessage | AttemptReport:
        """Return the message for its channel, or the reason why it is not given the message."""
        if claimed.reason and claimed.number == 1:
            return _dropped(claimed.reason)
        if claimed.contract == WEBHOOK:
            return PreparedMessage(self._webhooks.prepared(claimed))
        if claimed.contract == AS_WAS:
            return self._notice(claimed, None)
        # An admin who tries a channel has often changed it a moment ago.
        snapshot = self._journeys.renew() if claimed.contract == TEST else self._journeys.current()
        channel = snapshot.channels.get(claimed.target)
        if channel is None:
            detail = f"there is no active channel {claimed.target!r}"
            return AttemptReport(DeliveryState.REFUSED, "refused", detail=detail)
        return self._code(claimed, channel) if claimed.challenge_id else self._notice(claimed, channel)

    def _notice(self, claimed: ClaimedDelivery, channel: ChannelConfig | None) -> PreparedMessage:
        """Return a notice for this channel, or for the one that the notice carries with it."""
        notice = json.loads(claimed.body(self._transactions.keyring))
        channel = channel or parse_channel(notice["channel"])
        portal = self._journeys.current().portal
        outgoing = self._texts.notice(notice, claimed.id, portal.name, portal.offered)
        country = country_of(outgoing.to) if outgoing.kind == "sms" else ""
        return PreparedMessage(self._sending(channel, outgoing), country=country)

    def _sending(self, channel: ChannelConfig, outgoing: OutgoingMessage) -> Callable[[], Receipt]:
        opened = open_channel(channel, self._outbound, sandbox_url=self._sandbox_url)
        return partial(opened.send, outgoing)

    def _code(self, claimed: ClaimedDelivery, channel: ChannelConfig) -> PreparedMessage | AttemptReport:
        """Return a message with a code, counted as the last of all that can fail before it leaves."""
        with self._transactions.read() as work:
            challenge = work.execute(_CHALLENGE.where(Challenge.id == claimed.challenge_id)).one()
            person = person_of_row(work.connection, challenge.customer_row, "")
            journey = self._journeys.served_version(challenge.version_id)
            if withheld := _why_withheld(work, challenge, person, journey.limits, self._tries):
                return _dropped(withheld)
            if not (work.keyring.holds("challenges", challenge._mapping) and is_trusted(work.keyring, person)):
                return _dropped("the row of the code or of its customer was changed by someone other than the portal")
            if not _has_its_ticket(work, challenge):
                return _dropped("the ticket was deleted, or changed by someone other than the portal")
        carries, keyring, now = CARRIES[challenge.method], work.keyring, self._transactions.clock()
        to = person.contact(carries, keyring)
        country = country_of(to) if carries == "sms" else ""
        if not channel.sends_to(carries, country):
            return _dropped(f"the channel does not send to {country or 'this country'}")
        snapshot, payment = self._journeys.current(), None
        if sealed := challenge.ticket__payment_sealed:
            payment = payment_of(keyring.open(sealed, TICKET_PAYMENT, challenge.ticket_id)).shown(
                snapshot.portal.default_region
            )
        code, seconds = keyring.code(challenge.id, challenge.digits, challenge.key_id), challenge.expires_at - now
        message = self._message(snapshot, journey, code, int(seconds.total_seconds()), payment)
        outgoing = self._texts.outgoing(carries, to, message, claimed.id, claimed.locale or "")
        sending = self._sending(channel, outgoing)
        bounds = journey.limits
        counted = limits.destination_limits(challenge.destination_key, bounds.destination_hour, bounds.destination_day)
        counted.append(Limit(f"sends:{claimed.verification_id}", bounds.sends, DAY))  # a repeat is one (D13)
        if channel.daily_cap is not None:
            most = most_today(channel.daily_cap, is_ticketed=challenge.is_ticketed)
            counted.append(Limit(cap_key(channel.name, country, now), most, DAY))
        if channel.hourly_cap is not None:
            most = most_today(channel.hourly_cap, is_ticketed=challenge.is_ticketed)
            counted.append(Limit(hourly_cap_key(channel.name, country, now), most, HOUR))
        # A chat that the business's own flow opened for this phone number is not a stranger's.
        is_first = carries == "sms" and claimed.number == 1 and not challenge.is_ticketed
        payer = (challenge.address_key, country, challenge.customer_row) if is_first else None
        refused = self._count(channel, counted, payer)
        return _dropped(refused) if refused else PreparedMessage(sending, counted, country)

    def _count(self, channel: ChannelConfig, counted: list[Limit], payer: tuple[str, str, str] | None) -> str:
        """Count a message for its destination and its channel's day; return why it may not leave, if so (R12).

        A message that does not leave is not counted, or a minute of begins would use up a customer's whole day.
        """
        with self._transactions.write() as work:
            taken = limits.take_all(work, counted)
            leaves = not any(item.is_over for item in taken)  # the brake counts only what leaves (R49)
            if leaves and payer is not None and not limits.may_pay_for(work, *payer):
                limits.give_back(work, counted)
                self._transactions.counts.add("limits_hit", "slowed_down")
                return SLOWED_DOWN
        caps = [item for item in taken if item.limit.key.startswith(CAP)]
        if over := [item for item in caps if item.is_over] or [item for item in taken if item.is_over]:
            begin = f"{over[0].limit.key.partition(':')[0]}:"
            limit, why = _HELD_BACK[begin]
            self._transactions.counts.add("limits_hit", limit)
            return why
        for cap in caps:
            if cap.count in {int((channel.daily_cap or 0) * share) for share in ALARM_SHARES}:
                log_event("daily_cap_near", level=logging.WARNING, channel=channel.name, sent=cap.count)
        return ""


# The challenge of a message, with the journey's version, and whether a ticket by phone counts it (R48).
_CHALLENGE = (
    select(
        *signed_columns(Challenge),
        Challenge.used_at,
        Challenge.replaced_at,
        Verification.outcome,
        Verification.version_id,
        Verification.address_key,
        TicketRow.phone_key.is_not(None).label("is_ticketed"),
        Verification.ticket_id,
        *signed_columns(TicketRow, "ticket__"),
    )
    .join(Verification, Verification.id == Challenge.verification_id)
    .outerjoin(TicketRow, TicketRow.id == Verification.ticket_id)
)


def _dropped(reason: str) -> AttemptReport:
    return AttemptReport(DeliveryState.DROPPED, "dropped", detail=reason)


def _has_its_ticket(work: Work, challenge: Any) -> bool:
    """Report whether the ticket of a challenge, if it has one, says what the portal wrote (R54)."""
    if challenge.ticket_id is None:
        return True
    return challenge.ticket__id is not None and work.keyring.holds("tickets", challenge._mapping, "ticket__")


def _why_withheld(work: Work, challenge: Any, person: Person, bounds: JourneyLimits, tries: PersonTries) -> str:
    """Return why the code of a challenge must not leave, or an empty text."""
    carries = CARRIES[challenge.method]
    if challenge.used_at is not None or challenge.replaced_at is not None:
        return "the code is no longer valid"
    if challenge.outcome is not None:
        return "the verification has ended"
    if not person.has_contact(carries):
        return "no contact to send to"
    if person.destination_key(carries, "") != challenge.destination_key:
        return "the contact on file has changed since"
    spent = tries.person_has_spent
    is_spent = spent(work, person.key, challenge.method, bounds, is_ticketed=challenge.is_ticketed)
    return "too many wrong tries with this method" if is_spent else ""


def message_report(claimed: ClaimedDelivery, result: Receipt | AttemptReport) -> AttemptReport:
    """Return what a channel's receipt, or the reason why it was not given the message, means for the message.

    What certainly was not taken is tried again until the code expires; what may have been taken once more (D13).
    """
    if isinstance(result, AttemptReport):
        is_over = claimed.is_unclear and result.state is DeliveryState.DROPPED
        return replace(result, state=DeliveryState.UNCONFIRMED) if is_over else result
    state = DeliveryState.PENDING
    if result.handover is Handover.ACCEPTED:
        state = DeliveryState.ACCEPTED
    elif result.handover is Handover.UNCLEAR:
        state = DeliveryState.UNCONFIRMED if claimed.is_unclear else DeliveryState.PENDING
    elif result.handover is not Handover.RETRY:
        state = DeliveryState.UNCONFIRMED if claimed.is_unclear else DeliveryState.REFUSED
    elif not claimed.challenge_id and claimed.number >= NOTICE_ATTEMPTS:
        state = DeliveryState.UNCONFIRMED if claimed.is_unclear else DeliveryState.GIVEN_UP
    is_unclear = claimed.is_unclear or result.handover is Handover.UNCLEAR
    return AttemptReport(state, result.handover, None, result.detail, is_unclear, result.retry_after_seconds)


def _note_channel(work: Work, name: str, receipt: Receipt) -> None:
    """Store how a channel is doing, which is all that customers are shown of a failed message (R24).

    All dispatchers share the row of a channel, so a success is written only if it says something new; every failure
    counts.
    """
    if receipt.handover is Handover.RECIPIENT:
        return
    if receipt.handover is Handover.ACCEPTED:
        changes: dict[str, Any] = {
            "failures_in_row": 0,
            "failing_since": None,
            "needs_admin": False,
            "accepted_at": work.now,
            "reason": "",
        }
        values = {**changes, "failed_at": None}
        is_news = (ChannelState.failures_in_row > 0) | ChannelState.accepted_at.is_(None)
        is_news |= ChannelState.accepted_at < work.now - timedelta(seconds=NEWS_SECONDS)
    else:
        fails: dict[str, Any] = {
            "failed_at": work.now,
            "needs_admin": receipt.handover is Handover.OPERATOR,
            "reason": receipt.detail,
        }
        since = case((ChannelState.failures_in_row == 0, work.now), else_=ChannelState.failing_since)
        changes = {**fails, "failures_in_row": ChannelState.failures_in_row + 1, "failing_since": since}
        values = {**fails, "failures_in_row": 1, "failing_since": work.now, "accepted_at": None}
        is_news = None
    insert = dialect_insert(work.connection.dialect.name, table_of(ChannelState)).values(name=name, **values)
    work.execute(insert.on_conflict_do_update(index_elements=[ChannelState.name], set_=changes, where=is_news))
