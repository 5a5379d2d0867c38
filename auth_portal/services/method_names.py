"""How admins and testers read methods: one rule for every page, story and notice."""

from __future__ import annotations

import re
from collections.abc import Sequence

from auth_portal.i18n import plain as _
from auth_portal.methods import METHOD_NAMES, words_of
from auth_portal.services.config.journey import JourneyConfig


def method_name(method: str) -> str:
    """One method, within a sentence; what is no method any more stands for itself."""
    return _(words_of(method).name)


def in_words(text: str) -> str:
    """A text in the config file's terms, with the methods called what admins call them."""
    return re.sub(r"\w+", lambda word: method_name(word[0]) if word[0] in METHOD_NAMES else word[0], text)


def any_method(methods: Sequence[str]) -> str:
    """A choice of methods: ``SMS code, e-mail code or password``."""
    *others, last = map(method_name, methods)
    return _("%(others)s or %(last)s", others=", ".join(others), last=last) if others else last


def all_proofs(journey: JourneyConfig) -> str:
    """What a journey asks for, step by step: ``password, then SMS code or authenticator app``."""
    return _(", then ").join(any_method(step.any_of) for step in journey.verify_steps)
