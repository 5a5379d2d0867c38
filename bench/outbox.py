"""One dispatcher that empties an outbox: rows a second with a real POST each, and the CPU of one row.

Flow answers at once, or after 20 ms. Each row counts only if the database says `accepted`.
`python -m bench outbox [--database sqlite|postgresql]`
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

from bench.dispatchers import environment_of
from bench.drain import draining
from bench.lists import a_database
from bench.portal import postgres_cpu
from tests.outbox.test_many_dispatchers import fill, wait_until_sent
from tests.postgres import install
from tests.programs import Program
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.world import CONFIG, STANDARD, configure

ROWS = 3_000
ANSWER_SECONDS = (0.0, 0.02)


def main(databases: Sequence[str]) -> int:
    """Measure and print."""
    for name in databases:
        for seconds in ANSWER_SECONDS:
            with tempfile.TemporaryDirectory(prefix="bench-outbox-") as folder, a_database(name, Path(folder)) as url:
                _measure(name, Path(folder), url, seconds)
    return 0


def _measure(name: str, folder: Path, url: str, seconds: float) -> None:
    environment = environment_of(folder, url)
    of_database, receiver = postgres_cpu(url), Receiver()
    install(folder, url)
    configure(url, receiver, CONFIG + STANDARD)
    log = folder / "dispatcher.log"
    with draining(seconds) as drain:
        program = Program(["flask", "--app", "app", "dispatch"], environment, out=log, err=log)
        try:
            wait_for(lambda: "dispatcher_started" in log.read_text())
            fill(url, drain, ROWS)
            process = psutil.Process(program.pid)

            def cpu() -> float:
                times = process.cpu_times()
                return float(times.user + times.system) + of_database()

            before, began = cpu(), time.monotonic()
            wait_until_sent(url, ROWS)
            took, used = time.monotonic() - began, cpu() - before
            assert drain.count == ROWS
        finally:
            program.terminate()
            program.wait(GIVE_UP_SECONDS)
    receiver.close()
    print(
        f"{name:10} one dispatcher, {ROWS:,} results, Flow answers in {1000 * seconds:2.0f} ms:"
        f" {ROWS / took:5.0f} a second, {1000 * used / ROWS:.2f} ms of CPU each  ({datetime.now(UTC):%Y-%m-%d})",
        flush=True,
    )
