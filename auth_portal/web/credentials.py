"""Where a customer follows a one-time link: a new password, or an authenticator app. GET uses nothing up (R31).

The first page of a link has a button that opens it in this browser. Only then is there a form, with a fresh seed for
each view (R47): what a link preview fetches shows no secret, and a second browser does not go unnoticed.

The QR code that the app scans is drawn on the server. What draws it is loaded by the first page that shows one: most
workers never do.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

from flask import Blueprint, Response, g, make_response, render_template, request, session
from flask_wtf.csrf import CSRFError
from markupsafe import Markup
from pyotp import TOTP
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import Problem
from auth_portal.i18n import gettext as _
from auth_portal.services.directory.links import LinkOffer
from auth_portal.services.directory.person import LinkView
from auth_portal.web.context import link_browser, opened_here, page_values, services
from auth_portal.web.edge import language_url, problem_page

credentials = Blueprint("credentials", __name__)
FORM_SECONDS = 3600  # how long a form may stay open: choosing a password or finding an app takes time
WITHOUT_COOKIE = "Your browser didn't send our cookie. Try again."
MODULE_PIXELS = 5
QUIET_ZONE = 4  # modules around the code (ISO/IEC 18004)
ACCOUNT_LENGTH = 64  # characters of an account: with the longest portal name they fit into a code, in any script


@credentials.get("/credentials/<token>")
def offer(token: str) -> Response:
    """Show what the link is for, and its form once the link was opened in this browser."""
    return _page(services().credential_links.offer(token, link_browser()), {})


@credentials.post("/credentials/<token>")
def follow(token: str) -> BaseResponse:
    """Open the link in this browser, decline it, or set the password or the app that it is for."""
    links, browser, form = services().credential_links, link_browser(), request.form
    if form.get("open"):
        return opened_here(links.open(token, browser))
    if form.get("decline"):
        links.decline(token, browser)
        return _rendered("visitor/link_declined.html", 200)
    offered = links.offer(token, browser)
    if not offered.view.is_open:
        return _page(offered, {"form": _(WITHOUT_COOKIE)}, status=400)
    if offered.kind == "password":
        faults = links.set_password(token, browser, form.get("password", ""), form.get("repeated", ""))
    else:
        faults = links.enrol(token, browser, form.get("seed", ""), form.get("code", ""))
    if faults:
        return _page(offered, faults, status=422)
    return _rendered("visitor/credential_set.html", 200, offer=offered)


@credentials.errorhandler(CSRFError)
def without_cookie(_error: CSRFError) -> Response:
    """Show a form that came without its cookie, or with an old one, again with a fresh token."""
    try:
        offered = services().credential_links.offer((request.view_args or {}).get("token", ""), link_browser())
        return _page(offered, {"form": _(WITHOUT_COOKIE)}, status=400)
    except Problem as problem:  # raised in an error handler, nothing else would make it a page
        return problem_page(problem)


def _page(offered: LinkOffer, faults: Mapping[str, str], *, status: int = 200) -> Response:
    if not offered.view.is_open:
        return _rendered("visitor/open_link.html", status, offer=offered, faults=faults)
    if offered.kind == "password":
        return _rendered("visitor/set_password.html", status, offer=offered, faults=faults)
    app = enrolment(offered.view, offered.account)
    return _rendered("visitor/enrol_app.html", status, offer=offered, faults=faults, app=app)


def _rendered(template: str, status: int, **values: object) -> Response:
    g.chat_seconds = FORM_SECONDS
    session.modified = True
    portal = services().journeys.current().portal
    path = request.path + (f"?lang={g.asked_language}" if g.asked_language else "")
    values = {**page_values(), "portal": portal, "path": path, "language_url": language_url(), **values}
    return make_response(render_template(template, **values), status)


# --- The QR code


@dataclass(frozen=True)
class Enrolment:
    """What a page shows to enrol an authenticator app."""

    svg: Markup
    key: str  # in groups of four, for typing
    uri: str
    sealed: str  # the key, for a hidden field of the form


def enrolment(view: LinkView, account: str) -> Enrolment:
    """Return how to enrol an app under an account's name: with the seed of a form that comes back, or a fresh one."""
    keyring = services().keyring
    shown = view.shown_seed(keyring, request.form.get("seed", "")) or view.fresh_seed(keyring)
    seed = shown.seed
    issuer = services().journeys.current().portal.name
    uri = TOTP(seed).provisioning_uri(name=account[:ACCOUNT_LENGTH] or issuer, issuer_name=issuer)
    drawn = BytesIO()
    # light='#fff': on a dark page a scanner needs the white around it.
    importlib.import_module("segno").make(uri, error="m").save(
        drawn,
        kind="svg",
        scale=MODULE_PIXELS,
        border=QUIET_ZONE,
        dark="#000",
        light="#fff",
        xmldecl=False,
        svgns=False,
        svgclass="qr",
        lineclass=None,
        title=_("QR code"),
        omitsize=False,
    )
    svg = Markup(drawn.getvalue().decode())  # nosec B704  # noqa: S704 -- drawn here, from a seed
    return Enrolment(svg, " ".join(seed[start : start + 4] for start in range(0, len(seed), 4)), uri, shown.sealed)
