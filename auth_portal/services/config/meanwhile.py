"""What somebody else saved while a form was open: who and when, and what is stored now beside what was typed.

A form carries a mark of what it was made from. Where that is no longer what is stored, nothing is written over it
unseen: the second of two is shown the difference and decides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, text

from auth_portal.services.config.differences import Difference
from auth_portal.services.config.file import Fault
from auth_portal.store.models import RARE_KIND, Admin, AuditEvent

KINDS = ("settings_changed", "channel_changed", "configuration_imported")
LOOKED_AT = 20  # of the last changes of the configuration; one of them is what came in between


@dataclass(frozen=True)
class Meanwhile:
    """What came in between. ``by`` is an admin's name, or nothing for a command."""

    by: str
    at: datetime | None
    changes: Sequence[Difference]  # before: stored now; after: typed


@dataclass(frozen=True)
class Saving:
    """What came of a wish to save: faults, or what came in between; with neither it is saved."""

    faults: Sequence[Fault] = ()
    newer: Meanwhile | None = field(default=None)

    @property
    def is_done(self) -> bool:
        """Whether what is stored is what was typed."""
        return not self.faults and self.newer is None


def mark(document: Mapping[str, Any]) -> str:
    """What a form carries of what it was made from. Not for secrets: a weak one could be guessed from it."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]


def meanwhile(connection: Connection, title: str, changes: Sequence[Difference]) -> Meanwhile:
    """Who last changed a table of the configuration, which the audit calls ``portal`` or ``channel sms``."""
    found = (
        select(AuditEvent.at, AuditEvent.facts, Admin.name)
        .outerjoin(Admin, Admin.id == AuditEvent.admin_id)
        .where(text(RARE_KIND), AuditEvent.kind.in_(KINDS))
        .order_by(AuditEvent.id.desc())
        .limit(LOOKED_AT)
    )
    last = next((row for row in connection.execute(found) if title in row.facts.get("changes", {})), None)
    return Meanwhile(last.name or "" if last else "", last.at if last else None, changes)
