"""Serve customers without a break and without faults, behind nginx, and look for what grows: ``make soak``.

Two nodes of this code on one PostgreSQL. Memory, open files and the time of a verification are sampled; the last fifth of
the time is compared with the second, because caches fill at first. Faults are what ``make campaign`` plays.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.postgres import fresh_postgres
from tests.releases.rolling import LOAD, Node, Rolling, behind_nginx, this_code

SAMPLE_SECONDS = 5
MOST_MEMORY = 1.05  # times what it was
MOST_FILES = 4  # more, of all processes together: connections come and go
MOST_TIME = 1.5  # times what it was, by the median: other programs run on the machine


class Sample(NamedTuple):
    """What all processes of the nodes have, and how long the verifications since the last sample took."""

    memory: int  # bytes of their own (USS)
    files: int
    seconds: list[float]


def sample(soak: Rolling, nodes: list[Node]) -> Sample:
    """Look at the processes of the nodes."""
    found = [process for node in nodes for process in node.processes()]
    taken = [soak.seconds.popleft() for _ in range(len(soak.seconds))]
    memory = sum(process.memory_full_info().uss for process in found)
    return Sample(memory, sum(process.num_fds() for process in found), taken)


def run(folder: Path, url: str, minutes: float) -> None:
    """Soak for so long. Raise AssertionError if anything grew, failed or was lost."""
    code = this_code()
    with behind_nginx(folder, url, code) as (soak, nodes):
        for node in nodes:
            node.start(code)
        samples: list[Sample] = []
        ends_at = time.monotonic() + minutes * 60
        with soak.customers(LOAD):
            while time.monotonic() < ends_at:
                time.sleep(SAMPLE_SECONDS)
                samples.append(sample(soak, nodes))
                if len(samples) % 12 == 0:
                    say(samples[-12:])
        soak.settle()
        counted = soak.check()
    fifth = len(samples) // 5
    early, late = samples[fifth : 2 * fifth], samples[-fifth:]
    memory = [statistics.median(one.memory for one in part) for part in (early, late)]
    files = [statistics.median(one.files for one in part) for part in (early, late)]
    times = [statistics.median(taken for one in part for taken in one.seconds) for part in (early, late)]
    print(
        f"{dict(counted)}; memory {memory[1] / memory[0]:.3f}, files {files[1] - files[0]:+g}, times {times[1] / times[0]:.2f}"
    )
    assert memory[1] <= MOST_MEMORY * memory[0], memory
    assert files[1] <= MOST_FILES + files[0], files
    assert times[1] <= MOST_TIME * times[0], times
    assert not soak.seen.unanswered, soak.seen.unanswered
    assert not soak.seen.pages, soak.seen.pages


def say(samples: list[Sample]) -> None:
    """Print one line about a minute."""
    taken = sorted(seconds for one in samples for seconds in one.seconds)
    middle, high = statistics.median(taken), taken[int(len(taken) * 0.95)]
    print(
        f"{len(taken)} verified, {middle * 1000:.0f} ms (95 %: {high * 1000:.0f}), {samples[-1].memory / 2**20:.0f} MiB, "
        f"{samples[-1].files} files",
        flush=True,
    )


def main() -> None:
    """Soak in a folder of its own."""
    options = argparse.ArgumentParser(prog="python -m tests.deploy.soak")
    options.add_argument("--minutes", type=float, default=30)
    chosen = options.parse_args()
    with fresh_postgres(is_installed=False) as url, tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        run(Path(made), url, chosen.minutes)


if __name__ == "__main__":
    main()
