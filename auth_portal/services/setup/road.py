"""A journey as somebody walks it who has this and that on file: how far they get, and what stops them.

The one rule for a count of everybody, a list of those who cannot pass, and a single person. It says what a visit meets
(``cases.can_prove``, ``customers.find``, ``tickets``), and a test holds the two against each other. Reads nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntFlag
from typing import NamedTuple

from auth_portal.methods import CARRIES, ON_FILE
from auth_portal.methods.contract import OnFile
from auth_portal.services.config.journey import JourneyConfig, without_mail
from auth_portal.services.journeys import Snapshot


class Trait(IntFlag):
    """What a customer has, as far as proving goes; the bits of ``models.TRAITS``."""

    ACTIVE = 1
    PHONE = 2
    EMAIL = 4
    PASSWORD = 8
    LONG_PASSWORD = 16
    TOTP = 32


CONTACTS = {"phone": Trait.PHONE, "email": Trait.EMAIL}
CREDENTIALS = {OnFile.PASSWORD: Trait.PASSWORD, OnFile.TOTP: Trait.TOTP}


class Spent(NamedTuple):
    """Wrong tries of a person with one method, by links with or without a ticket (R6). A day that is over counts 0."""

    method: str
    is_ticketed: bool
    total: int
    day_count: int
    day_ends_at: datetime


@dataclass(frozen=True)
class Standing:
    """What one person, or everybody alike, has on file."""

    traits: Trait
    country: str | None = None  # of the phone; None where there is none, or it is not known yet
    shared: frozenset[str] = frozenset()  # contacts that others have too
    spent: tuple[Spent, ...] = ()


class Reason(NamedTuple):
    """Why a way of naming or proving does not work: ``no_phone`` and so on, worded in ``setup/words.html``."""

    way: str
    why: str


@dataclass(frozen=True)
class Obstacle:
    """Where the way ends, 0 being switched off, 1 being named, then proofs; and why each way there is closed."""

    step: int
    reasons: tuple[Reason, ...] = ()

    @property
    def key(self) -> str:
        """The same as a word for links."""
        return "-".join([str(self.step), *(f"{reason.way}.{reason.why}" for reason in self.reasons)])

    @property
    def whys(self) -> frozenset[str]:
        """The reasons alone."""
        return frozenset(reason.why for reason in self.reasons)


DISABLED = Obstacle(0)


@dataclass(frozen=True)
class Road:
    """A journey as it is live now. No method counts twice (R37).

    ``is_ticketed`` says by which links people come, as wrong tries are counted apart; ``phone_match`` has no others.
    """

    journey: JourneyConfig
    snapshot: Snapshot
    is_ticketed: bool = False
    ways: tuple[tuple[str, ...], ...] = field(init=False)  # the methods of each proof

    def __post_init__(self) -> None:
        steps = [step.any_of for step in self.journey.verify_steps]
        if self.is_matched:  # codes go to the chat's own number and nowhere else
            steps = [without_mail(step) for step in steps]
            object.__setattr__(self, "is_ticketed", True)
        object.__setattr__(self, "ways", tuple(tuple(step) for step in steps))

    @property
    def is_matched(self) -> bool:
        """Whether only a ticket with the chat's own number opens it."""
        return self.journey.relay_defence == "phone_match"

    @property
    def needs_own(self) -> bool:
        """Whether it matters who shares a contact: the customer ID names everybody anyway."""
        return "customer_id" not in self.journey.first_step.by

    @property
    def methods(self) -> frozenset[str]:
        """All that it takes."""
        return frozenset(itertools.chain(*self.ways))

    @property
    def sms_channel(self) -> str:
        """The name of the channel that its SMS travel by, or nothing."""
        channel = self.snapshot.channel_for(self.journey, "sms")
        return channel.name if channel is not None else ""

    def obstacle(self, standing: Standing) -> Obstacle | None:
        """What stops somebody, or None."""
        if not standing.traits & Trait.ACTIVE:
            return DISABLED
        if unnamed := self._unnamed(standing):
            return Obstacle(1, unnamed)
        open_ways = [[way for way in step if not self.why_not(way, standing)] for step in self.ways]
        for passed in range(1, len(open_ways) + 1):
            if not _is_distinct(open_ways[:passed]):
                closed = (Reason(way, self.why_not(way, standing) or "used") for way in self.ways[passed - 1])
                return Obstacle(passed + 1, tuple(closed))
        return None

    def _unnamed(self, standing: Standing) -> tuple[Reason, ...]:
        """Why nothing that may be typed names this person; nothing where something does.

        Under ``phone_match`` the ticket does, by a number that nobody else has; a shared one only narrows it down.
        """
        if self.is_matched:
            why = _why_unnamed("phone", standing)
            if why == "no_phone" or not why:
                return (Reason("phone", why),) if why else ()
        found = [Reason(kind, _why_unnamed(kind, standing)) for kind in self.journey.first_step.by]
        return tuple(found) if all(reason.why for reason in found) else ()

    def why_not(self, method: str, standing: Standing) -> str:
        """Why somebody cannot prove themselves by a method; nothing where they can."""
        missing = self._missing(method, standing)
        if missing:
            return missing
        return "locked" if any(self.closes(spent) for spent in standing.spent if spent.method == method) else ""

    def _missing(self, method: str, standing: Standing) -> str:
        carries = CARRIES.get(method)
        if carries is not None:
            return self._not_sent(carries, standing)
        held = ON_FILE.get(method)
        wanted = CREDENTIALS.get(held) if held is not None else None
        if wanted is None:
            return "no_support_code"  # nothing that a customer has: support reads it out
        if not standing.traits & wanted:
            return f"no_{held}"
        is_short = held is OnFile.PASSWORD and len(self.ways) == 1 and not standing.traits & Trait.LONG_PASSWORD
        return "short_password" if is_short else ""

    def _not_sent(self, carries: str, standing: Standing) -> str:
        channel = self.snapshot.channel_for(self.journey, carries)
        contact = "phone" if carries == "sms" else "email"
        if not standing.traits & CONTACTS[contact]:
            return f"no_{contact}"
        if channel is None:
            return "no_channel"
        is_abroad = standing.country is not None and not channel.sends_to(carries, standing.country)
        return "foreign_phone" if is_abroad else ""

    def closes(self, spent: Spent) -> bool:
        """Whether these wrong tries close their method here."""
        limits = self.journey.limits
        is_over = spent.total >= limits.credential_tries_total or spent.day_count >= limits.credential_tries_day
        return is_over and spent.is_ticketed == self.is_ticketed

    def ends_at(self, spent: Spent) -> datetime | None:
        """When a method that these tries closed opens by itself; None where support must open it."""
        return None if spent.total >= self.journey.limits.credential_tries_total else spent.day_ends_at

    def closed_ways(self) -> dict[str, tuple[str, ...]]:
        """Methods that no channel carries now, each with the channels that the journey names and that are off."""
        off = tuple(
            name
            for name in self.journey.channels
            if (channel := self.snapshot.channels.get(name)) is None or not self.snapshot.may_use(channel)
        )
        carried = (way for way in sorted(self.methods) if way in CARRIES)
        return {way: off for way in carried if self.snapshot.channel_for(self.journey, CARRIES[way]) is None}


def _why_unnamed(kind: str, standing: Standing) -> str:
    if kind not in CONTACTS:
        return ""
    if not standing.traits & CONTACTS[kind]:
        return f"no_{kind}"
    return f"shared_{kind}" if kind in standing.shared else ""


def _is_distinct(ways: Sequence[Iterable[str]]) -> bool:
    """Whether every step can have a method of its own."""
    return any(len(set(chosen)) == len(chosen) for chosen in itertools.product(*ways))
