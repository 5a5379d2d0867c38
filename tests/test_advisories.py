"""The dependency audit looks at every pinned package, and sees what is affected."""

from __future__ import annotations

import json

import pytest
from packaging.version import Version

from tests.advisories import SNAPSHOT, affects, faults, pinned

TAKEN = json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_every_pinned_package_was_looked_up_and_is_clean() -> None:
    assert len(pinned()) > 80
    assert faults(TAKEN, pinned()) == []


def test_a_package_that_was_not_looked_up_is_a_fault() -> None:
    assert "left-pad: not in the snapshot" in faults(TAKEN, {"left-pad": Version("1")})[0]


def test_an_affected_version_is_named_with_its_advisory() -> None:
    assert any("CVE-2023-25577" in fault for fault in faults(TAKEN, {"werkzeug": Version("2.2.2")}))


@pytest.mark.parametrize(
    ("version", "is_affected"),
    [
        ("0.9", False),
        ("1.0", True),
        ("1.1", True),
        ("1.2", False),
        ("2.0", True),
        ("2.5", True),
        ("2.6", False),
    ],
)
def test_ranges_begin_and_end_where_they_say(version: str, is_affected: bool) -> None:
    events = [{"introduced": "1.0"}, {"fixed": "1.2"}, {"introduced": "2.0"}, {"last_affected": "2.5"}]
    assert affects({"versions": [], "ranges": [events]}, Version(version)) is is_affected
