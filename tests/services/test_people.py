"""One person of the directory: made, changed, found, revealed; and what two admins at once come to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from auth_portal.crypto import Keyring, Passwords
from auth_portal.errors import NotFound
from auth_portal.services.directory import customers, name_index
from auth_portal.services.directory.directory import Directory
from auth_portal.services.directory.people import PAGE, People
from auth_portal.services.journeys import Journeys
from auth_portal.services.notices import Notices
from auth_portal.store.db import Database
from auth_portal.store.models import AuditEvent, CustomerRow
from tests.services.conftest import NOW

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
def people(database: Database, keyring: Keyring, passwords: Passwords) -> People:
    journeys = Journeys(database, keyring, has_sandbox=False)
    return People(database, keyring, passwords, Ticking(), journeys, Notices(keyring, journeys))


def made(people: People, customer_id: str = "C-1001", **fields: str) -> str:
    saved = people.create({"customer_id": customer_id, **fields}, admin_id=ADMIN)
    assert not saved.faults
    return saved.row


def events(database: Database, kind: str) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(select(AuditEvent).where(AuditEvent.kind == kind)).mappings())


def test_a_customer_made_by_hand_is_as_one_from_a_file(
    people: People, database: Database, keyring: Keyring, passwords: Passwords
) -> None:
    fields = {"name": " Thandi  Nkosi", "phone": "082 123 4567", "email": "Thandi@Example.com", "locale": "en-ZA"}
    row = made(people, "C 1001", **fields, password="correct horse battery", totp_secret=SEED.lower())
    person = people.opened(row)
    assert (person.customer_id, person.phone, person.email) == ("C 1001", "+27821234567", "thandi@example.com")
    assert (person.has_password, person.password_is_long, person.has_totp, person.is_active) == (True,) * 4
    named = customers.read_identifier("c1001", ["customer_id"], "ZA", keyring)
    assert named is not None
    with database.read() as connection:
        found = customers.find(connection, named)
    assert passwords.matches(found.password_hash(keyring, alone=True), "correct horse battery")
    assert found.totp_seed(keyring) == SEED
    (event,) = events(database, "customer_created")
    assert (event["admin_id"], event["subject_id"]) == (ADMIN, person.subject_id)
    assert event["facts"] == {"fields": ["customer_id", "email", "locale", "name", "password", "phone", "totp_secret"]}


def test_every_fault_is_told_by_field_and_nothing_is_made(people: People) -> None:
    saved = people.create({"customer_id": " ", "phone": "12", "email": "nobody", "locale": "en", "password": "short"})
    assert saved.faults == {
        "customer_id": "is missing",
        "phone": "is no phone number (numbers without + are read as of ZA)",
        "email": "is no e-mail address that codes can be sent to",
        "password": "is shorter than 8 characters",
    }
    assert not people.listed().customers


def test_a_customer_id_is_taken_once(people: People) -> None:
    made(people, "C-1001")
    other = made(people, "C-1002")
    taken = {"customer_id": "is another customer's already"}
    assert people.create({"customer_id": "c - 1001"}).faults == taken
    assert people.change(other, {"customer_id": "c-1001"}).faults == taken
    assert people.change(other, {"customer_id": None}).faults == {"customer_id": "is missing"}


def test_what_is_not_said_stays_and_none_clears(people: People, database: Database) -> None:
    row = made(people, name="Thandi", phone="0821234567", locale="en")
    saved = people.change(row, {"name": "", "phone": None, "locale": "af"}, admin_id=ADMIN, why="asked")
    assert saved.changed == ("locale", "phone")
    person = people.opened(row)
    assert (person.name, person.phone, person.locale) == ("Thandi", "", "af")
    assert events(database, "customer_changed")[0]["facts"] == {"fields": ["locale", "phone"], "why": "asked"}
    assert people.change(row, {"name": "Thandi", "phone": None}).changed == ()
    assert len(events(database, "customer_changed")) == 1


def test_a_changed_customer_id_is_found_by_its_new_form(people: People) -> None:
    row = made(people, "C-1001")
    people.change(row, {"customer_id": "D 2002"})
    assert people.row_of("d2002") == row
    with pytest.raises(NotFound):
        people.row_of("C-1001")


def test_of_two_admins_the_second_is_told(people: People) -> None:
    row = made(people, phone="0821234567")
    seen_at = people.look(row).changed_at
    assert people.change(row, {"phone": "0821234568"}, seen_at=seen_at).changed == ("phone",)
    late = people.change(row, {"phone": "0821234569"}, seen_at=seen_at)
    assert (late.is_stale, late.changed) == (True, ())
    assert people.opened(row).phone == "+27821234568"


def test_a_change_between_reading_and_writing_is_not_overwritten(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = made(people, phone="0821234567")
    hashed = people._hashed

    def overtaken(changes: dict[str, str | None]) -> Any:
        monkeypatch.setattr(people, "_hashed", hashed)
        people.change(row, {"phone": "0821234568"})
        return hashed(changes)

    monkeypatch.setattr(people, "_hashed", overtaken)
    assert people.change(row, {"phone": "0821234569"}).is_stale
    assert people.opened(row).phone == "+27821234568"


@pytest.mark.parametrize(
    "typed",
    ["c - 1001", "082 123 4567", "+27 82 123 4567", "Thandi@EXAMPLE.com", " thandi   NKOSI ", "ＴＨＡＮＤＩ nkosi"],
)
def test_somebody_is_found_by_what_names_them_exactly(people: People, typed: str) -> None:
    row = made(people, name="Thandi Nkosi", phone="0821234567", email="thandi@example.com")
    made(people, "C-1002", name="Sipho", phone="0831234567")
    assert [found.row for found in people.listed(typed=typed).customers] == [row]
    for other in ("Thandi", "C-100", "082 123 4568", "andi@example.com"):
        assert not people.listed(typed=other).customers


def test_an_imported_name_is_found_too_and_a_changed_one_by_its_new_form(people: People, directory: Directory) -> None:
    directory.import_csv(b"customer_id,name\nC,Thandi Nkosi\n", default_region="ZA", dry_run=False)
    (found,) = people.listed(typed="thandi nkosi").customers
    people.change(found.row, {"name": "Thandi Dlamini"})
    assert not people.listed(typed="Thandi Nkosi").customers
    assert len(people.listed(typed="Thandi Dlamini").customers) == 1


def test_lists_are_masked_and_paged_by_key(people: People, directory: Directory) -> None:
    rows = "".join(f"C-{number:03},Same Name,0821234567,{number}@example.com\n" for number in range(PAGE + 20))
    directory.import_csv(f"customer_id,name,phone,email\n{rows}".encode(), default_region="ZA", dry_run=False)
    for typed in ("", "same name", "0821234567"):
        first = people.listed(typed=typed)
        second = people.listed(first.after, typed)
        assert (len(first.customers), len(second.customers), second.after) == (PAGE, 20, "")
        assert [found.customer_id for found in (*first.customers, *second.customers)] == [
            f"C-{number:03}" for number in range(PAGE + 20)
        ]
    shown = first.customers[7]
    assert (shown.name, shown.phone, shown.email) == ("S••• N•••", "••• 567", "7•••@example.com")


def test_revealing_is_on_the_record(people: People, database: Database) -> None:
    row = made(people, name="Thandi Nkosi", phone="0821234567")
    assert people.look(row).name == "T••• N•••"
    assert not events(database, "customer_revealed")
    shown = people.reveal(row, ADMIN)
    assert (shown.name, shown.phone) == ("Thandi Nkosi", "+27821234567")
    (event,) = events(database, "customer_revealed")
    assert (event["admin_id"], event["subject_id"], event["facts"]) == (ADMIN, shown.subject_id, {})


def test_switched_off_and_on(people: People, database: Database) -> None:
    row = made(people)
    people.set_active(row, is_active=False, admin_id=ADMIN)
    assert not people.look(row).is_active
    people.set_active(row, is_active=True, admin_id=ADMIN)
    assert people.look(row).is_active
    assert [len(events(database, kind)) for kind in ("customer_disabled", "customer_enabled")] == [1, 1]


def test_nobody(people: People) -> None:
    for act in (people.look, lambda row: people.reveal(row, ADMIN), lambda row: people.change(row, {"name": "T"})):
        with pytest.raises(NotFound):
            act("no-such-row")


def test_r42_no_event_has_anybodys_data(people: People, database: Database) -> None:
    row = made(people, name="Thandi Nkosi", phone="0821234567", email="t@example.com", password="correct horse battery")
    people.change(row, {"phone": "0821234568", "name": "Sipho"}, admin_id=ADMIN)
    with database.read() as connection:
        told = str(connection.execute(select(AuditEvent.facts)).all())
        stored = connection.execute(select(CustomerRow)).mappings().one()
    for secret in ("Thandi", "Sipho", "821234567", "t@example.com", "horse", "C-1001"):
        assert secret not in told
    assert stored["name_key"] is not None


def test_names_of_an_older_version_are_found_after_the_upgrade(
    people: People, directory: Directory, database: Database, keyring: Keyring
) -> None:
    rows = "".join(f"C-{number},Somebody Else,\n" for number in range(name_index.BATCH + 3))
    directory.import_csv(f"customer_id,name,phone\n{rows}C-X,,\n".encode(), default_region="ZA", dry_run=False)
    with database.write() as connection:
        connection.execute(update(CustomerRow).values(name_key=None))
    assert not people.listed(typed="somebody else").customers
    assert name_index.fill(database, lambda: keyring) == name_index.BATCH + 3
    assert len(people.listed(typed="somebody else").customers) == PAGE
    assert name_index.fill(database, lambda: keyring) == 0
