"""The files that customers come in, as spreadsheets, CRMs and databases really write them."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any

import pytest
from openpyxl import Workbook

from auth_portal.services import imports
from auth_portal.services.directory.fields import check, is_secret
from auth_portal.services.directory.person import id_form
from auth_portal.services.imports import FileRefused, open_table
from auth_portal.services.imports import csv as imports_csv
from auth_portal.services.imports.csv import CsvFindings, guesses, read_rows
from auth_portal.services.imports.imports import CommandImport, ImportReport
from auth_portal.typed import language_tag
from tests.world import read_customers


def workbook(**sheets: list[list[Any]]) -> bytes:
    book = Workbook()
    book.remove(book.worksheets[0])
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    return saved(book)


def saved(book: Workbook) -> bytes:
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def load(directory: CommandImport, content: str | bytes, *, sheet: str = "", dry_run: bool = False) -> ImportReport:
    data = content if isinstance(content, bytes) else content.encode()
    return directory.import_csv(data, default_region="ZA", dry_run=dry_run, sheet=sheet)


def ids(content: str | bytes) -> list[str]:
    found = read_customers(content if isinstance(content, bytes) else content.encode(), region="ZA")
    assert not found.faults, found.faults
    return [entry.customer_id for entry in found.entries]


def cells(content: str) -> list[dict[str, str | None]]:
    found = read_customers(content.encode(), region="ZA")
    assert not found.faults, found.faults
    return [dict(entry.cells) for entry in found.entries]


def noted(content: str) -> dict[str, list[int]]:
    return read_customers(content.encode(), region="ZA").notes


# --- What spreadsheets and programs wrap around a value


@pytest.mark.parametrize(
    "cell",
    [
        '="00012345"', '"=""00012345"""', "'00012345", '=T("00012345")', '= t( "00012345" )', '"""00012345"""',
        "\u00a000012345\u202f", "\ufeff0001\u200b2345", '"""=""""00012345"""""""', "'=\"00012345\"", "\t00012345 ",
        '=TEXT("00012345")', '=("00012345")', '"=HYPERLINK(""http://crm/1"",""00012345"")"',
    ],
)  # fmt: skip
def test_an_id_is_the_same_however_a_spreadsheet_wraps_it(cell: str) -> None:
    assert ids(f"customer_id\n{cell}\n") == ["00012345"]


@pytest.mark.parametrize(
    "cell", ['="0821234567"', "'0821234567", "=+27821234567", "=27821234567", '=T("+27 82 123 4567")', "'+27821234567"]
)
def test_a_phone_is_unwrapped_by_the_same_rule(cell: str) -> None:
    assert cells(f"customer_id\tphone\nC\t{cell}\n") == [{"phone": "+27821234567"}]
    assert check({"phone": cell}, "ZA").fields == {"phone": "+27821234567"}  # as the API and the form do


@pytest.mark.parametrize("name", ["'t Hooft", "'Abd al-Rahman", "Null", "Nan", "O'Neill", "None"])
def test_a_name_may_begin_with_an_apostrophe_and_be_null(name: str) -> None:
    assert cells(f"customer_id,name\nC,{name}\n") == [{"name": name}]


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        ("27831234567.0", "is a calculated number (123.0), not a customer ID"),
        ("10001,00", "is a calculated number"),
        ("1.23457E+11", "the spreadsheet shortened it"),
        ("1,23457E11", "the spreadsheet shortened it"),
        ("#N/A", "is an error of the spreadsheet"),
        ("#REF!", "is an error of the spreadsheet"),
        ("#NV", "is an error of the spreadsheet"),
        ("#¡REF!", "is an error of the spreadsheet"),
        ("#SPILL!", "is an error of the spreadsheet"),
        ("Err:502", "is an error of the spreadsheet"),
        ("#####", "is an error of the spreadsheet"),
        ("[object Object]", "export the column again as text"),
        ("System.Object[]", "export the column again as text"),
        ("=A2&B2", "is a formula, not a value"),
        ('=CONCATENATE("a";"b")', "is a formula, not a value"),
        ("NULL", "fill it in, or remove the row"),
        ("nan", "fill it in, or remove the row"),
        ("\\N", "fill it in, or remove the row"),
    ],
)
def test_what_is_no_id_is_refused_with_what_to_do(cell: str, fault: str) -> None:
    (found,) = read_customers(f"customer_id|name\n{cell}|Ann\n".encode(), region="ZA").faults
    assert (found.row, found.column) == (2, "customer_id")
    assert fault in found.reason
    assert fault in check({"customer_id": cell}, "ZA").faults["customer_id"]


@pytest.mark.parametrize("cell", ["=1+1", "#N/A", "[object Object]", "=VLOOKUP(A1;B:C;2)"])
@pytest.mark.parametrize("column", ["name", "phone", "email", "locale", "totp_secret"])
def test_no_field_takes_what_is_no_value(column: str, cell: str) -> None:
    (found,) = read_customers(f"customer_id|{column}\nC|{cell}\n".encode(), region="ZA").faults
    assert found.column == column


def test_null_in_other_columns_is_an_empty_cell() -> None:
    text = "customer_id,name,phone,email,locale\nC,NULL,(null),\\N,undefined\nD,Ann,n/a,,\n"
    assert cells(text) == [{}, {"name": "Ann"}]
    assert noted(text) == {"null": [5, 2, 2, 2, 2, 3]}


@pytest.mark.parametrize(("customer_id", "rounded"), [
    ("1234567890123450000", True), ("12345678901234500", True), ("123456789012345", False), ("100000000000000", False),
    ("12345678901234567", False), ("1234567890123400", True),
])  # fmt: skip
def test_long_ids_that_end_in_zeros_are_noted(customer_id: str, rounded: bool) -> None:
    assert noted(f"customer_id\n{customer_id}\n") == ({"rounded": [1, 2]} if rounded else {})


# --- Languages


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("zh-Hans-CN", "zh-Hans-CN"), ("sr-Latn-RS", "sr-Latn-RS"), ("en_US.UTF-8", "en-US"), ("pt_BR", "pt-BR"),
        ("EN-us", "en-US"), ("iw", "he"), ("in_ID", "id-ID"), ("sr_RS@latin", "sr-Latn-RS"), ("zh-cmn-Hans-CN", "zh-Hans-CN"),
        ("en-UK", "en-GB"), ("es-419", "es-419"), ("zul", "zu"), ("ZH_HANT_tw", "zh-Hant-TW"), ("nb_NO", "nb-NO"),
        ("de-DE-1996", "de-DE"), ("en-US-u-ca-gregory", "en-US"), ("en-ZA,en;q=0.9", "en-ZA"), ("\u200eaf\u00a0", "af"),
        ("English (South Africa)", "en"), ("English - South Africa", "en"), ("isiZulu", "zu"), ("Deutsch", "de"),
        ("\uff45\uff4e", ""), ("klingonese?", ""), ("C", ""), ("POSIX", ""), ("und", ""), ("mul", ""), ("1033", ""), ("xx", ""),
        ("", ""), ("-", ""), ("e" * 500, ""), ("en-" * 200, "en"),
    ],
)  # fmt: skip
def test_languages_are_read_leniently(text: str, tag: str) -> None:
    assert language_tag(text) == tag
    assert len(tag) <= 16  # what the tables hold


def test_an_unknown_language_is_noted_and_its_row_imported(directory: CommandImport) -> None:
    report = load(directory, "customer_id,locale\nC,xx\nD,pt_BR\n")
    assert (report.new, report.error_count) == (2, 0)
    (warning,) = report.warnings
    assert warning == "Row 2: an unknown language: a new customer gets the default language, the others keep theirs."


# --- Landlines


def test_numbers_that_may_get_no_sms_are_counted(directory: CommandImport) -> None:
    rows = ["0115551234", "0215551234", "0800123456", "0821234567", "+12015550123", "+442079460958"]
    report = load(directory, "customer_id,phone\n" + "".join(f"C-{phone},{phone}\n" for phone in rows), dry_run=True)
    assert report.warnings == [
        "A code by SMS may never arrive at these phone numbers of the file: 3 landline, 1 toll-free."
    ]


# --- Separators, encodings, long cells


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("hint", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_every_separator_in_every_encoding(separator: str, hint: bool, encoding: str) -> None:
    text = separator.join(["customer_id", "name"]) + "\r\n" + separator.join(["C", '"Zoë, Nkosi; the|third"']) + "\r\n"
    content = (f"sep={separator}\r\n" * hint + text).encode(encoding)
    (entry,) = read_customers(content, region="ZA").entries
    assert (entry.row, dict(entry.cells)) == (2, {"name": "Zoë, Nkosi; the|third"})


def test_what_the_hint_names_separates_also_where_the_header_looks_different() -> None:
    assert ids('sep=|\ncustomer_id|"name"\n1|a,b;c\n') == ["1"]


def test_a_long_cell_that_is_not_imported_stops_nothing_and_one_that_is_only_its_row() -> None:
    content = f"customer_id,notes\nC,{'a' * 300_000}\nD,\n".encode()
    findings = CsvFindings()
    assert list(read_rows(content, findings, region="ZA", key_of=id_form, columns=("customer_id", ""))) == [2, 3]
    assert not findings.faults
    findings = CsvFindings()
    assert list(read_rows(content, findings, region="ZA", key_of=id_form, columns=("customer_id", "name"))) == [2, 3]
    assert [str(fault) for fault in findings.faults] == ["row 2, name: is longer than 10000 characters"]


# --- Headers of other systems


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        ("First Name,Middle Name,Last Name,E-mail 1 - Label,E-mail 1 - Value,Phone 1 - Label,Phone 1 - Value",
         ["name", "", "name", "", "email", "", "phone"]),
        ("Name,Given Name,Family Name,E-mail 1 - Value,Phone 1 - Type,Phone 1 - Value",
         ["name", "", "", "email", "", "phone"]),
        ("Record ID,First Name,Last Name,Email,Phone Number,Mobile Phone Number,Preferred language",
         ["customer_id", "name", "name", "email", "", "phone", "locale"]),
        ("Contact ID,Account ID,First Name,Last Name,Email,Mobile,Phone",
         ["customer_id", "", "name", "name", "email", "phone", ""]),
        ("(Do Not Modify) Contact,(Do Not Modify) Row Checksum,Full Name,Email,Business Phone,Mobile Phone",
         ["customer_id", "", "name", "email", "", "phone"]),
        ("Email Address,First Name,Last Name,Phone Number,MEMBER_RATING", ["email", "name", "name", "phone", ""]),
        ("Record Id,Contact Name,Email,Phone,Mobile", ["customer_id", "name", "email", "", "phone"]),
        ("Customer ID,First Name,Last Name,Email,Phone,Default Address Phone",
         ["customer_id", "name", "name", "email", "phone", ""]),
    ],
    ids=["google", "google-old", "hubspot", "salesforce", "dynamics", "mailchimp", "zoho", "shopify"],
)  # fmt: skip
def test_headers_of_other_systems_are_guessed(header: str, fields: list[str]) -> None:
    assert guesses(header.split(",")) == fields


# --- Several values in a cell


@pytest.mark.parametrize(
    "cell",
    ["+27821234567 ::: +27831234567", "082 123 4567; 083 123 4567", "082 123 4567 / 083 123 4567",
     "0821234567,0831234567", "0821234567|0831234567", "0821234567\n0831234567"],
)  # fmt: skip
def test_the_first_of_several_phones_in_a_cell_is_taken_and_noted(cell: str) -> None:
    text = f'customer_id,phone\nC,"{cell}"\n'
    assert cells(text) == [{"phone": "+27821234567"}]
    assert noted(text) == {"several_phone": [1, 2]}


@pytest.mark.parametrize(
    "cell", ["a@example.com; b@example.com", "a@example.com ::: b@example.com", "Ann <a@example.com>, x"]
)
def test_the_first_of_several_addresses_in_a_cell_is_taken_and_noted(cell: str) -> None:
    text = f'customer_id,email\nC,"{cell}"\n'
    assert cells(text) == [{"email": "a@example.com"}]
    assert noted(text) == {"several_email": [1, 2]}


def test_several_that_are_none_are_a_fault() -> None:
    (found,) = read_customers(b'customer_id,phone\nC,"1; 2"\n', region="ZA").faults
    assert found.reason.startswith("is not a phone number")


# --- What stands above and below a table


@pytest.mark.parametrize(
    ("above", "rows"),
    [
        ("Customers\n", [1]), ("Customer,,\n,,\n", [1]), ("All customers, active\n\n", [1]),
        ("Active customers\nAs of 2026-11-30 08:15:00 GMT+2\n\nFiltered By\nStatus equals Active\n\n", [1, 2, 4, 5]),
        ('"Customers,\nactive"\n2026-11-30\n', [1, 2]), ("sep=,\nReport;x\n", [1]),
    ],
)  # fmt: skip
def test_what_stands_above_a_table_is_named_and_not_imported(above: str, rows: list[int]) -> None:
    text = f"{above}customer_id,name,phone\nC-1,Ann,\nC-2,Bob,x\n"
    found = read_customers(text.encode(), region="ZA")
    assert found.notes["title"] == [len(rows), *rows]
    assert found.columns == ("customer_id", "name", "phone")
    assert [fault.row for fault in found.faults] == [rows[-1] + 3 + above.endswith("\n\n") + above.endswith(",,\n")]


def test_a_title_is_passed_over_where_the_columns_have_names_of_their_own() -> None:
    text = "Stammdaten\n\nNummer,Rufname,Handy\n1,Ann,082\n"
    assert imports_csv.read_header(text.encode()) == ["Nummer", "Rufname", "Handy"]
    assert imports_csv.read_samples(text.encode(), ["customer_id", "name", "phone"]) == ["1", "Ann", "082"]


@pytest.mark.parametrize("text", ["customer_id\n1\n2,3\n", "ref\n1\n\n2,3\n", "Nr,Rufname\n1,mobile\n2,email\n"])
def test_a_header_is_not_taken_for_a_title(text: str) -> None:
    header = imports_csv.read_header(text.encode())
    assert ",".join(header) == text.splitlines()[0]


def test_many_rows_above_a_table_are_no_titles() -> None:
    text = "note\n" * (imports_csv.MOST_TITLES + 1) + "customer_id,phone\n"
    assert imports_csv.read_header(text.encode()) == ["note"]


@pytest.mark.parametrize(
    ("below", "rows"),
    [
        ("[Unknown],,\n", [4]), ("[Unknown],[Unknown],[Unknown]\n", [4]), ("\n(125 rows affected)\n", [5]),
        ("Total,2,\n", [4]), ("Total: 125,,\n", [4]), ("Grand Total,,125.00\n", [4]), ("Gesamt,,2\n", [4]),
        ("(2 rows)\n", [4]), ("Rows: 2\n", [4]), ("---,---,---\n", [4]), ("EOF\n", [4]), ("-- end of report --\n", [4]),
        ("\n\nCustomers with phones\n\"Copyright (c) 2000-2026 salesforce.com, inc. All rights reserved.\"\n"
         "Confidential Information - Do Not Distribute\nGenerated By:  An Admin\nAcme (Pty) Ltd\n", [6, 7, 8, 9, 10]),
    ],
)  # fmt: skip
def test_what_stands_below_a_table_is_named_and_not_imported(below: str, rows: list[int]) -> None:
    text = f"customer_id,name,phone\nC-1,Ann,\nC-2,Bob,\n{below}"
    assert ids(text) == ["C-1", "C-2"]
    assert noted(text)["trailer"] == [len(rows), *rows]


def test_a_ruler_below_the_header_is_passed_over() -> None:
    assert ids("customer_id,name\n-----------,--------\nC-1,Ann\n") == ["C-1"]


def test_in_the_middle_and_where_a_file_was_cut_nothing_is_left_out_silently() -> None:
    assert ids("customer_id,name\nTotal,\nC-1,Ann\nC-2,\n") == ["Total", "C-1", "C-2"]
    (found,) = read_customers(b"customer_id,name\nC-1,Ann\nC-2", region="ZA").faults
    assert str(found) == "row 3: has 1 cells, the header has 2"


# --- IDs that differ in capital letters alone


def test_two_ids_of_a_file_that_differ_in_capitals_alone_are_explained() -> None:
    (found,) = read_customers(b"customer_id\n001A0000001abcD\n001A0000001ABCd\n", region="ZA").faults
    assert str(found).startswith("row 3, customer_id: is the same customer as in row 2; they differ only in capital")


def test_an_id_that_is_stored_with_other_capitals_stops_the_import(directory: CommandImport) -> None:
    load(directory, "customer_id,name\n001A0000001abcD,Ann\n")
    report = load(directory, "customer_id,name\n001A0000001ABCd,Bob\n")
    assert [(fault.row, fault.column) for fault in report.errors] == [(2, "customer_id")]
    assert "a customer's already, with other capital letters" in report.errors[0].reason
    assert load(directory, "customer_id,name\n001A0000001abcD,Ann\n").equal == 1
    assert load(directory, "customer_id,name\n001A 0000001abcD,Ann\n").changed == 1  # a space is no other person


# --- Workbooks


def sheet_text(content: bytes, sheet: str = "") -> str:
    return open_table(content, sheet).text.read()


def test_a_workbook_is_read_as_people_see_it() -> None:
    book = Workbook()
    sheet = book.worksheets[0]
    rows: list[list[Any]] = [
        ["customer_id", "name", "joined"], [1001, "Zoë", date(2026, 11, 30)], [], [27831234567.0, True, 1.5],
        ["00012", "a\nb", datetime(2026, 11, 30, 12, 30, tzinfo=UTC).replace(tzinfo=None)], [42, "Nkosi, Ann", None],
    ]  # fmt: skip
    for row in rows:
        sheet.append(row)
    sheet["A6"].number_format = "00000"
    assert sheet_text(saved(book)) == (
        "customer_id,name,joined\n1001,Zoë,2026-11-30\n\n27831234567,TRUE,1.5\n"
        '00012,"a\nb",2026-11-30 12:30:00\n00042,"Nkosi, Ann",\n'
    )


def test_rows_of_a_workbook_are_numbered_as_it_shows_them(directory: CommandImport) -> None:
    book = workbook(People=[[], ["customer_id", "phone"], ["C-1", 821234567], [], ["C-2", 12], ["C-3"]])
    report = load(directory, book)
    assert [str(fault)[:20] for fault in report.errors] == ["row 5, phone: is not"]


def test_a_sheet_is_chosen_by_name_or_number_and_hidden_ones_are_not_the_first(directory: CommandImport) -> None:
    book = Workbook()
    book.worksheets[0].title = "Lists"
    book.worksheets[0].sheet_state = "hidden"
    for name, customer_id in (("Readme", "C-1"), ("Customers ", "C-2")):
        book.create_sheet(name).append(["customer_id"])
        book[name].append([customer_id])
    content = saved(book)
    assert sheet_text(content) == "customer_id\nC-1\n"
    assert load(directory, content).warnings == ["The file has 2 sheets; the one named “Readme” was read."]
    assert sheet_text(content, "customers") == sheet_text(content, "3") == "customer_id\nC-2\n"
    other = workbook(Readme=[["hello"], ["there"]], Customers=[["customer_id"]])
    assert load(directory, other).lines[1] == "The file has 2 sheets; the one named “Readme” was read."
    report = load(directory, content, sheet="Kunden")
    assert report.lines[1] == "the file: is a workbook without such a sheet; it has: Lists, Readme, Customers "


def test_an_empty_workbook_has_no_columns(directory: CommandImport) -> None:
    assert load(directory, workbook(Empty=[])).lines[1].startswith("row 1: is empty")


def changed(content: bytes, name: str, text: bytes) -> bytes:
    """A workbook with another content of one part."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, text if part.filename == name else old.read(part))
        if name not in old.namelist():
            new.writestr(name, text)
    return result.getvalue()


SHEET = "xl/worksheets/sheet1.xml"
AROUND = (
    b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><dimension ref="A1:XFD1048576"/>'
    b"<sheetData>%b</sheetData></worksheet>"
)
HEADER = b'<row r="1"><c r="A1" t="inlineStr"><is><t>customer_id</t></is></c></row>'


@pytest.mark.parametrize(
    ("part", "content", "reason"),
    [
        (SHEET, AROUND % (HEADER + b'<row r="99999999"><c r="A99999999"><v>1</v></c></row>'), "can be read at once"),
        (SHEET, b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + AROUND % HEADER, "cannot be read"),
        (SHEET, b"not xml", "cannot be read"),
        ("xl/styles.xml", b"<styleSheet>" + b" " * 9_000_000 + b"</styleSheet>", "can be read at once"),
        ("xl/workbook.xml", b"<workbook/>", "without such a sheet"),
    ],
    ids=["a row far below", "entities", "no xml", "large styles", "no sheets"],
)
def test_hostile_workbooks_are_refused(part: str, content: bytes, reason: str) -> None:
    book = changed(workbook(A=[["customer_id"]]), part, content)
    with pytest.raises(FileRefused, match=reason):
        sheet_text(book)


def test_a_cell_far_to_the_right_and_a_false_size_cost_nothing() -> None:
    row = HEADER.replace(b"</row>", b'<c r="XFD1"><v>1</v></c></row>')
    assert sheet_text(changed(workbook(A=[[]]), SHEET, AROUND % row)).count(",") == 16383


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "LARGEST_SHEET", 1_000_000)
    with pytest.raises(FileRefused, match="can be read at once"):
        sheet_text(changed(workbook(A=[[]]), SHEET, AROUND % (HEADER + b" " * 1_000_000)))
    monkeypatch.undo()
    monkeypatch.setattr(imports, "LARGEST_FILE", 1000)
    with pytest.raises(FileRefused, match="can be read at once"):
        sheet_text(workbook(A=[["customer_id"], *[["C" * 100]] * 20]))


@pytest.mark.parametrize("seed", range(3))
def test_damaged_workbooks_are_refused_and_never_raise_anything_else(seed: int) -> None:
    book = workbook(A=[["customer_id", "name"], ["C-1", "Ann"]])
    for cut in range(40 + seed, len(book), 97):
        broken = book[:cut] if seed == 0 else book[:cut] + bytes([seed * 85]) + book[cut + 1 :]
        with suppress(FileRefused):
            sheet_text(broken)


# --- Samples


@pytest.mark.parametrize(
    "text", ["$argon2id$v=19$m=1", "$2b$12$abc", "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", "otpauth://totp/x"]
)
def test_secrets_are_known_by_their_look(text: str) -> None:
    assert is_secret(text)
    assert not is_secret("Thandi Nkosi")
    assert not is_secret("27821234567" * 3)


# --- Authenticator secrets

SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


@pytest.mark.parametrize(
    ("cell", "stored"),
    [
        (f"otpauth://totp/Acme:thandi@example.com?secret={SEED}&issuer=Acme", SEED),
        (f"otpauth://totp/x?secret={SEED.lower()}&algorithm=SHA1&digits=6&period=30", SEED),
        (f"OTPAUTH://TOTP/x?Secret={SEED[:16]}%20{SEED[16:]}&algorithm=sha-1", SEED),
        (f"otpauth://totp/x?secret={SEED}&algorithm=SHA256",
         f"otpauth://totp/?secret={SEED}&algorithm=SHA256&digits=6&period=30"),
        (f"otpauth://totp/x?secret={SEED}&algorithm=HmacSHA512&period=60",
         f"otpauth://totp/?secret={SEED}&algorithm=SHA512&digits=6&period=60"),
    ],
)  # fmt: skip
def test_a_link_of_an_app_is_read_with_its_settings(cell: str, stored: str) -> None:
    assert cells(f"customer_id|totp_secret\nC|{cell}\n") == [{"totp_secret": stored}]
    assert check({"totp_secret": stored}, "ZA").fields == {"totp_secret": stored}  # exported and imported again


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"otpauth://hotp/x?secret={SEED}&counter=1", "codes by a counter"),
        (f"otpauth://totp/x?secret={SEED}&digits=8", "other than 6 digits"),
        (f"otpauth://totp/x?secret={SEED}&period=15", "other than 30 or 60 seconds"),
        (f"otpauth://totp/x?secret={SEED}&algorithm=MD5", "other than SHA1, SHA256 and SHA512"),
        ("otpauth://totp/x?issuer=Acme", "without a secret"),
        (f"otpauth://totp/x?secret={SEED[:16]}", "is shorter than 128 bits"),
        (f"otpauth://totp/x?secret={SEED}01", "is not Base32"),
        ("otpauth-migration://offline?data=abc", "several accounts"),
    ],
)
def test_a_link_that_cannot_be_used_is_refused_with_its_reason(url: str, reason: str) -> None:
    (found,) = read_customers(f"customer_id|totp_secret\nC|{url}\n".encode(), region="ZA").faults
    assert (found.row, found.column) == (2, "totp_secret")
    assert reason in found.reason
