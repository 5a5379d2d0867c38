"""An audit event in one plain sentence, in the past tense. What nobody wrote a sentence for is told by its kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from auth_portal.i18n import translated
from auth_portal.services.method_names import method_name

SENTENCES: Mapping[str, str] = {
    "verification_began": "A verification began on journey %(journey)s.",
    "verification_ended": "It ended: %(outcome)s.",
    "step_passed": "The customer passed a step with the %(method)s.",
    "proof_failed": "A try with the %(method)s was wrong.",
    "verification_joined": "A link was opened again while its verification was under way, which went on.",
    "method_chosen": "A method was chosen: %(method)s.",
    "code_resent": "A code was asked for again and sent: %(method)s.",
    "name_taken_back": "Somebody went back to say anew who they are.",
    "named_again": "Somebody said anew who they are.",
    "ticket_registered": "A ticket for journey %(journey)s was registered.",
    "delivery_retried": "A %(what)s was sent again. Reason given: %(reason)s",
    "customers_imported": "Customers were imported: %(new)s new, %(changed)s changed, %(equal)s as before.",
    "customers_import_uploaded": "A file of customers was sent.",
    "customers_import_started": "The import of a file of customers was started.",
    "customers_import_cancelled": "An import of customers was cancelled; nobody was changed.",
    "customers_import_undo_asked": "Undoing an import was begun.",
    "customers_import_undone": "An import was taken back: %(customers)s customers are as before it.",
    "customer_erased": "A customer was erased.",
    "credential_reset": "A customer's %(method)s was reset.",
    "credential_link_made": "A one-time link was made for a customer to set: %(of)s.",
    "credential_set_by_link": "A customer followed a one-time link and set: %(of)s.",
    "support_code_issued": "A temporary code was read out to a customer.",
    "credentials_renewed": "A customer's wrong tries were counted from none again.",
    "customer_revealed": "The contacts of a customer were shown in full.",
    "admin_signed_in": "An admin signed in.",
    "admin_joined": "A new admin joined as %(role)s.",
    "admin_sign_in_renewed": "An admin set a new password and app by a link.",
    "admin_role_changed": "An admin was made %(role)s.",
    "admin_disabled": "An admin was switched off.",
    "admin_enabled": "An admin was switched on.",
    "admin_sign_in_failed": "Somebody tried to sign in as an admin, and could not.",
    "admin_session_ended": "An admin's session was ended.",
    "admin_confirmation_failed": "An admin's second factor was wrong.",
    "admin_invited": "An admin was invited as %(role)s.",
    "admin_invitation_withdrawn": "An invitation was withdrawn.",
    "admin_reset": "An admin was given a link to set a new password and app.",
    "admin_password_changed": "An admin changed their password.",
    "recovery_code_used": "An admin signed in with a recovery code.",
    "recovery_codes_renewed": "An admin made new recovery codes.",
    "api_key_created": "A key for a program was made, good for %(days)s days, for: %(scopes)s.",
    "api_key_revoked": "A key for a program was revoked.",
    "webhook_secret_renewed": "The secret of the alert webhook was renewed.",
    "settings_changed": "The settings were changed: %(changes)s.",
    "configuration_imported": "A config file was imported: %(changes)s.",
    "journey_created": "Journey %(journeys)s was made: %(changes)s.",
    "journey_changed": "Journey %(journeys)s was changed: %(changes)s.",
    "journey_deleted": "Journey %(journeys)s was deleted.",
    "channel_added": "Channel %(channels)s was made: %(changes)s.",
    "channel_changed": "Channel %(channels)s was changed: %(changes)s.",
    "channel_switched": "Channel %(channels)s was switched: %(changes)s.",
    "channel_deleted": "Channel %(channels)s was deleted.",
    "channel_tested": "A test was sent by channel %(channel)s.",
    "drive_began": "A test drive of journey %(journey)s began.",
    "drive_passed": "A test drive of journey %(journey)s was verified, and its chat went on.",
    "keys_rotated": "The data keys were wrapped anew.",
    "audit_exported": "The audit was exported as %(format)s.",
}
ENDED: Mapping[str, str] = {
    "verified": "the customer was verified",
    "wrong": "too many tries were wrong",
    "expired": "the time ran out",
    "cancelled": "the customer stopped",
    "not_me": "somebody said “I did not ask for this”",
    "no_code": "the customer said that no code had come",
    "unavailable": "nobody could get through",
    "completed": "the customer went through to the end",
}
WHY_ENDED: Mapping[str, str] = {
    "ticket_missing": "The journey works with tickets alone, and this link came without one: Flow must register a "
    "ticket and send the path that it is given.",
    "ticket_without_way": "The customer of the ticket has nothing on file that this journey could check.",
    "no_next_step": "All that was proved was right, but for the next step the customer has nothing on file that is not "
    "used yet, or no channel for it works.",
    "journey_off": "The journey was switched off.",
    "no_channel": "The journey was on, but for one of its steps no channel was on that could send the code.",
    "sandbox_off": "The journey answers the sandbox, which is off on this server.",
    "asked_anew": "The link was begun anew under a newer ticket before this was finished.",
}
WHY_WRONG: Mapping[str, str] = {
    "spent": "It counted as wrong whatever it was: too many wrong tries with this method before.",
    "nobody": "It could not be right: nobody in the directory goes by what was typed.",
    "disabled": "It counted as wrong: the customer is disabled.",
    "nothing_on_file": "It could not be right: the customer has nothing on file for this method.",
    "not_in_force": "It counted as wrong: it had been used already, or the contact on file had changed since.",
}


def sentence(kind: str, facts: Mapping[str, Any]) -> str:
    """What happened, for an admin to read."""
    if kind not in SENTENCES:
        words = kind.replace("_", " ").capitalize()
        return f"{words}: {told(facts)}." if facts else f"{words}."
    values = {name: _value(value) for name, value in facts.items()}
    if "method" in values:
        values["method"] = method_name(values["method"])
    if "outcome" in values:
        values["outcome"] = translated(ENDED.get(values["outcome"], values["outcome"]))
    text = translated(SENTENCES[kind]) % defaultdict(lambda: "?", values)
    why = {**WHY_WRONG, **WHY_ENDED}.get(str(facts.get("why", "")))
    text = f"{text} {translated(why)}" if why else text
    return f"{text} ({values['note']})" if values.get("note") else text


def told(facts: Mapping[str, Any]) -> str:
    """The facts of an event, one after another."""
    return ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in facts.items())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{name} {_value(item)}" for name, item in value.items()) or "none"
    return "none" if value is None or value == "" else " ".join(str(value).split())
