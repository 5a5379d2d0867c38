"""Fills a database with as many rows as a large portal has after a month: by plain SQL, so that it takes minutes.

Rows are shaped like real ones and hold no real secret: what is sealed is noise. Where a search needs a value that can
be found, the caller plants it in a row that is there.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol

import psycopg
from sqlalchemy import make_url

CUSTOMERS = 1_000_000
VERIFICATIONS = 1_000_000
MESSAGES = 500_000
EVENTS = 5_000_000
TABLES = ("customers", "verifications", "visits", "deliveries", "audit_events")
FIRST_MS = int(datetime(2026, 10, 23, 12, tzinfo=UTC).timestamp() * 1000)
MONTH_MS = 30 * 24 * 3600 * 1000 - 60_000  # up to a minute before the bench's clock
LIVE = 200  # verifications under way, the newest
ADMIN_ID = "0" * 32


class Dialect(Protocol):
    """How one database says it."""

    def run(self, statement: str) -> None: ...
    def indexes(self) -> list[tuple[str, str]]: ...
    def series(self, count: int) -> str: ...
    def hex(self, number: str, width: int) -> str: ...
    def moment(self, milliseconds: str) -> str: ...
    def blob(self, number: str) -> str: ...
    def key(self, number: str) -> str: ...
    def family(self, number: str) -> str: ...
    def finish(self) -> None: ...


class Sqlite:
    """Without a log and without waiting for the disk: what is made here is thrown away."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "foreign_keys=OFF", "cache_size=-400000"):
            self._connection.execute(f"PRAGMA {pragma}")

    def run(self, statement: str) -> None:
        self._connection.execute(statement)

    def indexes(self) -> list[tuple[str, str]]:
        found = self._connection.execute("SELECT name, sql, tbl_name FROM sqlite_master WHERE type = 'index'")
        return [(name, statement) for name, statement, table in found if statement and table in TABLES]

    def series(self, count: int) -> str:
        return (
            f"(WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < {count - 1}) SELECT n FROM s)"
        )

    def hex(self, number: str, width: int) -> str:
        return f"printf('%0{width}x', {number})"

    def moment(self, milliseconds: str) -> str:
        return f"strftime('%Y-%m-%d %H:%M:%f000', ({milliseconds}) / 1000.0, 'unixepoch')"

    def blob(self, number: str) -> str:
        return "randomblob(32)"

    def key(self, number: str) -> str:
        return "lower(hex(randomblob(16)))"

    def family(self, number: str) -> str:
        # Spread over the whole index as a hash is: a factor without a common divisor with 2 ** 32.
        return f"printf('%08x%024x', (({_family(number)}) * 2654435761) % 4294967296, {_family(number)})"

    def finish(self) -> None:
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.close()


class Postgresql:
    """Without triggers, so that references are not checked one by one."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(re.sub(r"^postgresql\+psycopg", "postgresql", url), autocommit=True)
        self.run("SET session_replication_role = replica")
        self.run("SET synchronous_commit = off")
        self.run("SET statement_timeout = 0")
        self.run("SET maintenance_work_mem = '512MB'")

    def run(self, statement: str) -> None:
        self._connection.execute(statement.encode())

    def indexes(self) -> list[tuple[str, str]]:
        wanted = "SELECT indexname, indexdef, tablename FROM pg_indexes WHERE indexname LIKE 'ix_%' OR indexname IN "
        found = self._connection.execute((wanted + "('uq_verifications_live', 'uq_deliveries_result')").encode())
        return [(name, statement) for name, statement, table in found if table in TABLES]

    def series(self, count: int) -> str:
        return f"(SELECT n::bigint AS n FROM generate_series(0, {count - 1}) AS n)"

    def hex(self, number: str, width: int) -> str:
        return f"lpad(to_hex(({number})::bigint), {width}, '0')"

    def moment(self, milliseconds: str) -> str:
        return f"to_timestamp(({milliseconds}) / 1000.0)"

    def blob(self, number: str) -> str:
        return f"sha256((({number})::text)::bytea)"

    def key(self, number: str) -> str:
        return f"md5(({number})::text)"

    def family(self, number: str) -> str:
        return self.key(_family(number))

    def finish(self) -> None:
        self.run("VACUUM ANALYZE")  # as autovacuum would have by then
        self._connection.close()


def _family(number: str) -> str:
    """Of each hundred two are one family."""
    return f"CASE WHEN ({number}) % 100 = 51 THEN ({number}) - 1 ELSE ({number}) END"


def fill(url: str, tables: Collection[str] = TABLES) -> None:
    """Fills a database that is installed and has the journey ``balance``; nobody else may use it meanwhile."""
    dialect: Dialect = Sqlite(str(make_url(url).database)) if url.startswith("sqlite") else Postgresql(url)
    with _without_indexes(dialect):
        for table, rows, values in (_customers(dialect), *_verifications(dialect), *_rest(dialect)):
            if table not in tables:
                continue
            columns = ", ".join(values)
            dialect.run(f"INSERT INTO {table} ({columns}) SELECT {', '.join(values.values())} FROM {rows} AS rows")
    dialect.finish()


@contextmanager
def _without_indexes(dialect: Dialect) -> Iterator[None]:
    indexes = dialect.indexes()
    for name, _statement in indexes:
        dialect.run(f"DROP INDEX {name}")
    yield
    for _name, statement in indexes:
        dialect.run(statement)


def _ms(number: str, count: int) -> str:
    """The time of the ``number``th of ``count`` rows in milliseconds, spread evenly over the month."""
    return f"({FIRST_MS} + ({number}) * {MONTH_MS // count})"


def row_id(dialect: Dialect, letter: str, number: str, count: int) -> str:
    """The SQL of a row's id: its time, a letter for its table, its number."""
    return f"{dialect.hex(_ms(number, count), 12)} || '{letter}' || {dialect.hex(number, 19)}"


def id_of(letter: str, number: int, count: int) -> str:
    """The very id that ``row_id`` makes."""
    return f"{FIRST_MS + number * (MONTH_MS // count):012x}{letter}{number:019x}"


# A sixteenth has no phone, a tenth one of other countries, two of a hundred share theirs.
HAS_PHONE = "n % 16 <> 3"
COUNTRIES = "CASE WHEN n % 50 < 45 THEN 'ZA' WHEN n % 50 = 45 THEN 'NA' WHEN n % 50 = 46 THEN 'BW' ELSE 'GB' END"


def _customers(dialect: Dialect) -> tuple[str, str, dict[str, str]]:
    at = dialect.moment(_ms("n", CUSTOMERS))
    return (
        "customers",
        dialect.series(CUSTOMERS),
        {
            "id": row_id(dialect, "a", "n", CUSTOMERS),
            "customer_id": "'M-' || n",
            "customer_key": "'m-' || n",
            "name_key": dialect.key("n / 20"),
            "phone_key": f"CASE WHEN {HAS_PHONE} THEN {dialect.family('n')} END",
            "phone_country": f"CASE WHEN {HAS_PHONE} THEN {COUNTRIES} END",
            "email_key": f"CASE WHEN n % 3 = 0 THEN {dialect.key('n + 3')} END",
            "password_hash": f"CASE WHEN n % 10 = 0 THEN {dialect.blob('n + 4')} END",
            "password_is_long": "n % 20 = 0",
            "totp_sealed": f"CASE WHEN n % 7 = 0 THEN {dialect.blob('n + 5')} END",
            "is_active": "n % 100 <> 1",
            "locale": "'en'",
            "subject_id": dialect.hex("n", 32),
            "created_at": at,
            "changed_at": at,
        },
    )


OUTCOMES = f"""CASE WHEN n >= {VERIFICATIONS - LIVE} THEN NULL WHEN n < 2000 THEN 'no_code'
 WHEN n % 100 < 80 THEN 'verified' WHEN n % 100 < 90 THEN 'expired' WHEN n % 100 < 95 THEN 'wrong'
 WHEN n % 100 < 98 THEN 'cancelled' ELSE 'not_me' END"""
SLUGS = "CASE WHEN n % 10000 = 5 THEN 'waiting' WHEN n % 10 = 0 THEN 'app' ELSE 'balance' END"


def _verifications(dialect: Dialect) -> list[tuple[str, str, dict[str, str]]]:
    at, ended = (dialect.moment(_ms(number, VERIFICATIONS)) for number in ("n", "n + 1"))
    verification, customer = row_id(dialect, "b", "n", VERIFICATIONS), row_id(dialect, "a", "n", CUSTOMERS)
    live = f"n >= {VERIFICATIONS - LIVE}"
    values = {
        "id": verification,
        "reference_hash": dialect.blob("n"),
        "reference_sealed": dialect.blob("n"),
        "server": "'production'",
        "version_id": "(SELECT version_id FROM journeys WHERE slug = 'balance')",
        "slug": SLUGS,
        "address_key": dialect.key("n / 50"),
        "began_at": at,
        "chat_started_at": at,
        "proofs_until": ended,
        "chat_ends_at": ended,
        "outcome": OUTCOMES,
        "ended_at": f"CASE WHEN {live} THEN NULL ELSE {ended} END",
        "customer_row": f"CASE WHEN {live} THEN NULL ELSE {customer} END",
        "methods": "CASE WHEN n % 100 < 80 THEN 'sms_code' ELSE '' END",
    }
    visits = {
        "id": row_id(dialect, "c", "n", VERIFICATIONS),
        "token_hash": dialect.blob("n"),
        "verification_id": verification,
        "created_at": at,
        "prompt": "'p'",
        "step": "1",
        "identifier_key": dialect.key("n / 3"),
        "customer_row": f"CASE WHEN n % 20 = 0 THEN NULL ELSE {customer} END",
    }
    return [
        ("verifications", dialect.series(VERIFICATIONS), values),
        ("visits", dialect.series(VERIFICATIONS), visits),
    ]


CALLBACK_STATES = """CASE WHEN n < 1000 THEN 'unconfirmed' WHEN n % 100 < 95 THEN 'accepted'
 WHEN n % 100 < 97 THEN 'refused' WHEN n % 100 < 99 THEN 'given_up' ELSE 'superseded' END"""
MESSAGE_STATES = "CASE WHEN n % 100 < 88 THEN 'accepted' WHEN n % 100 < 98 THEN 'dropped' ELSE 'refused' END"


def _rest(dialect: Dialect) -> list[tuple[str, str, dict[str, str]]]:
    return [
        ("deliveries", dialect.series(VERIFICATIONS - LIVE), _delivery(dialect, "d", "callback", CALLBACK_STATES, "1")),
        ("deliveries", dialect.series(MESSAGES), _delivery(dialect, "e", "message", MESSAGE_STATES, "2")),
        ("audit_events", dialect.series(EVENTS), _event(dialect)),
    ]


def _delivery(dialect: Dialect, letter: str, kind: str, states: str, each: str) -> dict[str, str]:
    number = f"n * {each}"
    at = dialect.moment(_ms(number, VERIFICATIONS))
    target = "'production'" if kind == "callback" else "CASE WHEN n < 500 THEN 'retired' ELSE 'sms' END"
    return {
        "id": row_id(dialect, letter, number, VERIFICATIONS),
        "kind": f"'{kind}'",
        "verification_id": row_id(dialect, "b", number, VERIFICATIONS),
        "target": target,
        "lane": dialect.blob("n") if kind == "callback" else "NULL",
        "body_sealed": dialect.blob("n"),
        "priority": "1",
        "state": states,
        "reason": "'HTTP 200'",
        "attempts": "1",
        "created_at": at,
        "next_at": at,
        "give_up_at": at,
        "ended_at": at,
    }


KINDS = """CASE WHEN n % 500 = 3 THEN 'customer_changed' WHEN n % 50000 = 4 THEN 'journey_changed'
 WHEN n % 5 = 0 THEN 'verification_began' WHEN n % 5 = 1 THEN 'verification_ended'
 WHEN n % 5 < 4 THEN 'proof_failed' ELSE 'step_passed' END"""
IS_ADMINS = "(n % 500 = 3 OR n % 50000 = 4)"


def _event(dialect: Dialect) -> dict[str, str]:
    return {
        "id": row_id(dialect, "f", "n", EVENTS),
        "at": dialect.moment(_ms("n", EVENTS)),
        "kind": KINDS,
        "verification_id": f"CASE WHEN {IS_ADMINS} THEN NULL ELSE {row_id(dialect, 'b', '(n / 5)', VERIFICATIONS)} END",
        "subject_id": dialect.hex("(n / 5)", 32),
        "admin_id": f"CASE WHEN {IS_ADMINS} THEN '{ADMIN_ID}' END",
        "facts": """'{"method": "sms_code"}'""",
        "mac": "'" + "0" * 64 + "'",
    }
