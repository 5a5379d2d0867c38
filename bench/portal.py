"""A portal to measure: installed in a folder of its own, with many customers, and browsers that are quick."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable
from contextlib import closing, suppress
from html import unescape
from pathlib import Path
from urllib.parse import quote, urlencode

import psutil
import psycopg

from tests.postgres import install
from tests.receiver import Listens
from tests.serving import Server
from tests.world import CONFIG, STANDARD, configure

CUSTOMERS = 2000


def phone(number: int) -> str:
    """The number of the bench's customer."""
    return f"+2782{1_000_000 + number}"


def database_url(folder: Path) -> str:
    """Where a portal in this folder keeps its data."""
    return f"sqlite:///{folder / 'portal.db'}"


def portal(
    folder: Path,
    receiver: Listens,
    *,
    server: str,
    workers: int,
    customers: str = "",
    url: str = "",
    results_to: str = "",
    **settings: str,
) -> Server:
    """A server that is configured and not yet started.

    ``customers`` is a file of others than the bench's own, ``results_to`` the origin of another Flow than the receiver.
    """
    folder.mkdir()
    url = url or database_url(folder)
    install(folder, url)
    rows = "\n".join(f"B-{number},{phone(number)}" for number in range(CUSTOMERS))
    limits = "[portal.limits]\nbegins_per_minute = 100000\npassword_checks_per_minute = 100000\n"
    config = CONFIG.replace("[[channels]]", limits + "\n[[channels]]", 1)
    journeys = STANDARD.replace('server = "{receiver}"', f'server = "{results_to}"') if results_to else STANDARD
    configure(url, receiver, config + journeys, customers or f"customer_id,phone\n{rows}\n")
    return Server(folder, url, server=server, workers=workers, settings=settings, app="app:app")


def cpu_seconds(server: Server) -> float:
    """What a server's whole process tree has used so far."""
    parent = psutil.Process(server.process.pid)
    times = [process.cpu_times() for process in [parent, *parent.children(recursive=True)]]
    return sum(time.user + time.system for time in times)


def pss_mib(server: Server) -> list[float]:
    """The proportional memory of each worker."""
    workers = psutil.Process(server.process.pid).children(recursive=True)
    return [process.memory_full_info().pss / 2**20 for process in workers]


class Quick:
    """One keep-alive connection that costs little, so that the server is what is measured."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._cookies: dict[str, str] = {}

    def get(self, path: str) -> str:
        """The body of a page."""
        return self._send("GET", path, None)[1]

    def post(self, path: str, fields: dict[str, str]) -> str:
        """The path that a form leads to, or its status."""
        location, body = self._send("POST", path, urlencode(fields))
        return location.partition("?")[0] or body

    def _send(self, method: str, path: str, body: str | None) -> tuple[str, str]:
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items())}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        text = response.read().decode()
        for cookie in response.headers.get_all("Set-Cookie") or []:
            name, _, value = cookie.partition(";")[0].partition("=")
            self._cookies[name] = value
        return response.headers.get("Location", ""), text

    def begin(self, reference: str, number: int) -> dict[str, str]:
        """Names a customer; gives the hidden fields of the code page."""
        page = self.get(f"/?reference={quote(reference)}")
        self.post("/", {**hidden(page, "/"), "identifier": f"B-{number}"})
        return hidden(self.get("/verify"), "/verify")

    def fresh(self) -> Quick:
        """Another browser on the same connection."""
        self._cookies.clear()
        return self

    def cookies(self) -> dict[str, str]:
        """What this browser has been given."""
        return dict(self._cookies)

    def wear(self, cookies: dict[str, str]) -> None:
        """Takes the cookies of another browser."""
        self._cookies = dict(cookies)


def hidden(page: str, action: str) -> dict[str, str]:
    """The hidden fields of a form."""
    for form in re.findall(r"<form\b.*?</form>", page, re.DOTALL):
        if f'action="{action}"' in form:
            tags = re.findall(r"<input\b[^>]*type=\"hidden\"[^>]*>", form)
            return {_attribute(tag, "name"): _attribute(tag, "value") for tag in tags}
    raise LookupError(f"no form for {action}:\n{page[:500]}")


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'\b{name}="([^"]*)"', tag)
    return unescape(found.group(1)) if found else ""


def postgres_cpu(url: str) -> Callable[[], float]:
    """What asks for the CPU seconds of a PostgreSQL server's processes; of SQLite nothing."""
    if not url.startswith("postgresql"):
        return lambda: 0.0
    with closing(psycopg.connect(url.replace("+psycopg", ""), autocommit=True)) as connection:
        row = connection.execute("SELECT pg_read_file('postmaster.pid')").fetchone()
    assert row is not None
    postmaster = psutil.Process(int(str(row[0]).split("\n", 1)[0]))

    def used() -> float:
        own = postmaster.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system
        for child in postmaster.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # then the postmaster has counted it
                times = child.cpu_times()
                total += times.user + times.system
        return float(total)

    return used
