"""The step in which a person says who they are. It proves nothing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

IdentifierKind = Literal["customer_id", "phone", "email"]


class Identify(BaseModel):
    """Names a customer by any of the given kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["identify"] = "identify"
    by: Annotated[tuple[IdentifierKind, ...], Field(min_length=1)]

    def offered(self, proved: tuple[str, ...]) -> tuple[str, ...]:
        """Nothing is proved here."""
        return ()
