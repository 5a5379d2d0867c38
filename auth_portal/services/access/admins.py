"""Admins: who may use the configuration page, in which role, and how they become one.

Nobody is an admin by default. A one-time link lets one person choose their password and enrol their authenticator
app; without both nobody signs in, and a reset takes both at once. On the page the last owner who can sign in is neither
reset nor switched off, and keeps the role. What an attacker would change here is told to every owner (R19).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, Passwords, new_token, token_hash
from auth_portal.errors import Gone, NotFound, Problem
from auth_portal.i18n import gettext as _
from auth_portal.methods.contract import Evidence, Reading
from auth_portal.methods.password import SHORT_PASSWORD
from auth_portal.methods.totp import Totp
from auth_portal.services import audit
from auth_portal.services.directory.customers import email_form
from auth_portal.services.directory.password_rules import password_fault
from auth_portal.services.notices import OWNER, Notices
from auth_portal.store.db import Database, new_id
from auth_portal.store.models import Admin, AdminLink, AdminSession, RecoveryCode

ROLES = (OWNER, "support", "auditor")
LINK_HOURS = 72
NAME_LENGTH = 80
RECOVERY_CODES = 10
RECOVERY_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"  # nothing that reads like something else
RECOVERY_LENGTH = 15  # of 31 letters each: 74 bits, more than the 64 of R20


@dataclass(frozen=True)
class Person:
    """An admin as lists and pages show them."""

    id: str
    name: str
    email: str
    role: str
    is_active: bool
    created_at: datetime
    recovery_codes_left: int = 0
    has_sign_in: bool = True  # False: was reset, and has not followed the link

    @property
    def may_sign_in(self) -> bool:
        """Whether they get in at all."""
        return self.is_active and self.has_sign_in


@dataclass(frozen=True)
class Invitation:
    """A one-time link that is still good: what it makes of whoever follows it."""

    id: str
    role: str
    email: str
    name: str
    admin_id: str | None
    seed: str  # of the authenticator app to enrol, Base32
    expires_at: datetime
    made_by: str | None = None

    @property
    def is_reset(self) -> bool:
        """Whether it sets a known admin's password and app anew."""
        return self.admin_id is not None


@dataclass(frozen=True)
class Joining:
    """What the form behind an invitation says."""

    name: str
    email: str
    password: str
    repeated: str
    code: str


class Admins:
    """Writes the tables ``admins``, ``admin_links`` and ``recovery_codes``."""

    shortest_password = SHORT_PASSWORD  # characters: it never stands alone (63B 3.1.1.2)

    def __init__(
        self, database: Database, keyring: Keyring, clock: Clock, passwords: Passwords, notices: Notices
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._passwords = passwords
        self._notices = notices

    # --- Who there is

    def has_owner(self) -> bool:
        """Whether there is an owner at all, one who was reset too."""
        with self._database.read() as connection:
            owners = select(Admin.id).where(Admin.role == OWNER, Admin.is_active).limit(1)
            return connection.execute(owners).first() is not None

    def people(self) -> list[Person]:
        """Every admin, by name."""
        left = (
            select(func.count())
            .where(RecoveryCode.admin_id == Admin.id, RecoveryCode.used_at.is_(None))
            .scalar_subquery()
        )
        with self._database.read() as connection:
            rows = connection.execute(select(Admin.__table__, left.label("left")).order_by(Admin.name, Admin.id)).all()
        return [self._person(row, row.left) for row in rows]

    def get(self, admin_id: str) -> Person:
        """One admin. Raises NotFound."""
        for person in self.people():
            if person.id == admin_id:
                return person
        raise NotFound("admin_unknown")

    def id_of(self, email: str) -> str:
        """The admin with an e-mail address. Raises NotFound."""
        with self._database.read() as connection:
            found = connection.execute(select(Admin.id).where(Admin.email_key == self._email_key(email)))
            admin_id = found.scalar_one_or_none()
        if admin_id is None:
            raise NotFound("admin_unknown")
        return admin_id

    def _person(self, row: Any, codes_left: int) -> Person:
        email = self._keyring.open(row.email_sealed, "admins", row.id, "email")
        has_sign_in = row.password_hash is not None
        return Person(row.id, row.name, email, row.role, row.is_active, row.created_at, codes_left, has_sign_in)

    def _email_key(self, email: str) -> str:
        return self._keyring.index("admin email", email_form(email) or email.strip().casefold())

    # --- Links

    def invite(self, role: str, *, email: str = "", made_by: str | None = None) -> str:
        """Makes a one-time link for a new admin; gives its token, which is stored nowhere. Raises Problem."""
        if role not in ROLES:
            raise Problem("role_unknown")
        if email and email_form(email) is None:
            raise Problem("email_invalid", status=422)
        now = self._clock()
        link_id, token = new_id(now), new_token()
        sealed = self._keyring.seal(email_form(email) or "", "admin_links", link_id, "email") if email else None
        with self._database.write() as connection:
            self._insert_link(connection, link_id, token, role, now, made_by, email_sealed=sealed)
            audit.record(connection, self._keyring, now, "admin_invited", admin_id=made_by, role=role)
            self._notices.to_owners(
                connection, now, _("An admin was invited"),
                [_("Somebody was invited to the configuration page as %(role)s.", role=role)],
            )  # fmt: skip
        return token

    def reset(self, admin_id: str, *, made_by: str | None = None) -> str:
        """Makes a one-time link with which an admin sets password and app anew.

        From this moment neither their sessions nor password, app, recovery codes or links that they made open
        anything. Raises Problem for the last owner who can sign in, unless a command asks.
        """
        now = self._clock()
        person = self.get(admin_id)
        link_id, token = new_id(now), new_token()
        with self._database.write() as connection:
            _lock_owners(connection)
            nothing = {"password_hash": None, "totp_sealed": None, "recovery_sealed": None, "changed_at": now}
            connection.execute(update(Admin).where(Admin.id == admin_id).values(nothing))
            if made_by is not None and not _owners_who_can_sign_in(connection):
                raise Problem("last_owner_reset", status=422)
            connection.execute(delete(AdminLink).where(AdminLink.admin_id == admin_id))
            connection.execute(delete(RecoveryCode).where(RecoveryCode.admin_id == admin_id))
            _end_access(connection, admin_id)
            self._insert_link(connection, link_id, token, person.role, now, made_by, admin_id=admin_id)
            audit.record(connection, self._keyring, now, "admin_reset", admin_id=made_by, of=admin_id)
            self._notices.to_owners(
                connection, now, _("An admin's sign-in was reset"),
                [_("%(name)s can sign in no more, and was given a link to set a new password and app.",
                   name=person.name)],
            )  # fmt: skip
        return token

    def _insert_link(
        self, connection: Connection, link_id: str, token: str, role: str, now: datetime, made_by: str | None,
        **values: object,
    ) -> None:  # fmt: skip
        row = {
            "id": link_id,
            "token_hash": token_hash(token),
            "role": role,
            "made_by": made_by,
            "created_at": now,
            "expires_at": now + timedelta(hours=LINK_HOURS),
        }
        connection.execute(insert(AdminLink).values({**row, **values}))

    def invitation(self, token: str) -> Invitation:
        """What a link offers. Raises Gone where it was used, has expired or never was."""
        with self._database.read() as connection:
            found = select(AdminLink.__table__, Admin.name, Admin.email_sealed.label("known_email"))
            row = connection.execute(
                found.outerjoin(Admin, Admin.id == AdminLink.admin_id).where(AdminLink.token_hash == token_hash(token))
            ).one_or_none()
        if row is None or row.used_at is not None or row.expires_at <= self._clock():
            raise Gone("admin_link_over")
        email = ""
        if row.known_email is not None:
            email = self._keyring.open(row.known_email, "admins", row.admin_id, "email")
        elif row.email_sealed is not None:
            email = self._keyring.open(row.email_sealed, "admin_links", row.id, "email")
        seed = self._keyring.seed("admin link", row.id)
        return Invitation(row.id, row.role, email, row.name or "", row.admin_id, seed, row.expires_at, row.made_by)

    def open_invitations(self) -> list[Invitation]:
        """The links for new admins that nobody followed yet."""
        now = self._clock()
        with self._database.read() as connection:
            rows = connection.execute(
                select(AdminLink.__table__)
                .where(AdminLink.used_at.is_(None), AdminLink.expires_at > now, AdminLink.admin_id.is_(None))
                .order_by(AdminLink.id)
            ).all()
        opened = [
            self._keyring.open(row.email_sealed, "admin_links", row.id, "email") if row.email_sealed else ""
            for row in rows
        ]
        return [
            Invitation(row.id, row.role, email, "", None, "", row.expires_at, row.made_by)
            for row, email in zip(rows, opened, strict=True)
        ]

    def withdraw(self, link_id: str, *, by: str) -> None:
        """Makes a link worthless."""
        with self._database.write() as connection:
            gone = connection.execute(delete(AdminLink).where(AdminLink.id == link_id, AdminLink.used_at.is_(None)))
            if gone.rowcount:
                audit.record(connection, self._keyring, self._clock(), "admin_invitation_withdrawn", admin_id=by)

    def faults_of(self, invitation: Invitation, joining: Joining) -> dict[str, str]:
        """What has to be corrected before a link can be followed, by field."""
        email = invitation.email if invitation.is_reset else joining.email
        faults = {
            "name": "" if invitation.is_reset or 0 < len(joining.name) <= NAME_LENGTH else _("Please type your name."),
            "email": "" if email_form(email) else _("This is no e-mail address."),
            "password": password_fault(joining.password, at_least=self.shortest_password, about=(joining.name, email)),
            "repeated": "" if joining.password == joining.repeated else _("The two are not the same."),
            "code": ""
            if self._step_of(invitation.seed, joining.code)
            else _("This is not the code that the app shows."),
        }
        return {name: fault for name, fault in faults.items() if fault}

    def join(self, token: str, joining: Joining) -> str:
        """Follows a link whose form has no faults: makes the admin, or sets their sign-in anew; gives their id.

        Raises Gone where somebody else was faster, and Problem where the e-mail address is another admin's.
        """
        invitation = self.invitation(token)
        hashed = self._hashed(joining.password)
        now = self._clock()
        admin_id = invitation.admin_id or new_id(now)
        with self._database.write() as connection:
            used = update(AdminLink).where(AdminLink.id == invitation.id, AdminLink.used_at.is_(None))
            if connection.execute(used.values(used_at=now)).rowcount != 1:
                raise Gone("admin_link_over")
            values = self._secrets(admin_id, hashed, invitation.seed)
            values["totp_last_step"] = self._step_of(invitation.seed, joining.code) or 0
            if invitation.is_reset:
                connection.execute(update(Admin).where(Admin.id == admin_id).values(**values, changed_at=now))
                connection.execute(delete(AdminSession).where(AdminSession.admin_id == admin_id))
            else:
                self._insert_admin(connection, admin_id, invitation, joining, values, now)
            self._renew_recovery_codes(connection, admin_id)
            kind = "admin_sign_in_renewed" if invitation.is_reset else "admin_joined"
            audit.record(connection, self._keyring, now, kind, admin_id=admin_id, role=invitation.role)
            if not invitation.is_reset:
                line = _("%(name)s joined the configuration page as %(role)s.", name=joining.name, role=invitation.role)
                self._notices.to_owners(connection, now, _("A new admin"), [line])
        return admin_id

    def _hashed(self, password: str) -> str:
        with self._passwords.slot():
            return self._passwords.hash(password)

    def _secrets(self, admin_id: str, hashed: str, seed: str) -> dict[str, Any]:
        return {
            "password_hash": self._keyring.seal(hashed, "admins", admin_id, "password"),
            "totp_sealed": self._keyring.seal(seed, "admins", admin_id, "totp"),
        }

    def _insert_admin(
        self, connection: Connection, admin_id: str, invitation: Invitation, joining: Joining,
        values: Mapping[str, Any], now: datetime,
    ) -> None:  # fmt: skip
        email, key = email_form(joining.email) or "", self._email_key(joining.email)
        if connection.execute(select(Admin.id).where(Admin.email_key == key)).first():
            raise Problem("admin_email_taken", status=422)
        row = {
            "id": admin_id,
            "name": joining.name,
            "email_sealed": self._keyring.seal(email, "admins", admin_id, "email"),
            "email_key": key,
            "role": invitation.role,
            "created_at": now,
            "changed_at": now,
        }
        connection.execute(insert(Admin).values({**row, **values}))

    def _step_of(self, seed: str, code: str) -> int | None:
        return right_step(seed, code, self._clock())

    # --- Recovery codes

    def _renew_recovery_codes(self, connection: Connection, admin_id: str) -> None:
        now = self._clock()
        codes = [_recovery_code() for _number in range(RECOVERY_CODES)]
        connection.execute(delete(RecoveryCode).where(RecoveryCode.admin_id == admin_id))
        rows = [
            {"id": new_id(now), "admin_id": admin_id, "code_key": self.recovery_key(admin_id, code)} for code in codes
        ]
        connection.execute(insert(RecoveryCode), rows)
        sealed = self._keyring.seal(" ".join(codes), "admins", admin_id, "recovery")
        connection.execute(update(Admin).where(Admin.id == admin_id).values(recovery_sealed=sealed))

    def recovery_key(self, admin_id: str, typed: str) -> str:
        """What is stored of a recovery code: a keyed hash of its one form (74 random bits need no slow hash)."""
        return self._keyring.index(f"recovery {admin_id}", "".join(typed.lower().split()).replace("-", ""))

    def recovery_codes(self, admin_id: str) -> list[str]:
        """The codes as long as the admin has not said that they are kept; empty afterwards."""
        with self._database.read() as connection:
            sealed = connection.execute(select(Admin.recovery_sealed).where(Admin.id == admin_id)).scalar_one()
        return self._keyring.open(sealed, "admins", admin_id, "recovery").split() if sealed else []

    def keep_recovery_codes(self, admin_id: str) -> None:
        """The admin has them: they are shown no more."""
        with self._database.write() as connection:
            connection.execute(update(Admin).where(Admin.id == admin_id).values(recovery_sealed=None))

    def renew_recovery_codes(self, admin_id: str) -> None:
        """New codes; the old ones are worthless."""
        now = self._clock()
        with self._database.write() as connection:
            self._renew_recovery_codes(connection, admin_id)
            audit.record(connection, self._keyring, now, "recovery_codes_renewed", admin_id=admin_id)
            self._tell(
                connection, now, admin_id, _("You have new recovery codes"), _("The old ones are worthless now.")
            )

    def _tell(self, connection: Connection, now: datetime, admin_id: str, subject: str, text: str) -> None:
        sealed = connection.execute(select(Admin.email_sealed).where(Admin.id == admin_id)).scalar_one()
        email = self._keyring.open(sealed, "admins", admin_id, "email")
        self._notices.to_admin(connection, now, email, subject, text)

    # --- Changes

    def change_password(self, admin_id: str, password: str, *, keep_session: str) -> None:
        """Sets a new password that has no fault; every other session ends (R26)."""
        hashed = self._hashed(password)
        now = self._clock()
        with self._database.write() as connection:
            sealed = self._keyring.seal(hashed, "admins", admin_id, "password")
            mine = Admin.id == admin_id, Admin.password_hash.is_not(None)  # a reset a moment ago wins
            changed = update(Admin).where(*mine).values(password_hash=sealed, changed_at=now)
            if connection.execute(changed).rowcount != 1:
                raise NotFound("admin_unknown")
            others = AdminSession.admin_id == admin_id, AdminSession.id != keep_session
            connection.execute(delete(AdminSession).where(*others))
            audit.record(connection, self._keyring, now, "admin_password_changed", admin_id=admin_id)
            self._tell(
                connection, now, admin_id, _("Your password was changed"),
                _("Was it not you? Then ask another owner to reset your sign-in at once."),
            )  # fmt: skip

    def set_role(self, admin_id: str, role: str, *, by: str) -> None:
        """Gives another role and ends the sessions of the old one. Raises Problem for the last owner."""
        if role not in ROLES:
            raise Problem("role_unknown")
        person = self.get(admin_id)
        line = _("%(name)s is %(role)s now.", name=person.name, role=role)
        self._change(admin_id, by, {"role": role}, "admin_role_changed", line)

    def set_active(self, admin_id: str, is_active: bool, *, by: str) -> None:
        """Switches an admin off, which ends their sessions, or on again. Raises Problem for the last owner."""
        kind = "admin_enabled" if is_active else "admin_disabled"
        name = self.get(admin_id).name
        line = _("%(name)s may sign in again.", name=name) if is_active else _("%(name)s may not sign in.", name=name)
        self._change(admin_id, by, {"is_active": is_active}, kind, line)

    def _change(self, admin_id: str, by: str, values: dict[str, Any], kind: str, line: str) -> None:
        now = self._clock()
        with self._database.write() as connection:
            _lock_owners(connection)
            connection.execute(update(Admin).where(Admin.id == admin_id).values(**values, changed_at=now))
            if not _owners_who_can_sign_in(connection):
                raise Problem("last_owner", status=422)
            _end_access(connection, admin_id)
            audit.record(connection, self._keyring, now, kind, admin_id=by, of=admin_id, **values)
            self._notices.to_owners(connection, now, _("An admin was changed"), [line])


def _lock_owners(connection: Connection) -> None:
    """Together, so that two owners cannot shut each other out at once."""
    connection.execute(select(Admin.id).where(Admin.role == OWNER).order_by(Admin.id).with_for_update())


def _owners_who_can_sign_in(connection: Connection) -> int:
    able = Admin.role == OWNER, Admin.is_active, Admin.password_hash.is_not(None)
    return connection.execute(select(func.count()).select_from(Admin).where(*able)).scalar_one()


def _end_access(connection: Connection, admin_id: str) -> None:
    connection.execute(delete(AdminSession).where(AdminSession.admin_id == admin_id))
    # Whoever may not let anybody in any more must not do it by a link made before, for themselves least of all.
    connection.execute(delete(AdminLink).where(AdminLink.made_by == admin_id, AdminLink.used_at.is_(None)))


def _recovery_code() -> str:
    letters = "".join(secrets.choice(RECOVERY_ALPHABET) for _number in range(RECOVERY_LENGTH))
    return "-".join(letters[start : start + 5] for start in range(0, RECOVERY_LENGTH, 5))


def right_step(seed: str, code: str, now: datetime, last_step: int = 0) -> int | None:
    """The time step whose code this is, by the same rule as for customers (R16 to R18), or None."""
    totp = Totp()
    proof = totp.parse(code, 0)
    if proof is None:
        return None
    verdict = totp.check(proof, Evidence(now, secret=seed, last_step=last_step))
    return verdict.used_step if verdict.reading is Reading.RIGHT else None
