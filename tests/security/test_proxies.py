"""The client's address behind real proxies and under the servers of the documents (R51)."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

from auth_portal.services.access.api_keys import WRONG_PER_MINUTE
from tests.proxies import found, proxy
from tests.receiver import GIVE_UP_SECONDS, Receiver
from tests.serving import Server, serving
from tests.world import CONFIG, STANDARD, configure

SPOOF = "198.51.100."
# Headers with which a client claims another address; {n} differs in each.
CLAIMS = [
    *(
        [f"{name}: {SPOOF}{{n}}"]
        for name in (
            "X_Forwarded_For", "x_forwarded_for", "X-Forwarded_For", "X_Forwarded-For", "X-FORWARDED-FOR", "Forwarded_For",
            "HTTP_X_FORWARDED_FOR", "X-Forwarded-For", "X-Real-IP", "X_Real_IP", "X-Client-IP", "True-Client-IP",
            "CF-Connecting-IP", "X-Original-Forwarded-For", "REMOTE_ADDR", "X.Forwarded.For",
        )
    ),
    [f"Forwarded: for={SPOOF}{{n}}"],
    [f"X-Forwarded-For: {SPOOF}{{n}}", f"X_Forwarded_For: {SPOOF}{{n}}"],
    [f"X_Forwarded_For: {SPOOF}{{n}}", f"X_Forwarded_For: {SPOOF}{{n}}, {SPOOF}9"],
    [f"X-Forwarded-For: {SPOOF}{{n}}", f"X-Forwarded-For: {SPOOF}{{n}}, {SPOOF}9"],
    [f"X-Forwarded-For: {SPOOF}{{n}},", "X-Forwarded-For: ,"],
    [f"X-Forwarded-For: {SPOOF}{{n}}:4711"],
    [f"X-Forwarded-For: [::ffff:{SPOOF}{{n}}]:4711"],
    ["X-Forwarded-For: \"", f"X-Forwarded-For: {SPOOF}{{n}}"],
    [f"X-Forwarded-For : {SPOOF}{{n}}"],
    [f"X-Forwarded-For:\t{SPOOF}{{n}}"],
    ["X-Ignored: 1", f"\tX-Forwarded-For: {SPOOF}{{n}}"],
    [f"Connection: close, X-Forwarded-For, {SPOOF}{{n}}", f"X_Forwarded_For: {SPOOF}{{n}}"],
    ["SCRIPT_NAME: /api", f"X_Forwarded_For: {SPOOF}{{n}}"],
]  # fmt: skip


def asked(origin: str, *headers: str) -> int:
    """The status of a call with a wrong key, and with these headers exactly as they are."""
    host, _, port = origin.removeprefix("http://").partition(":")
    lines = [
        "GET /api/v1/customers HTTP/1.1",
        "Host: portal.test",
        "Authorization: Bearer wrong",
        *headers,
        "Connection: close",
    ]
    with socket.create_connection((host, int(port)), timeout=GIVE_UP_SECONDS) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return int(answer.split()[1])


def test_r51_no_header_changes_the_address(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    """Behind each proxy, and alone, where this test appends what a proxy would."""
    configure(sqlite_url, receiver, CONFIG + STANDARD)
    settings = {"PORTAL_TRUSTED_PROXIES": "1", "PORTAL_PUBLIC_URL": "http://portal.test", "PORTAL_DISPATCH": "off"}
    with serving(Server(tmp_path, sqlite_url, settings=settings)) as server, ExitStack() as stack:
        appended = ["X-Forwarded-For: 127.0.0.1"]
        origins = {server.url: appended}
        origins |= {stack.enter_context(proxy(name, tmp_path, server.port)): [] for name in found()}
        assert {asked(origin, *own) for origin, own in origins.items()} == {401}
        for _ in range(WRONG_PER_MINUTE):
            asked(server.url, *appended)
        # Every client of this test has this address. One that could claim another would be judged again: 401.
        for origin, own in origins.items():
            for number, headers in enumerate([[], *CLAIMS]):
                status = asked(origin, *(header.format(n=number + 10) for header in headers), *own)
                assert status in {400, 429}, (origin, origins, headers)  # 400: refused as malformed


def test_r51_granian_reads_forwarded_alone(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    """It cannot tell X_Forwarded_For from X-Forwarded-For."""
    configure(sqlite_url, receiver, CONFIG + STANDARD)
    settings = {
        "PORTAL_TRUSTED_PROXIES": "1",
        "PORTAL_PUBLIC_URL": "http://portal.test",
        "PORTAL_PROXY_HEADER": "Forwarded",
    }
    with serving(Server(tmp_path, sqlite_url, server="granian", settings=settings)) as server:
        own = 'Forwarded: for="[2001:db8::1]:4711"'
        assert asked(server.url, "X-Forwarded-For: 127.0.0.1") == 503
        for _ in range(WRONG_PER_MINUTE):
            assert asked(server.url, own) == 401
        for number, headers in enumerate(CLAIMS):
            assert asked(server.url, *(header.format(n=number + 10) for header in headers), own) in {400, 429}, headers
