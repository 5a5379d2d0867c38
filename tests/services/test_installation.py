"""Setting up, and the keys: made once, never overwritten, and the wrong ones stop everything."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, update

from auth_portal.clock import Clock
from auth_portal.crypto import PURPOSES, MasterKeys
from auth_portal.errors import Misconfigured
from auth_portal.services.operations.installation import initialise, rotate_keys, schema_faults, upgrade
from auth_portal.settings import KEYS_FILE, Settings
from auth_portal.store.db import Database
from auth_portal.store.keys import load_keyring
from auth_portal.store.models import CUSTOMER_NAME, AuditEvent, DataKeyRow, Portal
from tests.postgres import MASTER_KEY

OTHER_KEY = "another-master-key-for-tests-and-nothing-else"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Nothing is there yet."""
    return Settings(instance=tmp_path / "deep" / "instance")


def test_everything_is_made_and_is_its_owners_alone(settings: Settings, clock: Clock) -> None:
    assert len(initialise(settings, clock)) == 3
    folder = settings.instance
    assert mode(folder) == 0o700
    assert {mode(path) for path in folder.iterdir()} == {0o600}
    assert len((folder / KEYS_FILE).read_text().strip()) == 43
    assert schema_faults(settings) == []


def test_a_second_time_changes_nothing(settings: Settings, clock: Clock) -> None:
    initialise(settings, clock)
    key = (settings.instance / KEYS_FILE).read_bytes()
    assert initialise(settings, clock) == []
    assert (settings.instance / KEYS_FILE).read_bytes() == key


def test_keys_of_the_environment_are_written_nowhere(settings: Settings, clock: Clock) -> None:
    initialise(settings.model_copy(update={"secret_keys": (MASTER_KEY,)}), clock)
    assert not (settings.instance / KEYS_FILE).exists()


def test_e2_a_lost_key_is_not_replaced(settings: Settings, clock: Clock) -> None:
    initialise(settings, clock)
    (settings.instance / KEYS_FILE).unlink()
    with pytest.raises(Misconfigured, match="Put back the keys"):
        initialise(settings, clock)
    assert not (settings.instance / KEYS_FILE).exists()


def test_e2_another_key_is_refused(settings: Settings, clock: Clock) -> None:
    initialise(settings, clock)
    with pytest.raises(Misconfigured, match="do not belong to this database"):
        initialise(settings.model_copy(update={"secret_keys": (OTHER_KEY,)}), clock)


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_one_line_and_leaves_no_half_a_key(
    settings: Settings, clock: Clock, fault: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file: int) -> None:
        raise OSError(fault, os.strerror(fault))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(Misconfigured) as refused:
            initialise(settings, clock)
    assert refused.value.faults == (f"{os.strerror(fault)}.",)
    assert [path.name for path in settings.instance.iterdir() if "keys" in path.name] == []
    initialise(settings, clock)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="Not a directory"):
        initialise(Settings(instance=tmp_path / "file" / "instance"), clock)


def test_a_database_that_is_away_is_one_line(tmp_path: Path, clock: Clock) -> None:
    settings = Settings(instance=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(Misconfigured) as refused:
        initialise(settings, clock)
    (line,) = refused.value.faults
    assert "\n" not in line
    with pytest.raises(Misconfigured):
        upgrade(settings, clock)


def test_several_machines_at_once_agree_on_one_set_of_keys(settings: Settings, clock: Clock) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(initialise, settings, clock) for _ in range(4)]:
            done.result()
    database = Database(settings.database)
    with database.read() as connection:
        assert list(connection.execute(select(DataKeyRow.purpose)).scalars()) == list(PURPOSES)
        assert connection.execute(select(Portal.id)).scalars().all() == [1]
    load_keyring(database, MasterKeys(settings.master_keys()))
    database.close()


def test_db_check_names_a_difference(settings: Settings, clock: Clock) -> None:
    initialise(settings, clock)
    database = Database(settings.database)
    with database.write() as connection:
        connection.exec_driver_sql("DROP INDEX ix_customers_phone_key")
    database.close()
    (fault,) = schema_faults(settings)
    assert "ix_customers_phone_key" in fault


class TestKeys:
    """On SQLite and on PostgreSQL."""

    def test_e2_rotation_wraps_everything_anew_and_loses_nothing(self, database: Database, clock: Clock) -> None:
        old = load_keyring(database, MasterKeys((MASTER_KEY,)))
        sealed = old.seal("Thandi", CUSTOMER_NAME, "row")
        both = (OTHER_KEY, MASTER_KEY)
        assert rotate_keys(database, both, clock) == len(PURPOSES)
        assert rotate_keys(database, both, clock) == 0
        new = load_keyring(database, MasterKeys((OTHER_KEY,)))
        assert new.open(sealed, CUSTOMER_NAME, "row") == "Thandi"
        assert new.index("phone", "+27821234567") == old.index("phone", "+27821234567")
        with pytest.raises(Misconfigured):
            load_keyring(database, MasterKeys((MASTER_KEY,)))
        with database.read() as connection:
            (event,) = connection.execute(select(AuditEvent.kind, AuditEvent.facts)).all()
        assert (event.kind, event.facts) == ("keys_rotated", {"keys": len(PURPOSES)})

    def test_e2_without_the_old_key_nothing_is_rotated(self, database: Database, clock: Clock) -> None:
        with pytest.raises(Misconfigured, match="do not belong"):
            rotate_keys(database, (OTHER_KEY,), clock)
        load_keyring(database, MasterKeys((MASTER_KEY,)))

    def test_e1_a_wrapped_key_opens_in_its_own_row_alone(self, database: Database) -> None:
        with database.write() as connection:
            wrapped = dict(connection.execute(select(DataKeyRow.id, DataKeyRow.wrapped)).all())
            connection.execute(update(DataKeyRow).where(DataKeyRow.id == 1).values(wrapped=wrapped[2]))
        with pytest.raises(Misconfigured, match="altered"):
            load_keyring(database, MasterKeys((MASTER_KEY,)))

    def test_a_database_without_keys_says_what_to_do(self, database: Database) -> None:
        with database.write() as connection:
            connection.execute(DataKeyRow.__table__.delete())  # type: ignore[attr-defined]
        with pytest.raises(Misconfigured, match="Run `auth-portal init`"):
            load_keyring(database, MasterKeys((MASTER_KEY,)))
