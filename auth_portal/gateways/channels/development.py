"""Where messages go while one develops: to stderr, or to the sandbox. Both show codes, and both need the sandbox."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Literal

from auth_portal.gateways.channels.contract import (
    ChannelConfig,
    Frame,
    Handover,
    OutgoingMessage,
    Receipt,
    by_status,
    receipt,
)


class ConsoleConfig(ChannelConfig):
    """Writes messages, codes included, to stderr. For development: it needs the sandbox."""

    NEEDS_SANDBOX = True
    kind: Literal["console"] = "console"


class InboxConfig(ChannelConfig):
    """The sandbox's own inbox, which everybody who reaches the sandbox can read."""

    NEEDS_SANDBOX = True
    kind: Literal["inbox"] = "inbox"


class ConsoleChannel(Frame):
    """Writes the message to stderr for a person to read. Not a log: it shows codes, and is for development."""

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        lines = [f"--- {message.kind} to {message.to}", message.subject, message.text, "---"]
        sys.stderr.write("".join(f"{line}\n" for line in lines if line))
        return receipt(Handover.ACCEPTED, "accepted", "Written to the console.")

    def _probe(self) -> Receipt:
        return receipt(Handover.ACCEPTED, "reached", "Messages are written to stderr.")


class InboxChannel(Frame):
    """Hands the message to the sandbox, which shows it to everybody."""

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        headers = {"Content-Type": "application/json"}
        body = json.dumps(asdict(message)).encode()
        return by_status(self._outbound.request("POST", f"{self._sandbox_url}/messages", headers=headers, body=body))

    def _probe(self) -> Receipt:
        self._outbound.reach(self._sandbox_url)
        return receipt(Handover.ACCEPTED, "reached", "The sandbox was reached.")
