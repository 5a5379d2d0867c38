"""What has to be put into Chat Flow for a journey, and whether what was put there fits.

Pure: it reads a journey and texts, and gives values; the pages make sentences of them. What it shows of variables is
made by the very function that makes the callback, so that it cannot differ from what arrives.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from auth_portal.services.config.journey import OUTCOMES, JourneyConfig
from auth_portal.services.config.rules import SESSION_SECONDS, WAIT_NODE_SECONDS
from auth_portal.services.results import VERIFIED, result_body

CLOSE = 0.75  # how alike two texts must be to be called a misspelling (difflib's ratio)
PASTED_LENGTH = 8_000  # characters of pasted values that are looked at
PASTED_VALUES = 200
EXAMPLE_REFERENCE = "f7_4hn5=8f&%#nK="
EXAMPLES: Mapping[str, str] = {
    "customer_id": "10001",
    "name": "Thandi Nkosi",
    "verified_at": "2026-11-22T19:05:00Z",
    "locale": "en",
    "purpose": "Confirm transfer of R 500 to N. Dlamini",
    "chat_code": "482913",
    "phone_match": "yes",
}


@dataclass(frozen=True)
class LogicValue:
    """One text for the node's Logic section, and the outcomes that it stands for."""

    text: str
    outcomes: tuple[str, ...]

    @property
    def is_success(self) -> bool:
        """Whether this is the text that lets somebody pass."""
        return VERIFIED in self.outcomes


@dataclass(frozen=True)
class Variable:
    """A variable that arrives with every result: an example of its value on success, and what it has otherwise."""

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
    purpose_body: str  # the same for a chat in which something is to be confirmed
    chat_code_variable: str
    phone_match_variable: str

    @property
    def success(self) -> str:
        """The one text that lets somebody pass."""
        return next(value.text for value in self.values if value.is_success)


def setup_of(journey: JourneyConfig, public_url: str) -> FlowSetup:
    """What to put into Chat Flow for a journey of the portal at ``public_url`` (an origin)."""
    ticket = ticket_fields(journey, "[[session:msisdn]]", "[[verify_ref]]")
    url = f"{public_url}/" if journey.default else f"{public_url}/j/{quote(journey.slug)}"
    waits = journey.callback.contract == "wait_for_callback"
    return FlowSetup(
        url=url,
        waiting_url=f"{url}?reference=",
        values=logic_values(journey),
        variables=_variables(journey),
        advised_chat_seconds=WAIT_NODE_SECONDS if waits else SESSION_SECONDS,
        ticket_body=json.dumps(ticket),
        purpose_body=json.dumps({**ticket, "purpose": EXAMPLES["purpose"]}),
        chat_code_variable=variable_of(journey, "chat_code"),
        phone_match_variable=variable_of(journey, "phone_match"),
    )


def ticket_fields(journey: JourneyConfig, msisdn: str, reference: str) -> dict[str, str]:
    """What registers a ticket; ``reference`` goes in where the flow makes it, and the link brings no ticket."""
    fields = {"journey": journey.slug, "msisdn": msisdn}
    return {**fields, "reference": reference} if journey.callback.contract == "wait_for_callback" else fields


def logic_values(journey: JourneyConfig) -> tuple[LogicValue, ...]:
    """The distinct result texts of a journey, success first, then in the order of the outcomes."""
    found: dict[str, list[str]] = {}
    for outcome in OUTCOMES:
        if outcome in journey.results:
            found.setdefault(journey.results[outcome], []).append(outcome)
    return tuple(LogicValue(text, tuple(outcomes)) for text, outcomes in found.items())


def variable_of(journey: JourneyConfig, placeholder: str) -> str:
    """The data key that carries a placeholder alone; the placeholder's own name where there is none."""
    return next((key for key, text in journey.data.items() if text == f"{{{placeholder}}}"), placeholder)


def _variables(journey: JourneyConfig) -> tuple[Variable, ...]:
    last = [step.any_of[0] for step in journey.verify_steps]
    facts = {**EXAMPLES, "method": last[-1] if last else "", "methods": "+".join(last)}
    passed = json.loads(result_body(journey, VERIFIED, EXAMPLE_REFERENCE, facts))["data"]
    failed = json.loads(result_body(journey, "wrong", EXAMPLE_REFERENCE, {}))["data"]
    return tuple(Variable(name, passed[name], failed[name]) for name in journey.data)


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
class Checked:
    """What a check of a node's Logic values found."""

    count: int
    right: tuple[LogicValue, ...]
    missing: tuple[LogicValue, ...]
    findings: tuple[Finding, ...]

    @property
    def is_fine(self) -> bool:
        """Whether every result has its branch and nothing else is there."""
        return not self.missing and not self.findings


def check_logic(journey: JourneyConfig, pasted: str) -> Checked:
    """Holds the values of a node's Logic section, one a line or with commas between, against a journey's results."""
    values = read_values(pasted, journey)
    expected = logic_values(journey)
    texts = [value.text for value in expected]
    findings = [found for value in dict.fromkeys(values) if (found := _finding(value, texts, journey.results))]
    repeated = [Finding("repeated", value) for value in texts if values.count(value) > 1]
    return Checked(
        count=len(values),
        right=tuple(value for value in expected if value.text in values),
        missing=tuple(value for value in expected if value.text not in values),
        findings=(*findings, *repeated),
    )


def read_values(pasted: str, journey: JourneyConfig) -> list[str]:
    """The pasted values. Commas part them too, unless the journey's own texts have some."""
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
    """Without regard to case, blanks, dashes and underscores."""
    return "".join(letter for letter in value.casefold() if letter not in " \t-_\u00a0")
