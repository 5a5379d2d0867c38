"""What the security tests share: outbox work done in the test's own thread, what was logged, and pages made comparable."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import update
from werkzeug.test import TestResponse

from auth_portal.store.models import CALLBACK, EVENT, MESSAGE, CustomerRow
from auth_portal.telemetry import JsonLines, set_up_logging
from tests.world import Browser, World

STILL = {"PORTAL_DISPATCH": "off"}  # nothing leaves until the test says so
VISIT = re.compile(r"(?<=[?&;])v=[\w-]{8}(?![\w-])")  # the name of a visit, made of its token alone
NEWER = {"csrf_token", "prompt", "opened", "v"}  # hidden fields that differ from page to page
VARYING = {"X-Request-Id", "Date"}


def deliver(world: World, kinds: tuple[str, ...] = (CALLBACK, MESSAGE, EVENT), most: int = 50) -> int:
    """Delivers all that is due, in this thread, so that a test with a clock that stands is exact."""
    count = 0
    for lane in world.services.dispatcher.lanes:
        while lane.kind in kinds and (claimed := lane.outbox.claim(lane.kind, most)):
            for delivery in claimed:
                lane.deliver(delivery)
            count += len(claimed)
    return count


def expire(world: World) -> int:
    """Ends what nobody looked at any more, as the sweeper does."""
    return world.services.verifications.endings.expire_due()


def code_for(world: World, to: str) -> str:
    """The newest code that has left for a contact."""
    deliver(world, (MESSAGE,))
    return world.receiver.code_for(to)


def wrong(code: str) -> str:
    """A code of the same length that is not this one."""
    return f"{(int(code) + 1) % 10 ** len(code):0{len(code)}d}"


def wrong_totp(world: World) -> str:
    """Six digits that no step near now has."""
    near = {world.totp(shift) for shift in range(-3, 4)}
    return next(code for code in (f"{number:06d}" for number in range(10)) if code not in near)


def results(world: World) -> list[str]:
    """What the chat was told, in order."""
    deliver(world, (CALLBACK,))
    return [call.body["result"] for call in world.receiver.callbacks]


def disable(world: World, customer_id: str) -> None:
    """Switches a customer off, as support would."""
    with world.database.write() as connection:
        connection.execute(update(CustomerRow).where(CustomerRow.customer_id == customer_id).values(is_active=False))
    world.accept()


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """Every line that the portal, or a library under it, would write to stderr inside the block."""
    set_up_logging()
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonLines())
    loggers = [logging.getLogger("auth_portal"), logging.getLogger()]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield text
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def face(page: TestResponse, typed: str = "") -> tuple[int, list[tuple[str, str]], str]:
    """Status, headers and body as anybody sees them, without the tokens and without what was typed."""
    body = page.text
    for name in NEWER:
        body = re.sub(rf'name="{name}" value="[^"]*"', f'name="{name}"', body)
    body = VISIT.sub("v=…", body)
    if typed:
        body = body.replace(typed, "TYPED")
    headers = sorted(
        (name, re.sub(r"^(\w+)=[^;]*", r"\1=…", value) if name == "Set-Cookie" else VISIT.sub("v=…", value))
        for name, value in page.headers
        if name not in VARYING
    )
    return (
        page.status_code,
        [(name, re.sub(r"expires=[^;]*", "", value, flags=re.IGNORECASE)) for name, value in headers],
        body,
    )


def spend_tries(world: World, slug: str, reference: str, tries: int, identifier: str = "C-1001") -> Browser:
    """Types so many wrong TOTP codes under one reference."""
    browser = world.browser()
    browser.begin(reference, slug, identifier)
    for _ in range(tries):
        browser.prove(wrong_totp(world))
    return browser
