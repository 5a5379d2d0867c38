"""Getting in: the sign-in page, the one-time link, the recovery codes, and out again."""

from __future__ import annotations

from flask import Response, g, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import Problem
from auth_portal.i18n import error_text
from auth_portal.i18n import gettext as _
from auth_portal.services.access.admin_sessions import Credentials
from auth_portal.services.access.admins import Joining
from auth_portal.web.admin.guard import (
    EVERYONE,
    PUBLIC,
    done,
    forget_session,
    form_text,
    keep_session,
    me,
    my_kept_form,
    own_path,
    render,
    route,
    shown_again,
    sign_in_page,
)
from auth_portal.web.admin.kept_form import FIELD
from auth_portal.web.admin.qr import enrolment
from auth_portal.web.context import services


@route("/sign-in", allow=PUBLIC)
def sign_in_form() -> BaseResponse:
    """Asks for name, password and second factor together."""
    if g.signed_in is not None:
        return redirect(own_path(request.args.get("next", "")), 303)
    return sign_in_page(wanted=_wanted())


@route("/sign-in", allow=PUBLIC, methods=("POST",))
def sign_in() -> BaseResponse:
    """Begins a session; a session that this browser had ends (R26)."""
    if g.signed_in is not None and (kept := my_kept_form()):
        return shown_again(kept)  # the page was reloaded, or another tab was faster
    given = Credentials(
        form_text("email"), request.form.get("password", ""), form_text("code"), g.address,
        request.headers.get("User-Agent", ""),
    )  # fmt: skip
    sessions = services().admin_sessions
    token = sessions.sign_in(given)
    if token is None:
        fault = _("These three do not fit together.")
        return sign_in_page(status=422, email=given.email, fault=fault, wanted=_wanted(), kept=form_text(FIELD))
    if g.signed_in is not None:
        sessions.end(g.signed_in, g.signed_in.session_id)
    keep_session(token)
    g.signed_in = sessions.signed_in(token)
    return _after_sign_in()


def _after_sign_in() -> BaseResponse:
    """Where they wanted to go, or the form that they sent too late."""
    if not form_text(FIELD):
        return redirect(own_path(_wanted()), 303)
    if kept := my_kept_form():
        return shown_again(kept)
    return done(
        _wanted(), _("What was sent before was not saved, and is gone: it was somebody else's, or too long ago.")
    )


def _wanted() -> str:
    return own_path(request.values.get("next", ""), default="")


@route("/sign-out", allow=EVERYONE, methods=("POST",))
def sign_out() -> BaseResponse:
    """Ends this session on the server."""
    services().admin_sessions.end(me(), me().session_id)
    return forget_session(done("/admin/sign-in", _("You are signed out.")))


@route("/join/<token>", allow=PUBLIC)
def join_form(token: str) -> Response:
    """Shows what a one-time link is for, and the QR code of the app to enrol. Uses nothing up."""
    return _join_page(token, Joining("", "", "", "", ""), {})


@route("/join/<token>", allow=PUBLIC, methods=("POST",))
def join(token: str) -> BaseResponse:
    """Follows a one-time link."""
    joining = Joining(
        form_text("name"), form_text("email"), request.form.get("password", ""), request.form.get("repeated", ""),
        form_text("code"),
    )  # fmt: skip
    admins = services().admins
    if faults := admins.faults_of(admins.invitation(token), joining):
        return _join_page(token, joining, faults, status=422)
    try:
        admin_id = admins.join(token, joining)
    except Problem as problem:
        if problem.code != "admin_email_taken":
            raise
        return _join_page(token, joining, {"email": error_text(problem.code)}, status=422)
    sessions = services().admin_sessions
    session = sessions.begin(admin_id, g.address, request.headers.get("User-Agent", ""))
    if g.signed_in is not None:
        sessions.end(g.signed_in, g.signed_in.session_id)
    keep_session(session)
    return redirect("/admin/recovery-codes", 303)


def _join_page(token: str, joining: Joining, faults: dict[str, str], *, status: int = 200) -> Response:
    invitation = services().admins.invitation(token)
    email = joining.email or invitation.email
    return render(
        "admin/access/join.html", status=status, invitation=invitation, joining=joining, email=email, faults=faults,
        path=request.path, app=enrolment(invitation.seed, email),
    )  # fmt: skip


@route("/recovery-codes", allow=EVERYONE)
def recovery_codes() -> BaseResponse:
    """Shows new recovery codes until the admin says that they are kept."""
    codes = services().admins.recovery_codes(me().admin_id)
    if not codes:
        return redirect("/admin/account", 303)
    return render("admin/access/recovery_codes.html", codes=codes, fault="")


@route("/recovery-codes", allow=EVERYONE, methods=("POST",))
def keep_codes() -> BaseResponse:
    """The admin has them; from now on nobody can see them."""
    if not form_text("saved"):
        codes = services().admins.recovery_codes(me().admin_id)
        fault = _("Please keep them first, then tick that you did: they are shown only now.")
        return render("admin/access/recovery_codes.html", status=422, codes=codes, fault=fault)
    services().admins.keep_recovery_codes(me().admin_id)
    return done("/admin/", _("You are all set."))
