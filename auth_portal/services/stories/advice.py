"""What support can do about it now: told beside what happened, to whoever has the caller on the line."""

from __future__ import annotations

from auth_portal.i18n import plain as _

ANOTHER = "where the journey offers another method, that works now"
ADVICE = {
    # why a message did not leave
    "destination limit reached": f"the hour has to pass; {ANOTHER}.",
    "the channel's daily cap is reached": f"an owner can raise the cap on the page of the channel; {ANOTHER}.",
    "too many wrong tries with this method": "“Unlock” on the customer's page, once it is sure who is calling.",
    "the contact on file has changed since": "“Not right? Change” on their page sends a code to the new one.",
    "country": f"an owner can add the country on the page of the channel; {ANOTHER}.",
    "not_taken": f"the page of the channel says what is wrong and what to do about it; {ANOTHER}.",
    "nobody": "compare what was typed with what is on file; by “Not right? Change” they can name themselves anew.",
    "shared": "let them go back by “Not right? Change” and give their customer ID.",
    "disabled": "if it was not on purpose, switch them on again on the customer's page.",
    "no_contact": f"put it on file on the customer's page, once it is sure who is calling; {ANOTHER}.",
    "ticket": "each ticket is for one customer: it is theirs to open, and others ask for a link in their own chat.",
    # why a proof was wrong, or it ended
    "spent": "“Unlock” on the customer's page, once it is sure who is calling.",
    "nothing_on_file": f"a one-time link from the customer's page lets them set it; {ANOTHER}.",
    "again": "whoever still wants it asks for a new link in the chat.",
    "no_next_step": "what is missing can be set up from the customer's page; then they ask for a new link in the chat.",
    "closed": "an owner sees on the page of the journey what is missing; then they ask for a new link in the chat.",
    "newer": "see all verifications of this link; the newest one counts.",
    # where the chat stands
    "untold": "ask whether the chat went on. Where it did not, they ask for a new link in the chat.",
}


def helps(reason: str) -> str:
    """What to say after what happened; nothing where nothing helps."""
    return _("What helps: %(advice)s", advice=_(ADVICE[reason])) if reason in ADVICE else ""
