"""Every refusal is problem details, whoever raised it, with the headers that tell a program what to do."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from tests.api.program import ORIGIN, Program, problem


def test_what_is_not_there(caller: Program) -> None:
    problem(caller.get("/nothing", is_described=False), 404, "not_found")
    problem(caller.post("/nothing", {}, is_described=False), 404, "not_found")
    problem(caller.get("/customers/%00", is_described=False), 404, "not_found")


def test_a_method_that_is_not_taken_names_those_that_are(caller: Program) -> None:
    answer = caller.call("PUT", "/customers/C-1001", {}, is_described=False)
    problem(answer, 405, "method_not_allowed")
    assert {"GET", "PATCH", "DELETE"} <= set(answer.headers["Allow"].split(", "))


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_only_json_is_taken(caller: Program, media_type: str) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    problem(caller.post("/customers", data=b'{"customer_id": "N"}', headers=headers), 415, "media_type")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"7", b"null", b'{"customer_id": NaN}', b'{"a": 1, "a": 2}', b"\xff", b"[" * 60_000,
     b'{"customer_id": "\\ud800"}', b'{"customer_id": "N"} x'],
)  # fmt: skip
def test_only_one_json_object_is_taken(caller: Program, body: bytes) -> None:
    problem(caller.post("/customers", data=body, headers={"Content-Type": "application/json"}), 400, "bad_json")


def test_too_much_is_refused(caller: Program) -> None:
    small, large = 64 * 1024, 1024 * 1024
    for path, most in (("/customers", small), ("/customers/bulk", large), ("/tickets", small)):
        body = b'{"a": "' + b"x" * most + b'"}'
        problem(caller.post(path, data=body, headers={"Content-Type": "application/json"}), 413, "too_large")


@pytest.mark.parametrize(
    ("query", "names"),
    [("limit=0", {"limit"}), ("limit=201", {"limit"}), ("limit=x&limits=3", {"limit", "limits"}), ("limit=1&limit=2", {"limit"}),
     ("limit=٣", {"limit"}), ("after=", {"after"}), ("after=%00", {"after"}), ("after=" + "x" * 801, {"after"}), ("after=x", {"after"}), ("after=AAAA", {"after"}), ("after=_-8", {"after"})],
)  # fmt: skip
def test_parameters_are_named(caller: Program, query: str, names: set[str]) -> None:
    found = problem(caller.get(f"/customers?{query}"), 422, "query_invalid")
    assert {error["parameter"] for error in found["errors"]} == names


def test_a_database_that_is_gone_is_a_503_that_says_so(caller: Program) -> None:
    with caller.world.database.write() as connection:
        connection.execute(text("ALTER TABLE customers RENAME TO gone"))
    answer = caller.get("/customers")
    problem(answer, 503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert "gone" not in answer.text


def test_another_host_is_refused(caller: Program) -> None:
    answer = caller.app.test_client().get("/api/v1/customers", base_url="http://evil.example")
    problem(answer, 400, "bad_host")


def test_the_document_is_served_to_everybody(caller: Program) -> None:
    answer = caller.app.test_client().get("/api/v1/openapi.json", base_url=ORIGIN)
    assert answer.status_code == 200
    assert json.loads(answer.text)["openapi"].startswith("3.1")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
