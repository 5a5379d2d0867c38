"""SMS through Clickatell's One API, and what its answers mean."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from auth_portal.gateways.channels.contract import (
    Channel,
    ChannelConfig,
    Country,
    Destination,
    FormField,
    Handover,
    KindWords,
    OutgoingMessage,
    Receipt,
    by_status,
    checked_header,
    checked_url,
    countries_field,
    hourly_cap_field,
    identifier,
    receipt,
    said_in,
    sms_cap_field,
    url_destination,
)

_ERROR_CODE = re.compile(r"[0-9]{1,6}")
# Clickatell's "One API errors table", in words for the person who has to act.
_CLICKATELL_CODES = {
    1: (Handover.OPERATOR, "Clickatell does not know this API key. Copy the integration's key from its portal again."),
    2: (Handover.OPERATOR, "The Clickatell account is not active. Activate it in its portal, or ask Clickatell."),
    3: (Handover.OPERATOR, "The integration of this key is not active. Activate it in Clickatell's portal."),
    7: (Handover.OPERATOR, "Clickatell refuses this server's IP address. Approve it in Clickatell's portal."),
    # As after HTTP 500: what failed inside may have queued the message first.
    18: (Handover.UNCLEAR, "Clickatell reports an internal error."),
    19: (Handover.UNCLEAR, "Clickatell reports an internal error."),
    20: (Handover.OPERATOR, "The Clickatell account has no funds left. Top it up in Clickatell's portal."),
    25: (Handover.RECIPIENT, "Clickatell does not accept this as a number to send to."),
    26: (Handover.RECIPIENT, "The owner of this number opted out of your messages and must opt in again."),
    27: (Handover.RECIPIENT, "This number cannot be reached by SMS."),
    43: (Handover.RETRY, "Clickatell accepts no more messages at this rate."),
}


class ClickatellConfig(ChannelConfig):
    """SMS through Clickatell's One API. An allow-list of countries and a cap are required: SMS costs money."""

    WORDS = KindWords(
        "Clickatell SMS",
        "Sends SMS. You need the API key of an integration in Clickatell's portal.",
        provider="Clickatell",
    )
    FORM = (
        FormField(
            "api_key",
            "API key",
            "From the integration in Clickatell's portal, under Workspaces.",
            is_secret=True,
            keeps_empty=True,
        ),
        FormField(
            "base_url",
            "Address",
            "Change this only if Clickatell asks you to.",
            start="https://platform.clickatell.com",
            is_required=True,
        ),
        countries_field(is_required=True),
        sms_cap_field(is_required=True),
        hourly_cap_field(),
    )
    SECRETS = frozenset({"api_key"})

    kind: Literal["clickatell"] = "clickatell"
    base_url: str = "https://platform.clickatell.com"
    api_key: Annotated[str, Field(min_length=1, repr=False)]
    countries: Annotated[tuple[Country, ...], Field(min_length=1)]
    daily_cap: Annotated[int, Field(ge=1)]

    @property
    def message_kinds(self) -> frozenset[str]:
        """Return SMS only."""
        return frozenset({"sms"})

    @property
    def address(self) -> str:
        """Return where messages are posted."""
        return f"{self.base_url.rstrip('/')}/v1/message"

    @property
    def destination(self) -> Destination:
        """Return host and port of the base URL."""
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


class ClickatellChannel(Channel):
    """Send SMS through Clickatell. A status of success is not enough: each message has its own result."""

    config_type = ClickatellConfig
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
        answer = self._outbound.request("POST", self._config.address, headers=headers, body=body)
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError):
            found = None
        whole = found if isinstance(found, dict) else {}
        messages = whole.get("messages")
        first = messages[0] if isinstance(messages, list) and messages and isinstance(messages[0], dict) else {}
        if answer.is_success and first.get("accepted") is True:
            return receipt(Handover.ACCEPTED, "accepted", "Clickatell accepted the message.")
        code = _clickatell_error(first) or _clickatell_error(whole)
        if code in _CLICKATELL_CODES:
            handover, words = _CLICKATELL_CODES[code]
            errors = [part["error"] for part in (first, whole) if isinstance(part.get("error"), dict)]
            described = (error["description"] for error in errors if isinstance(error.get("description"), str))
            return receipt(handover, f"clickatell_{code}", words, f"Clickatell said: {code} {next(described, '')}")
        if not answer.is_success:
            return by_status(answer)
        if code or first.get("accepted") is False:
            words = "Clickatell refused the message."
            return receipt(Handover.OPERATOR, f"clickatell_{code or 'rejected'}", words, said_in(answer))
        words = "Clickatell's answer does not show whether it accepted the message."
        return receipt(Handover.UNCLEAR, "unclear", words, said_in(answer))


def _clickatell_error(part: Mapping[str, Any]) -> int | None:
    """Return the code of an error, which is a number, or an object that contains one."""
    error = part.get("error") or part.get("errorCode")
    if isinstance(error, dict):
        error = error.get("code")
    return int(error) if isinstance(error, int | str) and _ERROR_CODE.fullmatch(str(error)) else None
