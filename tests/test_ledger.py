"""The ledger: docs/ledger.md lists each requirement and each item of ASVS once, and each test that it names exists."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.test_requirements import ROOT, defined

LEDGER = ROOT / "docs" / "ledger.md"
THREATS = ROOT / "docs" / "security.md"
STATES = {"met", "deviation", "operator", "does not apply"}
# The last item of each section of ASVS 5.0.0 up to level 2 (V6: up to level 3). A section's items go on by level.
SECTIONS = {
    "V1.1": 2, "V1.2": 9, "V1.3": 11, "V1.4": 3, "V1.5": 2, "V2.1": 3, "V2.2": 3, "V2.3": 4, "V2.4": 1, "V3.2": 2, "V3.3": 4,
    "V3.4": 6, "V3.5": 5, "V3.7": 2, "V4.1": 3, "V4.2": 1, "V4.3": 2, "V4.4": 4, "V5.1": 1, "V5.2": 3, "V5.3": 2, "V5.4": 3,
    "V6.1": 3, "V6.2": 12, "V6.3": 8, "V6.4": 6, "V6.5": 8, "V6.6": 4, "V6.7": 2, "V6.8": 4, "V7.1": 3, "V7.2": 4, "V7.3": 2,
    "V7.4": 5, "V7.5": 2, "V7.6": 2, "V8.1": 2, "V8.2": 3, "V8.3": 1, "V8.4": 1, "V9.1": 3, "V9.2": 4, "V10.1": 2, "V10.2": 2,
    "V10.3": 4, "V10.4": 11, "V10.5": 5, "V10.6": 2, "V10.7": 3, "V11.1": 2, "V11.2": 3, "V11.3": 3, "V11.4": 4, "V11.5": 1,
    "V11.6": 1, "V12.1": 3, "V12.2": 2, "V12.3": 4, "V13.1": 1, "V13.2": 5, "V13.3": 2, "V13.4": 5, "V14.1": 2, "V14.2": 4,
    "V14.3": 3, "V15.1": 3, "V15.2": 3, "V15.3": 7, "V16.1": 1, "V16.2": 5, "V16.3": 4, "V16.4": 3, "V16.5": 3, "V17.1": 1,
    "V17.2": 4, "V17.3": 2,
}  # fmt: skip
_ROW = re.compile(r"^\| (?!id |---)(.+) \|$", re.MULTILINE)
_REQUIREMENT = re.compile(r"[RDE]\d+a?")
_ITEM = re.compile(r"V\d{1,2}(\.\d{1,2}){0,2}")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+(?:::\w+)?)`")
_STATED = re.compile(r"Not shown by a test")


def rows(heading: str) -> list[list[str]]:
    """Return the cells of every table below a heading of the ledger."""
    _before, found, after = LEDGER.read_text().partition(f"\n## {heading}\n")
    assert found, heading
    return [row.split(" | ") for row in _ROW.findall(re.split(r"^## ", after, maxsplit=1, flags=re.MULTILINE)[0])]


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the tests of a file: functions, and methods with their class."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test_"))


def items() -> Iterator[tuple[str, str, str]]:
    """Yield every id that a row of the ASVS tables names, with the row's state and evidence."""
    for ids, _what, state, shown in rows("OWASP ASVS 5.0.0"):
        for name in ids.split(", "):
            yield name, state, shown


def expanded(name: str) -> list[str]:
    """Return the items that an id stands for: a chapter's, a section's, or itself."""
    return [
        f"{section}.{number}"
        for section, last in SECTIONS.items()
        for number in range(1, last + 1)
        if f"{section}.{number}.".startswith(f"{name}.")
    ]


@pytest.mark.parametrize("path", [LEDGER, THREATS], ids=lambda path: path.name)
def test_each_named_test_exists(path: Path) -> None:
    named = _TEST.findall(path.read_text())
    assert [f"{file}::{name}" for file, name in named if name not in names_in(file)] == []


def test_each_test_is_named_by_file_and_function() -> None:
    """A name of another form would be checked by nothing."""
    quoted = re.findall(r"`[^`\n]*(?:::|\btest_\w*_)[^`\n]*`", LEDGER.read_text())
    names = [name for name in quoted if not name.startswith("`git grep")]
    assert names
    assert [name for name in names if not _TEST.fullmatch(name)] == []


def test_each_requirement_has_a_row() -> None:
    listed = [row[0] for row in rows("Requirements")]
    assert [name for name in listed if not _REQUIREMENT.fullmatch(name)] == []
    assert listed == [name for name, _state in defined()], "the same, once, and in the same order"


def test_what_is_built_names_a_test_or_a_reason() -> None:
    shown = {name: evidence for name, _what, evidence in rows("Requirements")}
    bare = [
        name
        for name, state in defined()
        if state in ("built", "partly") and not _TEST.search(shown[name]) and not _STATED.search(shown[name])
    ]
    assert bare == []


def test_what_is_planned_is_called_planned() -> None:
    called = {name for name, _what, evidence in rows("Requirements") if evidence == "Planned."}
    assert called == {name for name, state in defined() if state == "planned"}, "name its tests in docs/ledger.md"


def test_each_item_of_asvs_is_listed_once() -> None:
    names = [name for name, _state, _shown in items()]
    assert [name for name in names if not _ITEM.fullmatch(name) or not expanded(name)] == [], "no such item"
    listed = Counter(item for name in names for item in expanded(name))
    assert [item for item, count in listed.items() if count > 1] == []
    assert [item for section in SECTIONS for item in expanded(section) if item not in listed] == []


def test_each_item_of_asvs_has_a_state_and_evidence() -> None:
    assert [name for name, state, shown in items() if state not in STATES or not shown.strip()] == []
