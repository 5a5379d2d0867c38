"""Audit: who did what and what happened, searched, exported and checked. Changes nothing; an export is audited."""

from __future__ import annotations

from flask import Response, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.services.stories.audit_trail import FORMATS, KINDS, AuditFilter
from auth_portal.web.admin.filters import Asked, newest_url, older_url
from auth_portal.web.admin.guard import AUDITOR, EVERYONE, OWNER, form_text, me, render, route
from auth_portal.web.context import services

PATH = "/admin/audit"
READERS = frozenset({OWNER, AUDITOR})  # who may take the audit away, and check it
TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}


@route("/audit", allow=EVERYONE)
def audit() -> Response:
    """The list, newest first."""
    return _list_page("", "")


def _list_page(customer: str, fault: str) -> Response:
    asked = Asked()
    wanted, trail = _wanted(asked), services().audit_trail
    listing = trail.page(wanted, after=asked.key("after"))
    return render(
        "admin/audit/list.html", status=422 if fault else asked.status, listing=listing, wanted=wanted, asked=asked,
        kinds=sorted({*KINDS, *([wanted.kind] if wanted.kind else [])}), admins=trail.admins(),
        customer=customer or (trail.customer_of(wanted.subject_id) if wanted.subject_id else ""), fault=fault,
        may_export=me().role in READERS, older=older_url(listing.older), newest=newest_url(),
    )  # fmt: skip


def _wanted(asked: Asked) -> AuditFilter:
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
    """Leads to the events of one customer."""
    customer = form_text("customer")
    subject_id = services().audit_trail.subject_of(customer) if customer else None
    if subject_id is None:
        return _list_page(customer, _("Nobody has this customer ID."))
    return redirect(f"{PATH}?subject={subject_id}", 303)


@route("/audit/export", allow=READERS, methods=("POST",))
def export() -> BaseResponse:
    """All events of the filter as a file, sent in pieces."""
    asked, form = Asked(), form_text("format")
    wanted = _wanted(asked)
    if asked.faults or form not in FORMATS:
        return _list_page("", "" if asked.faults else _("Please choose CSV or JSON lines."))
    pieces = services().audit_trail.export(wanted, form, admin_id=me().admin_id)
    response = Response(pieces, content_type=TYPES[form])
    response.headers["Content-Disposition"] = f'attachment; filename="audit.{form}"'
    return response


@route("/audit/check", allow=READERS)
def check() -> Response:
    """Holds the next events against their own HMACs."""
    checked = services().audit_trail.check(after=Asked().key("after"))
    so_far = max(0, request.args.get("checked", 0, type=int)) + checked.count
    return render("admin/audit/check.html", checked=checked, so_far=so_far)
