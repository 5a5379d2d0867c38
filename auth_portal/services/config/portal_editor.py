"""Changing the portal's own settings: the same rules, version and audit as an import of the config file.

Refuses to write over what somebody else saved in the meantime until that was shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from auth_portal.services.config.configuration import Configuration, Stored
from auth_portal.services.config.differences import differences
from auth_portal.services.config.file import ConfigFile, Fault, Faults, parse
from auth_portal.services.config.journey_rows import Author
from auth_portal.services.config.meanwhile import Saving, mark, meanwhile
from auth_portal.services.config.portal import PortalSettings
from auth_portal.services.config.rules import Wanted
from auth_portal.store.db import Database


class PortalNow(NamedTuple):
    """The settings, and the mark by which a form made from them is known."""

    settings: PortalSettings
    mark: str
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
        return PortalNow(stored.portal, mark(stored.portal.model_dump()), carriers)

    def save(self, values: Mapping[str, Any], author: Author, *, based_on: str) -> Saving:
        """Writes new settings; why not, or nothing. ``based_on`` is the mark of those that the form was made from."""
        with self._database.write() as connection:
            stored = self._configuration.stored(connection, locked=True)
            faults, wanted = _wanted(values, stored, self._configuration)
            if wanted is None or faults:
                return Saving(faults)
            before = stored.portal.model_dump()
            changes = differences(before, wanted.portal.model_dump())
            if changes and based_on != mark(before):
                return Saving(newer=meanwhile(connection, "portal", changes))
            self._configuration.apply(connection, stored, wanted, "settings_changed", author)
        return Saving()


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
