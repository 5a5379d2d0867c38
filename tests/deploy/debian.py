"""``make test-deploy``: the scripts of ``deploy/debian`` on a fresh Debian of its own, with systemd, nginx and a customer.

A machine is a folder made by debootstrap in which systemd-nspawn boots. It shares the network of the machine that it runs
on, whose ports 80 and 443 must be free. This needs root, debootstrap, systemd-container and the internet, and changes nothing
outside of ``.venv/debian`` and the machines' own folders.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
import trustme
from playwright.sync_api import sync_playwright

from auth_portal.settings import VERSION
from auth_portal.store.db import expected_revision
from tests.programs import ROOT
from tests.receiver import Receiver, wait_for
from tests.serving import Visitor
from tests.world import CONFIG, CUSTOMERS, MAIL, PASSWORD, STANDARD

SUITES = {"bookworm": (), "trixie": ("--postgres",)}  # Debian 12 with SQLite, Debian 13 with PostgreSQL
DOMAIN = "verify.acme.test"
LATER = "9.0.0"  # the version that is upgraded to
BASES = ROOT / ".venv" / "debian"
PACKAGES = "systemd,systemd-sysv,dbus,ca-certificates"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PIP_CERT": "/root/authorities.pem",
    "DEBIAN_FRONTEND": "noninteractive",
}


class Machine:
    """A Debian with systemd, started in a folder."""

    def __init__(self, folder: Path, suite: str) -> None:
        self.folder = folder / suite
        base = BASES / suite
        if not (base / "sbin" / "init").is_symlink():
            shutil.rmtree(base, ignore_errors=True)
            BASES.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(base)],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(self.folder)], check=True)
        shutil.copy(AUTHORITIES, self.folder / "root" / "authorities.pem")
        self.boot()

    def boot(self) -> None:
        """Start it, and wait until systemd has done so."""
        before = _init_processes()
        self.process = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "-D", str(self.folder), "--boot", "--console=pipe"],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        (self.init,) = wait_for(lambda: _init_processes() - before, 60)
        wait_for(
            lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"),
            120,
        )

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.init), "--all", "env", "-i", *_assigned({**ENVIRONMENT, **environment}), *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")
        return done

    def stop(self) -> None:
        """Like pulling the plug."""
        self.process.kill()
        self.process.wait(30)
        with suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        wait_for(lambda: self.init not in _init_processes(), 30)

    def crash(self) -> None:
        """Stop it like that, and start it again."""
        self.stop()
        self.boot()

    def read(self, pattern: str) -> str:
        """All files of this pattern."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob(pattern)) if path.is_file())


def _init_processes() -> set[int]:
    """The systemd processes that are the first of a machine of ours."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int(re.findall(r"^PPid:\t(\d+)", (entry / "status").read_text(), re.MULTILINE)[0])
            is_nspawn = (Path("/proc") / str(parent) / "comm").read_text().strip() == "systemd-nspawn"
            if is_nspawn and (entry / "comm").read_text().strip() == "systemd":
                found.add(int(entry.name))
    return found


def _assigned(environment: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in environment.items()]


class Load:
    """Customers who come without a break; afterwards, what they got."""

    def __init__(self, authority: Path) -> None:
        self._authority, self.got = str(authority), Counter[Any]()
        self._over, self._threads = (
            threading.Event(),
            [threading.Thread(target=self._come, args=(n,)) for n in range(4)],
        )

    def _come(self, number: int) -> None:
        session = requests.Session()
        session.verify, session.trust_env = self._authority, False
        while not self._over.wait(0.1):
            try:
                if number % 2:
                    answer = session.post(f"https://{DOMAIN}/j/app?reference=x", data={"identifier": "x"}, timeout=30)
                else:
                    answer = session.get(f"https://{DOMAIN}/j/app?reference=load", timeout=30)
                self.got[answer.status_code] += 1
            except requests.RequestException as fault:
                self.got[type(fault).__name__] += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        wait_for(lambda: self.got)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def here(domain: str, address: str = "127.0.0.1") -> Iterator[None]:
    """This process finds the domain at this address."""
    find = socket.getaddrinfo

    def found(host: Any, *args: Any, **kwargs: Any) -> Any:
        return find(address if host == domain else host, *args, **kwargs)

    socket.getaddrinfo = found
    try:
        yield
    finally:
        socket.getaddrinfo = find


def configuration(receiver: Receiver) -> str:
    """The tests' bank as a file for `config import`, whose results go to this receiver."""
    text = CONFIG + STANDARD
    return text.replace("{{", "\0").replace("{receiver}", receiver.origin).replace("\0", "{").replace("}}", "}")


def verify(reference: str, authority: Path, receiver: Receiver) -> None:
    """A customer is verified, and Flow gets it once."""
    visitor = Visitor(f"https://{DOMAIN}")
    visitor.session.verify = str(authority)
    visitor.begin(reference, "password")
    visitor.post("/verify", password=PASSWORD)
    assert "/done?v=" in visitor.page.url
    wait_for(lambda: [call for call in receiver.callbacks if call.header == reference], 30)
    assert [call.body["result"] for call in receiver.callbacks if call.header == reference] == ["verified_password"]


class Deployment:
    """One machine on its way from a fresh Debian to an uninstalled portal."""

    def __init__(self, machine: Machine, options: tuple[str, ...], receiver: Receiver) -> None:
        self.machine, self.options, self.receiver = machine, options, receiver
        home = machine.folder / "root"
        authority = trustme.CA()
        certificate = authority.issue_cert(DOMAIN)
        self.authority = home / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        certificate.private_key_pem.write_to_path(str(home / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(home / "chain.pem"))
        self._project = home / "auth-portal"
        self._project.mkdir()
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
        packed = subprocess.run(
            ["tar", "--create", "--null", "--files-from=-"],
            cwd=ROOT,
            input=tracked.stdout,
            check=True,
            stdout=subprocess.PIPE,
        )
        subprocess.run(["tar", "--extract", "-C", str(self._project)], input=packed.stdout, check=True)
        self.references = iter(f"reference-{number:04}-qZ7sEcReT4xK" for number in range(10_000))

    def script(self, name: str, *arguments: str, check: bool = True) -> str:
        """Run a script of deploy/debian there."""
        return self.machine.run(f"/root/auth-portal/deploy/debian/{name}", *arguments, check=check).stdout

    def status(self) -> int:
        """The HTTP status of the first page."""
        try:
            return requests.get(
                f"https://{DOMAIN}/j/app?reference=abc", verify=str(self.authority), timeout=10
            ).status_code
        except requests.RequestException:
            return 0

    def installs(self) -> None:
        """From the first command to the owner's page and a verified customer."""
        own = ("--domain", DOMAIN, "--certificate", "/root/chain.pem", "--key", "/root/key.pem", *self.options)
        began = time.monotonic()
        printed = self.script("install.sh", *own)
        seconds = time.monotonic() - began
        assert seconds < 20 * 60
        (link,) = re.findall(rf"https://{DOMAIN}/admin/join/\S+", printed)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=["--no-sandbox", f"--host-resolver-rules=MAP {DOMAIN} 127.0.0.1"],
            )
            page = browser.new_context(ignore_https_errors=True, viewport={"width": 360, "height": 740}).new_page()
            answer = page.goto(link)
            assert answer is not None
            assert answer.ok
            assert page.locator("main form").count(), page.content()
            browser.close()
        self._configure()
        self.verifies()
        self.emails()
        kept = [self.machine.read(name) for name in ("etc/auth-portal/environment", "var/lib/auth-portal/secret_keys")]
        self.script("install.sh", *own)  # again
        assert kept == [
            self.machine.read(name) for name in ("etc/auth-portal/environment", "var/lib/auth-portal/secret_keys")
        ]
        self.verifies()
        assert not (self.machine.folder / "root/broken").exists()
        access = self.machine.folder / "var/log/nginx/auth-portal.access.log"
        assert stat.S_IMODE(access.stat().st_mode) == 0o640
        logs = self.machine.read("var/log/nginx/*.log") + self.machine.run("journalctl", "--no-pager").stdout
        assert link.rpartition("/")[2] not in logs
        assert "qZ7sEcReT4xK" not in logs
        say(f"installed in {seconds:.0f} s, a customer verified, and no secret in a log")

    def _configure(self) -> None:
        place = self.machine.folder / "var/lib/auth-portal"
        (place / "portal.toml").write_text(configuration(self.receiver))
        (place / "customers.csv").write_text(CUSTOMERS)
        with (self.machine.folder / "etc/auth-portal/environment").open("a") as settings:
            settings.write('PORTAL_ALLOW_PRIVATE_CALLBACKS="1"\n')
            settings.write('PORTAL_METRICS_TOKEN="pa$$w0rd$UNKNOWN`touch /root/broken`\'"\n')  # as a password may be
        self.machine.run("auth-portal-restart")
        self.machine.run("auth-portal", "config", "import", "/var/lib/auth-portal/portal.toml")
        self.machine.run("auth-portal", "customers", "import", "/var/lib/auth-portal/customers.csv")

    def verifies(self) -> None:
        """A customer is verified, and Flow gets it once."""
        verify(next(self.references), self.authority, self.receiver)

    def emails(self) -> None:
        """A customer is verified by a code that comes by email."""
        reference = next(self.references)
        visitor = Visitor(f"https://{DOMAIN}")
        visitor.session.verify = str(self.authority)
        visitor.begin(reference, "mail")
        wait_for(lambda: [one for one in self.receiver.messages if one["to"] == MAIL and "code" in one["text"]], 30)
        visitor.post("/verify", code=self.receiver.code_for(MAIL))
        assert "/done?v=" in visitor.page.url

    def is_hardened(self) -> None:
        """As systemd judges the units: 1.5 at most, of 10."""
        for unit in ("auth-portal-web@1", "auth-portal-dispatch", "auth-portal-backup"):
            self.machine.run("systemd-analyze", "security", "--no-pager", "--threshold=15", f"{unit}.service")
        say("each unit is at most 1.5 in systemd-analyze security")

    def comes_back(self) -> None:
        """From killed workers, killed servers, a killed machine and a wrong setting."""
        faults: tuple[tuple[str, Callable[[], None]], ...] = (
            ("one worker of each server killed", lambda: self._kill(children=True)),
            ("all processes killed", lambda: self._kill(children=False)),
            ("the machine killed and started", self.machine.crash),
        )
        for what, act in faults:
            act()
            began = time.monotonic()
            wait_for(lambda: self.status() == 200, 60)
            say(f"{what}: a page again after {time.monotonic() - began:.1f} s")
            self.verifies()

    def _kill(self, *, children: bool) -> None:
        for number in (1, 2):
            unit = f"auth-portal-web@{number}"
            if not children:
                self.machine.run("systemctl", "kill", "--signal=KILL", unit)
                continue
            main = self.machine.run("systemctl", "show", "--property=MainPID", "--value", unit).stdout.strip()
            self.machine.run("sh", "-c", f"kill -KILL $(cut -d' ' -f1 /proc/{main}/task/{main}/children)")

    def refuses_a_wrong_setting(self) -> None:
        """The restart says so before anything stops; a server that meets one stays down, with its reason and its own status."""
        settings = self.machine.folder / "etc/auth-portal/environment"
        right = settings.read_text()
        settings.write_text(right.replace('PORTAL_THREADS="8"', 'PORTAL_THREADS="many"'))
        refused = self.machine.run("auth-portal-restart", check=False)
        assert refused.returncode
        assert "PORTAL_THREADS" in refused.stdout
        assert (
            self.machine.run("systemctl", "is-active", "auth-portal-dispatch", "auth-portal-web@1").stdout.split()
            == ["active"] * 2
        )
        self.machine.run("systemctl", "restart", "auth-portal-web@1")

        def shown(name: str) -> str:
            return self.machine.run(
                "systemctl", "show", f"--property={name}", "--value", "auth-portal-web@1"
            ).stdout.strip()

        wait_for(lambda: shown("ActiveState") == "failed", 60)
        assert (shown("ExecMainStatus"), shown("NRestarts")) == (str(os.EX_CONFIG), "0")
        assert (
            "PORTAL_THREADS"
            in self.machine.run("systemctl", "status", "--no-pager", "auth-portal-web@1", check=False).stdout
        )
        assert self.status() == 200  # the other one
        settings.write_text(right)
        self.machine.run("auth-portal-restart")
        self.verifies()
        say("a wrong setting: the restart refuses it; a server stays down with 78, its reason in systemctl status")

    def under_load(self, what: str, act: Callable[[], object]) -> None:
        """No customer is refused meanwhile."""
        with Load(self.authority) as load:
            act()
        assert set(load.got) <= {200, 400, 403, 404, 422}, load.got
        say(f"{what} under load: {sum(load.got.values())} requests, none refused")
        self.verifies()

    def becomes_later(self) -> None:
        """The folder of the code is that of a later version from now on, with a migration that this one does not know."""
        settings = self._project / "auth_portal" / "settings.py"
        settings.write_text(settings.read_text().replace(f'VERSION = "{VERSION}"', f'VERSION = "{LATER}"'))
        newest = expected_revision()
        (self._project / "migrations" / "versions" / "9000_later.py").write_text(
            f'revision, down_revision, branch_labels, depends_on = "9000", "{newest}", None, None\n'
            f'OLDEST_CODE = "{newest}"\n\n\ndef upgrade():\n    pass\n'
        )

    def serves_version(self, expected: str) -> None:
        """What the pages' servers say of themselves."""
        answer = requests.get(f"https://{DOMAIN}/healthz", verify=str(self.authority), timeout=10)
        assert f"auth-portal {expected}" in answer.text.splitlines(), answer.text

    def restores(self) -> None:
        """A backup of the nightly service, put back."""
        services = ("auth-portal-web@1", "auth-portal-web@2", "auth-portal-dispatch")
        self.machine.run("systemctl", "start", "auth-portal-backup")
        self.machine.run("systemctl", "stop", *services)
        printed = self.machine.run("auth-portal", "restore", "--yes", "/var/backups/auth-portal").stdout
        self.machine.run("systemctl", "start", *services)
        wait_for(lambda: self.status() == 200, 60)
        self.verifies()
        say(f"backed up by its service and restored: {printed.splitlines()[-1]}")

    def is_removed(self) -> None:
        self.script("uninstall.sh")
        wait_for(lambda: self.status() == 0)
        assert (self.machine.folder / "var/lib/auth-portal/secret_keys").exists()
        left = self.machine.run(
            "sh", "-c", "ls -d /opt/auth-portal /etc/systemd/system/auth-portal* 2>/dev/null || true"
        )
        assert left.stdout == ""
        say("uninstalled; data and keys are still there")


def say(text: str) -> None:
    print(f"  {text}", flush=True)


def _walk(deployment: Deployment) -> None:
    deployment.installs()
    deployment.is_hardened()
    deployment.under_load("restart", lambda: deployment.machine.run("auth-portal-restart"))
    deployment.refuses_a_wrong_setting()
    deployment.comes_back()
    deployment.becomes_later()
    deployment.under_load("upgrade with a migration", lambda: deployment.script("upgrade.sh"))
    deployment.serves_version(LATER)
    deployment.under_load("rollback across it", lambda: deployment.script("rollback.sh"))
    deployment.serves_version(VERSION)
    deployment.under_load("upgrade again", lambda: deployment.script("upgrade.sh"))
    deployment.serves_version(LATER)
    deployment.restores()
    deployment.is_removed()


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.deploy.debian")
    options.add_argument("--suite", choices=list(SUITES), help="all by default")
    chosen = options.parse_args()
    for suite, extra in SUITES.items():
        if chosen.suite not in (None, suite):
            continue
        print(f"Debian {suite} {' '.join(extra)}", flush=True)
        receiver = Receiver()
        with tempfile.TemporaryDirectory() as made, here(DOMAIN):
            machine = Machine(Path(made), suite)
            try:
                _walk(Deployment(machine, extra, receiver))
            finally:
                machine.stop()
        receiver.close()


if __name__ == "__main__":
    main()
