"""`make bench`: what is fast and how fast, measured here and now."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench import (
    backlog,
    cost,
    dispatchers,
    imports,
    lists,
    load,
    metrics,
    outbox,
    posts,
    recovery,
    retention,
    sealing,
    slow,
    timing,
)
from bench.portal import Quick, phone, portal, pss_mib
from tests.receiver import Receiver, wait_for
from tests.serving import serving

ROUNDS = 300
OF_DATABASES = {
    "lists": lists,
    "backlog": backlog,
    "cost": cost,
    "dispatchers": dispatchers,
    "outbox": outbox,
    "sealing": sealing,
    "metrics": metrics,
}


def code_to_callback(folder: Path, receiver: Receiver, server: str) -> list[float]:
    """Milliseconds from posting the right code to the callback's arrival, one at a time."""
    found = []
    running = portal(folder / f"latency-{server}", receiver, server=server, workers=2)
    with serving(running):
        quick = Quick(running.port)
        for number in range(ROUNDS):
            quick.fresh()
            fields = quick.begin(f"latency-{number}", number)
            wait_for(lambda: any(message["to"] == phone(number) for message in receiver.messages[-5:]))  # noqa: B023
            so_far = len(receiver.callbacks)
            began = time.monotonic()
            quick.post("/verify", {**fields, "code": receiver.code_for(phone(number))})
            wait_for(lambda: len(receiver.callbacks) > so_far)  # noqa: B023
            found.append((receiver.callbacks[-1].at - began) * 1000)
    return sorted(found)


def memory_and_start(folder: Path, receiver: Receiver) -> dict[str, tuple[float, float]]:
    """MiB PSS of the largest worker after it has worked, and seconds to the first answer, by server."""
    found = {}
    for server in ("gunicorn", "gunicorn-preload"):
        running = portal(folder / f"memory-{server}", receiver, server=server, workers=2)
        began = time.monotonic()
        with serving(running):
            first = time.monotonic() - began
            quick = Quick(running.port)
            for number in range(40):
                quick.fresh()
                quick.begin(f"memory-{number}", number)
            found[server] = (max(pss_mib(running)), first)
    return found


def main() -> int:
    """Measures and prints what was asked for: the portal itself, or one of its parts."""
    options = argparse.ArgumentParser(prog="python -m bench")
    options.add_argument(
        "what",
        nargs="?",
        default="portal",
        choices=["portal", "imports", "load", "posts", "recovery", "retention", "slow", "timing", *OF_DATABASES],
    )
    options.add_argument("--database", choices=["sqlite", "postgresql"], help="both by default")
    options.add_argument("--server", default="gunicorn", choices=["gunicorn", "granian"])
    options.add_argument("--dispatch", choices=list(timing.DISPATCH), help="of the timing; all by default")
    options.add_argument("--pairs", type=int, default=timing.PAIRS, help="of the timing")
    options.add_argument("--only", nargs="*", default=[], help="failures of the recovery; all by default")
    chosen = options.parse_args()
    databases = [chosen.database] if chosen.database else ["sqlite", "postgresql"]
    if chosen.what in OF_DATABASES:
        return int(OF_DATABASES[chosen.what].main(databases))
    if chosen.what == "load":
        return load.main(databases, chosen.server)
    if chosen.what == "posts":
        return posts.main()
    if chosen.what == "recovery":
        return recovery.main(chosen.only)
    if chosen.what == "retention":
        return retention.main()
    if chosen.what == "slow":
        return slow.main()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.what == "timing":
            dispatches = [chosen.dispatch] if chosen.dispatch else list(timing.DISPATCH)
            return timing.main(folder, chosen.server, dispatches, chosen.pairs)
        receiver = Receiver()
        if chosen.what == "imports":
            imports.main(folder, receiver)
            return 0
        load.main(databases, chosen.server)
        times = code_to_callback(folder, receiver, chosen.server)
        p99 = times[int(len(times) * 0.99) - 1]
        print(f"Right code posted to callback received: p50 {statistics.median(times):.1f} ms, p99 {p99:.1f} ms")
        for server, (mib, seconds) in memory_and_start(folder, receiver).items():
            print(f"{server:18} worker {mib:5.1f} MiB PSS, first answer after {seconds:.2f} s")
        imports.main(folder, receiver)
        receiver.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
