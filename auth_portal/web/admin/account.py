"""An admin's own account: password, sessions, recovery codes."""

from __future__ import annotations

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.services.directory.password_rules import password_fault
from auth_portal.web.admin.guard import EVERYONE, done, me, render, route, second_factor_fault
from auth_portal.web.context import services

PATH = "/admin/account"


@route("/account", allow=EVERYONE)
def account() -> Response:
    """What belongs to the admin who is signed in."""
    return _page({})


def _page(faults: dict[str, str], *, status: int = 200) -> Response:
    person = services().admins.get(me().admin_id)
    sessions = services().admin_sessions.open_sessions(me().admin_id)
    return render("admin/access/account.html", status=status, person=person, sessions=sessions, faults=faults)


@route("/account/password", allow=EVERYONE, methods=("POST",))
def change_password() -> BaseResponse:
    """Sets a new password; every other session of this admin ends."""
    new, repeated = request.form.get("password", ""), request.form.get("repeated", "")
    person = services().admins.get(me().admin_id)
    faults = {
        "password": password_fault(
            new, at_least=services().admins.shortest_password, about=(person.name, person.email)
        ),
        "repeated": "" if new == repeated else _("The two are not the same."),
    }
    faults = {name: fault for name, fault in faults.items() if fault}
    if not faults and not services().admin_sessions.check_password(me(), request.form.get("present", "")):
        faults = {"present": _("This is not your present password.")}
    if faults:
        return _page(faults, status=422)
    services().admins.change_password(me().admin_id, new, keep_session=me().session_id)
    return done(PATH, _("Your password is changed. Your other sessions have ended."))


@route("/account/recovery-codes", allow=EVERYONE, methods=("POST",))
def renew_codes() -> BaseResponse:
    """Makes new recovery codes."""
    if fault := second_factor_fault():
        return _page({"second_factor": fault}, status=422)
    services().admins.renew_recovery_codes(me().admin_id)
    return done("/admin/recovery-codes", _("These are your new recovery codes. The old ones are worthless."))


@route("/account/sessions/<session_id>/end", allow=EVERYONE, methods=("POST",))
def end_session(session_id: str) -> BaseResponse:
    """Ends one of this admin's sessions."""
    services().admin_sessions.end(me(), session_id)
    return done(PATH, _("The session has ended."))
