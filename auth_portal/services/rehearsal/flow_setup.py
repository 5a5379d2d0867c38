"""What to put into Chat Flow for a journey, a check of what was put there, and what Flow would receive.

Reads a journey and texts, and returns values; pages make sentences of them. The variables and requests come from the
function that makes the callback, so that they cannot differ from what arrives. The customer in them is invented.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple
from urllib.parse import quote

from auth_portal.gateways.flow import PATHS, SERVERS
from auth_portal.services.config.journey import (
    CHAT_CODE,
    OUTCOMES,
    PAYMENT_VARIABLES,
    PHONE_MATCH,
    PURPOSE,
    SUCCESSES,
    VARIABLES,
    JourneyConfig,
    Payment,
    result_body,
)
from auth_portal.services.config.rules import SESSION_SECONDS, WAIT_NODE_SECONDS

CLOSE = 0.75  # how alike two texts must be to be called a misspelling (difflib's ratio)
PASTED_LENGTH = 8_000  # characters of pasted values that are checked
PASTED_VALUES = 200
EXAMPLE_REFERENCE = "f7_4hn5=8f&%#nK="
REFERENCES = {
    "external_link": "f7_4hn5=8f",
    "wait_for_callback": "0b6f6c5e-6f0e-4f0a-9c53-2f4e8f0a7d11",
}  # as Flow makes
EXAMPLE_PAYMENT = Payment("500.00", "ZAR", "N. Dlamini")
EXAMPLES: Mapping[str, str] = {
    "customer_id": "C-1001",
    "name": "Thandi Nkosi",
    "verified_at": "2026-11-22T19:05:00Z",
    "locale": "en",
    PURPOSE: "Confirm your new address: 12 Long Street",
    **EXAMPLE_PAYMENT.variables,
    CHAT_CODE: "482913",
    PHONE_MATCH: "yes",
}


@dataclass(frozen=True)
class LogicValue:
    """One text for the node's Logic section, and the outcomes that it stands for."""

    text: str
    outcomes: tuple[str, ...]

    @property
    def is_success(self) -> bool:
        """Return True if this is a text that lets a customer pass."""
        return any(outcome in SUCCESSES for outcome in self.outcomes)


@dataclass(frozen=True)
class Variable:
    """A variable that arrives with every result: an example of its value on success, and its value otherwise."""

    name: str
    on_success: str
    otherwise: str


@dataclass(frozen=True)
class FlowSetup:
    """All that one journey needs in Chat Flow."""

    url: str
    waiting_url: str  # as the Wait for Callback node's flow writes it, up to the reference
    values: tuple[LogicValue, ...]
    variables: tuple[Variable, ...]
    advised_chat_seconds: int
    ticket_body: str  # what the API Integration node posts for a ticket
    payment_body: str  # the same for a chat in which a payment is to be approved
    purpose_body: str  # and for one in which something else is to be confirmed
    chat_code_variable: str
    phone_match_variable: str
    payment_variable: str  # with the amount

    @property
    def success(self) -> str:
        """Return the one text that lets a customer pass."""
        return next(value.text for value in self.values if value.is_success)


def setup_of(journey: JourneyConfig, public_url: str) -> FlowSetup:
    """Return what to put into Chat Flow for a journey of the portal at ``public_url`` (an origin)."""
    ticket = ticket_fields(journey, "[[session:msisdn]]", "[[verify_ref]]")
    url = f"{public_url}/" if journey.default else f"{public_url}/j/{quote(journey.slug)}"
    waits = journey.callback.contract == "wait_for_callback"
    passed = json.loads(result_body(journey, journey.passing[0], EXAMPLE_REFERENCE, example_facts(journey)))["data"]
    failure = "wrong" if "wrong" in journey.results else "expired"
    failed = json.loads(result_body(journey, failure, EXAMPLE_REFERENCE, {}))["data"]
    return FlowSetup(
        url=url,
        waiting_url=f"{url}?reference=",
        values=logic_values(journey),
        variables=tuple(Variable(name, passed[name], failed[name]) for name in journey.data),
        advised_chat_seconds=WAIT_NODE_SECONDS if waits else SESSION_SECONDS,
        ticket_body=json.dumps(ticket),
        payment_body=json.dumps({**ticket, "payment": asdict(EXAMPLE_PAYMENT)}),
        purpose_body=json.dumps({**ticket, "purpose": EXAMPLES[PURPOSE]}),
        chat_code_variable=variable_of(journey, CHAT_CODE),
        phone_match_variable=variable_of(journey, PHONE_MATCH),
        payment_variable=variable_of(journey, PAYMENT_VARIABLES[0]),
    )


def ticket_fields(journey: JourneyConfig, msisdn: str, reference: str) -> dict[str, str]:
    """Return the fields that register a ticket; with ``reference`` if the flow makes it and the link has no ticket."""
    fields = {"journey": journey.slug, "msisdn": msisdn}
    return {**fields, "reference": reference} if journey.callback.contract == "wait_for_callback" else fields


def logic_values(journey: JourneyConfig) -> tuple[LogicValue, ...]:
    """Return the distinct result texts of a journey, success first, then in the order of the outcomes."""
    found: dict[str, list[str]] = {}
    for outcome in OUTCOMES:
        if outcome in journey.results:
            found.setdefault(journey.results[outcome], []).append(outcome)
    return tuple(LogicValue(text, tuple(outcomes)) for text, outcomes in found.items())


def variable_of(journey: JourneyConfig, placeholder: str) -> str:
    """Return the data key that carries a placeholder alone, or the placeholder's name if there is none."""
    return next((key for key, text in journey.data.items() if text == f"{{{placeholder}}}"), placeholder)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the pasted values.

    ``kind``: ``case``, ``blanks``, ``quotes``, ``misspelt`` (``expected`` is what it should be), ``outcome`` (the name
    of an outcome, for which the journey sends ``expected``), ``unknown``, ``repeated``.
    """

    kind: str
    value: str
    expected: str = ""


@dataclass(frozen=True)
class LogicCheck:
    """The result of checking a node's Logic values."""

    count: int
    right: tuple[LogicValue, ...]
    missing: tuple[LogicValue, ...]
    findings: tuple[Finding, ...]

    @property
    def is_fine(self) -> bool:
        """Return True if every result has its branch and nothing else is there."""
        return not self.missing and not self.findings


def check_logic(journey: JourneyConfig, pasted: str) -> LogicCheck:
    """Compare the values of a node's Logic section, one a line or separated by commas, with a journey's results."""
    values = read_values(pasted, journey)
    expected = logic_values(journey)
    texts = [value.text for value in expected]
    findings = [found for value in dict.fromkeys(values) if (found := _finding(value, texts, journey.results))]
    repeated = [Finding("repeated", value) for value in texts if values.count(value) > 1]
    return LogicCheck(
        count=len(values),
        right=tuple(value for value in expected if value.text in values),
        missing=tuple(value for value in expected if value.text not in values),
        findings=(*findings, *repeated),
    )


def read_values(pasted: str, journey: JourneyConfig) -> list[str]:
    """Return the pasted values. Commas separate them too, unless the journey's texts contain commas."""
    lines = [line for line in pasted[:PASTED_LENGTH].replace("\r\n", "\n").split("\n") if line.strip()]
    if any("," in text for text in journey.results.values()):
        return lines[:PASTED_VALUES]
    parted = [part.strip() if "," in line else part for line in lines for part in line.split(",")]
    return [part for part in parted if part.strip()][:PASTED_VALUES]


def _finding(value: str, texts: Sequence[str], results: Mapping[str, str]) -> Finding | None:
    if value in texts:
        return None
    if same := _same(value.strip(), texts):
        return Finding("blanks", value, same)
    if same := _same(value.strip().strip("\"'“”‘’`"), texts):
        return Finding("quotes", value, same)
    if same := next((text for text in texts if _folded(text) == _folded(value)), ""):
        return Finding("case", value, same)
    if _folded(value) in results:
        return Finding("outcome", value, results[_folded(value)])
    close = difflib.get_close_matches(_folded(value), [_folded(text) for text in texts], n=1, cutoff=CLOSE)
    if close:
        return Finding("misspelt", value, next(text for text in texts if _folded(text) == close[0]))
    return Finding("unknown", value)


def _same(value: str, texts: Sequence[str]) -> str:
    return value if value in texts else ""


def _folded(value: str) -> str:
    """Return a text without case, blanks, dashes and underscores."""
    return "".join(letter for letter in value.casefold() if letter not in " \t-_\u00a0")


# --- What Flow receives


class Example(NamedTuple):
    """One request: for which outcome, to where, and its body."""

    outcome: str
    head: str
    body: str

    @property
    def text(self) -> str:
        """Return the request as it is sent."""
        return f"{self.head}\n\n{self.body}"


def examples(journey: JourneyConfig, sandbox_url: str) -> tuple[Example, Example]:
    """Return what Flow receives when a customer is verified, and when the time ran out."""
    return _example(journey, journey.passing[0], sandbox_url), _example(journey, "expired", sandbox_url)


def example_facts(journey: JourneyConfig) -> Mapping[str, str]:
    """Return what the result of a journey could say of an invented customer; nothing of one where no one is asked."""
    facts = {name: text for step in journey.steps for name, text in step.example.items()}
    proved = [step.methods[0] for step in journey.verify_steps]
    if not proved:
        return facts
    empty = set(VARIABLES) - set(journey.defence.variables)
    facts |= {name: text for name, text in EXAMPLES.items() if name not in empty}
    return {**facts, "method": proved[-1], "methods": "+".join(proved)}


def _example(journey: JourneyConfig, outcome: str, sandbox_url: str) -> Example:
    contract, server = journey.callback.contract, journey.callback.server
    origin = SERVERS.get(server) or (sandbox_url or "(sandbox)" if server == "sandbox" else server)
    reference = REFERENCES[contract]
    head = f"POST {origin.rstrip('/')}{PATHS[contract]}\nreference: {reference}\nContent-Type: application/json"
    return Example(outcome, head, result_body(journey, outcome, reference, example_facts(journey)))
