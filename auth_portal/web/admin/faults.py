"""What an admin sees when something is refused or broken: what happened, and what to do next."""

from __future__ import annotations

from flask import Response
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException

from auth_portal.errors import Problem, TooMany
from auth_portal.i18n import error_text
from auth_portal.web.admin.guard import admin, render
from auth_portal.web.edge import HTTP_CODES


@admin.errorhandler(Problem)
def problem(problem: Problem) -> Response:
    """The page of a refused request."""
    response = _page(problem.code, problem.status)
    if isinstance(problem, TooMany):
        response.headers["Retry-After"] = str(problem.retry_after_seconds)
    return response


@admin.errorhandler(CSRFError)
def form_too_old(_error: CSRFError) -> Response:
    """A form whose cookie is gone or of another sign-in."""
    return _page("admin_csrf", 400)


@admin.errorhandler(HTTPException)
def http_error(error: HTTPException) -> Response:
    """What Flask itself refuses."""
    status = error.code or 500
    response = _page(HTTP_CODES.get(status, "bad_request"), status)
    if allow := error.get_response().headers.get("Allow"):
        response.headers["Allow"] = allow
    return response


def _page(code: str, status: int) -> Response:
    return render("admin/problem.html", status=status, text=_admin_text(code), code=code)


def _admin_text(code: str) -> str:
    """The sentence for admins; the customers' own ones speak of the chat."""
    return error_text(f"admin_{code}" if code in ("not_found", "method_not_allowed", "cross_site") else code)
