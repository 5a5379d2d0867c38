"""The queues of the outbox: what is due for each target with each priority, and how a claim takes from one of them.

Every statement reads a few entries of an index, whatever else waits: nothing else stays quick while a server is away
and its deliveries pile up (D5).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    union_all,
    update,
)

from auth_portal.store.db import Compiled, Work
from auth_portal.store.models import MESSAGE, Delivery, DeliveryState, table_of

ALL_PRIORITIES = (0, 1, 2)  # the lowest leaves first


class Queue(NamedTuple):
    """What is due for one target with one priority; ``since`` is when its oldest delivery became due."""

    target: str
    priority: int
    since: datetime


def due_queues(work: Work, kind: str, full: Collection[str] = ()) -> list[Queue]:
    """Return what is due, the most urgent and then the oldest first, without the targets that are ``full``.

    It costs a few steps in an index for each target, however many deliveries wait.
    """
    found = work.rows(_QUEUES, {"of_kind": kind, "now": work.now})
    return [Queue(row.target, row.priority, row.since) for row in found if row.target not in full]


def waiting(work: Work, kind: str, priority: int, most: int) -> int:
    """Return how many deliveries of a priority are under way, counted up to ``most``."""
    return int(work.execute(_WAITING, {"of_kind": kind, "of_priority": priority, "most": most}).scalar_one())


_IS_OF_KIND = Delivery.kind == bindparam("of_kind")
_IS_PENDING = Delivery.state == literal_column(f"'{DeliveryState.PENDING}'")  # the words of the partial index

# The targets that anything is pending for: each is one step further in the index.
_FIRST = select(func.min(Delivery.target).label("target")).where(_IS_OF_KIND, _IS_PENDING)
_TARGETS = _FIRST.cte("targets", recursive=True)
_AFTER = select(func.min(Delivery.target)).where(_IS_OF_KIND, _IS_PENDING, Delivery.target > _TARGETS.c.target)
_TARGETS = _TARGETS.union_all(select(_AFTER.scalar_subquery()).where(_TARGETS.c.target.is_not(None)))

_LEVELS = union_all(*(select(literal_column(str(level)).label("priority")) for level in ALL_PRIORITIES)).subquery()
_OLDEST = select(func.min(Delivery.next_at)).where(
    _IS_OF_KIND, _IS_PENDING, Delivery.target == _TARGETS.c.target, Delivery.priority == _LEVELS.c.priority
)
_EACH = (
    select(_TARGETS.c.target, _LEVELS.c.priority, _OLDEST.scalar_subquery().label("since"))
    .select_from(_TARGETS.join(_LEVELS, true()))
    .where(_TARGETS.c.target.is_not(None))
    .subquery()
)
_QUEUES = Compiled(select(_EACH).where(_EACH.c.since <= bindparam("now")).order_by(_EACH.c.priority, _EACH.c.since))
_WAITING = select(func.count()).select_from(
    select(Delivery.id)
    .select_from(_TARGETS)
    .join(Delivery, Delivery.target == _TARGETS.c.target)
    .where(_IS_OF_KIND, _IS_PENDING, Delivery.priority == bindparam("of_priority"))
    .limit(bindparam("most"))
    .subquery()
)

# Begin-again leaves at most one pending result per reference and server; the one it withdrew may be on its way.
_OTHER = table_of(Delivery).alias().c
_LANE_IS_BUSY = exists().where(
    _OTHER.lane == Delivery.lane,
    _OTHER.target == Delivery.target,
    _OTHER.id != Delivery.id,
    _OTHER.leased_until > bindparam("now"),
)
_CHOSEN = (
    select(Delivery.id)
    .where(
        _IS_OF_KIND,
        _IS_PENDING,
        Delivery.target == bindparam("for_target"),
        Delivery.priority == bindparam("of_priority"),
        Delivery.next_at <= bindparam("now"),
        ~_LANE_IS_BUSY,
    )
    .order_by(Delivery.next_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
    .cte("chosen")  # read once: PostgreSQL may run a plain subquery again for each row, and so take too many
)
_WAS_NEVER_RECORDED = Delivery.leased_until.is_not(None)
# A message that may have been taken is repeated once, even where its senders were killed (D13). A program that gets
# a webhook recognises a repeat.
_MAY_HAVE_LEFT_TWICE = and_(
    _WAS_NEVER_RECORDED, Delivery.is_unclear, Delivery.kind == MESSAGE, Delivery.contract != bindparam("for_programs")
)


def _claiming(chosen: CTE) -> Any:
    """Return what claims the chosen deliveries, and counts an attempt of each."""
    return (
        update(Delivery)
        .where(Delivery.id.in_(select(chosen.c.id)), Delivery.state == DeliveryState.PENDING)
        .values(
            attempts=Delivery.attempts + 1,
            is_unclear=or_(Delivery.is_unclear, _WAS_NEVER_RECORDED),
            give_up_at=case((_MAY_HAVE_LEFT_TWICE, bindparam("now")), else_=Delivery.give_up_at),
            leased_until=bindparam("until"),
            next_at=bindparam("until"),
        )
        .returning(
            Delivery.id,
            Delivery.kind,
            Delivery.verification_id,
            Delivery.challenge_id,
            Delivery.target,
            Delivery.lane,
            Delivery.contract,
            Delivery.body_sealed,
            Delivery.reason,
            Delivery.attempts.label("number"),
            Delivery.is_unclear,
            Delivery.give_up_at,
            Delivery.leased_until,
            Delivery.request_id,
            Delivery.locale,
        )
    )


CLAIM = Compiled(_claiming(_CHOSEN))
"""Takes up to ``most`` due deliveries of one queue."""
CLAIM_ALERTS = _claiming(
    select(Delivery.id)
    .select_from(_TARGETS)
    .join(Delivery, Delivery.target == _TARGETS.c.target)
    .where(
        _IS_OF_KIND,
        _IS_PENDING,
        Delivery.priority == bindparam("of_priority"),
        Delivery.contract.in_(bindparam("of_alerts", expanding=True)),
        Delivery.next_at <= bindparam("overdue"),
    )
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True, of=Delivery)
    .cte("chosen")
)
"""Takes up to ``most`` messages about alerts that have been due for long."""
