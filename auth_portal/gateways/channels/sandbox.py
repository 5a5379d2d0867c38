"""The two kinds for testing, which need the sandbox: its inbox, and the console. Both show codes to everyone."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Literal

from auth_portal.gateways.channels.contract import (
    Channel,
    ChannelConfig,
    Handover,
    KindWords,
    OutgoingMessage,
    Receipt,
    by_status,
    countries_field,
    hourly_cap_field,
    receipt,
    sms_cap_field,
)

_FORM = (countries_field(), sms_cap_field(), hourly_cap_field())


class InboxConfig(ChannelConfig):
    """The sandbox's inbox."""

    WORDS = KindWords("sandbox inbox", "Sends SMS and email to the sandbox inbox, which anyone can read. For testing.")
    FORM = _FORM
    NEEDS_SANDBOX = True

    kind: Literal["inbox"] = "inbox"


class InboxChannel(Channel):
    """Hand each message to the sandbox."""

    config_type = InboxConfig

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        headers = {"Content-Type": "application/json"}
        body = json.dumps(asdict(message)).encode()
        return by_status(self._outbound.request("POST", f"{self._sandbox_url}/messages", headers=headers, body=body))

    def _probe(self) -> Receipt:
        self._outbound.reach(self._sandbox_url)
        return receipt(Handover.ACCEPTED, "reached", "The sandbox was reached.")


class ConsoleConfig(ChannelConfig):
    """Write messages, including codes, to stderr, for a developer to read. Not a log."""

    WORDS = KindWords("console", "Writes SMS and email to the server's log. For developers.")
    FORM = _FORM
    NEEDS_SANDBOX = True

    kind: Literal["console"] = "console"


class ConsoleChannel(Channel):
    """Write each message to stderr."""

    config_type = ConsoleConfig

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        lines = [f"--- {message.kind} to {message.to}", message.subject, message.text, "---"]
        sys.stderr.write("".join(f"{line}\n" for line in lines if line))
        return receipt(Handover.ACCEPTED, "accepted", "Written to the console.")

    def _probe(self) -> Receipt:
        return receipt(Handover.ACCEPTED, "reached", "Messages are written to stderr.")
