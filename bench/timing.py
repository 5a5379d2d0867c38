"""R24 by the clock: does the time of an answer tell who is a customer? Walks in pairs, one with each of two kinds of
people, in random order, against a server in a process of its own; each answer's time is compared by its median and by
a rank test. A line that speaks is asked once more with other people: of sixty at one in a hundred, some do by chance.

`python -m bench timing [--pairs 500] [--dispatch off|apart|inline]`
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import pyotp
from sqlalchemy import insert, select, text, update

from auth_portal.crypto import MasterKeys, Passwords
from auth_portal.services.directory.fields import activity
from auth_portal.store.db import Database
from auth_portal.store.keys import load_keyring
from auth_portal.store.models import CustomerRow, Tries
from bench.portal import Quick, database_url, hidden, portal
from tests.postgres import MASTER_KEY
from tests.programs import ROOT
from tests.receiver import Receiver
from tests.serving import Server, serving
from tests.world import PASSWORD, TOTP_SECRET

PAIRS = 500  # R24
LIMIT_MS = 0.5  # R24: between two medians
PASSWORD_LIMIT = 0.05  # R24: of the median, where a password is hashed
RANK_LIMIT = 0.01  # R24
SPENT_TRIES = 15  # the standard journeys' wrong tries a day; the one that spends them has an alarm to count as well
LOOK_SECONDS = 0.005
DISPATCH = {
    "off": "not at all",
    "apart": "from a process of their own (PORTAL_DISPATCH=off, auth-portal dispatch)",
    "inline": "from the worker itself (PORTAL_DISPATCH=inline)",
}
STEPS = ("begin", "page", "check")

_numbers = count()


@dataclass(frozen=True)
class Kind:
    """A kind of people, and how one of them names and proves themselves."""

    name: str
    letter: str
    is_in_directory: bool = True
    has_credentials: bool = True
    is_active: bool = True
    is_shared: bool = False
    tries: int = 0
    by_phone: bool = False
    types_right: bool = False


KNOWN, STRANGER = Kind("known", "K"), Kind("stranger", "S", is_in_directory=False)
DISABLED, LACKING = Kind("disabled", "D", is_active=False), Kind("no such method", "N", has_credentials=False)
PHONE = Kind("known by phone", "P", by_phone=True)
NO_PHONE = Kind("stranger by phone", "Q", is_in_directory=False, by_phone=True)
SHARED = Kind("shared phone", "H", by_phone=True, is_shared=True)
OPEN, LOCKED = Kind("open", "O", tries=SPENT_TRIES - 2), Kind("locked", "L", tries=SPENT_TRIES)
LOCKED_RIGHT = Kind("locked, right proof", "R", tries=SPENT_TRIES, types_right=True)
BY_METHOD = {
    "sms_code": [(KNOWN, STRANGER), (KNOWN, DISABLED), (KNOWN, LACKING), (PHONE, NO_PHONE), (PHONE, SHARED)],
    "totp": [(KNOWN, STRANGER), (KNOWN, DISABLED), (KNOWN, LACKING), (OPEN, LOCKED), (LOCKED, LOCKED_RIGHT)],
    "password": [(KNOWN, STRANGER), (KNOWN, DISABLED), (KNOWN, LACKING), (OPEN, LOCKED), (LOCKED, LOCKED_RIGHT)],
}
SLUGS = {"sms_code": "balance", "totp": "app", "password": "password"}


class Someone(NamedTuple):
    """One of a kind: whoever walks once."""

    kind: Kind
    customer_id: str
    phone: str

    @property
    def typed(self) -> str:
        """How this one is named."""
        return self.phone if self.kind.by_phone else self.customer_id


def people(kind: Kind, many: int) -> list[Someone]:
    """So many of a kind whom nobody has met yet."""
    numbers = [next(_numbers) for _ in range(many)]
    return [Someone(kind, f"{kind.letter}-{number:06d}", f"+2782{1_000_000 + number}") for number in numbers]


@dataclass(frozen=True)
class Comparison:
    """Two kinds of people at one method, enough of each to be asked twice."""

    method: str
    left: list[Someone]
    right: list[Someone]


def comparisons(pairs: int) -> list[Comparison]:
    """All that are made, with people of their own, so that none has a history that another lacks."""
    return [
        Comparison(method, people(left, 2 * pairs), people(right, 2 * pairs))
        for method, kinds in BY_METHOD.items()
        for left, right in kinds
    ]


def customers_csv(everybody: Sequence[Someone]) -> str:
    """The directory's file: whoever is in it, some of them without anything on file, some sharing a phone."""
    everything = f'{TOTP_SECRET},"{Passwords().hash(PASSWORD)}"'
    lines = ["customer_id,phone,totp_secret,password"]
    for kind, customer_id, phone in everybody:
        if kind.is_in_directory:
            lines.append(f"{customer_id},{phone},{everything}" if kind.has_credentials else f"{customer_id},,,")
        if kind.is_shared:
            lines.append(f"{customer_id}-too,{phone},,")
    return "\n".join(lines) + "\n"


def plant(url: str, everybody: Sequence[Someone]) -> None:
    """What a file cannot say: who is disabled, whose password is long, who typed wrong before."""
    database = Database(url)
    keyring = load_keyring(database, MasterKeys((MASTER_KEY,)))
    of = {someone.customer_id: someone for someone in everybody}
    until = datetime.now(UTC) + timedelta(days=1)
    with database.write() as connection:
        connection.execute(update(CustomerRow).values(password_is_long=True))
        found = connection.execute(select(CustomerRow.id, CustomerRow.customer_id)).all()
        kinds = {row: of[customer_id].kind for row, customer_id in found if customer_id in of}
        disabled = [row for row, kind in kinds.items() if not kind.is_active]
        for row in disabled:
            off = activity(keyring, row, is_active=False)  # with its MAC, without which they would be as strangers
            connection.execute(update(CustomerRow).where(CustomerRow.id == row).values(off))
        connection.execute(
            insert(Tries),
            [
                {
                    "person_key": row,
                    "method": method,
                    "is_ticketed": False,
                    "total": kind.tries,
                    "day_count": kind.tries,
                    "day_ends_at": until,
                }
                for row, kind in kinds.items()
                for method in BY_METHOD
                if kind.tries
            ],
        )
    database.close()


Times = dict[str, float]


def walk(quick: Quick, method: str, someone: Someone) -> Times:
    """Milliseconds of each answer on one person's way: naming oneself, the page after it, a proof that is not taken."""
    quick.fresh()
    path = f"/j/{SLUGS[method]}"
    fields = hidden(quick.get(f"{path}?reference=r-{someone.customer_id}"), path)
    begin, where = timed(lambda: quick.post(path, {**fields, "identifier": someone.typed}))
    assert where == "/verify", where
    look, page = timed(lambda: quick.get("/verify"))
    proof = proof_of(method, someone.kind)
    check, where = timed(lambda: quick.post("/verify", {**hidden(page, "/verify"), **proof}))
    assert where != "/done", someone
    return dict(zip(STEPS, (begin, look, check), strict=True))


def timed(act: Callable[[], str]) -> tuple[float, str]:
    """Milliseconds of an act, and what it gave."""
    began = time.perf_counter()
    found = act()
    return (time.perf_counter() - began) * 1000, found


def proof_of(method: str, kind: Kind) -> dict[str, str]:
    """What is typed as a proof."""
    if method == "password":
        return {"password": PASSWORD if kind.types_right else PASSWORD[::-1]}
    if method == "totp" and kind.types_right:
        return {"code": pyotp.TOTP(TOTP_SECRET).now()}
    return {"code": "000000"}


def rank_test(left: Sequence[float], right: Sequence[float]) -> float:
    """Mann and Whitney's U: how likely two such samples are where there is no difference (two-sided, normal)."""
    both = sorted((value, side) for side, values in enumerate((left, right)) for value in values)
    ranks = sum(rank for rank, (_value, side) in enumerate(both, 1) if side == 0)
    size, other = len(left), len(right)
    mean = size * (size + other + 1) / 2
    spread = (size * other * (size + other + 1) / 12) ** 0.5
    return 2 * statistics.NormalDist().cdf(-abs(ranks - mean) / spread)


class Found(NamedTuple):
    """One answer's times of two kinds of people."""

    left: float
    right: float
    likelihood: float
    limit: float

    @property
    def speaks(self) -> bool:
        """Whether the times tell the two apart."""
        return abs(self.right - self.left) > self.limit or self.likelihood < RANK_LIMIT


def compare(pairs: Iterator[tuple[Times, Times]], method: str) -> dict[str, Found]:
    """What each answer's times say, over all pairs."""
    left, right = zip(*pairs, strict=True)
    found = {}
    for step in STEPS:
        ours, theirs = [times[step] for times in left], [times[step] for times in right]
        one, other = statistics.median(ours), statistics.median(theirs)
        limit = PASSWORD_LIMIT * one if (method, step) == ("password", "check") else LIMIT_MS
        found[step] = Found(one, other, rank_test(ours, theirs), limit)
    return found


def walked(quick: Quick, comparison: Comparison, pairs: slice, settle: Callable[[], None]) -> dict[str, Found]:
    """Walks with one of each kind, whoever comes first, and compares."""

    def both() -> Iterator[tuple[Times, Times]]:
        for one, other in zip(comparison.left[pairs], comparison.right[pairs], strict=True):
            times = {}
            for someone in random.sample((one, other), 2):
                times[someone] = walk(quick, comparison.method, someone)
                settle()
            yield times[one], times[other]

    return compare(both(), comparison.method)


def judge(quick: Quick, comparison: Comparison, pairs: int, settle: Callable[[], None]) -> bool:
    """Measures one comparison and prints a line for each answer; whether nothing tells the two apart."""
    first = walked(quick, comparison, slice(0, pairs), settle)
    again: dict[str, Found] = {}
    if any(found.speaks for found in first.values()):
        again = walked(quick, comparison, slice(pairs, 2 * pairs), settle)
    is_well = True
    who = f"{comparison.left[0].kind.name} / {comparison.right[0].kind.name}"
    for step, found in first.items():
        tries = [found, again[step]] if found.speaks else [found]
        verdict = "same" if not tries[-1].speaks else "DIFFERS"
        is_well = is_well and verdict == "same"
        figures = ", again ".join(
            f"{one.left:6.2f} {one.right:6.2f} ms {one.right - one.left:+6.2f} p {one.likelihood:.3f}" for one in tries
        )
        print(f"  {comparison.method:8} {step:5} {who:30} {figures}  {verdict}", flush=True)
    return is_well


def _receive(origin: Connection) -> None:
    receiver = Receiver()
    origin.send(receiver.origin)
    threading.Event().wait()


@dataclass(frozen=True)
class Elsewhere:
    """A receiver in a process of its own: in this one its work would be measured with the answers."""

    origin: str


@contextmanager
def receiver_elsewhere() -> Iterator[Elsewhere]:
    """Takes messages for the time of a block."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_receive, args=(there,))
    process.start()
    try:
        yield Elsewhere(here.recv())
    finally:
        process.terminate()
        process.join()


@contextmanager
def dispatching(server: Server) -> Iterator[None]:
    """`auth-portal dispatch` beside a server that sends nothing itself, for the time of a block."""
    command = [sys.executable, "-m", "flask", "--app", "app", "dispatch"]
    with server.log.open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=server.environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def settled(url: str) -> Callable[[], None]:
    """Waits until the outbox has nothing under way, so that one person's message is not in the next one's time."""
    database = Database(url)
    pending = text("SELECT 1 FROM deliveries WHERE state = 'pending' LIMIT 1")

    def settle() -> None:
        while True:
            with database.read() as connection:
                if connection.execute(pending).first() is None:
                    return
            time.sleep(LOOK_SECONDS)

    return settle


def measure(folder: Path, server: str, dispatch: str, pairs: int) -> bool:
    """One server, all comparisons; whether every line is well."""
    wanted = comparisons(pairs)
    everybody = [someone for one in wanted for someone in (*one.left, *one.right)]
    with receiver_elsewhere() as receiver:
        running: Server = portal(
            folder / f"timing-{dispatch}", receiver, server=server, workers=1, customers=customers_csv(everybody),
            PORTAL_DISPATCH="inline" if dispatch == "inline" else "off",
        )  # fmt: skip
        plant(database_url(running.folder), everybody)
        settle = (lambda: None) if dispatch == "off" else settled(database_url(running.folder))
        print(f"{server}, one worker, messages leave {DISPATCH[dispatch]}: medians of {pairs} pairs, rank test")
        with serving(running), dispatching(running) if dispatch == "apart" else nullcontext():
            quick = Quick(running.port)
            for one in wanted[:1]:
                walked(quick, Comparison(one.method, people(STRANGER, 40), people(STRANGER, 40)), slice(None), settle)
            return all([judge(quick, one, pairs, settle) for one in wanted])


def main(folder: Path, server: str, dispatches: Sequence[str], pairs: int) -> int:
    """Measures; 1 where an answer's time tells who is a customer."""
    return 0 if all([measure(folder, server, dispatch, pairs) for dispatch in dispatches]) else 1
