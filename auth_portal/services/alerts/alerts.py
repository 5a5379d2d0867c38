"""Alerts: what goes wrong without anybody looking is told once when it begins, and once when it is over.

Every process evaluates in turn, one of them each 15 seconds; an alert is a row, and whoever writes or ends it puts the
mails and the webhook into the outbox in the same transaction, so that any number of processes tells of it once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, text, update

from auth_portal.clock import Clock, iso
from auth_portal.crypto import Keyring
from auth_portal.services import audit, limits
from auth_portal.services.alerts.conditions import Finding, findings, is_over_without
from auth_portal.services.alerts.webhooks import Webhooks
from auth_portal.services.journeys import Journeys
from auth_portal.services.limits import Limit
from auth_portal.services.notices import Notices
from auth_portal.store.db import Database, new_id, upsert
from auth_portal.store.models import AlertRow, table_of
from auth_portal.telemetry import log_event

EVERY_SECONDS = 15
MOST_SHOWN = 50  # open alerts on a page; there is one for each server, channel and country at most
TURN = Limit("alerts-turn", 1, EVERY_SECONDS)
LINKS = {"callbacks": "/admin/deliveries", "spent_credentials": "/admin/audit"}


@dataclass(frozen=True)
class Alert:
    """Something that goes wrong now. ``subject`` is the server or channel, ``link`` the page that helps."""

    kind: str  # callbacks | channel | cap | spent_credentials
    subject: str
    since: datetime
    text: str
    link: str


class Alerts:
    """Notices what goes wrong, and tells of it."""

    def __init__(
        self, database: Database, keyring: Keyring, clock: Clock, journeys: Journeys, notices: Notices,
        webhooks: Webhooks, *, public_url: str,
    ) -> None:  # fmt: skip
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._journeys = journeys
        self._notices = notices
        self._webhooks = webhooks
        self._public_url = public_url
        self._looked_at: datetime | None = None

    def open(self, now: datetime) -> list[Alert]:
        """What goes wrong at this moment, the newest first."""
        query = select(AlertRow.__table__).where(AlertRow.ended_at.is_(None), AlertRow.since <= now)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(AlertRow.id.desc()).limit(MOST_SHOWN)).all()
        return [_alert(row) for row in rows]

    def evaluate(self) -> None:
        """Looks at everything where it is time to and this process's turn. Never raises an alert twice."""
        now = self._clock()
        if self._looked_at is not None and (now - self._looked_at).total_seconds() < EVERY_SECONDS:
            return
        self._looked_at = now
        with self._database.write() as connection:
            (taken,) = limits.take(connection, now, [TURN])
        if not taken.is_over:
            self._look(now)

    def _look(self, now: datetime) -> None:
        snapshot = self._journeys.current()
        with self._database.read() as connection:
            found = findings(connection, snapshot, now)
            opened = {
                (row.kind, row.subject): row
                for row in connection.execute(select(AlertRow.__table__).where(AlertRow.ended_at.is_(None)))
            }
        for finding in found:
            if finding.is_bad and finding.name not in opened:
                self._begin(finding, now)
        known = {finding.name: finding for finding in found}
        for name, row in opened.items():
            if name not in known:
                if is_over_without(row.kind):
                    self._end(row, now, is_told=False)
            elif not known[name].is_bad:
                self._end(row, now, is_told=True)

    def _begin(self, finding: Finding, now: datetime) -> None:
        values = {
            "id": new_id(now), "kind": finding.kind, "subject": finding.subject, "words": finding.words, "since": now,
        }  # fmt: skip
        with self._database.write() as connection:
            insert = upsert(connection.dialect.name, table_of(AlertRow)).values(values)
            written = insert.on_conflict_do_nothing(
                index_elements=["kind", "subject"], index_where=text("ended_at IS NULL")
            ).returning(AlertRow.__table__)
            if (row := connection.execute(written).one_or_none()) is not None:
                self._tell(connection, now, row, "opened")

    def _end(self, row: Any, now: datetime, *, is_told: bool) -> None:
        ended = (
            update(AlertRow)
            .where(AlertRow.id == row.id, AlertRow.ended_at.is_(None))
            .values(ended_at=now)
            .returning(AlertRow.id)
        )
        with self._database.write() as connection:
            if connection.execute(ended).one_or_none() is not None and is_told:
                self._tell(connection, now, row, "closed")

    def _tell(self, connection: Connection, now: datetime, row: Any, event: str) -> None:
        alert, portal = _alert(row), self._journeys.current().portal
        log_event(f"alert_{event}", level=logging.WARNING, kind=alert.kind, subject=alert.subject)
        audit.record(connection, self._keyring, now, f"alert_{event}", alert=alert.kind, subject=alert.subject)
        is_over = event == "closed"
        words = f"Over since {portal.wall.told(now)}: {alert.text}" if is_over else alert.text
        link = f"{self._public_url}{alert.link}"
        if portal.alerts.email:
            subject = f"{'Over' if is_over else 'Alert'}: {_TITLES[alert.kind]} ({alert.subject})"
            self._notices.to_owners(connection, now, subject, [words, f"Since {portal.wall.told(alert.since)}.", link])
        if portal.alerts.webhook:
            content = {
                "type": f"alert.{event}", "timestamp": iso(now),
                "data": {
                    "id": row.id, "portal": portal.name, "kind": alert.kind, "subject": alert.subject,
                    "since": iso(alert.since), "text": words, "link": link,
                },
            }  # fmt: skip
            self._webhooks.add(connection, now, portal.alerts.webhook, content)


_TITLES = {
    "callbacks": "results do not reach the chat",
    "channel": "a channel fails",
    "cap": "a channel's daily cap",
    "spent_credentials": "many wrong tries",
}


def _alert(row: Any) -> Alert:
    link = f"/admin/channels/{row.subject.split()[0]}" if row.kind in ("channel", "cap") else LINKS[row.kind]
    return Alert(row.kind, row.subject, row.since, row.words, link)
