"""Flow's two contracts, strictly, and the faults that can be asked for."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient


def post(client: FlaskClient, chat: Any, **changes: Any) -> Any:
    """A callback that is right but for the changes; a header of None is left out."""
    body = {"result": "verified", "reference": chat.reference, "data": {}, **changes.pop("body", {})}
    header = changes.pop("header", chat.reference)
    raw = changes.pop("raw", json.dumps({key: value for key, value in body.items() if value is not None}).encode())
    path = changes.pop("path", "/sandbox/callback")
    headers = {"reference": header} if header is not None else {}
    return client.post(path, data=raw, headers=headers, content_type=changes.pop("content_type", "application/json"))


@pytest.mark.parametrize("style", ["raw", "encoded", "plain"])
def test_a_right_callback_is_matched_with_an_empty_body(
    client: FlaskClient, start: Callable[..., Any], style: str
) -> None:
    answer = post(client, start(reference_style=style))
    assert (answer.status_code, answer.data) == (200, b"")


def test_data_is_optional_and_other_keys_are_ignored(client: FlaskClient, start: Callable[..., Any]) -> None:
    assert post(client, start(), body={"data": None}).status_code == 200
    assert post(client, start(), body={"more": 1}).status_code == 200


def test_wait_for_callback_answers_202_at_its_own_path(client: FlaskClient, start: Callable[..., Any]) -> None:
    chat = start(journey="limit")
    assert post(client, chat).status_code == 400
    answer = post(client, chat, path="/sandbox/chat/callback")
    assert (answer.status_code, answer.data) == (202, b"")
    assert post(client, start(), path="/sandbox/chat/callback").status_code == 400


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"header": None}, "is missing"),
        ({"header": "unknown", "body": {"reference": "unknown"}}, "No chat here"),
        ({"body": {"reference": "other"}}, "does not equal"),
        ({"body": {"reference": None}}, "does not equal"),
        ({"body": {"result": None}}, "“result”"),
        ({"body": {"result": 1}}, "“result”"),
        ({"body": {"data": {"a": 1}}}, "only hold strings"),
        ({"body": {"data": ["a"]}}, "only hold strings"),
        ({"body": {"data": {"Bad-Key": "x"}}}, "a-z, 0-9 and _"),
        ({"body": {"data": {"": "x"}}}, "a-z, 0-9 and _"),
        ({"body": {"data": {"a": "x" * 20_000}}}, "more than 20000 bytes"),
        ({"content_type": "text/plain"}, "content type"),
        ({"raw": b"{"}, "not JSON"),
        ({"raw": b'{"result": "\xff"}'}, "not JSON"),
        ({"raw": b"[" * 15_000}, "not JSON"),
        ({"raw": b'{"result": NaN}'}, "not JSON"),
        ({"raw": b'{"result": "\\ud800"}'}, "not JSON"),
        ({"raw": b'{"a":' * 250 + b"1" + b"}" * 250}, "“result”"),
        ({"raw": b"[]"}, "not a JSON object"),
    ],
)
def test_what_breaks_the_contract_is_refused_with_a_reason(
    client: FlaskClient, start: Callable[..., Any], changes: dict[str, Any], why: str
) -> None:
    chat = start()
    is_unmatched = changes.get("header", chat.reference) != chat.reference
    answer = post(client, chat, **changes)
    assert (answer.status_code, answer.data) == (400, b"")
    assert chat.state()["state"] == "waiting"
    assert chat.page().status_code == 200
    if is_unmatched:
        assert why in client.get("/sandbox/").text
    else:
        assert why in chat.state()["callbacks"][0]["why"]


def test_every_callback_is_recorded_as_it_came(client: FlaskClient, start: Callable[..., Any]) -> None:
    chat = start()
    post(client, chat, raw=b"no json")
    chat.tell(outcome="verified")
    first, second = chat.state()["callbacks"]
    assert (first["status"], first["body"], first["is_accepted"]) == (400, "no json", False)
    assert (second["status"], second["header_reference"], second["is_accepted"]) == (200, chat.reference, True)
    assert second["body"] == {"result": "verified", "reference": chat.reference, "data": {"outcome": "verified"}}
    assert json.loads(second["raw"]) == second["body"]
    assert second["at"] == "2026-11-22T19:05:07Z"


def test_a_second_answer_is_refused(start: Callable[..., Any]) -> None:
    chat = start()
    assert chat.tell().status_code == 200
    assert chat.tell("failed").status_code == 400
    assert chat.state()["result"] == "verified"


def test_of_many_answers_at_once_one_is_accepted(app: Any, start: Callable[..., Any]) -> None:
    chat = start()
    body = {"result": "verified", "reference": chat.reference}

    def tell(_: int) -> int:
        headers = {"reference": chat.reference}
        status: int = app.test_client().post("/sandbox/callback", json=body, headers=headers).status_code
        return status

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(tell, range(8))) == [200] + [400] * 7


@pytest.mark.parametrize(
    ("fault", "statuses", "state"),
    [
        ("none", [200, 400], "answered"),
        ("400", [400, 400], "waiting"),
        ("500", [500, 500], "waiting"),
        ("500_once", [500, 200, 400], "answered"),
        ("session_ended", [400, 400], "ended"),
    ],
)
def test_faults_come_on_demand(start: Callable[..., Any], fault: str, statuses: list[int], state: str) -> None:
    chat = start(fault=fault)
    assert [chat.tell().status_code for _ in statuses] == statuses
    assert chat.state()["state"] == state


def test_a_fault_can_be_changed_under_way(start: Callable[..., Any]) -> None:
    chat = start(fault="500")
    assert chat.tell().status_code == 500
    assert chat.post("fault", fault="none").get_json()["fault"] == "none"
    assert chat.tell().status_code == 200


def test_a_fault_begins_anew_with_each_round(start: Callable[..., Any]) -> None:
    chat = start(fault="500_once")
    assert [chat.tell().status_code for _ in range(2)] == [500, 200]
    chat.post("again")
    assert [chat.tell().status_code for _ in range(2)] == [500, 200]


def test_slow_takes_six_seconds_and_then_accepts(start: Callable[..., Any], waits: list[float]) -> None:
    assert start(fault="slow").tell().status_code == 200
    assert waits == [6.0]


@pytest.mark.parametrize(("fault", "state"), [("lost_reply", "answered"), ("no_reply", "waiting")])
def test_where_nothing_can_be_cut_silence_outlasts_the_portal(
    start: Callable[..., Any], waits: list[float], fault: str, state: str
) -> None:
    chat = start(fault=fault)
    chat.tell()
    assert waits == [10.0]
    assert chat.state()["state"] == state
    assert chat.state()["callbacks"][0]["status"] is None


@pytest.mark.parametrize(
    ("fault", "first_state", "second"), [("lost_reply", "answered", 400), ("no_reply", "waiting", 200)]
)
def test_the_connection_is_cut_without_an_answer(
    served: int, start: Callable[..., Any], fault: str, first_state: str, second: int
) -> None:
    chat = start(fault=fault)
    body = json.dumps({"result": "verified", "reference": chat.reference})
    headers = {"reference": chat.reference, "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", served, timeout=100)
    connection.request("POST", "/sandbox/callback", body, headers)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        connection.getresponse()
    assert chat.state()["state"] == first_state
    again = http.client.HTTPConnection("127.0.0.1", served, timeout=100)
    again.request("POST", "/sandbox/callback", body, headers)
    assert again.getresponse().status == second
    again.close()


def test_in_public_only_one_caller_at_a_time_is_held_up(public_client: FlaskClient, waits: list[float]) -> None:
    started = public_client.post("/sandbox/conversations", json={"fault": "slow"}).get_json()
    body = {"result": "verified", "reference": started["reference"]}
    assert (
        public_client.post("/sandbox/callback", json=body, headers={"reference": started["reference"]}).status_code
        == 200
    )
    assert waits == [6.0]
