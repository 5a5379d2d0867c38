"""Firefox and WebKitGTK as Debian ships them, driven by what each has itself: Marionette, and WebDriver over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from tests.e2e.phone import waited
from tests.receiver import GIVE_UP_SECONDS
from tests.serving import free_port

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of a reference to an element (W3C WebDriver)
WIDTH, HEIGHT = 360, 740
MINI_BROWSERS = Path("/usr/lib").glob("*/webkit*gtk-*/MiniBrowser")
PREFERENCES = """user_pref("marionette.port", 0);
user_pref("intl.accept_languages", "en");
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("app.normandy.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
"""


class MissingEngine(Exception):
    """An engine is not on this machine. Its text names the packages."""


class Engine(ABC):
    """One window of a browser, with the few commands of WebDriver that a customer's acts need."""

    name: str

    @abstractmethod
    def command(self, name: str, path: str, **values: Any) -> Any:
        """Run a command, which Marionette knows by its name and WebDriver by its path."""

    def open(self, url: str) -> None:
        self.command("Navigate", "/url", url=url)

    def script(self, script: str) -> Any:
        """Return what an expression is on the page."""
        return self.command("ExecuteScript", "/execute/sync", script=f"return {script}", args=[])

    def text(self, selector: str) -> str:
        """Return what an element shows."""
        found = self.script(f"document.querySelector({json.dumps(selector)})?.textContent")
        return " ".join((found or "").split())

    def enter(self, selector: str, text: str) -> None:
        self.command("ElementSendKeys", "/element/{id}/value", id=self._find(selector), text=text)

    def click(self, selector: str) -> None:
        self.command("ElementClick", "/element/{id}/click", id=self._find(selector))

    def press(self, selector: str) -> None:
        """Click what leads to another page, and wait for that; what ends a visit can be pressed after a moment only."""
        waited(
            lambda: self._is(
                f"getComputedStyle(document.querySelector({json.dumps(selector)})).pointerEvents !== 'none'"
            )
        )
        self.script("window.isLeft = true")
        self.click(selector)
        waited(lambda: self._is("!window.isLeft && document.readyState === 'complete'"))

    def shows(self, selector: str, text: str) -> bool:
        """Wait until an element shows a text. Raise AssertionError if it never does."""
        return bool(
            waited(
                lambda: self._is(
                    f"document.querySelector({json.dumps(selector)})?.textContent.includes({json.dumps(text)})"
                )
            )
        )

    def gone(self, selector: str) -> None:
        """Wait until the page has no such element any longer."""
        waited(
            lambda: self._is(f"document.readyState === 'complete' && !document.querySelector({json.dumps(selector)})")
        )

    def _is(self, expression: str) -> bool:
        with contextlib.suppress(EngineError):  # between two pages there is none to ask
            return bool(self.script(f"Boolean({expression})"))
        return False

    def _find(self, selector: str) -> str:
        return str(self.command("FindElement", "/element", using="css selector", value=selector)[ELEMENT])


class EngineError(Exception):
    """A command was refused."""


class Marionette(Engine):
    """Firefox: lengths and JSON over a socket."""

    name = "Firefox"

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), GIVE_UP_SECONDS)
        self._file = self._socket.makefile("rb")
        self._number = 0
        self._read()  # it greets
        self.command("NewSession", "")
        self.command("SetWindowRect", "", width=WIDTH, height=HEIGHT)

    def command(self, name: str, path: str, **values: Any) -> Any:
        self._number += 1
        message = json.dumps([0, self._number, f"WebDriver:{name}", values]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        _kind, _number, error, found = self._read()
        if error is not None:
            raise EngineError(f"{name}: {error}")
        return found["value"] if isinstance(found, dict) and set(found) == {"value"} else found

    def _read(self) -> Any:
        length = b""
        while (digit := self._file.read(1)) != b":":
            if not digit:
                raise EngineError("Firefox closed the connection")
            length += digit
        return json.loads(self._file.read(int(length)))


class WebDriver(Engine):
    """WebKitGTK: HTTP."""

    name = "WebKitGTK"

    def __init__(self, url: str, browser: Path) -> None:
        self._url, self._session = url, requests.Session()
        options = {"webkitgtk:browserOptions": {"binary": str(browser), "args": ["--automation"]}}
        self._at = f"/session/{self._post('/session', capabilities={'alwaysMatch': options})['sessionId']}"
        self.command("", "/window/rect", width=WIDTH, height=HEIGHT)

    def command(self, name: str, path: str, **values: Any) -> Any:
        return self._post(self._at + path.format(id=values.pop("id", "")), **values)

    def _post(self, path: str, **values: Any) -> Any:
        answer = self._session.post(self._url + path, json=values, timeout=GIVE_UP_SECONDS)
        if not answer.ok:
            raise EngineError(f"{path}: {answer.text}")
        return answer.json()["value"]


@contextlib.contextmanager
def firefox(folder: Path) -> Iterator[Engine]:
    """A Firefox with a new profile."""
    program = shutil.which("firefox-esr") or shutil.which("firefox")
    if program is None:
        raise MissingEngine("Firefox is missing: apt-get install firefox-esr")
    (folder / "user.js").write_text(PREFERENCES)
    port_file = folder / "MarionetteActivePort"
    with _running([program, "--headless", "--marionette", "--no-remote", "--profile", str(folder)], folder) as process:
        waited(lambda: process.poll() is not None or (port_file.exists() and port_file.read_text()))
        yield Marionette(int(port_file.read_text()))


@contextlib.contextmanager
def webkit(folder: Path) -> Iterator[Engine]:
    """The window that comes with WebKitGTK, on a screen that nothing shows."""
    browser = next(MINI_BROWSERS, None)
    if browser is None or not shutil.which("WebKitWebDriver") or not shutil.which("Xvfb"):
        raise MissingEngine("WebKitGTK is missing: apt-get install webkit2gtk-driver xvfb")
    screen, port = folder / "screen", free_port()
    with screen.open("wb") as file:
        xvfb = ["Xvfb", "-displayfd", str(file.fileno()), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
        with _running(xvfb, folder, pass_fds=[file.fileno()]):
            display = f":{waited(lambda: screen.read_text().strip())}"
            driver = ["WebKitWebDriver", f"--port={port}"]
            with _running(driver, folder, DISPLAY=display, LIBGL_ALWAYS_SOFTWARE="1", LC_ALL="C.UTF-8"):
                waited(lambda: _listens(port))
                yield WebDriver(f"http://127.0.0.1:{port}", browser)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextlib.contextmanager
def _running(
    command: list[str], folder: Path, *, pass_fds: list[int] | None = None, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program for the time of a block. Its home is the folder, so that nothing of the user's is read or written."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, pass_fds=pass_fds or (),
            env={**os.environ, "HOME": str(folder), **environment},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(GIVE_UP_SECONDS)
