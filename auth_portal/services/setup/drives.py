"""Test drives: an admin walks a journey as a customer would, in a portal made for it (``drive_world``).

A drive belongs to the admin who began it: nobody else sees its codes or is let into its pages. Its reference is signed,
so that a link is known as a drive's before anything is looked up, and no reference of a chat is ever taken for one. It
is kept sealed in one row until its chat clock has run out. Refuses two requests at once on one drive: they wait for
each other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyotp
from sqlalchemy import and_, delete, insert, or_, select, update

from auth_portal.crypto import Keyring
from auth_portal.errors import Gone, Problem
from auth_portal.services import audit
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.logos import Logos
from auth_portal.services.journeys import Journeys
from auth_portal.services.operations.retention import DRIVES_KEPT
from auth_portal.services.results import VERIFIED
from auth_portal.services.setup.drive_world import DriveState, Parts, SentCallback, SentMessage, TestPerson, World
from auth_portal.services.setup.drive_world import new_state as new_state_of
from auth_portal.services.setup.drive_world import opened as opened_world
from auth_portal.services.setup.flow_setup import variable_of
from auth_portal.store.db import Database, expected_revision, new_id
from auth_portal.store.models import DriveRow, table_of

PREFIX = "drive-"
PASSED = "drive_passed"  # the audit's word for a drive whose chat went on
LEASE_SECONDS = 10  # longer than any request at a drive; how long a killed one keeps the others waiting
WAIT_SECONDS = 3.0
LOOK_SECONDS = 0.05
CODE_TRIES = 3
TOTP_SECONDS = 30  # RFC 6238, 5.2

_DRIVES = table_of(DriveRow)


@dataclass(frozen=True)
class DriveView:
    """What the page of a drive shows. ``stage``: waiting, code, passed, stopped or ended."""

    id: str
    journey: JourneyConfig
    business: str
    of: str
    link: str
    ticket: Mapping[str, str]  # what the flow's API node sent before the link; nothing for a flow without one
    ticket_link: str  # and what it was answered
    person: TestPerson
    totp_code: str
    totp_seconds_left: int
    stage: str
    seconds_left: int
    messages: Sequence[SentMessage]
    callbacks: Sequence[SentCallback]
    answer: SentCallback | None
    code_tries_left: int

    @property
    def methods(self) -> frozenset[str]:
        """Every way to prove oneself that the journey knows."""
        return frozenset(method for step in self.journey.verify_steps for method in step.any_of)

    @property
    def success(self) -> str:
        """The one result that lets the flow go on."""
        return self.journey.results[VERIFIED]


class Drives:
    """Writes the table ``drives``."""

    def __init__(
        self, database: Database, keyring: Keyring, journeys: Journeys, parts: Parts, *, public_url: str
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._journeys = journeys
        self._parts = parts
        self._public_url = public_url
        self._logos = Logos(database)

    def begin(self, admin_id: str, journey: JourneyConfig, of: str) -> str:
        """A new drive of a journey; gives its id. It ends this admin's drive before it.

        ``of`` says for the audit what is driven, such as ``live``. Raises BadConfig for a journey that cannot be live,
        and Problem where no ticket could be had for it.
        """
        now = self._parts.clock()
        drive_id, ends_at = new_id(now), now + timedelta(seconds=journey.chat_seconds)
        reference = self._keyring.sign("drive", PREFIX + drive_id)
        picture = self._logos.get(journey.logo).content if journey.logo else b""
        state = new_state_of(
            journey, self._journeys.current(), self._parts, reference=reference, ends_at=ends_at, of=of, picture=picture
        )
        row = {
            "id": drive_id, "admin_id": admin_id, "slug": journey.slug, "made_at": now, "ends_at": ends_at,
            "revision": expected_revision(), "state_sealed": self._sealed(drive_id, state),
        }  # fmt: skip
        with self._database.write() as connection:
            connection.execute(delete(_DRIVES).where(or_(_DRIVES.c.admin_id == admin_id, _is_old(now))))
            connection.execute(insert(_DRIVES).values(row))
            audit.record(
                connection, self._keyring, now, "drive_began", admin_id=admin_id, journey=journey.slug, of=of
            )  # fmt: skip
        return drive_id

    def drive_of(self, reference: str) -> str:
        """The id of the drive that a reference belongs to; nothing for any reference that was not made here."""
        if not reference.startswith(PREFIX):
            return ""
        return (self._keyring.verify("drive", reference) or "").removeprefix(PREFIX)

    @contextmanager
    def entered(self, drive_id: str, admin_id: str) -> Iterator[World]:
        """The portal of a live drive, for one request of its admin's browser.

        Raises Gone for a drive that is over or somebody else's, and Problem where another request holds it too long.
        """
        with self._held(drive_id, admin_id) as state:
            if self._parts.clock() >= state.ends_at:
                raise Gone("drive_over")
            with opened_world(state, self._parts) as world:
                yield world

    def look(self, drive_id: str, admin_id: str) -> DriveView:
        """A drive as it stands, after what was due in it happened. Raises Gone as ``entered`` does."""
        with self._held(drive_id, admin_id) as state:
            with opened_world(state, self._parts):
                pass
            return self._view(drive_id, state)

    def type_code(self, drive_id: str, admin_id: str, typed: str) -> None:
        """The chat code, typed into the chat as the flow would take it; nothing where none is asked for."""
        with self._held(drive_id, admin_id) as state:
            view = self._view(drive_id, state)
            if view.stage == "code" and typed and view.answer is not None:
                state.codes_typed.append(_digits(typed) == _chat_code(state.journey, view.answer))

    def ask_again(self, drive_id: str, admin_id: str) -> None:
        """The flow comes back to its node and issues the same reference; where it needs a ticket, with a new one."""
        with self._held(drive_id, admin_id) as state:
            if self._parts.clock() >= state.ends_at:
                return
            state.is_waiting, state.codes_typed = True, []
            if state.ticket:
                with opened_world(state, self._parts) as world:
                    world.register_ticket()

    def end(self, drive_id: str, admin_id: str) -> None:
        """Ends a drive and forgets all of it."""
        with self._database.write() as connection:
            connection.execute(delete(_DRIVES).where(_DRIVES.c.id == drive_id, _DRIVES.c.admin_id == admin_id))

    # --- The row

    @contextmanager
    def _held(self, drive_id: str, admin_id: str) -> Iterator[DriveState]:
        """A drive's state under a lease; written back when the block ends without an exception."""
        until, sealed = self._lease(drive_id, admin_id)
        state = DriveState.model_validate_json(self._keyring.open(sealed, "drives", drive_id, "state"))
        values: dict[str, Any] = {}
        passed_now = False
        try:
            yield state
            passed_now = self._passes_now(state)
            values["state_sealed"] = self._sealed(drive_id, state)
        finally:
            mine = and_(_DRIVES.c.id == drive_id, _DRIVES.c.leased_until == until)
            with self._database.write() as connection:
                connection.execute(update(_DRIVES).where(mine).values(leased_until=None, **values))
                if passed_now:
                    audit.record(
                        connection, self._keyring, self._parts.clock(), PASSED,
                        admin_id=admin_id, journey=state.journey.slug, of=state.of,
                    )  # fmt: skip

    def _passes_now(self, state: DriveState) -> bool:
        is_first = not state.has_passed and _stage(state, _answer(state), self._parts.clock()) == "passed"
        state.has_passed = state.has_passed or is_first
        return is_first

    def _lease(self, drive_id: str, admin_id: str) -> tuple[datetime, bytes]:
        give_up_at = time.monotonic() + WAIT_SECONDS
        while True:
            now = self._parts.clock()
            until = now + timedelta(seconds=LEASE_SECONDS)
            own = _DRIVES.c.id == drive_id, _DRIVES.c.admin_id == admin_id, ~_is_old(now)
            is_free = or_(_DRIVES.c.leased_until.is_(None), _DRIVES.c.leased_until <= now)
            with self._database.write() as connection:
                taken = update(_DRIVES).where(*own, is_free).values(leased_until=until)
                row = connection.execute(taken.returning(_DRIVES.c.state_sealed, _DRIVES.c.revision)).one_or_none()
                is_there = row is not None or connection.execute(select(_DRIVES.c.id).where(*own)).first() is not None
            if not is_there or (row is not None and row.revision != expected_revision()):
                raise Gone("drive_over")
            if row is not None:
                return until, row.state_sealed
            if time.monotonic() > give_up_at:
                raise Problem("unavailable", status=503)
            time.sleep(LOOK_SECONDS)

    def _sealed(self, drive_id: str, state: DriveState) -> bytes:
        return self._keyring.seal(state.model_dump_json(), "drives", drive_id, "state")

    def _view(self, drive_id: str, state: DriveState) -> DriveView:
        now = self._parts.clock()
        answer = _answer(state)
        return DriveView(
            id=drive_id,
            journey=state.journey,
            business=state.business,
            of=state.of,
            link=f"{self._public_url}{state.path}?reference={state.reference}",
            ticket=state.ticket,
            ticket_link=f"{self._public_url}{state.path}",
            person=state.person,
            totp_code=pyotp.TOTP(state.person.totp_secret).at(now),
            totp_seconds_left=TOTP_SECONDS - int(now.timestamp()) % TOTP_SECONDS,
            stage=_stage(state, answer, now),
            seconds_left=max(0, int((state.ends_at - now).total_seconds())),
            messages=state.messages,
            callbacks=state.callbacks,
            answer=answer,
            code_tries_left=CODE_TRIES - len(state.codes_typed),
        )


def _is_old(now: datetime) -> Any:
    return _DRIVES.c.ends_at < now - DRIVES_KEPT


def _answer(state: DriveState) -> SentCallback | None:
    if state.is_waiting:
        return None
    return next(found for found in reversed(state.callbacks) if found.is_accepted)


def _stage(state: DriveState, answer: SentCallback | None, now: datetime) -> str:
    """Where the flow stands, as an author who follows the setup panel built it."""
    if answer is None:
        return "waiting" if now < state.ends_at else "ended"
    if answer.content["result"] != state.journey.results[VERIFIED]:
        return "stopped"
    if state.journey.relay_defence != "chat_code" or any(state.codes_typed):
        return "passed"
    if len(state.codes_typed) >= CODE_TRIES:
        return "stopped"
    return "code" if now < state.ends_at else "ended"


def _chat_code(journey: JourneyConfig, answer: SentCallback) -> str:
    data: Mapping[str, str] = answer.content["data"]
    return data.get(variable_of(journey, "chat_code"), "")


def _digits(typed: str) -> str:
    return "".join(char for char in typed if char.isascii() and char.isdigit())
