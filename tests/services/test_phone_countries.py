"""The country of a phone stands beside it, whoever writes the phone; older rows are learned."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from auth_portal.services.directory import batches
from auth_portal.services.directory.person import country_of
from auth_portal.services.operations.retention import Housekeeping
from auth_portal.store.models import CustomerRow
from tests.world import World


def countries(world: World) -> dict[str, str | None]:
    return {row.customer_id: row.phone_country for row in world.rows(CustomerRow)}


@pytest.mark.parametrize(
    ("phone", "country"),
    [
        ("+27821234567", "ZA"),
        ("+264811234567", "NA"),
        ("+12025550123", "US"),
        ("+14165550123", "CA"),  # one calling code, several countries: the number must be read
        ("+447400123456", "GB"),
        ("+447911120007", "GG"),
        ("+80012345678", "001"),  # of no country
    ],
)
def test_the_country_of_a_number(phone: str, country: str) -> None:
    assert country_of(phone) == country


def test_whoever_writes_a_phone_writes_its_country(world: World) -> None:
    people = world.services.customers
    saved = people.create({"customer_id": "N-1", "phone": "+264811234567"})
    assert countries(world)["N-1"] == "NA"
    people.change(saved.row, {"phone": "082 123 4567"})
    assert countries(world)["N-1"] == "ZA"
    people.change(saved.row, {"name": "Somebody"})
    assert countries(world)["N-1"] == "ZA"
    people.change(saved.row, {"phone": None})
    assert countries(world)["N-1"] is None


def test_an_import_writes_it_for_new_and_for_changed_customers(world: World) -> None:
    assert countries(world) == dict.fromkeys(("C-1001", "C-1002", "C-1003", "C-1004"), "ZA")
    services = world.services
    directory = services.command_import
    file = b"customer_id,phone\nC-1001,+264811234567\nC-1002,-\nN-1,+447400123456\nN-2,\n"
    assert not directory.import_csv(file, default_region="ZA", dry_run=False).errors
    found = countries(world)
    assert [found[name] for name in ("C-1001", "C-1002", "C-1003", "N-1", "N-2")] == ["NA", None, "ZA", "GB", None]


def test_older_rows_are_learned_in_batches_and_only_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_COUNTRYLESS", batches._COUNTRYLESS.limit(3))
    world.services.customers.create({"customer_id": "N-1", "email": "n1@example.com"})
    with world.database.write() as connection:
        connection.execute(update(CustomerRow).values(phone_country=None))
    assert batches.add_countries(world.database, world.services.keyring, is_stopping=lambda: False) == 4
    assert countries(world) == {**dict.fromkeys(("C-1001", "C-1002", "C-1003", "C-1004"), "ZA"), "N-1": None}
    assert batches.add_countries(world.database, world.services.keyring, is_stopping=lambda: False) == 0


def test_what_no_key_opens_holds_the_others_up_no_longer(world: World) -> None:
    with world.database.write() as connection:
        connection.execute(update(CustomerRow).values(phone_country=None))
        broken = CustomerRow.customer_id == "C-1002"
        connection.execute(update(CustomerRow).where(broken).values(phone_sealed=b"\0" * 60))
    Housekeeping(world.transactions).complete()
    assert countries(world) == {**dict.fromkeys(("C-1001", "C-1003", "C-1004"), "ZA"), "C-1002": ""}


def test_a_phone_that_changes_meanwhile_keeps_its_own_country(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the reading of a batch and the writing of what was learned somebody changes the phone."""
    row = world.services.customers.row_of("C-1001")
    with world.database.write() as connection:
        connection.execute(update(CustomerRow).where(CustomerRow.id == row).values(phone_country=None))

    def read(phone: str) -> str:
        world.services.customers.change(row, {"phone": "+264811234567"})
        return country_of(phone)

    monkeypatch.setattr(batches, "country_of", read)
    batches.add_countries(world.database, world.services.keyring, is_stopping=lambda: False)
    assert countries(world)["C-1001"] == "NA"
