"""The look of customers' pages: any colour can be read, and what is served has one name for one content."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_portal.services.config.appearance import DARK, LIGHT, Shades, contrast, icon, monogram_of, stylesheet, tokens

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
