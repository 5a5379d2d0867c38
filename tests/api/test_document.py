"""The document is sound, and Schemathesis finds nothing in the portal that is not in it: no 5xx, answers as described."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import validate
from schemathesis import checks
from schemathesis.generation.case import Case

from auth_portal.web.api.frame import DOCUMENT_FILE
from tests.api.program import ADDRESS, program
from tests.receiver import Receiver
from tests.world import World, open_world

HOST = {"PORTAL_PUBLIC_URL": "http://localhost"}  # what Schemathesis calls itself
# A schema cannot say what a phone number is, so what fits it may still be refused.
LEFT_OUT = [checks.positive_data_acceptance]
EXAMPLES = 12  # of each operation, each way
DOCUMENT = "/api/v1/openapi.json"
OPEN = (DOCUMENT, "/api/v1/", "/api/v1/docs")
BOUNDED = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)  # fmt: skip


class Slowly:
    """The portal with a second between any two requests, so that no limit of a minute ends the trial."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.requests = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.world.clock.advance(1)
        self.requests += 1
        return self.world.app({**environ, "REMOTE_ADDR": ADDRESS}, start_response)


@pytest.fixture
def portal(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[Slowly]:
    with open_world(tmp_path, sqlite_url, receiver, settings=HOST) as world:
        yield Slowly(world)


@pytest.fixture
def described(portal: Slowly) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_wsgi("/api/v1/openapi.json", portal)


@pytest.fixture
def key(portal: Slowly) -> str:
    """A key that outlives the trial's moving clock."""
    return program(portal.world, days=365).key


def operations(but: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    paths = json.loads(DOCUMENT_FILE.read_text())["paths"]
    return [(path, method) for path, methods in paths.items() if path not in but for method in methods]


def test_the_document_is_openapi_3_1() -> None:
    document = json.loads(DOCUMENT_FILE.read_text())
    assert document["openapi"].startswith("3.1.")
    validate(document)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: str(mode.value))
@pytest.mark.parametrize(("path", "method"), operations(but=OPEN))
def test_answers_are_as_described(
    portal: Slowly,
    described: schemathesis.BaseSchema,
    key: str,
    path: str,
    method: str,
    mode: schemathesis.GenerationMode,
) -> None:
    @given(case=described[path][method].as_strategy(generation_mode=mode))
    @BOUNDED
    def trial(case: Case[Any]) -> None:
        if mode is schemathesis.GenerationMode.POSITIVE and "customer_id" in case.path_parameters:
            case.path_parameters["customer_id"] = "C-1001"  # somebody who is there
        case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, excluded_checks=LEFT_OUT)

    trial()
    assert portal.requests > 1  # the document's own, and those of the trial


@pytest.mark.parametrize(("path", "method"), operations())
def test_without_a_key_nothing_is_answered_but_the_document(
    described: schemathesis.BaseSchema, path: str, method: str
) -> None:
    @given(case=described[path][method].as_strategy())
    @BOUNDED
    def trial(case: Case[Any]) -> None:
        response = case.call()
        assert response.status_code in ((200,) if path in OPEN else (400, 401, 429))
        case.validate_response(response, excluded_checks=LEFT_OUT)

    trial()
