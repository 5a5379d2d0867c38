"""Writes that may be sent again: an Idempotency-Key, and the answer that was given to it.

One conditional insert decides who carries a write out. Its answer is kept for a day, sealed, and given again to whoever
repeats the very same request; where the write's service allows, it commits together with the write itself. A write that
was refused did nothing and leaves nothing here. A holder that died is followed by the next one after its lease. What
tells of a customer goes with that customer, and leaves the mark that the write was done.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select, update

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, new_token
from auth_portal.errors import Gone, Problem, UnderWay
from auth_portal.store.db import Database, upsert
from auth_portal.store.models import ApiAnswer, table_of

KEPT = timedelta(hours=24)
LEASE = timedelta(seconds=60)  # longer than any write takes; how long a killed one's repetition is put off
AGAIN_SECONDS = 1  # when to ask again for a write that is under way

_ANSWERS = table_of(ApiAnswer)


@dataclass(frozen=True)
class Answer:
    """What a program was answered: a status, a JSON text, where the thing is that was made, and its version.

    ``customer_row`` is whom the text tells of.
    """

    status: int
    text: str
    location: str = ""
    etag: str = ""
    customer_row: str | None = None


@dataclass(frozen=True)
class Claim:
    """The right to carry one write out; or, with an answer, the news that it was done before."""

    key: str
    holder: str
    answer: Answer | None = None


Keep = Callable[[Connection, Answer], None]


class ApiAnswers:
    """Writes the table ``api_answers``."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    def claim(self, api_key_id: str, idempotency_key: str, request: str) -> Claim:
        """Takes a write on, or finds its answer. ``request`` is the whole of what is asked.

        Raises UnderWay (409) while somebody else carries it out, Problem 422 where this Idempotency-Key came with
        another request, and Gone where the customer of the answer was erased.
        """
        key = self._keyring.index("idempotency", f"{api_key_id}\0{idempotency_key}")
        asked, holder = self._keyring.index("request", request), new_token()
        with self._database.write() as connection:
            if _take(connection, self._clock(), key, asked, holder):
                return Claim(key, holder)
            found = connection.execute(select(_ANSWERS).where(_ANSWERS.c.key == key)).one()
        if found.request != asked:
            raise Problem("idempotency_key_reused", status=422)
        if found.status is None:
            raise UnderWay("under_way", retry_after_seconds=AGAIN_SECONDS)
        if found.answer_sealed is None:
            raise Gone("answer_erased")
        opened = json.loads(self._keyring.open(found.answer_sealed, "api_answers", key, "answer"))
        return Claim(key, holder, Answer(found.status, **opened))

    def keep(self, connection: Connection, claim: Claim, answer: Answer) -> None:
        """Keeps the answer, in the caller's transaction.

        Raises UnderWay, and so undoes the write, where its lease ran out and somebody else took it on.
        """
        text = json.dumps({"text": answer.text, "location": answer.location, "etag": answer.etag})
        kept = connection.execute(
            update(_ANSWERS)
            .where(_ANSWERS.c.key == claim.key, _ANSWERS.c.holder == claim.holder)
            .values(
                status=answer.status, answer_sealed=self._keyring.seal(text, "api_answers", claim.key, "answer"),
                expires_at=self._clock() + KEPT, customer_row=answer.customer_row,
            )
        )  # fmt: skip
        if kept.rowcount != 1:
            raise UnderWay("under_way", retry_after_seconds=AGAIN_SECONDS)

    def settle(self, claim: Claim, answer: Answer) -> None:
        """Keeps the answer of a write whose service could not keep it with the write."""
        with self._database.write() as connection:
            self.keep(connection, claim, answer)

    def release(self, claim: Claim) -> None:
        """Gives a write back that was refused, so that it may be sent again."""
        mine = (_ANSWERS.c.key == claim.key) & (_ANSWERS.c.holder == claim.holder) & _ANSWERS.c.status.is_(None)
        with self._database.write() as connection:
            connection.execute(delete(_ANSWERS).where(mine))


def _take(connection: Connection, now: datetime, key: str, asked: str, holder: str) -> bool:
    fresh = {
        "request": asked, "holder": holder, "leased_until": now + LEASE, "status": None, "answer_sealed": None,
        "expires_at": now + KEPT, "customer_row": None,
    }  # fmt: skip
    c = _ANSWERS.c
    was_left = c.status.is_(None) & (c.leased_until <= now) & (c.request == asked)
    insert = upsert(connection.dialect.name, _ANSWERS).values(key=key, **fresh)
    taking = insert.on_conflict_do_update(index_elements=["key"], set_=fresh, where=(c.expires_at <= now) | was_left)
    return connection.execute(taking.returning(c.key)).first() is not None


def forget(connection: Connection, customer_row: str) -> None:
    """Removes what tells of a customer; a repetition of such a write learns that it was done, and does nothing."""
    theirs = update(_ANSWERS).where(_ANSWERS.c.customer_row == customer_row)
    connection.execute(theirs.values(answer_sealed=None, customer_row=None))


def sweep(connection: Connection, now: datetime, batch: int) -> int:
    """Removes answers that were kept for long enough; how many there were."""
    keys = select(_ANSWERS.c.key).where(_ANSWERS.c.expires_at <= now).limit(batch)
    return connection.execute(delete(_ANSWERS).where(_ANSWERS.c.key.in_(keys))).rowcount
