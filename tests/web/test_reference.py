"""References as nasty as Flow documents them: what arrives is what is answered, or it is refused."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auth_portal.errors import Problem
from auth_portal.services.verification.references import completed, dropped_names, read_query
from tests.receiver import wait_for
from tests.world import World

DOCUMENTED = "f7_4hn5=8f&%#nK="
VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=512)
ADDED = re.compile(r"&(fbclid|gclid|igshid|mibextid|msclkid|utm_[a-z_]+)=[^&]*$")


def as_a_browser_cuts(link: str) -> tuple[str, str]:
    """The query that a browser sends, and what the script takes from its address: all from the first "#" on.

    That is not its ``location.hash``, which is empty for a "#" at the end: see ``tests/e2e/test_visits.py``.
    """
    before, mark, after = link.partition("#")
    return before, mark + after


@given(VISIBLE)
@settings(max_examples=500)
def test_encoded_references_are_read_exactly(reference: str) -> None:
    assert read_query(f"reference={quote(reference, safe='')}").text == reference


@given(VISIBLE.filter(lambda text: not re.search(r"%[0-9a-fA-F]{2}", text) and not ADDED.search("&" + text)))
@settings(max_examples=500)
def test_raw_references_are_completed_by_the_script(reference: str) -> None:
    query, tail = as_a_browser_cuts(f"reference={reference}")
    read = read_query(query)
    assert completed(read.text, tail) == reference


def test_the_names_of_dropped_parameters_fit_their_column() -> None:
    names = [f"utm_{letter * 26}" for letter in "abcdefghi"]
    read = read_query("reference=abc" + "".join(f"&{name}=1" for name in names))
    assert (read.text, len(read.dropped), len(dropped_names(",".join(names)))) == ("abc", 200, 200)


def test_r34_a_tail_that_no_reference_could_have_is_left_out() -> None:
    assert completed("", "#" + "%41" * 511) == "#" + "A" * 511
    assert completed("abc", "#" + "A" * 3 * 512) == "abc"
    for reference, tail, code in (
        ("", "", "reference_missing"),
        ("abc", "#" + "A" * (3 * 512 - 1), "reference_invalid"),
    ):
        with pytest.raises(Problem) as refused:
            completed(reference, tail)
        assert refused.value.code == code


@pytest.mark.parametrize(
    ("query", "reference", "dropped"),
    [
        ("reference=abc", "abc", ""),
        ("x=1&reference=abc", "abc", ""),
        ("reference=a&reference=b", "a&reference=b", ""),
        ("reference=abc&fbclid=IwAR0", "abc", "fbclid"),
        ("reference=a%26b&utm_source=x&utm_medium=y", "a&b", "utm_source,utm_medium"),
        ("reference=a&utm_source=x&b=1", "a&utm_source=x&b=1", ""),
        ("reference=a+b", "a+b", ""),
        ("reference=a%2Bb", "a+b", ""),
        ("reference=100%&%zz", "100%&%zz", ""),
        ("reference=%2541", "%41", ""),
    ],
)
def test_how_a_query_is_read(query: str, reference: str, dropped: str) -> None:
    read = read_query(query)
    assert (read.text, read.dropped) == (reference, dropped)


@pytest.mark.parametrize("query", ["", "ref=abc", "xreference=abc"])
def test_no_reference(query: str) -> None:
    with pytest.raises(Problem, match="reference_missing"):
        read_query(query)


@pytest.mark.parametrize(
    "query",
    [
        "reference=a%00b",
        "reference=a%0d%0ab",
        "reference=a%7f",
        "reference=a b",
        "reference=%e9",
        "reference=" + "a" * 513,
    ],
)
def test_r34_refused_before_anything(small_world: World, query: str) -> None:
    with pytest.raises(Problem, match="reference_invalid"):
        read_query(query)
    page = small_world.browser().get(f"/?{query}")
    assert page.status_code == 400
    assert "Open it again from your chat" in page.text


@pytest.mark.parametrize("tail", ["#a\0b", "#" + "a" * 5000, "#\r\nX: y"])
def test_r34_a_tail_is_checked_with_the_whole(small_world: World, tail: str) -> None:
    browser = small_world.browser()
    browser.open("abc")
    page = browser.post("/", reference_tail=tail, identifier="C-1001")
    if len(tail) > 1536:
        assert page.status_code == 200  # no tail of ours: as if the script had sent none
    else:
        assert page.status_code == 400
    assert not [call for call in small_world.receiver.callbacks if "\0" in call.header]


def test_r34_header_equals_body_equals_what_was_received(small_world: World) -> None:
    """Through HTTP and a strict receiver: the documented example in every way it may arrive, and 40 generated ones."""
    found: list[str] = [DOCUMENTED, "a+b", "%%%", "=&=&", "'\"<>`{}|\\^", "100%25", "&reference=x"]

    @given(VISIBLE)
    @settings(max_examples=40, suppress_health_check=list(HealthCheck), database=None)
    def collect(reference: str) -> None:
        found.append(reference)

    collect()
    expected = sorted(set(found))
    for reference in expected:
        browser = small_world.browser()
        browser.open(reference)
        browser.post("/", decline="not_me", identifier="")
    wait_for(lambda: len(small_world.receiver.callbacks) == len(expected), 30)
    assert sorted(call.header for call in small_world.receiver.callbacks) == expected
    assert all(call.body["reference"] == call.header and call.status == 200 for call in small_world.receiver.callbacks)


def test_the_documented_example_raw_and_cut(small_world: World) -> None:
    """Without script the tail is lost, and the chat is answered under what arrived; with script it is whole."""
    query, tail = as_a_browser_cuts(f"/?reference={DOCUMENTED}")
    for number, with_script in enumerate((False, True), 1):
        browser = small_world.browser()
        browser.get(query)
        assert "noscript" in browser.page.text
        browser.post("/", decline="not_me", identifier="", reference_tail=tail if with_script else "")
        wait_for(lambda: len(small_world.receiver.callbacks) == number)  # noqa: B023 -- waits here
    assert [call.header for call in small_world.receiver.callbacks] == ["f7_4hn5=8f&%", DOCUMENTED]


def test_callbacks_keep_to_the_openapi_file(small_world: World) -> None:
    import json

    from openapi_core import OpenAPI
    from openapi_core.contrib.requests import RequestsOpenAPIRequest
    from requests import Request

    openapi = OpenAPI.from_path(Path(__file__).parent.parent / "external-link-callback.openapi.json")
    for number, slug in enumerate(("", "app", "mail")):
        browser = small_world.browser()
        browser.begin(f"{DOCUMENTED}{number}", slug)
        if slug == "app":
            browser.prove(small_world.totp())
        else:
            browser.post("/verify/cancel", reason="cancelled")
    wait_for(lambda: len(small_world.receiver.callbacks) == 3)
    for call in small_world.receiver.callbacks:
        request = Request(
            "POST", "https://flow-callback.clickatell.com/callback",
            headers={"reference": call.header, "Content-Type": "application/json"}, data=json.dumps(call.body),
        ).prepare()  # fmt: skip
        openapi.validate_request(RequestsOpenAPIRequest(request))
