"""The image and ``compose.yaml``, as far as they need no engine: ``make test-deploy SUITE=containers`` does the rest."""

from __future__ import annotations

import json
import os
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from auth_portal import cli
from auth_portal.settings import VERSION, read_settings
from tests.deploy.site import SITE
from tests.programs import ROOT
from tests.receiver import GIVE_UP_SECONDS
from tests.serving import free_port

CONTAINER = ROOT / "deploy" / "container"
DOCKERFILE = CONTAINER / "Dockerfile"
DOMAIN = "verify.acme.example"
SECRET = re.compile(r"PASSWORD|TOKEN|KEYS|DATABASE_URL")
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def composed() -> dict[str, Any]:
    """The compose file as an engine reads it, with the one variable that has no default."""
    text = (CONTAINER / "compose.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(_VARIABLE.sub(lambda found: found[3] if found[2] == "-" else DOMAIN, text))


SERVICES: dict[str, dict[str, Any]] = composed()["services"]
PORTALS = sorted(name for name, service in SERVICES.items() if service["image"] == "auth-portal")


def test_hadolint_finds_nothing() -> None:
    program = Path(sys.executable).parent / "hadolint"
    subprocess.run([program, "--no-color", "--failure-threshold", "style", DOCKERFILE], check=True)


def test_the_image_says_which_version_it_is() -> None:
    assert re.findall(r"^ARG VERSION=(.*)$", DOCKERFILE.read_text(), re.MULTILINE) == [VERSION]


def test_only_what_is_listed_gets_into_the_image() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    listed = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert [path for path in listed if not (ROOT / path).exists()] == []
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )*(\S+) ", DOCKERFILE.read_text(), re.MULTILINE)
    assert set(copied) - {"."} <= set(listed)


class Answers(BaseHTTPRequestHandler):
    """Answers to every probe with the status of its server."""

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/healthz" else 404)  # type: ignore[attr-defined]
        self.end_headers()

    def address_string(self) -> str:
        return ""

    def log_message(self, *args: object) -> None:
        pass


class UnixServer(socketserver.UnixStreamServer):
    """An HTTP server on a unix socket."""


@contextmanager
def answering(server: socketserver.BaseServer, status: int) -> Iterator[None]:
    server.status = status  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def health(bind: str) -> tuple[int, str]:
    """The status of the image's health check for a server there, and what it says."""
    done = subprocess.run(
        [sys.executable, "-I", CONTAINER / "health.py"], env={"PORTAL_BIND": bind}, stderr=subprocess.PIPE, text=True,
        check=False, timeout=GIVE_UP_SECONDS,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_a_server_on_a_port_that_answers_is_healthy() -> None:
    port = free_port()
    with answering(HTTPServer(("127.0.0.1", port), Answers), 200):
        assert health(f"127.0.0.1:{port}") == (0, "")
        assert health(f"0.0.0.0:{port}") == (0, "")
    with answering(HTTPServer(("127.0.0.1", port), Answers), 500):
        assert health(f"127.0.0.1:{port}") == (1, "/healthz answers with 500\n")


def test_a_server_on_a_socket_that_answers_is_healthy(tmp_path: Path) -> None:
    path = tmp_path / "portal.sock"
    with answering(UnixServer(str(path), Answers), 200):
        assert health(f"unix:{path}") == (0, "")
    status, why = health(f"unix:{path}")
    assert (status, why.partition(":")[0]) == (1, "ConnectionRefusedError")


def test_the_compose_file_is_what_the_specification_allows() -> None:
    compose = PyCompose.from_json(json.dumps(composed()))
    for check in (compose.validate_networks, compose.validate_secrets, compose.validate_volumes, compose.validate):
        check()
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", {})) <= SERVICES.keys() - {name}
        named = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        places = {volume for volume in named if volume.startswith(".")}
        assert named - places <= composed()["volumes"].keys()
        assert [place for place in places if not (CONTAINER / place).exists()] == []


@pytest.mark.parametrize("name", PORTALS)
def test_a_service_runs_a_command_with_valid_settings(name: str, tmp_path: Path) -> None:
    """The secrets are files, named in the settings, and every one that a service gets is used."""
    service = SERVICES[name]
    for secret in service["secrets"]:
        content = "postgresql://portal:x@database/portal" if secret == "database-url" else "k" * 64
        (tmp_path / secret).write_text(content)
    given = {key: str(value).replace("/run/secrets", str(tmp_path)) for key, value in service["environment"].items()}
    settings = read_settings({"PORTAL_BIND": "0.0.0.0:8000", **given})
    assert settings.public_url == f"https://{DOMAIN}"
    assert settings.dispatch == "off"
    assert settings.master_keys() == ("k" * 64,)
    assert {Path(value).name for key, value in given.items() if key.endswith("_FILE")} == set(service["secrets"])
    command = service.get("command", ["serve"])
    assert len(command) == 1 or command == ["pages", "/run/auth-portal"]
    assert command[0] in {"serve", *cli.commands.commands}
    assert settings.drain_seconds + 30 < int(service["stop_grace_period"].removesuffix("s"))


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_can_write_to_its_root_or_get_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("privileged", False) is False
    assert not any(SECRET.search(key) for key in _plain(service))


def _plain(service: dict[str, Any]) -> list[str]:
    """The settings of a service that are not files."""
    return [key for key in service["environment"] if not key.endswith("_FILE")]


def test_what_the_proxy_changes_is_in_the_site() -> None:
    """It has the site of deploy/nginx, and a line that it cannot find there would stay as it is."""
    script = (CONTAINER / "proxy.sh").read_text()
    changed = re.findall(r"s#([^#]+)#", script)
    assert len(changed) == 2
    assert all(place in SITE.read_text() for place in changed)
    sockets = {SERVICES[name]["environment"]["PORTAL_BIND"] for name in ("web-1", "web-2")}
    assert sockets == set(re.findall(r"^    server (unix:\S+)", SITE.read_text(), re.MULTILINE))


def test_the_portals_own_page_is_where_nginx_reads_it() -> None:
    command, volumes = SERVICES["pages"]["command"], SERVICES["pages"]["volumes"]
    assert f"try_files {command[1]}/unavailable.html " in SITE.read_text()
    assert f"sockets:{command[1]}" in volumes
    assert set(volumes) <= set(SERVICES["proxy"]["volumes"])


def test_every_customer_has_an_address_of_their_own() -> None:
    """A network without IPv6 gets connections by IPv6 from the engine, with the engine's address for all of them."""
    published = [(name, port) for name, service in SERVICES.items() for port in service.get("ports", ())]
    assert published == [("proxy", "0.0.0.0:80:80"), ("proxy", "0.0.0.0:443:443")]
    assert SERVICES["proxy"]["networks"] == ["front"]


def make_secrets(folder: Path, openssl: str = "") -> tuple[int, dict[str, str]]:
    """The status of make-secrets.sh, and the files that there are after it; with a program that acts as openssl."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "openssl").unlink(missing_ok=True)
    if openssl:
        (programs / "openssl").write_text(f"#!/bin/sh\n{openssl}\n")
        (programs / "openssl").chmod(0o755)
    for name in ("certificate", "key"):
        if not (folder / name).exists():
            (folder / name).write_text(name)
    made = folder / "secrets"
    done = subprocess.run(
        [CONTAINER / "make-secrets.sh", folder / "certificate", folder / "key"],
        env={**os.environ, "AUTH_PORTAL_SECRETS": str(made), "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, {path.name: path.read_text() for path in made.glob("*")}


def test_secrets_are_made_once(tmp_path: Path) -> None:
    made = tmp_path / "secrets"
    is_root = os.geteuid() == 0

    def make() -> dict[str, str]:
        status, files = make_secrets(tmp_path)
        assert status == (0 if is_root else 2)
        return files

    first = make()
    if not is_root:  # it gives the files to another user, so it has to refuse before it makes one
        assert not made.exists()
        return
    assert first.keys() == composed()["secrets"].keys()
    assert first["database-password"] in first["database-url"]
    assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in made.iterdir()} == {(10001, 0o400)}
    (tmp_path / "certificate").write_text("next")
    assert make() == {**first, "fullchain.pem": "next"}


@pytest.mark.parametrize("openssl", ["exit 1", "exit 0", '[ "$2" = -hex ] && echo 1234'])
def test_a_secret_that_cannot_be_made_is_not_stored(tmp_path: Path, openssl: str) -> None:
    """Neither openssl that fails nor one that prints nothing leaves an empty file, and the next run makes the rest."""
    status, left = make_secrets(tmp_path, openssl)
    if os.geteuid() != 0:  # it gives its files to another user, and refuses first
        assert (status, left) == (2, {})
        return
    assert status == 1
    assert "secret-keys" not in left
    assert "" not in left.values()
    status, files = make_secrets(tmp_path)
    assert (status, files.keys()) == (0, composed()["secrets"].keys())
    assert {name: files[name] for name in left} == left


def test_empty_secrets_are_made_when_it_runs_again(tmp_path: Path) -> None:
    """As an earlier version of the script left them, with a database's address without a password."""
    (tmp_path / "secrets").mkdir()
    for name in ("database-password", "secret-keys", "metrics-token"):
        (tmp_path / "secrets" / name).touch()
    (tmp_path / "secrets" / "database-url").write_text("postgresql://portal:@database/portal")
    status, files = make_secrets(tmp_path)
    if os.geteuid() != 0:
        assert (status, files["secret-keys"]) == (2, "")
        return
    assert (status, files.keys()) == (0, composed()["secrets"].keys())
    assert all(files.values())
    assert files["database-url"] == f"postgresql://portal:{files['database-password']}@database/portal"
    (tmp_path / "certificate").write_text("")
    assert make_secrets(tmp_path) == (1, files)
