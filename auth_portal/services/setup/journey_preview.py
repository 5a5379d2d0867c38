"""The request that Flow would get of a journey, byte for byte, with an invented person in it. Sends nothing."""

from __future__ import annotations

from typing import NamedTuple

from auth_portal.gateways.flow import PATHS, SERVERS
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.results import VERIFIED, result_body

REFERENCES = {"external_link": "f7_4hn5=8f", "wait_for_callback": "0b6f6c5e-6f0e-4f0a-9c53-2f4e8f0a7d11"}
FACTS = {
    "customer_id": "C-1001",
    "name": "Thandi Nkosi",
    "verified_at": "2026-11-22T19:05:00Z",
    "locale": "en",
    "chat_code": "048213",
    "phone_match": "yes",
    "purpose": "Confirm transfer of R 500 to N. Dlamini",
}


class Example(NamedTuple):
    """One request: for which outcome, to where, and its body."""

    outcome: str
    head: str
    body: str

    @property
    def text(self) -> str:
        """The request as it travels."""
        return f"{self.head}\n\n{self.body}"


def examples(journey: JourneyConfig, sandbox_url: str) -> tuple[Example, Example]:
    """What Flow gets when somebody is verified, and when the time ran out."""
    return _example(journey, VERIFIED, sandbox_url), _example(journey, "expired", sandbox_url)


def _example(journey: JourneyConfig, outcome: str, sandbox_url: str) -> Example:
    contract, server = journey.callback.contract, journey.callback.server
    origin = SERVERS.get(server) or (sandbox_url or "(sandbox)" if server == "sandbox" else server)
    reference = REFERENCES[contract]
    proved = [step.any_of[0] for step in journey.verify_steps]
    facts = {**FACTS, "method": proved[-1], "methods": "+".join(proved)}
    if journey.relay_defence != "chat_code":
        del facts["chat_code"]
    if journey.relay_defence != "phone_match":
        del facts["phone_match"], facts["purpose"]
    head = f"POST {origin.rstrip('/')}{PATHS[contract]}\nreference: {reference}\nContent-Type: application/json"
    return Example(outcome, head, result_body(journey, outcome, reference, facts))
