"""A customer's credentials: unlocked, reset, set by one-time link, and one temporary code to read out (R19)."""

from __future__ import annotations

from flask import Response
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import NotFound
from auth_portal.i18n import error_text
from auth_portal.i18n import gettext as _
from auth_portal.services.directory.credential_links import KINDS
from auth_portal.services.directory.credentials import IssuedSupportCode
from auth_portal.web.admin.guard import WRITERS, done, form_text, me, render, route, second_factor_fault
from auth_portal.web.context import services

PATH = "/admin/customers"


@route("/customers/<row>/renew", allow=WRITERS, methods=("POST",))
def renew(row: str) -> BaseResponse:
    """Opens every credential of somebody again after too many wrong tries."""
    services().credentials.renew(row, admin_id=me().admin_id)
    return done(f"{PATH}/{row}", _("Unlocked: the wrong tries of this customer are counted from none."))


@route("/customers/<row>/credentials/<kind>", allow=WRITERS)
def credential(row: str, kind: str) -> Response:
    """One credential, and what can be done about it: a one-time link, or taking it away."""
    return _credential(row, kind, {})


def _credential(row: str, kind: str, faults: dict[str, str], *, status: int = 200) -> Response:
    if kind not in KINDS:
        raise NotFound("not_found")
    customer = services().people.look(row)
    found = next(one for one in services().credentials.of(row) if one.method == kind)
    return render(
        "admin/customers/credential.html", status=status, customer=customer, kind=kind, credential=found,
        open_until=services().credential_links.open_links(row).get(kind), way=form_text("way"), faults=faults,
        shortest=services().credential_links.shortest_password,
    )  # fmt: skip


@route("/customers/<row>/credentials/<kind>/link", allow=WRITERS, methods=("POST",))
def make_link(row: str, kind: str) -> BaseResponse:
    """Makes a one-time link, and sends it or shows it once."""
    way = form_text("way")
    if way not in ("sms", "email", "hand"):
        return _credential(row, kind, {"way": _("Please choose how the link travels.")}, status=422)
    if fault := second_factor_fault():
        return _credential(row, kind, {"second_factor": fault, "of": "link"}, status=422)
    made = services().credential_links.make(row, kind, way, admin_id=me().admin_id)
    if made.fault:
        return _credential(row, kind, {"way": _fault(made.fault)}, status=422)
    if not made.link:
        return done(f"{PATH}/{row}", _("The link is on its way. It works once, within 24 hours."))
    return render("admin/customers/link.html", customer=services().people.look(row), kind=kind, made=made)


@route("/customers/<row>/credentials/<kind>/reset", allow=WRITERS, methods=("POST",))
def reset(row: str, kind: str) -> BaseResponse:
    """Takes a password or an app away."""
    if fault := second_factor_fault():
        return _credential(row, kind, {"second_factor": fault, "of": "reset"}, status=422)
    services().credentials.reset(row, kind, admin_id=me().admin_id)
    return done(f"{PATH}/{row}", _("Removed. The customer is told."))


@route("/customers/<row>/support-code", allow=WRITERS)
def support_code(row: str) -> Response:
    """What a temporary code does, and the form to issue one."""
    return _support_code(row, IssuedSupportCode(), {})


def _support_code(row: str, issued: IssuedSupportCode, faults: dict[str, str], *, status: int = 200) -> Response:
    found = next(one for one in services().credentials.of(row) if one.method == "support_code")
    is_taken = services().credentials.takes_support_codes()
    return render(
        "admin/customers/support_code.html", status=status, customer=services().people.look(row), issued=issued,
        credential=found, reason=form_text("reason"), faults=faults, is_taken=is_taken,
    )  # fmt: skip


@route(
    "/customers/<row>/support-code", allow=WRITERS, methods=("POST",),
    again=lambda row: _support_code(row, IssuedSupportCode(), {}),
)  # fmt: skip
def issue_support_code(row: str) -> Response:
    """Issues a temporary code and shows it once."""
    if not (reason := form_text("reason")):
        return _support_code(row, IssuedSupportCode(), {"reason": _fault("reason_missing")}, status=422)
    if fault := second_factor_fault():
        return _support_code(row, IssuedSupportCode(), {"second_factor": fault}, status=422)
    issued = services().credentials.issue_support_code(row, reason, admin_id=me().admin_id)
    if issued.fault:
        field = "reason" if issued.fault.startswith("reason") else "form"
        return _support_code(row, issued, {field: _fault(issued.fault)}, status=422)
    return _support_code(row, issued, {})


def _fault(code: str) -> str:
    return error_text(f"credential_{code}")
