"""Everything between the network and a view: hops, hosts, request ids, CSRF, headers, error pages.

It trusts exactly the proxies that the settings name, and fails closed: a request whose client is unknown, whose Host is
not ours, or which another site sent, does not reach a view.
"""

from __future__ import annotations

import hmac
import io
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any
from urllib.parse import quote, urlsplit

from flask import Flask, Request, Response, current_app, g, render_template, request, session
from flask.sessions import SecureCookieSession, SessionInterface, SessionMixin
from flask_wtf.csrf import CSRFError, generate_csrf, validate_csrf
from itsdangerous import BadSignature, TimestampSigner, base64_encode
from markupsafe import Markup
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.exceptions import HTTPException
from werkzeug.sansio.http import parse_cookie
from werkzeug.utils import cached_property

from auth_portal.errors import Problem, TooMany
from auth_portal.i18n import (
    FALLBACK,
    LONGEST_ACCEPTED,
    NO_WORDING,
    Language,
    Wording,
    complete_languages,
    error_text,
    language,
    matched,
    preferred,
    spoken,
    worded,
)
from auth_portal.settings import LAST_PORT, LOOPBACK_NAMES, Settings, host_form
from auth_portal.telemetry import Origin, log_event, origin, request_id
from auth_portal.web.api.problems import PREFIX, problem_details
from auth_portal.web.context import ADMIN_SECONDS, EXTENSION, admin_token, page_values

LARGE_PIECE = 256 * 1024  # bytes of a large request that are read at once: enough for the fields sent with its file
LARGEST_REQUEST = 64 * 1024  # bytes; the longest honest form is far shorter
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
_HEADERS = tuple(HEADERS.items())
HTTP_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "media_type",
}
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
EVERY_HOST = frozenset({"ops.healthz", "ops.readyz", "looks.stylesheet", "looks.icon"})  # like static files
JUDGE_TIME = frozenset({"visitor", "credentials"})  # blueprints whose pages say that something has expired
IN_ENGLISH = ("/admin/", "/api/", "/sandbox/")  # for admins, programs and the sandbox, whatever a browser asks for
DEFAULT_CHAT_SECONDS = 600
SHOWN_ID = 8  # characters of a request's id that an error page shows: enough to find it in the log
SERVER = "gunicorn/"  # drops every header whose name contains an underscore
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[^\[\]]*)?)\](?::([0-9]{1,5}))?")
_WITH_PORT = re.compile(r"([0-9.]+):([0-9]{1,5})")
_REQUEST_ID = re.compile(r"([A-Za-z0-9._-]{8,64})")
_TRACE = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
# Pages that need no visit: their language stands in their address. No link is made to any other path.
OPEN_PATH = re.compile(
    r"(?:/drive/[A-Za-z0-9_-]+)?/(?:j/(?P<slug>[a-z0-9-]+)(?:/t/[A-Za-z0-9_-]+)?)?|/credentials/[A-Za-z0-9_-]+"
)
REFERENCE = re.compile(r"(?:^|&)(reference=.*)", re.DOTALL)
_ASKED = re.compile(rb"(?:^|&)lang=([A-Za-z0-9-]{2,16})(?=&|$)")
LONGEST_TAG = 35  # characters of a language tag (RFC 5646, 4.4.1); a form may send any, and matching takes time
_CSRF_TOKEN = re.compile(r"[0-9a-f]{40}")  # as Flask-WTF makes it


@dataclass(frozen=True)
class LargeRequest:
    """An endpoint that accepts larger requests, if ``is_allowed``, which is asked before anything is read."""

    most_bytes: int
    is_allowed: Callable[[], bool]


session_forms: set[str] = set()  # endpoints that take only forms of the admin's own session; their frame adds them
large_requests: dict[str, LargeRequest] = {}  # by endpoint; the module of the endpoint adds it


# By blueprint: reports, before any of it is read, whether this request's body may be read at all (R50). If not, the
# blueprint's own guard refuses the request unread.
may_send: dict[str, Callable[[], bool]] = {}


class PortalRequest(Request):
    """A request whose files stay in memory: on disk they would not be encrypted."""

    @cached_property
    def cookies(self) -> ImmutableMultiDict[str, str]:
        """Return what the browser sent. Werkzeug's own looks through all headers for it."""
        return ImmutableMultiDict(parse_cookie(self.environ.get("HTTP_COOKIE")))

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        return io.BytesIO()


class PortalResponse(Response):
    """A response with headers that every page has: as it is sent they are added all at once, not each looked for."""

    added: Sequence[tuple[str, str]] = ()

    def get_wsgi_response(self, environ: dict[str, Any]) -> tuple[Iterable[bytes], str, list[tuple[str, str]]]:
        """Return body, status and headers."""
        body, status, headers = super().get_wsgi_response(environ)
        return body, status, [*headers, *self.added]


class CsrfCookie(SessionInterface):
    """The cookie ``csrf``: only a random token, valid as long as the chat clock.

    Flask-WTF stores its token in Flask's session; this session contains nothing else, so it needs neither Flask's
    signature nor its packing. A form carries the same token, signed with the portal's key.
    """

    def get_cookie_name(self, app: Flask) -> str:
        """Return the name, with its prefix under https."""
        return "__Host-csrf" if app.config["SESSION_COOKIE_SECURE"] else "csrf"

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession:
        """Return what the browser sent, if it is a token."""
        token = request.cookies.get(self.get_cookie_name(app), "")
        return SecureCookieSession({"csrf_token": token} if _CSRF_TOKEN.fullmatch(token) else None)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Set the cookie again with each page that begins a visit, for as long as the chat clock.

        In an admin's browser a customer's page must not cut the time of the admin's own forms short.
        """
        if session.modified and (token := session.get("csrf_token")):
            seconds: int = g.get("chat_seconds", DEFAULT_CHAT_SECONDS)
            seconds = max(seconds, ADMIN_SECONDS) if admin_token() else seconds
            rules = f"Max-Age={seconds}; Path=/; HttpOnly; SameSite=Lax"
            if app.config["SESSION_COOKIE_SECURE"]:
                rules += "; Secure"
            response.headers.add("Set-Cookie", f"{self.get_cookie_name(app)}={token}; {rules}")


def register(app: Flask) -> None:
    """Put the edge around an app. Nothing here needs keys or a database yet."""
    app.session_interface = CsrfCookie()
    app.request_class, app.response_class = PortalRequest, PortalResponse
    app.url_map.merge_slashes = False  # its redirect would name a scheme and host that only the proxy knows
    app.config.update(
        MAX_CONTENT_LENGTH=LARGEST_REQUEST,
        MAX_FORM_MEMORY_SIZE=LARGEST_REQUEST,
        SESSION_COOKIE_SECURE=False,
        WTF_CSRF_TIME_LIMIT=None,  # a token is valid as long as its cookie
    )
    app.jinja_env.globals["csrf_token"] = generate_csrf
    app.before_request(choose_language)
    app.before_request(enter_request)
    app.after_request(leave_request)
    app.teardown_request(forget_request)
    app.register_error_handler(Problem, problem_page)
    app.register_error_handler(CSRFError, csrf_page)
    app.register_error_handler(HTTPException, http_page)
    app.register_error_handler(Exception, fault_page)


def serve_with(app: Flask, settings: Settings) -> None:
    """Give the edge what it needs from a process that serves; templates get ``site_host``, which pages name."""
    app.config["SESSION_COOKIE_SECURE"] = settings.is_https
    # A narrow page may break it after each dot.
    app.jinja_env.globals["site_host"] = Markup("<wbr>").join(f"{part}." for part in settings.shown_host.split("."))[
        :-1
    ]


def resolved() -> tuple[Flask, Request, Any]:
    """Return what ``current_app``, ``request`` and ``g`` stand for: asked for each value, they take long."""
    return (
        current_app._get_current_object(),  # type: ignore[attr-defined]
        request._get_current_object(),  # type: ignore[attr-defined]
        g._get_current_object(),
    )


def choose_language() -> None:
    """Let a customer's page be in a language of the browser, until its view knows better."""
    current_app, request, g = resolved()
    g.is_translated = EXTENSION in current_app.extensions and not f"{request.path}/".startswith(IN_ENGLISH)
    if g.is_translated:
        found = _ASKED.search(request.query_string) if request.query_string else None
        # What stands behind the reference is a part of it.
        is_before = found is not None and b"reference=" not in request.query_string[: found.start()]
        g.asked_language = speak_for_customer(found[1].decode()) if found and is_before else speak_for_customer()


def speak_for_customer(*chosen: str, words: Wording = NO_WORDING) -> str:
    """Let what this response says be in the first of the chosen locales that the portal offers, and return that.

    ``words`` are the business's own texts for it, of a journey.
    Without one return "": then it is in a language of the browser, else in the portal's own. The database is not asked:
    the settings are those that were read last.
    """
    current_app, request, g = resolved()
    worded.set(words)
    snapshot = current_app.extensions[EXTENSION].journeys.known
    g.offered_languages = offered = snapshot.portal.offered if snapshot is not None else complete_languages()
    for tag in chosen:
        if 0 < len(tag) <= LONGEST_TAG and (found := matched(tag, offered)):
            g.language = found
            spoken.set(found)
            return found
    accepted = request.headers.get("Accept-Language", "")[:LONGEST_ACCEPTED]
    own = snapshot.portal.language if snapshot is not None else FALLBACK
    g.language = (preferred(accepted, offered) if accepted else "") or own
    spoken.set(g.language)
    return ""


def offered_languages() -> list[Language]:
    """Return the languages that this portal offers to customers."""
    return [language(code) for code in g.offered_languages]


def language_url() -> str:
    """Return the address at which the language of this page is chosen.

    What is needed to come back goes along if no visit holds it: the path, and the reference exactly as it was sent.
    """
    _app, request, g = resolved()
    root: str = g.get("visit_root", "")
    path = request.path
    if str(request.url_rule or "").endswith("/stop"):
        path = path.removesuffix("/stop") or "/"
    if not OPEN_PATH.fullmatch(path):
        return f"{root}/language"
    asked = g.get("asked_language")
    found = REFERENCE.search(request.query_string.decode("latin-1"))
    rest = found[1] if found else ""
    if not rest and (typed := request.__dict__.get("form", {}).get("reference")):  # if the form has been read
        rest = f"reference={quote(typed, safe='')}"
    return f"{root}/language?{f'lang={asked}&' if asked else ''}to={quote(path)}{f'&{rest}' if rest else ''}"


def enter_request() -> Response | None:
    """Refuse a request that must not reach a view. Raise Problem."""
    current_app, request, g = resolved()
    g.began = time.perf_counter()
    request_id.set(secrets.token_hex(8))
    if _is_for_operators() or request.endpoint in EVERY_HOST:
        return None  # a probe comes without our Host and without a proxy, and all of them while there is no database
    if EXTENSION not in current_app.extensions:
        raise Problem("unavailable", status=503)
    settings: Settings = current_app.extensions[EXTENSION].settings
    request_id.set(given_id(settings.request_id_header) or request_id.get())
    g.address = client_address(settings.trusted_proxies or 0, settings.proxy_header)
    is_safe = request.method in ("GET", "HEAD", "OPTIONS", "TRACE")
    origin.set(
        Origin(
            address=g.address,
            is_judged=not (is_safe and JUDGE_TIME.isdisjoint(request.blueprints)),
            browser=request.environ.get("HTTP_USER_AGENT", ""),
            is_recorded=request.blueprint == "admin",
        )
    )
    # A machine that collects metrics asks each server by its own address, and needs the token.
    is_collected = request.endpoint == "ops.metrics" and bool(settings.metrics_token)
    if not (is_collected or _is_our_host(settings)):
        raise Problem("bad_host", status=400)
    if "\0" in request.path:
        raise Problem("not_found", status=404)  # PostgreSQL cannot store it, so nothing can have such a name
    if not is_safe:
        large = large_requests.get(request.endpoint or "")
        if large is not None and large.is_allowed():
            request.max_content_length = large.most_bytes
            request.max_form_memory_size = LARGE_PIECE
        if not is_exempt(request.endpoint):
            if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
                raise Problem("cross_site", status=400)
            # The API reads no cookie that another site could make a browser send; what has no page is refused unread.
            if not is_api() and request.endpoint and all(may_send[n]() for n in request.blueprints if n in may_send):
                _protect()
    return None


def _is_for_operators() -> bool:
    """Report whether this came in at PORTAL_METRICS_BIND, where any Host may ask. Raise Problem for all but ``ops``."""
    found, listener = current_app.extensions.get(EXTENSION), request.environ.get("gunicorn.socket")
    if found is None or not found.settings.metrics_bind or listener is None:
        return False
    bind, here = found.settings.metrics_bind, listener.getsockname()
    g.is_for_operators = bind == f"unix:{here}" if isinstance(here, str) else bind.rpartition(":")[2] == str(here[1])
    if g.is_for_operators and request.blueprint != "ops":
        raise Problem("not_found", status=404)
    return bool(g.is_for_operators)


def _protect() -> None:
    """Refuse a form without our token. Raise CSRFError.

    An admin's form is bound to the session that it was made for: the token of another session, or one from before the
    sign-in, is refused (R53). The forms of signing in take either.
    """
    signed = request.form.get("csrf_token")
    try:
        if request.endpoint not in session_forms:
            if _is_token_of_page(signed or ""):
                return
            try:
                validate_csrf(signed, secret_key=_portal_key())
            except ValueError:
                if not admin_token():
                    raise
            else:
                return
        validate_csrf(signed, secret_key=_session_key(admin_token()))
    except ValueError as error:  # WTForms derives its own from it
        raise CSRFError(str(error)) from None


def _is_token_of_page(signed: str) -> bool:
    """Report whether a token is one of ``csrf_token`` for this session: validate_csrf takes seven times as long."""
    token = session.get("csrf_token")
    try:
        found = _signer(_portal_key()).unsign(signed)
    except BadSignature:
        return False
    return isinstance(token, str) and hmac.compare_digest(found, base64_encode(f'"{token}"'))


def csrf_token() -> str:
    """Return what the forms of a page carry, as Flask-WTF makes and checks it: the token of the cookie, signed.

    It makes what signs again for each page, which takes three times as long.
    """
    signed: str | None = g.get("csrf_token")
    if signed is None:
        if "csrf_token" not in session:
            session["csrf_token"] = secrets.token_hex(20)
        token = base64_encode(f'"{session["csrf_token"]}"')
        signed = g.csrf_token = _signer(_portal_key()).sign(token).decode()
    return signed


@lru_cache(maxsize=4)
def _signer(key: bytes) -> TimestampSigner:
    return TimestampSigner(key, salt="wtf-csrf-token")


def session_csrf_token(token: str) -> str:
    """Return what a form of an admin's session carries: signed with a key that only this session has."""
    signed: str = generate_csrf(secret_key=_session_key(token))
    return signed


def _portal_key() -> bytes:
    key = current_app.secret_key
    assert isinstance(key, bytes)
    return key


def _session_key(token: str) -> bytes:
    return hmac.digest(_portal_key(), f"csrf of {token}".encode(), "sha256")


def client_address(hops: int, header: str) -> str:
    """Return the client's address, from the last of ``hops`` trusted proxies (R38). Raise Problem if it names none.

    ``header`` is the one that the proxies write. X-Forwarded-For counts only under a server that cannot confuse it with
    X_Forwarded_For, which a client may send and proxies pass on (R51): in the environment of WSGI both have one name.
    """
    if hops == 0:
        element = request.environ.get("REMOTE_ADDR", "")
    else:
        elements = request.headers.get(header, "").split(",")
        element = elements[-hops].strip() if len(elements) >= hops else ""
    if hops and header == "Forwarded":
        element = node_of(element)
    elif hops and not request.environ.get("SERVER_SOFTWARE", "").startswith(SERVER):
        log_event("server_unsafe", level=logging.ERROR, server=request.environ.get("SERVER_SOFTWARE", ""))
        raise Problem("unavailable", status=503)
    try:
        return plain_address(element)
    except ValueError:
        # A unix socket without a trusted hop, or a proxy that does not name its client: no limit could be counted.
        log_event("client_unknown", level=logging.ERROR, hops=hops)
        raise Problem("unavailable", status=503) from None


def given_id(header: str) -> str:
    """Return the id that the trusted proxy gives a request in X-Request-ID or traceparent (W3C), or ""."""
    form = _TRACE if header == "traceparent" else _REQUEST_ID
    found = form.fullmatch(request.headers.get(header, "")) if header else None
    return found[1] if found else ""


def plain_address(element: str) -> str:
    """Return an address as it is counted: ``ip``, ``ip:port``, ``[ipv6]`` and ``[ipv6]:port`` without port and zone.

    An IPv4 address inside an IPv6 one (``::ffff:192.0.2.1``) is the IPv4 address. Raise ValueError for anything else.
    """
    found = _BRACKETED.fullmatch(element) or _WITH_PORT.fullmatch(element)
    address = ipaddress.ip_address(found[1] if found else element)
    if found and int(found[2] or 0) > LAST_PORT:
        raise ValueError("not a port")
    if found and (address.version == 6) != element.startswith("["):  # noqa: PLR2004
        raise ValueError("brackets belong to IPv6")
    return str(getattr(address, "ipv4_mapped", None) or address).partition("%")[0]


def node_of(element: str) -> str:
    """Return the node of one element of Forwarded (RFC 7239); nothing if it names none or several.

    An element never contains a comma where a proxy wrote it. So the header is divided at each comma, quoted or not, and
    a quote that a client left open cannot swallow what the proxy appended.
    """
    nodes = [
        pair.partition("=")[2].strip() for pair in element.split(";") if pair.partition("=")[0].strip().lower() == "for"
    ]
    return nodes[0].removeprefix('"').removesuffix('"') if len(nodes) == 1 else ""


def _is_our_host(settings: Settings) -> bool:
    """Report whether Host names the public URL, in any spelling, or for a loopback URL another name of it."""
    ours, said = settings.netloc, request.environ.get("HTTP_HOST") or request.host
    if said == ours:
        return True
    default = 443 if settings.is_https else 80
    found = host_form(said.encode("latin-1", "replace").decode("utf-8", "replace"), default)
    if found is None or found == ours or not settings.is_loopback:
        return found == ours
    asked, own = urlsplit(f"//{found}"), urlsplit(settings.public_url)
    return asked.hostname in LOOPBACK_NAMES and (asked.port or default) == (own.port or default)


def is_exempt(endpoint: str | None) -> bool:
    """Return True if only programs post here, which have no cookies to abuse: the sandbox lists its endpoints."""
    return endpoint is not None and endpoint in current_app.config.get("CSRF_EXEMPT_ENDPOINTS", ())


def is_api() -> bool:
    """Return True if a program calls, which reads problem details and has no cookies."""
    return f"{request.path}/".startswith(PREFIX)


def leave_request(response: PortalResponse) -> PortalResponse:
    """Add the headers that every answer has, and log the request."""
    current_app, request, g = resolved()
    added = [("X-Request-Id", request_id.get())]
    if not response.headers.get("Content-Security-Policy"):
        added += _HEADERS
    if current_app.config["SESSION_COOKIE_SECURE"]:
        added.append(("Strict-Transport-Security", f"max-age={HSTS_SECONDS}; includeSubDomains"))
    if g.get("is_translated") and response.mimetype == "text/html":
        added += (("Content-Language", spoken.get()), ("Vary", "Accept-Language"))
    response.added = added
    if request.endpoint not in ("ops.healthz", "ops.readyz", "ops.metrics"):
        now, route = time.perf_counter(), str(request.url_rule or "")
        seconds = now - g.get("began", now)
        milliseconds = round(seconds * 1000, 1)
        log_event("request", route=route, method=request.method, status=response.status_code, milliseconds=milliseconds)
        if (found := current_app.extensions.get(EXTENSION)) is not None:
            # A client may send any method and path: neither names a count of its own.
            method = request.method if request.method in METHODS else "other"
            status, counts = f"{response.status_code // 100}xx", found.transactions.counts
            counts.add("requests", status)
            counts.add("request_seconds", route or "none", method, status, value=seconds)
    return response


def forget_request(_error: BaseException | None) -> None:
    """Forget the id of the request, where it came from, and its language."""
    request_id.set("")
    spoken.set(FALLBACK)
    worded.set(NO_WORDING)
    origin.set(Origin())


def error_page(
    code: str, status: int, *, retry_after_seconds: int = 0, params: Mapping[str, object] | None = None
) -> Response:
    """Return a page that says what happened and what to do next; for a program, problem details."""
    if is_api():
        return problem_details(code, status, retry_after_seconds=retry_after_seconds, params=params)
    html = render_template(
        "error.html",
        text=error_text(code),
        code=code,
        status=status,
        error_id=request_id.get()[:SHOWN_ID],
        retry_url=_retry_url(),
        language_url=language_url(),
        **page_values(),
    )
    response = current_app.make_response((html, status))
    if retry_after_seconds:
        response.headers["Retry-After"] = str(retry_after_seconds)
    return response


def _retry_url() -> str | None:
    """Return what to open to try again: the same page, or that of a form in a visit; None for other forms."""
    if request.method == "GET":
        return ""
    page = f"{g.get('visit_root', '')}/verify"
    return page if request.path.startswith(page) else None


def problem_page(problem: Problem) -> Response:
    """Return the page of a refused request."""
    wait = problem.retry_after_seconds if isinstance(problem, TooMany) else 5 if problem.status == 503 else 0  # noqa: PLR2004
    return error_page(problem.code, problem.status, retry_after_seconds=wait, params=problem.params)


def csrf_page(_error: CSRFError) -> Response:
    """Return the page of a form whose token is missing or wrong."""
    return error_page("csrf", 400)


def http_page(error: HTTPException) -> Response:
    """Return the page of an error that Flask found."""
    status = error.code or 500
    response = error_page(HTTP_CODES.get(status, "bad_request" if status < 500 else "server_error"), status)  # noqa: PLR2004
    if allow := error.get_response().headers.get("Allow"):
        response.headers["Allow"] = allow
    return response


def fault_page(error: Exception) -> Response:
    """Return a page without a stack trace; a full or unreachable database is a 503 that says nothing was lost (R41)."""
    logging.getLogger("auth_portal").error("request_fault", exc_info=error)
    if isinstance(error, (SQLAlchemyError, OSError)):
        return error_page("unavailable", 503, retry_after_seconds=5)
    return error_page("server_error", 500)
