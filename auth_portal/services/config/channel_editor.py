"""Changing one channel: the same rules, version and audit as an import of the config file, one channel at a time.

Refuses to take from an active journey its last way to send, and to let a stored secret go anywhere but where it was
given for (D4), and to write over what somebody else saved in the meantime until that was shown. Secrets go in and never
come out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.errors import NotFound
from auth_portal.gateways.channels import KINDS, ChannelConfig
from auth_portal.services.channel_usage import used_today
from auth_portal.services.config.changes import Change, channel_change
from auth_portal.services.config.channel_rows import (
    KEEP,
    StoredChannel,
    delete_channel,
    parsed_channel,
    rewrite_channel,
)
from auth_portal.services.config.configuration import Configuration, Stored
from auth_portal.services.config.file import ConfigFile, Fault, Faults, Table
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.journey_rows import Author
from auth_portal.services.config.meanwhile import Saving, meanwhile
from auth_portal.store.db import Database
from auth_portal.store.models import ChannelState

GIVE_AGAIN = (
    "must be given again: kind, address, port or security changed, and a stored secret never goes anywhere but where "
    "it was given for"
)


class Use(NamedTuple):
    """A journey that names a channel, and which place it has there among those of its kind: 1 is asked first."""

    slug: str
    journey: str
    is_active: bool
    place: int
    of: int


@dataclass(frozen=True)
class ChannelNow:
    """A channel as the page shows it. Of its secrets only the names of those that are stored."""

    name: str
    kind: str
    is_active: bool
    carries: frozenset[str]
    settings: Mapping[str, Any]
    secrets: Mapping[str, Sequence[str]]
    used: Mapping[str, int]  # today, by country
    uses: tuple[Use, ...]
    mark: str  # of all its settings, secrets too
    accepted_at: datetime | None = None
    failing_since: datetime | None = None
    failures: int = 0
    reason: str = ""
    needs_admin: bool = False


class ChannelEditor:
    """Every act on a single channel."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock, configuration: Configuration) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._configuration = configuration

    def channels(self) -> list[ChannelNow]:
        """All of them by name, with how they do."""
        now = self._clock()
        with self._database.read() as connection:
            stored = self._configuration.stored(connection, locked=False)
            states = {row.name: row for row in connection.execute(select(ChannelState.__table__))}
            used = {
                name: used_today(connection, channel.config, now)
                for name, channel in stored.channels.items()
                if channel.config.daily_cap is not None
            }
        return [
            _shown(channel, stored, states.get(name), used.get(name, {}), self._mark(channel.config))
            for name, channel in stored.channels.items()
        ]

    def channel(self, name: str) -> ChannelNow:
        """One of them. Raises NotFound."""
        found = next((channel for channel in self.channels() if channel.name == name), None)
        if found is None:
            raise NotFound("not_found")
        return found

    def add(self, values: Mapping[str, Any], author: Author) -> list[Fault]:
        """Makes a channel, which is in use at once; why not, or nothing."""
        name = str(values.get("name", ""))
        with self._database.write() as connection:
            stored, faults = self._configuration.stored(connection, locked=True), Faults("")
            if name in stored.channels:
                faults.add("", "name", "is the name of another channel already")
            config = self._checked(stored, Table("", name, values), None, faults)
            if config is None or faults.found:
                return faults.found
            wanted = stored.as_wanted
            wanted = replace(wanted, channels={**wanted.channels, name: config})
            self._configuration.apply(connection, stored, wanted, "channel_added", author)
        return []

    def change(self, name: str, values: Mapping[str, Any], author: Author, *, based_on: str) -> Saving:
        """Gives a channel other settings; why not, or nothing. A secret left empty stays where it may (D4).

        Kind and name stay as they are. A channel that is off stays off. ``based_on`` is the mark of what the form was
        made from. Raises NotFound.
        """
        now = self._clock()
        with self._database.write() as connection:
            stored, faults = self._configuration.stored(connection, locked=True), Faults("")
            old = _get(stored, name)
            values = {**values, "name": name, "kind": old.config.kind, **_kept(values, old.config)}
            config = self._checked(stored, Table("", name, values), old, faults)
            if config is None or faults.found:
                return Saving([_in_words(fault) for fault in faults.found])
            if config != old.config:
                change = channel_change("changed", old.config, config)
                if based_on != self._mark(old.config):
                    return Saving(newer=meanwhile(connection, change.title, change.differences))
                rewrite_channel(connection, self._keyring, old, config, now, is_active=old.is_active)
                self._configuration.publish(connection, stored, now, "channel_changed", [change], author)
        return Saving()

    def _mark(self, config: ChannelConfig) -> str:
        """Keyed, for the secrets are in it: nobody can try from a page which they are."""
        return self._keyring.index("channel", config.model_dump_json())

    def switch(self, name: str, author: Author, *, is_active: bool) -> list[Fault]:
        """Puts a channel in use, or out of it; why not, or nothing. Raises NotFound."""
        with self._database.write() as connection:
            stored = self._configuration.stored(connection, locked=True)
            old, now = _get(stored, name), stored.as_wanted
            channels = {**now.channels, name: old.config} if is_active else _without(now.channels, name)
            wanted = replace(now, channels=channels, off=(now.off | {name}) - channels.keys())
            table = Table("", name, {})
            faults = Faults("")
            self._configuration.rules.check(_as_file(stored, table if is_active else None), wanted, faults)
            if not faults.found:
                self._configuration.apply(connection, stored, wanted, "channel_switched", author)
        return faults.found

    def delete(self, name: str, author: Author) -> list[Fault]:
        """Removes a channel and its secrets; why not, or nothing. Raises NotFound.

        Refused while an active journey names it, and while the mail to owners travels by it.
        """
        now = self._clock()
        with self._database.write() as connection:
            stored = self._configuration.stored(connection, locked=True)
            old = _get(stored, name)
            faults = [Fault(use.slug, "channels", "names it") for use in _uses(old.config, stored) if use.is_active]
            if stored.portal.notices_by == name:
                faults.append(Fault("portal", "notices_by", "names it"))
            if not faults:
                delete_channel(connection, old)
                change = Change("channel", name, "deleted")
                self._configuration.publish(connection, stored, now, "channel_deleted", [change], author)
        return faults

    def _checked(self, stored: Stored, table: Table, old: StoredChannel | None, faults: Faults) -> ChannelConfig | None:
        """The configuration of a table, held against the rules as if it were in use."""
        config = parsed_channel(table, old, faults)
        if config is not None:
            now = stored.as_wanted
            wanted = replace(now, channels={**now.channels, table.name: config}, off=now.off - {table.name})
            self._configuration.rules.check(_as_file(stored, table), wanted, faults)
        return config


def _get(stored: Stored, name: str) -> StoredChannel:
    if (found := stored.channels.get(name)) is None:
        raise NotFound("not_found")
    return found


def _without(channels: Mapping[str, ChannelConfig], name: str) -> dict[str, ChannelConfig]:
    return {other: config for other, config in channels.items() if other != name}


def _as_file(stored: Stored, table: Table | None) -> ConfigFile:
    """What is being changed, as a file would name it; journeys are called by their slug."""
    return ConfigFile(None, (table,) if table else (), {}, {slug: slug for slug in stored.journeys})


def _kept(values: Mapping[str, Any], old: ChannelConfig) -> dict[str, Any]:
    """For each secret that was left empty and is stored: ``"keep"``."""
    return {
        name: KEEP
        for name in KINDS[old.kind][0].SECRETS
        if values.get(name) == "" and isinstance(stored := getattr(old, name), str) and stored
    }


def _in_words(fault: Fault) -> Fault:
    return fault._replace(reason=GIVE_AGAIN) if "differ from what is stored" in fault.reason else fault


def _shown(channel: StoredChannel, stored: Stored, state: Any, used: Mapping[str, int], mark: str) -> ChannelNow:
    config = channel.config
    return ChannelNow(
        name=config.name,
        kind=config.kind,
        is_active=channel.is_active,
        carries=config.message_kinds,
        settings=config.model_dump(exclude=set(config.SECRETS)),
        secrets={
            name: tuple(value) if isinstance(value := getattr(config, name), dict) else (name,)
            for name in config.SECRETS
            if getattr(config, name)
        },
        used=used,
        uses=tuple(_uses(config, stored)),
        mark=mark,
        **_state(state),
    )


def _state(row: Any) -> dict[str, Any]:
    if row is None:
        return {}
    return {
        "accepted_at": row.accepted_at,
        "failing_since": row.failing_since or row.failed_at if row.failures_in_row else None,
        "failures": row.failures_in_row,
        "reason": row.reason,
        "needs_admin": row.needs_admin,
    }


def _uses(config: ChannelConfig, stored: Stored) -> Iterator[Use]:
    for slug, journey in stored.journeys.items():
        if config.name in journey.config.channels:
            alike = _alike(config, journey.config, stored)
            place = alike.index(config.name) + 1
            yield Use(slug, journey.config.name, journey.config.active, place, len(alike))


def _alike(config: ChannelConfig, journey: JourneyConfig, stored: Stored) -> list[str]:
    """The journey's channels that carry something that this one carries, in their order."""
    kinds = {name: channel.config.message_kinds for name, channel in stored.channels.items()}
    return [name for name in journey.channels if kinds.get(name, frozenset()) & config.message_kinds]
