"""A disk that is full, a database that goes away, a Flow that hangs: nothing half-done, one clear page or line."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event

from auth_portal.store.models import Attempt, CustomerRow, Delivery, Verification
from tests.postgres import MASTER_KEY
from tests.programs import ROOT
from tests.receiver import wait_for
from tests.security.test_races import rows
from tests.security.tools import logged
from tests.web.test_way import told
from tests.world import World


def test_a_full_disk_is_one_page_and_loses_nothing(small_world: World) -> None:
    """SQLite's own limit on pages gives the error that a full disk gives, at the same place."""
    engine = small_world.services.transactions.database.engine
    is_full = True

    def fill(connection: Connection, *_: object) -> None:
        driver: Any = connection.connection.dbapi_connection
        (pages,) = driver.execute("PRAGMA page_count").fetchone()
        driver.execute(f"PRAGMA max_page_count={pages if is_full else 2**30}")

    event.listen(engine, "before_cursor_execute", fill)
    browser = small_world.browser()
    browser.open("abc")
    statuses = []
    for number in range(60):
        statuses.append(browser.post("/", follow=False, identifier="C-1001", reference=f"abc{number}").status_code)
        if statuses[-1] == 503:
            break
        browser.open("abc")
    assert statuses[-1] == 503
    assert "Nothing was lost" in browser.page.text
    before = len(small_world.rows(Verification))
    is_full = False
    browser.open("abc")
    browser.post("/", decline="not_me", identifier="", reference="after")
    assert len(small_world.rows(Verification)) == before + 1
    wait_for(lambda: any(call.header == "after" for call in small_world.receiver.callbacks))


def test_d12_a_commit_that_fails_is_not_in_the_log(small_world: World) -> None:
    """As many ``verification_ended`` lines as rows, whichever commits the disk refused."""
    engine = small_world.transactions.database.engine
    refusals = iter([True, True, False] * 10)

    def refuse(_connection: object) -> None:
        if next(refusals, False):
            raise sqlite3.OperationalError("database or disk is full")

    browsers = [small_world.browser() for _ in range(9)]
    for number, browser in enumerate(browsers):
        browser.open(f"r{number}")
    event.listen(engine, "commit", refuse)
    with logged() as log:
        statuses = [
            browser.post("/", follow=False, decline="not_me", identifier="").status_code for browser in browsers
        ]
        event.remove(engine, "commit", refuse)
    ended = [row for row in small_world.rows(Verification) if row.outcome]
    assert 0 < len(ended) < len(browsers)
    assert statuses.count(303) == len(ended)
    assert log.getvalue().count('"verification_ended"') == len(ended)


def test_an_import_on_a_full_disk_is_one_line_and_changes_nothing(tmp_path: Path, sqlite_url: str) -> None:
    file = tmp_path / "many.csv"
    file.write_text("customer_id,name\n" + "\n".join(f"C-{n},{'x' * 100}" for n in range(20_000)))
    size = (tmp_path / "portal.db").stat().st_size + 500_000
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", "customers", "import", str(file)],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")},
            "PORTAL_INSTANCE": str(tmp_path),
            "PORTAL_DATABASE_URL": sqlite_url,
            "PORTAL_SECRET_KEYS": MASTER_KEY,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("auth-portal: ")
    assert rows(sqlite_url, CustomerRow) == []


def test_a_flow_that_hangs_is_unclear_after_eight_seconds(small_world: World) -> None:
    small_world.receiver.answers = ["hang"]
    browser = small_world.browser()
    browser.begin("abc", "app")
    browser.prove(small_world.totp())
    told(small_world)
    wait_for(lambda: small_world.rows(Attempt)[0].ended_at, 12)
    first = small_world.rows(Attempt)[0]
    assert first.fate == "unclear"
    assert 7_000 < first.milliseconds < 9_500
    assert told(small_world, 2).raw == told(small_world).raw
    wait_for(lambda: small_world.rows(Delivery)[0].state == "accepted")
