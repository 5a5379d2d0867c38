"""One-time links with which a customer sets a password or enrols an authenticator app.

An admin creates one after checking who asks, and chooses how it reaches the customer: in a message to a contact on
file, or handed over by the admin, but never both. An app that is set up in the admin's presence takes no link that
leaves the page: the customer scans the QR code there. The customer's other contacts are notified that it was created,
and all of them that it was used. The page behind it shows nothing about the customer, and GET uses nothing up (R31).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert, select, update

from auth_portal.crypto import Passwords, new_token, token_hash
from auth_portal.errors import Gone, NotFound
from auth_portal.i18n import gettext as _
from auth_portal.methods import Evidence, ProofResult, method_name
from auth_portal.methods.password import LONG_PASSWORD, SHORT_PASSWORD, is_long, password_fault
from auth_portal.methods.totp import DIGITS, Totp
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.directory.credentials import PersonTries
from auth_portal.services.directory.fields import column_values
from auth_portal.services.directory.person import (
    NEW_KEY,
    PERSON_COLUMNS,
    SECOND,
    STALE_CODE,
    CustomerNotices,
    LinkView,
    Person,
    as_changed,
    end_links,
    get_person,
    is_trusted,
    open_link,
    person_from,
    view_link,
)
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import CredentialLink, CustomerRow, table_of

LINK_HOURS = 24
KINDS = ("password", "totp")  # the methods whose credential a link sets
CHANNELS = ("sms", "email", "hand")  # how a link reaches the customer


# What customers are notified of, in English: it is translated as it leaves. Owners read English.
LINK_TEXT = "%(link)s The link works once, within 24 hours. Never share it."
IN_PERSON = "Our support team is setting up an authenticator app with you"
UNASKED = "If you didn't ask for it, contact us immediately."
NOT_YOU = "If this wasn't you, contact us immediately."


@dataclass(frozen=True)
class NewLink:
    """A link that was created, shown only if an admin hands it over; or the code of a fault."""

    link: str = field(default="", repr=False)
    expires_at: datetime | None = None
    fault: str = ""

    @property
    def token(self) -> str:
        """Return what the link is found by."""
        return self.link.rpartition("/")[2]


@dataclass(frozen=True)
class LinkOffer:
    """What a valid link offers to the customer who opens it."""

    id: str
    kind: str
    expires_at: datetime
    at_least: int  # characters of a password
    account: str  # the name of the account in an authenticator app: the end of the customer ID
    view: LinkView
    made_by: str | None
    person: Person = field(repr=False)


class CredentialLinks:
    """Make one-time links, and set what they are for. The only writer of the table ``credential_links``."""

    def __init__(
        self,
        transactions: Transactions,
        passwords: Passwords,
        journeys: Journeys,
        notices: CustomerNotices,
        tries: PersonTries,
        public_url: str,
    ) -> None:
        self._transactions = transactions
        self._passwords = passwords
        self._journeys = journeys
        self._notices = notices
        self._tries = tries
        self._public_url = public_url

    # --- What an admin does

    def make(self, row: str, kind: str, channel: str, *, admin_id: str, **given: Any) -> NewLink:
        """Create a link and send it, or return it to be handed over; an older one of its kind expires.

        What is ``given`` goes into the audit event. The caller has checked the second factor. Raise NotFound for an
        unknown customer, kind or channel.
        """
        if kind not in KINDS or channel not in CHANNELS:
            raise NotFound("not_found")
        token = new_token()
        link = f"{self._public_url}/credentials/{token}"
        with self._transactions.write() as work:
            person = get_person(work.connection, row)
            if fault := self._fault(work, person, channel):
                return NewLink(fault=fault)
            end_links(work, [row], kind)
            expires_at = work.now + timedelta(hours=LINK_HOURS)
            values = {
                "id": work.new_id(),
                "token_hash": token_hash(token),
                "kind": kind,
                "customer_row": row,
                "made_by": admin_id,
                "created_at": work.now,
                "expires_at": expires_at,
                "used_at": None,
            }
            work.execute(insert(CredentialLink).values(work.keyring.signed("credential_links", values)))
            facts = {"of": kind, "way": channel}
            work.record("credential_link_made", subject_id=person.subject_id, admin_id=admin_id, **facts, **given)
            self._announce(work, person, kind, channel, link)
        return NewLink(link if channel == "hand" else "", expires_at)

    def _fault(self, work: Work, person: Person, channel: str) -> str:
        if not person.is_active:
            return "customer_off"
        if channel == "hand":
            return ""
        if not person.has_contact(channel):
            return "no_contact"
        return "" if self._notices.reach([person.contact(channel, work.keyring)]) else "no_channel"

    def _announce(self, work: Work, person: Person, kind: str, channel: str, link: str) -> None:
        """Send the link, unless it is handed over, and notify the other contacts that there is one."""
        sent_to = "" if channel == "hand" else person.contact(channel, work.keyring)
        if sent_to:
            subject = "Set your password" if kind == "password" else "Set up your authenticator app"
            self._notices.to_customer(work, person.key, [sent_to], subject, LINK_TEXT, link=link)
        others = [contact for contact in person.contacts(work.keyring) if contact != sent_to]
        subject = f"We created a link to set your {method_name(kind)}"
        if kind == "totp" and channel == "hand":
            subject = IN_PERSON
        self._notices.to_customer(work, person.key, others, subject, UNASKED)

    def open_links(self, row: str) -> Mapping[str, datetime]:
        """Return the kinds of link that a customer could use now, and when each expires."""
        with self._transactions.read() as work:
            valid = (CredentialLink.customer_row == row) & CredentialLink.used_at.is_(None)
            valid &= CredentialLink.expires_at > work.now
            rows = work.execute(select(CredentialLink.kind, CredentialLink.expires_at).where(valid))
            return {row.kind: row.expires_at for row in rows}

    @property
    def shortest_password(self) -> int:
        """Return how long a new password must be: 15 if any active journey takes one alone, otherwise 8 (R21)."""
        journeys = self._journeys.current().journeys.values()
        steps = [journey.config.verify_steps for journey in journeys if journey.config.active]
        stands_alone = any(len(chosen) == 1 and "password" in chosen[0].methods for chosen in steps)
        return LONG_PASSWORD if stands_alone else SHORT_PASSWORD

    # --- What the customer does

    def offer(self, token: str, browser: str = "") -> LinkOffer:
        """Return what a link offers to a browser, named by its cookie if it has one; changes nothing.

        Raise Gone if the link was used, has expired or is unknown.
        """
        found = select(
            CredentialLink.id.label("link_id"),
            CredentialLink.kind,
            CredentialLink.expires_at,
            CredentialLink.used_at,
            CredentialLink.made_by,
            CredentialLink.token_hash,
            CredentialLink.customer_row,
            CredentialLink.mac,
            *PERSON_COLUMNS,
        ).join(CustomerRow, CustomerRow.id == CredentialLink.customer_row)
        with self._transactions.read() as work:
            row = work.execute(found.where(CredentialLink.token_hash == token_hash(token))).one_or_none()
            if row is None or row.used_at is not None or row.expires_at <= work.now or not row.is_active:
                raise Gone("credential_link_over")
            link, person = {**row._mapping, "id": row.link_id}, person_from(row, "")
            if not work.keyring.holds("credential_links", link) or not is_trusted(work.keyring, person):
                raise Gone("credential_link_over")
            return LinkOffer(
                id=row.link_id,
                kind=row.kind,
                expires_at=row.expires_at,
                at_least=self.shortest_password,
                account=f"••• {row.customer_id[-3:]}",
                view=view_link(work, row.link_id, browser),
                made_by=row.made_by,
                person=person,
            )

    def open(self, token: str, browser: str) -> str:
        """Note that a browser opens a link; the admin who created it hears of the second one (R47).

        Return what the browser is known by from now on. Raise Gone.
        """
        browser = browser or new_token()
        offer = self.offer(token, browser)
        with self._transactions.write() as work:
            number = open_link(work, offer.view)
            if 0 < number <= SECOND:
                facts: dict[str, Any] = {"of": offer.kind, "number": number}
                work.record("credential_link_opened", subject_id=offer.person.subject_id, **facts)
            if number == SECOND:
                subject = "A customer's one-time link was opened in a second browser"
                lines = [
                    f"You created a link to set a customer's {method_name(offer.kind)}.",
                    "It was opened in one browser and then in another, so someone else may have it.",
                    "Call the customer. If they opened it only once, remove what was set and create a new link.",
                ]
                self._to_issuer(work, offer, subject, lines)
        return browser

    def decline(self, token: str, browser: str) -> None:
        """End a link that the person who has it did not ask for, and notify its admin. Raise Gone."""
        offer = self.offer(token, browser)
        with self._transactions.write() as work:
            self._use_up(work, offer)
            work.record("credential_link_declined", subject_id=offer.person.subject_id, of=offer.kind)
            subject = "A customer's one-time link was declined"
            lines = [
                f"You created a link to set a customer's {method_name(offer.kind)}.",
                "The person who opened it says that they didn't ask for it, so it no longer works.",
                "Call the customer before you create a new one.",
            ]
            self._to_issuer(work, offer, subject, lines)

    def _to_issuer(self, work: Work, offer: LinkOffer, subject: str, lines: Sequence[str]) -> None:
        see = f"See: {self._public_url}/admin/customers/{offer.person.row}"
        self._notices.to_issuer(work, offer.made_by, subject, [*lines, "", see])

    def _use_up(self, work: Work, offer: LinkOffer) -> None:
        unused = (CredentialLink.id == offer.id) & CredentialLink.used_at.is_(None)
        if work.execute(select(CredentialLink.id).where(unused).with_for_update()).first() is None:
            raise Gone("credential_link_over")
        work.update_signed(table_of(CredentialLink), offer.id, used_at=work.now)

    def set_password(self, token: str, browser: str, password: str, repeated: str) -> Mapping[str, str]:
        """Set the password of a link's customer; return by field what to correct first, or nothing.

        Raise Gone as ``offer`` does, also if the link was used at the same moment, and Busy if too many passwords are
        being hashed.
        """
        offer, keyring = self._opened(token, browser, "password"), self._transactions.keyring
        person = offer.person
        email = person.contact("email", keyring) if person.email_sealed is not None else ""
        about = (*person.name(keyring).split(), person.customer_id, email, email.partition("@")[0])
        faults = {
            "password": password_fault(password, at_least=offer.at_least, about=about),
            "repeated": "" if password == repeated else _("The two passwords are different."),
        }
        if any(faults.values()):
            return {name: fault for name, fault in faults.items() if fault}
        with self._passwords.slot():
            hashed = self._passwords.hash(password)
        self._use(offer, {"password": hashed}, {}, is_long=is_long(password))
        return {}

    def enrol(self, token: str, browser: str, sealed: str, code: str, **by_admin: Any) -> Mapping[str, str]:
        """Enrol an authenticator app if its code is right; return what to correct, or nothing. Raise Gone.

        ``sealed`` is the seed of the form. One that this link did not show in this browser is not taken. Where the
        customer is with an admin, ``by_admin`` names the admin and the reason, for the audit event.
        """
        offer, method = self._opened(token, browser, "totp"), Totp()
        shown = offer.view.shown_seed(self._transactions.keyring, sealed)
        if shown is None:
            return {"form": _(NEW_KEY)}
        proof = method.parse(code, DIGITS)
        verdict = method.check(proof, Evidence(self._transactions.clock(), secret=shown.seed)) if proof else None
        if verdict is None or verdict.result is not ProofResult.RIGHT:
            return {"code": _(STALE_CODE)}
        self._use(offer, {"totp_secret": shown.seed}, by_admin, totp_last_step=verdict.used_step)
        return {}

    def _opened(self, token: str, browser: str, kind: str) -> LinkOffer:
        offer = self.offer(token, browser)
        if offer.kind != kind or not offer.view.is_open:
            raise Gone("credential_link_over")
        return offer

    def _use(
        self,
        offer: LinkOffer,
        changes: Mapping[str, str],
        by_admin: Mapping[str, Any],
        *,
        is_long: bool = False,
        **values: Any,
    ) -> None:
        """Use the link up and set the credential, once. Earlier wrong tries at it no longer count."""
        person, keyring = offer.person, self._transactions.keyring
        assert person.row is not None, "a link has a customer"
        values = {**column_values(keyring, person.row, changes, is_long=is_long), **values}
        with self._transactions.write() as work:
            self._use_up(work, offer)
            active = (CustomerRow.id == person.row) & CustomerRow.is_active
            if work.execute(update(CustomerRow).where(active).values(**values, **as_changed(work.now))).rowcount != 1:
                raise Gone("credential_link_over")
            self._tries.clear(work, person.row, offer.kind, is_ticketed=True)
            kind = "credential_set_in_person" if by_admin else "credential_set_by_link"
            work.record(kind, subject_id=person.subject_id, of=offer.kind, **by_admin)
            self._notices.customer_changed(work, person.row, person.customer_id, "changed")
            subject = f"Your {method_name(offer.kind)} was set"
            self._notices.to_customer(work, person.key, person.contacts(keyring), subject, NOT_YOU)
