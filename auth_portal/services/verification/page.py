"""What a move leads to: the page of the current prompt, as one value, or on to another page.

Before a first proof, nothing in it depends on who was found; a ticket alone shows its masked number (R24).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from dataclasses import field as described
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, select

from auth_portal.methods import CARRIES, Method
from auth_portal.services.config.journey import ShownPayment
from auth_portal.services.config.snapshot import Look, Snapshot
from auth_portal.services.verification.case import Case, Stage, Voice
from auth_portal.services.verification.given import moment
from auth_portal.store.db import Compiled, Work
from auth_portal.store.models import VISIT_IDENTIFIER, ChannelState

LATE_SECONDS = 60  # before the end, when the page says so
LONGEST_UNBROKEN = 18  # characters of what was typed that stay on one line: any number
TROUBLE_FAILURES = 2  # failures in a row after which the page says that a channel is slow or down
TROUBLE_TIME = timedelta(minutes=10)  # and for how long after the last of them

_TROUBLE = Compiled(
    select(ChannelState.name).where(
        ChannelState.name == bindparam("name"),
        ChannelState.failures_in_row >= TROUBLE_FAILURES,
        ChannelState.failed_at > bindparam("since"),
    )
)


@dataclass(frozen=True)
class Page:
    """The current prompt. Times are whole seconds from now."""

    prompt: str
    v: str  # the public name of the visit
    stage: Stage
    portal: str
    support_contact: str
    look: Look
    step_number: int
    step_count: int
    kinds: tuple[str, ...]
    typed: str
    is_long: bool  # what was typed
    method: str | None
    methods: tuple[str, ...]
    field: str
    digits: int
    has_code: bool
    destination: str
    seconds_left: int
    is_late: bool  # little time is left
    tries_left: int
    sends_left: int
    resend_in_seconds: int
    changes_left: int
    has_trouble: bool
    changed_contact_hours: int  # of the journey (R45)
    seconds_in_all: int  # of the chat
    return_url: str
    chat_app: str
    voice: Voice = described(compare=False)
    purpose: str = ""
    payment: ShownPayment | None = None
    first_method: str = ""  # while naming: the method that the button may take at once, as on the landing page
    has_other_methods: bool = False
    just_sent: bool = False  # on the first page after a message was sent again
    view: Any = None  # of a step without a proof, as its kind describes it
    faults: Mapping[str, str] | None = None  # codes, by the fields of its form


@dataclass(frozen=True)
class MoveResult:
    """What came of a move: on to the next page, over, or the same ``page`` again with a ``note``."""

    page: Page | None = None
    note: str = ""
    is_over: bool = False
    is_sent: bool = False  # a message was sent again
    retry_after_seconds: int = 0


@dataclass(frozen=True)
class KnownVisit:
    """A visit that a browser has of the link that it opens: under way (``started``) or over (``done``)."""

    state: str
    v: str  # its public name
    typed: str = ""
    method: str | None = None
    has_code: bool = False  # a code that was sent still works
    prompt: str = ""
    changes_left: int = 0
    outcome: str = ""
    delivery: str = ""  # the state of the result's delivery
    is_chat_over: bool = False
    return_url: str = ""
    ended_at: datetime | None = None  # UTC
    ended_time: str = ""  # in the portal's time zone, such as 17:08
    is_today: bool = False  # there


def known_by(page: Page) -> KnownVisit:
    """Return a visit under way as the landing page shows it, by its current page."""
    return KnownVisit("started", page.v, page.typed, page.method, page.has_code, page.prompt, page.changes_left)


CURRENT_PROMPT = MoveResult()  # the browser is sent to the prompt of its visit as it is now
OVER = MoveResult(is_over=True)
RESENT = MoveResult(is_sent=True)


def stay(
    work: Work,
    case: Case,
    snapshot: Snapshot,
    methods: Mapping[str, Method],
    note: str = "",
    typed: Any = None,
    faults: Mapping[str, str] | None = None,
) -> MoveResult:
    """Return the page of a case, with a note on what was wrong; for a step without a proof, with what was typed."""
    page = page_of(work, case, snapshot, methods)
    if case.method is None and case.present.stage:
        view = case.present.view(case.given_here, moment(work, case, snapshot), typed)
        page = replace(page, view=view, faults=faults or {})
    return MoveResult(page, note)


def page_of(work: Work, case: Case, snapshot: Snapshot, methods: Mapping[str, Method]) -> Page:
    """Return the page of a case. ``methods`` holds every method by its name."""
    journey, portal, method, now = case.journey, snapshot.portal, methods.get(case.method or ""), work.now
    offered, carries = case.offered(snapshot), CARRIES.get(case.method or "")
    look, channel = snapshot.look(journey), snapshot.channel_for(journey, carries) if carries else None
    failing, ticket = {"name": channel.name if channel else "", "since": now - TROUBLE_TIME}, case.ticket
    sealed, seconds_left = case.identifier_sealed, max(0, int((case.proofs_until - now).total_seconds()))
    typed = work.keyring.open(sealed, VISIT_IDENTIFIER, case.visit_id) if sealed is not None else ""
    # By the channel's state alone, which is the same for everyone (R24).
    has_trouble = channel is not None and work.row(_TROUBLE, failing) is not None
    code, stage = case.valid_code(now), case.stage
    is_asked_next = stage is Stage.NAMING and journey.steps[case.step + 1].proves
    first_methods = replace(case, step=case.step + 1).offered(snapshot) if is_asked_next else ()
    return Page(
        prompt=case.prompt,
        stage=stage,
        portal=portal.name,
        support_contact=portal.support_contact,
        look=look,
        step_number=0 if stage is Stage.NAMING else journey.step_numbers[case.step],
        step_count=journey.step_numbers[-1],
        kinds=journey.identifiers,
        method=case.method,
        methods=offered,
        first_method=next(iter(first_methods), ""),
        has_other_methods=len(first_methods) > 1,
        has_code=code is not None,
        destination=case.shown_contact(carries or "", work.keyring),
        seconds_left=seconds_left,
        is_late=seconds_left <= LATE_SECONDS,
        tries_left=case.tries_left,
        sends_left=case.sends_left,
        resend_in_seconds=case.resend_in_seconds(now),
        changes_left=case.changes_left,
        voice=case.voice,
        has_trouble=has_trouble,
        changed_contact_hours=journey.limits.changed_contact_hours,
        seconds_in_all=journey.chat_seconds,
        return_url=journey.return_url,
        chat_app=journey.chat_app,
        purpose=ticket.purpose(work.keyring) if ticket is not None else "",
        payment=ticket.shown_payment(work.keyring, portal.default_region) if ticket is not None else None,
        field=method.field if method else "identifier",
        digits=method.length(case.code_digits) if method else 0,
        v=case.label,
        typed=typed,
        is_long=len(typed) > LONGEST_UNBROKEN,
    )
