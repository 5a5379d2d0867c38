"""How many connections a process opens to PostgreSQL."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from auth_portal.clock import system_clock
from auth_portal.services.serving import build
from auth_portal.settings import read_settings
from auth_portal.store import db
from tests.postgres import MASTER_KEY


def test_a_process_opens_as_many_connections_as_its_setting_says(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "POOL_SECONDS", 0.05)
    settings = {"PORTAL_DATABASE_URL": postgres_url, "PORTAL_SECRET_KEYS": MASTER_KEY, "PORTAL_INSTANCE": str(tmp_path)}
    services = build(read_settings({**settings, "PORTAL_DATABASE_CONNECTIONS": "5"}), system_clock)
    with closing(services), ExitStack() as held:
        database = services.transactions.database
        for _ in range(5):
            held.enter_context(database.read())
        with pytest.raises(PoolTimeout), database.read():
            pass
