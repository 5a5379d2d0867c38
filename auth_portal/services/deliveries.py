"""One delivery from claim to record: a callback to Flow, the message of a code, or a notice.

Each is three moves: open what is to be sent, send it with no transaction open, record what came of it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, case, select

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.gateways.channels import ChannelConfig, Handover, Receipt, open_channel, parse_channel
from auth_portal.gateways.flow import Answer, Fate, FlowGateway
from auth_portal.gateways.way_out import WayOut
from auth_portal.methods import CARRIES
from auth_portal.services import limits
from auth_portal.services.alerts.webhooks import Webhooks
from auth_portal.services.channel_usage import CAP, cap_key, most_today
from auth_portal.services.config.journey import JourneyConfig, JourneyLimits
from auth_portal.services.directory.customers import Person, country_of, get_by_row
from auth_portal.services.journeys import Journeys
from auth_portal.services.limits import DAY, Limit
from auth_portal.services.messages import CodeMessage, Texts
from auth_portal.services.outbox import AS_WAS, CALLBACK, TEST, WEBHOOK, Claimed, Outbox, Report, State
from auth_portal.store.db import Database, upsert
from auth_portal.store.models import Challenge, ChannelState, Verification, table_of
from auth_portal.telemetry import log_event

MESSAGE_ATTEMPTS = 5  # a message is tried this often, then its code is left to the resend button: each try may cost
NOTICE_ATTEMPTS = 60  # about an hour: nobody waits for a notice, and nobody asks for it again
ALARM_SHARES = (0.5, 0.8)  # of a daily cap (R12)


class Deliverer:
    """Sends what was claimed and records it."""

    def __init__(
        self, database: Database, keyring: Keyring, clock: Clock, journeys: Journeys, outbox: Outbox, flow: FlowGateway,
        outbound: WayOut, texts: Texts, webhooks: Webhooks, *, sandbox_url: str,
    ) -> None:  # fmt: skip
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._journeys = journeys
        self._outbox = outbox
        self._flow = flow
        self._outbound = outbound
        self._texts = texts
        self._webhooks = webhooks
        self._sandbox_url = sandbox_url

    def deliver(self, claimed: Claimed) -> State:
        """Sends one claimed delivery; gives where it stands then."""
        return self._deliver_callback(claimed) if claimed.kind == CALLBACK else self._deliver_message(claimed)

    # -- callbacks ----------------------------------------------------------------------------------------------

    def _deliver_callback(self, claimed: Claimed) -> State:
        began, report = time.perf_counter(), _too_late(claimed)
        if report is None:
            report = callback_report(claimed, self._tell_flow(claimed))
        milliseconds = _milliseconds(began)
        with self._database.write() as connection:
            state = self._outbox.record(connection, claimed, report, milliseconds)
            if report.status is not None and report.state is not State.PENDING:
                self._note_answer(connection, claimed, report)
        _log("callback", claimed, state, report, milliseconds)
        return state

    def _tell_flow(self, claimed: Claimed) -> Answer:
        assert claimed.body_sealed is not None, "a callback has a body"
        body = self._keyring.open(claimed.body_sealed, "deliveries", claimed.id, "body")
        reference, now = json.loads(body)["reference"], self._clock()
        return self._flow.send(claimed.target, claimed.contract, reference, body.encode(), now=now)

    def _note_answer(self, connection: Connection, claimed: Claimed, report: Report) -> None:
        found = select(Verification.address_key).where(Verification.id == claimed.verification_id)
        address = connection.execute(found).scalar_one()
        was_unmatched = report.status == 400 and report.state is State.REFUSED  # noqa: PLR2004
        limits.note_answer(connection, self._clock(), address, was_unmatched=was_unmatched)

    # -- messages -----------------------------------------------------------------------------------------------

    def _deliver_message(self, claimed: Claimed) -> State:
        began = time.perf_counter()
        receipt = self._hand_over(claimed)
        report = message_report(claimed, receipt) if isinstance(receipt, Receipt) else receipt
        milliseconds = _milliseconds(began)
        with self._database.write() as connection:
            state = self._outbox.record(connection, claimed, report, milliseconds)
            if isinstance(receipt, Receipt) and claimed.contract not in (WEBHOOK, AS_WAS):
                _note_channel(connection, self._clock(), claimed.target, receipt)
        _log("message", claimed, state, report, milliseconds)
        return state

    def _hand_over(self, claimed: Claimed) -> Receipt | Report:
        """What the channel said, or why the message was not given to it."""
        if dropped := _too_late(claimed):
            return dropped
        if claimed.reason and claimed.number == 1:
            return Report(State.DROPPED, "dropped", detail=claimed.reason)
        if claimed.contract == WEBHOOK:
            return self._webhooks.send(claimed)
        if claimed.contract == AS_WAS:
            return self._send_notice(claimed, None)
        # Whoever tries a channel has often changed it a moment ago.
        snapshot = self._journeys.renewed() if claimed.contract == TEST else self._journeys.current()
        channel = snapshot.channels.get(claimed.target)
        if channel is None:
            return Report(State.REFUSED, "refused", detail=f"there is no active channel {claimed.target!r}")
        if claimed.challenge_id is None:
            return self._send_notice(claimed, channel)
        with self._database.read() as connection:
            challenge = _challenge(connection, claimed)
            person = get_by_row(connection, challenge.customer_row, "")
            journey = self._journeys.version(challenge.version_id)
            withheld = self._why_withheld(connection, challenge, person, journey)
        if withheld:
            return Report(State.DROPPED, "dropped", detail=withheld)
        return self._send(claimed, channel, challenge, person, journey)

    def _why_withheld(self, connection: Connection, challenge: Any, person: Person, journey: JourneyConfig) -> str:
        carries, bounds = CARRIES[challenge.method], journey.limits
        if challenge.used_at is not None or challenge.replaced_at is not None:
            return "the code is no longer in force"
        if not person.has_contact(carries):
            return "nobody to send to"
        if person.destination_key(carries, "") != challenge.destination_key:
            return "the contact on file has changed since"
        spent = limits.is_spent(
            connection, self._clock(), person.key, challenge.method, per_day=bounds.credential_tries_day,
            in_total=bounds.credential_tries_total, is_ticketed=challenge.ticket_id is not None,
        )  # fmt: skip
        return "too many wrong tries with this method" if spent else ""

    def _send(
        self, claimed: Claimed, channel: ChannelConfig, challenge: Any, person: Person, journey: JourneyConfig
    ) -> Receipt | Report:
        carries, now, portal = CARRIES[challenge.method], self._clock(), self._journeys.current().portal
        to = person.contact(carries, self._keyring)
        country = country_of(to) if carries == "sms" else ""
        if not channel.sends_to(carries, country):
            return Report(State.DROPPED, "dropped", detail=f"the channel does not send to {country or 'this country'}")
        counted = _limits_of(channel, country, challenge, journey.limits, now)
        if refused := self._over_limit(channel, counted, now):
            return Report(State.DROPPED, "dropped", detail=refused)
        message = CodeMessage(
            code=self._keyring.code(challenge.id, challenge.digits, challenge.key_id),
            portal=portal.name,
            journey=journey.name,
            host=self._texts.host,
            seconds=int((challenge.expires_at - now).total_seconds()),
            support=portal.support_contact,
        )
        outgoing = self._texts.outgoing(carries, to, message, claimed.id)
        receipt = open_channel(channel, self._outbound, sandbox_url=self._sandbox_url).send(outgoing)
        if receipt.handover is Handover.RETRY:  # certainly not taken
            with self._database.write() as connection:
                limits.give_back(connection, counted)
        return receipt

    def _send_notice(self, claimed: Claimed, channel: ChannelConfig | None) -> Receipt:
        """Sends a notice by this channel, or by the one that it carries with it."""
        assert claimed.body_sealed is not None, "a notice has a body"
        notice = json.loads(self._keyring.open(claimed.body_sealed, "deliveries", claimed.id, "body"))
        channel = channel or parse_channel(notice["channel"])
        outgoing = self._texts.notice(notice["to"], notice["subject"], notice["text"], claimed.id)
        return open_channel(channel, self._outbound, sandbox_url=self._sandbox_url).send(outgoing)

    def _over_limit(self, channel: ChannelConfig, wanted: Sequence[Limit], now: datetime) -> str:
        """Counts a message for its destination and its channel's day; why it may not leave, or nothing (R12).

        What does not leave is not counted, else a minute of begins would close somebody's whole day.
        """
        with self._database.write() as connection:
            taken = limits.take_all(connection, now, wanted)
        caps = [item for item in taken if item.limit.key.startswith(CAP)]
        if any(item.is_over for item in caps):
            return "the channel's daily cap is reached"
        if any(item.is_over for item in taken):
            return "destination limit reached"
        for cap in caps:
            if cap.count in {int((channel.daily_cap or 0) * share) for share in ALARM_SHARES}:
                log_event("daily_cap_near", level=logging.WARNING, channel=channel.name, sent=cap.count)
        return ""


def _limits_of(
    channel: ChannelConfig, country: str, challenge: Any, bounds: JourneyLimits, now: datetime
) -> list[Limit]:
    found = limits.destination_limits(challenge.destination_key, bounds.destination_hour, bounds.destination_day)
    if channel.daily_cap is not None:
        day = cap_key(channel.name, country, now)
        found.append(Limit(day, most_today(channel.daily_cap, is_ticketed=challenge.ticket_id is not None), DAY))
    return found


def callback_report(claimed: Claimed, answer: Answer) -> Report:
    """What Flow's answer means for the result (PRODUCT.md, "Facts about Flow")."""
    is_unclear = claimed.is_unclear or answer.fate is Fate.UNCLEAR
    state = State.PENDING
    if answer.fate is Fate.ACCEPTED:
        state = State.ACCEPTED
    elif answer.fate is Fate.REFUSED:
        # A 400 after an attempt of unknown fate may only say that the first one was taken.
        state = State.UNCONFIRMED if claimed.is_unclear else State.REFUSED
    return Report(state, answer.fate, answer.status, answer.reason, is_unclear, answer.retry_after_seconds)


def message_report(claimed: Claimed, receipt: Receipt) -> Report:
    """What a channel's receipt means for a message."""
    if receipt.handover is Handover.ACCEPTED:
        state = State.ACCEPTED
    elif receipt.handover in (Handover.RETRY, Handover.UNCLEAR):
        most = MESSAGE_ATTEMPTS if claimed.challenge_id else NOTICE_ATTEMPTS
        state = State.PENDING if claimed.number < most else State.GIVEN_UP
    else:
        state = State.REFUSED
    return Report(state, receipt.handover, detail=receipt.detail)


def _too_late(claimed: Claimed) -> Report | None:
    if claimed.began_at < claimed.give_up_at:
        return None
    state = State.UNCONFIRMED if claimed.is_unclear else State.GIVEN_UP
    return Report(state, "too_late", detail="its time was over", is_unclear=claimed.is_unclear)


def _challenge(connection: Connection, claimed: Claimed) -> Any:
    """The challenge of a message, with the journey's version and the ticket that its verification began with."""
    columns = (
        Challenge.id, Challenge.customer_row, Challenge.method, Challenge.destination_key, Challenge.digits,
        Challenge.key_id, Challenge.expires_at, Challenge.used_at, Challenge.replaced_at,
    )  # fmt: skip
    found = select(*columns, Verification.version_id, Verification.ticket_id)
    found = found.join(Verification, Verification.id == Challenge.verification_id)
    return connection.execute(found.where(Challenge.id == claimed.challenge_id)).one()


def _note_channel(connection: Connection, now: datetime, name: str, receipt: Receipt) -> None:
    """Keeps how a channel is doing, which is all that customers are told of a failed message (R24)."""
    if receipt.handover is Handover.RECIPIENT:
        return
    if receipt.handover is Handover.ACCEPTED:
        values, changes, where = _channel_works(now)
    else:
        values, changes, where = _channel_fails(now, receipt)
    insert = upsert(connection.dialect.name, table_of(ChannelState)).values(name=name, **values)
    connection.execute(insert.on_conflict_do_update(index_elements=[ChannelState.name], set_=changes, where=where))


def _channel_works(now: datetime) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """The row of a channel that took a message: new, how an old one changes, and which old ones do.

    There is one row for all dispatchers, so it is written only where that says something new.
    """
    news = (ChannelState.failures_in_row > 0) | (ChannelState.accepted_at.is_(None))
    news |= ChannelState.accepted_at < now - timedelta(seconds=60)
    works = {"failures_in_row": 0, "failing_since": None, "needs_admin": False, "accepted_at": now, "reason": ""}
    return {**works, "failed_at": None}, works, news


def _channel_fails(now: datetime, receipt: Receipt) -> tuple[dict[str, Any], dict[str, Any], None]:
    """The same for one that did not take it: every failure counts."""
    fails = {"failed_at": now, "needs_admin": receipt.handover is Handover.OPERATOR, "reason": receipt.detail}
    since = case((ChannelState.failures_in_row == 0, now), else_=ChannelState.failing_since)
    changes = {**fails, "failures_in_row": ChannelState.failures_in_row + 1, "failing_since": since}
    return {**fails, "failures_in_row": 1, "failing_since": now, "accepted_at": None}, changes, None


def _milliseconds(began: float) -> int:
    return int((time.perf_counter() - began) * 1000)


def _log(event: str, claimed: Claimed, state: State, report: Report, milliseconds: int) -> None:
    is_bad = state in (State.REFUSED, State.GIVEN_UP, State.UNCONFIRMED)
    log_event(
        f"{event}_attempted", level=logging.WARNING if is_bad else logging.INFO, delivery=claimed.id,
        verification=claimed.verification_id, target=claimed.target, number=claimed.number, fate=report.fate,
        state=state, status=report.status, detail=report.detail, milliseconds=milliseconds,
    )  # fmt: skip
