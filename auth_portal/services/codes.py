"""Issuing codes: which code is in force, when it may be sent again, and what is counted for it.

The message itself is a row of the outbox. A stranger's code is issued, counted and queued like anyone's; only the
dispatcher finds that there is nobody to send it to (R24).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, insert, update

from auth_portal.crypto import Keyring
from auth_portal.errors import TooMany
from auth_portal.methods import CARRIES
from auth_portal.services import audit, outbox
from auth_portal.services.cases import Case, Issued, challenged, update_verification
from auth_portal.services.journeys import Snapshot
from auth_portal.store.db import new_id
from auth_portal.store.models import Challenge, Verification, table_of

_INSERT = insert(table_of(Challenge))


class Codes:
    """Issues and resends one-time codes, in the caller's transaction."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def new_code(self, case: Case, now: datetime) -> Issued | None:
        """A fresh code for the case's method, not yet written; None where the method sends nothing."""
        carries = CARRIES.get(case.method or "")
        if carries is None or case.identifier_key is None:
            return None
        lifetime = timedelta(seconds=case.journey.limits.code_seconds)
        return Issued(
            id=new_id(now),
            destination_key=case.person.destination_key(carries, case.identifier_key),
            key_id=self._keyring.code_key_id,
            digits=case.journey.limits.code_digits,
            issued_at=now,
            expires_at=min(now + lifetime, case.proofs_until),
            used_at=None,
            replaced_at=None,
        )

    def issue(self, connection: Connection, case: Case, snapshot: Snapshot, now: datetime) -> dict[str, str]:
        """Sends a code where the method needs one and none is in force; a live one is taken up as it is.

        Gives the fact for the audit: ``code`` is ``sent``, ``in_force`` or ``none_left``; none for other methods.
        """
        if case.in_force(now) is not None:
            return {"code": "in_force"}
        issued = self.new_code(case, now)
        if issued is None:
            return {}
        if case.sends_left == 0 or not _count_send(connection, case, now):
            return {"code": "none_left"}
        _insert(connection, case, issued)
        self.send(connection, case, snapshot, issued, now)
        return {"code": "sent"}

    def resend(self, connection: Connection, case: Case, snapshot: Snapshot, now: datetime) -> str:
        """Sends the same code while it has over half of its life, else a new one in its place (R5).

        Gives a note where nothing can be sent any more. Raises TooMany before its time has come (R12).
        """
        if case.method not in CARRIES or case.sends_left == 0:
            return "no_sends_left"
        if wait := case.resend_in_seconds(now):
            raise TooMany("resend_too_early", retry_after_seconds=wait)
        issued = case.in_force(now)
        is_new = issued is None or (issued.expires_at - now) * 2 <= issued.expires_at - issued.issued_at
        if issued is None or is_new:
            issued = self._replace(connection, case, now)
        if _count_send(connection, case, now):
            self.send(connection, case, snapshot, issued, now)
            audit.record(
                connection, self._keyring, now, "code_resent", verification_id=case.verification_id,
                subject_id=case.person.subject_id, method=case.method, is_new=is_new,
            )  # fmt: skip
        return ""

    def _replace(self, connection: Connection, case: Case, now: datetime) -> Issued:
        # Told by what they are for, not by what this case has read: another visit may have had one sent since.
        old = and_(challenged(case), Challenge.used_at.is_(None), Challenge.replaced_at.is_(None))
        connection.execute(update(Challenge).where(old).values(replaced_at=now))
        issued = self.new_code(case, now)
        assert issued is not None, "only methods that send are resent"
        _insert(connection, case, issued)
        return issued

    def send(self, connection: Connection, case: Case, snapshot: Snapshot, issued: Issued, now: datetime) -> None:
        """Queues the message of a code. The dispatcher counts it for its destination: here that could be seen (R24)."""
        carries = CARRIES[case.method or ""]
        withheld = "" if case.person.has_contact(carries) else "nobody to send to"
        channel = snapshot.channel_for(case.journey, carries)
        outbox.add_message(
            connection, now, case.verification_id, issued.id, channel.name if channel else "", issued.expires_at,
            withheld,
        )  # fmt: skip

    def issue_first(
        self, connection: Connection, case: Case, snapshot: Snapshot, issued: Issued, now: datetime
    ) -> None:
        """Writes and queues the first code of a verification, whose row was inserted with this send counted."""
        _insert(connection, case, issued)
        self.send(connection, case, snapshot, issued, now)


def sent_once(case: Case, now: datetime) -> Case:
    """The case with its first message counted."""
    return replace(case, sends=1, sent_at=now)


def _count_send(connection: Connection, case: Case, now: datetime) -> bool:
    has_left = Verification.sends < case.journey.limits.sends
    return update_verification(connection, case, has_left, sends=Verification.sends + 1, sent_at=now)


def _insert(connection: Connection, case: Case, issued: Issued) -> None:
    values = {
        **issued._asdict(),
        "verification_id": case.verification_id,
        "identifier_key": case.identifier_key,
        "customer_row": case.person.row,
        "step": case.step,
        "method": case.method,
    }
    connection.execute(_INSERT, values)
