"""Importing customers on the configuration page: from the file to the undo, and what is refused on the way."""

from __future__ import annotations

import io
import re
from hashlib import sha256
from typing import Any

import pytest
from pyotp import TOTP
from sqlalchemy import null, update

from auth_portal.crypto import Passwords
from auth_portal.services.directory.person import Person, find_person, read_identifier
from auth_portal.services.imports import LARGEST_FILE
from auth_portal.services.imports.csv import guesses
from auth_portal.services.imports.work import ImportWork
from auth_portal.store.models import AuditEvent, CustomerRow, ImportFault, ImportPart, ImportRow, StagedRow
from tests.admin.desk import Desk, signed_in
from tests.receiver import wait_for
from tests.services.test_customer_files import workbook
from tests.world import PASSWORD, TOTP_SECRET, Browser, World

HEADER = "Customer Number;Full name;Cell phone;E-mail address;Shoe size"
ROWS = "C-1001;Thandi Dlamini;083 123 4567;;42\nN-1;Nomsa Khumalo;084 555 0000;nomsa@example.com;38\n"


def send(desk: Browser, content: str | bytes, name: str = "people.csv", **fields_too: str) -> str:
    """Sends a file; the path of its import."""
    desk.get("/admin/imports")
    data = content if isinstance(content, bytes) else content.encode()
    fields = {**desk.hidden("/admin/imports"), "file": (io.BytesIO(data), name), **fields_too}
    desk.page = desk.client.post(
        "/admin/imports", data=fields, base_url=desk.base_url, content_type="multipart/form-data"
    )
    desk._followed()
    return desk.path


def rested(desk: Browser, path: str) -> str:
    """The import's page once nothing goes on in the background."""
    wait_for(lambda: "Refresh" not in desk.get(path).headers, 20)
    return str(desk.page.text)


def checked(desk: Browser, content: str | bytes, *columns: str) -> str:
    path = send(desk, content)
    assert "Choose what each column means" in desk.page.text, desk.page.text
    chosen = {f"column-{position}": column for position, column in enumerate(columns)}
    desk.post(f"{path}/columns", **chosen)
    rested(desk, path)
    return path


def imported(desk: Browser, content: str, *columns: str, **options: str) -> str:
    path = checked(desk, content, *columns)
    desk.post(f"{path}/start", **options)
    rested(desk, path)
    return path


def person(world: World, customer_id: str) -> Person:
    named = read_identifier(customer_id, ["customer_id"], "ZA", world.services.keyring)
    assert named is not None
    with world.database.read() as connection:
        return find_person(connection, named)


def phone(world: World, customer_id: str) -> str:
    return person(world, customer_id).contact("sms", world.services.keyring)


def tidy(world: World) -> None:
    """What the worker does each minute."""
    ImportWork(world.services.transactions, Passwords(), world.services.notices).tidy()


OURS = ("customer_id", "name", "phone", "email", "")
OURS_IN_PARTS = ("customer_id", "name", "name", "phone")


def test_from_a_foreign_file_to_the_undo(world: World) -> None:
    support = signed_in(world, "support")
    path = send(support, f"{HEADER}\n{ROWS}")
    for title, guess in zip(HEADER.split(";"), OURS, strict=True):
        assert title in support.page.text
        chosen = re.search(rf">{re.escape(title)}</label>\s*<select[^>]*>(.*?)</select>", support.page.text, re.DOTALL)
        assert chosen is not None
        selected = re.search(r'<option value="(\w*)" selected>', chosen.group(1))
        assert selected is not None
        assert selected.group(1) == guess
    support.post(f"{path}/columns", **{f"column-{position}": name for position, name in enumerate(OURS)})
    page = rested(support, path)
    assert counted(page) == {"New customers": "1", "Changed": "1", "Already the same": "0", "Faults": "0"}
    assert person(world, "N-1").row is None  # nobody was changed so far
    support.post(f"{path}/start")
    page = rested(support, path)
    assert "New customers: 1. Changed: 1. Already the same: 0" in page
    assert person(world, "N-1").name(world.services.keyring) == "Nomsa Khumalo"
    assert phone(world, "C-1001") == "+27831234567"
    assert "Undo this import" in page
    support.post(f"{path}/undo")
    assert "The undo has started" in support.page.text
    assert "This import was undone" in rested(support, path)
    assert ">undone</span></div></div>" in support.page.text, "the pill by the heading"
    assert person(world, "N-1").row is None
    assert phone(world, "C-1001") == "+27821234567"
    assert person(world, "C-1001").name(world.services.keyring) == "Thandi Nkosi"
    kinds = {event.kind: event for event in world.rows(AuditEvent) if event.admin_id == support.admin_id}
    assert {"customers_import_uploaded", "customers_imported", "customers_import_undone"} <= kinds.keys()
    assert kinds["customers_imported"].facts == {"new": 1, "changed": 1, "equal": 0}


def test_imported_people_verify_with_what_was_imported(world: World) -> None:
    """Credentials are sealed for their final place: a wrong one would open for nobody."""
    imported(
        signed_in(world, "support"), f"customer_id,phone,password\nN-1,084 555 0000,{PASSWORD}\n",
        "customer_id", "phone", "password",
    )  # fmt: skip
    browser = world.browser()
    browser.begin("flow-ref", "password", identifier="N-1")
    assert browser.prove(PASSWORD).status_code == 200
    assert "Done. Go back to your chat" in browser.page.text
    browser.begin("flow-ref-2", "balance", identifier="084 555 0000")
    wait_for(lambda: any(message["to"] == "+27845550000" for message in world.receiver.messages), 10)
    code = world.receiver.code_for("+27845550000")
    assert "Done. Go back to your chat" in browser.prove(code).text


def test_an_imported_app_with_another_hash_and_longer_steps_proves_each_code_once(world: World) -> None:
    url = f"otpauth://totp/Acme:x?secret={TOTP_SECRET}&algorithm=SHA256&period=60"
    imported(signed_in(world), f"customer_id,totp_secret\nN-1,{url}\n", "customer_id", "totp_secret")
    app, browser = TOTP(TOTP_SECRET, digest=sha256, interval=60), world.browser()
    code = app.at(world.clock())
    browser.begin("flow-ref", "app", identifier="N-1")
    assert "Done. Go back to your chat" in browser.prove(code).text
    again = world.browser()
    again.begin("flow-ref-2", "app", identifier="N-1")
    assert "Done. Go back to your chat" not in again.prove(code).text
    world.clock.advance(60)
    assert "Done. Go back to your chat" not in again.prove(TOTP(TOTP_SECRET).at(world.clock())).text
    assert "Done. Go back to your chat" in again.prove(app.at(world.clock())).text


def counted(page: str) -> dict[str, str]:
    """The figures of a check."""
    return dict(re.findall(r"<dt>([^<]+)</dt><dd[^>]*>\s*([\d,]+)</dd>", page))


def test_500_broken_rows_are_reported_by_row_column_and_reason(small_world: World) -> None:
    good = "".join(f"G-{number},Somebody\n" for number in range(600))
    broken = "".join(f"B-{number},082 1\n" for number in range(500))
    owner = signed_in(small_world)
    path = checked(owner, f"customer_id,phone\n{broken}".replace("Somebody", ""), "customer_id", "phone")
    assert "500 faults" in owner.page.text
    assert "There is nothing to import" in owner.page.text
    path = checked(
        owner,
        f"customer_id,name,phone\n{good.replace('Somebody', 'Somebody,')}{broken.replace(',', ',,')}",
        "customer_id",
        "name",
        "phone",
    )
    assert "500 faults" in owner.page.text
    lines = owner.client.get(f"{path}/faults.csv", base_url=owner.base_url).text.splitlines()
    assert lines[0] == "row,column,reason"
    assert len(lines) == 501
    assert lines[1] == "602,phone,is not a phone number (numbers without + are read as numbers of South Africa)"
    assert owner.post(f"{path}/start").status_code == 422
    assert "Fix the file, or choose" in owner.page.text
    assert person(small_world, "G-1").row is None
    assert re.search(r"<button>\s*Import 600 customers</button>", owner.page.text), "and says how many it changes"
    causes = owner.page.text.partition('id="faults"')[2]
    assert "Is not a phone number (numbers without + are read as numbers of South Africa)." in causes
    assert "rows 602, 603, 604, 605, 606, 607 and 494 more" in " ".join(causes.split())
    assert causes.count('<th scope="row"') == 1, "one cause, not 500 rows"
    owner.post(f"{path}/start", partial="1")
    assert "New customers: 600" in rested(owner, path)
    assert person(small_world, "G-599").row is not None


def test_r43_a_fault_of_the_file_is_defused(small_world: World) -> None:
    owner = signed_in(small_world)
    path = checked(owner, 'customer_id,name\nC-1,"=1+1\n', "customer_id", "name")
    assert "be read to its end" in owner.page.text
    assert f'action="{path}/start"' not in owner.page.text
    text = owner.client.get(f"{path}/faults.csv", base_url=owner.base_url).text
    assert not re.search(r"(^|,)\"?[=+@\t-]", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "The file has no rows"),
        (b"customer_id", "The file has no rows"),
        ("customer_id,name\nC,Zo\x81\n".encode("latin-1"), "The file is neither in UTF-8 nor in UTF-16"),
        (b"\xff\xfec", "The file is neither in UTF-8 nor in UTF-16"),
        (b"PK\x03\x04 an .xlsx", "The file is a workbook that cannot be read"),
        (b"\xd0\xcf\x11\xe0 an .xls", "The file is not a table that can be read: an old or protected workbook"),
        (b"\xef\xbb\xbf\r\n<html><table><tr><td>customer_id", "a web page or a document; save it as"),
        ("<html><table><tr><td>customer_id".encode("utf-16"), "a web page or a document; save it as"),
        (b"%PDF-1.7", "a web page or a document; save it as"),
    ],
)
def test_what_is_no_such_file_is_told_and_leaves_nothing(small_world: World, content: bytes, told: str) -> None:
    owner = signed_in(small_world)
    assert send(owner, content) == "/admin/imports"
    assert owner.page.status_code == 422
    assert told in owner.page.text
    assert not small_world.rows(ImportPart)
    assert "No import yet" in owner.get("/admin/imports").text


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_other_encodings_are_read_and_a_guess_is_said(small_world: World, encoding: str) -> None:
    owner = signed_in(small_world)
    path = checked(owner, "customer_id;name\nN-1;Zoë Müller\n".encode(encoding), "customer_id", "name")
    assert ("was read as Windows-1252: check names with accents" in owner.page.text) == (encoding == "cp1252")
    owner.post(f"{path}/start")
    rested(owner, path)
    assert person(small_world, "N-1").name(small_world.services.keyring) == "Zoë Müller"


def test_the_first_values_of_each_column_are_shown_to_their_sender_and_no_secret_to_anyone(small_world: World) -> None:
    owner, support = signed_in(small_world), signed_in(small_world, "support")
    rows = "".join(f"N-{n},Nomsa {n},{PASSWORD},{TOTP_SECRET}\n" for n in range(1, 6))
    path = send(owner, f"ID,Full name,Pass,Shoe\n{rows}")
    assert "N-1 · N-2 · N-3" in owner.page.text
    assert "Nomsa 1 · Nomsa 2 · Nomsa 3" in owner.page.text
    assert "Nomsa 4" not in owner.page.text
    assert owner.page.text.count("(hidden)") == 2  # by the name of its column, and by its look
    for page in (owner.page.text, support.get(path).text):
        assert PASSWORD not in page
        assert TOTP_SECRET not in page
    assert "Full name" in support.page.text
    assert "Nomsa" not in support.page.text


def test_a_workbook_from_its_upload_to_the_customers(small_world: World) -> None:
    owner = signed_in(small_world)
    book = workbook(
        Notes=[["Read me"], ["Not this one"]],
        Customers=[["Customer ID", "First Name", "Last Name", "Mobile"], [1001001, "Nomsa", "Khumalo", 27845550000]],
    )
    send(owner, book, "people.xlsx")
    assert "has 2 sheets; the one named “Notes” was read" in owner.page.text
    path = send(owner, book, "people.xlsx", sheet="customers")
    assert "1001001" in owner.page.text
    owner.post(
        f"{path}/columns", **dict(zip(["column-0", "column-1", "column-2", "column-3"], OURS_IN_PARTS, strict=True))
    )
    assert counted(rested(owner, path))["New customers"] == "1"
    owner.post(f"{path}/start")
    rested(owner, path)
    assert person(small_world, "1001001").name(small_world.services.keyring) == "Nomsa Khumalo"
    assert phone(small_world, "1001001") == "+27845550000"
    assert "The file has no rows" in send_empty(owner)
    send(owner, book, "people.xlsx", sheet="Kunden")
    assert "has: Notes, Customers" in owner.page.text


def send_empty(desk: Browser) -> str:
    """Sends a workbook whose first sheet is empty; the page that says so."""
    send(desk, workbook(Empty=[], Customers=[["customer_id"], ["N-1"]]), "people.xlsx")
    assert "it has 2 sheets; the one named “Empty” was read" in desk.page.text
    return str(desk.page.text)


def test_what_to_look_at_is_said_before_the_import_and_after_it(small_world: World) -> None:
    owner = signed_in(small_world)
    text = "customer_id,phone,locale\nN-1,0115551234,xx\nN-2,0800123456,en_US.UTF-8\nN-3,NULL,\n\n(3 rows affected)\n"
    path = checked(owner, text, "customer_id", "phone", "locale")
    for words in (
        "A code by SMS may never arrive at these phone numbers of the file: 1 landline, 1 toll-free.",
        "Row 2: an unknown language",
        "Row 4: NULL or the like",
        "Row 6: not a customer but a total, a ruler or a footer: not imported.",
    ):
        assert words in owner.page.text
    owner.post(f"{path}/start")
    assert "Row 2: an unknown language" in rested(owner, path)
    assert person(small_world, "N-2").locale == "en-US"
    assert person(small_world, "N-1").locale == ""


def test_an_id_in_other_capital_letters_overwrites_nobody(small_world: World) -> None:
    owner = signed_in(small_world)
    imported(owner, "customer_id,name\n001A0000001abcD,Ann\n", "customer_id", "name")
    path = checked(owner, "customer_id,name\n001A0000001ABCd,Bob\nN-1,Cid\n", "customer_id", "name")
    assert "a customer&#39;s already, with other capital letters" in owner.page.text
    assert owner.post(f"{path}/start").status_code == 422
    owner.post(f"{path}/start", partial="1")
    rested(owner, path)
    found = person(small_world, "001A0000001abcD")
    assert (found.customer_id, found.name(small_world.services.keyring)) == ("001A0000001abcD", "Ann")
    assert person(small_world, "N-1").row is not None


def test_without_a_file(small_world: World) -> None:
    owner = signed_in(small_world)
    owner.get("/admin/imports")
    assert owner.post("/admin/imports").status_code == 422
    assert "Choose a file" in owner.page.text


def test_columns_that_cannot_be_are_told_and_the_choice_is_kept(small_world: World) -> None:
    owner = signed_in(small_world)
    path = send(owner, "id,a,b\n1,2,3\n")
    assert (
        owner.post(f"{path}/columns", **{"column-0": "", "column-1": "phone", "column-2": "phone"}).status_code == 422
    )
    assert "Choose the column with the customer ID" in owner.page.text
    assert "Another column has this meaning already" in owner.page.text
    assert owner.page.text.count('<option value="phone" selected>') == 2


def test_headers_are_guessed() -> None:
    assert guesses(["Cell phone", "MSISDN", "E-Mail", "Client ID", "Preferred language", "Shoe size"]) == [
        "phone", "", "email", "customer_id", "locale", "",
    ]  # fmt: skip


def test_only_a_writer_may_send_more_than_a_form(small_world: World) -> None:
    large = "customer_id,name\n" + "".join(f"L-{number},Somebody\n" for number in range(10_000))
    owner, auditor = signed_in(small_world), signed_in(small_world, "auditor")
    assert send(owner, large).startswith("/admin/imports/")
    for browser, status in ((auditor, 403), (small_world.browser(), 303)):
        fields = {"file": (io.BytesIO(large.encode()), "people.csv")}
        answer = browser.client.post("/admin/imports", data=fields, base_url=browser.base_url)
        assert answer.status_code == status
    fields = {"file": (io.BytesIO(b"x" * (LARGEST_FILE + 100_000)), "people.csv")}
    assert owner.client.post("/admin/imports", data=fields, base_url=owner.base_url).status_code == 413


def test_a_name_of_a_file_is_text_and_nothing_else(small_world: World) -> None:
    owner = signed_in(small_world)
    send(owner, "customer_id\n1\n", name="C:\\secret\\<script>alert(1)</script>.csv")
    assert "<script>alert" not in owner.page.text
    assert "C:" not in owner.page.text


def test_undo_is_refused_where_somebody_was_changed_since(world: World) -> None:
    owner = signed_in(world)
    path = imported(owner, "customer_id,name\nC-1001,Other\nN-1,New\n", "customer_id", "name")
    world.clock.advance(5)
    with world.database.write() as connection:
        connection.execute(
            update(CustomerRow).where(CustomerRow.customer_id == "N-1").values(locale="zu", changed_at=world.clock())
        )
    owner.post(f"{path}/undo")
    assert "Nothing was undone" in rested(owner, path)
    assert "<li>N-1</li>" in owner.page.text
    assert "C-1001" not in owner.page.text
    assert person(world, "C-1001").name(world.services.keyring) == "Other"
    world.services.erasure.erase(world.services.customers.row_of("N-1"))
    assert "<li>a customer who was deleted</li>" in owner.get(path).text
    with world.database.write() as connection:  # as an older version leaves it
        connection.execute(update(ImportRow).values(undo_met=null()))
    assert "Request the undo again" in owner.get(path).text
    owner.post(f"{path}/undo")
    assert "This import was undone" in rested(owner, path)


def test_undo_is_of_the_last_import_alone_and_for_seven_days(small_world: World) -> None:
    owner = signed_in(small_world)
    first = imported(owner, "customer_id,name\nN-1,New\n", "customer_id", "name")
    small_world.clock.advance(5)
    second = imported(owner, "customer_id,name\nN-2,New\n", "customer_id", "name")
    assert "Undo this import" in owner.page.text
    assert "Undo this import" not in owner.get(first).text
    small_world.clock.advance(7 * 24 * 3600 + 1)
    assert owner.sign_in().status_code == 200
    assert "Undo this import" not in owner.get(second).text
    tidy(small_world)
    assert not small_world.rows(StagedRow)
    assert not small_world.rows(ImportFault)


def test_the_file_goes_when_it_is_imported_and_the_staged_rows_when_it_is_cancelled(small_world: World) -> None:
    owner = signed_in(small_world)
    small_world.clock.advance(5)
    imported(owner, "customer_id,name\nN-1,New\n", "customer_id", "name")
    path = checked(owner, "customer_id,name\nN-2,New\n", "customer_id", "name")
    assert {"n-1", "n-2"} <= {row.customer_key for row in small_world.rows(StagedRow)}
    owner.post(f"{path}/cancel")
    assert "No customer was changed" in owner.page.text
    tidy(small_world)
    assert not small_world.rows(ImportPart)
    (kept,) = small_world.rows(StagedRow)  # what the undo of the first one needs
    assert kept.customer_key == "n-1"


def test_a_file_that_nobody_goes_on_with_is_removed_after_a_day(small_world: World) -> None:
    owner = signed_in(small_world)
    path = checked(owner, "customer_id,name\nN-2,New\n", "customer_id", "name")
    small_world.clock.advance(24 * 3600 + 1)
    tidy(small_world)
    assert not small_world.rows(ImportPart)
    assert "n-2" not in {row.customer_key for row in small_world.rows(StagedRow)}
    assert owner.sign_in().status_code == 200
    assert "abandoned" in owner.get(path).text


CONTACTS = "customer_id,phone,email\nC-1001,083 999 0000,new@example.com\nC-1002,084 999 0000,\n"


def notices_to(world: World) -> list[str]:
    return sorted(
        message["to"]
        for message in world.receiver.messages
        if "was changed" in message.get("text", "") + message.get("subject", "")
    )


def test_r13_changed_contacts_are_told_at_the_old_and_the_new_one_only_with_the_tick(world: World) -> None:
    owner = signed_in(world)
    path = checked(owner, CONTACTS, "customer_id", "phone", "email")
    assert "Notify the 2 customers" in owner.page.text
    assert "4 SMS to South Africa through the channel sms." in owner.page.text
    assert "Of its daily cap of 100,000, 0 are used. 4 of these messages can be sent today." in owner.page.text
    assert "2 emails through the channel mail, which has no daily cap." in owner.page.text
    owner.post(f"{path}/start", notify="1")
    rested(owner, path)
    told = ["+27821234567", "+27831234567", "+27839990000", "+27849990000", "new@example.com", "thandi@example.com"]
    wait_for(lambda: notices_to(world) == told, 10)


def test_r13_an_import_by_a_command_is_told_by_the_serving_portal(world: World) -> None:
    report = world.services.command_import.import_csv(
        CONTACTS.encode(), default_region="ZA", dry_run=False, is_notifying=True
    )
    assert [(route.number, route.channel) for route in report.routes] == [(2, "mail"), (4, "sms")]
    wait_for(lambda: len(notices_to(world)) == 6, 10)


def test_the_second_factor_is_asked_before_an_import_and_its_undo_and_nothing_is_lost(world: World) -> None:
    support = signed_in(world, "support")
    path = checked(support, CONTACTS + "broken\n", "customer_id", "phone", "email")
    world.clock.advance(11 * 60)
    assert 'name="second_factor"' in support.get(path).text
    for typed in ("", "000000"):
        refused = support.post(f"{path}/start", partial="1", notify="1", second_factor=typed)
        assert refused.status_code == 422
        assert "the code your" in refused.text
        assert re.search(r'name="partial"[^>]* checked', refused.text)
        assert re.search(r'name="notify"[^>]* checked', refused.text)
    assert phone(world, "C-1001") == "+27821234567"
    support.post(f"{path}/start", partial="1", second_factor=support.second_factor())
    assert "Changed: 2" in rested(support, path)
    world.clock.advance(11 * 60)
    assert support.post(f"{path}/undo").status_code == 422
    assert "Enter the code your" in support.page.text
    assert phone(world, "C-1001") == "+27839990000"
    support.post(f"{path}/undo", second_factor=support.second_factor())
    assert "This import was undone" in rested(support, path)
    assert phone(world, "C-1001") == "+27821234567"


def warnings_to_owners(world: World) -> list[dict[str, str]]:
    return [message for message in world.receiver.messages if "import changed contacts" in message.get("subject", "")]


def test_r13_an_import_that_tells_nobody_is_told_to_all_owners(world: World) -> None:
    owner, support = signed_in(world), signed_in(world, "support")
    imported(support, CONTACTS, "customer_id", "phone", "email")
    wait_for(lambda: warnings_to_owners(world), 10)
    (mail,) = warnings_to_owners(world)
    assert mail["to"] == owner.email
    assert "of 2 customers" in mail["text"]
    assert {message["to"] for message in world.receiver.messages} == {owner.email}


def test_the_list_is_paged_by_key(small_world: World) -> None:
    owner = signed_in(small_world)
    for number in range(21):
        small_world.clock.advance(1)
        send(owner, "customer_id\n1\n", name=f"file-{number}.csv")
    page = owner.get("/admin/imports").text
    assert "file-20.csv" in page
    assert "file-0.csv" not in page
    older = re.search(r'href="(/admin/imports\?before=\w+)" rel="next"', page)
    assert older is not None
    assert "file-0.csv" in owner.get(older.group(1)).text


def test_an_auditor_sees_and_does_nothing(small_world: World) -> None:
    path = checked(signed_in(small_world), "customer_id,name\nN-2,New\n", "customer_id", "name")
    auditor: Any = signed_in(small_world, "auditor")
    assert counted(auditor.get(path).text)["New customers"] == "1"
    assert "<form" not in auditor.page.text.partition("<main")[2]
    assert "<form" not in auditor.get("/admin/imports").text.partition("<main")[2]


def test_an_import_that_is_not_there(small_world: World) -> None:
    owner: Desk = signed_in(small_world)
    assert owner.get("/admin/imports/nothing").status_code == 404
