"""Keys of the API: made by an owner for one program, shown once, kept as a hash alone.

A key has scopes, which say what its program may do, and an end. Nothing here can show a key again, and no key is ever
renewed: a new one takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, or_, select, update

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, new_token, token_hash
from auth_portal.errors import NotFound, Problem, TooMany
from auth_portal.i18n import gettext as _
from auth_portal.services import audit, limits
from auth_portal.services.limits import MINUTE, Limit
from auth_portal.services.notices import Notices
from auth_portal.store.db import Database, new_id
from auth_portal.store.models import ApiKeyRow

SCOPES: Mapping[str, str] = {  # and what each allows, in plain words
    "customers:read": "see customers with their name, phone number and e-mail address",
    "customers:write": "create, change, switch off and delete customers, and set their passwords",
    "verifications:read": "see verifications and how they ended",
    "deliveries:read": "see callbacks and messages with every attempt",
    "deliveries:retry": "send callbacks again that were given up",
    "tickets:write": "register tickets, which vouch for the phone number of a chat",
}
PREFIX = "portal_"  # so that a key is known for one wherever it turns up
NAME_LENGTH = 80
DAYS = (30, 90, 180, 365)  # a key's life: always an end, a year at most
MOST_KEYS = 100  # in force at once
ENDED_SHOWN = timedelta(days=30)  # how long the list still tells of a key that ended
ENDING = 4  # characters of a key that are kept to tell it from others
USED_STEP = timedelta(minutes=1)  # the time of last use is this coarse, so that it is no write of every request
REQUESTS_PER_MINUTE = 600  # of one key
WRONG_PER_MINUTE = 30  # of one address


@dataclass(frozen=True)
class ApiKey:
    """A key as the list shows it."""

    id: str
    name: str
    ending: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None
    is_live: bool

    @property
    def words(self) -> list[str]:
        """What the key allows, in plain words."""
        return [SCOPES[scope] for scope in self.scopes]


@dataclass(frozen=True)
class Made:
    """A new key, the one time that it can be seen; or by field, why none was made."""

    id: str = ""
    key: str = field(default="", repr=False)
    faults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Caller:
    """The program that a request comes from, by its key."""

    key_id: str
    name: str
    scopes: frozenset[str]


class ApiKeys:
    """Writes the table ``api_keys``."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock, notices: Notices) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._notices = notices

    def listed(self) -> list[ApiKey]:
        """The keys in force and those that ended within 30 days, the newest first; there are never many."""
        now = self._clock()
        lately = now - ENDED_SHOWN
        shown = (ApiKeyRow.expires_at > lately) & or_(ApiKeyRow.revoked_at.is_(None), ApiKeyRow.revoked_at > lately)
        with self._database.read() as connection:
            rows = connection.execute(
                select(ApiKeyRow.__table__).where(shown).order_by(ApiKeyRow.id.desc()).limit(5 * MOST_KEYS)
            ).all()
        return [_api_key(row, now) for row in rows]

    def get(self, key_id: str) -> ApiKey:
        """One key. Raises NotFound."""
        with self._database.read() as connection:
            row = connection.execute(select(ApiKeyRow.__table__).where(ApiKeyRow.id == key_id)).one_or_none()
        if row is None:
            raise NotFound("api_key_unknown")
        return _api_key(row, self._clock())

    def create(self, name: str, scopes: Sequence[str], days: int, admin_id: str | None) -> Made:
        """Makes a key that ends in so many days, and tells all owners (R19). What is wrong comes back by field."""
        if faults := _faults(name, scopes, days):
            return Made(faults=faults)
        now, key, chosen = self._clock(), PREFIX + new_token(), [scope for scope in SCOPES if scope in scopes]
        row = {
            "id": new_id(now),
            "name": name.strip(),
            "token_hash": token_hash(key),
            "ending": key[-ENDING:],
            "scopes": " ".join(chosen),
            "made_by": admin_id,
            "created_at": now,
            "expires_at": now + timedelta(days=days),
        }
        with self._database.write() as connection:
            if _in_force(connection, now) >= MOST_KEYS:
                return Made(
                    faults={
                        "name": _("There are %(most)s keys already. Revoke one that is not needed.", most=MOST_KEYS)
                    }
                )
            connection.execute(insert(ApiKeyRow).values(row))
            audit.record(
                connection, self._keyring, now, "api_key_created",
                admin_id=admin_id, api_key=row["id"], scopes=chosen, days=days,
            )  # fmt: skip
            until = self._notices.wall.told(now + timedelta(days=days))
            lines = [f"{name.strip()} (…{key[-ENDING:]}), until {until}. Its program may:"]
            lines += [f"- {SCOPES[scope]}" for scope in chosen]
            self._notices.to_owners(connection, now, "A key for programs was made", lines)
        return Made(str(row["id"]), key)

    def revoke(self, key_id: str, admin_id: str | None) -> None:
        """Ends a key at once; one that ended before stays as it is. Raises NotFound."""
        known, now = self.get(key_id), self._clock()
        with self._database.write() as connection:
            ended = connection.execute(
                update(ApiKeyRow).where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None)).values(revoked_at=now)
            )
            if ended.rowcount != 1:
                return
            audit.record(connection, self._keyring, now, "api_key_revoked", admin_id=admin_id, api_key=key_id)
            text = f"{known.name} (…{known.ending}). Whatever still uses it is refused from now on."
            self._notices.to_owners(connection, now, "A key for programs was revoked", [text])

    def enter(self, key: str, address: str) -> Caller:
        """Who calls with this key, each call counted.

        Raises Problem 401 for a key that is not, or no longer, in force, and TooMany for an address with more than
        30 wrong keys or a key with more than 600 calls in a minute.
        """
        now = self._clock()
        with self._database.read() as connection:
            row = connection.execute(
                select(
                    ApiKeyRow.id, ApiKeyRow.name, ApiKeyRow.scopes, ApiKeyRow.expires_at, ApiKeyRow.revoked_at,
                    ApiKeyRow.used_at,
                ).where(ApiKeyRow.token_hash == token_hash(key))
            ).one_or_none()  # fmt: skip
        if row is None or row.revoked_at is not None or row.expires_at <= now:
            raise self._refusal(address, now)
        with self._database.write() as connection:
            (taken,) = limits.take(connection, now, [Limit(f"api:{row.id}", REQUESTS_PER_MINUTE, MINUTE)])
            if row.used_at is None or row.used_at <= now - USED_STEP:
                connection.execute(update(ApiKeyRow).where(ApiKeyRow.id == row.id).values(used_at=now))
        if taken.is_over:
            raise TooMany("too_many_calls", retry_after_seconds=_seconds_until(taken.ends_at, now))
        return Caller(row.id, row.name, frozenset(row.scopes.split()))

    def _refusal(self, address: str, now: datetime) -> Problem:
        limit = Limit(f"api_wrong:{limits.address_key(address, self._keyring)}", WRONG_PER_MINUTE, MINUTE)
        with self._database.write() as connection:
            (taken,) = limits.take(connection, now, [limit])
        if taken.is_over:
            return TooMany("too_many_wrong_keys", retry_after_seconds=_seconds_until(taken.ends_at, now))
        return Problem("key_wrong", status=401)


def _faults(name: str, scopes: Sequence[str], days: int) -> dict[str, str]:
    faults: dict[str, str] = {}
    if not name.strip() or len(name.strip()) > NAME_LENGTH or not name.strip().isprintable():
        faults["name"] = _("Say which program uses the key, in at most %(most)s characters.", most=NAME_LENGTH)
    if not scopes or not set(scopes) <= SCOPES.keys():
        faults["scopes"] = _("Choose what the program may do, one thing at least.")
    if days not in DAYS:
        faults["days"] = _("Choose one of the times in the list.")
    return faults


def _in_force(connection: Connection, now: datetime) -> int:
    found = select(ApiKeyRow.id).where(ApiKeyRow.expires_at > now, ApiKeyRow.revoked_at.is_(None)).limit(MOST_KEYS)
    return len(connection.execute(found).all())


def _api_key(row: Any, now: datetime) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        ending=row.ending,
        scopes=tuple(row.scopes.split()),
        created_at=row.created_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
        revoked_at=row.revoked_at,
        is_live=row.revoked_at is None and row.expires_at > now,
    )


def _seconds_until(moment: datetime, now: datetime) -> int:
    return int((moment - now).total_seconds()) + 1
