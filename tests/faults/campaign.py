"""Faults in random combination against two nodes and one database, and a checker that reads Flow's own log afterwards.

``Campaign`` is one run: customers verify without a break while nodes are killed, suspended, cut off from the database
and given a wrong clock, and while Flow answers with faults. Then everything is healed, the outbox comes to rest, and
``check`` compares what customers did and saw with what Flow got. ``python -m tests.faults.campaign`` runs one for hours:
``make campaign``, or ``MINUTES=60 SEED=7 make campaign``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import selectors
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pyotp
import requests
from sqlalchemy import make_url

from auth_portal.services.delivery.outbox import LEASE_SECONDS
from auth_portal.store.models import Attempt, Delivery, Verification
from tests.postgres import fresh_postgres
from tests.receiver import Answer, Receiver, wait_for
from tests.security.test_races import rows
from tests.serving import Server, Visitor
from tests.world import CONFIG, STANDARD, TOTP_SECRET, configure

CUSTOMERS = 400  # each proves at most once in 30 s, which is how often an authenticator has a new code
PATIENCE_SECONDS = 20  # of a customer, for one page
SETTLE_SECONDS = 240  # after the last fault, until nothing is pending
KINDS = ("kill", "pause", "partition", "clock")
ROUND = 10 * ["kill"] + 3 * ["pause"] + ["partition", "clock"]  # of a soak, in any order
FLOW_FAULTS: tuple[Answer, ...] = (500, 503, 429, "close", "hang")


class Proxy:
    """A TCP way to the database that can fall silent: what was sent is neither delivered nor refused."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = int(self._listening.getsockname()[1])
        self.flows = threading.Event()
        self.flows.set()
        self._clients: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self._clients.append(client)
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        self.flows.wait()
        server = socket.socket(socket.AF_UNIX if self._target.startswith("/") else socket.AF_INET)
        with client, server, contextlib.suppress(OSError), selectors.DefaultSelector() as ready:
            host, _, port = self._target.rpartition(":")
            server.connect(self._target if self._target.startswith("/") else (host, int(port)))
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select():
                    self.flows.wait()
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    key.data.sendall(data)

    def move(self, target: str) -> None:
        """Lead somewhere else from now on, as a name or a virtual address does that follows the primary."""
        self._target = target
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)  # the new place knows none of these connections
        self._clients.clear()
        self.flows.set()

    def close(self) -> None:
        """Let nothing more in; what was cut off goes on and finds its other side gone."""
        self.flows.set()
        self._listening.close()


@dataclass
class Seen:
    """What customers did and saw, for the checker."""

    proved: set[str] = field(default_factory=set)  # references under which a right code was entered, answered or not
    succeeded: set[str] = field(default_factory=set)  # those whose customer was sent to the last page with success
    begun: set[str] = field(default_factory=set)
    unanswered: Counter[str] = field(default_factory=Counter)  # by what the customer's program said
    pages: Counter[str] = field(default_factory=Counter)  # that were no success: status and heading


class Campaign:
    """Two nodes behind proxies, customers, and faults by a random generator with a seed."""

    def __init__(self, folder: Path, database_url: str, receiver: Receiver, seed: int) -> None:
        self._prepare(database_url, receiver, seed)
        lines = [f"C-{number},{TOTP_SECRET}" for number in range(CUSTOMERS)]
        configure(database_url, receiver, CONFIG + STANDARD, "\n".join(["customer_id,totp_secret", *lines]) + "\n")
        self.proxies = [Proxy(_address(database_url)) for _ in range(2)]
        self.nodes = [self._node(folder / f"node-{number}", proxy) for number, proxy in enumerate(self.proxies)]

    def _prepare(self, database_url: str, receiver: Receiver, seed: int) -> None:
        self._url, self._receiver, self._random = database_url, receiver, random.Random(seed)
        self.seen, self.played = Seen(), Counter[str]()
        self.recovery_seconds: defaultdict[str, float] = defaultdict(float)  # the longest, by kind of fault
        self.ended_by_itself = 0  # nodes; none should, whatever happens to it
        self._numbers = iter(range(10**9))
        self._lock = threading.Lock()
        self._over = threading.Event()

    def _node(self, folder: Path, proxy: Proxy) -> Server:
        folder.mkdir()
        url = make_url(self._url).set(host="127.0.0.1", port=proxy.port, query={})
        settings = {"GUNICORN_CMD_ARGS": "--timeout 300"}  # or it kills a worker that stands still for 30 seconds
        return Server(folder, url.render_as_string(hide_password=False), workers=2, settings=settings)

    @contextmanager
    def running(self, customers: int = 3) -> Iterator[Campaign]:
        """Nodes that serve and customers who verify, for the time of a block; then everything is healed and settled."""
        try:
            for node in self.nodes:
                node.start()
            with self.customers(customers):
                yield self
                self._receiver.answers = []
            self.settle()
        finally:
            self._over.set()
            for proxy in self.proxies:
                proxy.flows.set()
            for node in self.nodes:
                node.kill()
            for proxy in self.proxies:
                proxy.close()

    # -- Customers

    @contextmanager
    def customers(self, count: int) -> Iterator[None]:
        """Customers who verify without a break, for the time of a block."""
        threads = [threading.Thread(target=self._verify_without_a_break, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
        for thread in threads:
            thread.join()

    def _verify_without_a_break(self) -> None:
        while not self._over.is_set():
            with self._lock:
                number = next(self._numbers)
                node = self._random.choice(self.nodes)
                errs = self._random.random() < 0.2
            try:
                self._verify(node, f"s-{number}", f"C-{number % CUSTOMERS}", errs=errs)
            except (requests.RequestException, AssertionError) as fault:  # no answer, or a page that says to try again
                self.seen.unanswered[type(fault).__name__] += 1
                time.sleep(0.2)

    def _verify(self, node: Server, reference: str, customer: str, *, errs: bool) -> None:
        visitor = Visitor(node.url)
        visitor.patience_seconds = PATIENCE_SECONDS
        visitor.begin(reference, "app", customer)
        if not visitor.page.ok:
            self._note(visitor.page)
            return
        self.seen.begun.add(reference)
        if errs:
            visitor.post("/verify", code="000000")
        self.seen.proved.add(reference)
        for _ in range(2):  # a customer who gets no answer presses the button once more
            try:
                answer = visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
            except requests.RequestException:
                continue
            if answer.status_code == 303 and answer.headers["Location"].partition("?")[0] == "/done":
                if re.search('class="(?:seal|badge) good"', visitor.get("/done").text):  # "badge" on a page of 0.1.0
                    self.seen.succeeded.add(reference)
                return
            self._note(answer)
            if answer.status_code == 503:
                visitor.get("/verify")

    def _note(self, page: requests.Response) -> None:
        heading = re.search(r"<h1[^>]*>(.*?)</h1>", page.text, re.DOTALL)
        self.seen.pages[f"{page.status_code} {heading.group(1).strip() if heading else ''}"] += 1

    # -- Faults

    def play(self, kind: str) -> None:
        """Play one fault on a random node, heal it, and wait until a customer succeeds again."""
        self._all_run()
        node = self._random.randrange(len(self.nodes))
        if self._random.random() < 0.3:
            self._receiver.answers = self._random.choices(FLOW_FAULTS, k=self._random.randint(1, 4))
        {"kill": self._kill, "pause": self._pause, "partition": self._cut_off, "clock": self._set_clock}[kind](node)
        self.played[kind] += 1
        healed_at, known = time.monotonic(), len(self.seen.succeeded)
        self.seen.pages.clear()
        try:
            wait_for(lambda: self._all_run() and len(self.seen.succeeded) > known)
        except AssertionError as fault:
            tails = [node.log.read_text()[-3000:] for node in self.nodes]
            raise AssertionError("\n".join([f"after {kind}: {fault}", repr(self.seen.pages), *tails])) from None
        self.recovery_seconds[kind] = max(self.recovery_seconds[kind], time.monotonic() - healed_at)

    def _all_run(self) -> bool:
        """Start what has ended by itself, as systemd would. Return True."""
        for node in self.nodes:
            if node.process.poll() is not None:
                self.ended_by_itself += 1
                node.kill()
                node.start()
        return True

    def _kill(self, node: int) -> None:
        server = self.nodes[node]
        workers = psutil.Process(server.process.pid).children()
        if workers and self._random.random() < 0.7:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._random.choice(workers).kill()  # its master starts another one
            time.sleep(self._random.uniform(0, 0.5))
        else:
            server.kill()
            time.sleep(self._random.uniform(0, 0.5))
            server.start()

    def _pause(self, node: int) -> None:
        workers = psutil.Process(self.nodes[node].process.pid).children()
        if not workers:
            return
        worker = self._random.choice(workers)
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(worker.pid, signal.SIGSTOP)
            time.sleep(self._random.choice([0.5, 2, 9, LEASE_SECONDS + 2]))
            os.kill(worker.pid, signal.SIGCONT)

    def _cut_off(self, node: int) -> None:
        self.proxies[node].flows.clear()
        time.sleep(self._random.choice([1, 4, 12]))
        self.proxies[node].flows.set()

    def _set_clock(self, node: int) -> None:
        clock = self.nodes[node].clock_file
        clock.write_text(self._random.choice(["system+60", "system-60", "system+3600", "system+5"]))
        time.sleep(self._random.uniform(1, 6))
        clock.write_text("system")

    # -- What must hold

    def settle(self) -> None:
        """Wait until no result is pending any more and every verification that was begun and proved has ended."""

        def is_at_rest() -> bool:
            pending = [row for row in rows(self._url, Delivery) if row.kind == "callback" and row.state == "pending"]
            return not pending

        wait_for(is_at_rest, SETTLE_SECONDS)

    def _story_of(self, reference: str) -> str:
        """What the nodes logged of the deliveries that ended otherwise than accepted, for the report of a loss."""
        lost = [row for row in rows(self._url, Delivery) if row.kind == "callback" and row.state != "accepted"]
        calls = [(call.at, call.status) for call in self._receiver.callbacks if call.header == reference]
        of = {row.id for row in lost}
        tries = [
            (row.number, row.fate, row.detail, str(row.began_at), str(row.ended_at))
            for row in rows(self._url, Attempt)
            if row.delivery_id in of
        ]
        ends = [(row.state, row.reason, str(row.created_at), str(row.ended_at), str(row.give_up_at)) for row in lost]
        return f"calls {calls}; deliveries {ends}; attempts {tries}"

    def check(self) -> Counter[str]:
        """Compare what customers did with Flow's log, and return what was counted. Raise AssertionError on any loss."""
        calls: defaultdict[str, list[Any]] = defaultdict(list)
        for call in self._receiver.callbacks:
            calls[call.header].append(call)
        got = {reference for reference, some in calls.items() if any(call.status == 200 for call in some)}
        for reference, some in calls.items():
            assert len({call.raw for call in some}) == 1, f"two bodies for {reference}"
            if some[0].body["data"]["outcome"] == "verified":
                assert reference in self.seen.proved, f"{reference} is verified without a right code"
        for reference in self.seen.succeeded:
            assert reference in got, f"the success of {reference} is lost: {self._story_of(reference)}"
            assert calls[reference][0].body["data"]["outcome"] == "verified"
        attempts = defaultdict(list)
        for attempt in sorted(rows(self._url, Attempt), key=lambda row: row.number):
            attempts[attempt.delivery_id].append(attempt)
        found = {row.id: row for row in rows(self._url, Delivery) if row.kind == "callback"}
        for delivery_id, some_attempts in attempts.items():
            # By their numbers, too: the times are those of nodes whose clocks are set wrong. An acceptance that ended when
            # it began was recorded by a clock that was set back: the next holder may have posted before that.
            taken = next((one for one in some_attempts if one.fate == "accepted" and one.ended_at > one.began_at), None)
            later = [
                one
                for one in some_attempts
                if taken and one.number > taken.number and one.began_at > taken.ended_at and one.fate != "not_sent"
            ]
            assert not (delivery_id in found and later), f"a post of {delivery_id} after an acceptance: {later}"
        outcomes = Counter(row.outcome or "open" for row in rows(self._url, Verification))
        assert sum(outcomes.values()) - outcomes["open"] == len(found), "a verification ended without its callback"
        ended = {row.id: row.ended_at for row in rows(self._url, Verification)}
        waits = [
            min(one.ended_at for one in attempts[row.id] if one.fate == "accepted") - ended[row.verification_id]
            for row in found.values()
            if any(one.fate == "accepted" for one in attempts[row.id])
        ]
        repeated = sum(len(some) > 1 for some in calls.values())
        return Counter(
            **outcomes,
            seen=len(self.seen.succeeded),
            callbacks=len(found),
            got=len(got),
            repeated=repeated,
            unanswered=self.seen.unanswered.total(),
            slowest_seconds=int(max(waits, default=timedelta()).total_seconds()),
            ended_by_itself=self.ended_by_itself,
        )


def _address(url: str) -> str:
    """Where PostgreSQL listens: the path of its socket, or host and port."""
    with psycopg.connect(url) as connection:
        host, port = connection.info.host, connection.info.port
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else f"{host}:{port}"


def main() -> int:
    """Run campaigns until the time is over; stop at the first loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    ends_at = datetime.now(UTC) + timedelta(minutes=arguments.minutes)
    with fresh_postgres() as url, tempfile.TemporaryDirectory() as folder:
        receiver = Receiver()
        campaign = Campaign(Path(folder), url, receiver, arguments.seed)
        choose = random.Random(arguments.seed)
        with campaign.running():
            while datetime.now(UTC) < ends_at:
                for kind in choose.sample(ROUND, len(ROUND)):
                    campaign.play(kind)
                print(dict(campaign.played), len(campaign.seen.succeeded), flush=True)
        print(dict(campaign.played), dict(campaign.recovery_seconds), dict(campaign.check()))
        receiver.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
