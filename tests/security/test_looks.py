"""The stylesheet and the icon of a look: for ever under the digest of their content, and bounded for strangers."""

from __future__ import annotations

import gzip
import re

import pytest

from auth_portal.services.config.appearance import LOOKS_CACHED, icon, stylesheet
from tests.world import World


def urls_on(page: str) -> tuple[str, str]:
    """The stylesheet that a look has here, and the icon that a page names."""
    found = re.search(r'<link rel="icon" href="([^"]+)">', page)
    assert found
    return stylesheet("#0b4f8a", 12).url, found[1]


@pytest.mark.parametrize("encodings", ["", "gzip, br", "gzip;q=0"])
def test_a_look_is_served_for_a_year_and_compressed_for_those_who_take_it(small_still: World, encodings: str) -> None:
    client = small_still.app.test_client()
    for url in urls_on(small_still.browser().open("looks").text):
        answer = client.get(url, base_url="http://127.0.0.1:8000", headers={"Accept-Encoding": encodings})
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "max-age=31536000, public, immutable"
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        is_compressed = answer.headers.get("Content-Encoding") == "gzip"
        assert is_compressed == (encodings == "gzip, br")
        text = (gzip.decompress(answer.data) if is_compressed else answer.data).decode()
        assert "#0b4f8a" in text


def test_the_stylesheet_ends_with_the_tokens_of_the_look(small_still: World) -> None:
    text = small_still.app.test_client().get(stylesheet("#ffd400", 8).url, base_url="http://127.0.0.1:8000").text
    light, dark = re.findall(r":root\{([^}]+)\}", text)[-2:]
    assert {"--b:#ffd400", "--ob:#000000", "--f:#15202b", "--of:#ffd400", "--r:0.5rem"} <= set(light.split(";"))
    assert {"--p:#12171d", "--f:#ffd400"} <= set(dark.split(";"))
    for name in ("p", "i", "s", "e", "h", "ok", "no", "b", "ob", "f", "of", "l", "t"):
        assert f"--{name}:#" in light, name
        assert f"--{name}:#" in dark, name


def test_the_digest_of_another_release_is_answered_for_a_short_time(small_still: World) -> None:
    client = small_still.app.test_client()
    for url in (stylesheet("#0b4f8a", 12).url, icon("#0b4f8a", "A").url):
        other = re.sub(r"\.[0-9a-f]{12}\.", ".0123456789ab.", url)
        answer = client.get(other, base_url="http://127.0.0.1:8000")
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "max-age=60, public"
        assert answer.data == client.get(url, base_url="http://127.0.0.1:8000").data


@pytest.mark.parametrize(
    "name",
    [
        "0B4F8A-12.0123456789ab.css",
        "0b4f8a-012.0123456789ab.css",
        "0b4f8a-25.0123456789ab.css",
        "0b4f8a-12.0123456789.css",
        "0b4f8a.0123456789ab.css",
        "red-12.0123456789ab.css",
        "0b4f8a-٣.0123456789ab.css",
        "0b4f8a-61.0123456789ab.svg",  # a small a, whose monogram is A
        "0b4f8a-41_42.0123456789ab.svg",
        "0b4f8a-3c.0123456789ab.svg",
        "0b4f8a-d800.0123456789ab.svg",
        "0b4f8a-041.0123456789ab.svg",
        "0b4f8a-.0123456789ab.svg",
        "0b4f8a-41.0123456789ab.SVG",
        "",
        "..%2f..%2fetc.0123456789ab.css",
    ],
)
def test_only_the_one_spelling_of_a_look_is_answered(small_still: World, name: str) -> None:
    answer = small_still.app.test_client().get(f"/look/{name}", base_url="http://127.0.0.1:8000")
    assert answer.status_code == 404


def test_strangers_fill_no_memory_with_looks(small_still: World) -> None:
    client = small_still.app.test_client()
    for number in range(LOOKS_CACHED + 20):
        assert (
            client.get(f"/look/{number:06x}-12.0123456789ab.css", base_url="http://127.0.0.1:8000").status_code == 200
        )
    assert stylesheet.cache_info().currsize == LOOKS_CACHED


def test_every_page_has_a_look_even_before_the_portal_serves() -> None:
    from auth_portal.bootstrap import create_app

    client = create_app().test_client()
    page = client.get("/", base_url="http://127.0.0.1:8000")
    assert page.status_code == 503
    style, image = urls_on(page.text)
    for url in (style, image):
        assert client.get(url, base_url="http://127.0.0.1:8000").status_code == 200
