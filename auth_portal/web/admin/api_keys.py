"""Programs: API keys, and webhooks by which programs learn what happened. Owners create both; an auditor sees them."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.web.admin.frame import INSPECTORS, OWNERS, done, form_text, me, render, route, second_factor_fault
from auth_portal.web.context import services

PATH = "/admin/api-keys"
USUAL_DAYS = "90"


@route("/api-keys", allow=INSPECTORS)
def keys() -> Response:
    """List the keys, the newest first, and the webhooks."""
    origin = services().settings.public_url
    hooks = services().endpoints.all()
    return render("admin/api_keys/list.html", keys=services().api_keys.recent(), hooks=hooks, origin=origin)


@route("/api-keys/new", allow=OWNERS)
def form() -> Response:
    """Show the form for a new key."""
    return _form({})


def _form(faults: Mapping[str, str], *, status: int = 200) -> Response:
    known = services().api_keys
    return render(
        "admin/api_keys/new.html",
        status=status,
        faults=faults,
        scopes=known.scopes,
        lives=[(str(days), _("%(days)s days", days=days)) for days in known.days],
        name=form_text("name"),
        chosen=request.form.getlist("scopes"),
        chosen_days=form_text("days") or USUAL_DAYS,
    )


@route("/api-keys", allow=OWNERS, methods=("POST",), again=lambda: _form({}))
def create() -> BaseResponse:
    """Create a key and show it once."""
    if fault := second_factor_fault():
        return _form({"second_factor": fault}, status=422)
    known, days = services().api_keys, form_text("days")
    lasts = int(days) if days in map(str, known.days) else 0
    made = known.create(form_text("name"), request.form.getlist("scopes"), lasts, me().admin_id)
    if made.faults:
        return _form(made.faults, status=422)
    origin = services().settings.public_url
    return render("admin/api_keys/made.html", key=made.key, found=known.get(made.id), origin=origin)


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


# --- Webhooks


@route("/api-keys/webhooks/new", allow=OWNERS)
def hook_form() -> Response:
    """Show the form for a new webhook."""
    return _hook_form({})


def _hook_form(faults: Mapping[str, str], *, status: int = 200) -> Response:
    chosen, url = request.form.getlist("events"), form_text("url")
    events = services().endpoints.events
    return render("admin/api_keys/hook.html", status=status, faults=faults, events=events, chosen=chosen, url=url)


@route("/api-keys/webhooks", allow=OWNERS, methods=("POST",), again=lambda: _hook_form({}))
def create_hook() -> BaseResponse:
    """Create a webhook and show its secret once."""
    if fault := second_factor_fault():
        return _hook_form({"second_factor": fault}, status=422)
    made = services().endpoints.create(form_text("url"), request.form.getlist("events"), me().admin_id)
    return _hook_form(made.faults, status=422) if made.faults else _secret(made.id, made.secret)


def _secret(endpoint: str, secret: str) -> Response:
    hook = services().endpoints.get(endpoint)
    return render("admin/api_keys/hook_secret.html", hook=hook, secret=secret)


@route("/api-keys/webhooks/<endpoint>", allow=INSPECTORS)
def hook(endpoint: str) -> Response:
    """Show a webhook: how it is doing, and for owners its form."""
    return _hook(endpoint, {})


def _hook(endpoint: str, faults: Mapping[str, str]) -> Response:
    found, known = services().endpoints.get(endpoint), services().endpoints
    is_typed = "url" in request.form
    return render(
        "admin/api_keys/hook.html",
        status=422 if faults else 200,
        hook=found,
        faults=faults,
        events=known.events,
        chosen=request.form.getlist("events") if is_typed else found.events,
        url=form_text("url") if is_typed else found.url,
        is_active=bool(form_text("active")) if is_typed else found.is_active,
        lost=known.lost(endpoint),
    )


@route("/api-keys/webhooks/<endpoint>", allow=OWNERS, methods=("POST",), again=lambda endpoint: _hook(endpoint, {}))
def change_hook(endpoint: str) -> BaseResponse:
    """Save the form of a webhook."""
    if fault := second_factor_fault():
        return _hook(endpoint, {"second_factor": fault})
    events, is_active = request.form.getlist("events"), bool(form_text("active"))
    saved = services().endpoints.change(endpoint, form_text("url"), events, is_active=is_active, admin_id=me().admin_id)
    if saved.faults:
        return _hook(endpoint, saved.faults)
    return done(f"{PATH}/webhooks/{endpoint}", _("Saved. Every server uses it within two seconds."))


@route("/api-keys/webhooks/<endpoint>/test", allow=OWNERS, methods=("POST",))
def test_hook(endpoint: str) -> BaseResponse:
    """Send a test message, and show what becomes of it."""
    delivery = services().endpoints.test(endpoint, me().admin_id)
    services().dispatcher.wake()
    text = _("The test is being sent. Reload this page to see what the program answered.")
    return done(f"/admin/deliveries/{delivery}", text)


@route("/api-keys/webhooks/<endpoint>/resume", allow=OWNERS, methods=("POST",))
def resume_hook(endpoint: str) -> BaseResponse:
    """Send events to a paused webhook again, and those that were given up if that was chosen."""
    known, text = services().endpoints, _("Events are sent to it again.")
    if not known.get(endpoint).is_active:  # what it gets would be dropped
        return done(f"{PATH}/webhooks/{endpoint}", _("Nothing was sent: the webhook is off. Switch it on first."))
    known.resume(endpoint, me().admin_id)
    if form_text("replay"):
        count = known.replay(endpoint, me().admin_id)
        services().dispatcher.wake()
        text = _("%(count)s events are being sent again.", count=count)
    return done(f"{PATH}/webhooks/{endpoint}", text)


@route("/api-keys/webhooks/<endpoint>/secret", allow=OWNERS, methods=("POST",))
def renew_hook_secret(endpoint: str) -> BaseResponse:
    """Replace the secret and show the new one once."""
    if fault := second_factor_fault():
        return _hook(endpoint, {"secret_second_factor": fault})
    return _secret(endpoint, services().endpoints.renew_secret(endpoint, me().admin_id))


@route("/api-keys/webhooks/<endpoint>/delete", allow=OWNERS, methods=("POST",))
def delete_hook(endpoint: str) -> BaseResponse:
    """Delete a webhook."""
    if fault := second_factor_fault():
        return _hook(endpoint, {"delete_second_factor": fault})
    services().endpoints.delete(endpoint, me().admin_id)
    return done(PATH, _("The webhook was deleted. What waited for it is not sent."))
