"""What every method promises, as one suite that each of them inherits. A method without one fails here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyotp
import pytest
from argon2 import PasswordHasher

from auth_portal.crypto import PASSWORD_CODE_POINTS, Passwords
from auth_portal.methods import CARRIES, METHOD_NAMES, all_methods, words_of
from auth_portal.methods.contract import Evidence, IssuedCode, Method, ProofResult
from auth_portal.methods.totp import STEP_SECONDS

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
TEMPLATES = Path(__file__).resolve().parents[2] / "templates" / "methods"
ICONS = TEMPLATES.parents[1] / "static" / "icons"
DIGITS = 8  # of the journey's sent codes: not what an authenticator app shows


@cache
def passwords() -> Passwords:
    return Passwords()


class MethodContract(ABC):
    """The suite. A method's own class says what is right for it, and what it is held against."""

    name: str
    right: str
    wrong: str

    @pytest.fixture
    def method(self) -> Method:
        return all_methods(passwords())[self.name]

    @abstractmethod
    def evidence(self) -> Evidence:
        """Against which ``right`` is right."""

    def result(self, method: Method, proof: str, evidence: Evidence) -> ProofResult:
        parsed = method.parse(proof, DIGITS)
        assert parsed is not None
        return method.check(parsed, evidence).result

    def test_it_has_a_name_a_field_and_a_page(self, method: Method) -> None:
        assert method.name == self.name
        assert method.field in ("code", "password")
        assert method.carries == CARRIES.get(self.name)
        assert (TEMPLATES / f"{self.name}.html").exists()

    def test_it_has_words_for_everybody(self, method: Method) -> None:
        words = method.words
        unused = set() if method.carries else {"approve"}  # only a code that is sent approves a payment at once
        assert all(value for name, value in vars(words).items() if name not in unused)
        assert (ICONS / f"{words.icon}.svg").exists()

    def test_the_right_proof_is_right(self, method: Method) -> None:
        assert self.result(method, self.right, self.evidence()) is ProofResult.RIGHT

    def test_a_wrong_proof_is_wrong(self, method: Method) -> None:
        assert self.result(method, self.wrong, self.evidence()) is ProofResult.WRONG

    def test_for_a_stranger_nothing_is_right(self, method: Method) -> None:
        for proof in (self.right, self.wrong):
            assert self.result(method, proof, Evidence(NOW)) in (ProofResult.WRONG, ProofResult.STALE)

    def test_judging_twice_gives_the_same(self, method: Method) -> None:
        """A method remembers nothing: what is used up is the caller's to keep."""
        for _ in range(2):
            assert self.result(method, self.right, self.evidence()) is ProofResult.RIGHT

    @pytest.mark.parametrize("typed", ["", "\0", "x" * 100_000, "\u0661" * DIGITS, "\ud800", "-", " "])
    def test_no_input_breaks_it(self, method: Method, typed: str) -> None:
        parsed = method.parse(typed, DIGITS)
        assert parsed is None or len(parsed) <= PASSWORD_CODE_POINTS

    def test_too_long_is_refused_before_it_is_checked(self, method: Method) -> None:
        assert method.parse("1" * (PASSWORD_CODE_POINTS + 1), DIGITS) is None
        assert method.parse("", DIGITS) is None

    def test_its_length_is_what_it_takes(self, method: Method) -> None:
        length = method.length(DIGITS)
        if method.field == "code":
            assert method.parse("1" * length, DIGITS) == "1" * length
            assert method.parse("1" * (length - 1), DIGITS) is None
            assert method.parse("1" * (length + 1), DIGITS) is None
        else:
            assert length == 0


class CodeContract(MethodContract):
    right, wrong = "01234567", "01234568"

    def issued(self) -> IssuedCode:
        return IssuedCode(self.right, NOW + timedelta(seconds=1), is_replaced=False)

    def evidence(self) -> Evidence:
        return Evidence(NOW, codes=(self.issued(),))

    def test_r02_not_at_or_after_its_end(self, method: Method) -> None:
        late = replace(self.issued(), expires_at=NOW)
        assert self.result(method, self.right, Evidence(NOW, codes=(late,))) is ProofResult.STALE

    def test_r03_not_twice(self, method: Method) -> None:
        used = replace(self.issued(), is_used=True)
        assert self.result(method, self.right, Evidence(NOW, codes=(used,))) is ProofResult.STALE

    def test_r05_a_replaced_one_says_so(self, method: Method) -> None:
        codes = (replace(self.issued(), code="11111111"), replace(self.issued(), is_replaced=True))
        assert self.result(method, self.right, Evidence(NOW, codes=codes)) is ProofResult.REPLACED
        assert self.result(method, self.wrong, Evidence(NOW, codes=codes)) is ProofResult.WRONG

    def test_r01_zeros_count(self, method: Method) -> None:
        assert method.parse(self.right.lstrip("0"), DIGITS) is None


class TestSmsCode(CodeContract):
    name = "sms_code"


class TestEmailCode(CodeContract):
    name = "email_code"


class TestTotp(MethodContract):
    name = "totp"
    right = pyotp.TOTP(SEED).at(NOW)
    wrong = f"{(int(right) + 1) % 10**6:06d}"

    def evidence(self) -> Evidence:
        return Evidence(NOW, secret=SEED)

    @pytest.mark.parametrize(
        ("shift", "reading"), [(-2, "wrong"), (-1, "right"), (0, "right"), (1, "right"), (2, "wrong")]
    )
    def test_r16_one_step_of_drift(self, method: Method, shift: int, reading: str) -> None:
        code = pyotp.TOTP(SEED).at(NOW + timedelta(seconds=shift * STEP_SECONDS))
        assert self.result(method, code, self.evidence()) == reading

    def test_r17_the_used_step_is_told_and_never_taken_again(self, method: Method) -> None:
        step = int(NOW.timestamp()) // STEP_SECONDS
        assert method.check(self.right, self.evidence()).used_step == step
        for last, reading in ((step - 1, ProofResult.RIGHT), (step, ProofResult.WRONG), (step + 1, ProofResult.WRONG)):
            assert self.result(method, self.right, replace(self.evidence(), last_step=last)) is reading


class TestSupportCode(MethodContract):
    name = "support_code"
    right, wrong = "01234567", "01234568"

    def issued(self) -> IssuedCode:
        return IssuedCode(self.right, NOW + timedelta(seconds=1), is_replaced=False)

    def evidence(self) -> Evidence:
        return Evidence(NOW, codes=(self.issued(),))

    @pytest.mark.parametrize("change", [{"expires_at": NOW}, {"is_used": True}])
    def test_r24_out_of_force_is_wrong_as_any_other(self, method: Method, change: dict[str, Any]) -> None:
        late = replace(self.issued(), **change)
        assert self.result(method, self.right, Evidence(NOW, codes=(late,))) is ProofResult.WRONG
        assert self.result(method, self.wrong, Evidence(NOW)) is ProofResult.WRONG

    def test_r19_eight_digits_whatever_the_journey_says(self, method: Method) -> None:
        assert (method.length(6), method.length(10)) == (8, 8)
        assert method.parse("0123 4567", 6) == "01234567"


class TestPassword(MethodContract):
    name = "password"
    right, wrong = "correct horse battery staple", "correct horse battery stapl"

    def evidence(self) -> Evidence:
        return Evidence(NOW, secret=_hashed(self.right))

    def test_r21_nothing_is_cut_or_left_out(self, method: Method) -> None:
        for proof in (
            self.right.replace(" ", ""),
            self.right.replace(" ", "  "),
            self.right.upper(),
            f"{self.right}\0x",
        ):
            assert self.result(method, proof, self.evidence()) is ProofResult.WRONG

    @pytest.mark.parametrize("blank", [" ", "\t", "\r\n", "\u00a0", "\u3000", "\u200b", "\ufeff", " \u00a0\n "])
    def test_r21_blanks_at_the_ends_of_a_pasted_password_may_be_missing_on_file(
        self, method: Method, blank: str
    ) -> None:
        for proof in (f"{self.right}{blank}", f"{blank}{self.right}", f"{blank}{self.right}{blank}"):
            assert self.result(method, proof, self.evidence()) is ProofResult.RIGHT
            own = Evidence(NOW, secret=_hashed(proof))  # a password may have some of its own
            assert self.result(method, proof, own) is ProofResult.RIGHT
            assert self.result(method, self.right, own) is ProofResult.WRONG

    def test_r21_blanks_make_no_password_longer(self, method: Method) -> None:
        verdict = method.check(f"kudu-2026{' ' * 20}", Evidence(NOW, secret=_hashed("kudu-2026")))
        assert (verdict.result, verdict.is_long) == (ProofResult.RIGHT, False)
        assert method.check(self.right, self.evidence()).is_long

    def test_r24_a_stranger_and_a_wrong_password_take_the_same_hashes(self) -> None:
        class Counting(PasswordHasher):
            hashes = 0

            def verify(self, *args: Any, **kwargs: Any) -> Any:
                self.hashes += 1
                return super().verify(*args, **kwargs)

        for typed, hashes in (("wrong one", 1), ("wrong one ", 2), (" ", 1), (" \n", 1), (f"{'x' * 256}  ", 1)):
            for stored in (_hashed(self.right), None):
                hasher = Counting(time_cost=1, memory_cost=8, parallelism=1)
                assert Passwords(hasher=hasher).matching(stored, typed) is None
                assert hasher.hashes == hashes, (typed, stored)

    def test_r21_one_form_of_unicode(self, method: Method) -> None:
        evidence = Evidence(NOW, secret=_hashed("\u00e9t\u00e9 in the garden"))
        assert self.result(method, "e\u0301te\u0301 in the garden", evidence) is ProofResult.RIGHT

    def test_r23_old_parameters_come_back_hashed_anew(self, method: Method) -> None:
        old = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash(self.right)
        verdict = method.check(self.right, Evidence(NOW, secret=old))
        assert verdict.new_secret is not None
        assert not passwords().is_outdated(verdict.new_secret)
        assert method.check(self.right, self.evidence()).new_secret is None

    def test_a_stored_text_that_is_no_hash_is_wrong(self, method: Method) -> None:
        for stored in ("", "plain", "$argon2id$v=19$m=19456"):
            assert self.result(method, self.right, Evidence(NOW, secret=stored)) is ProofResult.WRONG


@cache
def _hashed(password: str) -> str:
    return passwords().hash(password)


def test_every_method_is_held_to_it() -> None:
    assert {suite.name for suite in (TestSmsCode, TestEmailCode, TestTotp, TestSupportCode, TestPassword)} == set(
        METHOD_NAMES
    )
    assert tuple(all_methods(passwords())) == METHOD_NAMES


def test_a_name_that_is_no_method_any_more_stands_for_itself() -> None:
    assert words_of("voice_print").name == "voice_print"
    assert words_of("totp").name == "authenticator app"
