"""Where the API begins, and its own description: OpenAPI 3.1, the same bytes for everybody, without a key."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from flask import Response

from auth_portal.web.api.frame import answer, api, sent

DOCUMENT = "/api/v1/openapi.json"
FILE = Path(__file__).with_name("openapi.json")


@cache
def _document() -> bytes:
    return FILE.read_bytes()


@api.get("/", strict_slashes=False)
def read_start() -> Response:
    """Where the document is, for whoever asks at the door (RFC 8631)."""
    response = sent(answer({"document": DOCUMENT}))
    response.headers["Link"] = f'<{DOCUMENT}>; rel="service-desc"; type="application/json"'
    return response


@api.get("/openapi.json")
def read_document() -> Response:
    """The document."""
    return Response(_document(), content_type="application/json")
