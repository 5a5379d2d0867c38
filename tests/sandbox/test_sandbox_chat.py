"""A chat from the first word to the balance, driven as scripts and as browsers drive it."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient

from auth_portal.sandbox.database import KEPT_ROWS

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
SUCCESS = {"outcome": "verified", "journey": "balance", "customer_id": "C-1001"}


def test_a_script_starts_a_chat_at_the_default_journey(client: FlaskClient) -> None:
    answer = client.post("/sandbox/conversations")
    assert answer.status_code == 201
    assert answer.get_json().keys() == {"id", "link", "reference"}
    assert answer.get_json()["link"] == f"http://127.0.0.1:8000/?reference={answer.get_json()['reference']}"


def test_fields_may_come_as_json_or_as_a_form(client: FlaskClient) -> None:
    fields = {"journey": "card", "reference_style": "plain"}
    for answer in (
        client.post("/sandbox/conversations", json=fields),
        client.post("/sandbox/conversations", data=fields),
    ):
        assert answer.status_code == 201
        assert answer.get_json()["link"].startswith("http://127.0.0.1:8000/j/card?reference=")
        assert UUID(answer.get_json()["reference"])


def test_a_wait_for_callback_node_uses_a_uuid_as_its_author_would(start: Callable[..., Any]) -> None:
    assert UUID(start(journey="limit").reference)


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"journey": "none"}, 404), ({"reference_style": "x"}, 400), ({"fault": "x"}, 400)],
)
def test_what_is_unknown_is_refused_with_the_reason(client: FlaskClient, fields: dict[str, str], status: int) -> None:
    answer = client.post("/sandbox/conversations", json=fields)
    assert answer.status_code == status
    assert answer.get_json()["error"]


def test_a_verified_customer_gets_the_balance(start: Callable[..., Any]) -> None:
    chat = start()
    assert chat.state()["state"] == "waiting"
    assert chat.tell(**SUCCESS).status_code == 200
    state = chat.state()
    assert (state["state"], state["result"], state["data"]) == ("answered", "verified", SUCCESS)
    assert chat.said()[-1] == "Thank you, customer C-1001. Your balance is R 1,234.50."


@pytest.mark.parametrize("result", ["failed", "verified_card", "Verified", ""])
def test_any_other_result_goes_the_other_way(start: Callable[..., Any], result: str) -> None:
    chat = start()
    assert chat.tell(result, **SUCCESS).status_code == 200
    assert "couldn't verify you" in chat.said()[-1]


def test_the_flow_compares_the_chat_code(start: Callable[..., Any]) -> None:
    chat = start(journey="card")
    chat.tell("check_code_card", chat_code="K7-42", name="Thandi")
    assert "Type the code" in chat.said()[-1]
    assert chat.state()["stage"] == "code"
    chat.post("messages", text="K743")
    assert "isn't the code" in chat.said()[-1]
    chat.post("messages", text=" k7 42 ")
    assert chat.said()[-1].startswith("Thank you, Thandi.")


@pytest.mark.parametrize("expected", [{"chat_code": "4711"}, {"chat_code": ""}, {}])
def test_a_wrong_chat_code_stops_the_flow(start: Callable[..., Any], expected: dict[str, str]) -> None:
    chat = start(journey="card")
    chat.tell("check_code_card", **expected)
    for _ in range(3):
        chat.post("messages", text="0815")
    assert chat.state()["stage"] == "refused"
    chat.post("messages", text="4711")
    assert chat.state()["stage"] == "refused"


def test_the_same_reference_can_be_asked_again(start: Callable[..., Any]) -> None:
    chat = start()
    chat.tell(**SUCCESS)
    assert chat.post("again").get_json()["state"] == "waiting"
    state = chat.state()
    assert (state["reference"], state["round"], state["result"], state["data"]) == (chat.reference, 2, None, None)
    assert chat.tell("failed", outcome="cancelled").status_code == 200
    assert chat.state()["result"] == "failed"
    assert [callback["round"] for callback in chat.state()["callbacks"]] == [1, 2]


def test_the_session_ends_after_its_clock(start: Callable[..., Any], clock: Any) -> None:
    chat = start()
    clock.move(599)
    assert chat.state()["state"] == "waiting"
    clock.move(1)
    assert chat.state()["state"] == "ended"
    assert chat.tell().status_code == 400
    assert chat.state()["callbacks"][0]["why"] == "The chat session had ended."
    assert chat.post("messages", text="hello").status_code == 409
    assert chat.post("again").status_code == 409


def test_a_message_in_the_chat_starts_the_clock_anew(start: Callable[..., Any], clock: Any) -> None:
    chat = start()
    clock.move(500)
    assert chat.post("messages", text="I'm still here").status_code == 200
    clock.move(500)
    assert chat.tell().status_code == 200


def test_a_chat_that_has_its_answer_does_not_end(start: Callable[..., Any], clock: Any) -> None:
    chat = start()
    chat.tell()
    clock.move(10_000)
    assert chat.state()["state"] == "answered"


@pytest.mark.parametrize("text", ["", "   ", "x" * 501])
def test_a_message_has_a_length(start: Callable[..., Any], text: str) -> None:
    assert start().post("messages", text=text).status_code == 400


def test_an_unknown_chat_is_not_found(client: FlaskClient) -> None:
    assert client.get("/sandbox/conversations/none").get_json()["error"]
    assert client.get("/sandbox/conversations/none").status_code == 404
    for move in ("messages", "again", "fault"):
        assert client.post(f"/sandbox/conversations/none/{move}", json={"text": "x"}).status_code == 404
    page = client.get("/sandbox/chat/none", headers=BROWSER)
    assert (page.status_code, page.mimetype) == (404, "text/html")


def test_other_workers_see_the_same_chat(start: Callable[..., Any], new_app: Callable[[], Flask]) -> None:
    chat = start()
    other = new_app().test_client()
    body = {"result": "verified", "reference": chat.reference, "data": SUCCESS}
    assert other.post("/sandbox/callback", json=body, headers={"reference": chat.reference}).status_code == 200
    assert chat.state()["state"] == "answered"


def test_many_first_requests_at_once_make_one_file(new_app: Callable[[], Flask]) -> None:
    clients = [new_app().test_client() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda client: client.post("/sandbox/conversations").status_code, clients))
    assert answers == [201] * 8


def test_old_chats_are_cleared_away(client: FlaskClient, start: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.setitem(KEPT_ROWS, "conversations", 3)
    chats = [start() for _ in range(5)]
    chats[4].tell()
    found = [client.get(f"/sandbox/conversations/{chat.id}").status_code for chat in chats]
    assert found == [404, 404, 200, 200, 200]


def test_nothing_is_opened_before_the_first_request(new_app: Callable[[], Flask], tmp_path: Any) -> None:
    new_app()
    assert not list(tmp_path.iterdir())


def test_the_file_is_for_its_owner_alone(start: Callable[..., Any], tmp_path: Any) -> None:
    start()
    assert (tmp_path / "sandbox.db").stat().st_mode & 0o077 == 0


def test_a_browser_is_led_from_form_to_page(client: FlaskClient, start: Callable[..., Any]) -> None:
    started = client.post("/sandbox/conversations", data={"journey": "balance"}, headers=BROWSER)
    assert started.status_code == 303
    page = client.get(started.location, headers=BROWSER)
    assert page.status_code == 200
    chat = start()
    for move, fields in (("messages", {"text": "hello"}), ("again", {}), ("fault", {"fault": "500"})):
        moved = client.post(f"/sandbox/conversations/{chat.id}/{move}", data={**fields, "live": "1"}, headers=BROWSER)
        assert (moved.status_code, moved.location) == (303, f"/sandbox/chat/{chat.id}?live=1")
    assert chat.state()["fault"] == "500"


def test_a_waiting_page_refreshes_itself_until_a_script_takes_over(
    client: FlaskClient, start: Callable[..., Any]
) -> None:
    chat = start()
    assert chat.page().headers["Refresh"] == "2"
    assert "Refresh" not in client.get(f"/sandbox/chat/{chat.id}?live=1").headers
    chat.tell()
    assert "Refresh" not in chat.page().headers


def test_the_page_shows_what_flow_received(start: Callable[..., Any]) -> None:
    chat = start(reference_style="plain")
    chat.tell(**SUCCESS)
    text = chat.page().text
    for expected in ("Your balance is R 1,234.50", chat.reference, "customer_id", "C-1001", "200"):
        assert expected in text


def test_a_page_that_is_looked_at_changes_nothing(start: Callable[..., Any]) -> None:
    chat = start()
    before = chat.state()
    chat.page()
    assert chat.state() == before


def test_the_home_page_explains_and_offers_all(client: FlaskClient, start: Callable[..., Any], clock: Any) -> None:
    chat = start(reference_style="plain")
    text = client.get("/sandbox/").text
    for expected in ("Try it in two minutes", "Check my balance", "Block my card", "Thandi Mokoena", chat.reference):
        assert expected in text
    before = re.findall(r'<code class="code">(\d{6})</code>', text)
    clock.move(30)
    after = re.findall(r'<code class="code">(\d{6})</code>', client.get("/sandbox/").text)
    assert len(before) == len(after) == 1
    assert before != after


def test_r06_a_public_sandbox_has_tickets_made_for_its_own_phones_only(public_client: FlaskClient) -> None:
    refused = public_client.post("/sandbox/conversations", json={"phone": "+27115550100"})
    assert refused.status_code == 400
    assert "uses one of its own phones: +" in refused.text
    own = refused.text.split("phones: ")[1].split(",")[0]
    assert public_client.post("/sandbox/conversations", json={"phone": own}).status_code == 201


def test_a_public_sandbox_lists_nobodys_chats(public_client: FlaskClient) -> None:
    started = public_client.post("/sandbox/conversations", json={"reference_style": "plain"}).get_json()
    public_client.post("/sandbox/callback", json={"result": "x", "reference": "stray"}, headers={"reference": "stray"})
    text = public_client.get("/sandbox/").text
    assert started["reference"] not in text
    assert "stray" not in text
    assert "Don't enter anything real" in text


def test_pages_need_no_inline_style_or_script(client: FlaskClient, start: Callable[..., Any]) -> None:
    chat = start(journey="card")
    chat.tell("check_code_card", chat_code="1")
    for address in ("/sandbox/", f"/sandbox/chat/{chat.id}", "/sandbox/inbox"):
        text = client.get(address).text
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|http-equiv", text)
        assert len(re.findall(r"<form", text)) == text.count('name="csrf_token"')
        assert re.search(r"<title>[^<]+ · Sandbox</title>", text)


def test_what_others_wrote_is_escaped(client: FlaskClient, start: Callable[..., Any]) -> None:
    chat = start()
    chat.post("messages", text="<script>alert(1)</script>")
    chat.tell("<b>verified</b>", customer_id="<img src=x>")
    client.post("/sandbox/callback", data=b"<i>", headers={"reference": "<u>"})
    for text in (chat.page().text, client.get("/sandbox/").text):
        assert not re.search(r"<script>|<b>verified|<img|<i>|<u>", text)
