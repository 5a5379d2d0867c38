"""What the portal says of its own work: a log, and counts.

The log is one JSON line per event on stderr. The caller names the fields, and all of them pass one gate: a name that
would hold a secret or a contact raises (it is a bug), and numbers in free text are masked where they may be a code or a
phone number.

``METRICS`` lists all that is counted. A process counts in memory (``Counts``), after the commit of what it counts, and
its heartbeat adds the counts to the database every 5 s, so that every process of every machine shows the same totals.
To count in the transaction itself would cost each verification a statement, and all of them the lock of one row.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
import unicodedata
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from itertools import product
from types import TracebackType
from typing import NamedTuple

logger = logging.getLogger("auth_portal")
ORIGIN_FACTS = ("address", "browser", "command", "account", "api_key", "key", "request")
BROWSER_LENGTH = 200  # characters of what a browser says of itself; the longest that one sends today has some 150
request_id: ContextVar[str] = ContextVar("request_id", default="")


class Origin(NamedTuple):
    """Where an act comes from: a client's address, or a command and the operating-system user who runs it."""

    address: str = ""
    command: str = ""  # such as ``auth-portal config import``
    account: str = ""  # the user and machine
    is_judged: bool = False  # by this machine's clock: a form, a customer's page, what ends or sends in the background
    browser: str = ""  # as it names itself
    api_key: str = ""  # the id of the API key, if a program does it
    key: str = ""  # its name
    is_recorded: bool = False  # by each event: an act of an admin, a program or a command, and no customer's

    def facts(self) -> dict[str, str]:
        """Return what an audit event records of it, by name: some of ORIGIN_FACTS. It says nothing of a customer."""
        shown = "".join(filter(str.isprintable, self.browser))[:BROWSER_LENGTH]
        values = (self.address, shown, self.command, self.account, self.api_key, self.key, request_id.get())
        return {name: value for name, value in zip(ORIGIN_FACTS, values, strict=True) if value}


origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039 -- immutable


class Metric(NamedTuple):
    """Something that is counted. With ``ends``, the upper ends in seconds of its buckets, it is a histogram.

    ``shown`` are the values of labels with which it is shown before anything was counted: Prometheus sees a rise only
    from one value to the next, and of an error the first one matters.
    """

    help: str
    labels: tuple[str, ...]
    ends: tuple[float, ...] = ()
    shown: tuple[tuple[str, ...], ...] = ()
    has_hours: bool = True  # whether each hour is stored, in addition to the total of all hours


TRIES = ("1", "2", "3-5", "6+")  # how often a delivery was tried, as it is counted
METRICS: Mapping[str, Metric] = {
    "requests": Metric(
        "Requests that were answered, by the class of their status.",
        ("status",),
        shown=(("2xx",), ("3xx",), ("4xx",), ("5xx",)),
    ),
    "request_seconds": Metric(
        "How long requests took, by the template of their route, their method and the class of their status.",
        ("route", "method", "status"),
        (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
        has_hours=False,
    ),
    "verifications_began": Metric("Verifications that began.", ("journey",)),
    "verifications_ended": Metric(
        "Verifications that ended, by outcome and by the methods that were proved.", ("journey", "outcome", "methods")
    ),
    "verification_stages": Metric(
        "Verifications that ended, by the furthest stage, and by what became of their codes. An hour has those that "
        "began in it. The only stage of journeys without a proof is done.",
        ("journey", "outcome", "stage", "code"),
    ),
    "answer_seconds": Metric(
        "From the end of a verification with at least one proof to the acceptance of its result by Flow. An hour has "
        "those that began in it.",
        ("journey", "outcome"),
        (0.1, 0.25, 0.5, 1, 2, 5, 15, 60, 300),
    ),
    "proof_seconds": Metric(
        "From the beginning of a verification to its success.", ("journey",), (10, 20, 30, 60, 120, 300, 600)
    ),
    "callback_seconds": Metric(
        "From the end of a verification to the acceptance of its result.", (), (0.1, 0.25, 0.5, 1, 2, 5, 15, 60, 300)
    ),
    "checks": Metric("Proofs that were checked, by method and result.", ("method", "result")),
    "messages": Metric(
        "Attempts to hand a message to its channel: those accepted or unclear are paid for.",
        ("channel", "country", "fate"),
    ),
    "messages_ended": Metric(
        "Messages that are no longer tried after at least one attempt, by their state.", ("channel", "country", "state")
    ),
    "message_seconds": Metric(
        "From the request for a code to its acceptance by the channel.",
        ("channel",),
        (0.5, 1, 2, 3, 5, 10, 30, 60),
    ),
    "callback_attempts": Metric(
        "Attempts to send a result to Flow.",
        ("fate",),
        shown=(("accepted",), ("refused",), ("retry",), ("unclear",)),
    ),
    "deliveries_ended": Metric(
        "Callbacks and messages that are no longer tried, by their state and by how often they were tried.",
        ("kind", "state", "tries"),
        shown=tuple(product(("callback",), ("accepted", "refused", "unconfirmed", "given_up"), TRIES)),
    ),
    "limits_hit": Metric("Limits that refused or held something back.", ("limit",)),
}
BUCKET, SUM = "_bucket", "_sum"  # the endings of the names under which the parts of a histogram are counted

# Home shows these by point of its charts, of an earlier range the last of them alone, and histograms by range.
BY_POINT = ("verifications_began", "messages_ended", "verification_stages")
BY_RANGE = ("answer_seconds" + BUCKET, "proof_seconds" + BUCKET, "message_seconds" + BUCKET)


class Block(NamedTuple):
    """A length of time whose counts are read as one; it begins at a multiple of its hours in the day (UTC).

    The sums of several hours stand at the first one, under the names of the counts after ``prefix``. A row with the
    name ``mark`` says that all of them are there, so that a month is read from a part of its rows.
    """

    hours: int

    @property
    def mark(self) -> str:
        """Return the name of the row that says that the sums are there."""
        return f"{self.hours}h"

    @property
    def prefix(self) -> str:
        """Return what stands before the names of its sums: nothing for the hour itself."""
        return f"{self.mark}:" if self.hours > 1 else ""

    def begins_at(self, hour: datetime) -> bool:
        """Report whether one begins with an hour (UTC)."""
        return hour.hour % self.hours == 0


SUMMED, ONE_HOUR = (Block(24), Block(6)), Block(1)


class Counted(NamedTuple):
    """What rises when something is counted: a metric, the values of its labels, and an hour that is not the present."""

    name: str
    labels: tuple[str, ...]
    hour: datetime | None = None  # UTC


class Counts:
    """What a process has counted for one database and not written there yet. For any number of threads.

    ``noted`` is what came since the last ``take``: what rises, and by how much, or for a histogram the seconds. To
    append to it takes no lock.
    """

    def __init__(self) -> None:
        self.noted: deque[tuple[Counted, float]] = deque()
        self._left: dict[Counted, float] = {}
        self._lock = threading.Lock()

    def add(self, name: str, *labels: str, value: float = 1) -> None:
        """Count under a name of METRICS, with the values of its labels."""
        self.noted.append((Counted(name, labels), value))

    def is_empty(self) -> bool:
        """Report whether nothing waits to be written."""
        return not (self.noted or self._left)

    def take(self) -> dict[Counted, float]:
        """Return all that was counted, by the names under which it is stored, and begin at nothing again."""
        with self._lock:
            values, self._left = self._left, {}
            for _ in range(len(self.noted)):
                key, value = self.noted.popleft()
                parts = [(key, value)]
                if ends := METRICS[key.name].ends:
                    place = bisect_left(ends, value)
                    end = f"{ends[place]:g}" if place < len(ends) else "+Inf"
                    buckets = Counted(key.name + BUCKET, (*key.labels, end), key.hour)
                    parts = [(buckets, 1), (key._replace(name=key.name + SUM), max(0.0, value))]
                for part, rise in parts:
                    values[part] = values.get(part, 0) + rise
        return values

    def put_back(self, values: Mapping[Counted, float]) -> None:
        """Add what was taken and could not be written."""
        with self._lock:
            for key, value in values.items():
                self._left[key] = self._left.get(key, 0) + value


def some_tries(number: int) -> str:
    """Return how often a delivery was tried, as one of TRIES."""
    return TRIES[bisect_right((1, 2, 3, 6), number) - 1]


def metric_of(name: str) -> Metric:
    """Return the metric that is counted under a name, or one of whose parts is."""
    return METRICS.get(name) or METRICS[name.removesuffix(BUCKET).removesuffix(SUM)]


FORBIDDEN = frozenset(
    {"reference", "code", "password", "seed", "secret", "phone", "email", "token", "identifier", "to"}
)
OURS = frozenset(
    {"delivery", "verification", "route", "kind", "state", "head"}
)  # made by the portal: they contain nothing to mask
_ADDRESS = re.compile(r"[^\s@<>\"']+(?:@|%40)[^\s@<>\"']+")
# A number of six digits or more, however it is divided: codes have at least six, and so have phone numbers.
_BETWEEN = r"(?:%20|\+|(?!\. )[ \-./()_\u00a0\u00b7\u2010-\u2015\u2212\u202f]{1,3}|)"
_DIGITS = rf"\d(?:{_BETWEEN}\d)"
_NUMBER = re.compile(_DIGITS + "{5,}")
_SHORT_NUMBER = re.compile(_DIGITS + "{3,}")
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_HOUR = r"[0-2]\d:[0-5]\d(?::[0-6]\d(?:[.,]\d{1,9})?)?(?: ?(?:Z\b|UTC\b|[+-][01]\d:?[0-5]\d(?!\d)))?"
_DAY_OF_MONTH, _MONTH_OF_YEAR, _YEAR = "(?:0?[1-9]|[12][0-9]|3[01])", "(?:0?[1-9]|1[0-2])", "(?:19|20)[0-9]{2}"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_ALONE = r"(?![0-9]|[ ./()-]{1,2}[0-9])"  # no longer number goes on behind it
# What consists of digits and is neither: it stays, because the reader of a diagnosis needs it.
_STAYS = re.compile(
    "|".join(
        (
            rf"\b{_YEAR}([-/]){_MONTH_OF_YEAR}\1{_DAY_OF_MONTH}(?:[T ]{_HOUR}|(?![0-9]))",
            rf"\b{_DAY_OF_MONTH}([./-]){_MONTH_OF_YEAR}\2{_YEAR}(?: {_HOUR}|(?![0-9]))",
            rf"\b{_DAY_OF_MONTH}[ -]{_MONTH}[ -]{_YEAR}(?: {_HOUR}|(?![0-9]))",
            rf"\b{_MONTH} +{_DAY_OF_MONTH},?(?: {_HOUR})? {_YEAR}(?![0-9])",
            rf"\b{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])T?(?:[01][0-9]|2[0-3])[0-5][0-9][0-5][0-9]Z?(?![0-9])",
            rf"(?<![\d:]){_HOUR}(?![\d:])",
            rf"(?<![\d.+]){_OCTET}(?:\.{_OCTET}){{3}}(?::[0-9]{{1,5}})?(?!\d|\.\d)",  # an IPv4 address
            r"\bports?[\"']?[ :=]*[\"']?[0-9]{1,5}(?![0-9])",
            rf"(?i:(?:localhost|[\w-]\.[a-z]{{2,24}}|\]):[0-9]{{1,5}}{_ALONE})",
            # A status behind its protocol, or before a number that is whole without it.
            r"(?i:\b(?:http(?:/[0-9.]+)?|smtp|status(?:[ _-]?code)?)[\"']?[ :=]*[\"']?[1-5][0-9]{2}(?![0-9]))",
            r"(?<![\d.+])(?<!\d[ .-])[245][0-9]{2}[ -](?=[0+]|[0-9]{10})",
            r"(?<![\d.])[245]\.[0-7]\.[0-9]{1,3}(?!\d|\.\d)",  # RFC 3463
            rf"(?i:err(?:or|no)?[ _-]?(?:code|number|no|num|id)?[\"']?[ :=#]*[\"']?[0-9]{{2,7}}{_ALONE})",
            r"\b0x[0-9A-Fa-f]+",
            r"(?i:\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b)",
            r"(?i:(?:queued(?: for delivery)? as|\b[a-z]*(?:queue|message|request|trace)[ _-]?id)"
            r"[\"']?[ :=]*[\"']?[\w.-]+)",
            # An id, whose letters and digits alternate. Those of \u00a0 and %20 do so too.
            r"(?<![\w\\%])[a-zA-Z]*(?:[0-9]{1,7}[a-zA-Z]+){2,}[0-9]{0,7}(?!\w)",
        )
    )
)
FRAMES = 12  # of a traceback, the innermost
DETAIL_LENGTH = 200  # characters stored of a provider's answer (R42)


def mask(text: str) -> str:
    """Return free text fit for a log or the database: at most 200 characters, codes, phone numbers and emails masked.

    A number of six digits or more is masked, in any notation, unless it says what it is: a status, an address, a port,
    an error number, a time, or the id of a message.
    """
    text = _ADDRESS.sub("[e-mail]", text[: 4 * DETAIL_LENGTH])
    if _NUMBER.search(text):
        shown, end = "", 0
        for kept in _STAYS.finditer(text):
            shown += _NUMBER.sub("####", text[end : kept.start()]) + kept[0]
            end = kept.end()
        text = shown + _NUMBER.sub("####", text[end:])
    return text[:DETAIL_LENGTH]


def without_numbers_of(sent: str, text: str) -> str:
    """Return text without the numbers that are in what was sent, in any notation and in any shape that ``mask`` leaves.

    A phone number is found without its country code as well.
    """
    numbers = {_digits(found[0]) for found in _SHORT_NUMBER.finditer(sent)}

    def shown(found: re.Match[str]) -> str:
        digits = _digits(found[0])
        is_sent = any(
            number in digits or (number.endswith(digits.lstrip("0")) and len(digits) > len(number) / 2)
            for number in numbers
        )
        return "####" if is_sent else found[0]

    return _SHORT_NUMBER.sub(shown, text) if numbers else text


def _digits(text: str) -> str:
    """Return the digits of a text, of any script, as ASCII."""
    return "".join(str(unicodedata.decimal(sign)) for sign in text if sign.isdecimal())


def log_event(event: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Write one line. Times are UTC, strings are masked. Raise ValueError for a forbidden field name."""
    if forbidden := FORBIDDEN & fields.keys():
        raise ValueError(f"never in a log: {', '.join(sorted(forbidden))}")
    if logger.isEnabledFor(level):  # without ``log``, which looks up the line of the caller
        logger.handle(logger.makeRecord(logger.name, level, "", 0, event, (), None, extra={"portal_fields": fields}))


class JsonLines(logging.Formatter):
    """Every record, ours and a library's, as one line of JSON without a line break inside."""

    _encode = json.JSONEncoder(default=str).encode

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
        return self._encode(line)


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


def set_up_logging(level: str = "") -> None:
    """Send our events from a level on to stderr as JSON lines, and gunicorn's own there in the same form.

    Safe to call again, also for another level; the first one is "info".
    """
    if level or not logger.handlers:
        logger.setLevel(level.upper() or logging.INFO)
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for server_handler in logging.getLogger("gunicorn.error").handlers:  # none under a command or another server
        server_handler.setFormatter(handler.formatter)
    logger.addHandler(handler)
    logger.propagate = False
