"""The tables of journeys: what is live, and how a change becomes a version.

A version is never changed, so that a verification ends under the one it began with. Whether a journey may be as it
is wanted to be is asked in ``config.rules``; nothing here decides that. Nor does anything here tell the running
servers: whoever writes raises ``Portal.version`` in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, insert, select, update

from auth_portal.errors import NotFound
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.store.db import new_id
from auth_portal.store.models import Delivery, Journey, JourneyVersion, Verification

NOTE_LENGTH = 200  # characters


class StoredJourney(NamedTuple):
    """The live version of a journey."""

    id: str
    number: int
    config: JourneyConfig


class Author(NamedTuple):
    """Whose change it is (None for a command), and why."""

    admin_id: str | None = None
    note: str = ""


def stored_journeys(connection: Connection) -> dict[str, StoredJourney]:
    """Every journey that was not deleted, by slug."""
    live = (
        select(Journey, JourneyVersion.number, JourneyVersion.document)
        .join(JourneyVersion, JourneyVersion.id == Journey.version_id)
        .where(Journey.deleted_at.is_(None))
        .order_by(Journey.slug)
    )
    found = {}
    for row in connection.execute(live):
        document = {**row.document, "active": row.is_active, "default": row.is_default}
        found[row.slug] = StoredJourney(row.id, row.number, JourneyConfig.model_validate_json(json.dumps(document)))
    return found


def lingering_journeys(connection: Connection, live: Collection[str]) -> Iterator[JourneyConfig]:
    """What answers the chat beside the live versions.

    The links of a deleted journey still do, as those of one that is off, unless another has its name now; and what is
    under way ends under the version that it began with, which is given as ``active``: it alone can still verify.
    """
    document = select(JourneyVersion.document)
    deleted = document.join(Journey, Journey.version_id == JourneyVersion.id).where(
        Journey.deleted_at.is_not(None), Journey.slug.not_in(list(live))
    )
    begun = select(Verification.version_id).where(Verification.outcome.is_(None))
    untold = (
        select(Verification.version_id)
        .join(Delivery, Delivery.verification_id == Verification.id)
        .where(Delivery.state == "pending", Delivery.kind == "callback")
    )
    under_way = document.where(JourneyVersion.id.in_(begun.union(untold)))
    for found, is_active in ((deleted, False), (under_way, True)):
        for text in connection.execute(found).scalars():
            yield JourneyConfig.model_validate_json(json.dumps({**text, "active": is_active}))


def journey_id_of(connection: Connection, slug: str) -> str:
    """The id of a journey that was not deleted. Raises NotFound."""
    found = select(Journey.id).where(Journey.slug == slug, Journey.deleted_at.is_(None))
    journey_id = connection.execute(found).scalar_one_or_none()
    if journey_id is None:
        raise NotFound("not_found")
    return journey_id


def write_journeys(
    connection: Connection,
    stored: Mapping[str, StoredJourney],
    wanted: Mapping[str, JourneyConfig],
    now: datetime,
    author: Author = Author(),  # noqa: B008 - a value without a state
) -> Iterator[tuple[str, str]]:
    """Makes journeys what they should be, each change a new version; gives each slug and what was done."""
    for slug, config in wanted.items():
        before = stored.get(slug)
        if before is None:
            _insert(connection, config, now, author)
            yield slug, "added"
        elif before.config != config:
            _change(connection, before, config, now, author)
            yield slug, _done(before.config, config)


def _insert(connection: Connection, config: JourneyConfig, now: datetime, author: Author) -> None:
    journey_id, version_id = new_id(now), new_id(now)
    row = {"version_id": version_id, "is_active": config.active, "is_default": config.default}
    connection.execute(insert(Journey).values(id=journey_id, slug=config.slug, **row))
    _add_version(connection, version_id, journey_id, 1, config, now, author)


def _change(
    connection: Connection, before: StoredJourney, config: JourneyConfig, now: datetime, author: Author
) -> None:
    version_id = new_id(now)
    row = {"version_id": version_id, "is_active": config.active, "is_default": config.default}
    connection.execute(update(Journey).where(Journey.id == before.id).values(row))
    _add_version(connection, version_id, before.id, before.number + 1, config, now, author)


def _add_version(
    connection: Connection, version_id: str, journey_id: str, number: int, config: JourneyConfig, now: datetime,
    author: Author,
) -> None:  # fmt: skip
    connection.execute(
        insert(JourneyVersion).values(
            id=version_id,
            journey_id=journey_id,
            number=number,
            document=config.model_dump(mode="json"),
            created_at=now,
            made_by=author.admin_id,
            note=author.note[:NOTE_LENGTH],
        )
    )


def _done(before: JourneyConfig, config: JourneyConfig) -> str:
    if before.active != config.active:
        return "switched on" if config.active else "switched off"
    if before.model_copy(update={"default": config.default}) == config:
        return "is the default now" if config.default else "is the default no more"
    return "changed"
