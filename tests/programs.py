"""Programs in processes of their own that start in a moment: forked from one that has imported everything already.

Python takes longer to import the portal than most of these tests take. What runs is the program itself, in its own
session, with its own environment, signals and exit status; only its imports are shared.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.preloaded"])


class Program:
    """One run of ``auth-portal``, ``gunicorn`` or ``flask`` with what `subprocess.Popen` has: ``pid``, `poll` and `wait`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, out: Path, err: Path) -> None:
        """Start a program whose output is appended to two files, which may be the same one."""
        for path in (out, err):
            path.touch(mode=0o600)
        self._process: ForkServerProcess = _context.Process(
            target=_run, args=(list(command), dict(environment), str(out), str(err)), daemon=True
        )
        self._process.start()
        self.pid = int(self._process.pid or 0)

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        """Return the exit status. Raises `subprocess.TimeoutExpired` when it still runs after so many seconds."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.pid), seconds)
        return self._process.exitcode

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()


def _run(command: list[str], environment: dict[str, str], out: str, err: str) -> None:
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.argv = command
    if Path(command[0]).name == "gunicorn":
        from gunicorn.app.wsgiapp import run

        run()
    elif Path(command[0]).name == "auth-portal":
        from auth_portal.__main__ import main as console

        console()
    else:
        from flask.cli import main

        main()
