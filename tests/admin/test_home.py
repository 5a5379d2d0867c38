"""The home page: what needs attention, the funnel, the first steps."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import datetime, timedelta
from html import unescape
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import delete, insert, select

from auth_portal.services.history.overview import Figures, spread
from auth_portal.services.operations.retention import sum_hours
from auth_portal.services.verification import tries
from auth_portal.store.models import ALL_HOURS, AlertRow, AuditEvent, Delivery, HourlyCount, Tries, Verification, Visit
from tests.admin.desk import Desk, signed_in
from tests.receiver import Receiver
from tests.security.tools import STILL, code_for, deliver, expire, wrong
from tests.services.steps import QUESTIONS, started, stepped
from tests.world import PHONE, STANDARD, World, open_world


def counted(world: World) -> None:
    """Have what this process counted written, as its heartbeat does, and have Home count again."""
    world.services.health.write_counts()
    world.services.overview._cache.clear()


def plain(page: str) -> str:
    """The page's text, with single blanks."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<svg.*?</svg>|<[^>]*>", " ", page, flags=re.DOTALL)))


def funnel(page: str) -> dict[str, int]:
    """The stages of the page, by their names."""
    found = re.search(r'<ol class="stages">(.*?)</ol>', page, re.DOTALL)
    assert found, page
    stages = re.findall(r"<li><span>(.*?)</span>.*?<span class=\"count\">([\d,]+)</span>", found[1], re.DOTALL)
    return {name: int(number.replace(",", "")) for name, number in stages}


def stat(page: str, name: str) -> str:
    found = re.search(rf"<dt>{name}</dt>\s*<dd[^>]*>(.*?)</dd>", page, re.DOTALL)
    assert found, (name, page)
    return plain(found[1]).strip()


def lived(world: World) -> None:
    """Customers who go through journeys in every way that Home tells apart."""
    for number, code in enumerate((world.totp(), "000000", None)):
        browser = world.browser()
        browser.begin(f"app-{number}", "app")
        if code:
            browser.prove(code)
    world.browser().open("only-looked", "app")  # begins nothing
    by_code = world.browser()
    by_code.begin("code-1", "balance")
    by_code.prove(code_for(world, PHONE))
    guesser = world.browser()
    guesser.begin("guess-1", "balance")
    code = code_for(world, PHONE)
    for _try in range(5):
        guesser.prove(wrong(code))
    world.receiver.sms_answers = [403]
    world.browser().begin("refused-1", "balance", "C-1002")
    deliver(world)
    world.browser().begin("stranger-1", "balance", "C-9999")  # no message is handed over
    deliver(world)
    declining = world.browser()
    declining.open("declined-1", "balance")
    declining.post("/j/balance", decline="not_me", identifier="")
    world.browser().begin("password-1", "password")  # needs no code
    by_mail = world.browser()
    by_mail.open("either-1", "either")
    by_mail.post("/j/either", method="email_code", identifier="C-1001")
    deliver(world)


def test_each_figure_is_what_the_tables_say(still: World) -> None:
    lived(still)
    still.clock.advance(3600)
    while expire(still):
        pass
    deliver(still)
    counted(still)
    page = signed_in(still).get("/admin/").text
    rows = still.rows(Verification)
    assert len(rows) == 10
    sent = [row for row in still.rows(Delivery) if row.challenge_id]
    accepted = {row.verification_id for row in sent if row.state == "accepted"}
    asked = {row.verification_id for row in sent}
    refused = {row.verification_id for row in sent if row.state in ("refused", "unconfirmed", "given_up")} - accepted
    chose = {row.verification_id for row in still.rows(Visit) if row.method or row.proved}
    needs_none = {row.verification_id for row in still.rows(Visit) if row.method in ("totp", "password")}
    verified = {row.id for row in rows if row.outcome == "verified"}
    answers = [row for row in still.rows(Delivery) if row.kind == "callback" and row.state == "accepted"]
    assert funnel(page) == {
        "Began": len(rows),
        "Said who they are": sum(row.identifier_key is not None for row in rows),
        "Chose a method": len(chose | asked),
        "Code left, or none needed": len(accepted | needs_none),
        "Proved who they are": len(verified),
        "Chat has the answer": len({row.verification_id for row in answers} & verified),
    }
    assert (len(verified), len(accepted), len(refused)) == (2, 3, 1), "the example has every kind"
    assert stat(page, "Asked for a code") == str(len(asked)) == "5"
    assert stat(page, "Accepted by a provider").split()[0] == str(len(accepted))
    assert stat(page, "Refused") == str(len(refused))
    assert stat(page, "Not sent") == str(len(asked - accepted - refused)) == "1"
    assert stat(page, "Begun") == str(len(rows))
    assert stat(page, "Under way now") == "0"
    outcomes = Counter(row.outcome for row in rows)
    for outcome, words in (("verified", "verified"), ("expired", "time ran out"), ("wrong", "all tries wrong")):
        assert re.search(rf"{words}</a></dt>\s*<dd>{outcomes[outcome]} ", page), (outcome, outcomes)


def test_who_is_under_way_has_not_dropped_out(still: World) -> None:
    still.browser().begin("ref-1", "app")
    done = still.browser()
    done.begin("ref-2", "app")
    done.prove(still.totp())
    deliver(still)
    counted(still)
    page = signed_in(still).get("/admin/").text
    assert (stat(page, "Begun"), stat(page, "Under way now")) == ("2", "1")
    assert set(funnel(page).values()) == {1}
    assert "1 of 1 that ended" in plain(page)


def test_what_ends_later_counts_for_the_hour_in_which_it_began(still: World) -> None:
    still.clock.now = still.clock.now.replace(hour=9, minute=58, second=0)
    still.browser().begin("ref-1", "app")
    still.clock.advance(3600)
    expire(still)
    counted(still)
    page = signed_in(still).get("/admin/").text
    table = re.findall(r">(2026[^<]*09:00)</time>.*?<td class=\"number\">(\d+)</td>", page, re.DOTALL)
    assert [begun for _time, begun in table] == ["1"]
    hours = {row.hour for row in still.rows(HourlyCount) if row.name.startswith("verification_stages")}
    assert {hour.hour for hour in hours if hour.year > 1970} == {9}


def test_a_range_can_be_chosen_and_a_journey(still: World) -> None:
    for slug in ("app", "app", "waiting"):
        browser = still.browser()
        browser.begin(f"ref-{slug}-{len(still.rows(Verification))}", slug)
        browser.prove(still.totp())
        still.clock.advance(31)
    deliver(still)
    still.clock.advance(3 * 86_400)
    counted(still)
    owner = signed_in(still)
    assert "No verification began in this time" in owner.get("/admin/").text
    for name in ("week", "month"):
        assert stat(owner.get(f"/admin/?range={name}").text, "Begun") == "3"
        assert stat(owner.get(f"/admin/?range={name}&journey=app").text, "Begun") == "2"
        assert stat(owner.get(f"/admin/?range={name}&journey=none-such").text, "Begun") == "3"
    assert 'aria-current="true">24 hours' in owner.get("/admin/?range=%01").text


def test_a_share_is_compared_with_the_week_before(small_world: World, owner: Desk) -> None:
    hour = small_world.clock.now.replace(minute=0, second=0, microsecond=0)
    rows = [
        {"hour": hour - timedelta(days=days), "name": name, "labels": json.dumps(labels), "value": value}
        for days, verified, others in ((0, 30, 10), (7, 36, 4))
        for name, labels, value in (
            ("verifications_began", ["app"], verified + others),
            ("verification_stages", ["app", "verified", "proved", ""], verified),
            ("verification_stages", ["app", "expired", "named", ""], others),
        )
    ]
    with small_world.database.write() as connection:
        connection.execute(insert(HourlyCount), rows)
    counted(small_world)
    page = plain(owner.get("/admin/").text)
    assert "75.0 %" in page
    assert "▼ 15.0 points against the same 24 hours last week (90.0 %)" in page
    assert "30 verified of 40 that ended" in page


def test_a_month_is_read_from_sums_of_days_and_of_six_hours_and_the_hours_since(world: World) -> None:
    """With them a month costs a hundredth of its rows. The figures are the same, before and after they are made."""
    hour = world.clock.now.replace(minute=0, second=0, microsecond=0)
    rows = [
        {"hour": hour - timedelta(hours=hours), "name": name, "labels": json.dumps(labels), "value": 1 + hours % 7}
        for hours in range(1, 62 * 24, 5)
        for name, labels in (
            ("verifications_began", ["app"]),
            ("verification_stages", ["app", "verified", "proved", ""]),
            ("verification_stages", ["app", "expired", "named", ""]),
            ("proof_seconds_bucket", ["app", ("10", "60", "+Inf")[hours % 3]]),
            ("answer_seconds_bucket", ["app", "verified", "0.5"]),
            ("message_seconds_bucket", ["sms", "2"]),
            ("messages_ended", ["sms", "ZA", "accepted"]),
            ("limits_hit", ["address"]),  # is not on Home
        )
    ]
    with world.database.write() as connection:
        connection.execute(insert(HourlyCount), rows)
    overview, names = world.services.overview, ("day", "week", "month")

    def shown() -> list[Figures]:
        overview._cache.clear()
        return [overview.figures(name) for name in names]

    before = shown()
    assert all(one.begun and one.other_share and one.to_proof and one.to_chat and one.channels for one in before)
    sum_hours(world.transactions)
    assert shown() == before
    with world.statements() as seen:
        sum_hours(world.transactions)
    assert not [text for text in seen if text.startswith("INSERT")], "each is added up once"
    with world.database.read() as connection:
        days, marked = (
            connection.execute(select(HourlyCount.hour).where(HourlyCount.name == name)).scalars().all()
            for name in ("24h", "6h")
        )
    assert max(marked) + timedelta(hours=6) <= world.clock.now - timedelta(days=2), "a later hour may still rise"
    cut = [hour - timedelta(days=days, hours=hours) for days in (7, 30) for hours in range(25)]  # of earlier ranges
    added = HourlyCount.hour < max(marked), HourlyCount.hour > ALL_HOURS, HourlyCount.hour.not_in(cut)
    with world.database.write() as connection:
        connection.execute(
            delete(HourlyCount).where(*added, HourlyCount.name.not_like("6h%"), HourlyCount.name.not_like("24h%"))
        )
    assert shown() == before, "what was added up is not read again"
    of_month = [day + timedelta(hours=part) for day in days for part in (0, 6, 12, 18)]
    cut = [hour - timedelta(days=30, hours=hours) for hours in range(25)]
    added = HourlyCount.hour.in_(of_month), HourlyCount.hour.not_in(cut), HourlyCount.name.like("6h%")
    with world.database.write() as connection:
        connection.execute(delete(HourlyCount).where(*added))
    assert shown()[2] == before[2], "a day that was added up is not read in parts"


def test_the_last_point_of_a_range_of_days_is_under_way(world: World) -> None:
    hour = world.clock.now.replace(minute=0, second=0, microsecond=0)
    first = (hour - timedelta(days=7)).replace(hour=18)  # of 28 quarters of a day, of which the last began at noon
    rows = [
        {"hour": at, "name": "verifications_began", "labels": '["app"]', "value": value}
        for at, value in ((first - timedelta(hours=1), 100), (first, 10), (hour, 1))
    ]
    with world.database.write() as connection:
        connection.execute(insert(HourlyCount), rows)
    figures = world.services.overview.figures("week")
    assert (figures.points[0].at, figures.points[0].begun, figures.points[-1].begun) == (first, 10, 1)
    assert (len(figures.points), figures.begun) == (28, 11)
    assert figures.place(first) == 0
    assert figures.place(hour + timedelta(hours=6)) == 100


def test_how_they_ended_is_a_bar_whose_parts_have_the_order_of_the_list(small_world: World, owner: Desk) -> None:
    hour = small_world.clock.now.replace(minute=0, second=0, microsecond=0)
    ended = {"verified": 150, "expired": 30, "of another version": 19, "cancelled": 1}
    rows = [
        {"hour": hour, "name": "verification_stages", "labels": json.dumps(labels), "value": value}
        for outcome, value in ended.items()
        for labels in (["app", outcome, "proved" if outcome == "verified" else "named", ""],)
    ]
    rows.append({"hour": hour, "name": "verifications_began", "labels": '["app"]', "value": sum(ended.values())})
    with small_world.database.write() as connection:
        connection.execute(insert(HourlyCount), rows)
    counted(small_world)
    page = owner.get("/admin/").text
    card = re.search(r'aria-labelledby="outcomes">(.*?)</section>', page, re.DOTALL)
    assert card
    bar, _end, table = card[1].partition("</svg>")
    assert 'aria-hidden="true"' in bar, "the list says it all"
    parts = re.findall(r'<rect class="(good|warn|bad|plain)" x="([\d.]+)%" width="([\d.]+)%"', bar)
    assert parts == [("good", "0", "75.0"), ("warn", "75.0", "15.0"), ("bad", "90.0", "9.5"), ("warn", "99.5", "0.5")]
    assert len(re.findall(r'fill="url\(#(?:stripes|dots)\)"', bar)) == 3, "a pattern tells the tones apart as well"
    assert bar.count('class="gap"') == 2, "a part that is thinner than a gap has none"
    assert re.findall(r'outcome=([^"]+)"', table) == list(ended)
    assert re.findall(r'class="stacked swatch".*?<rect class="(\w+)"', table, re.DOTALL) == [
        tone for tone, *_x in parts
    ]
    assert "150 75.0 %" in plain(table)
    with small_world.database.write() as connection:
        connection.execute(delete(HourlyCount).where(HourlyCount.name == "verification_stages"))
    counted(small_world)
    assert "None has ended yet." in owner.get("/admin/").text


def test_few_are_numbers_and_no_share(small_world: World, owner: Desk) -> None:
    hour = small_world.clock.now.replace(minute=0, second=0, microsecond=0)
    values = {"hour": hour, "name": "verification_stages", "labels": json.dumps(["app", "verified", "proved", ""])}
    began = {"hour": hour, "name": "verifications_began", "labels": json.dumps(["app"]), "value": 19}
    with small_world.database.write() as connection:
        connection.execute(insert(HourlyCount), [{**values, "value": 19}, began])
    counted(small_world)
    page = plain(owner.get("/admin/").text)
    assert "19 of 19 that ended" in page
    assert "100.0 % of" not in page.partition("Channels last 24 hours")[0]  # whose share is of the notice to the owner


def test_a_journey_without_a_proof_is_in_no_share(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    with open_world(
        tmp_path, sqlite_url, receiver, config=STANDARD + stepped("survey", QUESTIONS), settings=STILL
    ) as world:
        world.browser().begin("ref-1", "app")
        started(world, "survey")
        world.clock.advance(3600)
        expire(world)
        counted(world)
        page = signed_in(world).get("/admin/").text
        assert stat(page, "Begun") == "2"
        assert "0 of 1 that ended" in plain(page)


def test_home_reads_no_verification_that_has_ended(small_world: World, owner: Desk) -> None:
    """However many are stored: only those under way are counted, by their index."""
    counted(small_world)
    with small_world.statements() as seen:
        owner.get("/admin/?range=month")
    found = [text for text in seen if "FROM verifications" in text and "count(" in text]
    assert len(found) == 1
    assert "outcome IS NULL" in found[0]


def test_without_a_channel_nothing_is_called_well(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    with open_world(tmp_path, sqlite_url, receiver, config="", base="") as world:
        owner, support = signed_in(world), signed_in(world, "support")
        page = owner.get("/admin/").text
        assert "Nothing needs attention" not in page
        assert page.count('href="/admin/channels/_new"') == 1, "straight to the form"
        assert 'href="/admin/journeys/_new"' in page
        page = owner.get("/admin/?range=day").text
        assert "No channel yet, so no code can leave." in page
        assert "Nothing needs attention" not in page
        assert page.count('href="/admin/channels/_new"') == 1, "straight to the form"
        for path in ("/admin/", "/admin/?range=day"):
            assert "/_new" not in support.get(path).text, "which only an owner may open"


@pytest.mark.parametrize(
    ("counts", "half", "most"),
    [
        ({"2": 10}, 1.0, 1.9),
        ({"2": 5, "5": 5}, 2.0, 4.7),
        ({"+Inf": 3}, None, None),
        ({"2": 9, "+Inf": 1}, pytest.approx(10 / 9), None),
    ],
)
def test_a_spread_is_read_off_a_histogram(counts: dict[str, int], half: float | None, most: float | None) -> None:
    found = spread(counts, (2, 5))
    assert found is not None
    assert found.longest == 5
    assert (found.half, found.most) == (half, pytest.approx(most) if most is not None else None)
    assert spread({}, (2, 5)) is None


def test_a_locked_customer_needs_attention(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    """Sent by the test itself: where an attempt fails on a busy machine, its retry would wait for a clock that stands."""
    with open_world(tmp_path, sqlite_url, receiver, settings=STILL) as world:
        owner = signed_in(world)
        deliver(world)
        assert "Nothing needs attention." in owner.get("/admin/?range=day").text
        for number in range(3):
            browser = world.browser()
            browser.begin(f"ref-{number}", "app")
            for _try in range(5):
                browser.prove("000000")
        page = owner.get("/admin/").text
        assert "Locked customers" in page
        assert "C-1001" in page


def test_the_first_steps_lead_from_nothing_to_a_verification(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, config="", base="") as world:
        owner, auditor = signed_in(world), signed_in(world, "auditor")
        page = owner.get("/admin/").text
        assert "<h1>Welcome, Ada</h1>" in page, "they are in Home's place"
        assert "No verification began" not in page
        assert steps(page) == [True, False, True, False, False], "the country is chosen, and customers were imported"
        assert re.findall(r'<li class="step[^"]* open" aria-current="step">', page) == [
            '<li class="step open" aria-current="step">'
        ], "the first that is not done"
        assert "<h1>Home</h1>" in owner.get("/admin/?range=day").text
        assert "Not now" not in auditor.get("/admin/").text, "which is put off for all admins"
        assert 'href="/admin/?range=day">Go to Home' in auditor.page.text


def test_the_first_steps_can_wait_and_are_found_again(small_world: World, owner: Desk, support: Desk) -> None:
    """They leave Home's place for all admins, and come back when the time is over."""
    assert "<h1>Welcome, Ada</h1>" in owner.get("/admin/").text
    page = owner.submit("/admin/advice/later", kind="first_steps", subject="", of="").text
    assert "<h1>Home</h1>" in page
    assert "Put off until 2026-12-22, for all admins." in page
    assert "<h1>Home</h1>" in support.get("/admin/").text
    assert advised(owner).startswith("Protect the link of"), "the next thing to do"
    assert 'href="/admin/?first">First steps: 4 of 5' in owner.get("/admin/").text
    assert "<h1>Welcome, Ada</h1>" in owner.get("/admin/?first").text
    small_world.clock.advance(31 * 86400)
    owner.sign_in()
    assert "<h1>Welcome, Ada</h1>" in owner.get("/admin/").text
    browser = small_world.browser()
    browser.begin("ref-1", "app")
    browser.prove(small_world.totp())
    assert "<h1>Home</h1>" in owner.get("/admin/?first").text, "all of them are done"


def test_home_is_there_as_soon_as_customers_come(small_world: World, owner: Desk) -> None:
    small_world.browser().begin("ref-1", "app")
    counted(small_world)
    assert "<h1>Home</h1>" in owner.get("/admin/").text
    assert advised(owner) == "Finish the first steps"


def test_an_alert_is_seen_above_the_first_steps(small_still: World) -> None:
    owner = signed_in(small_still, "owner")
    begin_alert(small_still, "channel", "sms", "Channel sms fails. Its provider refuses the key.")
    page = owner.get("/admin/").text
    assert "<h1>Welcome, Ada</h1>" in page
    assert page.index("<strong>Channel sms fails.</strong>") < page.index("Take a test drive")


def test_the_first_step_is_the_business_and_no_country_is_chosen_before(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, sqlite_url, receiver, config="", base="") as world:
        owner, support = signed_in(world), signed_in(world, "support")
        world.services.configuration.import_toml('[portal]\ndefault_region = ""\n', file_name="none.toml")
        world.services.journeys.renew()
        page = owner.get("/admin/").text
        assert steps(page)[0] is False
        assert page.index("Say whose portal this is") < page.index("Add a channel")
        assert '<option value="" selected>Choose a country</option>' in page
        assert '<option value="ZA">South Africa</option>' in page
        assert "An owner still has to choose" in support.get("/admin/").text
        typed = {"name": "Acme Bank", "time_zone": "Africa/Johannesburg", "language": "en"}
        refused = owner.post("/admin/settings/first", **typed, default_region="")
        assert (refused.status_code, "choose a country" in refused.text) == (422, True)
        owner.get("/admin/")
        done = owner.post("/admin/settings/first", **typed, default_region="ZA").text
        assert "Acme Bank · South Africa · Africa/Johannesburg ·" in " ".join(done.split())
        settings = world.services.configuration.settings().settings
        assert (settings.name, settings.default_region, settings.time_zone) == (
            "Acme Bank",
            "ZA",
            "Africa/Johannesburg",
        )


def test_the_first_steps_stay_until_a_country_is_chosen(small_world: World, owner: Desk) -> None:
    """Even where everything else is done, such as on a portal that was set up by a config file."""
    small_world.services.configuration.import_toml('[portal]\ndefault_region = ""\n', file_name="none.toml")
    browser = small_world.browser()
    browser.begin("ref-1", "app", identifier="C-1001")
    browser.prove(small_world.totp())
    small_world.services.journeys.renew()
    page = owner.get("/admin/").text
    assert "<h1>Home</h1>" in page, "a portal that verifies is watched there"
    assert advised(owner) == "Finish the first steps"
    page = owner.get("/admin/?first").text
    assert steps(page) == [False, True, True, True, True]
    assert "Say whose portal this is" in page
    small_world.services.configuration.import_toml('[portal]\ndefault_region = "ZA"\n', file_name="za.toml")
    small_world.services.journeys.renew()
    assert "irst steps" not in owner.get("/admin/").text


def steps(page: str) -> list[bool]:
    """Which of the first steps are done."""
    return ["done" in classes.split() for classes in re.findall(r'<li class="(step[^"]*)"', page)]


def begin_alert(world: World, kind: str, subject: str, words: str, ended_at: datetime | None = None) -> None:
    """An alert as a dispatcher writes it; one that is at work would soon end it, as nothing is wrong."""
    row = {"id": uuid4().hex, "kind": kind, "subject": subject, "words": words, "since": world.clock.now}
    with world.database.write() as connection:
        connection.execute(insert(AlertRow).values(**row, ended_at=ended_at))


def advised(desk: Desk) -> str:
    """The heading of what to do next; empty where the page has no such card."""
    card = desk.get("/admin/").text.partition('id="next"')[2].partition("</section>")[0]
    found = re.search(r"<strong>([^<]*)</strong>", card)
    return found[1] if found else ""


def test_advice_is_put_off_for_a_time_and_the_next_is_shown(small_world: World, owner: Desk, support: Desk) -> None:
    browser = small_world.browser()
    browser.begin("ref-1", "app")
    assert advised(owner) in ("", "Finish the first steps"), "in Home's place, until the begun one is counted"
    browser.prove(small_world.totp())
    first = advised(owner)
    assert first.startswith("Protect the link of")
    assert "Not now" not in support.get("/admin/").text
    seen = [first]
    for _ in range(20):
        owner.post("/admin/advice/later", **owner.hidden("/admin/advice/later"))
        assert "Put off until 2026-12-22, for all admins." in owner.page.text
        if not (following := advised(owner)):
            break
        seen.append(following)
    assert len(set(seen)) == len(seen)
    assert seen[-1] == "Invite a second owner"
    assert advised(support) == ""
    events = [row for row in small_world.rows(AuditEvent) if row.kind == "advice_put_off"]
    assert len(events) == len(seen)
    assert {row.admin_id for row in events} == {owner.admin_id}
    small_world.clock.advance(29 * 86400)
    owner.sign_in()
    assert advised(owner) == ""
    small_world.clock.advance(2 * 86400)
    owner.sign_in()
    assert advised(owner) == first


@pytest.mark.parametrize("fields", [{}, {"kind": "key", "subject": "none"}, {"kind": "x" * 5000, "of": "é"}])
def test_what_is_no_advice_is_not_put_off(owner: Desk, fields: dict[str, str]) -> None:
    browser = owner.world.browser()
    browser.begin("ref-1", "app")
    browser.prove(owner.world.totp())
    owner.get("/admin/")
    page = owner.post("/admin/advice/later", **{"kind": "", "subject": "", "of": "", **fields})
    assert (page.status_code, "no longer a reason" in page.text) == (200, True)
    assert not [row for row in owner.world.rows(AuditEvent) if row.kind == "advice_put_off"]


def test_the_first_steps_go_once_they_are_done(small_world: World, owner: Desk) -> None:
    assert len(steps(owner.get("/admin/").text)) == 5
    browser = small_world.browser()
    browser.begin("ref-1", "app")
    browser.prove(small_world.totp())
    page = owner.get("/admin/").text
    assert "<h1>Home</h1>" in page
    assert "irst steps" not in page


def test_a_cap_that_is_nearly_used_up_is_to_be_looked_at(small_still: World) -> None:
    owner = signed_in(small_still, "owner")
    browser = small_still.browser()
    browser.begin("ref-1", "app")
    browser.prove(small_still.totp())
    while advised(owner).startswith("Protect"):
        owner.post("/admin/advice/later", **owner.hidden("/admin/advice/later"))
    for subject, ended_at in (("mail 50%", None), ("mail 80%", small_still.clock.now), ("sms ZA 80%", None)):
        begin_alert(small_still, "cap", subject, f"Channel {subject} has sent 8 of 10.", ended_at)
    assert advised(owner) == "Look at the cap of sms"
    assert "to South Africa are used up" in plain(owner.page.text)
    owner.post("/admin/advice/later", **owner.hidden("/admin/advice/later"))
    assert "Put off until 2026-11-23" in owner.page.text, "tomorrow it may be near its end again"


def test_a_list_of_the_locked_that_is_not_whole_says_so(
    small_world: World, owner: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for person in range(3):
        with small_world.database.write() as connection:
            connection.execute(
                insert(Tries).values(
                    person_key=f"{person:032x}", method="totp", is_ticketed=False, total=30, day_count=0,
                    day_ends_at=small_world.clock.now,
                )
            )  # fmt: skip
    assert "More customers may be locked" not in owner.get("/admin/?range=day").text
    monkeypatch.setattr(tries, "MOST_LOOKED_AT", 2)
    assert "More customers may be locked" in owner.get("/admin/?range=day").text


def test_the_locked_are_found_by_their_index(small_world: World, owner: Desk) -> None:
    """Of a million people who once mistyped, the few who are locked are asked for on each look at the page."""
    with small_world.statements() as seen:
        owner.get("/admin/")
    (statement,) = [text for text in seen if "JOIN tries" in text]
    with small_world.database.read() as connection:
        parameters = tuple([small_world.clock.now] + [1] * (statement.count("?") - 1))
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    assert any("ix_tries_spent" in str(row) for row in plan), plan
