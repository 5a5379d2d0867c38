"""The contract that every kind of channel keeps, and the tables of the present kinds."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar, cast

from auth_portal.gateways.channels import KINDS, Channel, Handover, OutgoingMessage, open_channel, parse_channel
from auth_portal.gateways.outbound import Outbound

LOCAL = "127.0.0.1"
SMS = OutgoingMessage("sms", "+27821234567", "", "Your code is 123456", "", "delivery-7.sms")
MAIL = OutgoingMessage(
    "email", "thandi@example.com", "Your code", "Your code is 123456", "<p>Your code is <b>123456</b></p>", "delivery-8"
)
AWKWARD = 'Dear "Zoë" {to} \\ <b>&\r\n.\r\n..a=1&b=2 % é 中 \U0001f511 \t end'
PAID = {"countries": ["ZA"], "daily_cap": 100}
KEY = "secret-key-of-the-account"


def smtp(port: int, **details: Any) -> dict[str, Any]:
    table = {"name": "mail", "kind": "smtp", "host": LOCAL, "port": port, "security": "none"}
    return {**table, "sender": "Acme Bank <no-reply@acme.example>", **details}


def clickatell(url: str, **details: Any) -> dict[str, Any]:
    return {"name": "sms", "kind": "clickatell", "base_url": url, "api_key": KEY, **PAID, **details}


def template(url: str, **details: Any) -> dict[str, Any]:
    body = '{"to": "{to}", "text": "{text}", "subject": "{subject}", "id": "{message_id}"}'
    table = {"name": "gate", "kind": "http", "carries": "sms", "url": f"{url}/send", "headers": {"X-Key": KEY}}
    return {**table, "body": body, **PAID, **details}


def http_answer(body: object = None, status: str = "202 Accepted") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def sent_json(peer: Any) -> Any:
    return json.loads(peer.received.partition(b"\r\n\r\n")[2])


def opened(table: dict[str, Any], outbound: Outbound, *, sandbox_url: str = "") -> Channel:
    return open_channel(parse_channel(table), outbound, sandbox_url=sandbox_url)


class ChannelContract:
    """What holds for every kind. A subclass names its ``kind`` and has three fixtures.

    ``channel`` works, ``dead`` is the same with its other side gone, and ``arrived`` is a function that returns (to,
    text, id) of the last message, or None where there was none.
    """

    kind: ClassVar[str]
    message = SMS
    dead_handover = Handover.RETRY

    def test_its_kind_is_registered(self, channel: Channel) -> None:
        assert type(channel) is KINDS[self.kind]

    def test_carries_what_it_says(self, channel: Channel) -> None:
        assert channel.carries
        assert channel.carries <= {"sms", "email"}
        for kind in {"sms", "email"} - channel.carries:
            receipt = channel.send(replace(self.message, kind=cast("Any", kind)))
            assert (receipt.handover, receipt.code) == (Handover.OPERATOR, "wrong_kind")

    def test_hands_over(self, channel: Channel, arrived: Any) -> None:
        receipt = channel.send(self.message)
        assert (receipt.handover, receipt.code) == (Handover.ACCEPTED, "accepted")
        to, text, _ = arrived()
        assert to.lstrip("+") == self.message.to.lstrip("+")
        assert text == self.message.text

    def test_awkward_text_arrives_unchanged(self, channel: Channel, arrived: Any) -> None:
        assert channel.send(replace(self.message, text=AWKWARD)).handover is Handover.ACCEPTED
        assert arrived()[1].replace("\r\n", "\n") == AWKWARD.replace("\r\n", "\n")

    def test_repeat_can_be_recognised(self, channel: Channel, arrived: Any) -> None:
        channel.send(self.message)
        first = arrived()[2]
        channel.send(self.message)
        assert arrived()[2] == first
        channel.send(replace(self.message, message_id="another"))
        assert arrived()[2] != first

    def test_check_sends_nothing(self, channel: Channel, arrived: Any) -> None:
        assert channel.check().handover is Handover.ACCEPTED
        assert arrived() is None

    def test_other_side_gone(self, dead: Channel) -> None:
        for receipt in (dead.send(self.message), dead.check()):
            assert receipt.handover is self.dead_handover

    def test_receipt_tells_no_secret(self, channel: Channel, dead: Channel) -> None:
        for receipt in (channel.send(self.message), dead.send(self.message), channel.check()):
            for secret in (self.message.to, self.message.to.lstrip("+"), "123456", KEY):
                assert secret not in repr(receipt)
            assert len(receipt.detail) <= 200
            assert receipt.detail.isprintable()
