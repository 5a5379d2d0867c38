"""Alerts: told once when something goes wrong, once when it is over, by mail and by a signed webhook."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import update

from auth_portal.gateways.way_out import DeadEnd
from auth_portal.services.alerts import EVERY_SECONDS, Alert, Alerts
from auth_portal.services.config.configuration import Configuration
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.limits import SPENT_CREDENTIALS_ALARM
from auth_portal.services.operations.retention import prune
from auth_portal.store.db import Transactions
from auth_portal.store.models import AlertRow, AuditChain, ChannelState, Delivery, table_of
from tests.admin.desk import signed_in
from tests.receiver import Receiver
from tests.security.tools import STILL, deliver, spend_tries
from tests.world import CONFIG, World, journey, open_world


@pytest.fixture
def still(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    """A portal with an owner, where nothing leaves until the test says so."""
    with open_world(tmp_path, database_url, receiver, settings=STILL) as opened:
        signed_in(opened)
        yield opened


def load(world: World, toml: str) -> None:
    keyring = world.services.keyring
    file = Configuration(
        Transactions(world.database, keyring, world.clock),
        has_sandbox=False,
        way_out=DeadEnd(lambda _taken: 200),
        notify_owners=lambda *_: None,
    )
    file.import_toml(toml, file_name="test.toml")
    world.services.journeys._read_at = 0.0


def end_some(world: World, first: int, count: int, answer: int | str = 200) -> None:
    """So many verifications whose result is answered like this."""
    world.receiver.answers = [answer] * count * 10
    for number in range(first, first + count):
        browser = world.browser()
        browser.open(f"reference-{number}")
        browser.post("/", decline="not_me", identifier="")
    deliver(world)
    world.receiver.answers = []


def look(world: World, *, seals: bool = True) -> list[Alert]:
    """What is open after the next evaluation."""
    while seals and world.services.dispatcher.seal():
        pass
    world.clock.advance(EVERY_SECONDS + 1)
    world.services.alerts.evaluate()
    return world.services.alerts.open(world.clock())


def mails(world: World) -> list[str]:
    """The subjects of what the owners were mailed about alerts, sorted: mails that wait together leave in any order."""
    deliver(world)
    found = [message["subject"] for message in world.receiver.messages if message["kind"] == "mail"]
    return sorted(subject for subject in found if "Alert:" in subject or "Over:" in subject)


def test_callbacks_that_are_refused_raise_one_alert_and_its_end_is_told(still: World) -> None:
    end_some(still, 0, 4, 400)
    assert look(still) == []  # too few to say anything
    end_some(still, 4, 1, 400)
    (alert,) = look(still)
    assert (alert.kind, alert.subject, alert.link) == ("callbacks", still.receiver.origin, "/admin/deliveries")
    assert alert.text.startswith("5 of the last 5 results")
    assert look(still) == [alert]
    end_some(still, 10, 5)
    assert look(still) == [alert]  # half of them is neither bad nor well
    end_some(still, 20, 20)
    assert look(still) == []
    assert [subject.split(" (")[0] for subject in mails(still)] == [
        "Acme Bank: Alert: results do not reach the chat",
        "Acme Bank: Over: results do not reach the chat",
    ]


def test_a_server_that_is_down_is_noticed_before_the_chats_are_over(still: World) -> None:
    end_some(still, 0, 5, 503)
    still.receiver.answers = [503] * 100
    for _ in range(4):
        still.clock.advance(6)
        deliver(still)
    assert {row.state for row in still.rows(Delivery) if row.kind == "callback"} == {"pending"}
    assert [alert.kind for alert in look(still)] == ["callbacks"]


def test_silence_does_not_say_that_a_server_works_again(still: World) -> None:
    end_some(still, 0, 5, 400)
    (alert,) = look(still)
    still.clock.advance(3600)
    assert look(still) == [alert]


def fail(world: World, name: str, times: int, *, needs_admin: bool = False) -> None:
    with world.database.write() as connection:
        connection.execute(table_of(ChannelState).delete())
        connection.execute(
            table_of(ChannelState)
            .insert()
            .values(name=name, failures_in_row=times, reason="not reached", needs_admin=needs_admin)
        )


def test_a_channel_out_of_funds_raises_an_alert_at_once_and_others_after_three(still: World) -> None:
    fail(still, "sms", 2)
    assert look(still) == []
    fail(still, "sms", 1, needs_admin=True)
    (alert,) = look(still)
    assert (alert.kind, alert.subject, alert.link) == ("channel", "sms", "/admin/channels/sms")
    assert "Only you can fix this" in alert.text
    fail(still, "sms", 0)
    assert look(still) == []
    assert [subject.split(": ", 1)[1] for subject in mails(still)] == [
        "Alert: a channel fails (sms)",
        "Over: a channel fails (sms)",
    ]


def test_a_refused_key_is_noticed_from_the_message_itself(still: World) -> None:
    """The whole way: the provider says 401, the dispatcher notes it, the alert names the channel."""
    deliver(still)
    still.receiver.sms_answers = [401]
    still.browser().begin("one")
    deliver(still)
    (state,) = (row for row in still.rows(ChannelState) if row.name == "sms")
    assert (state.needs_admin, state.failing_since) == (True, still.clock())
    assert [alert.subject for alert in look(still)] == ["sms"]
    still.clock.advance(60)
    still.browser().begin("two")
    deliver(still)
    assert look(still) == []


def test_a_channel_that_was_switched_off_is_no_news(still: World) -> None:
    load(still, STRAY)
    fail(still, "stray", 5)
    assert [alert.subject for alert in look(still)] == ["stray"]
    with still.database.write() as connection:
        connection.exec_driver_sql("UPDATE channels SET is_active = false WHERE name = 'stray'")
        connection.exec_driver_sql("UPDATE portal SET version = version + 1")
    still.services.journeys._read_at = 0.0
    assert look(still) == []
    assert [subject for subject in mails(still) if "Over" in subject] == []


STRAY = """
[[channels]]
name = "stray"
kind = "http"
carries = "sms"
url = "https://gateway.example/sms"
body = '{"to": "{to}", "text": "{text}"}'
countries = ["ZA"]
daily_cap = 10
"""


def test_r12_half_and_four_fifths_of_a_cap_are_told(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    config = journey("balance", "sms_code", default=True)
    base = CONFIG.replace("daily_cap = 100000", "daily_cap = 10")
    with open_world(tmp_path, sqlite_url, receiver, config=config, base=base, settings=STILL) as world:
        signed_in(world)
        people = ["C-1001", "C-1002", "C-1003"]
        for number in range(5):
            assert look(world) == []
            world.browser().begin(f"reference-{number}", identifier=people[number % 3])
            deliver(world)
        (alert,) = look(world)
        assert (alert.kind, alert.subject, alert.link) == ("cap", "sms ZA 50%", "/admin/channels/sms")
        assert "5 of the 10 messages" in alert.text
        with world.database.write() as connection:
            connection.exec_driver_sql("UPDATE counters SET events = 8 WHERE key LIKE 'cap:%'")
        assert [alert.subject for alert in look(world)] == ["sms ZA 80%"]
        mails(world)
        world.clock.advance(86_400)
        assert look(world) == []
        assert [subject.split(": ", 1)[1] for subject in mails(world)] == [
            "Alert: a channel's cap (sms ZA 50%)",
            "Alert: a channel's cap (sms ZA 80%)",
        ]


def test_r49_half_of_an_hourly_cap_is_an_alert_until_the_hour_is_over(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    config = journey("balance", "sms_code", default=True)
    base = CONFIG.replace("daily_cap = 100000", "daily_cap = 1000\nhourly_cap = 8")
    with open_world(tmp_path, sqlite_url, receiver, config=config, base=base, settings=STILL) as world:
        signed_in(world)
        world.clock.advance(20 * 60)
        for number in range(4):
            assert look(world) == []
            world.browser().begin(f"reference-{number}", identifier=["C-1001", "C-1002", "C-1003"][number % 3])
            deliver(world)
        (alert,) = look(world)
        assert (alert.kind, alert.subject, alert.link) == ("cap", "sms ZA 50% of an hour", "/admin/channels/sms")
        assert "4 of the 8 messages" in alert.text
        assert [subject.split(": ", 1)[1] for subject in mails(world)] == [
            "Alert: a channel's cap (sms ZA 50% of an hour)"
        ]
        world.clock.advance(25 * 60)
        assert [alert.subject for alert in look(world)] == ["sms ZA 50% of an hour"]
        world.clock.advance(20 * 60)
        assert look(world) == []


def test_r06_many_spent_credentials_are_an_alert(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    config = journey("app", "totp", default=True, limits="credential_tries_day = 5")
    with open_world(tmp_path, sqlite_url, receiver, config=config, settings=STILL) as world:
        for number in range(SPENT_CREDENTIALS_ALARM):
            spend_tries(world, "", f"reference-{number}", 5, f"C-{number}")
        assert look(world) == []
        deliver(world)
        spend_tries(world, "", "one-more", 5, "C-1001")
        assert [alert.kind for alert in look(world)] == ["spent_credentials"]
        deliver(world)
        world.clock.advance(3600)
        assert look(world) == []


def test_e4_a_broken_chain_of_the_audit_trail_is_an_alert(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as world:
        assert look(world) == []
        with world.database.write() as connection:
            connection.execute(update(AuditChain).values(last_number=7))
        (alert,) = look(world, seals=False)
        assert (alert.kind, alert.link) == ("audit", "/admin/audit/check")
        assert "its row in the table audit_chain was changed" in alert.text


def test_e4_events_that_no_process_seals_are_an_alert(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as world:
        signed_in(world)
        assert look(world) == []
        with Transactions(world.database, world.services.keyring, world.clock).write() as work:
            work.record("tried")
        world.clock.advance(50)
        (alert,) = look(world, seals=False)
        assert (alert.kind, alert.link) == ("audit", "/admin/audit/check")
        assert alert.text.startswith("Audit events have waited 66 s to be sealed")
        assert look(world) == []


def test_an_alert_of_a_newer_version_is_shown_and_left_alone(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as world:
        row = {"id": "0" * 32, "kind": "to_come", "subject": "x", "words": "Look.", "since": world.clock()}
        with world.database.write() as connection:
            connection.execute(table_of(AlertRow).insert().values(row))
        (alert,) = look(world)
        assert (alert.kind, alert.link) == ("to_come", "/admin/")


def test_two_processes_tell_of_it_once(tmp_path: Path, database_url: str, receiver: Receiver) -> None:
    """Both find the same, at the same moment; also where both believe that it is their turn."""
    with open_world(tmp_path, database_url, receiver, settings=STILL) as world:
        signed_in(world)
        end_some(world, 0, 5, 400)
        others = [_another(world) for _ in range(6)]
        start = threading.Barrier(len(others))

        def together(alerts: Alerts) -> None:
            start.wait()
            alerts.look()

        threads = [threading.Thread(target=together, args=(alerts,)) for alerts in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(world.rows(AlertRow)) == 1
        assert len(mails(world)) == 1
        world.clock.advance(EVERY_SECONDS + 1)
        with world.statements() as seen:
            for alerts in others:
                alerts.evaluate()
        looked = [statement for statement in seen if "sum(CASE" in statement]
        assert len(looked) == 1, "one of them looked"


def _another(world: World) -> Alerts:
    """The alerts of another process on the same database."""
    services = world.services
    alerts, transactions = services.alerts, world.transactions
    journeys = Journeys(transactions, has_sandbox=False)
    return type(alerts)(transactions, journeys, services.notices, services.webhooks, public_url="http://127.0.0.1:8000")


def test_d5_an_owner_hears_of_a_queue_and_of_its_end(still: World) -> None:
    browser = still.browser()
    browser.open("reference-2")
    browser.post("/", decline="not_me", identifier="")
    assert look(still) == []
    still.clock.advance(15)
    (alert,) = look(still)
    assert (alert.kind, alert.subject) == ("queue", still.receiver.origin)
    assert "has waited 47 s" in alert.text
    assert "PORTAL_CALLBACK_THREADS" in alert.text
    deliver(still)
    assert look(still) == []
    assert [subject.split(": ", 1)[1][:32] for subject in mails(still)] == [
        "Alert: deliveries wait too long ",
        "Over: deliveries wait too long (",
    ]


def test_a_webhook_is_signed_and_tells_of_both_ends(still: World, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hook", method="POST").respond_with_data("", status=204)
    load(still, f'[portal.alerts]\nwebhook = "{httpserver.url_for("/hook")}"\nemail = false\n')
    secret = still.services.webhooks.renew_secret()
    end_some(still, 0, 5, 400)
    look(still)
    end_some(still, 10, 25)
    look(still)
    deliver(still)
    began, ended = (request for request, _answer in httpserver.log)
    assert [json.loads(request.data)["type"] for request in (began, ended)] == ["alert.opened", "alert.closed"]
    told = json.loads(began.data)["data"]
    assert (told["portal"], told["kind"], told["subject"]) == ("Acme Bank", "callbacks", still.receiver.origin)
    assert told["link"] == "http://127.0.0.1:8000/admin/deliveries"
    for request in (began, ended):
        signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.data
        key = base64.b64decode(secret.removeprefix("whsec_"))
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert mails(still) == []  # switched off


def test_a_webhook_that_is_down_is_tried_again_and_blocks_nobody(still: World, httpserver: HTTPServer) -> None:
    httpserver.expect_ordered_request("/hook").respond_with_data("", status=503)
    httpserver.expect_ordered_request("/hook").respond_with_data("")
    load(still, f'[portal.alerts]\nwebhook = "{httpserver.url_for("/hook")}"\n')
    end_some(still, 0, 5, 400)
    look(still)
    assert len(mails(still)) == 1
    still.clock.advance(5)
    deliver(still)
    first, second = (request for request, _answer in httpserver.log)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.data == second.data
    assert {row.name for row in still.rows(ChannelState)} == {"mail"}  # a webhook is no channel


def test_d4_a_webhook_to_a_private_address_never_leaves(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, httpserver: HTTPServer
) -> None:
    targets = f"127.0.0.1:{receiver.server.server_port}"
    settings = {**STILL, "PORTAL_ALLOW_PRIVATE_CALLBACKS": "0", "PORTAL_PRIVATE_TARGETS": targets}
    with open_world(tmp_path, sqlite_url, receiver, settings=settings) as world:
        signed_in(world)
        load(world, f'[portal.alerts]\nwebhook = "{httpserver.url_for("/hook")}"\n')
        end_some(world, 0, 5, 400)
        look(world)
        deliver(world)
        assert httpserver.log == []
        (row,) = (row for row in world.rows(Delivery) if row.contract == "webhook")
        assert row.state == "refused"


def test_e3_an_alert_that_is_over_is_kept_for_as_long_as_deliveries(still: World) -> None:
    load(still, "[portal.retention]\nverifications_days = 2\n")
    fail(still, "sms", 3)
    look(still)
    fail(still, "sms", 0)
    look(still)
    still.clock.advance(86_400)
    prune(still.transactions)
    assert len(still.rows(AlertRow)) == 1
    still.clock.advance(2 * 86_400)
    prune(still.transactions)
    assert still.rows(AlertRow) == []


def subjects(world: World) -> list[str]:
    """The subjects of the mails about alerts that have left, without sending any."""
    found = [message["subject"].split(": ", 1)[1] for message in world.receiver.messages if message["kind"] == "mail"]
    return [subject for subject in found if subject.startswith(("Alert:", "Over:"))]


def test_a_server_reports_dispatchers_that_are_dead_and_sends_the_alert_itself(still: World) -> None:
    server = still.services.dispatcher  # of a process that only serves, as this whole world does
    server.look_out()
    still.services.alerts.evaluate()  # a dispatcher of another process, alive for now
    still.clock.advance(40)
    server.look_out()
    assert still.services.alerts.open(still.clock()) == []
    still.browser().begin("reference-1")
    for _ in range(3):
        still.clock.advance(EVERY_SECONDS + 1)
        server.look_out()
    (alert, *_) = [one for one in still.services.alerts.open(still.clock()) if one.kind == "dispatcher"]
    assert "PORTAL_DISPATCH" in alert.text
    assert [subject for subject in subjects(still) if "nothing is sent" in subject] == ["Alert: nothing is sent (all)"]
    assert {message["kind"] for message in still.receiver.messages} == {"mail"}, "codes are a dispatcher's work"
    still.clock.advance(EVERY_SECONDS + 1)
    still.services.alerts.evaluate()
    assert "dispatcher" not in {one.kind for one in still.services.alerts.open(still.clock())}


def test_a_server_that_has_just_started_waits_for_a_dispatcher(still: World) -> None:
    for _ in range(2):
        still.services.dispatcher.look_out()
        still.clock.advance(14)
    assert still.services.alerts.open(still.clock()) == []


def test_the_only_machine_sends_the_alert_about_its_own_clock(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as world:
        signed_in(world)
        world.services.alerts.note_clock("db-1", "clock: it is 60 s ahead of the database's")
        world.services.dispatcher.send_alerts()
        assert subjects(world) == [], "for ten seconds it is left to the dispatchers"
        world.clock.advance(11)
        for _ in range(2):
            world.services.dispatcher.send_alerts()
            assert subjects(world) == ["Alert: the clock of a server is wrong (db-1)"]
