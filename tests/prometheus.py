"""Prometheus of Debian: its promtool judges the rules, its server runs the queries of the dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.programs import ROOT
from tests.proxies import PLACES
from tests.receiver import GIVE_UP_SECONDS, wait_for
from tests.serving import free_port
from tests.world import World

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
EVERY_SECONDS = 15
TARGET = 'job="auth-portal",instance="a"'
_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def program(name: str) -> str:
    """The path of prometheus or promtool."""
    found = shutil.which(name, path=PLACES)
    assert found is not None, f"{name} is missing: deploy/system-packages unpacks it"
    return found


def promtool(*arguments: object, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run promtool to its end."""
    command = [program("promtool"), *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def metrics(world: World) -> str:
    """What a portal of this process shows once it has written what it counted; nothing while it shows nothing."""
    world.services.health.beat()
    answer = world.app.test_client().get("/metrics", base_url="http://127.0.0.1:8000")
    return answer.text if answer.status_code == 200 else ""


class Watch:
    """Scrapes a portal of this process, whose clock it moves, and has promtool judge the rules of what it found."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world, self._file = world, folder / "watched.yml"
        self._scrapes: list[dict[str, str]] = []

    def scrape(self, times: int = 1, *, is_dispatching: bool = True, is_up: bool = True) -> None:
        """Scrape every 15 s. A dispatcher is at work, as far as alerts and the audit trail go, unless a test says no."""
        for _ in range(times):
            if is_dispatching:
                self._world.services.alerts.evaluate()
                while self._world.services.dispatcher.seal():
                    pass
            found = {f"{name}{{{TARGET}{',' if rest else ''}{rest}}}": value for name, rest, value in self._read(is_up)}
            self._scrapes.append({**found, f"up{{{TARGET}}}": str(int(bool(found)))})
            self._world.clock.advance(EVERY_SECONDS)

    def _read(self, is_up: bool) -> list[tuple[str, str, str]]:
        return _SAMPLE.findall(metrics(self._world)) if is_up else []

    def firing(self) -> set[str]:
        """The alerts that fire at the last scrape."""
        names = sorted({name for scrape in self._scrapes for name in scrape})
        asked = {
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": f"{(len(self._scrapes) - 1) * EVERY_SECONDS}s",
            "exp_samples": [],  # what there is nevertheless is reported
        }
        series = [
            {"series": name, "values": " ".join(scrape.get(name, "_") for scrape in self._scrapes)} for name in names
        ]
        test = {"interval": f"{EVERY_SECONDS}s", "input_series": series, "promql_expr_test": [asked]}
        document = {"rule_files": [str(RULES)], "evaluation_interval": f"{EVERY_SECONDS}s", "tests": [test]}
        self._file.write_text(json.dumps(document))  # which is YAML, too
        judged = promtool("test", "rules", self._file)
        output = judged.stdout + judged.stderr
        found = set(re.findall(r'alertname="(\w+)"', output.partition("got:")[2]))
        assert found or judged.returncode == 0, output
        return found


class Prometheus:
    """A real Prometheus server, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, **parameters: str) -> Any:
        """What its API answers, without its frame."""
        answer = requests.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=GIVE_UP_SECONDS)
        assert answer.ok, (parameters, answer.text)
        return answer.json()["data"]

    def query(self, expression: str) -> list[Any]:
        """The series of an expression at this moment, as far as they are numbers."""
        return [one for one in self.ask("query", query=expression)["result"] if one["value"][1] != "NaN"]


@contextmanager
def scraping(folder: Path, config: str) -> Iterator[Prometheus]:
    """A Prometheus server with this config, for the time of a block."""
    (folder / "prometheus.yml").write_text(config)
    port = free_port()
    command = [program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", "--log.level=error"]
    command += [f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        try:
            return requests.get(f"http://127.0.0.1:{port}/-/ready", timeout=GIVE_UP_SECONDS).ok
        except requests.ConnectionError:
            return False

    try:
        wait_for(is_ready)
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(GIVE_UP_SECONDS)
