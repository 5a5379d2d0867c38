"""Two machines of the portal with a pgbouncer each, over a primary with its synchronous standby.

Customers verify without a break while each part in turn is killed, suspended or cut off, and the standby takes the
primary's place. Then everything comes to rest, and the campaign's checker compares what customers were shown with what
Flow got. ``python -m tests.faults.failover`` prints what each failure cost, for docs/operations.md; it takes about five
minutes.

A machine has a web node, a dispatcher and a pgbouncer, which reaches the primary by an address that follows it, over a
network that can fall silent. Several hosts in the URL would not do with pgbouncer: it lets clients in, and says what it
remembers of a server, when that is gone.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from auth_portal.services.delivery.outbox import LEASE_SECONDS
from auth_portal.settings import read_settings
from tests.faults.campaign import CUSTOMERS, Campaign, Proxy, Seen
from tests.faults.cluster import Cluster, a_cluster
from tests.pooler import Pooler
from tests.postgres import MASTER_KEY, install
from tests.programs import Program
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.serving import Server
from tests.world import CONFIG, STANDARD, TOTP_SECRET, configure

BOUNCER_AWAY_SECONDS = 3.0
PAUSE_SECONDS = 8.0
CUT_SECONDS = 12.0
NOTICED_SECONDS = 3.0  # after which a failover manager acts: the portal has no part in that
STANDBY_AWAY_SECONDS = 5.0
HOST = "127.0.0.1"
# All customers come from one address.
UNLIMITED = CONFIG.replace("[[channels]]", "[portal.limits]\nbegins_per_minute = 100000\n\n[[channels]]", 1)


class Dispatcher:
    """`auth-portal dispatch`, which can be killed and started again."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir()
        self._log = folder / "dispatch.log"
        self._environment = {
            "PATH": str(Path(sys.executable).parent), "PORTAL_INSTANCE": str(folder), "PORTAL_DATABASE_URL": url,
            "PORTAL_SECRET_KEYS": MASTER_KEY, "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
        }  # fmt: skip
        self.process = self.start()

    def start(self) -> Program:
        """Start it."""
        self.process = Program(["auth-portal", "dispatch"], self._environment, out=self._log, err=self._log)
        return self.process

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Like a power cut."""
        self.signal(signal.SIGKILL)
        self.process.wait(GIVE_UP_SECONDS)


class Failover(Campaign):
    """A campaign over all these parts. What ``Campaign`` plays at random is played here one after the other."""

    def __init__(self, folder: Path, cluster: Cluster, receiver: Receiver, seed: int = 1) -> None:
        places = ",".join(f"{HOST}:{host.port}" for host in cluster.hosts)
        super_url = f"postgresql://postgres@{places}/portal?target_session_attrs=read-write"
        self._url, self._receiver, self._random = _of_several(super_url), receiver, random.Random(seed)
        self.seen, self.played, self.cluster = Seen(), Counter[str](), cluster
        self.ended_by_itself = 0
        self._numbers, self._lock, self._over = itertools.count(), threading.Lock(), threading.Event()
        self._own = threading.local()  # of each customer's thread: the node they come to
        self._successes: list[tuple[float, Server]] = []
        cluster.primary.execute("CREATE DATABASE portal TEMPLATE template0")
        install(folder, self._url)
        lines = "".join(f"C-{number},{TOTP_SECRET}\n" for number in range(CUSTOMERS))
        configure(self._url, receiver, UNLIMITED + STANDARD, f"customer_id,totp_secret\n{lines}")
        self.proxies = [Proxy(f"{HOST}:{cluster.primary.port}") for _ in range(2)]
        self.bouncers = [
            self._bouncer(folder / f"bouncer-{number}", proxy) for number, proxy in enumerate(self.proxies)
        ]
        through = [bouncer.url("portal") for bouncer in self.bouncers]
        self.nodes = [self._server(folder / f"node-{number}", url) for number, url in enumerate(through)]
        self._turns = itertools.cycle(self.nodes)
        self.dispatchers = [Dispatcher(folder / f"dispatcher-{number}", url) for number, url in enumerate(through)]

    def _bouncer(self, folder: Path, proxy: Proxy) -> Pooler:
        folder.mkdir()
        return Pooler(folder, self.cluster.primary.url, host=HOST, port=proxy.port).start()

    def _server(self, folder: Path, url: str) -> Server:
        folder.mkdir()
        settings = {"PORTAL_DISPATCH": "off", "GUNICORN_CMD_ARGS": "--timeout 300"}
        return Server(folder, url, workers=2, settings=settings)

    @contextmanager
    def all_running(self, customers: int = 4) -> Iterator[None]:
        """Everything at work, for the time of a block; then it comes to rest."""
        try:
            with self.running(customers):
                yield
        finally:
            for dispatcher in self.dispatchers:
                dispatcher.kill()
            for bouncer in self.bouncers:
                bouncer.kill()

    def _verify(self, node: Server, reference: str, customer: str, *, errs: bool) -> None:
        """Half of the customers come to one node, half to the other: one that is silent keeps only its own waiting."""
        if not hasattr(self._own, "node"):
            self._own.node = next(self._turns)
        node = self._own.node
        super()._verify(node, reference, customer, errs=errs)
        if reference in self.seen.succeeded:
            self._successes.append((time.monotonic(), node))

    # -- What fails

    def play_one(self, failure: Callable[[Failover], None]) -> tuple[list[float], float]:
        """Let a part fail and be there again; wait until customers of both nodes succeed.

        Return each node's longest time without any success, and how long after the repair both nodes had one.
        """
        began = time.monotonic()
        failure(self)
        repaired = time.monotonic()
        self.played[failure.__name__] += 1
        wait_for(lambda: self._all_run() and all(self._moments(node, repaired) for node in self.nodes), 200)
        again = [self._moments(node, repaired)[0] for node in self.nodes]
        pauses = [
            max(later - earlier for earlier, later in itertools.pairwise([began, *self._moments(node, began)]))
            for node in self.nodes
        ]
        return pauses, max(again) - repaired

    def _moments(self, node: Server, since: float) -> list[float]:
        """When customers of a node succeeded after a moment."""
        return [moment for moment, one in list(self._successes) if moment > since and one is node]

    def node_is_killed(self) -> None:
        """All of its processes; its supervisor starts it again."""
        self.nodes[0].kill()
        self.nodes[0].start()

    def node_is_suspended(self) -> None:
        """One of its two workers."""
        worker = psutil.Process(self.nodes[0].process.pid).children()[0]
        worker.suspend()
        time.sleep(PAUSE_SECONDS)
        worker.resume()

    def machine_is_cut_off(self) -> None:
        """A node, its dispatcher and its pgbouncer, from the database."""
        self.proxies[0].flows.clear()
        time.sleep(CUT_SECONDS)
        self.proxies[0].flows.set()

    def dispatcher_is_killed(self) -> None:
        """Its supervisor starts it again."""
        self.dispatchers[0].kill()
        self.dispatchers[0].start()

    def dispatcher_is_suspended(self) -> None:
        """For longer than its leases."""
        self.dispatchers[0].signal(signal.SIGSTOP)
        time.sleep(LEASE_SECONDS + 2)
        self.dispatchers[0].signal(signal.SIGCONT)

    def pgbouncer_is_killed(self) -> None:
        """That of one machine; it is there again after a while."""
        self.bouncers[0].kill()
        time.sleep(BOUNCER_AWAY_SECONDS)
        self.bouncers[0].start()

    def pgbouncer_is_suspended(self) -> None:
        """That of one machine."""
        process = self.bouncers[0].process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        time.sleep(PAUSE_SECONDS)
        process.send_signal(signal.SIGCONT)

    def database_is_cut_off(self) -> None:
        """From both machines."""
        for proxy in self.proxies:
            proxy.flows.clear()
        time.sleep(CUT_SECONDS)
        for proxy in self.proxies:
            proxy.flows.set()

    def standby_is_killed(self) -> None:
        """Commits wait until it is back."""
        self.cluster.standby.kill()
        time.sleep(STANDBY_AWAY_SECONDS)
        self.cluster.standby.start()

    def primary_is_killed(self) -> None:
        """The standby is promoted."""
        self.cluster.primary.kill()
        self._fail_over()

    def primary_is_suspended(self) -> None:
        """It is fenced, and the standby is promoted."""
        self.cluster.primary.signal(signal.SIGSTOP)
        self._fail_over()

    def primary_is_cut_off(self) -> None:
        """From both machines; it is fenced, and the standby is promoted."""
        for proxy in self.proxies:
            proxy.flows.clear()
        self._fail_over()

    def _fail_over(self) -> None:
        time.sleep(NOTICED_SECONDS)
        self.cluster.promote()
        for proxy in self.proxies:
            proxy.move(f"{HOST}:{self.cluster.primary.port}")

    def repair(self) -> None:
        """Give the primary a standby again."""
        if self.cluster.standby.process is None or self.cluster.standby.process.poll() is not None:
            self.cluster.make_standby()


FAILURES: dict[str, Callable[[Failover], None]] = {
    "a web node killed, started again at once": Failover.node_is_killed,
    f"a worker of a web node suspended for {PAUSE_SECONDS:.0f} s": Failover.node_is_suspended,
    "a dispatcher killed, started again at once": Failover.dispatcher_is_killed,
    f"a dispatcher suspended for {LEASE_SECONDS + 2} s": Failover.dispatcher_is_suspended,
    f"pgbouncer of one machine killed, back after {BOUNCER_AWAY_SECONDS:.0f} s": Failover.pgbouncer_is_killed,
    f"pgbouncer of one machine suspended for {PAUSE_SECONDS:.0f} s": Failover.pgbouncer_is_suspended,
    f"a machine cut off from the database for {CUT_SECONDS:.0f} s": Failover.machine_is_cut_off,
    f"the primary cut off from all for {CUT_SECONDS:.0f} s": Failover.database_is_cut_off,
    f"the synchronous standby killed, back after {STANDBY_AWAY_SECONDS:.0f} s": Failover.standby_is_killed,
    "the primary killed, its standby promoted": Failover.primary_is_killed,
    "the primary suspended, fenced, its standby promoted": Failover.primary_is_suspended,
    "the primary cut off, fenced, its standby promoted": Failover.primary_is_cut_off,
}


def _of_several(url: str) -> str:
    """A URL of several hosts as SQLAlchemy and psycopg both read it."""
    return read_settings({"PORTAL_DATABASE_URL": url}).database


@contextmanager
def a_failover() -> Iterator[Failover]:
    """All parts, not yet at work."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="failover-")))
        cluster = stack.enter_context(a_cluster())
        receiver = Receiver()
        stack.callback(receiver.close)
        yield Failover(folder, cluster, receiver)


def main() -> int:
    """Play each failure once and print what it cost; stop at the first loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="words of the failures to play; all by default")
    only = parser.parse_args().only
    with a_failover() as trial:
        with trial.all_running():
            wait_for(lambda: len(trial.seen.succeeded) > 20)
            for words, failure in FAILURES.items():
                if only and not any(word in words for word in only):
                    continue
                (struck, other), again = trial.play_one(failure)
                pauses = f"first machine's customers waited {struck:.1f} s, the other's {other:.1f} s"
                print(f"| {words} | nothing | {again:.1f} s; the {pauses} |", flush=True)
                trial.repair()
        print(f"nothing was lost or doubled: {dict(trial.check())}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
