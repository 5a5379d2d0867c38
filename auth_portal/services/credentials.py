"""A customer's credentials as support sees them: what there is, when it last worked, and what has closed it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.errors import NotFound
from auth_portal.services import audit
from auth_portal.store.db import Database
from auth_portal.store.models import CustomerRow, Tries


class Credentials:
    """Looks at single people's credentials, and opens, closes and resets them."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    def renew(self, row: str, *, admin_id: str | None = None, **facts: Any) -> None:
        """Opens every method of a person again after too many wrong tries (R6). Raises NotFound for nobody."""
        with self._database.write() as connection:
            subject_id = connection.execute(
                select(CustomerRow.subject_id).where(CustomerRow.id == row)
            ).scalar_one_or_none()
            if subject_id is None:
                raise NotFound("customer_unknown")
            connection.execute(delete(Tries).where(Tries.person_key == row))
            audit.record(
                connection, self._keyring, self._clock(), "credentials_renewed",
                subject_id=subject_id, admin_id=admin_id, **facts,
            )  # fmt: skip
