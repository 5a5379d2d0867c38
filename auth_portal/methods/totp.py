"""A code from an authenticator app (RFC 6238): steps of 30 or 60 seconds, one step of drift, each step once."""

from __future__ import annotations

from pyotp import TOTP, parse_uri

from auth_portal.crypto import same_text
from auth_portal.methods.contract import Evidence, Method, OnFile, ProofResult, Verdict, Words
from auth_portal.methods.one_time_code import read_digits

STEP_SECONDS = 30  # RFC 6238 5.2; what used steps are counted in, also of an app with longer ones
DRIFT_STEPS = 1  # RFC 6238 5.2: at most one, for the network and the person
DIGITS = 6  # what authenticator apps show, whatever the journey's own codes have
_STRANGERS_SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"  # so that a stranger costs the same time


class Totp(Method):
    """Prove that the person holds the app that was enrolled."""

    name = "totp"
    on_file = OnFile.TOTP
    hardness = 2
    words = Words(
        choice="Authenticator app",
        hint="Use the code it shows",
        begin="Use my app",
        name="authenticator app",
        on_file="Authenticator app",
        icon="smartphone",
    )

    def length(self, digits: int) -> int:
        """Return six, whatever the journey's own codes have."""
        return DIGITS

    def parse(self, typed: str, digits: int) -> str | None:
        """Return six digits, whatever length the journey's sent codes have, or None."""
        return read_digits(typed, DIGITS)

    def check(self, proof: str, evidence: Evidence) -> Verdict:
        """Return RIGHT for an unused step within the drift; the caller stores the step that was used (R17)."""
        secret = evidence.secret or _STRANGERS_SEED
        # One with another hash or longer steps is stored as a link.
        app = parse_uri(secret) if secret.startswith("otpauth:") else TOTP(secret, digits=DIGITS, interval=STEP_SECONDS)
        assert isinstance(app, TOTP)
        here, length = int(evidence.now.timestamp()) // app.interval, app.interval // STEP_SECONDS
        steps = range(here - DRIFT_STEPS, here + DRIFT_STEPS + 1)
        matching = [step * length for step in steps if same_text(app.generate_otp(step), proof)]
        fresh = [step for step in matching if step > evidence.last_step]
        if evidence.secret is None or not fresh:
            return Verdict(ProofResult.WRONG)
        return Verdict(ProofResult.RIGHT, used_step=fresh[0])
