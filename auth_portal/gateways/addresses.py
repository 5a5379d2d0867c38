"""The address policy: which servers the portal may connect to (D4). No network here.

Public https servers only, unless the operator exempts a host; SMTP on its usual ports. One strict rule parses URLs, so
that no two parsers can disagree about where one leads.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from auth_portal.errors import Misconfigured
from auth_portal.gateways.way_out import Blocked
from auth_portal.settings import Network, Settings

SMTP_PORTS = frozenset({25, 465, 587, 2525})
_PORTS = range(1, 65536)
_BY_SETTING = "with PORTAL_PRIVATE_TARGETS or, for an address of a private network, PORTAL_PRIVATE_NETWORKS"
_NOT_PUBLIC = f"The address is not a public one. The operator can allow it {_BY_SETTING}."

_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")  # everything that is assigned as global unicast
# ipaddress.is_global of Python 3.11 lets some of these pass, and later patch levels differ: so all are named.
_CLOSED = [
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carriers' own NAT, and the metadata service of Alibaba Cloud
        "168.63.129.16/32",  # Azure's host agent, at a public address
        "169.254.0.0/16",  # link-local, and most clouds' metadata service
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "64:ff9b::/96",  # NAT64: any IPv4 address, private ones too
        "64:ff9b:1::/48",
        "2001::/23",  # Teredo, ORCHID and other protocols of the IETF
        "2001:db8::/32",
        "2002::/16",  # 6to4: any IPv4 address again
        "3fff::/20",
        "fec0::/10",
    )
]
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?:[/?][\x21\x22\x24-\x5b\x5d-\x7e]*)?",  # printable ASCII without # and backslash
    re.IGNORECASE,
)


def is_public(address: str) -> bool:
    """Return True for a literal address that is public unicast. IPv4 inside IPv6 counts as the IPv4 address."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found not in _GLOBAL_IPV6:
            return False
    return found.is_global and not found.is_multicast and not any(found in network for network in _CLOSED)


class Target(NamedTuple):
    """Where a URL leads. An exempt one may be private and unencrypted."""

    host: str
    port: int
    is_exempt: bool
    is_sandbox: bool


@dataclass(frozen=True)
class NetworkPolicy:
    """What the operator allows beyond public https addresses, and the proxy to use.

    ``allow_private`` opens everything. ``private_targets`` are (host, port). In ``private_networks``, an address may be
    named as such, without TLS too, and a name that leads to one may be used like any other. ``sandbox_origin`` is a URL
    prefix such as ``http://127.0.0.1:8000/sandbox``, empty for none. ``proxy`` is an http(s) URL, empty for none; it
    carries http and https, never SMTP. ``ca_bundle`` is a PEM file used in place of the built-in authorities.
    """

    allow_private: bool = False
    private_targets: frozenset[tuple[str, int]] = frozenset()
    private_networks: tuple[Network, ...] = ()
    sandbox_origin: str = ""
    proxy: str = ""
    ca_bundle: Path | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the policy of the operator's settings. Raise Misconfigured if the proxy is not a URL."""
        proxy = settings.outbound_proxy
        if proxy and (urlsplit(proxy).scheme not in ("http", "https") or not urlsplit(proxy).hostname):
            raise Misconfigured("PORTAL_OUTBOUND_PROXY must be a URL such as http://proxy.example:3128.")
        return cls(
            allow_private=settings.allow_private_callbacks,
            private_targets=settings.private_targets,
            private_networks=settings.private_networks,
            sandbox_origin=settings.sandbox_url,
            proxy=proxy,
            ca_bundle=settings.ca_bundle,
        )

    def exempts(self, host: str, port: int) -> bool:
        """Return True if this host and port may be private and unencrypted."""
        named = (_plain_name(host), port) in self.private_targets
        return self.allow_private or named or self._is_in_network(_plain_name(host))

    def _is_in_network(self, address: str) -> bool:
        """Report whether a literal address is in a network that the operator allows."""
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False  # a name
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found in network for network in self.private_networks)

    def allowed_ones(self, addresses: list[str]) -> list[str]:
        """Return the addresses of a name that may be used. Raise Blocked if there are only others."""
        allowed = [address for address in addresses if is_public(address) or self._is_in_network(address)]
        if addresses and not allowed:
            raise Blocked(_NOT_PUBLIC)
        return allowed

    def target(self, url: str) -> Target:
        """Return where a URL leads, judged as far as that is possible without a look-up. Raise Blocked."""
        match = _URL.fullmatch(url)
        if match is None:
            raise Blocked(
                "The address must be a URL such as https://flow.example, in ASCII, without user, # or spaces."
            )
        scheme, host = match["scheme"].lower(), _plain_name(match["host"])
        port = int(match["port"] or (443 if scheme == "https" else 80))
        if not host or port not in _PORTS:
            raise Blocked("The address has no host, or a port that does not exist.")
        prefix, climbs = self.sandbox_origin, "/.." in url or "%2e" in url.lower()
        is_below = bool(prefix) and (url == prefix or url.startswith(prefix.rstrip("/") + "/"))
        is_sandbox = is_below and not climbs
        is_exempt = is_sandbox or self.exempts(host, port)
        if scheme == "http" and not is_exempt:
            raise Blocked(f"The address must begin with https://. The operator can allow http {_BY_SETTING}.")
        if not is_exempt:
            _check_literal(host)
        return Target(host, port, is_exempt, is_sandbox)

    def check_mail_host(self, host: str, port: int) -> None:
        """Raise Blocked for a mail server that could never be reached."""
        if self.exempts(host, port):
            return
        if port not in SMTP_PORTS:
            raise Blocked(f"The port must be 25, 465, 587 or 2525. The operator can allow another one {_BY_SETTING}.")
        _check_literal(_plain_name(host))


def _plain_name(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _check_literal(host: str) -> None:
    """Raise Blocked for a literal address that is not public, in old forms too (``127.1``, ``0x7f000001``)."""
    try:
        literal = "127.0.0.1" if host == "localhost" or host.endswith(".localhost") else str(ipaddress.ip_address(host))
    except ValueError:
        try:
            literal = socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            return  # a name, whose addresses are checked after the look-up
    if not is_public(literal):
        raise Blocked(_NOT_PUBLIC)
