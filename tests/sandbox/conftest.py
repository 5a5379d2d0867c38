"""A small app with nothing but the sandbox in it, a clock that tests move, and a portal played by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from auth_portal.sandbox import DemoPerson, JourneyCard, blueprint
from tests.compiled import share_templates

ROOT = Path(__file__).resolve().parents[2]
PUBLIC_URL = "http://127.0.0.1:8000"
FAILED = dict.fromkeys(("wrong", "expired", "cancelled", "not_me", "no_code", "unavailable"), "failed")
DATA = ("outcome", "journey", "customer_id", "method", "verified_at")
JOURNEYS = (
    JourneyCard("card", "Block my card", results={"verified": "check_code_card", **FAILED}, data=(*DATA, "chat_code"),
                relay_defence="chat_code", compares="chat_code", methods_text="SMS or email code"),
    JourneyCard("balance", "Check my balance", is_default=True, results={"verified": "verified", **FAILED}, data=DATA,
                methods_text="Password, then SMS, email or authenticator code"),
    JourneyCard("limit", "Raise my limit", contract="wait_for_callback",
                results={"verified": "verified_limit", **FAILED},
                data=DATA, methods_text="Authenticator code"),
)  # fmt: skip
TOTP_SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
PEOPLE = (
    DemoPerson(
        "C-1001", "Thandi Mokoena", "+27 82 123 4567", "thandi@example.com", "correct horse battery", TOTP_SECRET
    ),
    DemoPerson("C-1003", "Lerato Dube", email="lerato@example.com", totp_secret="JBSWY3DP"),
    DemoPerson("C-1002", "Pieter van Wyk", phone="+27 83 765 4321"),
)


class MovableClock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 19, 5, 7, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Chat:
    """A conversation as a script drives it, with the portal's part played by ``tell``."""

    def __init__(self, client: FlaskClient, **fields: str) -> None:
        self.client = client
        started = client.post("/sandbox/conversations", json=fields)
        assert started.status_code == 201, started.text
        answer = started.get_json()
        self.id, self.link, self.reference = answer["id"], answer["link"], answer["reference"]

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.client.get(f"/sandbox/conversations/{self.id}").get_json()
        return state

    def post(self, move: str, **fields: str) -> TestResponse:
        return self.client.post(f"/sandbox/conversations/{self.id}/{move}", json=fields)

    def page(self) -> TestResponse:
        return self.client.get(f"/sandbox/chat/{self.id}", headers={"Accept": "text/html"})

    def tell(self, result: str = "verified", path: str = "/sandbox/callback", **data: str) -> TestResponse:
        body = {"result": result, "reference": self.reference, "data": data}
        return self.client.post(path, json=body, headers={"reference": self.reference})

    def said(self) -> list[str]:
        return [line["text"] for line in self.state()["messages"] if line["from"] == "business"]


def make_app(instance: Path, clock: Callable[[], datetime], waits: list[float], *, is_public: bool = False) -> Flask:
    app = Flask("sandbox_alone", template_folder=str(ROOT / "templates"), static_folder=str(ROOT / "static"))
    share_templates(app)
    app.jinja_env.globals.update(static_url=lambda name: f"/static/{name}", csrf_token=lambda: "token")
    app.register_blueprint(
        blueprint(
            instance,
            PUBLIC_URL,
            lambda: JOURNEYS,
            clock,
            is_public=is_public,
            demo_people=lambda: PEOPLE,
            sleep=waits.append,
        )
    )
    return app


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def waits() -> list[float]:
    """How long the sandbox would have kept its callers waiting."""
    return []


@pytest.fixture
def app(tmp_path: Path, clock: MovableClock, waits: list[float]) -> Flask:
    return make_app(tmp_path, clock, waits)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def public_client(tmp_path: Path, clock: MovableClock, waits: list[float]) -> FlaskClient:
    """The same sandbox, shared with strangers."""
    return make_app(tmp_path / "public", clock, waits, is_public=True).test_client()


@pytest.fixture
def new_app(tmp_path: Path, clock: MovableClock) -> Callable[[], Flask]:
    """Another worker on the same file."""
    return lambda: make_app(tmp_path, clock, [])


@pytest.fixture
def served(app: Flask) -> Iterator[int]:
    """The sandbox behind a real socket; gives its port."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def start(client: FlaskClient) -> Callable[..., Chat]:
    def _start(**fields: str) -> Chat:
        return Chat(client, **fields)

    return _start
