"""The inbox of the sandbox, where anyone who reaches the sandbox can read the messages."""

from __future__ import annotations

import json
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


class InboxConfig(ChannelConfig):
    """The sandbox's inbox."""

    WORDS = KindWords("sandbox inbox", "Sends SMS and email to the sandbox inbox, which anyone can read. For testing.")
    FORM = (countries_field(), sms_cap_field(), hourly_cap_field())
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
