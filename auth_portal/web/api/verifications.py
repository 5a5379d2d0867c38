"""Verifications in the API: the ticket that Flow's server registers before it sends the link, and what came of it.

A reference is never part of a response.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import Response

from auth_portal.clock import iso
from auth_portal.errors import NotFound
from auth_portal.services.access.api_answers import ApiResponse, Write
from auth_portal.services.config.journey import OUTCOMES, Payment
from auth_portal.services.history.stories import LIVE, EndPlace, StoryFilter, StoryLine
from auth_portal.services.verification.tickets import NewTicket, TicketRequest
from auth_portal.web.api.frame import (
    InputFault,
    answer,
    caller,
    changes_page,
    is_text,
    is_time,
    once,
    one_of,
    page,
    read_json,
    read_query,
    read_time,
    refuse,
    route,
    sent,
)
from auth_portal.web.context import services

TICKET_MEMBERS = ("journey", "msisdn", "customer_id", "locale", "purpose", "reference")
PAYMENT_MEMBERS = ("amount", "currency", "payee")


@route("/tickets", scope="tickets:write", method="POST")
@once
def register_ticket(write: Write) -> ApiResponse:
    """Register a ticket and return the link to send."""
    body = read_json()
    msisdn = body.get("msisdn")
    if isinstance(msisdn, int | float) and msisdn > 1 and float(msisdn).is_integer():
        body["msisdn"] = str(int(msisdn))  # a number, as some flows send it
    known = {*TICKET_MEMBERS, "payment"}
    faults = [InputFault(f"/{name}", "is not known here") for name in sorted(body.keys() - known)]
    # Flow sends an empty text for a variable without a value.
    said = {
        name: body[name].strip() for name in TICKET_MEMBERS if isinstance(body.get(name), str) and body[name].strip()
    }
    faults += [
        InputFault(f"/{name}", "must be a text") for name in TICKET_MEMBERS if not isinstance(body.get(name, ""), str)
    ]
    if "journey" not in said:
        faults.append(InputFault("/journey", "must be the name of a journey, as its links have it"))
    payment = _read_payment(body["payment"], faults) if "payment" in body else None
    wanted = TicketRequest(**{"journey": "", **said}, payment=payment, api_key_id=caller().key_id)
    services().tickets.register(
        wanted,
        lambda work, made: write.store(work, _ticket_answer(made)),
        [refuse("body_invalid", faults)] if faults else [],
    )
    return write.answer


def _read_payment(found: object, faults: list[InputFault]) -> Payment | None:
    """Return a payment as far as it has the right shape; add what is wrong with that to ``faults``.

    An empty member is a fault: a variable without a value must not make an ordinary ticket of a payment.
    """
    if not isinstance(found, dict):
        faults.append(InputFault("/payment", "must be an object with amount, currency and payee"))
        return None
    faults += [
        InputFault(f"/payment/{name}", "is not known here") for name in sorted(found.keys() - set(PAYMENT_MEMBERS))
    ]
    values = {name: found[name].strip() for name in PAYMENT_MEMBERS if isinstance(found.get(name), str)}
    missing = [name for name in PAYMENT_MEMBERS if not values.get(name)]
    faults += [InputFault(f"/payment/{name}", "must be a text, and not empty") for name in missing]
    return Payment(**{name: values.get(name, "") for name in PAYMENT_MEMBERS})


def _ticket_answer(made: NewTicket) -> ApiResponse:
    document = {
        "id": made.ticket_id,
        "path": made.path,
        "link": services().settings.public_url + made.path,
        "names_customer": made.names_customer,
        "expires_at": iso(made.proofs_until),
    }
    return answer(document, 201)


@route("/verifications", scope="verifications:read")
def list_verifications() -> Response:
    """Send a page of verifications, the newest first."""
    filters, paging = read_query(
        journey=is_text, outcome=one_of(*OUTCOMES, LIVE), customer_id=is_text, since=is_time, until=is_time
    )
    wanted = StoryFilter(
        slug=filters.get("journey", ""),
        outcome=filters.get("outcome", ""),
        since=read_time(filters.get("since")),
        until=read_time(filters.get("until")),
    )
    if "customer_id" in filters:
        try:
            row = services().customers.row_of(filters["customer_id"])
        except NotFound:
            return page([], "")
        wanted = replace(wanted, customers=(row,))
    found = services().stories.page(wanted, after=paging.id_after(), most=paging.limit)
    return page([_shown(line) for line in found.rows], found.older)


@route("/changes/verifications", scope="verifications:read")
def list_verification_changes() -> Response:
    """Send the verifications that have ended since ``after``, in the order of their ends."""
    _filters, paging = read_query()
    found = services().stories.ended_after(EndPlace.read(paging.text_after()) if paging.after else None, paging.limit)
    return changes_page([_shown(line) for line in found.lines], str(found.place), is_more=found.is_more)


@route("/verifications/<verification_id>", scope="verifications:read")
def read_verification(verification_id: str) -> Response:
    """Send one verification."""
    return sent(answer(_shown(services().stories.line(verification_id))))


def _shown(line: StoryLine) -> dict[str, Any]:
    """Return a verification; its payment, with the name of its payee, only to programs that register payments."""
    asked = line.asked_payment
    payment = {name: getattr(asked, name) for name in PAYMENT_MEMBERS} if asked is not None else None
    return {
        "id": line.id,
        "journey": line.slug,
        "began_at": iso(line.began_at),
        "ended_at": iso(line.ended_at) if line.ended_at else None,
        "outcome": line.outcome,
        "customer_id": line.customer_id,
        "methods": line.methods.split("+") if line.methods else [],
        "callback": line.callback,
        **({"payment": payment} if "tickets:write" in caller().scopes else {}),
    }
