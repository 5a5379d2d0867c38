"""A channel in the config file, its stored secrets, and its caps.

A stored secret is used only for the server that it was given for (D4), and never leaves the database: an export says
``"keep"``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from auth_portal.errors import Misconfigured
from auth_portal.gateways.channels import ChannelConfig, may_keep_secrets, parse_channel
from auth_portal.services.config.file import Faults, Table
from auth_portal.store.models import Counter

KEEP = "keep"
NOT_STORED = 'is "keep", but nothing is stored for it; enter it'
ENTER_AGAIN = (
    "must be entered again: a stored secret is only used with the kind, host and port that it was entered for, and "
    "with no less security"
)
CAP = "cap:"  # what the key of a cap's counter begins with
HOURLY_CAP = "hourly:"  # and that of an hourly cap's
ALARM_SHARES = (0.5, 0.8)  # of a channel's daily cap, at which owners are alerted (R12); the first, of an hourly one
OPEN_SHARE = 0.7  # of a channel's daily cap; the rest is reserved for verifications with a ticket (R12)


def read_channel(table: Table, stored: ChannelConfig | None, faults: Faults) -> ChannelConfig | None:
    """Return the channel that a table describes, each ``"keep"`` replaced by the stored secret; None with faults."""
    try:
        config = parse_channel(table.values)
        kept = _kept_secrets(config, stored)
        return parse_channel({**table.values, **kept}) if kept else config
    except Misconfigured as error:
        for line in error.faults:
            key, _, reason = line.partition(": ")
            faults.add(table.place, key, reason)
        return None


def _kept_secrets(config: ChannelConfig, stored: ChannelConfig | None) -> dict[str, Any]:
    """Return the stored secret for each ``"keep"``. Raise Misconfigured if it may not be used for this channel."""
    given = {name: getattr(config, name) for name in sorted(config.SECRETS)}
    keeping = [
        name for name, value in given.items() if KEEP in (value.values() if isinstance(value, dict) else (value,))
    ]
    if not keeping:
        return {}
    if stored is None:
        raise Misconfigured(*(f"{name}: {NOT_STORED}" for name in keeping))
    if not may_keep_secrets(stored, config):
        raise Misconfigured(*(f"{name}: {ENTER_AGAIN}" for name in keeping))
    return {name: _kept_secret(name, given[name], getattr(stored, name)) for name in keeping}


def _kept_secret(name: str, given: Any, stored: Any) -> Any:
    if isinstance(given, dict):
        return {part: _kept_secret(f"{name}.{part}", text, stored.get(part)) for part, text in given.items()}
    if given != KEEP:
        return given
    if not stored:
        raise Misconfigured(f"{name}: {NOT_STORED}")
    return stored


def exported_channel(config: ChannelConfig) -> dict[str, Any]:
    """Return a channel as the config file writes it, its secrets as ``"keep"``."""
    secrets = {name: _hidden(getattr(config, name)) for name in config.SECRETS}
    return {**config.model_dump(mode="json", exclude_none=True), **secrets}


def _hidden(secret: Any) -> Any:
    if isinstance(secret, dict):
        return {name: _hidden(text) for name, text in secret.items()}
    return KEEP if secret else ""


def cap_key(channel: str, country: str, now: datetime) -> str:
    """Return the key of the counter of a channel's day (UTC) and, for SMS, country."""
    return f"{CAP}{channel}:{country}:{now:%Y%m%d}"


def hourly_cap_key(channel: str, country: str, now: datetime) -> str:
    """Return the key of the counter of a channel's clock hour (UTC) and, for SMS, country (R49)."""
    return f"{HOURLY_CAP}{channel}:{country}:{now:%Y%m%d%H}"


def most_today(daily_cap: int, *, is_ticketed: bool) -> int:
    """Return how many messages may be sent in a day, for links with a ticket or without one (R12)."""
    return daily_cap if is_ticketed else max(1, int(daily_cap * OPEN_SHARE))


def used_today(connection: Connection, channel: ChannelConfig, now: datetime) -> dict[str, int]:
    """Return what a channel has sent today, by country of its allow-list; email has the country ``""``."""
    return _used(connection, channel, now, cap_key)


def used_this_hour(connection: Connection, channel: ChannelConfig, now: datetime) -> dict[str, int]:
    """Return what a channel has sent in this clock hour, by country as ``used_today`` does."""
    return _used(connection, channel, now, hourly_cap_key)


def _used(
    connection: Connection, channel: ChannelConfig, now: datetime, key_of: Callable[[str, str, datetime], str]
) -> dict[str, int]:
    countries = {key_of(channel.name, country, now): country for country in ("", *channel.countries)}
    rows = connection.execute(select(Counter.key, Counter.events).where(Counter.key.in_(list(countries))))
    return {countries[row.key]: row.events for row in rows if row.events > 0}
