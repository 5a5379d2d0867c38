"""Customers in the API: read, created, changed, switched off and on, deleted, and many at once.

What a value may be is defined in ``directory.fields``, the same as for a file and a form. Passwords and seeds come in
and never go out; contacts go out to keys with ``customers:read``.
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
from auth_portal.services.access.api_answers import ApiResponse, Write
from auth_portal.services.directory.customers import ChangePlace, Customer, CustomerSave, Removal
from auth_portal.services.directory.fields import FIELDS
from auth_portal.services.imports.bulk import MOST, CustomerInput, checked_entries
from auth_portal.web.api.frame import (
    EPOCH,
    InputFault,
    answer,
    caller,
    changes_page,
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
CREDENTIALS = frozenset({"password", "totp_secret"})
CREDENTIALS_SCOPE = "customers:credentials"
CONTACTS = frozenset({"phone", "email"})
LONGEST_CONTACT = 254  # characters
TEXTS = frozenset(FIELDS) - {"customer_id"}


@route("/customers", scope="customers:read")
def list_customers() -> Response:
    """Return a page of customers in the order of their IDs."""
    _filters, paging = read_query()
    found = services().customers.unmasked_page(paging.text_after(), paging.limit)
    return page([_shown(customer) for customer in found.customers], cursor(found.after))


@route("/customers/find", scope="customers:read", method="POST")
def find_customers() -> Response:
    """Return the customers who have a phone number or an email address. It is in the body, so that no log has it."""
    said = read_json()
    faults = [InputFault(f"/{name}", "is not known here") for name in said.keys() - CONTACTS]
    given = [(name, value) for name, value in said.items() if name in CONTACTS]
    if len(given) != 1:
        faults.append(InputFault("", "must have either phone or email"))
    faults += [
        InputFault(f"/{name}", "must be a text of 1 to 254 characters")
        for name, value in given
        if not isinstance(value, str) or not 0 < len(value.strip()) <= LONGEST_CONTACT
    ]
    if faults:
        raise refuse("body_invalid", sorted(faults, key=lambda fault: fault.place))
    ((name, value),) = given
    return page([_shown(customer) for customer in services().customers.holders(name, value)], "")


@route("/changes/customers", scope="customers:read")
def list_customer_changes() -> Response:
    """Return what has changed since ``after``: customers as they are now, and those who were removed."""
    _filters, paging = read_query()
    found = services().customers.changes_after(
        ChangePlace.read(paging.text_after()) if paging.after else None, paging.limit
    )
    entries = [_change(entry) for entry in found.entries]
    return changes_page(entries, str(found.place), is_more=found.is_more)


def _change(entry: Customer | Removal) -> Mapping[str, Any]:
    if isinstance(entry, Customer):
        return {"id": entry.program_id, "removed_at": None, "customer": _shown(entry)}
    return {"id": entry.program_id, "removed_at": iso(entry.at), "customer": None}


@route("/customers", scope="customers:write", method="POST")
@once
def create_customer(write: Write) -> ApiResponse:
    """Create one customer."""
    (said,) = _read({"": read_json()}, needs_id=True)
    _demand_credentials_scope(said)
    fields = {"customer_id": said.customer_id, **said.fields}
    saved = services().customers.create(
        fields,
        is_active=said.is_active is not False,
        along_with=lambda work, customer: write.store(work, _answer(customer, 201)),
        **_whose(),
    )
    _refuse_faults(saved, "customer_exists")
    return write.answer


@route("/customers/<anything:customer_id>", scope="customers:read")
def read_customer(customer_id: str) -> Response:
    """Return one customer."""
    return sent(_answer(_found(customer_id)))


@route("/customers/<anything:customer_id>", scope="customers:write", method="PATCH")
@once
def change_customer(write: Write, customer_id: str) -> ApiResponse:
    """Change what the body names."""
    (said,) = _read({"": read_json()}, needs_id=False)
    _demand_credentials_scope(said)
    stored = _found(customer_id)
    saved = services().customers.change(
        stored.row,
        said.fields,
        is_active=said.is_active,
        seen_at=_seen_at(stored),
        along_with=lambda work, customer: write.store(work, _answer(customer)),
        **_whose(),
    )
    _refuse_faults(saved, "customer_changed")
    return write.answer


@route("/customers/<anything:customer_id>", scope="customers:write", method="DELETE")
@once
def delete_customer(write: Write, customer_id: str) -> ApiResponse:
    """Erase a customer for good."""
    gone, stored = ApiResponse(204, ""), _found(customer_id)
    services().erasure.erase(
        stored.row, seen_at=_seen_at(stored), along_with=lambda work: write.store(work, gone), **_whose()
    )
    return gone


def _demand_credentials_scope(*said: CustomerInput) -> None:
    """Raise Problem 403 if one of these sets or clears a credential and the key may not (R46)."""
    named = {name for one in said for name in one.fields} & CREDENTIALS
    if named and CREDENTIALS_SCOPE not in caller().scopes:
        why = f"To write {' and '.join(sorted(named))} it also needs the scope {CREDENTIALS_SCOPE}."
        raise Problem("scope_missing", status=403, scope=CREDENTIALS_SCOPE, why=why)


def _seen_at(stored: Customer) -> datetime | None:
    """Return the version that the program wants to change, None for any. Raise Problem 412 for an outdated one."""
    if "If-Match" not in request.headers:
        return None
    if not request.if_match.contains(_version(stored)):
        raise Problem("customer_not_as_seen", status=412)
    return None if request.if_match.star_tag else stored.changed_at


def _version(customer: Customer) -> str:
    """Return the version of a customer, which every change replaces."""
    return f"{int((customer.changed_at - EPOCH) / timedelta(microseconds=1)):x}"


@route("/customers/bulk", scope="customers:write", method="POST", largest=BULK_BYTES)
@once
def save_customers(write: Write) -> ApiResponse:
    """Create or change many customers, all or none."""
    body = read_json()
    found = body.get("customers")
    if body.keys() != {"customers"} or not isinstance(found, list) or not 1 <= len(found) <= MOST:
        raise refuse(
            "body_invalid", [InputFault("/customers", f"must be a list of 1 to {MOST} customers, and be alone")]
        )
    said = _read({f"/customers/{number}": one for number, one in enumerate(found)}, needs_id=True)
    _demand_credentials_scope(*said)
    entries, faults = checked_entries(said, services().journeys.current().portal.default_region, services().keyring)
    if faults:
        raise refuse("body_invalid", [InputFault(f"/customers/{one.row}/{one.column}", one.reason) for one in faults])
    services().bulk_save.save(
        entries,
        along_with=lambda work, counts: write.store(
            work, answer({"created": counts.new, "changed": counts.changed, "equal": counts.equal})
        ),
        **_whose(),
    )
    return write.answer


def _whose() -> dict[str, Any]:
    return {"api_key": caller().key_id}


def _found(customer_id: str) -> Customer:
    people = services().customers
    return people.get(people.row_of(customer_id))


def _refuse_faults(saved: CustomerSave, conflict: str) -> None:
    if saved.is_taken or saved.is_stale:
        raise Conflict(conflict)
    if saved.faults:
        raise refuse("body_invalid", [InputFault(f"/{name}", reason) for name, reason in sorted(saved.faults.items())])


def _read(said: Mapping[str, Any], *, needs_id: bool) -> list[CustomerInput]:
    """Return what JSON objects, by their places in the body, say of customers.

    Raise Problem 422 if a member has the wrong type, with every member that cannot be used for whatever reason.
    """
    known = TEXTS | {"active"} | ({"customer_id"} if needs_id else set())
    faults, inputs = [], []
    for place, one in said.items():
        if not isinstance(one, dict):
            faults.append(InputFault(place or "/", "must be an object"))
            continue
        wrong = {name: reason for name in sorted(one) if (reason := _type_fault(name, one[name], known))}
        if needs_id and "customer_id" not in one:
            wrong["customer_id"] = "is missing"
        if not needs_id and not one:
            wrong[""] = "names nothing to change"
        faults += [InputFault(f"{place}/{name}", reason) for name, reason in wrong.items()]
        texts = {name: one[name] for name in TEXTS & one.keys() - wrong.keys()}
        customer_id = "" if "customer_id" in wrong else one.get("customer_id", "")
        inputs.append((place, CustomerInput(customer_id, texts, one.get("active"))))
    if faults:
        named, region = {fault.place for fault in faults}, services().journeys.current().portal.default_region
        for place, entry in inputs:
            _entries, found = checked_entries([entry], region, services().keyring)
            others = [one for one in found if needs_id or one.column != "customer_id"]
            values = [InputFault(f"{place}/{one.column}", one.reason) for one in others]
            faults += [one for one in values if one.place not in named]
        raise refuse("body_invalid", faults)
    return [entry for _place, entry in inputs]


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


def _answer(customer: Customer, status: int = 200) -> ApiResponse:
    location = f"/api/v1/customers/{quote(customer.customer_id, safe='')}" if status == 201 else ""  # noqa: PLR2004
    shown = answer(_shown(customer), status, location=location)
    return replace(shown, etag=f'"{_version(customer)}"', customer_row=customer.row)


def _shown(customer: Customer) -> Mapping[str, Any]:
    may_read = "customers:read" in caller().scopes  # a key that only writes gets an answer too, without contacts
    return {
        "id": customer.program_id,
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
