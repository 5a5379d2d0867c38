"""Journeys: the list, one journey, its making and changing, its versions. Everybody reads, owners change.

The pages below a journey that are not here: how to set it up in Chat Flow, whom it reaches, its test drive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response, make_response, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.services.config.file import BadConfig, Fault
from auth_portal.services.config.journey import OUTCOMES, PLACEHOLDERS, JourneyConfig, default_success
from auth_portal.services.config.journey_editor import Edit, Proposal
from auth_portal.services.config.journey_rows import Author
from auth_portal.services.config.rules import warnings_of
from auth_portal.services.config.strength import weaker_twins
from auth_portal.services.setup.journey_preview import examples
from auth_portal.web.admin import drive, journey_form
from auth_portal.web.admin.guard import EVERYONE, OWNERS, done, form_text, me, render, route, second_factor_fault
from auth_portal.web.admin.journey_form import Typed, faults_of, label_of, lines_of, values_of
from auth_portal.web.context import services

PATH = "/admin/journeys"
NEW = f"{PATH}/_new"  # no journey can have this name


@route("/journeys", allow=EVERYONE)
def journeys() -> Response:
    """All journeys, and whether customers get through."""
    snapshot = services().journeys.current()
    found = services().journey_history.journeys()
    return render("admin/journeys/list.html", journeys=[(listed, snapshot.is_open(listed.config)) for listed in found])


@route("/journeys/<slug>", allow=EVERYONE)
def journey(slug: str) -> Response:
    """One journey: what it does, what threatens it, and all that can be done with it."""
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
        faults=faults,
        lines=lines_of(faults),
    )


def _link(journey: JourneyConfig) -> str:
    path = "/" if journey.default else f"/j/{journey.slug}"
    return f"{services().settings.public_url}{path}"


def _author() -> Author:
    return Author(me().admin_id, form_text("note"))


def _saved(edit: Edit) -> tuple[Proposal, dict[str, str]]:
    """Saves an edit unless something is in its way; what that is, by field. The second factor is asked for last."""
    proposal = services().journey_editor.propose(edit)
    if proposal.is_fine and proposal.changes:
        if proposal.is_guarded and (fault := second_factor_fault()):
            return proposal, {"second_factor": fault}
        proposal = services().journey_editor.save(edit)
    return proposal, faults_of(proposal.faults)


# --- The form


@route("/journeys/_new", allow=OWNERS)
def new() -> Response:
    """The form of a new journey."""
    return _form_page(journey_form.of_new())


def _again(slug: str | None = None) -> Response:
    """The form as it was sent."""
    based_on = request.form.get("based_on", 0, type=int)
    return _form_page(journey_form.of_form(request.form), slug=slug, based_on=based_on)


@route("/journeys/_new", allow=OWNERS, methods=("POST",), again=_again)
def create() -> BaseResponse:
    """Makes a journey."""
    return _take_form(None, form_text("slug"), logo="")


@route("/journeys/<slug>/edit", allow=OWNERS)
def edit(slug: str) -> Response:
    """The form of a journey as it is stored."""
    found = services().journey_history.journey(slug)
    return _form_page(journey_form.of_config(found.config), slug=slug, based_on=found.edition.number)


@route("/journeys/<slug>/edit", allow=OWNERS, methods=("POST",), again=_again)
def change(slug: str) -> BaseResponse:
    """Saves the form as a new version."""
    return _take_form(slug, slug, logo=services().journey_history.journey(slug).config.logo)


def _take_form(stored_slug: str | None, slug: str, logo: str) -> BaseResponse:
    typed, based_on = journey_form.of_form(request.form), request.form.get("based_on", 0, type=int)
    act = form_text("act")
    if act in ("add_step", "preview"):
        shown = typed.with_step() if act == "add_step" else typed
        return _form_page(shown, slug=stored_slug, based_on=based_on, has_preview=act == "preview")
    values = values_of(typed, slug, logo)
    if act == "drive":
        return _drive(typed, values, stored_slug, based_on)
    edit = Edit(values, _author(), max(1, based_on) if stored_slug else 0)
    if twice := typed.named_twice:
        proposal, faults = Proposal(), faults_of([Fault("", "data", _("%(name)s is there twice", name=twice))])
    else:
        proposal, faults = _saved(edit)
    if faults or proposal.newer:
        based_on = proposal.number or based_on
        status = 409 if proposal.newer else 422
        return _form_page(typed, slug=stored_slug, based_on=based_on, faults=faults, newer=proposal, status=status)
    return done(f"{PATH}/{slug}", _told(proposal))


def _drive(typed: Typed, values: Mapping[str, Any], stored_slug: str | None, based_on: int) -> BaseResponse:
    """Drives what is typed, saved or not; where it cannot be driven the form says why."""
    config, faults = services().journey_editor.read(values)
    if config is not None:
        try:
            return drive.begun(config, "draft")
        except BadConfig as error:
            faults = [Fault("", fault.key, fault.reason) for fault in error.found]
    return _form_page(typed, slug=stored_slug, based_on=based_on, faults=faults_of(faults), status=422)


def _told(proposal: Proposal) -> str:
    if not proposal.changes:
        return _("Nothing was different, so nothing was saved.")
    return _(
        "Saved as version %(number)s. Every server has it within two seconds; what was begun goes on as it began.",
        number=proposal.number + 1,
    )


def _form_page(
    typed: Typed,
    *,
    slug: str | None = None,
    based_on: int = 0,
    faults: Mapping[str, str] | None = None,
    newer: Proposal | None = None,
    has_preview: bool = False,
    status: int = 200,
) -> Response:
    snapshot = services().journeys.current()
    return render(
        "admin/journeys/form.html",
        status=status,
        slug=slug,
        based_on=based_on,
        typed=typed,
        fields=typed.fields,
        faults=faults or {},
        lines=lines_of(faults or {}),
        newer=newer.newer if newer else None,
        label_of=label_of,
        channels=_channels(typed),
        has_sandbox=snapshot.has_sandbox,
        all_methods=list(services().methods),
        outcomes=OUTCOMES,
        placeholders=PLACEHOLDERS,
        success=default_success({**typed.fields, "slug": slug or typed.fields.get("slug", "")}),
        preview=_preview(typed, slug) if slug or has_preview else None,
        action=f"{PATH}/{slug}/edit" if slug else NEW,
    )


def _channels(typed: Typed) -> list[tuple[str, str]]:
    """Every channel in use with what it carries, and those named here that are off or gone."""
    known = services().journeys.current().channels
    names = sorted(known.keys() | typed.channels.keys())
    return [(name, " + ".join(sorted(known[name].message_kinds)) if name in known else "") for name in names]


# --- The preview


@route("/journeys/_preview", allow=OWNERS, methods=("POST",))
def preview() -> Response:
    """The part of the form's page that shows the requests, for the script that renews it."""
    preview = _preview(journey_form.of_form(request.form), form_text("stored_slug") or None)
    return make_response(render_template("admin/journeys/preview.html", preview=preview))


def _preview(typed: Typed, slug: str | None) -> dict[str, object]:
    """The two requests, or why there are none yet. Whether it may be saved is another question."""
    config, faults = services().journey_editor.read(values_of(typed, slug or typed.fields.get("slug", ""), logo=""))
    if config is None:
        return {"lines": lines_of(faults_of(faults)), "examples": ()}
    return {"lines": (), "examples": examples(config, services().settings.sandbox_url)}


# --- Other acts


@route("/journeys/<slug>/active", allow=OWNERS, methods=("POST",))
def switch(slug: str) -> BaseResponse:
    """Switches a journey on or off."""
    is_active = form_text("active") == "1"
    _proposal, faults = _saved(services().journey_editor.switched(slug, _author(), is_active=is_active))
    if faults:
        return _journey_page(slug, faults, status=422)
    text = _("It is on. Customers get through within two seconds.") if is_active else _(
        "It is off. Its page says so within two seconds, and tells the chat “unavailable”. What was begun goes on."
    )  # fmt: skip
    return done(f"{PATH}/{slug}", text)


@route("/journeys/<slug>/copy", allow=OWNERS)
def copy_form(slug: str) -> Response:
    """Asks for the name of the copy."""
    return _copy_page(slug, f"{slug}-2"[:41], "", {})


def _copy_page(slug: str, new_slug: str, name: str, faults: Mapping[str, str]) -> Response:
    found = services().journey_history.journey(slug).config
    return render(
        "admin/journeys/copy.html", status=422 if faults else 200, slug=slug, journey=found, faults=faults,
        lines=lines_of(faults), new_slug=new_slug, name=name,
    )  # fmt: skip


@route(
    "/journeys/<slug>/copy", allow=OWNERS, methods=("POST",),
    again=lambda slug: _copy_page(slug, form_text("slug"), form_text("name"), {}),
)  # fmt: skip
def copy(slug: str) -> BaseResponse:
    """Makes a copy, switched off."""
    new_slug, name = form_text("slug"), form_text("name")
    _proposal, faults = _saved(services().journey_editor.copied(slug, new_slug, name, _author()))
    if faults:
        return _copy_page(slug, new_slug, name, faults)
    return done(f"{PATH}/{new_slug}", _("The copy is made. It is off until you switch it on."))


@route("/journeys/<slug>/logo", allow=OWNERS, methods=("POST",))
def logo(slug: str) -> BaseResponse:
    """Takes a picture, or takes it away."""
    given = request.files.get("logo")
    content = given.read() if given and form_text("act") != "remove" else b""
    if not content and form_text("act") != "remove":
        return _journey_page(slug, {"logo": _("choose a picture first")}, status=422)
    try:
        edit = services().journey_editor.with_logo(slug, content, _author())
    except ValueError as fault:
        return _journey_page(slug, {"logo": str(fault)}, status=422)
    _proposal, faults = _saved(edit)
    if faults:
        return _journey_page(slug, faults, status=422)
    return done(f"{PATH}/{slug}", _("The logo is changed."))


@route("/journeys/<slug>/delete", allow=OWNERS)
def delete_form(slug: str) -> Response:
    """Says what deleting would do, with what hangs on it."""
    found = services().journey_history.journey(slug).config
    hanging = services().journey_editor.hanging(slug)
    return render("admin/journeys/delete.html", slug=slug, journey=found, hanging=hanging, link=_link(found))


@route("/journeys/<slug>/delete", allow=OWNERS, methods=("POST",))
def delete(slug: str) -> BaseResponse:
    """Deletes a journey. What was begun ends under it."""
    services().journey_editor.delete(slug, _author())
    return done(PATH, _("The journey is deleted. What was begun with it ends as it began."))


# --- Versions


@route("/journeys/<slug>/versions", allow=EVERYONE)
def versions(slug: str) -> Response:
    """Who changed what, newest first."""
    found = services().journey_history.journey(slug)
    shown = services().journey_history.versions(slug, before=request.args.get("after", 0, type=int))
    return render(
        "admin/journeys/versions.html", slug=slug, journey=found.config, current=found.edition.number, versions=shown,
        label_of=label_of, older=shown[-1].edition.number if shown and shown[-1].edition.number > 1 else 0,
        is_first_page="after" not in request.args,
    )  # fmt: skip


@route("/journeys/<slug>/versions/<int:number>", allow=EVERYONE)
def version(slug: str, number: int) -> Response:
    """What going back to a version would change."""
    return _version_page(slug, number, {})


def _version_page(slug: str, number: int, faults: Mapping[str, str], *, status: int = 200) -> Response:
    found = services().journey_history.journey(slug)
    return render(
        "admin/journeys/version.html", status=status, slug=slug, journey=found.config, number=number,
        current=found.edition.number, changes=services().journey_history.differences(slug, number),
        label_of=label_of, faults=faults, lines=lines_of(faults),
    )  # fmt: skip


@route("/journeys/<slug>/versions/<int:number>", allow=OWNERS, methods=("POST",))
def roll_back(slug: str, number: int) -> BaseResponse:
    """Makes a new version that says what an earlier one said."""
    author = Author(me().admin_id, form_text("note") or _("back to version %(number)s", number=number))
    proposal, faults = _saved(services().journey_editor.rolled_back(slug, number, author))
    if faults:
        return _version_page(slug, number, faults, status=422)
    return done(f"{PATH}/{slug}", _told(proposal))
