"""One id from the proxy's log to the attempts to send what the request caused."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from auth_portal.errors import Misconfigured
from auth_portal.settings import read_settings
from tests.receiver import Receiver, wait_for
from tests.security.tools import logged
from tests.world import PASSWORD, World, open_world

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def events(log: str, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def asked(world: World, **headers: str) -> TestResponse:
    browser = world.browser()
    given = {"X-Forwarded-For": "192.0.2.1"} | {name.replace("_", "-"): text for name, text in headers.items()}
    return browser.get("/?reference=r-1", headers=given)


def test_the_log_of_a_result_names_the_request_that_caused_it(world: World) -> None:
    with logged() as log:
        browser = world.browser()
        browser.begin("r-1", "password")
        answer = browser.prove(PASSWORD, follow=False)
        wait_for(lambda: events(log.getvalue(), "callback_attempted"))
    (attempt,) = events(log.getvalue(), "callback_attempted")
    assert attempt["request_id"] == answer.headers["X-Request-Id"]
    browser = world.browser()
    with logged() as log:
        browser.begin("r-2")
        wait_for(lambda: events(log.getvalue(), "message_attempted"))
    (attempt,) = events(log.getvalue(), "message_attempted")
    (begun,) = [one for one in events(log.getvalue(), "request") if (one["method"], one["route"]) == ("POST", "/")]
    assert attempt["request_id"] == begun["request_id"]


@pytest.mark.parametrize(
    ("header", "sent", "id_"),
    [
        ("X-Request-ID", "Abc-123.x_y", "Abc-123.x_y"),
        ("x-request-id", "f" * 64, "f" * 64),
        ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        ("traceparent", f"cc-{TRACE}-00f067aa0ba902b7-01-more", TRACE),
    ],
)
def test_the_trusted_proxy_gives_a_request_its_id(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, header: str, sent: str, id_: str
) -> None:
    settings = {"PORTAL_TRUSTED_PROXIES": "1", "PORTAL_REQUEST_ID_HEADER": header}
    with open_world(tmp_path, sqlite_url, receiver, settings=settings) as world, logged() as log:
        assert asked(world, **{header: sent}).headers["X-Request-Id"] == id_
        assert events(log.getvalue(), "request")[0]["request_id"] == id_


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        *product(("X-Request-ID", "traceparent"), ("", "short", "a" * 65, "two words", "a\tb-12345")),
        ("traceparent", f"00-{'0' * 32}-{'1' * 16}-01"),
    ],
)
def test_what_is_no_id_is_replaced(tmp_path: Path, sqlite_url: str, receiver: Receiver, header: str, sent: str) -> None:
    settings = {"PORTAL_TRUSTED_PROXIES": "1", "PORTAL_REQUEST_ID_HEADER": header}
    with open_world(tmp_path, sqlite_url, receiver, settings=settings) as world:
        found = asked(world, **{header: sent}).headers["X-Request-Id"]
        assert found != sent
        assert len(found) == 16


def test_no_client_chooses_its_id(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    with pytest.raises(Misconfigured, match="PORTAL_TRUSTED_PROXIES must be 1 or more"):
        read_settings({"PORTAL_REQUEST_ID_HEADER": "traceparent"})
    with open_world(tmp_path, sqlite_url, receiver, settings={"PORTAL_TRUSTED_PROXIES": "1"}) as world:
        answer = asked(world, X_Request_ID="chosen-by-me", traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
        assert len(answer.headers["X-Request-Id"]) == 16


def test_the_log_shows_what_the_setting_says(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    settings = {"PORTAL_LOG_LEVEL": "warning"}
    with open_world(tmp_path, sqlite_url, receiver, settings=settings) as world, logged() as log:
        world.browser().open("r-1")
        assert events(log.getvalue(), "request") == []
        world.services.health.is_draining = True
        world.app.test_client().get("/readyz")
        assert events(log.getvalue(), "not_ready")
    with pytest.raises(Misconfigured, match="PORTAL_LOG_LEVEL"):
        read_settings({"PORTAL_LOG_LEVEL": "loud"})
