"""The sealed audit trail (E4): each attack by SQL on a real connection, and what the operator's command says about it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from auth_portal import cli
from auth_portal.crypto import Keyring, MasterKeys
from auth_portal.services.audit_chain import BLOCK_EVENTS, LEASE, BrokenChain, Sealer
from auth_portal.services.history import audit_check
from auth_portal.services.history.audit_check import AuditChecks
from auth_portal.services.operations.installation import upgrade
from auth_portal.services.operations.retention import prune
from auth_portal.services.serving import build
from auth_portal.settings import Settings
from auth_portal.store.db import Database, Transactions, Work
from auth_portal.store.keys import load_keyring
from auth_portal.store.models import AuditBlock, AuditEvent
from tests.postgres import MASTER_KEY
from tests.security.test_races import rows, together
from tests.test_migrations import migrated
from tests.world import FakeClock, wrap_as_before_macs

DAY = 86_400


class Trail:
    """An installed portal whose events are sealed when the test says so, and its operator."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder, self.clock = url, folder, FakeClock()
        self.opened: list[Database] = []
        self.transactions = self.connected(self.clock)
        self.sealer = Sealer(self.transactions)

    def connected(self, clock: Callable[[], datetime]) -> Transactions:
        """The same portal in what would be another process."""
        database = Database(self.url)
        self.opened.append(database)
        return Transactions(database, load_keyring(database, MasterKeys((MASTER_KEY,))), clock)

    def record(self, count: int = 1, at: datetime | None = None) -> None:
        with self.transactions.write() as work:
            for number in range(count):
                Work(work.connection, at or work.now, work.keyring, work.counts).record("numbered", number=number)

    def seal(self) -> None:
        while self.sealer.seal():
            pass

    def filled(self, blocks: int = 3, events: int = 3) -> None:
        for _ in range(blocks):
            self.record(events)
            self.seal()
            self.clock.advance(1)

    def sql(self, *statements: str) -> None:
        with self.transactions.database.write() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def ids(self, where: str = "1 = 1") -> list[str]:
        with self.transactions.database.read() as connection:
            return list(connection.execute(text(f"SELECT id FROM audit_events WHERE {where} ORDER BY id")).scalars())

    def command(self, *args: str) -> Result:
        app = Flask(__name__)
        cli.register(app, partial(build, clock=self.clock), self.clock)
        environment = {
            "PORTAL_INSTANCE": str(self.folder),
            "PORTAL_DATABASE_URL": self.url,
            "PORTAL_SECRET_KEYS": MASTER_KEY,
        }
        return app.test_cli_runner().invoke(args=list(args), env=environment)

    def faults(self, *args: str) -> list[str]:
        """What `audit verify` names; its exit status says the same."""
        result = self.command("audit", "verify", *args)
        lines = [line.removeprefix("auth-portal: ") for line in result.stderr.splitlines()]
        assert result.exit_code == (1 if lines else 0), result.output
        return lines

    def file(self, content: str) -> str:
        path = self.folder / "heads"
        path.write_text(content)
        return str(path)


@pytest.fixture
def trail(database_url: str, tmp_path: Path) -> Iterator[Trail]:
    made = Trail(database_url, tmp_path)
    yield made
    for database in made.opened:
        database.close()


def test_e4_what_nobody_touched_holds_and_what_waits_is_named(trail: Trail) -> None:
    trail.filled()
    trail.record(2)
    result = trail.command("audit", "verify")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "11 events in 4 blocks checked, 0 faults found.",  # with the one that says what was there before
        "2 events since 2026-11-22T12:00:03Z are not sealed yet. If one was deleted, that doesn't show.",
    ]


ID = "(SELECT id FROM audit_events ORDER BY id LIMIT 1 OFFSET {0})"
COPY = "INSERT INTO audit_events SELECT {0} FROM audit_events WHERE id = " + ID.format(0)
NAMES = ("id", "at", "kind", "verification_id", "subject_id", "admin_id", "facts", "mac", "block")


def copied(**values: str) -> str:
    return COPY.format(", ".join(values.get(name, name) for name in NAMES)).replace(
        "INTO audit_events", f"INTO audit_events ({', '.join(NAMES)})"
    )


ATTACKS: dict[str, tuple[list[str], str]] = {
    "one row deleted": ([f"DELETE FROM audit_events WHERE id = {ID.format(4)}"], "was deleted"),
    "the first row deleted": ([f"DELETE FROM audit_events WHERE id = {ID.format(0)}"], "was deleted"),
    "all rows deleted": (["DELETE FROM audit_events"], "All 3 events of block 1 were deleted."),
    "all rows and blocks deleted": (
        ["DELETE FROM audit_events", "DELETE FROM audit_blocks"],
        "Blocks 1 to 3 were deleted.",
    ),
    "everything deleted": (
        ["DELETE FROM audit_events", "DELETE FROM audit_blocks", "DELETE FROM audit_chain"],
        "its row in the table audit_chain is missing",
    ),
    "the end cut off": (
        ["DELETE FROM audit_events WHERE block = 3", "DELETE FROM audit_blocks WHERE number = 3"],
        "Block 3 was deleted.",
    ),
    "the beginning cut off": (
        ["DELETE FROM audit_events WHERE block = 1", "DELETE FROM audit_blocks WHERE number IN (0, 1)"],
        "Blocks 0 to 1 were deleted.",
    ),
    "the first block deleted": (["DELETE FROM audit_blocks WHERE number = 0"], "Block 0 was deleted."),
    "the beginning cut off as by retention": (
        [
            "DELETE FROM audit_events WHERE block = 1",
            "DELETE FROM audit_blocks WHERE number = 1",
            "UPDATE audit_chain SET cut_number = 1, cut_head = last_head",
        ],
        "its row in the table audit_chain was changed",
    ),
    "the middle cut out and numbered again": (
        [
            "DELETE FROM audit_events WHERE block = 2",
            "DELETE FROM audit_blocks WHERE number = 2",
            "UPDATE audit_blocks SET number = 2 WHERE number = 3",
            "UPDATE audit_events SET block = 2 WHERE block = 3",
            "UPDATE audit_chain SET last_number = 2",
        ],
        "was changed",
    ),
    "an event edited": ([f"UPDATE audit_events SET kind = 'x' WHERE id = {ID.format(2)}"], "was changed"),
    "a time edited": ([f"UPDATE audit_events SET at = '2026-01-01 00:00:00' WHERE id = {ID.format(2)}"], "was changed"),
    "an event and its block's list edited": (
        [
            f"DELETE FROM audit_events WHERE id = {ID.format(0)}",
            "UPDATE audit_blocks SET events = '[]' WHERE number = 1",
        ],
        "Block 1 was changed",
    ),
    "two events swapped": (
        [
            f"UPDATE audit_events SET id = 'x' WHERE id = {ID.format(0)}",
            f"UPDATE audit_events SET id = (SELECT substr(min(id), 1, 31) || 'x' FROM audit_events WHERE block = 2) "
            f"WHERE id = {ID.format(1)}",
        ],
        "was deleted",
    ),
    "an event moved to another block": (
        [f"UPDATE audit_events SET block = 3 WHERE id = {ID.format(0)}"],
        "was moved to another block",
    ),
    "an event taken out of its block": (
        [f"UPDATE audit_events SET block = NULL WHERE id = {ID.format(0)}"],
        "was moved to another block",
    ),
    "two blocks swapped": (
        [
            "UPDATE audit_blocks SET number = 9 WHERE number = 1",
            "UPDATE audit_blocks SET number = 1 WHERE number = 2",
            "UPDATE audit_blocks SET number = 2 WHERE number = 9",
        ],
        "Block 1 was changed after it was sealed.",
    ),
    "an event appended": ([copied(id="'f' || substr(id, 2)", block="NULL")], "or never recorded"),
    "an event added to a block": ([copied(id="'f' || substr(id, 2)", block="2")], "was added after its block"),
    "an event added to a block to come": ([copied(id="'f' || substr(id, 2)", block="99")], "was added after its block"),
    "a block appended": (
        ["INSERT INTO audit_blocks SELECT 4, at, events, digest, note, head FROM audit_blocks WHERE number = 3"],
        "Blocks were added after block 3.",
    ),
    "a note edited": (["UPDATE audit_blocks SET note = 'nothing before' WHERE number = 0"], "Block 0 was changed"),
    "an HMAC replaced": ([f"UPDATE audit_events SET mac = '{'0' * 64}' WHERE id = {ID.format(0)}"], "was changed"),
}


# What someone changes so that retention removes it, and signs that it did.
LAUNDRY: dict[str, tuple[str, str]] = {
    "blocks that claim to be old": ("UPDATE audit_blocks SET at = '2020-01-01 00:00:00'", "block 1, or the one"),
    "a later block that claims to be old": ("UPDATE audit_blocks SET at = '2020-01-01' WHERE number = 3", ""),
    "a block whose list has only old events": (
        "UPDATE audit_blocks SET events = '[\"0\"]' WHERE number = 1",
        "block 1, or",
    ),
    "an empty block": ("UPDATE audit_blocks SET events = '[]' WHERE number = 1", "block 1, or the one before it"),
    "another beginning": ("UPDATE audit_blocks SET head = digest WHERE number = 0", "block 1, or the one before it"),
    "the oldest block deleted": ("DELETE FROM audit_blocks WHERE number = 1", "block 1 was deleted"),
}


def audit_trail_of(doctor: Result) -> str:
    """What the doctor says about it."""
    return next(line for line in doctor.stdout.splitlines() if " audit trail: " in line)


@pytest.mark.parametrize("attack", LAUNDRY)
def test_e4_retention_removes_no_block_that_someone_changed(trail: Trail, attack: str) -> None:
    statement, words = LAUNDRY[attack]
    trail.filled()
    trail.sql(statement)
    found = trail.faults()
    assert found
    assert prune(trail.transactions)["audit events"] == 0
    assert trail.faults() == found
    said = audit_trail_of(trail.command("doctor"))
    assert (words in said and said.startswith("FAIL")) if words else said.startswith("ok"), said


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM audit_events WHERE block = 2", "3 events of block 2 were deleted"),
        (f"DELETE FROM audit_events WHERE id = {ID.format(4)}", "1 events of block 2 were deleted"),
        (f"UPDATE audit_events SET mac = '{'0' * 64}' WHERE id = {ID.format(4)}", "events of block 2 were changed"),
    ],
)
def test_e4_retention_stops_before_a_block_that_lacks_events(trail: Trail, statement: str, words: str) -> None:
    trail.filled()
    trail.sql(statement)
    found = trail.faults()
    trail.clock.advance(400 * DAY)
    assert prune(trail.transactions)["audit events"] == 3  # of block 1
    assert trail.faults() == found
    assert words in audit_trail_of(trail.command("doctor"))
    assert trail.command("audit", "restart", "--yes").exit_code == 0
    assert audit_trail_of(trail.command("doctor")).startswith("ok")


def test_e4_what_an_old_process_removed_during_an_upgrade_does_not_stop_retention(trail: Trail) -> None:
    trail.record(3, at=trail.clock() - timedelta(seconds=400 * DAY))
    trail.record(2, at=trail.clock() - timedelta(seconds=390 * DAY))
    trail.seal()
    trail.sql("DELETE FROM audit_events WHERE at < '2025-10-25'")  # as it cleaned up: 396 days
    trail.clock.advance(7 * DAY)
    assert prune(trail.transactions)["audit events"] == 5
    assert trail.ids() == []
    assert trail.faults() == []


def test_e4_a_lease_that_is_held_for_ever_is_reported(trail: Trail) -> None:
    """As if another sealer were at work: always shorter than what no clock is ahead."""
    trail.filled()
    trail.record(2)
    assert audit_trail_of(trail.command("doctor")).startswith("ok")
    for _ in range(13):
        until = trail.clock() + timedelta(seconds=9)
        trail.sql(f"UPDATE audit_chain SET holder = 'x', leased_until = '{until:%Y-%m-%d %H:%M:%S}+00:00'")
        trail.seal()
        assert len(trail.ids("block IS NULL")) == 2
        trail.clock.advance(5)
    (fault,) = trail.faults()
    assert fault.startswith("Audit events have waited 65 s to be sealed")
    assert "Audit events have waited 65 s" in audit_trail_of(trail.command("doctor"))
    later = trail.clock() + timedelta(seconds=1)
    trail.sql(f"UPDATE audit_blocks SET at = '{later:%Y-%m-%d %H:%M:%S}+00:00' WHERE number IN (0, 3)")
    assert "Audit events have waited" in audit_trail_of(trail.command("doctor"))


def test_e4_events_that_are_sealed_slowly_are_no_fault_for_an_hour(trail: Trail) -> None:
    """A long import commits events that are minutes old; blocks of them follow each other."""
    trail.record(BLOCK_EVENTS + 1, at=trail.clock() - timedelta(minutes=10))
    trail.sealer.seal()
    assert trail.faults() == []
    trail.clock.advance(61)
    assert "have waited" in trail.faults()[0]
    trail.seal()
    trail.record(at=trail.clock() - timedelta(minutes=61))
    trail.clock.advance(3600)
    assert "have waited" in trail.faults()[0]


def test_e4_what_is_sealed_during_a_check_is_no_fault(trail: Trail) -> None:
    trail.filled()
    trail.record()
    other, is_sealed = Sealer(trail.connected(trail.clock)), False
    trail.clock.advance(LEASE.total_seconds() + 1)
    checks = AuditChecks(trail.transactions)

    @event.listens_for(trail.transactions.database.engine, "after_cursor_execute")
    def seal_once(_connection: Any, _cursor: Any, statement: str, *_: object) -> None:
        nonlocal is_sealed
        if not is_sealed and "audit_" in statement:
            is_sealed = True
            other.seal()

    assert [fault for found in checks.check_all() for fault in found.faults] == []
    assert trail.ids("block IS NULL") == []


def test_e4_every_event_that_waits_is_checked(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_check, "CHECKED_AT_ONCE", 3)  # 5,000 take long to write
    trail.record(8)
    trail.sql(f"UPDATE audit_events SET kind = 'x' WHERE id = {ID.format(7)}")
    assert len(trail.faults()) == 1
    assert "8 events since" in trail.command("audit", "verify").stdout


@pytest.mark.parametrize("attack", ATTACKS)
def test_e4_an_attack_on_the_database_is_named(trail: Trail, attack: str) -> None:
    statements, words = ATTACKS[attack]
    trail.filled()
    assert trail.faults() == []
    trail.sql(*statements)
    found = trail.faults()
    assert [line for line in found if words in line], found


def test_e4_fifty_rows_are_named_with_their_time(trail: Trail) -> None:
    trail.filled(blocks=2, events=60)
    gone = trail.ids()[30:80]
    trail.sql(f"DELETE FROM audit_events WHERE id IN {tuple(gone)}")
    found = trail.faults()
    assert len(found) == 50
    assert f"Event {gone[0]} of 2026-11-22 12:00:00 UTC was deleted." in found


def test_e4_the_newest_head_stored_elsewhere_shows_a_rewritten_history(trail: Trail) -> None:
    """The chain alone cannot: an attacker who writes the database puts an older state back, or seals with its keys."""
    trail.filled(blocks=1)
    with trail.transactions.database.read() as connection:
        (older,) = connection.execute(text("SELECT last_number, last_head, mac FROM audit_chain")).all()
    trail.filled(blocks=2)
    heads = trail.file(trail.command("audit", "heads", "--newest").stdout)
    assert trail.faults("--heads", heads) == []
    back = f"last_number = {older.last_number}, last_head = '{older.last_head}', mac = '{older.mac}'"
    trail.sql(
        "DELETE FROM audit_events WHERE block > 1", "DELETE FROM audit_blocks WHERE number > 1",
        f"UPDATE audit_chain SET {back}",
    )  # fmt: skip
    assert trail.faults() == []
    assert trail.faults("--heads", heads) == ["Block 3 was deleted."]
    trail.filled(blocks=2)
    assert trail.faults() == []
    assert trail.faults("--heads", heads) == ["Block 3 is not the one whose head was exported."]


def test_e4_heads_are_read_from_the_log_too(trail: Trail, capsys: Any, caplog: Any) -> None:
    with caplog.at_level("INFO", "auth_portal"):
        trail.filled()
    logged = [record for record in caplog.records if record.message == "audit_sealed"]
    lines = [json.dumps({"event": record.message, **record.portal_fields}) for record in logged]
    printed = trail.command("audit", "heads").stdout.splitlines()
    assert [line.split()[0] for line in printed] == ["0", "1", "2", "3"]
    assert [f"{record.portal_fields['block']} {record.portal_fields['head']}" for record in logged] == printed[1:]
    heads = trail.file("\n".join(['{"event": "another"}', *lines, ""]))
    assert trail.faults("--heads", heads) == []
    assert "3 of 3 heads compared" in trail.command("audit", "verify", "--heads", heads).stdout
    result = trail.command("audit", "verify", "--heads", trail.file("what is this?"))
    assert (result.exit_code, result.stderr) == (2, "auth-portal: heads: line 1 is no head of a block\n")


def test_e4_what_commits_late_is_sealed_late_and_is_no_fault(trail: Trail) -> None:
    trail.record()
    before = trail.clock()
    trail.clock.advance(60)
    trail.record()
    trail.seal()
    trail.record(at=before - timedelta(days=1))  # a slow transaction, or a clock that is wrong
    trail.seal()
    assert trail.faults() == []
    assert [row.block for row in rows(trail.url, AuditEvent)].count(None) == 0


def test_e4_a_transaction_that_was_open_while_its_neighbours_were_sealed(postgres_url: str, tmp_path: Path) -> None:
    trail = Trail(postgres_url, tmp_path)
    other = trail.connected(trail.clock)
    with other.write() as slow:
        slow.record("slow")
        trail.filled(blocks=2)
        assert trail.faults() == []
    trail.seal()
    assert trail.faults() == []
    assert {row.kind: row.block for row in rows(trail.url, AuditEvent)} == {"numbered": 2, "slow": 3}
    for database in trail.opened:
        database.close()


def test_e4_two_dispatchers_seal_each_event_once(trail: Trail) -> None:
    sealers = [Sealer(trail.connected(trail.clock)) for _ in range(4)]
    for _ in range(3):
        trail.record(40)

        def seal(index: int) -> None:
            with suppress(TimeoutError):
                sealers[index].seal()

        together(4, seal)
        trail.clock.advance(LEASE.total_seconds() + 1)
    trail.sealer.seal()
    listed = [event_id for block in rows(trail.url, AuditBlock) for event_id in block.events]
    assert sorted(listed) == trail.ids()
    assert trail.faults() == []


def test_e4_one_dispatcher_leads_until_its_lease_is_over(trail: Trail) -> None:
    other = Sealer(trail.connected(trail.clock))
    trail.filled(blocks=1)
    trail.record()
    assert (other.seal(), trail.ids("block IS NULL") != []) == (False, True)
    trail.clock.advance(LEASE.total_seconds() + 1)
    other.seal()
    assert trail.ids("block IS NULL") == []
    trail.sql("UPDATE audit_chain SET holder = 'x', leased_until = '2099-01-01 00:00:00'")
    trail.record()
    trail.seal()
    assert trail.ids("block IS NULL") == []  # no one can stop the sealing with a lease


def test_e4_a_sealer_that_stands_still_past_its_lease(trail: Trail) -> None:
    """Inside the transaction, as a suspended process: the next one seals, and nothing is sealed twice or missed."""
    later = FakeClock()
    later.advance(LEASE.total_seconds() + 1)
    other, stands, goes_on = Sealer(trail.connected(later)), threading.Event(), threading.Event()
    trail.record(5)
    database = trail.transactions.database

    @event.listens_for(database.engine, "before_cursor_execute")
    def stand_still(_connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO audit_blocks") and not stands.is_set():
            if not database.is_sqlite:
                cursor.execute("SET LOCAL idle_in_transaction_session_timeout = '200ms'")  # 10 s is long for a test
            stands.set()
            goes_on.wait(20)

    def seal_slowly() -> None:
        with suppress(DBAPIError):
            trail.sealer.seal()

    held_up = threading.Thread(target=seal_slowly)
    held_up.start()
    assert stands.wait(20)
    if database.is_sqlite:  # no other writer passes the gate; it goes on within its time
        taking = threading.Thread(target=other.seal)
        taking.start()
        goes_on.set()
        taking.join()
    else:
        other.seal()
        assert trail.ids("block IS NULL") == []
        goes_on.set()
    held_up.join()
    trail.record(5)
    with suppress(DBAPIError):
        trail.sealer.seal()
    other.seal()
    listed = [event_id for block in rows(trail.url, AuditBlock) for event_id in block.events]
    assert sorted(listed) == trail.ids()
    assert trail.faults() == []


def test_e4_a_broken_chain_is_not_continued_until_it_is_restarted(trail: Trail) -> None:
    trail.filled()
    trail.sql("UPDATE audit_chain SET last_number = 2")
    trail.record()
    with pytest.raises(BrokenChain):
        trail.sealer.seal()
    doctor = trail.command("doctor")
    assert "FAIL audit trail: The chain is broken: its row in the table audit_chain was changed." in doctor.stdout
    assert trail.command("audit", "restart", "--yes").exit_code == 0
    trail.seal()
    assert trail.faults() == []
    assert "audit_chain_restarted" in [row.kind for row in rows(trail.url, AuditEvent)]
    assert "11 events were recorded before" in rows(trail.url, AuditBlock)[0].note


def test_e4_a_chain_that_is_missing_is_not_begun_again_unnoticed(trail: Trail) -> None:
    trail.filled()
    trail.sql("DELETE FROM audit_chain")
    trail.record()
    with pytest.raises(BrokenChain):
        trail.sealer.seal()
    assert trail.command("db", "upgrade").exit_code == 0
    assert len(trail.faults()) == 1


def test_e4_a_chain_that_was_deleted_with_its_events_is_not_begun_by_the_next_deployment(trail: Trail) -> None:
    trail.filled()
    for table in ("audit_events", "audit_blocks", "audit_chain"):
        trail.sql(f"DELETE FROM {table}")
    for command in (("db", "upgrade"), ("init",)):
        done = trail.command(*command)
        assert done.exit_code == 1
        assert "auth-portal audit restart" in done.output + done.stderr
    assert rows(trail.url, AuditBlock) == []
    assert trail.command("audit", "restart", "--yes").exit_code == 0
    assert trail.command("db", "upgrade").exit_code == 0


def test_e4_retention_cuts_whole_blocks_and_keeps_the_head_before_the_cut(trail: Trail) -> None:
    trail.filled(blocks=2)
    trail.clock.advance(200 * DAY)
    trail.filled(blocks=2)
    heads = trail.file(trail.command("audit", "heads").stdout)
    trail.clock.advance(200 * DAY)
    trail.filled(blocks=1)
    assert prune(trail.transactions)["audit events"] == 6
    assert {row.block for row in rows(trail.url, AuditEvent)} == {3, 4, 5}
    assert [row.number for row in rows(trail.url, AuditBlock)] == [0, 3, 4, 5]
    assert trail.faults() == []
    assert trail.faults("--heads", heads) == []
    trail.sql("DELETE FROM audit_events WHERE block = 3", "DELETE FROM audit_blocks WHERE number = 3")
    assert trail.faults() == ["Block 3 was deleted."]


def test_e4_an_event_that_retention_removed_cannot_come_back(trail: Trail) -> None:
    trail.filled(blocks=1, events=1)
    (old,) = rows(trail.url, AuditEvent)
    trail.clock.advance(400 * DAY)
    trail.filled(blocks=1)
    assert prune(trail.transactions)["audit events"] == 1
    with trail.transactions.database.write() as connection:
        connection.execute(AuditEvent.__table__.insert().values(**old._mapping))  # type: ignore[attr-defined]
    assert trail.faults() == [f"Event {old.id} was added after its block was sealed."]


def test_e4_events_of_an_older_version_are_sealed_as_they_were_found(database_url: str, tmp_path: Path) -> None:
    trail = Trail(database_url, tmp_path)
    trail.record(BLOCK_EVENTS + 10)
    migrated(trail.transactions.database, "0002")
    wrap_as_before_macs(trail.transactions.database)
    upgrade(Settings(instance=tmp_path, database_url=database_url, secret_keys=(MASTER_KEY,)), trail.clock)
    first = rows(database_url, AuditBlock)[0]
    assert first.note == (
        f"The chain begins here. {BLOCK_EVENTS + 10} events were recorded before; they are sealed as they were found."
    )
    trail.seal()
    assert [len(block.events) for block in rows(database_url, AuditBlock)] == [0, BLOCK_EVENTS, 10]
    assert trail.faults() == []
    for database in trail.opened:
        database.close()


def test_e4_the_master_keys_can_be_rotated(trail: Trail, keyring: Keyring) -> None:
    trail.filled()
    keys = f"another-master-key-that-is-long-enough,{MASTER_KEY}"
    app = Flask(__name__)
    cli.register(app, partial(build, clock=trail.clock), trail.clock)
    environment = {
        "PORTAL_INSTANCE": str(trail.folder), "PORTAL_DATABASE_URL": trail.url, "PORTAL_SECRET_KEYS": keys,
    }  # fmt: skip
    assert app.test_cli_runner().invoke(args=["keys", "rotate"], env=environment).exit_code == 0
    result = app.test_cli_runner().invoke(args=["audit", "verify"], env=environment)
    assert result.exit_code == 0, result.output
