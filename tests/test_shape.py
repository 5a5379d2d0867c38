"""Limits that keep the code readable. Each bound is what was reached; lower one when the code allows it."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from functools import reduce
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "auth_portal"
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {path: ast.parse(text) for path, text in SOURCES.items()}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}

MOST_MODULES = 170
MOST_IMPORTS = 5.55  # of our own modules, by the average module
MOST_USED_ONCE = 0.113  # private helpers that are used once in their module, of all functions
MOST_SKIPS = 0  # places where the formatter is switched off
LONGEST_FUNCTION = 50  # lines
LONGEST_STYLE_LINE = 120  # characters, of stylesheets and templates
# Words of a translation.
# Stored values cannot be renamed: a fact of old audit events, a key of stored counts and of the personal data export.
STORED = ('"told"', '"nobody"', '"nobody to send to"')
ODD_WORDS = re.compile(r"\b(told|whoever|nobody|somebody|anew|mend|mends|mended|beside|whom)\b", re.IGNORECASE)


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def imported(tree: ast.AST) -> set[str]:
    """Our own modules that a module imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found


def test_modules_are_few_and_know_few_others() -> None:
    assert len(MODULES) <= MOST_MODULES
    assert sum(len(imported(tree)) for tree in TREES.values()) / len(MODULES) <= MOST_IMPORTS


def test_functions_are_short_and_helpers_are_worth_their_name() -> None:
    found, used_once = 0, []
    for path, tree in TREES.items():
        names = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        names += Counter(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
        for function in functions(tree):
            found += 1
            length = (function.end_lineno or 0) - function.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{path}: {function.name} has {length} lines"
            if re.match(r"_(?!_)", function.name) and names[function.name] == 1:
                used_once.append(function.name)
    assert len(used_once) / found <= MOST_USED_ONCE


def test_the_formatter_is_rarely_switched_off() -> None:
    assert sum(text.count("fmt: skip") for text in SOURCES.values()) <= MOST_SKIPS


def test_a_class_name_means_one_thing() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_text_reads_like_a_translation() -> None:
    readable = [*SOURCES, *(path for path in (ROOT / "templates").rglob("*") if path.suffix in (".html", ".txt"))]
    readable += [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), *(ROOT / "static").glob("*.js")]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in readable
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if ODD_WORDS.search(reduce(lambda rest, stored: rest.replace(stored, ""), STORED, line))
    ]
    assert found == []


def test_admin_templates_import_what_they_use() -> None:
    """Or what a template uses that they pull in with their context."""
    texts = {
        str(path.relative_to(ROOT / "templates")): path.read_text() for path in (ROOT / "templates").rglob("*.html")
    }
    unused = []
    for name in (name for name in texts if name.startswith("admin/")):
        text = texts[name]
        pulled = re.findall(r'{%-? (?:from|include) "([^"]+)"', text)
        within = Counter(re.findall(r"\w+", text + "".join(texts.get(other, "") for other in pulled)))
        for imports in re.findall(r'{%-? from "[^"]+" import (.*?)(?: with context)? ?%}', text, re.DOTALL):
            names = [re.sub(r"\s+", " ", one).strip().split(" as ")[-1] for one in imports.split(",")]
            in_place = Counter(re.findall(r"\w+", text))
            unused += [f"{name}: {one}" for one in names if in_place[one] == 1 and within[one] - in_place[one] == 0]
    assert unused == []


def test_templates_have_short_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (ROOT / "templates").rglob("*")
        if path.suffix in (".html", ".txt")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > LONGEST_STYLE_LINE
    ]
    assert long == []


def test_stylesheets_have_short_lines_and_use_what_is_defined() -> None:
    """A colour that is not defined shows as none: the pages of the configuration take theirs from one palette."""
    styles = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "static").glob("*.css")}
    long = [
        f"{name}:{number}"
        for name, text in styles.items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > LONGEST_STYLE_LINE
    ]
    assert long == []
    for name in ("admin.css", "charts.css", "journeys.css", "reference.css", "sandbox.css"):
        text = styles[name] + ("" if name == "sandbox.css" else styles["palette.css"] + styles["admin.css"])
        assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= set(re.findall(r"(?<![\w(-])(--[\w-]+):", text)), name
