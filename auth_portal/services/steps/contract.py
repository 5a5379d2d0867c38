"""What a step of a journey is: a frozen value with the kind that the config names.

A new kind is one file with a ``Step``, its part of the journey form (``templates/admin/journeys/steps/<kind>.html``),
its test and one line in the registry.

At run time ``Case.step`` is the place of a customer in ``JourneyConfig.steps``: the first step names the customer, and
of each later one the verification offers those ``methods`` that are left. A step that has none left ends the
verification as ``unavailable``. So a kind that does not prove by a method needs more before customers can pass it: its
stage and moves (``verification/case.py``), what its page shows (``verification/page.py``), what its form does
(``verification/prove.py``, or a route in ``web/visitor.py``), and its template (``templates/visitor/<stage>.html``).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict


class FormData(Protocol):
    """The fields of a form that was sent."""

    def getlist(self, key: str, /) -> list[str]:
        """Return every value of a field."""


class Step(BaseModel):
    """One step of a journey. Its fields are the keys of the config file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names_customer: ClassVar[bool] = False  # a customer says who they are in it
    proves: ClassVar[bool] = False  # a customer proves it in it
    add_label: ClassVar[str] = ""  # the button that adds one to the journey form, in English
    methods_key: ClassVar[str] = ""  # the field that holds its methods, as faults name it

    kind: str

    @property
    def identifiers(self) -> tuple[str, ...]:
        """Return the identifiers that a customer may enter here."""
        return ()

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the methods of which any one passes the step, unless an earlier step used it (R37)."""
        return ()

    @classmethod
    @abstractmethod
    def read_form(cls, form: FormData, field: str) -> dict[str, Any] | None:
        """Return what the journey form says of a step, as the config file writes it; None if it was left out.

        ``field`` is what the names of the step's fields begin with.
        """
