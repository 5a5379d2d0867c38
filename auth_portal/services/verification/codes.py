"""Issuing codes: which code is valid, when it may be sent again, and what is counted for it.

The message itself is a row of the outbox. A stranger's code is issued, counted and queued like anyone's; only the
dispatcher finds that there is no one to send it to (R24).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import and_, insert, update

from auth_portal.errors import TooMany
from auth_portal.i18n import matched, spoken
from auth_portal.methods import CARRIES
from auth_portal.services.config.snapshot import Snapshot
from auth_portal.services.delivery import outbox
from auth_portal.services.delivery.outbox import NewDelivery
from auth_portal.services.verification.case import (
    CHANGED_LATELY,
    Case,
    challenged,
    new_prompt,
    record_move,
    update_verification,
    update_visit,
    with_codes,
)
from auth_portal.store.db import Compiled, Work, new_id
from auth_portal.store.models import MESSAGE, Challenge, Verification, table_of

_INSERT = Compiled(insert(table_of(Challenge)))


def issue(work: Work, case: Case, snapshot: Snapshot) -> dict[str, str]:
    """Send a code if the method needs one and none is valid; use a valid one, perhaps of another visit, as it is.

    Return the fact for the audit trail: ``code`` is ``sent``, ``in_force`` or ``none_left``; none for other methods.
    """
    if case.method not in CARRIES or case.identifier_key is None:
        return {}
    if with_codes(work, case).valid_code(work.now) is not None:
        return {"code": "in_force"}
    if case.sends_left == 0 or not _count_send(work, case):
        return {"code": "none_left"}
    send_new(work, case, snapshot)
    return {"code": "sent"}


def take_method(work: Work, case: Case, method: str, snapshot: Snapshot) -> None:
    """Move a visit on to a method that its step offers; use a valid code of it, else send one."""
    case = replace(case, method=method, prompt=new_prompt(), codes=())
    update_visit(work, case)
    code = issue(work, case, snapshot)
    record_move(work, case, "method_chosen", method=method, **code)


def resend(work: Work, case: Case, snapshot: Snapshot) -> str:
    """Send the same code while it has over half of its life, else a new one in its place (R5).

    Return a note if no more messages can be sent, else "". Raise TooMany before its time has come (R12).
    """
    if case.method not in CARRIES or case.sends_left == 0:
        return "no_sends_left"
    if wait := case.resend_in_seconds(work.now):
        work.counts.add("limits_hit", "resend_too_early")
        raise TooMany("resend_too_early", retry_after_seconds=wait)
    code = case.valid_code(work.now)
    is_new = code is None or (code.expires_at - work.now) * 2 <= code.expires_at - code.issued_at
    if not _count_send(work, case):
        return ""
    if code is None or is_new:
        # Found by what they are for, not by what this case has read: another visit may have had one sent since.
        old = and_(challenged(case), Challenge.used_at.is_(None), Challenge.replaced_at.is_(None))
        work.execute(update(Challenge).where(old).values(replaced_at=work.now))
        send_new(work, case, snapshot)
    else:
        message = replace(_message(case, snapshot), challenge_id=code.id, give_up_at=code.expires_at)
        outbox.add(work, message)
    work.record(
        "code_resent",
        verification_id=case.verification_id,
        subject_id=case.person.subject_id,
        method=case.method,
        is_new=is_new,
    )
    return ""


def _count_send(work: Work, case: Case) -> bool:
    has_left = Verification.sends < case.journey.limits.sends
    return update_verification(work, case, has_left, sends=Verification.sends + 1, sent_at=work.now)


def send_new(work: Work, case: Case, snapshot: Snapshot) -> None:
    """Issue a new code for the case's method, which must be one that sends, and queue its message."""
    assert case.identifier_key is not None, "a code is for a person who was named"
    limits, now, message = case.journey.limits, work.now, _message(case, snapshot)
    destination_key = case.person.destination_key(CARRIES[case.method or ""], case.identifier_key)
    code_id, expires_at = new_id(now), min(now + timedelta(seconds=limits.code_seconds), case.proofs_until)
    values = {
        "id": code_id,
        "verification_id": case.verification_id,
        "identifier_key": case.identifier_key,
        "customer_row": case.person.row,
        "step": case.stored_step,
        "method": case.method,
        "destination_key": destination_key,
        "key_id": work.keyring.code_key_id,
        "digits": limits.code_digits,
        "issued_at": now,
        "expires_at": expires_at,
        "used_at": None,
        "replaced_at": None,
    }
    work.write(_INSERT, work.keyring.signed("challenges", values))
    outbox.add(work, replace(message, challenge_id=code_id, give_up_at=expires_at))


def _message(case: Case, snapshot: Snapshot) -> NewDelivery:
    """Return the message of a code, before there is one: its ``challenge_id`` and ``give_up_at`` are the code's.

    The dispatcher counts it for its destination: counted when it is queued, it would show (R24).
    """
    carries = CARRIES[case.method or ""]
    locale = _language(case, snapshot)
    channel = snapshot.channel_for(case.journey, carries)
    return NewDelivery(
        kind=MESSAGE,
        target=channel.name if channel else "",
        verification_id=case.verification_id,
        priority=outbox.CODE_PRIORITY,
        give_up_at=case.proofs_until,
        withheld=_why_withheld(case, carries),
        locale=locale,
    )


def _language(case: Case, snapshot: Snapshot) -> str:
    """Return the language of a message: the chosen one, else the customer's own, else that of the page."""
    chosen = (case.visit_locale or "", case.ticket.locale if case.ticket is not None else "")
    wanted = (*chosen, case.person.locale)
    found = (matched(tag, snapshot.portal.offered) for tag in wanted if tag)
    return next(filter(None, found), spoken.get())


def _why_withheld(case: Case, carries: str) -> str:
    if not case.person.has_contact(carries):
        return "no contact to send to"
    return CHANGED_LATELY if case.changed and not case.counts(case.method or "") else ""
