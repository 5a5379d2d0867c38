"""The settings' page: saved through the form, the webhook's secret, and the config file in and out."""

from __future__ import annotations

import io
import json
import re
import tomllib
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from auth_portal import i18n
from auth_portal.store.models import AuditEvent, CustomerRow, Portal, WebhookSecret
from tests.admin.desk import Desk, signed_in
from tests.receiver import Receiver
from tests.security.tools import STILL, deliver
from tests.world import World, open_world

FORM = {
    "name": "Acme Bank",
    "default_region": "ZA",
    "time_zone": "UTC",
    "support_contact": "https://acme.example/help",
    "limits.begins_per_minute": "300",
    "limits.password_checks_per_minute": "60",
    "retention.codes_hours": "24",
    "retention.verifications_days": "30",
    "retention.audit_days": "396",
    "notices_by": "",
    "alerts.email": "1",
    "alerts.webhook": "",
    "colour": "",
    "radius": "12",
}


@pytest.fixture
def desk(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[Desk]:
    """An owner, where nothing leaves until the test says so."""
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as opened:
        yield signed_in(opened)


def save(desk: Desk, **changed: str) -> Any:
    desk.get("/admin/settings")
    return desk.post("/admin/settings", **{**FORM, **changed})


def settings(world: World) -> dict[str, Any]:
    """What is stored."""
    (row,) = world.rows(Portal)
    return dict(row.settings)


def events(world: World, kind: str) -> list[Any]:
    return [row for row in world.rows(AuditEvent) if row.kind == kind]


def test_the_page_shows_what_is_stored_and_saving_it_unchanged_changes_nothing(desk: Desk) -> None:
    page = desk.get("/admin/settings")
    for key, value in FORM.items():
        if value and key not in ("alerts.email", "time_zone", "default_region"):
            assert re.search(rf'name="{re.escape(key)}"[^>]*value="{re.escape(value)}"', page.text), key
    for code in ("af", "ar", "de", "es", "fr", "pt", "st", "sw", "xh", "zu"):
        assert re.search(rf'name="languages" type="checkbox" value="{code}"(?! checked)', page.text), (
            "none is chosen, so all are offered"
        )
    before = desk.world.rows(Portal)
    assert save(desk).status_code == 200
    assert desk.world.rows(Portal) == before
    assert events(desk.world, "settings_changed") == []


def test_each_part_of_the_settings_is_a_fold_with_its_present_value(desk: Desk) -> None:
    """A fault opens its own alone, and the page says what a risky change touches before its button."""
    page = desk.get("/admin/settings").text
    folds = re.findall(r'<details class="fold"( open)?>\s*<summary><h3>([^<]*)</h3> <span class="value">([^<]*)', page)
    shown = {unescape(name): unescape(value) for _open, name, value in folds}
    assert not any(is_open for is_open, _name, _value in folds)
    assert shown["Name"] == "Acme Bank"
    assert shown["Default country"] == "South Africa"
    assert shown["How long data is stored"] == "codes 24 hours, verifications 30 days, audit 396 days"
    assert shown["By webhook"] == "off"
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    number = len([row for row in desk.world.rows(CustomerRow) if row.phone_country == "ZA"])
    assert f"{number} customers have a number of South Africa." in text
    assert "After a change of the country, 071 123 4567 is read as a number of the new one" in text
    assert re.search(r"The oldest audit event is from 2026-11-22\.", text)
    assert page.index("customers have a number") < page.index("<button>Save</button>")
    page = save(desk, **{"retention.codes_hours": "1"}).text
    opened = re.findall(r'<details class="fold" open>\s*<summary><h3>([^<]*)</h3>', page)
    assert opened == ["How long data is stored"]


def test_without_another_language_there_is_none_to_choose(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(i18n, "TRANSLATIONS", tmp_path / "none")
    i18n.forget_languages()
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as world:
        page = signed_in(world).get("/admin/settings")
    monkeypatch.undo()
    i18n.forget_languages()
    assert "No other language is available yet" in page.text
    assert 'name="languages"' not in page.text


def test_an_owner_chooses_which_languages_are_offered(
    languages: None, tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as world:
        desk = signed_in(world)
        page = desk.get("/admin/settings")
        assert "isiZulu (no native speaker has checked it yet)" in page.text
        assert "Deutsch" not in page.text, "it misses texts"
        assert re.search(r'<option value="en" selected>', page.text)
        desk.post("/admin/settings", **{**FORM, "language": "zu", "languages": ["zu", "fr"]})
        assert (settings(world)["language"], settings(world)["languages"]) == ("zu", ["zu", "fr"])
        page = desk.get("/admin/settings")
        assert re.search(r'value="fr" checked', page.text)
        assert not re.search(r'value="ar" checked', page.text)
        assert '<html lang="zu"' in world.browser().get("/?reference=abc").text
        page = desk.post("/admin/settings", **{**FORM, "language": "de", "languages": ["xx"]})
        assert page.status_code == 422
        assert "must be one of en, " in page.text
        assert settings(world)["language"] == "zu"
        desk.get("/admin/settings")
        desk.post("/admin/settings", **FORM)
        assert not {"language", "languages"} & settings(world).keys(), "the version before knows neither"


def test_a_change_is_live_audited_and_what_an_attacker_would_change_is_mailed(desk: Desk) -> None:
    save(desk, name="Beta Bank")
    deliver(desk.world)
    (mail,) = [message for message in desk.world.receiver.messages if "configuration" in message.get("subject", "")]
    assert "  Name: Acme Bank -> Beta Bank" in mail["text"]
    desk.world.receiver.messages.clear()
    save(desk, name="Beta Bank", **{"limits.begins_per_minute": "100000"})
    deliver(desk.world)
    (mail,) = [message for message in desk.world.receiver.messages if "configuration" in message.get("subject", "")]
    assert "  Verifications begun per minute: 300 -> 100000" in mail["text"]
    assert desk.world.services.journeys.renew().portal.name == "Beta Bank"
    first, _second = events(desk.world, "settings_changed")
    assert first.admin_id == desk.admin_id
    assert first.facts["changes"] == {"portal": {"name": ["Acme Bank", "Beta Bank"]}}


def test_every_fault_is_named_at_its_field_and_nothing_is_saved(desk: Desk) -> None:
    wrong = {
        "name": "", "default_region": "South Africa", "support_contact": "javascript:alert(1)",
        "limits.begins_per_minute": "many", "retention.codes_hours": "1", "retention.verifications_days": "4000",
        "alerts.webhook": "ftp://x",
    }  # fmt: skip
    before = settings(desk.world)
    page = save(desk, **wrong)
    assert page.status_code == 422
    for key in wrong:
        assert re.search(rf'name="{re.escape(key)}"[^>]*aria-invalid', page.text), key
    assert 'value="many"' in page.text
    assert "must be a whole number" in page.text
    assert "must be at least 24" in page.text
    assert settings(desk.world) == before


def test_r19_saving_asks_for_the_second_factor(desk: Desk) -> None:
    desk.world.clock.advance(601)
    page = save(desk, name="Gamma Bank")
    assert page.status_code == 422
    assert 'value="Gamma Bank"' in page.text
    assert settings(desk.world)["name"] == "Acme Bank"
    desk.post("/admin/settings", **{**FORM, "name": "Gamma Bank"}, second_factor=desk.second_factor())
    assert settings(desk.world)["name"] == "Gamma Bank"


def test_mail_to_owners_travels_by_the_chosen_channel_only_if_it_carries_mail(desk: Desk) -> None:
    assert save(desk, notices_by="sms").status_code == 422
    assert save(desk, notices_by="mail").status_code == 200
    desk.get("/admin/channels/mail")
    page = desk.post("/admin/channels/mail/switch", active="0")
    assert page.status_code == 422
    assert "/admin/settings" in page.text


def test_a_refused_form_says_so_in_its_title_and_the_first_fault_has_the_focus(desk: Desk) -> None:
    page = desk.get("/admin/settings").text
    assert "<title>Settings" in page
    assert "autofocus" not in page
    page = save(desk, **{"limits.begins_per_minute": "0", "retention.audit_days": "x"}).text
    assert "<title>Error: Settings" in page
    assert "<h1>Settings</h1>" in page
    (focused,) = re.findall(r"<[^>]* autofocus[^>]*>", page)
    assert 'name="limits.begins_per_minute"' in focused


def test_the_secret_of_the_webhook_is_shown_once_and_audited(desk: Desk, httpserver: HTTPServer) -> None:
    assert "webhook-secret" not in desk.get("/admin/settings").text
    save(desk, **{"alerts.webhook": httpserver.url_for("/hook")})
    page = desk.get("/admin/settings")
    assert "Create the secret" in page.text
    page = desk.post("/admin/settings/webhook-secret")
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", page.text)
    assert secret
    assert secret.group(0) not in desk.get("/admin/settings").text
    assert "Create a new secret" in desk.page.text
    assert [event.admin_id for event in events(desk.world, "webhook_secret_renewed")] == [desk.admin_id]
    assert secret.group(0).encode() not in desk.world.rows(WebhookSecret)[0].secret_sealed
    desk.world.clock.advance(601)
    desk.get("/admin/settings")
    assert desk.post("/admin/settings/webhook-secret").status_code == 422


# --- Two at once


def another(desk: Desk) -> Desk:
    """A second owner."""
    world = desk.world
    other = signed_in(world, "support")
    world.services.admins.set_role(other.admin_id, "owner", by=desk.admin_id)
    assert other.sign_in().request.path == "/admin/"
    return other


def shown_form(text: str) -> dict[str, str]:
    """What the fields of the page hold that a test of two admins changes."""
    found = dict(re.findall(r'<input id="[^"]+" name="([^"]+)" type="text" value="([^"]*)"', text))
    return FORM | {key: unescape(value) for key, value in found.items() if key in FORM}


def test_of_what_two_admins_changed_each_field_is_kept(desk: Desk) -> None:
    """For what both changed, both values are shown and the form has mine; the rest of theirs is in the form too."""
    other = another(desk)
    desk.get("/admin/settings")
    save(other, name="Beta Bank", support_contact="tel:+27115550100", **{"retention.codes_hours": "48"})
    mine = {"name": "Gamma Bank", "limits.begins_per_minute": "200", "retention.codes_hours": "48"}
    page = desk.post("/admin/settings", **{**FORM, **mine})
    assert page.status_code == 409
    assert "Another admin saved this after you opened it" in page.text
    assert "Ada Support, " in page.text
    seen = re.sub(r"<[^>]+>|\s+", " ", page.text[page.text.index("What both of you changed") :])
    both, _heading, rest = seen.partition("What they changed")
    theirs, _heading, typed = rest.partition("What you changed")
    assert re.search(r"Name +Beta Bank +Gamma Bank", both)
    assert "Codes, in hours" not in both, "both made it the same"
    assert re.search(r"Help for customers +https://acme.example/help +tel:\+27115550100", theirs)
    assert re.search(r"Verifications begun per minute +300 +200", typed)
    assert settings(desk.world)["name"] == "Beta Bank"
    form = shown_form(page.text)
    assert (form["name"], form["support_contact"]) == ("Gamma Bank", "tel:+27115550100")
    assert "Save with my values" in page.text
    assert desk.post("/admin/settings", **form).status_code == 200
    stored = settings(desk.world)
    assert (stored["name"], stored["support_contact"]) == ("Gamma Bank", "tel:+27115550100")
    assert (stored["limits"]["begins_per_minute"], stored["retention"]["codes_hours"]) == (200, 48)


def test_changes_of_two_admins_that_touch_different_settings_are_both_saved(desk: Desk) -> None:
    other = another(desk)
    desk.get("/admin/settings")
    save(other, support_contact="", **{"alerts.email": ""})
    page = desk.post("/admin/settings", **{**FORM, "name": "Beta Bank"})
    assert page.status_code == 409
    assert "Save both changes" in page.text
    assert "What both of you changed" not in page.text
    assert re.search(r'name="alerts.email" type="checkbox" value="1">', page.text), "theirs: off"
    desk.post("/admin/settings", **{**shown_form(page.text), "alerts.email": ""})
    stored = settings(desk.world)
    assert (stored["name"], stored["support_contact"], stored["alerts"]["email"]) == ("Beta Bank", "", False)


@pytest.mark.parametrize("mark", ["", "d41d8cd98f00b204e9800998ecf8427e", '{"name": "Acme Bank"}.00', "[" * 2000])
def test_a_mark_that_is_not_ours_overwrites_nothing_unseen(desk: Desk, mark: str) -> None:
    """Such as that of a form which the release before showed."""
    desk.get("/admin/settings")
    page = desk.post("/admin/settings", **{**FORM, "name": "Beta Bank", "based_on": mark})
    assert page.status_code == 409
    assert settings(desk.world)["name"] == "Acme Bank"
    assert shown_form(page.text)["name"] == "Beta Bank"
    desk.post("/admin/settings", **shown_form(page.text))
    assert settings(desk.world)["name"] == "Beta Bank"


def test_a_fault_in_between_does_not_make_it_forgotten(desk: Desk) -> None:
    other = another(desk)
    desk.get("/admin/settings")
    save(other, name="Beta Bank")
    assert desk.post("/admin/settings", **{**FORM, "retention.codes_hours": "1"}).status_code == 422
    assert desk.post("/admin/settings", **{**FORM, "retention.codes_hours": "25"}).status_code == 409
    assert settings(desk.world)["name"] == "Beta Bank"


def test_what_others_change_elsewhere_is_no_conflict(desk: Desk) -> None:
    other = another(desk)
    desk.get("/admin/settings")
    other.get("/admin/journeys/app")
    other.post("/admin/journeys/app/active", active="0")
    assert desk.post("/admin/settings", **{**FORM, "name": "Beta Bank"}).status_code == 200
    assert settings(desk.world)["name"] == "Beta Bank"


# --- What is risky has a second step


def sure_of(page: Any) -> dict[str, str]:
    """The form of the second step, as a browser sends it."""
    text = page.text.partition('action="/admin/settings" data-unsaved')[2].partition("</form>")[0]
    return {name: unescape(value) for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', text)}


RISKY = [
    ({"default_region": "KE"}, "4 customers have a number of South Africa.", ("South Africa", "Kenya")),
    ({"retention.verifications_days": "10"}, "1 verification is deleted within the hour", ("30", "10")),
    ({"retention.audit_days": "90"}, "0 audit events are deleted within the hour", ("396", "90")),
]


@pytest.mark.parametrize(("changed", "touches", "shown"), RISKY, ids=["country", "verifications", "audit"])
def test_a_risky_setting_is_saved_after_a_page_that_says_what_it_touches(
    desk: Desk, changed: dict[str, str], touches: str, shown: tuple[str, str]
) -> None:
    desk.world.browser().begin("ref-1", "app")
    desk.world.clock.advance(20 * 86_400)
    desk.sign_in()
    before = settings(desk.world)
    page = save(desk, name="Beta Bank", **changed)
    seen = " ".join(unescape(re.sub(r"<[^>]+>", " ", page.text)).split())
    assert touches in seen
    assert f"{shown[0]} {shown[1]}" in seen
    assert "Acme Bank Beta Bank" in seen, "and whatever else changes"
    assert "Save the 2 changes" in seen
    assert settings(desk.world) == before, "nothing is saved yet"
    form = sure_of(page)
    assert 'name="limits.begins_per_minute"' in desk.post("/admin/settings", **form, act="edit").text
    assert desk.page.text.count('value="Beta Bank"') == 1, "back in the form, as it was typed"
    assert settings(desk.world) == before
    assert "Saved. Every server uses it" in desk.post("/admin/settings", **form).text
    assert settings(desk.world) != before
    assert settings(desk.world)["name"] == "Beta Bank"


def test_what_was_agreed_to_is_no_more_than_what_was_shown(desk: Desk) -> None:
    form = sure_of(save(desk, default_region="KE"))
    page = desk.post("/admin/settings", **{**form, "default_region": "NA"})
    assert "Save these changes?" in page.text
    assert settings(desk.world)["default_region"] == "ZA"


def test_what_deletes_nothing_and_faults_have_no_second_step(desk: Desk) -> None:
    assert "Saved. Every" in save(desk, **{"retention.verifications_days": "60", "time_zone": "Africa/Nairobi"}).text
    page = save(desk, default_region="KE", **{"retention.verifications_days": "1"})
    assert page.status_code == 422
    assert settings(desk.world)["default_region"] == "ZA"


# --- The config file


def show(desk: Desk, text: str, **fields: str) -> Any:
    desk.get("/admin/settings/import")
    return desk.post("/admin/settings/import", text=text, **fields)


def apply(desk: Desk, **fields: str) -> Any:
    """Posts the form of the difference as it is; its text is in a hidden field."""
    text = re.search(r'<textarea name="text"[^>]*>\n(.*?)</textarea>', desk.page.text, re.DOTALL)
    assert text
    return desk.post("/admin/settings/import/apply", **{"text": unescape(text.group(1)), **fields})


KEY_CHANGED = """
[[channels]]
name = "sms"
kind = "clickatell"
api_key = "brand-new-key"
countries = ["ZA"]
daily_cap = 9
"""


def test_the_export_comes_back_as_nothing_to_change(desk: Desk) -> None:
    response = desk.get("/admin/settings/file")
    assert response.headers["Content-Disposition"] == 'attachment; filename="portal.toml"'
    document = tomllib.loads(response.text)
    assert document["portal"]["retention"] == {"codes_hours": 24, "verifications_days": 30, "audit_days": 396}
    assert document["portal"]["alerts"] == {"email": True, "webhook": ""}
    page = show(desk, response.text)
    assert "The file changes nothing: the portal already has these settings." in page.text


def test_a_file_is_shown_key_by_key_and_applied_as_shown(desk: Desk) -> None:
    version = desk.world.rows(Portal)[0].version
    page = show(desk, '[portal]\nname = "Delta Bank"\n' + KEY_CHANGED)
    assert page.status_code == 200
    for words in ("Delta Bank", "channel sms: changed", "<code>daily_cap</code>", "100000", "<code>api_key</code>"):
        assert words in page.text
    table = page.text.split('<form class="card"')[0]
    assert "brand-new-key" not in table  # only in the form that brings the file back
    assert desk.world.rows(Portal)[0].version == version
    assert settings(desk.world)["name"] == "Acme Bank"
    page = apply(desk)
    assert page.status_code == 200
    assert "portal: changed; channel sms: changed" in page.text
    assert settings(desk.world)["name"] == "Delta Bank"
    assert desk.world.services.journeys.renew().channels["sms"].daily_cap == 9
    (event,) = events(desk.world, "configuration_imported")[-1:]
    assert event.admin_id == desk.admin_id
    assert "brand-new-key" not in json.dumps(event.facts)


def test_what_changed_in_between_is_shown_again_and_not_applied(desk: Desk) -> None:
    show(desk, '[portal]\nname = "Delta Bank"\n')
    shown = desk.page
    other = signed_in_again(desk)
    save(other, name="Epsilon Bank")
    desk.page = shown
    page = apply(desk)
    assert page.status_code == 422
    assert "Nothing was applied" in page.text
    assert "Epsilon Bank" in page.text
    assert settings(desk.world)["name"] == "Epsilon Bank"
    assert apply(desk).status_code == 200
    assert settings(desk.world)["name"] == "Delta Bank"


def signed_in_again(desk: Desk) -> Desk:
    """The same owner in another browser."""
    other = Desk(desk.world)
    other.seed, other.email, other.admin_id = desk.seed, desk.email, desk.admin_id
    other.sign_in()
    return other


def test_another_text_than_the_shown_one_is_not_applied(desk: Desk) -> None:
    show(desk, '[portal]\nname = "Delta Bank"\n')
    assert apply(desk, text='[portal]\nname = "Evil Bank"\n').status_code == 422
    assert settings(desk.world)["name"] == "Acme Bank"
    show(desk, '[portal]\nname = "Delta Bank"\n')
    assert apply(desk, prune="1").status_code == 422  # nor the same text with more than was shown
    assert settings(desk.world)["name"] == "Acme Bank"


def test_r19_applying_asks_for_the_second_factor_and_keeps_the_file(desk: Desk) -> None:
    show(desk, '[portal]\nname = "Delta Bank"\n')
    desk.world.clock.advance(601)
    page = apply(desk)
    assert page.status_code == 422
    assert settings(desk.world)["name"] == "Acme Bank"
    apply(desk, second_factor=desk.second_factor())
    assert settings(desk.world)["name"] == "Delta Bank"


def test_every_fault_of_a_file_is_told_and_the_text_kept(desk: Desk) -> None:
    text = '[portal]\nnmae = "x"\n[[channels]]\nname = "inside"\nkind = "inbox"\n'
    page = show(desk, text)
    assert page.status_code == 422
    assert "portal nmae: is not known here" in page.text
    assert "needs the sandbox, which is off" in page.text
    assert "nmae = &#34;x&#34;" in page.text
    assert show(desk, "[[[").status_code == 422


def test_r35_an_import_on_the_page_keeps_the_rules_of_the_file(desk: Desk) -> None:
    document = tomllib.loads(desk.get("/admin/settings/file").text)
    one = next(journey for journey in document["journeys"] if journey["slug"] == "password")
    text = f'[[journeys]]\nslug = "copycat"\nname = "Copycat"\nsteps = [{{ kind = "identify", by = ["phone"] }}, {{ kind = "verify", any_of = ["totp"] }}]\n[journeys.callback]\nserver = "{one["callback"]["server"]}"\n[journeys.results]\nverified = "{one["results"]["verified"]}"\n'
    page = show(desk, text)
    assert page.status_code == 422
    assert "a link of one opened under the other would pass for it" in page.text


def test_a_file_can_be_uploaded(desk: Desk) -> None:
    desk.get("/admin/settings/import")
    data = {
        **desk.hidden("/admin/settings/import"),
        "file": (io.BytesIO('\ufeff[portal]\r\nname = "Zeta"\r\n'.encode()), "portal.toml"),
    }
    desk.page = desk.client.post("/admin/settings/import", data=data, base_url=desk.base_url)
    assert "Zeta" in desk.page.text
    apply(desk)
    assert settings(desk.world)["name"] == "Zeta"


def test_what_support_and_the_auditor_see(desk: Desk) -> None:
    support, auditor = signed_in(desk.world, "support"), signed_in(desk.world, "auditor")
    assert "/admin/settings/file" not in support.get("/admin/settings").text
    assert "Only owners can change them." in support.page.text
    assert "/admin/settings/file" in auditor.get("/admin/settings").text
    for browser in (support, auditor):
        assert 'name="name"' in browser.get("/admin/settings").text
        assert "<button>Save</button>" not in browser.page.text
    assert auditor.get("/admin/settings/file").status_code == 200


def test_only_owners_see_all_of_the_address_of_alerts(desk: Desk) -> None:
    """A path or query often holds a secret. What an auditor downloads can still be imported: it leaves the address."""
    whole, hidden = "https://alerts.example/9f8e7d-secret?token=abc", "https://alerts.example/…"
    save(desk, **{"alerts.webhook": whole})
    assert whole in desk.get("/admin/settings").text
    (event,) = [row for row in desk.world.rows(AuditEvent) if row.kind == "settings_changed"]
    assert event.facts["changes"]["portal"]["alerts.webhook"] == ["", hidden]
    support, auditor = signed_in(desk.world, "support"), signed_in(desk.world, "auditor")
    for browser in (support, auditor):
        page = browser.get("/admin/settings").text
        assert hidden in page
        assert "9f8e7d" not in page
    file = auditor.get("/admin/settings/file").text
    assert "9f8e7d" not in file
    assert "9f8e7d" not in auditor.get("/admin/audit?kind=settings_changed").text
    assert whole in desk.get("/admin/settings/file").text
    with desk.world.transactions.write() as work:  # as a version did that recorded it whole
        changes = {"portal": {"alerts.webhook": [whole, f"{whole}2"], "name": ["Acme", "Beta"]}}
        work.record("settings_changed", admin_id=desk.admin_id, portal=True, changes=changes, done={})
    old = desk.world.rows(AuditEvent)[-1]
    for browser in (support, auditor, desk):
        for path in ("?kind=settings_changed", f"/{old.id}", "?q=Settings"):
            page = browser.get(f"/admin/audit{path}").text
            assert "9f8e7d" not in page
        assert hidden in browser.get(f"/admin/audit/{old.id}").text
        assert "The event was changed" not in browser.page.text
        for guess, is_found in (("9f8e", False), ("program", True)):
            browser.get(f"/admin/audit?q={guess}")
            assert (old.id in browser.page.text) == is_found, guess
        assert event.id in browser.get("/admin/audit?q=alerts.example").text
    for form in ("csv", "jsonl"):
        auditor.get("/admin/audit")
        exported = auditor.post("/admin/audit/export", format=form).text
        assert old.id in exported
        assert "9f8e7d" not in exported
    assert "The file changes nothing" in show(desk, file).text
