"""A form that was sent after its session had run out comes back as it was typed, to whoever typed it (R26)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any

import pytest
from sqlalchemy import update

from auth_portal.store.models import Admin, AuditEvent, ChannelRow, CustomerRow, Journey, JourneyVersion, Portal
from auth_portal.web.admin.frame import LATE_FORM_BYTES, SECRET_FIELDS
from tests.admin.desk import ADMIN_PASSWORD, Desk, signed_in
from tests.world import Browser, World

LUNCH = 15 * 60 + 1  # seconds
JOURNEY = {
    "slug": "lunch", "name": "Ünder <lunch> & \"rest\"", "by": ["customer_id", "phone"], "step1": ["totp", "sms_code"],
    "channel": ["sms"], "server": "own", "server_own": "https://flow.example", "callback.contract": "external_link",
    "relay_defence": "none", "chat_seconds": "six hundred", "data_key": ["one", "two", "three"],
    "data_text": ["{method}", "", "3rd"], "texts.landing": "First line\r\nSecond line", "limits.sends": "3",
}  # fmt: skip
LIMITS = {
    "code_digits": "6", "code_seconds": "5 minutes", "wrong_tries": "5", "sends": "3", "resend_waits": "30 s, 1 min",
    "identity_changes": "5", "credential_tries_day": "15", "credential_tries_total": "50", "destination_hour": "5",
    "changed_contact_hours": "0",
    "destination_day": "10",
}  # fmt: skip
SAVED = (Portal, ChannelRow, CustomerRow, Journey, JourneyVersion)


def inputs(text: str) -> Iterator[tuple[str, str]]:
    """What the page's forms would send, without tokens and sealed forms, as a browser would."""
    for tag in re.findall(r"<input\b[^>]*>", text):
        found = {name: unescape(value) for name, value in re.findall(r'([\w.-]+)="([^"]*)"', tag)}
        if found.get("type") in ("checkbox", "radio") and not re.search(r"\bchecked\b", tag):
            continue
        if found.get("name", "csrf_token") not in ("csrf_token", "stored_slug"):
            yield found["name"], found.get("value", "")
    for name, value in re.findall(r'<textarea\b[^>]*\bname="([^"]+)"[^>]*>\n(.*?)</textarea>', text, re.DOTALL):
        yield unescape(name), unescape(value)
    for name, options in re.findall(r'<select\b[^>]*\bname="([^"]+)"[^>]*>(.*?)</select>', text, re.DOTALL):
        for value in re.findall(r'value="([^"]*)" selected', options):
            yield unescape(name), unescape(value)


def sent(text: str, name: str) -> list[str]:
    return [value for found, value in inputs(text) if found == name]


def stored(world: World) -> list[Any]:
    return [world.rows(table) for table in SAVED]


def too_late(desk: Desk, page: str, path: str, fields: dict[str, Any]) -> str:
    """Opens a page, has lunch and sends a form; the sign-in page that came instead."""
    desk.get(page)
    desk.world.clock.advance(LUNCH)
    answer = desk.post(path, follow=False, **fields)
    assert answer.status_code == 403, answer.text
    assert "the form comes back as you typed it" in answer.text
    return answer.text


def sign_in(desk: Desk, **fields: str) -> Any:
    """Fills the sign-in form of the page that the browser is at."""
    given = {"email": desk.email, "password": ADMIN_PASSWORD, "code": desk.second_factor(), **fields}
    return desk.post("/admin/sign-in", **given)


def test_r26_a_long_form_comes_back_as_it_was_typed_and_nothing_is_saved(small_world: World, owner: Desk) -> None:
    before = stored(small_world)
    too_late(owner, "/admin/journeys/_new", "/admin/journeys/_new", {**JOURNEY, "act": "save"})
    page = sign_in(owner)
    assert page.status_code == 200
    assert "These changes aren't saved yet." in page.text
    for name, value in JOURNEY.items():
        shown = sent(page.text, name)
        if name == "data_key":
            assert shown == [*value, "", ""], "and room for more"
        elif name == "data_text":
            assert shown == [*value, "", ""]
        else:
            assert sorted(shown) == sorted([value] if isinstance(value, str) else value), name
    assert stored(small_world) == before
    usual = {f"limits.{name}": text for name, text in LIMITS.items()}
    saved = owner.post(
        "/admin/journeys/_new", **{**multi(page.text), **usual, "chat_seconds": "10 minutes", "act": "save"}
    )
    assert saved.status_code == 200, saved.text
    assert owner.path == "/admin/journeys/lunch", "they press Save themselves"


def test_two_at_once_are_still_told_after_lunch(small_world: World, owner: Desk) -> None:
    """What the form was made from stays with it: a colleague's change is no more overwritten than without lunch."""
    path = "/admin/journeys/balance/edit"
    fields = {**JOURNEY, "name": "Typed before lunch", "chat_seconds": "10 minutes", "act": "save"}
    owner.get(path)
    typed = dict(inputs(owner.page.text)) | fields
    other = signed_in_as(owner)
    other.get(path)
    theirs = multi(other.page.text) | {"name": "A colleague's", "act": "save"}
    assert other.post(path, **theirs).status_code == 200
    assert other.path == "/admin/journeys/balance", other.page.text
    small_world.clock.advance(LUNCH)
    owner.post(path, follow=False, **typed)
    assert sent(sign_in(owner).text, "name") == ["Typed before lunch"]
    conflict = owner.post(path, **(multi(owner.page.text) | {"act": "save"}))
    assert conflict.status_code == 409
    assert "Another admin saved this after you opened it" in conflict.text


def signed_in_as(desk: Desk) -> Desk:
    """The same admin at another browser."""
    other = Desk(desk.world, "198.51.100.77")
    other.seed, other.email, other.admin_id = desk.seed, desk.email, desk.admin_id
    other.sign_in()
    return other


def multi(text: str) -> dict[str, Any]:
    """The form of the page with its lists."""
    found: dict[str, Any] = {}
    for name, value in inputs(text):
        found.setdefault(name, []).append(value)
    return found


SMTP = {
    "kind": "smtp", "name": "late", "host": "mail.example", "port": "2525", "security": "tls", "username": "ada",
    "password": "hunter2 hunter2", "sender": "a@example.com", "daily_cap": "7",
}  # fmt: skip
SETTINGS = {"name": "Lunch Bank", "default_region": "NA", "limits.begins_per_minute": "many"}


@pytest.mark.parametrize(
    ("page", "path", "fields"),
    [
        ("/admin/channels/_new?kind=smtp", "/admin/channels/_new", SMTP),
        ("/admin/channels/sms/edit", "/admin/channels/sms/edit", {"url": "https://sms.example/x", "daily_cap": "9"}),
        ("/admin/customers/new", "/admin/customers/new", {"customer_id": "L-1", "phone": "082 1", "email": "l@x"}),
        ("/admin/settings", "/admin/settings", SETTINGS),
        ("/admin/api-keys/new", "/admin/api-keys", {"name": "flow", "scopes": ["tickets:write"], "days": "30"}),
        ("/admin/admins", "/admin/admins/invite", {"email": "new@example.com", "role": "auditor"}),
        ("/admin/journeys/app/copy", "/admin/journeys/app/copy", {"slug": "app-9", "name": "Another"}),
    ],
)
def test_every_longer_form_comes_back(
    small_world: World, owner: Desk, page: str, path: str, fields: dict[str, Any]
) -> None:
    before = stored(small_world)
    late = too_late(owner, page, path, fields)
    shown = sign_in(owner)
    assert shown.status_code == 200, shown.text
    assert "These changes aren't saved yet." in shown.text
    for name, value in fields.items():
        wanted = [""] if name in SECRET_FIELDS else value if isinstance(value, list) else [value]
        assert sent(shown.text, name) == wanted, name
    assert "hunter2" not in late + shown.text
    assert stored(small_world) == before


def test_no_field_that_hides_what_is_typed_is_ever_kept(owner: Desk) -> None:
    pages = (
        "/admin/channels/_new?kind=smtp", "/admin/channels/_new?kind=clickatell", "/admin/channels/_new?kind=http",
        "/admin/account", "/admin/sign-in", "/admin/journeys/_new", "/admin/settings", "/admin/customers/new",
    )  # fmt: skip
    hidden = {"headers"}
    owner.world.clock.advance(601)  # so that the second factor is asked for
    for page in pages:
        for tag in re.findall(r"<input\b[^>]*>", owner.get(page).text):
            if 'type="password"' in tag or "one-time-code" in tag or "csrf_token" in tag:
                hidden |= set(re.findall(r'\bname="([^"]+)"', tag))
    assert hidden <= SECRET_FIELDS
    assert {"api_key", "password", "second_factor", "present"} <= hidden


def test_a_channels_stored_headers_are_not_dropped_by_it(small_world: World, owner: Desk) -> None:
    """Typed headers are secrets and not kept; an empty field there would take the stored ones away."""
    http = {"kind": "http", "name": "web", "carries": "email", "url": small_world.receiver.origin + "/mail",
            "method": "POST", "headers": "X-Key: abc", "body": '{"to": "{to}"}', "content_type": "application/json",
            "success": "200"}  # fmt: skip
    owner.get("/admin/channels/_new?kind=http")
    owner.client.post(
        "/admin/channels/_new", data={**owner.hidden("/admin/channels/_new"), **http}, base_url=owner.base_url
    )
    path = "/admin/channels/web/edit"
    owner.get(path)
    small_world.clock.advance(LUNCH)
    typed = {**owner.hidden(path), **http, "headers": "X-Key: a-new-secret", "daily_cap": "12"}
    owner.page = owner.client.post(path, data=typed, base_url=owner.base_url)
    late = owner.page.text
    shown = sign_in(owner)
    assert "a-new-secret" not in late + shown.text
    assert sent(shown.text, "headers") == ["X-Key: keep"]
    assert sent(shown.text, "daily_cap") == ["12"]


def test_a_customer_who_was_changed_meanwhile_is_told_of_at_once(small_world: World, owner: Desk) -> None:
    row = small_world.rows(CustomerRow)[0].id
    path = f"/admin/customers/{row}/edit"
    owner.get(path)
    small_world.clock.advance(1)
    small_world.services.customers.set_active(row, is_active=False, admin_id=owner.admin_id)
    small_world.clock.advance(LUNCH)
    owner.post(path, follow=False, customer_id="C-1001", name="Typed")
    shown = sign_in(owner)
    assert "Another admin changed this customer" in shown.text
    assert sent(shown.text, "name") == ["Typed"]


def ended_by_sign_out(desk: Desk) -> None:
    other = Desk(desk.world)
    cookie = desk.client.get_cookie("admin", domain="127.0.0.1")
    assert cookie is not None
    other.client.set_cookie("admin", cookie.value, domain="127.0.0.1")
    other.get("/admin/")
    other.post("/admin/sign-out")


def ended_by_an_owner(desk: Desk) -> None:
    colleague = signed_in(desk.world, "support")
    admins = desk.world.services.admins
    admins.set_role(colleague.admin_id, "owner", by=desk.admin_id)
    admins.set_active(desk.admin_id, False, by=colleague.admin_id)


def taken_cookie(desk: Desk) -> None:
    desk.client.delete_cookie("admin", domain="127.0.0.1")


def invented_cookie(desk: Desk) -> None:
    desk.client.set_cookie("admin", "invented", domain="127.0.0.1")


@pytest.mark.parametrize("end", [ended_by_sign_out, ended_by_an_owner, taken_cookie, invented_cookie])
def test_whoever_has_no_session_that_ran_out_is_kept_nothing(owner: Desk, end: Callable[[Desk], None]) -> None:
    owner.get("/admin/settings")
    end(owner)
    page = owner.post("/admin/settings", **SETTINGS)
    assert owner.path == "/admin/sign-in"
    assert 'name="kept"' not in page.text
    assert "Your changes weren't saved." in page.text


def test_another_admin_does_not_see_it(small_world: World, owner: Desk, support: Desk) -> None:
    too_late(owner, "/admin/settings", "/admin/settings", SETTINGS)
    given = {"email": support.email, "password": ADMIN_PASSWORD, "code": support.second_factor()}
    page = owner.post("/admin/sign-in", **given)
    assert owner.path == "/admin/settings"
    assert "Lunch Bank" not in page.text
    assert "It was discarded" in page.text


def test_it_waits_through_wrong_codes_but_not_for_long(small_world: World, owner: Desk) -> None:
    too_late(owner, "/admin/settings", "/admin/settings", SETTINGS)
    wrong = sign_in(owner, code="000000")
    assert wrong.status_code == 422
    assert "the form comes back as you typed it" in wrong.text
    assert sent(sign_in(owner).text, "name") == ["Lunch Bank"]
    too_late(owner, "/admin/settings", "/admin/settings", SETTINGS)
    small_world.clock.advance(30 * 60)
    assert "Lunch Bank" not in sign_in(owner).text
    assert owner.path == "/admin/settings"


def test_the_role_is_asked_anew(small_world: World, owner: Desk) -> None:
    too_late(owner, "/admin/settings", "/admin/settings", SETTINGS)
    with small_world.database.write() as connection:  # on the page this would end the session, and so keep nothing
        connection.execute(update(Admin).values(role="support"))
    small_world.accept()
    page = sign_in(owner)
    assert page.status_code == 403
    assert "Lunch Bank" not in page.text
    assert owner.get("/admin/").request.path == "/admin/", "they are signed in all the same"


def test_reloading_the_page_shows_it_again(owner: Desk) -> None:
    """The page answers to the sign-in; its code is spent, and whoever reloads is at the form, not at a refusal."""
    too_late(owner, "/admin/settings", "/admin/settings", SETTINGS)
    code, late = owner.second_factor(), owner.page
    sign_in(owner, code=code)
    owner.page = late
    assert sent(sign_in(owner, code=code).text, "name") == ["Lunch Bank"]
    kinds = [row.kind for row in owner.world.rows(AuditEvent)]
    assert "admin_sign_in_failed" not in kinds


def test_an_altered_one_or_too_large_a_one_is_nothing(small_world: World, owner: Desk) -> None:
    too_late(owner, "/admin/settings", "/admin/settings", SETTINGS)
    (sealed,) = sent(owner.page.text, "kept")
    page = sign_in(owner, kept=sealed[:-8] + "AAAAAAA=")
    assert page.status_code == 200
    assert "Lunch Bank" not in page.text
    owner.get("/admin/settings")
    small_world.clock.advance(LUNCH)
    owner.post("/admin/settings", **{**SETTINGS, "name": "x" * LATE_FORM_BYTES})
    assert 'name="kept"' not in owner.page.text
    assert "Your changes weren't saved." in owner.page.text


def test_the_largest_one_still_fits_through_the_sign_in_form(small_world: World, owner: Desk) -> None:
    long = "x" * (LATE_FORM_BYTES - 1500)  # the form also says what it was made from
    too_late(owner, "/admin/settings", "/admin/settings", {"name": long})
    assert sent(sign_in(owner).text, "name") == [long]


def test_what_was_left_open_overnight_comes_back_too(small_world: World, owner: Desk) -> None:
    owner.get("/admin/settings")
    small_world.clock.advance(16 * 3600)
    assert owner.post("/admin/settings", follow=False, **SETTINGS).status_code == 403
    assert sent(sign_in(owner).text, "name") == ["Lunch Bank"]


def test_r31_a_get_keeps_nothing_and_a_button_is_only_told_of(small_world: World, owner: Desk) -> None:
    owner.get("/admin/journeys/app")
    small_world.clock.advance(LUNCH)
    owner.post("/admin/journeys/app/active", active="0")
    assert 'name="kept"' not in owner.page.text
    assert "Your changes weren't saved." in owner.page.text
    assert 'name="kept"' not in Browser(small_world).get("/admin/journeys/_new").text


# --- A form belongs to the session that it was made for (R53)


def _token(desk: Desk) -> str:
    return desk.hidden("/admin/account/password")["csrf_token"]


def _renew_codes(desk: Desk, token: str) -> int:
    """Post a form with this token, in this browser. Return the status."""
    path = "/admin/account/recovery-codes"
    answer = desk.client.post(path, data={"csrf_token": token}, base_url=desk.base_url)
    return answer.status_code


def test_r53_a_token_of_another_session_is_refused(small_world: World) -> None:
    desk, other = signed_in(small_world), signed_in(small_world, "support")
    desk.get("/admin/account")
    other.get("/admin/account")
    # Everything of the other browser except its session, as someone who can plant a cookie would have it.
    cookie = other.client.get_cookie("csrf", domain="127.0.0.1")
    assert cookie is not None
    assert _renew_codes(desk, _token(other)) == 400
    mine = desk.client.get_cookie("csrf", domain="127.0.0.1")
    assert mine is not None
    desk.client.set_cookie("csrf", cookie.value, domain="127.0.0.1")
    assert _renew_codes(desk, _token(other)) == 400
    desk.client.set_cookie("csrf", mine.value, domain="127.0.0.1")
    assert _renew_codes(desk, _token(desk)) == 303


def test_r53_a_token_from_before_the_sign_in_is_refused(owner: Desk) -> None:
    owner.get("/admin/account")
    old = _token(owner)
    owner.post("/admin/sign-out")
    owner.get("/admin/sign-in")
    before = owner.hidden("/admin/sign-in")["csrf_token"]
    owner.sign_in()
    owner.get("/admin/account")
    for token in (old, before, "", "x"):
        answer = owner.client.post("/admin/account/recovery-codes", data={"csrf_token": token}, base_url=owner.base_url)
        assert answer.status_code == 400
        assert "This page was open too long, or you signed in again elsewhere." in answer.text
    assert _renew_codes(owner, _token(owner)) == 303


def test_r53_signing_in_works_from_any_page_that_shows_the_form(owner: Desk) -> None:
    owner.get("/admin/account")
    stale = _token(owner)
    owner.post("/admin/sign-out")
    owner.get("/admin/sign-in")
    second = owner.hidden("/admin/sign-in")["csrf_token"]
    assert owner.sign_in().status_code == 200
    given = {"email": owner.email, "password": ADMIN_PASSWORD, "code": owner.second_factor(), "csrf_token": second}
    again = owner.client.post("/admin/sign-in", data=given, base_url=owner.base_url)  # of the other tab
    assert again.status_code == 303
    owner.get("/admin/account")
    wrong = {**given, "code": "000000"}
    page = owner.client.post("/admin/sign-in", data=wrong, base_url=owner.base_url)  # refused, while signed in
    assert page.status_code == 422
    owner.page = page
    right = {**given, **owner.hidden("/admin/sign-in"), "code": owner.second_factor()}
    assert owner.client.post("/admin/sign-in", data=right, base_url=owner.base_url).status_code == 303
    assert _renew_codes(owner, stale) == 400
