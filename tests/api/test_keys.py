"""Keys of the API: every scope × every route, ended and wrong ones, limits, and where a key must never turn up."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from auth_portal.bootstrap import create_app
from auth_portal.services.access.api_keys import DAYS, MOST_KEYS, REQUESTS_PER_MINUTE, SCOPES, WRONG_PER_MINUTE
from auth_portal.store.models import ApiKeyRow, AuditEvent, Delivery
from auth_portal.web.api.frame import DOCUMENT_FILE
from tests.admin.desk import signed_in
from tests.api.program import ORIGIN, Program, problem, program
from tests.security.tools import logged
from tests.world import World

NOBODY_ID = "0" * 32
# operation: a request that gets past the key, whatever comes of it
REQUESTS: dict[str, tuple[str, str, object]] = {
    "list_customers": ("GET", "/customers", None),
    "find_customers": ("POST", "/customers/find", {"phone": "+27821234567"}),
    "create_customer": ("POST", "/customers", {"customer_id": "N-1"}),
    "save_customers": ("POST", "/customers/bulk", {"customers": [{"customer_id": "N-2"}]}),
    "read_customer": ("GET", "/customers/C-1001", None),
    "change_customer": ("PATCH", "/customers/C-1001", {"name": "T"}),
    "delete_customer": ("DELETE", "/customers/nobody", None),
    "list_customer_changes": ("GET", "/changes/customers", None),
    "list_verification_changes": ("GET", "/changes/verifications", None),
    "list_delivery_changes": ("GET", "/changes/deliveries", None),
    "list_verifications": ("GET", "/verifications", None),
    "read_verification": ("GET", f"/verifications/{NOBODY_ID}", None),
    "list_deliveries": ("GET", "/deliveries", None),
    "read_delivery": ("GET", f"/deliveries/{NOBODY_ID}", None),
    "retry_delivery": ("POST", f"/deliveries/{NOBODY_ID}/retry", {"reason": "lost"}),
    "register_ticket": ("POST", "/tickets", {"journey": "balance", "msisdn": "27821234567"}),
}


def operations() -> dict[str, str]:
    """Each operation of the document that needs a key, and the scope that it says it needs."""
    paths = json.loads(DOCUMENT_FILE.read_text())["paths"]
    found = [operation for path in paths.values() for operation in path.values()]
    return {operation["operationId"]: operation["x-scope"] for operation in found if operation.get("security") != []}


def test_every_route_is_in_the_document_and_the_other_way_round() -> None:
    paths = json.loads(DOCUMENT_FILE.read_text())["paths"]
    described = {
        (method.upper(), path, one["operationId"]) for path, all_ in paths.items() for method, one in all_.items()
    }
    served = {
        (
            method,
            str(rule).replace("<anything:", "<").replace("<", "{").replace(">", "}"),
            rule.endpoint.removeprefix("api."),
        )
        for rule in create_app().url_map.iter_rules()
        if rule.endpoint.startswith("api.")
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}
    }
    assert served == described
    assert set(operations()) == set(REQUESTS)
    assert set(operations().values()) | {"customers:credentials"} == set(SCOPES)  # which adds to another


def test_each_scope_opens_its_routes_and_no_other(small_world: World) -> None:
    for scope in SCOPES:
        caller = program(small_world, scope)
        for name, needed in operations().items():
            answer = caller.call(*REQUESTS[name])
            if needed == scope:
                assert answer.status_code not in (401, 403), (scope, name, answer.text)
            else:
                assert answer.headers["WWW-Authenticate"].endswith(f'error="insufficient_scope", scope="{needed}"')
                problem(answer, 403, "scope_missing")


def test_nobody_gets_past_without_a_key(small_world: World) -> None:
    caller = Program(small_world, "")
    for method, path, body in REQUESTS.values():
        answer = caller.call(method, path, body)
        problem(answer, 401, "key_missing")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="Auth Portal API"'
    for header in ("", "Bearer", "Bearer ", "Basic cG9ydGFsOng=", "portal_x", "Bearer a b"):
        problem(caller.get("/customers", headers={"Authorization": header}), 401, "key_missing")


def test_a_key_ends(both: Program) -> None:
    (key,) = both.world.services.api_keys.recent()
    assert both.get("/customers").status_code == 200
    both.world.clock.advance(90 * 86_400 - 1)
    assert both.get("/customers").status_code == 200
    both.world.clock.advance(1)
    answer = both.get("/customers")
    problem(answer, 401, "key_wrong")
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert [found.is_live for found in both.world.services.api_keys.recent()] == [False]
    assert key.is_live


def test_a_revoked_key_is_refused_at_once(both: Program) -> None:
    assert both.get("/customers").status_code == 200
    (key,) = both.world.services.api_keys.recent()
    both.world.services.api_keys.revoke(key.id, None)
    problem(both.get("/customers"), 401, "key_wrong")
    both.world.services.api_keys.revoke(key.id, None)
    events = [event.kind for event in both.world.rows(AuditEvent) if event.kind.startswith("api_key")]
    assert events == ["api_key_created", "api_key_revoked"]


def test_wrong_keys_are_limited_by_address_and_right_ones_pass(both: Program) -> None:
    wrong = Program(both.world, "portal_" + "x" * 32)
    for _ in range(WRONG_PER_MINUTE):
        problem(wrong.get("/customers"), 401, "key_wrong")
    refused = wrong.get("/customers")
    problem(refused, 429, "too_many_wrong_keys")
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert both.get("/customers").status_code == 200
    problem(wrong.get("/customers", address="192.0.2.78"), 401, "key_wrong")
    both.world.clock.advance(61)
    problem(wrong.get("/customers"), 401, "key_wrong")


def test_a_key_is_good_for_so_many_requests_a_minute(caller: Program) -> None:
    for _ in range(REQUESTS_PER_MINUTE):
        assert caller.get("/customers/C-1001", is_described=False).status_code == 200
    problem(caller.get("/customers/C-1001"), 429, "too_many_calls")
    assert program(caller.world).get("/customers/C-1001").status_code == 200
    caller.world.clock.advance(61)
    assert caller.get("/customers/C-1001").status_code == 200


def test_the_last_use_is_kept_to_the_minute(caller: Program) -> None:
    clock = caller.world.clock
    caller.get("/customers")
    first = clock.now
    clock.advance(59)
    caller.get("/customers")
    assert caller.world.rows(ApiKeyRow)[0].used_at == first
    clock.advance(1)
    caller.get("/customers")
    assert caller.world.rows(ApiKeyRow)[0].used_at == clock.now


def test_r19_owners_are_told_of_each_key(small_world: World) -> None:
    signed_in(small_world, "owner")
    before = len(small_world.rows(Delivery))
    made = small_world.services.api_keys.create("CRM", ["customers:write"], 30, None)
    small_world.services.api_keys.revoke(made.id, None)
    told = small_world.rows(Delivery)[before:]
    assert [delivery.target for delivery in told] == ["mail", "mail"]


def test_r42_a_key_is_in_no_log_and_not_in_the_database(
    small_world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with logged() as log:
        caller = program(small_world)
        caller.get("/customers")
        caller.get(f"/customers?after={caller.key}")
        Program(small_world, caller.key + "x").get("/customers")
        caller.post("/tickets", {"journey": "balance", "customer_id": caller.key})
    told = log.getvalue()
    assert "api_key_refused" in told
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("portal.db*"))
    for part in (caller.key, caller.key.removeprefix("portal_")):
        assert part not in told
        assert part.encode() not in stored


def test_only_keys_that_make_sense_are_made(small_world: World) -> None:
    keys = small_world.services.api_keys
    assert set(keys.create("", [], 7, None).faults) == {"name", "scopes", "days"}
    assert set(keys.create("x" * 81, ["customers:read", "everything"], 30, None).faults) == {"name", "scopes"}
    assert set(keys.create("two\nlines", ["customers:read"], 30, None).faults) == {"name"}
    for number in range(MOST_KEYS):
        assert keys.create(f"n{number}", ["customers:read"], DAYS[0], None).key
    assert "name" in keys.create("one more", ["customers:read"], 30, None).faults
    small_world.clock.advance(30 * 86_400)
    assert keys.create("one more", ["customers:read"], 30, None).key


def test_r30_no_cookie_means_anything_here(small_world: World) -> None:
    owner = signed_in(small_world, "owner")
    answer = owner.client.post("/api/v1/customers", json={"customer_id": "N-1"}, base_url=ORIGIN)
    problem(answer, 401, "key_missing")
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_r30_what_another_site_sends_is_refused(caller: Program, site: str) -> None:
    answer = caller.post("/customers", {"customer_id": "N-1"}, headers={"Sec-Fetch-Site": site})
    problem(answer, 400, "cross_site")
