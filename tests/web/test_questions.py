"""Questions are asked one by one or all at once; answers go to the chat as short texts, and are stored if asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from auth_portal.services.operations.retention import prune
from auth_portal.store.models import ANSWER_ANSWERS, AnswerRow, AuditEvent, CustomerRow, Visit
from tests.receiver import Receiver
from tests.security.tools import STILL
from tests.services.steps import ALL_AT_ONCE, IDENTIFY, PASSWORD_STEP, QUESTIONS, results, started, stepped
from tests.world import PASSWORD, Browser, World, journey, open_world

STORED = QUESTIONS.replace('"questions", questions', '"questions", store_days = 30, questions')
ANONYMOUS = STORED.replace("store_days = 30,", "store_days = 30, anonymous = true,")
JOURNEYS = (
    journey("balance", "sms_code", default=True)
    + stepped("survey", QUESTIONS)
    + stepped("all", ALL_AT_ONCE)
    + stepped("after", IDENTIFY, PASSWORD_STEP, STORED)
    + stepped("secret", ANONYMOUS)
)


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    with open_world(tmp_path, database_url, receiver, config=JOURNEYS, settings=STILL) as opened:
        yield opened


def answer(browser: Browser, *answers: str) -> None:
    for one in answers:
        browser.post("/verify", answer=one)


def test_a_survey_asks_one_question_after_another(world: World) -> None:
    assert "Start" in world.browser().open("abc", "survey").text
    browser = started(world, "survey")
    assert "Why did you contact us today?" in browser.page.text
    assert "Question 1 of 3" in browser.page.text
    answer(browser, "problem")
    assert "Question 2 of 4" in browser.page.text
    answer(browser, "The queue <was> long.", "8")
    assert "Optional." in browser.page.text
    answer(browser, "")
    assert browser.path == "/done"
    assert "Thanks. Go back to your chat" in browser.page.text
    assert results(world) == [
        {
            "result": "completed",
            "outcome": "completed",
            "journey": "survey",
            "why": "problem",
            "what": "The queue <was> long.",
            "nps": "8",
            "better": "",
        }
    ]
    assert world.rows(AnswerRow) == []
    assert all(row.given_sealed is None for row in world.rows(Visit))


def test_a_question_that_no_answer_leads_to_is_not_asked_and_sent_empty(world: World) -> None:
    browser = started(world, "survey")
    answer(browser, "balance")
    assert "How likely are you" in browser.page.text
    answer(browser, "10", "Nothing")
    assert results(world)[0]["what"] == ""


def test_an_answer_that_is_taken_back_takes_what_depended_on_it_along(world: World) -> None:
    browser = started(world, "survey")
    answer(browser, "problem", "The app", "3")
    for _ in range(3):
        browser.post("/verify", back="1")
    assert "Question 1 of 4" in browser.page.text
    answer(browser, "balance", "9", "")
    (found,) = results(world)
    assert (found["why"], found["what"], found["nps"]) == ("balance", "", "9")


def test_back_keeps_the_answers(world: World) -> None:
    browser = started(world, "survey")
    answer(browser, "problem", "The app")
    browser.post("/verify", back="1")
    assert 'value="The app"' in browser.page.text
    browser.post("/verify", back="1")
    assert 'value="problem" checked' in browser.page.text


def test_answers_are_there_when_the_page_is_opened_again(world: World) -> None:
    browser = started(world, "survey")
    answer(browser, "balance")
    browser.get("/verify")
    assert "How likely are you" in browser.page.text


@pytest.mark.parametrize(
    ("before", "typed", "words"),
    [
        ([], "", "Choose an answer."),
        ([], "other", "Choose an answer."),
        (["problem"], "", "Enter an answer."),
        (["problem"], "x" * 41, "Write at most 40 characters."),
        (["problem"], "\N{GRINNING FACE}" * 21, "Write at most 40 characters."),
        (["balance"], "11", "Choose an answer."),
        (["balance"], "-1", "Choose an answer."),
        (["balance"], "\N{ARABIC-INDIC DIGIT EIGHT}", "Choose an answer."),
    ],
)
def test_what_is_no_answer_is_said_at_its_field_and_kept(
    world: World, before: list[str], typed: str, words: str
) -> None:
    browser = started(world, "survey")
    answer(browser, *before)
    page = browser.post("/verify", answer=typed)
    assert page.status_code == 422
    assert words in page.text
    if len(typed) > 20:
        assert f'value="{typed}"' in page.text
    answer(browser, *(["balance"] if not before else ["Ok", "8", ""] if before == ["problem"] else ["8", ""]))
    assert browser.page.status_code == 200


def test_all_questions_on_one_page(world: World) -> None:
    browser = started(world, "all")
    assert "A few questions" in browser.page.text
    page = browser.post("/verify", answer_why="problem", answer_nps="5")
    assert page.status_code == 422
    assert page.text.count("Enter an answer.") == 1
    assert 'value="problem" checked' in page.text
    browser.post("/verify", answer_why="balance", answer_what="is not asked", answer_nps="5", answer_better="More")
    (found,) = results(world)
    assert (found["why"], found["what"], found["nps"], found["better"]) == ("balance", "", "5", "More")


def test_answers_after_a_proof_are_stored_as_the_customer_s(world: World) -> None:
    browser = started(world, "after", identifier="C-1001")
    browser.prove(PASSWORD)
    answer(browser, "balance", "7", "")
    assert results(world)[0]["result"] == "verified_after"
    (row,) = world.rows(AnswerRow)
    thandi = next(row for row in world.rows(CustomerRow) if row.customer_id == "C-1001")
    assert (row.customer_row, row.expires_at - row.answered_at) == (thandi.id, timedelta(days=29, hours=12))
    stored = json.loads(world.services.keyring.open(row.answers_sealed, ANSWER_ANSWERS, row.id))
    assert stored == {"why": "balance", "nps": "7", "better": ""}
    assert b"balance" not in row.answers_sealed
    exported = world.services.person_export.of(thandi.id)
    assert exported["answers"][0]["answers"] == stored
    world.services.erasure.erase(thandi.id)
    assert world.rows(AnswerRow) == []


def test_stored_answers_are_removed_when_their_time_is_over(world: World) -> None:
    browser = started(world, "after", identifier="C-1001")
    browser.prove(PASSWORD)
    answer(browser, "balance", "7", "")
    world.clock.advance(29 * 86_400)
    prune(world.transactions)
    assert len(world.rows(AnswerRow)) == 1
    world.clock.advance(2 * 86_400)
    prune(world.transactions)
    assert world.rows(AnswerRow) == []


def test_anonymous_answers_name_no_one_and_reach_no_chat(world: World) -> None:
    browser = started(world, "secret")
    assert "Your answers aren't linked to your name." in browser.page.text
    world.clock.advance(75)
    answer(browser, "balance", "7", "Secret words")
    (found,) = results(world)
    assert set(found) == {"result", "outcome", "journey"}
    (row,) = world.rows(AnswerRow)
    assert (row.verification_id, row.customer_row) == (None, None)
    assert row.answered_at.time().isoformat() == "00:00:00"
    assert len(row.id) == 32
    assert all(visit.given_sealed is None for visit in world.rows(Visit))


def test_the_audit_learns_how_many_answers_there_were_and_never_what(world: World) -> None:
    browser = started(world, "survey")
    answer(browser, "problem", "Mzansi words", "8", "")
    found = [row for row in world.rows(AuditEvent) if row.kind == "questions_answered"]
    assert [row.facts["answers"] for row in found] == [3]
    assert "Mzansi" not in "".join(json.dumps(row.facts) for row in world.rows(AuditEvent))


@pytest.mark.parametrize("reason", ["no_code", "expired", "verified", "completed"])
def test_r41_a_survey_ends_only_as_it_can(world: World, reason: str) -> None:
    """No page of it offers these, and a form that names one ends nothing."""
    browser = started(world, "survey")
    assert browser.post("/verify/cancel", reason=reason).status_code == 400
    browser.get("/verify")
    answer(browser, "balance", "8", "")
    assert [one["result"] for one in results(world)] == ["completed"]
