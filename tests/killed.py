"""The commands in a process that kills itself, hard, just before a step of its work; ``flask --app tests.killed:app``.

A step is what changes something outside the process: a statement that begins or ends a transaction or changes tables,
a file that is moved, linked, made or removed, and a program that is started. ``KILL_OF_TEST`` is the number of the step
(0 for none); ``STEPS_OF_TEST`` names the file to which each step is added.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from auth_portal.bootstrap import create_app

_WORDS = re.compile(r"(COMMIT|BEGIN IMMEDIATE|(CREATE|DROP|ALTER) (TABLE|SCHEMA)|PRAGMA journal_mode)\b")
_STEPS = Path(os.environ["STEPS_OF_TEST"])
_KILL = int(os.environ["KILL_OF_TEST"])
_seen, _last = 0, ""


def step(what: str) -> None:
    """Note a step, or die before it."""
    global _seen, _last
    if what == _last == "ALTER TABLE":  # one after the other, in one transaction
        return
    _seen, _last = _seen + 1, what
    if _seen == _KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    with _STEPS.open("a") as file:
        file.write(f"{what}\n")


def _on_audit(name: str, args: tuple[Any, ...]) -> None:
    files = ("os.rename", "os.link", "shutil.copyfile", "tempfile.mkdtemp", "shutil.rmtree")
    if name in files and any(place in str(args) for place in ("portal.db", ".auth-portal-")):
        step(name)
    elif name == "subprocess.Popen":
        step(f"{name} {Path(str(args[0])).name}")


@event.listens_for(Engine, "before_cursor_execute")
def _on_statement(_connection: object, _cursor: object, statement: str, *_: object) -> None:
    if found := _WORDS.match(statement):
        step(found[0])


@event.listens_for(Engine, "commit")
def _on_commit(_connection: object) -> None:
    step("commit")


sys.addaudithook(_on_audit)
app = create_app()
