"""What journeys with steps that are answered by a form alone may say, and what holds for every answer."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import html5lib
import pytest
import tomli_w
from flask import render_template
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from werkzeug.datastructures import MultiDict

from auth_portal.services.config.file import Faults, parse, read_config
from auth_portal.services.config.journey import (
    BODY_BYTES,
    IS_STORED,
    RESERVED,
    JourneyConfig,
    longest_body,
    outcomes_of,
    result_body,
    result_clashes,
    stored_documents,
    whole_document,
)
from auth_portal.services.steps.contract import PageTime, read_texts, typed_texts
from auth_portal.services.steps.handover import HandOver
from auth_portal.services.steps.questions import Question, Questions
from auth_portal.services.steps.terms import rendered
from auth_portal.web.admin.journey_form import of_config, of_form, values_of
from tests.services.steps import AGAIN, HANDOVER, IDENTIFY, PASSWORD_STEP, QUESTIONS, SMS_STEP, TERMS
from tests.world import World

NOW = PageTime(datetime(2026, 11, 22, 12, 0, tzinfo=UTC), "ZA", "en")


def step(text: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(f"step = {text}")["step"]
    return found


def journey(*steps: str, **values: Any) -> JourneyConfig:
    return JourneyConfig.model_validate({"slug": "one", "name": "One", "steps": [step(one) for one in steps], **values})


def fields_of(page: str) -> Iterator[tuple[str, str]]:
    """The fields of a part of a form with their values, as a browser sends them."""
    document = html5lib.parse(page, namespaceHTMLElements=False)
    for field in document.iter():
        if field.tag not in ("input", "textarea", "select"):
            continue
        name = str(field.get("name"))
        if field.tag == "input" and field.get("type") == "checkbox" and field.get("checked") is None:
            continue
        if field.tag == "select":
            options = list(field.iter("option"))
            chosen = next((one for one in options if one.get("selected") is not None), options[0])
            yield name, str(chosen.get("value"))
        elif field.tag == "textarea":
            yield name, (field.text or "").removeprefix("\n").replace("\n", "\r\n")
        else:
            yield name, field.get("value") or ""


def question(**values: Any) -> dict[str, Any]:
    return {"key": "a", "kind": "text", "ask": "A?", **values}


def asking(*questions: dict[str, Any], **values: Any) -> JourneyConfig:
    steps = [{"kind": "questions", "questions": list(questions), **values}]
    return JourneyConfig.model_validate({"slug": "one", "name": "One", "steps": steps})


@pytest.mark.parametrize(
    "steps",
    [
        (TERMS,),
        (QUESTIONS,),
        (HANDOVER,),
        (TERMS, IDENTIFY, SMS_STEP),
        (IDENTIFY, TERMS, SMS_STEP, QUESTIONS, HANDOVER),
        (IDENTIFY, PASSWORD_STEP, AGAIN, SMS_STEP),
        (QUESTIONS, TERMS, HANDOVER),
    ],
)
def test_these_orders_are_allowed(steps: tuple[str, ...]) -> None:
    config = journey(*steps)
    assert JourneyConfig.model_validate(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ((SMS_STEP, IDENTIFY), "before the first verify step"),
        ((SMS_STEP,), "before the first verify step"),
        ((IDENTIFY, IDENTIFY, SMS_STEP), "and no other"),
        ((IDENTIFY, TERMS), "must have a verify step after identify"),
        ((IDENTIFY,), "must have a verify step"),
        ((HANDOVER, TERMS), "handover must be the last step"),
        ((TERMS, TERMS), "one terms step at most"),
        ((AGAIN,), "need a verify step before them"),
        ((IDENTIFY, AGAIN, SMS_STEP), "need a verify step before them"),
        ((QUESTIONS, QUESTIONS), "is the key of two questions or boxes"),
        ((QUESTIONS, TERMS.replace('"tips"', '"why"')), "is the key of two questions or boxes"),
        ((), "at least 1"),
    ],
)
def test_these_orders_are_refused(steps: tuple[str, ...], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        journey(*steps)


@pytest.mark.parametrize("key", [*RESERVED, "name", "locale"])
def test_r44_no_question_or_box_takes_a_name_that_flows_trust(key: str) -> None:
    with pytest.raises(ValidationError, match=r"flows trust|two questions"):
        asking(question(key=key))
    with pytest.raises(ValidationError, match=r"flows trust|two questions"):
        journey(TERMS.replace('"tips"', f'"{key}"'))


def test_r44_no_other_variable_takes_the_name_of_a_question() -> None:
    with pytest.raises(ValidationError, match="step's own variable"):
        journey(QUESTIONS, data={"why": "{customer_id}"})


@pytest.mark.parametrize("key", ["terms_version", "handover", "purpose", "payment_amount"])
def test_r44_a_stored_journey_keeps_a_variable_that_was_reserved_later(key: str) -> None:
    values = {"slug": "a", "name": "A", "steps": [step(IDENTIFY), step(SMS_STEP)], "data": {key: "mine"}}
    with pytest.raises(ValidationError, match="flows trust it"):
        JourneyConfig.model_validate(values)
    stored = JourneyConfig.model_validate(values, context=IS_STORED)
    assert stored.unsafe == ()
    assert json.loads(result_body(stored, "verified", "r", {}))["data"][key] == "mine"


def test_outcomes_are_those_that_can_happen() -> None:
    assert set(journey(TERMS).results) == {
        *("expired", "cancelled", "not_me", "unavailable"),
        *("completed", "declined"),
    }
    assert "declined" in journey(TERMS, IDENTIFY, SMS_STEP).results
    with_proof = journey(IDENTIFY, SMS_STEP, HANDOVER)
    assert "handed_over" not in with_proof.results
    assert "completed" not in with_proof.results
    assert journey(HANDOVER).results["handed_over"] == "handed_over"
    assert outcomes_of(with_proof.steps) == tuple(with_proof.results)
    with pytest.raises(ValidationError, match="verified can't happen with these steps"):
        journey(TERMS, results={"verified": "yes"})


@pytest.mark.parametrize(
    ("outcome", "steps"), [("completed", QUESTIONS), ("declined", TERMS), ("handed_over", HANDOVER)]
)
def test_r35_no_new_outcome_says_what_a_proof_says(outcome: str, steps: str) -> None:
    strict = journey(IDENTIFY, SMS_STEP)
    values = {"slug": "two", "name": "Two", "steps": [step(steps)], "results": {outcome: " Verified_ONE "}}
    other = JourneyConfig.model_validate(values)
    (clash,) = result_clashes([strict, other])
    assert f"for {outcome}" in clash
    assert result_clashes([strict, journey(TERMS).model_copy(update={"slug": "two"})]) == []
    with pytest.raises(ValidationError, match="declined has the same text as verified"):
        journey(TERMS, IDENTIFY, SMS_STEP, results={"verified": "declined"})


def test_r44_a_payment_that_was_approved_leaves_as_it_was_approved() -> None:
    """Whatever a journey says that was stored before these variables were reserved."""
    data = {"payment_amount": "1.00", "payment_payee": "{name}"}
    values = {"slug": "a", "name": "A", "steps": [step(IDENTIFY), step(SMS_STEP)], "data": data}
    stored = JourneyConfig.model_validate(values, context=IS_STORED)
    facts = {"name": "Thandi", "payment_amount": "500.00", "payment_currency": "ZAR", "payment_payee": "N. Dlamini"}
    approved = json.loads(result_body(stored, "verified", "r", facts))["data"]
    assert (approved["payment_amount"], approved["payment_payee"]) == ("500.00", "N. Dlamini")
    assert "payment_currency" not in approved


def test_d2_a_result_that_is_too_long_arrives_with_shorter_values() -> None:
    """Letters beyond ASCII take up to twelve bytes of JSON. A journey without questions may have twenty such values."""
    texts = {f"note{number}": "{name}" * 30 for number in range(17)}
    config = journey(IDENTIFY, SMS_STEP, data={"customer_id": "{customer_id}", **texts})
    facts = {"customer_id": "\N{GRINNING FACE}" * 100, "name": "\N{GRINNING FACE}" * 60, "method": "sms_code"}
    body = result_body(config, "verified", "\\" * 512, facts)
    assert len(body) <= BODY_BYTES
    found = json.loads(body)
    assert (found["result"], found["reference"]) == ("verified_one", "\\" * 512)
    assert found["data"]["customer_id"] == facts["customer_id"]
    assert found["data"].keys() == config.data.keys()
    assert all(found["data"][key] for key in texts)


def test_d2_a_journey_stored_under_other_bounds_still_answers() -> None:
    """It is read, or no journey could be served; its longest answers are cut."""
    many = [question(key=f"q{number}", most=500) for number in range(30)]
    values = {"slug": "one", "name": "One", "steps": [{"kind": "questions", "questions": many}]}
    stored = JourneyConfig.model_validate(values, context=IS_STORED)
    facts = {f"q{number}": "\N{GRINNING FACE}" * 250 for number in range(30)}
    assert len(result_body(stored, "completed", "r", facts)) <= BODY_BYTES


@given(st.integers(1, 30), st.integers(1, 500))
def test_d2_the_longest_answers_fit_what_flow_takes(count: int, most: int) -> None:
    questions = [question(key=f"q{number}", most=most) for number in range(count)]
    try:
        config = asking(*questions)
    except ValidationError as refused:
        assert "the longest answers would make a result of" in str(refused)  # noqa: PT017
        assert count * most * 6 > BODY_BYTES - 4_000
        return
    facts = {f"q{number}": "\N{MUSICAL SYMBOL G CLEF}" * (most // 2) for number in range(count)}
    body = result_body(config, "completed", "\\" * 512, facts)
    assert len(body.encode()) <= longest_body(config) <= BODY_BYTES


@given(st.data())
def test_what_is_answered_is_what_is_asked(data: st.DataObject) -> None:
    """Whatever is answered, taken back and left out: in the end each asked question has an answer, and no other."""
    config = Questions.model_validate(step(QUESTIONS))
    given_now: dict[str, Any] = {}
    for _ in range(40):
        form = data.draw(st.sampled_from([{"answer": "problem"}, {"answer": "balance"}, {"answer": "7"},
                                          {"answer": "words"}, {"answer": ""}, {"back": "1"}]))  # fmt: skip
        taken = config.take(MultiDict(form), given_now, NOW)
        if taken.is_done:
            answers = taken.given["answers"]
            assert list(answers) == [one.key for one in config.asked(answers)]
            assert ("what" in answers) is (answers["why"] == "problem")
            assert all(answers[one.key] or not one.required for one in config.asked(answers))
            assert set(config.values(taken.given)) == {"why", "what", "nps", "better"}
            return
        given_now = given_now if taken.faults else dict(taken.given)
        view = config.view(given_now, NOW)
        assert 1 <= view.number <= view.count <= 4


KINDS = st.sampled_from(["scale", "nps", "text", "number", "date", "phone", "email"])


@given(KINDS, st.text(max_size=400))
def test_an_answer_is_short_plain_text_or_a_fault(kind: str, typed: str) -> None:
    asked = Question.model_validate(question(kind=kind, required=False))
    answer, fault = asked.read([typed], "ZA")
    if not fault:
        assert len(json.dumps(answer)) - 2 <= asked.longest
        assert answer == " ".join(answer.split())
        assert asked.read([answer], "ZA") == (answer, "")


@pytest.mark.parametrize("address", ["\N{GRINNING FACE}" * 12 + "@" + ".".join(["\xe9" * 50] * 2) + ".com"])
def test_an_email_address_that_no_mail_server_takes_is_refused(address: str) -> None:
    """One rule for all addresses: no Unicode before the @."""
    assert Question.model_validate(question(kind="email")).read([address], "") == (address, "answer_unreadable")


@pytest.mark.parametrize(
    ("kind", "typed", "answer"),
    [
        ("scale", "03", "3"),
        ("nps", "00", "0"),
        ("number", "1 200,50", "1200.5"),
        ("number", "007", "7"),
        ("number", "-0", "0"),
        ("date", "2026-02-28", "2026-02-28"),
        ("phone", "082 123 4567", "+27821234567"),
        ("email", " Thandi@EXAMPLE.com ", "thandi@example.com"),
        ("text", "  two \r\n lines ", "two lines"),
    ],
)
def test_answers_have_one_form(kind: str, typed: str, answer: str) -> None:
    assert Question.model_validate(question(kind=kind)).read([typed], "ZA") == (answer, "")


@pytest.mark.parametrize(
    ("kind", "typed"),
    [
        *(
            ("number", text)
            for text in ("1e5", "0x10", "NaN", "1.2.3", "9999999999999999", "\N{ARABIC-INDIC DIGIT ONE}")
        ),
        *(("date", text) for text in ("2026-02-30", "tomorrow")),
        *(("phone", text) for text in ("12", "words")),
        *(("email", text) for text in ("words", "a@b")),
    ],
)
def test_what_is_no_answer_is_refused(kind: str, typed: str) -> None:
    assert Question.model_validate(question(kind=kind)).read([typed], "ZA")[1] in ("answer_unreadable", "answer_large")


@given(st.dictionaries(st.sampled_from(["", "en", "zu", "pt-BR"]), st.text("ab (:#", min_size=1).map(str.strip)))
def test_texts_outlive_the_form(texts: dict[str, str]) -> None:
    texts = {language: text for language, text in texts.items() if text}
    assert read_texts(typed_texts(texts)) == texts


@given(st.text("<>&\"'[]()*#`! ahtps:/\n", max_size=120))
def test_a_text_is_never_html_of_its_own(text: str) -> None:
    html = rendered(text)
    assert "<script" not in html
    assert "javascript:" not in html
    assert "<img" not in html


# --- Opening hours


@given(st.integers(0, 730 * 24 * 60).map(lambda minutes: NOW.now + timedelta(minutes=minutes)))
def test_what_is_said_of_the_next_change_is_true(now: datetime) -> None:
    """Also in the hours around a change of the clocks: just before that moment it is as it was, then it is not."""
    values = step(HANDOVER.replace("Africa/Johannesburg", "Europe/Berlin"))
    values["hours"]["sun"] = ["00:00-03:30", "22:00-24:00"]
    place = HandOver.model_validate(values)
    opening = place.opening(now)
    assert opening.at is not None
    assert opening.at > now
    assert place.opening(opening.at - timedelta(seconds=1)).is_open is opening.is_open
    assert place.opening(opening.at).is_open is not opening.is_open
    local = now.astimezone(ZoneInfo("Europe/Berlin"))
    if local.date().isoformat() in place.holidays:
        assert not opening.is_open


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (('"08:00-18:00"]', '"18:00-08:00"]'), "times such as"),
        (('"08:00-18:00"]', '"08:00-18:61"]'), "time of a day"),
        (('"08:00-18:00"]', '"08:00-18:00", "17:00-19:00"]'), "one after another"),
        (("Africa/Johannesburg", "Africa/Nowhere"), "no time zone"),
        (("2026-11-24", "2026-11-31"), "no date"),
        (("https://chat.example/start", "https://evil.example/start"), "not among hosts"),
        (("https://chat.example/start", "http://chat.example/start"), "https"),
        (("https://chat.example/start", "https://chat.example@evil.example/"), "not among hosts"),
        (("https://chat.example/start", "https://evil.example\\\\\\\\@chat.example/"), "https"),
        (('"27115550100"', '"javascript:alert(1)"'), "phone number"),
        (('key = "web"', 'key = "stay"'), "another key"),
        (('key = "call"', 'key = "web"'), "same key"),
    ],
)
def test_a_wrong_hand_over_is_refused(change: tuple[str, str], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        journey(HANDOVER.replace(*change))


# --- What is stored


def test_a_release_that_knows_no_such_step_reads_a_closed_journey() -> None:
    config = journey(TERMS, IDENTIFY, SMS_STEP, channels=["sms"])
    document, whole = stored_documents(config)
    assert {one["kind"] for one in document["steps"]} == {"identify", "verify"}
    assert "channels" not in document
    assert document["results"]["verified"] not in config.results.values()
    assert set(document["data"]) == {"outcome", "journey", "newer_release"}
    assert JourneyConfig.model_validate(whole_document(document, whole)) == config
    for changed in (None, {**(whole or {}), "name": "Other"}):
        with pytest.raises(ValueError, match="changed by someone other"):
            whole_document(document, changed)
    plain = journey(IDENTIFY, SMS_STEP)
    assert stored_documents(plain) == (plain.stored(), None)
    assert "changed_contact_hours" not in plain.stored()["limits"]


def test_a_release_that_knows_no_wait_after_a_change_reads_a_closed_journey() -> None:
    """It would send the code at once to the contact that an attacker had changed (R45)."""
    config = journey(IDENTIFY, SMS_STEP, channels=["sms"], limits={"changed_contact_hours": 24})
    document, whole = stored_documents(config)
    assert "channels" not in document
    assert "limits" not in document
    assert JourneyConfig.model_validate(whole_document(document, whole)) == config


def test_a_release_that_knows_no_look_and_no_own_texts_serves_the_journey_without() -> None:
    own = {"radius": 4, "hide_name": True, "wording": {"en": {"Confirm": "Check it"}}}
    config = journey(IDENTIFY, SMS_STEP, **own)
    document, whole = stored_documents(config)
    plain = journey(IDENTIFY, SMS_STEP).stored()
    assert {**document, "data": {**document["data"], "newer_release": ""}} == {
        **plain,
        "data": {**plain["data"], "newer_release": ""},
    }
    assert JourneyConfig.model_validate(whole_document(document, whole)) == config
    full = journey(IDENTIFY, SMS_STEP, **own, data={f"key_{n}": "x" for n in range(18)})
    assert len(stored_documents(full)[0]["data"]) <= 20, "0.1.0 takes no more"


@pytest.mark.parametrize("config", [journey(TERMS, QUESTIONS, HANDOVER), journey(IDENTIFY, PASSWORD_STEP, AGAIN)])
def test_what_is_exported_is_read_again_as_the_same(config: JourneyConfig) -> None:
    written = tomli_w.dumps({"journeys": [config.stored()]})
    faults = Faults("x.toml")
    assert read_config(written, faults).journeys["one"] == config
    assert faults.found == []


@pytest.mark.parametrize("config", [journey(TERMS, QUESTIONS, HANDOVER), journey(IDENTIFY, PASSWORD_STEP, AGAIN)])
def test_the_form_of_a_stored_journey_says_the_same(config: JourneyConfig, small_world: World) -> None:
    """Every field that the page shows, sent back as it is, is the journey again."""
    typed = of_config(config)
    with small_world.app.test_request_context("/admin/journeys/one/edit"):
        pages = [
            render_template(f"admin/journeys/steps/{one['kind']}.html", step=one, number=number, faults={},
                            all_methods=["password", "sms_code"])
            for number, one in enumerate(typed.steps, 1)
        ]  # fmt: skip
    sent = MultiDict(
        [("kind0", typed.steps[0]["kind"]), *((f"kind{n}", one["kind"]) for n, one in enumerate(typed.steps))]
    )
    for page in pages:
        for name, value in fields_of(page):
            sent.add(name, value)
    values = values_of(of_form(sent), "one", {})
    assert parse(JourneyConfig, {"slug": "one", "name": "One", "steps": values["steps"]}, "", Faults("")) == config
