"""Backups of the database: make one while the portal serves, and put one back.

A backup is a file and a manifest of the same name, a JSON file that is written last. The keys are in neither: the
manifest names those that open it, and is signed with the database's own. A database that was put back is complete, or
is not served. Only the commands load this module: it starts PostgreSQL's own programs, which nothing else here does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Connection, column, func, make_url, select, table, text
from sqlalchemy.exc import SQLAlchemyError

from auth_portal.crypto import KeyFault, Keyring, MasterKeys
from auth_portal.errors import Misconfigured
from auth_portal.services.operations.health import machine_at_work
from auth_portal.services.operations.installation import BACKUP_MADE, TABLES, make_servable, plain_faults
from auth_portal.settings import KEYS_FILE, VERSION, Settings, environment_of_programs
from auth_portal.store.db import (
    UNFINISHED,
    ClockCheck,
    Database,
    Transactions,
    expected_revision,
    is_pooled,
    is_unfinished,
    table_state,
)
from auth_portal.store.keys import WrappedKey, master_ids, open_keys

NAME = "portal-"  # how the names of backups begin
MANIFEST = ".json"
WORKPLACE = ".auth-portal-"  # how a folder begins in which files are made before they are moved to their place
ASIDE = "before_restore_"  # how the schema begins that has what was in place before; SQLite's file has it in its name
RESTORE_LOCK = 0x726573  # the number of PostgreSQL's advisory lock, "res"
PROGRAM_NAME = "auth-portal restore"  # of a session on PostgreSQL
# A portal without a row in these tables is empty. Each is asked for alone: an interrupted installation lacks some.
DATA = {
    "customers": "SELECT 1 FROM customers LIMIT 1",
    "admins": "SELECT 1 FROM admins LIMIT 1",
    "journeys": "SELECT 1 FROM journeys LIMIT 1",
    "channels": "SELECT 1 FROM channels LIMIT 1",
    "verifications": "SELECT 1 FROM verifications LIMIT 1",
}
NOTHING_CHANGED = "Stop all servers and dispatchers, then run this again; nothing was changed."


class Manifest(BaseModel):
    """What is known of a backup without opening it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    kind: str
    made_at: datetime
    version: str
    revision: str
    size: int
    sha256: str
    keys: tuple[str, ...]  # the ids of the master keys that open it
    mac: str = ""

    def is_of(self, keyring: Keyring) -> bool:
        """Report whether the database of these data keys has signed this."""
        return keyring.is_mac(self.mac, "backup", self.unsigned)

    @property
    def unsigned(self) -> str:
        """Return what is signed."""
        return self.model_dump_json(exclude={"mac"})


class Contents(NamedTuple):
    """What a backup itself says: the revision of its tables and the wrapped data keys."""

    revision: str
    keys: Sequence[WrappedKey]


class Engine(Protocol):
    """What a kind of database does."""

    kind: str
    ending: str

    def write(self, path: Path) -> None:
        """Write a checked backup into an empty file."""

    def contents(self, path: Path) -> Contents:
        """Return what a backup says. Raise Misconfigured if it cannot be read."""

    def alone(self, clock: Callable[[], datetime]) -> AbstractContextManager[None]:
        """Keep all others out. Raise Misconfigured if a process of the portal uses the database."""

    def has_data(self) -> bool:
        """Report whether something would be replaced."""

    def put(self, path: Path, settings: Settings, clock: Callable[[], datetime]) -> tuple[dict[str, int], str]:
        """Put a backup in the database's place, upgraded and closed; or raise, and leave the database as it was.

        Return what was closed, by its name, and where what was there before is stored, "" if nothing was there.
        """


# --- Making one


class Made(NamedTuple):
    """A backup that was made, and how many older ones were removed."""

    path: Path
    size: int
    removed: int


def back_up(settings: Settings, transactions: Transactions, folder: Path, keep: int | None) -> Made:
    """Make a backup in a folder while the portal serves. With ``keep``, remove all but so many newest ones from it.

    Raise Misconfigured in one line; then the folder has no part of a backup.
    """
    with plain_faults():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = engine_of(settings)
        with workplace(folder) as place:
            made = _write(engine, place, transactions)
            described = Path(made.file).with_suffix(MANIFEST)
            write_durably(place / described, f"{made.model_dump_json(indent=2)}\n".encode())
            for name in (made.file, described):  # a file counts once it has a manifest
                (place / name).replace(folder / name)
            sync(folder)
        with transactions.write() as work:
            work.record(BACKUP_MADE, file=made.file, size=made.size)
        older = own_backups(folder, transactions.keyring)[:-keep] if keep else []
        for manifest in older:
            (folder / manifest.file).unlink(missing_ok=True)
            (folder / manifest.file).with_suffix(MANIFEST).unlink()
    return Made(folder / made.file, made.size, len(older))


def _write(engine: Engine, place: Path, transactions: Transactions) -> Manifest:
    """Write the file of a backup, and return its manifest."""
    now = transactions.clock().astimezone(UTC)
    path = place / f"{NAME}{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}{engine.ending}"
    write_durably(path, b"")
    engine.write(path)
    sync(path)
    size, digest = measure(path)
    contents = engine.contents(path)
    manifest = Manifest(
        file=path.name,
        kind=engine.kind,
        made_at=now,
        version=VERSION,
        revision=contents.revision,
        size=size,
        sha256=digest,
        keys=tuple(master_ids(contents.keys)),
    )
    return manifest.model_copy(update={"mac": transactions.keyring.mac("backup", manifest.unsigned)})


def own_backups(folder: Path, keyring: Keyring) -> list[Manifest]:
    """Return the backups in a folder that this portal has made, the oldest first."""
    found = []
    for path in folder.glob(f"{NAME}*{MANIFEST}"):
        with suppress(Misconfigured, OSError):
            manifest = read_manifest(path)
            if manifest.is_of(keyring):
                found.append(manifest)
    return sorted(found, key=lambda manifest: (manifest.made_at, manifest.file))


def place_of_keys(settings: Settings) -> str:
    """Return where the master keys are, which no backup contains."""
    return "PORTAL_SECRET_KEYS" if settings.secret_keys else str((settings.instance / KEYS_FILE).absolute())


# --- Putting one back


class Restored(NamedTuple):
    """What was put back, what was closed in it, and where what was there before is stored."""

    manifest: Manifest
    counts: dict[str, int]
    aside: str


def restore(settings: Settings, clock: Callable[[], datetime], place: Path, agrees: Callable[[str], bool]) -> Restored:
    """Put a backup, or the newest one of a folder, in the place of the database, ready to be served.

    ``agrees`` is asked before data is replaced. Raise Misconfigured in one line; then nothing was changed. Killed at
    any moment, this leaves the old database, the new one, or one that is not served until a restore has ended.
    """
    with plain_faults():
        manifest, path = chosen(place)
        engine = engine_of(settings)
        check(manifest, path, engine, settings)
        with engine.alone(clock):
            question = (
                f"The database {make_url(settings.database).render_as_string()} has data. Store that aside, and "
                f"replace it with {manifest.file}, made on {manifest.made_at:%Y-%m-%d at %H:%M:%S} UTC?"
            )
            if engine.has_data() and not agrees(question):
                raise Misconfigured(
                    "Nothing was restored: the database has data. Use an empty database, or add --yes: what is there "
                    "is then stored aside."
                )
            counts, aside = engine.put(path, settings, clock)
    return Restored(manifest, counts, aside)


def chosen(place: Path) -> tuple[Manifest, Path]:
    """Return the manifest and file of a backup, or of the newest one in a folder. Raise Misconfigured."""
    if not place.is_dir():
        described = place.with_suffix(MANIFEST)
        if place.exists() and not described.exists():
            raise Misconfigured(f"{place} has no manifest: put {described.name}, which was made with it, next to it.")
        manifest = read_manifest(described)
    else:
        found = [read_manifest(path) for path in place.glob(f"{NAME}*{MANIFEST}")]
        if not found:
            raise Misconfigured(f"There is no backup in {place}: a file {NAME}… and its manifest, {NAME}…{MANIFEST}.")
        manifest = max(found, key=lambda manifest: (manifest.made_at, manifest.file))
        place = place / manifest.file
    return manifest, place


def read_manifest(path: Path) -> Manifest:
    """Return a manifest. Raise Misconfigured if it is none, and OSError."""
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError:
        raise Misconfigured(f"{path} is not the manifest of a backup, or was changed.") from None
    if Path(manifest.file).with_suffix(MANIFEST).name != path.name or Path(manifest.file).name != manifest.file:
        raise Misconfigured(f"{path} is the manifest of {manifest.file}: give both their own names again.")
    return manifest


def check(manifest: Manifest, path: Path, engine: Engine, settings: Settings) -> None:
    """Raise Misconfigured if a backup cannot be put back here, or is not as it was made."""
    if manifest.kind != engine.kind:
        raise Misconfigured(
            f"{path.name} is of a database of the kind {manifest.kind}; PORTAL_DATABASE_URL names one of the kind "
            f"{engine.kind}."
        )
    if manifest.revision > expected_revision():
        raise Misconfigured(
            f"{path.name} has tables of a newer version ({manifest.revision}, this one knows {expected_revision()}): "
            f"install version {manifest.version} or a later one."
        )
    size, digest = measure(path)
    if size != manifest.size:
        raise Misconfigured(f"{path.name} is damaged: it has {size} bytes instead of {manifest.size}. Use another one.")
    if digest != manifest.sha256:
        raise Misconfigured(f"{path.name} is damaged: its checksum is not the one in the manifest. Use another one.")
    contents, master = engine.contents(path), MasterKeys(settings.master_keys())
    if missing := set(master_ids(contents.keys)) - master.ids:
        raise Misconfigured(
            f"{path.name} was made with other keys: {', '.join(sorted(missing))}. {place_of_keys(settings)} has "
            f"{', '.join(sorted(master.ids))}. Put back the keys that belong to the backup; nothing was changed."
        )
    try:
        keyring, _has_macs = open_keys(contents.keys, master)
    except KeyFault as fault:
        raise Misconfigured(f"{path.name} is damaged: {fault}. Use another one.") from None
    if not manifest.is_of(keyring):
        raise Misconfigured(f"{path.name}: someone has changed its manifest, or both. Use another one.")


# --- SQLite


class SqliteEngine:
    """SQLite: a backup is a database file."""

    kind = "sqlite"
    ending = ".db"

    def __init__(self, file: Path) -> None:
        self._file = file
        self._held: sqlite3.Connection | None = None  # what is in place, closed to all others; None if it is unreadable

    def write(self, path: Path) -> None:
        """Write one moment of the database, while others write it. A plain copy would mix several."""
        try:
            with closing(sqlite3.connect(self._file)) as live, closing(sqlite3.connect(path)) as copy:
                live.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")  # all of it in one file
                faults = [fault for (fault,) in copy.execute("PRAGMA quick_check")]
        except sqlite3.Error as error:
            raise Misconfigured(f"The backup could not be written: {error}.") from None
        if faults != ["ok"]:
            raise Misconfigured(f"The database is damaged, so no backup was made: {' '.join(faults[0].split())}.")

    def contents(self, path: Path) -> Contents:
        """Return what a backup says."""
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as copy:
                (revision,) = copy.execute("SELECT version_num FROM alembic_version").fetchone()
                rows = copy.execute("SELECT id, purpose, wrapped FROM keys").fetchall()
        except (sqlite3.Error, TypeError) as error:
            raise Misconfigured(f"{path.name} is not a backup of a portal: {error}.") from None
        return Contents(revision, [WrappedKey(*row) for row in rows])

    @contextmanager
    def alone(self, clock: Callable[[], datetime]) -> Iterator[None]:
        """Keep all others out, by a lock on the file: every process of the portal holds it open."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._file.exists():
            yield
            return
        with closing(sqlite3.connect(self._file, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")
                connection.execute("PRAGMA journal_mode=DELETE")  # also puts what is in the log into the file
                connection.execute("BEGIN EXCLUSIVE")
                self._held = connection
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise Misconfigured(f"Another process uses {self._file}. {NOTHING_CHANGED}") from None
            except sqlite3.DatabaseError:
                pass  # damaged: perhaps the very reason for the restore
            yield
            self._held = None

    def has_data(self) -> bool:
        """Report whether there is a database that is not empty, or one that cannot be read."""
        if self._held is None:
            return self._file.exists()
        tables = {name for (name,) in self._held.execute("SELECT name FROM sqlite_master")}
        return any(self._held.execute(asked).fetchone() for name, asked in DATA.items() if name in tables)

    def put(self, path: Path, settings: Settings, clock: Callable[[], datetime]) -> tuple[dict[str, int], str]:
        """Make the new database complete in a folder of its own, then move it into its place."""
        with workplace(self._file.parent) as place:
            draft = place / self._file.name
            write_durably(draft, b"")
            shutil.copyfile(path, draft)
            there = settings.model_copy(update={"database_url": f"sqlite:///{draft.absolute()}"})
            counts = make_servable(there, clock, along_with=lambda _work: None)
            with closing(sqlite3.connect(draft)) as connection:
                connection.execute("PRAGMA journal_mode=DELETE")
            sync(draft)
            aside = self._set_aside() if self._file.exists() else ""
            draft.replace(self._file)
            sync(self._file.parent)
        return counts, aside

    def _set_aside(self) -> str:
        """Give what is in place another name as well; it keeps its own until it is replaced."""
        aside = self._file.with_name(f"{self._file.name}.{ASIDE}{secrets.token_hex(3)}")
        if self._held is None:
            for ending in ("-wal", "-shm", "-journal"):  # a log that stayed would be read into the new database
                with suppress(FileNotFoundError):
                    Path(f"{self._file}{ending}").rename(f"{aside}{ending}")
        os.link(self._file, aside)
        return str(aside)


# --- PostgreSQL


class PostgresEngine:
    """PostgreSQL: a backup is an archive of pg_dump, in its custom format."""

    kind = "postgresql"
    ending = ".dump"

    def __init__(self, url: str) -> None:
        self._url = url

    def write(self, path: Path) -> None:
        """Write one moment of the database, while others write it; ``contents`` then reads it back."""
        with closing(Database(self._url)) as database, database.read() as connection:
            require_direct(connection)
            server = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10000
            tables = own_tables(connection)
        needed = f"install the client programs of PostgreSQL {server} or later (Debian: postgresql-client)"
        program = shutil.which("pg_dump")
        if program is None:
            raise Misconfigured(f"pg_dump is not on PATH: {needed}.")
        found = re.search(r"\) (\d+)", run("pg_dump", "--version"))
        if found is None or int(found[1]) < server:
            raise Misconfigured(f"{program} is older than the server: {needed}, and put them first on PATH.")
        self._run_here("pg_dump", "--format=custom", f"--file={path}", *(f"--table={name}" for name in tables))

    def contents(self, path: Path) -> Contents:
        """Return what a backup says."""
        asked = ("--data-only", "--table=keys", "--table=alembic_version", "--file=-", str(path))
        copied = run("pg_restore", *asked)
        try:
            ((revision,),) = copied_rows(copied, "alembic_version", "version_num")
            rows = copied_rows(copied, "keys", "id", "purpose", "wrapped")
            keys = [WrappedKey(int(row), purpose, bytes.fromhex(wrapped[3:])) for row, purpose, wrapped in rows]
        except (LookupError, ValueError):
            raise Misconfigured(f"{path.name} is not a backup of a portal.") from None
        return Contents(revision, keys)

    @contextmanager
    def alone(self, clock: Callable[[], datetime]) -> Iterator[None]:
        """Keep other restores out, and end what a killed one left; find servers and dispatchers by what they write.

        From the moment at which ``put`` begins, no process of the portal starts.
        """
        with closing(Database(self._url)) as database, database.read() as connection:
            require_direct(connection)
            if not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({RESTORE_LOCK})").scalar_one():
                raise Misconfigured("Another restore into this database is at work.")
            connection.execute(_END_PROGRAMS, {"name": PROGRAM_NAME})
            if fault := ClockCheck(database).fault():
                raise Misconfigured(f"{fault}; set this machine's clock and run the command again")
            tables = own_tables(connection)
            if "counters" in tables and (machine := machine_at_work(database, clock())):
                raise Misconfigured(f"A server or dispatcher on {machine} uses this database. {NOTHING_CHANGED}")
            self._is_empty = is_unfinished(connection) or not any(
                connection.exec_driver_sql(asked).first() for name, asked in DATA.items() if name in tables
            )
            yield

    def has_data(self) -> bool:
        """Report whether the portal's tables have rows, but for those of a restore that did not end."""
        return not self._is_empty

    def put(self, path: Path, settings: Settings, clock: Callable[[], datetime]) -> tuple[dict[str, int], str]:
        """Put the tables aside and the new ones in their place; meanwhile a mark keeps the portal from serving them."""
        with closing(Database(self._url)) as database:
            aside = self._set_aside(database)
            try:
                options = ("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", "--no-comments")
                self._run_here("pg_restore", *options, str(path))
                with database.read() as connection:
                    require_tables(connection)
                counts = make_servable(settings, clock, along_with=lambda work: work.execute(_UNMARK))
            except BaseException:
                with suppress(SQLAlchemyError):  # then the mark stays
                    self._put_back(database)
                raise
        return counts, f"the schema {aside} of the same database" if aside else ""

    def _set_aside(self, database: Database) -> str:
        """Mark the database, and move its tables into a schema of their own; return its name, "" if there were none.

        After a restore that did not end, they are there already, and what it has put in place is dropped.
        """
        with database.write() as connection:
            tables = own_tables(connection)
            if is_unfinished(connection):
                drop_tables(connection)
                return str(connection.execute(_MARKED).one().aside)
            aside = f"{ASIDE}{secrets.token_hex(6)}" if tables else ""
            connection.exec_driver_sql(f"CREATE TABLE {UNFINISHED} (aside text NOT NULL)")
            connection.execute(_MARK.insert().values(aside=aside))
            if aside:
                connection.exec_driver_sql(f"CREATE SCHEMA {aside}")
            for name in tables:
                connection.exec_driver_sql(f'ALTER TABLE "{name}" SET SCHEMA {aside}')
        return aside

    def _put_back(self, database: Database) -> None:
        """Undo ``_set_aside``."""
        with database.write() as connection:
            aside, schema = connection.execute(_MARKED).one()
            drop_tables(connection)
            if aside:
                for name in own_tables(connection, aside):
                    connection.exec_driver_sql(f'ALTER TABLE {aside}."{name}" SET SCHEMA "{schema}"')
                connection.exec_driver_sql(f"DROP SCHEMA {aside}")
            connection.execute(_UNMARK)

    def _run_here(self, program: str, *options: str) -> None:
        """Run a program of PostgreSQL with this database; only its own user can see the password."""
        with closing(Database(self._url)) as database:
            place, password = database.libpq()
        secret = {"PGPASSWORD": password} if password else {}
        run(program, "--no-password", f"--dbname={place}", *options, PGAPPNAME=PROGRAM_NAME, **secret)


_MARK = table(UNFINISHED, column("aside"))
_MARKED = select(_MARK.c.aside, func.current_schema())
_UNMARK = text(f"DROP TABLE {UNFINISHED}")
_END_PROGRAMS = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND usename = current_user AND application_name = :name"
)
_TABLES = text(
    "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')"
    " AND relnamespace = coalesce(:schema, current_schema())::regnamespace ORDER BY relname"
)


def own_tables(connection: Connection, schema: str | None = None) -> list[str]:
    """Return the names of the portal's tables where this user's are, or of all in a schema that a restore made.

    Those of a later version are the portal's, too, after a rollback.
    """
    names = list(connection.execute(_TABLES, {"schema": schema}).scalars())
    if schema is not None:
        return names
    known = TABLES | table_state(connection).tables if "schema_state" in names else TABLES
    return [name for name in names if name in known]


def require_direct(connection: Connection) -> None:
    """Raise Misconfigured behind a pooler: settings that PostgreSQL's programs make there reach the portal, too."""
    if is_pooled(connection):
        raise Misconfigured(
            "PORTAL_DATABASE_URL leads to a pooler such as pgbouncer. Set it to the address of the PostgreSQL server "
            "for this command."
        )


def require_tables(connection: Connection) -> None:
    """Raise Misconfigured if a backup's tables are not where this user looks for them: others would be made there."""
    if not {"alembic_version", *DATA} <= set(own_tables(connection)):
        raise Misconfigured("The backup's tables are in a schema that is not the first one in this user's search_path.")


def drop_tables(connection: Connection) -> None:
    """Drop the portal's tables."""
    for name in own_tables(connection):
        connection.exec_driver_sql(f'DROP TABLE "{name}" CASCADE')


def copied_rows(copied: str, name: str, *columns: str) -> list[list[str]]:
    """Return columns of a table from what pg_restore writes as text. Raise LookupError or ValueError without it."""
    found = re.search(rf"^COPY \S*\b{name} \((.*)\) FROM stdin;\n((?:.*\n)*?)\\\.$", copied, re.MULTILINE)
    if found is None:
        raise LookupError(name)
    places = [found[1].split(", ").index(wanted) for wanted in columns]
    return [[line.split("\t")[place] for place in places] for line in found[2].splitlines()]


def run(program: str, *options: str, **environment: str) -> str:
    """Run a program of PostgreSQL, and return what it prints. Raise Misconfigured with its first error."""
    found = shutil.which(program)
    if found is None:
        raise Misconfigured(
            f"{program} is not on PATH: install PostgreSQL's client programs (Debian: postgresql-client)."
        )
    done = subprocess.run(  # noqa: S603 - no shell, and every option is made here
        [found, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment_of_programs(**environment),
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        lines = [line for line in lines if "error:" in line] or lines or [f"it ended with {done.returncode}"]
        raise Misconfigured(f"{program} failed: {lines[0].removeprefix(f'{program}: error: ')}.")
    return done.stdout


# --- Files


def engine_of(settings: Settings) -> Engine:
    """Return what backs up and puts back the database of these settings."""
    url = make_url(settings.database)
    if url.get_backend_name() == SqliteEngine.kind:
        return SqliteEngine(Path(url.database or "").absolute())
    return PostgresEngine(settings.database)


@contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """Yield a folder in which files are made before they are moved; remove it at the end, and those of killed commands.

    A command at work has a lock on its own.
    """
    for left in folder.glob(f"{WORKPLACE}*"):
        with suppress(OSError), locked(left):
            shutil.rmtree(left)
    made = Path(tempfile.mkdtemp(prefix=WORKPLACE, dir=folder))
    try:
        with locked(made):
            yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. Raise BlockingIOError if another process has it."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)


def measure(path: Path) -> tuple[int, str]:
    """Return the size of a file and its SHA-256 (hex)."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Let a file or a folder's entries survive a power cut."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
