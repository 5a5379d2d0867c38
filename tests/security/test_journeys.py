"""Ways around the order of things: R35, R37, relayed links, and how results leave (D3, D5)."""

from __future__ import annotations

import itertools
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from auth_portal.errors import Misconfigured
from auth_portal.gateways.outbound import Outbound
from auth_portal.services.delivery.outbox import next_try_at, wait_seconds
from auth_portal.services.operations.dispatcher import room
from auth_portal.store.models import CALLBACK, Attempt, AuditEvent, Challenge, Delivery, Tries, Verification, Visit
from tests.receiver import GIVE_UP_SECONDS, Callback, Receiver, wait_for
from tests.security.tools import STILL, code_for, deliver, disable, results
from tests.world import CONFIG, PASSWORD, PHONE, Browser, World, configure, journey, open_world

# -- R35: the path chooses the journey, and the holder of the link can edit the path -----------------------------


@pytest.mark.parametrize("first", ["transfer", "app"])
def test_r35_the_strict_reference_passed_under_a_weaker_journey(still: World, first: str) -> None:
    """Whichever path was opened first: only a password and a code ever yield the text of ``transfer``."""
    attacker = still.browser()
    other = "app" if first == "transfer" else "transfer"
    attacker.open("strict-reference", other)  # both paths are open before either form is sent
    attacker.begin("strict-reference", first)
    attacker.open("strict-reference", other)
    attacker.name("C-1001")
    if 'name="password"' not in attacker.page.text:
        attacker.prove(still.totp())
        assert results(still) == ["verified_app"]
        assert still.receiver.callbacks[0].body["data"]["journey"] == "app"
    else:
        attacker.post("/verify", code=still.totp())
        assert results(still) == []


def test_r35_ended_and_begun_again_elsewhere(still: World) -> None:
    browser = still.browser()
    browser.begin("strict-reference", "transfer")
    browser.post("/verify/cancel", reason="cancelled")
    browser.open("strict-reference", "app")
    browser.post("/j/app", again="1", identifier="C-1001")
    browser.prove(still.totp())
    assert results(still) == ["verified_app"]  # the cancelled one was withdrawn


@pytest.mark.parametrize(
    ("strict", "lax"),
    [
        ('[journeys.results]\nverified = "ok"\n', '[journeys.results]\nverified = "ok"\n'),
        ('[journeys.results]\nverified = "ok"\n', '[journeys.results]\ncancelled = "ok"\n'),
        ('[journeys.results]\nverified = "failed"\nwrong = "no"\nexpired = "no"\ncancelled = "no"\nnot_me = "no"\nno_code = "no"\n'
         'unavailable = "no"\n', ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", [1, -1])
def test_r35_one_text_for_two_proofs_is_refused(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, strict: str, lax: str, order: int
) -> None:
    journeys = [journey("strict", "password", "totp", default=True) + strict, journey("lax", "totp") + lax]
    with pytest.raises(Misconfigured, match=r"strict|lax"):
        configure(sqlite_url, receiver, CONFIG + "".join(journeys[::order]))
    # At another server, or switched off, the same text answers nobody else's question.
    elsewhere = journeys[1].replace('server = "{receiver}"', 'server = "https://flow.example"')
    configure(sqlite_url, receiver, CONFIG + journeys[0] + elsewhere)


def test_r35_sharing_needs_both(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    def shared(slug: str, *, shares: bool) -> str:
        text = journey(slug, "totp", default=slug == "one") + '[journeys.results]\nverified = "ok"\n'
        return text.replace("relay_defence", f"shares_result = {str(shares).lower()}\nrelay_defence")

    with pytest.raises(Misconfigured):
        configure(sqlite_url, receiver, CONFIG + shared("one", shares=True) + shared("two", shares=False))
    configure(sqlite_url, receiver, CONFIG + shared("one", shares=True) + shared("two", shares=True))


# -- R37: only in order, each method once ------------------------------------------------------------------------


@contextmanager
def steps(folder: Path, url: str, receiver: Receiver, *verify: str) -> Iterator[World]:
    with open_world(folder, url, receiver, config=journey("steps", *verify, default=True), settings=STILL) as world:
        yield world


def test_r37_the_second_step_before_the_first(still: World) -> None:
    browser = still.browser()
    browser.begin("one", "transfer")
    code = still.totp()
    for path, fields in (
        ("/verify", {"code": code}),
        ("/verify", {"code": code, "password": ""}),
        ("/verify/method", {"method": "totp"}),
        ("/verify/method", {"method": "sms_code"}),
        ("/verify/method", {"method": "email_code"}),
        ("/verify/method", {"method": ""}),
        ("/verify", {"code": code}),
    ):
        form = browser.hidden("/verify")
        browser.client.post(path, data={**form, **fields}, base_url=browser.base_url)
        browser.get("/verify")
        assert 'name="password"' in browser.page.text
    assert not still.rows(Challenge)
    assert results(still) == []


def test_r37_a_method_that_passed_passes_no_second_step(tmp_path: Path, database_url: str, receiver: Receiver) -> None:
    with steps(tmp_path, database_url, receiver, "sms_code|totp", "sms_code|totp") as world:
        browser = world.browser()
        browser.begin("one")
        browser.post("/verify/method", method="sms_code")
        code = code_for(world, PHONE)
        browser.prove(code)
        assert "Step 2 of 2" in browser.page.text
        form = browser.hidden("/verify")
        for path, fields in (("/verify/method", {"method": "sms_code"}), ("/verify", {"code": code})):
            browser.client.post(path, data={**form, **fields}, base_url=browser.base_url)
            browser.get("/verify")
            form = browser.hidden("/verify")
            assert 'value="sms_code"' not in browser.page.text
        assert len(world.rows(Challenge)) == 1
        assert results(world) == []
        browser.prove(world.totp())
        assert results(world) == ["verified"]
        # No data on what is not configured; the audit knows both.
        (row,) = world.rows(Verification)
        assert row.methods == "sms_code+totp"


def test_r37_a_replayed_form_of_the_first_step_counts_nothing(still: World) -> None:
    browser = still.browser()
    browser.begin("one", "transfer")
    old = {**browser.hidden("/verify"), "password": PASSWORD}
    browser.prove(PASSWORD)
    for _ in range(3):
        assert browser.client.post("/verify", data=old, base_url=browser.base_url).status_code == 303
    browser.get("/verify")
    assert "Step 2 of 2" in browser.page.text
    assert still.rows(Verification)[0].wrong_tries == 0


def test_r37_changing_the_person_takes_the_proofs_away(still: World) -> None:
    """Whoever proved Sipho's password is not thereby half of Thandi."""
    browser = still.browser()
    browser.begin("one", "transfer")
    browser.prove(PASSWORD)
    browser.post("/verify/method", method="totp")
    browser.post("/verify/change")
    browser.post("/verify", identifier="C-1002")
    assert 'name="password"' in browser.page.text
    (visit,) = still.rows(Visit)
    assert (visit.step, visit.proved) == (1, "")
    browser.post("/verify/change")
    browser.post("/verify", identifier="C-1001")
    assert 'name="password"' in browser.page.text


def test_r37_naming_another_by_the_landing_page_takes_them_away_too(still: World) -> None:
    browser = still.browser()
    browser.begin("one", "transfer")
    browser.prove(PASSWORD)
    browser.begin("one", "transfer", "C-1002")
    assert 'name="password"' in browser.page.text


@pytest.mark.parametrize(
    "verify",
    [("sms_code", "sms_code"), ("sms_code|totp", "sms_code", "totp"), ("totp|password", "password|totp", "totp"), ()],
)
def test_r37_a_journey_that_could_leave_nothing_is_refused(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, verify: tuple[str, ...]
) -> None:
    with pytest.raises(Misconfigured, match="steps"):
        configure(sqlite_url, receiver, CONFIG + journey("bad", *verify, default=True))


def test_r37_after_a_first_proof_nothing_is_left_for_this_person(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    """C-1002 has a password and no authenticator app: the chat is told, and nobody is verified."""
    with steps(tmp_path, sqlite_url, receiver, "password", "totp") as world:
        browser = world.browser()
        browser.begin("one", identifier="C-1002")
        browser.prove("kudu-2026")
        assert browser.path == "/done"
        deliver(world)
        assert world.receiver.callbacks[0].body["data"]["outcome"] == "unavailable"


def test_r37_a_failing_database_never_verifies(still: World) -> None:
    for table in ("tries", "verifications", "visits", "deliveries", "audit_events", "customers", "challenges"):
        browser = still.browser()
        browser.begin(f"reference-{table}", "app")
        form = {**browser.hidden("/verify"), "code": still.totp()}
        with still.database.write() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO gone")
        answer = browser.client.post("/verify", data=form, base_url=browser.base_url)
        assert answer.status_code == 503, table
        assert int(answer.headers["Retry-After"]) > 0
        with still.database.write() as connection:
            connection.exec_driver_sql(f"ALTER TABLE gone RENAME TO {table}")
        (row,) = (row for row in still.rows(Verification) if row.outcome is None)
        assert row.wrong_tries == 0
        told = len(still.receiver.callbacks)
        assert deliver(still) == 0
        browser.client.post("/verify", data=form, base_url=browser.base_url)  # nothing was lost either
        assert results(still)[told:] == ["verified_app"], table
        still.clock.advance(30)


def test_r37_a_failing_limiter_begins_nothing(still: World) -> None:
    browser = still.browser()
    browser.open("one", "app")
    with still.database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE counters RENAME TO gone")
    assert browser.post("/j/app", follow=False, identifier="C-1001").status_code == 503
    assert not still.rows(Verification)


def test_r37_a_failing_channel_never_verifies(still: World) -> None:
    still.receiver.sms_answers = [500] * 50
    browser = still.browser()
    browser.begin("one")
    deliver(still)
    for typed in ("000000", "", "123456"):
        browser.prove(typed)
    assert browser.path == "/verify"
    assert results(still) == []


@contextmanager
def password_being_checked(world: World, browser: Browser) -> Iterator[list[int]]:
    """What happens between the reserving of a try for a right password and its settling; then the answer's status."""
    form = {**browser.hidden("/verify"), "password": PASSWORD}
    statuses: list[int] = []
    gate = world.services.methods["password"]._passwords._running  # type: ignore[attr-defined]
    slots = 0
    while gate.acquire(blocking=False):
        slots += 1  # so that the check waits
    thread = threading.Thread(
        target=lambda: statuses.append(browser.client.post("/verify", data=form, base_url=browser.base_url).status_code)
    )
    thread.start()
    wait_for(lambda: world.rows(Verification)[0].wrong_tries == 1)
    yield statuses
    for _ in range(slots):
        gate.release()
    thread.join()


def test_r37_the_password_page_left_while_it_is_checked(still: World) -> None:
    """A second tab changes the person meanwhile: no success, and no fault."""
    browser = still.browser()
    browser.begin("one", "password")
    other = still.browser()
    other.client._cookies = browser.client._cookies  # the same browser
    with password_being_checked(still, browser) as statuses:
        other.get("/verify")
        other.post("/verify/change")
    assert statuses == [303]
    (row,) = still.rows(Verification)
    assert (row.outcome, row.wrong_tries) == (None, 1)
    assert [tries.total for tries in still.rows(Tries)] == [1]
    assert [event.facts["method"] for event in still.rows(AuditEvent) if event.kind == "proof_failed"] == ["password"]


def test_r37_a_customer_who_is_disabled_while_the_password_is_checked_is_not_verified(small_still: World) -> None:
    browser = small_still.browser()
    browser.begin("one", "password")
    with password_being_checked(small_still, browser) as statuses:
        disable(small_still, "C-1001")
    assert statuses == [422]
    assert results(small_still) == []


def test_r37_a_chat_that_ends_while_the_password_is_checked_is_not_verified(small_still: World) -> None:
    browser = small_still.browser()
    browser.begin("one", "password")
    with password_being_checked(small_still, browser) as statuses:
        small_still.clock.now = small_still.rows(Verification)[0].proofs_until
    assert statuses == [303]
    assert results(small_still) == ["failed"]


def test_r37_a_code_that_was_sent_to_a_former_number_is_wrong(small_still: World) -> None:
    browser = small_still.browser()
    browser.begin("one")
    code = code_for(small_still, PHONE)
    row = small_still.services.customers.row_of("C-1001")
    assert not small_still.services.customers.change(row, {"phone": "+27821234999"}, is_active=True).faults
    assert browser.prove(code, follow=False).status_code == 422
    assert results(small_still) == []


# -- link relay --------------------------------------------------------------------------------------------------


def test_relay_without_a_defence_brings_the_answer_to_the_attackers_chat(still: World) -> None:
    """What the defence is for: the reference is the attacker's, the browser and the phone are the victim's."""
    victim = still.browser("198.51.100.7")
    victim.begin("reference-of-the-attackers-chat")
    assert "It wasn't me" in victim.page.text
    victim.prove(code_for(still, PHONE))
    assert results(still) == ["verified"]


def test_relay_with_a_chat_code_the_attacker_gets_no_code(still: World) -> None:
    reference = "reference-of-the-attackers-chat"
    attackers = [still.browser("203.0.113.66") for _ in range(3)]
    for number, attacker in enumerate(attackers[:2]):
        attacker.begin(reference, "code-back", ["C-9999", "C-1001"][number])
    attackers[2].open(reference, "code-back")
    victim = still.browser("198.51.100.7")
    victim.begin(reference, "code-back")
    victim.prove(code_for(still, PHONE))
    assert results(still) == ["check_code_code-back"]  # never the text of a finished check
    code = still.receiver.callbacks[0].body["data"]["chat_code"]
    assert re.fullmatch(r"\d{6}", code)
    assert code in victim.page.text.replace(" ", "")
    for attacker in attackers:
        for path in ("/done", "/verify", f"/j/code-back?reference={reference}", f"/?reference={reference}"):
            assert code not in attacker.get(path).text.replace(" ", "")
    page = attackers[2].begin(reference, "code-back")
    assert code not in page.text.replace(" ", "")
    assert "already used this link" in page.text


def test_relay_a_chat_code_is_new_each_time_and_sealed(still: World) -> None:
    codes = []
    for number in range(4):
        browser = still.browser()
        browser.begin(f"reference-{number}", "code-back")
        browser.prove(code_for(still, PHONE))
        deliver(still)
        codes.append(still.receiver.callbacks[-1].body["data"]["chat_code"])
    assert len(set(codes)) >= 3
    assert codes[0].encode() not in still.rows(Verification)[0].chat_code_sealed


def test_relay_a_planted_visit_of_another_verification_is_not_taken_up(still: World) -> None:
    """The attacker plants the cookie of his own visit; the victim's landing page makes a visit of her own."""
    attacker = still.browser()
    attacker.begin("his", "code-back")
    victim = still.browser()
    planted = attacker.client.get_cookie("verification", domain="127.0.0.1")
    assert planted is not None
    victim.client.set_cookie("verification", planted.value, domain="127.0.0.1")
    victim.begin("hers", "code-back")
    assert len(still.rows(Visit)) == 2
    victim.prove(code_for(still, PHONE))
    deliver(still)
    assert [call.header for call in still.receiver.callbacks] == ["hers"]
    assert attacker.get("/verify").request.path == "/verify"


# -- D3: when it is tried again ----------------------------------------------------------------------------------


class Waiting(Receiver):
    """A Flow that is down, and may say for how long."""

    retry_after = ""

    def _answer(self, handler: BaseHTTPRequestHandler, answer: int | str, callback: Callback | None) -> None:  # type: ignore[override]
        if self.retry_after and callback is not None:
            handler.send_response_only(int(answer))
            handler.send_header("Retry-After", self.retry_after)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        else:
            Receiver._answer(handler, answer, callback)


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    running = Waiting()
    yield running
    running.close()


def tried_at(world: World, seconds: int) -> list[float]:
    """Seconds after the first attempt at which each one began, with the clock moved from one due time to the next."""
    end = world.clock.now + timedelta(seconds=seconds)
    while deliver(world, (CALLBACK,)) and world.clock.now < end:
        pending = [row.next_at for row in world.rows(Delivery) if row.state == "pending"]
        world.clock.now = min([*pending, end])
    attempts = sorted(world.rows(Attempt), key=lambda row: row.number)
    return [(row.began_at - attempts[0].began_at).total_seconds() for row in attempts]


def waits(moments: list[float]) -> list[float]:
    return [later - sooner for sooner, later in itertools.pairwise(moments)]


def verified(world: World, slug: str = "app") -> Browser:
    browser = world.browser()
    browser.begin("one", slug)
    browser.prove(world.totp())
    assert browser.path == "/done"
    return browser


def test_d3_the_waits_then_each_minute_then_five_seconds_before_the_end(still: World) -> None:
    still.receiver.answers = [503] * 100
    verified(still)
    moments = tried_at(still, 600)
    found = waits(moments)
    assert found[:7] == [0, 1, 2, 5, 10, 20, 40]
    assert all(54 <= wait <= 67 for wait in found[7:-1])
    assert moments[-1] == 540 - 5  # the chat began a minute before the page was made
    (row,) = still.rows(Delivery)
    assert row.state == "given_up"
    assert len({call.raw for call in still.receiver.callbacks}) == 1


def test_d3_later_waits_have_jitter(still: World) -> None:
    now = still.clock.now
    found = {next_try_at(wait_seconds(9), now, now + timedelta(hours=1)) for _ in range(50)}
    seconds = [(moment - now).total_seconds() for moment in found if moment]
    assert len(found) > 40
    assert min(seconds) >= 54
    assert max(seconds) <= 66


@pytest.mark.parametrize(
    ("said", "second"), [("30", 30), ("0", 0), ("Sun, 22 Nov 2026 12:01:30 GMT", 90), ("soon", 0), ("-5", 0)]
)
def test_d3_retry_after_is_honoured(tmp_path: Path, sqlite_url: str, waiting: Waiting, said: str, second: int) -> None:
    with open_world(tmp_path, sqlite_url, waiting, settings=STILL) as world:
        waiting.answers, waiting.retry_after = [429, 200], said
        verified(world)
        assert tried_at(world, 100) == [0, second]
        assert world.rows(Delivery)[0].state == "accepted"


def test_d3_beyond_the_end_one_last_try(tmp_path: Path, sqlite_url: str, waiting: Waiting) -> None:
    with open_world(tmp_path, sqlite_url, waiting, settings=STILL) as world:
        waiting.answers, waiting.retry_after = [503, 503, 503], "86400"
        verified(world)
        assert tried_at(world, 600) == [0, 535]
        assert world.rows(Delivery)[0].state == "given_up"


def test_d3_final_answers_are_final(small_still: World) -> None:
    final = [301, 302, 307, 308, 400, 401, 403, 404, 410, 422]
    small_still.receiver.answers = [*final]
    for number in range(len(final)):
        browser = small_still.browser()
        browser.open(f"reference-{number}")
        browser.post("/", decline="not_me", identifier="")
        deliver(small_still)
    small_still.clock.advance(60)
    assert deliver(small_still) == 0
    assert {row.state for row in small_still.rows(Delivery)} == {"refused"}
    assert [call.status for call in small_still.receiver.callbacks] == final


def test_d3_nothing_leaves_after_the_chat_has_ended(still: World) -> None:
    still.receiver.answers = [503, 503]  # the second try follows at once, the third a second later
    verified(still)
    deliver(still)
    still.clock.advance(541)
    deliver(still)
    assert len(still.receiver.callbacks) == 2
    assert still.rows(Delivery)[0].state == "given_up"


@pytest.mark.parametrize(("seconds", "state"), [(541, "accepted"), (659, "accepted"), (661, "given_up")])
def test_d15_a_result_that_was_never_tried_may_be_late(small_still: World, seconds: int, state: str) -> None:
    """The chat may have begun up to 120 s later than the portal assumes."""
    verified(small_still)
    small_still.clock.advance(seconds)
    deliver(small_still)
    assert len(small_still.receiver.callbacks) == (state == "accepted")
    assert small_still.rows(Delivery)[0].state == state


def test_a_message_whose_sender_was_held_up_is_sent(small_still: World) -> None:
    """The attempt that was not made counts nothing, and is no reason to withhold the message."""
    small_still.browser().begin("one")
    lane = small_still.services.dispatcher.lanes[1]
    (held_up,) = lane.outbox.claim(lane.kind, 1)
    small_still.clock.advance(10)
    lane.deliver(held_up)
    assert not small_still.receiver.messages
    deliver(small_still)
    assert len(small_still.receiver.messages) == 1


# -- D5: one that hangs slows no other ---------------------------------------------------------------------------


class Stuck(Receiver):
    """A Flow that takes everything and answers nothing, until it is let go."""

    def __post_init__(self) -> None:
        self.let_go = threading.Event()
        super().__post_init__()

    def _answer(self, handler: BaseHTTPRequestHandler, answer: int | str, callback: Callback | None) -> None:  # type: ignore[override]
        self.let_go.wait()
        Receiver._answer(handler, answer, callback)


def test_d5_a_claim_takes_no_more_than_it_may(still: World) -> None:
    """PostgreSQL may run a subquery with SKIP LOCKED again for every row, and so claim all that is due."""
    for number in range(12):
        browser = still.browser()
        browser.open(f"reference-{number}")
        browser.post("/", decline="not_me", identifier="")
    outbox = still.services.dispatcher.lanes[0].outbox
    for most in (1, 1, 3, 4):
        assert len(outbox.claim(CALLBACK, most)) == most
    assert len(outbox.claim(CALLBACK, 10)) == 3


def _has_taken(stuck: Stuck, count: int) -> bool:
    return len(stuck.callbacks) == count


def test_d5_a_slow_server_is_no_queue(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten people end at once: all ten results are on their way before the first one is answered."""
    defaults = {**(Outbound.request.__kwdefaults__ or {}), "total_seconds": 2 * GIVE_UP_SECONDS}
    monkeypatch.setattr(Outbound.request, "__kwdefaults__", defaults)
    stuck = Stuck()
    config = journey("stuck", "totp", default=True, server=stuck.origin)
    with open_world(tmp_path, sqlite_url, receiver, config=config) as world:
        try:
            for number in range(10):
                browser = world.browser()
                browser.begin(f"stuck-{number}")
                browser.post("/verify/cancel", reason="cancelled")
            wait_for(partial(_has_taken, stuck, 10))
        finally:
            stuck.let_go.set()
            stuck.close()


@pytest.mark.parametrize("threads", [2, 8, 32, 256])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 10])
def test_d5_however_many_servers_are_dead_the_next_one_is_served(threads: int, count: int) -> None:
    """Each dead one takes what it may, again and again as its posts end; then another target appears."""
    busy: Counter[str] = Counter()
    for _round in range(200):
        for number in range(count):
            dead = f"dead-{number}"
            busy[dead] = max(0, busy[dead] - 1)  # a post of it timed out
            busy[dead] += max(0, room(threads, busy, dead))
    assert busy.total() <= threads
    if threads > 4 * count:
        assert room(threads, busy, "alive") >= 1
    assert room(threads, Counter(), "alone") == max(1, threads * 3 // 4)


def test_d5_another_journey_is_told_at_once(
    tmp_path: Path, database_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three results hang, then five more fall due at the same moment: two of the eight threads stay free."""
    defaults = {**(Outbound.request.__kwdefaults__ or {}), "total_seconds": 2 * GIVE_UP_SECONDS}
    monkeypatch.setattr(Outbound.request, "__kwdefaults__", defaults)  # those that hang do so until they are let go
    stuck = Stuck()
    config = journey("app", "totp", default=True) + journey("stuck", "totp", server=stuck.origin)
    settings = {"PORTAL_CALLBACK_THREADS": "8"}
    with open_world(tmp_path, database_url, receiver, config=config, settings=settings) as world:
        try:
            browsers = [world.browser() for _ in range(8)]
            for number, browser in enumerate(browsers):
                browser.begin(f"stuck-{number}", "stuck")
            for number, browser in enumerate(browsers[:3], 1):
                browser.post("/verify/cancel", reason="cancelled")
                wait_for(partial(_has_taken, stuck, number))
            world.clock.advance(496)
            wait_for(lambda: len(stuck.callbacks) > 3)
            other = world.browser()
            other.begin("other", "app")
            other.prove(world.totp())
            wait_for(lambda: receiver.callbacks)
            assert receiver.callbacks[0].header == "other"
            assert len(stuck.callbacks) == 6  # three times as many as are left free
        finally:
            stuck.let_go.set()
            stuck.close()
