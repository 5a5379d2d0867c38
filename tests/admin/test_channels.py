"""The channels' pages: made, changed, tried, switched and deleted through the forms, against real servers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from pytest_httpserver import HTTPServer
from sqlalchemy import insert, select, update
from werkzeug.test import TestResponse

from auth_portal.gateways.channels import ChannelConfig
from auth_portal.gateways.way_out import DeadEnd
from auth_portal.services.config.configuration import Configuration
from auth_portal.store.db import Transactions, parted_facts
from auth_portal.store.models import (
    AuditEvent,
    ChannelRow,
    ChannelState,
    Delivery,
    HourlyCount,
    Journey,
    JourneyVersion,
)
from tests.admin.desk import Desk, signed_in
from tests.receiver import Receiver
from tests.security.tools import STILL, code_for, deliver, logged
from tests.serving import free_port
from tests.world import MAIL, PHONE, World, journey, open_world

CLICKATELL = {"kind": "clickatell", "api_key": "the-first-key", "countries": "ZA", "daily_cap": "50"}
NEW = "/admin/channels/_new"
MAILBOX = """
[[channels]]
name = "{name}"
kind = "http"
carries = "email"
method = "POST"
url = "{{receiver}}/mail"
headers = {{{{ X-Key = "owners" }}}}
content_type = "application/json"
body = '{{{{"to": "{{{{to}}}}", "text": "{{{{text}}}}", "subject": "{{{{subject}}}}"}}}}'
"""


def test_a_known_provider_asks_for_what_is_one_s_own(desk: Desk) -> None:
    page = desk.get(NEW).text
    assert page.count("?preset=") == 9
    page = desk.get(f"{NEW}?preset=twilio").text
    assert "Account SID" in page
    assert re.search(r'<input id="countries"[^>]* value="ZA"[^>]* required', page), "the portal's own country"
    given = {"name": "twilio", "account": "AC1", "secret": "hush-hush", "sender": "Acme", "countries": "ZA"}
    page = desk.post(NEW, **given, second_factor=desk.second_factor()).text
    assert page.count('aria-invalid="true"') == 1, "the fault stands at its field"
    assert re.search(r'<input id="daily_cap"[^>]*aria-invalid="true"', page)
    assert 'value="AC1"' in page
    assert "hush-hush" not in page
    page = desk.post(NEW, **{**given, "secret": "", "daily_cap": "50"}).text
    assert page.count('aria-invalid="true"') == 1
    page = desk.post(NEW, **{**given, "secret": "", "name": "Bad Name", "daily_cap": "many"}).text
    assert re.findall(r"<input id=\"(\w+)\"[^>]*aria-invalid", page) == ["name", "secret", "daily_cap"]
    assert page.count("Nothing was saved") == 1
    desk.post(NEW, **given, daily_cap="50")
    assert desk.path == "/admin/channels/twilio", desk.page.text
    assert "api.twilio.com/2010-04-01/Accounts/AC1/Messages.json" in desk.page.text
    assert "hush-hush" not in desk.page.text
    stored = desk.world.services.journeys.renew().channels["twilio"]
    assert stored.message_kinds == {"sms"}
    assert stored.daily_cap == 50
    assert desk.get(f"{NEW}?preset=none-such").status_code == 200, "the choice of kinds"
    desk.get(f"{NEW}?preset=twilio")
    assert desk.post(NEW, preset="none-such", name="x").status_code == 404


@pytest.fixture
def desk(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[Desk]:
    """An owner, where nothing leaves until the test says so."""
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as opened:
        yield signed_in(opened)


def send(desk: Desk, path: str, **fields: str) -> Any:
    """Posts a form of this page; a field may be called ``headers``."""
    data = {**desk.hidden(path), **fields}
    desk.page = desk.client.post(path, data=data, base_url=desk.base_url)
    return desk._followed()


def renewed(world: World) -> dict[str, ChannelConfig]:
    """The channels in use, as every server knows them within a second."""
    return dict(world.services.journeys.renew().channels)


def make(desk: Desk, name: str, **fields: str) -> Any:
    desk.get(f"{NEW}?kind={fields['kind']}")
    return send(desk, "/admin/channels/_new", name=name, **fields)


def mails(world: World) -> list[str]:
    """What the owners were mailed."""
    deliver(world)
    return [message["text"] for message in world.receiver.messages if message["kind"] == "mail"]


def shown(page: Any) -> str:
    """The text of a page."""
    main = page.text.split('<main id="main">')[1].split("</main>")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", main).replace("&#39;", "'").replace("&#34;", '"').split())


def test_a_channel_is_made_with_every_fault_named_at_its_field(desk: Desk) -> None:
    typed = {"api_key": "", "countries": "South Africa", "daily_cap": "plenty", "base_url": "http://10.0.0.1"}
    page = make(desk, "SMS!", kind="clickatell", **typed)
    assert page.status_code == 422
    for name in ("name", "api_key", "countries", "daily_cap"):
        assert re.search(rf'id="{name}"[^>]*aria-invalid', page.text), name
    assert "must be a whole number" in page.text
    assert 'value="South, Africa"' in page.text or 'value="South Africa"' in page.text  # kept
    page = make(desk, "clicks", **CLICKATELL, base_url=desk.world.receiver.origin)
    assert page.status_code == 200
    assert desk.path == "/admin/channels/clicks"
    assert renewed(desk.world)["clicks"].api_key == "the-first-key"  # type: ignore[attr-defined]
    assert "is already the name of another channel" in make(desk, "clicks", **CLICKATELL).text


def test_secrets_go_in_and_never_come_out(desk: Desk) -> None:
    make(desk, "clicks", **CLICKATELL)
    support = signed_in(desk.world, "support")
    for browser, paths in ((desk, ("", "/edit", "/delete")), (support, ("",))):
        for path in paths:
            assert "the-first-key" not in browser.get(f"/admin/channels/clicks{path}").text
    assert "api_key" not in support.get("/admin/channels/clicks").text
    assert "the-first-key" not in repr([row.facts for row in desk.world.rows(AuditEvent)])
    assert "the-first-key" not in repr(mails(desk.world))
    assert "the-first-key" not in repr([row._mapping for row in desk.world.rows(ChannelRow)])


def test_an_empty_secret_keeps_the_stored_one(desk: Desk) -> None:
    make(desk, "clicks", **CLICKATELL)
    desk.get("/admin/channels/clicks/edit")
    desk.post(
        "/admin/channels/clicks/edit",
        **{**CLICKATELL, "api_key": "", "daily_cap": "60"},
        base_url="https://platform.clickatell.com",
    )
    config = renewed(desk.world)["clicks"]
    assert (config.daily_cap, config.api_key) == (60, "the-first-key")  # type: ignore[attr-defined]
    (event,) = (row for row in desk.world.rows(AuditEvent) if row.kind == "channel_changed")
    assert event.admin_id == desk.admin_id
    assert event.facts["changes"]["channel clicks"] == {"daily_cap": ["50", "60"], "api_key": ["secret", "kept"]}


@pytest.mark.parametrize("address", ["https://attacker.example", "https://platform.clickatell.com:444"])
def test_d4_a_stored_secret_never_goes_to_a_changed_address(desk: Desk, address: str) -> None:
    make(desk, "clicks", **CLICKATELL)
    desk.get("/admin/channels/clicks/edit")
    page = desk.post("/admin/channels/clicks/edit", **{**CLICKATELL, "api_key": ""}, base_url=address)
    assert page.status_code == 422
    assert "a stored secret is only used with the kind, host and port" in page.text
    assert f'value="{address}"' in page.text
    assert renewed(desk.world)["clicks"].address.startswith("https://platform.clickatell.com/")
    page = desk.post("/admin/channels/clicks/edit", **{**CLICKATELL, "api_key": "another-key"}, base_url=address)
    assert page.status_code == 200
    assert renewed(desk.world)["clicks"].api_key == "another-key"  # type: ignore[attr-defined]


def test_r19_every_change_of_a_channel_asks_for_the_second_factor_and_is_mailed(desk: Desk) -> None:
    make(desk, "clicks", **CLICKATELL)
    desk.world.clock.advance(601)
    desk.get("/admin/channels/clicks/edit")
    values = {**CLICKATELL, "daily_cap": "70", "base_url": "https://platform.clickatell.com", "api_key": ""}
    page = desk.post("/admin/channels/clicks/edit", **values)
    assert page.status_code == 422
    assert 'value="70"' in page.text
    assert renewed(desk.world)["clicks"].daily_cap == 50
    for path in ("switch", "delete"):
        desk.get("/admin/channels/clicks" if path == "switch" else "/admin/channels/clicks/delete")
        assert desk.post(f"/admin/channels/clicks/{path}").status_code == 422
    desk.get("/admin/channels/clicks/edit")
    desk.post("/admin/channels/clicks/edit", **values, second_factor=desk.second_factor())
    assert renewed(desk.world)["clicks"].daily_cap == 70
    told = "\n".join(mails(desk.world))
    assert "Channel “clicks”: added" in told
    assert "Daily cap: 50 -> 70" in told


@pytest.mark.parametrize("has_another", [False, True], ids=["alone", "with another"])
@pytest.mark.parametrize("act", ["redirect", "switch", "delete"])
def test_r19_the_mail_about_the_mail_channel_leaves_by_it_as_it_was(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, httpserver: HTTPServer, act: str, has_another: bool
) -> None:
    """An attacker with an owner's second factor redirects the mail, and must not catch the mail about that."""
    httpserver.expect_request("/evil").respond_with_data("taken")
    base = MAILBOX.format(name="post") + (MAILBOX.format(name="zweite") if has_another else "")
    config = journey("app", "totp", default=True, channels=())
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL, config=config, base=base) as world:
        desk = signed_in(world)
        deliver(world)
        receiver.messages.clear()
        path = f"/admin/channels/post/{'edit' if act == 'redirect' else act}"
        desk.get("/admin/channels/post" if act == "switch" else path)
        mine = {"url": httpserver.url_for("/evil"), "headers": "X-Key: mine"} if act == "redirect" else {"active": "0"}
        page = send(desk, path, **({**forms_of(desk.page.text), **mine} if act == "redirect" else mine))
        assert page.status_code == 200, shown(page)
        told = [text for text in mails(world) if "Channel “post”" in text]
        assert len(told) == 1 + has_another, told
        assert len(httpserver.log) == (act == "redirect" and not has_another)
        (row,) = (row for row in world.rows(Delivery) if row.contract == "as_was")
        assert (row.state, row.body_sealed) == ("accepted", None), "its secrets go with it"
        assert {row.state for row in world.rows(Delivery)} == {"accepted"}


def made_up(desk: Desk, **contacts: str) -> tuple[Desk, str]:
    """Support makes a customer with somebody else's contacts; support's browser, and where that customer is."""
    support = signed_in(desk.world, "support")
    support.get("/admin/customers/new")
    support.post("/admin/customers/new", customer_id="decoy", **contacts)
    return support, support.path


def erase(support: Desk, path: str) -> None:
    support.get(f"{path}/erase")
    assert "Erased" in support.post(f"{path}/erase", customer_id="decoy").text


def test_r19_erasing_a_customer_with_an_owners_address_does_not_silence_what_owners_are_told(desk: Desk) -> None:
    """Support may make and erase customers; so may a program. What owners are told is none of theirs."""
    support, path = made_up(desk, email=desk.email)
    make(desk, "clicks", **CLICKATELL)
    desk.get("/admin/account")
    desk.post("/admin/account/recovery-codes", second_factor=desk.second_factor())
    erase(support, path)
    told = "\n".join(mails(desk.world))
    assert "Channel “clicks”: added" in told
    assert "The old ones no longer work" in told


def test_r13_erasing_a_customer_with_the_same_phone_does_not_silence_what_another_is_told(desk: Desk) -> None:
    """Whoever moves a customer's phone to an own one must not keep that from the customer by a made-up one."""
    support, path = made_up(desk, phone=PHONE, email=MAIL)
    person = f"/admin/customers/{desk.world.services.customers.row_of('C-1001')}/edit"
    support.get(person)
    support.post(person, customer_id="C-1001", locale="en", phone="+27829999999")
    erase(support, path)
    deliver(desk.world)
    told = [message["to"] for message in desk.world.receiver.messages if "was changed" in message["text"]]
    assert sorted(told) == sorted([PHONE, "+27829999999"])


def forms_of(text: str) -> dict[str, str]:
    """What the fields of the channel's form hold."""
    found = dict(re.findall(r'<input id="[^"]+" name="([^"]+)" type="[^"]+" value="([^"]*)"', text))
    found |= dict(re.findall(r'<textarea[^>]* name="([^"]+)"[^>]*>\n(.*?)</textarea>', text, re.DOTALL))
    found |= {"carries": "email", "method": "POST", "content_type": "application/json"}
    return {name: unescape(value) for name, value in found.items()}


def test_the_second_of_two_who_edit_a_channel_is_shown_what_differs(desk: Desk) -> None:
    """A colleague's new key counts too: it is in the mark, and shown to nobody."""
    make(desk, "clicks", **CLICKATELL)
    path = "/admin/channels/clicks/edit"
    form, address = {**CLICKATELL, "api_key": ""}, "https://platform.clickatell.com"
    desk.get(path)
    opened = desk.page
    send(desk, path, **{**form, "api_key": "the-second-key"}, base_url=address)
    desk.page = opened
    page = send(desk, path, **{**form, "daily_cap": "61"}, base_url=address)
    assert page.status_code == 409
    assert "Another admin saved this after you opened it" in page.text
    assert f"Ada Owner, {desk.world.clock.now:%Y}" in shown(page)
    assert re.search(r"Daily cap \S+ 61", shown(page))
    assert "the-second-key" not in page.text
    assert 'value="61"' in page.text
    assert renewed(desk.world)["clicks"].daily_cap != 61
    send(desk, path, **{**form, "daily_cap": "61"}, base_url=address)
    config = renewed(desk.world)["clicks"]
    assert (config.daily_cap, config.api_key) == (61, "the-second-key")  # type: ignore[attr-defined]


def test_of_what_two_admins_changed_in_a_channel_each_field_is_kept(desk: Desk) -> None:
    """Headers one by one; a secret only as changed, whichever of them changed it."""
    fields = {
        "kind": "http", "carries": "sms", "url": "https://gateway.example/send", "method": "POST", "success": "200",
        "headers": "Authorization: first-token\nX-Key: first-key", "body": '{"to": "{to}"}',
        "content_type": "application/json", "countries": "ZA", "daily_cap": "9",
    }  # fmt: skip
    make(desk, "gateway", **fields)
    path = "/admin/channels/gateway/edit"
    desk.get(path)
    opened = desk.page
    theirs = {"headers": "Authorization: second-token\nX-Key: second-key\nX-New: new", "daily_cap": "10"}
    send(desk, path, **{**fields, **theirs, "countries": "ZA NA"})
    desk.page = opened
    mine = {"headers": "Authorization: keep\nX-Key: my-key", "daily_cap": "11", "hourly_cap": "3"}
    page = send(desk, path, **{**fields, **mine})
    assert page.status_code == 409
    both, _heading, rest = shown(page).partition("What both of you changed")[2].partition("What they changed")
    assert re.search(r"Daily cap \S*10 \S*11", both)
    assert re.search(r"Headers: X-Key changed by them changed by you", both)
    assert "Authorization" not in both
    assert re.search(r"Countries South Africa South Africa, Namibia", rest)
    assert not [secret for secret in ("first-", "second-") if secret in page.text]
    assert "enter it again" not in page.text, "nothing that was typed is lost"
    form = forms_of(page.text) | {"carries": "sms"}
    assert form["headers"] == "Authorization: keep\nX-Key: my-key\nX-New: keep"
    assert (form["countries"], form["daily_cap"], form["hourly_cap"]) == ("ZA, NA", "11", "3")
    send(desk, path, **form)
    config: Any = renewed(desk.world)["gateway"]
    assert config.headers == {"Authorization": "second-token", "X-Key": "my-key", "X-New": "new"}
    assert (config.countries, config.daily_cap, config.hourly_cap) == (("ZA", "NA"), 11, 3)


def test_d4_a_merge_sends_no_stored_secret_to_the_address_that_another_admin_chose(desk: Desk) -> None:
    make(desk, "clicks", **CLICKATELL)
    path = "/admin/channels/clicks/edit"
    desk.get(path)
    opened, form = desk.page, {**CLICKATELL, "api_key": ""}
    send(desk, path, **{**form, "api_key": "key-of-the-other-server"}, base_url="https://other.example")
    desk.page = opened
    page = send(desk, path, **{**form, "api_key": "my-key"}, base_url="https://platform.clickatell.com")
    assert page.status_code == 409
    assert "What you typed as API key isn't in it: enter it again." in shown(page)
    assert "my-key" not in page.text
    assert unescape(page.text).count("https://other.example") >= 1
    send(desk, path, **forms_of(page.text) | {"base_url": "https://platform.clickatell.com", "api_key": ""})
    assert desk.page.status_code == 422, "the stored key is the other server's"
    assert renewed(desk.world)["clicks"].base_url == "https://other.example"  # type: ignore[attr-defined]


def test_what_is_seldom_changed_in_a_channel_is_folded_and_a_fault_opens_it(desk: Desk) -> None:
    make(desk, "clicks", **CLICKATELL)
    assert '<details class="fold" open>' in desk.get("/admin/channels/_new?kind=clickatell").text
    page = desk.get("/admin/channels/clicks/edit").text
    assert re.search(
        r'<details class="fold">\s*<summary><h2>Countries and caps</h2> <span class="value">Countries:', page
    )
    page = send(desk, "/admin/channels/clicks/edit", **{**CLICKATELL, "api_key": "", "daily_cap": "many"}).text
    assert re.search(r'<details class="fold" open>\s*<summary><h2>Countries and caps', page)
    uses = [one for one in desk.world.services.channel_editor.channel("mail").uses if one.is_active]
    assert f"{len(uses)} journeys that are on send" in desk.get("/admin/channels/mail/edit").text


def test_the_page_of_a_channel_shows_its_last_day(desk: Desk) -> None:
    """Bars of what its provider accepted and refused, and the same as a table; without a message its state in words."""
    assert "It hasn't sent a message yet." in shown(desk.get("/admin/channels/sms"))
    hour = desk.world.clock.now.replace(minute=0, second=0, microsecond=0)
    counts = (0, "accepted", 39), (0, "refused", 1), (2, "accepted", 10), (2, "given_up", 6)
    with desk.world.database.write() as connection:
        for back, state, value in counts:
            row = {"hour": hour - timedelta(hours=back), "name": "messages_ended", "value": value}
            connection.execute(insert(HourlyCount).values(**row, labels=json.dumps(["sms", "ZA", state])))
    desk.world.services.overview._cache.clear()
    page = desk.get("/admin/channels/sms").text
    cells = re.findall(r'</time></th>\s*<td class="number">(\d+)</td>\s*<td class="number">(\d+)</td>', page)
    assert cells[-3:] == [("10", "6"), ("0", "0"), ("39", "1")]
    assert len(cells) == 24
    assert page.count('<rect class="failed"') == 2 + 1, "and its word"
    assert re.search(r'<dd class="bad">87\.5&nbsp;%\s*<small>49 of 56', page)
    assert re.search(r'name="number" type="tel" value=""', page), "for a test"


def test_every_way_to_make_a_channel_is_a_tile_of_the_list_and_of_the_new_one(desk: Desk) -> None:
    pages = [desk.get(path).text for path in ("/admin/channels", NEW)]
    tiles = [re.findall(r'<a href="/admin/channels/_new\?([^"]*)"><strong>([^<]*)</strong> <small>(.+?)</small>', page)
             for page in pages]  # fmt: skip
    assert tiles[0] == tiles[1]
    assert tiles[0][0] == ("kind=smtp", "Mail server (SMTP)", "server, login, sender")
    editor = desk.world.services.channel_editor
    assert ("preset=twilio", "Twilio", "Account SID, Auth Token, From") in tiles[0]
    assert len(tiles[0]) == len(editor.presets()) + len(editor.kinds())
    for query, _name, _needs in tiles[0]:
        assert desk.get(f"{NEW}?{query}").text.count('id="name"') == 1, query
    assert "/_new" not in signed_in(desk.world, "support").get("/admin/channels").text


def test_the_list_shows_how_much_of_each_cap_is_used(desk: Desk) -> None:
    make(desk, "clicks", **CLICKATELL)
    assert "South Africa: </small>0 <small>of 50 today" in " ".join(desk.get("/admin/channels").text.split())


def test_the_list_shows_what_each_provider_did_in_the_last_day(desk: Desk) -> None:
    """From the counts of Home: a line, the share with its number, and no share where nothing was sent."""
    labels = ("mail", "", "accepted"), ("mail", "", "refused")
    with desk.world.database.write() as connection:
        hour = desk.world.clock.now.replace(minute=0, second=0, microsecond=0)
        for label, value in zip(labels, (39, 1), strict=True):
            row = {"hour": hour, "name": "messages_ended", "labels": json.dumps(label), "value": value}
            connection.execute(insert(HourlyCount).values(row))
    desk.world.services.overview._cache.clear()
    page = desk.get("/admin/channels").text
    rows = {
        name: row for row in page.split("<tr>")[2:] for name in re.findall(r'href="/admin/channels/([a-z]+)"', row)[:1]
    }
    assert 'aria-label="39 accepted in all"' in rows["mail"]
    assert "97.5&nbsp;% <small>of 40</small>" in " ".join(rows["mail"].split())
    assert '<svg class="spark' not in rows["sms"]
    assert " % of" not in rows["sms"]


def test_headers_are_kept_one_by_one(desk: Desk) -> None:
    fields = {
        "kind": "http", "carries": "sms", "url": "https://gateway.example/send", "method": "POST", "success": "200 202",
        "headers": "Authorization: Bearer the-token\nX-Key: one", "body": '{"to": "{to}"}', "content_type": "application/json",
        "countries": "ZA NA", "daily_cap": "9",
    }  # fmt: skip
    make(desk, "gateway", **fields)
    page = desk.get("/admin/channels/gateway/edit")
    assert "Authorization: keep\nX-Key: keep" in page.text
    assert "Bearer the-token" not in page.text
    send(desk, "/admin/channels/gateway/edit", **{**fields, "headers": "Authorization: keep\nX-Key: two"})
    config = renewed(desk.world)["gateway"]
    assert config.headers == {"Authorization": "Bearer the-token", "X-Key": "two"}  # type: ignore[attr-defined]
    assert (config.countries, config.success) == (("ZA", "NA"), (200, 202))  # type: ignore[attr-defined]


def test_a_channel_that_a_journey_needs_is_not_switched_off_and_the_journey_is_named(desk: Desk) -> None:
    desk.get("/admin/channels/sms")
    page = desk.post("/admin/channels/sms/switch", active="0")
    assert page.status_code == 422
    assert "The channel wasn't switched off" in page.text
    assert 'href="/admin/journeys/balance"' in page.text
    assert 'href="/admin/journeys/password"' not in page.text.split("Switch off")[-2]
    assert "sms" in renewed(desk.world)
    desk.get("/admin/channels/sms/delete")
    page = desk.post("/admin/channels/sms/delete")
    assert page.status_code == 422
    assert "The channel wasn't deleted" in page.text
    assert "sms" in renewed(desk.world)


def test_with_a_fallback_a_channel_can_be_switched_off_under_load(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    """The emergency: the first provider is down, and the next one of each journey takes its place."""
    config = journey("balance", "sms_code", default=True, channels=("sms", "second"))
    with open_world(tmp_path, sqlite_url, receiver, config=CONFIG_SECOND + config, settings=STILL) as world:
        desk = signed_in(world)
        page = desk.get("/admin/channels/second")
        assert "number 2 of 2, used if those before it are off" in page.text
        desk.get("/admin/channels/sms")
        assert desk.post("/admin/channels/sms/switch", active="0").status_code == 200
        world.services.journeys.renew()
        assert world.browser().begin("one").status_code == 200
        assert {row.target for row in world.rows(Delivery) if row.challenge_id} == {"second"}
        assert "the journey needs it" not in desk.get("/admin/channels/second").text
        assert desk.post("/admin/channels/second/switch", active="0").status_code == 422  # now it is the last way
        desk.get("/admin/channels/sms")
        desk.post("/admin/channels/sms/switch", active="1")
        assert "sms" in renewed(world)
        desk.get("/admin/channels/sms/edit")


CONFIG_SECOND = """
[[channels]]
name = "second"
kind = "http"
carries = "sms"
url = "{receiver}/sms"
body = '{{"to": "{{to}}", "text": "{{text}}"}}'
countries = ["ZA"]
daily_cap = 100
"""


def test_an_unused_channel_is_deleted_with_its_secrets(desk: Desk) -> None:
    make(desk, "clicks", **CLICKATELL)
    desk.get("/admin/channels/clicks/delete")
    desk.post("/admin/channels/clicks/delete")
    assert desk.path == "/admin/channels"
    assert "clicks" not in {row.name for row in desk.world.rows(ChannelRow)}
    assert desk.get("/admin/channels/clicks").status_code == 404
    (event,) = (row for row in desk.world.rows(AuditEvent) if row.kind == "channel_deleted")
    assert event.facts["channels"] == ["clicks"]


def test_a_channel_that_is_off_stays_off_when_it_is_edited(desk: Desk) -> None:
    make(desk, "clicks", **CLICKATELL)
    desk.post("/admin/channels/clicks/switch", active="0")
    assert "clicks" not in renewed(desk.world)
    desk.get("/admin/channels/clicks/edit")
    desk.post(
        "/admin/channels/clicks/edit",
        **{**CLICKATELL, "daily_cap": "77", "base_url": "https://platform.clickatell.com"},
    )
    assert "clicks" not in renewed(desk.world)
    assert 'value="77"' in desk.get("/admin/channels/clicks/edit").text


def test_the_sandbox_kinds_cannot_be_made_without_the_sandbox(desk: Desk) -> None:
    assert "sandbox inbox" not in desk.get("/admin/channels/_new").text.lower()
    desk.get(f"{NEW}?kind=smtp")
    assert desk.post("/admin/channels/_new", name="in", kind="inbox").status_code == 404


# --- Tests of a channel


def test_a_test_by_clickatell_says_what_clickatell_said(desk: Desk) -> None:
    make(desk, "clicks", **CLICKATELL, base_url=desk.world.receiver.origin)
    page = desk.post("/admin/channels/clicks/test", number="082 123 4567", carries="sms")
    assert "Waiting for the provider" in page.text
    assert page.headers["Refresh"].startswith("2; url=/admin/channels/clicks/tests/")
    deliver(desk.world)
    page = desk.get(desk.path)
    assert "The provider accepted the message" in page.text
    assert "Refresh" not in page.headers
    (sent,) = desk.world.receiver.platform
    assert json.loads(sent["body"])["messages"][0]["to"] == "27821234567"
    (event,) = (row for row in desk.world.rows(AuditEvent) if row.kind == "channel_tested")
    assert (event.admin_id, parted_facts(event.facts)[0]) == (desk.admin_id, {"channel": "clicks", "carries": "sms"})
    assert "clicks" in desk.get("/admin/channels").text
    assert "South Africa: 1 of 50" in shown(desk.get("/admin/channels/clicks"))


def test_r42_a_refused_test_is_told_in_words_masked_and_without_a_body(desk: Desk, httpserver: HTTPServer) -> None:
    answer = {"error": {"code": 3, "description": "no funds on account 1234567 of owner@example.com " + "x" * 5000}}
    httpserver.expect_request("/v1/message").respond_with_json(answer, status=400)
    make(desk, "clicks", **CLICKATELL, base_url=httpserver.url_for("").rstrip("/"))
    desk.post("/admin/channels/clicks/test", number=PHONE, carries="sms")
    deliver(desk.world)
    page = desk.get(desk.path)
    assert "The integration of this key is not active." in page.text
    assert "You need to fix this" in page.text
    assert "1234567" not in page.text
    assert "owner@example.com" not in page.text
    assert "x" * 200 not in page.text
    listed = shown(desk.get("/admin/channels"))
    assert "failing" in listed
    assert "Only you can fix this" in listed


@pytest.mark.parametrize(
    ("code", "status", "said", "words"),
    [
        (1, 401, "Invalid or missing integration API Key", "Copy the integration&#39;s key from its portal again."),
        (2, 400, "Account is not active", "The Clickatell account is not active. Activate it in its portal"),
        (3, 400, "Integration is not active", "The integration of this key is not active. Activate it"),
        (7, 401, "Originating IP address is not approved", "refuses this server&#39;s IP address. Approve it"),
        (20, 402, "Insufficient account balance", "no funds left. Top it up"),
    ],
)
def test_each_refusal_by_clickatell_says_what_to_do(
    desk: Desk, httpserver: HTTPServer, code: int, status: int, said: str, words: str
) -> None:
    error = {"code": code, "description": said}
    whole = {"messages": [{"accepted": False, "error": error}]} if code == 20 else {"messages": [], "error": error}
    httpserver.expect_ordered_request("/v1/message").respond_with_json(whole, status=207 if code == 20 else status)
    httpserver.expect_ordered_request("/v1/message").respond_with_json({"messages": [{"accepted": True}]}, status=202)
    make(desk, "clicks", **CLICKATELL, base_url=httpserver.url_for("").rstrip("/"))
    for page in (send_test(desk), desk.get("/admin/channels/clicks"), desk.get("/admin/channels")):
        assert words in page.text
        assert f"Clickatell said: {code} {said}" in page.text
    page = desk.get("/admin/channels/clicks")
    assert "codes sent through it don't arrive" in page.text
    assert "The provider accepted the message" in send_test(desk).text
    assert "codes sent through it don't arrive" not in desk.get("/admin/channels/clicks").text


def test_a_failing_channel_says_whether_another_can_take_its_place(desk: Desk) -> None:
    def fail(name: str) -> str:
        now = desk.world.clock()
        values = {"name": name, "failures_in_row": 3, "failed_at": now, "failing_since": now, "reason": "no funds"}
        with desk.world.database.write() as connection:
            connection.execute(insert(ChannelState).values(**values, needs_admin=True, accepted_at=None))
        return shown(desk.get(f"/admin/channels/{name}"))

    assert "No journey that is on has a second channel" in fail("mail")
    make(desk, "clicks", **CLICKATELL)
    found = desk.world.services.journeys.renew().journey("balance").config
    document = {**found.model_dump(mode="json"), "channels": ["sms", "clicks"]}
    with desk.world.database.write() as connection:
        live = select(Journey.version_id).where(Journey.slug == "balance").scalar_subquery()
        connection.execute(update(JourneyVersion).where(JourneyVersion.id == live).values(document=document))
    desk.world.accept()
    assert "Journeys with a second channel keep using this one" in fail("sms")


def send_test(desk: Desk) -> TestResponse:
    """The page of a test of the channel, once the provider has answered."""
    desk.get("/admin/channels/clicks")
    desk.post("/admin/channels/clicks/test", number=PHONE, carries="sms")
    deliver(desk.world)
    return desk.get(desk.path)


def test_a_test_by_smtp_goes_to_the_admins_own_address_only(desk: Desk, smtp: Smtp) -> None:
    fields = {
        "kind": "smtp",
        "host": "127.0.0.1",
        "port": str(smtp.port),
        "security": "none",
        "username": "portal",
        "password": "right",
        "sender": "Acme <no-reply@acme.example>",
    }
    make(desk, "post", **fields)
    desk.post("/admin/channels/post/test", carries="email", number="attacker@example.com", to="attacker@example.com")
    deliver(desk.world)
    (mail,) = smtp.mails
    assert mail["To"] == desk.email
    assert "test of the channel post" in mail["Subject"]
    assert "The provider accepted the message" in desk.get(desk.path).text
    desk.get("/admin/channels/post/edit")
    desk.post("/admin/channels/post/edit", **{**fields, "password": "wrong"})
    desk.get("/admin/channels/post")
    desk.post("/admin/channels/post/test", carries="email")
    deliver(desk.world)
    page = desk.get(desk.path)
    assert "The provider refused the message" in page.text
    assert "Authentication credentials invalid" in page.text


class Smtp:
    """A mail server that wants a login."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.port = free_port()

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"

    @staticmethod
    def may_enter(
        _server: object, _session: object, _envelope: object, _mechanism: str, login: LoginPassword
    ) -> AuthResult:
        return AuthResult(success=login.password == b"right", handled=False)


@pytest.fixture
def smtp() -> Iterator[Smtp]:
    kept = Smtp()
    controller = Controller(
        kept,
        hostname="127.0.0.1",
        port=kept.port,
        authenticator=kept.may_enter,
        auth_required=True,
        auth_require_tls=False,
    )
    controller.start()
    yield kept
    controller.stop()


def test_tests_are_few_and_only_to_allowed_countries(desk: Desk) -> None:
    make(desk, "clicks", **CLICKATELL, base_url=desk.world.receiver.origin)
    page = desk.post("/admin/channels/clicks/test", number="+447400123456", carries="sms")
    assert page.status_code == 422
    assert "is of GB; this channel may send to ZA" in page.text
    assert 'value="+447400123456"' in page.text
    assert desk.post("/admin/channels/clicks/test", number="12", carries="sms").status_code == 422
    for _ in range(5):
        assert desk.post("/admin/channels/clicks/test", number=PHONE, carries="sms").status_code == 200
        desk.get("/admin/channels/clicks")
    page = desk.post("/admin/channels/clicks/test", number=PHONE, carries="sms")
    assert page.status_code == 429
    assert "You sent several tests in a row" in page.text
    desk.world.clock.advance(601)
    assert desk.post("/admin/channels/clicks/test", number=PHONE, carries="sms").status_code == 200
    deliver(desk.world)
    assert len(desk.world.receiver.platform) == 1  # the others are older than a minute


def test_r12_a_test_counts_against_the_daily_cap(desk: Desk) -> None:
    make(desk, "clicks", **{**CLICKATELL, "daily_cap": "2"}, base_url=desk.world.receiver.origin)
    for _ in range(2):
        desk.get("/admin/channels/clicks")
        desk.post("/admin/channels/clicks/test", number=PHONE, carries="sms")
    desk.get("/admin/channels/clicks")
    page = desk.post("/admin/channels/clicks/test", number=PHONE, carries="sms")
    assert page.status_code == 422
    assert "all that its daily cap allows" in page.text


def test_d4_a_test_to_a_private_address_never_leaves(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, httpserver: HTTPServer
) -> None:
    """The rule is asked when the channel is saved, and again when the message leaves."""
    targets = f"127.0.0.1:{receiver.server.server_port}"
    guarded = {**STILL, "PORTAL_ALLOW_PRIVATE_CALLBACKS": "0", "PORTAL_PRIVATE_TARGETS": targets}
    with open_world(tmp_path, sqlite_url, receiver, settings=guarded) as world:
        desk = signed_in(world)
        page = make(desk, "other", **CLICKATELL, base_url="https://10.0.0.1")
        assert page.status_code == 422
        assert "not a public one" in page.text
        lenient = Configuration(
            Transactions(world.database, world.services.keyring, world.clock),
            has_sandbox=False,
            way_out=DeadEnd(lambda _taken: 200),
            notify_owners=lambda *_: None,
        )
        inside = httpserver.url_for("").rstrip("/")
        lenient.import_toml(
            f'[[channels]]\nname = "inside"\nkind = "clickatell"\napi_key = "k"\ncountries = ["ZA"]\ndaily_cap = 5\n'
            f'base_url = "{inside}"\n', file_name="before the rule was tightened",
        )  # fmt: skip
        desk.get("/admin/channels/inside")
        desk.post("/admin/channels/inside/test", number=PHONE, carries="sms")
        deliver(world)
        assert "The address must begin with https://" in desk.get(desk.path).text
    assert httpserver.log == []


@pytest.mark.parametrize("networks", ["", "10.20.0.0/16"])
def test_d4_owners_choose_within_a_network_that_the_operator_allows(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, networks: str
) -> None:
    targets = f"127.0.0.1:{receiver.server.server_port}"
    guarded = {"PORTAL_ALLOW_PRIVATE_CALLBACKS": "0", "PORTAL_PRIVATE_TARGETS": targets, **STILL}
    relay = {"kind": "smtp", "security": "none", "sender": "no-reply@acme.example", "host": "10.20.0.5", "port": "2526"}
    settings = {**guarded, "PORTAL_PRIVATE_NETWORKS": networks}
    with open_world(tmp_path, sqlite_url, receiver, settings=settings) as world:
        desk = signed_in(world)
        page = make(desk, "relay", **relay)
        if networks:
            assert desk.path == "/admin/channels/relay", page.text
        else:
            assert page.status_code == 422
            assert "PORTAL_PRIVATE_NETWORKS" in page.text


def test_what_support_and_the_auditor_may(desk: Desk) -> None:
    support, auditor = signed_in(desk.world, "support"), signed_in(desk.world, "auditor")
    page = support.get("/admin/channels/mail")
    assert "Send the test" in page.text
    assert "/edit" not in page.text.split('<main id="main">')[1]
    support.post("/admin/channels/mail/test", carries="email")
    deliver(desk.world)
    assert "The provider accepted the message" in support.get(support.path).text
    assert desk.world.receiver.messages[-1]["to"] == support.email
    assert "Send the test" not in auditor.get("/admin/channels/mail").text


# --- Under way


def test_a_rotated_secret_loses_no_verification_that_is_under_way(still: World) -> None:
    """Begun with the old key, which the provider then refuses; the next attempt has the new one."""
    desk = signed_in(still)
    deliver(still)
    desk.get("/admin/channels/sms/edit")
    fields = {
        "carries": "sms",
        "url": f"{still.receiver.origin}/v1/message",
        "method": "POST",
        "success": "200, 202",
        "body": '{"to": "{to}", "text": "{text}"}',
        "content_type": "application/json",
        "countries": "ZA",
        "daily_cap": "100",
    }
    send(desk, "/admin/channels/sms/edit", **fields, headers="Authorization: old")
    still.services.journeys.renew()
    browser = still.browser()
    browser.begin("under-way")
    with logged():
        deliver(still)
    assert still.receiver.platform[-1]["authorization"] == "old"
    waiting = still.browser()
    waiting.begin("waiting", identifier="C-1002")
    desk.get("/admin/channels/sms/edit")
    assert send(desk, "/admin/channels/sms/edit", **fields, headers="Authorization: new").status_code == 200
    still.services.journeys.renew()  # what every server does within a second
    deliver(still)
    assert still.receiver.platform[-1]["authorization"] == "new"  # the message that waited
    still.clock.advance(31)
    browser.get("/verify")
    browser.post("/verify/resend")
    deliver(still)
    sent = still.receiver.platform[-1]
    assert sent["authorization"] == "new"
    browser.prove(json.loads(sent["body"])["text"].split()[0])
    waiting.prove(json.loads(still.receiver.platform[1]["body"])["text"].split()[0])
    deliver(still)
    assert [call.body["result"] for call in still.receiver.callbacks] == ["verified", "verified"]


def test_e_mail_codes_still_leave_while_channels_change(still: World) -> None:
    desk = signed_in(still)
    browser = still.browser()
    browser.begin("one", "mail")
    desk.get("/admin/channels/mail/edit")
    page = desk.post(
        "/admin/channels/mail/edit",
        carries="email",
        url=f"{still.receiver.origin}/mail",
        method="POST",
        headers="",
        body='{"to": "{to}", "text": "{text}", "subject": "{subject}"}',
        content_type="application/json",
        success="200",
        countries="",
        daily_cap="500",
    )
    assert page.status_code == 200, shown(page)
    still.services.journeys.renew()
    browser.prove(code_for(still, MAIL))
    deliver(still)
    assert [call.body["result"] for call in still.receiver.callbacks] == ["verified_mail"]
