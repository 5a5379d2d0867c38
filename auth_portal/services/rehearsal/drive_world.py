"""The portal that a test drive runs in: separate tables, keys, directory and outbox, and no connection to any server.

It shares only the code with the real one, so that a drive shows what customers get: one wiring builds both, its
directory knows one test person, and what it sends ends in ``DeadEnd``. No real customer can be identified in it, and
none of its results can reach a chat.

Between two requests its database is a few bytes: a SQLite file that is unfolded for one block and folded up again. The
bytes are only valid for the code whose tables are in them, so they must not outlive the chat.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from urllib.parse import urlsplit

import phonenumbers
import pyotp
import tomli_w
from pydantic import BaseModel, ConfigDict

from auth_portal.clock import Clock
from auth_portal.crypto import MasterKeys
from auth_portal.gateways.channels.http import HttpConfig
from auth_portal.gateways.flow import PATHS
from auth_portal.gateways.way_out import CapturedRequest, DeadEnd
from auth_portal.services.config.configuration import Configuration
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.snapshot import Snapshot
from auth_portal.services.directory.customers import Customers
from auth_portal.services.rehearsal.flow_setup import EXAMPLE_PAYMENT, ticket_fields
from auth_portal.services.verification.tickets import TicketRequest, Tickets
from auth_portal.store.db import Database, Transactions
from auth_portal.store.keys import furnish, load_keyring
from auth_portal.store.models import Base

ORIGIN = "https://drive.invalid"  # a name that never resolves (RFC 2606, 2)
ANY_REGION = "ZA"  # of the test person's phone, which does not exist, where no country is chosen
SUCCESS = {"external_link": 200, "wait_for_callback": 202}
REFERENCE_BYTES = 16
PASSWORD_WORDS = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "ivory", "jetty", "koala")


class TestPerson(BaseModel):
    """The one person in a drive's directory, with everything that a proof may need."""

    __test__ = False  # pytest would take it for a test
    model_config = ConfigDict(frozen=True)

    customer_id: str
    name: str
    phone: str
    email: str
    password: str
    totp_secret: str


class SentMessage(BaseModel):
    """A message as it would have been sent."""

    kind: str
    to: str
    subject: str
    text: str
    at: datetime


class SentCallback(BaseModel):
    """A callback as it would have been sent, and how the drive's receiver answered it."""

    path: str
    body: str
    status: int
    why: str
    at: datetime

    @property
    def content(self) -> dict[str, Any]:
        """Return the parsed body."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def is_accepted(self) -> bool:
        """Report whether the chat accepted it."""
        return self.status in SUCCESS.values()


class DriveState(BaseModel):
    """All of a drive between two requests."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    journey: JourneyConfig
    business: str
    reference: str
    path: str  # of the link
    locale: str = ""  # that the link asks for
    ticket: dict[str, str] = {}  # what the flow's API node sent for it, if the journey demands one
    person: TestPerson
    ends_at: datetime
    master_key: str
    tables: bytes = b""
    of: str = "live"  # or "draft"
    is_waiting: bool = True
    codes_typed: list[bool] = []
    has_passed: bool = False  # recorded in the audit once
    messages: list[SentMessage] = []
    callbacks: list[SentCallback] = []


class DriveDispatcher(Protocol):
    """What delivers in a portal that starts no threads."""

    def dispatch_due(self) -> None:
        """End what is due and deliver what is waiting, in this thread."""


class DrivePortal(Protocol):
    """The services of a drive's portal, as far as a drive needs them."""

    @property
    def tickets(self) -> Tickets:
        """Return what registers the drive's ticket."""

    @property
    def configuration(self) -> Configuration:
        """Return what imports the drive's journey."""

    @property
    def customers(self) -> Customers:
        """Return what creates the test person."""

    @property
    def dispatcher(self) -> DriveDispatcher:
        """Return what delivers for the drive."""


NOT_DRIVEN = ("time_zone", "notices_by", "retention", "alerts")  # settings of the portal that a customer never meets
BuildPortal = Callable[[Transactions, DeadEnd], DrivePortal]  # the one wiring, on a drive's database
Fold = Callable[[], bytes]


class DriveWorld:
    """One drive's portal, open."""

    def __init__(self, transactions: Transactions, state: DriveState, build_portal: BuildPortal) -> None:
        self.portal = build_portal(transactions, DeadEnd(self._take))
        self._clock = transactions.clock
        self._state = state

    def register_ticket(self) -> None:
        """Register a ticket as the flow's API node would: on the test person's phone, something is to be paid."""
        state = self._state
        msisdn = state.person.phone.removeprefix("+")  # as Flow knows a number
        asked = ticket_fields(state.journey, msisdn, state.reference)
        made = self.portal.tickets.register(TicketRequest(**asked, payment=EXAMPLE_PAYMENT))
        state.ticket, state.path = {**asked, "payment": EXAMPLE_PAYMENT.json}, made.path

    def _take(self, taken: CapturedRequest) -> int:
        """Answer a request that would have been sent: store a message, judge a callback as the chat would."""
        path, now = urlsplit(taken.url).path, self._clock()
        if path not in PATHS.values():
            values = json.loads(taken.body)
            self._state.messages.append(SentMessage(**values, kind=path.removeprefix("/"), at=now))
            return 200
        status, why = self._judge(path, taken, now)
        body = taken.body.decode()
        self._state.callbacks.append(SentCallback(path=path, body=body, status=status, why=why, at=now))
        self._state.is_waiting = self._state.is_waiting and status not in SUCCESS.values()
        return status

    def _judge(self, path: str, taken: CapturedRequest, now: datetime) -> tuple[int, str]:
        state, contract = self._state, self._state.journey.callback.contract
        references = {taken.headers.get("reference"), json.loads(taken.body).get("reference")}
        if references != {state.reference}:
            return 400, "unknown"
        if path != PATHS[contract]:
            return 400, "path"
        if now >= state.ends_at:
            return 400, "ended"
        return (SUCCESS[contract], "") if state.is_waiting else (400, "answered")


@contextmanager
def open_world(state: DriveState, clock: Clock, build_portal: BuildPortal) -> Iterator[DriveWorld]:
    """Yield the world of a drive; what happened in the block, and was due then, is in the state afterwards."""
    with unfolded(state.tables) as (database, fold):
        keyring = load_keyring(database, MasterKeys((state.master_key,)))
        world = DriveWorld(Transactions(database, keyring, clock), state, build_portal)
        yield world
        world.portal.dispatcher.dispatch_due()
        state.tables = fold()


def prepare_drive(
    state: DriveState, snapshot: Snapshot, clock: Clock, build_portal: BuildPortal, logos: Sequence[bytes]
) -> None:
    """Fill the tables of a new drive like those of the real portal. Raise BadConfig if its journey cannot be live."""
    with unfolded(empty_tables()) as (database, fold):
        master = MasterKeys((state.master_key,))
        furnish(database, master, clock())
        transactions = Transactions(database, load_keyring(database, master), clock)
        portal = DriveWorld(transactions, state, build_portal).portal
        for logo in logos:
            portal.configuration.keep_logo(logo)
        portal.configuration.import_toml(_config(state.journey, snapshot), file_name="drive")
        created = portal.customers.create(state.person.model_dump())
        assert not created.faults, created.faults
        if state.journey.defence.demands_ticket:
            # By a second portal: the first one may have read its configuration before the import.
            DriveWorld(transactions, state, build_portal).register_ticket()
        state.tables = fold()


@cache
def empty_tables() -> bytes:
    """Return a folded database with every table and no row."""
    with unfolded(b"") as (database, fold):
        with database.write() as connection:
            Base.metadata.create_all(connection)
        return fold()


@contextmanager
def unfolded(folded: bytes) -> Iterator[tuple[Database, Fold]]:
    """Yield the database of these bytes, in a folder for this user alone, and what folds it up as it is then."""
    with TemporaryDirectory(prefix="auth-portal-") as folder:
        path = Path(folder) / "folded.db"
        path.touch(mode=0o600)
        path.write_bytes(zlib.decompress(folded) if folded else b"")
        with closing(Database(f"sqlite:///{path}")) as database:

            def fold() -> bytes:
                if not database.compact():
                    raise RuntimeError("another connection is reading the database that is being packed")
                return zlib.compress(path.read_bytes())

            yield database, fold


def new_state(journey: JourneyConfig, snapshot: Snapshot, *, ends_at: datetime, of: str) -> DriveState:
    """Return the state of a new drive of a journey, without tables yet. ``of`` is ``live`` or ``draft``.

    The test person's phone is of a country that the journey's SMS channel sends to.
    """
    sms, region = snapshot.channel_for(journey, "sms"), snapshot.portal.default_region or ANY_REGION
    if sms is not None and sms.countries and region not in sms.countries:
        region = sms.countries[0]
    number = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
    assert number is not None, f"every region has mobile phones, {region} too"
    person = TestPerson(
        customer_id="TEST-1",
        name="Test Person",
        phone=phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164),
        email="test.person@example.com",
        password=" ".join(secrets.choice(PASSWORD_WORDS) for _ in range(5)) + f" {secrets.randbelow(10_000):04d}",
        totp_secret=pyotp.random_base32(),
    )
    return DriveState(
        journey=journey,
        business=snapshot.portal.name,
        reference=f"drive-{secrets.token_urlsafe(REFERENCE_BYTES)}",
        path="/" if journey.default else f"/j/{journey.slug}",
        person=person,
        ends_at=ends_at,
        of=of,
        master_key=secrets.token_urlsafe(32),
    )


def _config(journey: JourneyConfig, snapshot: Snapshot) -> str:
    """Return the real configuration as far as it concerns this journey, with all addresses leading nowhere."""
    channels = []
    for kind in ("sms", "email"):
        if (real := snapshot.channel_for(journey, kind)) is not None:
            fields = {"to": "{to}", "subject": "{subject}" if kind == "email" else "", "text": "{text}"}
            stand_in = {
                "name": f"drive-{kind}",
                "carries": kind,
                "url": f"{ORIGIN}/{kind}",
                "body": json.dumps(fields),
                # An inbox sends to every country; its stand-in must name countries, so it names the test person's.
                "countries": real.countries or (snapshot.portal.default_region or ANY_REGION,),
                "daily_cap": 1000,
            }
            channels.append(HttpConfig.model_validate(stand_in).model_dump(mode="json", exclude_none=True))
    driven = {
        **journey.stored(),
        "active": True,
        "channels": [channel["name"] for channel in channels],
        "callback": {"server": ORIGIN, "contract": journey.callback.contract},
    }
    portal = {key: value for key, value in snapshot.portal.stored().items() if key not in NOT_DRIVEN}
    return tomli_w.dumps({"portal": portal, "channels": channels, "journeys": [driven]})
