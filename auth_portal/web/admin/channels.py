"""Channels: how messages travel, how each is doing, and a test of it. Owners change, support may send a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import NotFound, TooMany
from auth_portal.i18n import error_text
from auth_portal.i18n import gettext as _
from auth_portal.services.config.file import Fault
from auth_portal.services.config.journey_rows import Author
from auth_portal.services.config.meanwhile import Meanwhile
from auth_portal.web.admin import channel_forms as forms
from auth_portal.web.admin.guard import (
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
    """All channels, and how they do."""
    return render("admin/channels/list.html", channels=services().channel_editor.channels())


@route("/channels/_new", allow=OWNERS)
def new() -> Response:
    """The form of a new channel, after the choice of its kind."""
    kind = request.args.get("kind", "")
    if kind not in _kinds():
        return render("admin/channels/kind.html", kinds=_kinds())
    return _form("", kind, forms.EMPTY.get(kind, {}))


def _known_kind() -> str:
    if (kind := form_text("kind")) not in _kinds():
        raise NotFound("not_found")
    return kind


def _add_again() -> Response:
    return _form("", kind := _known_kind(), forms.typed(kind))


@route("/channels/_new", allow=OWNERS, methods=("POST",), again=_add_again)
def add() -> BaseResponse:
    """Makes a channel."""
    typed = forms.typed(kind := _known_kind())
    if fault := second_factor_fault():
        return _form("", kind, typed, [Fault("", "second_factor", fault)])
    if faults := services().channel_editor.add(forms.table(kind, typed), Author(me().admin_id)):
        return _form("", kind, typed, faults)
    return done(f"{PATH}/{typed['name']}", _("The channel is there. Send a test before a journey uses it."))


@route("/channels/<name>", allow=EVERYONE)
def channel(name: str) -> Response:
    """One channel: its state, what it sent today, who uses it."""
    return _page(name)


def _page(name: str, faults: Sequence[Fault] = (), *, status: int = 200, doing: str = "") -> Response:
    return render(
        "admin/channels/channel.html", status=status, channel=services().channel_editor.channel(name), doing=doing,
        faults={fault.key: fault.reason for fault in faults}, blocking=_blocking(faults), number=form_text("number"),
        mailbox=services().admins.get(me().admin_id).email,
    )  # fmt: skip


@route("/channels/<name>/edit", allow=OWNERS)
def edit(name: str) -> Response:
    """The form of a channel."""
    found = services().channel_editor.channel(name)
    return _form(name, found.kind, forms.texts_of(found))


def _change_again(name: str) -> Response:
    """The form as it was sent; of its headers those that are stored, for typed ones are secrets."""
    found = services().channel_editor.channel(name)
    typed, stored = forms.typed(found.kind), forms.texts_of(found)
    return _form(name, found.kind, {**typed, **{key: stored[key] for key in ("headers",) if key in stored}})


@route("/channels/<name>/edit", allow=OWNERS, methods=("POST",), again=_change_again)
def change(name: str) -> BaseResponse:
    """Saves the form."""
    kind = services().channel_editor.channel(name).kind
    typed = {**forms.typed(kind), "name": name}
    if fault := second_factor_fault():
        return _form(name, kind, typed, [Fault("", "second_factor", fault)])
    based_on, author = form_text("based_on"), Author(me().admin_id)
    saving = services().channel_editor.change(name, forms.table(kind, typed), author, based_on=based_on)
    if not saving.is_done:
        return _form(name, kind, typed, saving.faults, saving.newer)
    return done(f"{PATH}/{name}", _("Saved. Every server uses it within two seconds."))


@route("/channels/<name>/switch", allow=OWNERS, methods=("POST",))
def switch(name: str) -> BaseResponse:
    """Puts a channel in use, or out of it."""
    is_active = form_text("active") == "1"
    if fault := second_factor_fault():
        return _page(name, [Fault("", "second_factor", fault)], status=422, doing="switch")
    if faults := services().channel_editor.switch(name, Author(me().admin_id), is_active=is_active):
        return _page(name, faults, status=422, doing="switch")
    return done(f"{PATH}/{name}", _("The channel is in use.") if is_active else _("The channel is off."))


@route("/channels/<name>/delete", allow=OWNERS)
def deleting(name: str) -> Response:
    """What deleting would do."""
    return _deleting(name)


@route("/channels/<name>/delete", allow=OWNERS, methods=("POST",))
def delete(name: str) -> BaseResponse:
    """Removes a channel for good."""
    if fault := second_factor_fault():
        return _deleting(name, [Fault("", "second_factor", fault)])
    if faults := services().channel_editor.delete(name, Author(me().admin_id)):
        return _deleting(name, faults)
    return done(PATH, _("The channel %(name)s is deleted, and its secrets with it.", name=name))


def _deleting(name: str, faults: Sequence[Fault] = ()) -> Response:
    return render(
        "admin/channels/delete.html", status=422 if faults else 200, channel=services().channel_editor.channel(name),
        faults={fault.key: fault.reason for fault in faults}, blocking=_blocking(faults),
    )  # fmt: skip


@route("/channels/<name>/test", allow=WRITERS, methods=("POST",))
def test(name: str) -> BaseResponse:
    """Sends a message to the admin."""
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
    """What the provider said."""
    found, seen = services().trials.trial(name, delivery_id), request.args.get("seen", 0, type=int)
    response = render("admin/channels/test.html", name=name, trial=found, is_waiting=seen < REFRESHES)
    if not found.is_over and seen < REFRESHES:
        response.headers["Refresh"] = f"2; url={PATH}/{name}/tests/{delivery_id}?seen={seen + 1}"
    return response


def _form(
    name: str, kind: str, texts: Mapping[str, str], faults: Sequence[Fault] = (), newer: Meanwhile | None = None
) -> Response:
    fields = (*forms.COMMON, *forms.FIELDS[kind], "second_factor")
    by_field = {fault.key.partition(".")[0]: fault.reason for fault in faults}
    stored = services().channel_editor.channel(name) if name else None
    now = stored.mark if stored else ""
    return render(
        "admin/channels/edit.html",
        status=409 if newer else 422 if faults else 200,
        name=name,
        kind=kind,
        values=texts,
        based_on=now if newer else form_text("based_on") or now,
        newer=newer,
        faults=by_field,
        others=[fault.reason for fault in faults if fault.key.partition(".")[0] not in fields],
        has_secrets=stored.secrets if stored else {},
    )


def _kinds() -> tuple[str, ...]:
    """The kinds that can be made here; those of the sandbox only where it is on."""
    return ("smtp", "clickatell", "http", *(("inbox", "console") if services().settings.has_sandbox else ()))


def _blocking(faults: Sequence[Fault]) -> list[str]:
    """What hangs on a channel and keeps it from being taken away: names of journeys, or the portal's settings."""
    return list(dict.fromkeys(fault.table for fault in faults if fault.table))
