"""What every route of the API shares: the key and its scope, JSON in and out, and writes that may be repeated.

No cookie is read here. A refusal names each value that cannot be used, with its place. The description of the API,
``openapi.json``, is the same for every caller and needs no key; neither does the page that is made of it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, g, render_template, request
from flask.sansio.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from werkzeug.routing import BaseConverter

from auth_portal.errors import Problem
from auth_portal.services.access.api_answers import ApiResponse, Write
from auth_portal.services.access.api_keys import Caller
from auth_portal.telemetry import log_event, origin
from auth_portal.web.context import services

PAGE = 50  # items of one page unless the program asks for fewer or more
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
DOCUMENT = "/api/v1/openapi.json"
REFERENCE = "/api/v1/docs"
DOCUMENT_FILE = Path(__file__).with_name("openapi.json")  # OpenAPI 3.1

api = Blueprint("api", __name__, url_prefix="/api/v1")


class Anything(BaseConverter):
    """A part of a path that may contain slashes, as customer IDs do; only the last part can be one."""

    regex = "(?s:.+)"  # a line break too: whether a name can have one is not revealed before the key is checked
    part_isolating = False


@api.record_once
def _add_converter(state: BlueprintSetupState) -> None:
    state.app.url_map.converters["anything"] = Anything


SCOPE_OF: dict[str, str] = {}  # endpoint: the scope that its key needs; an open one is missing

View = Callable[..., ResponseReturnValue]
Rule = Callable[[str], str]  # of a parameter: why its value cannot be used, or an empty text


def route(rule: str, *, scope: str, method: str = "GET", largest: int = 0) -> Callable[[View], View]:
    """Register a view for keys with ``scope``. ``largest`` is the most bytes of its body, if not 64 KiB."""

    def add(view: View) -> View:
        @wraps(view)
        def guarded(**values: Any) -> ResponseReturnValue:
            found = _BEARER.fullmatch(request.headers.get("Authorization", "").strip())
            if found is None:
                raise Problem("key_missing", status=401)
            try:
                g.caller = services().api_keys.enter(found.group(1), g.address)
            except Problem as refused:
                log_event("api_key_refused", why=refused.code)
                raise
            by = {"api_key": g.caller.key_id, "key": g.caller.name, "browser": "", "is_recorded": True}
            origin.set(origin.get()._replace(**by))
            if scope not in caller().scopes:
                raise Problem("scope_missing", status=403, scope=scope)
            if _CONTROLS.search(request.path):
                raise Problem("not_found", status=404)  # no name has a control character
            if largest:
                request.max_content_length = largest
            return view(**values)

        SCOPE_OF[f"api.{view.__name__}"] = scope
        api.add_url_rule(rule, view.__name__, guarded, methods=[method])
        return view

    return add


@api.after_request
def _without_a_page(response: Response) -> Response:
    """Remove the type from a response to OPTIONS, which has no body."""
    if request.method == "OPTIONS" and not response.get_data():
        response.status_code = 204
        response.headers.pop("Content-Type", None)
    return response


def caller() -> Caller:
    """Return the program that this request comes from."""
    found: Caller = g.caller
    return found


# -- what comes in ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InputFault:
    """Where something cannot be used (a JSON pointer, or the name of a parameter), and why."""

    place: str
    reason: str

    def as_error(self) -> dict[str, str]:
        """Return the fault as a member of ``errors``."""
        return {"pointer" if self.place.startswith("/") else "parameter": self.place, "detail": self.reason}


def refuse(code: str, faults: Sequence[InputFault]) -> Problem:
    """Return the problem that names what cannot be used (422)."""
    return Problem(code, status=422, errors=[fault.as_error() for fault in faults])


def read_json() -> dict[str, Any]:
    """Return the body, one JSON object. Raise Problem 415 for another type, and 400 with the reason for other text."""
    if request.mimetype not in (JSON, *([MERGE_PATCH] if request.method == "PATCH" else ())):
        raise Problem("media_type", status=415)
    try:
        found = json.loads(request.get_data().decode(), object_pairs_hook=_without_repeats, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair cannot be stored as text
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
        """Return ``after`` of a list in the order of ids. Raise Problem 422 if it never was a ``next``."""
        if self.after and is_id(self.after):
            raise refuse("query_invalid", [InputFault("after", NO_CURSOR)])
        return self.after

    def text_after(self) -> str:
        """Return the text from which ``cursor`` made ``after``. Raise Problem 422 if it did not."""
        try:
            text = base64.b64decode(self.after + "=" * (-len(self.after) % 4), b"-_", validate=True).decode()
        except ValueError:
            text = "\0"
        if _CONTROLS.search(text):  # which no database could search for
            raise refuse("query_invalid", [InputFault("after", NO_CURSOR)])
        return text


def cursor(text: str) -> str:
    """Return a text as a cursor that any program can put into an address as it is."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_query(**filters: Rule) -> tuple[dict[str, str], Paging]:
    """Return the filters of a list, each checked by its rule, and the page. Raise Problem 422 for any other."""
    rules = {
        **filters,
        "after": lambda value: "" if _CURSOR.fullmatch(value) else NO_CURSOR,
        "limit": _is_limit,
    }
    faults = [InputFault(name, "is not a parameter of this address") for name in request.args.keys() - rules.keys()]
    values = {name: request.args[name] for name in rules if name in request.args}
    for name, value in values.items():
        if fault := "is given twice" if len(request.args.getlist(name)) > 1 else rules[name](value):
            faults.append(InputFault(name, fault))
    if faults:
        raise refuse("query_invalid", sorted(faults, key=lambda fault: fault.place))
    return values, Paging(values.pop("after", ""), int(values.pop("limit", PAGE)))


def is_id(value: str) -> str:
    """Check the id of a verification or a delivery: a rule."""
    return "" if _ID.fullmatch(value) else "must be an id: 32 hexadecimal digits"


def is_time(value: str) -> str:
    """Check a time with its zone (RFC 3339): a rule."""
    return "" if _moment(value) else "must be a time with its zone, such as 2026-11-22T19:05:00Z (write a + as %2B)"


def read_time(value: str | None) -> datetime | None:
    """Return a time that passed ``is_time``, in UTC; None if it was not given."""
    return _moment(value) if value is not None else None


def _moment(value: str) -> datetime | None:
    if not _TIME.fullmatch(value):
        return None
    try:
        return max(datetime.fromisoformat(value.upper()).astimezone(UTC), EPOCH)  # nothing is older
    except (ValueError, OverflowError):
        return None


def is_text(value: str) -> str:
    """Check a text in one line: a rule."""
    return (
        "must be 1 to 200 characters in one line"
        if not value or len(value) > LONGEST or _CONTROLS.search(value)
        else ""
    )


def one_of(*known: str) -> Rule:
    """Return a rule that accepts one of these words."""
    return lambda value: "" if value in known else f"must be one of {', '.join(known)}"


def _is_limit(value: str) -> str:
    is_number = value.isascii() and value.isdigit() and len(value) <= len(str(MOST_OF_PAGE))
    return "" if is_number and 1 <= int(value) <= MOST_OF_PAGE else f"must be a whole number from 1 to {MOST_OF_PAGE}"


# -- what goes out ------------------------------------------------------------------------------------------------


def answer(document: Mapping[str, Any], status: int = 200, *, location: str = "") -> ApiResponse:
    """Return an answer with a JSON document."""
    return ApiResponse(status, json.dumps(document, ensure_ascii=False), location)


def page(found: Sequence[Mapping[str, Any]], following: str) -> Response:
    """Return one page of a list; ``next`` is the ``after`` of the following page, or null."""
    return sent(answer({"data": list(found), "next": following or None}))


def changes_page(found: Sequence[Mapping[str, Any]], place: str, *, is_more: bool) -> Response:
    """Return what changed; ``next`` is where to go on in any case, at once if there is ``more``."""
    return sent(answer({"data": list(found), "next": cursor(place), "more": is_more}))


def sent(answered: ApiResponse, *, is_repeated: bool = False) -> Response:
    """Return the response for an answer."""
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


def once(view: Callable[..., ApiResponse]) -> View:
    """Return a view that carries a write out, or repeats the answer that its Idempotency-Key was given before.

    ``view`` gets a ``Write`` as its first argument and returns the answer, which it may have stored with the write.
    """

    @wraps(view)
    def repeatable(**values: Any) -> Response:
        answers, claim = services().api_answers, None
        if (idempotency_key := request.headers.get("Idempotency-Key")) is not None:
            if not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
                raise Problem("idempotency_key_invalid")
            body, condition = request.get_data().decode("latin-1"), request.headers.get("If-Match")
            asked = [
                request.method,
                request.full_path,
                request.mimetype,
                body,
                *([] if condition is None else [condition]),
            ]
            claim = answers.claim(caller().key_id, idempotency_key, "\0".join(asked))
            if claim.answer is not None:
                return sent(claim.answer, is_repeated=True)
        write = Write(answers, claim)
        try:
            answered = view(write, **values)
            if claim is not None and not write.is_settled:
                answers.settle(claim, answered)
        except BaseException:
            if claim is not None:
                answers.release(claim)
            raise
        return sent(answered)

    return repeatable


# -- the description ----------------------------------------------------------------------------------------------


@api.get("/", strict_slashes=False)
def read_start() -> Response:
    """Return where the document is, and the reference (RFC 8631)."""
    response = sent(answer({"document": DOCUMENT, "reference": REFERENCE}))
    links = (DOCUMENT, "service-desc", JSON), (REFERENCE, "service-doc", "text/html")
    response.headers["Link"] = ", ".join(f'<{path}>; rel="{rel}"; type="{media}"' for path, rel, media in links)
    return response


@api.get("/openapi.json")
def read_document() -> Response:
    """Return the document."""
    return Response(DOCUMENT_FILE.read_bytes(), content_type=JSON)


@api.get("/docs")
def read_reference() -> Response:
    """Return the document as a page for people. It needs no key, and requests nothing from elsewhere."""
    return Response(reference_page(), content_type="text/html; charset=utf-8")


@cache
def reference_page() -> str:
    """Return the page. It is made once in each process: anyone may ask for it."""
    document, pretty = json.loads(DOCUMENT_FILE.read_bytes()), partial(json.dumps, indent=2, ensure_ascii=False)
    return render_template("api/docs.html", document=document, pretty=pretty)
