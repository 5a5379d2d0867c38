"""What is changed is live on every worker, without a restart."""

from __future__ import annotations

import time
from pathlib import Path

import requests

from auth_portal.services.config.snapshot import SNAPSHOT_SECONDS
from tests.receiver import GIVE_UP_SECONDS, Receiver
from tests.serving import Server, serving
from tests.world import CONFIG, STANDARD, configure

WORKERS = 4
ENOUGH = 40  # answers, each over a connection of its own, so that all workers give some


def test_a_change_is_live_on_every_worker(tmp_path: Path, database_url: str, receiver: Receiver) -> None:
    config = CONFIG + STANDARD
    configure(database_url, receiver, config)
    # Off: what configures has a clock of its own, and a worker's would find the lease of its import run out.
    with serving(
        Server(tmp_path, database_url, server="gunicorn-preload", workers=WORKERS, settings={"PORTAL_DISPATCH": "off"})
    ) as server:
        assert all_say(server, "Balance"), "every worker has read it as it was"
        configure(database_url, receiver, config.replace('name = "Balance"', 'name = "Look at my balance"'))
        until = time.monotonic() + GIVE_UP_SECONDS
        while not all_say(server, "Look at my balance"):
            assert time.monotonic() < until, "some worker still has it as it was"
        assert SNAPSHOT_SECONDS < 2


def all_say(server: Server, text: str) -> bool:
    """Whether every one of many answers has it."""
    with requests.Session() as session:
        session.trust_env, session.headers["Connection"] = False, "close"
        return all(
            text in session.get(f"{server.url}/?reference=r1", timeout=GIVE_UP_SECONDS).text for _ in range(ENOUGH)
        )
