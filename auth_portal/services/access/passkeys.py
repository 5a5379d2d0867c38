"""Admins' passkeys: created on the account page, used to sign in and as the second factor.

A passkey is a whole sign-in, because the device has recognised its person (user verification is required), and no page
of another site can use it. A count of signatures that goes back is a copied passkey: it is refused and reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import delete, false, insert, or_, select, update

from auth_portal.errors import NotFound
from auth_portal.i18n import gettext as _
from auth_portal.i18n import ngettext, plain
from auth_portal.methods.passkey import CHALLENGE_SECONDS, PasskeyCeremony, PasskeyProof, Purpose
from auth_portal.services import limits
from auth_portal.services.access.admin_sessions import AdminSessions, SignedInAdmin
from auth_portal.services.access.admins import Admins
from auth_portal.services.limits import Limit
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import Admin, AdminSession, Passkey, signed_columns

NAME_LENGTH = 60
MOST_PASSKEYS = 10  # of one admin
_COPIED = (
    "The passkey “%(name)s” was used with a count that is not higher than the last one, so it may have been copied. The"
    " sign-in was refused. Remove the passkey and create a new one."
)


_MAY_SIGN_IN = Admin.is_active, Admin.password_hash.is_not(None)  # none after a reset, until its link was followed


@dataclass(frozen=True)
class ListedPasskey:
    """A passkey as its admin sees it."""

    id: str
    name: str
    created_at: datetime
    used_at: datetime | None


class AdminPasskeys:
    """Create, use and remove passkeys. The only writer of the table ``passkeys``, except for a reset."""

    def __init__(self, transactions: Transactions, admins: Admins, sessions: AdminSessions, public_url: str) -> None:
        self._transactions = transactions
        self._admins = admins
        self._sessions = sessions
        self._ceremony = PasskeyCeremony(transactions.keyring, public_url)

    @property
    def are_possible(self) -> bool:
        """Report whether browsers offer passkeys at the portal's public URL."""
        return self._ceremony.is_possible

    def listed(self, admin_id: str) -> list[ListedPasskey]:
        """Return an admin's passkeys, the newest first."""
        columns = [getattr(Passkey, name) for name in ListedPasskey.__dataclass_fields__]
        with self._transactions.read() as work:
            found = select(*columns).where(Passkey.admin_id == admin_id).order_by(Passkey.id.desc())
            return [ListedPasskey(**row._mapping) for row in work.execute(found)]

    def _known(self, admin_id: str) -> list[bytes]:
        with self._transactions.read() as work:
            return list(work.execute(select(Passkey.credential_id).where(Passkey.admin_id == admin_id)).scalars())

    # --- Creating and removing

    def options_to_create(self, signed_in: SignedInAdmin, site_name: str) -> str:
        """Return what the browser creates a passkey by, as JSON."""
        profile = self._admins.get(signed_in.admin_id)
        return self._ceremony.creation_options(
            Purpose("create", signed_in.session_id),
            self._transactions.clock(),
            site_name=site_name,
            user=(profile.id.encode(), profile.email, profile.name),
            known=self._known(profile.id),
        )

    def name_fault(self, admin_id: str, name: str) -> str:
        """Return why a new passkey cannot have this name, as a sentence, or an empty text."""
        if not name or len(name) > NAME_LENGTH or not name.isprintable():
            return _("Name the device, in at most %(most)s characters.", most=NAME_LENGTH)
        if len(self._known(admin_id)) >= MOST_PASSKEYS:
            return _("You have %(most)s passkeys already. Remove one that you don't need.", most=MOST_PASSKEYS)
        return ""

    def create(self, signed_in: SignedInAdmin, name: str, response: str) -> bool:
        """Store a passkey that the browser created for this session; the caller has checked second factor and name.

        Return False if the response is not right, was used before or is too old, or if the session has ended.
        """
        purpose, admin_id = Purpose("create", signed_in.session_id), signed_in.admin_id
        made = self._ceremony.created(purpose, self._transactions.clock(), response)
        if made is None:
            return False
        with self._transactions.write() as work:
            # A reset that has ended the session a moment ago must not leave a passkey that was made in it.
            open_session = select(AdminSession.id).where(AdminSession.id == signed_in.session_id)
            is_known = select(Passkey.id).where(Passkey.credential_id == made.credential_id)
            is_over = work.execute(open_session.with_for_update()).first() is None
            if is_over or not _use_up(work, made.challenge_key) or work.execute(is_known).first():
                return False
            row = {
                "id": work.new_id(),
                "admin_id": admin_id,
                "name": name,
                "credential_id": made.credential_id,
                "public_key": made.public_key,
                "sign_count": made.sign_count,
                "created_at": work.now,
            }
            work.execute(insert(Passkey).values(work.keyring.signed("passkeys", row)))
            work.record("passkey_created", admin_id=admin_id, passkey=name)
            subject, text = _("A passkey was added"), plain("“%(name)s” can now sign in as you.", name=name)
            self._admins.notify(work, admin_id, subject, text, _("An admin has a new passkey"))
        return True

    def remove(self, signed_in: SignedInAdmin, passkey_id: str | None = None) -> int:
        """Remove a passkey of this admin, or all of them; return how many. Raise NotFound if there is none."""
        removed = delete(Passkey).where(Passkey.admin_id == signed_in.admin_id).returning(Passkey.name)
        with self._transactions.write() as work:
            names = list(work.execute(removed.where(Passkey.id == passkey_id) if passkey_id else removed).scalars())
            if not names:
                raise NotFound("not_found")
            for name in names:
                work.record("passkey_removed", admin_id=signed_in.admin_id, passkey=name)
            subject = ngettext("A passkey was removed", "%(num)s passkeys were removed", num=len(names))
            text = plain("“%(name)s” can no longer sign in as you.", name="”, “".join(names))
            owners_subject = ngettext(
                "A passkey of an admin was removed", "%(num)s passkeys of an admin were removed", num=len(names)
            )
            self._admins.notify(work, signed_in.admin_id, subject, text, owners_subject)
        return len(names)

    # --- Using

    def options_to_sign_in(self, holder: str) -> str:
        """Return what any browser looks for a passkey of this site by; ``holder`` is its CSRF cookie."""
        return self._ceremony.request_options(Purpose("sign-in", holder), self._transactions.clock())

    def options_to_confirm(self, signed_in: SignedInAdmin) -> str:
        """Return what the browser of a session looks for one of its admin's passkeys by."""
        purpose = Purpose("confirm", signed_in.session_id)
        known = self._known(signed_in.admin_id)
        return self._ceremony.request_options(purpose, self._transactions.clock(), known=known)

    def sign_in(self, response: str, holder: str, address: str, browser: str) -> str | None:
        """Return the token of a new session, or None. Raise TooMany after 50 wrong ones from one network."""
        bound = self._sessions.bound_of_network(address)
        with self._transactions.write() as work:
            limits.take_or_refuse(work, bound, "too_many_sign_ins")
        row, proof = self._checked(Purpose("sign-in", holder), response)
        with self._transactions.write() as work:
            if row is None or proof is None or not self._accept(work, row, proof):
                work.record("admin_sign_in_failed", of=row.admin_id if row else None)
                return None
            limits.give_back(work, [bound])
            return self._sessions.begin_in(work, row.admin_id, address, browser)

    def confirm(self, signed_in: SignedInAdmin, response: str) -> bool:
        """Take a passkey as the second factor again. Raise TooMany like a code."""
        row, proof = self._checked(Purpose("confirm", signed_in.session_id), response)
        accept: Callable[[Work], bool] = _refuse
        if proof is not None and row.admin_id == signed_in.admin_id:
            accept = partial(self._accept, row=row, proof=proof)
        return self._sessions.confirm_by(signed_in, accept)

    def _checked(self, purpose: Purpose, response: str) -> tuple[Any, PasskeyProof | None]:
        """Return the row of the passkey of an active admin, and the proof; without either None.

        Neither the passkey nor its admin may have been changed by someone other than the portal (R54).
        """
        presented = self._ceremony.presented(response)
        if presented is None:
            return None, None
        of_admin = signed_columns(Admin, "admin__")
        found = select(Passkey.__table__, *of_admin).join(Admin, Admin.id == Passkey.admin_id)
        with self._transactions.read() as work:
            row = work.execute(
                found.where(Passkey.credential_id == presented.credential_id, *_MAY_SIGN_IN)
            ).one_or_none()
        for table, prefix in (("passkeys", ""), ("admins", "admin__")):
            if row is not None and not self._transactions.keyring.holds(table, row._mapping, prefix):
                with self._transactions.write() as writing:
                    limits.note_broken(writing, table, row._mapping[f"{prefix}id"])
                return None, None
        if row is None or presented.user_handle not in (b"", row.admin_id.encode()):
            return None, None
        return row, self._ceremony.proof(purpose, work.now, response, row.public_key)

    def _accept(self, work: Work, row: Any, proof: PasskeyProof) -> bool:
        """Use up the challenge and raise the count of signatures; report a count that went back."""
        if not _use_up(work, proof.challenge_key):
            return False
        is_active = select(Admin.id).where(Admin.id == Passkey.admin_id, *_MAY_SIGN_IN).exists()
        is_uncounted = Passkey.sign_count == 0 if proof.sign_count == 0 else false()  # many devices count nothing
        is_higher = or_(Passkey.sign_count < proof.sign_count, is_uncounted)
        raised = update(Passkey).where(Passkey.id == row.id, is_active, is_higher)
        if work.execute(raised.values(sign_count=proof.sign_count, used_at=work.now)).rowcount == 1:
            return True
        if work.execute(select(Passkey.id).where(Passkey.id == row.id, is_active)).first():
            work.record("passkey_refused", admin_id=row.admin_id, passkey=row.name)
            subject, text = _("A passkey may have been copied"), _(_COPIED, name=row.name)
            self._admins.notify(work, row.admin_id, subject, text, _("An admin's passkey may have been copied"))
        return False


def _use_up(work: Work, challenge_key: str) -> bool:
    """Report whether a challenge is used for the first time; every process asks the same counter."""
    key = work.keyring.index("used challenge", challenge_key)
    (taken,) = limits.take(work, [Limit(f"passkey:{key}", 1, 2 * CHALLENGE_SECONDS)])
    return not taken.is_over


def _refuse(_work: Work) -> bool:
    return False
