"""Admins: who may use the configuration page, in which role, and how they become one.

A new portal has no admin. A one-time link lets one person choose their password and enrol their authenticator app; no
admin signs in without both, and a reset removes both at once. On the page the last owner who can sign in can neither be
reset nor switched off, and keeps the role. Every owner is notified of what changes here (R44).
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from auth_portal.crypto import Keyring, Passwords, new_token, token_hash
from auth_portal.errors import Gone, NotFound, Problem
from auth_portal.i18n import gettext as _
from auth_portal.i18n import plain
from auth_portal.methods import Evidence, ProofResult
from auth_portal.methods.password import SHORT_PASSWORD, password_fault
from auth_portal.methods.totp import Totp
from auth_portal.services.access.roles import OWNER, ROLES, Role, role_of
from auth_portal.services.delivery.notices import Notices
from auth_portal.services.directory.person import (
    NEW_KEY,
    SECOND,
    STALE_CODE,
    LinkView,
    ShownSeed,
    open_link,
    view_link,
)
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import (
    ADMIN_EMAIL,
    ADMIN_LINK_EMAIL,
    ADMIN_PASSWORD,
    ADMIN_RECOVERY,
    ADMIN_TOTP,
    Admin,
    AdminLink,
    AdminSession,
    AuditEvent,
    Passkey,
    RecoveryCode,
    table_of,
)
from auth_portal.typed import email_form, plain_text, visible_text

JOIN = "/admin/join/"  # and a token
ONCE = "This link lets you set it up. It works once, within 72 hours. If you didn't expect it, tell an owner."
PAGE = "/admin/admins"
SIGNED_IN = "admin_signed_in"  # the audit event of every sign-in, by code and by passkey
LINK_HOURS = 72
NAME_LENGTH = 80
RECOVERY_CODES = 10
RECOVERY_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"  # no letter that looks like another
_ABOUT = "The link is for %(name)s, role %(role)s."
RECOVERY_LENGTH = 15  # of 31 letters each: 74 bits, more than the 64 of R20


@dataclass(frozen=True)
class AdminProfile:
    """An admin as lists and pages show them."""

    id: str
    name: str
    email: str
    role: Role
    is_active: bool
    created_at: datetime
    recovery_codes_left: int = 0
    has_sign_in: bool = True  # False after a reset, until the link is followed
    has_app: bool = True
    passkeys: int = 0
    signed_in_at: datetime | None = None  # the last time, as far as the audit trail goes back

    @property
    def may_sign_in(self) -> bool:
        """Report whether they can sign in at all."""
        return self.is_active and self.has_sign_in


@dataclass(frozen=True)
class Invitation:
    """A valid one-time link: what it makes of the person who follows it."""

    id: str
    role: Role
    email: str
    name: str
    admin_id: str | None
    expires_at: datetime
    view: LinkView
    made_by: str | None = None

    @property
    def is_reset(self) -> bool:
        """Report whether it sets the password and app of an existing admin again."""
        return self.admin_id is not None


@dataclass(frozen=True)
class JoinForm:
    """The form behind an invitation."""

    name: str
    email: str
    password: str
    repeated: str
    code: str
    shown: ShownSeed | None = field(default=None, repr=False)  # that this link showed in this browser


class Admins:
    """Invite and change admins. The only writer of the tables ``admins``, ``admin_links`` and ``recovery_codes``."""

    def __init__(self, transactions: Transactions, passwords: Passwords, notices: Notices) -> None:
        self._transactions = transactions
        self._keyring = transactions.keyring
        self._passwords = passwords
        self._notices = notices

    # --- Who there is

    def has_owner(self) -> bool:
        """Report whether there is an owner at all, also one who was reset."""
        with self._transactions.read() as work:
            owners = select(Admin.id).where(Admin.role == OWNER.name, Admin.is_active).limit(1)
            return work.execute(owners).first() is not None

    def profiles(self) -> list[AdminProfile]:
        """Return every admin, by name."""
        left = (
            select(func.count())
            .where(RecoveryCode.admin_id == Admin.id, RecoveryCode.used_at.is_(None))
            .scalar_subquery()
        )
        passkeys = select(func.count()).where(Passkey.admin_id == Admin.id).scalar_subquery()
        signed_in = AuditEvent.admin_id == Admin.id, AuditEvent.kind == SIGNED_IN
        last = select(AuditEvent.at).where(*signed_in).order_by(AuditEvent.id.desc()).limit(1).scalar_subquery()
        found = select(Admin.__table__, left.label("left"), passkeys.label("passkeys"), last.label("signed_in_at"))
        with self._transactions.read() as work:
            rows = work.execute(found.order_by(Admin.name, Admin.id)).all()
        return [
            AdminProfile(
                id=row.id,
                name=row.name,
                email=self._keyring.open(row.email_sealed, ADMIN_EMAIL, row.id),
                role=ROLES[row.role],
                is_active=row.is_active,
                created_at=row.created_at,
                recovery_codes_left=row.left,
                has_sign_in=row.password_hash is not None,
                has_app=row.totp_sealed is not None,
                passkeys=row.passkeys,
                signed_in_at=row.signed_in_at,
            )
            for row in rows
        ]

    def get(self, admin_id: str) -> AdminProfile:
        """Return one admin. Raise NotFound."""
        for profile in self.profiles():
            if profile.id == admin_id:
                return profile
        raise NotFound("admin_unknown")

    def id_of(self, email: str) -> str:
        """Return the admin with an email address. Raise NotFound."""
        with self._transactions.read() as work:
            found = work.execute(select(Admin.id).where(Admin.email_key == email_key(self._keyring, email)))
            admin_id: str | None = found.scalar_one_or_none()
        if admin_id is None:
            raise NotFound("admin_unknown")
        return admin_id

    # --- Links

    @property
    def may_mail(self) -> bool:
        """Report whether one-time links can be sent by email."""
        return self._notices.has_mail

    def invite(self, role: str, *, email: str = "", made_by: str | None = None, is_mailed: bool = False) -> str:
        """Create a one-time link for a new admin; return its token, which is stored nowhere. Raise Problem.

        With ``is_mailed`` it also goes to the email address.
        """
        granted = role_of(role)
        if (email or is_mailed) and email_form(email) is None:
            raise Problem("email_invalid", status=422)
        with self._transactions.write() as work:
            link_id = work.new_id()
            sealed = work.seal(email_form(email) or "", ADMIN_LINK_EMAIL, link_id) if email else None
            token = _insert_link(work, link_id, granted, made_by, email_sealed=sealed)
            work.record("admin_invited", admin_id=made_by, role=role)
            if is_mailed:
                said = [_("You were invited to the configuration page as %(role)s.", role=role), ONCE]
                self._notices.one_time_link(work, email, _("Your invitation"), f"{JOIN}{token}", said)
            line = _("A new admin was invited to the configuration page as %(role)s.", role=role)
            self._notices.change_to_owners(work, _("An admin was invited"), [line], made_by, [PAGE])
        return token

    def reset(self, admin_id: str, *, made_by: str | None = None, is_mailed: bool = False) -> str:
        """Create a one-time link with which an admin sets password and app again; return its token.

        With ``is_mailed`` it also goes to their email address.
        From this moment their sessions, password, app, passkeys, recovery codes and the links that they created open
        nothing. Raise Problem for the last owner who can sign in, unless a command asks.
        """
        profile = self.get(admin_id)
        with self._transactions.write() as work:
            _lock_owners(work)
            nothing = {"password_hash": None, "totp_sealed": None, "recovery_sealed": None, "changed_at": work.now}
            work.execute(update(Admin).where(Admin.id == admin_id).values(nothing))
            if made_by is not None and not _count_able_owners(work):
                raise Problem("last_owner_reset", status=422)
            work.execute(delete(AdminLink).where(AdminLink.admin_id == admin_id))
            work.execute(delete(RecoveryCode).where(RecoveryCode.admin_id == admin_id))
            _end_access(work, admin_id)  # before the passkeys: one may be created in a session at this moment
            work.execute(delete(Passkey).where(Passkey.admin_id == admin_id))
            token = _insert_link(work, work.new_id(), profile.role, made_by, admin_id=admin_id)
            work.record("admin_reset", admin_id=made_by, of=admin_id)
            if is_mailed:
                said = [_("An owner reset your sign-in to the configuration page."), ONCE]
                self._notices.one_time_link(work, profile.email, _("Set up your sign-in"), f"{JOIN}{token}", said)
            line = _(
                "%(name)s can no longer sign in, and was given a link to set a new password and app.",
                name=profile.name,
            )
            page = f"{PAGE}/{admin_id}"
            self._notices.change_to_owners(work, _("An admin's sign-in was reset"), [line], made_by, [page])
        return token

    def invitation(self, token: str, browser: str = "") -> Invitation:
        """Return what a link offers to a browser, named by its cookie if it has one; changes nothing.

        Raise Gone if the link was used, has expired or is unknown.
        """
        found = select(AdminLink.__table__, Admin.name, Admin.email_sealed.label("known_email"))
        found = found.outerjoin(Admin, Admin.id == AdminLink.admin_id)
        with self._transactions.read() as work:
            row = work.execute(found.where(AdminLink.token_hash == token_hash(token))).one_or_none()
            if row is None or row.used_at is not None or row.expires_at <= work.now:
                raise Gone("admin_link_over")
            if not work.keyring.holds("admin_links", row._mapping):
                raise Gone("admin_link_over")
            view = view_link(work, row.id, browser)
        email = self._invited_email(row)
        if row.known_email is not None:
            email = self._keyring.open(row.known_email, ADMIN_EMAIL, row.admin_id)
        return Invitation(
            row.id, ROLES[row.role], email, row.name or "", row.admin_id, row.expires_at, view, row.made_by
        )

    def open(self, token: str, browser: str) -> str:
        """Note that a browser opens a link; the admin who created it, or the owners, hear of the second one (R47).

        Return what the browser is known by from now on. Raise Gone.
        """
        browser = browser or new_token()
        invitation = self.invitation(token, browser)
        with self._transactions.write() as work:
            number = open_link(work, invitation.view)
            if 0 < number <= SECOND:
                work.record("admin_link_opened", role=invitation.role.name, number=number)
            if number == SECOND:
                lines = [
                    plain(_ABOUT, role=invitation.role, name=invitation.name or invitation.email or "a new admin"),
                    _("It was opened in one browser and then in another, so someone else may have it."),
                    _("Ask the person. If they opened it only once, withdraw it or reset them again."),
                ]
                self._to_issuer(work, invitation, _("An admin's one-time link was opened in a second browser"), lines)
        return browser

    def decline(self, token: str, browser: str) -> None:
        """Delete a link that the person who has it did not expect, and notify who created it. Raise Gone."""
        invitation = self.invitation(token, browser)
        with self._transactions.write() as work:
            mine = AdminLink.id == invitation.id, AdminLink.used_at.is_(None)
            if work.execute(delete(AdminLink).where(*mine)).rowcount != 1:
                raise Gone("admin_link_over")
            work.record("admin_link_declined", role=invitation.role.name)
            lines = [
                plain(_ABOUT, role=invitation.role, name=invitation.name or invitation.email or "a new admin"),
                _("The person who opened it says that they didn't expect it, so it no longer works."),
            ]
            self._to_issuer(work, invitation, _("An admin's one-time link was declined"), lines)

    def _to_issuer(self, work: Work, invitation: Invitation, subject: str, lines: Sequence[str]) -> None:
        see = self._notices.page(f"{PAGE}/{invitation.admin_id}" if invitation.is_reset else PAGE)
        self._notices.to_issuer(work, invitation.made_by, subject, [*lines, "", see])

    def open_invitations(self) -> list[Invitation]:
        """Return the links for new admins that are not used yet."""
        with self._transactions.read() as work:
            rows = work.execute(
                select(AdminLink.__table__)
                .where(AdminLink.used_at.is_(None), AdminLink.expires_at > work.now, AdminLink.admin_id.is_(None))
                .order_by(AdminLink.id)
            ).all()
        return [
            Invitation(
                row.id,
                ROLES[row.role],
                self._invited_email(row),
                "",
                None,
                row.expires_at,
                LinkView(row.id),
                row.made_by,
            )
            for row in rows
        ]

    def _invited_email(self, row: Any) -> str:
        return self._keyring.open(row.email_sealed, ADMIN_LINK_EMAIL, row.id) if row.email_sealed else ""

    def withdraw(self, link_id: str, *, by: str) -> None:
        """Delete an unused link."""
        with self._transactions.write() as work:
            gone = work.execute(delete(AdminLink).where(AdminLink.id == link_id, AdminLink.used_at.is_(None)))
            if gone.rowcount:
                work.record("admin_invitation_withdrawn", admin_id=by)
                line = _("The link for a new admin no longer works.")
                self._notices.change_to_owners(work, _("An invitation was withdrawn"), [line], by, [PAGE])

    def faults_of(self, invitation: Invitation, form: JoinForm) -> dict[str, str]:
        """Return what has to be corrected before a link can be followed, by field."""
        email, now = invitation.email if invitation.is_reset else form.email, self._transactions.clock()
        has_name = invitation.is_reset or 0 < len(form.name) <= NAME_LENGTH
        has_code = form.shown is not None and right_step(form.shown.seed, form.code, now) is not None
        faults = {
            "name": ""
            if has_name
            else _("At most %(most)s characters.", most=NAME_LENGTH)
            if form.name
            else _("Enter your name."),
            "email": "" if email_form(email) else _("This isn't an email address."),
            "password": self.password_fault(form.password, about=(form.name, email)),
            "repeated": "" if form.password == form.repeated else _("The two passwords are different."),
            "code": "" if has_code else _(STALE_CODE if form.shown else NEW_KEY),
        }
        return {name: fault for name, fault in faults.items() if fault}

    def password_fault(self, password: str, *, about: Sequence[str]) -> str:
        """Return why an admin's new password is refused, as a sentence, or an empty text.

        It may be short because it never stands alone (NIST SP 800-63B 3.1.1.2). ``about``: what others know of them.
        """
        return password_fault(password, at_least=SHORT_PASSWORD, about=about)

    def join(self, invitation: Invitation, form: JoinForm) -> str:
        """Follow a link whose form has no faults: create the admin, or set their sign-in again; return their id.

        Raise Gone if the link was used in the meantime, and Problem if the email address is another admin's.
        """
        assert form.shown is not None, "a form without faults has a seed"
        seed = form.shown.seed
        hashed = self._hash(form.password)
        with self._transactions.write() as work:
            unused = select(AdminLink.id).where(AdminLink.id == invitation.id, AdminLink.used_at.is_(None))
            if work.execute(unused.with_for_update()).first() is None:
                raise Gone("admin_link_over")
            work.update_signed(table_of(AdminLink), invitation.id, used_at=work.now)
            admin_id = invitation.admin_id or work.new_id()
            sign_in = {
                "password_hash": work.seal(hashed, ADMIN_PASSWORD, admin_id),
                "totp_sealed": work.seal(seed, ADMIN_TOTP, admin_id),
                "totp_last_step": right_step(seed, form.code, work.now) or 0,
                "changed_at": work.now,
            }
            if invitation.is_reset:
                work.execute(update(Admin).where(Admin.id == admin_id).values(sign_in))
                work.execute(delete(AdminSession).where(AdminSession.admin_id == admin_id))
                work.execute(delete(Passkey).where(Passkey.admin_id == admin_id))
                kind = "admin_sign_in_renewed"
            else:
                _insert_admin(work, admin_id, invitation.role, form, sign_in)
                kind = "admin_joined"
            _replace_recovery_codes(work, admin_id)
            work.record(kind, admin_id=admin_id, role=invitation.role.name)
            if invitation.is_reset:
                subject = _("An admin's sign-in was set again")
                line = plain("%(name)s has a new password, app and recovery codes.", name=invitation.name)
            else:
                subject = _("A new admin")
                line = plain(
                    "%(name)s joined the configuration page as %(role)s.", name=form.name, role=invitation.role
                )
            self._notices.change_to_owners(work, subject, [line], admin_id, [f"{PAGE}/{admin_id}"])
        return admin_id

    def _hash(self, password: str) -> str:
        with self._passwords.slot():
            return self._passwords.hash(password)

    # --- Recovery codes

    def recovery_codes(self, admin_id: str) -> list[str]:
        """Return the codes until the admin confirms that they are saved; none afterwards."""
        with self._transactions.read() as work:
            sealed = work.execute(select(Admin.recovery_sealed).where(Admin.id == admin_id)).scalar_one()
        return self._keyring.open(sealed, ADMIN_RECOVERY, admin_id).split() if sealed else []

    def hide_recovery_codes(self, admin_id: str) -> None:
        """Show the codes no longer: the admin has saved them."""
        with self._transactions.write() as work:
            work.execute(update(Admin).where(Admin.id == admin_id).values(recovery_sealed=None))

    def renew_recovery_codes(self, admin_id: str) -> None:
        """Create new codes; the old ones stop working."""
        with self._transactions.write() as work:
            _replace_recovery_codes(work, admin_id)
            work.record("recovery_codes_renewed", admin_id=admin_id)
            text = _("The old ones no longer work.")
            self.notify(work, admin_id, _("You have new recovery codes"), text, _("An admin has new recovery codes"))

    def notify(self, work: Work, admin_id: str, subject: str, text: str, owners_subject: str) -> None:
        """Mail an admin about a change of their own sign-in, and every owner (R44), in the caller's transaction."""
        row = work.execute(select(Admin.name, Admin.email_sealed).where(Admin.id == admin_id)).one()
        self._notices.to_admin(work, work.open(row.email_sealed, ADMIN_EMAIL, admin_id), subject, text)
        page = f"{PAGE}/{admin_id}"
        self._notices.change_to_owners(work, owners_subject, [f"{row.name}: {subject}."], admin_id, [page])

    # --- Changes

    def change_password(self, admin_id: str, password: str, *, keep_session: str) -> None:
        """Set a new password that has no fault; every other session ends (R26)."""
        hashed = self._hash(password)
        with self._transactions.write() as work:
            sealed = work.seal(hashed, ADMIN_PASSWORD, admin_id)
            mine = Admin.id == admin_id, Admin.password_hash.is_not(None)  # a reset a moment ago wins
            changed = update(Admin).where(*mine).values(password_hash=sealed, changed_at=work.now)
            if work.execute(changed).rowcount != 1:
                raise NotFound("admin_unknown")
            others = AdminSession.admin_id == admin_id, AdminSession.id != keep_session
            work.execute(delete(AdminSession).where(*others))
            work.record("admin_password_changed", admin_id=admin_id)
            text = _("If this was not you, ask another owner to reset your sign-in immediately.")
            self.notify(work, admin_id, _("Your password was changed"), text, _("An admin's password was changed"))

    def set_role(self, admin_id: str, role: str, *, by: str) -> None:
        """Give an admin another role and end their sessions.

        Raise Problem for the last owner, and if someone other than the portal has changed the admin.
        """
        granted, profile = role_of(role), self.get(admin_id)
        line = plain("%(name)s is %(role)s now.", name=profile.name, role=granted)
        self._change(admin_id, by, {"role": granted.name}, "admin_role_changed", line)

    def set_active(self, admin_id: str, is_active: bool, *, by: str) -> None:
        """Switch an admin off, which ends their sessions, or on again. Raise Problem like ``set_role``."""
        kind = "admin_enabled" if is_active else "admin_disabled"
        name = self.get(admin_id).name
        line = plain("%(name)s may not sign in.", name=name)
        if is_active:
            line = plain("%(name)s may sign in again.", name=name)
        self._change(admin_id, by, {"is_active": is_active}, kind, line)

    def _change(self, admin_id: str, by: str, values: dict[str, Any], kind: str, line: str) -> None:
        with self._transactions.write() as work:
            _lock_owners(work)
            # Before the change, so that an owner who stops being one hears of it too.
            self._notices.change_to_owners(work, _("An admin was changed"), [line], by, [f"{PAGE}/{admin_id}"])
            was = work.row_to_sign(table_of(Admin), admin_id)
            work.update_signed(table_of(Admin), admin_id, **values, changed_at=work.now)
            if not _count_able_owners(work):
                raise Problem("last_owner", status=422)
            _end_access(work, admin_id)
            changes = {name: [was[name], text] for name, text in values.items() if isinstance(text, str)}
            work.record(kind, admin_id=by, of=admin_id, **values, changes={"admin": changes})


def _insert_link(work: Work, link_id: str, role: Role, made_by: str | None, **values: object) -> str:
    """Store a link and return its token."""
    token = new_token()
    row = {
        "id": link_id,
        "token_hash": token_hash(token),
        "role": role.name,
        "made_by": made_by,
        "created_at": work.now,
        "expires_at": work.now + timedelta(hours=LINK_HOURS),
    }
    values = {"admin_id": None, "used_at": None, **row, **values}
    work.execute(insert(AdminLink).values(work.keyring.signed("admin_links", values)))
    return token


def _insert_admin(work: Work, admin_id: str, role: Role, form: JoinForm, sign_in: dict[str, Any]) -> None:
    key = email_key(work.keyring, form.email)
    if work.execute(select(Admin.id).where(Admin.email_key == key)).first():
        raise Problem("admin_email_taken", status=422)
    row = {
        "id": admin_id,
        "name": form.name,
        "email_sealed": work.seal(email_form(form.email) or "", ADMIN_EMAIL, admin_id),
        "email_key": key,
        "role": role.name,
        "created_at": work.now,
    }
    values = {"is_active": True, **row, **sign_in}
    work.execute(insert(Admin).values(work.keyring.signed("admins", values)))


def _replace_recovery_codes(work: Work, admin_id: str) -> None:
    codes = []
    for _number in range(RECOVERY_CODES):
        letters = "".join(secrets.choice(RECOVERY_ALPHABET) for _letter in range(RECOVERY_LENGTH))
        codes.append("-".join(letters[start : start + 5] for start in range(0, RECOVERY_LENGTH, 5)))
    work.execute(delete(RecoveryCode).where(RecoveryCode.admin_id == admin_id))
    keys = [recovery_key(work.keyring, admin_id, code) for code in codes]
    work.execute(insert(RecoveryCode), [{"id": work.new_id(), "admin_id": admin_id, "code_key": key} for key in keys])
    sealed = work.seal(" ".join(codes), ADMIN_RECOVERY, admin_id)
    work.execute(update(Admin).where(Admin.id == admin_id).values(recovery_sealed=sealed))


def _lock_owners(work: Work) -> None:
    """Lock all owners together, so that two of them cannot lock each other out at once."""
    work.execute(select(Admin.id).where(Admin.role == OWNER.name).order_by(Admin.id).with_for_update())


def _count_able_owners(work: Work) -> int:
    able = Admin.role == OWNER.name, Admin.is_active, Admin.password_hash.is_not(None)
    return int(work.execute(select(func.count()).select_from(Admin).where(*able)).scalar_one())


def _end_access(work: Work, admin_id: str) -> None:
    work.execute(delete(AdminSession).where(AdminSession.admin_id == admin_id))
    # An admin who may no longer invite must not do so by a link created before, least of all for themselves.
    work.execute(delete(AdminLink).where(AdminLink.made_by == admin_id, AdminLink.used_at.is_(None)))


def email_key(keyring: Keyring, email: str) -> str:
    """Return the keyed hash that an admin is found by."""
    return keyring.index("admin email", email_name(email))


def email_name(email: str) -> str:
    """Return an admin's email address in its one form, or what was typed instead of one."""
    return email_form(email) or visible_text(email).strip().casefold()


def recovery_key(keyring: Keyring, admin_id: str, typed: str) -> str:
    """Return what is stored of a recovery code: a keyed hash of its one form (74 random bits need no slow hash)."""
    plain = plain_text(unicodedata.normalize("NFKC", typed)).lower()
    return keyring.index(f"recovery {admin_id}", "".join(plain.split()).replace("-", ""))


def right_step(seed: str, code: str, now: datetime, last_step: int = 0) -> int | None:
    """Return the time step whose code this is, by the same rule as for customers (R16 to R18), or None."""
    totp = Totp()
    proof = totp.parse(code, 0)
    if proof is None:
        return None
    verdict = totp.check(proof, Evidence(now, secret=seed, last_step=last_step))
    return verdict.used_step if verdict.result is ProofResult.RIGHT else None
