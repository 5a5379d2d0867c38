"""A whole portal in this process: its app, a clock to move, a strict receiver, and browsers to drive it with."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyotp
import trustme
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete, event, insert, select, update
from werkzeug.test import TestResponse

from auth_portal.bootstrap import Process, create_app
from auth_portal.crypto import MasterKeys, Passwords
from auth_portal.gateways.way_out import DeadEnd
from auth_portal.services.config.configuration import Configuration
from auth_portal.services.config.journey import NEWER, document_digest
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.delivery.notices import Notices
from auth_portal.services.directory.person import id_form
from auth_portal.services.imports import Source
from auth_portal.services.imports.csv import CsvFindings, read_rows
from auth_portal.services.imports.imports import CommandImport
from auth_portal.services.operations.dispatcher import Lane
from auth_portal.services.serving import Services
from auth_portal.store.db import Database, Transactions, canonical_event
from auth_portal.store.keys import load_keyring, seal_macs
from auth_portal.store.models import (
    AuditEvent,
    ChannelRow,
    CustomerRow,
    DataKeyRow,
    ImportFault,
    ImportPart,
    ImportRow,
    Journey,
    JourneyVersion,
    Portal,
    StagedRow,
)
from tests.compiled import share_templates
from tests.postgres import MASTER_KEY
from tests.receiver import Listens, Receiver

TOTP_SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
PASSWORD = "correct horse battery staple"
SHORT_PASSWORD = "kudu-2026"
PHONE = "+27821234567"
MAIL = "thandi@example.com"
CUSTOMERS = f"""customer_id,name,phone,email,locale,password,totp_secret
C-1001,Thandi Nkosi,{PHONE},{MAIL},en,{PASSWORD},{TOTP_SECRET}
C-1002,Sipho Dlamini,+27831234567,,en,{SHORT_PASSWORD},
C-1003,Amahle Zulu,+27845551234,family@example.com,en,,
C-1004,Bandile Zulu,+27845551234,family@example.com,en,,
"""
PORTAL = """
[portal]
name = "Acme Bank"
default_region = "ZA"
support_contact = "https://acme.example/help"
"""
CONFIG = (
    PORTAL
    + """

[[channels]]
name = "sms"
kind = "http"
carries = "sms"
method = "POST"
url = "{receiver}/sms"
content_type = "application/json"
body = '{{"to": "{{to}}", "text": "{{text}}"}}'
countries = ["ZA"]
daily_cap = 100000

[[channels]]
name = "mail"
kind = "http"
carries = "email"
method = "POST"
url = "{receiver}/mail"
content_type = "application/json"
body = '{{"to": "{{to}}", "text": "{{text}}", "subject": "{{subject}}"}}'
"""
)
JOURNEY = """
[[journeys]]
slug = "{slug}"
name = "{name}"
default = {default}
channels = [{channels}]
relay_defence = "{relay_defence}"
chat_seconds = {chat_seconds}
steps = [
  {{ kind = "identify", by = ["customer_id", "phone", "email"] }},
  {steps}
]
[journeys.callback]
server = "{server}"
contract = "{contract}"
[journeys.limits]
{limits}
"""


def journey(
    slug: str,
    *steps: str,
    default: bool = False,
    server: str = "{receiver}",
    contract: str = "external_link",
    relay_defence: str = "none",
    chat_seconds: int = 600,
    limits: str = "",
    channels: tuple[str, ...] = ("sms", "mail"),
) -> str:
    """The TOML of a journey whose verify steps are given as ``"sms_code|totp"``."""
    lines = ['{ kind = "verify", any_of = [' + ", ".join(f'"{m}"' for m in step.split("|")) + "] }," for step in steps]
    return JOURNEY.format(
        slug=slug,
        name=slug.replace("-", " ").capitalize(),
        default=str(default).lower(),
        steps="\n  ".join(lines),
        server=server,
        contract=contract,
        relay_defence=relay_defence,
        chat_seconds=chat_seconds,
        limits=limits,
        channels=", ".join(f'"{name}"' for name in channels),
    )


STANDARD = (
    journey("balance", "sms_code", default=True)
    + journey("mail", "email_code")
    + journey("app", "totp")
    + journey("password", "password")
    + journey("either", "sms_code|email_code|totp")
    + journey("transfer", "password", "sms_code|totp")
    + journey("code-back", "sms_code", relay_defence="chat_code")
    + journey("waiting", "totp", contract="wait_for_callback")
)


def read_customers(source: Source, *, region: str) -> CsvFindings:
    """What a whole customers file says, and its faults."""
    reading = CsvFindings()
    for _row in read_rows(source, reading, region=region, key_of=id_form):
        pass
    return reading


def is_at_rest(lane: Lane) -> bool:
    """Whether all that it claimed was sent and recorded."""
    return not (lane._busy or lane._finished or lane._records.locked())


class FakeClock:
    """A clock that stands until it is moved.

    What was sent is recorded first: a jump would end its lease, and it would leave again. What a test holds up is not
    waited for.
    """

    START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    LONGEST_REST = 0.5  # seconds

    def __init__(self) -> None:
        self.now = self.START
        self.lanes: Sequence[Lane] = ()  # of the world that it is the clock of

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        until = time.monotonic() + self.LONGEST_REST
        while time.monotonic() < until and not all(map(is_at_rest, self.lanes)):
            time.sleep(0.002)
        self.now += timedelta(seconds=seconds)


@dataclass
class World:
    app: Flask
    services: Services
    database: Database
    clock: FakeClock
    receiver: Receiver

    @property
    def transactions(self) -> Transactions:
        return self.services.transactions

    def browser(self, address: str = "203.0.113.7") -> Browser:
        return Browser(self, address)

    def accept(self) -> None:
        """Signs again what a test has changed by SQL, as an operator who accepts it would (R54)."""
        seal_macs(self.transactions)

    def rows(self, model: Any) -> list[Any]:
        with self.database.read() as connection:
            # By id, and so by age: PostgreSQL gives rows of a reused database in any order.
            return list(connection.execute(select(model.__table__).order_by(*model.__table__.primary_key)).all())

    def totp(self, shift: int = 0) -> str:
        return pyotp.TOTP(TOTP_SECRET).at(self.clock.now.timestamp() + 30 * shift)

    @contextmanager
    def statements(self) -> Any:
        """The SQL that the web's engine runs inside the block, transactions' own words left out."""
        seen: list[str] = []

        def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
            if not statement.startswith("BEGIN"):
                seen.append(statement)

        engine = self.services.transactions.database.engine
        event.listen(engine, "before_cursor_execute", note)
        try:
            yield seen
        finally:
            event.remove(engine, "before_cursor_execute", note)


_IMPORTED: dict[tuple[str, str, str], tuple[str, dict[Any, list[dict[str, Any]]]]] = {}
_OF_AN_IMPORT = (ChannelRow, Journey, JourneyVersion, CustomerRow, AuditEvent)


def configure(database_url: str, receiver: Listens, config: str, customers: str = CUSTOMERS) -> None:
    """Imports a config and customers, as an operator would before serving.

    Each pair is imported once in a process for databases that share their keys, as those of the tests do: the next one
    gets the very rows, with this receiver's address in them. A database that was configured before is imported into.
    """
    database = Database(database_url)
    keys = load_keyring(database, MasterKeys((MASTER_KEY,))).index("customer", "whose keys are these?")
    known = (keys, config, customers)
    with database.read() as connection:
        is_new = connection.execute(select(CustomerRow.id).limit(1)).first() is None
    if is_new and known in _IMPORTED:
        _insert(database, receiver, *_IMPORTED[known])
    else:
        _import(database, receiver, config, customers)
        if is_new:
            _IMPORTED[known] = (receiver.origin, _rows_of(database))
            with database.write() as connection:  # nor do the next ones have the import itself
                for model in (StagedRow, ImportPart, ImportFault, ImportRow):
                    connection.execute(delete(model))
    database.close()


def wrap_as_before_macs(database: Database) -> None:
    """Make a new portal one that is older than the MACs: the key of the MACs does not say that there always were some."""
    master, is_sign = MasterKeys((MASTER_KEY,)), DataKeyRow.purpose == "sign"
    with database.write() as connection:
        row = connection.execute(select(DataKeyRow.id, DataKeyRow.wrapped).where(is_sign)).one()
        name = f"sign:{row.id}"
        wrapped = master.wrap(master.unwrap(row.wrapped, f"{name}:macs"), name)
        connection.execute(update(DataKeyRow).where(is_sign).values(wrapped=wrapped))


def _import(database: Database, receiver: Listens, config: str, customers: str) -> None:
    keyring = load_keyring(database, MasterKeys((MASTER_KEY,)))
    clock = FakeClock()
    text = config.replace("{{", "\0").replace("{receiver}", receiver.origin).replace("\0", "{").replace("}}", "}")
    transactions = Transactions(database, keyring, clock)
    Configuration(
        transactions,
        has_sandbox=False,
        way_out=DeadEnd(lambda _taken: 200),
        notify_owners=lambda *_: None,
    ).import_toml(text, file_name="test.toml")
    command = CommandImport(
        transactions, Passwords(), Notices(Journeys(transactions, has_sandbox=False), "http://127.0.0.1:8000")
    )
    report = command.import_csv(customers.encode(), default_region="ZA", dry_run=False)
    assert not report.errors, report.errors


def _rows_of(database: Database) -> dict[Any, list[dict[str, Any]]]:
    with database.read() as connection:
        return {
            model: [dict(row._mapping) for row in connection.execute(select(*_written(model)))]
            for model in (Portal, *_OF_AN_IMPORT)
        }


def _written(model: Any) -> list[Any]:
    """The columns that are written, not computed."""
    return [column for column in model.__table__.columns if column.computed is None]


def _insert(database: Database, receiver: Listens, origin: str, rows: dict[Any, list[dict[str, Any]]]) -> None:
    def moved(row: dict[str, Any]) -> dict[str, Any]:
        return {
            name: json.loads(json.dumps(value).replace(origin, receiver.origin)) if isinstance(value, dict) else value
            for name, value in row.items()
        }

    there = {model: [moved(row) for row in some] for model, some in rows.items()}
    for version in there[JourneyVersion]:
        if version["whole"] is not None:
            version["document"]["data"][NEWER] = document_digest(version["whole"])
    keyring = load_keyring(database, MasterKeys((MASTER_KEY,)))
    for fact in there[AuditEvent]:  # what it says was changed with the address, so it is signed anew
        fact["mac"] = keyring.audit_mac(canonical_event(fact))
    for signed in (ChannelRow, JourneyVersion):  # the address is in what their MACs are made of
        there[signed] = [keyring.signed(str(signed.__tablename__), row) for row in there[signed]]
    with database.write() as connection:
        connection.execute(update(Portal).values(**there[Portal][0]))
        for model in _OF_AN_IMPORT:
            if there[model]:
                connection.execute(insert(model), there[model])


@contextmanager
def open_world(
    folder: Path,
    database_url: str,
    receiver: Receiver,
    *,
    config: str = STANDARD,
    base: str = CONFIG,
    settings: Mapping[str, str] | None = None,
    customers: str = CUSTOMERS,
) -> Any:
    configure(database_url, receiver, (base or PORTAL) + config, customers)
    with open_configured(folder, database_url, receiver, settings) as world:
        yield world


@contextmanager
def open_configured(
    folder: Path, database_url: str, receiver: Receiver, settings: Mapping[str, str] | None = None
) -> Iterator[World]:
    """A portal over a database that has its configuration and customers already."""
    environment = {
        "PORTAL_INSTANCE": str(folder),
        "PORTAL_DATABASE_URL": database_url,
        "PORTAL_SECRET_KEYS": MASTER_KEY,
        "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
        "PORTAL_CA_BUNDLE": str(one_authority(folder)),
        **(settings or {}),
    }
    with _an_app(is_reusable="PORTAL_SANDBOX" not in environment) as (app, clock):
        process: Process = app.extensions["auth_portal_process"]
        services = process.start(environment)
        database = Database(database_url)
        clock.lanes = services.dispatcher.lanes
        try:
            yield World(app, services, database, clock, receiver)
        finally:
            clock.lanes = ()
            process.stop()
            database.close()


def one_authority(folder: Path) -> Path:
    """Write a file with a single authority: OpenSSL takes longer to load all of the usual ones than a test takes."""
    path = folder / "authority.pem"
    path.write_bytes(_authority())
    return path


@cache
def _authority() -> bytes:
    return trustme.CA().cert_pem.bytes()


_IDLE_APPS: list[tuple[Flask, FakeClock]] = []


@contextmanager
def _an_app(*, is_reusable: bool) -> Iterator[tuple[Flask, FakeClock]]:
    """An app and its clock for the time of a block.

    Wiring routes and compiling templates costs far more than most tests, and a process that stops leaves neither
    services nor settings behind, so the app of one world serves the next one. A sandbox stays with its app for good.
    """
    if is_reusable and _IDLE_APPS:
        app, clock = _IDLE_APPS.pop()
    else:
        clock = FakeClock()
        app = create_app(clock=clock)
        share_templates(app)
    clock.now = FakeClock.START
    try:
        yield app, clock
    finally:
        if is_reusable:
            _IDLE_APPS.append((app, clock))


class Browser:
    """One browser: cookies, the page it is on, and its forms. ``root`` is what stands before the customer's paths."""

    root = ""

    def __init__(self, world: World, address: str = "203.0.113.7", base_url: str = "http://127.0.0.1:8000") -> None:
        self.world = world
        self.client: FlaskClient = world.app.test_client()
        self.client.environ_base |= {"REMOTE_ADDR": address, "SERVER_SOFTWARE": "gunicorn/27"}
        self.base_url = base_url
        self.page: TestResponse
        self._landing_pages: dict[str, list[str]] = {}

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        self.page = self.client.get(path, base_url=self.base_url, **kwargs)
        if 'name="reference_tail"' in self.page.text:
            self._landing_pages[self.page.request.full_path] = [self.page.text]
        return self._followed()

    def open(self, reference: str, slug: str = "", raw: bool = False) -> TestResponse:
        path = f"/j/{slug}" if slug else "/"
        return self.get(f"{path}?reference={reference if raw else quote(reference, safe='')}")

    def post(self, path: str, follow: Any = True, headers: Any = None, **fields: Any) -> TestResponse:
        """Posts a form of the page: its hidden fields go with what is typed. Fields come as one dict, too, hence Any."""
        hidden = {name: value for name, value in self.hidden(path).items() if name not in fields}
        self.page = self.client.post(path, data={**hidden, **fields}, base_url=self.base_url, headers=headers)
        return self._followed() if follow else self.page

    def hidden(self, path: str) -> dict[str, str]:
        """The hidden fields of the page's form for a path.

        If it has none: of its prompt, which are the same in every form, on the help page too; or of the landing page as
        another tab of this browser still shows it.
        """
        texts = [self.page.text]
        if path.startswith(f"{self.root}/verify/"):
            prompt = self.page.text.replace(f'action="{self.root}/verify"', f'action="{path}"')
            texts += [prompt, prompt.replace(f'action="{self.root}/verify/method"', f'action="{path}"'), self.help()]
        texts += self._landing_pages.get(self.page.request.full_path, [])
        for form in (found for text in texts for found in re.findall(r"<form\b.*?</form>", text, re.DOTALL)):
            if f'action="{path}"' in form:
                inputs = re.findall(r"<input\b[^>]*type=\"?hidden\"?[^>]*>", form)
                return {_attribute(tag, "name"): _attribute(tag, "value") for tag in inputs}
        raise AssertionError(f"no form for {path} on this page:\n{self.page.text}")

    def help(self) -> str:
        """What the help page of the visit says, which has the tries that are left. The browser stays where it is."""
        shown = re.search(r'name="v" value="([^"]*)"', self.page.text)
        path = f"{self.root}/verify/help?v={shown[1] if shown else ''}"
        text: str = self.client.get(path, base_url=self.base_url).text
        return text

    def open_link(self, path: str) -> TestResponse:
        """Opens a one-time link by the button on its first page."""
        self.get(path)
        return self.post(path, open="1")

    def name(self, identifier: str) -> TestResponse:
        return self.post(self.page.request.path, identifier=identifier)

    def begin(self, reference: str, slug: str = "", identifier: str = "C-1001") -> TestResponse:
        self.open(reference, slug)
        return self.name(identifier)

    def prove(self, code: str, **kwargs: Any) -> TestResponse:
        field = "password" if 'name="password"' in self.page.text else "code"
        return self.post(f"{self.root}/verify", **{field: code}, **kwargs)

    def _followed(self) -> TestResponse:
        for _ in range(5):
            if self.page.status_code != 303:
                return self.page
            self.page = self.client.get(self.page.headers["Location"], base_url=self.base_url)
        raise AssertionError("a redirect without an end")

    @property
    def path(self) -> str:
        return self.page.request.path


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'\b{name}="([^"]*)"', tag)
    return unescape(found.group(1)) if found else ""
