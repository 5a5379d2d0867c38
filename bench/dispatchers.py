"""Ten dispatchers, each a process, over one outbox: how fast it empties, and whether any callback leaves twice.

`python -m bench dispatchers [--database sqlite|postgresql]`
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from bench.lists import a_database
from tests.outbox.test_many_dispatchers import DISPATCHERS, assert_once, fill, wait_until_sent
from tests.postgres import MASTER_KEY, install
from tests.programs import Program
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.world import CONFIG, STANDARD, configure

SIZES = (1_000, 10_000)


def main(databases: Sequence[str]) -> int:
    """Measure and print. Raise AssertionError if a callback was lost or sent twice."""
    for name in databases:
        for size in SIZES:
            with tempfile.TemporaryDirectory(prefix="bench-dispatchers-") as folder:
                _measure(name, Path(folder), size)
    return 0


def environment_of(folder: Path, database_url: str) -> dict[str, str]:
    """What a dispatcher of a portal in this folder is started with."""
    return {
        "PATH": str(Path(sys.executable).parent),
        "PORTAL_INSTANCE": str(folder),
        "PORTAL_DATABASE_URL": database_url,
        "PORTAL_SECRET_KEYS": MASTER_KEY,
        "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
    }


@contextmanager
def dispatching(folder: Path, database_url: str) -> Iterator[list[Path]]:
    """Run `auth-portal dispatch` so many times, all at work before there is any; yield their logs."""
    environment = environment_of(folder, database_url)
    logs = [folder / f"dispatcher-{number}.log" for number in range(DISPATCHERS)]
    programs = [Program(["flask", "--app", "app", "dispatch"], environment, out=log, err=log) for log in logs]
    try:
        wait_for(lambda: all("dispatcher_started" in log.read_text() for log in logs))
        yield logs
    finally:
        for program in programs:
            program.terminate()
        for program in programs:
            program.wait(GIVE_UP_SECONDS)


def _measure(name: str, folder: Path, size: int) -> None:
    receiver = Receiver()
    with a_database(name, folder) as url:
        install(folder, url)
        configure(url, receiver, CONFIG + STANDARD)
        with dispatching(folder, url) as logs:
            fill(url, receiver, size)
            began = time.monotonic()
            wait_until_sent(url, size)
            seconds = time.monotonic() - began
        assert_once(url, receiver, size)
    receiver.close()
    least = min(log.read_text().count("callback_attempted") for log in logs)
    print(
        f"{name:10} {DISPATCHERS} dispatchers, {size:6,} callbacks: each sent once, {size / seconds:5.0f} a second,"
        f" the least busy one sent {least}  ({datetime.now(UTC):%Y-%m-%d})",
        flush=True,
    )
