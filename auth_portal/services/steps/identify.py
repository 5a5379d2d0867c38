"""The step in which a customer says who they are. It proves nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

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
