"""What the page of the current prompt shows, as one value. Nothing in it depends on who was found (R24)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from auth_portal.crypto import Keyring
from auth_portal.methods import CARRIES
from auth_portal.methods.contract import Method
from auth_portal.services.cases import Case, Stage, offered
from auth_portal.services.directory.customers import mask_contact
from auth_portal.services.journeys import Snapshot
from auth_portal.store.models import ChannelState

TROUBLE_FAILURES = 2  # failures in a row after which customers are told that a channel is slow or down
TROUBLE_SECONDS = 600  # and for how long after the last of them


@dataclass(frozen=True)
class Page:
    """The current prompt. Times are whole seconds from now."""

    prompt: str
    stage: Stage
    journey: str
    slug: str
    portal: str
    support_contact: str
    logo: str
    colour: str
    step_number: int
    step_count: int
    kinds: tuple[str, ...]
    typed: str
    method: str | None
    methods: tuple[str, ...]
    field: str
    digits: int
    is_message: bool
    has_code: bool
    destination: str
    code_seconds_left: int
    seconds_left: int
    tries_left: int
    sends_left: int
    resend_in_seconds: int
    changes_left: int
    has_trouble: bool
    purpose: str = ""


def is_in_trouble(connection: Connection, case: Case, snapshot: Snapshot, now: datetime) -> bool:
    """Whether the channel behind the case's method is slow or down: the channel's state, the same for everybody."""
    carries = CARRIES.get(case.method or "")
    channel = snapshot.channel_for(case.journey, carries) if carries else None
    if channel is None:
        return False
    failing = select(ChannelState.name).where(
        ChannelState.name == channel.name,
        ChannelState.failures_in_row >= TROUBLE_FAILURES,
        ChannelState.failed_at > now - timedelta(seconds=TROUBLE_SECONDS),
    )
    return connection.execute(failing).first() is not None


def page_of(
    case: Case, snapshot: Snapshot, methods: Mapping[str, Method], keyring: Keyring, now: datetime, *, has_trouble: bool
) -> Page:
    """The page of a case."""
    method = methods.get(case.method or "")
    issued = case.in_force(now)
    return Page(
        prompt=case.prompt,
        stage=case.stage,
        journey=case.journey.name,
        slug=case.journey.slug,
        portal=snapshot.portal.name,
        support_contact=snapshot.portal.support_contact,
        logo=case.journey.logo,
        colour=case.journey.colour,
        step_number=case.step,
        step_count=len(case.journey.verify_steps),
        kinds=case.journey.first_step.by,
        typed=_typed(case, keyring),
        method=case.method,
        methods=offered(case, snapshot) if case.step else (),
        field=method.field if method else "identifier",
        digits=method.length(case.code_digits) if method else 0,
        is_message=case.method in CARRIES,
        has_code=issued is not None,
        destination=_destination(case, keyring),
        code_seconds_left=int((issued.expires_at - now).total_seconds()) if issued else 0,
        seconds_left=max(0, int((case.proofs_until - now).total_seconds())),
        tries_left=case.tries_left,
        sends_left=case.sends_left,
        resend_in_seconds=case.resend_in_seconds(now),
        changes_left=case.changes_left,
        has_trouble=has_trouble,
        purpose=case.ticket.purpose(keyring) if case.ticket is not None else "",
    )


def _typed(case: Case, keyring: Keyring) -> str:
    if case.identifier_sealed is None:
        return ""
    return keyring.open(case.identifier_sealed, "visits", case.visit_id, "identifier")


def _destination(case: Case, keyring: Keyring) -> str:
    """Where the code went, masked, and only after a first proof, or where a ticket and nobody else says who it is."""
    carries = CARRIES.get(case.method or "")
    if carries is None or not (case.proved or case.is_named_by_ticket) or not case.person.has_contact(carries):
        return ""
    return mask_contact(case.person.contact(carries, keyring))
