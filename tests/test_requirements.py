"""Requirement ids: every id that the project uses is defined once in docs/requirements.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "docs" / "requirements.md"
FOLDERS = (".ci", "auth_portal", "bench", "deploy", "docs", "migrations", "static", "templates", "tests")
TEXTS = {".css", ".html", ".js", ".md", ".py", ".sh", ".toml", ".txt"}
_ROW = re.compile(r"^\| ([RDE]\d+a?) \|.*\| (built|partly|planned) \|$", re.MULTILINE)
_USED = re.compile(r"\b[RDE]\d{1,2}a?\b")
_TEST_NAME = re.compile(r"def test_([rde])0?(\d{1,2}a?)_")


def texts() -> Iterator[tuple[Path, str]]:
    """Yield every text file of the project with its content."""
    paths = [path for path in ROOT.iterdir() if path.suffix in TEXTS or path.name == "Makefile"]
    paths += [
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in TEXTS or not path.suffix
    ]
    for path in sorted(paths):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path, path.read_text()


def defined() -> list[tuple[str, str]]:
    return _ROW.findall(REQUIREMENTS.read_text())


def test_each_id_is_defined_once() -> None:
    ids = Counter(name for name, _state in defined())
    assert len(ids) > 70, "the table was not read"
    assert [name for name, count in ids.items() if count > 1] == []


def test_each_id_in_use_is_defined() -> None:
    known = {name for name, _state in defined()}
    unknown = []
    for path, text in texts():
        used = set(_USED.findall(text)) | {letter.upper() + number for letter, number in _TEST_NAME.findall(text)}
        unknown += [f"{path.relative_to(ROOT)}: {name}" for name in sorted(used - known)]
    assert unknown == []


def test_what_a_test_proves_is_not_called_planned() -> None:
    planned = {name for name, state in defined() if state == "planned"}
    tested = {letter.upper() + number for _path, text in texts() for letter, number in _TEST_NAME.findall(text)}
    assert sorted(planned & tested) == []
