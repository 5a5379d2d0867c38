"""Texts in plain characters: what no one sees is dropped, what looks alike becomes the same."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_portal.gateways.channels import OutgoingMessage
from auth_portal.gateways.channels.smtp import _compose, _mailbox
from auth_portal.services.directory.person import id_form, name_form
from auth_portal.typed import e164, email_form, identifier_form, plain_text, visible_text

EVERY_CHARACTER = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        ("\u202a+27\u00a082\u2011123\u20114567\u202c", "+27821234567"),  # Apple Contacts
        ("\u2068082 123 4567\u2069", "+27821234567"),  # Signal
        ("\ufeff082\u202f123\u20094567\u200b", "+27821234567"),
        ("٠٨٢ ١٢٣ ٤٥٦٧", "+27821234567"),  # an Arabic keyboard
        ("۰۸۲۱۲۳۴۵۶۷", "+27821234567"),
        ("（０８２）１２３－４５６７", "+27821234567"),
        ("＋２７８２１２３４５６７", "+27821234567"),
        ("tel:+27-82-123-4567;ext=12", "+27821234567"),
        ("TEL://+27821234567", "+27821234567"),
        ("tel:%2B27821234567", "+27821234567"),
        ("sms:0821234567?body=hello", "+27821234567"),
        ("'0821234567", "+27821234567"),  # Excel, for a number that is text
        ("082\u2212123\u22124567.", "+27821234567"),
        ("Thandi Nkosi <082 123 4567>", "+27821234567"),
        ("\u00ad082\u00ad1234567", "+27821234567"),
        ("0\u03a82 123 4567", None),
        ("²0821234567", None),
        ("278A21234567", None),  # libphonenumber would leave the letter out
        ("082123456A", None),
        ("C0821234567", None),
        ("082 123 4567 or so", None),
        ("Tel: 082 123 4567", "+27821234567"),
        ("Cell +27 82 123 4567", "+27821234567"),
        ("082 123 4567 ext. 12", "+27821234567"),
        ("0821234567x12", "+27821234567"),
        ("082 123 4567\n", "+27821234567"),
        ("whatsapp:+27821234567", "+27821234567"),
        ("27821234567@c.us", "+27821234567"),
        ("+52 1 55 1234 5678", "+525512345678"),  # as Mexico wrote it until 2019
        ("+55 11 8765-4321", "+5511987654321"),
        ("+229 97 12 34 56", "+2290197123456"),
        ("27821234567@g.us", None),
    ],
)
def test_r55_a_phone_number_however_it_was_pasted(typed: str, number: str | None) -> None:
    assert e164(typed, "ZA") == number


@pytest.mark.parametrize(
    "typed",
    [
        "Thandi Nkosi <Thandi@Example.com>",
        '"Nkosi, Thandi" <thandi@example.com>;',
        "mailto:thandi@example.com?subject=My%20code",
        "<thandi@example.com>",
        "thandi@example.com.",
        "thandi@example.com,",
        "\u200bthandi@\u2060example.com\u00a0",
        "“thandi@example.com”",
        "thandi＠example．com",
        "thandi@example.com。",
        "mailto:thandi%40example.com",
    ],
)
def test_r55_an_email_address_however_it_was_pasted(typed: str) -> None:
    assert email_form(typed) == "thandi@example.com"


LONG_DOMAIN = ".".join(["d" * 60] * 3)


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        (f"{'a' * 64}@example.com", f"{'a' * 64}@example.com"),
        (f"{'a' * 65}@example.com", None),
        (f"a@{'b' * 63}.com", f"a@{'b' * 63}.com"),
        (f"a@{'b' * 64}.com", None),
        (f"{'a' * 64}@{LONG_DOMAIN}.common", f"{'a' * 64}@{LONG_DOMAIN}.common"),  # 254 characters
        (f"{'a' * 64}@{LONG_DOMAIN}.commons", None),
        ("a@bücher.example.com", "a@xn--bcher-kva.example.com"),
        ("A@XN--BCHER-KVA.example.com", "a@xn--bcher-kva.example.com"),
        ("a@faß.de", "a@xn--fa-hia.de"),
        ("a@example.com.", "a@example.com"),
        ("a@example.com\n", "a@example.com"),
        *((typed, None) for typed in ('"a b"@example.com', '"ab"@example.com', "ä@example.com", "a@[192.0.2.1]")),
        *((typed, None) for typed in (".a@example.com", "a..b@example.com", "a@example..com", "a@-b.com", "a@com")),
    ],
)
def test_there_is_one_rule_for_email_addresses(typed: str, address: str | None) -> None:
    assert email_form(typed) == address


@given(st.emails())
def test_whatever_is_an_email_address_can_be_mailed(typed: str) -> None:
    address = email_form(typed)
    if address is not None:
        mail = _compose(OutgoingMessage("email", address, "Code", "Text", "", "1"), _mailbox("a@acme.example"))
        assert mail["To"] == address
        assert email_form(address) == address


@pytest.mark.parametrize(
    "typed",
    [
        *("C-1001", "c‑1001", "C–1001", "C−1001", "Ｃ－１００１", "C-١٠٠١", "C\u200b-1001", "C\u00ad-1001", "C - 1001"),
        *("C-1001.", "“C-1001”", "'C-1001", "<C-1001>", "\u202eC-1001\u202c", "C\u00a0-\u20071001", "C-1001\ufe0f"),
    ],
)
def test_r55_a_customer_id_however_it_was_pasted(typed: str) -> None:
    assert id_form(typed) == "c-1001"


def test_r55_a_dash_is_part_of_a_customer_id_and_what_is_all_punctuation_stays() -> None:
    keys = [
        id_form(text) for text in ("C-1001", "C1001", "C--1001", "C_1001", "...", "?!", "-", "—", "#1", "#1*", "C1.\n")
    ]
    assert keys == ["c-1001", "c1001", "c--1001", "c_1001", "...", "?!", "-", "-", "#1", "#1*", "c1"]


def test_r55_nothing_invisible_is_left_and_every_space_and_dash_and_digit_is_one() -> None:
    """Over all of Unicode, by its own categories."""
    for character in EVERY_CHARACTER:
        kind, found = unicodedata.category(character), plain_text(character)
        if kind == "Cf":
            assert found == "", ascii(character)
        elif kind == "Zs":
            assert found == " ", ascii(character)
        elif kind == "Pd":
            assert found == "-", ascii(character)
        elif kind == "Nd":
            assert found == str(unicodedata.decimal(character)), ascii(character)


@given(st.text(max_size=60))
def test_r55_the_one_form_of_a_one_form_is_itself(text: str) -> None:
    for form in (plain_text, visible_text, identifier_form, id_form, name_form):
        assert form(form(text)) == form(text), form


@given(st.text(max_size=60))
def test_r55_what_is_dropped_makes_no_difference_anywhere(text: str) -> None:
    hidden = "\u200b".join(f"\u202a{character}" for character in text)
    assert plain_text(hidden) == plain_text(text)
    assert id_form(hidden) == id_form(text)
