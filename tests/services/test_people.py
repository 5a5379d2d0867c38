"""One person of the directory: made, changed, found, revealed; and what two admins at once come to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from auth_portal.crypto import Keyring, Passwords
from auth_portal.errors import NotFound
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.delivery.notices import Notices
from auth_portal.services.directory.batches import BATCH, read_ids_again
from auth_portal.services.directory.customers import PAGE, Customers
from auth_portal.services.directory.person import find_person, read_identifier
from auth_portal.services.imports.imports import CommandImport
from auth_portal.store.db import Database, Transactions
from auth_portal.store.models import AuditEvent, CustomerRow
from tests.services.conftest import NOW, choose_country

SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
ADMIN = "a" * 32


class Ticking:
    """A clock that goes on by a second whenever it is asked."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def people(database: Database, keyring: Keyring, passwords: Passwords) -> Customers:
    choose_country(database)
    transactions = Transactions(database, keyring, Ticking())
    journeys = Journeys(transactions, has_sandbox=False)
    return Customers(transactions, passwords, journeys, Notices(journeys, "http://127.0.0.1:8000"))


def made(people: Customers, customer_id: str = "C-1001", **fields: str) -> str:
    saved = people.create({"customer_id": customer_id, **fields}, admin_id=ADMIN)
    assert not saved.faults
    return saved.row


def events(database: Database, kind: str) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(select(AuditEvent).where(AuditEvent.kind == kind)).mappings())


def test_a_customer_made_by_hand_is_as_one_from_a_file(
    people: Customers, database: Database, keyring: Keyring, passwords: Passwords
) -> None:
    fields = {"name": " Thandi  Nkosi", "phone": "082 123 4567", "email": "Thandi@Example.com", "locale": "en-ZA"}
    row = made(people, "C 1001", **fields, password="correct horse battery", totp_secret=SEED.lower())
    person = people.get(row)
    assert (person.customer_id, person.phone, person.email) == ("C 1001", "+27821234567", "thandi@example.com")
    assert (person.has_password, person.password_is_long, person.has_totp, person.is_active) == (True,) * 4
    named = read_identifier("c1001", ["customer_id"], "ZA", keyring)
    assert named is not None
    with database.read() as connection:
        found = find_person(connection, named)
    assert passwords.matches(found.password_hash(keyring, alone=True), "correct horse battery")
    assert found.totp_seed(keyring) == SEED
    (event,) = events(database, "customer_created")
    assert (event["admin_id"], event["subject_id"]) == (ADMIN, person.subject_id)
    assert event["facts"] == {"fields": ["customer_id", "email", "locale", "name", "password", "phone", "totp_secret"]}


def test_every_fault_is_told_by_field_and_nothing_is_made(people: Customers) -> None:
    saved = people.create({"customer_id": " ", "phone": "12", "email": "nobody", "locale": "en", "password": "short"})
    assert saved.faults == {
        "customer_id": "is missing",
        "phone": "is not a phone number (numbers without + are read as numbers of South Africa)",
        "email": "is not an email address that codes can be sent to",
        "password": "is shorter than 8 characters",
    }
    assert not people.page().customers


def test_a_customer_id_is_taken_once(people: Customers) -> None:
    made(people, "C-1001")
    other = made(people, "C-1002")
    taken = {"customer_id": "is another customer's already"}
    assert people.create({"customer_id": "c - 1001"}).faults == taken
    assert people.change(other, {"customer_id": "c-1001"}).faults == taken
    assert people.change(other, {"customer_id": None}).faults == {"customer_id": "is missing"}


def test_what_is_not_said_stays_and_none_clears(people: Customers, database: Database) -> None:
    row = made(people, name="Thandi", phone="0821234567", locale="en")
    saved = people.change(row, {"name": "", "phone": None, "locale": "af"}, admin_id=ADMIN, why="asked")
    assert saved.changed == ("locale", "phone")
    person = people.get(row)
    assert (person.name, person.phone, person.locale) == ("Thandi", "", "af")
    assert events(database, "customer_changed")[0]["facts"] == {
        "fields": ["locale", "phone"],
        "changes": {"customer": {"locale": ["en", "af"], "phone": ["one on file (ZA)", ""]}},
        "why": "asked",
    }
    assert people.change(row, {"name": "Thandi", "phone": None}).changed == ()
    assert len(events(database, "customer_changed")) == 1


def test_a_changed_customer_id_is_found_by_its_new_form(people: Customers) -> None:
    row = made(people, "C-1001")
    people.change(row, {"customer_id": "D 2002"})
    assert people.row_of("d2002") == row
    with pytest.raises(NotFound):
        people.row_of("C-1001")


def test_of_two_admins_the_second_is_told(people: Customers) -> None:
    row = made(people, phone="0821234567")
    seen_at = people.get_masked(row).changed_at
    assert people.change(row, {"phone": "0821234568"}, seen_at=seen_at).changed == ("phone",)
    late = people.change(row, {"phone": "0821234569"}, seen_at=seen_at)
    assert (late.is_stale, late.changed) == (True, ())
    assert people.get(row).phone == "+27821234568"


def test_a_change_between_reading_and_writing_is_not_overwritten(
    people: Customers, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = made(people, phone="0821234567")
    hashed = people._hashed

    def overtaken(changes: dict[str, str | None]) -> Any:
        monkeypatch.setattr(people, "_hashed", hashed)
        people.change(row, {"phone": "0821234568"})
        return hashed(changes)

    monkeypatch.setattr(people, "_hashed", overtaken)
    assert people.change(row, {"phone": "0821234569"}).is_stale
    assert people.get(row).phone == "+27821234568"


@pytest.mark.parametrize(
    "typed",
    ["c - 1001", "082 123 4567", "+27 82 123 4567", "Thandi@EXAMPLE.com", " thandi   NKOSI ", "ＴＨＡＮＤＩ nkosi"],
)
def test_somebody_is_found_by_what_names_them_exactly(people: Customers, typed: str) -> None:
    row = made(people, name="Thandi Nkosi", phone="0821234567", email="thandi@example.com")
    made(people, "C-1002", name="Sipho", phone="0831234567")
    assert [found.row for found in people.page(typed=typed).customers] == [row]
    for other in ("Thandi", "C-100", "082 123 4568", "andi@example.com"):
        assert not people.page(typed=other).customers


def test_an_imported_name_is_found_too_and_a_changed_one_by_its_new_form(
    people: Customers, directory: CommandImport
) -> None:
    directory.import_csv(b"customer_id,name\nC,Thandi Nkosi\n", default_region="ZA", dry_run=False)
    (found,) = people.page(typed="thandi nkosi").customers
    people.change(found.row, {"name": "Thandi Dlamini"})
    assert not people.page(typed="Thandi Nkosi").customers
    assert len(people.page(typed="Thandi Dlamini").customers) == 1


def test_lists_are_masked_and_paged_by_key(people: Customers, directory: CommandImport) -> None:
    rows = "".join(f"C-{number:03},Same Name,0821234567,{number}@example.com\n" for number in range(PAGE + 20))
    directory.import_csv(f"customer_id,name,phone,email\n{rows}".encode(), default_region="ZA", dry_run=False)
    for typed in ("", "same name", "0821234567"):
        first = people.page(typed=typed)
        second = people.page(first.after, typed)
        assert (len(first.customers), len(second.customers), second.after) == (PAGE, 20, "")
        assert [found.customer_id for found in (*first.customers, *second.customers)] == [
            f"C-{number:03}" for number in range(PAGE + 20)
        ]
    shown = first.customers[7]
    assert (shown.name, shown.phone, shown.email) == ("S••• N•••", "••• 567", "7•••@example.com")


def test_revealing_is_on_the_record(people: Customers, database: Database) -> None:
    row = made(people, name="Thandi Nkosi", phone="0821234567")
    assert people.get_masked(row).name == "T••• N•••"
    assert not events(database, "customer_revealed")
    shown = people.reveal(row, ADMIN)
    assert (shown.name, shown.phone) == ("Thandi Nkosi", "+27821234567")
    (event,) = events(database, "customer_revealed")
    assert (event["admin_id"], event["subject_id"], event["facts"]) == (ADMIN, shown.subject_id, {})


def test_switched_off_and_on(people: Customers, database: Database) -> None:
    row = made(people)
    people.set_active(row, is_active=False, admin_id=ADMIN)
    assert not people.get_masked(row).is_active
    people.set_active(row, is_active=True, admin_id=ADMIN)
    assert people.get_masked(row).is_active
    assert [len(events(database, kind)) for kind in ("customer_disabled", "customer_enabled")] == [1, 1]


def test_nobody(people: Customers) -> None:
    for act in (
        people.get_masked,
        lambda row: people.reveal(row, ADMIN),
        lambda row: people.change(row, {"name": "T"}),
    ):
        with pytest.raises(NotFound):
            act("no-such-row")


def test_r42_no_event_has_anybodys_data(people: Customers, database: Database) -> None:
    row = made(people, name="Thandi Nkosi", phone="0821234567", email="t@example.com", password="correct horse battery")
    people.change(row, {"phone": "0821234568", "name": "Sipho"}, admin_id=ADMIN)
    with database.read() as connection:
        told = str(connection.execute(select(AuditEvent.facts)).all())
        stored = connection.execute(select(CustomerRow)).mappings().one()
    for secret in ("Thandi", "Sipho", "821234567", "t@example.com", "horse", "C-1001"):
        assert secret not in told
    assert stored["name_key"] is not None


def test_names_of_an_older_version_are_found_after_the_upgrade(
    people: Customers, directory: CommandImport, database: Database, keyring: Keyring
) -> None:
    rows = "".join(f"C-{number},Somebody Else,\n" for number in range(BATCH + 3))
    directory.import_csv(f"customer_id,name,phone\n{rows}C-X,,\n".encode(), default_region="ZA", dry_run=False)
    with database.write() as connection:
        connection.execute(update(CustomerRow).values(name_key=None))
    assert not people.page(typed="somebody else").customers
    with database.write() as connection:
        connection.execute(update(CustomerRow).values(shared_key=None))
    assert read_ids_again(database, lambda: keyring) == BATCH + 4
    assert len(people.page(typed="somebody else").customers) == PAGE
    assert read_ids_again(database, lambda: keyring) == 0
