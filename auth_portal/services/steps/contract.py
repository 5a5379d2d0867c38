"""What a step of a journey is: a frozen value with the kind that the config names.

A new kind is one file with a ``Step``, its part of the journey form (``templates/admin/journeys/steps/<kind>.html``),
its test and one line in the registry.

At run time ``Case.step`` is the place of a customer in ``JourneyConfig.steps``. There are three sorts of steps: one
names the customer, some prove who they are by ``methods``, and the others are answered by a form alone. The last sort
needs no more than what is here: ``stage`` names its page (``templates/visitor/<stage>.html``), ``take`` reads its form,
``view`` is what the page shows, and ``values`` is what the flow receives of it. What was given so far is stored sealed
in the visit, as JSON.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from auth_portal.i18n import format_date, format_time, speaking, spoken

ANY = ""  # stands for every language that a text is not written in
FACT_KEY = r"^[a-z0-9_]{1,60}$"  # of a variable in the flow
_LOCALE = r"^([a-z]{2,3}(-[A-Z]{2})?)?$"


class FormData(Protocol):
    """The fields of a form that was sent."""

    def getlist(self, key: str, /) -> list[str]:
        """Return every value of a field."""


def _by_language(value: object) -> object:
    return {ANY: value} if isinstance(value, str) else value


Texts = Annotated[
    dict[Annotated[str, Field(pattern=_LOCALE)], Annotated[str, Field(min_length=1, max_length=300)]],
    Field(min_length=1),
    BeforeValidator(_by_language),
]
LongTexts = Annotated[
    dict[Annotated[str, Field(pattern=_LOCALE)], Annotated[str, Field(min_length=1, max_length=20_000)]],
    BeforeValidator(_by_language),
]


def language_of(texts: Mapping[str, Any], locale: str) -> str:
    """Return the key of the text for a locale: its own, its language's, the one for any language, else the first."""
    wanted = (locale, locale.partition("-")[0], ANY, "en")
    return next((found for found in wanted if found in texts), next(iter(texts), ANY))


def text_of(texts: Mapping[str, str], locale: str = "") -> str:
    """Return the text for a locale, by default that of the page; "" if there is none at all."""
    return texts.get(language_of(texts, locale or spoken.get()), "")


def first(form: FormData, field: str) -> str:
    """Return the first value of a field, or ""."""
    return next(iter(form.getlist(field)), "")


# --- Texts in the journey form: the first one for every language, or ``[zu]`` before the text of a language

_MARK = re.compile(r"\[([a-z]{2,3}(?:-[A-Z]{2})?)\](?!\()")  # "[zu](https://…" is a link


def read_texts(typed: str) -> dict[str, str]:
    """Return the texts by language that were typed as one."""
    first_text, *marked = _MARK.split(typed.replace("\r\n", "\n"))
    pairs = [(ANY, first_text), *zip(marked[::2], marked[1::2], strict=True)]
    return {language: text.strip() for language, text in pairs if text.strip()}


def typed_texts(texts: Mapping[str, str] | str | None) -> str:
    """Return texts as ``read_texts`` reads them."""
    known = {ANY: texts} if isinstance(texts, str) else texts or {}
    apart = "\n" if any("\n" in text for text in known.values()) else " "
    return apart.join(f"[{language}] {text}" if language else text for language, text in sorted(known.items()))


def whole_number(typed: str) -> int | str | None:
    """Return a whole number, None for nothing, or what was typed: the rules say what is wrong with it."""
    typed = typed.strip()
    return int(typed) if re.fullmatch(r"-?[0-9]{1,12}", typed) else typed or None


def without_empty(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a form without those that were left empty."""
    return {name: value for name, value in values.items() if value not in ("", None, {}, (), False)}


Given = Mapping[str, Any]  # what was given in one step so far, of what JSON can hold


@dataclass(frozen=True)
class PageTime:
    """When and where a form is read, or a page is shown."""

    now: datetime
    region: str = ""  # the country whose phone numbers need no code, and as whose people dates and times are written
    locale: str = field(default_factory=spoken.get)

    def day(self, day: date | str) -> str:
        """Return a date in words, from itself or its ISO form."""
        with speaking(self.locale):
            return format_date(date.fromisoformat(day) if isinstance(day, str) else day, self.region)

    def time(self, moment: datetime | time, *, is_end: bool = False) -> str:
        """Return a time of day as it is shown there; midnight at the end of a day is 24:00 where hours go so far."""
        with speaking(self.locale):
            text = format_time(moment, self.region)
        return "24:00" if is_end and text == "00:00" else text


@dataclass(frozen=True)
class Taken:
    """What came of a form: ``given`` is stored; with ``faults`` (a code by field) nothing is.

    Without ``is_done`` the same step goes on. An ``outcome`` ends the verification at once. ``event`` is recorded.
    """

    given: Given = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    is_done: bool = False
    outcome: str = ""
    event: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Step(BaseModel):
    """One step of a journey. Its fields are the keys of the config file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names_customer: ClassVar[bool] = False  # a customer says who they are in it
    proves: ClassVar[bool] = False  # a customer proves it in it
    is_last: ClassVar[bool] = False  # nothing may follow it
    is_single: ClassVar[bool] = False  # a journey has one of its kind at most
    add_label: ClassVar[str] = ""  # the button that adds one to the journey form, in English
    methods_key: ClassVar[str] = ""  # the field that holds its methods, as faults name it
    stage: ClassVar[str] = ""  # the page of a step that is answered by a form alone
    outcomes: ClassVar[tuple[str, ...]] = ()  # that only such a step can lead to

    kind: str

    @property
    def identifiers(self) -> tuple[str, ...]:
        """Return the identifiers that a customer may enter here."""
        return ()

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the methods of which any one passes the step, unless an earlier step used it (R37)."""
        return ()

    @classmethod
    @abstractmethod
    def read_form(cls, form: FormData, field: str) -> dict[str, Any] | None:
        """Return what the journey form says of a step, as the config file writes it; None if it was left out.

        ``field`` is what the names of the step's fields begin with.
        """

    # --- Of a step that is answered by a form alone

    @property
    def longest(self) -> Mapping[str, int]:
        """Return the variables that this step gives the flow, with the bytes that each value has at most."""
        return {}

    @property
    def chosen_keys(self) -> tuple[str, ...]:
        """Return the keys that an admin has chosen for what is asked here."""
        return ()

    @property
    def example(self) -> Mapping[str, str]:
        """Return values such as these variables may have, for an admin."""
        return {}

    def values(self, given: Given) -> Mapping[str, str]:
        """Return the values of these variables."""
        return {name: str(given.get(name, "")) for name in self.longest}

    def ending(self, given: Given) -> str:
        """Return how a journey without a proof ends after this step, if it is the last one."""
        return "completed"

    def take(self, form: FormData, given: Given, at: PageTime) -> Taken:
        """Return what came of the page's form."""
        raise NotImplementedError(f"a step of kind {self.kind} has no form")

    def view(self, given: Given, at: PageTime, typed: FormData | None = None) -> Any:
        """Return what the page shows, as the customer typed it if that had faults."""
        return None
