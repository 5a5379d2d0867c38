"""Webhooks: alerts and events to programs of the business, signed as Standard Webhooks 1.0 describes.

See standardwebhooks.com. They are rows of the outbox, so that they commit with what they report and block nothing. The
signature is made when a row is sent, so that a renewed secret also signs what is still waiting. Alerts go to the one
address of the settings, fixed when the row is written. Events go to endpoints, each with its secret and the events
that it asks for; they are a separate kind of delivery with separate threads, so that a slow endpoint
keeps neither a result nor a message waiting, and a process of an older version sends none of them.
"""

from __future__ import annotations

import base64
import hmac
import json
import random
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, and_, case, delete, func, insert, select, text, update

from auth_portal.errors import Misconfigured, NotFound
from auth_portal.gateways.channels import Handover, Receipt
from auth_portal.gateways.way_out import Blocked, NotReached, OutboundError, WayOut
from auth_portal.services.config.snapshot import Program
from auth_portal.services.delivery.outbox import (
    CUSTOMER_CHANGED,
    DATABASE_FAULTS,
    DELIVERY_GIVEN_UP,
    EVENT_LIFETIME,
    LOST,
    NOT_SENT,
    NOTICE_PRIORITY,
    PAUSED,
    ROW_FAULTS,
    VERIFICATION_ENDED,
    WEBHOOK,
    AttemptReport,
    ClaimedDelivery,
    FinishedAttempt,
    NewDelivery,
    Recorded,
    add,
    new_event,
    put_back,
)
from auth_portal.store.db import Transactions, Work, dialect_insert
from auth_portal.store.models import (
    ENDPOINT_OLD_SECRET,
    ENDPOINT_SECRET,
    ENDPOINT_URL,
    EVENT,
    MESSAGE,
    NOT_ACCEPTED,
    READ_AGAIN,
    WEBHOOK_SECRET,
    Delivery,
    DeliveryState,
    WebhookEndpoint,
    WebhookSecret,
    table_of,
)

LIFETIME = timedelta(hours=1)  # an older alert is of no use
ROW = 1
PREFIX = "whsec_"  # of a secret, before the Base64 of its bytes
SECRET_BYTES = 32
MOST_ENDPOINTS = 10  # each is one more row for whatever it asks for, customers' verifications included
LONGEST_URL = 500  # characters
OVERLAP = timedelta(hours=24)  # for which a replaced secret of an endpoint signs too
# Seconds before each retry of an event; then the last of them again, until a day is over.
EVENT_WAITS = (5, 30, 120, 600, 1800, 3600, 7200, 14400)
# An endpoint that has accepted nothing for so long: Stripe disables one after 3 days, Svix after 5.
WARN_AFTER, PAUSE_AFTER = timedelta(days=1), timedelta(days=3)
PAUSE_TRIES = 6  # of one event, which take three quarters of an hour
REPLAY_MOST, REPLAYED_AT_ONCE = 5_000, 200  # events that one request sends again, in transactions of 10 ms
LOST_LOOKED_AT = 1_000  # the newest events that were given up, which a page counts
GONE = 410  # what a program answers to get no further events
TEST_EVENT = "webhook.test"
TEST_LIFETIME = timedelta(seconds=60)  # the owner who sent it is looking at the page
EVENTS: Mapping[str, str] = {
    VERIFICATION_ENDED: "A verification has ended, however it ended",
    DELIVERY_GIVEN_UP: "An answer to the chat or a message was not accepted and is no longer tried",
    CUSTOMER_CHANGED: "A customer was created, changed or erased, or an import has changed many",
}
PAGE = "/admin/api-keys"  # that lists endpoints
# Mails all owners: what changed as subject and lines, the admin who changed it, and the pages that show it.
NotifyOwners = Callable[[Work, str, Sequence[str], str | None, Sequence[str]], None]


@dataclass(frozen=True)
class HookService:
    """What sends webhooks and what manages them: both reach a program, and notify owners."""

    _transactions: Transactions
    _outbound: WayOut
    _notify_owners: NotifyOwners


class Webhooks(HookService):
    """Put alerts into the outbox, and send them and events."""

    def add(self, work: Work, url: str, content: dict[str, Any]) -> None:
        """Put one message into the outbox, in the caller's transaction."""
        webhook = NewDelivery(
            kind=MESSAGE,
            target=urlsplit(url).netloc[:255],
            contract=WEBHOOK,
            body=json.dumps({"url": url, "content": content}),
            about=json.dumps({"subject": content.get("type", "")}),
            priority=NOTICE_PRIORITY,
            give_up_at=work.now + LIFETIME,
        )
        add(work, webhook)

    def prepared(self, claimed: ClaimedDelivery) -> Callable[[], Receipt]:
        """Return what posts a claimed webhook once. Make a secret if there is none: nothing ever leaves unsigned."""
        message = json.loads(claimed.body(self._transactions.keyring))
        secret = self._secret() or self.renew_secret()
        return partial(self._post, message["url"], claimed.id, [secret], json.dumps(message["content"]).encode())

    def send(self, claimed: ClaimedDelivery) -> FinishedAttempt:
        """Post one claimed event once, to the address that its endpoint has now."""
        began, called, report = time.perf_counter(), Called(), claimed.why_not(self._transactions.clock())
        if report is None:
            try:
                message = json.loads(claimed.body(self._transactions.keyring))
                called = self._called(message["endpoint"], is_test=message["content"]["type"] == TEST_EVENT)
            except DATABASE_FAULTS as fault:
                report = AttemptReport(DeliveryState.PENDING, NOT_SENT, detail=type(fault).__name__)
            except ROW_FAULTS:
                report = AttemptReport(DeliveryState.DROPPED, "dropped", detail=NOT_THERE)
            else:  # the look at the database may have taken long
                body = json.dumps(message["content"]).encode()
                report = called.why_not or claimed.why_not(self._transactions.clock())
                report = report or event_report(claimed, self._post(called.url, claimed.id, called.signing, body))
        return FinishedEvent(claimed, report, int((time.perf_counter() - began) * 1000), called)

    def note(self, work: Work, recorded: Recorded) -> None:
        """Write which endpoints fail since when, pause those that keep failing, and switch those off that are gone."""
        last: dict[str, FinishedEvent] = {}
        for one, _state in recorded:
            assert isinstance(one, FinishedEvent)
            if one.report.fate != NOT_SENT:
                work.count("messages", WEBHOOK, "", str(one.report.fate))
                if one.report.state is not DeliveryState.PENDING:
                    work.count("messages_ended", WEBHOOK, "", one.report.state)
            if one.called.endpoint and one.report.fate in _OF_ENDPOINT:
                last[one.called.endpoint] = one
        for endpoint in sorted(last):  # in this order, so that no two dispatchers wait for each other
            one = last[endpoint]
            _note_endpoint(work, one.called, one.report)
            if one.report.status == GONE:
                self._switch_off(work, one.called)
            elif one.report.state is not DeliveryState.ACCEPTED:
                self._judge(work, one)

    def _judge(self, work: Work, failed: FinishedEvent) -> None:
        """Warn all owners of an endpoint that keeps failing, once, and pause it if it goes on.

        A first try says little after days without an event, so a pause waits for one that was repeated for long.
        """
        found = select(WebhookEndpoint.__table__).where(failed.called.is_still_so, WebhookEndpoint.is_active)
        row = work.execute(found.where(WebhookEndpoint.paused_at.is_(None))).one_or_none()
        if row is None or row.failing_since is None:
            return
        is_lasting = failed.delivery.number >= PAUSE_TRIES or failed.report.state is not DeliveryState.PENDING
        lasts, this = work.now - row.failing_since, update(WebhookEndpoint).where(failed.called.is_still_so)
        lines = [f"Since {row.failing_since:%Y-%m-%d %H:%M} UTC, {row.target} has accepted no event: {row.fault}."]
        if lasts >= PAUSE_AFTER and is_lasting:
            this, subject = this.where(WebhookEndpoint.paused_at.is_(None)).values(paused_at=work.now), "was paused"
            lines.append("Events for it are stored, and sent once you resume it and choose to send them again.")
        elif lasts >= WARN_AFTER:
            this, subject = this.where(WebhookEndpoint.warned_at.is_(None)).values(warned_at=work.now), "keeps failing"
            lines.append(
                f"If it goes on, the webhook is paused after {row.failing_since + PAUSE_AFTER:%Y-%m-%d %H:%M} UTC."
            )
        else:
            return
        if work.execute(this).rowcount:
            if subject == "was paused":
                work.execute(READ_AGAIN)
                work.record("webhook_endpoint_paused", endpoint=row.id, to=row.target)
            self._notify_owners(work, f"A webhook {subject}", lines, None, [f"{PAGE}/webhooks/{row.id}"])

    def _switch_off(self, work: Work, called: Called) -> None:
        """Switch off an endpoint whose program refuses further events, and notify all owners."""
        off = update(WebhookEndpoint).where(called.is_still_so, WebhookEndpoint.is_active)
        off = off.values(is_active=False, gone_at=work.now).returning(WebhookEndpoint.target)
        row = work.execute(off).one_or_none()
        if row is not None:
            work.execute(READ_AGAIN)
            work.record("webhook_endpoint_gone", endpoint=called.endpoint, to=row.target)
            lines = [f"{row.target} answered 410 (gone), so it gets no events until you switch it on again."]
            self._notify_owners(work, "A webhook was switched off", lines, None, [f"{PAGE}/webhooks/{called.endpoint}"])

    def _called(self, endpoint: str, *, is_test: bool) -> Called:
        """Return an endpoint as it is called now, with the secrets that sign for it, the newest first.

        Raise NoResultFound for one that was deleted or is off, except for a test, and KeyFault for an address or secret
        that someone other than the portal has written.
        """
        found = select(WebhookEndpoint.__table__).where(WebhookEndpoint.id == endpoint)
        with self._transactions.read() as work:
            row = work.execute(found if is_test else found.where(WebhookEndpoint.is_active)).one()
            signing = [work.open(row.secret_sealed, ENDPOINT_SECRET, endpoint)]
            if row.old_secret_sealed is not None and row.old_secret_until > work.now:
                signing.append(work.open(row.old_secret_sealed, ENDPOINT_OLD_SECRET, endpoint))
            url = work.open(row.url_sealed, ENDPOINT_URL, endpoint)
            return Called(endpoint, url, signing, row.changed_at, is_paused=row.paused_at is not None and not is_test)

    def _post(self, url: str, message_id: str, signing: Sequence[str], body: bytes) -> Receipt:
        """Post a webhook. Raise nothing that the network could cause. Of the answer only the status is stored.

        All but 2xx is tried again, as Standard Webhooks asks, except 410 and an address that is not allowed.
        """
        timestamp = int(self._transactions.clock().timestamp())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "AuthPortal",
            "webhook-id": message_id,  # the same for every attempt, so that a repeat is recognised
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signature(secret, message_id, timestamp, body) for secret in signing),
        }
        try:
            answer = self._outbound.request("POST", url, headers=headers, body=body)
        except Blocked as error:
            return Receipt(Handover.OPERATOR, "blocked", error.reason)
        except NotReached as error:
            return Receipt(Handover.RETRY, "not_reached", f"Not reached: {error.reason}")
        except OutboundError as error:
            return Receipt(Handover.RETRY, "unclear", f"Sent, but {error.reason}")
        handover = Handover.OPERATOR if answer.status == GONE else Handover.RETRY
        handover = Handover.ACCEPTED if answer.is_success else handover
        return Receipt(handover, f"http_{answer.status}", f"HTTP {answer.status}")

    def has_secret(self) -> bool:
        """Return True if there is a secret to check signatures with."""
        return bool(self._secret())

    def renew_secret(self, admin_id: str | None = None) -> str:
        """Replace the secret; return the new one, which is shown once."""
        secret = new_secret()
        with self._transactions.write() as work:
            values = {"secret_sealed": work.seal(secret, WEBHOOK_SECRET, str(ROW)), "made_at": work.now}
            insert = dialect_insert(work.connection.dialect.name, table_of(WebhookSecret)).values(id=ROW, **values)
            work.execute(insert.on_conflict_do_update(index_elements=["id"], set_=values))
            work.record("webhook_secret_renewed", admin_id=admin_id)
            if admin_id is not None:  # not the first one, which the portal makes
                lines = ["Programs that check signatures refuse alerts until they have the new secret."]
                paths = ["/admin/settings"]
                self._notify_owners(work, "The webhook's secret was replaced", lines, admin_id, paths)
        return secret

    def _secret(self) -> str:
        with self._transactions.read() as work:
            query = select(WebhookSecret.secret_sealed).where(WebhookSecret.id == ROW)
            sealed = work.execute(query).scalar_one_or_none()
            return work.open(sealed, WEBHOOK_SECRET, str(ROW)) if sealed else ""


@dataclass(frozen=True)
class Called:
    """An endpoint as an attempt called it; ``endpoint`` is empty if that could not be read."""

    endpoint: str = ""
    url: str = field(default="", repr=False)
    signing: Sequence[str] = field(default=(), repr=False)
    changed_at: datetime | None = None
    is_paused: bool = False

    @property
    def why_not(self) -> AttemptReport | None:
        """Return the report of an event that is not sent because its endpoint was paused while it waited."""
        return AttemptReport(DeliveryState.GIVEN_UP, "dropped", detail=PAUSED) if self.is_paused else None

    @property
    def is_still_so(self) -> ColumnElement[bool]:
        """Return what finds it, unless an owner has changed it since: an old address says nothing about a new one."""
        return and_(WebhookEndpoint.id == self.endpoint, WebhookEndpoint.changed_at == self.changed_at)


@dataclass(frozen=True)
class FinishedEvent(FinishedAttempt):
    """An attempt to post an event."""

    called: Called


_OF_ENDPOINT = {Handover.ACCEPTED, Handover.RETRY, Handover.OPERATOR}  # fates that say how an endpoint is doing
NOT_THERE = "the webhook was switched off or deleted"  # the detail of an event that is not sent


def event_report(claimed: ClaimedDelivery, result: Receipt) -> AttemptReport:
    """Return what a program's answer means for an event. Its waits grow, because it may be down for long."""
    _http, _underscore, number = result.code.partition("http_")
    status = int(number) if number else None
    if result.handover is Handover.ACCEPTED:
        return AttemptReport(DeliveryState.ACCEPTED, result.handover, status, result.detail)
    if result.handover is Handover.OPERATOR:
        return AttemptReport(DeliveryState.REFUSED, result.handover, status, result.detail)
    wait = EVENT_WAITS[min(claimed.number, len(EVENT_WAITS)) - 1] * random.uniform(0.9, 1.1)  # noqa: S311
    return AttemptReport(DeliveryState.PENDING, Handover.RETRY, status, result.detail, retry_after_seconds=wait)


def _note_endpoint(work: Work, called: Called, report: AttemptReport) -> None:
    """Write that an endpoint fails, or no longer does; nothing if that is known."""
    is_well = report.state is DeliveryState.ACCEPTED
    since = WebhookEndpoint.failing_since
    changed = update(WebhookEndpoint).where(called.is_still_so, since.is_not(None) if is_well else since.is_(None))
    values = _WELL if is_well else {"failing_since": work.now, "fault": report.detail}
    work.execute(changed.values(values))


_WELL: Mapping[str, Any] = {"failing_since": None, "warned_at": None, "fault": ""}


# --- Endpoints, which owners manage


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as its page shows it."""

    id: str
    url: str
    target: str
    events: tuple[str, ...]
    is_active: bool
    gone_at: datetime | None
    failing_since: datetime | None
    fault: str
    paused_at: datetime | None
    old_secret_until: datetime | None
    created_at: datetime
    queue: str  # the target of its deliveries

    @property
    def pauses_at(self) -> datetime | None:
        """Return when it is paused if it goes on failing."""
        return self.failing_since + PAUSE_AFTER if self.failing_since is not None else None

    @property
    def words(self) -> list[str]:
        """Return what it is sent, in plain words."""
        return [EVENTS[event] for event in self.events if event in EVENTS]


@dataclass(frozen=True)
class EndpointSave:
    """The id of an endpoint that was saved, and its secret if that is new; or by field, why nothing was."""

    id: str = ""
    secret: str = field(default="", repr=False)
    faults: Mapping[str, str] = field(default_factory=dict)


class Endpoints(HookService):
    """Create, change, test and delete endpoints. ``admin_id`` is the owner who acts; all owners are notified (R44)."""

    events = EVENTS

    def all(self) -> list[Endpoint]:
        """Return every endpoint, the oldest first."""
        with self._transactions.read() as work:
            found = work.execute(select(WebhookEndpoint.__table__).order_by(WebhookEndpoint.id)).all()
            return [_endpoint(work, row) for row in found]

    def get(self, endpoint: str) -> Endpoint:
        """Return one. Raise NotFound."""
        with self._transactions.read() as work:
            return _endpoint(work, _stored(work, endpoint))

    def create(self, url: str, events: Collection[str], admin_id: str | None) -> EndpointSave:
        """Create an endpoint with a secret, which is shown once; or return by field what is wrong."""
        if faults := self._faults(url, events):
            return EndpointSave(faults=faults)
        secret, target = new_secret(), _host_of(url)
        with self._transactions.write() as work:
            if work.execute(select(func.count()).select_from(WebhookEndpoint)).scalar_one() >= MOST_ENDPOINTS:
                return EndpointSave(faults={"url": f"There are {MOST_ENDPOINTS} webhooks already. Delete one first."})
            row = {
                "id": (endpoint := work.new_id()),
                "secret_sealed": work.seal(secret, ENDPOINT_SECRET, endpoint),
                **_values(work, endpoint, url, events),
                "is_active": True,
                "fault": "",
                "made_by": admin_id,
                "created_at": work.now,
            }
            work.execute(insert(WebhookEndpoint).values(row))
            self._changed(work, "webhook_endpoint_created", "A webhook was created", endpoint, target, events, admin_id)
        return EndpointSave(endpoint, secret)

    def change(
        self, endpoint: str, url: str, events: Collection[str], *, is_active: bool, admin_id: str | None
    ) -> EndpointSave:
        """Change address, events, and whether it is on; or return by field what is wrong. Raise NotFound.

        What waits for it goes to the new address, or nowhere if it is off.
        """
        if faults := self._faults(url, events):
            return EndpointSave(faults=faults)
        with self._transactions.write() as work:
            _stored(work, endpoint)
            values = {**_values(work, endpoint, url, events), "is_active": is_active, "gone_at": None}
            values |= {**_WELL, "paused_at": None}
            work.execute(update(WebhookEndpoint).where(WebhookEndpoint.id == endpoint).values(values))
            kind = "webhook_endpoint_changed" if is_active else "webhook_endpoint_off"
            subject = "A webhook was changed" if is_active else "A webhook was switched off"
            self._changed(work, kind, subject, endpoint, _host_of(url), events, admin_id)
        return EndpointSave(endpoint)

    def renew_secret(self, endpoint: str, admin_id: str | None) -> str:
        """Replace the secret; return the new one, which is shown once. The old one signs too for a day.

        Raise NotFound.
        """
        secret = new_secret()
        with self._transactions.write() as work:
            row = _stored(work, endpoint)
            old = work.open(row.secret_sealed, ENDPOINT_SECRET, endpoint)
            values = {
                "secret_sealed": work.seal(secret, ENDPOINT_SECRET, endpoint),
                "old_secret_sealed": work.seal(old, ENDPOINT_OLD_SECRET, endpoint),
                "old_secret_until": work.now + OVERLAP,
                "changed_at": work.now,
            }
            work.execute(update(WebhookEndpoint).where(WebhookEndpoint.id == endpoint).values(values))
            kind, subject = "webhook_endpoint_secret_renewed", "A webhook's secret was replaced"
            self._changed(work, kind, subject, endpoint, row.target, row.events.split(), admin_id)
        return secret

    def delete(self, endpoint: str, admin_id: str | None) -> None:
        """Delete an endpoint; what waits for it is not sent. Raise NotFound."""
        with self._transactions.write() as work:
            row = _stored(work, endpoint)
            work.execute(delete(WebhookEndpoint).where(WebhookEndpoint.id == endpoint))
            kind, subject = "webhook_endpoint_deleted", "A webhook was deleted"
            self._changed(work, kind, subject, "", row.target, row.events.split(), admin_id)

    def test(self, endpoint: str, admin_id: str | None) -> str:
        """Put a test message for one into the outbox, even if it is off; return the id of its delivery.

        Raise NotFound.
        """
        with self._transactions.write() as work:
            row = _stored(work, endpoint)
            work.record("webhook_endpoint_tested", admin_id=admin_id, endpoint=endpoint, to=row.target)
            program = Program.of(row)._replace(is_paused=False)
            return add(work, replace(new_event(work, program, TEST_EVENT, {}), give_up_at=work.now + TEST_LIFETIME))

    def resume(self, endpoint: str, admin_id: str | None) -> None:
        """Send events to a paused endpoint again. Raise NotFound."""
        with self._transactions.write() as work:
            row = _stored(work, endpoint)
            if row.paused_at is not None:
                resumed = {**_WELL, "paused_at": None, "changed_at": work.now}
                work.execute(update(WebhookEndpoint).where(WebhookEndpoint.id == endpoint).values(resumed))
                kind, subject = "webhook_endpoint_resumed", "A webhook was resumed"
                self._changed(work, kind, subject, endpoint, row.target, row.events.split(), admin_id)

    def lost(self, endpoint: str) -> tuple[int, bool]:
        """Return how many events for an endpoint were given up, and whether that is exact. Raise NotFound."""
        with self._transactions.read() as work:
            queue = Program.of(_stored(work, endpoint)).queue
            newest = _LOST.order_by(Delivery.id.desc()).limit(LOST_LOOKED_AT).subquery()
            counted = select(func.count(), func.sum(case((newest.c.target == queue, 1), else_=0))).select_from(newest)
            looked_at, found = work.execute(counted).one()
        return found or 0, looked_at < LOST_LOOKED_AT

    def replay(self, endpoint: str, admin_id: str | None) -> int:
        """Put events that were given up back into the outbox, the oldest first; return how many.

        At most REPLAY_MOST; what the customer of an event was erased with is not sent. Raise NotFound.
        """
        after, count, ids = "", 0, [""]
        with self._transactions.read() as work:
            row = _stored(work, endpoint)
        mine = _LOST.where(Delivery.target == Program.of(row).queue).order_by(Delivery.id).limit(REPLAYED_AT_ONCE)
        while ids and count < REPLAY_MOST:
            with self._transactions.read() as work:
                ids = list(work.execute(mine.where(Delivery.id > after)).scalars())
            with self._transactions.write() as work:
                count += sum(put_back(work, one, LOST, work.now + EVENT_LIFETIME) for one in ids)
            after = max(ids, default=after)
        with self._transactions.write() as work:
            work.record(
                "webhook_endpoint_replayed", admin_id=admin_id, endpoint=endpoint, to=row.target, deliveries=count
            )
        return count

    def _faults(self, url: str, events: Collection[str]) -> dict[str, str]:
        faults = {}
        try:
            if urlsplit(url).scheme not in ("https", "http") or not _host_of(url) or len(url) > LONGEST_URL:
                example = "https://crm.example/hook"
                faults["url"] = f"Enter an address such as {example}, of at most {LONGEST_URL} characters."
            else:
                self._outbound.check_origin(url)
        except (Misconfigured, ValueError) as fault:
            faults["url"] = str(fault)
        if not events or not set(events) <= EVENTS.keys():
            faults["events"] = "Choose at least one event."
        return faults

    def _changed(
        self,
        work: Work,
        kind: str,
        subject: str,
        endpoint: str,
        target: str,
        events: Collection[str],
        admin_id: str | None,
    ) -> None:
        """Record an act, mail all owners, and let every process know."""
        work.execute(READ_AGAIN)
        listed = [event for event in EVENTS if event in events]
        work.record(kind, admin_id=admin_id, endpoint=endpoint, to=target, events=listed)
        lines = [f"To {target}: {', '.join(listed)}."]
        self._notify_owners(work, subject, lines, admin_id, [f"{PAGE}/webhooks/{endpoint}" if endpoint else PAGE])


_LOST = select(Delivery.id, Delivery.target).where(
    text(NOT_ACCEPTED), Delivery.kind == EVENT, Delivery.state.in_(LOST), Delivery.body_sealed.is_not(None)
)


def _stored(work: Work, endpoint: str) -> Any:
    row = work.execute(select(WebhookEndpoint.__table__).where(WebhookEndpoint.id == endpoint)).one_or_none()
    if row is None:
        raise NotFound("webhook_unknown")
    return row


def _endpoint(work: Work, row: Any) -> Endpoint:
    """Return an endpoint as pages show it; without its address if someone other than the portal has written that."""
    try:
        url = work.open(row.url_sealed, ENDPOINT_URL, row.id)
    except ROW_FAULTS:
        url = ""
    overlap = row.old_secret_until if row.old_secret_until is not None and row.old_secret_until > work.now else None
    return Endpoint(
        id=row.id,
        url=url,
        target=row.target,
        events=tuple(row.events.split()),
        is_active=row.is_active,
        gone_at=row.gone_at,
        failing_since=row.failing_since,
        fault=row.fault,
        paused_at=row.paused_at,
        old_secret_until=overlap,
        created_at=row.created_at,
        queue=Program.of(row).queue,
    )


def _values(work: Work, endpoint: str, url: str, events: Collection[str]) -> dict[str, Any]:
    return {
        "target": _host_of(url),
        "url_sealed": work.seal(url, ENDPOINT_URL, endpoint),
        "events": " ".join(event for event in EVENTS if event in events),
        "changed_at": work.now,
    }


def _host_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2][:255]


def new_secret() -> str:
    """Return a secret of 256 bits, as Standard Webhooks writes it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the header ``webhook-signature``: the HMAC-SHA256 of ``<id>.<timestamp>.<body>`` under the secret."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"
