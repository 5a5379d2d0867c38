"""Read the config file: TOML into checked values, all faults at once, each with its file, table and key.

What a file may say by itself is decided here; whether it fits what is stored, in ``rules``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from auth_portal.errors import Misconfigured
from auth_portal.methods import name_methods
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.portal import PortalSettings
from auth_portal.services.steps import STEPS

Model = TypeVar("Model", bound=BaseModel)

MOST_DOTS = 300  # of one line: a key with n dots costs tomllib n², 30 kB of them three seconds
TABLES = ("portal", "channels", "journeys")
KNOWN_PATTERNS = {
    "slug": "must be small letters, digits and dashes, 41 at most",
    "default_region": "must be two capital letters such as ZA",
}


class Fault(NamedTuple):
    """One thing that is wrong: with a key, a table, or without a table the whole configuration."""

    table: str
    key: str
    reason: str  # in the words of the config file

    @property
    def words(self) -> str:
        """Return the reason for a page, with methods named as admins know them."""
        return name_methods(self.reason)


class BadConfig(Misconfigured):
    """A configuration was refused: one line per fault, and nothing was written. ``found`` is for forms."""

    def __init__(self, *lines: str, found: Sequence[Fault] = ()) -> None:
        super().__init__(*lines)
        self.found = tuple(found)


@dataclass
class Faults:
    """Collect what is wrong, so that all of it is reported at once."""

    file_name: str
    found: list[Fault] = field(default_factory=list)

    def add(self, table: str, key: str, reason: str) -> None:
        """Note one fault. Table, key and reason contain no value of the file except names."""
        self.found.append(Fault(table, key, reason))

    def raise_if_any(self) -> None:
        """Raise BadConfig with every fault, if there is one."""
        lines = []
        for table, key, reason in self.found:
            place = " ".join(part for part in (table, key) if part)
            lines.append(": ".join(part for part in (self.file_name, place, reason) if part))
        if lines:
            raise BadConfig(*lines, found=self.found)


@dataclass(frozen=True)
class Table:
    """One ``[[channels]]`` or ``[[journeys]]`` of the file, and its place there in words."""

    place: str
    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class ConfigFile:
    """What a file says. The channels are still raw: their secrets may be "keep"."""

    portal: Mapping[str, Any] | None
    channels: tuple[Table, ...]
    journeys: Mapping[str, JourneyConfig]
    places: Mapping[str, str]  # of journeys, by slug


def read_config(text: str, faults: Faults) -> ConfigFile:
    """Read a file and note its faults. Raise BadConfig immediately if it is not TOML."""
    if any(line.count(".") > MOST_DOTS for line in text.splitlines()):
        raise BadConfig(f"{faults.file_name}: cannot be a config file: a line has more than {MOST_DOTS} dots")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # its message has line and column, and no value
        raise BadConfig(f"{faults.file_name}: is not TOML: {error or 'nested too deeply'}") from None
    for name in document.keys() - set(TABLES):
        faults.add(name, "", f"is not known; known: {', '.join(TABLES)}")
    journey_tables = list(_tables(document, "journeys", "slug", faults))
    journeys = {}
    for table in journey_tables:
        if (config := parse(JourneyConfig, table.values, table.place, faults)) is not None:
            journeys[config.slug] = config
    defaults = [slug for slug, journey in journeys.items() if journey.default]
    if len(defaults) > 1:
        faults.add("journeys", "default", f"is true for {' and '.join(defaults)}; only one can be the default")
    return ConfigFile(
        portal=_portal(document, faults),
        channels=tuple(_tables(document, "channels", "name", faults)),
        journeys=journeys,
        places={table.name: table.place for table in journey_tables},
    )


def _portal(document: Mapping[str, Any], faults: Faults) -> Mapping[str, Any] | None:
    values = document.get("portal")
    if values is None:
        return None
    if not isinstance(values, dict):
        faults.add("portal", "", "must be written as [portal]")
        return None
    parse(PortalSettings, values, "portal", faults)
    return values


def _tables(document: Mapping[str, Any], kind: str, key: str, faults: Faults) -> Iterator[Table]:
    values = document.get(kind, [])
    if not isinstance(values, list) or not all(isinstance(table, dict) for table in values):
        faults.add(kind, "", f"must be written as [[{kind}]]")
        return
    seen: dict[str, str] = {}
    for number, table in enumerate(values, 1):
        name = table.get(key)
        named = f' "{name}"' if isinstance(name, str) else ""
        place = f"{kind}[{number}]{named}"
        if named and name in seen:
            faults.add(place, key, f"is the same as that of {seen[name]}")
        seen[str(name)] = place
        yield Table(place, str(name), table)


def parse(model: type[Model], values: Mapping[str, Any], place: str, faults: Faults) -> Model | None:
    """Return the values as a model, or None with faults. TOML has types, so nothing is converted."""
    try:
        return model.model_validate(_with_tuples(values), strict=True)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        broken = {_key(fault["loc"]) for fault in found}
        for fault in found:
            key = _key(fault["loc"])
            is_echo = fault["type"] == "too_short" and any(other.startswith(f"{key}[") for other in broken)
            if not is_echo:
                faults.add(place, key, _reason(key, fault))
        return None


def _with_tuples(value: Any) -> Any:
    """Return a value with its lists as tuples, as frozen models need them."""
    if isinstance(value, list):
        return tuple(_with_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return value


def _key(location: tuple[int | str, ...]) -> str:
    """Return a key such as ``steps[2].any_of``: counted from 1, as people do."""
    text = ""
    for before, part in zip(("", *location), location, strict=False):
        if isinstance(part, int):
            text += f"[{part + 1}]"
        elif not (isinstance(before, int) and part in STEPS):  # pydantic adds the kind that it chose
            text += f".{part}" if text else str(part)
    return text


def _reason(key: str, fault: Mapping[str, Any]) -> str:
    """Return what is wrong, in words for admins and without the value."""
    context = fault.get("ctx") or {}
    kind = fault["type"]
    if kind == "string_pattern_mismatch":
        return KNOWN_PATTERNS.get(key.rpartition(".")[2], "is not in the required form")
    if kind == "string_too_short" and context["min_length"] == 1:
        return "must not be empty"
    if kind in _REASONS:
        return _REASONS[kind].format_map(context)
    return str(fault["msg"]).removeprefix("Value error, ")


_REASONS = {
    "extra_forbidden": "is not known here",
    "missing": "is missing",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "literal_error": "must be {expected}",
    "int_type": "must be a whole number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "union_tag_invalid": "has an unknown kind; known: {expected_tags}",
    "union_tag_not_found": "needs a kind",
}
