"""What a journey needs in Chat Flow, a check of what was put there, and how many customers the journey reaches."""

from __future__ import annotations

from flask import Response, request

from auth_portal.services.reach.route import DISABLED
from auth_portal.services.rehearsal.flow_setup import LogicCheck, check_logic, setup_of
from auth_portal.web.admin.frame import EVERYONE, render, route
from auth_portal.web.context import services

REFRESHES = 10  # of a page that waits for the count, two seconds apart; then a link


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
        reach=found,
        disabled=DISABLED,
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
