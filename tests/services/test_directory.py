"""The customers CSV: what is refused, what is kept, what an import counts, and the erasing of one person."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from auth_portal.crypto import Keyring, Passwords, normal_password
from auth_portal.errors import Misconfigured, NotFound
from auth_portal.services.directory.fields import FIELDS, NOT_A_VALUE
from auth_portal.services.directory.person import Person, find_person, id_form, read_identifier, row_of
from auth_portal.services.imports.csv import CsvFindings, read_header, read_rows
from auth_portal.services.imports.imports import CommandImport, ImportReport
from auth_portal.services.operations.personal_data import Erasure
from auth_portal.store.db import Database, canonical_event, new_id
from auth_portal.store.models import (
    VISIT_IDENTIFIER,
    AuditEvent,
    Challenge,
    CustomerRow,
    Delivery,
    Journey,
    JourneyVersion,
    Tries,
    Verification,
    Visit,
)
from tests.services.conftest import NOW
from tests.world import World, read_customers

SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
PHC = HASHER.hash("a password from elsewhere", salt=b"the salt is fixed")  # xdist: the same in every worker


def load(directory: CommandImport, text: str | bytes, *, dry_run: bool = False, region: str = "ZA") -> ImportReport:
    content = text.encode() if isinstance(text, str) else text
    return directory.import_csv(content, default_region=region, dry_run=dry_run)


def person(database: Database, keyring: Keyring, customer_id: str) -> Person:
    named = read_identifier(customer_id, ["customer_id"], "ZA", keyring)
    assert named is not None
    with database.read() as connection:
        return find_person(connection, named)


def row(database: Database, keyring: Keyring, customer_id: str) -> str:
    with database.read() as connection:
        return row_of(connection, keyring, customer_id)


def rows(database: Database) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(select(CustomerRow).order_by(CustomerRow.customer_key)).mappings())


def count(database: Database) -> int:
    return len(rows(database))


def faults(text: str | bytes, region: str = "ZA") -> list[str]:
    content = text.encode() if isinstance(text, str) else text
    return [str(fault) for fault in read_customers(content, region=region).faults]


def test_everything_imported_opens_again_in_its_one_form(
    directory: CommandImport, database: Database, keyring: Keyring, passwords: Passwords
) -> None:
    report = load(
        directory,
        "customer_id,name,phone,email,locale,password,totp_secret\r\n"
        " C-1001 ,Thandi Nkosi,082 123 4567,Thandi@Example.com,en-ZA,correct horse battery,"
        "jbsw y3dp-ehpk3pxp JBSWY3DPEHPK3PXP\r\n",
    )
    assert (report.new, report.changed, report.equal, report.error_count) == (1, 0, 0, 0)
    found = person(database, keyring, "c-1001")
    assert found.customer_id == "C-1001"
    assert found.name(keyring) == "Thandi Nkosi"
    assert found.contact("sms", keyring) == "+27821234567"
    assert found.contact("email", keyring) == "thandi@example.com"
    assert found.locale == "en-ZA"
    assert passwords.matches(found.password_hash(keyring, alone=True), "correct horse battery")
    assert found.totp_seed(keyring) == SEED
    assert found.is_active
    assert found.subject_id not in (None, "", found.row)


def test_a_contact_finds_its_customer_and_a_shared_one_nobody(
    directory: CommandImport, database: Database, keyring: Keyring
) -> None:
    load(directory, "customer_id,phone\nC-1,0821234567\nC-2,+27821234567\nC-3,0821234568\n")

    def found(phone: str) -> str | None:
        named = read_identifier(phone, ["phone"], "ZA", keyring)
        assert named is not None
        with database.read() as connection:
            return find_person(connection, named).customer_id or None

    assert found("082 123 4568") == "C-3"
    assert found("082 123 4567") is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_r42_nothing_personal_is_readable_in_the_database(
    directory: CommandImport, sqlite_url: str, keyring: Keyring, database: Database
) -> None:
    load(
        directory,
        f"customer_id,name,phone,email,password,totp_secret\nC,Thandi,0821234567,t@example.com,{'pw' * 8},{SEED}\n",
    )
    folder = Path(sqlite_url.removeprefix("sqlite:///")).parent
    stored = b"".join(path.read_bytes() for path in folder.glob("portal.db*"))
    for secret in (b"Thandi", b"821234567", b"t@example.com", b"pwpw", SEED.encode(), b"argon2id"):
        assert secret not in stored


def test_a_missing_column_and_an_empty_cell_leave_what_is_stored(
    directory: CommandImport, database: Database, keyring: Keyring
) -> None:
    load(directory, f"customer_id,name,phone,email,totp_secret\nC,Thandi,0821234567,t@example.com,{SEED}\n")
    report = load(directory, "customer_id,email,name\nC, ,Thandi Nkosi\n")
    assert (report.new, report.changed) == (0, 1)
    found = person(database, keyring, "C")
    assert found.name(keyring) == "Thandi Nkosi"
    assert found.contact("email", keyring) == "t@example.com"
    assert found.contact("sms", keyring) == "+27821234567"
    assert found.totp_seed(keyring) == SEED


def test_a_dash_clears(directory: CommandImport, database: Database, keyring: Keyring) -> None:
    text = "customer_id,name,phone,email,locale,password,totp_secret\nC,{}\n"
    load(directory, text.format(f"Thandi,0821234567,t@example.com,en,correct horse battery,{SEED}"))
    report = load(directory, text.format("-,-,-, - ,-,-"))
    assert report.changed == 1
    assert {name for name, tally in report.columns.items() if tally.cleared} == set(FIELDS) - {"customer_id"}
    (row,) = rows(database)
    assert all(
        row[column] is None for column in ("name_sealed", "phone_sealed", "phone_key", "email_sealed", "email_key")
    )
    assert (row["password_hash"], row["totp_sealed"]) == (None, None)
    assert (row["locale"], row["password_is_long"]) == ("", False)
    assert load(directory, text.format("-,-,-,-,-,-")).equal == 1


def test_importing_the_same_file_again_changes_nothing(directory: CommandImport, database: Database) -> None:
    text = (
        "customer_id,name,phone,email,locale,password,totp_secret\n"
        f"C-1,Thandi,0821234567,t@example.com,en,correct horse battery,{SEED}\n"
        f'C-2,Pieter,,,af,"{PHC}",\n'
    )
    load(directory, text)
    before = rows(database)
    report = load(directory, text)
    assert (report.new, report.changed, report.equal) == (0, 0, 2)
    assert all(tally.new == tally.changed == tally.cleared == 0 for tally in report.columns.values())
    assert rows(database) == before
    assert count_events(database) == 1  # a file that changes nothing leaves no event


def count_events(database: Database) -> int:
    with database.read() as connection:
        return len(connection.execute(select(AuditEvent.id)).all())


def test_nobody_is_deleted(directory: CommandImport, database: Database) -> None:
    load(directory, "customer_id\nC-1\nC-2\n")
    load(directory, "customer_id\nC-3\n")
    assert count(database) == 3


def test_the_customer_id_is_one_without_regard_to_case_and_blanks(directory: CommandImport, database: Database) -> None:
    load(directory, "customer_id,locale\nC 1001,en\n")
    report = load(directory, "customer_id,locale\nC1001,en\n")
    assert (report.new, report.changed) == (0, 1)
    assert [row["customer_id"] for row in rows(database)] == ["C1001"]


def test_a_dry_run_counts_as_the_import_does_and_writes_nothing(directory: CommandImport, database: Database) -> None:
    load(directory, "customer_id,phone,locale,password\nC-1,0821234567,en,correct horse\nC-2,,af,\nC-4,,en,\n")
    text = (
        "customer_id,phone,locale,password\n"
        "C-1,+27 82 123 4567,af,another password\n"
        "C-2,-,-,\n"
        "C-3,0821234569,,yet another one\n"
        "C-4,,en,\n"
    )
    before = rows(database)
    dry = load(directory, text, dry_run=True)
    assert rows(database) == before
    assert (dry.new, dry.changed, dry.equal) == (1, 2, 1)
    phone = dry.columns["phone"]
    assert (phone.new, phone.changed, phone.cleared, phone.equal) == (1, 0, 0, 2)  # clearing nothing is equal
    assert (dry.columns["locale"].changed, dry.columns["locale"].cleared) == (1, 1)
    assert (dry.columns["password"].changed, dry.columns["password"].new) == (1, 1)
    real = load(directory, text)
    assert (real.new, real.changed, real.equal, real.columns) == (dry.new, dry.changed, dry.equal, dry.columns)


def test_one_broken_row_and_nothing_is_imported_and_all_faults_are_told(
    directory: CommandImport, database: Database
) -> None:
    report = load(
        directory,
        "customer_id,phone,email,locale,password,totp_secret\n"
        "C-1,0821234567,,,,\n"
        "C-2,12,nobody,english please,short,ABC\n"
        "C-3,,,,,JBSWY3DPEHPK3PXP0189JBSWY3DPEHPK3PXP\n"
        ",0821234567,,,,\n",
    )
    assert count(database) == 0
    assert (report.new, report.error_count) == (0, 6)
    assert [(fault.row, fault.column) for fault in report.errors] == [
        (3, "phone"), (3, "email"), (3, "password"), (3, "totp_secret"), (4, "totp_secret"),
        (5, "customer_id"),
    ]  # fmt: skip
    assert report.lines[0] == "Nothing was imported: 6 faults."
    told = "\n".join(report.lines)
    assert not any(value in told for value in ("english", "short,", "ABC", "nobody", "0189"))


def test_two_rows_of_one_customer_are_a_fault_that_names_both() -> None:
    assert faults("customer_id\nC-1001\nC-1002\nC - 1001\n") == ["row 4, customer_id: is the same customer as in row 2"]


@pytest.mark.parametrize("text", ["customer_id;name\nC;Nkosi, Thandi\n", 'customer_id,name\nC,"Nkosi, Thandi"\n'])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_commas_semicolons_bom_and_line_ends(text: str, bom: bytes, newline: str) -> None:
    reading = read_customers(bom + text.replace("\n", newline).encode(), region="ZA")
    assert not reading.faults
    assert [dict(entry.cells) for entry in reading.entries] == [{"name": "Nkosi, Thandi"}]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "row 1: is empty"),
        ("\n", "row 1: is empty"),
        ("name\nThandi\n", "row 1, customer_id: is missing"),
        ("customer_id,mobile\nC,1\n", "row 1, column 2: is not known"),
        ("customer_id,\nC,\n", "row 1, column 2: is not known"),
        ("customer_id,name,Name\nC,a,b\n", "row 1, name: is given twice"),
        ("customer_id,name\nC\n", "row 2: has 1 cells, the header has 2"),
        ("customer_id,phone\nC,82123456.0\n", "row 2, phone: is a calculated number"),
        ("customer_id;phone\n1,23E+05;\n", "row 2, customer_id: is not a customer ID: the spreadsheet shortened it"),
        ("customer_id,name\nC,#N/A\n", f"row 2, name: {NOT_A_VALUE}"),
        ("sep=,\ncustomer_id,name\n,\nC,#REF!\n", f"row 3, name: {NOT_A_VALUE}"),
        ("\n,,\ncustomer_id,name\nC,a,b\n", "row 4: has 3 cells, the header has 2"),
        ("customer_id,shoe size\nC,a\n", "row 1, column 2: is not known; known: " + ", ".join(FIELDS)),
        ("customer_id,name\nC,a,b\n", "row 2: has 3 cells, the header has 2"),
        ('customer_id,name\nC,"a\n', "row 2: cannot be read"),
        ('customer_id,name\nC,"a"b\n', "row 2: cannot be read"),
        (f'customer_id,name\nC,"{"a" * 200_000}"\n', "row 2, name: is longer than 10000 characters"),
        ('customer_id,name\nC,"a\nb"\n', "row 2, name: contains a line break"),
        ("customer_id,name\nC,a\x00b\n", "row 2, name: contains a line break or another control"),
        ("customer_id,name\nC,a\u202eb\n", "row 2, name: contains a line break or another control"),
        ("customer_id\n-\n", None),
        ("customer_id,name\n-,a\n", "row 2, customer_id: is missing"),
        (f"customer_id\n{'C' * 129}\n", "row 2, customer_id: is longer than 128"),
        (f"customer_id\n{'ﷺ' * 20}\n", "row 2, customer_id: is longer than 128"),
        (f"customer_id,password\nC,{'p' * 257}\n", "row 2, password: is longer than 256"),
        ("customer_id,password\nC,1234567\n", "row 2, password: is shorter than 8"),
        (f"customer_id,totp_secret\nC,{SEED[:24]}\n", "row 2, totp_secret: is shorter than 128 bits"),
        (f"customer_id,totp_secret\nC,{SEED[:26]}X\n", "row 2, totp_secret: is not Base32"),
        (f"customer_id,totp_secret\nC,{SEED * 5}\n", "row 2, totp_secret: is longer than 128"),
        ("customer_id,phone\nC,2.78E+10\n", "row 2, phone: is not a phone number: the spreadsheet shortened it"),
        ("customer_id,email\nC,mıke@example.com\n", "row 2, email: is not an email address"),
    ],
)
def test_what_is_refused(text: str, fault: str | None) -> None:
    if fault is None:
        fault = "row 2, customer_id: is missing"
    (found,) = faults(text)
    assert found.startswith(fault)


def test_r25_a_spreadsheets_blank_rows_hint_and_line_break_in_a_header_are_no_fault() -> None:
    text = 'sep=;\r\n;;;\r\n"customer_\r\nid";name;;\r\n\r\nC;Thandi\r\n;;;\r\nD;Sipho;;\r\n'
    reading = CsvFindings()
    rows = list(read_rows(text.encode(), reading, region="ZA", key_of=id_form, columns=("customer_id", "name", "", "")))
    assert (rows, reading.faults) == ([4, 6], [])
    assert [entry.customer_id for entry in reading.entries] == ["C", "D"]
    assert read_header(text.encode()) == ["customer_ id", "name", "", ""]


def test_blank_rows_are_passed_over_and_counted_as_a_spreadsheet_does() -> None:
    assert faults("customer_id,phone\n\n,\nC,1\n") == [
        "row 4, phone: is not a phone number (numbers without + are read as numbers of South Africa)"
    ]


def test_cells_beyond_the_header_are_forgiven_while_they_are_empty() -> None:
    assert faults("customer_id,name\nC,a,,\n") == []


def test_national_numbers_are_of_the_default_region(
    directory: CommandImport, database: Database, keyring: Keyring
) -> None:
    load(directory, "customer_id,phone\nC,020 7946 0958\n", region="GB")
    assert person(database, keyring, "C").contact("sms", keyring) == "+442079460958"


def test_faults_are_all_counted_and_a_thousand_told() -> None:
    reading = read_customers(("customer_id,phone\n" + "C,1\n" * 1500).encode(), region="ZA")
    assert (len(reading.faults), reading.fault_count) == (1000, 2999)  # all but the first also name a customer again


def test_a_path_and_a_stream_are_read_alike(directory: CommandImport, database: Database, tmp_path: Path) -> None:
    path = tmp_path / "customers.csv"
    path.write_bytes(b"customer_id\nC-1\n")
    assert directory.import_csv(path, default_region="ZA", dry_run=False).new == 1
    assert directory.import_csv(io.BytesIO(b"customer_id\nC-2\n"), default_region="ZA", dry_run=False).new == 1
    with pytest.raises(FileNotFoundError):
        directory.import_csv(tmp_path / "nothing.csv", default_region="ZA", dry_run=False)
    assert count(database) == 2


class TestPasswords:
    """Plain ones, hashes from elsewhere, and what may not be either."""

    def test_r21_it_is_remembered_whether_a_password_is_long(
        self, directory: CommandImport, database: Database
    ) -> None:
        load(directory, f'customer_id,password\nC-1,{"p" * 14}\nC-2,{"p" * 15}\nC-3,"{PHC}"\n')
        assert [row["password_is_long"] for row in rows(database)] == [False, True, False]

    def test_a_hash_from_elsewhere_is_kept_as_it_is(
        self, directory: CommandImport, database: Database, keyring: Keyring, passwords: Passwords
    ) -> None:
        load(directory, f'customer_id,password\nC,"{PHC}"\n')
        stored = person(database, keyring, "C").password_hash(keyring, alone=False)
        assert stored == PHC
        assert passwords.matches(stored, "a password from elsewhere")

    def test_nfc_and_nfd_are_one_password(
        self, directory: CommandImport, database: Database, keyring: Keyring, passwords: Passwords
    ) -> None:
        load(directory, "customer_id,password\nC,Zoe\u0308 Zoe\u0308 Zoe\u0308\n")
        stored = person(database, keyring, "C").password_hash(keyring, alone=False)
        assert passwords.matches(stored, normal_password("Zoe\u0308 Zoe\u0308 Zoe\u0308"))
        assert load(directory, "customer_id,password\nC,Zoë Zoë Zoë\n").equal == 1

    def test_blanks_of_a_password_are_its_own(
        self, directory: CommandImport, database: Database, keyring: Keyring, passwords: Passwords
    ) -> None:
        load(directory, 'customer_id,password\nC," correct horse "\n')
        assert passwords.matches(person(database, keyring, "C").password_hash(keyring, alone=False), " correct horse ")

    def test_the_plain_password_of_an_imported_hash_tells_how_long_it_is(
        self, directory: CommandImport, database: Database
    ) -> None:
        load(directory, f'customer_id,password\nC,"{PHC}"\n')
        assert load(directory, "customer_id,password\nC,a password from elsewhere\n").changed == 1
        assert rows(database)[0]["password_is_long"] is True

    @pytest.mark.parametrize(
        "value",
        [
            "$argon2i$v=19$m=16,t=2,p=1$c2FsdHNhbHQ$S0l6qfZLM/FmHHUGZ5kKOg",
            "$2b$12$KIXQ1bV8Z3nqk5m7Y4n2KeJ8T5W1pE7JY9n3aZ2c4V6b8N0m1L3a5",
            "pbkdf2_sha256$600000$salt$aGFzaA==",
            "argon2$argon2id$v=19$m=16,t=2,p=1$c2FsdHNhbHQ$S0l6qfZLM/FmHHUGZ5kKOg",
            "{SSHA}aGFzaGFzaGFzaA==",
        ],
    )
    def test_other_hashes_are_not_taken_for_passwords(self, value: str) -> None:
        assert faults(f'customer_id,password\nC,"{value}"\n') == [
            "row 2, password: is a hash that cannot be used; only those that begin with $argon2id$ can"
        ]

    @pytest.mark.parametrize(
        "cost", ["m=4194304,t=3,p=1", "m=131073,t=3,p=1", "m=65536,t=11,p=1", "m=65536,t=9999,p=1", "m=65536,t=3,p=17"]
    )
    def test_r23_a_hash_that_would_stop_the_server_is_refused(self, cost: str) -> None:
        (fault,) = faults(f'customer_id,password\nC,"{PHC.replace("m=64,t=1,p=1", cost)}"\n')
        assert "costs too much" in fault

    @pytest.mark.parametrize(
        "broken",
        [
            PHC[:-20],
            PHC[:-1] + "/",
            PHC.replace("m=64", "m=7"),
            PHC.replace(",p=1", ""),
            PHC.replace("v=19", "v=20"),
            PHC + "$x",
            "$argon2id$",
            PHC.replace("m=64", "m=99999999999999"),
        ],
    )
    def test_a_hash_that_nothing_can_match_is_refused(self, broken: str) -> None:
        assert faults(f'customer_id,password\nC,"{broken}"\n') == [
            "row 2, password: begins like an argon2id string but is not one"
        ]


def test_a_new_seed_forgets_the_spent_steps_and_the_same_one_keeps_them(
    directory: CommandImport, database: Database
) -> None:
    load(directory, f"customer_id,totp_secret\nC,{SEED}\n")
    with database.write() as connection:
        connection.execute(update(CustomerRow).values(totp_last_step=7))
    load(directory, f"customer_id,name,totp_secret\nC,Thandi,{SEED}\n")
    assert rows(database)[0]["totp_last_step"] == 7
    load(directory, f"customer_id,totp_secret\nC,{'ABCDEFGH' * 4}\n")
    assert rows(database)[0]["totp_last_step"] == 0


def test_the_import_is_audited_without_anybodys_data(
    directory: CommandImport, database: Database, keyring: Keyring
) -> None:
    load(directory, "customer_id,name\nC-1001,Thandi\n")
    with database.read() as connection:
        (event,) = connection.execute(select(AuditEvent)).mappings()
    assert (event["kind"], event["facts"]) == ("customers_imported", {"new": 1, "changed": 0, "equal": 0})
    assert event["mac"] == keyring.audit_mac(canonical_event(dict(event)))
    edited = {**event, "facts": {"new": 2, "changed": 0, "equal": 0}}
    assert event["mac"] != keyring.audit_mac(canonical_event(edited))


class Overtaken(io.BytesIO):
    """A file whose first rows have been compared when, at its end, somebody else imports one of its customers."""

    def __init__(self, content: str, at_its_end: Callable[[], object]) -> None:
        super().__init__(content.encode())
        self._at_its_end = at_its_end

    def close(self) -> None:
        if not self.closed:
            self._at_its_end()
        super().close()


@pytest.mark.parametrize("before", ["", "customer_id,name\nC,Amahle\n"], ids=["new", "changed"])
def test_somebody_elses_change_meanwhile_is_told_and_not_overwritten(
    directory: CommandImport, database: Database, keyring: Keyring, before: str
) -> None:
    if before:
        load(directory, before)
    rows_enough = "".join(f"X-{number},Somebody\n" for number in range(300))
    file = Overtaken(
        f"customer_id,name\nB,Sipho\nC,Thandi\n{rows_enough}", lambda: load(directory, "customer_id,name\nC,Pieter\n")
    )
    with pytest.raises(Misconfigured, match="Import the file again"):
        directory.import_csv(file, default_region="ZA", dry_run=False)
    assert [row["customer_id"] for row in rows(database)] == ["C"]
    assert person(database, keyring, "C").name(keyring) == "Pieter"


def test_ten_thousand_rows(directory: CommandImport, database: Database) -> None:
    text = "customer_id,name,locale\n" + "".join(f"C-{number},Somebody,en\n" for number in range(10_000))
    assert load(directory, text).new == 10_000
    report = load(directory, text.replace("Somebody,en\nC-77,", "Somebody,af\nC-77,"))
    assert (report.changed, report.equal) == (1, 9_999)


class TestErase:
    """One person, and every trace that identifies them."""

    @pytest.fixture
    def traces(self, directory: CommandImport, database: Database, keyring: Keyring) -> str:
        """A customer who was verified once, and is at it again."""
        load(directory, "customer_id,name\nC-1001,Thandi\nC-1002,Pieter\n")
        row_id = next(row["id"] for row in rows(database) if row["customer_id"] == "C-1001")
        with database.write() as connection:
            _lay_traces(connection, keyring, row_id)
        return row_id

    def test_e3_nothing_points_to_the_person_any_more(
        self, erasure: Erasure, database: Database, keyring: Keyring, traces: str
    ) -> None:
        erased = erasure.erase(row(database, keyring, "c- 1001"))
        assert (erased.visits, erased.verifications) == (2, 1)
        assert [row["customer_id"] for row in rows(database)] == ["C-1002"]
        with database.read() as connection:
            assert not connection.execute(select(Tries)).all()
            for table in (Visit, Challenge, Verification):
                assert set(connection.execute(select(table.customer_row)).scalars()) == {None}
            visits = connection.execute(select(Visit)).mappings().all()
            bodies = {
                row.state: row.body_sealed for row in connection.execute(select(Delivery.state, Delivery.body_sealed))
            }
        assert all(visit["identifier_sealed"] is None and visit["person_key"] is None for visit in visits)
        assert {(visit["step"], visit["proved"], visit["method"]) for visit in visits} == {(0, "", None)}
        assert bodies == {"accepted": None, "pending": b"sealed"}

    def test_the_event_has_the_subject_id_alone(self, erasure: Erasure, database: Database, traces: str) -> None:
        subject = next(row["subject_id"] for row in rows(database) if row["id"] == traces)
        erasure.erase(traces)
        with database.read() as connection:
            event = connection.execute(select(AuditEvent).where(AuditEvent.kind == "customer_erased")).mappings().one()
        assert (event["subject_id"], event["facts"]) == (subject, {"visits": 2, "verifications": 1})

    @pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
    def test_e3_the_files_hold_no_byte_of_it(
        self, directory: CommandImport, erasure: Erasure, database: Database, keyring: Keyring, sqlite_url: str
    ) -> None:
        load(directory, "customer_id\nerase-me-entirely\n")
        folder = Path(sqlite_url.removeprefix("sqlite:///")).parent
        erasure.erase(row(database, keyring, "erase-me-entirely"))
        assert all(b"erase-me-entirely" not in path.read_bytes() for path in folder.glob("portal.db*"))

    def test_somebody_unknown(self, erasure: Erasure, database: Database, keyring: Keyring) -> None:
        with pytest.raises(NotFound):
            row(database, keyring, "C-9999")
        with pytest.raises(NotFound):
            erasure.erase("C-9999")


def _lay_traces(connection: Any, keyring: Keyring, row_id: str) -> None:
    journey, version = new_id(NOW), new_id(NOW)
    connection.execute(
        insert(Journey).values(id=journey, slug="balance", version_id=version, is_active=True, is_default=True)
    )
    connection.execute(
        insert(JourneyVersion).values(id=version, journey_id=journey, number=1, document={}, created_at=NOW)
    )
    for outcome, state in (("verified", "accepted"), (None, "pending")):
        _lay_verification(connection, keyring, row_id, version, outcome, state)
    connection.execute(
        insert(Tries).values(person_key=row_id, method="totp", is_ticketed=False, total=1, day_count=1, day_ends_at=NOW)
    )


def _lay_verification(
    connection: Any, keyring: Keyring, row_id: str, version: str, outcome: str | None, state: str
) -> None:
    verification, visit = new_id(NOW), new_id(NOW)
    later = NOW + timedelta(minutes=10)
    connection.execute(
        insert(Verification).values(
            id=verification, reference_hash=b"r", reference_sealed=b"s", server="sandbox", version_id=version,
            slug="balance", address_key="a", began_at=NOW, chat_started_at=NOW, proofs_until=later, chat_ends_at=later,
            outcome=outcome, customer_row=row_id if outcome else None, identifier_key="k",
        )
    )  # fmt: skip
    connection.execute(
        insert(Visit).values(
            id=visit, token_hash=visit.encode(), verification_id=verification, created_at=NOW, prompt="p", step=1,
            method="sms_code", identifier_sealed=keyring.seal("C-1001", VISIT_IDENTIFIER, visit),
            identifier_key="k", person_key=row_id, customer_row=row_id, proved="password",
        )
    )  # fmt: skip
    connection.execute(
        insert(Challenge).values(
            id=new_id(NOW), verification_id=verification, identifier_key="k", customer_row=row_id, destination_key="d",
            step=1, method="sms_code", key_id=3, digits=6, issued_at=NOW, expires_at=later,
        )
    )  # fmt: skip
    connection.execute(
        insert(Delivery).values(
            id=new_id(NOW), kind="callback", verification_id=verification, target="sandbox", body_sealed=b"sealed",
            priority=1, state=state, created_at=NOW, next_at=NOW, give_up_at=later,
            ended_at=NOW if state == "accepted" else None,
        )
    )  # fmt: skip


@given(
    st.one_of(
        st.binary(max_size=400),
        st.text(max_size=400).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.tuples(
            st.sampled_from([",", ";"]), st.lists(st.lists(st.text(max_size=30), min_size=7, max_size=7), max_size=5)
        ).map(
            lambda table: "\n".join(table[0].join(row) for row in [list(FIELDS), *table[1]]).encode("utf-8", "replace")
        ),
        st.tuples(
            st.sampled_from([name for name in FIELDS if name != "customer_id"]),
            st.text(st.characters(exclude_characters='"', codec="utf-8"), max_size=60),
        ).map(lambda cell: f'customer_id,{cell[0]}\nC,"{cell[1]}"\n'.encode()),
    )
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_nonsense_gives_a_report_and_never_anything_else(content: bytes) -> None:
    reading = read_customers(content, region="ZA")
    assert all(fault.reason for fault in reading.faults)
    assert all(entry.key for entry in reading.entries)


def test_a_text_that_is_longer_than_an_id_names_no_one(small_world: World) -> None:
    longest = "A" * 128
    small_world.services.customers.create({"customer_id": longest})
    for typed, found in ((longest, 1), (longest.lower(), 1), (longest + "A", 0), (longest + " B", 0)):
        assert len(small_world.services.customers.page("", typed).customers) == found, typed[-5:]
    browser = small_world.browser()
    browser.begin("ref-long", "app", longest + "A")
    (visit,) = small_world.rows(Visit)
    assert visit.customer_row is None
