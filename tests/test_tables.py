"""Each table has one room that writes it: the others call that room's functions."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "auth_portal"
MODELS = {
    node.name
    for node in ast.walk(ast.parse((PACKAGE / "store/models.py").read_text()))
    if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Base" for base in node.bases)
}
TABLE_AT = dict.fromkeys(("insert", "update", "delete"), 0)
TABLE_AT |= dict.fromkeys(("dialect_insert", "insert_many", "update_many", "update_signed"), 1)
# These write a table that they are given: each of them only for the room that calls it, or for its own.
GENERIC = {"store.keys", "store.db", "store.rows", "services.imports.store", "services.operations.retention"}
# Rooms that write a table of another room, and why. Nothing may be added without a reason.
GUESTS = {
    # What is old enough, or about an erased person, is deleted where it is found: the rule is one for all tables.
    "operations": {
        *("Attempt", "Challenge", "Delivery", "Journey", "JourneyVersion", "TicketRow", "Verification"),
        *("Tries", "Visit", "Acceptance", "AnswerRow"),
        # After a restore, what was live or could be used once is closed in one transaction, whatever its room.
        *("Admin", "AdminLink", "AdminSession", "ApiAnswer", "ChangeFeed", "CredentialLink", "CustomerRow"),
    },
    # The first row of the settings comes with the keys, in one transaction; MACs that are missing are written for all
    # tables alike, those of temporary codes and of rows that an import has staged among them.
    "store": {"Portal", "CustomerRow", "StagedRow"},
    # What a channel's last message came to is stored by its delivery; the settings only delete it with the channel.
    "delivery": {"ChannelState"},
}


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[1] if parts[0] == "services" and len(parts) > 1 else parts[0]


def model_of(node: ast.expr, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id if node.id in MODELS else "")
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "table_of":
        return model_of(node.args[0], aliases)
    is_table = isinstance(node, ast.Attribute) and node.attr == "__table__"
    return model_of(node.value, aliases) if is_table else ""  # type: ignore[attr-defined]


def aliases_in(tree: ast.AST) -> dict[str, str]:
    """The names that a module gives to tables, such as ``_CUSTOMERS = table_of(CustomerRow)``."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            values = value.elts if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) else [value]
            for name, given in zip(names, values, strict=False):
                if isinstance(name, ast.Name) and model_of(given, aliases):
                    aliases[name.id] = model_of(given, aliases)
    return aliases


def tables_written(tree: ast.AST) -> Iterator[str]:
    """The models that a module inserts, updates or deletes; an empty name for a table that it is given."""
    aliases = aliases_in(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TABLE_AT:
            position = TABLE_AT[node.func.id]
            if len(node.args) > position:
                yield model_of(node.args[position], aliases)


def test_each_table_is_written_by_one_room() -> None:
    writers: dict[str, set[str]] = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for table in tables_written(ast.parse(path.read_text())):
            if table:
                writers[table].add(room_of(path))
            else:
                assert module in GENERIC, f"{module} writes a table whose name its source does not show"
    for table, rooms in writers.items():
        owners = {room for room in rooms if table not in GUESTS.get(room, ())}
        assert len(owners) == 1, (table, rooms)
    for room, tables in GUESTS.items():
        for table in tables:
            assert room in writers[table], f"{room} no longer writes {table}: take it from the list"
