"""A journey in use: what it needs in Chat Flow, how many customers it reaches, and what they answered and accepted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.services.rehearsal.flow_setup import LogicCheck, check_logic, setup_of
from auth_portal.web.admin.frame import EVERYONE, INSPECTORS, me, render, route, second_factor_fault
from auth_portal.web.context import services

REFRESHES = 10  # of a page that waits for the count, two seconds apart; then a link
PERIODS = (7, 30, 90, 0)  # days of the answers that are shown; 0 for all
USUAL_PERIOD = 30


@route("/journeys/<slug>/setup", allow=EVERYONE)
def panel(slug: str) -> Response:
    """Show what to put into Chat Flow."""
    return _panel(slug)


@route("/journeys/<slug>/setup", allow=EVERYONE, methods=("POST",))
def check(slug: str) -> Response:
    """Check the values of a Logic section. Changes nothing."""
    pasted = request.form.get("values", "")
    checked = check_logic(services().journeys.current().journey(slug).config, pasted)
    return _panel(slug, pasted=pasted, checked=checked, status=200 if checked.count else 422)


def _panel(slug: str, *, pasted: str = "", checked: LogicCheck | None = None, status: int = 200) -> Response:
    journey, public_url = services().journeys.current().journey(slug).config, services().settings.public_url
    return render(
        "admin/setup/panel.html",
        status=status,
        journey=journey,
        setup=setup_of(journey, public_url),
        public_url=public_url,
        pasted=pasted,
        checked=checked,
    )


@route("/journeys/<slug>/reach", allow=EVERYONE)
def reach(slug: str) -> Response:
    """Show how many customers can pass each step."""
    journey, found = services().journeys.current().journey(slug).config, services().reaches.reach(slug)
    seen = request.args.get("seen", 0, type=int)
    is_waiting = found.counted_at is None and seen < REFRESHES
    response = render(
        "admin/setup/reach.html",
        journey=journey,
        reach=found,
        is_waiting=is_waiting,
        is_matched=journey.defence.demands_ticket,
        asks_no_one=journey.naming_step is None,
    )
    if is_waiting:
        response.headers["Refresh"] = f"2; url={request.path}?seen={seen + 1}"
    return response


@route("/journeys/<slug>/reach/people", allow=EVERYONE)
def unreached(slug: str) -> Response:
    """Show which customers cannot pass, for any reason or for one."""
    journey = services().journeys.current().journey(slug).config
    why, after = request.args.get("why", ""), request.args.get("after", "")
    page = services().reaches.unreached(slug, why, after)
    response = render("admin/setup/unreached.html", journey=journey, page=page, why=why, after=after)
    if not page.is_counted:
        response.headers["Refresh"] = "2"
    return response


# --- What customers answered and accepted


@route("/journeys/<slug>/answers", allow=EVERYONE)
def answers(slug: str) -> Response:
    """Show the figures of the stored answers."""
    return _answers_page(slug, {})


def _answers_page(slug: str, faults: Mapping[str, str]) -> Response:
    journey, days = services().journey_history.journey(slug).config, _period()
    has_terms = any(step.kind == "terms" for step in journey.steps)
    return render(
        "admin/journeys/answers.html",
        status=422 if faults else 200,
        slug=slug,
        journey=journey,
        days=days,
        periods=PERIODS,
        figures=services().results.figures(slug, journey.steps, days),
        has_terms=has_terms,
        terms=services().results.terms(slug, days) if has_terms else None,
        may_export=me().may_inspect,
        faults=faults,
    )


def _period() -> int:
    days = request.values.get("days", USUAL_PERIOD, type=int)
    return days if days in PERIODS else USUAL_PERIOD


@route(
    "/journeys/<slug>/answers/export", allow=INSPECTORS, methods=("POST",), again=lambda slug: _answers_page(slug, {})
)
def export_answers(slug: str) -> BaseResponse:
    """Send the stored answers as a file, in pieces."""
    journey = services().journey_history.journey(slug).config
    if fault := second_factor_fault():
        return _answers_page(slug, {"answers": fault})
    lines = services().results.answers_file(slug, journey.steps, _period(), admin_id=me().admin_id)
    return _csv_file(lines, f"{slug}-answers.csv")


@route(
    "/journeys/<slug>/acceptances/export",
    allow=INSPECTORS,
    methods=("POST",),
    again=lambda slug: _answers_page(slug, {}),
)
def export_acceptances(slug: str) -> BaseResponse:
    """Send who accepted which terms as a file, in pieces."""
    services().journey_history.journey(slug)
    if fault := second_factor_fault():
        return _answers_page(slug, {"acceptances": fault})
    lines = services().results.acceptances_file(slug, _period(), admin_id=me().admin_id)
    return _csv_file(lines, f"{slug}-acceptances.csv")


def _csv_file(lines: Iterator[str], name: str) -> Response:
    response = Response(lines, content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
