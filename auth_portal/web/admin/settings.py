"""Settings of the whole portal, and the config file in and out. Everybody reads, owners change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, make_response, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.clock import zones_to_choose
from auth_portal.errors import Misconfigured
from auth_portal.i18n import gettext as _
from auth_portal.services.config.file import Fault
from auth_portal.services.config.journey_rows import Author
from auth_portal.services.config.meanwhile import Meanwhile
from auth_portal.services.config.portal import PortalSettings
from auth_portal.web.admin.guard import (
    AUDITOR,
    EVERYONE,
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

PATH = "/admin/settings"
FILE_NAME = "portal.toml"
NUMBERS = (
    "limits.begins_per_minute",
    "limits.password_checks_per_minute",
    "retention.codes_hours",
    "retention.verifications_days",
    "retention.audit_days",
)
TEXTS = ("name", "default_region", "time_zone", "support_contact", "notices_by", "alerts.webhook")
SWITCHES = ("alerts.email",)


@route("/settings", allow=EVERYONE)
def settings() -> Response:
    """What the portal is called, how much it takes, what it keeps and whom it tells."""
    return _page(_flat(services().portal_editor.now().settings))


def _typed() -> dict[str, str]:
    return {key: form_text(key) for key in (*TEXTS, *NUMBERS, *SWITCHES)}


@route("/settings", allow=OWNERS, methods=("POST",), again=lambda: _page(_typed()))
def save() -> BaseResponse:
    """Saves the form."""
    typed = _typed()
    if fault := second_factor_fault():
        return _page(typed, [Fault("portal", "second_factor", fault)])
    based_on = form_text("based_on")
    saving = services().portal_editor.save(_nested(typed), Author(me().admin_id), based_on=based_on)
    if not saving.is_done:
        return _page(typed, saving.faults, saving.newer)
    return done(PATH, _("Saved. Every server uses it within two seconds."))


@route("/settings/webhook-secret", allow=OWNERS, methods=("POST",))
def webhook_secret() -> BaseResponse:
    """Makes a new secret for webhooks and shows it once."""
    if fault := second_factor_fault():
        return _page(_flat(services().portal_editor.now().settings), [Fault("portal", "secret_second_factor", fault)])
    secret = services().webhooks.renew_secret(me().admin_id)
    return render("admin/settings/secret.html", secret=secret)


@route("/settings/file", allow={OWNER, AUDITOR})
def export() -> Response:
    """The config file, secrets as ``"keep"``."""
    response = make_response(services().configuration.export_toml())
    response.mimetype = "application/toml"
    response.headers["Content-Disposition"] = f'attachment; filename="{FILE_NAME}"'
    return response


@route("/settings/import", allow=OWNERS)
def file() -> Response:
    """Takes a config file."""
    return render("admin/settings/import.html", text="", prune=False, faults=[])


@route("/settings/import", allow=OWNERS, methods=("POST",))
def difference() -> Response:
    """Shows what a config file would change; nothing is changed yet."""
    return _difference()


def _difference(second_factor: str = "", *, is_newer: bool = False) -> Response:
    text, prune = _file_text(), form_text("prune") == "1"
    try:
        summary = services().configuration.preview_toml(text, file_name=FILE_NAME, prune=prune)
    except Misconfigured as refused:
        return render("admin/settings/import.html", status=422, text=text, prune=prune, faults=refused.faults)
    return render(
        "admin/settings/difference.html", status=422 if second_factor or is_newer else 200, text=text, prune=prune,
        summary=summary, fault=second_factor, is_newer=is_newer,
    )  # fmt: skip


@route("/settings/import/apply", allow=OWNERS, methods=("POST",))
def apply() -> BaseResponse:
    """Applies exactly what was shown; where it would be something else by now, that is shown instead."""
    if fault := second_factor_fault():
        return _difference(fault)
    author, prune = Author(me().admin_id), form_text("prune") == "1"
    try:
        summary = services().configuration.import_toml(
            _file_text(), file_name=FILE_NAME, prune=prune, author=author, shown=form_text("mark")
        )
    except Misconfigured:
        return _difference()
    if not summary.is_applied:
        return _difference(is_newer=True)
    return done(PATH, _("Applied: %(lines)s", lines="; ".join(summary.lines) or _("nothing had to be changed")))


def _file_text() -> str:
    """The file that was chosen, else what was pasted. Line ends as in a file."""
    chosen = request.files.get("file")
    content = chosen.read().decode("utf-8-sig", "replace") if chosen else ""
    return (content or request.form.get("text", "")).replace("\r\n", "\n")


def _page(typed: Mapping[str, str], faults: Sequence[Fault] = (), newer: Meanwhile | None = None) -> Response:
    now = services().portal_editor.now()
    mail_options = [("", _("the first channel that carries e-mail")), *((name, name) for name in now.mail_channels)]
    return render(
        "admin/settings/settings.html", status=409 if newer else 422 if faults else 200, values=typed, newer=newer,
        based_on=now.mark if newer else form_text("based_on") or now.mark,
        faults={fault.key: fault.reason for fault in faults}, mail_options=mail_options,
        zone_options=_zone_options(typed["time_zone"]), zone_groups=_zone_groups(),
        has_secret=services().webhooks.has_secret(),
    )  # fmt: skip


def _zone_options(chosen: str) -> list[tuple[str, str]]:
    """The zones that are in no part of the world, and whatever else was chosen, so that it stays so."""
    own = [] if chosen in zones_to_choose() else [chosen]
    return [(name, name) for name in (*own, *zones_to_choose()) if "/" not in name or name in own]


def _zone_groups() -> dict[str, list[tuple[str, str]]]:
    """By part of the world, so that typing the first letters of a city finds it: ``America`` has ``New York``."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in zones_to_choose():
        area, _slash, city = name.partition("/")
        if city:
            found.setdefault(area, []).append((name, city.replace("_", " ")))
    return found


def _flat(settings: PortalSettings) -> dict[str, str]:
    """The settings as the form shows them: ``retention.audit_days`` and so on."""
    found: dict[str, str] = {}
    for key, value in settings.model_dump().items():
        for name, part in value.items() if isinstance(value, dict) else [("", value)]:
            text = ("1" if part else "") if isinstance(part, bool) else str(part)
            found[f"{key}.{name}" if name else key] = text
    return found


def _nested(typed: Mapping[str, str]) -> dict[str, Any]:
    """The form as a table of the config file. What is no number stays text, and is refused as such."""
    values: dict[str, Any] = {}
    for key, text in typed.items():
        value: object = text
        if key in SWITCHES:
            value = text == "1"
        elif key in NUMBERS and text.isascii() and text.isdigit():
            value = int(text[:9])
        table, _dot, name = key.rpartition(".")
        (values.setdefault(table, {}) if table else values)[name] = value
    return values
