"""The customer's pages: landing, verify, done. Each view parses a form, calls one service, and renders or redirects.

It knows no method by name: a method's page is ``templates/methods/<name>.html``. GET and HEAD change nothing (R31).
"""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

from flask import Blueprint, Response, g, make_response, redirect, render_template, request, session
from flask_wtf.csrf import CSRFError
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import Problem
from auth_portal.services.beginnings import Begun, Landing
from auth_portal.services.cases import Stage
from auth_portal.services.config.journey import without_mail
from auth_portal.services.config.strength import weaker_twins
from auth_portal.services.tickets import Told
from auth_portal.services.verifications import Answer
from auth_portal.web import driving
from auth_portal.web.context import keep_visit, services, visit_token
from auth_portal.web.edge import problem_page
from auth_portal.web.reference import ReadReference, completed, dropped_names, read_query

visitor = Blueprint("visitor", __name__)
driving.register(visitor)
REFRESHES = 10  # times that /done looks again by itself before it offers a link
REFRESH_SECONDS = 2
FAULT_STATUS = 422


@visitor.get("/")
@visitor.get("/j/<slug>")
@visitor.get("/j/<slug>/t/<ticket>")
def landing(slug: str | None = None, ticket: str = "") -> Response:
    """Says whose page this is and asks for a name. Changes nothing, so that link previews may come."""
    reference = read_query(_raw_query())
    return _landing_page(slug, ticket, reference)


@visitor.post("/")
@visitor.post("/j/<slug>")
@visitor.post("/j/<slug>/t/<ticket>")
def begin(slug: str | None = None, ticket: str = "") -> BaseResponse:
    """Begins, joins or declines a verification."""
    whole = completed(request.form.get("reference", ""), request.form.get("reference_tail", ""))
    landing = Landing(
        slug=slug,
        reference=whole,
        address=g.address,
        identifier=request.form.get("identifier", ""),
        made_at=_made_at(slug),
        token=visit_token(),
        declines=request.form.get("decline") == "not_me",
        again=bool(request.form.get("again")),
        dropped_parameters=dropped_names(request.form.get("dropped", "")),
        ticket=ticket,
    )
    return _begun(slug, ticket, services().verifications.beginnings.begin(landing), whole)


def _begun(slug: str | None, ticket: str, begun: Begun, reference: str) -> BaseResponse:
    read = ReadReference(reference, request.form.get("dropped", "")[:200])
    if begun.fault:
        return _landing_page(slug, ticket, read, status=FAULT_STATUS, fault=begun.fault)
    if begun.has_ended_before:
        return _landing_page(slug, ticket, read, has_ended_before=True)
    response = redirect("/done" if begun.is_over else "/verify", 303)
    keep_visit(response, begun.token, begun.chat_seconds)  # type: ignore[arg-type]
    return response


def _landing_page(
    slug: str | None, ticket: str, reference: ReadReference, *, status: int = 200, fault: str = "",
    has_ended_before: bool = False, is_without_cookie: bool = False,
) -> Response:  # fmt: skip
    snapshot = services().journeys.current()
    journey = snapshot.journey(slug).config
    presented = services().tickets.find(journey, ticket, reference.text)
    told = presented.told(services().keyring) if presented is not None else None
    lacks_ticket = journey.relay_defence == "phone_match" and presented is None
    form = request.form if request.method == "POST" else {}  # reading one costs as much as half the page
    g.chat_seconds = journey.chat_seconds
    session.modified = True
    html = render_template(
        "visitor/landing.html",
        portal=snapshot.portal,
        journey=journey,
        is_closed=lacks_ticket or not snapshot.is_open(journey),
        lacks_ticket=lacks_ticket,
        ticket=told,
        reference=reference,
        typed=form.get("identifier", ""),
        made_at=form.get("opened") or services().keyring.sign(_purpose(slug), services().clock().isoformat()),
        fault=fault,
        has_ended_before=has_ended_before,
        is_again=has_ended_before or bool(form.get("again")),
        weaker=weaker_twins(journey, (now.config for now in snapshot.journeys.values())),
        ways=[snapshot.workable(journey, _ways(step.any_of, told)) for step in journey.verify_steps],
        is_without_cookie=is_without_cookie,
        was_without_cookie=is_without_cookie and bool(form.get("cookieless")),
        link=_link(reference.text),
        path=request.path,
    )
    return make_response(html, status)


def _ways(methods: tuple[str, ...], ticket: Told | None) -> tuple[str, ...]:
    """What a step offers: for a chat with a number nothing that sends a code elsewhere."""
    return without_mail(methods) if ticket is not None and ticket.number else methods


def _link(reference: str) -> str:
    return f"{services().settings.public_url}{request.path}?reference={quote(reference, safe='')}"


def _raw_query() -> str:
    return request.query_string.decode("utf-8", "surrogateescape")


def _purpose(slug: str | None) -> str:
    return f"landing {slug or ''}"


def _made_at(slug: str | None) -> datetime | None:
    """When the page of this form was made, from its signed time. Raises Problem for one that is not ours."""
    if not (signed := request.form.get("opened")):
        return None
    made_at = services().keyring.verify(_purpose(slug), signed)
    if made_at is None:
        raise Problem("bad_request")
    return datetime.fromisoformat(made_at).astimezone(UTC)


@visitor.errorhandler(CSRFError)
def without_cookie(_error: CSRFError) -> BaseResponse:
    """A form without its cookie: the landing page comes again with what was typed and a fresh token."""
    if request.endpoint != "visitor.begin":
        return redirect("/verify", 303)
    args = request.view_args or {}
    slug, ticket = args.get("slug"), args.get("ticket", "")
    text, tail = request.form.get("reference", ""), request.form.get("reference_tail", "")
    try:
        return _landing_page(slug, ticket, ReadReference(completed(text, tail)), status=400, is_without_cookie=True)
    except Problem as problem:  # raised in an error handler, nobody else would make it a page
        return problem_page(problem)


@visitor.get("/verify")
def prompt() -> BaseResponse:
    """The current prompt."""
    return _answered(services().verifications.look(visit_token()))


@visitor.post("/verify")
def prove() -> BaseResponse:
    """Takes a name, a code or a password for the prompt that the form was made for."""
    verifications = services().verifications
    return _moved(verifications.prove(visit_token(), _prompt(), request.form, g.address))


@visitor.post("/verify/method")
def choose() -> BaseResponse:
    """Takes a method."""
    return _moved(services().verifications.choose(visit_token(), _prompt(), request.form.get("method", "")))


@visitor.post("/verify/resend")
def resend() -> BaseResponse:
    """Sends the code again."""
    return _moved(services().verifications.resend(visit_token(), _prompt()))


@visitor.post("/verify/change")
def change() -> BaseResponse:
    """Back to naming oneself."""
    return _moved(services().verifications.change(visit_token(), _prompt()))


@visitor.post("/verify/cancel")
def cancel() -> BaseResponse:
    """Ends it, for one of three reasons."""
    return _moved(services().verifications.cancel(visit_token(), _prompt(), request.form.get("reason", "cancelled")))


def _prompt() -> str:
    return request.form.get("prompt", "")


def _moved(answer: Answer) -> BaseResponse:
    """After a POST: on with 303, or the same page with what was wrong."""
    if answer.page is None:
        return redirect("/done" if answer.is_over else "/verify", 303)
    return _answered(answer)


def _answered(answer: Answer) -> BaseResponse:
    page = answer.page
    if page is None:
        return redirect("/done" if answer.is_over else "/verify", 303)
    template = f"methods/{page.method}.html" if page.stage is Stage.PROVING else f"visitor/{page.stage}.html"
    g.chat_seconds = max(60, page.seconds_left)
    response = make_response(
        render_template(template, page=page, note=answer.note, typed=request.form.get("identifier"))
    )
    response.status_code = FAULT_STATUS if answer.note else 200
    if answer.retry_after_seconds:
        response.status_code = 429
        response.headers["Retry-After"] = str(answer.retry_after_seconds)
    return response


@visitor.get("/done")
def done() -> BaseResponse:
    """How it ended, and whether the chat knows; looks again by itself until that is settled."""
    ending = services().verifications.endings.done(visit_token())
    if ending is None:
        return redirect("/verify", 303)
    looked = min(REFRESHES, request.args.get("looked", 0, type=int))
    is_open = ending.told == "pending" and not ending.is_chat_over
    response = make_response(
        render_template("visitor/done.html", ending=ending, is_open=is_open, can_look=looked >= REFRESHES)
    )
    if is_open and 0 <= looked < REFRESHES:
        response.headers["Refresh"] = f"{REFRESH_SECONDS}; url=/done?looked={looked + 1}"
    return response
