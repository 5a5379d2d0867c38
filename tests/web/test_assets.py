"""Static files: names with a hash, a year in any cache, compressed ahead by `make run` and `make test`."""

from __future__ import annotations

import gzip
import re

from tests.world import World


def test_styles_are_compressed_and_never_asked_for_again(small_world: World) -> None:
    browser = small_world.browser()
    page = browser.open("abc")
    urls = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)
    assert len([url for url in urls if url.endswith(".css")]) >= 2
    for url in urls:
        answer = browser.client.get(url, base_url=browser.base_url, headers={"Accept-Encoding": "gzip"})
        assert answer.status_code == 200, url
        assert "immutable" in answer.headers["Cache-Control"]
        assert "max-age=31536000" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        if url.endswith((".css", ".js")):
            assert answer.headers["Content-Encoding"] == "gzip", "run `make run` or `make test` once"
            assert gzip.decompress(answer.data)


def test_pages_are_not_compressed(small_world: World) -> None:
    """They hold tokens and reflect input (BREACH)."""
    browser = small_world.browser()
    page = browser.get("/?reference=abc", headers={"Accept-Encoding": "gzip, br"})
    assert "Content-Encoding" not in page.headers
