"""Stories of verifications, told of real ones that were played through HTTP; and finding them again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, text, update

from auth_portal.errors import NotFound
from auth_portal.services.history.stories import LIVE, Stories, Story, StoryFilter
from auth_portal.services.history.words import span
from auth_portal.services.verification.case import MOST_EVENTS
from auth_portal.store.models import COMMON_KINDS, AuditEvent, CustomerRow, Delivery, Verification
from tests.receiver import Receiver, wait_for
from tests.security.tools import STILL, deliver
from tests.ticketed import SHARED, link, open_ticketed, ticket
from tests.web.test_way import sent, told, verified
from tests.world import MAIL, PASSWORD, PHONE, World, journey, open_world

REFERENCE = "f7_4hn5=8f&%#nK="


def settled(world: World) -> None:
    """Waits until nothing is on its way any more."""
    wait_for(lambda: all(row.ended_at is not None for row in world.rows(Delivery)))


def story(world: World, number: int = -1) -> Story:
    """The story of a verification, once nothing is on its way; the newest by default."""
    settled(world)
    rows = sorted(world.rows(Verification), key=lambda row: row.began_at)
    return world.services.stories.get(rows[number].id)


def text_of(found: Story) -> str:
    return "\n".join(
        [
            found.headline,
            found.in_short,
            found.reference,
            *(one.text for one in found.moments),
            *(one.text for one in found.timeline),
        ]
    )


def disable(world: World, customer_id: str = "C-1001") -> None:
    with world.database.write() as connection:
        connection.execute(update(CustomerRow).where(CustomerRow.customer_id == customer_id).values(is_active=False))
    world.accept()


def wrong(code: str, by: int = 1) -> str:
    return f"{(int(code) + by) % 10 ** len(code):0{len(code)}d}"


def test_the_whole_way_in_one_sentence(world: World) -> None:
    browser = verified(world)
    code = sent(world, PHONE)
    settled(world)
    world.clock.advance(60)
    browser.prove(wrong(code))
    browser.prove(wrong(code, 2))
    world.clock.advance(65)
    browser.prove(code)
    told(world)
    found = story(world)
    pattern = (
        r"Began 12:00:00, SMS handed to channel “sms” in (?:less than )?\d\.\d s, two wrong codes, verified 12:02:05, "
        r"chat informed in (?:less than )?\d\.\d s with 6 min 55 s left\."
    )
    assert re.fullmatch(pattern, found.headline), found.headline
    assert (found.customer_id, found.outcome, found.journey) == ("C-1001", "verified", "Balance")
    texts = [moment.text for moment in found.moments]
    assert "Typed C-•••01: customer C-1001." in texts
    assert "SMS handed to channel “sms” to ••• 567." in texts
    assert "Two wrong codes (SMS code)." in texts
    assert "Verified with SMS code." in texts
    assert any("The chat received “verified”" in text for text in texts)
    assert [moment.at for moment in found.moments] == sorted(moment.at for moment in found.moments)


def test_r42_no_story_shows_a_code_a_whole_reference_or_a_contact(world: World) -> None:
    browser = verified(world, "either")
    browser.post("/verify/method", method="sms_code")
    codes = [sent(world, PHONE)]
    browser.post("/verify/change")
    browser.name(PHONE)
    browser.post("/verify/method", method="email_code")
    wait_for(lambda: [message for message in world.receiver.messages if message["to"] == MAIL])
    codes.append(world.receiver.code_for(MAIL))
    browser.prove(codes[1])
    told(world)
    found = story(world)
    shown = text_of(found)
    assert found.reference == "f7_•••nK="
    for secret in (*codes, REFERENCE, PHONE, PHONE[3:], MAIL, MAIL.split("@")[0]):
        assert secret not in shown
    assert "t•••@example.com" in shown
    assert "Chose: SMS code." in shown
    assert "Went back to change who they are.\n" in shown
    assert "Another name was given. Typed ••• 567: customer C-1001." in shown


def events(world: World) -> list[tuple[str, dict[str, Any]]]:
    """What the audit has of the moves, without the ids of visits."""
    rows = sorted(world.rows(AuditEvent), key=lambda row: row.id)
    facts = [(row.kind, {name: value for name, value in row.facts.items() if name != "visit"}) for row in rows]
    return [(kind, said) for kind, said in facts if kind in COMMON_KINDS]


def every_move(world: World, identifier: str) -> None:
    """Chooses, asks for the code again, goes back, names another and the same, opens the link again in two browsers."""
    browser = world.browser()
    browser.begin(REFERENCE, "either", identifier)
    world.clock.advance(1)
    browser.post("/verify/method", method="sms_code")
    world.clock.advance(31)
    browser.post("/verify/resend")
    for _number in range(2):
        world.clock.advance(1)
        browser.post("/verify/change")
        world.clock.advance(1)
        browser.name("C-1002")
    world.clock.advance(1)
    browser.begin(REFERENCE, "either", identifier="C-1002")
    world.clock.advance(1)
    world.browser().begin(REFERENCE, "either", identifier=identifier)
    settled(world)


def test_r42_every_move_has_an_event_and_the_story_tells_it(world: World) -> None:
    every_move(world, "C-1001")
    assert events(world) == [
        ("verification_began", {"journey": "either"}),
        ("method_chosen", {"method": "sms_code", "code": "sent"}),
        ("code_resent", {"method": "sms_code", "is_new": False}),
        ("name_taken_back", {}),
        ("named_again", {"is_other": True}),
        ("name_taken_back", {}),
        ("named_again", {"is_other": False}),
        ("verification_joined", {"is_new_visit": False}),
        ("verification_joined", {"is_new_visit": True, "is_other": True}),
    ]
    texts = [moment.text for moment in story(world).moments]
    for expected in (
        "Typed •••: customer C-1001.",
        "Chose: SMS code.",
        "Asked for the code again: the same code was sent once more.",
        "Another name was given. Typed •••: customer C-1002.",
        "The same name was given again. Typed C-•••02: customer C-1002.",
        "The same browser sent its first form again, as a double tap does; it went on where it was.",
        "The link was opened again. Typed C-•••01: customer C-1001.",
    ):
        assert expected in texts, (expected, texts)
    subjects = {row.customer_id: row.subject_id for row in world.rows(CustomerRow)}
    named = [row.subject_id for row in world.rows(AuditEvent) if row.kind in ("named_again", "verification_joined")]
    assert set(named) == {subjects["C-1001"], subjects["C-1002"]}


def test_r24_a_stranger_leaves_the_same_events(world: World) -> None:
    every_move(world, "C-1001")
    known = events(world)
    with world.database.write() as connection:
        connection.execute(text("DELETE FROM audit_events"))
        connection.execute(text("UPDATE verifications SET reference_hash = 'x', outcome = 'cancelled'"))
    every_move(world, "C-9999")
    assert events(world) == known


def test_a_verification_from_before_its_moves_had_events_is_told(world: World) -> None:
    every_move(world, "C-1001")
    with world.database.write() as connection:
        connection.execute(delete(AuditEvent).where(AuditEvent.kind.not_in(["verification_began"])))
    texts = [moment.text for moment in story(world).moments]
    assert "Typed C-•••02: customer C-1002." in texts
    assert "The link was opened again. Typed C-•••01: customer C-1001." in texts
    assert "The name was changed afterwards: two times. The last one is shown." in texts


def test_a_name_that_was_taken_back_and_no_other_given_is_told(world: World) -> None:
    browser = verified(world, "app")
    browser.post("/verify/change")
    found = story(world)
    assert "went back and gave no name" in found.headline


def test_a_customer_who_was_named_and_erased_since_is_told(world: World) -> None:
    every_move(world, "C-1001")
    world.services.erasure.erase(world.services.customers.row_of("C-1002"))
    texts = [moment.text for moment in story(world).moments]
    assert "Another name was given. That was a customer who has been erased since." in texts


def test_why_no_code_came_is_told(world: World) -> None:
    """The link opened again takes up the code that lives; and after three messages there is none left to send."""
    browser = verified(world, "either")
    browser.post("/verify/method", method="sms_code")
    again = verified(world, "either")
    again.post("/verify/method", method="sms_code")
    for _number in range(2):
        world.clock.advance(61)
        again.post("/verify/resend")
    again.post("/verify/method", method="email_code")
    found = story(world)
    texts = [moment.text for moment in found.moments]
    assert "Chose: SMS code. The code sent before was still valid, so no other one was sent." in texts
    assert any(text.startswith("Chose: email code. No code was sent: this chat had used up") for text in texts), texts
    assert "no code sent: all messages used up" in found.headline


def advised(world: World, number: int = -1) -> str:
    """The whole story with what helps."""
    return with_help(story(world, number))


def with_help(found: Story) -> str:
    texts = [moment.text for moment in found.moments]
    return " ".join([*texts, f"Now: {found.help.now} Then: {found.help.then} For all: {found.help.for_all}"])


def test_each_hard_case_says_what_support_can_do(small_world: World) -> None:
    """Why the customer saw nothing, and what helps now, then, and for all customers."""
    world = small_world
    world.browser().begin("stranger", identifier="C-9999")
    assert "Now: Compare what was typed with what is on file. Then: The customer goes on with the same" in advised(
        world
    )
    world.clock.advance(1)
    world.browser().begin("shared", identifier="0845551234")
    assert "Now: Ask for their customer ID: a contact that several share names none of them." in advised(world)
    world.clock.advance(1)
    world.services.customers.change(world.services.customers.row_of("C-1002"), {"phone": "+447911123456"})
    world.browser().begin("abroad", identifier="C-1002")
    assert "For all: The channel doesn't send to this country. An owner can add it." in advised(world)
    assert (story(world).help.act_for_all, story(world).help.channel) == ("channel", "sms")
    world.clock.advance(1)
    world.receiver.sms_answers = [403]
    verified(world, "balance", "refused")
    assert "For all: Channel “sms” has accepted nothing since 12:00:03. An owner can fix it." in advised(world)
    world.clock.advance(1)
    browser = verified(world, "app", "refused-answer")
    world.receiver.answers = [400]
    browser.prove(world.totp())
    assert "Now: Ask whether the chat continued. Then: If it did not, they ask for a new link" in advised(world)
    world.clock.advance(1)
    verified(world, "app", "late")
    configuration_off(world, "app")
    assert "The journey has been switched off since; a verification that had begun may finish." in advised(world)
    world.clock.advance(500)
    world.services.verifications.endings.expire_due()
    assert "Now: Nothing needs to be fixed: there was not enough time. Then: Ask the customer to start" in advised(
        world
    )


def test_a_refused_code_is_read_out_and_a_temporary_one_takes_its_place(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    """The caller hears what happened to them; support does what helps now, and an owner what helps everyone."""
    with open_world(tmp_path, sqlite_url, receiver, config=journey("desk", "sms_code|support_code")) as world:
        browser = verified(world, "desk")
        for seconds in (0, 62):
            world.clock.advance(seconds)
            receiver.sms_answers = [401]
            browser.post("/verify/resend") if seconds else browser.post("/verify/method", method="sms_code")
            settled(world)
        world.clock.advance(495 - 62)
        world.services.verifications.endings.expire_due()
        found = story(world)
        assert found.in_short == (
            "You asked for an SMS code twice. Our SMS provider refused both. So no code reached your phone. "
            "After 8 min 15 s the time ran out and the chat got “failed”. You did nothing wrong."
        )
        assert found.help.now == (
            "Make sure who is calling, then read out a temporary code. It takes the place of the SMS code."
        )
        assert (found.help.act, found.help.channel) == ("code", "sms")
        assert found.help.for_all == "Channel “sms” has accepted nothing since 12:00:00. An owner can fix it."
        marks = [(mark.name, mark.place) for mark in found.clock]
        assert marks == [
            ("began", 0), ("not_sent", 0), ("not_sent", 11.48), ("ended", 91.67), ("last", 91.67), ("closes", 100),
        ]  # fmt: skip
        browser = verified(world, "desk", "next")
        browser.post("/verify/method", method="sms_code")
        settled(world)
        world.clock.advance(20)
        assert story_now(world).in_short == (
            "You asked for an SMS code. Our SMS provider accepted it. It isn't over: you have 7 min 55 s left."
        )
        assert story_now(world).help.for_all == ""


def test_a_refusal_no_longer_matters_once_the_next_message_left(small_world: World) -> None:
    small_world.receiver.sms_answers = [400]
    browser = verified(small_world)
    settled(small_world)
    assert story_now(small_world).help.act == "customer"
    small_world.clock.advance(31)
    browser.post("/verify/resend")
    found = story(small_world)
    assert (found.help.now, found.help.act) == ("Nothing needs to be done yet.", "")
    assert found.in_short.startswith(
        "You asked for an SMS code twice. Our SMS provider refused one of them. Our SMS provider accepted one of them."
    )


def test_what_is_read_out_says_you_and_shows_nothing_that_is_masked(small_world: World) -> None:
    world = small_world
    world.browser().begin("stranger", identifier="0722999107")
    assert story(world).in_short.startswith(
        "You typed ••• 107, which isn't on file with us. You asked for an SMS code."
    )
    world.clock.advance(1)
    browser = verified(world, "password", "wrong")
    for _number in range(2):
        browser.prove("not this one at all")
    browser.post("/verify/cancel", reason="cancelled")
    found = story(world)
    assert (
        found.in_short
        == "You entered two wrong passwords. After less than 0.1 s you stopped and the chat got “failed”."
    )
    assert found.help.now == "Nothing needs to be fixed: the customer stopped."
    world.clock.advance(1)
    world.receiver.answers = [400]
    browser = verified(world, "app", "unheard")
    browser.prove(world.totp())
    found = story(world)
    assert found.in_short.endswith(
        "you had proved who you are. The answer didn't reach the chat. You did nothing wrong."
    )
    disable(world)
    world.clock.advance(1)
    verified(world, "app", "off")
    assert story(world).in_short.startswith("Your access is switched off.")


def test_r42_a_right_proof_after_which_nothing_is_left_is_recorded_and_told(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    """Sipho proves his SMS code and has no app, so that the second step has nothing that is not used yet (R37)."""
    twice = journey("twice", "sms_code", "sms_code|totp")
    with open_world(tmp_path, sqlite_url, receiver, config=twice) as world:
        browser = world.browser()
        browser.begin("r-1", "twice", "C-1002")
        wait_for(lambda: len(receiver.messages) == 1)
        browser.prove(receiver.code_for("+27831234567"))
        found = story(world)
        assert [kind for kind, _facts in events(world)].count("step_passed") == 1
    assert "SMS code proved, nothing on file for the next step" in found.headline
    assert found.help.now == "Make sure who is calling, then set up what is missing on their page."
    assert found.in_short.startswith(
        "You asked for an SMS code. Our SMS provider accepted it. Your SMS code was right."
    )
    assert "We couldn't go on, because you have nothing on file for the next step and the chat got" in found.in_short


def test_the_last_answer_is_told_of_a_callback_that_was_given_up(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as world:
        browser = verified(world, "app")
        receiver.answers = [429] * 50
        browser.prove(world.totp())
        while any(row.ended_at is None for row in world.rows(Delivery)):
            world.clock.advance(30)
            deliver(world)
        assert re.search(r"given up after \w+ tries, the last one: HTTP 429\.", advised(world)), advised(world)


def test_a_ticket_that_was_replaced_is_not_told_as_a_cancelling(ticketed: World) -> None:
    for _number in range(2):
        browser = ticketed.browser()
        browser.get(link(ticket(ticketed).path, "abc"))
        browser.post(browser.path)
        settled(ticketed)
        ticketed.clock.advance(5)
    found = story(ticketed, 0)
    assert "replaced by a newer ticket 12:00:05" in found.headline
    assert "cancelled" not in found.headline
    assert "The ticket names customer C-1001." in [moment.text for moment in found.moments]
    assert (found.help.now, found.help.act) == ("See all verifications of this link. The newest one counts.", "link")


def test_moves_without_end_do_not_fill_the_audit(small_world: World) -> None:
    browser = verified(small_world, "either")
    for number in range(60):
        browser.post("/verify/method", method="totp" if number % 2 else "email_code")
    assert len(events(small_world)) == MOST_EVENTS
    for guess in range(5):
        browser.prove(wrong(small_world.totp(), guess + 1))
    kinds = [kind for kind, _facts in events(small_world)]
    assert (kinds.count("proof_failed"), kinds.count("verification_ended")) == (5, 1)
    assert any("Not every move was recorded" in moment.text for moment in story(small_world).moments)


def test_a_short_reference_is_not_shown_at_all(small_world: World) -> None:
    verified(small_world, "app", "ab12")
    assert story(small_world).reference == "•••"


def test_the_password_and_then_a_code(world: World) -> None:
    browser = verified(world, "transfer")
    browser.prove("not this one at all")
    world.clock.advance(1)
    browser.prove(PASSWORD)
    browser.post("/verify/method", method="totp")
    browser.prove(world.totp())
    told(world)
    found = story(world)
    assert "one wrong password, password proved, verified 12:00:01, chat informed in" in found.headline
    assert "Verified with password and authenticator app." in [moment.text for moment in found.moments]


def test_r24_a_stranger_is_told_to_the_admin(world: World) -> None:
    browser = world.browser()
    browser.begin(REFERENCE, identifier="C-9999")
    browser.prove("123456")
    found = story(world)
    assert "typed what matches no customer" in found.headline
    assert "no SMS sent: no customer matches what was typed" in found.headline
    assert "one wrong code" in found.headline
    texts = " ".join(moment.text for moment in found.moments)
    assert "Typed C-•••99: no customer matches. The page does not show that." in texts
    assert "It could not be right" in texts
    assert found.customer_id == ""


def test_r24_a_contact_that_several_share_is_told(world: World) -> None:
    world.browser().begin(REFERENCE, identifier="0845551234")
    texts = " ".join(moment.text for moment in story(world).moments)
    assert "Typed ••• 234, which several customers share" in texts
    assert "No SMS was sent: several customers share what was typed" in texts
    assert [moment.seconds for moment in story(world).moments if "No SMS was sent" in moment.text] == [None]


def test_r24_a_missing_contact_is_told(world: World) -> None:
    world.browser().begin(REFERENCE, "mail", identifier="C-1002")
    assert "no email sent: customer C-1002 has no email address on file" in story(world).headline


def test_r24_a_missing_credential_is_told(world: World) -> None:
    browser = world.browser()
    browser.begin(REFERENCE, "app", identifier="C-1002")
    browser.prove("123456")
    assert "one wrong code (nothing on file)" in story(world).headline


def test_r24_a_disabled_customer_is_told(world: World) -> None:
    disable(world)
    browser = verified(world)
    assert "no SMS sent: customer C-1001 is disabled" in story(world).headline
    browser.prove("123456")
    assert "one wrong code (customer disabled)" in story(world).headline


def test_r6_spent_tries_are_told(world: World) -> None:
    for number in range(3):
        browser = verified(world, "app", f"spent-{number}")
        for guess in range(5):
            browser.prove(wrong(world.totp(), guess + 1))
    browser = verified(world, "app", "at-last")
    browser.prove(world.totp())
    found = story(world)
    assert "one wrong code (tries used up before)" in found.headline
    assert "It counted as wrong whatever it was" in " ".join(moment.text for moment in found.moments)


def test_spent_tries_send_nothing_and_the_story_says_so(world: World) -> None:
    for number in range(3):
        browser = verified(world, "balance", f"spent-{number}")
        code = sent(world, PHONE)
        for guess in range(5):
            browser.prove(wrong(code, guess + 1))
    world.clock.advance(1)
    verified(world, "balance", "at-last")
    assert "no SMS sent: the customer's tries with this method are used up" in story(world).headline


def test_the_destination_limit_is_told(world: World) -> None:
    for number in range(5):
        verified(world, "balance", f"many-{number}")
        wait_for(lambda: len(world.receiver.messages) == number + 1)  # noqa: B023
    world.clock.advance(1)
    verified(world, "balance", "one-more")
    assert "no SMS sent: this contact had got as many messages as one may in an hour or a day" in story(world).headline


def test_all_tries_wrong(world: World) -> None:
    browser = verified(world, "app")
    for guess in range(5):
        browser.prove(wrong(world.totp(), guess + 1))
    told(world)
    assert "five wrong codes, all tries were wrong 12:00:00, chat informed in" in story(world).headline


@pytest.mark.parametrize(
    ("reason", "clause"), [("cancelled", "cancelled 12"), ("not_me", "declined 12"), ("no_code", "no code came 12")]
)
def test_what_the_customer_said(world: World, reason: str, clause: str) -> None:
    browser = verified(world)
    browser.post("/verify/cancel", reason=reason)
    told(world)
    assert clause in story(world).headline


def test_expired_by_the_clock(world: World) -> None:
    verified(world, "app")
    world.clock.advance(496)
    world.services.verifications.endings.expire_due()
    told(world)
    assert "time ran out 12:08:16, chat informed in" in story(world).headline


def test_still_under_way(world: World) -> None:
    verified(world, "app")
    found = story(world)
    assert found.headline == "Began 12:00:00, still under way, 8 min 15 s left."
    assert "five tries left" in " ".join(moment.text for moment in found.moments)


def test_a_journey_that_is_off_could_not_begin(world: World) -> None:
    configuration_off(world, "app")
    verified(world, "app")
    told(world)
    found = story(world)
    assert "not possible (journey off) 12:00:00, chat informed" in found.headline
    assert any("The journey was switched off." in moment.text for moment in found.moments)


def configuration_off(world: World, slug: str) -> None:
    with world.database.write() as connection:
        connection.execute(text("UPDATE journeys SET is_active = false WHERE slug = :slug"), {"slug": slug})
        connection.execute(text("UPDATE portal SET version = version + 1"))
    world.accept()
    world.services.journeys._read_at = 0.0
    world.services.journeys.renew()  # what a page does first


def test_a_callback_that_flow_refuses(world: World) -> None:
    world.receiver.answers = [400]
    browser = verified(world, "app")
    browser.prove(world.totp())
    found = story(world)
    assert "verified 12:00:00, chat refused the result (HTTP 400)" in found.headline
    assert "Flow had no waiting chat for this link" in " ".join(moment.text for moment in found.moments)
    assert found.callback_id


def test_who_is_verified_but_waits_in_the_chat_is_not_sent_away(world: World) -> None:
    world.receiver.answers = [503] * 99
    verified(world, "app").prove(world.totp())
    (row,) = world.rows(Verification)
    stories = world.services.stories  # not ``advised``: the answer stays on its way
    wait_for(lambda: re.search(r"after \w+ tr(y|ies): HTTP 503", with_help(stories.get(row.id))))
    assert "Now: Ask them to stay in the chat: the portal sends the answer again" in with_help(stories.get(row.id))


def test_a_callback_that_is_tried_again(world: World) -> None:
    world.receiver.answers = [503]
    browser = verified(world, "app")
    browser.prove(world.totp())
    settled(world)
    texts = [moment.text for moment in story(world).moments]
    assert any("on try 2, with" in text for text in texts), texts


def test_an_answer_that_was_withdrawn(world: World) -> None:
    world.services.dispatcher.stop()
    browser = verified(world, "app")
    browser.post("/verify/cancel", reason="cancelled")
    assert "chat not informed yet (no response yet)" in story_now(world).headline
    world.clock.advance(1)
    browser.open(REFERENCE, "app")
    browser.post("/j/app", again="1", identifier="C-1001")
    first = min(world.rows(Verification), key=lambda row: row.began_at)
    found = world.services.stories.get(first.id)
    assert "result withdrawn because the link was opened again" in found.headline
    assert found.has_others


def story_now(world: World) -> Story:
    return world.services.stories.get(world.rows(Verification)[-1].id)


def test_a_message_that_the_channel_refuses(world: World) -> None:
    world.receiver.sms_answers = [403]
    verified(world)
    assert "SMS not accepted by channel “sms”" in story(world).headline


def test_a_resent_code(world: World) -> None:
    browser = verified(world)
    sent(world, PHONE)
    settled(world)
    world.clock.advance(31)
    browser.post("/verify/resend")
    wait_for(lambda: len(world.receiver.messages) == 2)
    assert "SMS handed to channel “sms” once more in" in story(world).headline


def test_an_app_that_added_to_the_link(world: World) -> None:
    browser = world.browser()
    browser.open("reference-of-mine&fbclid=IwAR0", "app", raw=True)
    browser.name("C-1001")
    assert any("An app had added fbclid to the link" in moment.text for moment in story(world).moments)


def test_a_retry_by_an_admin_is_told(world: World) -> None:
    world.receiver.answers = [400]
    browser = verified(world, "app")
    browser.prove(world.totp())
    found = story(world)
    world.services.retries.retry([found.callback_id], reason="Flow was down")
    wait_for(lambda: len(world.receiver.callbacks) == 2)
    texts = [moment.text for moment in story(world).moments]
    assert "the API had the result sent again: Flow was down" in texts


def test_an_altered_reference_keeps_the_rest_of_the_story(world: World) -> None:
    verified(world, "app")
    with world.database.write() as connection:
        connection.execute(update(Verification).values(reference_sealed=b"nonsense"))
    assert story(world).headline.startswith("Began 12:00:00")


def test_the_timeline_has_every_record(world: World) -> None:
    browser = verified(world)
    browser.prove(sent(world, PHONE))
    told(world)
    kinds = {moment.clause for moment in story(world).timeline}
    assert kinds == {"audit", "visit", "code", "message", "callback"}


def test_an_unknown_verification(small_world: World) -> None:
    with pytest.raises(NotFound):
        small_world.services.stories.get("0" * 32)


@pytest.fixture
def ticketed(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    """A portal with a journey that demands tickets."""
    with open_ticketed(tmp_path, sqlite_url, receiver) as world:
        yield world


def test_a_link_without_its_ticket_is_told(ticketed: World) -> None:
    verified(ticketed, "pay")
    told(ticketed)
    texts = " ".join(moment.text for moment in story(ticketed).moments)
    assert "this link came without one: Flow must register a ticket" in texts


def test_r24_somebody_whom_the_ticket_is_not_for_is_told(ticketed: World) -> None:
    browser = ticketed.browser()
    browser.get(link(ticket(ticketed, msisdn=SHARED).path, "abc"))
    browser.name("C-1001")
    found = story(ticketed)
    assert "not the customer of the ticket" in found.headline
    assert "no SMS sent: what was typed is not the customer of the ticket" in found.headline
    assert "no customer matches" not in text_of(found)


# -- finding ----------------------------------------------------------------------------------------------------------


def found(stories: Stories, **wanted: object) -> list[str]:
    return [line.slug for line in stories.page(StoryFilter(**wanted)).rows]  # type: ignore[arg-type]


def played(world: World) -> Stories:
    """Four verifications: one proved, one wrong name, one declined, one under way."""
    browser = verified(world, "app", "first")
    browser.prove(world.totp())
    world.clock.advance(60)
    world.browser().begin("second", "password", identifier="082 999 9999")
    world.clock.advance(60)
    browser = world.browser()
    browser.open("third", "mail")
    browser.post("/j/mail", decline="not_me")
    world.clock.advance(60)
    world.browser().begin("fourth", "waiting", identifier=MAIL)
    return world.services.stories


def test_lists_by_journey_outcome_and_time(world: World) -> None:
    stories = played(world)
    assert found(stories) == ["waiting", "mail", "password", "app"]
    assert found(stories, slug="mail") == ["mail"]
    assert found(stories, outcome="verified") == ["app"]
    assert found(stories, outcome="not_me") == ["mail"]
    assert found(stories, outcome=LIVE) == ["waiting", "password"]
    assert found(stories, outcome=LIVE, slug="password") == ["password"]
    assert found(stories, outcome="not_me", slug="app") == []
    assert found(stories, since=world.clock.now) == ["waiting"]
    assert found(stories, until=world.clock.now, outcome=LIVE) == ["password"]
    first = stories.page(StoryFilter(), most=3)
    assert [line.slug for line in first.rows] == ["waiting", "mail", "password"]
    assert [line.slug for line in stories.page(StoryFilter(), after=first.older, most=3).rows] == ["app"]


def test_finds_by_reference(world: World) -> None:
    stories = played(world)
    (first,) = stories.by_reference(["first"])
    assert stories.get(first).slug == "app"
    assert stories.by_reference(["firs"]) == ()
    assert found(stories, same_link_as=first) == ["app"]


def test_finds_a_customer_by_every_name_and_a_stranger_by_what_was_typed(world: World) -> None:
    stories = played(world)

    def of(typed: str) -> list[str]:
        named = stories.people_called(typed)
        assert named is not None
        return found(stories, customers=named.customers, names=named.names)

    for typed in ("C-1001", "c-1001 ", PHONE, "082 123 4567", MAIL.upper()):
        assert of(typed) == ["waiting", "app"], typed
    assert of("0829999999") == ["password"]
    assert of("C-1002") == []
    assert stories.people_called("  ") is None


def test_a_page_of_one_person_goes_on_by_key(world: World) -> None:
    stories = played(world)
    named = stories.people_called("C-1001")
    assert named is not None
    wanted = StoryFilter(customers=named.customers, names=named.names)
    first = stories.page(wanted, most=1)
    assert [line.slug for line in first.rows] == ["waiting"]
    second = stories.page(wanted, most=1, after=first.older)
    assert ([line.slug for line in second.rows], second.older) == (["app"], "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "less than 0.1 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (320, "5 min 20 s"),
        (3900, "1 h 5 min"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text
