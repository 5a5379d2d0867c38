"""Links with a ticket, through HTTP: what is shown, whom they let through, how long, and for which reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from auth_portal.crypto import Passwords, token_hash
from auth_portal.methods import all_methods
from auth_portal.services.operations.retention import prune
from auth_portal.store.models import (
    CUSTOMER_PHONE,
    AuditEvent,
    Challenge,
    CustomerRow,
    Delivery,
    TicketRow,
    Verification,
    Visit,
)
from auth_portal.typed import e164
from tests.receiver import Receiver
from tests.security.tools import STILL, code_for, deliver, logged, results
from tests.ticketed import PURPOSE, SHARED, link, open_ticketed, opened, ticket
from tests.world import MAIL, PASSWORD, PHONE, World, journey


@pytest.fixture
def ticketed(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    """On SQLite and on PostgreSQL; nothing leaves until the test says so."""
    with open_ticketed(tmp_path, database_url, receiver, STILL) as world:
        yield world


@pytest.fixture
def small(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    """On SQLite alone."""
    with open_ticketed(tmp_path, sqlite_url, receiver, STILL) as world:
        yield world


NO_PAYMENT = dict.fromkeys(("payment_amount", "payment_currency", "payment_payee"), "")


def data(world: World) -> dict[str, str]:
    deliver(world)
    return world.receiver.callbacks[-1].body["data"]


# -- the way ----------------------------------------------------------------------------------------------------


def test_with_a_ticket_nobody_says_who_they_are(ticketed: World) -> None:
    made = ticket(ticketed, purpose=PURPOSE, locale="af")
    browser = ticketed.browser()
    landing = browser.get(link(made.path, "f7_4hn5=8f&%#nK="))
    assert 'name="identifier"' not in landing.text
    assert "••• 567" in landing.text
    browser.post(made.path)
    assert browser.path == "/verify"
    assert "••• 567" in browser.page.text
    assert 'action="/verify/change"' not in browser.page.text
    browser.prove(code_for(ticketed, PHONE))
    assert browser.path == "/done"
    deliver(ticketed)
    (call,) = ticketed.receiver.callbacks
    assert call.header == call.body["reference"] == "f7_4hn5=8f&%#nK="
    assert call.body["result"] == "verified_pay"
    assert call.body["data"] == {
        "outcome": "verified",
        "journey": "pay",
        "phone_match": "yes",
        "purpose": PURPOSE,
        **NO_PAYMENT,
        "customer_id": "C-1001",
        "method": "sms_code",
        "verified_at": "2026-11-22T12:00:00Z",
    }
    (verification,) = ticketed.rows(Verification)
    assert verification.ticket_id == made.ticket_id


def test_the_purpose_is_on_every_page(small: World) -> None:
    made = ticket(small, "pay-twice", purpose="Pay <R 500> & more")
    browser = small.browser()
    shown = "Pay &lt;R 500&gt; &amp; more"
    landing = browser.get(link(made.path, "abc"))
    proving = browser.post(made.path)
    assert shown in landing.text
    assert shown in proving.text
    assert 'name="password"' in browser.page.text
    assert shown in browser.prove(PASSWORD).text
    assert shown in browser.post("/verify/method", method="sms_code").text
    assert shown in browser.prove("000000").text
    assert shown in browser.prove(code_for(small, PHONE)).text
    assert browser.path == "/done"
    for page in (landing, proving, browser.page):
        assert page.text.startswith("<!doctype html>")


@pytest.mark.parametrize("method", sorted(all_methods(Passwords())))
def test_the_page_of_every_method_tells_the_purpose(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, method: str
) -> None:
    """A ticket by customer ID names somebody who typed nothing: no page may repeat that nothing either."""
    with open_ticketed(tmp_path, sqlite_url, receiver, STILL, more=journey("any", method)) as world:
        page = opened(world, ticket(world, "any", customer_id="C-1001", purpose=PURPOSE).path).page
        assert page.request.path == "/verify"
        assert PURPOSE in page.text
        assert '<strong class="typed"></strong>' not in page.text


def test_r13_codes_of_a_chat_with_a_number_go_to_that_number_alone(small: World) -> None:
    browser = opened(small, ticket(small, "pay-twice").path)
    browser.prove(PASSWORD)
    assert 'value="sms_code"' in browser.page.text
    assert 'value="email_code"' not in browser.page.text
    browser.post("/verify/method", method="email_code")
    browser.post("/verify/method", method="sms_code")
    deliver(small)
    assert {message["to"] for message in small.receiver.messages} == {PHONE}
    assert MAIL not in str(small.receiver.messages)


@pytest.mark.parametrize("slug", ["pay-app", "pay-twice"])
def test_every_method_works_with_a_ticket(small: World, slug: str) -> None:
    browser = opened(small, ticket(small, slug).path)
    if slug == "pay-twice":
        browser.prove(PASSWORD)
        browser.post("/verify/method", method="totp")
    browser.prove(small.totp())
    assert results(small) == [f"verified_{slug}"]


def test_r31_looking_at_a_link_changes_nothing(ticketed: World) -> None:
    made = ticket(ticketed, purpose=PURPOSE)
    before = ticketed.rows(TicketRow)
    for number in range(10):
        previewer = ticketed.browser(f"198.51.100.{number}")
        assert previewer.get(link(made.path, "abc")).status_code == 200
        assert previewer.client.head(link(made.path, "abc"), base_url=previewer.base_url).status_code == 200
    assert ticketed.rows(TicketRow) == before
    assert not ticketed.rows(Verification)
    assert opened(ticketed, made.path).path == "/verify"


def test_a_ticket_found_by_reference_needs_no_variable(ticketed: World) -> None:
    made = ticket(ticketed, "pay-waiting", reference="6f1c0f8e", purpose=PURPOSE)
    assert made.path == "/j/pay-waiting"
    browser = ticketed.browser()
    landing = browser.get(link(made.path, "6f1c0f8e"))
    assert PURPOSE in landing.text
    assert 'name="identifier"' not in landing.text
    browser.post(made.path)
    browser.prove(code_for(ticketed, PHONE))
    assert data(ticketed)["phone_match"] == "yes"
    assert ticketed.receiver.callbacks[0].path == "/chat/callback"


def test_a_ticket_is_optional_where_the_journey_does_not_demand_one(small: World) -> None:
    browser = opened(small, ticket(small, "app", customer_id="C-1001").path)
    assert 'name="code"' in browser.page.text
    browser.prove(small.totp())
    assert results(small) == ["verified_app"]
    assert "phone_match" not in data(small)


# -- without one ------------------------------------------------------------------------------------------------


def test_a_link_without_the_ticket_it_needs_answers_unavailable_once(ticketed: World) -> None:
    browser = ticketed.browser()
    page = browser.open("abc", "pay")
    assert "This link is incomplete" in page.text
    assert "POST /api/v1/tickets" in page.text  # for the person who built the flow
    assert 'name="identifier"' not in page.text
    with logged() as log:
        browser.post("/j/pay", identifier="C-1001")
    assert browser.path == "/done"
    assert "ticket_missing" in log.getvalue()
    assert results(ticketed) == ["failed"]
    assert data(ticketed) == {
        "outcome": "unavailable", "journey": "pay", "phone_match": "", "purpose": "", "customer_id": "", "method": "",
        "verified_at": "", **NO_PAYMENT,
    }  # fmt: skip
    assert not ticketed.receiver.messages
    assert not ticketed.rows(Challenge)
    (event,) = [event for event in ticketed.rows(AuditEvent) if event.kind == "verification_ended"]
    assert event.facts["why"] == "ticket_missing"


def test_declining_a_link_without_its_ticket_is_told_as_that(small: World) -> None:
    browser = small.browser()
    browser.open("abc", "pay")
    browser.post("/j/pay", decline="not_me")
    assert data(small)["outcome"] == "not_me"


# -- which reference --------------------------------------------------------------------------------------------


def test_a_ticket_serves_the_first_reference_and_no_other(ticketed: World) -> None:
    made = ticket(ticketed)
    opened(ticketed, made.path, "first")
    other = ticketed.browser()
    other.get(link(made.path, "second"))
    page = other.post(made.path)
    assert page.status_code == 410
    assert "another chat" in page.text
    assert len(ticketed.rows(Verification)) == 1
    again = opened(ticketed, made.path, "first")
    assert again.path == "/verify"


def test_a_ticket_serves_every_later_visit_of_its_reference(ticketed: World) -> None:
    made = ticket(ticketed)
    first = opened(ticketed, made.path)
    code = code_for(ticketed, PHONE)
    second = opened(ticketed, made.path)
    assert len(ticketed.rows(Visit)) == 2
    assert len(ticketed.rows(Challenge)) == 1  # the live code is taken up
    second.post("/verify/cancel", reason="cancelled")
    first.prove(code)
    assert data(ticketed)["outcome"] == "cancelled"
    third = ticketed.browser()
    third.get(link(made.path, "abc"))
    assert "Already done" in third.post(made.path).text
    ticketed.clock.advance(31)
    third.post(made.path)
    third.prove(code_for(ticketed, PHONE))
    assert data(ticketed)["phone_match"] == "yes"


def test_a_browser_that_taps_twice_keeps_its_visit(small: World) -> None:
    made = ticket(small)
    browser = opened(small, made.path)
    browser.get(link(made.path, "abc"))
    browser.post(made.path)
    assert len(small.rows(Visit)) == 1


def test_the_ticket_holds_where_its_reference_comes_by_the_ordinary_link(ticketed: World) -> None:
    made = ticket(ticketed)
    opened(ticketed, made.path)
    other = ticketed.browser()
    landing = other.open("abc", "pay")
    assert "••• 567" in landing.text
    other.name("C-1002")  # says somebody else nonetheless
    other.prove("000000")
    deliver(ticketed)
    assert {message["to"] for message in ticketed.receiver.messages} == {PHONE}
    assert other.page.status_code == 422


def test_a_ticket_opens_no_other_journey(small: World) -> None:
    token = ticket(small).path.rpartition("/")[2]
    assert small.browser().get(link(f"/j/balance/t/{token}", "abc")).status_code == 410
    assert small.browser().get(link(f"/j/nowhere/t/{token}", "abc")).status_code == 404


def test_a_newer_ticket_asks_a_new_question_of_the_same_chat(ticketed: World) -> None:
    """A flow that comes back to its node: the same reference, another purpose."""
    first = ticket(ticketed, purpose="Pay R 5")
    browser = opened(ticketed, first.path)
    ticketed.clock.advance(40)
    second = ticket(ticketed, purpose="Pay R 5000")
    later = opened(ticketed, second.path)
    assert "Pay R 5000" in later.page.text
    assert browser.get("/verify").status_code == 200
    assert browser.path == "/done"
    assert opened_status(ticketed, first.path) == 410  # what was asked before confirms nothing now
    later.prove(code_for(ticketed, PHONE))
    assert len(ticketed.receiver.messages) == 1  # a code of what has ended is not worth its price
    assert "the verification has ended" in {row.reason for row in ticketed.rows(Delivery)}
    assert results(ticketed) == ["verified_pay"]  # and what the newer one replaced told the chat nothing
    assert data(ticketed)["purpose"] == "Pay R 5000"


def opened_status(world: World, path: str, reference: str = "abc") -> int:
    browser = world.browser()
    browser.get(link(path, reference))
    return browser.post(path).status_code


def test_a_ticket_takes_over_from_a_link_without_one(ticketed: World) -> None:
    stranger = ticketed.browser()
    stranger.begin("abc", "app", "C-1002")
    made = ticket(ticketed, "app")
    browser = opened(ticketed, made.path)
    browser.prove(ticketed.totp())
    stranger.get("/verify")
    assert stranger.path == "/done"
    assert results(ticketed) == ["verified_app"]


# -- its clock --------------------------------------------------------------------------------------------------


def test_the_chat_clock_starts_at_the_ticket(ticketed: World) -> None:
    made = ticket(ticketed)
    ticketed.clock.advance(554)
    browser = opened(ticketed, made.path)
    assert browser.path == "/verify"
    (verification,) = ticketed.rows(Verification)
    assert (verification.chat_started_at, verification.chat_ends_at) == (made.created_at, made.ends_at)
    ticketed.clock.advance(1)
    browser.get("/verify")
    assert browser.path == "/done"


def test_past_its_clock_a_link_is_gone(ticketed: World) -> None:
    made = ticket(ticketed)
    early = ticketed.browser()
    early.get(link(made.path, "abc"))
    ticketed.clock.advance(555)
    page = ticketed.browser().get(link(made.path, "abc"))
    assert page.status_code == 410
    assert "Ask for a new link" in page.text
    assert early.post(made.path).status_code == 410
    assert not ticketed.rows(Verification)


def test_a_link_nobody_made_is_gone(small: World) -> None:
    assert small.browser().get(link("/j/pay/t/invented", "abc")).status_code == 410


def test_past_its_clock_a_ticket_by_reference_is_none(small: World) -> None:
    made = ticket(small, "pay-waiting", reference="6f1c0f8e")
    small.clock.advance(555)
    browser = small.browser()
    assert "This link is incomplete" in browser.get(link(made.path, "6f1c0f8e")).text
    browser.post(made.path)
    assert data(small)["outcome"] == "unavailable"


# -- whom it means ----------------------------------------------------------------------------------------------


def test_who_is_typed_nonetheless_must_be_whom_the_ticket_means(ticketed: World) -> None:
    made = ticket(ticketed, "pay-app")
    browser = ticketed.browser()
    browser.get(link(made.path, "abc"))
    browser.post(made.path, identifier="C-1002")
    assert browser.path == "/verify"
    browser.prove(ticketed.totp())
    assert browser.page.status_code == 422  # a stranger's road: nothing is right
    agreed = ticketed.browser()
    agreed.get(link(made.path, "abc"))
    agreed.post(made.path, identifier="c-1001")
    agreed.prove(ticketed.totp())
    assert data(ticketed)["phone_match"] == "yes"


def test_of_several_holders_the_page_asks_which_and_only_they_get_codes(ticketed: World) -> None:
    made = ticket(ticketed, msisdn=SHARED)
    outsider = ticketed.browser()
    assert 'name="identifier"' in outsider.get(link(made.path, "abc")).text
    assert outsider.post(made.path).status_code == 422
    outsider.post(made.path, identifier="C-1001")
    family = ticketed.browser()
    family.get(link(made.path, "abc"))
    family.post(made.path, identifier="C-1003")
    assert [page.page.text.count("••• 234") for page in (outsider, family)] == [0, 0]  # nobody learns who agrees
    deliver(ticketed)
    assert [message["to"] for message in ticketed.receiver.messages] == [SHARED]
    family.prove(ticketed.receiver.code_for(SHARED))
    assert data(ticketed)["customer_id"] == "C-1003"


def test_naming_somebody_else_later_must_agree_too(small: World) -> None:
    made = ticket(small, msisdn=SHARED)
    browser = small.browser()
    browser.get(link(made.path, "abc"))
    browser.post(made.path, identifier="C-1003")
    browser.post("/verify/change")
    browser.post("/verify", identifier="C-1001")
    deliver(small)
    assert {message["to"] for message in small.receiver.messages} == {SHARED}


@pytest.mark.parametrize("when", ["before", "between", "proof"])
def test_a_number_that_is_no_longer_theirs_verifies_nobody(ticketed: World, when: str) -> None:
    made = ticket(ticketed, "pay-app" if when == "proof" else "pay")
    if when == "before":
        move_phone(ticketed)
        browser = opened(ticketed, made.path)
        assert browser.path == "/done"
        assert data(ticketed)["outcome"] == "unavailable"
        return
    browser = opened(ticketed, made.path)
    if when == "proof":
        move_phone(ticketed)
        assert browser.prove(ticketed.totp()).status_code == 422
        return
    code = code_for(ticketed, PHONE)
    move_phone(ticketed)
    ticketed.clock.advance(300)
    browser.get("/verify")
    browser.post("/verify/resend")
    deliver(ticketed)
    assert {message["to"] for message in ticketed.receiver.messages} == {PHONE}
    assert browser.prove(code).status_code == 422


def move_phone(world: World) -> None:
    """Thandi has another number now."""
    number, keyring = e164("083 999 8888", "ZA"), world.services.keyring
    assert number
    with world.database.write() as connection:
        row = next(row.id for row in world.rows(CustomerRow) if row.customer_id == "C-1001")
        values = {"phone_key": keyring.index("phone", number)}
        sealed = keyring.seal(number, CUSTOMER_PHONE, row)
        connection.execute(update(CustomerRow).where(CustomerRow.id == row).values(**values, phone_sealed=sealed))


def test_a_disabled_customer_passes_with_no_ticket(small: World) -> None:
    made = ticket(small)
    with small.database.write() as connection:
        connection.execute(update(CustomerRow).values(is_active=False))
    small.accept()
    opened(small, made.path)
    assert data(small)["outcome"] == "unavailable"


# -- afterwards -------------------------------------------------------------------------------------------------


def test_e3_tickets_are_removed_with_their_verifications(ticketed: World) -> None:
    opened(ticketed, ticket(ticketed, purpose=PURPOSE).path)
    ticket(ticketed)
    ticketed.clock.advance(30 * 86_400)
    assert prune(ticketed.transactions)["tickets"] == 0
    ticketed.clock.advance(601)
    assert prune(ticketed.transactions)["tickets"] == 2
    assert not ticketed.rows(TicketRow)


@pytest.mark.parametrize("msisdn", [PHONE, SHARED])
def test_e3_erasing_somebody_empties_their_tickets_and_lets_nobody_through(ticketed: World, msisdn: str) -> None:
    customer_id = "C-1001" if msisdn == PHONE else "C-1003"
    made = ticket(ticketed, msisdn=msisdn, purpose=PURPOSE)
    browser = ticketed.browser()
    browser.get(link(made.path, "abc"))
    browser.post(made.path, identifier=customer_id)
    code = code_for(ticketed, msisdn)
    if msisdn == SHARED:
        browser.prove(code)
    row = next(row.id for row in ticketed.rows(CustomerRow) if row.customer_id == customer_id)
    ticketed.services.erasure.erase(row)
    (kept,) = ticketed.rows(TicketRow)
    assert (kept.purpose_sealed, kept.phone_sealed, kept.phone_key, kept.customer_row) == (None,) * 4
    if msisdn == PHONE:
        browser.get("/verify")
        browser.post("/verify", identifier="C-1002")
        assert not [message for message in ticketed.receiver.messages if message["to"] != PHONE]
        deliver(ticketed)
        assert {message["to"] for message in ticketed.receiver.messages} == {PHONE}


def test_r42_neither_token_nor_number_nor_purpose_is_logged(small: World) -> None:
    with logged() as log:
        made = ticket(small, purpose=PURPOSE)
        browser = opened(small, made.path)
        browser.prove(code_for(small, PHONE))
        deliver(small)
    token = made.path.rpartition("/")[2]
    for secret in (token, token_hash(token).hex(), PHONE[1:], "Dlamini"):
        assert secret not in log.getvalue()
    assert PURPOSE not in str([event.facts for event in small.rows(AuditEvent)])


def test_the_result_has_the_locale_of_the_ticket_or_else_of_the_customer(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    more = journey("talk", "sms_code") + '[journeys.data]\nlocale = "{{locale}}"\n'
    with open_ticketed(tmp_path, sqlite_url, receiver, STILL, more) as world:
        for reference, locale, expected in (("r-1", "af-ZA", "af-ZA"), ("r-2", "", "en")):
            browser = opened(world, ticket(world, "talk", locale=locale).path, reference)
            browser.prove(code_for(world, PHONE))
            assert data(world)["locale"] == expected


# -- what it costs ----------------------------------------------------------------------------------------------


def test_a_landing_with_a_ticket_needs_one_statement_and_begin_twelve(ticketed: World) -> None:
    made = ticket(ticketed)
    browser = ticketed.browser()
    browser.get(link(made.path, "abc"))
    ticketed.services.journeys._read_at = float("inf")
    with ticketed.statements() as seen:
        browser.get(link(made.path, "abc"))
    assert len(seen) == 1
    with ticketed.statements() as seen:
        browser.post(made.path, follow=False)
    assert len(seen) <= 12, "\n".join(seen)


def test_a_journey_that_demands_a_ticket_may_not_need_e_mail(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    more = """
[[journeys]]
slug = "by-mail"
name = "By mail"
relay_defence = "phone_match"
channels = ["sms", "mail"]
steps = [ { kind = "identify", by = ["customer_id"] }, { kind = "verify", any_of = ["email_code"] } ]
"""
    with pytest.raises(Exception, match="another method in addition to email_code"):
        open_ticketed(tmp_path, sqlite_url, receiver, more=more).__enter__()
