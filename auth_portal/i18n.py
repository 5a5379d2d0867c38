"""Texts: gettext for the pages, and one sentence for each error code.

English is built in; a language is a folder below ``translations/`` with gettext's own layout.
"""

from __future__ import annotations

import gettext as gettext_module
from collections.abc import Mapping
from functools import cache

from markupsafe import Markup

from auth_portal.settings import delivered

FALLBACK = "en"
TRANSLATIONS = delivered("translations")

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
    "import_not_utf8": "This file isn't in UTF-8, so accented names would be damaged. In Excel, choose File, Save as, and the file type “CSV UTF-8 (Comma delimited)”. Then upload that file.",
    "import_workbook": "This is a workbook or a web page, not a CSV file. Open it in your spreadsheet, choose File, Save as, and the file type “CSV UTF-8 (Comma delimited)”. Then upload that file.",
    "import_no_region": "First set the default country under Settings. Phone numbers without + are read as numbers of that country, and codes are sent there. Then upload the file again.",
    "import_empty": "This file has no rows. The first row must name the columns. Each further row is one customer.",
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


@cache
def translations(locale: str) -> gettext_module.NullTranslations:
    """Return the texts of a locale, English where it has none."""
    return gettext_module.translation("portal", TRANSLATIONS, [locale], fallback=True)


@cache
def _translated(locale: str, text: str) -> Markup:
    return Markup(translations(locale).gettext(text))  # nosec B704  # noqa: S704 -- texts are the portal's own


@cache
def _filled(locale: str, text: str) -> Markup:
    return _translated(locale, text) % {}


def gettext(text: str, /, **params: object) -> Markup:
    """Return a page's text with its parameters filled in, escaped. Jinja's own function takes ten times as long."""
    return _translated(FALLBACK, text) % params if params else _filled(FALLBACK, text)


def ngettext(one: str, many: str, /, num: int, **params: object) -> Markup:
    """Return the text for a number, which the text may name as ``%(num)s``."""
    translated = Markup(translations(FALLBACK).ngettext(one, many, num))  # nosec B704  # noqa: S704 -- the portal's own
    return translated % {"num": num, **params}


def error_text(code: str, locale: str = FALLBACK, params: Mapping[str, object] | None = None) -> str:
    """Return the sentence that a page shows for an error code, with its parameters, if it has some."""
    text = translations(locale).gettext(ERRORS.get(code, ERRORS["server_error"]))
    return text % params if params and "%(" in text else text


def translated(text: str) -> str:
    """Return the translation of a text with its parameters not filled in yet."""
    return translations(FALLBACK).gettext(text)


def plain(text: str, /, **params: object) -> str:
    """Return a sentence with its parameters, not escaped: for values that the page escapes, or text that is never HTML."""
    return translated(text) % params
