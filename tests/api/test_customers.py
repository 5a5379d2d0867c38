"""Customers by program: what goes in, what comes out, and what is refused with its place."""

from __future__ import annotations

import json

from sqlalchemy import select
from werkzeug.test import TestResponse

from auth_portal.store.models import AuditEvent, CustomerRow, Delivery
from tests.api.program import Program, problem, program
from tests.receiver import wait_for
from tests.world import MAIL, PASSWORD, PHONE, TOTP_SECRET, World


def test_a_customer_is_made_read_changed_and_deleted(both: Program) -> None:
    made = both.post("/customers", {"customer_id": "C-9 /ü", "name": "Neo", "phone": "082 555 1234", "active": False})
    assert made.status_code == 201
    assert made.json is not None
    assert made.json["phone"] == "+27825551234"
    assert made.json["active"] is False
    path = made.headers["Location"].removeprefix("/api/v1")
    assert both.get(path).json == made.json
    both.world.clock.advance(1)
    changed = both.patch(path, {"name": None, "email": "neo@example.com", "active": True})
    assert changed.status_code == 200
    assert changed.json is not None
    assert (changed.json["name"], changed.json["email"], changed.json["active"]) == (None, "neo@example.com", True)
    assert changed.json["phone"] == "+27825551234"
    gone = both.delete(path)
    assert (gone.status_code, gone.text) == (204, "")
    problem(both.get(path), 404, "customer_unknown")
    problem(both.delete(path), 404, "customer_unknown")
    problem(both.patch(path, {"name": "Neo"}), 404, "customer_unknown")


def test_secrets_go_in_and_never_come_out(caller: Program) -> None:
    body = {"customer_id": "C-9", "password": PASSWORD, "totp_secret": TOTP_SECRET}
    answers = [caller.post("/customers", body, headers={"Idempotency-Key": "one"})]
    answers += [caller.post("/customers", body, headers={"Idempotency-Key": "one"}), caller.get("/customers/C-9")]
    answers += [caller.get("/customers?limit=200")]
    for answer in answers:
        assert PASSWORD not in answer.text
        assert TOTP_SECRET not in answer.text
        assert "argon2" not in answer.text
    assert answers[2].json is not None
    assert (answers[2].json["has_password"], answers[2].json["has_totp"]) == (True, True)


def test_contacts_are_for_keys_that_may_read_customers(caller: Program) -> None:
    found = caller.get("/customers/c-1001").json
    assert found is not None
    assert (found["customer_id"], found["phone"], found["email"]) == ("C-1001", PHONE, MAIL)


def test_pages_go_on_by_cursor_and_miss_nobody(both: Program) -> None:
    many = [{"customer_id": f"P-{number:03}"} for number in range(25)]
    assert both.post("/customers/bulk", {"customers": many}).status_code == 200
    seen: list[str] = []
    path = "/customers?limit=10"
    for _ in range(10):
        found = both.get(path).json
        assert found is not None
        seen += [customer["customer_id"] for customer in found["data"]]
        if found["next"] is None:
            break
        both.post("/customers", {"customer_id": f"A-{len(seen)}"})  # before what was seen: moves nothing
        path = f"/customers?limit=10&after={found['next']}"
    assert seen == ["C-1001", "C-1002", "C-1003", "C-1004"] + [one["customer_id"] for one in many]


def test_what_cannot_be_used_is_named_with_its_place(caller: Program) -> None:
    found = problem(
        caller.post("/customers", {"customer_id": "X", "phone": "12", "email": 7, "surname": "N", "active": "yes"}),
        422, "body_invalid",
    )  # fmt: skip
    assert {error["pointer"] for error in found["errors"]} == {"/email", "/surname", "/active", "/phone"}
    found = problem(
        caller.post("/customers", {"customer_id": "X", "phone": "12", "password": "short"}), 422, "body_invalid"
    )
    assert {error["pointer"]: error["detail"] for error in found["errors"]} == {
        "/phone": "is not a phone number (numbers without + are read as numbers of South Africa)",
        "/password": "is shorter than 8 characters",
    }
    assert "short'" not in str(found)
    problem(caller.post("/customers", {"name": "Nobody"}), 422, "body_invalid")
    problem(caller.patch("/customers/C-1001", {}), 422, "body_invalid")
    problem(caller.patch("/customers/C-1001", {"name": ""}), 422, "body_invalid")
    problem(caller.patch("/customers/C-1001", {"customer_id": "C-5"}), 422, "body_invalid")


def test_an_id_that_is_taken_is_a_conflict_in_any_spelling(both: Program) -> None:
    problem(both.post("/customers", {"customer_id": "c - 1001"}), 409, "customer_exists")


def test_a_bulk_write_never_changes_the_capital_letters_of_a_stored_id(both: Program) -> None:
    body = {"customers": [{"customer_id": "N-1"}, {"customer_id": "c-1001", "name": "Someone else"}]}
    found = both.post("/customers/bulk", body)
    problem(found, 422, "body_invalid")
    (error,) = json.loads(found.text)["errors"]
    assert error["pointer"] == "/customers/1/customer_id"
    assert "with other capital letters" in error["detail"]
    two = {"customers": [{"customer_id": "N-1"}, {"customer_id": "n-1"}]}
    (error,) = json.loads(both.post("/customers/bulk", two).text)["errors"]
    assert error["detail"].startswith("is the same customer as number 0; they differ only in capital letters")
    assert "N-1" not in {row.customer_id for row in both.world.rows(CustomerRow)}


def test_r13_a_changed_contact_is_told_at_the_old_and_the_new_address(caller: Program) -> None:
    assert caller.patch("/customers/C-1001", {"phone": "082 999 8888"}).status_code == 200
    notices = [row for row in caller.world.rows(Delivery) if row.verification_id is None and row.target == "sms"]
    assert len(notices) == 2


def test_many_are_saved_in_one_act(both: Program) -> None:
    body = {"customers": [
        {"customer_id": "C-1001", "name": "Thandi N."},
        {"customer_id": "C-1002", "active": False, "email": None},
        {"customer_id": "C-1003", "name": "Amahle Zulu"},
        {"customer_id": "N-1", "phone": "+27825550001", "active": False},
        {"customer_id": "N-2"},
    ]}  # fmt: skip
    assert both.post("/customers/bulk", body).json == {"created": 2, "changed": 2, "equal": 1}
    assert both.post("/customers/bulk", body).json == {"created": 0, "changed": 0, "equal": 5}
    off = {row.customer_id for row in both.world.rows(CustomerRow) if not row.is_active}
    assert off == {"C-1002", "N-1"}
    event = next(event for event in both.world.rows(AuditEvent) if event.kind == "customers_saved")
    assert event.facts["new"] == 2
    assert event.facts["api_key"]


def test_r46_a_bulk_write_is_audited_and_notified_as_single_changes(both: Program) -> None:
    """A bulk of one used to move a person's phone, and set their password, without a trace or a notice."""
    same = {"phone": "+27829998877", "password": "another battery staple horse", "active": False}
    body = {"customers": [{"customer_id": "C-1001", **same}, {"customer_id": "N-1", "email": "n@example.com"}]}
    assert both.post("/customers/bulk", body).status_code == 200
    rows = {row.customer_id: row for row in both.world.rows(CustomerRow)}
    (key,) = both.world.services.api_keys.recent()
    found = {}
    for event in both.world.rows(AuditEvent):
        if event.subject_id in (rows["C-1001"].subject_id, rows["N-1"].subject_id) and event.facts.get("api_key"):
            assert event.facts["api_key"] == key.id
            found[(event.kind, event.subject_id)] = event.facts.get("fields")
    assert found == {
        ("customer_changed", rows["C-1001"].subject_id): ["password", "phone"],
        ("customer_disabled", rows["C-1001"].subject_id): None,
        ("customer_created", rows["N-1"].subject_id): ["customer_id", "email"],
    }
    wait_for(lambda: len(both.world.receiver.messages) == 4)
    sent = [(message["to"], message.get("subject", "") + message["text"]) for message in both.world.receiver.messages]
    notices = {(to, kind) for to, text in sent for kind in ("phone number", "password") if kind in text}
    assert notices == {
        (PHONE, "phone number"),
        ("+27829998877", "phone number"),
        (PHONE, "password"),
        (MAIL, "password"),
    }
    assert both.post("/customers/bulk", body).json == {"created": 0, "changed": 0, "equal": 2}
    assert len([event for event in both.world.rows(AuditEvent) if event.kind == "customer_changed"]) == 1


def test_r46_credentials_need_a_scope_of_their_own(small_world: World) -> None:
    """An older key that wrote them is refused in words that name the scope, and nothing is written."""
    older, newer = (
        program(small_world, "customers:write"),
        program(small_world, "customers:write", "customers:credentials"),
    )
    values: tuple[dict[str, str | None], ...] = (
        {"password": "another battery staple horse"},
        {"password": None},
        {"totp_secret": TOTP_SECRET},
    )
    for number, one in enumerate(values):

        def calls(who: Program, number: int = number, one: dict[str, str | None] = one) -> list[TestResponse]:
            many = [{"customer_id": f"M-{number}"}, {"customer_id": "C-1003", **one}]
            return [
                who.post("/customers", {"customer_id": f"N-{number}", **one}),
                who.patch("/customers/C-1002", one),
                who.post("/customers/bulk", {"customers": many}),
            ]

        before = small_world.rows(CustomerRow)
        for refused in calls(older):
            assert "customers:credentials" in problem(refused, 403, "scope_missing")["detail"]
            assert refused.headers["WWW-Authenticate"].endswith('scope="customers:credentials"')
        assert small_world.rows(CustomerRow) == before
        for answer in calls(newer):
            assert answer.status_code in (200, 201), answer.text
    alone = program(small_world, "customers:credentials")
    problem(alone.patch("/customers/C-1002", {"password": None}), 403, "scope_missing")
    assert older.patch("/customers/C-1002", {"phone": None}).status_code == 200


def test_one_that_cannot_be_used_stops_all(caller: Program) -> None:
    body = {"customers": [{"customer_id": "N-1"}, {"customer_id": "N-2", "phone": "1"}, {"customer_id": "n-1"}]}
    found = problem(caller.post("/customers/bulk", body), 422, "body_invalid")
    assert [error["pointer"] for error in found["errors"]] == ["/customers/1/phone", "/customers/2/customer_id"]
    assert not [row for row in caller.world.rows(CustomerRow) if row.customer_id.startswith("N")]
    problem(caller.post("/customers/bulk", {"customers": []}), 422, "body_invalid")
    problem(caller.post("/customers/bulk", {"customers": [{"customer_id": "N"}] * 301}), 422, "body_invalid")
    problem(caller.post("/customers/bulk", {"customers": [7]}), 422, "body_invalid")


def test_plain_passwords_are_few(caller: Program) -> None:
    many = [{"customer_id": f"N-{number}", "password": "kudu kudu kudu"} for number in range(22)]
    found = problem(caller.post("/customers/bulk", {"customers": many}), 422, "body_invalid")
    assert [error["pointer"] for error in found["errors"]] == ["/customers/20/password", "/customers/21/password"]
    assert caller.post("/customers/bulk", {"customers": many[:2]}).json == {"created": 2, "changed": 0, "equal": 0}


def test_who_acted_is_in_the_audit(caller: Program) -> None:
    caller.post("/customers", {"customer_id": "N-1"})
    caller.patch("/customers/N-1", {"name": "Neo", "active": False})
    caller.delete("/customers/N-1")
    (key,) = caller.world.services.api_keys.recent()
    with caller.world.database.read() as connection:
        kinds = connection.execute(select(AuditEvent.kind, AuditEvent.facts).order_by(AuditEvent.id)).all()
    whose = {kind: facts.get("api_key") for kind, facts in kinds}
    for kind in ("customer_created", "customer_changed", "customer_disabled", "customer_erased"):
        assert whose[kind] == key.id


def test_a_change_that_was_made_meanwhile_is_not_overwritten(both: Program) -> None:
    """RFC 9110, 13.1.1: the version that was read goes back in If-Match; another one changes nothing."""
    first = both.get("/customers/C-1001")
    seen = {"If-Match": first.headers["ETag"]}
    changed = both.patch("/customers/C-1001", {"name": "Thandi Dlamini"}, headers=seen)
    assert changed.headers["ETag"] != first.headers["ETag"]
    problem(both.patch("/customers/C-1001", {"name": "Late"}, headers=seen), 412, "customer_not_as_seen")
    problem(both.delete("/customers/C-1001", headers=seen), 412, "customer_not_as_seen")
    for condition in ("W/" + changed.headers["ETag"], '"nothing"', ""):
        late = both.patch("/customers/C-1001", {"name": "Late"}, headers={"If-Match": condition})
        problem(late, 412, "customer_not_as_seen")
    read = both.get("/customers/C-1001")
    assert read.json is not None
    assert (read.json["name"], read.headers["ETag"]) == ("Thandi Dlamini", changed.headers["ETag"])
    same = both.patch("/customers/C-1001", {"name": "Thandi Dlamini"}, headers={"If-Match": "*"})
    assert same.headers["ETag"] == changed.headers["ETag"]
    either = {"If-Match": f'"nothing", {changed.headers["ETag"]}'}
    assert both.patch("/customers/C-1001", {"active": False}, headers=either).status_code == 200
    assert both.delete("/customers/C-1001", headers={"If-Match": "*"}).status_code == 204


def test_a_repetition_has_the_version_of_its_answer(caller: Program) -> None:
    """Its own change made If-Match untrue, which must not turn the repetition away; another condition is another request."""
    headers = {"If-Match": caller.get("/customers/C-1001").headers["ETag"], "Idempotency-Key": "once"}
    first = caller.patch("/customers/C-1001", {"name": "T"}, headers=headers)
    again = caller.patch("/customers/C-1001", {"name": "T"}, headers=headers)
    assert (again.status_code, again.headers["ETag"]) == (200, first.headers["ETag"])
    other = caller.patch("/customers/C-1001", {"name": "T"}, headers={**headers, "If-Match": "*"})
    problem(other, 422, "idempotency_key_reused")


def test_every_fault_of_a_customer_is_named_at_once(small_world: World) -> None:
    """A member of the wrong type hides no other that cannot be used."""
    caller = program(small_world)
    wrong = {
        "customer_id": 5,
        "name": "x" * 201,
        "phone": "12",
        "email": "no",
        "locale": ["en"],
        "active": "yes",
        "age": 9,
    }
    found = problem(caller.post("/customers", wrong), 422, "body_invalid")
    assert {error["pointer"] for error in found["errors"]} == {f"/{name}" for name in wrong}
    del wrong["customer_id"]
    found = problem(caller.call("PATCH", "/customers/C-1001", wrong), 422, "body_invalid")
    assert {error["pointer"] for error in found["errors"]} == {f"/{name}" for name in wrong}
    many = [{"customer_id": "N-1", "phone": "12"}, {"customer_id": "N-2", "active": 1}, {"email": "no"}, 7]
    found = problem(caller.post("/customers/bulk", {"customers": many}), 422, "body_invalid")
    assert [error["pointer"] for error in found["errors"]] == [
        "/customers/1/active", "/customers/2/customer_id", "/customers/3", "/customers/0/phone", "/customers/2/email",
    ]  # fmt: skip
