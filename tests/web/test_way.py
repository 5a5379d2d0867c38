"""The customer's way through HTTP: every method, every ending, and what the chat is told."""

from __future__ import annotations

import pytest

from auth_portal.store.models import Attempt, AuditEvent, Challenge, CustomerRow, Delivery, Tries, Verification, Visit
from tests.receiver import Callback, wait_for
from tests.world import MAIL, PASSWORD, PHONE, SHORT_PASSWORD, Browser, World

REFERENCE = "f7_4hn5=8f&%#nK="


def told(world: World, number: int = 1) -> Callback:
    return wait_for(lambda: world.receiver.callbacks[number - 1 : number])[0]


def sent(world: World, to: str) -> str:
    wait_for(lambda: [message for message in world.receiver.messages if message["to"] == to])
    return world.receiver.code_for(to)


def verified(world: World, slug: str = "", reference: str = REFERENCE) -> Browser:
    browser = world.browser()
    browser.begin(reference, slug)
    return browser


def test_sms_code(world: World) -> None:
    browser = verified(world)
    assert browser.path == "/verify"
    browser.prove(sent(world, PHONE))
    assert browser.path == "/done"
    assert "confirmed it's you" in browser.page.text
    callback = told(world)
    assert callback.path == "/callback"
    assert callback.header == REFERENCE
    assert callback.body == {
        "result": "verified",
        "reference": REFERENCE,
        "data": {
            "outcome": "verified",
            "journey": "balance",
            "customer_id": "C-1001",
            "method": "sms_code",
            "verified_at": "2026-11-22T12:00:00Z",
        },
    }


def test_email_code(world: World) -> None:
    browser = verified(world, "mail")
    browser.prove(sent(world, MAIL))
    assert told(world).body["data"]["method"] == "email_code"
    message = world.receiver.messages[-1]
    assert message["subject"].startswith(message["text"].split()[0])
    assert "Never share this code" in message["text"]


def test_totp(world: World) -> None:
    browser = verified(world, "app")
    browser.prove(world.totp())
    assert told(world).body["result"] == "verified_app"


def test_password(world: World) -> None:
    browser = verified(world, "password")
    browser.prove(PASSWORD)
    assert told(world).body["data"]["method"] == "password"


def test_password_then_code_shows_where_it_went_only_after_the_first_proof(world: World) -> None:
    browser = verified(world, "transfer")
    assert "567" not in browser.page.text
    browser.prove(PASSWORD)
    assert browser.path == "/verify"
    browser.post("/verify/method", method="sms_code")
    assert "••• 567" in browser.page.text
    browser.prove(sent(world, PHONE))
    data = told(world).body["data"]
    assert (data["method"], data["customer_id"]) == ("sms_code", "C-1001")


def test_a_choice_of_methods_sends_nothing_yet(world: World) -> None:
    browser = verified(world, "either")
    assert 'value="email_code"' in browser.page.text
    assert not world.rows(Delivery)
    browser.post("/verify/method", method="totp")
    browser.prove(world.totp())
    assert browser.path == "/done"


def test_wait_for_callback_contract(world: World) -> None:
    browser = verified(world, "waiting", "6f1c0a52-7b52-4d7e-9d6a-3f8f0c0c4b11")
    browser.prove(world.totp())
    callback = told(world)
    assert callback.path == "/chat/callback"
    wait_for(lambda: world.rows(Delivery)[-1].state == "accepted")


def test_chat_code_is_shown_to_the_deciding_browser_only(world: World) -> None:
    sender = world.browser()
    sender.begin(REFERENCE, "code-back", identifier="C-9999")
    victim = verified(world, "code-back")
    victim.prove(sent(world, PHONE))
    body = told(world).body
    assert body["result"] == "check_code_code-back"
    code = body["data"]["chat_code"]
    assert len(code) == 6
    assert code in victim.page.text.replace(" ", "")
    assert code not in sender.get("/done").text.replace(" ", "")


def test_five_wrong_tries_end_it(world: World) -> None:
    browser = verified(world)
    right = sent(world, PHONE)
    wrong = f"{(int(right) + 1) % 10**6:06d}"
    for left in (4, 3, 2, 1):
        page = browser.prove(wrong)
        assert page.status_code == 422
        assert f"{wrong[:3]} {wrong[3:]}</bdi> isn't the code." in page.text
        assert f"{left} tr" in (page.text if left <= 2 else browser.help())
    browser.prove(wrong)
    assert browser.path == "/done"
    assert told(world).body == {
        "result": "failed",
        "reference": REFERENCE,
        "data": {"outcome": "wrong", "journey": "balance", "customer_id": "", "method": "", "verified_at": ""},
    }
    assert browser.get("/verify").request.path == "/done"


@pytest.mark.parametrize("typed", ["", "12345", "1234567", "abcdef", "１２３４５", "12 34 5"])
def test_what_cannot_be_a_code_costs_no_try(small_world: World, typed: str) -> None:
    browser = verified(small_world)
    page = browser.prove(typed)
    assert page.status_code == 422
    assert "5 tries" in browser.help()


def test_spaces_and_dashes_are_forgiven(small_world: World) -> None:
    browser = verified(small_world)
    code = sent(small_world, PHONE)
    browser.prove(f" {code[:3]}-{code[3:]} ")
    assert browser.path == "/done"


def test_a_double_tap_costs_one_try(small_world: World) -> None:
    browser = verified(small_world)
    form = browser.hidden("/verify")
    sent(small_world, PHONE)
    assert browser.prove("000000", follow=False).status_code == 422
    again = browser.post("/verify", follow=False, code="000000", **form)
    assert (again.status_code, "That didn't work. Try again." in again.text) == (422, True), "the first page is lost"
    assert "4 tries" in browser.help()


def test_a_second_tap_after_a_right_password_shows_the_next_step_without_a_fault(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin(REFERENCE, "transfer")
    browser.prove("wrong", follow=False)
    form = browser.hidden("/verify")
    browser.prove(PASSWORD)
    assert 'name="code"' in browser.post("/verify/method", method="sms_code").text
    again = browser.post("/verify", follow=False, password=PASSWORD, **form)
    assert again.status_code == 303
    assert "That didn't work" not in browser.get(again.headers["Location"]).text


@pytest.mark.parametrize("reason", ["cancelled", "not_me", "no_code"])
def test_the_person_ends_it(world: World, reason: str) -> None:
    browser = verified(world)
    browser.post("/verify/cancel", reason=reason)
    assert browser.path == "/done"
    assert told(world).body["data"]["outcome"] == reason


def test_declining_on_the_landing_page_begins_and_ends(world: World) -> None:
    browser = world.browser()
    browser.open(REFERENCE)
    browser.post("/", decline="not_me", identifier="")
    assert browser.path == "/done"
    assert told(world).body["data"]["outcome"] == "not_me"


def test_nobody_walks_off(world: World) -> None:
    verified(world)
    world.clock.advance(494)
    assert not world.receiver.callbacks
    world.clock.advance(2)
    assert told(world).body["data"]["outcome"] == "expired"
    (verification,) = world.rows(Verification)
    assert verification.outcome == "expired"


def test_expired_while_typing(small_world: World) -> None:
    browser = verified(small_world)
    code = sent(small_world, PHONE)
    small_world.clock.advance(496)
    browser.prove(code)
    assert browser.path == "/done"
    assert told(small_world).body["data"]["outcome"] == "expired"


def test_a_page_that_is_overdue_says_so_before_anybody_ended_it(small_world: World) -> None:
    browser = verified(small_world)
    small_world.services.dispatcher.stop()
    small_world.clock.advance(496)
    page = browser.get("/verify")
    assert browser.path == "/done"
    assert page.status_code == 200
    assert not [row for row in small_world.rows(Verification) if row.outcome]


def test_a_form_older_than_its_clock_is_gone(small_world: World) -> None:
    browser = small_world.browser()
    browser.open(REFERENCE)
    small_world.clock.advance(496)
    assert browser.name("C-1001").status_code == 410


def test_change_leads_back_and_tells_flow_nothing(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin(REFERENCE, identifier="082 123 4568")
    assert "082 123 4568" in browser.page.text
    browser.post("/verify/change")
    assert 'name="identifier"' in browser.page.text
    browser.post("/verify", identifier="082 123 4567")
    browser.prove(sent(small_world, PHONE))
    assert browser.path == "/done"
    assert len(small_world.receiver.callbacks) <= 1
    assert told(small_world).body["data"]["customer_id"] == "C-1001"


def test_changes_of_person_are_counted(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin(REFERENCE, identifier="C-1")
    for number in range(5):
        browser.post("/verify/change")
        browser.post("/verify", identifier=f"C-2{number}")
    assert "/verify/change" not in browser.page.text
    form = browser.hidden("/verify/cancel")
    assert browser.client.post("/verify/change", data=form, base_url=browser.base_url).status_code == 422
    other = small_world.browser()
    assert other.begin(REFERENCE, identifier="C-1001").status_code == 429


def test_reopening_takes_up_the_live_code(small_world: World) -> None:
    verified(small_world)
    code = sent(small_world, PHONE)
    other = verified(small_world)
    other.prove(code)
    assert other.path == "/done"
    assert len(small_world.receiver.messages) == 1
    assert len(small_world.rows(Verification)) == 1
    assert len(small_world.rows(Visit)) == 2


def test_the_back_button_keeps_what_was_proved(small_world: World) -> None:
    browser = verified(small_world, "transfer")
    browser.prove(PASSWORD)
    browser.begin(REFERENCE, "transfer")
    assert browser.path == "/verify"
    assert "Step 2 of 2" in browser.page.text
    assert len(small_world.rows(Visit)) == 1


def test_another_browser_inherits_nothing(small_world: World) -> None:
    verified(small_world, "transfer").prove(PASSWORD)
    other = verified(small_world, "transfer")
    assert 'name="password"' in other.page.text


def test_two_links_in_one_browser(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin("first-link", "app")
    form = browser.hidden("/verify")
    browser.begin("second-link", "app")
    assert browser.post("/verify", follow=False, code=small_world.totp(), **form).status_code == 303
    assert [row.outcome for row in small_world.rows(Verification)] == ["verified", None]
    assert told(small_world).header == "first-link"
    small_world.clock.advance(31)  # a code of the app works once
    browser.get("/verify")
    browser.prove(small_world.totp())
    assert told(small_world, 2).header == "second-link"


def test_an_ended_link_offers_to_start_again(world: World) -> None:
    browser = verified(world, "app")
    browser.post("/verify/cancel", reason="cancelled")
    told(world)
    page = world.browser().begin(REFERENCE, "app")  # as in another browser
    assert page.status_code == 200
    assert "Start again" in page.text
    assert "Start again" in browser.open(REFERENCE, "app").text
    browser.post("/j/app", again="1", identifier="C-1001")
    browser.prove(world.totp())
    assert told(world, 2).body["result"] == "verified_app"
    assert len(world.rows(Verification)) == 2


def test_a_late_first_result_never_answers_the_second_round(world: World) -> None:
    world.receiver.answers = [503, 503, 503]
    browser = verified(world, "app")
    browser.post("/verify/cancel", reason="cancelled")
    wait_for(lambda: len(world.receiver.callbacks) >= 2)
    browser.open(REFERENCE, "app")
    browser.post("/j/app", again="1", identifier="C-1001")
    first = next(row for row in world.rows(Delivery) if row.kind == "callback")
    assert first.state == "superseded"
    world.receiver.answers = []
    so_far = len(world.receiver.callbacks)
    world.clock.advance(60)
    browser.get("/verify")
    browser.prove(world.totp())
    last = wait_for(lambda: world.receiver.callbacks[so_far:])[0]
    assert last.body["result"] == "verified_app"
    assert all(call.body["result"] == "verified_app" for call in world.receiver.callbacks[so_far:])


def test_resend_waits_and_repeats_the_code(small_world: World) -> None:
    browser = verified(small_world)
    first = sent(small_world, PHONE)
    page = browser.post("/verify/resend")
    assert page.status_code == 429
    assert int(page.headers["Retry-After"]) == 30
    small_world.clock.advance(30)
    browser.post("/verify/resend")
    wait_for(lambda: len(small_world.receiver.messages) == 2)
    assert small_world.receiver.code_for(PHONE) == first
    small_world.clock.advance(59)
    browser.get("/verify")
    assert browser.post("/verify/resend").status_code == 429
    small_world.clock.advance(100)
    browser.get("/verify")
    browser.post("/verify/resend")
    wait_for(lambda: len(small_world.receiver.messages) == 3)
    second = small_world.receiver.code_for(PHONE)
    assert second != first
    page = browser.prove(first)
    assert "older code" in page.text
    assert "5 tries" in browser.help()
    small_world.clock.advance(61)
    browser.get("/verify")
    assert browser.post("/verify/resend").status_code in (303, 422) if "/verify/resend" in browser.page.text else True
    browser.get("/verify")
    browser.prove(second)
    assert browser.path == "/done"


def test_a_password_pasted_with_blanks_is_right_and_a_wrong_one_costs_one_try(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin(REFERENCE, "password")
    assert browser.prove(" wrong horse battery staple ").status_code == 422
    (row,) = small_world.rows(Verification)
    assert row.wrong_tries == 1
    assert [counted.total for counted in small_world.rows(Tries)] == [1]
    browser.prove(f" {PASSWORD}\u00a0")
    assert browser.path == "/done"


def test_blanks_make_no_short_password_long(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin(REFERENCE, "transfer", identifier="C-1002")
    browser.prove(f"{SHORT_PASSWORD}{' ' * 20}")
    assert "Step 2 of 2" in browser.page.text
    row = small_world.services.customers.row_of("C-1002")
    assert not next(one for one in small_world.rows(CustomerRow) if one.id == row).password_is_long


def test_short_password_does_not_stand_alone(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin(REFERENCE, "password", identifier="C-1002")
    assert browser.prove(SHORT_PASSWORD).status_code == 422
    other = small_world.browser()
    other.begin("another", "transfer", identifier="C-1002")
    other.prove(SHORT_PASSWORD)
    assert other.path == "/verify"
    assert "Step 2 of 2" in other.page.text


@pytest.mark.parametrize(
    ("answers", "state", "attempts", "fates"),
    [
        ([200], "accepted", 1, ["accepted"]),
        ([400], "refused", 1, ["refused"]),
        ([500, 503, 429, 200], "accepted", 4, ["retry", "retry", "retry", "accepted"]),
        (["close", 400], "unconfirmed", 2, ["unclear", "refused"]),
        (["close", 200], "accepted", 2, ["unclear", "accepted"]),
        ([302], "refused", 1, ["refused"]),
    ],
)
def test_what_the_receiver_answers(
    world: World, answers: list[int | str], state: str, attempts: int, fates: list[str]
) -> None:
    world.receiver.answers = list(answers)
    browser = verified(world, "app")
    browser.prove(world.totp())

    def is_over() -> bool:
        world.clock.advance(0.3)
        return next(row.state for row in world.rows(Delivery) if row.kind == "callback") != "pending"

    wait_for(is_over)
    assert next(row.state for row in world.rows(Delivery) if row.kind == "callback") == state
    assert len(world.receiver.callbacks) == attempts
    assert len({call.raw for call in world.receiver.callbacks}) == 1
    recorded = sorted(world.rows(Attempt), key=lambda row: row.number)
    assert [row.fate for row in recorded] == fates
    assert all(row.milliseconds is not None for row in recorded)


def test_a_closed_journey_answers_unavailable(small_world: World) -> None:
    from sqlalchemy import update

    from auth_portal.store.models import Journey, Portal

    with small_world.database.write() as connection:
        connection.execute(update(Journey).where(Journey.slug == "app").values(is_active=False))
        connection.execute(update(Portal).values(version=Portal.version + 1))
    small_world.accept()
    small_world.services.journeys._read_at = 0.0
    browser = small_world.browser()
    browser.open(REFERENCE, "app")
    assert "We can't verify you right now" in browser.page.text
    browser.post("/j/app", identifier="")
    assert told(small_world).body["data"]["outcome"] == "unavailable"


def test_another_identifier_that_cannot_be_read_is_asked_for_again(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin("one", "app")
    browser.post("/verify/change")
    for typed in ("", "   "):
        page = browser.post("/verify", follow=False, identifier=typed)
        assert page.status_code == 422
        assert 'name="identifier"' in page.text


def test_a_move_by_the_form_of_an_older_page_changes_nothing(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin("one", "either")
    browser.post("/verify/method", method="sms_code")
    old = {**browser.hidden("/verify"), "reason": "cancelled", "method": "sms_code"}

    def answers() -> set[tuple[int, str]]:
        moves = [f"/verify/{name}" for name in ("method", "resend", "change", "cancel")]
        posted = [browser.client.post(move, data=old, base_url=browser.base_url) for move in moves]
        return {(one.status_code, one.headers["Location"].partition("?")[0]) for one in posted}

    browser.post("/verify/method", method="totp")
    (before,) = small_world.rows(Visit)
    assert answers() == {(303, "/verify")}
    assert small_world.rows(Visit) == [before]
    browser.post("/verify/cancel", reason="cancelled")
    assert answers() == {(303, "/done")}


def test_a_move_that_no_page_offers_is_refused(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin("one", "either")
    assert browser.post("/verify/method", follow=False, method="password").status_code == 422
    assert browser.post("/verify/cancel", follow=False, reason="another").status_code == 400
    (verification,) = small_world.rows(Verification)
    assert verification.outcome is None


def test_a_code_that_cannot_be_sent_again_is_not_and_the_page_says_so(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin("one")
    for _ in range(2):
        small_world.clock.advance(60)
        browser.get("/verify")
        assert browser.post("/verify/resend", follow=False).status_code == 303
    small_world.clock.advance(60)
    browser.get("/verify")
    form = browser.hidden("/verify/cancel")
    assert browser.client.post("/verify/resend", data=form, base_url=browser.base_url).status_code == 422
    assert [event.kind for event in small_world.rows(AuditEvent)].count("code_resent") == 2


def test_a_code_with_half_of_its_life_left_is_replaced(small_world: World) -> None:
    browser = small_world.browser()
    browser.begin("one")
    (code,) = small_world.rows(Challenge)
    small_world.clock.advance((code.expires_at - code.issued_at).total_seconds() / 2)
    browser.get("/verify")
    browser.post("/verify/resend")
    assert [row.replaced_at is None for row in small_world.rows(Challenge)] == [False, True]
