"""A portal with journeys that take tickets, and the links that Flow's server would send."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from auth_portal.services.verification.tickets import NewTicket, TicketRequest
from tests.receiver import Receiver
from tests.world import PHONE, STANDARD, Browser, World, journey, open_world

PURPOSE = "Confirm transfer of R 500 to N. Dlamini"
SHARED = "+27845551234"  # held by two customers of tests.world
JOURNEYS = (
    STANDARD
    + journey("pay", "sms_code", relay_defence="phone_match")
    + journey("pay-app", "totp", relay_defence="phone_match")
    + journey("pay-twice", "password", "sms_code|email_code|totp", relay_defence="phone_match")
    + journey("pay-waiting", "sms_code", relay_defence="phone_match", contract="wait_for_callback")
)


@contextmanager
def open_ticketed(
    folder: Path, database_url: str, receiver: Receiver, settings: Mapping[str, str] | None = None, more: str = ""
) -> Any:
    """A world with journeys that demand tickets beside those that do not."""
    with open_world(folder, database_url, receiver, config=JOURNEYS + more, settings=settings) as world:
        yield world


def ticket(world: World, journey: str = "pay", **values: Any) -> NewTicket:
    """What Flow's server registers before it sends the link: by default for the chat of Thandi's phone."""
    if not {"msisdn", "customer_id"} & values.keys():
        values["msisdn"] = PHONE
    return world.services.tickets.register(TicketRequest(journey, **values))


def link(path: str, reference: str) -> str:
    """The link as it arrives in the chat."""
    return f"{path}?reference={quote(reference, safe='')}"


def opened(world: World, path: str, reference: str = "abc", address: str = "203.0.113.7") -> Browser:
    """A browser that has opened a link and pressed the main button."""
    browser = world.browser(address)
    browser.get(link(path, reference))
    assert browser.page.status_code == 200, browser.page.text
    browser.post(path)
    return browser
