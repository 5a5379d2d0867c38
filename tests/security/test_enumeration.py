"""Nobody learns who is a customer: R24 (the same face for everybody) and R25 (one form of every name).

Times are compared by `python -m bench timing`; here it is all that can be compared exactly: status, headers, body, and the number and
shape of the statements that each request costs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from auth_portal.store.models import AuditEvent, CustomerRow
from tests.receiver import Receiver
from tests.security.tools import STILL, deliver, disable, face, results, wrong_totp
from tests.world import CONFIG, PASSWORD, PHONE, SHORT_PASSWORD, STANDARD, Browser, World, configure, open_world

PEOPLE = """customer_id,name,phone,email,locale,password,totp_secret
C-1005,Disabled,+27821110005,disabled@example.com,en,another battery staple horse,GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ
C-1006,Nothing On File,,,en,,
"""
STRANGER = "C-9999"
JOURNEYS = ["", "mail", "app", "password", "either", "transfer", "code-back"]
KNOWN = [
    "C-1001",
    "C-1002",
    "C-1003",
    "C-1005",
    "C-1006",
]  # all, no email, no password and shared contacts, disabled, none

Seen = list[tuple[Any, tuple[str, ...]]]


@contextmanager
def furnished(folder: Path, url: str, receiver: Receiver) -> Iterator[World]:
    configure(url, receiver, CONFIG + STANDARD, PEOPLE)
    with open_world(folder, url, receiver, settings=STILL) as world:
        disable(world, "C-1005")
        yield world


@pytest.fixture
def small_town(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    with furnished(tmp_path, sqlite_url, receiver) as world:
        yield world


@pytest.fixture
def town(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    with furnished(tmp_path, database_url, receiver) as world:
        yield world


class Walk:
    """One stranger or customer at every button, and all that was seen on the way."""

    def __init__(self, world: World, slug: str, typed: str, reference: str) -> None:
        self.world, self.slug, self.typed = world, slug, typed
        self.browser = Browser(world, "203.0.113.7")
        self.reference = reference
        self.seen: Seen = []

    def _note(self, page: TestResponse, statements: list[str]) -> None:
        shapes = tuple(re.sub(r"\s+", " ", statement)[:60] for statement in statements)
        status, headers, body = face(page, self.typed)
        self.seen.append(((status, headers, body.replace(self.reference, "REFERENCE")), shapes))

    def post(self, path: str, **fields: str) -> None:
        with self.world.statements() as statements:
            page = self.browser.post(path, follow=False, **fields)
        self._note(page, statements)
        self.get("/verify")

    def get(self, path: str) -> None:
        with self.world.statements() as statements:
            self.browser.get(path)
        self._note(self.browser.page, statements)

    def all(self) -> Seen:
        self.browser.open(self.reference, self.slug)
        self.post(f"/j/{self.slug}" if self.slug else "/", identifier=self.typed)
        if self.slug == "either":
            self.post("/verify/method", method="sms_code")
        self.wrong()
        if 'action="/verify/resend"' in self.browser.page.text:
            self.post("/verify/resend")
            self.world.clock.advance(31)
            self.post("/verify/resend")
            self.wrong()
        if 'action="/verify/method"' in self.browser.page.text:
            self.post("/verify/method", method="totp")
            self.wrong()
            self.post("/verify/method", method="email_code")
        self.post("/verify/change")
        self.post("/verify", identifier=self.typed)
        self.post("/verify/cancel", reason="no_code")
        return self.seen

    def wrong(self) -> None:
        if 'name="password"' in self.browser.page.text:
            self.post("/verify", password="not the right one at all")
        else:
            self.post("/verify", code="000000" if "totp" not in self.slug else wrong_totp(self.world))


def walked(world: World, slug: str, typed: str, reference: str) -> Seen:
    before = world.clock.now
    world.services.journeys.current()
    world.services.journeys._read_at = float("inf")  # no look at the version in between
    seen = Walk(world, slug, typed, reference).all()
    world.clock.now = before
    return seen


def assert_same(one: Seen, other: Seen, who: str = "") -> None:
    for number, (left, right) in enumerate(zip(one, other, strict=True)):
        assert left[0][2] == right[0][2], (number, who)
        assert left == right, (number, who)


@pytest.mark.parametrize("slug", JOURNEYS)
def test_r24_every_state_has_the_face_of_a_stranger(small_town: World, slug: str) -> None:
    walked(small_town, slug, "C-0000", "warm")
    stranger = walked(small_town, slug, STRANGER, "R-0")
    for number, known in enumerate(KNOWN, 1):
        assert_same(walked(small_town, slug, known, f"R-{number}"), stranger, known)


@pytest.mark.parametrize("slug", ["", "password", "either"])
def test_r24_on_both_databases(town: World, slug: str) -> None:
    walked(town, slug, "C-0000", "warm")
    assert_same(walked(town, slug, "C-1001", "R-1"), walked(town, slug, STRANGER, "R-2"))
    assert_same(walked(town, slug, "C-1005", "R-3"), walked(town, slug, "C-9998", "R-4"))


@pytest.mark.parametrize(
    ("slug", "known", "unknown"),
    [
        ("", "0845551234", "0845559999"),  # shared by two
        ("", "0821110005", "0845559999"),  # disabled
        ("", "0821234567", "0845559999"),
        ("mail", "family@example.com", "nobody@example.com"),
        ("mail", "thandi@example.com", "nobody@example.com"),
    ],
)
def test_r24_phones_and_mailboxes_as_well(small_town: World, slug: str, known: str, unknown: str) -> None:
    unknown = unknown.ljust(len(known), "m")
    walked(small_town, slug, "C-0000", "warm")
    assert_same(walked(small_town, slug, known, "R-1"), walked(small_town, slug, unknown, "R-2"))


def test_r24_a_spent_credential_does_not_show(small_town: World) -> None:
    for typed in ("C-1001", STRANGER):
        for number in range(4):
            browser = small_town.browser()
            browser.begin(f"R-{typed}-{number}", "app", typed)
            for _ in range(5):
                if browser.path == "/verify":
                    browser.prove(wrong_totp(small_town))
    walked(small_town, "app", "C-0000", "warm")
    walked(small_town, "either", "C-0000", "warm-too")
    assert_same(walked(small_town, "app", "C-1001", "R-1"), walked(small_town, "app", STRANGER, "R-2"))
    assert_same(walked(small_town, "either", "C-1001", "R-3"), walked(small_town, "either", STRANGER, "R-4"))


def test_r24_a_spent_destination_does_not_show(small_town: World) -> None:
    for typed in ("C-1001", STRANGER):
        for number in range(7):
            small_town.browser().begin(f"R-{typed}-{number}", "", typed)
    deliver(small_town)
    assert len(small_town.receiver.messages) == 5
    walked(small_town, "", "C-0000", "warm")
    assert_same(walked(small_town, "", "C-1001", "R-1"), walked(small_town, "", STRANGER, "R-2"))


def test_r24_a_number_that_cannot_be_reached_does_not_show(small_town: World) -> None:
    """What a provider says of one number is not told; only the state of the channel is, and to all."""
    small_town.receiver.sms_answers = [400] * 5
    pages = []
    for number, typed in enumerate(("C-1001", STRANGER)):
        browser = small_town.browser()
        browser.begin(f"R-{number}", "", typed)
        deliver(small_town)
        pages.append(face(browser.get("/verify"), typed))
    assert pages[0] == pages[1]


def test_r24_trouble_of_a_channel_is_told_to_all_alike(small_town: World) -> None:
    small_town.receiver.sms_answers = [503] * 50
    pages = {}
    for number, typed in enumerate(("C-1002", "C-1001", STRANGER)):
        browser = small_town.browser()
        browser.begin(f"R-{number}", "", typed)
        deliver(small_town)
        pages[typed] = face(browser.get("/verify"), typed)
    assert "having trouble sending" in pages["C-1001"][2]
    assert pages["C-1001"] == pages[STRANGER]


def test_r24_contacts_are_masked_and_shown_only_after_a_first_proof(small_town: World) -> None:
    browser = small_town.browser()
    browser.begin("R-1", "transfer")
    assert "567" not in browser.page.text
    browser.prove(PASSWORD)
    browser.post("/verify/method", method="sms_code")
    assert "567" in browser.page.text
    assert PHONE[1:] not in browser.page.text.replace(" ", "")
    assert PHONE[-6:] not in browser.page.text.replace(" ", "")


def test_r24_methods_narrow_only_after_a_first_proof(small_town: World) -> None:
    """C-1002 has no authenticator app: nobody sees that before his password was right."""
    other = small_town.browser()
    other.begin("R-1", "either", "C-1002")
    assert 'value="totp"' in other.page.text
    browser = small_town.browser()
    browser.begin("R-2", "transfer", "C-1002")
    browser.prove(SHORT_PASSWORD)
    assert 'value="totp"' not in browser.page.text


def test_r24_the_stranger_is_audited_and_ends_like_anyone(small_town: World) -> None:
    kinds = {}
    for typed in ("C-1001", STRANGER):
        before = {event.id for event in small_town.rows(AuditEvent)}  # each walk starts at the same time
        walked(small_town, "", typed, f"R-{typed}")
        kinds[typed] = [event.kind for event in small_town.rows(AuditEvent) if event.id not in before]
    assert sorted(kinds["C-1001"]) == sorted(kinds[STRANGER])


# -- R25 --------------------------------------------------------------------------------------------------------

FORMS = {
    "C-1001": ["C-1001", "c-1001", " C-1001 ", "C- 10 01", "\uff23-1001", "c-1001\u2003"],
    "phone": ["+27821234567", "0821234567", "082 123 4567", "0027821234567", "(082) 123-4567", "+27 (0)82 123 4567", "27821234567"],
    "email": ["thandi@example.com", "Thandi@Example.COM", " thandi@example.com "],
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMS)
def test_r25_every_form_names_the_same_person(small_still: World, kind: str) -> None:
    for number, typed in enumerate(FORMS[kind]):
        browser = small_still.browser()
        browser.begin(f"reference-{number}", "app", typed)
        small_still.clock.advance(90)
        browser.prove(small_still.totp())
        assert browser.path == "/done", typed
        deliver(small_still)
    assert {call.body["data"]["customer_id"] for call in small_still.receiver.callbacks} == {"C-1001"}
    assert len(small_still.receiver.callbacks) == len(FORMS[kind])


@pytest.mark.parametrize("kind", FORMS)
def test_r25_every_form_counts_as_one_change_of_person(small_still: World, kind: str) -> None:
    """The visible limits know one form too: writing a name otherwise is naming nobody else."""
    browser = small_still.browser()
    browser.begin("one", "app", FORMS[kind][0])
    for typed in FORMS[kind] * 2:
        browser.post("/verify/change")
        browser.post("/verify", identifier=typed)
        assert browser.page.status_code == 200
    assert 'action="/verify/change"' in browser.page.text


LOOKALIKES = [
    "th\u0430ndi@example.com", "thand\u0131@example.com", "thandi@ex\u0430mple.com", "\uff34handi@example.com",
    "thandi+x@example.com", "t.handi@example.com", "\uff0b27821234567\u0660", "C-l00l", "C-100\u0031\u0301",
]  # fmt: skip


def test_r25_a_lookalike_is_a_stranger(small_still: World) -> None:
    for number, typed in enumerate(LOOKALIKES):
        browser = small_still.browser()
        browser.begin(f"reference-{number}", "app", typed)
        if browser.path == "/verify":
            browser.prove(small_still.totp())
        assert browser.path != "/done", typed
    assert results(small_still) == []


def test_r25_dotless_i_is_nobodys_i(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    people = "customer_id,email,totp_secret\nM-1,mike@example.com,JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP\n"
    configure(sqlite_url, receiver, CONFIG + STANDARD, people)
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as world:
        for typed, passes in (
            ("m\u0131ke@example.com", False),
            ("MIKE@example.com", True),
            ("m\u0130ke@example.com", False),
        ):
            browser = world.browser()
            browser.begin(f"reference-{passes}-{len(typed.encode())}", "app", typed)
            if browser.path == "/verify":
                browser.prove(world.totp())
            assert (browser.path == "/done") is passes, typed
        assert len(world.rows(CustomerRow)) >= 5
