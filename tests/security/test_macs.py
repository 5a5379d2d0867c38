"""Rows that say who a person is (R54): changed by SQL, and what customers, admins and operators see then."""

from __future__ import annotations

import hmac
import io
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import Result
from flask import Flask
from sqlalchemy import text, update

from auth_portal import cli
from auth_portal.crypto import (
    OLD_MACS,
    OPEN_MACS,
    PURPOSES,
    DataKey,
    Keyring,
    Passwords,
    json_parts,
    new_token,
    token_hash,
)
from auth_portal.errors import Conflict, Gone, Problem
from auth_portal.services.config.changes import COMMAND
from auth_portal.services.config.journey_editor import JourneyEdit
from auth_portal.services.imports.bulk import CustomerInput, checked_entries
from auth_portal.services.imports.work import ImportWork
from auth_portal.services.serving import build
from auth_portal.store.keys import TABLES, broken_rows, state_fault
from auth_portal.store.models import (
    AdminLink,
    AdminSession,
    ApiKeyRow,
    AuditEvent,
    ChannelRow,
    CredentialLink,
    JourneyVersion,
    Portal,
    StagedRow,
    table_of,
)
from tests.admin.desk import ADMIN_PASSWORD, Desk, join, signed_in
from tests.postgres import MASTER_KEY
from tests.receiver import Receiver
from tests.security.tools import STILL
from tests.world import Browser, World, journey, open_configured, open_world, wrap_as_before_macs

CONFIG = journey("app", "totp", default=True) + journey("code", "sms_code")


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    with open_world(tmp_path, database_url, receiver, config=CONFIG, settings=STILL) as opened:
        yield opened


def sql(world: World, statement: str, **values: Any) -> None:
    with world.database.write() as connection:
        connection.execute(text(statement), values)


def command(world: World, tmp_path: Path, *args: str) -> Result:
    app = Flask(__name__)
    cli.register(app, partial(build, clock=world.clock), world.clock)
    url = world.database.url.render_as_string(hide_password=False)
    environment = {"PORTAL_INSTANCE": str(tmp_path), "PORTAL_DATABASE_URL": url, "PORTAL_SECRET_KEYS": MASTER_KEY}
    environment["PORTAL_ALLOW_PRIVATE_CALLBACKS"] = "1"  # of the receiver
    return app.test_cli_runner().invoke(args=list(args), env=environment)


def broken(world: World) -> set[str]:
    with world.transactions.read() as work:
        return {row.table for row in broken_rows(work)}


def walk(world: World, identifier: str, reference: str) -> tuple[Browser, int, str]:
    """A customer who begins and enters the right code."""
    browser = world.browser()
    browser.begin(reference, identifier=identifier)
    browser.prove(world.totp(), follow=False)
    return browser, browser.page.status_code, browser.page.headers.get("Location", "").partition("?")[0]


RENAMED = "UPDATE customers SET customer_id = 'C-1002x' WHERE customer_id = 'C-1001'"
SWAPPED_PHONES = (
    "UPDATE customers SET phone_key = (SELECT phone_key FROM customers WHERE customer_id = 'C-1002')"
    " WHERE customer_id = 'C-1001'"
)
NO_MAC = "UPDATE customers SET identity_mac = NULL WHERE customer_id = 'C-1001'"
COPIED_MAC = (
    "UPDATE customers SET identity_mac = (SELECT identity_mac FROM customers WHERE customer_id = 'C-1002')"
    " WHERE customer_id = 'C-1001'"
)
MAIL_OF_ANOTHER = (
    "UPDATE customers SET email_key = (SELECT email_key FROM customers WHERE customer_id = 'C-1003')"
    " WHERE customer_id = 'C-1001'"
)


@pytest.mark.parametrize(
    "options",
    [{}, {"sort_keys": True, "separators": (",", ":")}, {"sort_keys": True, "default": str}, {"ensure_ascii": False}],
)
def test_r54_a_text_that_is_signed_is_the_one_of_every_release(options: dict[str, Any]) -> None:
    values: list[object] = ['Zoë 銀行 \U0001f600 \ud800 "\\\n\x7f</', "", 0, -1, 1.5, 1e300, True, None, [], {}]
    values.append({"b": [1, {"a": None}], "a": "é"})
    if "default" in options:
        values.append(datetime(2026, 11, 22, tzinfo=UTC))
    write = json_parts(**options)
    for value in (*values, values, {"values": values, "1": 2}):
        assert "".join(write(value, 0)) == json.dumps(value, **options)


def test_r54_a_mac_is_the_one_of_every_release() -> None:
    keyring = Keyring([DataKey(1, purpose, purpose.encode() * 8) for purpose in PURPOSES])
    at = datetime(2026, 11, 22, 14, 0, 1, tzinfo=timezone(timedelta(hours=2)))
    values = (
        '["visits.mac", ["Zo\\u00eb", 7, null, true, "00ff", "2026-11-22T12:00:01.000000+00:00", {"a": 1, "b": []}]]'
    )
    expected = hmac.digest(b"sign" * 8, f"row {values}".encode(), "sha256").hex()[:32]
    assert keyring.mac("visits.mac", "Zoë", 7, None, True, b"\0\xff", at, {"b": [], "a": 1}) == expected


@pytest.mark.parametrize("attack", [RENAMED, SWAPPED_PHONES, NO_MAC, COPIED_MAC, MAIL_OF_ANOTHER])
def test_r54_a_customer_changed_by_sql_is_as_a_stranger(world: World, attack: str) -> None:
    assert walk(world, "C-1001", "r-1")[1:] == (303, "/done")
    world.clock.advance(31)
    sql(world, attack)
    stranger, *refused = walk(world, "C-9999", "r-2")
    changed, *same = walk(world, "C-1001", "r-3")
    assert same == refused
    assert refused[0] == 422
    assert changed.page.text.count("<") == stranger.page.text.count("<")
    events = [row for row in world.rows(AuditEvent) if row.kind == "integrity_broken"]
    assert [event.facts["table"] for event in events] == ["customers"]


def test_r54_a_customer_who_is_found_by_the_id_of_another_is_as_a_stranger(world: World) -> None:
    sql(world, "UPDATE customers SET customer_key = 'c-7' WHERE customer_id = 'C-1001'")
    assert walk(world, "C-7", "r-1")[1] == 422


def test_r54_a_customer_switched_on_by_sql_proves_nothing(world: World) -> None:
    row = world.services.customers.row_of("C-1001")
    world.services.customers.set_active(row, is_active=False)
    sql(world, "UPDATE customers SET is_active = true WHERE id = :row", row=row)
    assert walk(world, "C-1001", "r-1")[1] == 422
    world.services.customers.set_active(row, is_active=True)
    assert walk(world, "C-1001", "r-2")[1:] == (303, "/done")


def test_r54_a_customer_changed_while_they_prove_fails(world: World) -> None:
    browser = world.browser()
    browser.begin("r-1")
    sql(world, RENAMED)
    assert browser.prove(world.totp(), follow=False).status_code == 422


def test_r54_no_code_goes_to_a_customer_who_was_changed(world: World, receiver: Receiver) -> None:
    world.browser().begin("r-1", "code")
    sql(world, RENAMED)
    world.services.dispatcher.dispatch_due()
    assert receiver.messages == []


def test_r54_an_auditor_made_an_owner_by_sql_loses_the_session_and_cannot_sign_in(world: World) -> None:
    auditor = signed_in(world, "auditor")
    sql(world, "UPDATE admins SET role = 'owner'")
    auditor.get("/admin/")
    assert auditor.path == "/admin/sign-in"
    assert auditor.sign_in().status_code == 422
    events = [row.kind for row in world.rows(AuditEvent)]
    assert "integrity_broken" in events
    assert "admin_sign_in_failed" in events


def test_r54_an_admin_switched_on_by_sql_cannot_sign_in(world: World) -> None:
    owner, auditor = signed_in(world, "owner"), signed_in(world, "auditor")
    world.services.admins.set_active(auditor.admin_id, False, by=owner.admin_id)
    sql(world, "UPDATE admins SET is_active = true")
    assert auditor.sign_in().status_code == 422
    assert owner.get("/admin/").status_code == 200
    assert owner.path == "/admin/"


def test_r54_a_session_given_to_another_admin_by_sql_is_over(world: World) -> None:
    owner, auditor = signed_in(world, "owner"), signed_in(world, "auditor")
    sql(world, "UPDATE admin_sessions SET admin_id = :owner", owner=owner.admin_id)
    auditor.get("/admin/")
    assert auditor.path == "/admin/sign-in"


def test_r54_a_session_inserted_by_sql_signs_no_one_in(world: World) -> None:
    owner, token = signed_in(world, "owner"), new_token()
    (row,) = world.rows(AdminSession)
    forged = {**row._mapping, "id": "f" * 32, "token_hash": token_hash(token)}
    with world.database.write() as connection:
        connection.execute(table_of(AdminSession).insert().values(forged))
    assert world.services.admin_sessions.signed_in(token) is None
    assert owner.get("/admin/").status_code == 200


@pytest.mark.parametrize("statement", ["UPDATE admin_links SET role = 'owner'", "UPDATE admin_links SET mac = NULL"])
def test_r54_an_invitation_changed_by_sql_opens_nothing(world: World, statement: str) -> None:
    token = world.services.admins.invite("auditor")
    assert world.services.admins.invitation(token)
    sql(world, statement)
    with pytest.raises(Problem):
        world.services.admins.invitation(token)


def test_r54_an_api_key_given_more_scopes_by_sql_is_refused(world: World) -> None:
    made = world.services.api_keys.create("Flow", ["tickets:write"], 30, None)
    assert world.services.api_keys.enter(made.key, "203.0.113.7").scopes == {"tickets:write"}
    sql(world, "UPDATE api_keys SET scopes = 'tickets:write customers:write customers:read'")
    with pytest.raises(Problem):
        world.services.api_keys.enter(made.key, "203.0.113.7")


def test_r54_a_one_time_link_moved_to_another_customer_by_sql_opens_nothing(world: World) -> None:
    row, other = world.services.customers.row_of("C-1001"), world.services.customers.row_of("C-1002")
    link = world.services.credential_links.make(row, "password", "hand", admin_id="0" * 32).link
    token = link.rpartition("/")[2]
    assert world.services.credential_links.offer(token)
    sql(world, "UPDATE credential_links SET customer_row = :other", other=other)
    with pytest.raises(Problem):
        world.services.credential_links.offer(token)


LATER = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("column", ["ends_at", "confirmed_at"])
def test_r54_a_session_that_was_prolonged_by_sql_is_over(world: World, column: str) -> None:
    owner = signed_in(world, "owner")
    with world.database.write() as connection:
        connection.execute(update(AdminSession).values({column: LATER}))
    owner.get("/admin/")
    assert owner.path == "/admin/sign-in"


def test_r54_a_session_goes_on_after_a_confirmation(world: World) -> None:
    owner = signed_in(world, "owner")
    world.clock.advance(700)
    cookie = owner.client.get_cookie("admin", domain="127.0.0.1")
    assert cookie is not None
    session = world.services.admin_sessions.signed_in(cookie.value)
    assert session is not None
    assert world.services.admin_sessions.confirm(session, owner.second_factor())
    assert broken(world) == set()
    assert owner.get("/admin/").status_code == 200
    assert owner.path == "/admin/"


@pytest.mark.parametrize("again", [{"expires_at": LATER}, {"used_at": None}])
def test_r54_a_one_time_link_that_was_opened_again_by_sql_opens_nothing(world: World, again: dict[str, Any]) -> None:
    row = world.services.customers.row_of("C-1001")
    link = world.services.credential_links.make(row, "password", "hand", admin_id="0" * 32).link.rpartition("/")[2]
    invited = world.services.admins.invite("auditor")
    if "used_at" in again:
        links = world.services.credential_links
        assert not links.set_password(link, links.open(link, ""), ADMIN_PASSWORD, ADMIN_PASSWORD)
        desk = Desk(world)
        desk.email = "eve@example.com"
        join(desk, invited, ADMIN_PASSWORD, name="Eve")
        assert broken(world) == set()
    with world.database.write() as connection:
        for model in (CredentialLink, AdminLink):
            connection.execute(update(model).values(again))
    for offer in (
        partial(world.services.credential_links.offer, link),
        partial(world.services.admins.invitation, invited),
    ):
        with pytest.raises(Gone):
            offer()


@pytest.mark.parametrize("again", [{"expires_at": LATER}, {"revoked_at": None}])
def test_r54_an_api_key_that_was_revived_by_sql_is_refused(world: World, again: dict[str, Any]) -> None:
    made = world.services.api_keys.create("Flow", ["tickets:write"], 30, None)
    if "revoked_at" in again:
        world.services.api_keys.revoke(made.id, None)
        assert broken(world) == set()
    with world.database.write() as connection:
        connection.execute(update(ApiKeyRow).values(again))
    with pytest.raises(Problem):
        world.services.api_keys.enter(made.key, "203.0.113.7")
    world.services.api_keys.revoke(made.id, None)  # it can still be revoked
    with pytest.raises(Problem):
        world.services.api_keys.enter(made.key, "203.0.113.7")


def test_r54_a_journey_version_changed_by_sql_is_not_served(world: World) -> None:
    browser = world.browser()
    browser.begin("r-1")
    row = next(row for row in world.rows(JourneyVersion) if row.document["slug"] == "app")
    document = {**row.document, "callback": {**row.document["callback"], "server": "https://evil.example"}}
    with world.database.write() as connection:
        connection.execute(update(JourneyVersion).where(JourneyVersion.id == row.id).values(document=document))
        connection.execute(update(Portal).values(version=Portal.version + 1))
    world.services.journeys.renew()
    assert world.browser().open("r-2").status_code == 404
    assert browser.prove(world.totp(), follow=False).status_code == 404  # what began before proves nothing either
    assert world.services.journeys.current().broken == ("journey app",)


@pytest.mark.parametrize("attack", ["is_active = false", "is_default = false", "slug = 'pay'"])
def test_r54_a_journey_changed_by_sql_is_not_served(world: World, attack: str) -> None:
    sql(world, f"UPDATE journeys SET {attack} WHERE slug = 'app'")
    sql(world, "UPDATE portal SET version = version + 1")
    world.services.journeys.renew()
    assert len(world.services.journeys.current().broken) == 1
    assert world.browser().open("r-1", "app").status_code == 404


def test_r54_a_version_of_another_journey_is_not_served(world: World) -> None:
    sql(world, "UPDATE journeys SET version_id = (SELECT version_id FROM journeys WHERE slug = 'code')")
    sql(world, "UPDATE portal SET version = version + 1")
    world.services.journeys.renew()
    assert "journey app" in world.services.journeys.current().broken


def test_r54_a_channel_that_was_redirected_by_sql_sends_nothing(world: World, receiver: Receiver) -> None:
    row = next(row for row in world.rows(ChannelRow) if row.name == "sms")
    config = {**row.config, "url": "https://evil.example/sms"}
    with world.database.write() as connection:
        connection.execute(update(ChannelRow).where(ChannelRow.id == row.id).values(config=config))
        connection.execute(update(Portal).values(version=Portal.version + 1))
    world.services.journeys.renew()
    assert "sms" not in world.services.journeys.current().channels
    world.browser().begin("r-1", "code")
    world.services.dispatcher.dispatch_due()
    assert receiver.messages == []


def test_r54_owners_get_an_alert(world: World) -> None:
    sql(world, RENAMED)
    world.services.alerts.look()
    assert world.services.alerts.open(world.clock.now) == []
    world.browser().begin("r-1")
    world.services.alerts.look()
    (alert,) = world.services.alerts.open(world.clock.now)
    assert alert.kind == "integrity"
    assert "not used: customers." in alert.text


def test_r54_the_doctor_and_the_audit_name_the_rows(world: World, tmp_path: Path) -> None:
    assert "ok   MACs: all are right" in command(world, tmp_path, "doctor").stdout
    row = world.services.customers.row_of("C-1001")
    sql(world, RENAMED)
    named = f"row {row} of customers was changed by someone else"
    assert f"FAIL MACs: {named}" in command(world, tmp_path, "doctor").stdout
    sql(world, SWAPPED_PHONES.replace("'C-1001'", "'C-1004'"))
    other = world.services.customers.row_of("C-1004")
    assert f"row {other} of customers was changed" in command(world, tmp_path, "doctor").stdout
    verified = command(world, tmp_path, "audit", "verify")
    assert verified.exit_code == 1
    assert named in verified.stderr


def edited(world: World) -> None:
    row = world.services.customers.row_of("C-1001")
    assert not world.services.customers.change(row, {"customer_id": "c-1001", "phone": "+27821234000"}).faults
    assert not world.services.customers.change(row, {}, is_active=False).faults
    assert not world.services.customers.create({"customer_id": "N-1"}, is_active=False).faults
    world.services.customers.set_active(world.services.customers.row_of("C-1002"), is_active=False)


def saved_in_bulk(world: World) -> None:
    inputs = [
        CustomerInput("C-1001", {"phone": "+27821234000"}, is_active=False), CustomerInput("N-1", {"locale": "en"}),
        CustomerInput("N-2", {"locale": "en"}, is_active=False),
    ]  # fmt: skip
    entries, faults = checked_entries(inputs, "ZA", world.services.keyring)
    assert not faults
    world.services.bulk_save.save(entries)


def imported(world: World) -> None:
    rows = "customer_id,name,phone\nC-1001,Thandi N,+27821234000\nN-1,New,+27821234001\n"
    report = world.services.command_import.import_csv(rows.encode(), default_region="ZA", dry_run=False)
    assert not report.errors


def admins_changed(world: World) -> None:
    owner, other = signed_in(world, "owner"), signed_in(world, "support")
    world.services.admins.set_role(other.admin_id, "auditor", by=owner.admin_id)
    world.services.admins.set_active(other.admin_id, False, by=owner.admin_id)
    world.services.admins.set_active(other.admin_id, True, by=owner.admin_id)
    world.services.admins.reset(other.admin_id, made_by=owner.admin_id)
    world.services.api_keys.create("Flow", ["tickets:write"], 30, owner.admin_id)
    row = world.services.customers.row_of("C-1001")
    world.services.credential_links.make(row, "password", "hand", admin_id=owner.admin_id)


def configured(world: World) -> None:
    toml = world.services.configuration.export_toml()
    world.services.configuration.import_toml(toml.replace('name = "App"', 'name = "The app"'), file_name="x.toml")
    only = toml.partition("[[journeys]]")[0] + CONFIG.replace("{receiver}", world.receiver.origin)
    world.services.configuration.import_toml(only, file_name="y.toml", prune=True)
    world.services.channel_editor.switch("mail", COMMAND, is_active=False)
    world.services.channel_editor.switch("mail", COMMAND, is_active=True)
    world.services.journey_editor.delete("code", COMMAND)


@pytest.mark.parametrize("writes", [edited, saved_in_bulk, imported, admins_changed, configured])
def test_r54_everything_that_writes_such_a_row_writes_its_mac(world: World, writes: Callable[[World], None]) -> None:
    writes(world)
    assert broken(world) == set()


@pytest.mark.parametrize("was_before", [False, True])
def test_r54_undoing_an_import_leaves_right_macs(world: World, tmp_path: Path, was_before: bool) -> None:
    """Also one that was made before MACs were required: then what it puts back had none."""
    imports, work = world.services.imports, ImportWork(world.transactions, Passwords(), world.services.notices)

    def done() -> str:
        while work.work_once():
            pass
        return imports.get(import_id).state

    source = io.BytesIO(b"customer_id,name,phone\nC-1001,Thandi N,+27821234000\nN-1,New,+27821234001\n")
    import_id = imports.receive(source, "people.csv", admin_id="0" * 32)
    imports.name_columns(import_id, imports.header(import_id))
    assert done() == "checked"
    imports.start(import_id, is_partial=False, is_notifying=False, admin_id="0" * 32)
    assert done() == "done"
    assert broken(world) == set()
    if was_before:
        wrap_as_before_macs(world.database)
        with world.database.write() as connection:
            none = dict.fromkeys(("identity_mac", "active_mac", "old_identity_mac"))
            connection.execute(update(StagedRow).values(none))
            connection.execute(update(Portal).values(macs=world.transactions.keyring.mac(OPEN_MACS)))
        assert command(world, tmp_path, "macs", "seal").exit_code == 0
    imports.undo(import_id, admin_id="0" * 32)
    assert done() == "undone"
    assert broken(world) == set()
    assert world.services.customers.row_of("C-1001")
    assert walk(world, "C-1001", "r-1")[1:] == (303, "/done")


def test_r54_a_new_portal_requires_macs_and_the_state_cannot_be_unset(world: World, tmp_path: Path) -> None:
    sql(world, "UPDATE portal SET macs = NULL")
    sql(world, NO_MAC)
    world.services.journeys.renew()
    assert walk(world, "C-1001", "r-1")[1] == 422
    assert "the state of the MACs in the table portal was changed" in command(world, tmp_path, "doctor").stdout


class Upgraded:
    """A portal as an upgrade leaves it: rows without MACs, and old processes that still write such rows."""

    def __init__(self, world: World) -> None:
        wrap_as_before_macs(world.database)
        with world.database.write() as connection:
            for table in map(table_of, TABLES):
                columns = [
                    name for name in [column.name for column in table.c] if name == "mac" or name.endswith("_mac")
                ]
                connection.execute(update(table).values(dict.fromkeys(columns)))
            connection.execute(update(Portal).values(macs=world.transactions.keyring.mac(OPEN_MACS)))


def test_r54_after_an_upgrade_missing_macs_pass_until_they_are_sealed(
    tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, database_url, receiver, config=CONFIG, settings=STILL) as before:
        Upgraded(before)
    with open_world(tmp_path, database_url, receiver, config="", base="", settings=STILL) as world:
        assert walk(world, "C-1001", "r-1")[1:] == (303, "/done")
        owner: Desk = signed_in(world, "owner")
        doctor = command(world, tmp_path, "doctor").stdout
        assert "ok   MACs: not required yet" in doctor
        assert "run `auth-portal macs seal` after the last process of the old version" in doctor
        assert command(world, tmp_path, "audit", "verify").exit_code == 0
        sealed = command(world, tmp_path, "macs", "seal")
        assert sealed.exit_code == 0, sealed.output
        assert "rows got a MAC" in sealed.stdout
        assert broken(world) == set()
        world.clock.advance(31)
        world.services.journeys.renew()
        assert owner.get("/admin/").status_code == 200
        assert walk(world, "C-1001", "r-2")[1:] == (303, "/done")
        sql(world, NO_MAC)
        world.clock.advance(31)
        assert walk(world, "C-1001", "r-3")[1] == 422
        again = command(world, tmp_path, "macs", "seal")
        assert (again.exit_code, again.stderr) == (
            1, "auth-portal: MACs are required already. To accept rows that were changed, add --again.\n",
        )  # fmt: skip
        sql(world, "UPDATE portal SET macs = :state", state=world.transactions.keyring.mac(OPEN_MACS))
        assert "someone has undone that in the database" in command(world, tmp_path, "doctor").stdout
        assert walk(world, "C-1001", "r-4")[1] == 422  # a process that has seen it does not forget
        assert command(world, tmp_path, "macs", "seal", "--again").exit_code == 0
        assert walk(world, "C-1001", "r-5")[1:] == (303, "/done")


def refused(act: Callable[[], object]) -> Mapping[str, object]:
    """Which row was named when a write that would sign it was refused."""
    with pytest.raises(Conflict) as raised:
        act()
    assert raised.value.code == "row_changed"
    return raised.value.params


def test_r54_changing_an_admin_does_not_sign_what_was_changed_by_sql(world: World) -> None:
    owner, auditor = signed_in(world, "owner"), signed_in(world, "auditor")
    sql(world, "UPDATE admins SET role = 'owner' WHERE id = :row", row=auditor.admin_id)
    named = {"table": "admins", "row": auditor.admin_id}
    set_active = partial(world.services.admins.set_active, auditor.admin_id, by=owner.admin_id)
    assert refused(lambda: set_active(False)) == refused(lambda: set_active(True)) == named
    assert refused(lambda: world.services.admins.set_role(auditor.admin_id, "auditor", by=owner.admin_id)) == named
    assert broken(world) == {"admins"}
    owner.get(f"/admin/admins/{auditor.admin_id}")
    page = owner.post(f"/admin/admins/{auditor.admin_id}/active", active="0")
    assert page.status_code == 409
    assert f"someone has changed row {auditor.admin_id} of the table admins" in page.text


def test_r54_no_save_signs_a_channel_that_was_changed_by_sql(world: World, tmp_path: Path) -> None:
    (row,) = [row for row in world.rows(ChannelRow) if row.name == "mail"]
    toml = world.services.configuration.export_toml()
    with world.database.write() as connection:
        config = {**row.config, "url": "https://evil.example/mail"}
        connection.execute(update(ChannelRow).where(ChannelRow.id == row.id).values(config=config))
    named = {"table": "channels", "row": row.id}
    editor, configuration = world.services.channel_editor, world.services.configuration
    without = tomllib.loads(toml)
    without["channels"] = [channel for channel in without["channels"] if channel["name"] != "mail"]
    for one in without["journeys"]:
        one["channels"] = ["sms"]
    assert refused(lambda: editor.switch("mail", COMMAND, is_active=False)) == named
    assert refused(lambda: configuration.import_toml(toml, file_name="x.toml")) == named  # even what was there before
    assert refused(lambda: configuration.preview_toml(tomli_w.dumps(without), file_name="x.toml", prune=True)) == named
    file = tmp_path / "x.toml"
    file.write_text(toml)
    imported = command(world, tmp_path, "config", "import", str(file))
    assert imported.exit_code == 2
    assert f"someone has changed row {row.id} of the table channels" in imported.stderr
    assert broken(world) == {"channels"}


@pytest.mark.parametrize("attack", ["version", "row"])
def test_r54_no_save_signs_a_journey_that_was_changed_by_sql(world: World, attack: str) -> None:
    version = next(row for row in world.rows(JourneyVersion) if row.document["slug"] == "code")
    if attack == "version":
        with world.database.write() as connection:
            document = {**version.document, "name": "Evil"}
            connection.execute(update(JourneyVersion).where(JourneyVersion.id == version.id).values(document=document))
        named = {"table": "journey_versions", "row": version.id}
    else:
        sql(world, "UPDATE journeys SET is_active = false WHERE slug = 'code'")
        named = {"table": "journeys", "row": version.journey_id}
    editor, configuration = world.services.journey_editor, world.services.configuration
    for is_active in (False, True):
        edit = editor.switched("code", COMMAND, is_active=is_active)
        if edit.values["active"] != configuration.stored().journey("code").config.active:
            assert refused(partial(configuration.save, edit)) == named
    renamed = JourneyEdit({**version.document, "name": "New"}, COMMAND, version.number)
    assert refused(lambda: configuration.save(renamed)) == named
    assert refused(lambda: editor.copied("code", "copy", "Copy", COMMAND)) == named
    assert refused(lambda: editor.delete("code", COMMAND)) == named
    assert broken(world) == {named["table"]}


def test_r54_no_older_version_that_was_changed_by_sql_comes_back(world: World) -> None:
    editor, configuration = world.services.journey_editor, world.services.configuration
    first = next(row for row in world.rows(JourneyVersion) if row.document["slug"] == "code")
    renamed = JourneyEdit({**first.document, "name": "New"}, COMMAND, first.number)
    assert configuration.save(renamed).is_fine
    with world.database.write() as connection:
        document = {**first.document, "callback": {**first.document["callback"], "server": "https://evil.example"}}
        connection.execute(update(JourneyVersion).where(JourneyVersion.id == first.id).values(document=document))
    named = {"table": "journey_versions", "row": first.id}
    assert refused(lambda: editor.rolled_back("code", first.number, COMMAND)) == named


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("state", ["old", "open"])
def test_r54_macs_cannot_be_switched_off_by_sql(
    world: World, tmp_path: Path, database_url: str, receiver: Receiver, state: str, is_new: bool
) -> None:
    """What the migration writes, or a state that was signed before the seal; then the portal starts again."""
    if is_new:
        sql(world, "DELETE FROM audit_events")
    else:
        wrap_as_before_macs(world.database)
        with world.transactions.write() as work:
            work.record("macs_sealed", missing=0, changed=0)
    value = OLD_MACS if state == "old" else world.transactions.keyring.mac(OPEN_MACS)
    sql(world, "UPDATE portal SET macs = :value", value=value)
    sql(world, RENAMED)
    with open_configured(tmp_path, database_url, receiver, STILL) as started:
        assert walk(started, "C-1001", "r-1")[1] == 422
    assert "someone has undone that" in command(world, tmp_path, "doctor").stdout
    assert command(world, tmp_path, "macs", "seal").exit_code != 0  # only with --again


@pytest.mark.parametrize("state", [None, "old", "open"])
def test_r54_the_operator_requires_macs_whatever_the_database_says(
    world: World, tmp_path: Path, database_url: str, receiver: Receiver, state: str | None
) -> None:
    value = {"old": OLD_MACS, "open": world.transactions.keyring.mac(OPEN_MACS), None: None}[state]
    sql(world, "UPDATE portal SET macs = :value", value=value)
    wrap_as_before_macs(world.database)
    sql(world, RENAMED)
    with open_configured(tmp_path, database_url, receiver, {**STILL, "PORTAL_REQUIRE_MACS": "1"}) as started:
        assert walk(started, "C-1001", "r-1")[1] == 422
        with started.transactions.read() as work:
            assert state_fault(work)
