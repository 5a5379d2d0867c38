"""The table of channels: what is stored, with its secrets opened, and how a change is written.

A stored secret goes only where it was given for (D4), and leaves the database for nobody: an export says ``"keep"``.
Whether a channel may be as it is wanted to be is asked in ``config.rules``. Whoever writes raises ``Portal.version``
in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from auth_portal.crypto import Keyring
from auth_portal.errors import Misconfigured
from auth_portal.gateways.channels import ChannelConfig, may_keep_secrets, parse_channel
from auth_portal.services.config.file import Faults, Table
from auth_portal.store.db import new_id
from auth_portal.store.models import ChannelRow, ChannelState

KEEP = "keep"


class StoredChannel(NamedTuple):
    """A channel as it is stored, its secrets opened."""

    id: str
    config: ChannelConfig
    is_active: bool


def stored_channels(connection: Connection, keyring: Keyring) -> dict[str, StoredChannel]:
    """Every channel by name, those that are off too."""
    rows = connection.execute(select(ChannelRow.__table__).order_by(ChannelRow.name))
    return {row.name: StoredChannel(row.id, _opened(row, keyring), row.is_active) for row in rows}


def _opened(row: Any, keyring: Keyring) -> ChannelConfig:
    secrets = {}
    if row.secrets_sealed is not None:
        secrets = json.loads(keyring.open(row.secrets_sealed, "channels", row.id, "secrets"))
    return parse_channel({**row.config, **secrets})


def write_channels(
    connection: Connection,
    keyring: Keyring,
    stored: Mapping[str, StoredChannel],
    wanted: Mapping[str, ChannelConfig],
    now: datetime,
) -> Iterator[tuple[str, str]]:
    """Makes the channels in use what they should be, and switches the others off; gives each name and what was done."""
    for name, before in stored.items():
        if before.is_active and name not in wanted:
            connection.execute(
                update(ChannelRow).where(ChannelRow.id == before.id).values(is_active=False, changed_at=now)
            )
            yield name, "switched off"
    for name, config in wanted.items():
        old = stored.get(name)
        if old is None:
            row_id = new_id(now)
            values = _columns(keyring, row_id, config, now)
            connection.execute(insert(ChannelRow).values(id=row_id, name=name, is_active=True, **values))
            yield name, "added"
        elif old.config != config or not old.is_active:
            rewrite_channel(connection, keyring, old, config, now, is_active=True)
            yield name, "changed" if old.is_active else "switched on"


def rewrite_channel(
    connection: Connection, keyring: Keyring, old: StoredChannel, config: ChannelConfig, now: datetime, *,
    is_active: bool,
) -> None:  # fmt: skip
    """Puts one configuration in the place of another."""
    values = {**_columns(keyring, old.id, config, now), "is_active": is_active}
    connection.execute(update(ChannelRow).where(ChannelRow.id == old.id).values(values))


def delete_channel(connection: Connection, old: StoredChannel) -> None:
    """Removes a channel, its secrets, and the memory of how it did."""
    connection.execute(delete(ChannelRow).where(ChannelRow.id == old.id))
    connection.execute(delete(ChannelState).where(ChannelState.name == old.config.name))


def _columns(keyring: Keyring, row_id: str, config: ChannelConfig, now: datetime) -> dict[str, Any]:
    secrets = {name: value for name in sorted(config.SECRETS) if (value := getattr(config, name))}
    sealed = keyring.seal(json.dumps(secrets), "channels", row_id, "secrets") if secrets else None
    open_part = config.model_dump(mode="json", exclude=set(config.SECRETS))
    return {"config": open_part, "secrets_sealed": sealed, "changed_at": now}


def parsed_channel(table: Table, stored: StoredChannel | None, faults: Faults) -> ChannelConfig | None:
    """What a table says a channel is, its kept secrets filled in; None where that is a fault, which is noted."""
    try:
        config = parse_channel(table.values)
        kept = _with_kept_secrets(config, stored.config if stored is not None else None)
        return parse_channel({**table.values, **kept}) if kept else config
    except Misconfigured as error:
        for line in error.faults:
            key, _, reason = line.partition(": ")
            faults.add(table.place, key, reason)
        return None


def _with_kept_secrets(config: ChannelConfig, stored: ChannelConfig | None) -> dict[str, Any]:
    """The stored secrets in place of each "keep". Raises Misconfigured where they may not serve this channel."""
    given = {name: getattr(config, name) for name in sorted(config.SECRETS)}
    keeping = [
        name for name, value in given.items() if KEEP in (value.values() if isinstance(value, dict) else (value,))
    ]
    if keeping and stored is None:
        raise Misconfigured(
            *(f'{name}: is "keep", but nothing is stored for this channel; give it' for name in keeping)
        )
    if keeping and stored is not None and not may_keep_secrets(stored, config):
        raise Misconfigured(
            *(
                f'{name}: is "keep", but kind, host, port or security differ from what is stored; give it again'
                for name in keeping
            )
        )
    return {name: _kept(name, given[name], getattr(stored, name)) for name in keeping}


def _kept(name: str, given: Any, stored: Any) -> Any:
    if isinstance(given, dict):
        return {part: _kept(f"{name}.{part}", text, stored.get(part)) for part, text in given.items()}
    if given != KEEP:
        return given
    if not stored:
        raise Misconfigured(f'{name}: is "keep", but nothing is stored for it; give it')
    return stored


def exported_channel(config: ChannelConfig) -> dict[str, Any]:
    """A channel as the config file has it, its secrets as ``"keep"``."""
    secrets = {name: _hidden(getattr(config, name)) for name in config.SECRETS}
    return {**config.model_dump(mode="json", exclude_none=True), **secrets}


def _hidden(secret: Any) -> Any:
    if isinstance(secret, dict):
        return {name: _hidden(text) for name, text in secret.items()}
    return KEEP if secret else ""
