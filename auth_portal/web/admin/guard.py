"""The one blueprint of the configuration page, and who may see which of its routes.

Every route says who may use it when it is made; one that does not cannot be made. The guard runs before any view and
before a form is read, and fails closed: without a session it leads to the sign-in page, with too small a role it
refuses. A form that was sent after its session ran out comes back as it was typed, once the same admin has signed in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from flask import Blueprint, Response, current_app, g, make_response, redirect, render_template, request, session
from werkzeug.routing import MapAdapter
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import Problem
from auth_portal.i18n import gettext as _
from auth_portal.services.access.admin_sessions import SignedIn
from auth_portal.web.admin import kept_form
from auth_portal.web.admin.kept_form import KeptForm
from auth_portal.web.context import ADMIN_COOKIE, ADMIN_SECONDS, admin_token, cookie_name, services

View = TypeVar("View", bound=Callable[..., Any])

OWNER, SUPPORT, AUDITOR = "owner", "support", "auditor"
EVERYONE = frozenset({OWNER, SUPPORT, AUDITOR})
WRITERS = frozenset({OWNER, SUPPORT})
OWNERS = frozenset({OWNER})
PUBLIC: frozenset[str] = frozenset()  # no session needed: signing in, and following a one-time link

BEFORE_CODES_ARE_KEPT = frozenset({"admin.access_recovery_codes", "admin.access_keep_codes", "admin.access_sign_out"})
NOTICE_COOKIE = "notice"
NOTICE_SECONDS = 60
NOTICE_LENGTH = 300  # characters
REFUSED = 422  # a form comes back with what has to be corrected

admin = Blueprint("admin", __name__, url_prefix="/admin")
allowed: dict[str, frozenset[str]] = {}  # by endpoint
_again: dict[str, Callable[..., Response]] = {}  # by endpoint: shows its form as it was sent


def route(
    rule: str, *, allow: Collection[str], methods: Collection[str] = ("GET",),
    again: Callable[..., Response] | None = None,
) -> Callable[[View], View]:  # fmt: skip
    """Makes a view of the configuration page that the roles in ``allow`` may use.

    ``again`` takes the same parts of the path and shows the form as it stands in ``request.form``, saving nothing: it
    stands in for the view where the form was sent after its session had run out.
    """

    def register(view: View) -> View:
        endpoint = f"{view.__module__.rpartition('.')[2]}_{view.__name__}"
        allowed[f"admin.{endpoint}"] = frozenset(allow)
        if again is not None:
            _again[f"admin.{endpoint}"] = again
        admin.add_url_rule(rule, endpoint, view, methods=list(methods))
        return view

    return register


@admin.before_request
def guard() -> BaseResponse | None:
    """Lets in whoever may use this route; everybody else is led or refused."""
    g.chat_seconds = ADMIN_SECONDS
    g.signed_in = services().admin_sessions.signed_in(admin_token())
    if g.signed_in is not None:
        services().journeys.renew()
    if _has_nul():
        raise Problem("bad_request")
    roles = allowed[request.endpoint or ""]
    if roles is PUBLIC:
        return None
    if g.signed_in is None:
        return _to_sign_in()
    if g.signed_in.role not in roles:
        raise Problem("role_too_small", status=403)
    if g.signed_in.has_codes_to_keep and request.endpoint not in BEFORE_CODES_ARE_KEPT:
        return redirect("/admin/recovery-codes", 303)
    return None


def _has_nul() -> bool:
    """Whether a text holds the one character that PostgreSQL takes in none, and nobody can type."""
    texts = (*request.args.items(multi=True), *request.form.items(multi=True))
    return any("\0" in text for pair in texts for text in pair)


def _to_sign_in() -> BaseResponse:
    """To the sign-in page, and back to where somebody wanted to go; what was sent is kept, or said to be lost."""
    if kept := _kept():
        return sign_in_page(status=403, wanted=request.path if _has_page() else "", kept=kept)
    is_lost = request.method == "POST" and request.endpoint != "admin.sign_out"
    wanted = request.full_path.rstrip("?") if request.method == "GET" else request.path if _has_page() else ""
    told = [f"next={quote(wanted, safe='/')}"] if wanted not in ("", "/admin/") else []
    query = "&".join([*told, "lost=1"] if is_lost else told)
    return redirect(f"/admin/sign-in?{query}".rstrip("?"), 303)


def _has_page() -> bool:
    """Whether what was posted to can also be read, as a form that answers to itself."""
    return _urls().test(request.path, "GET")


def _urls() -> MapAdapter:
    adapter = current_app.create_url_adapter(request)
    assert adapter is not None  # there is one wherever there is a request
    return adapter


# --- A form that was sent after its session had run out


def _kept() -> str:
    """The form, sealed for whom this browser's session was; nothing where it was nobody's or was ended on purpose."""
    if request.method != "POST" or request.endpoint not in _again:
        return ""
    admin_id = services().admin_sessions.ran_out(admin_token())
    if admin_id is None:
        return ""
    return kept_form.seal(services().keyring, services().clock(), admin_id, request.path, request.form)


def my_kept_form() -> KeptForm | None:
    """The form in this sign-in form, where it is that of whoever is signed in now."""
    sealed = request.form.get(kept_form.FIELD, "")
    return kept_form.opened(services().keyring, services().clock(), me().admin_id, sealed) if sealed else None


def shown_again(kept: KeptForm) -> Response:
    """The page of a form as it was typed, for its admin to send once more. Raises Problem for too small a role."""
    endpoint, values = _urls().match(kept.path, "POST")
    if me().role not in allowed[endpoint]:
        raise Problem("role_too_small", status=403)
    request.form = kept.fields  # from here on this is the request that came too late
    g.is_shown_again = True
    return _again[endpoint](**values)


def sign_in_page(
    *, status: int = 200, email: str = "", fault: str = "", wanted: str = "", kept: str = ""
) -> Response:  # fmt: skip
    """The sign-in page; ``kept`` is a sealed form that waits in it."""
    has_owner = services().admins.has_owner()
    return render(
        "admin/access/sign_in.html", status=status, email=email, fault=fault, wanted=wanted, kept=kept,
        has_owner=has_owner,
    )  # fmt: skip


# --- Cookies


def keep_session(token: str) -> None:
    """Gives the browser its session, whatever the answer turns out to be; the server ends it."""
    g.new_token = token


@admin.after_request
def _hand_over(response: BaseResponse) -> BaseResponse:
    if token := g.get("new_token"):
        _set_cookie(response, ADMIN_COOKIE, token, ADMIN_SECONDS)
    return response


def forget_session(response: BaseResponse) -> BaseResponse:
    """Takes the token from the browser."""
    _set_cookie(response, ADMIN_COOKIE, "", 0)
    return response


def _set_cookie(response: BaseResponse, name: str, value: str, seconds: int) -> None:
    is_secure = services().settings.is_https
    response.set_cookie(
        cookie_name(name), value, max_age=seconds, secure=is_secure, httponly=True, samesite="Lax", path="/"
    )


def me() -> SignedIn:
    """Who is signed in. Only for routes that need somebody."""
    found: SignedIn = g.signed_in
    return found


def is_confirmed() -> bool:
    """Whether the second factor was shown within the last ten minutes."""
    return me().is_confirmed(services().clock())


def second_factor_fault() -> str:
    """Nothing where the second factor was shown lately, or is right in this form; else the sentence to show."""
    if is_confirmed():
        return ""
    typed = form_text("second_factor")
    if not typed:
        return _("Please type the code that your authenticator app shows now.")
    if services().admin_sessions.confirm(me(), typed):
        return ""
    return _("This is not the code that your app shows now. Wait for the next one and try again.")


def form_text(name: str) -> str:
    """A field of the form, without blanks around it."""
    return request.form.get(name, "").strip()


def render(template: str, *, status: int = 200, **values: Any) -> Response:
    """A page of the configuration page, with what every one of them needs."""
    session.modified = True
    signed_in: SignedIn | None = g.get("signed_in")
    snapshot = services().journeys.current()
    html = render_template(
        template,
        me=signed_in,
        portal=snapshot.portal,
        wall=snapshot.portal.wall,
        journey_name=snapshot.name_of,
        needs_second_factor=signed_in is not None and not is_confirmed(),
        notice=_notice(),
        is_shown_again=g.get("is_shown_again", False),
        has_private_targets=services().settings.allow_private_callbacks,
        now=services().clock(),
        is_refused=status == REFUSED,
        is_first_fault=partial(next, iter((True,)), False),
        **values,
    )
    response = make_response(html, status)
    if cookie_name(NOTICE_COOKIE) in request.cookies:
        _set_cookie(response, NOTICE_COOKIE, "", 0)
    return response


def done(path: str, text: str) -> BaseResponse:
    """On to an own path with 303; ``text`` is shown there once."""
    response = redirect(own_path(path), 303)
    signed = services().keyring.sign("notice", text[:NOTICE_LENGTH])
    _set_cookie(response, NOTICE_COOKIE, quote(signed), NOTICE_SECONDS)
    return response


def own_path(path: str, default: str = "/admin/") -> str:
    """A path below /admin/ as it is, anything else as the home page (R33)."""
    is_plain = path.startswith("/admin/") and not any(char in path for char in "\\\r\n\t") and "//" not in path
    return path if is_plain else default


def _notice() -> str:
    from_cookie = request.cookies.get(cookie_name(NOTICE_COOKIE), "")
    return services().keyring.verify("notice", unquote(from_cookie)) or "" if from_cookie else ""
