"""Writes that a program may send again: an Idempotency-Key, and the answer that was given to it.

One conditional insert decides which request carries a write out. Its answer is stored for a day, sealed, and given to
every repetition of the same request; where the write's service allows, it commits together with the write itself. A
write that was refused did nothing and leaves nothing here. If the process that carries a write out dies, the next
request takes over after its lease. What describes a customer is erased with that customer; the fact that the write was
done stays.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select, update

from auth_portal.crypto import new_token
from auth_portal.errors import Gone, Problem, UnderWay
from auth_portal.store.db import Transactions, Work, dialect_insert
from auth_portal.store.models import API_ANSWER_ANSWER, ApiAnswer, table_of

STORED_FOR = timedelta(hours=24)
LEASE = timedelta(seconds=60)  # longer than any write takes; how long the repetition of a killed one is put off
AGAIN_SECONDS = 1  # when to ask again for a write that is under way

_ANSWERS = table_of(ApiAnswer)


@dataclass(frozen=True)
class ApiResponse:
    """What a program was answered: a status, a JSON text, where the created thing is, and its version.

    ``customer_row`` is the customer that the text describes.
    """

    status: int
    text: str
    location: str = ""
    etag: str = ""
    customer_row: str | None = None


@dataclass(frozen=True)
class WriteClaim:
    """The right to carry one write out; with an answer, the write was carried out before."""

    key: str
    holder: str
    answer: ApiResponse | None = None


class ApiAnswers:
    """Claim writes and store their answers. The only writer of the table ``api_answers``."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def claim(self, api_key_id: str, idempotency_key: str, request: str) -> WriteClaim:
        """Claim a write, or find its answer. ``request`` is everything that is asked for.

        Raise UnderWay (409) while another request carries it out, Problem 422 if this Idempotency-Key came with another
        request, and Gone if the customer of the answer was erased.
        """
        keyring = self._transactions.keyring
        key = keyring.index("idempotency", f"{api_key_id}\0{idempotency_key}")
        asked, holder = keyring.index("request", request), new_token()
        with self._transactions.write() as work:
            if _take(work, key, asked, holder):
                return WriteClaim(key, holder)
            found = work.execute(select(_ANSWERS).where(_ANSWERS.c.key == key)).one()
        if found.request != asked:
            raise Problem("idempotency_key_reused", status=422)
        if found.status is None:
            raise UnderWay("under_way", retry_after_seconds=AGAIN_SECONDS)
        if found.answer_sealed is None:
            raise Gone("answer_erased")
        opened = json.loads(keyring.open(found.answer_sealed, API_ANSWER_ANSWER, key))
        return WriteClaim(key, holder, ApiResponse(found.status, **opened))

    def store(self, work: Work, claim: WriteClaim, answer: ApiResponse) -> None:
        """Store the answer, in the caller's transaction.

        Raise UnderWay, and so undo the write, if its lease ran out and another request took over.
        """
        text = json.dumps({"text": answer.text, "location": answer.location, "etag": answer.etag})
        values = {
            "status": answer.status,
            "answer_sealed": work.seal(text, API_ANSWER_ANSWER, claim.key),
            "expires_at": work.now + STORED_FOR,
            "customer_row": answer.customer_row,
        }
        mine = update(_ANSWERS).where(_ANSWERS.c.key == claim.key, _ANSWERS.c.holder == claim.holder)
        if work.execute(mine.values(values)).rowcount != 1:
            raise UnderWay("under_way", retry_after_seconds=AGAIN_SECONDS)

    def settle(self, claim: WriteClaim, answer: ApiResponse) -> None:
        """Store the answer of a write whose service could not store it with the write."""
        with self._transactions.write() as work:
            self.store(work, claim, answer)

    def release(self, claim: WriteClaim) -> None:
        """Give up a write that was refused, so that it may be sent again."""
        mine = (_ANSWERS.c.key == claim.key) & (_ANSWERS.c.holder == claim.holder) & _ANSWERS.c.status.is_(None)
        with self._transactions.write() as work:
            work.execute(delete(_ANSWERS).where(mine))


class Write:
    """One write of a program, whose answer can commit together with it."""

    def __init__(self, answers: ApiAnswers, claim: WriteClaim | None) -> None:
        self._answers = answers
        self._claim = claim
        self._answer: ApiResponse | None = None

    def store(self, work: Work, answered: ApiResponse) -> None:
        """Store the answer in the transaction of the write, for every repetition of the request."""
        if self._claim is not None:
            self._answers.store(work, self._claim, answered)
        self._answer = answered

    @property
    def answer(self) -> ApiResponse:
        """Return the answer that was stored with the write."""
        assert self._answer is not None
        return self._answer

    @property
    def is_settled(self) -> bool:
        """Report whether the answer was stored with the write."""
        return self._answer is not None


def _take(work: Work, key: str, asked: str, holder: str) -> bool:
    fresh = {
        "request": asked,
        "holder": holder,
        "leased_until": work.now + LEASE,
        "status": None,
        "answer_sealed": None,
        "expires_at": work.now + STORED_FOR,
        "customer_row": None,
    }
    c = _ANSWERS.c
    was_left = c.status.is_(None) & (c.leased_until <= work.now) & (c.request == asked)
    insert = dialect_insert(work.connection.dialect.name, _ANSWERS).values(key=key, **fresh)
    is_free = (c.expires_at <= work.now) | was_left
    taking = insert.on_conflict_do_update(index_elements=["key"], set_=fresh, where=is_free)
    return work.execute(taking.returning(c.key)).first() is not None


def forget_answers(work: Work, customer_row: str) -> None:
    """Erase what describes a customer; a repetition of such a write learns that it was done, and does nothing."""
    theirs = update(_ANSWERS).where(_ANSWERS.c.customer_row == customer_row)
    work.execute(theirs.values(answer_sealed=None, customer_row=None))


def sweep(work: Work, batch: int) -> int:
    """Remove answers that were stored for long enough; return how many there were."""
    keys = select(_ANSWERS.c.key).where(_ANSWERS.c.expires_at <= work.now).limit(batch)
    return work.execute(delete(_ANSWERS).where(_ANSWERS.c.key.in_(keys))).rowcount
