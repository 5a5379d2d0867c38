"""The import rule of the architecture, and a few rules of the whole source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "auth_portal"
BASE = {"settings", "errors", "crypto", "telemetry", "i18n", "clock"}
# A part sees itself and these.
MAY_SEE = {
    "bootstrap": {"web", "cli", "sandbox", "services", "steps", "methods", "store", "gateways"} | BASE,
    "web": {"services"} | BASE,
    "cli": {"services"} | BASE,
    "sandbox": {"services"} | BASE,
    "services": {"steps", "methods", "store", "gateways"} | BASE,
    "steps": {"methods"} | BASE,
    "methods": {"store", "gateways"} | BASE,
    "gateways": BASE,
    "store": BASE,
    **{part: BASE for part in BASE},
}
FLASK = {"web", "cli", "sandbox", "bootstrap"}
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports"
            yield node, node.module or ""
            if (node.module or "").startswith("auth_portal"):
                yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        assert not list(imports(ast.parse(path.read_text())))
        return
    for _node, name in imports(ast.parse(path.read_text())):
        if name.startswith("auth_portal."):
            seen = name.split(".")[1]
            assert seen == part or seen in MAY_SEE[part], f"{part} must not import {seen}"
        if name.split(".")[0] == "flask":
            assert part in FLASK, f"{part} must not know of flask"
        if name.split(".")[0] == "requests":
            assert part == "gateways", f"{part} must not send HTTP itself"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_hides_inside_a_function(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            assert not [node for node in ast.walk(function) if isinstance(node, (ast.Import, ast.ImportFrom))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_place_reads_the_environment_and_one_commits(path: Path) -> None:
    text = path.read_text()
    if path.name != "settings.py":
        assert "os.environ" not in text
        assert "getenv" not in text
    if path.relative_to(PACKAGE).as_posix() != "store/db.py" and part_of(path) != "sandbox":
        assert ".commit()" not in text
        assert ".begin()" not in text


def test_time_comes_from_the_clock_alone() -> None:
    for path in FILES:
        if path.name == "clock.py" or part_of(path) == "sandbox":
            continue
        text = path.read_text()
        for forbidden in ("datetime.now(", "utcnow(", "time.time(", "func.now(", "CURRENT_TIMESTAMP"):
            assert forbidden not in text, f"{path}: {forbidden}"


def test_the_web_loads_no_alembic() -> None:
    """Worker memory and start: a serving process loads nothing that it rarely needs; migrations are checked by name."""
    reached: set[str] = set()
    todo = ["auth_portal.bootstrap"]
    while todo:
        name = todo.pop()
        path = ROOT / (name.replace(".", "/") + ".py")
        path = path if path.exists() else ROOT / name.replace(".", "/") / "__init__.py"
        if name in reached:
            continue
        reached.add(name)
        if path.exists():
            todo += [found for _node, found in imports(ast.parse(path.read_text()))]
    assert {"auth_portal.store.db", "auth_portal.web.visitor", "auth_portal.services.dispatcher"} <= reached
    rare = ("alembic", "zxcvbn", "segno", "auth_portal.store.migrate", "auth_portal.sandbox")
    assert not [name for name in reached if name.startswith(rare)]
