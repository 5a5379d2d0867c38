"""Errors of the API as problem details (RFC 9457): one shape, wherever they were raised.

A detail says what to do, and never repeats a value that was sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Response
from werkzeug.http import HTTP_STATUS_CODES

from auth_portal.i18n import ERRORS, error_text
from auth_portal.telemetry import request_id

PREFIX = "/api/"  # what the API's paths begin with
MEDIA_TYPE = "application/problem+json"
TYPE = "urn:auth-portal:problem:"  # what a problem's type begins with; the rest is its code

DETAILS = {
    "bad_request": "The request could not be read.",
    "bad_json": "The body must be one JSON object in UTF-8, without repeated names.",
    "body_invalid": "Some of the values cannot be used. 'errors' names each of them.",
    "query_invalid": "Some of the parameters cannot be used. 'errors' names each of them.",
    "cursor_invalid": "'after' must be the 'next' of an earlier page.",
    "changes_forgotten": "What changed since this 'after' is no longer known in full. Begin again without it.",
    "key_missing": "Send a key as 'Authorization: Bearer portal_…'. An owner creates one under API keys.",
    "key_wrong": "This key is unknown, has expired or was revoked.",
    "scope_missing": "This key does not allow this request. An owner can create one that does.",
    "cross_site": "A browser sent this from another website.",
    "bad_host": "This host name is not served here.",
    "not_found": "There is nothing at this address. /api/v1/openapi.json names all addresses; none ends in a slash.",
    "customer_unknown": "No customer has this ID.",
    "customer_id_shared": "Several customers have this ID in different spellings. Use the exact spelling of one.",
    "customer_exists": "This customer ID is taken. Send a PATCH to change that customer.",
    "customer_changed": "This customer was changed at the same moment. Nothing was written; send it again.",
    "customer_not_as_seen": "This customer was changed after the version in 'If-Match'. Read it again.",
    "answer_erased": "This write was carried out before its customer was erased. Nothing was done again.",
    "journey_unknown": "There is no journey with this name.",
    "journey_closed": "This journey is switched off.",
    "verification_unknown": "There is no such verification. They are stored for 30 days, or as long as Settings says.",
    "delivery_unknown": "There is no such delivery. They are stored for 30 days, or as long as Settings says.",
    "method_not_allowed": "This address does not accept this method. 'Allow' names those that it accepts.",
    "too_large": "The body is larger than this address accepts.",
    "media_type": "Send JSON, with 'Content-Type: application/json'.",
    "idempotency_key_invalid": "'Idempotency-Key' must be 1 to 255 characters of ASCII without spaces.",
    "idempotency_key_reused": "This Idempotency-Key came with another request before. Use a new one for a new request.",
    "under_way": "The same request is being carried out. Send it again after 'Retry-After' seconds.",
    "too_many_calls": "This key was used too often. Continue after 'Retry-After' seconds.",
    "too_many_wrong_keys": "Too many wrong keys came from this address. Continue after 'Retry-After' seconds.",
    "hashing_busy": "Too many passwords are being hashed. Nothing was written; send it again.",
    "unavailable": "The portal cannot answer right now. Nothing was lost; send it again.",
    "server_error": "The portal failed. Its log has the reason under the request's ID.",
}
CHALLENGES = {  # what kind of key is needed (RFC 6750 3)
    "key_missing": "",
    "key_wrong": ', error="invalid_token"',
    "scope_missing": ', error="insufficient_scope", scope="{scope}"',
}
STATUS_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "media_type",
    503: "unavailable",
}


def problem_details(
    code: str, status: int, *, retry_after_seconds: int = 0, params: Mapping[str, object] | None = None
) -> Response:
    """Return the response to a refused request.

    ``params`` may hold ``errors`` (each a place and why), a ``scope``, and a ``why`` that is added to the detail.
    """
    params = params or {}
    document: dict[str, object] = {
        "type": TYPE + code,
        "title": HTTP_STATUS_CODES[status],  # those of Python differ from version to version
        "status": status,
        "detail": _detail(code, status, params),
        "request_id": request_id.get(),
    }
    if errors := _errors(code, status, params):
        document["errors"] = errors
    response = Response(json.dumps(document, ensure_ascii=False), status, content_type=MEDIA_TYPE)
    if retry_after_seconds:
        response.headers["Retry-After"] = str(retry_after_seconds)
    if code in CHALLENGES:
        challenge = CHALLENGES[code].format(scope=params.get("scope", ""))
        response.headers["WWW-Authenticate"] = f'Bearer realm="Auth Portal API"{challenge}'
    return response


def _errors(code: str, status: int, params: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """Return each place at fault once, with the first reason."""
    found: list[Mapping[str, str]] = list(params.get("errors", ()))
    if "field" in params:
        found.append({"pointer": f"/{params['field']}", "detail": _detail(code, status, params)})
    for fault in params.get("faults", ()):
        found += _errors(fault.code, fault.status, fault.params)
    places = [error.get("pointer", error.get("parameter")) for error in found]
    return [error for number, error in enumerate(found) if places[number] not in places[:number]]


def _detail(code: str, status: int, params: Mapping[str, object]) -> str:
    """Return the API's own words for a code, otherwise the caller's, otherwise those of the pages."""
    if code in DETAILS:
        return f"{DETAILS[code]} {params['why']}" if "why" in params else DETAILS[code]
    if "detail" in params:
        return str(params["detail"])
    if code in ERRORS:
        return error_text(code)
    is_ours = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return DETAILS[STATUS_CODES.get(status, "server_error" if is_ours else "bad_request")]
