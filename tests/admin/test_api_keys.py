"""The pages of keys: made with the second factor, shown once, revoked after being told what that does."""

from __future__ import annotations

import re

from auth_portal.services.access.api_keys import SCOPES
from auth_portal.store.models import ApiKeyRow, AuditEvent
from tests.admin.desk import Desk
from tests.api.program import Program, problem

PATH = "/admin/api-keys"


def make(owner: Desk, **fields: object) -> str:
    """The key that the page shows."""
    owner.get(f"{PATH}/new")
    given = {"name": "CRM", "scopes": ["customers:read", "tickets:write"], "days": "30", **fields}
    owner.post(PATH, **given)
    assert owner.page.status_code == 200, owner.page.text
    found = re.search(r'id="key"[^>]*value="(portal_[^"]+)"', owner.page.text)
    assert found, owner.page.text
    return found.group(1)


def test_a_key_is_shown_once_and_works(owner: Desk) -> None:
    caller = Program(owner.world, make(owner))
    assert caller.get("/customers").status_code == 200
    problem(caller.delete("/customers/C-1001"), 403, "scope_missing")
    listed = owner.get(PATH).text
    assert caller.key not in listed
    assert f"…{caller.key[-4:]}" in listed
    assert SCOPES["customers:read"] in listed
    assert SCOPES["customers:write"] not in listed
    assert "2026-12-22" in listed
    (row,) = owner.world.rows(ApiKeyRow)
    assert row.made_by == owner.admin_id
    event = next(event for event in owner.world.rows(AuditEvent) if event.kind == "api_key_created")
    assert event.admin_id == owner.admin_id
    assert event.facts["scopes"] == ["customers:read", "tickets:write"]


def test_a_key_needs_the_second_factor(owner: Desk) -> None:
    owner.world.clock.advance(601)
    owner.get(f"{PATH}/new")
    owner.post(PATH, name="CRM", scopes="customers:read", days="30")
    assert owner.page.status_code == 422
    assert 'value="CRM"' in owner.page.text
    assert 'value="customers:read" checked' in owner.page.text
    assert not owner.world.rows(ApiKeyRow)
    make(owner, second_factor=owner.second_factor())


def test_what_is_wrong_is_said_and_what_was_typed_is_kept(owner: Desk) -> None:
    owner.get(f"{PATH}/new")
    owner.post(PATH, name="", days="7")
    assert owner.page.status_code == 422
    for reason in ("Say which program", "Choose at least one thing", "Choose one of the times"):
        assert reason in owner.page.text
    assert not owner.world.rows(ApiKeyRow)


def test_revoking_says_what_it_does_first(owner: Desk) -> None:
    caller = Program(owner.world, make(owner))
    caller.get("/customers")
    (row,) = owner.world.rows(ApiKeyRow)
    page = owner.get(f"{PATH}/{row.id}/revoke").text
    assert "stops working immediately" in page
    assert caller.get("/customers").status_code == 200
    owner.post(f"{PATH}/{row.id}/revoke")
    assert owner.path == PATH
    assert "The key was revoked" in owner.page.text
    problem(caller.get("/customers"), 401, "key_wrong")
    event = next(event for event in owner.world.rows(AuditEvent) if event.kind == "api_key_revoked")
    assert event.admin_id == owner.admin_id
    assert owner.get(f"{PATH}/{'0' * 32}/revoke").status_code == 404


def test_an_auditor_reads_and_cannot_do_anything(owner: Desk, auditor: Desk) -> None:
    make(owner)
    page = auditor.get(PATH).text
    assert "CRM" in page
    assert "/revoke" not in page
    assert f"{PATH}/new" not in page
