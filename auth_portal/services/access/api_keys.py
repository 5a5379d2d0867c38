"""Keys of the API: created by an owner for one program, shown once, stored only as a hash.

A key has scopes, which say what its program may do, and an end. Nothing here can show a key again, and no key is ever
renewed: a new one takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, or_, select, update

from auth_portal.crypto import new_token, token_hash
from auth_portal.errors import Conflict, NotFound, Problem, TooMany
from auth_portal.i18n import gettext as _
from auth_portal.services import limits
from auth_portal.services.delivery.notices import Notices
from auth_portal.services.limits import MINUTE, Limit
from auth_portal.store.db import Transactions
from auth_portal.store.models import ApiKeyRow, table_of

SCOPES: Mapping[str, str] = {  # and what each allows, in plain words
    "customers:read": "see customers with their name, phone number and email address",
    "customers:write": "create, change, switch off and delete customers",
    "customers:credentials": "set and remove customers' passwords and authenticator secrets (with customers:write)",
    "verifications:read": "see verifications and how they ended",
    "deliveries:read": "see callbacks and messages with every attempt",
    "deliveries:retry": "send callbacks again that were given up",
    "tickets:write": "register tickets, which vouch for the phone number of a chat",
}
PAGE = "/admin/api-keys"
PREFIX = "portal_"  # so that a key is recognised wherever it turns up
NAME_LENGTH = 80
DAYS = (30, 90, 180, 365)  # a key's life: always an end, a year at most
MOST_KEYS = 100  # valid at the same time
ENDED_SHOWN = timedelta(days=30)  # how long the list still shows a key that ended
ENDING = 4  # characters of a key that are stored to distinguish it from others
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
        """Return what the key allows, in plain words."""
        return [SCOPES[scope] for scope in self.scopes]


@dataclass(frozen=True)
class NewApiKey:
    """A new key, the only time that it can be seen; or by field, why none was created."""

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
    """Create, check and revoke keys. The only writer of the table ``api_keys``."""

    scopes, days = SCOPES, DAYS

    def __init__(self, transactions: Transactions, notices: Notices) -> None:
        self._transactions = transactions
        self._notices = notices

    def recent(self) -> list[ApiKey]:
        """Return the valid keys and those that ended within 30 days, the newest first; there are never many."""
        with self._transactions.read() as work:
            lately = work.now - ENDED_SHOWN
            shown = (ApiKeyRow.expires_at > lately) & or_(ApiKeyRow.revoked_at.is_(None), ApiKeyRow.revoked_at > lately)
            found = select(ApiKeyRow.__table__).where(shown).order_by(ApiKeyRow.id.desc()).limit(5 * MOST_KEYS)
            return [_api_key(row, work.now) for row in work.execute(found).all()]

    def get(self, key_id: str) -> ApiKey:
        """Return one key. Raise NotFound."""
        with self._transactions.read() as work:
            row = work.execute(select(ApiKeyRow.__table__).where(ApiKeyRow.id == key_id)).one_or_none()
        if row is None:
            raise NotFound("api_key_unknown")
        return _api_key(row, work.now)

    def create(self, name: str, scopes: Sequence[str], days: int, admin_id: str | None) -> NewApiKey:
        """Create a key that ends in so many days, and notify all owners (R44); or return by field what is wrong."""
        name = name.strip()
        faults: dict[str, str] = {}
        if not name or len(name) > NAME_LENGTH or not name.isprintable():
            faults["name"] = _("Say which program uses the key, in at most %(most)s characters.", most=NAME_LENGTH)
        if not scopes or not set(scopes) <= SCOPES.keys():
            faults["scopes"] = _("Choose at least one thing that the program may do.")
        if days not in DAYS:
            faults["days"] = _("Choose one of the times in the list.")
        if faults:
            return NewApiKey(faults=faults)
        key, chosen = PREFIX + new_token(), [scope for scope in SCOPES if scope in scopes]
        with self._transactions.write() as work:
            valid = ApiKeyRow.expires_at > work.now, ApiKeyRow.revoked_at.is_(None)
            if work.execute(select(func.count()).select_from(ApiKeyRow).where(*valid)).scalar_one() >= MOST_KEYS:
                fault = _("There are %(most)s keys already. Revoke one that is not needed.", most=MOST_KEYS)
                return NewApiKey(faults={"name": fault})
            row = {
                "id": work.new_id(),
                "name": name,
                "token_hash": token_hash(key),
                "ending": key[-ENDING:],
                "scopes": " ".join(chosen),
                "made_by": admin_id,
                "created_at": work.now,
                "expires_at": work.now + timedelta(days=days),
                "revoked_at": None,
            }
            work.execute(insert(ApiKeyRow).values(work.keyring.signed("api_keys", row)))
            facts: dict[str, Any] = {"api_key": row["id"], "name": name, "scopes": chosen, "days": days}
            work.record("api_key_created", admin_id=admin_id, **facts)
            until = self._notices.wall.with_zone(work.now + timedelta(days=days))
            lines = [f"{name} (…{key[-ENDING:]}), until {until}. Its program may:"]
            lines += [f"- {SCOPES[scope]}" for scope in chosen]
            self._notices.change_to_owners(work, "An API key was created", lines, admin_id, [PAGE])
        return NewApiKey(str(row["id"]), key)

    def revoke(self, key_id: str, admin_id: str | None) -> None:
        """End a key immediately; one that ended before stays as it is. Raise NotFound."""
        known = self.get(key_id)
        with self._transactions.write() as work:
            valid = select(ApiKeyRow.id).where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None))
            if work.execute(valid.with_for_update()).first() is None:
                return
            try:
                work.update_signed(table_of(ApiKeyRow), key_id, revoked_at=work.now)
            except Conflict:  # changed by someone else: it is not accepted already, and stays so
                work.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(revoked_at=work.now))
            work.record("api_key_revoked", admin_id=admin_id, api_key=key_id, name=known.name)
            text = f"{known.name} (…{known.ending}). A program that still uses it is refused from now on."
            self._notices.change_to_owners(work, "An API key was revoked", [text], admin_id, [PAGE])

    def enter(self, key: str, address: str) -> Caller:
        """Return the program that calls with this key, and count the call.

        Raise Problem 401 for a key that is unknown or no longer valid, and TooMany for an address with more than 30
        wrong keys or a key with more than 600 calls in a minute.
        """
        columns = (
            ApiKeyRow.id,
            ApiKeyRow.name,
            ApiKeyRow.scopes,
            ApiKeyRow.token_hash,
            ApiKeyRow.mac,
            ApiKeyRow.expires_at,
            ApiKeyRow.revoked_at,
            ApiKeyRow.used_at,
        )
        with self._transactions.read() as reading:
            row = reading.execute(select(*columns).where(ApiKeyRow.token_hash == token_hash(key))).one_or_none()
        if row is None or row.revoked_at is not None or row.expires_at <= reading.now:
            raise self._refusal(address)
        if not self._transactions.keyring.holds("api_keys", row._mapping):
            with self._transactions.write() as work:
                limits.note_broken(work, "api_keys", row.id)
            raise self._refusal(address)
        with self._transactions.write() as work:
            (taken,) = limits.take(work, [Limit(f"api:{row.id}", REQUESTS_PER_MINUTE, MINUTE)])
            if row.used_at is None or row.used_at <= work.now - USED_STEP:
                work.execute(update(ApiKeyRow).where(ApiKeyRow.id == row.id).values(used_at=work.now))
        if taken.is_over:
            work.counts.add("limits_hit", "too_many_calls")
            raise TooMany("too_many_calls", retry_after_seconds=_seconds_until(taken.ends_at, work.now))
        return Caller(row.id, row.name, frozenset(row.scopes.split()))

    def _refusal(self, address: str) -> Problem:
        network = limits.address_key(address, self._transactions.keyring)
        with self._transactions.write() as work:
            limit = Limit(f"api_wrong:{network}", WRONG_PER_MINUTE, MINUTE)
            (taken,) = limits.take(work, [limit])
        if taken.is_over:
            work.counts.add("limits_hit", "too_many_wrong_keys")
            return TooMany("too_many_wrong_keys", retry_after_seconds=_seconds_until(taken.ends_at, work.now))
        return Problem("key_wrong", status=401)


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
