"""What names a person is read in one form wherever it comes from (R25, R55), and the same answer goes to all (R24)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import insert, update
from werkzeug.test import TestResponse

from auth_portal.errors import Problem
from auth_portal.services.directory.batches import read_ids_again, untrusted_rows
from auth_portal.services.directory.fields import new_row
from auth_portal.services.operations.installation import examine
from auth_portal.services.serving import build
from auth_portal.store.models import CustomerRow, TicketRow
from tests.admin.desk import signed_in
from tests.admin.test_imports import checked, counted, rested
from tests.admin.test_settings import FORM as SETTINGS
from tests.api.program import problem, program
from tests.security.tools import deliver, face
from tests.world import CUSTOMERS, MAIL, PHONE, World

PASTED_PHONES = ["\u202a+27\u00a082\u2011123\u20114567\u202c", "٠٨٢١٢٣٤٥٦٧", "tel:+27821234567", "'082 123 4567."]
PASTED = [*PASTED_PHONES, f"Thandi <{MAIL}>", f"mailto:{MAIL}", "\u2068C–1001\u2069", "C-١٠٠١,"]
ODD = "C\u20111001"  # the ID of C-1001, with a dash that does not break the line


def stored_by_an_older_version(world: World, customer_id: str, old_key: str, **more: str | None) -> str:
    """A customer as the release before this one would have inserted it, perhaps while both run; return the row."""
    with world.transactions.write() as work:
        fields = {"customer_id": customer_id, "name": "Zo\u2010Anne", **more}
        values = new_row(work.keyring, work.now, fields, is_long=False)
        values |= {"customer_key": old_key, "shared_key": None, "name_key": work.keyring.index("name", "zo\u2010anne")}
        work.execute(insert(CustomerRow).values(values))
    return str(values["id"])


def body(response: TestResponse) -> Any:
    return json.loads(response.text)


def upgraded(world: World) -> int:
    return read_ids_again(world.database, lambda: world.services.keyring)


@pytest.mark.parametrize("typed", PASTED)
def test_r55_what_is_pasted_gets_its_code(small_still: World, typed: str) -> None:
    browser = small_still.browser()
    browser.begin("one", "mail" if "@" in typed else "", identifier=typed)
    deliver(small_still)
    (message,) = small_still.receiver.messages
    assert message["to"] == (MAIL if "@" in typed else PHONE)
    browser.prove(small_still.receiver.code_for(message["to"]))
    assert browser.path == "/done"
    assert not any(mark in browser.page.text for mark in "\u202a\u2068\u202c")


@pytest.mark.parametrize(
    "typed", ["thandi@examplecom", "thandi@", "@thandi", "C@1001", "mıke@example.com", "a@b@example.com"]
)
def test_r55_what_has_an_at_sign_and_is_no_address_is_refused_for_all_alike(small_still: World, typed: str) -> None:
    """Otherwise it would be taken for a customer ID whose code never comes, also where a customer has that ID."""
    seen = []
    for known in (False, True):
        if known:
            stored_by_an_older_version(small_still, typed, typed.casefold())
            upgraded(small_still)
        browser = small_still.browser()
        browser.open(f"reference-{known}")
        page = browser.name(typed)
        assert page.status_code == 422
        seen.append((face(page, typed)[0], face(page, typed)[2].replace(f"reference-{known}", "")))
    assert seen[0] == seen[1]
    assert not small_still.receiver.messages


@pytest.mark.parametrize("typed", PASTED_PHONES)
def test_r55_a_ticket_is_read_as_it_was_pasted(small_still: World, typed: str) -> None:
    caller = program(small_still, "tickets:write")
    for said in ({"msisdn": typed}, {"customer_id": ODD}):
        assert caller.post("/tickets", {"journey": "balance", **said}).status_code == 201
    rows = small_still.rows(TicketRow)
    assert len({row.customer_row for row in rows}) == 1
    assert rows[0].phone_key == small_still.services.keyring.index("phone", PHONE)


def test_r55_the_api_and_the_search_read_ids_and_contacts_as_they_were_pasted(small_world: World) -> None:
    caller, support = program(small_world), signed_in(small_world, "support")
    assert body(caller.get(f"/customers/{ODD}"))["customer_id"] == "C-1001"
    made = {
        "customer_id": "D\u00a0\u200b1",
        "phone": PASTED_PHONES[1],
        "email": "Zo <ZO@example.com>",
        "name": "\u2068Zo\u2069",
    }
    shown = body(caller.post("/customers", made))
    assert (shown["customer_id"], shown["phone"], shown["email"], shown["name"]) == (
        "D 1", PHONE, "zo@example.com", "Zo",
    )  # fmt: skip
    problem(caller.post("/customers", {"customer_id": "d1."}), 409, "customer_exists")
    assert body(caller.post("/customers/bulk", {"customers": [{"customer_id": ODD, "locale": "af"}]}))["changed"] == 1
    same = [{"customer_id": "E-1"}, {"customer_id": "E–1"}]
    assert caller.post("/customers/bulk", {"customers": same}).status_code == 422
    for typed in (*PASTED, "Thandi\u00a0Nkosi", "\u202aTHANDI NKOSI\u202c"):
        support.get("/admin/customers")
        assert ODD in support.post("/admin/customers/search", q=typed).text, ascii(typed)


def test_r55_one_rule_for_email_addresses_wherever_they_come_from(small_world: World) -> None:
    """One that no mail server takes is refused at once, and never stored for a code that cannot arrive."""
    support, caller = signed_in(small_world, "support"), program(small_world)
    long, fits = f"{'a' * 65}@example.com", f"{'a' * 64}@example.com"
    browser = small_world.browser()
    browser.open("one")
    assert browser.name(long).status_code == 422
    problem(caller.post("/customers", {"customer_id": "L-1", "email": long}), 422, "body_invalid")
    assert caller.post("/customers", {"customer_id": "L-1", "email": fits}).status_code == 201
    path = checked(support, f"customer_id,email\nL-2,{long}\nL-3,Zo@Bücher.example\n", "customer_id", "email")
    assert "not an email address that codes can be sent to" in support.get(path).text
    with pytest.raises(Problem, match="email_invalid"):
        small_world.services.admins.invite("support", email=long)


def test_r55_the_search_reads_a_number_as_chat_networks_write_it(small_world: World) -> None:
    support, caller = signed_in(small_world, "support"), program(small_world)
    caller.post("/customers", {"customer_id": "M-1", "phone": "+52 1 55 1234 5678"})
    assert body(caller.get("/customers/M-1"))["phone"] == "+525512345678"
    for typed in ("5215512345678", "525512345678@s.whatsapp.net", "whatsapp:+5215512345678", "+52 55 1234 5678"):
        support.get("/admin/customers")
        assert "M-1" in support.post("/admin/customers/search", q=typed).text, typed


def test_r55_an_import_reads_each_cell_in_its_one_form(world: World) -> None:
    support = signed_in(world, "support")
    file = f"customer_id,name,phone,email\n{ODD},\u200b,\u202a083\u00a0123\u20114567\u202c,–\nN\u200b-9,Zo\u00a0Z,tel:0841234567,\u200b\n"
    path = checked(support, file, "customer_id", "name", "phone", "email")
    page = support.get(path).text
    assert (counted(page)["New customers"], counted(page)["Changed"]) == ("1", "1")
    assert "Phone numbers in the file, by country: South Africa 2" in " ".join(page.split())
    support.post(f"{path}/start")
    rested(support, path)
    caller = program(world)
    changed, new = body(caller.get("/customers/C-1001")), body(caller.get("/customers/n-9"))
    assert (changed["name"], changed["phone"], changed["email"]) == ("Thandi Nkosi", "+27831234567", None)
    assert (new["customer_id"], new["name"], new["phone"]) == ("N-9", "Zo Z", "+27841234567")


def test_r55_customers_of_the_release_before_are_found_after_the_upgrade(world: World) -> None:
    """Also those that it inserts while both releases run, and by their names."""
    row = stored_by_an_older_version(world, "Z\u20101 .", "z\u20101.")
    assert upgraded(world) == 1
    assert upgraded(world) == 0
    assert world.services.customers.row_of("z-1") == row
    assert [found.row for found in world.services.customers.page(typed="zo-anne").customers] == [row]
    assert {found.shared_key for found in world.rows(CustomerRow)} == {""}


def test_r55_an_id_that_two_customers_share_names_neither_and_the_doctor_names_both(world: World) -> None:
    odd = stored_by_an_older_version(world, ODD, "c\u20101001")
    assert upgraded(world) == 1
    caller = program(world)
    for number, typed in enumerate(("C-1001", ODD, "C-9999")):
        browser = world.browser()
        browser.begin(f"reference-{number}", "app", identifier=typed)
        browser.prove(world.totp())
        assert browser.path == "/verify", typed  # as a stranger's
    assert not [call for call in world.receiver.callbacks if call.body["result"] == "verified_app"]
    (found,) = [
        found
        for found in examine(world.services.settings, partial(build, clock=world.clock, poll_seconds=60.0))
        if found.subject == "customer IDs"
    ]
    assert not found.is_well
    assert "“C-1001” and “C\u20111001”" in found.detail
    # The exact spelling still finds each of them, to change or erase it; no third one may join them.
    assert body(caller.get("/customers/C-1001"))["email"] == MAIL
    assert body(caller.get(f"/customers/{ODD}"))["email"] is None
    problem(caller.get("/customers/C–1001"), 409, "customer_id_shared")
    problem(caller.post("/customers", {"customer_id": "C–1001"}), 409, "customer_exists")
    problem(caller.post("/customers/bulk", {"customers": [{"customer_id": "C-1001"}]}), 409, "customer_id_shared")
    report = world.services.command_import.import_csv(CUSTOMERS.encode(), default_region="ZA", dry_run=True)
    assert [str(fault) for fault in report.errors] == [
        "row 2, customer_id: is stored for several customers in different spellings; change or erase all but one of them"
        " first"
    ]
    # Without the other one, the ID names its customer again.
    assert caller.delete(f"/customers/{ODD}").status_code == 204
    upgraded(world)
    browser = world.browser()
    browser.begin("reference-9", "app")
    world.clock.advance(60)
    browser.prove(world.totp())
    assert browser.path == "/done"
    assert odd not in {row.id for row in world.rows(CustomerRow)}


def test_r55_customers_who_share_an_id_are_still_named_by_their_contacts(small_still: World) -> None:
    """Also once MACs are required, though what one of them is found by is not the one form of their ID."""
    world = small_still
    stored_by_an_older_version(world, ODD, "c\u20101001", phone="+27841112222")
    assert upgraded(world) == 1
    assert world.transactions.keyring.requires_macs
    assert next(untrusted_rows_of(world), None) is None
    for contact, customer_id in (("+27841112222", ODD), (PHONE, "C-1001")):
        browser = world.browser()
        browser.begin(f"of{contact}", identifier=contact)
        deliver(world)
        browser.prove(world.receiver.code_for(contact))
        assert browser.path == "/done", contact
        deliver(world)
        assert world.receiver.callbacks[-1].body["data"]["customer_id"] == customer_id


def untrusted_rows_of(world: World) -> Iterator[str]:
    with world.transactions.read() as work:
        yield from untrusted_rows(work)


def test_r55_the_country_is_asked_for_before_the_first_import(small_world: World) -> None:
    owner = signed_in(small_world)
    small_world.services.configuration.import_toml('[portal]\ndefault_region = ""\n', file_name="acme.toml")
    assert 'href="/admin/settings#default_region"' in owner.get("/admin/imports").text
    page = owner.post("/admin/imports", file="")
    assert page.status_code == 422
    assert "First set the default country under Settings" in page.text
    caller = program(small_world)
    faults = problem(caller.post("/customers", {"customer_id": "K", "phone": "0712345678"}), 422, "body_invalid")[
        "errors"
    ]
    assert "no default country is set" in json.dumps(faults)
    answer = caller.post("/customers", {"customer_id": "K", "phone": "+2712"})
    (fault,) = problem(answer, 422, "body_invalid")["errors"]
    assert fault["detail"].endswith("(no default country is set, so a number needs its country code)")
    assert caller.post("/customers", {"customer_id": "K", "phone": "+254712345678"}).status_code == 201
    owner.get("/admin/settings")
    values = {**SETTINGS, "default_region": "KE", "name": "Acme Bank"}
    assert owner.post("/admin/settings", **values, second_factor=owner.second_factor()).status_code == 200
    assert "Set the default country" not in owner.get("/admin/imports").text
    assert body(caller.post("/customers", {"customer_id": "L", "phone": "0712345678"}))["phone"] == "+254712345678"


def test_r55_a_row_changed_by_sql_to_an_older_form_is_read_again(small_world: World) -> None:
    with small_world.database.write() as connection:
        connection.execute(update(CustomerRow).values(shared_key=None))
    small_world.services.dispatcher._housekeeping.complete()
    assert {row.shared_key for row in small_world.rows(CustomerRow)} == {""}
