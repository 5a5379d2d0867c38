"""The home page: what needs attention now, and how the last hour, day and week went."""

from __future__ import annotations

from flask import Response, request

from auth_portal.services.history.overview import PERIODS
from auth_portal.web.admin.frame import EVERYONE, render, route
from auth_portal.web.context import services


@route("/", allow=EVERYONE)
def home() -> Response:
    """Show the home page."""
    period = request.args.get("period", "day")
    overview = services().overview
    return render(
        "admin/home.html",
        periods=tuple(PERIODS),
        figures=overview.figures(period if period in PERIODS else "day"),
        checklist=overview.checklist(),
        locked=overview.locked(),
        warnings=services().health.warnings(),
        alerts=services().alerts.open(services().clock()),
    )
