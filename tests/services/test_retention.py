"""What is kept for how long (E3): each kind on both sides of its limit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from auth_portal.crypto import Keyring
from auth_portal.services.audit_chain import Sealer
from auth_portal.services.operations import retention
from auth_portal.services.operations.retention import Housekeeping, prune
from auth_portal.store.db import Database, Transactions, Work, new_id
from auth_portal.store.models import (
    Attempt,
    AuditEvent,
    Challenge,
    Counter,
    CustomerRow,
    Delivery,
    Journey,
    JourneyVersion,
    Logo,
    Portal,
    Tries,
    Verification,
    Visit,
)
from tests.receiver import wait_for
from tests.services.conftest import NOW
from tests.world import World

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def version(database: Database) -> str:
    """A journey to verify under."""
    journey, version = new_id(NOW), new_id(NOW)
    with database.write() as connection:
        connection.execute(
            insert(Journey).values(id=journey, slug="a", version_id=version, is_active=True, is_default=True)
        )
        connection.execute(
            insert(JourneyVersion).values(id=version, journey_id=journey, number=1, document={}, created_at=NOW)
        )
    return version


def lay(database: Database, version: str, age: timedelta, outcome: str | None = "verified") -> str:
    """A verification of that age with everything that hangs on one."""
    then = NOW - age
    verification, delivery = new_id(then), new_id(then)
    with database.write() as connection:
        connection.execute(
            insert(Verification).values(
                id=verification, reference_hash=verification.encode(), reference_sealed=b"s", server="uat",
                version_id=version, slug="a", address_key="a", began_at=then, chat_started_at=then, proofs_until=then,
                chat_ends_at=then, outcome=outcome, ended_at=then if outcome else None,
            )
        )  # fmt: skip
        connection.execute(
            insert(Visit).values(
                id=new_id(then), token_hash=verification.encode(), verification_id=verification, created_at=then,
                prompt="p", step=0,
            )
        )  # fmt: skip
        connection.execute(
            insert(Challenge).values(
                id=new_id(then), verification_id=verification, identifier_key="k", destination_key="d", step=1,
                method="sms_code", key_id=3, digits=6, issued_at=then, expires_at=then,
            )
        )  # fmt: skip
        connection.execute(
            insert(Delivery).values(
                id=delivery, kind="callback", verification_id=verification, target="uat", priority=1, state="accepted",
                created_at=then, next_at=then, give_up_at=then, ended_at=then,
            )
        )  # fmt: skip
        connection.execute(
            insert(Attempt).values(id=new_id(then), delivery_id=delivery, number=1, began_at=then, fate="accepted")
        )
    return verification


def counts(database: Database, *tables: Any) -> list[int]:
    with database.read() as connection:
        return [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]


WHOLE = (Verification, Visit, Delivery, Attempt)


def test_e3_a_verification_goes_after_30_days_with_all_that_hangs_on_it(
    database: Database, transactions: Transactions, version: str
) -> None:
    kept = lay(database, version, 30 * DAY - HOUR)
    lay(database, version, 30 * DAY + HOUR)
    assert prune(transactions)["verifications"] == 1
    assert counts(database, *WHOLE) == [1, 1, 1, 1]
    with database.read() as connection:
        assert connection.execute(select(Verification.id)).scalar_one() == kept


def test_a_verification_that_has_not_ended_stays(database: Database, transactions: Transactions, version: str) -> None:
    lay(database, version, 90 * DAY, outcome=None)
    prune(transactions)
    assert counts(database, Verification, Visit) == [1, 1]


def test_e3_codes_go_after_a_day(database: Database, transactions: Transactions, version: str) -> None:
    lay(database, version, DAY - HOUR)
    lay(database, version, DAY + HOUR)
    assert prune(transactions)["codes"] == 1
    assert counts(database, Challenge, Verification) == [1, 2]


def test_e3_audit_events_go_after_thirteen_months(
    database: Database, transactions: Transactions, keyring: Keyring
) -> None:
    sealer = Sealer(transactions)
    for age in (397 * DAY, 395 * DAY):
        with database.write() as connection:
            Work(connection, NOW - age, keyring, transactions.counts).record("tried")
        sealer.seal()
    assert prune(transactions)["audit events"] == 1
    assert counts(database, AuditEvent) == [1]


def delete_journey(database: Database, age: timedelta) -> None:
    with database.write() as connection:
        connection.execute(update(Journey).values(deleted_at=NOW - age))


def test_e3_a_deleted_journey_goes_when_nothing_refers_to_it(
    database: Database, transactions: Transactions, version: str
) -> None:
    delete_journey(database, 31 * DAY)
    lay(database, version, 29 * DAY)
    assert prune(transactions)["deleted journeys"] == 0
    later = NOW + 2 * DAY
    with database.read() as connection:
        before = connection.execute(select(Portal.version)).scalar_one()
    assert prune(Transactions(database, transactions.keyring, lambda: later))["deleted journeys"] == 1
    assert counts(database, Journey, JourneyVersion) == [0, 0]
    with database.read() as connection:
        assert connection.execute(select(Portal.version)).scalar_one() == before + 1  # servers forget it


def test_e3_a_journey_that_was_deleted_lately_and_one_that_was_not_stay(
    database: Database, transactions: Transactions, version: str
) -> None:
    assert prune(transactions)["deleted journeys"] == 0
    delete_journey(database, 29 * DAY)
    assert prune(transactions)["deleted journeys"] == 0


def test_a_logo_goes_when_no_version_names_it(database: Database, transactions: Transactions, version: str) -> None:
    with database.write() as connection:
        for digest, age in (("named", 31 * DAY), ("nobody's", 31 * DAY), ("new", 29 * DAY)):
            row = {"digest": digest, "media_type": "image/png", "content": b"x", "created_at": NOW - age}
            connection.execute(insert(Logo).values(row))
        connection.execute(update(JourneyVersion).values(document={"logo": "named"}))
    assert prune(transactions)["logos"] == 1
    assert counts(database, Logo) == [2]


def test_counters_go_when_their_window_is_over(database: Database, transactions: Transactions) -> None:
    with database.write() as connection:
        connection.execute(insert(Counter).values(key="over", events=1, ends_at=NOW - HOUR))
        connection.execute(insert(Counter).values(key="running", events=1, ends_at=NOW + HOUR))
    assert prune(transactions)["counters"] == 1
    assert counts(database, Counter) == [1]


def test_r7_the_count_of_a_customer_stays_and_a_strangers_goes(database: Database, transactions: Transactions) -> None:
    then = NOW - 31 * DAY
    with database.write() as connection:
        connection.execute(
            insert(CustomerRow).values(
                id="customer",
                customer_id="C",
                customer_key="c",
                locale="",
                subject_id="s",
                created_at=NOW,
                changed_at=NOW,
            )
        )  # fmt: skip
        for person in ("customer", "a stranger", "another"):
            ends_at = NOW if person == "another" else then
            connection.execute(
                insert(Tries).values(
                    person_key=person, method="totp", is_ticketed=False, total=9, day_count=9, day_ends_at=ends_at
                )
            )
    assert prune(transactions)["counts of strangers"] == 1
    with database.read() as connection:
        assert set(connection.execute(select(Tries.person_key)).scalars()) == {"customer", "another"}


def test_it_goes_on_until_nothing_is_left(
    database: Database, transactions: Transactions, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    for _ in range(5):
        lay(database, version, 31 * DAY)
    with database.write() as connection:
        for number in range(5):
            connection.execute(insert(Counter).values(key=str(number), events=1, ends_at=NOW - HOUR))
    removed = prune(transactions)
    assert (removed["verifications"], removed["counters"], removed["codes"]) == (5, 5, 5)
    assert counts(database, *WHOLE, Challenge, Counter) == [0] * 6
    assert not any(prune(transactions).values())


def test_e3_it_is_removed_without_anybody_asking_once_an_hour(world: World) -> None:
    housekeeping = Housekeeping(world.transactions)
    browser = world.browser()
    browser.begin("ref-1", "app")
    browser.prove(world.totp())
    wait_for(lambda: [row.state for row in world.rows(Delivery)] == ["accepted"])
    world.clock.advance(31 * 86_400)
    housekeeping.tidy()
    assert world.rows(Verification) == []
    browser.begin("ref-2", "app")
    browser.prove(world.totp())
    world.clock.advance(3599)
    Housekeeping(world.transactions).tidy()
    assert len(world.rows(Verification)) == 1, "another process finds the hour's turn taken"
