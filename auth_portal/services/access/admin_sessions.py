"""Signing in to the configuration page, and the sessions that come of it.

Name, password and second factor are asked for together and judged together, so that nobody learns which was wrong. A
session is a row here; the browser holds a token of which only the hash is stored, so that signing out ends it (R26).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, Passwords, new_token, token_hash
from auth_portal.i18n import gettext as _
from auth_portal.services import audit, limits
from auth_portal.services.access.admins import Admins, right_step
from auth_portal.services.directory.customers import email_form
from auth_portal.services.limits import DAY, MINUTE, Limit
from auth_portal.services.notices import Notices
from auth_portal.store.db import Database, new_id
from auth_portal.store.models import Admin, AdminSession, RecoveryCode

IDLE = timedelta(minutes=15)  # R26
LONGEST = timedelta(hours=8)  # R26
KEPT = timedelta(hours=24)  # since it began: whose a session was, for a form that was left open overnight
SEEN_EVERY = timedelta(seconds=60)  # how often a session in use is written
CONFIRMED_FOR = timedelta(minutes=10)  # how long a second factor that was shown again counts
WRONG_SIGN_INS = 5  # per name and address (R40)
WRONG_FROM_ADDRESS = 50  # over all names: an office behind one address still gets in
WINDOW_SECONDS = 15 * MINUTE  # R40
WRONG_CODES_A_DAY = 15  # behind the right password, from wherever; as many as a customer's (R6)
BROWSER_LENGTH = 160
_GUESSED = (
    "Your right password was typed 15 times within a day with a wrong code of your app. If it was not you, somebody "
    "knows your password: sign in with a recovery code and change it. Codes of your app work again from then on, or "
    "after a day."
)


@dataclass(frozen=True)
class SignedIn:
    """Who is at a browser."""

    session_id: str
    admin_id: str
    name: str
    role: str
    confirmed_at: datetime
    ends_at: datetime
    has_codes_to_keep: bool

    @property
    def is_owner(self) -> bool:
        """Whether everything is allowed."""
        return self.role == "owner"

    @property
    def may_write(self) -> bool:
        """Whether customers may be changed and deliveries sent again."""
        return self.role in ("owner", "support")

    def is_confirmed(self, now: datetime) -> bool:
        """Whether the second factor was shown within the last ten minutes."""
        return now - self.confirmed_at < CONFIRMED_FOR


@dataclass(frozen=True)
class Credentials:
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
    """Writes the table ``admin_sessions``."""

    def __init__(
        self, database: Database, keyring: Keyring, clock: Clock, passwords: Passwords, admins: Admins, notices: Notices
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._passwords = passwords
        self._admins = admins
        self._notices = notices

    def sign_in(self, given: Credentials) -> str | None:
        """The token of a new session, or None where something was wrong, whatever it was.

        Raises TooMany after 5 wrong ones of this name from this address within 15 minutes, and Busy.
        """
        bounds = self._bounds(given)
        with self._passwords.slot():
            with self._database.write() as connection:
                for bound in bounds:
                    limits.take_or_refuse(connection, self._clock(), bound, "too_many_sign_ins")
            row = self._row_of(given.email)
            has_password = row is not None and row.password_hash is not None
            stored = self._keyring.open(row.password_hash, "admins", row.id, "password") if has_password else None
            is_right = self._passwords.matches(stored, given.password[:1024])
        with self._database.write() as connection:
            is_in = is_right and _is_unchanged(connection, row) and self._second_of(connection, row, given.code)
            if not is_in:
                audit.record(
                    connection, self._keyring, self._clock(), "admin_sign_in_failed", of=row.id if row else None
                )
                return None
            limits.give_back(connection, bounds)
            return self._begin(connection, row, given)

    def begin(self, admin_id: str, address: str, browser: str) -> str:
        """A session for somebody who just showed password and app: whoever followed their link."""
        with self._database.write() as connection:
            row = connection.execute(select(Admin.__table__).where(Admin.id == admin_id)).one()
            return self._begin(connection, row, Credentials("", "", "", address, browser))

    def _bounds(self, given: Credentials) -> list[Limit]:
        name = email_form(given.email) or given.email.strip().casefold()[:254]
        address = limits.address_key(given.address, self._keyring)
        key = self._keyring.index("sign-in", f"{name} {address}")
        return [
            Limit(f"sign-in:{key}", WRONG_SIGN_INS, WINDOW_SECONDS),
            Limit(f"sign-in:{address}", WRONG_FROM_ADDRESS, WINDOW_SECONDS),
        ]

    def _row_of(self, email: str) -> Any:
        form = email_form(email)
        if form is None:
            return None
        key = self._keyring.index("admin email", form)
        with self._database.read() as connection:
            return connection.execute(
                select(Admin.__table__).where(Admin.email_key == key, Admin.is_active)
            ).one_or_none()

    def _begin(self, connection: Connection, row: Any, given: Credentials) -> str:
        now, token = self._clock(), new_token()
        session = {
            "id": new_id(now),
            "token_hash": token_hash(token),
            "admin_id": row.id,
            "began_at": now,
            "seen_at": now,
            "ends_at": now + LONGEST,
            "confirmed_at": now,
            "address": given.address[:45],
            "browser": given.browser[:BROWSER_LENGTH],
        }
        connection.execute(insert(AdminSession).values(session))
        audit.record(connection, self._keyring, now, "admin_signed_in", admin_id=row.id)
        return token

    # --- The second factor

    def _second_of(self, connection: Connection, row: Any, typed: str) -> bool:
        """The second factor behind a right password.

        Whoever knows the password and has many addresses could try codes without end. After 15 wrong ones in a day,
        which only they or the admin can type, the app's codes count no more until it is over or there is a new
        password: recovery codes do, and the admin is told. It shows to nobody, else it would say that the password is
        right.
        """
        now = self._clock()
        behind = self._keyring.index("second factor", row.password_hash.hex())  # each new password is sealed anew
        bound = Limit(f"second:{behind}", WRONG_CODES_A_DAY, DAY)
        (taken,) = limits.take(connection, now, [bound])
        if self._has_second(connection, row, typed, takes_app=not taken.is_over):
            limits.give_back(connection, [bound])
            return True
        if taken.count == WRONG_CODES_A_DAY:
            email = self._keyring.open(row.email_sealed, "admins", row.id, "email")
            self._notices.to_admin(connection, now, email, _("Wrong codes with your password"), _(_GUESSED))
        return False

    def _has_second(self, connection: Connection, row: Any, typed: str, *, takes_app: bool = True) -> bool:
        """Spends an app's code or a recovery code, in the caller's transaction: each is good once (R17, R20)."""
        now = self._clock()
        if row.totp_sealed is None:
            return False
        seed = self._keyring.open(row.totp_sealed, "admins", row.id, "totp")
        step = right_step(seed, typed, now, row.totp_last_step)
        if step is not None and takes_app:
            spent = update(Admin).where(Admin.id == row.id, Admin.totp_last_step < step).values(totp_last_step=step)
            return connection.execute(spent).rowcount == 1
        key = self._admins.recovery_key(row.id, typed)
        used = update(RecoveryCode).where(
            RecoveryCode.admin_id == row.id, RecoveryCode.code_key == key, RecoveryCode.used_at.is_(None)
        )
        if connection.execute(used.values(used_at=now)).rowcount != 1:
            return False
        audit.record(connection, self._keyring, now, "recovery_code_used", admin_id=row.id)
        email = self._keyring.open(row.email_sealed, "admins", row.id, "email")
        text = _("One of your recovery codes was used. Was it not you? Then tell another owner at once.")
        self._notices.to_admin(connection, now, email, _("A recovery code was used"), text)
        return True

    def confirm(self, signed_in: SignedIn, typed: str) -> bool:
        """Takes the second factor again before a guarded change. Raises TooMany after 5 wrong ones in 15 minutes."""
        now = self._clock()
        bound = Limit(f"confirm:{signed_in.admin_id}", WRONG_SIGN_INS, WINDOW_SECONDS)
        with self._database.write() as connection:
            limits.take_or_refuse(connection, now, bound, "too_many_confirmations")
        with self._database.write() as connection:
            row = connection.execute(select(Admin.__table__).where(Admin.id == signed_in.admin_id)).one()
            if not self._has_second(connection, row, typed):
                audit.record(connection, self._keyring, now, "admin_confirmation_failed", admin_id=signed_in.admin_id)
                return False
            limits.give_back(connection, [bound])
            confirmed = update(AdminSession).where(AdminSession.id == signed_in.session_id).values(confirmed_at=now)
            connection.execute(confirmed)
        return True

    def check_password(self, signed_in: SignedIn, password: str) -> bool:
        """Whether this is the admin's present password. Raises TooMany like ``confirm``, and Busy."""
        now = self._clock()
        bound = Limit(f"confirm:{signed_in.admin_id}", WRONG_SIGN_INS, WINDOW_SECONDS)
        with self._passwords.slot():
            with self._database.write() as connection:
                limits.take_or_refuse(connection, now, bound, "too_many_confirmations")
                found = select(Admin.password_hash).where(Admin.id == signed_in.admin_id)
                sealed = connection.execute(found).scalar_one()
            stored = self._keyring.open(sealed, "admins", signed_in.admin_id, "password") if sealed else None
            is_right = self._passwords.matches(stored, password[:1024])
        if is_right:
            with self._database.write() as connection:
                limits.give_back(connection, [bound])
        return is_right

    # --- Sessions

    def signed_in(self, token: str) -> SignedIn | None:
        """Who a token belongs to now; None where it is unknown, idle for 15 minutes, older than 8 hours or ended."""
        if not token:
            return None
        now = self._clock()
        columns = (
            AdminSession.id, AdminSession.seen_at, AdminSession.ends_at, AdminSession.confirmed_at,
            Admin.id.label("admin_id"), Admin.name, Admin.role, Admin.recovery_sealed.is_not(None).label("keeps"),
        )  # fmt: skip
        with self._database.read() as connection:
            row = connection.execute(
                select(*columns)
                .join(Admin, Admin.id == AdminSession.admin_id)
                .where(AdminSession.token_hash == token_hash(token), Admin.is_active)
            ).one_or_none()
        if row is None or row.ends_at <= now or now - row.seen_at >= IDLE:
            return None
        if now - row.seen_at >= SEEN_EVERY:
            with self._database.write() as connection:
                connection.execute(update(AdminSession).where(AdminSession.id == row.id).values(seen_at=now))
        return SignedIn(row.id, row.admin_id, row.name, row.role, row.confirmed_at, row.ends_at, row.keeps)

    def ran_out(self, token: str) -> str | None:
        """Whose session this was, where time alone ended it; None for one that was ended on purpose, or never was."""
        if not token or self.signed_in(token) is not None:
            return None
        owner = select(Admin.id).join(AdminSession, AdminSession.admin_id == Admin.id)
        with self._database.read() as connection:
            found = connection.execute(owner.where(AdminSession.token_hash == token_hash(token), Admin.is_active))
            return found.scalar_one_or_none()

    def open_sessions(self, admin_id: str) -> list[OpenSession]:
        """An admin's sessions that are still good, the newest first."""
        now = self._clock()
        live = AdminSession.admin_id == admin_id, AdminSession.ends_at > now, AdminSession.seen_at > now - IDLE
        columns = [getattr(AdminSession, name) for name in OpenSession.__dataclass_fields__]
        with self._database.read() as connection:
            rows = connection.execute(select(*columns).where(*live).order_by(AdminSession.id.desc())).all()
        return [OpenSession(**row._mapping) for row in rows]

    def end(self, signed_in: SignedIn, session_id: str) -> None:
        """Ends a session of this admin, at once and on the server."""
        now = self._clock()
        with self._database.write() as connection:
            own = AdminSession.id == session_id, AdminSession.admin_id == signed_in.admin_id
            if connection.execute(delete(AdminSession).where(*own)).rowcount:
                audit.record(connection, self._keyring, now, "admin_session_ended", admin_id=signed_in.admin_id)


def _is_unchanged(connection: Connection, row: Any) -> bool:
    """Whether nobody was reset, switched off or given a new password while theirs was being checked; they wait now."""
    same = Admin.id == row.id, Admin.is_active, Admin.password_hash == row.password_hash
    return connection.execute(select(Admin.id).where(*same).with_for_update()).first() is not None
