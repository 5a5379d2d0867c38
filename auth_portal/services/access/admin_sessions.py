"""Signing in to the configuration page, and the sessions that follow.

Email address, password and second factor are asked for together and judged together, so that an attacker does not
learn which was wrong. A session is a row here; the browser holds a token of which only the hash is stored, so that
signing out ends it (R26).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, select, update

from auth_portal.crypto import LONGEST_PASTE, Passwords, new_token, token_hash
from auth_portal.i18n import gettext as _
from auth_portal.services import limits
from auth_portal.services.access.admins import SIGNED_IN, email_key, email_name, recovery_key, right_step
from auth_portal.services.access.roles import ROLES, Role
from auth_portal.services.delivery.notices import Notices
from auth_portal.services.limits import DAY, MINUTE, Limit
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import (
    ADMIN_EMAIL,
    ADMIN_PASSWORD,
    ADMIN_TOTP,
    Admin,
    AdminSession,
    RecoveryCode,
    table_of,
)

IDLE = timedelta(minutes=15)  # R26
LONGEST = timedelta(hours=8)  # R26
REMEMBERED = timedelta(hours=24)  # since it began: whose session it was, for a form that was left open overnight
SEEN_EVERY = timedelta(seconds=60)  # how often a session in use is written
CONFIRMED_FOR = timedelta(minutes=10)  # how long a second factor counts after it was shown again
WRONG_SIGN_INS = 5  # per email address and network (R40)
WRONG_FROM_ADDRESS = 50  # from one network over all email addresses: an office behind one address still gets in
WINDOW_SECONDS = 15 * MINUTE  # R40
WRONG_CODES_A_DAY = 15  # with the right password, from any network; as many as a customer's (R6)
BROWSER_LENGTH = 160
_GUESSED = (
    "Your password was entered correctly 15 times within a day, each time with a wrong code of your app. If this was"
    " not you, someone knows your password: sign in with a recovery code and change it. After that, or after a day,"
    " codes of your app work again."
)
_GUESSED_IN_SESSION = (
    "15 wrong codes or passwords were entered within a day in the sessions of %(name)s, so the last session was ended."
    " If it was not %(name)s, someone uses their browser or has taken over a session."
)


@dataclass(frozen=True)
class SignedInAdmin:
    """The admin at a browser."""

    session_id: str
    admin_id: str
    name: str
    role: Role
    confirmed_at: datetime
    ends_at: datetime
    has_codes_to_save: bool

    @property
    def is_owner(self) -> bool:
        """Report whether everything is allowed."""
        return self.role.is_owner

    @property
    def may_write(self) -> bool:
        """Report whether they may change customers and send deliveries again."""
        return self.role.may_write

    @property
    def may_inspect(self) -> bool:
        """Report whether they may see API keys, the configuration file and which secrets are set."""
        return self.role.may_inspect

    def is_confirmed(self, now: datetime) -> bool:
        """Report whether the second factor was shown within the last ten minutes."""
        return now - self.confirmed_at < CONFIRMED_FOR


@dataclass(frozen=True)
class SignInForm:
    """What the sign-in form says, and where it came from."""

    email: str
    password: str
    code: str
    address: str
    browser: str


@dataclass(frozen=True)
class OpenSession:
    """A session as its admin sees it in the list."""

    id: str
    began_at: datetime
    seen_at: datetime
    ends_at: datetime
    address: str
    browser: str


class AdminSessions:
    """Sign admins in and out. The only writer of the table ``admin_sessions``."""

    def __init__(self, transactions: Transactions, passwords: Passwords, notices: Notices) -> None:
        self._transactions = transactions
        self._keyring = transactions.keyring
        self._passwords = passwords
        self._notices = notices

    # --- Signing in

    def sign_in(self, form: SignInForm) -> str | None:
        """Return the token of a new session, or None if anything was wrong.

        Raise TooMany after 5 wrong ones with this email address from this network within 15 minutes, and Busy.
        """
        name = email_name(form.email)[:254]
        network = self.bound_of_network(form.address)
        address = limits.address_key(form.address, self._keyring)
        key = self._keyring.index("sign-in", f"{name} {address}")
        bounds = [
            Limit(f"sign-in:{key}", WRONG_SIGN_INS, WINDOW_SECONDS),
            network,
        ]
        with self._passwords.slot():
            with self._transactions.write() as work:
                for bound in bounds:
                    limits.take_or_refuse(work, bound, "too_many_sign_ins")
            row: Any = None
            if "@" in form.email:
                mine = Admin.email_key == email_key(self._keyring, form.email), Admin.is_active
                with self._transactions.read() as work:
                    row = work.execute(select(Admin.__table__).where(*mine)).one_or_none()
            is_ours = row is None or self._keyring.holds("admins", row._mapping)
            has_password = row is not None and row.password_hash is not None
            stored = self._keyring.open(row.password_hash, ADMIN_PASSWORD, row.id) if has_password else None
            is_right = self._passwords.matching(stored, form.password[:LONGEST_PASTE]) is not None
        with self._transactions.write() as work:
            if not is_ours:
                limits.note_broken(work, "admins", row.id)
            if not (is_ours and is_right and _is_unchanged(work, row) and self._takes_second(work, row, form.code)):
                work.record("admin_sign_in_failed", of=row.id if row else None)
                return None
            limits.give_back(work, bounds)
            return self.begin_in(work, row.id, form.address, form.browser)

    def bound_of_network(self, address: str) -> Limit:
        """Return the limit of wrong sign-ins from one network."""
        return Limit(f"sign-in:{limits.address_key(address, self._keyring)}", WRONG_FROM_ADDRESS, WINDOW_SECONDS)

    def begin(self, admin_id: str, address: str, browser: str) -> str:
        """Return the token of a session for an admin who has just shown password and app on a one-time link."""
        with self._transactions.write() as work:
            return self.begin_in(work, admin_id, address, browser)

    def begin_in(self, work: Work, admin_id: str, address: str, browser: str) -> str:
        """Begin a session in the caller's transaction, which has judged the sign-in. Return the session's token."""
        token = new_token()
        session = {
            "id": work.new_id(),
            "token_hash": token_hash(token),
            "admin_id": admin_id,
            "began_at": work.now,
            "seen_at": work.now,
            "ends_at": work.now + LONGEST,
            "confirmed_at": work.now,
            "address": address[:45],
            "browser": browser[:BROWSER_LENGTH],
        }
        work.execute(insert(AdminSession).values(work.keyring.signed("admin_sessions", session)))
        work.record(SIGNED_IN, admin_id=admin_id)
        return token

    # --- The second factor

    def _takes_second(self, work: Work, row: Any, typed: str) -> bool:
        """Report whether the second factor is right, together with a right password.

        An attacker who knows the password and has many addresses could try codes without end. After 15 wrong ones in a
        day, which only they or the admin can enter, the app's codes no longer count until the day is over or the
        password is new: recovery codes do, and the admin is notified. The page does not show it, because that would
        reveal that the password is right.
        """
        behind = self._keyring.index("second factor", row.password_hash.hex())  # sealing a new password changes it
        bound = Limit(f"second:{behind}", WRONG_CODES_A_DAY, DAY)
        (taken,) = limits.take(work, [bound])
        if self._use_second(work, row, typed, takes_app=not taken.is_over):
            limits.give_back(work, [bound])
            return True
        if taken.count == WRONG_CODES_A_DAY:
            email = work.open(row.email_sealed, ADMIN_EMAIL, row.id)
            self._notices.to_admin(work, email, _("Wrong codes with your password"), _(_GUESSED))
        return False

    def _use_second(self, work: Work, row: Any, typed: str, *, takes_app: bool = True) -> bool:
        """Use up an app's code or a recovery code: each counts once (R17, R20)."""
        if row.totp_sealed is None:
            return False
        seed = work.open(row.totp_sealed, ADMIN_TOTP, row.id)
        step = right_step(seed, typed, work.now, row.totp_last_step)
        if step is not None and takes_app:
            unused = update(Admin).where(Admin.id == row.id, Admin.totp_last_step < step)
            return work.execute(unused.values(totp_last_step=step)).rowcount == 1
        key = recovery_key(self._keyring, row.id, typed)
        mine = RecoveryCode.admin_id == row.id, RecoveryCode.code_key == key, RecoveryCode.used_at.is_(None)
        if work.execute(update(RecoveryCode).where(*mine).values(used_at=work.now)).rowcount != 1:
            return False
        work.record("recovery_code_used", admin_id=row.id)
        text = _("One of your recovery codes was used. If this was not you, tell another owner immediately.")
        email = work.open(row.email_sealed, ADMIN_EMAIL, row.id)
        self._notices.to_admin(work, email, _("A recovery code was used"), text)
        return True

    def confirm(self, signed_in: SignedInAdmin, typed: str) -> bool:
        """Take the second factor again before a guarded change.

        15 wrong ones in a day end the session. Raise TooMany after 5 in 15 minutes.
        """

        def take(work: Work) -> bool:
            row = work.execute(select(Admin.__table__).where(Admin.id == signed_in.admin_id)).one()
            return self._use_second(work, row, typed)

        return self.confirm_by(signed_in, take)

    def confirm_by(self, signed_in: SignedInAdmin, take: Callable[[Work], bool]) -> bool:
        """Let ``take`` judge and use up a second factor, under the limits of ``confirm``."""
        bound = Limit(f"confirm:{signed_in.admin_id}", WRONG_SIGN_INS, WINDOW_SECONDS)
        with self._transactions.write() as work:
            limits.take_or_refuse(work, bound, "too_many_confirmations")
        with self._transactions.write() as work:
            if is_right := take(work):
                limits.give_back(work, [bound])
                work.update_signed(table_of(AdminSession), signed_in.session_id, confirmed_at=work.now)
            else:
                work.record("admin_confirmation_failed", admin_id=signed_in.admin_id)
        if not is_right:
            self._count_wrong(signed_in)
        return is_right

    def _count_wrong(self, signed_in: SignedInAdmin) -> None:
        """Count a wrong confirmation. After 15 in a day, end the session and notify its admin and all owners."""
        bound = Limit(f"confirm:day:{signed_in.admin_id}", WRONG_CODES_A_DAY, DAY)
        with self._transactions.write() as work:
            (taken,) = limits.take(work, [bound])
            if taken.count < bound.maximum:
                return
            work.execute(delete(AdminSession).where(AdminSession.id == signed_in.session_id))
            work.record("admin_session_ended", admin_id=signed_in.admin_id, why="wrong_confirmations")
            sealed = work.execute(select(Admin.email_sealed).where(Admin.id == signed_in.admin_id)).scalar_one()
            subject, line = _("Wrong codes in an admin's session"), _(_GUESSED_IN_SESSION, name=signed_in.name)
            self._notices.to_admin(work, work.open(sealed, ADMIN_EMAIL, signed_in.admin_id), subject, line)
            page = f"/admin/admins/{signed_in.admin_id}"
            self._notices.change_to_owners(work, subject, [line], signed_in.admin_id, [page])

    def check_password(self, signed_in: SignedInAdmin, password: str) -> bool:
        """Report whether this is the admin's current password. Raise TooMany like ``confirm``, and Busy."""
        bound = Limit(f"confirm:{signed_in.admin_id}", WRONG_SIGN_INS, WINDOW_SECONDS)
        with self._passwords.slot():
            with self._transactions.write() as work:
                limits.take_or_refuse(work, bound, "too_many_confirmations")
                found = select(Admin.password_hash).where(Admin.id == signed_in.admin_id)
                sealed = work.execute(found).scalar_one()
            stored = self._keyring.open(sealed, ADMIN_PASSWORD, signed_in.admin_id) if sealed else None
            is_right = self._passwords.matching(stored, password[:LONGEST_PASTE]) is not None
        if not is_right:
            self._count_wrong(signed_in)
            return False
        with self._transactions.write() as work:
            limits.give_back(work, [bound])
        return True

    # --- Sessions

    def signed_in(self, token: str) -> SignedInAdmin | None:
        """Return the admin of a token; None if it is unknown, idle for 15 minutes, older than 8 hours or ended."""
        if not token:
            return None
        found = select(
            AdminSession.id,
            AdminSession.seen_at,
            AdminSession.ends_at,
            AdminSession.confirmed_at,
            Admin.id.label("admin_id"),
            Admin.name,
            Admin.role,
            Admin.is_active,
            Admin.mac.label("admin_mac"),
            AdminSession.token_hash,
            AdminSession.mac,
            Admin.recovery_sealed.is_not(None).label("has_codes"),
        ).join(Admin, Admin.id == AdminSession.admin_id)
        with self._transactions.read() as work:
            row = work.execute(found.where(AdminSession.token_hash == token_hash(token), Admin.is_active)).one_or_none()
        if row is None or row.ends_at <= work.now or work.now - row.seen_at >= IDLE:
            return None
        if table := self._broken_table(row._mapping):
            with self._transactions.write() as writing:
                limits.note_broken(writing, table, row.admin_id if table == "admins" else row.id)
            return None
        if work.now - row.seen_at >= SEEN_EVERY:
            with self._transactions.write() as writing:
                mine = update(AdminSession).where(AdminSession.id == row.id)
                writing.execute(mine.values(seen_at=writing.now))
        role = ROLES[row.role]
        return SignedInAdmin(row.id, row.admin_id, row.name, role, row.confirmed_at, row.ends_at, row.has_codes)

    def _broken_table(self, row: Mapping[Any, Any]) -> str:
        """Return which of a session and its admin was changed by someone other than the portal (R54), or nothing."""
        if not self._keyring.holds("admins", {**row, "id": row["admin_id"], "mac": row["admin_mac"]}):
            return "admins"
        return "" if self._keyring.holds("admin_sessions", row) else "admin_sessions"

    def timed_out_admin(self, token: str) -> str | None:
        """Return whose session this was if time alone ended it; None if it was ended on purpose, or never existed."""
        if not token or self.signed_in(token) is not None:
            return None
        owner = select(Admin.id).join(AdminSession, AdminSession.admin_id == Admin.id)
        with self._transactions.read() as work:
            found = work.execute(owner.where(AdminSession.token_hash == token_hash(token), Admin.is_active))
            admin_id: str | None = found.scalar_one_or_none()
        return admin_id

    def open_sessions(self, admin_id: str) -> list[OpenSession]:
        """Return an admin's open sessions, the newest first."""
        columns = [getattr(AdminSession, name) for name in OpenSession.__dataclass_fields__]
        with self._transactions.read() as work:
            live = AdminSession.ends_at > work.now, AdminSession.seen_at > work.now - IDLE
            found = select(*columns).where(AdminSession.admin_id == admin_id, *live).order_by(AdminSession.id.desc())
            rows = work.execute(found).all()
        return [OpenSession(**row._mapping) for row in rows]

    def end(self, signed_in: SignedInAdmin, session_id: str) -> None:
        """End a session of this admin immediately, on the server."""
        with self._transactions.write() as work:
            own = AdminSession.id == session_id, AdminSession.admin_id == signed_in.admin_id
            if work.execute(delete(AdminSession).where(*own)).rowcount:
                work.record("admin_session_ended", admin_id=signed_in.admin_id)


def _is_unchanged(work: Work, row: Any) -> bool:
    """Report whether the admin was not reset, switched off or given a new password during the check; lock them."""
    same = Admin.id == row.id, Admin.is_active, Admin.password_hash == row.password_hash
    return work.execute(select(Admin.id).where(*same).with_for_update()).first() is not None
