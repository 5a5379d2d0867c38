"""The recipes for Caddy and HAProxy: no secret in what they write, the portal's page while it is away, one address."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.deploy.site import HOST, PAGES
from tests.deploy.test_nginx import ANSWERS, SECRET, SECRET_PATHS, Upstream, get
from tests.programs import ROOT
from tests.proxies import PLACES, UNPACKED
from tests.receiver import GIVE_UP_SECONDS
from tests.serving import free_port

RECIPES = {"caddy": ROOT / "deploy/caddy/Caddyfile", "haproxy": ROOT / "deploy/haproxy/haproxy.cfg"}


@dataclass(frozen=True)
class Proxy:
    """A running proxy with its recipe."""

    folder: Path
    port: int

    def ask(self, request: str) -> str:
        """What comes back for a request, to the end of the connection."""
        context = ssl.create_default_context(cafile=str(self.folder / "authority.pem"))
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=GIVE_UP_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as connection,
        ):
            connection.sendall(request.encode())
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return answer.decode(errors="replace")

    def written(self) -> str:
        """All that it wrote."""
        return "".join(path.read_text(errors="replace") for path in self.folder.glob("*.log"))


def rendered(name: str, folder: Path, port: int, upstream: Upstream) -> str:
    """The recipe with the places of this test; each of them must be found in it."""
    text = RECIPES[name].read_text(encoding="utf-8")
    own = f"127.0.0.1:{upstream.port}"
    places = {
        "caddy": {
            "verify.example.com {": f"{HOST} {{\n\tbind 127.0.0.1\n\ttls {folder}/chain.pem {folder}/key.pem",
            "{\n\t# These": f"{{\n\tadmin off\n\thttps_port {port}\n\tauto_https disable_redirects\n\t# These",
            "unix//run/auth-portal/web-1.sock unix//run/auth-portal/web-2.sock": own,
            "/var/log/caddy/auth-portal.access.log": f"{folder}/access.log",
            "/usr/share/auth-portal/pages": f"{folder}/pages",
            "lb_try_duration 3s": "lb_try_duration 100ms",
        },
        "haproxy": {
            "log /dev/log local0": "log stdout format raw local0",
            "bind :443 ssl crt /etc/haproxy/verify.example.com.pem": f"bind 127.0.0.1:{port} ssl crt {folder}/both.pem",
            "unix@/run/auth-portal/web-1.sock": own,
            "unix@/run/auth-portal/web-2.sock": own,
            "/usr/share/auth-portal/pages": f"{folder}/pages",
            "timeout server 120s": "timeout server 300ms",
        },
    }
    for old, new in places[name].items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def running(name: str, upstream: Upstream) -> Iterator[Proxy]:
    """The proxy with its recipe, in front of an upstream."""
    with tempfile.TemporaryDirectory() as made:
        folder, port = Path(made), free_port()
        shutil.copytree(PAGES, folder / "pages")
        authority = trustme.CA()
        certificate = authority.issue_cert(HOST)
        authority.cert_pem.write_to_path(str(folder / "authority.pem"))
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / "chain.pem"))
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
        file = folder / "recipe"
        file.write_text(rendered(name, folder, port, upstream))
        arguments = {"haproxy": ["-db", "-f"], "caddy": ["run", "--adapter", "caddyfile", "--config"]}[name]
        libraries = ":".join(str(path) for path in UNPACKED.glob("usr/lib/*-linux-gnu"))
        program = shutil.which(name, path=PLACES)
        assert program is not None, f"{name} is missing: deploy/system-packages unpacks it"
        with (folder / "output.log").open("wb") as log:
            process = subprocess.Popen(
                [program, *arguments, str(file)],
                env={**os.environ, "HOME": made, "LD_LIBRARY_PATH": libraries},
                stdout=log,
                stderr=log,
            )
        proxy, until = Proxy(folder, port), time.monotonic() + GIVE_UP_SECONDS
        try:
            while time.monotonic() < until:
                assert process.poll() is None, proxy.written()
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.01)
            yield proxy
        finally:
            process.terminate()
            process.wait(GIVE_UP_SECONDS)


@pytest.fixture(params=list(RECIPES))
def proxy(request: pytest.FixtureRequest) -> Iterator[tuple[Proxy, Upstream]]:
    upstream = Upstream()
    with running(request.param, upstream) as found:
        yield found, upstream
    upstream.over.set()


def test_no_secret_is_written_and_the_portals_page_comes_back(proxy: tuple[Proxy, Upstream]) -> None:
    found, upstream = proxy
    for kind in ANSWERS:
        upstream.kind = kind
        for path in SECRET_PATHS if kind in ("ok", "silent") else list(SECRET_PATHS)[:2]:
            if kind != "hangs":
                found.ask(get(path))
    upstream.kind = "silent"
    answer = found.ask(get(f"/j/a?reference={SECRET}"))
    assert answer[9:12] in ("502", "503")
    assert "Please try again in a minute" in answer
    assert found.written().count('"status":200') >= len(SECRET_PATHS)
    assert SECRET not in found.written()


def test_only_the_proxy_says_where_a_request_came_from(proxy: tuple[Proxy, Upstream]) -> None:
    found, upstream = proxy
    names = ("X-Forwarded-For", "X_Forwarded_For", "Forwarded")
    claims = "".join(f"{name}: 198.51.100.9\r\n" for name in names)
    assert found.ask(get("/", f"Host: {HOST}:{found.port}\r\n{claims}")).startswith("HTTP/1.1 200")
    head = upstream.requests[-1].decode()
    assert "198.51.100.9" not in head
    assert "x-forwarded-for: 127.0.0.1\r\n" in head.lower()
    assert f"host: {HOST}:{found.port}\r\n" in head.lower()
