"""One journey by itself: what is saved, refused, copied, rolled back and deleted, and who is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import insert, select

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.errors import NotFound
from auth_portal.gateways.addresses import NetworkPolicy
from auth_portal.gateways.outbound import Outbound
from auth_portal.services.config.changes import Author, SaveResult, TableChange
from auth_portal.services.config.configuration import Configuration
from auth_portal.services.config.file import BadConfig
from auth_portal.services.config.history import JourneyHistory
from auth_portal.services.config.journey_editor import JourneyEdit, JourneyEditor
from auth_portal.services.config.snapshot import Journeys
from auth_portal.store.db import Database, Transactions, Work
from auth_portal.store.models import Admin, AuditEvent, JourneyVersion, Portal
from tests.pictures import PNG
from tests.services.conftest import NOW

ANNA = Author("anna", "asked for by the branch")
CONFIG = """
[portal]
name = "Acme Bank"

[[channels]]
name = "sms"
kind = "clickatell"
api_key = "the-real-key"
countries = ["ZA"]
daily_cap = 5000

[[journeys]]
slug = "balance"
name = "Check my balance"
default = true
channels = ["sms"]
steps = [
  { kind = "identify", by = ["customer_id"] },
  { kind = "verify", any_of = ["sms_code", "totp"] },
]
"""
STEPS = ({"kind": "identify", "by": ("phone",)}, {"kind": "verify", "any_of": ("totp",)})


class Desk:
    """An editor over a configured database, and what owners were told."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self.database = database
        self.told: list[str] = []
        transactions = Transactions(database, keyring, clock)
        self.configuration = Configuration(
            transactions, has_sandbox=False, way_out=Outbound(NetworkPolicy()), notify_owners=self._notify
        )
        self.configuration.import_toml(CONFIG, file_name="acme.toml")
        self.told.clear()
        self.editor = JourneyEditor(transactions, self.configuration)
        self.history = JourneyHistory(transactions)
        self.journeys = Journeys(transactions, has_sandbox=False)
        with database.write() as connection:
            connection.execute(insert(Admin).values(_admin("anna", "Anna Botha")))

    def _notify(self, _work: Work, _subject: str, changes: Sequence[TableChange], *_: object) -> None:
        self.told += [found.key for change in changes for found in change.guarded]

    def change(self, based_on: int = 1, slug: str = "balance", **values: Any) -> SaveResult:
        document = self.history.journey(slug).config.model_dump() | values
        return self.configuration.save(JourneyEdit(document, ANNA, based_on))

    def create(self, slug: str, **values: Any) -> SaveResult:
        return self.configuration.save(
            JourneyEdit({"slug": slug, "name": slug.title(), "steps": STEPS, **values}, ANNA)
        )

    def rows(self, model: Any) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(select(model.__table__)).all())


def _admin(row: str, name: str) -> Mapping[str, Any]:
    return {
        "id": row, "name": name, "email_sealed": b"", "email_key": row, "role": "owner", "password_hash": b"",
        "totp_sealed": b"", "created_at": NOW, "changed_at": NOW,
    }  # fmt: skip


@pytest.fixture
def desk(database: Database, keyring: Keyring, clock: Clock) -> Desk:
    return Desk(database, keyring, clock)


def test_a_change_is_a_version_with_author_and_difference(desk: Desk) -> None:
    before = desk.rows(Portal)[0].version
    assert desk.change(chat_seconds=900).is_fine
    version, first = desk.history.versions("balance")
    assert (version.edition.number, version.edition.by, version.edition.note) == (2, "Anna Botha", ANNA.note)
    assert version.changes == (("chat_seconds", "600", "900"),)
    assert (first.edition.number, first.edition.by) == (1, "")
    assert desk.rows(Portal)[0].version == before + 1
    assert desk.journeys.current().journeys["balance"].config.chat_seconds == 900
    event = desk.rows(AuditEvent)[-1]
    assert (event.kind, event.admin_id) == ("journey_changed", "anna")
    assert event.facts["changes"] == {"journey balance": {"chat_seconds": ["600", "900"]}}


def test_saving_what_is_there_makes_no_version(desk: Desk) -> None:
    proposal = desk.change()
    assert proposal.is_fine
    assert not proposal.changes
    assert len(desk.rows(JourneyVersion)) == 1


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        ({"name": ""}, "name", "must not be empty"),
        ({"limits": {"code_digits": 4}}, "limits.code_digits", "at least 6"),
        ({"callback": {"server": "http://10.0.0.1"}}, "callback.server", "https"),
        ({"channels": ["smoke"]}, "channels", "no such channel"),
        ({"steps": (*STEPS[:1], {"kind": "verify", "any_of": ("email_code",)})}, "steps[2].any_of", "email"),
        ({"colour": "#ffee0"}, "colour", "six digits"),
        ({"logo": "0" * 64}, "logo", "not stored here"),
        ({"texts": {"landing": "one\ntwo"}}, "texts.landing", "one paragraph"),
        ({"surprise": 1}, "surprise", "not known"),
    ],
)
def test_a_fault_names_its_field_and_nothing_is_written(
    desk: Desk, values: Mapping[str, Any], key: str, words: str
) -> None:
    proposal = desk.change(**values)
    assert [fault.key for fault in proposal.faults] == [key]
    assert words in proposal.faults[0].reason
    assert len(desk.rows(JourneyVersion)) == 1


def test_r35_a_text_that_another_journey_answers_is_refused(desk: Desk) -> None:
    proposal = desk.create("loans", results={"verified": "verified"})
    assert "would pass for it" in proposal.faults[0].reason
    assert "loans" not in desk.journeys.current().journeys
    assert desk.create("loans").is_fine


def test_a_name_that_is_taken_is_refused(desk: Desk) -> None:
    assert desk.create("balance").faults[0].key == "slug"


def test_r44_owners_hear_of_a_callback_target_and_not_of_a_colour(desk: Desk) -> None:
    desk.change(colour="#0b4a8f")
    assert desk.told == []
    proposal = desk.change(2, callback={"server": "uat"})
    assert proposal.is_guarded
    assert desk.told == ["callback.server"]


@pytest.mark.parametrize(
    ("values", "is_guarded"),
    [
        ({"colour": "#0b4a8f"}, False),
        ({"name": "Other"}, True),
        ({"chat_seconds": 700}, True),
        ({"callback": {"contract": "wait_for_callback"}}, True),
        ({"results": {"verified": "yes"}}, True),
        ({"relay_defence": "chat_code"}, True),
        ({"limits": {"sends": 2}}, True),
        ({"steps": STEPS}, True),
    ],
)
def test_what_an_attacker_would_change_is_guarded(desk: Desk, values: Mapping[str, Any], is_guarded: bool) -> None:
    document = desk.history.journey("balance").config.model_dump() | dict(values)
    assert desk.configuration.propose(JourneyEdit(document, ANNA, 1)).is_guarded is is_guarded


def test_a_new_journey_is_guarded(desk: Desk) -> None:
    assert desk.configuration.propose(JourneyEdit({"slug": "loans", "name": "Loans", "steps": STEPS}, ANNA)).is_guarded


def test_the_second_of_two_editors_is_told_and_can_save_knowingly(desk: Desk) -> None:
    desk.change(1, chat_seconds=900)
    second = desk.change(1, chat_seconds=600, name="Balance")
    assert second.newer is not None
    assert second.newer.by == "Anna Botha"
    assert second.newer.theirs == (("chat_seconds", "600", "900"),)
    assert second.newer.typed == (("name", "Check my balance", "Balance"),)
    assert len(desk.rows(JourneyVersion)) == 2
    assert desk.change(second.number, chat_seconds=600, name="Balance").is_fine
    assert desk.history.journey("balance").config.chat_seconds == 600


def test_only_one_journey_is_the_default(desk: Desk) -> None:
    desk.create("loans", default=True, results={"verified": "ok_loans"})
    journeys = {listed.config.slug: listed.config.default for listed in desk.history.journeys()}
    assert journeys == {"balance": False, "loans": True}
    assert desk.journeys.current().journey(None).config.slug == "loans"


def test_a_copy_is_off_and_answers_a_text_of_its_own(desk: Desk) -> None:
    assert desk.configuration.save(desk.editor.copied("balance", "loans", "Loans", ANNA)).is_fine
    copy = desk.history.journey("loans").config
    assert not copy.active
    assert not copy.default
    assert copy.results["verified"] == "verified_loans"
    assert copy.steps == desk.history.journey("balance").config.steps
    assert desk.configuration.save(desk.editor.switched("loans", ANNA, is_active=True)).is_fine
    assert desk.journeys.current().journeys["loans"].config.active


def test_rolling_back_brings_an_earlier_version_but_leaves_it_off(desk: Desk) -> None:
    desk.change(1, chat_seconds=900)
    desk.change(2, active=False)
    assert desk.history.differences("balance", 1) == (("chat_seconds", "900", "600"),)
    assert desk.configuration.save(desk.editor.rolled_back("balance", 1, ANNA)).is_fine
    now = desk.history.journey("balance")
    assert (now.config.chat_seconds, now.config.active, now.edition.number) == (600, False, 4)


def test_a_version_that_is_not_there_is_not_found(desk: Desk) -> None:
    with pytest.raises(NotFound):
        desk.editor.rolled_back("balance", 7, ANNA)


def test_versions_are_paged_by_number(desk: Desk) -> None:
    for number in range(1, 31):
        desk.change(number, chat_seconds=600 + number)
    first = desk.history.versions("balance")
    assert [version.edition.number for version in first] == list(range(31, 11, -1))
    second = desk.history.versions("balance", before=12)
    assert [version.edition.number for version in second] == list(range(11, 0, -1))
    assert second[-1].changes == ()
    assert first[-1].changes == (("chat_seconds", "610", "611"),)


def test_a_deleted_journey_is_not_listed_and_its_links_are_closed(desk: Desk) -> None:
    desk.create("loans")
    desk.editor.delete("loans", ANNA)
    assert [listed.config.slug for listed in desk.history.journeys()] == ["balance"]
    snapshot = desk.journeys.current()
    assert "loans" not in snapshot.journeys
    assert not snapshot.is_open(snapshot.journey("loans").config)
    assert desk.rows(AuditEvent)[-1].kind == "journey_deleted"
    for act in (lambda: desk.editor.delete("loans", ANNA), lambda: desk.history.journey("loans")):
        with pytest.raises(NotFound):
            act()


def test_the_name_of_a_deleted_journey_is_free_again(desk: Desk) -> None:
    desk.create("loans", chat_seconds=900)
    desk.editor.delete("loans", ANNA)
    assert desk.create("loans").is_fine
    assert desk.history.journey("loans").edition.number == 1
    assert desk.journeys.current().journey("loans").config.chat_seconds == 600


def test_an_edit_of_a_journey_that_was_deleted_meanwhile_is_not_found(desk: Desk) -> None:
    edit = desk.editor.switched("balance", ANNA, is_active=False)
    desk.editor.delete("balance", ANNA)
    with pytest.raises(NotFound):
        desk.configuration.save(edit)
    snapshot = desk.journeys.current()
    assert not snapshot.is_open(snapshot.journey(None).config)  # the path / is closed, not unknown


def test_a_logo_is_a_version_like_any_change(desk: Desk) -> None:
    assert desk.configuration.save(desk.editor.with_logo("balance", PNG, ANNA)).is_fine
    assert desk.history.journey("balance").config.logo
    desk.configuration.save(desk.editor.with_logo("balance", b"", ANNA))
    assert desk.history.journey("balance").config.logo == ""
    assert desk.history.journey("balance").edition.number == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "PNG"),
        (PNG + b"0" * 262_144, "at most 256 kB"),
        (b"RIFF1234", "PNG"),
    ],
)
def test_a_logo_that_is_no_picture_is_refused(desk: Desk, content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        desk.editor.with_logo("balance", content, ANNA)


def test_a_look_comes_and_goes_with_the_config_file(desk: Desk) -> None:
    """What a journey leaves out is as the portal's, and is exported as left out."""
    file = desk.configuration.export_toml()
    for key in ("logo_dark", "radius", "hide_name"):
        assert f"{key} =" not in file
    looks = '[portal]\ncolour = "#FFD400"\nradius = 0\nhide_name = true\n'
    desk.configuration.import_toml(looks, file_name="look.toml")
    desk.change(radius=24, hide_name=False)
    exported = desk.configuration.export_toml()
    assert 'colour = "#ffd400"\nradius = 0\nhide_name = true' in exported
    assert "radius = 24\nhide_name = false" in exported
    assert desk.configuration.import_toml(exported, file_name="back.toml", prune=True).lines == ()
    for wrong in ('colour = "yellow"', "radius = 25", 'hide_name = "yes"', f'logo = "{"0" * 64}"'):
        with pytest.raises(BadConfig, match=wrong.split(maxsplit=1)[0]):
            desk.configuration.import_toml(f"[portal]\n{wrong}\n", file_name="wrong.toml")


def test_the_previous_release_can_read_what_has_no_look_of_its_own(desk: Desk) -> None:
    """It refuses a key that it does not know."""
    desk.change(name="Saved again")
    with desk.database.read() as connection:
        documents = connection.execute(select(JourneyVersion.document)).scalars().all()
        portal = connection.execute(select(Portal.settings)).scalar_one()
    for found in (*documents, portal):
        assert not {"logo_dark", "radius", "hide_name"} & found.keys()
    assert not {"colour", "logo"} & portal.keys()


def test_the_config_file_brings_looks_back(desk: Desk) -> None:
    desk.change(colour="#0B4A8F", texts={"landing": "Welcome <b>back</b>"})
    exported = desk.configuration.export_toml()
    assert 'colour = "#0b4a8f"' in exported
    assert desk.configuration.import_toml(exported, file_name="back.toml").lines == ()
