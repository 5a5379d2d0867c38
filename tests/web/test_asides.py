"""The pages next to the way: stop, help, what the last page says of the chat, and "sent again just now"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from auth_portal.store.models import AuditEvent, Delivery, Verification, Visit
from tests.receiver import Receiver, wait_for
from tests.ticketed import ticket
from tests.web.test_statements import settled
from tests.web.test_way import told
from tests.world import STANDARD, Browser, World, journey, open_world

# Slugs that could be taken for a part of the paths.
MORE = journey("stop", "totp") + journey("t", "totp")
JSON = {"Accept": "application/json"}
CUT = "If your link contains #"


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    with open_world(tmp_path, database_url, receiver, config=STANDARD + MORE) as opened:
        yield opened


def begun(world: World, slug: str = "app", script: str = "", reference: str = "abc") -> Browser:
    browser = world.browser()
    browser.open(reference, slug)
    browser.post(f"/j/{slug}", script=script, identifier="C-1001")
    return browser


def nothing_of(world: World) -> bool:
    return not (world.rows(Verification) or world.rows(Visit) or world.rows(AuditEvent)[:0] or world.rows(Delivery))


@pytest.mark.parametrize("path", ["/", "/j/app", "/j/stop", "/j/t"])
def test_a_link_is_declined_after_one_question(world: World, path: str) -> None:
    browser = world.browser()
    reference = "a%26b%3D%25"
    page = browser.get(f"{path.rstrip('/')}/stop?reference={reference}")
    assert page.status_code == 200
    assert "Stop this request?" in page.text
    assert f'href="http://127.0.0.1:8000{path}?reference={reference}"' in page.text
    assert nothing_of(world)
    browser.post(path, decline="not_me")
    assert browser.path == "/done"
    assert (told(world).header, told(world).body["data"]["outcome"]) == ("a&b=%", "not_me")


def test_a_ticket_is_declined_after_one_question(world: World) -> None:
    path = ticket(world, "app", customer_id="C-1001").path
    browser = world.browser()
    assert browser.get(f"{path}/stop?reference=abc").status_code == 200
    assert nothing_of(world)
    browser.post(path, decline="not_me")
    assert told(world).body["data"]["outcome"] == "not_me"


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/stop", 400),
        ("/stop?reference=a%00", 400),
        ("/j/unknown/stop?reference=abc", 404),
        ("/j/app/t/unknown/stop?reference=abc", 410),
        ("/verify/stop", 400),
        ("/verify/help?v=unknown", 400),
    ],
)
def test_what_cannot_be_stopped_says_so(world: World, address: str, status: int) -> None:
    assert world.browser().get(address).status_code == status


def test_a_visit_is_stopped_after_one_question(world: World) -> None:
    browser = begun(world)
    which = browser.hidden("/verify")["v"]
    browser.begin("newer", "password")
    page = browser.get(f"/verify/stop?v={which}")
    assert f'href="/verify?v={which}"' in page.text
    assert [row.outcome for row in world.rows(Verification)] == [None, None]
    browser.post("/verify/cancel", reason="not_me")
    assert [row.outcome for row in world.rows(Verification)] == ["not_me", None]
    for path in ("stop", "help"):
        assert browser.get(f"/verify/{path}?v={which}").request.path == "/done"


def test_help_has_every_move(world: World) -> None:
    for path, fields, shows in (
        ("/verify/method", {"method": "totp"}, "code"),
        ("/verify/cancel", {"reason": "no_code"}, "another option"),
        ("/verify/cancel", {"reason": "cancelled"}, "Stopped. Go back to your chat"),
        ("/verify/change", {}, 'name="identifier"'),
    ):
        browser = world.browser()
        browser.open(f"{path[8:]}-{len(fields)}-{shows[:4]}".replace(" ", "-"), "either")
        browser.post("/j/either", method="sms_code", identifier="082 123 4567")
        before = [row for row in world.rows(Visit) if row]
        page = browser.get(f"/verify/help?v={browser.hidden('/verify')['v']}")
        assert page.status_code == 200
        assert world.rows(Visit) == before
        assert "082 123 4567" in page.text
        browser.post(path, **fields)
        assert shows in browser.page.text, path


def test_r24_help_does_not_say_who_is_a_customer(world: World) -> None:
    pages = []
    for number, identifier in enumerate(("C-1001", "C-4004", "C-1002")):
        browser = world.browser()
        browser.open(f"abc-{number}", "either")
        browser.post("/j/either", method="email_code", identifier=identifier)
        text = browser.get("/verify/help").text.replace(identifier, "?")
        for value in browser.hidden("/verify/cancel").values():
            text = text.replace(value, "")
        pages.append(text)
    assert pages[0] == pages[1] == pages[2]


# --- The last page


@pytest.mark.parametrize(("script", "reloads"), [("", True), ("1", False), ("yes", True)])
def test_the_last_page_reloads_itself_only_without_script(world: World, script: str, reloads: bool) -> None:
    world.receiver.answers = [503] * 9
    browser = begun(world, script=script)
    browser.post("/verify/cancel", reason="cancelled")
    assert ("Refresh" in browser.page.headers) is reloads
    assert [row.has_script for row in world.rows(Visit)] == [script == "1"]


def test_a_page_with_a_chat_code_never_reloads_itself(world: World) -> None:
    world.receiver.answers = [503] * 9
    browser = world.browser()
    browser.begin("abc", "code-back")
    wait_for(lambda: world.receiver.messages)
    browser.prove(world.receiver.code_for("+27821234567"))
    assert 'class="chat-code"' in browser.page.text
    assert "Refresh" not in browser.page.headers


def test_a_visit_of_the_release_before_has_no_script(world: World) -> None:
    world.receiver.answers = [503] * 9
    browser = begun(world, script="1")
    with world.database.write() as connection:
        connection.exec_driver_sql("UPDATE visits SET has_script = NULL")
    browser.post("/verify/cancel", reason="cancelled")
    assert "Refresh" in browser.page.headers


def test_script_asks_what_became_of_the_answer(world: World) -> None:
    world.receiver.answers = [503]
    browser = begun(world, script="1")
    which = browser.hidden("/verify")["v"]
    browser.post("/verify/cancel", reason="cancelled")
    answer = browser.get(f"/done?v={which}&looked=1", headers=JSON)
    assert answer.json == {"state": "open", "text": "Letting your chat know…"}
    assert answer.headers["Cache-Control"] == "no-store"
    assert "This is taking longer." in browser.get(f"/done?v={which}&looked=10", headers=JSON).text
    told(world)
    world.clock.advance(2)
    wait_for(lambda: world.rows(Delivery)[-1].state == "accepted")
    settled(world)
    with world.statements() as seen:
        answer = browser.get(f"/done?v={which}", headers=JSON)
    assert answer.json == {"state": "heard", "text": "We've let the chat know."}
    assert len(seen) == 1
    page = browser.get(f"/done?v={which}", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert "We&#39;ve let the chat know." in page.text or "We've let the chat know." in page.text
    other = world.browser().get(f"/done?v={which}", headers=JSON)
    assert other.status_code == 400


@pytest.mark.parametrize(
    ("status", "script", "is_said"), [(400, "", True), (400, "1", False), (404, "", False), (200, "", False)]
)
def test_a_reference_that_may_be_cut_is_said_where_flow_does_not_know_it(
    world: World, status: int, script: str, is_said: bool
) -> None:
    world.receiver.answers = [status]
    browser = begun(world, script=script)
    browser.prove(world.totp())
    wait_for(lambda: world.rows(Delivery)[-1].state != "pending")
    page = browser.get("/done").text
    assert (CUT in page) is is_said
    assert ("Please start again in your chat" in page) is (status != 200)


# --- "Sent again just now"


def test_the_first_page_after_a_resend_says_so(world: World) -> None:
    browser = world.browser()
    browser.begin("abc")
    first = browser.page.request.url
    for claim in (f"{first}&sent=1", "/verify?sent=1"):
        assert "Sent again just now" not in browser.get(claim).text  # nothing was sent again
    world.clock.advance(31)
    browser.post("/verify/resend")
    assert "sent=1" in browser.page.request.url
    assert "Sent again just now" in browser.page.text
    again = browser.page.request.url
    assert "Sent again just now" not in browser.get(first).text
    world.clock.advance(59)
    assert "Sent again just now" in browser.get(again).text
    world.clock.advance(1)
    assert "Sent again just now" not in browser.get(again).text


def test_a_resend_that_came_too_early_claims_nothing(world: World) -> None:
    browser = world.browser()
    browser.begin("abc")
    page = browser.post("/verify/resend")
    assert page.status_code == 429
    assert "Sent again just now" not in page.text
