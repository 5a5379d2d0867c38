"""The reference at /api/v1/docs: every operation with an example that works as it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from auth_portal.services.access.api_keys import SCOPES
from auth_portal.store.models import Delivery, Verification
from auth_portal.web.api.frame import DOCUMENT_FILE
from tests.api.program import ORIGIN, Program, document, program
from tests.receiver import Receiver
from tests.security.tools import STILL, deliver
from tests.world import World, open_world

PATHS: Mapping[str, Any] = json.loads(DOCUMENT_FILE.read_text(encoding="utf-8"))["paths"]
OPERATIONS = [(path, method) for path, methods in PATHS.items() for method in methods]


@pytest.fixture
def world(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    """A portal with a verification whose answer Flow has refused."""
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as opened:
        receiver.answers = [400]
        browser = opened.browser()
        browser.begin("f7_4hn5=8f", "app")
        browser.prove(opened.totp())
        deliver(opened)
        while opened.services.dispatcher.seal():
            pass
        opened.clock.advance(61)  # after which ends of deliveries are listed
        yield opened


@pytest.fixture
def crm(world: World) -> Program:
    return program(world)


def example_of(path: str, method: str) -> tuple[Any, int, Any]:
    """The body of the example request, its status, and the body of the answer; None without one."""
    operation = PATHS[path][method]
    bodies = list(operation.get("requestBody", {"content": {}})["content"].values())
    asked = bodies[0]["example"] if bodies else None
    status = next(code for code in operation["responses"] if code.startswith("2"))
    answered = operation["responses"][status].get("content", {}).get("application/json", {}).get("example")
    return asked, int(status), answered


def shape(value: Any) -> Any:
    """Names and kinds of values; of a list, those of its first."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_example_of_an_operation_works(world: World, crm: Program, path: str, method: str) -> None:
    asked, status, answered = example_of(path, method)
    (callback,) = [row for row in world.rows(Delivery) if row.kind == "callback"]
    there = {
        "{customer_id}": "C-1001",
        "{verification_id}": world.rows(Verification)[0].id,
        "{delivery_id}": callback.id,
    }
    at = re.sub(r"\{\w+\}", lambda found: there[found[0]], path.removeprefix("/api/v1"))
    response = crm.call(method.upper(), at, asked)
    assert response.status_code == status, response.text
    if path.endswith("openapi.json"):
        assert json.loads(response.text)["openapi"].startswith("3.1")
    elif path.endswith("docs"):
        assert response.text.startswith("<!doctype html>")
    elif answered is None:
        assert not response.text
    else:
        assert shape(json.loads(response.text)) == shape(answered), response.text


def test_the_reference_has_every_operation_with_its_scope_and_example(world: World) -> None:
    page = world.app.test_client().get("/api/v1/docs", base_url=ORIGIN)
    assert page.status_code == 200
    assert page.content_type.startswith("text/html")
    text = unescape(re.sub(r"<[^>]*>", "", page.text))
    for path, method in OPERATIONS:
        operation = PATHS[path][method]
        assert f'id="{operation["operationId"]}"' in page.text
        assert operation["summary"] in text
        asked, _status, answered = example_of(path, method)
        for example in (asked, answered):
            assert example is None or json.dumps(example, indent=2, ensure_ascii=False) in text
    for scope in SCOPES:
        assert scope in text
    assert not re.findall(r'(?:src|href)="https?://', page.text), "nothing from elsewhere"


def test_every_name_of_a_body_is_described(world: World) -> None:
    page = world.app.test_client().get("/api/v1/docs", base_url=ORIGIN).text
    schemas = json.loads(DOCUMENT_FILE.read_text(encoding="utf-8"))["components"]["schemas"]
    for name in schemas["NewTicket"]["properties"] | schemas["Customer"]["properties"]:
        assert f"<code>{name}</code>" in page, name


def test_customers_are_found_by_a_contact(crm: Program) -> None:
    for body, found in (
        ({"phone": "082 123 4567"}, ["C-1001"]),
        ({"phone": "whatsapp:+27821234567"}, ["C-1001"]),
        ({"phone": "+27845551234"}, ["C-1003", "C-1004"]),
        ({"email": "THANDI@example.com"}, ["C-1001"]),
        ({"email": "no-one@example.com"}, []),
        ({"phone": "C-1001"}, []),
        ({"email": "+27821234567"}, []),
    ):
        response = crm.post("/customers/find", body)
        assert response.status_code == 200, response.text
        assert [one["customer_id"] for one in json.loads(response.text)["data"]] == found, body


@pytest.mark.parametrize(
    "body",
    [{}, {"phone": ""}, {"phone": 5}, {"phone": "1", "email": "a@b.c"}, {"name": "Thandi"}, {"email": "x" * 255}],
)
def test_a_contact_that_is_none_is_refused(crm: Program, body: dict[str, Any]) -> None:
    assert crm.post("/customers/find", body).status_code == 422


def test_a_key_without_the_scope_finds_no_one(world: World) -> None:
    assert program(world, "verifications:read").post("/customers/find", {"phone": "1"}).status_code == 403


def test_the_document_names_what_answers(crm: Program) -> None:
    assert document() is not None
    assert "/api/v1/docs" in crm.get("/").text
