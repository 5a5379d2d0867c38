"""What Flow is told: the exact bytes of one result, made once when a verification ends."""

from __future__ import annotations

import json
from collections.abc import Mapping

from auth_portal.services.config.journey import DATA_TEXT, PLACEHOLDER, JourneyConfig

VERIFIED = "verified"
VALUE_LENGTH = 512  # characters of one rendered value; Flow's variables are short strings


def result_body(journey: JourneyConfig, outcome: str, reference: str, facts: Mapping[str, str]) -> str:
    """The JSON body. Every configured key is always there, empty without a value, so that nothing old survives.

    Nothing personal is told on failure: only ``outcome``, ``journey`` and ``locale`` have a value then.
    """
    told = {"outcome": outcome, "journey": journey.slug, **(facts if outcome == VERIFIED else {})}
    data = {key: _filled(text, told) for key, text in journey.data.items()}
    body = {"result": journey.results[outcome], "reference": reference, "data": data}
    return json.dumps(body, ensure_ascii=True, separators=(",", ":"))


def _filled(text: str, told: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda found: told.get(found.group(1), ""), text[:DATA_TEXT])[:VALUE_LENGTH]
