"""A stand-in for Chat Flow and the phone networks, served under ``/sandbox/`` while PORTAL_SANDBOX is on.

It is an outside system that happens to live in the same process: the portal reaches it by HTTP like the real Flow, and
it knows of the portal only the journeys and people that it is given. So it stores its state in its own SQLite file,
``<instance>/sandbox.db`` (WAL, shared by all workers, pruned), and a portal on PostgreSQL has that file too. The
product never reads it.

It is strict: a callback that the real Flow might not match gets a 400 here, with the reason on the page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flask import Blueprint

from auth_portal.clock import Clock
from auth_portal.sandbox.conversations import Conversations
from auth_portal.sandbox.database import SandboxFile
from auth_portal.sandbox.facts import ApiCall, AskPortal, DemoPerson, FlowFault, JourneyCard, ReferenceStyle
from auth_portal.sandbox.inbox import Inbox, PhoneEndpoints
from auth_portal.sandbox.pages import ChatMoves, Pages, Refusal, Sandbox, refusal_page
from auth_portal.sandbox.receiver import Callbacks, FlowEndpoints, Patience

__all__ = ["CSRF_EXEMPT", "MACHINE_ENDPOINTS", "DemoPerson", "FlowFault", "JourneyCard", "ReferenceStyle", "blueprint"]

MACHINE_ENDPOINTS = ("sandbox.external_link", "sandbox.wait_for_callback", "sandbox.keep_message", "sandbox.start")
# Scripts play chats as people do, and a forged post could reach only a simulated chat.
CSRF_EXEMPT = (*MACHINE_ENDPOINTS, "sandbox.say", "sandbox.again", "sandbox.set_fault")


def blueprint(
    instance: Path,
    public_url: str,
    journeys: Callable[[], Sequence[JourneyCard]],
    clock: Clock,
    *,
    is_public: bool,
    ask_portal: AskPortal = lambda fields: ApiCall(fields, status=502, answer=""),
    demo_people: Callable[[], Sequence[DemoPerson]] = lambda: (),
    sleep: Callable[[float], None] = time.sleep,
) -> Blueprint:
    """Return the whole sandbox, to be registered once. Nothing is opened before its first request.

    ``is_public`` is for a sandbox that strangers share: it lists no chats, and in each process a simulated fault delays
    only one request at a time. ``ask_portal`` is how a flow's API node reaches the portal (by default it finds none),
    and ``sleep`` is how a fault waits.
    """
    file = SandboxFile(instance / "sandbox.db")
    callbacks, inbox = Callbacks(file, clock), Inbox(file, clock)
    sandbox = Sandbox(
        public_url=public_url,
        journeys=journeys,
        demo_people=demo_people,
        ask_portal=ask_portal,
        clock=clock,
        chats=Conversations(file, clock, public_url),
        callbacks=callbacks,
        inbox=inbox,
        is_public=is_public,
    )
    found = Blueprint("sandbox", __name__, url_prefix="/sandbox")
    Pages(sandbox).add_rules(found)
    ChatMoves(sandbox).add_rules(found)
    FlowEndpoints(callbacks, Patience(sleep, 1 if is_public else None)).add_rules(found)
    PhoneEndpoints(inbox).add_rules(found)
    found.register_error_handler(Refusal, refusal_page)
    return found
