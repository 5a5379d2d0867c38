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

from flask import Blueprint, Flask, Response, abort
from whitenoise import WhiteNoise

from auth_portal.services.config.appearance import checked_colour, theme_css
from auth_portal.web.context import services

_HASHED = re.compile(r"/static/.+\.[0-9a-f]{12}\.\w+$")
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
    app.jinja_env.globals["static_url"] = urls.__getitem__


def _unpacked(path: Path) -> bytes | None:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):  # half of one, of a build that was interrupted
        return None


@looks.get("/theme/<colour>.css")
def theme(colour: str) -> Response:
    """Send the stylesheet of one colour, given as six hexadecimal digits."""
    try:
        checked = checked_colour(f"#{colour}")
    except ValueError:
        abort(404)
    return Response(theme_css(checked), mimetype="text/css", headers=LOOKS_HEADERS)


@looks.get("/logo/<digest>")
def logo(digest: str) -> Response:
    """Send a logo, which was checked when it was saved, by its digest."""
    picture = services().logos.get(digest)
    return Response(picture.content, mimetype=picture.media_type, headers=LOOKS_HEADERS)
