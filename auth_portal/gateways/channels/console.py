"""Messages on stderr, for a developer to read. Not a log: it shows codes, so it needs the sandbox."""

from __future__ import annotations

import sys
from typing import Literal

from auth_portal.gateways.channels.contract import (
    Channel,
    ChannelConfig,
    Handover,
    KindWords,
    OutgoingMessage,
    Receipt,
    countries_field,
    hourly_cap_field,
    receipt,
    sms_cap_field,
)


class ConsoleConfig(ChannelConfig):
    """Write messages, including codes, to stderr."""

    WORDS = KindWords("console", "Writes SMS and email to the server's log. For developers.")
    FORM = (countries_field(), sms_cap_field(), hourly_cap_field())
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
