"""What makes a journey look like the business: its stylesheet and its logo, for ever under names that tell them apart.

Both are open to everybody, as the pages that show them are, and neither holds more than what was checked when saved.
"""

from __future__ import annotations

from flask import Blueprint, Response

from auth_portal.errors import NotFound
from auth_portal.services.config.looks import checked_colour, theme_css
from auth_portal.web.context import services

looks = Blueprint("looks", __name__)
HEADERS = {
    "Cache-Control": "max-age=31536000, public, immutable",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@looks.get("/theme/<colour>.css")
def theme(colour: str) -> Response:
    """The stylesheet of one colour, given as six hexadecimal digits."""
    try:
        checked = checked_colour(f"#{colour}")
    except ValueError:
        raise NotFound("not_found") from None
    return Response(theme_css(checked), mimetype="text/css", headers=HEADERS)


@looks.get("/logo/<digest>")
def logo(digest: str) -> Response:
    """A picture by its digest."""
    picture = services().logos.get(digest)
    return Response(picture.content, mimetype=picture.media_type, headers=HEADERS)
