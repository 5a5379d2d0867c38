"""The pages that help with Chat Flow and count who gets through."""

from __future__ import annotations

import re
from html import unescape

from sqlalchemy import update

from auth_portal.store.models import CustomerRow
from tests.admin.desk import Desk, signed_in
from tests.world import World


def fields(desk: Desk) -> dict[str, str]:
    """Every text on the page that can be copied, by the id of its field."""
    inputs = re.findall(r'<input id="([^"]+)" class="code" type="text" value="([^"]*)" readonly', desk.page.text)
    areas = re.findall(r'<textarea id="([^"]+)" class="code"[^>]*readonly[^>]*>\n([^<]*)</textarea>', desk.page.text)
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
    assert "no defence against a link that is sent on" in owner.page.text


def test_the_panel_of_a_waiting_node_says_how_the_link_is_sent(owner: Desk) -> None:
    owner.get("/admin/journeys/waiting/setup")
    assert fields(owner)["url"] == "http://127.0.0.1:8000/j/waiting?reference="
    assert "That is longer than 540" in owner.page.text
    owner.get("/admin/journeys/balance/setup")
    assert "longer than" not in owner.page.text


def test_the_checker_says_what_is_missing_and_misspelt(owner: Desk) -> None:
    owner.get("/admin/journeys/app/setup")
    owner.post("/admin/journeys/app/setup#check", values="verifed_app\nsomething else")
    assert owner.page.status_code == 200
    assert "“verified_app” has no branch: nobody gets through" in owner.page.text
    assert "“failed” has no branch" in owner.page.text
    assert "“verifed_app” is misspelt. Is it meant to be “verified_app”?" in owner.page.text
    assert "“something else” never arrives from this journey" in owner.page.text
    assert "verifed_app\nsomething else</textarea>" in owner.page.text, "what was typed is kept"
    owner.post("/admin/journeys/app/setup#check", values="verified_app, failed")
    assert "Everything is there and nothing is misspelt" in owner.page.text


def test_the_checker_asks_for_values_and_escapes_what_is_pasted(owner: Desk) -> None:
    owner.get("/admin/journeys/app/setup")
    owner.post("/admin/journeys/app/setup#check", values=" ")
    assert owner.page.status_code == 422
    assert "Please paste the values first" in owner.page.text
    owner.post("/admin/journeys/app/setup#check", values="<b>x</b>")
    assert "<b>x" not in owner.page.text
    assert "“&lt;b&gt;x&lt;/b&gt;” never arrives" in owner.page.text


def test_reach_counts_and_leads_to_those_who_cannot(world: World) -> None:
    desk = signed_in(world, "auditor")
    desk.get("/admin/journeys/mail/reach")
    assert "3 of 4 customers can get through" in desk.page.text
    assert "1 of 4: no e-mail address" in desk.page.text
    desk.get("/admin/journeys/mail/reach/people")
    listed = re.findall(r'href="/admin/customers/([^"]+)">([^<]+)<', desk.page.text)
    (row,) = [row for row in world.rows(CustomerRow) if row.customer_id == "C-1002"]
    assert listed == [(row.id, "C-1002")]
    assert "no e-mail address" in desk.page.text


def test_reach_names_what_it_does_not_count(owner: Desk) -> None:
    owner.get("/admin/journeys/balance/reach")
    assert "countries that the SMS channel does not send to" in owner.page.text
    owner.get("/admin/journeys/app/reach")
    assert "countries that the SMS channel does not send to" not in owner.page.text


def test_reach_of_nobody_says_what_to_do(small_world: World) -> None:
    desk = signed_in(small_world)
    with small_world.database.write() as connection:
        connection.execute(CustomerRow.__table__.delete())
    desk.get("/admin/journeys/balance/reach")
    assert "There are no customers yet" in desk.page.text


def test_those_who_cannot_are_paged_by_key(small_world: World) -> None:
    desk = signed_in(small_world)
    (row, *_rest) = small_world.rows(CustomerRow)
    values = {**row._mapping, "is_active": False, "phone_key": None, "email_key": None}
    with small_world.database.write() as connection:
        connection.execute(update(CustomerRow).values(is_active=True))
        for number in range(60):
            name = f"X-{number:03d}"
            fresh = {"id": f"f{number:031d}", "customer_id": name, "customer_key": name.lower(), "subject_id": name}
            connection.execute(CustomerRow.__table__.insert().values({**values, **fresh}))
    desk.get("/admin/journeys/balance/reach/people")
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
