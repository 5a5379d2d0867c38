"""The sandbox of a served portal: what it may know of the portal's journeys and demo, and nothing more.

Loaded only where PORTAL_SANDBOX is on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context

from flask import Blueprint, current_app, request
from werkzeug.test import Client, EnvironBuilder
from werkzeug.wrappers import Response

from auth_portal.clock import Clock
from auth_portal.sandbox.contract import DemoPerson, JourneyCard
from auth_portal.sandbox.tickets import PATH, ApiCall
from auth_portal.sandbox.wiring import CSRF_EXEMPT, blueprint
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.journeys import Snapshot
from auth_portal.services.method_names import all_proofs
from auth_portal.services.operations import demo
from auth_portal.services.setup.flow_setup import variable_of
from auth_portal.settings import Settings

__all__ = ["CSRF_EXEMPT", "demo_people", "journey_cards", "of_portal"]


def of_portal(settings: Settings, snapshot: Callable[[], Snapshot], clock: Clock) -> Blueprint:
    """The sandbox beside a portal, to be registered once. ``snapshot`` gives the configuration of the moment."""
    return blueprint(
        settings.instance.absolute(),
        settings.public_url,
        lambda: journey_cards(snapshot()),
        clock,
        is_public=settings.sandbox == "public",
        ask_portal=lambda fields: register_ticket(settings, fields),
        demo_people=demo_people,
    )


def register_ticket(settings: Settings, fields: Mapping[str, str]) -> ApiCall:
    """Asks the portal's API for a ticket as Flow's server would, in this process, with the key that the demo made.

    It comes from where the request that is being answered came from, so that the portal's hops hold for it too.
    """
    key = demo.sandbox_key(settings.instance)
    road = {"REMOTE_ADDR": request.environ.get("REMOTE_ADDR", "")}
    if forwarded := request.environ.get("HTTP_X_FORWARDED_FOR"):
        road["HTTP_X_FORWARDED_FOR"] = forwarded
    headers = [("Authorization", f"Bearer {key}")] if key else []
    builder = EnvironBuilder(
        PATH, base_url=settings.public_url, method="POST", headers=headers, json=dict(fields), environ_overrides=road
    )
    # A context of its own: what the request that is being answered knows, this one must not find.
    answer = Context().run(Client(current_app.wsgi_app, Response).open, builder)
    return ApiCall(dict(fields), answer.status_code, answer.get_data(as_text=True))


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
            relay_defence=journey.relay_defence,
            compares=_compared(journey),
            methods_text=all_proofs(journey),
            business=snapshot.portal.name,
        )
        for journey in found
        if journey.active and journey.callback.server == "sandbox"
    ]


def _compared(journey: JourneyConfig) -> str:
    return "" if journey.relay_defence == "none" else variable_of(journey, journey.relay_defence)


def demo_people() -> list[DemoPerson]:
    """Whom a newcomer can play."""
    return [DemoPerson(**person) for person in demo.demo_people()]
