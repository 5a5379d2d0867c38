"""Settings of the whole portal, and import and export of the config file. Every admin reads, owners change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import phonenumbers
from flask import Response, make_response, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.clock import zones_to_choose
from auth_portal.errors import Misconfigured
from auth_portal.i18n import FALLBACK, country_name, languages
from auth_portal.i18n import gettext as _
from auth_portal.services.config.changes import Author, Difference, SaveResult
from auth_portal.services.config.configuration import SettingsEdit
from auth_portal.services.config.file import Fault
from auth_portal.web.admin.frame import (
    EVERYONE,
    INSPECTORS,
    OWNERS,
    SECRET_FIELDS,
    accept_logo,
    done,
    form_text,
    me,
    render,
    route,
    second_factor_fault,
    sent_logo,
)
from auth_portal.web.context import services

PATH = "/admin/settings"
FILE_NAME = "portal.toml"
ALERTS = "alerts.webhook"
NUMBERS = (
    "limits.begins_per_minute",
    "limits.password_checks_per_minute",
    "retention.codes_hours",
    "retention.verifications_days",
    "retention.audit_days",
    "radius",
)
TEXTS = (
    "name",
    "default_region",
    "time_zone",
    "support_contact",
    "notices_by",
    ALERTS,
    "colour",
    "language",
    "latin_name",
)
LANGUAGES = "languages"  # the only key with several values: in the form they are joined by spaces
MOST_LANGUAGES = 100  # that are read of a form
SWITCHES = ("alerts.email", "hide_name", "case_sensitive_ids")


@route("/settings", allow=EVERYONE)
def settings() -> Response:
    """Show the portal's name, limits, retention and alerts; all of the address of alerts to owners alone."""
    hidden = {} if me().is_owner else {ALERTS: services().configuration.settings().settings.alerts.hidden_webhook}
    return _page(_stored() | hidden)


def _typed() -> dict[str, str]:
    chosen = " ".join(request.form.getlist(LANGUAGES)[:MOST_LANGUAGES])
    typed = {key: form_text(key) for key in (*TEXTS, *NUMBERS, *SWITCHES)}
    return {**typed, LANGUAGES: chosen, "language": typed["language"] or FALLBACK}


@route("/settings", allow=OWNERS, methods=("POST",), again=lambda: _page(_typed()))
def save() -> BaseResponse:
    """Save the form."""
    typed, configuration = _typed(), services().configuration
    untouched = configuration.settings().settings.model_dump()  # such as the logos, which have forms of their own
    edit = SettingsEdit(untouched | _nested(typed), Author(me().admin_id), form_text("based_on"))
    result = configuration.propose(edit)
    if not result.is_fine or form_text("act") == "edit":
        return _page(typed, result)
    risky = [change for change in result.changes if _is_risky(change)]
    if _mark_of(risky) != form_text("sure"):
        return _risky_page(result.changes, risky)
    if fault := second_factor_fault():
        refused = SaveResult((Fault("portal", "second_factor", fault),))
        return _risky_page(result.changes, risky, fault) if risky else _page(typed, refused)
    result = configuration.save(edit)
    if not result.is_fine:
        return _page(typed, result)
    return done(PATH, _("Saved. Every server uses it within two seconds."))


def _is_risky(change: Difference) -> bool:
    """Report whether a change may find other people by what customers type, or deletes what is stored."""
    if change.key.startswith("retention."):
        return int(change.after) < int(change.before)
    return change.key == "case_sensitive_ids" or (change.key == "default_region" and bool(change.before))


def _mark_of(risky: Sequence[Difference]) -> str:
    """Return what the second step sends of the changes that it showed."""
    return " ".join(f"{change.key}={change.after}" for change in risky)


def _risky_page(changes: Sequence[Difference], risky: Sequence[Difference], fault: str = "") -> Response:
    """Show what risky changes touch, before anything is saved; the form that was sent is in it."""
    left_out = {*SECRET_FIELDS, "sure", "act"}
    days = {change.key: int(change.after) for change in risky if change.key.endswith("_days")}
    return render(
        "admin/settings/risky.html",
        status=422 if fault else 200,
        changes=changes,
        risky=risky,
        sure=_mark_of(risky),
        fault=fault,
        fields=[pair for pair in request.form.items(multi=True) if pair[0] not in left_out],
        at_stake=services().overview.at_stake(),
        doomed=services().overview.older_than(days),
    )


FIRST = ("name", "default_region", "time_zone", "language")  # what has to be right before the first customer


@route("/settings/first", allow=OWNERS, methods=("POST",), again=lambda: _page(_first_typed()))
def save_first() -> BaseResponse:
    """Save the first of the first steps: whose portal it is, and where. Faults are shown among all settings."""
    typed, configuration = _first_typed(), services().configuration
    if not typed["default_region"]:
        return _page(typed, SaveResult((Fault("portal", "default_region", _("choose a country")),)))
    if fault := second_factor_fault():
        return _page(typed, SaveResult((Fault("portal", "second_factor", fault),)))
    form = configuration.settings()
    values = form.settings.model_dump() | {key: typed[key] for key in FIRST}
    result = configuration.save(SettingsEdit(values, Author(me().admin_id), form.mark))
    return done("/admin/", _("Saved.")) if result.is_fine else _page(typed, result)


def _first_typed() -> dict[str, str]:
    return _stored() | {key: form_text(key) for key in FIRST}


def first_choices() -> dict[str, Any]:
    """Return the settings of the first step, and what can be chosen for them."""
    settings = services().journeys.current().portal
    return {
        "business": {key: getattr(settings, key) for key in FIRST},
        "countries": _countries(),
        "zones": [(name, name.replace("_", " ")) for name in zones_to_choose()],
        "languages": [(one.code, one.name) for one in languages().values() if one.is_complete],
    }


accept_logo("settings_logo")


@route("/settings/logo", allow=OWNERS, methods=("POST",))
def logo() -> BaseResponse:
    """Store one of the portal's logos, or remove it."""
    configuration, (which, content) = services().configuration, sent_logo()
    form, typed = configuration.settings(), _stored()

    def refused(key: str, reason: str) -> Response:
        return _page(typed, SaveResult((Fault("portal", key, reason),)))

    if content is None:
        return refused(which, _("choose a picture first"))
    if fault := second_factor_fault():  # before the picture is stored
        return refused(f"{which}_second_factor", fault)
    try:
        values = form.settings.model_dump() | {which: configuration.take_logo(content)}
    except ValueError as fault:
        return refused(which, str(fault))
    result = configuration.save(SettingsEdit(values, Author(me().admin_id), form.mark))
    return _page(typed, result) if not result.is_fine else done(PATH, _("The logo was changed."))


@route("/settings/webhook-secret", allow=OWNERS, methods=("POST",))
def webhook_secret() -> BaseResponse:
    """Make a new secret for webhooks and show it once."""
    if fault := second_factor_fault():
        refused = SaveResult((Fault("portal", "secret_second_factor", fault),))
        return _page(_stored(), refused)
    secret = services().webhooks.renew_secret(me().admin_id)
    return render("admin/settings/secret.html", secret=secret)


@route("/settings/file", allow=INSPECTORS)
def export() -> Response:
    """Send the config file, secrets as ``"keep"``; to an auditor without the address of the alerts."""
    response = make_response(services().configuration.export_toml(has_addresses=me().is_owner))
    response.mimetype = "application/toml"
    response.headers["Content-Disposition"] = f'attachment; filename="{FILE_NAME}"'
    return response


@route("/settings/import", allow=OWNERS)
def file() -> Response:
    """Show the form for a config file."""
    return render("admin/settings/import.html", text="", prune=False, faults=[])


@route("/settings/import", allow=OWNERS, methods=("POST",))
def difference() -> Response:
    """Show what a config file would change. Nothing is changed yet."""
    return _difference()


def _difference(second_factor: str = "", *, is_newer: bool = False) -> Response:
    text, prune = _file_text(), form_text("prune") == "1"
    try:
        summary = services().configuration.preview_toml(text, file_name=FILE_NAME, prune=prune)
    except Misconfigured as refused:
        return render("admin/settings/import.html", status=422, text=text, prune=prune, faults=refused.faults)
    return render(
        "admin/settings/difference.html",
        status=422 if second_factor or is_newer else 200,
        text=text,
        prune=prune,
        summary=summary,
        fault=second_factor,
        is_newer=is_newer,
    )


@route("/settings/import/apply", allow=OWNERS, methods=("POST",))
def apply() -> BaseResponse:
    """Apply exactly what was shown. If it would be something else by now, show that instead."""
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
    return done(PATH, _("Applied: %(lines)s", lines="; ".join(summary.lines) or _("nothing to change")))


def _file_text() -> str:
    """Return the file that was chosen, or what was pasted, with the line ends of a file."""
    chosen = request.files.get("file")
    content = chosen.read().decode("utf-8-sig", "replace") if chosen else ""
    return (content or request.form.get("text", "")).replace("\r\n", "\n")


def _page(typed: Mapping[str, str], result: SaveResult = SaveResult()) -> Response:  # noqa: B008 -- a constant
    if result.newer:  # what they changed and this form did not is in the form from here on
        typed = _flat(result.newer.merged)
    form, zone = services().configuration.settings(), typed["time_zone"]
    mark = form.mark if me().is_owner else ""  # it has all settings
    own = [] if zone in zones_to_choose() else [zone]
    cities: dict[str, list[tuple[str, str]]] = {}  # by part of the world, so that typing a city finds it
    for name in zones_to_choose():
        area, _slash, city = name.partition("/")
        if city:
            cities.setdefault(area, []).append((name, city.replace("_", " ")))
    return render(
        "admin/settings/settings.html",
        status=409 if result.newer else 422 if result.faults else 200,
        values=typed,
        stored=form.settings,
        ids_held_by=form.ids_held_by,
        newer=result.newer,
        based_on=mark if result.newer else form_text("based_on") or mark,
        faults={fault.key: fault.reason for fault in result.faults},
        mail_options=[("", _("the first channel that carries email")), *((name, name) for name in form.mail_channels)],
        zone_options=[(name, name) for name in (*own, *zones_to_choose()) if "/" not in name or name in own],
        zone_groups=cities,
        country_options=_countries(typed["default_region"]),
        example=_example_number(form.settings.default_region),
        at_stake=services().overview.at_stake(),
        has_secret=services().webhooks.has_secret(),
        sms_texts=services().messages.examples(),
        languages=[one for one in languages().values() if one.is_complete],
        language_options=[(one.code, one.name) for one in languages().values() if one.is_complete],
    )


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings as the form shows them: ``retention.audit_days`` and so on."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        for name, part in value.items() if isinstance(value, dict) else [("", value)]:
            text = ("1" if part else "") if isinstance(part, bool) else str(part)
            text = " ".join(part) if isinstance(part, list | tuple) else text
            found[f"{key}.{name}" if name else key] = text
    return found


def _countries(chosen: str = "") -> list[tuple[str, str]]:
    """Return the countries to choose from, by name; what was typed instead of one stays in the list."""
    regions = {*phonenumbers.SUPPORTED_REGIONS, *([chosen] if chosen else [])}
    named = sorted((country_name(region), region) for region in regions)
    return [("", _("Choose a country")), *((region, name) for name, region in named)]


def _example_number(region: str) -> str:
    """Return a mobile number of a country as its people write it; nothing where none is known."""
    found = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE) if region else None
    return phonenumbers.format_number(found, phonenumbers.PhoneNumberFormat.NATIONAL) if found else ""


def _stored() -> dict[str, str]:
    return _flat(services().configuration.settings().settings.model_dump())


def _nested(typed: Mapping[str, str]) -> dict[str, Any]:
    """Return the form as a table of the config file. Anything but a number stays text, and is refused as such."""
    values: dict[str, Any] = {}
    for key, text in typed.items():
        value: object = text
        if key in SWITCHES:
            value = text == "1"
        elif key == LANGUAGES:
            value = text.split()
        elif key in NUMBERS and text.isascii() and text.isdigit():
            value = int(text[:9])
        table, _dot, name = key.rpartition(".")
        (values.setdefault(table, {}) if table else values)[name] = value
    return values
