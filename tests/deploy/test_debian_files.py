"""What the Debian scripts install, as far as it needs no Debian: ``make test-deploy`` does the rest."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from auth_portal.settings import read_settings
from tests.programs import ROOT, Program
from tests.receiver import GIVE_UP_SECONDS

DEBIAN = ROOT / "deploy" / "debian"
SCRIPTS = [
    path for path in DEBIAN.iterdir() if path.read_text(encoding="utf-8").startswith("#!") or path.suffix == ".sh"
]
UNITS = sorted(DEBIAN.glob("*.service"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_read_by_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_settings_that_are_installed_are_valid(tmp_path: Path) -> None:
    """Those in comments as well, once someone uses them."""
    text = (DEBIAN / "environment").read_text(encoding="utf-8")
    places = {"@DOMAIN@": "verify.acme.example", "@WORKERS@": "2", "@DATABASE@": "", 'TOKEN=""': 'TOKEN="secret"'}
    for name, value in places.items():
        assert name in text
        text = text.replace(name, value)
    lines = re.findall(r'^#?(PORTAL_\w+)="(.*)"$', text, re.MULTILINE)
    assert len(lines) > 8
    settings = read_settings(
        {**dict(lines), "PORTAL_INSTANCE": str(tmp_path)}, {"bind": "unix:/run/auth-portal/web-1.sock"}
    )
    assert settings.public_url == "https://verify.acme.example"
    assert settings.trusted_proxies == 1


def test_each_service_runs_a_command_that_there_is(tmp_path: Path) -> None:
    commands = [re.findall(r"^ExecStart=\S+/bin/auth-portal (\S+)", unit.read_text(), re.MULTILINE) for unit in UNITS]
    assert len(commands) == 3
    for (command,) in commands:
        out = tmp_path / command
        shown = Program(["auth-portal", command, "--help"], {"PATH": os.environ["PATH"]}, out=out, err=out)
        assert shown.wait(GIVE_UP_SECONDS) == 0, out.read_text()


def test_a_web_server_that_starts_writes_the_page_that_nginx_shows_without_it() -> None:
    unit = (DEBIAN / "auth-portal-web@.service").read_text()
    written = re.findall(r"^ExecStartPost=-\S+ \d+ \S+/bin/auth-portal pages (\S+)$", unit, re.MULTILINE)
    assert written == ["/run/auth-portal"]
    assert f"try_files {written[0]}/unavailable.html " in (ROOT / "deploy/nginx/auth-portal.conf").read_text()


def test_what_a_wrong_setting_ends_is_not_started_again() -> None:
    restarted = [unit for unit in UNITS if "Restart=always" in unit.read_text()]
    assert len(restarted) == 2
    assert all("RestartPreventExitStatus=78" in unit.read_text() for unit in restarted)
