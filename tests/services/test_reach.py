"""Reach holds the directory against journeys by the very rules that a visit meets."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from auth_portal.services.cases import can_prove
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.directory import customers
from auth_portal.services.directory.customers import PERSON_COLUMNS, Person, person_from, read_identifier
from auth_portal.services.setup.reach import PAGE_SIZE, Reaches, Unreached
from auth_portal.store.db import Database
from auth_portal.store.models import ChannelRow, CustomerRow, Portal
from tests.receiver import Receiver
from tests.world import SHORT_PASSWORD, TOTP_SECRET, World, journey, open_world

LONG_HASH = "a password that is long enough"
JOURNEYS = (
    journey("id-sms", "sms_code", default=True)
    + journey("password", "password")
    + journey("two", "password", "sms_code|totp")
    + journey("same", "sms_code|totp", "sms_code|totp")
    + journey("three", "sms_code|email_code", "sms_code|totp", "password|email_code|totp")
    + journey("by-phone", "sms_code").replace('"customer_id", "phone", "email"', '"phone"')
    + journey("by-contact", "email_code|totp").replace('"customer_id", "phone", "email"', '"phone", "email"')
)
SLUGS = ("id-sms", "password", "two", "same", "three", "by-phone", "by-contact")


def crowd(count: int) -> str:
    """Customers with every mixture of contacts, some of them shared, and of credentials."""
    chance = random.Random(7)
    lines = ["customer_id,name,phone,email,locale,password,totp_secret"]
    for number in range(count):
        phone = chance.choice(["", f"+2782555{chance.choice([number, number, number % 7]):04d}"])
        email = chance.choice(["", f"p{chance.choice([number, number % 5])}@example.com"])
        password = "" if number % 20 else chance.choice([SHORT_PASSWORD, LONG_HASH])
        totp = chance.choice(["", "", TOTP_SECRET])
        lines.append(f"N-{number:05d},Somebody,{phone},{email},en,{password},{totp}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def crowded(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    with open_world(tmp_path, database_url, receiver, config=JOURNEYS, customers=crowd(160)) as world:
        disabled = CustomerRow.customer_id.in_([f"N-{number:05d}" for number in range(0, 160, 11)])
        with world.database.write() as connection:
            connection.execute(update(CustomerRow).where(disabled).values(is_active=False))
        yield world


def reaches(world: World) -> Reaches:
    return Reaches(world.database, world.clock, world.services.journeys)


def passes(world: World, config: JourneyConfig, person: Person) -> bool:
    """By the rules of a visit: found by what is typed, and a method of its own for each step."""
    alone = len(config.verify_steps) == 1
    ways = [[m for m in step.any_of if can_prove(person, m, alone=alone)] for step in config.verify_steps]
    return _is_found(world, config, person) and any(
        len(set(chosen)) == len(chosen) for chosen in itertools.product(*ways)
    )


def _is_found(world: World, config: JourneyConfig, person: Person) -> bool:
    keyring = world.services.keyring
    typed = {
        "customer_id": person.customer_id,
        "phone": person.contact("sms", keyring) if person.phone_sealed else "",
        "email": person.contact("email", keyring) if person.email_sealed else "",
    }
    with world.database.read() as connection:
        for kind in config.first_step.by:
            named = read_identifier(typed[kind], config.first_step.by, "ZA", keyring)
            if named is not None and customers.find(connection, named).row == person.row:
                return True
    return False


def people(database: Database) -> list[Person]:
    with database.read() as connection:
        from_rows = CustomerRow.__table__.select().with_only_columns(*PERSON_COLUMNS)
        return [person_from(row, "") for row in connection.execute(from_rows)]


def all_unreached(counted: Reaches, slug: str) -> list[Unreached]:
    found, after = counted.unreached(slug)
    while after:
        assert len(found) % PAGE_SIZE == 0
        more, after = counted.unreached(slug, after)
        found += more
    return found


def test_reach_agrees_with_what_a_visit_would_meet(crowded: World) -> None:
    counted = reaches(crowded)
    everybody = people(crowded.database)
    for slug in SLUGS:
        config = crowded.services.journeys.current().journey(slug).config
        expected = {person.row for person in everybody if passes(crowded, config, person)}
        reach = counted.reach(slug)
        assert (reach.total, reach.passing) == (160, len(expected)), slug
        assert 0 < reach.passing < 160, f"{slug}: the crowd should have both kinds"
        assert reach.disabled == 15
        assert reach.disabled + sum(step.lost for step in reach.steps) == reach.lost
        listed = [person.row for person in all_unreached(counted, slug)]
        assert listed == sorted({person.row for person in everybody} - expected), slug


def test_each_step_says_who_comes_and_what_they_lack(crowded: World) -> None:
    everybody = [person for person in people(crowded.database) if person.is_active]
    naming, proving = reaches(crowded).reach("id-sms").steps
    assert (naming.arriving, naming.passing, sum(naming.lacking.values())) == (145, 145, 0)
    without = sum(person.phone_key is None for person in everybody)
    assert proving.lacking == {"sms_code": without}
    assert proving.lost == without > 0


def test_those_who_cannot_pass_are_listed_with_the_reason(crowded: World) -> None:
    listed = all_unreached(reaches(crowded), "by-phone")
    disabled = [person for person in listed if person.customer_id == "N-00011"]
    assert [(person.step, person.lacks) for person in disabled] == [(0, ())]
    assert {(person.step, person.lacks) for person in listed} == {(0, ()), (1, ("phone",))}


def test_a_method_that_no_channel_carries_lets_nobody_pass(small_world: World) -> None:
    assert reaches(small_world).reach("balance").passing == 4
    with small_world.database.write() as connection:
        connection.execute(update(ChannelRow).where(ChannelRow.name == "sms").values(is_active=False))
        connection.execute(update(Portal).values(version=Portal.version + 1))
    small_world.services.journeys._looked_at = 0.0
    reach = reaches(small_world).reach("balance")
    assert (reach.total, reach.passing) == (4, 0)
    assert reach.steps[1].closed_ways == ("sms_code",)
    assert len(all_unreached(reaches(small_world), "balance")) == 4


def test_a_count_is_kept_for_a_minute(small_world: World) -> None:
    counted = reaches(small_world)
    assert counted.reach("balance").passing == 4
    with small_world.database.write() as connection:
        connection.execute(update(CustomerRow).values(is_active=False))
    assert counted.reach("balance").passing == 4
    small_world.clock.advance(61)
    assert counted.reach("balance").passing == 0


def test_the_countries_that_are_not_counted_are_said(small_world: World) -> None:
    assert reaches(small_world).reach("balance").has_countries
    assert not reaches(small_world).reach("app").has_countries
