"""The stored configuration: reading the tables of portal, channels and journeys, and writing what should be in them.

A journey's version is never changed, so that a verification ends under the version that it began with. Nothing here
decides whether a configuration is allowed: that is ``config.rules``. The caller raises ``Portal.version`` in the same
transaction, by which running servers notice the change.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import delete, insert, select, update

from auth_portal.errors import Misconfigured, NotFound
from auth_portal.gateways.channels import ChannelConfig, parse_channel
from auth_portal.services.config.appearance import logo_digests
from auth_portal.services.config.changes import (
    NOTE_LENGTH,
    Author,
    TableChange,
    channel_change,
    journey_change,
    portal_change,
)
from auth_portal.services.config.journey import IS_STORED, JourneyConfig, stored_documents, whole_document
from auth_portal.services.config.portal import PortalSettings
from auth_portal.store.db import Work
from auth_portal.store.models import (
    CALLBACK,
    CHANNEL_SECRETS,
    PORTAL_ROW,
    ChannelRow,
    ChannelState,
    CustomerRow,
    Delivery,
    DeliveryState,
    Journey,
    JourneyVersion,
    Portal,
    TicketRow,
    Verification,
    table_of,
)


class StoredChannel(NamedTuple):
    """A channel as it is stored, its secrets opened."""

    id: str
    config: ChannelConfig
    is_active: bool
    is_trusted: bool = True  # as the portal wrote it (R54)


class StoredJourney(NamedTuple):
    """The current version of a journey."""

    id: str  # of the journey
    version_id: str
    number: int
    config: JourneyConfig


class IdRule(NamedTuple):
    """The rule for customer IDs: whether case counts, and in words what keeps it so, "" if nothing does."""

    has_case: bool = False
    held_by: str = ""


NEW_PORTAL = IdRule()


@dataclass(frozen=True)
class WantedConfig:
    """The whole configuration as it should be.

    A stored channel that is in neither mapping is switched off. Journeys may keep naming the channels in ``off``, which
    an admin switched off, but no others that are not in use.
    """

    portal: PortalSettings
    channels: Mapping[str, ChannelConfig]  # in use
    journeys: Mapping[str, JourneyConfig]
    logos: Set[str] = frozenset()  # the digests of the stored pictures
    off: Mapping[str, ChannelConfig] = field(default_factory=dict)
    lingering: Sequence[JourneyConfig] = ()  # what else answers chats, see ``_lingering_journeys``
    ids: IdRule = NEW_PORTAL


@dataclass(frozen=True)
class StoredConfig:
    """The whole configuration as it is stored."""

    portal: PortalSettings
    channels: Mapping[str, StoredChannel]
    journeys: Mapping[str, StoredJourney]
    logos: Set[str] = frozenset()
    version: int = 0  # rises with every change of any of it
    lingering: Sequence[JourneyConfig] = ()
    ids: IdRule = NEW_PORTAL

    @property
    def as_wanted(self) -> WantedConfig:
        """Return all of it as it is, to be changed in one place."""
        return WantedConfig(
            self.portal,
            {name: channel.config for name, channel in self.channels.items() if channel.is_active},
            {slug: journey.config for slug, journey in self.journeys.items()},
            self.logos,
            {name: channel.config for name, channel in self.channels.items() if not channel.is_active},
            self.lingering,
            self.ids,
        )

    def channel(self, name: str) -> StoredChannel:
        """Return a channel. Raise NotFound."""
        if (found := self.channels.get(name)) is None:
            raise NotFound("not_found")
        return found

    def journey(self, slug: str) -> StoredJourney:
        """Return a journey that was not deleted. Raise NotFound."""
        if (found := self.journeys.get(slug)) is None:
            raise NotFound("not_found")
        return found


def read_stored(work: Work, *, is_locked: bool) -> StoredConfig:
    """Return the configuration. ``is_locked``: no other transaction changes it until this one ends."""
    query = select(Portal.settings, Portal.version).where(Portal.id == PORTAL_ROW)
    portal = work.execute(query.with_for_update() if is_locked else query).one_or_none()
    if portal is None:
        raise Misconfigured("The database holds no portal yet. Run `auth-portal init`.")
    journeys, settings = stored_journeys(work), PortalSettings.model_validate(portal.settings)
    return StoredConfig(
        portal=settings,
        channels=stored_channels(work),
        journeys=journeys,
        logos=logo_digests(work),
        version=portal.version,
        lingering=tuple(_lingering_journeys(work, journeys)),
        ids=IdRule(settings.case_sensitive_ids, _holders_of_ids(work)),
    )


def _holders_of_ids(work: Work) -> str:
    """Return what is stored under the key of a customer ID and counts; "" if nothing is."""
    live = Verification.outcome.is_(None)
    held = {
        "customers": select(CustomerRow.id).limit(1),
        "tickets that are still valid": select(TicketRow.id).where(TicketRow.ends_at > work.now).limit(1),
        "verifications under way": select(Verification.id).where(live).limit(1),
    }
    return ", ".join(name for name, found in held.items() if work.execute(found).first() is not None)


def stored_channels(work: Work, *, in_use_only: bool = False) -> dict[str, StoredChannel]:
    """Return every channel by name, including those that are off unless ``in_use_only``."""
    query = select(ChannelRow.__table__).order_by(ChannelRow.name)
    channels = {}
    for row in work.execute(query.where(ChannelRow.is_active) if in_use_only else query):
        sealed = row.secrets_sealed
        secrets = json.loads(work.open(sealed, CHANNEL_SECRETS, row.id)) if sealed is not None else {}
        config, is_trusted = parse_channel({**row.config, **secrets}), work.keyring.holds("channels", row._mapping)
        channels[row.name] = StoredChannel(row.id, config, row.is_active, is_trusted)
    return channels


def stored_journeys(work: Work) -> dict[str, StoredJourney]:
    """Return every journey that was not deleted, by slug."""
    current = (
        select(Journey, JourneyVersion.number, JourneyVersion.document, JourneyVersion.whole)
        .join(JourneyVersion, JourneyVersion.id == Journey.version_id)
        .where(Journey.deleted_at.is_(None))
        .order_by(Journey.slug)
    )
    found = {}
    for row in work.execute(current):
        document = {**stored_document(row), "active": row.is_active, "default": row.is_default}
        found[row.slug] = StoredJourney(row.id, row.version_id, row.number, _config(document))
    return found


def _lingering_journeys(work: Work, current: Collection[str]) -> Iterator[JourneyConfig]:
    """Yield what answers chats in addition to the current versions.

    The links of a deleted journey still answer, like those of one that is off, unless another journey has its name now.
    What is in progress ends under the version that it began with, which is yielded as ``active``: it alone can still
    verify.
    """
    document = select(JourneyVersion.document, JourneyVersion.whole)
    deleted = document.join(Journey, Journey.version_id == JourneyVersion.id).where(
        Journey.deleted_at.is_not(None), Journey.slug.not_in(list(current))
    )
    unfinished = select(Verification.version_id).where(Verification.outcome.is_(None))
    undelivered = (
        select(Verification.version_id)
        .join(Delivery, Delivery.verification_id == Verification.id)
        .where(Delivery.state == DeliveryState.PENDING, Delivery.kind == CALLBACK)
    )
    in_progress = document.where(JourneyVersion.id.in_(unfinished.union(undelivered)))
    for found, is_active in ((deleted, False), (in_progress, True)):
        for row in work.execute(found):
            yield _config({**stored_document(row), "active": is_active})


def stored_document(row: Any) -> Mapping[str, Any]:
    """Return the document of a row with both columns; the closed one if the other was changed by someone else."""
    try:
        return whole_document(row.document, row.whole)
    except ValueError:
        document: Mapping[str, Any] = row.document
        return document


def _config(document: Mapping[str, Any]) -> JourneyConfig:
    return JourneyConfig.model_validate_json(json.dumps(document), context=IS_STORED)


def journey_id_of(work: Work, slug: str) -> str:
    """Return the id of a journey that was not deleted. Raise NotFound."""
    found = select(Journey.id).where(Journey.slug == slug, Journey.deleted_at.is_(None))
    journey_id: str | None = work.execute(found).scalar_one_or_none()
    if journey_id is None:
        raise NotFound("not_found")
    return journey_id


# --- Writing


def write(work: Work, stored: StoredConfig, wanted: WantedConfig, author: Author) -> Iterator[TableChange]:
    """Write what differs, and yield each change.

    Raise Conflict("row_changed") for a channel or journey that someone other than the portal has changed: what is
    written is signed, and often says what is stored.
    """
    if wanted.portal != stored.portal:
        work.execute(update(Portal).where(Portal.id == PORTAL_ROW).values(settings=wanted.portal.stored()))
        yield portal_change(stored.portal, wanted.portal)
    for name, channel in stored.channels.items():
        if channel.is_active and name not in wanted.channels:
            row = work.row_to_sign(table_of(ChannelRow), channel.id)
            off = work.keyring.signed("channels", {**row, "is_active": False, "changed_at": work.now})
            work.execute(update(ChannelRow).where(ChannelRow.id == channel.id).values(off))
            yield TableChange("channel", name, "switched off")
    for is_active, channels in ((True, wanted.channels), (False, wanted.off)):
        for name, config in channels.items():
            yield from _write_channel(work, stored.channels.get(name), config, is_active=is_active)
    for slug, journey in wanted.journeys.items():
        yield from _write_journey(work, stored.journeys.get(slug), journey, author)


def _write_channel(
    work: Work, before: StoredChannel | None, config: ChannelConfig, *, is_active: bool
) -> Iterator[TableChange]:
    row_id = before.id if before else work.new_id()
    secrets = {name: value for name in sorted(config.SECRETS) if (value := getattr(config, name))}
    values = {
        "id": row_id,
        "name": config.name,
        "config": config.model_dump(mode="json", exclude=set(config.SECRETS)),
        "secrets_sealed": work.seal(json.dumps(secrets), CHANNEL_SECRETS, row_id) if secrets else None,
        "is_active": is_active,
        "changed_at": work.now,
    }
    values = work.keyring.signed("channels", values)
    if before is None:
        work.execute(insert(ChannelRow).values(values))
        yield channel_change("added", None, config)
    elif before.config != config or (is_active and not before.is_active):
        work.row_to_sign(table_of(ChannelRow), row_id)
        work.execute(update(ChannelRow).where(ChannelRow.id == row_id).values(values))
        is_switched = is_active and not before.is_active
        yield channel_change("switched on" if is_switched else "changed", before.config, config)


def _write_journey(
    work: Work, before: StoredJourney | None, config: JourneyConfig, author: Author
) -> Iterator[TableChange]:
    if before is not None and before.config == config:
        return
    journey_id, version_id = before.id if before else work.new_id(), work.new_id()
    row = {"version_id": version_id, "is_active": config.active, "is_default": config.default}
    row = work.keyring.signed("journeys", {"id": journey_id, "slug": config.slug, **row})
    if before is None:
        work.execute(insert(Journey).values(row))
    else:
        unchanged_journey(work, before)
        work.execute(update(Journey).where(Journey.id == journey_id).values(row))
    number = before.number + 1 if before else 1
    document, whole = stored_documents(config)
    version = {
        "id": version_id,
        "journey_id": journey_id,
        "number": number,
        "document": document,
        "whole": whole,
        "created_at": work.now,
        "made_by": author.admin_id,
        "note": author.note[:NOTE_LENGTH],
    }
    work.execute(insert(JourneyVersion).values(work.keyring.signed("journey_versions", version)))
    done = _what_was_done(before, config)
    yield journey_change(done, before.config if before else None, config, number)


def unchanged_journey(work: Work, journey: StoredJourney) -> dict[Any, Any]:
    """Return a journey's signed columns. Raise Conflict("row_changed") if they or its version's were changed (R54)."""
    work.row_to_sign(table_of(JourneyVersion), journey.version_id)
    return work.row_to_sign(table_of(Journey), journey.id)


def _what_was_done(before: StoredJourney | None, config: JourneyConfig) -> str:
    if before is None:
        return "added"
    if before.config.active != config.active:
        return "switched on" if config.active else "switched off"
    if before.config.model_copy(update={"default": config.default}) == config:
        return "is now the default" if config.default else "is no longer the default"
    return "changed"


def delete_channel(work: Work, channel: StoredChannel) -> TableChange:
    """Delete a channel, its secrets and the record of its failures."""
    work.execute(delete(ChannelRow).where(ChannelRow.id == channel.id))
    work.execute(delete(ChannelState).where(ChannelState.name == channel.config.name))
    return TableChange("channel", channel.config.name, "deleted")


def delete_journey(work: Work, journey: StoredJourney) -> TableChange:
    """Remove a journey from the lists and close its links. Its versions stay for what began under them.

    Raise Conflict("row_changed") like ``write``.
    """
    row = unchanged_journey(work, journey)
    values = work.keyring.signed("journeys", {**row, "deleted_at": work.now, "is_active": False})
    work.execute(update(Journey).where(Journey.id == journey.id).values(values))
    return TableChange("journey", journey.config.slug, "deleted")
