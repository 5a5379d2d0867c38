"""The work on imports: killed, taken over, overtaken, hashing; and what is left in the database."""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from argon2 import PasswordHasher
from sqlalchemy import event, select, text, update

from auth_portal.clock import system_clock
from auth_portal.crypto import Keyring, Passwords
from auth_portal.errors import Problem
from auth_portal.services import limits
from auth_portal.services.config.channel import cap_key
from auth_portal.services.config.snapshot import Journeys
from auth_portal.services.delivery.notices import Notices
from auth_portal.services.directory.person import Person, find_person, read_identifier
from auth_portal.services.imports import notify, staging, work
from auth_portal.services.imports.imports import Imports
from auth_portal.services.imports.store import LEASE_SECONDS, MOST_ATTEMPTS, NEXT, LostLease, claim, new_import, take
from auth_portal.services.imports.work import ImportWork, WorkerStop
from auth_portal.services.operations.personal_data import Erasure
from auth_portal.store.db import Database, Transactions
from auth_portal.store.models import DELIVERY_BODY, CustomerRow, Delivery, ImportPart, ImportRow, StagedRow, table_of
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.services.conftest import choose_country
from tests.serving import Server, serving
from tests.world import CONFIG, STANDARD, TOTP_SECRET, FakeClock, configure

PHC = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("a password from elsewhere")
ADMIN = "0" * 32


class Bench:
    """Imports as a page asks for them, and the work on them, without threads."""

    def __init__(self, database: Database, keyring: Keyring, passwords: Passwords, clock: FakeClock) -> None:
        self.database, self.keyring, self.clock = database, keyring, clock
        self.transactions = Transactions(database, keyring, clock)
        journeys = Journeys(self.transactions, has_sandbox=False)
        self.notices = Notices(journeys, "http://127.0.0.1:8000")
        self.imports = Imports(self.transactions, journeys, self.notices, lambda: None)
        self.work = ImportWork(self.transactions, passwords, self.notices, is_aside=True)

    def sent(self, text: str) -> str:
        """Sends a file whose header has our own names, and asks for its check."""
        import_id = self.imports.receive(io.BytesIO(text.encode()), "people.csv", admin_id=ADMIN)
        assert not self.imports.name_columns(import_id, text.splitlines()[0].split(","))
        return import_id

    def checked(self, text: str) -> str:
        import_id = self.sent(text)
        assert self.work.work_once()
        assert self.state(import_id) == "checked"
        return import_id

    def started(self, text: str, *, is_partial: bool = False, is_notifying: bool = False) -> str:
        import_id = self.checked(text)
        self.imports.start(import_id, is_partial=is_partial, is_notifying=is_notifying, admin_id=ADMIN)
        return import_id

    def undone(self, import_id: str) -> str:
        """Has an import undone; the state that leaves it in."""
        self.imports.undo(import_id, admin_id=ADMIN)
        while self.work.work_once():
            pass
        return self.state(import_id)

    def done(self, text: str) -> str:
        import_id = self.started(text)
        while self.work.work_once():
            pass
        assert self.state(import_id) == "done"
        return import_id

    def state(self, import_id: str) -> str:
        return self.imports.get(import_id).state

    def rows(self, model: Any) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(select(model.__table__)).all())

    def ids(self) -> list[str]:
        return sorted(row.customer_id for row in self.rows(CustomerRow))

    def indexes(self) -> list[Any]:
        with self.database.read() as connection:
            found = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name"))
            return list(found.all())

    def person(self, customer_id: str) -> Person:
        named = read_identifier(customer_id, ["customer_id"], "ZA", self.keyring)
        assert named is not None
        with self.database.read() as connection:
            return find_person(connection, named)

    def change(self, customer_id: str, **values: Any) -> None:
        """Somebody else's change."""
        self.clock.advance(1)
        with self.database.write() as connection:
            connection.execute(
                update(CustomerRow)
                .where(CustomerRow.customer_id == customer_id)
                .values(**values, changed_at=self.clock())
            )


@pytest.fixture
def bench(database: Database, keyring: Keyring, passwords: Passwords) -> Bench:
    choose_country(database)
    return Bench(database, keyring, passwords, FakeClock())


def people(number: int, name: str = "Somebody", prefix: str = "C") -> str:
    return "customer_id,name\n" + "".join(f"{prefix}-{each},{name}\n" for each in range(number))


SINCE_THE_SWITCH = {"telling", "done", "undoing", "retelling", "undone", "cancelled"}


def test_the_states_are_a_table_without_dead_ends_before_the_switch() -> None:
    for state, targets in NEXT.items():
        assert targets <= NEXT.keys()
        if state not in SINCE_THE_SWITCH:
            assert "cancelled" in targets
        elif state not in ("undone", "cancelled"):
            assert targets & SINCE_THE_SWITCH


@pytest.mark.parametrize("place", ["while staging", "within the switch"])
def test_killed_before_the_switch_nothing_has_changed_and_another_process_goes_on(
    tmp_path: Path, database_url: str, receiver: Receiver, database: Database, keyring: Keyring, place: str
) -> None:
    configure(database_url, receiver, CONFIG + STANDARD)
    transactions = Transactions(database, keyring, system_clock)
    journeys = Journeys(transactions, has_sandbox=False)
    imports = Imports(transactions, journeys, Notices(journeys, "http://127.0.0.1:8000"), lambda: None)
    before = _customers(database)
    text = people(1000) + "C-1001,Somebody else\n"
    import_id = imports.receive(io.BytesIO(text.encode()), "people.csv", admin_id=ADMIN)
    imports.name_columns(import_id, ["customer_id", "name"])
    server = Server(tmp_path, database_url)
    if place == "within the switch":
        with serving(server):
            wait_for(lambda: imports.get(import_id).state == "checked")
        imports.start(import_id, is_partial=False, is_notifying=False, admin_id=ADMIN)
    server.start(STOP_OF_TEST=place)
    wait_for((tmp_path / "clock.died").exists)
    server.kill()
    assert _customers(database) == before
    assert imports.get(import_id).state in ("checking", "importing")
    server.advance(LEASE_SECONDS + 1)
    with serving(server, STOP_OF_TEST=place):
        if place == "while staging":
            wait_for(lambda: imports.get(import_id).state == "checked", 20)
            imports.start(import_id, is_partial=False, is_notifying=False, admin_id=ADMIN)
        wait_for(lambda: imports.get(import_id).state == "done", 20)
    counts = imports.get(import_id).counts
    assert (counts.new, counts.changed) == (1000, 1)
    assert len(_customers(database)) == len(before) + 1000


@pytest.mark.parametrize("place", ["within the undo", "while notifying"])
def test_r13_killed_in_an_undo_or_while_telling_nothing_is_lost_and_nobody_is_told_twice(
    tmp_path: Path, database_url: str, receiver: Receiver, database: Database, keyring: Keyring, place: str
) -> None:
    others = "".join(f"T-{n},08240{n:05}\n" for n in range(25))
    configure(database_url, receiver, CONFIG + STANDARD, f"customer_id,phone\n{others}")
    before = _customers(database)
    transactions = Transactions(database, keyring, system_clock)
    journeys = Journeys(transactions, has_sandbox=False)
    imports = Imports(transactions, journeys, Notices(journeys, "http://127.0.0.1:8000"), lambda: None)
    server = Server(tmp_path, database_url)
    with serving(server):
        text = "customer_id,phone\n" + others.replace(",082", ",083")
        import_id = imports.receive(io.BytesIO(text.encode()), "people.csv", admin_id=ADMIN)
        imports.name_columns(import_id, ["customer_id", "phone"])
        wait_for(lambda: imports.get(import_id).state == "checked")
        if place == "within the undo":
            imports.start(import_id, is_partial=False, is_notifying=False, admin_id=ADMIN)
            wait_for(lambda: imports.get(import_id).state == "done")
    after = _customers(database)
    act = imports.undo if place == "within the undo" else partial(imports.start, is_partial=False, is_notifying=True)
    act(import_id, admin_id=ADMIN)
    server.start(STOP_OF_TEST=place)
    wait_for((tmp_path / "clock.died").exists)
    server.kill()
    assert imports.get(import_id).state in ("undoing", "telling")
    server.advance(LEASE_SECONDS + 1)
    end = "undone" if place == "within the undo" else "done"
    if end == "undone":
        assert _customers(database) == after
    with serving(server, STOP_OF_TEST=place):
        wait_for(lambda: imports.get(import_id).state == end, 20)
    if end == "undone":
        assert [row.phone_key for row in _customers(database)] == [row.phone_key for row in before]
    else:
        told = Counter(row.lane for row in _deliveries(database) if row.lane is not None)
        assert (len(told), set(told.values())) == (25, {2}), "each at the old and at the new phone"


def _deliveries(database: Database) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(select(Delivery.__table__)).all())


def _customers(database: Database) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(select(CustomerRow.__table__).order_by(CustomerRow.id)).all())


def test_a_worker_that_lost_its_lease_writes_nothing_more(bench: Bench) -> None:
    import_id = bench.started(people(3))
    slow = take(bench.transactions, import_id)
    assert slow is not None
    assert claim(bench.transactions) is None  # nobody else may have it
    bench.clock.advance(LEASE_SECONDS + 1)
    assert bench.work.work_once()
    assert len(bench.ids()) == 3
    with pytest.raises(LostLease):
        bench.work.bring_in(slow)
    assert len(bench.ids()) == 3


def test_cancelled_while_it_is_being_checked(bench: Bench) -> None:
    import_id = bench.sent(people(1000))
    held = claim(bench.transactions)
    assert held is not None
    bench.imports.cancel(import_id, admin_id=ADMIN)
    with pytest.raises(LostLease):
        bench.work.check(held, io.StringIO(people(1000)))
    assert bench.state(import_id) == "cancelled"
    bench.work.tidy()
    assert not bench.rows(StagedRow)
    assert not bench.rows(ImportPart)


def test_work_that_is_stopped_goes_on_elsewhere_at_once(bench: Bench) -> None:
    import_id = bench.sent(people(500))
    bench.work.stop_when(lambda: True)
    with pytest.raises(WorkerStop):
        bench.work.work_once()
    bench.work.stop_when(lambda: False)
    assert bench.work.work_once()
    assert bench.state(import_id) == "checked"


def test_work_that_never_ends_well_is_given_up(bench: Bench) -> None:
    import_id = bench.sent(people(3))
    for _ in range(MOST_ATTEMPTS):
        assert claim(bench.transactions) is not None  # and then its process died
        bench.clock.advance(LEASE_SECONDS + 1)
    assert bench.work.work_once()
    assert bench.state(import_id) == "failed"
    assert "never finished" in bench.imports.get(import_id).reason


def test_all_or_nothing_where_somebody_else_changed_a_customer_meanwhile(bench: Bench) -> None:
    bench.done(people(3))
    import_id = bench.started("customer_id,name\nC-0,Other\nC-1,Other\nN-1,New\n")
    bench.change("C-1", name_sealed=None)
    bench.work.work_once()
    assert bench.state(import_id) == "failed"
    assert "one customer of this file was changed in the meantime" in bench.imports.get(import_id).reason
    assert bench.person("C-0").name(bench.keyring) == "Somebody"
    assert bench.ids() == ["C-0", "C-1", "C-2"]
    bench.imports.name_columns(import_id, ["customer_id", "name"])  # checked again, with what is stored now
    bench.work.work_once()
    bench.imports.start(import_id, is_partial=False, is_notifying=False, admin_id=ADMIN)
    bench.work.work_once()
    assert bench.person("C-1").name(bench.keyring) == "Other"


def test_who_was_changed_or_made_meanwhile_is_left_out_and_told_where_that_was_asked_for(bench: Bench) -> None:
    bench.done(people(3))
    other = bench.checked("customer_id,name\nN-2,Theirs\n")
    import_id = bench.started("customer_id,name\nC-0,Other\nC-1,Other\nN-1,New\nN-2,New\nbroken\n", is_partial=True)
    bench.change("C-1", name_sealed=None)
    bench.imports.start(other, is_partial=False, is_notifying=False, admin_id=ADMIN)
    first = take(bench.transactions, other)
    assert first is not None
    bench.work.bring_in(first)
    bench.work.work_once()
    found = bench.imports.get(import_id)
    assert (found.state, found.counts.new, found.counts.changed, found.counts.left_out) == ("done", 1, 1, 2)
    told = [str(fault) for fault in bench.imports.all_faults(import_id)]
    assert told == [
        "row 6: has 1 cells, the header has 2",
        *(f"row {row}: was changed by another admin or program in the meantime" for row in (5, 3)),
    ]
    assert bench.person("C-1").name_sealed is None
    assert bench.person("N-2").name(bench.keyring) == "Theirs"
    assert bench.person("N-1").name(bench.keyring) == "New"


def test_a_change_of_another_column_meanwhile_stays(bench: Bench) -> None:
    bench.done(people(1))
    bench.started("customer_id,name\nC-0,Other\n")
    bench.change("C-0", locale="zu")
    bench.work.work_once()
    found = bench.person("C-0")
    assert (found.name(bench.keyring), found.locale) == ("Other", "zu")


def test_undo_gives_back_only_what_the_import_changed(bench: Bench) -> None:
    bench.done("customer_id,name,phone,locale\nC-0,Thandi,0821234567,en\n")
    import_id = bench.done("customer_id,phone,locale\nC-0,-,af\n")
    assert bench.undone(import_id) == "undone"
    found = bench.person("C-0")
    assert (found.contact("sms", bench.keyring), found.locale) == ("+27821234567", "en")
    named = read_identifier("082 123 4567", ["phone"], "ZA", bench.keyring)
    assert named is not None
    with bench.database.read() as connection:
        assert find_person(connection, named).customer_id == "C-0"
    with pytest.raises(Problem, match="import_undo_over"):
        bench.imports.undo(import_id, admin_id=ADMIN)


def test_r17_after_an_undo_no_code_of_the_old_seed_counts_again(bench: Bench) -> None:
    bench.done("customer_id,totp_secret\nC-0,JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP\n")
    import_id = bench.done("customer_id,totp_secret\nC-0,-\n")
    assert bench.undone(import_id) == "undone"
    assert bench.person("C-0").totp_last_step == int(bench.clock().timestamp()) // 30


def test_e3_an_erased_person_is_in_no_staged_row_and_not_brought_back(bench: Bench) -> None:
    import_id = bench.done(people(2))
    Erasure(bench.transactions, bench.notices).erase(str(bench.person("C-1").row))
    assert {row.customer_key for row in bench.rows(StagedRow)} == {"c-0"}
    assert bench.undone(import_id) == "undone"
    assert bench.ids() == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_indexes_that_a_switch_makes_anew_are_as_before_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "REBUILD_ROWS", 2)
    before, made = bench.indexes(), list[str]()

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        made.extend([statement.split()[2]] if statement.startswith("CREATE INDEX") else [])

    event.listen(bench.database.engine, "before_cursor_execute", note)
    bench.done(people(3))
    assert set(made) >= {"ix_customers_email_key", "ix_customers_name_key", "ix_customers_phone_key"}
    made.clear()
    import_id = bench.started(people(3, "Other"))
    bench.change("C-1", name_sealed=None)
    bench.work.work_once()
    assert (bench.state(import_id), bench.indexes()) == ("failed", before)
    made.clear()
    import_id = bench.done(people(3, "Another"))
    assert bench.undone(import_id) == "undone"
    assert made.count("ix_customers_name_key") == 2
    assert "ix_customers_phone_key" not in made
    made.clear()
    bench.done("customer_id,totp_secret\n" + "".join(f"C-{each},{TOTP_SECRET}\n" for each in range(3)))
    assert made == ["ix_customers_traits"]  # computed from what changed
    made.clear()
    bench.done("customer_id,name\nC-0,Alone\n")
    assert (made, bench.indexes()) == ([], before)


class TestTelling:
    """Customers hear of changed contacts within the caps of the channels, and of an undo where they heard of the import."""

    @pytest.fixture
    def told(self, bench: Bench, database_url: str, receiver: Receiver) -> Told:
        configure(
            database_url, receiver, CONFIG.replace("daily_cap = 100000", "daily_cap = 10") + STANDARD, "customer_id\n"
        )
        bench.done("customer_id,phone,email\n" + "".join(f"T-{n},08240000{n:02},t{n}@example.com\n" for n in range(4)))
        return Told(bench)

    def test_r13_the_number_the_channels_and_what_is_left_of_their_caps_are_told_first(
        self, bench: Bench, told: Told
    ) -> None:
        bench.clock.advance(5)
        found = bench.imports.get(
            bench.checked("customer_id,phone,email\nT-0,0839990000,-\nT-1,+12015550123,\nN,0839990001,\n")
        )
        assert found.counts.notified == 2
        assert [str(route) for route in bench.imports.routes(found)] == [
            "1 email by channel mail, which has no daily cap",
            "1 SMS to US: no channel may send them, so they are not sent",
            "3 SMS to ZA by channel sms: 4 could leave today"
            " (0 of its daily cap of 10 are used, and notices take 4 of it at most)",
        ]

    def test_r13_a_cleared_contact_is_told_at_the_old_one(self, bench: Bench, told: Told) -> None:
        bench.started("customer_id,phone,email\nT-0,-,-\n", is_notifying=True)
        assert told.now() == {"+27824000000": "removed", "t0@example.com": "removed"}

    def test_r12_telling_takes_a_part_of_a_cap_and_goes_on_the_next_day(self, bench: Bench, told: Told) -> None:
        import_id = bench.started("customer_id,phone\n" + told.phones("083"), is_notifying=True)
        assert len(told.now()) == 4
        found = bench.imports.get(import_id)
        assert (found.state, found.done, found.total) == ("telling", 2, 4)
        assert "daily cap of channel sms" in found.reason
        bench.clock.advance(3600)
        assert len(told.now()) == 4
        bench.clock.advance(23 * 3600)
        assert len(told.now()) == 8
        assert bench.state(import_id) == "done"

    def test_r13_what_cannot_be_told_within_a_week_is_not_begun(self, bench: Bench, told: Told) -> None:
        text = "customer_id,phone\n" + "".join(f"W-{n},0824100{n:03}\n" for n in range(20))
        bench.done(text)
        import_id = bench.checked(text.replace(",082", ",083"))
        with pytest.raises(Problem, match="import_telling_long"):
            bench.imports.start(import_id, is_partial=False, is_notifying=True, admin_id=ADMIN)
        assert bench.state(import_id) == "checked"

    def test_what_had_no_room_for_a_week_is_given_up(self, bench: Bench, told: Told) -> None:
        import_id = bench.started("customer_id,phone\n" + told.phones("083"), is_notifying=True)
        told.now()
        with bench.transactions.write() as work:  # codes have used the cap of the eighth day
            limits.count(work, {cap_key("sms", "ZA", work.now + timedelta(days=8)): 9}, 9**7)
        bench.clock.advance(8 * 86_400)
        told.now()
        assert (
            "no room" in bench.imports.get(import_id).reason or "waited 7 days" in bench.imports.get(import_id).reason
        )
        assert bench.state(import_id) == "done"

    def test_an_undo_stops_the_telling_and_is_told_to_those_who_were_told(self, bench: Bench, told: Told) -> None:
        import_id = bench.started("customer_id,phone\n" + told.phones("083"), is_notifying=True)
        first = told.now()
        bench.clock.advance(86_400)
        assert bench.undone(import_id) == "undone"
        assert told.now() == first
        assert sorted(told.all()) == sorted([*first, *first])
        assert bench.person("T-3").contact("sms", bench.keyring) == "+27824000003"

    def test_an_undo_that_is_refused_lets_the_telling_go_on(self, bench: Bench, told: Told) -> None:
        import_id = bench.started("customer_id,phone\n" + told.phones("083"), is_notifying=True)
        told.now()
        bench.change("T-3", locale="zu")
        assert bench.undone(import_id) == "telling"
        assert bench.imports.blocking_undo(bench.imports.get(import_id)) == ["T-3"]
        bench.clock.advance(86_400)
        assert len(told.now()) == 8
        assert bench.state(import_id) == "done"

    def test_r12_a_channel_that_does_not_send_is_not_filled(
        self, bench: Bench, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(notify, "WAITING_AT_MOST", 2)
        monkeypatch.setattr(notify, "AT_ONCE", 1)
        import_id = bench.started("customer_id,email\nT-0,a@example.com\nT-1,b@example.com\n", is_notifying=True)
        assert len(told.now()) == 2
        assert bench.state(import_id) == "telling"
        with bench.database.write() as connection:
            connection.execute(update(Delivery).values(state="accepted"))
        bench.clock.advance(6)
        assert len(told.now()) == 4
        assert bench.state(import_id) == "done"


class Told:
    """The notices of a bench: to whom, and whether something was changed or removed."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def now(self) -> dict[str, str]:
        while self._bench.work.work_once():
            pass
        return {notice["to"]: notice["subject"].split()[-1] for notice in self._notices()}

    def all(self) -> list[str]:
        return [notice["to"] for notice in self._notices()]

    def _notices(self) -> list[dict[str, str]]:
        rows = [row for row in _deliveries(self._bench.database) if row.kind == "message"]
        return [json.loads(self._bench.keyring.open(row.body_sealed, DELIVERY_BODY, row.id)) for row in rows]

    def phones(self, begins: str) -> str:
        return "".join(f"T-{n},{begins}40000{n:02}\n" for n in range(4))


class TestPasswords:
    """Plain ones are hashed in the background, others are taken as they are."""

    def test_r21_what_counts_as_short_is_said(self, bench: Bench) -> None:
        text = f'customer_id,password\nA,{"p" * 14}\nB,{"p" * 15}\nC,"{PHC}"\n'
        counts = bench.imports.get(bench.started(text)).counts
        assert (counts.plain, counts.short, counts.hashes) == (2, 1, 1)
        bench.work.work_once()
        assert [bench.person(each).password_is_long for each in "ABC"] == [False, True, False]

    def test_hashing_goes_on_where_a_killed_worker_stopped(
        self, bench: Bench, passwords: Passwords, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(work, "HASHES_AT_ONCE", 2)
        import_id = bench.started("customer_id,password\n" + "".join(f"C-{n},correct horse {n}\n" for n in range(6)))
        looks = iter([False, False, True])
        bench.work.stop_when(lambda: next(looks))
        with pytest.raises(WorkerStop):
            bench.work.work_once()
        assert (bench.imports.get(import_id).done, bench.ids()) == (4, [])
        hashed = [row.password_hash for row in bench.rows(StagedRow) if row.plain_sealed is None]
        bench.work.stop_when(lambda: False)
        bench.work.work_once()
        assert len(bench.ids()) == 6
        assert {row.password_hash for row in bench.rows(CustomerRow)} > set(hashed)
        assert passwords.matches(bench.person("C-5").password_hash(bench.keyring, alone=False), "correct horse 5")

    def test_the_stored_password_stays_and_is_counted_equal(self, bench: Bench) -> None:
        bench.done("customer_id,password\nA,correct horse\nB,correct horse\n")
        before = bench.rows(CustomerRow)
        import_id = bench.started("customer_id,password,locale\nA,correct horse,\nB,correct horse,af\n")
        assert bench.imports.get(import_id).counts.columns["password"].changed == 2  # only hashing shows
        bench.work.work_once()
        counts = bench.imports.get(import_id).counts
        assert (counts.changed, counts.equal, counts.columns["password"].equal) == (1, 1, 2)
        assert [row.password_hash for row in bench.rows(CustomerRow)] == [row.password_hash for row in before]

    def test_people_who_sign_in_go_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stands = SimpleNamespace(monotonic=lambda: 0.0, sleep=time.sleep)  # or a slow machine would see the wait end
        monkeypatch.setattr("auth_portal.crypto.time", stands)
        passwords = Passwords(slots=1)
        waited = threading.Event()

        def background() -> None:
            passwords.let_people_go_first()
            waited.set()

        with passwords.slot():
            thread = threading.Thread(target=background)
            thread.start()
            assert not waited.wait(0.2)
        assert waited.wait(GIVE_UP_SECONDS)
        thread.join()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_r42_nothing_of_a_waiting_file_is_readable_in_the_database(bench: Bench, sqlite_url: str) -> None:
    bench.started("customer_id,name,phone,email,password\nC,Thandi,0821234567,t@example.com,marula under the stars\n")
    stored = b"".join(
        path.read_bytes() for path in Path(sqlite_url.removeprefix("sqlite:///")).parent.glob("portal.db*")
    )
    for secret in (b"Thandi", b"0821234567", b"+27821234567", b"t@example.com", b"marula"):
        assert secret not in stored


def test_a_file_of_many_parts_is_read_as_it_was_sent(bench: Bench) -> None:
    text = "customer_id,name\r\n" + "".join(f'C-{n},"Zoë, the {n}th"\r\n' for n in range(20_000))
    import_id = bench.checked(text)
    assert len(bench.rows(ImportPart)) > 3
    found = bench.imports.get(import_id)
    assert (found.counts.new, found.fault_count, found.done) == (20_000, 0, 20_000)


def test_what_is_coming_in_is_not_tidied_away(bench: Bench) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            bench.work.tidy()
            return super().read(size)

    text = people(20_000)
    import_id = bench.imports.receive(Slow(text.encode()), "people.csv", admin_id=ADMIN)
    bench.imports.name_columns(import_id, ["customer_id", "name"])
    bench.work.work_once()
    assert bench.imports.get(import_id).counts.new == 20_000


def test_more_rows_than_a_page_takes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MOST_ROWS", 10)
    import_id = bench.checked(people(11))
    assert [str(fault) for fault in bench.imports.all_faults(import_id)] == [
        "row 12: is one too many: at most 10 rows are imported at once; split the file"
    ]
    with pytest.raises(Problem):
        bench.imports.start(import_id, is_partial=True, is_notifying=False, admin_id=ADMIN)


def test_the_time_that_is_left_is_told(bench: Bench) -> None:
    import_id = bench.sent(people(1000))
    with bench.database.write() as connection:
        connection.execute(update(ImportRow).values(done=250))
    bench.clock.advance(5)
    found = bench.imports.get(import_id)
    assert (found.total, found.percent, found.seconds_left) == (1000, 25, 15)


def test_a_command_that_was_killed_is_taken_over_by_nobody(bench: Bench) -> None:
    with bench.transactions.write() as work:
        values = new_import(work, file_name="x.csv", region="ZA", is_attended=True, lease=ADMIN)
        until = work.now + timedelta(seconds=LEASE_SECONDS)
        work.execute(table_of(ImportRow).insert().values(values | {"state": "importing", "leased_until": until}))
    bench.clock.advance(3600)
    assert not bench.work.work_once()
    bench.work.tidy()
    assert bench.state(values["id"]) == "cancelled"


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() <= before + 1
