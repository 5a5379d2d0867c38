"""SMS through Clickatell's One API, and what its answers mean."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from auth_portal.gateways.channels.contract import (
    ChannelConfig,
    Country,
    Destination,
    Frame,
    Handover,
    OutgoingMessage,
    Receipt,
    by_status,
    checked_header,
    checked_url,
    identifier,
    receipt,
    said_in,
    url_destination,
)
from auth_portal.gateways.way_out import HttpAnswer

_ERROR_CODE = re.compile(r"[0-9]{1,6}")
# Clickatell's "One API errors table", in the words of whoever has to act.
_CLICKATELL_CODES = {
    1: (Handover.OPERATOR, "Clickatell does not know this API key. Copy the integration's key from its portal again."),
    2: (Handover.OPERATOR, "The Clickatell account is not active. Activate it in its portal, or ask Clickatell."),
    3: (Handover.OPERATOR, "The integration of this key is not active. Activate it in Clickatell's portal."),
    7: (Handover.OPERATOR, "Clickatell refuses this server's IP address. Approve it in Clickatell's portal."),
    18: (Handover.RETRY, "Clickatell has a fault of its own."),
    19: (Handover.RETRY, "Clickatell has a fault of its own."),
    20: (Handover.OPERATOR, "The Clickatell account has no funds left. Top it up in Clickatell's portal."),
    25: (Handover.RECIPIENT, "Clickatell takes this for no number that can be sent to."),
    26: (Handover.RECIPIENT, "Whoever has this number opted out of your messages, and must opt in again."),
    27: (Handover.RECIPIENT, "This number cannot be reached by SMS."),
    43: (Handover.RETRY, "Clickatell takes no more messages at this rate."),
}


class ClickatellConfig(ChannelConfig):
    """SMS through Clickatell's One API. An allow-list of countries and a cap are required: SMS costs money."""

    SECRETS = frozenset({"api_key"})

    kind: Literal["clickatell"] = "clickatell"
    base_url: str = "https://platform.clickatell.com"
    api_key: Annotated[str, Field(min_length=1, repr=False)]
    countries: Annotated[tuple[Country, ...], Field(min_length=1)]
    daily_cap: Annotated[int, Field(ge=1)]

    @property
    def message_kinds(self) -> frozenset[str]:
        """SMS only."""
        return frozenset({"sms"})

    @property
    def address(self) -> str:
        """Where messages are posted."""
        return f"{self.base_url.rstrip('/')}/v1/message"

    @property
    def destination(self) -> Destination:
        """Host and port of the base URL."""
        return url_destination(self.base_url)

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if "?" in value:
            raise ValueError("must be a URL without a question mark")
        return checked_url(value)

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, value: str) -> str:
        return checked_header("Authorization", value)


class ClickatellChannel(Frame):
    """SMS through Clickatell. The status alone is not success: each message has its own word."""

    _config: ClickatellConfig

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        one = {
            "channel": "sms",
            "to": message.to.removeprefix("+"),
            "content": message.text,
            "clientMessageId": identifier(message),
        }
        headers = {"Authorization": self._config.api_key, "Content-Type": "application/json"}
        body = json.dumps({"messages": [one]}).encode()
        return _read_clickatell(self._outbound.request("POST", self._config.address, headers=headers, body=body))


def _read_clickatell(answer: HttpAnswer) -> Receipt:
    whole = _json_object(answer.body)
    messages = whole.get("messages")
    first = messages[0] if isinstance(messages, list) and messages and isinstance(messages[0], dict) else {}
    if answer.is_success and first.get("accepted") is True:
        return receipt(Handover.ACCEPTED, "accepted", "Clickatell took it.")
    code = _clickatell_error(first) or _clickatell_error(whole)
    if code in _CLICKATELL_CODES:
        handover, words = _CLICKATELL_CODES[code]
        return receipt(handover, f"clickatell_{code}", words, f"Clickatell said: {code} {_description(first, whole)}")
    if not answer.is_success:
        return by_status(answer)
    if code or first.get("accepted") is False:
        return receipt(Handover.OPERATOR, f"clickatell_{code or 'rejected'}", "Clickatell refused it.", said_in(answer))
    return receipt(Handover.UNCLEAR, "unclear", "Clickatell's answer does not say whether it took it.", said_in(answer))


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _clickatell_error(part: Mapping[str, Any]) -> int | None:
    """The code of an error, which is a number, or an object that holds one."""
    error = part.get("error") or part.get("errorCode")
    if isinstance(error, dict):
        error = error.get("code")
    return int(error) if isinstance(error, int | str) and _ERROR_CODE.fullmatch(str(error)) else None


def _description(*parts: Mapping[str, Any]) -> str:
    """What Clickatell wrote beside its code, if anything."""
    errors = (part.get("error") for part in parts)
    said = (error.get("description") for error in errors if isinstance(error, dict))
    return next((text for text in said if isinstance(text, str)), "")
