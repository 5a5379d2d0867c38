"""How a view reaches the services of its process, and the cookie that holds a visit."""

from __future__ import annotations

from flask import Response, current_app, g, request

from auth_portal.services.access.admin_sessions import KEPT
from auth_portal.services.serving import Services

EXTENSION = "auth_portal"
VISIT_COOKIE = "verification"
ADMIN_COOKIE = "admin"
ADMIN_SECONDS = int(KEPT.total_seconds())  # longer than a session: it still tells whose form comes too late
SERVICES = "services"  # in ``g``: those of a test drive, where the request belongs to one
DRIVE = "drive"  # in ``g``: the drive's reference


def services() -> Services:
    """The services of this process, or of the test drive that this request belongs to."""
    found: Services = g.get(SERVICES) or current_app.extensions[EXTENSION]
    return found


def cookie_name(name: str) -> str:
    """A cookie's name here: under https browsers hold ``__Host-`` cookies to this very origin."""
    return f"__Host-{name}" if services().settings.is_https else name


def visit_cookie() -> str:
    """What this browser keeps: the token of its visit, behind the reference of a test drive where it is one's."""
    return request.cookies.get(cookie_name(VISIT_COOKIE), "")


def visit_token() -> str:
    """The token of this browser's visit, or nothing."""
    return visit_cookie().rpartition(".")[2]  # a token has no dots


def keep_visit(response: Response, token: str, seconds: int) -> None:
    """Gives the browser its visit, for as long as the chat clock."""
    is_secure = services().settings.is_https
    value = f"{g.get(DRIVE)}.{token}" if g.get(DRIVE) else token
    response.set_cookie(
        cookie_name(VISIT_COOKIE), value, max_age=seconds, secure=is_secure, httponly=True, samesite="Lax", path="/"
    )


def admin_token() -> str:
    """The token of this browser's admin session, or nothing."""
    return request.cookies.get(cookie_name(ADMIN_COOKIE), "")
