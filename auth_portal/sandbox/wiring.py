"""Puts a sandbox together: one blueprint, nothing opened before its first request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flask import Blueprint

from auth_portal.clock import Clock
from auth_portal.sandbox.asking import Refusal, refused
from auth_portal.sandbox.callbacks import Callbacks
from auth_portal.sandbox.contract import DemoPerson, JourneyCard
from auth_portal.sandbox.conversations import Conversations
from auth_portal.sandbox.database import Database
from auth_portal.sandbox.inbox import Inbox
from auth_portal.sandbox.machines import FlowSide, Patience, Phones
from auth_portal.sandbox.moves import Moves
from auth_portal.sandbox.pages import Pages
from auth_portal.sandbox.parts import Parts
from auth_portal.sandbox.tickets import ApiCall, AskPortal

MACHINE_ENDPOINTS = ("sandbox.external_link", "sandbox.wait_for_callback", "sandbox.keep_message", "sandbox.start")
# Scripts drive chats as people do, and all that a forged post could reach is a pretended chat.
CSRF_EXEMPT = (*MACHINE_ENDPOINTS, "sandbox.say", "sandbox.again", "sandbox.set_fault")


def nobody() -> Sequence[DemoPerson]:
    """The demo people of a portal that has no demo."""
    return ()


def no_answer(fields: Mapping[str, str]) -> ApiCall:
    """What a flow hears from a portal that is not there."""
    return ApiCall(fields, status=502, answer="")


def blueprint(
    instance: Path,
    public_url: str,
    journeys: Callable[[], Sequence[JourneyCard]],
    clock: Clock,
    *,
    is_public: bool,
    ask_portal: AskPortal = no_answer,
    demo_people: Callable[[], Sequence[DemoPerson]] = nobody,
    sleep: Callable[[float], None] = time.sleep,
) -> Blueprint:
    """The whole sandbox, to be registered once.

    ``is_public`` is for one that strangers share: it lists nobody's chats, and in each process a simulated fault
    holds up only one request at a time. ``ask_portal`` is how a flow's API node reaches the portal; ``sleep`` is how a
    fault waits.
    """
    database = Database(instance / "sandbox.db")
    chats, callbacks, inbox = (
        Conversations(database, clock, public_url),
        Callbacks(database, clock),
        Inbox(database, clock),
    )
    parts = Parts(public_url, journeys, demo_people, ask_portal, clock, chats, callbacks, inbox, is_public)
    found = Blueprint("sandbox", __name__, url_prefix="/sandbox")
    Pages(parts).add_rules(found)
    Moves(parts).add_rules(found)
    FlowSide(callbacks, Patience(sleep, 1 if is_public else None)).add_rules(found)
    Phones(inbox).add_rules(found)
    found.register_error_handler(Refusal, refused)
    return found
