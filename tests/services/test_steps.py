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
}


@pytest.mark.parametrize("kind", STEPS)
class TestEveryKind:
    def test_it_has_its_part_of_the_form(self, kind: str) -> None:
        assert (FORMS / f"{kind}.html").exists()

    def test_the_form_says_what_the_config_file_says(self, kind: str) -> None:
        sent, values = SENT[kind]
        assert STEPS[kind].read_form(MultiDict(sent), "step1") == values
        step = STEPS[kind].model_validate(values)
        assert step.model_dump() == values
        assert step.kind == kind

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
