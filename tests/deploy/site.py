"""The nginx site of ``deploy/nginx`` in front of anything, on ports of this machine and with a certificate of its own.

Only places are changed in it: ports, paths and the host's name. Around it stands what Debian's own nginx.conf says of
logs, because what nginx writes there counts as well.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.programs import ROOT
from tests.proxies import PLACES, UNPACKED
from tests.receiver import GIVE_UP_SECONDS
from tests.serving import free_port

SITE = ROOT / "deploy" / "nginx" / "auth-portal.conf"
PAGES = ROOT / "deploy" / "nginx" / "pages"
HOST = "verify.example.com"
NGINX_CONF = """
daemon off; pid {folder}/nginx.pid; {user} worker_processes 1;
error_log {folder}/error.log;
events {{ }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  include {folder}/auth-portal.conf;
}}
"""


@dataclass(frozen=True)
class Site:
    """A running nginx with the site."""

    folder: Path
    port: int
    plain_port: int
    authority: Path
    host: str

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    def logs(self) -> str:
        """All that nginx wrote."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def errors(self) -> str:
        """What nginx wrote into its error logs."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*error.log")))

    def connect(self, *, name: str = "", plain: bool = False) -> socket.socket:
        """A connection, over TLS unless ``plain``, with this name in its first message."""
        connection = socket.create_connection(
            ("127.0.0.1", self.plain_port if plain else self.port), timeout=GIVE_UP_SECONDS
        )
        if plain:
            return connection
        context = ssl.create_default_context(cafile=str(self.authority))
        return context.wrap_socket(connection, server_hostname=name or self.host)

    def ask(self, request: str, **how: object) -> str:
        """Send a request exactly as it is; return all that came back, "" if nothing did."""
        with self.connect(**how) as connection:  # type: ignore[arg-type]
            connection.settimeout(GIVE_UP_SECONDS)
            answer = b""
            try:
                connection.sendall(request.encode())
                while not _is_whole(answer) and (part := connection.recv(65536)):
                    answer += part
            except (ConnectionError, ssl.SSLError):
                pass
        return answer.decode(errors="replace")


def _is_whole(answer: bytes) -> bool:
    """Whether an answer with a length is there: nginx may keep the connection for a while."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    return length is not None and len(body) >= int(length[1])


def rendered(folder: Path, host: str, port: int, plain_port: int, upstream: str, changes: Mapping[str, str]) -> str:
    """The site with the places of this test; each of ``changes`` must be found in it."""
    lines = [line for line in SITE.read_text(encoding="utf-8").splitlines() if "listen [::]" not in line]
    text = "\n".join(lines)
    places = {
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "listen 80": f"listen 127.0.0.1:{plain_port}",
        "server unix:/run/auth-portal/web-1.sock max_fails=0;": upstream.format(folder=folder),
        "server unix:/run/auth-portal/web-2.sock max_fails=0;": "",
        f"/etc/letsencrypt/live/{HOST}": str(folder),
        "/var/log/nginx": str(folder),
        "/usr/share/auth-portal/pages/": f"{folder}/pages/",
        "/run/auth-portal/unavailable.html": f"{folder}/unavailable.html",
        "/run/auth-portal-uploads": f"{folder}/uploads",
        HOST: host,
        **changes,
    }
    for old, new in places.items():
        assert old in text, old
        text = text.replace(old, new)
    if _version_of_nginx() >= (1, 25, 1):  # as deploy/debian does it: from there on http2 has a line of its own
        text = re.sub(r"^( *listen \S+ ssl) http2", r"    http2 on;\n\1", text, flags=re.MULTILINE)
    return text


def _version_of_nginx() -> tuple[int, ...]:
    libraries = ":".join(str(path) for path in UNPACKED.glob("usr/lib/*-linux-gnu"))
    said = subprocess.run(
        [_nginx(), "-v"], env={**os.environ, "LD_LIBRARY_PATH": libraries}, capture_output=True, text=True, check=True
    ).stderr
    return tuple(map(int, re.findall(r"\d+", said.partition("nginx/")[2])[:3]))


def _nginx() -> str:
    found = shutil.which("nginx", path=PLACES)
    assert found is not None, "nginx is missing: deploy/system-packages unpacks it"
    return found


@contextmanager
def site(upstream: str, changes: Mapping[str, str] | None = None, *, host: str = HOST, port: int = 0) -> Iterator[Site]:
    """Nginx with the site in front of an upstream, such as ``server 127.0.0.1:8000 max_fails=0;``."""
    with tempfile.TemporaryDirectory() as made:  # not below pytest's folder, which another user cannot enter
        folder, port, plain_port = Path(made), port or free_port(), free_port()
        folder.chmod(0o755)
        shutil.copytree(PAGES, folder / "pages")
        authority = trustme.CA()
        certificate = authority.issue_cert(host)
        authority.cert_pem.write_to_path(str(folder / "authority.pem"))
        certificate.private_key_pem.write_to_path(str(folder / "privkey.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / "fullchain.pem"))
        user = "user nobody nogroup;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(NGINX_CONF.format(folder=folder, user=user))
        (folder / "auth-portal.conf").write_text(rendered(folder, host, port, plain_port, upstream, changes or {}))
        libraries = ":".join(str(path) for path in UNPACKED.glob("usr/lib/*-linux-gnu"))
        process = subprocess.Popen(
            [_nginx(), "-p", made, "-e", f"{made}/error.log", "-c", f"{made}/nginx.conf"],
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield _ready(Site(folder, port, plain_port, folder / "authority.pem", host), process)
        finally:
            process.terminate()
            process.wait(GIVE_UP_SECONDS)


def _ready(running: Site, process: subprocess.Popen[bytes]) -> Site:
    until = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, running.logs()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", running.port)) == 0:
                return running
        time.sleep(0.01)
    raise AssertionError("nginx did not start")
