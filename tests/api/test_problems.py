"""Every refusal is problem details, whoever raised it, with the headers that tell a program what to do."""

from __future__ import annotations

import json
import sys

import pytest
from sqlalchemy import text

from tests.api.program import ORIGIN, Program, problem


def test_what_is_not_there(caller: Program) -> None:
    problem(caller.get("/nothing", is_described=False), 404, "not_found")
    problem(caller.post("/nothing", {}, is_described=False), 404, "not_found")
    problem(caller.get("/customers/%00", is_described=False), 404, "not_found")
    problem(caller.get("/customers/%0A", is_described=False), 404, "not_found")
    problem(Program(caller.world, "").get("/customers/%0A", is_described=False), 401, "key_missing")


def test_a_method_that_is_not_taken_names_those_that_are(caller: Program) -> None:
    answer = caller.call("PUT", "/customers/C-1001", {}, is_described=False)
    problem(answer, 405, "method_not_allowed")
    assert {"GET", "PATCH", "DELETE"} <= set(answer.headers["Allow"].split(", "))


def test_whoever_asks_at_the_door_is_told_where_the_document_is(caller: Program) -> None:
    anybody = Program(caller.world, "")
    for path in ("/", ""):
        answer = anybody.get(path, is_described=bool(path))
        assert answer.json == {"document": "/api/v1/openapi.json", "reference": "/api/v1/docs"}
        described, read = answer.headers["Link"].split(", ")
        assert described == '</api/v1/openapi.json>; rel="service-desc"; type="application/json"'
        assert read == '</api/v1/docs>; rel="service-doc"; type="text/html"'


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/v2/customers", "/api/v1/customers/", "/api/v1/tickets/"])
def test_an_address_that_is_none_tells_where_all_are(caller: Program, path: str) -> None:
    headers = {"Authorization": f"Bearer {caller.key}"}
    found = problem(caller.app.test_client().get(path, base_url=ORIGIN, headers=headers), 404, "not_found")
    assert "/api/v1/openapi.json names all addresses; none ends in a slash" in found["detail"]


def test_options_names_the_methods_and_has_no_body(caller: Program) -> None:
    answer = caller.call("OPTIONS", "/customers", is_described=False)
    assert (answer.status_code, answer.text) == (204, "")
    assert "Content-Type" not in answer.headers
    assert {"GET", "HEAD", "POST", "OPTIONS"} == set(answer.headers["Allow"].split(", "))


def test_head_is_get_without_a_body(caller: Program) -> None:
    answer = caller.call("HEAD", "/customers/C-1001", is_described=False)
    assert (answer.status_code, answer.text) == (200, "")
    assert answer.headers["ETag"] == caller.get("/customers/C-1001").headers["ETag"]
    assert caller.call("HEAD", "/customers/nobody", is_described=False).content_type == "application/problem+json"


def test_a_merge_patch_is_taken_by_its_own_name(caller: Program) -> None:
    headers = {"Content-Type": "application/merge-patch+json"}
    assert caller.patch("/customers/C-1001", data=b'{"name": null}', headers=headers).json["name"] is None  # type: ignore[index]
    problem(caller.post("/customers", data=b'{"customer_id": "N"}', headers=headers), 415, "media_type")


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_only_json_is_taken(caller: Program, media_type: str) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    problem(caller.post("/customers", data=b'{"customer_id": "N"}', headers=headers), 415, "media_type")


# Python 3.14 reads this far, and finds that the end is missing.
TOO_DEEP = "nested too deeply" if sys.version_info < (3, 14) else "at line 1, column 60001."


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"", "at line 1, column 1."), (b'{\n"a" 7', "at line 2, column 5."), (b"[]", "another JSON value"),
     (b"7", "another JSON value"), (b"null", "another JSON value"), (b'{"customer_id": NaN}', "a number that JSON"),
     (b'{"a": 1, "a": 2}', "a name twice"), (b"\xff", "not in UTF-8"), (b"[" * 60_000, TOO_DEEP),
     (b'{"customer_id": "\\ud800"}', "not in UTF-8"), (b'{"customer_id": "N"} x', "at line 1, column 22.")],
)  # fmt: skip
def test_only_one_json_object_is_taken(caller: Program, body: bytes, why: str) -> None:
    answer = caller.post("/customers", data=body, headers={"Content-Type": "application/json"})
    assert why in problem(answer, 400, "bad_json")["detail"]


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
