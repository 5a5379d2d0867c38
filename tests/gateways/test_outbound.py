"""The way out: where it leads, where it does not, and that it always ends in time (D2, D4)."""

from __future__ import annotations

import contextlib
import gzip
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer

from auth_portal.errors import Misconfigured
from auth_portal.gateways.addresses import NetworkPolicy, is_public
from auth_portal.gateways.outbound import Outbound
from auth_portal.gateways.way_out import Blocked, HttpAnswer, NotReached, OutboundError, Unclear, Untrusted
from auth_portal.settings import Settings, read_settings
from tests.gateways.conftest import Clock
from tests.receiver import wait_for

LOCAL = "127.0.0.1"
OPEN = NetworkPolicy(allow_private=True)
OK = b"HTTP/1.1 200 OK\r\n"
NOTHING = OK + b"Content-Length: 0\r\n\r\n"
A_MINUTE: dict[str, Any] = {"connect_seconds": 60, "total_seconds": 60}
SHORT_SECONDS = 0.3  # total time given to requests that are expected to run out of it
ENDLESS = b"x" * 50_000  # a drip of more bytes than are taken in the time, or before a test is given up
SLACK_SECONDS = 30  # what a busy machine may add; what is waited for never comes


def post(outbound: Outbound, url: str, **options: Any) -> HttpAnswer:
    return outbound.request("POST", url, **{"headers": {}, "body": b"{}", **options})


@contextlib.contextmanager
def in_time(seconds: float = SHORT_SECONDS) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds + SLACK_SECONDS


class TestTheRequest:
    def test_goes_out_as_given_and_comes_back_whole(self, outbound: Outbound, serve: Any) -> None:
        peer = serve.answering(OK, b"X-Kind: a\r\nContent-Length: 2\r\n\r\nhi")
        answer = post(outbound, f"{peer.url}/callback?x=1", headers={"reference": "f7&%#nK="}, body=b'{"a":1}')
        assert (answer.status, answer.headers["x-kind"], answer.body, answer.is_whole) == (200, "a", b"hi", True)
        assert peer.received.startswith(b"POST /callback?x=1 HTTP/1.1\r\n")
        assert peer.received.endswith(b'\r\n\r\n{"a":1}')
        for line in (
            f"Host: {LOCAL}:{peer.port}",
            "reference: f7&%#nK=",
            "User-Agent: AuthPortal",
            "Connection: close",
        ):
            assert f"\r\n{line}\r\n".encode() in peer.received

    def test_asks_for_no_packed_answer_and_unpacks_none(self, outbound: Outbound, serve: Any) -> None:
        packed = gzip.compress(bytes(100_000))
        peer = serve.answering(OK, b"Content-Encoding: gzip\r\n\r\n", packed)
        assert post(outbound, peer.url).body == packed
        assert b"Accept-Encoding: identity\r\n" in peer.received

    def test_redirect_is_an_answer_and_is_not_followed(self, outbound: Outbound, httpserver: HTTPServer) -> None:
        canary = httpserver.url_for("/canary")
        httpserver.expect_request("/start").respond_with_data("", 302, {"Location": canary})
        assert post(outbound, httpserver.url_for("/start")).status == 302
        assert [request.path for request, _ in httpserver.log] == ["/start"]

    @pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\0b", "a\x7fb", "€", "\ud800", " a", "a ", "x" * 70_000])
    def test_header_that_http_cannot_carry_is_refused_unsent(self, outbound: Outbound, serve: Any, value: str) -> None:
        peer = serve.answering(OK, b"\r\n")
        with pytest.raises(Blocked) as caught:
            post(outbound, peer.url, headers={"reference": value})
        assert value not in caught.value.reason
        assert peer.connections == 0

    @pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "é"])
    def test_header_name_must_be_one(self, outbound: Outbound, name: str) -> None:
        with pytest.raises(Blocked):
            post(outbound, "http://127.0.0.1:9/", headers={name: "x"})

    def test_proxy_variables_of_the_environment_are_ignored(
        self, outbound: Outbound, serve: Any, dead_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{LOCAL}:{dead_port}")
        assert post(outbound, serve.answering(OK, b"\r\n").url).status == 200


@pytest.fixture(scope="module")
def echo_of_header() -> Iterator[tuple[str, list[bytes]]]:
    """A server that keeps the raw bytes of each request's head."""
    heads: list[bytes] = []
    listener = socket.create_server((LOCAL, 0), backlog=100)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                data = b""
                while not data.endswith(b"\r\n\r\n") and (piece := connection.recv(65536)):
                    data += piece
                heads.append(data)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"http://{LOCAL}:{listener.getsockname()[1]}", heads
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


@settings(max_examples=80)
@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=512))
def test_r34_every_printable_reference_arrives_byte_for_byte(
    outbound: Outbound, echo_of_header: tuple[str, list[bytes]], reference: str
) -> None:
    url, heads = echo_of_header
    post(outbound, url, headers={"reference": reference}, body=b"")
    assert f"\r\nreference: {reference}\r\n".encode() in heads[-1]


class HastyTime:
    """``time`` for the way out: a second passes between any two looks at it, so that no test depends on speed."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        self.now += 1
        return self.now


class TestTime:
    """D2: 8 s in all, whatever drips."""

    @pytest.fixture
    def _hasty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("auth_portal.gateways.outbound.time", HastyTime())

    def test_slow_answer_within_the_time_is_taken(self, outbound: Outbound, serve: Any) -> None:
        def behave(peer: Any, connection: socket.socket) -> None:
            peer.read_request(connection)
            peer.drip(connection, OK + b"Content-Length: 2\r\n\r\nhi", pause_seconds=0.002)

        answer = post(outbound, serve(behave).url, **A_MINUTE)
        assert (answer.body, answer.is_whole) == (b"hi", True)

    @pytest.mark.usefixtures("_hasty")
    @pytest.mark.parametrize("start", [b"", OK, OK + b"X: "])
    def test_dripping_head_ends_at_the_deadline(self, outbound: Outbound, serve: Any, start: bytes) -> None:
        def behave(peer: Any, connection: socket.socket) -> None:
            peer.read_request(connection)
            connection.sendall(start)
            peer.drip(connection, ENDLESS)

        with pytest.raises(Unclear):
            post(outbound, serve(behave).url, **A_MINUTE)

    @pytest.mark.usefixtures("_hasty")
    @pytest.mark.parametrize("framing", [b"", b"Content-Length: 100000\r\n"])
    def test_dripping_body_is_cut_and_its_status_stands(self, outbound: Outbound, serve: Any, framing: bytes) -> None:
        def behave(peer: Any, connection: socket.socket) -> None:
            peer.read_request(connection)
            connection.sendall(OK + framing + b"\r\n")
            peer.drip(connection, ENDLESS)

        answer = post(outbound, serve(behave).url, **A_MINUTE)
        assert (answer.status, answer.is_whole) == (200, False)
        assert 0 < len(answer.body) < 100_000

    @pytest.mark.usefixtures("_hasty")
    def test_dripping_over_tls_ends_as_well(self, outbound: Outbound, serve: Any, local_tls: ssl.SSLContext) -> None:
        def behave(peer: Any, connection: socket.socket) -> None:
            with local_tls.wrap_socket(connection, server_side=True) as tls:
                peer.read_request(tls)
                peer.drip(tls, OK + b"X: " + ENDLESS)

        with pytest.raises(Unclear):
            post(outbound, f"https://{LOCAL}:{serve(behave).port}/", **A_MINUTE)

    def test_handshake_that_hangs_reached_nobody(self, outbound: Outbound, serve: Any) -> None:
        peer = serve(lambda peer, connection: peer.stop.wait())
        with in_time(), pytest.raises(NotReached):
            post(outbound, f"https://{LOCAL}:{peer.port}/", total_seconds=SHORT_SECONDS)

    def test_name_server_that_hangs_reached_nobody(self) -> None:
        release = threading.Event()

        def hang(host: str, port: int) -> list[str]:
            release.wait()
            return [LOCAL]

        outbound = Outbound(OPEN, resolve=hang)
        with in_time(0.1), pytest.raises(NotReached):
            post(outbound, "https://flow.example/", connect_seconds=0.1)
        release.set()

    def test_a_peer_that_reads_nothing_does_not_hold_the_sender(self, outbound: Outbound, serve: Any) -> None:
        peer = serve(lambda peer, connection: peer.stop.wait())
        with in_time(), pytest.raises(Unclear):
            post(outbound, peer.url, body=bytes(50_000_000), total_seconds=SHORT_SECONDS)


class TestSize:
    def test_endless_body_is_cut_at_64_kib(self, outbound: Outbound, serve: Any) -> None:
        def behave(peer: Any, connection: socket.socket) -> None:
            peer.read_request(connection)
            connection.sendall(OK + b"\r\n")
            while not peer.stop.is_set():
                connection.sendall(bytes(65536))

        with in_time():
            answer = post(outbound, serve(behave).url, total_seconds=60)
        assert (answer.status, answer.is_whole) == (200, False)
        assert 60_000 < len(answer.body) <= 65536

    @pytest.mark.parametrize("line", [b"X: y\r\n", b"x" * 1000, b"HTTP/1.1 100 Continue\r\n\r\n"])
    def test_endless_head_is_cut(self, outbound: Outbound, serve: Any, line: bytes) -> None:
        def behave(peer: Any, connection: socket.socket) -> None:
            peer.read_request(connection)
            connection.sendall(b"" if line.startswith(b"HTTP") else OK)
            while not peer.stop.is_set():
                connection.sendall(line * 100)

        with in_time(), pytest.raises(Unclear):
            post(outbound, serve(behave).url, total_seconds=60)


class TestFate:
    """Whether the other side can have received anything."""

    def test_nobody_listens(self, outbound: Outbound, dead_port: int) -> None:
        with pytest.raises(NotReached, match="refused"):
            post(outbound, f"http://{LOCAL}:{dead_port}/")

    def test_lost_reply_is_unclear_and_nothing_is_sent_twice(self, outbound: Outbound, serve: Any) -> None:
        peer = serve(lambda peer, connection: peer.read_request(connection))
        with pytest.raises(Unclear):
            post(outbound, peer.url)
        assert peer.connections == 1

    def test_reset_before_the_request_was_read_is_unclear(self, outbound: Outbound, serve: Any) -> None:
        def reset(peer: Any, connection: socket.socket) -> None:
            connection.recv(1)  # a reset before the request began would be a connection that never was
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        peer = serve(reset)
        with pytest.raises(Unclear):
            post(outbound, peer.url, body=bytes(200_000))
        assert peer.connections == 1

    def test_a_request_has_its_own_connection(self, outbound: Outbound, serve: Any) -> None:
        peer = serve.answering(OK, b"Content-Length: 0\r\nConnection: keep-alive\r\n\r\n")
        post(outbound, peer.url)
        post(outbound, peer.url)
        assert peer.connections == 2

    def test_name_that_does_not_exist(self) -> None:
        def fail(host: str, port: int) -> list[str]:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")

        for outbound in (Outbound(OPEN, resolve=fail), Outbound(OPEN, resolve=lambda host, port: [])):
            with pytest.raises(NotReached) as caught:
                post(outbound, "https://flow.example/")
            assert not isinstance(caught.value, Blocked)

    @settings(max_examples=60)
    @given(garbage=st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: OK + tail)))
    def test_whatever_comes_back_it_is_an_answer_or_unclear(self, outbound: Outbound, garbage: bytes) -> None:
        with socket.create_server((LOCAL, 0)) as listener:

            def behave() -> None:
                with contextlib.suppress(OSError), listener.accept()[0] as connection:
                    connection.recv(65536)
                    connection.sendall(garbage)

            thread = threading.Thread(target=behave)
            thread.start()
            with contextlib.suppress(Unclear):
                post(outbound, f"http://{LOCAL}:{listener.getsockname()[1]}/", total_seconds=60)
            thread.join()


def talk(*answers: bytes, tls: ssl.SSLContext | None = None) -> Callable[[Any, socket.socket], None]:
    """A server that answers each request on a connection, with the last answer again and again, until it is left."""

    def behave(peer: Any, connection: socket.socket) -> None:
        left = list(answers)
        with tls.wrap_socket(connection, server_side=True) if tls else connection as line:
            while peer.read_request(line):
                line.sendall(left.pop(0) if len(left) > 1 else left[0])

    return behave


@pytest.mark.usefixtures("clock")
class TestKeepAlive:
    """A connection serves again only within a second, and only if nothing about it is in doubt."""

    @staticmethod
    def post(outbound: Outbound, url: str, **options: Any) -> HttpAnswer:
        return post(outbound, url, **{"keeps_alive": True, **A_MINUTE, **options})

    @pytest.mark.parametrize(
        "answer",
        [
            OK + b"Content-Length: 2\r\n\r\nhi",
            OK + b"Content-Length: 2\r\nConnection: Keep-Alive\r\nKeep-Alive: timeout=15, max=100\r\n\r\nhi",
            OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nhi",
        ],
    )
    def test_requests_within_a_second_share_a_connection(
        self, outbound: Outbound, serve: Any, clock: Clock, answer: bytes
    ) -> None:
        peer = serve(talk(answer))
        for number in range(4):
            body = str(number).encode()
            assert self.post(outbound, f"{peer.url}/{number}", body=body).body == b"hi"
            assert peer.received.startswith(f"POST /{number} HTTP/1.1\r\n".encode())
            assert peer.received.endswith(b"\r\n\r\n" + body)
            assert b"Connection: close" not in peer.received
            clock.now += 0.99
        assert (peer.connections, len(peer.requests)) == (1, 4)

    @pytest.mark.parametrize("url", ["/callback", '/a"b?x=<1>&y=%41', "?x=1"])
    def test_the_next_request_has_the_bytes_of_the_first(self, outbound: Outbound, serve: Any, url: str) -> None:
        peer = serve(talk(NOTHING))
        for body in (b"{}", b"", b'{"reference": "f7"}' * 500):
            for _ in range(2):
                self.post(outbound, peer.url + url, headers={"reference": "f7&%#\xa0K=", "X-Empty": ""}, body=body)
            assert peer.requests[-1] == peer.requests[-2].replace(b"Connection: close\r\n", b"")
        assert peer.connections == 1

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.1 503 Busy\r\nRetry-After:  7 \r\ncontent-length: 2\r\n\r\nhi",
            b"HTTP/1.1 200 \xe9t\xe9\r\nX-Kind: \xe9\r\nContent-Length: 2\r\n\r\nhi",
            OK + b"X-Kind: a\r\n b\r\nContent-Length: 2\r\n\r\nhi",
            OK + b"X-Kind: a\r\nx-kind: b\r\nContent-Length: 2\r\n\r\nhi",
            OK + b"X-Kind: a\nContent-Length: 2\n\nhi",
            OK + b"Content-Length: 02\r\n\r\nhi",
            OK + b"Content-Length: 9000\r\n\r\n" + b"x" * 9000,
            OK + b"X: " + b"y" * 9000 + b"\r\nContent-Length: 2\r\n\r\nhi",
            OK + b"Content-Length: 2\r\n\r\nhi" + OK,
            OK + b"X: y\r\n" * 60 + b"Content-Length: 2\r\n\r\nhi",
        ],
    )
    def test_an_answer_is_read_alike_on_a_new_connection_and_a_used_one(
        self, outbound: Outbound, serve: Any, answer: bytes
    ) -> None:
        alone = self.post(outbound, serve(talk(answer)).url)
        peer = serve(talk(NOTHING, answer))
        self.post(outbound, peer.url)
        found = self.post(outbound, peer.url)
        assert peer.connections == 1
        assert (found.status, found.body, found.is_whole) == (alone.status, alone.body, alone.is_whole)
        headers = [[(name, value.split()) for name, value in one.headers.items()] for one in (found, alone)]
        assert headers[0] == headers[1]

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(garbage=st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: OK + tail)))
    def test_whatever_comes_next_it_is_an_answer_or_unclear(
        self, outbound: Outbound, serve: Any, garbage: bytes
    ) -> None:
        def behave(peer: Any, connection: socket.socket) -> None:
            peer.read_request(connection)
            connection.sendall(NOTHING)
            peer.read_request(connection)
            connection.sendall(garbage)

        peer = serve(behave)
        self.post(outbound, peer.url)
        with contextlib.suppress(Unclear):
            self.post(outbound, peer.url)
        assert (peer.connections, len(peer.requests)) == (1, 2)

    def test_over_tls_too(self, outbound: Outbound, serve: Any, local_tls: ssl.SSLContext) -> None:
        peer = serve(talk(NOTHING, tls=local_tls))
        for _ in range(3):
            assert self.post(outbound, f"https://{LOCAL}:{peer.port}/").status == 200
        assert (peer.connections, len(peer.requests)) == (1, 3)

    def test_not_after_a_second_of_rest(self, outbound: Outbound, serve: Any, clock: Clock) -> None:
        peer = serve(talk(NOTHING))
        self.post(outbound, peer.url)
        clock.now += 1
        self.post(outbound, peer.url)
        assert peer.connections == 2

    def test_not_after_ten_seconds_in_all(self, outbound: Outbound, serve: Any, clock: Clock) -> None:
        peer = serve(talk(NOTHING))
        counts = []
        for _ in range(13):
            self.post(outbound, peer.url)
            counts.append(peer.connections)
            clock.now += 0.9
        assert counts == [1] * 12 + [2]

    def test_is_closed_by_itself(self, outbound: Outbound, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("auth_portal.gateways.outbound.time", time)
        is_left = threading.Event()

        def behave(peer: Any, connection: socket.socket) -> None:
            talk(NOTHING)(peer, connection)
            is_left.set()

        self.post(outbound, serve(behave).url)
        assert is_left.wait(60)

    @pytest.mark.parametrize(
        "answer",
        [
            OK + b"Content-Length: 2\r\nConnection: close\r\n\r\nhi",
            OK + b"Content-Length: 2\r\nConnection: keep-alive\r\nConnection: Close\r\n\r\nhi",
            OK + b"Content-Length: 2\r\nConnection: upgrade\r\n\r\nhi",
            OK + b"Content-Length: 2\r\nKeep-Alive: timeout=1\r\n\r\nhi",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi",
            b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.1 101 Switching Protocols\r\nContent-Length: 0\r\n\r\n",
            OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
            OK + b"Content-Length: +2\r\n\r\nhi",
            OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            OK + b"Transfer-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi",
            OK + b"Content-Length: 2\r\n\r\nhi" + OK,
            OK + b"Content-Length: 2\r\n\r\nhi" + b"x" * 9_000,
            (OK + b"Content-Length: 8151\r\n\r\n").ljust(8192, b"h") + b"x",  # more than one read takes
            OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n\r\n",
        ],
    )
    @pytest.mark.parametrize("is_tls", [False, True])
    def test_not_after_an_answer_that_leaves_a_doubt(
        self, outbound: Outbound, serve: Any, local_tls: ssl.SSLContext, answer: bytes, is_tls: bool
    ) -> None:
        peer = serve(talk(answer, tls=local_tls if is_tls else None))
        url = f"https://{LOCAL}:{peer.port}/" if is_tls else peer.url
        first, second = self.post(outbound, url), self.post(outbound, url)
        assert (first.status, first.body) == (second.status, second.body)
        assert (peer.connections, len(peer.requests)) == (2, 2)

    @pytest.mark.parametrize(
        ("answer", "bound"),
        [
            (OK + b"Content-Length: 2\r\n\r\nh", {"total_seconds": SHORT_SECONDS}),
            (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", {"total_seconds": SHORT_SECONDS}),
            (b"HTTP/1.1 400 No\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000, {"answer_bytes": 500}),
        ],
    )
    def test_not_after_a_body_that_was_not_read_whole(
        self, outbound: Outbound, serve: Any, answer: bytes, bound: dict[str, Any]
    ) -> None:
        peer = serve(talk(answer, NOTHING))
        assert not self.post(outbound, peer.url, **bound).is_whole
        self.post(outbound, peer.url, **bound)
        assert (peer.connections, len(peer.requests)) == (2, 2)

    def test_not_after_a_lost_answer(self, outbound: Outbound, serve: Any) -> None:
        peer = serve(talk(b"HTTP/1.1 2"))
        for _ in range(2):
            with pytest.raises(Unclear):
                self.post(outbound, peer.url, total_seconds=SHORT_SECONDS)
        assert peer.connections == 2

    def test_not_where_one_of_two_requests_did_not_ask_for_it(self, outbound: Outbound, serve: Any) -> None:
        peer = serve(talk(NOTHING))
        post(outbound, peer.url)
        self.post(outbound, peer.url)
        post(outbound, peer.url)
        assert peer.connections == 3

    def test_not_for_another_origin(self, serve: Any) -> None:
        one, other = serve(talk(NOTHING)), serve(talk(NOTHING))
        outbound = Outbound(OPEN, resolve=lambda host, port: [LOCAL])
        for url in (one.url, other.url, f"http://flow.test:{one.port}", one.url, other.url):
            self.post(outbound, url)
        assert (one.connections, other.connections) == (2, 1)

    def test_not_where_another_rule_let_it_through(self, serve: Any) -> None:
        """The sandbox of a server that is also a private target: same address, another reason."""
        peer = serve(talk(NOTHING))
        policy = NetworkPolicy(private_targets=frozenset({(LOCAL, peer.port)}), sandbox_origin=f"{peer.url}/sandbox")
        outbound = Outbound(policy)
        self.post(outbound, f"{peer.url}/sandbox/callback")
        self.post(outbound, f"{peer.url}/callback")
        assert peer.connections == 2

    @pytest.mark.parametrize("how", ["closes", "says goodbye", "resets", "says more"])
    @pytest.mark.parametrize("is_tls", [False, True])
    def test_what_the_server_does_meanwhile_leads_to_a_new_connection(
        self, outbound: Outbound, serve: Any, local_tls: ssl.SSLContext, how: str, is_tls: bool
    ) -> None:
        """One delivery for each callback, and none is unclear."""
        is_answered, is_done, may_end = threading.Event(), threading.Event(), threading.Event()

        def behave(peer: Any, connection: socket.socket) -> None:
            line = local_tls.wrap_socket(connection, server_side=True) if is_tls else connection
            with line:
                peer.read_request(line)
                line.sendall(NOTHING)
                if peer.connections > 1:
                    return
                is_answered.wait(60)
                if how == "says more":
                    line.sendall(NOTHING)
                elif how == "says goodbye" and isinstance(line, ssl.SSLSocket):
                    with contextlib.suppress(OSError):
                        line.settimeout(0.01)
                        line.unwrap()
                elif how == "says goodbye":
                    line.shutdown(socket.SHUT_WR)
                else:
                    linger = b"\1\0\0\0\0\0\0\0" if how == "resets" else bytes(8)
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    line.close()
                is_done.set()
                may_end.wait(60)

        peer = serve(behave)
        url = f"{'https' if is_tls else 'http'}://{LOCAL}:{peer.port}/"
        assert self.post(outbound, url).status == 200
        is_answered.set()
        assert is_done.wait(60)
        assert self.post(outbound, url).status == 200
        may_end.set()
        assert (peer.connections, len(peer.requests)) == (2, 2)

    def test_answer_lost_on_a_used_connection_is_unclear_and_nothing_is_sent_twice(
        self, outbound: Outbound, serve: Any
    ) -> None:
        def behave(peer: Any, connection: socket.socket) -> None:
            peer.read_request(connection)
            connection.sendall(NOTHING)
            peer.read_request(connection)

        peer = serve(behave)
        self.post(outbound, peer.url)
        with pytest.raises(Unclear):
            self.post(outbound, peer.url)
        assert (peer.connections, len(peer.requests)) == (1, 2)

    def test_nothing_leaves_on_it_after_the_deadline(self, outbound: Outbound, serve: Any, clock: Clock) -> None:
        peer = serve(talk(NOTHING))
        self.post(outbound, peer.url)
        with pytest.raises(NotReached):
            self.post(outbound, peer.url, deadline=clock.now)
        self.post(outbound, peer.url)
        assert len(peer.requests) == 2

    def test_each_request_has_its_own_time(self, outbound: Outbound, serve: Any, clock: Clock) -> None:
        def behave(peer: Any, connection: socket.socket) -> None:
            for _ in range(2):
                peer.read_request(connection)
                connection.sendall(NOTHING)
            peer.read_request(connection)
            clock.now += 5
            peer.drip(connection, OK + b"X: " + ENDLESS)

        peer = serve(behave)
        self.post(outbound, peer.url, total_seconds=0.5)
        clock.now += 0.9
        self.post(outbound, peer.url, total_seconds=60)
        with pytest.raises(Unclear):
            self.post(outbound, peer.url, total_seconds=5)
        assert (peer.connections, len(peer.requests)) == (1, 3)

    def test_each_answer_has_its_own_allowance(self, outbound: Outbound, serve: Any) -> None:
        peer = serve(talk(OK + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000))
        for _ in range(5):
            answer = self.post(outbound, peer.url, answer_bytes=1500)
            assert (len(answer.body), answer.is_whole) == (1000, True)
        assert not self.post(outbound, peer.url, answer_bytes=900).is_whole
        assert peer.connections == 1

    def test_threads_never_share_one_at_the_same_time(self, outbound: Outbound, serve: Any) -> None:
        def behave(peer: Any, connection: socket.socket) -> None:
            while request := peer.read_request(connection):
                body = request.rpartition(b"\r\n\r\n")[2]
                connection.sendall(OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

        peer = serve(behave)

        def call(name: str) -> list[bool]:
            sent = [f"{name} {number}".encode() for number in range(30)]
            return [self.post(outbound, peer.url, body=body).body == body for body in sent]

        with ThreadPoolExecutor(8) as threads:
            assert all(all(found) for found in threads.map(call, "abcdefgh"))
        assert peer.connections <= 8
        assert len(peer.requests) == 8 * 30

    def test_at_most_64_rest(self, outbound: Outbound, serve: Any) -> None:
        all_here, left = threading.Barrier(70), []

        def behave(peer: Any, connection: socket.socket) -> None:
            peer.read_request(connection)
            all_here.wait(60)
            connection.sendall(NOTHING)
            if not peer.read_request(connection):
                left.append(connection)

        peer = serve(behave)
        with ThreadPoolExecutor(70) as threads:
            assert all(
                answer.status == 200 for answer in threads.map(lambda _: self.post(outbound, peer.url), "x" * 70)
            )
        wait_for(lambda: len(left) == 6)

    def test_a_fork_takes_none_with_it(self, outbound: Outbound, serve: Any) -> None:
        peer = serve(talk(NOTHING))
        self.post(outbound, peer.url)
        if (child := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                self.post(outbound, peer.url)
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0) == (child, 0)
        assert peer.connections == 2
        self.post(outbound, peer.url)
        assert (peer.connections, len(peer.requests)) == (2, 3)


class TestCertificates:
    @pytest.fixture
    def serve_tls(self, serve: Any) -> Callable[[ssl.SSLContext], Any]:
        def start(context: ssl.SSLContext) -> Any:
            def behave(peer: Any, connection: socket.socket) -> None:
                with context.wrap_socket(connection, server_side=True) as tls:
                    peer.read_request(tls)
                    tls.sendall(OK + b"Content-Length: 0\r\n\r\n")

            return serve(behave)

        return start

    def test_right_one(self, outbound: Outbound, serve_tls: Any, local_tls: ssl.SSLContext) -> None:
        assert post(outbound, f"https://{LOCAL}:{serve_tls(local_tls).port}/").status == 200

    def test_unknown_authority(self, outbound: Outbound, serve_tls: Any, certified: Any) -> None:
        peer = serve_tls(certified(LOCAL, by=trustme.CA()))
        with pytest.raises(Untrusted, match="certificate"):
            post(outbound, f"https://{LOCAL}:{peer.port}/")
        assert peer.received == b""

    def test_wrong_name(self, outbound: Outbound, serve_tls: Any, certified: Any) -> None:
        peer = serve_tls(certified("other.example"))
        with pytest.raises(Untrusted):
            post(outbound, f"https://{LOCAL}:{peer.port}/")
        assert peer.received == b""

    def test_expired(self, outbound: Outbound, serve_tls: Any, certified: Any) -> None:
        peer = serve_tls(certified(LOCAL, not_after=datetime.now(UTC) - timedelta(days=1)))
        with pytest.raises(Untrusted, match="expired"):
            post(outbound, f"https://{LOCAL}:{peer.port}/")

    def test_no_tls_at_all(self, outbound: Outbound, serve: Any) -> None:
        peer = serve(lambda peer, connection: connection.sendall(b"220 hello\r\n"))
        with pytest.raises(NotReached, match="TLS"):
            post(outbound, f"https://{LOCAL}:{peer.port}/")

    def test_old_tls_is_refused(self, outbound: Outbound, serve_tls: Any, certified: Any) -> None:
        assert outbound.tls.minimum_version is ssl.TLSVersion.TLSv1_2
        assert outbound.tls.verify_mode is ssl.CERT_REQUIRED
        assert outbound.tls.check_hostname

    def test_checked_address_is_the_connected_one_and_the_name_stays(
        self, serve_tls: Any, certified: Any, ca_bundle: Path
    ) -> None:
        asked: list[str] = []

        def resolve(host: str, port: int) -> list[str]:
            asked.append(host)
            return [LOCAL] if len(asked) == 1 else ["10.0.0.1"]

        server_names: list[str | None] = []
        context = certified("flow.test")
        context.sni_callback = lambda sock, name, context: server_names.append(name)
        peer = serve_tls(context)
        policy = NetworkPolicy(private_targets=frozenset({("flow.test", peer.port)}), ca_bundle=ca_bundle)
        assert post(Outbound(policy, resolve=resolve), f"https://flow.test:{peer.port}/").status == 200
        assert asked == ["flow.test"]
        assert server_names == ["flow.test"]
        assert f"Host: flow.test:{peer.port}\r\n".encode() in peer.received

    def test_bundle_that_is_none(self, tmp_path: Path) -> None:
        path = tmp_path / "ca.pem"
        path.write_text("nothing")
        with pytest.raises(Misconfigured, match="PORTAL_CA_BUNDLE"):
            Outbound(NetworkPolicy(ca_bundle=path))


PRIVATE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.0",
    "100.64.0.1", "100.100.100.200", "100.127.255.255", "127.0.0.1", "127.255.0.1",
    "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:10.0.0.1", "::ffff:127.0.0.1",
    "::ffff:100.64.0.1", "::ffff:168.63.129.16", "::ffff:0:7f00:1",
    "64:ff9b::a00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:20::1",
    "2001:db8::1", "2002:7f00:1::1", "2002:808:808::1", "3fff::1", "4000::1",
    "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0",
    "fec0::1", "feff::1", "ff02::1", "ff0e::1",
]  # fmt: skip
PUBLIC = (
    "1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 168.63.129.17 223.255.255.254 ::ffff:8.8.8.8 2606:4700::1111 2a00::1"
)


class TestGuard:
    @pytest.mark.parametrize("address", PRIVATE)
    def test_d4_address_that_is_not_public_is_never_connected(self, address: str) -> None:
        assert not is_public(address)
        outbound = Outbound(NetworkPolicy(), resolve=lambda host, port: [address])
        with pytest.raises(Blocked):
            post(outbound, "https://flow.example/")
        with pytest.raises(Blocked):
            outbound.connect("mail.example", 25, connect_seconds=1, deadline=time.monotonic() + 1)

    @pytest.mark.parametrize("address", PUBLIC.split())
    def test_public_address(self, address: str) -> None:
        assert is_public(address)

    def test_ipv4_mapped_public_address_counts_as_itself(self) -> None:
        assert is_public("::ffff:1.1.1.1")
        assert not is_public("::ffff:192.168.1.1")

    @pytest.mark.parametrize(
        ("address", "is_allowed"),
        [
            ("10.20.0.5", True),
            ("10.21.0.5", False),
            ("::ffff:10.20.0.5", True),
            ("fd00:20::1", True),
            ("fd00::1", False),
        ],
    )
    def test_d4_a_network_that_the_operator_allows(self, address: str, is_allowed: bool) -> None:
        networks = tuple(map(ipaddress.ip_network, ("10.20.0.0/16", "fd00:20::/48")))
        policy = NetworkPolicy(private_networks=networks)
        host = f"[{address}]" if ":" in address else address
        assert policy.exempts(host, 25) is is_allowed
        for url in (f"https://{host}/", f"http://{host}:8080/"):
            if is_allowed:
                assert policy.target(url).is_exempt
            else:
                with pytest.raises(Blocked, match="PORTAL_PRIVATE_NETWORKS"):
                    policy.target(url)
        assert policy.allowed_ones([address, "1.1.1.1"]) == ([address, "1.1.1.1"] if is_allowed else ["1.1.1.1"])
        with pytest.raises(Blocked, match="PORTAL_PRIVATE_TARGETS"):
            policy.target("http://relay.example:8080/")  # a name needs https, wherever it leads

    @pytest.mark.parametrize("text", ["0.0.0.0/0", "8.8.8.0/24", "10.20.0.1/16", "relay", "10.20.0.0/33"])
    def test_d4_only_private_networks_can_be_allowed(self, text: str) -> None:
        with pytest.raises(Misconfigured, match="PORTAL_PRIVATE_NETWORKS"):
            read_settings({"PORTAL_PRIVATE_NETWORKS": text})

    def test_of_several_addresses_only_public_ones_are_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tried: list[str] = []

        def note(addresses: list[str], *_: object) -> None:
            tried.extend(addresses)
            raise NotReached("noted")

        monkeypatch.setattr("auth_portal.gateways.outbound._connect_one_of", note)
        outbound = Outbound(NetworkPolicy(), resolve=lambda host, port: ["10.0.0.1", "8.8.8.8", "::1"])
        with pytest.raises(NotReached):
            post(outbound, "https://flow.example/")
        assert tried == ["8.8.8.8"]

    @pytest.mark.parametrize(
        "url",
        [
            "http://flow.example",  # not encrypted
            "https://127.0.0.1",
            "https://localhost",
            "https://LOCALHOST.:8443",
            "https://a.localhost",
            "https://127.1",
            "https://2130706433",
            "https://0x7f.1",
            "https://0177.0.0.1",
            "https://[::1]",
            "https://[::ffff:127.0.0.1]",
            "https://169.254.169.254/latest/meta-data",
            "https://user:secret@flow.example",
            "https://flow.example\\@127.0.0.1",
            "https://flow.example#@127.0.0.1",
            "https://flow.example:0",
            "https://flow.example:65536",
            "https://flow.example:443:443",
            "https://flow example",
            "https://flow.example/\t",
            "https://flow.example\n",
            "https://flöw.example",
            "https://",
            "https://.",
            "https:flow.example",
            "//flow.example",
            "flow.example",
            "file:///etc/passwd",
            "ftp://flow.example",
            "gopher://flow.example",
            "",
        ],
    )
    def test_url_that_could_never_be_called(self, url: str) -> None:
        outbound = Outbound(NetworkPolicy())
        with pytest.raises(Misconfigured, match="The address"):
            outbound.check_origin(url)
        with pytest.raises(Blocked):
            post(outbound, url)

    @pytest.mark.parametrize(
        "url", ["https://flow.example", "https://Flow.example:8443/a/b?c=d", "https://8.8.8.8", "https://[2a00::1]:1/"]
    )
    def test_url_that_may_be_called(self, url: str) -> None:
        Outbound(NetworkPolicy()).check_origin(url)

    def test_private_target_is_exempt_exactly(self, serve: Any) -> None:
        peer = serve.answering(OK, b"\r\n")
        outbound = Outbound(NetworkPolicy(private_targets=frozenset({(LOCAL, peer.port)})))
        assert post(outbound, f"{peer.url}/any").status == 200
        for other in (f"http://{LOCAL}:{peer.port + 1}/", f"http://localhost:{peer.port}/", f"https://{LOCAL}/"):
            with pytest.raises(Blocked):
                post(outbound, other)

    def test_sandbox_is_exempt_exactly(self, serve: Any) -> None:
        peer = serve.answering(OK, b"\r\n")
        outbound = Outbound(NetworkPolicy(sandbox_origin=f"{peer.url}/sandbox"))
        assert post(outbound, f"{peer.url}/sandbox/callback").status == 200
        assert peer.connections == 1
        for other in ("/", "/sandboxes", "/sandbox/../admin", "/sandbox/%2e%2e/admin", "/sandbox/%2E./admin"):
            with pytest.raises(Blocked):
                post(outbound, peer.url + other)
        assert peer.connections == 1

    def test_allow_private_opens_everything(self, outbound: Outbound, serve: Any) -> None:
        assert post(outbound, serve.answering(OK, b"\r\n").url).status == 200

    def test_redirect_to_a_private_address_is_not_followed(self, serve: Any) -> None:
        canary = serve.answering(OK, b"\r\n")
        peer = serve.answering(b"HTTP/1.1 307 Go\r\nLocation: " + canary.url.encode() + b"\r\n\r\n")
        outbound = Outbound(NetworkPolicy(private_targets=frozenset({(LOCAL, peer.port)})))
        assert post(outbound, peer.url).status == 307
        assert canary.connections == 0

    def test_one_name_has_one_look_up_under_way(self) -> None:
        release, asked = threading.Event(), []

        def hang(host: str, port: int) -> list[str]:
            asked.append(host)
            release.wait()
            return ["10.0.0.1"]

        outbound = Outbound(NetworkPolicy(), resolve=hang)
        errors: list[OutboundError] = []

        def call() -> None:
            try:
                post(outbound, "https://flow.example/", connect_seconds=0.2)
            except OutboundError as error:
                errors.append(error)

        threads = [threading.Thread(target=call) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert asked == ["flow.example"]
        assert len(errors) == 10
        release.set()

    def test_a_literal_address_is_not_looked_up(self, serve: Any) -> None:
        def fail(host: str, port: int) -> list[str]:
            raise AssertionError(host)

        assert post(Outbound(OPEN, resolve=fail), serve.answering(OK, b"\r\n").url).status == 200

    def test_second_address_is_tried(self, serve: Any) -> None:
        peer = serve.answering(OK, b"\r\n")
        outbound = Outbound(OPEN, resolve=lambda host, port: ["::1", LOCAL])
        assert post(outbound, f"http://flow.test:{peer.port}/").status == 200


class TestReach:
    def test_connects_and_sends_no_request(self, outbound: Outbound, serve: Any, local_tls: ssl.SSLContext) -> None:
        taken: list[bytes] = []
        done = threading.Event()

        def behave(peer: Any, connection: socket.socket) -> None:
            with local_tls.wrap_socket(connection, server_side=True) as tls:
                with contextlib.suppress(OSError):
                    taken.append(tls.recv(100))
                done.set()

        outbound.reach(f"https://{LOCAL}:{serve(behave).port}/callback")
        assert done.wait(60)
        assert b"".join(taken) == b""

    def test_says_why_not(self, outbound: Outbound, dead_port: int) -> None:
        with pytest.raises(NotReached, match="refused"):
            outbound.reach(f"http://{LOCAL}:{dead_port}/")


class TestProxy:
    @pytest.fixture
    def proxy(self, serve: Any) -> Any:
        """A proxy that opens every way it is asked for on this machine, whatever the name."""

        def behave(peer: Any, connection: socket.socket) -> None:
            request = peer.read_request(connection)
            port = int(request.split()[1].rpartition(b":")[2])
            with socket.create_connection((LOCAL, port)) as beyond:
                connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
                back = threading.Thread(target=self._pump, args=(beyond, connection), daemon=True)
                back.start()
                self._pump(connection, beyond)
                back.join(5)

        return serve(behave)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)

    def test_https_goes_through_it_and_stays_verified(
        self, proxy: Any, serve: Any, certified: Any, ca_bundle: Path
    ) -> None:
        context = certified("flow.test")

        def behave(peer: Any, connection: socket.socket) -> None:
            with context.wrap_socket(connection, server_side=True) as tls:
                peer.read_request(tls)
                tls.sendall(OK + b"Content-Length: 2\r\n\r\nhi")

        peer = serve(behave)
        url = f"http://user:word@{LOCAL}:{proxy.port}"
        outbound = Outbound(NetworkPolicy(proxy=url, ca_bundle=ca_bundle))
        assert post(outbound, f"https://flow.test:{peer.port}/callback", headers={"reference": "r"}).body == b"hi"
        assert proxy.received.startswith(f"CONNECT flow.test:{peer.port} ".encode())
        assert b"Proxy-Authorization: Basic" in proxy.received
        assert b"Proxy-Authorization" not in peer.received
        with pytest.raises(Untrusted):
            post(outbound, f"https://other.test:{peer.port}/callback")
        outbound.reach(f"https://flow.test:{peer.port}/")

    @pytest.mark.usefixtures("clock")
    def test_tunnel_through_it_is_kept(self, proxy: Any, serve: Any, certified: Any, ca_bundle: Path) -> None:
        peer = serve(talk(NOTHING, tls=certified("flow.test")))
        outbound = Outbound(NetworkPolicy(proxy=proxy.url, ca_bundle=ca_bundle))
        for _ in range(3):
            assert post(outbound, f"https://flow.test:{peer.port}/callback", keeps_alive=True).status == 200
        assert (proxy.connections, peer.connections, len(peer.requests)) == (1, 1, 3)

    def test_refused_by_it_reached_nobody(self, serve: Any) -> None:
        proxy = serve.answering(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        with pytest.raises(NotReached, match="403"):
            post(Outbound(NetworkPolicy(proxy=proxy.url)), "https://flow.test/")

    def test_dripping_proxy_ends(self, serve: Any) -> None:
        def behave(peer: Any, connection: socket.socket) -> None:
            peer.read_request(connection)
            peer.drip(connection, b"HTTP/1.1 200 " + b"x" * 1000)

        with in_time(), pytest.raises(NotReached):
            post(Outbound(NetworkPolicy(proxy=serve(behave).url)), "https://flow.test/", total_seconds=SHORT_SECONDS)

    @pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "169.254.169.254", "0x7f.1"])
    def test_literal_address_is_still_guarded(self, proxy: Any, host: str) -> None:
        with pytest.raises(Blocked):
            post(Outbound(NetworkPolicy(proxy=proxy.url)), f"https://{host}/")
        assert proxy.connections == 0

    def test_sandbox_is_reached_without_it(self, serve: Any, dead_port: int) -> None:
        peer = serve.answering(OK, b"\r\n")
        policy = NetworkPolicy(proxy=f"http://{LOCAL}:{dead_port}", sandbox_origin=f"{peer.url}/sandbox")
        assert post(Outbound(policy), f"{peer.url}/sandbox/callback").status == 200


class TestMailHosts:
    @pytest.mark.parametrize("port", [25, 465, 587, 2525])
    def test_ports_of_mail(self, port: int) -> None:
        Outbound(NetworkPolicy()).check_mail_host("mail.example", port)

    @pytest.mark.parametrize(("host", "port"), [("mail.example", 22), ("mail.example", 443), (LOCAL, 25), ("::1", 25)])
    def test_others_need_the_operator(self, host: str, port: int) -> None:
        with pytest.raises(Misconfigured):
            Outbound(NetworkPolicy()).check_mail_host(host, port)
        with pytest.raises(Blocked):
            Outbound(NetworkPolicy()).connect(host, port, connect_seconds=1, deadline=time.monotonic() + 1)
        for policy in (OPEN, NetworkPolicy(private_targets=frozenset({(host, port)}))):
            Outbound(policy).check_mail_host(host, port)

    def test_connection_ends_at_its_deadline(
        self, outbound: Outbound, serve: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        peer = serve(lambda peer, connection: peer.drip(connection, ENDLESS))
        sock = outbound.connect(LOCAL, peer.port, connect_seconds=60, deadline=time.monotonic() + 60)
        monkeypatch.setattr("auth_portal.gateways.outbound.time", HastyTime(time.monotonic()))
        with sock, sock.makefile("rb") as lines, pytest.raises(TimeoutError):
            lines.readline()


class TestPolicy:
    def test_is_what_the_settings_say(self, ca_bundle: Path) -> None:
        given = {"sandbox": "on", "outbound_proxy": "http://proxy.example:3128", "private_targets": "mail.local:25"}
        policy = NetworkPolicy.from_settings(Settings.model_validate({**given, "ca_bundle": ca_bundle}))
        assert policy == NetworkPolicy(
            allow_private=False,
            private_targets=frozenset({("mail.local", 25)}),
            sandbox_origin="http://127.0.0.1:8000/sandbox",
            proxy="http://proxy.example:3128",
            ca_bundle=ca_bundle,
        )
        assert policy.exempts("MAIL.local.", 25)
        assert not policy.exempts("mail.local", 26)

    @pytest.mark.parametrize(
        ("url", "port"), [("https://flow.example", 443), ("http://flow.example", 80), ("http://flow.example:443", 443)]
    )
    def test_a_url_without_a_port_leads_to_that_of_its_scheme(self, url: str, port: int) -> None:
        assert OPEN.target(url).port == port

    @pytest.mark.parametrize("proxy", ["proxy.example:3128", "socks5://proxy.example", "http://"])
    def test_proxy_must_be_a_url(self, proxy: str) -> None:
        with pytest.raises(Misconfigured, match="PORTAL_OUTBOUND_PROXY"):
            NetworkPolicy.from_settings(Settings(outbound_proxy=proxy))
