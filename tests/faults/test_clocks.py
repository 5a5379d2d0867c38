"""Machines whose clocks differ: the one that is wrong judges nothing, and says so (D8)."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyotp
import pytest
import requests
from sqlalchemy import update

from auth_portal.errors import WrongClock
from auth_portal.gateways.flow import FlowGateway
from auth_portal.services.delivery.outbox import LEASE_SECONDS, Outbox
from auth_portal.services.operations.dispatcher import Lane
from auth_portal.services.verification.end import Endings
from auth_portal.store import db
from auth_portal.store.models import AlertRow, Delivery, Verification
from tests.programs import ROOT
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.security.test_races import rows
from tests.serving import Server, Visitor, serving
from tests.world import CONFIG, TOTP_SECRET, configure, journey, open_world

SHORT = journey("short", "totp", default=True, chat_seconds=60)


@pytest.fixture
def web(tmp_path: Path, postgres_url: str, receiver: Receiver) -> Iterator[Server]:
    """A node whose clock is right, and which sends nothing itself."""
    configure(postgres_url, receiver, CONFIG + SHORT)
    with serving(node(tmp_path / "web", postgres_url), PORTAL_DISPATCH="off") as server:
        yield server


def node(folder: Path, url: str, ahead: int = 0) -> Server:
    folder.mkdir()
    (folder / "clock").write_text(f"system{ahead:+d}")
    return Server(folder, url)


def ready(server: Server) -> Any:
    return requests.get(f"{server.url}/readyz", timeout=GIVE_UP_SECONDS).json()


def alerts(url: str) -> list[tuple[str, bool]]:
    return [(row.kind, row.ended_at is None) for row in rows(url, AlertRow)]


@pytest.mark.parametrize("ahead", [60, -60])
def test_d08_a_node_whose_clock_is_wrong_ends_and_sends_nothing(
    tmp_path: Path, web: Server, postgres_url: str, receiver: Receiver, ahead: int
) -> None:
    visitors = [Visitor(web.url) for _ in range(3)]
    for number, visitor in enumerate(visitors):
        visitor.begin(f"r{number}")
    with serving(node(tmp_path / "wrong", postgres_url, ahead)) as wrong:
        wait_for(lambda: "clock_is_wrong" in wrong.log.read_text())
        answer = ready(wrong)
        assert not answer["ready"]
        assert answer["faults"][0].startswith(
            f"clock: it is 60 s {'ahead of' if ahead > 0 else 'behind'} the database's"
        )
        assert ready(web)["ready"]
        wait_for(lambda: ("clock", True) in alerts(postgres_url))
        metrics = requests.get(f"{wrong.url}/metrics", timeout=GIVE_UP_SECONDS).text
        (measured,) = re.findall(r"^auth_portal_clock_ahead_seconds (\S+)$", metrics, re.MULTILINE)
        assert float(measured) == pytest.approx(ahead, abs=1)
        code = pyotp.TOTP(TOTP_SECRET).now()
        for visitor in visitors:
            visitor.post("/verify", follow=False, code=code)
        assert [row.outcome for row in rows(postgres_url, Verification)] == ["verified", None, None]
        assert not receiver.callbacks, "it would have sent the result by now"
        with serving(node(tmp_path / "right", postgres_url)):
            wait_for(lambda: receiver.callbacks)
        (wrong.folder / "clock").write_text("system")
        wait_for(lambda: "clock_is_right" in wrong.log.read_text())
        wait_for(lambda: ("clock", False) in alerts(postgres_url))
        assert ready(wrong)["ready"]
    assert receiver.callbacks[0].body["result"] == "verified"
    assert {row.state for row in rows(postgres_url, Delivery) if row.kind == "callback"} == {"accepted"}


@pytest.mark.parametrize("ahead", [3600, -3600, 3])
def test_d08_a_node_whose_clock_is_wrong_accepts_nothing(
    tmp_path: Path, web: Server, postgres_url: str, receiver: Receiver, ahead: int
) -> None:
    """What it wrote would wait for an hour, and what others began would have expired."""
    visitor = Visitor(web.url)
    visitor.begin("moved-between-machines")
    with serving(node(tmp_path / "wrong", postgres_url, ahead)) as wrong:
        wait_for(lambda: "clock_is_wrong" in wrong.log.read_text())
        moved = Visitor(wrong.url)
        moved.session.cookies.update(visitor.session.cookies)
        assert moved.get("/verify").status_code == 503
        assert "try again" in moved.page.text.lower()
        assert moved.page.headers["Retry-After"]
        stranger = Visitor(wrong.url)
        assert stranger.get("/admin/sign-in").status_code == 200  # pages are shown, forms refused
        assert stranger.post("/admin/sign-in", email="a@example.com", password="wrong").status_code == 503
        ticket = requests.post(
            f"{wrong.url}/api/v1/tickets", json={}, headers={"Authorization": "Bearer x"}, timeout=GIVE_UP_SECONDS
        )
        assert ticket.status_code == 503
        visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
        assert [row.outcome for row in rows(postgres_url, Verification)] == ["verified"]
        (wrong.folder / "clock").write_text("system")
        wait_for(lambda: receiver.callbacks)  # it is the only one that sends
    assert receiver.callbacks[0].body["result"] == "verified"


def test_d08_a_clock_that_jumps_is_noticed_by_the_next_request(web: Server, receiver: Receiver) -> None:
    visitor = Visitor(web.url)
    visitor.begin("under-way")
    (web.folder / "clock").write_text("system+3600")
    visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
    assert visitor.page.status_code == 503
    (web.folder / "clock").write_text("system")
    visitor.get("/verify")
    visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
    assert visitor.page.status_code == 303


@pytest.mark.parametrize(
    ("where", "name"),
    [(Lane, "reserve"), (Outbox, "has_due"), (Outbox, "claim"), (FlowGateway, "send")],
    ids=["before it is handed over", "before the claim", "before the attempt", "in the attempt"],
)
def test_d08_a_clock_that_jumps_while_a_result_is_sent_neither_ends_nor_delays_it(
    tmp_path: Path, postgres_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, where: type, name: str
) -> None:
    act, jumped, ahead = getattr(where, name), threading.Event(), [0]

    def jump_after(*args: Any, **values: Any) -> Any:
        found = act(*args, **values)
        if found and receiver_is_ready.is_set() and not jumped.is_set():
            ahead[0] = 3600
            world.clock.advance(3600)
            jumped.set()
        return found

    receiver_is_ready = threading.Event()
    monkeypatch.setattr(where, name, jump_after)
    monkeypatch.setattr(db, "machine_clock", lambda: time.time() + ahead[0])
    with open_world(tmp_path, postgres_url, receiver) as world:
        receiver.answers = [500] if name != "reserve" else []  # the first attempt needs no claim
        browser = world.browser()
        browser.begin("jumps", "app")
        receiver_is_ready.set()
        browser.prove(world.totp())
        assert jumped.wait(GIVE_UP_SECONDS)
        wait_for(lambda: len(receiver.callbacks) >= (name == "send"))
        # The two are one clock: the portal's first, so that it is never ahead while the machine's is right.
        world.clock.advance(-3600)
        ahead[0] = 0
        world.clock.advance(LEASE_SECONDS + 1)
        wait_for(lambda: [call.status for call in receiver.callbacks][-1:] == [200])
        wait_for(lambda: [row.state for row in world.rows(Delivery) if row.kind == "callback"] == ["accepted"])
    assert receiver.callbacks[-1].body["result"] == "verified_app"


def test_d08_a_clock_that_jumps_beside_a_row_that_cannot_be_read_ends_no_chat_silently(
    tmp_path: Path, postgres_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chats of a batch that failed are ended one by one: a clock that jumps then says nothing about them."""
    ahead, jumped = [0.0], set[str]()
    monkeypatch.setattr(db, "machine_clock", lambda: time.time() + ahead[0])
    alone = Endings._expire_alone

    def jump_first(self: Endings, verification_id: str) -> None:
        if verification_id not in jumped:
            jumped.add(verification_id)
            ahead[0] = 3600
        alone(self, verification_id)

    def jump_back(self: WrongClock) -> None:
        refuse(self)
        ahead[0] = 0

    refuse = WrongClock.__init__
    monkeypatch.setattr(WrongClock, "__init__", jump_back)

    monkeypatch.setattr(Endings, "_expire_alone", jump_first)
    with open_world(tmp_path, postgres_url, receiver) as world:
        for reference in ("whole", "cut"):
            world.browser().begin(reference, "app")
        row = next(row for row in world.rows(Verification))
        with world.database.write() as connection:
            connection.execute(update(Verification).where(Verification.id == row.id).values(reference_sealed=b"12345"))
        world.clock.advance(600)
        wait_for(lambda: len(jumped) == 2)
        wait_for(lambda: [row.outcome for row in world.rows(Verification)] == ["expired", "expired"])
        wait_for(lambda: receiver.callbacks)
    assert [call.body["data"]["outcome"] for call in receiver.callbacks] == ["expired"]


def test_d08_a_command_that_writes_refuses_to_run_with_a_wrong_clock(web: Server) -> None:
    (web.folder / "clock").write_text("system+90")

    def flask(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "flask"), "--app", "tests.clocked_app", *command],
            cwd=ROOT, env=web.environment, capture_output=True, text=True, timeout=GIVE_UP_SECONDS, check=False,
        )  # fmt: skip

    refused = flask("prune")
    assert refused.returncode == 1, refused
    assert "90 s ahead of the database's" in refused.stderr
    assert "set this machine's clock" in refused.stderr
    assert flask("config", "export").returncode == 0
    (web.folder / "clock").write_text("system")
    assert flask("prune").returncode == 0
