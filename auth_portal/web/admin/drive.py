"""Test drives: an admin plays the customer of a journey, and sees the codes and what the chat would receive.

The customer's pages are mounted a second time, below ``/drive/<drive_id>``, where the drive's own portal serves them.
So no customer's request is ever checked for a drive, and a drive's pages open only in its admin's browser.
"""

from __future__ import annotations

from contextlib import ExitStack
from http import HTTPStatus
from urllib.parse import quote

from flask import Blueprint, Response, g, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import Gone
from auth_portal.i18n import gettext as _
from auth_portal.services.config.file import BadConfig
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.web.admin.frame import WRITERS, done, form_text, me, render, route, sender
from auth_portal.web.context import services
from auth_portal.web.edge import may_send
from auth_portal.web.visitor import visitor

REFRESH_SECONDS = 3  # while the chat waits; the page has nothing to type in then


@route("/journeys/<slug>/drive", allow=WRITERS)
def start(slug: str) -> Response:
    """Show what a test drive is, and the button that begins one."""
    return render("admin/setup/drive_start.html", journey=services().journeys.current().journey(slug).config, faults=[])


@route("/journeys/<slug>/drive", allow=WRITERS, methods=("POST",))
def begin(slug: str) -> BaseResponse:
    """Begin a drive of the journey as it is live."""
    journey = services().journeys.current().journey(slug).config
    try:
        return begin_drive(journey, "live")
    except BadConfig as error:  # the reasons alone: there is no file to point to
        reasons = [fault.reason for fault in error.found]
        return render("admin/setup/drive_start.html", status=422, journey=journey, faults=reasons)


def begin_drive(journey: JourneyConfig, of: str, locale: str = "") -> BaseResponse:
    """Redirect to a new drive of a journey, saved or not, in a language if its link shall ask for one.

    Raise BadConfig if the journey could not be live.
    """
    drive_id = services().drives.begin(me().admin_id, journey, of, locale)
    return done(_path(journey.slug, drive_id), _("The test drive has begun. Tap the link in the chat."))


@route("/journeys/<slug>/drive/<drive_id>", allow=WRITERS)
def chat(slug: str, drive_id: str) -> Response:
    """Show the chat of a drive, its codes, and what Flow would have received."""
    view = services().drives.look(drive_id, me().admin_id)
    is_live = "live" in request.args  # then a script fetches the page again
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
    """Type the chat code into the chat."""
    services().drives.type_code(drive_id, me().admin_id, form_text("typed"))
    return redirect(_path(slug, drive_id, live=form_text("live")), 303)


@route("/journeys/<slug>/drive/<drive_id>/again", allow=WRITERS, methods=("POST",))
def ask_again(slug: str, drive_id: str) -> BaseResponse:
    """Let the flow ask once more with the same reference."""
    services().drives.ask_again(drive_id, me().admin_id)
    return redirect(_path(slug, drive_id, live=form_text("live")), 303)


@route("/journeys/<slug>/drive/<drive_id>/end", allow=WRITERS, methods=("POST",))
def end(slug: str, drive_id: str) -> BaseResponse:
    """End a drive."""
    services().drives.end(drive_id, me().admin_id)
    return done(f"/admin/journeys/{quote(slug)}/drive", _("The test drive is over. All of it was deleted."))


# --- The customer's pages of a drive

pages = Blueprint("drive", __name__, url_prefix="/drive/<drive_id>")
pages.register_blueprint(visitor)
may_send[pages.name] = lambda: sender() is not None


@pages.url_value_preprocessor
def mount(_endpoint: str | None, values: dict[str, str] | None) -> None:
    """Keep links, redirects and the visit of these pages apart from those of customers."""
    assert values is not None  # only a matched route gets here
    g.drive_id = values.pop("drive_id")
    g.visit_root = f"/drive/{quote(g.drive_id)}"
    g.visit_cookie = "drive"  # one name is enough: an admin has one drive at a time


@pages.before_request
def enter() -> None:
    """Serve this request from the drive's own portal. Raise Gone unless it is a live drive of the signed-in admin."""
    admin = sender()
    if admin is None:
        raise Gone("drive_over")
    stack = ExitStack()
    world = stack.enter_context(services().drives.open(g.drive_id, admin.admin_id))
    g.drive_world = stack
    g.is_test_drive = True
    g.services = world.portal


@pages.after_request
def settle(response: Response) -> Response:
    """Deliver what is due in the drive and store its state, before the response is sent; not after a fault."""
    if response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        stack: ExitStack | None = g.pop("drive_world", None)
        if stack is not None:
            stack.close()
    return response


@pages.teardown_request
def release(error: BaseException | None) -> None:
    """Free the drive, and store nothing, where a fault prevented ``settle``."""
    stack: ExitStack | None = g.pop("drive_world", None)
    if stack is not None:
        fault = error or RuntimeError("the request was left")
        try:
            stack.__exit__(type(fault), fault, fault.__traceback__)
        except type(fault):
            return


def _path(slug: str, drive_id: str, live: str = "") -> str:
    return f"/admin/journeys/{quote(slug)}/drive/{quote(drive_id)}{'?live=1' if live else ''}"
