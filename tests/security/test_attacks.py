"""What somebody with a lower position tries on the way up: an old link, a narrow key, a text that changes hands."""

from __future__ import annotations

import re
import time

import pytest

from auth_portal.errors import Gone, Misconfigured
from auth_portal.services.config.journey import result_clashes
from auth_portal.store.models import CredentialLink
from tests.admin.desk import Desk, signed_in
from tests.api.program import program
from tests.security.tools import deliver, expire, results
from tests.world import MAIL, PHONE, World, journey

# -- R35 over time: a text changes hands -------------------------------------------------------------------------


def save(world: World, toml: str) -> list[str]:
    """Saves journeys as the config file would; gives what stands against it."""
    try:
        world.services.configuration.import_toml(toml.replace("{receiver}", world.receiver.origin), file_name="a.toml")
    except Misconfigured as refused:
        return [str(refused)]
    world.services.journeys.renew()
    return []


def answering(slug: str, *steps: str, active: bool = True, **texts: str) -> str:
    """A journey with result texts of its own."""
    lines = "".join(f'{outcome} = "{text}"\n' for outcome, text in texts.items())
    toml = journey(slug, *steps) + f"[journeys.results]\n{lines}"
    return toml.replace("default = false", f"default = false\nactive = {str(active).lower()}")


def test_r35_what_is_under_way_keeps_its_text_from_others(still: World) -> None:
    """A link of the strict journey, begun under the weak one just before its text was given to the strict one."""
    assert not save(still, answering("weak", "totp", verified="ok"))
    attacker = still.browser()
    attacker.begin("strict-reference", "weak")
    assert not save(still, answering("weak", "totp", verified="ok_weak"))
    taking = answering("strict", "password", "totp", verified="ok")
    (refusal,) = save(still, taking)
    assert "still in progress" in refusal
    attacker.prove(still.totp())
    (refusal,) = save(still, taking)  # the answer has not left
    assert "still in progress" in refusal
    assert results(still) == ["ok"]
    assert not save(still, taking)


def test_r35_an_outcome_of_an_older_version_is_nobodys_success(still: World) -> None:
    assert not save(still, answering("weak", "totp", verified="ok_weak", cancelled="ok"))
    attacker = still.browser()
    attacker.begin("strict-reference", "weak")
    assert not save(still, answering("weak", "totp", verified="ok_weak", cancelled="no"))
    (refusal,) = save(still, answering("strict", "password", "totp", verified="ok"))
    assert "without any proof" in refusal
    still.clock.advance(1000)
    expire(still)
    deliver(still)
    assert not save(still, answering("strict", "password", "totp", verified="ok"))


@pytest.mark.parametrize("gone", ["off", "deleted"])
def test_r35_a_closed_journey_answers_nobodys_success(still: World, gone: str) -> None:
    """Its links still tell the chat ``unavailable`` and ``not_me``, to whoever puts another reference into them."""
    owner = signed_in(still)
    assert not save(still, answering("old", "totp", verified="ok_old", unavailable="later", not_me="later"))
    owner.get("/admin/journeys/old")
    if gone == "off":
        owner.post("/admin/journeys/old/active", active="0")
    else:
        owner.get("/admin/journeys/old/delete")
        owner.post("/admin/journeys/old/delete")
    (refusal,) = save(still, answering("strict", "password", "totp", verified="later"))
    assert "without any proof" in refusal
    browser = still.browser()
    browser.open("strict-reference", "old")
    browser.post("/j/old")
    assert results(still) == ["later"]


def test_r35_one_that_is_off_cannot_verify(still: World) -> None:
    assert not save(still, answering("old", "totp", active=False, verified="ok"))
    assert not save(still, answering("strict", "password", "totp", verified="ok"))
    assert result_clashes(now.config for now in still.services.journeys.renew().journeys.values()) == []


# -- phone_match -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("msisdn", ["821234567", "82 123 4567", "(82) 123-4567", "tel:821234567", "821234567;ext=1"])
def test_relay_an_id_of_another_network_is_nobodys_number(small_still: World, msisdn: str) -> None:
    """Telegram's users have numbers of nine or ten digits: read as national ones they would be other people's phones."""
    caller = program(small_still, "tickets:write")
    answer = caller.post("/tickets", {"journey": "balance", "msisdn": msisdn})
    assert answer.status_code == 422
    assert answer.json is not None
    assert answer.json["errors"][0]["pointer"] == "/msisdn"
    for written in (PHONE, PHONE[1:], "0821234567", "0027821234567"):
        assert caller.post("/tickets", {"journey": "balance", "msisdn": written}).status_code == 201, written


# -- one-time links ----------------------------------------------------------------------------------------------


def link_by_hand(world: World, customer_id: str = "C-1001") -> str:
    row = world.services.customers.row_of(customer_id)
    made = world.services.credential_links.make(row, "password", "hand", admin_id="somebody")
    return re.sub(r"^https?://[^/]+", "", made.link)


@pytest.mark.parametrize("way", ["page", "bulk", "import"])
def test_r13_a_link_dies_with_the_contact_it_went_to(still: World, way: str) -> None:
    """The number on file was somebody else's: what was sent there must not set a password a day long."""
    path = link_by_hand(still)
    untouched = link_by_hand(still, "C-1002")
    row = still.services.customers.row_of("C-1001")
    still.clock.advance(5)
    if way == "page":
        assert still.services.customers.change(row, {"phone": "+27829998877"}).changed == ("phone",)
    elif way == "bulk":
        both = [{"customer_id": "C-1001", "phone": "+27829998877"}, {"customer_id": "C-1002", "name": "Sipho D"}]
        assert program(still).post("/customers/bulk", {"customers": both}).status_code == 200
    else:
        content = b"customer_id,phone\nC-1001,+27829998877\n"
        assert still.services.command_import.import_csv(content, default_region="ZA", dry_run=False).changed == 1
        assert still.services.customers.get(row).phone == "+27829998877"
    assert still.browser().get(path).status_code == 410
    assert still.browser().get(untouched).status_code == 200


def test_r26_who_is_switched_off_comes_in_by_no_invitation_of_their_own(small_still: World) -> None:
    world = small_still
    first, leaving = signed_in(world), _second_owner(world)
    for path, fields in (("active", {"active": "0"}), ("role", {"role": "auditor"})):
        token = world.services.admins.invite("owner", made_by=leaving)
        others = world.services.admins.invite("support", made_by=first.admin_id)
        first.get(f"/admin/admins/{leaving}")
        first.post(f"/admin/admins/{leaving}/{path}", **fields, second_factor=first.second_factor())
        assert first.path == "/admin/admins", first.page.text
        with pytest.raises(Gone):
            world.services.admins.invitation(token)
        assert world.browser().get(f"/admin/join/{token}").status_code == 410
        assert world.services.admins.invitation(others).role.name == "support"
        world.services.admins.set_active(leaving, True, by=first.admin_id)


def _second_owner(world: World) -> str:
    desk: Desk = signed_in(world, "support")
    world.services.admins.set_role(desk.admin_id, "owner", by=desk.admin_id)
    return desk.admin_id


# -- keys --------------------------------------------------------------------------------------------------------


def test_r40_a_key_that_only_writes_customers_reads_nobodys_contacts(small_still: World) -> None:
    writer = program(small_still, "customers:write")
    for answer in (
        writer.patch("/customers/C-1001", {"active": True}),
        writer.patch("/customers/C-1001", {"locale": "af"}, headers={"Idempotency-Key": "one"}),
        writer.patch("/customers/C-1001", {"locale": "af"}, headers={"Idempotency-Key": "one"}),
    ):
        assert answer.status_code == 200
        assert not [known for known in (PHONE, MAIL, "Thandi") if known in answer.text]
    both = program(small_still, "customers:write", "customers:read")
    assert PHONE in both.patch("/customers/C-1001", {"active": True}).text


def test_a_used_link_stays_on_record(small_still: World) -> None:
    """Only open links end with a contact: one that was followed is a fact."""
    path = link_by_hand(small_still)
    browser = small_still.browser()
    browser.open_link(path)
    browser.post(path, password="seven kudus dance slowly", repeated="seven kudus dance slowly")
    row = small_still.services.customers.row_of("C-1001")
    small_still.clock.advance(5)
    small_still.services.customers.change(row, {"phone": "+27829998877"})
    assert [link.used_at is not None for link in small_still.rows(CredentialLink)] == [True]


# -- pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("email", [f"{'a' * 3000}@x.example", "\U0001f600" * 3000])
def test_r41_a_name_too_long_for_a_qr_code_is_a_fault_of_the_form(small_still: World, email: str) -> None:
    path = f"/admin/join/{small_still.services.admins.invite('owner')}"
    small_still.services.configuration.import_toml(f'[portal]\nname = "{chr(0x1F600) * 60}"\n', file_name="a.toml")
    small_still.services.journeys.renew()
    browser = small_still.browser()
    browser.open_link(path)
    assert browser.post(path, name="Ada", email=email, password="x", repeated="x", code="1").status_code == 422
    assert "t an email address." in browser.page.text


def test_r41_a_nul_is_refused_before_it_comes_to_a_database(still: World) -> None:
    owner = signed_in(still)
    for path in ("/admin/customers/%00", "/admin/imports?before=%00", "/admin/verifications?journey=a%00b",
                 "/admin/deliveries?target=%00", "/admin/journeys/%00", "/admin/audit?kind=%00", "/admin/channels/a%00/tests/b%00"):  # fmt: skip
        assert owner.get(path).status_code in (400, 404), path
    owner.get("/admin/customers")
    assert owner.post("/admin/customers/search", q="a\0b").status_code == 400
    for path in ("/credentials/%00", "/j/%00?reference=a", "/j/app/t/%00?reference=a", "/logo/%00", "/look/%00.css",
                 "/admin/join/%00"):  # fmt: skip
        assert still.browser().get(path).status_code in (400, 404, 410), path


@pytest.mark.parametrize("text", ["a." * 30_000 + "b = 1", f"[{'a.' * 30_000}b]", ("a." * 200 + "b = 1\n") * 140])
def test_r23_a_config_file_costs_no_time(small_still: World, text: str) -> None:
    began = time.process_time()
    assert save(small_still, text)
    assert time.process_time() - began < 1.0
