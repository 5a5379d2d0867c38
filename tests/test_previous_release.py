"""The release before goes on serving on the tables of this one, and what it has written is read.

``tests/releases/0.1.0.json`` holds the rows that release 0.1.0 itself wrote, driven through its own front door: those
``before`` the upgrade of the tables, and those that its processes added or changed ``after`` it. Here the first are
migrated, and the others are written with exactly the columns that 0.1.0 knows, as its own statements do.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, Connection, delete, insert, inspect, select, update

from auth_portal.clock import system_clock
from auth_portal.services.operations.installation import examine_macs, require_macs, upgrade
from auth_portal.services.serving import build
from auth_portal.settings import Settings, read_settings
from auth_portal.store.db import MIGRATIONS, Database, UtcDateTime, expected_revision, table_state
from auth_portal.store.models import (
    MESSAGE,
    Base,
    CustomerRow,
    Delivery,
    JourneyVersion,
    Portal,
    SchemaState,
    Verification,
)
from tests.admin.desk import ADMIN_ADDRESS, Desk
from tests.api.program import Program
from tests.postgres import MASTER_KEY
from tests.receiver import Receiver
from tests.security.tools import STILL, code_for, deliver, expire
from tests.services.steps import TERMS, stepped
from tests.test_backups import PROGRAMS
from tests.test_cli import Shell
from tests.test_migrations import migrated
from tests.world import PHONE, Browser, World, journey, open_configured

RECORDED = Path(__file__).parent / "releases" / "0.1.0.json"
LEFT_EMPTY = {"alerts"}  # tables of that release which its story left without a row


@cache
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDED.read_text())
    return found


def value_of(column: Any, value: Any, origin: str) -> Any:
    """A recorded value as this column takes it."""
    if isinstance(value, dict):
        return base64.b64decode(value["bytes"])
    if isinstance(value, str):
        value = value.replace("{receiver}", origin)
        if isinstance(column.type, JSON):
            return json.loads(value)
        if isinstance(column.type, UtcDateTime):
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return bool(value) if isinstance(column.type, Boolean) and value is not None else value


def write(connection: Connection, rows: Mapping[str, list[dict[str, Any]]], origin: str) -> None:
    """Insert or change rows, naming the recorded columns and no others."""
    for table in Base.metadata.sorted_tables:
        for row in rows.get(table.name, []):
            there = recorded()["known"]["origin"] if table.name == "audit_events" else origin  # they are signed
            values = {name: value_of(table.c[name], value, there) for name, value in row.items()}
            same = [column == values[column.name] for column in table.primary_key]
            is_there = connection.execute(select(*table.primary_key).where(*same)).first() is not None
            connection.execute(update(table).where(*same).values(values) if is_there else insert(table).values(values))


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    """This release over a database of 0.1.0 whose processes are still at work."""
    with closing(Database(database_url)) as database:
        migrated(database, recorded()["revision"])
        there = set(inspect(database.engine).get_table_names())
        with database.write() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                if table.name in there:
                    connection.execute(delete(table))
            write(connection, recorded()["before"], receiver.origin)
        upgrade(Settings(instance=tmp_path, database_url=database_url, secret_keys=(MASTER_KEY,)), system_clock)
        with database.write() as connection:
            write(connection, recorded()["after"], receiver.origin)
    with open_configured(tmp_path, database_url, receiver, STILL) as opened:
        opened.clock.now = datetime.fromisoformat(recorded()["known"]["now"])
        yield opened


def back(world: World, reference: str) -> Browser:
    """The browser that began under a reference on a page of 0.1.0, at the page where it is now."""
    browser = world.browser()
    for name, value in recorded()["known"]["visits"][reference].items():
        browser.client.set_cookie(name, value, domain="127.0.0.1")
    browser.get("/verify")
    return browser


def owner_of(world: World) -> Desk:
    desk = Desk(world, ADMIN_ADDRESS)
    known = recorded()["known"]["owner"]
    desk.email, desk.seed = known["email"], known["seed"]
    for name, value in known["cookies"].items():
        desk.client.set_cookie(name, value, domain="127.0.0.1")
    return desk


def shape(database: Database) -> dict[str, dict[str, Any]]:
    """What the tables of a database demand of those who write them."""
    inspector = inspect(database.engine)
    return {
        table: {
            "columns": {
                one["name"]: (str(one["type"]), one["nullable"], one["default"] is not None or "computed" in one)
                for one in inspector.get_columns(table)
            },
            "unique": {tuple(one["column_names"]) for one in inspector.get_unique_constraints(table)}
            | {tuple(map(str, one["column_names"])) for one in inspector.get_indexes(table) if one["unique"]},
            "refers": {tuple(one["constrained_columns"]) for one in inspector.get_foreign_keys(table)},
            "checks": {one["sqltext"] for one in inspector.get_check_constraints(table)},
        }
        for table in inspector.get_table_names()
    }


def test_each_migration_since_the_previous_release_only_adds(database_url: str) -> None:
    """Nothing that 0.1.0 reads is gone or has another type, and nothing more is demanded of what it writes."""
    with closing(Database(database_url)) as database:
        migrated(database, recorded()["revision"])
        before = shape(database)
        migrated(database, "head")
        after = shape(database)
    assert set(before) <= set(after)
    for table, was in before.items():
        now = after[table]
        for name, (kind, is_nullable, has_default) in was["columns"].items():
            assert name in now["columns"], (table, name)
            assert now["columns"][name][0] == kind, (table, name)
            assert now["columns"][name][1] >= is_nullable, (table, name)
            assert now["columns"][name][2] >= has_default, (table, name)
        added = now["columns"].keys() - was["columns"].keys()
        assert {name for name in added if not any(now["columns"][name][1:])} == set(), f"{table}: demanded columns"
        for demand in ("unique", "refers", "checks"):
            assert now[demand] <= was[demand], (table, demand)


def test_every_migration_says_which_code_may_serve_its_tables() -> None:
    """From 0010 on; and those that the release before may not serve need another test of the upgrade than this one."""
    for path in sorted((MIGRATIONS / "versions").glob("[0-9]*.py")):
        if path.name >= "0010":
            found = re.search(r'^OLDEST_CODE = "(\d{4})"', path.read_text(), re.MULTILINE)
            assert found, path.name
            assert found[1] <= recorded()["revision"]


@pytest.fixture
def shell(world: World, tmp_path: Path) -> Shell:
    """The commands of an operator of that database."""
    url = world.database.url.render_as_string(hide_password=False)
    return Shell(tmp_path, {"PORTAL_DATABASE_URL": url, "PORTAL_SECRET_KEYS": MASTER_KEY})


def newer_tables(world: World, oldest_code: str) -> None:
    """The tables as a later version leaves them, with something that this one does not know."""
    with world.database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE later (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("ALTER TABLE customers ADD COLUMN later INTEGER NOT NULL DEFAULT 0")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9000'")
        tables = " ".join([*Base.metadata.tables, "later"])
        connection.execute(update(SchemaState).values(revision="9000", oldest_code=oldest_code, tables=tables))


def test_a_rollback_serves_on_the_tables_of_a_later_version(world: World, shell: Shell) -> None:
    """The tables say that they have all that this version needs; nothing changes them until that version is back."""
    newer_tables(world, expected_revision())
    assert shell.succeeds("db", "check") == ["The database matches this version."]
    assert shell.succeeds("db", "upgrade") == ["The database matches this version."]
    shell.succeeds("init")
    with world.database.read() as connection:
        assert table_state(connection).revision == "9000"
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "9000"
    with closing(build(read_settings(shell.environment), system_clock)) as portal:
        assert portal.health.database_faults() == []
    browser = world.browser()
    browser.begin("after-rollback", identifier="C-1001")
    browser.prove(code_for(world, PHONE))
    assert browser.path == "/done"


def test_a_backup_after_a_rollback_has_the_tables_of_the_later_version(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{PROGRAMS}:{os.environ['PATH']}")
    newer_tables(world, expected_revision())
    with world.database.write() as connection:
        connection.exec_driver_sql("INSERT INTO later VALUES (7)")
    shell.succeeds("backup", str(shell.folder / "backups"))
    (file,) = (path for path in (shell.folder / "backups").iterdir() if path.suffix != ".json")
    if file.suffix == ".dump":
        listed = subprocess.run(["pg_restore", "--list", str(file)], capture_output=True, check=True, text=True).stdout
        assert re.search(r"TABLE DATA \S+ later ", listed)
    else:
        with closing(sqlite3.connect(file)) as copy:
            assert copy.execute("SELECT id FROM later").fetchall() == [(7,)]
    refused = shell.fails("restore", "--yes", str(shell.folder / "backups"))[0]
    assert f"has tables of a newer version (9000, this one knows {expected_revision()})" in refused


def test_tables_that_this_version_may_not_serve_are_refused_in_a_sentence(world: World, shell: Shell) -> None:
    newer_tables(world, "9000")
    fault = (
        f"The database is at migration 9000, which serves versions from 9000 on; this one is {expected_revision()}. "
        "Start the version that upgraded it, or restore the backup made before."
    )
    for command in (["db", "check"], ["db", "upgrade"], ["init"], ["doctor"]):
        result = shell.run(*command)
        assert result.exit_code == 1
        assert fault in result.output
    assert world.app.test_client().get("/readyz").status_code == 503


def test_0_1_0_starts_again_after_a_stamp_until_the_next_upgrade(world: World, shell: Shell) -> None:
    """It looks for its own migration alone. Processes of this version go on meanwhile."""

    def stamped() -> str:
        with world.database.read() as connection:
            return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())

    (said,) = shell.succeeds("db", "stamp", recorded()["revision"])
    assert stamped() == recorded()["revision"] == "0002"
    assert "`auth-portal db upgrade` takes this back" in said
    assert shell.succeeds("db", "check") == ["The database matches this version."]
    assert world.app.test_client().get("/readyz").status_code == 200
    shell.succeeds("db", "upgrade")
    assert stamped() == expected_revision()
    assert shell.succeeds("db", "check") == ["The database matches this version."]
    for never in ("0001", "9000"):
        assert "serve versions from 0002 on" in shell.fails("db", "stamp", never)[0]
    shell.succeeds("macs", "seal")
    assert "MACs are required" in shell.fails("db", "stamp", "0002")[0]
    assert stamped() == expected_revision()


def keys_of(document: Mapping[str, Any], before: str = "") -> set[str]:
    """Every key of a document with what it stands in, such as ``limits.sends``. What admins name is left out."""
    found = {f"{before}{key}" for key in document}
    for key, value in document.items():
        if isinstance(value, dict) and key not in ("data", "results"):
            found |= keys_of(value, f"{before}{key}.")
    return found


def test_what_is_stored_of_a_journey_and_of_the_settings_has_no_key_that_0_1_0_does_not_know(world: World) -> None:
    """It refuses what it does not know, and could then serve no journey at all."""
    known = {key for row in recorded()["before"]["journey_versions"] for key in keys_of(json.loads(row["document"]))}
    settings = keys_of(json.loads(recorded()["before"]["portal"][0]["settings"]))
    saved = '[portal]\nname = "Acme Bank of the South"\ndefault_region = "ZA"\n'
    text = saved + journey("newest", "sms_code", channels=("sms",)) + stepped("signed", TERMS)
    text = text.replace("{receiver}", world.receiver.origin).replace("{{", "{").replace("}}", "}")
    world.services.configuration.import_toml(text, file_name="newest.toml")
    *_before, plain, closed = (row.document for row in world.rows(JourneyVersion))
    assert (plain["slug"], closed["slug"]) == ("newest", "signed")
    assert keys_of(plain) - known == set()
    assert keys_of(closed) - known == set()
    assert keys_of(world.rows(Portal)[0].settings) - settings == set()


def test_every_table_of_the_previous_release_is_written(world: World) -> None:
    """The story covers them, so that no statement of 0.1.0 is left out unseen."""
    written = {table for part in ("before", "after") for table, rows in recorded()[part].items() if rows}
    assert set(recorded()["before"]) - written == LEFT_EMPTY
    with world.database.read() as connection:
        for table in map(Base.metadata.tables.__getitem__, sorted(written)):
            assert connection.execute(select(table).limit(1)).first() is not None, table.name


def test_what_the_previous_release_began_is_finished_here(world: World) -> None:
    """Customers come back from a page of 0.1.0 to one of this release, with the cookie that they have."""
    code = recorded()["known"]["visits"]["begun-before"]["code"]
    back(world, "begun-before").prove(code)
    world.clock.advance(31)
    half_way = back(world, "half-way")
    half_way.post("/verify/method", method="totp")
    half_way.prove(world.totp())
    world.clock.advance(31)
    back(world, "wrong-after").prove(world.totp())
    by_sms = back(world, "code-due")
    deliver(world, (MESSAGE,))
    sent_to_sipho = [one["text"].split()[0] for one in world.receiver.messages if one["to"] == "+27831234567"]
    by_sms.prove(next(word for word in sent_to_sipho if word.isdecimal()))  # the other one says that there is a link
    assert by_sms.path == "/done"
    deliver(world)
    sent = {call.header: call.body["data"]["outcome"] for call in world.receiver.callbacks}
    assert sent == {
        "begun-before": "verified",
        "half-way": "verified",
        "proved-after": "verified",
        "wrong-after": "verified",
        "cancelled-after": "cancelled",
        "code-due": "verified",
    }
    assert len(world.receiver.callbacks) == len(sent)
    assert {row.state for row in world.rows(Delivery) if row.kind == "callback"} == {"accepted"}
    world.clock.advance(1200)
    assert expire(world) == 0
    assert {row.outcome for row in world.rows(Verification)} == {"verified", "cancelled"}


def test_what_the_previous_release_wrote_opens_the_same_doors(world: World) -> None:
    """Customers, tickets, links, sessions and keys without MACs, until they are sealed and from then on."""
    known = recorded()["known"]
    world.services.dispatcher.seal()
    for round_number in range(2):
        assert owner_of(world).get("/admin/").status_code == 200
        assert "Sign out" in owner_of(world).get("/admin/").text
        assert Program(world, known["api_key"]).get("/customers/C-2001").status_code == 200
        for path in (
            f"/admin/join/{known['invitation']}",
            known["password_link"].removeprefix("http://127.0.0.1:8000"),
        ):
            assert world.browser().get(path).status_code == 200, path
        for identifier, phone in (("C-2001", "+27845550000"), ("C-1003", "+27845550001"), ("C-1001", PHONE)):
            browser = world.browser()
            browser.begin(f"{identifier}-{round_number}", identifier=identifier)
            browser.prove(code_for(world, phone))
            assert browser.path == "/done", (identifier, round_number)
        faults = [fault for check in world.services.audit_checks.check_all() for fault in check.faults]
        assert faults == []
        if round_number:
            continue
        imports = f"/admin/imports/{known['import']}"
        desk = owner_of(world)
        desk.get(imports)
        desk.post(f"{imports}/cancel")
        world.services.dispatcher._housekeeping.complete()
        assert all(row.shared_key == "" for row in world.rows(CustomerRow))
        unsealed = require_macs(world.transactions, again=False)
        assert {row.table for row in unsealed} >= {"customers", "admins", "journeys", "channels", "api_keys"}
        assert examine_macs(world.transactions).is_well
        world.services.journeys.renew()
    browser = world.browser()
    browser.get(f"{known['ticket']}?reference=by-ticket")
    browser.post(known["ticket"])
    browser.prove(code_for(world, PHONE))
    assert browser.path == "/done"
