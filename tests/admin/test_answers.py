"""Stored answers are counted and exported, and so are acceptances of terms."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from auth_portal.services.history import results
from auth_portal.services.history.lists import csv_rows
from auth_portal.store.models import Acceptance, AnswerRow, AuditEvent, Verification, table_of
from tests.admin.desk import Desk, signed_in
from tests.receiver import Receiver
from tests.security.tools import STILL
from tests.services.steps import IDENTIFY, PASSWORD_STEP, QUESTIONS, TERMS, stepped
from tests.world import CUSTOMERS, PASSWORD, SHORT_PASSWORD, World, journey, open_world

MORE = """{ key = "visits", kind = "number", ask = "How many visits?", required = false },
  { key = "call", kind = "phone", ask = "Which number may we call?", required = false } ] }"""
STORED = QUESTIONS.replace('"questions", questions', '"questions", store_days = 365, questions')
LONG = f"{STORED.removesuffix('] }').rstrip()}, {MORE}"
ANONYMOUS = STORED.replace("store_days = 365,", "store_days = 365, anonymous = true,")
EVIL = '=HYPERLINK("http://evil")\n@x'
JOURNEYS = (
    journey("balance", "sms_code", default=True)
    + stepped("after", IDENTIFY, PASSWORD_STEP, LONG)
    + stepped("secret", ANONYMOUS)
    + stepped("alone", TERMS)
    + stepped("terms", IDENTIFY, PASSWORD_STEP, TERMS)
)
PAGE = "/admin/journeys/{}/answers"


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    people = CUSTOMERS.replace(SHORT_PASSWORD, PASSWORD)
    with open_world(tmp_path, database_url, receiver, config=JOURNEYS, settings=STILL, customers=people) as opened:
        yield opened


def answered(world: World, slug: str, *answers: str) -> None:
    browser = world.browser()
    browser.open(f"ref-{len(world.rows(AnswerRow))}", slug)
    if slug == "secret":
        browser.post(f"/j/{slug}")
    else:
        browser.post(f"/j/{slug}", identifier="C-1001")
        browser.prove(PASSWORD)
    for one in answers:
        browser.post("/verify", answer=one)
    assert browser.path == "/done", browser.page.text


def words(desk: Desk, path: str) -> str:
    """The text of a page, its tags and spaces taken out."""
    page = desk.get(path)
    assert page.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.text.partition("<main")[2]))


def rows_of(desk: Desk, slug: str, what: str = "answers", days: str = "0") -> list[dict[str, str]]:
    desk.get(PAGE.format(slug))
    page = desk.post(f"/admin/journeys/{slug}/{what}/export", days=days, second_factor=desk.second_factor())
    assert page.status_code == 200, page.text
    assert page.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert page.headers["Content-Disposition"] == f'attachment; filename="{slug}-{what}.csv"'
    assert page.data.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(page.data.decode("utf-8-sig"), newline="")))


def test_choices_scales_numbers_and_texts_are_counted(world: World) -> None:
    answered(world, "after", "balance", "10", "More branches", "3", "")
    answered(world, "after", "balance", "9", "", "4", "+27821234567")
    answered(world, "after", "problem", "The <b>queue", "6", "", "", "")
    answered(world, "after", "problem", "The app", "8", "Shorter queues", "", "")
    page = words(signed_in(world, "support"), PAGE.format("after"))
    assert "4 responses." in page
    assert "To check my balance 2 50&nbsp;% To report a problem 2 50&nbsp;%" in page
    assert "Net promoter score 25 " in page  # two of four promote, one detracts
    assert "Average 8.25" in page
    assert "8 1 25&nbsp;% 9 1 25&nbsp;% 10 1 25&nbsp;%" in page
    assert "Average 3.50" in page
    assert "The &lt;b&gt;queue" in page
    assert page.index("Shorter queues") < page.index("More branches")
    assert "better : 2 answered, 2 left it empty" in page
    assert "+27821234567" not in page
    assert "Contacts aren't shown here." in page
    assert "Download" not in page


def test_the_time_that_is_asked_for_limits_what_is_counted(world: World) -> None:
    answered(world, "after", "balance", "10", "In August", "", "")
    world.clock.advance(45 * 86_400)
    answered(world, "after", "balance", "0", "In October", "", "")
    desk = signed_in(world)
    assert "1 response." in words(desk, PAGE.format("after"))
    assert "In August" not in words(desk, PAGE.format("after") + "?days=30")
    assert "2 responses." in words(desk, PAGE.format("after") + "?days=90")
    assert "In August" in words(desk, PAGE.format("after") + "?days=0")
    assert "In August" not in words(desk, PAGE.format("after") + "?days=soon")
    assert [row["answer_better"] for row in rows_of(desk, "after", days="7")] == ["In October"]
    assert [row["answer_better"] for row in rows_of(desk, "after")] == ["In October", "In August"]
    world.clock.advance(330 * 86_400)  # the first one's time is over, and nothing has removed it yet
    desk.sign_in()
    assert [row["answer_better"] for row in rows_of(desk, "after")] == ["In October"]


def test_a_page_opens_a_bounded_number_and_the_file_has_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MOST_OPENED", 2)
    monkeypatch.setattr(results, "BATCH", 2)
    for text in ("First", "Second", "Third", "Fourth", "Fifth"):
        answered(world, "secret", "balance", "10", text)
    desk = signed_in(world)
    page = words(desk, PAGE.format("secret"))
    assert "2 responses. These are the newest. The CSV has all of them." in page
    assert {row["answer_better"] for row in rows_of(desk, "secret")} == {"First", "Second", "Third", "Fourth", "Fifth"}


def test_anonymous_answers_lead_to_no_one(world: World) -> None:
    answered(world, "secret", "balance", "7", "Secret words")
    desk = signed_in(world)
    page = desk.get(PAGE.format("secret")).text
    assert "Secret words" in page
    assert "/admin/verifications/" not in page.partition("<main")[2]
    assert "C-1001" not in page
    (row,) = rows_of(desk, "secret")
    assert (row["answered_at"], row["customer_id"], row["verification_id"]) == (f"{world.clock.now:%Y-%m-%d}", "", "")
    assert row["answer_better"] == "Secret words"


def test_r43_a_file_has_no_formula_and_one_record_for_each_customer(world: World) -> None:
    answered(world, "after", "problem", EVIL[:40], "8", "-1+1", "5", "+27821234567")
    auditor = signed_in(world, "auditor")
    (row,) = rows_of(auditor, "after")
    assert row["customer_id"] == "C-1001"
    assert row["answer_what"].startswith("'=HYPERLINK")
    assert row["answer_better"] == "'-1+1"
    assert row["answer_call"] == "'+27821234567"
    assert not [cell for cell in row.values() if cell.startswith(("=", "+", "-", "@")) or "\n" in cell]
    event = next(one for one in world.rows(AuditEvent) if one.kind == "answers_exported")
    assert (event.admin_id, event.facts["journey"], event.facts["days"]) == (auditor.admin_id, "after", 0)
    name = world.services.journeys.current().name_of("after")
    assert f"The answers of journey “{name}” were downloaded." in auditor.get("/admin/audit").text


def test_a_file_needs_the_second_factor_and_support_gets_none(world: World) -> None:
    answered(world, "after", "balance", "7", "", "", "")
    owner = signed_in(world)
    for _ in range(2):
        world.clock.advance(480)
        owner.get("/admin/admins")
    for what in ("answers", "acceptances"):
        owner.get(PAGE.format("terms"))
        page = owner.post(f"/admin/journeys/terms/{what}/export", days="0")
        assert page.status_code == 422
        assert page.text.count("Enter the code your authenticator app shows now.") == 1
    support = signed_in(world, "support")
    support.get(PAGE.format("after"))
    for what in ("answers", "acceptances"):
        token = {"csrf_token": support.hidden("/admin/sign-out")["csrf_token"]}
        path = f"/admin/journeys/after/{what}/export"
        assert support.client.post(path, data=token, base_url=support.base_url).status_code == 403
    assert not [one for one in world.rows(AuditEvent) if one.kind.endswith("_exported")]


def test_what_cannot_be_decrypted_is_said_and_the_rest_counted(world: World) -> None:
    answered(world, "after", "balance", "7", "Good", "", "")
    answered(world, "after", "balance", "7", "Moved", "", "")
    first, second = world.rows(AnswerRow)
    with world.database.write() as connection:
        table = table_of(AnswerRow)
        connection.execute(update(table).where(table.c.id == second.id).values(answers_sealed=first.answers_sealed))
    desk = signed_in(world)
    page = words(desk, PAGE.format("after"))
    assert "Not counted, because their row can't be decrypted: 1." in page
    assert "Good" in page
    assert sorted(row["other"] for row in rows_of(desk, "after")) == ["", "unreadable"]


def test_answers_to_a_question_that_was_removed_stay_in_the_file(world: World) -> None:
    answered(world, "after", "balance", "7", "Good", "12", "")
    with world.database.write() as connection:
        connection.execute(update(table_of(AnswerRow)).values(slug="secret"))  # asks neither visits nor call
    desk = signed_in(world)
    assert "no longer asks are in the CSV: call , visits" in words(desk, PAGE.format("secret")).replace(
        "call,", "call ,"
    )
    (row,) = rows_of(desk, "secret")
    assert row["other"] == '{"call": "", "visits": "12"}'


def test_acceptances_are_exported_with_who_what_and_when(world: World) -> None:
    browser = world.browser()
    browser.open("abc", "terms")
    browser.post("/j/terms", identifier="C-1001")
    browser.prove(PASSWORD)
    browser.post("/verify", accept="read")
    (stored,) = world.rows(Acceptance)
    auditor = signed_in(world, "auditor")
    (row,) = rows_of(auditor, "terms", "acceptances")
    assert row == {
        "accepted_at": row["accepted_at"],
        "customer_id": "C-1001",
        "verification_id": stored.verification_id,
        "version": "3",
        "language": "en",
        "sha256": stored.digest,
        "boxes": stored.boxes,
        "unchanged": "yes",
    }
    assert row["accepted_at"].startswith(f"{stored.accepted_at:%Y-%m-%dT%H:%M:%S}")
    event = next(one for one in world.rows(AuditEvent) if one.kind == "acceptances_exported")
    assert (event.admin_id, event.facts["journey"]) == (auditor.admin_id, "terms")
    with world.database.write() as connection:
        connection.execute(update(table_of(Acceptance)).values(version="=4"))
    (row,) = rows_of(auditor, "terms", "acceptances")
    assert row["version"] == "'=4"
    world.clock.advance(40 * 86_400)
    auditor.sign_in()
    assert rows_of(auditor, "terms", "acceptances", days="30") == []


def decided(world: World, customer: str, *accepted: str) -> None:
    """Prove who one is, then accept the terms of ``terms`` with these boxes, or decline them."""
    browser = world.browser()
    browser.open(f"terms-{len(world.rows(Verification))}", "terms")
    browser.post("/j/terms", identifier=customer)
    browser.prove(PASSWORD)
    fields = {"accept": list(accepted)} if accepted else {"decline": "terms"}
    browser.get("/verify") if accepted else browser.get("/verify/decline")
    browser.post("/verify", **fields)
    assert browser.path == "/done", browser.page.text
    world.clock.advance(3600)


def test_terms_are_counted_by_version_with_the_first_and_the_last_time(world: World) -> None:
    """By the tables: an acceptance for each time, and each customer once."""
    decided(world, "C-1001", "read", "tips")
    decided(world, "C-1002", "read")
    decided(world, "C-1001", "read")
    decided(world, "C-1002")
    with world.database.write() as connection:
        row = connection.execute(select(Acceptance.id).order_by(Acceptance.id)).scalars().first()
        connection.execute(update(Acceptance).where(Acceptance.id == row).values(version="2"))
    rows = world.rows(Acceptance)
    at = [one.accepted_at for one in rows]
    (declined,) = [one for one in world.rows(AuditEvent) if one.kind == "terms_declined"]
    found = world.services.results.terms("terms", 0)
    assert [(one.version, one.is_accepted, one.count, one.first_at, one.last_at) for one in found.counts] == [
        ("3", True, 2, at[1], at[2]),
        ("3", False, 1, declined.at, declined.at),
        ("2", True, 1, at[0], at[0]),
    ]
    assert not found.is_partial
    assert world.services.results.terms("after", 0).counts == []
    page = words(signed_in(world, "support"), f"{PAGE.format('terms')}?days=0")
    assert "3 accepted 2 2026-11-22 13:00:00 2026-11-22 14:00:00" in page
    assert "3 declined 1 2026-11-22 15:00:00 2026-11-22 15:00:00" in page
    assert "2 accepted 1 2026-11-22 12:00:00 2026-11-22 12:00:00" in page
    assert "No stored answers" not in page
    world.clock.advance(10 * 24 * 3600)
    assert world.services.results.terms("terms", 7).counts == []


def test_terms_of_no_one_in_particular_count_each_time_and_a_page_counts_so_many(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        browser = world.browser()
        browser.open(f"alone-{number}", "alone")
        browser.post("/j/alone")
        browser.post("/verify", accept="read")
    ((count,), is_partial) = vars(world.services.results.terms("alone", 7)).values()
    assert (count.version, count.is_accepted, count.count, is_partial) == ("3", True, 3, False)
    monkeypatch.setattr(results, "MOST_COUNTED", 2)
    figures = world.services.results.terms("alone", 7)
    assert (figures.counts[0].count, figures.is_partial) == (2, True)
    assert "These are the newest." in words(signed_in(world, "support"), PAGE.format("alone"))


@pytest.mark.parametrize("sign", "=+-@\uff1d\uff0b\uff0d\uff20")
def test_r43_no_cell_begins_as_a_formula_in_any_spreadsheet(sign: str) -> None:
    """Some editions of Excel read the wide signs of Chinese and Japanese as the plain ones."""
    assert csv_rows([[f" {sign}1+1"]]) == f"'{sign}1+1\r\n"
