"""The inbox channel's other end."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

SMS = {
    "kind": "sms",
    "to": "+27821234567",
    "subject": "",
    "text": "Your code is 039174.",
    "html": "",
    "message_id": "m1",
}
MAIL = {
    "kind": "email",
    "to": "thandi@example.com",
    "subject": "Your code",
    "text": "Hello",
    "html": "<p>Hello</p>",
    "message_id": "m2",
}


def messages(client: FlaskClient, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/sandbox/inbox.json{query}").get_json()["messages"]
    return found


def test_messages_are_kept_newest_first(client: FlaskClient) -> None:
    for message in (SMS, MAIL):
        assert client.post("/sandbox/messages", json=message).status_code == 202
    assert messages(client) == [{**MAIL, "at": "2026-11-22T19:05:07Z"}, {**SMS, "at": "2026-11-22T19:05:07Z"}]


def test_a_message_sent_twice_is_kept_once(client: FlaskClient) -> None:
    assert [client.post("/sandbox/messages", json=SMS).get_json()["is_new"] for _ in range(2)] == [True, False]
    assert len(messages(client)) == 1


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?to=%2B27821234567", ["m1"]),
        ("?to=+27821234567", ["m1"]),
        ("?to=THANDI@example.com", ["m2"]),
        ("?to=nobody", []),
    ],
)
def test_messages_of_one_recipient_can_be_asked_for(client: FlaskClient, query: str, found: list[str]) -> None:
    for message in (SMS, MAIL):
        client.post("/sandbox/messages", json=message)
    assert [message["message_id"] for message in messages(client, query)] == found
    assert ("Your code" in client.get(f"/sandbox/inbox{query}").text) == bool(found)


@pytest.mark.parametrize(
    "changes",
    [{"kind": "fax"}, {"to": ""}, {"to": None}, {"message_id": ""}, {"text": 1}, {"text": "x" * 10_001}, {"html": []}],
)
def test_a_message_that_is_none_is_refused(client: FlaskClient, changes: dict[str, Any]) -> None:
    answer = client.post("/sandbox/messages", json={**SMS, **changes})
    assert answer.status_code == 400
    assert answer.get_json()["error"]
    assert client.post("/sandbox/messages", data=b"[]").status_code == 400
    assert messages(client) == []


def test_the_page_shows_text_never_html(client: FlaskClient) -> None:
    assert "No messages" in client.get("/sandbox/inbox").text
    client.post("/sandbox/messages", json=SMS)
    client.post("/sandbox/messages", json={**MAIL, "text": "<b>Hello</b>"})
    text = client.get("/sandbox/inbox").text
    assert '<strong class="code">039174</strong>' in text
    assert "&lt;b&gt;Hello" in text
    assert "<p>Hello</p>" not in text
