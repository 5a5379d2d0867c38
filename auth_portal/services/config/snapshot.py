"""The configuration as requests read it: an immutable snapshot per process, and the old versions of journeys."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Self

from sqlalchemy import ColumnElement, func, literal, select

from auth_portal.errors import NotFound
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.methods import CARRIES
from auth_portal.services.config.appearance import (
    DEFAULT_COLOUR,
    Picture,
    contained_css,
    icon,
    monogram_of,
    stylesheet,
    text_on,
)
from auth_portal.services.config.journey import IS_STORED, JourneyConfig, result_clashes, whole_document
from auth_portal.services.config.portal import PortalSettings
from auth_portal.services.config.store import StoredJourney, stored_channels, stored_document
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import PORTAL_ROW, Journey, JourneyVersion, Portal, WebhookEndpoint

UNOPENED_SECONDS = 120.0  # of a chat's time, at most, for which its link may have lain unopened
LONGEST_HOST, QUEUE_DIGITS = 240, 6  # characters in the name of a program's queue
SNAPSHOT_SECONDS = 1.0  # how old a snapshot may be before the version row is read again


@dataclass(frozen=True)
class Look:
    """What makes a page look like the business's own; all of it but colour and monogram are URLs or empty."""

    stylesheet: str
    colour: str  # of the band, and of the browser's bar
    on_colour: str  # of what is written on the band
    logo: str
    logo_dark: str  # for dark pages, where the business has one for them
    icon: str
    monogram: str  # instead of a logo
    hides_name: bool  # next to the logo, which already says it


class Program(NamedTuple):
    """A program that events are posted to: its endpoint's id and queue, and which events it asks for.

    While it is paused its events are only stored, for an owner to send them once it works again.
    """

    endpoint: str
    queue: str
    events: frozenset[str]
    is_paused: bool

    @classmethod
    def of(cls, row: Any) -> Self:
        """Return the program of a row of ``webhook_endpoints``.

        Each has a queue of its own, also where one host serves several: a dead one must not hold up a live one. It is
        named by the host and the end of the id, because lists show it.
        """
        queue = f"{row.target[:LONGEST_HOST]} #{row.id[-QUEUE_DIGITS:]}"
        return cls(row.id, queue, frozenset(row.events.split()), row.paused_at is not None)

    @staticmethod
    def end_of_queue(endpoint: ColumnElement[str]) -> ColumnElement[str]:
        """Return what the queue of an endpoint ends with, for a statement that has the endpoint's id of 32 digits."""
        return literal(" #").concat(func.substr(endpoint, 33 - QUEUE_DIGITS))


@dataclass(frozen=True)
class Snapshot:
    """All that requests need of the configuration, at one version. Immutable."""

    version: int
    portal: PortalSettings
    journeys: Mapping[str, StoredJourney]
    channels: Mapping[str, ChannelConfig]
    has_sandbox: bool
    default: StoredJourney | None = field(default=None)
    deleted: Mapping[str, StoredJourney] = field(default_factory=dict)  # closed; their links still answer the chat
    programs: tuple[Program, ...] = ()
    broken: tuple[str, ...] = ()  # channels and journeys that are not used: their MACs are wrong (R54)
    pages: dict[Hashable, Any] = field(default_factory=dict)  # that were made in advance and last as long as this does

    @classmethod
    def unread(cls) -> Self:
        """Return the configuration as it is to a process that has not read it yet: only defaults."""
        return cls(0, PortalSettings(), journeys={}, channels={}, has_sandbox=False)

    def journey(self, slug: str | None) -> StoredJourney:
        """Return the journey of a path; the default one for ``/``. Raise NotFound."""
        found = self.default if slug is None else self.journeys.get(slug) or self.deleted.get(slug)
        if found is None:
            raise NotFound("journey_unknown")
        return found

    @cached_property
    def portal_look(self) -> Look:
        """Return the look of the pages that belong to no journey."""
        its = self.portal
        return _look(its.name, its.colour, its.radius, its.logo, its.logo_dark, is_hidden=its.hide_name)

    def contained_look(self, picture: Callable[[str], Picture] | None) -> tuple[Look, str]:
        """Return the portal's look and its CSS for a page that requests nothing. ``picture`` returns a logo, if any."""
        look, its = self.portal_look, self.portal
        if look.logo and picture:
            dark = picture(its.logo_dark).data_url if look.logo_dark else ""
            look = replace(look, logo=picture(its.logo).data_url, logo_dark=dark)
        return look, contained_css(look.colour, its.radius)

    def look(self, journey: JourneyConfig) -> Look:
        """Return the look of a journey's pages."""
        its = self.portal
        logo, dark = journey.logo or its.logo, journey.logo_dark or ("" if journey.logo else its.logo_dark)
        radius = its.radius if journey.radius is None else journey.radius
        is_hidden = its.hide_name if journey.hide_name is None else journey.hide_name
        return _look(its.name, journey.colour or its.colour, radius, logo, dark, is_hidden=is_hidden)

    def channel_for(self, journey: JourneyConfig, carries: str) -> ChannelConfig | None:
        """Return the first of the journey's channels that can carry this kind of message here, or None."""
        usable = self._usable_channels[carries]
        return next((usable[name] for name in journey.channels if name in usable), None)

    @cached_property
    def _usable_channels(self) -> Mapping[str, Mapping[str, ChannelConfig]]:
        """Return the channels that may send here, by the kind of message that they carry."""
        usable = {name: channel for name, channel in self.channels.items() if self.may_use(channel)}
        return {
            carries: {name: channel for name, channel in usable.items() if carries in channel.message_kinds}
            for carries in set(CARRIES.values())
        }

    def may_use(self, channel: ChannelConfig) -> bool:
        """Return True if a channel may send here: those of the sandbox need it to be on."""
        return self.has_sandbox or not channel.NEEDS_SANDBOX

    def workable(self, journey: JourneyConfig, methods: Iterable[str]) -> tuple[str, ...]:
        """Return the methods that can work: those that need no channel, and those that have one."""
        return tuple(
            method
            for method in methods
            if method not in CARRIES or self.channel_for(journey, CARRIES[method]) is not None
        )

    def is_open(self, journey: JourneyConfig) -> bool:
        """Return True if customers can pass this journey now; if not, it answers ``unavailable``."""
        if not journey.active or journey.unsafe or (journey.callback.server == "sandbox" and not self.has_sandbox):
            return False
        return all(self.workable(journey, step.methods) for step in journey.verify_steps)

    def why_closed(self, journey: JourneyConfig) -> str:
        """Return what closes a journey, as events name it (``WHY_ENDED`` has their words); empty if it is open."""
        if self.is_open(journey):
            return ""
        if not journey.active:
            return "journey_off"
        if journey.unsafe:
            return "journey_unsafe"
        return "sandbox_off" if journey.callback.server == "sandbox" and not self.has_sandbox else "no_channel"

    @property
    def clashes(self) -> list[str]:
        """Return a sentence for each pair of journeys that could answer for each other: older rules allowed some."""
        return result_clashes(now.config for now in self.journeys.values())

    def name_of(self, slug: str) -> str:
        """Return the name that customers read, even of a deleted journey; the slug if there never was one."""
        found = self.journeys.get(slug) or self.deleted.get(slug)
        return found.config.name if found else slug

    @cached_property
    def titles(self) -> Mapping[str, str]:
        """Return how sentences name journeys, by slug: in quotation marks, and with the slug if it was deleted."""
        gone = {slug: f"“{one.config.name}” ({slug}, deleted)" for slug, one in self.deleted.items()}
        return gone | {slug: f"“{one.config.name}”" for slug, one in self.journeys.items()}


@lru_cache(maxsize=512)
def _look(name: str, colour: str, radius: int, logo: str, logo_dark: str, *, is_hidden: bool) -> Look:
    colour, monogram, url = colour or DEFAULT_COLOUR, monogram_of(name), logo and f"/logo/{logo}"
    return Look(
        stylesheet=stylesheet(colour, radius).url,
        colour=colour,
        on_colour=text_on(colour),
        logo=url,
        logo_dark=f"/logo/{logo_dark}" if logo and logo_dark else "",
        icon=url or icon(colour, monogram).url,
        monogram=monogram,
        hides_name=is_hidden and bool(logo),
    )


class Journeys:
    """Hand out the current snapshot, and old versions for verifications that began with them."""

    def __init__(self, transactions: Transactions, *, has_sandbox: bool) -> None:
        self._transactions = transactions
        self._has_sandbox = has_sandbox
        self._lock = threading.Lock()
        self.known: Snapshot | None = None  # the last one, however old: for pages that must be shown without a database
        self._read_at = 0.0
        self._versions = lru_cache(maxsize=512)(self._load_version)
        self.version = lru_cache(maxsize=512)(lambda version_id: self._versions(version_id).config)
        # The same, but raises NotFound for one that was changed by someone other than the portal (R54): no one proves
        # anything under it. What began under it still ends.
        self.served_version = lru_cache(maxsize=512)(self._trusted_version)

    def current(self) -> Snapshot:
        """Return a snapshot that is at most a second old. The request that finds it older renews it; others go on."""
        snapshot = self.known
        if snapshot is not None and time.monotonic() - self._read_at < SNAPSHOT_SECONDS:
            return snapshot
        if not self._lock.acquire(blocking=snapshot is None):
            assert snapshot is not None
            return snapshot
        try:
            return self._renew()
        finally:
            self._lock.release()

    def renew(self) -> Snapshot:
        """Return the snapshot of this moment, for what must not act on one that is a second old."""
        with self._lock:
            return self._renew()

    def _renew(self) -> Snapshot:
        with self._transactions.read() as work:
            row = work.execute(select(Portal.version, Portal.macs).where(Portal.id == PORTAL_ROW)).one_or_none()
            version = row.version if row else 0
            work.keyring.read_macs_state(row.macs if row else None)
            if self.known is None or self.known.version != version:
                stored = select(Portal.version, Portal.settings).where(Portal.id == PORTAL_ROW)
                portal = work.execute(stored).one_or_none()
                for cached in (self._versions, self.served_version):
                    cached.cache_clear()  # MACs may be required from now on
                work.keyring.read_id_rule(portal.settings if portal else {})
                broken: list[str] = []
                journeys = _journeys(work, Journey.deleted_at.is_(None), broken)
                deleted = _journeys(work, Journey.deleted_at.is_not(None), broken)
                channels = stored_channels(work, in_use_only=True)
                broken += [f"channel {name}" for name, channel in channels.items() if not channel.is_trusted]
                for name in broken:
                    work.log("integrity_broken", level=logging.ERROR, table=name)
                self.known = Snapshot(
                    version=portal.version if portal else 0,
                    portal=PortalSettings.model_validate(portal.settings if portal else {}),
                    journeys=journeys,
                    channels={name: channel.config for name, channel in channels.items() if channel.is_trusted},
                    has_sandbox=self._has_sandbox,
                    default=_default(journeys) or _default(deleted),
                    deleted=deleted,
                    programs=_programs(work),
                    broken=tuple(broken),
                )
        self._read_at = time.monotonic()
        return self.known

    def _trusted_version(self, version_id: str) -> JourneyConfig:
        found = self._versions(version_id)
        if not found.is_trusted:
            raise NotFound("journey_unknown")
        return found.config

    def _load_version(self, version_id: str) -> LoadedVersion:
        with self._transactions.read() as work:
            found = select(JourneyVersion.__table__).where(JourneyVersion.id == version_id)
            row = work.execute(found).one_or_none()
        if row is None:
            raise NotFound("journey_unknown")
        is_whole = _is_whole(row)
        is_trusted = is_whole and work.keyring.holds("journey_versions", row._mapping)
        return LoadedVersion(_config(stored_document(row)), is_trusted)


class LoadedVersion(NamedTuple):
    """A version of a journey, and whether it is as the portal wrote it."""

    config: JourneyConfig
    is_trusted: bool


def _journeys(work: Work, which: ColumnElement[bool], broken: list[str]) -> dict[str, StoredJourney]:
    """Return the current versions of some journeys, by slug; of deleted ones with the same slug the last.

    One whose row or version was changed by someone other than the portal is only named in ``broken`` (R54).
    """
    version = (JourneyVersion.journey_id, JourneyVersion.number, JourneyVersion.document, JourneyVersion.whole)
    rows = work.execute(
        select(Journey.__table__, *version, JourneyVersion.mac.label("version_mac"))
        .join(JourneyVersion, JourneyVersion.id == Journey.version_id)
        .where(which)
        .order_by(Journey.deleted_at)
    )
    found = {}
    for row in rows:
        values = {**row._mapping, "id": row.version_id, "mac": row.version_mac}
        is_own = row.journey_id == row.id and work.keyring.holds("journey_versions", values)
        if not (is_own and _is_whole(row) and work.keyring.holds("journeys", row._mapping)):
            broken.append(f"journey {row.slug}")
            continue
        config = _config({**stored_document(row), "active": row.is_active, "default": row.is_default})
        found[config.slug] = StoredJourney(row.id, row.version_id, row.number, config)
    return found


def _programs(work: Work) -> tuple[Program, ...]:
    its = WebhookEndpoint.id, WebhookEndpoint.target, WebhookEndpoint.events, WebhookEndpoint.paused_at
    asking = work.execute(select(*its).where(WebhookEndpoint.is_active).order_by(WebhookEndpoint.id))
    return tuple(Program.of(row) for row in asking)


def _is_whole(row: Any) -> bool:
    """Report whether both columns of a version's document belong together."""
    try:
        whole_document(row.document, row.whole)
    except ValueError:
        return False
    return True


def _default(journeys: dict[str, StoredJourney]) -> StoredJourney | None:
    return next((now for now in reversed(journeys.values()) if now.config.default), None)


@lru_cache(maxsize=512)
def _parsed(document: str) -> JourneyConfig:
    return JourneyConfig.model_validate_json(document, context=IS_STORED)


def _config(document: Mapping[str, Any]) -> JourneyConfig:
    return _parsed(json.dumps(document, sort_keys=True))


@dataclass(frozen=True)
class ChatClock:
    """The times of a verification: when the chat began, until when proofs count, and when the chat ends."""

    started_at: datetime
    proofs_until: datetime
    ends_at: datetime

    @classmethod
    def from_landing(cls, made_at: datetime, chat_seconds: int) -> Self:
        """Return the times without a ticket: from the landing page, less the time for which the link lay unopened."""
        unopened = min(0.10 * chat_seconds, UNOPENED_SECONDS)
        return cls.from_ticket(made_at - timedelta(seconds=unopened), chat_seconds)

    @classmethod
    def from_ticket(cls, started_at: datetime, chat_seconds: int) -> Self:
        """Return the times with a ticket: from the moment at which Flow's server registered the chat."""
        reserve = max(5.0, min(0.075 * chat_seconds, 45.0))
        ends_at = started_at + timedelta(seconds=chat_seconds)
        return cls(started_at, ends_at - timedelta(seconds=reserve), ends_at)
