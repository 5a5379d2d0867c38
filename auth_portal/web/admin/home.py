"""The home page: what needs attention now, and how the last hour, day and week went."""

from __future__ import annotations

from flask import Response

from auth_portal.web.admin.guard import EVERYONE, render, route


@route("/", allow=EVERYONE)
def home() -> Response:
    """Where an admin begins."""
    return render("admin/home.html")
