"""Customers: found, shown masked, made, changed, switched off, erased, exported. Revealing is an act, on the record.

What names a person is never in a URL: searching is a form that is posted, and pages are asked for by row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from flask import Response, make_response, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.services.directory.people import Customer, Saved
from auth_portal.web.admin.guard import EVERYONE, WRITERS, done, form_text, me, render, route
from auth_portal.web.context import services

PATH = "/admin/customers"
FIELDS = ("customer_id", "name", "phone", "email", "locale")
CLEARABLE = ("name", "phone", "email")


@route("/customers", allow=EVERYONE)
def listed() -> Response:
    """Everybody, by customer ID, masked."""
    return _list(request.args.get("after", ""), "")


@route("/customers/search", allow=EVERYONE, methods=("POST",))
def search() -> Response:
    """Whoever is named exactly by what was typed."""
    return _list(form_text("after"), form_text("q"))


def _list(after: str, typed: str) -> Response:
    page = services().people.listed(after, typed)
    return render("admin/customers/list.html", page=page, typed=typed, after=after)


@route("/customers/new", allow=WRITERS)
def new() -> Response:
    """The form of a new customer."""
    return _form("new", {}, {})


def _typed() -> dict[str, str]:
    return {name: form_text(name) for name in FIELDS}


@route("/customers/new", allow=WRITERS, methods=("POST",), again=lambda: _form("new", _typed(), {}))
def create() -> BaseResponse:
    """Makes a customer."""
    typed = _typed()
    saved = services().people.create(typed, admin_id=me().admin_id)
    if saved.faults:
        return _form("new", typed, saved.faults, status=422)
    return done(f"{PATH}/{saved.row}", _("The customer is there now."))


def _form(
    template: str, typed: Mapping[str, str], faults: Mapping[str, str], *, status: int = 200, **values: object
) -> Response:
    told = {name: _("It %(reason)s.", reason=reason) for name, reason in faults.items()}
    region = services().journeys.current().portal.default_region
    return render(f"admin/customers/{template}.html", status=status, typed=typed, faults=told, region=region, **values)


@route("/customers/<row>", allow=EVERYONE)
def person(row: str) -> Response:
    """One customer, masked, with credentials and what can be done."""
    return _person(services().people.look(row))


def _person(customer: Customer, *, is_revealed: bool = False) -> Response:
    return render(
        "admin/customers/person.html",
        customer=customer,
        is_revealed=is_revealed,
        credentials=services().credentials.of(customer.row),
        passages=services().reaches.passages(customer.row),
        links=services().credential_links.open_links(customer.row),
    )


@route("/customers/<row>/reveal", allow=WRITERS, methods=("POST",))
def reveal(row: str) -> Response:
    """The same page with everything readable, this once."""
    return _person(services().people.reveal(row, me().admin_id), is_revealed=True)


@route("/customers/<row>/edit", allow=WRITERS)
def edit(row: str) -> Response:
    """The form to change a customer. What is on file is masked there as everywhere."""
    customer = services().people.look(row)
    return _edit(customer, {"customer_id": customer.customer_id, "locale": customer.locale}, Saved(row))


def _change_again(row: str) -> Response:
    """The form as it was sent; where the customer was changed meanwhile, that is shown at once."""
    customer, seen_at = services().people.look(row), _moment(form_text("seen_at"))
    return _edit(customer, _typed(), Saved(row, is_stale=customer.changed_at != seen_at), seen_at=seen_at)


@route("/customers/<row>/edit", allow=WRITERS, methods=("POST",), again=_change_again)
def change(row: str) -> BaseResponse:
    """Changes a customer, unless somebody else did since the form was made."""
    typed = _typed()
    cleared = {name: None for name in CLEARABLE if form_text(f"clear_{name}")}
    seen_at = _moment(form_text("seen_at"))
    saved = services().people.change(row, {**typed, **cleared}, seen_at=seen_at, admin_id=me().admin_id)
    if saved.faults or saved.is_stale:
        return _edit(services().people.look(row), typed, saved, seen_at=seen_at, status=409 if saved.is_stale else 422)
    return done(f"{PATH}/{row}", _("Saved.") if saved.changed else _("Nothing was different, so nothing was changed."))


def _edit(
    customer: Customer, typed: Mapping[str, str], saved: Saved, *, seen_at: datetime | None = None, status: int = 200
) -> Response:
    since = services().people.changes_since(customer.subject_id, seen_at) if saved.is_stale and seen_at else []
    cleared = {name for name in CLEARABLE if form_text(f"clear_{name}")}
    return _form(
        "edit", typed, saved.faults, status=status, customer=customer, is_stale=saved.is_stale, since=since,
        cleared=cleared,
    )  # fmt: skip


def _moment(text: str) -> datetime:
    """The time that a form was made from; one that cannot be read is long past, so the form is out of date."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


@route("/customers/<row>/active", allow=WRITERS, methods=("POST",))
def change_active(row: str) -> BaseResponse:
    """Switches somebody off or on."""
    is_active = form_text("active") == "1"
    services().people.set_active(row, is_active=is_active, admin_id=me().admin_id)
    return done(f"{PATH}/{row}", _("The customer is on again.") if is_active else _("The customer is switched off."))


@route("/customers/<row>/erase", allow=WRITERS)
def confirm_erase(row: str) -> Response:
    """What erasing takes away and what stays."""
    return _erase_page(row, "")


def _erase_page(row: str, fault: str, *, status: int = 200) -> Response:
    customer = services().people.look(row)
    return render(
        "admin/customers/erase.html", status=status, customer=customer, fault=fault, typed=form_text("customer_id")
    )


@route("/customers/<row>/erase", allow=WRITERS, methods=("POST",))
def erase(row: str) -> BaseResponse:
    """Erases somebody whose customer ID was typed once more."""
    customer = services().people.look(row)
    if form_text("customer_id") != customer.customer_id:
        return _erase_page(row, _("This is not the customer ID above, so nobody was erased."), status=422)
    erased = services().erasure.erase(row, admin_id=me().admin_id)
    text = _(
        "Erased, with %(visits)s visits and %(count)s verifications.", visits=erased.visits, count=erased.verifications
    )
    return done(PATH, text)


@route("/customers/<row>/export", allow=WRITERS, methods=("POST",))
def export(row: str) -> Response:
    """All that is stored of one person, as a file."""
    document = services().person_export.of(row, admin_id=me().admin_id)
    response = make_response(json.dumps(document, ensure_ascii=False, indent=2))
    response.headers["Content-Type"] = "application/json; charset=utf-8"
    response.headers["Content-Disposition"] = f'attachment; filename="customer-{row}.json"'
    return response
