"""Are the tries spent? The gate, the customer's page, the home page and Reach give one answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select

from auth_portal.methods import METHOD_NAMES
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.snapshot import Snapshot
from auth_portal.services.config.store import StoredJourney
from auth_portal.services.directory.credentials import Budget, Credential, Credentials
from auth_portal.services.directory.person import get_person
from auth_portal.services.history.overview import Overview
from auth_portal.services.reach.reach import passages_of
from auth_portal.services.verification import tries
from auth_portal.services.verification.case import Case
from auth_portal.services.verification.tickets import Ticket
from auth_portal.store.models import CustomerRow, Tries
from tests.receiver import Receiver
from tests.security.tools import wrong_totp
from tests.world import STANDARD, World, journey, open_world


def test_a_journey_that_is_off_locks_no_customer_on_the_home_page(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    off = journey("off", "totp", limits="credential_tries_day = 5").replace("default = false", "active = false")
    with open_world(tmp_path, sqlite_url, receiver, config=STANDARD + off) as world:
        browser = world.browser()
        for reference, wrong in (("first", 5), ("second", 1)):
            browser.begin(reference)
            for _ in range(wrong):
                browser.prove("000000")
        assert world.rows(Tries)[0].total == 6
        assert world.services.overview.locked().listed == []


def test_a_day_of_tries_ends_to_the_second(small_world: World) -> None:
    for reference in ("first", "second"):
        browser = small_world.browser()
        browser.begin(reference, "app")
        browser.prove(wrong_totp(small_world))
        small_world.clock.advance(86_400)
    (count,) = small_world.rows(Tries)
    assert (count.day_count, count.total) == (1, 2)


def test_a_day_of_tries_opens_by_itself_and_all_of_them_do_not(small_world: World) -> None:
    world, row, ends_at = small_world, customer(small_world), small_world.clock.now + timedelta(hours=1)
    counts = {
        "totp": (15, 15, False),
        "password": (3, 50, False),
        "sms_code": (15, 50, False),
        "email_code": (3, 3, True),
    }
    write_tries(world, row, {(method, False): count for method, count in counts.items()})
    opens_at = {one.method: one.until for one in world.services.overview.locked().listed}
    assert opens_at == {"totp": ends_at, "password": None, "sms_code": None}
    budgets = {one.method: one.open for one in world.services.credentials.of(row) if one.method in counts}
    assert budgets == {
        "totp": Budget(15, 15, ends_at, is_closed=False),
        "password": Budget(50, 3, None, is_closed=True),
        "sms_code": Budget(50, 15, ends_at, is_closed=True),
        "email_code": Budget(3, 0, None, is_closed=False),
    }


JOURNEYS = st.lists(
    st.fixed_dictionaries(
        {
            "active": st.booleans(),
            "relay_defence": st.sampled_from(["none", "chat_code", "phone_match"]),
            "methods": st.lists(st.sampled_from(METHOD_NAMES), min_size=1, max_size=3, unique=True),
            "day": st.integers(5, 15),
            "total": st.integers(20, 50),
        }
    ),
    max_size=4,
)
COUNTS = st.dictionaries(
    st.tuples(st.sampled_from(METHOD_NAMES), st.booleans()),
    st.tuples(st.integers(0, 16), st.integers(0, 51), st.booleans()),
    max_size=6,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(journeys=JOURNEYS, counts=COUNTS)
def test_every_page_agrees_with_the_gate(
    small_world: World, journeys: list[dict[str, Any]], counts: dict[tuple[str, bool], tuple[int, int, bool]]
) -> None:
    world, row = small_world, customer(small_world)
    write_tries(world, row, counts)
    snapshot = snapshot_of(world, journeys)
    in_use = [now.config for now in snapshot.journeys.values() if now.config.active]

    def refused_by(config: JourneyConfig, *, is_ticketed: bool) -> set[str]:
        met = methods_met(config, is_ticketed=is_ticketed)
        return {method for method in met if gate_refuses(world, config, row, method, is_ticketed=is_ticketed)}

    refused = {
        (method, is_ticketed)
        for config in in_use
        for is_ticketed in (False, True)
        for method in refused_by(config, is_ticketed=is_ticketed)
    }
    assert locked_on_the_customers_page(world, row, snapshot) == refused
    overview = Overview(world.transactions, SimpleNamespace(current=lambda: snapshot))  # type: ignore[arg-type]
    assert {(one.row, one.method) for one in overview.locked().listed} == {
        (row, method) for method, _ticketed in refused
    }
    with world.transactions.read() as work:
        passages = {passage.slug: passage for passage in passages_of(work, snapshot, row)}
    for config in in_use:
        locks = {lock.method for lock in passages[config.slug].locks}
        assert locks == refused_by(config, is_ticketed=config.relay_defence == "phone_match")


def customer(world: World) -> str:
    with world.database.read() as connection:
        return str(connection.execute(select(CustomerRow.id).where(CustomerRow.customer_id == "C-1001")).scalar_one())


def write_tries(world: World, row: str, counts: Mapping[tuple[str, bool], tuple[int, int, bool]]) -> None:
    """Give a customer these wrong tries: of the day, in all, and whether the day is over."""
    now = world.clock()
    rows = [
        {
            "person_key": row,
            "method": method,
            "is_ticketed": is_ticketed,
            "total": max(day, total),
            "day_count": day,
            "day_ends_at": now + timedelta(hours=-1 if is_over else 1),
        }
        for (method, is_ticketed), (day, total, is_over) in counts.items()
    ]
    with world.database.write() as connection:
        connection.execute(delete(Tries))
        if rows:
            connection.execute(insert(Tries), rows)


def snapshot_of(world: World, drawn: list[dict[str, Any]]) -> Snapshot:
    """Return the configuration with these journeys, without those that no portal would store."""
    journeys = {}
    for number, one in enumerate(drawn):
        values = {
            "slug": f"j{number}",
            "name": "Journey",
            "active": one["active"],
            "relay_defence": one["relay_defence"],
            "channels": ["sms", "mail"],
            "steps": [{"kind": "identify", "by": ["customer_id"]}, {"kind": "verify", "any_of": one["methods"]}],
            "limits": {"credential_tries_day": one["day"], "credential_tries_total": one["total"]},
        }
        if one["relay_defence"] != "phone_match" or one["methods"] != ["email_code"]:
            config = JourneyConfig.model_validate(values)
            journeys[config.slug] = StoredJourney("0" * 32, "0" * 32, 1, config)
    return replace(world.services.journeys.current(), journeys=journeys)


def methods_met(config: JourneyConfig, *, is_ticketed: bool) -> set[str]:
    """Return the methods that a visit of this journey can come to, with or without a ticket."""
    if config.relay_defence != "phone_match":
        return {method for step in config.verify_steps for method in step.methods}
    found = {method for step in config.verify_steps for method in step.methods if method != "email_code"}
    return found if is_ticketed else set()


class Undone(Exception):
    """Rolls a transaction back."""


def gate_refuses(world: World, config: JourneyConfig, row: str, method: str, *, is_ticketed: bool) -> bool:
    """Ask the gate itself, which counts the try, and undo it."""
    has_tries = True
    try:
        with world.transactions.write() as work:
            case = Case(
                visit_id="0" * 32,
                verification_id="0" * 32,
                version_id="0" * 32,
                server="production",
                reference_hash=b"",
                reference_sealed=b"",
                address_key="",
                proofs_until=work.now,
                chat_ends_at=work.now,
                journey=config,
                method=method,
                person=get_person(work.connection, row),
                ticket=Ticket("0" * 32, "the key of a phone", row, None, None, "") if is_ticketed else None,
            )
            has_tries = tries.count_for_person(work, case, tries.Memory(), succeeded=False)
            raise Undone  # noqa: TRY301 -- rolls the transaction back
    except Undone:
        return not has_tries


def locked_on_the_customers_page(world: World, row: str, snapshot: Snapshot) -> set[tuple[str, bool]]:
    journeys: Any = SimpleNamespace(current=lambda: snapshot)
    credentials = Credentials(world.transactions, journeys, world.services.notices, tries)
    page: tuple[Credential, ...] = credentials.of(row)
    return {
        (credential.method, is_ticketed)
        for credential in page
        for is_ticketed, budget in ((False, credential.open), (True, credential.ticketed))
        if budget.is_closed or budget.locked_until is not None
    }
