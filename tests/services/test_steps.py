"""What every kind of step brings, so that nothing else has to know of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from werkzeug.datastructures import MultiDict

from auth_portal.services.steps import ADDED, FIRST, STEPS
from auth_portal.services.verification.case import load_case
from tests.world import World

FORMS = Path(__file__).resolve().parents[2] / "templates" / "admin" / "journeys" / "steps"
# What the form of a journey sends for a step of each kind, and what the config file says of it.
SENT = {
    "identify": (
        [("by", "phone"), ("by", "email")],
        {"kind": "identify", "by": ("phone", "email")},
    ),
    "verify": (
        [("step1", "totp"), ("step1", "sms_code")],
        {"kind": "verify", "any_of": ("totp", "sms_code")},
    ),
    "terms": (
        [
            ("step1.version", "3"),
            ("step1.valid_from", "2026-11-01"),
            ("step1.title", "Our terms [zu] Imigomo"),
            ("step1.text", "# One\r\nRead [this](https://a.example)\r\n[zu]\r\n# Kunye"),
            ("step1.boxes", "read: I have read it\r\ntips?: Send tips [zu] Thumela"),
            ("step1.again", "changed"),
        ],
        {
            "kind": "terms",
            "version": "3",
            "valid_from": "2026-11-01",
            "title": {"": "Our terms", "zu": "Imigomo"},
            "text": {"": "# One\nRead [this](https://a.example)", "zu": "# Kunye"},
            "boxes": (
                {"key": "read", "label": {"": "I have read it"}},
                {"key": "tips", "label": {"": "Send tips", "zu": "Thumela"}, "required": False},
            ),
            "again": "changed",
        },
    ),
    "questions": (
        [
            ("step1.title", "A few questions"),
            ("step1.layout", "all"),
            ("step1.store_days", "30"),
            ("step1.q0.key", "why"),
            ("step1.q0.kind", "single"),
            ("step1.q0.ask", "Why?"),
            ("step1.q0.options", "pay: To pay\r\nask: To ask [zu] Ukubuza"),
            ("step1.q1.kind", "text"),
            ("step1.q2.key", "what"),
            ("step1.q2.kind", "text"),
            ("step1.q2.ask", "What?"),
            ("step1.q2.optional", "1"),
            ("step1.q2.most", "40"),
            ("step1.q2.only_if", "why = ask"),
        ],
        {
            "kind": "questions",
            "title": {"": "A few questions"},
            "layout": "all",
            "store_days": 30,
            "questions": (
                {
                    "key": "why",
                    "kind": "single",
                    "ask": {"": "Why?"},
                    "options": (
                        {"value": "pay", "label": {"": "To pay"}},
                        {"value": "ask", "label": {"": "To ask", "zu": "Ukubuza"}},
                    ),
                },
                {
                    "key": "what",
                    "kind": "text",
                    "ask": {"": "What?"},
                    "required": False,
                    "most": 40,
                    "only_if": {"key": "why", "is": "ask"},
                },
            ),
        },
    ),
    "handover": (
        [
            ("step1.title", "Talk to a person"),
            ("step1.hosts", "chat.example  a.example"),
            ("step1.zone", "Africa/Johannesburg"),
            ("step1.mon", "08:00-12:00, 13:00-17:00"),
            ("step1.holidays", "2026-12-25\r\n2026-12-26"),
            ("step1.o0.key", "web"),
            ("step1.o0.kind", "chat"),
            ("step1.o0.label", "Chat"),
            ("step1.o0.address", "https://chat.example/x"),
            ("step1.o0.when", "always"),
            ("step1.o0.shares_customer", "1"),
            ("step1.o1.kind", "chat"),
        ],
        {
            "kind": "handover",
            "title": {"": "Talk to a person"},
            "zone": "Africa/Johannesburg",
            "hosts": ("chat.example", "a.example"),
            "holidays": ("2026-12-25", "2026-12-26"),
            "hours": {"mon": ("08:00-12:00", "13:00-17:00")},
            "options": (
                {
                    "key": "web",
                    "kind": "chat",
                    "address": "https://chat.example/x",
                    "when": "always",
                    "label": {"": "Chat"},
                    "shares_customer": True,
                },
            ),
        },
    ),
}


@pytest.mark.parametrize("kind", STEPS)
class TestEveryKind:
    def test_it_has_its_part_of_the_form(self, kind: str) -> None:
        assert (FORMS / f"{kind}.html").exists()

    def test_the_form_says_what_the_config_file_says(self, kind: str) -> None:
        sent, values = SENT[kind]
        assert STEPS[kind].read_form(MultiDict(sent), "step1") == values
        step = STEPS[kind].model_validate(values, strict=True)
        assert step.model_dump(exclude_unset=True) == values
        assert step.kind == kind

    def test_a_step_without_anything_typed_is_left_out(self, kind: str) -> None:
        assert STEPS[kind].read_form(MultiDict(), "step1") is None or kind == FIRST

    def test_it_names_the_customer_or_can_be_added(self, kind: str) -> None:
        assert STEPS[kind].names_customer is (kind == FIRST)
        assert bool(STEPS[kind].add_label) is (kind in ADDED)
        assert kind == FIRST or kind in ADDED


def test_a_step_has_methods_and_a_case_offers_those_that_were_not_proved(small_world: World) -> None:
    assert STEPS["verify"].model_validate({"any_of": ("totp", "sms_code")}).methods == ("totp", "sms_code")
    assert STEPS["identify"].model_validate({"by": ("phone",)}).methods == ()
    browser = small_world.browser()
    browser.begin("abc", "either")
    journeys, cookie = small_world.services.journeys, browser.client.get_cookie("verification", "127.0.0.1")
    assert cookie is not None
    with small_world.transactions.read() as work:
        case = load_case(work, journeys, cookie.value, locked=False)
    offered = [replace(case, proved=proved).offered(journeys.current()) for proved in ((), ("totp",))]
    assert offered == [("sms_code", "email_code", "totp"), ("sms_code", "email_code")]
