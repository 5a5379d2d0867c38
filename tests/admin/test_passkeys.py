"""Passkeys of admins over HTTP, with a security key in software: what is right works, and everything else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update
from werkzeug.test import TestResponse

from auth_portal.store.models import Admin, AuditEvent, Passkey
from tests.admin.authenticator import Authenticator
from tests.admin.desk import ADMIN_PASSWORD, Desk, join, signed_in
from tests.admin.test_guards import owners_mail
from tests.receiver import Receiver
from tests.world import World, open_world

ACCOUNT, CREATE, SIGN_IN = "/admin/account", "/admin/account/passkeys/create", "/admin/sign-in/passkey"
CONFIRM = "/admin/account/passkeys/confirm"
LOCAL = {"PORTAL_PUBLIC_URL": "http://localhost:8000"}


@pytest.fixture
def local(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    """A portal on localhost, where browsers allow passkeys, on both databases."""
    with open_world(tmp_path, database_url, receiver, settings=LOCAL) as opened:
        yield opened


@pytest.fixture
def near(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    """The same on SQLite alone."""
    with open_world(tmp_path, sqlite_url, receiver, settings=LOCAL) as opened:
        yield opened


def options(desk: Desk, path: str) -> Any:
    answer = desk.client.get(path, base_url=desk.base_url)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text)


def add(desk: Desk, device: Authenticator, name: str = "Laptop") -> TestResponse:
    desk.get(ACCOUNT)
    desk.post("/admin/account/passkeys", name=name)
    assert f"Create the passkey “{name}”" in desk.page.text, desk.page.text
    return desk.post(CREATE, passkey=device.create(options(desk, CREATE)))


def with_passkey(world: World, role: str = "owner") -> tuple[Desk, Authenticator]:
    desk, device = signed_in(world, role), Authenticator()
    add(desk, device)
    assert "The passkey was created" in desk.page.text, desk.page.text
    return desk, device


def stranger(world: World) -> Desk:
    """A browser that has nothing, at the sign-in page."""
    desk = Desk(world, "198.51.100.9")
    desk.get("/admin/sign-in")
    return desk


def enter(desk: Desk, response: str) -> TestResponse:
    return desk.post(SIGN_IN, passkey=response)


def test_r40_a_passkey_is_a_whole_sign_in(local: World) -> None:
    desk, device = with_passkey(local)
    mail = owners_mail(local, "An admin has a new passkey", "By: Ada Owner")
    assert "From: 198.51.100.4" in mail
    (row,) = local.rows(Passkey)
    assert (row.name, row.admin_id, row.used_at) == ("Laptop", desk.admin_id, None)
    asked = options(browser := stranger(local), SIGN_IN)
    assert asked["rpId"] == "localhost"
    assert asked["userVerification"] == "required"
    assert not asked.get("allowCredentials")
    enter(browser, device.use(asked))
    assert browser.path == "/admin/"
    assert "Ada Owner" in browser.page.text
    (row,) = local.rows(Passkey)
    assert (row.sign_count, row.used_at) == (1, local.clock.now)
    browser.get("/admin/api-keys/new")  # the second factor was shown with it
    assert 'name="second_factor"' not in browser.page.text


def test_r40_a_passkey_confirms_a_change(local: World) -> None:
    desk, device = with_passkey(local)
    local.clock.advance(700)
    desk.get("/admin/api-keys/new")
    assert f'data-passkey="{CONFIRM}"' in desk.page.text
    given = {"name": "CRM", "scopes": "tickets:write", "days": "30"}
    other = Authenticator(handle=device.handle)
    desk.post("/admin/api-keys", passkey=other.use(options(desk, CONFIRM)), **given)
    assert desk.page.status_code == 422
    assert "We couldn't use this passkey. Try again, or enter a code." in desk.page.text
    asked = options(desk, CONFIRM)
    assert [one["id"] for one in asked["allowCredentials"]]
    response = device.use(asked)
    desk.post("/admin/api-keys", passkey=response, **given)
    assert desk.page.status_code == 200, desk.page.text
    local.clock.advance(700)
    desk.get("/admin/api-keys/new")
    desk.post("/admin/api-keys", passkey=response, **given)
    assert desk.page.status_code == 422, "the same response again"


def test_r40_adding_and_removing_need_a_fresh_second_factor(near: World) -> None:
    desk, device = with_passkey(near)
    near.clock.advance(700)
    desk.get(ACCOUNT)
    assert desk.post("/admin/account/passkeys", name="Second").status_code == 422
    assert 'name="second_factor"' in desk.page.text
    assert desk.client.get(CREATE, base_url=desk.base_url).status_code == 403
    (row,) = near.rows(Passkey)
    remove = f"/admin/account/passkeys/{row.id}/remove"
    desk.get(ACCOUNT)
    assert desk.post(remove).status_code == 422
    assert len(near.rows(Passkey)) == 1
    desk.post(remove, second_factor=desk.second_factor())
    assert "The passkey was removed" in desk.page.text
    assert near.rows(Passkey) == []
    assert owners_mail(near, "A passkey of an admin was removed", "By: Ada Owner")
    kinds = [event.kind for event in near.rows(AuditEvent)]
    assert "passkey_created" in kinds
    assert "passkey_removed" in kinds
    browser = stranger(near)
    assert enter(browser, device.use(options(browser, SIGN_IN))).status_code == 422


Trick = Callable[[World, Desk, Authenticator], TestResponse]


def _again(world: World, browser: Desk, device: Authenticator) -> TestResponse:
    response = device.use(options(browser, SIGN_IN))
    enter(browser, response)
    assert browser.path == "/admin/"
    browser.post("/admin/sign-out")
    browser.get("/admin/sign-in")
    return enter(browser, response)


def _too_late(world: World, browser: Desk, device: Authenticator) -> TestResponse:
    response = device.use(options(browser, SIGN_IN))
    world.clock.advance(301)
    return enter(browser, response)


def _another_browser(world: World, browser: Desk, device: Authenticator) -> TestResponse:
    return enter(browser, device.use(options(stranger(world), SIGN_IN)))


def _another_act(world: World, browser: Desk, device: Authenticator) -> TestResponse:
    desk = next(iter(_DESKS))
    return enter(browser, device.use(options(desk, CONFIRM)))


def _invented(world: World, browser: Desk, device: Authenticator) -> TestResponse:
    return enter(browser, device.use({"challenge": "AAAA" * 16}))


def _changed(**values: Any) -> Trick:
    def trick(world: World, browser: Desk, device: Authenticator) -> TestResponse:
        for name, value in values.items():
            setattr(device, name, value)
        return enter(browser, device.use(options(browser, SIGN_IN)))

    return trick


def _creation(world: World, browser: Desk, device: Authenticator) -> TestResponse:
    return enter(browser, device.use(options(browser, SIGN_IN), kind="webauthn.create"))


def _unreadable(world: World, browser: Desk, device: Authenticator) -> TestResponse:
    good = json.loads(device.use(options(browser, SIGN_IN)))
    bad = ["", "x", "[]", "{}", "[" * 20_000, "1", json.dumps({**good, "response": {}}), json.dumps({**good, "rawId": 5}),
           json.dumps({**good, "response": {**good["response"], "signature": "!"}}),
           json.dumps({**good, "response": {**good["response"], "authenticatorData": "AAAA"}}),
           json.dumps({**good, "response": {**good["response"], "userHandle": ["x"]}})]  # fmt: skip
    for text in bad:
        assert enter(browser, text).status_code == 422, text[:100]
    return browser.page


_DESKS: list[Desk] = []
TRICKS: dict[str, Trick] = {
    "the same response twice": _again,
    "five minutes later": _too_late,
    "another browser's challenge": _another_browser,
    "a challenge for another act": _another_act,
    "an invented challenge": _invented,
    "another site's page": _changed(origin="https://evil.example"),
    "another port": _changed(origin="http://localhost:8001"),
    "another relying party": _changed(site="evil.example"),
    "nobody recognised": _changed(is_verifying=False),
    "another person's handle": _changed(handle=b"0" * 32),
    "an unknown passkey": _changed(credential_id=b"unknown"),
    "a creation": _creation,
    "what cannot be read": _unreadable,
}


@pytest.mark.parametrize("trick", TRICKS)
def test_r40_anything_else_is_refused(near: World, trick: str) -> None:
    desk, device = with_passkey(near)
    _DESKS[:] = [desk]
    browser = stranger(near)
    page = TRICKS[trick](near, browser, device)
    assert page.status_code == 422
    assert "We couldn't sign you in with this passkey." in page.text
    assert browser.get("/admin/account").request.path == "/admin/sign-in"
    failed = [event for event in near.rows(AuditEvent) if event.kind == "admin_sign_in_failed"]
    assert failed


def test_r40_a_count_that_goes_back_is_refused_and_mailed(local: World) -> None:
    _desk, device = with_passkey(local)
    browser = stranger(local)
    device.count = 40
    enter(browser, device.use(options(browser, SIGN_IN)))
    assert browser.path == "/admin/"
    for count in (7, 39):  # the next one of a copy is lower, or the same
        copy = stranger(local)
        device.count = count
        assert enter(copy, device.use(options(copy, SIGN_IN))).status_code == 422, count
    mail = owners_mail(local, "passkey may have been copied", "By: Ada Owner")
    assert "From: 198.51.100.9" in mail
    assert owners_mail(local, "A passkey may have been copied", "Laptop")
    assert "passkey_refused" in [event.kind for event in local.rows(AuditEvent)]


def test_r40_an_admin_who_is_off_or_reset_has_no_passkey(near: World) -> None:
    owner = signed_in(near)
    _support, device = with_passkey(near, "support")
    other = next(row.id for row in near.rows(Admin) if row.id != owner.admin_id)
    near.services.admins.set_active(other, False, by=owner.admin_id)
    browser = stranger(near)
    assert enter(browser, device.use(options(browser, SIGN_IN))).status_code == 422
    near.services.admins.set_active(other, True, by=owner.admin_id)
    browser = stranger(near)
    enter(browser, device.use(options(browser, SIGN_IN)))
    assert browser.path == "/admin/"
    near.services.admins.reset(other, made_by=owner.admin_id)
    assert near.rows(Passkey) == []
    browser = stranger(near)
    assert enter(browser, device.use(options(browser, SIGN_IN))).status_code == 422


def test_r26_after_a_new_password_the_page_offers_to_remove_all_passkeys(near: World) -> None:
    desk, device = with_passkey(near)
    other = Authenticator(handle=device.handle)
    add(desk, other, "Phone")
    _someone_else, kept = with_passkey(near, "support")
    desk.get(ACCOUNT)
    new = {"password": "nine kudus dance slowly", "repeated": "nine kudus dance slowly"}
    desk.post("/admin/account/password", present=ADMIN_PASSWORD, **new)
    assert "2 passkeys can still sign in as you" in desk.page.text
    near.clock.advance(700)
    desk.get(ACCOUNT)
    assert desk.post(f"{ACCOUNT}/passkeys/remove-all").status_code == 422  # without a fresh second factor
    assert len(near.rows(Passkey)) == 3
    desk.post(f"{ACCOUNT}/passkeys/remove-all", second_factor=desk.second_factor())
    assert "2 passkeys were removed" in desk.page.text
    assert len(near.rows(Passkey)) == 1
    assert owners_mail(near, "2 passkeys of an admin were removed", "By: Ada Owner")
    assert sorted(row.facts["passkey"] for row in near.rows(AuditEvent) if row.kind == "passkey_removed") == [
        "Laptop",
        "Phone",
    ]
    for gone in (device, other):
        browser = stranger(near)
        assert enter(browser, gone.use(options(browser, SIGN_IN))).status_code == 422
    browser = stranger(near)
    enter(browser, kept.use(options(browser, SIGN_IN)))
    assert browser.path == "/admin/"


def test_r26_a_passkey_that_outlives_a_reset_opens_nothing(near: World) -> None:
    """Here it comes back as if it had been created in a session at the very moment of the reset."""
    owner = signed_in(near)
    _support, device = with_passkey(near, "support")
    (passkey,) = near.rows(Passkey)
    token = near.services.admins.reset(passkey.admin_id, made_by=owner.admin_id)
    with near.database.write() as connection:
        connection.execute(insert(Passkey).values(dict(passkey._mapping)))
    browser = stranger(near)
    assert enter(browser, device.use(options(browser, SIGN_IN))).status_code == 422
    join(Desk(near), token, ADMIN_PASSWORD)
    assert near.rows(Passkey) == []
    browser = stranger(near)
    assert enter(browser, device.use(options(browser, SIGN_IN))).status_code == 422


def test_r54_an_admin_changed_by_sql_cannot_sign_in_with_a_passkey(near: World) -> None:
    auditor, device = with_passkey(near, "auditor")
    with near.database.write() as connection:
        connection.execute(update(Admin).values(role="owner"))
    browser = stranger(near)
    assert enter(browser, device.use(options(browser, SIGN_IN))).status_code == 422
    assert [row.facts["table"] for row in near.rows(AuditEvent) if row.kind == "integrity_broken"] == ["admins"]
    near.accept()
    browser = stranger(near)
    enter(browser, device.use(options(browser, SIGN_IN)))
    assert browser.path == "/admin/"
    assert auditor.admin_id


def test_r40_another_admins_passkey_confirms_nothing(near: World) -> None:
    owner, mine = with_passkey(near)
    support, theirs = with_passkey(near, "support")
    near.clock.advance(700)
    owner.get("/admin/api-keys/new")
    given = {"name": "CRM", "scopes": "tickets:write", "days": "30"}
    owner.post("/admin/api-keys", passkey=theirs.use(options(owner, CONFIRM)), **given)
    assert owner.page.status_code == 422
    owner.post("/admin/api-keys", passkey=mine.use(options(support, CONFIRM)), **given)
    assert owner.page.status_code == 422
    (row,) = [row for row in near.rows(Passkey) if row.admin_id == support.admin_id]
    owner.get(ACCOUNT)
    path = f"/admin/account/passkeys/{row.id}/remove"
    mine_of = next(one.id for one in near.rows(Passkey) if one.admin_id == owner.admin_id)
    hidden = owner.hidden(f"/admin/account/passkeys/{mine_of}/remove")
    fields = {**hidden, "second_factor": owner.second_factor()}
    assert owner.client.post(path, data=fields, base_url=owner.base_url).status_code == 404
    assert len(near.rows(Passkey)) == 2


def test_r40_a_passkey_is_created_once_and_by_its_own_session(near: World) -> None:
    owner, support = signed_in(near), signed_in(near, "support")
    device = Authenticator()
    for asker, reason in ((support, "another session's challenge"), (owner, "")):
        owner.get(ACCOUNT)
        owner.post("/admin/account/passkeys", name="Laptop")
        response = device.create(options(asker, CREATE))
        owner.post(CREATE, passkey=response)
        assert (owner.page.status_code == 422) == bool(reason), reason
    owner.get(ACCOUNT)
    owner.post("/admin/account/passkeys", name="Twice")
    assert owner.post(CREATE, passkey=response).status_code == 422
    assert owner.post(CREATE, passkey=device.create(options(owner, CREATE))).status_code == 422, "already known"
    weak = Authenticator(is_verifying=False)
    assert owner.post(CREATE, passkey=weak.create(options(owner, CREATE))).status_code == 422
    assert owner.post(CREATE, passkey="{}").status_code == 422
    assert len(near.rows(Passkey)) == 1
    owner.get(ACCOUNT)
    for name in ("", "x" * 61, "a\u202eb"):
        assert owner.post("/admin/account/passkeys", name=name).status_code == 422, name


def test_r40_at_an_ip_address_the_page_says_why_there_are_none(small_world: World) -> None:
    owner = signed_in(small_world)
    page = owner.get(ACCOUNT).text
    assert "not for IP addresses" in page
    assert 'action="/admin/account/passkeys"' not in page
    assert SIGN_IN not in stranger(small_world).page.text
