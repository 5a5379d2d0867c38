"""The data keys of a database, opened with the operator's master keys, and the MACs that are made with them.

The wrapped keys are the canary: with the wrong master keys nothing starts, rather than write what cannot be read again.

Rows that say who a person is carry a MAC (R54), so that writing the database alone does not change who they are. So do
those of a chat: its verification, visits, codes and ticket.

A MAC binds a row's id to the columns that count (``crypto.SIGNED``). It is checked where the row is used: one whose MAC
is wrong is treated as if it did not exist, and is not signed again when it changes. Columns that are encrypted are
bound to their row already, so phone numbers and email addresses need none: ``directory.person`` compares what they are
found by with what is encrypted.

After an upgrade old processes go on writing rows without MACs. Until ``seal_macs`` was run after the last of them,
missing and wrong MACs pass; from then on they do not. That state is signed too, and without it MACs are required. Only
until an upgrade that was begun has ended, they pass without a signature, and ``auth-portal doctor`` reports that.
Neither counts where MACs were required before: so says the wrapping of the key of a portal that has had them from the
beginning, the audit trail of one that was sealed later, or the operator (``require_macs``).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, insert, or_, select, text, true, update
from sqlalchemy.exc import DBAPIError

from auth_portal.crypto import (
    KEY_BYTES,
    OLD_MACS,
    OPEN_MACS,
    PURPOSES,
    SEALED_MACS,
    SIGNED,
    SUPPORT_CODE_MAC,
    DataKey,
    KeyFault,
    Keyring,
    MasterKeys,
    master_id,
)
from auth_portal.errors import Misconfigured
from auth_portal.store.db import Database, Transactions, Work, dialect_insert, first_id, unusable
from auth_portal.store.models import (
    PORTAL_ROW,
    RARE_KIND,
    READ_AGAIN,
    Acceptance,
    Admin,
    AdminLink,
    AdminSession,
    ApiKeyRow,
    AuditEvent,
    Base,
    Challenge,
    ChannelRow,
    CredentialLink,
    CustomerRow,
    DataKeyRow,
    Journey,
    JourneyVersion,
    Passkey,
    Portal,
    StagedRow,
    TicketRow,
    Verification,
    Visit,
    signed_columns,
    table_of,
)

# RARE_KIND names the index.
_WAS_SEALED = select(AuditEvent.id).where(text(RARE_KIND), AuditEvent.kind == "macs_sealed").limit(1)
_ALL_KEYS = select(DataKeyRow.id, DataKeyRow.purpose, DataKeyRow.wrapped).order_by(DataKeyRow.id)


def furnish(database: Database, master: MasterKeys, now: datetime) -> bool:
    """Give a database its data keys and a portal's row that requires MACs; return False if it had keys already."""
    with database.write() as connection:
        portal = dialect_insert(connection.dialect.name, table_of(Portal)).values(id=PORTAL_ROW, version=1, settings={})
        connection.execute(portal.on_conflict_do_nothing())  # PostgreSQL lets one `init` past this at a time
        if has_data_keys(connection):
            return False
        keys = [DataKey(key_id, purpose, secrets.token_bytes(KEY_BYTES)) for key_id, purpose in enumerate(PURPOSES, 1)]
        rows = [
            {
                "id": key.id,
                "purpose": key.purpose,
                "wrapped": master.wrap(key.key, _names(key.id, key.purpose)[-1]),
                "created_at": now,
            }
            for key in keys
        ]
        connection.execute(insert(DataKeyRow), rows)
        sealed = Keyring(keys).mac(SEALED_MACS)  # no row is older than its MAC
        connection.execute(update(Portal).where(Portal.id == PORTAL_ROW).values(macs=sealed))
    return True


def has_data_keys(connection: Connection) -> bool:
    """Return True if the database has data keys."""
    return connection.execute(select(DataKeyRow.id).limit(1)).first() is not None


def load_keyring(database: Database, master: MasterKeys, *, require_macs: bool = False) -> Keyring:
    """Return the data keys, ready for use.

    ``require_macs``: the operator says that MACs are required (R54), whatever the database says.
    Raise Misconfigured if there are none, if the master keys do not belong to this database, and if the database
    cannot be read.
    """
    try:
        with database.read() as connection:
            rows = connection.execute(_ALL_KEYS).all()
            state = select(Portal.macs, Portal.settings).where(Portal.id == PORTAL_ROW)
            portal = connection.execute(state).one_or_none()
            was_sealed = require_macs or connection.execute(_WAS_SEALED).first() is not None
    except DBAPIError as error:
        raise unusable(error) from None
    if not rows:
        raise Misconfigured("The database has no data keys yet. Run `auth-portal init`.")
    try:
        keyring, has_macs = open_keys(rows, master)
        was_sealed |= has_macs
        keyring.read_macs_state(portal.macs if portal else None, was_sealed=was_sealed)
        keyring.read_id_rule(portal.settings if portal else {})
        return keyring
    except KeyFault as fault:
        raise Misconfigured(
            f"The keys cannot be used: {fault}. Put back the keys that belong to this database: the file secret_keys "
            "in the instance folder, or PORTAL_SECRET_KEYS."
        ) from None


class WrappedKey(NamedTuple):
    """What a row of the table of data keys holds."""

    id: int
    purpose: str
    wrapped: bytes


def open_keys(rows: Iterable[Any], master: MasterKeys) -> tuple[Keyring, bool]:
    """Return the data keys of these rows, and whether one was made for rows that have always had MACs.

    Raise KeyFault if they cannot be opened.
    """
    opened = {row: _unwrap(master, row) for row in rows}
    keyring = Keyring([DataKey(row.id, row.purpose, key) for row, (key, _name) in opened.items()])
    return keyring, any(name.endswith(WITH_MACS) for _key, name in opened.values())


def master_ids(rows: Iterable[Any]) -> list[str]:
    """Return the ids of the master keys that are needed to open these rows."""
    return sorted({master_id(row.wrapped) for row in rows})


def wrap_again(connection: Connection, master: MasterKeys) -> int:
    """Wrap every data key under the first master key; return how many were wrapped under another one.

    Raise Misconfigured if one of them cannot be opened.
    """
    rows = connection.execute(_ALL_KEYS.with_for_update()).all()
    outdated = [row for row in rows if not row.wrapped.startswith(master.current)]
    for row in outdated:
        try:
            wrapped = master.wrap(*_unwrap(master, row))
        except KeyFault as fault:
            raise Misconfigured(f"Data key {row.id} cannot be opened: {fault}.") from None
        connection.execute(update(DataKeyRow).where(DataKeyRow.id == row.id).values(wrapped=wrapped))
    return len(outdated)


WITH_MACS = ":macs"


def _names(key_id: int, purpose: str) -> Sequence[str]:
    """Return what may bind a wrapped data key to its row; the last one says that rows have MACs since it was made."""
    name = f"{purpose}:{key_id}"
    return (name, name + WITH_MACS) if purpose == "sign" else (name,)


def _unwrap(master: MasterKeys, row: Any) -> tuple[bytes, str]:
    """Return a data key and the name that it is wrapped under. Raise KeyFault if it cannot be opened."""
    *others, last = _names(row.id, row.purpose)
    for name in others:
        with suppress(KeyFault):
            return master.unwrap(row.wrapped, name), name
    return master.unwrap(row.wrapped, last), last


# --- MACs of rows

MACS_AT_ONCE = 500  # rows of one transaction, some 20 ms

TABLES = (
    CustomerRow,
    Admin,
    Journey,
    JourneyVersion,
    ChannelRow,
    AdminSession,
    Passkey,
    AdminLink,
    ApiKeyRow,
    CredentialLink,
    Verification,
    Visit,
    Challenge,
    TicketRow,
    Acceptance,
)

CHATS = (Verification, Visit, Challenge, TicketRow)
LONGEST_CHAT = timedelta(days=2)  # and longer than any


def _counting(work: Work, *, ended: bool) -> Mapping[str, ColumnElement[bool]]:
    """Return which rows of a large table still decide anything; of the others no MAC is looked at again.

    With ``ended`` also those of chats that go on after their verification: its last page is looked at until then. And
    every verification: pages and the API show how it ended for as long as it is stored.
    """
    is_counting: ColumnElement[bool] = Verification.outcome.is_(None)
    if ended:
        is_recent = Verification.id >= first_id(work.now - LONGEST_CHAT)
        is_counting = or_(is_counting, and_(is_recent, Verification.chat_ends_at > work.now))
    return {
        "verifications": true() if ended else is_counting,
        "visits": Visit.verification_id.in_(select(Verification.id).where(is_counting)),
        "challenges": Challenge.expires_at > work.now,
        "tickets": TicketRow.ends_at > work.now,
    }


class BrokenRow(NamedTuple):
    """A row whose MACs are missing or wrong."""

    table: str
    row: str
    is_missing: bool  # no MAC at all, as an old version writes it

    def __str__(self) -> str:
        return f"row {self.row} of {self.table} {'has no MAC' if self.is_missing else 'was changed by someone else'}"


def broken_rows(work: Work, *, ended: bool = False) -> Iterator[BrokenRow]:
    """Yield every row whose MACs are missing or wrong, whether they are required yet or not; of chats, live ones.

    With ``ended`` also verifications that have ended.
    """
    for model in TABLES:
        table, after, is_shown = table_of(model), "", ended and model is Verification
        while rows := work.execute(_rows(work, model, after, ended=is_shown)).mappings().all():
            for row in rows:
                if wrong := work.keyring.wrong_macs(table.name, row):
                    yield BrokenRow(table.name, row["id"], all(row[column] is None for column in wrong))
            after = rows[-1]["id"]


def _rows(work: Work, model: type[Base], after: str, *, ended: bool = False) -> Any:
    table = table_of(model)
    is_counting = _counting(work, ended=ended).get(table.name, true())
    found = select(*signed_columns(model)).where(table.c.id > after, is_counting)
    return found.order_by(table.c.id).limit(MACS_AT_ONCE)


def update_signed(work: Work, model: type[Base], ids: Sequence[str], values: Mapping[str, Any]) -> None:
    """Set these values in rows and sign them again, except those that someone other than the portal has changed."""
    table = table_of(model)
    found = select(*signed_columns(model)).where(table.c.id.in_(ids)).with_for_update()
    for row in work.execute(found).mappings().all():
        macs = dict.fromkeys(SIGNED[table.name])
        if work.keyring.holds(table.name, row):
            signed = work.keyring.signed(table.name, {**row, **values})
            macs = {mac: signed[mac] for mac in macs}
        work.execute(update(table).where(table.c.id == row["id"]).values({**values, **macs}))


def state_fault(work: Work) -> str:
    """Return what is wrong with the state of the MACs, as a sentence; "" if nothing is."""
    found = work.execute(select(Portal.macs).where(Portal.id == PORTAL_ROW)).scalar_one_or_none()
    if found == work.keyring.mac(SEALED_MACS):
        return ""
    is_open = found in (work.keyring.mac(OPEN_MACS), OLD_MACS)
    if is_open and (work.keyring.requires_macs or work.execute(_WAS_SEALED).first() is not None):
        return "MACs were required before, and someone has undone that in the database; they still are"
    if found == OLD_MACS:
        return "the upgrade is unfinished, and until then no MAC is required; run `auth-portal db upgrade`"
    if found == work.keyring.mac(OPEN_MACS):
        return ""
    was = "the state of the MACs in the table portal was changed"
    return f"{was}; they are required until you run auth-portal macs seal"


def open_macs(work: Work) -> None:
    """Sign that missing MACs pass, where the migration found rows without any; not if it was sealed before."""
    if not work.keyring.requires_macs and work.execute(_WAS_SEALED).first() is None:
        is_old = update(Portal).where(Portal.id == PORTAL_ROW, Portal.macs == OLD_MACS)
        work.execute(is_old.values(macs=work.keyring.mac(OPEN_MACS)))


def are_open(work: Work) -> bool:
    """Report whether missing and wrong MACs pass, as after an upgrade."""
    found = work.execute(select(Portal.macs).where(Portal.id == PORTAL_ROW)).scalar_one_or_none()
    is_open = found in (work.keyring.mac(OPEN_MACS), OLD_MACS)
    return is_open and not work.keyring.requires_macs and work.execute(_WAS_SEALED).first() is None


def seal_macs(transactions: Transactions) -> list[BrokenRow]:
    """Write every MAC that is missing or wrong, and require MACs from now on; return the rows that had none or another.

    Whatever was changed until now is accepted with it.
    """
    _seal_staged(transactions)  # first, or an import that is switched meanwhile brings rows without MACs
    broken = seal_tables(transactions, TABLES)
    _seal_staged(transactions)  # again, for those that were compared with a customer who had none
    with transactions.write() as work:
        work.execute(READ_AGAIN.values(macs=work.keyring.mac(SEALED_MACS)))
        changed = sum(not row.is_missing for row in broken)
        work.record("macs_sealed", missing=len(broken) - changed, changed=changed)
    return broken


def seal_tables(transactions: Transactions, models: Sequence[type[Base]] = CHATS) -> list[BrokenRow]:
    """Write the missing and wrong MACs of some tables, and those of temporary codes; return the rows.

    By default those of chats, which a migration adds where others are required already.
    """
    broken: list[BrokenRow] = []
    for model in models:
        after: str | None = ""
        while after is not None:
            with transactions.write() as work:
                after = _seal_some(work, model, after, broken)
    rows: Sequence[Any] = [None]
    while rows:
        with transactions.write() as work:
            unsigned = _SUPPORT_CODES.where(CustomerRow.support_code_expires_at > work.now).with_for_update()
            rows = work.execute(unsigned).all()
            for row in rows:
                mac = work.keyring.mac(SUPPORT_CODE_MAC, *row)
                work.execute(update(CustomerRow).where(CustomerRow.id == row.id).values(support_code_mac=mac))
    return broken


_SUPPORT_CODES = (
    select(CustomerRow.id, CustomerRow.support_code_id, CustomerRow.support_code_key_id)
    .add_columns(CustomerRow.support_code_expires_at)
    .where(CustomerRow.support_code_id.is_not(None), CustomerRow.support_code_mac.is_(None))
    .limit(MACS_AT_ONCE)
)


def _seal_some(work: Work, model: type[Base], after: str, broken: list[BrokenRow]) -> str | None:
    """Write the missing and wrong MACs of the next rows; return where to go on, None at the end."""
    table = table_of(model)
    rows = work.execute(_rows(work, model, after, ended=True).with_for_update()).mappings().all()
    signed: dict[tuple[str, ...], list[dict[str, Any]]] = {}  # by the MACs that are written
    for row in rows:
        if wrong := work.keyring.wrong_macs(table.name, row):
            broken.append(BrokenRow(table.name, row["id"], all(row[column] is None for column in wrong)))
            fresh = work.keyring.signed(table.name, row)
            signed.setdefault(tuple(wrong), []).append({"of": row["id"], **{mac: fresh[mac] for mac in wrong}})
    for macs, values in signed.items():
        written = update(table).where(table.c.id == bindparam("of"))
        work.execute(written.values({mac: bindparam(mac) for mac in macs}), values)
    return rows[-1]["id"] if rows else None


_STAGED = table_of(StagedRow).c
_UNSIGNED = (
    select(_STAGED.import_id, _STAGED.number, _STAGED.customer_row)
    .add_columns(_STAGED.is_new, _STAGED.customer_id, _STAGED.old_customer_id)
    .where(
        or_(
            and_(_STAGED.customer_id.is_not(None), _STAGED.identity_mac.is_(None)),
            and_(_STAGED.is_new, _STAGED.active_mac.is_(None)),
            and_(_STAGED.old_customer_id.is_not(None), _STAGED.old_identity_mac.is_(None)),
        )
    )
    .limit(MACS_AT_ONCE)
)


def _seal_staged(transactions: Transactions) -> None:
    """Write the missing MACs of what imports have staged: of what they will write, and of what an undo puts back."""
    rows: Sequence[Any] = [None]
    while rows:
        with transactions.write() as work:
            rows = work.execute(_UNSIGNED.with_for_update()).all()
            for row in rows:
                macs = {}
                for name, stored in (("identity_mac", row.customer_id), ("old_identity_mac", row.old_customer_id)):
                    if stored is not None:
                        identity = {"id": row.customer_row, "customer_id": stored}
                        macs[name] = work.keyring.signed("customers", identity)["identity_mac"]
                if row.is_new:
                    activity = {"id": row.customer_row, "is_active": True}
                    macs["active_mac"] = work.keyring.signed("customers", activity)["active_mac"]
                this = _STAGED.import_id == row.import_id, _STAGED.number == row.number
                work.execute(update(StagedRow).where(*this).values(macs))
