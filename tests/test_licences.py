"""Each package that the portal runs on is listed with its licence, as the package itself names it."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PINNED = re.findall(r"^([A-Za-z0-9_.-]+)==", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
LISTED = dict(
    re.findall(
        r"^\| ([\w.-]+) \| ([^|`]+) \|$", (ROOT / "docs" / "licences.md").read_text(encoding="utf-8"), re.MULTILINE
    )
)
# A licence of another kind needs a decision: add it here with the text in docs/licences.md that says what it asks for.
ALLOWED = {
    "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "LGPL-3.0-only", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0",
    "PSF-2.0", "Unlicense",
}  # fmt: skip
WORDS = {"MIT": "MIT", "BSD": "BSD", "Apache-2.0": "Apache", "MPL-2.0": "Mozilla", "Unlicense": "Unlicense"}


def test_the_list_has_each_package_once() -> None:
    LISTED.pop("package", None)
    assert sorted(LISTED) == sorted(PINNED)


@pytest.mark.parametrize("package", PINNED)
def test_a_package_has_the_licence_that_is_listed(package: str) -> None:
    listed, found = LISTED[package], metadata(package).json
    assert set(re.split(r" (?:AND|OR) ", listed)) <= ALLOWED
    if expression := found.get("license_expression"):
        assert expression == listed
        return
    said = f"{found.get('license')} {found.get('classifier')}"
    assert WORDS[listed if listed in WORDS else listed[:3]] in said or listed in said
