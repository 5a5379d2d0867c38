"""How far a customer gets in a journey with what they have on file, and what stops them.

The one rule for a count of all customers, a list of those who cannot pass, and a single customer. It repeats what a
visit meets in the verification room, and a test compares the two. Reads nothing from the database.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntFlag
from typing import NamedTuple

from auth_portal.methods import CARRIES, ON_FILE, OnFile
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.snapshot import Snapshot
from auth_portal.services.verification.tries import TryCount, are_spent


class Trait(IntFlag):
    """What a customer has that matters for a proof; the bits of ``models.TRAITS``."""

    ACTIVE = 1
    PHONE = 2
    EMAIL = 4
    PASSWORD = 8
    LONG_PASSWORD = 16
    TOTP = 32


CONTACTS = {"phone": Trait.PHONE, "email": Trait.EMAIL}
CARRIED_BY = {"phone": "sms", "email": "email"}
CREDENTIALS = {OnFile.PASSWORD: Trait.PASSWORD, OnFile.TOTP: Trait.TOTP}


@dataclass(frozen=True)
class Standing:
    """What one customer, or each customer of a group, has on file."""

    traits: Trait
    country: str | None = None  # of the phone; None if there is no phone, or its country is unknown
    shared: frozenset[str] = frozenset()  # contacts that other customers have too
    spent: tuple[TryCount, ...] = ()
    changed: tuple[tuple[str, datetime], ...] = ()  # contacts that were changed lately, and when (R45)


class Reason(NamedTuple):
    """Why a kind of identifier or a method does not work: ``no_phone`` and so on, worded in ``setup/words.html``."""

    by: str
    why: str


@dataclass(frozen=True)
class Obstacle:
    """The step that stops a customer, and why nothing there works: 0 is disabled, 1 is identifying, then proofs."""

    step: int
    reasons: tuple[Reason, ...] = ()

    @property
    def key(self) -> str:
        """Return the same as a word for links."""
        return "-".join([str(self.step), *(f"{reason.by}.{reason.why}" for reason in self.reasons)])

    @property
    def whys(self) -> frozenset[str]:
        """Return only the reasons."""
        return frozenset(reason.why for reason in self.reasons)

    @property
    def is_for_now(self) -> bool:
        """Report whether a contact that was changed lately is part of it, which passes by itself (R45)."""
        return bool(self.whys & {"changed_phone", "changed_email"})


DISABLED = Obstacle(0)


@dataclass(frozen=True)
class Route:
    """A journey as it is live now. No method counts twice (R37).

    ``is_ticketed`` is True for links with a ticket that names the phone: their wrong tries are counted separately, and
    codes go to that phone and nowhere else.
    """

    journey: JourneyConfig
    snapshot: Snapshot
    now: datetime
    is_ticketed: bool = False
    proofs: tuple[tuple[str, ...], ...] = field(init=False)  # the methods of each proof

    def __post_init__(self) -> None:
        steps = [step.methods for step in self.journey.verify_steps]
        if self.is_matched:
            object.__setattr__(self, "is_ticketed", True)
        if self.is_ticketed:
            steps = self.journey.choices_by_phone
        object.__setattr__(self, "proofs", tuple(tuple(step) for step in steps))

    @property
    def is_matched(self) -> bool:
        """Report whether only a ticket with the chat's own number opens it."""
        return self.journey.defence.demands_ticket

    @property
    def needs_own(self) -> bool:
        """Report whether shared contacts matter: where a customer ID is accepted, it identifies every customer."""
        return bool(self.journey.identifiers) and "customer_id" not in self.journey.identifiers

    @property
    def methods(self) -> frozenset[str]:
        """Return all methods of its proofs."""
        return frozenset(itertools.chain(*self.proofs))

    @property
    def sms_channel(self) -> str:
        """Return the name of the channel that sends its SMS, or ""."""
        channel = self.snapshot.channel_for(self.journey, "sms")
        return channel.name if channel is not None else ""

    def obstacle(self, standing: Standing) -> Obstacle | None:
        """Return what stops a customer, or None."""
        if self.journey.naming_step is None:
            return None  # it asks no one who they are, so everyone who has the link can finish it
        if not standing.traits & Trait.ACTIVE:
            return DISABLED
        if unidentified := self._why_unidentified(standing):
            return Obstacle(1, unidentified)
        open_methods = [[method for method in step if not self.why_not(method, standing)] for step in self.proofs]
        changed = self.changed_methods(standing)
        for passed in range(1, len(open_methods) + 1):
            # Every step so far needs a method that no other step uses.
            if not any(
                len(set(chosen)) == passed and _counts(chosen, open_methods, changed)
                for chosen in itertools.product(*open_methods[:passed])
            ):
                lately = {by: f"changed_{'phone' if CARRIES[by] == 'sms' else 'email'}" for by in changed}
                closed = (
                    Reason(by, self.why_not(by, standing) or lately.get(by) or "used") for by in self.proofs[passed - 1]
                )
                return Obstacle(passed + 1, tuple(closed))
        return None

    def changed_methods(self, standing: Standing) -> dict[str, datetime]:
        """Return the methods that send to a contact that may not be the only proof yet, and until when (R45)."""
        hours = timedelta(hours=self.journey.limits.changed_contact_hours)
        until = {CARRIED_BY[contact]: at + hours for contact, at in standing.changed if at + hours > self.now}
        return {method: until[CARRIES[method]] for method in sorted(self.methods) if CARRIES.get(method) in until}

    def _why_unidentified(self, standing: Standing) -> tuple[Reason, ...]:
        """Return why nothing that may be typed identifies this customer; empty if something does.

        Under ``phone_match`` the ticket does, with a number that no other customer has; a shared one only narrows it.
        """
        if self.is_matched:
            why = _why_no_identifier("phone", standing)
            if why == "no_phone" or not why:
                return (Reason("phone", why),) if why else ()
        found = [Reason(kind, _why_no_identifier(kind, standing)) for kind in self.journey.identifiers]
        return tuple(found) if all(reason.why for reason in found) else ()

    def why_not(self, method: str, standing: Standing) -> str:
        """Return why a customer cannot use a method, or "" if they can."""
        if missing := self._missing(method, standing):
            return missing
        return "locked" if any(self.closes(spent) for spent in standing.spent if spent.method == method) else ""

    def _missing(self, method: str, standing: Standing) -> str:
        carries = CARRIES.get(method)
        if carries is not None:
            channel = self.snapshot.channel_for(self.journey, carries)
            contact = "phone" if carries == "sms" else "email"
            if not standing.traits & CONTACTS[contact]:
                return f"no_{contact}"
            if channel is None:
                return "no_channel"
            is_abroad = standing.country is not None and not channel.sends_to(carries, standing.country)
            return "foreign_phone" if is_abroad else ""
        held = ON_FILE.get(method)
        wanted = CREDENTIALS.get(held) if held is not None else None
        if wanted is None:
            return "no_support_code"  # not on file: support reads it out
        if not standing.traits & wanted:
            return f"no_{held}"
        is_short = held is OnFile.PASSWORD and len(self.proofs) == 1 and not standing.traits & Trait.LONG_PASSWORD
        return "short_password" if is_short else ""

    def closes(self, spent: TryCount) -> bool:
        """Report whether these wrong tries lock their method here."""
        return spent.is_ticketed == self.is_ticketed and are_spent(spent, self.journey.limits)

    def closed_methods(self) -> dict[str, tuple[str, ...]]:
        """Return the methods that no channel carries now, each with the journey's channels that are off."""
        off = tuple(
            name
            for name in self.journey.channels
            if (channel := self.snapshot.channels.get(name)) is None or not self.snapshot.may_use(channel)
        )
        carried = (method for method in sorted(self.methods) if method in CARRIES)
        return {method: off for method in carried if self.snapshot.channel_for(self.journey, CARRIES[method]) is None}


def _counts(chosen: Sequence[str], open_methods: Sequence[Sequence[str]], changed: Collection[str]) -> bool:
    """Report whether a visit would take these methods, one after another: see ``Case.counts``."""
    for place, method in enumerate(chosen):
        if method in changed and all(before in changed for before in chosen[:place]):
            later = set(itertools.chain(*open_methods[place + 1 :])) - set(chosen[: place + 1])
            if later <= set(changed):
                return False
    return True


def _why_no_identifier(kind: str, standing: Standing) -> str:
    if kind not in CONTACTS:
        return ""
    if not standing.traits & CONTACTS[kind]:
        return f"no_{kind}"
    return f"shared_{kind}" if kind in standing.shared else ""
