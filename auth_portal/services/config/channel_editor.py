"""One channel on its page: how it does, adding, changing, switching and deleting it.

The rules, version and audit are those of an import of the config file. Refuses to take the last channel for a kind of
message from an active journey. Secrets go in and never come out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select

from auth_portal.crypto import Keyring
from auth_portal.errors import NotFound
from auth_portal.gateways.channels import KINDS, ChannelConfig, Preset, presets, read_fields, show_fields
from auth_portal.services.config.changes import Author, Difference, Newer, SaveResult, TableChange, channel_change
from auth_portal.services.config.channel import KEEP, read_channel, used_today
from auth_portal.services.config.configuration import Configuration, Edit, EditPlan, Sides, mark_of
from auth_portal.services.config.file import Fault, Faults, Table
from auth_portal.services.config.store import StoredChannel, StoredConfig, WantedConfig, delete_channel, read_stored
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import ChannelState

SHARED = ("countries", "daily_cap", "hourly_cap")  # that a preset's form asks for like any other
NEEDED = SHARED[:2]  # of these, what SMS cannot do without


class Use(NamedTuple):
    """A journey that names a channel, and its place among the journey's channels of its kind: 1 is tried first."""

    slug: str
    journey: str
    is_active: bool
    place: int
    of: int


@dataclass(frozen=True)
class ChannelView:
    """A channel as its page shows it. Of its secrets only the names of those that are stored."""

    name: str
    kind: type[ChannelConfig]
    is_active: bool
    carries: frozenset[str]
    settings: Mapping[str, Any]
    secrets: Mapping[str, Sequence[str]]
    used: Mapping[str, int]  # today, by country
    uses: tuple[Use, ...]
    mark: str  # of all its settings, including secrets
    accepted_at: datetime | None = None
    failing_since: datetime | None = None
    failures: int = 0
    reason: str = ""
    needs_admin: bool = False

    @property
    def form(self) -> Mapping[str, str]:
        """Return the channel as its form shows it."""
        return show_fields(self.kind.FORM, self.settings, self.secrets)

    @property
    def labels(self) -> Mapping[str, str]:
        """Return the form's name of each setting, in English."""
        return {field.name: field.label for field in self.kind.FORM}


class ChannelEditor:
    """Show and change single channels."""

    def __init__(self, transactions: Transactions, configuration: Configuration) -> None:
        self._transactions = transactions
        self._configuration = configuration

    def kinds(self) -> dict[str, type[ChannelConfig]]:
        """Return the kinds that can be added here; those of the sandbox only while it is on."""
        kinds = {name: kind.config_type for name, kind in KINDS.items()}
        return {name: kind for name, kind in kinds.items() if self._configuration.allows(kind)}

    def channels(self) -> list[ChannelView]:
        """Return every channel by name, with how it does."""
        with self._transactions.read() as work:
            stored = read_stored(work, is_locked=False)
            states = {row.name: row for row in work.execute(select(ChannelState.__table__))}
            return [_view(work, stored, channel, states.get(name)) for name, channel in stored.channels.items()]

    def channel(self, name: str) -> ChannelView:
        """Return one of them. Raise NotFound."""
        found = next((channel for channel in self.channels() if channel.name == name), None)
        if found is None:
            raise NotFound("not_found")
        return found

    def add(self, kind: str, typed: Mapping[str, str], author: Author) -> SaveResult:
        """Add the channel of a form, which is in use immediately. ``kind`` is one of ``kinds``."""
        values = {"kind": kind, "name": typed.get("name", ""), **read_fields(KINDS[kind].config_type.FORM, typed)}
        return self._configuration.save(NewChannel(values, author))

    def presets(self) -> Mapping[str, Preset]:
        """Return the providers whose request is known, by key."""
        return presets()

    def add_preset(self, key: str, typed: Mapping[str, str], author: Author) -> SaveResult:
        """Add the channel of a known provider, which is in use immediately. Raise NotFound for another one."""
        if (preset := presets().get(key)) is None:
            raise NotFound("not_found")
        missing = [*preset.missing(typed), *(name for name in NEEDED if not typed.get(name, "").strip())]
        filled = {**typed, **dict.fromkeys(missing, "1")}  # what is wrong with the others is said at the same time
        shared = [field for field in KINDS["http"].config_type.FORM if field.name in SHARED]
        values = {**preset.channel(filled), "name": typed.get("name", ""), **read_fields(shared, filled)}
        if not missing:
            return self._configuration.save(NewChannel(values, author))
        faults = Faults("")
        read_channel(Table("", values["name"], values), None, faults)
        shown = {"name", *SHARED} - set(missing)
        others = [fault for fault in faults.found if fault.key.partition(".")[0] in shown]
        return SaveResult((*(Fault("", name, "is missing") for name in missing), *others))

    def change(self, name: str, typed: Mapping[str, str], author: Author, *, based_on: str) -> SaveResult:
        """Give a channel the settings of a form; its name and kind stay, and it stays off if it is off.

        A secret that is empty in the form stays as it is stored if it may (D4). Raise NotFound.
        """
        values = {"name": name, **read_fields(self.channel(name).kind.FORM, typed)}
        return self._configuration.save(ChannelSettings(values, author, based_on))

    def merged_form(self, name: str, merged: Mapping[str, Any], typed: Mapping[str, str]) -> Mapping[str, str]:
        """Return the form of a channel that two changed: what is stored, with what one of them typed.

        Of a secret with parts, those that were typed stay in the form; any other secret has to be entered again.
        """
        shown = {}
        for item in self.channel(name).kind.FORM:
            value = merged.get(item.name)
            if item.is_secret:
                own = item.read(typed.get(item.name, ""))
                value = {part: own.get(part, KEEP) for part in value} if isinstance(value, dict) else ""
            shown[item.name] = item.show(value)
        return shown

    def switch(self, name: str, author: Author, *, is_active: bool) -> SaveResult:
        """Switch a channel on or off. Raise NotFound."""
        return self._configuration.save(ChannelSwitch({"name": name}, author, is_active=is_active))

    def delete(self, name: str, author: Author) -> SaveResult:
        """Delete a channel and its secrets. Raise NotFound.

        Refused while an active journey names it, and while it is the one that mail to owners leaves by.
        """
        with self._transactions.write() as work:
            stored = read_stored(work, is_locked=True)
            channel = stored.channel(name)
            faults = [Fault(use.slug, "channels", "names it") for use in _uses(channel.config, stored) if use.is_active]
            if stored.portal.notices_by == name:
                faults.append(Fault("portal", "notices_by", "names it"))
            if not faults:
                self._configuration.publish(work, stored, "channel_deleted", [delete_channel(work, channel)], author)
        return SaveResult(tuple(faults))


@dataclass(frozen=True)
class NewChannel(Edit):
    """A new channel."""

    def plan(self, work: Work, stored: StoredConfig, faults: Faults) -> EditPlan | None:
        """Return the change that adds it."""
        name = str(self.values.get("name", ""))
        if name in stored.channels:
            faults.add("", "name", "is already the name of another channel")
        config = read_channel(Table("", name, self.values), None, faults)
        if config is None or faults.found:
            return None
        wanted = _in_use(stored.as_wanted, config)
        return EditPlan(wanted, channel_change("added", None, config), "channel_added")


@dataclass(frozen=True)
class ChannelSettings(Edit):
    """Other settings of a stored channel."""

    def plan(self, work: Work, stored: StoredConfig, faults: Faults) -> EditPlan | None:
        """Return the change of the settings."""
        before = stored.channel(self.values["name"])
        kept = {
            name: KEEP
            for name in before.config.SECRETS
            if self.values.get(name) == "" and isinstance(secret := getattr(before.config, name), str) and secret
        }
        values = {**self.values, "kind": before.config.kind, **kept}
        config = read_channel(Table("", before.config.name, values), before.config, faults)
        if config is None:
            return None
        now = stored.as_wanted
        wanted = _in_use(now, config) if before.is_active else replace(now, off={**now.off, config.name: config})
        change = channel_change("changed", before.config, config)
        if config == before.config:  # its secrets are "kept", which is no difference
            change = change._replace(differences=())
        return EditPlan(wanted, change, "channel_changed")

    def sides(self, work: Work, stored: StoredConfig, plan: EditPlan) -> Sides:
        """Return the channel as it is stored, and as the form wants it."""
        name = self.values["name"]
        wanted = plan.wanted.channels.get(name) or plan.wanted.off[name]
        return Sides(_document(work.keyring, stored.channel(name).config), _document(work.keyring, wanted))

    def newer(self, work: Work, stored: StoredConfig, plan: EditPlan) -> Newer:
        """Return what was saved since the form was made, secrets only as changed."""
        found, secrets = super().newer(work, stored, plan), stored.channel(self.values["name"]).config.SECRETS
        return replace(
            found,
            theirs=tuple(_hidden(one, secrets, "changed by them") for one in found.theirs),
            typed=tuple(_hidden(one, secrets, "changed by you") for one in found.typed),
        )


@dataclass(frozen=True)
class ChannelSwitch(Edit):
    """A stored channel, on or off."""

    is_active: bool = field(kw_only=True)

    def plan(self, work: Work, stored: StoredConfig, faults: Faults) -> EditPlan | None:
        """Return the change that switches it."""
        config, now = stored.channel(self.values["name"]).config, stored.as_wanted
        if self.is_active:
            wanted, done = _in_use(now, config), "switched on"
        else:
            channels = {name: other for name, other in now.channels.items() if name != config.name}
            wanted = replace(now, channels=channels, off={**now.off, config.name: config})
            done = "switched off"
        return EditPlan(wanted, TableChange("channel", config.name, done), "channel_switched")


def _in_use(wanted: WantedConfig, config: ChannelConfig) -> WantedConfig:
    off = {name: other for name, other in wanted.off.items() if name != config.name}
    return replace(wanted, channels={**wanted.channels, config.name: config}, off=off)


def _document(keyring: Keyring, config: ChannelConfig) -> dict[str, Any]:
    """Return a channel with each secret as a keyed hash of it, because guesses could be compared with any other."""

    def hashed(place: str, secret: Any) -> Any:
        if isinstance(secret, dict):
            return {name: hashed(f"{place}.{name}", text) for name, text in secret.items()}
        return keyring.index("channel", f"{config.name} {place} {secret}") if secret else ""

    secrets = {name: hashed(name, getattr(config, name)) for name in config.SECRETS}
    return {**config.model_dump(mode="json"), **secrets}


def _hidden(found: Difference, secrets: frozenset[str], words: str) -> Difference:
    """Return a difference without the hashes of a secret."""
    if found.key.partition(".")[0] not in secrets:
        return found
    return Difference(found.key, found.before and "secret", words if found.after else "")


def _view(work: Work, stored: StoredConfig, channel: StoredChannel, state: Any) -> ChannelView:
    config = channel.config
    view = ChannelView(
        name=config.name,
        kind=type(config),
        is_active=channel.is_active,
        carries=config.message_kinds,
        settings=config.model_dump(exclude=set(config.SECRETS)),
        secrets={
            name: tuple(value) if isinstance(value := getattr(config, name), dict) else (name,)
            for name in config.SECRETS
            if getattr(config, name)
        },
        used=used_today(work.connection, config, work.now) if config.daily_cap is not None else {},
        uses=tuple(_uses(config, stored)),
        mark=mark_of(work.keyring, _document(work.keyring, config)),
    )
    if state is None:
        return view
    return replace(
        view,
        accepted_at=state.accepted_at,
        failing_since=state.failing_since or state.failed_at if state.failures_in_row else None,
        failures=state.failures_in_row,
        reason=state.reason,
        needs_admin=state.needs_admin,
    )


def _uses(config: ChannelConfig, stored: StoredConfig) -> Iterator[Use]:
    """Yield the journeys that name a channel, with its place among their channels that carry the same."""
    carried = {name: channel.config.message_kinds for name, channel in stored.channels.items()}
    for slug, journey in stored.journeys.items():
        names = journey.config.channels
        if config.name in names:
            alike = [name for name in names if carried.get(name, frozenset()) & config.message_kinds]
            yield Use(slug, journey.config.name, journey.config.active, alike.index(config.name) + 1, len(alike))
