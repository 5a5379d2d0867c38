"""Chats under way (R54): verifications, visits, codes and tickets changed by SQL, by someone who is in one of them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select, text, update

from auth_portal import crypto
from auth_portal.crypto import OPEN_MACS, SIGNED, Keyring, token_hash
from auth_portal.services.config.journey import JourneyLimits
from auth_portal.services.delivery.outbox import CHANGED
from auth_portal.services.verification import tickets, tries
from auth_portal.store.keys import broken_rows
from auth_portal.store.models import (
    CALLBACK,
    Attempt,
    AuditEvent,
    Base,
    Challenge,
    Delivery,
    Journey,
    JourneyVersion,
    Portal,
    TicketRow,
    Tries,
    Verification,
    Visit,
)
from tests.receiver import Receiver
from tests.security.test_macs import command
from tests.security.tools import STILL, code_for, deliver, expire, results
from tests.test_migrations import migrated
from tests.ticketed import JOURNEYS, link, opened, ticket
from tests.world import PASSWORD, PHONE, STANDARD, Browser, FakeClock, World, journey, open_world, wrap_as_before_macs

OTHER_PHONE = "+27831234567"  # of C-1002
CONFIG = JOURNEYS + journey("help", "sms_code|support_code") + journey("two", "password", "sms_code")
assert STANDARD in CONFIG


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    with open_world(tmp_path, database_url, receiver, config=CONFIG, settings=STILL) as opened_world:
        yield opened_world


def change(world: World, model: type[Base], *where: Any, **values: Any) -> None:
    """A writer of the database at work."""
    with world.database.write() as connection:
        assert connection.execute(update(model).where(*where).values(**values)).rowcount


def broken(world: World) -> set[str]:
    with world.transactions.read() as work:
        return {row.table for row in broken_rows(work)}


def noted(world: World) -> set[str]:
    return {row.facts["table"] for row in world.rows(AuditEvent) if row.kind == "integrity_broken"}


def row_of(world: World, customer_id: str) -> str:
    return world.services.customers.row_of(customer_id)


def is_unknown(browser: Browser) -> bool:
    """Whether the page is that of a browser which has no visit here."""
    return browser.page.status_code == 400 and "Tap the link in your chat" in browser.page.text


def other(row: Any, column: str) -> Any:
    """Another value for a column, as a writer might put there."""
    value = getattr(row, column)
    if column in ("reference_hash", "purpose_sealed", "payment_sealed"):
        return token_hash("another")
    if value is None or isinstance(value, str):
        return f"{(value or '')[:-1]}z"
    if isinstance(value, bytes):
        return bytes(reversed(value))
    return value + (1 if isinstance(value, int) else timedelta(seconds=-60))


def signed(table: str) -> list[str]:
    return [name for name in SIGNED[table]["mac"] if name != "id"]


# What makes the row one that is not found at all, or one that ended, is no attack on who is verified.
UNFOUND = {"outcome", "token_hash"}


@pytest.mark.parametrize("column", [*signed("visits"), "mac"])
def test_r54_a_visit_that_was_changed_proves_nothing(world: World, column: str) -> None:
    browser = world.browser()
    browser.begin("r-1", "either")
    browser.post("/verify/method", method="totp")
    (row,) = world.rows(Visit)
    value = other(row, column)
    if column == "verification_id":
        world.browser().begin("r-2", "either")
        value = world.rows(Verification)[1].id
    elif column == "customer_row":
        value = row_of(world, "C-1002")
    elif column == "method":
        value = "email_code"
    change(world, Visit, Visit.id == row.id, **{column: value})
    if column != "token_hash":
        assert broken(world) == {"visits"}
    browser.prove(world.totp())
    assert is_unknown(browser)
    assert "verified" not in "".join(results(world))
    assert noted(world) == (set() if column in UNFOUND else {"visits"})


ROUTE = ["reference_hash", "server", "version_id", "proofs_until", "chat_ends_at", "route_mac"]


@pytest.mark.parametrize("column", [*signed("verifications"), *ROUTE, "mac"])
def test_r54_a_verification_that_was_changed_ends_as_expired_or_silently(world: World, column: str) -> None:
    browser = world.browser()
    browser.begin("r-1", "app")
    (row,) = world.rows(Verification)
    value = other(row, column)
    if column == "version_id":
        with world.database.read() as connection:
            value = connection.execute(select(Journey.version_id).where(Journey.slug == "password")).scalar_one()
    elif column == "outcome":
        value = "verified"
    change(world, Verification, **{column: value})
    browser.prove(world.totp())
    assert is_unknown(browser)
    assert noted(world) == {"verifications"}
    world.clock.advance(500)
    expire(world)
    assert results(world) == ([] if column == "outcome" or column in ROUTE else ["failed"])
    assert {row.target for row in world.rows(Delivery)} <= {world.receiver.origin}
    assert "verified" not in {row.outcome for row in world.rows(Verification)} or column == "outcome"


def test_r54_a_chat_that_was_made_to_last_for_ever_ends(world: World) -> None:
    world.browser().begin("r-1", "app")
    change(world, Verification, proofs_until=world.clock.now.replace(year=9999))
    world.browser().begin("r-2", "app")
    assert expire(world) == 1
    assert [row.outcome for row in world.rows(Verification)] == ["expired", None]
    assert noted(world) == {"verifications"}


def test_r54_a_result_says_nothing_of_another_journey(world: World) -> None:
    """The other journey's text for a chat that was not verified may be what the flow takes for a success."""
    browser = world.browser()
    browser.begin("r-1", "app")
    with world.database.read() as connection:
        other_one = connection.execute(select(Journey.version_id).where(Journey.slug == "password")).scalar_one()
    change(world, Verification, version_id=other_one)
    browser.post("/verify/cancel", reason="cancelled")
    again = world.browser()
    again.open("r-1", "app")
    again.post("/j/app", identifier="C-1001")
    assert results(world) == []
    again.post("/j/app", identifier="C-1001", again="1")
    again.prove(world.totp())
    assert results(world) == ["verified_app"]


def test_r54_a_browser_whose_visit_was_changed_gets_another(world: World) -> None:
    browser = world.browser()
    browser.begin("r-1", "app")
    change(world, Visit, proved="password")
    browser.open("r-1", "app")
    browser.post("/j/app", identifier="C-1001")
    assert browser.path == "/verify"
    browser.prove(world.totp())
    assert results(world) == ["verified_app"]
    assert noted(world) == {"visits"}


@pytest.mark.parametrize("column", [*signed("challenges"), "mac"])
def test_r54_a_code_that_was_changed_is_none(world: World, column: str) -> None:
    browser = world.browser()
    browser.begin("r-1")
    code = code_for(world, PHONE)
    (row,) = world.rows(Challenge)
    value = other(row, column)
    if column == "verification_id":
        world.browser().begin("r-2", "app")
        value = world.rows(Verification)[1].id
    elif column == "customer_row":
        value = row_of(world, "C-1002")
    change(world, Challenge, **{column: value})
    browser.prove(code, follow=False)
    assert browser.page.status_code == 422
    assert results(world) == []
    # What it is found by no longer finds it; anything else is found, and refused.
    is_unfound = column in ("verification_id", "identifier_key", "step", "method")
    assert noted(world) == (set() if is_unfound else {"challenges"})


def test_r54_a_code_for_my_phone_is_none_for_the_chat_of_another(world: World) -> None:
    mine, theirs = world.browser(), world.browser()
    mine.begin("r-1")
    code = code_for(world, PHONE)
    theirs.begin("r-2", identifier="C-1002")
    own, target = world.rows(Challenge)
    change(world, Challenge, Challenge.id == target.id, replaced_at=world.clock.now)
    moved = ("verification_id", "identifier_key", "customer_row", "destination_key", "mac")
    change(world, Challenge, Challenge.id == own.id, **{name: getattr(target, name) for name in moved})
    theirs.prove(code, follow=False)
    assert theirs.page.status_code == 422
    assert results(world) == []


def test_r54_a_code_of_another_is_not_sent_to_me(world: World) -> None:
    world.browser().begin("r-1", identifier="C-1002")
    change(world, Challenge, customer_row=row_of(world, "C-1001"))
    deliver(world)
    assert world.receiver.messages == []
    with world.transactions.read() as work:
        key = work.keyring.index("phone", PHONE)
    change(world, Challenge, destination_key=key)
    world.browser().begin("r-2", identifier="C-1002")
    change(world, Challenge, customer_row=row_of(world, "C-1001"), destination_key=key)
    deliver(world)
    assert world.receiver.messages == []


def test_r54_what_one_customer_proved_does_not_count_for_another(world: World) -> None:
    browser = world.browser()
    browser.begin("r-1", "two")
    browser.prove(PASSWORD)
    change(world, Visit, customer_row=row_of(world, "C-1002"), person_key=row_of(world, "C-1002"))
    change(world, Challenge, customer_row=row_of(world, "C-1002"))
    deliver(world)
    browser.get("/verify")
    assert is_unknown(browser)
    assert world.receiver.messages == []
    assert results(world) == []


def test_r54_a_step_that_was_not_proved_is_not_skipped(world: World) -> None:
    browser = world.browser()
    browser.begin("r-1", "transfer")
    change(world, Visit, step=2, method="totp", proved="password")
    browser.prove(world.totp())
    assert is_unknown(browser)
    assert results(world) == []


def test_r54_a_link_of_my_chat_is_not_answered_by_the_proof_of_another(world: World) -> None:
    """The writer gives their live verification the reference of a chat that has not begun."""
    mine, theirs = world.browser(), world.browser()
    mine.begin("r-mine", "app", "C-1002")
    change(world, Verification, reference_hash=token_hash("r-theirs"))
    theirs.begin("r-theirs", "app")
    theirs.post("/j/app", identifier="C-1001", again="1")
    theirs.prove(world.totp())
    assert theirs.path == "/done"
    told = [(call.body["reference"], call.body["result"]) for call in _told(world)]
    assert told == [("r-theirs", "verified_app")]


def _told(world: World) -> list[Any]:
    deliver(world)
    return world.receiver.callbacks


def _ended(world: World, reference: str = "r-1") -> Delivery:
    """A result that is due."""
    browser = world.browser()
    browser.begin(reference, "app")
    browser.prove(world.totp())
    assert browser.path == "/done"
    found: Delivery = world.rows(Delivery)[-1]
    return found


def _sent_elsewhere(world: World) -> None:
    change(world, Delivery, target="https://thief.example")


def _of_another_lane(world: World) -> None:
    change(world, Delivery, lane=token_hash("r-other"))


def _for_another_chat(world: World) -> None:
    """As if it were the result of another verification, which goes elsewhere."""
    world.browser().begin("r-2", "app", "C-1002")
    change(world, Delivery, verification_id=world.rows(Verification)[1].id)


def _of_no_chat(world: World) -> None:
    change(world, Delivery, verification_id=None)


def _cut(world: World) -> None:
    change(world, Delivery, body_sealed=b"")


def _removed(world: World) -> None:
    change(world, Delivery, body_sealed=None)


def _of_another_row(world: World) -> None:
    world.clock.advance(31)
    _ended(world, "r-2")
    first, second = world.rows(Delivery)
    change(world, Delivery, Delivery.id == first.id, body_sealed=second.body_sealed)
    change(world, Delivery, Delivery.id == second.id, state="dropped")


def _with_its_verification(world: World) -> None:
    """Both go elsewhere, and agree."""
    change(world, Delivery, target="https://thief.example")
    change(world, Verification, server="https://thief.example")


@pytest.mark.parametrize(
    "changed",
    [
        _sent_elsewhere,
        _of_another_lane,
        _for_another_chat,
        _of_no_chat,
        _cut,
        _removed,
        _of_another_row,
        _with_its_verification,
    ],
)
def test_r54_a_result_that_was_changed_is_not_sent(world: World, changed: Callable[[World], None]) -> None:
    """Neither to Flow, which is asked about it, nor to anyone else; its row says why, and an owner hears of it."""
    row = _ended(world)
    changed(world)
    assert results(world) == []
    (found,) = (one for one in world.rows(Delivery) if one.id == row.id)
    assert (found.state, found.reason) == ("refused", CHANGED)
    assert noted(world) == {"deliveries"}
    assert [(one.fate, one.status) for one in world.rows(Attempt)] == [("changed", None)]


def test_r54_a_value_that_cannot_be_read_keeps_no_other_result_from_its_chat(world: World) -> None:
    """Only SQLite stores one."""
    _ended(world)
    world.clock.advance(31)
    _ended(world, "r-2")
    first, _second = world.rows(Verification)
    with world.database.write() as connection:
        value = "'never'" if world.database.url.get_backend_name() == "sqlite" else "'2100-01-01'"
        connection.execute(text(f"UPDATE verifications SET chat_ends_at = {value} WHERE id = :id"), {"id": first.id})
    assert results(world) == ["verified_app"]
    assert world.receiver.callbacks[0].header == "r-2"
    assert sorted(row.state for row in world.rows(Delivery)) == ["accepted", "refused"]


def test_r54_a_result_that_was_accepted_is_not_sent_again(world: World) -> None:
    row = _ended(world)
    assert results(world) == ["verified_app"]
    again = {"state": "pending", "next_at": row.next_at, "ended_at": None, "attempts": 0}
    change(world, Delivery, **again)
    assert results(world) == ["verified_app"]
    assert world.rows(Delivery)[0].state == "refused"
    assert noted(world) == {"deliveries"}


def test_r54_a_changed_result_of_unknown_fate_is_unconfirmed(world: World) -> None:
    """It may have reached Flow before it was changed."""
    _ended(world)
    world.receiver.answers.append("close")
    lane = world.services.dispatcher.lanes[0]
    (claimed,) = lane.outbox.claim(CALLBACK, 1)
    lane.deliver(claimed)
    _sent_elsewhere(world)
    assert results(world) == ["verified_app"]
    assert world.rows(Delivery)[0].state == "unconfirmed"


def test_r54_an_admin_sends_no_changed_result(world: World) -> None:
    row = _ended(world)
    _sent_elsewhere(world)
    assert results(world) == []
    assert world.services.retries.retry([row.id], reason="Flow says that it is missing", admin_id=None)
    assert results(world) == []
    assert world.rows(Delivery)[0].state == "refused"


def test_r54_results_are_sent_as_they_are_until_macs_are_required(
    tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    """They are of a release that signed nothing."""
    with open_world(tmp_path, database_url, receiver, config=CONFIG, settings=STILL) as before:
        _ended(before)
        wrap_as_before_macs(before.database)
        with before.database.write() as connection:
            connection.execute(update(Verification).values(mac=None, route_mac=None))
            connection.execute(update(Portal).values(macs=before.transactions.keyring.mac(OPEN_MACS)))
    with open_world(tmp_path, database_url, receiver, config="", base="", settings=STILL) as world:
        assert results(world) == ["verified_app"]


def _reset(world: World) -> None:
    with world.database.write() as connection:
        connection.execute(update(Tries).values(total=0, day_count=0))
        connection.execute(update(Verification).values(wrong_tries=0))


@pytest.mark.parametrize(("slug", "proof"), [("app", "000000"), ("password", "not the password")])
def test_r54_counts_that_are_reset_by_sql_give_no_more_tries_for_ever(world: World, slug: str, proof: str) -> None:
    """Each process remembers four days' tries of a person."""
    browser = world.browser()
    browser.begin("r-1", slug)
    for _ in range(4 * 15):
        browser.prove(proof)
        _reset(world)
        world.clock.advance(6)  # an address may have sixty passwords checked in a minute
    assert noted(world) == set()
    right = world.totp() if slug == "app" else PASSWORD
    browser.prove(right)
    assert browser.path != "/done"
    assert noted(world) == {"tries"}
    again = world.browser()
    again.begin("r-2", slug)
    _reset(world)
    again.prove(right)
    assert again.path != "/done"
    another = world.browser()  # others are not affected
    another.begin("r-3", "password", "C-1002")
    another.prove(PASSWORD)
    world.clock.advance(86_400)
    next_day = world.browser()
    next_day.begin("r-4", slug)
    next_day.prove(world.totp() if slug == "app" else PASSWORD)
    assert next_day.path == "/done"
    assert results(world)[-1].startswith("verified")


def test_r54_a_customer_who_was_unlocked_by_support_goes_on_trying(world: World) -> None:
    row = row_of(world, "C-1001")
    for day in range(2):
        for number in range(3):
            browser = world.browser()
            browser.begin(f"r-{day}-{number}", "app")
            for _ in range(5):
                browser.prove("000000")
        assert world.rows(Tries)[0].day_count == 15
        world.services.credentials.renew(row)
    browser = world.browser()
    browser.begin("r-last", "app")
    browser.prove(world.totp())
    assert browser.path == "/done"
    assert noted(world) == set()


def test_r11_a_success_is_remembered_too(world: World) -> None:
    """Whoever proves often and errs often has tries all the same."""
    for number in range(30):
        browser = world.browser()
        browser.begin(f"r-{number}", "app")
        for _ in range(3):
            browser.prove("000000")
        browser.prove(world.totp())
        assert browser.path == "/done"
        world.clock.advance(31)
    assert noted(world) == set()


def test_r54_what_a_process_remembers_of_tries_is_bounded() -> None:
    memory = tries.Memory()
    case: Any = SimpleNamespace(person=SimpleNamespace(key=""), method="totp", ticket=None)
    case.journey = SimpleNamespace(limits=JourneyLimits(credential_tries_day=5))
    for _ in range(20):
        memory.note(case, FakeClock.START)
    assert memory.is_spent(case, FakeClock.START)
    for number in range(1, tries.MOST_REMEMBERED):
        case.person.key = f"{number}"
        memory.note(case, FakeClock.START)
    case.person.key = ""
    assert memory.is_spent(case, FakeClock.START)
    case.person.key = "one too many"
    memory.note(case, FakeClock.START)
    case.person.key = ""
    assert not memory.is_spent(case, FakeClock.START)


def test_r54_a_chat_code_is_shown_to_no_other_browser(world: World) -> None:
    mine, theirs = world.browser(), world.browser()
    theirs.begin("r-1", "code-back")
    mine.begin("r-1", "code-back")
    theirs.prove(code_for(world, PHONE))
    assert theirs.path == "/done"
    visit = max(row.id for row in world.rows(Visit))
    change(world, Verification, visit_id=visit)
    mine.get("/done")
    assert is_unknown(mine)


@pytest.mark.parametrize("column", [*signed("tickets"), "mac"])
def test_r54_a_ticket_that_was_changed_opens_nothing(world: World, column: str) -> None:
    path = ticket(world, "pay-app").path
    (row,) = world.rows(TicketRow)
    value = row_of(world, "C-1002") if column == "customer_row" else other(row, column)
    change(world, TicketRow, **{column: value})
    browser = world.browser()
    browser.get(link(path, "r-1"))
    assert browser.page.status_code == 410
    assert not world.rows(Verification)


@pytest.mark.parametrize("column", ["customer_row", "phone_key", "mac"])
def test_r54_a_chat_whose_ticket_was_changed_means_no_one(world: World, column: str) -> None:
    browser = opened(world, ticket(world, "pay-app").path)
    (row,) = world.rows(TicketRow)
    change(world, TicketRow, **{column: None if column == "mac" else other(row, column)})
    browser.prove(world.totp(), follow=False)
    assert browser.page.status_code == 422
    assert noted(world) == {"tickets"}
    assert results(world) == []


def test_r54_a_ticket_of_another_chat_does_not_serve_mine(world: World) -> None:
    ticket(world, "pay-waiting", reference="r-theirs")
    change(world, TicketRow, reference_hash=token_hash("r-mine"))
    browser = world.browser()
    browser.get(link("/j/pay-waiting", "r-mine"))
    assert browser.page.status_code == 410
    assert noted(world) == {"tickets"}
    assert not world.rows(Verification)


@pytest.mark.parametrize("column", [name for name in signed("tickets") if name not in ("token_hash", "slug")])
def test_r54_a_ticket_of_a_reference_that_was_changed_makes_the_link_no_ordinary_one(world: World, column: str) -> None:
    """Without phone_match an ordinary link opens, and anyone may prove their identity with it."""
    ticket(world, "waiting", reference="r-1", purpose="Pay R 100")
    (row,) = world.rows(TicketRow)
    if column == "reference_hash":
        ticket(world, "waiting", reference="r-2")
        change(world, TicketRow, TicketRow.id != row.id, reference_hash=row.reference_hash)
    else:
        change(world, TicketRow, **{column: other(row, column)})
    browser = world.browser()
    browser.get(link("/j/waiting", "r-1"))
    assert browser.page.status_code == 410
    assert noted(world) == {"tickets"}


def test_r54_a_ticket_that_is_changed_while_its_link_is_used_is_not_signed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ticket(world, "pay-app").path
    browser = world.browser()
    browser.get(link(path, "r-1"))
    bind = tickets.bind

    def late(work: Any, *args: Any) -> None:
        work.execute(text("UPDATE tickets SET customer_row = NULL"))
        bind(work, *args)

    monkeypatch.setattr(tickets, "bind", late)
    browser.post(path)
    assert browser.page.status_code == 410
    assert not world.rows(Verification)


def test_r54_a_temporary_code_is_of_no_use_to_another_customer(world: World) -> None:
    issued = world.services.credentials.issue_support_code(row_of(world, "C-1002"), "lost phone", admin_id="0" * 32)
    copy = "SELECT {0} FROM customers WHERE customer_id = 'C-1002'"
    names = ("support_code_id", "support_code_key_id", "support_code_expires_at", "support_code_mac")
    with world.database.write() as connection:
        for name in names:
            set_it = f"UPDATE customers SET {name} = ({copy.format(name)}) WHERE customer_id = 'C-1001'"
            connection.execute(text(set_it))
    assert _helped(world, "r-1", "C-1001", issued.code) == 422
    assert _helped(world, "r-2", "C-1002", issued.code) == 303


def _helped(world: World, reference: str, identifier: str, code: str) -> int:
    browser = world.browser()
    browser.begin(reference, "help", identifier)
    browser.post("/verify/method", method="support_code")
    return browser.prove(code, follow=False).status_code


def test_r54_a_temporary_code_that_was_prolonged_is_over(world: World) -> None:
    row = row_of(world, "C-1002")
    issued = world.services.credentials.issue_support_code(row, "lost phone", admin_id="0" * 32)
    later = world.clock.now + timedelta(days=1)
    with world.database.write() as connection:
        connection.execute(text("UPDATE customers SET support_code_expires_at = :later"), {"later": later})
    assert _helped(world, "r-1", "C-1002", issued.code) == 422


def test_r54_a_journey_that_was_changed_keeps_no_other_chat_from_its_end(world: World) -> None:
    world.browser().begin("r-1", "app")
    world.browser().begin("r-2", "password")
    row = next(row for row in world.rows(JourneyVersion) if row.document["slug"] == "app")
    change(world, JourneyVersion, JourneyVersion.id == row.id, document={**row.document, "name": "Evil"})
    change(world, Portal, version=Portal.version + 1)
    world.services.journeys.renew()
    world.clock.advance(500)
    assert expire(world) == 2
    assert expire(world) == 0
    assert results(world) == ["failed"]


def test_r54_a_reference_that_was_cut_keeps_no_other_from_its_end_and_no_alert_from_its_owner(world: World) -> None:
    for number in range(3):
        world.browser().begin(f"r-{number}", "app")
    first, second, _third = world.rows(Verification)
    change(world, Verification, Verification.id == first.id, reference_sealed=first.reference_sealed[:6])
    with world.database.write() as connection:  # a value of another type, which only SQLite stores
        if world.database.url.get_backend_name() == "sqlite":
            made = "UPDATE verifications SET mac = x'00', chat_ends_at = 'never' WHERE id = :id"
            connection.execute(text(made), {"id": second.id})
    world.clock.advance(500)
    assert expire(world) == 3
    assert expire(world) == 0
    if world.database.url.get_backend_name() == "sqlite":
        change(world, Verification, Verification.id == second.id, chat_ends_at=world.clock.now)
    assert {row.outcome for row in world.rows(Verification)} == {"expired"}
    told = [call.body["reference"] for call in _told(world)]
    assert "r-2" in told
    assert "r-0" not in told
    assert noted(world) == {"verifications"}


def test_r54_a_sweep_that_fails_keeps_no_alert(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_endings: object) -> int:
        raise RuntimeError

    seen = []
    monkeypatch.setattr("auth_portal.services.verification.end.Endings.expire_due", fail)
    monkeypatch.setattr("auth_portal.services.alerts.Alerts.evaluate", lambda _alerts: seen.append("looked"))
    with pytest.raises(RuntimeError):
        world.services.dispatcher._sweep()
    assert seen == ["looked"]


@pytest.mark.parametrize("length", [0, 3, 5, 11, 15, 20])
def test_r24_a_phone_number_that_was_cut_is_as_a_stranger(world: World, length: int, tmp_path: Path) -> None:
    with world.transactions.read() as work:
        row = work.execute(text("SELECT phone_sealed FROM customers WHERE customer_id = 'C-1001'")).scalar_one()
    with world.database.write() as connection:
        cut = text("UPDATE customers SET phone_sealed = :cut WHERE customer_id = 'C-1001'")
        connection.execute(cut, {"cut": bytes(row)[:length]})
    browser = world.browser()
    browser.begin("r-1", "app")
    assert browser.prove(world.totp(), follow=False).status_code == 422
    assert "row" in command(world, tmp_path, "doctor").stdout
    assert "customers was changed by someone else" in command(world, tmp_path, "audit", "verify").stderr


def moved(world: World) -> None:
    """Every move that writes one of these rows."""
    browser = world.browser()
    browser.begin("r-1", "either")
    assert broken(world) == set()
    browser.post("/verify/method", method="sms_code")
    assert broken(world) == set()
    browser.post("/verify/method", method="email_code")
    world.clock.advance(150)
    browser.post("/verify/resend")
    assert broken(world) == set()
    browser.post("/verify/change")
    assert broken(world) == set()
    browser.name("C-9999")
    assert broken(world) == set()
    browser.post("/verify/method", method="totp")
    browser.prove("000000")
    assert broken(world) == set()
    second = world.browser()
    second.begin("r-1", "either")
    assert broken(world) == set()
    two = world.browser()
    two.begin("r-2", "two")
    two.prove(PASSWORD)
    assert broken(world) == set()


def ticketed(world: World) -> None:
    opened(world, ticket(world, "pay-app").path)
    ticket(world, "balance", customer_id="C-9999")
    assert len(world.rows(TicketRow)) == 2


def erased(world: World) -> None:
    opened(world, ticket(world, "pay").path)
    browser = world.browser()
    browser.begin("r-2", "two")
    world.services.erasure.erase(row_of(world, "C-1001"))
    assert all(row.customer_row is None for row in world.rows(Visit))
    browser.get("/verify")
    assert browser.page.status_code == 200


@pytest.mark.parametrize("writes", [moved, ticketed, erased])
def test_r54_every_move_signs_what_it_writes(world: World, writes: Any) -> None:
    writes(world)
    assert broken(world) == set()


def cryptography(act: Callable[[], object]) -> Counter[str]:
    """How often each method of the keyring was called, in this thread."""
    seen: Counter[str] = Counter()

    def note(frame: FrameType, kind: str, _arg: object) -> None:
        if kind == "call" and frame.f_code.co_filename == crypto.__file__ and hasattr(Keyring, frame.f_code.co_name):
            seen[frame.f_code.co_name] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(before)
    return seen


@pytest.mark.parametrize("slug", ["app", "balance"])
def test_r24_a_customer_costs_the_same_cryptography_as_a_stranger(
    world: World, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C-1001 has a phone number and an address, C-1002 a phone number, C-9999 is no customer."""
    costs: list[tuple[Counter[str], Counter[str]]] = []
    snapshot = world.services.journeys.current()
    monkeypatch.setattr(
        world.services.journeys, "current", lambda: snapshot
    )  # or a slow machine reads it in the middle
    for identifier in ("C-9999", "C-9999", "C-1001", "C-1002"):
        browser = world.browser()
        browser.open(f"r-{len(costs)}", slug)
        begun = cryptography(partial(browser.post, f"/j/{slug}", follow=False, identifier=identifier))
        browser.get("/verify")
        costs.append((begun, cryptography(partial(browser.prove, "000000", follow=False))))
        assert begun["_mac"] >= 4
    _first, stranger, *customers = costs  # the first one fills caches
    assert customers == [stranger, stranger]


def test_r54_what_was_changed_is_not_signed_by_an_erasure(world: World) -> None:
    world.browser().begin("r-1", "app")
    change(world, Visit, proved="password")
    world.services.erasure.erase(row_of(world, "C-1001"))
    assert broken(world) == {"visits"}


def test_r54_a_chat_that_began_before_the_upgrade_ends_after_the_seal(
    tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    """Old processes write rows without MACs."""
    with open_world(tmp_path, database_url, receiver, config=CONFIG, settings=STILL) as before:
        app, balance = before.browser(), before.browser()
        app.begin("r-app", "app")
        balance.begin("r-balance", "balance")
        paid = opened(before, ticket(before, "pay-app").path, "r-paid")
        code = code_for(before, PHONE)
        wrap_as_before_macs(before.database)
        with before.database.write() as connection:
            for model in (Verification, Visit, Challenge, TicketRow):
                connection.execute(update(model).values(mac=None))
            connection.execute(update(Portal).values(macs=before.transactions.keyring.mac(OPEN_MACS)))
    with open_world(tmp_path, database_url, receiver, config="", base="", settings=STILL) as world:
        assert world.app is before.app  # the browsers' cookies are for it
        for browser in (app, balance, paid):
            browser.get("/verify")
            assert browser.page.status_code == 200
        assert broken(world) == {"verifications", "visits", "challenges", "tickets"}
        assert command(world, tmp_path, "macs", "seal").exit_code == 0
        assert broken(world) == set()
        world.services.journeys.renew()
        assert world.transactions.keyring.requires_macs
        app.prove(world.totp())
        balance.prove(code)
        world.clock.advance(31)
        paid.prove(world.totp())
        assert sorted(results(world)) == ["verified", "verified_app", "verified_pay-app"]


def test_r54_what_ended_before_the_seal_is_still_shown_after_it(
    tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    """The customer types the chat code into the chat now, and support has just issued a temporary code."""
    with open_world(tmp_path, database_url, receiver, config=CONFIG, settings=STILL) as before:
        browser = before.browser()
        browser.begin("r-1", "code-back")
        browser.prove(code_for(before, PHONE))
        shown = browser.page.text
        row = row_of(before, "C-1002")
        issued = before.services.credentials.issue_support_code(row, "lost phone", admin_id="0" * 32)
        wrap_as_before_macs(before.database)
        with before.database.write() as connection:
            connection.execute(update(Verification).values(mac=None, route_mac=None))
            connection.execute(update(Visit).values(mac=None))
            connection.execute(text("UPDATE customers SET support_code_mac = NULL"))
            connection.execute(update(Portal).values(macs=before.transactions.keyring.mac(OPEN_MACS)))
    with open_world(tmp_path, database_url, receiver, config="", base="", settings=STILL) as world:
        assert command(world, tmp_path, "macs", "seal").exit_code == 0
        world.services.journeys.renew()
        assert world.transactions.keyring.requires_macs
        assert browser.get("/done").text == shown
        assert _helped(world, "r-2", "C-1002", issued.code) == 303


def test_r54_a_chat_goes_on_where_a_sealed_portal_gets_the_macs_of_chats(world: World, tmp_path: Path) -> None:
    browser = world.browser()
    browser.begin("r-1", "app")
    migrated(world.database, "0007")
    assert command(world, tmp_path, "db", "upgrade").exit_code == 0
    assert broken(world) == set()
    browser.prove(world.totp())
    assert results(world) == ["verified_app"]
    # A deployment that changes no table signs nothing.
    change(world, Verification, mac=None)
    assert command(world, tmp_path, "db", "upgrade").exit_code == 0
    assert [row.mac for row in world.rows(Verification)] == [None]


def test_r54_the_doctor_and_the_audit_name_live_rows_only(world: World, tmp_path: Path) -> None:
    over, live = world.browser(), world.browser()
    over.begin("r-1", "app")
    over.prove(world.totp())
    live.begin("r-2", "password")
    ended, under_way = world.rows(Verification)
    change(world, Verification, customer_row=row_of(world, "C-1002"))
    named = f"row {under_way.id} of verifications was changed by someone else"
    doctor = command(world, tmp_path, "doctor").stdout
    assert named in doctor
    assert ended.id not in doctor
    audit = command(world, tmp_path, "audit", "verify")
    assert (audit.exit_code, named in audit.stderr) == (1, True)
