"""Customer IDs that differ only in capital letters: two people where the portal says so, in every place that finds one.

A wrong match here would be a wrong ``verified``, so most of it is played as an attacker would: other spellings, a
process that does not know the setting, and a database that was written to.
"""

from __future__ import annotations

import ast
import json
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyotp import TOTP, random_base32
from sqlalchemy import insert, text

from auth_portal.crypto import CASE_SENSITIVE_IDS
from auth_portal.services.config.file import BadConfig
from auth_portal.services.directory.batches import read_ids_again, untrusted_rows
from auth_portal.services.directory.fields import new_row
from auth_portal.services.directory.person import CASED, hold_id_rule, id_form
from auth_portal.store.models import AuditEvent, CustomerRow, Portal
from tests.admin.desk import Desk, signed_in
from tests.admin.test_drive import begin, driven
from tests.admin.test_guards import assert_mailed, let_the_second_factor_age
from tests.admin.test_imports import checked, imported, rested
from tests.admin.test_settings import FORM, sure_of
from tests.api.program import Program, problem, program
from tests.receiver import Receiver
from tests.security.tools import STILL, deliver
from tests.test_cli_notices import run
from tests.world import CONFIG, World, journey, open_world

ANNA, BEN = "0015g00000AbCdE", "0015g00000aBcDe"
SEEDS = {ANNA: random_base32(), BEN: random_base32()}
PHONES = {ANNA: "+27821110001", BEN: "+27821110002"}
FILE = "customer_id,name,phone,totp_secret\n" + "".join(
    f"{one},{name},{PHONES[one]},{SEEDS[one]}\n" for one, name in ((ANNA, "Anna Abel"), (BEN, "Ben Bode"))
)
COLUMNS = ("customer_id", "name", "phone", "totp_secret")
JOURNEYS = journey("app", "totp", default=True, limits="wrong_tries = 3") + journey("code", "sms_code")
OTHERS = (
    "0015g00000abcde",
    "0015G00000ABCDE",
    f"C:{ANNA}",
    f"c:{ANNA.lower()}",
    "0015g00000\u0410bCdE",  # a Cyrillic A
    "0015g00000Ab\u0441dE",  # a Cyrillic c
    ANNA.replace("E", "\u0395"),  # a Greek Epsilon
    ANNA[:-1],
)
SAME = (f" {ANNA} ", f"{ANNA[:4]} {ANNA[4:]}", f"\u200b{ANNA}", f"“{ANNA}”.", ANNA.replace("A", "\uff21"))
FOLDED, CASE = CONFIG, CONFIG.replace("[portal]\n", "[portal]\ncase_sensitive_ids = true\n")


@pytest.fixture
def world(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    """A portal with case-sensitive IDs, and these two customers."""
    with open_world(tmp_path, database_url, receiver, config=JOURNEYS, base=CASE, customers=FILE, settings=STILL) as it:
        yield it


@pytest.fixture
def empty(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[World]:
    """A portal without customers, as it is installed; its imports are worked on."""
    with open_world(tmp_path, database_url, receiver, config=JOURNEYS, customers="customer_id\n") as it:
        yield it


def code(world: World, customer_id: str, shift: int = 0) -> str:
    return TOTP(SEEDS[customer_id]).at(world.clock.now.timestamp() + 30 * shift)


def results(world: World) -> dict[str, tuple[str, str]]:
    deliver(world)
    calls = world.receiver.callbacks
    return {call.header: (call.body["result"], call.body["data"]["customer_id"]) for call in calls}


def outcome(world: World, identifier: str, whose: str, reference: str) -> tuple[str, str]:
    """What the chat gets for someone who says this and enters the code of this customer's app, and then gives up."""
    browser = world.browser()
    browser.begin(reference, identifier=identifier)
    for _ in range(3):
        if browser.path == "/verify":
            browser.prove(code(world, whose))
    world.clock.advance(60)
    return results(world)[reference]


def sql(world: World, statement: str, **values: Any) -> None:
    with world.database.write() as connection:
        connection.execute(text(statement), values)


def keys(world: World) -> dict[str, str]:
    return {row.customer_id: row.customer_key for row in world.rows(CustomerRow)}


# --- The setting


def switch(owner: Desk, *, on: bool) -> str:
    owner.get("/admin/settings")
    form = {**FORM, CASE_SENSITIVE_IDS: "1" if on else "", "second_factor": owner.second_factor()}
    if "Save these changes?" in owner.post("/admin/settings", **form).text:
        owner.post("/admin/settings", **sure_of(owner.page), second_factor=form["second_factor"])
    return owner.page.text


def test_from_the_setting_to_two_people_and_back(empty: World) -> None:
    owner = signed_in(empty)
    assert 'type="checkbox" value="1"' in owner.get("/admin/settings").text.split('name="case_sensitive_ids"')[1][:40]
    let_the_second_factor_age(owner)
    owner.get("/admin/settings")
    shown = owner.post("/admin/settings", **FORM, case_sensitive_ids="1")
    assert owner.post("/admin/settings", **sure_of(shown)).status_code == 422
    assert CASE_SENSITIVE_IDS not in empty.rows(Portal)[0].settings
    assert "Saved." in switch(owner, on=True)
    assert_mailed(owner, "Settings: changed", "  Customer IDs are case-sensitive: no -> yes", "/admin/settings")
    path = imported(owner, FILE, *COLUMNS)
    assert "New customers: 2" in owner.page.text
    assert keys(empty) == {ANNA: CASED + ANNA, BEN: CASED + BEN}
    for one in SEEDS:
        empty.clock.advance(30)
        browser = empty.browser()
        browser.begin(f"r-{one}", identifier=one)
        browser.prove(code(empty, one))
        assert browser.path == "/done", browser.page.text
    page = owner.get("/admin/settings").text
    assert "IDs are case-sensitive: 001AbC and 001aBc are two customers." in page
    assert "can't be changed while there are customers" in page
    refused = switch(owner, on=False)
    assert owner.page.status_code == 422
    assert "there are customers: they are found by the present rule" in refused.replace("\n", " ")
    assert CASE_SENSITIVE_IDS in empty.rows(Portal)[0].settings
    owner.get(path)
    owner.post(f"{path}/undo")
    assert "This import was undone" in rested(owner, path)
    assert keys(empty) == {}
    assert "Saved." in switch(owner, on=False)
    assert CASE_SENSITIVE_IDS not in empty.rows(Portal)[0].settings, "0.1.0 refuses a key that it does not know"
    changes = [event.facts["changes"] for event in empty.rows(AuditEvent) if event.kind == "settings_changed"]
    assert [one["portal"][CASE_SENSITIVE_IDS] for one in changes] == [["no", "yes"], ["yes", "no"]]


def test_a_portal_with_customers_says_why_it_cannot_be_switched(
    tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    with open_world(tmp_path, database_url, receiver, config=JOURNEYS, settings=STILL) as world:
        owner = signed_in(world)
        page = owner.get("/admin/settings").text
        assert "Capital and small letters are the same" in page
        assert "set up a new portal" in page
        assert "cannot be changed now, because there are customers" in switch(owner, on=True)
        assert owner.page.status_code == 422
        with pytest.raises(BadConfig, match="case_sensitive_ids: cannot be changed now, because there are customers"):
            world.services.configuration.import_toml("[portal]\ncase_sensitive_ids = true\n", file_name="x")
        assert not world.services.configuration.import_toml(
            "[portal]\ncase_sensitive_ids = false\n", file_name="x"
        ).changes
        assert "Saved." in switch(owner, on=False), "all other settings can be saved"
        assert world.rows(Portal)[0].settings.get(CASE_SENSITIVE_IDS) is None


def test_neither_a_ticket_nor_a_chat_lives_through_the_change(empty: World) -> None:
    owner, caller = signed_in(empty), program(empty)
    assert caller.post("/tickets", {"journey": "app", "customer_id": ANNA}).status_code == 201
    assert "there are tickets that are still valid" in switch(owner, on=True)
    empty.clock.advance(700)
    empty.browser().begin("r-1", identifier=ANNA)
    assert "there are verifications under way" in switch(owner, on=True)


def test_a_file_that_was_checked_before_the_change_is_checked_again(empty: World) -> None:
    owner = signed_in(empty)
    path = checked(owner, f"customer_id,name\n{ANNA},Anna\n", "customer_id", "name")
    switch(owner, on=True)
    owner.get(path)
    owner.post(f"{path}/start")
    assert "customer IDs have become case-sensitive" in rested(owner, path)
    assert keys(empty) == {}
    owner.post(f"{path}/columns", **{"column-0": "customer_id", "column-1": "name"})
    rested(owner, path)
    owner.post(f"{path}/start")
    rested(owner, path)
    assert keys(empty) == {ANNA: CASED + ANNA}


def test_the_file_has_it_and_a_command_obeys_it(world: World, tmp_path: Path) -> None:
    assert "case_sensitive_ids = true" in world.services.configuration.export_toml()
    file = tmp_path / "more.csv"
    file.write_text(f"customer_id,name\n{ANNA.lower()},Carl\n{ANNA.upper()},Dora\n")
    run(world, tmp_path, "customers", "import", str(file))
    assert len(world.rows(CustomerRow)) == 4
    run(world, tmp_path, "customers", "erase", ANNA.lower())
    assert set(keys(world)) == {ANNA, BEN, ANNA.upper()}


# --- Every place that finds a customer


def test_the_landing_page_takes_each_for_one_person_alone(world: World) -> None:
    assert outcome(world, ANNA, ANNA, "r-1") == ("verified", ANNA)
    assert outcome(world, BEN, BEN, "r-2") == ("verified", BEN)
    assert outcome(world, ANNA, BEN, "r-3")[0] != "verified"
    assert outcome(world, BEN, ANNA, "r-4")[0] != "verified"
    for number, typed in enumerate(SAME):
        assert outcome(world, typed, ANNA, f"s-{number}") == ("verified", ANNA), typed


@pytest.mark.parametrize("typed", OTHERS)
def test_no_other_spelling_names_one(world: World, typed: str) -> None:
    for number, whose in enumerate(SEEDS):
        assert outcome(world, typed, whose, f"r-{number}")[0] != "verified"
    world.browser().begin("c-1", "code", identifier=typed)
    deliver(world)
    assert not [message for message in world.receiver.messages if message["to"] in PHONES.values()]


def test_a_code_goes_to_the_one_who_is_named(world: World) -> None:
    for one in SEEDS:
        world.browser().begin(f"r-{one}", "code", identifier=one)
        deliver(world)
        assert world.receiver.messages[-1]["to"] == PHONES[one]


def test_one_is_locked_and_the_other_is_not(world: World) -> None:
    for day in range(6):
        browser = world.browser()
        browser.begin(f"wrong-{day}", identifier=ANNA)
        for _ in range(3):
            browser.prove("000000")
        world.clock.advance(660)
    assert outcome(world, ANNA, ANNA, "r-1")[0] != "verified"
    assert outcome(world, BEN, BEN, "r-2") == ("verified", BEN)
    assert outcome(world, ANNA.lower(), ANNA, "r-3")[0] != "verified"


def test_a_ticket_names_the_one_whose_id_it_has(world: World) -> None:
    caller = program(world)
    for number, (one, right) in enumerate([(ANNA, True), (BEN, False), (ANNA.lower(), False)]):
        made = caller.post("/tickets", {"journey": "app", "customer_id": one})
        path = json.loads(made.text)["path"]
        browser = world.browser()
        browser.get(f"{path}?reference=t-{number}")
        browser.post(path)
        browser.prove(code(world, ANNA))
        assert (browser.path == "/done") is right, one
        world.clock.advance(60)
    assert results(world) == {"t-0": ("verified", ANNA)}


def test_programs_find_save_and_erase_one_of_them(world: World) -> None:
    caller: Program = program(world)
    assert {one: json.loads(caller.get(f"/customers/{one}").text)["phone"] for one in SEEDS} == PHONES
    problem(caller.get(f"/customers/{ANNA.lower()}"), 404, "customer_unknown")
    found = json.loads(caller.post("/customers/find", {"phone": PHONES[BEN]}).text)["data"]
    assert [one["customer_id"] for one in found] == [BEN]
    problem(caller.post("/customers", {"customer_id": ANNA}), 409, "customer_exists")
    assert caller.post("/customers", {"customer_id": ANNA.upper()}).status_code == 201
    body = {"customers": [{"customer_id": ANNA, "name": "A"}, {"customer_id": BEN, "name": "B"}, {"customer_id": "x"}]}
    saved = json.loads(caller.post("/customers/bulk", body).text)
    assert saved == {"created": 1, "changed": 2, "equal": 0}
    first = json.loads(caller.get("/customers?limit=2").text)
    rest = json.loads(caller.get(f"/customers?limit=9&after={first['next']}").text)
    assert {one["customer_id"] for one in first["data"] + rest["data"]} == {ANNA, BEN, ANNA.upper(), "x"}
    assert caller.delete(f"/customers/{ANNA}").status_code == 204
    assert json.loads(caller.get(f"/customers/{BEN}").text)["name"] == "B"
    assert ANNA not in keys(world)


def test_admins_search_for_one_of_them(world: World) -> None:
    support = signed_in(world, "support")
    rows = {row.customer_id: row.id for row in world.rows(CustomerRow)}
    for one, other in ((ANNA, BEN), (BEN, ANNA)):
        support.get("/admin/customers")
        page = support.post("/admin/customers/search", q=one).text
        assert (rows[one] in page, rows[other] in page) == (True, False)
        support.get("/admin/")
        support.post("/admin/search", q=one)
        assert rows[one] in support.path + support.page.text
        assert rows[other] not in support.path + support.page.text
    support.get("/admin/")
    support.post("/admin/search", q=BEN.lower())
    assert not any(row in support.path + support.page.text for row in rows.values())


def test_an_import_takes_a_third_spelling_for_a_third_person(world: World) -> None:
    command = world.services.command_import
    more = command.import_csv(
        f"customer_id,phone\n{ANNA.lower()},+27821110003\n{ANNA},\n".encode(), default_region="ZA", dry_run=False
    )
    assert (more.errors, more.new, more.equal) == ((), 1, 1)
    again = command.import_csv(f"customer_id\n{BEN}\n {BEN}\n".encode(), default_region="ZA", dry_run=True)
    assert "is the same customer as in row 2" in again.errors[0].reason


# --- Attackers, and processes that do not know it


def test_r54_a_row_found_by_the_others_id_verifies_no_one(world: World) -> None:
    sql(world, "UPDATE customers SET customer_key = 'C:' || customer_id || 'x'")
    sql(world, "UPDATE customers SET customer_key = :key WHERE customer_id = :of", key=CASED + ANNA, of=BEN)
    assert outcome(world, ANNA, BEN, "r-1")[0] != "verified"
    with world.transactions.read() as work:
        assert len(list(untrusted_rows(work))) == 2


@pytest.mark.parametrize("key", ["0015g00000abcde", ANNA, ANNA.lower()])
def test_r54_a_key_of_the_other_rule_finds_no_one(world: World, key: str) -> None:
    sql(world, "UPDATE customers SET customer_key = :key WHERE customer_id = :of", key=key, of=ANNA)
    for number, typed in enumerate((ANNA, BEN, key)):
        assert outcome(world, typed, ANNA, f"r-{number}")[0] != "verified"


@pytest.mark.parametrize("starts_with", [True, False])
def test_a_rule_that_someone_else_changed_finds_no_one(
    tmp_path: Path, database_url: str, receiver: Receiver, starts_with: bool
) -> None:
    """By SQL, which no page and no command does while there are customers."""
    people = FILE if starts_with else FILE.replace(BEN, "B-2")
    base = CASE if starts_with else FOLDED
    opening = open_world(tmp_path, database_url, receiver, config=JOURNEYS, base=base, customers=people, settings=STILL)
    with opening as world:
        assert outcome(world, ANNA, ANNA, "before") == ("verified", ANNA)
        settings = {**world.rows(Portal)[0].settings, CASE_SENSITIVE_IDS: not starts_with}
        sql(world, "UPDATE portal SET settings = :of, version = version + 1", of=json.dumps(settings))
        world.services.journeys.renew()
        for number, typed in enumerate((ANNA, ANNA.lower(), BEN, CASED + ANNA)):
            assert outcome(world, typed, ANNA, f"r-{number}")[0] != "verified"
        world.services.keyring.read_id_rule({CASE_SENSITIVE_IDS: starts_with})
        assert not list(_untrusted(world)), "their keys are still their own"


def _untrusted(world: World) -> list[str]:
    with world.transactions.read() as work:
        return list(untrusted_rows(work))


def test_a_process_that_does_not_know_the_rule_yet_finds_no_one_and_writes_no_wrong_key(empty: World) -> None:
    owner = signed_in(empty)
    switch(owner, on=True)
    caller, late = program(empty), empty.services.keyring
    late.read_id_rule({})
    assert caller.post("/customers", {"customer_id": ANNA}).status_code == 201
    assert keys(empty) == {ANNA: CASED + ANNA}
    late.read_id_rule({})
    assert json.loads(caller.get(f"/customers/{ANNA}").text)["customer_id"] == ANNA
    late.read_id_rule({})
    problem(caller.post("/customers/bulk", {"customers": [{"customer_id": BEN}]}), 409, "customer_changed")
    assert caller.post("/customers/bulk", {"customers": [{"customer_id": BEN}]}).status_code == 200
    assert keys(empty) == {ANNA: CASED + ANNA, BEN: CASED + BEN}


def test_the_setting_waits_for_a_customer_who_is_being_written(empty: World) -> None:
    signed_in(empty)
    found: list[str] = []

    def turn_on() -> None:
        try:
            empty.services.configuration.import_toml("[portal]\ncase_sensitive_ids = true\n", file_name="x")
            found.append("on")
        except BadConfig as refused:
            found.append(str(refused))

    setting = threading.Thread(target=turn_on)
    with empty.transactions.write() as work:
        hold_id_rule(work.connection, work.keyring)
        row = new_row(work.keyring, work.now, {"customer_id": ANNA}, is_long=False)
        setting.start()
        setting.join(0.5)
        work.execute(insert(CustomerRow).values(row))
    setting.join()
    assert "there are customers" in found[0]
    assert keys(empty) == {ANNA: id_form(ANNA)}


def test_a_test_drive_has_the_rule_of_its_portal(world: World) -> None:
    desk = signed_in(world)
    path = begin(desk, "code")
    code = driven(desk, path)
    desk.prove(code)
    assert desk.path.endswith("/done"), desk.page.text
    assert set(keys(world)) == {ANNA, BEN}


def test_a_row_that_0_1_0_still_wrote_is_brought_to_the_rule(empty: World) -> None:
    """In the second before a process of that release sees the setting, and stops serving."""
    signed_in(empty)
    people = empty.services.customers
    people.create({"customer_id": ANNA})
    people.create({"customer_id": "B-2"})
    settings = {**empty.rows(Portal)[0].settings, CASE_SENSITIVE_IDS: True}
    sql(empty, "UPDATE portal SET settings = :of, version = version + 1", of=json.dumps(settings))
    sql(empty, "UPDATE customers SET shared_key = NULL")
    read_ids_again(empty.database, lambda: empty.services.keyring)
    assert keys(empty) == {ANNA: CASED + ANNA, "B-2": "C:B-2"}


def key_of_0_1_0(customer_id: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", customer_id).casefold())
    return "".join(folded.split())


@given(st.text(max_size=40) | st.builds(lambda rest: CASED + rest, st.text(max_size=20)))
def test_no_folded_text_begins_as_a_key_with_case_does(typed: str) -> None:
    assert not key_of_0_1_0(typed).startswith(CASED)
    assert not id_form(typed).startswith(CASED)


def test_no_character_folds_to_the_mark() -> None:
    for number in range(0x110000):
        character = chr(number)
        assert CASED[0] not in key_of_0_1_0(character) + id_form(f"{character}:x"), hex(number)


def test_keys_are_made_in_one_place_that_knows_the_rule() -> None:
    """``customer_key`` always gets a keyring; ``id_form``, which knows no rule, is for what no one is found by."""
    callers, makers = set(), set()
    for path in Path("auth_portal").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "id", getattr(node, "attr", getattr(node, "name", ""))) if node else ""
            if name == "id_form" and not isinstance(node, ast.FunctionDef):
                makers.add(str(path.relative_to("auth_portal/services/directory")))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "customer_key":
                callers.add((path.name, ast.unparse(node.args[0])))
    assert makers == {"person.py", "fields.py"}
    assert {keyring.rpartition("_")[2].rpartition(".")[2] for _file, keyring in callers} == {"keyring"}
    assert len(callers) >= 5
