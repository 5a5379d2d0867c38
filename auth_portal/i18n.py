"""Texts: gettext for the pages, and one sentence for each error code.

English is built in; a language is a folder below ``translations/`` with gettext's own layout.
"""

from __future__ import annotations

import gettext as gettext_module
from functools import cache
from pathlib import Path

from markupsafe import Markup

FALLBACK = "en"
TRANSLATIONS = Path(__file__).resolve().parent.parent / "translations"

ERRORS = {
    "reference_missing": "This page opens from the link in your chat. Please go back to the chat and tap the link there.",
    "reference_invalid": "The link was changed or cut on its way. Please go back to the chat and tap the link there again.",
    "no_visit": "Please open the link from your chat again. This browser does not have it any more.",
    "journey_unknown": "There is no such page here. Please go back to the chat and tap the link there.",
    "form_expired": "This page was open for too long, and the chat has moved on. Please go back to the chat and ask for a new link.",
    "ticket_gone": "This link is for another chat or too old. Please go back to your chat and ask for a new link.",
    "api_key_unknown": "There is no such key.",
    "ticket_one_of": "Give exactly one of msisdn and customer_id.",
    "ticket_needs_msisdn": "This journey demands phone_match: give msisdn, the chat's own number. A customer ID may have been typed into the chat, and would not show whose chat it is.",
    "ticket_msisdn_unreadable": "This is no phone number. Give the chat's own number as Flow knows it, such as 27821234567. Where it reads [[…]], Flow did not fill its variable in.",
    "ticket_nobody": "Nobody who could verify is meant by this: no active customer has it on file.",
    "ticket_several": "Several customers have this number on file, and this journey asks for nothing that would tell which of them is chatting.",
    "ticket_no_method": "This journey has a step that only a code by e-mail can pass; with msisdn codes go only to that number.",
    "ticket_purpose_unreadable": "The purpose must be one line of 140 characters at most, without control characters.",
    "ticket_locale_unreadable": "The locale must be a language such as en, af or zu, perhaps with a region as in en-ZA.",
    "ticket_reference_invalid": "A reference has 1 to 512 visible ASCII characters.",
    "ticket_reference_made_by_flow": "Leave the reference out: only a Wait for Callback journey, or one with phone_match, finds a ticket by it.",
    "journey_closed": "This journey is switched off, or no method of it can work at the moment.",
    "too_many_begins": "Too many people are beginning from your network just now. Please try again in a moment.",
    "too_many_checks": "Too many passwords are being checked from your network just now. Please try again in a moment.",
    "credential_reason_missing": "Please say why: it is kept in the audit trail.",
    "credential_reason_long": "This is too long; 200 characters are enough.",
    "credential_customer_off": "This customer is switched off. Switch them on first.",
    "credential_no_contact": "There is nothing on file for this customer that a message can be sent to now.",
    "credential_no_channel": "There is no channel for this kind of message. An owner can add one under Channels.",
    "credential_no_journey": "No journey takes these codes. An owner has to allow “code from support” in a step of a journey.",
    "credential_link_over": "This link was used before, or its time is over. Please ask for a new one.",
    "customer_unknown": "There is no such customer. Perhaps they were erased.",
    "hashing_busy": "We are very busy just now. Nothing was counted; please try again in a few seconds.",
    "too_many_changes": "You changed who you are as often as we allow in one chat. Go on with the last one, or start again in the chat.",
    "csrf": "This page was too old, or your browser sent it from somewhere else. Please try again.",
    "cross_site": "This was sent from another website, so we did not accept it. Please open the link in your chat.",
    "not_found": "There is no such page here. Please go back to the chat and tap the link there.",
    "method_not_allowed": "That cannot be done here. Please go back to the chat and tap the link there.",
    "too_large": "That was more than we can take.",
    "verification_unknown": "There is no such verification. It may have been removed because its time is over.",
    "delivery_unknown": "There is no such delivery. It may have been removed because its time is over.",
    "bad_host": "This address is not served here.",
    "bad_request": "We could not read what was sent. Please try again.",
    "unavailable": "This does not work just now. Nothing was lost; please try again in a minute.",
    "too_many_sign_ins": "Too many wrong sign-ins with this name from here. Please wait a few minutes, then try again. Nobody is locked out for good.",
    "too_many_confirmations": "Too many wrong codes. Please wait a few minutes, then try again.",
    "admin_link_over": "This link was used already, has expired, or was withdrawn. Ask an owner for a new one, or make one with: flask --app app admin create.",
    "admin_unknown": "There is no such admin.",
    "admin_email_taken": "Another admin has this e-mail address.",
    "email_invalid": "This is no e-mail address.",
    "import_unknown": "There is no such import.",
    "import_not_utf8": "This file is not in UTF-8, so names with accents would be spoilt. In Excel choose File, Save as, and the file type “CSV UTF-8 (Comma delimited)”, then send that file.",
    "import_workbook": "This is a workbook or a web page, not a CSV file. Open it in your spreadsheet, choose File, Save as, and the file type “CSV UTF-8 (Comma delimited)”, then send that file.",
    "import_empty": "This file has no rows. The first row must name the columns, and each further row is one customer.",
    "import_too_large": "This file is larger than 50 MB. Split it and import one part after the other.",
    "import_no_file": "Please choose a file.",
    "import_moved_on": "This import has gone on in the meantime. This is how it stands now.",
    "import_has_faults": "Some rows cannot be imported. Mend the file, or tick that they are to be left out.",
    "import_file_gone": "The file of this import is not kept any more. Please send it again.",
    "import_undo_over": "This import cannot be undone any more: only the last one can, for 7 days.",
    "import_telling_long": "Telling these customers would take more than 7 days under the daily caps of the channels. Raise a cap (Channels), split the file, or leave that tick out.",
    "role_unknown": "Please choose one of the roles.",
    "role_too_small": "Your role does not allow this. An owner can change your role on the page Admins.",
    "too_many_channel_tests": "You sent several tests in a row. Please wait a few minutes before the next one.",
    "last_owner": "This is the last owner. Make somebody else an owner first.",
    "last_owner_reset": "This is the last owner who can sign in, and would be shut out until the link is followed. Make somebody else an owner first, or run on the server: flask --app app admin reset",
    "admin_csrf": "This page was open for too long, or you signed in again elsewhere in between. Go back, reload the page and try again.",
    "admin_not_found": "There is no such page, or what it showed is gone.",
    "admin_method_not_allowed": "That cannot be done here.",
    "admin_cross_site": "This was sent from another website, so it was not accepted.",
    "drive_over": "This test drive is over, or it belongs to somebody else. Begin a new one on the page of the journey.",
    "server_error": "Something broke on our side. Nothing was lost; please try again in a minute.",
}


@cache
def translations(locale: str) -> gettext_module.NullTranslations:
    """The texts of a locale, English where it has none."""
    return gettext_module.translation("portal", TRANSLATIONS, [locale], fallback=True)


@cache
def _translated(locale: str, text: str) -> Markup:
    return Markup(translations(locale).gettext(text))  # noqa: S704 -- texts are the portal's own


@cache
def _filled(locale: str, text: str) -> Markup:
    return _translated(locale, text) % {}


def gettext(text: str, /, **params: object) -> Markup:
    """A page's text with its parameters filled in, escaped. Jinja's own does the same at ten times the price."""
    return _translated(FALLBACK, text) % params if params else _filled(FALLBACK, text)


def ngettext(one: str, many: str, /, num: int, **params: object) -> Markup:
    """The same for a text that depends on a number, which it may name as ``%(num)s``."""
    translated = Markup(translations(FALLBACK).ngettext(one, many, num))  # noqa: S704 -- the portal's own
    return translated % {"num": num, **params}


def error_text(code: str, locale: str = FALLBACK) -> str:
    """The sentence that a person is shown for an error code."""
    return translations(locale).gettext(ERRORS.get(code, ERRORS["server_error"]))


def translated(text: str) -> str:
    """A text of the portal as its language has it, its places for parameters still open."""
    return translations(FALLBACK).gettext(text)


def plain(text: str, /, **params: object) -> str:
    """A sentence with its parameters, not escaped: for what is escaped where it is shown, or never HTML at all."""
    return translated(text) % params
