"""Notices leave through the outbox, are forgotten once they left, and with the person whom they were for."""

from __future__ import annotations

from sqlalchemy import text

from auth_portal.store.models import Delivery
from tests.receiver import wait_for
from tests.world import MAIL, PHONE, World


def notices(world: World) -> list[Delivery]:
    return [row for row in world.rows(Delivery) if row.verification_id is None]


def tell(world: World, *contacts: str) -> None:
    row = world.services.customers.row_of("C-1001")
    with world.transactions.write() as work:
        world.services.notices.to_customer(work, row, contacts, "Something changed", "Was it you?")
    world.services.dispatcher.wake()


def test_a_notice_goes_to_phone_and_mailbox_and_what_it_said_is_forgotten(world: World) -> None:
    tell(world, PHONE, MAIL)
    wait_for(lambda: len(world.receiver.messages) == 2)
    assert {message["to"] for message in world.receiver.messages} == {PHONE, MAIL}
    assert all("Was it you?" in message["text"] for message in world.receiver.messages)
    wait_for(lambda: all(row.state == "accepted" for row in notices(world)))
    assert [row.body_sealed for row in notices(world)] == [None, None]


def test_a_notice_that_failed_is_erased_with_the_person(world: World) -> None:
    world.receiver.sms_answers += [503] * 50
    tell(world, PHONE)
    # Two attempts, the second at once; the third waits for a clock that stands. What is under way is not erased.
    wait_for(lambda: [row for row in notices(world) if row.attempts == 2 and row.leased_until is None])
    with world.database.read() as connection:
        row = connection.execute(text("SELECT id FROM customers WHERE customer_id = 'C-1001'")).scalar_one()
    world.services.erasure.erase(row)
    (notice,) = notices(world)
    assert notice.body_sealed is None
    assert (notice.state, notice.reason) == ("dropped", "the customer was erased")
