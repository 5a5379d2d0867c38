"""Every route of the configuration page × every role × no session. A route that is missing here is a failure (R40)."""

from __future__ import annotations

import re

import pytest

from auth_portal.bootstrap import create_app
from tests.admin.desk import Desk, signed_in
from tests.postgres import MASTER_KEY
from tests.world import Browser, World

OWNER, SUPPORT, AUDITOR = "owner", "support", "auditor"
ALL = {OWNER, SUPPORT, AUDITOR}
PUBLIC: set[str] = set()

# endpoint without "admin.": who may use it. Each section keeps its rows together.
TABLE: dict[str, set[str]] = {
    # getting in
    "access_sign_in_form": PUBLIC,
    "access_sign_in": PUBLIC,
    "access_sign_out": ALL,
    "access_join_form": PUBLIC,
    "access_join": PUBLIC,
    "access_recovery_codes": ALL,
    "access_keep_codes": ALL,
    "access_account": ALL,
    "access_change_password": ALL,
    "access_renew_codes": ALL,
    "access_end_session": ALL,
    "access_sign_in_options": PUBLIC,
    "access_sign_in_by_passkey": PUBLIC,
    "access_confirm_options": ALL,
    "access_passkey_options": ALL,
    "access_name_passkey": ALL,
    "access_create_passkey": ALL,
    "access_remove_passkey": ALL,
    "access_remove_all_passkeys": ALL,
    # admins
    "admins_people": {OWNER, AUDITOR},
    "admins_invite": {OWNER},
    "admins_withdraw": {OWNER},
    "admins_person": {OWNER, AUDITOR},
    "admins_change_role": {OWNER},
    "admins_change_active": {OWNER},
    "admins_reset": {OWNER},
    # journeys
    "journeys_journeys": ALL,
    "journeys_journey": ALL,
    "journeys_new": {OWNER},
    "journeys_create": {OWNER},
    "journeys_edit": {OWNER},
    "journeys_change": {OWNER},
    "journeys_preview": {OWNER},
    "journeys_switch": {OWNER},
    "journeys_copy_form": {OWNER},
    "journeys_copy": {OWNER},
    "journeys_logo": {OWNER},
    "settings_logo": {OWNER},
    "journeys_delete_form": {OWNER},
    "journeys_delete": {OWNER},
    "journeys_texts": ALL,
    "journeys_change_texts": {OWNER},
    "journeys_versions": ALL,
    "journeys_version": ALL,
    "journeys_roll_back": {OWNER},
    # verifications, deliveries, audit
    "verifications_verifications": ALL,
    "verifications_find": ALL,
    "verifications_search_form": ALL,
    "verifications_search": ALL,
    "verifications_story": ALL,
    "deliveries_deliveries": ALL,
    "deliveries_delivery": ALL,
    "deliveries_find": ALL,
    "deliveries_retry": {OWNER, SUPPORT},
    "deliveries_review": {OWNER, SUPPORT},
    "deliveries_retry_many": {OWNER, SUPPORT},
    "audit_audit": ALL,
    "audit_find": ALL,
    "audit_event": ALL,
    "audit_download": {OWNER, AUDITOR},
    "audit_export": {OWNER, AUDITOR},
    "audit_check": {OWNER, AUDITOR},
    # a journey: setting up Chat Flow, reach, test drives
    "setup_panel": ALL,
    "setup_check": ALL,
    "setup_reach": ALL,
    "setup_unreached": ALL,
    "setup_answers": ALL,
    "setup_export_answers": {OWNER, AUDITOR},
    "setup_export_acceptances": {OWNER, AUDITOR},
    "drive_start": {OWNER, SUPPORT},
    "drive_begin": {OWNER, SUPPORT},
    "drive_chat": {OWNER, SUPPORT},
    "drive_type_code": {OWNER, SUPPORT},
    "drive_ask_again": {OWNER, SUPPORT},
    "drive_end": {OWNER, SUPPORT},
    # API keys
    "api_keys_keys": {OWNER, AUDITOR},
    "api_keys_form": {OWNER},
    "api_keys_create": {OWNER},
    "api_keys_confirm_revoking": {OWNER},
    "api_keys_revoke": {OWNER},
    "api_keys_hook_form": {OWNER},
    "api_keys_create_hook": {OWNER},
    "api_keys_hook": {OWNER, AUDITOR},
    "api_keys_change_hook": {OWNER},
    "api_keys_test_hook": {OWNER},
    "api_keys_resume_hook": {OWNER},
    "api_keys_renew_hook_secret": {OWNER},
    "api_keys_delete_hook": {OWNER},
    # customers
    "customers_listed": ALL,
    "customers_search": ALL,
    "customers_new": {OWNER, SUPPORT},
    "customers_create": {OWNER, SUPPORT},
    "customers_person": ALL,
    "customers_reveal": {OWNER, SUPPORT},
    "customers_edit": {OWNER, SUPPORT},
    "customers_change": {OWNER, SUPPORT},
    "customers_change_active": {OWNER, SUPPORT},
    "customers_confirm_erase": {OWNER, SUPPORT},
    "customers_erase": {OWNER, SUPPORT},
    "customers_export": {OWNER, SUPPORT},
    "customers_renew": {OWNER, SUPPORT},
    "customers_credential": {OWNER, SUPPORT},
    "customers_make_link": {OWNER, SUPPORT},
    "customers_enrol_here": {OWNER, SUPPORT},
    "customers_reset": {OWNER, SUPPORT},
    "customers_support_code": {OWNER, SUPPORT},
    "customers_issue_support_code": {OWNER, SUPPORT},
    # channels
    "channels_channels": ALL,
    "channels_new": {OWNER},
    "channels_add": {OWNER},
    "channels_channel": ALL,
    "channels_edit": {OWNER},
    "channels_change": {OWNER},
    "channels_switch": {OWNER},
    "channels_deleting": {OWNER},
    "channels_delete": {OWNER},
    "channels_test": {OWNER, SUPPORT},
    "channels_trial": ALL,
    # settings
    "settings_settings": ALL,
    "settings_save": {OWNER},
    "settings_save_first": {OWNER},
    "settings_webhook_secret": {OWNER},
    "settings_export": {OWNER, AUDITOR},
    "settings_file": {OWNER},
    "settings_difference": {OWNER},
    "settings_apply": {OWNER},
    # importing customers
    "imports_imports": ALL,
    "imports_upload": {OWNER, SUPPORT},
    "imports_one": ALL,
    "imports_name_columns": {OWNER, SUPPORT},
    "imports_start": {OWNER, SUPPORT},
    "imports_cancel": {OWNER, SUPPORT},
    "imports_undo": {OWNER, SUPPORT},
    "imports_faults_csv": ALL,
    # home
    "verifications_home": ALL,
    "verifications_put_off": {OWNER},
}

_RULES = [rule for rule in create_app().url_map.iter_rules() if rule.endpoint.startswith("admin.")]
_CASES = sorted(
    (rule.endpoint.removeprefix("admin."), method, str(rule))
    for rule in _RULES
    for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"})
)
ROLES = (OWNER, SUPPORT, AUDITOR)


def test_every_route_is_in_the_table() -> None:
    assert {endpoint for endpoint, _method, _rule in _CASES} == set(TABLE)


def path_of(rule: str) -> str:
    """A path of a rule, with something in each of its places that is not there."""
    return re.sub(r"<(?:[a-z]+:)?([^>]+)>", "nothing-here", re.sub(r"<(?:int:)[^>]+>", "7", rule))


@pytest.fixture
def desks(small_world: World) -> dict[str, Desk]:
    return {role: signed_in(small_world, role) for role in ROLES}


def test_r40_every_route_for_every_role_and_nobody(small_world: World, desks: dict[str, Desk]) -> None:
    """Whoever may not is refused before the view; whoever may gets anything but that."""
    for endpoint, method, rule in _CASES:
        allowed = TABLE[endpoint]
        for role, desk in desks.items():
            status = answer(desk, method, path_of(rule))
            if allowed and role not in allowed:
                assert status == 403, (endpoint, method, role, status)
            else:
                assert status != 403, (endpoint, method, role, status)
                assert status < 500, (endpoint, method, role, status)
            small_world.services.admins.hide_recovery_codes(desk.admin_id)
            if endpoint == "access_sign_out":
                desk.sign_in()
        nobody = Browser(small_world)
        status = answer(nobody, method, path_of(rule))
        if allowed:
            assert status == 303, (endpoint, method, status)
            assert nobody.page.headers["Location"].startswith("/admin/sign-in")
        else:
            assert status != 303, (endpoint, method, status)


def test_an_unknown_path_leads_an_admin_home_and_shows_others_nothing(
    small_world: World, desks: dict[str, Desk]
) -> None:
    for role, desk in desks.items():
        page = desk.get("/admin/no-such-page")
        assert page.status_code == 404, role
        assert "or what it showed was deleted." in page.text
        assert 'href="/admin/"' in page.text
        assert "Sign out" in page.text
        refused = desk.client.get("/admin/sign-out", base_url=desk.base_url)
        assert refused.status_code == 405, role
        assert set(refused.headers["Allow"].split(", ")) == {"OPTIONS", "POST"}
        assert "be done here." in refused.text
    stranger = Browser(small_world)
    unknown = stranger.client.get("/admin/no-such-page", base_url=stranger.base_url)
    elsewhere = stranger.client.get("/no-such-page", base_url=stranger.base_url)
    # Pages for admins are in English alone, so theirs offers no other language.
    shown = [
        re.sub(r'\s*<a class="language".*?</a>\s*', " ", page.text, flags=re.DOTALL) for page in (unknown, elsewhere)
    ]
    assert unknown.status_code == elsewhere.status_code
    assert re.sub(r"\s+", " ", shown[0]) == re.sub(r"\s+", " ", shown[1])


def test_r41_an_unknown_path_without_a_database_is_a_503(small_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_token: str) -> None:
        raise OSError("the database is away")

    monkeypatch.setattr(small_world.services.admin_sessions, "signed_in", unreachable)
    stranger = Browser(small_world)
    page = stranger.client.get("/admin/no-such-page", base_url=stranger.base_url)
    assert (page.status_code, page.headers["Retry-After"]) == (503, "5")


def answer(browser: Browser, method: str, path: str) -> int:
    """The status of a request with a token of this browser's own, not followed."""
    if method == "GET":
        browser.page = browser.client.get(path, base_url=browser.base_url)
        return browser.page.status_code
    browser.page = browser.client.get("/admin/account", base_url=browser.base_url)
    if browser.page.status_code == 303:
        browser.page = browser.client.get("/admin/sign-in", base_url=browser.base_url)
    token = re.search(r'name="csrf_token" value="([^"]+)"', browser.page.text)
    assert token, browser.page.text
    data = {"csrf_token": token.group(1)}
    browser.page = browser.client.open(path, method=method, data=data, base_url=browser.base_url)
    return browser.page.status_code


def test_a_session_of_an_invented_token_is_nobody(small_world: World) -> None:
    stranger = Browser(small_world)
    stranger.client.set_cookie("admin", MASTER_KEY, domain="127.0.0.1")
    assert answer(stranger, "GET", "/admin/") == 303


def test_r30_no_post_without_its_token_or_from_another_site(small_world: World, desks: dict[str, Desk]) -> None:
    desk = desks[OWNER]
    token = re.search(r'name="csrf_token" value="([^"]+)"', desk.get("/admin/account").text)
    assert token
    for endpoint, method, rule in _CASES:
        if method == "GET":
            continue
        path = path_of(rule)
        assert desk.client.open(path, method=method, base_url=desk.base_url).status_code == 400, endpoint
        for site in ("cross-site", "same-site"):
            data, headers = {"csrf_token": token.group(1)}, {"Sec-Fetch-Site": site}
            answer = desk.client.open(path, method=method, data=data, headers=headers, base_url=desk.base_url)
            assert answer.status_code == 400, (endpoint, site)


def test_r32_every_page_has_every_header(small_world: World, desks: dict[str, Desk]) -> None:
    for endpoint, method, rule in _CASES:
        if method == "GET":
            answer = desks[OWNER].client.get(path_of(rule), base_url=desks[OWNER].base_url)
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'"), endpoint
            assert "unsafe" not in policy, endpoint
            assert answer.headers["X-Content-Type-Options"] == "nosniff", endpoint


@pytest.mark.parametrize("role", [SUPPORT, AUDITOR])
def test_no_link_leads_a_role_where_it_may_not_go(small_world: World, desks: dict[str, Desk], role: str) -> None:
    """Every kind of page that links lead to is opened once."""
    world, desk = small_world, desks[role]
    for number, code in enumerate((world.totp(), "000000")):
        browser = world.browser()
        browser.begin(f"app-{number}", "app")
        browser.prove(code)
    addresses = world.app.url_map.bind("localhost")
    todo, seen = ["/admin/"], set()
    while todo:
        path = todo.pop()
        endpoint = addresses.match(path.partition("?")[0], method="GET")[0]
        if endpoint in seen:
            continue
        seen.add(endpoint)
        page = desk.client.get(path, base_url=desk.base_url)
        assert page.status_code == 200, path
        if page.mimetype == "text/html":
            links = re.findall(r'<a\b[^>]*href="(/admin/[^"#]*)', page.text)
            todo += [link.replace("&amp;", "&") for link in links]
    assert {"admin.journeys_journey", "admin.setup_panel", "admin.channels_channel"} <= seen


def test_a_refused_page_says_in_its_heading_why(desks: dict[str, Desk]) -> None:
    assert "<h1>Page not found</h1>" in desks[SUPPORT].get("/admin/no-such-page").text
    assert "<h1>You can't do this</h1>" in desks[SUPPORT].get("/admin/admins").text
