"""The app under a clock that is read from a file, so that a test moves the time of several processes at once.

``CLOCK_OF_TEST`` names the file.
``PATIENCE_OF_TEST`` replaces the seconds that a silent client gets.
``STOP_OF_TEST`` names a place where the process kills itself, hard, the first time it passes it; ``PAUSE_OF_TEST``
one where it is suspended, as by a debugger, a moved virtual machine or a laptop's lid, until it gets SIGCONT.
"""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from auth_portal.bootstrap import create_app, serve
from auth_portal.gateways.flow import CallbackAnswer, FlowGateway
from auth_portal.services.delivery import outbox
from auth_portal.services.delivery.outbox import Outbox
from auth_portal.services.imports import notify, staging, work
from auth_portal.store import db
from auth_portal.web import server
from tests.compiled import share_templates

_CLOCK = Path(os.environ["CLOCK_OF_TEST"])
_STOP = os.environ.get("STOP_OF_TEST", "")
_DIED = _CLOCK.with_suffix(".died")
_PAUSE = os.environ.get("PAUSE_OF_TEST", "")
_PAUSED = _CLOCK.with_suffix(".paused")
_GOES_ON = _CLOCK.with_suffix(".goes_on")


def clock() -> datetime:
    """The time in the file, or the system's where the file says so, or so many seconds ahead of that: ``system+60``."""
    text = _CLOCK.read_text().strip()
    if text.startswith("system"):
        return datetime.now(UTC) + timedelta(seconds=float(text.removeprefix("system") or 0))
    return datetime.fromisoformat(text)


def _machine_clock() -> float:
    """The clock of the machine, which a moved clock of the tests is not; one that is so many seconds ahead is."""
    return clock().timestamp() if _CLOCK.read_text().startswith("system") else time.time()


db.machine_clock = _machine_clock
if _PATIENCE := float(os.environ.get("PATIENCE_OF_TEST", "0")):  # seconds in place of the worker's own deadlines
    server.SILENCE_SECONDS = server.TOTAL_SECONDS = _PATIENCE  # type: ignore[assignment]
    server.LOOK_SECONDS = _PATIENCE / 4


def die_once() -> None:
    """Kills this process like a power cut, once."""
    try:
        _DIED.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def pause_once() -> None:
    """Suspends this process, once; the file says which one it was.

    On SQLite only this thread: another one may be writing, and none writes while it is suspended.
    """
    try:
        _PAUSED.open("x").write(str(os.getpid()))
    except FileExistsError:
        return
    if "sqlite" in os.environ["PORTAL_DATABASE_URL"]:
        while not _GOES_ON.exists():
            time.sleep(0.01)
    else:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.5)  # this thread may run on for a moment before all of the process stands


if _PAUSE == "in the claim":
    _claimed = outbox.ClaimedDelivery

    def _pause_with_a_claim(**values: object) -> outbox.ClaimedDelivery:
        if values["kind"] == "callback":
            pause_once()
        return _claimed(**values)  # type: ignore[arg-type]

    setattr(outbox, "ClaimedDelivery", _pause_with_a_claim)  # noqa: B010

if _PAUSE == "after the claim":
    _claim = Outbox.claim

    def _pause_after(self: Outbox, *args: object) -> list[outbox.ClaimedDelivery]:
        claimed = _claim(self, *args)  # type: ignore[arg-type]
        if claimed and claimed[0].kind == "callback":
            pause_once()
        return claimed

    Outbox.claim = _pause_after  # type: ignore[method-assign, assignment]

if _PAUSE in ("before the post", "after the post"):
    _send_of = FlowGateway.send

    def _pause_around(self: FlowGateway, *args: object, **kwargs: object) -> CallbackAnswer:
        if _PAUSE == "before the post":
            pause_once()
        answer = _send_of(self, *args, **kwargs)  # type: ignore[arg-type]
        if _PAUSE == "after the post":
            pause_once()
        return answer

    FlowGateway.send = _pause_around  # type: ignore[method-assign]

if _STOP == "between claim and post":
    _send = FlowGateway.send

    def _die_before(self: FlowGateway, *args: object, **kwargs: object) -> CallbackAnswer:
        die_once()
        return _send(self, *args, **kwargs)  # type: ignore[arg-type]

    FlowGateway.send = _die_before  # type: ignore[method-assign]

if _STOP == "between post and record":
    _record = Outbox.record_together

    def _die_after(self: Outbox, *args: object) -> object:
        die_once()
        return _record(self, *args)  # type: ignore[arg-type]

    Outbox.record_together = _die_after  # type: ignore[method-assign, assignment]

if _STOP == "while staging":
    add_faults = getattr(work, "add_faults")  # noqa: B009

    def _die_in_a_batch(*args: object) -> None:
        add_faults(*args)
        die_once()

    setattr(work, "add_faults", _die_in_a_batch)  # noqa: B010

if _STOP in ("within the switch", "within the undo"):
    _whole = {"within the switch": "switch", "within the undo": "undo"}[_STOP]
    _act = getattr(staging, _whole)

    def _die_before_the_commit(*args: object) -> int:
        written = _act(*args)
        die_once()
        return int(written)

    setattr(staging, _whole, _die_before_the_commit)

if _STOP == "while notifying":
    _hold = getattr(notify, "hold")  # noqa: B009
    _batches: list[object] = []

    def _die_in_the_second_batch(*args: object, **values: object) -> None:
        _hold(*args, **values)
        _batches.append(args)
        if len(_batches) > 1:
            die_once()

    setattr(notify, "hold", _die_in_the_second_batch)  # noqa: B010

app = create_app(clock=clock)
share_templates(app)
serve(app)
