"""Keys for programs: which there are, making one and showing it once, revoking. Owners make them; an auditor reads."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.services.access.api_keys import DAYS, SCOPES
from auth_portal.web.admin.guard import (
    AUDITOR,
    OWNER,
    OWNERS,
    done,
    form_text,
    me,
    render,
    route,
    second_factor_fault,
)
from auth_portal.web.context import services

PATH = "/admin/api-keys"
USUAL_DAYS = "90"


@route("/api-keys", allow={OWNER, AUDITOR})
def keys() -> Response:
    """The keys, the newest first."""
    origin = services().settings.public_url
    return render("admin/api_keys/list.html", keys=services().api_keys.listed(), origin=origin)


@route("/api-keys/new", allow=OWNERS)
def form() -> Response:
    """The form for a new key."""
    return _form({})


def _form(faults: Mapping[str, str], *, status: int = 200) -> Response:
    lives = [(str(days), _("%(days)s days", days=days)) for days in DAYS]
    return render(
        "admin/api_keys/new.html", status=status, faults=faults, scopes=SCOPES, lives=lives, name=form_text("name"),
        chosen=request.form.getlist("scopes"), chosen_days=form_text("days") or USUAL_DAYS,
    )  # fmt: skip


@route("/api-keys", allow=OWNERS, methods=("POST",), again=lambda: _form({}))
def create() -> BaseResponse:
    """Makes a key and shows it, this once."""
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
    """Says what revoking will do."""
    return render("admin/api_keys/revoke.html", found=services().api_keys.get(key_id))


@route("/api-keys/<key_id>/revoke", allow=OWNERS, methods=("POST",))
def revoke(key_id: str) -> BaseResponse:
    """Ends a key at once."""
    services().api_keys.revoke(key_id, me().admin_id)
    return done(PATH, _("The key is revoked. Whatever still uses it is refused from now on."))
