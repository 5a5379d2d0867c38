"""The audit: searched, exported (R43), and each event held against its own signature (E4)."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text, update

from auth_portal.services.history.audit_trail import ACTORS, CSV_COLUMNS, AuditFilter
from auth_portal.services.history.lists import IN_A_PIECE, LOOKED_AT, Listing, csv_pages
from auth_portal.services.history.words import browser_words
from auth_portal.store.models import AuditEvent, CustomerRow, Delivery, table_of
from tests.admin.desk import ADMIN_ADDRESS, Desk, signed_in
from tests.admin.test_journeys import send
from tests.admin.test_settings import sure_of
from tests.api.program import ADDRESS, Program
from tests.receiver import wait_for
from tests.test_cli_notices import run
from tests.web.test_way import verified
from tests.world import MAIL, PHONE, Browser, World

PATH = "/admin/audit"


def record(world: World, kind: str, **facts: object) -> None:
    with world.transactions.write() as work:
        work.record(kind, **facts)  # type: ignore[arg-type]


def export(desk: Desk, form: str, query: str = "") -> str:
    desk.get(f"{PATH}{query}")
    desk.post(f"{PATH}/export", format=form)
    assert desk.page.status_code == 200
    return desk.page.text


def test_events_are_sentences(small_world: World, owner: Desk) -> None:
    record(small_world, "delivery_retried", admin_id=owner.admin_id, what="callback", reason="flow was off")
    record(small_world, "something_new_happened", count=3, was_it_so=True)
    page = owner.get(PATH).text
    assert "A callback was sent again. Reason given: flow was off" in page
    assert "Something new happened: count 3, was it so yes." in page
    assert "Ada Owner" in page


def test_filters_by_kind_admin_customer_verification_and_time(small_world: World, owner: Desk) -> None:
    verified(small_world, "app")
    record(small_world, "keys_rotated", admin_id=owner.admin_id)
    small_world.clock.advance(60)
    record(small_world, "something_else")
    trail = small_world.services.audit_trail

    def found(**wanted: object) -> list[str]:
        return [line.kind for line in trail.page(AuditFilter(**wanted)).rows]  # type: ignore[arg-type]

    began = next(row for row in small_world.rows(AuditEvent) if row.kind == "verification_began")
    assert found(kind="keys_rotated") == ["keys_rotated"]
    assert found(kind="verification_began") == ["verification_began"]
    assert found(admin_id=owner.admin_id, kind="keys_rotated") == ["keys_rotated"]
    assert found(admin_id=owner.admin_id, kind="something_else") == []
    assert found(verification_id=began.verification_id) == ["verification_began"]
    assert found(since=small_world.clock.now) == ["something_else"]
    assert "something_else" not in found(until=small_world.clock.now)
    owner.get(PATH)
    owner.post(f"{PATH}/find", wanted="c-1001")
    name = small_world.services.journeys.current().name_of("app")
    assert f"A verification began on journey “{name}”." in owner.page.text
    assert "something else" not in owner.page.text.partition("<table")[2]
    assert "1001" not in owner.page.request.query_string.decode()
    page = owner.post(f"{PATH}/find", wanted="x@example.com")
    assert page.status_code == 422
    assert 'value="x@example.com"' in page.text


def test_pages_by_key(small_world: World, owner: Desk) -> None:
    for number in range(60):
        record(small_world, "numbered", number=number)
        small_world.clock.advance(1)
    page = owner.get(f"{PATH}?kind=numbered").text
    assert "Numbered: number 59." in page
    assert "Numbered: number 9." not in page
    more = page.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
    assert "Numbered: number 9." in owner.get(more).text


def test_r43_one_record_per_event_whatever_it_contains(small_world: World, auditor: Desk) -> None:
    evil = '=HYPERLINK("http://evil")\r\n"; DROP\u2028x,\n@cmd'
    record(small_world, "=cmd|' /C calc'!A0", note=evil, nested={"deep": [evil]})
    rows = list(csv.DictReader(io.StringIO(export(auditor, "csv"))))
    events = len(small_world.rows(AuditEvent)) - 1  # the export itself came after
    assert len(rows) in (events, events + 1)
    assert tuple(rows[0]) == CSV_COLUMNS
    row = next(row for row in rows if "calc" in row["kind"])
    assert row["kind"].startswith("'=")
    assert json.loads(row["facts"])["note"] == evil
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert not [cell for row in rows for cell in row.values() if "\n" in cell]
    lines = export(auditor, "jsonl").splitlines()
    assert all(json.loads(line)["id"] for line in lines)
    assert next(one for one in map(json.loads, lines) if "calc" in one["kind"])["facts"]["nested"]["deep"] == [evil]


def test_an_export_has_all_of_the_filter_and_is_audited(small_world: World, auditor: Desk) -> None:
    for number in range(1100):  # more than one batch
        record(small_world, "numbered", number=number)
    rows = list(csv.DictReader(io.StringIO(export(auditor, "csv", "?kind=numbered"))))
    assert len(rows) == 1100
    assert {row["kind"] for row in rows} == {"numbered"}
    event = next(row for row in small_world.rows(AuditEvent) if row.kind == "audit_exported")
    assert event.admin_id == auditor.admin_id


def test_an_export_of_an_unknown_form_is_refused(auditor: Desk) -> None:
    auditor.get(PATH)
    assert auditor.post(f"{PATH}/export", format="xls").status_code == 422


def test_e4_an_edited_event_shows_in_the_list_and_in_the_check(small_world: World, auditor: Desk) -> None:
    record(small_world, "numbered", number=1)
    auditor.get(f"{PATH}/check")
    assert "All are unchanged" in auditor.page.text
    row = next(row for row in small_world.rows(AuditEvent) if row.kind == "numbered")
    with small_world.database.write() as connection:
        connection.execute(update(AuditEvent).where(AuditEvent.id == row.id).values(facts={"number": 2}))
    auditor.get(f"{PATH}/check")
    assert row.id in auditor.page.text
    assert f"Event {row.id} was changed after it was recorded" in auditor.page.text
    assert "changed after recording" in auditor.get(f"{PATH}?kind=numbered").text


@pytest.mark.parametrize(
    "values", [{"kind": "other"}, {"admin_id": "f" * 32}, {"subject_id": "f" * 32}, {"mac": "0" * 64}]
)
def test_e4_every_field_counts(world: World, values: dict[str, str]) -> None:
    record(world, "numbered", number=1, nested={"b": [1, 2.5, None], "a": "ü"})
    assert [fault for found in world.services.audit_checks.check_all() for fault in found.faults] == []
    with world.database.write() as connection:
        connection.execute(update(AuditEvent).where(AuditEvent.kind == "numbered").values(**values))
    assert len([fault for found in world.services.audit_checks.check_all() for fault in found.faults]) == 1


def test_e4_is_checked_in_bounded_pieces(world: World) -> None:
    world.services.dispatcher.stop()
    for number in range(5):
        record(world, "numbered", number=number)
        world.services.dispatcher.seal()
    checks, total = world.services.audit_checks, len(world.rows(AuditEvent))
    first = checks.check(most=2)
    assert 2 <= first.count < total
    counts = [first.count]
    while first.next is not None:
        first = checks.check(after=first.next, most=2)
        counts.append(first.count)
    assert sum(counts) == total
    assert max(counts[1:]) <= 2


def test_an_erased_customer_is_nobody_in_the_list(small_world: World, owner: Desk) -> None:
    verified(small_world, "app")
    with small_world.database.write() as connection:
        connection.execute(text("UPDATE visits SET customer_row = NULL"))
        connection.execute(table_of(CustomerRow).delete().where(CustomerRow.customer_id == "C-1001"))
    assert "a customer since erased" in owner.get(PATH).text


def test_support_may_neither_export_nor_check(support: Desk) -> None:
    page = support.get(PATH).text
    assert "Download the events" not in page
    assert support.get(f"{PATH}/check").status_code == 403


def test_events_are_told_in_plain_words(small_world: World, owner: Desk) -> None:
    record(small_world, "proof_failed", method="sms_code")
    record(small_world, "verification_ended", outcome="unavailable", why="no_channel")
    page = owner.get(PATH).text
    assert "A try with the SMS code was wrong." in page
    assert "It ended: no customer could pass. The journey was on, but for one of its steps no channel" in page
    assert "A new admin joined as owner." in page


CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36"
)
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 Version/18.1 Mobile/15E148 Safari/604.1"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (CHROME, "Chrome on Windows"),
        (f"{CHROME} Edg/141.0.0.0", "Edge on Windows"),
        (f"{CHROME} OPR/120.0.0.0", "Opera on Windows"),
        (IPHONE, "Safari on iPhone"),
        (IPHONE.replace("Version/", "CriOS/"), "Chrome on iPhone"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0", "Firefox on Linux"),
        ("Mozilla/5.0 (Linux; Android 15) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile", "Samsung Internet on Android"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/18.1 Safari/605.1.15", "Safari on Mac"),
        ("curl/8.11.0", "curl 8.11.0"),
        ("", ""),
    ],
)
def test_browsers_in_words(said: str, words: str) -> None:
    assert browser_words(said) == words


def facts_of(world: World, kind: str) -> dict[str, object]:
    return next(row.facts for row in world.rows(AuditEvent) if row.kind == kind)


def test_an_act_of_an_admin_says_from_where(small_world: World, owner: Desk) -> None:
    row = small_world.rows(CustomerRow)[0]
    agent = {"User-Agent": CHROME + "\x07" + "x" * 500}
    owner.get(f"/admin/customers/{row.id}")
    owner.post(f"/admin/customers/{row.id}/reveal", headers=agent, second_factor=owner.second_factor())
    facts = facts_of(small_world, "customer_revealed")
    assert facts["address"] == ADMIN_ADDRESS
    assert len(str(facts["browser"])) == 200
    assert "\x07" not in str(facts["browser"])
    page = owner.get(f"{PATH}?kind=customer_revealed").text
    assert ADMIN_ADDRESS in page
    assert "Chrome on Windows" in page
    line = next(csv.DictReader(io.StringIO(export(owner, "csv", "?kind=customer_revealed"))))
    assert (line["by"], line["address"], line["browser"]) == ("Ada Owner", ADMIN_ADDRESS, "Chrome on Windows")
    assert all(not checked.faults for checked in small_world.services.audit_checks.check_all())


def test_a_failed_sign_in_says_from_where_and_a_customer_nothing(small_world: World, owner: Desk) -> None:
    verified(small_world, "app")
    stranger = Browser(small_world, "203.0.113.77")
    stranger.get("/admin/sign-in")
    stranger.post("/admin/sign-in", email="x@example.com", password="wrong", code="000000")
    assert facts_of(small_world, "admin_sign_in_failed")["address"] == "203.0.113.77"
    theirs = [row for row in small_world.rows(AuditEvent) if row.verification_id is not None]
    assert theirs
    assert all(not {"address", "browser", "request", "account"} & row.facts.keys() for row in theirs)


def test_a_program_is_named_by_its_key(small_world: World, owner: Desk) -> None:
    made = small_world.services.api_keys.create("Bookings", ["customers:write", "customers:read"], 90, owner.admin_id)
    put = Program(small_world, made.key).post("/customers", {"customer_id": "N-1"})
    assert put.status_code == 201, put.text
    assert facts_of(small_world, "customer_created")["address"] == ADDRESS
    page = owner.get(f"{PATH}?kind=customer_created").text.partition("<tbody")[2]
    assert "API key “Bookings”" in page
    assert made.id not in page
    # Of before 0.2.0: the id alone.
    record(small_world, "delivery_retried", what="callback", reason="flow was off", api_key=made.id)
    page = owner.get(f"{PATH}?kind=delivery_retried").text
    assert "API key “Bookings”" in page
    page = owner.get(f"{PATH}?kind=api_key_created").text
    assert "The API key “Bookings” was created" in page
    assert "Ada Owner" in page


def test_a_command_says_who_ran_it(small_world: World, owner: Desk, tmp_path: Path) -> None:
    run(small_world, tmp_path, "customers", "renew", "C-1001")
    facts = facts_of(small_world, "credentials_renewed")
    assert str(facts["command"]).endswith("customers renew")
    page = owner.get(f"{PATH}?kind=credentials_renewed").text
    assert "customers renew" in page
    assert str(facts["account"]) in page


def test_the_export_of_a_person_does_not_say_from_where_an_admin_acted(small_world: World, owner: Desk) -> None:
    row = small_world.rows(CustomerRow)[0]
    owner.get(f"/admin/customers/{row.id}")
    owner.post(f"/admin/customers/{row.id}/reveal", second_factor=owner.second_factor())
    document = json.dumps(small_world.services.person_export.of(row.id))
    assert "customer_revealed" in document
    assert ADMIN_ADDRESS not in document


def found_by(desk: Desk, wanted: str, **filters: str) -> str:
    """The page that a search leads to; its address has no contact."""
    desk.get(PATH)
    page = desk.post(f"{PATH}/find", wanted=wanted, **filters)
    assert page.status_code == 200, page.text
    return page.text.partition("<tbody")[2]


def test_search_by_words_of_the_sentence_the_kind_the_facts_and_the_admin(small_world: World, owner: Desk) -> None:
    verified(small_world, "app").prove(small_world.totp())
    record(small_world, "backup_made", file="portal-é.zip", size=1)
    record(small_world, "delivery_retried", admin_id=owner.admin_id, what="callback", reason="Flow was Off")
    record(small_world, "delivery_retried", what="message", reason="other")
    assert "Flow was Off" in found_by(owner, "sent again flow OFF")
    assert "other" not in found_by(owner, "sent again flow OFF")
    assert "Flow was Off" in found_by(owner, "ada retried")
    assert "other" not in found_by(owner, "ada retried")
    assert "was verified" in found_by(owner, "customer was verified")
    assert "portal-é.zip" in found_by(owner, "PORTAL-É.zip")
    assert found_by(owner, "100%_") == ""
    assert owner.page.request.args["q"] == "100%_"


@pytest.mark.parametrize("wanted", ["C-1001", "c-1001", "+27 82 555 1234", "neo@example.com"])
def test_search_by_person(small_world: World, owner: Desk, wanted: str) -> None:
    small_world.services.customers.create({"customer_id": "N-1"}, admin_id=owner.admin_id)
    row = next(row for row in small_world.rows(CustomerRow) if row.customer_id == "C-1001")
    fields = {"phone": "+27825551234", "email": "neo@example.com"}
    assert small_world.services.customers.change(row.id, fields, admin_id=owner.admin_id).faults == {}
    page = found_by(owner, wanted)
    assert "What is on file about a customer was changed: email, phone." in page
    assert "A customer was created" not in page
    query = owner.page.request.query_string.decode().lower()
    assert "subject=" in query
    assert not any(part in query for part in ("c-1001", "825551234", "neo"))


@pytest.mark.parametrize("wanted", ["+27 82 555 9999", "0825559999", "who@example.com", "8001015009087"])
def test_a_contact_never_becomes_part_of_an_address(owner: Desk, wanted: str) -> None:
    owner.get(PATH)
    page = owner.post(f"{PATH}/find", wanted=wanted, follow=False)
    assert page.status_code == 422
    assert "Location" not in page.headers


@pytest.mark.parametrize(("wanted", "is_found"), [("198.51.100.4", True), ("198.51.", True), ("198.5.", False)])
def test_search_by_address(owner: Desk, wanted: str, *, is_found: bool) -> None:
    assert ("An admin signed in." in found_by(owner, wanted)) is is_found
    assert owner.page.request.args["address"] == wanted


def test_search_by_who_acts_and_by_time(small_world: World, owner: Desk) -> None:
    verified(small_world, "app")
    made = small_world.services.api_keys.create("Bookings", ["customers:write", "customers:read"], 90, owner.admin_id)
    Program(small_world, made.key).post("/customers", {"customer_id": "N-1"})
    pages = {actor: owner.get(f"{PATH}?actor={actor}").text.partition("<tbody")[2] for actor in ACTORS}
    assert "verification began" in pages["customers"]
    assert "signed in" not in pages["customers"]
    assert "signed in" in pages["admins"]
    assert "verification began" not in pages["admins"]
    assert "customer was created" in pages["programs"]
    assert "API key “Bookings” was created" not in pages["programs"]
    of_key = owner.get(f"{PATH}?admin=key:{made.id}").text.partition("<tbody")[2]
    assert "customer was created" in of_key
    assert "was created, valid" not in of_key
    small_world.clock.advance(7200)
    owner.sign_in()
    last = owner.get(f"{PATH}?last=hour").text.partition("<tbody")[2]
    assert "signed in" in last
    assert "verification began" not in last
    assert "verification began" in owner.get(f"{PATH}?last=day").text.partition("<tbody")[2]


def test_an_honest_search_says_where_it_stopped(small_world: World, owner: Desk) -> None:
    record(small_world, "numbered", note="needle")
    small_world.clock.advance(1)
    with small_world.transactions.write() as work, work.together():
        for number in range(LOOKED_AT + 10):
            work.record("numbered", number=number)
    assert found_by(owner, "needle") == ""
    assert "The search stopped after one page" in owner.page.text
    more = owner.page.text.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
    assert "needle" in owner.get(more).text.partition("<tbody")[2]


def test_events_show_what_changed_before_and_after(small_world: World, owner: Desk) -> None:
    admin_id = signed_in(small_world, "support").admin_id
    small_world.services.admins.set_role(admin_id, "auditor", by=owner.admin_id)
    owner.get("/admin/settings")
    form: dict[str, Any] = {"name": "Kestrel", "time_zone": "UTC", "second_factor": owner.second_factor()}
    assert send(owner, "/admin/settings", **form).status_code == 200
    row = next(row for row in small_world.rows(CustomerRow) if row.customer_id == "C-1001")
    fields = {"phone": "+254722123456", "email": None, "locale": "fr", "customer_id": "C-9"}
    small_world.services.customers.change(row.id, fields, admin_id=owner.admin_id)
    cells = {}
    for kind in ("admin_role_changed", "settings_changed", "customer_changed"):
        line = small_world.services.audit_trail.page(AuditFilter(kind=kind)).rows[0]
        cells[kind] = {change.key: (change.before, change.after) for change in line.changes}
        page = owner.get(f"{PATH}/{line.id}").text
        assert all(after in page for _before, after in cells[kind].values())
        assert 'data-label="Before"' in page
    assert cells["admin_role_changed"] == {"Role": ("support", "auditor")}
    assert cells["settings_changed"]["Name"][1] == "Kestrel"
    assert cells["customer_changed"] == {
        "Customer ID": ("one on file", "another one on file"),
        "Email": ("one on file", ""),
        "Language": ("English", "French"),
        "Phone": ("one on file (South Africa)", "one on file (Kenya)"),
    }
    stored = json.dumps(facts_of(small_world, "customer_changed"))
    assert not any(part in stored for part in ("123456", "C-9", "C-1001", "example"))
    assert "Ada Support" in owner.get(f"{PATH}?kind=admin_role_changed").text.partition("<tbody")[2]


def test_events_say_journeys_scopes_and_values_as_their_pages_do(small_world: World, owner: Desk) -> None:
    """By the names of the forms and lists, and never by what a program or the config file calls them."""
    services = small_world.services
    name = services.journeys.current().name_of("app")
    services.api_keys.create("CRM", ("customers:read",), 90, owner.admin_id)
    for act, slug in (("deleted", "password"), ("edit", "app")):
        owner.get(f"/admin/journeys/{slug}/{'delete' if act == 'deleted' else act}")
        send(owner, f"/admin/journeys/{slug}/{'delete' if act == 'deleted' else act}", chat_seconds="15 minutes")
    owner.get("/admin/settings")
    send(owner, "/admin/settings", support_contact="tel:+27115550100", default_region="KE")
    owner.post("/admin/settings", **sure_of(owner.page))
    gone = services.journeys.renew().name_of("password")
    text = owner.get(PATH).text
    for words in (
        f"Journey “{name}” was changed: chat clock.",
        f"Journey “{gone}” (password, deleted) was deleted.",
        f"valid for 90 days, for: {services.api_keys.scopes['customers:read']}.".replace("'", "&#39;"),
        "The settings were changed: default country, help for customers.",
        ">Help for customers<",
        "<span>South Africa</span>",
        "<span>Kenya</span>",
        "<span>10 minutes</span>",
        "<span>15 minutes</span>",
    ):
        assert words in text, words
    assert not [raw for raw in ("support contact", "chat seconds", ">900<", ">KE<", "customers:read") if raw in text]
    for wanted in (name, "help for customers", "phone number and email"):
        kinds = [line.kind for line in services.audit_trail.page(AuditFilter(words=wanted)).rows]
        assert kinds, wanted


def test_a_request_and_a_visit_are_sequences_without_a_gap(small_world: World, owner: Desk) -> None:
    verified(small_world, "app").prove(small_world.totp())
    wait_for(lambda: all(row.block is not None for row in small_world.rows(AuditEvent)))
    of_visit = next(row for row in small_world.rows(AuditEvent) if row.kind == "verification_ended")
    page = owner.get(f"{PATH}?verification={of_visit.verification_id}").text.partition("<tbody")[2]
    assert page.index("verification began") < page.index("It ended")
    made = small_world.services.api_keys.create("Bookings", ["customers:write", "customers:read"], 90, owner.admin_id)
    people = [{"customer_id": f"N-{number}"} for number in range(3)]
    Program(small_world, made.key).post("/customers/bulk", {"customers": people})
    wait_for(lambda: all(row.block is not None for row in small_world.rows(AuditEvent)))
    line = small_world.services.audit_trail.page(AuditFilter(kind="customers_saved")).rows[0]
    page = owner.get(f"{PATH}/{line.id}").text
    assert page.count("A customer was created") == 3
    together = small_world.services.audit_trail.of_request(line)
    assert [one.place for one in together] == list(range(together[0].place, together[0].place + 4))
    assert line.number == f"{line.block}.{line.place}"
    assert line.number in page
    exported = list(csv.DictReader(io.StringIO(export(owner, "csv", "?kind=customers_saved"))))
    assert exported[0]["number"] == line.number
    assert owner.get(f"{PATH}/{'0' * 32}").status_code == 404


def file_of(desk: Desk, what: str, query: str = "") -> list[dict[str, str]]:
    desk.get(f"{PATH}{query}")
    page = desk.post(f"{PATH}/download", what=what, second_factor=desk.second_factor())
    assert page.status_code == 200, page.text
    assert page.headers["Content-Disposition"] == f'attachment; filename="{what}.csv"'
    return list(csv.DictReader(io.StringIO(page.text)))


def test_lists_are_downloaded_without_contacts_and_on_the_record(small_world: World, auditor: Desk) -> None:
    small_world.browser().begin("old", "balance")
    small_world.clock.advance(7200)
    auditor.sign_in()
    verified(small_world, "app", "new").prove(small_world.totp())
    wait_for(lambda: any(row.ended_at for row in small_world.rows(Delivery) if row.kind == "callback"))
    both, last = file_of(auditor, "verifications"), file_of(auditor, "verifications", "?last=hour")
    assert [row["slug"] for row in both] == ["app", "balance"]
    assert [(row["slug"], row["outcome"], row["customer_id"]) for row in last] == [("app", "verified", "C-1001")]
    sent = file_of(auditor, "deliveries")
    assert {"callback", "message"} == {row["kind"] for row in sent}
    assert {row["attempts"] for row in sent if row["kind"] == "callback"} == {"1"}
    admins = file_of(auditor, "admins")
    assert ("Ada Auditor", "auditor", "may sign in") in {(row["name"], row["role"], row["state"]) for row in admins}
    assert all(row["second_factor"] == "authenticator app" for row in admins)
    for rows in (both, sent, admins):
        assert not any(hidden in str(rows) for hidden in (PHONE, PHONE[-9:], MAIL, "@"))
    events = [row.facts["what"] for row in small_world.rows(AuditEvent) if row.kind == "list_exported"]
    assert events == ["verifications", "verifications", "deliveries", "admins"]
    assert "The list of admins was downloaded." in auditor.get(PATH).text


def test_a_list_needs_the_second_factor_and_one_that_is_known(small_world: World, auditor: Desk) -> None:
    small_world.clock.advance(12 * 60)
    auditor.get(PATH)
    assert auditor.post(f"{PATH}/download", what="admins").status_code == 422
    auditor.get(PATH)
    page = auditor.post(f"{PATH}/download", what="secrets", second_factor=auditor.second_factor())
    assert "attachment" not in page.headers.get("Content-Disposition", "")
    assert not [row for row in small_world.rows(AuditEvent) if row.kind == "list_exported"]


def test_r43_a_file_comes_in_pieces_and_is_defused() -> None:
    pages = {"": ("a", "=1+1"), "a": ("b", "@x"), "b": ("", "\r-2")}
    asked = []

    def page(*, after: str, most: int) -> Listing[Any]:
        asked.append(most)
        older, name = pages[after]
        return Listing((SimpleNamespace(name=name, count=0, is_so=False),), older)

    pieces = list(csv_pages(("name", "count", "is_so"), page))
    assert pieces == ["name,count,is_so\r\n", "'=1+1,0,no\r\n", "'@x,0,no\r\n", "'-2,0,no\r\n"]
    assert asked == [IN_A_PIECE] * 3
