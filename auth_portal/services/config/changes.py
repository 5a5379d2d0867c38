"""What a change of the configuration changed: for the page that shows it before, the audit, and the mail to owners.

Secrets are told as given, changed, kept or removed, and never shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from auth_portal.gateways.channels import ChannelConfig
from auth_portal.services.config.channel_rows import exported_channel
from auth_portal.services.config.differences import Difference, differences
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.portal import PortalSettings

# What an attacker would change: of this the owners are told, whoever did it (R19). Of a channel it is everything.
TOLD = {
    "portal": ("limits", "alerts", "notices_by"),
    "journey": ("callback", "limits", "relay_defence", "results", "shares_result", "steps"),
}


class Change(NamedTuple):
    """One table of the configuration, what was done to it (``changed``, ``added``, …), and key by key what differs."""

    table: str  # portal | channel | journey
    name: str
    done: str
    differences: tuple[Difference, ...] = ()

    @property
    def title(self) -> str:
        """Such as ``channel sms``."""
        return f"{self.table} {self.name}".strip()

    @property
    def line(self) -> str:
        """Such as ``channel sms: switched off``."""
        return f"{self.title}: {self.done}"


def portal_change(before: PortalSettings, after: PortalSettings) -> Change:
    """The portal's settings."""
    return Change("portal", "", "changed", tuple(differences(before.model_dump(), after.model_dump())))


def channel_change(done: str, before: ChannelConfig | None, after: ChannelConfig | None) -> Change:
    """A channel that was added (no ``before``), changed, switched on or off, or deleted (no ``after``)."""
    name = (after or before).name  # type: ignore[union-attr]  # one of them is there
    if after is None:
        return Change("channel", name, done)
    plain = differences(_without_secrets(before), _without_secrets(after))
    return Change("channel", name, done, (*plain, *_secret_differences(before, after)))


def journey_change(done: str, before: JourneyConfig | None, after: JourneyConfig) -> Change:
    """A journey that was added or changed."""
    old = before.model_dump() if before is not None else {}
    return Change("journey", after.slug, done, tuple(differences(old, after.model_dump())))


def _without_secrets(config: ChannelConfig | None) -> dict[str, Any]:
    if config is None:
        return {}
    return {key: value for key, value in exported_channel(config).items() if key not in config.SECRETS}


def _secret_differences(before: ChannelConfig | None, after: ChannelConfig) -> Iterator[Difference]:
    for name in sorted(after.SECRETS):
        old, new = getattr(before, name, None), getattr(after, name)
        if old == new:
            if new:
                yield Difference(name, "secret", "kept")
        else:
            yield Difference(name, "secret", "changed" if new else "removed") if old else Difference(name, "", "given")


def facts(changes: Sequence[Change]) -> Mapping[str, Any]:
    """The changes as an audit event has them: ``{"channel sms": {"daily_cap": ["5", "6"]}}``."""
    return {
        change.title: {found.key: [found.before, found.after] for found in change.differences} for change in changes
    }


def lines_for_owners(changes: Sequence[Change]) -> list[str]:
    """What the owners are told of the changes; empty where none is an attacker's kind (R19)."""
    return [line for change in changes for line in _told(change)]


def _told(change: Change) -> Iterator[str]:
    kinds = TOLD.get(change.table)
    told = [found for found in change.differences if kinds is None or found.key.startswith(kinds)]
    if told or kinds is None:
        yield f"{change.title}: {change.done}"
        for key, before, after in told:
            yield f"  {key}: {before or 'nothing'} -> {after or 'nothing'}"
