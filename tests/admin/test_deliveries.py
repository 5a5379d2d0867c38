"""The pages of deliveries: every attempt, and sending again (D6)."""

from __future__ import annotations

from auth_portal.store.models import AuditEvent, Delivery
from tests.admin.desk import Desk
from tests.receiver import wait_for
from tests.services.test_delivery_lists import ended, refused
from tests.world import World

PATH = "/admin/deliveries"


def test_d6_one_is_sent_again_with_a_reason(small_world: World, support: Desk) -> None:
    delivery = refused(small_world)
    text = support.get(f"{PATH}/{delivery.id}").text
    assert "HTTP 400" in text
    assert "refused permanently" in text
    page = support.post(f"{PATH}/{delivery.id}/retry", reason="")
    assert page.status_code == 422
    assert "Give a reason for the audit trail" in page.text
    support.post(f"{PATH}/{delivery.id}/retry", reason="the flow was off")
    assert "being sent again" in support.page.text
    wait_for(lambda: len(small_world.receiver.callbacks) == 2)
    assert ended(small_world).state == "accepted"
    event = next(row for row in small_world.rows(AuditEvent) if row.kind == "delivery_retried")
    assert (event.admin_id, event.facts["reason"]) == (support.admin_id, "the flow was off")
    text = support.get(f"{PATH}/{delivery.id}").text
    assert "retry this. It was accepted." in text


def test_d6_past_the_clock_it_wants_a_word(small_world: World, owner: Desk) -> None:
    delivery = refused(small_world, outcome="not_me")
    small_world.clock.advance(3600)
    owner.sign_in()
    owner.get(f"{PATH}/{delivery.id}")
    assert "Flow will probably refuse it" in owner.page.text
    page = owner.post(f"{PATH}/{delivery.id}/retry", reason="all the same")
    assert page.status_code == 422
    assert "Confirm that you want to send it" in page.text
    assert 'value="all the same"' in page.text
    owner.post(f"{PATH}/{delivery.id}/retry", reason="all the same", confirmed="1")
    wait_for(lambda: len(small_world.receiver.callbacks) == 2)


def test_d6_verified_past_the_clock_cannot_be_sent_at_all(small_world: World, owner: Desk) -> None:
    delivery = refused(small_world)
    small_world.clock.advance(3600)
    owner.sign_in()
    text = owner.get(f"{PATH}/{delivery.id}").text
    assert "The chat has ended, and this result says that a customer was verified" in text
    assert f'action="{PATH}/{delivery.id}/retry"' not in text


def test_d6_many_are_sent_again_and_each_is_told(small_world: World, owner: Desk) -> None:
    first = refused(small_world, "one", outcome="not_me")
    small_world.clock.advance(3600)
    second = refused(small_world, "two", outcome="not_me")
    owner.sign_in()
    owner.get(f"{PATH}?state=failed")
    owner.post(f"{PATH}/retry", reason="flow was down", id=[first.id, second.id])
    assert "sending again" in owner.page.text
    assert "The chat has ended, so Flow will probably refuse it" in owner.page.text
    wait_for(lambda: len(small_world.receiver.callbacks) == 3)
    owner.post(f"{PATH}/retry", reason="flow was down", id=[first.id], confirmed="1")
    wait_for(lambda: len(small_world.receiver.callbacks) == 4)
    assert "1 delivery is being sent again" in owner.page.text


def test_many_need_a_reason_and_something_ticked(small_world: World, owner: Desk) -> None:
    first = refused(small_world, outcome="not_me")
    owner.get(PATH)
    page = owner.post(f"{PATH}/retry", reason="", id=[first.id])
    assert page.status_code == 422
    assert f'value="{first.id}"' in page.text
    owner.get(PATH)
    page = owner.post(f"{PATH}/retry", reason="why not", id=[])
    assert page.status_code == 422
    assert "Select the deliveries" in page.text


def test_the_auditor_sees_no_button(small_world: World, auditor: Desk) -> None:
    delivery = refused(small_world)
    assert "Owners and support can retry it" in auditor.get(f"{PATH}/{delivery.id}").text
    assert "checkbox" not in auditor.get(PATH).text
    (row,) = small_world.rows(Delivery)
    assert row.state == "refused"


def test_filters(small_world: World, owner: Desk) -> None:
    refused(small_world)
    assert 'data-label="State"' in owner.get(f"{PATH}?state=refused&kind=callback").text
    assert "No deliveries match" in owner.get(f"{PATH}?state=refused&kind=message").text
    assert "No deliveries match" in owner.get(f"{PATH}?state=refused&target=sms").text
    assert owner.get(f"{PATH}?until=nonsense").status_code == 422
