"""A model of what may happen, compared with the portal at each of some thousand steps.

Hypothesis plays browsers, Flow and time against one portal: links are opened and shared, identifiers typed and changed,
right, wrong, old and foreign codes entered, Flow answers with faults, the clock jumps. The model knows only what was
typed where and what was sent to which contact, and from that what Flow may be sent. It decides by Flow's own log.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from auth_portal.store.models import CALLBACK, Delivery, Verification
from tests.receiver import Answer, Receiver
from tests.security.tools import STILL, deliver, expire
from tests.world import CONFIG, PASSWORD, PHONE, SHORT_PASSWORD, STANDARD, Browser, World, journey, open_world

NAMES = {
    "C-1001": "C-1001",
    PHONE: "C-1001",
    "thandi@example.com": "C-1001",
    "C-1002": "C-1002",
    "C-1003": "C-1003",
    "C-9999": "",  # no customer
    "family@example.com": "",  # two customers have it
}
PHONES = {PHONE: "C-1001", "+27831234567": "C-1002"}  # what several customers share gets no code
MAILS = {"thandi@example.com": "C-1001"}
PASSWORDS = {"C-1001": PASSWORD, "C-1002": SHORT_PASSWORD}
STEPS: dict[str, tuple[frozenset[str], ...]] = {
    "balance": (frozenset({"sms"}),),
    "mail": (frozenset({"mail"}),),
    "app": (frozenset({"totp"}),),
    "either": (frozenset({"sms", "mail", "totp"}),),
    "transfer": (frozenset({"password"}), frozenset({"sms", "totp"})),
    "brief": (frozenset({"sms"}), frozenset({"totp"})),
}
CONFIGURED = STANDARD + journey("brief", "sms_code", "totp", chat_seconds=120)
LINKS = ("new", "new", "newest", "any")  # an old link is opened again as often as a new one comes
WHO = st.sampled_from([0, 0, 0, 1])  # mostly one browser goes on, and now and then another one interferes
CODE_SECONDS, DRIFT_STEPS, MOST_WRONG = 300, 1, 5
Worlds = Callable[[], AbstractContextManager[World]]


@dataclass
class Sitting:
    """What one browser has been through since it last opened a link or gave an identifier."""

    browser: Browser
    reference: str = ""
    slug: str = ""
    person: str = ""
    proofs: list[set[str]] = field(default_factory=list)  # each right entry, by all methods that it could be of


def _moves(weight: int, move: str, /, **arguments: st.SearchStrategy[Any]) -> list[st.SearchStrategy[Any]]:
    return weight * [st.tuples(st.just(move), st.fixed_dictionaries(arguments))]


MOVES = st.one_of(
    *_moves(
        3,
        "open_link",
        who=WHO,
        link=st.sampled_from(LINKS),
        old=st.integers(0, 9),
        slug=st.sampled_from(sorted(STEPS)),
        name=st.sampled_from(["C-1001", PHONE, *sorted(NAMES)]),
        interrupts=st.sampled_from([False, False, True]),
        waits=st.sampled_from([0, 0, 0, 0, 31, 301]),
        proofs=st.integers(0, 2),
    ),
    *_moves(1, "give_another_name", who=WHO, name=st.sampled_from(sorted(NAMES))),
    *_moves(1, "choose", who=WHO, method=st.sampled_from(["sms_code", "email_code", "totp", "password"])),
    *_moves(1, "resend", who=WHO),
    *_moves(1, "cancel", who=WHO, really=st.booleans()),
    *_moves(1, "enter_app_code", who=WHO, shift=st.integers(-3, 3)),
    *_moves(1, "enter_sent_code", who=WHO, newest=st.integers(1, 4)),
    *_moves(1, "enter_wrong_codes", who=WHO, times=st.sampled_from([1, 1, 4, 6])),
    *_moves(1, "enter_password", who=WHO, password=st.sampled_from([PASSWORD, SHORT_PASSWORD, "a wrong password"])),
    *_moves(2, "enter_right_proof", who=WHO, again=st.booleans()),
    *_moves(1, "flow_answers", answers=st.lists(st.sampled_from([500, 503, 429, 400, "close"]), max_size=3)),
    *_moves(2, "deliver"),
    *_moves(2, "time_passes", seconds=st.sampled_from([1, 5, 20, 31, 61, 150, 299, 301])),
)


class Conversations(RuleBasedStateMachine):
    """Browsers, Flow and time, and what they may lead to."""

    worlds: Worlds
    endings: Counter[str]  # what Flow was sent, in all runs

    def __init__(self) -> None:
        super().__init__()
        self.closing = ExitStack()
        self.world = self.closing.enter_context(self.worlds())
        self.sittings = [Sitting(self.world.browser(f"203.0.113.{number}")) for number in range(2)]
        self.links: list[str] = []
        self.sent: list[tuple[str, str, str, str, float]] = []  # code, person, reference, kind, when it left
        self.may_verify: set[tuple[str, str]] = set()  # reference and person
        self.seen_success: set[str] = set()  # references whose browser was shown the success page
        self.wrong: defaultdict[str, int] = defaultdict(int)
        self.begun: set[str] = set()

    @rule(move=MOVES)
    def move(self, move: tuple[str, dict[str, Any]]) -> None:
        """One rule for all moves: Hypothesis leaves out some rules in each run, and without links nothing happens."""
        name, arguments = move
        getattr(self, name)(**arguments)

    # -- What browsers do

    def open_link(
        self, who: int, link: str, old: int, slug: str, name: str, interrupts: bool, waits: int, proofs: int
    ) -> None:
        """Open a link, give a name, and go on as an honest customer would, soon or late, as far as it goes."""
        sitting = self.sittings[who]
        if self._has_form(sitting, "/verify") and not interrupts:
            return
        if link == "new" or not self.links:
            self.links.append(f"r-{len(self.links)}")
        reference = self.links[old % len(self.links) if link == "any" else -1]
        sitting.browser.open(reference, slug)
        page = sitting.browser.page.text
        if 'name="identifier"' not in page or 'name="again"' in page:  # it has ended, and would begin once more
            return
        sitting.browser.name(name)
        if sitting.browser.path in ("/verify", "/done"):
            sitting.reference, sitting.slug, sitting.person, sitting.proofs = reference, slug, NAMES[name], []
            self.begun.add(reference)
            self._collect(sitting)
            self.world.clock.advance(waits)
            for _ in range(proofs):
                self._enter_right_proof(sitting)

    def give_another_name(self, who: int, name: str) -> None:
        sitting = self.sittings[who]
        if self._has_form(sitting, "/verify/change"):
            sitting.browser.post("/verify/change")
        if 'name="identifier"' in self._page(sitting) and self._has_form(sitting, "/verify"):
            sitting.browser.post("/verify", identifier=name)
            if 'name="identifier"' not in self._page(sitting):
                sitting.person, sitting.proofs = NAMES[name], []
            self._collect(sitting)

    def choose(self, who: int, method: str) -> None:
        sitting = self.sittings[who]
        if self._has_form(sitting, "/verify/method"):
            sitting.browser.post("/verify/method", method=method)
            self._collect(sitting)

    def resend(self, who: int) -> None:
        sitting = self.sittings[who]
        if self._has_form(sitting, "/verify/resend"):
            sitting.browser.post("/verify/resend")
            self._collect(sitting)

    def cancel(self, who: int, really: bool) -> None:
        sitting = self.sittings[who]
        if really and self._has_form(sitting, "/verify/cancel"):
            sitting.browser.post("/verify/cancel", reason="cancelled")

    def enter_app_code(self, who: int, shift: int) -> None:
        self._enter(self.sittings[who], self.world.totp(shift))

    def enter_sent_code(self, who: int, newest: int) -> None:
        if self.sent:
            self._enter(self.sittings[who], self.sent[-min(newest, len(self.sent))][0])

    def enter_wrong_codes(self, who: int, times: int) -> None:
        known = {code for code, *_ in self.sent} | {self.world.totp(shift) for shift in range(-4, 5)}
        for _ in range(times):
            self._enter(self.sittings[who], next(code for code in map("{:06d}".format, range(99)) if code not in known))

    def enter_password(self, who: int, password: str) -> None:
        if 'name="password"' in self._page(self.sittings[who]):
            self._enter(self.sittings[who], password)

    def enter_right_proof(self, who: int, again: bool) -> None:
        """What an honest customer does, so that chance need not find it."""
        sitting = self.sittings[who]
        for _ in range(1 + again):
            self._enter_right_proof(sitting)

    # -- What Flow and time do

    def flow_answers(self, answers: list[Answer]) -> None:
        self.world.receiver.answers = answers

    def deliver(self) -> None:
        deliver(self.world, (CALLBACK,))

    def time_passes(self, seconds: int) -> None:
        self.world.clock.advance(seconds)
        expire(self.world)

    # -- What must hold

    @invariant()
    def flow_got_only_what_was_earned(self) -> None:
        by_reference = defaultdict(list)
        for call in self.world.receiver.callbacks:
            by_reference[call.header].append(call)
        for reference, calls in by_reference.items():
            assert len({call.raw for call in calls}) == 1, "two bodies for one chat"
            statuses = [call.status for call in calls]
            assert all(status not in (200, 400) for status in statuses[:-1]), "a post after a final answer"
            body = calls[0].body
            if body["data"]["outcome"] == "verified":
                assert (reference, body["data"]["customer_id"]) in self.may_verify, "verified without a right proof"
            else:
                assert reference not in self.seen_success, "a success that was shown is lost"

    @invariant()
    def nothing_is_judged_beyond_the_limit(self) -> None:
        assert all(count <= MOST_WRONG for count in self.wrong.values())

    def teardown(self) -> None:
        try:
            self.world.receiver.answers = []
            deliver(self.world, (CALLBACK,))
            self.world.clock.advance(61)  # what Flow refused for now is due again
            deliver(self.world, (CALLBACK,))
            self.world.clock.advance(700)
            expire(self.world)
            deliver(self.world, (CALLBACK,))
            self.flow_got_only_what_was_earned()
            assert all(row.outcome is not None for row in self.world.rows(Verification))
            found = [row for row in self.world.rows(Delivery) if row.kind == CALLBACK]
            assert len(found) == len(self.world.rows(Verification)) == len(self.begun)
            assert all(row.state != "pending" for row in found)
            self.endings.update(row.outcome for row in self.world.rows(Verification))
            answered = {call.header for call in self.world.receiver.callbacks if call.status == 200}
            assert sum(row.state == "accepted" for row in found) == len(answered)
        finally:
            self.closing.close()

    # -- How the model follows

    def _enter_right_proof(self, sitting: Sitting) -> None:
        if 'name="method" value="totp"' in self._page(sitting) and "either" not in sitting.slug:
            sitting.browser.post("/verify/method", method="totp")
        if 'name="password"' in self._page(sitting):
            self._enter(sitting, PASSWORDS.get(sitting.person, PASSWORD))
        elif 'name="code"' in self._page(sitting):
            of = (sitting.person, sitting.reference)
            own = [code for code, person, reference, *_ in self.sent if (person, reference) == of]
            is_sent = own and self._has_form(sitting, "/verify/resend")
            self._enter(sitting, own[-1] if is_sent else self.world.totp())

    def _page(self, sitting: Sitting) -> str:
        return sitting.browser.page.text if hasattr(sitting.browser, "page") else ""

    def _has_form(self, sitting: Sitting, path: str) -> bool:
        page = self._page(sitting)
        can_stop = path == "/verify/cancel" and 'href="/verify/stop' in page  # its form is on a page of its own
        return f'action="{path}"' in page or can_stop

    def _enter(self, sitting: Sitting, typed: str) -> None:
        page = self._page(sitting)
        field_name = next((name for name in ("code", "password") if f'name="{name}"' in page), None)
        if field_name is None:
            return
        could_be, before = self._could_be(sitting, typed), list(sitting.proofs)
        if could_be:
            sitting.proofs.append(could_be)
            if self._is_complete(sitting):
                self.may_verify.add((sitting.reference, sitting.person))
        sitting.browser.post("/verify", **{field_name: typed})
        if sitting.browser.page.status_code == 422:
            sitting.proofs = before
            if not could_be:
                self.wrong[sitting.reference] += 1
        elif 'class="seal good"' in self._page(sitting):
            self.seen_success.add(sitting.reference)
        self._collect(sitting)

    def _could_be(self, sitting: Sitting, typed: str) -> set[str]:
        """The methods by which this is a right proof of the person of this browser, now."""
        now = self.world.clock.now.timestamp()
        found = {
            kind
            for code, person, reference, kind, at in self.sent
            if (code, person, reference) == (typed, sitting.person, sitting.reference) and now < at + CODE_SECONDS
        }
        near = {self.world.totp(shift) for shift in range(-DRIFT_STEPS, DRIFT_STEPS + 1)}
        if sitting.person == "C-1001" and typed in near:
            found.add("totp")
        if sitting.person and PASSWORDS.get(sitting.person) == typed:
            found.add("password")
        return found

    def _is_complete(self, sitting: Sitting) -> bool:
        """Whether some journey's steps were passed: a reference can be opened under the path of any."""
        return any(
            len(steps) <= len(sitting.proofs)
            and all(any(step & proof for proof in sitting.proofs[place:]) for place, step in enumerate(steps))
            for steps in STEPS.values()
        )

    def _collect(self, sitting: Sitting) -> None:
        """Let messages leave; whatever leaves now was asked for by this browser."""
        before = len(self.world.receiver.messages)
        deliver(self.world, ("message",))
        for message in self.world.receiver.messages[before:]:
            person = (PHONES if message["kind"] == "sms" else MAILS).get(message["to"])
            if person is not None and person == sitting.person:
                code = message["text"].split()[0]
                self.sent.append((code, person, sitting.reference, message["kind"], self.world.clock.now.timestamp()))


@pytest.fixture
def worlds(request: pytest.FixtureRequest, receiver: Receiver) -> Worlds:
    """A new, empty portal each time."""
    template = request.getfixturevalue("_sqlite_template")

    @contextmanager
    def one() -> Iterator[World]:
        receiver.callbacks.clear()
        receiver.messages.clear()
        receiver.answers = []
        with TemporaryDirectory() as name:
            folder = Path(name)
            shutil.copy(template, folder / "portal.db")
            url = f"sqlite:///{folder / 'portal.db'}"
            with open_world(folder, url, receiver, base=CONFIG, config=CONFIGURED, settings=STILL) as world:
                yield world

    return one


def test_two_thousand_random_steps_keep_to_the_model(worlds: Worlds) -> None:
    """The same steps in each run, so that a green run stays green; ``make campaign`` plays others."""
    Conversations.worlds = staticmethod(worlds)
    Conversations.endings = Counter()
    run_state_machine_as_test(
        Conversations,
        settings=settings(
            max_examples=40,
            stateful_step_count=50,
            derandomize=True,
            phases=(Phase.generate,),  # a shorter way to the same fault would take minutes to find
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert min(Conversations.endings[outcome] for outcome in ("verified", "wrong", "expired", "cancelled")) >= 3, (
        f"the steps lead nowhere: {Conversations.endings}"
    )
