"""Journeys: the list, one journey, its form and its versions. Every admin reads, owners change.

Other pages of a journey are in ``setup`` (Chat Flow and reach) and ``drive``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from flask import Response, make_response, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import complete_languages, field_name, language, lasting
from auth_portal.i18n import gettext as _
from auth_portal.services.config.changes import NOTE_LENGTH, Author, Newer, SaveResult
from auth_portal.services.config.file import BadConfig, Fault
from auth_portal.services.config.journey import PLACEHOLDERS, USUAL_RESULTS, JourneyConfig, default_success
from auth_portal.services.config.journey_editor import JourneyEdit, TextsForm
from auth_portal.services.config.rules import warnings_of, weaker_twins
from auth_portal.services.rehearsal.flow_setup import examples
from auth_portal.services.steps import ADDED, STEPS, HandOver
from auth_portal.web.admin import drive, journey_form
from auth_portal.web.admin.frame import (
    EVERYONE,
    OWNERS,
    accept_logo,
    done,
    form_text,
    me,
    render,
    route,
    second_factor_fault,
    sent_logo,
)
from auth_portal.web.admin.journey_form import TIMES, JourneyForm, values_of
from auth_portal.web.context import services
from auth_portal.web.edge import HEADERS

PATH = "/admin/journeys"
# An email has its styles in it; nothing else may be loaded or run.
MAIL_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
# The parts of a customer's way, as the page with its texts calls them.
PART_WORDS = {
    "own": "Name and your own words",
    "landing": "First page",
    "code": "Codes by SMS and email",
    "methods": "App, password, support",
    "steps": "Terms, questions, hand-over",
    "help": "Help, stopping, language",
    "done": "Last page",
    "errors": "Errors",
    "sms": "SMS",
    "email": "Email",
}
NEW = f"{PATH}/_new"  # no journey can have this name


@route("/journeys", allow=EVERYONE)
def journeys() -> Response:
    """Show all journeys, and whether customers can pass them.

    They are in the order of a column, "-" before its name for the largest first. What has no value there comes last.
    """
    snapshot = services().journeys.current()
    figures = {one.slug: one for one in services().overview.figures("day").journeys}
    found = [(one, snapshot.is_open(one.config)) for one in services().journey_history.journeys()]
    found.sort(key=lambda pair: pair[0].config.name.casefold())
    values: dict[str, dict[str, Any]] = {
        "name": {one.config.slug: one.config.name.casefold() for one, _is_open in found},
        "state": {one.config.slug: (is_open, not one.config.active) for one, is_open in found},
        "begun": {**dict.fromkeys(snapshot.journeys, 0), **{slug: one.begun for slug, one in figures.items()}},
        "verified": {slug: one.share for slug, one in figures.items() if one.share is not None},
    }
    order = request.args.get("sort", "")
    order = order if order.removeprefix("-") in values else "-begun"
    by = values[order.removeprefix("-")]
    valued = [pair for pair in found if pair[0].config.slug in by]
    valued.sort(key=lambda pair: by[pair[0].config.slug], reverse=order.startswith("-"))
    listed = valued + [pair for pair in found if pair[0].config.slug not in by]
    states = {
        "": listed,
        "on": [pair for pair in listed if pair[1]],
        "closed": [pair for pair in listed if pair[0].config.active and not pair[1]],
        "off": [pair for pair in listed if not pair[0].config.active],
        "unprotected": [pair for pair in listed if pair[0].config.is_unprotected],
    }
    state = request.args.get("state", "")
    return render(
        "admin/journeys/list.html",
        state=state if state in states else "",
        order=order,
        counts={name: len(found) for name, found in states.items()},
        journeys=states.get(state, listed),
        figures=figures,
    )


@route("/journeys/<slug>", allow=EVERYONE)
def journey(slug: str) -> Response:
    """Show one journey: what it does, what threatens it, and what can be done with it."""
    return _journey_page(slug, {})


def _journey_page(slug: str, faults: Mapping[str, str], *, status: int = 200) -> Response:
    found, snapshot = services().journey_history.journey(slug), services().journeys.current()
    return render(
        "admin/journeys/journey.html",
        status=status,
        slug=slug,
        journey=found.config,
        edition=found.edition,
        is_open=snapshot.is_open(found.config),
        weaker=weaker_twins(found.config, (now.config for now in snapshot.journeys.values())),
        warnings=list(warnings_of(found.config)),
        link=_link(found.config),
        examples=examples(found.config, services().settings.sandbox_url),
        handover_keys=_handover_keys(found.config) if me().is_owner else (),
        faults=faults,
        lines=lines_of(faults),
    )


def _link(journey: JourneyConfig) -> str:
    path = "/" if journey.default else f"/j/{journey.slug}"
    return f"{services().settings.public_url}{path}"


def _author() -> Author:
    return Author(me().admin_id, form_text("note"))


def _save(edit: JourneyEdit) -> tuple[SaveResult, dict[str, str]]:
    """Save an edit. Return the result, and the faults by field. The second factor is asked for last."""
    if len(edit.author.note) > NOTE_LENGTH:
        return SaveResult(), {"note": _("At most %(most)s characters.", most=NOTE_LENGTH)}
    result = services().configuration.propose(edit)
    if result.is_fine and result.changes:
        if result.is_guarded and (fault := second_factor_fault()):
            return result, {"second_factor": fault}
        result = services().configuration.save(edit)
    return result, faults_of(result.faults)


# --- The form


@route("/journeys/_new", allow=OWNERS)
def new() -> Response:
    """Show the form of a new journey."""
    snapshot = services().journeys.current()
    return _form_page(journey_form.of_new(name for name, one in snapshot.channels.items() if snapshot.may_use(one)))


def _again(slug: str | None = None) -> Response:
    """Show the form as it was sent."""
    based_on = request.form.get("based_on", 0, type=int)
    return _form_page(journey_form.of_form(request.form), slug=slug, based_on=based_on)


@route("/journeys/_new", allow=OWNERS, methods=("POST",), again=_again)
def create() -> BaseResponse:
    """Create a journey."""
    return _take_form(None, form_text("slug") or journey_form.slug_of(form_text("name")), {})


@route("/journeys/<slug>/edit", allow=OWNERS)
def edit(slug: str) -> Response:
    """Show the form of a journey as it is stored."""
    found = services().journey_history.journey(slug)
    return _form_page(journey_form.of_config(found.config), slug=slug, based_on=found.edition.number)


@route("/journeys/<slug>/edit", allow=OWNERS, methods=("POST",), again=_again)
def change(slug: str) -> BaseResponse:
    """Save the form as a new version."""
    return _take_form(slug, slug, journey_form.others_of(services().journey_history.journey(slug).config))


def _take_form(stored_slug: str | None, slug: str, others: Mapping[str, Any]) -> BaseResponse:
    based_on, act = request.form.get("based_on", 0, type=int), form_text("act")
    head, _dot, kind = act.partition(".")
    is_shown = head in ("add_step", "preview", "up", "down", "remove")
    typed = journey_form.of_form(request.form, has_empty=is_shown)
    if is_shown:
        shown = typed.with_step(kind if kind in STEPS else ADDED[0]) if head == "add_step" else typed
        shown = (
            shown.rearranged(head, int(kind) if kind.isdigit() else 0) if head not in ("add_step", "preview") else shown
        )
        return _form_page(shown, slug=stored_slug, based_on=based_on, has_preview=act == "preview")
    values = values_of(typed, slug, others)
    if act == "drive":
        return _drive(typed, values, stored_slug, based_on)
    if twice := typed.named_twice:
        result, faults = SaveResult(), faults_of([Fault("", "data", _("%(name)s appears twice", name=twice))])
    else:
        result, faults = _save(JourneyEdit(values, _author(), max(1, based_on) if stored_slug else 0))
    if faults or result.newer:
        if result.newer:  # what they changed and this form did not is in the form from here on
            both, _faults = services().journey_editor.read(result.newer.merged)
            based_on, note = result.newer.number, typed.fields.get("note", "")
            if both is not None:
                typed = journey_form.of_config(both)
                typed = replace(typed, fields={**typed.fields, "note": note})
        status = 409 if result.newer else 422
        return _form_page(typed, slug=stored_slug, based_on=based_on, faults=faults, newer=result.newer, status=status)
    return done(f"{PATH}/{slug}", _result_text(result))


def _drive(typed: JourneyForm, values: Mapping[str, Any], stored_slug: str | None, based_on: int) -> BaseResponse:
    """Start a test drive of what was typed, saved or not. If that is impossible, the form says why."""
    config, faults = services().journey_editor.read(values)
    if config is not None:
        try:
            return drive.begin_drive(config, "draft")
        except BadConfig as error:
            faults = [Fault("", fault.key, fault.reason) for fault in error.found]
    return _form_page(typed, slug=stored_slug, based_on=based_on, faults=faults_of(faults), status=422)


def _result_text(result: SaveResult) -> str:
    if not result.changes:
        return _("Nothing was different, so nothing was saved.")
    return _(
        "Saved as version %(number)s. It's live within two seconds. Verifications under way keep their version.",
        number=result.number + 1,
    )


def _handover_keys(journey: JourneyConfig) -> list[tuple[str, str]]:
    """Return the keys that other systems check the values of a hand-over with, by option."""
    last = journey.steps[-1]
    options = last.signed_options if isinstance(last, HandOver) else ()
    return [(option, services().keyring.shared_key("handover", journey.slug, option)) for option in options]


def _form_page(
    typed: JourneyForm,
    *,
    slug: str | None = None,
    based_on: int = 0,
    faults: Mapping[str, str] | None = None,
    newer: Newer | None = None,
    has_preview: bool = False,
    status: int = 200,
) -> Response:
    snapshot = services().journeys.current()
    known = snapshot.channels  # those in use; the form may name others that are off or deleted
    carried = {name: " + ".join(sorted(channel.message_kinds)) for name, channel in known.items()}
    if faults and "name" in faults and not typed.fields.get("slug"):  # it would be made from the name
        faults = {field: reason for field, reason in faults.items() if field != "slug"}
    return render(
        "admin/journeys/form.html",
        status=status,
        slug=slug,
        based_on=based_on,
        typed=typed,
        fields=typed.fields,
        faults=faults or {},
        lines=lines_of(faults or {}),
        newer=newer,
        settings=snapshot.portal,
        channels=sorted({**dict.fromkeys(typed.channels, ""), **carried}.items()),
        has_more=len(typed.channels) < len(known),
        has_sandbox=snapshot.has_sandbox,
        all_methods=list(services().methods),
        added_steps=[(kind, _(STEPS[kind].add_label)) for kind in ADDED],
        outcomes=typed.outcomes,
        usual_results=USUAL_RESULTS,
        limits=journey_form.limit_fields(),
        placeholders=PLACEHOLDERS,
        success=default_success({**typed.fields, "slug": slug or typed.slug}),
        preview=_preview(typed, slug) if slug or has_preview else None,
        action=f"{PATH}/{slug}/edit" if slug else NEW,
    )


# --- The texts


@route("/journeys/<slug>/texts", allow=EVERYONE)
def texts(slug: str) -> Response:
    """Show one part of a journey's texts in a language, ours and its own."""
    return _texts_page(slug, _asked_texts(slug, request.args))


def _asked_texts(slug: str, asked: Mapping[str, str]) -> tuple[str, str, TextsForm]:
    """Return the language and the part that are asked for, else the first, with their texts."""
    tag, part = asked.get("language", ""), asked.get("part", "")
    tag = tag if tag in complete_languages() else services().journeys.current().portal.language
    part = part if part in PART_WORDS else next(iter(PART_WORDS))
    return tag, part, services().journey_editor.texts(slug, tag, part)


def _typed_texts(form: TextsForm) -> dict[str, dict[str, str]]:
    """Return what was typed for each text, by plural category."""
    return {
        text.key: {category: " ".join(form_text(f"{text.id}.{category}").split()) for category in text.ours}
        for text in form.fields
    }


@route(
    "/journeys/<slug>/texts",
    allow=OWNERS,
    methods=("POST",),
    again=lambda slug: _texts_page(slug, asked := _asked_texts(slug, request.form), _typed_texts(asked[2])),
)
def change_texts(slug: str) -> BaseResponse:
    """Save the texts, give ours back, show the messages, or start a test drive with them."""
    asked = tag, part, form = _asked_texts(slug, request.form)
    typed, act = _typed_texts(form), form_text("act")
    if act == "back":
        typed = {key: {} for key in typed}
    values = {text.key: text.value(typed[text.key]) for text in form.fields}
    based_on = request.form.get("based_on", 0, type=int)
    words = services().journey_editor.worded(form, tag, values, _author(), max(1, based_on))
    if words.faults:
        return _texts_page(slug, asked, typed, words.faults)
    config, _faults = services().journey_editor.read(words.edit.values)
    if act in ("preview", "email", "drive") and config is not None:
        if act == "email":
            return _email_page(config, tag)
        return (
            _drive_texts(config, slug, asked, typed) if act == "drive" else _texts_page(slug, asked, typed, of=config)
        )
    result, of_fields = _save(words.edit)
    if of_fields or result.newer:
        shown = {text.key: typed[text.key] if text.key in words.changed else text.own for text in form.fields}
        stored = {
            text.key: _(
                "Another admin changed this, too. Stored now: %(text)s",
                text=" · ".join(text.own.values()) or _("our text"),
            )
            for text in form.fields
            if text.key in words.both
        }
        return _texts_page(slug, asked, shown, {**stored, **of_fields}, newer=result.newer)
    return done(f"{PATH}/{slug}/texts?language={tag}&part={part}", _result_text(result))


def _drive_texts(
    config: JourneyConfig, slug: str, asked: tuple[str, str, TextsForm], typed: Mapping[str, Mapping[str, str]]
) -> BaseResponse:
    try:
        return drive.begin_drive(config, "draft", asked[0])
    except BadConfig as error:
        return _texts_page(slug, asked, typed, faults_of([Fault("", found.key, found.reason) for found in error.found]))


def _email_page(config: JourneyConfig, tag: str) -> Response:
    """Return the email with a code as a mail program shows it: no script, nothing from elsewhere."""
    response = make_response(services().messages.preview(config, tag)[1].html)
    response.headers.update(HEADERS)
    response.headers["Content-Security-Policy"] = MAIL_POLICY
    return response


def _texts_page(
    slug: str,
    asked: tuple[str, str, TextsForm],
    typed: Mapping[str, Mapping[str, str]] | None = None,
    faults: Mapping[str, str] | None = None,
    *,
    newer: Newer | None = None,
    of: JourneyConfig | None = None,
) -> Response:
    tag, part, form = asked
    config = of or form.journey
    return render(
        "admin/journeys/texts.html",
        status=409 if newer else 422 if faults else 200,
        slug=slug,
        journey=form.journey,
        based_on=newer.number if newer else request.form.get("based_on", form.number, type=int),
        language=language(tag),
        part=part,
        parts=PART_WORDS,
        texts=form.fields,
        typed=typed,
        faults=faults or {},
        lines=lines_of({key: fault for key, fault in (faults or {}).items() if key == "second_factor" or not key}),
        newer=newer,
        own_counts={code: len(found) for code, found in form.journey.wording.items()},
        languages=[language(code) for code in complete_languages()],
        messages=[services().messages.preview(config, tag, pays=pays) for pays in (False, True)]
        if part in ("sms", "email")
        else [],
        is_preview=of is not None,
    )


# --- The preview


@route("/journeys/_preview", allow=OWNERS, methods=("POST",))
def preview() -> Response:
    """Show the part of the form that has the requests, for the script that refreshes it."""
    preview = _preview(journey_form.of_form(request.form), form_text("stored_slug") or None)
    return make_response(render_template("admin/journeys/preview.html", preview=preview))


def _preview(typed: JourneyForm, slug: str | None) -> dict[str, object]:
    """Return the two requests, or why there are none yet. Whether it may be saved is not checked."""
    config, faults = services().journey_editor.read(values_of(typed, slug or typed.slug, {}))
    if config is None:
        return {"lines": lines_of(faults_of(faults)), "examples": ()}
    return {"lines": (), "examples": examples(config, services().settings.sandbox_url)}


# --- Other acts


@route("/journeys/<slug>/active", allow=OWNERS, methods=("POST",))
def switch(slug: str) -> BaseResponse:
    """Switch a journey on or off."""
    is_active = form_text("active") == "1"
    _result, faults = _save(services().journey_editor.switched(slug, _author(), is_active=is_active))
    if faults:
        return _journey_page(slug, faults, status=422)
    text = (
        _("The journey is on. Customers can use it within two seconds.")
        if is_active
        else _(
            "The journey is off. Within two seconds its links show a closed page. Verifications under way continue.",
        )
    )
    return done(f"{PATH}/{slug}", text)


@route("/journeys/<slug>/copy", allow=OWNERS)
def copy_form(slug: str) -> Response:
    """Ask for the name of the copy."""
    return _copy_page(slug, f"{slug}-2"[:41], "", {})


def _copy_page(slug: str, new_slug: str, name: str, faults: Mapping[str, str]) -> Response:
    found = services().journey_history.journey(slug).config
    return render(
        "admin/journeys/copy.html",
        status=422 if faults else 200,
        slug=slug,
        journey=found,
        faults=faults,
        lines=lines_of(faults),
        new_slug=new_slug,
        name=name,
    )


@route(
    "/journeys/<slug>/copy",
    allow=OWNERS,
    methods=("POST",),
    again=lambda slug: _copy_page(slug, form_text("slug"), form_text("name"), {}),
)
def copy(slug: str) -> BaseResponse:
    """Make a copy, switched off."""
    new_slug, name = form_text("slug"), form_text("name")
    _result, faults = _save(services().journey_editor.copied(slug, new_slug, name, _author()))
    if faults:
        return _copy_page(slug, new_slug, name, faults)
    return done(f"{PATH}/{new_slug}", _("The copy was created. It's off until you switch it on."))


accept_logo("journeys_logo")


@route("/journeys/<slug>/logo", allow=OWNERS, methods=("POST",))
def logo(slug: str) -> BaseResponse:
    """Store a logo, or remove it."""
    which, content = sent_logo()
    if content is None:
        return _journey_page(slug, {which: _("choose a picture first")}, status=422)
    if fault := second_factor_fault():  # before the picture is stored
        return _journey_page(slug, {f"{which}_second_factor": fault}, status=422)
    try:
        edit = services().journey_editor.with_logo(slug, content, _author(), which=which)
    except ValueError as fault:
        return _journey_page(slug, {which: str(fault)}, status=422)
    _result, faults = _save(edit)
    if faults:
        return _journey_page(slug, faults, status=422)
    return done(f"{PATH}/{slug}", _("The logo was changed."))


@route("/journeys/<slug>/delete", allow=OWNERS)
def delete_form(slug: str) -> Response:
    """Show what deleting would do, and what is still in progress."""
    return _delete_page(slug)


def _delete_page(slug: str, fault: str = "") -> Response:
    found = services().journey_history.journey(slug).config
    unfinished = services().journey_editor.unfinished(slug)
    return render(
        "admin/journeys/delete.html",
        status=422 if fault else 200,
        slug=slug,
        journey=found,
        unfinished=unfinished,
        link=_link(found),
        fault=fault,
    )


@route("/journeys/<slug>/delete", allow=OWNERS, methods=("POST",))
def delete(slug: str) -> BaseResponse:
    """Delete a journey. What began under it ends under it."""
    if fault := second_factor_fault():
        return _delete_page(slug, fault)
    services().journey_editor.delete(slug, _author())
    return done(PATH, _("The journey was deleted. Verifications under way continue to their end."))


# --- Versions


@route("/journeys/<slug>/versions", allow=EVERYONE)
def versions(slug: str) -> Response:
    """Show who changed what, newest first."""
    found = services().journey_history.journey(slug)
    shown = services().journey_history.versions(slug, before=request.args.get("after", 0, type=int))
    return render(
        "admin/journeys/versions.html",
        slug=slug,
        journey=found.config,
        current=found.edition.number,
        versions=shown,
        older=shown[-1].edition.number if shown and shown[-1].edition.number > 1 else 0,
        is_first_page="after" not in request.args,
    )


@route("/journeys/<slug>/versions/<int:number>", allow=EVERYONE)
def version(slug: str, number: int) -> Response:
    """Show what a version changed, and what going back to it would change."""
    return _version_page(slug, number, {})


def _version_page(slug: str, number: int, faults: Mapping[str, str], *, status: int = 200) -> Response:
    found = services().journey_history.journey(slug)
    return render(
        "admin/journeys/version.html",
        status=status,
        slug=slug,
        journey=found.config,
        number=number,
        current=found.edition.number,
        version=services().journey_history.version(slug, number),
        changes=services().journey_history.differences(slug, number),
        faults=faults,
        lines=lines_of(faults),
    )


@route("/journeys/<slug>/versions/<int:number>", allow=OWNERS, methods=("POST",))
def roll_back(slug: str, number: int) -> BaseResponse:
    """Make a new version equal to an earlier one."""
    author = Author(me().admin_id, form_text("note") or _("back to version %(number)s", number=number))
    result, faults = _save(services().journey_editor.rolled_back(slug, number, author))
    if faults:
        return _version_page(slug, number, faults, status=422)
    return done(f"{PATH}/{slug}", _result_text(result))


# --- Faults in the form's words


def faults_of(found: Iterable[Fault]) -> dict[str, str]:
    """Return the reasons by the field they belong to; several of one field are joined."""
    faults: dict[str, str] = {}
    for fault in found:
        key, reason = fault.key, fault.words
        head, _colon, rest = reason.partition(": ")
        if not key and head in ("results", "relay_defence", "data"):
            key, reason = ("results.verified" if head == "results" else head), rest
        if key.startswith("data"):
            field, reason = "data", reason if key == "data" else f"{key.removeprefix('data.')} {reason}"
        else:
            field = re.sub(r"^(limits\.\w+|channels)\[\d+\]$", r"\1", key)
            if field.rpartition(".")[2] in TIMES:
                reason = time_reason(reason)
            if reason.startswith("must have at least") and field.startswith("steps"):
                reason = _("choose at least one")
            if reason.startswith("must have a verify step"):
                reason = _("choose how customers prove who they are: anyone can enter someone else's number or address")
        faults[field] = f"{faults[field]}; {reason}" if field in faults else reason
    return faults


def time_reason(reason: str) -> str:
    """Return what is wrong with a length of time that is stored in seconds."""
    if reason == "must be a whole number":
        return _("write it with its unit, such as 5 minutes or 90 seconds")
    bound = re.fullmatch(r"(must be at (?:least|most)) (\d+)", reason)
    return f"{bound[1]} {lasting(int(bound[2]))}" if bound else reason


def lines_of(faults: Mapping[str, str]) -> list[str]:
    """Return the faults as lines, each with the name of its field."""
    return [f"{field_name('journey', field)}: {reason}" if field else reason for field, reason in faults.items()]
