"""One-time links by which a customer sets a password or enrols an authenticator app.

An admin makes one after making sure who asks, and chooses how it travels: by message to a contact on file, or handed
over by the admin. Never both: whichever way it is, the customer's other contacts are told that it was made, and all
of them that it was used. Following it shows nothing of the person, and looking at it uses nothing up (R31).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, delete, insert, select, update

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, Passwords, new_token, token_hash
from auth_portal.errors import Gone, NotFound
from auth_portal.i18n import gettext as _
from auth_portal.methods.contract import Evidence, Reading
from auth_portal.methods.password import LONG_PASSWORD, SHORT_PASSWORD, is_long
from auth_portal.methods.totp import DIGITS, Totp
from auth_portal.services import audit, limits
from auth_portal.services.directory.credentials import contacts_of
from auth_portal.services.directory.customer_rows import column_values
from auth_portal.services.directory.customers import PERSON_COLUMNS, Person, get_person, person_from
from auth_portal.services.directory.password_rules import password_fault
from auth_portal.services.journeys import Journeys
from auth_portal.services.method_names import method_name
from auth_portal.services.notices import Notices
from auth_portal.store.db import Database, new_id
from auth_portal.store.models import CredentialLink, CustomerRow

LINK_HOURS = 24
KINDS = ("password", "totp")  # what a link sets: methods whose proof a customer makes
WAYS = ("sms", "email", "hand")

_FIND = (
    select(
        CredentialLink.id.label("link_id"), CredentialLink.kind, CredentialLink.expires_at, CredentialLink.used_at,
        *PERSON_COLUMNS,
    )
    .join(CustomerRow, CustomerRow.id == CredentialLink.customer_row)
)  # fmt: skip


@dataclass(frozen=True)
class Made:
    """What came of making a link: the link itself where an admin hands it over, else nothing; or a fault's code."""

    link: str = field(default="", repr=False)
    expires_at: datetime | None = None
    fault: str = ""


@dataclass(frozen=True)
class Offer:
    """What a link that is still good offers to whoever follows it."""

    id: str
    kind: str
    expires_at: datetime
    at_least: int  # characters of a password
    account: str  # how the authenticator app tells this customer from another: the end of the customer ID
    seed: str = field(default="", repr=False)  # Base32, 160 bits (R15)
    person: Person = field(default=Person(""), repr=False)


class CredentialLinks:
    """Writes the table ``credential_links``, and the credentials that its links set."""

    def __init__(
        self, database: Database, keyring: Keyring, passwords: Passwords, clock: Clock, journeys: Journeys,
        notices: Notices, public_url: str,
    ) -> None:  # fmt: skip
        self._database = database
        self._keyring = keyring
        self._passwords = passwords
        self._clock = clock
        self._journeys = journeys
        self._notices = notices
        self._public_url = public_url

    def make(self, row: str, kind: str, way: str, *, admin_id: str) -> Made:
        """Makes a link of a kind and sends it, or gives it to be handed over; an older one of its kind is worthless.

        The caller has checked the second factor. Raises NotFound for nobody and for what is no kind or way.
        """
        if kind not in KINDS or way not in WAYS:
            raise NotFound("not_found")
        now, token = self._clock(), new_token()
        link, until = f"{self._public_url}/credentials/{token}", now + timedelta(hours=LINK_HOURS)
        with self._database.write() as connection:
            person = get_person(connection, row)
            if fault := self._fault(person, way):
                return Made(fault=fault)
            values = {
                "id": new_id(now), "token_hash": token_hash(token), "kind": kind, "customer_row": row,
                "made_by": admin_id, "created_at": now, "expires_at": until,
            }  # fmt: skip
            _end_open(connection, row, kind)
            connection.execute(insert(CredentialLink).values(values))
            audit.record(
                connection, self._keyring, now, "credential_link_made",
                subject_id=person.subject_id, admin_id=admin_id, of=kind, way=way,
            )  # fmt: skip
            self._announce(connection, person, kind, way, link, now)
        return Made(link if way == "hand" else "", until)

    def _fault(self, person: Person, way: str) -> str:
        if not person.is_active:
            return "customer_off"
        if way == "hand":
            return ""
        if not person.has_contact(way):
            return "no_contact"
        return "" if self._notices.reach([person.contact(way, self._keyring)]) else "no_channel"

    def _announce(self, connection: Connection, person: Person, kind: str, way: str, link: str, now: datetime) -> None:
        """Sends the link, where it is to be sent, and tells the other contacts that there is one."""
        sent_to = "" if way == "hand" else person.contact(way, self._keyring)
        others = [contact for contact in contacts_of(person, self._keyring) if contact != sent_to]
        name = method_name(kind)
        if sent_to:
            subject = _("Set your password") if kind == "password" else _("Set up your authenticator app")
            text = _("%(link)s Valid for 24 hours, and once. Do not pass it on.", link=link)
            self._notices.to_customer(connection, now, person.key, [sent_to], subject, str(text))
        subject = _("A link to set your %(what)s was made", what=name)
        text = _("If you did not ask for it, please contact us at once.")
        self._notices.to_customer(connection, now, person.key, others, subject, str(text))

    def offer(self, token: str) -> Offer:
        """What a link offers. Raises Gone where it was used, has expired or never was. Changes nothing."""
        with self._database.read() as connection:
            row = connection.execute(_FIND.where(CredentialLink.token_hash == token_hash(token))).one_or_none()
        if row is None or row.used_at is not None or row.expires_at <= self._clock() or not row.is_active:
            raise Gone("credential_link_over")
        return Offer(
            row.link_id, row.kind, row.expires_at, self.shortest_password, f"••• {row.customer_id[-3:]}",
            self._keyring.seed("credential link", row.link_id), person_from(row, ""),
        )  # fmt: skip

    @property
    def shortest_password(self) -> int:
        """Characters that a new password needs: 15 wherever a journey in use takes one alone, else 8 (R21)."""
        journeys = self._journeys.current().journeys.values()
        steps = [journey.config.verify_steps for journey in journeys if journey.config.active]
        stands_alone = any(len(chosen) == 1 and "password" in chosen[0].any_of for chosen in steps)
        return LONG_PASSWORD if stands_alone else SHORT_PASSWORD

    def set_password(self, token: str, password: str, repeated: str) -> Mapping[str, str]:
        """Sets the password of a link's person; gives by field what has to be corrected first, or nothing.

        Raises Gone as ``offer`` does, also where somebody was faster, and Busy where too many hash at once.
        """
        offer = self._offer_of(token, "password")
        faults = {
            "password": password_fault(password, at_least=offer.at_least, about=self._about(offer.person)),
            "repeated": "" if password == repeated else _("The two are not the same."),
        }
        if any(faults.values()):
            return {name: fault for name, fault in faults.items() if fault}
        with self._passwords.slot():
            hashed = self._passwords.hash(password)
        self._use(offer, {"password": hashed}, is_long=is_long(password))
        return {}

    def enrol(self, token: str, code: str) -> Mapping[str, str]:
        """Enrols a link's authenticator app where its code is right; gives what to correct, or nothing. Raises Gone."""
        offer, method = self._offer_of(token, "totp"), Totp()
        proof = method.parse(code, DIGITS)
        verdict = method.check(proof, Evidence(self._clock(), secret=offer.seed)) if proof else None
        if verdict is None or verdict.reading is not Reading.RIGHT:
            return {"code": _("This is not the code that the app shows now. Wait for the next one and try again.")}
        self._use(offer, {"totp_secret": offer.seed}, totp_last_step=verdict.used_step)
        return {}

    def _offer_of(self, token: str, kind: str) -> Offer:
        offer = self.offer(token)
        if offer.kind != kind:
            raise Gone("credential_link_over")
        return offer

    def _about(self, person: Person) -> tuple[str, ...]:
        """What others know of the person, and would try first."""
        local_part = contact.partition("@")[0] if "@" in (contact := self._email(person)) else ""
        return (*person.name(self._keyring).split(), person.customer_id, contact, local_part)

    def _email(self, person: Person) -> str:
        return person.contact("email", self._keyring) if person.email_sealed is not None else ""

    def _use(self, offer: Offer, changes: Mapping[str, str], *, is_long: bool = False, **values: Any) -> None:
        """Uses the link up and sets the credential, once. Wrong tries at the one before it count no more."""
        now, person = self._clock(), offer.person
        assert person.row is not None, "a link has a customer"
        columns = column_values(self._keyring, person.row, changes, is_long=is_long)
        with self._database.write() as connection:
            unused = (CredentialLink.id == offer.id) & CredentialLink.used_at.is_(None)
            if connection.execute(update(CredentialLink).where(unused).values(used_at=now)).rowcount != 1:
                raise Gone("credential_link_over")
            active = (CustomerRow.id == person.row) & CustomerRow.is_active
            changed = update(CustomerRow).where(active).values(**{**columns, **values}, changed_at=now)
            if connection.execute(changed).rowcount != 1:
                raise Gone("credential_link_over")
            limits.clear_tries(connection, person.row, offer.kind, is_ticketed=True)
            audit.record(
                connection, self._keyring, now, "credential_set_by_link", subject_id=person.subject_id, of=offer.kind
            )
            subject = _("Your %(what)s was set", what=method_name(offer.kind))
            text = _("If this was not you, please contact us at once.")
            contacts = contacts_of(person, self._keyring)
            self._notices.to_customer(connection, now, person.key, contacts, subject, str(text))

    def open_links(self, row: str) -> Mapping[str, datetime]:
        """The kinds of link that a person could follow now, and until when."""
        good = (CredentialLink.customer_row == row) & CredentialLink.used_at.is_(None)
        found = select(CredentialLink.kind, CredentialLink.expires_at)
        with self._database.read() as connection:
            rows = connection.execute(found.where(good, CredentialLink.expires_at > self._clock()))
            return {row.kind: row.expires_at for row in rows}


def end_links(connection: Connection, customers: Sequence[str] | Select[Any]) -> None:
    """Makes every open link of these customers (their rows) worthless: it may lie where they are reached no more."""
    of_them = CredentialLink.customer_row.in_(customers)
    connection.execute(delete(CredentialLink).where(of_them, CredentialLink.used_at.is_(None)))


def _end_open(connection: Connection, row: str, kind: str) -> None:
    of_it = (CredentialLink.customer_row == row) & (CredentialLink.kind == kind)
    connection.execute(delete(CredentialLink).where(of_it, CredentialLink.used_at.is_(None)))
