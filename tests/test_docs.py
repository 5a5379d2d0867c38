"""Documents: what they name exists, and what an operator can set, run or read in the log is documented."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from auth_portal import cli
from auth_portal.__main__ import console
from auth_portal.gateways.channels import KINDS
from auth_portal.methods import METHOD_NAMES
from auth_portal.services.access.api_keys import SCOPES
from auth_portal.services.config.journey import CallbackTarget, JourneyConfig, JourneyLimits, JourneyTexts
from auth_portal.services.config.portal import AlertSettings, PortalLimits, PortalSettings, Retention
from auth_portal.services.config.wording import OWN
from auth_portal.settings import PREFIX, Settings
from tests.test_requirements import ROOT, texts

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
_DOCUMENT = re.compile(r"(?<![\w/.:-])[\w./-]*[\w-]\.md\b")
_LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_PAGE_WORDS = re.compile(r"(?<![*\w])\*([A-Z][^*]+)\*(?![*\w])")  # *Set up in Chat Flow*
_CELL = re.compile(r"^\| ([^|]+) \|", re.MULTILINE)
_NAME = re.compile(r"`([^`]+)`")
_PLACE = re.compile(r"`((?:auth_portal|bench|deploy|docs|migrations|static|templates|tests|\.ci)/[\w./-]*)`")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Return the anchors that a document's headings get on GitHub."""
    headings = _HEADING.findall(_FENCE.sub("", path.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_text_names_a_document_that_is_not_here() -> None:
    missing = []
    for path, text in texts():
        for name in set(_DOCUMENT.findall(text)):
            if not any((folder / name).exists() for folder in (ROOT, path.parent, ROOT / "docs")):
                missing.append(f"{path.relative_to(ROOT)}: {name}")
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in _LINK.findall(path.read_text()):
        found = (path.parent / target) if target else path
        assert found.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(found), f"{path.name}: {target}#{anchor}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_and_folder_that_is_named_exists(path: Path) -> None:
    places = _PLACE.findall(path.read_text()) if path.name != "CHANGELOG.md" else ()  # it names the past
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_the_readme_lists_every_part_of_services() -> None:
    services = ROOT / "auth_portal" / "services"
    parts = {f"{path.parent.name}/" for path in services.glob("*/__init__.py")}
    parts |= {path.name for path in services.glob("*.py") if path.stem != "__init__"}
    table = section((ROOT / "README.md").read_text(), "## How it is built").partition("`auth_portal/services`")[2]
    assert first_cells(table) == parts


def test_every_picture_is_shown() -> None:
    shown = "".join(path.read_text() for path in DOCUMENTS)
    assert [path.name for path in (ROOT / "docs" / "images").iterdir() if path.name not in shown] == []


def spoken(text: str) -> str:
    """Return a text on one line, with joined literals and one kind of apostrophe."""
    text = re.sub(r'"\s*\n\s*f?"', "", text)
    return " ".join(text.replace("’", "'").split())


def test_words_quoted_from_a_page_are_on_a_page() -> None:
    """Italics that begin with a capital letter are the words of a page, such as a button's."""
    paths = [*(ROOT / "templates").rglob("*.*"), *(ROOT / "auth_portal").rglob("*.py")]
    pages = spoken("\n".join(path.read_text() for path in paths))
    missing = []
    for path in DOCUMENTS:
        for words in _PAGE_WORDS.findall(_FENCE.sub("", path.read_text())):
            if any(part.strip(" .:") not in pages for part in spoken(words).split("…")):
                missing.append(f"{path.name}: {words}")
    assert missing == []


def document(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def first_cells(text: str) -> set[str]:
    """Return every name in backticks in the first columns of a text's tables."""
    return {name for cell in _CELL.findall(text) for name in _NAME.findall(cell)}


def section(text: str, heading: str) -> str:
    """Return the text from a heading to the next one of any level."""
    _before, found, after = text.partition(f"\n{heading}\n")
    assert found, heading
    return re.split(r"^#", after, maxsplit=1, flags=re.MULTILINE)[0]


def test_every_setting_is_documented_and_exists() -> None:
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    assert first_cells(section(document("operations.md"), "## Settings")) == names


def named_commands(group: click.Group, before: str = "auth-portal") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from named_commands(command, f"{before} {name}")
        else:
            yield f"{before} {name}"


def test_every_command_is_documented_and_exists() -> None:
    shown = first_cells(section(document("operations.md"), "## Commands"))
    known = {*named_commands(console), *named_commands(cli.commands)}
    assert {re.match(r"auth-portal( [a-z]+)+", line)[0] for line in shown} == known  # type: ignore[index]


def logged() -> Iterator[str]:
    """Yield the event of each log line that is written out in the code."""
    for path in (ROOT / "auth_portal").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                names = [keyword.value for keyword in node.keywords if keyword.arg == "fault"]
                names += node.args[:1] if name.split(".")[-1] in ("log_event", "exception") else []
                for value in names:
                    if isinstance(value, ast.Constant) and re.fullmatch(r"[a-z_]+", str(value.value)):
                        yield str(value.value)


def test_every_event_of_the_log_is_documented() -> None:
    assert sorted(set(logged()) - first_cells(section(document("operations.md"), "## The log"))) == []


def keys(model: type[BaseModel], *, apart: tuple[str, ...] = ()) -> set[str]:
    """Return the keys of a table in the config file, without those that have a table of their own."""
    return set(model.model_fields) - set(apart)


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("## `[portal]`", keys(PortalSettings, apart=("limits", "retention", "alerts"))),
        ("### `[portal.limits]`", keys(PortalLimits)),
        ("### `[portal.retention]`", keys(Retention)),
        ("### `[portal.alerts]`", keys(AlertSettings)),
        ("## `[[journeys]]`", keys(JourneyConfig, apart=("callback", "results", "data", "limits", "texts", "wording"))),
        ("### Steps", set(METHOD_NAMES)),
        ("### `[journeys.callback]`", keys(CallbackTarget)),
        ("### `[journeys.texts]`", keys(JourneyTexts)),
        ("### `[journeys.wording.<language>]`", set(OWN)),
        ("### `[journeys.limits]`", keys(JourneyLimits)),
    ],
)
def test_every_key_of_the_config_file_is_documented_and_exists(heading: str, expected: set[str]) -> None:
    assert first_cells(section(document("config-file.md"), heading)) == expected


def test_every_limit_is_documented_with_its_default() -> None:
    text = section(document("config-file.md"), "### `[journeys.limits]`")
    for name, field in JourneyLimits.model_fields.items():
        default = str(list(field.default)) if isinstance(field.default, tuple) else str(field.default)
        assert re.search(rf"^\| `{name}` \| `?{re.escape(default)}`? \|", text, re.MULTILINE), name


def test_every_kind_of_channel_is_documented() -> None:
    text = document("config-file.md")
    assert [kind for kind in KINDS if f'`kind = "{kind}"`' not in text] == []


def test_every_scope_is_documented() -> None:
    assert first_cells(section(document("api.md"), "## Keys")) == set(SCOPES)
