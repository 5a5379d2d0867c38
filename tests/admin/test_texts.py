"""The business's own texts: changed on the page of a journey, read by customers on pages and in messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
from typing import Any

import pytest
from werkzeug.test import TestResponse

from auth_portal import i18n
from auth_portal.services.config.wording import OWN, PARTS, WARNINGS, TextField, fields_of, our_texts, shown
from auth_portal.store.models import JourneyVersion
from auth_portal.web.admin.journeys import PART_WORDS
from tests.admin.desk import Desk
from tests.admin.test_guards import assert_mailed, let_the_second_factor_age
from tests.admin.test_journeys import fields, send
from tests.languages import all_texts
from tests.receiver import wait_for
from tests.world import World

TEXTS = "/admin/journeys/balance/texts"
PLAIN = {"headers": {"Accept-Language": "en"}}
ZULU = {"headers": {"Accept-Language": "zu"}}


def field_of(part: str, key: str, language: str = "en") -> TextField:
    return next(field for field in fields_of({}, language, part, {}) if field.key == key)


def change(
    desk: Desk, part: str, texts: Mapping[str, str | Mapping[str, str]], language: str = "en", **more: Any
) -> TestResponse:
    """Change texts as an owner does: open the part, type, press the button."""
    desk.get(f"{TEXTS}?language={language}&part={part}")
    typed: dict[str, Any] = {}
    for key, value in texts.items():
        found, forms = field_of(part, key, language), {"other": value} if isinstance(value, str) else value
        typed |= {f"{found.id}.{category}": text for category, text in forms.items()}
    return send(desk, TEXTS, **typed, **more)


def said(page: TestResponse) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page.text)).split())


def last_sms(world: World) -> str:
    sent = wait_for(lambda: [one for one in world.receiver.messages if "subject" not in one])
    return str(sent[-1]["text"])


def test_a_button_and_a_heading_are_the_businesss_own(owner: Desk) -> None:
    change(owner, "code", {"Send me a code by SMS": "Text me 100% <free>", "Confirm": "Check it"})
    assert "Saved as version 2" in owner.page.text
    browser = owner.world.browser()
    page = browser.get("/?reference=abc", **PLAIN)
    assert "Text me 100% &lt;free&gt;" in page.text
    assert "Send me a code by SMS" not in page.text
    browser.post("/", identifier="C-1001")
    assert "Check it" in said(browser.page)


def test_an_error_is_the_businesss_own_to_the_letter(owner: Desk) -> None:
    change(owner, "errors", {"We couldn't read what was sent. Try again.": "100% unreadable. Try {again}."})
    assert "can't contain {again}" in said(owner.page)
    change(owner, "errors", {"We couldn't read what was sent. Try again.": "100% unreadable. Try again."})
    owner.world.services.journeys.renew()
    browser = owner.world.browser()
    browser.begin("abc")
    browser.post("/verify/cancel", reason="unknown", headers=PLAIN["headers"])
    assert "100% unreadable. Try again." in said(browser.page)


def test_another_language_keeps_our_texts(owner: Desk) -> None:
    ours = i18n.translations("zu").gettext("Send me a code by SMS")
    change(owner, "code", {"Send me a code by SMS": "Text me"})
    browser = owner.world.browser()
    assert ours in said(browser.get("/?reference=abc", **ZULU))
    change(owner, "code", {"Send me a code by SMS": "Ngithumelele"}, "zu")
    owner.world.services.journeys.renew()
    assert "Ngithumelele" in said(browser.get("/?reference=abc", **ZULU))
    assert "Text me" in said(browser.get("/?reference=abc", **PLAIN))


def test_the_name_is_in_each_language_on_pages_and_in_messages(owner: Desk) -> None:
    change(owner, "own", {"name": "Bheka ibhalansi", "landing": "Siyakwamukela"}, "zu")
    browser = owner.world.browser()
    page = browser.get("/?reference=abc", **ZULU)
    assert "Bheka ibhalansi" in said(page)
    assert "Siyakwamukela" in said(page)
    assert 'property="og:title" content="Bheka ibhalansi · Acme Bank"' in page.text
    browser.post("/", identifier="C-1001", lang="zu")
    assert "Bheka ibhalansi" in last_sms(owner.world)
    assert "Balance" in said(browser.get("/?reference=xyz", **PLAIN))


def test_the_sms_is_the_businesss_own_with_our_warning_and_the_last_line(owner: Desk) -> None:
    change(owner, "sms", {"sms": "{business}: {code} ({num} min). {warning} 100%"})
    owner.world.browser().begin("abc")
    text = last_sms(owner.world)
    code = re.search(r"\d{6}", text)
    assert code
    assert text == f"Acme Bank: {code[0]} (5 min). Never share this code. 100%\n\n@127.0.0.1 #{code[0]}"


def test_the_email_is_the_businesss_own(owner: Desk) -> None:
    world = owner.world
    path = TEXTS.replace("balance", "mail")
    found = field_of("email", "{code} is your {business} code")
    life = field_of("email", "It expires in about {num} minute.")
    owner.get(f"{path}?language=en&part=email")
    typed: dict[str, Any] = {
        f"{found.id}.other": "{code} for {business} & you",
        f"{life.id}.other": "Good for {num} minutes.",
    }
    send(owner, path, **typed)
    assert "Saved as version 2" in owner.page.text
    world.browser().begin("abc", "mail")
    mail = wait_for(lambda: [one for one in world.receiver.messages if one.get("to") == "thandi@example.com"])[-1]
    assert re.fullmatch(r"\d{6} for Acme Bank & you", mail["subject"])
    assert "Good for 5 minutes." in mail["text"]
    assert "Never share this code, not even with us." in mail["text"]


def test_a_plural_has_each_form_of_its_language(owner: Desk) -> None:
    own = {"one": "Last try.", "other": "Still {num}."}
    change(owner, "code", {"{num} try left.": own})
    assert "must contain {num}" in said(owner.page)
    change(owner, "code", {"{num} try left.": {"one": "{num}, the last try.", "other": "Still {num}."}})
    browser = owner.world.browser()
    browser.begin("abc")
    for _ in range(3):
        browser.prove("000000")
    assert "Still 2." in said(browser.page)
    browser.prove("000000")
    assert "1, the last try." in said(browser.page)
    change(owner, "code", {"{num} try left.": {"one": "{num}, the last try.", "other": ""}})
    assert "needs the form other" in said(owner.page)


@pytest.mark.parametrize(
    ("part", "key", "text", "fault"),
    [
        ("email", "{code} is your {business} code", "Your code", "must contain {business}, {code}"),
        ("sms", "sms", "{code} {business} {num}", "must contain {warning}"),
        ("sms", "sms", "{code} {business} {warning}", "must contain {num}"),
        ("sms", "sms", "{code} {business} {num} {warning} {payee}", "can't contain {payee}"),
        ("sms", "sms_payment", "{code} {payee} {num} {warning}", "must contain {amount}"),
        ("code", "Confirm", "{code}", "can't contain {code}"),
        ("code", "Confirm", "x" * 301, "has 301 characters; at most 300 fit"),
        ("own", "name", "x" * 61, "has 61 characters; at most 60 fit"),
        ("code", "Confirm", "a\u202eb", "must be one paragraph of plain text"),
    ],
)
def test_what_would_lose_a_fact_or_hide_one_is_refused(owner: Desk, part: str, key: str, text: str, fault: str) -> None:
    change(owner, part, {key: text})
    assert owner.page.status_code == 422
    assert fault in said(owner.page)
    assert text.strip() in unescape(owner.page.text), "what was typed is still there"
    assert owner.world.services.configuration.stored().journeys["balance"].number == 1


def test_no_page_offers_a_warning_and_a_file_cannot_change_one(owner: Desk) -> None:
    known = {message.id for message in all_texts()}
    assert known >= WARNINGS
    for part in PARTS:
        labels = re.findall(r"<label[^>]*>([^<]*)</label>", owner.get(f"{TEXTS}?language=en&part={part}").text)
        assert not WARNINGS & {unescape(label) for label in labels}, part
    text = owner.world.services.configuration.export_toml()
    config = text.replace(
        'slug = "balance"', 'slug = "balance"\nwording = { en = { "Only continue if you started this chat." = "Go" } }'
    )
    owner.get("/admin/settings/import")
    owner.post("/admin/settings/import", text=config)
    assert "is a warning, which protects your customers" in said(owner.page)


def test_ours_come_back(owner: Desk) -> None:
    change(owner, "code", {"Confirm": "Check it", "Change": "Edit"})
    change(owner, "code", {"Confirm": ""})
    assert "Saved as version 3" in owner.page.text
    assert owner.world.services.configuration.stored().journeys["balance"].config.wording == {"en": {"Change": "Edit"}}
    change(owner, "code", {}, act="back")
    assert "Saved as version 4" in owner.page.text
    assert owner.world.services.configuration.stored().journeys["balance"].config.wording == {}
    owner.get("/admin/journeys/balance/versions/4")
    assert "Text in English: Change" in said(owner.page)


def test_a_version_with_texts_is_restored(owner: Desk) -> None:
    change(owner, "code", {"Confirm": "Check it"})
    change(owner, "code", {"Confirm": ""})
    owner.get("/admin/journeys/balance/versions/2")
    send(owner, "/admin/journeys/balance/versions/2")
    assert owner.world.services.configuration.stored().journeys["balance"].config.wording == {
        "en": {"Confirm": "Check it"}
    }


def test_a_verification_under_way_keeps_the_texts_that_it_began_with(owner: Desk) -> None:
    browser = owner.world.browser()
    browser.begin("abc")
    change(owner, "code", {"Confirm": "Check it"})
    assert "Check it" not in browser.get("/verify").text


def test_other_forms_of_the_journey_keep_its_texts(owner: Desk) -> None:
    change(owner, "code", {"Confirm": "Check it"})
    owner.get("/admin/journeys/balance/edit")
    send(owner, "/admin/journeys/balance/edit", act="save", name="Check your balance")
    stored = owner.world.services.configuration.stored().journeys["balance"].config
    assert (stored.name, stored.wording) == ("Check your balance", {"en": {"Confirm": "Check it"}})


def test_two_owners_who_change_texts_lose_none(owner: Desk) -> None:
    owner.get(f"{TEXTS}?language=en&part=code")
    typed = fields(owner, TEXTS)
    change(owner, "own", {"name": "Balance of today"})
    found = field_of("code", "Confirm")
    owner.page = owner.client.post(TEXTS, data={**typed, f"{found.id}.other": "Check it"}, base_url=owner.base_url)
    assert owner.page.status_code == 409
    assert "Version 2 was saved after you opened this page" in said(owner.page)
    send(owner, TEXTS)
    assert owner.world.services.configuration.stored().journeys["balance"].config.wording == {
        "en": {"name": "Balance of today", "Confirm": "Check it"}
    }


def test_of_what_two_owners_changed_on_one_page_each_text_is_kept(owner: Desk) -> None:
    owner.get(f"{TEXTS}?language=en&part=code")
    typed = fields(owner, TEXTS)
    confirm, change_it, approve = (f"{field_of('code', key).id}.other" for key in ("Confirm", "Change", "Approve"))
    for texts in ({confirm: "Theirs", change_it: "Theirs, too"}, {confirm: "Mine", approve: "Mine alone"}):
        owner.page = owner.client.post(TEXTS, data={**typed, **texts}, base_url=owner.base_url)
    assert owner.page.status_code == 409
    assert said(owner.page).count("Another admin changed this, too. Stored now: Theirs") == 1
    send(owner, TEXTS)
    assert owner.world.services.configuration.stored().journeys["balance"].config.wording == {
        "en": {"Confirm": "Mine", "Change": "Theirs, too", "Approve": "Mine alone"}
    }


def test_the_message_is_shown_before_it_is_saved_with_what_it_costs(owner: Desk) -> None:
    long = "{business}: {code} ({num} min). {warning} " + "Long words follow here. " * 6
    change(owner, "sms", {"sms": long}, act="preview")
    shown = said(owner.page)
    assert "The message as you typed it" in shown
    assert "000000 (5 min). Never share this code. Long words" in shown
    assert "2 parts in the GSM alphabet: you pay for 2 messages." in shown
    assert owner.world.services.configuration.stored().journeys["balance"].number == 1


def test_the_email_is_shown_as_a_mail_program_does(owner: Desk) -> None:
    change(owner, "email", {"Your code for “{journey}”": "A code for {journey} <b>"}, act="email")
    assert "A code for Balance &lt;b&gt;" in owner.page.text
    policy = owner.page.headers["Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
    assert owner.page.headers["X-Content-Type-Options"] == "nosniff"


def test_a_test_drive_speaks_the_typed_texts_in_their_language(owner: Desk) -> None:
    change(owner, "code", {"Send me a code by SMS": "Ngithumelele manje"}, "zu", act="drive")
    link = re.search(r'href="[^"]*(/drive/[^"]*reference=[^"]*)"', owner.page.text)
    assert link
    assert "Ngithumelele manje" in said(owner.get(unescape(link[1])))
    assert owner.world.services.configuration.stored().journeys["balance"].number == 1


def test_r44_texts_are_guarded(owner: Desk) -> None:
    let_the_second_factor_age(owner)
    owner.world.receiver.messages.clear()
    change(owner, "code", {"Confirm": "Check it"})
    assert owner.page.status_code == 422
    assert "Code from your authenticator app" in said(owner.page)
    change(owner, "code", {"Confirm": "Check it"}, second_factor=owner.second_factor())
    assert_mailed(owner, "Journey balance: changed", "  Text in English: Confirm: nothing -> Check it")


def test_others_read_the_texts_and_change_none(auditor: Desk) -> None:
    page = auditor.get(f"{TEXTS}?language=en&part=code")
    assert "Only owners can change texts." in page.text
    assert 'name="act"' not in page.text


def test_a_release_before_serves_the_journey_with_our_texts(owner: Desk) -> None:
    change(owner, "code", {"Confirm": "Check it"})
    version = owner.world.rows(JourneyVersion)[-1]
    assert "wording" not in version.document
    assert version.document["steps"] == version.whole["steps"]
    assert version.whole["wording"] == {"en": {"Confirm": "Check it"}}


def test_every_part_and_every_language_has_a_page(owner: Desk) -> None:
    assert list(PART_WORDS) == list(PARTS)
    for language in i18n.complete_languages():
        assert owner.get(f"{TEXTS}?language={language}&part=code").status_code == 200
    for part in PARTS:
        shown = owner.get(f"{TEXTS}?language=en&part={part}")
        assert shown.status_code == 200
        assert len(re.findall(r"<label ", shown.text)) > 2, part


def test_every_text_of_a_journey_is_in_a_part() -> None:
    """What is in none is a warning, or of a page without a journey. No two have one key."""
    assert len({text.english for text in our_texts().values()}) == len(our_texts())
    others = ("credentials", "enrol", "link", "directory", "set_password", "messages/notice", "credential_set")
    for message in all_texts():
        english = str(message.id[0] if isinstance(message.id, tuple) else message.id)
        if english and shown(english) not in our_texts() and english not in WARNINGS:
            places = [place for place, _line in message.locations]
            is_sms = "Never share" in english  # an SMS is changed as a whole
            assert is_sms or all(any(word in place for word in others) for place in places), (english, places)


def test_the_names_of_texts_are_no_texts_of_ours() -> None:
    assert not set(OWN) & set(our_texts())
