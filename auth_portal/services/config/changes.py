"""What a change of the configuration changes: for the preview, the audit trail and the mail to owners.

Secrets appear as given, changed, kept or removed, and never with their value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from auth_portal.gateways.channels import KINDS, ChannelConfig
from auth_portal.services.config.channel import exported_channel
from auth_portal.services.config.file import Fault
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.portal import PortalSettings, hidden_address
from auth_portal.store.db import Work

# Every field is guarded (R44): a change of it needs a fresh second factor, is an audit event, and is emailed to all
# owners. An act on a whole row (adding, switching, deleting, revoking, resetting) is guarded as well. The only
# exceptions are here, each with its reason; a test walks all fields, so a new one must be entered in one of the two.
GUARDED: Mapping[str, frozenset[str]] = {
    "portal": frozenset(
        {
            *("name", "default_region", "support_contact", "notices_by", "limits", "retention", "alerts"),
            *("language", "languages", "latin_name", "case_sensitive_ids"),
            *("logo", "logo_dark", "hide_name"),
        }
    ),
    "channel": frozenset(name for kind in KINDS.values() for name in kind.config_type.model_fields),
    "journey": frozenset(
        {
            *("slug", "name", "default", "active", "chat_seconds", "return_url", "relay_defence", "shares_result"),
            *("channels", "steps", "callback", "results", "data", "limits", "texts", "wording"),
            *("logo", "logo_dark", "hide_name"),
        }
    ),
    "key": frozenset({"name", "scopes", "expires_at", "revoked_at"}),
    "admin": frozenset(
        {
            *("name", "email_sealed", "email_key", "role", "is_active"),
            *("password_hash", "totp_sealed", "recovery_sealed"),
        }
    ),
    "webhook": frozenset({"url_sealed", "secret_sealed", "events", "is_active"}),
}
HARMLESS: Mapping[str, Mapping[str, str]] = {
    "portal": {
        "time_zone": "only how times are shown to admins; mail to owners also has them in UTC",
        "colour": "only the colour of pages; what is written on it is computed so that it can be read",
        "radius": "only the shape of corners",
    },
    "channel": {},
    "journey": {
        "colour": "only the colour of pages; what is written on it is computed so that it can be read",
        "radius": "only the shape of corners",
    },
    "key": {
        "id": "made by the portal",
        "token_hash": "made by the portal when the key is created",
        "ending": "made by the portal when the key is created",
        "made_by": "recorded by the portal",
        "created_at": "recorded by the portal",
        "used_at": "recorded by the portal",
        "mac": "made by the portal from the other columns",
    },
    "admin": {
        "id": "made by the portal",
        "totp_last_step": "recorded by the portal when a code is used",
        "created_at": "recorded by the portal",
        "changed_at": "recorded by the portal",
        "mac": "made by the portal from the other columns",
    },
    "webhook": {
        "id": "made by the portal",
        "target": "made by the portal from the address",
        "old_secret_sealed": "made by the portal when the secret is replaced",
        "old_secret_until": "made by the portal when the secret is replaced",
        "gone_at": "recorded by the portal",
        "failing_since": "recorded by the portal",
        "warned_at": "recorded by the portal",
        "paused_at": "recorded by the portal",
        "fault": "recorded by the portal",
        "made_by": "recorded by the portal",
        "created_at": "recorded by the portal",
        "changed_at": "recorded by the portal",
    },
}

_FIELD = re.compile(r"[.\[]")  # what ends the first part of a key such as ``steps[2].any_of``


class Author(NamedTuple):
    """The admin who makes a change (None for a command), and their note on it."""

    admin_id: str | None = None
    note: str = ""


COMMAND = Author()
NOTE_LENGTH = 200  # characters of an admin's note
ADDRESSES = frozenset({"alerts.webhook"})  # keys whose values only owners see whole
_ABSENT = object()  # of a key that a table lacks


class Difference(NamedTuple):
    """One key that differs. A side is empty where the key has no value there."""

    key: str
    before: str
    after: str

    @property
    def recorded(self) -> Difference:
        """Return it as it is recorded and mailed: the rest of an address may hold a secret."""
        is_address = self.key in ADDRESSES
        return Difference(self.key, *map(hidden_address, self[1:])) if is_address else self


class TableChange(NamedTuple):
    """One table of the configuration, what was done to it (``changed``, ``added``, …), and key by key what differs."""

    table: str  # portal | channel | journey
    name: str
    done: str
    differences: tuple[Difference, ...] = ()
    number: int = 0  # of the version that it made of a journey

    @property
    def title(self) -> str:
        """Return the name that the audit trail uses, such as ``channel sms``."""
        return f"{self.table} {self.name}".strip()

    @property
    def line(self) -> str:
        """Return a line such as ``channel sms: switched off``."""
        return f"{self.title}: {self.done}"

    @property
    def guarded(self) -> tuple[Difference, ...]:
        """Return the differences in guarded fields (R44)."""
        harmless = HARMLESS[self.table]
        return tuple(found for found in self.differences if _FIELD.split(found.key, maxsplit=1)[0] not in harmless)

    @property
    def is_guarded(self) -> bool:
        """Report whether it changes a guarded field, or is an act on the whole row, which has no differences."""
        return bool(self.guarded) or not self.differences

    @property
    def path(self) -> str:
        """Return the page that shows the change: of a journey its version, of anything deleted the list."""
        if self.table == "portal":
            return "/admin/settings"
        listed = f"/admin/{self.table}s"
        if self.done == "deleted":
            return listed
        return f"{listed}/{self.name}/versions/{self.number}" if self.number else f"{listed}/{self.name}"


class ChangedChannel(NamedTuple):
    """A channel as it was before a change, and whether it is still in use after it."""

    was: ChannelConfig
    is_in_use: bool


class OwnerNotices(Protocol):
    """What notifies the owners of changes."""

    def __call__(
        self,
        work: Work,
        subject: str,
        changes: Sequence[TableChange],
        by: str | None,
        paths: Sequence[str],
        changed: Sequence[ChangedChannel],
        /,
    ) -> None:
        """Mail every owner within the caller's transaction.

        ``by`` is the admin whose act it was, ``paths`` are the pages that show it, ``changed`` the channels in use that
        the mail is about.
        """


@dataclass(frozen=True)
class Newer:
    """What another admin saved while a form was open. ``by`` is that admin's name, empty for a command."""

    by: str
    at: datetime | None
    note: str = ""
    number: int = 0  # of the journey's stored version; 0 for the settings and channels, which have no versions
    theirs: tuple[Difference, ...] = ()  # what they changed, where it is known what the form was made from
    typed: tuple[Difference, ...] = ()  # what the form changed otherwise than they did
    merged: Mapping[str, Any] = field(default_factory=dict)  # what is stored, with what the form changed

    @classmethod
    def of(
        cls,
        base: Mapping[str, Any],
        stored: Mapping[str, Any],
        typed: Mapping[str, Any],
        *,
        by: str,
        at: datetime | None,
        note: str = "",
        number: int = 0,
    ) -> Newer:
        """Compare what is stored and what was typed with the ``base`` that the form was made from.

        Without a base everything typed counts as changed, as in a form of a release that did not send it.
        """
        if not base:
            return cls(by, at, note, number, typed=differences(stored, typed), merged=typed)
        theirs = differences(base, stored)
        mine = tuple(found for found in differences(base, typed) if found not in theirs)
        return cls(by, at, note, number, theirs, mine, merged(base, stored, typed))

    @property
    def both(self) -> tuple[Difference, ...]:
        """Return what both changed, each otherwise: as it is stored now, and as the form says.

        Steps and channels are each one thing: their places depend on each other.
        """
        theirs, typed = ({found.key: found for found in side} for side in (self.theirs, self.typed))
        things = {key.partition("[")[0] for key in theirs} & {key.partition("[")[0] for key in typed}
        keys = [key for key in {**theirs, **typed} if key.partition("[")[0] in things]
        found = [
            Difference(
                key,
                theirs[key].after if key in theirs else typed[key].before,
                typed[key].after if key in typed else theirs[key].before,
            )
            for key in keys
        ]
        return tuple(one for one in found if one.before != one.after)


@dataclass(frozen=True)
class SaveResult:
    """The result of saving one table: its faults, or what is newer than the form; with neither it was saved."""

    faults: tuple[Fault, ...] = ()
    newer: Newer | None = None
    changes: tuple[Difference, ...] = ()
    number: int = 0  # of a journey's stored version, before this change; 0 where there is none
    is_guarded: bool = True  # it changes a guarded field (R44)

    @property
    def is_fine(self) -> bool:
        """Return True if nothing prevents saving."""
        return not self.faults and self.newer is None


def portal_change(before: PortalSettings, after: PortalSettings) -> TableChange:
    """Return the change of the portal's settings."""
    return TableChange("portal", "", "changed", differences(before.model_dump(), after.model_dump()))


def channel_change(done: str, before: ChannelConfig | None, after: ChannelConfig) -> TableChange:
    """Return the change of a channel that was added (no ``before``), changed, or switched on or off."""
    old, new = (
        {key: value for key, value in exported_channel(config).items() if key not in config.SECRETS} if config else {}
        for config in (before, after)
    )
    return TableChange("channel", after.name, done, (*differences(old, new), *_secret_differences(before, after)))


def _secret_differences(before: ChannelConfig | None, after: ChannelConfig) -> Iterator[Difference]:
    for name in sorted(after.SECRETS):
        old, new = getattr(before, name, None), getattr(after, name)
        if not old and new:
            yield Difference(name, "", "given")
        elif old and old == new:
            yield Difference(name, "secret", "kept")
        elif old:
            yield Difference(name, "secret", "changed" if new else "removed")


def journey_change(done: str, before: JourneyConfig | None, after: JourneyConfig, number: int = 0) -> TableChange:
    """Return the change of a journey that was added or changed; ``number`` is that of its new version."""
    old = before.model_dump() if before is not None else {}
    return TableChange("journey", after.slug, done, differences(old, after.model_dump()), number)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return the keys whose values differ, in the order of ``before``, then the new ones: ``steps[2].any_of``.

    Tables are compared key by key, lists of tables place by place, and any other value as a whole. Replace secrets
    before you compare.
    """
    old, new = dict(_flat("", before)), dict(_flat("", after))
    keys = [*old, *(key for key in new if key not in old)]
    found = (Difference(key, old.get(key, ""), new.get(key, "")) for key in keys)
    return tuple(difference for difference in found if difference.before != difference.after)


def merged(base: Mapping[str, Any], stored: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored, with what was typed where that differs from the ``base`` that a form was made from.

    Tables are merged key by key, and any other value as a whole.
    """
    found: dict[str, Any] = {}
    for key in {**stored, **typed}:
        was, now, mine = (side.get(key, _ABSENT) for side in (base, stored, typed))
        if isinstance(now, Mapping) and isinstance(mine, Mapping):
            found[key] = merged(was if isinstance(was, Mapping) else {}, now, mine)
        elif (chosen := now if mine == was else mine) is not _ABSENT:
            found[key] = chosen
    return found


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield each value with its key. An empty table or list yields nothing."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flat(f"{key}.{name}" if key else str(name), part)
    elif _is_list(value) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value, 1):  # counted from 1, as people do
            yield from _flat(f"{key}[{number}]", item)
    else:
        yield key, value_text(value)


def value_text(value: Any) -> str:
    """Return a value as an admin reads it: ``yes`` and ``no``, lists with commas."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_list(value):
        return ", ".join(value_text(item) for item in value)
    return str(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def audit_facts(changes: Sequence[TableChange]) -> Mapping[str, Any]:
    """Return the changes as an audit event stores them: ``{"channel sms": {"daily_cap": ["5", "6"]}}``."""
    return {
        change.title: {key: [before, after] for key, before, after in (one.recorded for one in change.differences)}
        for change in changes
    }


def recorded_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of an event as they would be recorded today, for those who read them.

    An event is signed and stays as it is: one of an older version may have an address whole.
    """

    def sides(key: str, found: Any) -> Any:
        is_address = key in ADDRESSES and isinstance(found, list) and len(found) == len(("before", "after"))
        return list(Difference(key, *map(str, found)).recorded[1:]) if is_address else found

    if not isinstance(changes := facts.get("changes"), Mapping):
        return facts
    return facts | {
        "changes": {
            of: {key: sides(key, found) for key, found in fields.items()} if isinstance(fields, Mapping) else fields
            for of, fields in changes.items()
        }
    }
