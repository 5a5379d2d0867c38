"""Reach holds the directory against journeys by the very rules that a visit meets."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from auth_portal.errors import NotFound, Problem
from auth_portal.methods import CARRIES
from auth_portal.services.config.channel import cap_key
from auth_portal.services.config.journey import JourneyConfig, phone_only
from auth_portal.services.directory.person import (
    PERSON_COLUMNS,
    Person,
    country_of,
    find_person,
    person_from,
    read_identifier,
)
from auth_portal.services.reach import census
from auth_portal.services.reach.census import Census
from auth_portal.services.reach.reach import LINES_SECONDS, PAGE_SIZE, Reach, Reaches, Unreached
from auth_portal.services.verification import tries
from auth_portal.services.verification.case import can_prove
from auth_portal.services.verification.tickets import TicketRequest
from auth_portal.store.db import Database
from auth_portal.store.models import ChannelRow, ChannelState, Counter, CustomerRow, Delivery, Portal, Tries
from tests.receiver import Receiver, wait_for
from tests.world import SHORT_PASSWORD, TOTP_SECRET, World, journey, open_world

LONG_HASH = "a password that is long enough"
ALL_NAMES = '"customer_id", "phone", "email"'
JOURNEYS = (
    journey("id-sms", "sms_code", default=True)
    + journey("password", "password")
    + journey("two", "password", "sms_code|totp")
    + journey("same", "sms_code|totp", "sms_code|totp")
    + journey("three", "sms_code|email_code", "sms_code|totp", "password|email_code|totp")
    + journey("by-phone", "sms_code").replace(ALL_NAMES, '"phone"')
    + journey("by-contact", "email_code|totp").replace(ALL_NAMES, '"phone", "email"')
    + journey("matched", "sms_code|email_code|totp", relay_defence="phone_match")
    + journey("matched-phone", "sms_code|totp", relay_defence="phone_match").replace(ALL_NAMES, '"phone"')
    + journey("matched-mail", "sms_code|totp", relay_defence="phone_match").replace(ALL_NAMES, '"email"')
    + journey("wait-one", "sms_code|email_code", limits="changed_contact_hours = 24")
    + journey("wait-two", "sms_code|email_code", "sms_code|email_code|totp", limits="changed_contact_hours = 48")
    + journey("wait-own", "sms_code|totp", limits="changed_contact_hours = 24").replace(ALL_NAMES, '"phone"')
)
SLUGS = (
    "id-sms", "password", "two", "same", "three", "by-phone", "by-contact", "matched", "matched-phone", "matched-mail",
    "wait-one", "wait-two", "wait-own",
)  # fmt: skip
ABROAD = ("+26481255", "+44740012")  # the SMS channel sends to ZA alone


def crowd(count: int) -> str:
    """Customers with every mixture of contacts, some of them shared or of another country, and of credentials."""
    chance = random.Random(7)
    lines = ["customer_id,name,phone,email,locale,password,totp_secret"]
    for number in range(count):
        country = chance.choice(["+2782555", "+2782555", "+2782555", *ABROAD])
        phone = chance.choice(["", f"{country}{chance.choice([number, number, number % 7]):04d}"])
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
            for column, remainder, hours in (("phone", 1, 1), ("phone", 4, 30), ("email", 4, 23.5), ("email", 2, 60)):
                some = [f"N-{number:05d}" for number in range(160) if number % 6 == remainder]
                changed = {f"{column}_changed_at": world.clock.now - timedelta(hours=hours)}
                connection.execute(update(CustomerRow).where(CustomerRow.customer_id.in_(some)).values(**changed))
        world.accept()
        rows = [row for row in world.rows(CustomerRow) if int(row.customer_id[2:]) % 9 == 0]
        for number, row in enumerate(sorted(rows, key=lambda row: row.customer_id)):
            spend(world, row.id, ("sms_code", "totp", "password")[number % 3], day=number % 2 == 0, ticketed=number > 9)
        yield world


def spend(world: World, row: str, method: str, *, day: bool, ticketed: bool = False) -> None:
    """Wrong tries up to the day's limit, or up to the one that only support lifts."""
    now = world.clock()
    values = {
        "person_key": row,
        "method": method,
        "is_ticketed": ticketed,
        "total": 15 if day else 50,
        "day_count": 15 if day else 0,
        "day_ends_at": now + timedelta(hours=5),
    }
    with world.database.write() as connection:
        connection.execute(insert(Tries).values(values))


def reaches(world: World) -> Reaches:
    return Reaches(world.services.transactions, world.services.journeys)


def counted(of: Reaches, slug: str) -> Reach:
    """The reach once the count that it asks for has been made."""
    wait_for(lambda: (found := of.reach(slug)).counted_at is not None and not found.is_old)
    return of.reach(slug)


def passes(world: World, config: JourneyConfig, person: Person) -> bool:
    """By the rules of a visit: found by what is typed or by a ticket, and a method of its own for each step."""
    alone, is_matched = len(config.verify_steps) == 1, config.relay_defence == "phone_match"
    steps = [phone_only(step.methods) if is_matched else step.methods for step in config.verify_steps]
    ways = [[m for m in step if can_prove(person, m, alone=alone) and _may(world, config, person, m)] for step in steps]
    changed = person.changed_lately(config.limits.changed_contact_hours, world.clock.now)
    return _is_found(world, config, person) and any(
        len(set(chosen)) == len(chosen) and not all(CARRIES.get(method) in changed for method in chosen)
        for chosen in itertools.product(*ways)
    )


def _may(world: World, config: JourneyConfig, person: Person, method: str) -> bool:
    if method == "sms_code" and country_of(person.contact("sms", world.services.keyring)) != "ZA":
        return False
    bounds, is_ticketed = config.limits, config.relay_defence == "phone_match"
    with world.transactions.read() as work:
        return not tries.person_has_spent(work, person.key, method, bounds, is_ticketed=is_ticketed)


def _is_found(world: World, config: JourneyConfig, person: Person) -> bool:
    keyring = world.services.keyring
    typed = {
        "customer_id": person.customer_id,
        "phone": person.contact("sms", keyring) if person.phone_sealed else "",
        "email": person.contact("email", keyring) if person.email_sealed else "",
    }
    if config.relay_defence == "phone_match":
        try:
            if world.services.tickets.register(TicketRequest(config.slug, msisdn=typed["phone"] or "-")).names_customer:
                return True
        except Problem:
            return False
    with world.database.read() as connection:
        for kind in config.identifiers:
            named = read_identifier(typed[kind], config.identifiers, "ZA", keyring)
            if named is not None and find_person(connection, named).row == person.row:
                return True
    return False


def people(database: Database) -> list[Person]:
    with database.read() as connection:
        from_rows = CustomerRow.__table__.select().with_only_columns(*PERSON_COLUMNS)
        return [person_from(row, "") for row in connection.execute(from_rows)]


def all_unreached(counted: Reaches, slug: str, key: str = "") -> list[Unreached]:
    """Every page of the list, one after the other."""
    wait_for(lambda: counted.unreached(slug, key).is_counted)
    page = counted.unreached(slug, key)
    found = list(page.people)
    while page.after:
        page = counted.unreached(slug, key, page.after)
        assert len(page.people) <= PAGE_SIZE
        found += page.people
    return found


def test_reach_agrees_with_what_a_visit_would_meet(crowded: World) -> None:
    of = reaches(crowded)
    everybody = people(crowded.database)
    for slug in SLUGS:
        config = crowded.services.journeys.current().journey(slug).config
        expected = {person.row or "" for person in everybody if passes(crowded, config, person)}
        reach = counted(of, slug)
        assert (reach.total, reach.passing) == (160, len(expected)), slug
        assert 0 < reach.passing < 160, f"{slug}: the crowd should have both kinds"
        assert reach.disabled.people == 15
        assert reach.disabled.people + sum(step.lost for step in reach.steps) == reach.lost
        listed = [person.row or "" for person in all_unreached(of, slug)]
        assert sorted(listed) == sorted({person.row or "" for person in everybody} - expected), slug


def test_a_single_person_is_told_what_the_lists_say(crowded: World) -> None:
    of = reaches(crowded)
    stopped = {slug: {person.row: person.obstacle for person in all_unreached(of, slug)} for slug in SLUGS}
    for row in crowded.rows(CustomerRow):
        passages = {passage.slug: passage.obstacle for passage in of.passages(row.id)}
        assert passages == {slug: stopped[slug].get(row.id) for slug in SLUGS}, row.customer_id
    with pytest.raises(NotFound):
        of.passages("nobody")


def test_each_reason_leads_to_just_those_whom_it_stops(crowded: World) -> None:
    of = reaches(crowded)
    for slug in SLUGS:
        for step in counted(of, slug).steps:
            for stop in step.stops:
                listed = all_unreached(of, slug, stop.obstacle.key)
                assert {person.obstacle for person in listed} == {stop.obstacle}
                assert len(listed) == stop.people


def test_every_reason_is_met(crowded: World) -> None:
    of, whys = reaches(crowded), set()
    for slug in SLUGS:
        whys |= {why for step in counted(of, slug).steps for stop in step.stops for why in stop.obstacle.whys}
    assert whys == {
        "no_phone", "no_email", "no_password", "short_password", "no_totp", "foreign_phone", "locked", "used",
        "shared_phone", "shared_email", "changed_phone", "changed_email",
    }  # fmt: skip


@pytest.mark.parametrize("few", [census.FEW, 0])
def test_a_page_that_looks_in_vain_is_short_and_goes_on(
    crowded: World, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Pieces of the search are small here, so that pages and contacts are cut at every possible place.

    Shared contacts are found in the list of the count, and in the index where they are more than it lists.
    """
    monkeypatch.setattr("auth_portal.services.reach.census.FEW", few)
    of = reaches(crowded)
    whole = {slug: sorted(person.row for person in all_unreached(of, slug)) for slug in SLUGS}
    for size in (2, 3, 7):
        monkeypatch.setattr("auth_portal.services.reach.census.CHUNK", size)
        monkeypatch.setattr("auth_portal.services.reach.census.WINDOW", size)
        monkeypatch.setattr("auth_portal.services.reach.reach.SEARCHES", 2)
        for slug in ("by-phone", "by-contact", "matched-mail", "wait-one", "wait-own"):
            assert sorted(person.row for person in all_unreached(of, slug)) == whole[slug], (slug, size)


def test_a_place_that_makes_no_sense_is_the_beginning(crowded: World) -> None:
    of = reaches(crowded)
    counted(of, "id-sms")
    first = of.unreached("id-sms")
    for place in ("nonsense", "group:", "group:x:y:z", "group", ":", "0:0:0:0:0"):
        assert of.unreached("id-sms", "", place) == first, place
    for place in ("group:99999999999999999999:ZA:x", "tried:~", "phone:~:~", "email"):
        assert of.unreached("id-sms", "", place).is_counted, place


def test_phones_abroad_are_told_by_country(crowded: World) -> None:
    (stop,) = [
        stop for stop in counted(reaches(crowded), "id-sms").steps[1].stops if "foreign_phone" in stop.obstacle.whys
    ]
    assert set(stop.countries) == {"NA", "GB"}
    assert sum(stop.countries.values()) == stop.people > 0


def test_a_country_that_is_not_known_yet_passes_and_is_said(crowded: World) -> None:
    of = reaches(crowded)
    assert counted(of, "id-sms").unknown_countries == 0
    with crowded.database.write() as connection:
        connection.execute(update(CustomerRow).values(phone_country=None))
    crowded.clock.advance(61)
    phones = sum(row.is_active and row.phone_key is not None for row in crowded.rows(CustomerRow))
    reach = counted(of, "id-sms")
    assert reach.unknown_countries == phones
    assert not any("foreign_phone" in stop.obstacle.whys for stop in reach.steps[1].stops)
    assert counted(of, "password").unknown_countries == 0, "where no SMS is sent it does not matter"


def test_locks_are_counted_and_told_with_their_ends(small_world: World) -> None:
    rows = {row.customer_id: row.id for row in small_world.rows(CustomerRow)}
    spend(small_world, rows["C-1001"], "sms_code", day=True)
    spend(small_world, rows["C-1002"], "sms_code", day=False)
    of = reaches(small_world)
    reach = counted(of, "balance")
    assert [(stop.people, stop.obstacle.key) for stop in reach.steps[1].stops] == [(2, "2-sms_code.locked")]
    until = small_world.clock() + timedelta(hours=5)
    (balance,) = [passage for passage in of.passages(rows["C-1001"]) if passage.slug == "balance"]
    assert [(lock.method, lock.until) for lock in balance.locks] == [("sms_code", until)]
    assert balance.by_ticket, "the tries of links with a ticket are counted apart"
    (balance,) = [passage for passage in of.passages(rows["C-1002"]) if passage.slug == "balance"]
    assert [(lock.method, lock.until) for lock in balance.locks] == [("sms_code", None)]
    small_world.clock.advance(6 * 3600)
    reach = counted(of, "balance")
    assert [stop.people for stop in reach.steps[1].stops] == [1], "the day of the first one is over"


def test_a_phone_that_was_sent_enough_is_told_with_its_end(small_world: World) -> None:
    """Five messages an hour leave for one phone; the sixth is asked for and withheld."""
    for number in range(6):
        small_world.browser().begin(f"r-{number}")
        wait_for(lambda: [row.state for row in small_world.rows(Delivery)].count("pending") == 0)
    of, row = reaches(small_world), small_world.services.customers.row_of("C-1001")
    passages = {passage.slug: passage for passage in of.passages(row)}
    until = small_world.clock() + timedelta(hours=1)
    assert [(rest.method, rest.until) for rest in passages["balance"].rests] == [("sms_code", until)]
    assert passages["balance"].obstacle is None
    assert passages["app"].rests == ()
    small_world.clock.advance(3600)
    assert all(passage.rests == () for passage in of.passages(row))


def test_a_method_that_no_channel_carries_lets_nobody_pass(small_world: World) -> None:
    of = reaches(small_world)
    assert counted(of, "balance").passing == 4
    assert counted(of, "balance").closed_methods == {}
    with small_world.database.write() as connection:
        connection.execute(update(ChannelRow).where(ChannelRow.name == "sms").values(is_active=False))
        connection.execute(update(Portal).values(version=Portal.version + 1))
    small_world.accept()
    small_world.services.journeys.renew()
    reach = counted(of, "balance")
    assert (reach.total, reach.passing, reach.is_open) == (4, 0, False)
    assert reach.closed_methods == {"sms_code": ("sms",)}
    assert {person.obstacle.key for person in all_unreached(of, "balance")} == {"2-sms_code.no_channel"}


def test_a_channel_that_fails_is_told(small_world: World) -> None:
    assert counted(reaches(small_world), "balance").troubles == ()
    now = small_world.clock()
    values = {"name": "sms", "failures_in_row": 2, "failed_at": now, "failing_since": now, "accepted_at": None}
    with small_world.database.write() as connection:
        connection.execute(insert(ChannelState).values(**values, needs_admin=True, reason="no funds"))
    (trouble,) = counted(reaches(small_world), "balance").troubles
    assert (trouble.channel, trouble.reason, trouble.needs_admin) == ("sms", "no funds", True)
    assert counted(reaches(small_world), "app").troubles == ()


def test_a_cap_below_the_number_of_customers_is_told(small_world: World) -> None:
    of = reaches(small_world)
    assert counted(of, "balance").caps == ()
    with small_world.database.write() as connection:
        (row,) = [row for row in small_world.rows(ChannelRow) if row.name == "sms"]
        config = {**row.config, "daily_cap": 4}
        connection.execute(update(ChannelRow).where(ChannelRow.name == "sms").values(config=config))
        connection.execute(update(Portal).values(version=Portal.version + 1))
        now = small_world.clock()
        used = {"key": cap_key("sms", "ZA", now), "events": 2, "ends_at": now + timedelta(days=1)}
        connection.execute(insert(Counter).values(used))
    small_world.accept()
    small_world.services.journeys.renew()
    (cap,) = counted(of, "balance").caps
    assert (cap.channel, cap.country, cap.a_day, cap.used, cap.people) == ("sms", "ZA", 2, 2, 4)


def test_a_count_is_kept_for_a_minute_and_an_old_one_is_said_to_be_old(small_world: World) -> None:
    of = reaches(small_world)
    assert counted(of, "balance").passing == 4
    with small_world.database.write() as connection:
        connection.execute(update(CustomerRow).values(is_active=False))
    small_world.accept()
    assert of.reach("balance").passing == 4
    small_world.clock.advance(61)
    found = of.reach("balance")
    assert (found.passing, found.is_old) in ((4, True), (0, False))
    assert counted(of, "balance").passing == 0


def test_no_page_waits_for_a_count_that_takes_long(small_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auth_portal.services.reach.reach.PATIENCE_SECONDS", 0)
    has_looked, real = threading.Event(), census.count

    def count(*given: Any, **named: Any) -> Census:
        has_looked.wait(60)
        return real(*given, **named)

    of = reaches(small_world)
    monkeypatch.setattr("auth_portal.services.reach.reach.census.count", count)
    found, listed = of.reach("balance"), of.unreached("balance")
    assert (found.counted_at, found.total, listed.is_counted) == (None, 0, False)
    monkeypatch.undo()
    has_looked.set()
    assert counted(of, "balance").passing == 4
    assert of.unreached("balance").is_counted


def test_phones_that_may_get_no_sms_are_counted_and_of_many_estimated(
    small_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"L-{n},011555{n:04}\n" for n in range(6)) + "L-T,0800123456\nL-M,0825550000\n"
    report = small_world.services.command_import.import_csv(
        f"customer_id,phone\n{rows}".encode(), default_region="ZA", dry_run=False
    )
    assert not report.errors
    reaches = small_world.services.reaches
    wait_for(lambda: reaches.reach("balance").counted_at is not None)
    found = reaches.reach("balance")
    assert (dict(found.lines), found.is_estimate) == ({"landline": 6, "toll-free": 1}, False)
    monkeypatch.setattr("auth_portal.services.reach.reach.LINES_LOOKED_AT", 4)
    small_world.clock.advance(LINES_SECONDS + 1)
    wait_for(lambda: reaches.reach("balance").is_estimate)
    assert sum(reaches.reach("balance").lines.values()) in range(found.total + 3)
    assert not reaches.reach("password").lines  # it sends no SMS
