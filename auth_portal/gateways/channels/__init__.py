"""The kinds of channel: SMTP, Clickatell, an HTTP template, and for development the sandbox inbox and the console.

A channel hands one message over once and returns a receipt. Caps, countries, waiting, retries and logging belong to the
caller. The text of a message contains a code: it goes to the recipient and nowhere else.

A new kind is one module (see ``contract``) and one line in ``KINDS``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import ValidationError

from auth_portal.errors import Misconfigured
from auth_portal.gateways.channels.clickatell import ClickatellChannel
from auth_portal.gateways.channels.contract import (
    Channel,
    ChannelConfig,
    Destination,
    Handover,
    OutgoingMessage,
    Receipt,
    read_fields,
    show_fields,
)
from auth_portal.gateways.channels.http import HttpChannel, Preset, presets
from auth_portal.gateways.channels.sandbox import ConsoleChannel, InboxChannel
from auth_portal.gateways.channels.smtp import SmtpChannel
from auth_portal.gateways.way_out import WayOut

__all__ = [
    "KINDS",
    "Channel",
    "ChannelConfig",
    "Destination",
    "Handover",
    "OutgoingMessage",
    "Preset",
    "Receipt",
    "channel_field_label",
    "may_keep_secrets",
    "open_channel",
    "parse_channel",
    "presets",
    "read_fields",
    "show_fields",
]

KINDS: Mapping[str, type[Channel]] = {
    kind.config_type.model_fields["kind"].default: kind
    for kind in (
        SmtpChannel,
        ClickatellChannel,
        HttpChannel,
        InboxChannel,
        ConsoleChannel,
    )
}


def parse_channel(table: Mapping[str, object]) -> ChannelConfig:
    """Return the configuration that a table of the config file, or a form, describes.

    Raise Misconfigured with one line for each fault, ``key: what is wrong``; no line repeats a value.
    """
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise Misconfigured(f"kind: must be one of {', '.join(KINDS)}")
    try:
        return KINDS[kind].config_type.model_validate(dict(table))
    except ValidationError as error:
        lines = []
        for found in error.errors(include_input=False, include_url=False):
            key = ".".join(str(part) for part in found["loc"] if isinstance(part, str)) or "channel"
            words = str(found["msg"]).removeprefix("Value error, ")
            if found["type"] in _FAULTS:
                words = _FAULTS[found["type"]].format_map(found.get("ctx") or {})
            elif found["type"] == "string_pattern_mismatch":
                words = _PATTERNS.get(key, "is not in the required form")
            lines.append(f"{key}: {words}")
        raise Misconfigured(*lines) from None


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
    "name": "must begin with a small letter or digit, and contain only those, - and _; 40 characters at most",
    "countries": "must be countries of two letters, such as ZA",
}


def channel_field_label(key: str) -> str:
    """Return what the forms call a field of channels, in English; "" for one that no kind has."""
    head = re.split(r"[.\[]", key, maxsplit=1)[0]
    labels = (field.label for kind in KINDS.values() for field in kind.config_type.FORM if field.name == head)
    return next(labels, "")


def open_channel(config: ChannelConfig, outbound: WayOut, *, sandbox_url: str) -> Channel:
    """Return the channel of a configuration. ``sandbox_url`` is empty while the sandbox is off."""
    return KINDS[config.kind](config, outbound, sandbox_url)


def may_keep_secrets(stored: ChannelConfig, changed: ChannelConfig) -> bool:
    """Return True if the secrets of one configuration may be used for another: same kind, host, port, no less security.

    Otherwise an admin who may edit a channel could have its secret sent to a host of their own (D4).
    """
    before, after = stored.destination, changed.destination
    return stored.kind == changed.kind and before[:2] == after[:2] and after.security >= before.security
