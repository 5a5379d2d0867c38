"""What changed since: no change is lost, whatever commits when, and what is erased leaves an id alone."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from auth_portal.services.operations.installation import closings
from auth_portal.services.operations.retention import prune
from auth_portal.store.models import CustomerRemoval, CustomerRow, Portal, table_of
from tests.api.program import Program, problem, program
from tests.receiver import Receiver
from tests.security.tools import STILL, deliver
from tests.world import World, open_world

CUSTOMERS, ENDS = "/changes/customers", "/changes/verifications"
DELIVERIES = "/changes/deliveries"


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    """A portal whose clock stands: all that a test changes has one time."""
    with open_world(tmp_path, database_url, receiver, settings=STILL) as opened:
        yield opened


@pytest.fixture
def crm(world: World) -> Program:
    return program(world, days=365)


class Copy:
    """A program that keeps a copy of the directory, and reads in pages of two."""

    def __init__(self, crm: Program) -> None:
        self.crm, self.after = crm, ""
        self.known: dict[str, dict[str, Any]] = {}

    def read(self, limit: int = 2) -> list[dict[str, Any]]:
        """What changed since the last time."""
        found: list[dict[str, Any]] = []
        while True:
            after = f"&after={self.after}" if self.after else ""
            answer = self.crm.get(f"{CUSTOMERS}?limit={limit}{after}")
            assert answer.status_code == 200, answer.text
            page = json.loads(answer.text)
            found += page["data"]
            self.after = page["next"]
            if not page["more"]:
                break
        for entry in found:
            if entry["customer"] is None:
                self.known.pop(entry["id"], None)
            else:
                self.known[entry["id"]] = entry["customer"]
        return found

    @property
    def ids(self) -> set[str]:
        return {one["customer_id"] for one in self.known.values()}


def changed(entries: list[dict[str, Any]]) -> list[str | None]:
    return [entry["customer"] and entry["customer"]["customer_id"] for entry in entries]


def test_a_copy_is_complete_and_stays_so(world: World, crm: Program) -> None:
    copy = Copy(crm)
    copy.read()
    stored = {row.customer_id for row in world.rows(CustomerRow)}
    assert copy.ids == stored
    assert copy.read() == []
    crm.post("/customers", {"customer_id": "N-1", "phone": "0825551234"})
    crm.patch("/customers/C-1001", {"name": "Another Name"})
    crm.patch("/customers/C-1001", {"active": False})
    assert sorted(filter(None, changed(copy.read()))) == ["C-1001", "N-1"]  # each once, as they are now
    (thandi,) = [one for one in copy.known.values() if one["customer_id"] == "C-1001"]
    assert (thandi["name"], thandi["active"]) == ("Another Name", False)
    assert thandi["id"] == json.loads(crm.get("/customers/C-1001").text)["id"]
    crm.post("/customers/bulk", {"customers": [{"customer_id": "N-1", "name": "B"}, {"customer_id": "N-2"}]})
    assert sorted(filter(None, changed(copy.read()))) == ["N-1", "N-2"]
    world.services.credentials.reset(world.services.customers.row_of("C-1001"), "totp")
    assert changed(copy.read()) == ["C-1001"]
    assert copy.read() == []


def test_a_change_at_the_same_time_as_one_that_was_read_is_not_lost(world: World, crm: Program) -> None:
    copy, people = Copy(crm), world.services.customers
    copy.read()
    row = people.row_of("C-1001")
    for is_active in (False, True, False):  # the clock stands
        people.set_active(row, is_active=is_active)
        assert changed(copy.read()) == ["C-1001"]
        assert copy.known[people.get(row).program_id]["active"] == is_active
    for name in ("A", "B", "C"):
        crm.patch("/customers/C-1001", {"name": name})
        assert changed(copy.read()) == ["C-1001"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one writer at a time
def test_a_change_that_commits_late_is_not_lost(world: World, crm: Program) -> None:
    """It began first, has the earlier time, and commits after others were read."""
    copy = Copy(crm)
    copy.read()
    began, goes_on = threading.Event(), threading.Event()

    def slowly() -> None:
        with world.transactions.write() as work:
            this = CustomerRow.customer_id == "C-1001"
            late = {"locale": "zu", "changed_at": work.now, "change_number": None}
            work.execute(update(CustomerRow).where(this).values(late))
            began.set()
            goes_on.wait(60)

    writer = threading.Thread(target=slowly)
    writer.start()
    assert began.wait(60)
    world.clock.advance(5)
    crm.post("/customers", {"customer_id": "N-1"})
    assert changed(copy.read()) == ["N-1"]
    goes_on.set()
    writer.join()
    assert changed(copy.read()) == ["C-1001"]


def test_a_change_by_an_older_version_is_not_lost(world: World, crm: Program) -> None:
    """0.1.0 writes the time and leaves the number."""
    copy = Copy(crm)
    copy.read()
    world.clock.advance(1)
    with world.transactions.write() as work:
        this = table_of(CustomerRow).c.customer_id == "C-1001"
        work.execute(update(table_of(CustomerRow)).where(this).values(locale="zu", changed_at=work.now))
    assert changed(copy.read()) == ["C-1001"]


def test_two_programs_at_once_each_read_every_change(world: World, crm: Program) -> None:
    copies = [Copy(crm), Copy(crm)]
    for number in range(7):
        crm.post("/customers", {"customer_id": f"N-{number}"})
    readers = [threading.Thread(target=copy.read) for copy in copies]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    for copy in copies:
        copy.read()
        assert copy.ids == {row.customer_id for row in world.rows(CustomerRow)}


def test_more_changes_than_are_numbered_at_once_are_read_in_pages(world: World, crm: Program) -> None:
    for start in (0, 300):
        many = [{"customer_id": f"M-{number}"} for number in range(start, start + 300)]
        assert crm.post("/customers/bulk", {"customers": many}).status_code == 200
    copy = Copy(crm)
    copy.read(limit=200)
    assert copy.ids == {row.customer_id for row in world.rows(CustomerRow)}


def test_e3_of_an_erased_customer_an_id_is_left_alone(world: World, crm: Program) -> None:
    copy = Copy(crm)
    copy.read()
    (known_by,) = [one["id"] for one in copy.known.values() if one["customer_id"] == "C-1001"]
    assert crm.delete("/customers/C-1001").status_code == 204
    (entry,) = copy.read()
    assert entry == {"id": known_by, "removed_at": "2026-11-22T12:00:00Z", "customer": None}
    assert "C-1001" not in copy.ids
    (removal,) = world.rows(CustomerRemoval)
    assert removal.id == known_by
    assert "customer_id" not in table_of(CustomerRemoval).c


def test_a_program_that_missed_a_forgotten_removal_begins_again(world: World, crm: Program) -> None:
    early, late = Copy(crm), Copy(crm)
    early.read()
    crm.delete("/customers/C-1001")
    late.read()
    with world.transactions.write() as work:
        work.execute(
            update(Portal).values(
                settings={**world.services.journeys.renew().portal.stored(), "retention": {"audit_days": 90}}
            )
        )
    world.clock.advance(timedelta(days=91).total_seconds())
    prune(world.transactions)
    assert world.rows(CustomerRemoval) == []
    problem(crm.get(f"{CUSTOMERS}?after={early.after}"), 410, "changes_forgotten")
    assert late.read() == []  # it has heard of it
    early.after, early.known = "", {}
    early.read()
    assert early.ids == late.ids
    assert "C-1001" not in early.ids


def test_a_removal_that_no_program_asked_about_in_time_is_not_passed_over(world: World, crm: Program) -> None:
    copy = Copy(crm)
    copy.read()
    world.clock.advance(timedelta(days=30).total_seconds())
    crm.delete("/customers/C-1001")
    world.clock.advance(timedelta(days=400).total_seconds())
    prune(world.transactions)
    problem(program(world).get(f"{CUSTOMERS}?after={copy.after}"), 410, "changes_forgotten")


def test_d14_a_place_before_a_restore_is_refused(world: World, crm: Program) -> None:
    copy = Copy(crm)
    copy.read()
    with world.transactions.write() as work:
        work.execute(closings(work.now)["places among the changes of customers forgotten"])
    problem(crm.get(f"{CUSTOMERS}?after={copy.after}"), 410, "changes_forgotten")
    copy.after = ""
    copy.read()
    crm.patch("/customers/C-1001", {"name": "After"})
    assert changed(copy.read()) == ["C-1001"]


def ends(crm: Program, after: str = "", limit: int = 2) -> tuple[list[str], str]:
    found: list[str] = []
    while True:
        answer = crm.get(f"{ENDS}?limit={limit}{f'&after={after}' if after else ''}")
        assert answer.status_code == 200, answer.text
        page = json.loads(answer.text)
        found += [one["id"] for one in page["data"]]
        assert all(one["outcome"] for one in page["data"])
        after = page["next"]
        if not page["more"]:
            return found, after


def seal(world: World) -> None:
    while world.services.dispatcher.seal():
        pass


def end(world: World, reference: str) -> None:
    browser = world.browser()
    browser.open(reference)
    browser.post("/", decline="not_me", identifier="")


def test_each_end_of_a_verification_is_read_once_in_the_order_of_the_trail(world: World, crm: Program) -> None:
    seal(world)
    found, after = ends(crm)
    assert found == []
    waiting = world.browser()
    waiting.begin("waits", "app")  # began first, ends last
    for number in range(5):
        end(world, f"reference-{number}")
        if number % 2:
            seal(world)
    seal(world)
    first, after = ends(crm, after)
    assert len(first) == len(set(first)) == 5
    world.clock.advance(31)
    waiting.prove(world.totp())
    assert ends(crm, after)[0] == []  # not sealed yet
    seal(world)
    last, after = ends(crm, after)
    assert len(last) == 1
    assert last[0] < min(first)
    assert ends(crm, after)[0] == []
    assert ends(crm)[0] == first + last  # from the beginning
    assert ends(crm, limit=1)[0] == first + last


def test_e3_a_place_before_ends_that_retention_has_removed_is_refused(world: World, crm: Program) -> None:
    """Whoever asks more rarely than verifications are deleted is not left with a copy that lacks some."""
    end(world, "reference-1")
    seal(world)
    _found, after = ends(crm)
    for number in range(2, 5):
        end(world, f"reference-{number}")
        seal(world)
        world.clock.advance(10 * 86_400)
    assert len(ends(crm, after)[0]) == 3
    begun = next_of(crm.get(f"{ENDS}?limit=1"))
    world.clock.advance(15 * 86_400)
    prune(world.transactions)
    end(world, "reference-5")
    seal(world)
    problem(crm.get(f"{ENDS}?after={after}"), 410, "changes_forgotten")
    found, place = ends(crm)
    assert len(found) == 2, "who begins again reads on, although ends before and after these are of deleted ones"
    assert ends(crm, limit=1)[0] == found
    assert ends(crm, place)[0] == []
    assert ends(crm, begun)[0] == found, "what was there when a program began, and has gone, stops no one"


def next_of(answer: Any) -> str:
    return str(json.loads(answer.text)["next"])


def test_a_place_of_another_portal_is_refused(world: World, crm: Program) -> None:
    """A program that was moved from a test portal would miss whatever has lower numbers here."""
    copy = Copy(crm)
    copy.read()
    portal, numbers = base64.urlsafe_b64decode(copy.after + "===").decode().split(".", 1)
    assert crm.get(f"{CUSTOMERS}?after={copy.after}").status_code == 200
    for other in (f"{'0' * len(portal)}.{numbers}", numbers):
        after = base64.urlsafe_b64encode(other.encode()).decode().rstrip("=")
        problem(crm.get(f"{CUSTOMERS}?after={after}"), 410, "changes_forgotten")


def test_a_place_in_another_trail_is_refused(world: World, crm: Program) -> None:
    end(world, "reference-1")
    seal(world)
    _found, after = ends(crm)
    with world.transactions.write() as work:
        work.execute(text("UPDATE audit_blocks SET head = 'ffff' || substr(head, 5)"))
    problem(crm.get(f"{ENDS}?after={after}"), 410, "changes_forgotten")


@pytest.mark.parametrize("path", [CUSTOMERS, ENDS, DELIVERIES])
def test_what_never_was_a_place_is_refused(crm: Program, path: str) -> None:
    for after in ("x", "MQ", "Li4", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAuMQ"):
        assert crm.get(f"{path}?after={after}").status_code in (410, 422)
    assert crm.get(f"{path}?after=%00").status_code == 422
    assert crm.get(f"{path}?since=2026-11-22T12:00:00Z").status_code == 422


def test_the_indexes_serve_what_is_read(world: World) -> None:
    """Of many customers none is looked at but those that changed."""
    if world.database.file is None:
        return
    with world.transactions.read() as work:
        for query in (
            "SELECT id FROM customers WHERE change_number IS NULL OR change_of <> changed_at ORDER BY id LIMIT 200",
            "SELECT id FROM customers WHERE change_number IS NOT NULL AND change_number > 5 AND change_number <= 9"
            " ORDER BY change_number LIMIT 50",
        ):
            plan = " ".join(str(row) for row in work.execute(text(f"EXPLAIN QUERY PLAN {query}")))
            assert "USING INDEX ix_customers_" in plan or "USING COVERING INDEX ix_customers_" in plan, plan


def ended_deliveries(crm: Program, after: str = "", limit: int = 2) -> tuple[list[dict[str, Any]], str]:
    found: list[dict[str, Any]] = []
    while True:
        answer = crm.get(f"{DELIVERIES}?limit={limit}{f'&after={after}' if after else ''}")
        assert answer.status_code == 200, answer.text
        page = json.loads(answer.text)
        found, after = found + page["data"], page["next"]
        if not page["more"]:
            return found, after


def test_each_end_of_a_delivery_is_read_once_and_a_retry_again(world: World, crm: Program) -> None:
    found, after = ended_deliveries(crm)
    assert found == []
    world.receiver.answers = [404]
    for number in range(5):
        end(world, f"reference-{number}")
        deliver(world)  # the clock stands, so all have one time
    assert ended_deliveries(crm, after)[0] == []  # another server may still be writing one of this moment
    world.clock.advance(61)
    end(world, "reference-5")  # has only just been written
    first, place = ended_deliveries(crm, after)
    assert [one["kind"] for one in first] == ["callback"] * 5
    assert len({one["id"] for one in first}) == 5
    assert sorted(one["state"] for one in first) == ["accepted"] * 4 + ["refused"]
    assert ended_deliveries(crm, place)[0] == []
    (lost,) = [one["id"] for one in first if one["state"] == "refused"]
    crm.post(f"/deliveries/{lost}/retry", {"reason": "Flow is back"})
    deliver(world)
    world.clock.advance(61)
    again, place = ended_deliveries(crm, place)
    assert {one["state"] for one in again} == {"accepted"}
    assert lost in {one["id"] for one in again}
    assert len(again) == 2
    assert ended_deliveries(crm, place)[0] == []
    assert sorted(one["id"] for one in ended_deliveries(crm)[0]) == sorted({one["id"] for one in first + again})
    assert ended_deliveries(crm, limit=1)[0] == ended_deliveries(crm)[0]


def test_a_result_that_was_withdrawn_is_an_end_too(world: World, crm: Program) -> None:
    _found, after = ended_deliveries(crm)
    browser = world.browser()
    browser.begin("reference-1", "app")
    browser.post("/verify/cancel", reason="cancelled")
    browser.open("reference-1", "app")
    browser.post("/j/app", again="1", identifier="C-1001")  # before its first answer left
    world.clock.advance(61)
    assert [one["state"] for one in ended_deliveries(crm, after)[0]] == ["superseded"]


def test_a_place_among_the_deliveries_of_another_portal_is_refused(crm: Program) -> None:
    _found, after = ended_deliveries(crm)
    portal, place = base64.urlsafe_b64decode(after + "===").decode().split(".", 1)
    other = base64.urlsafe_b64encode(f"{'0' * len(portal)}.{place}".encode()).decode().rstrip("=")
    problem(crm.get(f"{DELIVERIES}?after={other}"), 410, "changes_forgotten")


def test_e3_a_place_among_deliveries_that_retention_has_removed_is_refused(world: World, crm: Program) -> None:
    def ended_at_once(reference: str) -> str:
        end(world, reference)
        deliver(world)
        world.clock.advance(61)
        return ended_deliveries(crm)[1]

    after = ended_at_once("reference-1")
    ended_at_once("reference-2")
    world.clock.advance(29 * 86_400)
    assert len(ended_deliveries(crm, after)[0]) == 1
    world.clock.advance(2 * 86_400)
    found, page = ended_deliveries(crm, limit=1)
    assert len(found) == 2, "one who has just begun goes on from the first, which is still stored"
    prune(world.transactions)
    problem(crm.get(f"{DELIVERIES}?after={after}"), 410, "changes_forgotten")
    assert ended_deliveries(crm, page)[0] == []
    ended_at_once("reference-3")
    problem(crm.get(f"{DELIVERIES}?after={after}"), 410, "changes_forgotten")
    found, place = ended_deliveries(crm)
    assert len(found) == 1
    assert ended_deliveries(crm, place)[0] == []


def test_ended_deliveries_are_found_by_their_index(world: World, crm: Program) -> None:
    if world.database.file is None:
        return
    with world.statements() as seen:
        crm.get(f"{DELIVERIES}?limit=2")
    (statement,) = [text for text in seen if "FROM deliveries" in text]
    with world.transactions.read() as work:
        plan = work.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", ("",) * statement.count("?")).all()
    assert any("ix_deliveries_ended" in str(row) for row in plan), plan
    assert not any("TEMP B-TREE" in str(row) for row in plan), plan
