"""Any gateway that takes one request, described by a template."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Literal, Self
from urllib.parse import quote_plus

from pydantic import Field, field_validator, model_validator

from auth_portal.gateways.channels.contract import (
    Channel,
    ChannelConfig,
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

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_PLACEHOLDERS = frozenset({"to", "text", "subject", "message_id"})
_OWN_HEADERS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})


class HeadersField(FormField):
    """Headers, one a line. Their values are secrets, so those that are stored are shown as ``keep``."""

    def read(self, typed: str) -> dict[str, str]:
        """Return the headers by name."""
        pairs = (line.partition(":") for line in typed.splitlines() if line.strip())
        return {name.strip(): value.strip() for name, _colon, value in pairs}

    def show_secret(self, names: Sequence[str]) -> str:
        """Return a line for each stored header."""
        return "\n".join(f"{name}: keep" for name in names)


class HttpConfig(ChannelConfig):
    """Any gateway that takes one POST or PUT. ``body`` is a template with {to} {text} {subject} {message_id}.

    What is filled in is escaped for the content type. Accepted means: a status in ``success``, and
    ``success_contains`` somewhere in the answer.
    """

    WORDS = KindWords(
        "another gateway (HTTP)",
        "Sends SMS or email through any gateway that accepts one HTTP request per message. You need its documentation.",
    )
    FORM = (
        FormField("carries", "Sends", choices=(("sms", "SMS"), ("email", "email"))),
        FormField(
            "url",
            "Address",
            "https only. Every admin can see it: put keys in the headers, not here.",
            is_required=True,
            input_type="url",
        ),
        FormField("method", "Method", choices=(("POST", "POST"), ("PUT", "PUT"))),
        HeadersField(
            "headers",
            "Headers",
            "One per line, such as Authorization: Bearer abc. All values are stored as secrets. The value keep leaves "
            "the stored one as it is.",
            is_secret=True,
            rows=3,
        ),
        FormField(
            "content_type",
            "Body format",
            choices=(("application/json", "JSON"), ("application/x-www-form-urlencoded", "web form")),
        ),
        FormField(
            "body",
            "Body",
            "A template. {to} {text} {subject} {message_id} are filled in and escaped for each message.",
            start='{"to": "{to}", "text": "{text}", "id": "{message_id}"}',
            is_required=True,
            rows=4,
        ),
        FormField(
            "success",
            "Accepted if the status is",
            "From 200 to 299, separated by commas.",
            start="200, 201, 202",
            is_required=True,
            is_list=True,
        ),
        FormField(
            "success_contains", "and the response contains", "Leave empty if the status is enough.", keeps_empty=True
        ),
        countries_field("Leave empty for email."),
        sms_cap_field("For email you can leave it empty."),
        hourly_cap_field(),
    )
    SECRETS = frozenset({"headers"})

    kind: Literal["http"] = "http"
    carries: Literal["sms", "email"]
    method: Literal["POST", "PUT"] = "POST"
    url: str
    headers: Annotated[dict[str, str], Field(default_factory=dict, repr=False)]
    body: str
    content_type: Literal["application/json", "application/x-www-form-urlencoded"] = "application/json"
    success: Annotated[tuple[Annotated[int, Field(ge=200, le=299)], ...], Field(min_length=1)] = (200, 201, 202)
    success_contains: str = ""

    @property
    def message_kinds(self) -> frozenset[str]:
        """Return the one that is configured."""
        return frozenset({self.carries})

    @property
    def address(self) -> str:
        """Return the URL as configured."""
        return self.url

    @property
    def destination(self) -> Destination:
        """Return host and port of the URL."""
        return url_destination(self.url)

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return checked_url(value)

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, value: dict[str, str]) -> dict[str, str]:
        if own := sorted(_OWN_HEADERS & {name.lower() for name in value}):
            raise ValueError(f"{', '.join(own)} cannot be set here")
        for name, text in value.items():
            checked_header(name, text)
        return value

    @field_validator("body")
    @classmethod
    def _knows_its_placeholders(cls, value: str) -> str:
        if unknown := sorted(set(_PLACEHOLDER.findall(value)) - _PLACEHOLDERS):
            raise ValueError(f"unknown placeholder {{{unknown[0]}}}; known: {', '.join(sorted(_PLACEHOLDERS))}")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.carries == "sms" and not (self.countries and self.daily_cap):
            raise ValueError("a channel that carries SMS needs countries and a daily_cap")
        if self.content_type == "application/json":
            try:
                json.loads(_PLACEHOLDER.sub("x", self.body))
            except (ValueError, RecursionError):
                raise ValueError('body is not JSON; put each placeholder inside quotes, as in "{to}"') from None
        return self


class HttpChannel(Channel):
    """Send through any gateway, by template."""

    config_type = HttpConfig
    _config: HttpConfig
    _ABOUT_THIS_MESSAGE = frozenset({400, 422})  # the answer of a working gateway to what it cannot deliver

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        headers = {**self._config.headers, "Content-Type": self._config.content_type}
        body = fill(self._config.body, message, self._config.content_type).encode()
        answer = self._outbound.request(self._config.method, self._config.url, headers=headers, body=body)
        said, code = said_in(answer), f"http_{answer.status}"
        if answer.status in self._ABOUT_THIS_MESSAGE:
            words = f"HTTP {answer.status}: the gateway refused the number or address, or the body template."
            return receipt(Handover.RECIPIENT, code, words, said)
        if not answer.is_success:
            return by_status(answer)
        if answer.status in self._config.success and self._config.success_contains in said:
            return receipt(Handover.ACCEPTED, "accepted", "The gateway accepted the message.")
        if not answer.is_whole:
            return receipt(Handover.UNCLEAR, "unclear", "The gateway's answer was cut off.", said)
        return receipt(
            Handover.OPERATOR, code, f"HTTP {answer.status}, but not the answer that counts as success.", said
        )


def fill(template: str, message: OutgoingMessage, content_type: str) -> str:
    """Return the template with its placeholders filled in, in one pass: filled-in text is never read again."""
    values = asdict(message) | {"message_id": identifier(message)}

    def escaped(placeholder: re.Match[str]) -> str:
        text = values[placeholder[1]]
        return json.dumps(text)[1:-1] if content_type == "application/json" else quote_plus(text)

    return _PLACEHOLDER.sub(escaped, template)
