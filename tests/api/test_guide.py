"""docs/api.md: run its curl commands and compare each status with the one written above the command."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path

from auth_portal.services.access.api_keys import REQUESTS_PER_MINUTE, SCOPES, WRONG_PER_MINUTE
from auth_portal.services.imports.bulk import MOST, PLAIN_PASSWORDS
from auth_portal.web.api.frame import MOST_OF_PAGE, PAGE
from tests.api.program import Program

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
CURL = argparse.ArgumentParser()
CURL.add_argument("url")
CURL.add_argument("-X", dest="method", default="GET")
CURL.add_argument("-H", dest="headers", action="append", default=[])
CURL.add_argument("-d", dest="data")


def commands() -> list[tuple[int, list[str]]]:
    found = re.findall(r"^# (\d{3})\n(curl .+?)(?=^# \d{3}\n|^```)", GUIDE, re.MULTILINE | re.DOTALL)
    return [(int(status), shlex.split(command.replace("\\\n", " "))[1:]) for status, command in found]


def test_the_examples_do_what_they_say(caller: Program) -> None:
    assert len(commands()) == GUIDE.count("\ncurl ") == 13
    for status, words in commands():
        given = CURL.parse_args(words)
        headers = dict(header.replace("$KEY", caller.key).split(": ", 1) for header in given.headers)
        path = given.url.removeprefix("$PORTAL/api/v1")
        anybody = Program(caller.world, "")
        answer = anybody.call(given.method, path, headers=headers, data=given.data.encode() if given.data else None)
        assert answer.status_code == status, (words, answer.text)


def test_its_shown_answers_have_the_members_that_are_answered(caller: Program) -> None:
    shown = [json.loads(text) for text in re.findall(r"```json\n(.+?)```", GUIDE, re.DOTALL)]
    ticket = caller.post("/tickets", {"journey": "balance", "msisdn": "27821234567"}).json
    saved = caller.post("/customers/bulk", {"customers": [{"customer_id": "1"}, {"customer_id": "2"}]}).json
    refused = caller.post("/customers", {"customer_id": "3", "phone": "1"}).json
    assert ticket is not None
    assert refused is not None
    assert shown[0].keys() == ticket.keys()
    assert shown[1] == saved
    changes = caller.get("/changes/customers").json
    assert changes is not None
    assert shown[2].keys() == changes.keys()
    assert shown[2]["data"][0].keys() == changes["data"][0].keys()
    assert {**shown[3], "request_id": refused["request_id"]} == refused


def test_its_numbers_are_the_portals() -> None:
    for words in (
        f"One request holds at most {MOST} customers, {PLAIN_PASSWORDS} of them with a plain password",
        f"`limit` is 1 to {MOST_OF_PAGE}, by default {PAGE}.",
        f"more than {REQUESTS_PER_MINUTE} requests per key or {WRONG_PER_MINUTE} wrong keys per address in a minute",
    ):
        assert words in GUIDE
    for scope, allowed in SCOPES.items():
        assert f"| `{scope}` | {allowed} |" in GUIDE
