"""The form of a channel: its fields as text, and what a config file would say instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flask import request

from auth_portal.services.config.channel_editor import ChannelNow

COMMON = ("name", "countries", "daily_cap")
FIELDS: Mapping[str, tuple[str, ...]] = {
    "smtp": ("host", "port", "security", "username", "password", "sender"),
    "clickatell": ("base_url", "api_key"),
    "http": ("carries", "url", "method", "headers", "body", "content_type", "success", "success_contains"),
    "inbox": (),
    "console": (),
}
EMPTY: Mapping[str, Mapping[str, str]] = {
    "smtp": {"port": "587", "security": "starttls"},
    "clickatell": {"base_url": "https://platform.clickatell.com"},
    "http": {"body": '{"to": "{to}", "text": "{text}", "id": "{message_id}"}', "success": "200, 201, 202"},
}
LISTS = frozenset({"countries", "success"})
MAY_BE_EMPTY = frozenset({"username", "password", "api_key", "success_contains"})  # where empty says something


def typed(kind: str) -> dict[str, str]:
    """What was typed into the form of a kind; other fields are ignored."""
    return {name: request.form.get(name, "").strip() for name in (*COMMON, *FIELDS.get(kind, ()))}


def table(kind: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """The same as a table of the config file."""
    values: dict[str, Any] = {"kind": kind}
    for name, text in texts.items():
        if name in LISTS:
            values[name] = tuple(re.findall(r"[^\s,;]+", text))
        elif name == "headers":
            values[name] = dict(_header(line) for line in text.splitlines() if line.strip())
        elif text or name in MAY_BE_EMPTY:
            values[name] = text
    return values


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def texts_of(channel: ChannelNow) -> dict[str, str]:
    """A stored channel as its form shows it. Secrets are empty; of headers the names are there, with ``keep``."""
    found = {name: _text(channel.settings.get(name)) for name in (*COMMON, *FIELDS[channel.kind])}
    if headers := channel.secrets.get("headers"):
        found["headers"] = "\n".join(f"{name}: keep" for name in headers)
    return found


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return "" if value is None else str(value)
