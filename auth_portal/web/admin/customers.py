"""Customers: found, shown masked, created, changed, switched off, erased, exported. Revealing one is recorded.

What names a person is never in a URL: a search is a form that is posted, and pages are requested by row. The last part
is a customer's credentials: unlocked, reset, set by one-time link, and one temporary code to read out (R19).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flask import Response, abort, make_response, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import error_text
from auth_portal.i18n import gettext as _
from auth_portal.services.directory.credentials import REASON_LENGTH, IssuedSupportCode, without_identifiers
from auth_portal.services.directory.customers import Customer, CustomerSave
from auth_portal.services.directory.links import CHANNELS, KINDS
from auth_portal.web.admin.frame import EVERYONE, WRITERS, done, form_text, me, render, route, second_factor_fault
from auth_portal.web.context import services
from auth_portal.web.credentials import enrolment

PATH = "/admin/customers"
FIELDS = ("customer_id", "name", "phone", "email", "locale")
LAST_EVENTS = 5
CLEARABLE = ("name", "phone", "email")


@route("/customers", allow=EVERYONE)
def listed() -> Response:
    """List all customers by customer ID, masked."""
    return _list(request.args.get("after", ""), "")


@route("/customers/search", allow=EVERYONE, methods=("POST",))
def search() -> Response:
    """List the customers that are named exactly by what was typed."""
    return _list(form_text("after"), form_text("q"))


def _list(after: str, typed: str) -> Response:
    page = services().customers.page(after, typed)
    return render("admin/customers/list.html", page=page, typed=typed, after=after)


@route("/customers/new", allow=WRITERS)
def new() -> Response:
    """Show the form of a new customer."""
    return _form("new", {}, {})


def _typed() -> dict[str, str]:
    return {name: form_text(name) for name in FIELDS}


@route("/customers/new", allow=WRITERS, methods=("POST",), again=lambda: _form("new", _typed(), {}))
def create() -> BaseResponse:
    """Create a customer."""
    typed = _typed()
    saved = services().customers.create(typed, admin_id=me().admin_id)
    if saved.faults:
        return _form("new", typed, saved.faults, status=422)
    return done(f"{PATH}/{saved.row}", _("The customer was created."))


def _form(
    template: str, typed: Mapping[str, str], faults: Mapping[str, str], *, status: int = 200, **values: object
) -> Response:
    sentences = {name: _("It %(reason)s.", reason=reason) for name, reason in faults.items()}
    region = services().journeys.current().portal.default_region
    return render(
        f"admin/customers/{template}.html", status=status, typed=typed, faults=sentences, region=region, **values
    )


@route("/customers/<row>", allow=EVERYONE)
def person(row: str) -> Response:
    """Show one customer, masked, with credentials and actions."""
    return _person(services().customers.get_masked(row))


def _person(
    customer: Customer, *, is_revealed: bool = False, of: str = "", faults: Mapping[str, str] | None = None
) -> Response:
    """Show a customer; ``faults`` are those of the form called ``of``."""
    return render(
        "admin/customers/person.html",
        status=422 if faults else 200,
        of=of,
        faults=faults or {},
        reason=form_text("reason"),
        customer=customer,
        is_revealed=is_revealed,
        credentials=services().credentials.of(customer.row),
        passages=services().reaches.passages(customer.row),
        accepted_terms=services().person_export.accepted_terms(customer.row),
        links=services().credential_links.open_links(customer.row),
        history=services().stories.history_of(customer.row),
        events=services().audit_trail.last_of(customer.subject_id, LAST_EVENTS),
    )


@route("/customers/<row>/reveal", allow=WRITERS, methods=("POST",))
def reveal(row: str) -> Response:
    """Show the same page once with everything readable."""
    if faults := _grounds_faults():
        return _person(services().customers.get_masked(row), of="reveal", faults=faults)
    return _person(services().customers.reveal(row, me().admin_id, reason=_reason()), is_revealed=True)


def _grounds_faults() -> dict[str, str]:
    """Return by field what this form lacks to act on one customer: a reason and a fresh second factor (R45)."""
    faults = {}
    if not form_text("reason"):
        faults["reason"] = _fault("reason_missing")
    elif len(form_text("reason")) > REASON_LENGTH:
        faults["reason"] = _fault("reason_long")
    elif fault := second_factor_fault():  # which is asked for, and used up, once the rest is right
        faults["second_factor"] = fault
    return faults


def _reason() -> str:
    """Return the reason as the audit stores it."""
    return without_identifiers(form_text("reason"))


@route("/customers/<row>/edit", allow=WRITERS)
def edit(row: str) -> Response:
    """Show the form to change a customer. What is on file is masked there too."""
    customer = services().customers.get_masked(row)
    return _edit(customer, {}, CustomerSave(row))


def _change_again(row: str) -> Response:
    """Show the form as it was sent, with the warning if the customer has changed in the meantime."""
    customer, seen_at = services().customers.get_masked(row), _moment(form_text("seen_at"))
    saved = CustomerSave(row, is_stale=customer.changed_at != seen_at)
    return _edit(customer, _changed_alone(_typed()), saved, seen_at=seen_at)


def _changed_alone(typed: Mapping[str, str]) -> dict[str, str]:
    """Return what was typed without the fields that are as the form had them: they leave what is stored by now."""
    return {name: "" if text == form_text(f"was_{name}") else text for name, text in typed.items()}


@route("/customers/<row>/edit", allow=WRITERS, methods=("POST",), again=_change_again)
def change(row: str) -> BaseResponse:
    """Change a customer, unless they were changed since the form was opened."""
    typed = _changed_alone(_typed())
    cleared = {name: None for name in CLEARABLE if form_text(f"clear_{name}")}
    seen_at, customer = _moment(form_text("seen_at")), services().customers.get_masked(row)
    is_guarded = cleared or typed["phone"] or typed["email"] or typed["customer_id"] not in ("", customer.customer_id)
    if is_guarded and (faults := _grounds_faults()):
        return _edit(customer, typed, CustomerSave(row), seen_at=seen_at, status=422, grounds=faults)
    facts: dict[str, Any] = {"reason": _reason()} if is_guarded else {}
    saved = services().customers.change(row, {**typed, **cleared}, seen_at=seen_at, admin_id=me().admin_id, **facts)
    if saved.faults or saved.is_stale:
        return _edit(
            services().customers.get_masked(row), typed, saved, seen_at=seen_at, status=409 if saved.is_stale else 422
        )
    return done(f"{PATH}/{row}", _("Saved.") if saved.changed else _("Nothing was different, so nothing was saved."))


def _edit(
    customer: Customer,
    typed: Mapping[str, str],
    saved: CustomerSave,
    *,
    seen_at: datetime | None = None,
    status: int = 200,
    grounds: Mapping[str, str] | None = None,
) -> Response:
    since = services().customers.changes_since(customer.subject_id, seen_at) if saved.is_stale and seen_at else []
    cleared = {name for name in CLEARABLE if form_text(f"clear_{name}")}
    filled_in = {"customer_id": customer.customer_id, "locale": customer.locale}
    return _form(
        "edit",
        {name: text or filled_in.get(name, "") for name, text in {**filled_in, **typed}.items()},
        saved.faults,
        changes=typed,
        status=status,
        customer=customer,
        is_stale=saved.is_stale,
        since=since,
        cleared=cleared,
        grounds_faults=grounds or {},
        reason=form_text("reason"),
    )


def _moment(text: str) -> datetime:
    """Return the version that a form was based on; an unreadable one is long past, so the form is out of date."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


@route("/customers/<row>/active", allow=WRITERS, methods=("POST",))
def change_active(row: str) -> BaseResponse:
    """Switch a customer off or on."""
    if faults := _grounds_faults():
        return _person(services().customers.get_masked(row), of="active", faults=faults)
    is_active = form_text("active") == "1"
    services().customers.set_active(row, is_active=is_active, admin_id=me().admin_id, reason=_reason())
    text = _("The customer is switched on again.") if is_active else _("The customer is switched off.")
    return done(f"{PATH}/{row}", text)


@route("/customers/<row>/erase", allow=WRITERS)
def confirm_erase(row: str) -> Response:
    """Show what erasing removes and what stays."""
    return _erase_page(row, {})


def _erase_page(row: str, faults: Mapping[str, str], *, status: int = 200) -> Response:
    return render(
        "admin/customers/erase.html",
        status=status,
        customer=services().customers.get_masked(row),
        faults=faults,
        typed=form_text("customer_id"),
        reason=form_text("reason"),
    )


@route("/customers/<row>/erase", allow=WRITERS, methods=("POST",))
def erase(row: str) -> BaseResponse:
    """Erase a customer whose customer ID was typed again."""
    customer = services().customers.get_masked(row)
    if form_text("customer_id") != customer.customer_id:
        wrong = _("This isn't the customer ID above, so nothing was erased.")
        return _erase_page(row, {"customer_id": wrong}, status=422)
    if faults := _grounds_faults():
        return _erase_page(row, faults, status=422)
    erased = services().erasure.erase(row, admin_id=me().admin_id, reason=_reason())
    text = _(
        "Erased, with %(visits)s visits and %(count)s verifications.", visits=erased.visits, count=erased.verifications
    )
    return done(PATH, text)


@route("/customers/<row>/export", allow=WRITERS, methods=("POST",))
def export(row: str) -> Response:
    """Send everything that is stored about one person, as a file."""
    if faults := _grounds_faults():
        return _person(services().customers.get_masked(row), of="export", faults=faults)
    document = services().person_export.of(row, admin_id=me().admin_id, reason=_reason())
    response = make_response(json.dumps(document, ensure_ascii=False, indent=2))
    response.headers["Content-Type"] = "application/json; charset=utf-8"
    response.headers["Content-Disposition"] = f'attachment; filename="customer-{row}.json"'
    return response


# --- Credentials


@route("/customers/<row>/renew", allow=WRITERS, methods=("POST",))
def renew(row: str) -> BaseResponse:
    """Unlock every credential of a customer after too many wrong tries."""
    if faults := _grounds_faults():
        return _person(services().customers.get_masked(row), of="renew", faults=faults)
    services().credentials.renew(row, admin_id=me().admin_id, reason=_reason())
    return done(f"{PATH}/{row}", _("Unlocked. This customer's wrong tries start at zero again."))


@route("/customers/<row>/credentials/<kind>", allow=WRITERS)
def credential(row: str, kind: str) -> Response:
    """Show one credential, and what can be done: send a one-time link, or remove it."""
    return _credential(row, kind, {})


def _credential(row: str, kind: str, faults: dict[str, str], *, status: int = 200) -> Response:
    if kind not in KINDS:
        abort(404)
    customer = services().customers.get_masked(row)
    found = next(one for one in services().credentials.of(row) if one.method == kind)
    return render(
        "admin/customers/credential.html",
        status=status,
        customer=customer,
        kind=kind,
        credential=found,
        open_until=services().credential_links.open_links(row).get(kind),
        way=form_text("way"),
        reason=form_text("reason"),
        faults=faults,
        shortest=services().credential_links.shortest_password,
    )


@route("/customers/<row>/credentials/<kind>/link", allow=WRITERS, methods=("POST",))
def make_link(row: str, kind: str) -> BaseResponse:
    """Create a one-time link, and send it or show it once."""
    way = form_text("way")
    if way not in CHANNELS:
        return _credential(row, kind, {"way": _("Choose how the link is sent.")}, status=422)
    if faults := _grounds_faults():
        return _credential(row, kind, {**faults, "of": "link"}, status=422)
    made = services().credential_links.make(row, kind, way, admin_id=me().admin_id, reason=_reason())
    if made.fault:
        return _credential(row, kind, {"way": _fault(made.fault)}, status=422)
    if not made.link:
        return done(f"{PATH}/{row}", _("The link is being sent. It works once, within 24 hours."))
    if kind == "totp":
        services().credential_links.open(made.token, me().session_id)
        return _scan(row, made.token, {})
    return render("admin/customers/link.html", customer=services().customers.get_masked(row), kind=kind, made=made)


def _scan(row: str, token: str, faults: Mapping[str, str], *, status: int = 200) -> Response:
    """Show the QR code that a customer scans who is with the admin: no link leaves this page (R47)."""
    offered = services().credential_links.offer(token, me().session_id)
    return render(
        "admin/customers/scan.html",
        status=status,
        customer=services().customers.get_masked(row),
        app=enrolment(offered.view, offered.account),
        token=token,
        reason=form_text("reason"),
        faults=faults,
    )


@route("/customers/<row>/credentials/totp/scan", allow=WRITERS, methods=("POST",))
def enrol_here(row: str) -> BaseResponse:
    """Set up the app whose QR code the customer has scanned from the admin's page."""
    token, links = form_text("token"), services().credential_links
    if links.offer(token, me().session_id).person.row != row:
        abort(404)
    by_admin = {"admin_id": me().admin_id, "reason": _reason()}
    faults = _grounds_faults() or links.enrol(token, me().session_id, form_text("seed"), form_text("code"), **by_admin)
    if faults:
        if "code" in faults:
            wrong = _("That isn't the code of this picture. Have them scan it, wait for the next code and enter that.")
            faults = {"code": wrong}
        return _scan(row, token, faults, status=422)
    return done(f"{PATH}/{row}", _("The app is set up. The customer is notified."))


@route("/customers/<row>/credentials/<kind>/reset", allow=WRITERS, methods=("POST",))
def reset(row: str, kind: str) -> BaseResponse:
    """Remove a password or an app."""
    if faults := _grounds_faults():
        return _credential(row, kind, {**faults, "of": "reset"}, status=422)
    services().credentials.reset(row, kind, admin_id=me().admin_id, reason=_reason())
    return done(f"{PATH}/{row}", _("Removed. The customer is notified."))


@route("/customers/<row>/support-code", allow=WRITERS)
def support_code(row: str) -> Response:
    """Show what a temporary code does, and the form to issue one."""
    return _support_code(row, IssuedSupportCode(), {})


def _support_code(row: str, issued: IssuedSupportCode, faults: dict[str, str], *, status: int = 200) -> Response:
    found = next(one for one in services().credentials.of(row) if one.method == "support_code")
    is_taken = services().credentials.takes_support_codes()
    return render(
        "admin/customers/support_code.html",
        status=status,
        customer=services().customers.get_masked(row),
        issued=issued,
        credential=found,
        reason=form_text("reason"),
        faults=faults,
        is_taken=is_taken,
    )


@route(
    "/customers/<row>/support-code",
    allow=WRITERS,
    methods=("POST",),
    again=lambda row: _support_code(row, IssuedSupportCode(), {}),
)
def issue_support_code(row: str) -> Response:
    """Issue a temporary code and show it once."""
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
