"""Every field and act that could turn a customer into someone else: second factor, audit event, mail to owners (R44)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update

from auth_portal import cli
from auth_portal.gateways.channels import KINDS
from auth_portal.services.config.changes import GUARDED, HARMLESS
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.portal import PortalSettings
from auth_portal.services.history.words import field_words
from auth_portal.services.serving import build
from auth_portal.store.models import (
    Admin,
    AdminLink,
    ApiKeyRow,
    AuditEvent,
    JourneyVersion,
    Portal,
    WebhookEndpoint,
    table_of,
)
from tests.admin.desk import ADMIN_ADDRESS, ADMIN_PASSWORD, MAIL_OF, Desk, join, seed_of, signed_in
from tests.admin.test_journeys import send
from tests.pictures import PNG
from tests.postgres import MASTER_KEY
from tests.receiver import wait_for
from tests.test_cli_notices import run
from tests.world import World, journey

FIELDS: Mapping[str, Iterable[str]] = {
    "portal": PortalSettings.model_fields,
    "channel": [name for kind in KINDS.values() for name in kind.config_type.model_fields],
    "journey": JourneyConfig.model_fields,
    "key": [column.name for column in table_of(ApiKeyRow).columns],
    "admin": [column.name for column in table_of(Admin).columns],
    "webhook": [column.name for column in table_of(WebhookEndpoint).columns],
}
HOOK = "https://crm.example/hook"
# What the journey's form sends for another value of each field; a new field needs an example here.
JOURNEY_FORM: Mapping[str, Any] = {
    "name": {"name": "Someone else's bank"},
    "default": {"default": "1", "results.verified": "verified_mail"},
    "active": {"active": []},
    "chat_seconds": {"chat_seconds": "15 minutes"},
    "return_url": {"return_url": "https://evil.example/"},
    "relay_defence": {"relay_defence": "chat_code"},
    "shares_result": {"shares_result": "1"},
    "channels": {"channel": ["mail", "sms"]},
    "steps": {"step1": ["totp"]},
    "callback": {"callback.contract": "wait_for_callback"},
    "results": {"results.wrong": "try_again"},
    "data": {"data_key": ["customer_name"], "data_text": ["{name}"]},
    "limits": {"limits.sends": "2"},
    "texts": {"texts.done": "Now call 0800 123 456."},
    "colour": {"colour": "#0b4a8f"},
    "radius": {"radius": "4"},
    "hide_name": {"hide_name": "1"},
}
JOURNEY_BY_ACT = {"slug", "logo", "logo_dark", "wording"}  # a new journey, and forms of their own
SETTINGS_BY_ACT = {"logo", "logo_dark"}
SETTINGS_OF_A_NEW_PORTAL = {"case_sensitive_ids"}  # guarded in tests/security/test_case_ids.py
SETTINGS_FORM: Mapping[str, Mapping[str, Any]] = {
    "name": {"name": "Someone else's bank"},
    "default_region": {"default_region": "KE"},
    "time_zone": {"time_zone": "Africa/Nairobi"},
    "support_contact": {"support_contact": "https://evil.example/"},
    "notices_by": {"notices_by": "mail"},
    "limits": {"limits.begins_per_minute": "9000"},
    "retention": {"retention.audit_days": "90"},
    "alerts": {"alerts.email": []},
    "colour": {"colour": "#0b4a8f"},
    "radius": {"radius": "4"},
    "hide_name": {"hide_name": "1"},
    "language": {"language": "zu"},
    "latin_name": {"latin_name": "Someone else"},
    "languages": {"languages": ["fr"]},
}


def owners_mail(world: World, *words: str) -> str:
    """The mail to the owner that has all these words."""

    def look() -> str:
        texts = (f"{mail['subject']}\n{mail['text']}" for mail in world.receiver.messages if "subject" in mail)
        return next((text for text in texts if all(word in text for word in words)), "")

    world.services.dispatcher.wake()
    found = wait_for(look)
    assert found, (words, world.receiver.messages)
    return str(found)


def assert_mailed(desk: Desk, *words: str, by: str = "Ada Owner", address: str = ADMIN_ADDRESS) -> None:
    mail = owners_mail(desk.world, *words)
    assert f"By: {by}" in mail, mail
    assert f"When: {desk.world.clock.now:%Y-%m-%d %H:%M}" in mail
    assert " UTC" in mail
    assert f"From: {address}" in mail
    assert "See: http://127.0.0.1:8000/admin/" in mail
    link = re.search(r"See: http://127\.0\.0\.1:8000(\S+)", mail)
    assert link
    assert desk.get(link[1]).status_code == 200


def let_the_second_factor_age(desk: Desk) -> None:
    """Sixteen minutes since the second factor, in a session that is used all the while."""
    for _ in range(2):
        desk.world.clock.advance(480)
        assert desk.get("/admin/admins").status_code == 200


@pytest.mark.parametrize("table", FIELDS)
def test_r44_every_field_is_guarded_or_harmless_for_a_reason(table: str) -> None:
    for name in FIELDS[table]:
        assert (name in GUARDED[table]) != (name in HARMLESS[table]), f"{table}.{name} is in neither list, or in both"
    assert (GUARDED[table] | HARMLESS[table].keys()) == set(FIELDS[table])
    assert all(HARMLESS[table].values())


def test_every_field_has_an_example() -> None:
    assert JOURNEY_FORM.keys() | JOURNEY_BY_ACT == JourneyConfig.model_fields.keys()
    assert SETTINGS_FORM.keys() | SETTINGS_BY_ACT | SETTINGS_OF_A_NEW_PORTAL == PortalSettings.model_fields.keys()


def test_r44_every_field_of_a_journey_is_guarded_on_its_page(owner: Desk) -> None:
    edit, world = "/admin/journeys/mail/edit", owner.world
    for field, given in JOURNEY_FORM.items():
        let_the_second_factor_age(owner)
        owner.world.receiver.messages.clear()
        before = world.services.journey_history.journey("mail").edition.number
        owner.get(edit)
        page = send(owner, edit, act="save", **given)
        if field not in HARMLESS["journey"]:
            assert page.status_code == 422, field
            assert 'name="second_factor"' in page.text, (field, page.text)
            assert world.services.journey_history.journey("mail").edition.number == before, field
            send(owner, edit, act="save", second_factor=owner.second_factor(), **given)
        assert world.services.journey_history.journey("mail").edition.number == before + 1, (field, owner.page.text)
        event = next(event for event in reversed(world.rows(AuditEvent)) if event.kind == "journey_changed")
        assert (event.kind, event.admin_id, event.facts["address"]) == (
            "journey_changed",
            owner.admin_id,
            ADMIN_ADDRESS,
        )
        key = next(key for key in event.facts["changes"]["journey mail"] if key.startswith(field))
        if field not in HARMLESS["journey"]:
            name = field_words("journey", key)
            assert name != key
            assert_mailed(owner, "Journey mail: ", f"  {name}: ", f"/admin/journeys/mail/versions/{before + 1}")
            assert "What it changed" in owner.page.text
        else:
            assert not [mail for mail in world.receiver.messages if "Journey mail" in mail["text"]]


def test_r44_the_issues_attack_needs_the_second_factor_and_is_refused_anyway(owner: Desk) -> None:
    let_the_second_factor_age(owner)
    edit = "/admin/journeys/mail/edit"
    owner.get(edit)
    given: dict[str, Any] = {"data_key": ["customer_id"], "data_text": ["C00001"], "act": "save"}
    assert send(owner, edit, **given).status_code == 422
    assert owner.world.services.journey_history.journey("mail").edition.number == 1


def test_r44_every_setting_is_guarded_on_its_page(languages: None, owner: Desk) -> None:
    for field, given in SETTINGS_FORM.items():
        let_the_second_factor_age(owner)
        owner.world.receiver.messages.clear()
        before = owner.world.services.configuration.settings().settings
        form = {"time_zone": before.time_zone, "notices_by": before.notices_by, **given}
        owner.get("/admin/settings")
        page = send(owner, "/admin/settings", **form)
        if sure := re.search(r'name="sure" value="([^"]*)"', page.text):
            form = {**form, "sure": sure[1]}
            page = send(owner, "/admin/settings", **form)
        assert page.status_code == 422, field
        assert owner.world.services.configuration.settings().settings == before, field
        send(owner, "/admin/settings", second_factor=owner.second_factor(), **form)
        after = owner.world.services.configuration.settings().settings
        assert getattr(before, field) != getattr(after, field), (field, owner.page.text)
        event = next(event for event in reversed(owner.world.rows(AuditEvent)) if event.kind == "settings_changed")
        assert (event.kind, event.facts["address"]) == ("settings_changed", ADMIN_ADDRESS)
        if field not in HARMLESS["portal"]:
            key = next(key for key in event.facts["changes"]["portal"] if key.startswith(field))
            assert_mailed(owner, "Settings: changed", f"  {field_words('portal', key)}: ", "/admin/settings")


# --- Acts on a whole row

Act = Callable[[Desk, str], None]  # posts the form of its page with this second factor


def _post(page: str, action: str, **fields: Any) -> Act:
    def act(desk: Desk, code: str) -> None:
        desk.get(page)
        desk.post(action, **fields, second_factor=code)

    return act


def _key_id(desk: Desk) -> str:
    return str(desk.world.rows(ApiKeyRow)[0].id)


def _revoke(desk: Desk, code: str) -> None:
    _post(f"/admin/api-keys/{_key_id(desk)}/revoke", f"/admin/api-keys/{_key_id(desk)}/revoke")(desk, code)


def _hook(path: str, **fields: Any) -> Act:
    def act(desk: Desk, code: str) -> None:
        page = f"/admin/api-keys/webhooks/{desk.world.rows(WebhookEndpoint)[0].id}"
        _post(page, f"{page}{path}", **fields)(desk, code)

    return act


def _withdraw(desk: Desk, code: str) -> None:
    link = desk.world.rows(AdminLink)[-1].id
    _post("/admin/admins", f"/admin/admins/invitations/{link}/withdraw")(desk, code)


def _colleague(path: str, **fields: Any) -> Act:
    def act(desk: Desk, code: str) -> None:
        other = next(row.id for row in desk.world.rows(Admin) if row.id != desk.admin_id)
        _post(f"/admin/admins/{other}", f"/admin/admins/{other}/{path}", **fields)(desk, code)

    return act


def _logo(page: str, which: str) -> Act:
    def act(desk: Desk, code: str) -> None:
        desk.get(page)
        desk.post(f"{page}/logo", which=which, logo=(BytesIO(PNG), "logo.png"), second_factor=code)

    return act


PASSWORD = {"present": ADMIN_PASSWORD, "password": "nine kudus dance slowly", "repeated": "nine kudus dance slowly"}
ACTS: Mapping[str, tuple[Act, str, str]] = {  # the act, its audit event, words of the mail
    "a new journey": (
        _post("/admin/journeys/mail/copy", "/admin/journeys/mail/copy", slug="mail-2", name="Copy"),
        "journey_created",
        "Journey mail-2: added",
    ),
    "a journey off": (_post("/admin/journeys/mail", "/admin/journeys/mail/active"), "journey_changed", "switched off"),
    "a journey deleted": (
        _post("/admin/journeys/mail/delete", "/admin/journeys/mail/delete"),
        "journey_deleted",
        "Journey mail: deleted",
    ),
    "a logo": (_logo("/admin/journeys/mail", "logo"), "journey_changed", "  Logo: nothing -> picture "),
    "a dark logo": (_logo("/admin/journeys/mail", "logo_dark"), "journey_changed", "  Logo for dark pages: nothing ->"),
    "the portal's logo": (_logo("/admin/settings", "logo"), "settings_changed", "  Logo: nothing ->"),
    "the portal's dark logo": (
        _logo("/admin/settings", "logo_dark"),
        "settings_changed",
        "  Logo for dark pages: nothing ->",
    ),
    "a channel off": (
        _post("/admin/channels/spare", "/admin/channels/spare/switch"),
        "channel_switched",
        "Channel “spare”: switched off",
    ),
    "a channel deleted": (
        _post("/admin/channels/spare/delete", "/admin/channels/spare/delete"),
        "channel_deleted",
        "Channel “spare”: deleted",
    ),
    "a webhook secret": (
        _post("/admin/settings", "/admin/settings/webhook-secret"),
        "webhook_secret_renewed",
        "webhook's secret was replaced",
    ),
    "a key": (
        _post("/admin/api-keys/new", "/admin/api-keys", name="CRM", scopes="tickets:write", days="30"),
        "api_key_created",
        "CRM",
    ),
    "a key revoked": (_revoke, "api_key_revoked", "An API key was revoked"),
    "a webhook": (
        _post(
            "/admin/api-keys/webhooks/new",
            "/admin/api-keys/webhooks",
            url="https://evil.example/",
            events="customer.changed",
        ),
        "webhook_endpoint_created",
        "To evil.example",
    ),
    "another address of a webhook": (
        _hook("", url=HOOK, events="delivery.given_up", active="1"),
        "webhook_endpoint_changed",
        "A webhook was changed",
    ),
    "a webhook off": (
        _hook("", url=HOOK, events="customer.changed"),
        "webhook_endpoint_off",
        "A webhook was switched off",
    ),
    "another secret of a webhook": (
        _hook("/secret"),
        "webhook_endpoint_secret_renewed",
        "A webhook's secret was replaced",
    ),
    "a webhook deleted": (_hook("/delete"), "webhook_endpoint_deleted", "A webhook was deleted"),
    "an invitation": (
        _post("/admin/admins", "/admin/admins/invite", role="owner", email="new@example.com"),
        "admin_invited",
        "invited to the configuration page as owner",
    ),
    "an invitation withdrawn": (_withdraw, "admin_invitation_withdrawn", "An invitation was withdrawn"),
    "another role": (_colleague("role", role="owner"), "admin_role_changed", "Ada Support is owner now."),
    "an admin off": (_colleague("active", active="0"), "admin_disabled", "Ada Support may not sign in."),
    "a sign-in reset": (_colleague("reset"), "admin_reset", "Ada Support can no longer sign in"),
    "a password": (
        _post("/admin/account", "/admin/account/password", **PASSWORD),
        "admin_password_changed",
        "An admin's password was changed",
    ),
    "recovery codes": (
        _post("/admin/account", "/admin/account/recovery-codes"),
        "recovery_codes_renewed",
        "An admin has new recovery codes",
    ),
}
SPARE = """
[portal.alerts]
webhook = "{receiver}/alerts"
[[channels]]
name = "spare"
kind = "http"
carries = "sms"
method = "POST"
url = "{receiver}/sms"
content_type = "application/json"
body = '{"to": "{to}", "text": "{text}"}'
countries = ["ZA"]
daily_cap = 10
"""


@pytest.mark.parametrize("name", ACTS)
def test_r44_an_act_is_guarded_on_its_page(owner: Desk, support: Desk, name: str) -> None:
    act, kind, words = ACTS[name]
    world = owner.world
    spare = SPARE.replace("{receiver}", world.receiver.origin)
    world.services.configuration.import_toml(spare, file_name="spare.toml")
    world.services.api_keys.create("Old", ["tickets:write"], 30, None)
    world.services.endpoints.create(HOOK, ["customer.changed"], None)
    world.services.admins.invite("support", email="someone@example.com")
    let_the_second_factor_age(owner)
    before = len(world.rows(AuditEvent))
    act(owner, "")
    assert owner.page.status_code == 422, owner.page.text
    assert 'name="second_factor"' in owner.page.text
    assert "from your authenticator app" in owner.page.text
    assert len(world.rows(AuditEvent)) == before
    act(owner, owner.second_factor())
    assert owner.page.status_code == 200, owner.page.text
    assert [event.admin_id for event in world.rows(AuditEvent)[before:] if event.kind == kind] == [owner.admin_id]
    if name == "recovery codes":
        owner.get("/admin/recovery-codes")
        owner.post("/admin/recovery-codes", saved="1")
    assert_mailed(owner, words)


def test_r44_an_owner_who_is_demoted_hears_of_it(small_world: World) -> None:
    first, second = signed_in(small_world), signed_in(small_world, "support")
    small_world.services.admins.set_role(second.admin_id, "owner", by=first.admin_id)
    small_world.receiver.messages.clear()
    small_world.services.admins.set_role(second.admin_id, "support", by=first.admin_id)
    small_world.services.dispatcher.wake()
    wait_for(lambda: {mail["to"] for mail in small_world.receiver.messages} >= {MAIL_OF["owner"], MAIL_OF["support"]})


def test_r44_mails_name_people_as_they_write_themselves(owner: Desk, small_world: World) -> None:
    """A mail is plain text: what a page must escape stays as it is."""
    token = small_world.services.admins.invite("support", email="thabo@example.com")
    desk = Desk(small_world)
    desk.email = "thabo@example.com"
    admin_id = join(desk, token, ADMIN_PASSWORD, name="Thabo O'Neil & <Co>")
    assert_mail_has(small_world, "Thabo O'Neil & <Co> joined")
    small_world.services.admins.set_role(admin_id, "auditor", by=owner.admin_id)
    assert_mail_has(small_world, "Thabo O'Neil & <Co> is auditor now.")
    for is_active, words in ((False, "may not sign in."), (True, "may sign in again.")):
        small_world.services.admins.set_active(admin_id, is_active, by=owner.admin_id)
        assert_mail_has(small_world, f"Thabo O'Neil & <Co> {words}")


def assert_mail_has(world: World, words: str) -> None:
    assert owners_mail(world, words)


def test_r44_a_sign_in_set_again_by_a_link_is_mailed(owner: Desk, support: Desk) -> None:
    token = owner.world.services.admins.reset(support.admin_id, made_by=owner.admin_id)
    support.open_link(f"/admin/join/{token}")
    support.seed = seed_of(support)
    given = {"password": PASSWORD["password"], "repeated": PASSWORD["password"], "code": support.second_factor()}
    support.post(f"/admin/join/{token}", **given)
    assert support.path == "/admin/recovery-codes"
    assert_mailed(owner, "Ada Support has a new password, app and recovery codes", by="Ada Support")


def test_r44_a_file_on_the_page_needs_the_second_factor(owner: Desk) -> None:
    path, configuration = "/admin/settings/import", owner.world.services.configuration
    let_the_second_factor_age(owner)
    config = configuration.stored().journeys["mail"].config
    file = _changed_file(owner.world)
    owner.get(path)
    owner.post(path, text=file)
    owner.post(f"{path}/apply", text=file)
    assert owner.page.status_code == 422
    assert configuration.stored().journeys["mail"].config == config
    owner.post(f"{path}/apply", text=file, second_factor=owner.second_factor())
    assert_mailed(owner, "Journey mail: ", *lines_about_the_file(owner.world))


# What a config file says for another value of each field; the first line that it replaces, then the rest.
TOML: Mapping[str, str] = {
    "name": 'name = "Someone else"',
    "active": "active = false",
    "chat_seconds": "chat_seconds = 900",
    "return_url": 'return_url = "https://evil.example/"',
    "relay_defence": 'relay_defence = "chat_code"',
    "shares_result": "shares_result = true",
    "channels": 'channels = ["mail"]',
    "callback": 'callback = { server = "uat" }',
    "results": 'results = { wrong = "try_again" }',
    "data": 'data = { customer_name = "{name}" }',
    "limits": "limits = { sends = 2 }",
    "texts": 'texts = { done = "Now call 0800 123 456." }',
}


def _changed_file(world: World) -> str:
    """A file in which every field of a journey is different."""
    steps = re.findall(r"(?ms)^steps = .*?^\]\n", journey("mail", "email_code|sms_code"))[0]
    return "\n".join(["[[journeys]]", 'slug = "mail"', *TOML.values(), steps])


def lines_about_the_file(world: World) -> list[str]:
    """How the mail begins a line for each field that the last imported file has changed."""
    event = next(event for event in reversed(world.rows(AuditEvent)) if event.kind == "configuration_imported")
    changed = [key for key in event.facts["changes"]["journey mail"] if key not in HARMLESS["journey"]]
    assert all(any(key.startswith(field) for key in changed) for field in TOML.keys() - HARMLESS["journey"].keys())
    return [f"  {field_words('journey', key)}: " for key in changed]


def test_r44_a_command_is_mailed_with_its_name_and_user(world: World, tmp_path: Path) -> None:
    owner = signed_in(world)
    file = tmp_path / "portal.toml"
    file.write_text(_changed_file(world))
    run(world, tmp_path, "config", "import", str(file))
    mail = owners_mail(world, "Journey mail: ", *lines_about_the_file(world), "  Step 2, ")
    assert re.search(r"By: the command `\S* ?config import`, run by the user \S+ on \S+", mail), mail
    assert f"When: {world.clock.now:%Y-%m-%d %H:%M:%S} UTC" in mail
    assert "From: " not in mail
    assert "See: http://127.0.0.1:8000/admin/journeys/mail/versions/2" in mail
    event = next(event for event in reversed(world.rows(AuditEvent)) if event.kind == "configuration_imported")
    assert event.facts["command"].endswith("config import")
    assert event.facts["account"].startswith("the user ")
    assert owner.get("/admin/journeys/mail/versions/2").status_code == 200


def test_r44_mail_has_the_time_of_the_portals_zone_too(owner: Desk) -> None:
    owner.world.services.configuration.import_toml('[portal]\ntime_zone = "Africa/Nairobi"\n', file_name="zone.toml")
    owner.world.services.journeys.renew()
    _post("/admin/api-keys/new", "/admin/api-keys", name="CRM", scopes="tickets:write", days="30")(owner, "")
    mail = owners_mail(owner.world, "CRM", "By: Ada Owner")
    assert "UTC, 2026-11-22 15:0" in mail
    assert "(Africa/Nairobi, UTC+3)" in mail


# --- Keys that flows trust, and result texts that only look different

RESERVED = ("customer_id", "chat_code", "phone_match", "method", "methods", "outcome", "journey", "verified_at")
FORGED = ("C00001", "{name}", "{customer_id} ", "x{%s}", "{%s}{%s}", "")


@pytest.mark.parametrize("key", RESERVED)
def test_r44_a_reserved_key_takes_only_its_placeholder(owner: Desk, key: str) -> None:
    world, edit = owner.world, "/admin/journeys/mail/edit"
    for text in (text.replace("%s", key) for text in FORGED):
        if text == f"{{{key}}} ":  # a form loses its blanks; a file keeps them
            continue
        owner.get(edit)
        page = send(owner, edit, act="save", data_key=[key], data_text=[text])
        assert page.status_code == 422, (key, text)
        assert f"{key} can only be {{{key}}}" in page.text, page.text
    page = send(owner, edit, act="drive", data_key=[key], data_text=["C00001"])
    assert page.status_code == 422
    assert f"{key} can only be {{{key}}}" in page.text
    for text in FORGED:
        file = _changed_file(world).replace('customer_name = "{name}"', f'{key} = "{text.replace("%s", key)}"')
        owner.get("/admin/settings/import")
        page = owner.post("/admin/settings/import", text=file)
        assert page.status_code == 422, (key, text)
        assert f"{key} can only be {{{key}}}" in page.text, page.text
    assert world.services.journey_history.journey("mail").edition.number == 1
    owner.get(edit)
    send(owner, edit, act="save", data_key=[key], data_text=[f"{{{key}}}"])
    assert world.services.journey_history.journey("mail").edition.number in (1, 2)  # the same where it is always sent
    assert owner.path == "/admin/journeys/mail", owner.page.text


def _store(world: World, slug: str, **changes: Any) -> None:
    """Changes the stored version of a journey, as an earlier version of the portal may have left it."""
    with world.database.write() as connection:
        row = next(row for row in world.rows(JourneyVersion) if row.document["slug"] == slug)
        document = {**row.document, **{key: {**row.document[key], **value} for key, value in changes.items()}}
        values = {"id": row.id, "journey_id": row.journey_id, "number": row.number, "document": document}
        signed = world.transactions.keyring.signed("journey_versions", values)
        connection.execute(update(JourneyVersion).where(JourneyVersion.id == row.id).values(signed))
        connection.execute(update(Portal).values(version=Portal.version + 1))
    world.services.journeys.renew()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"customer_id": "C00001", "phone_match": "yes"}}, "customer_id can only be {customer_id}"),
        ({"results": {"unavailable": "Verified_App"}}, "unavailable has the same text as verified"),
    ],
)
def test_r44_what_an_older_portal_stored_is_closed_and_named(
    world: World, tmp_path: Path, changes: dict[str, dict[str, str]], words: str
) -> None:
    owner = signed_in(world)
    browser = world.browser()
    browser.begin("under-way", "app")
    _store(world, "app", **changes)
    browser.prove(world.totp())  # began before; its answer has what is true
    first = wait_for(lambda: world.receiver.callbacks)[0].body
    assert (first["result"], first["data"]["customer_id"]) == ("verified_app", "C-1001")
    assert first["data"].get("phone_match", "") == ""
    stranger = world.browser()
    stranger.open("closed", "app")
    assert 'name="identifier"' not in stranger.page.text
    stranger.post("/j/app")
    wait_for(lambda: len(world.receiver.callbacks) > 1)
    second = world.receiver.callbacks[1].body
    assert second["result"] == "failed"
    assert second["data"]["customer_id"] == ""
    page = owner.get("/admin/journeys/app").text
    assert "closed until you change it" in page
    assert words in page
    owner.get("/admin/journeys/app/edit")
    send(owner, "/admin/journeys/app/edit", act="save")
    assert owner.page.status_code == 422
    owner.get("/admin/journeys/app")
    owner.post("/admin/journeys/app/active")  # switching it off is possible whatever is wrong with it
    assert "The journey is off" in owner.page.text
    world.services.journeys.renew()
    assert world.browser().open("balance-still-works", "balance").status_code == 200


def test_r44_the_doctor_names_what_is_closed(small_world: World, tmp_path: Path) -> None:
    _store(small_world, "app", data={"customer_id": "C00001"})
    _store(small_world, "password", results={"verified": "VERIFIED_mail"})
    app, clock = Flask(__name__), small_world.clock
    cli.register(app, partial(build, clock=clock), clock)
    url = small_world.database.url.render_as_string(hide_password=False)
    environment = {"PORTAL_INSTANCE": str(tmp_path), "PORTAL_DATABASE_URL": url, "PORTAL_SECRET_KEYS": MASTER_KEY}
    output = app.test_cli_runner().invoke(args=["doctor"], env=environment).output
    assert "journey app" in output
    assert "closed until it is changed: data: customer_id can only be {customer_id}" in output
    assert "journeys mail and password both answer" in output


def _results(**texts: str) -> Any:
    return {f"results.{outcome}": text for outcome, text in texts.items()}


@pytest.mark.parametrize(
    "text",
    ["Verified_mail", "VERIFIED_MAIL", " verified_mail", "verified_mail\u00a0", "ｖｅｒｉｆｉｅｄ_mail", "veri\u200bfied_mail",
     "verified\u00ad_mail", "verified_mail\ufe0f", "verified_ma\u0131l".replace("\u0131", "i"), "ver\u2060ified_mail"],
)  # fmt: skip
def test_r35_result_texts_that_look_alike_are_one_text(owner: Desk, text: str) -> None:
    owner.get("/admin/journeys/app/edit")
    page = send(owner, "/admin/journeys/app/edit", act="save", **_results(verified=text))
    assert page.status_code == 422, text
    assert "would pass for it" in page.text
    owner.get("/admin/journeys/mail/edit")
    page = send(owner, "/admin/journeys/mail/edit", act="save", **_results(wrong=text))
    assert page.status_code == 422, text
    assert "the same text as verified" in page.text


@pytest.mark.parametrize("kind", ["code", "password"])
def test_r44_wrong_confirmations_end_the_session_after_fifteen_in_a_day(owner: Desk, kind: str) -> None:
    world = owner.world
    if kind == "code":
        let_the_second_factor_age(owner)
    for number in range(1, 16):
        owner.get("/admin/account")
        if kind == "code":
            owner.post("/admin/account/recovery-codes", second_factor="000000")
        else:
            owner.post("/admin/account/password", **{**PASSWORD, "present": "a wrong one"})
        assert owner.page.status_code == (403 if number == 15 else 422), (number, owner.page.text)
        if number % 5 == 0 and number < 15:
            for _ in range(2):
                world.clock.advance(460)
                owner.get("/admin/admins")
            if kind == "password":
                owner.get("/admin/account")
                owner.post("/admin/account/recovery-codes", second_factor=owner.second_factor())
                owner.get("/admin/recovery-codes")
                owner.post("/admin/recovery-codes", saved="1")
    assert "this session was ended" in owner.page.text
    owner.get("/admin/account")
    assert owner.path == "/admin/sign-in"
    mail = owners_mail(world, "Wrong codes in an admin", "sessions of Ada Owner", "By: Ada Owner")
    assert f"From: {ADMIN_ADDRESS}" in mail
    event = next(event for event in reversed(world.rows(AuditEvent)) if event.kind == "admin_session_ended")
    assert event.facts["why"] == "wrong_confirmations"
    owner.sign_in()
    assert owner.path == "/admin/"


def test_the_doctor_says_who_resolves_names(small_world: World, tmp_path: Path) -> None:
    url = small_world.database.url.render_as_string(hide_password=False)
    environment = {"PORTAL_INSTANCE": str(tmp_path), "PORTAL_DATABASE_URL": url, "PORTAL_SECRET_KEYS": MASTER_KEY}
    app = Flask(__name__)
    cli.register(app, partial(build, clock=small_world.clock), small_world.clock)
    run_doctor = partial(app.test_cli_runner().invoke, args=["doctor"])
    proxied = run_doctor(env={**environment, "PORTAL_OUTBOUND_PROXY": "http://user:hunter2@127.0.0.1:9"}).output
    assert "outbound proxy" in proxied
    assert "127.0.0.1 resolves the names" in proxied
    assert "hunter2" not in proxied
    assert "outbound proxy" not in run_doctor(env=environment).output
