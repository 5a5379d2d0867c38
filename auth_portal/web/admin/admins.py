"""Who may use the configuration page, which auditors read too: invitations, roles, switching off, resets."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import Problem
from auth_portal.i18n import error_text
from auth_portal.i18n import gettext as _
from auth_portal.services.access.roles import ROLES, SUPPORT
from auth_portal.web.admin.frame import INSPECTORS, OWNERS, done, form_text, me, render, route, second_factor_fault
from auth_portal.web.context import services

PATH = "/admin/admins"


@route("/admins", allow=INSPECTORS)
def people() -> Response:
    """Show every admin, and the open invitations."""
    return _people({})


def _people(faults: dict[str, str], *, status: int = 200) -> Response:
    admins = services().admins
    return render(
        "admin/admins/people.html",
        status=status,
        people=admins.profiles(),
        invitations=admins.open_invitations(),
        may_mail=admins.may_mail,
        faults=faults,
        role=form_text("role") or SUPPORT.name,
        roles=ROLES.values(),
        email=form_text("email"),
    )


@route("/admins/invite", allow=OWNERS, methods=("POST",), again=lambda: _people({}))
def invite() -> BaseResponse:
    """Create a one-time link and show it once."""
    if fault := second_factor_fault():
        return _people({"second_factor": fault}, status=422)
    try:
        email, is_mailed = form_text("email"), bool(form_text("mail"))
        token = services().admins.invite(form_text("role"), email=email, made_by=me().admin_id, is_mailed=is_mailed)
    except Problem as problem:
        field = "email" if problem.code == "email_invalid" else "role"
        return _people({field: error_text(problem.code)}, status=422)
    return _mailed(email) if is_mailed else _link_page(token, is_reset=False, name=email)


def _mailed(address: str) -> BaseResponse:
    return done(PATH, _("The one-time link was sent to %(address)s. It works for 72 hours.", address=address))


def _link_page(token: str, *, is_reset: bool, name: str) -> Response:
    link = f"{services().settings.public_url}/admin/join/{token}"
    return render("admin/admins/link.html", link=link, is_reset=is_reset, name=name)


@route("/admins/invitations/<link_id>/withdraw", allow=OWNERS, methods=("POST",))
def withdraw(link_id: str) -> BaseResponse:
    """Withdraw an open invitation."""
    if fault := second_factor_fault():
        return _people({"second_factor": fault, "of": link_id}, status=422)
    services().admins.withdraw(link_id, by=me().admin_id)
    return done(PATH, _("The invitation was withdrawn."))


@route("/admins/<admin_id>", allow=INSPECTORS)
def person(admin_id: str) -> Response:
    """Show one admin, and to an owner what can be changed."""
    return _person(admin_id, {})


def _person(admin_id: str, faults: dict[str, str], *, status: int = 200) -> Response:
    found = services().admins.get(admin_id)
    choices = [(role.name, _(role.choice)) for role in ROLES.values()]
    passkeys = services().admin_passkeys.listed(admin_id)
    return render(
        "admin/admins/person.html",
        status=status,
        person=found,
        passkeys=passkeys,
        choices=choices,
        faults=faults,
        may_mail=services().admins.may_mail,
    )


@route("/admins/<admin_id>/role", allow=OWNERS, methods=("POST",))
def change_role(admin_id: str) -> BaseResponse:
    """Give an admin another role."""
    role = form_text("role")
    return _changed(admin_id, "role", lambda: services().admins.set_role(admin_id, role, by=me().admin_id))


@route("/admins/<admin_id>/active", allow=OWNERS, methods=("POST",))
def change_active(admin_id: str) -> BaseResponse:
    """Switch an admin off or on."""
    is_active = form_text("active") == "1"
    return _changed(admin_id, "active", lambda: services().admins.set_active(admin_id, is_active, by=me().admin_id))


def _changed(admin_id: str, field: str, change: Callable[[], None]) -> BaseResponse:
    if fault := second_factor_fault():
        return _person(admin_id, {"second_factor": fault, "of": field}, status=422)
    try:
        change()
    except Problem as problem:
        if problem.code not in ("last_owner", "role_unknown"):
            raise
        return _person(admin_id, {field: error_text(problem.code)}, status=422)
    return done(PATH, _("Changed. This admin has to sign in again."))


@route("/admins/<admin_id>/reset", allow=OWNERS, methods=("POST",))
def reset(admin_id: str) -> BaseResponse:
    """Create a one-time link with which an admin sets password and app again."""
    if fault := second_factor_fault():
        return _person(admin_id, {"second_factor": fault, "of": "reset"}, status=422)
    person, is_mailed = services().admins.get(admin_id), bool(form_text("mail"))
    try:
        token = services().admins.reset(admin_id, made_by=me().admin_id, is_mailed=is_mailed)
    except Problem as problem:
        if problem.code != "last_owner_reset":
            raise
        return _person(admin_id, {"reset": error_text(problem.code)}, status=422)
    return _mailed(person.email) if is_mailed else _link_page(token, is_reset=True, name=person.name)
