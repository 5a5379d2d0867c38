"""Set a portal up and keep it usable: the instance folder, the keys and the tables; and examine all that it needs.

Only the commands that need it load it, because it loads Alembic. Nothing here overwrites a key: with a lost key, all
that was sealed with it is lost. The examination sends no message and no callback.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import LargeBinary, Select, and_, cast, delete, func, make_url, or_, select, text, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from auth_portal.clock import Clock, iso
from auth_portal.crypto import KEY_BYTES, OLD_MACS, KeyFault, Keyring, MasterKeys
from auth_portal.errors import Misconfigured
from auth_portal.gateways.channels import Handover, open_channel
from auth_portal.gateways.flow import REACHABLE, FlowGateway
from auth_portal.gateways.way_out import WayOut
from auth_portal.services.audit_chain import AuditStream, begin_chain, chain_fault, restart_chain
from auth_portal.services.config.snapshot import Journeys, Snapshot
from auth_portal.services.directory.batches import read_ids_again, shared_ids, untrusted_rows
from auth_portal.settings import KEYS_FILE, Settings
from auth_portal.store.db import (
    BOUNDS,
    MIGRATIONS,
    Database,
    Transactions,
    Work,
    expected_revision,
    is_pooled,
    plain_reason,
    schema_fault,
    table_state,
    write_revision,
)
from auth_portal.store.keys import (
    MACS_AT_ONCE,
    BrokenRow,
    are_open,
    broken_rows,
    furnish,
    has_data_keys,
    load_keyring,
    open_macs,
    seal_macs,
    seal_tables,
    state_fault,
    update_signed,
    wrap_again,
)
from auth_portal.store.models import (
    CALLBACK,
    EVENT,
    MESSAGE,
    RARE_KIND,
    Admin,
    AdminLink,
    AdminSession,
    AlertRow,
    ApiAnswer,
    AuditBlock,
    AuditEvent,
    Base,
    Challenge,
    ChangeFeed,
    CredentialLink,
    CustomerRow,
    Delivery,
    DeliveryState,
    Portal,
    TicketRow,
    Verification,
    Visit,
)

CLOCK_SECONDS = 5.0  # codes of an authenticator app tolerate 30, the chat clock hardly any
TOTP_STEP_SECONDS = 30  # RFC 6238 5.2
RESTORED = "the database was restored from a backup"  # the detail of what was under way then
MACS, MACS_OF_CHATS = "0007", "0008"  # the migrations
_IS_MARKED = select(Portal.id).where(Portal.macs == OLD_MACS)
CHAIN_SECONDS = 10  # for another process that has made the keys to begin the chain
SHARED_NAMED = 10  # customer IDs that several customers share, named in one line
MOST_NAMED = 20  # rows in the doctor's line
TABLES = frozenset({"alembic_version", *Base.metadata.tables})  # the portal's own
BACKUP_MADE = "backup_made"  # the audit event
BACKUP_AGE = timedelta(days=7)  # of the newest one: beyond it the doctor warns
NO_EARLIER = datetime(2026, 1, 1, tzinfo=UTC)


def initialise(settings: Settings, clock: Clock) -> list[str]:
    """Create whatever of a portal does not exist yet; return what was created, one line each.

    The instance folder (0700), the key file (0600), the tables, the data keys and the portal's row. Safe to run
    again, and on several machines at once. Raise Misconfigured in one line.
    """
    lines = []
    with plain_faults():
        if not settings.instance.is_dir():
            settings.instance.mkdir(mode=0o700, parents=True, exist_ok=True)
            lines.append(f"Created the folder {settings.instance}.")
        url = make_url(settings.database)
        if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
            Path(url.database).touch(mode=0o600)  # for its owner alone; SQLite gives its other files the same mode
        with closing(Database(settings.database)) as database:
            _migrate(database)
            with database.read() as connection:
                is_furnished = has_data_keys(connection)
            path = settings.instance / KEYS_FILE
            if not settings.secret_keys and not path.exists():
                if is_furnished:
                    raise Misconfigured(
                        f"The database has data keys, but {path} is missing and PORTAL_SECRET_KEYS is not set. "
                        "Put back the keys that belong to this database; a new key could not read anything in it."
                    )
                if _write_key(path):
                    lines.append(f"Wrote a key to {path}. Store a copy of it, apart from the backups.")
            master = MasterKeys(settings.master_keys())
            is_ours = furnish(database, master, clock())
            if is_ours:
                lines.append("The database is ready.")
            keyring = load_keyring(database, master)
            _finish_upgrade(Transactions(database, keyring, clock), is_new=is_ours)
            read_ids_again(database, lambda: keyring)
            _require_chain(database, CHAIN_SECONDS)
    return lines


def upgrade(settings: Settings, clock: Clock) -> None:
    """Migrate the tables to what this version needs. Raise Misconfigured in one line.

    A database of a version that did not seal the audit trail gets the first block (E4), which says what was there.
    Where MACs are required already, rows of chats get those that the migration has added: otherwise they would end.
    """
    with plain_faults(), closing(Database(settings.database)) as database:
        before = _migrate(database)

        def keyring() -> Keyring:
            return load_keyring(database, MasterKeys(settings.master_keys()))

        with database.read() as connection:
            if not has_data_keys(connection):  # `auth-portal init` does the rest
                return
            is_marked = connection.execute(_IS_MARKED).first() is not None
        if is_marked:
            _finish_upgrade(Transactions(database, keyring(), clock), is_new=False)
        elif before is not None and before < MACS_OF_CHATS:
            seal_tables(Transactions(database, keyring(), clock))
        read_ids_again(database, keyring)
        _require_chain(database, 0)


def _finish_upgrade(transactions: Transactions, *, is_new: bool) -> None:
    """Begin the chain of the audit trail and let missing MACs pass, where the migration left its mark for that.

    An upgrade that was interrupted left the mark, so the next one goes on from there.
    """
    with transactions.write() as work:
        if is_new or work.execute(_IS_MARKED).first() is not None:
            begin_chain(work)
        open_macs(work)


def _require_chain(database: Database, seconds: float) -> None:
    """Raise Misconfigured if the audit trail has no chain; wait for one that another `auth-portal init` begins now.

    Only the command that makes the tables or the keys begins a chain. Otherwise the next deployment would hide that
    someone deleted it together with the events.
    """
    until = time.monotonic() + seconds
    while True:
        with database.read() as connection:
            if connection.execute(select(AuditBlock.number).limit(1)).first() is not None:
                return
        if time.monotonic() >= until:
            raise Misconfigured(
                "The tables are ready, but the chain of the audit trail is missing: it was deleted, or an upgrade was "
                "interrupted. Find out which; then begin another one with `auth-portal audit restart`."
            )
        time.sleep(0.1)


def schema_faults(settings: Settings) -> list[str]:
    """Return how the database differs from what this version needs, one line each.

    Raise Misconfigured if it cannot be reached.
    """
    with plain_faults():
        if fault := schema_fault(settings.database):
            return [fault]
        with closing(Database(settings.database)) as database:
            with database.read() as connection:
                if table_state(connection).revision > expected_revision():
                    return []  # they say that they have what this code needs
            return [f"The tables differ from the code: {found}." for found in differences(database)]


def differences(database: Database) -> list[str]:
    """Return how the tables differ from the models, one line each; empty if they agree."""
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [str(found) for found in compare_metadata(context, Base.metadata)]


def _migrate(database: Database) -> str | None:
    """Migrate the tables to what this version needs. Raise Misconfigured if the database refuses.

    Return the migration from which they really were, None if there were none: neither what `stamp` has written nor what
    someone else writes there makes rows be signed that were signed before (R54).
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    try:
        with database.write() as connection:
            context = MigrationContext.configure(connection)
            if context.get_current_revision() is not None:
                state = table_state(connection)
                if state.revision > expected_revision():
                    if fault := state.fault():
                        raise Misconfigured(f"{fault[:1].upper()}{fault[1:]}")
                    return state.revision  # after a rollback
                write_revision(connection, state.revision, only_later=True)
            before = context.get_current_revision()
        with database.migrating() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        raise Misconfigured(f"The database could not be migrated: {plain_reason(error)}.") from None
    return before


def stamp(settings: Settings, revision: str) -> None:
    """Let 0.1.0 start, which looks for its own migration alone: write it where Alembic does, until the next upgrade.

    Later versions ask ``schema_state`` whether they may serve, and do not need this. Raise Misconfigured, and write
    nothing, if the version may not serve.
    """
    with plain_faults(), closing(Database(settings.database)) as database:
        keyring = load_keyring(database, MasterKeys(settings.master_keys()), require_macs=settings.require_macs)
        with database.write() as connection:
            state = table_state(connection)
            if not (state.oldest_code <= revision <= state.revision):
                raise Misconfigured(
                    f"The tables are at migration {state.revision} and serve versions from {state.oldest_code} on, "
                    f"not {revision}."
                )
            if revision < MACS and keyring.requires_macs:
                raise Misconfigured(
                    "MACs are required in this database, and a version before them writes rows without: they would be "
                    "refused after the next upgrade. Restore the backup that was made before the upgrade."
                )
            write_revision(connection, revision, only_later=False)


def make_servable(settings: Settings, clock: Clock, along_with: Callable[[Work], object]) -> dict[str, int]:
    """Upgrade the tables of a database that comes from a backup, and make it safe to serve, like ``close_restored``."""
    upgrade(settings, clock)
    with closing(Database(settings.database)) as database:
        keyring = load_keyring(database, MasterKeys(settings.master_keys()), require_macs=settings.require_macs)
        return close_restored(Transactions(database, keyring, clock), along_with)


def close_restored(
    transactions: Transactions, along_with: Callable[[Work], object] = lambda _work: None
) -> dict[str, int]:
    """Make a database that was restored from a backup safe to serve; return what was changed, counted by its name.

    It is one transaction, and ``along_with`` commits with it. Raise SQLAlchemyError if the database cannot be written.
    """
    with transactions.write_much() as work:
        counts = {}
        for what, closing in closings(work.now).items():
            is_signed = isinstance(closing, SignedClosing)
            counts[what] = closing.carry_out(work) if is_signed else work.execute(closing).rowcount
        facts: dict[str, Any] = {what.replace(" ", "_"): count for what, count in counts.items()}
        work.record("database_restored", **facts)
        along_with(work)
    return counts


class SignedClosing(NamedTuple):
    """What changes columns that MACs are made of: the ids of the rows, and how some of them are written.

    A row that was changed before stays unsigned.
    """

    ids: Select[Any]
    write: Callable[[Work, Sequence[str]], None]

    def carry_out(self, work: Work) -> int:
        """Write the rows, in batches; return how many."""
        ids = work.execute(self.ids).scalars().all()
        for start in range(0, len(ids), MACS_AT_ONCE):
            self.write(work, ids[start : start + MACS_AT_ONCE])
        return len(ids)


def _end_verifications(work: Work, ids: Sequence[str]) -> None:
    update_signed(work, Verification, ids, {"outcome": "expired", "ended_at": work.now})


def _end_tickets(work: Work, ids: Sequence[str]) -> None:
    update_signed(work, TicketRow, ids, {"ends_at": work.now, "proofs_until": work.now})


NEVER_GIVEN = 10**9  # numbers of changes: more than any portal has given since its last backup


def closings(now: datetime) -> dict[str, Any]:
    """Return the statements that close what was open at the time of a backup, by what they do (D14).

    Most of what was under way then was finished since, and what could be used once was used. So live verifications end
    without a result for Flow, results, notices and webhooks under way are never sent by themselves, and sessions,
    visits, tickets and one-time links are worth nothing. Rows that are signed again are a SignedClosing.
    """
    step = int(now.timestamp()) // TOTP_STEP_SECONDS + 1  # of an authenticator code, the last that could be used
    live = select(Verification.id).where(Verification.outcome.is_(None))
    is_pending = Delivery.state == DeliveryState.PENDING
    return {
        "live verifications ended": SignedClosing(live, _end_verifications),
        "results under way marked as unconfirmed": update(Delivery)
        .where(is_pending, Delivery.kind == CALLBACK)
        .values(state=DeliveryState.UNCONFIRMED, reason=RESTORED, ended_at=now, leased_until=None, is_unclear=True),
        "other messages under way marked as unconfirmed": update(Delivery)
        .where(is_pending, Delivery.kind.in_((MESSAGE, EVENT)), Delivery.challenge_id.is_(None))
        .values(state=DeliveryState.UNCONFIRMED, reason=RESTORED, ended_at=now, leased_until=None, is_unclear=True),
        # A program may have read changes that are undone now: it begins again.
        "places among the changes of customers forgotten": update(ChangeFeed).values(
            last_number=ChangeFeed.last_number + NEVER_GIVEN, cut_number=ChangeFeed.last_number + NEVER_GIVEN
        ),
        "messages with codes withdrawn": update(Delivery)
        .where(is_pending, Delivery.challenge_id.is_not(None))
        .values(state=DeliveryState.DROPPED, reason=RESTORED, ended_at=now, leased_until=None),
        "codes made invalid": update(Challenge)
        .where(Challenge.used_at.is_(None), Challenge.replaced_at.is_(None), Challenge.expires_at > now)
        .values(replaced_at=now),
        "visits closed": update(Visit).values(token_hash=cast(Visit.id, LargeBinary)),  # no token has this hash
        "tickets closed": SignedClosing(select(TicketRow.id).where(TicketRow.ends_at > now), _end_tickets),
        "customers' one-time links closed": delete(CredentialLink).where(
            CredentialLink.used_at.is_(None), CredentialLink.expires_at > now
        ),
        "admins' one-time links closed": delete(AdminLink).where(
            AdminLink.used_at.is_(None), AdminLink.expires_at > now
        ),
        "admins signed out": delete(AdminSession),
        "stored answers of the API removed": delete(ApiAnswer),
        "customers whose authenticator or support code must be a new one": update(CustomerRow)
        .where(
            or_(
                and_(CustomerRow.totp_sealed.is_not(None), CustomerRow.totp_last_step < step),
                CustomerRow.support_code_expires_at > now,
            )
        )
        .values(totp_last_step=step, support_code_id=None, support_code_key_id=None, support_code_expires_at=None),
        "admins whose authenticator code must be a new one": update(Admin)
        .where(Admin.totp_sealed.is_not(None), Admin.totp_last_step < step)
        .values(totp_last_step=step),
    }


def rotate_keys(database: Database, master_keys: Sequence[str], clock: Clock) -> int:
    """Wrap every data key under the first master key, all or none; return how many were wrapped under another one.

    The data keys themselves do not change, so running servers notice nothing. Raise Misconfigured if one of them
    cannot be opened.
    """
    master = MasterKeys(master_keys)
    with Transactions(database, load_keyring(database, master), clock).write() as work:
        if count := wrap_again(work.connection, master):
            work.record("keys_rotated", keys=count)
    return count


def restart_audit(transactions: Transactions) -> None:
    """Give up a broken chain of the audit trail, and begin one that seals all events as they are now (E4)."""
    with transactions.write_much() as work:
        restart_chain(work)


def require_macs(transactions: Transactions, *, again: bool) -> list[BrokenRow]:
    """Write all missing MACs and require them from now on; return the rows that had none or a wrong one (R54).

    Raise Misconfigured if they are required already, unless ``again``: then what was changed since is accepted.
    """
    with transactions.read() as work:
        if not again and not are_open(work):
            raise Misconfigured("MACs are required already. To accept rows that were changed, add --again.")
    return seal_macs(transactions)


@contextmanager
def plain_faults() -> Iterator[None]:
    """Raise Misconfigured, in one line, for a full disk, a read-only folder, a wrong key or an unreachable database."""
    try:
        yield
    except SQLAlchemyError as error:
        raise Misconfigured(f"The database cannot be used: {plain_reason(error)}.") from None
    except KeyFault as fault:
        raise Misconfigured(f"Stored data cannot be decrypted: {fault}.") from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise Misconfigured(f"{place}{error.strerror or error}.") from None


def _write_key(path: Path) -> bool:
    """Write a fresh key, whole or not at all; return False if another process was first."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename it never replaces a key
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


# --- The examination


@dataclass(frozen=True)
class Examination:
    """The result for one subject."""

    is_well: bool
    subject: str
    detail: str
    is_warning: bool = False  # well enough to serve

    def __str__(self) -> str:
        word = "warn" if self.is_warning else "ok  " if self.is_well else "FAIL"
        return f"{word} {self.subject}: {self.detail}"


class Installed(Protocol):
    """What the doctor examines once keys and tables are right."""

    @property
    def transactions(self) -> Transactions:
        """Return the database with its clock and keys."""

    @property
    def journeys(self) -> Journeys:
        """Return the configuration."""

    @property
    def outbound(self) -> WayOut:
        """Return the guarded connections to channels."""

    @property
    def flow(self) -> FlowGateway:
        """Return the connections to Flow's servers."""

    @property
    def audit_stream(self) -> AuditStream:
        """Return what sends audit events to another system."""

    def close(self) -> None:
        """Close every connection."""


def examine(settings: Settings, build: Callable[[Settings], Installed]) -> Iterator[Examination]:
    """Yield every result, each after those that it depends on. Servers are asked only whether they can be reached."""
    yield Examination(True, "settings", "all valid")
    is_private = settings.is_https or settings.is_loopback
    advice = "" if is_private else " is not encrypted: codes and passwords can be read in transit; put TLS in front"
    yield Examination(is_private, "public URL", settings.public_url + advice)
    advice = "on: anyone who reaches this portal can read its test inbox" if settings.has_sandbox else "off"
    yield Examination(True, "sandbox", advice)
    if settings.outbound_proxy:
        advice = (
            f"{urlsplit(settings.outbound_proxy).hostname} resolves the names of callback servers and channels, so the "
            "portal cannot refuse a name that leads to a private address; the proxy must do so"
        )
        yield Examination(True, "outbound proxy", advice)

    def keys() -> str:
        found = settings.master_keys()
        MasterKeys(found)
        return f"{len(found)} found, the first one in use"

    def schema() -> str:
        if fault := schema_fault(settings.database):
            raise Misconfigured(fault)
        return "migrated as this version needs it"

    basics = [_examined("keys", keys), _examined("database", schema)]
    yield from basics
    if all(found.is_well for found in basics):
        yield from _installed(settings, build)


def _examined(subject: str, look: Callable[[], str]) -> Examination:
    """Return what ``look`` returns, or why it failed."""
    try:
        with plain_faults():
            return Examination(True, subject, look())
    except Misconfigured as fault:
        return Examination(False, subject, " ".join(fault.faults))


def _installed(settings: Settings, build: Callable[[Settings], Installed]) -> Iterator[Examination]:
    built: list[Installed] = []

    def load() -> str:
        built.append(build(settings))
        return "they open this database"

    data_keys = _examined("data keys", load)
    if not built:
        yield data_keys
        return
    with closing(built[0]) as portal:
        yield _examined("clock", lambda: _clock(portal.transactions))
        yield data_keys
        yield examine_macs(portal.transactions)
        yield _examined("audit trail", lambda: _sealing(portal))
        if settings.audit_syslog:
            is_well, words = portal.audit_stream.check()
            yield Examination(is_well, "audit stream", words)
        yield from _alerts(portal.transactions)
        if not settings.has_sandbox:
            yield _backup(portal.transactions)
        snapshots: list[Snapshot] = []

        def configuration() -> str:
            snapshots.append(portal.journeys.current())
            active = sum(now.config.active for now in snapshots[0].journeys.values())
            return f"active journeys: {active}; channels: {len(snapshots[0].channels)}"

        if fault := _shared_ids(portal.transactions):
            yield Examination(False, "customer IDs", fault)
        if fault := _unbounded(portal.transactions.database):
            yield Examination(False, "time-outs", fault)
        yield _examined("configuration", configuration)
        for snapshot in snapshots:
            yield from _reachable(portal, snapshot, settings.sandbox_url)


def examine_macs(transactions: Transactions, *, ended: bool = False) -> Examination:
    """Return whether the rows that say who a person is are as the portal wrote them (R54), and which are not.

    With ``ended`` also verifications that have ended: some 6 s for 100,000.
    """
    with transactions.read() as work:
        broken, fault = list(broken_rows(work, ended=ended)), state_fault(work)
        known = {row.row for row in broken}
        broken += [BrokenRow("customers", row, is_missing=False) for row in untrusted_rows(work) if row not in known]
    if not work.keyring.requires_macs and not fault:
        advice = "run `auth-portal macs seal` after the last process of the old version" if broken else "all there"
        return Examination(True, "MACs", f"not required yet, {len(broken)} missing or outdated; {advice}")
    named = "; ".join(map(str, broken[:MOST_NAMED]))
    more = f"; and {len(broken) - MOST_NAMED} more" if len(broken) > MOST_NAMED else ""
    return Examination(not (broken or fault), "MACs", "; ".join(filter(None, (fault, named))) + more or "all are right")


_UNBOUNDED = text("SELECT name FROM pg_settings WHERE name = ANY(:names) AND reset_val = '0' ORDER BY name")


def _unbounded(database: Database) -> str:
    """Return which time-outs no transaction has behind a pooler, and what to do, or an empty text."""
    with database.read() as connection:
        if database.is_sqlite or not is_pooled(connection):
            return ""
        names = connection.execute(_UNBOUNDED, {"names": list(BOUNDS)}).scalars().all()
    if not names:
        return ""
    return f"the portal's role has no {' or '.join(names)}; run `auth-portal db upgrade`, then restart the pooler"


def _clock(transactions: Transactions) -> str:
    """Return this machine's time. Raise Misconfigured if it cannot be right."""
    database, now = transactions.database, transactions.clock()
    if now < NO_EARLIER:
        raise Misconfigured(f"it is {iso(now)} here, which cannot be right; set this machine's clock")
    with database.read() as connection:
        newest = connection.execute(select(func.max(AuditEvent.at))).scalar()
    if newest is not None and newest - now > timedelta(seconds=CLOCK_SECONDS):
        raise Misconfigured(f"it is {iso(now)} here, but something was recorded at {iso(newest)}; set the clocks")
    theirs = database.now()
    if theirs is not None and abs((theirs - now).total_seconds()) > CLOCK_SECONDS:
        raise Misconfigured(f"it is {iso(now)} here and {iso(theirs)} at the database; set the clocks")
    return iso(now)


def _sealing(portal: Installed) -> str:
    """Return that the audit trail is sealed. Raise Misconfigured if it cannot be, or is not."""
    stored = portal.journeys.current().portal.retention.audit_stored
    with portal.transactions.read() as work:
        if fault := chain_fault(work, stored):
            raise Misconfigured(fault)
    return "sealed; `auth-portal audit verify` checks all of it"


def _alerts(transactions: Transactions) -> Iterator[Examination]:
    """Yield what has been wrong for a while, as the servers have found it."""
    with transactions.read() as work:
        is_open = AlertRow.ended_at.is_(None)
        found = work.execute(select(AlertRow.words, AlertRow.since).where(is_open).order_by(AlertRow.since)).all()
    for row in found:
        yield Examination(False, "alert", f"{row.words} Open since {iso(row.since)}.")


def _backup(transactions: Transactions) -> Examination:
    """Return when the newest backup was made; a warning if that is long ago, or if there is none."""
    with transactions.read() as work:
        made = select(func.max(AuditEvent.at)).where(text(RARE_KIND), AuditEvent.kind == BACKUP_MADE)
        newest = work.execute(made).scalar()
    if newest is None:
        return Examination(True, "backup", "none was made with `auth-portal backup` yet", is_warning=True)
    if work.now - newest > BACKUP_AGE:
        return Examination(True, "backup", f"the newest one is of {iso(newest)}; make one each day", is_warning=True)
    return Examination(True, "backup", f"made at {iso(newest)}")


def _shared_ids(transactions: Transactions) -> str:
    """Return which customer IDs several customers share in other spellings, or "" if each names one customer."""
    with transactions.read() as work:
        shared = list(shared_ids(work.connection).values())
    if not shared:
        return ""
    named = [" and ".join(f"“{customer_id}”" for _row, customer_id in rows) for rows in shared[:SHARED_NAMED]]
    named += [f"{len(shared) - SHARED_NAMED} more"] if len(shared) > SHARED_NAMED else []
    return (
        f"the same in different spellings, so none of them can be verified: {'; '.join(named)}. "
        "Change or erase all but one of each under Customers"
    )


def _reachable(portal: Installed, snapshot: Snapshot, sandbox_url: str) -> Iterator[Examination]:
    """Yield whether each channel and server can be reached, and each active journey that is closed."""
    for name, config in snapshot.channels.items():
        receipt = open_channel(config, portal.outbound, sandbox_url=sandbox_url).check()
        yield Examination(receipt.handover is Handover.ACCEPTED, f"channel {name}", receipt.detail)
    for server in sorted({now.config.callback.server for now in snapshot.journeys.values() if now.config.active}):
        answer = portal.flow.ping(server)
        yield Examination(answer == REACHABLE, f"callback server {server}", answer)
    for slug, now in snapshot.journeys.items():
        if now.config.active and now.config.unsafe:
            yield Examination(False, f"journey {slug}", f"closed until it is changed: {'; '.join(now.config.unsafe)}")
        elif now.config.active and not snapshot.is_open(now.config):
            yield Examination(
                False, f"journey {slug}", "no customer can complete it: a channel or the sandbox is missing"
            )
        elif now.config.active and now.config.closed_by_change:
            yield Examination(True, f"journey {slug}", now.config.closed_by_change)
    for clash in snapshot.clashes:
        yield Examination(False, "result texts", clash)
