"""Looks at everything a portal needs and says what is well and what is not. Sends no message and no callback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select, text

from auth_portal.clock import Clock, iso
from auth_portal.crypto import Keyring, MasterKeys
from auth_portal.errors import Misconfigured
from auth_portal.gateways.channels import Handover, open_channel
from auth_portal.gateways.flow import REACHABLE, FlowGateway
from auth_portal.gateways.outbound import NetworkPolicy, Outbound
from auth_portal.services.journeys import Journeys, Snapshot
from auth_portal.services.operations.keys import load_keyring
from auth_portal.services.operations.opening import plain_faults
from auth_portal.settings import Settings
from auth_portal.store.db import Database, schema_fault
from auth_portal.store.models import AuditEvent

CLOCK_SECONDS = 5.0  # codes of an authenticator app forgive 30, the chat clock hardly any
NO_EARLIER = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    is_well: bool
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.is_well else 'FAIL'} {self.subject}: {self.detail}"


def examine(settings: Settings, clock: Clock) -> Iterator[Finding]:
    """Every finding, in the order of what needs what. Asks servers only whether they can be reached."""
    yield Finding(True, "settings", "all can be used")
    yield _public_url(settings)
    yield _sandbox(settings)
    keys = _looked_at("keys", lambda: _keys(settings))
    yield keys
    schema = _looked_at("database", lambda: _schema(settings))
    yield schema
    if keys.is_well and schema.is_well:
        with closing(Database(settings.database)) as database:
            yield from _installed(settings, database, clock)


def _looked_at(subject: str, look: Callable[[], str]) -> Finding:
    """What was found, or why it could not be."""
    try:
        with plain_faults():
            return Finding(True, subject, look())
    except Misconfigured as fault:
        return Finding(False, subject, " ".join(fault.faults))


def _public_url(settings: Settings) -> Finding:
    is_well = settings.is_https or settings.is_loopback
    advice = "" if is_well else " is not encrypted: codes and passwords can be read on their way; put TLS in front"
    return Finding(is_well, "public URL", settings.public_url + advice)


def _sandbox(settings: Settings) -> Finding:
    if not settings.has_sandbox:
        return Finding(True, "sandbox", "off")
    return Finding(True, "sandbox", "on: everybody who reaches this portal can read its test inbox")


def _keys(settings: Settings) -> str:
    keys = settings.master_keys()
    MasterKeys(keys)
    return f"{len(keys)} found, the first one in use"


def _schema(settings: Settings) -> str:
    if fault := schema_fault(settings.database):
        raise Misconfigured(fault)
    return "migrated as this version needs it"


def _installed(settings: Settings, database: Database, clock: Clock) -> Iterator[Finding]:
    yield _looked_at("clock", lambda: _clock(database, clock()))
    found: list[Keyring] = []

    def load() -> str:
        found.append(load_keyring(database, MasterKeys(settings.master_keys())))
        return "they open this database"

    yield _looked_at("data keys", load)
    if found:
        yield from _configured(settings, Journeys(database, found[0], has_sandbox=settings.has_sandbox))


def _clock(database: Database, now: datetime) -> str:
    if now < NO_EARLIER:
        raise Misconfigured(f"it is {iso(now)} here, which cannot be; set this machine's clock")
    with database.read() as connection:
        newest = connection.execute(select(func.max(AuditEvent.at))).scalar()
        theirs = None if database.is_sqlite else connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    if newest is not None and newest - now > timedelta(seconds=CLOCK_SECONDS):
        raise Misconfigured(f"it is {iso(now)} here, but something was recorded at {iso(newest)}; set the clocks")
    if theirs is not None and abs((theirs - now).total_seconds()) > CLOCK_SECONDS:
        raise Misconfigured(f"it is {iso(now)} here and {iso(theirs)} at the database; set the clocks")
    return iso(now)


def _configured(settings: Settings, journeys: Journeys) -> Iterator[Finding]:
    snapshots: list[Snapshot] = []

    def load() -> str:
        snapshots.append(journeys.current())
        active = sum(now.config.active for now in snapshots[0].journeys.values())
        return f"{active} active journeys, {len(snapshots[0].channels)} channels"

    yield _looked_at("configuration", load)
    if not snapshots:
        return
    outbound = Outbound(NetworkPolicy.from_settings(settings))
    yield from _channels(snapshots[0], outbound, settings.sandbox_url)
    yield from _servers(snapshots[0], FlowGateway(outbound, sandbox_url=settings.sandbox_url))
    for slug, now in snapshots[0].journeys.items():
        if now.config.active and not snapshots[0].is_open(now.config):
            yield Finding(False, f"journey {slug}", "nobody can get through it: a channel or the sandbox is missing")


def _channels(snapshot: Snapshot, outbound: Outbound, sandbox_url: str) -> Iterator[Finding]:
    for name, config in snapshot.channels.items():
        receipt = open_channel(config, outbound, sandbox_url=sandbox_url).check()
        yield Finding(receipt.handover is Handover.ACCEPTED, f"channel {name}", receipt.detail)


def _servers(snapshot: Snapshot, flow: FlowGateway) -> Iterator[Finding]:
    servers = {now.config.callback.server for now in snapshot.journeys.values() if now.config.active}
    for server in sorted(servers):
        answer = flow.ping(server)
        yield Finding(answer == REACHABLE, f"callback server {server}", answer)
