"""Audit: who did what, from where, and what happened; to search, export and check. Changes nothing.

An export is audited. What is typed into the search box is sent as a form, because it may be a contact: the address of a
page never has one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from flask import Response, abort, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.services.history.audit_trail import ACTORS, FORMATS, KINDS, AuditFilter
from auth_portal.services.history.lists import csv_rows, plain_cell
from auth_portal.web.admin.frame import (
    EVERYONE,
    INSPECTORS,
    FilterForm,
    form_text,
    me,
    newest_url,
    older_url,
    render,
    route,
    second_factor_fault,
)
from auth_portal.web.context import services

PATH = "/admin/audit"
TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}
# What the address of the page may have. ``admin`` is an admin's id, or ``key:`` and an API key's.
FILTERS = ("kind", "admin", "actor", "subject", "verification", "address", "q", "last", "since", "until")
LAST = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7), "month": timedelta(days=30)}
OF_A_KEY = "key:"
LISTS = ("verifications", "deliveries", "admins")  # that can be downloaded
ADMIN_COLUMNS: tuple[str, ...] = ("id", "name", "role", "state", "second_factor", "passkeys", "recovery_codes_left")
ADMIN_COLUMNS += ("signed_in_at", "created_at")
DIGITS_OF_A_CONTACT = 6  # that a text has which may be a phone number: it is no search for words
WORDS_LENGTH = 100  # characters of a search
PART_OF_ADDRESS = re.compile(r"(\d{1,3}\.){1,3}|([0-9a-fA-F]{1,4}:){1,7}:?")  # 10.20. or 2001:db8:


@route("/audit", allow=EVERYONE)
def audit() -> Response:
    """Show the list, newest first; what belongs to one verification in its order."""
    return _list_page("", "")


def _list_page(typed: str, fault: str, factor_fault: str = "") -> Response:
    asked = FilterForm()
    wanted, trail = _wanted(asked), services().audit_trail
    listing = trail.page(wanted, after=asked.key("after"))
    chosen = {name: asked.text(name) for name in FILTERS if asked.text(name)}
    is_in_order = bool(wanted.verification_id) and not listing.older and not asked.key("after")
    return render(
        "admin/audit/list.html",
        status=422 if fault or factor_fault else asked.status,
        factor_fault=factor_fault,
        lists=LISTS,
        listing=listing,
        rows=listing.rows[::-1] if is_in_order else listing.rows,
        is_in_order=is_in_order,
        wanted=wanted,
        asked=asked,
        chosen=chosen,
        url_with=lambda **other: _url({**chosen, **other}),
        kinds=sorted({*KINDS, *({wanted.kind} - {""})}),
        actors=ACTORS,
        ranges=tuple(LAST),
        admins=trail.admins(),
        keys=[(OF_A_KEY + key_id, name) for key_id, name in trail.api_keys()],
        customers=trail.customers_of(wanted.subject_ids) if wanted.subject_ids else (),
        typed=typed,
        fault=fault,
        may_export=me().may_inspect,
        older=older_url(listing.older),
        newest=newest_url(),
    )


def _url(fields: dict[str, str]) -> str:
    """Return the address of the list with these filters; empty ones are left out."""
    query = urlencode({name: text for name, text in fields.items() if text}, safe=",:")
    return f"{PATH}?{query}" if query else PATH


def _wanted(asked: FilterForm) -> AuditFilter:
    by, last = asked.key("admin"), asked.text("last")
    since = asked.since()
    return AuditFilter(
        kind=asked.key("kind"),
        admin_id="" if by.startswith(OF_A_KEY) else by,
        key_id=by.removeprefix(OF_A_KEY) if by.startswith(OF_A_KEY) else "",
        actor=actor if (actor := asked.text("actor")) in ACTORS else "",
        subject_ids=asked.keys("subject"),
        verification_id=asked.key("verification"),
        address=asked.key("address"),
        words=asked.text("q")[:WORDS_LENGTH],
        since=services().clock() - LAST[last] if since is None and last in LAST else since,
        until=asked.until(),
    )


@route("/audit/find", allow=EVERYONE, methods=("POST",))
def find() -> BaseResponse:
    """Redirect to the events that the typed text may mean: an id, an address, a customer, or else words."""
    typed, trail = form_text("wanted"), services().audit_trail
    fields = {name: text for name in FILTERS if (text := form_text(name))}
    if re.fullmatch(r"[0-9a-f]{32}", typed):
        return redirect(f"{PATH}/{typed}" if trail.event(typed) else _url({"verification": typed}), 303)
    if _is_address(typed):
        return redirect(_url({**fields, "address": typed}), 303)
    people = services().stories.people_called(typed) if typed else None
    if people is not None and people.customers:
        return redirect(_url({**fields, "subject": ",".join(trail.subjects_of(people.customers))}), 303)
    if "@" in typed or len(re.findall(r"\d", typed)) >= DIGITS_OF_A_CONTACT:
        return _list_page(typed, _("No customer has this ID, phone or email, and events contain none of them."))
    return redirect(_url({**fields, **({"q": typed[:WORDS_LENGTH]} if typed else {})}), 303)


def _is_address(typed: str) -> bool:
    """Report whether a text is a network address, or the beginning of one up to a ``.`` or ``:``."""
    try:
        return bool(ipaddress.ip_address(typed))
    except ValueError:
        return PART_OF_ADDRESS.fullmatch(typed) is not None


@route("/audit/<event_id>", allow=EVERYONE)
def event(event_id: str) -> Response:
    """Show one event with its place in the trail, what it changed, and all that the same request did."""
    trail = services().audit_trail
    line = trail.event(event_id) or abort(404)
    return render("admin/audit/event.html", line=line, together=trail.of_request(line))


@route("/audit/export", allow=INSPECTORS, methods=("POST",))
def export() -> BaseResponse:
    """Send all events of the filter as a file, in pieces."""
    asked, form = FilterForm(), form_text("format")
    wanted = _wanted(asked)
    if asked.faults or form not in FORMATS:
        return _list_page("", "" if asked.faults else _("Choose CSV or JSON lines."))
    pieces = services().audit_trail.export(wanted, form, admin_id=me().admin_id)
    response = Response(pieces, content_type=TYPES[form])
    response.headers["Content-Disposition"] = f'attachment; filename="audit.{form}"'
    return response


@route("/audit/download", allow=INSPECTORS, methods=("POST",), again=lambda: _list_page("", ""))
def download() -> Response:
    """Send the verifications or deliveries of a time, or the admins, as a file in pieces, on the record."""
    asked, what = FilterForm(), form_text("what")
    wanted = _wanted(asked)
    if asked.faults or what not in LISTS:
        return _list_page("", "")
    if fault := second_factor_fault():
        return _list_page("", "", fault)
    services().audit_trail.record_file(what, me().admin_id)
    if what == "admins":
        found: Iterator[str] = iter([csv_rows([ADMIN_COLUMNS, *map(_admin_cells, services().admins.profiles())])])
    else:
        source = services().stories if what == "verifications" else services().delivery_lists
        found = source.file(wanted.since, wanted.until)
    response = Response(found, content_type=TYPES["csv"])
    response.headers["Content-Disposition"] = f'attachment; filename="{what}.csv"'
    return response


def _admin_cells(profile: Any) -> tuple[object, ...]:
    state = "may sign in" if profile.may_sign_in else "waits for their link" if profile.is_active else "switched off"
    factor = "authenticator app" if profile.has_app else "none"
    passkeys, codes = plain_cell(profile.passkeys), plain_cell(profile.recovery_codes_left)
    seen = profile.signed_in_at, profile.created_at
    return profile.id, profile.name, profile.role.name, state, factor, passkeys, codes, *seen


@route("/audit/check", allow=INSPECTORS)
def check() -> Response:
    """Check the next blocks and their events, the oldest first."""
    checked = services().audit_checks.check(after=request.args.get("after", type=int))
    so_far = max(0, request.args.get("checked", 0, type=int)) + checked.count
    return render("admin/audit/check.html", checked=checked, so_far=so_far)
