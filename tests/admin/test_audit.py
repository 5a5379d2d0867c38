"""The audit: searched, exported (R43), and each event held against its own signature (E4)."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from sqlalchemy import text, update

from auth_portal.services.history.audit_trail import CSV_COLUMNS, AuditFilter
from auth_portal.services.history.words import browser_words
from auth_portal.store.models import AuditEvent, CustomerRow, table_of
from tests.admin.desk import ADMIN_ADDRESS, Desk
from tests.api.program import ADDRESS, Program
from tests.test_cli_notices import run
from tests.web.test_way import verified
from tests.world import Browser, World

PATH = "/admin/audit"


def record(world: World, kind: str, **facts: object) -> None:
    with world.transactions.write() as work:
        work.record(kind, **facts)  # type: ignore[arg-type]


def export(desk: Desk, form: str, query: str = "") -> str:
    desk.get(f"{PATH}{query}")
    desk.post(f"{PATH}/export", format=form)
    assert desk.page.status_code == 200
    return desk.page.text


def test_events_are_sentences(small_world: World, owner: Desk) -> None:
    record(small_world, "delivery_retried", admin_id=owner.admin_id, what="callback", reason="flow was off")
    record(small_world, "something_new_happened", count=3, was_it_so=True)
    page = owner.get(PATH).text
    assert "A callback was sent again. Reason given: flow was off" in page
    assert "Something new happened: count 3, was it so yes." in page
    assert "Ada Owner" in page


def test_filters_by_kind_admin_customer_verification_and_time(small_world: World, owner: Desk) -> None:
    verified(small_world, "app")
    record(small_world, "keys_rotated", admin_id=owner.admin_id)
    small_world.clock.advance(60)
    record(small_world, "something_else")
    trail = small_world.services.audit_trail

    def found(**wanted: object) -> list[str]:
        return [line.kind for line in trail.page(AuditFilter(**wanted)).rows]  # type: ignore[arg-type]

    began = next(row for row in small_world.rows(AuditEvent) if row.kind == "verification_began")
    assert found(kind="keys_rotated") == ["keys_rotated"]
    assert found(kind="verification_began") == ["verification_began"]
    assert found(admin_id=owner.admin_id, kind="keys_rotated") == ["keys_rotated"]
    assert found(admin_id=owner.admin_id, kind="something_else") == []
    assert found(verification_id=began.verification_id) == ["verification_began"]
    assert found(since=small_world.clock.now) == ["something_else"]
    assert "something_else" not in found(until=small_world.clock.now)
    owner.get(PATH)
    owner.post(f"{PATH}/find", customer="c-1001")
    assert "A verification began on journey app." in owner.page.text
    assert "something else" not in owner.page.text.partition("<table")[2]
    assert "1001" not in owner.page.request.query_string.decode()
    page = owner.post(f"{PATH}/find", customer="nobody")
    assert page.status_code == 422
    assert 'value="nobody"' in page.text


def test_pages_by_key(small_world: World, owner: Desk) -> None:
    for number in range(60):
        record(small_world, "numbered", number=number)
        small_world.clock.advance(1)
    page = owner.get(f"{PATH}?kind=numbered").text
    assert "Numbered: number 59." in page
    assert "Numbered: number 9." not in page
    more = page.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
    assert "Numbered: number 9." in owner.get(more).text


def test_r43_one_record_per_event_whatever_it_contains(small_world: World, auditor: Desk) -> None:
    evil = '=HYPERLINK("http://evil")\r\n"; DROP\u2028x,\n@cmd'
    record(small_world, "=cmd|' /C calc'!A0", note=evil, nested={"deep": [evil]})
    rows = list(csv.DictReader(io.StringIO(export(auditor, "csv"))))
    events = len(small_world.rows(AuditEvent)) - 1  # the export itself came after
    assert len(rows) in (events, events + 1)
    assert tuple(rows[0]) == CSV_COLUMNS
    row = next(row for row in rows if "calc" in row["kind"])
    assert row["kind"].startswith("'=")
    assert json.loads(row["facts"])["note"] == evil
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert not [cell for row in rows for cell in row.values() if "\n" in cell]
    lines = export(auditor, "jsonl").splitlines()
    assert all(json.loads(line)["id"] for line in lines)
    assert next(one for one in map(json.loads, lines) if "calc" in one["kind"])["facts"]["nested"]["deep"] == [evil]


def test_an_export_has_all_of_the_filter_and_is_audited(small_world: World, auditor: Desk) -> None:
    for number in range(1100):  # more than one batch
        record(small_world, "numbered", number=number)
    rows = list(csv.DictReader(io.StringIO(export(auditor, "csv", "?kind=numbered"))))
    assert len(rows) == 1100
    assert {row["kind"] for row in rows} == {"numbered"}
    event = next(row for row in small_world.rows(AuditEvent) if row.kind == "audit_exported")
    assert event.admin_id == auditor.admin_id


def test_an_export_of_an_unknown_form_is_refused(auditor: Desk) -> None:
    auditor.get(PATH)
    assert auditor.post(f"{PATH}/export", format="xls").status_code == 422


def test_e4_an_edited_event_shows_in_the_list_and_in_the_check(small_world: World, auditor: Desk) -> None:
    record(small_world, "numbered", number=1)
    auditor.get(f"{PATH}/check")
    assert "All are unchanged" in auditor.page.text
    row = next(row for row in small_world.rows(AuditEvent) if row.kind == "numbered")
    with small_world.database.write() as connection:
        connection.execute(update(AuditEvent).where(AuditEvent.id == row.id).values(facts={"number": 2}))
    auditor.get(f"{PATH}/check")
    assert row.id in auditor.page.text
    assert f"Event {row.id} was changed after it was recorded" in auditor.page.text
    assert "changed after recording" in auditor.get(f"{PATH}?kind=numbered").text


@pytest.mark.parametrize(
    "values", [{"kind": "other"}, {"admin_id": "f" * 32}, {"subject_id": "f" * 32}, {"mac": "0" * 64}]
)
def test_e4_every_field_counts(world: World, values: dict[str, str]) -> None:
    record(world, "numbered", number=1, nested={"b": [1, 2.5, None], "a": "ü"})
    assert [fault for found in world.services.audit_checks.check_all() for fault in found.faults] == []
    with world.database.write() as connection:
        connection.execute(update(AuditEvent).where(AuditEvent.kind == "numbered").values(**values))
    assert len([fault for found in world.services.audit_checks.check_all() for fault in found.faults]) == 1


def test_e4_is_checked_in_bounded_pieces(world: World) -> None:
    world.services.dispatcher.stop()
    for number in range(5):
        record(world, "numbered", number=number)
        world.services.dispatcher.seal()
    checks, total = world.services.audit_checks, len(world.rows(AuditEvent))
    first = checks.check(most=2)
    assert 2 <= first.count < total
    counts = [first.count]
    while first.next is not None:
        first = checks.check(after=first.next, most=2)
        counts.append(first.count)
    assert sum(counts) == total
    assert max(counts[1:]) <= 2


def test_an_erased_customer_is_nobody_in_the_list(small_world: World, owner: Desk) -> None:
    verified(small_world, "app")
    with small_world.database.write() as connection:
        connection.execute(text("UPDATE visits SET customer_row = NULL"))
        connection.execute(table_of(CustomerRow).delete().where(CustomerRow.customer_id == "C-1001"))
    assert "a customer since erased" in owner.get(PATH).text


def test_support_may_neither_export_nor_check(support: Desk) -> None:
    page = support.get(PATH).text
    assert "Download the events" not in page
    assert support.get(f"{PATH}/check").status_code == 403


def test_events_are_told_in_plain_words(small_world: World, owner: Desk) -> None:
    record(small_world, "proof_failed", method="sms_code")
    record(small_world, "verification_ended", outcome="unavailable", why="no_channel")
    page = owner.get(PATH).text
    assert "A try with the SMS code was wrong." in page
    assert "It ended: no customer could pass. The journey was on, but for one of its steps no channel" in page
    assert "A new admin joined as owner." in page


CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36"
)
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 Version/18.1 Mobile/15E148 Safari/604.1"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (CHROME, "Chrome on Windows"),
        (f"{CHROME} Edg/141.0.0.0", "Edge on Windows"),
        (f"{CHROME} OPR/120.0.0.0", "Opera on Windows"),
        (IPHONE, "Safari on iPhone"),
        (IPHONE.replace("Version/", "CriOS/"), "Chrome on iPhone"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0", "Firefox on Linux"),
        ("Mozilla/5.0 (Linux; Android 15) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile", "Samsung Internet on Android"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/18.1 Safari/605.1.15", "Safari on Mac"),
        ("curl/8.11.0", "curl 8.11.0"),
        ("", ""),
    ],
)
def test_browsers_in_words(said: str, words: str) -> None:
    assert browser_words(said) == words


def facts_of(world: World, kind: str) -> dict[str, object]:
    return next(row.facts for row in world.rows(AuditEvent) if row.kind == kind)


def test_an_act_of_an_admin_says_from_where(small_world: World, owner: Desk) -> None:
    row = small_world.rows(CustomerRow)[0]
    agent = {"User-Agent": CHROME + "\x07" + "x" * 500}
    owner.get(f"/admin/customers/{row.id}")
    owner.post(f"/admin/customers/{row.id}/reveal", headers=agent, second_factor=owner.second_factor())
    facts = facts_of(small_world, "customer_revealed")
    assert facts["address"] == ADMIN_ADDRESS
    assert len(str(facts["browser"])) == 200
    assert "\x07" not in str(facts["browser"])
    page = owner.get(f"{PATH}?kind=customer_revealed").text
    assert ADMIN_ADDRESS in page
    assert "Chrome on Windows" in page
    line = next(csv.DictReader(io.StringIO(export(owner, "csv", "?kind=customer_revealed"))))
    assert (line["by"], line["address"], line["browser"]) == ("Ada Owner", ADMIN_ADDRESS, "Chrome on Windows")
    assert all(not checked.faults for checked in small_world.services.audit_checks.check_all())


def test_a_failed_sign_in_says_from_where_and_a_customer_nothing(small_world: World, owner: Desk) -> None:
    verified(small_world, "app")
    stranger = Browser(small_world, "203.0.113.77")
    stranger.get("/admin/sign-in")
    stranger.post("/admin/sign-in", email="x@example.com", password="wrong", code="000000")
    assert facts_of(small_world, "admin_sign_in_failed")["address"] == "203.0.113.77"
    theirs = [row for row in small_world.rows(AuditEvent) if row.verification_id is not None]
    assert theirs
    assert all(not {"address", "browser", "request", "account"} & row.facts.keys() for row in theirs)


def test_a_program_is_named_by_its_key(small_world: World, owner: Desk) -> None:
    made = small_world.services.api_keys.create("Bookings", ["customers:write", "customers:read"], 90, owner.admin_id)
    put = Program(small_world, made.key).post("/customers", {"customer_id": "N-1"})
    assert put.status_code == 201, put.text
    assert facts_of(small_world, "customer_created")["address"] == ADDRESS
    page = owner.get(f"{PATH}?kind=customer_created").text
    assert "API key “Bookings”" in page
    assert made.id not in page
    # Of before 0.2.0: the id alone.
    record(small_world, "delivery_retried", what="callback", reason="flow was off", api_key=made.id)
    page = owner.get(f"{PATH}?kind=delivery_retried").text
    assert "API key “Bookings”" in page
    page = owner.get(f"{PATH}?kind=api_key_created").text
    assert "The API key “Bookings” was created" in page
    assert "Ada Owner" in page


def test_a_command_says_who_ran_it(small_world: World, owner: Desk, tmp_path: Path) -> None:
    run(small_world, tmp_path, "customers", "renew", "C-1001")
    facts = facts_of(small_world, "credentials_renewed")
    assert str(facts["command"]).endswith("customers renew")
    page = owner.get(f"{PATH}?kind=credentials_renewed").text
    assert "customers renew" in page
    assert str(facts["account"]) in page


def test_the_export_of_a_person_does_not_say_from_where_an_admin_acted(small_world: World, owner: Desk) -> None:
    row = small_world.rows(CustomerRow)[0]
    owner.get(f"/admin/customers/{row.id}")
    owner.post(f"/admin/customers/{row.id}/reveal", second_factor=owner.second_factor())
    document = json.dumps(small_world.services.person_export.of(row.id))
    assert "customer_revealed" in document
    assert ADMIN_ADDRESS not in document
