"""The app under every server that it is made for: started, dispatching without a first request, through TLS."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import SupportsIndex

import pyotp
import pytest
import requests
import trustme

from auth_portal.crypto import MasterKeys
from auth_portal.store.db import Database
from auth_portal.store.keys import load_keyring
from auth_portal.store.models import Delivery, Verification
from tests.postgres import MASTER_KEY
from tests.programs import ROOT, Program
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.security.test_races import rows
from tests.services.test_directory import person
from tests.serving import Server, Visitor, command, free_port, serving
from tests.world import CONFIG, PASSWORD, STANDARD, TOTP_SECRET, configure

LONGEST_STOP = 25  # seconds; a worker that misses its signal is killed after 30
SERVERS = ["gunicorn", "gunicorn-preload", "granian"]


def configured(folder: Path, url: str, receiver: Receiver, **kwargs: object) -> Server:
    configure(url, receiver, CONFIG + STANDARD)
    return Server(folder, url, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [*SERVERS, "auth-portal"])
def test_the_way_under_each_server(tmp_path: Path, sqlite_url: str, receiver: Receiver, kind: str) -> None:
    with serving(configured(tmp_path, sqlite_url, receiver, server=kind, workers=2)) as server:
        visitor = Visitor(server.url)
        visitor.begin("abc", "app")
        answer = visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
        assert answer.headers["Location"].partition("?")[0] == "/done"
        wait_for(lambda: receiver.callbacks)
        assert requests.get(f"{server.url}/readyz", timeout=GIVE_UP_SECONDS).json() == {
            "ready": True,
            "faults": [],
            "warnings": [],
        }


def test_what_a_worker_has_loaded_is_never_collected(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    """A full collection would look at all of it, 0.1 s in which no thread runs."""
    server = configured(tmp_path, sqlite_url, receiver, settings={"PORTAL_DISPATCH": "off"})
    count = "import app, gc; print(len(gc.get_objects()), gc.get_freeze_count(), flush=True); import os; os._exit(0)"
    asked = subprocess.run(
        [sys.executable, "-c", count], cwd=ROOT, env=server.environment, capture_output=True, text=True, check=True
    )
    collected, kept = map(int, asked.stdout.split())
    assert collected < kept / 100


@pytest.mark.parametrize("kind", ["gunicorn-preload", "auth-portal-cold"])
def test_a_server_that_is_stopped_while_it_starts_stops_at_once(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, kind: str
) -> None:
    """A worker that has no handlers of its own yet kept the signal for its parent, which waited 30 s for it."""
    server = configured(tmp_path, sqlite_url, receiver, server=kind, workers=4).start()
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < LONGEST_STOP


class Held(list[int | str]):
    """Answers that wait until a test lets them go."""

    def __init__(self, *answers: int | str) -> None:
        super().__init__(answers)
        self.let_go = threading.Event()

    def pop(self, index: SupportsIndex = -1) -> int | str:
        self.let_go.wait(GIVE_UP_SECONDS)
        return super().pop(index)


@pytest.mark.parametrize("kind", [*SERVERS, "auth-portal"])
def test_d01_what_is_being_sent_is_recorded_before_a_server_ends(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, kind: str
) -> None:
    """Otherwise the same result is sent again a minute later."""
    receiver.answers = answers = Held(200)
    with serving(configured(tmp_path, sqlite_url, receiver, server=kind)) as server:
        visitor = Visitor(server.url)
        visitor.begin("abc", "app")
        visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
        wait_for(lambda: receiver.callbacks)
        server.process.terminate()
        wait_for(lambda: not listens(server.port))
        answers.let_go.set()
    assert [(row.state, row.attempts) for row in rows(sqlite_url, Delivery)] == [("accepted", 1)]


def listens(port: int) -> bool:
    """Whether anything accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_a_server_hashes_at_full_cost(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    """The tests' own process hashes cheaply; a server hashes a right password again at the cost it is wired with."""
    with serving(configured(tmp_path, sqlite_url, receiver)) as server:
        visitor = Visitor(server.url)
        visitor.begin("abc", "password")
        assert visitor.post("/verify", follow=False, password=PASSWORD).headers["Location"].partition("?")[0] == "/done"
    with closing(Database(sqlite_url)) as database:
        keyring = load_keyring(database, MasterKeys((MASTER_KEY,)))
        stored = person(database, keyring, "C-1001").password_hash(keyring, alone=True)
    assert stored is not None
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize("kind", SERVERS)
def test_what_is_overdue_leaves_without_a_first_request(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, kind: str
) -> None:
    """A verification begun before a restart expires by itself, in a process that nobody has asked anything."""
    server = configured(tmp_path, sqlite_url, receiver, server=kind)
    with serving(server, PORTAL_DISPATCH="off"):
        Visitor(server.url).begin("abc", "app")
    server.set_clock(datetime.now(UTC) + timedelta(seconds=500))
    with serving(server):
        wait_for(lambda: receiver.callbacks)
    assert receiver.callbacks[0].body["data"]["outcome"] == "expired"


def test_a_dispatcher_of_its_own(tmp_path: Path, database_url: str, receiver: Receiver) -> None:
    """Web workers that send nothing, and two `auth-portal dispatch` side by side: one callback."""
    server = configured(tmp_path, database_url, receiver, settings={"PORTAL_DISPATCH": "off"})
    environment = {
        "PATH": str(Path(sys.executable).parent), "PORTAL_INSTANCE": str(tmp_path), "PORTAL_DATABASE_URL": database_url,
        "PORTAL_SECRET_KEYS": MASTER_KEY, "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
    }  # fmt: skip
    with serving(server):
        visitor = Visitor(server.url)
        visitor.begin("abc", "app")
        visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
        assert not receiver.callbacks
        logs = [tmp_path / f"dispatch{number}.log" for number in range(2)]
        dispatchers = [Program(["flask", "--app", "app", "dispatch"], environment, out=log, err=log) for log in logs]
        try:
            wait_for(lambda: all("dispatcher_started" in log.read_text() for log in logs))
            wait_for(lambda: [row for row in rows(database_url, Delivery) if row.state == "accepted"])
            visitor.begin("second", "app")
            visitor.post("/verify/cancel", follow=False, reason="cancelled")
            wait_for(lambda: len(receiver.callbacks) == 2)
        finally:
            for dispatcher in dispatchers:
                dispatcher.terminate()
            ends = [dispatcher.wait(GIVE_UP_SECONDS) for dispatcher in dispatchers]
        assert ends == [0, 0]
    assert [call.header for call in receiver.callbacks] == ["abc", "second"]


WRONG = [
    ({"PORTAL_SECRET_KEYS": ""}, "There are no keys"),
    ({"PORTAL_SECRET_KEYS": "x" * 40}, "do not belong to this database"),
    ({"PORTAL_PUBIC_URL": "https://x.example", "PORTAL_DISPATCH": "never"}, "PORTAL_PUBIC_URL is not a setting"),
    ({"PORTAL_PUBLIC_URL": "https://x.example"}, "PORTAL_TRUSTED_PROXIES must be set"),
]


# What is wrong is found before a server has a part in it, and all end alike: each fault once, each server once.
@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        *[(kind, *wrong) for wrong in WRONG for kind in ("auth-portal", "gunicorn")],
        *[(kind, *WRONG[0]) for kind in SERVERS if kind != "gunicorn"],
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(
    tmp_path: Path, sqlite_url: str, kind: str, settings: dict[str, str], says: str
) -> None:
    server = Server(tmp_path, sqlite_url, server=kind, settings=settings)
    with pytest.raises(AssertionError, match="the server stopped"):
        server.start()
    log = server.log.read_text()
    assert says in log
    assert "Traceback" not in log
    if kind == "auth-portal":
        assert server.process.poll() == os.EX_CONFIG
        assert all(line.startswith("auth-portal: ") for line in log.splitlines()), log
    if kind.startswith("gunicorn"):  # its own status for a worker that could not start
        assert server.process.poll() == (os.EX_CONFIG if kind == "gunicorn-preload" else 3)


def test_the_whole_way_through_tls(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    """Where cookies, Flask-WTF and Sec-Fetch-Site behave otherwise than over http."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    bundle, key, chain = tmp_path / "ca.pem", tmp_path / "key.pem", tmp_path / "chain.pem"
    authority.cert_pem.write_to_path(str(bundle))
    certificate.private_key_pem.write_to_path(str(key))
    certificate.cert_chain_pems[0].write_to_path(str(chain))
    port = free_port()
    server = configured(
        tmp_path, sqlite_url, receiver, port=port,
        settings={"PORTAL_PUBLIC_URL": f"https://localhost:{port}", "PORTAL_TRUSTED_PROXIES": "0"},
    )  # fmt: skip
    server._command = [
        *command("gunicorn", port, 1, "tests.clocked_app:app"),
        "--keyfile",
        str(key),
        "--certfile",
        str(chain),
    ]
    server.url, server.verify = f"https://localhost:{port}", str(bundle)
    with serving(server):
        visitor = Visitor(server.url)
        visitor.session.verify = str(bundle)
        visitor.get("/j/app?reference=abc")
        assert visitor.page.headers["Strict-Transport-Security"].startswith("max-age=63072000")
        cookies = {cookie.name: cookie for cookie in visitor.session.cookies}
        assert cookies.keys() == {"__Host-csrf"}
        visitor.session.headers["Sec-Fetch-Site"] = "same-origin"
        visitor.session.headers["Origin"] = "null"
        visitor.post("/j/app", identifier="C-1001")
        cookies = {cookie.name: cookie for cookie in visitor.session.cookies}
        assert cookies.keys() == {"__Host-csrf", "__Host-verification"}
        assert all(cookie.secure and cookie.has_nonstandard_attr("HttpOnly") for cookie in cookies.values())
        fields = {**visitor.fields("/verify"), "code": pyotp.TOTP(TOTP_SECRET).now()}
        for site in ("cross-site", "same-site"):
            refused = visitor.session.post(
                f"{server.url}/verify", data=fields, headers={"Sec-Fetch-Site": site}, timeout=GIVE_UP_SECONDS
            )
            assert refused.status_code == 400
        visitor.post("/verify", code=pyotp.TOTP(TOTP_SECRET).now())
        assert "/done?v=" in visitor.page.url
        wait_for(lambda: receiver.callbacks)
    assert [row.outcome for row in rows(sqlite_url, Verification)] == ["verified"]
