"""What people type, paste and export, in plain characters (R18, R25, R55).

Keyboards, chat apps, address books and spreadsheets add characters that no one sees or that only look right: marks of
direction around a phone number, spaces that do not break, dashes of other widths, digits of another script. Two texts
that look the same must be the same, so every value that identifies a person passes through here before it is compared.
Passwords do not: each of their characters counts.

A phone number is E.164, as its country writes it now; an email address is in small letters and ASCII, and one that a
mail server must take (RFC 5321). These are the only places that say what is one.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from urllib.parse import unquote

import phonenumbers
from babel import Locale
from babel.core import get_global
from email_validator import EmailNotValidError, validate_email

JOINERS = "\u200c\u200d"  # the invisible characters that some scripts cannot be written without
# Of category Cf are the marks of direction, joiners, soft hyphens and byte order marks. The others that Unicode calls
# default ignorable (DerivedCoreProperties.txt) are fillers and variation selectors; the Braille blank shows nothing.
_INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
_IS_INVISIBLE = re.compile(f"[{_INVISIBLE}]")
_DASHES = "\u2043\u207b\u208b\u2212"  # bullet, raised, lowered, minus; all others are of category Pd
_FULL_WIDTH = range(0xFF01, 0xFF5F)  # ASCII as East Asian keyboards write it; letters stay, as in any other script
_FULL_WIDTH_OFFSET = 0xFEE0
_NAMED = re.compile(r"[^<>]*<([^<>]+)>[^\w<>]*")  # Thandi Nkosi <thandi@example.com>
_SCHEME = re.compile(r"(mailto|tel|sms|smsto|callto):/{0,2}", re.IGNORECASE)
# A number as chat networks write it, in full and without the plus; behind the colon is the number of a device.
_CHAT_ID = re.compile(
    r"(?:(?:whatsapp:|(?:https?://)?wa\.me/)\+?)?([0-9 ()-]{6,20})(?:(?::[0-9]+)?@(?:c\.us|s\.whatsapp\.net))?",
    re.IGNORECASE,
)
_QUOTES = "\"'`\u00ab\u00b4\u00bb\u2018-\u201f\u2039\u203a"
_AROUND = re.compile(rf"^[\s{_QUOTES}]+|[\s{_QUOTES}.,;:!?…‥。、․‚·،؛؟۔।]+$")
BARE = re.compile(r"[+\w](?:[\w@.+-]*\w)?", re.ASCII)  # an ID, number or address that is in plain characters already
ADDRESS_LENGTH = 254  # characters of an email address (RFC 5321 4.5.3.1.3)
PHONE_LENGTH = 40  # characters as people type them
# Such a text is no phone number, but an ID or a mistake: libphonenumber would leave the letter out, or what follows it.
_LETTER_IN_NUMBER = re.compile(r"[A-Za-z][0-9]|[0-9].*[A-Za-z]")
_EXTENSION = re.compile(r"(?<=[0-9])[ ,;]*(ext|extension|x)[.:]? ?[0-9]{1,7}$", re.IGNORECASE)
# One subscriber's number in two forms, as chat networks or older files write it and as its country does. Each pattern
# leaves one number, so that a chat never passes for that of someone else.
_OTHER_FORMS = tuple(
    (re.compile(pattern), form)
    for pattern, form in (
        (r"\+521([2-9]\d{9})", r"+52\1"),  # Mexico: the 1 of mobile phones, abolished in 2019
        (r"\+52([2-9]\d{9})", r"+521\1"),
        (r"\+549([1-3]\d{9})", r"+54\1"),  # Argentina: the 9 of calls from abroad to mobile phones
        (r"\+54([1-3]\d{9})", r"+549\1"),
        (r"\+55([1-9]{2})([6-9]\d{7})", r"+55\g<1>9\2"),  # Brazil: the ninth digit, added until 2016
        (r"\+55([1-9]{2})9([6-9]\d{7})", r"+55\1\2"),
        (r"\+229(\d{8})", r"+22901\1"),  # Benin: ten digits since 2024
        (r"\+22901(\d{8})", r"+229\1"),
        (r"\+225([04-9][0-3]\d{6})", r"+22501\1"),  # Ivory Coast: ten digits since 2021, by the network of the eight
        (r"\+225([04-9][4-6]\d{6})", r"+22505\1"),
        (r"\+225([04-9][7-9]\d{6})", r"+22507\1"),
        (r"\+225(?:01(?=[04-9][0-3])|05(?=[04-9][4-6])|07(?=[04-9][7-9]))(\d{8})", r"+225\1"),
        (r"\+39([124-9]\d{5,9})", r"+390\1"),  # Italy: the 0 of landlines is a part of the number
    )
)
_AFTER_TAG = re.compile(r"[.,;]")  # a character set (en_US.UTF-8), or the next of a list (en-ZA,en;q=0.9)
_BEFORE_REGION = re.compile(r"\s+-\s+|\s*[(\[]")  # English (South Africa), English - South Africa
_SCRIPT_OF_MODIFIER = {"latin": "Latn", "cyrillic": "Cyrl", "arabic": "Arab", "devanagari": "Deva"}  # sr_RS@latin
_NO_LANGUAGE = ("und", "mul", "mis", "zxx")  # undetermined, several, not coded, no linguistic content
# By their own names; all others by the English name.
_NAMED_BY_THEMSELVES = re.findall(r"\w+", "af ar de es fr it nl nr nso pt ss st sw tn ts ve xh zu")


def visible_text(text: str, stays: str = "") -> str:
    """Return text without the characters that no one sees, and with every kind of space as a space.

    The characters in ``stays`` are left as they are.
    """
    if text.isascii():
        return text.replace("\t", " ")
    return "".join(character if character in stays else _visible_character(character) for character in text)


def plain_text(text: str) -> str:
    """Return text as ``visible_text`` does, with every dash as ``-``; digits of any script and wide signs as ASCII."""
    return text.replace("\t", " ") if text.isascii() else "".join(map(_plain_character, text))


def identifier_form(text: str) -> str:
    """Return what names a person without what was pasted around it, in plain characters.

    That is the address in ``Thandi <thandi@example.com>``, what follows ``tel:`` or ``mailto:``, and what stands
    between quotation marks and before the full stop of a sentence.
    """
    text = _AROUND.sub("", plain_text(text))
    if named := _NAMED.fullmatch(text):
        text = _AROUND.sub("", named[1])
    if scheme := _SCHEME.match(text):
        # Behind a question mark or semicolon are parameters (RFC 6068, RFC 3966), such as a subject.
        text = _AROUND.sub("", plain_text(unquote(re.split("[?;]", text[scheme.end() :])[0])))
    return text


def e164(typed: str, region: str) -> str | None:
    """Return a phone number as ``+27821234567``, or None if it is not one.

    ``region`` is that of national forms; without one, only a number with its country code is one. A number as its
    country no longer writes it is returned as it does now.
    """
    text = _phone_text(typed)
    if not text.isascii() or len(text) > PHONE_LENGTH or _LETTER_IN_NUMBER.search(_EXTENSION.sub("", text)):
        return None
    spellings = (f"+{text[2:]}", text) if text.startswith("00") else (text,)  # how most countries dial abroad
    for spelling in spellings:
        try:
            number = phonenumbers.parse(spelling, region or None)
        except phonenumbers.NumberParseException:
            continue
        found = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        if phonenumbers.is_valid_number(number):
            return found
        for other in _other_forms(found):
            if phonenumbers.is_valid_number(phonenumbers.parse(other)):
                return other
    return None


def _phone_text(typed: str) -> str:
    """Return what may be a phone number without what was pasted around it, or what a chat network added."""
    text = identifier_form(typed)
    chat = _CHAT_ID.fullmatch(text) if "@" in text or "wa.me/" in text or ":" in text else None
    return text if chat is None else chat[1] if chat[1].startswith("0") else f"+{chat[1]}"


def _other_forms(number: str) -> list[str]:
    """Return the same subscriber's number in the other forms that chat networks and older files have."""
    found = ((pattern.fullmatch(number), form) for pattern, form in _OTHER_FORMS)
    return [match.expand(form) for match, form in found if match is not None]


def chat_numbers(text: str, region: str) -> tuple[str, ...]:
    """Return a chat's own number as ``+27821234567``, and the other forms in which it may be on file; else nothing.

    Networks write it in full, without the plus, and some as its country does not. Only a leading 0 marks a national
    number. Other digits that are no international number are not read as a national one: they may be an ID on another
    network, which must not pass for a customer's number.
    """
    written = _phone_text(text)
    number = e164(written if written.lstrip("( ").startswith(("+", "0")) else f"+{written}", region)
    return () if number is None else tuple(dict.fromkeys((number, *_other_forms(number))))


def email_form(typed: str) -> str | None:
    """Return an email address in its one form, or None. No Unicode before the @: ``mıke@`` is not ``mike@``.

    At most 64 characters stand before it, 63 in each part of the domain, and 254 in all (RFC 5321 4.5.3.1, RFC 1035).
    """
    try:
        valid = validate_email(identifier_form(typed), allow_smtputf8=False, check_deliverability=False, strict=True)
    except EmailNotValidError:
        return None
    address = valid.ascii_email or valid.normalized
    return address.lower() if len(address) <= ADDRESS_LENGTH else None


@lru_cache(maxsize=4096)
def language_tag(text: str) -> str:
    """Return the language that a text names as BCP 47 writes it, such as ``zh-Hans-CN``; "" if it names none.

    What programs write is read leniently: any case, ``en_US.UTF-8``, ``sr_RS@latin``, codes that others replaced
    (``iw``, ``eng``), and names of languages. Variants and extensions are left out, and so is a region that is none.
    """
    plain = plain_text(text).strip(f" {_QUOTES}")
    base, _at, modifier = plain.replace("_", "-").partition("@")
    first, *rest = _AFTER_TAG.split(base)[0].strip().lower().split("-")
    languages, aliases = Locale("en").languages, get_global("language_aliases")
    language, _mark, script = aliases.get(first, first).partition("_")
    if not (first.isalpha() and first.isascii() and language in languages) or language in _NO_LANGUAGE:
        code = _languages_by_name().get(_BEFORE_REGION.split(plain)[0].strip().casefold(), "")
        return code.replace("_", "-")
    script, region = _SCRIPT_OF_MODIFIER.get(modifier.lower(), script), ""
    for part in rest:
        if len(part) == 1:  # what follows is an extension
            break
        if part.title() in Locale("en").scripts:
            script = part.title()
        known = get_global("territory_aliases").get(part.upper(), [part.upper()])[0]
        if known in Locale("en").territories and known != "ZZ":
            region = known
    return "-".join(filter(None, (language, script, region)))


@cache
def _languages_by_name() -> dict[str, str]:
    named = {name.casefold(): code for code, name in Locale("en").languages.items()}
    own = ((str(Locale(code).get_language_name(code)).casefold(), code) for code in _NAMED_BY_THEMSELVES)
    return named | dict(own)


@lru_cache(maxsize=4096)
def _visible_character(character: str) -> str:
    kind = unicodedata.category(character)
    if kind in ("Zs", "Zl", "Zp") or character == "\t":
        return " "
    return "" if kind == "Cf" or _IS_INVISIBLE.match(character) else character


@lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    if kind == "Pd" or character in _DASHES:
        return "-"
    if ord(character) in _FULL_WIDTH and kind not in ("Lu", "Ll"):
        return chr(ord(character) - _FULL_WIDTH_OFFSET)
    return _visible_character(character)
