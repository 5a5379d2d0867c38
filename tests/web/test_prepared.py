"""A landing page that was made in advance is the very page that would be made for its visitor."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from flask import g

from auth_portal.i18n import complete_languages
from auth_portal.services.config.snapshot import Snapshot
from tests.world import World

OWN = r'(name="(?:csrf_token|opened)" value=")[^"]*'
REFERENCES = ("abc", "a&b=c%23", "<i>'\"", "{0}%(x)s\\1", "x" * 512)


def page(world: World, reference: str, language: str = "en", path: str = "/") -> str:
    answer = world.browser().get(f"{path}?reference={quote(reference, safe='')}", headers={"Accept-Language": language})
    assert answer.status_code == 200
    return answer.text


def seen(world: World, path: str, reference: str, language: str, *, is_made_anew: bool) -> str:
    """The page of a request; one with services of its own, as in a test drive, is never made in advance."""
    query, headers = f"reference={quote(reference, safe='')}", {"Accept-Language": language}
    to = {"base_url": "http://127.0.0.1:8000", "environ_base": {"REMOTE_ADDR": "203.0.113.7"}}
    with world.app.test_request_context(f"{path}?{query}", headers=headers, **to):
        assert world.app.preprocess_request() is None
        if is_made_anew:
            g.services = world.services
        text: str = world.app.ensure_sync(world.app.dispatch_request)().get_data(as_text=True)
    return re.sub(OWN, r"\1", text)


@pytest.mark.parametrize("path", ["/", "/j/mail", "/j/password"])
def test_it_is_the_page_that_would_be_made_for_its_visitor(small_world: World, path: str) -> None:
    for language in complete_languages():
        seen(small_world, path, "another", language, is_made_anew=False)
        for reference in REFERENCES:
            filled = seen(small_world, path, reference, language, is_made_anew=False)
            assert filled == seen(small_world, path, reference, language, is_made_anew=True)
    assert len(small_world.services.journeys.current().pages) == len(complete_languages())


def test_each_visitor_has_tokens_of_their_own(small_world: World) -> None:
    tokens = {tuple(re.findall(r'name="csrf_token" value="([^"]*)', page(small_world, "abc"))) for _ in range(5)}
    assert len(tokens) == 5
    assert all(len(found) >= 1 and all(found) for found in tokens)


def test_a_change_of_the_configuration_shows_at_once(small_world: World) -> None:
    assert "Balance" in page(small_world, "abc")
    text = small_world.services.configuration.export_toml().replace('name = "Balance"', 'name = "Savings"')
    small_world.services.configuration.import_toml(text, file_name="x.toml")
    small_world.services.journeys.renew()
    assert "Savings" in page(small_world, "abc")


def test_strangers_cannot_fill_the_memory(small_world: World) -> None:
    def pages() -> int:
        found: Snapshot = small_world.services.journeys.current()
        return len(found.pages)

    page(small_world, "abc")
    before = pages()
    for number in range(50):
        small_world.browser().get(f"/?lang=zz{number}&reference=r{number}&x={number}")
        small_world.browser().get(f"/j/none{number}?reference=r{number}")
        page(small_world, f"r{number}", f"en;q=0.{number}")
    assert pages() <= before + 1
