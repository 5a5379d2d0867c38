"""The gate of SQLite's writers: one at a time, in every process, and nobody waits for a suspended one for long (D10)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from auth_portal.store import db
from auth_portal.store.db import WriteGate
from auth_portal.store.models import Attempt, Verification
from tests.receiver import GIVE_UP_SECONDS, wait_for
from tests.security.tools import logged
from tests.world import World

HOLD = """
import fcntl, os, sys, time
with open(sys.argv[1], "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    if len(sys.argv) > 2:
        file.write(f"{os.getpid()}\\n")
        file.flush()
    print("held", flush=True)
    time.sleep(60)
"""
WRITE = """
import sys
from pathlib import Path
from auth_portal.store.db import WriteGate
gate, file = WriteGate(Path(sys.argv[1])), Path(sys.argv[2])
for _ in range(int(sys.argv[3])):
    with gate.passed():
        file.write_text(str(int(file.read_text()) + 1))
"""


Hold = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    """Lets another process hold the gate of a file."""
    holders: list[subprocess.Popen[str]] = []

    def start(path: Path, *announced: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(path), *announced]
        holders.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert holders[-1].stdout is not None
        assert holders[-1].stdout.readline() == "held\n"
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        holder.communicate()


def test_a_suspended_writer_costs_503_and_not_the_portal(small_world: World, hold: Hold) -> None:
    browser = small_world.browser()
    browser.open("abc")
    holder = hold(Path(f"{small_world.database.url.database}.gate"))
    holder.send_signal(signal.SIGSTOP)
    with logged() as log:
        page = browser.post("/", follow=False, identifier="C-1001")
    assert page.status_code == 503
    assert int(page.headers["Retry-After"]) > 0
    assert "Nothing was lost" in page.text
    (line,) = [json.loads(line) for line in log.getvalue().splitlines() if '"write_gate_is_held"' in line]
    assert line["process"] == holder.pid
    assert browser.open("abc").status_code == 200, "pages that write nothing are served"
    holder.kill()
    holder.wait()
    assert browser.post("/", follow=False, identifier="C-1001").status_code == 303
    assert len(small_world.rows(Verification)) == 1


def test_a_writer_that_gave_up_leaves_the_gate_to_the_next(
    tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "GATE_SECONDS", 0.2)
    ours, path = WriteGate(tmp_path / "gate"), tmp_path / "gate"
    holder = hold(path)
    for _ in range(3):
        with pytest.raises(TimeoutError), ours.passed():
            raise AssertionError("it is held")
    monkeypatch.setattr(db, "GATE_SECONDS", GIVE_UP_SECONDS)
    passed = threading.Event()

    def wait() -> None:
        with ours.passed():
            passed.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not passed.wait(0.1)
    holder.kill()
    assert passed.wait(GIVE_UP_SECONDS)
    waiting.join()
    hold(path)  # nothing of ours holds it any more


def test_a_gate_that_opens_after_its_writer_gave_up_is_shut_again_for_nobody(
    tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "GATE_SECONDS", 0.1)
    ours, path = WriteGate(tmp_path / "gate"), tmp_path / "gate"
    holder = hold(path)
    with pytest.raises(TimeoutError), ours.passed():
        raise AssertionError("it is held")
    holder.kill()
    wait_for(lambda: "write-gate" not in {thread.name for thread in threading.enumerate()})
    hold(path)
    with pytest.raises(TimeoutError), ours.passed():
        raise AssertionError("it is held again")


def test_a_writer_waits_for_a_long_transaction_that_was_announced(
    tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "GATE_SECONDS", 0.1)
    ours, path, passed = WriteGate(tmp_path / "gate"), tmp_path / "gate", threading.Event()
    holder = hold(path, "announced")

    def wait() -> None:
        with ours.passed(is_long=True):
            assert path.read_text() == f"{os.getpid()}\n"
            passed.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not passed.wait(0.5)
    holder.kill()
    assert passed.wait(GIVE_UP_SECONDS)
    waiting.join()
    assert path.read_text() == "", "or the next one would be taken for a long one"


def test_a_report_is_written_again_and_nothing_is_sent_again(
    small_world: World, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate is held from the post until the sender has given up waiting for it once."""
    monkeypatch.setattr(db, "GATE_SECONDS", 0.2)
    small_world.receiver.answers = ["hang"]
    browser = small_world.browser()
    browser.begin("abc", "app")
    browser.prove(small_world.totp())
    wait_for(lambda: small_world.receiver.callbacks)
    with logged() as log:
        holder = hold(Path(f"{small_world.database.url.database}.gate"))
        wait_for(lambda: "write_gate_is_held" in log.getvalue())
        holder.kill()
        wait_for(lambda: small_world.rows(Attempt)[0].ended_at)
    assert [(row.number, row.fate) for row in small_world.rows(Attempt)][:1] == [(1, "unclear")]
    assert "delivery_fault" not in log.getvalue()


def test_one_at_a_time_over_threads_and_processes(tmp_path: Path) -> None:
    path, file = tmp_path / "gate", tmp_path / "count"
    file.write_text("0")
    others = [subprocess.Popen([sys.executable, "-c", WRITE, str(path), str(file), "200"]) for _ in range(3)]
    ours = WriteGate(path)

    def write() -> None:
        for _ in range(100):
            with ours.passed():
                number = int(file.read_text())
                time.sleep(0)
                file.write_text(str(number + 1))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(GIVE_UP_SECONDS) for other in others] == [0, 0, 0]
    assert file.read_text() == str(3 * 200 + 4 * 100)
