"""Whether this installation can do its job, and the numbers that an operator watches. Asks only the database."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from auth_portal.clock import Clock
from auth_portal.store.db import Database, plain_reason
from auth_portal.store.models import ChannelState, DataKeyRow, Delivery, Verification

SILENT_SECONDS = 30  # a delivery that is due for so long says that no dispatcher is at work


class Health:
    """Answers probes."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def faults(self) -> list[str]:
        """Why the portal cannot serve; empty when it can."""
        try:
            with self._database.read() as connection:
                has_keys = connection.execute(select(DataKeyRow.id).limit(1)).first() is not None
        except SQLAlchemyError as error:
            return [f"database: {plain_reason(error)}"]
        return [] if has_keys else ["keys: the database holds no data keys"]

    def warnings(self) -> list[str]:
        """What an operator should look at although the portal serves."""
        overdue = self.oldest_due_seconds()
        return [f"dispatcher: a delivery has been due for {overdue:.0f} s"] if overdue > SILENT_SECONDS else []

    def oldest_due_seconds(self) -> float:
        """For how long the oldest due delivery has waited."""
        now = self._clock()
        with self._database.read() as connection:
            oldest = connection.execute(
                select(func.min(Delivery.next_at)).where(Delivery.state == "pending", Delivery.next_at <= now)
            ).scalar()
        return max(0.0, (now - oldest).total_seconds()) if oldest else 0.0

    def counts(self) -> dict[str, dict[tuple[str, ...], int]]:
        """Deliveries by kind and state, and verifications by journey and outcome, of the last 24 hours."""
        since = self._clock() - timedelta(days=1)
        with self._database.read() as connection:
            deliveries = connection.execute(
                select(Delivery.kind, Delivery.state, func.count())
                .where(Delivery.created_at > since)
                .group_by(Delivery.kind, Delivery.state)
            ).all()
            verifications = connection.execute(
                select(Verification.slug, Verification.outcome, func.count())
                .where(Verification.began_at > since)
                .group_by(Verification.slug, Verification.outcome)
            ).all()
            channels = connection.execute(select(ChannelState.name, ChannelState.failures_in_row)).all()
        return {
            "deliveries": {(row[0], row[1]): row[2] for row in deliveries},
            "verifications": {(row[0], row[1] or "live"): row[2] for row in verifications},
            "channel_failures": {(row[0],): row[1] for row in channels},
        }
