"""Lists of deliveries, and sending again what came to nothing (D6). Played through HTTP, on both databases."""

from __future__ import annotations

import pytest

from auth_portal.errors import NotFound
from auth_portal.services.delivery.retry import RETRY_SECONDS
from auth_portal.services.history.delivery_lists import FAILED, DeliveryFilter
from auth_portal.store.models import Attempt, AuditEvent, Delivery
from tests.receiver import wait_for
from tests.web.test_way import sent
from tests.world import PHONE, World


def ended(world: World, kind: str = "callback") -> Delivery:
    """The newest delivery of a kind, once it is out of the dispatcher's hands."""

    def look() -> Delivery | None:
        found = [row for row in world.rows(Delivery) if row.kind == kind]
        return found[-1] if found and found[-1].ended_at is not None else None

    return wait_for(look)


def refused(world: World, reference: str = "again", outcome: str = "verified") -> Delivery:
    """A verification whose callback Flow refused with 400."""
    world.receiver.answers = [400]
    browser = world.browser()
    if outcome == "not_me":
        browser.open(reference, "app")
        browser.post("/j/app", decline="not_me")
    else:
        browser.begin(reference, "app")
        browser.prove(world.totp())
    delivery = ended(world)
    assert delivery.state == "refused"
    return delivery


def retry(world: World, delivery: Delivery, *, is_confirmed: bool = False) -> str:
    (retried,) = world.services.retries.retry(
        [delivery.id], reason="Flow was down, says 082 123 4567", is_confirmed=is_confirmed, admin_id="a" * 32
    )
    return retried.refusal


def test_d6_a_retry_sends_the_identical_bytes_and_is_audited(world: World) -> None:
    delivery = refused(world)
    assert retry(world, delivery) == ""
    wait_for(lambda: len(world.receiver.callbacks) == 2)
    first, second = world.receiver.callbacks
    assert (first.raw, first.header) == (second.raw, second.header)
    assert ended(world).state == "accepted"
    story = world.services.delivery_lists.get(delivery.id)
    assert [(one.number, one.fate, one.status) for one in story.tries] == [(1, "refused", 400), (2, "accepted", 200)]
    event = world.rows(AuditEvent)[-1]
    assert (event.kind, event.admin_id, event.facts["delivery"]) == ("delivery_retried", "a" * 32, delivery.id)
    assert event.facts["reason"] == "Flow was down, says ####"
    assert retry(world, delivery) == "accepted"
    assert len(world.receiver.callbacks) == 2


def test_d6_refused_where_the_reference_was_begun_again(world: World) -> None:
    delivery = refused(world, outcome="not_me")
    world.clock.advance(1)
    browser = world.browser()
    browser.begin("again", "app")
    browser.post("/j/app", again="1", identifier="C-1001")
    assert browser.path == "/verify"
    assert retry(world, delivery, is_confirmed=True) == "asked_anew"
    assert len(world.receiver.callbacks) == 1


def test_d6_verified_is_refused_once_its_chat_is_over_even_confirmed(world: World) -> None:
    delivery = refused(world)
    world.clock.advance(541)  # of 600, less the tenth that is set aside for the unopened link
    assert retry(world, delivery) == "chat_over"
    assert retry(world, delivery, is_confirmed=True) == "chat_over"
    assert len(world.receiver.callbacks) == 1


def test_d6_another_outcome_past_the_clock_is_warned_and_leaves_when_confirmed(world: World) -> None:
    delivery = refused(world, outcome="not_me")
    world.clock.advance(3600)
    assert world.services.delivery_lists.get(delivery.id).needs_confirmation
    assert retry(world, delivery) == "unconfirmed"
    assert retry(world, delivery, is_confirmed=True) == ""
    wait_for(lambda: len(world.receiver.callbacks) == 2)
    assert ended(world).state == "accepted"


def test_a_retry_that_fails_again_is_given_up_again(world: World) -> None:
    delivery = refused(world, outcome="not_me")
    world.clock.advance(3600)
    world.services.dispatcher.stop()
    world.receiver.answers = [503, 503]
    assert retry(world, delivery, is_confirmed=True) == ""
    (row,) = world.rows(Delivery)
    assert (row.give_up_at - world.clock.now).total_seconds() == RETRY_SECONDS
    assert (row.state, row.attempts, row.ended_at) == ("pending", 1, None)
    assert len(world.rows(Attempt)) == 1  # what was tried stays on record


def test_a_code_that_no_longer_counts_is_not_sent_again(world: World) -> None:
    world.receiver.sms_answers = [403]
    browser = world.browser()
    browser.begin("code")
    delivery = ended(world, "message")
    assert delivery.state == "refused"
    assert retry(world, delivery) == ""
    code = sent(world, PHONE)
    wait_for(lambda: ended(world, "message").state == "accepted")
    world.receiver.sms_answers = [403]
    world.clock.advance(30)
    browser.post("/verify/resend")
    again = ended(world, "message")
    assert again.state == "refused"
    browser.prove(code)
    assert retry(world, again) == "code_over"
    assert len(world.receiver.messages) == 1


def test_a_code_whose_life_is_over_is_not_sent_again(small_world: World) -> None:
    small_world.receiver.sms_answers = [403]
    small_world.browser().begin("code")
    delivery = ended(small_world, "message")
    small_world.clock.advance(300)
    assert retry(small_world, delivery) == "code_over"


def test_beginning_again_withdraws_what_was_put_back(world: World) -> None:
    delivery = refused(world, outcome="not_me")
    world.services.dispatcher.stop()
    assert retry(world, delivery) == ""
    world.clock.advance(1)
    browser = world.browser()
    browser.begin("again", "app")
    browser.post("/j/app", again="1", identifier="C-1001")
    assert [row.state for row in world.rows(Delivery)] == ["superseded"]


def test_lists_by_state_kind_target_and_time(world: World) -> None:
    first = refused(world, "one", outcome="not_me")
    world.clock.advance(60)
    world.receiver.sms_answers = [403]
    world.browser().begin("two")
    message = ended(world, "message")
    page = world.services.delivery_lists.page

    def found(**wanted: object) -> list[str]:
        return [line.id for line in page(DeliveryFilter(**wanted)).rows]  # type: ignore[arg-type]

    assert found() == [message.id, first.id]
    assert found(state=FAILED) == [message.id, first.id]
    assert found(state="refused", kind="callback") == [first.id]
    assert found(kind="message") == [message.id]
    assert found(target="sms") == [message.id]
    assert found(state="accepted") == found(state="pending") == found(state="superseded") == []
    assert found(since=world.clock.now) == [message.id]
    assert found(until=world.clock.now) == [first.id]
    assert found(verification_id=message.verification_id, state=FAILED) == [message.id]
    one = page(DeliveryFilter(state=FAILED), most=1)
    assert (one.rows[0].id, one.older) == (message.id, message.id)
    two = page(DeliveryFilter(state=FAILED), most=1, after=one.older)
    assert (two.rows[0].id, two.older) == (first.id, "")


def test_an_unknown_delivery(small_world: World) -> None:
    with pytest.raises(NotFound):
        small_world.services.delivery_lists.get("0" * 32)
    (retried,) = small_world.services.retries.retry(["0" * 32], reason="")
    assert retried.refusal == "unknown"
    assert "no such" in retried.text
