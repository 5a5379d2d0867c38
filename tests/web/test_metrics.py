"""What /metrics says: what happened, the same from every process, without anything that would name a person."""

from __future__ import annotations

import re
import socket
from contextlib import closing
from datetime import timedelta
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest
import requests
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from auth_portal.errors import Misconfigured
from auth_portal.services.operations import health
from auth_portal.services.operations.retention import HOURS_STORED, prune
from auth_portal.settings import read_settings
from auth_portal.store.models import ALL_HOURS, HourlyCount
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.security.tools import code_for, deliver, wrong
from tests.serving import Visitor, free_port, serving
from tests.test_servers import configured
from tests.world import MAIL, PASSWORD, PHONE, World

Samples = dict[str, float]


def samples(text: str) -> Samples:
    """Each sample by its name and labels."""
    return {name: float(value) for name, value in re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}


def scraped(world: World) -> Samples:
    """What a Prometheus server reads once the process has written what it counted."""
    world.services.health.beat()
    answer = world.app.test_client().get("/metrics", base_url="http://127.0.0.1:8000")
    assert answer.status_code == 200
    return samples(answer.text)


def test_a_busy_journey_hides_no_other(still: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_WAITING", 2)
    still.browser().begin("other", "app")
    for number in range(5):
        still.browser().begin(f"r-{number}")
    found = scraped(still)
    assert found['auth_portal_verifications{journey="app",outcome="live"}'] == 1
    assert found['auth_portal_verifications{journey="balance",outcome="live"}'] == 2


def test_a_verification_shows_from_its_beginning_to_its_callback(still: World) -> None:
    browser = still.browser()
    browser.begin("r-1")
    assert scraped(still)['auth_portal_verifications{journey="balance",outcome="live"}'] == 1
    assert scraped(still)['auth_portal_queue_deliveries{kind="message"}'] == 1
    code = code_for(still, PHONE)
    browser.prove(wrong(code))
    still.clock.advance(25)
    browser.prove(code)
    assert browser.path == "/done"
    still.clock.advance(40)
    assert scraped(still)['auth_portal_queue_oldest_seconds{kind="callback"}'] == 40
    deliver(still)
    found = scraped(still)
    expected = {
        'verifications_began_total{journey="balance"}': 1,
        'verifications_ended_total{journey="balance",outcome="verified",methods="sms_code"}': 1,
        'verifications{journey="balance",outcome="verified"}': 1,
        'proof_seconds_bucket{journey="balance",le="20"}': 0,
        'proof_seconds_bucket{journey="balance",le="30"}': 1,
        'proof_seconds_count{journey="balance"}': 1,
        'proof_seconds_sum{journey="balance"}': 25,
        'callback_seconds_bucket{le="15"}': 0,
        'callback_seconds_bucket{le="60"}': 1,
        "callback_seconds_sum": 40,
        'checks_total{method="sms_code",result="right"}': 1,
        'checks_total{method="sms_code",result="wrong"}': 1,
        'messages_total{channel="sms",country="ZA",fate="accepted"}': 1,
        'callback_attempts_total{fate="accepted"}': 1,
        'deliveries_ended_total{kind="callback",state="accepted",tries="1"}': 1,
        'deliveries_ended_total{kind="message",state="accepted",tries="1"}': 1,
        'deliveries{kind="callback",state="accepted"}': 1,
        'deliveries{kind="callback",state="pending"}': 0,
        'queue_deliveries{kind="message"}': 0,
        'queue_oldest_seconds{kind="callback"}': 0,
        'cap_used_ratio{channel="sms",country="ZA",window="day"}': 0.00001,
        'request_seconds_count{route="/verify",method="POST",status="3xx"}': 1,
        'alerts_open{kind="callbacks"}': 0,
        "ready": 1,
    }
    assert {name: found.get(f"auth_portal_{name}") for name in expected} == expected
    assert found["process_resident_memory_bytes"] > 2**20
    assert found["process_open_fds"] > 3


def test_what_failed_shows_with_its_reason(still: World) -> None:
    still.receiver.answers, still.receiver.sms_answers = [500, 500, 500, 404], ["close", 400]
    browser = still.browser()
    browser.begin("r-1")
    browser.post("/verify/resend")
    for _ in range(3):
        deliver(still)
        still.clock.advance(20)
    browser.get("/verify")
    browser.post("/verify/cancel", reason="no_code")
    for _ in range(5):
        deliver(still)
        still.clock.advance(11)
    found = scraped(still)
    expected = {
        'limits_hit_total{limit="resend_too_early"}': 1,
        'messages_total{channel="sms",country="ZA",fate="unclear"}': 1,
        'messages_total{channel="sms",country="ZA",fate="recipient"}': 1,
        'verifications_ended_total{journey="balance",outcome="no_code",methods=""}': 1,
        'callback_attempts_total{fate="retry"}': 3,
        'callback_attempts_total{fate="refused"}': 1,
        'deliveries_ended_total{kind="callback",state="refused",tries="3-5"}': 1,
    }
    assert {name: found.get(f"auth_portal_{name}") for name in expected} == expected


def test_no_client_can_make_a_new_label(small_world: World) -> None:
    browser = small_world.browser()
    browser.get("/no-such-page/27821234567?reference=r-1")
    browser.client.open("/", method="INVENT", base_url=browser.base_url)
    browser.begin("sEcReT")
    found = scraped(small_world)
    assert found['auth_portal_request_seconds_count{route="none",method="GET",status="4xx"}'] == 1
    assert found['auth_portal_request_seconds_count{route="none",method="other",status="4xx"}'] == 1
    for secret in ("INVENT", "no-such-page", "27821234567", "sEcReT", "C-1001", MAIL, PHONE):
        assert secret not in str(sorted(found)) + str(small_world.rows(HourlyCount))


def test_every_process_shows_the_same_totals_and_a_restart_loses_none(
    tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    server = configured(tmp_path, database_url, receiver, workers=2)
    began = 'auth_portal_verifications_began_total{journey="password"}'
    landed = 'auth_portal_request_seconds_count{route="/j/<slug>",method="POST",status="3xx"}'

    def metrics() -> list[tuple[float | None, float | None]]:
        found = [samples(requests.get(f"{server.url}/metrics", timeout=GIVE_UP_SECONDS).text) for _ in range(8)]
        return [(one.get(began), one.get(landed)) for one in found]

    def is_shown(number: int) -> bool:
        return metrics() == [(number, number)] * 8

    for run in (1, 2):
        with serving(server):
            for number in range(6):
                assert Visitor(server.url).begin(f"r-{run}-{number}", "password").ok
        with serving(server):  # what the stopped processes had not written yet, they wrote at their end
            wait_for(partial(is_shown, 6 * run))


@pytest.mark.parametrize("kind", ["port", "socket"])
def test_metrics_can_have_an_address_of_their_own(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, kind: str
) -> None:
    """There any Host may ask, and nothing else answers; at the customers' address nothing is shown."""
    port, path = free_port(), tmp_path / "metrics.sock"
    bind = f"127.0.0.1:{port}" if kind == "port" else f"unix:{path}"
    settings = {"PORTAL_METRICS_BIND": bind, "PORTAL_PUBLIC_URL": "http://verify.acme.example"}
    server = configured(tmp_path, sqlite_url, receiver, server="auth-portal", workers=2, settings=settings)

    def ask(target: str, host: str = "node-1") -> tuple[int, str]:
        with closing(HTTPConnection("127.0.0.1", port)) as connection, closing(socket.socket(socket.AF_UNIX)) as way:
            if kind == "socket":
                way.connect(str(path))
                connection.sock = way
            connection.request("GET", target, headers={"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    with serving(server):
        assert "auth_portal_ready 1" in ask("/metrics")[1]
        assert "faults" in ask("/readyz")[1]
        assert ask("/healthz")[0] == 200
        for page in ("/", "/?reference=r-1", "/admin/", "/api/v1/tickets", "/static/app.js", "/nothing"):
            assert ask(page, "verify.acme.example")[0] == 404, page
        ours = {"Host": "verify.acme.example"}
        assert requests.get(f"{server.url}/?reference=r-1", headers=ours, timeout=GIVE_UP_SECONDS).ok
        assert requests.get(f"{server.url}/metrics", headers=ours, timeout=GIVE_UP_SECONDS).status_code == 404
        assert requests.get(f"{server.url}/readyz", timeout=GIVE_UP_SECONDS).json() == {"ready": True}


def test_metrics_and_pages_cannot_share_a_port() -> None:
    with pytest.raises(Misconfigured, match="another port"):
        read_settings({"PORTAL_METRICS_BIND": "0.0.0.0:8000", "PORTAL_BIND": "127.0.0.1:8000"})


def test_what_cannot_be_written_is_written_later(small_world: World) -> None:
    small_world.browser().begin("r-1", "password")
    engine = small_world.transactions.database.engine

    def refuse(_connection: object) -> None:
        raise OperationalError("COMMIT", {}, Exception("disk is full"))

    event.listen(engine, "commit", refuse)
    with pytest.raises(OperationalError):
        small_world.services.health.beat()
    event.remove(engine, "commit", refuse)
    small_world.browser().begin("r-2", "password")
    assert scraped(small_world)['auth_portal_verifications_began_total{journey="password"}'] == 2


def test_hours_are_removed_after_thirteen_months_and_no_total_falls(world: World) -> None:
    began = 'auth_portal_verifications_began_total{journey="password"}'
    world.browser().begin("r-1", "password")
    assert scraped(world)[began] == 1
    world.clock.advance(HOURS_STORED.total_seconds() - 3600)
    world.browser().begin("r-2", "password")
    assert scraped(world)[began] == 2
    assert prune(world.transactions)["counts of hours"] == 0
    world.clock.advance(2 * 3600)
    assert prune(world.transactions)["counts of hours"] > 0
    assert scraped(world)[began] == 2
    hours = {row.hour for row in world.rows(HourlyCount) if row.name == "verifications_began"}
    assert hours == {ALL_HOURS, (world.clock.now - timedelta(hours=2)).replace(minute=0)}


def test_a_password_that_is_right_counts_once(world: World) -> None:
    browser = world.browser()
    browser.begin("r-1", "password")
    browser.prove("not " + PASSWORD)
    browser.prove(PASSWORD)
    found = scraped(world)
    assert found['auth_portal_checks_total{method="password",result="right"}'] == 1
    assert found['auth_portal_checks_total{method="password",result="wrong"}'] == 1


def test_a_flood_of_one_kind_hides_no_other(still: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auth_portal.services.operations.health.MOST_WAITING", 2)
    for number in range(4):
        browser = still.browser()
        browser.open(f"left-{number}")
        browser.post("/", decline="not_me", identifier="")
    still.browser().begin("r-1")
    found = scraped(still)
    assert found['auth_portal_queue_deliveries{kind="callback"}'] == 2
    assert found['auth_portal_queue_deliveries{kind="message"}'] == 1
    assert found['auth_portal_queue_deliveries{kind="webhook"}'] == 0
