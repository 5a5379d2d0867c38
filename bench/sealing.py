"""What the sealing of the audit trail costs (E4): transactions a second that each record one event, with and without.

`python -m bench sealing [--database sqlite|postgresql]`
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from pathlib import Path

from sqlalchemy import func, select

from auth_portal.clock import system_clock
from auth_portal.crypto import MasterKeys
from auth_portal.services.audit_chain import Sealer
from auth_portal.store.db import Database, Transactions
from auth_portal.store.keys import load_keyring
from auth_portal.store.models import AuditEvent
from bench.lists import a_database
from tests.postgres import MASTER_KEY, install

WRITERS = 8  # processes with one connection each
SECONDS = 8.0
ROUNDS = 3  # of each kind, in turn


def main(databases: Sequence[str]) -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dialect in databases:
            with a_database(dialect, folder) as url:
                install(folder, url)
                for _ in range(ROUNDS):
                    for is_sealing in (False, True):
                        count, unsealed = _measured(url, is_sealing=is_sealing)
                        kind = f"sealed each second, {unsealed} not yet" if is_sealing else "without sealing"
                        print(f"{dialect:10} {count / SECONDS:8.0f} transactions/s, {kind}", flush=True)
    return 0


def _measured(url: str, *, is_sealing: bool) -> tuple[int, int]:
    """Return how many transactions committed, and how many events were in no block at the end."""
    starting, stopping, written = multiprocessing.Event(), multiprocessing.Event(), multiprocessing.Value("i", 0)
    writers = [multiprocessing.Process(target=_write, args=(url, starting, stopping, written)) for _ in range(WRITERS)]
    if is_sealing:
        writers.append(multiprocessing.Process(target=_seal, args=(url, stopping)))
    for writer in writers:
        writer.start()
    time.sleep(2)  # until all are connected
    starting.set()
    time.sleep(SECONDS)
    stopping.set()
    for writer in writers:
        writer.join()
    database = Database(url)
    with database.read() as connection:
        unsealed = connection.execute(select(func.count()).where(AuditEvent.block.is_(None))).scalar_one()
    database.close()
    return written.value, unsealed


def _transactions(url: str) -> Transactions:
    database = Database(url)
    return Transactions(database, load_keyring(database, MasterKeys((MASTER_KEY,))), system_clock)


def _write(url: str, starting: Event, stopping: Event, written: object) -> None:
    transactions, count = _transactions(url), 0
    starting.wait()
    while not stopping.is_set():
        with transactions.write() as work:
            work.record("proof_failed", verification_id="0" * 32, method="sms_code")
        count += 1
    with written.get_lock():  # type: ignore[attr-defined]
        written.value += count  # type: ignore[attr-defined]


def _seal(url: str, stopping: Event) -> None:
    sealer = Sealer(_transactions(url))
    while not stopping.wait(1.0):
        while sealer.seal():
            pass
