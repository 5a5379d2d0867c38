"""What a journey's configuration may say.

Refuses whatever could let a weaker proof answer for a stronger one: the text for ``verified`` is unique among the
active journeys of one server (R35), and no step may be left without a method (R37).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from auth_portal.methods import CARRIES
from auth_portal.services.config.looks import Colour, JourneyTexts
from auth_portal.services.config.portal import Frozen
from auth_portal.steps import AnyStep, Identify, Verify

OUTCOMES = ("verified", "wrong", "expired", "cancelled", "not_me", "no_code", "unavailable")
PLACEHOLDERS = (
    "customer_id", "name", "outcome", "method", "methods", "verified_at", "journey", "locale", "purpose", "chat_code",
    "phone_match",
)  # fmt: skip
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
DATA_KEYS = 20  # at most: with the values' length this keeps a callback far below 20 kB (D2)
DATA_TEXT = 200  # characters


class JourneyLimits(Frozen):
    """Limits of one verification and its credentials; the bounds are the standards' (63B, RTS)."""

    code_digits: Annotated[int, Field(ge=6, le=10)] = 6
    code_seconds: Annotated[int, Field(ge=60, le=600)] = 300
    wrong_tries: Annotated[int, Field(ge=3, le=5)] = 5
    sends: Annotated[int, Field(ge=1, le=5)] = 3
    resend_waits: Annotated[tuple[Annotated[int, Field(ge=30, le=600)], ...], Field(min_length=1, max_length=4)] = (
        30,
        60,
    )
    identity_changes: Annotated[int, Field(ge=0, le=5)] = 5
    credential_tries_day: Annotated[int, Field(ge=5, le=15)] = 15
    credential_tries_total: Annotated[int, Field(ge=20, le=50)] = 50
    destination_hour: Annotated[int, Field(ge=1, le=5)] = 5
    destination_day: Annotated[int, Field(ge=1, le=10)] = 10


class CallbackTarget(Frozen):
    """Where the result goes, and by which of Flow's two contracts."""

    server: Annotated[str, Field(max_length=255)] = "production"
    contract: Literal["external_link", "wait_for_callback"] = "external_link"

    @field_validator("server")
    @classmethod
    def _server(cls, value: str) -> str:
        if value in ("production", "uat", "sandbox"):
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise ValueError(
                "must be production, uat, sandbox or an address without a path such as https://flow.example"
            )
        if parts.username is not None or parts.hostname.endswith("."):
            # Another spelling of one server would slip past the rule that its texts are unique (R35).
            raise ValueError("must be written without a user and without a dot at the end of its host")
        return f"{parts.scheme}://{parts.netloc.lower()}"


class JourneyConfig(Frozen):
    """One journey as the config file and the configuration page write it, with every default filled in."""

    slug: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    name: Annotated[str, Field(min_length=1, max_length=60)]
    default: bool = False
    active: bool = True
    chat_seconds: Annotated[int, Field(ge=60, le=86_400)] = 600
    return_url: Annotated[str, Field(max_length=300)] = ""
    relay_defence: Literal["none", "chat_code", "phone_match"] = "none"
    shares_result: bool = False
    channels: tuple[str, ...] = ()
    steps: Annotated[tuple[AnyStep, ...], Field(min_length=2, max_length=8)]
    callback: CallbackTarget = CallbackTarget()
    results: dict[str, Annotated[str, Field(min_length=1, max_length=100)]] = Field(default_factory=dict)
    data: dict[str, Annotated[str, Field(max_length=DATA_TEXT)]] = Field(default_factory=dict)
    limits: JourneyLimits = JourneyLimits()
    texts: JourneyTexts = JourneyTexts()
    colour: Colour = ""
    logo: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""  # the SHA-256 of a picture that is stored here

    @field_validator("return_url")
    @classmethod
    def _return_url(cls, value: str) -> str:
        if value and (urlsplit(value).scheme != "https" or not urlsplit(value).hostname):
            raise ValueError("must begin with https://")
        return value

    @field_validator("steps")
    @classmethod
    def _order(cls, steps: tuple[AnyStep, ...]) -> tuple[AnyStep, ...]:
        if not isinstance(steps[0], Identify) or any(isinstance(step, Identify) for step in steps[1:]):
            raise ValueError("must begin with one identify step, and have no other")
        if stuck := _stuck_after([step.any_of for step in steps if isinstance(step, Verify)]):
            raise ValueError(
                f"verify step {len(stuck) + 1} has no method left for somebody who used {', '.join(stuck)}; "
                "a method cannot be used twice in one visit"
            )
        return steps

    @field_validator("results")
    @classmethod
    def _outcomes(cls, results: dict[str, str]) -> dict[str, str]:
        if unknown := set(results) - set(OUTCOMES):
            raise ValueError(f"unknown outcome {', '.join(sorted(unknown))}; known: {', '.join(OUTCOMES)}")
        return results

    @field_validator("data")
    @classmethod
    def _placeholders(cls, data: dict[str, str]) -> dict[str, str]:
        if len(data) > DATA_KEYS:
            raise ValueError(f"has more than {DATA_KEYS} keys")
        for key, text in data.items():
            if not re.fullmatch(r"[a-z0-9_]{1,60}", key):
                raise ValueError(f"key {key!r} may only have a-z, 0-9 and _")
            if unknown := set(PLACEHOLDER.findall(text)) - set(PLACEHOLDERS):
                raise ValueError(
                    f"{key}: unknown placeholder {{{', '.join(sorted(unknown))}}}; known: {', '.join(PLACEHOLDERS)}"
                )
        return data

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**values, "results": _all_results(values), "data": _all_data(values)}

    @model_validator(mode="after")
    def _agree(self) -> Self:
        success = self.results["verified"]
        if same := [outcome for outcome in OUTCOMES[1:] if self.results[outcome] == success]:
            raise ValueError(
                f"results: {same[0]} has the same text as verified ({success!r}); Flow could not tell them apart"
            )
        if self.relay_defence == "phone_match" and not self.works_by_phone_alone:
            raise ValueError(
                "relay_defence: with phone_match codes go only to the chat's own number, so every verify step needs "
                "another method beside email_code"
            )
        return self

    @property
    def verify_steps(self) -> tuple[Verify, ...]:
        """The steps that prove something."""
        return tuple(step for step in self.steps if isinstance(step, Verify))

    @property
    def first_step(self) -> Identify:
        """The step in which the person names themselves."""
        step = self.steps[0]
        assert isinstance(step, Identify)
        return step

    @property
    def works_by_phone_alone(self) -> bool:
        """Whether every step can be passed where codes go to one phone number and nowhere else."""
        choices = [without_mail(step.any_of) for step in self.verify_steps]
        return all(choices) and _stuck_after(choices) is None


def without_mail(methods: Iterable[str]) -> tuple[str, ...]:
    """Those of the methods that send nothing to an e-mail address."""
    return tuple(method for method in methods if CARRIES.get(method) != "email")


def _stuck_after(choices: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Methods after which a person would have none left for the next step, or None (R37)."""
    for chosen in itertools.product(*choices):
        for number, step in enumerate(choices):
            if set(step) <= set(chosen[:number]):
                return chosen[:number]
    return None


def _all_results(values: Mapping[str, Any]) -> object:
    given = values.get("results") or {}
    if not isinstance(given, dict):
        return given
    return {**dict.fromkeys(OUTCOMES, "failed"), "verified": default_success(values), **given}


def default_success(values: Mapping[str, Any]) -> str:
    """The text for ``verified`` where a journey names none: with ``chat_code`` a flow must compare the code first."""
    success = "check_code" if values.get("relay_defence") == "chat_code" else "verified"
    return success if values.get("default") else f"{success}_{values.get('slug')}"


def _all_data(values: Mapping[str, Any]) -> object:
    given = values.get("data") or {"customer_id": "{customer_id}", "method": "{method}", "verified_at": "{verified_at}"}
    if not isinstance(given, dict):
        return given
    always = {"outcome": "{outcome}", "journey": "{journey}"}
    if values.get("relay_defence") == "chat_code":
        always["chat_code"] = "{chat_code}"
    if values.get("relay_defence") == "phone_match":
        always |= {"phone_match": "{phone_match}", "purpose": "{purpose}"}
    return {**always, **given, "journey": "{journey}"}


def result_clashes(journeys: Iterable[JourneyConfig], lingering: Sequence[JourneyConfig] = ()) -> list[str]:
    """Pairs of journeys that could answer for each other at one server, one sentence each (R35).

    One that is off still tells the chat ``unavailable`` and ``not_me``. ``lingering`` are those that answer beside
    these: deleted ones, which do the same, and versions under which something is under way, which are ``active``.
    """
    known = sorted(journeys, key=lambda journey: journey.slug)
    active = [journey for journey in known if journey.active]
    clashes = [
        f"journey {other.slug} answers {text!r} for {outcome}, which journey {one.slug} answers for verified at "
        f"{one.callback.server}: a link of {one.slug} opened under {other.slug} would pass without any proof. "
        "Give each a text of its own"
        for one, other in itertools.product(active, [*known, *lingering])
        for outcome, text in other.results.items()
        if one.callback.server == other.callback.server and outcome != "verified" and text == one.results["verified"]
    ]
    clashes += [
        f"journeys {one.slug} and {other.slug} both answer {one.results['verified']!r} for verified at "
        f"{one.callback.server}: a link of one opened under the other would pass for it. Give each a text "
        "of its own, or set shares_result = true in both"
        for one, other in itertools.combinations(active, 2)
        if _pass_for_each_other(one, other)
    ]
    clashes += [
        f"journey {other.slug} answered {one.results['verified']!r} for verified at {one.callback.server} until now, "
        f"and what was begun with it is still under way: a link of {one.slug} could pass by it. Give {one.slug} "
        "another text, or save this again when those chats are over"
        for one, other in itertools.product(active, lingering)
        if other.active and one.slug != other.slug and _pass_for_each_other(one, other)
    ]
    return list(dict.fromkeys(clashes))


def _pass_for_each_other(one: JourneyConfig, other: JourneyConfig) -> bool:
    is_same = one.callback.server == other.callback.server and one.results["verified"] == other.results["verified"]
    return is_same and not (one.shares_result and other.shares_result)
