"""An audit event in one plain sentence, in the past tense. What nobody wrote a sentence for is told by its kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from auth_portal.i18n import translated

SENTENCES: Mapping[str, str] = {
    "verification_began": "A verification began on journey %(journey)s.",
    "verification_ended": "The verification ended: %(outcome)s.",
    "step_passed": "A step was passed with %(method)s.",
    "proof_failed": "A proof with %(method)s failed.",
    "delivery_retried": "A %(what)s was sent again. Reason given: %(reason)s",
    "customers_imported": "Customers were imported: %(new)s new, %(changed)s changed, %(equal)s as before.",
    "customers_import_uploaded": "A file of customers was sent.",
    "customers_import_started": "The import of a file of customers was started.",
    "customers_import_cancelled": "An import of customers was cancelled; nobody was changed.",
    "customers_import_undone": "An import was taken back: %(customers)s customers are as before it.",
    "customer_erased": "A customer was erased.",
    "credentials_renewed": "A customer's wrong tries were counted from none again.",
    "keys_rotated": "The data keys were wrapped anew.",
    "audit_exported": "The audit was exported as %(format)s.",
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
    text = translated(SENTENCES[kind]) % defaultdict(
        lambda: "?", {name: _value(value) for name, value in facts.items()}
    )
    why = WHY_WRONG.get(str(facts.get("why", "")))
    return f"{text} {translated(why)}" if why else text


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
