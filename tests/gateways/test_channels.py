"""What each kind of channel adds to the contract, and what the registry promises for any kind."""

from __future__ import annotations

import importlib
import json
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_portal.errors import Misconfigured
from auth_portal.gateways.addresses import NetworkPolicy
from auth_portal.gateways.channels import (
    KINDS,
    Channel,
    ChannelConfig,
    Destination,
    Handover,
    may_keep_secrets,
    open_channel,
    parse_channel,
)
from auth_portal.gateways.channels.http import fill
from auth_portal.gateways.outbound import Outbound
from auth_portal.gateways.way_out import HttpAnswer
from tests.gateways.channel_contract import (
    AWKWARD,
    KEY,
    LOCAL,
    MAIL,
    SMS,
    ChannelContract,
    clickatell,
    http_answer,
    opened,
    sent_json,
    smtp,
    template,
)


class Patient(Outbound):
    """Waits a minute for an answer: what an answer means is tested here, not how fast this machine gives one."""

    def request(self, *args: Any, **bounds: Any) -> HttpAnswer:
        return super().request(*args, **{"connect_seconds": 60.0, "total_seconds": 60.0, **bounds})


@pytest.fixture(scope="session")
def outbound(ca_bundle: Path) -> Outbound:
    """The tests' way out, with patience."""
    return Patient(NetworkPolicy(allow_private=True, ca_bundle=ca_bundle))


class TestSmtp(ChannelContract):
    kind = "smtp"
    message = MAIL

    @pytest.fixture
    def server(self, mail_server: Any) -> Any:
        return mail_server()

    @pytest.fixture
    def channel(self, server: Any, outbound: Outbound) -> Channel:
        return opened(smtp(server.port), outbound)

    @pytest.fixture
    def dead(self, dead_port: int, outbound: Outbound) -> Channel:
        return opened(smtp(dead_port), outbound)

    @pytest.fixture
    def arrived(self, server: Any) -> Any:
        def last() -> tuple[str, str, str] | None:
            if not server.mailbox.messages:
                return None
            mail: EmailMessage = server.mailbox.messages[-1]
            part = mail.get_body(("plain",))
            assert part is not None
            return str(mail["To"]), part.get_content().removesuffix("\r\n"), str(mail["Message-ID"])

        return last

    def test_message_is_well_formed(self, channel: Channel, server: Any) -> None:
        channel.send(replace(MAIL, subject="Código für 日本", message_id="x" * 300))
        mail: EmailMessage = server.mailbox.messages[0]
        assert mail.get_content_type() == "multipart/alternative"
        assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
        assert mail["From"] == "Acme Bank <no-reply@acme.example>"
        assert mail["To"] == "thandi@example.com"
        assert mail["Subject"] == "Código für 日本"
        assert mail["Message-ID"] == f"<{'x' * 64}@acme.example>"
        assert mail["Auto-Submitted"] == "auto-generated"
        assert abs(mail["Date"].datetime.timestamp() - time.time()) < 60
        assert not mail.defects
        assert (server.mailbox.senders, server.mailbox.recipients) == (
            ["no-reply@acme.example"],
            ["thandi@example.com"],
        )

    def test_name_of_the_sender_may_be_written_in_any_script(self, server: Any, outbound: Outbound) -> None:
        opened(smtp(server.port, sender='"Bänk, of Acme" <a@acme.example>'), outbound).send(MAIL)
        assert server.mailbox.messages[0]["From"].addresses[0].display_name == "Bänk, of Acme"

    def test_domain_of_the_sender_may_be_international(self, server: Any, outbound: Outbound) -> None:
        opened(smtp(server.port, sender="Bücher <a@bücher.example>"), outbound).send(MAIL)
        assert server.mailbox.senders == ["a@xn--bcher-kva.example"]

    def test_without_html_it_is_plain(self, channel: Channel, server: Any) -> None:
        channel.send(replace(MAIL, html=""))
        assert server.mailbox.messages[0].get_content_type() == "text/plain"

    def test_subject_cannot_add_headers(self, channel: Channel, server: Any) -> None:
        assert channel.send(replace(MAIL, subject="a\r\nBcc: x@evil.example\r\n\r\nb")).handover is Handover.ACCEPTED
        mail = server.mailbox.messages[0]
        assert "Bcc" not in mail
        assert mail["Subject"] == "a Bcc: x@evil.example b"

    @pytest.mark.parametrize(
        "word", ["=?utf-8?q?a=0D=0ABcc:_x=40evil.com?=", "=?utf-8?b?DQoNCjxoMT4=?=", "=?utf-8?q?N._Dlamini?="]
    )
    def test_what_looks_like_an_encoded_word_is_sent_as_text(self, channel: Channel, server: Any, word: str) -> None:
        """A payee may be called so: decoded, it would add headers and a body, or be another payee than on the page."""
        subject = f"123456 pays {word}"
        assert channel.send(replace(MAIL, subject=subject)).handover is Handover.ACCEPTED
        mail: EmailMessage = server.mailbox.messages[0]
        assert mail["Bcc"] is None
        assert mail["Subject"] == subject.replace("=?", "= ?")
        assert mail["Message-ID"]

    @pytest.mark.parametrize(
        "to",
        [
            "",
            "nobody",
            "a@example.com\r\nBcc: b@example.com",
            "a@example.com>\r\nRCPT TO:<b@example.com",
            "a@example.com, b@example.com",
            "a b@example.com",
            "A <a@example.com>",
            "ü@example.com",
            "a@exämple.com",
            "a@example.com\0",
        ],
    )
    def test_what_is_no_address_is_not_tried(self, channel: Channel, server: Any, to: str) -> None:
        receipt = channel.send(replace(MAIL, to=to))
        assert (receipt.handover, receipt.code) == (Handover.RECIPIENT, "address")
        assert server.mailbox.recipients == []

    @pytest.mark.parametrize(
        ("command", "answer", "handover"),
        [
            ("MAIL", "451 4.3.0 Try later", Handover.RETRY),
            ("MAIL", "550 5.1.8 Sender address rejected", Handover.OPERATOR),
            ("MAIL", "530 5.7.0 Log in first", Handover.OPERATOR),
            ("RCPT", "450 4.2.1 Greylisted", Handover.RETRY),
            ("RCPT", "421 4.7.0 Too many", Handover.RETRY),
            ("RCPT", "550 5.1.1 No such user", Handover.RECIPIENT),
            ("RCPT", "552 5.2.2 Mailbox full", Handover.RECIPIENT),
            ("RCPT", "550 No such user", Handover.RECIPIENT),
            ("RCPT", "554 5.7.1 Relay access denied", Handover.OPERATOR),
            ("RCPT", "550 5.1.8 Sender address rejected", Handover.OPERATOR),
            ("RCPT", "530 Log in first", Handover.OPERATOR),
            ("DATA", "452 4.3.1 Disk full", Handover.RETRY),
            ("DATA", "554 5.7.1 Looks like spam", Handover.OPERATOR),
            ("DATA", "550 5.1.1 No such user", Handover.RECIPIENT),
            ("DATA", "552 5.2.2 Mailbox full", Handover.RECIPIENT),
            ("DATA", "250 2.0.0 Queued", Handover.ACCEPTED),
        ],
    )
    def test_refusals_are_told_apart(
        self, channel: Channel, server: Any, command: str, answer: str, handover: Handover
    ) -> None:
        server.mailbox.answers[command] = answer
        receipt = channel.send(MAIL)
        assert receipt.handover is handover
        assert receipt.code == ("accepted" if handover is Handover.ACCEPTED else f"smtp_{answer[:3]}")

    def test_answer_of_the_server_is_masked(self, channel: Channel, server: Any) -> None:
        server.mailbox.answers["RCPT"] = "550 5.1.1 <thandi@example.com> unknown, 0821234567, code 123456 " + "x" * 400
        detail = channel.send(MAIL).detail
        assert "thandi" not in detail
        assert "0821234567" not in detail
        assert "123456" not in detail
        assert len(detail) <= 200

    def test_a_number_that_was_sent_is_masked_in_whatever_shape(self, channel: Channel, server: Any) -> None:
        server.mailbox.answers["RCPT"] = "451 4.7.1 error 123456, queued as 123-456, message id 1a123456b7c at port 25"
        detail = channel.send(MAIL).detail
        assert detail.startswith("The mail server refused: 451 4.7.1 error ####")
        assert detail.endswith("at port 25")
        assert "456" not in detail

    @pytest.mark.parametrize("security", ["starttls", "tls"])
    def test_encrypted_with_login(
        self, mail_server: Any, local_tls: ssl.SSLContext, outbound: Outbound, security: str
    ) -> None:
        if security == "tls":
            server = mail_server(local_tls, auth_require_tls=False)  # aiosmtpd knows of no TLS but STARTTLS
        else:
            server = mail_server(tls_context=local_tls, require_starttls=True, auth_required=True)
        table = smtp(server.port, security=security, username="me", password="right")
        assert opened(table, outbound).check().detail == "Connected and logged in."
        assert opened(table, outbound).send(MAIL).handover is Handover.ACCEPTED
        assert set(server.mailbox.logins) == {("me", "right")}
        receipt = opened(table | {"password": "wrong-one"}, outbound).send(MAIL)
        assert (receipt.handover, receipt.code) == (Handover.OPERATOR, "smtp_535")
        assert "wrong-one" not in repr(receipt)

    @pytest.mark.parametrize("security", ["starttls", "tls"])
    def test_wrong_certificate_is_for_the_operator(
        self, mail_server: Any, certified: Any, outbound: Outbound, security: str
    ) -> None:
        context = certified("other.example")
        server = mail_server(context) if security == "tls" else mail_server(tls_context=context)
        channel = opened(smtp(server.port, security=security, username="me", password="right"), outbound)
        for receipt in (channel.send(MAIL), channel.check()):
            assert (receipt.handover, receipt.code) == (Handover.OPERATOR, "untrusted")
        assert not server.mailbox.logins
        assert not server.mailbox.messages

    def test_starttls_missing_never_falls_back_to_plain(self, server: Any, outbound: Outbound) -> None:
        channel = opened(smtp(server.port, security="starttls", username="me", password="right"), outbound)
        for receipt in (channel.send(MAIL), channel.check()):
            assert (receipt.handover, receipt.code) == (Handover.OPERATOR, "not_offered")
        assert not server.mailbox.logins
        assert not server.mailbox.messages

    def test_login_missing(self, server: Any, outbound: Outbound) -> None:
        channel = opened(smtp(server.port, username="me", password="right"), outbound)
        assert channel.send(MAIL).code == "not_offered"  # aiosmtpd offers AUTH only over TLS

    def test_login_over_an_open_connection_needs_the_operator(self, serve: Any) -> None:
        peer = serve(lambda peer, connection: None)
        config = parse_channel(smtp(peer.port, host="mail.example", username="me", password="right"))
        closed = Outbound(NetworkPolicy(), resolve=lambda host, port: [LOCAL])
        receipt = open_channel(config, closed, sandbox_url="").send(MAIL)
        assert (receipt.handover, receipt.code) == (Handover.OPERATOR, "misconfigured")
        assert peer.connections == 0
        with pytest.raises(Misconfigured):
            parse_channel(smtp(25, host="mail.example", username="me", password="right")).check_way_out(closed)
        parse_channel(smtp(25, host="mail.example")).check_way_out(closed)
        config.check_way_out(Outbound(NetworkPolicy(private_targets=frozenset({("mail.example", peer.port)}))))

    def test_private_mail_host_is_for_the_operator(self, server: Any) -> None:
        closed = Outbound(NetworkPolicy())
        assert opened(smtp(server.port), closed).send(MAIL).code == "blocked"
        assert opened(smtp(25), closed).send(MAIL).code == "blocked"

    @pytest.mark.parametrize(
        ("script", "handover"),
        [
            ([b""], Handover.RETRY),
            ([b"421 busy\r\n"], Handover.RETRY),
            ([b"554 go away\r\n"], Handover.OPERATOR),
            ([b"nonsense\r\n"], Handover.RETRY),
            ([b"220 hi\r\n", b""], Handover.RETRY),
            ([b"220 hi\r\n", b"250 hi\r\n", b""], Handover.RETRY),
            ([b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b""], Handover.RETRY),
            ([b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b""], Handover.RETRY),
            ([b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"451 busy\r\n"], Handover.RETRY),
            ([b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b""], Handover.UNCLEAR),
            (
                [b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"what\r\n"],
                Handover.UNCLEAR,
            ),
            ([b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"503 no\r\n"], Handover.OPERATOR),
        ],
    )
    def test_broken_conversations(
        self, serve: Any, outbound: Outbound, script: list[bytes], handover: Handover
    ) -> None:
        def behave(peer: Any, connection: socket.socket) -> None:
            for number, line in enumerate(script):
                if number:
                    wanted = b"\r\n.\r\n" if script[number - 1].startswith(b"354") else b"\r\n"
                    taken = b""
                    while not taken.endswith(wanted):
                        taken += connection.recv(65536)
                connection.sendall(line)

        assert opened(smtp(serve(behave).port), outbound).send(MAIL).handover is handover

    def test_d13_broken_before_the_last_line_it_was_not_taken(self, serve: Any, outbound: Outbound) -> None:
        def behave(peer: Any, connection: socket.socket) -> None:
            for line in (b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
                connection.sendall(line)
                connection.recv(1000)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # gone at once

        big = replace(MAIL, text="Your code is 123456. " * 400_000)  # more than the network buffers hold
        assert opened(smtp(serve(behave).port), outbound).send(big).handover is Handover.RETRY

    @pytest.mark.parametrize("line", [b"2", b"220-more\r\n"])
    def test_dripping_or_endless_server_ends(
        self, serve: Any, outbound: Outbound, monkeypatch: pytest.MonkeyPatch, line: bytes
    ) -> None:
        monkeypatch.setattr("auth_portal.gateways.channels.smtp.SMTP_SECONDS", 0.3)

        def behave(peer: Any, connection: socket.socket) -> None:
            if line == b"2":
                peer.drip(connection, line * 50_000)
            while not peer.stop.is_set():
                connection.sendall(line * 100)

        started = time.monotonic()
        assert opened(smtp(serve(behave).port), outbound).send(MAIL).handover is Handover.RETRY
        assert time.monotonic() - started < 30  # it would go on for minutes


def talking(
    answers: Callable[[str], bytes], *, greeting: bytes = b"220 mail.example\r\n"
) -> Callable[[Any, socket.socket], None]:
    """A mail server that answers each line as it is said to; an empty answer hangs up."""

    def behave(peer: Any, connection: socket.socket) -> None:
        connection.sendall(greeting)
        with connection.makefile("rb") as lines:
            for line in lines:
                peer.requests.append(line)
                answer = answers(line.decode().strip())
                if not answer:
                    return
                connection.sendall(answer)
                if answer.startswith(b"354"):
                    for content in lines:
                        if content == b".\r\n":
                            break
                    connection.sendall(b"250 2.0.0 Ok\r\n")

    return behave


def logging_in(offered: str, logins: Mapping[str, bytes], *, ehlo: bytes = b"") -> Callable[[str], bytes]:
    """Answers of a server that offers these mechanisms; ``logins`` are what it says to the lines of a login."""

    def answer(line: str) -> bytes:
        if line.startswith("ehlo"):
            return ehlo or f"250-mail.example\r\n250 {offered}\r\n".encode()
        if line in logins:
            return logins[line]
        if line.startswith("AUTH"):
            return b"501 5.5.4 Syntax error in parameters\r\n"
        return b"354 go\r\n" if line == "DATA" else b"250 ok\r\n" if line[:4] in ("mail", "rcpt", "helo") else b""

    return answer


ME, RIGHT, BOTH = "bWU=", "cmlnaHQ=", "AG1lAHJpZ2h0"  # me, right, and both as PLAIN sends them
BY_LOGIN = {"AUTH LOGIN": b"334 VXNlcm5hbWU6\r\n", ME: b"334 Password:\r\n", RIGHT: b"235 2.7.0 Welcome\r\n"}


class TestMailServersAsTheyAre:
    @pytest.mark.parametrize(
        ("offered", "logins"),
        [
            ("AUTH LOGIN", BY_LOGIN),  # refuses AUTH LOGIN with a user name in the same line
            ("AUTH login cram-md5", BY_LOGIN),
            ("AUTH=LOGIN", BY_LOGIN),  # as before RFC 2554
            ("AUTH PLAIN", {f"AUTH PLAIN {BOTH}": b"235 Welcome\r\n"}),
            ("AUTH PLAIN", {"AUTH PLAIN": b"334 go ahead\r\n", BOTH: b"235 Welcome\r\n"}),
            ("AUTH PLAIN", {f"AUTH PLAIN {BOTH}": b"334 \r\n", BOTH: b"235 Welcome\r\n"}),
            ("AUTH PLAIN LOGIN", {f"AUTH PLAIN {BOTH}": b"535 5.7.8 No\r\n", **BY_LOGIN}),
            ("AUTH GSSAPI NTLM LOGIN", BY_LOGIN),
            (
                "AUTH CRAM-MD5",
                {
                    "AUTH CRAM-MD5": b"334 PDFAbWFpbC5leGFtcGxlPg==\r\n",
                    "bWUgMTU2ZjhkY2FjNDZkYmEyZDQ0MTM0ZDhjMTljZTQ0MGQ=": b"235 Welcome\r\n",
                },
            ),
        ],
    )
    def test_a_login_is_made_as_the_server_takes_it(
        self, serve: Any, outbound: Outbound, offered: str, logins: Mapping[str, bytes]
    ) -> None:
        peer = serve(talking(logging_in(offered, logins)))
        channel = opened(smtp(peer.port, username="me", password="right"), outbound)
        assert channel.check().detail == "Connected and logged in."
        assert channel.send(MAIL).handover is Handover.ACCEPTED

    @pytest.mark.parametrize(
        ("ehlo", "logins", "words"),
        [
            (b"250 AUTH LOGIN", {"AUTH LOGIN": b"535 5.7.8 authentication failed\r\n"}, "refused: 535 5.7.8 authent"),
            # It hangs up after the refusal, which is what the admin has to know.
            (
                b"250 AUTH PLAIN LOGIN",
                {f"AUTH PLAIN {BOTH}": b"535 5.7.8 Wrong\r\n", "AUTH LOGIN": b""},
                "535 5.7.8 Wro",
            ),
            (b"250 AUTH XOAUTH2", {}, "a login by XOAUTH2 only; the portal knows PLAIN, LOGIN, CRAM-MD5"),
            (b"250 STARTTLS", {}, "only after STARTTLS: set Security to STARTTLS"),
            (b"250 SIZE 1000", {}, "It offers no login: remove user name and password"),
            (b"250 AUTH CRAM-MD5", {"AUTH CRAM-MD5": b"334 what?\r\n", "*": b"501 5.0.0 Ended\r\n"}, "501 5.0.0 Ended"),
        ],
    )
    def test_a_login_that_fails_says_why(
        self, serve: Any, outbound: Outbound, ehlo: bytes, logins: Mapping[str, bytes], words: str
    ) -> None:
        answers = logging_in("", logins, ehlo=b"250-mail.example\r\n" + ehlo + b"\r\n")
        channel = opened(smtp(serve(talking(answers)).port, username="me", password="right"), outbound)
        for receipt in (channel.check(), channel.send(MAIL)):
            assert receipt.handover is Handover.OPERATOR
            assert words in receipt.detail

    @pytest.mark.parametrize(
        ("greeting", "ehlo"),
        [
            (b"220-Welcome\r\n220-to\r\n220 mail.example\r\n", b"250 mail.example\r\n"),
            (b"220\r\n", b"250 mail.example\r\n"),
            (b"220 mail.example\r\n", b"502 5.5.1 Command not implemented\r\n"),  # then HELO, without 8BITMIME
        ],
    )
    def test_old_servers_take_a_message_in_seven_bits(
        self, serve: Any, outbound: Outbound, greeting: bytes, ehlo: bytes
    ) -> None:
        peer = serve(talking(logging_in("", {}, ehlo=ehlo), greeting=greeting))
        assert opened(smtp(peer.port), outbound).send(replace(MAIL, subject="Código")).handover is Handover.ACCEPTED
        assert all(line.isascii() for line in peer.requests)

    @pytest.mark.parametrize(
        ("closes_at", "words"),
        [("ehlo", "after EHLO"), ("mail", "after MAIL"), ("rcpt", "after RCPT"), ("DATA", "after DATA")],
    )
    def test_a_server_that_hangs_up_is_said_to(
        self, serve: Any, outbound: Outbound, closes_at: str, words: str
    ) -> None:
        answers = logging_in("HELP", {})
        peer = serve(talking(lambda line: b"" if line.startswith(closes_at) else answers(line)))
        receipt = opened(smtp(peer.port), outbound).send(MAIL)
        assert (receipt.handover, receipt.detail) == (
            Handover.RETRY,
            f"The mail server closed the connection {words}.",
        )

    @pytest.mark.parametrize(
        ("spoken", "words"),
        [
            (b"", "The mail server greeted too late: 0.3 s is the most"),
            (b"220-wait\r\n", "The mail server greeted too late"),
            (b"220 mail.example\r\n", "The mail server did not answer EHLO in time."),
        ],
    )
    def test_a_server_that_takes_too_long_is_said_to(
        self, serve: Any, outbound: Outbound, monkeypatch: pytest.MonkeyPatch, spoken: bytes, words: str
    ) -> None:
        monkeypatch.setattr("auth_portal.gateways.channels.smtp.SMTP_SECONDS", 0.3)

        def behave(peer: Any, connection: socket.socket) -> None:
            connection.sendall(spoken)
            peer.stop.wait(60)

        receipt = opened(smtp(serve(behave).port), outbound).send(MAIL)
        assert receipt.handover is Handover.RETRY
        assert receipt.detail.startswith(words)


class TestClickatell(ChannelContract):
    kind = "clickatell"

    @pytest.fixture
    def peer(self, serve: Any) -> Any:
        one = {"apiMessageId": "77fb", "accepted": True, "to": "27821234567", "error": None}
        return serve.answering(http_answer({"messages": [one], "error": None}))

    @pytest.fixture
    def channel(self, peer: Any, outbound: Outbound) -> Channel:
        return opened(clickatell(peer.url), outbound)

    @pytest.fixture
    def dead(self, dead_port: int, outbound: Outbound) -> Channel:
        return opened(clickatell(f"http://{LOCAL}:{dead_port}"), outbound)

    @pytest.fixture
    def arrived(self, peer: Any) -> Any:
        def last() -> tuple[str, str, str] | None:
            if not peer.received:
                return None
            one = sent_json(peer)["messages"][0]
            return one["to"], one["content"], one["clientMessageId"]

        return last

    def test_request_is_as_documented(self, channel: Channel, peer: Any) -> None:
        channel.send(SMS)
        head = peer.received.partition(b"\r\n\r\n")[0].decode()
        assert head.startswith("POST /v1/message HTTP/1.1\r\n")
        assert f"\r\nAuthorization: {KEY}\r\n" in head
        assert "\r\nContent-Type: application/json\r\n" in head
        one = {"channel": "sms", "to": "27821234567", "content": SMS.text, "clientMessageId": "delivery-7.sms"}
        assert sent_json(peer) == {"messages": [one]}

    @pytest.mark.parametrize("status", ["202 Accepted", "207 Multi-Status", "400 Bad Request"])
    @pytest.mark.parametrize("shape", ["object", "text", "number", "global", "errorCode"])
    @pytest.mark.parametrize(
        ("code", "handover"),
        [
            *[(code, Handover.UNCLEAR) for code in (18, 19)],  # internal errors, as HTTP 500 is
            (43, Handover.RETRY),
            *[(code, Handover.RECIPIENT) for code in (25, 26, 27)],
            *[(code, Handover.OPERATOR) for code in (1, 2, 3, 7, 20)],
        ],
    )
    def test_error_codes(
        self, serve: Any, outbound: Outbound, status: str, shape: str, code: int, handover: Handover
    ) -> None:
        error = {"object": {"code": code, "description": "no"}, "text": str(code), "number": code}.get(shape)
        one = {"accepted": False, "to": "27821234567", "error": error}
        body: dict[str, Any] = {"messages": [one], "error": None}
        if shape == "global":
            body = {"messages": [], "error": {"code": code}}
        if shape == "errorCode":
            one |= {"error": None, "errorCode": code}
        peer = serve.answering(http_answer(body, status))
        receipt = opened(clickatell(peer.url), outbound).send(SMS)
        assert (receipt.handover, receipt.code) == (handover, f"clickatell_{code}")

    @pytest.mark.parametrize(
        ("status", "body", "handover"),
        [
            ("202 Accepted", {"messages": [{"accepted": False, "error": {"code": 999}}]}, Handover.OPERATOR),
            ("202 Accepted", {"messages": [{"accepted": False, "error": None}]}, Handover.OPERATOR),
            ("202 Accepted", {"messages": [{"accepted": "yes"}]}, Handover.UNCLEAR),
            ("202 Accepted", {"messages": []}, Handover.UNCLEAR),
            ("202 Accepted", [], Handover.UNCLEAR),
            ("202 Accepted", b"", Handover.UNCLEAR),
            ("202 Accepted", b"<html>", Handover.UNCLEAR),
            ("202 Accepted", b"[" * 60_000, Handover.UNCLEAR),
            ("202 Accepted", {"messages": [{"error": {"code": "9" * 5000}}]}, Handover.UNCLEAR),
            ("400 Bad Request", b"", Handover.OPERATOR),
            ("401 Unauthorized", {"error": None}, Handover.OPERATOR),
            ("402 Payment Required", b"", Handover.OPERATOR),
            ("404 Not Found", b"", Handover.OPERATOR),
            ("302 Found", b"", Handover.OPERATOR),
            ("429 Too Many", b"", Handover.RETRY),
            ("503 Service Unavailable", b"", Handover.RETRY),
            ("504 Gateway Timeout", b"", Handover.UNCLEAR),
            ("500 Error", {"messages": [{"accepted": True}]}, Handover.UNCLEAR),
            ("200 OK", {"messages": [{"accepted": "true", "errorCode": None, "error": None}]}, Handover.ACCEPTED),
            ("200 OK", {"messages": [{"accepted": True, "errorCode": 0, "error": ""}]}, Handover.ACCEPTED),
            ("207 Multi-Status", {"messages": {"accepted": True, "error": {}}, "error": "partly"}, Handover.ACCEPTED),
            ("202 Accepted", {"messages": [{"accepted": True, "error": "Duplicate"}]}, Handover.UNCLEAR),
            ("200 OK", {"messages": [], "error": "Insufficient funds", "errorCode": "20"}, Handover.OPERATOR),
            ("200 OK", {"messages": [], "error": "Something else"}, Handover.OPERATOR),
            ("200 OK", {"errorCode": None, "error": None, "errorDescription": None}, Handover.UNCLEAR),
            ("503 Busy", {"error": "Busy", "errorCode": 999}, Handover.RETRY),
            ("500 Error", {"error": "Broken", "errorCode": 999}, Handover.UNCLEAR),
        ],
    )
    def test_other_answers(self, serve: Any, outbound: Outbound, status: str, body: object, handover: Handover) -> None:
        peer = serve.answering(http_answer(body, status))
        assert opened(clickatell(peer.url), outbound).send(SMS).handover is handover

    @pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "400 Bad Request"])
    @pytest.mark.parametrize(
        "fault",
        [
            {"errorCode": 25, "error": "Invalid destination", "errorDescription": "Not a number"},
            {"errorCode": "25", "error": "Invalid destination"},
            {"errorCode": "025", "error": {"description": "Invalid destination"}},
            {"errorCode": 25.0, "error": "Invalid destination"},
            {"errorCode": None, "error": {"errorCode": " 25 ", "errorDescription": "Invalid destination"}},
            {"error": {"error": {"code": "25", "description": "Invalid destination"}}},
            {"errors": [{"code": 25, "description": "Invalid destination"}]},
        ],
    )
    @pytest.mark.parametrize("of_message", [True, False])
    def test_a_code_is_found_next_to_a_text(
        self, serve: Any, outbound: Outbound, status: str, fault: dict[str, Any], *, of_message: bool
    ) -> None:
        none = {"errorCode": None, "error": None}
        body = {"messages": [{"accepted": False, **fault}], **none} if of_message else {"messages": [], **fault}
        peer = serve.answering(http_answer(body, status))
        receipt = opened(clickatell(peer.url), outbound).send(SMS)
        assert (receipt.handover, receipt.code) == (Handover.RECIPIENT, "clickatell_25")
        assert "Clickatell said: 25 Invalid destination" in receipt.detail

    def test_an_unknown_code_is_named_with_what_is_said_of_it(self, serve: Any, outbound: Outbound) -> None:
        fault = {"messages": [], "errorCode": 607, "error": "Invalid FROM number", "errorDescription": "Ask support"}
        peer = serve.answering(http_answer(fault, "400 Bad Request"))
        receipt = opened(clickatell(peer.url), outbound).send(SMS)
        assert (receipt.handover, receipt.code) == (Handover.OPERATOR, "clickatell_607")
        words = "HTTP 400. Clickatell refused the message. 607 Invalid FROM number. Ask support"
        assert receipt.detail == words

    def test_lost_reply_is_unclear(self, serve: Any, outbound: Outbound) -> None:
        peer = serve(lambda peer, connection: peer.read_request(connection))
        assert opened(clickatell(peer.url), outbound).send(SMS).handover is Handover.UNCLEAR
        assert peer.connections == 1

    def test_answer_is_masked(self, serve: Any, outbound: Outbound) -> None:
        error = {"code": 25, "description": "27821234567 cannot take 'Your code is 123456'\x1b[2J"}
        peer = serve.answering(http_answer({"messages": [{"accepted": False, "error": error}]}))
        detail = opened(clickatell(peer.url), outbound).send(SMS).detail
        assert "27821234567" not in detail
        assert "123456" not in detail
        assert detail.isprintable()

    @pytest.mark.parametrize("missing", ["countries", "daily_cap", "api_key"])
    def test_needs_what_protects_from_costs(self, missing: str) -> None:
        table = clickatell("https://platform.clickatell.com")
        del table[missing]
        with pytest.raises(Misconfigured, match=missing):
            parse_channel(table)


class TestHttp(ChannelContract):
    kind = "http"

    @pytest.fixture
    def peer(self, serve: Any) -> Any:
        return serve.answering(http_answer(b"queued", "200 OK"))

    @pytest.fixture
    def channel(self, peer: Any, outbound: Outbound) -> Channel:
        return opened(template(peer.url), outbound)

    @pytest.fixture
    def dead(self, dead_port: int, outbound: Outbound) -> Channel:
        return opened(template(f"http://{LOCAL}:{dead_port}"), outbound)

    @pytest.fixture
    def arrived(self, peer: Any) -> Any:
        def last() -> tuple[str, str, str] | None:
            if not peer.received:
                return None
            sent = sent_json(peer)
            return sent["to"], sent["text"], sent["id"]

        return last

    def test_request_is_as_configured(self, peer: Any, outbound: Outbound) -> None:
        opened(template(peer.url, method="PUT", headers={"Authorization": f"Bearer {KEY}"}), outbound).send(SMS)
        head = peer.received.partition(b"\r\n\r\n")[0].decode()
        assert head.startswith("PUT /send HTTP/1.1\r\n")
        assert f"\r\nAuthorization: Bearer {KEY}\r\n" in head
        assert "\r\nContent-Type: application/json\r\n" in head

    def test_form_is_escaped_as_a_form(self, peer: Any, outbound: Outbound) -> None:
        form = {"content_type": "application/x-www-form-urlencoded", "body": "to={to}&text={text}&from=Acme"}
        opened(template(peer.url, **form), outbound).send(replace(SMS, text=AWKWARD))
        sent = parse_qs(peer.received.partition(b"\r\n\r\n")[2].decode())
        assert sent == {"to": ["+27821234567"], "text": [AWKWARD], "from": ["Acme"]}

    @given(text=st.text(), subject=st.text())
    def test_no_text_escapes_from_its_place(self, text: str, subject: str) -> None:
        body = '{"a": "{text}", "b": "{subject}"}'
        filled = fill(body, replace(MAIL, text=text, subject=subject), "application/json")
        assert json.loads(filled) == {"a": text, "b": subject}

    @pytest.mark.parametrize(
        ("status", "body", "handover"),
        [
            ("200 OK", b"status=queued", Handover.ACCEPTED),
            ("200 OK", b"status=error", Handover.OPERATOR),
            ("204 No Content", b"", Handover.OPERATOR),
            ("302 Found", b"queued", Handover.OPERATOR),
            ("400 Bad Request", b"queued", Handover.RECIPIENT),
            ("422 Unprocessable", b"", Handover.RECIPIENT),
            ("401 Unauthorized", b"", Handover.OPERATOR),
            ("404 Not Found", b"", Handover.OPERATOR),
            ("429 Too Many", b"", Handover.RETRY),
            ("503 Service Unavailable", b"", Handover.RETRY),
            ("500 Error", b"queued", Handover.UNCLEAR),
            ("502 Bad Gateway", b"", Handover.UNCLEAR),
        ],
    )
    def test_answers(self, serve: Any, outbound: Outbound, status: str, body: bytes, handover: Handover) -> None:
        peer = serve.answering(http_answer(body, status))
        channel = opened(template(peer.url, success=[200], success_contains="queued"), outbound)
        assert channel.send(SMS).handover is handover

    def test_cut_answer_is_unclear(self, serve: Any, outbound: Outbound) -> None:
        peer = serve.answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstat")
        channel = opened(template(peer.url, success_contains="queued"), outbound)
        assert channel.send(SMS).handover is Handover.UNCLEAR

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"body": '{"to": "{phone}"}'}, "body: unknown placeholder {phone}"),
            ({"body": '{"to": {to}}'}, "inside quotes"),
            ({"body": "to={to}"}, "not JSON"),
            ({"countries": []}, "countries"),
            ({"daily_cap": None}, "daily_cap"),
            ({"daily_cap": 0}, "daily_cap"),
            ({"countries": ["South Africa"]}, "countries"),
            ({"headers": {"X-Key": "a\r\nb"}}, "headers"),
            ({"headers": {"Host": "a"}}, "headers: host cannot be set"),
            ({"headers": {"Transfer-Encoding": "chunked"}}, "headers: transfer-encoding"),
            ({"url": "gateway.example"}, "url"),
            ({"url": "https://gateway.example:99999"}, "url"),
            ({"method": "DELETE"}, "method"),
            ({"success": []}, "success"),
            ({"success": [302]}, "success"),
            ({"content_type": "text/xml"}, "content_type"),
            ({"carries": "fax"}, "carries"),
            ({"colour": "red"}, "colour: is not known here"),
        ],
    )
    def test_faults_are_named_without_secrets(self, change: dict[str, Any], fault: str) -> None:
        with pytest.raises(Misconfigured) as caught:
            parse_channel({**template("https://gateway.example"), **change})
        assert fault in str(caught.value)
        assert KEY not in str(caught.value)

    def test_mail_needs_neither_countries_nor_cap(self) -> None:
        table = template("https://gateway.example", carries="email", countries=[], daily_cap=None)
        assert parse_channel(table).message_kinds == {"email"}


class TestConsole(ChannelContract):
    kind = "console"
    dead_handover = Handover.OPERATOR

    @pytest.fixture
    def channel(self, outbound: Outbound) -> Channel:
        return opened({"name": "console", "kind": "console"}, outbound, sandbox_url="http://127.0.0.1:8000/sandbox")

    @pytest.fixture
    def dead(self, outbound: Outbound) -> Channel:
        return opened({"name": "console", "kind": "console"}, outbound)

    @pytest.fixture
    def arrived(self, capsys: pytest.CaptureFixture[str]) -> Any:
        def last() -> tuple[str, str, str] | None:
            written = capsys.readouterr().err.replace("\r\n", "\n").split("\n")
            if len(written) < 3:
                return None
            return written[0].split(" to ")[1], "\n".join(written[1:-2]), written[0].split(" ")[1]

        return last

    def test_repeat_can_be_recognised(self, channel: Channel, arrived: Any) -> None:
        """A person reads it, and sees for himself."""

    def test_mail_shows_its_subject(self, channel: Channel, capsys: pytest.CaptureFixture[str]) -> None:
        channel.send(MAIL)
        assert capsys.readouterr().err == "--- email to thandi@example.com\nYour code\nYour code is 123456\n---\n"


class TestInbox(ChannelContract):
    kind = "inbox"

    @pytest.fixture
    def peer(self, serve: Any) -> Any:
        return serve.answering(http_answer({}, "201 Created"))

    @pytest.fixture
    def channel(self, peer: Any) -> Channel:
        url = f"{peer.url}/sandbox"
        return opened({"name": "inbox", "kind": "inbox"}, Outbound(NetworkPolicy(sandbox_origin=url)), sandbox_url=url)

    @pytest.fixture
    def dead(self, dead_port: int, outbound: Outbound) -> Channel:
        url = f"http://{LOCAL}:{dead_port}/sandbox"
        return opened({"name": "inbox", "kind": "inbox"}, outbound, sandbox_url=url)

    @pytest.fixture
    def arrived(self, peer: Any) -> Any:
        def last() -> tuple[str, str, str] | None:
            if not peer.received:
                return None
            sent = sent_json(peer)
            return sent["to"], sent["text"], sent["message_id"]

        return last

    def test_sandbox_is_given_everything(self, channel: Channel, peer: Any) -> None:
        channel.send(MAIL)
        assert peer.received.startswith(b"POST /sandbox/messages HTTP/1.1\r\n")
        assert sent_json(peer) == {
            "kind": "email",
            "to": MAIL.to,
            "subject": MAIL.subject,
            "text": MAIL.text,
            "html": MAIL.html,
            "message_id": MAIL.message_id,
        }

    def test_without_the_sandbox_it_sends_nothing(self, outbound: Outbound) -> None:
        assert opened({"name": "inbox", "kind": "inbox"}, outbound).send(MAIL).code == "sandbox_off"


class TestConfiguration:
    @pytest.mark.parametrize("kind", ["", "pigeon", None, 7])
    def test_unknown_kind(self, kind: object) -> None:
        with pytest.raises(Misconfigured, match="kind: must be one of smtp"):
            parse_channel({"name": "a", "kind": kind})

    def test_every_fault_is_named_at_once(self) -> None:
        with pytest.raises(Misconfigured) as caught:
            parse_channel(smtp(0, name="No Name", host="a b", security="maybe", password="hünter2", sender="nobody"))
        assert {fault.partition(":")[0] for fault in caught.value.faults} == {
            "name", "host", "port", "security", "password", "sender",
        }  # fmt: skip
        assert "hünter2" not in str(caught.value)

    @pytest.mark.parametrize("sender", ["a@b.example\r\nBcc: c@d.example", "a@b.example, c@d.example", "Acme", ""])
    def test_sender_must_be_one_address(self, sender: str) -> None:
        with pytest.raises(Misconfigured, match="sender"):
            parse_channel(smtp(25, sender=sender))

    def test_example_of_the_contract(self) -> None:
        assert parse_channel(smtp(2525, username="", password="")).message_kinds == {"email"}
        assert parse_channel(clickatell("https://platform.clickatell.com")).countries == ("ZA",)

    def test_secrets_are_in_no_representation(self) -> None:
        for table in (smtp(25, password=KEY), clickatell("https://a.example"), template("https://a.example")):
            config = parse_channel(table)
            assert KEY not in repr(config)
            assert config.model_dump().keys() >= config.SECRETS

    def test_only_known_kinds_have_secrets(self) -> None:
        ours = {
            "smtp": {"password"},
            "clickatell": {"api_key"},
            "http": {"headers", "secret"},
            "console": set(),
            "inbox": set(),
        }
        assert {name: set(KINDS[name].config_type.SECRETS) for name in ours} == ours
        assert {name for name in ours if KINDS[name].config_type.NEEDS_SANDBOX} == {"console", "inbox"}

    def test_destinations(self) -> None:
        assert parse_channel(smtp(587, host="Mail.Example", security="starttls")).destination == Destination(
            "mail.example", 587, 1
        )
        assert parse_channel(clickatell("https://A.example/x")).destination == Destination("a.example", 443, 2)
        assert parse_channel(template("http://a.example:81")).destination == Destination("a.example", 81, 0)

    def test_may_be_called_at_all(self) -> None:
        closed = Outbound(NetworkPolicy())
        parse_channel(clickatell("https://platform.clickatell.com")).check_way_out(closed)
        parse_channel({"name": "a", "kind": "console"}).check_way_out(closed)
        for table in (clickatell("http://a.example"), template("https://10.0.0.1"), smtp(22, host="mail.example")):
            with pytest.raises(Misconfigured):
                parse_channel(table).check_way_out(closed)


def _contract_tests() -> set[str]:
    """The kinds that a test of this folder holds against the contract, whatever its file is called."""
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"tests.gateways.{path.stem}")
    found, todo = set(), [ChannelContract]
    while todo:
        for test in todo.pop().__subclasses__():
            found.add(test.kind)
            todo.append(test)
    return found


@pytest.mark.parametrize("name", KINDS)
class TestEveryKind:
    """What a new kind brings in its own file, so that nothing else has to know of it."""

    def test_it_is_held_against_the_contract(self, name: str) -> None:
        assert name in _contract_tests()

    def test_it_has_words(self, name: str) -> None:
        words = KINDS[name].config_type.WORDS
        assert words.name
        assert words.about.endswith(".")

    def test_its_form_has_every_key_and_no_other(self, name: str) -> None:
        config_type = KINDS[name].config_type
        fields = [field.name for field in config_type.FORM]
        assert len(fields) == len(set(fields))
        assert set(fields) | {"name", "kind", "countries"} == config_type.model_fields.keys()  # email has no countries
        assert all(field.label for field in config_type.FORM)

    def test_its_secrets_are_secret_everywhere(self, name: str) -> None:
        config_type = KINDS[name].config_type
        assert {field.name for field in config_type.FORM if field.is_secret} == config_type.SECRETS
        assert {key for key, field in config_type.model_fields.items() if not field.repr} == config_type.SECRETS


class TestKeepingSecrets:
    """D4: a stored secret never goes to a changed address."""

    STORED = smtp(587, host="mail.example", security="starttls", password=KEY)

    @staticmethod
    def keeps(stored: dict[str, Any], changed: dict[str, Any]) -> bool:
        before: ChannelConfig = parse_channel(stored)
        return may_keep_secrets(before, parse_channel(changed))

    @pytest.mark.parametrize(
        ("change", "keeps"),
        [
            ({}, True),
            ({"sender": "other@acme.example"}, True),
            ({"host": "MAIL.example"}, True),
            ({"security": "tls"}, True),
            ({"security": "none"}, False),
            ({"host": "evil.example"}, False),
            ({"host": "mail.example.evil.example"}, False),
            ({"port": 2525}, False),
        ],
    )
    def test_mail(self, change: dict[str, Any], keeps: bool) -> None:
        assert self.keeps(self.STORED, self.STORED | change) is keeps

    @pytest.mark.parametrize(
        ("url", "keeps"),
        [
            ("https://a.example", True),
            ("https://a.example:443/other", True),
            ("http://a.example:443", False),
            ("https://b.example", False),
            ("https://a.example:444", False),
        ],
    )
    def test_gateways(self, url: str, keeps: bool) -> None:
        assert self.keeps(clickatell("https://a.example"), clickatell(url)) is keeps
        assert self.keeps(template("https://a.example"), template(url)) is keeps

    def test_other_kind(self) -> None:
        assert not self.keeps(clickatell("https://a.example"), template("https://a.example"))
