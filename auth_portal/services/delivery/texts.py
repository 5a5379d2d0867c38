"""The texts of messages: a code by SMS or email, and a notice. They are in the language that is spoken (i18n).

An SMS is written in the GSM 7-bit alphabet where its letters allow it, 160 of them to a part, else in UCS-2 with 70.
Latin letters lose marks that the alphabet lacks, as people and banks write them in SMS: one part, not two. Any other
script stays as it is. The tables for single languages of 3GPP TS 23.038 are not used: few networks know them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import idna
from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined

from auth_portal.gateways.channels import OutgoingMessage
from auth_portal.i18n import (
    FALLBACK,
    NO_WORDING,
    SMS,
    SMS_PAYMENT,
    Wording,
    gettext,
    language,
    matched,
    ngettext,
    own_message,
    own_text,
    plain,
    plain_plural,
    speaking,
    spoken,
    translated,
)

GSM_7, UCS_2 = "GSM-7", "UCS-2"
# What a message holds alone, and each part of a longer one, which also has a header (3GPP TS 23.040 9.2.3.24).
ROOM = {GSM_7: (160, 153), UCS_2: (70, 67)}
MOST_PARTS = 3  # of a notice; a longer one is cut
TEMPLATES = ("email.txt", "email.html", "notice.txt", "notice.html")
# The basic set of 3GPP TS 23.038 6.2.1, and the extension table, whose characters take two septets.
_GSM = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = frozenset("\f^{}\\[~]|€")
# Latin letters and marks that Unicode does not take apart, as they are written without them.
_INSTEAD = str.maketrans(
    {
        **dict(zip("ŁłĐđĦħŦŧıĸŊŋƏəƉɖƁɓƊɗƘƙ", "LlDdHhTtikNnEeDdBbDdKk", strict=True)),
        "Œ": "OE",
        "œ": "oe",
        "Þ": "Th",
        "þ": "th",
        "Ð": "D",
        "ð": "d",
        "ẞ": "SS",
        "…": "...",
        **dict.fromkeys("‘’‚‛`´ʻʼ′", "'"),
        **dict.fromkeys("“”„‟«»″", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **dict.fromkeys("\u00a0\u2007\u202f\u2009\u200a\t", " "),
    }
)
_LETTERS = "LN"  # categories of Unicode that a text cannot lose: letters and numbers; marks belong to letters
_JOINER, _FRACTION = "\u200d", "\u2044"
SHORTEST_NAME = 3  # characters of a name that still say which business it is


@dataclass(frozen=True)
class SmsText:
    """An SMS as it leaves: its text, the encoding that its characters need, and how many messages it is paid as."""

    text: str
    encoding: str
    parts: int


class PaymentWords(Protocol):
    """A payment as its payer reads it, in the language that is spoken."""

    @property
    def amount(self) -> str:
        """Return the amount with the sign of its currency."""

    @property
    def coded(self) -> str:
        """Return the amount with the code of its currency."""

    @property
    def payee(self) -> str:
        """Return who gets the money."""


@dataclass(frozen=True)
class CodeMessage:
    """What a message with a code says."""

    code: str
    portal: str
    journey: str
    host: str
    seconds: int  # for which the code is still valid
    support: str = ""
    latin_name: str = ""  # of the business, for an SMS that needs no other script
    payment: PaymentWords | None = None  # that the code approves
    wording: Wording = NO_WORDING  # the business's own texts
    colour: str = "#f4f5f7"  # of the band of an email, and of what stands on it
    on_colour: str = "#16202c"

    @property
    def minutes(self) -> int:
        """Return whole minutes, rounded, at least one: the page has the countdown."""
        return max(1, round(self.seconds / 60))


# --- SMS


def gsm(text: str) -> str | None:
    """Return a text in the GSM alphabet, or None if that would lose letters of another script.

    Latin letters lose their marks if need be, and symbols such as emoji are left out.
    """
    letters = []
    for letter in unicodedata.normalize("NFC", text).translate(_INSTEAD):
        if letter in _GSM or letter in _EXTENSION:
            letters.append(letter)
            continue
        plain_letter = unicodedata.normalize("NFKD", letter).replace(_FRACTION, "/")
        kept = "".join(part for part in plain_letter if part in _GSM)
        if not kept and (unicodedata.category(letter)[0] in _LETTERS or _is_foreign_mark(letter)):
            return None
        letters.append(kept)
    return "".join(letters)


def _is_foreign_mark(letter: str) -> bool:
    """Report whether a mark belongs to letters of a script, as vowel signs do; those of Latin are of no script."""
    return unicodedata.category(letter) in ("Mc", "Mn") and not unicodedata.name(letter, "").startswith(
        ("COMBINING ", "VARIATION ")
    )


def measured(text: str) -> SmsText:
    """Return a text with the encoding that it needs as it is, and its parts, which split no character."""
    is_gsm = all(letter in _GSM or letter in _EXTENSION for letter in text)
    encoding = GSM_7 if is_gsm else UCS_2
    widths = [_width(letter, is_gsm=is_gsm) for letter in text]
    alone, joined = ROOM[encoding]
    if sum(widths) <= alone:
        return SmsText(text, encoding, 1)
    parts, left = 1, joined
    for width in widths:
        if width > left:
            parts, left = parts + 1, joined
        left -= width
    return SmsText(text, encoding, parts)


def _width(letter: str, *, is_gsm: bool) -> int:
    """Return what a character takes: septets in GSM-7, units of 16 bits in UCS-2."""
    return (2 if letter in _EXTENSION else 1) if is_gsm else (2 if ord(letter) > 0xFFFF else 1)  # noqa: PLR2004


def sms_text(message: CodeMessage) -> SmsText:
    """Return the SMS of a code: which business asks, for what, for how long, the warning, the line that fills it in.

    To be one part it first leaves out the journey, then shortens the name of the business, then leaves the name out;
    never the code, what it pays to which payee (RTS 5), its life, the warning or the last line. If even that is not one
    part, it is as few as the whole name takes. The Latin name stands in where the name alone would need UCS-2; without
    one the name keeps its script.
    """
    if own := own_message(SMS if message.payment is None else SMS_PAYMENT):
        return _own_sms(message, own)
    name = message.portal if any(unicodedata.category(letter)[0] in _LETTERS for letter in message.portal) else ""
    if not _latin(name) and message.latin_name and gsm(_sentence(message, message.latin_name)) is not None:
        name = message.latin_name
    alone = _written(message, name)
    whole = [_written(message, name, message.journey), alone]
    if not _latin(message.journey):
        whole.reverse()  # one name in another script must not change the encoding of all the rest
    for offer in whole:
        if offer.parts == 1:
            return offer
    bare = _written(message)
    if bare.parts > 1 or bare.encoding != alone.encoding:  # a name is not left out for its script
        return min(whole, key=lambda offer: offer.parts)
    while len(name := _without_end(name)) >= SHORTEST_NAME:
        offer = _written(message, name)
        if offer.parts == 1:
            return offer
    return bare


def _own_sms(message: CodeMessage, own: str) -> SmsText:
    """Return the text as the business words it, with our warning and the line that phones fill the code in from."""
    values = {"code": message.code, "num": str(message.minutes), "warning": plain("Never share this code.")}
    values |= {"business": _latin(message.portal) or message.latin_name or message.portal, "journey": message.journey}
    if message.payment is not None:
        values |= {"amount": _sms_amount(message.payment), "payee": message.payment.payee}
    return _ended(message, own % values)


def _written(message: CodeMessage, name: str = "", journey: str = "") -> SmsText:
    return _ended(message, _sentence(message, name, journey))


def _ended(message: CodeMessage, sentence: str) -> SmsText:
    """Return a text with the line that phones fill the code in from, as it fits best.

    It stays as it is where the alphabet lacks a sign of the payee, who must not change.
    """
    host = message.host if message.host.isascii() else idna.encode(message.host).decode()
    text, payee = f"{sentence}\n\n@{host} #{message.code}", message.payment.payee if message.payment else ""
    return _fitting(text) if all(map(gsm, payee)) else measured(text)


def _sms_amount(payment: PaymentWords) -> str:
    """Return an amount whose currency shows in the GSM alphabet."""
    signs = (letter for letter in payment.amount if unicodedata.category(letter) == "Sc")
    return payment.amount if all(map(gsm, signs)) else payment.coded


def _latin(text: str) -> str:
    """Return a name in the GSM alphabet, or "" if it has letters of another script, or nothing but symbols."""
    return " ".join((gsm(text) or "").split())


def _fitting(text: str) -> SmsText:
    """Return a text in the GSM alphabet if its letters allow it, else as it is."""
    plain_text = gsm(text)
    return measured(text if plain_text is None else plain_text)


def _sentence(message: CodeMessage, name: str = "", journey: str = "") -> str:
    """Return the text as it is in its language."""
    values = {"code": message.code, "business": _latin(name) or name, "journey": _latin(journey) or journey}
    minutes = message.minutes
    if message.payment is not None:
        values |= {"amount": _sms_amount(message.payment), "payee": message.payment.payee}
        text = plain_plural(
            "%(code)s is your code to pay %(amount)s to %(payee)s. Valid %(num)s min. Never share it. %(business)s",
            "%(code)s is your code to pay %(amount)s to %(payee)s. Valid %(num)s min. Never share it. %(business)s",
            minutes,
            **values,
        ).strip()
    elif name and journey:
        text = plain_plural(
            "%(code)s is your %(business)s code for %(journey)s. Valid %(num)s min. Never share this code.",
            "%(code)s is your %(business)s code for %(journey)s. Valid %(num)s min. Never share this code.",
            minutes,
            **values,
        )
    elif name:
        text = plain_plural(
            "%(code)s is your %(business)s code. Valid %(num)s min. Never share this code.",
            "%(code)s is your %(business)s code. Valid %(num)s min. Never share this code.",
            minutes,
            **values,
        )
    else:
        text = plain_plural(
            "%(code)s is your code. Valid %(num)s min. Never share this code.",
            "%(code)s is your code. Valid %(num)s min. Never share this code.",
            minutes,
            **values,
        )
    return text


def _without_end(text: str) -> str:
    """Return a text without its last character, with the marks and joiners that belong to it."""
    end = len(text) - 1
    while end > 0 and (unicodedata.category(text[end])[0] == "M" or _JOINER in text[end - 1 : end + 1]):
        end -= 1
    return text[:end].rstrip()


def notice_sms(text: str) -> SmsText:
    """Return a notice as an SMS of at most MOST_PARTS parts."""
    shown = _fitting(text)
    while shown.parts > MOST_PARTS:
        shown = measured(_without_end(shown.text))
    return shown


def sms_in_each_language(message: CodeMessage, locales: tuple[str, ...]) -> list[tuple[str, SmsText]]:
    """Return the SMS as it would be in each of these languages, with the language's own name."""
    found = []
    for locale in locales:
        with speaking(locale, message.wording):
            found.append((language(locale).name, sms_text(_named(message))))
    return found


def _named(message: CodeMessage) -> CodeMessage:
    """Return a message with the journey's name in the language that is spoken."""
    return replace(message, journey=own_text("name", message.journey))


# --- All messages


class Texts:
    """Render messages from the folder ``templates``. Raise TemplateNotFound if one of them is missing there."""

    def __init__(self, host: str, templates: Path, compiled: BytecodeCache) -> None:
        self._host = host
        loader = FileSystemLoader(templates / "messages")
        # Plain text is not escaped: see S701 in pyproject.toml.
        self._environment = Environment(  # nosec B701
            loader=loader,
            autoescape=lambda name: bool(name and name.endswith(".html")),
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            trim_blocks=True,
            bytecode_cache=compiled,
        )
        for name in TEMPLATES:  # an incomplete installation shows at the start, not when a code has to leave
            self._environment.get_template(name)

    @property
    def host(self) -> str:
        """Return the host of the page, which every message names."""
        return self._host

    def outgoing(self, kind: str, to: str, message: CodeMessage, message_id: str, locale: str) -> OutgoingMessage:
        """Return the message with a code, for a channel of this kind, in a language."""
        with speaking(locale, message.wording):
            return self._outgoing(kind, to, _named(message), message_id)

    def _outgoing(self, kind: str, to: str, message: CodeMessage, message_id: str) -> OutgoingMessage:
        if kind == "sms":
            return OutgoingMessage("sms", to, "", sms_text(message).text, "", message_id)
        names = ("code", "portal", "journey", "host", "minutes", "support", "payment", "colour", "on_colour")
        values = {name: getattr(message, name) for name in names}
        subject = plain("%(code)s is your %(business)s code", code=message.code, business=message.portal)
        if (payment := message.payment) is not None:
            amount = " ".join(payment.amount.split())  # no header needs a no-break space
            subject = plain(
                "%(code)s is your code to pay %(amount)s to %(payee)s",
                code=message.code,
                amount=amount,
                payee=payment.payee,
            )
        text, html = self._render("email", values)
        return OutgoingMessage("email", to, subject, text, html, message_id)

    def notice(
        self, notice: Mapping[str, Any], message_id: str, business: str, offered: tuple[str, ...]
    ) -> OutgoingMessage:
        """Return a message without a code, to an email address or a phone (then subject and text become one SMS).

        One to a customer has its English in ``said``, and is in their own ``locale`` if that is offered.
        """
        to, subject, text = notice["to"], notice["subject"], notice["text"]
        with speaking(matched(notice.get("locale", ""), offered)):
            if spoken.get() != FALLBACK:
                english, english_text, link = notice["said"]
                subject = f"{business}: {translated(english)}"
                text = translated(english_text) % {"link": link} if link else translated(english_text)
            if "@" not in to:
                return OutgoingMessage("sms", to, "", notice_sms(f"{subject}. {text}").text, "", message_id)
            values = {"subject": subject, "lines": text.splitlines(), "host": self._host}
            plain_text, html = self._render("notice", values)
        return OutgoingMessage("email", to, subject, plain_text, html, message_id)

    def _render(self, name: str, values: Mapping[str, object]) -> tuple[str, str]:
        """Return a message as plain text and as HTML."""
        words = {"locale": language(spoken.get())}
        return (
            self._environment.get_template(f"{name}.txt").render(values, **words, _=plain, ngettext=plain_plural),
            self._environment.get_template(f"{name}.html").render(values, **words, _=gettext, ngettext=ngettext),
        )
