"""The import rule of the architecture, and a few rules of the whole source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "auth_portal"
BASE = {"settings", "errors", "crypto", "telemetry", "i18n", "clock", "typed"}
# A part sees itself and these.
MAY_SEE = {
    "__main__": {"bootstrap", "settings"},
    "bootstrap": {"web", "cli", "sandbox", "services", "methods", "store", "gateways"} | BASE,
    "web": {"services"} | BASE,
    "cli": {"services"} | BASE,
    "sandbox": {"services"} | BASE,
    "services": {"methods", "store", "gateways"} | BASE,
    "methods": {"store", "gateways"} | BASE,
    "gateways": BASE,
    "store": BASE,
    **dict.fromkeys(BASE, BASE),
}
FLASK = {"web", "cli", "sandbox", "bootstrap", "__main__"}
# Inside services/, a room sees the rooms of the later lines; two rooms of one line do not see each other.
ROOMS: tuple[frozenset[str], ...] = (
    frozenset({"serving"}),
    frozenset({"history", "rehearsal", "reach", "operations"}),
    frozenset({"verification", "imports", "access", "alerts"}),
    frozenset({"delivery"}),
    frozenset({"directory"}),
    frozenset({"config"}),
    frozenset({"steps"}),
    frozenset({"limits", "audit_chain"}),
)
DANGEROUS_MODULES = {"subprocess", "pty", "pickle", "marshal", "shelve", "dill", "yaml", "xml", "lxml", "code"}
# Backups of PostgreSQL are made by its own programs. Only commands load that module, and no shell reads what they get.
PROGRAMS = {"services/operations/backups.py": {"subprocess"}}
DANGEROUS_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.spawnv"}
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


def room_of(name: str) -> str:
    """The child of services/ that a dotted name stands in, or nothing."""
    parts = name.split(".")
    return parts[2] if parts[:2] == ["auth_portal", "services"] and len(parts) > 2 else ""


def level_of(room: str) -> int:
    return next(number for number, rooms in enumerate(ROOMS) if room in rooms)


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) == "services"], ids=lambda path: path.stem)
def test_imports_go_one_way_inside_the_services(path: Path) -> None:
    room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if room in ("", "__init__"):
        return
    for _node, name in imports(ast.parse(path.read_text())):
        seen = room_of(name)
        assert seen in ("", room) or level_of(seen) > level_of(room), f"services/{room} must not import {name}"


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
    load = "import sys; from auth_portal.bootstrap import create_app; create_app(); print(*sys.modules)"
    reached = subprocess.run(
        [sys.executable, "-c", load], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"auth_portal.store.db", "auth_portal.web.visitor", "auth_portal.services.operations.dispatcher"} <= {
        *reached
    }
    rare: tuple[str, ...] = (
        "alembic",
        "zxcvbn",
        "segno",
        "jwt",
        "auth_portal.sandbox",
        "sqlalchemy.orm",
        "markdown_it",
    )
    rare += ("auth_portal.services.operations.installation", "auth_portal.services.operations.backups")
    assert not [name for name in reached if name.startswith(rare)]


HARMLESS_CALLS = {"all", "any", "isinstance", "issubclass", "len", "set", "sorted"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_an_assert_only_looks(path: Path) -> None:
    """``python -O`` drops every assert, so none may do any work."""
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Assert):
            for node in ast.walk(statement.test):
                assert not isinstance(node, (ast.NamedExpr, ast.Await, ast.Yield)), f"line {statement.lineno}"
                if isinstance(node, ast.Call):
                    assert ast.unparse(node.func) in HARMLESS_CALLS, f"line {statement.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_command_is_run_and_no_text_is_executed(path: Path) -> None:
    """The portal starts no program but PostgreSQL's for backups, and runs or unpacks nothing that it was given."""
    tree = ast.parse(path.read_text())
    found = {name.partition(".")[0] for _node, name in imports(tree)} & DANGEROUS_MODULES
    assert found == PROGRAMS.get(path.relative_to(PACKAGE).as_posix(), set())
    assert "shell=" not in path.read_text()
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & DANGEROUS_CALLS


def test_d12_what_a_transaction_does_is_logged_after_its_commit() -> None:
    """A function that is given a ``Work``, and a block that opens one, log with ``Work.log``."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            is_given = isinstance(node, ast.FunctionDef) and any(arg.arg == "work" for arg in node.args.args)
            opens = isinstance(node, ast.With) and any(
                isinstance(item.optional_vars, ast.Name) and item.optional_vars.id == "work" for item in node.items
            )
            if is_given or opens:
                found += [
                    f"{path.relative_to(PACKAGE)}:{call.lineno}"
                    for call in ast.walk(node)
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "log_event"
                ]
    assert found == []
