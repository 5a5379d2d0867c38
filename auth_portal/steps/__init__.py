"""The kinds of step a journey is made of. A new kind is one file and one line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from auth_portal.steps.identify import Identify
from auth_portal.steps.verify import Verify

__all__ = ["AnyStep", "Identify", "Verify"]

AnyStep = Annotated[Identify | Verify, Field(discriminator="kind")]
