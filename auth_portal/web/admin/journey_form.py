"""The form of a journey: its fields as text, what the config file would say of them, and where a fault belongs.

Nothing is judged here. What somebody typed comes back as they typed it, whatever is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from werkzeug.datastructures import MultiDict

from auth_portal.i18n import gettext as _
from auth_portal.services.config.file import Fault
from auth_portal.services.config.journey import OUTCOMES, JourneyConfig, JourneyLimits, default_success
from auth_portal.services.method_names import in_words

SERVERS = ("production", "uat", "sandbox")
OWN = "own"
TEXTS = ("landing", "done", "closed")
LIMITS = tuple(JourneyLimits.model_fields)
PLAIN = ("slug", "name", "return_url", "relay_defence", "colour")
FLAGS = ("default", "active", "shares_result")
LONGEST = 2000  # characters of one field; the rules allow far less, and the answer holds them again
MOST_STEPS = 7
BLANK_ROWS = 2
_DROPPED = {"", "0"}
_OF_DEFENCE = {"chat_code": ("chat_code",), "phone_match": ("phone_match", "purpose")}  # variables it brings by itself


@dataclass(frozen=True)
class Typed:
    """The form's fields: single ones by key, then what comes in numbers."""

    fields: Mapping[str, str]
    by: tuple[str, ...] = ()
    steps: tuple[tuple[str, ...], ...] = ((),)
    channels: Mapping[str, str] = field(default_factory=dict)  # the place of each, or nothing
    data: tuple[tuple[str, str], ...] = ()

    def with_step(self) -> Typed:
        """With one more step to fill in."""
        return replace(self, steps=(*self.steps, ())[:MOST_STEPS])

    @property
    def named_twice(self) -> str:
        """A variable that has two rows, or nothing."""
        names = [name for name, _text in self.data]
        return next((name for name in names if names.count(name) > 1), "")

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """The variables, and room for more."""
        return (*self.data, *(("", ""),) * BLANK_ROWS)


def of_new() -> Typed:
    """The form of a new journey."""
    limits = {f"limits.{name}": _text(value) for name, value in JourneyLimits()}
    fields = {"server": "production", "callback.contract": "external_link", "relay_defence": "none", "active": "1"}
    usual = (("customer_id", "{customer_id}"), ("method", "{method}"), ("verified_at", "{verified_at}"))
    return Typed({**fields, **limits, "chat_seconds": "600"}, by=("customer_id",), data=usual)


def of_config(config: JourneyConfig) -> Typed:
    """The form of a journey as it is stored."""
    server = config.callback.server
    success = default_success(config.model_dump())
    results = {f"results.{outcome}": text for outcome, text in config.results.items()}
    if config.results["verified"] == success:
        results["results.verified"] = ""  # so that it follows the defence against relay
    fields = {
        **{name: str(getattr(config, name)) for name in PLAIN},
        **{name: "1" if getattr(config, name) else "" for name in FLAGS},
        **results,
        **{f"limits.{name}": _text(value) for name, value in config.limits},
        **{f"texts.{name}": value for name, value in config.texts},
        "chat_seconds": str(config.chat_seconds),
        "server": server if server in SERVERS else OWN,
        "server_own": "" if server in SERVERS else server,
        "callback.contract": config.callback.contract,
    }
    return Typed(
        fields,
        by=config.first_step.by,
        steps=tuple(step.any_of for step in config.verify_steps),
        channels={name: str(number) for number, name in enumerate(config.channels, 1)},
        data=tuple((key, text) for key, text in config.data.items() if not _is_always_sent(config, key, text)),
    )


def _is_always_sent(config: JourneyConfig, key: str, text: str) -> bool:
    always = {"outcome", "journey", *_OF_DEFENCE.get(config.relay_defence, ())}
    return key in always and text == f"{{{key}}}"


def of_form(form: MultiDict[str, str]) -> Typed:
    """The form as it was sent. Steps and rows that are empty are dropped."""
    steps = tuple(tuple(form.getlist(f"step{number}")) for number in range(1, MOST_STEPS + 1))
    rows = zip(form.getlist("data_key"), form.getlist("data_text"), strict=False)
    return Typed(
        {name: value.strip()[:LONGEST] for name, value in form.items()},
        by=tuple(form.getlist("by")),
        steps=tuple(step for step in steps if step) or ((),),
        channels={name.removeprefix("channel."): value for name, value in form.items() if name.startswith("channel.")},
        data=tuple((key.strip(), text.strip()[:LONGEST]) for key, text in rows if key.strip() or text.strip()),
    )


def values_of(typed: Typed, slug: str, logo: str) -> Mapping[str, Any]:
    """What the config file would say of it; ``slug`` and ``logo`` are not changed in this form."""
    fields = typed.fields
    results = {outcome: text for outcome in OUTCOMES if (text := fields.get(f"results.{outcome}", ""))}
    server = fields.get("server", "")
    return {
        **{name: fields.get(name, "") for name in PLAIN},
        **{name: bool(fields.get(name)) for name in FLAGS},
        "slug": slug,
        "logo": logo,
        "chat_seconds": _number(fields.get("chat_seconds", "")),
        "channels": _in_order(typed.channels),
        "steps": (
            {"kind": "identify", "by": typed.by},
            *({"kind": "verify", "any_of": step} for step in typed.steps if step),
        ),
        "callback": {
            "server": fields.get("server_own", "") if server == OWN else server,
            "contract": fields.get("callback.contract", ""),
        },
        "results": results,
        "data": {"outcome": "{outcome}", **dict(typed.data)},
        "limits": {name: _limit(name, fields.get(f"limits.{name}", "")) for name in LIMITS},
        "texts": {name: " ".join(fields.get(f"texts.{name}", "").split()) for name in TEXTS},
    }


def _limit(name: str, text: str) -> Any:
    if name != "resend_waits":
        return _number(text)
    return tuple(_number(part) for part in re.split(r"[,;\s]+", text) if part)


def _number(text: str) -> int | str:
    """A whole number, or what was typed: the rules say what is wrong with that."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text  # noqa: PLR2004


def _in_order(channels: Mapping[str, str]) -> tuple[str, ...]:
    """The channels in use by their number, then by name. What is no number comes last."""
    used = [(_number(place), name) for name, place in channels.items() if place.strip() not in _DROPPED]
    return tuple(name for _place, name in sorted(used, key=lambda item: (isinstance(item[0], str), *item)))


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


# --- Faults and differences, in the form's words


def faults_of(found: Iterable[Fault]) -> dict[str, str]:
    """The reasons by the field they belong to; several of one field follow each other."""
    faults: dict[str, str] = {}
    for _table, key, reason in found:
        field, words = _placed(key, in_words(reason))
        faults[field] = f"{faults[field]}; {words}" if field in faults else words
    return faults


def lines_of(faults: Mapping[str, str]) -> list[str]:
    """The faults as lines, each with the name of its field."""
    return [f"{label}: {reason}" if (label := label_of(field)) else reason for field, reason in faults.items()]


def _placed(key: str, reason: str) -> tuple[str, str]:
    head, _colon, rest = reason.partition(": ")
    if not key and head in ("results", "relay_defence"):
        key, reason = ("results.verified" if head == "results" else head), rest
    if key.startswith("data"):
        return "data", reason if key == "data" else f"{key.removeprefix('data.')} {reason}"
    field = re.sub(r"^(limits\.\w+|channels)\[\d+\]$", r"\1", key)
    if reason.startswith("must have at least") and field.startswith("steps"):
        return field, _("choose at least one")
    return field, reason


def label_of(key: str) -> str:
    """The form's name of a key; the key itself where the form has none."""
    if found := re.fullmatch(r"steps\[(\d+)\]\.(\w+)", key):
        number = int(found[1])
        return _("What a customer gives") if number == 1 else _("Step %(number)s", number=number)
    if key.startswith("results."):
        return _("Result for %(outcome)s", outcome=key.removeprefix("results."))
    if key.startswith("data."):
        return _("Variable %(name)s", name=key.removeprefix("data."))
    return _labels().get(key, key)


def _labels() -> Mapping[str, str]:
    return {
        "slug": _("Name in the link"),
        "name": _("Name"),
        "default": _("Default journey"),
        "active": _("Switched on"),
        "chat_seconds": _("Chat clock"),
        "return_url": _("Link back to the chat"),
        "relay_defence": _("Defence against a link that is sent on"),
        "shares_result": _("Shares its result"),
        "channels": _("Channels"),
        "steps": _("Steps"),
        "callback.server": _("Where the answer goes"),
        "callback.contract": _("Kind of node"),
        "data": _("Variables"),
        "limits.code_digits": _("Digits of a code"),
        "limits.code_seconds": _("Life of a code"),
        "limits.wrong_tries": _("Wrong tries in one chat"),
        "limits.sends": _("Messages in one chat"),
        "limits.resend_waits": _("Waits before a further message"),
        "limits.identity_changes": _("Changes of who it is"),
        "limits.credential_tries_day": _("Wrong tries of one person in a day"),
        "limits.credential_tries_total": _("Wrong tries of one person in all"),
        "limits.destination_hour": _("Codes to one phone or address in an hour"),
        "limits.destination_day": _("Codes to one phone or address in a day"),
        "texts.landing": _("Your words on the first page"),
        "texts.done": _("Your words after success"),
        "texts.closed": _("Your words while it is closed"),
        "colour": _("Colour"),
        "logo": _("Logo"),
        "second_factor": _("Code from your authenticator app"),
    }
