"""How a view reaches the services of its process, and the cookie that holds a visit."""

from __future__ import annotations

from flask import current_app, g, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.services.access.admin_sessions import REMEMBERED
from auth_portal.services.serving import Services

EXTENSION = "auth_portal"
VISIT_COOKIE = "verification"
ADMIN_COOKIE = "admin"
ADMIN_SECONDS = int(REMEMBERED.total_seconds())  # longer than a session: a late form still belongs to an admin


def services() -> Services:
    """Return the services of this request: those of the process, unless a blueprint put others into ``g``."""
    found: Services = g.get("services") or current_app.extensions[EXTENSION]
    return found


def cookie_name(name: str) -> str:
    """Return the cookie's name here: under https browsers hold ``__Host-`` cookies to this very origin."""
    return f"__Host-{name}" if services().settings.is_https else name


def visit_root() -> str:
    """Return the path in front of the customer's pages of this request: "" unless a blueprint mounts them elsewhere."""
    root: str = g.get("visit_root", "")
    return root


def visit_token() -> str:
    """Return the token of this browser's visit, or ""."""
    return request.cookies.get(_visit_cookie(), "")


def keep_visit(response: BaseResponse, token: str, seconds: int) -> BaseResponse:
    """Give the browser its visit, for as long as the chat clock. Return the response."""
    is_secure = services().settings.is_https
    response.set_cookie(
        _visit_cookie(), token, max_age=seconds, secure=is_secure, httponly=True, samesite="Lax", path="/"
    )
    return response


def _visit_cookie() -> str:
    return cookie_name(g.get("visit_cookie", VISIT_COOKIE))


def admin_token() -> str:
    """Return the token of this browser's admin session, or ""."""
    return request.cookies.get(cookie_name(ADMIN_COOKIE), "")
