"""Static files, and what makes a journey look like the business: its stylesheet and its logo.

All have names that change with their content, so that any cache may store them for a year. They are open to everyone,
as the pages that show them are.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from pathlib import Path
from wsgiref.headers import Headers

from flask import Blueprint, Flask, Response, abort, request
from markupsafe import Markup
from whitenoise import WhiteNoise

from auth_portal.services.config.appearance import (
    MONOGRAM_LENGTH,
    MOST_RADIUS,
    ServedText,
    look_sample,
    monogram_of,
    sample,
)
from auth_portal.services.config.appearance import icon as icon_of
from auth_portal.services.config.appearance import stylesheet as stylesheet_of
from auth_portal.web.context import services

_HASHED = re.compile(r"/static/.+\.[0-9a-f]{12}\.\w+$")
_STYLESHEET = re.compile(r"([0-9a-f]{6})-(0|[1-9][0-9]?)")
_SAMPLE = re.compile(_STYLESHEET.pattern + "-sample")
_ICON = re.compile(r"([0-9a-f]{6})-([1-9a-f][0-9a-f]{1,4}(?:_[1-9a-f][0-9a-f]{1,4}){0,11})")
_DIGEST = re.compile(r"[0-9a-f]{12}")
OTHER_RELEASE_SECONDS = 60  # for which a look may be cached under the digest of another release
_COMPRESSED = (".gz", ".br")


LOOKS_HEADERS = {
    "Cache-Control": "max-age=31536000, public, immutable",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
looks = Blueprint("looks", __name__)


def register(app: Flask, static: Path) -> None:
    """Serve the folder ``static`` and the looks of journeys, and give templates ``static_url(name)``."""
    app.register_blueprint(looks)

    def add_headers(headers: Headers, _path: str, _url: str) -> None:
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"

    urls = {}
    for path in static.rglob("*"):
        if path.is_file() and path.suffix not in _COMPRESSED:
            place, digest = path.relative_to(static), hashlib.sha256(path.read_bytes()).hexdigest()[:12]
            urls[place.as_posix()] = f"/static/{place.with_suffix('').as_posix()}.{digest}{path.suffix}"
    served = WhiteNoise(
        app.wsgi_app,
        max_age=365 * 24 * 3600,
        add_headers_function=add_headers,
        immutable_file_test=lambda _path, url: bool(_HASHED.search(url)),
    )
    for name, url in urls.items():
        file = static / name
        stats, twin = {str(file): file.stat()}, file.with_name(f"{file.name}.gz")
        if twin.exists() and _unpacked(twin) == file.read_bytes():  # an older one was made from another text
            stats[str(twin)] = twin.stat()
        served.add_file_to_dictionary(url, str(file), stat_cache=stats)
    app.wsgi_app = served  # type: ignore[method-assign]
    shapes = {path.stem: _shape(path) for path in (static / "icons").glob("*.svg")}
    app.jinja_env.globals.update(
        {"static_url": urls.__getitem__, "icon_shape": shapes.__getitem__, "look_sample": look_sample}
    )


def _shape(path: Path) -> Markup:
    """Return what is drawn inside the picture of an icon: its frame is that of the page."""
    drawn = "".join(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    inside = drawn[drawn.index(">", drawn.index("<svg")) + 1 : drawn.rindex("</svg>")]
    return Markup(inside)  # nosec B704  # noqa: S704 -- a file of ours


def _unpacked(path: Path) -> bytes | None:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):  # half of one, of a build that was interrupted
        return None


@looks.get("/look/<name>.<digest>.css")
def stylesheet(name: str, digest: str) -> Response:
    """Send the stylesheet of a look, given as its colour and the radius of its corners."""
    found = _STYLESHEET.fullmatch(name)
    if found is None or int(found[2]) > MOST_RADIUS:
        abort(404)
    return _served(stylesheet_of(f"#{found[1]}", int(found[2])), digest, "text/css")


@looks.get("/look/<name>.<digest>.svg")
def icon(name: str, digest: str) -> Response:
    """Send the icon of a business without a logo, given as its colour and the code points of its monogram.

    Or the sample of a look, given as the look itself.
    """
    if (drawn := _SAMPLE.fullmatch(name)) is not None and int(drawn[2]) <= MOST_RADIUS:
        return _served(sample(f"#{drawn[1]}", int(drawn[2])), digest, "image/svg+xml")
    found = _ICON.fullmatch(name)
    monogram = "".join(chr(int(point, 16)) for point in found[2].split("_")) if found else ""
    if found is None or len(monogram) > MONOGRAM_LENGTH or monogram_of(monogram) != monogram:
        abort(404)
    return _served(icon_of(f"#{found[1]}", monogram), digest, "image/svg+xml")


def _served(text: ServedText, digest: str, media_type: str) -> Response:
    """Send a text for a year; for a short time if the digest is that of another release, which serves next to ours."""
    if not _DIGEST.fullmatch(digest):
        abort(404)
    response = Response(text.content, mimetype=media_type, headers=LOOKS_HEADERS)
    if digest not in text.url:
        response.headers["Cache-Control"] = f"max-age={OTHER_RELEASE_SECONDS}, public"
    response.headers["Vary"] = "Accept-Encoding"
    if request.accept_encodings.quality("gzip") > 0:
        response.set_data(text.compressed)
        response.headers["Content-Encoding"] = "gzip"
    return response


@looks.get("/logo/<digest>")
def logo(digest: str) -> Response:
    """Send a logo, which was checked when it was saved, by its digest."""
    picture = services().logos.get(digest)
    return Response(picture.content, mimetype=picture.media_type, headers=LOOKS_HEADERS)
