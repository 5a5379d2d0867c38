"""The portal that a test drive runs in: tables, keys, directory and outbox of its own, and no way out.

It shares the code with the real one, so that what is driven is what customers get, and nothing else: one test person
is all its directory knows, its data keys are its own, and what it sends ends in ``DeadEnd``. No real customer can be
named in it, and no answer of it can reach a chat.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import phonenumbers
import pyotp
import tomli_w
from pydantic import BaseModel, ConfigDict

from auth_portal.clock import Clock
from auth_portal.crypto import MasterKeys, Passwords
from auth_portal.gateways.dead_end import DeadEnd, Taken
from auth_portal.gateways.flow import PATHS, FlowGateway
from auth_portal.methods.contract import Method
from auth_portal.services.alerts.webhooks import Webhooks
from auth_portal.services.config import logos
from auth_portal.services.config.configuration import Configuration
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.deliveries import Deliverer
from auth_portal.services.directory.directory import Directory
from auth_portal.services.journeys import Journeys, Snapshot
from auth_portal.services.messages import Texts
from auth_portal.services.operations.keys import furnish, load_keyring
from auth_portal.services.outbox import CALLBACK, MESSAGE, Outbox
from auth_portal.services.setup.flow_setup import EXAMPLES, ticket_fields
from auth_portal.services.tickets import Tickets
from auth_portal.services.verifications import Verifications
from auth_portal.store import folded
from auth_portal.store.db import Database

ORIGIN = "https://drive.invalid"  # a name that never resolves (RFC 2606, 2)
SUCCESS = {"external_link": 200, "wait_for_callback": 202}
ROUNDS = 50  # of deliveries at once; a drive has a handful
PASSWORD_WORDS = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "ivory", "jetty", "koala")


class TestPerson(BaseModel):
    """The one person in a drive's directory, with all that can be proved with."""

    __test__ = False  # pytest would take it for a test
    model_config = ConfigDict(frozen=True)

    customer_id: str
    name: str
    phone: str
    email: str
    password: str
    totp_secret: str


class SentMessage(BaseModel):
    """A message as it would have left."""

    kind: str
    to: str
    subject: str
    text: str
    at: datetime


class SentCallback(BaseModel):
    """A callback as it would have left, and how the drive's receiver answered it."""

    path: str
    body: str
    status: int
    why: str
    at: datetime

    @property
    def content(self) -> dict[str, Any]:
        """The body, read."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def is_accepted(self) -> bool:
        """Whether the chat took it."""
        return self.status in SUCCESS.values()


class DriveState(BaseModel):
    """All of a drive, between two requests."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    journey: JourneyConfig
    business: str
    reference: str
    path: str  # of the link
    ticket: dict[str, str] = {}  # what the flow's API node sent for it, where the journey demands one
    person: TestPerson
    ends_at: datetime
    master_key: str
    tables: bytes = b""
    of: str = "live"  # or "draft"
    is_waiting: bool = True
    codes_typed: list[bool] = []
    has_passed: bool = False  # noted in the audit, once
    messages: list[SentMessage] = []
    callbacks: list[SentCallback] = []


class Parts:
    """What worlds are made with, the same for all of them. Nothing in it knows a customer."""

    def __init__(self, clock: Clock, methods: Mapping[str, Method], passwords: Passwords, texts: Texts) -> None:
        self.clock = clock
        self.methods = methods
        self.passwords = passwords
        self.texts = texts


class World:
    """One drive's portal, open."""

    def __init__(self, database: Database, state: DriveState, parts: Parts) -> None:
        clock = parts.clock
        self._state = state
        self._clock = clock
        self.keyring = load_keyring(database, MasterKeys((state.master_key,)))
        self.journeys = Journeys(database, self.keyring, has_sandbox=False)
        self.tickets = Tickets(database, self.keyring, clock, self.journeys)
        self.verifications = Verifications(
            database, self.keyring, clock, self.journeys, parts.methods, parts.passwords, self.tickets, lambda: None
        )
        self._outbox = Outbox(database, clock)
        way_out = DeadEnd(self._take)
        self._deliverer = Deliverer(
            database, self.keyring, clock, self.journeys, self._outbox, FlowGateway(way_out, sandbox_url=""), way_out,
            parts.texts, Webhooks(database, self.keyring, clock, way_out), sandbox_url="",
        )  # fmt: skip

    def register_ticket(self) -> None:
        """Does what the flow's API node would: says that the chat is the test person's phone, and what it is about."""
        state = self._state
        msisdn = state.person.phone.removeprefix("+")  # as Flow knows a number
        asked = ticket_fields(state.journey, msisdn, state.reference) | {"purpose": EXAMPLES["purpose"]}
        made = self.tickets.register(
            journey=asked["journey"],
            msisdn=asked["msisdn"],
            purpose=asked["purpose"],
            reference=asked.get("reference", ""),
        )
        state.ticket, state.path = asked, made.path

    def settle(self) -> None:
        """Does what the dispatcher does elsewhere: ends what is due, and delivers what is waiting."""
        self.verifications.endings.expire_due()
        for kind in (MESSAGE, CALLBACK):
            for claimed in self._outbox.claim(kind, ROUNDS):
                self._deliverer.deliver(claimed)

    def _take(self, taken: Taken) -> int:
        """What would have left: a message is kept, a callback judged as the chat would."""
        path, now = urlsplit(taken.url).path, self._clock()
        if path not in PATHS.values():
            values = json.loads(taken.body)
            self._state.messages.append(SentMessage(**values, kind=path.removeprefix("/"), at=now))
            return 200
        status, why = self._judged(path, taken, now)
        body = taken.body.decode()
        self._state.callbacks.append(SentCallback(path=path, body=body, status=status, why=why, at=now))
        self._state.is_waiting = self._state.is_waiting and status not in SUCCESS.values()
        return status

    def _judged(self, path: str, taken: Taken, now: datetime) -> tuple[int, str]:
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
def opened(state: DriveState, parts: Parts) -> Iterator[World]:
    """The world of a drive for the time of a block; what happened in it is in the state afterwards."""
    with folded.unfolded(state.tables) as (database, fold):
        world = World(database, state, parts)
        yield world
        world.settle()
        state.tables = fold()


def new_state(
    journey: JourneyConfig, snapshot: Snapshot, parts: Parts, *, reference: str, ends_at: datetime, of: str,
    picture: bytes = b"",
) -> DriveState:  # fmt: skip
    """A drive of a journey at its beginning, in a portal like the real one; ``picture`` is the journey's logo.

    Raises BadConfig where the journey could not be live: then there is nothing to drive.
    """
    person = _test_person(_region(journey, snapshot))
    state = DriveState(
        journey=journey,
        business=snapshot.portal.name,
        reference=reference,
        path="/" if journey.default else f"/j/{journey.slug}",
        person=person,
        ends_at=ends_at,
        of=of,
        master_key=secrets.token_urlsafe(32),
    )
    with folded.unfolded(folded.empty()) as (database, fold):
        master = MasterKeys((state.master_key,))
        furnish(database, master, parts.clock())
        keyring = load_keyring(database, master)
        if picture:
            with database.write() as connection:
                logos.keep(connection, parts.clock(), picture)
        configuration = Configuration(database, keyring, parts.clock, has_sandbox=False, check_origin=lambda _url: None)
        configuration.import_toml(_config(journey, snapshot), file_name="drive")
        directory = Directory(database, keyring, parts.passwords, parts.clock)
        report = directory.import_csv(_csv(person), default_region="ZA", dry_run=False)
        assert report.new == 1, report.lines
        if journey.relay_defence == "phone_match":
            World(database, state, parts).register_ticket()
        state.tables = fold()
    return state


def _config(journey: JourneyConfig, snapshot: Snapshot) -> str:
    """The real configuration as far as this journey meets it, with a receiver and channels that lead nowhere."""
    channels = [_channel(kind, snapshot, journey) for kind in ("sms", "email") if snapshot.channel_for(journey, kind)]
    driven = {
        **journey.model_dump(mode="json"),
        "active": True,
        "channels": [channel["name"] for channel in channels],
        "callback": {"server": ORIGIN, "contract": journey.callback.contract},
    }
    portal = snapshot.portal.model_dump(mode="json", include={"name", "default_region", "support_contact", "limits"})
    return tomli_w.dumps({"portal": portal, "channels": channels, "journeys": [driven]})


def _channel(kind: str, snapshot: Snapshot, journey: JourneyConfig) -> dict[str, object]:
    real = snapshot.channel_for(journey, kind)
    assert real is not None, "asked for above"
    fields = {"to": "{to}", "subject": "{subject}" if kind == "email" else "", "text": "{text}"}
    return {
        "name": f"drive-{kind}",
        "kind": "http",
        "carries": kind,
        "method": "POST",
        "url": f"{ORIGIN}/{kind}",
        "content_type": "application/json",
        "body": json.dumps(fields),
        # An inbox sends everywhere; what takes its place here must name countries, so it names the test person's.
        "countries": list(real.countries) or [snapshot.portal.default_region],
        "daily_cap": 1000,
    }


def _region(journey: JourneyConfig, snapshot: Snapshot) -> str:
    """A country that the journey's SMS channel sends to."""
    sms, home = snapshot.channel_for(journey, "sms"), snapshot.portal.default_region
    return home if sms is None or not sms.countries or home in sms.countries else sms.countries[0]


def _test_person(region: str) -> TestPerson:
    number = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
    assert number is not None, f"every region has mobile phones, {region} too"
    return TestPerson(
        customer_id="TEST-1",
        name="Test Person",
        phone=phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164),
        email="test.person@example.com",
        password=" ".join(secrets.choice(PASSWORD_WORDS) for _ in range(5)) + f" {secrets.randbelow(10_000):04d}",
        totp_secret=pyotp.random_base32(),
    )


def _csv(person: TestPerson) -> bytes:
    values = person.model_dump()
    return f"{','.join(values)}\n{','.join(values.values())}\n".encode()
