"""Where a customer follows a one-time link: a new password, or an authenticator app. GET uses nothing up (R31)."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, Response, g, make_response, render_template, request, session
from flask_wtf.csrf import CSRFError

from auth_portal.errors import Problem
from auth_portal.i18n import gettext as _
from auth_portal.services.directory.credential_links import Offer
from auth_portal.web.admin.qr import enrolment
from auth_portal.web.context import services
from auth_portal.web.edge import problem_page

credentials = Blueprint("credentials", __name__)
FORM_SECONDS = 3600  # how long a form may lie open: choosing a password or finding an app takes its time


@credentials.get("/credentials/<token>")
def offer(token: str) -> Response:
    """Says what the link is for and shows its form."""
    return _page(services().credential_links.offer(token), {})


@credentials.post("/credentials/<token>")
def follow(token: str) -> Response:
    """Sets what the link is for."""
    links = services().credential_links
    offered = links.offer(token)
    if offered.kind == "password":
        faults = links.set_password(token, request.form.get("password", ""), request.form.get("repeated", ""))
    else:
        faults = links.enrol(token, request.form.get("code", ""))
    if faults:
        return _page(offered, faults, status=422)
    return _rendered("visitor/credential_set.html", 200, offer=offered)


@credentials.errorhandler(CSRFError)
def without_cookie(_error: CSRFError) -> Response:
    """A form without its cookie, or an old one: the page comes again with a fresh token."""
    note = _("Your browser did not send back what it was given with this page. Please try once more; nothing was lost.")
    try:
        offered = services().credential_links.offer((request.view_args or {}).get("token", ""))
        return _page(offered, {"form": note}, status=400)
    except Problem as problem:  # raised in an error handler, nobody else would make it a page
        return problem_page(problem)


def _page(offered: Offer, faults: Mapping[str, str], *, status: int = 200) -> Response:
    if offered.kind == "password":
        return _rendered("visitor/set_password.html", status, offer=offered, faults=faults)
    app = enrolment(offered.seed, offered.account)
    return _rendered("visitor/enrol_app.html", status, offer=offered, faults=faults, app=app)


def _rendered(template: str, status: int, **values: object) -> Response:
    g.chat_seconds = FORM_SECONDS
    session.modified = True
    portal = services().journeys.current().portal
    return make_response(render_template(template, portal=portal, path=request.path, **values), status)
