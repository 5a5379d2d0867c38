"""Changing the portal's own settings: the same rules, version and audit as an import of the config file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from auth_portal.services.config.configuration import Configuration, Stored
from auth_portal.services.config.file import ConfigFile, Fault, Faults, parse
from auth_portal.services.config.journey_rows import Author
from auth_portal.services.config.portal import PortalSettings
from auth_portal.services.config.rules import Wanted
from auth_portal.store.db import Database


class PortalNow(NamedTuple):
    """The settings, and which version of the configuration they are of."""

    settings: PortalSettings
    version: int
    mail_channels: tuple[str, ...]  # those in use that carry e-mail


class PortalEditor:
    """Reads and writes the settings."""

    def __init__(self, database: Database, configuration: Configuration) -> None:
        self._database = database
        self._configuration = configuration

    def now(self) -> PortalNow:
        """The settings as they are stored."""
        with self._database.read() as connection:
            stored = self._configuration.stored(connection, locked=False)
        channels = stored.as_wanted.channels.items()
        carriers = tuple(name for name, channel in channels if "email" in channel.message_kinds)
        return PortalNow(stored.portal, stored.version, carriers)

    def save(self, values: Mapping[str, Any], author: Author) -> list[Fault]:
        """Writes new settings; why not, or nothing."""
        with self._database.write() as connection:
            stored = self._configuration.stored(connection, locked=True)
            faults, wanted = _wanted(values, stored, self._configuration)
            if wanted is not None and not faults:
                self._configuration.apply(connection, stored, wanted, "settings_changed", author)
        return faults


def _wanted(
    values: Mapping[str, Any], stored: Stored, configuration: Configuration
) -> tuple[list[Fault], Wanted | None]:
    faults = Faults("")
    portal = parse(PortalSettings, values, "portal", faults)
    if portal is None:
        return faults.found, None
    wanted = replace(stored.as_wanted, portal=portal)
    configuration.rules.check(ConfigFile(None, (), {}, {}), wanted, faults)
    return [fault for fault in faults.found if fault.table == "portal"], wanted
