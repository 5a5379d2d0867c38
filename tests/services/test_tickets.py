"""Registering tickets: whom they name, what is refused, and that nothing secret is kept in plain."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from auth_portal.crypto import token_hash
from auth_portal.errors import NotFound, Problem
from auth_portal.services.verification.tickets import PURPOSE_LENGTH, NewTicket, TicketRequest
from auth_portal.store.models import TICKET_PURPOSE, AuditEvent, TicketRow
from tests.world import PHONE, World

PURPOSE = "Confirm transfer of R 500 to N. Dlamini"


def register(world: World, **values: Any) -> NewTicket:
    return world.services.tickets.register(TicketRequest(**{"journey": "balance", "msisdn": PHONE, **values}))


def refused(world: World, **values: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        register(world, **values)
    assert not world.rows(TicketRow)
    return caught.value


def test_a_ticket_names_the_holder_of_the_number(world: World) -> None:
    made = register(world, purpose=PURPOSE, locale="en-ZA")
    now = world.clock.now
    assert made.path.startswith("/j/balance/t/")
    assert (made.created_at, made.proofs_until, made.ends_at) == (
        now,
        now + timedelta(seconds=555),
        now + timedelta(seconds=600),
    )
    assert made.names_customer
    (row,) = world.rows(TicketRow)
    assert (row.id, row.slug, row.locale, row.reference_hash) == (made.ticket_id, "balance", "en-ZA", None)
    (event,) = [event for event in world.rows(AuditEvent) if event.kind == "ticket_registered"]
    assert event.subject_id
    assert event.facts == {"ticket": made.ticket_id, "journey": "balance", "by": "msisdn", "api_key": None}


def test_only_the_hash_of_the_token_and_sealed_texts_are_kept(world: World) -> None:
    made = register(world, purpose=PURPOSE)
    token = made.path.rpartition("/")[2]
    (row,) = world.rows(TicketRow)
    assert row.token_hash == token_hash(token)
    stored = b"\0".join(value if isinstance(value, bytes) else str(value).encode() for value in row)
    for secret in (token, PHONE, PHONE[1:], "Dlamini"):
        assert secret.encode() not in stored
    assert world.services.keyring.open(row.purpose_sealed, TICKET_PURPOSE, row.id) == PURPOSE
    with pytest.raises(Exception, match="does not belong to its row"):
        world.services.keyring.open(row.purpose_sealed, TICKET_PURPOSE, "another")


@pytest.mark.parametrize("msisdn", ["27821234567", "+27 82 123 4567", "0027821234567", "082 123 4567"])
def test_a_number_is_read_in_any_common_form(small_world: World, msisdn: str) -> None:
    assert register(small_world, msisdn=msisdn).names_customer


def test_a_customer_id_names_a_customer(small_world: World) -> None:
    assert register(small_world, msisdn="", customer_id=" c-1001 ").names_customer
    (row,) = small_world.rows(TicketRow)
    assert (row.phone_key, row.phone_sealed) == (None, None)


def test_a_number_of_several_people_names_none_of_them(small_world: World) -> None:
    assert not register(small_world, msisdn="27845551234").names_customer
    assert small_world.rows(TicketRow)[0].customer_row is None


def test_a_reference_of_the_flow_needs_no_variable_in_the_link(small_world: World) -> None:
    made = register(small_world, journey="waiting", reference="6f1c0f8e-9a4e-4c4f-8a44-3d8f0a2c9b11")
    assert made.path == "/j/waiting"
    (row,) = small_world.rows(TicketRow)
    assert row.token_hash is None
    assert len(row.reference_hash) == 32


def test_of_tickets_for_one_reference_the_last_counts_even_within_a_millisecond(small_world: World) -> None:
    made = [register(small_world, journey="waiting", reference="one-chat") for _ in range(8)]
    tickets = small_world.services.tickets
    found = tickets.find("waiting", "", "one-chat")
    assert found is not None
    assert found.ticket.id == made[-1].ticket_id
    assert sorted(made, key=lambda one: one.ticket_id) == made


@pytest.mark.parametrize(
    ("values", "code", "field"),
    [
        ({"msisdn": ""}, "ticket_one_of", "msisdn"),
        ({"customer_id": "C-1001"}, "ticket_one_of", "msisdn"),
        ({"msisdn": "nonsense"}, "ticket_msisdn_unreadable", "msisdn"),
        ({"msisdn": "27829999999"}, "ticket_nobody", "msisdn"),
        ({"msisdn": "", "customer_id": "C\0"}, "ticket_customer_id_unreadable", "customer_id"),
        ({"purpose": "x" * (PURPOSE_LENGTH + 1)}, "ticket_purpose_unreadable", "purpose"),
        ({"purpose": "Pay\nR 5"}, "ticket_purpose_unreadable", "purpose"),
        ({"purpose": "Pay \u202eR 5"}, "ticket_purpose_unreadable", "purpose"),
        ({"purpose": "Pay\u200b R 5"}, "ticket_purpose_unreadable", "purpose"),
        ({"locale": "x; DROP"}, "ticket_locale_unreadable", "locale"),
        ({"reference": "abc"}, "ticket_reference_made_by_flow", "reference"),
        ({"journey": "waiting", "reference": "a b"}, "ticket_reference_invalid", "reference"),
        ({"journey": "waiting", "reference": "a" * 513}, "ticket_reference_invalid", "reference"),
        ({"journey": "mail"}, "ticket_no_method", "journey"),
    ],
)
def test_what_cannot_be_a_ticket_is_refused_by_field(
    small_world: World, values: dict[str, str], code: str, field: str
) -> None:
    problem = refused(small_world, **values)
    assert (problem.code, problem.status, problem.params["field"]) == (code, 422, field)


def test_an_unknown_journey_is_not_found(small_world: World) -> None:
    problem = refused(small_world, journey="nowhere")
    assert isinstance(problem, NotFound)
    assert problem.code == "journey_unknown"


@pytest.mark.parametrize("purpose", ["", "تأیید انتقال به می‌رود", "Bestätige 500 €", "x" * PURPOSE_LENGTH])
def test_a_purpose_may_be_in_any_script(small_world: World, purpose: str) -> None:
    assert register(small_world, purpose=purpose)
