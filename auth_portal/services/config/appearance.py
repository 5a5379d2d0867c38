"""How customers' pages look: the business's colour, the shape of its corners, its logo or monogram.

Any colour may be a brand's. What is written on it, and buttons and links in it, are computed so that they can be read:
WCAG 2.2 requires a contrast of 4.5 to 1 for text (1.4.3) and of 3 to 1 for the edge of a button (1.4.11). Pages allow
no inline style, so a look is served as one stylesheet: ``static/customer.css``, then the look's tokens. A logo is a
PNG, JPEG or WebP by its first bytes, whatever the browser calls it, and never SVG, which may contain script; it is
named by the SHA-256 of its bytes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import importlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from io import BytesIO
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field
from sqlalchemy import select

from auth_portal.errors import NotFound
from auth_portal.settings import delivered
from auth_portal.store.db import Transactions, Work, dialect_insert
from auth_portal.store.models import Logo, table_of

DEFAULT_COLOUR = "#0b4f8a"
DEFAULT_RADIUS = 12  # CSS pixels
MOST_RADIUS = 24
CONTRAST = 4.5  # of text (WCAG 2.2, 1.4.3)
EDGE_CONTRAST = 3.0  # of a button's edge with the page (WCAG 2.2, 1.4.11)
BRAND_CONTRAST = 7.0  # of the brand's colour as text on a button of ink
STEP = 0.04  # by which a colour is mixed until its contrast is enough
SRGB_LINEAR = 0.04045  # up to here a part of a colour is linear (IEC 61966-2-1)
ROOT_PIXELS = 16  # of one rem
UPLOAD_BYTES = 256 * 1024  # of a picture that an admin chooses
LOGO_BYTES = 4 * 1024  # of a logo as it is stored and served: a customer on a slow network waits for it
LOGO_HEIGHTS = (72, 54, 36)  # pixels: it is shown 36 high, on most phones with two or more pixels each
LOGO_SHAPE = 4  # times as wide as high, at most
MOST_PIXELS = 5_000_000  # of an uploaded picture, which takes four bytes each to decode
MOST_SIDE = 5_000  # pixels
LOOKS_CACHED = 64  # stylesheets that a process holds; strangers may ask for any
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_COMMENT_OR_INDENT = re.compile(r"/\*.*?\*/\s*|^\s+", re.DOTALL | re.MULTILINE)


class Shades(NamedTuple):
    """The colours of a light or a dark page that no brand changes, and how far its own may be mixed."""

    page: str
    ink: str
    small: str  # small text
    edge: str  # of a field
    hairline: str
    good: str
    bad: str
    mixed_with: str
    tint: float  # the brand's share in the tint of a receipt
    most_button: float  # how far a button's colour may be mixed
    link_contrast: float
    most_link: float


LIGHT = Shades(
    *("#ffffff", "#15202b", "#4d5a68", "#6f7c8a", "#dbe1e7", "#14713d", "#b3261e", "#000000"),
    tint=0.07,
    most_button=0.2,
    link_contrast=CONTRAST,
    most_link=0.4,
)
DARK = Shades(
    *("#12171d", "#eef2f6", "#a9b4c0", "#7f8c9a", "#2c353f", "#5fd08e", "#ff9b92", "#ffffff"),
    tint=0.16,
    most_button=0.2,
    link_contrast=6.0,
    most_link=0.6,
)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours such as ``#0b4a8f``, from 1 to 21 (WCAG 2.2)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= SRGB_LINEAR else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _mixed(one: str, other: str, share: float) -> str:
    pairs = ((int(one[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(first + (second - first) * share):02x}" for first, second in pairs)


def mixed_until(colour: str, other: str, most: float, wanted: Mapping[str, float]) -> str | None:
    """Return the colour, mixed with ``other`` no further than needed to have these contrasts, by ground.

    Return None if mixing in ``most`` of it is not enough.
    """
    for step in range(round(most / STEP) + 1):
        found = _mixed(colour, other, step * STEP)
        if all(contrast(found, ground) >= least for ground, least in wanted.items()):
            return found
    return None


def text_on(colour: str) -> str:
    """Return white, or black where white could not be read. One of the two always has a contrast of 4.5."""
    return "#ffffff" if contrast("#ffffff", colour) >= CONTRAST else "#000000"


def tokens(colour: str, shades: Shades) -> dict[str, str]:
    """Return the colours of a brand's light or dark pages by the names of their custom properties."""
    tint = _mixed(shades.page, colour, shades.tint)
    button = mixed_until(colour, shades.mixed_with, shades.most_button, {shades.page: EDGE_CONTRAST})
    if button is not None:
        on_button = text_on(button)
    else:
        button = shades.ink
        on_button = colour if contrast(colour, button) >= BRAND_CONTRAST else shades.page
    grounds = dict.fromkeys((shades.page, tint), shades.link_contrast)
    link = mixed_until(colour, shades.mixed_with, shades.most_link, grounds) or shades.ink
    plain = {"p": shades.page, "i": shades.ink, "s": shades.small, "e": shades.edge, "h": shades.hairline}
    signs = {"ok": shades.good, "no": shades.bad}
    brand = {"b": colour, "ob": text_on(colour), "f": button, "of": on_button, "l": link, "t": tint}
    return {**plain, **signs, **brand}


def checked_colour(colour: str) -> str:
    """Return the colour in lower case, or an empty text for none. Raise ValueError with a reason for the admin."""
    colour = colour.lower()
    if colour and not _COLOUR.fullmatch(colour):
        raise ValueError("must be # and six digits or letters from a to f, such as #0b4f8a")
    return colour


Colour = Annotated[str, Field(max_length=7), AfterValidator(checked_colour)]
Radius = Annotated[int, Field(ge=0, le=MOST_RADIUS)]
LogoDigest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]  # the SHA-256 of a picture that is stored here


# --- What is served


class ServedText(NamedTuple):
    """A stylesheet or an icon as it is served: its URL contains the digest of its content."""

    url: str
    content: bytes
    compressed: bytes

    @classmethod
    def made(cls, path: str, kind: str, text: str) -> ServedText:
        """Return a text that is served under ``path``, with its digest and kind appended."""
        content = text.encode()
        url = f"{path}.{hashlib.sha256(content).hexdigest()[:12]}.{kind}"
        return cls(url, content, gzip.compress(content, mtime=0))


@lru_cache(maxsize=LOOKS_CACHED)
def stylesheet(colour: str, radius: int) -> ServedText:
    """Return the stylesheet of a look: that of all looks, then its own tokens."""
    return ServedText.made(f"/look/{colour[1:]}-{radius}", "css", base_css() + tokens_css(colour, radius))


def contained_css(colour: str, radius: int) -> str:
    """Return the stylesheet of a look without comments and indents, to stand inside a page.

    HAProxy shows no page of more than about 15 kB.
    """
    return _COMMENT_OR_INDENT.sub("", base_css() + tokens_css(colour, radius))


def tokens_css(colour: str, radius: int) -> str:
    """Return the tokens of a look as custom properties, for light and for dark pages."""
    light, dark = (
        ";".join(f"--{name}:{value}" for name, value in tokens(colour, shades).items()) for shades in (LIGHT, DARK)
    )
    corner = f"--r:{radius / ROOT_PIXELS:g}rem"
    return f":root{{{light};{corner}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


@cache
def base_css() -> str:
    """Return what the stylesheets of all looks begin with."""
    return (delivered("static") / "customer.css").read_text(encoding="utf-8")


@lru_cache(maxsize=LOOKS_CACHED)
def icon(colour: str, monogram: str) -> ServedText:
    """Return the icon of a business without a logo: its monogram on its colour."""
    size = 18 if len(monogram) == 1 else 16
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        f'<rect width="32" height="32" rx="7" fill="{colour}"/>'
        f'<text x="16" y="16" dy=".36em" text-anchor="middle" font-family="system-ui,sans-serif" font-size="{size}" '
        f'font-weight="700" fill="{text_on(colour)}">{html.escape(monogram)}</text></svg>\n'
    )
    name = "_".join(f"{ord(char):x}" for char in monogram)
    return ServedText.made(f"/look/{colour[1:]}-{name}", "svg", svg)


# --- The sample that admins see

_SAMPLE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 200" font-family="system-ui,sans-serif">
{light}<g transform="translate(288)">{dark}</g></svg>
"""
_SAMPLE_PAGE = """<rect width="272" height="200" fill="{p}"/><rect width="272" height="90" fill="{b}"/>
<text x="20" y="34" fill="{ob}" font-size="15" font-weight="700">Your name</text>
<text x="20" y="64" fill="{ob}" font-size="20" font-weight="700">Check your balance</text>
<rect y="78" width="272" height="40" rx="{radius}" fill="{p}"/>
<text x="20" y="104" fill="{i}" font-size="14">First, confirm it's you.</text>
<rect x="20" y="116" width="232" height="40" rx="{radius}" fill="{f}"/>
<text x="136" y="141" fill="{of}" font-size="14" font-weight="600" text-anchor="middle">Send me a code</text>
<text x="20" y="182" fill="{l}" font-size="14" text-decoration="underline">Use another method</text>"""


class LookSample(NamedTuple):
    """A drawing of a look, and the contrasts that its colours have: of text on the band, of buttons and of links."""

    url: str
    band: str
    buttons: tuple[str, str]  # on light and on dark pages
    links: tuple[str, str]


@lru_cache(maxsize=LOOKS_CACHED)
def sample(colour: str, radius: int) -> ServedText:
    """Return the drawing of a light and of a dark page in a look."""
    light, dark = (_SAMPLE_PAGE.format(**tokens(colour, shades), radius=radius) for shades in (LIGHT, DARK))
    return ServedText.made(f"/look/{colour[1:]}-{radius}-sample", "svg", _SAMPLE.format(light=light, dark=dark))


def look_sample(colour: str, radius: str | int) -> LookSample | None:
    """Return the sample of what an admin typed, None if it is no colour; without a colour, that of the default."""
    try:
        checked = checked_colour(colour.strip()) or DEFAULT_COLOUR
    except ValueError:
        return None
    pixels = int(radius) if str(radius) in map(str, range(MOST_RADIUS + 1)) else DEFAULT_RADIUS
    pages = [tokens(checked, shades) for shades in (LIGHT, DARK)]

    def found(text: str, ground: str) -> tuple[str, str]:
        light, dark = (f"{int(contrast(page[text], page[ground]) * 10) / 10:g}" for page in pages)
        return light, dark

    return LookSample(sample(checked, pixels).url, found("ob", "b")[0], found("of", "f"), found("l", "p"))


# --- The monogram

_JOINER = "\u200d"  # between the parts of one emoji, such as a family
_VIRAMA = 9  # the combining class of the sign that joins two consonants of an Indic script
_SKIN = range(0x1F3FB, 0x1F400)
_FLAG = range(0x1F1E6, 0x1F200)
_TAGS = range(0xE0020, 0xE0080)  # of the flags of England, Scotland and Wales
_HANGUL = range(0x1100, 0x1200)
MONOGRAM_LENGTH = 12  # code points: the longest emoji has ten


def monogram_of(name: str) -> str:
    """Return the first letter, digit or emoji of a name as people see it, with all marks that belong to it."""
    text = unicodedata.normalize("NFC", name)
    start = next((at for at, char in enumerate(text) if _begins(char)), None)
    if start is None:
        return "?"
    end = start + 1
    while end < len(text) and end - start < MONOGRAM_LENGTH and _continues(text[start:end], text[end]):
        end += 1
    found = text[start:end].rstrip(_JOINER)
    return found.title() if len(found.title()) == len(found) else found


def _begins(char: str) -> bool:
    return unicodedata.category(char)[0] in "LN" or unicodedata.category(char) == "So"


def _continues(cluster: str, char: str) -> bool:
    """Report whether a character belongs to the one before it (after UAX 29, 3.1.1)."""
    last = cluster[-1]
    if unicodedata.category(char)[0] == "M" or char == _JOINER or ord(char) in _SKIN or ord(char) in _TAGS:
        return True
    if last == _JOINER:
        return unicodedata.category(char)[0] == "L" or unicodedata.category(char) == "So"
    if unicodedata.combining(last) == _VIRAMA:
        return unicodedata.category(char) == "Lo"
    if ord(char) in _FLAG:
        return len(cluster) == 1 and ord(last) in _FLAG
    return ord(char) in _HANGUL and ord(last) in _HANGUL


# --- Logos


class Picture(NamedTuple):
    """A stored logo, as it is served."""

    media_type: str
    content: bytes

    @property
    def data_url(self) -> str:
        """The picture itself as a URL."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"


class Logos:
    """Find stored logos."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._cached = lru_cache(maxsize=32)(self._load)

    def get(self, digest: str) -> Picture:
        """Return a logo by its digest. Raise NotFound, which is not cached: the logo may be stored later."""
        return self._cached(digest)

    def content(self, digest: str) -> bytes:
        """Return the bytes of a logo. Raise NotFound."""
        return self.get(digest).content

    def _load(self, digest: str) -> Picture:
        with self._transactions.read() as work:
            row = work.execute(select(Logo.media_type, Logo.content).where(Logo.digest == digest)).one_or_none()
        if row is None:
            raise NotFound("not_found")
        return Picture(row.media_type, row.content)


def store_logo(work: Work, content: bytes) -> str:
    """Store a logo as it is and return its digest. Raise ValueError if it is no picture."""
    digest = hashlib.sha256(content).hexdigest()
    values = {"digest": digest, "media_type": media_type_of(content), "content": content, "created_at": work.now}
    work.execute(dialect_insert(work.connection.dialect.name, table_of(Logo)).values(values).on_conflict_do_nothing())
    return digest


def media_type_of(content: bytes) -> str:
    """Return the media type of a picture. Raise ValueError for any other content."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError("must be a PNG, JPEG or WebP picture")


def logo_of(content: bytes) -> bytes:
    """Return an uploaded picture as a logo: small, still and without metadata. Raise ValueError for the admin.

    Pictures are decoded here alone, when an admin uploads one; what decodes them is loaded then, too.
    """
    if len(content) > UPLOAD_BYTES:
        raise ValueError(f"must be at most {UPLOAD_BYTES // 1024} kB; this one has {-(-len(content) // 1024)} kB")
    media_type_of(content)
    image = _decoded(content)
    box = image.getbbox()  # without the transparent edge
    if box is None:
        raise ValueError("is empty: every pixel is transparent")
    found = next((made for made in logo_forms(image.crop(box)) if len(made) <= LOGO_BYTES), None)
    if found is None:
        raise ValueError("has too much detail for a logo; choose a simpler picture")
    return found


def _decoded(content: bytes) -> Any:
    """Return a picture with red, green, blue and alpha, the right way up. Raise ValueError for the admin."""
    images, operations = importlib.import_module("PIL.Image"), importlib.import_module("PIL.ImageOps")
    damaged = "can't be read: it may be damaged. Save it again in a picture program, as PNG"
    try:  # reads the head alone
        opened = images.open(BytesIO(content), formats=("PNG", "JPEG", "WEBP"))
        is_moving = opened.format in ("PNG", "WEBP") and getattr(opened, "n_frames", 1) > 1
    except Exception as fault:  # a decoder raises many kinds for a picture that is malformed
        raise ValueError(damaged) from fault
    if max(opened.size) > MOST_SIDE or opened.width * opened.height > MOST_PIXELS:
        raise ValueError(
            f"has {opened.width} x {opened.height} pixels; at most {MOST_SIDE} on a side and "
            f"{MOST_PIXELS // 1_000_000} million in all"
        )
    if is_moving:
        raise ValueError("moves; choose a still picture")
    try:
        image = operations.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16 bits of grey
            image = image.convert("I").point(lambda value: value / 256).convert("L")
        elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            image = image.convert("RGB")
        image = image.convert("RGBA")
    except Exception as fault:
        raise ValueError(damaged) from fault
    image.info = {}  # no colour profile, place or time leaves with it
    return image


def logo_forms(image: Any) -> Iterator[bytes]:
    """Yield a picture as files of a logo, the best first: fewer colours, less quality, then smaller."""
    for height in LOGO_HEIGHTS:
        sized = image.copy()
        sized.thumbnail((LOGO_SHAPE * height, height))
        yield _file(sized, format="PNG", optimize=True)
        for colours in (256, 64):
            yield _file(sized.quantize(colours, method=2), format="PNG", optimize=True)
        for quality in (85, 70, 50):
            yield _file(sized, format="WEBP", quality=quality, method=6)
        yield _file(sized.quantize(16, method=2), format="PNG", optimize=True)


def _file(image: Any, **how: Any) -> bytes:
    image.save(found := BytesIO(), **how)
    return found.getvalue()


def logo_digests(work: Work) -> frozenset[str]:
    """Return the digests of all stored logos."""
    return frozenset(work.execute(select(Logo.digest)).scalars())
