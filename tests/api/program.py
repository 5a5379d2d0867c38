"""A program that calls the API: its key, and the check that whatever it is answered is in the document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from flask import Flask
from openapi_core import Config, OpenAPI
from openapi_core.testing import MockRequest, MockResponse
from werkzeug.test import TestResponse

from auth_portal.services.access.api_keys import SCOPES
from auth_portal.web.api.frame import DOCUMENT_FILE
from tests.world import World

ADDRESS = "192.0.2.77"
ORIGIN = "http://127.0.0.1:8000"


@cache
def document() -> OpenAPI:
    config = Config(extra_media_type_deserializers={"application/problem+json": json.loads})
    return OpenAPI.from_dict(json.loads(DOCUMENT_FILE.read_text()), config=config)


@dataclass
class Program:
    """One key in use. Every answer is held against the document, unless it is to an address that has none."""

    world: World
    key: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def app(self) -> Flask:
        return self.world.app

    def call(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None,
        data: bytes | None = None, address: str = ADDRESS, is_described: bool = True,
    ) -> TestResponse:  # fmt: skip
        sent = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        sent |= {**self.headers, **(headers or {})}
        if body is not None:
            data = json.dumps(body).encode()
            sent = {"Content-Type": "application/json", **sent}
        client = self.app.test_client(use_cookies=False)
        response = client.open(
            f"/api/v1{path}", method=method, base_url=ORIGIN, headers=sent, data=data,
            environ_overrides={"REMOTE_ADDR": address},
        )  # fmt: skip
        if is_described:
            assert_described(method, path, response)
        return response

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        return self.call("GET", path, **kwargs)

    def post(self, path: str, body: object = None, **kwargs: Any) -> TestResponse:
        return self.call("POST", path, body, **kwargs)

    def patch(self, path: str, body: object = None, **kwargs: Any) -> TestResponse:
        return self.call("PATCH", path, body, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> TestResponse:
        return self.call("DELETE", path, **kwargs)


def assert_described(method: str, path: str, response: TestResponse) -> None:
    """The status, the headers and the body are what the document says of this address."""
    assert response.status_code < 500 or response.status_code == 503
    request = MockRequest(ORIGIN, method.lower(), f"/api/v1{path.partition('?')[0]}")
    answered = MockResponse(
        response.data, response.status_code, dict(response.headers), response.content_type or "application/json"
    )
    document().validate_response(request, answered)


def program(world: World, *scopes: str, days: int = 90, name: str = "CRM") -> Program:
    """A program with a new key; for every scope, unless some are named."""
    made = world.services.api_keys.create(name, scopes or tuple(SCOPES), days, None)
    assert made.key, made.faults
    return Program(world, made.key)


def problem(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The problem details of a refusal, which must be these."""
    assert response.status_code == status, response.text
    assert response.content_type == "application/problem+json"
    found: dict[str, Any] = json.loads(response.text)
    assert found["type"] == f"urn:auth-portal:problem:{code}", found
    assert found["status"] == status
    assert found["request_id"] == response.headers["X-Request-Id"]
    return found
