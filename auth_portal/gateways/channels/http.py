"""Any gateway that takes one request, described by a template."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Annotated, Literal, Self
from urllib.parse import quote_plus

from pydantic import Field, field_validator, model_validator

from auth_portal.gateways.channels.contract import (
    ChannelConfig,
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

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_PLACEHOLDERS = frozenset({"to", "text", "subject", "message_id"})
_OWN_HEADERS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})


class HttpConfig(ChannelConfig):
    """Any gateway that takes one POST or PUT. ``body`` is a template with {to} {text} {subject} {message_id}.

    What is filled in is escaped for the content type. Accepted means: a status in ``success``, and
    ``success_contains`` somewhere in the answer.
    """

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
        """The one that is configured."""
        return frozenset({self.carries})

    @property
    def address(self) -> str:
        """The URL as configured."""
        return self.url

    @property
    def destination(self) -> Destination:
        """Host and port of the URL."""
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
                raise ValueError('body is no JSON; each placeholder belongs inside quotes, as in "{to}"') from None
        return self


class HttpChannel(Frame):
    """Any gateway, by template."""

    _config: HttpConfig
    _ABOUT_THIS_MESSAGE = frozenset({400, 422})  # a gateway that works says so of what it cannot deliver

    def _hand_over(self, message: OutgoingMessage) -> Receipt:
        headers = {**self._config.headers, "Content-Type": self._config.content_type}
        body = fill(self._config.body, message, self._config.content_type).encode()
        return self._read(self._outbound.request(self._config.method, self._config.url, headers=headers, body=body))

    def _read(self, answer: HttpAnswer) -> Receipt:
        said, code = said_in(answer), f"http_{answer.status}"
        if answer.status in self._ABOUT_THIS_MESSAGE:
            words = f"HTTP {answer.status}: the gateway refused the number or address, or the body template."
            return receipt(Handover.RECIPIENT, code, words, said)
        if not answer.is_success:
            return by_status(answer)
        if answer.status in self._config.success and self._config.success_contains in said:
            return receipt(Handover.ACCEPTED, "accepted", "The gateway took it.")
        if not answer.is_whole:
            return receipt(Handover.UNCLEAR, "unclear", "The gateway's answer was cut.", said)
        return receipt(Handover.OPERATOR, code, f"HTTP {answer.status}, but not what counts as success.", said)


def fill(template: str, message: OutgoingMessage, content_type: str) -> str:
    """The template with its placeholders filled in, in one pass: what is filled in is never read again."""
    values = asdict(message) | {"message_id": identifier(message)}
    escape = _json_escape if content_type == "application/json" else quote_plus
    return _PLACEHOLDER.sub(lambda match: escape(values[match[1]]), template)


def _json_escape(text: str) -> str:
    return json.dumps(text)[1:-1]
