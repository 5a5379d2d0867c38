"""What is at rest and in logs: R42, R43 and E1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from auth_portal.crypto import KeyFault, SealedColumn
from auth_portal.store.models import (
    CHANNEL_SECRETS,
    AuditEvent,
    Base,
    ChannelRow,
    CustomerRow,
    Delivery,
    Verification,
    Visit,
)
from auth_portal.telemetry import log_event, mask
from tests.receiver import Receiver
from tests.security.tools import STILL, code_for, deliver, expire, logged, results, wrong
from tests.world import (
    CUSTOMERS,
    MAIL,
    PASSWORD,
    PHONE,
    SHORT_PASSWORD,
    STANDARD,
    TOTP_SECRET,
    World,
    journey,
    open_world,
)

DIGITS = "code_digits = 10"  # six digits occur by chance
LONG = (
    journey("balance", "sms_code", default=True, limits=DIGITS)
    + journey("mail", "email_code", limits=DIGITS)
    + journey("transfer", "password", "sms_code|totp", limits=DIGITS)
    + journey("app", "totp")
    + journey("code-back", "sms_code", relay_defence="chat_code", limits=DIGITS)
)
REFERENCES = [f"sEcReT-rEfErEnCe={number}&%#{'x' * 20}" for number in range(8)]


@pytest.fixture
def lived_in(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[tuple[World, set[str], str]]:
    """A portal after whole flows of every kind: what was issued or typed on the way, and all that was logged."""
    with open_world(tmp_path, database_url, receiver, config=LONG, settings=STILL) as world, logged() as log:
        codes: set[str] = set()

        def run(number: int, slug: str, identifier: str, to: str) -> None:
            browser = world.browser()
            browser.begin(REFERENCES[number], slug, identifier)
            if slug == "transfer":
                browser.prove("wrong" + PASSWORD)
                browser.prove(PASSWORD)
                browser.post("/verify/method", method="sms_code")
            code = code_for(world, to)
            codes.add(code)
            assert len(code) == 10
            browser.prove(wrong(code))
            codes.add(wrong(code))
            world.clock.advance(31)
            browser.get("/verify")
            browser.post("/verify/resend")
            deliver(world)
            browser.prove(code)
            assert browser.path == "/done"
            deliver(world)

        run(0, "", PHONE, PHONE)
        run(1, "mail", MAIL, MAIL)
        run(2, "transfer", "082 123 4567", PHONE)
        receiver.answers, receiver.sms_answers = [500, "close", 302], [400, 500, "close"]
        run_into_trouble(world)
        codes |= {call.body["data"]["chat_code"] for call in receiver.callbacks if "chat_code" in call.body["data"]} - {
            ""
        }
        codes = {code for code in codes if len(code) == 10}
        yield world, codes, log.getvalue()


def run_into_trouble(world: World) -> None:
    """Failing providers, a failing Flow, a stranger, a bad link, and a database fault."""
    browser = world.browser()
    browser.open(REFERENCES[3], "app")
    browser.name("nobody.at.all@example.net")
    browser.prove(world.totp())
    browser.post("/verify/cancel", reason="no_code")
    other = world.browser()
    other.begin(REFERENCES[4], "code-back", "0831234567")
    for _ in range(8):
        deliver(world)
        world.clock.advance(1)
    client = world.app.test_client()
    for path in (
        f"/?reference={REFERENCES[5]}%00",
        f"/nope?reference={REFERENCES[5]}",
        f"/j/nope?reference={REFERENCES[5]}",
    ):
        client.get(path, base_url="http://127.0.0.1:8000", headers={"Authorization": REFERENCES[5]})
    other.get("/verify")
    other.client.post("/verify", data={"code": "1234567890"}, base_url=other.base_url)
    world.clock.advance(600)
    expire(world)
    deliver(world)


def secrets_of(codes: set[str]) -> list[str]:
    contacts = [PHONE, PHONE[1:], "0821234567", "082 123 4567", MAIL, "+27831234567", "0831234567", "family@example.com",
                "nobody.at.all@example.net", "Thandi", "Nkosi"]  # fmt: skip
    return [*codes, PASSWORD, SHORT_PASSWORD, TOTP_SECRET, *contacts, *REFERENCES]


def dumped(world: World) -> str:
    """Every value of every table, bytes as they are."""
    parts: list[str] = []
    with world.database.read() as connection:
        for table in Base.metadata.sorted_tables:
            for row in connection.execute(table.select()):
                for value in row:
                    parts.append(value.decode("latin-1") if isinstance(value, bytes) else f"{value}")
                    parts.append(json.dumps(value) if isinstance(value, (dict, list)) else "")
    return "\n".join(parts)


def test_r42_e1_nothing_secret_is_at_rest_or_in_a_log(tmp_path: Path, lived_in: tuple[World, set[str], str]) -> None:
    world, codes, log = lived_in
    secrets = [secret.lower() for secret in secrets_of(codes)]
    assert len(codes) >= 6
    assert len(log.splitlines()) > 40
    places = {"the tables": dumped(world).lower(), "the log": log.lower()}
    if world.database.is_sqlite:
        places |= {path.name: path.read_bytes().decode("latin-1").lower() for path in tmp_path.glob("portal.db*")}
        assert {"portal.db", "portal.db-wal"} <= places.keys()
    for place, content in places.items():
        assert [secret for secret in secrets if secret in content] == [], place
    kinds = [event.kind for event in world.rows(AuditEvent)]
    assert {"verification_began", "proof_failed", "step_passed", "verification_ended"} <= set(kinds)
    ended = [json.loads(line) for line in log.splitlines() if "verification_ended" in line]
    assert {line["outcome"] for line in ended} >= {"verified", "no_code", "expired"}


def test_r43_one_line_for_each_event_whatever_it_holds() -> None:
    with logged() as log:
        log_event("something", detail='a\r\nb\u2028{"level": "error"}\x00\x1b[31m')
    (line,) = log.getvalue().splitlines()[:1]
    assert json.loads(line)["event"] == "something"
    assert "\x1b" not in line
    assert log.getvalue().count("\n") == 1


def test_r42_free_text_of_a_provider_is_masked_and_cut() -> None:
    with logged() as log:
        log_event("something", detail=f"no route to {PHONE}, {MAIL}: code 123456 refused " + "x" * 5000)
    assert "something" in log.getvalue()
    for secret in (PHONE, PHONE[1:], MAIL, "123456", "x" * 200):
        assert secret not in log.getvalue()


@pytest.mark.parametrize(
    "said",
    [
        "535 5.7.8 authentication failed",
        "550-5.7.26 blocked, 451 4.7.500 busy",
        "HTTP 400. 21211",
        "[WinError 10061] refused",
        'errorCode": 131026',
        "127.0.0.1:2525, smtp.acme.example:2525, port 2525 and 587",
        "2026-11-22T19:05:00.123Z, 2026-11-22 19:05:00 +0200, Mon, 30 Nov 2026 09:21:42 +0000, 30/11/2026",
        "Nov 30 09:21:42 2026, 20261130T092142Z",
        "250 2.0.0 Ok: queued as 4RjT5w0Z3Gz1nX",
        "queued as 123456789",
        "0101f1c2d3e4a5b6 u0B9LgKd012345 8f14e45f-ceea-467a-9575-123456789012",
        "0x8004010F",
    ],
)
def test_r42_what_a_diagnosis_needs_stays(said: str) -> None:
    assert mask(said) == said


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("code 123456, 123 456, 123-456, 1 2 3 4 5 6.", "code ####, ####, ####, ####."),
        ("@acme.example #123456", "@acme.example #####"),
        ("text=Your+code+is+123456&x=%20123456", "text=Your+code+is+####&x=%####"),
        (r"{\n123456} \u00a0123456", r"{\n####} \u00a####"),
        ("code123456 OTP:12345678", "code#### OTP:####"),
        ("550 27821234567, 550 +27 (0)82 123 4567, 550 082 123 4567", "550 ####, 550 +####, 550 ####"),
        ("082.123.4567 082/123/45/67", "####"),
        ("+27\u00a082\u2011123\u20114567", "+####"),
        ("٠٨٢١٢٣٤٥٦٧", "####"),
        ("27+82+123+4567, 27%2082%20123%204567", "####, ####"),
        ("01.23.45.67.89, 415-555-0132, error 421 123 4567", "####, ####, error ####"),
        ("to=thandi%40example.com", "[e-mail]"),
    ],
)
def test_r42_codes_and_phone_numbers_are_masked_in_any_notation(said: str, left: str) -> None:
    assert mask(said) == left


@pytest.mark.parametrize(
    "name", ["reference", "code", "password", "seed", "secret", "phone", "email", "token", "identifier", "to"]
)
def test_r42_a_field_that_would_hold_a_secret_cannot_be_logged(name: str) -> None:
    fields: Any = {name: "x"}
    with pytest.raises(ValueError, match="never in a log"):
        log_event("something", **fields)


# -- E1 ---------------------------------------------------------------------------------------------------------


def values(world: World, model: Any, column: str) -> dict[str, Any]:
    with world.database.read() as connection:
        table = model.__table__
        return dict(connection.execute(select(table.c.id, table.c[column])).tuples().all())


def copy_cell(world: World, model: Any, column: str, source: str, target: str) -> None:
    value = values(world, model, column)[source]
    with world.database.write() as connection:
        connection.execute(update(model).where(model.id == target).values({column: value}))


@pytest.fixture
def two(still: World) -> tuple[World, str, str]:
    ids = {row.customer_id: row.id for row in still.rows(CustomerRow)}
    return still, ids["C-1001"], ids["C-1002"]


def test_e1_a_seed_copied_to_another_person_opens_nothing(two: tuple[World, str, str]) -> None:
    world, thandi, sipho = two
    copy_cell(world, CustomerRow, "totp_sealed", thandi, sipho)
    browser = world.browser()
    browser.begin("one", "app", "C-1002")
    answer = browser.prove(world.totp(), follow=False)
    assert answer.status_code == 500
    assert results(world) == []


def test_e1_a_password_copied_to_another_person_opens_nothing(two: tuple[World, str, str]) -> None:
    world, thandi, sipho = two
    copy_cell(world, CustomerRow, "password_hash", thandi, sipho)
    copy_cell(world, CustomerRow, "password_is_long", thandi, sipho)
    browser = world.browser()
    browser.begin("one", "password", "C-1002")
    assert browser.prove(PASSWORD, follow=False).status_code == 500
    assert results(world) == []


def test_e1_a_contact_copied_to_another_person_gets_no_code(two: tuple[World, str, str]) -> None:
    world, thandi, sipho = two
    copy_cell(world, CustomerRow, "phone_sealed", thandi, sipho)
    world.browser().begin("one", "", "C-1002")
    deliver(world)
    assert not world.receiver.messages


def test_e1_a_result_copied_to_another_delivery_never_leaves(still: World) -> None:
    """Nor does it hold up, or keep for ever at work, anything else."""
    passed, failed = still.browser(), still.browser()
    passed.begin("passed", "app")
    passed.prove(still.totp())
    failed.begin("failed", "app")
    failed.post("/verify/cancel", reason="cancelled")
    verifications = {row.outcome: row.id for row in still.rows(Verification)}
    deliveries = {row.verification_id: row.id for row in still.rows(Delivery) if row.kind == "callback"}
    source, target = deliveries[verifications["verified"]], deliveries[verifications["cancelled"]]
    copy_cell(still, Delivery, "body_sealed", source, target)
    deliver(still)
    assert [call.header for call in still.receiver.callbacks] == ["passed"]
    assert {row.id: row.state for row in still.rows(Delivery)} == {source: "accepted", target: "refused"}


def test_e1_an_altered_reference_keeps_no_other_from_expiring(still: World) -> None:
    for number in range(3):
        still.browser().begin(f"reference-{number}", "app")
        still.clock.advance(1)
    first, second, _ = sorted(row.id for row in still.rows(Verification))
    copy_cell(still, Verification, "reference_sealed", second, first)
    still.clock.advance(600)
    with logged() as log:
        expire(still)
        assert expire(still) == 0
    assert "reference_unreadable" in log.getvalue()
    callbacks = [row.verification_id for row in still.rows(Delivery) if row.kind == "callback"]
    assert len(callbacks) == 2
    assert first not in callbacks


def test_e1_what_was_typed_opens_in_its_own_visit_only(still: World) -> None:
    one, two = still.browser(), still.browser()
    one.begin("one", "app", "C-1001")
    two.begin("two", "app", "C-1002")
    first, second = sorted(row.id for row in still.rows(Visit))
    copy_cell(still, Visit, "identifier_sealed", first, second)
    pages = [one.get("/verify"), two.get("/verify")]
    assert sorted(page.status_code for page in pages) == [200, 500]
    assert "C-1001" not in two.page.text


def test_e1_the_secrets_of_a_channel_are_sealed(tmp_path: Path, database_url: str, receiver: Receiver) -> None:
    config = (
        STANDARD
        + """
[[channels]]
name = "sealed"
kind = "http"
carries = "email"
method = "POST"
url = "{receiver}/mail"
headers = { Authorization = "a-very-secret-header-value" }
body = '{{"to": "{{to}}", "text": "{{text}}"}}'
"""
    )
    with open_world(tmp_path, database_url, receiver, config=config, settings=STILL) as world:
        assert (
            world.services.journeys.current().channels["sealed"].headers["Authorization"]
            == "a-very-secret-header-value"
        )
        assert "a-very-secret-header-value" not in dumped(world)
        (row,) = [row for row in world.rows(ChannelRow) if row.name == "sealed"]
        keyring = world.services.keyring
        with pytest.raises(KeyFault):
            keyring.open(row.secrets_sealed, CHANNEL_SECRETS, "0" * 32)
        with pytest.raises(KeyFault):
            keyring.open(row.secrets_sealed, SealedColumn("customers", "secrets"), row.id)
        with pytest.raises(KeyFault):
            keyring.open(row.secrets_sealed[:-1] + bytes([row.secrets_sealed[-1] ^ 1]), CHANNEL_SECRETS, row.id)


def test_e1_equal_contacts_do_not_look_equal(still: World) -> None:
    """Sealed twice they differ; the keyed index alone says that they are the same, and not what they are."""
    rows = {row.customer_id: row for row in still.rows(CustomerRow)}
    one, other = rows["C-1003"], rows["C-1004"]
    assert one.phone_key == other.phone_key
    assert one.phone_sealed != other.phone_sealed
    assert PASSWORD in CUSTOMERS  # what the rows were made of
