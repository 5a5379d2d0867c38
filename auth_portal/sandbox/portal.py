"""The sandbox of a served portal: what it may know of the portal's journeys and demo, and nothing else.

Loaded only where PORTAL_SANDBOX is on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context

from flask import Blueprint, current_app, request
from werkzeug.test import Client, EnvironBuilder
from werkzeug.wrappers import Response

from auth_portal.clock import Clock
from auth_portal.sandbox import CSRF_EXEMPT, DemoPerson, JourneyCard, blueprint
from auth_portal.sandbox.facts import TICKETS_PATH, ApiCall
from auth_portal.services.config.journey import all_proofs
from auth_portal.services.config.snapshot import Snapshot
from auth_portal.services.operations import demo
from auth_portal.services.rehearsal.flow_setup import variable_of
from auth_portal.settings import Settings

__all__ = ["CSRF_EXEMPT", "demo_people", "journey_cards", "of_portal"]


def of_portal(settings: Settings, snapshot: Callable[[], Snapshot], clock: Clock) -> Blueprint:
    """Return the sandbox of a portal, to be registered once. ``snapshot`` returns the current configuration."""
    return blueprint(
        settings.instance.absolute(),
        settings.public_url,
        lambda: journey_cards(snapshot()),
        clock,
        is_public=settings.sandbox == "public",
        ask_portal=lambda fields: register_ticket(settings, fields),
        demo_people=demo_people,
    )


def register_ticket(settings: Settings, fields: Mapping[str, object]) -> ApiCall:
    """Request a ticket from the portal's API as Flow's server would, in this process, with the key of the demo.

    It has the address of the request that is being answered, so that it passes the portal's trusted proxies too.
    """
    key = demo.sandbox_key(settings.instance)
    names = ("REMOTE_ADDR", "SERVER_SOFTWARE", "HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED")
    origin = {name: request.environ[name] for name in names if name in request.environ}
    headers = [("Authorization", f"Bearer {key}")] if key else []
    builder = EnvironBuilder(
        TICKETS_PATH,
        base_url=settings.public_url,
        method="POST",
        headers=headers,
        json=dict(fields),
        environ_overrides=origin,
    )
    # In a separate context: this request must not find what the request that is being answered knows.
    answer = Context().run(Client(current_app.wsgi_app, Response).open, builder)
    return ApiCall(dict(fields), answer.status_code, answer.get_data(as_text=True))


def journey_cards(snapshot: Snapshot) -> list[JourneyCard]:
    """Return the active journeys that answer the sandbox."""
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
            relay_defence=journey.relay_defence,
            compares=variable_of(journey, journey.relay_defence) if journey.defence.stops_relay else "",
            methods_text=all_proofs(journey),
            business=snapshot.portal.name,
        )
        for journey in found
        if journey.active and journey.callback.server == "sandbox"
    ]


def demo_people() -> list[DemoPerson]:
    """Return the people that a newcomer can play."""
    return [DemoPerson(**person) for person in demo.demo_people()]
