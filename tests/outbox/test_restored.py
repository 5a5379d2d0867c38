"""A backup that is restored: what it does not know has happened is not done a second time (D14)."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from auth_portal.services.delivery.outbox import BULK_PRIORITY, NewDelivery, add
from auth_portal.services.operations.installation import close_restored
from auth_portal.store.models import AdminSession, AuditEvent, Delivery, Verification
from tests.admin.desk import signed_in
from tests.security.tools import deliver, expire
from tests.world import PHONE, World


class Backup:
    """The whole database as it was, put back as an operator would: into the same place, with no one connected."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._url = world.database.url
        if world.database.is_sqlite:
            self._copy = Path(f"{self._url.database}.backup")
            with (
                closing(sqlite3.connect(str(self._url.database))) as live,
                closing(sqlite3.connect(self._copy)) as copy,
            ):
                live.backup(copy)
            return
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        columns = "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND is_generated = 'NEVER'"
        self._rows: dict[str, tuple[str, str]] = {}
        with self._connect() as connection:
            for (name,) in connection.execute(tables).fetchall():
                chosen = ", ".join(f'"{column}"' for (column,) in connection.execute(columns, [name]).fetchall())
                found = connection.execute(f"SELECT coalesce(json_agg(t), '[]')::text FROM {name} AS t").fetchone()
                self._rows[name] = chosen, found[0]  # type: ignore[index]

    def restore(self) -> None:
        self._world.database.engine.dispose()
        self._world.transactions.database.engine.dispose()
        if self._world.database.is_sqlite:
            for ending in ("-wal", "-shm"):
                Path(f"{self._url.database}{ending}").unlink(missing_ok=True)
            shutil.copy(self._copy, str(self._url.database))
            return
        with self._connect() as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(f"TRUNCATE {', '.join(self._rows)} CASCADE")
            for name, (chosen, rows) in self._rows.items():
                fill = f"INSERT INTO {name} ({chosen}) SELECT {chosen} FROM json_populate_recordset(NULL::{name}, %s)"
                connection.execute(fill, [rows])

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._url.set(drivername="postgresql").render_as_string(hide_password=False))


def callback_of(world: World, verification: Any) -> Any:
    return next((row for row in world.rows(Delivery) if row.verification_id == verification.id), None)


def test_d14_a_backup_that_is_8_s_old_answers_nothing_twice(still: World) -> None:
    verified, cancelled, waiting = (still.browser() for _ in range(3))
    verified.begin("verified", "app")
    cancelled.begin("cancelled", "app")
    waiting.begin("waiting", "app")
    waiting.post("/verify/cancel", reason="cancelled")  # its result is in the outbox, and leaves a moment later
    backup = Backup(still)
    verified.prove(still.totp())
    cancelled.post("/verify/cancel", reason="cancelled")
    deliver(still)
    assert len(still.receiver.callbacks) == 3
    still.clock.advance(8)

    backup.restore()
    counts = close_restored(still.transactions)
    assert counts["live verifications ended"] == 2
    assert counts["results under way marked as unconfirmed"] == 1
    for seconds in (0, 60, 600, 600):
        still.clock.advance(seconds)
        expire(still)
        deliver(still)
    assert len(still.receiver.callbacks) == 3
    assert {row.outcome for row in still.rows(Verification)} == {"expired", "cancelled"}
    assert [row.state for row in still.rows(Delivery) if row.kind == "callback"] == ["unconfirmed"]
    (event,) = [row for row in still.rows(AuditEvent) if row.kind == "database_restored"]
    assert event.facts["live_verifications_ended"] == 2


def test_d14_what_was_open_then_opens_nothing_now(still: World) -> None:
    """A visit, a code, an authenticator code that was used since, and an admin's session."""
    desk = signed_in(still)
    browser, other = still.browser(), still.browser()
    browser.begin("by-sms")
    other.begin("by-app", "app")
    backup = Backup(still)
    deliver(still)
    code, totp = still.receiver.code_for(PHONE), still.totp()
    other.prove(totp)
    assert other.path == "/done"

    backup.restore()
    close_restored(still.transactions)
    browser.get("/verify")
    assert 'action="/verify"' not in browser.page.text
    assert other.get("/done").status_code != 200 or "verified" not in other.page.text.lower()
    assert not still.rows(AdminSession)
    assert "/admin/sign-in" in desk.get("/admin/").request.path or "password" in desk.page.text.lower()
    deliver(still)
    assert still.receiver.code_for(PHONE) == code, "no second message"
    replay = still.browser()
    replay.begin("again", "app")
    replay.prove(totp)
    assert replay.path == "/verify"
    still.clock.advance(90)
    replay.prove(still.totp())
    assert replay.path == "/done"


def test_d14_the_story_of_what_was_live_can_be_read(still: World) -> None:
    still.browser().begin("by-sms")
    close_restored(still.transactions)
    (row,) = still.rows(Verification)
    assert still.services.stories.get(row.id)


def test_d14_notices_and_webhooks_under_way_wait_for_an_admin(still: World) -> None:
    """They are sent again only if an admin says so."""
    notice = NewDelivery(
        kind="message",
        target="sms",
        body=json.dumps({"to": PHONE, "subject": "Changed", "text": "Your details"}),
        priority=BULK_PRIORITY,
        give_up_at=still.clock.now + timedelta(hours=1),
    )
    with still.services.transactions.write() as work:
        notice_id = add(work, notice)
        still.services.webhooks.add(work, "https://alerts.example/hook", {"type": "alert"})
    counts = close_restored(still.transactions)
    assert counts["other messages under way marked as unconfirmed"] == 2
    deliver(still)
    assert not still.receiver.messages
    assert {row.state for row in still.rows(Delivery)} == {"unconfirmed"}
    assert [one.refusal for one in still.services.retries.retry([notice_id], reason="not sent before")] == [""]
    deliver(still)
    assert len(still.receiver.messages) == 1
