"""The tables, and nothing that decides.

Ids are made by the code (``db.new_id``), so that a value can be sealed for its row before the row exists.
``*_key`` columns are keyed hashes to look things up by; ``*_sealed`` columns open only in their own row.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Computed,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    Text,
    UniqueConstraint,
    select,
    text,
    update,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import NullType

from auth_portal.crypto import Keyring, SealedColumn, signed_names
from auth_portal.store.db import UtcDateTime

TYPES = {
    "int": Integer(),
    "str": Text(),
    "bytes": LargeBinary(),
    "bool": Boolean(),
    "datetime": UtcDateTime(),
    "dict[str, Any]": JSON(),
    "list[Any]": JSON(),
}

if TYPE_CHECKING:  # tables are written as for the ORM, and mypy reads them so
    from sqlalchemy.orm import DeclarativeBase as Declared
    from sqlalchemy.orm import Mapped, mapped_column
else:
    mapped_column = Column

    class Declared:
        """Makes a plain table of each subclass, whose columns stand as annotated attributes.

        Nothing here maps a row to an object, so the ORM is not loaded: it took 0.1 s of each start and 9 MiB of each
        process. A column has a type of its own or that of its annotation, and takes NULL where that says ``None``.
        """

        metadata: ClassVar[MetaData]
        __tablename__: ClassVar[str]
        __table_args__: ClassVar[tuple[SchemaItem, ...]] = ()
        __table__: ClassVar[Table]

        def __init_subclass__(cls) -> None:
            """Make the table, unless this is only the base of others."""
            if "__tablename__" not in cls.__dict__:
                return
            columns = []
            for name, annotation in cls.__annotations__.items():
                kind, _, null = annotation.removeprefix("Mapped[").removesuffix("]").partition(" | ")
                column = cls.__dict__[name] if name in cls.__dict__ else Column()
                column.name = column.key = name
                column.nullable = null == "None"
                if isinstance(column.type, NullType):
                    column.type = TYPES[kind]
                setattr(cls, name, column)
                columns.append(column)
            cls.__table__ = Table(cls.__tablename__, cls.metadata, *columns, *cls.__table_args__)

        @classmethod
        def __clause_element__(cls) -> Table:
            """Return the table. SQLAlchemy asks for it where a statement names the class."""
            return cls.__table__


Id = String(32)
Key = String(32)  # a keyed hash, hex, 128 bits

# What the lists' partial indexes contain: the rows that are rare. The common ones are found by id alone, so that what
# every verification writes costs nothing extra. A query must use the same words, or no index is used.
VERIFIED = "verified"  # the outcome of a verification whose customer was verified; ``config.journey`` has all of them
CHANGED = "changed"  # shown instead of the outcome that someone other than the portal has changed; never stored
ENDED_OTHERWISE = f"outcome <> '{VERIFIED}'"
NOT_ACCEPTED = "state NOT IN ('pending', 'accepted')"
ENDED = "ended_at IS NOT NULL"
COMMON_KINDS = (
    "verification_began",
    "verification_ended",
    "proof_failed",
    "step_passed",
    "verification_joined",
    "method_chosen",
    "code_resent",
    "name_taken_back",
    "named_again",
)
UNSEALED = "block IS NULL"  # of audit events
RARE_KIND = f"kind NOT IN ({', '.join(repr(kind) for kind in COMMON_KINDS)})"

# The kinds of deliveries.
CALLBACK = "callback"
MESSAGE = "message"
EVENT = "webhook"  # for a program that asked for it; 0.1.0 claims none of this kind


class DeliveryState(StrEnum):
    """Where a delivery stands. Only ``pending`` ever changes, until an admin sends the delivery again."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNCONFIRMED = "unconfirmed"  # refused or out of time after an attempt whose fate is unknown
    GIVEN_UP = "given_up"
    SUPERSEDED = "superseded"  # the reference was begun again before this was accepted
    DROPPED = "dropped"  # a message that must not or cannot be sent


# The sealed columns. The names are part of what is stored: renaming a column in the database must not change them.
ADMIN_EMAIL = SealedColumn("admins", "email")
ADMIN_LINK_EMAIL = SealedColumn("admin_links", "email")
ADMIN_PASSWORD = SealedColumn("admins", "password")
ADMIN_RECOVERY = SealedColumn("admins", "recovery")
ADMIN_TOTP = SealedColumn("admins", "totp")
ANSWER_ANSWERS = SealedColumn("answers", "answers")
API_ANSWER_ANSWER = SealedColumn("api_answers", "answer")
CHANNEL_SECRETS = SealedColumn("channels", "secrets")
CUSTOMER_NAME = SealedColumn("customers", "name")
CUSTOMER_PASSWORD = SealedColumn("customers", "password")
CUSTOMER_PHONE = SealedColumn("customers", "phone")
CUSTOMER_TOTP_SECRET = SealedColumn("customers", "totp_secret")
DELIVERY_ABOUT = SealedColumn("deliveries", "about")
DELIVERY_BODY = SealedColumn("deliveries", "body")
DRIVE_STATE = SealedColumn("drives", "state")
IMPORT_PART_TEXT = SealedColumn("import_parts", "text")
IMPORT_ROW_PLAIN = SealedColumn("import_rows", "plain")
TICKET_PAYMENT = SealedColumn("tickets", "payment")
TICKET_PHONE = SealedColumn("tickets", "phone")
TICKET_PURPOSE = SealedColumn("tickets", "purpose")
VERIFICATION_CHAT_CODE = SealedColumn("verifications", "chat_code")
VERIFICATION_REFERENCE = SealedColumn("verifications", "reference")
VISIT_GIVEN = SealedColumn("visits", "given")
VISIT_IDENTIFIER = SealedColumn("visits", "identifier")
WEBHOOK_SECRET = SealedColumn("webhook_secrets", "secret")
ENDPOINT_URL = SealedColumn("webhook_endpoints", "url")
ENDPOINT_SECRET = SealedColumn("webhook_endpoints", "secret")
ENDPOINT_OLD_SECRET = SealedColumn("webhook_endpoints", "old_secret")


class Base(Declared):
    """The base of all tables; constraints have names, so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def table_of(model: type[Base]) -> Table:
    """Return the table of a model."""
    return cast("Table", model.__table__)


def signed_columns(model: type[Base], prefix: str = "") -> tuple[Any, ...]:
    """Return a table's MACs and the columns that they are made of (R54).

    With a prefix they are part of a wider row, as ``crypto.Keyring.holds`` reads them there.
    """
    table = table_of(model)
    return tuple(table.c[name].label(f"{prefix}{name}") for name in signed_names(table.name))


class DataKeyRow(Base):
    """A data key, wrapped by a master key that is not in the database."""

    __tablename__ = "keys"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    purpose: Mapped[str] = mapped_column(String(16))
    wrapped: Mapped[bytes]
    created_at: Mapped[datetime]


class SchemaState(Base):
    """The one row about the tables: their newest migration, and the oldest code that may serve them, by its newest."""

    __tablename__ = "schema_state"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[str] = mapped_column(String(8))
    oldest_code: Mapped[str] = mapped_column(String(8))
    tables: Mapped[str] = mapped_column(Text)  # their names, apart by spaces


PORTAL_ROW = 1


class Portal(Base):
    """The one row of portal-wide settings. ``version`` rises with every change to it, a channel or a journey."""

    __tablename__ = "portal"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int]
    settings: Mapped[dict[str, Any]]
    macs: Mapped[str | None] = mapped_column(String(32))  # whether the MACs of rows are required, signed (R54)


READ_AGAIN = update(Portal).where(Portal.id == PORTAL_ROW).values(version=Portal.version + 1)
"""Lets every process read the configuration again once the transaction has committed, within a second or two."""


class ChannelRow(Base):
    """A channel through which messages leave; its secrets are sealed as one JSON text."""

    __tablename__ = "channels"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    config: Mapped[dict[str, Any]]
    secrets_sealed: Mapped[bytes | None]
    is_active: Mapped[bool]
    changed_at: Mapped[datetime]
    mac: Mapped[str | None] = mapped_column(String(32))


class ChannelState(Base):
    """How a channel has been doing; written by dispatchers, read by the customer's page."""

    __tablename__ = "channel_states"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures_in_row: Mapped[int]
    failed_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]  # the first of the failures in a row
    needs_admin: Mapped[bool] = mapped_column(server_default=text("false"))  # key, account, funds, login or settings
    accepted_at: Mapped[datetime | None]
    reason: Mapped[str]


class Journey(Base):
    """A journey's name in links, and which of its versions is live. The name of a deleted one may be used again."""

    __tablename__ = "journeys"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    slug: Mapped[str] = mapped_column(String(64))
    version_id: Mapped[str] = mapped_column(Id)
    is_active: Mapped[bool]
    is_default: Mapped[bool]
    deleted_at: Mapped[datetime | None]
    mac: Mapped[str | None] = mapped_column(String(32))
    __table_args__ = (
        Index(
            "uq_journeys_live",
            "slug",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )


class JourneyVersion(Base):
    """One state of a journey, never changed: a verification ends under the version it began with."""

    __tablename__ = "journey_versions"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    journey_id: Mapped[str] = mapped_column(Id, ForeignKey("journeys.id"), index=True)
    number: Mapped[int]
    document: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    made_by: Mapped[str | None] = mapped_column(Id)  # an admin; null for a command
    note: Mapped[str] = mapped_column(String(200), server_default="")
    mac: Mapped[str | None] = mapped_column(String(32))
    # The whole journey, where releases before 0.2 cannot read it; its digest is in the document.
    whole: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    __table_args__ = (UniqueConstraint("journey_id", "number"),)


# What a customer has, one bit each, as the database itself keeps it: counted from an index, at no price to a writer.
TRAITS = (
    "CASE WHEN is_active THEN 1 ELSE 0 END"
    " + CASE WHEN phone_key IS NULL THEN 0 ELSE 2 END"
    " + CASE WHEN email_key IS NULL THEN 0 ELSE 4 END"
    " + CASE WHEN password_hash IS NULL THEN 0 ELSE 8 END"
    " + CASE WHEN password_hash IS NOT NULL AND password_is_long THEN 16 ELSE 0 END"
    " + CASE WHEN totp_sealed IS NULL THEN 0 ELSE 32 END"
)


HAS_PHONE = tuple(traits for traits in range(64) if traits & 2)  # of TRAITS: so that the index finds them

# The customers whose ID an older version stored, or is another customer's as well. A query must use one of these words.
RARE_ID = "shared_key IS NULL OR shared_key <> ''"


# The customers whose last change has no number yet; 0.1.0 leaves the number of the change before. See ChangeFeed.
UNNUMBERED = "change_number IS NULL OR change_of <> changed_at"
NUMBERED = "change_number IS NOT NULL"


CHANGED_CONTACTS = {name: f"{name} IS NOT NULL" for name in ("phone_changed_at", "email_changed_at")}


class CustomerRow(Base):
    """A person in the directory. ``customer_id`` is stored as imported, ``customer_key`` is its one form."""

    __tablename__ = "customers"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    customer_id: Mapped[str] = mapped_column(String(128))
    customer_key: Mapped[str] = mapped_column(String(160), unique=True)
    shared_key: Mapped[str | None] = mapped_column(
        String(160)
    )  # the one form that other customers' IDs have too, or ""
    name_sealed: Mapped[bytes | None]
    name_key: Mapped[str | None] = mapped_column(Key)
    phone_sealed: Mapped[bytes | None]
    phone_key: Mapped[str | None] = mapped_column(Key)
    phone_country: Mapped[str | None] = mapped_column(String(3))  # of the phone; none where there is none, or not yet
    phone_changed_at: Mapped[datetime | None]  # since the customer was created (R45)
    email_sealed: Mapped[bytes | None]
    email_key: Mapped[str | None] = mapped_column(Key)
    email_changed_at: Mapped[datetime | None]
    locale: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[bytes | None]  # sealed argon2id string
    password_is_long: Mapped[bool] = mapped_column(server_default=text("false"))  # 15 characters or more (R21)
    totp_sealed: Mapped[bytes | None]
    totp_last_step: Mapped[int] = mapped_column(server_default=text("0"))
    support_code_id: Mapped[str | None] = mapped_column(Id)  # what the temporary code is derived from (R19)
    support_code_key_id: Mapped[int | None]
    support_code_expires_at: Mapped[datetime | None]
    support_code_mac: Mapped[str | None] = mapped_column(String(32))  # of the row and these three
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    subject_id: Mapped[str] = mapped_column(Id, unique=True)
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    change_number: Mapped[int | None] = mapped_column(BigInteger)  # of the last change, once it is numbered
    change_of: Mapped[datetime | None]  # the changed_at that was numbered
    identity_mac: Mapped[str | None] = mapped_column(String(32))  # of the row and its customer ID
    active_mac: Mapped[str | None] = mapped_column(String(32))  # of the row and whether it is active
    traits: Mapped[int] = mapped_column(Computed(TRAITS, persisted=True))
    __table_args__ = (
        Index("ix_customers_traits", "traits", "phone_country", "id"),
        Index("ix_customers_name_key", "name_key", "customer_key"),  # names repeat: their list is paged
        Index("ix_customers_phone_key", "phone_key"),
        Index("ix_customers_email_key", "email_key"),
        *(
            Index(f"ix_customers_{name}", name, sqlite_where=text(changed), postgresql_where=text(changed))
            for name, changed in CHANGED_CONTACTS.items()
        ),
        Index(
            "ix_customers_shared_key",
            "shared_key",
            "id",
            sqlite_where=text(RARE_ID),
            postgresql_where=text(RARE_ID),
        ),
        Index("ix_customers_unnumbered", "id", sqlite_where=text(UNNUMBERED), postgresql_where=text(UNNUMBERED)),
        Index(
            "ix_customers_change_number", "change_number", sqlite_where=text(NUMBERED), postgresql_where=text(NUMBERED)
        ),
    )


class CustomerRemoval(Base):
    """A customer who was erased, under the ``id`` that programs know: a keyed hash of an id that is stored nowhere."""

    __tablename__ = "customer_removals"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    removed_at: Mapped[datetime] = mapped_column(index=True)
    change_number: Mapped[int | None] = mapped_column(BigInteger, index=True)


class ChangeFeed(Base):
    """The one row that numbers the changes of customers, for programs that ask what changed since.

    Changes are numbered after they have committed, one batch at a time, so that no lower number follows a higher one.
    """

    __tablename__ = "change_feed"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    last_number: Mapped[int] = mapped_column(BigInteger)
    cut_number: Mapped[int] = mapped_column(BigInteger)  # the highest that retention has removed


ALL_HOURS = datetime(1970, 1, 1, tzinfo=UTC)

# The lowest that a journey's limits can be (R6): a count below it locks no one.
_MANY = "day_count >= 5 OR total >= 20"
MANY_TRIES = f"({_MANY})"


class Tries(Base):
    """Wrong tries of one person with one method since the last success, strangers included (R6, R7)."""

    __tablename__ = "tries"
    person_key: Mapped[str] = mapped_column(Key, primary_key=True)
    method: Mapped[str] = mapped_column(String(16), primary_key=True)
    is_ticketed: Mapped[bool] = mapped_column(primary_key=True)
    total: Mapped[int]
    day_count: Mapped[int]
    day_ends_at: Mapped[datetime]
    __table_args__ = (
        # With the counts, so that the few who are locked are found without reading the rows of all who mistyped.
        Index(
            "ix_tries_spent",
            "person_key",
            "total",
            "day_count",
            "day_ends_at",
            sqlite_where=text(_MANY),
            postgresql_where=text(_MANY),
        ),
    )


class Counter(Base):
    """A limit's count in its window. A window begins with its first event."""

    __tablename__ = "counters"
    key: Mapped[str] = mapped_column(String(96), primary_key=True)
    events: Mapped[int]
    ends_at: Mapped[datetime] = mapped_column(index=True)


class HourlyCount(Base):
    """What was counted in an hour (UTC) under a name of ``telemetry.METRICS``. Names no one.

    The row of the hour ``ALL_HOURS`` is the total of all hours, which stays when the hours are removed.
    """

    __tablename__ = "hourly_counts"
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(48), primary_key=True)
    labels: Mapped[str] = mapped_column(primary_key=True)  # their values, in the order of the metric's labels, as JSON
    value: Mapped[float] = mapped_column(Double())


class Verification(Base):
    """The answering of one reference, once. Live while ``outcome`` is null."""

    __tablename__ = "verifications"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    reference_hash: Mapped[bytes]
    reference_sealed: Mapped[bytes]
    server: Mapped[str] = mapped_column(String(255))
    version_id: Mapped[str] = mapped_column(Id, ForeignKey("journey_versions.id"))
    slug: Mapped[str] = mapped_column(String(64))
    address_key: Mapped[str] = mapped_column(Key)
    began_at: Mapped[datetime]
    chat_started_at: Mapped[datetime]
    proofs_until: Mapped[datetime]
    chat_ends_at: Mapped[datetime]
    wrong_tries: Mapped[int] = mapped_column(server_default=text("0"))
    sends: Mapped[int] = mapped_column(server_default=text("0"))
    sent_at: Mapped[datetime | None]
    identity_changes: Mapped[int] = mapped_column(server_default=text("0"))
    identifier_key: Mapped[str | None] = mapped_column(Key)  # of the person who was named last
    dropped_parameters: Mapped[str] = mapped_column(String(200), server_default="")
    outcome: Mapped[str | None] = mapped_column(String(16))
    ended_at: Mapped[datetime | None]
    visit_id: Mapped[str | None] = mapped_column(Id)  # the visit that decided
    customer_row: Mapped[str | None] = mapped_column(Id)
    chat_code_sealed: Mapped[bytes | None]
    methods: Mapped[str] = mapped_column(String(64), server_default="")
    ticket_id: Mapped[str | None] = mapped_column(Id)
    mac: Mapped[str | None] = mapped_column(String(32))
    route_mac: Mapped[str | None] = mapped_column(String(32))
    __table_args__ = (
        Index(
            "uq_verifications_live",
            "reference_hash",
            "server",
            unique=True,
            sqlite_where=text("outcome IS NULL"),
            postgresql_where=text("outcome IS NULL"),
        ),
        Index("ix_verifications_reference", "reference_hash", "server", "began_at"),
        Index(
            "ix_verifications_customer_row",
            "customer_row",
            "ended_at",
            sqlite_where=text("customer_row IS NOT NULL"),
            postgresql_where=text("customer_row IS NOT NULL"),
        ),
        Index(
            "ix_verifications_deadline",
            "proofs_until",
            sqlite_where=text("outcome IS NULL"),
            postgresql_where=text("outcome IS NULL"),
        ),
        Index("ix_verifications_slug", "slug", "id"),
        Index(
            "ix_verifications_outcome",
            "outcome",
            "id",
            sqlite_where=text(ENDED_OTHERWISE),
            postgresql_where=text(ENDED_OTHERWISE),
        ),
    )


MOST_LIVE = 10_000  # verifications under way that are looked at


def live_ids(slug: str = "") -> Select[str]:
    """Return a select of the verifications under way, of all journeys or of one, by the index of these alone.

    Asked for by their journey or a range of time as well, SQLite would read all verifications of that instead.
    """
    columns = table_of(Verification).alias("under_way").c
    found = select(columns.id, columns.slug).where(text("under_way.outcome IS NULL")).limit(MOST_LIVE).subquery()
    return select(found.c.id).where(found.c.slug == slug) if slug else select(found.c.id)


# What is_changed looks at, in a statement that joins the customer of the verification.
RESULT_COLUMNS = (*signed_columns(Verification, "verification__"), *signed_columns(CustomerRow, "customer__"))


def is_changed(keyring: Keyring, row: Any) -> bool:
    """Report whether someone other than the portal has changed a verification, or the ID of its customer (R54).

    What such a row with RESULT_COLUMNS says of its outcome, customer and methods is not shown. Of a verification that
    names no customer, and of a delivery that belongs to none, there is less to look at.
    """
    found = row._mapping
    if found["verification__id"] is None or keyring.holds("verifications", found, "verification__"):
        is_named = found["customer__id"] is not None and keyring.requires_macs
        return is_named and not keyring.has_mac("customers", "identity_mac", found, "customer__")
    return True


# The steps of visits and codes are counted from here in journeys that 0.1.0 does not know: see ``Case.stored_step``.
HIDDEN_STEPS = 1000


class Visit(Base):
    """One browser at work on a verification: the person it named and what it proved."""

    __tablename__ = "visits"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    verification_id: Mapped[str] = mapped_column(Id, ForeignKey("verifications.id"), index=True)
    created_at: Mapped[datetime]
    prompt: Mapped[str] = mapped_column(String(40))  # the opaque name of the prompt now shown
    step: Mapped[int]
    method: Mapped[str | None] = mapped_column(String(16))  # chosen for this step
    identifier_sealed: Mapped[bytes | None]  # what was typed, to be repeated to the person
    identifier_key: Mapped[str | None] = mapped_column(Key)
    person_key: Mapped[str | None] = mapped_column(Key)
    customer_row: Mapped[str | None] = mapped_column(Id)
    proved: Mapped[str] = mapped_column(String(64), server_default="")  # methods in order, joined by "+"
    locale: Mapped[str | None] = mapped_column(String(16))  # that its link or its customer chose
    has_script: Mapped[bool | None]  # whether script filled a field of the landing form; decides nothing
    given_sealed: Mapped[bytes | None]  # what was accepted, answered and chosen so far, by step
    mac: Mapped[str | None] = mapped_column(String(32))
    __table_args__ = (
        Index(
            "ix_visits_customer_row",
            "customer_row",
            "verification_id",
            sqlite_where=text("customer_row IS NOT NULL"),
            postgresql_where=text("customer_row IS NOT NULL"),
        ),
        Index(
            "ix_visits_identifier_key",
            "identifier_key",
            "verification_id",
            sqlite_where=text("identifier_key IS NOT NULL"),
            postgresql_where=text("identifier_key IS NOT NULL"),
        ),
    )


class Acceptance(Base):
    """Terms that were accepted in a verification that came to its end. ``again = "changed"`` looks for it."""

    __tablename__ = "acceptances"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    verification_id: Mapped[str] = mapped_column(Id, index=True)
    customer_row: Mapped[str | None] = mapped_column(Id)  # who proved it; none where no one had to
    slug: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(40))
    language: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(String(64))  # SHA-256 of the text, or of the document behind the link
    boxes: Mapped[str] = mapped_column(String(400))  # the keys of those that were ticked, apart by spaces
    accepted_at: Mapped[datetime]
    mac: Mapped[str | None] = mapped_column(String(32))
    __table_args__ = (
        Index("ix_acceptances_slug", "slug", "id"),
        Index(
            "ix_acceptances_customer_row",
            "customer_row",
            "slug",
            "version",
            sqlite_where=text("customer_row IS NOT NULL"),
            postgresql_where=text("customer_row IS NOT NULL"),
        ),
    )


class AnswerRow(Base):
    """The answers of one step, stored until ``expires_at``. Anonymous ones name no verification, customer or hour."""

    __tablename__ = "answers"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    slug: Mapped[str] = mapped_column(String(64))
    verification_id: Mapped[str | None] = mapped_column(Id, index=True)
    customer_row: Mapped[str | None] = mapped_column(Id, index=True)
    answered_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    answers_sealed: Mapped[bytes]
    __table_args__ = (
        Index("ix_answers_slug", "slug", "id"),
        Index("ix_answers_answered_at", "slug", "answered_at", "id"),  # newest first, whatever the id
    )


class Challenge(Base):
    """One issued code with its lifetime. The code itself is derived from the id, never stored."""

    __tablename__ = "challenges"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    verification_id: Mapped[str] = mapped_column(Id, ForeignKey("verifications.id"))
    identifier_key: Mapped[str] = mapped_column(Key)
    customer_row: Mapped[str | None] = mapped_column(Id)
    destination_key: Mapped[str] = mapped_column(Key)
    step: Mapped[int]
    method: Mapped[str] = mapped_column(String(16))
    key_id: Mapped[int]
    digits: Mapped[int]
    issued_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    replaced_at: Mapped[datetime | None]
    mac: Mapped[str | None] = mapped_column(String(32))
    __table_args__ = (Index("ix_challenges_verification_id", "verification_id", "issued_at"),)


class Delivery(Base):
    """One row of the outbox: a callback, or a message, and where it stands."""

    __tablename__ = "deliveries"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    kind: Mapped[str] = mapped_column(String(8))  # callback | message | webhook
    verification_id: Mapped[str | None] = mapped_column(Id, ForeignKey("verifications.id"), index=True)
    challenge_id: Mapped[str | None] = mapped_column(Id)  # without one, a message is a notice and has a body
    target: Mapped[str] = mapped_column(String(255))  # the server, the channel's name, or the program's host
    contract: Mapped[str] = mapped_column(String(24), server_default="")
    lane: Mapped[bytes | None]  # callbacks of one reference, or notices to one customer: they leave one after another
    body_sealed: Mapped[bytes | None]
    priority: Mapped[int]
    state: Mapped[str] = mapped_column(String(12))
    reason: Mapped[str] = mapped_column(String(200), server_default="")
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    is_unclear: Mapped[bool] = mapped_column(server_default=text("false"))  # an attempt's fate is unknown
    created_at: Mapped[datetime]
    next_at: Mapped[datetime]
    leased_until: Mapped[datetime | None]
    give_up_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    request_id: Mapped[str | None] = mapped_column(String(64))  # of the request that caused it, for the log
    locale: Mapped[str | None] = mapped_column(String(16))  # that the message of a code is in
    about_sealed: Mapped[bytes | None]  # of a notice: its subject and its masked recipient, which outlive the body
    __table_args__ = (
        Index(
            "ix_deliveries_pending",
            "kind",
            "target",
            "priority",
            "next_at",
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
        # Few: what is on its way. Without it PostgreSQL reads the whole table to see which lanes are busy.
        Index(
            "ix_deliveries_leased",
            "lane",
            sqlite_where=text("leased_until IS NOT NULL"),
            postgresql_where=text("leased_until IS NOT NULL"),
        ),
        Index("ix_deliveries_lane", "lane", "created_at"),
        Index(
            "uq_deliveries_result",
            "verification_id",
            unique=True,
            sqlite_where=text("kind = 'callback'"),
            postgresql_where=text("kind = 'callback'"),
        ),
        Index(
            "ix_deliveries_state",
            "kind",
            "state",
            "id",
            sqlite_where=text(NOT_ACCEPTED),
            postgresql_where=text(NOT_ACCEPTED),
        ),
        Index("ix_deliveries_ended", "ended_at", "id", sqlite_where=text(ENDED), postgresql_where=text(ENDED)),
    )


class Attempt(Base):
    """One try to send a delivery. Without an ``ended_at`` its fate is unknown: the process was killed."""

    __tablename__ = "attempts"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    delivery_id: Mapped[str] = mapped_column(Id, ForeignKey("deliveries.id"), index=True)
    number: Mapped[int]
    began_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    milliseconds: Mapped[int | None]
    fate: Mapped[str] = mapped_column(String(12))
    status: Mapped[int | None]
    detail: Mapped[str] = mapped_column(String(200), server_default="")


class AuditEvent(Base):
    """One fact, in the past tense. Names people only by their random subject id."""

    __tablename__ = "audit_events"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(48))
    verification_id: Mapped[str | None] = mapped_column(Id, index=True)
    subject_id: Mapped[str | None] = mapped_column(Id, index=True)
    admin_id: Mapped[str | None] = mapped_column(Id)  # whose act it was
    facts: Mapped[dict[str, Any]]
    mac: Mapped[str] = mapped_column(String(64))
    block: Mapped[int | None]  # the number of the block that it is sealed in; none until then, soon after its commit
    __table_args__ = (
        Index("ix_audit_events_unsealed", "id", sqlite_where=text(UNSEALED), postgresql_where=text(UNSEALED)),
        Index(
            "ix_audit_events_admin",
            "admin_id",
            "id",
            sqlite_where=text("admin_id IS NOT NULL"),
            postgresql_where=text("admin_id IS NOT NULL"),
        ),
        Index("ix_audit_events_kind", "kind", "id", sqlite_where=text(RARE_KIND), postgresql_where=text(RARE_KIND)),
    )


class AuditBlock(Base):
    """Events that were sealed together, and what binds them to all that was sealed before. Never changed."""

    __tablename__ = "audit_blocks"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    events: Mapped[list[Any]]  # their ids, in order
    digest: Mapped[str] = mapped_column(String(64))  # of the ids and the HMACs of the events
    note: Mapped[str] = mapped_column(String(200), server_default="")
    head: Mapped[str] = mapped_column(String(64))


class AuditChain(Base):
    """The one row that says where the blocks begin and end, and which process seals now."""

    __tablename__ = "audit_chain"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    last_number: Mapped[int]
    last_head: Mapped[str] = mapped_column(String(64))
    cut_number: Mapped[int]  # the newest block that retention removed; 0 if it has removed none
    cut_head: Mapped[str] = mapped_column(String(64))
    mac: Mapped[str] = mapped_column(String(64))  # of the four above
    holder: Mapped[str] = mapped_column(String(32), server_default="")
    leased_until: Mapped[datetime | None]


class AuditStreamRow(Base):
    """The one row of the stream to another system: what it has received, and what became of the last try."""

    __tablename__ = "audit_stream"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    target: Mapped[str] = mapped_column(String(300))  # host:port
    block: Mapped[int]  # the newest block that was received
    tried_at: Mapped[datetime]
    next_at: Mapped[datetime]
    failures: Mapped[int]  # in a row
    fault: Mapped[str] = mapped_column(String(300))
    holder: Mapped[str] = mapped_column(String(32))
    leased_until: Mapped[datetime | None]


class Admin(Base):
    """A person with access to the configuration page. A reset removes password and app until the link is used."""

    __tablename__ = "admins"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(80))
    email_sealed: Mapped[bytes]
    email_key: Mapped[str] = mapped_column(Key, unique=True)
    role: Mapped[str] = mapped_column(String(16))  # owner | support | auditor
    password_hash: Mapped[bytes | None]  # sealed argon2id string
    totp_sealed: Mapped[bytes | None]
    totp_last_step: Mapped[int] = mapped_column(server_default=text("0"))
    recovery_sealed: Mapped[bytes | None]  # recovery codes as shown, until the admin confirms to have stored them
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    mac: Mapped[str | None] = mapped_column(String(32))


class RecoveryCode(Base):
    """One way in for an admin without their authenticator app, once (R20)."""

    __tablename__ = "recovery_codes"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    admin_id: Mapped[str] = mapped_column(Id, ForeignKey("admins.id"), index=True)
    code_key: Mapped[str] = mapped_column(Key)
    used_at: Mapped[datetime | None]


class Passkey(Base):
    """A passkey (WebAuthn) that an admin signs in with: its public half, which is no secret."""

    __tablename__ = "passkeys"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    admin_id: Mapped[str] = mapped_column(Id, ForeignKey("admins.id"), index=True)
    name: Mapped[str] = mapped_column(String(60))
    credential_id: Mapped[bytes] = mapped_column(unique=True)
    public_key: Mapped[bytes]
    sign_count: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    mac: Mapped[str | None] = mapped_column(String(32))


class AdminSession(Base):
    """An admin's browser. Only the token's hash is here, so that a copied database signs no one in (R26)."""

    __tablename__ = "admin_sessions"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    admin_id: Mapped[str] = mapped_column(Id, ForeignKey("admins.id"), index=True)
    began_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    confirmed_at: Mapped[datetime]  # when the second factor was last shown
    address: Mapped[str] = mapped_column(String(45))
    browser: Mapped[str] = mapped_column(String(160))
    mac: Mapped[str | None] = mapped_column(String(32))


class AdminLink(Base):
    """A one-time link: to become an admin, or to set a new password and authenticator app."""

    __tablename__ = "admin_links"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    role: Mapped[str] = mapped_column(String(16))
    admin_id: Mapped[str | None] = mapped_column(Id, ForeignKey("admins.id"), index=True)  # for a reset
    email_sealed: Mapped[bytes | None]  # the address it was made for
    made_by: Mapped[str | None] = mapped_column(Id)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    mac: Mapped[str | None] = mapped_column(String(32))


class Logo(Base):
    """A picture that journeys show, found by the SHA-256 of its bytes."""

    __tablename__ = "logos"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    media_type: Mapped[str] = mapped_column(String(16))
    content: Mapped[bytes]
    created_at: Mapped[datetime]


class CredentialLink(Base):
    """A one-time link by which a customer sets a password or enrols an authenticator app."""

    __tablename__ = "credential_links"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    kind: Mapped[str] = mapped_column(String(16))  # password | totp
    customer_row: Mapped[str] = mapped_column(Id, ForeignKey("customers.id"), index=True)
    made_by: Mapped[str | None] = mapped_column(Id)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    mac: Mapped[str | None] = mapped_column(String(32))


class TicketRow(Base):
    """What Flow's server registered about a chat before its link was sent: whose it is, and what for."""

    __tablename__ = "tickets"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    token_hash: Mapped[bytes | None] = mapped_column(unique=True)  # none where it is found by its reference alone
    slug: Mapped[str] = mapped_column(String(64))
    reference_hash: Mapped[bytes | None]  # the one that it serves: given, or the first that began with it
    customer_row: Mapped[str | None] = mapped_column(Id)  # none where several people hold the number
    phone_key: Mapped[str | None] = mapped_column(Key)  # none where it was registered by customer ID
    phone_sealed: Mapped[bytes | None]
    purpose_sealed: Mapped[bytes | None]
    payment_sealed: Mapped[bytes | None]  # what the customer is asked to approve
    locale: Mapped[str] = mapped_column(String(16), server_default="")
    api_key_id: Mapped[str | None] = mapped_column(Id)  # whose act it was
    created_at: Mapped[datetime]
    proofs_until: Mapped[datetime]
    ends_at: Mapped[datetime]
    bound_at: Mapped[datetime | None]
    mac: Mapped[str | None] = mapped_column(String(32))
    __table_args__ = (Index("ix_tickets_reference", "reference_hash", "slug", "id"),)


class ApiKeyRow(Base):
    """A program's key to the API. Only its hash is here: the key itself was shown once, to the admin who made it."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(80))
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    ending: Mapped[str] = mapped_column(String(4))  # the key's last characters, to tell one from another
    scopes: Mapped[str] = mapped_column(String(200))  # joined by blanks
    made_by: Mapped[str | None] = mapped_column(Id)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]  # to the minute
    revoked_at: Mapped[datetime | None]
    mac: Mapped[str | None] = mapped_column(String(32))


class ApiAnswer(Base):
    """The answer to one write of a program with an Idempotency-Key. Without a status the write is under way."""

    __tablename__ = "api_answers"
    key: Mapped[str] = mapped_column(Key, primary_key=True)  # of the API key and the Idempotency-Key
    request: Mapped[str] = mapped_column(Key)  # of all that was asked
    holder: Mapped[str] = mapped_column(String(32))  # the process that carries it out
    leased_until: Mapped[datetime]
    status: Mapped[int | None]
    answer_sealed: Mapped[bytes | None]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    customer_row: Mapped[str | None] = mapped_column(Id, index=True)  # the customer in the answer


class AlertRow(Base):
    """Something that went wrong and was reported, until it is over. One of a kind and subject is open at a time."""

    __tablename__ = "alerts"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    kind: Mapped[str] = mapped_column(String(24))
    subject: Mapped[str] = mapped_column(String(255))  # the server or channel it is about
    words: Mapped[str]
    since: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    __table_args__ = (
        Index(
            "uq_alerts_open",
            "kind",
            "subject",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
    )


class WebhookSecret(Base):
    """The one secret that alerts by webhook are signed with."""

    __tablename__ = "webhook_secrets"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    secret_sealed: Mapped[bytes]
    made_at: Mapped[datetime]


class WebhookEndpoint(Base):
    """Where a program wants events to be posted. Its address is sealed, so that no one else can change it."""

    __tablename__ = "webhook_endpoints"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    target: Mapped[str] = mapped_column(String(255))  # its host, for lists; requests go to the sealed address
    url_sealed: Mapped[bytes]
    secret_sealed: Mapped[bytes]
    old_secret_sealed: Mapped[bytes | None]  # signs too, until then
    old_secret_until: Mapped[datetime | None]
    events: Mapped[str] = mapped_column(String(200))  # joined by blanks
    is_active: Mapped[bool]
    gone_at: Mapped[datetime | None]  # when it answered 410, which switched it off
    failing_since: Mapped[datetime | None]  # the first of the failures in a row
    fault: Mapped[str] = mapped_column(String(200))  # of the first of them
    warned_at: Mapped[datetime | None]  # when owners heard that it keeps failing
    paused_at: Mapped[datetime | None]  # when that had lasted too long: nothing is sent to it until an owner resumes it
    made_by: Mapped[str | None] = mapped_column(Id)
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]


class ImportRow(Base):
    """One import of customers: a file, what its columns are, and how far it has come."""

    __tablename__ = "imports"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    file_name: Mapped[str] = mapped_column(String(120))
    state: Mapped[str] = mapped_column(String(12))
    is_attended: Mapped[bool]  # a command works on it and no other process takes it over
    is_partial: Mapped[bool] = mapped_column(server_default=text("false"))  # what cannot be imported is left out
    is_telling: Mapped[bool] = mapped_column(server_default=text("false"))  # changed contacts are notified (R13)
    columns: Mapped[list[Any]]  # ours, by position in the file
    region: Mapped[str] = mapped_column(String(2))
    counts: Mapped[dict[str, Any]]
    fault_count: Mapped[int] = mapped_column(server_default=text("0"))
    is_cut: Mapped[bool] = mapped_column(server_default=text("false"))  # the file could not be read to its end
    reason: Mapped[str] = mapped_column(String(200), server_default="")
    admin_id: Mapped[str | None] = mapped_column(Id)
    created_at: Mapped[datetime]
    began_at: Mapped[datetime | None]  # the work under way
    rows: Mapped[int] = mapped_column(server_default=text("0"))  # of the file, about: a cell may have line breaks
    done: Mapped[int] = mapped_column(server_default=text("0"))  # of that work, in rows
    total: Mapped[int] = mapped_column(server_default=text("0"))
    place: Mapped[int] = mapped_column(server_default=text("0"))  # the last staged row that is done with
    told_to: Mapped[int] = mapped_column(
        server_default=text("0")
    )  # the last row whose customer was notified of the import
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    lease: Mapped[str | None] = mapped_column(Id)  # of the process that works on it
    leased_until: Mapped[datetime | None]
    switched_at: Mapped[datetime | None]
    undone_by: Mapped[str | None] = mapped_column(Id)  # the admin who asked for it
    undo_fault: Mapped[str] = mapped_column(String(16), server_default="")  # why that could not be done
    # The first staged rows that it met changed, by their numbers.
    undo_met: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    ended_at: Mapped[datetime | None]


class ImportPart(Base):
    """A piece of the file as it was sent, sealed, until the import is over."""

    __tablename__ = "import_parts"
    import_id: Mapped[str] = mapped_column(Id, ForeignKey("imports.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text_sealed: Mapped[bytes]


class ImportFault(Base):
    """Why a row of the file cannot be imported, without its value."""

    __tablename__ = "import_faults"
    import_id: Mapped[str] = mapped_column(Id, ForeignKey("imports.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    row: Mapped[int]
    column: Mapped[str] = mapped_column(String(40))
    reason: Mapped[str] = mapped_column(String(250))


class StagedRow(Base):
    """What one row of the file comes to: the new values, sealed for their customer, and those that they replace.

    Before the switch it waits; after it, it is what an undo puts back.
    """

    __tablename__ = "import_rows"
    import_id: Mapped[str] = mapped_column(Id, ForeignKey("imports.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    customer_row: Mapped[str] = mapped_column(Id, index=True)
    customer_key: Mapped[str] = mapped_column(String(160))
    shared_key: Mapped[str | None] = mapped_column(String(160))  # null if an older version staged the row
    subject_id: Mapped[str] = mapped_column(Id)
    is_new: Mapped[bool]
    sets: Mapped[int]  # which fields change, one bit each
    plain_sealed: Mapped[bytes | None]  # a password that waits to be hashed
    customer_id: Mapped[str | None] = mapped_column(String(128))
    name_sealed: Mapped[bytes | None]
    name_key: Mapped[str | None] = mapped_column(Key)
    phone_sealed: Mapped[bytes | None]
    phone_key: Mapped[str | None] = mapped_column(Key)
    phone_country: Mapped[str | None] = mapped_column(String(3))
    email_sealed: Mapped[bytes | None]
    email_key: Mapped[str | None] = mapped_column(Key)
    locale: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[bytes | None]
    password_is_long: Mapped[bool]
    totp_sealed: Mapped[bytes | None]
    identity_mac: Mapped[str | None] = mapped_column(String(32))
    active_mac: Mapped[str | None] = mapped_column(String(32))  # of a new customer
    old_identity_mac: Mapped[str | None] = mapped_column(String(32))
    old_customer_id: Mapped[str | None] = mapped_column(String(128))
    old_name_sealed: Mapped[bytes | None]
    old_name_key: Mapped[str | None] = mapped_column(Key)
    old_phone_sealed: Mapped[bytes | None]
    old_phone_key: Mapped[str | None] = mapped_column(Key)
    old_phone_country: Mapped[str | None] = mapped_column(String(3))
    old_email_sealed: Mapped[bytes | None]
    old_email_key: Mapped[str | None] = mapped_column(Key)
    old_locale: Mapped[str] = mapped_column(String(16))
    old_password_hash: Mapped[bytes | None]
    old_password_is_long: Mapped[bool]
    old_totp_sealed: Mapped[bytes | None]


DRIVES_STORED = timedelta(hours=1)  # how long a test drive is stored after its chat clock has run out


class DriveRow(Base):
    """A test drive: a small separate portal, sealed whole. Deleted soon after its chat clock."""

    __tablename__ = "drives"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    admin_id: Mapped[str] = mapped_column(Id, ForeignKey("admins.id"), index=True)
    slug: Mapped[str] = mapped_column(String(64))
    made_at: Mapped[datetime]
    ends_at: Mapped[datetime] = mapped_column(index=True)
    revision: Mapped[str] = mapped_column(String(8))  # the migration whose tables are folded up in it
    state_sealed: Mapped[bytes]
    leased_until: Mapped[datetime | None]
