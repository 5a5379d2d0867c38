"""What a journey's configuration may say, and the relay defences, of which it names one in ``relay_defence``.

Refuses what could let a weaker proof answer for a stronger one: the text for ``verified`` is unique among the active
journeys of one server (R35), and no customer may reach a step with no method left (R37).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from auth_portal.i18n import NO_WORDING, Wording, format_amount, minor_units
from auth_portal.i18n import plain as _
from auth_portal.methods import CARRIES, any_method
from auth_portal.services.config.appearance import Colour, LogoDigest, Radius
from auth_portal.services.config.portal import Frozen
from auth_portal.services.config.wording import OwnTexts, checked, spoken_words
from auth_portal.services.steps import DECLINED, HANDED_OVER, AnyStep, Step
from auth_portal.store.models import VERIFIED

# --- Relay defences: what stops a link that was sent on from answering the sender's chat with someone else's proof

DefenceName = Literal["none", "chat_code", "phone_match"]

# Placeholders of ``data`` that only a defence fills. Two of them share their name with it.
CHAT_CODE = "chat_code"
PHONE_MATCH = "phone_match"
PURPOSE = "purpose"
PAYMENT_VARIABLES = ("payment_amount", "payment_currency", "payment_payee")


@dataclass(frozen=True)
class RelayDefence:
    """One defence: what it demands of a link, what it adds to the result, and how strong it is."""

    name: DefenceName
    strength: int  # to compare journeys by; 0 stops nothing
    demands_ticket: bool = False  # only a ticket with the chat's own number opens the journey
    makes_chat_code: bool = False  # after success the page shows a code that the customer types into the chat
    variables: tuple[str, ...] = ()  # data keys that it adds to every result, each filled by its own placeholder
    success: str = "verified"  # the default text for ``verified``

    @property
    def stops_relay(self) -> bool:
        """Report whether a link that was sent on is stopped at all."""
        return self.strength > 0

    def allowed(self, methods: Iterable[str]) -> tuple[str, ...]:
        """Return the methods that a journey with this defence can use."""
        return phone_only(methods) if self.demands_ticket else tuple(methods)


NO_DEFENCE = RelayDefence("none", strength=0)
# With a chat code the default text is not "verified": a flow that does not compare the code must not pass anyone.
TYPED_BACK = RelayDefence("chat_code", strength=1, makes_chat_code=True, variables=(CHAT_CODE,), success="check_code")
PHONE_MATCHED = RelayDefence(
    "phone_match", strength=2, demands_ticket=True, variables=(PHONE_MATCH, PURPOSE, *PAYMENT_VARIABLES)
)
DEFENCES: Mapping[str, RelayDefence] = {found.name: found for found in (NO_DEFENCE, TYPED_BACK, PHONE_MATCHED)}
VARIABLES = tuple(name for found in DEFENCES.values() for name in found.variables)


def find_defence(name: object) -> RelayDefence:
    """Return the defence of that name; for any other value, which validation refuses elsewhere, no defence."""
    return next((found for found in DEFENCES.values() if found.name == name), NO_DEFENCE)


def phone_only(methods: Iterable[str]) -> tuple[str, ...]:
    """Return the methods that send nothing by email: codes go to the chat's own number, where it is known."""
    return tuple(method for method in methods if CARRIES.get(method) != "email")


# --- A payment: what a ticket asks its customer to approve, and what the result says was approved (RTS 5)

AMOUNT_DIGITS = 12  # before the decimals: a trillion fits no page
_AMOUNT = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]+))?")


@dataclass(frozen=True)
class Payment:
    """A payment as Flow's server registered it: the amount with the currency's minor units (ISO 4217)."""

    amount: str
    currency: str
    payee: str

    @property
    def json(self) -> str:
        """Return the text that is sealed."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @property
    def variables(self) -> Mapping[str, str]:
        """Return what a result says of it, each value as it was registered, so that a flow can compare them."""
        return dict(zip(PAYMENT_VARIABLES, (self.amount, self.currency, self.payee), strict=True))

    def shown(self, region: str) -> ShownPayment:
        """Return it for a page or message; the sign of the currency is that of the region."""
        return ShownPayment(self, region)


@dataclass(frozen=True)
class ShownPayment:
    """A payment as a page or message writes it, in the language that is spoken while it writes."""

    payment: Payment
    region: str

    @property
    def payee(self) -> str:
        """Return who gets the money."""
        return self.payment.payee

    @property
    def amount(self) -> str:
        """Return the amount with its minor units: R 500.00."""
        return format_amount(Decimal(self.payment.amount), self.payment.currency, self.region)

    @property
    def coded(self) -> str:
        """Return the amount with the code of its currency, where its sign cannot be written: ZAR 500.00."""
        return format_amount(Decimal(self.payment.amount), self.payment.currency, sign=self.payment.currency)

    @property
    def short(self) -> str:
        """Return the amount without minor units that are zero: R 500."""
        return format_amount(Decimal(self.payment.amount), self.payment.currency, self.region, short=True)

    @property
    def text(self) -> str:
        """Return it in one line, which needs no words."""
        return f"{self.amount} → {self.payee}"


def payment_of(text: str) -> Payment:
    """Return the payment of a text that was sealed."""
    return Payment(**json.loads(text))


def amount_faults(amount: str, currency: str) -> dict[str, str]:
    """Return what is wrong with an amount and its currency, by their names."""
    decimals = minor_units(currency)
    found = _AMOUNT.fullmatch(amount)
    if decimals is None:
        faults = {"currency": "must be the code of a currency in use, in capital letters such as ZAR (ISO 4217)"}
        return faults if found else {"amount": "must be digits, with the decimals of its currency", **faults}
    example = "500" + ("." + "0" * decimals if decimals else "")
    if found is None or len(found[2] or "") != decimals:
        return {"amount": f"must be digits with {decimals} decimals in {currency}, such as {example}"}
    if len(found[1]) > AMOUNT_DIGITS:
        return {"amount": f"must have at most {AMOUNT_DIGITS} digits before its decimals"}
    return {} if Decimal(amount) else {"amount": "must be more than zero"}


# --- What a configuration may say

COMPLETED = "completed"
OF_PROOFS = (VERIFIED, "wrong", "expired", "cancelled", "not_me", "no_code", "unavailable")
OF_NO_PROOF = ("expired", "cancelled", "not_me", "unavailable")
OUTCOMES = (*OF_PROOFS, COMPLETED, DECLINED, HANDED_OVER)
USUAL_RESULTS = {outcome: outcome for outcome in (COMPLETED, DECLINED, HANDED_OVER)}  # where a journey names no other
SUCCESSES = (VERIFIED, HANDED_OVER, COMPLETED)  # after every step; no other outcome tells the flow more than its name
PLACEHOLDERS = (
    "customer_id",
    "name",
    "outcome",
    "method",
    "methods",
    "verified_at",
    "journey",
    "locale",
    *VARIABLES,
)
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
# What the portal vouches for: a flow trusts these keys, so none may hold a constant or another value (R44).
RESERVED_AT_FIRST = (
    "customer_id",
    "chat_code",
    "phone_match",
    "method",
    "methods",
    "outcome",
    "journey",
    "verified_at",
)
# Reserved later: a journey that was stored before keeps what it says of these, and cannot be saved so again.
RESERVED = (*RESERVED_AT_FIRST, *("terms_version", "terms_accepted_at", "handover", "purpose"), *PAYMENT_VARIABLES)
TAKEN_KEYS = frozenset((*RESERVED, *PLACEHOLDERS))  # by no question or box
IS_STORED = {
    "is_stored": True
}  # context of reading what is stored: it is read whatever is wrong with it, see ``unsafe``
CHAT_APPS = {
    "wa.me": "WhatsApp",
    "api.whatsapp.com": "WhatsApp",
    "t.me": "Telegram",
    "m.me": "Messenger",
    "bcrw.apple.com": "Messages",
}  # by the host of a journey's return link
DATA_KEYS = 20  # at most, without those of steps: with the values' length this keeps a callback below 20 kB (D2)
BODY_BYTES = 20_000  # of a callback (D2)
SINCE_02 = ("logo_dark", "radius", "hide_name", "wording")  # what releases before 0.2 do not know
LIMITS_SINCE_02 = ("changed_contact_hours",)  # each of them limits nothing at 0
LONGEST_REFERENCE = "\\" * 512  # as JSON writes it, twice as long
DATA_TEXT = 200  # characters
TEXT_LENGTH = 300  # characters of the business's own words
VALUE_LENGTH = 512  # characters of one rendered value; Flow's variables are short strings
LONGEST_PAYEE = 40 * 12  # bytes: a character beyond the basic plane takes two escapes
LONGEST_FACT = 512  # bytes of a customer's ID or name, for the longest result


def _plain(text: str) -> str:
    if any(not char.isprintable() for char in text):
        raise ValueError("must be one paragraph of plain text")
    return text


Text = Annotated[str, Field(max_length=TEXT_LENGTH), AfterValidator(_plain)]


class JourneyTexts(Frozen):
    """What the business adds to the pages in its own words. It replaces nothing: our warnings stay."""

    landing: Text = ""  # why the customer is here, below the first sentence
    done: Text = ""  # after success
    closed: Text = ""  # while the journey is off


class JourneyLimits(Frozen):
    """Limits of one verification and its credentials, within the bounds of the standards (63B, RTS)."""

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
    changed_contact_hours: Annotated[int, Field(ge=0, le=72)] = 0  # R45


LIMIT_BOUNDS: Mapping[str, tuple[int, int]] = {
    name: (numbers["minimum"], numbers["maximum"])
    for name, schema in JourneyLimits.model_json_schema()["properties"].items()
    for numbers in (schema.get("items", schema),)
}


class CallbackTarget(Frozen):
    """The server that the result goes to, and which of Flow's two contracts applies."""

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
    """One journey as the config file and its page write it, with every default filled in."""

    slug: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    name: Annotated[str, Field(min_length=1, max_length=60)]
    default: bool = False
    active: bool = True
    chat_seconds: Annotated[int, Field(ge=60, le=86_400)] = 600
    return_url: Annotated[str, Field(max_length=300)] = ""
    relay_defence: DefenceName = "none"
    shares_result: bool = False
    channels: tuple[str, ...] = ()
    steps: Annotated[tuple[AnyStep, ...], Field(min_length=1, max_length=8)]
    callback: CallbackTarget = CallbackTarget()
    results: dict[str, Annotated[str, Field(min_length=1, max_length=100)]] = Field(default_factory=dict)
    data: dict[str, Annotated[str, Field(max_length=DATA_TEXT)]] = Field(default_factory=dict)
    limits: JourneyLimits = JourneyLimits()
    texts: JourneyTexts = JourneyTexts()
    wording: OwnTexts = Field(default_factory=dict)
    colour: Colour = ""  # of the look, what is empty or None is as the portal's
    logo: LogoDigest = ""
    logo_dark: LogoDigest = ""
    radius: Radius | None = None
    hide_name: bool | None = None

    @field_validator("return_url")
    @classmethod
    def _return_url(cls, value: str) -> str:
        if value and (urlsplit(value).scheme != "https" or not urlsplit(value).hostname):
            raise ValueError("must begin with https://")
        return value

    @field_validator("wording")
    @classmethod
    def _own_texts(cls, texts: OwnTexts, info: ValidationInfo) -> OwnTexts:
        return checked(texts, is_stored=bool((info.context or {}).get("is_stored"))) if texts else texts

    @field_validator("steps")
    @classmethod
    def _order(cls, steps: tuple[AnyStep, ...]) -> tuple[AnyStep, ...]:
        if fault := order_fault(steps):
            raise ValueError(fault)
        if stuck := _stuck_after([step.methods for step in steps if step.proves]):
            raise ValueError(
                f"verify step {len(stuck) + 1} has no method left for a customer who used {', '.join(stuck)}; "
                "a method cannot be used twice in one visit"
            )
        names = [name for step in steps for name in step.chosen_keys]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} is the key of two questions or boxes")
        if taken := [name for name in names if name in TAKEN_KEYS]:
            raise ValueError(f"{taken[0]} can't be the key of a question or box: flows trust the variable of this name")
        return steps

    @field_validator("results")
    @classmethod
    def _outcomes(cls, results: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if unknown := set(results) - set(OUTCOMES):
            raise ValueError(f"unknown outcome {', '.join(sorted(unknown))}; known: {', '.join(OUTCOMES)}")
        if steps := info.data.get("steps"):
            possible = outcomes_of(steps)
            if never := [outcome for outcome in results if outcome not in possible]:
                raise ValueError(f"{never[0]} can't happen with these steps; leave it out")
        return results

    @field_validator("data")
    @classmethod
    def _placeholders(cls, data: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        of_steps = {name for step in info.data.get("steps", ()) for name in step.longest}
        if len(data.keys() - of_steps - set(PAYMENT_VARIABLES)) > DATA_KEYS:
            raise ValueError(f"has more than {DATA_KEYS} keys")
        if NEWER in data and not (info.context or {}).get("is_stored"):
            raise ValueError(f"{NEWER} is a key of the portal's own; take another")
        for key, text in data.items():
            if not re.fullmatch(r"[a-z0-9_]{1,60}", key):
                raise ValueError(f"key {key!r} may only have a-z, 0-9 and _")
            if key in of_steps:
                if text != f"{{{key}}}":
                    raise ValueError(f"{key} is the key of a step's own variable; give this one another key")
                continue
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
        defence = find_defence(values.get("relay_defence"))
        steps, usual = readable_steps(values.get("steps")), dict.fromkeys(OF_PROOFS, "failed")
        of_proofs = not steps or any(step.proves for step in steps)
        if steps:
            usual = {outcome: USUAL_RESULTS.get(outcome, "failed") for outcome in outcomes_of(steps)}
        results = values.get("results") or {}
        if isinstance(results, dict):
            success = {VERIFIED: default_success(values)} if of_proofs else {}
            results = {**usual, **success, **results}
        data = values.get("data")
        if not data:
            names = ("customer_id", "method", "verified_at") if of_proofs else ()
            data = {name: f"{{{name}}}" for name in names}
        if isinstance(data, dict):
            always = {name: f"{{{name}}}" for name in ("outcome", "journey", *defence.variables)}
            data = {
                **always,
                **data,
                **{name: f"{{{name}}}" for step in steps for name in step.longest if name not in data},
            }
        return {**values, "results": results, "data": data}

    @model_validator(mode="after")
    def _agree(self, info: ValidationInfo) -> Self:
        is_stored = bool((info.context or {}).get("is_stored"))
        if not is_stored:
            if self.unsafe:
                raise ValueError("; ".join(self.unsafe))
            if forged := self._forged(RESERVED):
                raise ValueError("; ".join(forged))
        if self.defence.demands_ticket and not self.works_by_phone_alone:
            raise ValueError(
                "relay_defence: with phone_match codes go only to the chat's own number, so every verify step needs "
                "another method in addition to email_code"
            )
        if not self.verify_steps and self.defence is not NO_DEFENCE:
            raise ValueError("relay_defence: needs a verify step; without a proof there is nothing to protect")
        if self.has_forms and not is_stored and (most := longest_body(self)) > BODY_BYTES:
            raise ValueError(
                f"steps: the longest answers would make a result of {most} bytes, and Flow takes {BODY_BYTES}; allow "
                "fewer or shorter answers"
            )
        return self

    def stored(self) -> dict[str, Any]:
        """Return the journey as it is stored: without what is as the portal's and was unknown to the previous version.

        A process of that version could not read the journey. What its defence adds to the variables is not stored.
        """
        limits = {name for name in LIMITS_SINCE_02 if not getattr(self.limits, name)}
        unset: dict[str, Any] = {**dict.fromkeys({*SINCE_02} - self.new_keys, True), "limits": limits}
        document = self.model_dump(mode="json", exclude=unset, exclude_none=True)  # TOML has no null
        added = set(PAYMENT_VARIABLES) & set(self.defence.variables)
        document["data"] = {
            key: text for key, text in document["data"].items() if key not in added or text != f"{{{key}}}"
        }
        return document

    @cached_property
    def words(self) -> Wording:
        """Return the business's own texts, for a page or message to speak in."""
        return spoken_words(self.wording) if self.wording else NO_WORDING

    @cached_property
    def unsafe(self) -> tuple[str, ...]:
        """Return why what is stored must not be served: an earlier version of the portal allowed it. Usually nothing.

        Each begins with its table, ``results: …`` or ``data: …``, and says what to do.
        """
        success = result_key(self.success)
        same = [outcome for outcome, text in self.results.items() if result_key(text) == success]
        same = [outcome for outcome in same if outcome != VERIFIED]
        return (
            *self._forged(RESERVED_AT_FIRST),
            *(
                f"results: {outcome} has the same text as verified ({self.success!r}), apart from case, "
                "spaces or invisible characters; Flow could not tell them apart"
                for outcome in same[:1]
                if self.success
            ),
        )

    def _forged(self, reserved: Iterable[str]) -> list[str]:
        return [
            f"data: {key} can only be {{{key}}}, because flows trust it; give another value another key"
            for key in reserved
            if self.data.get(key, f"{{{key}}}") != f"{{{key}}}"
        ]

    @property
    def passing(self) -> tuple[str, ...]:
        """Return the outcomes after every step, the usual one first."""
        return tuple(outcome for outcome in SUCCESSES if outcome in self.results)

    @property
    def success(self) -> str:
        """Return the text for ``verified``; "" if this journey proves nothing."""
        return self.results.get(VERIFIED, "")

    @cached_property
    def closed_by_change(self) -> str:
        """Return why a customer whose contact was changed cannot pass for a time (R45), or an empty text."""
        hours = self.limits.changed_contact_hours
        if (
            not hours
            or not self.verify_steps
            or not {method for step in self.verify_steps for method in step.methods} <= CARRIES.keys()
        ):
            return ""
        return (
            f"a customer whose contact was changed can't pass for {hours} hours (changed_contact_hours) unless they "
            "prove another contact too, because every method sends a code; add totp, password or support_code"
        )

    @cached_property
    def defence(self) -> RelayDefence:
        """Return the defence against a link that was sent on."""
        return DEFENCES[self.relay_defence]

    @cached_property
    def finds_ticket_by_reference(self) -> bool:
        """Report whether an ordinary link of this journey may have a ticket, so that it is worth looking for one."""
        return self.defence.demands_ticket or self.callback.contract == "wait_for_callback"

    @cached_property
    def chat_app(self) -> str:
        """Return the app that the return link opens, as customers know it; "" for any other link."""
        return CHAT_APPS.get(urlsplit(self.return_url).hostname or "", "")

    @cached_property
    def verify_steps(self) -> tuple[AnyStep, ...]:
        """Return the steps that prove something."""
        return tuple(step for step in self.steps if step.proves)

    @property
    def is_unprotected(self) -> bool:
        """Report whether a link that is passed on could verify the wrong chat."""
        return bool(self.verify_steps) and not self.defence.stops_relay

    @cached_property
    def carried(self) -> frozenset[str]:
        """Return the kinds of message that its methods send, such as ``sms``."""
        return frozenset(CARRIES[one] for step in self.verify_steps for one in step.methods if one in CARRIES)

    @cached_property
    def naming_step(self) -> int | None:
        """Return the place of the step in which a customer says who they are; None if there is none."""
        return next((number for number, step in enumerate(self.steps) if step.names_customer), None)

    @cached_property
    def identifiers(self) -> tuple[str, ...]:
        """Return the identifiers that a customer may enter."""
        return self.steps[self.naming_step].identifiers if self.naming_step is not None else ()

    @cached_property
    def is_closed_before(self) -> bool:
        """Report whether releases before 0.2 must not open it: they know neither its steps nor what limits a proof."""
        is_too_long = bool(self.new_keys) and len(self.data) >= DATA_KEYS
        return self.has_forms or is_too_long or any(getattr(self.limits, name) for name in LIMITS_SINCE_02)

    @property
    def new_keys(self) -> frozenset[str]:
        """Return the keys that releases before 0.2 do not know and can do without."""
        return frozenset(name for name in SINCE_02 if getattr(self, name) not in ("", None, {}))

    @cached_property
    def has_forms(self) -> bool:
        """Report whether it has a step that is answered by a form alone."""
        return any(step.stage for step in self.steps)

    @cached_property
    def step_numbers(self) -> tuple[int, ...]:
        """Return the number of each step as customers count them: naming is none."""
        return tuple(itertools.accumulate(int(not step.names_customer) for step in self.steps))

    @property
    def begins_with(self) -> str:
        """Return the kind of the first step."""
        return self.steps[0].kind

    @property
    def choices_by_phone(self) -> list[tuple[str, ...]]:
        """Return what each verify step leaves to choose from where codes go to the chat's own number alone."""
        return [phone_only(step.methods) for step in self.verify_steps]

    @property
    def works_by_phone_alone(self) -> bool:
        """Report whether every step can be passed if codes only go to one phone number."""
        choices = self.choices_by_phone
        return all(choices) and _stuck_after(choices) is None


def order_fault(steps: Sequence[AnyStep]) -> str:
    """Return what is wrong with the order of steps, or ""."""
    named = [number for number, step in enumerate(steps) if step.names_customer]
    proofs = [number for number, step in enumerate(steps) if step.proves]
    kinds = [step.kind for step in steps]
    if proofs and (len(named) != 1 or named[0] > proofs[0]):
        return "must have one identify step before the first verify step, and no other"
    if not proofs and named:
        return "must have a verify step after identify: without a proof, who customers say they are is a claim"
    for number, step in enumerate(steps):
        if step.is_last and number + 1 < len(steps):
            return f"{step.kind} must be the last step"
        if step.is_single and kinds.count(step.kind) > 1:
            return f"must have one {step.kind} step at most"
        if getattr(step, "again", "") == "changed" and not any(proof < number for proof in proofs):
            return 'terms with again = "changed" need a verify step before them: it says who accepted them'
        if getattr(step, "anonymous", False) and named:
            return "must have no identify and verify step where answers are anonymous"
    return ""


def _stuck_after(choices: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return methods after which a customer has none left for the next step, or None (R37)."""
    for chosen in itertools.product(*choices):
        for number, step in enumerate(choices):
            if set(step) <= set(chosen[:number]):
                return chosen[:number]
    return None


def outcomes_of(steps: Iterable[Step | type[Step]]) -> tuple[str, ...]:
    """Return how a journey of these steps, or kinds of steps, can end."""
    known = tuple(steps)
    own = tuple(outcome for step in known for outcome in step.outcomes)
    if any(step.proves for step in known):
        return (*OF_PROOFS, *(outcome for outcome in own if outcome == DECLINED))
    return (*OF_NO_PROOF, COMPLETED, *own)


def readable_steps(steps: object) -> tuple[AnyStep, ...]:
    """Return steps that are not checked yet; nothing if they cannot be read, which the field itself reports."""
    if not isinstance(steps, (list, tuple)):
        return ()
    try:
        return _STEPS.validate_python(tuple(steps))
    except ValidationError:
        return ()


_STEPS: TypeAdapter[tuple[AnyStep, ...]] = TypeAdapter(tuple[AnyStep, ...])


def longest_body(journey: JourneyConfig) -> int:
    """Return the bytes of the longest result that a journey can send."""
    of_steps = {name: "x" * size for step in journey.steps for name, size in step.longest.items()}
    of_payment = dict(zip(PAYMENT_VARIABLES, ("x" * 16, "ZAR", "x" * LONGEST_PAYEE), strict=True))
    facts = {**dict.fromkeys(PLACEHOLDERS, "x" * LONGEST_FACT), **of_payment, **of_steps}
    successes = (outcome for outcome in journey.results if outcome in SUCCESSES)
    return max(len(result_body(journey, outcome, LONGEST_REFERENCE, facts, is_cut=False)) for outcome in successes)


def default_success(values: Mapping[str, Any]) -> str:
    """Return the text for ``verified`` where a journey names none."""
    success = find_defence(values.get("relay_defence")).success
    return success if values.get("default") else f"{success}_{values.get('slug')}"


def all_proofs(journey: JourneyConfig) -> str:
    """Return what a journey asks for, step by step: ``terms, then password, then SMS code or authenticator app``."""
    names = {"terms": _("terms"), "questions": _("questions"), "handover": _("hand-over")}
    asked = [step for step in journey.steps if not step.names_customer]
    return _(", then ").join(any_method(step.methods) if step.proves else names[step.kind] for step in asked)


def result_body(
    journey: JourneyConfig, outcome: str, reference: str, facts: Mapping[str, str], *, is_cut: bool = True
) -> str:
    """Return the JSON body of a result: the exact bytes that Flow receives.

    Every configured key is always there, empty without a value, so that no value of an earlier chat survives. On
    failure only ``outcome`` and ``journey`` have a value: nothing personal leaves. A reserved key always has its own
    value, also where an earlier version of the portal stored something else; and so have those of a payment that was
    approved.
    """
    values = {**(facts if outcome in SUCCESSES else {}), "outcome": outcome, "journey": journey.slug}
    own = (*RESERVED_AT_FIRST, *(key for key in PAYMENT_VARIABLES if values.get(key)))
    texts = {key: f"{{{key}}}" if key in own else text for key, text in journey.data.items()}
    data = {
        key: PLACEHOLDER.sub(lambda found: values.get(found.group(1), ""), text[:DATA_TEXT])[
            : VALUE_LENGTH if is_cut else None
        ]
        for key, text in texts.items()
    }
    result, success = journey.results[outcome], journey.success
    if success and outcome != VERIFIED and result_key(result) == result_key(success):  # stored under older rules
        result = next(text for text in ("failed", "not_verified") if result_key(text) != result_key(success))
    body = {"result": result, "reference": reference, "data": data}
    return _fitting(body, data) if is_cut else _written(body)


def _fitting(body: Mapping[str, Any], data: dict[str, str]) -> str:
    """Return the JSON of a body, which Flow takes: if it is too long, the longest values of ``data`` are halved.

    No value that flows trust is. Saving refuses most journeys that could come so far, but not those without questions,
    nor those stored under other rules. A short value loses less than a result that never arrives.
    """
    cuttable = data.keys() - set(RESERVED)
    while len(text := _written(body)) > BODY_BYTES and any(data[key] for key in cuttable):
        longest = max(cuttable, key=lambda key: len(_written(data[key])))
        data[longest] = data[longest][: len(data[longest]) // 2]
    return text


def _written(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def result_key(text: str) -> str:
    """Return the one form of a result text: flows may compare without case, spaces or what cannot be seen (R35)."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    seen = (char for char in folded if unicodedata.category(char) not in ("Cf", "Cc", "Cs", "Co", "Cn"))
    return "".join(char for char in seen if not char.isspace() and not _INVISIBLE.match(char))


# The letters and marks that Unicode calls default-ignorable although they are no format characters.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def result_clashes(journeys: Iterable[JourneyConfig], lingering: Sequence[JourneyConfig] = ()) -> list[str]:
    """Return a sentence for each pair of journeys that could answer for each other at one server (R35).

    One that is off still tells the chat ``unavailable`` and ``not_me``. ``lingering`` are those that also
    answer: deleted ones, which do the same, and versions under which something is under way, which are ``active``.
    """
    known = sorted(journeys, key=lambda journey: journey.slug)
    active = [journey for journey in known if journey.active]
    clashes = [
        f"journey {other.slug} answers {text!r} for {outcome}, which journey {one.slug} answers for verified at "
        f"{one.callback.server}: a link of {one.slug} opened under {other.slug} would pass without any proof. "
        "Give each a different text"
        for one, other in itertools.product(active, [*known, *lingering])
        for outcome, text in other.results.items()
        if one.callback.server == other.callback.server
        and outcome != VERIFIED
        and one.success
        and result_key(text) == result_key(one.success)
    ]
    clashes += [
        f"journeys {one.slug} and {other.slug} both answer {one.success!r} for verified at "
        f"{one.callback.server}: a link of one opened under the other would pass for it. Give each a different "
        "text, or set shares_result = true in both"
        for one, other in itertools.combinations(active, 2)
        if _pass_for_each_other(one, other)
    ]
    clashes += [
        f"journey {other.slug} answered {one.success!r} for verified at {one.callback.server} until now, "
        f"and what began with it is still in progress: a link of {one.slug} could pass by it. Give {one.slug} "
        "another text, or save this again when those chats have ended"
        for one, other in itertools.product(active, lingering)
        if other.active and one.slug != other.slug and _pass_for_each_other(one, other)
    ]
    return list(dict.fromkeys(clashes))


def _pass_for_each_other(one: JourneyConfig, other: JourneyConfig) -> bool:
    return answer_alike(one, other) and not (one.shares_result and other.shares_result)


def answer_alike(one: JourneyConfig, other: JourneyConfig) -> bool:
    """Report whether two journeys answer one server with one text for ``verified``."""
    texts = {result_key(journey.success) for journey in (one, other)}
    return one.callback.server == other.callback.server and len(texts) == 1 and bool(one.success)


# --- What is stored of a journey

NEWER = "newer_release"  # the variable of a stored document that says: the whole journey is in the other column
_OF_EVERY_RELEASE = ("slug", "name", "default", "active", "chat_seconds", "return_url", "callback", "colour", "logo")
_CLOSED = (
    {"kind": "identify", "by": ["customer_id"]},
    {"kind": "verify", "any_of": ["sms_code"]},
    {"kind": "verify", "any_of": ["email_code"]},
)


def stored_documents(config: JourneyConfig) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the document of a version, and the whole journey where releases before 0.2 could not read it.

    A release that meets what it does not know could serve no journey at all. With a step or limit that is new the
    document is a journey that every release can read and none can open: its steps send codes and it has no channel.
    Without a new look and own texts it is the same journey, which an earlier release serves with the portal's. Either
    holds the digest of the whole one, so that the MAC of the version vouches for both.
    """
    whole = config.stored()
    if not config.new_keys and not config.is_closed_before:
        return whole, None
    mark = {NEWER: document_digest(whole)}
    if not config.is_closed_before:
        known = {name: value for name, value in whole.items() if name not in config.new_keys}
        return {**known, "data": {**whole["data"], **mark}}, whole
    common = {name: whole[name] for name in _OF_EVERY_RELEASE}
    results = {outcome: config.results.get(outcome, "failed") for outcome in OF_PROOFS}
    results[VERIFIED] = f"{NEWER}_{config.slug}"
    data = {"outcome": "{outcome}", "journey": "{journey}", **mark}
    return {**common, "steps": list(_CLOSED), "results": results, "data": data}, whole


def whole_document(document: Mapping[str, Any], whole: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return what is stored of a journey. Raise ValueError if someone else has changed the part that is not signed."""
    expected = document.get("data", {}).get(NEWER)
    if expected is None:
        return document
    if whole is None or document_digest(whole) != expected:
        raise ValueError("the whole journey is missing, or was changed by someone other than the portal")
    return whole


def document_digest(whole: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
