"""The steps of a proof: a customer says who they are, which proves nothing, then proves it by one of the methods."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from auth_portal.methods import METHOD_NAMES
from auth_portal.services.steps.contract import FormData, Step

IdentifierKind = Literal["customer_id", "phone", "email"]


class Identify(Step):
    """Name a customer by any of the given identifiers."""

    names_customer = True

    kind: Literal["identify"] = "identify"
    by: Annotated[tuple[IdentifierKind, ...], Field(min_length=1)]

    @property
    def identifiers(self) -> tuple[str, ...]:
        """Return the identifiers that a customer may enter."""
        return self.by

    @classmethod
    def read_form(cls, form: FormData, field: str) -> dict[str, Any]:  # noqa: ARG003 -- there is one of them
        """Return the identifiers that are checked."""
        return {"kind": "identify", "by": tuple(form.getlist("by"))}


class Verify(Step):
    """Passed by one of ``any_of`` that passed no earlier step of the visit (R37)."""

    proves = True
    add_label = "Add a step"
    methods_key = "any_of"

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

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Return the methods of which any one passes the step."""
        return self.any_of

    @classmethod
    def read_form(cls, form: FormData, field: str) -> dict[str, Any] | None:
        """Return the methods that are checked; without one the step is left out."""
        methods = tuple(form.getlist(field))
        return {"kind": "verify", "any_of": methods} if methods else None
