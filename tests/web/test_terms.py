"""Terms are read and accepted, or declined; with a proof or without, and once for a version if the journey says so."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from auth_portal.store.models import HIDDEN_STEPS, Acceptance, AuditEvent, CustomerRow, Verification, Visit
from tests.admin.desk import signed_in
from tests.receiver import Receiver
from tests.security.tools import STILL, code_for, expire
from tests.services.steps import (
    AGAIN,
    IDENTIFY,
    PASSWORD_STEP,
    PLAIN_TERMS,
    SMS_STEP,
    TERMS,
    TEXT,
    results,
    started,
    stepped,
)
from tests.world import CONFIG, PASSWORD, PHONE, Browser, World, journey, open_world

DIGEST = hashlib.sha256(TEXT.replace("\\n", "\n").encode()).hexdigest()
JOURNEYS = (
    journey("balance", "sms_code", default=True)
    + stepped("terms", TERMS)
    + stepped("plain", PLAIN_TERMS)
    + stepped("before", TERMS, IDENTIFY, SMS_STEP)
    + stepped("between", IDENTIFY, PASSWORD_STEP, AGAIN, SMS_STEP)
    + stepped("named", IDENTIFY, TERMS, SMS_STEP)
    + stepped("linked", '{ kind = "terms", version = "2", title = "Our terms", link = { en = "https://a.example/t" }, '
              f'sha256 = {{ en = "{"ab" * 32}" }} }}')
)  # fmt: skip


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    with open_world(tmp_path, database_url, receiver, config=JOURNEYS, settings=STILL) as opened:
        yield opened


def events(world: World) -> list[str]:
    return [row.kind for row in world.rows(AuditEvent) if row.kind.startswith(("terms", "verification_ended"))]


def test_a_journey_that_begins_with_terms_asks_no_one_who_they_are(world: World) -> None:
    page = world.browser().open("abc", "terms").text
    assert "Read the terms" in page
    assert 'name="identifier"' not in page
    assert "It wasn't me" in page or "I didn't ask for this" in page


def test_accepted_terms_complete_a_journey_without_a_proof(world: World) -> None:
    browser = started(world, "terms")
    assert browser.path == "/verify"
    page = browser.page.text
    assert "<h2>Your account</h2>" in page
    assert "<strong>one</strong>" in page
    assert "Version 3, from 1 November 2026." in page
    browser.post("/verify", accept=["read", "tips"])
    assert browser.path == "/done"
    (answer,) = results(world)
    assert answer == {
        "result": "completed",
        "outcome": "completed",
        "journey": "terms",
        "terms_version": "3",
        "terms_accepted_at": "2026-11-22T12:00:00Z",
        "tips": "yes",
    }
    (row,) = world.rows(Acceptance)
    assert (row.slug, row.version, row.language, row.digest, row.boxes) == ("terms", "3", "en", DIGEST, "read tips")
    assert (row.customer_row, row.accepted_at) == (None, world.clock.now)
    assert events(world) == ["terms_accepted", "verification_ended"]
    assert all(visit.given_sealed is None for visit in world.rows(Visit))


@pytest.mark.parametrize(
    ("region", "language", "date"),
    [
        ("ZA", "en", "1 November 2026"),
        ("US", "en", "November 1, 2026"),
        ("ZA", "zu", "1 Novemba 2026"),
        ("ZA", "st", "1 Pudungwana 2026"),
        ("ZA", "af", "1 November 2026"),
        ("ZA", "de", "1. November 2026"),
        ("US", "fr", "1 novembre 2026"),
    ],
)
def test_a_date_is_written_as_in_the_region(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, region: str, language: str, date: str
) -> None:
    base = CONFIG.replace('default_region = "ZA"', f'default_region = "{region}"')
    with open_world(tmp_path, sqlite_url, receiver, config=JOURNEYS, base=base, settings=STILL) as world:
        browser = world.browser()
        browser.get(f"/j/terms?lang={language}&reference=abc")
        page = browser.post("/j/terms").text
        assert re.search(rf"[ >-]{date}[. ]", page), page


@pytest.mark.parametrize("accepted", [[], ["tips"], ["other"]])
def test_a_required_box_must_be_ticked(world: World, accepted: list[str]) -> None:
    browser = started(world, "terms")
    page = browser.post("/verify", accept=accepted)
    assert page.status_code == 422
    assert "To go on, accept the terms." in page.text
    assert ('value="tips" checked' in page.text) is ("tips" in accepted)
    assert world.rows(Acceptance) == []
    browser.post("/verify", accept="read")
    assert results(world)[0]["tips"] == "no"


def test_terms_without_boxes_are_accepted_by_their_button(world: World) -> None:
    browser = started(world, "plain")
    assert browser.post("/verify").status_code == 422
    browser.post("/verify", accept="yes")
    assert results(world)[0]["result"] == "completed"


def test_declining_has_a_confirming_step_and_is_an_outcome_of_its_own(world: World) -> None:
    browser = started(world, "terms")
    assert browser.get("/verify/decline").status_code == 200
    assert "Decline these terms?" in browser.page.text
    assert world.rows(Verification)[0].outcome is None
    browser.post("/verify", decline="terms")
    assert browser.path == "/done"
    assert "You declined. Go back to your chat" in browser.page.text
    (answer,) = results(world)
    assert answer == dict.fromkeys(answer, "") | {"result": "declined", "outcome": "declined", "journey": "terms"}
    assert set(answer) == {"result", "outcome", "journey", "terms_version", "terms_accepted_at", "tips"}
    assert events(world) == ["terms_declined", "verification_ended"]
    assert world.rows(Acceptance) == []


def test_terms_declined_after_a_proof_say_nothing_of_the_customer(world: World) -> None:
    browser = started(world, "between", identifier="C-1001")
    browser.prove(PASSWORD)
    browser.get("/verify/decline")
    browser.post("/verify", decline="terms")
    (answer,) = results(world)
    assert answer == dict.fromkeys(answer, "") | {"result": "declined", "outcome": "declined", "journey": "between"}


def test_the_page_to_decline_is_only_for_terms(world: World) -> None:
    browser = started(world, "named", identifier="C-1001")
    browser.post("/verify", accept="read")
    browser.get("/verify/decline")
    assert browser.path == "/verify"
    assert world.browser().get("/verify/decline").status_code == 400


def test_terms_before_naming_are_known_as_the_customer_s_after_the_proof(world: World) -> None:
    browser = started(world, "before")
    browser.post("/verify", accept="read")
    assert 'name="identifier"' in browser.page.text
    browser.post("/verify", identifier="C-1001")
    browser.prove(code_for(world, PHONE))
    assert browser.path == "/done"
    (answer,) = results(world)
    assert (answer["result"], answer["customer_id"], answer["terms_version"]) == ("verified_before", "C-1001", "3")
    (row,) = world.rows(Acceptance)
    thandi = next(row for row in world.rows(CustomerRow) if row.customer_id == "C-1001")
    assert row.customer_row == thandi.id


def test_the_first_name_in_a_visit_is_no_change_of_one(world: World) -> None:
    browser = started(world, "before")
    browser.post("/verify", accept="read")
    browser.post("/verify", identifier="C-1001")
    assert world.rows(Verification)[0].identity_changes == 0
    browser.post("/verify/change")
    assert 'name="identifier"' in browser.page.text
    browser.post("/verify", identifier="C-1002")
    assert world.rows(Verification)[0].identity_changes == 1


def test_changing_who_you_are_drops_what_came_after_naming(world: World) -> None:
    browser = started(world, "named", identifier="C-1002")
    browser.post("/verify", accept="read")
    browser.post("/verify/change")
    browser.post("/verify", identifier="C-1001")
    assert "Read and accept the savings terms" in browser.page.text
    browser.post("/verify", accept="read")
    browser.prove(code_for(world, PHONE))
    assert results(world)[0]["customer_id"] == "C-1001"


def passed(world: World, reference: str) -> Browser:
    """A browser past the password of ``between``."""
    browser = started(world, "between", reference, identifier="C-1001")
    browser.prove(PASSWORD)
    return browser


def test_a_version_that_was_accepted_is_not_asked_for_again(world: World) -> None:
    browser = passed(world, "first")
    browser.post("/verify", accept="read")
    browser.prove(code_for(world, PHONE))
    world.clock.advance(31)
    browser = passed(world, "second")
    assert "savings terms" not in browser.page.text
    browser.prove(code_for(world, PHONE))
    first, second = results(world)
    assert first["terms_accepted_at"] == second["terms_accepted_at"] == "2026-11-22T12:00:00Z"
    assert second["result"] == "verified_between"
    assert len(world.rows(Acceptance)) == 1


@pytest.mark.parametrize("change", [{"version": "2"}, {"digest": "0" * 64}, {"customer_row": "0" * 32}, {"mac": None}])
def test_another_version_text_or_customer_asks_again(world: World, change: dict[str, str]) -> None:
    """And an acceptance that someone has written into the database counts for nothing (R54)."""
    browser = passed(world, "first")
    browser.post("/verify", accept="read")
    browser.prove(code_for(world, PHONE))
    with world.database.write() as connection:
        connection.execute(update(Acceptance).values(**change))
    if "mac" not in change:
        world.accept()
    world.clock.advance(31)
    assert "savings terms" in passed(world, "second").page.text


def test_a_box_that_became_required_is_asked_for(world: World) -> None:
    """What someone accepted without it is no acceptance of what is asked now, though the text is the same."""
    browser = passed(world, "first")
    browser.post("/verify", accept="read")
    browser.prove(code_for(world, PHONE))
    config = stepped("between", IDENTIFY, PASSWORD_STEP, AGAIN.replace(", required = false", ""), SMS_STEP)
    config = config.replace("{{", "{").replace("}}", "}").replace("{receiver}", world.receiver.origin)
    world.services.configuration.import_toml(config, file_name="a.toml")
    world.services.journeys.renew()
    world.clock.advance(31)
    browser = passed(world, "second")
    assert "savings terms" in browser.page.text
    assert browser.post("/verify", accept="read").status_code == 422
    browser.post("/verify", accept=["read", "tips"])
    browser.prove(code_for(world, PHONE))
    world.clock.advance(31)
    assert "savings terms" not in passed(world, "third").page.text


def test_what_was_accepted_in_a_chat_that_ran_out_of_time_is_only_audited(world: World) -> None:
    browser = passed(world, "first")
    browser.post("/verify", accept="read")
    world.clock.advance(600)
    assert expire(world) == 1
    assert world.rows(Acceptance) == []
    assert events(world) == ["terms_accepted", "verification_ended"]
    assert all(visit.given_sealed is None for visit in world.rows(Visit))


def test_another_browser_inherits_nothing(world: World) -> None:
    started(world, "before").post("/verify", accept="read")
    assert "savings terms" in started(world, "before").page.text


def test_the_same_browser_goes_on_where_it_was(world: World) -> None:
    browser = started(world, "before")
    browser.post("/verify", accept="read")
    browser.open("abc", "before")
    if browser.path != "/verify":
        browser.get("/verify")
    assert 'name="identifier"' in browser.page.text


@pytest.mark.parametrize("step", [1, HIDDEN_STEPS + 1])
def test_r54_a_visit_put_past_the_terms_is_over(world: World, step: int) -> None:
    """Signed or not: what was given is sealed together with the step. An older release counts steps in another way."""
    browser = started(world, "before")
    with world.database.write() as connection:
        connection.execute(update(Visit).values(step=step))
    world.accept()
    assert browser.get("/verify").status_code == 400
    assert browser.get("/done").status_code == 400
    world.clock.advance(600)
    assert expire(world) == 1
    assert results(world)[0]["result"] == "failed"


def sealed(world: World) -> dict[str, bytes | None]:
    return {row.id: row.given_sealed for row in world.rows(Visit)}


def put(world: World, visit: str, given: bytes | None) -> None:
    with world.database.write() as connection:
        connection.execute(update(Visit).where(Visit.id == visit).values(given_sealed=given))


def test_r54_what_another_visit_gave_counts_for_nothing(world: World) -> None:
    """Both stand at the same step with no one named; the row's own signature does not cover what was given."""
    started(world, "before", "theirs").post("/verify", accept=["read", "tips"])
    browser = started(world, "before", "mine")
    browser.post("/verify", accept="read")
    theirs, mine = sealed(world)
    put(world, mine, sealed(world)[theirs])
    assert browser.get("/verify").status_code == 400


def test_r54_what_was_given_before_a_step_counts_for_nothing_after_it(world: World) -> None:
    browser = started(world, "before", "mine")
    browser.post("/verify", accept=["read", "tips"])
    (visit,) = sealed(world)
    earlier = sealed(world)[visit]
    browser.post("/verify", identifier="C-1001")
    later = sealed(world)[visit]
    assert later != earlier
    put(world, visit, earlier)
    assert browser.get("/verify").status_code == 400
    put(world, visit, later)
    assert browser.get("/verify").status_code == 200
    browser.prove(code_for(world, PHONE))
    assert browser.path == "/done"


def test_terms_behind_a_link_are_accepted_by_their_digest(world: World) -> None:
    browser = started(world, "linked")
    assert 'href="https://a.example/t"' in browser.page.text
    browser.post("/verify", accept="yes")
    assert world.rows(Acceptance)[0].digest == "ab" * 32


def test_a_form_for_an_older_prompt_accepts_nothing(world: World) -> None:
    browser = started(world, "before")
    old = browser.hidden("/verify")
    browser.post("/verify", accept="read")
    browser.post("/verify", **{**old, "accept": "read"})
    assert 'name="identifier"' in browser.page.text
    assert world.rows(Visit)[0].step == HIDDEN_STEPS + 1


def test_the_customer_s_page_and_export_say_what_they_accepted(world: World) -> None:
    browser = started(world, "named", identifier="C-1001")
    browser.post("/verify", accept=["read", "tips"])
    browser.prove(code_for(world, PHONE))
    thandi = next(row for row in world.rows(CustomerRow) if row.customer_id == "C-1001")
    page = signed_in(world, "support").get(f"/admin/customers/{thandi.id}").text
    assert "Accepted terms" in page
    assert "read tips" in page
    assert DIGEST[:12] in page
    (accepted,) = world.services.person_export.of(thandi.id)["accepted_terms"]
    assert (accepted["version"], accepted["digest"], accepted["boxes"]) == ("3", DIGEST, "read tips")
    world.services.erasure.erase(thandi.id)
    assert [row.customer_row for row in world.rows(Acceptance)] == [None]
