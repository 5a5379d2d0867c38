"""References have the documented traps, and none that the portal's rule could not undo."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes, urlsplit

import pytest

from auth_portal.sandbox.facts import JourneyCard, ReferenceStyle, address_of, link_for, new_reference

ADDED_BY_APPS = re.compile(r"&(fbclid|gclid|igshid|mibextid|msclkid|utm_\w+)=[^&]*$")


def recover(link: str) -> str:
    """The reference by the portal's rule: the raw query from ``reference=`` on, and the tail that a browser keeps."""
    parts = urlsplit(link)
    query = ADDED_BY_APPS.sub("", parts.query.split("reference=", 1)[1])
    tail = f"#{parts.fragment}" if parts.fragment else ""
    return unquote_to_bytes(query).decode("ascii") + unquote_to_bytes(tail).decode("ascii")


@pytest.mark.parametrize("style", list(ReferenceStyle))
def test_every_reference_can_be_recovered_from_its_link(style: ReferenceStyle) -> None:
    for _ in range(500):
        reference = new_reference(style)
        link = link_for("http://127.0.0.1:8000/j/balance", reference, style)
        assert re.fullmatch(r"[\x21-\x7e]{1,512}", reference)
        assert recover(link) == reference


def test_a_raw_reference_holds_what_breaks_naive_parsing() -> None:
    for _ in range(100):
        assert set("&%#+=") <= set(new_reference(ReferenceStyle.RAW))


def test_references_do_not_repeat() -> None:
    assert len({new_reference(ReferenceStyle.RAW) for _ in range(1000)}) == 1000


def test_the_default_journey_lives_at_the_root_and_others_at_their_slug() -> None:
    root, slug = (address_of("http://x", JourneyCard("a", "A", is_default=default)) for default in (True, False))
    assert link_for(root, "r", ReferenceStyle.PLAIN) == "http://x/?reference=r"
    assert link_for(slug, "r#", ReferenceStyle.ENCODED) == "http://x/j/a?reference=r%23"
