"""``kill -9`` at each place where a result could be lost or doubled (D1)."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyotp
import pytest

from auth_portal.services.delivery.outbox import LEASE_SECONDS
from auth_portal.services.operations.dispatcher import INLINE_POLL_SECONDS
from auth_portal.store.models import Attempt, Delivery
from tests.receiver import Receiver, wait_for
from tests.security.test_races import rows
from tests.serving import Server, Visitor, serving
from tests.world import CONFIG, STANDARD, TOTP_SECRET, configure

LEASE_IS_OVER = (
    LEASE_SECONDS + 1
)  # a killed sender's delivery waits for its lease; the clock is moved instead of waiting


def verify(server: Server) -> Visitor:
    visitor = Visitor(server.url)
    visitor.begin("killed", "app")
    return visitor


def post_code(visitor: Visitor) -> object:
    try:
        return visitor.post("/verify", follow=False, code=pyotp.TOTP(TOTP_SECRET).now())
    except OSError:
        return None  # the server died while it answered


def callback_row(url: str) -> object:
    return next(row for row in rows(url, Delivery) if row.kind == "callback")


@pytest.fixture
def server(tmp_path: Path, database_url: str, receiver: Receiver) -> Server:
    configure(database_url, receiver, CONFIG + STANDARD)
    return Server(tmp_path, database_url)


def test_d01_killed_right_after_the_success_page(server: Server, database_url: str, receiver: Receiver) -> None:
    receiver.answers = ["hang"]
    server.start(PORTAL_DISPATCH="off")
    visitor = verify(server)
    answer = post_code(visitor)
    assert answer is not None
    assert answer.headers["Location"].partition("?")[0] == "/done"  # type: ignore[attr-defined]
    server.kill()
    assert not receiver.callbacks
    receiver.answers = []
    with serving(server):
        wait_for(lambda: callback_row(database_url).state == "accepted")  # type: ignore[attr-defined]
    assert len(receiver.callbacks) == 1


@pytest.mark.parametrize("place", ["between claim and post", "between post and record"])
def test_d01_killed_while_sending(server: Server, database_url: str, receiver: Receiver, place: str) -> None:
    server.start(STOP_OF_TEST=place)
    post_code(verify(server))
    wait_for((server.folder / "clock.died").exists)
    server.kill()
    posted = 1 if place == "between post and record" else 0
    assert len(receiver.callbacks) == posted
    with serving(server, STOP_OF_TEST=place):
        server.advance(LEASE_IS_OVER)
        wait_for(lambda: callback_row(database_url).state == "accepted")  # type: ignore[attr-defined]
    assert len(receiver.callbacks) == posted + 1
    assert len({call.raw for call in receiver.callbacks}) == 1
    attempts = sorted(rows(database_url, Attempt), key=lambda row: row.number)
    assert [attempt.fate for attempt in attempts] == ["unknown", "accepted"]
    assert callback_row(database_url).is_unclear  # type: ignore[attr-defined]


def test_d01_a_400_after_an_unknown_fate_is_unconfirmed(server: Server, database_url: str, receiver: Receiver) -> None:
    receiver.answers = [200, 400]
    server.start(STOP_OF_TEST="between post and record")
    post_code(verify(server))
    wait_for((server.folder / "clock.died").exists)
    server.kill()
    with serving(server):
        server.advance(LEASE_IS_OVER)
        wait_for(lambda: callback_row(database_url).state == "unconfirmed")  # type: ignore[attr-defined]
    assert len(receiver.callbacks) == 2


def test_d01_killed_at_any_moment_loses_and_invents_nothing(
    server: Server, database_url: str, receiver: Receiver
) -> None:
    """The real lease, under the real clock: killed a moment after the post, back within 20 seconds."""
    receiver.answers = ["hang"]
    server.start()
    post_code(verify(server))
    wait_for(lambda: receiver.callbacks)
    server.kill()
    with serving(server):
        wait_for(lambda: callback_row(database_url).state == "accepted")  # type: ignore[attr-defined]
    first, second = sorted(rows(database_url, Attempt), key=lambda row: row.number)
    assert second.began_at - first.began_at >= timedelta(seconds=LEASE_SECONDS)
    assert LEASE_SECONDS + INLINE_POLL_SECONDS < 20
    assert len({call.raw for call in receiver.callbacks}) == 1
