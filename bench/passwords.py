"""What a right password costs above its hash: CPU of our process, and of PostgreSQL's.

The WSGI app is called in-process, without a server and a client, by a process that does nothing else; nothing is sent.
A hash fills 19 MiB, which drives our code out of the processor's caches. So the same is measured a second time with a
stand-in that says yes without a hash.
`python -m bench passwords [--database sqlite|postgresql]`
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from unittest import mock

from auth_portal.crypto import Passwords
from bench.instructions import answered, settings_of
from bench.lists import a_database
from bench.load import post
from bench.portal import Quick, hidden, phone, portal, postgres_cpu
from tests.programs import ROOT
from tests.receiver import Receiver
from tests.serving import serving
from tests.world import PASSWORD

COUNT, WARM = 200, 20  # passwords, and those before them
ALL = 2 * (WARM + COUNT)


def main(databases: Sequence[str]) -> int:
    """Measure and print."""
    for name in databases:
        with tempfile.TemporaryDirectory(prefix="bench-passwords-") as made, a_database(name, Path(made)) as url:
            folder, of_database = Path(made), postgres_cpu(url)
            environment = _prepared(folder, url)
            command = [sys.executable, "-m", "bench.passwords", str(folder)]
            before = of_database()
            run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
            server = (of_database() - before) / ALL * 1000
            above, hashed, unhashed = map(float, run.stdout.split()[-3:])
            print(
                f"{name:10} a right password: {above:.2f} ms of CPU above its hash of {hashed:.1f} ms,"
                f" {unhashed:.2f} ms without a hash, by median of {COUNT} each, and {server:.2f} ms of the server;"
                f" load {os.getloadavg()[0]:.1f}  ({datetime.now(UTC):%Y-%m-%d})",
                flush=True,
            )
    return 0


def _prepared(folder: Path, url: str) -> dict[str, str]:
    """Let customers begin, and write their forms into a file; return the settings of the portal."""
    rows = "\n".join(f"B-{number},{phone(number)},{PASSWORD}" for number in range(ALL))
    with closing(Receiver()) as receiver:
        server = portal(
            folder / "portal", receiver, server="gunicorn", workers=2, url=url,
            customers=f"customer_id,phone,password\n{rows}\n",
        )  # fmt: skip
        requests = []
        with serving(server, PORTAL_DISPATCH="off"):
            quick, path = Quick(server.port), "/j/password"
            for number in range(ALL):
                form = hidden(quick.fresh().get(f"{path}?reference=password-{number}"), path)
                quick.post(path, {**form, "identifier": f"B-{number}"})
                fields = {**hidden(quick.get("/verify"), "/verify"), "password": PASSWORD}
                cookies = "; ".join(f"{name}={value}" for name, value in quick.cookies().items())
                requests.append(post(server.port, "/verify", fields, cookies).decode())
    (folder / "requests").write_text(json.dumps(requests))
    return settings_of(folder, url, server.url)


def answer(folder: Path) -> None:
    """Take the passwords in this process, and print milliseconds: above the hashes, of the hashes, and without any."""
    matches, hashes = Passwords.matches, list[float]()

    def timed(self: Passwords, stored: str | None, password: str) -> bool:
        began = time.thread_time()
        try:
            return matches(self, stored, password)
        finally:
            hashes.append((time.thread_time() - began) * 1000)

    app, requests = import_module("app").app, json.loads((folder / "requests").read_text())

    def median_of(some: Sequence[str], stand_in: Callable[[Passwords, str | None, str], bool]) -> float:
        taken = []
        with mock.patch.object(Passwords, "matches", stand_in):
            for request in some:
                began, before = time.process_time(), len(hashes)
                assert answered(app, request)[:3] == "303"
                taken.append((time.process_time() - began) * 1000 - sum(hashes[before:]))
        return statistics.median(taken[WARM:])

    above = median_of(requests[: ALL // 2], timed)
    unhashed = median_of(requests[ALL // 2 :], lambda _self, _stored, _password: True)
    print(above, statistics.median(hashes[WARM:]), unhashed, flush=True)
    os._exit(0)


if __name__ == "__main__":
    answer(Path(sys.argv[1]))
