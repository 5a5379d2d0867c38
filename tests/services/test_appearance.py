"""The look of customers' pages: any colour can be read, and what is served has one name for one content."""

from __future__ import annotations

import re
import struct
import time
import zlib
from contextlib import suppress
from io import BytesIO
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from auth_portal.services.config.appearance import (
    DARK,
    DEFAULT_COLOUR,
    LIGHT,
    Shades,
    contrast,
    icon,
    logo_of,
    media_type_of,
    monogram_of,
    stylesheet,
    tokens,
)
from auth_portal.settings import delivered
from tests.pictures import drawn, picture

colours = st.integers(0, 0xFFFFFF).map(lambda number: f"#{number:06x}")
# Brands at the edges of the rules: the lightest, the darkest, and greys around each bound.
EDGES = ["#ffffff", "#000000", "#ffff00", "#12171d", "#15202b", "#777777", "#767676", "#eef2f6", "#00ff00", "#0000ff"]


def assert_readable(found: dict[str, str], shades: Shades) -> None:
    assert contrast(found["ob"], found["b"]) >= 4.5, "text on the band"
    assert contrast(found["of"], found["f"]) >= 4.5, "text on the button"
    assert contrast(found["f"], found["p"]) >= 3, "the button on the page"
    for ground in ("p", "t"):
        assert contrast(found["l"], found[ground]) >= shades.link_contrast, f"links on {ground}"
        assert contrast(found["i"], found[ground]) >= 7, f"text on {ground}"
        assert contrast(found["s"], found[ground]) >= 4.5, f"small text on {ground}"
        assert contrast(found["no"], found[ground]) >= 4.5, f"a fault on {ground}"
    assert contrast(found["e"], found["p"]) >= 3, "the edge of a field"
    assert contrast(found["ok"], found["p"]) >= 4.5


@pytest.mark.parametrize("shades", [LIGHT, DARK], ids=["light", "dark"])
@given(colour=colours)
def test_every_colour_can_be_read(shades: Shades, colour: str) -> None:
    assert_readable(tokens(colour, shades), shades)


@pytest.mark.parametrize("shades", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("colour", EDGES)
def test_the_hardest_colours_can_be_read(shades: Shades, colour: str) -> None:
    assert_readable(tokens(colour, shades), shades)


def test_the_default_colour_has_the_documented_tokens() -> None:
    light, dark = tokens("#0b4f8a", LIGHT), tokens("#0b4f8a", DARK)
    assert [light[name] for name in ("b", "ob", "f", "of", "l", "t")] == [
        "#0b4f8a", "#ffffff", "#0b4f8a", "#ffffff", "#0b4f8a", "#eef3f7"
    ]  # fmt: skip
    assert [dark[name] for name in ("b", "ob", "f", "of", "l", "t")] == [
        "#0b4f8a", "#ffffff", "#326b9d", "#ffffff", "#80a3c2", "#11202e"
    ]  # fmt: skip


def test_a_yellow_brand_writes_in_its_colour_on_ink() -> None:
    light = tokens("#ffd400", LIGHT)
    assert (light["ob"], light["f"], light["of"], light["l"]) == ("#000000", "#15202b", "#ffd400", "#15202b")


@pytest.mark.parametrize(
    ("name", "monogram"),
    [
        ("acme bank", "A"),
        ("  „Łódź“ Bank", "Ł"),
        ("E\u0301cole", "É"),
        ("ßank", "ß"),
        ("7eleven", "7"),
        ("بنك مصر", "ب"),
        ("क्षत्रिय", "क्ष"),
        ("한국은행", "한"),
        ("👨‍👩‍👧 Family Shop", "👨‍👩‍👧"),
        ("👍🏽 Bank", "👍🏽"),
        ("🇿🇦🇰🇪 Bank", "🇿🇦"),
        ("🏴󠁧󠁢󠁳󠁣󠁴󠁿 Bank", "🏴󠁧󠁢󠁳󠁣󠁴󠁿"),
        ("***", "?"),
        ("a" + "\u0301" * 50, "Á" + "\u0301" * 11),
    ],
)
def test_a_monogram_is_what_people_see_as_the_first_letter(name: str, monogram: str) -> None:
    assert monogram_of(name) == monogram


@given(st.text(min_size=1, max_size=60))
def test_every_name_has_a_monogram_that_is_its_own(name: str) -> None:
    found = monogram_of(name)
    assert 1 <= len(found) <= 12
    assert monogram_of(found) == found
    assert re.fullmatch(r"/look/0b4f8a-[0-9a-f_]+\.[0-9a-f]{12}\.svg", icon("#0b4f8a", found).url)


def test_one_content_has_one_name() -> None:
    urls = {stylesheet(colour, radius).url for colour in ("#0b4f8a", "#0b4f8b") for radius in (0, 12, 24)}
    assert len(urls) == 6
    assert len({url.split(".")[1] for url in urls}) == 6


# --- Logos


def size_of(logo: bytes) -> tuple[int, int]:
    return Image.open(BytesIO(logo)).size


def noise(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), Random(1).randbytes(width * height * 3))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(("width", "height"), [(400, 100), (1200, 1200), (60, 20), (2000, 40), (3, 900)])
def test_a_logo_is_small_enough_for_the_first_view(kind: str, width: int, height: int) -> None:
    drawing = drawn(width, height) if kind != "JPEG" else drawn(width, height, "RGB")
    made = logo_of(picture(kind, drawing))
    assert len(made) <= 4096
    assert media_type_of(made) in ("image/png", "image/webp")
    assert size_of(made)[0] <= 288
    assert size_of(made)[1] <= 72


def test_a_photo_and_noise_fit_too() -> None:
    made = logo_of(picture("JPEG", noise(600, 300), quality=60))
    assert len(made) <= 4096


def test_a_logo_keeps_its_transparency_and_loses_its_empty_edge() -> None:
    canvas = Image.new("RGBA", (500, 500), (0, 0, 0, 0))
    canvas.paste(drawn(200, 50), (150, 220))
    made = Image.open(BytesIO(logo_of(picture("PNG", canvas)))).convert("RGBA")
    assert made.size == (200, 50)
    assert made.getpixel((199, 0))[3] == 0  # type: ignore[index]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "I;16", "CMYK"])
def test_every_kind_of_pixel_is_understood(mode: str) -> None:
    if mode == "I;16":
        grey = Image.new("I;16", (100, 50), 40_000)
        assert Image.open(BytesIO(logo_of(picture("PNG", grey)))).convert("L").getpixel((5, 5)) == pytest.approx(
            156, abs=1
        )
        return
    image = drawn(mode="RGB").convert(mode)
    assert len(logo_of(picture("JPEG" if mode == "CMYK" else "PNG", image))) <= 4096


def test_a_picture_that_lies_on_its_side_is_turned_and_says_nothing_more() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010E] = "taken at home"
    made = logo_of(picture("JPEG", drawn(300, 100, "RGB"), exif=exif, icc_profile=b"profile" * 50, comment=b"at home"))
    assert size_of(made) == (24, 72)
    for words in (b"at home", b"profile", b"eXIf", b"EXIF", b"iCCP"):
        assert words not in made


def test_text_in_a_picture_goes_nowhere() -> None:
    info = PngInfo()
    info.add_text("Comment", "<script>alert(1)</script>")
    assert b"script" not in logo_of(picture("PNG", pnginfo=info) + b"<script>alert(2)</script>")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "must be a PNG, JPEG or WebP"),
        (b"GIF89a" + b"0" * 50, "must be a PNG, JPEG or WebP"),
        (picture("PNG")[:60], "damaged"),
        (picture("PNG")[:-40], "damaged"),
        (picture("JPEG")[:-200], "damaged"),
        (picture("WEBP")[:-100], "damaged"),
        (picture("PNG", Image.new("1", (6000, 10))), "6000 x 10 pixels"),
        (picture("PNG", Image.new("1", (4000, 4000))), "4000 x 4000 pixels"),
        (picture("PNG", Image.new("RGBA", (10, 10), (1, 2, 3, 0))), "is empty"),
        (picture("PNG", drawn(), save_all=True, append_images=[drawn(300, 100)]), "moves"),
        (picture("WEBP", drawn(), save_all=True, append_images=[drawn(400, 100).rotate(90)]), "moves"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 262_144, "at most 256 kB"),
    ],
)
def test_a_picture_that_cannot_be_a_logo_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        logo_of(content)


def test_a_bomb_is_refused_by_its_head_alone() -> None:
    """A file of 100 bytes that says it has 60,000 by 60,000 pixels."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 6, 0, 0, 0)
    chunk = b"IHDR" + head
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    began = time.process_time()
    with pytest.raises(ValueError, match=r"pixels|damaged"):
        logo_of(bomb + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    assert time.process_time() - began < 1


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "WEBP"]), data=st.data())
def test_no_malformed_picture_does_more_than_be_refused(kind: str, data: st.DataObject) -> None:
    content = bytearray(picture(kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(12, len(content) - 1))] = data.draw(st.integers(0, 255))
    made = b""
    with suppress(ValueError):
        made = logo_of(bytes(content[: data.draw(st.integers(20, len(content)))]))
    assert len(made) <= 4096


def test_the_configuration_page_has_the_same_colours() -> None:
    """One palette: what static/palette.css calls by a word is what customers' pages call by a letter."""
    light, dark = (delivered("static") / "palette.css").read_text().split("@media")
    for text, shades in ((light, LIGHT), (dark, DARK)):
        found = {name: _whole(value) for name, value in re.findall(r"--([\w-]+): (#[0-9a-f]+);", text)}
        shared = {"paper": shades.page, "ink": shades.ink, "ink-2": shades.small, "edge": shades.edge}
        shared |= {"line": shades.hairline, "good": shades.good, "bad": shades.bad}
        assert {name: found[name] for name in shared} == shared
        for ground in ("page", "paper"):
            words = ("ink", "ink-2", "ink-3", "brand", "brand-strong", "good", "warn", "bad")
            faint = [name for name in words if contrast(found[name], found[ground]) < 4.5]
            assert faint == [], (ground, faint)
        for name in ("good", "warn", "bad", "brand"):
            assert contrast(found[name], found[f"{name}-soft"]) >= 4.5, name
        assert contrast(found["on-brand"], found["brand"]) >= 4.5
        assert contrast(found["edge"], found["paper"]) >= 3
    assert f"--brand: {DEFAULT_COLOUR};" in light


def _whole(colour: str) -> str:
    return colour if len(colour) == 7 else "#" + "".join(2 * char for char in colour[1:])
