"""What a configuration must not be, wherever it comes from: open to a weaker proof, or unable to work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from auth_portal.errors import Misconfigured
from auth_portal.gateways.channels import ChannelConfig
from auth_portal.gateways.flow import SERVERS
from auth_portal.methods import CARRIES
from auth_portal.services.config.file import ConfigFile, Faults
from auth_portal.services.config.journey import JourneyConfig, result_clashes
from auth_portal.services.config.portal import PortalSettings

SESSION_SECONDS = 600  # how long Flow keeps a chat without a message, by default
WAIT_NODE_SECONDS = 540  # how long its Wait for Callback node waits then: a minute less
KINDS_OF_MESSAGE = {"sms": "SMS", "email": "e-mail"}


@dataclass(frozen=True)
class Wanted:
    """The whole configuration as it should be. Channels that are not in it are off.

    ``off`` are those that an admin switched off before: journeys may go on naming them, as something to come back to.
    """

    portal: PortalSettings
    channels: Mapping[str, ChannelConfig]
    journeys: Mapping[str, JourneyConfig]
    logos: Set[str] = frozenset()  # the digests of the pictures that are stored here
    off: Set[str] = frozenset()
    lingering: Sequence[JourneyConfig] = ()  # what else answers the chat, see ``journey_rows.lingering_journeys``


@dataclass(frozen=True)
class Rules:
    """The rules, and what this installation allows.

    ``check_origin`` and ``check_channel`` raise Misconfigured for what the operator's policy never lets out; without
    ``check_channel`` a channel's URL is given to ``check_origin``.
    """

    has_sandbox: bool
    check_origin: Callable[[str], None]
    check_channel: Callable[[ChannelConfig], None] | None = None

    def check(self, file: ConfigFile, wanted: Wanted, faults: Faults) -> None:
        """Notes what is wrong with the configuration as it would be after the file."""
        self._portal(wanted, faults)
        for table in file.channels:
            if (channel := wanted.channels.get(table.name)) is not None:
                self._channel(channel, table.place, faults)
        named = wanted.channels.keys() | {table.name for table in file.channels}  # a broken one is a fault already
        for slug, journey in file.journeys.items():
            self._server(journey, file.places[slug], faults)
            if journey.logo and journey.logo not in wanted.logos:
                faults.add(file.places[slug], "logo", "names a picture that is not stored here; give it on the page")
        for slug, journey in wanted.journeys.items():
            if journey.active:  # one that is off may name channels that are off too
                place = file.places.get(slug, f'journey "{slug}" (not in this file)')
                _check_ways(journey, named, wanted, place, faults)
        for clash in result_clashes(wanted.journeys.values(), tuple(_others(wanted))):
            faults.add("", "", clash)

    def _portal(self, wanted: Wanted, faults: Faults) -> None:
        notices_by, webhook = wanted.portal.notices_by, wanted.portal.alerts.webhook
        channel = wanted.channels.get(notices_by)
        if notices_by and (channel is None or "email" not in channel.message_kinds):
            faults.add(
                "portal", "notices_by", f'names "{notices_by}", but no channel in use has this name and carries e-mail'
            )
        try:
            if webhook:
                self.check_origin(webhook)
        except Misconfigured as fault:
            faults.add("portal", "alerts.webhook", str(fault))

    def _channel(self, channel: ChannelConfig, place: str, faults: Faults) -> None:
        if channel.NEEDS_SANDBOX and not self.has_sandbox:
            faults.add(place, "kind", "needs the sandbox, which is off (PORTAL_SANDBOX)")
        try:
            if self.check_channel is not None:
                self.check_channel(channel)
            elif channel.address:
                self.check_origin(channel.address)
        except Misconfigured as fault:
            faults.add(place, "", str(fault))

    def _server(self, journey: JourneyConfig, place: str, faults: Faults) -> None:
        server = journey.callback.server
        if server == "sandbox" and not self.has_sandbox:
            faults.add(place, "callback.server", "is the sandbox, which is off (PORTAL_SANDBOX)")
        if server == "sandbox" or server in SERVERS:
            return
        if better := _better_spelling(server):
            faults.add(place, "callback.server", f"must be written {better}")
        try:
            self.check_origin(server)
        except Misconfigured as fault:
            faults.add(place, "callback.server", str(fault))


def _others(wanted: Wanted) -> Iterator[JourneyConfig]:
    """Of what lingers, whatever answers otherwise than the journey that has its name."""
    for old in wanted.lingering:
        now = wanted.journeys.get(old.slug)
        if now is None or not now.active or (now.results, now.callback) != (old.results, old.callback):
            yield old


def _better_spelling(server: str) -> str:
    """The one name of a server, where this is another: two journeys that share it must be seen to (R35)."""
    default_port = ":443" if server.startswith("https:") else ":80"
    for name, origin in SERVERS.items():
        if server.removesuffix(default_port) == origin:
            return f'"{name}"'
    return f"without {default_port}" if server.endswith(default_port) else ""


def _check_ways(journey: JourneyConfig, named: Set[str], wanted: Wanted, place: str, faults: Faults) -> None:
    """A journey's channels are there and carry what it sends. One that is off may be named where others do its work."""
    uncarried = list(_uncarried(journey, wanted))
    idle = set(journey.channels) & wanted.off
    for name in sorted(set(journey.channels) - named - (set() if uncarried else idle)):
        faults.add(place, "channels", f'names "{name}", and there is no such channel in use')
    for key, method, kind in () if idle else uncarried:
        reason = f"has {method}, but none of the journey's channels carries {KINDS_OF_MESSAGE[kind]}"
        faults.add(place, key, f"{reason}; add one to its channels")


def _uncarried(journey: JourneyConfig, wanted: Wanted) -> Iterator[tuple[str, str, str]]:
    """Where a journey has a method that none of its channels carries: the key, the method, the kind of message."""
    known = _known_kinds(journey, wanted)
    for number, step in enumerate(journey.steps, 1):
        for method in getattr(step, "any_of", ()):
            kind = CARRIES.get(method)
            if kind is not None and kind not in known:
                yield f"steps[{number}].any_of", method, kind


def _known_kinds(journey: JourneyConfig, wanted: Wanted) -> Set[str]:
    """The kinds of message that a journey can send; all of them while one of its channels is a fault itself."""
    in_use = set(journey.channels) - wanted.off
    if not in_use <= wanted.channels.keys():
        return KINDS_OF_MESSAGE.keys()
    return {kind for name in in_use for kind in wanted.channels[name].message_kinds}


def warnings(journeys: Mapping[str, JourneyConfig]) -> Iterator[str]:
    """What an admin should know of the active ones of these journeys, each with its name in front."""
    for slug, journey in journeys.items():
        if journey.active:
            yield from (f"journey {slug}: {text}" for text in warnings_of(journey))


def warnings_of(journey: JourneyConfig) -> Iterator[str]:
    """What the standards advise against and an admin may still want (R14, link relay)."""
    methods = {method for step in journey.verify_steps for method in step.any_of}
    if methods == {"sms_code"}:
        yield "SMS is the only proof; NIST SP 800-63B asks for another choice beside it"
    if "email_code" in methods:
        yield (
            "a code by e-mail shows that somebody can open the mailbox, not that they hold a device; NIST SP 800-63B "
            "does not count it as a second device"
        )
    if "support_code" in methods:
        yield "support can let somebody in with support_code; whoever persuades support passes that step"
    if journey.relay_defence == "none":
        yield "relay_defence is none; a link that is sent on brings the answer to its sender"
    if journey.callback.contract == "wait_for_callback" and journey.chat_seconds > WAIT_NODE_SECONDS:
        yield (
            f"the chat clock (chat_seconds) is {journey.chat_seconds}, but a Wait for Callback node stops a minute "
            f"before the chat ends, by default after {WAIT_NODE_SECONDS} seconds; later answers are lost. Set "
            f"{WAIT_NODE_SECONDS}, or a minute less than the session that is set in Chat Flow"
        )
