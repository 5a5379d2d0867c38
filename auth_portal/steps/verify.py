"""The step in which a person proves who they are, by any one of its methods."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from auth_portal.methods import METHOD_NAMES


class Verify(BaseModel):
    """Passed by one of ``any_of`` that no earlier step of the visit was passed with (R37)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["verify"] = "verify"
    any_of: Annotated[tuple[str, ...], Field(min_length=1)]

    @field_validator("any_of")
    @classmethod
    def _known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(methods) - set(METHOD_NAMES):
            raise ValueError(f"unknown method {', '.join(sorted(unknown))}; known: {', '.join(METHOD_NAMES)}")
        if len(set(methods)) != len(methods):
            raise ValueError("a method is named twice")
        return methods

    def offered(self, proved: tuple[str, ...]) -> tuple[str, ...]:
        """What is left of ``any_of`` after what was proved."""
        return tuple(method for method in self.any_of if method not in proved)
