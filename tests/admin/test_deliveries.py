"""The pages of deliveries: every attempt, and sending again (D6)."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from sqlalchemy import update

from auth_portal.services.history import lists
from auth_portal.store.models import AuditEvent, Delivery
from tests.admin.desk import Desk, signed_in
from tests.receiver import Receiver, wait_for
from tests.security.tools import STILL, deliver
from tests.services.test_delivery_lists import ended, refused
from tests.web.test_way import sent
from tests.world import MAIL, PHONE, World, open_world

PATH = "/admin/deliveries"


def rows_of(desk: Desk) -> list[str]:
    """The words of each row of the page's list."""
    rows = (
        desk.page.text.partition('class="cards lead"')[2]
        .partition("<tbody>")[2]
        .partition("</tbody>")[0]
        .split("<tr>")[1:]
    )
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]


def counts_of(desk: Desk) -> dict[str, str]:
    """The chips of the page: the words of each and its count."""
    chips = desk.page.text.partition('<nav class="chips"')[2].partition("</nav>")[0]
    return dict(re.findall(r"<span>([^<]+)</span>\s*<b>([^<]+)</b></a>", chips))


def test_d6_one_is_sent_again_with_a_reason(small_world: World, support: Desk) -> None:
    delivery = refused(small_world)
    text = support.get(f"{PATH}/{delivery.id}").text
    assert "HTTP 400" in text
    assert "Refused permanently" in text
    assert "Flow had no waiting chat for this answer" in text
    assert "It is tried until 12:10:02, 9 min from now." in text
    page = support.post(f"{PATH}/{delivery.id}/retry", reason="")
    assert page.status_code == 422
    assert "Give a reason for the audit trail" in page.text
    support.post(f"{PATH}/{delivery.id}/retry", reason="the flow was off")
    assert "being sent again" in support.page.text
    wait_for(lambda: len(small_world.receiver.callbacks) == 2)
    assert ended(small_world).state == "accepted"
    event = next(row for row in small_world.rows(AuditEvent) if row.kind == "delivery_retried")
    assert (event.admin_id, event.facts["reason"]) == (support.admin_id, "the flow was off")
    text = support.get(f"{PATH}/{delivery.id}").text
    assert "retry this. It was accepted." in text


def test_d6_past_the_clock_it_wants_a_word(small_world: World, owner: Desk) -> None:
    delivery = refused(small_world, outcome="not_me")
    small_world.clock.advance(3600)
    owner.sign_in()
    owner.get(f"{PATH}/{delivery.id}")
    assert "Flow will probably refuse it" in owner.page.text
    page = owner.post(f"{PATH}/{delivery.id}/retry", reason="all the same")
    assert page.status_code == 422
    assert "Confirm that you want to send it" in page.text
    assert 'value="all the same"' in page.text
    owner.post(f"{PATH}/{delivery.id}/retry", reason="all the same", confirmed="1")
    wait_for(lambda: len(small_world.receiver.callbacks) == 2)


def test_d6_verified_past_the_clock_cannot_be_sent_at_all(small_world: World, owner: Desk) -> None:
    delivery = refused(small_world)
    small_world.clock.advance(3600)
    owner.sign_in()
    text = owner.get(f"{PATH}/{delivery.id}").text
    assert "The chat has ended, and this result says that a customer was verified" in text
    assert f'action="{PATH}/{delivery.id}/retry"' not in text


def test_d6_many_are_sent_again_and_each_is_told(small_world: World, owner: Desk) -> None:
    first = refused(small_world, "one", outcome="not_me")
    small_world.clock.advance(3600)
    second = refused(small_world, "two", outcome="not_me")
    owner.sign_in()
    owner.get(f"{PATH}/retry?id={first.id}&id={second.id}")
    owner.post(f"{PATH}/retry", reason="flow was down", id=[first.id, second.id])
    assert "sending again" in owner.page.text
    assert "The chat has ended, so Flow will probably refuse it" in owner.page.text
    wait_for(lambda: len(small_world.receiver.callbacks) == 3)
    owner.post(f"{PATH}/retry", reason="flow was down", id=[first.id], confirmed="1")
    wait_for(lambda: len(small_world.receiver.callbacks) == 4)
    assert "1 delivery is being sent again" in owner.page.text


def test_many_need_a_reason_and_something_ticked(small_world: World, owner: Desk) -> None:
    first = refused(small_world, outcome="not_me")
    owner.get(f"{PATH}/retry?id={first.id}")
    page = owner.post(f"{PATH}/retry", reason="", id=[first.id])
    assert page.status_code == 422
    assert f'value="{first.id}"' in page.text
    page = owner.post(f"{PATH}/retry", reason="why not", id=[])
    assert page.status_code == 422
    assert "Select the deliveries" in page.text


def test_the_auditor_sees_no_button(small_world: World, auditor: Desk) -> None:
    delivery = refused(small_world)
    assert "Owners and support can retry it" in auditor.get(f"{PATH}/{delivery.id}").text
    assert "checkbox" not in auditor.get(PATH).text
    (row,) = small_world.rows(Delivery)
    assert row.state == "refused"


def test_a_delivery_shows_its_request_without_what_is_secret(small_world: World, owner: Desk) -> None:
    """The reference answers for the chat and the chat code opens it: neither is on the page, nor is a contact."""
    reference = "f7_4hn5=8f&%#nK="
    browser = small_world.browser()
    browser.begin(reference, "code-back")
    code = sent(small_world, PHONE)
    browser.prove(code)
    callback = ended(small_world)
    text = html.unescape(owner.get(f"{PATH}/{callback.id}").text)
    assert f"POST {small_world.receiver.origin}/callback\nreference: f7_•••nK=\n" in text
    assert '"outcome": "verified"' in text
    assert '"chat_code": "••••"' in text
    body = small_world.receiver.callbacks[0].body
    for secret in (reference, body["data"]["chat_code"], code, PHONE):
        assert secret not in text
    message = ended(small_world, "message")
    text = owner.get(f"{PATH}/{message.id}").text
    assert "To ••• 567 through the channel “sms”. The text is not shown." in text
    assert code not in text


@pytest.mark.parametrize(
    ("answer", "who", "what"),
    [
        (400, "This is for support to fix: the customer's number or address.", "the gateway refused the number"),
        (401, "This is for an owner to fix: the channel's key, account, funds or settings.", "HTTP 401"),
    ],
)
def test_a_delivery_says_who_can_fix_it(small_world: World, owner: Desk, answer: int, who: str, what: str) -> None:
    small_world.receiver.sms_answers = [answer] * 3
    small_world.browser().begin("one", "balance")
    message = ended(small_world, "message")
    text = html.unescape(owner.get(f"{PATH}/{message.id}").text)
    assert f"<strong>{who}</strong>" in text
    assert what in text


def test_what_did_not_leave_says_whether_anyone_can_fix_it(small_world: World, owner: Desk) -> None:
    small_world.browser().begin("stranger", "balance", identifier="0829998877")
    text = owner.get(f"{PATH}/{ended(small_world, 'message').id}").text
    assert "This is for support to fix: there was no contact to send to." in text
    assert "For the channel “sms”. No contact is on record." in text
    row = small_world.services.customers.row_of("C-1002")
    small_world.services.customers.change(row, {"phone": "+447911123456"})
    small_world.browser().begin("abroad", "balance", identifier="C-1002")
    abroad = wait_for(lambda: [one for one in small_world.rows(Delivery) if one.challenge_id and one.ended_at][1:])[0]
    assert "the channel doesn&#39;t send to this country" in owner.get(f"{PATH}/{abroad.id}").text


def test_filters(small_world: World, owner: Desk) -> None:
    refused(small_world)
    assert 'data-label="State"' in owner.get(f"{PATH}?state=refused&kind=callback").text
    assert "No deliveries match" in owner.get(f"{PATH}?state=refused&kind=message").text
    assert "No deliveries match" in owner.get(f"{PATH}?state=refused&target=sms").text
    assert owner.get(f"{PATH}?until=nonsense").status_code == 422


def test_a_row_says_what_left_and_to_where_and_shows_no_code_or_contact(small_world: World, owner: Desk) -> None:
    browser = small_world.browser()
    browser.begin("one", "balance")
    code = sent(small_world, PHONE)
    browser.prove(code)
    row = small_world.services.customers.row_of("C-1001")
    owner.get(f"/admin/customers/{row}/edit")
    owner.post(f"/admin/customers/{row}/edit", customer_id="C-1001", email="new@example.com")
    owner.get("/admin/channels/mail")
    owner.post("/admin/channels/mail/test", kind="email")
    wait_for(lambda: all(one.ended_at for one in small_world.rows(Delivery)) and len(small_world.rows(Delivery)) > 4)
    owner.get(PATH)
    shown = rows_of(owner)
    assert any(row.startswith("Answer “verified” of Balance") and "C-1001" in row for row in shown), shown
    assert any(row.startswith("SMS code for Balance ••• 567 · C-1001") for row in shown), shown
    for contact in ("t•••@example.com", "n•••@example.com"):
        assert any(row.startswith(f"Your email address was changed {contact}") for row in shown), shown
    assert any(row.startswith("Test of the channel mail o•••@example.com") for row in shown), shown
    for secret in (code, PHONE, MAIL, "new@example.com", owner.email):
        assert secret not in owner.page.text
    for line in small_world.rows(Delivery):
        title = re.search("<h1>(.*)</h1>", owner.get(f"{PATH}/{line.id}").text)
        assert title
        assert any(row.startswith(title[1]) for row in shown), title
    assert code not in owner.page.text


def test_a_notice_whose_text_was_erased_says_so(small_world: World, owner: Desk) -> None:
    row = small_world.services.customers.row_of("C-1001")
    small_world.services.credentials.reset(row, "password", admin_id=owner.admin_id, reason="lost")
    wait_for(lambda: all(one.ended_at for one in small_world.rows(Delivery)) and small_world.rows(Delivery))
    small_world.services.erasure.erase(row, admin_id=owner.admin_id, reason="asked for it")
    owner.get(PATH)
    assert any(
        row.startswith("Notice, its text is no longer stored contact no longer on file") for row in rows_of(owner)
    )


def test_states_have_counts_that_obey_the_other_filters_and_end_at_a_bound(
    small_world: World, owner: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(small_world, "one", outcome="not_me")
    small_world.clock.advance(2 * 3600)
    refused(small_world, "two", outcome="not_me")
    owner.sign_in()
    owner.get(f"{PATH}?kind=callback")
    assert counts_of(owner) == {
        "All": "2", "Failed: can be retried": "2", "Under way": "0", "Accepted": "0", "Refused": "2",
        "Unconfirmed": "0", "Given up": "0", "Withdrawn": "0", "Not sent": "0",
    }  # fmt: skip
    owner.get(f"{PATH}?kind=callback&range=hour&state=refused")
    assert counts_of(owner)["All"] == "1"
    assert len(rows_of(owner)) == 1
    assert f'href="{PATH}?kind=callback&amp;range=week&amp;state=refused"' in owner.page.text
    assert owner.page.text.count('<svg width="14"', owner.page.text.index('class="chips"')) >= 8
    owner.get(f"{PATH}?kind=message&state=refused")
    assert (counts_of(owner)["Refused"], rows_of(owner)) == ("0", [])
    monkeypatch.setattr(lists, "COUNTED", 1)
    owner.get(f"{PATH}?kind=callback")
    assert counts_of(owner)["Refused"] == "1+"


def test_the_chart_counts_what_became_of_deliveries_and_reads_no_list(small_world: World, owner: Desk) -> None:
    """Its table, and the figures at its side, are those of the table of deliveries; it reads the counts of hours alone."""
    for number in range(3):
        browser = small_world.browser(f"203.0.113.{number}")
        browser.begin(f"good-{number}", "app")
        small_world.clock.advance(31)
        browser.prove(small_world.totp())
        wait_for(lambda: ended(small_world).state == "accepted")
    refused(small_world, "bad", outcome="not_me")
    small_world.browser().begin("code", "balance")
    wait_for(lambda: ended(small_world, "message"))
    rows = [row.state for row in small_world.rows(Delivery) if row.ended_at is not None]
    small_world.services.health.write_counts()
    small_world.services.overview._sent.clear()
    with small_world.database.write() as connection:
        connection.execute(update(Delivery).values(state="superseded"))  # which the chart, made of counts, does not see
    figures = small_world.services.overview.deliveries("day")
    assert (figures.accepted, figures.failed) == (rows.count("accepted"), rows.count("refused"))
    assert figures.failed == 1
    text = owner.get(PATH).text
    table = text.partition('<details class="plain">')[2].partition("</details>")[0]
    numbers = [tuple(map(int, pair)) for pair in re.findall(r'"number">(\d+)</td><td class="number">(\d+)</td>', table)]
    assert len(numbers) == 24
    assert numbers[-1] == (figures.accepted, 1), "the failed bar stands on the accepted one of the same hour"
    assert text.count('<rect class="failed" x=') == 1
    assert f"{figures.accepted} of {figures.accepted + 1}" in text, "too few for a share"
    assert len(re.findall(r'<rect class="accepted" x="[\d.]+"', owner.get(f"{PATH}?range=week").text)) == 28


def test_finds_what_was_sent_to_a_customer_and_names_no_one_in_the_address(small_world: World, support: Desk) -> None:
    small_world.browser().begin("shared", "balance")
    small_world.clock.advance(1)
    small_world.browser().begin("shared", "balance", identifier="C-1002")
    small_world.clock.advance(1)
    refused(small_world, "theirs")
    row = small_world.services.customers.row_of("C-1001")
    small_world.services.credentials.reset(row, "totp", admin_id=support.admin_id, reason="lost")
    wait_for(lambda: all(one.ended_at for one in small_world.rows(Delivery)))
    for wanted in ("C-1001", "082 123 4567", MAIL):
        support.get(PATH)
        support.post(f"{PATH}/find", wanted=wanted)
        query = support.page.request.query_string.decode()
        assert query == f"customer={row}"
        found = rows_of(support)
        assert any(one.startswith("SMS code for Balance ••• 567 · C-1001") for one in found), found
        assert any("Answer “verified” of App http" in one for one in found), found
        assert any(MAIL[0] + "•••@example.com" in one for one in found), found
        assert not [one for one in found if "C-1002" in one], found
    assert counts_of(support)["All"] == str(len(found))
    support.get(f"{PATH}?customer={row}&state=refused")
    assert len(rows_of(support)) == 1
    support.post(f"{PATH}/find", wanted="sms")
    assert support.page.request.query_string == b"target=sms"
    delivery = small_world.rows(Delivery)[0]
    support.post(f"{PATH}/find", wanted=delivery.id)
    assert support.path == f"{PATH}/{delivery.id}"
    support.get(PATH)
    support.post(f"{PATH}/find", wanted="C-9999")
    assert support.page.status_code == 422
    assert 'value="C-9999"' in support.page.text


@pytest.mark.parametrize("path", ["verifications", "deliveries", "admins"])
def test_lists_have_a_button_for_their_file(small_world: World, path: str) -> None:
    desk = signed_in(small_world, "auditor")
    desk.get(f"/admin/{path}?range=day" if path != "admins" else "/admin/admins")
    desk.post("/admin/audit/download", what=path)
    assert desk.page.headers["Content-Disposition"] == f'attachment; filename="{path}.csv"'
    small_world.clock.advance(660)
    text = desk.get(f"/admin/{path}?range=day").text
    link = re.search(r'href="(/admin/audit\?what=[^"#]*)#download"', text)
    assert link, "without a fresh second factor it leads to the form that asks for it"
    text = desk.get(html.unescape(link[1])).text
    assert f'<option value="{path}" selected>' in text
    assert ('name="range" value="day"' in text) == (path != "admins")
    assert "#download" not in signed_in(small_world, "support").get(f"/admin/{path}").text


def test_d6_a_retry_of_many_says_what_it_will_do_before_it_does_it(small_world: World, owner: Desk) -> None:
    verified = refused(small_world, "over")
    late = refused(small_world, "late", outcome="not_me")
    small_world.clock.advance(3600)
    fresh = refused(small_world, "fresh")
    small_world.clock.advance(60)
    owner.sign_in()
    owner.get(f"{PATH}?state=failed")
    link = re.search(rf'href="({PATH}/retry\?[^"]*)"', owner.page.text)
    assert link
    owner.get(link[1].replace("&amp;", "&"))
    page = " ".join(re.sub(r"<[^>]+>", " ", owner.page.text).split())
    assert "3 deliveries chosen" in page
    assert "1 is sent again now." in page
    assert "1 is sent only if you confirm it below." in page
    assert "1 is left out. The chat has ended, and this result says that a customer was verified." in page
    assert [row.state for row in small_world.rows(Delivery) if row.kind == "callback"] == ["refused"] * 3
    assert "sent again now" not in owner.get(f"{PATH}/retry?id={late.id}").text, "no line of none"
    owner.post(f"{PATH}/retry", reason="flow was down", id=[verified.id, late.id, fresh.id])
    wait_for(lambda: len(small_world.receiver.callbacks) == 4)
    states = {row.id: row.state for row in small_world.rows(Delivery)}
    assert (states[verified.id], states[late.id]) == ("refused", "refused")
    assert "The result" not in owner.page.text
    assert owner.get(f"{PATH}/retry").status_code == 200
    assert "No delivery is chosen" in owner.page.text


def test_e3_an_answer_that_outlived_its_customer_does_not_show_their_id(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    """It was on its way when the customer was erased, so it still had to reach the chat."""
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as world:
        desk = signed_in(world)
        browser = world.browser()
        browser.begin("reference-1", "app")
        world.clock.advance(31)
        browser.prove(world.totp())
        (answer,) = [row for row in world.rows(Delivery) if row.kind == "callback"]
        assert "C-1001" in desk.get(f"{PATH}/{answer.id}").text
        world.services.erasure.erase(world.services.customers.row_of("C-1001"))
        assert "C-1001" not in desk.get(f"{PATH}/{answer.id}").text
        deliver(world)
        assert receiver.callbacks[0].body["data"]["customer_id"] == "C-1001"
        assert [row.body_sealed for row in world.rows(Delivery) if row.kind == "callback"] == [None]
        assert "no longer stored" in desk.get(f"{PATH}/{answer.id}").text
