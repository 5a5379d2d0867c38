"""Customers on the configuration page: found, revealed, made, changed, erased, exported; and their credentials."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from pathlib import Path

import pyotp
import pytest
from sqlalchemy import insert
from werkzeug.test import TestResponse

from auth_portal.store.db import parted_facts
from auth_portal.store.models import AuditEvent, CredentialLink, CustomerRow, Delivery, Tries
from tests.admin.desk import Desk, seed_of, signed_in
from tests.admin.test_journeys import Fields
from tests.receiver import Receiver, wait_for
from tests.web.test_way import sent
from tests.world import MAIL, PHONE, STANDARD, World, journey, open_world

LIST = "/admin/customers"
REASON = "lost the phone"


def path_of(world: World, customer_id: str = "C-1001") -> str:
    return f"{LIST}/{world.services.customers.row_of(customer_id)}"


def events(world: World, kind: str) -> list[AuditEvent]:
    return [event for event in world.rows(AuditEvent) if event.kind == kind]


def told(world: World, contact: str, text: str) -> None:
    def is_told() -> bool:
        sent = [one["text"] + one.get("subject", "") for one in world.receiver.messages if one["to"] == contact]
        return any(text in words for words in sent)

    wait_for(is_told)


class TestFinding:
    """Lists and search show nobody's contacts."""

    def test_everybody_is_listed_masked(self, auditor: Desk) -> None:
        text = auditor.get(LIST).text
        assert [text.index(f"C-100{number}") for number in (1, 2, 3, 4)] == sorted(
            text.index(f"C-100{number}") for number in (1, 2, 3, 4)
        )
        assert "T••• N•••" in text
        assert "••• 567" in text
        for secret in ("Thandi", "Nkosi", PHONE, MAIL, "821234567"):
            assert secret not in text

    @pytest.mark.parametrize(
        "typed", ["c-1001", "082 123 4567", "+27 82 123 4567", "THANDI@example.com", "thandi nkosi"]
    )
    def test_somebody_is_found_by_what_names_them(self, support: Desk, typed: str) -> None:
        support.get(LIST)
        text = support.post(f"{LIST}/search", q=typed).text
        assert "C-1001" in text
        assert "C-1002" not in text

    def test_a_shared_phone_finds_the_family_and_a_part_nobody(self, support: Desk) -> None:
        support.get(LIST)
        text = support.post(f"{LIST}/search", q="+27845551234").text
        assert ("C-1003" in text, "C-1004" in text, "C-1001" in text) == (True, True, False)
        assert "No customer matches exactly" in support.post(f"{LIST}/search", q="Thandi").text

    def test_pages_go_on_by_key_with_no_customer_id_in_the_url(self, owner: Desk) -> None:
        for number in range(120):
            owner.world.services.customers.create({"customer_id": f"D-{number:03}", "name": "Same Name"})
        seen = re.findall(r">([CD]-\d+)</a>", owner.get(LIST).text)
        while following := re.search(r'href="([^"]*after=[^"]*)" rel="next"', owner.page.text):
            assert "D-" not in following.group(1)
            seen += re.findall(r">([CD]-\d+)</a>", owner.get(unescape(following.group(1))).text)
        assert seen == [f"C-100{number}" for number in (1, 2, 3, 4)] + [f"D-{number:03}" for number in range(120)]
        found = owner.post(f"{LIST}/search", q="same name").text
        assert len(re.findall(r">D-\d+</a>", found)) == 50
        after = re.search(r'name="after" value="([^"]+)"', found)
        assert after
        assert "D-050" in owner.post(f"{LIST}/search", q="same name", after=after.group(1)).text


class TestReveal:
    """Revealing is an act."""

    def test_r31_it_is_a_post_and_lasts_for_one_answer(self, support: Desk) -> None:
        path = path_of(support.world)
        assert PHONE not in support.get(path).text
        assert support.client.get(f"{path}/reveal", base_url=support.base_url).status_code == 405
        assert not events(support.world, "customer_revealed")
        support.get(path)
        text = support.post(f"{path}/reveal").text
        assert all(known in text for known in ("Thandi Nkosi", PHONE, MAIL))
        (event,) = events(support.world, "customer_revealed")
        assert event.admin_id == support.admin_id
        assert PHONE not in support.get(path).text

    def test_the_auditor_reads_masked_and_has_no_buttons(self, auditor: Desk) -> None:
        text = auditor.get(path_of(auditor.world)).text
        assert "Credentials" in text
        assert all(word not in text for word in ("Reveal", "Unlock", "Erase", "Download", PHONE))


class TestChanging:
    """Made and changed by the rules of the file."""

    def test_a_new_customer_and_what_is_wrong_with_one(self, support: Desk) -> None:
        support.get(f"{LIST}/new")
        page = support.post(f"{LIST}/new", customer_id="", name="Zanele", phone="12", email="x", locale="en")
        assert page.status_code == 422
        assert all(
            words in page.text for words in ("It is missing", "It is not a phone number", "It is not an email address")
        )
        assert 'value="Zanele"' in page.text
        assert 'value="12"' in page.text
        page = support.post(f"{LIST}/new", customer_id="c-1001", phone="")
        assert "It is another customer&#39;s already" in page.text
        support.post(f"{LIST}/new", customer_id="C-2000", name="Zanele", phone="083 000 1111", email="z@example.com")
        assert support.path == path_of(support.world, "C-2000")
        assert "••• 111" in support.page.text
        browser = support.world.browser()
        browser.begin("new-one", "balance", "083 000 1111")
        browser.prove(sent(support.world, "+27830001111"))
        assert browser.path == "/done"

    def test_r13_a_changed_contact_is_told_at_the_old_and_the_new_address(self, support: Desk) -> None:
        path = path_of(support.world)
        support.get(f"{path}/edit")
        assert PHONE not in support.page.text
        support.post(f"{path}/edit", customer_id="C-1001", phone="083 000 2222")
        assert support.path == path
        for contact in (PHONE, "+27830002222"):
            told(support.world, contact, "Your phone number was changed")
        assert not any(one["to"] == MAIL for one in support.world.receiver.messages)
        support.get(f"{path}/edit")
        support.post(f"{path}/edit", customer_id="C-1001", clear_email="1")
        told(support.world, MAIL, "Your email address was removed")
        fields = [event.facts["fields"] for event in events(support.world, "customer_changed")]
        assert fields == [["phone"], ["email"]]

    def test_of_two_admins_each_writes_the_fields_that_they_changed(self, small_world: World) -> None:
        """The form holds the customer ID and the language as they were: sent unchanged, they change nothing."""
        first, second = signed_in(small_world, "owner"), signed_in(small_world, "support")
        path = path_of(small_world)
        second.get(f"{path}/edit")
        mine = {**Fields(second.page.text, f"{path}/edit").values, "name": ["Thandi Zulu"]}
        small_world.clock.advance(60)
        first.get(f"{path}/edit")
        first.post(f"{path}/edit", customer_id="C-1001-A", locale="zu", reason="merger")
        page = second.client.post(f"{path}/edit", data=mine, base_url=second.base_url)
        assert page.status_code == 409
        again = Fields(page.text, f"{path}/edit").values
        assert (again["customer_id"], again["locale"], again["name"]) == (["C-1001-A"], ["zu"], ["Thandi Zulu"])
        assert second.client.post(f"{path}/edit", data=again, base_url=second.base_url).status_code == 303
        stored = small_world.services.customers.get(path.rpartition("/")[2])
        assert (stored.customer_id, stored.locale, stored.name) == ("C-1001-A", "zu", "Thandi Zulu")

    def test_of_two_admins_the_second_is_told_and_shown_the_difference(self, small_world: World) -> None:
        first, second = signed_in(small_world, "owner"), signed_in(small_world, "support")
        path = path_of(small_world)
        first.get(f"{path}/edit")
        second.get(f"{path}/edit")
        small_world.clock.advance(60)
        first.post(f"{path}/edit", customer_id="C-1001", name="Thandi Dlamini")
        page = second.post(f"{path}/edit", customer_id="C-1001", name="Thandi Zulu", locale="zu")
        assert page.status_code == 409
        assert "Another admin changed this customer" in page.text
        assert "Ada Owner" in page.text
        assert "T••• D•••" in page.text
        assert 'value="Thandi Zulu"' in page.text
        assert second.post(f"{path}/edit", customer_id="C-1001", name="Thandi Zulu", locale="zu").status_code == 200
        assert small_world.services.customers.get(path.rpartition("/")[2]).name == "Thandi Zulu"

    def test_switched_off_nothing_is_proved_any_more(self, support: Desk) -> None:
        path = path_of(support.world)
        support.get(path)
        assert "switched off" in support.post(f"{path}/active").text
        browser = support.world.browser()
        browser.begin("off", "app")
        assert "isn't the code." in browser.prove(support.world.totp()).text
        support.get(path)
        support.post(f"{path}/active")
        support.world.clock.advance(31)
        browser.begin("on-again", "app")
        browser.prove(support.world.totp())
        assert browser.path == "/done"


class TestErasing:
    """It says what goes, asks once more, and takes it."""

    def test_it_wants_the_customer_id_again(self, support: Desk) -> None:
        path = path_of(support.world)
        text = support.get(f"{path}/erase").text
        assert "What is deleted" in text
        assert "What stays" in text
        page = support.post(f"{path}/erase", customer_id="C-1002")
        assert (page.status_code, "nothing was erased" in page.text) == (422, True)
        assert "Erased" in support.post(f"{path}/erase", customer_id="C-1001").text
        assert support.get(path).status_code == 404
        assert [row.customer_id for row in support.world.rows(CustomerRow)] == ["C-1002", "C-1003", "C-1004"]
        (event,) = events(support.world, "customer_erased")
        assert event.admin_id == support.admin_id

    def test_e3_no_byte_of_a_person_with_links_and_codes_is_left(self, support: Desk) -> None:
        world = support.world
        people = world.services.customers
        saved = people.create({"customer_id": "erase-me-entirely", "name": "Nobody Special", "email": "e@example.com"})
        path = f"{LIST}/{saved.row}"
        support.get(f"{path}/credentials/totp")
        support.post(f"{path}/credentials/totp/link", way="hand")
        assert world.rows(CredentialLink)
        support.get(f"{path}/erase")
        support.post(f"{path}/erase", customer_id="erase-me-entirely")
        assert not world.rows(CredentialLink)
        folder = Path(str(world.database.url.database)).parent
        stored = b"".join(file.read_bytes() for file in folder.glob("portal.db*"))
        for trace in (b"erase-me-entirely", b"Nobody Special", b"e@example.com", saved.row.encode()):
            assert trace not in stored


def test_one_person_is_exported_with_all_that_is_stored(support: Desk) -> None:
    world, path = support.world, path_of(support.world)
    browser = world.browser()
    browser.begin("exported", "either", PHONE)
    browser.post("/verify/method", method="totp")
    browser.prove(world.totp())
    assert browser.path == "/done"
    support.get(path)
    page = support.post(f"{path}/export")
    assert page.headers["Content-Disposition"].startswith("attachment;")
    assert page.headers["Content-Type"] == "application/json; charset=utf-8"
    document = json.loads(page.text)
    assert document["customer"]["name"] == "Thandi Nkosi"
    assert document["customer"]["phone"] == PHONE
    assert document["credentials"]["authenticator_app"].startswith("enrolled")
    (verification,) = document["verifications"]
    assert (verification["outcome"], verification["methods"]) == ("verified", "totp")
    assert "C-1001" in verification["told"]["said"]
    assert document["visits"][0]["typed"] == PHONE
    assert "verification_ended" in [event["kind"] for event in document["events"]]
    assert "JBSWY3DP" not in page.text
    assert "argon2" not in page.text
    assert events(world, "customer_exported")[0].admin_id == support.admin_id


class TestCredentials:
    """What support sees and does when somebody calls."""

    def test_states_last_use_and_locks_are_told_and_unlocked(self, support: Desk) -> None:
        world, path = support.world, path_of(support.world)
        browser = world.browser()
        browser.begin("used", "app")
        browser.prove(world.totp())
        for number in range(3):
            browser.begin(f"wrong-{number}", "password")
            for _ in range(5):
                browser.prove("not the password")
        text = support.get(path).text
        assert "15 characters or more" in text
        assert f"{world.clock.now:%Y-%m-%d %H:%M}" in text  # last used
        assert "15 since the last success, 15 today" in text
        until = world.clock.now.replace(day=world.clock.now.day + 1)
        assert f"{until:%Y-%m-%d}" in text  # locked until
        assert "Unlocked" in support.post(f"{path}/renew").text
        assert not world.rows(Tries)
        assert "since the last success" not in support.page.text

    def test_a_credential_is_taken_away_with_the_second_factor(self, support: Desk) -> None:
        world, path = support.world, path_of(support.world)
        world.clock.advance(601)
        support.get(f"{path}/credentials/totp")
        page = support.post(f"{path}/credentials/totp/reset")
        assert (page.status_code, "authenticator app shows now" in page.text) == (422, True)
        assert world.services.customers.get_masked(path.rpartition("/")[2]).has_totp
        support.post(f"{path}/credentials/totp/reset", second_factor=support.second_factor())
        assert support.path == path
        assert not world.services.customers.get_masked(path.rpartition("/")[2]).has_totp
        for contact in (PHONE, MAIL):
            told(world, contact, "Your authenticator app was removed")
        assert parted_facts(events(world, "credential_reset")[0].facts)[0] == {
            "method": "totp",
            "reason": "the customer called",
        }

    def test_a_link_by_hand_is_shown_once_and_by_sms_never(self, support: Desk) -> None:
        world, path = support.world, path_of(support.world)
        support.get(f"{path}/credentials/password")
        assert support.post(f"{path}/credentials/password/link").status_code == 422
        text = support.post(f"{path}/credentials/password/link", way="hand").text
        shown = re.search(r"http://127\.0\.0\.1:8000(/credentials/[\w-]+)", text)
        assert shown
        support.get(f"{path}/credentials/password")
        assert "An earlier link is valid until" in support.page.text
        assert ":8000/credentials/" not in support.post(f"{path}/credentials/password/link", way="sms").text
        told(world, PHONE, "/credentials/")
        assert world.browser().get(shown.group(1)).status_code == 410  # a newer one was made
        assert [event.facts["way"] for event in events(world, "credential_link_made")] == ["hand", "sms"]

    def test_r47_by_hand_an_app_is_set_up_from_the_page_and_no_link_is_shown(self, support: Desk) -> None:
        world, path = support.world, path_of(support.world, "C-1002")
        support.get(f"{path}/credentials/totp")
        page = support.post(f"{path}/credentials/totp/link", way="hand")
        assert "/credentials/" not in page.text.replace(f"{path}/credentials/totp/scan", "")
        seed, scan = seed_of(support), f"{path}/credentials/totp/scan"
        fields = support.hidden(scan)
        (shown,) = world.rows(CredentialLink)
        outside = world.browser()
        assert "secret=" not in outside.get(f"/credentials/{fields['token']}").text
        assert support.post(scan, code="000000").status_code == 422
        assert seed_of(support) == seed, "a wrong code does not change the picture"
        code = pyotp.TOTP(seed).at(world.clock.now.timestamp())
        other = path_of(world, "C-1001")
        typed = {**fields, "code": code, "reason": "called"}
        moved = support.client.post(f"{other}/credentials/totp/scan", data=typed, base_url=support.base_url)
        assert moved.status_code == 404
        support.post(scan, code=code)
        assert support.path == path
        assert world.services.customers.get_masked(path.rpartition("/")[2]).has_totp
        assert [event.admin_id for event in events(world, "credential_set_in_person")] == [support.admin_id]
        told(world, "+27831234567", "Your authenticator app was set")
        assert next(row for row in world.rows(CredentialLink) if row.id == shown.id).used_at

    def test_what_is_no_credential_is_not_found(self, owner: Desk) -> None:
        path = path_of(owner.world)
        assert owner.get(f"{path}/credentials/sms_code").status_code == 404


SUPPORTED = STANDARD + journey("help", "sms_code|support_code") + journey("twice", "password", "totp|support_code")


@pytest.fixture
def helped(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    with open_world(tmp_path, database_url, receiver, config=SUPPORTED) as opened:
        yield opened


@pytest.fixture
def desk(helped: World) -> Desk:
    return signed_in(helped, "support")


def issue(desk: Desk, customer_id: str = "C-1001", **fields: str) -> str:
    """The code that support reads out."""
    path = f"{path_of(desk.world, customer_id)}/support-code"
    desk.get(path)
    text = desk.post(path, reason=REASON, **fields).text
    shown = re.search(r'class="read-out">(\d{4}) (\d{4})<', text)
    assert shown, text
    return shown.group(1) + shown.group(2)


def with_support_code(world: World, reference: str, code: str, customer_id: str = "C-1001") -> str:
    """Where a customer lands who chooses the support code and types it."""
    browser = world.browser()
    browser.begin(reference, "help", customer_id)
    browser.post("/verify/method", method="support_code")
    browser.prove(code)
    return browser.path


class TestSupportCode:
    """R19, from the desk to the chat."""

    def test_r19_it_lets_one_customer_in_once_and_is_named_so(self, desk: Desk) -> None:
        world = desk.world
        code = issue(desk)
        assert with_support_code(world, "another", code, "C-1002") == "/verify"
        assert with_support_code(world, "right", code) == "/done"
        callback = wait_for(lambda: next((call for call in world.receiver.callbacks if call.header == "right"), None))
        assert callback is not None
        assert (callback.body["result"], callback.body["data"]["method"]) == ("verified_help", "support_code")
        assert with_support_code(world, "again", code) == "/verify"
        for contact in (PHONE, MAIL):
            told(world, contact, "A temporary code was issued")
        (event,) = events(world, "support_code_issued")
        assert (event.admin_id, parted_facts(event.facts)[0]) == (desk.admin_id, {"reason": REASON})
        assert code not in str([row.facts for row in world.rows(AuditEvent)])

    def test_r19_ten_minutes(self, desk: Desk) -> None:
        code = issue(desk)
        desk.world.clock.advance(600)
        assert with_support_code(desk.world, "late", code) == "/verify"
        code = issue(desk, second_factor=desk.second_factor())
        desk.world.clock.advance(599)
        assert with_support_code(desk.world, "in-time", code) == "/done"

    def test_r19_a_newer_code_puts_the_older_out_of_force(self, desk: Desk) -> None:
        older, newer = issue(desk), issue(desk)
        assert with_support_code(desk.world, "older", older) == "/verify"
        assert with_support_code(desk.world, "newer", newer) == "/done"

    def test_r19_the_second_factor_and_a_reason(self, desk: Desk) -> None:
        desk.world.clock.advance(601)
        path = f"{path_of(desk.world)}/support-code"
        desk.get(path)
        page = desk.post(path, reason="")
        assert (page.status_code, "Enter a reason" in page.text) == (422, True)
        page = desk.post(path, reason=REASON)
        assert (page.status_code, "authenticator app shows now" in page.text, REASON in page.text) == (422, True, True)
        assert not events(desk.world, "support_code_issued")
        assert issue(desk, second_factor=desk.second_factor())

    def test_r42_a_reason_is_kept_without_digits_and_addresses(self, desk: Desk) -> None:
        path = f"{path_of(desk.world)}/support-code"
        desk.get(path)
        desk.post(path, reason="called from 082 123 4567, mails as t@example.com")
        (event,) = events(desk.world, "support_code_issued")
        assert parted_facts(event.facts)[0] == {"reason": "called from ••• ••• ••••, mails as •@•"}

    def test_r19_nobody_who_cannot_be_told_gets_one(self, desk: Desk) -> None:
        desk.world.services.customers.create({"customer_id": "C-3000"})
        path = f"{path_of(desk.world, 'C-3000')}/support-code"
        desk.get(path)
        page = desk.post(path, reason=REASON)
        assert (page.status_code, "no contact on file" in page.text) == (422, True)
        assert not events(desk.world, "support_code_issued")

    def test_r06_wrong_ones_are_counted_and_lock(self, desk: Desk) -> None:
        for number in range(3):
            browser = desk.world.browser()
            browser.begin(f"wrong-{number}", "help")
            browser.post("/verify/method", method="support_code")
            for _ in range(5):
                browser.prove("00000000")
        code = issue(desk)
        assert with_support_code(desk.world, "locked", code) == "/verify"
        (tries,) = [row for row in desk.world.rows(Tries) if row.method == "support_code"]
        assert tries.day_count == 15

    def test_r24_offered_and_refused_alike_to_those_who_have_one_and_who_do_not(self, desk: Desk) -> None:
        issue(desk)
        pages = []
        for number, name in enumerate(("C-1001", "C-1002", "C-9999")):
            browser = desk.world.browser()
            browser.begin(f"alike-{number}", "help", name)
            pages.append(browser.page.text.replace(name, "…"))
            browser.post("/verify/method", method="support_code")
            wrong = browser.prove("00000000")
            assert wrong.status_code == 422
            pages[-1] += browser.page.text.replace(name, "…")
        plain = [re.sub(r'(value|data-seconds|data-answer)="[^"]*"|\?v=[\w-]{8}', "", page) for page in pages]
        assert plain[0] == plain[1] == plain[2]

    def test_it_is_a_second_step_too_and_no_other_journey_takes_it(self, desk: Desk) -> None:
        world, code = desk.world, issue(desk)
        browser = world.browser()
        browser.begin("two-steps", "twice")
        browser.prove("correct horse battery staple")
        assert "Code from our support team" in browser.page.text
        browser.post("/verify/method", method="support_code")
        browser.prove(code)
        assert browser.path == "/done"
        other = world.browser()
        other.begin("not-there", "either")
        assert "support" not in other.page.text.lower().replace("contact acme bank", "")

    def test_r03_of_two_browsers_with_one_code_one_gets_in(self, desk: Desk) -> None:
        world, code = desk.world, issue(desk)
        browsers = [world.browser() for _ in range(2)]
        for number, browser in enumerate(browsers):
            browser.begin(f"together-{number}", "help")
            browser.post("/verify/method", method="support_code")
        for browser in browsers:
            browser.prove(code)
        assert sorted(browser.path for browser in browsers) == ["/done", "/verify"]


def test_without_a_journey_that_takes_it_there_is_no_code(support: Desk) -> None:
    path = f"{path_of(support.world)}/support-code"
    page = support.get(path).text
    assert "No journey accepts these codes" in page
    assert f'action="{path}"' not in page, "nothing to fill in for nothing"
    row = path.split("/")[-2]
    issued = support.world.services.credentials.issue_support_code(row, REASON, admin_id=support.admin_id)
    assert (issued.code, issued.fault) == ("", "no_journey")


def test_the_page_says_which_journeys_the_customer_can_pass(small_world: World) -> None:
    """What support reads when the customer calls: yes or no for each journey, why not, and until when."""
    desk = signed_in(small_world, "support")
    people, until = small_world.services.customers, small_world.clock() + timedelta(hours=3)
    abroad = people.create({"customer_id": "N-1", "phone": "+264811234567"}).row
    desk.get(f"/admin/customers/{abroad}")
    page = " ".join(desk.page.text.split())
    assert "Stops at step 2: a phone in a country that the SMS channel" in page
    assert "Stops at step 2: no email address on file." in page
    thandi = people.row_of("C-1001")
    with small_world.database.write() as connection:
        for method, total, day_count in (("sms_code", 15, 15), ("totp", 50, 0)):
            tries = {"method": method, "total": total, "day_count": day_count, "day_ends_at": until}
            connection.execute(insert(Tries).values(person_key=thandi, is_ticketed=False, **tries))
    desk.get(f"/admin/customers/{thandi}")
    page = " ".join(desk.page.text.split())
    assert "SMS code: locked after wrong tries until" in page
    assert until.strftime("%Y-%m-%dT%H:%M:%SZ") in page
    assert "authenticator app: locked after wrong tries, until you unlock it." in page
    assert "A link with a ticket still works." in page
    desk.get(f"/admin/customers/{people.row_of('C-1003')}")
    shared = "phone number or email address"
    assert f"They can't be found by their {shared}, which another customer has too." in " ".join(desk.page.text.split())


class TestGrounds:
    """Acting on one customer takes a fresh second factor and a reason, which the audit keeps (R45)."""

    ACTS: tuple[tuple[str, dict[str, str], str], ...] = (
        ("reveal", {}, "customer_revealed"),
        ("renew", {}, "credentials_renewed"),
        ("export", {}, "customer_exported"),
        ("edit", {"customer_id": "C-1001", "phone": "083 000 2222"}, "customer_changed"),
        ("edit", {"customer_id": "C-1001", "clear_email": "1"}, "customer_changed"),
        ("edit", {"customer_id": "C-1009"}, "customer_changed"),
        ("active", {"active": "0"}, "customer_disabled"),
        ("support-code", {}, "support_code_issued"),
        ("credentials/totp/link", {"way": "hand"}, "credential_link_made"),
        ("credentials/password/link", {"way": "sms"}, "credential_link_made"),
        ("credentials/totp/reset", {}, "credential_reset"),
        ("credentials/totp/scan", {}, "credential_set_in_person"),
        ("erase", {"customer_id": "C-1001"}, "customer_erased"),
    )

    def test_r45_every_route_that_posts_to_a_customer_is_among_them(self, small_world: World) -> None:
        """A new one fails here, until the test below shows that it takes both."""
        root = "/admin/customers/<row>/"
        routes = {
            str(rule).removeprefix(root).replace("<kind>", "totp")
            for rule in small_world.app.url_map.iter_rules()
            if "POST" in (rule.methods or ()) and str(rule).startswith(root)
        }
        assert routes == {act.replace("password", "totp") for act, _fields, _kind in self.ACTS}

    @pytest.mark.parametrize(("act", "fields", "kind"), ACTS, ids=[f"{act[0]}-{len(act[1])}" for act in ACTS])
    def test_r45_an_older_session_or_no_reason_does_nothing(
        self, helped: World, act: str, fields: dict[str, str], kind: str
    ) -> None:
        """The session is 12 minutes old; then the reason is missing, then the code, then both are there."""
        support = signed_in(helped, "support")
        path = f"/admin/customers/{support.world.services.customers.row_of('C-1001')}"
        page = f"{path}/{act}" if act in ("edit", "erase", "support-code") else path
        page = f"{path}/{act.rpartition('/')[0]}" if act.startswith("credentials") else page
        now, seed = support.world.clock, ""
        if act.endswith("/scan"):
            support.get(page)
            support.post(f"{path}/credentials/totp/link", way="hand")
            fields, seed = support.hidden(f"{path}/{act}"), seed_of(support)
        now.advance(12 * 60)
        before = support.world.rows(CustomerRow)

        def send(**given: str) -> TestResponse:
            support.get(page)  # the form of a QR code is on no page that can be opened again
            hidden = support.hidden(f"{path}/{act}" if not seed else f"{page}/link")
            code = {"code": pyotp.TOTP(seed).at(now.now.timestamp())} if seed else {}
            typed = {**hidden, **fields, "csrf_token": hidden["csrf_token"], "reason": "called", **code, **given}
            return support.client.post(f"{path}/{act}", data=typed, base_url=support.base_url)

        for given in ({"reason": ""}, {"reason": "   "}, {"reason": "x" * 201}, {}, {"second_factor": "000000"}):
            refused = send(**given)
            assert refused.status_code == 422, (act, given)
            # In any form; an id of the page may contain the same digits.
            assert not re.search(r"(?<!\w)(?:\+27[ -]?|27[ -]?|0)82[ -]?\d", refused.text)
            assert PHONE not in refused.text
        assert support.world.rows(CustomerRow) == before
        assert not events(support.world, kind)
        reason = "called from 082 123 4567 about t@example.com"
        done = send(reason=reason, second_factor=support.second_factor())
        assert done.status_code in (200, 303), done.text
        (event,) = events(support.world, kind)
        assert event.facts["reason"] == "called from ••• ••• •••• about •@•"
        assert event.admin_id == support.admin_id

    def test_r45_a_name_or_language_needs_none(self, support: Desk) -> None:
        path = f"/admin/customers/{support.world.services.customers.row_of('C-1001')}"
        support.world.clock.advance(12 * 60)
        support.get(f"{path}/edit")
        support.post(f"{path}/edit", customer_id="C-1001", name="Thandi D", reason="")
        (event,) = events(support.world, "customer_changed")
        changes = {"customer": {"name": ["one on file", "another one on file"]}}
        assert parted_facts(event.facts)[0] == {"fields": ["name"], "changes": changes}


def sections_of(desk: Desk) -> dict[str, str]:
    """The words of a customer's page below each heading."""
    page = desk.page.text.partition("<h1>")[2]
    found = re.findall(r"<h2[^>]*>(.*?)</h2>(.*?)(?=<h2|<footer)", page, re.DOTALL)
    return {title: unescape(" ".join(re.sub(r"<[^>]+>", " ", text).split())) for title, text in found}


def test_everyone_sees_the_last_visits_deliveries_and_events_of_a_customer(small_world: World) -> None:
    desks = [signed_in(small_world, role) for role in ("owner", "support", "auditor")]
    browser = small_world.browser()
    browser.begin("one", "balance")
    browser.prove(sent(small_world, PHONE))
    small_world.clock.advance(120)
    small_world.browser().begin("two", "balance")
    small_world.browser().begin("other", "balance", identifier="C-1002")
    row = path_of(small_world).rpartition("/")[2]
    small_world.services.credentials.reset(row, "password", admin_id=desks[1].admin_id, reason=REASON)
    wait_for(lambda: all(one.ended_at for one in small_world.rows(Delivery) if one.kind == "message"))
    for desk in desks:
        desk.get(path_of(small_world))
        found = sections_of(desk)
        visits = found["Last visits"]
        assert visits.index("Began") < visits.index("2 min ago"), "the newest first"
        assert re.search(r"Began [\d:]+, SMS handed to .* still under way, .* left\.", visits), visits
        assert "Named, not proved." in visits
        assert re.search(r"verified [\d:]+, chat informed in .*Balance verified", visits), visits
        assert visits.count("Began") == 2
        sent_to = found["Last deliveries"]
        assert "SMS code for Balance ••• 567" in sent_to
        assert "Answer “verified” of Balance" in sent_to
        assert "Your password was removed ••• 567" in sent_to
        assert "Your password was removed t•••@example.com" in sent_to
        assert "A customer's password was reset." in found["On record"]
        assert "Ada Support" in found["On record"]
        assert "South Africa" in found["On file"]
        assert ("When they call" in found) is (desk is not desks[2])
        for link in ("/admin/verifications?customer=", "/admin/audit?subject="):
            assert link in desk.page.text
        for hidden in (PHONE, MAIL, "Thandi", "C-1002"):
            assert hidden not in desk.page.text
        for link in re.findall(r'href="(/admin/(?:verifications|deliveries|audit)[^"]*)"', desk.page.text):
            assert desk.client.get(unescape(link), base_url=desk.base_url).status_code == 200, link
    page = desks[1].page.text
    assert page.index("Last visits") < page.index("On file") < page.index("Credentials")


def test_a_visit_in_which_another_customer_was_named_later_says_so(small_world: World, support: Desk) -> None:
    small_world.browser().begin("shared", "balance")
    small_world.clock.advance(1)
    small_world.browser().begin("shared", "balance", identifier="C-1002")
    support.get(path_of(small_world))
    assert "Another customer was named after this one." in sections_of(support)["Last visits"]
    codes = sections_of(support)["Last deliveries"].count("SMS code")
    assert codes == len([one for one in small_world.rows(Delivery) if one.challenge_id]) - 1, "only the code to them"
    support.get(path_of(small_world, "C-1002"))
    assert "Another customer was named" not in support.page.text
    support.get(path_of(small_world, "C-1003"))
    assert sections_of(support)["Last visits"].startswith("None on record.")


def test_what_they_say_when_they_call_leads_to_what_helps(small_world: World, support: Desk) -> None:
    support.get(path_of(small_world))
    calls = sections_of(support)["When they call"]
    assert "Nothing is locked now." in calls
    person, until = path_of(small_world).rpartition("/")[2], small_world.clock() + timedelta(hours=3)
    tries = {"method": "sms_code", "total": 15, "day_count": 15, "day_ends_at": until, "is_ticketed": False}
    with small_world.database.write() as connection:
        connection.execute(insert(Tries).values(person_key=person, **tries))
    support.get(path_of(small_world))
    assert re.search(r"Locked now: .*phone.*\.", sections_of(support)["When they call"], re.IGNORECASE)
    for link in ("support-code", "edit", "credentials/password", "credentials/totp"):
        assert f'href="{path_of(small_world)}/{link}"' in support.page.text
