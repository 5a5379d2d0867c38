"""What customers answered in a journey and which terms they accepted: figures for a page, files for a spreadsheet.

A page counts the newest answers, of which it opens a bounded number. A file has all of them, read in batches.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from sqlalchemy import ColumnElement, Row, Select, and_, func, or_, select, text

from auth_portal.crypto import KeyFault
from auth_portal.services.history.lists import csv_rows
from auth_portal.services.steps import DECLINED, Question, Questions, Step, text_of
from auth_portal.store.db import Transactions, Work, first_id
from auth_portal.store.models import (
    ANSWER_ANSWERS,
    RARE_KIND,
    Acceptance,
    AnswerRow,
    AuditEvent,
    CustomerRow,
    Verification,
    signed_columns,
)

MOST_OPENED = 5_000  # answers that a page opens and counts: some 100 ms
MOST_COUNTED = 100_000  # acceptances, and refusals, that a page counts
BATCH = 1_000  # rows of a file that are read at once
NEWEST_TEXTS = 20
PROMOTERS, DETRACTORS = 9, 6  # of the net promoter score: 9 and 10, and 0 to 6
CONTACTS = ("phone", "email")  # a page masks those of customers, so it does not show these either
BOM = "\ufeff"  # without it, spreadsheets do not read a file as UTF-8
ANSWER_COLUMNS = ("answered_at", "customer_id", "verification_id")  # then the questions, and ``other``
ACCEPTANCE_COLUMNS = (
    "accepted_at",
    "customer_id",
    "verification_id",
    "version",
    "language",
    "sha256",
    "boxes",
    "unchanged",
)


@dataclass(frozen=True)
class StoredAnswers:
    """The answers of one customer to one step; None if they cannot be opened.

    Anonymous ones name neither customer nor verification, and their time is the beginning of the day.
    """

    answered_at: datetime
    verification_id: str | None
    customer_id: str | None
    answers: Mapping[str, str] | None

    @classmethod
    def of(cls, work: Work, row: Row[Any]) -> Self:
        """Return the answers of a row."""
        try:
            answers = json.loads(work.open(row.answers_sealed, ANSWER_ANSWERS, row.id))
        except KeyFault:
            answers = None
        return cls(row.answered_at, row.verification_id, row.customer_id, answers)

    def cells(self, keys: Sequence[str]) -> Sequence[object]:
        """Return its line of a file: the answers to the questions of ``keys``, and the others together."""
        answers = dict(self.answers or {})
        known = [answers.pop(key, "") for key in keys]
        other = "unreadable" if self.answers is None else json.dumps(answers, sort_keys=True) if answers else ""
        return [self.day or self.answered_at, self.customer_id, self.verification_id, *known, other]

    @property
    def day(self) -> str:
        """Return the day alone where nothing else is known; "" for answers that name a verification."""
        return "" if self.verification_id else f"{self.answered_at:%Y-%m-%d}"


@dataclass(frozen=True)
class ChoiceCount:
    """How many chose an option or a number. ``share`` is a percentage of those who answered."""

    label: str
    count: int
    share: int


@dataclass(frozen=True)
class QuestionResult:
    """The answers to one question. ``average`` and ``score`` are empty where the kind has none, or without answers."""

    question: Question
    text: str
    answered: int
    skipped: int  # asked, and left empty
    choices: Sequence[ChoiceCount] = ()
    average: str = ""
    score: int | None = None  # net promoter score, from -100 to 100
    newest: Sequence[tuple[str, StoredAnswers]] = ()

    @classmethod
    def of(cls, question: Question, rows: Sequence[StoredAnswers]) -> Self:
        """Count the answers to one question."""
        asked = [(row.answers[question.key], row) for row in rows if row.answers and question.key in row.answers]
        given = [(text, row) for text, row in asked if text]
        texts = [text for text, _row in given]
        numbers = [number for text in texts if (number := question.number_of(text)) is not None]
        return cls(
            question,
            text_of(question.ask),
            answered=len(given),
            skipped=len(asked) - len(given),
            choices=_choices(question, texts) if question.is_counted else (),
            average=f"{sum(numbers) / len(numbers):.2f}" if numbers else "",
            score=net_promoter_score(numbers) if question.kind == "nps" and numbers else None,
            newest=() if question.is_counted or question.kind in CONTACTS else given[:NEWEST_TEXTS],
        )

    @property
    def is_withheld(self) -> bool:
        """Report whether its answers stand in the file alone."""
        return self.question.kind in CONTACTS


@dataclass(frozen=True)
class AnswerFigures:
    """The figures of a page. With ``is_partial`` older answers were not counted."""

    count: int
    unreadable: int
    is_partial: bool
    questions: Sequence[QuestionResult]
    others: Sequence[str]  # keys of answers to questions that the journey no longer has


@dataclass(frozen=True)
class TermsCount:
    """How many accepted or declined a version of the terms. A customer who proved who they are counts once."""

    version: str
    is_accepted: bool
    count: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True)
class TermsFigures:
    """The counts of every version, the latest first. With ``is_partial`` older ones were not counted."""

    counts: Sequence[TermsCount]
    is_partial: bool


class JourneyResults:
    """Counts and exports stored answers and acceptances."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def figures(self, slug: str, steps: Iterable[Step], days: int) -> AnswerFigures:
        """Return the figures of the last ``days``, or with 0 of all, for the questions of the journey as it is now."""
        rows = self._answers(slug, self._since(days), most=MOST_OPENED + 1)
        counted = [row for row, _id in rows[:MOST_OPENED]]
        readable = [row for row in counted if row.answers is not None]
        keys = {key for row in readable for key in row.answers or {}}
        asked = [
            (question, step.store_days > 0)
            for step in steps
            if isinstance(step, Questions)
            for question in step.questions
        ]
        return AnswerFigures(
            count=len(counted),
            unreadable=len(counted) - len(readable),
            is_partial=len(rows) > MOST_OPENED,
            questions=[QuestionResult.of(one, readable) for one, is_stored in asked if is_stored or one.key in keys],
            others=sorted(keys - {question.key for question, _is_stored in asked}),
        )

    def answers_file(self, slug: str, steps: Iterable[Step], days: int, *, admin_id: str) -> Iterator[str]:
        """Return all answers as CSV, newest first, in pieces. The download is audited."""
        keys = [key for step in steps if isinstance(step, Questions) for key in step.chosen_keys]
        self._record("answers_exported", slug, days, admin_id)
        return self._answer_lines(slug, keys, self._since(days))

    def acceptances_file(self, slug: str, days: int, *, admin_id: str) -> Iterator[str]:
        """Return all acceptances of terms as CSV, newest first, in pieces. The download is audited."""
        self._record("acceptances_exported", slug, days, admin_id)
        return self._acceptance_lines(slug, self._since(days))

    def terms(self, slug: str, days: int) -> TermsFigures:
        """Count who accepted and who declined each version of the terms in the last ``days``, or with 0 ever.

        A refusal is known as long as its verification is stored.
        """
        since = self._since(days)
        accepted = select(
            Acceptance.version,
            func.coalesce(Acceptance.customer_row, Acceptance.verification_id).label("who"),
            Acceptance.accepted_at.label("at"),
        ).where(Acceptance.slug == slug, *_from(Acceptance.id, since))
        declined = (
            select(
                AuditEvent.facts["version"].as_string().label("version"),
                Verification.id.label("who"),
                AuditEvent.at.label("at"),
            )
            .join(Verification, Verification.id == AuditEvent.verification_id)
            .where(text(RARE_KIND), AuditEvent.kind == "terms_declined")
            .where(Verification.slug == slug, Verification.outcome == DECLINED, *_from(AuditEvent.id, since))
        )
        counts, is_partial = list[TermsCount](), False
        with self._transactions.read() as work:
            for is_accepted, newest in (
                (True, accepted.order_by(Acceptance.id.desc())),
                (False, declined.order_by(AuditEvent.id.desc())),
            ):
                one = newest.limit(MOST_COUNTED).subquery()
                grouped = select(
                    one.c.version,
                    func.count(one.c.who.distinct()).label("people"),
                    func.count().label("rows"),
                    func.min(one.c.at).label("first_at"),
                    func.max(one.c.at).label("last_at"),
                ).group_by(one.c.version)
                rows = work.execute(grouped).all()
                counts += [TermsCount(row.version, is_accepted, row.people, row.first_at, row.last_at) for row in rows]
                is_partial |= sum(row.rows for row in rows) >= MOST_COUNTED
        latest: dict[str, datetime] = {}
        for count in counts:
            latest[count.version] = max(count.last_at, latest.get(count.version, count.last_at))
        counts.sort(key=lambda count: (latest[count.version], count.version, count.is_accepted), reverse=True)
        return TermsFigures(counts, is_partial)

    def _record(self, kind: str, slug: str, days: int, admin_id: str) -> None:
        with self._transactions.write() as work:
            work.record(kind, admin_id=admin_id, journey=slug, days=days)

    def _since(self, days: int) -> datetime | None:
        """Return the beginning of a day in UTC, which is when anonymous answers count as given; None for all."""
        if not days:
            return None
        return (self._transactions.clock() - timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)

    def _answer_lines(self, slug: str, keys: Sequence[str], since: datetime | None) -> Iterator[str]:
        yield BOM + csv_rows([[*ANSWER_COLUMNS, *(f"answer_{key}" for key in keys), "other"]])
        last: tuple[datetime, str] | None = None
        while rows := self._answers(slug, since, last, most=BATCH):
            yield csv_rows(row.cells(keys) for row, _id in rows)
            last = (rows[-1][0].answered_at, rows[-1][1])

    def _answers(
        self, slug: str, since: datetime | None, last: tuple[datetime, str] | None = None, *, most: int
    ) -> Sequence[tuple[StoredAnswers, str]]:
        """Return answers with their ids, newest first, from after ``last`` on; without those whose time is over."""
        query = (
            select(AnswerRow.__table__, CustomerRow.customer_id)
            .outerjoin(CustomerRow, CustomerRow.id == AnswerRow.customer_row)
            .where(AnswerRow.slug == slug)
            .order_by(AnswerRow.answered_at.desc(), AnswerRow.id.desc())
        )
        if since is not None:
            query = query.where(AnswerRow.answered_at >= since)
        if last is not None:
            at, row_id = last
            is_next = or_(AnswerRow.answered_at < at, and_(AnswerRow.answered_at == at, AnswerRow.id < row_id))
            query = query.where(AnswerRow.answered_at <= at, is_next)
        with self._transactions.read() as work:
            rows = work.execute(query.where(AnswerRow.expires_at > work.now).limit(most)).all()
            return [(StoredAnswers.of(work, row), row.id) for row in rows]

    def _acceptance_lines(self, slug: str, since: datetime | None) -> Iterator[str]:
        yield BOM + csv_rows([ACCEPTANCE_COLUMNS])
        query: Select[Any] = (
            select(*signed_columns(Acceptance), CustomerRow.customer_id)
            .outerjoin(CustomerRow, CustomerRow.id == Acceptance.customer_row)
            .where(Acceptance.slug == slug)
            .order_by(Acceptance.id.desc())
            .limit(BATCH)
        )
        if since is not None:
            query = query.where(Acceptance.id >= first_id(since))
        following = query
        while True:
            with self._transactions.read() as work:
                rows = work.execute(following).all()
                lines = [_acceptance_cells(work, row) for row in rows]
            if not rows:
                return
            yield csv_rows(lines)
            following = query.where(Acceptance.id < rows[-1].id)


def _from(column: Any, since: datetime | None) -> list[ColumnElement[bool]]:
    """Return the condition for rows that were made since then."""
    return [column >= first_id(since)] if since is not None else []


def _acceptance_cells(work: Work, row: Row[Any]) -> Sequence[object]:
    is_unchanged = "yes" if work.keyring.holds("acceptances", row._mapping) else "no"
    who = (row.accepted_at, row.customer_id, row.verification_id)
    return [*who, row.version, row.language, row.digest, row.boxes, is_unchanged]


def _choices(question: Question, texts: Sequence[str]) -> Sequence[ChoiceCount]:
    """Count what was chosen, in the order of the question; then what can no longer be chosen."""
    chosen = Counter(value for text in texts for value in (text.split(",") if question.options else [text]))
    labels = {option.value: text_of(option.label) for option in question.options}
    labels = labels or {str(number): str(number) for number in range(question.lowest, question.highest + 1)}
    former = {value: value for value in sorted(chosen.keys() - labels.keys())}
    return [
        ChoiceCount(label, chosen[value], round(100 * chosen[value] / len(texts)) if texts else 0)
        for value, label in {**labels, **former}.items()
    ]


def net_promoter_score(numbers: Sequence[float]) -> int:
    """Return the percentage of promoters minus that of detractors."""
    promoters = sum(number >= PROMOTERS for number in numbers)
    detractors = sum(number <= DETRACTORS for number in numbers)
    return round(100 * (promoters - detractors) / len(numbers))
