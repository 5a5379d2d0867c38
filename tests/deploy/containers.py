"""``make test-deploy SUITE=containers``: the image is built and ``compose.yaml`` is run, with podman.

Published images cannot be had everywhere, so three stand-ins have their names: Debian's own Python, PostgreSQL and nginx.
What differs from an engine with the real ones: they are set up by another script, and the order that ``depends_on`` asks for is
kept here, because podman 4 cannot. This needs root, debootstrap, podman, runc, catatonit, iptables, aardvark-dns and the internet, and
changes nothing outside of ``.venv/debian`` and its own folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import trustme
import yaml

from auth_portal.settings import VERSION
from tests.deploy.debian import AUTHORITIES, BASES, DOMAIN, Load, configuration, here, say, verify
from tests.deploy.test_helm import LEAST, rendered
from tests.programs import ROOT
from tests.receiver import Receiver, wait_for
from tests.serving import free_port
from tests.world import CUSTOMERS

PROJECT = ROOT / "deploy" / "container"
PYTHON = "python:3.13-slim-trixie"
ENGINE = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_config_dir = "{folder}/networks"
default_subnet_pools = [{{"base" = "10.213.0.0/16", "size" = 24}}]
"""
STORAGE = """
[storage]
driver = "overlay"
graphroot = "{base}"
runroot = "{folder}/run"
"""
NGINX = f"""
FROM {PYTHON}
RUN apt-get update && apt-get install -y --no-install-recommends nginx
"""
POSTGRES = f"""
FROM {PYTHON}
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-17 && mkdir -p /var/lib/postgresql/data
COPY --chmod=755 begin /usr/local/bin/begin
ENV PATH=/usr/lib/postgresql/17/bin:/usr/local/bin:/usr/bin:/bin
STOPSIGNAL SIGINT
ENTRYPOINT ["begin"]
"""
BEGIN = r"""#!/bin/bash
# As much of the published image's script as compose.yaml needs.
set -eu
data=/var/lib/postgresql/data
if [ "$(id -u)" = 0 ]; then
  POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
  export POSTGRES_PASSWORD
  install -d -o postgres -g postgres -m 700 $data
  chown postgres /run/postgresql
  exec setpriv --reuid postgres --regid postgres --init-groups "$0"
fi
if [ ! -s $data/PG_VERSION ]; then
  # shellcheck disable=SC2086
  initdb -D $data --username "$POSTGRES_USER" --pwfile <(echo "$POSTGRES_PASSWORD") --auth-local trust $POSTGRES_INITDB_ARGS
  echo "host all all all scram-sha-256" >>$data/pg_hba.conf
  pg_ctl -D $data -w -o "-c listen_addresses=" start
  createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
  pg_ctl -D $data -w -m fast stop
fi
exec postgres -D $data -c "listen_addresses=*"
"""
# Only what this machine cannot do, and what lets the receiver of the tests be reached.
OVERRIDE = """
services:
  migrate: {depends_on: !reset {}, environment: {PORTAL_ALLOW_PRIVATE_CALLBACKS: "1"}}
  web-1: {depends_on: !reset {}, environment: {PORTAL_ALLOW_PRIVATE_CALLBACKS: "1"}}
  web-2: {depends_on: !reset {}, environment: {PORTAL_ALLOW_PRIVATE_CALLBACKS: "1"}}
  dispatcher: {depends_on: !reset {}, environment: {PORTAL_ALLOW_PRIVATE_CALLBACKS: "1"}}
  proxy: {depends_on: !reset {}, ports: !reset []}
"""


class Engine:
    """podman, with images, containers and networks of its own."""

    def __init__(self, folder: Path) -> None:
        (folder / "containers.conf").write_text(ENGINE.format(folder=folder))
        (folder / "storage.conf").write_text(STORAGE.format(base=BASES / "images", folder=folder))
        (folder / "networks").mkdir()
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "BUILDAH_FORMAT": "docker",  # the other format has no health check
            "AUTH_PORTAL_DOMAIN": DOMAIN,
            "AUTH_PORTAL_SECRETS": str(folder / "secrets"),
        }

    def run(self, *command: str | Path, check: bool = True, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run podman, or another program with its environment."""
        program = command if Path(command[0]).is_absolute() else ("podman", *command)
        done = subprocess.run(program, env=self.environment, capture_output=True, text=True, check=False, **how)
        if check and done.returncode:
            raise AssertionError(f"{program} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
        return done

    def inspect(self, name: str) -> Any:
        """All that podman knows of an image or a container."""
        return json.loads(self.run("inspect", name).stdout)[0]

    def import_base(self, folder: Path) -> None:
        """Make Debian 13 with Python the image that the Dockerfile begins with, unless it is there."""
        if self.run("image", "exists", PYTHON, check=False).returncode == 0:
            return
        base = BASES / "python"
        if not (base / "usr/bin/python3").exists():
            shutil.rmtree(base, ignore_errors=True)
            BASES.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "trixie", base],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        shutil.copy(AUTHORITIES, base / "root" / "authorities.pem")
        archive = folder / "base.tar"
        subprocess.run(["tar", "-C", base, "-cf", archive, "."], check=True)
        self.run("import", "--change", "ENV=PIP_CERT=/root/authorities.pem", str(archive), PYTHON)
        archive.unlink()

    def build_stand_in(self, folder: Path, name: str, lines: str) -> None:
        """Build an image with the name of a published one."""
        context = folder / "stand-in"
        context.mkdir(exist_ok=True)
        (context / "begin").write_text(BEGIN)
        (context / "Dockerfile").write_text(lines)
        self.run("build", "--layers", "-t", name, str(context))


class Composed:
    """The services of ``compose.yaml``."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self._folder = engine, folder
        authority = trustme.CA()
        certificate = authority.issue_cert(DOMAIN)
        self.authority = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        certificate.cert_chain_pems[0].write_to_path(str(folder / "chain.pem"))
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        (folder / "override.yaml").write_text(OVERRIDE)
        engine.run(PROJECT / "make-secrets.sh", folder / "chain.pem", folder / "key.pem")
        self.references = iter(f"reference-{number:04}-qZ7sEcReT4xK" for number in range(10_000))
        self.receiver: Receiver

    def compose(self, *command: str, check: bool = True) -> str:
        """Run podman-compose."""
        program = Path(sys.executable).parent / "podman-compose"
        files = ("-f", str(PROJECT / "compose.yaml"), "-f", str(self._folder / "override.yaml"))
        return self.engine.run(program, "--project-name", "auth-portal-test", *files, *command, check=check).stdout

    def name(self, service: str) -> str:
        return f"auth-portal-test_{service}_1"

    def logs(self, service: str) -> str:
        """All that the container of a service wrote."""
        written = self.engine.run("logs", self.name(service))
        return written.stdout + written.stderr

    def is_healthy(self, service: str) -> bool:
        """Whether the health check passes: the image's own, or the one in the file."""
        return self.engine.run("healthcheck", "run", self.name(service), check=False).returncode == 0

    def portal(self, *command: str, given: str | None = None) -> str:
        """Run a command in a web server's container."""
        options = ["--interactive"] if given is not None else []
        return self.engine.run("exec", *options, self.name("web-1"), *command, input=given).stdout

    def address(self, service: str, network: str) -> str:
        networks = self.engine.inspect(self.name(service))["NetworkSettings"]["Networks"]
        return str(networks[f"auth-portal-test_{network}"]["IPAddress"])

    def starts(self) -> None:
        """In the order that the file asks for."""
        self.compose("up", "--detach", "database")
        wait_for(lambda: self.is_healthy("database"), 60)
        self.compose("up", "--detach", "migrate")
        assert self.engine.run("wait", self.name("migrate")).stdout.strip() == "0", self.logs("migrate")
        for service in ("web-1", "web-2", "dispatcher", "proxy"):
            self.compose("up", "--detach", service)
        for service in ("web-1", "web-2", "proxy"):
            wait_for(lambda service=service: self.is_healthy(service), 60)  # type: ignore[misc]
        outside = json.loads(self.engine.run("network", "inspect", "auth-portal-test_outside").stdout)[0]
        self.receiver = Receiver(host=outside["subnets"][0]["gateway"])

    def is_set_up(self) -> None:
        """With commands in a container, as the docs say."""
        for name, text in (("portal.toml", configuration(self.receiver)), ("customers.csv", CUSTOMERS)):
            self.portal("sh", "-c", f"cat >/tmp/{name}", given=text)
        self.portal("auth-portal", "config", "import", "/tmp/portal.toml")
        self.portal("auth-portal", "customers", "import", "/tmp/customers.csv")
        assert f"https://{DOMAIN}/admin/join/" in self.portal("auth-portal", "admin", "create")

    def verifies(self) -> None:
        verify(next(self.references), self.authority, self.receiver)

    def is_confined(self) -> None:
        """No rights, no writable root, and the database in a network that leads nowhere."""
        for service in ("web-1", "web-2", "dispatcher", "proxy"):
            status = self.engine.run("exec", self.name(service), "cat", "/proc/1/status").stdout
            found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert found["Uid"].split() == ["10001"] * 4
            assert {int(found[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
            assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
            for place in ("/x", "/etc/x", "/opt/x", "/var/lib/auth-portal/x"):
                assert self.engine.run("exec", self.name(service), "touch", place, check=False).returncode, place
        reach = "import socket; socket.create_connection((sys.argv[1], 443), 3)"
        program = ("python3", "-c", f"import sys; {reach}", self.receiver.host)
        refused = self.engine.run("exec", self.name("database"), *program, check=False)
        assert "unreachable" in refused.stderr, refused
        say("every process without rights, with a read-only root; the database reaches no other network")

    def under_load(self, what: str, act: Callable[[], object]) -> None:
        """No customer is refused meanwhile."""
        with Load(self.authority) as load:
            act()
        assert set(load.got) <= {200, 400, 403, 404, 422}, load.got
        say(f"{what} under load: {sum(load.got.values())} requests, none refused")
        self.verifies()

    def replaces_servers(self) -> None:
        """One server after the other, each by a new container."""
        for service in ("web-1", "web-2"):
            before = self.engine.inspect(self.name(service))["Id"]
            began = time.monotonic()
            self.engine.run("stop", "--time", "60", self.name(service))
            assert time.monotonic() - began < 45
            assert self.engine.inspect(self.name(service))["State"]["ExitCode"] == 0
            self.engine.run("rm", self.name(service))
            self.compose("up", "--detach", service)
            assert self.engine.inspect(self.name(service))["Id"] != before
            wait_for(lambda service=service: self.is_healthy(service), 60)  # type: ignore[misc]

    def comes_back(self, *services: str) -> None:
        """The engine starts again what was killed, and no customer waits for it."""
        before = {name: self._pid(name) for name in map(self.name, services)}
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: all(self._pid(name) not in (0, pid) for name, pid in before.items()), 60)
        wait_for(lambda: all(self.is_healthy(service) for service in services if service != "dispatcher"), 60)

    def _pid(self, name: str) -> int:
        return int(self.engine.inspect(name)["State"]["Pid"])

    def makes_a_backup(self) -> None:
        folder = self._folder / "backups"
        folder.mkdir(mode=0o700)
        os.chown(folder, 10001, 10001)
        self.compose(
            "run", "--rm", "--no-deps", "-v", f"{folder}:/backups", "migrate", "backup", "/backups", "--keep", "14"
        )
        assert sorted(path.suffix for path in folder.iterdir()) == [".dump", ".json"]
        say("a backup was made with the image's own pg_dump")

    def keeps_secrets(self) -> None:
        """In no log, no environment and no layer of the image."""
        secrets = {path.name: path.read_text() for path in (self._folder / "secrets").iterdir()}
        words = [secrets[name] for name in ("database-password", "secret-keys", "metrics-token")]
        shown = json.dumps([self.engine.inspect(self.name(service)) for service in ("web-1", "dispatcher", "database")])
        logs = "".join(self.logs(service) for service in ("database", "web-1", "web-2", "dispatcher", "proxy"))
        assert '"path":"/done"' in logs
        assert [word for word in (*words, "qZ7sEcReT4xK") if word in shown + logs] == []
        say("no secret in a log or in what the engine shows of a container")

    def runs_as_pods(self) -> None:
        """What the Helm chart makes: its migrations, then a web server, with the database of the compose file.

        podman 4 reads no secret as Kubernetes does, so the volume that it would make of one is there before.
        """
        image = {"repository": "localhost/auth-portal", "tag": "latest", "pullPolicy": "Never"}
        made = rendered({**LEAST, "publicUrl": f"https://{DOMAIN}", "image": image})
        self.engine.run("volume", "create", LEAST["secretName"])
        place = Path(json.loads(self.engine.run("volume", "inspect", LEAST["secretName"]).stdout)[0]["Mountpoint"])
        for name in ("database-url", "secret-keys"):
            shutil.copy(self._folder / "secrets" / name, place)
            os.chown(place / name, 0, 10001)
            (place / name).chmod(0o440)
        self._play(made["Job", "migrations"])
        assert self.engine.run("wait", "migrations-migrations").stdout.strip() == "0"
        self._play(made["Deployment", "web"])
        wait_for(lambda: self.engine.run("exec", "web-web", "auth-portal-health", check=False).returncode == 0, 60)
        status = self.engine.run("exec", "web-web", "cat", "/proc/1/status").stdout
        assert re.findall(r"^(?:CapBnd|NoNewPrivs):\t(\w+)", status, re.MULTILINE) == ["0" * 16, "1"]
        assert self.engine.run("exec", "web-web", "touch", "/x", check=False).returncode
        asks = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8000/readyz').read().decode())"
        assert json.loads(self.engine.run("exec", "web-web", "python3", "-c", asks).stdout) == {"ready": True}
        say("the pods of the Helm chart run: migrations, then a web server that is ready")

    def _play(self, item: dict[str, Any]) -> None:
        """Run the pod of a Job or Deployment, under the name of its component."""
        pod = item["spec"]["template"]["spec"]
        for volume in pod["volumes"]:
            if "secret" in volume:
                volume["secret"]["optional"] = False  # as it is in Kubernetes without being said
        (container,) = pod["containers"]
        for port in container.get("ports", ()):
            port["hostPort"] = free_port()  # or the port of this machine with its number
        name = item["metadata"]["labels"]["app.kubernetes.io/component"]
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": LEAST["secretName"]}, "data": {}}
        parts = [secret, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod}]
        (self._folder / "pod.yaml").write_text(yaml.safe_dump_all(parts))
        self.engine.run("play", "kube", "--network", "auth-portal-test_database", str(self._folder / "pod.yaml"))

    def stops(self) -> None:
        self.engine.run("pod", "rm", "--force", "web", "migrations", check=False)
        self.engine.run("volume", "rm", "--force", LEAST["secretName"], "instance", "tmp", check=False)
        self.compose("down", "--volumes", "--timeout", "60", check=False)
        if hasattr(self, "receiver"):
            self.receiver.close()


def _image(engine: Engine) -> None:
    """What the image is, without the compose file."""
    image = engine.inspect("auth-portal")
    assert image["Config"]["User"] == "10001:10001"
    assert image["Config"]["Labels"]["org.opencontainers.image.version"] == VERSION
    assert image["Config"]["StopSignal"] == "SIGTERM"
    assert image["Healthcheck"]["Test"] == ["CMD", "auth-portal-health"]
    confined = ("run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none")
    assert engine.run(*confined, "auth-portal", "version").stdout == f"{VERSION}\n"
    left = engine.run(
        *confined, "--entrypoint", "sh", "auth-portal", "-c",
        "ls -d /build /opt/auth-portal/bin/pip /root/.cache 2>/dev/null; find / -xdev -perm -4000 -user root -newer /opt; "
        "find /opt/auth-portal ! -user root",
    ).stdout  # fmt: skip
    assert left == ""
    wrong = engine.run(*confined, "--env", "PORTAL_THREADS=many", "auth-portal", check=False)
    assert (wrong.returncode, "PORTAL_THREADS" in wrong.stderr) == (os.EX_CONFIG, True)
    say(f"the image has version {VERSION}, no user but 10001, and ends with {os.EX_CONFIG} after a wrong setting")


def _alone(engine: Engine) -> None:
    """One container with SQLite, in which only the volume and /tmp can be written to."""
    confined = (
        "--read-only",
        "--cap-drop",
        "ALL",
        "--tmpfs",
        "/tmp",
        "--volume",
        "auth-portal-alone:/var/lib/auth-portal",
    )
    try:
        engine.run("run", "--rm", *confined, "auth-portal", "init")
        engine.run("run", "--detach", "--name", "auth-portal-alone", "--network", "none", *confined, "auth-portal")
        wait_for(lambda: engine.run("healthcheck", "run", "auth-portal-alone", check=False).returncode == 0, 60)
        changed = engine.run("diff", "auth-portal-alone").stdout.split()[1::2]
        assert [path for path in changed if path not in _MOUNTED] == []
        engine.run("stop", "--time", "60", "auth-portal-alone")
        assert engine.inspect("auth-portal-alone")["State"]["ExitCode"] == 0
    finally:
        engine.run("rm", "--force", "auth-portal-alone", check=False)
        engine.run("volume", "rm", "--force", "auth-portal-alone", check=False)
    say("one container alone serves with SQLite, and writes nothing outside of its volume and /tmp")


_MOUNTED = ("/etc", "/etc/mtab", "/run", "/run/secrets", "/var", "/var/lib")


def _walk(composed: Composed) -> None:
    composed.starts()
    composed.is_set_up()
    with here(DOMAIN, composed.address("proxy", "front")):
        page = requests.get(f"https://{DOMAIN}/readyz", verify=str(composed.authority), timeout=10)
        assert page.json() == {"ready": True}
        composed.verifies()
        say("composed, and a customer verified")
        composed.is_confined()
        composed.under_load("each web server replaced", composed.replaces_servers)
        composed.under_load("a dispatcher killed", lambda: composed.comes_back("dispatcher"))
        composed.comes_back("web-1")
        composed.verifies()
        say("a web server killed: started again")
        composed.makes_a_backup()
        composed.keeps_secrets()
        composed.runs_as_pods()


def main() -> None:
    say("The image and compose.yaml")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        engine = Engine(folder)
        engine.import_base(folder)
        engine.build_stand_in(folder, "nginx:1.28", NGINX)
        engine.build_stand_in(folder, "postgres:17-trixie", POSTGRES)
        composed = Composed(engine, folder)
        composed.compose("build", "web-1")
        _image(engine)
        _alone(engine)
        try:
            _walk(composed)
        finally:
            composed.stops()


if __name__ == "__main__":
    main()
