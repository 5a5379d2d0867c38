"""The migrations make exactly the tables that the models describe, on both databases, and go back."""

from __future__ import annotations

import ast
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, update

from auth_portal.services.operations.installation import upgrade
from auth_portal.settings import Settings
from auth_portal.store import migrate
from auth_portal.store.db import MIGRATIONS, Database, expected_revision, schema_fault
from auth_portal.store.models import Attempt, CustomerRow, Delivery
from tests.postgres import MASTER_KEY
from tests.receiver import wait_for
from tests.world import PHONE, World


def test_models_and_migrations_agree(database_url: str) -> None:
    database = Database(database_url)
    assert migrate.differences(database) == []
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
    upgrade(Settings(instance=tmp_path, database_url=database_url))
    assert schema_fault(database_url) is None


def migrate_to(world: World, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    go = command.upgrade if revision == "head" else command.downgrade
    with world.database.migrating() as connection:
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
    upgrade(Settings(instance=tmp_path, database_url=url, secret_keys=(MASTER_KEY,)))
    after = {row.customer_id: (row.traits, row.name_key) for row in world.rows(CustomerRow)}
    assert after == before | {"C-1001": (before["C-1001"][0], None)}


def test_they_go_back_and_forth_with_what_was_sent(world: World) -> None:
    """The older version holds no message without a verification: those go with their attempts, all others stay."""
    world.browser().begin("r-1")
    row = world.services.people.row_of("C-1001")
    with world.database.write() as connection:
        world.services.notices.to_customer(connection, world.clock(), row, [PHONE], "Something changed", "Was it you?")
    world.services.dispatcher.wake()
    wait_for(lambda: [row.state for row in world.rows(Delivery)] == ["accepted", "accepted"])
    world.services.dispatcher.stop()
    (kept,) = [row.id for row in world.rows(Delivery) if row.verification_id]
    migrate_to(world, "0001")
    migrate_to(world, "head")
    assert [row.id for row in world.rows(Delivery)] == [kept]
    assert {row.delivery_id for row in world.rows(Attempt)} == {kept}
    assert migrate.differences(world.database) == []


def test_the_file_names_carry_the_revisions() -> None:
    for path in (MIGRATIONS / "versions").glob("[0-9]*.py"):
        values = {
            node.targets[0].id: ast.literal_eval(node.value)
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        assert values["revision"] == path.name.split("_")[0]
    assert expected_revision() == "0002"
