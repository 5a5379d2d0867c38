"""A disk that is full: what could not be stored was not answered, not logged and not sent (D1, D12)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError

from auth_portal.store.models import Verification
from tests.receiver import Receiver
from tests.security.tools import STILL, deliver, logged
from tests.world import TOTP_SECRET, World, open_world

PEOPLE = 40
CUSTOMERS = "customer_id,totp_secret\n" + "".join(f"C-{number},{TOTP_SECRET}\n" for number in range(PEOPLE))


@contextmanager
def full_disk(world: World) -> Iterator[None]:
    """SQLite's own limit of pages: it answers as on a disk without room."""
    engine = world.database.engine, world.services.transactions.database.engine
    with world.database.read() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
    most = pages

    def limit(connection: Connection, *_: object) -> None:
        """Each connection has its own limit; after a fault writers open another one."""
        driver: Any = connection.connection.dbapi_connection
        driver.execute(f"PRAGMA max_page_count = {most}")

    for one in engine:
        event.listen(one, "before_cursor_execute", limit)
    yield
    most = 1_000_000


def test_d12_what_a_full_disk_refused_was_neither_logged_nor_sent_nor_lost(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL, customers=CUSTOMERS) as world, logged() as log:
        browsers = [world.browser() for _ in range(PEOPLE)]
        for number, browser in enumerate(browsers):
            browser.begin(f"r-{number}", "app", f"C-{number}")
        with full_disk(world):
            statuses = [browser.prove(world.totp()).status_code for browser in browsers]
            refused = [browser for browser, status in zip(browsers, statuses, strict=True) if status == 503]
            assert len(refused) > PEOPLE / 4, "there was room on the disk"
            assert all("Nothing was lost" in browser.page.text for browser in refused)
            assert ended(log.getvalue()) == stored(world) == PEOPLE - len(refused)
            with suppress(OperationalError):  # the dispatcher logs it, and looks again later
                deliver(world)
            assert len(receiver.callbacks) <= PEOPLE - len(refused)
        for browser in refused:  # they go back and press the button again
            browser.get("/verify")
            browser.prove(world.totp())
        world.clock.advance(30)  # what could not be recorded is tried again after its lease
        deliver(world)
        assert ended(log.getvalue()) == stored(world) == PEOPLE
        assert {call.header for call in receiver.callbacks} == {f"r-{number}" for number in range(PEOPLE)}
        assert {call.body["data"]["outcome"] for call in receiver.callbacks} == {"verified"}
        assert len({(call.header, call.raw) for call in receiver.callbacks}) == PEOPLE


def ended(lines: str) -> int:
    """How many verifications the log says have ended."""
    return sum(json.loads(line).get("event") == "verification_ended" for line in lines.splitlines())


def stored(world: World) -> int:
    """How many have ended in the database."""
    return sum(row.outcome is not None for row in world.rows(Verification))
