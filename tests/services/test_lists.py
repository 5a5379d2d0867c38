"""Every filter of a list is served by an index, in its order: what is fast with a hundred rows must be with a million."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from auth_portal.services.history import lists, stories
from auth_portal.services.history.audit_trail import AuditFilter
from auth_portal.services.history.delivery_lists import FAILED, DeliveryFilter
from auth_portal.services.history.stories import LIVE, StoryFilter
from auth_portal.store.models import Base
from tests.world import World

DELIVERIES, STORIES, AUDIT = "delivery_lists", "stories", "audit_trail"
FEW = {"journeys", "channels", "channel_states", "admins", "portal"}  # tables that stay small
KEY = "sqlite_autoindex"  # the primary key, which ids are sorted by


@pytest.mark.parametrize(
    ("service", "wanted", "index"),
    [
        (DELIVERIES, DeliveryFilter(), KEY),
        (DELIVERIES, DeliveryFilter(state="accepted", kind="message"), KEY),
        (DELIVERIES, DeliveryFilter(state="given_up"), "ix_deliveries_state"),
        (DELIVERIES, DeliveryFilter(state=FAILED, target="sms"), "ix_deliveries_state"),
        (STORIES, StoryFilter(), KEY),
        (STORIES, StoryFilter(outcome="verified"), KEY),
        (STORIES, StoryFilter(slug="app"), "ix_verifications_slug"),
        (STORIES, StoryFilter(method="totp"), KEY),
        (STORIES, StoryFilter(method="totp", outcome="wrong"), "ix_verifications_outcome"),
        (STORIES, StoryFilter(slug="app", outcome="verified"), "ix_verifications_slug"),
        (STORIES, StoryFilter(outcome="wrong"), "ix_verifications_outcome"),
        (STORIES, StoryFilter(outcome="wrong", slug="app"), "ix_verifications_outcome"),
        (AUDIT, AuditFilter(), KEY),
        (AUDIT, AuditFilter(kind="proof_failed"), KEY),
        (AUDIT, AuditFilter(kind="keys_rotated"), "ix_audit_events_kind"),
        (AUDIT, AuditFilter(admin_id="a" * 32), "ix_audit_events_admin"),
        (AUDIT, AuditFilter(words="needle verified"), KEY),
        (AUDIT, AuditFilter(address="198.51.", actor="programs"), KEY),
        (AUDIT, AuditFilter(admin_id="a" * 32, kind="proof_failed"), "ix_audit_events_admin"),
    ],
)
def test_a_page_is_a_range_of_an_index(small_world: World, service: str, wanted: Any, index: str) -> None:
    plans = plans_of(small_world, lambda: getattr(small_world.services, service).page(wanted, after="f" * 32))
    assert plans
    for plan in plans:
        assert index in plan[0] or "SCAN anon" in plan[-1], plan
        assert not [line for line in plan if "TEMP B-TREE" in line], plan


def test_what_is_on_its_way_is_found_by_its_index(small_world: World) -> None:
    for wanted in (DeliveryFilter(state="pending"), DeliveryFilter(state="pending", kind="message")):
        for plan in plans_of(small_world, lambda wanted=wanted: small_world.services.delivery_lists.page(wanted)):
            assert "ix_deliveries_pending" in plan[0], plan


@pytest.mark.parametrize(
    "act",
    [
        lambda overview: overview.figures("month"),
        lambda overview: overview.figures("week", "app"),
        lambda overview: overview.checklist(),
        lambda overview: overview.locked(),
        lambda overview: overview.last_accepted_at(),
    ],
)
def test_home_reads_nothing_from_end_to_end_that_grows(small_world: World, act: Any) -> None:
    plans = plans_of(small_world, lambda: act(small_world.services.overview))
    assert plans
    for plan in plans:
        assert set(scanned(plan)) <= FEW, plan


@pytest.mark.parametrize("slug", ["", "app"])
def test_those_under_way_are_counted_by_their_index_and_not_by_the_time(small_world: World, slug: str) -> None:
    plans = plans_of(small_world, lambda: small_world.services.overview.figures("month", slug))
    (plan,) = [plan for plan in plans if any(" verifications" in line for line in plan)]
    assert is_of_the_live(plan), plan


def is_of_the_live(plan: list[str]) -> bool:
    """Whether of verifications only those under way are read, and then each by its id."""
    read = [line for line in plan if re.match(r"(SCAN|SEARCH) (verifications|under_way)", line)]
    by_index = [line for line in read if "ix_verifications_deadline" in line or "uq_verifications_live" in line]
    by_id = [line for line in read if re.search(r"SEARCH verifications .*\(id=\?\)", line)]
    return len(by_index) == len(by_id) == 1 and len(read) == len(by_index) + len(by_id)


@pytest.mark.parametrize("slug", ["", "app"])
def test_those_under_way_are_listed_by_their_index_in_any_range(small_world: World, slug: str) -> None:
    now = small_world.clock.now
    wanted = StoryFilter(outcome=LIVE, slug=slug, since=now - timedelta(days=30), until=now)
    (plan,) = plans_of(small_world, lambda: small_world.services.stories.page(wanted))
    assert is_of_the_live(plan), plan


@pytest.mark.parametrize("wanted", [StoryFilter(outcome=LIVE), StoryFilter(customers=("x",), names=("y",))])
def test_few_rows_are_found_by_an_index_and_sorted(small_world: World, wanted: StoryFilter) -> None:
    for plan in plans_of(small_world, lambda: small_world.services.stories.page(wanted)):
        assert " USING " in plan[0], plan


def plans_of(world: World, act: Any) -> list[list[str]]:
    """How SQLite would go about each statement of an act."""
    world.services.dispatcher.stop()  # its own statements are none of a list's
    world.services.journeys.current()  # which a process at work has read before
    seen: list[tuple[str, Any]] = []
    engine = world.services.transactions.database.engine

    def note(_connection: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        if statement.startswith("SELECT"):
            seen.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    try:
        act()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    with engine.connect() as connection:
        return [
            [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
            for statement, values in seen
            if "portal.version" not in statement
        ]


def test_a_page_that_looked_through_enough_says_from_where_to_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "LOOKED_AT", 4)
    for number in range(10):
        slug = "mail" if number == 0 else "app"
        browser = world.browser()
        browser.open(f"reference-{number}", slug)
        browser.post(f"/j/{slug}", decline="not_me")
        world.clock.advance(1)
    page, wanted = world.services.stories.page, StoryFilter(outcome="not_me", slug="mail")
    with monkeypatch.context() as patch:
        patch.setattr(stories, "WINDOW", 4)
        counts = world.services.stories.counts(wanted)
        assert (str(counts["not_me"]), str(counts["verified"])) == ("1", "0"), "all of this journey's were looked at"
        counts = world.services.stories.counts(StoryFilter(slug="app"))
        assert (str(counts["not_me"]), str(counts["verified"])) == ("4+", "0+"), "not all were looked at"
        counts = world.services.stories.counts(StoryFilter())
        assert (str(counts["not_me"]), str(counts["verified"])) == ("10", "0+"), "an index has the rare ones"
    first = page(wanted)
    assert (first.rows, first.is_partial, bool(first.older)) == ((), True, True)
    second = page(wanted, after=first.older)
    assert second.is_partial
    third = page(wanted, after=second.older)
    assert ([line.slug for line in third.rows], third.older, third.is_partial) == (["mail"], "", False)


@pytest.mark.parametrize(
    ("service", "act"),
    [
        (DELIVERIES, lambda lists: lists.counts(DeliveryFilter())),
        (DELIVERIES, lambda lists: lists.counts(DeliveryFilter(kind="message", target="sms"))),
        (STORIES, lambda lists: lists.counts(StoryFilter())),
        (STORIES, lambda lists: lists.counts(StoryFilter(slug="app"))),
        (STORIES, lambda lists: lists.counts(StoryFilter(customers=("x",), names=("y",)))),
        (STORIES, lambda lists: lists.subjects_of(["x", "y"])),
        (AUDIT, lambda lists: lists.last_of("a" * 32, 5)),
    ],
)
def test_counts_and_what_rows_are_about_are_read_by_an_index(small_world: World, service: str, act: Any) -> None:
    plans = plans_of(small_world, lambda: act(getattr(small_world.services, service)))
    assert plans
    for plan in plans:
        assert scanned(plan) == [], plan


def scanned(plan: list[str]) -> list[str]:
    """The tables that are read from end to end."""
    return [name for name in Base.metadata.tables if any(re.match(rf"SCAN {name}\b(?! USING)", line) for line in plan)]


def test_what_a_customers_page_shows_is_read_by_an_index(small_world: World) -> None:
    small_world.browser().begin("one", "balance")
    row = small_world.services.customers.row_of("C-1001")
    plans = plans_of(small_world, lambda: small_world.services.stories.history_of(row))
    assert len(plans) > 10
    for plan in plans:
        assert set(scanned(plan)) <= FEW, plan
