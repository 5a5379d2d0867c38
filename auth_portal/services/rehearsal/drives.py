"""Test drives: an admin goes through a journey as a customer would, in a separate portal (``drive_world``).

A drive belongs to the admin who began it: no other person sees its codes or can open its pages. Its link leads to
``/drive/<drive_id>``, where the customer's pages are mounted a second time. One sealed row stores a drive until its
chat clock has run out. Requests for one drive are served one after another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyotp
from sqlalchemy import and_, delete, insert, or_, select, update

from auth_portal.errors import Gone, Problem
from auth_portal.services.config.journey import CHAT_CODE, JourneyConfig
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.rehearsal.drive_world import (
    BuildPortal,
    DriveState,
    DriveWorld,
    SentCallback,
    SentMessage,
    TestPerson,
    new_state,
    open_world,
    prepare_drive,
)
from auth_portal.services.rehearsal.flow_setup import variable_of
from auth_portal.store.db import Transactions, expected_revision
from auth_portal.store.models import DRIVE_STATE, DRIVES_STORED, DriveRow, table_of

LEASE_SECONDS = 10  # longer than any request of a drive; after a killed one, the next waits for so long
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
    ticket: Mapping[str, str]  # what the flow's API node sent before the link; empty for a flow without one
    ticket_link: str  # from the response to it
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
        """Return every method of the journey."""
        return frozenset(method for step in self.journey.verify_steps for method in step.methods)

    @property
    def successes(self) -> tuple[str, ...]:
        """Return the results that let the flow continue."""
        return tuple(self.journey.results[outcome] for outcome in self.journey.passing)


class Drives:
    """Begin, serve and end test drives; the only writer of the table ``drives``."""

    def __init__(
        self,
        transactions: Transactions,
        journeys: Journeys,
        read_logo: Callable[[str], bytes],
        build_portal: BuildPortal,
        public_url: str,
    ) -> None:
        self._transactions = transactions
        self._journeys = journeys
        self._read_logo = read_logo
        self._build_portal = build_portal
        self._public_url = public_url

    def begin(self, admin_id: str, journey: JourneyConfig, of: str, locale: str = "") -> str:
        """Begin a drive of a journey and return its id. The admin's drive before it ends.

        ``of`` is ``live`` or ``draft``, for the audit; the link asks for ``locale``, if given. Raise BadConfig for a
        journey that cannot be live, and Problem if the drive's portal registers no ticket for it.
        """
        clock, snapshot = self._transactions.clock, self._journeys.current()
        state = new_state(journey, snapshot, ends_at=clock() + timedelta(seconds=journey.chat_seconds), of=of)
        state.locale = locale
        its, own = snapshot.portal, (journey.logo, journey.logo_dark)
        logos = [self._read_logo(digest) for digest in {*own, its.logo, its.logo_dark} if digest]
        prepare_drive(state, snapshot, clock, self._build_portal, logos)
        with self._transactions.write() as work:
            drive_id = work.new_id()
            row = {
                "id": drive_id,
                "admin_id": admin_id,
                "slug": journey.slug,
                "made_at": work.now,
                "ends_at": state.ends_at,
                "revision": expected_revision(),
                "state_sealed": work.seal(state.model_dump_json(), DRIVE_STATE, drive_id),
            }
            work.execute(delete(_DRIVES).where(or_(_DRIVES.c.admin_id == admin_id, _is_old(work.now))))
            work.execute(insert(_DRIVES).values(row))
            work.record("drive_began", admin_id=admin_id, journey=journey.slug, of=of)
        return drive_id

    @contextmanager
    def open(self, drive_id: str, admin_id: str) -> Iterator[DriveWorld]:
        """Yield the world of a live drive, for one request of its admin's browser.

        Raise Gone if the drive is over or belongs to another admin, and Problem if another request takes too long.
        """
        with self._lease(drive_id, admin_id) as state:
            if self._transactions.clock() >= state.ends_at:
                raise Gone("drive_over")
            with self._open_world(state) as world:
                yield world

    def _open_world(self, state: DriveState) -> AbstractContextManager[DriveWorld]:
        return open_world(state, self._transactions.clock, self._build_portal)

    def look(self, drive_id: str, admin_id: str) -> DriveView:
        """Return a drive as it stands, after what was due in it happened. Raise Gone as ``open`` does."""
        with self._lease(drive_id, admin_id) as state:
            with self._open_world(state):
                pass
            return self._view(drive_id, state)

    def type_code(self, drive_id: str, admin_id: str, typed: str) -> None:
        """Type the chat code into the chat, as the flow would take it; ignored if the chat asks for none."""
        with self._lease(drive_id, admin_id) as state:
            view = self._view(drive_id, state)
            if view.stage == "code" and typed and view.answer is not None:
                code = view.answer.content["data"].get(variable_of(state.journey, CHAT_CODE), "")
                digits = "".join(char for char in typed if char.isascii() and char.isdigit())
                state.codes_typed.append(digits == code)

    def ask_again(self, drive_id: str, admin_id: str) -> None:
        """Let the flow come back to its node and issue the same reference, with a new ticket if it needs one."""
        with self._lease(drive_id, admin_id) as state:
            if self._transactions.clock() >= state.ends_at:
                return
            state.is_waiting, state.codes_typed = True, []
            if state.ticket:
                with self._open_world(state) as world:
                    world.register_ticket()

    def end(self, drive_id: str, admin_id: str) -> None:
        """End a drive and delete all of it."""
        with self._transactions.write() as work:
            work.execute(delete(_DRIVES).where(_DRIVES.c.id == drive_id, _DRIVES.c.admin_id == admin_id))

    # --- The row

    @contextmanager
    def _lease(self, drive_id: str, admin_id: str) -> Iterator[DriveState]:
        """Yield a drive's state under a lease; it is stored when the block ends without an exception."""
        until, sealed = self._take_lease(drive_id, admin_id)
        state = DriveState.model_validate_json(self._transactions.keyring.open(sealed, DRIVE_STATE, drive_id))
        values: dict[str, Any] = {}
        passed_now = False
        try:
            yield state
            passed_now = not state.has_passed and _stage(state, _answer(state), self._transactions.clock()) == "passed"
            state.has_passed = state.has_passed or passed_now
            values["state_sealed"] = self._transactions.keyring.seal(state.model_dump_json(), DRIVE_STATE, drive_id)
        finally:
            mine = and_(_DRIVES.c.id == drive_id, _DRIVES.c.leased_until == until)
            with self._transactions.write() as work:
                work.execute(update(_DRIVES).where(mine).values(leased_until=None, **values))
                if passed_now:
                    work.record("drive_passed", admin_id=admin_id, journey=state.journey.slug, of=state.of)

    def _take_lease(self, drive_id: str, admin_id: str) -> tuple[datetime, bytes]:
        """Return the end of the lease and the sealed state. Raise Gone or Problem as ``open`` does."""
        give_up_at = time.monotonic() + WAIT_SECONDS
        while True:
            with self._transactions.write() as work:
                until = work.now + timedelta(seconds=LEASE_SECONDS)
                own = _DRIVES.c.id == drive_id, _DRIVES.c.admin_id == admin_id, ~_is_old(work.now)
                is_free = or_(_DRIVES.c.leased_until.is_(None), _DRIVES.c.leased_until <= work.now)
                taken = update(_DRIVES).where(*own, is_free).values(leased_until=until)
                row = work.execute(taken.returning(_DRIVES.c.state_sealed, _DRIVES.c.revision)).one_or_none()
                is_there = row is not None or work.execute(select(_DRIVES.c.id).where(*own)).first() is not None
            if not is_there or (row is not None and row.revision != expected_revision()):
                raise Gone("drive_over")
            if row is not None:
                return until, row.state_sealed
            if time.monotonic() > give_up_at:
                raise Problem("unavailable", status=503)
            time.sleep(LOOK_SECONDS)

    def _view(self, drive_id: str, state: DriveState) -> DriveView:
        now, answer = self._transactions.clock(), _answer(state)
        ticket_link = f"{self._public_url}/drive/{drive_id}{state.path}"
        return DriveView(
            id=drive_id,
            journey=state.journey,
            business=state.business,
            of=state.of,
            link=f"{ticket_link}?{f'lang={state.locale}&' if state.locale else ''}reference={state.reference}",
            ticket=state.ticket,
            ticket_link=ticket_link,
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
    return _DRIVES.c.ends_at < now - DRIVES_STORED


def _answer(state: DriveState) -> SentCallback | None:
    if state.is_waiting:
        return None
    return next(found for found in reversed(state.callbacks) if found.is_accepted)


def _stage(state: DriveState, answer: SentCallback | None, now: datetime) -> str:
    """Return where the flow stands, if its author built it as the setup panel says."""
    if answer is None:
        return "waiting" if now < state.ends_at else "ended"
    if answer.content["result"] not in [state.journey.results[outcome] for outcome in state.journey.passing]:
        return "stopped"
    if not state.journey.defence.makes_chat_code or any(state.codes_typed):
        return "passed"
    if len(state.codes_typed) >= CODE_TRIES:
        return "stopped"
    return "code" if now < state.ends_at else "ended"
