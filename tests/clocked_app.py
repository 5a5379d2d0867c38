"""The app under a clock that is read from a file, so that a test moves the time of several processes at once.

``CLOCK_OF_TEST`` names the file.
``STOP_OF_TEST`` names a place where the process kills itself, hard, the first time it passes it.
"""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from pathlib import Path

from auth_portal.bootstrap import create_app, serve
from auth_portal.gateways.flow import Answer, FlowGateway
from auth_portal.services.imports import switch, telling, work
from auth_portal.services.outbox import Outbox

_CLOCK = Path(os.environ["CLOCK_OF_TEST"])
_STOP = os.environ.get("STOP_OF_TEST", "")
_DIED = _CLOCK.with_suffix(".died")


def clock() -> datetime:
    """The time in the file, or the system's where the file says so."""
    text = _CLOCK.read_text().strip()
    return datetime.now(UTC) if text == "system" else datetime.fromisoformat(text)


def die_once() -> None:
    """Kills this process like a power cut, once."""
    try:
        _DIED.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


if _STOP == "between claim and post":
    _send = FlowGateway.send

    def _die_before(self: FlowGateway, *args: object, **kwargs: object) -> Answer:
        die_once()
        return _send(self, *args, **kwargs)  # type: ignore[arg-type]

    FlowGateway.send = _die_before  # type: ignore[method-assign]

if _STOP == "between post and record":
    _record = Outbox.record

    def _die_after(self: Outbox, *args: object) -> object:
        die_once()
        return _record(self, *args)  # type: ignore[arg-type]

    Outbox.record = _die_after  # type: ignore[method-assign, assignment]

if _STOP == "while staging":
    add_faults = getattr(work, "add_faults")  # noqa: B009

    def _die_in_a_batch(*args: object) -> None:
        add_faults(*args)
        die_once()

    setattr(work, "add_faults", _die_in_a_batch)  # noqa: B010

if _STOP in ("within the switch", "within the undo"):
    _whole = {"within the switch": "switch", "within the undo": "undo"}[_STOP]
    _act = getattr(switch, _whole)

    def _die_before_the_commit(*args: object) -> int:
        written = _act(*args)
        die_once()
        return int(written)

    setattr(switch, _whole, _die_before_the_commit)

if _STOP == "while telling":
    _hold = getattr(telling, "hold")  # noqa: B009
    _batches: list[object] = []

    def _die_in_the_second_batch(*args: object, **values: object) -> None:
        _hold(*args, **values)
        _batches.append(args)
        if len(_batches) > 1:
            die_once()

    setattr(telling, "hold", _die_in_the_second_batch)  # noqa: B010

app = create_app(clock=clock)
serve(app)
