"""The operator's commands: what they do, what they say when they cannot, and the status they leave with."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import phonenumbers
import psycopg
import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import insert, make_url, select

from auth_portal import cli
from auth_portal.clock import system_clock
from auth_portal.crypto import Keyring
from auth_portal.methods.password import is_long
from auth_portal.services.directory.fields import NO_REGION
from auth_portal.services.operations.demo import CUSTOMERS, PERSON_FIELDS, demo_people
from auth_portal.services.serving import build
from auth_portal.settings import KEYS_FILE, read_settings
from auth_portal.store.db import Database
from auth_portal.store.models import ADMIN_EMAIL, DELIVERY_BODY, Admin, Delivery
from tests.world import read_customers

ROOT = Path(__file__).resolve().parent.parent
KEYS = ("first-master-key-for-the-tests-of-commands", "second-master-key-for-the-tests-of-commands")


class Shell:
    """Runs commands as an operator would, with an instance folder of the test's own."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.environment = {"PORTAL_INSTANCE": str(folder / "instance"), **(environment or {})}
        self.app = Flask(__name__)
        cli.register(self.app, partial(build, clock=system_clock), system_clock)

    def run(self, *args: str, given: str = "", **environment: str) -> Result:
        return self.app.test_cli_runner().invoke(args=list(args), env={**self.environment, **environment}, input=given)

    def fails(self, *args: str, status: int = 1, **environment: str) -> list[str]:
        """The lines of a command that must not succeed; nothing but our own lines is said."""
        result = self.run(*args, **environment)
        assert result.exit_code == status, result.output
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert lines
        assert all(line.startswith("auth-portal: ") for line in lines), result.stderr
        return [line.removeprefix("auth-portal: ") for line in lines]

    def succeeds(self, *args: str, **environment: str) -> list[str]:
        result = self.run(*args, **environment)
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()

    def file(self, name: str, text: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PORTAL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def bare(tmp_path: Path) -> Shell:
    """Nothing is installed."""
    return Shell(tmp_path)


@pytest.fixture
def shell(sqlite_url: str, tmp_path: Path) -> Shell:
    """An installed portal on SQLite."""
    return Shell(tmp_path, {"PORTAL_DATABASE_URL": sqlite_url, "PORTAL_SECRET_KEYS": _master_key()})


@pytest.fixture
def any_shell(database_url: str, tmp_path: Path) -> Shell:
    """An installed portal, on SQLite and on PostgreSQL."""
    return Shell(tmp_path, {"PORTAL_DATABASE_URL": database_url, "PORTAL_SECRET_KEYS": _master_key()})


def _master_key() -> str:
    return "a-master-key-for-tests-and-nothing-else"


class TestInit:
    def test_a_new_portal_and_again(self, bare: Shell) -> None:
        assert bare.succeeds("init")[-1] == "The database is ready."
        assert (bare.folder / "instance" / KEYS_FILE).exists()
        assert bare.succeeds("init") == ["Everything exists already."]
        assert bare.succeeds("db", "check") == ["The database matches this version."]
        assert bare.succeeds("db", "upgrade") == ["The database matches this version."]

    def test_a_place_that_cannot_be_written(self, bare: Shell) -> None:
        bare.file("file", "")
        assert len(bare.fails("init", PORTAL_INSTANCE=str(bare.folder / "file" / "instance"))) == 1

    @pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
    def test_a_database_that_cannot_store_every_name(self, bare: Shell, postgres_server: str, encoding: str) -> None:
        name = f"portal_{encoding.lower()}"
        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute(
                f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
            )
            url = make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
            said = bare.fails("init", PORTAL_DATABASE_URL=url)
            connection.execute(f"DROP DATABASE {name}")
        assert said == [f"The database's encoding is {encoding}: create one with ENCODING 'UTF8'."]

    def test_every_fault_of_the_settings_at_once(self, bare: Shell) -> None:
        lines = bare.fails("init", PORTAL_PUBLICURL="x", PORTAL_DISPATCH="maybe")
        assert len(lines) == 2
        assert lines[0].startswith("PORTAL_PUBLICURL is not a setting")


NEED_KEYS = [
    ["demo"],
    ["customers", "import", "customers.csv"],
    ["customers", "erase", "C-1001"],
    ["customers", "renew", "C-1001"],
    ["config", "export"],
    ["config", "import", "acme.toml"],
    ["keys", "rotate"],
    ["prune"],
    ["backup", "a.folder"],
    ["audit", "verify"],
    ["audit", "heads"],
    ["audit", "restart", "--yes"],
]


class TestWithoutAPortal:
    """Every command that needs an installed portal says so in one line."""

    @pytest.mark.parametrize("command", [["db", "check"], *NEED_KEYS], ids=" ".join)
    def test_nothing_was_initialised(self, bare: Shell, command: list[str]) -> None:
        bare.file("customers.csv", "customer_id\nC\n")
        bare.file("acme.toml", "")
        command = [str(bare.folder / part) if "." in part else part for part in command]
        (line,) = bare.fails(*command, PORTAL_SANDBOX="1")
        assert "auth-portal init" in line

    @pytest.mark.parametrize("command", NEED_KEYS, ids=" ".join)
    def test_another_key(self, shell: Shell, command: list[str]) -> None:
        shell.file("customers.csv", "customer_id\nC\n")
        shell.file("acme.toml", "")
        command = [str(shell.folder / part) if "." in part else part for part in command]
        (line,) = shell.fails(*command, PORTAL_SECRET_KEYS=KEYS[0], PORTAL_SANDBOX="1")
        assert "do not belong to this database" in line

    @pytest.mark.parametrize("command", [["db", "check"], *NEED_KEYS], ids=" ".join)
    def test_a_database_that_is_away(self, bare: Shell, command: list[str]) -> None:
        bare.file("customers.csv", "customer_id\nC\n")
        bare.file("acme.toml", "")
        command = [str(bare.folder / part) if "." in part else part for part in command]
        away: Any = {"PORTAL_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing", "PORTAL_SECRET_KEYS": KEYS[0]}
        assert len(bare.fails(*command, PORTAL_SANDBOX="1", **away)) == 1


def in_south_africa(shell: Shell) -> None:
    """Its default country is chosen."""
    shell.succeeds("config", "import", shell.file("za.toml", '[portal]\ndefault_region = "ZA"\n'))


class TestCustomers:
    def test_an_import_a_dry_run_and_an_erasure(self, any_shell: Shell) -> None:
        in_south_africa(any_shell)
        file = any_shell.file("customers.csv", "customer_id,phone\nC-1001,082 123 4567\n")
        assert any_shell.succeeds("customers", "import", file, "--dry-run") == [
            "Dry run, nothing was imported: 1 new customer, 0 changed, 0 equal.",
            "  customer_id: 1 new, 0 changed, 0 cleared, 0 equal",
            "  phone: 1 new, 0 changed, 0 cleared, 0 equal",
            "  phone numbers by country: 1 ZA",
        ]
        assert any_shell.succeeds("customers", "import", file)[0] == "Imported: 1 new customer, 0 changed, 0 equal."
        assert any_shell.succeeds("customers", "erase", "c-1001") == ["Erased, with 0 visits and 0 verifications."]
        assert any_shell.fails("customers", "erase", "c-1001", status=2) == ["No customer has this ID."]

    def test_r13_with_notify_the_messages_are_told_first_and_somebody_decides(self, any_shell: Shell) -> None:
        in_south_africa(any_shell)
        before = any_shell.file("before.csv", "customer_id,phone,email\nC-1001,082 123 4567,t@example.com\n")
        any_shell.succeeds("customers", "import", before, "--notify")  # nobody is changed: nothing is asked
        file = any_shell.file("customers.csv", "customer_id,phone,email\nC-1001,083 123 4567,-\n")
        messages = [
            "1 email: no channel may send them, so they are not sent",
            "2 SMS to ZA: no channel may send them, so they are not sent",
        ]
        dry = any_shell.succeeds("customers", "import", file, "--dry-run")
        assert dry[5:] == [
            "With --notify the portal notifies one customer whose phone number or email address changes, at the old and the new"
            " one:",
            *(f"  {line}" for line in messages),
            "  What an SMS costs is between you and its provider: the portal does not know it.",
        ]
        for answer in ("n\n", ""):
            refused = any_shell.run("customers", "import", file, "--notify", given=answer)
            assert (refused.exit_code, refused.stderr) == (1, "auth-portal: Nothing was imported.\n")
            assert refused.stdout.splitlines()[:9] == dry
        agreed = any_shell.run("customers", "import", file, "--notify", given="y\n")
        assert agreed.exit_code == 0
        assert "Imported: 0 new customers, 1 changed, 0 equal." in agreed.stdout
        assert "The portal now notifies one customer" in agreed.stdout
        back = any_shell.succeeds("customers", "import", before, "--notify", "--yes")
        assert back[0] == "Imported: 0 new customers, 1 changed, 0 equal."
        untold = any_shell.succeeds("customers", "import", file)
        assert untold[-1] == (
            "Not notified: one customer whose phone number or email address changes. All owners get a mail that says so."
        )

    def test_the_region_is_that_of_the_portal(self, shell: Shell) -> None:
        shell.succeeds("config", "import", shell.file("gb.toml", '[portal]\ndefault_region = "GB"\n'))
        shell.succeeds("customers", "import", shell.file("gb.csv", "customer_id,phone\nC,020 7946 0958\n"))

    def test_r55_no_national_number_is_read_before_a_country_is_chosen(self, any_shell: Shell) -> None:
        """0712345678 is a valid mobile number of Kenya and of South Africa."""
        file = any_shell.file("customers.csv", "customer_id,phone\nC,0712345678\nD,0722345678\n")
        for option in ((), ("--dry-run",)):
            refused = any_shell.fails("customers", "import", file, *option, status=2)
            assert refused == [
                "customers.csv: Nothing was imported: 1 fault.",
                f"customers.csv: row 2, phone: {NO_REGION}",
            ]
        full = any_shell.file("full.csv", "customer_id,phone\nC,+254712345678\nD,0027712345678\nE,+27821234567\n")
        assert "  phone numbers by country: 2 ZA, 1 KE" in any_shell.succeeds("customers", "import", full, "--dry-run")
        any_shell.succeeds("config", "import", any_shell.file("ke.toml", '[portal]\ndefault_region = "KE"\n'))
        lines = any_shell.succeeds("customers", "import", file)
        assert "  phone numbers by country: 2 KE" in lines
        (line,) = any_shell.fails(
            "config", "import", any_shell.file("uk.toml", '[portal]\ndefault_region = "UK"\n'), status=2
        )
        assert "default_region: is no country" in line

    def test_bad_data_is_listed(self, shell: Shell) -> None:
        in_south_africa(shell)
        file = shell.file("customers.csv", "customer_id,phone\nC,12\n,\n,1\n")
        assert shell.fails("customers", "import", file, status=2) == [
            "customers.csv: Nothing was imported: 3 faults.",
            "customers.csv: row 2, phone: is not a phone number (numbers without + are read as numbers of South Africa)",
            "customers.csv: row 4, customer_id: is missing",
            "customers.csv: row 4, phone: is not a phone number (numbers without + are read as numbers of South Africa)",
        ]

    @pytest.mark.parametrize("command", [["customers", "import"], ["config", "import"]], ids=" ".join)
    def test_no_such_file(self, shell: Shell, command: list[str]) -> None:
        path = str(shell.folder / "nothing.txt")
        assert shell.fails(*command, path) == [f"{path}: No such file or directory."]


MAIL_AND_JOURNEY = """
[[channels]]
name = "mail"
kind = "smtp"
host = "mail.example.com"
port = 587
security = "starttls"
sender = "Acme Bank <no-reply@acme.example>"

[[journeys]]
slug = "balance"
name = "Check my balance"
steps = [
  { kind = "identify", by = ["customer_id"] },
  { kind = "verify", any_of = ["totp"] },
]
[journeys.callback]
server = "production"
[journeys.limits]
sends = 3
"""


def _owner(keyring: Keyring, email: str) -> dict[str, Any]:
    now, row = system_clock(), "0" * 32
    return {
        "id": row,
        "name": "Anna Botha",
        "email_sealed": keyring.seal(email, ADMIN_EMAIL, row),
        "email_key": email,
        "role": "owner",
        "password_hash": b"",
        "totp_sealed": b"",
        "created_at": now,
        "changed_at": now,
    }


class TestConfig:
    def test_out_and_back(self, any_shell: Shell) -> None:
        file = any_shell.file("acme.toml", '[portal]\nname = "Acme Bank"\n')
        assert any_shell.succeeds("config", "import", file) == ["portal: changed"]
        exported = any_shell.succeeds("config", "export")
        assert 'name = "Acme Bank"' in exported
        copy = str(any_shell.folder / "copy.toml")
        assert any_shell.succeeds("config", "export", copy) == []
        assert Path(copy).read_text().splitlines() == exported
        assert any_shell.succeeds("config", "import", copy, "--prune") == ["Nothing changed."]

    def test_faults_are_listed_with_their_file(self, shell: Shell) -> None:
        file = shell.file("acme.toml", "[portal]\nnam = 1\ndefault_region = 2\n")
        assert sorted(shell.fails("config", "import", file, status=2)) == [
            "acme.toml: portal default_region: must be text",
            "acme.toml: portal nam: is not known here",
        ]
        file = shell.file("acme.toml", "[portal]\nname = 'Zoë'\n".encode("latin-1"))
        assert shell.fails("config", "import", file, status=2) == ["acme.toml: is not UTF-8"]

    def test_an_address_that_the_operator_does_not_let_out(self, shell: Shell) -> None:
        text = (
            '[[channels]]\nname = "mail"\nkind = "smtp"\nhost = "10.0.0.1"\nport = 25\nsecurity = "none"\n'
            'sender = "acme@example.com"\n'
        )
        (line,) = shell.fails("config", "import", shell.file("acme.toml", text), status=2)
        assert line.startswith('acme.toml: channels[1] "mail": ')
        shell.succeeds("config", "import", shell.file("acme.toml", text), PORTAL_PRIVATE_TARGETS="10.0.0.1:25")

    def test_r19_owners_are_notified_of_a_redirected_callback_and_a_lowered_limit(
        self, any_shell: Shell, database: Database, keyring: Keyring
    ) -> None:
        any_shell.succeeds("config", "import", any_shell.file("first.toml", MAIL_AND_JOURNEY))
        with database.write() as connection:
            connection.execute(insert(Admin).values(_owner(keyring, "anna@acme.example")))
        changed = MAIL_AND_JOURNEY.replace('server = "production"', 'server = "uat"').replace("sends = 3", "sends = 2")
        file = any_shell.file("second.toml", changed + "[portal.limits]\nbegins_per_minute = 200\n")
        assert any_shell.succeeds("config", "import", file) == ["portal: changed", "journey balance: changed"]
        with database.read() as connection:
            (notice,) = connection.execute(select(Delivery.id, Delivery.target, Delivery.body_sealed))
        mail = json.loads(keyring.open(notice.body_sealed, DELIVERY_BODY, notice.id))
        assert (notice.target, mail["to"]) == ("mail", "anna@acme.example")
        assert mail["text"].splitlines()[:5] == [
            "Settings: changed",
            "  Verifications begun per minute: 300 -> 200",
            "Journey balance: changed",
            "  Where the answer goes: Chat Flow, production -> Chat Flow, UAT (for tests)",
            "  Messages in one chat: 3 -> 2",
        ]

    def test_a_full_disk(self, shell: Shell) -> None:
        assert shell.fails("config", "export", "/dev/full") == ["No space left on device."]


class TestDemo:
    def test_it_is_refused_without_the_sandbox(self, shell: Shell) -> None:
        (line,) = shell.fails("demo")
        assert "PORTAL_SANDBOX=1" in line

    def test_it_loads_and_loads_again(self, any_shell: Shell) -> None:
        first = any_shell.succeeds("demo", PORTAL_SANDBOX="1")
        assert first[-1] == "Imported: 5 new customers, 0 changed, 0 equal."
        for slug in ("balance", "password", "app", "email", "transfer", "code-back"):
            assert f"journey {slug}: added" in first
        assert any_shell.succeeds("demo", PORTAL_SANDBOX="1") == ["Imported: 0 new customers, 0 changed, 5 equal."]

    def test_its_people_are_what_the_sandbox_shows(self) -> None:
        people = {person["customer_id"]: person for person in demo_people()}
        assert set(people["C-1001"]) == set(PERSON_FIELDS)
        assert all(people["C-1001"].values())
        assert is_long(people["C-1001"]["password"])
        assert people["C-1002"]["email"] == ""
        assert not read_customers(CUSTOMERS, region="ZA").faults
        phones = [phonenumbers.parse(person["phone"]) for person in people.values() if person["phone"]]
        assert all(phonenumbers.is_valid_number(phone) for phone in phones)


class TestKeys:
    def test_a_rotation(self, bare: Shell) -> None:
        old, new = KEYS
        bare.succeeds("init", PORTAL_SECRET_KEYS=old)
        bare.succeeds("config", "export", PORTAL_SECRET_KEYS=f"{old},{new}")  # added at the end, on every machine
        both = f"{new},{old}"
        said = bare.succeeds("keys", "rotate", PORTAL_SECRET_KEYS=both)
        assert said == ["5 data keys are now encrypted with the first key."]
        assert bare.succeeds("keys", "rotate", PORTAL_SECRET_KEYS=both) == [
            "The first key already encrypts all of them."
        ]
        bare.succeeds("config", "export", PORTAL_SECRET_KEYS=new)
        bare.fails("config", "export", PORTAL_SECRET_KEYS=old)


def test_prune_says_what_it_removed(any_shell: Shell) -> None:
    assert any_shell.succeeds("prune") == [
        "0 codes removed.",
        "0 verifications removed.",
        "0 tickets removed.",
        "0 notices removed.",
        "0 customers' links removed.",
        "0 answers removed.",
        "0 ids of erased customers removed.",
        "0 acceptances without a customer removed.",
        "0 counts of strangers removed.",
        "0 alerts removed.",
        "0 admins' sessions and links removed.",
        "0 test drives removed.",
        "0 counts of hours removed.",
        "0 deleted journeys removed.",
        "0 logos removed.",
        "0 audit events removed.",
        "0 counters removed.",
        "0 stored API answers removed.",
    ]


class Listener:
    """Takes connections and remembers every byte that comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.received = b""
        self.ended = threading.Semaphore(0)  # once for each connection that was closed again
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(100)
                while data := connection.recv(4096):
                    self.received += data
            self.ended.release()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Somebody listens where the portal should be."""
    listening = Listener()
    yield listening
    listening.close()


class TestDoctor:
    def test_all_is_well_and_nothing_was_sent(self, any_shell: Shell, listener: Listener) -> None:
        demo = {"PORTAL_SANDBOX": "1", "PORTAL_PUBLIC_URL": f"http://127.0.0.1:{listener.port}"}
        any_shell.succeeds("demo", **demo)
        lines = any_shell.succeeds("doctor", **demo)
        assert all(line.startswith("ok   ") for line in lines), lines
        assert [line.split(":")[0].removeprefix("ok   ") for line in lines] == [
            "settings", "public URL", "sandbox", "keys", "database", "clock", "data keys", "MACs", "audit trail", "configuration",
            "channel mail", "channel sms", "callback server sandbox",
        ]  # fmt: skip
        assert all(listener.ended.acquire(timeout=100) for _ in range(3))
        assert listener.received == b""

    def test_nobody_listens(self, shell: Shell) -> None:
        demo = {"PORTAL_SANDBOX": "1", "PORTAL_PUBLIC_URL": "http://127.0.0.1:9"}
        shell.succeeds("demo", **demo)
        result = shell.run("doctor", **demo)
        assert result.exit_code == 1
        failing = [line for line in result.stdout.splitlines() if line.startswith("FAIL ")]
        assert [line.split(":")[0] for line in failing] == [
            "FAIL channel sms", "FAIL channel mail", "FAIL callback server sandbox",
        ] or [line.split(":")[0] for line in failing] == [
            "FAIL channel mail", "FAIL channel sms", "FAIL callback server sandbox",
        ]  # fmt: skip

    def test_what_the_servers_have_found_is_named(self, shell: Shell) -> None:
        """As that no dispatcher is at work, which nothing else shows while there is nothing to send."""
        settings = read_settings(shell.environment)
        with closing(build(settings, system_clock)) as portal:
            portal.alerts.look(is_dispatching=False)
        result = shell.run("doctor")
        assert result.exit_code == 1
        assert "FAIL alert: No dispatcher has been at work for half a minute" in result.stdout

    def test_the_sandbox_was_switched_off_behind_its_journeys(self, shell: Shell) -> None:
        shell.succeeds("demo", PORTAL_SANDBOX="1")
        result = shell.run("doctor")
        assert result.exit_code == 1
        assert "FAIL journey balance: no customer can complete it" in result.stdout

    @pytest.mark.parametrize(
        ("environment", "told"),
        [
            ({"PORTAL_SECRET_KEYS": KEYS[0]}, "FAIL data keys: "),
            ({"PORTAL_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}, "FAIL database: "),
            ({"PORTAL_PUBLIC_URL": "http://verify.example.com"}, "FAIL public URL: "),
            ({"PORTAL_NONSENSE": "1"}, "FAIL settings: PORTAL_NONSENSE is not a setting"),
            ({"PORTAL_SECRET_KEYS": ""}, "FAIL keys: There are no keys"),
        ],
    )
    def test_what_is_not_well(self, shell: Shell, environment: dict[str, str], told: str) -> None:
        result = shell.run("doctor", **environment)
        assert result.exit_code == 1
        failing = [line for line in result.stdout.splitlines() if not line.startswith(("ok   ", "warn "))]
        assert len(failing) == 1
        assert failing[0].startswith(told)

    def test_ports_and_statuses_are_shown(self, shell: Shell) -> None:
        channel = '[[channels]]\nname = "mail"\nkind = "smtp"\nhost = "127.0.0.1"\nport = 9\nsecurity = "none"\n'
        file = shell.file("acme.toml", f'[portal]\nname = "Acme"\n{channel}sender = "a@acme.example"\n')
        shell.succeeds("config", "import", file, PORTAL_PRIVATE_TARGETS="127.0.0.1:9")
        assert "FAIL channel mail: The port must be 25, 465, 587 or 2525." in shell.run("doctor").stdout

    def test_a_clock_that_is_behind(self, shell: Shell) -> None:
        shell.succeeds("config", "import", shell.file("acme.toml", '[portal]\nname = "Acme"\n'))
        slow = Flask(__name__)
        slow_clock = lambda: system_clock().replace(year=2020)  # noqa: E731
        cli.register(slow, partial(build, clock=slow_clock), slow_clock)
        result = slow.test_cli_runner().invoke(args=["doctor"], env=shell.environment)
        assert result.exit_code == 1
        assert "FAIL clock: it is 2020-" in result.stdout


class TestProcess:
    """The real thing: its own process, ``flask --app app``."""

    def start(self, folder: Path, *args: str, **environment: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PORTAL_", "FLASK_"))}
        return subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "app", *args], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**kept, "PORTAL_INSTANCE": str(folder / "instance"), **environment},
        )  # fmt: skip

    def run(self, folder: Path, *args: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(folder, *args, **environment)
        out, err = process.communicate(timeout=200)
        return process.returncode, out, err

    def test_init_demo_and_a_fault(self, tmp_path: Path) -> None:
        status, out, err = self.run(tmp_path, "init")
        assert (status, err) == (0, "")
        assert "The database is ready." in out
        status, out, _ = self.run(tmp_path, "demo", PORTAL_SANDBOX="1")
        assert status == 0
        assert "journey balance: added" in out
        status, out, err = self.run(tmp_path, "customers", "erase", "nobody")
        assert (status, out, err) == (2, "", "auth-portal: No customer has this ID.\n")

    def test_dispatch_works_until_it_is_told_to_stop(self, tmp_path: Path, sqlite_url: str) -> None:
        settings: dict[str, Any] = {"PORTAL_DATABASE_URL": sqlite_url, "PORTAL_SECRET_KEYS": _master_key()}
        process = self.start(tmp_path, "dispatch", **settings)
        assert process.stderr is not None
        assert "dispatcher_started" in process.stderr.readline()
        others = [task for task in Path(f"/proc/{process.pid}/task").iterdir() if task.name != str(process.pid)]
        blocked = re.findall(r"SigBlk:\s*(\w+)", "".join((task / "status").read_text() for task in others))
        assert blocked
        assert all(int(one, 16) >> (signal.SIGTERM - 1) & 1 for one in blocked), (
            "else one before the wait would be lost"
        )
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0
        assert "dispatcher_stopped" in err

    def test_dispatch_without_a_portal(self, tmp_path: Path) -> None:
        status, out, err = self.run(tmp_path, "dispatch")
        assert (status, out) == (os.EX_CONFIG, "")  # by which a supervisor knows that starting it again is of no use
        assert err.startswith("auth-portal: There are no keys")
        assert err.count("\n") == 1


def test_d14_restored_asks_first_and_prints_what_it_closed(shell: Shell) -> None:
    asked = shell.run("restored", given="n\n")
    assert asked.exit_code == 1
    assert "are all servers" in asked.output.lower()
    lines = shell.succeeds("restored", "--yes")
    acts = [line.partition(" ")[2].removesuffix(".") for line in lines]
    assert [line for line in asked.output.splitlines() if line.startswith("- ")] == [f"- {act}" for act in acts]
    assert lines[:2] == ["0 live verifications ended.", "0 results under way marked as unconfirmed."]
    assert "0 admins signed out." in lines
