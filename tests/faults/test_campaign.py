"""Kills, pauses, partitions and wrong clocks in one run: Flow's own log has what customers were shown (D1, D7 to D9)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.campaign import KINDS, Campaign
from tests.receiver import Receiver

SEED = 20261122


@pytest.mark.timeout(900)
def test_d01_faults_in_random_order_lose_no_result(tmp_path: Path, postgres_url: str, receiver: Receiver) -> None:
    campaign = Campaign(tmp_path, postgres_url, receiver, SEED)
    with campaign.running():
        for kind in random.Random(SEED).sample(2 * KINDS, 2 * len(KINDS)):
            campaign.play(kind)
    counted = campaign.check()
    assert counted["ended_by_itself"] == 0
    assert counted["seen"] >= sum(campaign.played.values()) == 2 * len(KINDS)
