"""One callback to Flow: where it goes, and what each answer means."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Response

from auth_portal.errors import Misconfigured
from auth_portal.gateways.addresses import NetworkPolicy
from auth_portal.gateways.flow import REACHABLE, CallbackAnswer, Fate, FlowGateway, fate_of, retry_after
from auth_portal.gateways.outbound import Outbound
from tests.receiver import wait_for

LOCAL = "127.0.0.1"
NOW = datetime(2026, 11, 22, 19, 5, tzinfo=UTC)
REFERENCE = "f7_4hn5=8f&%#nK="
BODY = b'{"result":"verified"}'


@pytest.fixture
def flow(outbound: Outbound) -> FlowGateway:
    return FlowGateway(outbound, sandbox_url="http://127.0.0.1:8000/sandbox")


def send(flow: FlowGateway, server: str, *, now: datetime | None = NOW) -> CallbackAnswer:
    return flow.send(server, "external_link", REFERENCE, BODY, now=now)


class TestWhere:
    @pytest.mark.parametrize(
        ("server", "base"),
        [
            ("production", "https://flow-callback.clickatell.com"),
            ("uat", "https://control-callback-uat.payd.co"),
            ("sandbox", "http://127.0.0.1:8000/sandbox"),
            ("https://flow.example", "https://flow.example"),
            ("https://flow.example:8443/", "https://flow.example:8443"),
            ("https://flow.example/base//", "https://flow.example/base"),
        ],
    )
    def test_base_url_has_no_trailing_slash(self, flow: FlowGateway, server: str, base: str) -> None:
        assert flow.origin_of(server) == base

    @pytest.mark.parametrize(
        "server", ["", "staging", "flow.example", "ftp://flow.example", "https://flow.example?a=b"]
    )
    def test_what_is_no_server(self, flow: FlowGateway, server: str) -> None:
        with pytest.raises(Misconfigured):
            flow.origin_of(server)
        assert send(flow, server).fate is Fate.REFUSED

    def test_sandbox_while_it_is_off(self, outbound: Outbound) -> None:
        flow = FlowGateway(outbound, sandbox_url="")
        with pytest.raises(Misconfigured, match="off"):
            flow.origin_of("sandbox")
        assert send(flow, "sandbox").fate is Fate.REFUSED
        assert "off" in flow.ping("sandbox")

    @pytest.mark.parametrize(
        ("contract", "path"), [("external_link", "/callback"), ("wait_for_callback", "/chat/callback")]
    )
    @pytest.mark.parametrize("slash", ["", "/"])
    def test_contract_chooses_the_path(
        self, flow: FlowGateway, serve: Any, contract: str, path: str, slash: str
    ) -> None:
        peer = serve.answering(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        answer = flow.send(peer.url + slash, contract, REFERENCE, BODY, now=NOW)
        assert answer == CallbackAnswer(Fate.ACCEPTED, 202, "HTTP 202", None)
        head, _, body = peer.received.partition(b"\r\n\r\n")
        assert head.startswith(f"POST {path} HTTP/1.1\r\n".encode())
        assert f"\r\nreference: {REFERENCE}\r\n".encode() in head + b"\r\n"
        assert b"\r\nContent-Type: application/json\r\n" in head
        assert b"\r\nUser-Agent: AuthPortal\r\n" in head
        assert body == BODY

    def test_sandbox_is_called_below_its_path(self, httpserver: HTTPServer) -> None:
        url = httpserver.url_for("/sandbox")
        httpserver.expect_request("/sandbox/callback", method="POST").respond_with_data("")
        flow = FlowGateway(Outbound(NetworkPolicy(sandbox_origin=url)), sandbox_url=url)
        assert send(flow, "sandbox").fate is Fate.ACCEPTED


class TestWhatItMeans:
    @pytest.mark.parametrize(
        ("status", "fate"),
        [
            *[(status, Fate.ACCEPTED) for status in (200, 201, 202, 204, 299)],
            *[(status, Fate.RETRY) for status in (408, 425, 429, 500, 501, 503, 505, 599)],
            *[(status, Fate.UNCLEAR) for status in (502, 504)],
            *[
                (status, Fate.REFUSED)
                for status in (300, 301, 302, 307, 308, 400, 401, 403, 404, 405, 409, 410, 413, 422)
            ],
        ],
    )
    def test_status(self, flow: FlowGateway, httpserver: HTTPServer, status: int, fate: Fate) -> None:
        httpserver.expect_request("/callback").respond_with_data(
            "", status, {"Location": httpserver.url_for("/canary")}
        )
        answer = send(flow, httpserver.url_for(""))
        assert (answer.fate, answer.status) == (fate, status)
        assert len(httpserver.log) == 1

    @given(st.integers(100, 999))
    def test_every_status_has_one(self, status: int) -> None:
        assert (fate_of(status) is Fate.ACCEPTED) == (200 <= status < 300)

    def test_nobody_there_is_worth_another_attempt(self, flow: FlowGateway, dead_port: int) -> None:
        answer = send(flow, f"http://{LOCAL}:{dead_port}")
        assert (answer.fate, answer.status) == (Fate.RETRY, None)
        assert "refused" in answer.reason

    def test_lost_reply_is_unclear(self, flow: FlowGateway, serve: Any) -> None:
        peer = serve(lambda peer, connection: peer.read_request(connection))
        assert send(flow, peer.url).fate is Fate.UNCLEAR
        assert peer.connections == 1

    @pytest.mark.usefixtures("clock")
    def test_callbacks_that_follow_each_other_share_a_connection(self, flow: FlowGateway, serve: Any) -> None:
        """It is used for both contracts, and a server that closes it takes the next callback on another one."""

        def behave(peer: Any, connection: Any) -> None:
            for _ in range(3):
                peer.read_request(connection)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        peer = serve(behave)
        for contract in ["external_link", "wait_for_callback"] * 3:
            assert flow.send(peer.url, contract, REFERENCE, BODY).fate is Fate.ACCEPTED
            wait_for(lambda: peer.ended == len(peer.requests) // 3)
        assert (peer.connections, len(peer.requests)) == (2, 6)

    def test_address_that_is_not_allowed_is_refused(self) -> None:
        flow = FlowGateway(Outbound(NetworkPolicy(), resolve=lambda host, port: ["10.0.0.1"]), sandbox_url="")
        for server in ("https://flow.example", "http://flow.example", "https://127.0.0.1"):
            answer = send(flow, server)
            assert answer.fate is Fate.REFUSED
            assert answer.reason.startswith("address not allowed")

    @pytest.mark.parametrize("reference", ["a\r\nX: y", "\0", "ż", "x" * 70_000])
    def test_reference_that_cannot_be_sent_is_refused_and_not_repeated(self, serve: Any, reference: str) -> None:
        peer = serve.answering(b"HTTP/1.1 200 OK\r\n\r\n")
        flow = FlowGateway(Outbound(NetworkPolicy(allow_private=True)), sandbox_url="")
        answer = flow.send(peer.url, "external_link", reference, BODY)
        assert answer.fate is Fate.REFUSED
        assert reference not in answer.reason
        assert peer.connections == 0

    def test_reference_is_in_no_reason(self, flow: FlowGateway, httpserver: HTTPServer) -> None:
        httpserver.expect_request("/callback").respond_with_data(REFERENCE, 400)
        assert REFERENCE not in repr(send(flow, httpserver.url_for("")))


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("0", 0.0),
            ("17", 17.0),
            (" 17 ", 17.0),
            ("9" * 400, 999_999_999.0),
            ("Sun, 22 Nov 2026 19:05:30 GMT", 30.0),
            ("Sun, 22 Nov 2026 19:05:30 -0000", 30.0),
            ("Sunday, 22-Nov-26 19:05:30 GMT", 30.0),
            ("Sun, 22 Nov 2026 19:00:00 GMT", 0.0),
            ("", None),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("Sun, 99 Nov 2026 99:99:99 GMT", None),
            ("\xb2", None),
        ],
    )
    @pytest.mark.parametrize("status", [429, 503])
    def test_both_forms(self, flow: FlowGateway, serve: Any, status: int, text: str, seconds: float | None) -> None:
        peer = serve.answering(f"HTTP/1.1 {status} No\r\nRetry-After: {text}\r\n\r\n".encode("latin-1"))
        answer = send(flow, peer.url)
        assert (answer.fate, answer.retry_after_seconds) == (Fate.RETRY, seconds)

    @pytest.mark.parametrize("status", [200, 302, 400, 500, 502])
    def test_counts_only_where_it_means_waiting(self, flow: FlowGateway, httpserver: HTTPServer, status: int) -> None:
        response = Response("", status, {"Retry-After": "17"})
        httpserver.expect_request("/callback").respond_with_response(response)
        assert send(flow, httpserver.url_for("")).retry_after_seconds is None

    def test_date_without_a_clock_is_not_heeded(self, flow: FlowGateway, httpserver: HTTPServer) -> None:
        headers = {"Retry-After": "Sun, 22 Nov 2026 19:05:30 GMT"}
        httpserver.expect_request("/callback").respond_with_data("", 503, headers)
        assert send(flow, httpserver.url_for(""), now=None).retry_after_seconds is None

    @given(text=st.text(max_size=60))
    def test_nothing_in_it_breaks_anything(self, text: str) -> None:
        seconds = retry_after(text, NOW)
        assert seconds is None or seconds >= 0


class TestPing:
    def test_reachable_and_nothing_posted(self, flow: FlowGateway, serve: Any) -> None:
        peer = serve(lambda peer, connection: peer.read_request(connection))
        assert flow.ping(peer.url) == REACHABLE
        assert peer.received == b""

    def test_says_why_not(self, flow: FlowGateway, dead_port: int, serve: Any, certified: Any) -> None:
        context: ssl.SSLContext = certified("other.example")

        def behave(peer: Any, connection: Any) -> None:
            context.wrap_socket(connection, server_side=True)

        assert "refused" in flow.ping(f"http://{LOCAL}:{dead_port}")
        assert "certificate" in flow.ping(f"https://{LOCAL}:{serve(behave).port}")
        assert "The address" in flow.ping("nowhere")
