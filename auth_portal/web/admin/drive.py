"""Test drives: an admin is the customer of a journey, and sees the codes and what the chat would hear."""

from __future__ import annotations

from urllib.parse import quote

from flask import Response, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.services.config.file import BadConfig
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.web.admin.guard import WRITERS, done, form_text, me, render, route
from auth_portal.web.context import services

REFRESH_SECONDS = 3  # while the chat waits; the page has nothing to type in then


@route("/journeys/<slug>/drive", allow=WRITERS)
def start(slug: str) -> Response:
    """Says what a test drive is, and begins one."""
    return render("admin/setup/drive_start.html", journey=services().journeys.current().journey(slug).config, faults=[])


@route("/journeys/<slug>/drive", allow=WRITERS, methods=("POST",))
def begin(slug: str) -> BaseResponse:
    """Begins a drive of the journey as it is live."""
    journey = services().journeys.current().journey(slug).config
    try:
        return begun(journey, "live")
    except BadConfig as error:  # without the places of a file that nobody wrote
        reasons = [fault.reason for fault in error.found]
        return render("admin/setup/drive_start.html", status=422, journey=journey, faults=reasons)


def begun(journey: JourneyConfig, of: str) -> BaseResponse:
    """Leads to a new drive of a journey, saved or not. Raises BadConfig where it could not be live."""
    drive_id = services().drives.begin(me().admin_id, journey, of)
    return done(_path(journey.slug, drive_id), _("The test drive has begun. Tap the link in the chat."))


@route("/journeys/<slug>/drive/<drive_id>", allow=WRITERS)
def chat(slug: str, drive_id: str) -> Response:
    """The chat of a drive, its codes, and what Flow would have received."""
    view = services().drives.look(drive_id, me().admin_id)
    is_live = "live" in request.args  # then script fetches the page anew
    response = render(
        "admin/setup/drive.html",
        drive=view,
        path=_path(slug, drive_id),
        is_live=is_live,
        is_stored=slug in services().journeys.current().journeys,
    )
    if view.stage == "waiting" and not is_live:
        response.headers["Refresh"] = str(REFRESH_SECONDS)
    return response


@route("/journeys/<slug>/drive/<drive_id>/code", allow=WRITERS, methods=("POST",))
def type_code(slug: str, drive_id: str) -> BaseResponse:
    """Types the chat code into the chat."""
    services().drives.type_code(drive_id, me().admin_id, form_text("typed"))
    return redirect(_path(slug, drive_id, live=form_text("live")), 303)


@route("/journeys/<slug>/drive/<drive_id>/again", allow=WRITERS, methods=("POST",))
def ask_again(slug: str, drive_id: str) -> BaseResponse:
    """Lets the flow ask once more with the same reference."""
    services().drives.ask_again(drive_id, me().admin_id)
    return redirect(_path(slug, drive_id, live=form_text("live")), 303)


@route("/journeys/<slug>/drive/<drive_id>/end", allow=WRITERS, methods=("POST",))
def end(slug: str, drive_id: str) -> BaseResponse:
    """Ends a drive."""
    services().drives.end(drive_id, me().admin_id)
    return done(f"/admin/journeys/{quote(slug)}/drive", _("The test drive is over. Nothing of it was kept."))


def _path(slug: str, drive_id: str, live: str = "") -> str:
    return f"/admin/journeys/{quote(slug)}/drive/{quote(drive_id)}{'?live=1' if live else ''}"
