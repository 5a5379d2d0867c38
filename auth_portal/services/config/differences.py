"""What differs between two states of a configuration, key by key, in words that an admin reads.

Knows nothing of secrets: whoever compares puts ``"keep"`` or a mark in their place first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Difference(NamedTuple):
    """One key that differs. A side is empty where the key has no value there."""

    key: str
    before: str
    after: str


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """The keys whose values differ, in the order of ``before``, then what is new. Keys read ``steps[2].any_of``.

    Tables are compared key by key, lists of tables place by place, and any other value as a whole.
    """
    old, new = dict(_flat("", before)), dict(_flat("", after))
    keys = [*old, *(key for key in new if key not in old)]
    found = (Difference(key, old.get(key, ""), new.get(key, "")) for key in keys)
    return [difference for difference in found if difference.before != difference.after]


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Each value with its key. An empty table or list gives nothing."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flat(f"{key}.{name}" if key else str(name), part)
    elif _is_list(value) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value, 1):  # counted from 1, as people do
            yield from _flat(f"{key}[{number}]", item)
    else:
        yield key, in_words(value)


def in_words(value: Any) -> str:
    """A value as the config file's reader would say it: ``yes`` and ``no``, lists with commas."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_list(value):
        return ", ".join(in_words(item) for item in value)
    return str(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
