"""What a step of a journey is: a frozen value with the kind that the config names, and what it offers."""

from __future__ import annotations

from typing import Protocol


class Step(Protocol):
    """One stage of a journey."""

    @property
    def kind(self) -> str:
        """The name in the config file and the registry."""
        ...

    def offered(self, proved: tuple[str, ...]) -> tuple[str, ...]:
        """The methods a person may choose from here, after those already proved in this visit."""
        ...
