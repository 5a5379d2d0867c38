"""API keys: the list, a new key that is shown once, and revoking. Owners create keys; an auditor sees them."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.services.access.api_keys import DAYS, SCOPES
from auth_portal.web.admin.frame import INSPECTORS, OWNERS, done, form_text, me, render, route, second_factor_fault
from auth_portal.web.context import services

PATH = "/admin/api-keys"
USUAL_DAYS = "90"


@route("/api-keys", allow=INSPECTORS)
def keys() -> Response:
    """List the keys, the newest first."""
    origin = services().settings.public_url
    return render("admin/api_keys/list.html", keys=services().api_keys.recent(), origin=origin)


@route("/api-keys/new", allow=OWNERS)
def form() -> Response:
    """Show the form for a new key."""
    return _form({})


def _form(faults: Mapping[str, str], *, status: int = 200) -> Response:
    lives = [(str(days), _("%(days)s days", days=days)) for days in DAYS]
    return render(
        "admin/api_keys/new.html",
        status=status,
        faults=faults,
        scopes=SCOPES,
        lives=lives,
        name=form_text("name"),
        chosen=request.form.getlist("scopes"),
        chosen_days=form_text("days") or USUAL_DAYS,
    )


@route("/api-keys", allow=OWNERS, methods=("POST",), again=lambda: _form({}))
def create() -> BaseResponse:
    """Create a key and show it once."""
    if fault := second_factor_fault():
        return _form({"second_factor": fault}, status=422)
    days = form_text("days")
    made = services().api_keys.create(
        form_text("name"), request.form.getlist("scopes"), int(days) if days in map(str, DAYS) else 0, me().admin_id
    )
    if made.faults:
        return _form(made.faults, status=422)
    origin = services().settings.public_url
    return render("admin/api_keys/made.html", key=made.key, found=services().api_keys.get(made.id), origin=origin)


@route("/api-keys/<key_id>/revoke", allow=OWNERS)
def confirm_revoking(key_id: str) -> Response:
    """Show what revoking will do."""
    return _revoking(key_id)


def _revoking(key_id: str, fault: str = "") -> Response:
    found = services().api_keys.get(key_id)
    return render("admin/api_keys/revoke.html", status=422 if fault else 200, found=found, fault=fault)


@route("/api-keys/<key_id>/revoke", allow=OWNERS, methods=("POST",))
def revoke(key_id: str) -> BaseResponse:
    """End a key immediately."""
    if fault := second_factor_fault():
        return _revoking(key_id, fault)
    services().api_keys.revoke(key_id, me().admin_id)
    return done(PATH, _("The key was revoked. Programs that still use it are refused."))
