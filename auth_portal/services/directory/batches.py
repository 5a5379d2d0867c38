"""Many customers written in few statements: rows that a program saves, an import's switch and undo, missing columns.

What the other rows of a customer need is done here too: a link is ended when a contact of its customer changes. Rows
that an older version wrote are completed here, because their values are sealed or need code to be read, so a migration
cannot do it: only where a row is still the one that was read, and in short batches, so that several processes may do
it, also while processes of the older version still write.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, suppress
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, func, select, update

from auth_portal.crypto import KeyFault, Keyring
from auth_portal.services.directory.fields import index_of
from auth_portal.services.directory.person import (
    IS_SHARED,
    OWN,
    PERSON_COLUMNS,
    as_changed,
    country_of,
    customer_key,
    end_links,
    hold_id_rule,
    is_trusted,
    line_of,
    person_from,
    remember_removed,
    shared_keys,
)
from auth_portal.store.db import Database, Work, dialect_insert
from auth_portal.store.models import (
    CUSTOMER_NAME,
    CUSTOMER_PHONE,
    HAS_PHONE,
    ChangeFeed,
    CustomerRemoval,
    CustomerRow,
    table_of,
)
from auth_portal.store.rows import indexes_rebuilt, insert_many, update_many

CONTACT_COLUMNS = {"phone_key", "email_key"}
BATCH = 200  # rows of one transaction, which takes about 10 ms

Rows = Sequence[Mapping[str, Any]]  # all with the same columns

_CUSTOMERS = table_of(CustomerRow)


def write_rows(work: Work, new: Rows, changed: Iterable[Rows]) -> None:
    """Insert whole rows, and update rows by their ``id``. Raise IntegrityError if a customer ID is taken."""
    if new:
        insert_many(work.connection, _CUSTOMERS, new)
    for rows in changed:
        update_many(work.connection, _CUSTOMERS, rows)
        if CONTACT_COLUMNS & rows[0].keys():
            end_links(work, [row["id"] for row in rows])


def rebuilt_indexes(work: Work, columns: AbstractSet[str]) -> AbstractContextManager[None]:
    """Drop the indexes over these columns for a block that changes many rows, and build them again at its end."""
    return indexes_rebuilt(work.connection, _CUSTOMERS, columns)


def insert_from(work: Work, values: Mapping[str, Any], rows: Select[Any]) -> int:
    """Insert the customers of a query, its columns in the order of ``values``; return how many had a free ID."""
    insert = dialect_insert(work.connection.dialect.name, _CUSTOMERS).from_select(list(values), rows)
    statement = insert.on_conflict_do_nothing(index_elements=["customer_key"]).execution_options(preserve_rowcount=True)
    return int(work.execute(statement).rowcount)


def update_from(work: Work, values: Mapping[str, Any], *where: ColumnElement[bool]) -> int:
    """Update customers from the rows of another table that ``where`` joins; return how many were changed."""
    return int(work.execute(update(_CUSTOMERS).where(*where).values(**values, **as_changed(work.now))).rowcount)


def delete_those(work: Work, rows: Select[Any]) -> int:
    """Delete customers (their rows); return how many there were. Raise IntegrityError if a link refers to one."""
    remember_removed(work, rows)
    return int(work.execute(delete(_CUSTOMERS).where(_CUSTOMERS.c.id.in_(rows))).rowcount)


def forget_removals(work: Work, ids: Sequence[str]) -> None:
    """Forget customers who were removed long ago. A program that has not asked since has to begin again."""
    feed = work.execute(select(ChangeFeed.last_number, ChangeFeed.cut_number).with_for_update()).one_or_none()
    these, number = CustomerRemoval.id.in_(ids), CustomerRemoval.change_number
    if feed is not None:
        newest, numbered, found = work.execute(
            select(func.max(number), func.count(number), func.count(CustomerRemoval.id)).where(these)
        ).one()
        last = feed.last_number + (numbered < found)  # as if the others had been numbered, too
        cut = last if numbered < found else max(newest or 0, feed.cut_number)
        work.execute(update(ChangeFeed).values(last_number=last, cut_number=cut))
    work.execute(delete(CustomerRemoval).where(these))


def untrusted_rows(work: Work) -> Iterator[str]:
    """Yield the row of each customer that is not as the portal wrote it (R54)."""
    after = ""
    page = select(*PERSON_COLUMNS).order_by(CustomerRow.id).limit(BATCH)
    while rows := work.execute(page.where(CustomerRow.id > after)).all():
        yield from (row.row for row in rows if not is_trusted(work.keyring, person_from(row, row.row)))
        after = rows[-1].row


def count_lines(work: Work, most: int) -> tuple[dict[str, int], int]:
    """Return how many phone numbers of active customers are landlines and the like, and how many were looked at.

    At most ``most`` are, in the order of their keyed hashes: of a larger directory a sample that nothing has chosen.
    """
    holders = select(CustomerRow.id, CustomerRow.phone_sealed).where(
        CustomerRow.phone_key.is_not(None), CustomerRow.is_active
    )
    lines: dict[str, int] = defaultdict(int)
    rows = work.execute(holders.order_by(CustomerRow.phone_key).limit(most)).all()
    for row in rows:
        with suppress(KeyFault):  # nothing can be sent to it either
            lines[line_of(work.open(row.phone_sealed, CUSTOMER_PHONE, row.id))] += 1
    lines.pop("", None)
    return dict(lines), len(rows)


# --- Rows that an older version wrote

_UNREAD = (
    select(
        *(_CUSTOMERS.c[name] for name in ("id", "customer_id", "customer_key", "name_sealed")),
    )
    .where(_CUSTOMERS.c.shared_key.is_(None))
    .order_by(_CUSTOMERS.c.id)
    .limit(BATCH)
)
_SET_ID = (
    update(_CUSTOMERS)
    .where(_CUSTOMERS.c.id == bindparam("of"))
    .values(customer_key=bindparam("key"), shared_key=bindparam("shared"))
)
_SET_NAME = (
    update(_CUSTOMERS)
    .where(_CUSTOMERS.c.id == bindparam("of"), _CUSTOMERS.c.name_sealed == bindparam("read"))
    .values(name_key=bindparam("key"))
)
_COUNTRYLESS = (
    select(_CUSTOMERS.c.id, _CUSTOMERS.c.phone_key, _CUSTOMERS.c.phone_sealed)
    .where(_CUSTOMERS.c.traits.in_(HAS_PHONE), _CUSTOMERS.c.phone_country.is_(None))
    .limit(BATCH)
)
_SET_COUNTRY = (
    update(_CUSTOMERS)
    .where(_CUSTOMERS.c.id == bindparam("of"), _CUSTOMERS.c.phone_key == bindparam("read"))
    .values(phone_country=bindparam("country"))
)


def read_ids_again(
    database: Database, keyring: Callable[[], Keyring], *, is_stopping: Callable[[], bool] = lambda: False
) -> int:
    """Bring the IDs and names that an older version stored to the form that they are looked up in now (R55).

    Return how many customers were read. ``keyring`` is called only if there are any. Where several IDs have one form,
    none of them names a customer until all but one were changed; then the last one does again.
    """
    count = 0
    while not is_stopping():
        with database.read() as connection:
            if connection.execute(_UNREAD.limit(1)).first() is None:
                break
        keys = keyring()
        with database.write() as connection:
            rows = connection.execute(_UNREAD.with_for_update()).all()
            hold_id_rule(connection, keys)
            store_forms(connection, keys, rows)
            names = []
            for row in rows:
                with suppress(KeyFault):  # a name that no key opens can be shown to no admin either: it is left out
                    if row.name_sealed is not None:
                        key = index_of(keys, "name", keys.open(row.name_sealed, CUSTOMER_NAME, row.id))
                        names.append({"of": row.id, "read": row.name_sealed, "key": key})
            if names:
                connection.execute(_SET_NAME, names)
        if not rows:  # another process has them
            break
        count += len(rows)
    release_single_ids(database)
    return count


def store_forms(connection: Connection, keyring: Keyring, rows: Sequence[Any]) -> None:
    """Store the one form of each ID, or, where another customer has it, mark all of them."""
    forms = {row.id: customer_key(keyring, row.customer_id) for row in rows}
    wanted = list(set(forms.values()))
    taken = select(_CUSTOMERS.c.id, _CUSTOMERS.c.customer_key).where(_CUSTOMERS.c.customer_key.in_(wanted))
    holders: dict[str, set[str]] = {key: set() for key in wanted}
    for found in connection.execute(taken):
        holders[found.customer_key].add(found.id)
    for row_id, key in forms.items():
        holders[key].add(row_id)
    shared = shared_keys(connection, wanted) | {key for key, ids in holders.items() if len(ids) > 1}
    before = {row.id: row.customer_key for row in rows}
    values = [
        # A shared one keeps its old form: a process of the older version must not find another customer by it.
        {"of": row_id, "key": before[row_id] if key in shared else key, "shared": key if key in shared else OWN}
        for row_id, key in forms.items()
    ]
    if values:
        connection.execute(_SET_ID, values)
    others = [{"of": row_id, "key": key, "shared": key} for key in shared for row_id in holders.get(key, ())]
    if others := [row for row in others if row["of"] not in before]:
        connection.execute(_SET_ID, others)


def shared_ids(connection: Connection) -> dict[str, list[tuple[str, str]]]:
    """Return the customers who share an ID in other spellings: rows and IDs, by its one form."""
    found = select(_CUSTOMERS.c.id, _CUSTOMERS.c.customer_id, _CUSTOMERS.c.shared_key).where(IS_SHARED)
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in connection.execute(found.order_by(_CUSTOMERS.c.shared_key, _CUSTOMERS.c.id)):
        groups[row.shared_key].append((row.id, row.customer_id))
    return groups


def release_single_ids(database: Database) -> None:
    """Let an ID name its customer again if all others who shared it were changed or erased."""
    with database.read() as connection:
        if all(len(rows) > 1 for rows in shared_ids(connection).values()):
            return
    with database.write() as connection:
        for key, rows in shared_ids(connection).items():
            if len(rows) == 1:
                connection.execute(_SET_ID, {"of": rows[0][0], "key": key, "shared": OWN})


def add_countries(database: Database, keyring: Keyring, *, is_stopping: Callable[[], bool]) -> int:
    """Add the country of every phone number that has none; return how many were added.

    A number that no key opens belongs to no country: nothing can be sent to it either.
    """
    added = 0
    while not is_stopping():
        with database.read() as connection:
            rows = connection.execute(_COUNTRYLESS).all()
        if not rows:
            break
        values = []
        for row in rows:
            try:
                country = country_of(keyring.open(row.phone_sealed, CUSTOMER_PHONE, row.id))
            except KeyFault:
                country = ""
            values.append({"of": row.id, "read": row.phone_key, "country": country})
        with database.write() as connection:
            connection.execute(_SET_COUNTRY, values)
        added += len(values)
    return added
