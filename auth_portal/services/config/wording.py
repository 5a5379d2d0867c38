"""A business's own texts of the customer's way: which of ours may be replaced, and by what.

A journey has them by language: our English text, or a name of ``OWN``, leads to the business's text. Both write what is
filled in as ``{code}``. Every such placeholder of ours must be in it, so that no code, amount, payee or time is lost,
and the warnings in ``WARNINGS`` stay ours. What an earlier version of the portal stored and no text of this one fits is
left out: then ours is shown.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from auth_portal.i18n import (
    DOMAIN,
    FALLBACK,
    SMS,
    SMS_PAYMENT,
    TRANSLATIONS,
    Wording,
    complete_languages,
    plural_categories,
    plural_forms,
    translations,
)

OwnText = str | dict[str, str]  # for every number, or one for each category of the CLDR
OwnTexts = dict[str, dict[str, OwnText]]  # by language, and by our English text or a name of OWN

LONGEST = 300  # characters of a text where ours are shorter than half of it
_OURS = re.compile(r"%\((\w+)\)s")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_TAG = re.compile(r"<[^<>]+>")


class NamedText(NamedTuple):
    """A text that has a name instead of one of ours: what it must and may say, and how long it may be."""

    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    room: int = LONGEST


OWN: Mapping[str, NamedText] = {
    "name": NamedText(room=60),
    "landing": NamedText(),
    "done": NamedText(),
    "closed": NamedText(),
    SMS: NamedText(frozenset({"code", "business", "num", "warning"}), frozenset({"journey"})),
    SMS_PAYMENT: NamedText(frozenset({"code", "amount", "payee", "num", "warning"}), frozenset({"business"})),
}
# What protects a customer, or makes a message ours, in whatever words the rest is.
WARNINGS = frozenset(
    {
        "Never share this code.",
        "Never share this code, not even with us.",
        "Never share your password, not even with us.",
        "Only enter this code here. Never share it with a person.",
        "%(business)s never asks for it by phone or in the chat.",
        "Didn't ask for this? Someone may be pretending to be you.",
        "Don't use the code.",
        "Don't use the code, and contact us: %(support)s.",
        "Only approve this payment if you asked for it.",
        "Only approve if you asked for this.",
        "Only continue if you started this chat.",
        "Never share it with a person.",
        "Only use it in the chat you started. Never share it with a person.",
        "Don't share any code you got.",
        "Don't reply to the person who sent the link.",
        "Shared a code or password?",
        "%(business)s never calls you to give you a code.",
        "Your chat also accepts “%(name)s”, which asks for less.",
    }
)
# The parts of the customer's way, each with the files in which its texts stand; a text is in the first part that fits.
PARTS: Mapping[str, tuple[str, ...]] = {
    "own": (),
    "landing": ("templates/visitor/landing.html", "templates/visitor/naming.html", "templates/macros/payment.html"),
    "code": (
        "templates/layouts/sent_code.html",
        "templates/layouts/method.html",
        "templates/layouts/prompt.html",
        "templates/macros/prompt.html",
        "templates/macros/notes.html",
        "templates/macros/time.html",
        "templates/methods/sms_code.html",
        "templates/methods/email_code.html",
        "auth_portal/methods/one_time_code.py",
    ),
    "methods": (
        "templates/methods/password.html",
        "templates/methods/totp.html",
        "templates/methods/support_code.html",
        "templates/visitor/choosing.html",
        "auth_portal/methods/password.py",
        "auth_portal/methods/totp.py",
        "auth_portal/methods/support_code.py",
    ),
    "steps": (
        "templates/visitor/terms.html",
        "templates/visitor/decline.html",
        "templates/visitor/questions.html",
        "templates/visitor/handover.html",
        "templates/macros/steps.html",
    ),
    "help": (
        "templates/visitor/help.html",
        "templates/visitor/stop.html",
        "templates/visitor/language.html",
        "templates/layouts/page.html",
        "templates/macros/fields.html",
    ),
    "done": ("templates/visitor/done.html", "templates/visitor/chat_state.html"),
    "errors": ("templates/error.html", "auth_portal/i18n.py"),
    "sms": (),
    "email": ("templates/messages/email.html", "templates/messages/email.txt"),
}
NAMED_IN = {SMS: "sms", SMS_PAYMENT: "sms"}  # the part of a name of OWN, else "own"


@dataclass(frozen=True)
class OurText:
    """A text of ours that a business may replace: the English, the plural if it has one, and the part it is in."""

    english: str  # as gettext knows it
    plural: str
    part: str

    @property
    def key(self) -> str:
        """Return what stands for it in a journey."""
        return shown(self.english)

    @property
    def placeholders(self) -> frozenset[str]:
        """Return the names of what is filled in."""
        return placeholders(self.key) | placeholders(shown(self.plural))

    def forms(self, language: str) -> Mapping[str, str]:
        """Return our text in a language, by plural category; one that has no plural as ``other``."""
        if self.plural:
            return dict(plural_forms(language, self.english, self.plural))
        return {"other": translations(language).gettext(self.english)}


@cache
def our_texts() -> Mapping[str, OurText]:
    """Return every text of a journey that may be replaced, by its key."""
    read_po = importlib.import_module("babel.messages.pofile").read_po
    with (TRANSLATIONS / f"{DOMAIN}.pot").open("rb") as file:
        catalog = read_po(file)
    found = {}
    for message in catalog:
        english, plural = message.id if isinstance(message.id, tuple) else (message.id, "")
        places = {place for place, _line in message.locations}
        part = next((name for name, files in PARTS.items() if not places.isdisjoint(files)), "")
        if english and part and english not in WARNINGS:
            text = OurText(english, plural, part)
            found[text.key] = text
    return found


def keys_of(part: str) -> list[str]:
    """Return the keys of the texts in one part of the customer's way, those with names first."""
    named = [name for name in OWN if NAMED_IN.get(name, "own") == part]
    return named + [text.key for text in our_texts().values() if text.part == part]


@dataclass(frozen=True)
class TextField:
    """A text as an admin edits it; ``ours`` and the journey's ``own`` have it by plural category."""

    key: str
    ours: Mapping[str, str]  # in the language
    own: Mapping[str, str]
    placeholders: tuple[str, ...]  # that it must have
    optional: tuple[str, ...]
    room: int  # characters

    @property
    def id(self) -> str:
        """Return its name in a form."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:12]

    def value(self, forms: Mapping[str, str]) -> OwnText | None:
        """Return what was typed as it is stored: None where ours shall come back."""
        typed = {category: text for category, text in forms.items() if text}
        return typed.get("other", typed) if typed.keys() <= {"other"} and typed else typed or None


def fields_of(texts: OwnTexts, language: str, part: str, journeys_own: Mapping[str, str]) -> list[TextField]:
    """Return the texts of a part in a language; ``journeys_own`` are those that a journey has for all languages."""
    found = []
    for key in keys_of(part):
        value, ours, named = texts.get(language, {}).get(key, {}), our_texts().get(key), _named(key)
        if ours is not None:
            forms = {name: shown(text) for name, text in ours.forms(language).items()}
        else:
            forms = {"other": journeys_own.get(key, "")}
        own = {"other": value} if isinstance(value, str) else value
        needed, optional = tuple(written(named.required)), tuple(written(named.optional))
        found.append(TextField(key, forms, own, needed, optional, named.room))
    return found


def _named(key: str) -> NamedText:
    """Return what a text must and may say, by its key."""
    if (ours := our_texts().get(key)) is None:
        return OWN[key]
    return NamedText(ours.placeholders, room=max(LONGEST, 2 * len(ours.key)))


def fault_of(language: str, key: str, value: OwnText) -> str:
    """Return why a text cannot stand for ours, or ""."""
    ours, forms = our_texts().get(key), {"other": value} if isinstance(value, str) else value
    if key in map(shown, WARNINGS):
        return "is a warning, which protects your customers and stays as it is"
    if ours is None and key not in OWN:
        return "is no text of the customer's pages or messages; copy it from the page Texts"
    if not isinstance(value, str) and (ours is None or not ours.plural):
        return "has no plural forms"
    if unknown := set(forms) - set(plural_categories(language)):
        return f"has no plural form {min(unknown)} in this language"
    if "other" not in forms:
        return "needs the form other"
    named = _named(key)
    return next((fault for text in forms.values() if (fault := _fault_of_form(text, named))), "")


def _fault_of_form(text: str, named: NamedText) -> str:
    if not text.strip():
        return "is empty; leave it out to get ours back"
    if any(not letter.isprintable() for letter in text):
        return "must be one paragraph of plain text"
    if len(text) > named.room:
        return f"has {len(text)} characters; at most {named.room} fit"
    found = placeholders(text)
    if missing := named.required - found:
        return f"must contain {', '.join(written(missing))}"
    if unknown := found - named.required - named.optional:
        return f"can't contain {', '.join(written(unknown))}"
    return ""


def placeholders(text: str) -> frozenset[str]:
    """Return the names in braces of a text."""
    return frozenset(_PLACEHOLDER.findall(text))


def written(names: Iterable[str]) -> list[str]:
    """Return placeholders as a text writes them."""
    return [f"{{{name}}}" for name in sorted(names)]


def shown(text: str) -> str:
    """Return a text of ours as an admin reads it: ``{code}``, and no tags around it."""
    return _OURS.sub(r"{\1}", _TAG.sub("", text)).replace("%%", "%")


def spoken_words(texts: OwnTexts) -> Wording:
    """Return a journey's own texts for pages and messages to speak in."""
    found: dict[str, dict[str, OwnText]] = {}
    for language, by_key in texts.items():
        of_language = found[language] = {}
        for key, value in by_key.items():
            ours = our_texts().get(key)
            # What script fills in stands in braces in our text, too.
            filled = _named(key).required | _named(key).optional
            filled -= placeholders(ours.english) if ours else frozenset()
            of_language[ours.english if ours else key] = (
                _formatted(value, filled)
                if isinstance(value, str)
                else {category: _formatted(text, filled) for category, text in value.items()}
            )
    return Wording(found)


def _formatted(text: str, names: Iterable[str]) -> str:
    """Return a text as gettext has it, with these placeholders."""
    found = text.replace("%", "%%")
    for name in names:
        found = found.replace(f"{{{name}}}", f"%({name})s")
    return found


def checked(texts: OwnTexts, *, is_stored: bool) -> OwnTexts:
    """Return a journey's own texts. Raise ValueError with what is wrong; of what is stored that is left out instead."""
    faults, found = [], {}
    for language, by_key in texts.items():
        if language != FALLBACK and language not in complete_languages():
            faults.append(f"{language}: must be one of {', '.join(complete_languages())}")
            continue
        good = {}
        for key, value in by_key.items():
            if fault := fault_of(language, key, value):
                faults.append(f"{language}: “{key}” {fault}")
            else:
                good[key] = value
        if good:
            found[language] = good
    if faults and not is_stored:
        raise ValueError("; ".join(faults))
    return found
