"""Static files: names with a hash, a year in any cache, compressed ahead by `make run` and `make test`."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from flask import Flask

from auth_portal.web import assets
from tests.world import World


def test_styles_are_compressed_and_never_asked_for_again(small_world: World) -> None:
    browser = small_world.browser()
    page = browser.open("abc")
    urls = re.findall(r'<(?:link|script|img)\b[^>]*(?:href|src)="(/[^"]+)"', page.text)
    assert {url.rpartition(".")[2] for url in urls} == {"css", "svg", "js"}
    assert len(urls) == 3
    for url in urls:
        answer = browser.client.get(url, base_url=browser.base_url, headers={"Accept-Encoding": "gzip"})
        assert answer.status_code == 200, url
        assert "immutable" in answer.headers["Cache-Control"]
        assert "max-age=31536000" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        if url.endswith((".css", ".js")):
            assert answer.headers["Content-Encoding"] == "gzip", "run `make run` or `make test` once"
            assert gzip.decompress(answer.data)


def test_a_compressed_copy_of_another_text_is_not_served(tmp_path: Path) -> None:
    """It is older than an edited file, or half of one; what counts is the text, since installing changes times."""
    texts = {"equal.css": b"a{}" * 100, "other.css": b"b{}" * 100, "broken.css": b"c{}" * 100}
    packed = gzip.compress(texts["equal.css"])
    copies = {"equal.css": packed, "other.css": packed, "broken.css": packed[:10]}
    for name, text in texts.items():
        (tmp_path / f"{name}.gz").write_bytes(copies[name])
        (tmp_path / name).write_bytes(text)
    app = Flask(__name__)
    assets.register(app, tmp_path)
    for name, text in texts.items():
        url = app.jinja_env.globals["static_url"](name)  # type: ignore[operator]
        answer = app.test_client().get(url, headers={"Accept-Encoding": "gzip"})
        is_packed = name == "equal.css"
        assert answer.headers.get("Content-Encoding") == ("gzip" if is_packed else None), name
        assert answer.data == (copies[name] if is_packed else text), name


def test_pages_are_not_compressed(small_world: World) -> None:
    """They hold tokens and reflect input (BREACH)."""
    browser = small_world.browser()
    page = browser.get("/?reference=abc", headers={"Accept-Encoding": "gzip, br"})
    assert "Content-Encoding" not in page.headers
