"""Taking an import back: all of it in one transaction, or none of it and why.

Whoever was told of the import is told of the undo, in the same way; of one that told nobody all owners get a mail.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import IntegrityError

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.services import audit
from auth_portal.services.imports import switch
from auth_portal.services.imports.staging import Counts
from auth_portal.services.imports.states import DONE, RETELLING, TELLING, UNDONE, Claim, finish
from auth_portal.services.imports.telling import Notices, count_told, customers_word
from auth_portal.store.db import Database
from auth_portal.store.models import ImportRow

CHANGED, LINKS, OVER, TRIED = "changed", "links", "over", "tried"  # why an undo could not be done


class _Refused(Exception):
    """Rolls an undo back."""


class Undoing:
    """The work on imports that are taken back."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock, notices: Notices | None) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._notices = notices

    def undo(self, held: Claim) -> None:
        """Puts back everybody whom the import changed; or nobody, and the import says why. Raises LostLease."""
        staged = switch.extent(self._database, held.id)
        with self._database.read() as connection:
            told = count_told(connection, held.id, held.row.told_to)
        try:
            with self._database.write_much() as connection:
                self._undo(connection, held, staged, told)
        except IntegrityError:
            self.give_back(held, LINKS)
        except _Refused as refused:
            self.give_back(held, str(refused))

    def _undo(self, connection: Connection, held: Claim, staged: switch.Extent, told: int) -> None:
        now, switched_at = self._clock(), held.row.switched_at
        if connection.execute(select(func.max(ImportRow.switched_at))).scalar_one() != switched_at:
            raise _Refused(OVER)
        finish(connection, held, RETELLING if told else UNDONE, now, total=told)
        if switch.undo(connection, held.id, switched_at, now, staged) < staged.rows:
            raise _Refused(CHANGED)
        facts: dict[str, Any] = {"admin_id": held.row.undone_by, "import_id": held.id, "customers": staged.rows}
        audit.record(connection, self._keyring, now, "customers_import_undone", **facts)
        if not told:
            self._tell_owners(connection, now, held)

    def _tell_owners(self, connection: Connection, now: datetime, held: Claim) -> None:
        counts = Counts.from_json(held.row.counts)
        if self._notices is None or not counts.told:
            return
        lines = [
            f"The import of the file {held.row.file_name} was undone, and with it the change of the phone number or "
            f"e-mail address of {customers_word(counts.told)}. They were told neither of the one nor of the other."
        ]
        self._notices.to_owners(connection, now, "an import that changed contacts was undone", lines)

    def give_back(self, held: Claim, fault: str) -> None:
        """The import stays as it was before somebody wanted to undo it. Raises LostLease."""
        row, counts = held.row, Counts.from_json(held.row.counts)
        kept = {"undo_fault": fault, "ended_at": row.ended_at}
        with self._database.write() as connection:
            if row.is_telling and counts.told:  # it may have been under way; where it was not, nobody is left to tell
                done = count_told(connection, held.id, row.told_to)
                kept |= {"place": row.told_to, "done": done, "total": counts.told}
            finish(connection, held, TELLING if "place" in kept else DONE, self._clock(), **kept)
