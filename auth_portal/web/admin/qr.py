"""The QR code that an authenticator app scans, drawn on the server, and the key to type instead.

What draws it is loaded by the first page that shows one: most workers never do.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from io import BytesIO

from markupsafe import Markup
from pyotp import TOTP

from auth_portal.web.context import services

MODULE_PIXELS = 5
QUIET_ZONE = 4  # modules around the code (ISO/IEC 18004)
ACCOUNT_LENGTH = 64  # characters of an account: with the longest name of a portal they fit whatever letters they are


@dataclass(frozen=True)
class Enrolment:
    """What a page shows to enrol an authenticator app."""

    svg: Markup
    key: str  # in groups of four, for typing
    uri: str


def enrolment(seed: str, account: str) -> Enrolment:
    """How to enrol an app with a seed (Base32) under an account's name."""
    issuer = services().journeys.current().portal.name
    uri = TOTP(seed).provisioning_uri(name=account[:ACCOUNT_LENGTH] or issuer, issuer_name=issuer)
    drawn = BytesIO()
    # light='#fff': on a dark page a scanner needs the white around it.
    importlib.import_module("segno").make(uri, error="m").save(
        drawn, kind="svg", scale=MODULE_PIXELS, border=QUIET_ZONE, dark="#000", light="#fff",
        xmldecl=False, svgns=False, svgclass="qr", lineclass=None, title="QR code", omitsize=False,
    )  # fmt: skip
    svg = Markup(drawn.getvalue().decode())  # noqa: S704 -- drawn here, from a seed
    return Enrolment(svg, " ".join(seed[start : start + 4] for start in range(0, len(seed), 4)), uri)
