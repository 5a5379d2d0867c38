"""Engine and transactions: the only place that commits.

Every service is built on ``Transactions``; what runs inside a transaction takes a ``Work``: the connection, the time,
the keys and the audit trail.

``read()`` yields a connection on which each statement stands alone, ``write()`` one transaction that commits at its end
or leaves nothing. On SQLite writers pass a gate (one lock for the threads, one for the processes) instead of SQLite's
sleeping busy handler; PostgreSQL does its own.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import logging
import math
import os
import secrets
import threading
import time
from collections import deque, namedtuple
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from itertools import count
from operator import methodcaller
from pathlib import Path
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    JSON,
    Connection,
    Engine,
    Subquery,
    Table,
    Text,
    bindparam,
    column,
    create_engine,
    event,
    func,
    insert,
    inspect,
    literal_column,
    make_url,
    select,
    table,
    text,
    type_coerce,
    update,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InternalError,
    InvalidatePoolError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.types import DateTime, TypeDecorator, to_instance

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, SealedColumn, json_parts, signed_names
from auth_portal.errors import Conflict, DatabaseAway, Misconfigured, NotFound, WrongClock
from auth_portal.settings import CONNECTIONS, delivered
from auth_portal.telemetry import ORIGIN_FACTS, Counted, Counts, Origin, log_event, origin

MIGRATIONS = delivered("migrations")
GATE_SECONDS = 5.0  # how long a writer waits for the others on SQLite (D10)
LONG_GATE_SECONDS = 120.0  # and for one that has announced very many rows, or a migration
MOST_IN_GROUP = 32  # writers of a process whose transactions are committed at once on SQLite
GROUP_SECONDS = 0.02  # after which no other one follows: those of other processes wait as well
SENDERS_SECONDS = 0.1  # how long customers go before those who record what was sent
CUSTOMER_SECONDS = 0.03  # after a customer's transaction another one may follow, of the same page or the next
CHECKPOINT_TRANSACTIONS = 40  # after which SQLite's log is written into the database; a code check adds 25 pages to it
LONG_LOG_PAGES = 10_000  # of 4 KiB, from which on a commit does it
BUSY_SECONDS = 4  # the gate makes waiting rare; this is for an operator's own sqlite3 shell
# PostgreSQL: how long anything waits for a server or a network that is silent (D10).
CONNECT_SECONDS = 3
POOL_SECONDS = 5
REST_SECONDS = 1.0  # after which a connection of the pool is asked whether its server is still there
PLAN_SECONDS = 5.0  # how long the plan of a statement is used: one that was made for an empty table is soon over
SILENCE_SECONDS = 5  # of a connection that was sent something
STATEMENT_SECONDS = 20
IDLE_SECONDS = 10  # in a transaction: a process that is suspended inside one must not hold its rows for ever
BRIEF_MILLISECONDS = 500  # for a locked row, where what waits for it keeps others waiting
SENDER_PART = 0.3  # of the connections of a process: at most so many senders use the database at the same time (D5)
# The clock of the machine and the database's (D8).
machine_clock = time.time  # seconds since 1970; what the portal is given as its clock is compared nowhere else
MOST_SECONDS_APART = 2.0
RIGHT_SECONDS_APART = 1.0  # a clock that was wrong is right again from here on, so that one around 2 s does not flutter
CHECK_SECONDS = 5.0  # how long an answer of the database counts
KNOWN_SECONDS = 15.0  # and for a transaction: meanwhile the background has asked again
MODE = "portal_mode"
PIPELINE = "portal_pipeline"  # the name under which a connection to PostgreSQL has its own
UNFINISHED = "restore_unfinished"  # the table that PostgreSQL has while a backup is being put back: nothing is served
# Starts anywhere in the lower half, so that an id does not reveal how many there are; the upper half lasts centuries.
_numbers = count(secrets.randbits(39))


class UtcDateTime(TypeDecorator[datetime]):
    """A column of aware times in UTC on every database; SQLite would return them naive."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time in UTC, to be stored. Raise ValueError for one without a zone."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without a zone")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return a stored time with its zone, UTC."""
        return value.astimezone(UTC) if value is not None else None

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return what makes a time of what the driver returns; of SQLite's texts in a quarter of SQLAlchemy's time."""
        if dialect.name != "sqlite":
            return super().result_processor(dialect, coltype)

        def time_of(text: str | None) -> datetime | None:
            if text is None:
                return None
            has_zone = text[-6:-5] in ("+", "-")
            return datetime.fromisoformat(text).astimezone(UTC) if has_zone else datetime.fromisoformat(f"{text}+00:00")

        return time_of


def new_id(now: datetime) -> str:
    """Return a row's id (hex): 48 bits of milliseconds, so that rows sort by age, 40 that count, and 40 random ones.

    The ids that one process makes within a millisecond sort in the order in which they were made: the later of two
    tickets is the later one, and the events of one transaction are shown in their order.
    """
    return f"{int(now.timestamp() * 1000):012x}{next(_numbers):010x}{secrets.token_hex(5)}"


def first_id(moment: datetime) -> str:
    """Return the bound of the ids made before a moment: they are smaller, those made at it or later are not."""
    return f"{int(moment.timestamp() * 1000):012x}"


def moment_of(row_id: str) -> datetime | None:
    """Return the time at which an id was made (UTC); None for a text that is none."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(row_id[:12], 16))
    except (ValueError, OverflowError):
        return None


def hour_of(moment: datetime) -> datetime:
    """Return the beginning of the hour (UTC) that a time is in."""
    return moment.replace(minute=0, second=0, microsecond=0)


class WriteGate:
    """Lets one writer at a time into a SQLite file, over all threads and processes of this machine.

    A process that is suspended inside it holds up all the others. None of them waits longer than GATE_SECONDS (D10), or
    LONG_GATE_SECONDS for a process that has written its number into the file: its transaction takes that long.
    """

    def __init__(self, path: Path) -> None:
        self._thread = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._state = threading.Condition()
        self._is_awaited = False  # a thread waits for the lock of the file
        self._is_wanted = False
        self._is_taken = False

    @contextmanager
    def passed(self, *, is_long: bool = False) -> Iterator[None]:
        """Hold the gate for one writing transaction. Raise TimeoutError if it does not open in time."""
        self.enter()
        try:
            if is_long:
                os.ftruncate(self._file, 0)  # of what a killed one left
                os.pwrite(self._file, b"%d\n" % os.getpid(), 0)
            yield
        finally:
            if is_long:
                os.ftruncate(self._file, 0)
            self.leave()

    def enter(self) -> None:
        """Hold the gate until ``leave``, which another thread may call. Raise TimeoutError if it does not open."""
        began = time.monotonic()
        while not self._thread.acquire(timeout=GATE_SECONDS):
            self.wait_on(began)
        try:
            while not self.take(GATE_SECONDS):
                self.wait_on(began)
        except BaseException:
            self._thread.release()
            raise

    def leave(self) -> None:
        """Let the next one in."""
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._thread.release()

    def take(self, seconds: float) -> bool:
        """Take the lock of the file; return False if it is not free within so many seconds.

        Where it is not free at once, a thread waits for it, because flock knows no time-out; so the writers of several
        processes pass in the order in which they came. A thread whose writer gave up goes on waiting, and the next
        writer takes over what it waits for: a process has one lock on the file, so two threads that wait would let
        each other in.
        """
        with self._state:
            if not self._is_awaited:
                with suppress(BlockingIOError):
                    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                threading.Thread(target=self._await, name="write-gate", daemon=True).start()
                self._is_awaited = True
            self._is_wanted, self._is_taken = True, False
            try:
                return self._state.wait_for(lambda: self._is_taken, seconds)
            finally:
                self._is_wanted = False

    def _await(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError:  # the file system refuses: its writer gives up, and the next one asks again
            with self._state:
                self._is_awaited = False
            return
        with self._state:
            self._is_awaited = False
            self._is_taken = self._is_wanted
            if not self._is_wanted:
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._state.notify()

    def wait_on(self, began: float) -> None:
        """Return if another process has announced a long transaction; else log which one it is. Raise TimeoutError."""
        holder, ending = 0, f":{os.fstat(self._file).st_ino}"
        with suppress(OSError):
            for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
                match line.split():
                    case [_, "FLOCK", _, _, process, file, *_] if file.endswith(ending):
                        holder = int(process)
        waited = time.monotonic() - began
        if os.pread(self._file, 20, 0) == b"%d\n" % holder and waited < LONG_GATE_SECONDS:
            return
        log_event("write_gate_is_held", level=logging.ERROR, process=holder, seconds=round(waited))
        raise TimeoutError(f"process {holder} has held the write gate for {waited:.0f} s")

    def close(self) -> None:
        """Close the gate's file."""
        os.close(self._file)


class _Turn(NamedTuple):
    """A writer in the line: its lock is held until it is its turn."""

    is_mine: threading.Lock
    since: float  # by time.monotonic()


class Group:
    """Transactions of a process that follow each other, and that one commit makes durable."""

    def __init__(self, connection: Connection) -> None:
        """Begin, on a connection on which each statement otherwise stands alone. Raise SQLAlchemyError."""
        self.began = time.monotonic()
        self.connection = connection
        self.driver: Any = connection.connection.dbapi_connection
        self._run("BEGIN IMMEDIATE")
        self.size = 0
        self.fault: BaseException | None = None
        self.is_over = threading.Event()

    def may_grow(self) -> bool:
        """Report whether one more may follow."""
        in_time = time.monotonic() - self.began < GROUP_SECONDS
        return in_time and self.size < MOST_IN_GROUP and self.fault is None

    def end(self) -> None:
        """Commit, or undo what is left of a group that has failed."""
        try:
            if self.fault is None:
                if listeners := self.connection.dispatch.commit:
                    listeners(self.connection)
                self._run("COMMIT")
        except Exception as fault:
            self.fault = fault
        finally:
            if self.fault is not None and self.driver.in_transaction:  # a fault of the disk has undone everything
                with suppress(SQLAlchemyError):
                    self._run("ROLLBACK")
            self.is_over.set()

    def _run(self, sql: str) -> None:
        try:
            self.driver.execute(sql)
        except self.connection.dialect.loaded_dbapi.Error as fault:
            raise _fault(self.connection, sql, fault) from fault


class Checkpoints:
    """Write SQLite's log into the database in a separate thread: a commit would wait for it, tens of milliseconds.

    What a thread that is late leaves is bounded: a commit does it itself once the log has LONG_LOG_PAGES.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._written = 0  # transactions since the last one
        self._is_due = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def note(self, transactions: int) -> None:
        """Note transactions that are durable."""
        self._written += transactions
        if self._written < CHECKPOINT_TRANSACTIONS:
            return
        self._written = 0
        with self._lock:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
                self._thread.start()
        self._is_due.set()

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._is_closed = True
        self._is_due.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._is_due.wait() and not self._is_closed:
            self._is_due.clear()
            # A reader in the way or a full disk leaves the rest to the next one.
            faults = SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error
            with suppress(*faults), self._engine.connect() as connection:
                driver: Any = connection.connection.dbapi_connection
                driver.execute("PRAGMA wal_checkpoint(PASSIVE)").close()


class Writers:
    """The writers of one process into a SQLite file, one at a time.

    To commit is to wait for a disk. So a writer that others of its process wait for leaves that to the next one, which
    goes on in the same transaction; the last one commits for all of them, and none returns before. Each but the first
    has a savepoint: one that raises leaves nothing of its own. If the commit fails it fails for all.

    Customers pass before those who record what was sent, but none of these waits for them longer than SENDERS_SECONDS:
    while many results wait for a slow Flow, pages stay quick.
    """

    def __init__(self, engine: Engine, gate: WriteGate) -> None:
        self._engine = engine.execution_options(**{MODE: "read"})  # a group begins its transaction itself
        self._gate = gate
        self._checkpoints = Checkpoints(self._engine)
        self._connection: Connection | None = None  # of all of them: to borrow one for each took a tenth of a check
        event.listen(engine, "engine_disposed", lambda _engine: self._renew_connection())
        self._lock = threading.Lock()  # of the three next
        self._customers: deque[_Turn] = deque()
        self._senders: deque[_Turn] = deque()
        self._is_taken = False
        self._group: Group | None = None  # of the writer whose turn it is, if another one left it open

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection for one transaction; return when it is durable. Raise TimeoutError, SQLAlchemyError."""
        self._await_turn()
        with ExitStack() as otherwise:
            otherwise.callback(self._pass_on)
            if (group := self._group) is None:
                self._gate.enter()
                otherwise.callback(self._gate.leave)
                group = self._new_group()
            otherwise.pop_all()
        driver: Any = group.driver
        group.size += 1
        is_first = group.size == 1
        try:
            if not is_first:
                driver.execute("SAVEPOINT one")
            yield group.connection
            if not is_first:
                driver.execute("RELEASE one")
        except BaseException as fault:
            group.fault = fault  # nothing is committed, unless its own part alone can be undone
            if not is_first and driver.in_transaction:  # else a fault of the disk has undone everything
                driver.execute("ROLLBACK TO one")
                driver.execute("RELEASE one")
                group.fault = None
            raise
        finally:
            self._leave(group)
        group.is_over.wait()
        if group.fault is not None:
            reason = getattr(group.fault, "orig", None) or group.fault
            raise OperationalError("COMMIT", None, reason, hide_parameters=True) from group.fault

    def _await_turn(self) -> None:
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return
            turn = _Turn(threading.Lock(), time.monotonic())
            turn.is_mine.acquire()
            line = self._senders if getattr(_thread, "is_sender", False) else self._customers
            line.append(turn)
        while not turn.is_mine.acquire(timeout=GATE_SECONDS):
            try:
                self._gate.wait_on(turn.since)
            except TimeoutError:
                with self._lock:
                    if turn not in line:  # it was given at this very moment
                        return
                    line.remove(turn)
                raise

    def _new_group(self) -> Group:
        if self._connection is None:
            self._connection = self._engine.connect()
            driver: Any = self._connection.connection.dbapi_connection
            driver.execute(f"PRAGMA wal_autocheckpoint={LONG_LOG_PAGES}").close()
        try:
            return Group(self._connection)
        except BaseException:
            self._renew_connection()
            raise

    def close(self) -> None:
        """End the thread that serves the writers; their connection ends with all others."""
        self._checkpoints.close()

    def _renew_connection(self) -> None:
        """Close the connection. The next writer opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.invalidate()  # it has its own limit of the log
                connection.close()

    def _leave(self, group: Group) -> None:
        """Give the turn to the next writer of the same group, or end the group."""
        if group.may_grow():
            with self._lock:
                if following := self._following():
                    self._group = group
                    following.popleft().is_mine.release()
                    return
        self._group = None
        group.end()
        if group.fault is None:
            self._checkpoints.note(group.size)
        else:
            self._renew_connection()  # whatever state it is in
        self._gate.leave()
        self._pass_on()

    def _pass_on(self) -> None:
        with self._lock:
            if following := self._following():
                following.popleft().is_mine.release()
            else:
                self._is_taken = False

    def _following(self) -> deque[_Turn]:
        """Return the line whose first one is next; an empty one if none waits."""
        has_waited = bool(self._senders) and time.monotonic() - self._senders[0].since > SENDERS_SECONDS
        return self._senders if has_waited or not self._customers else self._customers


_thread = threading.local()


def share_connections() -> None:
    """Let this thread, one of many that send, use only the part of the connections that all of these share (D5)."""
    _thread.is_sender = True


def serve_no_customer() -> None:
    """Let this thread count as none that a customer waits for."""
    _thread.is_sender = False


class Database:
    """One engine and, on SQLite, its gate. Made once per process, after any fork."""

    def __init__(self, url: str, connections: int = CONNECTIONS) -> None:
        self.url = make_url(url)
        self.engine = _engine(self.url, connections)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._reader = self.engine.execution_options(**{MODE: "read"})
        if not self.is_sqlite:
            self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._turns = threading.BoundedSemaphore(int(SENDER_PART * connections))
        self._lock = threading.Lock()
        self._customers = 0  # threads that use it and do not send
        self._used_at = -math.inf  # by time.monotonic(), when the last one had done so
        self._gate = WriteGate(Path(f"{self.url.database}.gate")) if self.is_sqlite else None
        self._writers = Writers(self.engine, self._gate) if self._gate is not None else None

    def is_used_by_customers(self) -> bool:
        """Return True while threads of this process use the database that do not send, and a moment after that."""
        return self._customers > 0 or time.monotonic() - self._used_at < CUSTOMER_SECONDS

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Note a thread that does not send."""
        if getattr(_thread, "is_sender", None) is not None:
            yield
            return
        with self._lock:
            self._customers += 1
        try:
            yield
        finally:
            with self._lock:
                self._customers -= 1
            self._used_at = time.monotonic()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Let a sender wait until few enough others use the database. Raise TimeoutError after POOL_SECONDS."""
        if not getattr(_thread, "is_sender", False):  # also inside a turn: it is taken once
            with self._noted():
                yield
            return
        if not self._turns.acquire(timeout=POOL_SECONDS):
            raise TimeoutError(f"other senders have used the database for {POOL_SECONDS} s")
        _thread.is_sender = False
        try:
            yield
        finally:
            _thread.is_sender = True
            self._turns.release()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection for single reads; it sees what is committed, and must not write."""
        with self._turn(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield one writing transaction: it commits when the block ends and rolls back when it raises."""
        if self._writers is not None:
            with self._noted(), self._writers.write() as connection:
                yield connection
            return
        with self._turn(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write_much(self) -> Iterator[Connection]:
        """Yield a writing transaction for very many rows, as short as it can be.

        On SQLite the pages that it changes stay in memory (128 MiB at most, freed at its end), and its log is written
        into the database after the gate has opened again, while others write.
        """
        if self._gate is None:
            with self.write() as connection:
                connection.exec_driver_sql(_UNBOUNDED)
                yield connection
            return
        with self._reader.connect() as connection:
            connection.exec_driver_sql("PRAGMA cache_size=-131072")
            connection.exec_driver_sql("PRAGMA wal_autocheckpoint=0")
            try:
                with self._gate.passed(is_long=True), _as_one(connection):
                    yield connection
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
            finally:
                connection.invalidate()  # the next connection begins with the usual sizes

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """Yield a connection for migrations, of which only one process at a time has one.

        On SQLite it is in one writing transaction that may rebuild tables others refer to, as SQLite must to change a
        column; raise Misconfigured, and leave nothing, if a reference would be broken at its end. On PostgreSQL each
        migration has its own transaction, and waits at most MIGRATION_LOCK_SECONDS for a lock: those who write wait
        behind it.
        """
        if self._gate is None:
            with self._alone(), self.engine.connect() as connection:
                if not is_pooled(connection):
                    _unbind(connection, "SESSION")  # for an index that is made outside a transaction
                connection.commit()
                event.listen(connection, "begin", _begin_migration)
                try:
                    yield connection
                finally:
                    connection.invalidate()  # ends the settings
            return
        with self._gate.passed(is_long=True), self._reader.connect() as connection:
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")  # takes no effect inside a transaction
            try:
                with _as_one(connection):
                    yield connection
                    if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                        raise Misconfigured(
                            "The database could not be migrated: a row refers to one that does not exist."
                        )
            finally:
                connection.exec_driver_sql("PRAGMA foreign_keys=ON")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of migrations, and set for the portal's role how long its statements take.

        The lock belongs to a transaction, because a pooler lends a connection of the server for one; so do the
        settings of a migration. What each connection sets at its beginning may not reach the next transaction there.
        """
        with self.engine.connect() as connection:
            # Asked again and again: a statement that waits for the other's lock would keep it from making an index.
            while not connection.exec_driver_sql(_LOCK_MIGRATIONS).scalar_one():
                connection.rollback()
                time.sleep(0.2)
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            with self.write() as other, suppress(ProgrammingError):  # where a role must not do even this
                for name, seconds in BOUNDS.items():
                    set_it = f"ALTER ROLE CURRENT_USER IN DATABASE %I SET {name} = ''{seconds}s''"
                    other.execute(text(f"DO $$ BEGIN EXECUTE format('{set_it}', current_database()); END $$"))
            yield

    @property
    def file(self) -> Path | None:
        """Return SQLite's file; None for a server."""
        return Path(self.url.database or "") if self.is_sqlite else None

    def libpq(self) -> tuple[str, str]:
        """Return how libpq's programs reach a PostgreSQL server, without the password, and the password."""
        found = self.engine.dialect.create_connect_args(self.url)[1]
        values = {name: value for name, value in found.items() if isinstance(value, (str, int))}
        password = str(values.pop("password", ""))
        quoted = {name: str(value).replace("\\", "\\\\").replace("'", "\\'") for name, value in values.items()}
        return " ".join(f"{name}='{value}'" for name, value in quoted.items()), password

    def now(self, connection: Connection | None = None) -> datetime | None:
        """Return the time of the server's own clock; None for SQLite, which has only the machine's.

        No rule judges by it: it is for comparing clocks.
        """
        if self._gate is not None:
            return None
        with nullcontext(connection) if connection is not None else self.read() as asked:
            found: datetime = asked.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
            return found

    def compact(self) -> bool:
        """Empty SQLite's log, which still contains deleted data; return False if a reader is in the way."""
        if self._gate is None:
            return True  # PostgreSQL's own vacuum does it
        with self._gate.passed(), self.read() as connection:
            return not connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one()

    def close(self) -> None:
        """Close every connection and the gate."""
        if self._writers is not None:
            self._writers.close()
        self.engine.dispose()
        if self._gate is not None:
            self._gate.close()


_UNBOUNDED = "SET LOCAL statement_timeout = 0"  # the switch of an import takes as long as it takes
MIGRATION_LOCK_SECONDS = 10
_LOCK_MIGRATIONS = f"SELECT pg_try_advisory_xact_lock({0x6D6967})"  # "mig"
BOUNDS = {"statement_timeout": STATEMENT_SECONDS, "idle_in_transaction_session_timeout": IDLE_SECONDS}


def _begin_migration(connection: Connection) -> None:
    driver: Any = connection.connection.dbapi_connection
    if not driver.autocommit:
        _unbind(connection, "LOCAL")


def _unbind(connection: Connection, scope: str) -> None:
    lock = f"'{MIGRATION_LOCK_SECONDS}s'"
    connection.exec_driver_sql(f"SET {scope} statement_timeout = 0; SET {scope} lock_timeout = {lock}")


def is_pooled(connection: Connection) -> bool:
    """Report whether something like pgbouncer stands between: it answers with a process id that is not the server's."""
    driver: Any = connection.connection.dbapi_connection
    theirs: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    return theirs != int(driver.info.backend_pid)


@contextmanager
def _as_one(connection: Connection) -> Iterator[None]:
    """Run one writing transaction on a SQLite connection on which each statement otherwise stands alone."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise


# --- Statements of the hot path


class Compiled:
    """A statement that is compiled once for each dialect and then runs beneath SQLAlchemy.

    SQLAlchemy takes about 30 µs to run one that it has compiled before, more than SQLite itself, and compiles some
    kinds again each time, such as an INSERT of two rows. Each run gives values under the same names, none of them a
    list; ``GivenRows`` are what takes one. SQLite runs it on the driver's own cursor, PostgreSQL in the ``Pipeline`` of
    the connection.
    """

    def __init__(self, statement: Any) -> None:
        """Take a statement, or a function that returns the one of a dialect, by its name."""
        self.statement = statement
        self._forms: dict[str, _Form] = {}

    def run(self, connection: Connection, values: Mapping[str, Any]) -> tuple[list[Any], int]:
        """Run it; return its rows, and how many it found or changed. Raise SQLAlchemyError as a connection does."""
        form, given = self._given(connection, values)
        if (pipeline := connection.info.get(PIPELINE)) is not None:
            pipeline.add(form, given)
            found: tuple[list[Any], int] = pipeline.send(connection)
            return found
        cursor = connection.connection.cursor()
        try:
            cursor.execute(form.sql, given)
            return form.rows(cursor.fetchall()), cursor.rowcount
        except connection.dialect.loaded_dbapi.Error as fault:
            raise _fault(connection, form.sql, fault) from fault

    def run_later(self, connection: Connection, values: Mapping[str, Any]) -> None:
        """Run it before anything else runs on this connection, or the transaction commits. Raise SQLAlchemyError.

        On PostgreSQL a fault of it is raised only then.
        """
        if (pipeline := connection.info.get(PIPELINE)) is None:
            self.run(connection, values)
        else:
            pipeline.add(*self._given(connection, values))

    def _given(self, connection: Connection, values: Mapping[str, Any]) -> tuple[_Form, list[Any]]:
        """Return the form of a connection's dialect, and its parameters. Raise KeyError for one that is missing."""
        form = self._forms.get(connection.dialect.name)
        if form is None:
            dialect = connection.dialect
            statement = self.statement(dialect.name) if callable(self.statement) else self.statement
            form = self._forms[dialect.name] = _Form(statement, dialect, list(values))
        given = form.given(values)
        if listeners := connection.engine.dispatch.before_cursor_execute:
            listeners(connection, None, form.sql, given, None, False)
        return form, given


def _fault(connection: Connection, sql: str, fault: Exception) -> DBAPIError:
    """Return what SQLAlchemy raises for a fault of the driver. A connection whose server is away is replaced."""
    dialect, driver = connection.dialect, connection.connection.dbapi_connection
    error: Any = dialect.loaded_dbapi.Error
    if is_away := dialect.is_disconnect(fault, driver, None):  # type: ignore[arg-type]
        connection.invalidate(fault)
    raised: Any = DBAPIError.instance(
        sql, None, fault, error, hide_parameters=True, connection_invalidated=is_away, dialect=dialect
    )
    return cast("DBAPIError", raised)


_form_numbers = count(1)


class _Form:
    """What a compiled statement is in one dialect: its text, and how values go in and come out."""

    def __init__(self, statement: Any, dialect: Any, names: list[str]) -> None:
        if dialect.name == "postgresql":
            dialect = type(dialect)(paramstyle="numeric_dollar")
        compiled = statement.compile(dialect=dialect, column_keys=names)
        assert not compiled.post_compile_params, "the text of a list depends on its length"
        assert not compiled.prefetch, "a default would have to be computed each time"
        self.sql = str(compiled)
        self.text, self.name = self.sql.encode(), b"portal_%d" % next(_form_numbers)  # as PostgreSQL is sent them
        binds = {name: bind for bind, name in compiled.bind_names.items()}
        self._ways_in: list[tuple[str, bool, Any]] = []  # its name, and whether it is given; else its value is fixed
        for name in compiled.positiontup:
            way = binds[name].type.dialect_impl(dialect).bind_processor(dialect)
            is_given, fixed = name in names, binds[name].effective_value
            self._ways_in.append((name, is_given, way if is_given else way(fixed) if way else fixed))
        columns = list(statement.exported_columns)
        ways = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
        self._ways_out = [(place, way) for place, way in enumerate(ways) if way is not None]
        names_out = namedtuple("names_out", [column.name for column in columns])  # type: ignore[misc]
        as_mapping = property(methodcaller("_asdict"))  # as rows of SQLAlchemy have it
        self._row: Any = type("Row", (names_out,), {"__slots__": (), "_mapping": as_mapping})

    def given(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the parameters as the driver takes them. Raise KeyError for one that is missing."""
        return [
            (way(values[name]) if way else values[name]) if is_given else way for name, is_given, way in self._ways_in
        ]

    def rows(self, records: Sequence[Any]) -> list[Any]:
        """Return what was found."""
        make, ways = self._row._make, self._ways_out
        if not ways:
            return [make(record) for record in records]
        found = []
        for row in map(list, records):
            for place, way in ways:
                if row[place] is not None:
                    row[place] = way(row[place])
            found.append(make(row))
        return found


class _Step(NamedTuple):
    """One message of a pipeline, which has one answer."""

    sql: str
    put: Callable[[], None]  # puts it into libpq's buffer
    keeps: bytes | None = None  # the name under which the server keeps a statement from then on


class Pipeline:
    """The statements of one connection to PostgreSQL, below the driver's cursors, in the pipeline mode of libpq.

    A statement whose answer no one needs waits, and leaves together with the next one or with the COMMIT; BEGIN leaves
    with the first. So a transaction takes as many round trips as it needs answers. The server runs them in their order,
    and nothing after one that fails, the COMMIT included: its fault is raised by whatever it was sent with.
    """

    def __init__(self, driver: Any, *, keeps_statements: bool) -> None:
        self._driver = driver
        self._keeps_statements = keeps_statements  # a pooler gives each transaction another connection of the server
        self._kept: set[bytes] = set()
        self._waiting: list[tuple[_Form, list[Any]]] = []
        self._psycopg = importlib.import_module("psycopg")
        self._generators = importlib.import_module("psycopg.generators")
        self._values = self._psycopg.adapt.Transformer(driver)

    @staticmethod
    def keep_order(engine: Engine) -> None:
        """Let what waits on a connection leave before what SQLAlchemy itself sends there, and with its COMMIT."""

        @event.listens_for(engine, "before_cursor_execute")
        def _before(connection: Connection, cursor: object, *_: object) -> None:
            if cursor is not None:
                connection.info[PIPELINE].send(connection)

        @event.listens_for(engine, "commit")
        def _commit(connection: Connection) -> None:
            connection.info[PIPELINE].send(connection, commits=True)

    def add(self, form: _Form, given: list[Any]) -> None:
        """Let a statement wait for the next answer that is needed."""
        self._waiting.append((form, given))

    def clear(self) -> None:
        """Forget what waits: its transaction was undone."""
        self._waiting.clear()

    def send(self, connection: Connection, *, commits: bool = False) -> tuple[list[Any], int]:
        """Send what waits, and a COMMIT if a transaction is open then. Raise SQLAlchemyError.

        Return the rows of the last statement, and how many it found or changed.
        """
        if not self._waiting and not commits:
            return [], 0
        forms, steps, ok = [form for form, _given in self._waiting], list[_Step](), self._psycopg.pq.ExecStatus
        sql = forms[-1].sql if forms else "COMMIT"
        try:
            steps = list(self._steps(commits=commits))
            self._waiting.clear()
            answers = self._exchange(steps) if steps else []
            for step, answer in zip(steps, answers, strict=True):
                if answer.status not in (ok.COMMAND_OK, ok.TUPLES_OK):
                    sql = step.sql
                    raise self._psycopg.errors.error_from_result(answer)
                if step.keeps:
                    self._kept.add(step.keeps)
        except self._psycopg.Error as fault:
            self._waiting.clear()
            raise _fault(connection, sql, fault) from fault
        if commits:
            return [], 0
        if answers[-1].status != ok.TUPLES_OK:
            return [], answers[-1].command_tuples or 0
        self._values.set_pgresult(answers[-1])
        return forms[-1].rows(self._values.load_rows(0, answers[-1].ntuples, tuple)), answers[-1].ntuples

    def ask_if_alive(self) -> None:
        """Ask the server for an answer, and let it plan each statement again. Raise the driver's error."""
        pgconn = self._driver.pgconn
        (answer,) = self._exchange([_Step("", partial(pgconn.send_query_params, b"DISCARD PLANS", None))])
        if answer.status != self._psycopg.pq.ExecStatus.COMMAND_OK:
            raise self._psycopg.errors.error_from_result(answer)

    def _steps(self, *, commits: bool) -> Iterator[_Step]:
        """Yield the messages for what waits."""
        pgconn, as_text = self._driver.pgconn, self._psycopg.adapt.PyFormat.TEXT
        is_open = pgconn.transaction_status != self._psycopg.pq.TransactionStatus.IDLE
        if self._waiting and not is_open and not self._driver.autocommit:
            is_open = True
            yield _Step("BEGIN", partial(pgconn.send_query_params, b"BEGIN", None))
        kept = self._kept.copy()
        for form, given in self._waiting:
            values = self._values.dump_sequence(given, [as_text] * len(given))
            if not self._keeps_statements:
                yield _Step(form.sql, partial(pgconn.send_query_params, form.text, values))
                continue
            if form.name not in kept:
                kept.add(form.name)
                yield _Step(form.sql, partial(pgconn.send_prepare, form.name, form.text), form.name)
            yield _Step(form.sql, partial(pgconn.send_query_prepared, form.name, values))
        if commits and is_open:
            yield _Step("COMMIT", partial(pgconn.send_query_params, b"COMMIT", None))

    def _exchange(self, steps: Sequence[_Step]) -> Sequence[Any]:
        """Send messages and return their answers. Raise the driver's error if the connection is lost."""
        pgconn = self._driver.pgconn
        pgconn.enter_pipeline_mode()
        try:
            for step in steps:
                step.put()
            pgconn.pipeline_sync()
            answers: Sequence[Any] = self._driver.wait(self._answers(len(steps)))
        finally:
            try:
                pgconn.exit_pipeline_mode()
            except self._psycopg.Error:  # not all was read: the server is away, or this was interrupted
                self._driver.close()
        return answers

    def _answers(self, number: int) -> Generator[Any, Any, Sequence[Any]]:
        """Send what libpq holds, and return so many answers. Yields what it waits for, as the driver wants it."""
        pgconn, fetch = self._driver.pgconn, self._generators.fetch
        yield from self._generators.send(pgconn)
        answers = []
        for _ in range(number):
            answer = yield from fetch(pgconn)
            if answer is None:
                self._driver.close()
                raise self._psycopg.OperationalError("the server has ended the connection")
            answers.append(answer)
            yield from fetch(pgconn)  # None, after each answer
        yield from fetch(pgconn)  # that of the sync
        return answers


class GivenRows(TypeDecorator[Any]):
    """The type of rows that a statement is given as one value, so that it is compiled once for any number of them.

    The value is a list with a tuple for each row, in the order of ``columns``; it travels as one text of JSON.
    """

    impl = Text
    cache_ok = False

    def __init__(self, **columns: Any) -> None:
        super().__init__()
        self._columns = columns
        self._ways_in: dict[str, list[Any]] = {}

    def table(self, dialect: str, name: str = "given") -> Subquery:
        """Return the rows as a table for a statement that gets them under a name."""
        given, names = bindparam(name, type_=self), list(self._columns)
        if dialect == "sqlite":
            rows = func.json_each(given).table_valued("value", name=f"{name}_rows")
            found: list[Any] = [
                type_coerce(func.json_extract(rows.c.value, literal_column(f"'$[{place}]'")), self._columns[name])
                for place, name in enumerate(names)
            ]
        else:
            rows = func.json_array_elements(sql_cast(given, JSON)).table_valued("value", name=f"{name}_rows")
            found = [
                sql_cast(rows.c.value.op("->>")(literal_column(str(place))), self._columns[name])
                for place, name in enumerate(names)
            ]
        return select(*(one.label(of) for one, of in zip(found, names, strict=True))).subquery(name)

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        """Return the rows as JSON, their values as the dialect would store them."""
        ways = self._ways_in.get(dialect.name)
        if ways is None:
            kinds = [to_instance(kind).dialect_impl(dialect) for kind in self._columns.values()]
            ways = self._ways_in[dialect.name] = [kind.bind_processor(dialect) for kind in kinds]
        rows = [[way(one) if way else one for way, one in zip(ways, row, strict=True)] for row in value]
        return json.dumps(rows, default=str)


_JSON = json_parts()


def _as_json(value: object) -> str:
    """Return what a column of that type stores."""
    return "".join(_JSON(value, 0))


# --- One transaction, and what travels with it

# ``models`` declares this table in full, and imports this module.
_AUDIT_EVENTS = table(
    "audit_events",
    column("at", UtcDateTime()),
    column("facts", JSON()),
    *(column(name) for name in ("id", "kind", "verification_id", "subject_id", "admin_id", "mac")),
)
_INSERT_EVENT = Compiled(insert(_AUDIT_EVENTS))
EVENT_FIELDS = ("id", "at", "kind", "verification_id", "subject_id", "admin_id", "facts")


_BRIEFLY = Compiled(select(func.set_config("lock_timeout", str(BRIEF_MILLISECONDS), True)))


class Work:
    """A transaction in progress. ``now`` is the time at which it began (UTC), after any wait for the write gate.

    What is given to ``after`` runs once the transaction has committed, and never if it was undone; so the log reports
    only what is so. The same holds for what is counted with ``count``; ``counts`` itself counts whatever becomes of the
    transaction. What is given to ``if_undone`` runs if it was.
    """

    __slots__ = ("_collected", "connection", "counted", "counts", "execute", "following", "keyring", "now", "undoing")

    def __init__(self, connection: Connection, now: datetime, keyring: Keyring, counts: Counts) -> None:
        self.connection = connection
        self.now = now
        self.keyring = keyring
        self.counts = counts
        self.execute = connection.execute
        self.following: list[Callable[[], None]] = []
        self.undoing: list[Callable[[], None]] = []
        self.counted: list[tuple[Counted, float]] = []
        self._collected: dict[Compiled, list[dict[str, Any]]] | None = None

    def rows(self, statement: Compiled, values: Mapping[str, Any]) -> list[Any]:
        """Return the rows of a compiled statement."""
        return statement.run(self.connection, values)[0]

    def row(self, statement: Compiled, values: Mapping[str, Any]) -> Any:
        """Return the first row of a compiled statement; None without one."""
        found, _count = statement.run(self.connection, values)
        return found[0] if found else None

    def change(self, statement: Compiled, values: Mapping[str, Any]) -> int:
        """Run a compiled statement that returns nothing; return how many rows it changed."""
        return statement.run(self.connection, values)[1]

    def write(self, statement: Compiled, values: Mapping[str, Any]) -> None:
        """Run a compiled statement whose outcome does not matter here: on PostgreSQL it costs no round trip."""
        statement.run_later(self.connection, values)

    def insert(self, statement: Compiled, values: dict[str, Any]) -> None:
        """Write a row, or collect it inside ``together``."""
        if self._collected is None:
            self.write(statement, values)
        else:
            self._collected.setdefault(statement, []).append(values)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write the events and deliveries of a block at its end, all rows of a table at once: for hundreds of them."""
        self._collected = {}
        yield
        collected, self._collected = self._collected, None
        for compiled, rows in collected.items():
            self.execute(compiled.statement, rows)

    def wait_briefly(self) -> None:
        """Wait at most BRIEF_MILLISECONDS for each row that another transaction has locked; then it is a fault."""
        if self.connection.dialect.name == "postgresql":
            self.write(_BRIEFLY, {})

    def new_id(self) -> str:
        """Return the id of a new row, in the order of time."""
        return new_id(self.now)

    def seal(self, text: str, column: SealedColumn, row: str) -> bytes:
        """Encrypt a text for this column of this row."""
        return self.keyring.seal(text, column, row)

    def open(self, sealed: bytes, column: SealedColumn, row: str) -> str:
        """Return the text of a sealed column. Raise KeyFault if it does not belong there."""
        return self.keyring.open(sealed, column, row)

    def row_to_sign(self, table: Table, row_id: str) -> dict[Any, Any]:
        """Return the signed columns of a row that is about to be signed again, and lock it (R54).

        Raise NotFound if there is none, and Conflict("row_changed") if someone other than the portal has changed it:
        to sign it would accept that.
        """
        found = select(*(table.c[name] for name in signed_names(table.name))).where(table.c.id == row_id)
        row = self.execute(found.with_for_update()).one_or_none()
        if row is None:
            raise NotFound("not_found")
        if not self.keyring.holds(table.name, row._mapping):
            raise Conflict("row_changed", table=table.name, row=row_id)
        return dict(row._mapping)

    def update_signed(self, table: Table, row_id: str, **values: object) -> None:
        """Set these columns of a row and sign it again. Raise like ``row_to_sign``."""
        changed = self.keyring.signed(table.name, {**self.row_to_sign(table, row_id), **values})
        self.execute(update(table).where(table.c.id == row_id).values(changed))

    def record(
        self,
        kind: str,
        *,
        verification_id: str | None = None,
        subject_id: str | None = None,
        admin_id: str | None = None,
        **facts: object,
    ) -> None:
        """Write an audit event, in the past tense, into this transaction: it commits with what it reports.

        ``facts`` hold what JSON can hold, and no contact, reference or code: an event names people by their random
        ``subject_id`` alone. Where an admin, a program or a command acts is added to them.
        """
        came_from = origin.get()
        if came_from.is_recorded or admin_id is not None:
            facts = {**came_from.facts(), **facts}
        event: dict[str, Any] = {
            "id": new_id(self.now),
            "at": self.now,
            "kind": kind,
            "verification_id": verification_id,
            "subject_id": subject_id,
            "admin_id": admin_id,
            "facts": facts,
        }
        self.insert(_INSERT_EVENT, {**event, "mac": self.keyring.audit_mac(canonical_event(event))})

    @property
    def origin(self) -> Origin:
        """Return where the act comes from that this transaction carries out."""
        return origin.get()

    def log(self, event: str, *, level: int = logging.INFO, **fields: object) -> None:
        """Log an event after the commit; the same as ``log_event`` in every other way (D12)."""
        self.after(partial(log_event, event, level=level, **fields))

    def after(self, call: Callable[[], None]) -> None:
        """Let this run after the commit, in the order in which it was given. It must not raise."""
        self.following.append(call)

    def if_undone(self, call: Callable[[], None]) -> None:
        """Let this run if the transaction does not commit. It must not raise."""
        self.undoing.append(call)

    def count(self, name: str, *labels: str, value: float = 1, since: datetime | None = None) -> None:
        """Count after the commit; the same as ``Counts.add`` in every other way.

        What is counted by when it began, ``since``, counts for the hour of that time.
        """
        self.counted.append((Counted(name, labels, hour_of(since) if since is not None else None), value))


def parted_facts(facts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the facts of an event, and apart from them where it came from, by the names of ORIGIN_FACTS."""
    own = {name: value for name, value in facts.items() if name not in ORIGIN_FACTS}
    return own, {name: facts[name] for name in ORIGIN_FACTS if facts.get(name)}


def canonical_event(event: Mapping[str, Any]) -> str:
    """Return the one text of an audit event that its HMAC is made of, before writing and after reading it (E4)."""
    values = dict(zip(EVENT_FIELDS, map(event.__getitem__, EVENT_FIELDS), strict=True))
    if values["admin_id"] is None:
        del values["admin_id"]  # events older than this column keep their HMAC
    values["at"] = values["at"].astimezone(UTC).isoformat(timespec="microseconds")
    return "".join(_CANONICAL(values, 0))


_CANONICAL = json_parts(sort_keys=True, separators=(",", ":"))


class ClockCheck:
    """Compare the clock of the machine, whatever clock the portal was given, with the database's (D8).

    Several machines serve one database, and every deadline is judged by the clock of the machine that looks at it. One
    that is an hour ahead would end every verification of the others as expired, and have what it writes wait for an
    hour. So all compare themselves with the only clock that they share. One that differs ends and sends nothing,
    accepts nothing and shows customers nothing until it is right again.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._ahead = 0.0
        self._is_right = True
        self._checked_at: float | None = None  # by the time.monotonic() of the last check
        self._started_at = 0.0  # when time.monotonic() was 0, by the machine's clock at the last check

    def seconds_ahead(self, connection: Connection | None = None) -> float:
        """Ask the database, and return by how much the machine's clock is ahead of its clock; negative if behind.

        It is asked on ``connection``, or on one of its own.

        It is 0 for SQLite, which has no clock but the machine's. Raise SQLAlchemyError.
        """
        asked_at, asked = time.monotonic(), machine_clock()
        there = self._database.now(connection)
        took = time.monotonic() - asked_at
        if there is None:
            return 0.0
        ahead = asked - there.timestamp() + took / 2
        # The answer was made at some moment between question and arrival: only what goes beyond that is certain.
        return math.copysign(max(0.0, abs(ahead) - took / 2), ahead)

    def is_right(self, known_for: float = CHECK_SECONDS, connection: Connection | None = None) -> bool:
        """Report whether time may be judged now. Asks the database after ``known_for`` seconds, or after a jump.

        Raise SQLAlchemyError while the database is away.
        """
        now = time.monotonic()
        started_at = machine_clock() - now
        with self._lock:
            has_jumped = abs(started_at - self._started_at) > MOST_SECONDS_APART / 2
            if self._checked_at is not None and now - self._checked_at < known_for and not has_jumped:
                return self._is_right
        ahead = self.seconds_ahead(
            connection
        )  # outside the lock: while the database is silent, all wait at the same time
        with self._lock:
            was_right, self._ahead = self._is_right, ahead
            self._checked_at, self._started_at = now, started_at
            self._is_right = abs(ahead) <= (MOST_SECONDS_APART if was_right else RIGHT_SECONDS_APART)
            if was_right != self._is_right:
                event = "clock_is_wrong" if was_right else "clock_is_right"
                log_event(event, level=logging.ERROR if was_right else logging.INFO, ahead=round(ahead, 1))
            return self._is_right

    def fault(self) -> str:
        """Return why this machine must not judge time, or an empty text. Raise SQLAlchemyError."""
        if self.is_right():
            return ""
        side = "ahead of" if self._ahead > 0 else "behind"
        return f"clock: it is {abs(self._ahead):.0f} s {side} the database's; nothing is sent, ended or accepted here"


class Transactions:
    """The database of a portal together with its clock and its keys; ``machine`` tells whether the clock is right."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self.database = database
        self.keyring = keyring
        self.clock = clock
        self.machine = ClockCheck(database)
        self.counts = Counts()  # of this process, not written yet: the heartbeat does

    def _work(self, connection: Connection) -> Work:
        """Return the work of a connection. Raise WrongClock if it would be judged by one (D8).

        The time is read first: a clock that jumps after that does not matter any more.
        """
        work = Work(connection, self.clock(), self.keyring, self.counts)
        if origin.get().is_judged and not self.machine.is_right(KNOWN_SECONDS, connection):
            raise WrongClock
        return work

    @contextmanager
    def read(self) -> Iterator[Work]:
        """Yield a connection on which each statement stands alone, and which must not write. Raise WrongClock."""
        return self._carried_out(self.database.read())

    @contextmanager
    def write(self) -> Iterator[Work]:
        """Yield one writing transaction, committed at the end of the block and rolled back if it raises.

        Raise WrongClock in a request, or in the background, if it would be judged by one (D8).
        """
        return self._carried_out(self.database.write())

    @contextmanager
    def write_much(self) -> Iterator[Work]:
        """Yield one writing transaction of very many rows, as ``Database.write_much`` does."""
        return self._carried_out(self.database.write_much())

    def _carried_out(self, transaction: AbstractContextManager[Connection]) -> Iterator[Work]:
        work = None
        try:
            with transaction as connection:
                work = self._work(connection)
                yield work
        except BaseException:
            for call in work.undoing if work is not None else ():
                call()
            raise
        self.counts.noted.extend(work.counted)
        for call in work.following:
            call()


# --- The engine


def _engine(url: URL, connections: int = CONNECTIONS) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    if url.get_backend_name() == "postgresql":
        return _postgresql_engine(url, connections)
    raise Misconfigured("PORTAL_DATABASE_URL must begin with sqlite:/// or postgresql://.")


def _postgresql_engine(url: URL, connections: int) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=connections // 2,
        max_overflow=connections - connections // 2,
        pool_timeout=POOL_SECONDS,
        json_serializer=_as_json,
        hide_parameters=True,
        connect_args={
            "prepare_threshold": None,  # only a Pipeline prepares statements
            "client_encoding": "utf8",
            "connect_timeout": CONNECT_SECONDS,
            "tcp_user_timeout": SILENCE_SECONDS * 1000,
            "keepalives_idle": SILENCE_SECONDS,
            "keepalives_interval": 2,
            "keepalives_count": 2,
        },
    )

    @event.listens_for(engine, "connect")
    def _bound(connection: Any, record: Any) -> None:
        # Not as options of the connection, which pgbouncer refuses. Behind it those of the role hold: see _alone.
        if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
            raise Misconfigured(f"The database's encoding is {encoding}: create one with ENCODING 'UTF8'.")
        connection.execute("; ".join(f"SET {name} = '{seconds}s'" for name, seconds in BOUNDS.items()))
        (theirs,) = connection.execute("SELECT pg_backend_pid()").fetchone()
        connection.commit()
        # pgbouncer in transaction mode may have no prepared statements.
        record.info[PIPELINE] = Pipeline(connection, keeps_statements=theirs == connection.info.backend_pid)
        record.info["asked_at"] = record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkin")
    def _rests(_connection: object, record: Any) -> None:
        if PIPELINE in record.info:
            record.info[PIPELINE].clear()
            record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _wakes(_connection: object, record: Any, _proxy: object) -> None:
        # A server may have gone away meanwhile. Under load, asking each time would be one of five round trips.
        now = time.monotonic()
        if now - record.info["rests_since"] > REST_SECONDS or now - record.info["asked_at"] > PLAN_SECONDS:
            record.info["asked_at"] = now
            try:
                record.info[PIPELINE].ask_if_alive()
            except psycopg_error() as fault:
                raise InvalidatePoolError from fault

    Pipeline.keep_order(engine)
    return engine


@cache
def psycopg_error() -> type[Exception]:
    """Return what the driver raises; it is loaded only where PostgreSQL is used."""
    found: type[Exception] = importlib.import_module("psycopg").Error
    return found


def _sqlite_engine(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise Misconfigured("PORTAL_DATABASE_URL must name a file: an in-memory database loses every result.")
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_SECONDS, "isolation_level": None},
        pool_size=20,
        pool_timeout=POOL_SECONDS,
        json_serializer=_as_json,
        hide_parameters=True,  # values are contacts and secrets: an error must not show them
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # an answer must survive a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA secure_delete=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that reads and then writes can fail at once as "locked": writers begin as such.
        if connection.get_execution_options().get(MODE) != "read":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def expected_revision() -> str:
    """Return the newest migration that this code ships, from its file's name (the web never imports Alembic)."""
    return max(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


class TableState(NamedTuple):
    """The newest migration of the tables, the oldest code that may serve them, by its own newest, and their names."""

    revision: str
    oldest_code: str
    tables: frozenset[str] = frozenset()

    def fault(self) -> str:
        """Return why this code must not serve the tables, for the middle of a sentence, or an empty text."""
        expected = expected_revision()
        if self.oldest_code <= expected <= self.revision:
            return ""
        at = f"the database is at migration {self.revision}"
        if expected > self.revision:
            return f"{at}, this version needs {expected}. Run `auth-portal db upgrade`."
        return (
            f"{at}, which serves versions from {self.oldest_code} on; this one is {expected}. Start the version that "
            "upgraded it, or restore the backup made before."
        )


def table_state(connection: Connection) -> TableState:
    """Return what the tables are. Raise ProgrammingError or OperationalError if there are none of ours."""
    if inspect(connection).has_table("schema_state"):
        for found in connection.execute(text("SELECT revision, oldest_code, tables FROM schema_state")):
            return TableState(found.revision, found.oldest_code, frozenset(found.tables.split()))
    revision = str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "0000")
    return TableState(revision, revision)


def write_revision(connection: Connection, revision: str, *, only_later: bool) -> None:
    """Write where Alembic reads it which migration the tables are at; with ``only_later`` never an earlier one."""
    values = {"revision": revision, "below": revision if only_later else "9999"}
    connection.execute(text("UPDATE alembic_version SET version_num = :revision WHERE version_num < :below"), values)


def is_unfinished(connection: Connection) -> bool:
    """Report whether a backup was being put back into this PostgreSQL database, and that did not end."""
    return connection.execute(text("SELECT to_regclass(:name)"), {"name": UNFINISHED}).scalar() is not None


def schema_fault(url: str) -> str | None:
    """Return why this database cannot be served, in one line, or None. Connects, looks and closes again.

    Raise DatabaseAway if it cannot be reached.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return f"There is no database at {parsed.database}. Run `auth-portal init`."
    engine = _engine(parsed)
    try:
        with engine.connect() as connection:
            if parsed.get_backend_name() == "postgresql" and is_unfinished(connection):
                return "A backup was being restored into this database, and that did not end. Run the restore again."
            fault = table_state(connection).fault()
    except DBAPIError as error:
        raise unusable(error, " Run `auth-portal doctor`.") from None
    finally:
        engine.dispose()
    return fault[:1].upper() + fault[1:] if fault else None


def unusable(error: DBAPIError, advice: str = "") -> Misconfigured:
    """Return the fault of a database that cannot be used: DatabaseAway, unless it answers and lacks our tables."""
    reason = plain_reason(error)
    is_away = isinstance(error, (OperationalError, InterfaceError, InternalError)) and "no such table" not in reason
    return (DatabaseAway if is_away else Misconfigured)(f"The database cannot be used: {reason}.{advice}")


def plain_reason(error: SQLAlchemyError) -> str:
    """Return the database's own first line, without the statement and its values."""
    origin = getattr(error, "orig", None)
    return str(origin or type(error).__name__).strip().splitlines()[0].rstrip(".")


def dialect_insert(dialect: str, table: Table) -> Any:
    """Return the INSERT of a dialect that supports ON CONFLICT; SQLite and PostgreSQL write it alike."""
    return (sqlite_insert if dialect == "sqlite" else postgresql_insert)(table)
