"""Upgrade from the release before and back to it, one node after the other, under load: ``make test-deploy``.

Two nodes of the real 0.1.0, with packages of its own, serve one PostgreSQL behind the nginx site while customers verify
without a break. The tables are upgraded, each node is replaced by one of this code, by 0.1.0 again after a stamp, and by
this code for good. Then what customers did and saw is compared with what Flow got: no page failed, and no result is lost
or doubled. The code of 0.1.0 comes from the history of this repository.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.deploy.debian import here
from tests.deploy.site import Site, site
from tests.faults.campaign import CUSTOMERS, Campaign
from tests.postgres import MASTER_KEY, fresh_postgres
from tests.programs import ROOT
from tests.receiver import Receiver, wait_for
from tests.serving import Server, Visitor
from tests.world import CONFIG, TOTP_SECRET, journey

COMMIT = "6270873"  # the last one of 0.1.0
RELEASES = ROOT / ".venv" / "releases"
LOAD = 3  # customers at the same time
PAUSE_SECONDS = 0.7  # of each, before the next verification: an address may begin 300 a minute
SERVED = 40  # verifications in each state of the two nodes


@dataclass(frozen=True)
class Code:
    """A version of the portal: its folder, the Python that runs it, and how it is called."""

    folder: Path
    bin: Path
    server: tuple[str, ...]

    def command(self, environment: dict[str, str], *arguments: str) -> None:
        """Run one of its commands. Raise CalledProcessError."""
        flask = [str(self.bin / "flask"), "--app", "app", *arguments]
        subprocess.run(flask, cwd=self.folder, env=environment, check=True)


def the_release_before() -> Code:
    """0.1.0 with the packages that it pins, made once."""
    folder = RELEASES / "0.1.0"
    made = folder / ".venv" / "bin"
    if not (made / "gunicorn").exists():
        folder.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, check=True, stdout=subprocess.PIPE)
        subprocess.run(["tar", "--extract", "-C", str(folder)], input=packed.stdout, check=True)
        subprocess.run([sys.executable, "-m", "venv", str(made.parent)], check=True)
        subprocess.run([str(made / "pip"), "install", "-q", "-r", "requirements.txt"], cwd=folder, check=True)
    serve = (
        "{bin}/gunicorn",
        "--no-control-socket",
        "--worker-class=gthread",
        "--threads=4",
        "--workers=2",
        "--umask=0",
    )
    return Code(folder, made, (*serve, "--log-level=warning", "--bind={bind}", "app:app"))


def this_code() -> Code:
    """The code of this folder."""
    serve = (
        "env",
        "PORTAL_SOCKET_MODE=666",
        "{bin}/python",
        "-m",
        "auth_portal",
        "serve",
        "--bind={bind}",
        "--workers=2",
    )
    return Code(ROOT, Path(sys.executable).parent, serve)


class Node:
    """A node that can be stopped and started again with other code, on the same socket."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir(mode=0o755)
        folder.chmod(0o777)
        self.log, self.bind = folder / "server.log", f"unix:{folder}/web.sock"
        self._environment = {**environment, "PORTAL_INSTANCE": str(folder)}
        self._host = environment["PORTAL_PUBLIC_URL"].rpartition("/")[2]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, code: Code) -> None:
        """Serve with this code, and return when it is ready."""
        command = [part.format(bin=code.bin, bind=self.bind) for part in code.server]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=code.folder, env=self._environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_for(self._is_ready)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-2000:]
        socket = self.bind.removeprefix("unix:")
        as_the_proxy = ("-H", f"Host: {self._host}", "-H", "X-Forwarded-For: 127.0.0.1")  # 0.1.0 answers no other
        asked = ["curl", "-sf", *as_the_proxy, "--unix-socket", socket, "-o", "/dev/null", "http://localhost/readyz"]
        return subprocess.run(asked, check=False).returncode == 0

    def processes(self) -> list[psutil.Process]:
        """The server and its workers."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def stop(self) -> None:
        """As a supervisor stops it: what has begun is finished."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)

    def kill(self) -> None:
        """End it and all its workers."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)


class Rolling(Campaign):
    """The customers and the checker of a campaign, who come through nginx."""

    def __init__(self, url: str, receiver: Receiver, front: Site, environment: dict[str, str]) -> None:
        self._prepare(url, receiver, seed=1)
        self.environment = environment
        self.seconds: deque[float] = deque()  # that verifications took
        self.nodes = [front]  # type: ignore[list-item]

    def _verify(self, node: Server, reference: str, customer: str, *, errs: bool) -> None:
        time.sleep(PAUSE_SECONDS)
        began = time.monotonic()
        super()._verify(node, reference, customer, errs=errs)
        self.seconds.append(time.monotonic() - began)

    def serves(self, what: str) -> None:
        """Wait for so many verifications as things are now."""
        known = len(self.seen.succeeded)
        try:
            wait_for(lambda: len(self.seen.succeeded) >= known + SERVED, 120)
        except AssertionError as fault:
            raise AssertionError(f"{what}: {fault}: {self.seen.pages} {self.seen.unanswered}") from None
        print(f"  {what}: {len(self.seen.succeeded) - known} verified", flush=True)
        assert not self.seen.unanswered, self.seen.unanswered
        assert not self.seen.pages, self.seen.pages


@contextmanager
def behind_nginx(folder: Path, url: str, code: Code) -> Iterator[tuple[Rolling, list[Node]]]:
    """A portal that this code has installed, two nodes that are not started yet, and customers who come through nginx."""
    receiver, nodes = Receiver(), list[Node]()
    upstream = " ".join(f"server unix:{folder}/{number}/web.sock max_fails=0;" for number in (1, 2))
    with site(upstream) as front, here(front.host):
        Visitor.authority = str(front.authority)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")},
            "PORTAL_INSTANCE": str(folder),
            "PORTAL_DATABASE_URL": url,
            "PORTAL_SECRET_KEYS": MASTER_KEY,
            "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
            "PORTAL_PUBLIC_URL": front.url,
            "PORTAL_TRUSTED_PROXIES": "1",
        }
        _install(code, environment, folder, receiver)
        nodes += [Node(folder / str(number), environment) for number in (1, 2)]
        try:
            yield Rolling(url, receiver, front, environment), nodes
        finally:
            for node in nodes:
                node.kill()
            receiver.close()


def walk(folder: Path, url: str) -> None:
    """Go the whole way once. Raise AssertionError where something failed or is lost."""
    before, now = the_release_before(), this_code()
    with behind_nginx(folder, url, before) as (rolling, nodes):
        for node in nodes:
            node.start(before)
        with rolling.customers(LOAD):
            rolling.serves("0.1.0")
            now.command(rolling.environment, "db", "upgrade")
            rolling.serves("0.1.0 on the new tables")
            _replace(nodes, now, rolling.serves)
            now.command(rolling.environment, "db", "stamp", "0002")
            _replace(nodes, before, rolling.serves)
            now.command(rolling.environment, "db", "upgrade")
            _replace(nodes, now, rolling.serves)
        rolling.settle()
        print(f"  {dict(rolling.check())}", flush=True)


def _install(code: Code, environment: dict[str, str], folder: Path, receiver: Receiver) -> None:
    text = (CONFIG + journey("app", "totp", default=True)).replace("{{", "\0").replace("{receiver}", receiver.origin)
    (folder / "portal.toml").write_text(text.replace("\0", "{").replace("}}", "}"))
    people = [f"C-{number},{TOTP_SECRET}" for number in range(CUSTOMERS)]
    (folder / "customers.csv").write_text("\n".join(["customer_id,totp_secret", *people, ""]))
    code.command(environment, "init")
    code.command(environment, "config", "import", str(folder / "portal.toml"))
    code.command(environment, "customers", "import", str(folder / "customers.csv"))


def _replace(nodes: list[Node], code: Code, serves: Callable[[str], None]) -> None:
    for number, node in enumerate(nodes, 1):
        node.stop()
        node.start(code)
        serves(f"node {number} runs {code.folder.name if code.folder != ROOT else 'this code'}")


def main() -> None:
    """Go the way in a folder of its own."""
    print("From 0.1.0 and back, two nodes behind nginx", flush=True)
    with fresh_postgres(is_installed=False) as url, tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        walk(Path(made), url)


if __name__ == "__main__":
    main()
