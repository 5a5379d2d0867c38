"""The words of the history: audit events, outcomes, why something went wrong, and what helps.

Written for admins, in the past tense: what happened, what it means, what to do next.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from auth_portal.gateways.channels import KINDS, channel_field_label
from auth_portal.i18n import (
    FIELD_NAMES,
    country_name,
    field_name,
    in_sentence,
    language_name,
    lasting,
    sentence_case,
    translated,
)
from auth_portal.i18n import plain as _
from auth_portal.methods import METHOD_NAMES, method_name, name_methods, words_of

# --- Outcomes


@dataclass(frozen=True)
class OutcomeWords:
    """How an outcome is called: a short label with its tone, the same as a clause, and the story's sentence.

    ``spoken`` is how it ended, for the customer, without the full stop; ``after`` stands for how long it took.
    """

    label: str
    tone: str  # good | bad | warn | plain
    meaning: str
    clause: str = ""
    story: str = ""
    spoken: str = "It ended after %(after)s"


OUTCOMES: Mapping[str, OutcomeWords] = {
    "live": OutcomeWords("under way", "plain", "it is under way"),
    "verified": OutcomeWords(
        "verified",
        "good",
        "the customer was verified",
        "verified",
        spoken="After %(after)s you had proved who you are",
    ),
    "wrong": OutcomeWords(
        "all tries wrong",
        "bad",
        "too many tries were wrong",
        "all tries were wrong",
        "It ended because every try was wrong.",
        "After %(after)s all tries were used up",
    ),
    "expired": OutcomeWords(
        "time ran out",
        "warn",
        "the time in the chat ran out",
        "time ran out",
        "It ended because the time ran out before it was finished.",
        "After %(after)s the time ran out",
    ),
    "cancelled": OutcomeWords(
        "cancelled",
        "warn",
        "the customer stopped",
        "cancelled",
        "The customer stopped.",
        "After %(after)s you stopped",
    ),
    "not_me": OutcomeWords(
        "“I didn't ask for this”",
        "bad",
        "the customer chose “I didn't ask for this”",
        "declined",
        "The customer chose “I didn't ask for this”. Another person may have sent them the link.",
        "You chose “I didn't ask for this”",
    ),
    "no_code": OutcomeWords(
        "no code came",
        "bad",
        "the customer did not get a code",
        "no code came",
        "The customer said that no code came.",
        "After %(after)s you said that no code came",
    ),
    "unavailable": OutcomeWords(
        "not possible", "bad", "no customer could pass", "not possible", spoken="We couldn't go on"
    ),
    "changed": OutcomeWords(
        "changed in the database",
        "bad",
        "someone other than the portal has changed it in the database",
        "changed in the database",
        "Someone other than the portal has changed this verification, the ID of its customer or its journey in the "
        "database. What it says of its outcome, customer and methods may be false, so this page doesn't show it.",
        "Our record of this isn't reliable, so we can't say what happened",
    ),
    "completed": OutcomeWords(
        "completed", "good", "the customer finished every step", "completed", spoken="You finished every step"
    ),
    "declined": OutcomeWords(
        "terms declined",
        "warn",
        "the customer declined the terms",
        "declined",
        "The customer declined the terms.",
        "You declined the terms",
    ),
    "handed_over": OutcomeWords(
        "handed over", "good", "the customer goes on elsewhere", "handed over", spoken="You chose where to go on"
    ),
}
FINISHED: Mapping[str, str] = {  # without a proof
    "completed": "The customer finished every step. No one had to prove who they are.",
    "handed_over": "The customer chose where to go on. No one had to prove who they are.",
}
WHY_ENDED: Mapping[str, str] = {
    "ticket_missing": "This journey requires a ticket, and this link came without one: Flow must register a ticket and "
    "send the path in the response.",
    "ticket_without_way": "The customer of the ticket has nothing on file that this journey could check.",
    "no_next_step": "Every proof was right, but the customer has nothing on file for the next step that was not used "
    "yet, or no channel for it works.",
    "journey_off": "The journey was switched off.",
    "journey_unsafe": "The journey was on, but its variables or result texts are no longer allowed; its page says "
    "what to change.",
    "no_channel": "The journey was on, but for one of its steps no channel was on that could send the code.",
    "sandbox_off": "The journey answers the sandbox, which is off on this server.",
    "asked_anew": "The link was opened again under a newer ticket before this one was finished.",
}
SPOKEN_END: Mapping[str, str] = {  # by the reason, for the customer, without the full stop
    "ticket_missing": "We couldn't begin, because the link came without its ticket",
    "ticket_without_way": "We couldn't begin, because you have nothing on file that we could check",
    "no_next_step": "We couldn't go on, because you have nothing on file for the next step",
    "journey_off": "We couldn't go on, because this was switched off",
    "journey_unsafe": "We couldn't go on, because our settings don't allow it",
    "no_channel": "We couldn't go on, because we couldn't send you a code",
    "sandbox_off": "We couldn't go on, because this was only a test",
    "asked_anew": "You got a newer link, and that one counts",
}
OUR_FAULT = ("unavailable", "journey_off", "journey_unsafe", "no_channel", "sandbox_off", "ticket_missing")
CLAUSE_OF_END: Mapping[str, str] = {  # by the reason, where it says more than the outcome
    "asked_anew": "replaced by a newer ticket",
    "no_next_step": "nothing on file for the next step",
    "journey_off": "not possible (journey off)",
    "journey_unsafe": "not possible (settings not allowed)",
    "no_channel": "not possible (no channel on)",
}
WHY_WRONG: Mapping[str, str] = {
    "spent": "It counted as wrong whatever it was: too many wrong tries with this method before.",
    "nobody": "It could not be right: no customer matches what was typed.",
    "disabled": "It counted as wrong: the customer is disabled.",
    "nothing_on_file": "It could not be right: the customer has nothing on file for this method.",
    "changed_lately": "It could not be right: the contact was changed lately, so it may not be the only proof here.",
    "not_in_force": "It counted as wrong: the code was used before, or the contact on file had changed since.",
}
CLAUSE_OF_WRONG: Mapping[str, str] = {
    "spent": "tries used up before",
    "disabled": "customer disabled",
    "nothing_on_file": "nothing on file",
    "changed_lately": "contact changed lately",
}
SPOKEN_WRONG: Mapping[str, str] = {  # why a proof could not be right, for the customer
    "spent": "Your tries with this method had been used up before.",
    "nothing_on_file": "You have nothing on file for this method.",
    "changed_lately": "Your contact was changed lately, so it can't be the only proof yet.",
}
SPOKEN_NOT_SENT: Mapping[str, str] = {  # why no message left, by the key of HELP, for the customer
    "nobody": "We sent none.",
    "shared": "We sent none.",
    "ticket": "We sent none.",
    "disabled": "We sent none.",
    "no_contact": "We have no contact on file to send a code to.",
    "destination limit reached": "We sent no more codes, because you had got as many as we send in an hour or a day.",
    "the channel's daily cap is reached": "We couldn't send you a code, because we had sent too many that day.",
    "too many wrong tries with this method": "We sent no code, because your tries with this method are used up.",
    "the contact on file has changed since": "We sent no code, because your contact on file had changed by then.",
    "country": "We don't send codes to the country of your number yet.",
    "changed_lately": "We sent no code, because your contact was changed lately.",
}
WHY_REFUSED: Mapping[int, str] = {  # a callback, by Flow's status
    400: " Flow had no waiting chat for this link: the chat had moved on or ended, or the link was made up.",
    401: " The callback server asks for a password, which Flow's own servers do not.",
    404: " The callback address is wrong; check the journey.",
}

# --- What helps


@dataclass(frozen=True)
class HelpWords:
    """What helps after something went wrong: ``now``, on the phone, and ``then``, once that is done.

    ``for_all`` is what ends it for all customers. ``act`` and ``act_for_all`` are the pages where that is done:
    customer, customers, channel, journey, link or audit. With ``takes_code`` a code did not come, so that a temporary
    one may take its place. ``is_rest`` is advice only where nothing else went wrong.
    """

    now: str = ""
    then: str = ""
    for_all: str = ""
    act: str = ""
    act_for_all: str = ""
    takes_code: bool = False
    is_rest: bool = False


ANOTHER = "If the journey offers another method, that works now."
HELP: Mapping[str, HelpWords] = {
    # why a message did not leave
    "destination limit reached": HelpWords(
        f"Messages to this contact leave again when the hour, or the day, is over. {ANOTHER}", takes_code=True
    ),
    "the channel's daily cap is reached": HelpWords(
        ANOTHER,
        for_all="The channel has reached its daily cap. An owner can raise it.",
        act_for_all="channel",
        takes_code=True,
    ),
    "too many wrong tries with this method": HelpWords(
        "Make sure who is calling, then unlock them on their page.", act="customer"
    ),
    "the contact on file has changed since": HelpWords(
        "“Change” on the customer's screen sends a code to the new contact."
    ),
    "country": HelpWords(
        ANOTHER,
        for_all="The channel doesn't send to this country. An owner can add it.",
        act_for_all="channel",
        takes_code=True,
    ),
    "not_taken": HelpWords(
        ANOTHER,
        for_all="The page of the channel says what is wrong and what to do about it.",
        act_for_all="channel",
        takes_code=True,
    ),
    "recipient": HelpWords(
        "Make sure who is calling, then compare their number or address with the one on file: the provider refused "
        "this one.",
        act="customer",
        takes_code=True,
    ),
    "nobody": HelpWords("Compare what was typed with what is on file.", act="customers"),
    "shared": HelpWords("Ask for their customer ID: a contact that several share names none of them."),
    "disabled": HelpWords(
        "Make sure who is calling. If it is a mistake, switch them on again on their page.", act="customer"
    ),
    "no_contact": HelpWords(
        "Make sure who is calling, then add the contact on their page.", act="customer", takes_code=True
    ),
    "ticket": HelpWords(
        "Each ticket is for one customer, who must open it.", "Anyone else asks for a link in their own chat."
    ),
    # why a proof was wrong, or the verification ended
    "spent": HelpWords("Make sure who is calling, then unlock them on their page.", act="customer"),
    "nothing_on_file": HelpWords(
        "Make sure who is calling, then create a one-time link on their page. With it they set what is missing.",
        act="customer",
    ),
    "changed_lately": HelpWords(
        f"The contact counts again from the time on the customer's page. {ANOTHER}", act="customer", takes_code=True
    ),
    "no_code": HelpWords(
        "Make sure who is calling, then compare their number or address with the one on file.",
        act="customer",
        takes_code=True,
    ),
    "not_me": HelpWords(
        "Ask whether they had started the chat. If they hadn't, someone may have tried to get in as them, and failed.",
        "Only if they started the chat themselves, they start again there.",
    ),
    "no_next_step": HelpWords("Make sure who is calling, then set up what is missing on their page.", act="customer"),
    "closed": HelpWords(
        for_all="The journey can't take customers now. Its page says what is missing.", act_for_all="journey"
    ),
    "changed": HelpWords(
        "Don't read this out. Its events, which are signed, say how it ended.",
        " ",
        for_all="Find out who can write to the database.",
        act="audit",
    ),
    "newer": HelpWords("See all verifications of this link. The newest one counts.", " ", act="link"),
    # where the chat stands
    "chat_unaware": HelpWords("Ask whether the chat continued.", "If it did not, they ask for a new link in the chat."),
    "chat_waits": HelpWords(
        "Ask them to stay in the chat: the portal sends the answer again until it arrives or the chat ends.",
        "Only if the chat ends first, they ask for a new link in a new chat.",
    ),
    # nothing else went wrong
    "live": HelpWords("Nothing needs to be done yet.", is_rest=True),
    "verified": HelpWords("Nothing needs to be done.", " ", is_rest=True),
    "wrong": HelpWords("Ask what they typed: of several codes, only the newest one works.", is_rest=True),
    "expired": HelpWords("Nothing needs to be fixed: there was not enough time.", is_rest=True),
    "cancelled": HelpWords("Nothing needs to be fixed: the customer stopped.", is_rest=True),
}
HELP_AFTER: Mapping[str, str] = {  # the end, by its reason or outcome, where no key of HELP is called the same
    "asked_anew": "newer",
    "declined": "cancelled",
    "unavailable": "closed",
    "journey_off": "closed",
    "journey_unsafe": "closed",
    "no_channel": "closed",
    "sandbox_off": "closed",
    "ticket_missing": "closed",
    "ticket_without_way": "nothing_on_file",
}
# Who can fix what kept a delivery from arriving: by the last answer, the state or the reason. Then what is wrong, and
# how bad that is.
FIXES: Mapping[str, tuple[str, str, str]] = {
    "pending": ("No one needs to fix this yet.", "It is tried again by itself.", "run"),
    "callback_400": (
        "Ask the customer whether the chat continued.",
        "Flow had no waiting chat for this answer: it had moved on or ended, or the link was made up.",
        "bad",
    ),
    "callback_401": (
        "This is for an owner to fix: the journey's callback server.",
        "It asks for a password, which Flow's own servers do not.",
        "bad",
    ),
    "callback_404": (
        "This is for an owner to fix: the journey's callback server.",
        "Its address is wrong, because there is nothing at the path of the callback.",
        "bad",
    ),
    "callback_refused": (
        "This is for an owner to fix: the journey's callback server.",
        "It refused the answer for good, so the portal doesn't try again on its own.",
        "bad",
    ),
    "callback_given_up": (
        "This is for the person who runs the network, or for Chat Flow.",
        "Flow didn't accept the answer until the chat ended.",
        "bad",
    ),
    "callback_unconfirmed": (
        "Ask the customer whether the chat continued.",
        "The answer may have arrived: Flow's reply to it was lost.",
        "warn",
    ),
    "webhook_410": (
        "This is for the person who runs the program.",
        "It answered that it refuses further events (410). A webhook under API keys was switched off; an owner can "
        "switch it on again.",
        "bad",
    ),
    "webhook_refused": (
        "This is for an owner to fix: the address of the webhook.",
        "The portal may not send to it, so it doesn't try again on its own. The last answer says why.",
        "bad",
    ),
    "webhook_given_up": (
        "This is for the person who runs the program.",
        "It didn't accept the event until the time for it was over.",
        "bad",
    ),
    "webhook_unconfirmed": (
        "This is for the person who runs the program.",
        "The event may have arrived: the reply to it was lost.",
        "warn",
    ),
    "recipient": (
        "This is for support to fix: the customer's number or address.",
        "The provider refused it, so the portal doesn't try again on its own: the answer would be the same.",
        "bad",
    ),
    "operator": (
        "This is for an owner to fix: the channel's key, account, funds or settings.",
        "The portal doesn't try again on its own, because the answer would be the same.",
        "bad",
    ),
    "message_refused": (
        "This is for an owner to fix, on the page of the channel.",
        "The provider refused it, so the portal doesn't try again on its own: the answer would be the same.",
        "bad",
    ),
    "message_given_up": (
        "This is for the provider to fix, or for an owner who knows another one.",
        "It didn't accept the message until the time for it was over.",
        "bad",
    ),
    "message_unconfirmed": (
        "Ask the customer whether it came.",
        "It may have left: the provider's reply was lost.",
        "warn",
    ),
    "country": (
        "This is for an owner to fix: the channel doesn't send to this country.",
        "They can add it on the page of the channel.",
        "warn",
    ),
    "the channel's daily cap is reached": (
        "This is for an owner to fix: the channel had reached its daily cap.",
        "They can raise it on the page of the channel.",
        "warn",
    ),
    "no contact to send to": (
        "This is for support to fix: there was no contact to send to.",
        "What was typed is not on file, or the customer has no such contact.",
        "warn",
    ),
    "too many wrong tries with this method": (
        "This is for support to fix: the customer's tries with this method are used up.",
        "Once you are sure who is calling, unlock them on their page.",
        "warn",
    ),
    "not_sent": ("No one needs to fix this.", "The portal stopped it before it was sent.", "plain"),
}
TAKE_CODE = "Make sure who is calling, then read out a temporary code. It takes the place of the %(method)s."
GO_ON = "The customer goes on with the same link, until %(at)s."
START_AGAIN = "Ask the customer to start again in the chat. The old link has ended."
FAILING = "Channel “%(channel)s” has accepted nothing since %(at)s. An owner can fix it."

# --- Audit events

EVENTS: Mapping[str, str] = {
    "verification_began": "A verification began on journey %(journey)s.",
    "verification_ended": "It ended: %(outcome)s.",
    "step_passed": "The customer passed a step with the %(method)s.",
    "proof_failed": "A try with the %(method)s was wrong.",
    "verification_joined": "The link was opened again, and the verification that was under way continued.",
    "method_chosen": "A method was chosen: %(method)s.",
    "code_resent": "The code was requested again and sent: %(method)s.",
    "name_taken_back": "The visitor went back to change who they are.",
    "named_again": "The visitor said again who they are.",
    "terms_accepted": "Version %(version)s of the terms was accepted, in language %(language)s.",
    "terms_declined": "Version %(version)s of the terms was declined.",
    "questions_answered": "Questions were answered: %(answers)s answers.",
    "handover_chosen": "Chosen at the hand-over: %(choice)s.",
    "ticket_registered": "A ticket for journey %(journey)s was registered.",
    "delivery_retried": "A %(what)s was sent again. Reason given: %(reason)s",
    "customers_imported": "Customers were imported: %(new)s new, %(changed)s changed, %(equal)s unchanged.",
    "customers_import_uploaded": "A customer file was uploaded.",
    "customers_import_started": "The import of a customer file was started.",
    "customers_import_cancelled": "An import of customers was cancelled; no customer was changed.",
    "customers_import_undo_asked": "An undo of an import was started.",
    "customers_import_undone": "An import was undone: %(customers)s customers are as they were before it.",
    "customer_created": "A customer was created with: %(fields)s.",
    "customer_changed": "What is on file about a customer was changed: %(fields)s.",
    "customer_enabled": "A customer was switched on.",
    "customer_disabled": "A customer was switched off.",
    "customer_exported": "All that is stored about a customer was downloaded.",
    "customers_saved": "A program saved customers: %(new)s new, %(changed)s changed, %(equal)s unchanged.",
    "customer_erased": "A customer was erased.",
    "credential_reset": "A customer's %(method)s was reset.",
    "credential_link_made": "A one-time link was created for a customer to set: %(of)s.",
    "credential_link_opened": "A one-time link for a customer was opened, in browser %(number)s, to set: %(of)s.",
    "credential_link_declined": "A customer's one-time link to set their %(of)s was declined: they didn't ask for it.",
    "credential_set_by_link": "A customer opened a one-time link and set: %(of)s.",
    "credential_set_in_person": "A customer who was with an admin set: %(of)s.",
    "support_code_issued": "A temporary code was issued, to be read out to a customer.",
    "credentials_renewed": "A customer was unlocked: wrong tries count from zero again.",
    "customer_revealed": "The contacts of a customer were shown in full.",
    "admin_signed_in": "An admin signed in.",
    "passkey_created": "An admin added the passkey “%(passkey)s”.",
    "passkey_removed": "An admin removed the passkey “%(passkey)s”.",
    "passkey_refused": "The passkey “%(passkey)s” was refused: its count went back, so it may have been copied.",
    "admin_joined": "A new admin joined as %(role)s.",
    "admin_sign_in_renewed": "An admin set a new password and authenticator app with a link.",
    "admin_role_changed": "An admin's role was changed to %(role)s.",
    "admin_disabled": "An admin was switched off.",
    "admin_enabled": "An admin was switched on.",
    "admin_sign_in_failed": "A sign-in as an admin failed.",
    "admin_session_ended": "An admin's session was ended.",
    "admin_confirmation_failed": "An admin's second factor was wrong.",
    "admin_invited": "An admin was invited as %(role)s.",
    "admin_invitation_withdrawn": "An invitation was withdrawn.",
    "admin_link_opened": "An admin's one-time link (role %(role)s) was opened, in browser %(number)s.",
    "admin_link_declined": "An admin's one-time link (role %(role)s) was declined: they didn't expect it.",
    "admin_reset": "An admin got a link to set a new password and authenticator app.",
    "admin_password_changed": "An admin changed their password.",
    "recovery_code_used": "An admin signed in with a recovery code.",
    "recovery_codes_renewed": "An admin created new recovery codes.",
    "api_key_created": "The API key “%(name)s” was created, valid for %(days)s days, for: %(scopes)s.",
    "api_key_revoked": "The API key “%(name)s” was revoked.",
    "webhook_secret_renewed": "The secret of the alert webhook was replaced.",
    "webhook_endpoint_created": "A webhook to %(to)s was created, for: %(events)s.",
    "webhook_endpoint_changed": "The webhook to %(to)s was changed, or switched on, for: %(events)s.",
    "webhook_endpoint_off": "The webhook to %(to)s was switched off.",
    "webhook_endpoint_gone": "%(to)s answered 410 (gone), so its webhook was switched off.",
    "webhook_endpoint_paused": "The webhook to %(to)s was paused, because it had failed for days.",
    "webhook_endpoint_replayed": "%(deliveries)s events for the webhook to %(to)s were sent again.",
    "webhook_endpoint_resumed": "The webhook to %(to)s was resumed.",
    "webhook_endpoint_secret_renewed": "The secret of the webhook to %(to)s was replaced.",
    "webhook_endpoint_deleted": "The webhook to %(to)s was deleted.",
    "webhook_endpoint_tested": "A test message was sent to the webhook to %(to)s.",
    "advice_put_off": "Advice on the home page was put off.",
    "settings_changed": "The settings were changed: %(changes)s.",
    "configuration_imported": "A config file was imported: %(changes)s.",
    "journey_created": "Journey %(journeys)s was created.",
    "journey_changed": "Journey %(journeys)s was changed: %(changes)s.",
    "journey_deleted": "Journey %(journeys)s was deleted.",
    "channel_added": "Channel %(channels)s was created.",
    "channel_changed": "Channel %(channels)s was changed: %(changes)s.",
    "channel_switched": "Channel %(channels)s was switched: %(changes)s.",
    "channel_deleted": "Channel %(channels)s was deleted.",
    "channel_tested": "A test message was sent through channel %(channel)s.",
    "drive_began": "A test drive of journey %(journey)s began.",
    "drive_passed": "A test drive of journey %(journey)s was verified, and its chat continued.",
    "alert_opened": "An alert started: %(alert)s (%(subject)s).",
    "alert_closed": "An alert ended: %(alert)s (%(subject)s).",
    "keys_rotated": "The data keys were wrapped again.",
    "backup_made": "A backup was made: %(file)s, %(size)s bytes.",
    "database_restored": "The database was restored from a backup: %(live_verifications_ended)s live verifications "
    "were ended without a result, %(results_under_way_marked_as_unconfirmed)s results may or may not have been sent.",
    "audit_chain_restarted": "The audit trail's chain was started again: what was there was sealed as it was found.",
    "integrity_broken": "A row of %(table)s was not used, because someone else has changed it in the database.",
    "macs_sealed": "MACs of rows are required from now on: %(missing)s rows had none, %(changed)s had a wrong one.",
    "audit_exported": "The audit was exported as %(format)s.",
    "list_exported": "The list of %(what)s was downloaded.",
    "answers_exported": "The answers of journey %(journey)s were downloaded.",
    "acceptances_exported": "The acceptances of journey %(journey)s were downloaded.",
}


BROWSERS = (  # what a browser says of itself has the names of others in it: the first that it has counts
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("HeadlessChrome/", "headless Chrome"),
    ("Chrome/", "Chrome"),
    ("Version/", "Safari"),
)
SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Mac OS X", "Mac"),
    ("Linux", "Linux"),
)


def browser_words(said: str) -> str:
    """Return what a browser says of itself as admins call it: "Chrome on Windows"; a program by its first word."""
    browser = next((name for mark, name in BROWSERS if mark in said), "")
    if not browser:
        return said.split(" ", 1)[0].replace("/", " ")
    system = next((name for mark, name in SYSTEMS if mark in said), "")
    return _("%(browser)s on %(system)s", browser=browser, system=system) if system else browser


def who_acted(admin: str, came_from: Mapping[str, str]) -> str:
    """Return who did something: an admin's name, an API key by its name, or a command; "" for customers."""
    if admin:
        return admin
    name = came_from.get("key")
    if name or came_from.get("api_key"):
        return _("API key “%(name)s”", name=name) if name else _("an API key")
    return came_from.get("command", "")


def source(admin: str, came_from: Mapping[str, str]) -> str:
    """Return who did something and from where, with commas: address, browser in words, who ran the command."""
    found = [who_acted(admin, came_from), came_from.get("address", ""), browser_words(came_from.get("browser", ""))]
    return ", ".join(part for part in (*found, came_from.get("account", "")) if part)


def stored_for(word: str, vocabulary: Vocabulary) -> tuple[list[str], list[str]]:
    """Return the kinds of events whose sentence has a word, and what is stored in facts where a page shows this word.

    An outcome ``wrong`` is shown as "too many tries were wrong", a browser and a journey by its name.
    """
    word = word.lower()
    kinds = [kind for kind, words in EVENTS.items() if word in re.sub(r"%\(\w+\)s", "", translated(words)).lower()]
    shown = {outcome: words.meaning for outcome, words in OUTCOMES.items()}
    shown |= {**WHY_WRONG, **WHY_ENDED, **{method: words_of(method).name for method in METHOD_NAMES}}
    shown |= {key: name for names in FIELD_NAMES.values() for key, name in names.items()}
    shown |= {**vocabulary.terms, **vocabulary.journeys}
    values = [json.dumps(stored) for stored, words in shown.items() if word in translated(words).lower()]
    return kinds, [*values, *(mark for mark, name in BROWSERS if word in name.lower())]


class Vocabulary(NamedTuple):
    """What sentences call what the facts of events name by a code.

    ``journeys`` are titles by the name in the link; ``terms`` are the words for scopes of API keys and for alerts.
    """

    journeys: Mapping[str, str]
    terms: Mapping[str, str]

    def journey(self, slug: str) -> str:
        """Return the title of a journey, or its name in the link if the portal has never had it."""
        return self.journeys.get(slug, slug)

    def term(self, code: str) -> str:
        """Return the words for a code, or the code itself."""
        return translated(self.terms.get(code, code))


ADDED = "added"
MOST_NAMED = 6  # changed fields in a sentence


def changed_words(changes: Mapping[str, Any], done: Mapping[str, Any], vocabulary: Vocabulary) -> str:
    """Return the names of what a change of the configuration changed, without the values, for a sentence.

    ``done`` has what happened to each thing, such as ``switched off``. Of one that was added every field is new, so
    none is named.
    """
    parts = []
    for of, fields in changes.items():
        table = of.partition(" ")[0]
        keys = fields if isinstance(fields, Mapping) and done.get(of) != ADDED else ()
        names = list(dict.fromkeys(in_sentence(field_words(table, str(key))) for key in keys))
        more = [_("%(count)s more", count=len(names) - MOST_NAMED)] if len(names) > MOST_NAMED else []
        named = ", ".join([*names[:MOST_NAMED], *more]) or str(done.get(of, ""))
        title = in_sentence(title_words(of, vocabulary))
        parts.append(f"{title} ({named})" if named and len(changes) > 1 else named or title)
    return "; ".join(parts) or _("nothing")


# --- Names and values of fields

CHOICES: Mapping[str, Mapping[str, str]] = {  # what the values of a field are called, by the field
    "relay_defence": {
        "none": "none",
        "chat_code": "a code typed in the chat",
        "phone_match": "the chat's own number must match",
    },
    "server": {
        "production": "Chat Flow, production",
        "uat": "Chat Flow, UAT (for tests)",
        "sandbox": "the sandbox on this server",
    },
    "contract": {"external_link": "External Link node", "wait_for_callback": "Wait for Callback node"},
    "by": {"customer_id": "customer ID", "phone": "phone number", "email": "email address"},
}
LOGO_SHOWN = 8  # characters of a picture's digest that tell it from another


def title_words(of: str, vocabulary: Vocabulary) -> str:
    """Return what a change was made to: ``channel sms`` as "Channel “sms”", ``portal`` as "Settings"."""
    table, _blank, name = of.partition(" ")
    if not name:
        return "Settings" if table == "portal" else sentence_case(table)
    return f"{sentence_case(table)} {vocabulary.journey(name) if table == 'journey' else f'“{name}”'}"


def field_words(table: str, key: str) -> str:
    """Return what admins call a field of a table: of ``channel``, too, whose kinds name their fields themselves."""
    label = channel_field_label(key) if table == "channel" else ""
    part = key.partition(".")[2]  # the name of a header
    return sentence_case(label) + (f": {part}" if part else "") if label else field_name(table, key)


def value_words(table: str, key: str, text: str) -> str:
    """Return a value of a field, as a change has it, as admins read it: ``sms_code`` as "SMS code"."""
    name = re.split(r"[.\[]", re.sub(r"\[\d+\]$", "", key))[-1]
    if table == "channel" and name == "kind":
        return _(KINDS[text].config_type.WORDS.name) if text in KINDS else text
    if table == "channel" and name not in ("countries", *CHOICES):
        found = (dict(field.choices) for kind in KINDS.values() for field in kind.config_type.FORM if field.name == key)
        return next((choices[text] for choices in found if text in choices), text)
    if name == "any_of":
        return name_methods(text)
    if table == "customer" and name == "phone":  # ON_FILE with its country
        return re.sub(r"\(([A-Z]{2})\)", lambda country: f"({country_name(country[1])})", text)
    if name in ("logo", "logo_dark"):
        return _("picture %(digest)s", digest=text[:LOGO_SHOWN]) if text else ""
    said = _SAID.get(name, CHOICES.get(name, {}).get)
    return ", ".join(said(part) or part for part in text.split(", ")) if text else ""


_SAID: Mapping[str, Callable[[str], str | None]] = {
    **dict.fromkeys(("language", "languages", "locale"), language_name),
    **dict.fromkeys(("default_region", "countries"), country_name),
    **dict.fromkeys(
        ("chat_seconds", "code_seconds", "resend_waits"),
        lambda text: lasting(int(text)) if text.isdecimal() else text,
    ),
    **dict.fromkeys(("time_zone", "zone"), lambda text: text.replace("_", " ")),
}


def event_sentence(kind: str, facts: Mapping[str, Any], vocabulary: Vocabulary) -> str:
    """Return what happened in one sentence; an event without a sentence is described by its kind and its facts."""
    if kind not in EVENTS:
        words = kind.replace("_", " ").capitalize()
        listed = ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in facts.items())
        return f"{words}: {listed}." if facts else f"{words}."
    values = {name: _value(value) for name, value in facts.items()} | said_values(facts, vocabulary)
    text = translated(EVENTS[kind]) % defaultdict(lambda: "?", values)
    why = {**WHY_WRONG, **WHY_ENDED}.get(str(facts.get("why", "")))
    text = f"{text} {translated(why)}" if why else text
    if "reason" in values and "%(reason)s" not in EVENTS[kind]:
        text = f"{text} {translated('Reason given: %(reason)s') % values}"
    return f"{text} ({values['note']})" if values.get("note") else text


def said_values(facts: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, str]:
    """Return the facts that a sentence says in other words than they were recorded in."""
    values: dict[str, str] = {}
    if isinstance(facts.get("changes"), Mapping):
        values["changes"] = changed_words(facts["changes"], facts.get("done") or {}, vocabulary)
    if isinstance(facts.get("fields"), list):
        names = [in_sentence(field_words("customer", str(name))) for name in facts["fields"]]
        values["fields"] = ", ".join(names) or _("nothing")
    if isinstance(facts.get("journeys"), list):
        values["journeys"] = ", ".join(vocabulary.journey(str(slug)) for slug in facts["journeys"])
    if isinstance(facts.get("channels"), list):
        values["channels"] = ", ".join(f"“{name}”" for name in facts["channels"])
    if isinstance(facts.get("scopes"), list):
        values["scopes"] = ", ".join(vocabulary.term(str(scope)) for scope in facts["scopes"])
    said: Mapping[str, Callable[[str], str]] = {
        "journey": vocabulary.journey,
        "method": method_name,
        "of": method_name,
        "channel": "“{}”".format,
        "language": language_name,
        "alert": vocabulary.term,
        "format": lambda form: "JSON lines" if form == "jsonl" else form.upper(),
    }
    values |= {name: say(facts[name]) for name, say in said.items() if isinstance(facts.get(name), str)}
    if (outcome := OUTCOMES.get(str(facts.get("outcome", "")))) is not None:
        values["outcome"] = translated(outcome.meaning)
    return values


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{name} {_value(item)}" for name, item in value.items()) or "none"
    return "none" if value is None or value == "" else " ".join(str(value).split())


# --- Times and numbers

LEAST, MINUTE, HOUR, TENTHS_UNTIL = 0.05, 60, 3600, 10
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def span(seconds: float) -> str:
    """Return a length of time in words, such as "5 min 20 s"."""
    seconds = max(0.0, seconds)
    if seconds < LEAST:
        return _("less than 0.1 s")
    if seconds < TENTHS_UNTIL:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s" if whole % MINUTE else f"{whole // MINUTE} min"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"


def number(count: int) -> str:
    """Return a number, in words up to ten."""
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def counted(count: int, one: str, many: str) -> str:
    """Return a number of things, with the number in words up to ten."""
    return f"{number(count)} {_(one if count == 1 else many)}"


def some_of(count: int, whole: int) -> str:
    """Return how many of some things that were just mentioned: ``it``, ``both``, ``all three``, or ``two of them``."""
    if count == whole:
        return {1: _("it"), 2: _("both")}.get(whole, _("all %(n)s", n=number(whole)))
    return _("%(n)s of them", n=number(count))
