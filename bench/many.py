"""Fills a database with as many rows as a large portal has after a month: by plain SQL, so that it takes minutes.

Rows are shaped like real ones and hold no real secret. What is sealed or signed is noise but for the rows that pages
show, which ``sign`` gives values that open and MACs that hold, so that a page pays for them. Where a search needs a
value that can be found, the caller plants it in a row that is there.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import psycopg
from sqlalchemy import bindparam, insert, make_url, select, update

from auth_portal.crypto import SIGNED, Keyring, MasterKeys, SealedColumn
from auth_portal.services.reach.reach import LINES_LOOKED_AT
from auth_portal.store.db import Database, canonical_event
from auth_portal.store.keys import load_keyring
from auth_portal.store.models import (
    CUSTOMER_NAME,
    CUSTOMER_PHONE,
    VERIFICATION_REFERENCE,
    VISIT_IDENTIFIER,
    AuditBlock,
    AuditEvent,
    Base,
    Challenge,
    CustomerRow,
    Verification,
    Visit,
    table_of,
)
from tests.postgres import MASTER_KEY

CUSTOMERS = 1_000_000
VERIFICATIONS = 1_000_000
MESSAGES = 1_000_000
EVENTS = 5_000_000
TABLES = (
    "customers",
    "verifications",
    "visits",
    "challenges",
    "deliveries",
    "attempts",
    "audit_events",
    "hourly_counts",
    "tries",
    "imports",
    "import_rows",
)
FIRST_MS = int(datetime(2026, 10, 23, 12, tzinfo=UTC).timestamp() * 1000)
MONTH_MS = 30 * 24 * 3600 * 1000 - 60_000  # up to a minute before the bench's clock
SWITCHED_MS = FIRST_MS + MONTH_MS - 2 * 24 * 3600 * 1000
LIVE = 200  # verifications under way, the newest
ADMIN_ID, KEY_ID = "0" * 32, "1" * 32
HOURS, EARLIER_HOURS = 62 * 24, 334 * 24  # that have counts, with all of them and with some
JOURNEYS = ("balance", "app", "mail", "password", "either", "transfer")
TRIES = 100_000  # persons with many wrong tries, of whom a few are locked
LOCKED = 300
IMPORTS = 300
IN_A_BLOCK = 100  # events of the audit trail


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
    def json(self, text: str) -> str: ...
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

    def json(self, text: str) -> str:
        return text

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

    def json(self, text: str) -> str:
        return f"({text})::json"

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
            columns = ", ".join(f'"{name}"' for name in values)
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
            "shared_key": "''",
            "name_key": dialect.key("n / 20"),
            "phone_key": f"CASE WHEN {HAS_PHONE} THEN {dialect.family('n')} END",
            "phone_country": f"CASE WHEN {HAS_PHONE} THEN {COUNTRIES} END",
            "phone_sealed": f"CASE WHEN {HAS_PHONE} THEN {dialect.blob('n')} END",
            "email_key": f"CASE WHEN n % 3 = 0 THEN {dialect.key('n + 3')} END",
            "password_hash": f"CASE WHEN n % 10 = 0 THEN {dialect.blob('n + 4')} END",
            "password_is_long": "n % 20 = 0",
            "totp_sealed": f"CASE WHEN n % 7 = 0 THEN {dialect.blob('n + 5')} END",
            "is_active": "n % 100 <> 1",
            "locale": "'en'",
            "subject_id": dialect.hex("n", 32),
            "created_at": at,
            # By one import, and ten since.
            "changed_at": f"CASE WHEN n % 100000 = 7 THEN {at} ELSE {dialect.moment(str(SWITCHED_MS))} END",
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
        "version_id": re.sub("'(waiting|app|balance)'", r"(SELECT version_id FROM journeys WHERE slug = '\1')", SLUGS),
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
    callbacks, messages = dialect.series(VERIFICATIONS - LIVE), dialect.series(MESSAGES)
    return [
        ("challenges", messages, _challenge(dialect)),
        ("deliveries", callbacks, _delivery(dialect, "d", "callback", CALLBACK_STATES)),
        ("deliveries", messages, _delivery(dialect, "e", "message", MESSAGE_STATES)),
        ("attempts", callbacks, _attempt(dialect, "2", "d")),
        ("attempts", messages, _attempt(dialect, "3", "e")),
        ("audit_events", dialect.series(EVENTS), _event(dialect)),
        ("hourly_counts", _hours(dialect, HOURS, 0, _series_of_hours()), _count(dialect)),
        ("hourly_counts", _hours(dialect, EARLIER_HOURS, HOURS, _series_of_hours()[::4]), _count(dialect)),
        ("tries", dialect.series(TRIES), _tries(dialect)),
        ("imports", dialect.series(IMPORTS), _import(dialect)),
        ("import_rows", dialect.series(CUSTOMERS), _staged(dialect)),
    ]


def _challenge(dialect: Dialect) -> dict[str, str]:
    at = dialect.moment(_ms("n", VERIFICATIONS))
    return {
        "id": row_id(dialect, "1", "n", VERIFICATIONS),
        "verification_id": row_id(dialect, "b", "n", VERIFICATIONS),
        "identifier_key": dialect.key("n / 3"),
        "customer_row": row_id(dialect, "a", "n", CUSTOMERS),
        "destination_key": dialect.family("n"),
        "step": "1",
        "method": "'sms_code'",
        "key_id": "1",
        "digits": "6",
        "issued_at": at,
        "expires_at": dialect.moment(_ms("n + 100", VERIFICATIONS)),
    }


def _delivery(dialect: Dialect, letter: str, kind: str, states: str) -> dict[str, str]:
    at = dialect.moment(_ms("n", VERIFICATIONS))
    target = "'production'" if kind == "callback" else "CASE WHEN n < 500 THEN 'retired' ELSE 'sms' END"
    return {
        "id": row_id(dialect, letter, "n", VERIFICATIONS),
        "kind": f"'{kind}'",
        "verification_id": row_id(dialect, "b", "n", VERIFICATIONS),
        "challenge_id": row_id(dialect, "1", "n", VERIFICATIONS) if kind == "message" else "NULL",
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


def _attempt(dialect: Dialect, letter: str, of: str) -> dict[str, str]:
    at = dialect.moment(_ms("n", VERIFICATIONS))
    return {
        "id": row_id(dialect, letter, "n", VERIFICATIONS),
        "delivery_id": row_id(dialect, of, "n", VERIFICATIONS),
        "number": "1",
        "began_at": at,
        "ended_at": at,
        "milliseconds": "80",
        "fate": "'accepted'",
        "status": "200",
    }


KINDS = """CASE WHEN n % 500 = 3 THEN 'customer_changed' WHEN n % 50000 = 4 THEN 'journey_changed'
 WHEN n % 5 = 0 THEN 'verification_began' WHEN n % 5 = 1 THEN 'verification_ended'
 WHEN n % 5 < 4 THEN 'proof_failed' ELSE 'step_passed' END"""
IS_ADMINS = "(n % 500 = 3 OR n % 50000 = 4)"


FACTS = f"""CASE WHEN {IS_ADMINS} THEN
 '{{"fields": ["phone"], "reason": "the customer called", "address": "198.51.100.4", "browser": "Mozilla/5.0", '
 || '"request": "request-' || n || '"}}'
 WHEN n % 1000 = 8 THEN '{{"method": "sms_code", "address": "192.0.2.77", "api_key": "{KEY_ID}", "key": "crm"}}'
 ELSE '{{"method": "sms_code"}}' END"""


def _event(dialect: Dialect) -> dict[str, str]:
    return {
        "id": row_id(dialect, "f", "n", EVENTS),
        "at": dialect.moment(_ms("n", EVENTS)),
        "kind": KINDS,
        "verification_id": f"CASE WHEN {IS_ADMINS} THEN NULL ELSE {row_id(dialect, 'b', '(n / 5)', VERIFICATIONS)} END",
        "subject_id": dialect.hex("(n / 5)", 32),
        "admin_id": f"CASE WHEN {IS_ADMINS} THEN '{ADMIN_ID}' END",
        "facts": dialect.json(FACTS),
        "mac": "'" + "0" * 64 + "'",
        "block": f"n / {IN_A_BLOCK} + 1",
    }


def _series_of_hours() -> list[tuple[str, str, int]]:
    """What a portal with six journeys counts in an hour: name, labels and value."""
    ends = {"proof_seconds": (10, 20, 30, 60, 120, 300), "answer_seconds": (0.1, 0.25, 0.5, 1, 2)}
    how = [
        *(("verified", "proved", code) for code in ("accepted", "")),
        *(("expired", stage, code) for stage, code in (("code", "accepted"), ("chose", "refused"), ("named", ""))),
        *(("cancelled", stage, code) for stage, code in (("code", "accepted"), ("named", ""))),
        *(("no_code", "code", code) for code in ("accepted", "not_sent")),
        *(("wrong", "code", "accepted"), ("not_me", "began", ""), ("unavailable", "named", "")),
    ]
    outcomes = ("verified", "expired", "cancelled", "wrong", "not_me")
    found: list[tuple[str, tuple[object, ...]]] = [("requests", (status,)) for status in ("2xx", "3xx", "4xx")]
    for slug in JOURNEYS:
        found.append(("verifications_began", (slug,)))
        found += [("verification_stages", (slug, *one)) for one in how]
        found += [("verifications_ended", (slug, outcome, "sms_code")) for outcome in outcomes]
        found += [("proof_seconds_bucket", (slug, f"{end:g}")) for end in ends["proof_seconds"]]
        found += [
            ("answer_seconds_bucket", (slug, one, f"{end:g}")) for one in outcomes for end in ends["answer_seconds"]
        ]
    for channel, countries in (("sms", ("ZA", "NA", "BW")), ("mail", ("",))):
        found += [("message_seconds_bucket", (channel, f"{end:g}")) for end in (0.5, 1, 2, 3, 5, 10)]
        for name, states in (
            ("messages_ended", ("accepted", "refused", "given_up")),
            ("messages", ("accepted", "retry")),
        ):
            found += [(name, (channel, country, state)) for country in countries for state in states]
    return [(name, json.dumps(labels), 3 + place % 7) for place, (name, labels) in enumerate(found)]


def _hours(dialect: Dialect, hours: int, later: int, counted: Iterable[tuple[str, str, int]]) -> str:
    """The SQL of rows for each hour and what is counted in it; ``later`` hours follow them."""
    values = ", ".join(f"('{name}', '{labels}', {value})" for name, labels, value in counted)
    series = dialect.series(hours)
    back = f"SELECT {hours + later - 1} - n AS back, column1, column2, column3"
    return f"({back} FROM {series} AS s CROSS JOIN (VALUES {values}) AS v)"


def _count(dialect: Dialect) -> dict[str, str]:
    last_hour = (FIRST_MS + MONTH_MS) // 3_600_000 * 3_600_000
    at = dialect.moment(f"{last_hour} - back * 3600000")
    return {"hour": at, "name": "column1", "labels": "column2", "value": "column3"}


def _tries(dialect: Dialect) -> dict[str, str]:
    row = row_id(dialect, "a", "(n * 7)", CUSTOMERS)
    return {
        "person_key": f"CASE WHEN n % 2 = 0 OR n < {LOCKED} THEN {row} ELSE {dialect.key('n + 6')} END",
        "method": "'sms_code'",
        "is_ticketed": "n < 0",
        "total": f"CASE WHEN n < {LOCKED} THEN 60 ELSE 6 + n % 10 END",
        "day_count": "5 + n % 9",
        "day_ends_at": dialect.moment(str(FIRST_MS + MONTH_MS + 12 * 3_600_000)),
    }


MET = f"'{[7 + 100_000 * one for one in range(10)]}'"  # the customers who were changed since, as the undo found them


def _import(dialect: Dialect) -> dict[str, str]:
    at = dialect.moment(_ms("n", IMPORTS))
    return {
        "id": row_id(dialect, "4", "n", IMPORTS),
        "file_name": "'customers-' || n || '.csv'",
        "state": "'done'",
        "is_attended": "n < 0",
        "columns": dialect.json("""'["customer_id", "name", "phone", "email"]'"""),
        "region": "'ZA'",
        "counts": dialect.json("""'{"new": 5000}'"""),
        "admin_id": f"'{ADMIN_ID}'",
        "created_at": at,
        "rows": "5000",
        "switched_at": f"CASE WHEN n = {IMPORTS - 1} THEN {dialect.moment(str(SWITCHED_MS))} ELSE {at} END",
        "undo_fault": f"CASE WHEN n = {IMPORTS - 1} THEN 'changed' ELSE '' END",
        "undo_met": f"CASE WHEN n = {IMPORTS - 1} THEN {dialect.json(MET)} END",
        "ended_at": at,
    }


def _staged(dialect: Dialect) -> dict[str, str]:
    """All customers, as the last import made them."""
    return {
        "import_id": f"'{id_of('4', IMPORTS - 1, IMPORTS)}'",
        "number": "n",
        "customer_row": row_id(dialect, "a", "n", CUSTOMERS),
        "customer_id": "'M-' || n",
        "customer_key": "'m-' || n",
        "subject_id": dialect.hex("n", 32),
        "is_new": "n >= 0",
        "sets": "0",
        "locale": "'en'",
        "old_locale": "''",
        "password_is_long": "n < 0",
        "old_password_is_long": "n < 0",
    }


# --- What pages show


def shown_numbers() -> list[int]:
    """The numbers of the customers and verifications that pages show: the newest, the rare ones, and some between."""
    before = (datetime(2026, 11, 9, tzinfo=UTC) - datetime(2026, 10, 23, 12, tzinfo=UTC)) / timedelta(days=30)
    by_id = sorted(range(CUSTOMERS), key=str)  # as the list of customers has them
    middle = by_id.index(CUSTOMERS // 2)
    found = {
        *range(VERIFICATIONS - 6000, VERIFICATIONS),
        *range(VERIFICATIONS // 2 - 200, VERIFICATIONS // 2 + 1),
        *range(int(before * VERIFICATIONS) - 1000, int(before * VERIFICATIONS) + 10),
        *range(2000),
        *range(5, VERIFICATIONS, 10_000),
        *by_id[:200],
        *by_id[middle : middle + 200],
        *by_id[-200:],
        123_456,
    }
    return sorted(found)


def sign(url: str, numbers: Iterable[int]) -> None:
    """Give these customers, their verifications and the newest events values that open and MACs that hold."""
    database = Database(url)
    keyring = load_keyring(database, MasterKeys((MASTER_KEY,)))
    with database.read() as connection:  # Reach opens a sample of the phones
        sample = select(CustomerRow.customer_id).where(CustomerRow.phone_key.is_not(None), CustomerRow.is_active)
        found = connection.execute(sample.order_by(CustomerRow.phone_key).limit(LINES_LOOKED_AT)).scalars()
        numbers = sorted({*numbers, *(int(one[2:]) for one in found if one.startswith("M-"))})
    for begin in range(0, len(numbers), 500):
        some = numbers[begin : begin + 500]
        for model, letter, values in _SEALED:
            sealed = {id_of(letter, n, VERIFICATIONS): values(keyring, n) for n in some}
            _write(database, keyring, model, sealed)
    newest = [id_of("f", n, EVENTS) for n in range(EVENTS - 6000, EVENTS)]
    events, digest = table_of(AuditEvent), {"at": datetime.now(UTC), "digest": "0" * 64, "head": "0" * 64}
    with database.write() as connection:
        for place in range(0, len(newest), IN_A_BLOCK):  # whose events have a place in them
            number = (EVENTS - len(newest) + place) // IN_A_BLOCK + 1
            block = {"number": number, "events": newest[place : place + IN_A_BLOCK], **digest}
            connection.execute(insert(AuditBlock).values(block))
        for row in connection.execute(select(events).where(events.c.id >= newest[0])).mappings().all():
            mac = keyring.audit_mac(canonical_event(dict(row)))
            connection.execute(update(events).where(events.c.id == row["id"]).values(mac=mac))
    database.close()


def _of_customer(keyring: Keyring, n: int) -> dict[str, bytes]:
    row, email = id_of("a", n, CUSTOMERS), SealedColumn("customers", "email")
    return {
        "name_sealed": keyring.seal(f"Person {n}", CUSTOMER_NAME, row),
        "phone_sealed": keyring.seal(f"+2782{n:07d}", CUSTOMER_PHONE, row),
        "email_sealed": keyring.seal(f"person{n}@example.com", email, row),
    }


def _of_verification(keyring: Keyring, n: int) -> dict[str, bytes]:
    return {"reference_sealed": keyring.seal(f"reference-{n}", VERIFICATION_REFERENCE, id_of("b", n, VERIFICATIONS))}


def _of_visit(keyring: Keyring, n: int) -> dict[str, bytes]:
    return {"identifier_sealed": keyring.seal(f"M-{n}", VISIT_IDENTIFIER, id_of("c", n, VERIFICATIONS))}


_SEALED: tuple[tuple[type[Base], str, Any], ...] = (
    (CustomerRow, "a", _of_customer),
    (Verification, "b", _of_verification),
    (Visit, "c", _of_visit),
    (Challenge, "1", lambda _keyring, _n: {}),
)


def _write(database: Database, keyring: Keyring, model: type[Base], sealed: Mapping[str, Mapping[str, bytes]]) -> None:
    table = table_of(model)
    with database.write() as connection:
        changed = []
        for row in connection.execute(select(table).where(table.c.id.in_(sealed))).mappings():
            signed = keyring.signed(table.name, {**row, **sealed[row["id"]]})
            names = (*sealed[row["id"]], *SIGNED[table.name])
            changed.append({"of": row["id"], **{f"new_{name}": signed[name] for name in names}})
        written = update(table).where(table.c.id == bindparam("of"))
        connection.execute(written.values({name: bindparam(f"new_{name}") for name in names}), changed)
