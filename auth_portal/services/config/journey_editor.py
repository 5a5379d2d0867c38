"""One journey on its page: every change is a new version, under the same rules as an import of the config file.

A deleted journey still ends what began under it, and its links answer chats with ``unavailable``; its name may be used
again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import func, select

from auth_portal.services.config.changes import Author, Newer, journey_change
from auth_portal.services.config.configuration import Configuration, Edit, EditPlan
from auth_portal.services.config.file import Fault, Faults, parse
from auth_portal.services.config.history import document_of, edition
from auth_portal.services.config.journey import JourneyConfig, default_success
from auth_portal.services.config.store import (
    StoredConfig,
    StoredJourney,
    delete_journey,
    journey_id_of,
    read_stored,
    unchanged_journey,
)
from auth_portal.services.config.wording import OwnText, TextField, fault_of, fields_of
from auth_portal.store.db import Transactions, Work
from auth_portal.store.models import CALLBACK, Delivery, DeliveryState, JourneyVersion, Verification


@dataclass(frozen=True)
class JourneyEdit(Edit):
    """What an admin wants a journey to be; ``based_on`` is the version that the form was made from, 0 for a new one."""

    based_on: int = 0

    @property
    def slug(self) -> str:
        """Return the journey's name in links, as it was typed."""
        return str(self.values.get("slug", ""))

    def plan(self, work: Work, stored: StoredConfig, faults: Faults) -> EditPlan | None:
        """Return the new version. Raise NotFound for a journey that was deleted in the meantime."""
        before = stored.journey(self.slug) if self.based_on else None
        if before is not None and self.values == before.config.model_dump() | {"active": False}:
            config: JourneyConfig | None = before.config.model_copy(
                update={"active": False}
            )  # whatever is wrong with it
        else:
            config = parse(JourneyConfig, self.values, "", faults)
        if before is None and self.slug in stored.journeys:
            faults.add("", "slug", "is already the name of another journey")
        if config is None:
            return None
        now = stored.as_wanted
        journeys = dict(now.journeys)
        if config.default:
            journeys = {slug: other.model_copy(update={"default": False}) for slug, other in journeys.items()}
        return EditPlan(
            replace(now, journeys={**journeys, config.slug: config}),
            journey_change("changed" if before else "added", before.config if before else None, config),
            "journey_changed" if before else "journey_created",
            before.number if before else 0,
        )

    def is_outdated(self, work: Work, stored: StoredConfig, plan: EditPlan) -> bool:
        """Report whether another version is stored than the one that the form was made from."""
        return self.based_on != 0 and self.based_on != stored.journey(self.slug).number

    def newer(self, work: Work, stored: StoredConfig, plan: EditPlan) -> Newer:
        """Return the stored version: what it changed in the one that the form was made from, and what the form did."""
        journey = stored.journey(self.slug)
        base = document_of(work, journey.id, self.based_on)
        config = parse(JourneyConfig, self.values, "", Faults(""))
        now, typed = journey.config.model_dump(), config.model_dump() if config else {}
        number, at, by, note = edition(work, journey.id, journey.number)
        return Newer.of(base, now, typed, by=by, at=at, note=note, number=number)

    def is_reported(self, table: str) -> bool:
        """Report whether a fault is one of this journey: others may have had theirs before."""
        return table == ""


class Unfinished(NamedTuple):
    """What a journey still has to end: verifications in progress, and results that have not reached the chat."""

    under_way: int
    undelivered: int


class TextsForm(NamedTuple):
    """A journey, the number of its version, and the texts that are edited."""

    journey: JourneyConfig
    number: int
    fields: Sequence[TextField]


class WordedEdit(NamedTuple):
    """The edit that changes a journey's texts, what is wrong with them, by their keys, and which were changed.

    ``both`` are those that have become something else since the form was made, too.
    """

    edit: JourneyEdit
    faults: Mapping[str, str]
    changed: frozenset[str]
    both: frozenset[str]


class JourneyEditor:
    """Make edits of what is stored, and delete journeys. ``Configuration.save`` saves an edit."""

    def __init__(self, transactions: Transactions, configuration: Configuration) -> None:
        self._transactions = transactions
        self._configuration = configuration

    def read(self, values: Mapping[str, Any]) -> tuple[JourneyConfig | None, Sequence[Fault]]:
        """Return what values say by themselves, or what is wrong with them, whatever is stored."""
        faults = Faults("")
        return parse(JourneyConfig, values, "", faults), faults.found

    def copied(self, slug: str, new_slug: str, name: str, author: Author) -> JourneyEdit:
        """Return a copy under another name, switched off so that no customer meets it before it was looked at.

        Raise Conflict("row_changed") if someone other than the portal has changed the journey.
        """
        stored = self._stored(slug)
        with self._transactions.read() as work:
            unchanged_journey(work, stored)
        config = stored.config
        values = config.model_dump() | {"slug": new_slug, "name": name, "active": False, "default": False}
        values["results"] = config.results | {"verified": default_success(values)}
        return JourneyEdit(values, author)

    def switched(self, slug: str, author: Author, *, is_active: bool) -> JourneyEdit:
        """Return the journey as it is, switched on or off. Raise NotFound."""
        stored = self._stored(slug)
        return JourneyEdit(stored.config.model_dump() | {"active": is_active}, author, stored.number)

    def rolled_back(self, slug: str, number: int, author: Author) -> JourneyEdit:
        """Return an earlier version, but on or off, and the default or not, as now. Raise NotFound."""
        stored = self._stored(slug)
        with self._transactions.read() as work:
            document = document_of(work, stored.id, number)
        now = {"active": stored.config.active, "default": stored.config.default}
        return JourneyEdit({**document, **now}, author, stored.number)

    def with_logo(self, slug: str, content: bytes, author: Author, *, which: str = "logo") -> JourneyEdit:
        """Return the journey with a ``logo`` or ``logo_dark``, which is stored now, or with none.

        Raise ValueError with a reason.
        """
        stored = self._stored(slug)
        digest = self._configuration.take_logo(content)
        return JourneyEdit(stored.config.model_dump() | {which: digest}, author, stored.number)

    def texts(self, slug: str, language: str, part: str) -> TextsForm:
        """Return the texts of one part of a journey (one of ``PARTS``) in a language. Raise NotFound."""
        stored = self._stored(slug)
        config, texts = stored.config, {"name": stored.config.name, **stored.config.texts.model_dump()}
        return TextsForm(config, stored.number, fields_of(config.wording, language, part, texts))

    def worded(
        self, form: TextsForm, language: str, typed: Mapping[str, OwnText | None], author: Author, based_on: int
    ) -> WordedEdit:
        """Return a journey with other texts in a language: None for ours. What is wrong is named by the text's key.

        ``based_on`` is the version that the form was made from. A text that is as it was there stays as it is stored
        now.
        """
        with self._transactions.read() as work:
            base = document_of(work, self._stored(form.journey.slug).id, based_on).get("wording", {}).get(language, {})
        typed = {key: value for key, value in typed.items() if (value or None) != base.get(key)}
        stored = form.journey.wording.get(language, {})
        both = frozenset(key for key in typed if base.get(key) != stored.get(key) != (typed[key] or None))
        faults = {key: fault for key, value in typed.items() if value and (fault := fault_of(language, key, value))}
        now = {key: value for key, value in form.journey.wording.get(language, {}).items() if key not in typed}
        wording = {**form.journey.wording, language: {**now, **{key: text for key, text in typed.items() if text}}}
        values = form.journey.model_dump() | {"wording": {name: texts for name, texts in wording.items() if texts}}
        return WordedEdit(JourneyEdit(values, author, based_on), faults, frozenset(typed), both)

    def _stored(self, slug: str) -> StoredJourney:
        return self._configuration.stored().journey(slug)

    def unfinished(self, slug: str) -> Unfinished:
        """Return what a journey still has to end. Raise NotFound."""
        with self._transactions.read() as work:
            versions = select(JourneyVersion.id).where(JourneyVersion.journey_id == journey_id_of(work, slug))
            under_way = select(func.count()).where(
                Verification.outcome.is_(None), Verification.version_id.in_(versions)
            )
            undelivered = (
                select(func.count())
                .select_from(Delivery)
                .join(Verification, Verification.id == Delivery.verification_id)
                .where(Delivery.state == DeliveryState.PENDING, Delivery.kind == CALLBACK)
                .where(Verification.version_id.in_(versions))
            )
            return Unfinished(work.execute(under_way).scalar_one(), work.execute(undelivered).scalar_one())

    def delete(self, slug: str, author: Author) -> None:
        """Remove a journey from the lists and close its links. What began under it ends under it. Raise NotFound."""
        with self._transactions.write() as work:
            stored = read_stored(work, is_locked=True)
            change = delete_journey(work, stored.journey(slug))
            self._configuration.publish(work, stored, "journey_deleted", [change], author)
