"""What every route of the API goes through: the key and its scope, JSON in and out, and writes that may be repeated.

No cookie is read here. Whatever cannot be used is refused by name, with the place where it stands.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from flask import Blueprint, Response, g, request
from flask.sansio.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from sqlalchemy import Connection
from werkzeug.routing import BaseConverter

from auth_portal.errors import Problem
from auth_portal.services.access.api_answers import Answer
from auth_portal.services.access.api_keys import Caller
from auth_portal.telemetry import log_event
from auth_portal.web.context import services

PAGE = 50  # things of one page unless the program asks for fewer or more
MOST_OF_PAGE = 200
LONGEST = 200  # characters of a parameter
NO_CURSOR = "must be the 'next' of an earlier page"
_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_ID = re.compile(r"[0-9a-f]{32}")
_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,800}")  # the longest customer ID, of 128 characters of 4 bytes, takes 683
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_TIME = re.compile(r"[0-9-]{10}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})")
JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"  # the latter for PATCH alone (RFC 7396)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

api = Blueprint("api", __name__, url_prefix="/api/v1")


class Anything(BaseConverter):
    """A part of a path that may hold slashes, as customer IDs do; none but the last can be one."""

    regex = "(?s:.+)"  # a line's end too: whether a name can have one is not said before the key
    part_isolating = False


@api.record_once
def _add_converter(state: BlueprintSetupState) -> None:
    state.app.url_map.converters["anything"] = Anything


SCOPE_OF: dict[str, str] = {}  # endpoint: the scope that its key needs; an open one is not here

View = Callable[..., ResponseReturnValue]
Rule = Callable[[str], str]  # of a parameter: why its value cannot be used, or nothing
Keep = Callable[[Connection, Answer], None]


def route(rule: str, *, scope: str, method: str = "GET", largest: int = 0) -> Callable[[View], View]:
    """Makes a view a route for keys with ``scope``. ``largest`` is the most bytes of its body, where not 64 KiB."""

    def add(view: View) -> View:
        @wraps(view)
        def guarded(**values: Any) -> ResponseReturnValue:
            _enter(scope)
            if largest:
                request.max_content_length = largest
            return view(**values)

        SCOPE_OF[f"api.{view.__name__}"] = scope
        api.add_url_rule(rule, view.__name__, guarded, methods=[method])
        return view

    return add


def _enter(scope: str) -> None:
    found = _BEARER.fullmatch(request.headers.get("Authorization", "").strip())
    if found is None:
        raise Problem("key_missing", status=401)
    try:
        g.caller = services().api_keys.enter(found.group(1), g.address)
    except Problem as refused:
        log_event("api_key_refused", why=refused.code)
        raise
    if scope not in caller().scopes:
        raise Problem("scope_missing", status=403, scope=scope)
    if _CONTROLS.search(request.path):
        raise Problem("not_found", status=404)  # no name of anything has one


@api.after_request
def _without_a_page(response: Response) -> Response:
    """The answer to OPTIONS has no body, so it has no type either."""
    if request.method == "OPTIONS" and not response.get_data():
        response.status_code = 204
        response.headers.pop("Content-Type", None)
    return response


def caller() -> Caller:
    """The program that this request comes from."""
    found: Caller = g.caller
    return found


# -- what comes in ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Where something cannot be used (a JSON pointer, or the name of a parameter), and why."""

    place: str
    reason: str

    def told(self) -> dict[str, str]:
        """As a member of ``errors``."""
        return {"pointer" if self.place.startswith("/") else "parameter": self.place, "detail": self.reason}


def refuse(code: str, faults: Sequence[Fault]) -> Problem:
    """The problem that names what cannot be used (422)."""
    return Problem(code, status=422, errors=[fault.told() for fault in faults])


def read_json() -> dict[str, Any]:
    """The body, one JSON object. Raises Problem: 415 for another type, 400 with the reason for what is none."""
    if request.mimetype not in (JSON, *([MERGE_PATCH] if request.method == "PATCH" else ())):
        raise Problem("media_type", status=415)
    try:
        found = json.loads(request.get_data().decode(), object_pairs_hook=_without_repeats, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text that could be kept
    except json.JSONDecodeError as broken:
        why = f"This one stops being JSON at line {broken.lineno}, column {broken.colno}."
        raise Problem("bad_json", why=why) from None
    except UnicodeError:
        raise Problem("bad_json", why="This one is not in UTF-8.") from None
    except RecursionError:
        raise Problem("bad_json", why="This one is nested too deeply.") from None
    except ValueError as refused:
        raise Problem("bad_json", why=str(refused)) from None
    if not isinstance(found, dict):
        raise Problem("bad_json", why="This one is another JSON value.")
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("This one has a name twice.")
    return found


def _no_number(_name: str) -> None:
    raise ValueError("This one has a number that JSON does not know, such as NaN.")


@dataclass(frozen=True)
class Paging:
    """Which page of a list is asked for."""

    after: str
    limit: int

    def id_after(self) -> str:
        """``after`` of a list in the order of ids. Raises Problem 422 where it never was a ``next``."""
        if self.after and is_id(self.after):
            raise refuse("query_invalid", [Fault("after", NO_CURSOR)])
        return self.after

    def text_after(self) -> str:
        """``after`` of a list in the order of texts that ``cursor`` made it of. Raises Problem 422 as well."""
        try:
            text = base64.b64decode(self.after + "=" * (-len(self.after) % 4), b"-_", validate=True).decode()
        except ValueError:
            text = "\0"
        if _CONTROLS.search(text):  # which no database could look for
            raise refuse("query_invalid", [Fault("after", NO_CURSOR)])
        return text


def cursor(text: str) -> str:
    """A text as a cursor that any program can put into an address as it is."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_query(**filters: Rule) -> tuple[dict[str, str], Paging]:
    """The parameters of a list: its own filters, each with its rule, and the page. Raises Problem 422 for any other."""
    rules = {**filters, "after": _is_cursor, "limit": _is_limit}
    faults = [Fault(name, "is not a parameter of this address") for name in request.args.keys() - rules.keys()]
    values = {name: request.args[name] for name in rules if name in request.args}
    for name, value in values.items():
        if fault := "is there twice" if len(request.args.getlist(name)) > 1 else rules[name](value):
            faults.append(Fault(name, fault))
    if faults:
        raise refuse("query_invalid", sorted(faults, key=lambda fault: fault.place))
    return values, Paging(values.pop("after", ""), int(values.pop("limit", PAGE)))


def is_id(value: str) -> str:
    """A rule: the id of a verification or a delivery."""
    return "" if _ID.fullmatch(value) else "must be an id: 32 hexadecimal digits"


def is_time(value: str) -> str:
    """A rule: a time with its zone (RFC 3339)."""
    return "" if _moment(value) else "must be a time with its zone, such as 2026-11-22T19:05:00Z (write a + as %2B)"


def read_time(value: str | None) -> datetime | None:
    """A parameter that ``is_time``, in UTC; None where it was not given."""
    return _moment(value) if value is not None else None


def _moment(value: str) -> datetime | None:
    if not _TIME.fullmatch(value):
        return None
    try:
        return max(datetime.fromisoformat(value.upper()).astimezone(UTC), EPOCH)  # nothing was made before it
    except (ValueError, OverflowError):
        return None


def is_text(value: str) -> str:
    """A rule: something in one line."""
    return (
        "must be 1 to 200 characters in one line"
        if not value or len(value) > LONGEST or _CONTROLS.search(value)
        else ""
    )


def one_of(*known: str) -> Rule:
    """A rule: one of these words."""
    return lambda value: "" if value in known else f"must be one of {', '.join(known)}"


def _is_cursor(value: str) -> str:
    return "" if _CURSOR.fullmatch(value) else NO_CURSOR


def _is_limit(value: str) -> str:
    is_number = value.isascii() and value.isdigit() and len(value) <= len(str(MOST_OF_PAGE))
    return "" if is_number and 1 <= int(value) <= MOST_OF_PAGE else f"must be a whole number from 1 to {MOST_OF_PAGE}"


# -- what goes out ------------------------------------------------------------------------------------------------


def answer(document: Mapping[str, Any], status: int = 200, *, location: str = "") -> Answer:
    """An answer with a JSON document."""
    return Answer(status, json.dumps(document, ensure_ascii=False), location)


def page(found: Sequence[Mapping[str, Any]], following: str) -> Response:
    """One page of a list; ``next`` is the ``after`` of the page behind it, or null."""
    return sent(answer({"data": list(found), "next": following or None}))


def sent(answered: Answer, *, is_repeated: bool = False) -> Response:
    """The response of an answer."""
    response = Response(answered.text, answered.status, content_type="application/json")
    if not answered.text:
        del response.headers["Content-Type"]
    if answered.location:
        response.headers["Location"] = answered.location
    if answered.etag:
        response.headers["ETag"] = answered.etag
    if is_repeated:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def once(work: Callable[[Keep], Answer]) -> Response:
    """Carries a write out, or gives the answer again that its Idempotency-Key was given before.

    ``work`` may call the ``keep`` that it is handed, so that the answer commits together with the write.
    """
    idempotency_key = request.headers.get("Idempotency-Key")
    if idempotency_key is None:
        return sent(work(lambda _connection, _answer: None))
    if not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        raise Problem("idempotency_key_invalid")
    answers, kept = services().api_answers, []
    claim = answers.claim(caller().key_id, idempotency_key, _asked())
    if claim.answer is not None:
        return sent(claim.answer, is_repeated=True)

    def keep(connection: Connection, answered: Answer) -> None:
        answers.keep(connection, claim, answered)
        kept.append(answered)

    try:
        answered = work(keep)
        if not kept:
            answers.settle(claim, answered)
    except BaseException:
        answers.release(claim)
        raise
    return sent(answered)


def _asked() -> str:
    """All that a write asks for, as one text."""
    text = "\0".join((request.method, request.full_path, request.mimetype, request.get_data().decode("latin-1")))
    condition = request.headers.get("If-Match")
    return text if condition is None else f"{text}\0{condition}"
