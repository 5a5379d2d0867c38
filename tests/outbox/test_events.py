"""Webhooks of programs, through the page that makes them: what they hear, how it is signed, and what a bad one costs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from auth_portal.services.delivery.webhooks import EVENTS
from auth_portal.services.operations.dispatcher import room
from auth_portal.store.models import Attempt, AuditEvent, Delivery, WebhookEndpoint
from auth_portal.web.api.frame import DOCUMENT_FILE
from tests.admin.desk import Desk, signed_in
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.security.tools import STILL, deliver
from tests.world import PHONE, World, open_world

NEW, LIST = "/admin/api-keys/webhooks/new", "/admin/api-keys"


class Program:
    """A program of the business: it checks what it gets by the formula of the specification, and answers as it likes."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for("/hook")
        self.answers: list[int] = []
        self.got: list[Request] = []
        self.meanwhile: Callable[[], object] = lambda: None  # while it thinks about its answer
        server.expect_request("/hook", method="POST").respond_with_handler(self._take)

    def _take(self, request: Request) -> Response:
        request.get_data()
        self.got.append(request)
        self.meanwhile()
        return Response(status=self.answers.pop(0) if self.answers else 204)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(request.data) for request in self.got]


def is_signed(request: Request, secret: str) -> bool:
    """Standard Webhooks 1.0: Base64 of HMAC-SHA256 over id.timestamp.payload, one of several after "v1,"."""
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.data
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return f"v1,{expected}" in request.headers["webhook-signature"].split(" ")


@pytest.fixture
def program(httpserver: HTTPServer) -> Program:
    return Program(httpserver)


@pytest.fixture
def desk(still: World) -> Desk:
    return signed_in(still)


def hook(desk: Desk, url: str, *events: str) -> tuple[str, str]:
    """A webhook made on the page: its secret, and the path of its page."""
    desk.get(NEW)
    page = desk.post("/admin/api-keys/webhooks", url=url, events=list(events or EVENTS))
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", page.text)
    assert secret, page.text
    path = re.search(r'href="(/admin/api-keys/webhooks/[0-9a-f]{32})"', page.text)
    assert path
    desk.world.services.journeys.renew()
    return secret.group(0), path.group(1)


def verified(world: World, reference: str) -> None:
    browser = world.browser()
    browser.begin(reference, "app")
    world.clock.advance(31)
    browser.prove(world.totp())


def pending(world: World) -> list[Any]:
    return [row for row in world.rows(Delivery) if row.kind == "webhook" and row.state == "pending"]


def test_a_program_hears_of_ends_changes_and_lost_answers_signed(desk: Desk, program: Program) -> None:
    world = desk.world
    secret, _path = hook(desk, program.url)
    browser = world.browser()
    browser.open("reference-0")
    browser.post("/", decline="not_me", identifier="")
    world.receiver.answers = [404]  # final
    deliver(world)
    verified(world, "reference-1")
    customer = world.services.customers
    row = customer.row_of("C-1001")
    customer.change(row, {"name": "Someone New"})
    deliver(world)
    deliver(world)
    assert all(is_signed(request, secret) for request in program.got)
    assert len({request.headers["webhook-id"] for request in program.got}) == len(program.got)
    found = {
        event["type"]: [one["data"] for one in program.events if one["type"] == event["type"]]
        for event in program.events
    }
    assert found.keys() == EVENTS.keys()
    ended = {one["outcome"]: one for one in found["verification.ended"]}
    assert ended["not_me"]["customer_id"] is None
    assert (ended["verified"]["customer_id"], ended["verified"]["journey"]) == ("C-1001", "app")
    (lost,) = found["delivery.given_up"]
    assert (lost["kind"], lost["state"], lost["verification"]) == (
        "callback",
        "refused",
        ended["not_me"]["verification"],
    )
    known_by = customer.get(row).program_id
    assert found["customer.changed"] == [{"id": known_by, "customer_id": "C-1001", "change": "changed"}]
    everything = b"".join(request.data for request in program.got)
    for secret_of_others in (b"reference-", b"Someone New", PHONE.encode()):
        assert secret_of_others not in everything
    assert [one.body_sealed for one in world.rows(Delivery) if one.kind == "webhook"] == [None] * len(program.got)


def test_it_hears_only_what_it_asked_for_and_nothing_while_it_is_off(desk: Desk, program: Program) -> None:
    world = desk.world
    _secret, path = hook(desk, program.url, "customer.changed")
    verified(world, "reference-1")
    assert pending(world) == []
    desk.get(path)
    desk.post(path, url=program.url, events=["verification.ended"])  # without "active"
    assert "off" in desk.page.text
    world.services.journeys.renew()
    verified(world, "reference-2")
    assert pending(world) == []
    desk.post(path, url=program.url, events=["verification.ended"], active="1")
    world.services.journeys.renew()
    verified(world, "reference-3")
    deliver(world)
    assert [one["type"] for one in program.events] == ["verification.ended"]


def test_a_program_that_is_down_gets_the_same_event_again_with_growing_waits_for_a_day(
    desk: Desk, program: Program
) -> None:
    world = desk.world
    hook(desk, program.url, "verification.ended")
    verified(world, "reference-1")
    program.answers = [503, 401, 302] + [500] * 40
    began, times = world.clock.now, []
    while pending(world):
        deliver(world)
        (row,) = [row for row in world.rows(Delivery) if row.kind == "webhook"]
        times.append((row.next_at - began).total_seconds())
        world.clock.advance(max(1.0, (row.next_at - world.clock.now).total_seconds()))
    assert (row.state, row.attempts) == ("given_up", len(program.got))
    assert 86_400 - 10 <= times[-2] <= 86_400
    assert 10 <= len(program.got) <= 20
    assert len({request.headers["webhook-id"] for request in program.got}) == 1
    assert len({request.data for request in program.got}) == 1
    waits = [later - before for before, later in pairwise(times)]
    assert waits[:6] == sorted(waits[:6])
    # It is not reported to itself, and an admin sends it again from its page.
    program.answers = []
    desk.sign_in()
    page = desk.get(f"/admin/deliveries/{row.id}").text
    assert "HTTP 401" in page
    assert "verification.ended" in page.casefold()
    desk.post(f"/admin/deliveries/{row.id}/retry", reason="the program is back")
    deliver(world)
    assert len(program.got) == row.attempts + 1
    assert program.got[-1].headers["webhook-id"] == program.got[0].headers["webhook-id"]
    assert [one.state for one in world.rows(Delivery) if one.kind == "webhook"] == ["accepted"]


def test_a_program_that_is_gone_is_switched_off_and_owners_hear_of_it(desk: Desk, program: Program) -> None:
    world = desk.world
    _secret, path = hook(desk, program.url, "verification.ended")
    verified(world, "reference-1")
    program.answers = [410]
    deliver(world)
    world.services.journeys.renew()
    verified(world, "reference-2")
    deliver(world)
    assert len(program.got) == 1
    assert "answered 410" in desk.get(path).text
    assert [event.kind for event in world.rows(AuditEvent) if event.kind == "webhook_endpoint_gone"]
    mails = [mail["subject"] for mail in world.receiver.messages if mail["kind"] == "mail"]
    assert any("A webhook was switched off" in subject for subject in mails)


@pytest.mark.parametrize("answer", [410, 500])
def test_what_an_old_address_answers_says_nothing_about_the_new_one(desk: Desk, program: Program, answer: int) -> None:
    """An owner changes the address while an event is on its way to the one before."""
    world = desk.world
    _secret, path = hook(desk, program.url, "verification.ended")
    verified(world, "reference-1")
    program.answers = [answer]
    changed = f"{program.url}?to=the-new-one"
    desk.get(path)
    program.meanwhile = lambda: desk.post(path, url=changed, events=["verification.ended"], active="1")
    deliver(world)
    program.meanwhile = lambda: None
    (stored,) = world.rows(WebhookEndpoint)
    assert (stored.is_active, stored.gone_at, stored.failing_since) == (True, None, None)
    assert "answered 410" not in desk.get(path).text
    world.services.journeys.renew()
    verified(world, "reference-2")
    deliver(world)
    assert program.got[-1].query_string == b"to=the-new-one"


def test_a_new_secret_overlaps_for_a_day(desk: Desk, program: Program) -> None:
    world = desk.world
    old, path = hook(desk, program.url, "verification.ended")
    verified(world, "reference-1")  # waits, and is signed with what is valid when it leaves
    desk.get(path)
    page = desk.post(f"{path}/secret").text
    found = re.search(r"whsec_[A-Za-z0-9+/=]+", page)
    assert found
    new = found.group(0)
    deliver(world)
    assert is_signed(program.got[0], old)
    assert is_signed(program.got[0], new)
    assert new not in desk.get(path).text
    stored = world.rows(WebhookEndpoint)[0]
    assert new.encode() not in stored.secret_sealed
    world.clock.advance(86_401)
    verified(world, "reference-2")
    deliver(world)
    assert is_signed(program.got[1], new)
    assert not is_signed(program.got[1], old)


def test_a_test_message_says_what_the_program_answered(desk: Desk, program: Program) -> None:
    _secret, path = hook(desk, program.url, "verification.ended")
    program.answers = [418]
    desk.get(path)
    desk.post(f"{path}/test")
    assert desk.path.startswith("/admin/deliveries/")
    deliver(desk.world)
    assert "HTTP 418" in desk.get(desk.path).text
    assert program.events[0]["type"] == "webhook.test"
    assert program.events[0]["data"] == {}


def test_d4_a_private_address_is_refused_on_the_page(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    targets = f"127.0.0.1:{receiver.server.server_port}"
    settings = {**STILL, "PORTAL_ALLOW_PRIVATE_CALLBACKS": "0", "PORTAL_PRIVATE_TARGETS": targets}
    with open_world(tmp_path, sqlite_url, receiver, settings=settings) as world:
        desk = signed_in(world)
        for url in ("http://crm.example/hook", "https://10.0.0.7/hook", "ftp://crm.example/", "hook", "https://[::1/"):
            desk.get(NEW)
            page = desk.post("/admin/api-keys/webhooks", url=url, events=["customer.changed"])
            assert page.status_code == 422, url
            assert 'id="url-fault"' in page.text or "aria-invalid" in page.text
        assert world.rows(WebhookEndpoint) == []
        desk.get(NEW)
        assert desk.post("/admin/api-keys/webhooks", url="https://crm.example/hook", events=["x"]).status_code == 422


def test_d5_a_dead_program_keeps_neither_answers_nor_messages_nor_other_programs_waiting(
    desk: Desk, program: Program
) -> None:
    """Its events have threads of their own, of which one target never has all."""
    world = desk.world
    hook(desk, program.url, "verification.ended")
    callbacks, messages, events = world.services.dispatcher.lanes
    assert [lane.kind for lane in (callbacks, messages, events)] == ["callback", "message", "webhook"]
    assert len({id(lane._crew) for lane in world.services.dispatcher.lanes}) == 3
    events._busy["dead.example"] = 3
    assert room(events._threads, events._busy, "dead.example") == 0
    assert room(events._threads, events._busy, "other.example") == 1
    verified(world, "reference-1")
    (row,) = pending(world)
    taken = [*callbacks.outbox.claim("callback", 50), *messages.outbox.claim("message", 50)]
    assert row.id not in {one.id for one in taken}  # which is also all that 0.1.0 claims


def test_e3_an_erased_customer_is_in_no_event(desk: Desk, program: Program) -> None:
    world = desk.world
    hook(desk, program.url)
    verified(world, "reference-1")
    row = world.services.customers.row_of("C-1001")
    known_by = world.services.customers.get(row).program_id
    world.services.erasure.erase(row)
    deliver(world)
    assert [one["data"] for one in program.events] == [{"id": known_by, "customer_id": None, "change": "erased"}]
    dropped = [one for one in world.rows(Delivery) if one.kind == "webhook" and one.state == "dropped"]
    assert [one.body_sealed for one in dropped] == [None]


def test_an_event_outlives_a_killed_dispatcher(desk: Desk, program: Program) -> None:
    world = desk.world
    hook(desk, program.url, "verification.ended")
    verified(world, "reference-1")
    lane = world.services.dispatcher.lanes[2]
    assert len(lane.outbox.claim("webhook", 5)) == 1  # and the process is killed before it sends
    deliver(world)
    assert program.got == []
    world.clock.advance(16)
    deliver(world)
    assert len(program.got) == 1
    assert [one.fate for one in world.rows(Attempt) if one.delivery_id == program.got[0].headers["webhook-id"]] == [
        "unknown",
        "accepted",
    ]


def test_an_end_costs_one_row_for_each_program_and_nothing_without_any(desk: Desk, program: Program) -> None:
    world = desk.world
    counts = []
    for number in range(2):
        browser = world.browser()
        browser.begin(f"reference-{number}", "app")
        world.clock.advance(31)
        world.services.journeys.current()
        world.services.journeys._read_at = float("inf")
        with world.statements() as seen:
            browser.prove(world.totp(), follow=False)
        counts.append(len(seen))
        world.services.journeys._read_at = 0.0
        hook(desk, program.url, "verification.ended")
    assert counts[1] == counts[0] + 1
    assert counts[0] <= 6


def test_the_description_of_the_api_says_what_a_program_gets(desk: Desk, program: Program) -> None:
    described = {
        name: one["post"]["requestBody"] for name, one in json.loads(DOCUMENT_FILE.read_text())["webhooks"].items()
    }
    assert described.keys() == EVENTS.keys()
    world = desk.world
    hook(desk, program.url)
    world.receiver.answers = [404]
    verified(world, "reference-1")
    deliver(world)
    row = world.services.customers.row_of("C-1001")
    world.services.customers.set_active(row, is_active=False)
    deliver(world)
    assert {event["type"] for event in program.events} == EVENTS.keys()
    for event in program.events:
        content = described[event["type"]]["content"]["application/json"]
        for one in (event, content["example"]):
            assert one.keys() == content["schema"]["properties"].keys()
            data = content["schema"]["properties"]["data"]["properties"]
            assert one["data"].keys() == data.keys()
            for name, about in data.items():
                assert one["data"][name] in about.get("enum", [one["data"][name]]), name


def test_d5_answers_to_the_chat_arrive_while_a_program_hangs(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, httpserver: HTTPServer
) -> None:
    """With the real threads: nine events wait for a program that answers none, and nine answers arrive."""
    may_answer, asked = threading.Event(), threading.Semaphore(0)

    def hang(_request: Request) -> Response:
        asked.release()
        may_answer.wait(GIVE_UP_SECONDS)
        return Response(status=204)

    httpserver.expect_request("/hook", method="POST").respond_with_handler(hang)
    with open_world(tmp_path, sqlite_url, receiver) as world:
        world.services.endpoints.create(httpserver.url_for("/hook"), ["verification.ended"], None)
        world.services.journeys.renew()
        try:
            for number in range(9):
                browser = world.browser()
                browser.open(f"reference-{number}")
                browser.post("/", decline="not_me", identifier="")
            assert asked.acquire(timeout=GIVE_UP_SECONDS)
            wait_for(lambda: len(receiver.callbacks) == 9)
            assert {row.state for row in world.rows(Delivery) if row.kind == "webhook"} == {"pending"}
        finally:
            may_answer.set()
        wait_for(lambda: {row.state for row in world.rows(Delivery) if row.kind == "webhook"} == {"accepted"})


def test_a_program_that_cannot_be_reached_shows_as_failing_and_then_as_well(desk: Desk, program: Program) -> None:
    world = desk.world
    _secret, path = hook(desk, "http://127.0.0.1:1/hook", "customer.changed")
    row = world.services.customers.row_of("C-1001")
    world.services.customers.set_active(row, is_active=False)
    deliver(world)
    (event,) = pending(world)
    assert event.reason.startswith("Not reached")
    assert "failing" in desk.get(path).text
    assert "customer.changed" not in desk.get(f"/admin/customers/{row}").text  # it was sent nothing
    desk.get(path)
    desk.post(path, url=program.url, events=["customer.changed"], active="1")  # what waits goes to the new address
    world.clock.advance(10)
    deliver(world)
    assert len(program.got) == 1
    assert "failing" not in desk.get(path).text


def hooked(world: World) -> list[Any]:
    return [row for row in world.rows(Delivery) if row.kind == "webhook"]


def tried_for(world: World, hours: float) -> None:
    """All tries of what waits within a time."""
    end = world.clock.now + timedelta(hours=hours)
    while (waits := [row.next_at for row in pending(world) if row.next_at <= end]) or world.clock.now < end:
        world.clock.advance(max(0.0, (min([*waits, end]) - world.clock.now).total_seconds()))
        deliver(world)
        world.services.alerts.look()
    world.services.journeys.renew()


def kinds(world: World) -> set[str]:
    return {row.kind for row in world.rows(AuditEvent) if row.kind.startswith("webhook_endpoint_")}


def subjects(world: World) -> list[str]:
    deliver(world, ("message",))
    return [mail["subject"] for mail in world.receiver.messages if mail["kind"] == "mail"]


def test_a_dead_program_is_paused_after_three_days_and_its_events_are_sent_again(desk: Desk, program: Program) -> None:
    world, url = desk.world, program.url
    _secret, path = hook(desk, url, "verification.ended")
    program.answers = [500] * 1000
    for day, hours in enumerate((23.5, 23.5, 24)):
        verified(world, f"reference-{day}")
        tried_for(world, hours)
        assert "webhook_endpoint_paused" not in kinds(world), day
    assert sum("A webhook keeps failing" in subject for subject in subjects(world)) == 1  # a warning, once
    (alert,) = [one for one in world.services.alerts.open(world.clock.now) if one.kind == "webhook"]
    assert "HTTP 500" in alert.text
    tried_for(world, 1.5)
    verified(world, "reference-3")
    deliver(world)
    assert "webhook_endpoint_paused" not in kinds(world)  # a first try proves little
    tried_for(world, 1)
    assert "webhook_endpoint_paused" in kinds(world)
    assert sum("A webhook was paused" in subject for subject in subjects(world)) == 1
    tries = len(program.got)
    verified(world, "reference-4")
    tried_for(world, 24)  # what waited, and what is new, is given up without another try
    assert len(program.got) == tries
    assert {row.state for row in hooked(world)} == {"given_up"}
    desk.sign_in()
    page = desk.get(path).text
    assert "Paused" in page
    assert "5 events" in page
    # A test is sent nevertheless; then the owner resumes it, and what was lost comes.
    program.answers = []
    desk.post(f"{path}/test")
    deliver(world)
    assert program.events[-1]["type"] == "webhook.test"
    assert "Paused" in desk.get(path).text
    desk.post(f"{path}/resume", replay="1")
    assert "5 events are being sent again" in desk.page.text
    deliver(world)
    assert len(program.got) == tries + 1 + 5
    lost = {row.id for row in hooked(world)} - {program.got[tries].headers["webhook-id"]}
    assert {request.headers["webhook-id"] for request in program.got[tries + 1 :]} == lost
    assert {row.state for row in hooked(world)} == {"accepted"}
    world.services.alerts.look()
    assert "webhook" not in {one.kind for one in world.services.alerts.open(world.clock.now)}
    page = desk.get(path).text
    assert "Paused" not in page
    assert "Send again" not in page
    assert {"webhook_endpoint_resumed", "webhook_endpoint_replayed"} <= kinds(world)
    assert any("A webhook was resumed" in subject for subject in subjects(world))


def test_a_program_that_answers_once_in_three_days_is_not_paused(desk: Desk, program: Program) -> None:
    world = desk.world
    hook(desk, program.url, "verification.ended")
    for day in range(4):
        program.answers = [500] * 1000
        verified(world, f"reference-{day}")
        tried_for(world, 23)
        program.answers = []
        tried_for(world, 2)
    assert kinds(world) == {"webhook_endpoint_created"}
    assert not any("keeps failing" in subject for subject in subjects(world))


def test_what_was_lost_can_be_sent_again_without_a_pause_and_not_what_was_erased(desk: Desk, program: Program) -> None:
    world = desk.world
    _secret, path = hook(desk, program.url, "verification.ended")
    program.answers = [500] * 1000
    verified(world, "reference-1")
    browser = world.browser()
    browser.open("reference-2")
    browser.post("/", decline="not_me", identifier="")
    tried_for(world, 25)
    world.services.erasure.erase(world.services.customers.row_of("C-1001"))
    tries, program.answers = len(program.got), []
    desk.sign_in()
    assert "1 event was given up" in desk.get(path).text
    desk.post(f"{path}/resume", replay="1")
    deliver(world)
    assert len(program.got) == tries + 1
    assert b"C-1001" not in program.got[-1].data


def test_what_was_lost_stays_while_a_webhook_is_off(desk: Desk, program: Program) -> None:
    """Sent again then, it would be dropped, and nothing could send it later."""
    world = desk.world
    _secret, path = hook(desk, program.url, "verification.ended")
    program.answers = [410]
    verified(world, "reference-1")
    deliver(world)
    assert "Send them again" not in desk.get(path).text
    desk.post(path, url=program.url, events=["verification.ended"], active="1")
    assert "Send them again" in desk.get(path).text
    endpoints, events = world.services.endpoints, {"verification.ended"}
    endpoints.change(path.rpartition("/")[2], program.url, events, is_active=False, admin_id=None)  # by another owner
    desk.post(f"{path}/resume", replay="1")
    assert "Nothing was sent: the webhook is off" in desk.page.text
    (lost,) = hooked(world)
    (result,) = world.services.retries.retry([lost.id], reason="they asked for it")
    assert result.refusal == "webhook_off"
    assert "Its webhook is off" in desk.get(f"/admin/deliveries/{lost.id}").text
    desk.get(path)
    deliver(world)
    assert {row.state for row in hooked(world)} == {"refused"}
    desk.post(path, url=program.url, events=list(events), active="1")
    desk.get(path)
    desk.post(f"{path}/resume", replay="1")
    deliver(world)
    assert {row.state for row in hooked(world)} == {"accepted"}


def test_two_webhooks_of_one_host_have_a_queue_each(desk: Desk, program: Program) -> None:
    """The dead one's events pile up and take threads; the other's leave."""
    world = desk.world
    hook(desk, program.url, "verification.ended")
    hook(desk, f"{program.url}?to=the-other", "verification.ended")
    verified(world, "reference-1")
    one, other = pending(world)
    assert one.target != other.target
    (host,) = {row.target.partition(" #")[0] for row in (one, other)}
    assert host == world.rows(WebhookEndpoint)[0].target
    lane = world.services.dispatcher.lanes[2]
    assert lane.outbox.has_due("webhook", [one.target])
    lane._busy[one.target] = 3  # all that it may have
    assert room(lane._threads, lane._busy, one.target) == 0
    assert room(lane._threads, lane._busy, other.target) == 1
    assert f"target={quote(one.target)}" in desk.get(f"{LIST}/webhooks/{world.rows(WebhookEndpoint)[0].id}").text


def test_only_owners_see_all_of_an_address(desk: Desk, program: Program) -> None:
    _secret, path = hook(desk, f"{program.url}/9f8e7d-secret?token=abc", "verification.ended")
    assert "9f8e7d-secret" in desk.get(path).text
    auditor = signed_in(desk.world, "auditor")
    page = auditor.get(path).text
    assert "9f8e7d-secret" not in page
    assert "token=abc" not in page
    assert f"{desk.world.rows(WebhookEndpoint)[0].target}/…" in page
