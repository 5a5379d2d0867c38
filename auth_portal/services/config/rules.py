"""What a configuration must not be, wherever it comes from: open to a weaker proof, or unable to work.

Which of two journeys is the weaker one is decided here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

import phonenumbers

from auth_portal.errors import Misconfigured
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.gateways.flow import SERVERS
from auth_portal.gateways.way_out import WayOut
from auth_portal.methods import CARRIES, METHODS
from auth_portal.services.config.file import Faults
from auth_portal.services.config.journey import JourneyConfig, answer_alike, result_clashes
from auth_portal.services.config.store import WantedConfig

SESSION_SECONDS = 600  # how long Flow waits in a chat without a message, by default
WAIT_NODE_SECONDS = 540  # how long its Wait for Callback node waits then: a minute less
FIXED_RULE = (
    "cannot be changed now, because there are {held_by}: they are found by the present rule. Set it before the first "
    "customer is imported, in a new portal or here once all customers are erased and no chat is under way"
)
KINDS_OF_MESSAGE = {"sms": "SMS", "email": "email"}


@dataclass(frozen=True)
class Scope:
    """The tables that a change names, each with its place in the words of its faults; empty on a page of its own."""

    channels: Mapping[str, str] = field(default_factory=dict)
    journeys: Mapping[str, str] = field(default_factory=dict)
    other_journey: str = 'journey "{slug}" (not in this file)'


@dataclass(frozen=True)
class Rules:
    """The rules, and what this installation allows: ``way_out`` knows the operator's policy on destinations."""

    has_sandbox: bool
    way_out: WayOut

    def check(self, wanted: WantedConfig, scope: Scope, faults: Faults) -> None:
        """Note what is wrong with the configuration as it would be after the change."""
        self._check_portal(wanted, faults)
        for name, place in scope.channels.items():
            self._check_channel(name, place, wanted, faults)
        for slug, place in scope.journeys.items():
            if slug in wanted.journeys:
                self._check_journey(wanted.journeys[slug], place, wanted, faults)
        named = wanted.channels.keys() | scope.channels.keys()  # one that could not be read is a fault already
        for slug, journey in wanted.journeys.items():
            if journey.active:  # one that is off may name channels that are off too
                place = scope.journeys.get(slug, scope.other_journey.format(slug=slug))
                _check_channels_of(journey, named, wanted, place, faults)
        for clash in result_clashes(wanted.journeys.values(), tuple(_still_answering(wanted))):
            faults.add("", "", clash)

    def allows(self, kind: type[ChannelConfig]) -> bool:
        """Report whether channels of a kind can work here: some need the sandbox."""
        return self.has_sandbox or not kind.NEEDS_SANDBOX

    def _check_portal(self, wanted: WantedConfig, faults: Faults) -> None:
        region = wanted.portal.default_region
        if region and region not in phonenumbers.SUPPORTED_REGIONS:
            faults.add(
                "portal", "default_region", "is no country that phone numbers belong to; the United Kingdom is GB"
            )
        for key, digest in (("logo", wanted.portal.logo), ("logo_dark", wanted.portal.logo_dark)):
            if digest and digest not in wanted.logos:
                faults.add("portal", key, "names a picture that is not stored here; upload it on the Settings page")
        if wanted.portal.case_sensitive_ids != wanted.ids.has_case and wanted.ids.held_by:
            faults.add("portal", "case_sensitive_ids", FIXED_RULE.format(held_by=wanted.ids.held_by))
        notices_by, webhook = wanted.portal.notices_by, wanted.portal.alerts.webhook
        channel = wanted.channels.get(notices_by)
        if notices_by and (channel is None or "email" not in channel.message_kinds):
            faults.add(
                "portal", "notices_by", f'names "{notices_by}", but no channel in use has this name and carries email'
            )
        try:
            if webhook:
                self.way_out.check_origin(webhook)
        except Misconfigured as fault:
            faults.add("portal", "alerts.webhook", str(fault))

    def _check_channel(self, name: str, place: str, wanted: WantedConfig, faults: Faults) -> None:
        channel = wanted.channels.get(name) or wanted.off.get(name)
        if channel is None:
            return
        if not self.allows(type(channel)):
            faults.add(place, "kind", "needs the sandbox, which is off (PORTAL_SANDBOX)")
        try:
            channel.check_way_out(self.way_out)
        except Misconfigured as fault:
            faults.add(place, "", str(fault))

    def _check_journey(self, journey: JourneyConfig, place: str, wanted: WantedConfig, faults: Faults) -> None:
        for key, digest in (("logo", journey.logo), ("logo_dark", journey.logo_dark)):
            if digest and digest not in wanted.logos:
                faults.add(place, key, "names a picture that is not stored here; upload it on the journey's page")
        server = journey.callback.server
        if server == "sandbox" and not self.has_sandbox:
            faults.add(place, "callback.server", "is the sandbox, which is off (PORTAL_SANDBOX)")
        if server == "sandbox" or server in SERVERS:
            return
        if better := _better_spelling(server):
            faults.add(place, "callback.server", f"must be written {better}")
        try:
            self.way_out.check_origin(server)
        except Misconfigured as fault:
            faults.add(place, "callback.server", str(fault))


def _better_spelling(server: str) -> str:
    """Return the one name of a server that is spelled otherwise: two journeys that share it must be compared (R35)."""
    default_port = ":443" if server.startswith("https:") else ":80"
    for name, origin in SERVERS.items():
        if server.removesuffix(default_port) == origin:
            return f'"{name}"'
    return f"without {default_port}" if server.endswith(default_port) else ""


def _check_channels_of(
    journey: JourneyConfig, named: Set[str], wanted: WantedConfig, place: str, faults: Faults
) -> None:
    """Note the channels that a journey names in vain, and the messages that none of them carries.

    A channel that is off may be named if the journey's other channels do its work.
    """
    uncarried = list(_uncarried(journey, wanted))
    idle = set(journey.channels) & wanted.off.keys()
    for name in sorted(set(journey.channels) - named - (set() if uncarried else idle)):
        faults.add(place, "channels", f'names "{name}", and there is no such channel in use')
    for key, method, kind in () if idle else uncarried:
        reason = f"has {method}, but none of the journey's channels carries {KINDS_OF_MESSAGE[kind]}"
        faults.add(place, key, f"{reason}; add one to its channels")


def _uncarried(journey: JourneyConfig, wanted: WantedConfig) -> Iterator[tuple[str, str, str]]:
    """Yield each method that sends what none of the journey's channels carries: key, method, kind of message."""
    in_use = set(journey.channels) - wanted.off.keys()
    if not in_use <= wanted.channels.keys():
        return  # a missing channel is a fault already
    carried = {kind for name in in_use for kind in wanted.channels[name].message_kinds}
    for number, step in enumerate(journey.steps, 1):
        for method in step.methods:
            kind = CARRIES.get(method)
            if kind is not None and kind not in carried:
                yield f"steps[{number}].{step.methods_key}", method, kind


def _still_answering(wanted: WantedConfig) -> Iterator[JourneyConfig]:
    """Yield the lingering journeys that answer differently from the journey that has their name now."""
    for old in wanted.lingering:
        now = wanted.journeys.get(old.slug)
        if now is None or not now.active or (now.results, now.callback) != (old.results, old.callback):
            yield old


def warnings(journeys: Mapping[str, JourneyConfig]) -> Iterator[str]:
    """Yield the warnings of the active journeys, each with the journey's name in front."""
    for slug, journey in journeys.items():
        if journey.active:
            yield from (f"journey {slug}: {text}" for text in warnings_of(journey))


def warnings_of(journey: JourneyConfig) -> Iterator[str]:
    """Yield what the standards advise against and an admin may still choose (R14, link relay)."""
    methods = {method for step in journey.verify_steps for method in step.methods}
    if methods == {"sms_code"}:
        yield "SMS is the only proof; NIST SP 800-63B requires an alternative to it"
    if "email_code" in methods:
        yield (
            "a code by email proves access to the mailbox, not possession of a device; NIST SP 800-63B does not "
            "accept it as a second factor"
        )
    if journey.closed_by_change:
        yield journey.closed_by_change
    if "support_code" in methods:
        yield "support can let a customer pass with support_code; anyone who convinces support passes that step"
    if journey.verify_steps and not journey.defence.stops_relay:
        yield "relay_defence is none; the result of a link that was sent on goes to the chat of its sender"
    if journey.callback.contract == "wait_for_callback" and journey.chat_seconds > WAIT_NODE_SECONDS:
        yield (
            f"the chat clock (chat_seconds) is {journey.chat_seconds}, but a Wait for Callback node stops waiting a "
            f"minute before the chat ends, by default after {WAIT_NODE_SECONDS} seconds; later results are lost. Set "
            f"{WAIT_NODE_SECONDS}, or a minute less than the session timeout in Chat Flow"
        )


def strength(journey: JourneyConfig) -> tuple[int, int, int]:
    """Return a value to compare journeys by: steps, hardness of each one's easiest method, defence against relay."""
    easiest = (min(METHODS[method].hardness for method in step.methods) for step in journey.verify_steps)
    return len(journey.verify_steps), sum(easiest), journey.defence.strength


def weaker_twins(journey: JourneyConfig, others: Iterable[JourneyConfig]) -> list[JourneyConfig]:
    """Return the active journeys that answer the same server with the same text and ask for less, weakest first (R35).

    Anyone who holds a link can edit its path, so the weaker journey decides what the text is worth. Admins and the
    landing page name it; nothing is allowed or refused by it.
    """
    if not journey.shares_result:
        return []
    weaker = [
        other
        for other in others
        if other.active and answer_alike(journey, other) and strength(other) < strength(journey)
    ]
    return sorted(weaker, key=strength)
