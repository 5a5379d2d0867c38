"""The customer's pages: landing, verify, done. Each view parses a form, calls one service, and renders or redirects.

It knows no method by name: the page of one is ``templates/methods/<name>.html``. A GET changes nothing (R31).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from flask import (
    Blueprint,
    Response,
    g,
    get_template_attribute,
    make_response,
    redirect,
    render_template,
    request,
    session,
)
from flask_wtf.csrf import CSRFError
from markupsafe import Markup, escape
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import Problem, TooMany
from auth_portal.services.verification.begin import Landing, LandingForm
from auth_portal.services.verification.case import HeldVisit, Stage, Voice, visit_label
from auth_portal.services.verification.page import KnownVisit, MoveResult, Page
from auth_portal.services.verification.references import LinkReference, completed, dropped_names, read_query
from auth_portal.web.context import keep_visits, page_values, services, visit_root, visit_tokens
from auth_portal.web.edge import (
    OPEN_PATH,
    REFERENCE,
    csrf_token,
    language_url,
    offered_languages,
    problem_page,
    speak_for_customer,
)

visitor = Blueprint("visitor", __name__)
REFRESHES = 10  # times that /done looks again by itself before it offers a link
REFRESH_SECONDS = 2
FAULT_STATUS = 422
# What of a prompt's page belongs to one visit, and its texts, which the macros of macros/time.html make of seconds.
_OWN_TIMES = {"minutes_left": ("left", "seconds_left"), "until_resend": ("countdown", "resend_in_seconds")}
_OWN = ("prompt", "v", "typed", "destination", "purpose", "seconds_left", "resend_in_seconds")
DECLINES = ("not_me", "cancelled")  # why a link may be refused before it began anything


@visitor.get("/")
@visitor.get("/j/<slug>")
@visitor.get("/j/<slug>/t/<ticket>")
def landing(slug: str | None = None, ticket: str = "") -> Response:
    """Show whose page this is and ask for an identifier. Change nothing, so that link previews may come."""
    return _landing_page(slug, ticket, read_query(request.query_string.decode("utf-8", "surrogateescape")))


@visitor.get("/stop")
@visitor.get("/j/<slug>/stop")
@visitor.get("/j/<slug>/t/<ticket>/stop")
def confirm_decline(slug: str | None = None, ticket: str = "") -> Response:
    """Ask whether the link is to be declined. Change nothing."""
    reference = read_query(request.query_string.decode("utf-8", "surrogateescape"))
    path = request.path.removesuffix("stop")
    path = path if path == f"{visit_root()}/" else path.removesuffix("/")
    return _landing_page(slug, ticket, reference, template="visitor/stop.html", path=path)


@visitor.post("/")
@visitor.post("/j/<slug>")
@visitor.post("/j/<slug>/t/<ticket>")
def submit_landing(slug: str | None = None, ticket: str = "") -> BaseResponse:
    """Begin, join or decline a verification."""
    portal, tokens, fields = services(), visit_tokens(), request.form
    made_at = None
    if signed := fields.get("opened"):
        made_at = portal.transactions.keyring.verify(f"landing {slug or ''}", signed)
        if made_at is None:  # not signed by us
            raise Problem("bad_request")
    reference = completed(fields.get("reference", ""), fields.get("reference_tail", ""))
    dropped = fields.get("dropped", "")
    if asked := fields.get("lang"):
        g.asked_language = speak_for_customer(asked)
    form = LandingForm(
        slug=slug,
        ticket_token=ticket,
        reference=reference,
        dropped_parameters=dropped_names(dropped),
        made_at=datetime.fromisoformat(made_at).astimezone(UTC) if made_at else None,
        visit_tokens=tokens,
        address=g.address,
        identifier=fields.get("identifier", ""),
        declines=refusal if (refusal := fields.get("decline", "")) in DECLINES else "",
        again=bool(fields.get("again")),
        method=fields.get("method", ""),
        locale=g.asked_language,
        has_script=fields.get("script") == "1",
    )
    read = LinkReference(reference, dropped[:200])
    try:
        result = portal.verifications.beginnings.start_visit(form)
    except TooMany as refused:  # what was typed stays, and its button is the one to try again with
        page = _landing_page(slug, ticket, read, status=refused.status, fault=refused.code)
        page.headers["Retry-After"] = str(refused.retry_after_seconds)
        return page
    if result.fault or result.has_ended_before:
        status = FAULT_STATUS if result.fault else 200
        return _landing_page(
            slug, ticket, read, status=status, fault=result.fault, has_ended_before=result.has_ended_before
        )
    assert result.visit is not None, "a landing form without a fault leads to a visit"
    token, label = result.visit
    held = _held([other for other in tokens if other != token])
    kept, seconds = [token, *(one.token for one in held)], _longest(result.chat_seconds, held)
    return keep_visits(_next_page(label, is_over=result.is_over), kept, seconds)


def _held(tokens: Sequence[str]) -> list[HeldVisit]:
    """Return the visits of a browser's tokens. Without one nothing is looked up."""
    return services().verifications.moves.held(tokens) if tokens else []


def _longest(chat_seconds: int, held: Sequence[HeldVisit]) -> int:
    """Return for how long cookies must last: as long as the chat clock of any visit that needs them."""
    if not held:
        return chat_seconds
    now = services().clock()
    return max(chat_seconds, *(int((one.chat_ends_at - now).total_seconds()) for one in held))


def _landing_page(
    slug: str | None,
    ticket_token: str,
    reference: LinkReference,
    *,
    status: int = 200,
    fault: str = "",
    has_ended_before: bool = False,
    is_without_cookie: bool = False,
    template: str = "visitor/landing.html",
    path: str = "",
) -> Response:
    portal, is_form, path = services(), request.method == "POST", path or request.path
    landing = portal.verifications.landings.open(slug, ticket_token, reference.text)
    found, asked, form = landing.found_ticket, g.asked_language, request.form if is_form else {}
    speak_for_customer(asked, found.ticket.locale if found else "", words=landing.journey.words)
    held = _held(visit_tokens()) if not is_form else []
    g.chat_seconds, session.modified = _longest(landing.journey.chat_seconds, held), True

    def render(**own: object) -> str:
        return render_template(
            template,
            landing=landing,
            portal=landing.snapshot.portal,
            journey=landing.journey,
            look=landing.snapshot.look(landing.journey),
            known=_known(held, landing, reference.text),
            now=portal.clock(),
            typed=form.get("identifier", ""),
            fault=fault,
            has_ended_before=has_ended_before,
            is_again=has_ended_before or bool(form.get("again")),
            is_without_cookie=is_without_cookie,
            was_without_cookie=is_without_cookie and bool(form.get("cookieless")),
            **own,
        )

    made_at = form.get("opened") or portal.keyring.sign(f"landing {slug or ''}", portal.clock().isoformat())
    own = {"made_at": made_at, "path": path, "reference": reference.text, "dropped": reference.dropped}
    own, ticket = own | _links(path, reference), landing.ticket_facts(portal.keyring)
    if is_form or held or (ticket and ticket.payment) or g.get("services"):
        return make_response(render(ticket=ticket, **own), status)
    # What no two visitors share is in ``own``; all the rest is the same for a link, a language and a configuration.
    gap, shown = PreparedPage.gap, ticket
    if ticket:
        own |= {"number": ticket.number, "purpose": ticket.purpose}
        shown = replace(ticket, number=ticket.number and gap("number"), purpose=ticket.purpose and gap("purpose"))
    key = (template, landing.journey.slug, g.language, asked, shown, ticket and landing.first_methods)
    page = PreparedPage.kept(landing.snapshot.pages, key, lambda: render(ticket=shown, **{n: gap(n) for n in own}))
    return make_response(page.filled(own), status)


def _links(path: str, reference: LinkReference) -> dict[str, str]:
    """Return the addresses on a landing page that have its reference in them."""
    asked = g.asked_language
    query = f"{f'lang={asked}&' if asked else ''}reference={quote(reference.text, safe='')}"
    return {
        "link": f"{services().settings.public_url}{path}?{query}",
        "stop_link": f"{path.rstrip('/')}/stop?{query}",
        "language_url": language_url(),
    }


class PreparedPage:
    """A page that was rendered in advance, with gaps for what is a visitor's own."""

    MOST = 512  # that are kept of one configuration, which a snapshot has: about 5 MB
    _MARK = secrets.token_hex(6)  # that no text of anyone contains
    _GAP = re.compile(rf"{_MARK}(\w+)\.")

    def __init__(self, html: str) -> None:
        self._pieces = self._GAP.split(html)  # a text, the name of a gap, a text, …
        self._order = self._pieces[1::2]
        self.names = frozenset(self._order)

    @classmethod
    def gap(cls, name: str) -> str:
        """Return what stands for a value while a page is rendered in advance."""
        return f"{cls._MARK}{name}."

    @classmethod
    def kept(cls, pages: dict[Hashable, PreparedPage], key: Hashable, render: Callable[[], str]) -> PreparedPage:
        """Return the page of a key. It is rendered when it is first needed."""
        found = pages.get(key)
        if found is None:
            if len(pages) >= cls.MOST:
                pages.clear()
            g.csrf_token = cls.gap("csrf_token")
            try:
                found = pages[key] = cls(render())
            finally:
                del g.csrf_token
        return found

    def filled(self, values: Mapping[str, object]) -> str:
        """Return the page of one visitor. Values are escaped, for text and for attributes alike."""
        own = {"csrf_token": csrf_token(), **values} if "csrf_token" in self.names else values
        pieces = self._pieces.copy()
        escaped = {name: escape(own[name]) for name in self.names}
        pieces[1::2] = [escaped[name] for name in self._order]
        return "".join(pieces)

    @classmethod
    def of(cls, template: str, voice: Voice, **values: Hashable) -> PreparedPage:
        """Return the page that a template makes of these values, in the words of a journey.

        They are its key, with gaps where something is a visit's own: so that can be in no other visit's page.
        """
        key = (template, voice.journey.words, g.language, g.offered_languages, *values.values())
        return cls.kept(services().journeys.current().pages, key, lambda: render_template(template, **values))


def _known(held: Sequence[HeldVisit], landing: Landing, reference: str) -> KnownVisit | None:
    """Return what this browser has of the link already, for its page to say so instead of asking again."""
    if not held:
        return None
    ticket_id = landing.found_ticket.ticket.id if landing.found_ticket is not None else ""
    return services().verifications.moves.known(held, reference, landing.journey.callback.server, ticket_id)


@visitor.errorhandler(CSRFError)
def without_cookie(_error: CSRFError) -> BaseResponse:
    """Show the landing page again after a form without its cookie, with what was typed and a fresh token."""
    if request.endpoint != "visitor.submit_landing":
        token = _visit_shown(request.form.get("v", ""))
        return _next_page(visit_label(token) if token else "", is_over=False)
    args = request.view_args or {}
    slug, ticket = args.get("slug"), args.get("ticket", "")
    text, tail = request.form.get("reference", ""), request.form.get("reference_tail", "")
    try:
        return _landing_page(slug, ticket, LinkReference(completed(text, tail)), status=400, is_without_cookie=True)
    except Problem as problem:  # raised in an error handler, nothing else would make it a page
        return problem_page(problem)


@visitor.errorhandler(Problem)
def refused(problem: Problem) -> Response:
    """Show why a request was refused, in the language of the visit, if the browser has one."""
    is_about_visit = problem.code != "no_visit" and "landing" not in (request.endpoint or "")  # else it was looked up
    if problem.status < 500 and is_about_visit and visit_tokens():  # noqa: PLR2004
        with suppress(Exception):  # then it is in the browser's language
            token = _visit_shown(request.values.get("v", ""))
            _speak(services().verifications.moves.voice(token))
    return problem_page(problem)


@visitor.get("/language")
def languages() -> Response:
    """Offer the languages: for a visit of this browser, or for a page that needs none, which is then named."""
    path, found = request.args.get("to", ""), REFERENCE.search(request.query_string.decode("latin-1"))
    opened = OPEN_PATH.fullmatch(path)
    token = "" if opened else _visit_shown(request.args.get("v", ""))
    values, snapshot = page_values(), services().journeys.current()
    if opened and (known := snapshot.journeys.get(opened["slug"] or "")):
        values["look"] = snapshot.look(known.config)
    if token:
        try:
            _speak(services().verifications.moves.voice(token))
        except Problem:  # the browser's visit is over and deleted
            token = ""
    rest = f"&{found[1]}" if opened and found else ""
    at = path if opened else "/"
    choices = [(one, f"{at}?lang={one.code}{rest}") for one in offered_languages()]
    label = visit_label(token) if token else ""
    back = f"{visit_root()}/verify?v={label}" if token else ""
    if opened:
        asked = f"lang={g.asked_language}" if g.asked_language else ""
        back = f"{path}?{asked}{rest if asked else rest.removeprefix('&')}".removesuffix("?")
    values |= {"choices": choices, "v": label, "back": back, "language_url": ""}
    return make_response(render_template("visitor/language.html", **values))


@visitor.post("/language")
def speak() -> BaseResponse:
    """Show a visit of this browser in another language from now on."""
    chosen, token = request.form.get("lang", ""), _visit_shown(request.form.get("v", ""))
    if chosen not in g.offered_languages:
        raise Problem("bad_request")
    services().verifications.moves.speak(token, chosen)
    return _next_page(visit_label(token), is_over=False)


@visitor.get("/verify")
def prompt() -> BaseResponse:
    """Show the current prompt."""
    token = _visit_shown(request.args.get("v", ""))
    after_resend = request.args.get("sent") == "1"
    return _answer(token, services().verifications.moves.look(token, after_resend=after_resend))


@visitor.get("/verify/stop")
def confirm_stop() -> BaseResponse:
    """Ask whether the verification is to end: one step, so that no stray tap ends it."""
    return _aside("visitor/stop.html")


@visitor.get("/verify/help")
def show_help() -> BaseResponse:
    """Show what else the customer can do at this prompt."""
    return _aside("visitor/help.html")


def _aside(template: str) -> BaseResponse:
    token = _visit_shown(request.args.get("v", ""))
    result = services().verifications.moves.look(token)
    if result.page is None:
        return _next_page(visit_label(token), is_over=result.is_over)
    _speak(result.page.voice)
    return make_response(_prompt_page(template, result.page))


@visitor.post("/verify")
def prove() -> BaseResponse:
    """Take an identifier, a code, a password or the answers of a step, for the prompt that the form was made for."""
    token, prompt = _visit_and_prompt()
    return _answer(token, services().verifications.proofs.prove(token, prompt, request.form, g.address))


@visitor.get("/verify/decline")
def decline() -> BaseResponse:
    """Ask whether the terms shall really be declined."""
    token = _visit_shown(request.args.get("v", ""))
    result = services().verifications.moves.look(token)
    if result.page is None or result.page.stage is not Stage.TERMS:
        return _next_page(visit_label(token), is_over=result.is_over)
    g.chat_seconds = max(60, result.page.seconds_left)
    return make_response(render_template("visitor/decline.html", page=result.page))


@visitor.post("/verify/method")
def choose() -> BaseResponse:
    """Take a method."""
    token, prompt = _visit_and_prompt()
    return _answer(token, services().verifications.moves.choose(token, prompt, request.form.get("method", "")))


@visitor.post("/verify/resend")
def resend() -> BaseResponse:
    """Send the code again."""
    token, prompt = _visit_and_prompt()
    return _answer(token, services().verifications.moves.resend(token, prompt))


@visitor.post("/verify/change")
def change() -> BaseResponse:
    """Go back to the identifier."""
    token, prompt = _visit_and_prompt()
    return _answer(token, services().verifications.moves.change(token, prompt))


@visitor.post("/verify/cancel")
def cancel() -> BaseResponse:
    """End the verification, for one of three reasons."""
    token, prompt = _visit_and_prompt()
    reason = request.form.get("reason", "cancelled")
    return _answer(token, services().verifications.moves.cancel(token, prompt, reason))


def _speak(voice: Voice) -> None:
    if any(voice.locales) or voice.journey.wording:
        speak_for_customer(*voice.locales, words=voice.journey.words)


def _visit_shown(label: str, prompt: str = "") -> str:
    """Return the token of this browser's visit with a label, else with a prompt, else of the newest, or ""."""
    tokens = visit_tokens()
    if len(tokens) < 2:  # noqa: PLR2004 -- most browsers
        return tokens[0] if tokens else ""
    found = [token for token in tokens if visit_label(token) == label]
    if not found and prompt:  # a form of the release before, or of a script
        found = [one.token for one in _held(tokens) if one.prompt == prompt]
    return [*found, *tokens][0]


def _visit_and_prompt() -> tuple[str, str]:
    prompt = request.form.get("prompt", "")
    return _visit_shown(request.form.get("v", ""), prompt), prompt


def _answer(token: str, result: MoveResult) -> BaseResponse:
    """Send the browser on with 303, or show the page with what was wrong."""
    page = result.page
    if page is None:
        more = "&sent=1" if result.is_sent else ""
        return _next_page(visit_label(token), is_over=result.is_over, more=more)
    _speak(page.voice)
    template = f"methods/{page.method}.html" if page.stage is Stage.PROVING else f"visitor/{page.stage}.html"
    g.chat_seconds = max(60, page.seconds_left)
    answer = {"typed": request.form.get("identifier"), "wrong_code": _wrong_code(result)} if result.note else {}
    response = make_response(_prompt_page(template, page, result.note, **answer))
    response.status_code = FAULT_STATUS if result.note else 200
    if result.retry_after_seconds:
        response.status_code = 429
        response.headers["Retry-After"] = str(result.retry_after_seconds)
    return response


def _prompt_page(template: str, page: Page, note: str = "", **answer: str | None) -> str:
    """Return a page of a prompt. If nothing is wrong, all of it that other visits show as well was rendered once."""
    if note or page.view is not None or page.payment is not None or g.get("services"):
        url = f"{g.get('visit_root', '')}/language?v={page.v}"
        return render_template(template, page=page, note=note, language_url=url, **answer)
    gap, own = PreparedPage.gap, {name: getattr(page, name) for name in _OWN}
    gaps: dict[str, Any] = {name: value and gap(name) for name, value in own.items()}
    shared = replace(page, **gaps, sends_left=min(page.sends_left, 1), changes_left=min(page.changes_left, 1))
    texts = {name: gap(name) for name in _OWN_TIMES}
    url = f"/language?v={shared.v}"
    prepared = PreparedPage.of(template, page.voice, page=shared, note="", language_url=url, **texts)
    for name in prepared.names & _OWN_TIMES.keys():
        macro, seconds = _OWN_TIMES[name]
        own[name] = get_template_attribute("macros/time.html", macro)(own[seconds])
    return prepared.filled(own)


@visitor.app_template_filter()
def grouped(code: str) -> str:
    """Return a code in groups of three or four digits, as people read it."""
    size = 4 if len(code) % 4 == 0 else 3
    return " ".join(code[at : at + size] for at in range(0, len(code), size))


def _wrong_code(result: MoveResult) -> str:
    """Return the code that was typed, for the page that says it is wrong: people see what they mistyped."""
    typed = "".join(filter(str.isdecimal, request.form.get("code", "")))
    is_code = result.note == "code_wrong" and result.page is not None and len(typed) == result.page.digits
    return grouped(typed) if is_code else ""


def _next_page(label: str, *, is_over: bool, more: str = "") -> BaseResponse:
    """Send the browser to the current page of a visit, by its label: other tabs may show others."""
    which = f"?v={label}{more}" if label else ""
    return redirect(f"{visit_root()}{'/done' if is_over else '/verify'}{which}", 303)


@visitor.get("/done")
def done() -> BaseResponse:
    """Show how it ended, and whether the chat has the result; reload by itself until that is settled."""
    token = _visit_shown(request.args.get("v", ""))
    ending = services().verifications.endings.done(token)
    if ending is None:
        return _next_page(visit_label(token), is_over=False)
    _speak(ending.voice)
    looked = min(REFRESHES, request.args.get("looked", 0, type=int))
    label, is_open = visit_label(token), ending.chat == "open"
    values = {"ending": ending, "v": label, "is_open": is_open, "can_look": looked >= REFRESHES}
    if ending.payment is not None and ending.ended_at is not None:
        portal = services().journeys.current().portal
        values["approved_at"] = portal.shown_time(ending.ended_at, services().clock())
    if request.accept_mimetypes.best_match(("text/html", "application/json")) == "application/json":
        text = Markup(render_template("visitor/chat_state.html", **values))  # nosec B704  # noqa: S704 -- ours
        return make_response({"state": ending.chat, "text": text.striptags()})
    if ending.payment is not None or ending.chat_code or ending.handover is not None or g.get("services"):
        html = render_template("visitor/done.html", **values, language_url=f"{visit_root()}/language?v={label}")
    else:
        gap, own = PreparedPage.gap, {"v": label, "purpose": ending.purpose}
        shared = replace(ending, purpose=ending.purpose and gap("purpose"), ended_at=None)
        values |= {"ending": shared, "v": gap("v"), "language_url": f"/language?v={gap('v')}"}
        html = PreparedPage.of("visitor/done.html", ending.voice, **values).filled(own)
    response = make_response(html)
    if is_open and 0 <= looked < REFRESHES and not (ending.has_script or ending.shows_code):
        response.headers["Refresh"] = (
            f"{REFRESH_SECONDS}; url={visit_root()}/done?v={visit_label(token)}&looked={looked + 1}"
        )
    return response
