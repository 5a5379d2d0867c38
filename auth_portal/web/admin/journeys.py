"""Journeys: the list, one journey, its making and changing, its versions. Everybody reads, owners change."""

from __future__ import annotations

from flask import Response

from auth_portal.services.config_rules import warnings_of
from auth_portal.web.admin.guard import EVERYONE, render, route
from auth_portal.web.context import services

PATH = "/admin/journeys"


@route("/journeys", allow=EVERYONE)
def journeys() -> Response:
    """All journeys, and whether customers get through."""
    snapshot = services().journeys.current()
    found = services().journey_history.journeys()
    return render("admin/journeys/list.html", journeys=[(listed, snapshot.is_open(listed.config)) for listed in found])


@route("/journeys/<slug>", allow=EVERYONE)
def journey(slug: str) -> Response:
    """One journey: what it does, what threatens it, and all that can be done with it."""
    found = services().journey_history.journey(slug)
    return render(
        "admin/journeys/journey.html",
        slug=slug,
        journey=found.config,
        edition=found.edition,
        is_open=services().journeys.current().is_open(found.config),
        warnings=list(warnings_of(found.config)),
    )
