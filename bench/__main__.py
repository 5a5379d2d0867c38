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
    instructions,
    lists,
    load,
    metrics,
    outbox,
    passwords,
    posts,
    recovery,
    retention,
    sealing,
    slow,
    timing,
)
from bench.portal import Quick, hidden, phone, portal, pss_mib
from tests.receiver import Receiver, wait_for
from tests.serving import serving
from tests.world import PASSWORD

ROUNDS = 300
WALKS = 1000  # of customers, each with five requests
REST_SECONDS = 12  # for two heartbeats: the first gives the memory of passwords back
OF_DATABASES = {
    "backlog": backlog,
    "cost": cost,
    "dispatchers": dispatchers,
    "outbox": outbox,
    "passwords": passwords,
    "sealing": sealing,
    "metrics": metrics,
}

ALONE = {"instructions": instructions, "posts": posts, "retention": retention, "slow": slow}


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


def memory_and_start(folder: Path, receiver: Receiver) -> None:
    """Prints seconds to the first answer, and MiB PSS of the largest worker: started, after work, and after a rest."""
    rows = "\n".join(f"B-{number},{phone(number)},{'' if number % 4 else PASSWORD}" for number in range(WALKS))
    for server, workers in (("gunicorn-cold", 1), ("auth-portal-cold", 4)):
        running = portal(
            folder / server,
            receiver,
            server=server,
            workers=workers,
            customers=f"customer_id,phone,password\n{rows}\n",
            PYTHONOPTIMIZE="2",  # as the deployments set it
            MALLOC_ARENA_MAX="1",
            PYTHONDONTWRITEBYTECODE="",
        )
        with serving(running):  # the first start compiles
            pass
        began = time.monotonic()
        with serving(running):
            first = time.monotonic() - began
            found = [max(pss_mib(running))]
            for number in range(WALKS):
                walk(Quick(running.port), number, receiver)
            found.append(max(pss_mib(running)))
            time.sleep(REST_SECONDS)
            found.append(max(pss_mib(running)))
        mib = ", ".join(f"{what} {one:.0f}" for what, one in zip(("started", "worked", "rested"), found, strict=True))
        print(
            f"{server} with {workers} workers: first answer after {first:.2f} s, MiB PSS of a worker: {mib}", flush=True
        )


def walk(quick: Quick, number: int, receiver: Receiver) -> None:
    """Verifies a customer with five requests: three of four by a code, the others by their password."""
    path = "/j/balance" if number % 4 else "/j/password"
    quick.post(path, {**hidden(quick.get(f"{path}?reference=memory-{number}"), path), "identifier": f"B-{number}"})
    fields = hidden(quick.get("/verify"), "/verify")
    if number % 4:
        wait_for(lambda: any(message["to"] == phone(number) for message in receiver.messages[-5:]))
        fields["code"] = receiver.code_for(phone(number))
    else:
        fields["password"] = PASSWORD
    assert quick.post("/verify", fields) == "/done"
    quick.get("/done")


PARTS = {"imports": imports.main, "memory": memory_and_start}


def main() -> int:
    """Measures and prints what was asked for: the portal itself, or one of its parts."""
    options = argparse.ArgumentParser(prog="python -m bench")
    options.add_argument(
        "what",
        nargs="?",
        default="portal",
        choices=["portal", *PARTS, *ALONE, "lists", "load", "recovery", "timing", *OF_DATABASES],
    )
    options.add_argument("--database", choices=["sqlite", "postgresql"], help="both by default")
    options.add_argument("--server", default="gunicorn", choices=["gunicorn", "granian"])
    options.add_argument("--dispatch", choices=list(timing.DISPATCH), help="of the timing; all by default")
    options.add_argument("--pairs", type=int, default=timing.PAIRS, help="of the timing")
    options.add_argument("--keep", default="", help="a folder where the databases of the lists stay for the next run")
    options.add_argument(
        "--only",
        nargs="*",
        default=[],
        help="failures of the recovery, or what pages of the lists begin with; all by default",
    )
    chosen = options.parse_args()
    databases = [chosen.database] if chosen.database else ["sqlite", "postgresql"]
    if chosen.what == "lists":
        return lists.main(databases, chosen.keep, chosen.only)
    if chosen.what in OF_DATABASES:
        return int(OF_DATABASES[chosen.what].main(databases))
    if chosen.what == "load":
        return load.main(databases, chosen.server)
    if chosen.what in ALONE:
        return ALONE[chosen.what].main()
    if chosen.what == "recovery":
        return recovery.main(chosen.only)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.what == "timing":
            dispatches = [chosen.dispatch] if chosen.dispatch else list(timing.DISPATCH)
            return timing.main(folder, chosen.server, dispatches, chosen.pairs)
        receiver = Receiver()
        if chosen.what in PARTS:
            PARTS[chosen.what](folder, receiver)
            receiver.close()
            return 0
        load.main(databases, chosen.server)
        times = code_to_callback(folder, receiver, chosen.server)
        p99 = times[int(len(times) * 0.99) - 1]
        print(f"Right code posted to callback received: p50 {statistics.median(times):.1f} ms, p99 {p99:.1f} ms")
        memory_and_start(folder, receiver)
        imports.main(folder, receiver)
        receiver.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
