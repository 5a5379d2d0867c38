"""Every change of the configuration: by the config file or by one page, in one transaction or not at all.

Refuses what would let a weaker proof answer for a stronger one (R35), what could never work, a stored secret for a
server other than the one that it was entered for (D4), and to overwrite what another admin saved while a form was open
until that was shown.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import tomli_w

from auth_portal.crypto import Keyring, same_text
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.gateways.way_out import WayOut
from auth_portal.services.config.appearance import logo_of, store_logo
from auth_portal.services.config.changes import (
    COMMAND,
    Author,
    ChangedChannel,
    Newer,
    OwnerNotices,
    SaveResult,
    TableChange,
    audit_facts,
    portal_change,
)
from auth_portal.services.config.channel import exported_channel, read_channel
from auth_portal.services.config.file import ConfigFile, Faults, parse, read_config
from auth_portal.services.config.history import last_change
from auth_portal.services.config.portal import PortalSettings
from auth_portal.services.config.rules import Rules, Scope, warnings
from auth_portal.services.config.store import StoredConfig, WantedConfig, read_stored, write
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import READ_AGAIN


@dataclass(frozen=True)
class ImportSummary:
    """What an import changes, and the warnings about what it allows.

    ``mark`` stands for the file and for what was stored: as long as it is the same, so are the changes.
    """

    changes: tuple[TableChange, ...]
    warnings: tuple[str, ...]
    mark: str = field(default="", compare=False)
    is_applied: bool = field(default=True, compare=False)

    @property
    def lines(self) -> tuple[str, ...]:
        """Return one line for each change."""
        return tuple(change.line for change in self.changes)


@dataclass(frozen=True)
class EditPlan:
    """What an edit would make of the stored configuration."""

    wanted: WantedConfig
    change: TableChange
    event: str  # the kind of the audit event
    number: int = 0  # of the journey's stored version

    @property
    def scope(self) -> Scope:
        """Return what the rules check: the table itself, a channel only if it is in use."""
        table, name = self.change.table, self.change.name
        if table == "channel":
            return Scope({name: ""} if name in self.wanted.channels else {}, other_journey="{slug}")
        return Scope(journeys={name: ""}) if table == "journey" else Scope()


class Sides(NamedTuple):
    """A table as it is stored and as a form wants it, without secrets."""

    stored: Mapping[str, Any]
    typed: Mapping[str, Any]


@dataclass(frozen=True)
class Edit(ABC):
    """One table as an admin wants it: ``values`` as the config file would have them.

    ``based_on`` is what the form was made from: the number of a version, or a table as ``mark_of`` writes it.
    """

    values: Mapping[str, Any]
    author: Author
    based_on: str | int = ""

    @abstractmethod
    def plan(self, work: Work, stored: StoredConfig, faults: Faults) -> EditPlan | None:
        """Return what it would change, or None if the values cannot be read. Raise NotFound for the table."""

    def sides(self, work: Work, stored: StoredConfig, plan: EditPlan) -> Sides | None:
        """Return the table as it is stored and as the form wants it; None for what no form was made from."""
        return None

    def is_outdated(self, work: Work, stored: StoredConfig, plan: EditPlan) -> bool:
        """Report whether something else is stored than what the form was made from."""
        sides = self.sides(work, stored, plan)
        return sides is not None and table_of_mark(work.keyring, str(self.based_on)) != sides.stored

    def newer(self, work: Work, stored: StoredConfig, plan: EditPlan) -> Newer:
        """Return what was saved since the form was made, and what the form changed itself."""
        now, typed = self.sides(work, stored, plan) or Sides({}, {})
        by, at = last_change(work, plan.change.title)
        return Newer.of(table_of_mark(work.keyring, str(self.based_on)), now, typed, by=by, at=at)

    def is_reported(self, table: str) -> bool:
        """Report whether a fault of this table belongs to the edit."""
        return True


class Configuration:
    """Read and write portal settings, channels and journeys. ``way_out`` knows the operator's policy."""

    def __init__(
        self, transactions: Transactions, *, has_sandbox: bool, way_out: WayOut, notify_owners: OwnerNotices
    ) -> None:
        self._transactions = transactions
        self._notify_owners = notify_owners
        self._rules = Rules(has_sandbox, way_out)

    def allows(self, kind: type[ChannelConfig]) -> bool:
        """Report whether channels of a kind can work in this installation."""
        return self._rules.allows(kind)

    # --- The config file

    def import_toml(
        self, text: str, *, file_name: str, prune: bool = False, author: Author = COMMAND, shown: str | None = None
    ) -> ImportSummary:
        """Make what the file names equal to the file; ``prune`` also switches off what it does not name.

        Of ``[portal]`` only the keys that are there change; a channel or journey becomes what the file says, with the
        defaults for the rest. ``shown`` is the mark of a preview: if it is no longer the same, nothing is written.
        Raise BadConfig with every fault; then nothing was written either.
        """
        faults = Faults(file_name)
        file = read_config(text, faults)
        with self._transactions.write() as work:
            stored = read_stored(work, is_locked=True)
            wanted = _wanted_by(file, stored, prune, faults)
            channels = {table.name: table.place for table in file.channels}
            self._rules.check(wanted, Scope(channels, file.places), faults)
            faults.raise_if_any()
            mark = hashlib.sha256(f"{stored.version}\n{prune}\n{text}".encode()).hexdigest()
            is_applied = shown is None or same_text(shown, mark)
            if is_applied:
                changes = self._apply(work, stored, wanted, "configuration_imported", author)
            else:
                attempt = work.connection.begin_nested()  # written and rolled back, so that nothing else can be shown
                try:
                    changes = list(write(work, stored, wanted, COMMAND))
                finally:
                    attempt.rollback()
        return ImportSummary(tuple(changes), tuple(warnings(file.journeys)), mark, is_applied)

    def preview_toml(self, text: str, *, file_name: str, prune: bool = False) -> ImportSummary:
        """Return what an import of this file would change. Raise BadConfig with every fault."""
        return self.import_toml(text, file_name=file_name, prune=prune, shown="")

    def export_toml(self, *, has_addresses: bool = True) -> str:
        """Return everything in use as a config file. Secrets are ``"keep"``: they never leave the database.

        Without ``has_addresses`` it has none that alerts go to, which may hold a secret: an import leaves it as it is.
        """
        stored = self.stored()
        document: dict[str, Any] = {"portal": stored.portal.stored()}
        if not has_addresses:
            document["portal"].get("alerts", {}).pop("webhook", None)
        if channels := [exported_channel(channel.config) for channel in stored.channels.values() if channel.is_active]:
            document["channels"] = channels
        if journeys := [journey.config.stored() for journey in stored.journeys.values()]:
            document["journeys"] = journeys
        return tomli_w.dumps(document)

    # --- One table

    def stored(self) -> StoredConfig:
        """Return everything as it is stored now."""
        with self._transactions.read() as work:
            return read_stored(work, is_locked=False)

    def settings(self) -> SettingsForm:
        """Return the portal's settings with what their form needs."""
        with self._transactions.read() as work:
            stored, keyring = read_stored(work, is_locked=False), work.keyring
        channels = stored.as_wanted.channels.items()
        carriers = tuple(name for name, channel in channels if "email" in channel.message_kinds)
        mark = mark_of(keyring, stored.portal.model_dump(mode="json"))
        return SettingsForm(stored.portal, mark, carriers, stored.ids.held_by)

    def take_logo(self, content: bytes) -> str:
        """Store an uploaded picture as a logo. Return its digest, empty for none. Raise ValueError for the admin."""
        return self.keep_logo(logo_of(content)) if content else ""

    def keep_logo(self, logo: bytes) -> str:
        """Store a logo as it is. Return its digest."""
        with self._transactions.write() as work:
            return store_logo(work, logo)

    def propose(self, edit: Edit) -> SaveResult:
        """Return the result that saving would have. Write nothing. Raise NotFound for the table."""
        with self._transactions.read() as work:
            return self._check(work, edit, read_stored(work, is_locked=False))[1]

    def save(self, edit: Edit) -> SaveResult:
        """Write an edit unless it has faults or something newer is stored. Raise NotFound for the table."""
        with self._transactions.write() as work:
            stored = read_stored(work, is_locked=True)
            plan, result = self._check(work, edit, stored)
            if plan is not None and result.is_fine:
                self._apply(work, stored, plan.wanted, plan.event, edit.author)
        return result

    def _check(self, work: Work, edit: Edit, stored: StoredConfig) -> tuple[EditPlan | None, SaveResult]:
        """Return the plan of an edit, and its result: the one place that compares marks and asks the rules."""
        faults = Faults("")
        plan = edit.plan(work, stored, faults)
        if plan is None:
            return None, SaveResult(tuple(faults.found))
        self._rules.check(plan.wanted, plan.scope, faults)
        differences = plan.change.differences
        is_newer = bool(differences) and edit.is_outdated(work, stored, plan)
        return plan, SaveResult(
            faults=tuple(fault for fault in faults.found if edit.is_reported(fault.table)),
            newer=edit.newer(work, stored, plan) if is_newer else None,
            changes=differences,
            number=plan.number,
            is_guarded=plan.change.is_guarded,
        )

    # --- Writing

    def _apply(
        self, work: Work, stored: StoredConfig, wanted: WantedConfig, event: str, author: Author
    ) -> list[TableChange]:
        """Write what differs and publish it. The rules were asked before."""
        changes = list(write(work, stored, wanted, author))
        if changes:
            self.publish(work, stored, event, changes, author)
        return changes

    def publish(
        self, work: Work, stored: StoredConfig, event: str, changes: Sequence[TableChange], author: Author
    ) -> None:
        """Make servers notice changes, record them, and notify the owners (R44), all in the caller's transaction.

        ``stored`` is the configuration before, ``event`` the kind of the audit event.
        """
        work.execute(READ_AGAIN)
        work.record(
            event,
            admin_id=author.admin_id,
            portal=any(change.table == "portal" for change in changes),
            channels=sorted(change.name for change in changes if change.table == "channel"),
            journeys=sorted(change.name for change in changes if change.table == "journey"),
            changes=audit_facts(changes),
            done={change.title: change.done for change in changes},
            versions={change.name: change.number for change in changes if change.number},
            **({"note": author.note} if author.note else {}),
        )
        if guarded := [change for change in changes if change.is_guarded]:
            done = {change.name: change.done for change in changes if change.table == "channel"}
            changed = [
                ChangedChannel(channel.config, done[name] == "changed")
                for name, channel in stored.channels.items()
                if channel.is_active and name in done
            ]
            paths = list(dict.fromkeys(change.path for change in guarded))
            self._notify_owners(work, "The configuration was changed", guarded, author.admin_id, paths, changed)


def _wanted_by(file: ConfigFile, stored: StoredConfig, prune: bool, faults: Faults) -> WantedConfig:
    now = stored.as_wanted
    channels = {} if prune else dict(now.channels)
    for table in file.channels:
        known = stored.channels.get(table.name)
        if (config := read_channel(table, known.config if known else None, faults)) is not None:
            channels[config.name] = config
    journeys = dict(now.journeys)
    has_new_default = any(journey.default for journey in file.journeys.values())
    for slug in journeys.keys() - file.journeys.keys():
        changes = {**({"default": False} if has_new_default else {}), **({"active": False} if prune else {})}
        journeys[slug] = journeys[slug].model_copy(update=changes)
    document = now.portal.model_dump()
    for key, value in (file.portal or {}).items():  # of a table, too, only the keys that are there change
        is_table = isinstance(document.get(key), dict) and isinstance(value, dict)
        document[key] = {**document[key], **value} if is_table else value
    try:
        portal = PortalSettings.model_validate(document)
    except ValueError:  # what is wrong was noted when the file was read
        portal = now.portal
    return replace(
        now,
        portal=portal,
        channels=channels,
        journeys={**journeys, **file.journeys},
        off={name: config for name, config in now.off.items() if name not in channels},
    )


class SettingsForm(NamedTuple):
    """The portal's settings, the mark of a form made from them, and the channels in use that carry email.

    ``ids_held_by`` is what keeps the rule for customer IDs as it is, "" if nothing does.
    """

    settings: PortalSettings
    mark: str
    mail_channels: tuple[str, ...]
    ids_held_by: str


@dataclass(frozen=True)
class SettingsEdit(Edit):
    """The portal's settings as the page wants them."""

    def plan(self, work: Work, stored: StoredConfig, faults: Faults) -> EditPlan | None:
        """Return the change of the settings."""
        portal = parse(PortalSettings, self.values, "portal", faults)
        if portal is None:
            return None
        wanted = replace(stored.as_wanted, portal=portal)
        return EditPlan(wanted, portal_change(stored.portal, portal), "settings_changed")

    def sides(self, work: Work, stored: StoredConfig, plan: EditPlan) -> Sides:
        """Return the settings as they are stored, and as the form wants them."""
        return Sides(stored.portal.model_dump(mode="json"), plan.wanted.portal.model_dump(mode="json"))

    def is_reported(self, table: str) -> bool:
        """Report whether a fault is one of the settings: journeys may have had theirs before."""
        return table == "portal"


def mark_of(keyring: Keyring, table: Mapping[str, Any]) -> str:
    """Return what a form carries of the table that it was made from: all of it, to merge by field what two changed.

    Secrets must not be in it.
    """
    return keyring.sign("form", json.dumps(table, sort_keys=True))


def table_of_mark(keyring: Keyring, mark: str) -> Mapping[str, Any]:
    """Return the table of ``mark_of``; an empty one for a mark of an earlier release, or anything else."""
    text = keyring.verify("form", mark)
    table: Mapping[str, Any] = json.loads(text) if text else {}
    return table
