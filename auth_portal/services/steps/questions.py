"""The step in which questions are answered: a survey, or what a flow wants to know before it goes on.

Each answer is a short text: the value of an option, several of them joined by commas, a number, a date as 2026-11-22, a
phone as +27821234567. A question may depend on an earlier answer; one that is not asked has no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from auth_portal.services.steps.contract import (
    FACT_KEY,
    FormData,
    Given,
    PageTime,
    Step,
    Taken,
    Texts,
    first,
    read_texts,
    text_of,
    whole_number,
    without_empty,
)
from auth_portal.typed import e164, email_form

QuestionKind = Literal["single", "multiple", "scale", "nps", "text", "number", "date", "phone", "email"]
CHOICES = ("single", "multiple")
SCALES = ("scale", "nps")
TEXT_LENGTH = 500  # of an answer, in UTF-16 units: each is at most six bytes of JSON
UNIT_BYTES = 6
MOST_QUESTIONS = 30  # of one step
LONGEST_VALUE = 512  # of a variable (``config.journey``)
# What ``least`` and ``most`` mean by kind: their usual values, and what they must lie between.
RANGES: Mapping[str, tuple[int, int, int, int]] = {
    "multiple": (1, 20, 0, 20),  # options chosen
    "scale": (1, 5, 0, 10),
    "nps": (0, 10, 0, 10),  # always these
    "text": (1, 300, 1, TEXT_LENGTH),  # characters
    "number": (0, 999_999_999, -999_999_999_999, 999_999_999_999),
}
EMAIL_BYTES = 3 * 254  # of JSON: an address has 254 bytes at most, and two of a letter are six there
LONGEST: Mapping[str, int] = {"scale": 2, "nps": 2, "number": 24, "date": 10, "phone": 16, "email": EMAIL_BYTES}
EXAMPLES = {"text": "The queue was long.", "date": "2026-11-22", "phone": "+27821234567", "email": "t@example.com"}
NUMBER = re.compile(r"[+-]?[0-9]{1,15}([.,][0-9]{1,6})?")


class Option(BaseModel):
    """One answer to choose: its value goes to the flow, its label is shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")]
    label: Texts


class Question(BaseModel):
    """One question. Its key names the variable in the flow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Annotated[str, Field(pattern=FACT_KEY)]
    kind: QuestionKind
    ask: Texts
    hint: Texts | None = None
    required: bool = True
    options: Annotated[tuple[Option, ...], Field(max_length=20)] = ()
    least: int | None = None
    most: int | None = None
    low: Texts | None = None  # what the ends of a scale mean
    high: Texts | None = None
    only_if: dict[Literal["key", "is"], Annotated[str, Field(max_length=60)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.kind in CHOICES) != bool(self.options):
            raise ValueError(f"{self.key}: only a single or multiple choice has options, and needs them")
        if len(self.values) < len(self.options):
            raise ValueError(f"{self.key}: has two options with the same value")
        bounds = RANGES.get(self.kind)
        if bounds is None or self.kind == "nps":
            if (self.least, self.most) != (None, None):
                raise ValueError(f"{self.key}: least and most are for multiple, scale, text and number")
        elif not bounds[2] <= self.lowest <= self.highest <= bounds[3]:
            raise ValueError(f"{self.key}: least and most must lie between {bounds[2]} and {bounds[3]}")
        if self.only_if and self.only_if.keys() != {"key", "is"}:
            raise ValueError(f"{self.key}: only_if needs a key and is")
        if self.longest > LONGEST_VALUE * UNIT_BYTES or (self.options and self.longest > LONGEST_VALUE):
            raise ValueError(f"{self.key}: all its options together are longer than {LONGEST_VALUE} characters")
        return self

    @property
    def values(self) -> tuple[str, ...]:
        """Return the values of its options, each once."""
        return tuple(dict.fromkeys(option.value for option in self.options))

    def number_of(self, answer: str) -> float | None:
        """Return the number that an answer is; None for another kind, also where the question had it once."""
        is_number = self.kind in (*SCALES, "number") and NUMBER.fullmatch(answer)
        return float(answer.replace(",", ".")) if is_number else None

    @property
    def is_counted(self) -> bool:
        """Report whether there are few different answers, which a page of results counts."""
        return self.kind in (*CHOICES, *SCALES)

    @property
    def lowest(self) -> int:
        """Return the least number, length or count of options."""
        usual = RANGES.get(self.kind, (0, 0))[0]
        return usual if self.least is None else self.least

    @property
    def highest(self) -> int:
        """Return the most."""
        if self.most is None and self.kind == "multiple":
            return len(self.options)
        usual = RANGES.get(self.kind, (0, 0))[1]
        return usual if self.most is None else self.most

    @property
    def longest(self) -> int:
        """Return the bytes that its answer has at most."""
        if self.kind == "single":
            return max(map(len, self.values))
        if self.kind == "multiple":
            return len(",".join(self.values))
        return self.highest * UNIT_BYTES if self.kind == "text" else LONGEST[self.kind]

    def is_asked(self, answers: Mapping[str, str]) -> bool:
        """Report whether the answers so far lead to it."""
        return not self.only_if or self.only_if["is"] in answers.get(self.only_if["key"], "").split(",")

    def read(self, typed: Sequence[str], region: str) -> tuple[str, str]:
        """Return the answer as it is stored, and the code of what is wrong with it, or ""."""
        plain = ("".join(char for char in " ".join(text.split()) if char.isprintable()) for text in typed)
        texts = [" ".join(text.split()) for text in plain if text.strip()]
        if not texts:
            return "", "answer_missing" if self.required else ""
        if self.kind == "multiple":
            chosen = [value for value in self.values if value in texts]
            if set(texts) - set(chosen):
                return "", "answer_unreadable"
            return ",".join(chosen), self._range_fault(len(chosen), "few", "many")
        return _READERS[self.kind](self, texts[0], region)

    def _range_fault(self, number: int | Decimal, low: str, high: str) -> str:
        return f"answer_{low}" if number < self.lowest else f"answer_{high}" if number > self.highest else ""

    def _read_single(self, text: str, _region: str) -> tuple[str, str]:
        return text, "" if text in self.values else "answer_unreadable"

    def _read_scale(self, text: str, _region: str) -> tuple[str, str]:
        is_on_it = text.isascii() and text.isdigit() and len(text) <= LONGEST["scale"]
        if not is_on_it or self._range_fault(int(text), "small", "large"):
            return text, "answer_unreadable"
        return str(int(text)), ""

    def _read_text(self, text: str, _region: str) -> tuple[str, str]:
        return text, self._range_fault(len(text.encode("utf-16-le", "replace")) // 2, "short", "long")

    def _read_number(self, text: str, _region: str) -> tuple[str, str]:
        text = text.replace(" ", "")
        if not NUMBER.fullmatch(text):
            return text, "answer_unreadable"
        try:
            number = Decimal(text.replace(",", "."))
        except InvalidOperation:
            return text, "answer_unreadable"
        plain = format(number, "f")
        plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
        return "0" if plain in ("-0", "+0") else plain, self._range_fault(number, "small", "large")

    def _read_date(self, text: str, _region: str) -> tuple[str, str]:
        try:
            return date.fromisoformat(text).isoformat(), ""
        except ValueError:
            return text, "answer_unreadable"

    def _read_phone(self, text: str, region: str) -> tuple[str, str]:
        number = e164(text, region)
        return (text, "answer_unreadable") if number is None else (number, "")

    def _read_email(self, text: str, _region: str) -> tuple[str, str]:
        address = email_form(text)
        return (text, "answer_unreadable") if address is None else (address, "")


_READERS: Mapping[str, Callable[[Question, str, str], tuple[str, str]]] = {
    "single": Question._read_single,
    "scale": Question._read_scale,
    "nps": Question._read_scale,
    "text": Question._read_text,
    "number": Question._read_number,
    "date": Question._read_date,
    "phone": Question._read_phone,
    "email": Question._read_email,
}


@dataclass(frozen=True)
class OptionView:
    """An option as the page shows it."""

    value: str
    label: str
    is_chosen: bool


@dataclass(frozen=True)
class QuestionView:
    """A question as the page shows it. ``field`` names its control, ``only_if`` what it depends on, in words."""

    field: str
    kind: str
    text: str
    hint: str
    is_required: bool
    value: str
    options: Sequence[OptionView]
    least: int
    most: int
    low: str
    high: str
    only_if: str = ""


@dataclass(frozen=True)
class QuestionsView:
    """The questions of one page. ``number`` and ``count`` are those of the questions asked one by one."""

    title: str
    questions: Sequence[QuestionView]
    number: int
    count: int
    is_last: bool
    is_anonymous: bool

    @property
    def is_first(self) -> bool:
        """Report whether there is no question before."""
        return self.number <= 1


class Questions(Step):
    """Answer questions, one a page or all on one.

    ``store_days`` stores the answers for so long. Those of an ``anonymous`` step go nowhere else: not to the chat, and
    not with the name of a customer or of the verification.
    """

    add_label = "Add questions"
    stage = "questions"

    kind: Literal["questions"] = "questions"
    title: Texts | None = None
    layout: Literal["one", "all"] = "one"
    store_days: Annotated[int, Field(ge=0, le=3650)] = 0
    anonymous: bool = False
    questions: Annotated[tuple[Question, ...], Field(min_length=1, max_length=MOST_QUESTIONS)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        before: dict[str, Question] = {}
        for question in self.questions:
            if question.key in before:
                raise ValueError(f"has two questions with the key {question.key}")
            if question.only_if and not can_be(before.get(question.only_if["key"]), question.only_if["is"]):
                raise ValueError(f"{question.key}: only_if names no answer of a question before it")
            before[question.key] = question
        if self.layout == "all" and not self.title:
            raise ValueError("needs a title where all questions are on one page")
        if self.anonymous and not self.store_days:
            raise ValueError("anonymous answers are only stored, so set store_days to 1 or more")
        return self

    @property
    def chosen_keys(self) -> tuple[str, ...]:
        """Return the keys of its questions."""
        return tuple(question.key for question in self.questions)

    @property
    def longest(self) -> Mapping[str, int]:
        """Return the variables: one for each question, none if they are anonymous."""
        return {} if self.anonymous else {question.key: question.longest for question in self.questions}

    @property
    def example(self) -> Mapping[str, str]:
        """Return values such as these variables may have."""
        found = {
            question.key: next(iter(question.values), EXAMPLES.get(question.kind, "8")) for question in self.questions
        }
        return {} if self.anonymous else found

    def values(self, given: Given) -> Mapping[str, str]:
        """Return the answers."""
        return {name: given.get("answers", {}).get(name, "") for name in self.longest}

    def asked(self, answers: Mapping[str, str]) -> list[Question]:
        """Return the questions that these answers lead to: an answer that is no longer asked for leads nowhere."""
        found: list[Question] = []
        known: dict[str, str] = {}
        for question in self.questions:
            if question.is_asked(known):
                found.append(question)
                known[question.key] = answers.get(question.key, "")
        return found

    def take(self, form: FormData, given: Given, at: PageTime) -> Taken:
        """Take the answers of a page, or go back to the question before."""
        answers = dict(given.get("answers", {}))
        if self.layout == "all":
            return self.take_all(form, at)
        current = self._current(given)
        asked = self.asked(answers)
        place = asked.index(current)
        if first(form, "back"):
            return Taken({"answers": answers, "at": asked[max(0, place - 1)].key})
        answer, fault = current.read(form.getlist("answer"), at.region)
        if fault:
            return Taken(faults={"answer": fault})
        answers[current.key] = answer
        following = self.asked(answers)[place + 1 :]
        if following:
            return Taken({"answers": answers, "at": following[0].key})
        return self._done(answers)

    def take_all(self, form: FormData, at: PageTime) -> Taken:
        """Take the answers of the page that shows every question."""
        answers, faults = dict[str, str](), dict[str, str]()
        for question in self.questions:
            if question.is_asked(answers):
                field = f"answer_{question.key}"
                answers[question.key], fault = question.read(form.getlist(field), at.region)
                faults.update({field: fault} if fault else {})
        return Taken(faults=faults) if faults else self._done(answers)

    def _done(self, answers: Mapping[str, str]) -> Taken:
        """Finish the step with the answers to what was asked; the audit learns how many, never what."""
        kept = {question.key: answers.get(question.key, "") for question in self.asked(answers)}
        facts = {"answers": sum(map(bool, kept.values()))}
        return Taken({"answers": kept}, is_done=True, event="questions_answered", facts=facts)

    def _current(self, given: Given) -> Question:
        asked = self.asked(given.get("answers", {}))
        return next((question for question in asked if question.key == given.get("at")), asked[0])

    def view(self, given: Given, at: PageTime, typed: FormData | None = None) -> QuestionsView:
        """Return the page: the question that is next, or all of them."""
        answers = given.get("answers", {})
        title = text_of(self.title or {}, at.locale)
        if self.layout == "all":
            every = [
                self._question(question, f"answer_{question.key}", answers, at, typed) for question in self.questions
            ]
            return QuestionsView(title, every, 1, 1, is_last=True, is_anonymous=self.anonymous)
        asked, current = self.asked(answers), self._current(given)
        place = asked.index(current)
        return QuestionsView(
            title,
            [self._question(current, "answer", answers, at, typed)],
            place + 1,
            len(asked),
            is_last=not any(self._may_follow(current, answers)),
            is_anonymous=self.anonymous,
        )

    def _may_follow(self, current: Question, answers: Mapping[str, str]) -> Iterator[Question]:
        """Yield the later questions that some answer to this one leads to."""
        later = self.questions[self.questions.index(current) + 1 :]
        yield from (one for one in later if one.only_if.get("key") == current.key or one.is_asked(answers))

    def _question(
        self, question: Question, field: str, answers: Mapping[str, str], at: PageTime, typed: FormData | None
    ) -> QuestionView:
        values = typed.getlist(field) if typed is not None else answers.get(question.key, "").split(",")
        value = values[0] if typed is not None and values else answers.get(question.key, "")
        of = next((one for one in self.questions if one.key == question.only_if.get("key")), None)
        return QuestionView(
            field=field,
            kind=question.kind,
            text=text_of(question.ask, at.locale),
            hint=text_of(question.hint or {}, at.locale),
            is_required=question.required,
            value="" if typed is not None and not values else value,
            options=[OptionView(o.value, text_of(o.label, at.locale), o.value in values) for o in question.options],
            least=question.lowest,
            most=question.highest,
            low=text_of(question.low or {}, at.locale),
            high=text_of(question.high or {}, at.locale),
            only_if=condition_text(of, question, at.locale) if of is not None else "",
        )

    @classmethod
    def read_form(cls, form: FormData, field: str) -> dict[str, Any] | None:
        """Return the questions that were typed; without one the step is left out."""
        questions = [typed_question(form, f"{field}.q{number}.") for number in range(MOST_QUESTIONS)]
        asked = tuple(question for question in questions if question is not None)
        title, days = read_texts(first(form, f"{field}.title")), whole_number(first(form, f"{field}.store_days"))
        settings = {"title": title, "layout": first(form, f"{field}.layout"), "store_days": days}
        settings["anonymous"] = bool(first(form, f"{field}.anonymous"))
        return {"kind": "questions", **without_empty(settings), "questions": asked} if asked else None


def typed_question(form: FormData, name: str) -> dict[str, Any] | None:
    """Return one question of the journey form; None if it has neither key nor text. An option is ``value: label``."""
    key, ask = first(form, f"{name}key").strip(), read_texts(first(form, f"{name}ask"))
    if not key and not ask:
        return None
    lines = (line.partition(":") for line in first(form, f"{name}options").splitlines() if line.strip())
    options = tuple({"value": value.strip(), "label": read_texts(label)} for value, _colon, label in lines)
    of, _is, answer = (part.strip() for part in first(form, f"{name}only_if").partition("="))
    values = {
        **{part: read_texts(first(form, f"{name}{part}")) for part in ("hint", "low", "high")},
        **{part: whole_number(first(form, f"{name}{part}")) for part in ("least", "most")},
        "options": options,
        "only_if": {"key": of, "is": answer} if of else {},
    }
    is_optional = {"required": False} if first(form, f"{name}optional") else {}
    question = {"key": key, "kind": first(form, f"{name}kind"), "ask": ask, **is_optional}
    return {**question, **{part: value for part, value in values.items() if value not in ({}, (), None)}}


def can_be(question: Question | None, answer: str) -> bool:
    """Report whether a question can have this answer, as far as its choices say."""
    if question is None:
        return False
    if question.options:
        return answer in question.values
    return not question.read([answer], "")[1]


def condition_text(of: Question, question: Question, locale: str) -> str:
    """Return the question and answer that another one depends on, for a page that shows them together."""
    answer = question.only_if["is"]
    label = next((text_of(option.label, locale) for option in of.options if option.value == answer), answer)
    return f"{text_of(of.ask, locale)} {label}"
