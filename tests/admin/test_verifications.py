"""The pages of verifications: found by link or person, filtered, paged, and told."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import update

from auth_portal.services.config.journey import Payment
from auth_portal.services.verification.references import pasted
from auth_portal.store.models import CALLBACK, Challenge, Delivery, TicketRow, Verification
from tests.admin.desk import Desk, signed_in
from tests.admin.test_deliveries import counts_of, rows_of
from tests.receiver import Receiver, wait_for
from tests.ticketed import open_ticketed, opened, ticket
from tests.web.test_way import sent, verified
from tests.world import MAIL, PHONE, World, journey, open_world

REFERENCE = "f7_4hn5=8f&%#nK="
PATH = "/admin/verifications"


@pytest.fixture
def proved(small_world: World) -> Verification:
    """One that was proved under a reference as Flow really sends them."""
    browser = verified(small_world)
    browser.prove(sent(small_world, PHONE))
    wait_for(lambda: any(row.kind == CALLBACK and row.state == "accepted" for row in small_world.rows(Delivery)))
    (row,) = small_world.rows(Verification)
    return row


def find(desk: Desk, wanted: str) -> str:
    desk.get(PATH)
    desk.post(f"{PATH}/find", wanted=wanted)
    return desk.page.text


@pytest.mark.parametrize(
    "wanted",
    [
        REFERENCE,
        f"https://portal.example/j/balance?reference={REFERENCE}",
        "https://portal.example/?reference=f7_4hn5%3D8f%26%25%23nK%3D",
        "  f7_4hn5%3D8f%26%25%23nK%3D\n",
        f"reference={REFERENCE}",
    ],
)
def test_finds_a_link_however_it_was_pasted(auditor: Desk, proved: Verification, wanted: str) -> None:
    text = find(auditor, wanted)
    assert auditor.path == f"{PATH}/{proved.id}"
    assert "After " in text
    assert "you had proved who you are and the chat got “verified”." in text
    assert REFERENCE not in text


def test_pasted_reads_what_an_app_added() -> None:
    assert pasted("https://x.example/?reference=abc%25&utm_source=chat")[0] == "abc%"
    assert pasted("a b") == ()
    assert pasted("") == ()


@pytest.mark.parametrize("wanted", ["C-1001", "082 123 4567", MAIL])
def test_finds_a_person_and_names_nobody_in_the_address(support: Desk, proved: Verification, wanted: str) -> None:
    text = find(support, wanted)
    assert f'href="{PATH}/{proved.id}"' in text
    assert "every verification of C-1001" in text
    query = support.page.request.query_string.decode()
    assert not [secret for secret in ("1001", "4567", "thandi") if secret in query]


@pytest.mark.parametrize(
    ("on_file", "searched"),
    [
        ("+525512345678", "5215512345678"),  # Mexico
        ("+525512345678", "whatsapp:+5215512345678"),
        ("+5491123456789", "541123456789"),  # Argentina
        ("+5511961234567", "551161234567@c.us"),  # Brazil
        ("+2290190123456", "22990123456"),  # Benin
        (PHONE, "27821234567"),
    ],
)
def test_finds_a_number_as_chat_networks_write_it(
    small_world: World, support: Desk, on_file: str, searched: str
) -> None:
    small_world.services.customers.create({"customer_id": "C-7", "phone": on_file}, admin_id=support.admin_id)
    small_world.browser().begin("ref", "app", identifier="C-7")
    text = find(support, searched)
    (row,) = small_world.rows(Verification)
    assert f'href="{PATH}/{row.id}"' in text, text
    assert "C-7" in re.sub(r"<[^>]+>", " ", text).partition("every verification of")[2][:20]


def test_finds_tries_of_somebody_who_is_not_in_the_directory(small_world: World, support: Desk) -> None:
    small_world.browser().begin("ref", "app", identifier="0829999999")
    text = find(support, "+27 82 999 9999")
    assert "No customer matches" in text
    assert PATH + "/0" in text


def test_what_cannot_be_anything_keeps_what_was_typed(owner: Desk) -> None:
    text = find(owner, "x" * 600)
    assert owner.page.status_code == 422
    assert 'aria-invalid="true"' in text
    assert "x" * 600 in text


def test_a_bad_time_is_named_and_kept(owner: Desk) -> None:
    page = owner.get(f"{PATH}?since=yesterday")
    assert page.status_code == 422
    assert 'value="yesterday"' in page.text
    assert "Enter a date and time" in page.text


def test_several_verifications_of_one_link_make_a_list(small_world: World, owner: Desk) -> None:
    browser = small_world.browser()
    browser.open("again", "app")
    browser.post("/j/app", decline="not_me")
    small_world.clock.advance(1)
    browser.open("again", "app")
    browser.post("/j/app", again="1", identifier="C-1001")
    text = find(owner, "again")
    assert "all verifications of one link" in text
    assert text.count(f'<th scope="row"><a href="{PATH}/') == 2


def test_filters_and_pages_by_key(small_world: World, owner: Desk) -> None:
    for number in range(52):
        browser = small_world.browser(f"203.0.113.{number}")
        browser.open(f"many-{number}", "app")
        browser.post("/j/app", decline="not_me")
        small_world.clock.advance(1)
    small_world.browser().begin("one", "balance")
    text = owner.get(f"{PATH}?outcome=not_me&journey=app").text
    assert text.count('data-label="Journey">App') == 50
    more = text.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
    assert set(parse_qs(urlsplit(more).query)) == {"outcome", "journey", "after"}
    text = owner.get(more).text
    assert text.count('data-label="Journey">App') == 2
    assert 'rel="next"' not in text
    assert "Back to the start" in text
    assert owner.get(f"{PATH}?outcome=live").text.count('data-label="Journey">Balance') == 1


def test_a_list_is_of_one_method_alone_or_with_other_filters(small_world: World, owner: Desk) -> None:
    verified(small_world, "app").prove(small_world.totp())
    for query, count in (
        ("method=totp", 1), ("method=totp&outcome=verified&journey=app", 1), ("method=totp&outcome=live", 0),
        ("method=password", 0), ("method=tot", 0), ("method=totp&customer=nobody", 0),
    ):  # fmt: skip
        owner.get(f"/admin/verifications?{query}")
        assert len(rows_of(owner)) == count, query
    assert 'value="totp" selected' in owner.page.text


def test_the_story_escapes_what_was_typed(small_world: World, owner: Desk) -> None:
    small_world.browser().begin("ref", "app", identifier="<b>x</b>")
    (row,) = small_world.rows(Verification)
    text = owner.get(f"{PATH}/{row.id}").text
    assert "&lt;b•••b&gt;" in text
    assert "<b•" not in text


def test_a_verification_that_is_gone(owner: Desk) -> None:
    page = owner.get(f"{PATH}/{'0' * 32}")
    assert page.status_code == 404
    assert "This verification doesn&#39;t exist" in page.text


def test_a_live_one_is_told_while_it_lasts(small_world: World, owner: Desk) -> None:
    small_world.browser().begin("ref")
    wait_for(lambda: small_world.receiver.messages)
    (row,) = small_world.rows(Verification)
    assert "Still under way" in owner.get(f"{PATH}/{row.id}").text


def test_the_story_leads_to_what_helps_and_says_its_clock_in_a_table(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    receiver.sms_answers = [401]
    with open_world(tmp_path, sqlite_url, receiver, config=journey("desk", "sms_code|support_code")) as world:
        browser = world.browser()
        browser.begin("ref", "desk")
        browser.post("/verify/method", method="sms_code")
        wait_for(lambda: [row for row in world.rows(Delivery) if row.ended_at])
        (row,) = world.rows(Verification)
        person = world.services.customers.row_of("C-1001")
        for role, is_writer in (("support", True), ("auditor", False)):
            text = signed_in(world, role).get(f"{PATH}/{row.id}").text
            assert "read out a temporary code. It takes the place of the SMS code." in text
            assert (f'href="/admin/customers/{person}/support-code"' in text) == is_writer
            assert 'href="/admin/channels/sms">See the channel' in text
            table = text.partition("<caption>The clock of the chat</caption>")[2].partition("</table>")[0]
            said = re.findall("<td>([^<]+)</td>", table)
            assert said[1::2][:2] == ["begun", "code not sent"]
            assert said[1::2][-2:] == ["last moment to prove", "chat closes"]
            assert "“sms” was not accepted" not in text
            assert 'style="' not in text, "the policy of the page forbids it"


def test_support_sees_which_payment_was_approved_unless_its_ticket_was_changed(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_ticketed(tmp_path, sqlite_url, receiver) as world:
        desk, line = signed_in(world), "R\u00a0500.00 → N. Dlamini"
        browser = opened(world, ticket(world, payment=Payment("500.00", "ZAR", "N. Dlamini")).path)
        (row,) = world.rows(Verification)
        story = f"/admin/verifications/{row.id}"
        assert "Payment asked for" in desk.get(story).text
        (code,) = world.rows(Challenge)
        browser.prove(world.transactions.keyring.code(code.id, code.digits, code.key_id))
        assert browser.path == "/done"
        page = desk.get(story).text
        assert "Payment approved" in page
        assert line in page
        assert line in desk.get("/admin/verifications").text
        (callback,) = [one for one in world.rows(Delivery) if one.kind == "callback"]
        assert line in desk.get(f"/admin/deliveries/{callback.id}").text
        with world.transactions.write() as work:
            work.execute(update(TicketRow).values(locale="af"))
        for path in (story, "/admin/verifications", f"/admin/deliveries/{callback.id}"):
            assert "Dlamini" not in desk.get(path).text


def test_a_row_names_the_person_and_does_not_claim_a_proof(small_world: World, support: Desk) -> None:
    small_world.browser().begin("named", "balance")
    small_world.clock.advance(1)
    small_world.browser().begin("stranger", "balance", identifier="082 999 8877")
    small_world.clock.advance(1)
    browser = small_world.browser()
    browser.open("left", "app")
    browser.post("/j/app", decline="not_me")
    small_world.clock.advance(1)
    browser = small_world.browser()
    browser.begin("proved", "app")
    browser.prove(small_world.totp())
    support.get(PATH)
    proved, left, stranger, named = rows_of(support)
    assert proved.startswith("T••• N••• C-1001 verified")
    assert "not proved" not in proved
    assert left.startswith("No one named “I didn't ask for this”"), left
    assert stranger.startswith("No customer typed ••• 877 under way")
    assert named.startswith("T••• N••• C-1001 · named, not proved under way"), named
    assert re.search(r"for \d+\.?\d* s so far Balance", named), named
    for hidden in ("Thandi", PHONE, "9998877", MAIL):
        assert hidden not in support.page.text
    assert counts_of(support)["Under way"] == "2"
    assert counts_of(support)["Verified"] == "1"
    support.get(f"{PATH}?outcome=live&journey=app")
    assert (counts_of(support)["Under way"], counts_of(support)["Verified"]) == ("0", "1")
    small_world.clock.advance(100)
    support.get(f"{PATH}?range=hour")
    assert "1 min ago" in support.page.text
    assert counts_of(support)["All"] == "4"
    support.get(PATH)
    support.post(f"{PATH}/find", wanted="C-1001")
    assert counts_of(support)["All"] == str(len(rows_of(support)))


def test_a_row_of_a_link_that_changed_hands_names_the_last_customer(small_world: World, support: Desk) -> None:
    small_world.browser().begin("shared", "balance")
    small_world.clock.advance(1)
    small_world.browser().begin("shared", "balance", identifier="C-1002")
    support.get(PATH)
    (row,) = rows_of(support)
    assert row.startswith("S••• D••• C-1002 · named, not proved"), row
