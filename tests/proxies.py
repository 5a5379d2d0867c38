"""Real proxies in front of a portal, each set up as docs/operations.md says, where this machine has them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.programs import ROOT
from tests.serving import free_port

UNPACKED = ROOT / ".venv" / "proxies"  # see deploy/system-packages
PLACES = os.pathsep.join(
    [os.environ.get("PATH", ""), "/usr/sbin", str(UNPACKED / "usr/sbin"), str(UNPACKED / "usr/bin")]
)
# Underscores are on in nginx: the portal must not depend on its default, which drops such headers.
NGINX = """
daemon off; pid {folder}/nginx.pid; error_log stderr emerg;
events {{ }}
http {{
  access_log off; underscores_in_headers on; client_max_body_size 51m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream portal {{ {servers} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://portal;
      proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 3s
  timeout client 90s
  timeout server 90s
frontend web
  bind 127.0.0.1:{port}
  option forwardfor
  default_backend portal
backend portal
  server a 127.0.0.1:{portal}
"""
CADDY = """
{{
  admin off
  auto_https off
}}
http://:{port} {{
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:{portal}
}}
"""


def found() -> list[str]:
    """The names of the proxies that this machine has."""
    return [name for name in ("nginx", "haproxy", "caddy") if shutil.which(name, path=PLACES)]


@contextmanager
def proxy(name: str, folder: Path, *portals: int) -> Iterator[str]:
    """The origin of a proxy in front of the portals that listen on these ports of this machine; nginx takes several."""
    port, file = free_port(), folder / f"{name}.conf"
    servers = " ".join(f"server 127.0.0.1:{portal};" for portal in portals)
    template = {"nginx": NGINX, "haproxy": HAPROXY, "caddy": CADDY}[name]
    file.write_text(template.format(folder=folder, port=port, portal=portals[0], servers=servers))
    arguments = {
        "nginx": ["-p", str(folder), "-e", "stderr", "-c", str(file)],
        "haproxy": ["-db", "-f", str(file)],
        "caddy": ["run", "--adapter", "caddyfile", "--config", str(file)],
    }
    libraries = ":".join(str(path) for path in UNPACKED.glob("usr/lib/*-linux-gnu"))
    environment = {**os.environ, "HOME": str(folder), "LD_LIBRARY_PATH": libraries}
    command = [shutil.which(name, path=PLACES) or name, *arguments[name]]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(1000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / f"{name}.log").read_text()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
