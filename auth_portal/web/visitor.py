"""The customer's pages: landing, verify, done. Each view parses a form, calls one service, and renders or redirects.

It knows no method by name: the page of one is ``templates/methods/<name>.html``. A GET changes nothing (R31).
"""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

from flask import Blueprint, Response, g, make_response, redirect, render_template, request, session
from flask_wtf.csrf import CSRFError
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import Problem
from auth_portal.services.verification.begin import LandingForm
from auth_portal.services.verification.case import Stage
from auth_portal.services.verification.page import MoveResult
from auth_portal.services.verification.references import LinkReference, completed, dropped_names, read_query
from auth_portal.web.context import keep_visit, services, visit_root, visit_token
from auth_portal.web.edge import problem_page

visitor = Blueprint("visitor", __name__)
REFRESHES = 10  # times that /done looks again by itself before it offers a link
REFRESH_SECONDS = 2
FAULT_STATUS = 422


@visitor.get("/")
@visitor.get("/j/<slug>")
@visitor.get("/j/<slug>/t/<ticket>")
def landing(slug: str | None = None, ticket: str = "") -> Response:
    """Show whose page this is and ask for an identifier. Change nothing, so that link previews may come."""
    return _landing_page(slug, ticket, read_query(request.query_string.decode("utf-8", "surrogateescape")))


@visitor.post("/")
@visitor.post("/j/<slug>")
@visitor.post("/j/<slug>/t/<ticket>")
def submit_landing(slug: str | None = None, ticket: str = "") -> BaseResponse:
    """Begin, join or decline a verification."""
    portal, token, fields = services(), visit_token(), request.form
    made_at = None
    if signed := fields.get("opened"):
        made_at = portal.transactions.keyring.verify(f"landing {slug or ''}", signed)
        if made_at is None:  # not signed by us
            raise Problem("bad_request")
    reference = completed(fields.get("reference", ""), fields.get("reference_tail", ""))
    dropped = fields.get("dropped", "")
    form = LandingForm(
        slug=slug,
        ticket_token=ticket,
        reference=reference,
        dropped_parameters=dropped_names(dropped),
        made_at=datetime.fromisoformat(made_at).astimezone(UTC) if made_at else None,
        visit_token=token,
        address=g.address,
        identifier=fields.get("identifier", ""),
        declines=fields.get("decline") == "not_me",
        again=bool(fields.get("again")),
        method=fields.get("method", ""),
    )
    result = portal.verifications.beginnings.start_visit(form)
    if result.fault or result.has_ended_before:
        status = FAULT_STATUS if result.fault else 200
        read = LinkReference(reference, dropped[:200])
        return _landing_page(
            slug, ticket, read, status=status, fault=result.fault, has_ended_before=result.has_ended_before
        )
    return keep_visit(_next_page(is_over=result.is_over), result.visit_token, result.chat_seconds)


def _landing_page(
    slug: str | None,
    ticket_token: str,
    reference: LinkReference,
    *,
    status: int = 200,
    fault: str = "",
    has_ended_before: bool = False,
    is_without_cookie: bool = False,
) -> Response:
    portal = services()
    landing = portal.verifications.landings.open(slug, ticket_token, reference.text)
    first_methods = landing.first_methods
    form = request.form if request.method == "POST" else {}  # reading one costs as much as half the page
    g.chat_seconds = landing.journey.chat_seconds
    session.modified = True
    html = render_template(
        "visitor/landing.html",
        portal=landing.snapshot.portal,
        journey=landing.journey,
        look=landing.snapshot.look(landing.journey),
        is_closed=landing.is_closed,
        lacks_ticket=landing.lacks_ticket,
        ticket=landing.ticket_facts(portal.keyring),
        weaker=landing.weaker,
        steps=landing.methods,
        first_method=next(iter(first_methods), ""),
        has_other_methods=len(first_methods) > 1,
        reference=reference,
        typed=form.get("identifier", ""),
        made_at=form.get("opened") or portal.keyring.sign(f"landing {slug or ''}", portal.clock().isoformat()),
        fault=fault,
        has_ended_before=has_ended_before,
        is_again=has_ended_before or bool(form.get("again")),
        is_without_cookie=is_without_cookie,
        was_without_cookie=is_without_cookie and bool(form.get("cookieless")),
        link=f"{portal.settings.public_url}{request.path}?reference={quote(reference.text, safe='')}",
        path=request.path,
    )
    return make_response(html, status)


@visitor.errorhandler(CSRFError)
def without_cookie(_error: CSRFError) -> BaseResponse:
    """Show the landing page again after a form without its cookie, with what was typed and a fresh token."""
    if request.endpoint != "visitor.submit_landing":
        return _next_page(is_over=False)
    args = request.view_args or {}
    slug, ticket = args.get("slug"), args.get("ticket", "")
    text, tail = request.form.get("reference", ""), request.form.get("reference_tail", "")
    try:
        return _landing_page(slug, ticket, LinkReference(completed(text, tail)), status=400, is_without_cookie=True)
    except Problem as problem:  # raised in an error handler, nothing else would make it a page
        return problem_page(problem)


@visitor.get("/verify")
def prompt() -> BaseResponse:
    """Show the current prompt."""
    return _answer(services().verifications.moves.look(visit_token()))


@visitor.post("/verify")
def prove() -> BaseResponse:
    """Take an identifier, a code or a password for the prompt that the form was made for."""
    proofs = services().verifications.proofs
    return _answer(proofs.prove(visit_token(), request.form.get("prompt", ""), request.form, g.address))


@visitor.post("/verify/method")
def choose() -> BaseResponse:
    """Take a method."""
    return _answer(services().verifications.moves.choose(*_visit_and_prompt(), request.form.get("method", "")))


@visitor.post("/verify/resend")
def resend() -> BaseResponse:
    """Send the code again."""
    return _answer(services().verifications.moves.resend(*_visit_and_prompt()))


@visitor.post("/verify/change")
def change() -> BaseResponse:
    """Go back to the identifier."""
    return _answer(services().verifications.moves.change(*_visit_and_prompt()))


@visitor.post("/verify/cancel")
def cancel() -> BaseResponse:
    """End the verification, for one of three reasons."""
    reason = request.form.get("reason", "cancelled")
    return _answer(services().verifications.moves.cancel(*_visit_and_prompt(), reason))


def _visit_and_prompt() -> tuple[str, str]:
    return visit_token(), request.form.get("prompt", "")


def _answer(result: MoveResult) -> BaseResponse:
    """Send the browser on with 303, or show the page with what was wrong."""
    page = result.page
    if page is None:
        return _next_page(is_over=result.is_over)
    template = f"methods/{page.method}.html" if page.stage is Stage.PROVING else f"visitor/{page.stage}.html"
    g.chat_seconds = max(60, page.seconds_left)
    response = make_response(
        render_template(template, page=page, note=result.note, typed=request.form.get("identifier"))
    )
    response.status_code = FAULT_STATUS if result.note else 200
    if result.retry_after_seconds:
        response.status_code = 429
        response.headers["Retry-After"] = str(result.retry_after_seconds)
    return response


def _next_page(*, is_over: bool) -> BaseResponse:
    return redirect(f"{visit_root()}{'/done' if is_over else '/verify'}", 303)


@visitor.get("/done")
def done() -> BaseResponse:
    """Show how it ended, and whether the chat has the result; reload by itself until that is settled."""
    ending = services().verifications.endings.done(visit_token())
    if ending is None:
        return _next_page(is_over=False)
    looked = min(REFRESHES, request.args.get("looked", 0, type=int))
    is_open = ending.delivery == "pending" and not ending.is_chat_over
    response = make_response(
        render_template("visitor/done.html", ending=ending, is_open=is_open, can_look=looked >= REFRESHES)
    )
    if is_open and 0 <= looked < REFRESHES:
        response.headers["Refresh"] = f"{REFRESH_SECONDS}; url={visit_root()}/done?looked={looked + 1}"
    return response
