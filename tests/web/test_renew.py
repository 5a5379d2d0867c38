"""A person whose tries were spent, by a stranger perhaps, gets in again when support renews them."""

from __future__ import annotations

from auth_portal.store.models import AuditEvent
from tests.receiver import wait_for
from tests.world import World


def attempt(world: World, reference: str, code: str) -> str:
    browser = world.browser()
    browser.begin(reference, "app")
    browser.prove(code)
    return browser.path


def test_r06_support_renews_a_spent_credential(world: World) -> None:
    for day in range(4):
        for number in range(3):
            browser = world.browser()
            browser.begin(f"attack-{day}-{number}", "app")
            for _ in range(5):
                browser.prove("000000")
        world.clock.advance(86_401)
    assert attempt(world, "still-spent", world.totp()) == "/verify"
    world.clock.advance(86_401)
    assert attempt(world, "spent-for-good", world.totp()) == "/verify"
    world.services.credentials.renew(world.services.customers.row_of("c-1001"))
    assert attempt(world, "renewed", world.totp()) == "/done"
    wait_for(lambda: any(call.header == "renewed" for call in world.receiver.callbacks))
    assert [event.kind for event in world.rows(AuditEvent)].count("credentials_renewed") == 1
