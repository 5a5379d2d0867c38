"""Which of two journeys asks for less, where both answer Flow with the same text (R35).

Whoever holds a link can edit its path, so the weaker one decides how much such a text is worth. It is named to the
admin and on the landing page; nothing is allowed or refused by it.
"""

from __future__ import annotations

from collections.abc import Iterable

from auth_portal.methods import METHODS
from auth_portal.services.config.journey import JourneyConfig

_DEFENCE = {"none": 0, "chat_code": 1, "phone_match": 2}


def strength(journey: JourneyConfig) -> tuple[int, int, int]:
    """To compare by: steps, how hard each is by its easiest method, defence against a link that is sent on."""
    easiest = (min(METHODS[method].hardness for method in step.any_of) for step in journey.verify_steps)
    return len(journey.verify_steps), sum(easiest), _DEFENCE[journey.relay_defence]


def weaker_twins(journey: JourneyConfig, others: Iterable[JourneyConfig]) -> list[JourneyConfig]:
    """Active journeys that give the same text for ``verified`` to the same server and ask for less, weakest first."""
    if not journey.shares_result:
        return []
    weaker = [
        other
        for other in others
        if other.active
        and other.callback.server == journey.callback.server
        and other.results["verified"] == journey.results["verified"]
        and strength(other) < strength(journey)
    ]
    return sorted(weaker, key=strength)
