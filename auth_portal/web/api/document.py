"""The API's own description, for people and for tools: OpenAPI 3.1, the same bytes for everybody, without a key."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from flask import Response

from auth_portal.web.api.frame import api

FILE = Path(__file__).with_name("openapi.json")


@cache
def _document() -> bytes:
    return FILE.read_bytes()


@api.get("/openapi.json")
def read_document() -> Response:
    """The document."""
    return Response(_document(), content_type="application/json")
