"""Texts: gettext for the pages and messages, one sentence for each error code, and the name of each field.

English is built in; a language is a folder below ``translations/`` with gettext's own layout (docs/languages.md). Only
what customers read is translated, so the language is that of a customer: ``speaking`` sets it for a page or a message,
and everywhere else it is English. Numbers and times follow the Unicode CLDR, which Babel has; it is loaded by the first
text that needs it.
"""

from __future__ import annotations

import gettext as gettext_module
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any

from markupsafe import Markup, escape

from auth_portal.settings import delivered

FALLBACK = "en"
DOMAIN = "customer"  # the name of every catalog
TRANSLATIONS = delivered("translations")
LONGEST_ACCEPTED = 400  # characters that are read of an Accept-Language
MOST_ACCEPTED = 30  # languages that are read of one
_TAG = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*")
_QUALITY = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")  # RFC 9110 12.4.2
_LARGE = 1_000_000  # the numbers that CLDR calls "many" in French, Spanish and Portuguese are its multiples

ERRORS = {
    "reference_missing": "This page opens from the link in your chat. Tap the link there.",
    "reference_invalid": "Part of it got lost. Open it again from your chat. Nothing was sent and nothing has changed.",
    "no_visit": "This browser can't find your check. Tap the link in your chat.",
    "journey_unknown": "There's no page at this address. Tap the link in your chat.",
    "form_expired": "This page was open too long. Ask for a new link in your chat.",
    "ticket_gone": "This link is too old, or for another chat. Ask for a new link in your chat.",
    "api_key_unknown": "This API key doesn't exist.",
    "ticket_one_of": "Send exactly one of msisdn and customer_id.",
    "ticket_needs_msisdn": "This journey requires phone_match: send msisdn, the chat's own number. A customer ID may have been typed in the chat, so it doesn't show whose chat it is.",
    "ticket_msisdn_unreadable": "This isn't a phone number. Send the chat's own number as Flow knows it, such as 27821234567. If it contains [[…]], Flow didn't fill in its variable.",
    "ticket_nobody": "No active customer who can verify has this on file.",
    "ticket_customer_id_unreadable": "This can't be a customer ID. Send it as it is stored.",
    "ticket_several": "Several customers have this number on file, and this journey asks for nothing that tells them apart.",
    "ticket_no_method": "A step of this journey accepts only a code by email. With msisdn, codes are sent only to that number.",
    "ticket_purpose_unreadable": "The purpose must be one line of at most 140 characters, without control characters.",
    "ticket_payment_unreadable": "The payment can't be shown to a customer as it is.",
    "ticket_payment_unproved": "Nothing is proved in this journey, so no payment can be approved in it.",
    "ticket_locale_unreadable": "The locale must be a language such as en, af or zu, with an optional region as in en-ZA.",
    "ticket_reference_invalid": "The reference must have 1 to 512 visible ASCII characters.",
    "ticket_reference_made_by_flow": "Leave the reference out. Only a journey with Wait for Callback or phone_match finds a ticket by its reference.",
    "journey_closed": "This journey is off, or none of its methods can work right now.",
    "too_many_begins": "Too many people are starting from your network. Try again in a moment.",
    "too_many_checks": "Too many passwords are being checked from your network. Try again in a moment.",
    "credential_reason_missing": "Enter a reason. It's stored in the audit trail.",
    "credential_reason_long": "The reason is too long. Use at most 200 characters.",
    "credential_customer_off": "This customer is switched off. Switch them on first.",
    "credential_no_contact": "This customer has no contact on file that can receive a message now.",
    "credential_no_channel": "No channel sends this kind of message. An owner can add one under Channels.",
    "credential_no_journey": "No journey accepts these codes. An owner can allow “code from support” in a step of a journey.",
    "credential_link_over": "This link was used or has expired. Ask for a new one.",
    "customer_unknown": "This customer doesn't exist. They may have been erased.",
    "hashing_busy": "We're very busy right now. You haven't used a try. Try again in a few seconds.",
    "too_many_changes": "You've changed your details too many times. Use the last ones, or start again in your chat.",
    "csrf": "This page is too old, or another site sent it. Reload it and try again.",
    "cross_site": "Another website sent this, so we didn't accept it. Tap the link in your chat.",
    "not_found": "There's no page at this address. Tap the link in your chat.",
    "method_not_allowed": "That can't be done here. Tap the link in your chat.",
    "too_large": "That's more than we can accept.",
    "verification_unknown": "This verification doesn't exist. It may have been deleted when its retention period ended.",
    "delivery_unknown": "This delivery doesn't exist. It may have been deleted when its retention period ended.",
    "bad_host": "This portal doesn't serve this address.",
    "bad_request": "We couldn't read what was sent. Try again.",
    "unavailable": "Something went wrong on our side. This isn't your fault. Nothing was lost.",
    "too_many_sign_ins": "Too many failed sign-ins with this email address. Wait a few minutes, then try again. You aren't locked out for good.",
    "too_many_confirmations": "Too many wrong codes. Wait a few minutes, then try again.",
    "confirmation_missing": "Enter a code of your app first.",
    "confirmations_spent": "Too many wrong codes today, so this session was ended. The owners have been notified. Sign in again.",
    "admin_link_over": "This link was used, has expired or was withdrawn. Ask an owner for a new one, or create one with: auth-portal admin create.",
    "customer_id_shared": "Several customers have this ID in different spellings. Enter the exact spelling of one.",
    "admin_unknown": "This admin doesn't exist.",
    "admin_email_taken": "Another admin already has this email address.",
    "email_invalid": "This isn't an email address.",
    "import_unknown": "This import doesn't exist.",
    "import_unreadable": "The file %(reason)s.",
    "import_no_region": "First set the default country under Settings. Phone numbers without + are read as numbers of that country, and codes are sent there. Then upload the file again.",
    "import_too_large": "This file is larger than 50 MB. Split it and import the parts one after another.",
    "import_no_file": "Choose a file.",
    "import_moved_on": "This import has changed since you opened the page. This is its state now.",
    "import_has_faults": "Some rows can't be imported. Fix the file, or choose to skip those rows.",
    "import_file_gone": "The file of this import was deleted. Upload it again.",
    "import_undo_over": "This import can no longer be undone. Only the last import can be undone, within 7 days.",
    "import_telling_long": "Notifying these customers would take more than 7 days under the channels' daily caps. Raise a cap (Channels), split the file, or choose not to notify them.",
    "role_unknown": "Choose one of the roles.",
    "role_too_small": "Your role doesn't allow this. An owner can change your role under Admins.",
    "too_many_channel_tests": "You sent several tests in a row. Wait a few minutes before the next one.",
    "row_changed": "Nothing was saved: someone has changed row %(row)s of the table %(table)s in the database, and saving would accept that. Find out who can write the database. To accept the row as it is now, run auth-portal macs seal --again.",
    "last_owner": "This is the last owner. Make another admin an owner first.",
    "last_owner_reset": "This is the last owner who can sign in. A reset would lock them out until they follow the link. Make another admin an owner first, or run on the server: auth-portal admin reset",
    "admin_csrf": "This page was open too long, or you signed in again elsewhere. Go back, reload the page and try again.",
    "admin_not_found": "This page doesn't exist, or what it showed was deleted.",
    "admin_method_not_allowed": "That can't be done here.",
    "admin_cross_site": "Another website sent this, so it wasn't accepted.",
    "drive_over": "This test drive has ended, or another admin started it. Start a new one on the journey's page.",
    "server_error": "Something went wrong on our side. This isn't your fault. Nothing was lost.",
}


# What customers can meet; all others are for admins, and programs read their own words (web/api/problems.py).
CUSTOMER_ERRORS = frozenset(
    {
        *("reference_missing", "reference_invalid", "no_visit", "journey_unknown", "form_expired", "ticket_gone"),
        *("too_many_begins", "too_many_checks", "credential_link_over", "hashing_busy", "too_many_changes", "csrf"),
        *("cross_site", "not_found", "method_not_allowed", "too_large", "bad_host", "bad_request", "unavailable"),
        "server_error",
    }
)


# --- What admins call the fields of what they change: the same in forms, in lists, in the audit and in mail to owners

_LOOK_NAMES = {
    "colour": "Colour",
    "radius": "Roundness of corners",
    "logo": "Logo",
    "logo_dark": "Logo for dark pages",
}
FIELD_NAMES: Mapping[str, Mapping[str, str]] = {
    "portal": {
        "name": "Name",
        "latin_name": "Name in Latin letters",
        "support_contact": "Help for customers",
        "default_region": "Default country",
        "case_sensitive_ids": "Customer IDs are case-sensitive",
        "time_zone": "Time zone",
        "language": "Language",
        "languages": "Languages customers can choose",
        **_LOOK_NAMES,
        "hide_name": "Hide the name next to the logo",
        "limits.begins_per_minute": "Verifications begun per minute",
        "limits.password_checks_per_minute": "Passwords checked per minute",
        "retention.codes_hours": "Codes, in hours",
        "retention.verifications_days": "Verifications, deliveries and alerts, in days",
        "retention.audit_days": "Audit, in days",
        "alerts.email": "Send alerts to all owners by email",
        "notices_by": "Channel for emails to owners",
        "alerts.webhook": "Send alerts to a program (webhook)",
    },
    "journey": {
        "slug": "Name in the link",
        "name": "Name customers see",
        "note": "Why (optional)",
        "default": "Default journey",
        "active": "Switched on",
        "chat_seconds": "Chat clock",
        "return_url": "Link back to the chat",
        "relay_defence": "If the link is passed on",
        "shares_result": "May share its text for verified",
        "channels": "Channels, in order",
        "steps": "Steps",
        "callback.server": "Where the answer goes",
        "callback.contract": "Node in the chat flow",
        "data": "Variables",
        "limits.code_digits": "Digits of a code",
        "limits.code_seconds": "Validity of a code",
        "limits.wrong_tries": "Wrong tries in one chat",
        "limits.sends": "Messages in one chat",
        "limits.resend_waits": "Waits before another message",
        "limits.identity_changes": "Changes of details",
        "limits.credential_tries_day": "Wrong tries per customer and method in 24 hours",
        "limits.credential_tries_total": "Wrong tries per customer and method since the last success",
        "limits.destination_hour": "Codes to one phone or address in an hour",
        "limits.destination_day": "Codes to one phone or address in a day",
        "limits.changed_contact_hours": "Hours until a changed contact may be the only proof",
        "texts.landing": "Your words on the first page",
        "texts.done": "Your words after success",
        "texts.closed": "Your words while it is closed",
        **_LOOK_NAMES,
        "hide_name": "Name next to the logo",
        "wording": "Texts",
        **dict.fromkeys(
            ("second_factor", "logo_second_factor", "logo_dark_second_factor"), "Code from your authenticator app"
        ),
    },
    "channel": {"name": "Name", "kind": "Kind"},  # each kind names its other fields itself
    "customer": {
        "customer_id": "Customer ID",
        "name": "Name",
        "phone": "Phone",
        "email": "Email",
        "locale": "Language",
        "password": "Password",
        "totp_secret": "Authenticator app",
        "is_active": "Switched on",
    },
    "admin": {"name": "Name", "email": "Email address", "role": "Role", "is_active": "May sign in"},
}
# Of a step in a journey, after its number.
STEP_FIELD_NAMES: Mapping[str, str] = {
    "kind": "Kind",
    "by": "Who they are",
    "any_of": "How they prove it",
    "title": "Heading",
    "text": "Text",
    "version": "Version",
    "valid_from": "Valid from",
    "link": "Link to the text",
    "sha256": "SHA-256 of the document",
    "boxes": "Checkbox",
    "again": "Asked again",
    "layout": "Layout",
    "store_days": "Days the answers are stored",
    "anonymous": "Anonymous",
    "questions": "Question",
    "key": "Name of its variable",
    "ask": "Text",
    "label": "Text",
    "hint": "Hint",
    "required": "Required",
    "options": "Option",
    "least": "Least",
    "most": "Most",
    "low": "What the low end means",
    "high": "What the high end means",
    "only_if": "Only if",
    "hosts": "Hosts",
    "address": "Address or phone number",
    "when": "Offered",
    "shares_customer": "Gets the customer ID",
    "zone": "Time zone",
    "hours": "Opening hours",
    "holidays": "Days on which it is closed",
}
_DAYS = {day[:3].lower(): day for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")}
_PART = re.compile(r"([^\[\]]*)(?:\[(\d+)\])?")  # of a key: steps[2]


def field_name(table: str, key: str) -> str:
    """Return what admins call a field, such as ``limits.wrong_tries`` of a ``journey``, in English.

    A field that no table names is written with blanks: ``old_key`` as "Old key".
    """
    names = FIELD_NAMES.get(table, {})
    if key in names:
        return names[key]
    head, _dot, rest = key.partition(".")
    if head.startswith("steps["):
        return step_field_name(head, rest)
    if table == "journey" and head in ("results", "data"):
        return f"Result for {rest}" if head == "results" else f"Variable {rest}"
    if table == "journey" and head == "wording":
        tag, _dot, text = rest.partition(".")
        return f"Text in {language_name(tag)}: {text}"
    named = names.get(head) or sentence_case(head.replace("_", " "))
    return f"{named}: {rest.replace('_', ' ')}" if rest else named


def step_field_name(step: str, rest: str) -> str:
    """Return what admins call a field of a step: ``steps[2]`` and ``boxes[1].label`` as "Step 2, checkbox 1, text"."""
    number = _PART.fullmatch(step)
    words = [f"Step {number[2] if number else ''}"]
    for part in rest.split(".") if rest else ():
        found = _PART.fullmatch(part)
        name, place = (found[1], found[2]) if found else (part, "")
        named = in_sentence(STEP_FIELD_NAMES.get(name, "")) or _DAYS.get(name) or language_name(name).replace("_", " ")
        words.append(f"{named} {place}" if place else named)
    return ", ".join(words)


def sentence_case(text: str) -> str:
    """Return a text with its first letter large and the others as they are: SMS stays SMS."""
    return text[:1].upper() + text[1:]


def in_sentence(text: str) -> str:
    """Return a name within a sentence: "Customer ID" as "customer ID", and SMS as it is."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


# --- Languages


@dataclass(frozen=True)
class Language:
    """A language of customers."""

    code: str  # as in BCP 47: zu, pt-BR
    name: str  # in the language itself
    dir: str = "ltr"  # or rtl
    is_complete: bool = True
    read_by_native: bool = True


ENGLISH = Language(FALLBACK, "English")


@cache
def translations(locale: str) -> gettext_module.NullTranslations:
    """Return the texts of a locale, English where it has none."""
    return gettext_module.translation(DOMAIN, TRANSLATIONS, [locale.replace("-", "_")], fallback=True)


@cache
def languages() -> Mapping[str, Language]:
    """Return every language that has a folder, by its code; English first, the others by their names."""
    found = []
    for catalog in TRANSLATIONS.glob(f"*/LC_MESSAGES/{DOMAIN}.mo"):
        code = catalog.parent.parent.name.replace("_", "-")
        facts = translations(code).info()
        found.append(
            Language(
                code,
                facts.get("x-own-name", code),
                facts.get("x-direction", "ltr"),
                facts.get("x-complete") == "yes",
                facts.get("x-read-by-native-speaker") == "yes",
            )
        )
    by_name = sorted(found, key=lambda language: language.name.casefold())
    return {language.code: language for language in (ENGLISH, *by_name)}


def complete_languages() -> tuple[str, ...]:
    """Return the codes of the languages that miss no text."""
    return tuple(code for code, language in languages().items() if language.is_complete)


def language(locale: str) -> Language:
    """Return a language by its code; English for one that is not there."""
    return languages().get(locale, ENGLISH)


def forget_languages() -> None:
    """Read the catalogs again when they are next needed."""
    for cached in (translations, languages, _translated, _filled, plural_forms, _examples, _category, _cldr):
        cached.cache_clear()
    for cached in (matched, preferred, _plural_attributes):
        cached.cache_clear()


# --- The language of this page or message

# The locale that all texts of this request are in. A message has its own: see ``speaking``.
spoken: ContextVar[str] = ContextVar("locale", default=FALLBACK)


class SpokenLanguage:
    """The language of this page, for templates: ``locale.code``, ``locale.dir`` and ``locale.name``."""

    code = property(lambda _self: language(spoken.get()).code)
    dir = property(lambda _self: language(spoken.get()).dir)
    name = property(lambda _self: language(spoken.get()).name)


@contextmanager
def speaking(locale: str, wording: Wording | None = None) -> Iterator[None]:
    """Let the texts of a block be in a locale, "" is English, and as a business words them, else as before."""
    before, own = spoken.set(locale or FALLBACK), worded.set(wording or worded.get())
    try:
        yield
    finally:
        spoken.reset(before)
        worded.reset(own)


@lru_cache(maxsize=512)
def matched(tag: str, offered: tuple[str, ...]) -> str:
    """Return the offered locale that a language tag asks for, or "": the tag is cut at its end until one fits.

    That is the lookup of RFC 4647, 3.4. Where only a variety of the language is offered, it is that one.
    """
    wanted = tag.strip().replace("_", "-").lower()
    if not _TAG.fullmatch(wanted):
        return ""
    by_code = {code.lower(): code for code in offered}
    rest = wanted
    while rest:
        if rest in by_code:
            return by_code[rest]
        rest = rest.rpartition("-")[0]
        if rest[-2:-1] == "-":  # no tag ends in a single character
            rest = rest[:-2]
    base = wanted.partition("-")[0]
    return next((code for code in offered if code.lower().partition("-")[0] == base), "")


@lru_cache(maxsize=512)
def preferred(accepted: str, offered: tuple[str, ...]) -> str:
    """Return the offered locale that an Accept-Language header likes best, or "". What cannot be read is left out."""
    ranges = []
    for part in accepted[:LONGEST_ACCEPTED].split(",")[:MOST_ACCEPTED]:
        tag, *parameters = (piece.strip() for piece in part.split(";"))
        quality = "1"
        for parameter in parameters:
            name, _equals, value = parameter.partition("=")
            if name.strip().lower() == "q":
                quality = value.strip()
        if _QUALITY.fullmatch(quality) and float(quality) > 0:
            ranges.append((float(quality), tag))
    ranges.sort(key=lambda pair: -pair[0])  # stable: of two equal ones the first
    for _quality, tag in ranges:
        if tag == "*":
            return ""  # any: that is the portal's own
        if found := matched(tag, offered):
            return found
    return ""


# --- A business's own texts


class Wording:
    """A business's own texts by language, each instead of one of ours.

    The key is our English text, or the name of a text of which there is none of ours; the value is a format string like
    ours but without HTML, or one for each plural category of the CLDR that the business has written, ``other`` always.
    """

    def __init__(self, texts: Mapping[str, Mapping[str, str | Mapping[str, str]]]) -> None:
        self._plain: dict[tuple[str, str], Mapping[str, str]] = {}
        self._pages: dict[tuple[str, str], Mapping[str, Markup]] = {}
        for locale, by_key in texts.items():
            for key, value in by_key.items():
                forms = {"other": value} if isinstance(value, str) else value
                self._plain[locale, key] = forms
                self._pages[locale, key] = {category: _with_our_tags(key, text) for category, text in forms.items()}

    def plain(self, locale: str, key: str, num: int | None = None) -> str | None:
        """Return the format string of a text for a number, if it has one; None where ours stays."""
        forms = self._plain.get((locale, key))
        return (forms.get(_category(locale, num)) or forms["other"]) if forms else None

    def page(self, locale: str, key: str, num: int | None = None) -> Markup | None:
        """Return the same for a page: escaped, with the tags that our text has around its placeholders."""
        forms = self._pages.get((locale, key))
        return (forms.get(_category(locale, num)) or forms["other"]) if forms else None


NO_WORDING = Wording({})
SMS, SMS_PAYMENT = "sms", "sms_payment"  # names of whole messages that a business words itself
# Which texts of its own the business of this page or message has.
worded: ContextVar[Wording] = ContextVar("wording", default=NO_WORDING)
_TAGGED = re.compile(r"<[^<>]+>(%\(\w+\)s)</[^<>]+>")


def _with_our_tags(key: str, text: str) -> Markup:
    found = str(escape(text))
    for tagged in _TAGGED.finditer(key):
        found = found.replace(tagged[1], tagged[0])
    return Markup(found)  # nosec B704  # noqa: S704 -- escaped above; the tags are our own


def own_text(key: str, ours: str) -> str:
    """Return what the business says in this language under a name such as ``name``; else ``ours``."""
    return (worded.get().plain(spoken.get(), key) or "") % {} or ours


def own_message(key: str) -> str:
    """Return the format string of a whole message that the business words itself in this language, or ""."""
    return worded.get().plain(spoken.get(), key) or ""


# --- Texts


@cache
def _translated(locale: str, text: str) -> Markup:
    return Markup(translations(locale).gettext(text))  # nosec B704  # noqa: S704 -- texts are the portal's own


@cache
def _filled(locale: str, text: str) -> Markup:
    return _translated(locale, text) % {}


def gettext(text: str, /, **params: object) -> Markup:
    """Return a page's text with its parameters filled in, escaped. Jinja's own function takes ten times as long."""
    if (own := worded.get()) is not NO_WORDING and (found := own.page(spoken.get(), text)) is not None:
        return found % params
    return _translated(spoken.get(), text) % params if params else _filled(spoken.get(), text)


def ngettext(one: str, many: str, /, num: int, **params: object) -> Markup:
    """Return the text for a number, which the text may name as ``%(num)s``."""
    found = worded.get().page(spoken.get(), one, num)
    if found is None:
        found = Markup(translations(spoken.get()).ngettext(one, many, num))  # nosec B704  # noqa: S704 -- ours
    return found % {"num": num, **params}


def error_text(code: str, locale: str = "", params: Mapping[str, object] | None = None) -> str:
    """Return the sentence that a page shows for an error code, with its parameters, if it has some."""
    with speaking(locale) if locale else nullcontext():
        text = translated(ERRORS.get(code, ERRORS["server_error"]))
    return text % (params or {}) if params or "%(" not in text else text


def translated(text: str) -> str:
    """Return the text in this language with its parameters not filled in yet."""
    found = worded.get().plain(spoken.get(), text)
    return translations(spoken.get()).gettext(text) if found is None else found


def plain(text: str, /, **params: object) -> str:
    """Return a sentence with its parameters, not escaped: for values that the page escapes, or text that is never HTML."""
    return translated(text) % params


def plain_plural(one: str, many: str, /, num: int, **params: object) -> str:
    """Return the sentence for a number, not escaped."""
    found = worded.get().plain(spoken.get(), one, num)
    return (translations(spoken.get()).ngettext(one, many, num) if found is None else found) % {"num": num, **params}


def plurals(name: str, one: str, many: str, /) -> Markup:
    """Return data attributes with every plural form of a text, for script: ``data-minutes-one="…"`` and so on.

    What follows the name is the category that ``Intl.PluralRules`` has for a number; ``{n}`` stands for the number.
    """
    return _plural_attributes(spoken.get(), worded.get(), name, one, many)


@lru_cache(maxsize=256)
def _plural_attributes(locale: str, own: Wording, name: str, one: str, many: str) -> Markup:
    forms = [
        (category, (own.plain(locale, one, _examples(locale)[category]) or "") % {} or text)
        for category, text in plural_forms(locale, one, many)
    ]
    return Markup(" ").join(Markup('data-{}-{}="{}"').format(name, category, text) for category, text in forms)


@cache
def plural_forms(locale: str, one: str, many: str) -> tuple[tuple[str, str], ...]:
    """Return our plural forms of a text in a language, each with its category of the CLDR."""
    catalog = translations(locale)
    examples = _examples(locale)
    return tuple((name, catalog.ngettext(one, many, examples[name])) for name in plural_categories(locale))


def plural_categories(locale: str) -> tuple[str, ...]:
    """Return the categories of the CLDR that numbers have in a language, in the order of its plural forms."""
    return tuple(translations(locale).info().get("x-plural-categories", "one other").split())


@cache
def _examples(locale: str) -> Mapping[str, int]:
    """Return a number of each category: gettext knows no categories, so a form is asked for by a number that has it."""
    return {_category(locale, number): number for number in (_LARGE, *range(200, -1, -1))}


@lru_cache(maxsize=512)
def _category(locale: str, number: int | None) -> str:
    if number is None:
        return "other"
    place = getattr(translations(locale), "plural", lambda n: int(n != 1))(number)
    return plural_categories(locale)[int(place)]


# --- Formats of the CLDR


@cache
def _cldr(locale: str, region: str) -> Any:
    """Return Babel's locale: of the region, if the CLDR knows the language there, so that a time is as people write it."""
    core = importlib.import_module("babel.core")
    for name in (f"{locale}-{region}", locale) if region else (locale,):
        try:
            return core.Locale.parse(name, sep="-")
        except (core.UnknownLocaleError, ValueError):
            continue
    return core.Locale.parse(FALLBACK)


def format_number(number: float | Decimal, region: str = "") -> str:
    """Return a number as it is written in the language."""
    numbers = importlib.import_module("babel.numbers")
    return str(numbers.format_decimal(number, locale=_cldr(spoken.get(), region)))


def format_time(moment: datetime | time, region: str = "") -> str:
    """Return the time of day of a moment, which is in the time zone to show."""
    dates = importlib.import_module("babel.dates")
    return str(dates.format_time(moment, "short", locale=_cldr(spoken.get(), region)))


def format_date(day: date, region: str = "") -> str:
    """Return a date with the month in words, and the day without a zero before it."""
    dates = importlib.import_module("babel.dates")
    return str(dates.format_date(day, day_pattern(spoken.get(), region), locale=_cldr(spoken.get(), region)))


def country_name(region: str) -> str:
    """Return the name of a country (ISO 3166, two letters) in the language, or the code if it has none there."""
    return str(_cldr(spoken.get(), "").territories.get(region, region))


def language_name(tag: str) -> str:
    """Return the name of a language (BCP 47) in the language of the page, or the tag if it has none there.

    For lists of what customers can read there is ``Language.name``, which is in the language itself.
    """
    core = importlib.import_module("babel.core")
    try:
        name = core.Locale.parse(tag, sep="-").get_display_name(_cldr(spoken.get(), ""))
    except (core.UnknownLocaleError, ValueError):
        return tag
    return str(name or tag)


# --- Lengths of time, as admins write and read them

_UNITS = (("hour", "hours", 3600), ("minute", "minutes", 60), ("second", "seconds", 1))
_LASTING = re.compile(
    r"(?:(\d{1,5}) ?h(?:ours?|rs?)?)? ?(?:(\d{1,5}) ?m(?:in(?:ute)?s?)?)? ?(?:(\d{1,5}) ?s(?:ec(?:ond)?s?)?)?", re.ASCII
)


def lasting(seconds: int) -> str:
    """Return a length of time that someone chose, in words: "5 minutes", "1 minute 30 seconds"."""
    found, rest = [], seconds
    for one, many, size in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            found.append(f"{count} {one if count == 1 else many}")
    return " ".join(found) or "0 seconds"


def read_lasting(text: str) -> int | str:
    """Return the seconds of a length of time such as "5 minutes", "90 s" or "1 h 30 min"; else the text as it is.

    A number alone names no unit, so it is such a text: 5 may be meant in minutes, and 300 in seconds.
    """
    found = _LASTING.fullmatch(" ".join(text.replace(",", " ").replace("and", " ").lower().split()))
    if found is None or not any(found.groups()):
        return text
    return sum(int(count or 0) * size for count, (_one, _many, size) in zip(found.groups(), _UNITS, strict=True))


@cache
def day_pattern(language_code: str, region: str) -> str:
    """Return the pattern of a long date. For a region's own languages the CLDR may lack its order: then as in English.

    It has isiZulu, isiXhosa and Sesotho as ``MMMM d, y`` and ``y MMMM d``, which no one in South Africa writes.
    """
    pattern = str(_cldr(language_code, region).date_formats["long"].pattern).replace("dd", "d")
    own = importlib.import_module("babel.languages").get_official_languages(region, regional=True, de_facto=True)
    in_english = str(_cldr(FALLBACK, region).date_formats["long"].pattern).replace("dd", "d")
    is_own = bool(region) and language_code.partition("-")[0] in own
    return in_english if is_own and in_english.startswith("d") and not pattern.startswith("d") else pattern


def format_amount(amount: Decimal, currency: str, region: str = "", *, short: bool = False, sign: str = "") -> str:
    """Return an amount of money with its minor units, as in ``R 500.00``; ``short`` leaves out those that are zero.

    Numbers are written as in the language; the sign of the currency is that of the region, which may be a country whose
    language this is not. A text for GSM-7 must replace the no-break space in it, and leave out the marks of direction.
    """
    locale, digits = _cldr(spoken.get(), ""), minor_units(currency) or 0
    pattern = copy(locale.currency_formats["standard"])
    pattern.frac_prec = (0, 0) if short and amount == amount.to_integral_value() else (digits, digits)
    text, sign = pattern.apply(amount, locale), sign or _sign_of(currency, spoken.get(), region)
    # The CLDR's rule of spacing, which Babel does not have: a sign that is a letter stands apart from the number.
    if sign[-1].isalpha():
        text = re.sub(r"¤(?=[\d-])", "¤\u00a0", text)
    if sign[0].isalpha():
        text = re.sub(r"(?<=\d)¤", "\u00a0¤", text)
    return str(text.replace("¤", sign))


@cache
def _sign_of(currency: str, language_code: str, region: str) -> str:
    """Return how people in a region write a currency, if this language can show it; its code where no one does."""
    core, numbers = importlib.import_module("babel.core"), importlib.import_module("babel.numbers")
    official = (
        importlib.import_module("babel.languages").get_official_languages(region, de_facto=True) if region else ()
    )
    tags = [f"{name}-{region}" for name in (language_code, FALLBACK, *official)] if region else []
    for tag in (*tags, language_code, FALLBACK):
        try:
            sign = str(numbers.get_currency_symbol(currency, core.Locale.parse(tag, sep="-")))
        except (core.UnknownLocaleError, ValueError):
            continue
        if sign != currency and (sign.isascii() or tag.partition("-")[0] == language_code):
            return sign
    return currency


# The decimals of ISO 4217 where they are not two. The CLDR has fewer for some, as people write them in shops.
_WITHOUT_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_WITH_THREE = "BHD IQD JOD KWD LYD OMR TND"


def minor_units(currency: str) -> int | None:
    """Return how many decimals a currency has (ISO 4217), or None for a code that is no country's money today."""
    if currency not in _currencies():
        return None
    return 0 if currency in _WITHOUT_DECIMALS else 3 if currency in _WITH_THREE else 2


@cache
def _currencies() -> frozenset[str]:
    places = importlib.import_module("babel.core").get_global("territory_currencies").values()
    return frozenset(code for used in places for code, _since, until, is_tender in used if until is None and is_tender)


def format_choice(parts: Sequence[str]) -> str:
    """Return a choice in words: "a, b or c"."""
    lists = importlib.import_module("babel.lists")
    return str(lists.format_list(parts, style="or", locale=_cldr(spoken.get(), "")))
