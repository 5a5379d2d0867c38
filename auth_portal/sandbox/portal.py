"""The sandbox of a served portal: what it may know of the portal's journeys and demo, and nothing more.

Loaded only where PORTAL_SANDBOX is on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flask import Blueprint

from auth_portal.clock import Clock
from auth_portal.sandbox.contract import DemoPerson, JourneyCard
from auth_portal.sandbox.wiring import CSRF_EXEMPT, blueprint
from auth_portal.services.journeys import Snapshot
from auth_portal.services.operations import demo
from auth_portal.settings import Settings

__all__ = ["CSRF_EXEMPT", "demo_people", "journey_cards", "of_portal"]

METHODS = {
    "sms_code": "SMS code",
    "email_code": "e-mail code",
    "totp": "authenticator app",
    "password": "password",
    "support_code": "code from support",
}


def of_portal(settings: Settings, snapshot: Callable[[], Snapshot], clock: Clock) -> Blueprint:
    """The sandbox beside a portal, to be registered once. ``snapshot`` gives the configuration of the moment."""
    return blueprint(
        settings.instance.absolute(),
        settings.public_url,
        lambda: journey_cards(snapshot()),
        clock,
        is_public=settings.sandbox == "public",
        demo_people=demo_people,
    )


def journey_cards(snapshot: Snapshot) -> list[JourneyCard]:
    """The active journeys that answer to the sandbox."""
    found = [now.config for now in snapshot.journeys.values()]
    return [
        JourneyCard(
            slug=journey.slug,
            name=journey.name,
            is_default=journey.default,
            contract=journey.callback.contract,
            results=journey.results,
            data=tuple(journey.data),
            chat_seconds=journey.chat_seconds,
            uses_chat_code=journey.relay_defence == "chat_code",
            methods_text=", then ".join(_in_words(step.any_of) for step in journey.verify_steps),
            business=snapshot.portal.name,
        )
        for journey in found
        if journey.active and journey.callback.server == "sandbox"
    ]


def demo_people() -> list[DemoPerson]:
    """Whom a newcomer can play."""
    return [DemoPerson(**person) for person in demo.demo_people()]


def _in_words(methods: Sequence[str]) -> str:
    return " or ".join(METHODS[method] for method in methods)
