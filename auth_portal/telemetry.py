"""One JSON line per event on stderr. Refuses to write what must never be in a log.

Fields are named by the caller and pass through one gate: names that would hold a secret or a contact are
refused outright (a bug, so it raises), and long runs of digits in free text are masked, because a code or a
phone number hides there.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from contextvars import ContextVar

logger = logging.getLogger("auth_portal")
request_id: ContextVar[str] = ContextVar("request_id", default="")

FORBIDDEN = frozenset(
    {"reference", "code", "password", "seed", "secret", "phone", "email", "token", "identifier", "to"}
)
OURS = frozenset({"delivery", "verification", "route", "kind", "state"})  # made by the portal: nothing to mask in them
_DIGITS = re.compile(r"\d(?:[ -]?\d){3,}")
_ADDRESS = re.compile(r"[^\s@<>\"']+@[^\s@<>\"']+")
DETAIL_LENGTH = 200  # characters kept of what a provider answered (R42)


def mask(text: str) -> str:
    """Free text fit for a log or the database: cut to 200 characters, digits and e-mail addresses masked."""
    return _DIGITS.sub("####", _ADDRESS.sub("[e-mail]", text[: 4 * DETAIL_LENGTH]))[:DETAIL_LENGTH]


def log_event(event: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Writes one line. Times are UTC; strings are masked; a forbidden field name raises ValueError."""
    if forbidden := FORBIDDEN & fields.keys():
        raise ValueError(f"never in a log: {', '.join(sorted(forbidden))}")
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={"portal_fields": fields})


class JsonLines(logging.Formatter):
    """Formats every record, ours and a library's, as one line of JSON without a line break inside."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
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
            line["where"] = _where(record)
        return json.dumps(line, default=str)


def _where(record: logging.LogRecord) -> list[str]:
    """Files and lines of a traceback, without the values in it: those may be secrets."""
    places = []
    trace = record.exc_info[2] if record.exc_info else None
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return places[-12:]


def set_up_logging() -> None:
    """Sends our events to stderr as JSON lines. Safe to call again."""
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
