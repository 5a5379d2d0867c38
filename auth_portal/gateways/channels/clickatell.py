"""SMS through Clickatell's One API, and what its answers mean."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

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

_ERROR_CODE = re.compile(r"([0-9]{1,6})(?:\.0)?", re.ASCII)
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
        if isinstance(messages, list):
            messages = next(iter(messages), None)
        first = messages if isinstance(messages, dict) else {}
        accepted = {"true": True, "false": False}.get(str(first.get("accepted")).lower())
        own_error, error = _error_in(first), _error_in(first) or _error_in(whole)
        if answer.is_success and accepted and not own_error:
            return receipt(Handover.ACCEPTED, "accepted", "Clickatell accepted the message.")
        if error and error.code in _CLICKATELL_CODES and not accepted:
            handover, words = _CLICKATELL_CODES[error.code]
            return receipt(handover, f"clickatell_{error.code}", words, f"Clickatell said: {error.code} {error.words}")
        by_answer = by_status(answer)
        if by_answer.handover is Handover.OPERATOR and error and error.code:
            words = f"HTTP {answer.status}. Clickatell refused the message."
            return receipt(Handover.OPERATOR, f"clickatell_{error.code}", words, f"{error.code} {error.words}")
        if not answer.is_success:
            return by_answer
        if not accepted and (error or accepted is False):
            code = (error.code if error else None) or "rejected"
            return receipt(Handover.OPERATOR, f"clickatell_{code}", "Clickatell refused the message.", said_in(answer))
        words = "Clickatell's answer does not show whether it accepted the message."
        return receipt(Handover.UNCLEAR, "unclear", words, said_in(answer))


class ClickatellError(NamedTuple):
    """An error in an answer: its code, if it has one, and what is said of it."""

    code: int | None
    words: str


def _error_in(part: Mapping[str, Any]) -> ClickatellError | None:
    """Return the error of an answer or of a message in it, None if all that it says of errors is that there is none.

    A code is a number or its digits, next to the error or inside it; an error may be a text, an object, or a list.
    """
    code: int | None = None
    words: list[str] = []
    rest: list[Any] = [part.get(key) for key in ("errorCode", "error", "errors", "errorDescription")]
    while rest:
        value = rest.pop(0)
        if isinstance(value, dict):
            rest[:0] = [value.get(key) for key in ("code", "errorCode", "error", "description", "errorDescription")]
        elif isinstance(value, list):
            rest[:0] = value[:1]
        elif isinstance(value, str | int | float) and (digits := _ERROR_CODE.fullmatch(str(value).strip())):
            code = code or int(digits[1])
        elif isinstance(value, str) and value.strip() and not value.strip().isdigit():
            words.append(value.strip())
    return ClickatellError(code, ". ".join(words)) if code or words else None
