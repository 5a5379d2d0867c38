"""Static files under names with their hash: a year in any cache, and a new name with each change."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from wsgiref.headers import Headers

from flask import Flask
from whitenoise import WhiteNoise

STATIC = Path(__file__).resolve().parent.parent.parent / "static"
_HASHED = re.compile(r"/static/.+\.[0-9a-f]{12}\.\w+$")
_COMPRESSED = (".gz", ".br")


def register(app: Flask) -> None:
    """Serves ``static/`` and gives templates ``static_url(name)``."""
    urls = {path.relative_to(STATIC).as_posix(): _hashed_url(path) for path in _files()}
    served = WhiteNoise(
        app.wsgi_app, max_age=365 * 24 * 3600, add_headers_function=_headers,
        immutable_file_test=lambda _path, url: bool(_HASHED.search(url)),
    )  # fmt: skip
    for name, url in urls.items():
        served.add_file_to_dictionary(url, str(STATIC / name), stat_cache=_fresh_stats(STATIC / name))
    app.wsgi_app = served  # type: ignore[method-assign]
    app.jinja_env.globals["static_url"] = urls.__getitem__


def _files() -> list[Path]:
    return [path for path in STATIC.rglob("*") if path.is_file() and path.suffix not in _COMPRESSED]


def _hashed_url(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return f"/static/{path.relative_to(STATIC).with_suffix('').as_posix()}.{digest}{path.suffix}"


def _fresh_stats(path: Path) -> dict[str, os.stat_result]:
    """The file and its compressed twin; one that is older than the file was made from another text."""
    found, twin = {str(path): path.stat()}, path.with_name(path.name + ".gz")
    if twin.exists() and twin.stat().st_mtime >= path.stat().st_mtime:
        found[str(twin)] = twin.stat()
    return found


def _headers(headers: Headers, _path: str, _url: str) -> None:
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
