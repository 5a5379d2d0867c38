"""Languages to test with: each text in brackets, with the language's code and the plural category in front."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog

from auth_portal import i18n
from translations import catalogs

CODES = ("zu", "ar", "fr")  # one like English, one from right to left with six plural forms, one with three
_TEXTS: list[Catalog] = []


def all_texts() -> Catalog:
    """Every text of today; extracted once, since nothing here changes it."""
    if not _TEXTS:
        _TEXTS.append(catalogs.template())
    return _TEXTS[0]


def translate(folder: Path, locale: str, *, is_complete: bool = True, end: str = "") -> None:
    """Write a catalog with every text of today "translated", and compile it. ``end`` is put behind each."""
    catalogs.add_language(locale, folder)
    one = catalogs.merged(folder, locale, all_texts())
    one.marks["X-Complete"] = "yes" if is_complete else "no"
    categories = catalogs.plural_rule(locale)[1]
    for message in one.catalog:
        if not message.id:
            continue
        if isinstance(message.id, tuple):
            message.string = tuple(f"[{locale} {category}] {message.id[1]}{end}" for category in categories)
        else:
            message.string = f"[{locale}] {message.id}{end}"
    path = folder / one.path
    path.write_text(catalogs.po_text(one), encoding="utf-8")
    path.with_suffix(".mo").write_bytes(catalogs.mo_bytes(one))


@pytest.fixture(scope="session")
def catalog_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with catalogs of CODES, and of German, which is not complete."""
    folder = tmp_path_factory.mktemp("translations")
    for code in CODES:
        translate(folder, code)
    translate(folder, "de", is_complete=False)
    return folder


@pytest.fixture
def languages(catalog_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the portal find these languages in place of its own. Ask for it before the world."""
    monkeypatch.setattr(i18n, "TRANSLATIONS", catalog_folder)
    i18n.forget_languages()
    yield
    monkeypatch.undo()
    i18n.forget_languages()
