"""The config file: what it names becomes equal to it, all in one transaction or not at all, and nothing else changes.

Refuses what would let a weaker proof answer for a stronger one (R35), what could never work, and a stored secret for
a server other than the one it was given for (D4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import tomli_w
from sqlalchemy import Connection, select, update

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring, same_text
from auth_portal.errors import Misconfigured
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.services import audit
from auth_portal.services.config import logos
from auth_portal.services.config.changes import (
    Change,
    channel_change,
    facts,
    journey_change,
    lines_for_owners,
    portal_change,
)
from auth_portal.services.config.channel_rows import (
    StoredChannel,
    exported_channel,
    parsed_channel,
    stored_channels,
    write_channels,
)
from auth_portal.services.config.file import ConfigFile, Faults, read_config
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.journey_rows import (
    Author,
    StoredJourney,
    lingering_journeys,
    stored_journeys,
    write_journeys,
)
from auth_portal.services.config.portal import PortalSettings
from auth_portal.services.config.rules import Rules, Wanted, warnings
from auth_portal.services.notices import ChangedChannel
from auth_portal.store.db import Database
from auth_portal.store.models import Portal

TellOwners = Callable[[Connection, datetime, str, Sequence[str], Sequence[ChangedChannel]], None]
"""Mails all owners in the caller's transaction: a subject, lines, and the channels that these tell of, as they were."""
NOBODY = Author()  # a command


@dataclass(frozen=True)
class ImportSummary:
    """What an import changes, and what an admin should know of what it allows.

    ``mark`` stands for the file and for what was stored: while it is the same, so are the changes.
    """

    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    mark: str = field(default="", compare=False)
    is_applied: bool = field(default=True, compare=False)

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each change."""
        return tuple(change.line for change in self.changes)


@dataclass(frozen=True)
class Stored:
    """The whole configuration in the database."""

    portal: PortalSettings
    channels: Mapping[str, StoredChannel]
    journeys: Mapping[str, StoredJourney]
    logos: Set[str] = frozenset()  # the digests of the pictures
    version: int = 0  # rises with every change of any of it
    lingering: Sequence[JourneyConfig] = ()  # what else answers the chat

    @property
    def off(self) -> Set[str]:
        """The channels that are switched off."""
        return {name for name, channel in self.channels.items() if not channel.is_active}

    @property
    def as_wanted(self) -> Wanted:
        """All of it as it is, to be changed in one place."""
        channels = {name: channel.config for name, channel in self.channels.items() if channel.is_active}
        journeys = {slug: journey.config for slug, journey in self.journeys.items()}
        return Wanted(self.portal, channels, journeys, self.logos, self.off, self.lingering)


class Configuration:
    """Reads and writes portal settings, channels and journeys as one file."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        clock: Clock,
        *,
        has_sandbox: bool,
        check_origin: Callable[[str], None],
        check_channel: Callable[[ChannelConfig], None] | None = None,
        tell_owners: TellOwners = lambda *_: None,
    ) -> None:
        """``check_origin`` and ``check_channel`` raise Misconfigured for what the operator's policy never lets out.

        Without ``check_channel`` a channel's URL is given to ``check_origin``.
        """
        self._tell_owners = tell_owners
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self.rules = Rules(has_sandbox, check_origin, check_channel)

    def import_toml(
        self, text: str, *, file_name: str, prune: bool = False, author: Author = NOBODY, shown: str | None = None
    ) -> ImportSummary:
        """Makes what the file names equal to the file; ``prune`` also switches off what it does not name.

        Of ``[portal]`` it changes the keys that are there; a channel or journey is what the file says of it, with
        the defaults for the rest. ``shown`` is the mark of a preview: where it is no longer the same, nothing is
        written. Raises BadConfig with every fault; then nothing was written either.
        """
        faults = Faults(file_name)
        file = read_config(text, faults)
        with self._database.write() as connection:
            stored = self.stored(connection, locked=True)
            wanted = self._wanted(file, stored, prune, faults)
            self.rules.check(file, wanted, faults)
            faults.raise_if_any()
            mark = _mark(stored, text, prune)
            is_applied = shown is None or same_text(shown, mark)
            write = partial(self.apply, kind="configuration_imported", author=author) if is_applied else self.preview
            changes = write(connection, stored, wanted)
        return ImportSummary(tuple(changes), tuple(warnings(file.journeys)), mark, is_applied)

    def preview_toml(self, text: str, *, file_name: str, prune: bool = False) -> ImportSummary:
        """What an import of this file would change. Raises BadConfig with every fault."""
        return self.import_toml(text, file_name=file_name, prune=prune, shown="")

    def export_toml(self) -> str:
        """Everything in use as a file. Secrets are ``"keep"``: they never leave the database."""
        with self._database.read() as connection:
            stored = self.stored(connection, locked=False)
        document: dict[str, Any] = {"portal": stored.portal.model_dump(mode="json")}
        if channels := [exported_channel(channel.config) for channel in stored.channels.values() if channel.is_active]:
            document["channels"] = channels
        if journeys := [journey.config.model_dump(mode="json") for journey in stored.journeys.values()]:
            document["journeys"] = journeys
        return tomli_w.dumps(document)

    # --- What is stored

    def stored(self, connection: Connection, *, locked: bool) -> Stored:
        """Everything as it is stored. ``locked``: until the caller's transaction ends, no other one changes it."""
        query = select(Portal.settings, Portal.version).where(Portal.id == 1)
        portal = connection.execute(query.with_for_update() if locked else query).one_or_none()
        if portal is None:
            raise Misconfigured("The database holds no portal yet. Run `flask --app app init`.")
        journeys = stored_journeys(connection)
        return Stored(
            portal=PortalSettings.model_validate(portal.settings),
            channels=stored_channels(connection, self._keyring),
            journeys=journeys,
            lingering=tuple(lingering_journeys(connection, journeys)),
            logos=logos.digests(connection),
            version=portal.version,
        )

    # --- What should be

    def _wanted(self, file: ConfigFile, stored: Stored, prune: bool, faults: Faults) -> Wanted:
        channels = (
            {} if prune else {name: channel.config for name, channel in stored.channels.items() if channel.is_active}
        )
        for table in file.channels:
            if (config := parsed_channel(table, stored.channels.get(table.name), faults)) is not None:
                channels[config.name] = config
        journeys, off = _journeys(file, stored, prune), stored.off - channels.keys()
        return Wanted(_portal(stored.portal, file.portal), channels, journeys, stored.logos, off, stored.lingering)

    # --- Writing

    def apply(
        self, connection: Connection, stored: Stored, wanted: Wanted, kind: str, author: Author = NOBODY
    ) -> list[Change]:
        """Writes what differs and publishes it; gives what that was. The rules were asked before."""
        now = self._clock()
        changes = list(self._write(connection, stored, wanted, now, author))
        if changes:
            self.publish(connection, stored, now, kind, changes, author)
        return changes

    def preview(self, connection: Connection, stored: Stored, wanted: Wanted) -> list[Change]:
        """What ``apply`` would change: it is written and taken back, so that nothing else can be shown."""
        attempt = connection.begin_nested()
        try:
            return list(self._write(connection, stored, wanted, self._clock(), NOBODY))
        finally:
            attempt.rollback()

    def publish(
        self, connection: Connection, stored: Stored, now: datetime, kind: str, changes: Sequence[Change],
        author: Author = NOBODY,
    ) -> None:  # fmt: skip
        """What goes with every change, in its transaction: servers notice it, it is audited, and owners are told (R19).

        ``stored`` is what there was before, ``kind`` that of the audit event.
        """
        connection.execute(update(Portal).where(Portal.id == 1).values(version=Portal.version + 1))
        audit.record(
            connection,
            self._keyring,
            now,
            kind,
            admin_id=author.admin_id,
            portal=any(change.table == "portal" for change in changes),
            channels=sorted(change.name for change in changes if change.table == "channel"),
            journeys=sorted(change.name for change in changes if change.table == "journey"),
            changes=facts(changes),
            **({"note": author.note} if author.note else {}),
        )
        if lines := lines_for_owners(changes):
            self._tell_owners(connection, now, "The configuration was changed", lines, _as_were(stored, changes))

    def _write(
        self, connection: Connection, stored: Stored, wanted: Wanted, now: datetime, author: Author
    ) -> Iterator[Change]:
        if wanted.portal != stored.portal:
            settings = wanted.portal.model_dump(mode="json")
            connection.execute(update(Portal).where(Portal.id == 1).values(settings=settings))
            yield portal_change(stored.portal, wanted.portal)
        for name, done in write_channels(connection, self._keyring, stored.channels, wanted.channels, now):
            before = stored.channels.get(name)
            yield channel_change(done, before.config if before else None, wanted.channels.get(name))
        for slug, done in write_journeys(connection, stored.journeys, wanted.journeys, now, author):
            old = stored.journeys.get(slug)
            yield journey_change(done, old.config if old else None, wanted.journeys[slug])


def _as_were(stored: Stored, changes: Sequence[Change]) -> list[ChangedChannel]:
    """The channels in use that are changed, switched off or deleted."""
    done = {change.name: change.done for change in changes if change.table == "channel"}
    return [
        ChangedChannel(channel.config, done[name] == "changed")
        for name, channel in stored.channels.items()
        if channel.is_active and name in done
    ]


def _mark(stored: Stored, text: str, prune: bool) -> str:
    return hashlib.sha256(f"{stored.version}\n{prune}\n{text}".encode()).hexdigest()


def _portal(stored: PortalSettings, values: Mapping[str, Any] | None) -> PortalSettings:
    if values is None:
        return stored
    before = stored.model_dump()
    merged = {**before, **{key: _merged(before.get(key), value) for key, value in values.items()}}
    try:
        return PortalSettings.model_validate(merged)
    except ValueError:  # the reader of the file has said why
        return stored


def _merged(before: Any, value: Any) -> Any:
    """Of a table only the keys that are there change."""
    return {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value


def _journeys(file: ConfigFile, stored: Stored, prune: bool) -> dict[str, JourneyConfig]:
    journeys = {slug: journey.config for slug, journey in stored.journeys.items()}
    has_new_default = any(journey.default for journey in file.journeys.values())
    for slug in journeys.keys() - file.journeys.keys():
        changes = {**({"default": False} if has_new_default else {}), **({"active": False} if prune else {})}
        journeys[slug] = journeys[slug].model_copy(update=changes)
    return {**journeys, **file.journeys}
