"""Machines whose clocks differ: the one that is wrong judges nothing, and says so (D8)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyotp
import pytest
import requests

from auth_portal.store.models import AlertRow, Delivery, Verification
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.security.test_races import rows
from tests.serving import Server, Visitor, serving
from tests.world import CONFIG, TOTP_SECRET, configure, journey

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
        for visitor in visitors:
            visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
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
