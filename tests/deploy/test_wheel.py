"""The wheel: built from the source archive, installed into an environment of its own, used in an empty folder.

The packages that it needs are those of the tests' environment, so nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests
from jinja2 import TemplateNotFound

from auth_portal import cli
from auth_portal.services.delivery.texts import Texts
from auth_portal.settings import VERSION, CompiledTemplates
from tests.admin.desk import signed_in
from tests.programs import ROOT
from tests.receiver import Receiver, wait_for
from tests.serving import Visitor, free_port
from tests.world import CONFIG, CUSTOMERS, MAIL, World, journey

SECONDS = 100


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    environment, wheels = folder / "venv", folder / "wheels"
    run(ROOT, sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder)
    shutil.unpack_archive(next(folder.glob("*.tar.gz")), folder / "sources")
    (sources,) = (folder / "sources").iterdir()
    run(sources, sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels)
    venv.create(environment, symlinks=True, with_pip=False)
    commands = environment / "bin"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", commands / "python", "install", "--quiet"]
    run(ROOT, *pip, "--no-index", "--no-deps", *wheels.iterdir())
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
    return commands


def run(folder: Path, *command: str | Path, **settings: str) -> str:
    """Run a command that must succeed, in a folder, and return what it prints."""
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env={**foreign(), **settings},
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def serving(portal: Path, folder: Path, port: int, **settings: str) -> Iterator[str]:
    """Run ``auth-portal serve`` in a folder, for the time of a block; yield its URL."""
    log, url = folder / "server.log", f"http://127.0.0.1:{port}"
    with log.open("wb") as written:
        server = subprocess.Popen(
            [portal, "serve", "--bind", f"127.0.0.1:{port}"], cwd=folder, env={**foreign(), **settings},
            stdout=written, stderr=written,
        )  # fmt: skip

    def answers() -> bool:
        assert server.poll() is None, log.read_text()
        with suppress(requests.ConnectionError):
            return requests.get(f"{url}/readyz", timeout=SECONDS).ok
        return False

    try:
        wait_for(answers)
        yield url
    finally:
        server.terminate()
        assert server.wait(SECONDS) == 0, log.read_text()


def foreign() -> dict[str, str]:
    """The environment without what would make Python or the portal find this project."""
    ours = ("PORTAL_", "FLASK_", "PYTHON", "GUNICORN", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def test_every_command_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    portal = installed / "auth-portal"
    assert run(tmp_path, portal, "version") == f"{VERSION}\n"
    assert list(tmp_path.iterdir()) == []
    assert run(tmp_path, portal, "init").splitlines()[-1] == "The database is ready."
    assert (tmp_path / "instance" / "portal.db").exists()
    port = free_port()
    with serving(portal, tmp_path, port, PORTAL_PUBLIC_URL=f"http://127.0.0.1:{port}", PORTAL_WORKERS="1") as url:
        page = requests.get(f"{url}/admin/sign-in", timeout=SECONDS)
        assert page.status_code == 200
        (url_of, name), *_others = re.findall(r'href="(/static/(\w+)\.[0-9a-f]{12}\.css)"', page.text)
        answer = requests.get(url + url_of, headers={"Accept-Encoding": "gzip"}, timeout=SECONDS)
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.text == (ROOT / "static" / f"{name}.css").read_text()


def test_a_customer_is_verified_by_email(installed: Path, tmp_path: Path, receiver: Receiver) -> None:
    """What is installed has all that leaves by itself: the code, the result, and a notice to the owners."""
    portal, port = installed / "auth-portal", free_port()
    text = (
        (CONFIG + journey("mail", "email_code", default=True))
        .replace("{{", "\0")
        .replace("{receiver}", receiver.origin)
    )
    (tmp_path / "portal.toml").write_text(text.replace("\0", "{").replace("}}", "}"))
    (tmp_path / "customers.csv").write_text(CUSTOMERS)
    settings = {"PORTAL_PUBLIC_URL": f"http://127.0.0.1:{port}", "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1"}
    run(tmp_path, portal, "init", **settings)
    run(tmp_path, portal, "config", "import", "portal.toml", **settings)
    run(tmp_path, portal, "customers", "import", "customers.csv", **settings)
    with serving(portal, tmp_path, port, PORTAL_WORKERS="1", **settings) as url:
        visitor = Visitor(url)
        visitor.begin("by-email", identifier="C-1001")
        wait_for(lambda: receiver.messages)
        visitor.post("/verify", code=receiver.code_for(MAIL))
        assert visitor.page.url.startswith(f"{url}/done?v=")
        wait_for(lambda: receiver.callbacks)
    assert [call.body["result"] for call in receiver.callbacks] == ["verified"]


def test_every_template_of_a_message_is_looked_for_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(TemplateNotFound, match=r"email\.txt"):
        Texts("verify.example.com", tmp_path, CompiledTemplates("messages."))


def test_the_console_has_every_command_of_flask_under_its_name(installed: Path, tmp_path: Path) -> None:
    _usage, commands = run(tmp_path, installed / "auth-portal", "--help").split("Commands:\n")
    assert {line.split()[0] for line in commands.splitlines()} == {*cli.commands.commands, "serve", "version"}


def test_code_and_files_come_from_the_wheel_alone(installed: Path, tmp_path: Path) -> None:
    """The package is compiled already: an account that may not write there need not compile it at each start."""
    says = "import auth_portal.settings as s; print(s.__file__, s.__cached__, s.delivered('static'), sep='\\n')"
    code, compiled, static = (Path(line) for line in run(tmp_path, installed / "python", "-c", says).splitlines())
    assert code.is_relative_to(installed.parent)
    assert compiled.exists()
    assert static == code.parent / "static"
    assert (static / "app.js.gz").exists()
    assert sorted(path.name for path in static.rglob("*") if path.suffix != ".gz") == sorted(
        path.name for path in (ROOT / "static").rglob("*") if path.suffix != ".gz"
    )


def test_the_version_is_where_an_operator_looks(small_world: World) -> None:
    """And on no page that a customer or a stranger sees."""
    browser = small_world.browser()
    assert browser.get("/healthz").text == f"auth-portal {VERSION}\nok\n"
    assert f'auth_portal_build_info{{version="{VERSION}"}} 1\n' in browser.get("/metrics").text
    assert f"Auth Portal {VERSION}" in signed_in(small_world, "auditor").get("/admin/").text
    for path in ("/?reference=abc", "/admin/sign-in"):
        assert VERSION not in browser.get(path).text
