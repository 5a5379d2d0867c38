"""What goes into Chat Flow, and the check of what somebody put there."""

from __future__ import annotations

import json

import pytest

from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.rehearsal.flow_setup import EXAMPLES, Finding, check_logic, logic_values, setup_of


def journey(**values: object) -> JourneyConfig:
    return JourneyConfig.model_validate(
        {
            "slug": "transfer",
            "name": "Make a transfer",
            "steps": [
                {"kind": "identify", "by": ["customer_id"]},
                {"kind": "verify", "any_of": ["password"]},
                {"kind": "verify", "any_of": ["sms_code", "totp"]},
            ],
            **values,
        }
    )


JOURNEY = journey(results={"expired": "too_late", "not_me": "fraud_alert"})
ALL = "verified_transfer, failed, too_late, fraud_alert"


def test_the_link_of_a_journey_and_of_the_default_one() -> None:
    assert setup_of(JOURNEY, "https://verify.acme.example").url == "https://verify.acme.example/j/transfer"
    assert setup_of(journey(default=True), "https://verify.acme.example").url == "https://verify.acme.example/"


def test_every_result_is_listed_once_with_the_outcomes_it_stands_for() -> None:
    values = logic_values(JOURNEY)
    assert [(value.text, value.outcomes) for value in values] == [
        ("verified_transfer", ("verified",)),
        ("failed", ("wrong", "cancelled", "no_code", "unavailable")),
        ("too_late", ("expired",)),
        ("fraud_alert", ("not_me",)),
    ]
    assert setup_of(JOURNEY, "https://x.example").success == "verified_transfer"


def test_variables_show_what_really_arrives() -> None:
    variables = {found.name: found for found in setup_of(JOURNEY, "https://x.example").variables}
    assert set(variables) == set(JOURNEY.data)
    assert variables["customer_id"].on_success == EXAMPLES["customer_id"]
    assert variables["customer_id"].otherwise == ""
    assert variables["method"].on_success == "sms_code"
    assert variables["journey"].otherwise == "transfer"
    assert (variables["outcome"].on_success, variables["outcome"].otherwise) == ("verified", "wrong")


def test_a_waiting_node_gets_a_minute_less() -> None:
    assert setup_of(JOURNEY, "https://x.example").advised_chat_seconds == 600
    waiting = journey(callback={"contract": "wait_for_callback"})
    assert setup_of(waiting, "https://x.example").advised_chat_seconds == 540
    assert setup_of(waiting, "https://x.example").waiting_url == "https://x.example/j/transfer?reference="


def test_the_ticket_is_asked_for_with_the_number_of_the_chat() -> None:
    body = json.loads(setup_of(JOURNEY, "https://x.example").ticket_body)
    assert body == {"journey": "transfer", "msisdn": "[[session:msisdn]]"}


@pytest.mark.parametrize("pasted", [ALL, ALL.replace(", ", "\n"), ALL.replace(", ", "\r\n") + "\r\n", f"\n{ALL}\n\n"])
def test_a_node_that_has_all_is_fine(pasted: str) -> None:
    checked = check_logic(JOURNEY, pasted)
    assert checked.is_fine
    assert len(checked.right) == checked.count == 4


@pytest.mark.parametrize(
    ("value", "finding"),
    [
        ("Too_Late", Finding("case", "Too_Late", "too_late")),
        ("too late", Finding("case", "too late", "too_late")),
        ("too-late", Finding("case", "too-late", "too_late")),
        (" too_late", Finding("blanks", " too_late", "too_late")),
        ("too_late ", Finding("blanks", "too_late ", "too_late")),
        ("too_late\u00a0", Finding("blanks", "too_late\u00a0", "too_late")),
        ('"too_late"', Finding("quotes", '"too_late"', "too_late")),
        ("“too_late”", Finding("quotes", "“too_late”", "too_late")),
        ("to_late", Finding("misspelt", "to_late", "too_late")),
        ("too_latte", Finding("misspelt", "too_latte", "too_late")),
        ("expired", Finding("outcome", "expired", "too_late")),
        ("balance", Finding("unknown", "balance")),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_was_meant(value: str, finding: Finding) -> None:
    checked = check_logic(JOURNEY, f"verified_transfer\nfailed\n{value}\nfraud_alert")
    assert checked.findings == (finding,)
    assert [missing.text for missing in checked.missing] == ["too_late"]
    assert not checked.is_fine


def test_the_name_of_another_journeys_result_is_no_branch_of_this_one() -> None:
    checked = check_logic(JOURNEY, "verified\nfailed\ntoo_late\nfraud_alert")
    assert checked.findings == (Finding("outcome", "verified", "verified_transfer"),)
    assert [missing.is_success for missing in checked.missing] == [True]


def test_a_value_that_is_there_twice_is_said_once() -> None:
    assert check_logic(JOURNEY, f"{ALL}, failed").findings == (Finding("repeated", "failed"),)
    assert check_logic(JOURNEY, f"{ALL}, nothing, nothing").findings == (Finding("unknown", "nothing"),)


def test_nothing_pasted_misses_everything() -> None:
    checked = check_logic(JOURNEY, "  \n , ")
    assert checked.count == 0
    assert len(checked.missing) == 4


def test_texts_with_a_comma_are_read_by_line() -> None:
    odd = journey(results={"wrong": "no, sorry", "verified": "yes"})
    assert check_logic(odd, "yes\nno, sorry\nfailed").is_fine


def test_a_flood_is_cut() -> None:
    checked = check_logic(JOURNEY, "x,\n" * 100_000)
    assert checked.count <= 200
