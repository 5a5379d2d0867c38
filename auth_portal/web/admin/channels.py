"""Channels: how messages are sent, how each channel is doing, and its test. Owners change, support may send a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flask import Response, abort, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import TooMany
from auth_portal.i18n import error_text
from auth_portal.i18n import gettext as _
from auth_portal.services.config.changes import Author, SaveResult
from auth_portal.services.config.channel_editor import NEEDED, SHARED
from auth_portal.services.config.file import Fault
from auth_portal.web.admin.frame import (
    EVERYONE,
    OWNERS,
    WRITERS,
    done,
    form_text,
    me,
    render,
    route,
    second_factor_fault,
)
from auth_portal.web.context import services

PATH = "/admin/channels"
REFRESHES = 10  # of the page of a test, two seconds apart; then a link


@route("/channels", allow=EVERYONE)
def channels() -> Response:
    """Show all channels, and how they are doing."""
    editor = services().channel_editor
    return render(
        "admin/channels/list.html",
        channels=editor.channels(),
        figures={one.name: one for one in services().overview.figures("day").channels},
        kinds=editor.kinds(),
        presets=editor.presets(),
    )


@route("/channels/_new", allow=OWNERS)
def new() -> Response:
    """Show the form of a new channel, after the choice of its kind."""
    kinds = services().channel_editor.kinds()
    kind, preset = request.args.get("kind", ""), request.args.get("preset", "")
    own_country = {"countries": services().journeys.current().portal.default_region}
    if preset in services().channel_editor.presets():
        return _preset_form(preset, {"name": preset, **own_country})
    if kind not in kinds:
        return render("admin/channels/kind.html", kinds=kinds, presets=services().channel_editor.presets())
    starts = {field.name: field.start for field in kinds[kind].FORM}
    carries_sms_alone = "countries" in starts and "carries" not in starts
    return _form("", kind, {**starts, **(own_country if carries_sms_alone else {})})


def _new_kind() -> str:
    if (kind := form_text("kind")) not in services().channel_editor.kinds():
        abort(404)
    return kind


def _typed() -> dict[str, str]:
    return {name: text.strip() for name, text in request.form.items()}


def _new_again(result: SaveResult = SaveResult()) -> Response:  # noqa: B008 -- a constant
    """Show the form of a new channel as it was sent; secrets of a preset are typed again."""
    preset, typed = form_text("preset"), _typed()
    return _preset_form(preset, typed, result) if preset else _form("", _new_kind(), typed, result)


@route("/channels/_new", allow=OWNERS, methods=("POST",), again=_new_again)
def add() -> BaseResponse:
    """Add a channel: of a kind, or of a provider whose request is known."""
    preset, typed, editor = form_text("preset"), _typed(), services().channel_editor
    if fault := second_factor_fault():
        return _new_again(_refused(fault))
    author = Author(me().admin_id)
    result = editor.add_preset(preset, typed, author) if preset else editor.add(_new_kind(), typed, author)
    if not result.is_fine:
        return _new_again(result)
    return done(f"{PATH}/{typed.get('name', '')}", _("The channel was added. Send a test before a journey uses it."))


@route("/channels/<name>", allow=EVERYONE)
def channel(name: str) -> Response:
    """Show one channel: its state, what it sent today, which journeys use it."""
    return _page(name)


def _page(name: str, faults: Sequence[Fault] = (), *, status: int = 200, doing: str = "") -> Response:
    figures = services().overview.figures("day")
    return render(
        "admin/channels/channel.html",
        status=status,
        channel=services().channel_editor.channel(name),
        day=next((one for one in figures.channels if one.name == name), None),
        times=[point.at for point in figures.points],
        doing=doing,
        faults={fault.key: fault.reason for fault in faults},
        blocking=_blocking(faults),
        number=form_text("number"),
        mailbox=services().admins.get(me().admin_id).email,
    )


@route("/channels/<name>/edit", allow=OWNERS)
def edit(name: str) -> Response:
    """Show the form of a channel."""
    return _form(name, "", services().channel_editor.channel(name).form)


def _change_again(name: str) -> Response:
    """Show the form as it was sent, except for typed secrets."""
    found = services().channel_editor.channel(name)
    secrets = {key: text for key, text in found.form.items() if key in found.kind.SECRETS}
    return _form(name, "", {**_typed(), **secrets})


@route("/channels/<name>/edit", allow=OWNERS, methods=("POST",), again=_change_again)
def change(name: str) -> BaseResponse:
    """Save the form."""
    typed = _typed()
    if fault := second_factor_fault():
        return _form(name, "", typed, _refused(fault))
    based_on, author = form_text("based_on"), Author(me().admin_id)
    result = services().channel_editor.change(name, typed, author, based_on=based_on)
    if not result.is_fine:
        return _form(name, "", typed, result)
    return done(f"{PATH}/{name}", _("Saved. Every server uses it within two seconds."))


@route("/channels/<name>/switch", allow=OWNERS, methods=("POST",))
def switch(name: str) -> BaseResponse:
    """Switch a channel on or off."""
    is_active = form_text("active") == "1"
    if fault := second_factor_fault():
        return _page(name, [Fault("", "second_factor", fault)], status=422, doing="switch")
    result = services().channel_editor.switch(name, Author(me().admin_id), is_active=is_active)
    if not result.is_fine:
        return _page(name, result.faults, status=422, doing="switch")
    return done(f"{PATH}/{name}", _("The channel is in use.") if is_active else _("The channel is off."))


@route("/channels/<name>/delete", allow=OWNERS)
def deleting(name: str) -> Response:
    """Show what deleting would do."""
    return _deleting(name)


@route("/channels/<name>/delete", allow=OWNERS, methods=("POST",))
def delete(name: str) -> BaseResponse:
    """Delete a channel permanently."""
    if fault := second_factor_fault():
        return _deleting(name, [Fault("", "second_factor", fault)])
    result = services().channel_editor.delete(name, Author(me().admin_id))
    if not result.is_fine:
        return _deleting(name, result.faults)
    return done(PATH, _("The channel %(name)s was deleted, with its secrets.", name=name))


def _deleting(name: str, faults: Sequence[Fault] = ()) -> Response:
    return render(
        "admin/channels/delete.html",
        status=422 if faults else 200,
        channel=services().channel_editor.channel(name),
        faults={fault.key: fault.reason for fault in faults},
        blocking=_blocking(faults),
    )


@route("/channels/<name>/test", allow=WRITERS, methods=("POST",))
def test(name: str) -> BaseResponse:
    """Send a message to the admin."""
    try:
        sent = services().trials.send(name, form_text("carries"), form_text("number"), me().admin_id)
    except TooMany as limit:
        response = _page(name, [Fault("", "test", error_text(limit.code))], status=429, doing="test")
        response.headers["Retry-After"] = str(limit.retry_after_seconds)
        return response
    if isinstance(sent, Fault):
        return _page(name, [sent._replace(key=sent.key or "test")], status=422, doing="test")
    return done(f"{PATH}/{name}/tests/{sent}", "")


@route("/channels/<name>/tests/<delivery_id>", allow=EVERYONE)
def trial(name: str, delivery_id: str) -> Response:
    """Show what the provider answered."""
    found, seen = services().trials.trial(name, delivery_id), request.args.get("seen", 0, type=int)
    response = render("admin/channels/test.html", name=name, trial=found, is_waiting=seen < REFRESHES)
    if not found.is_over and seen < REFRESHES:
        response.headers["Refresh"] = f"2; url={PATH}/{name}/tests/{delivery_id}?seen={seen + 1}"
    return response


def _refused(second_factor: str) -> SaveResult:
    return SaveResult((Fault("", "second_factor", second_factor),))


def _preset_form(key: str, texts: Mapping[str, str], result: SaveResult = SaveResult()) -> Response:  # noqa: B008 -- a constant
    editor = services().channel_editor
    if key not in editor.presets():
        abort(404)
    preset, fields = editor.presets()[key], [field for field in editor.kinds()["http"].FORM if field.name in SHARED]
    known = {"name", "second_factor", *SHARED, *(ask.name for ask in preset.asks)}
    return render(
        "admin/channels/preset.html",
        status=422 if result.faults else 200,
        key=key,
        preset=preset,
        fields=fields,
        needed=NEEDED,
        values=texts,
        faults={fault.key.partition(".")[0]: fault.reason for fault in result.faults},
        others=[fault.reason for fault in result.faults if fault.key.partition(".")[0] not in known],
    )


def _form(name: str, new_kind: str, texts: Mapping[str, str], result: SaveResult = SaveResult()) -> Response:  # noqa: B008 -- a constant
    """Return the form of the channel ``name``, or of a new one of this kind."""
    stored = services().channel_editor.channel(name) if name else None
    kind = stored.kind if stored else services().channel_editor.kinds()[new_kind]
    now = stored.mark if stored else ""
    # Headers are secrets that the form shows, so those that were typed stay in it; a password field is always empty.
    lost = [_(field.label) for field in kind.FORM if field.is_secret and not field.rows and texts.get(field.name)]
    if result.newer:  # what they changed and this form did not is in the form from here on
        texts = services().channel_editor.merged_form(name, result.newer.merged, texts)
    shown = {"name", *(field.name for field in kind.FORM), "second_factor"}
    return render(
        "admin/channels/edit.html",
        status=409 if result.newer else 422 if result.faults else 200,
        name=name,
        kind=kind,
        kind_name=kind.model_fields["kind"].default,
        values=texts,
        based_on=now if result.newer else form_text("based_on") or now,
        newer=result.newer,
        lost_secrets=lost,
        faults={fault.key.partition(".")[0]: fault.reason for fault in result.faults},
        others=[fault.reason for fault in result.faults if fault.key.partition(".")[0] not in shown],
        has_secrets=stored.secrets if stored else {},
        uses=sum(use.is_active for use in stored.uses) if stored else 0,
        options={field.name: [(value, _(text)) for value, text in field.choices] for field in kind.FORM},
    )


def _blocking(faults: Sequence[Fault]) -> list[str]:
    """Return what uses a channel and prevents its removal: names of journeys, or the portal's settings."""
    return list(dict.fromkeys(fault.table for fault in faults if fault.table))
