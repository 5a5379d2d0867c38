"""How a view reaches the services of its process, and the cookies that hold a visit and name a browser."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flask import current_app, g, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.services.access.admin_sessions import REMEMBERED
from auth_portal.services.serving import NOTHING_KNOWN, Services

EXTENSION = "auth_portal"
VISIT_COOKIE = "verification"
ADMIN_COOKIE = "admin"
VISITS = 4  # that a browser may hold at the same time; the oldest is dropped for a fifth
VISIT_SEPARATOR = "."  # of their tokens, which contain none; the newest is the last: 0.1.0 reads that one
_VISIT_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")
LINK_COOKIE = "link"  # tells the browsers apart that open a one-time link (R47)
LINK_COOKIE_LENGTH = 64  # characters that are read of it
LINK_COOKIE_SECONDS = 72 * 3600  # as long as the longest link, which is an admin's
ADMIN_SECONDS = int(REMEMBERED.total_seconds())  # longer than a session: a late form still belongs to an admin


def services() -> Services:
    """Return the services of this request: those of the process, unless a blueprint put others into ``g``."""
    found: Services = g.get("services") or current_app.extensions[EXTENSION]
    return found


def page_values() -> dict[str, object]:
    """Return what the pages that belong to no journey show of the business, also while the database is away."""
    found: Services | None = g.get("services") or current_app.extensions.get(EXTENSION)
    known = (found and found.journeys.known) or NOTHING_KNOWN
    return {
        "look": known.portal_look,
        "business": known.portal.name,
        "support": known.portal.support_contact,
    }


def cookie_name(name: str) -> str:
    """Return the cookie's name here: under https browsers hold ``__Host-`` cookies to this very origin."""
    return f"__Host-{name}" if services().settings.is_https else name


def visit_root() -> str:
    """Return the path in front of the customer's pages of this request: "" unless a blueprint mounts them elsewhere."""
    root: str = g.get("visit_root", "")
    return root


def visit_tokens() -> tuple[str, ...]:
    """Return the tokens of this browser's visits, the newest first. What cannot be one is left out."""
    sent = request.cookies.get(_visit_cookie(), "").rsplit(VISIT_SEPARATOR, 2 * VISITS)
    return tuple(dict.fromkeys(filter(_VISIT_TOKEN.fullmatch, reversed(sent))))[:VISITS]


def keep_visits(response: BaseResponse, tokens: Sequence[str], seconds: int) -> BaseResponse:
    """Give the browser its visits, the newest first, for as long as the longest chat clock. Return the response."""
    set_cookie(response, _visit_cookie(), VISIT_SEPARATOR.join(reversed(tokens[:VISITS])), seconds)
    return response


def set_cookie(response: BaseResponse, name: str, value: str, seconds: int) -> None:
    """Set a cookie by its name here (R27)."""
    is_secure = services().settings.is_https
    response.set_cookie(name, value, max_age=seconds, secure=is_secure, httponly=True, samesite="Lax", path="/")


def _visit_cookie() -> str:
    return cookie_name(g.get("visit_cookie", VISIT_COOKIE))


def admin_token() -> str:
    """Return the token of this browser's admin session, or ""."""
    return request.cookies.get(cookie_name(ADMIN_COOKIE), "")


def link_browser() -> str:
    """Return what tells this browser from others that open a one-time link, or "" if it has opened none yet."""
    return request.cookies.get(cookie_name(LINK_COOKIE), "")[:LINK_COOKIE_LENGTH]


def opened_here(browser: str) -> BaseResponse:
    """Show the page of a link again, which is open in this browser now, and let the browser be known again."""
    asked = g.get("asked_language")
    response = redirect(f"{request.path}?lang={asked}" if asked else request.path, 303)
    set_cookie(response, cookie_name(LINK_COOKIE), browser, LINK_COOKIE_SECONDS)
    return response
