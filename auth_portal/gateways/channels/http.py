"""Any gateway that takes one request, described by a template; and the templates of known providers, as data."""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import quote, quote_plus, urlsplit

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
_PLACEHOLDERS = frozenset({"to", "to_digits", "text", "subject", "message_id", "secret"})
_OWN_HEADERS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})


class HeadersField(FormField):
    """Headers, one a line. Their values are secrets, so those that are stored are shown as ``keep``."""

    def read(self, typed: str) -> dict[str, str]:
        """Return the headers by name."""
        pairs = (line.partition(":") for line in typed.splitlines() if line.strip())
        return {name.strip(): value.strip() for name, _colon, value in pairs}

    def show(self, value: Any) -> str:
        """Return a line for each header."""
        return "\n".join(f"{name}: {text}" for name, text in (value or {}).items())

    def show_secret(self, names: Sequence[str]) -> str:
        """Return a line for each stored header."""
        return self.show(dict.fromkeys(names, "keep"))


class HttpConfig(ChannelConfig):
    """Any gateway that takes one POST, PUT or GET. ``body`` and ``url`` are templates with _PLACEHOLDERS.

    What is filled in is escaped for the content type, and for the URL. A GET has no body. Accepted means: a status in
    ``success``, and ``success_contains`` somewhere in the answer.
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
            "https only. Every admin can see it: put keys in the headers, or write {secret} for the key below. For a "
            "GET, {to} and {text} stand here.",
            is_required=True,
            input_type="url",
        ),
        FormField("method", "Method", choices=(("POST", "POST"), ("PUT", "PUT"), ("GET", "GET"))),
        HeadersField(
            "headers",
            "Headers",
            "One per line, such as Authorization: Bearer abc. All values are stored as secrets. Enter keep "
            "as a value to leave the stored one as it is.",
            is_secret=True,
            rows=3,
        ),
        FormField(
            "secret", "Key for {secret}", "Only if the gateway expects its key in the address or body.", is_secret=True
        ),
        FormField(
            "content_type",
            "Body format",
            choices=(("application/json", "JSON"), ("application/x-www-form-urlencoded", "web form")),
        ),
        FormField(
            "body",
            "Body",
            "A template: {to}, {text}, {subject} and {message_id} are filled in and escaped for each message; "
            "{to_digits} is the number without +. Leave it empty for a GET.",
            start='{"to": "{to}", "text": "{text}", "id": "{message_id}"}',
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
    SECRETS = frozenset({"headers", "secret"})

    kind: Literal["http"] = "http"
    carries: Literal["sms", "email"]
    method: Literal["POST", "PUT", "GET"] = "POST"
    url: str
    headers: Annotated[dict[str, str], Field(default_factory=dict, repr=False)]
    secret: Annotated[str, Field(repr=False)] = ""
    body: str = ""
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
        if "{" in urlsplit(checked_url(value)).netloc:
            raise ValueError("the name of the server can't be filled in")
        return value

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, value: dict[str, str]) -> dict[str, str]:
        if own := sorted(_OWN_HEADERS & {name.lower() for name in value}):
            raise ValueError(f"{', '.join(own)} cannot be set here")
        for name, text in value.items():
            checked_header(name, text)
        return value

    @field_validator("url", "body")
    @classmethod
    def _knows_its_placeholders(cls, value: str) -> str:
        if unknown := sorted(set(_PLACEHOLDER.findall(value)) - _PLACEHOLDERS):
            raise ValueError(f"unknown placeholder {{{unknown[0]}}}; known: {', '.join(sorted(_PLACEHOLDERS))}")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.carries == "sms" and not (self.countries and self.daily_cap):
            raise ValueError("a channel that carries SMS needs countries and a daily_cap")
        if "{secret}" in self.url + self.body and not self.secret:
            raise ValueError("{secret} is used, but no key for it is set")
        if self.method == "GET":
            if self.body or not {"{to}", "{to_digits}"} & set(re.findall(r"\{\w+\}", self.url)):
                raise ValueError("a GET has no body: {to} and {text} have to stand in its address")
        elif not self.body:
            raise ValueError("body is missing")
        elif self.content_type == "application/json":
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
        config = self._config
        headers = {**config.headers, **({"Content-Type": config.content_type} if config.body else {})}
        body = fill(config.body, message, config.content_type, config.secret).encode()
        url = fill(config.url, message, "", config.secret)
        answer = self._outbound.request(config.method, url, headers=headers, body=body)
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


def fill(template: str, message: OutgoingMessage, content_type: str, secret: str = "") -> str:
    """Return the template with its placeholders filled in, in one pass: filled-in text is never read again.

    Without a content type it is a URL.
    """
    values = asdict(message) | {"message_id": identifier(message), "secret": secret}
    values["to_digits"] = values["to"].removeprefix("+")
    return _PLACEHOLDER.sub(lambda found: _escaped(values[found[1]], content_type), template)


def _escaped(text: str, content_type: str) -> str:
    if content_type == "application/json":
        return json.dumps(text)[1:-1]
    return quote_plus(text) if content_type else quote(text, safe="")


# --- The templates of known providers


class Ask(NamedTuple):
    """What a preset asks a business for."""

    name: str
    label: str
    help: str = ""
    is_secret: bool = False


class Preset(NamedTuple):
    """A provider of SMS whose request is known: ``presets.toml`` says what its parts mean."""

    name: str
    docs: str
    asks: tuple[Ask, ...]
    url: str
    body: str
    success: tuple[int, ...]
    success_contains: str = ""
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}
    basic: tuple[str, str] | None = None

    def missing(self, typed: Mapping[str, str]) -> list[str]:
        """Return the names of what was asked for and not typed."""
        return [ask.name for ask in self.asks if not typed.get(ask.name, "").strip()]

    def channel(self, typed: Mapping[str, str]) -> dict[str, Any]:
        """Return the settings of a channel of kind ``http`` as typed, but for name, countries and caps."""
        given = {ask.name: typed.get(ask.name, "").strip() for ask in self.asks}

        def filled(template: str, content_type: str | None) -> str:
            def value(found: re.Match[str]) -> str:
                text = given[found[1]]
                return text if content_type is None else _escaped(text, content_type)

            return re.sub(r"<([a-z]+)>", value, template)

        headers = {name: filled(text, None) for name, text in self.headers.items()}
        if self.basic:
            pair = ":".join(given[name] for name in self.basic)
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return {
            "kind": "http",
            "carries": "sms",
            "url": filled(self.url, "") if "<host>" not in self.url else filled(self.url, None),
            "headers": headers,
            "content_type": self.content_type,
            "body": filled(self.body, self.content_type),
            "success": self.success,
            "success_contains": self.success_contains,
        }


@cache
def presets() -> Mapping[str, Preset]:
    """Return the known providers by their key."""
    tables = tomllib.loads(Path(__file__).with_name("presets.toml").read_text(encoding="utf-8"))
    return {
        key: Preset(**{**table, "asks": tuple(Ask(**ask) for ask in table["asks"])}) for key, table in tables.items()
    }
