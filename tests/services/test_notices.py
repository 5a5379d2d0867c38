"""Notices leave through the outbox, are forgotten once they left, and with the person whom they were for."""

from __future__ import annotations

from sqlalchemy import text

from auth_portal.services.directory.erasure import Erasure
from auth_portal.store.models import Delivery
from tests.receiver import wait_for
from tests.world import MAIL, PHONE, World


def notices(world: World) -> list[Delivery]:
    return [row for row in world.rows(Delivery) if row.verification_id is None]


def tell(world: World, *contacts: str) -> None:
    row = world.services.people.row_of("C-1001")
    with world.database.write() as connection:
        world.services.notices.to_customer(connection, world.clock(), row, contacts, "Something changed", "Was it you?")
    world.services.dispatcher.wake()


def test_a_notice_goes_to_phone_and_mailbox_and_what_it_said_is_forgotten(world: World) -> None:
    tell(world, PHONE, MAIL)
    wait_for(lambda: len(world.receiver.messages) == 2)
    assert {message["to"] for message in world.receiver.messages} == {PHONE, MAIL}
    assert all("Was it you?" in message["text"] for message in world.receiver.messages)
    wait_for(lambda: all(row.state == "accepted" for row in notices(world)))
    assert [row.body_sealed for row in notices(world)] == [None, None]


def test_a_notice_that_failed_is_erased_with_the_person(world: World) -> None:
    world.receiver.sms_answers += [500] * 50
    tell(world, PHONE)
    wait_for(lambda: any(row.attempts for row in notices(world)))
    with world.database.read() as connection:
        row = connection.execute(text("SELECT id FROM customers WHERE customer_id = 'C-1001'")).scalar_one()
    Erasure(world.database, world.services.keyring, world.clock).erase(row)
    (notice,) = notices(world)
    assert notice.body_sealed is None
    assert (notice.state, notice.reason) == ("dropped", "the customer was erased")
