"""Several links in one browser: each tab keeps its own visit, and a link that is opened again is recognised."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from auth_portal.store.models import AuditEvent, Delivery, TicketRow, Verification, Visit
from tests.receiver import Receiver, wait_for
from tests.ticketed import ticket
from tests.web.test_statements import settled
from tests.web.test_way import sent, told
from tests.world import CONFIG, PASSWORD, PHONE, STANDARD, Browser, World, journey, open_world

MORE = journey("long", "totp", chat_seconds=3600) + journey("elsewhere", "totp", server="http://127.0.0.1:9")


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    """The usual journeys, one with a longer chat clock, and one that answers another server."""
    with open_world(tmp_path, database_url, receiver, config=STANDARD + MORE) as opened:
        yield opened


def cookie(browser: Browser, name: str = "verification") -> str:
    found = browser.client.get_cookie(name, domain="127.0.0.1")
    assert found is not None
    return str(found.value)


def label(browser: Browser) -> str:
    """The label in the address of the page."""
    return parse_qs(urlsplit(browser.page.request.url).query)["v"][0]


def outcomes(world: World) -> list[str | None]:
    return [row.outcome for row in world.rows(Verification)]


def two_tabs(world: World) -> tuple[Browser, dict[str, str], dict[str, str]]:
    """A browser with a code page in tab A and, begun after it, a password page in tab B: the forms of both."""
    browser = world.browser()
    browser.begin("in-tab-a")
    a = browser.hidden("/verify")
    browser.begin("in-tab-b", "password")
    return browser, a, browser.hidden("/verify")


@pytest.mark.parametrize("has_label", [True, False])
def test_a_right_code_in_an_older_tab_counts_there(world: World, has_label: bool) -> None:
    """Without a label the form's prompt says whose it is: so did the forms of the release before."""
    browser, a, b = two_tabs(world)
    if not has_label:
        del a["v"], b["v"]
    code = sent(world, PHONE)
    answer = browser.client.post("/verify", data={**a, "code": code}, base_url=browser.base_url)
    assert answer.headers["Location"].startswith("/done?v=")
    browser.get(answer.headers["Location"])
    assert "confirmed it's you" in browser.page.text
    assert outcomes(world) == ["verified", None]
    answer = browser.client.post("/verify", data={**b, "password": PASSWORD}, base_url=browser.base_url)
    assert outcomes(world) == ["verified", "verified"]
    wait_for(lambda: len(world.receiver.callbacks) == 2)
    assert sorted((call.header, call.body["result"]) for call in world.receiver.callbacks) == [
        ("in-tab-a", "verified"),
        ("in-tab-b", "verified_password"),
    ]


@pytest.mark.parametrize("path", ["/verify/method", "/verify/resend", "/verify/change", "/verify/cancel"])
def test_every_move_finds_its_own_visit(world: World, path: str) -> None:
    browser = world.browser()
    browser.open("in-tab-a", "either")
    browser.post("/j/either", method="sms_code", identifier="C-1001")
    a = browser.hidden("/verify")
    browser.begin("in-tab-b", "password")
    before = [row for row in world.rows(Visit) if row.verification_id == world.rows(Verification)[1].id]
    world.clock.advance(31)
    answer = browser.client.post(path, data={**a, "method": "totp", "reason": "not_me"}, base_url=browser.base_url)
    assert answer.headers["Location"].partition("?")[2].startswith(f"v={a['v']}")
    first, second = world.rows(Verification)
    assert (first.outcome, second.outcome) == ("not_me" if path == "/verify/cancel" else None, None)
    assert [row for row in world.rows(Visit) if row.verification_id == second.id] == before


def test_a_late_form_of_a_tab_leads_to_the_tabs_own_page(world: World) -> None:
    """Such as the second half of a double tap."""
    browser, a, b = two_tabs(world)
    code = sent(world, PHONE)
    first, second = (
        browser.client.post("/verify", data={**a, "code": code}, base_url=browser.base_url) for _ in range(2)
    )
    assert first.headers["Location"] == second.headers["Location"] == f"/done?v={a['v']}"
    late = {**b, "prompt": a["prompt"], "password": PASSWORD}
    answer = browser.client.post("/verify", data=late, base_url=browser.base_url)
    assert answer.headers["Location"] == f"/verify?v={b['v']}"
    assert outcomes(world) == ["verified", None]


def test_a_form_of_no_visit_leads_to_the_newest_and_counts_nothing(world: World) -> None:
    browser, a, b = two_tabs(world)
    for prompt, which in (("x" * 16, "?" * 8), ("", ""), ("\N{SNOWMAN}" * 900, "\N{SNOWMAN}" * 900)):
        made = {**a, "prompt": prompt, "v": which, "code": "000000", "password": "no"}
        answer = browser.client.post("/verify", data=made, base_url=browser.base_url)
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/verify?v={b['v']}")
    assert [row.wrong_tries for row in world.rows(Verification)] == [0, 0]


def test_pages_are_chosen_by_label_and_the_newest_without_one(world: World) -> None:
    browser, a, b = two_tabs(world)
    assert 'name="code"' in browser.get(f"/verify?v={a['v']}").text
    assert 'name="password"' in browser.get(f"/verify?v={b['v']}").text
    for address in ("/verify", "/verify?v=", "/verify?v=unknown", f"/verify?v={a['v']}x"):
        assert 'name="password"' in browser.get(address).text
    browser.client.post("/verify/cancel", data={**a, "reason": "cancelled"}, base_url=browser.base_url)
    assert "Stopped. Go back to your chat" in browser.get(f"/done?v={a['v']}").text
    assert browser.get("/done").request.path == "/verify"
    assert "Stopped. Go back to your chat" in browser.get(f"/verify?v={a['v']}").text


def test_a_label_opens_nothing_in_another_browser(world: World) -> None:
    _browser, a, _b = two_tabs(world)
    other = world.browser()
    other.begin("hers", "app", identifier="C-1002")
    assert "C-1002" in other.get(f"/verify?v={a['v']}").text  # as without one
    assert "C-1001" not in other.page.text
    answer = other.client.post("/verify/cancel", data={**a, "reason": "not_me"}, base_url=other.base_url)
    assert answer.headers["Location"].startswith("/verify?v=")
    assert outcomes(world) == [None] * 3
    assert world.browser().get(f"/verify?v={a['v']}").status_code == 400


def test_the_last_page_reloads_itself_under_its_label(world: World) -> None:
    world.receiver.answers = [503] * 20
    browser, a, _b = two_tabs(world)
    browser.client.post("/verify/cancel", data={**a, "reason": "cancelled"}, base_url=browser.base_url)
    page = browser.get(f"/done?v={a['v']}")
    assert page.headers["Refresh"] == f"2; url=/done?v={a['v']}&looked=1"
    assert f'href="/done?v={a["v"]}"' in browser.get(f"/done?v={a['v']}&looked=10").text


# --- The cookie


def test_one_visit_is_kept_as_the_release_before_keeps_it(world: World) -> None:
    browser = world.browser()
    browser.begin("only")
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", cookie(browser))
    browser.begin("only")  # again: the same visit
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", cookie(browser))


def test_four_visits_are_kept_the_newest_last_and_the_oldest_is_dropped(world: World) -> None:
    browser, labels = world.browser(), []
    for number in range(5):
        browser.begin(f"link-{number}", "app")
        labels.append(label(browser))
        assert len(cookie(browser).split(".")) == min(number + 1, 4)
    newest = cookie(browser).split(".")
    assert len(set(labels)) == 5
    for at, expected in ((4, True), (1, True), (0, False)):
        browser.get(f"/verify?v={labels[at]}")
        assert (browser.hidden("/verify")["v"] == labels[at]) is expected
    browser.begin("link-1", "app")  # an older one that is opened again is the newest
    assert cookie(browser).split(".") == [*newest[1:], newest[0]]
    assert len(world.rows(Visit)) == 5
    browser.begin("link-0", "app")
    assert len(world.rows(Visit)) == 6
    assert len(world.rows(Verification)) == 5


def test_cookies_last_as_long_as_the_longest_chat_clock(world: World) -> None:
    browser = world.browser()
    browser.begin("long", "long")
    world.clock.advance(100)
    browser.open("short", "app")
    (csrf,) = [one for one in browser.page.headers.getlist("Set-Cookie") if one.startswith("csrf=")]
    left = 3600 - 120 - 100  # the time that the link may have lain unopened is deducted
    assert f"Max-Age={left};" in csrf
    browser.post("/j/app", follow=False, identifier="C-1001")
    (kept,) = [one for one in browser.page.headers.getlist("Set-Cookie") if one.startswith("verification=")]
    assert f"Max-Age={left};" in kept
    alone = world.browser()
    alone.open("alone", "app")
    alone.post("/j/app", follow=False, identifier="C-1001")
    (kept,) = [one for one in alone.page.headers.getlist("Set-Cookie") if one.startswith("verification=")]
    assert "Max-Age=600;" in kept


def hostile(own: str) -> dict[str, str]:
    many = [secrets.token_urlsafe(24) for _ in range(100)]
    return {
        "100 tokens": ".".join(many),
        "100 times its own": ".".join([own] * 100),
        "its own before 100": ".".join([own, *many]),
        "separators": "." * 3000,
        "long": "a" * 3500,
        "garbage": '%00;"\\,.=.\\"',
        "empty": "",
        "of other lengths": ".".join(["a" * 31, "b" * 33, own[:-1], own + own]),
    }


def test_hostile_cookies_cost_one_look_up_at_most(world: World) -> None:
    browser = world.browser()
    browser.begin("mine", "app")
    own = cookie(browser)
    settled(world)
    world.services.journeys._read_at = float("inf")
    for name, value in hostile(own).items():
        headers = {"Cookie": f"verification={value}"}
        client = world.app.test_client(use_cookies=False)
        for path in ("/verify", "/done", "/?reference=mine", "/j/app?reference=mine", "/j/app?reference=other"):
            with world.statements() as seen:
                answer = client.get(path, base_url=browser.base_url, headers=headers)
            shows_mine = name == "100 times its own" and not path.endswith("other")
            assert answer.status_code in ((200, 303) if shows_mine or "?" in path else (400,)), (name, path)
            assert len(seen) <= (2 if shows_mine else 1), (name, path, seen)
            assert (b"C-1001" in answer.data) <= shows_mine, (name, path)


def test_what_is_no_visit_of_ours_is_not_kept(world: World) -> None:
    browser = world.browser()
    browser.client.set_cookie("verification", ".".join(secrets.token_urlsafe(24) for _ in range(3)), domain="127.0.0.1")
    browser.begin("mine", "app")
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", cookie(browser))


def test_of_a_cookie_of_two_visits_the_release_before_reads_the_newest_and_the_other_link_still_works(
    world: World,
) -> None:
    """While both releases serve, a browser with two links may meet the older one, which takes what follows the last dot.

    The story of tests.releases.together meets it. A new visit there leaves one token. From the link of another one the
    same code goes on: no message, no count.
    """
    browser, _a, b = two_tabs(world)
    code = sent(world, PHONE)
    browser.client.set_cookie("verification", cookie(browser).rpartition(".")[2], domain="127.0.0.1")
    browser.get("/verify")
    assert browser.hidden("/verify")["v"] == b["v"]
    browser.client.delete_cookie("verification", domain="127.0.0.1")
    browser.begin("in-tab-a")
    browser.prove(code)
    assert outcomes(world) == ["verified", None]
    assert len(world.receiver.messages) == 1


# --- A link that is opened again

GO_ON = "You've already started You can go on where you stopped. Go on Not your details? Change them"


def known(page: str) -> str:
    """What the landing page says of a visit that the browser has, in one line; "" if it knows none."""
    found = re.search(r'<section[^>]*id="known">(.*?)</section>', page, re.DOTALL)
    heading = re.search(r"<h1>(.*?)</h1>", page, re.DOTALL)
    text = f"{heading[1]} {found[1]}" if found and heading else ""
    return re.sub(r"\s+", " ", re.sub(r"\s*<[^>]+>", " ", text)).replace(" .", ".").strip()


def test_a_link_opened_again_leads_to_the_code(world: World) -> None:
    browser = world.browser()
    browser.begin("abc", identifier="082 123 4567")
    which = label(browser)
    before = (world.rows(Visit), world.rows(Verification), world.rows(AuditEvent), world.rows(Delivery))
    page = browser.open("abc").text
    assert (
        known(page)
        == "You've already started Your code for 082 123 4567 still works. Enter my code Not your details? Change them"
    )
    assert f'href="/verify?v={which}"' in page
    after = (world.rows(Visit), world.rows(Verification), world.rows(AuditEvent))
    assert after == before[:3]
    assert "Set-Cookie" not in browser.page.headers or "verification=" not in str(browser.page.headers)
    browser.get(f"/verify?v={which}")
    browser.prove(sent(world, PHONE))
    assert browser.path == "/done"


def test_a_code_that_has_expired_is_not_said_to_work(world: World) -> None:
    browser = world.browser()
    browser.begin("abc")
    world.clock.advance(301)
    assert known(browser.open("abc").text) == GO_ON


def test_a_link_that_was_used_says_when(world: World) -> None:
    browser = world.browser()
    browser.begin("abc", "app")
    world.clock.advance(65)
    browser.prove(world.totp())
    which = label(browser)
    page = browser.open("abc", "app").text
    assert known(page).startswith("Already done. Go back to your chat You used this link today at 12:01.")
    assert f'href="/done?v={which}"' in page
    world.clock.advance(12 * 3600)
    assert "today" not in known(browser.open("abc", "app").text)


def test_the_time_of_a_used_link_is_written_as_in_the_region(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    base = CONFIG.replace('default_region = "ZA"', 'default_region = "US"')
    with open_world(tmp_path, sqlite_url, receiver, base=base) as world:
        browser = world.browser()
        browser.begin("abc", "app")
        browser.prove(world.totp())
        page = browser.open("abc", "app").text.replace("\u202f", " ")
        assert "You used this link today at 12:00 PM." in page


def test_what_only_the_clock_has_ended_is_over_too(world: World) -> None:
    browser = world.browser()
    browser.begin("abc", "app")
    settled(world)
    world.clock.advance(496)
    assert known(browser.open("abc", "app").text).startswith("Already done.")


def test_only_what_this_browser_has_of_this_link_is_shown(world: World) -> None:
    mine = world.browser()
    mine.begin("abc", "app")
    for reference, slug in (("abc2", "app"), ("ABC", "app"), ("abc", "elsewhere")):
        assert known(mine.open(reference, slug).text) == "", (reference, slug)
    assert known(mine.open("abc", "password").text)  # another journey of the same server: the same verification
    assert known(world.browser().open("abc", "app").text) == ""
    hers = world.browser()
    hers.begin("abc", "app", identifier="C-1002")
    page = hers.open("abc", "app").text
    assert "C-1001" not in page
    hers.begin("hers", "app", identifier="C-1002")
    assert known(hers.open("abc", "app").text)


def test_r24_what_is_shown_does_not_say_who_is_a_customer(world: World) -> None:
    pages = []
    for number, identifier in enumerate(("C-1001", "C-4004", "C-1003")):
        browser = world.browser()
        browser.open(f"abc-{number}", "either")
        browser.post("/j/either", method="email_code", identifier=identifier)
        pages.append(known(browser.open(f"abc-{number}", "either").text).replace(identifier, "?"))
    assert (
        pages == ["You've already started Your code for ? still works. Enter my code Not your details? Change them"] * 3
    )


def test_the_newest_verification_of_a_link_is_the_one_shown(world: World) -> None:
    browser = world.browser()
    browser.begin("abc", "app")
    browser.post("/verify/cancel", reason="cancelled")
    world.clock.advance(10)
    browser.open("abc", "app")
    browser.post("/j/app", again="1", identifier="C-1001")
    assert known(browser.open("abc", "app").text) == GO_ON
    browser.get("/verify")
    browser.prove(world.totp())
    assert known(browser.open("abc", "app").text).startswith("Already done.")


def test_a_newer_ticket_asks_something_else(world: World) -> None:
    paths = []
    for _ in range(2):
        world.clock.advance(1)
        paths.append(ticket(world, "app", customer_id="C-1001").path)
    browser = world.browser()
    browser.get(f"{paths[0]}?reference=abc")
    browser.post(paths[0])
    assert known(browser.get(f"{paths[0]}?reference=abc").text)
    assert known(browser.get(f"{paths[1]}?reference=abc").text) == ""
    assert len(world.rows(TicketRow)) == 2


def test_r54_a_visit_that_someone_else_changed_is_not_known(world: World) -> None:
    browser = world.browser()
    browser.begin("abc", "app")
    with world.database.write() as connection:
        connection.exec_driver_sql("UPDATE visits SET proved = 'password'")
    assert known(browser.open("abc", "app").text) == ""


def test_a_known_link_costs_few_statements_and_an_unknown_one_a_single_look(world: World) -> None:
    browser = world.browser()
    browser.begin("abc")
    settled(world)
    world.services.journeys._read_at = float("inf")
    with world.statements() as seen:
        browser.open("abc")
    assert len(seen) <= 3, "\n".join(seen)
    with world.statements() as seen:
        browser.open("another")
    assert len(seen) == 1, "\n".join(seen)


def test_two_forms_sent_at_once_leave_a_visit_that_works(world: World) -> None:
    """Two landing pages in two tabs, both without a cookie yet: the later answer is what the browser keeps."""
    browser = world.browser()
    browser.open("first", "app")
    first = browser.hidden("/j/app")
    browser.open("second", "app")
    second = browser.hidden("/j/app")
    client = world.app.test_client(use_cookies=False)
    csrf = {"Cookie": f"csrf={cookie(browser, 'csrf')}"}
    for form in (first, second):
        answer = client.post("/j/app", data={**form, "identifier": "C-1001"}, base_url=browser.base_url, headers=csrf)
        assert answer.status_code == 303
    token = answer.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
    browser.client.set_cookie("verification", token, domain="127.0.0.1")
    browser.get("/verify")
    browser.prove(world.totp())
    assert told(world).header == "second"
