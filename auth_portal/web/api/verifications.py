"""Verifications by program: what came of the links that were opened. A reference is never given out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import Response

from auth_portal.clock import iso
from auth_portal.errors import NotFound
from auth_portal.services.config.journey import OUTCOMES
from auth_portal.services.stories.stories import LIVE, StoryFilter, StoryLine
from auth_portal.web.api.frame import answer, is_text, is_time, one_of, page, read_query, read_time, route, sent
from auth_portal.web.context import services


@route("/verifications", scope="verifications:read")
def list_verifications() -> Response:
    """A page of verifications, the newest first."""
    filters, paging = read_query(
        journey=is_text, outcome=one_of(*OUTCOMES, LIVE), customer_id=is_text, since=is_time, until=is_time
    )
    wanted = StoryFilter(
        slug=filters.get("journey", ""), outcome=filters.get("outcome", ""),
        since=read_time(filters.get("since")), until=read_time(filters.get("until")),
    )  # fmt: skip
    if "customer_id" in filters:
        try:
            row = services().people.row_of(filters["customer_id"])
        except NotFound:
            return page([], "")
        wanted = replace(wanted, customers=(row,))
    found = services().stories.page(wanted, after=paging.id_after(), most=paging.limit)
    return page([_shown(line) for line in found.rows], found.older)


@route("/verifications/<verification_id>", scope="verifications:read")
def read_verification(verification_id: str) -> Response:
    """One verification."""
    return sent(answer(_shown(services().stories.line(verification_id))))


def _shown(line: StoryLine) -> dict[str, Any]:
    return {
        "id": line.id,
        "journey": line.slug,
        "began_at": iso(line.began_at),
        "ended_at": iso(line.ended_at) if line.ended_at else None,
        "outcome": line.outcome,
        "customer_id": line.customer_id,
        "methods": line.methods.split("+") if line.methods else [],
        "callback": line.told,
    }
