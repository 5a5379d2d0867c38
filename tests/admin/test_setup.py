"""The pages that help with Chat Flow and count who gets through."""

from __future__ import annotations

import json
import re
import threading
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from auth_portal.services.reach import census
from auth_portal.store.models import CustomerRow, table_of
from tests.admin.desk import Desk, signed_in
from tests.receiver import Receiver, wait_for
from tests.world import PHONE, World, journey, open_world


def fields(desk: Desk) -> dict[str, str]:
    """Every text on the page that can be copied, by the id of its field."""
    inputs = re.findall(r'<input id="([^"]+)" class="code" type="text" value="([^"]*)" readonly', desk.page.text)
    areas = re.findall(r'<textarea\s+id="([^"]+)" class="code"[^>]*readonly[^>]*>\n([^<]*)</textarea>', desk.page.text)
    return {name: unescape(text) for name, text in [*inputs, *areas]}


def test_the_panel_has_all_that_the_node_needs_to_copy(owner: Desk) -> None:
    owner.get("/admin/journeys/app/setup")
    copied = fields(owner)
    assert copied["url"] == "http://127.0.0.1:8000/j/app"
    assert (copied["value-1"], copied["value-2"]) == ("verified_app", "failed")
    names = {text for name, text in copied.items() if name.startswith("variable-")}
    assert names == {"outcome", "journey", "customer_id", "method", "verified_at"}
    owner.get("/admin/journeys/balance/setup")
    assert fields(owner)["url"] == "http://127.0.0.1:8000/"


def test_the_panel_of_a_chat_code_has_its_compare_node(owner: Desk) -> None:
    owner.get("/admin/journeys/code-back/setup")
    copied = fields(owner)
    assert copied["value-1"] == "check_code_code-back"
    assert (copied["chat-code"], copied["typed"]) == ("chat_code", "typed_code")
    owner.get("/admin/journeys/balance/setup")
    assert "no link protection" in owner.page.text


def test_the_panel_of_a_waiting_node_says_how_the_link_is_sent(owner: Desk) -> None:
    owner.get("/admin/journeys/waiting/setup")
    assert fields(owner)["url"] == "http://127.0.0.1:8000/j/waiting?reference="
    assert "This is longer than 9 minutes" in owner.page.text
    owner.get("/admin/journeys/balance/setup")
    assert "This is longer than" not in owner.page.text


def test_a_clock_longer_than_the_waiting_node_is_said_on_the_page_and_at_import(owner: Desk) -> None:
    expected = "chat clock (chat_seconds) is 600, but a Wait for Callback node stops waiting a minute before the chat"
    assert expected in owner.get("/admin/journeys/waiting").text
    assert expected not in owner.get("/admin/journeys/app").text
    too_long, fitting = (
        journey("waiting", "totp", contract="wait_for_callback", chat_seconds=seconds) for seconds in (541, 540)
    )
    assert any("is 541, but a Wait" in text for text in imported(owner, too_long))
    assert not any("Wait for Callback" in text for text in imported(owner, fitting))
    assert "This is longer than" not in owner.get("/admin/journeys/waiting/setup").text


def imported(owner: Desk, config: str) -> tuple[str, ...]:
    """The warnings of an import of one journey."""
    text = config.replace("{receiver}", owner.world.receiver.origin)
    summary = owner.world.services.configuration.import_toml(text, file_name="changed.toml")
    owner.world.services.journeys.renew()
    return summary.warnings


@pytest.mark.parametrize("contract", ["external_link", "wait_for_callback"])
def test_the_panel_of_phone_match_has_its_nodes_in_their_order(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, contract: str
) -> None:
    """What it says to paste is what registers a ticket, once Chat Flow has filled in its variables."""
    config = journey("pay", "sms_code", relay_defence="phone_match", contract=contract)
    with open_world(tmp_path, sqlite_url, receiver, config=config) as world:
        desk = signed_in(world)
        text = desk.get("/admin/journeys/pay/setup").text
        copied = fields(desk)
        api, link, logic, compare = (
            "API Integration node",
            "node: the link",
            "Logic section",
            "Compare node: phone_match",
        )
        waiting = ["Set Variable node", api, "A text with the link", "Wait for Callback node", logic, compare]
        expected = waiting if contract == "wait_for_callback" else [api, link, logic, compare]
        found = numbered(text)
        assert [number for number, _title in found] == list(range(1, len(expected) + 1))
        for (_number, title), part in zip(found, expected, strict=True):
            assert part in title
        key = world.services.api_keys.create("Flow", ["tickets:write"], 30, None).key
        for body in (copied["ticket-body"], copied["payment-body"], copied["purpose-body"]):
            filled = body.replace("[[session:msisdn]]", PHONE.removeprefix("+")).replace(
                "[[verify_ref]]", "a-reference"
            )
            assert "[[" not in filled
            answer = world.app.test_client().post(
                copied["ticket-url"], base_url="http://127.0.0.1:8000", data=filled,
                headers={"Authorization": f"{copied['ticket-header'].partition(': ')[2]}{key}"},
                content_type=copied["ticket-type"].partition(": ")[2],
            )  # fmt: skip
            assert answer.status_code == 201, answer.text
        assert "We can't verify you in this chat." in copied["no-ticket"]
        assert (copied["phone-match"], copied["phone-match-value"]) == ("phone_match", "yes")
        assert json.loads(copied["payment-body"])["payment"]["amount"] == "500.00"
        assert copied["payment-amount"] == "payment_amount"


def numbered(text: str) -> list[tuple[int, str]]:
    heads = [re.sub(r"<[^>]+>", "", head).strip() for head in re.findall(r"<h2[^>]*>(.*?)</h2>", text, re.DOTALL)]
    found = [re.fullmatch(r"(\d+)\.\s+(.+)", head, re.DOTALL) for head in heads]
    return [(int(head[1]), head[2]) for head in found if head]


def test_the_checker_says_what_is_missing_and_misspelt(owner: Desk) -> None:
    owner.get("/admin/journeys/app/setup")
    owner.post("/admin/journeys/app/setup#check", values="verifed_app\nsomething else")
    assert owner.page.status_code == 200
    assert "“verified_app” has no branch: customers who are verified" in owner.page.text
    assert "“failed” has no branch" in owner.page.text
    assert "“verifed_app” is misspelled. Do you mean “verified_app”?" in owner.page.text
    assert "This journey never sends “something else”" in owner.page.text
    assert "verifed_app\nsomething else</textarea>" in owner.page.text, "what was typed stays"
    owner.post("/admin/journeys/app/setup#check", values="verified_app, failed")
    assert "All values are there and spelled correctly" in owner.page.text


def test_the_checker_asks_for_values_and_escapes_what_is_pasted(owner: Desk) -> None:
    owner.get("/admin/journeys/app/setup")
    owner.post("/admin/journeys/app/setup#check", values=" ")
    assert owner.page.status_code == 422
    assert "Paste the values first" in owner.page.text
    owner.post("/admin/journeys/app/setup#check", values="<b>x</b>")
    assert "<b>x" not in owner.page.text
    assert "This journey never sends “&lt;b&gt;x&lt;/b&gt;”" in owner.page.text


def look(desk: Desk, page: str) -> str:
    """A page of Reach once the customers have been counted."""
    wait_for(lambda: desk.get(page).status_code == 200 and "being counted" not in desk.page.text)
    return desk.page.text


def test_reach_counts_and_leads_to_those_who_cannot(world: World) -> None:
    desk = signed_in(world, "auditor")
    page = look(desk, "/admin/journeys/mail/reach")
    assert "3 of 4 can pass" in page
    assert "no email address on file" in page
    assert "ask an owner to change the journey’s steps" in page
    assert "/edit" not in page, "an auditor changes nothing"
    page = look(desk, "/admin/journeys/mail/reach/people?why=2-email_code.no_email")
    listed = re.findall(r'href="/admin/customers/([^"]+)">([^<]+)<', page)
    (row,) = [row for row in world.rows(CustomerRow) if row.customer_id == "C-1002"]
    assert listed == [(row.id, "C-1002")]
    assert "no email address" in page
    assert "No customer, for this reason" in look(desk, "/admin/journeys/mail/reach/people?why=2-email_code.locked")


def test_reach_leads_to_what_helps(small_world: World) -> None:
    desk = signed_in(small_world)
    for number, phone in enumerate(("+264811234567", "+447400123456", "+447400123457")):
        small_world.services.customers.create({"customer_id": f"N-{number}", "phone": phone})
    page = look(desk, "/admin/journeys/balance/reach")
    assert "4 of 7 can pass" in page
    assert "a phone in a country that the SMS channel doesn't send to" in page
    assert "United Kingdom: 2, Namibia: 1." in " ".join(page.split())
    assert "/admin/channels/sms/edit" in page
    page = look(desk, "/admin/journeys/mail/reach")
    assert '/admin/imports"' in page
    assert '/admin/journeys/mail/edit"' in page


def test_reach_says_while_it_counts_and_looks_again(small_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, go_on, real = signed_in(small_world), threading.Event(), census.count

    def count(*given: Any, **named: Any) -> census.Census:
        go_on.wait()
        return real(*given, **named)

    monkeypatch.setattr(census, "count", count)
    for seen in (0, 9, 10):
        desk.get(f"/admin/journeys/balance/reach?seen={seen}")
        assert "Your customers are being counted" in desk.page.text
        assert desk.page.headers.get("Refresh") == (
            f"2; url=/admin/journeys/balance/reach?seen={seen + 1}" if seen < 10 else None
        )
    desk.get("/admin/journeys/balance/reach/people")
    assert desk.page.headers["Refresh"] == "2"
    go_on.set()
    assert "4 of 4 can pass" in look(desk, "/admin/journeys/balance/reach")


def test_reach_of_nobody_says_what_to_do(small_world: World) -> None:
    desk = signed_in(small_world)
    with small_world.database.write() as connection:
        connection.execute(table_of(CustomerRow).delete())
    assert "No customer yet" in look(desk, "/admin/journeys/balance/reach")


def test_those_who_cannot_are_paged_by_key(small_world: World) -> None:
    desk = signed_in(small_world)
    (row, *_rest) = small_world.rows(CustomerRow)
    values = {**row._mapping, "is_active": False, "phone_key": None, "email_key": None}
    del values["traits"]  # the database keeps it
    with small_world.database.write() as connection:
        connection.execute(update(CustomerRow).values(is_active=True))
        for number in range(60):
            name = f"X-{number:03d}"
            fresh = {"id": f"f{number:031d}", "customer_id": name, "customer_key": name.lower(), "subject_id": name}
            connection.execute(table_of(CustomerRow).insert().values({**values, **fresh}))
    look(desk, "/admin/journeys/balance/reach/people")
    assert desk.page.text.count("switched off") == 50
    older = re.search(r'href="([^"]+)" rel="next"', desk.page.text)
    assert older
    desk.get(unescape(older.group(1)))
    assert desk.page.text.count("switched off") == 10
    assert "X-059" in desk.page.text
    assert 'rel="next"' not in desk.page.text


def test_a_journey_that_is_not_there_is_404(owner: Desk) -> None:
    for part in ("setup", "reach", "reach/people", "drive"):
        assert owner.get(f"/admin/journeys/nothing/{part}").status_code == 404
