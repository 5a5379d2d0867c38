"""Real server processes: auth-portal serve, gunicorn or granian with several workers, on a free port, with a clock in a file."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from urllib.parse import quote

import requests

from tests.postgres import MASTER_KEY
from tests.programs import ROOT, Program
from tests.receiver import GIVE_UP_SECONDS


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(server: str, port: int, workers: int, app: str) -> list[str]:
    """The command line of a server."""
    if server.endswith("-cold"):  # which imports everything itself, and shares no memory with the tests
        program = server.removesuffix("-cold")
        return [sys.executable, "-m", program.replace("-", "_"), *command(program, port, workers, app)[1:]]
    bin_folder = Path(sys.executable).parent
    if server == "auth-portal":
        return [server, "serve", "--bind", f"127.0.0.1:{port}", "--workers", str(workers)]
    if server.startswith("gunicorn"):
        preload = ["--preload"] if server.endswith("preload") else []
        return [
            str(bin_folder / "gunicorn"), "--no-control-socket", "--worker-class", "gthread", "--threads", "4",
            "--workers", str(workers), "--bind", f"127.0.0.1:{port}", "--log-level", "warning", *preload, app,
        ]  # fmt: skip
    return [
        str(bin_folder / "granian"), "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port),
        "--workers", str(workers), "--blocking-threads", "4", "--no-ws", "--log-level", "warning",
        "--workers-kill-timeout", "10", app,
    ]  # fmt: skip


class Server:
    """One run of a server, which can be killed and started again on the same port."""

    def __init__(
        self, folder: Path, database_url: str, *, server: str = "gunicorn", workers: int = 1,
        settings: Mapping[str, str] | None = None, app: str = "tests.clocked_app:app", port: int = 0,
    ) -> None:  # fmt: skip
        self.folder, self.port = folder, port or free_port()
        self.url, self.verify = f"http://127.0.0.1:{self.port}", ""
        self.clock_file = folder / "clock"
        if not self.clock_file.exists():
            self.clock_file.write_text("system")
        self.log = folder / "server.log"
        self._command = command(server, self.port, workers, app)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")},
            "PORTAL_INSTANCE": str(folder),
            "PORTAL_DATABASE_URL": database_url,
            "PORTAL_SECRET_KEYS": MASTER_KEY,
            "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
            "PORTAL_PUBLIC_URL": self.url,
            "CLOCK_OF_TEST": str(self.clock_file),
            **(settings or {}),
        }

    def start(self, **more: str) -> Server:
        """Starts it and waits until it answers."""
        environment = {**self.environment, **more}
        if self._command[0].endswith(("gunicorn", "auth-portal")):
            self.process: Program | subprocess.Popen[bytes] = Program(
                self._command, environment, out=self.log, err=self.log
            )
        else:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    self._command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
                )
        until = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise AssertionError(f"the server stopped:\n{self.log.read_text()[-3000:]}")
            if "PAUSE_OF_TEST" in more and self.clock_file.with_suffix(".paused").exists():
                return self  # what it was to be suspended at came before its first answer
            try:
                if requests.get(f"{self.url}/healthz", timeout=10, verify=self.verify or True).ok:
                    return self
            except requests.RequestException:
                time.sleep(0.02)
        raise AssertionError(f"the server did not answer:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """Like a power cut."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """As a supervisor stops it."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return
        try:
            self.process.wait(GIVE_UP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(5)
            raise

    def set_clock(self, moment: datetime | None) -> None:
        """Sets the time of all its processes."""
        new = self.clock_file.with_suffix(".new")
        new.write_text(moment.isoformat() if moment else "system")
        new.replace(self.clock_file)

    def advance(self, seconds: float) -> None:
        """Moves the time of all its processes."""
        text = self.clock_file.read_text()
        now = datetime.now(UTC) if text == "system" else datetime.fromisoformat(text)
        self.set_clock(now + timedelta(seconds=seconds))


@contextmanager
def serving(server: Server, **more: str) -> Iterator[Server]:
    """A server for the time of a block."""
    try:
        yield server.start(**more)
    finally:
        server.stop()


class Visitor:
    """A browser without script, over real HTTP."""

    patience_seconds = GIVE_UP_SECONDS
    authority = ""  # the file of the certificate that signs those of servers; otherwise those of the web

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.verify = self.authority or True
        self.session.trust_env = False
        self.session.headers["Connection"] = "close"
        self.page: requests.Response

    def get(self, path: str) -> requests.Response:
        self.page = self.session.get(self.url + path, timeout=self.patience_seconds)
        return self.page

    def begin(self, reference: str, slug: str = "", identifier: str = "C-1001") -> requests.Response:
        path = f"/j/{slug}" if slug else "/"
        self.get(f"{path}?reference={quote(reference, safe='')}")
        return self.post(path, identifier=identifier)

    def fields(self, path: str) -> dict[str, str]:
        forms = re.findall(r"<form\b.*?</form>", self.page.text, re.DOTALL)
        if (
            path == "/verify/cancel"
        ):  # its form is on the pages to stop and to get help; all forms of a prompt are alike
            forms = [form.replace('action="/verify"', f'action="{path}"') for form in forms]
        for form in forms:
            if f'action="{path}"' in form:
                tags = re.findall(r"<input\b[^>]*type=\"?hidden\"?[^>]*>", form)
                return {_attribute(tag, "name"): _attribute(tag, "value") for tag in tags}
        raise AssertionError(f"no form for {path}:\n{self.page.text[:2000]}")

    def post(self, path: str, *, follow: bool = True, **fields: str) -> requests.Response:
        data = {**self.fields(path), **fields}
        self.page = self.session.post(self.url + path, data=data, timeout=self.patience_seconds, allow_redirects=follow)
        return self.page


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'\b{name}="([^"]*)"', tag)
    return unescape(found.group(1)) if found else ""
