"""The last step: a customer goes on in a web chat, a call, WhatsApp or another page, or stays in the chat.

A web chat or page gets a short-lived signed value in its address (a JWT, ``handover=…``), by which it recognises the
chat and what was proved. It never gets Flow's reference.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from itertools import groupby
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from auth_portal.clock import zone_names
from auth_portal.services.steps.contract import (
    FormData,
    Given,
    PageTime,
    Step,
    Taken,
    Texts,
    first,
    read_texts,
    text_of,
    without_empty,
)

STAY = "stay"  # the choice of the customers who go nowhere else
HANDED_OVER = "handed_over"
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TOKEN_SECONDS = 300
TOKEN_FIELD = "handover"  # noqa: S105 -- the name of a query parameter
KEY_LENGTH = 40
MOST_OPTIONS = 8
LOOK_AHEAD_DAYS = 60  # how far the next opening is looked for
SIGNED = ("chat", "url")
_SPAN = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")
_ADDRESSES = {"call": re.compile(r"\+?[0-9]{3,15}"), "whatsapp": re.compile(r"[1-9][0-9]{6,14}")}

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Span = Annotated[str, Field(pattern=r"^[0-9:]{5}-[0-9:]{5}$")]


class HandoverOption(BaseModel):
    """A place to go on at. ``address`` is an https URL for ``chat`` and ``url``, else a phone number.

    ``when`` says whether it is offered while the business is open, closed, or always.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$", max_length=KEY_LENGTH)]
    kind: Literal["chat", "call", "whatsapp", "url"]
    label: Texts
    hint: Texts | None = None
    address: Annotated[str, Field(min_length=3, max_length=300)]
    when: Literal["open", "closed", "always"] = "open"
    shares_customer: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.key == STAY:
            raise ValueError(f"{STAY} is the choice of customers who stay in the chat; give the option another key")
        if self.kind in SIGNED:
            if urlsplit(self.address).scheme != "https" or not self.host or "\\" in self.address:
                raise ValueError(f"{self.key}: the address must begin with https://")
        elif not _ADDRESSES[self.kind].fullmatch(self.address):
            example = "27115550100" if self.kind == "whatsapp" else "+27115550100"
            raise ValueError(f"{self.key}: the address must be a phone number such as {example}")
        return self

    @property
    def host(self) -> str:
        """Return the host of its address, "" for a phone number."""
        return urlsplit(self.address).hostname or "" if self.kind in SIGNED else ""

    @property
    def link(self) -> str:
        """Return the address as a link, without a signed value."""
        if self.kind == "call":
            return f"tel:{self.address}"
        return f"https://wa.me/{self.address}" if self.kind == "whatsapp" else self.address

    def signed_link(self, key: str, claims: Mapping[str, Any], now: datetime) -> str:
        """Return the link with a value that says these claims for 5 minutes, signed with the option's key."""
        if self.kind not in SIGNED:
            return self.link
        times = {"iat": now, "exp": now + timedelta(seconds=TOKEN_SECONDS)}
        token = importlib.import_module("jwt").encode({**claims, **times, "aud": self.host}, key, algorithm="HS256")
        parts = urlsplit(self.address)
        query = [*parse_qsl(parts.query, keep_blank_values=True), (TOKEN_FIELD, token)]
        return urlunsplit(parts._replace(query=urlencode(query)))


@dataclass(frozen=True)
class Opening:
    """Whether the business is open. ``at`` is when that changes, in its own time; None if it never does."""

    is_open: bool
    at: datetime | None
    days: int = 0  # from today, in its own time


@dataclass(frozen=True)
class OpeningView:
    """An opening as the page shows it. ``time`` is when it changes, on which day; empty if it never does."""

    is_open: bool
    time: str = ""
    days: int = 0  # from today
    weekday: str = ""
    date: str = ""


@dataclass(frozen=True)
class HandoverOptionView:
    """An option as the page shows it."""

    key: str
    kind: str
    label: str
    hint: str


@dataclass(frozen=True)
class HandoverView:
    """The options that are offered now, and the opening hours: days from and to, and their times."""

    title: str
    opening: OpeningView
    options: Sequence[HandoverOptionView]
    hours: Sequence[tuple[str, str, Sequence[str]]]
    has_holidays: bool
    zone: str


class HandOver(Step):
    """Offer places to go on at, by opening hours in the time zone of the business."""

    is_last = True
    is_single = True
    add_label = "Add a hand-over"
    stage = "handover"
    outcomes = (HANDED_OVER,)

    kind: Literal["handover"] = "handover"
    title: Texts
    hosts: Annotated[tuple[Annotated[str, Field(pattern=r"^[a-z0-9.-]{1,253}$")], ...], Field(max_length=20)] = ()
    options: Annotated[tuple[HandoverOption, ...], Field(min_length=1, max_length=MOST_OPTIONS)]
    zone: str = "UTC"
    hours: dict[Weekday, Annotated[tuple[Span, ...], Field(max_length=4)]] = Field(default_factory=dict)
    holidays: Annotated[tuple[Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")], ...], Field(max_length=200)] = ()

    @field_validator("zone")
    @classmethod
    def _zone(cls, zone: str) -> str:
        if zone not in zone_names():
            raise ValueError("is no time zone; write one such as Africa/Johannesburg")
        return zone

    @field_validator("holidays")
    @classmethod
    def _dates(cls, holidays: tuple[str, ...]) -> tuple[str, ...]:
        for holiday in holidays:
            try:
                date.fromisoformat(holiday)
            except ValueError:
                raise ValueError(f"{holiday} is no date") from None
        return holidays

    @model_validator(mode="after")
    def _whole(self) -> Self:
        keys = [option.key for option in self.options]
        if len(set(keys)) < len(keys):
            raise ValueError("has two options with the same key")
        for option in self.options:
            if option.host and option.host not in self.hosts:
                raise ValueError(f"{option.key}: its host {option.host} is not among hosts")
        for day, spans in self.hours.items():
            last = -1
            for begin, end in map(_minutes, spans):
                if not last < begin < end:
                    raise ValueError(f"hours: {day} must list times such as 08:00-17:00, one after another")
                last = end
        return self

    @property
    def longest(self) -> Mapping[str, int]:
        """Return the variable that says what was chosen."""
        return {"handover": KEY_LENGTH}

    @property
    def example(self) -> Mapping[str, str]:
        """Return a value such as this variable may have."""
        return {"handover": self.options[0].key}

    def values(self, given: Given) -> Mapping[str, str]:
        """Return the key of the chosen option; empty for customers who stay in the chat."""
        return {"handover": given.get("choice", "")}

    def ending(self, given: Given) -> str:
        """Return the outcome of a journey without a proof."""
        return HANDED_OVER if given.get("choice") else super().ending(given)

    @property
    def signed_options(self) -> tuple[str, ...]:
        """Return the keys of the options whose address gets a signed value."""
        return tuple(option.key for option in self.options if option.kind in SIGNED)

    def option(self, key: str) -> HandoverOption | None:
        """Return an option by its key, or None."""
        return next((option for option in self.options if option.key == key), None)

    def take(self, form: FormData, given: Given, at: PageTime) -> Taken:
        """Take an option that is offered now, or stay."""
        choice = first(form, "choice")
        if choice == STAY:
            return Taken({"choice": ""}, is_done=True, event="handover_chosen", facts={"choice": STAY})
        if choice not in {option.key for option in self._offered(at.now)}:
            return Taken(faults={"choice": "choice_closed" if self.option(choice) else "choice_missing"})
        return Taken({"choice": choice}, is_done=True, event="handover_chosen", facts={"choice": choice})

    def view(self, given: Given, at: PageTime, typed: FormData | None = None) -> HandoverView:
        """Return what is offered now, and when that changes."""
        return HandoverView(
            title=text_of(self.title, at.locale),
            opening=self.opening_view(at),
            options=[
                HandoverOptionView(o.key, o.kind, text_of(o.label, at.locale), text_of(o.hint or {}, at.locale))
                for o in self._offered(at.now)
            ],
            hours=self.hours_view(at) if self.hours else (),
            has_holidays=bool(self.holidays),
            zone=self.zone,
        )

    def opening_view(self, at: PageTime) -> OpeningView:
        """Return whether it is open, and when that changes, as the page shows it."""
        found = self.opening(at.now)
        if found.at is None:
            return OpeningView(found.is_open)
        day = at.now.astimezone(self._zone_info).date() + timedelta(days=found.days)
        shown = at.time(found.at, is_end=found.is_open)
        return OpeningView(found.is_open, shown, found.days, DAYS[day.weekday()], at.day(day))

    def hours_view(self, at: PageTime) -> Sequence[tuple[str, str, Sequence[str]]]:
        """Return the hours of the week: days that follow each other with the same hours are one line."""
        days = [(day, self.hours.get(day, ())) for day in DAYS]  # type: ignore[call-overload]
        lines = []
        for spans, found in groupby(days, key=lambda one: one[1]):
            names = [day for day, _spans in found]
            lines.append((names[0], names[-1], [span_text(span, at) for span in spans]))
        return lines

    def _offered(self, now: datetime) -> list[HandoverOption]:
        state = "open" if self.opening(now).is_open else "closed"
        return [option for option in self.options if option.when in (state, "always")]

    # --- Opening hours

    def opening(self, now: datetime) -> Opening:
        """Return whether the business is open, and when that changes. Without hours it always is."""
        if not self.hours:
            return Opening(is_open=True, at=None)
        today = now.astimezone(self._zone_info).date()
        for begin, end in self._spans(today):
            if now < begin:
                return self._at(begin, today, is_open=False)
            if now < end:
                return self._at(end, today, is_open=True)
        return Opening(is_open=False, at=None)

    def _at(self, moment: datetime, today: date, *, is_open: bool) -> Opening:
        there = moment.astimezone(self._zone_info)
        # What is open until midnight is open until 24:00 of the day before it.
        last = there - timedelta(seconds=1) if is_open else there
        return Opening(is_open, there, (last.date() - today).days)

    def _spans(self, today: date) -> Iterator[tuple[datetime, datetime]]:
        """Yield the times at which it is open, in order, from yesterday on; what touches is one."""
        open_span: tuple[datetime, datetime] | None = None
        for day in (today + timedelta(days=ahead) for ahead in range(-1, LOOK_AHEAD_DAYS)):
            if day.isoformat() in self.holidays:
                continue
            for span in self.hours.get(DAYS[day.weekday()], ()):  # type: ignore[call-overload]
                begin, end = (self._moment(day, minutes) for minutes in _minutes(span))
                if open_span is not None and begin <= open_span[1]:
                    open_span = open_span[0], end
                    continue
                if open_span is not None:
                    yield open_span
                open_span = begin, end
        if open_span is not None:
            yield open_span

    def _moment(self, day: date, minutes: int) -> datetime:
        days, rest = divmod(minutes, 24 * 60)
        local = datetime.combine(day + timedelta(days=days), time(rest // 60, rest % 60), self._zone_info)
        return local.astimezone(UTC)

    @cached_property
    def _zone_info(self) -> ZoneInfo:
        return ZoneInfo(self.zone)

    @classmethod
    def read_form(cls, form: FormData, field: str) -> dict[str, Any] | None:
        """Return the hand-over that was typed; without an option the step is left out."""
        found = [typed_option(form, f"{field}.o{number}.") for number in range(MOST_OPTIONS)]
        options = tuple(option for option in found if option is not None)
        if not options:
            return None
        hosts, holidays = (tuple(first(form, f"{field}.{name}").split()) for name in ("hosts", "holidays"))
        values: dict[str, Any] = {"zone": first(form, f"{field}.zone").strip(), "hosts": hosts, "holidays": holidays}
        hours = {day: tuple(first(form, f"{field}.{day}").replace(",", " ").split()) for day in DAYS}
        values |= {"hours": {day: spans for day, spans in hours.items() if spans}}
        title = read_texts(first(form, f"{field}.title"))
        return {"kind": "handover", "title": title, **without_empty(values), "options": options}


def typed_option(form: FormData, name: str) -> dict[str, Any] | None:
    """Return one option of the journey form; None if it has neither key nor address."""
    typed = {part: first(form, f"{name}{part}").strip() for part in ("key", "kind", "address", "when")}
    if not typed["key"] and not typed["address"]:
        return None
    texts = {part: read_texts(first(form, f"{name}{part}")) for part in ("label", "hint")}
    shares = bool(first(form, f"{name}shares_customer"))
    return {**typed, "label": texts["label"], **without_empty({"hint": texts["hint"], "shares_customer": shares})}


def span_text(span: str, at: PageTime) -> str:
    """Return a span as the page shows it, such as 08:00–17:00."""
    begin, end = (time(minutes // 60 % 24, minutes % 60) for minutes in _minutes(span))
    return f"{at.time(begin)}–{at.time(end, is_end=True)}"


def _minutes(span: str) -> tuple[int, int]:
    """Return the minutes of a day between which a span such as 08:00-17:00 lies. Raise ValueError."""
    found = _SPAN.fullmatch(span)
    if found is None:
        raise ValueError(f"{span} is no time of a day such as 08:00-17:00")
    begin, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if end > 24 * 60:
        raise ValueError(f"{span} is no time of a day such as 08:00-17:00")
    return begin, end
