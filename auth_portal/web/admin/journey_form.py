"""The form of a journey: its fields as text, what the config file would say instead, and the field of each fault.

Nothing is judged here. What an admin typed comes back as they typed it, whatever is wrong with it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from werkzeug.datastructures import MultiDict

from auth_portal.i18n import field_name, lasting, read_lasting
from auth_portal.i18n import gettext as _
from auth_portal.services.config.journey import LIMIT_BOUNDS, JourneyConfig, JourneyLimits, default_success, outcomes_of
from auth_portal.services.steps import ADDED, FIRST, STEPS

SERVERS = ("production", "uat", "sandbox")
OWN = "own"
TEXTS = ("landing", "done", "closed")
# What each limit is for, and who sets its bounds; the bounds are those of the config.
LIMIT_WORDS: Mapping[str, tuple[str, str]] = {
    "code_digits": (
        "%(least)s to %(most)s.",
        "NIST SP 800-63B (3.1.3.2) requires at least 6.",
    ),
    "code_seconds": (
        "From %(least)s to %(most)s; 5 minutes is usual. A code never outlasts the chat clock.",
        "NIST SP 800-63B allows at most 10 minutes.",
    ),
    "wrong_tries": (
        "%(least)s to %(most)s, over all codes and methods.",
        "RTS article 4(3)(b) allows at most 5.",
    ),
    "sends": (
        "%(least)s to %(most)s. Each message costs money and can annoy a person who didn't ask for it.",
        "",
    ),
    "resend_waits": (
        "One to four times from %(least)s to %(most)s, separated by commas. The last one repeats. Counted from the "
        "previous message.",
        "",
    ),
    "identity_changes": (
        "%(least)s to %(most)s. How often customers can correct the details they entered.",
        "",
    ),
    "credential_tries_day": (
        "%(least)s to %(most)s, over all their chats, so that a new chat gives an attacker no new tries.",
        "RFC 4226, 7.3.",
    ),
    "credential_tries_total": (
        "%(least)s to %(most)s. After that the method is locked until support unlocks it. Links with and without a "
        "ticket count separately.",
        "NIST SP 800-63B (3.2.2) allows 100 in total.",
    ),
    "destination_hour": ("%(least)s to %(most)s, over all chats.", ""),
    "destination_day": ("%(least)s to %(most)s.", ""),
    "changed_contact_hours": (
        "%(least)s to %(most)s. An attacker who convinces or bribes support changes the phone first. Until then, codes "
        "to it count only together with another method of this journey. 0 switches it off.",
        "",
    ),
}
PLAIN = ("slug", "name", "return_url", "relay_defence", "colour")
LOGOS = ("logo", "logo_dark")
HIDES = {"": None, "1": True, "0": False}  # the name next to the logo; nothing: as the portal's settings say
TIMES = ("chat_seconds", "code_seconds", "resend_waits")  # that are typed with their unit
USUAL_CLOCK = 600  # seconds: Chat Flow's own, unless it was changed there
FLAGS = ("default", "active", "shares_result")
LONGEST = 2000  # characters of one field; the rules allow far less, and the response contains them again
MOST_STEPS = 7
KINDS = ("", *STEPS)  # a form of an earlier version names none
BLANK_ROWS = 2
LONGEST_SLUG = 41


@dataclass(frozen=True)
class JourneyForm:
    """The form's fields as they were typed: single ones by key, then those that repeat."""

    fields: Mapping[str, str]
    steps: tuple[Mapping[str, Any], ...]  # as the config file writes them; one without values is still to fill in
    channels: tuple[str, ...] = ()  # in order
    data: tuple[tuple[str, str], ...] = ()

    def with_step(self, kind: str) -> JourneyForm:
        """Return the form with one more step to fill in; the one that names customers comes first."""
        steps = (*self.steps, {"kind": kind})
        steps = ({"kind": kind}, *self.steps) if kind == FIRST and self.lacks_naming else steps
        return replace(self, steps=steps[: MOST_STEPS + 1])

    def rearranged(self, act: str, place: int) -> JourneyForm:
        """Return the form with the step at a place (from 1) moved ``up`` or ``down`` by one, or removed."""
        steps, at = list(self.steps), place - 1
        if 0 <= at < len(steps):
            step = steps.pop(at)
            if act != "remove":
                steps.insert(max(0, at - 1) if act == "up" else at + 1, step)
        return replace(self, steps=tuple(steps))

    @property
    def slug(self) -> str:
        """Return the name in the link: as it was typed, or else made of the name that customers see."""
        return self.fields.get("slug", "") or slug_of(self.fields.get("name", ""))

    @property
    def lacks_naming(self) -> bool:
        """Report whether no step names the customer."""
        return FIRST not in [step["kind"] for step in self.steps]

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Return how a journey of these steps can end."""
        return outcomes_of(STEPS[step["kind"]] for step in self.steps)

    @property
    def named_twice(self) -> str:
        """Return a variable that has two rows, or an empty text."""
        names = [name for name, _text in self.data]
        return next((name for name in names if names.count(name) > 1), "")

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """Return the variables, and rows for more."""
        return (*self.data, *(("", ""),) * BLANK_ROWS)


def of_new(channels: Iterable[str]) -> JourneyForm:
    """Return the form of a new journey, with all channels that may send."""
    limits = {f"limits.{name}": _text(name, value) for name, value in JourneyLimits()}
    fields = {"server": "production", "callback.contract": "external_link", "relay_defence": "none", "active": "1"}
    usual = (("customer_id", "{customer_id}"), ("method", "{method}"), ("verified_at", "{verified_at}"))
    steps = ({"kind": FIRST, "by": ("customer_id",)}, {"kind": ADDED[0]})
    return JourneyForm({**fields, **limits, "chat_seconds": lasting(USUAL_CLOCK)}, steps, tuple(channels), data=usual)


def slug_of(name: str) -> str:
    """Return a name for the link, made of the name that customers see: "" where nothing in it can stand in one."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:LONGEST_SLUG].strip("-")


def of_config(config: JourneyConfig) -> JourneyForm:
    """Return the form of a journey as it is stored."""
    server = config.callback.server
    always_sent = {(key, f"{{{key}}}") for key in ("outcome", "journey", *config.defence.variables)}
    success = default_success(config.model_dump())
    results = {f"results.{outcome}": text for outcome, text in config.results.items()}
    if config.success == success:
        results["results.verified"] = ""  # so that it follows the defence against relay
    fields = {
        **{name: str(getattr(config, name)) for name in PLAIN},
        **{name: "1" if getattr(config, name) else "" for name in FLAGS},
        **results,
        **{f"limits.{name}": _text(name, value) for name, value in config.limits},
        **{f"texts.{name}": value for name, value in config.texts},
        "chat_seconds": lasting(config.chat_seconds),
        "radius": "" if config.radius is None else str(config.radius),
        "hide_name": next(text for text, value in HIDES.items() if value is config.hide_name),
        "server": server if server in SERVERS else OWN,
        "server_own": "" if server in SERVERS else server,
        "callback.contract": config.callback.contract,
    }
    return JourneyForm(
        fields,
        steps=tuple(step.model_dump() for step in config.steps),
        channels=config.channels,
        data=tuple(variable for variable in config.data.items() if variable not in always_sent),
    )


def of_form(form: MultiDict[str, str], *, has_empty: bool = False) -> JourneyForm:
    """Return the form as it was sent. Empty rows are dropped, and empty steps too, unless ``has_empty``."""
    kinds = [form.get("kind0", FIRST), *(form.get(f"kind{number}", "") for number in range(1, MOST_STEPS + 1))]
    read = [
        (kind, STEPS[kind or ADDED[0]].read_form(form, f"step{n}")) for n, kind in enumerate(kinds) if kind in KINDS
    ]
    steps = tuple(step or {"kind": kind} for kind, step in read if step or (kind and has_empty))
    rows = zip(form.getlist("data_key"), form.getlist("data_text"), strict=False)
    return JourneyForm(
        {name: value.strip()[:LONGEST] for name, value in form.items()},
        steps=steps if any(STEPS[step["kind"]].add_label for step in steps) else (*steps, {"kind": ADDED[0]}),
        channels=tuple(dict.fromkeys(name for name in form.getlist("channel") if name)),
        data=tuple((key.strip(), text.strip()[:LONGEST]) for key, text in rows if key.strip() or text.strip()),
    )


def others_of(config: JourneyConfig) -> Mapping[str, Any]:
    """Return what other forms of a journey change: its logos and texts."""
    return {name: getattr(config, name) for name in (*LOGOS, "wording")}


def values_of(typed: JourneyForm, slug: str, others: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the config file would say instead; this form does not change ``slug`` and ``others``."""
    fields = typed.fields
    results = {outcome: text for outcome in typed.outcomes if (text := fields.get(f"results.{outcome}", ""))}
    server = fields.get("server", "")
    limits = {name: fields.get(f"limits.{name}", "") for name in LIMIT_BOUNDS}
    return {
        **{name: fields.get(name, "") for name in PLAIN},
        **{name: bool(fields.get(name)) for name in FLAGS},
        "slug": slug,
        **others,
        "radius": _number(radius) if (radius := fields.get("radius", "").strip()) else None,
        "hide_name": HIDES.get(fields.get("hide_name", "")),
        "chat_seconds": read_lasting(fields.get("chat_seconds", "")),
        "channels": typed.channels,
        "steps": tuple(step for step in typed.steps if step.keys() != {"kind"}),
        "callback": {
            "server": fields.get("server_own", "") if server == OWN else server,
            "contract": fields.get("callback.contract", ""),
        },
        "results": results,
        "data": {"outcome": "{outcome}", **dict(typed.data)},
        "limits": {
            **{name: _number(text) for name, text in limits.items()},
            "code_seconds": read_lasting(limits["code_seconds"]),
            "resend_waits": tuple(
                read_lasting(part) for part in re.split(r"[,;]", limits["resend_waits"]) if part.strip()
            ),
        },
        "texts": {name: " ".join(fields.get(f"texts.{name}", "").split()) for name in TEXTS},
    }


def _number(text: str) -> int | str:
    """Return a whole number, or what was typed: the rules say what is wrong with it."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text  # noqa: PLR2004


def _text(name: str, value: Any) -> str:
    """Return a limit as the form shows it: times in words, the unit included."""
    if name not in TIMES:
        return str(value)
    return ", ".join(map(lasting, value)) if isinstance(value, Sequence) else lasting(value)


class LimitField(NamedTuple):
    """A limit as the form shows it."""

    name: str
    label: str
    help: str
    source: str  # of the bounds, if a standard sets them
    least: int
    most: int
    is_time: bool


def limit_fields() -> list[LimitField]:
    """Return the limits with their bounds, in the order of the form."""
    found = []
    for name, (help_text, source) in LIMIT_WORDS.items():
        bounds, is_time = LIMIT_BOUNDS[name], name in TIMES
        least, most = map(lasting, bounds) if is_time else map(str, bounds)
        words, label = _(help_text, least=least, most=most), field_name("journey", f"limits.{name}")
        found.append(LimitField(name, label, words, _(source), *bounds, is_time))
    return found
