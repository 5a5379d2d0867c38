"""Tickets by program: whom a chat belongs to, told by Flow's server before its link is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response

from auth_portal.clock import iso
from auth_portal.services.access.api_answers import Answer
from auth_portal.services.tickets import Registered
from auth_portal.web.api.frame import Fault, Keep, answer, caller, once, read_json, refuse, route
from auth_portal.web.context import services

MEMBERS = ("journey", "msisdn", "customer_id", "locale", "purpose", "reference")


@route("/tickets", scope="tickets:write", method="POST")
def register_ticket() -> Response:
    """Registers a ticket and answers with the link to send."""
    return once(_register)


def _register(keep: Keep) -> Answer:
    said = _read(read_json())
    answers: list[Answer] = []

    def also(connection: Any, made: Registered) -> None:
        answers.append(_answer(made))
        keep(connection, answers[0])

    services().tickets.register(**said, api_key_id=caller().key_id, also=also)
    return answers[0]


def _answer(made: Registered) -> Answer:
    document = {
        "id": made.ticket_id,
        "path": made.path,
        "link": services().settings.public_url + made.path,
        "names_customer": made.names_customer,
        "expires_at": iso(made.proofs_until),
    }
    return answer(document, 201)


def _read(body: Mapping[str, Any]) -> dict[str, str]:
    faults = [Fault(f"/{name}", "is not known here") for name in sorted(body.keys() - set(MEMBERS))]
    # Flow fills a variable without a value in as an empty text: that says nothing.
    said = {name: body[name].strip() for name in MEMBERS if isinstance(body.get(name), str) and body[name].strip()}
    faults += [Fault(f"/{name}", "must be a text") for name in MEMBERS if not isinstance(body.get(name, ""), str)]
    if "journey" not in said:
        faults.append(Fault("/journey", "must be the name of a journey, as its links have it"))
    if faults:
        raise refuse("body_invalid", faults)
    return said
