"""Changing one journey: every act is a new version under the same rules as an import of the config file.

Refuses what the rules refuse, and to write over what somebody else saved in the meantime: whoever edits says which
version they began with, and is shown what differs instead. A deleted journey goes on to end what was begun with it,
and its links tell the chat ``unavailable``; its name may be used again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select, update

from auth_portal.clock import Clock
from auth_portal.errors import NotFound
from auth_portal.services import outbox
from auth_portal.services.config import logos
from auth_portal.services.config.changes import TOLD, Change
from auth_portal.services.config.configuration import Configuration, Stored
from auth_portal.services.config.differences import Difference, differences
from auth_portal.services.config.file import ConfigFile, Fault, Faults, parse
from auth_portal.services.config.journey import JourneyConfig, default_success
from auth_portal.services.config.journey_history import Edition, document_of, edition
from auth_portal.services.config.journey_rows import Author, StoredJourney, journey_id_of
from auth_portal.services.config.rules import Wanted
from auth_portal.store.db import Database
from auth_portal.store.models import Delivery, Journey, JourneyVersion, Verification


@dataclass(frozen=True)
class Edit:
    """What an admin wants a journey to be.

    ``values`` are what the config file would say of it; ``based_on`` is the number of the version that they began
    with, 0 for a new journey.
    """

    values: Mapping[str, Any]
    author: Author
    based_on: int = 0

    @property
    def slug(self) -> str:
        """The journey's name in links, as it was typed."""
        return str(self.values.get("slug", ""))


@dataclass(frozen=True)
class Newer:
    """What somebody else saved since: the version, and what differs from the one this edit began with."""

    edition: Edition
    theirs: tuple[Difference, ...]
    typed: tuple[Difference, ...]


@dataclass(frozen=True)
class Proposal:
    """An edit held against what is stored: its faults, or what it would change."""

    config: JourneyConfig | None = None
    number: int = 0  # of the stored version; 0 where there is none
    faults: tuple[Fault, ...] = ()
    newer: Newer | None = None
    changes: tuple[Difference, ...] = field(default=())

    @property
    def is_fine(self) -> bool:
        """Whether it can be saved."""
        return not self.faults and self.newer is None

    @property
    def is_guarded(self) -> bool:
        """Whether it changes what an attacker would change: then the second factor is asked for (R19)."""
        return self.number == 0 or any(change.key.startswith(TOLD["journey"]) for change in self.changes)


class Hanging(NamedTuple):
    """What hangs on a journey: verifications under way, and answers that have not yet reached the chat."""

    under_way: int
    undelivered: int


class JourneyEditor:
    """Every act on a single journey."""

    def __init__(self, database: Database, clock: Clock, configuration: Configuration) -> None:
        self._database = database
        self._clock = clock
        self._configuration = configuration

    def read(self, values: Mapping[str, Any]) -> tuple[JourneyConfig | None, Sequence[Fault]]:
        """What values say by themselves, or what is wrong with them. Asks nothing of what is stored."""
        faults = Faults("")
        return parse(JourneyConfig, values, "", faults), faults.found

    def propose(self, edit: Edit) -> Proposal:
        """Holds an edit against the rules and what is stored. Writes nothing. Raises NotFound for the journey."""
        with self._database.read() as connection:
            return self._proposed(connection, edit, self._configuration.stored(connection, locked=False))[0]

    def save(self, edit: Edit) -> Proposal:
        """Writes an edit as a new version, unless its proposal has faults or a newer version is there."""
        with self._database.write() as connection:
            stored = self._configuration.stored(connection, locked=True)
            proposal, wanted = self._proposed(connection, edit, stored)
            if wanted is not None and proposal.is_fine:
                kind = "journey_changed" if proposal.number else "journey_created"
                self._configuration.apply(connection, stored, wanted, kind, edit.author)
        return proposal

    def _proposed(self, connection: Connection, edit: Edit, stored: Stored) -> tuple[Proposal, Wanted | None]:
        before = _before(stored, edit)
        faults = Faults("")
        config = parse(JourneyConfig, edit.values, "", faults)
        if edit.based_on == 0 and edit.slug in stored.journeys:
            faults.add("", "slug", "is the name of another journey already")
        number = before.number if before else 0
        newer = _newer(connection, edit, before, config.model_dump() if config else edit.values)
        if config is None:
            return Proposal(number=number, faults=tuple(faults.found), newer=newer), None
        wanted = _wanted(stored, config)
        self._configuration.rules.check(_as_file(config), wanted, faults)
        own = tuple(fault for fault in faults.found if fault.table == "")  # not those that others had before
        changes = differences(before.config.model_dump() if before else {}, config.model_dump())
        return Proposal(config, number, own, newer, tuple(changes)), wanted

    # --- Edits made of what is there

    def copied(self, slug: str, new_slug: str, name: str, author: Author) -> Edit:
        """A copy under another name, switched off, so that it can be looked at before anybody meets it."""
        config = self._live(slug).config
        values = config.model_dump() | {"slug": new_slug, "name": name, "active": False, "default": False}
        values["results"] = config.results | {"verified": default_success(values)}
        return Edit(values, author)

    def switched(self, slug: str, author: Author, *, is_active: bool) -> Edit:
        """The journey as it is, switched on or off."""
        stored = self._live(slug)
        return Edit(stored.config.model_dump() | {"active": is_active}, author, stored.number)

    def rolled_back(self, slug: str, number: int, author: Author) -> Edit:
        """What an earlier version said, but on or off, and the default or not, as now. Raises NotFound for it."""
        stored = self._live(slug)
        with self._database.read() as connection:
            document = document_of(connection, stored.id, number)
        now = {"active": stored.config.active, "default": stored.config.default}
        return Edit({**document, **now}, author, stored.number)

    def with_logo(self, slug: str, content: bytes, author: Author) -> Edit:
        """The journey with a picture, which is stored at once, or with none. Raises ValueError in the admin's words."""
        stored = self._live(slug)
        digest = ""
        if content:
            with self._database.write() as connection:
                digest = logos.keep(connection, self._clock(), content)
        return Edit(stored.config.model_dump() | {"logo": digest}, author, stored.number)

    def _live(self, slug: str) -> StoredJourney:
        with self._database.read() as connection:
            found = self._configuration.stored(connection, locked=False).journeys.get(slug)
        if found is None:
            raise NotFound("not_found")
        return found

    # --- Deleting

    def hanging(self, slug: str) -> Hanging:
        """What hangs on a journey. Raises NotFound."""
        with self._database.read() as connection:
            versions = select(JourneyVersion.id).where(JourneyVersion.journey_id == journey_id_of(connection, slug))
            under_way = select(func.count()).where(
                Verification.outcome.is_(None), Verification.version_id.in_(versions)
            )
            undelivered = (
                select(func.count())
                .select_from(Delivery)
                .join(Verification, Verification.id == Delivery.verification_id)
                .where(Delivery.state == outbox.State.PENDING, Delivery.kind == outbox.CALLBACK)
                .where(Verification.version_id.in_(versions))
            )
            return Hanging(connection.execute(under_way).scalar_one(), connection.execute(undelivered).scalar_one())

    def delete(self, slug: str, author: Author) -> None:
        """Takes a journey from the lists and closes its links. What was begun ends under it. Raises NotFound."""
        now = self._clock()
        with self._database.write() as connection:
            stored = self._configuration.stored(connection, locked=True)
            if (journey := stored.journeys.get(slug)) is None:
                raise NotFound("not_found")
            _mark_deleted(connection, journey.id, now)
            change = Change("journey", slug, "deleted")
            self._configuration.publish(connection, stored, now, "journey_deleted", [change], author)


def _before(stored: Stored, edit: Edit) -> StoredJourney | None:
    """The stored journey that is edited; None for a new one. Raises NotFound for one that was deleted meanwhile."""
    if edit.based_on == 0:
        return None
    if (found := stored.journeys.get(edit.slug)) is None:
        raise NotFound("not_found")
    return found


def _newer(connection: Connection, edit: Edit, before: StoredJourney | None, typed: Mapping[str, Any]) -> Newer | None:
    if before is None or before.number == edit.based_on:
        return None
    base = document_of(connection, before.id, edit.based_on)
    return Newer(
        edition(connection, before.id, before.number),
        tuple(differences(base, before.config.model_dump())),
        tuple(differences(base, typed)),
    )


def _wanted(stored: Stored, config: JourneyConfig) -> Wanted:
    now = stored.as_wanted
    journeys = dict(now.journeys)
    if config.default:
        journeys = {slug: other.model_copy(update={"default": False}) for slug, other in journeys.items()}
    return replace(now, journeys={**journeys, config.slug: config})


def _as_file(config: JourneyConfig) -> ConfigFile:
    return ConfigFile(None, (), {config.slug: config}, {config.slug: ""})


def _mark_deleted(connection: Connection, journey_id: str, now: datetime) -> None:
    values = {"deleted_at": now, "is_active": False}
    connection.execute(update(Journey).where(Journey.id == journey_id).values(values))
