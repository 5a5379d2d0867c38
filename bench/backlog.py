"""What looking for work costs while very many results wait for one server, on SQLite and PostgreSQL.

A look and a claim, with more and more waiting. An exponent near 0 means that a backlog costs
nothing, 1 that it costs as much as it is long.
`python -m bench backlog [--database sqlite|postgresql]`
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import text

from auth_portal.crypto import MasterKeys
from auth_portal.services.delivery.outbox import Outbox
from auth_portal.store.db import Database, Transactions
from auth_portal.store.keys import load_keyring
from auth_portal.store.models import CALLBACK
from bench.lists import a_database
from tests.outbox.test_backlog import FLOW, analyse, fill
from tests.postgres import MASTER_KEY, install
from tests.services.conftest import NOW, unheard

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS = 31
MOST_EXPONENT = 0.2


def main(databases: list[str]) -> int:
    """Measures; 1 where a backlog costs more than it may."""
    is_well = True
    for name in databases:
        with tempfile.TemporaryDirectory(prefix="bench-backlog-") as folder, a_database(name, Path(folder)) as url:
            install(Path(folder), url)
            is_well = measure(name, url) and is_well
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


def _median(act: Callable[[], object]) -> float:
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        act()
        found.append((time.perf_counter() - began) * 1000)
    return sorted(found)[ROUNDS // 2]
