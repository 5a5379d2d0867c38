"""Deliveries in the API: what left and what did not, and retries of what failed."""

from __future__ import annotations

from typing import Any

from flask import Response

from auth_portal.clock import iso
from auth_portal.errors import NotFound, Problem
from auth_portal.services.access.api_answers import ApiResponse, Write
from auth_portal.services.history.delivery_lists import (
    KINDS,
    PENDING,
    STATES,
    DeliveryFilter,
    DeliveryLine,
    DeliveryPlace,
)
from auth_portal.web.api.frame import (
    InputFault,
    answer,
    caller,
    changes_page,
    is_id,
    is_time,
    once,
    one_of,
    page,
    read_json,
    read_query,
    read_time,
    refuse,
    route,
    sent,
)
from auth_portal.web.context import services

REASON_LENGTH = 200


@route("/deliveries", scope="deliveries:read")
def list_deliveries() -> Response:
    """Return a page of deliveries, the newest first."""
    filters, paging = read_query(
        kind=one_of(*KINDS), state=one_of(*STATES), verification=is_id, since=is_time, until=is_time
    )
    wanted = DeliveryFilter(
        kind=filters.get("kind", ""),
        state=filters.get("state", ""),
        verification_id=filters.get("verification", ""),
        since=read_time(filters.get("since")),
        until=read_time(filters.get("until")),
    )
    found = services().delivery_lists.page(wanted, after=paging.id_after(), most=paging.limit)
    return page([_shown(line) for line in found.rows], found.older)


@route("/changes/deliveries", scope="deliveries:read")
def list_delivery_changes() -> Response:
    """Send the deliveries that have ended since ``after``, in the order of their ends."""
    _filters, paging = read_query()
    place = DeliveryPlace.read(paging.text_after()) if paging.after else None
    found = services().delivery_lists.ended_after(place, paging.limit)
    return changes_page([_shown(line) for line in found.lines], str(found.place), is_more=found.is_more)


@route("/deliveries/<delivery_id>", scope="deliveries:read")
def read_delivery(delivery_id: str) -> Response:
    """Return one delivery with every attempt."""
    story = services().delivery_lists.get(delivery_id)
    tries = [
        {
            "number": attempt.number,
            "began_at": iso(attempt.began_at),
            "ended_at": iso(attempt.ended_at) if attempt.ended_at else None,
            "milliseconds": attempt.milliseconds,
            "fate": attempt.fate,
            "status": attempt.status,
            "detail": attempt.detail,
        }
        for attempt in story.tries
    ]
    return sent(answer({**_shown(story.line), "tries": tries}))


@route("/deliveries/<delivery_id>/retry", scope="deliveries:retry", method="POST")
@once
def retry_delivery(_write: Write, delivery_id: str) -> ApiResponse:
    """Put a delivery back into the outbox, by the rules of D6."""
    body = read_json()
    reason, is_confirmed = body.get("reason"), body.get("confirmed", False)
    faults = [InputFault(f"/{name}", "is not known here") for name in sorted(body.keys() - {"reason", "confirmed"})]
    if not isinstance(reason, str) or not reason.strip() or len(reason) > REASON_LENGTH:
        faults.append(InputFault("/reason", f"must say why, in 1 to {REASON_LENGTH} characters"))
    if not isinstance(is_confirmed, bool):
        faults.append(InputFault("/confirmed", "must be true or false"))
    if faults:
        raise refuse("body_invalid", faults)
    # The answer is stored after the write: a repetition finds the delivery under way, and nothing is sent twice.
    (result,) = services().retries.retry(
        [delivery_id], reason=str(reason), is_confirmed=bool(is_confirmed), api_key=caller().key_id
    )
    if result.refusal == "unknown":
        raise NotFound("delivery_unknown")
    if result.refusal:
        raise Problem(f"retry_{result.refusal}", status=409, detail=result.text)
    return answer({"id": delivery_id, "state": PENDING}, 202)


def _shown(line: DeliveryLine) -> dict[str, Any]:
    is_under_way = line.state == PENDING
    return {
        "id": line.id,
        "kind": line.kind,
        "verification": line.verification_id,
        "target": line.target,
        "state": line.state,
        "reason": line.reason,
        "attempts": line.attempts,
        "created_at": iso(line.created_at),
        "next_at": iso(line.next_at) if is_under_way else None,
        "give_up_at": iso(line.give_up_at),
        "ended_at": iso(line.ended_at) if line.ended_at else None,
        "may_be_retried": line.may_be_retried,
    }
