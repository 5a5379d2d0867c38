"""Everything between the network and a view: hops, hosts, request ids, CSRF, headers, error pages.

It trusts exactly the proxies that the settings name, and fails closed: a request whose client cannot be told, whose
Host is not ours, or which another site sent, does not reach a view.
"""

from __future__ import annotations

import io
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

from flask import Flask, Request, Response, current_app, g, render_template, request
from flask.sessions import SecureCookieSession, SessionInterface, SessionMixin
from flask_wtf.csrf import CSRFError, CSRFProtect
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from auth_portal.errors import Problem, TooMany
from auth_portal.i18n import error_text
from auth_portal.settings import LOOPBACK_NAMES
from auth_portal.telemetry import log_event, request_id
from auth_portal.web.api.problems import is_api, problem_details
from auth_portal.web.context import ADMIN_SECONDS, EXTENSION, admin_token, services

LARGE_PIECE = 256 * 1024  # bytes of a large request that are looked at together; fields beside its file fit in
LARGEST_REQUEST = 64 * 1024  # bytes; the longest honest form is far below
HSTS_SECONDS = 2 * 365 * 24 * 3600
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex, nofollow",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
HTTP_CODES = {
    404: "not_found", 405: "method_not_allowed", 413: "too_large", 400: "bad_request", 415: "media_type",
}  # fmt: skip
EVERY_HOST = frozenset({"ops.healthz"})
DEFAULT_CHAT_SECONDS = 600
_CSRF_TOKEN = re.compile(r"[0-9a-f]{40}")  # as Flask-WTF makes it
csrf = CSRFProtect()


@dataclass(frozen=True)
class LargeRequest:
    """An endpoint that takes more than others, from whoever may send that: asked before anything is read."""

    most_bytes: int
    is_allowed: Callable[[], bool]


large_requests: dict[str, LargeRequest] = {}  # by endpoint; its own module says so


class PortalRequest(Request):
    """A request whose files stay in memory: one on disk would lie there as it was sent, unsealed."""

    def _get_file_stream(
        self, total_content_length: int | None, content_type: str | None, filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:  # fmt: skip
        return io.BytesIO()


class CsrfCookie(SessionInterface):
    """The cookie ``csrf``: a random token alone, living as long as the chat clock.

    Flask-WTF keeps its token in Flask's session; this session holds nothing else, so it needs neither Flask's
    signature nor its packing. What a form carries is the same token signed with the portal's key.
    """

    def get_cookie_name(self, app: Flask) -> str:
        """The name, with its prefix under https."""
        return "__Host-csrf" if app.config["SESSION_COOKIE_SECURE"] else "csrf"

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession:
        """What the browser sent, where it is a token at all."""
        token = request.cookies.get(self.get_cookie_name(app), "")
        return SecureCookieSession({"csrf_token": token} if _CSRF_TOKEN.fullmatch(token) else None)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Gives the token to the browser anew with each page that begins a visit."""
        if session.modified and (token := session.get("csrf_token")):
            response.set_cookie(
                self.get_cookie_name(app), token, max_age=_csrf_seconds(), path="/",
                secure=app.config["SESSION_COOKIE_SECURE"], httponly=True, samesite="Lax",
            )  # fmt: skip


def _csrf_seconds() -> int:
    """As long as the chat clock; in an admin's browser a customer's page must not cut the admin's own forms short."""
    seconds: int = g.get("chat_seconds", DEFAULT_CHAT_SECONDS)
    return max(seconds, ADMIN_SECONDS) if admin_token() else seconds


def register(app: Flask) -> None:
    """Puts the edge around an app. Nothing here needs keys or a database yet."""
    app.session_interface = CsrfCookie()
    app.request_class = PortalRequest
    app.url_map.merge_slashes = False  # its redirect would name a scheme and host that only nginx knows
    app.config.update(
        MAX_CONTENT_LENGTH=LARGEST_REQUEST,
        MAX_FORM_MEMORY_SIZE=LARGEST_REQUEST,
        SESSION_COOKIE_SECURE=False,
        # Our referrer policy removes the Referer that Flask-WTF would demand under https; Sec-Fetch-Site stands in.
        WTF_CSRF_SSL_STRICT=False,
        WTF_CSRF_TIME_LIMIT=None,
        WTF_CSRF_CHECK_DEFAULT=False,
    )
    csrf.init_app(app)
    app.before_request(_enter)
    app.after_request(_leave)
    app.teardown_request(_forget)
    app.register_error_handler(Problem, problem_page)
    app.register_error_handler(CSRFError, _csrf_page)
    app.register_error_handler(HTTPException, _http_page)
    app.register_error_handler(Exception, _fault_page)


def serve_with(app: Flask, *, is_https: bool, session_key: bytes) -> None:
    """What the edge needs from a process that serves."""
    app.config["SESSION_COOKIE_SECURE"] = is_https
    app.secret_key = session_key


def _enter() -> Response | None:
    g.began = time.perf_counter()
    request_id.set(secrets.token_hex(8))
    if EXTENSION not in current_app.extensions:
        raise Problem("unavailable", status=503)
    if request.endpoint in EVERY_HOST:
        return None  # a probe comes without our Host and without a proxy in front
    g.address = client_address()
    if not _is_our_host():
        raise Problem("bad_host", status=400)
    if "\0" in request.path:
        raise Problem("not_found", status=404)  # PostgreSQL takes it in no text, so nothing can have such a name
    if request.method not in ("GET", "HEAD", "OPTIONS", "TRACE"):
        large = large_requests.get(request.endpoint or "")
        if large is not None and large.is_allowed():
            request.max_content_length = large.most_bytes
            request.max_form_memory_size = LARGE_PIECE
        _refuse_other_sites()
    return None


def client_address() -> str:
    """The client's address, from the trusted hop alone (R38). Raises Problem where no hop tells it."""
    hops = services().settings.trusted_proxies or 0
    if hops == 0:
        address = request.environ.get("REMOTE_ADDR", "")
    else:
        forwarded = request.headers.get("X-Forwarded-For", "").split(",")
        address = forwarded[-hops].strip() if len(forwarded) >= hops else ""
    try:
        return str(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        # A unix socket without a trusted hop, or a proxy that does not say: nobody's limits could be counted.
        log_event("client_unknown", level=logging.ERROR, hops=hops)
        raise Problem("unavailable", status=503) from None


def _is_our_host() -> bool:
    settings = services().settings
    if request.host == settings.netloc:
        return True
    host, _, port = request.host.rpartition(":") if ":" in request.host.rpartition("]")[2] else (request.host, "", "")
    ours, _, our_port = settings.netloc.partition(":") if "[" not in settings.netloc else (settings.host, "", "")
    default = "443" if settings.is_https else "80"
    same_port = (port or default) == (our_port or default)
    same_name = host.strip("[]") == ours or (settings.is_loopback and host.strip("[]") in LOOPBACK_NAMES)
    return same_name and same_port


def _refuse_other_sites() -> None:
    if is_exempt(request.endpoint):
        return
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Problem("cross_site", status=400)
    if not is_api():  # which reads no cookie that another site could make a browser send
        csrf.protect()


def is_exempt(endpoint: str | None) -> bool:
    """Whether machines post here, which have no cookies to be abused: the sandbox's endpoints say so themselves."""
    return endpoint is not None and endpoint in current_app.config.get("CSRF_EXEMPT_ENDPOINTS", ())


def _leave(response: Response) -> Response:
    if not response.headers.get("Content-Security-Policy"):
        response.headers.update(HEADERS)
    settings = services().settings if EXTENSION in current_app.extensions else None
    if settings is not None and settings.is_https:
        response.headers["Strict-Transport-Security"] = f"max-age={HSTS_SECONDS}; includeSubDomains"
    response.headers["X-Request-Id"] = request_id.get()
    if request.endpoint not in ("ops.healthz", "ops.readyz", "ops.metrics"):
        log_event(
            "request", route=str(request.url_rule or ""), method=request.method, status=response.status_code,
            milliseconds=round((time.perf_counter() - g.get("began", time.perf_counter())) * 1000, 1),
        )  # fmt: skip
    return response


def _forget(_error: BaseException | None) -> None:
    request_id.set("")


def error_page(
    code: str, status: int, *, retry_after_seconds: int = 0, params: Mapping[str, object] | None = None
) -> Response:
    """A page that says what happened and what to do next, in the person's words; for a program, problem details."""
    if is_api():
        return problem_details(code, status, retry_after_seconds=retry_after_seconds, params=params)
    html = render_template("error.html", text=error_text(code), status=status)
    response = current_app.make_response((html, status))
    if retry_after_seconds:
        response.headers["Retry-After"] = str(retry_after_seconds)
    return response


def problem_page(problem: Problem) -> Response:
    """The page of a refused request."""
    wait = problem.retry_after_seconds if isinstance(problem, TooMany) else 5 if problem.status == 503 else 0  # noqa: PLR2004
    return error_page(problem.code, problem.status, retry_after_seconds=wait, params=problem.params)


def _csrf_page(_error: CSRFError) -> Response:
    return error_page("csrf", 400)


def _http_page(error: HTTPException) -> Response:
    status = error.code or 500
    response = error_page(HTTP_CODES.get(status, "bad_request" if status < 500 else "server_error"), status)  # noqa: PLR2004
    if allow := error.get_response().headers.get("Allow"):
        response.headers["Allow"] = allow
    return response


def _fault_page(error: Exception) -> Response:
    """Never a stack trace; a database that is full or gone is a 503 that says nothing was lost (R41)."""
    logging.getLogger("auth_portal").error("request_fault", exc_info=error)
    if isinstance(error, (SQLAlchemyError, OSError)):
        return error_page("unavailable", 503, retry_after_seconds=5)
    return error_page("server_error", 500)
