"""What every page of the configuration page shares: who may use it, the session, the second factor, and refusals.

A route cannot be registered without the roles that may use it. The guard runs before any view and before a form is
read, and fails closed: without a session it leads to the sign-in page, with an insufficient role it refuses. A form
that was sent after its session ended comes back as it was typed, once the same admin has signed in.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlencode

from flask import Blueprint, Response, current_app, g, make_response, redirect, render_template, request, session
from flask_wtf.csrf import CSRFError
from werkzeug.datastructures import ImmutableMultiDict, MultiDict
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.crypto import KeyFault, SealedColumn
from auth_portal.errors import Problem, TooMany
from auth_portal.i18n import error_text
from auth_portal.i18n import gettext as _
from auth_portal.services.access.admin_sessions import SignedInAdmin
from auth_portal.services.access.roles import ROLES, Role
from auth_portal.web.context import (
    ADMIN_COOKIE,
    ADMIN_SECONDS,
    EXTENSION,
    admin_token,
    cookie_name,
    services,
    set_cookie,
)
from auth_portal.web.edge import (
    HTTP_CODES,
    LargeRequest,
    fault_page,
    http_page,
    large_requests,
    may_send,
    session_csrf_token,
    session_forms,
)
from auth_portal.web.edge import problem_page as edge_problem_page

View = TypeVar("View", bound=Callable[..., Any])

EVERYONE = frozenset(ROLES.values())
WRITERS = frozenset(role for role in EVERYONE if role.may_write)
INSPECTORS = frozenset(role for role in EVERYONE if role.may_inspect)
OWNERS = frozenset(role for role in EVERYONE if role.is_owner)
PUBLIC: frozenset[Role] = frozenset()  # no session needed: signing in, and following a one-time link

BEFORE_CODES_ARE_SAVED = frozenset({"admin.access_recovery_codes", "admin.access_keep_codes", "admin.access_sign_out"})
NOTICE_COOKIE = "notice"
NOTICE_SECONDS = 60
NOTICE_LENGTH = 300  # characters
REFUSED = 422  # a form comes back with what has to be corrected
KEY_LENGTH = 64  # characters of a key in an address; ids have 32

LATE_FORM = "kept"  # field of the sign-in form
LATE_FORM_PLACE = SealedColumn("admins", "kept_form")  # bound to the admin as if it were a column of theirs
# Enough to find the phone, and to wait out the 15 minutes after five wrong tries (R40).
LATE_FORM_LIFE = timedelta(minutes=30)
# Sealed and in Base64 it fits into a request (64 KiB) next to the rest of the sign-in form.
LARGEST_PICTURE = 512 * 1024  # bytes of a request: more than a logo may have, so that its form can say so
LATE_FORM_BYTES = 36_000
# What never comes back, by the name of the field. ``headers`` are those of a channel, which hold its keys.
SECRET_FIELDS = frozenset(
    {
        "csrf_token",
        "password",
        "repeated",
        "secret",
        "present",
        "code",
        "second_factor",
        "passkey",
        "api_key",
        "headers",
        LATE_FORM,
    }
)


@dataclass(frozen=True)
class Place:
    """An entry of the menu: its path below /admin/, its name and icon, and how many acts are open there."""

    path: str
    name: str
    icon: str
    open: str = ""
    what: str = ""  # what is counted, for those who do not see that it is red
    key: str = ""  # that opens it, after g


@dataclass(frozen=True)
class PlaceGroup:
    """Entries of the menu under their heading."""

    name: str
    places: list[Place]


# The menu: by group and view the path below /admin/, the name and the icon. It shows what a role may open.
MENU = {
    "Today": {
        "verifications_home": ("", "Home", "house"),
        "verifications_verifications": ("verifications", "Verifications", "shield-check"),
        "deliveries_deliveries": ("deliveries", "Deliveries", "send"),
    },
    "People": {
        "customers_listed": ("customers", "Customers", "users"),
        "imports_imports": ("imports", "Import", "download"),
    },
    "Set up": {
        "journeys_journeys": ("journeys", "Journeys", "route"),
        "channels_channels": ("channels", "Channels", "message-square"),
    },
    "Portal": {
        "admins_people": ("admins", "Admins", "user"),
        "api_keys_keys": ("api-keys", "API keys", "key-round"),
        "audit_audit": ("audit", "Audit", "file-text"),
        "settings_settings": ("settings", "Settings", "sliders-horizontal"),
    },
}

# What is pressed after g to open a section, by its path.
KEYS = {"": "h", "verifications": "v", "deliveries": "d", "customers": "c", "journeys": "j", "audit": "a"}

# Quick ranges of a list, each until now.
RANGES = {"hour": timedelta(hours=1), "day": timedelta(hours=24), "week": timedelta(days=7)}
# Pages that are in no menu, for the search, and what else the pages may be called there.
MORE_PAGES = {
    "customers_new": ("customers/new", "New customer", "users"),
    "journeys_new": ("journeys/_new", "New journey", "route"),
    "channels_new": ("channels/_new", "New channel", "message-square"),
    "api_keys_form": ("api-keys/new", "New API key", "key-round"),
    "api_keys_hook_form": ("api-keys/webhooks/new", "New webhook", "key-round"),
    "audit_check": ("audit/check", "Check the audit trail", "file-text"),
    "settings_file": ("settings/import", "Import a config file", "sliders-horizontal"),
    "access_account": ("account", "Your account", "user"),
}
ALSO_CALLED = {
    "verifications": "visits stories references",
    "deliveries": "callbacks messages sms emails retry failed",
    "customers": "people",
    "imports": "upload csv excel file undo",
    "channels": "sms email providers smtp caps",
    "admins": "owners support auditors roles invite users",
    "api-keys": "programs tokens tickets webhooks events",
    "audit": "events history",
    "settings": "name country time zone language colour logo limits retention alerts webhook config",
    "account": "password passkeys recovery codes sessions",
}

admin = Blueprint("admin", __name__, url_prefix="/admin")
allowed: dict[str, frozenset[Role]] = {}  # by endpoint
_again: dict[str, Callable[..., Response]] = {}  # by endpoint: shows its form as it was sent


def route(
    rule: str,
    *,
    allow: Collection[Role],
    methods: Collection[str] = ("GET",),
    again: Callable[..., Response] | None = None,
) -> Callable[[View], View]:
    """Register a view of the configuration page that the roles in ``allow`` may use.

    ``again`` takes the same parts of the path and shows the form as it is in ``request.form``, saving nothing: it
    replaces the view if the form was sent after its session had ended.
    """

    def register(view: View) -> View:
        endpoint = f"{view.__module__.rpartition('.')[2]}_{view.__name__}"
        allowed[f"admin.{endpoint}"] = frozenset(allow)
        if allow is not PUBLIC:
            session_forms.add(f"admin.{endpoint}")
        if again is not None:
            _again[f"admin.{endpoint}"] = again
        admin.add_url_rule(rule, endpoint, view, methods=list(methods))
        return view

    return register


@admin.before_request
def guard() -> BaseResponse | None:
    """Let the admin use this route, send them to the sign-in page, or refuse."""
    g.chat_seconds = ADMIN_SECONDS
    signed_in = sender()
    if signed_in is not None:
        services().journeys.renew()
    _refuse_nul(request.args)
    roles = allowed[request.endpoint or ""]
    if roles is not PUBLIC:
        if signed_in is None:
            return _to_sign_in()
        if signed_in.role not in roles:
            raise Problem("role_too_small", status=403)
        if signed_in.has_codes_to_save and request.endpoint not in BEFORE_CODES_ARE_SAVED:
            return redirect("/admin/recovery-codes", 303)
    _refuse_nul(request.form)
    return None


def sender() -> SignedInAdmin | None:
    """Return the admin who sends this request, found by the cookie alone; None without a session."""
    if "signed_in" not in g:
        g.signed_in = services().admin_sessions.signed_in(admin_token())
    found: SignedInAdmin | None = g.signed_in
    return found


def may_send_body() -> bool:
    """Report whether this browser may send a form here at all, before any of it is read (R50).

    Without a session it may if the page is public, or if a form that came too late is to be shown again.
    """
    roles, signed_in = allowed[request.endpoint or ""], sender()
    if roles is PUBLIC:
        return True
    return signed_in.role in roles if signed_in is not None else _late_admin() is not None


may_send[admin.name] = may_send_body


def _late_admin() -> str | None:
    """Return the id of the admin whose session timed out before this form was sent; None if it was ended on purpose."""
    if request.method != "POST" or request.endpoint not in _again:
        return None
    return services().admin_sessions.timed_out_admin(admin_token())


def _refuse_nul(fields: MultiDict[str, str]) -> None:
    if any("\0" in text for pair in fields.items(multi=True) for text in pair):
        raise Problem("bad_request")  # PostgreSQL cannot store it, and no keyboard types it


def _to_sign_in() -> BaseResponse:
    """Go to the sign-in page, and then back; a form that was sent comes along, or the page says that it is lost."""
    if (admin_id := _late_admin()) and (late := LateForm(request.path, request.form).sealed(admin_id)):
        return sign_in_page(status=403, wanted=request.path if _has_page() else "", late=late)
    is_lost = request.method == "POST" and request.endpoint != "admin.access_sign_out"
    wanted = request.full_path.rstrip("?") if request.method == "GET" else request.path if _has_page() else ""
    following = [f"next={quote(wanted, safe='/')}"] if wanted not in ("", "/admin/") else []
    query = "&".join([*following, "lost=1"] if is_lost else following)
    return redirect(f"/admin/sign-in?{query}".rstrip("?"), 303)


def _has_page() -> bool:
    """Report whether the path of a posted form is also a page."""
    return _urls().test(request.path, "GET")


def _urls() -> MapAdapter:
    adapter = current_app.create_url_adapter(request)
    assert adapter is not None  # there is one wherever there is a request
    return adapter


# --- A form that was sent after its session had ended


@dataclass(frozen=True)
class LateForm:
    """What was typed, and the path that it was sent to.

    It travels sealed in the sign-in page itself: nothing is stored, and a browser that never had a session gets
    nothing. It opens only for the same admin, for half an hour, and only to be shown again: it saves nothing.
    Passwords, codes, secrets of channels, files and CSRF tokens are never in it.
    """

    path: str
    fields: ImmutableMultiDict[str, str]

    def sealed(self, admin_id: str) -> str:
        """Return the form as a text for a hidden field; nothing if it is too large."""
        fields = [pair for pair in self.fields.items(multi=True) if pair[0] not in SECRET_FIELDS]
        until = (services().clock() + LATE_FORM_LIFE).timestamp()
        text = json.dumps({"path": self.path, "until": until, "fields": fields})
        if len(text) > LATE_FORM_BYTES:
            return ""
        return base64.urlsafe_b64encode(services().keyring.seal(text, LATE_FORM_PLACE, admin_id)).decode()


def my_late_form() -> LateForm | None:
    """Return the form inside this sign-in form; None if it is another admin's, too old, altered or missing."""
    try:
        content = base64.urlsafe_b64decode(request.form.get(LATE_FORM, ""))
        late = json.loads(services().keyring.open(content, LATE_FORM_PLACE, me().admin_id))
    except (KeyFault, binascii.Error, ValueError):
        return None
    if late["until"] <= services().clock().timestamp():
        return None
    return LateForm(late["path"], ImmutableMultiDict([(name, value) for name, value in late["fields"]]))


def shown_again(late: LateForm) -> Response:
    """Show a form as it was typed, for its admin to send again. Raise Problem for an insufficient role."""
    endpoint, values = _urls().match(late.path, "POST")
    if me().role not in allowed[endpoint]:
        raise Problem("role_too_small", status=403)
    request.form = late.fields  # from here on this is the request that came too late
    g.is_shown_again = True
    return _again[endpoint](**values)


def sign_in_page(*, status: int = 200, email: str = "", fault: str = "", wanted: str = "", late: str = "") -> Response:
    """Show the sign-in page; ``late`` is a sealed form that waits in it."""
    has_owner = services().admins.has_owner()
    return render(
        "admin/access/sign_in.html",
        status=status,
        email=email,
        fault=fault,
        wanted=wanted,
        late=late,
        has_owner=has_owner,
        are_possible=services().admin_passkeys.are_possible,
    )


# --- Cookies


def keep_session(token: str) -> None:
    """Give the browser its session, whatever the response turns out to be; the server ends it."""
    g.new_token = token


@admin.after_request
def _hand_over(response: BaseResponse) -> BaseResponse:
    if token := g.get("new_token"):
        _set_cookie(response, ADMIN_COOKIE, token, ADMIN_SECONDS)
    return response


def forget_session(response: BaseResponse) -> BaseResponse:
    """Remove the token from the browser."""
    _set_cookie(response, ADMIN_COOKIE, "", 0)
    return response


def _set_cookie(response: BaseResponse, name: str, value: str, seconds: int) -> None:
    set_cookie(response, cookie_name(name), value, seconds)


def me() -> SignedInAdmin:
    """Return the admin who is signed in. Only for routes that need one."""
    found: SignedInAdmin = g.signed_in
    return found


def is_confirmed() -> bool:
    """Report whether the second factor was shown within the last ten minutes."""
    return me().is_confirmed(services().clock())


def accept_logo(endpoint: str) -> None:
    """Let owners send a picture to an endpoint."""

    def is_owner() -> bool:
        found = sender()
        return found is not None and found.role in OWNERS

    large_requests[f"{admin.name}.{endpoint}"] = LargeRequest(LARGEST_PICTURE, is_owner)


def sent_logo() -> tuple[str, bytes | None]:
    """Return which logo a form sent, ``logo`` or ``logo_dark``, and the picture: empty to remove it, None for none."""
    which = "logo_dark" if form_text("which") == "logo_dark" else "logo"
    if form_text("act") == "remove":
        return which, b""
    given = request.files.get("logo")
    return which, (given.read() if given else b"") or None


def second_factor_fault() -> str:
    """Return nothing if the second factor was shown lately or is right in this form; otherwise the sentence to show."""
    if is_confirmed():
        return ""
    if passkey := request.form.get("passkey", ""):
        if services().admin_passkeys.confirm(me(), passkey):
            g.signed_in = replace(me(), confirmed_at=services().clock())
            return ""
        raise_if_ended()
        return _("We couldn't use this passkey. Try again, or enter a code.")
    typed = form_text("second_factor")
    if not typed:
        return _("Enter the code your authenticator app shows now.")
    if services().admin_sessions.confirm(me(), typed):
        g.signed_in = replace(me(), confirmed_at=services().clock())  # a code counts once, and this form may ask again
        return ""
    raise_if_ended()
    return _("That isn't the code your app shows now. Wait for the next one and try again.")


def raise_if_ended() -> None:
    """Raise Problem if a wrong confirmation has just ended the session, because it was one of too many."""
    if services().admin_sessions.signed_in(admin_token()) is None:
        g.signed_in = None
        raise Problem("confirmations_spent", status=403)


def form_text(name: str) -> str:
    """Return a field of the form, without spaces around it."""
    return request.form.get(name, "").strip()


def may_open(endpoint: str) -> bool:
    """Report whether the admin may use a route, given without ``admin.``."""
    return me().role in allowed[f"admin.{endpoint}"]


def sections() -> list[PlaceGroup]:
    """Return the menu of this admin: what their role may open, and how many acts are open there."""
    acts = services().delivery_lists.open_acts()
    failing = len(acts.failing & services().journeys.current().channels.keys())
    counts = {
        "deliveries": (acts.retries_text, _("can be sent again")),
        "channels": (str(failing or ""), _("failing")),
    }
    return [
        PlaceGroup(
            _(group),
            [
                Place(path, _(name), icon, *counts.get(path, ("", "")), KEYS.get(path, ""))
                for endpoint, (path, name, icon) in views.items()
                if may_open(endpoint)
            ],
        )
        for group, views in MENU.items()
    ]


def pages_called(typed: str) -> list[Place]:
    """Return the pages of this admin whose name, or what else they are called, begins a word with ``typed``."""
    pages = {**MORE_PAGES, **{endpoint: page for views in MENU.values() for endpoint, page in views.items()}}
    wanted = f" {typed.strip().casefold()}"
    return [
        Place(path, _(name), icon)
        for endpoint, (path, name, icon) in pages.items()
        if may_open(endpoint) and wanted in f" {name} {ALSO_CALLED.get(path, '')}".casefold()
    ]


def initials(name: str) -> str:
    """Return the first letters of the first and the last part of a name."""
    parts = name.split()
    return "".join(part[0].upper() for part in dict.fromkeys((parts[0], parts[-1]))) if parts else ""


def render(template: str, *, status: int = 200, **values: Any) -> Response:
    """Render a page, with what every page needs."""
    session.modified = True
    signed_in: SignedInAdmin | None = g.get("signed_in")
    snapshot, notice = services().journeys.current(), request.cookies.get(cookie_name(NOTICE_COOKIE), "")
    if signed_in is not None:
        values["csrf_token"] = partial(session_csrf_token, g.get("new_token") or admin_token())
    html = render_template(
        template,
        me=signed_in,
        portal=snapshot.portal,
        wall=snapshot.portal.wall,
        journey_name=snapshot.name_of,
        journey_is_open=snapshot.is_open,
        sections=sections,
        initials=initials,
        has_passkeys=lambda: signed_in is not None and services().admin_passkeys.listed(signed_in.admin_id),
        needs_second_factor=signed_in is not None and not is_confirmed(),
        notice=services().keyring.verify("notice", unquote(notice)) or "" if notice else "",
        is_shown_again=g.get("is_shown_again", False),
        has_private_targets=services().settings.allow_private_callbacks,
        now=services().clock(),
        filter_url=filter_url,
        is_refused=status == REFUSED,
        is_first_fault=partial(next, iter((True,)), False),
        **values,
    )
    response = make_response(html, status)
    if notice:
        _set_cookie(response, NOTICE_COOKIE, "", 0)
    return response


def done(path: str, text: str) -> BaseResponse:
    """Redirect to one of our own paths with 303; ``text`` is shown there once."""
    response = redirect(own_path(path), 303)
    signed = services().keyring.sign("notice", text[:NOTICE_LENGTH])
    _set_cookie(response, NOTICE_COOKIE, quote(signed), NOTICE_SECONDS)
    return response


def own_path(path: str, default: str = "/admin/") -> str:
    """Return a path below /admin/ as it is, and the home page for anything else (R33)."""
    is_plain = path.startswith("/admin/") and not any(char in path for char in "\\\r\n\t") and "//" not in path
    return path if is_plain else default


# --- Lists


class FilterForm:
    """The filter of one request, from its address or form; ``faults`` are by field."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}

    def text(self, name: str) -> str:
        """Return a field as it was typed, without blanks around it."""
        return request.values.get(name, "").strip()

    def key(self, name: str) -> str:
        """Return an id or keyed hash."""
        return self.text(name)[:KEY_LENGTH]

    def keys(self, name: str) -> tuple[str, ...]:
        """Return several of them, separated by commas."""
        return tuple(key[:KEY_LENGTH] for key in self.text(name).split(",") if key)

    @property
    def range(self) -> str:
        """Return the quick range, a key of RANGES; none if times were typed."""
        is_typed = self.text("since") or self.text("until")
        return "" if is_typed or self.text("range") not in RANGES else self.text("range")

    def since(self) -> datetime | None:
        """Return the start of the requested range of time."""
        return services().clock() - RANGES[self.range] if self.range else self._moment("since", is_end=False)

    def until(self) -> datetime | None:
        """Return the end of it, which is excluded."""
        return self._moment("until", is_end=True)

    def _moment(self, name: str, *, is_end: bool) -> datetime | None:
        """Return a time as a browser's field writes it, or a date alone, in the time zone of the settings."""
        typed = self.text(name)
        if not typed:
            return None
        try:
            return services().journeys.current().portal.wall.read(typed, is_end=is_end)
        except ValueError:
            self.faults[name] = _("Enter a date and time such as 2026-11-22T19:05.")
            return None

    @property
    def status(self) -> int:
        """Return the response's status."""
        return 422 if self.faults else 200


def filter_url(**changes: str) -> str:
    """Return the address of this list from its start, with its filters; ``changes`` replace some, "" removes one."""
    path = request.path.removesuffix("/find")  # a search that found nothing shows the list, too
    fields = {name: value for name, value in {**request.args, "after": "", **changes}.items() if value}
    return f"{path}?{urlencode(fields, safe=',')}" if fields else path


def older_url(older: str) -> str:
    """Return this page's address, continued from a key; empty at the end of the list."""
    return filter_url(after=older) if older else ""


def newest_url() -> str:
    """Return this page's address from the start; empty if that is this page."""
    return filter_url() if request.args.get("after") else ""


# --- Refusals: what happened, and what to do next


@admin.errorhandler(Problem)
def problem_page(problem: Problem) -> Response:
    """Show why a request was refused."""
    if EXTENSION not in current_app.extensions:  # the customers' page of a portal without its database
        return edge_problem_page(problem)
    response = _refusal(problem.code, problem.status, problem.params)
    if isinstance(problem, TooMany):
        response.headers["Retry-After"] = str(problem.retry_after_seconds)
    return response


@admin.errorhandler(CSRFError)
def form_too_old(_error: CSRFError) -> Response:
    """Refuse a form whose cookie expired or belongs to another sign-in."""
    return _refusal("admin_csrf", 400)


@admin.errorhandler(HTTPException)
def http_error(error: HTTPException) -> Response:
    """Show what Flask itself refused."""
    status = error.code or 500
    response = _refusal(HTTP_CODES.get(status, "bad_request"), status)
    if allow := error.get_response().headers.get("Allow"):
        response.headers["Allow"] = allow
    return response


@admin.app_errorhandler(404)
@admin.app_errorhandler(405)
def unknown_path(error: HTTPException) -> Response:
    """Show an admin that there is no such page; everyone else, and every other path, gets the customers' page."""
    if request.path.startswith(f"{admin.url_prefix}/"):
        try:
            if sender() is not None:  # found here if no route matched, so that the guard did not run
                return http_error(error)
        except Exception as fault:  # raised in an error handler, nothing else would make it a page
            return fault_page(fault)
    return http_page(error)


def _refusal(code: str, status: int, params: Mapping[str, object] | None = None) -> Response:
    # The customers' sentences for these mention the chat.
    text = error_text(
        f"admin_{code}" if code in ("not_found", "method_not_allowed", "cross_site") else code, params=params
    )
    return render("admin/problem.html", status=status, text=text, code=code)
