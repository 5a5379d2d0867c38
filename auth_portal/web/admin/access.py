"""An admin's own access: signing in and out, the one-time link, recovery codes, password and sessions."""

from __future__ import annotations

from flask import Response, g, make_response, redirect, request, session
from flask_wtf.csrf import generate_csrf
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import Problem
from auth_portal.i18n import error_text, ngettext
from auth_portal.i18n import gettext as _
from auth_portal.services.access.admin_sessions import SignInForm
from auth_portal.services.access.admins import Invitation, JoinForm
from auth_portal.web.admin.frame import (
    EVERYONE,
    LATE_FORM,
    PUBLIC,
    done,
    forget_session,
    form_text,
    is_confirmed,
    keep_session,
    me,
    my_late_form,
    own_path,
    raise_if_ended,
    render,
    route,
    second_factor_fault,
    shown_again,
    sign_in_page,
)
from auth_portal.web.context import link_browser, opened_here, services
from auth_portal.web.credentials import WITHOUT_COOKIE, enrolment

ACCOUNT = "/admin/account"


@route("/sign-in", allow=PUBLIC)
def sign_in_form() -> BaseResponse:
    """Ask for email address, password and second factor together."""
    if g.signed_in is not None:
        return redirect(own_path(request.args.get("next", "")), 303)
    return sign_in_page(wanted=_wanted())


@route("/sign-in", allow=PUBLIC, methods=("POST",))
def sign_in() -> BaseResponse:
    """Begin a session; a session that this browser had ends (R26)."""
    if g.signed_in is not None and (late := my_late_form()):
        return shown_again(late)  # the page was reloaded, or another tab was faster
    given = SignInForm(
        form_text("email"),
        request.form.get("password", ""),
        form_text("code"),
        g.address,
        request.headers.get("User-Agent", ""),
    )
    sessions = services().admin_sessions
    token = sessions.sign_in(given)
    if token is None:
        fault = _("We couldn't sign you in. Check all three fields. For safety we don't say which one is wrong.")
        return sign_in_page(status=422, email=given.email, fault=fault, wanted=_wanted(), late=form_text(LATE_FORM))
    return _enter(token)


def _enter(token: str) -> BaseResponse:
    """Give the browser its new session, and show what it wanted, or the form that came too late."""
    sessions = services().admin_sessions
    if g.signed_in is not None:
        sessions.end(g.signed_in, g.signed_in.session_id)
    keep_session(token)
    g.signed_in = sessions.signed_in(token)
    if not form_text(LATE_FORM):
        return redirect(own_path(_wanted()), 303)
    if late := my_late_form():
        return shown_again(late)
    return done(
        _wanted(),
        _("The form you sent before wasn't saved. It was discarded, because another admin sent it or it was too old."),
    )


@route("/sign-in/passkey", allow=PUBLIC)
def sign_in_options() -> Response:
    """Return what the browser looks for a passkey by."""
    generate_csrf()  # of a browser that has no cookie yet: the challenge belongs to it
    return _json(services().admin_passkeys.options_to_sign_in(session["csrf_token"]))


def _json(text: str) -> Response:
    response = make_response(text)
    response.mimetype = "application/json"
    return response


@route("/sign-in/passkey", allow=PUBLIC, methods=("POST",))
def sign_in_by_passkey() -> BaseResponse:
    """Begin a session with a passkey alone; a session that this browser had ends (R26)."""
    browser, holder = request.headers.get("User-Agent", ""), session.get("csrf_token", "")
    token = services().admin_passkeys.sign_in(request.form.get("passkey", ""), holder, g.address, browser)
    if token is None:
        fault = _("We couldn't sign you in with this passkey. Try again, or use your password and app.")
        return sign_in_page(status=422, fault=fault, wanted=_wanted(), late=form_text(LATE_FORM))
    return _enter(token)


def _wanted() -> str:
    return own_path(request.values.get("next", ""), default="")


@route("/sign-out", allow=EVERYONE, methods=("POST",))
def sign_out() -> BaseResponse:
    """End this session on the server."""
    services().admin_sessions.end(me(), me().session_id)
    return forget_session(done("/admin/sign-in", _("You've signed out.")))


@route("/join/<token>", allow=PUBLIC)
def join_form(token: str) -> Response:
    """Show what a one-time link is for, and its form once the link was opened in this browser (R47)."""
    return _join_page(services().admins.invitation(token, link_browser()), JoinForm("", "", "", "", ""), {})


@route("/join/<token>", allow=PUBLIC, methods=("POST",))
def join(token: str) -> BaseResponse:
    """Open a one-time link in this browser, decline it, or follow it."""
    admins, sessions = services().admins, services().admin_sessions
    if form_text("open"):
        return opened_here(admins.open(token, link_browser()))
    if form_text("decline"):
        admins.decline(token, link_browser())
        return render("admin/access/join_declined.html")
    invitation = admins.invitation(token, link_browser())
    form = _join_form(invitation)
    if not invitation.view.is_open:
        return _join_page(invitation, form, {"form": _(WITHOUT_COOKIE)}, status=400)
    if faults := admins.faults_of(invitation, form):
        return _join_page(invitation, form, faults, status=422)
    try:
        admin_id = admins.join(invitation, form)
    except Problem as problem:
        if problem.code != "admin_email_taken":
            raise
        return _join_page(invitation, form, {"email": error_text(problem.code)}, status=422)
    token_of_session = sessions.begin(admin_id, g.address, request.headers.get("User-Agent", ""))
    if g.signed_in is not None:
        sessions.end(g.signed_in, g.signed_in.session_id)
    keep_session(token_of_session)
    return redirect("/admin/recovery-codes", 303)


def _join_form(invitation: Invitation) -> JoinForm:
    return JoinForm(
        form_text("name"),
        form_text("email"),
        request.form.get("password", ""),
        request.form.get("repeated", ""),
        form_text("code"),
        invitation.view.shown_seed(services().keyring, form_text("seed")),
    )


def _join_page(invitation: Invitation, form: JoinForm, faults: dict[str, str], *, status: int = 200) -> Response:
    email, view = form.email or invitation.email, invitation.view
    return render(
        "admin/access/join.html" if view.is_open else "admin/access/join_first.html",
        status=status,
        invitation=invitation,
        form=form,
        email=email,
        faults=faults,
        path=request.path,
        app=enrolment(view, email) if view.is_open else None,
    )


@route("/recovery-codes", allow=EVERYONE)
def recovery_codes() -> BaseResponse:
    """Show new recovery codes until the admin confirms that they are saved."""
    codes = services().admins.recovery_codes(me().admin_id)
    if not codes:
        return redirect(ACCOUNT, 303)
    return render("admin/access/recovery_codes.html", codes=codes, fault="")


@route("/recovery-codes", allow=EVERYONE, methods=("POST",))
def keep_codes() -> BaseResponse:
    """Stop showing the codes: the admin has saved them."""
    if not form_text("saved"):
        codes = services().admins.recovery_codes(me().admin_id)
        fault = _("Save the codes first, then select the checkbox. They're shown only now.")
        return render("admin/access/recovery_codes.html", status=422, codes=codes, fault=fault)
    services().admins.hide_recovery_codes(me().admin_id)
    return done("/admin/", _("You're all set."))


# --- The account


@route("/account", allow=EVERYONE)
def account() -> Response:
    """Show the account of the admin who is signed in."""
    return _account_page({})


def _account_page(faults: dict[str, str], *, status: int = 200) -> Response:
    person = services().admins.get(me().admin_id)
    sessions = services().admin_sessions.open_sessions(me().admin_id)
    passkeys = services().admin_passkeys
    return render(
        "admin/access/account.html",
        status=status,
        person=person,
        sessions=sessions,
        faults=faults,
        passkeys=passkeys.listed(me().admin_id),
        are_possible=passkeys.are_possible,
        host=services().settings.host,
        name=form_text("name"),
    )


@route("/account/password", allow=EVERYONE, methods=("POST",))
def change_password() -> BaseResponse:
    """Set a new password; every other session of this admin ends."""
    new, repeated = request.form.get("password", ""), request.form.get("repeated", "")
    person = services().admins.get(me().admin_id)
    faults = {
        "password": services().admins.password_fault(new, about=(person.name, person.email)),
        "repeated": "" if new == repeated else _("The two passwords are different."),
    }
    faults = {name: fault for name, fault in faults.items() if fault}
    if not faults and (fault := second_factor_fault()):
        faults = {"second_factor": fault, "of": "password"}
    if not faults and not services().admin_sessions.check_password(me(), request.form.get("present", "")):
        raise_if_ended()
        faults = {"present": _("This isn't your current password.")}
    if faults:
        return _account_page(faults, status=422)
    services().admins.change_password(me().admin_id, new, keep_session=me().session_id)
    said = _("Your password was changed. Your other sessions have ended.")
    if left := len(services().admin_passkeys.listed(me().admin_id)):
        said += " " + ngettext(
            "%(num)s passkey can still sign in as you. Remove it below if it isn't yours.",
            "%(num)s passkeys can still sign in as you. Remove those below that aren't yours.",
            num=left,
        )
    return done(ACCOUNT, said)


@route("/account/recovery-codes", allow=EVERYONE, methods=("POST",))
def renew_codes() -> BaseResponse:
    """Create new recovery codes."""
    if fault := second_factor_fault():
        return _account_page({"second_factor": fault}, status=422)
    services().admins.renew_recovery_codes(me().admin_id)
    return done("/admin/recovery-codes", _("These are your new recovery codes. The old ones no longer work."))


# --- Passkeys


@route("/account/passkeys/confirm", allow=EVERYONE)
def confirm_options() -> Response:
    """Return what the browser looks for one of the admin's passkeys by."""
    return _json(services().admin_passkeys.options_to_confirm(me()))


@route("/account/passkeys/create", allow=EVERYONE)
def passkey_options() -> Response:
    """Return what the browser creates a passkey by; only after a fresh second factor."""
    if not is_confirmed():
        raise Problem("confirmation_missing", status=403)
    site_name = services().journeys.current().portal.name
    return _json(services().admin_passkeys.options_to_create(me(), site_name))


@route("/account/passkeys", allow=EVERYONE, methods=("POST",))
def name_passkey() -> BaseResponse:
    """Take the name of a new passkey and the second factor, and then let the browser create it."""
    name = form_text("name")
    if fault := services().admin_passkeys.name_fault(me().admin_id, name):
        return _account_page({"passkey_name": fault}, status=422)
    if fault := second_factor_fault():
        return _account_page({"second_factor": fault, "of": "passkey"}, status=422)
    return render("admin/access/passkey.html", name=name, fault="")


@route("/account/passkeys/create", allow=EVERYONE, methods=("POST",))
def create_passkey() -> BaseResponse:
    """Store the passkey that the browser created."""
    name, passkeys = form_text("name"), services().admin_passkeys
    if not is_confirmed():
        return _account_page({"second_factor": _("Confirm it's you first."), "of": "passkey"}, status=422)
    if fault := passkeys.name_fault(me().admin_id, name):
        return _account_page({"passkey_name": fault}, status=422)
    if not passkeys.create(me(), name, request.form.get("passkey", "")):
        fault = _("The passkey wasn't created: the page was open for more than 5 minutes, or the device refused it.")
        return render("admin/access/passkey.html", status=422, name=name, fault=fault)
    return done(ACCOUNT, _("The passkey was created. You can sign in with it from now on."))


@route("/account/passkeys/<passkey_id>/remove", allow=EVERYONE, methods=("POST",))
def remove_passkey(passkey_id: str) -> BaseResponse:
    """Remove a passkey of this admin."""
    if fault := second_factor_fault():
        return _account_page({"second_factor": fault, "of": passkey_id}, status=422)
    services().admin_passkeys.remove(me(), passkey_id)
    return done(ACCOUNT, _("The passkey was removed. It can no longer sign in. You can delete it on your device too."))


@route("/account/passkeys/remove-all", allow=EVERYONE, methods=("POST",))
def remove_all_passkeys() -> BaseResponse:
    """Remove every passkey of this admin, such as after someone else knew the password."""
    if fault := second_factor_fault():
        return _account_page({"second_factor": fault, "of": "all-passkeys"}, status=422)
    number = services().admin_passkeys.remove(me())
    said = ngettext("%(num)s passkey was removed.", "%(num)s passkeys were removed.", num=number)
    return done(ACCOUNT, said + " " + _("Sign in with your password and app from now on."))


@route("/account/sessions/<session_id>/end", allow=EVERYONE, methods=("POST",))
def end_session(session_id: str) -> BaseResponse:
    """End one of this admin's sessions."""
    services().admin_sessions.end(me(), session_id)
    return done(ACCOUNT, _("The session has ended."))
