"""What looking for work costs while very many results wait for one server, on SQLite and PostgreSQL.

A look and a claim, with more and more waiting. An exponent near 0 means that a backlog costs
nothing, 1 that it costs as much as it is long. Then right codes of eight connections, whose results are sent, in turns
with and without a backlog that drains meanwhile to a Flow that takes 20 ms.
`python -m bench backlog [--database sqlite|postgresql]`
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import make_url, text

from auth_portal.crypto import MasterKeys
from auth_portal.services.delivery.outbox import Outbox
from auth_portal.store.db import Database, Transactions
from auth_portal.store.keys import load_keyring
from auth_portal.store.models import CALLBACK
from bench.drain import draining
from bench.lists import a_database
from bench.load import CHECKS, WARM, CodePages, send
from tests.outbox import test_many_dispatchers
from tests.outbox.test_backlog import FLOW, analyse, fill
from tests.postgres import MASTER_KEY, install, make_database
from tests.receiver import Receiver, wait_for
from tests.services.conftest import NOW, unheard
from tests.serving import serving

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS = 31
MOST_EXPONENT = 0.2
FLOW_SECONDS, BACKLOG = 0.02, 4_000  # of results for customers who are there: more than leave during a round
PAIRS = 5


def main(databases: list[str]) -> int:
    """Measures; 1 where a backlog costs more than it may."""
    is_well = True
    for name in databases:
        with tempfile.TemporaryDirectory(prefix="bench-backlog-") as folder, a_database(name, Path(folder)) as url:
            install(Path(folder), url)
            is_well = measure(name, url) and is_well
            beside_customers(name, Path(folder), url)
    return 0 if is_well else 1


def measure(name: str, url: str) -> bool:
    """Prints the median of each size; whether both exponents are low enough."""
    database = Database(url)
    transactions = Transactions(database, load_keyring(database, MasterKeys((MASTER_KEY,))), lambda: NOW)
    outbox = Outbox(transactions, unheard)
    acts: dict[str, Callable[[], object]] = {
        "a look, Flow full": lambda: outbox.has_due(CALLBACK, [FLOW]),
        "a claim of one": lambda: outbox.claim(CALLBACK, 1),
    }
    found: dict[str, list[float]] = {what: [] for what in acts}
    for size in SIZES:
        with database.write_much() as connection:
            connection.execute(text("DELETE FROM attempts"))
            connection.execute(text("DELETE FROM deliveries"))
        fill(database, size)
        analyse(database)
        for what, act in acts.items():
            found[what].append(_median(act))
    database.close()
    print(f"{name}, with {', '.join(f'{size:,}' for size in SIZES)} waiting  ({datetime.now(UTC):%Y-%m-%d})")
    is_well = True
    for what, times in found.items():
        exponent = math.log(times[-1] / times[0]) / math.log(SIZES[-1] / SIZES[0])
        is_well = is_well and exponent <= MOST_EXPONENT
        print(f"  {what:18} {'  '.join(f'{milliseconds:7.2f}' for milliseconds in times)} ms, exponent {exponent:.2f}")
    return is_well


def beside_customers(name: str, folder: Path, url: str) -> None:
    """Print how many codes a second are checked without a backlog and with one."""
    with draining(FLOW_SECONDS) as drain, closing(Receiver()) as receiver:
        if name == "postgresql":
            make_database(url, "beside", "template0")
            url = make_url(url).set(database="beside").render_as_string(hide_password=False)
        else:
            url = f"sqlite:///{folder / 'beside.db'}"
        portal = CodePages(folder / "beside", url, "gunicorn", receiver, drain, 2 * PAIRS)
        with serving(portal.server, PORTAL_DISPATCH="inline"):
            portal.visits.begin(portal.server, WARM + 2 * PAIRS * CHECKS)
            found: dict[bool, list[float]] = {False: [], True: []}
            for number in range(2 * PAIRS + 1):
                has_backlog = number > 0 and number % 2 == 0
                if has_backlog:
                    test_many_dispatchers.fill(url, drain, BACKLOG)
                requests = portal.checks(number)
                began = time.perf_counter()
                send(portal.server.port, requests, b"HTTP/1.1 303")
                rate = len(requests) / (time.perf_counter() - began)
                if number:
                    found[has_backlog].append(rate)
                assert _waiting(url) or not has_backlog, "the backlog was gone before the customers were"
                wait_for(lambda: not _waiting(url))
    without, beside = (statistics.median(found[one]) for one in (False, True))
    print(
        f"{name}, codes a second, median of {PAIRS} rounds without a backlog {without:.0f}, with one {beside:.0f}"
        f" ({beside / without - 1:+.0%}); load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def _waiting(url: str) -> int:
    with closing(Database(url)) as database, database.read() as connection:
        waiting = text("SELECT count(*) FROM deliveries WHERE kind = 'callback' AND state = 'pending'")
        return int(connection.execute(waiting).scalar_one())


def _median(act: Callable[[], object]) -> float:
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        act()
        found.append((time.perf_counter() - began) * 1000)
    return sorted(found)[ROUNDS // 2]
