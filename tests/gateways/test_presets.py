"""The known providers of SMS: each with the request of its documentation, and what its answers mean."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from auth_portal.gateways.channels import Handover, parse_channel, presets
from auth_portal.gateways.outbound import Outbound
from tests.gateways.channel_contract import PAID, SMS, http_answer, opened, sent_json, template

TEXT = 'Acme & Sons: 123456 is your "code" +1 100%'
ASKED = {
    "account": "AC1/2",
    "secret": "s3cr3t:&",
    "sender": "Acme",
    "host": "x1.api.infobip.com",
    "region": "eu",
    "workspace": "ws-1",
}
BASIC = "Basic " + base64.b64encode(b"AC1/2:s3cr3t:&").decode()
FORM = "application/x-www-form-urlencoded"
# By provider: the URL, what authenticates, the body as it arrives, an answer that accepts, and one that does not.
EXPECTED: dict[str, tuple[str, tuple[str, str], Any, tuple[str, object], tuple[str, object]]] = {
    "twilio": (
        "https://api.twilio.com/2010-04-01/Accounts/AC1%2F2/Messages.json",
        ("Authorization", BASIC),
        {"To": [SMS.to], "From": ["Acme"], "Body": [TEXT]},
        ("201 Created", {"sid": "SM1", "status": "queued", "error_code": None}),
        ("400 Bad Request", {"code": 21211, "message": "The 'To' number is not valid", "status": 400}),
    ),
    "vonage": (
        "https://api.nexmo.com/v1/messages",
        ("Authorization", BASIC),
        {"message_type": "text", "channel": "sms", "from": "Acme", "to": SMS.to[1:], "text": TEXT},
        ("202 Accepted", {"message_uuid": "1"}),
        ("401 Unauthorized", {"title": "Unauthorized"}),
    ),
    "infobip": (
        "https://x1.api.infobip.com/sms/3/messages",
        ("Authorization", "App s3cr3t:&"),
        {
            "messages": [
                {"sender": "Acme", "destinations": [{"to": SMS.to[1:]}], "content": {"text": TEXT}},
            ]
        },
        ("200 OK", {"messages": [{"status": {"groupName": "PENDING"}, "messageId": "1"}]}),
        ("200 OK", {"messages": [{"status": {"groupName": "REJECTED"}, "messageId": "1"}]}),
    ),
    "sinch": (
        "https://eu.sms.api.sinch.com/xms/v1/AC1%2F2/batches",
        ("Authorization", "Bearer s3cr3t:&"),
        {"from": "Acme", "to": [SMS.to], "body": TEXT},
        ("201 Created", {"id": "1", "to": [SMS.to[1:]]}),
        ("403 Forbidden", {"code": "forbidden"}),
    ),
    "bird": (
        "https://api.bird.com/workspaces/ws-1/channels/AC1%2F2/messages",
        ("Authorization", "AccessKey s3cr3t:&"),
        {
            "receiver": {"contacts": [{"identifierValue": SMS.to}]},
            "body": {"type": "text", "text": {"text": TEXT}},
        },
        ("202 Accepted", {"id": "1", "status": "accepted"}),
        ("422 Unprocessable Entity", {"code": "InvalidPayload"}),
    ),
    "africas-talking": (
        "https://api.africastalking.com/version1/messaging",
        ("apiKey", "s3cr3t:&"),
        {"username": ["AC1/2"], "to": [SMS.to], "message": [TEXT], "from": ["Acme"]},
        ("201 Created", {"SMSMessageData": {"Recipients": [{"statusCode": 101, "status": "Success"}]}}),
        ("201 Created", {"SMSMessageData": {"Recipients": [{"statusCode": 403, "status": "InvalidPhoneNumber"}]}}),
    ),
    "plivo": (
        "https://api.plivo.com/v1/Account/AC1%2F2/Message/",
        ("Authorization", BASIC),
        {"src": "Acme", "dst": SMS.to, "text": TEXT},
        ("202 Accepted", {"message": "message(s) queued", "message_uuid": ["1"]}),
        ("400 Bad Request", {"error": "dst is invalid"}),
    ),
    "bulksms": (
        "https://api.bulksms.com/v1/messages",
        ("Authorization", BASIC),
        {"to": SMS.to, "body": TEXT, "encoding": "UNICODE"},
        ("201 Created", [{"id": "1", "type": "SENT", "status": {"type": "ACCEPTED"}}]),
        ("201 Created", [{"id": "1", "type": "SENT", "status": {"type": "FAILED"}}]),
    ),
    "smsportal": (
        "https://rest.smsportal.com/bulkmessages",
        ("Authorization", BASIC),
        {"messages": [{"content": TEXT, "destination": SMS.to[1:]}]},
        ("200 OK", {"cost": 1, "eventId": 1}),
        ("401 Unauthorized", {"statusCode": 401}),
    ),
}


def test_every_provider_is_tested() -> None:
    assert presets().keys() == EXPECTED.keys()


@pytest.mark.parametrize("key", EXPECTED)
def test_a_message_leaves_as_the_provider_documents(key: str, serve: Any, outbound: Outbound) -> None:
    url, (header, secret), body, accepted, refused = EXPECTED[key]
    table = {**presets()[key].channel(ASKED), "name": key, **PAID}
    assert table["url"] == url
    parse_channel(table)
    for (status, answer), is_accepted in ((accepted, True), (refused, False)):
        peer = serve.answering(http_answer(answer, status))
        here = {**table, "url": f"{peer.url}{urlsplit(url).path}"}
        receipt = opened(here, outbound).send(replace(SMS, text=TEXT))
        assert (receipt.handover is Handover.ACCEPTED) is is_accepted, receipt
        head = peer.received.partition(b"\r\n\r\n")[0].decode()
        assert head.startswith(f"POST {urlsplit(url).path} HTTP/1.1\r\n")
        assert f"\r\n{header}: {secret}\r\n" in f"{head}\r\n"
        form = peer.received.partition(b"\r\n\r\n")[2].decode()
        assert (parse_qs(form) if table["content_type"] == FORM else sent_json(peer)) == body


class TestGet:
    """A gateway that takes a GET, with the message and perhaps its key in the address."""

    def test_the_message_is_in_the_address(self, serve: Any, outbound: Outbound) -> None:
        peer = serve.answering(http_answer(b"OK 1", "200 OK"))
        url = f"{peer.url}/send?to={{to_digits}}&text={{text}}&key={{secret}}"
        table = {**template(peer.url), "url": url, "method": "GET", "body": "", "secret": "a&b c", "success": [200]}
        assert opened(table, outbound).send(replace(SMS, text=TEXT)).handover is Handover.ACCEPTED
        line, _rest = peer.received.split(b"\r\n", 1)
        method, target, _version = line.decode().split(" ")
        assert method == "GET"
        assert parse_qs(urlsplit(target).query) == {"to": [SMS.to[1:]], "text": [TEXT], "key": ["a&b c"]}
        assert b"content-type" not in peer.received.lower()

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"body": "to={to}"}, "a GET has no body"),
            ({"url": "https://gateway.example/send"}, "have to stand in its address"),
            ({"url": "https://gateway.example/send?to={to}&key={secret}"}, "no key for it is set"),
            ({"url": "https://{to}.example/send?to={to}"}, "can't be filled in"),
            ({"url": "https://gateway.example/send?to={phone}"}, "unknown placeholder"),
            ({"method": "POST"}, "body is missing"),
        ],
    )
    def test_a_wrong_template_is_refused(self, change: dict[str, str], fault: str) -> None:
        table = {**template("https://gateway.example"), "method": "GET", "body": ""}
        table["url"] = "https://gateway.example/send?to={to}&text={text}"
        parse_channel(table)
        with pytest.raises(Exception, match=fault):
            parse_channel({**table, **change})

    def test_the_key_is_a_secret(self) -> None:
        table = {**template("https://gateway.example"), "secret": "hidden"}
        config = parse_channel({**table, "body": json.dumps({"to": "{to}", "key": "{secret}"})})
        assert "hidden" not in repr(config)
        assert "secret" in config.SECRETS
