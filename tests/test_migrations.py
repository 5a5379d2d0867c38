"""The migrations make exactly the tables that the models describe, on both databases, and go back."""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text, update

from auth_portal.clock import Clock, system_clock
from auth_portal.crypto import OLD_MACS, OPEN_MACS, MasterKeys
from auth_portal.errors import Misconfigured
from auth_portal.services.operations.installation import differences, initialise, upgrade
from auth_portal.settings import Settings
from auth_portal.store import db
from auth_portal.store.db import MIGRATIONS, Database, Transactions, expected_revision, schema_fault
from auth_portal.store.keys import are_open, load_keyring, seal_macs, state_fault
from auth_portal.store.models import Attempt, CustomerRow, Delivery, Portal, Verification
from tests.postgres import MASTER_KEY
from tests.receiver import wait_for
from tests.world import PHONE, World, wrap_as_before_macs


def test_models_and_migrations_agree(database_url: str) -> None:
    database = Database(database_url)
    assert differences(database) == []
    database.close()


def test_partial_indexes_are_there(database_url: str) -> None:
    """Autogenerate does not compare conditions; without them one live verification per reference would not hold."""
    database = Database(database_url)
    found = {
        index["name"]: (index["unique"], " ".join(str(option) for option in index["dialect_options"].values()))
        for table in ("verifications", "deliveries", "journeys")
        for index in inspect(database.engine).get_indexes(table)
    }
    database.close()
    assert found["uq_verifications_live"][0]
    assert "outcome IS NULL" in found["uq_verifications_live"][1]
    assert "outcome IS NULL" in found["ix_verifications_deadline"][1]
    assert found["uq_deliveries_result"][0]
    assert "callback" in found["uq_deliveries_result"][1]
    assert "pending" in found["ix_deliveries_pending"][1]
    assert found["uq_journeys_live"][0]
    assert "deleted_at IS NULL" in found["uq_journeys_live"][1]


def test_upgrading_again_changes_nothing(database_url: str, tmp_path: Path) -> None:
    upgrade(Settings(instance=tmp_path, database_url=database_url), system_clock)
    assert schema_fault(database_url) is None


def migrate_to(world: World, revision: str) -> None:
    migrated(world.database, revision)


def migrated(database: Database, revision: str) -> None:
    """Migrates a database to the newest tables ("head"), or back to older ones."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    go = command.upgrade if revision == "head" else command.downgrade
    with database.migrating() as connection:
        config.attributes["connection"] = connection
        go(config, revision)


def test_customers_of_an_older_version_are_found_and_counted_as_any(world: World, tmp_path: Path) -> None:
    """One whose name no key opens keeps nobody else from it."""
    world.services.dispatcher.stop()
    before = {row.customer_id: (row.traits, row.name_key) for row in world.rows(CustomerRow)}
    assert all(name_key for _traits, name_key in before.values())
    migrate_to(world, "0001")
    with world.database.write() as connection:
        connection.execute(update(CustomerRow).where(CustomerRow.customer_id == "C-1001").values(name_sealed=b"spoilt"))
    url = world.database.url.render_as_string(hide_password=False)
    upgrade(Settings(instance=tmp_path, database_url=url, secret_keys=(MASTER_KEY,)), system_clock)
    after = {row.customer_id: (row.traits, row.name_key) for row in world.rows(CustomerRow)}
    assert after == before | {"C-1001": (before["C-1001"][0], None)}


@pytest.mark.parametrize("finish", [upgrade, initialise])
def test_r54_an_upgrade_that_was_interrupted_locks_no_one_out(
    world: World, tmp_path: Path, finish: Callable[[Settings, Clock], object]
) -> None:
    """Here the wrong keys end it after the migration, as a full disk or a signal may."""
    world.services.dispatcher.stop()
    wrap_as_before_macs(world.database)
    migrate_to(world, "0006")
    url = world.database.url.render_as_string(hide_password=False)
    with pytest.raises(Misconfigured, match="keys"):
        upgrade(Settings(instance=tmp_path, database_url=url, secret_keys=("k" * 43,)), system_clock)
    meanwhile = load_keyring(world.database, MasterKeys((MASTER_KEY,)))
    assert not meanwhile.requires_macs
    with Transactions(world.database, meanwhile, world.clock).read() as work:
        assert "the upgrade is unfinished" in state_fault(work)
    finish(Settings(instance=tmp_path, database_url=url, secret_keys=(MASTER_KEY,)), system_clock)
    after = load_keyring(world.database, MasterKeys((MASTER_KEY,)))
    assert not after.requires_macs
    with Transactions(world.database, after, world.clock).read() as work:
        assert are_open(work)
        assert state_fault(work) == ""
    meanwhile.read_macs_state(None)
    assert meanwhile.requires_macs
    meanwhile.read_macs_state(after.mac(OPEN_MACS))
    assert not meanwhile.requires_macs  # what is not signed does not stick
    seal_macs(Transactions(world.database, after, world.clock))
    with world.database.write() as connection:
        connection.execute(update(Portal).values(macs=OLD_MACS))
    upgrade(Settings(instance=tmp_path, database_url=url, secret_keys=(MASTER_KEY,)), system_clock)
    with Transactions(world.database, after, world.clock).read() as work:
        assert "someone has undone that" in state_fault(work)  # and the upgrade has not signed it


@pytest.mark.parametrize("tables", [("alembic_version",), ("schema_state",), ("alembic_version", "schema_state")])
def test_r54_no_upgrade_signs_what_someone_has_changed(world: World, tmp_path: Path, tables: tuple[str, ...]) -> None:
    """Whatever they write where the newest migration is noted: only one that really runs makes rows be signed."""
    world.browser().begin("r-1")
    world.services.dispatcher.stop()
    columns = {"alembic_version": "version_num", "schema_state": "revision"}
    with world.database.write() as connection:
        connection.execute(update(Verification).values(mac=None))
        for table in tables:
            connection.exec_driver_sql(f"UPDATE {table} SET {columns[table]} = '0007'")
    url = world.database.url.render_as_string(hide_password=False)
    with suppress(Misconfigured):
        upgrade(Settings(instance=tmp_path, database_url=url, secret_keys=(MASTER_KEY,)), system_clock)
    assert [row.mac for row in world.rows(Verification)] == [None]


def test_an_interrupted_first_installation_is_continued(tmp_path: Path, sqlite_url: str) -> None:
    with closing(Database(sqlite_url)) as database, database.write() as connection:
        connection.exec_driver_sql("DROP TABLE schema_state")
        connection.exec_driver_sql("DELETE FROM alembic_version")
    assert schema_fault(sqlite_url) == (
        f"The database is at migration 0000, this version needs {expected_revision()}. Run `auth-portal db upgrade`."
    )


def test_they_go_back_and_forth_with_what_was_sent(world: World) -> None:
    """The older version holds no message without a verification: those go with their attempts, all others stay."""
    world.browser().begin("r-1")
    row = world.services.customers.row_of("C-1001")
    with world.transactions.write() as work:
        world.services.notices.to_customer(work, row, [PHONE], "Something changed", "Was it you?")
    world.services.dispatcher.wake()
    wait_for(lambda: [row.state for row in world.rows(Delivery)] == ["accepted", "accepted"])
    world.services.dispatcher.stop()
    (kept,) = [row.id for row in world.rows(Delivery) if row.verification_id]
    migrate_to(world, "0001")
    migrate_to(world, "head")
    assert [row.id for row in world.rows(Delivery)] == [kept]
    assert {row.delivery_id for row in world.rows(Attempt)} == {kept}
    assert differences(world.database) == []


def test_d10_a_portal_goes_on_writing_while_indexes_are_made(postgres_url: str) -> None:
    """One transaction with a lock on the table keeps the new index waiting, but nobody behind it."""
    with closing(Database(postgres_url)) as database:
        migrated(database, "0002")
        touch = text("UPDATE deliveries SET target = target")
        migration = Thread(target=migrated, args=(database, "head"))
        with database.write() as busy:
            busy.execute(touch)
            migration.start()
            waits = text(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCUR%' AND state = 'active'"
            )
            with database.read() as watching:
                wait_for(lambda: watching.execute(waits).scalar_one())
            with database.write() as other:
                other.execute(text("SET LOCAL lock_timeout = '5s'"))
                other.execute(touch)
        migration.join()
        assert differences(database) == []


def test_d10_a_migration_does_not_make_all_others_wait_behind_it(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "MIGRATION_LOCK_SECONDS", 1)
    with closing(Database(postgres_url)) as database:
        migrated(database, "0002")
        settings = Settings(instance=tmp_path, database_url=postgres_url, secret_keys=(MASTER_KEY,))
        with database.write() as busy:
            busy.execute(text("LOCK TABLE audit_events IN ACCESS SHARE MODE"))
            with pytest.raises(Misconfigured, match="lock timeout"):
                upgrade(settings, system_clock)
        upgrade(settings, system_clock)
        assert differences(database) == []


def test_the_file_names_carry_the_revisions() -> None:
    for path in (MIGRATIONS / "versions").glob("[0-9]*.py"):
        values = {
            node.targets[0].id: ast.literal_eval(node.value)
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        assert values["revision"] == path.name.split("_")[0]
    assert expected_revision() == "0022"
