"""Deliveries by program: what left and what did not, and sending again what came to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response

from auth_portal.clock import iso
from auth_portal.errors import NotFound, Problem
from auth_portal.services.access.api_answers import Answer
from auth_portal.services.delivery_lists import KINDS, AttemptLine, DeliveryFilter, DeliveryLine
from auth_portal.services.outbox import State
from auth_portal.web.api.frame import (
    Fault,
    answer,
    caller,
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
    """A page of deliveries, the newest first."""
    filters, paging = read_query(
        kind=one_of(*KINDS), state=one_of(*State), verification=is_id, since=is_time, until=is_time
    )
    wanted = DeliveryFilter(
        kind=filters.get("kind", ""), state=filters.get("state", ""), verification_id=filters.get("verification", ""),
        since=read_time(filters.get("since")), until=read_time(filters.get("until")),
    )  # fmt: skip
    found = services().delivery_lists.page(wanted, after=paging.id_after(), most=paging.limit)
    return page([_shown(line) for line in found.rows], found.older)


@route("/deliveries/<delivery_id>", scope="deliveries:read")
def read_delivery(delivery_id: str) -> Response:
    """One delivery with every attempt."""
    story = services().delivery_lists.get(delivery_id)
    return sent(answer({**_shown(story.line), "tries": [_attempt(attempt) for attempt in story.tries]}))


@route("/deliveries/<delivery_id>/retry", scope="deliveries:retry", method="POST")
def retry_delivery(delivery_id: str) -> Response:
    """Puts a delivery back into the outbox, by the rules of D6."""
    return once(lambda _keep: _retry(delivery_id))


def _retry(delivery_id: str) -> Answer:
    # Without a ``keep``: a repetition finds the delivery under way, and nothing leaves twice.
    reason, is_confirmed = _read_retry(read_json())
    (done,) = services().delivery_lists.retry(
        [delivery_id], reason=reason, is_confirmed=is_confirmed, api_key=caller().key_id
    )
    if done.refusal == "unknown":
        raise NotFound("delivery_unknown")
    if done.refusal:
        raise Problem(f"retry_{done.refusal}", status=409, detail=done.text)
    return answer({"id": delivery_id, "state": State.PENDING}, 202)


def _read_retry(body: Mapping[str, Any]) -> tuple[str, bool]:
    reason, is_confirmed = body.get("reason"), body.get("confirmed", False)
    faults = [Fault(f"/{name}", "is not known here") for name in sorted(body.keys() - {"reason", "confirmed"})]
    if not isinstance(reason, str) or not reason.strip() or len(reason) > REASON_LENGTH:
        faults.append(Fault("/reason", f"must say why, in 1 to {REASON_LENGTH} characters"))
    if not isinstance(is_confirmed, bool):
        faults.append(Fault("/confirmed", "must be true or false"))
    if faults:
        raise refuse("body_invalid", faults)
    return str(reason), bool(is_confirmed)


def _shown(line: DeliveryLine) -> dict[str, Any]:
    is_under_way = line.state == State.PENDING
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


def _attempt(attempt: AttemptLine) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "began_at": iso(attempt.began_at),
        "ended_at": iso(attempt.ended_at) if attempt.ended_at else None,
        "milliseconds": attempt.milliseconds,
        "fate": attempt.fate,
        "status": attempt.status,
        "detail": attempt.detail,
    }
