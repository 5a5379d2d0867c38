"""How a message travels: SMTP, Clickatell, an HTTP template, and for development the console and the sandbox inbox.

A channel hands one message over once and says what became of it. Caps, countries, waiting, trying again and
logging belong to whoever calls. The text of a message holds a code: it goes to the recipient and nowhere else.

A new kind is one module with a config and a channel, and one line in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from auth_portal.errors import Misconfigured
from auth_portal.gateways.channels.clickatell import ClickatellChannel, ClickatellConfig
from auth_portal.gateways.channels.contract import (
    Channel,
    ChannelConfig,
    Destination,
    Frame,
    Handover,
    OutgoingMessage,
    Receipt,
)
from auth_portal.gateways.channels.development import ConsoleChannel, ConsoleConfig, InboxChannel, InboxConfig
from auth_portal.gateways.channels.http import HttpChannel, HttpConfig
from auth_portal.gateways.channels.smtp import SmtpChannel, SmtpConfig
from auth_portal.gateways.way_out import WayOut

__all__ = [
    "KINDS", "Channel", "ChannelConfig", "Destination", "Handover", "OutgoingMessage", "Receipt",
    "check_destination", "may_keep_secrets", "open_channel", "parse_channel",
]  # fmt: skip

KINDS: dict[str, tuple[type[ChannelConfig], type[Frame]]] = {
    "smtp": (SmtpConfig, SmtpChannel),
    "clickatell": (ClickatellConfig, ClickatellChannel),
    "http": (HttpConfig, HttpChannel),
    "console": (ConsoleConfig, ConsoleChannel),
    "inbox": (InboxConfig, InboxChannel),
}


def parse_channel(table: Mapping[str, object]) -> ChannelConfig:
    """A table of the config file, or a form, as a configuration.

    Raises Misconfigured with one line for each fault, ``key: what is wrong``; no line repeats a value.
    """
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise Misconfigured(f"kind: must be one of {', '.join(KINDS)}")
    try:
        return KINDS[kind][0].model_validate(dict(table))
    except ValidationError as error:
        raise Misconfigured(
            *(_fault(found) for found in error.errors(include_input=False, include_url=False))
        ) from None


def _fault(found: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in found["loc"] if isinstance(part, str)) or "channel"
    if (words := _FAULTS.get(found["type"])) is not None:
        return f"{key}: {words.format_map(found.get('ctx') or {})}"
    if found["type"] == "string_pattern_mismatch":
        return f"{key}: {_PATTERNS.get(key, 'is not written as it must be')}"
    return f"{key}: {str(found['msg']).removeprefix('Value error, ')}"


_FAULTS = {
    "extra_forbidden": "is not known here",
    "missing": "is missing",
    "int_parsing": "must be a whole number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "is missing",
    "too_short": "is missing",
    "literal_error": "must be {expected}",
}
_PATTERNS = {
    "name": "must begin with a small letter or digit, and have only those, - and _; 40 characters at most",
    "host": "must be the name or address of a server, such as smtp.acme.example",
    "countries": "must be countries of two letters, such as ZA",
}


def open_channel(config: ChannelConfig, outbound: WayOut, *, sandbox_url: str) -> Channel:
    """The channel that a configuration describes. ``sandbox_url`` is empty while the sandbox is off."""
    return KINDS[config.kind][1](config, outbound, sandbox_url)


def may_keep_secrets(stored: ChannelConfig, changed: ChannelConfig) -> bool:
    """Whether secrets stored for one configuration may serve another: same kind, host and port, no less security.

    Otherwise whoever may edit a channel could have its secret sent to a host of his own (D4).
    """
    before, after = stored.destination, changed.destination
    return stored.kind == changed.kind and before[:2] == after[:2] and after.security >= before.security


def check_destination(config: ChannelConfig, outbound: WayOut) -> None:
    """Raises Misconfigured where the operator's policy would never let this channel out. No network."""
    config.check_way_out(outbound)
