"""The phones that a chat can be on: those of the demo people, and one that is on nobody's file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from auth_portal.sandbox.contract import DemoPerson

STRANGERS = "+27605550199"
NUMBER = re.compile(r"\+?[1-9][0-9]{5,14}")


@dataclass(frozen=True)
class Phone:
    """One number and the people who have it."""

    number: str
    holders: tuple[DemoPerson, ...]

    @property
    def owner(self) -> str:
        """Whose phone it is, in words."""
        return " and ".join(person.name for person in self.holders) or "a stranger"


@dataclass(frozen=True)
class Cast:
    """Who plays whom when the attack is played: two people who share their phone with nobody."""

    attacker: DemoPerson
    victim: DemoPerson


def phones_of(people: Sequence[DemoPerson]) -> list[Phone]:
    """Every phone of the demo once, in the order of its people, and the stranger's."""
    numbers = dict.fromkeys([*(plain(person.phone) for person in people if person.phone), STRANGERS])
    return [phone_of(people, number) for number in numbers]


def phone_of(people: Sequence[DemoPerson], number: str) -> Phone:
    """A number with whoever has it."""
    return Phone(number, tuple(person for person in people if person.phone and plain(person.phone) == number))


def cast_of(people: Sequence[DemoPerson]) -> Cast | None:
    """The victim, who comes first in the demo, and the attacker; None where the demo has no two such people."""
    alone = [phone.holders[0] for phone in phones_of(people) if len(phone.holders) == 1]
    return Cast(attacker=alone[1], victim=alone[0]) if len(alone) > 1 else None


def plain(number: str) -> str:
    """A number as it is kept: without blanks and dashes, with its plus. Raises ValueError for what is none."""
    found = re.sub(r"[\s-]", "", number)
    if not NUMBER.fullmatch(found):
        raise ValueError("A phone number is written with its country code, such as +27821234567.")
    return "+" + found.removeprefix("+")
