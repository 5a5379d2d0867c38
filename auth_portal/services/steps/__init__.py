"""The kinds of step a journey is made of. A new kind is one file (see ``contract``) and its name in ``AnyStep``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, get_args

from pydantic import Field

from auth_portal.services.steps.contract import FormData, Given, PageTime, Step, first, text_of, typed_texts
from auth_portal.services.steps.handover import HANDED_OVER, HandOver, HandoverOption
from auth_portal.services.steps.proof import Identify, Verify
from auth_portal.services.steps.questions import Question, Questions
from auth_portal.services.steps.terms import DECLINED, Terms

__all__ = [
    "ADDED",
    "DECLINED",
    "FIRST",
    "HANDED_OVER",
    "STEPS",
    "AnyStep",
    "FormData",
    "Given",
    "HandOver",
    "HandoverOption",
    "PageTime",
    "Question",
    "Questions",
    "Step",
    "Terms",
    "first",
    "text_of",
    "typed_texts",
]

AnyStep = Annotated[Identify | Verify | Terms | Questions | HandOver, Field(discriminator="kind")]

STEPS: Mapping[str, type[Step]] = {step.model_fields["kind"].default: step for step in get_args(get_args(AnyStep)[0])}
FIRST = next(kind for kind, step in STEPS.items() if step.names_customer)
ADDED = tuple(kind for kind, step in STEPS.items() if step.add_label)  # the first one is the usual one
