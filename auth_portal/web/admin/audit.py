"""Audit: who did what and what happened; to search, export and check. Changes nothing; an export is audited."""

from __future__ import annotations

from flask import Response, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.services.history.audit_trail import FORMATS, KINDS, AuditFilter
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
)
from auth_portal.web.context import services

PATH = "/admin/audit"
TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}


@route("/audit", allow=EVERYONE)
def audit() -> Response:
    """Show the list, newest first."""
    return _list_page("", "")


def _list_page(customer: str, fault: str) -> Response:
    asked = FilterForm()
    wanted, trail = _wanted(asked), services().audit_trail
    listing = trail.page(wanted, after=asked.key("after"))
    return render(
        "admin/audit/list.html",
        status=422 if fault else asked.status,
        listing=listing,
        wanted=wanted,
        asked=asked,
        kinds=sorted({*KINDS, *({wanted.kind} - {""})}),
        admins=trail.admins(),
        customer=customer or (trail.customer_of(wanted.subject_id) if wanted.subject_id else ""),
        fault=fault,
        may_export=me().may_inspect,
        older=older_url(listing.older),
        newest=newest_url(),
    )


def _wanted(asked: FilterForm) -> AuditFilter:
    return AuditFilter(
        kind=asked.key("kind"),
        admin_id=asked.key("admin"),
        subject_id=asked.key("subject"),
        verification_id=asked.key("verification"),
        since=asked.since(),
        until=asked.until(),
    )


@route("/audit/find", allow=EVERYONE, methods=("POST",))
def find() -> BaseResponse:
    """Redirect to the events of one customer."""
    customer = form_text("customer")
    subject_id = services().audit_trail.subject_of(customer) if customer else None
    if subject_id is None:
        return _list_page(customer, _("No customer has this customer ID."))
    return redirect(f"{PATH}?subject={subject_id}", 303)


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


@route("/audit/check", allow=INSPECTORS)
def check() -> Response:
    """Check the next blocks and their events, the oldest first."""
    checked = services().audit_checks.check(after=request.args.get("after", type=int))
    so_far = max(0, request.args.get("checked", 0, type=int)) + checked.count
    return render("admin/audit/check.html", checked=checked, so_far=so_far)
