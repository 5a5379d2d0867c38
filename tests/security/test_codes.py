"""Codes that are sent, and codes of an app: R1 to R5, R10, R13, R15 to R18."""

from __future__ import annotations

import base64
import hmac
from collections import Counter
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Thread

import pyotp
import pytest

from auth_portal.crypto import PURPOSES, DataKey, Keyring
from auth_portal.errors import Misconfigured
from auth_portal.store.db import new_id
from auth_portal.store.models import Challenge, CustomerRow, Tries, Verification
from tests.receiver import Receiver
from tests.security.tools import STILL, code_for, deliver, face, results, wrong, wrong_totp
from tests.world import CONFIG, MAIL, PASSWORD, PHONE, World, configure, journey, open_world

CHI_SQUARE = 45.0  # for ten digits; a fair code exceeds it once in a million


@pytest.mark.parametrize("digits", [6, 8, 10])
def test_r01_two_thousand_codes_are_uniform_and_keep_their_zeros(small_still: World, digits: int) -> None:
    keyring, now = small_still.services.keyring, small_still.clock.now
    codes = [keyring.code(new_id(now), digits, keyring.code_key_id) for _ in range(2000)]
    assert {len(code) for code in codes} == {digits}
    assert all(code.isascii() and code.isdigit() for code in codes)
    assert [code for code in codes if code.startswith("0")]
    assert len(set(codes)) > 1980
    for place in range(digits):
        counts = Counter(code[place] for code in codes)
        assert sum((counts[str(digit)] - 200) ** 2 / 200 for digit in range(10)) < CHI_SQUARE


def test_r01_the_next_challenge_has_another_code(small_still: World) -> None:
    """The same challenge gives the same code, on which resending rests; a neighbour's tells nothing."""
    keyring, one = small_still.services.keyring, new_id(small_still.clock.now)
    assert keyring.code(one, 10, keyring.code_key_id) == keyring.code(one, 10, keyring.code_key_id)
    other = one[:-1] + ("0" if one[-1] != "0" else "1")
    assert keyring.code(other, 10, keyring.code_key_id) != keyring.code(one, 10, keyring.code_key_id)


@pytest.mark.parametrize("digits", [6, 8, 10])
def test_r01_a_code_is_of_rfc_4226_so_that_another_release_accepts_it(digits: int) -> None:
    keyring = Keyring([DataKey(1, purpose, purpose.encode() * 8) for purpose in PURPOSES])
    key = hmac.digest(b"code" * 8, b"a challenge", "sha256")
    values = pyotp.HOTP(base64.b32encode(key).decode().rstrip("="))
    assert keyring.code("a challenge", digits, 1) == (values.at(0) + values.at(1))[:digits]


@pytest.mark.parametrize(
    "limits", ["code_digits = 5", "code_seconds = 601", "code_seconds = 30", "wrong_tries = 6", "sends = 6",
               "resend_waits = [10]", "credential_tries_day = 16", "credential_tries_total = 51",
               "destination_hour = 6", "destination_day = 11", "identity_changes = 6",
               "changed_contact_hours = 73", "changed_contact_hours = -1"],
)  # fmt: skip
def test_r01_r02_r06_r12_no_config_goes_beyond_the_standards(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, limits: str
) -> None:
    with pytest.raises(Misconfigured, match=limits.split(" ", maxsplit=1)[0]):
        configure(sqlite_url, receiver, CONFIG + journey("lax", "sms_code", limits=limits))


def test_r02_a_code_is_good_until_its_time_and_not_a_second_more(still: World) -> None:
    browser, late = still.browser(), still.browser()
    browser.begin("one")
    late.begin("two", identifier="C-1002")
    code, late_code = code_for(still, PHONE), code_for(still, "+27831234567")
    still.clock.advance(299)
    browser.prove(code)
    assert browser.path == "/done"
    still.clock.advance(2)
    page = late.prove(late_code)
    assert page.status_code == 422
    assert "That code expired" in page.text
    assert results(still) == ["verified"]
    assert not still.rows(Tries) or all(row.total == 0 for row in still.rows(Tries))


def test_r02_never_past_the_chat_clock(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    config = journey("short", "sms_code", default=True, chat_seconds=120, limits="code_seconds = 600")
    with open_world(tmp_path, sqlite_url, receiver, config=config, settings=STILL) as world:
        browser = world.browser()
        browser.begin("one")
        (challenge,), (verification,) = world.rows(Challenge), world.rows(Verification)
        assert challenge.expires_at == verification.proofs_until
        assert verification.proofs_until <= world.clock.now + timedelta(seconds=120 - 12 - 9)
        code = code_for(world, PHONE)
        world.clock.advance(100)
        browser.prove(code)
        assert browser.path == "/done"
        assert results(world) == ["failed"]


def test_r03_a_used_code_passes_nobody_else(tmp_path: Path, database_url: str, receiver: Receiver) -> None:
    config = journey("two", "sms_code", "password", default=True)
    with open_world(tmp_path, database_url, receiver, config=config, settings=STILL) as world:
        first, second = world.browser(), world.browser()
        first.begin("one")
        second.begin("one")
        code = code_for(world, PHONE)
        first.prove(code)
        assert "Step 2 of 2" in first.page.text
        page = second.prove(code)
        assert page.status_code == 422
        assert "Step 2 of 2" not in page.text
        first.prove(PASSWORD)
        assert first.path == "/done"
        second.get("/verify")
        assert second.path == "/done"
        assert results(world) == ["verified"]


def test_r04_the_code_of_one_verification_is_wrong_in_another(still: World) -> None:
    one, two = still.browser(), still.browser()
    one.begin("one")
    code = code_for(still, PHONE)
    two.begin("two")
    assert code_for(still, PHONE) != code
    page = two.prove(code)
    assert page.status_code == 422
    assert "4 tries" in two.help()
    one.prove(code)
    assert results(still) == ["verified"]
    assert still.receiver.callbacks[0].header == "one"


def test_r04_a_code_for_one_person_is_wrong_for_another(still: World) -> None:
    """Both name themselves under one reference; neither may pass as the other."""
    thandi, sipho = still.browser(), still.browser()
    thandi.begin("one")
    code = code_for(still, PHONE)
    sipho.begin("one", identifier="C-1002")
    assert sipho.prove(code).status_code == 422
    assert not results(still)


def test_r05_resending_resets_no_count(still: World) -> None:
    browser = still.browser()
    browser.begin("one")
    code = code_for(still, PHONE)
    for _ in range(2):
        browser.prove(wrong(code))
    still.clock.advance(31)
    browser.get("/verify")
    browser.post("/verify/resend")
    assert code_for(still, PHONE) == code
    assert "3 tries" in browser.help()
    for _ in range(3):
        browser.prove(wrong(code))
    assert browser.path == "/done"
    assert results(still) == ["failed"]


def test_r05_a_replaced_code_never_passes_and_costs_nothing(still: World) -> None:
    browser = still.browser()
    browser.begin("one")
    old = code_for(still, PHONE)
    still.clock.advance(151)
    browser.get("/verify")
    browser.post("/verify/resend")
    new = code_for(still, PHONE)
    assert new != old
    for _ in range(6):
        page = browser.prove(old)
        assert page.status_code == 422
        assert "5 tries" in browser.help()
    assert not results(still)
    browser.prove(new)
    assert results(still) == ["verified"]


def test_r05_naming_again_choosing_and_a_second_step_take_up_the_live_code(
    tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    """One code is in force at a time: each further one would be a further chance to guess."""
    config = journey("two", "password", "sms_code", default=True)
    with open_world(tmp_path, database_url, receiver, config=config, settings=STILL) as world:
        for _ in range(3):
            browser = world.browser()
            browser.begin("one")
            browser.prove(PASSWORD)
            assert "Step 2 of 2" in browser.page.text
        assert len(world.rows(Challenge)) == 1
        deliver(world)
        assert len(world.receiver.messages) == 1


def test_r05_two_browsers_joining_at_once_get_one_code(still: World) -> None:
    first = still.browser()
    first.begin("one")
    deliver(still)
    still.clock.advance(301)  # the first code is over, so that a join needs a new one
    browsers = [still.browser(f"198.51.100.{number}") for number in range(8)]  # one address is counted in turn
    for browser in browsers:
        browser.open("one")
    gate = Barrier(len(browsers))

    def join(browser: object) -> None:
        gate.wait()
        browser.name("C-1001")  # type: ignore[attr-defined]

    threads = [Thread(target=join, args=(browser,)) for browser in browsers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    live = [row for row in still.rows(Challenge) if row.expires_at > still.clock.now]
    assert len(live) == 1
    assert still.rows(Verification)[0].sends == 2


def test_r10_a_locked_verification_answers_right_and_wrong_alike(still: World) -> None:
    faces = []
    for reference, is_right in (("one", True), ("two", False)):
        browser = still.browser()
        browser.begin(reference)
        code = code_for(still, PHONE)
        form = browser.hidden("/verify")
        for _ in range(4):
            browser.prove(wrong(code))
        form = browser.hidden("/verify")
        browser.prove(wrong(code), follow=False)
        answer = browser.client.post(
            "/verify", data={**form, "code": code if is_right else wrong(code)}, base_url=browser.base_url
        )
        faces.append((face(answer), face(browser.get("/done"))))
    assert faces[0] == faces[1]
    assert faces[0][0][0] == 303


def test_r10_a_locked_credential_answers_right_and_wrong_alike(still: World) -> None:
    for number in range(3):
        browser = still.browser()
        browser.begin(f"spend-{number}", "app")
        for _ in range(5):
            browser.prove(wrong_totp(still))
    faces = []
    for reference, code in (("right", still.totp()), ("wrong", wrong_totp(still))):
        browser = still.browser()
        browser.begin(reference, "app")
        faces.append(face(browser.prove(code), f"{code[:3]} {code[3:]}"))
    assert faces[0] == faces[1]
    assert faces[0][0] == 422
    assert "verified" not in "".join(results(still))
    (customer,) = [row for row in still.rows(CustomerRow) if row.customer_id == "C-1001"]
    assert customer.totp_last_step == 0  # not even used up


ON_FILE = [
    ("", "C-1001", PHONE), ("", "082 123 4567", PHONE), ("", MAIL, PHONE), ("mail", "C-1001", MAIL), ("mail", PHONE, MAIL),
]  # fmt: skip
NOT_ON_FILE = [
    ("", "+27 60 999 8877"), ("mail", "attacker@example.org"), ("", "C-9999"),
    ("", "084 555 1234"), ("mail", "family@example.com"),  # held by two people
    ("mail", "C-1002"),  # has none of this kind
]  # fmt: skip


def test_r13_codes_go_to_what_is_on_file(small_still: World) -> None:
    for number, (slug, typed, to) in enumerate(ON_FILE):
        small_still.browser().begin(f"reference-{number}", slug, typed)
        deliver(small_still)
        assert [message["to"] for message in small_still.receiver.messages[number:]] == [to], typed


def test_r13_nothing_goes_to_what_was_typed(small_still: World) -> None:
    """It is counted and queued like any other, and nothing leaves."""
    browsers = [small_still.browser() for _ in NOT_ON_FILE]
    for number, (slug, typed) in enumerate(NOT_ON_FILE):
        browsers[number].begin(f"reference-{number}", slug, typed)
        assert browsers[number].path == "/verify", typed
    deliver(small_still)
    small_still.clock.advance(31)
    for browser in browsers:
        browser.get("/verify")
        browser.post("/verify/resend")
    assert deliver(small_still) == len(NOT_ON_FILE)
    assert not small_still.receiver.messages


def test_r16_two_steps_of_drift_fail_and_one_passes(small_still: World) -> None:
    for shift in (-20, -2, 2, 10):
        browser = small_still.browser()
        browser.begin(f"reference{shift}", "app")
        assert browser.prove(small_still.totp(shift)).status_code == 422, shift
    assert not results(small_still)
    for shift in (-1, 0, 1):
        browser = small_still.browser()
        browser.begin(f"near{shift}", "app")
        browser.prove(small_still.totp(shift))
        assert browser.path == "/done", shift
    assert results(small_still) == ["verified_app"] * 3


def test_r17_a_used_step_and_all_before_it_are_refused(still: World) -> None:
    def attempt(reference: str, shift: int) -> str:
        browser = still.browser()
        browser.begin(reference, "app")
        browser.prove(still.totp(shift))
        return browser.path

    assert attempt("first", 0) == "/done"
    assert attempt("same", 0) == "/verify"
    assert attempt("before", -1) == "/verify"
    assert attempt("after", 1) == "/done"
    still.clock.advance(30)
    assert attempt("next-interval", 0) == "/verify"  # the step that "after" used (devise CVE-2021-43177)
    assert attempt("and-on", 1) == "/done"
    assert results(still) == ["verified_app"] * 3


def test_r17_one_step_in_parallel_passes_once(still: World) -> None:
    browsers = [still.browser() for _ in range(10)]
    for number, browser in enumerate(browsers):
        browser.begin(f"reference-{number}", "app")
    code, gate = still.totp(), Barrier(len(browsers))

    def send(browser: object) -> None:
        gate.wait()
        browser.prove(code)  # type: ignore[attr-defined]

    threads = [Thread(target=send, args=(browser,)) for browser in browsers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(browser.path for browser in browsers) == ["/done"] + ["/verify"] * 9
    assert results(still) == ["verified_app"]


@pytest.mark.parametrize("zero", ["\uff10", "\u0660", "\u06f0", "\u0966", "\u1040", "\U0001d7ce"])
def test_r18_digits_of_any_script_count(small_still: World, zero: str) -> None:
    """Full-width, Arabic, Persian, Devanagari, Burmese, mathematical; a wrong one of them costs its try."""
    browser = small_still.browser()
    browser.begin("one", "app")
    written = [
        "".join(chr(ord(zero) + int(digit)) for digit in code) for code in (wrong_totp(small_still), small_still.totp())
    ]
    assert browser.prove(written[0]).status_code == 422
    assert "4 tries" in browser.help()
    browser.prove(f"\u202b{written[1]}\u202c")
    assert browser.path == "/done"


def test_r18_what_is_no_code_costs_no_try(small_still: World) -> None:
    browser = small_still.browser()
    browser.begin("one", "app")
    code = small_still.totp()
    two = f"Your codes are {code} and {wrong_totp(small_still)}"
    inside = f"Your order 12{code} is on its way, sum {code}.50"
    for typed in (f"+{code}", f"{code}.0", f"0x{code}", f"{code}\0", f"{code}\n1", two, inside, "x" * 2000 + code):
        page = browser.prove(typed)
        assert page.status_code == 422, typed
        assert "5 tries" in browser.help()
    assert not results(small_still)


def test_r18_a_whole_message_may_be_pasted(still: World) -> None:
    """Our SMS has the code twice, and both its validity and the host may have digits."""
    for number, wrap in enumerate(("{}", "\u2068{}\u2069", "WhatsApp 22:41\n{}")):
        browser = still.browser()
        browser.begin(f"reference-{number}")
        code_for(still, PHONE)
        message = still.receiver.messages[-1]["text"]
        browser.prove(wrap.format(message))
        assert browser.path == "/done", message
        still.clock.advance(3600)


def test_r18_blanks_and_dashes_are_dropped(small_still: World) -> None:
    for number, form in enumerate(("{0} {1}", "{0}-{1}", " {0}\u00a0{1} ", "{0}\u2013{1}", "\t{0}{1}")):
        browser = small_still.browser()
        browser.begin(f"reference-{number}", "app")
        code = small_still.totp()
        browser.prove(form.format(code[:3], code[3:]))
        assert browser.path == "/done", form
        small_still.clock.advance(30)
