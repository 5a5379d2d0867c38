"""One JSON line per event on stderr, without anything that must never be in a log.

The caller names the fields, and all of them pass one gate: a name that would hold a secret or a contact raises (it is a
bug), and long runs of digits in free text are masked, because they may be a code or a phone number.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from contextvars import ContextVar
from types import TracebackType
from typing import NamedTuple

logger = logging.getLogger("auth_portal")
request_id: ContextVar[str] = ContextVar("request_id", default="")


class Origin(NamedTuple):
    """Where an act comes from: a client's address, or a command and the operating-system user who runs it."""

    address: str = ""
    command: str = ""  # such as ``auth-portal config import``
    account: str = ""  # the user and machine
    is_judged: bool = False  # by this machine's clock: a form, a customer's page, what ends or sends in the background


origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039 -- immutable

FORBIDDEN = frozenset(
    {"reference", "code", "password", "seed", "secret", "phone", "email", "token", "identifier", "to"}
)
OURS = frozenset(
    {"delivery", "verification", "route", "kind", "state", "head"}
)  # made by the portal: they contain nothing to mask
_DIGITS = re.compile(r"\d(?:[ -]?\d){3,}")
_ADDRESS = re.compile(r"[^\s@<>\"']+@[^\s@<>\"']+")
FRAMES = 12  # of a traceback, the innermost
DETAIL_LENGTH = 200  # characters stored of a provider's answer (R42)


def mask(text: str) -> str:
    """Return free text fit for a log or the database: at most 200 characters, digits and e-mail addresses masked."""
    return _DIGITS.sub("####", _ADDRESS.sub("[e-mail]", text[: 4 * DETAIL_LENGTH]))[:DETAIL_LENGTH]


def log_event(event: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Write one line. Times are UTC, strings are masked. Raise ValueError for a forbidden field name."""
    if forbidden := FORBIDDEN & fields.keys():
        raise ValueError(f"never in a log: {', '.join(sorted(forbidden))}")
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={"portal_fields": fields})


class JsonLines(logging.Formatter):
    """Every record, ours and a library's, as one line of JSON without a line break inside."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line; of a traceback only files and lines, because its values may be secrets."""
        line: dict[str, object] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage() if record.name == logger.name else mask(record.getMessage()),
        }
        if current := request_id.get():
            line["request_id"] = current
        for name, value in getattr(record, "portal_fields", {}).items():
            line[name] = mask(value) if isinstance(value, str) and name not in OURS else value
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
            if why := reason_of(record.exc_info[1]):
                line["why"] = why
            line["where"] = _frames(record.exc_info[2])
        return json.dumps(line, default=str)


def reason_of(error: BaseException | None) -> str:
    """Return why the database or the system failed, in its own words and one line; nothing for another error.

    Of a database's error this is the first line: those after it contain the statement and its values.
    """
    is_own = isinstance(error, OSError) or type(error).__module__ in ("sqlite3", "psycopg.errors")
    origin = getattr(error, "orig", None) or (error if is_own else None)
    text = getattr(origin, "strerror", None) or str(origin or "")
    return mask(text.strip().splitlines()[0].rstrip(".")) if text.strip() else ""


def _frames(trace: TracebackType | None) -> list[str]:
    """Return files and lines: the innermost of the portal itself, then the innermost of all."""
    frames, own = [], ""
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        frames.append(f"{path.rsplit('/', 1)[-1]}:{trace.tb_lineno}")
        own = frames[-1] if f"/{logger.name}/" in path else own
        trace = trace.tb_next
    innermost = frames[-FRAMES:]
    return [own, *innermost] if own and own != innermost[-1] else innermost[-1:] + innermost[:-1]


def set_up_logging() -> None:
    """Send our events to stderr as JSON lines. Safe to call again."""
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
