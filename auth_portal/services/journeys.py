"""The configuration as requests read it: an immutable snapshot per process, and the old versions of journeys.

What a journey may say is in ``config.journey``. Changes nothing.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Self

from sqlalchemy import ColumnElement, select

from auth_portal.crypto import Keyring
from auth_portal.errors import NotFound
from auth_portal.gateways.channels import ChannelConfig, parse_channel
from auth_portal.methods import CARRIES
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.portal import PortalSettings
from auth_portal.store.db import Database
from auth_portal.store.models import ChannelRow, Journey, JourneyVersion, Portal

SANDBOX_CHANNELS = frozenset({"inbox", "console"})
SNAPSHOT_SECONDS = 1.0  # how old a snapshot may be before the version row is looked at again


@dataclass(frozen=True)
class JourneyNow:
    """A journey as it is live now."""

    version_id: str
    number: int
    config: JourneyConfig


@dataclass(frozen=True)
class Snapshot:
    """All that requests need to know of the configuration, at one version. Immutable."""

    version: int
    portal: PortalSettings
    journeys: Mapping[str, JourneyNow]
    channels: Mapping[str, ChannelConfig]
    has_sandbox: bool
    default: JourneyNow | None = field(default=None)
    deleted: Mapping[str, JourneyNow] = field(default_factory=dict)  # closed, so that their links still tell the chat

    def journey(self, slug: str | None) -> JourneyNow:
        """The journey of a path; the default one for ``/``. Raises NotFound."""
        found = self.default if slug is None else self.journeys.get(slug) or self.deleted.get(slug)
        if found is None:
            raise NotFound("journey_unknown")
        return found

    def channel_for(self, journey: JourneyConfig, carries: str) -> ChannelConfig | None:
        """The first of the journey's channels that can carry this kind of message here."""
        for name in journey.channels:
            channel = self.channels.get(name)
            if channel is not None and carries in channel.message_kinds and self.may_use(channel):
                return channel
        return None

    def may_use(self, channel: ChannelConfig) -> bool:
        """Whether a channel may send here: those of the sandbox only where it is on."""
        return channel.kind not in SANDBOX_CHANNELS or self.has_sandbox

    def workable(self, journey: JourneyConfig, methods: Iterable[str]) -> tuple[str, ...]:
        """Those of the methods that can work at all: the ones that need no channel, or have one."""
        return tuple(
            method
            for method in methods
            if method not in CARRIES or self.channel_for(journey, CARRIES[method]) is not None
        )

    def is_open(self, journey: JourneyConfig) -> bool:
        """Whether anybody can get through this journey now; where not, it answers ``unavailable``."""
        if not journey.active or (journey.callback.server == "sandbox" and not self.has_sandbox):
            return False
        return all(self.workable(journey, step.any_of) for step in journey.verify_steps)

    def why_closed(self, journey: JourneyConfig) -> str:
        """What closes a journey, as events name it (``WHY_ENDED`` has their words); empty where it is open."""
        if self.is_open(journey):
            return ""
        if not journey.active:
            return "journey_off"
        return "sandbox_off" if journey.callback.server == "sandbox" and not self.has_sandbox else "no_channel"

    def name_of(self, slug: str) -> str:
        """What customers read of a journey, one that was deleted too; the slug where nobody knows it."""
        found = self.journeys.get(slug) or self.deleted.get(slug)
        return found.config.name if found else slug


class Journeys:
    """Hands out the current snapshot, and old versions for verifications that began with them."""

    def __init__(self, database: Database, keyring: Keyring, *, has_sandbox: bool) -> None:
        self._database = database
        self._keyring = keyring
        self._has_sandbox = has_sandbox
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._looked_at = 0.0
        self.version = lru_cache(maxsize=512)(self._load_version)

    def current(self) -> Snapshot:
        """The configuration, at most about a second old. The request that finds it old looks; others go on."""
        snapshot = self._snapshot
        if snapshot is not None and time.monotonic() - self._looked_at < SNAPSHOT_SECONDS:
            return snapshot
        if not self._lock.acquire(blocking=snapshot is None):
            assert snapshot is not None
            return snapshot
        try:
            return self._look()
        finally:
            self._lock.release()

    def renewed(self) -> Snapshot:
        """The configuration of this very moment, for what must not act on one a second old."""
        with self._lock:
            return self._look()

    def renew(self) -> None:
        """Looks now: whoever has just changed something, perhaps in another process, must not see it as it was."""
        with self._lock:
            self._look()

    def _look(self) -> Snapshot:
        with self._database.read() as connection:
            version = connection.execute(select(Portal.version).where(Portal.id == 1)).scalar_one_or_none() or 0
            if self._snapshot is None or self._snapshot.version != version:
                self._snapshot = self._load(connection)
        self._looked_at = time.monotonic()
        return self._snapshot

    def _load(self, connection: Any) -> Snapshot:
        portal = connection.execute(select(Portal.version, Portal.settings).where(Portal.id == 1)).one_or_none()
        journeys = _now(connection, Journey.deleted_at.is_(None))
        deleted = _now(connection, Journey.deleted_at.is_not(None))
        return Snapshot(
            version=portal.version if portal else 0,
            portal=PortalSettings.model_validate(portal.settings if portal else {}),
            journeys=journeys,
            channels=dict(self._load_channels(connection)),
            has_sandbox=self._has_sandbox,
            default=_default(journeys) or _default(deleted),
            deleted=deleted,
        )

    def _load_channels(self, connection: Any) -> Iterable[tuple[str, ChannelConfig]]:
        rows = connection.execute(
            select(ChannelRow.id, ChannelRow.name, ChannelRow.config, ChannelRow.secrets_sealed).where(
                ChannelRow.is_active
            )
        )
        for row in rows:
            secrets = {}
            if row.secrets_sealed is not None:
                secrets = json.loads(self._keyring.open(row.secrets_sealed, "channels", row.id, "secrets"))
            yield row.name, parse_channel({**row.config, **secrets})

    def _load_version(self, version_id: str) -> JourneyConfig:
        with self._database.read() as connection:
            document = connection.execute(
                select(JourneyVersion.document).where(JourneyVersion.id == version_id)
            ).scalar_one()
        return _config(document)


def _now(connection: Any, which: ColumnElement[bool]) -> dict[str, JourneyNow]:
    """The live versions of some journeys, by slug; of deleted ones with the same slug the last."""
    rows = connection.execute(
        select(JourneyVersion.id, JourneyVersion.number, JourneyVersion.document, Journey.is_active, Journey.is_default)
        .join(Journey, Journey.version_id == JourneyVersion.id)
        .where(which)
        .order_by(Journey.deleted_at)
    )
    configs = (
        (row, _config({**row.document, "active": row.is_active, "default": row.is_default})) for row in rows.all()
    )
    return {config.slug: JourneyNow(row.id, row.number, config) for row, config in configs}


def _default(journeys: dict[str, JourneyNow]) -> JourneyNow | None:
    return next((now for now in reversed(journeys.values()) if now.config.default), None)


@lru_cache(maxsize=512)
def _parsed(document: str) -> JourneyConfig:
    return JourneyConfig.model_validate_json(document)


def _config(document: Mapping[str, Any]) -> JourneyConfig:
    return _parsed(json.dumps(document, sort_keys=True))


@dataclass(frozen=True)
class ChatClock:
    """The one budget of time of a verification, from PRODUCT.md: when the chat began, ends, and proofs stop."""

    started_at: datetime
    proofs_until: datetime
    ends_at: datetime

    @classmethod
    def from_landing(cls, made_at: datetime, chat_seconds: int) -> Self:
        """Without a ticket: from the making of the landing page, less the time the link lay unopened."""
        unopened = min(0.10 * chat_seconds, 120.0)
        return cls.from_ticket(made_at - timedelta(seconds=unopened), chat_seconds)

    @classmethod
    def from_ticket(cls, started_at: datetime, chat_seconds: int) -> Self:
        """From the moment that Flow's server told us of the chat."""
        reserve = max(5.0, min(0.075 * chat_seconds, 45.0))
        ends_at = started_at + timedelta(seconds=chat_seconds)
        return cls(started_at, ends_at - timedelta(seconds=reserve), ends_at)
