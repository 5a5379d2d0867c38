"""Customers by program: read, made, changed, switched off and on, deleted, and many at once.

What a value may be is said in ``customer_fields``, the same as for a file and a form. Passwords and seeds come in and
never go out; contacts go out to keys with ``customers:read``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from flask import Response, request

from auth_portal.clock import iso
from auth_portal.errors import Conflict, Problem
from auth_portal.services.access.api_answers import Answer
from auth_portal.services.directory.customer_bulk import MOST, Said, checked_entries
from auth_portal.services.directory.customer_fields import FIELDS
from auth_portal.services.directory.people import Customer, Saved
from auth_portal.web.api.frame import (
    EPOCH,
    Fault,
    Keep,
    answer,
    caller,
    cursor,
    once,
    page,
    read_json,
    read_query,
    refuse,
    route,
    sent,
)
from auth_portal.web.context import services

BULK_BYTES = 1024 * 1024
TEXTS = frozenset(FIELDS) - {"customer_id"}


@route("/customers", scope="customers:read")
def list_customers() -> Response:
    """A page of customers in the order of their IDs."""
    _filters, paging = read_query()
    found = services().people.listed_openly(paging.text_after(), paging.limit)
    return page([_shown(customer) for customer in found.customers], cursor(found.after))


@route("/customers", scope="customers:write", method="POST")
def create_customer() -> Response:
    """Makes one customer."""
    return once(_create)


def _create(keep: Keep) -> Answer:
    said = _read(read_json(), "", needs_id=True)
    made: list[Answer] = []

    def also(connection: Any, customer: Customer) -> None:
        made.append(_answer(customer, 201))
        keep(connection, made[0])

    fields = {"customer_id": said.customer_id, **said.fields}
    saved = services().people.create(fields, is_active=said.is_active is not False, also=also, **_whose())
    _refuse_faults(saved, "customer_exists")
    return made[0]


@route("/customers/<anything:customer_id>", scope="customers:read")
def read_customer(customer_id: str) -> Response:
    """One customer."""
    return sent(_answer(_found(customer_id)))


@route("/customers/<anything:customer_id>", scope="customers:write", method="PATCH")
def change_customer(customer_id: str) -> Response:
    """Changes what the body names."""
    return once(lambda keep: _change(customer_id, keep))


def _change(customer_id: str, keep: Keep) -> Answer:
    said, stored = _read(read_json(), "", needs_id=False), _found(customer_id)
    changed: list[Answer] = []

    def also(connection: Any, customer: Customer) -> None:
        changed.append(_answer(customer))
        keep(connection, changed[0])

    saved = services().people.change(
        stored.row, said.fields, is_active=said.is_active, seen_at=_seen_at(stored), also=also, **_whose()
    )
    _refuse_faults(saved, "customer_changed")
    return changed[0]


@route("/customers/<anything:customer_id>", scope="customers:write", method="DELETE")
def delete_customer(customer_id: str) -> Response:
    """Removes a person for good."""
    return once(lambda keep: _delete(customer_id, keep))


def _delete(customer_id: str, keep: Keep) -> Answer:
    gone, stored = Answer(204, ""), _found(customer_id)
    services().erasure.erase(
        stored.row, seen_at=_seen_at(stored), also=lambda connection: keep(connection, gone), **_whose()
    )
    return gone


def _seen_at(stored: Customer) -> datetime | None:
    """The version that the program demands to change; None where any will do. Raises Problem 412 for another one."""
    if "If-Match" not in request.headers:
        return None
    if not request.if_match.contains(_version(stored)):
        raise Problem("customer_not_as_seen", status=412)
    return None if request.if_match.star_tag else stored.changed_at


def _version(customer: Customer) -> str:
    """Of a customer as they are: another after each change."""
    return f"{int((customer.changed_at - EPOCH) / timedelta(microseconds=1)):x}"


@route("/customers/bulk", scope="customers:write", method="POST", largest=BULK_BYTES)
def save_customers() -> Response:
    """Makes or changes many customers, all or none."""
    return once(_save)


def _save(keep: Keep) -> Answer:
    body = read_json()
    found = body.get("customers")
    if body.keys() != {"customers"} or not isinstance(found, list) or not 1 <= len(found) <= MOST:
        raise refuse("body_invalid", [Fault("/customers", f"must be a list of 1 to {MOST} customers, and be alone")])
    said = [_read(one, f"/customers/{number}", needs_id=True) for number, one in enumerate(found)]
    entries, faults = checked_entries(said, services().journeys.current().portal.default_region)
    if faults:
        raise refuse("body_invalid", [Fault(f"/customers/{one.row}/{one.column}", one.reason) for one in faults])
    saved: list[Answer] = []

    def also(connection: Any, counts: Any) -> None:
        saved.append(answer({"created": counts.new, "changed": counts.changed, "equal": counts.equal}))
        keep(connection, saved[0])

    services().directory.save(entries, also=also, **_whose())
    return saved[0]


def _whose() -> dict[str, Any]:
    return {"api_key": caller().key_id}


def _found(customer_id: str) -> Customer:
    people = services().people
    return people.opened(people.row_of(customer_id))


def _refuse_faults(saved: Saved, conflict: str) -> None:
    if saved.is_taken or saved.is_stale:
        raise Conflict(conflict)
    if saved.faults:
        raise refuse("body_invalid", [Fault(f"/{name}", reason) for name, reason in sorted(saved.faults.items())])


def _read(said: Any, place: str, *, needs_id: bool) -> Said:
    """What one JSON object says of a customer. Raises Problem 422 with every member that has the wrong type."""
    known = TEXTS | {"active"} | ({"customer_id"} if needs_id else set())
    if not isinstance(said, dict):
        raise refuse("body_invalid", [Fault(place or "/", "must be an object")])
    faults = [
        Fault(f"{place}/{name}", reason) for name in sorted(said) if (reason := _type_fault(name, said[name], known))
    ]
    if needs_id and "customer_id" not in said:
        faults.append(Fault(f"{place}/customer_id", "is missing"))
    if not needs_id and not said:
        faults.append(Fault("/", "names nothing to change"))
    if faults:
        raise refuse("body_invalid", faults)
    texts = {name: said[name] for name in TEXTS & said.keys()}
    return Said(said.get("customer_id", ""), texts, said.get("active"))


def _type_fault(name: str, value: object, known: frozenset[str] | set[str]) -> str:
    if name not in known:
        return "cannot be changed here" if name == "customer_id" else "is not known here"
    if name == "active":
        return "" if isinstance(value, bool) else "must be true or false"
    if value is None and name != "customer_id":
        return ""
    if not isinstance(value, str):
        return "must be a text" if name == "customer_id" else "must be a text, or null to clear it"
    return "" if value.strip() else "is empty; null clears a value"


def _answer(customer: Customer, status: int = 200) -> Answer:
    location = f"/api/v1/customers/{quote(customer.customer_id, safe='')}" if status == 201 else ""  # noqa: PLR2004
    shown = answer(_shown(customer), status, location=location)
    return replace(shown, etag=f'"{_version(customer)}"', customer_row=customer.row)


def _shown(customer: Customer) -> Mapping[str, Any]:
    may_read = "customers:read" in caller().scopes  # a key that only writes is answered too, and learns nobody's number
    return {
        "customer_id": customer.customer_id,
        "name": (may_read and customer.name) or None,
        "phone": (may_read and customer.phone) or None,
        "email": (may_read and customer.email) or None,
        "locale": customer.locale or None,
        "active": customer.is_active,
        "has_password": customer.has_password,
        "has_totp": customer.has_totp,
        "created_at": iso(customer.created_at),
        "changed_at": iso(customer.changed_at),
    }
