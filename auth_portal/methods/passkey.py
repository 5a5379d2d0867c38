"""The ceremony of a passkey (WebAuthn Level 3): what a browser is asked, and whether what it returns is right.

It reads no table: its caller says whose passkey it is, where it is stored and what follows. A
challenge is stored nowhere either. It is signed with its purpose, its browser's session or visit and its end, and its
caller uses up its ``challenge_key`` so that it counts once. The site is that of the public URL, never of ``Host``.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import ipaddress
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from auth_portal.crypto import Keyring, same_text

CHALLENGE_SECONDS = 300
NONCE_BYTES = 16
END_BYTES = 8
LONGEST_RESPONSE = 16_384  # characters; a registration has about 1,000


class Purpose(NamedTuple):
    """What a challenge is for, and the session or visit of the browser that it was given to."""

    act: str
    holder: str


class NewPasskey(NamedTuple):
    """A passkey that a browser has just created."""

    credential_id: bytes
    public_key: bytes
    sign_count: int
    challenge_key: str


class PresentedPasskey(NamedTuple):
    """Which passkey a browser says it used. Nothing is proved yet."""

    credential_id: bytes
    user_handle: bytes  # whose it is by the passkey itself; may be empty


class PasskeyProof(NamedTuple):
    """A passkey that was used, by a person that the device has recognised."""

    sign_count: int
    challenge_key: str


@dataclass(frozen=True)
class PasskeyCeremony:
    """Ask browsers for passkeys of one site."""

    keyring: Keyring
    public_url: str

    @property
    def site(self) -> str:
        """Return the relying party's ID: the host of the public URL."""
        return urlsplit(self.public_url).hostname or ""

    @property
    def is_possible(self) -> bool:
        """Report whether browsers offer passkeys here: under https or on localhost, and never for an IP address."""
        try:
            ipaddress.ip_address(self.site)
        except ValueError:
            return self.public_url.startswith("https://") or self.site == "localhost"
        return False

    def creation_options(
        self, purpose: Purpose, now: datetime, *, site_name: str, user: tuple[bytes, str, str], known: Sequence[bytes]
    ) -> str:
        """Return the JSON that a browser creates a passkey by. ``user``: handle, sign-in name and display name."""
        library, structs = _library()
        handle, name, display_name = user
        options = library.generate_registration_options(
            rp_id=self.site,
            rp_name=site_name,
            user_id=handle,
            user_name=name,
            user_display_name=display_name,
            challenge=self._challenge(purpose, now),
            timeout=1000 * CHALLENGE_SECONDS,
            authenticator_selection=structs.AuthenticatorSelectionCriteria(
                resident_key=structs.ResidentKeyRequirement.REQUIRED,
                user_verification=structs.UserVerificationRequirement.REQUIRED,
            ),
            exclude_credentials=[structs.PublicKeyCredentialDescriptor(id=one) for one in known],
        )
        return str(library.options_to_json(options))

    def request_options(self, purpose: Purpose, now: datetime, *, known: Sequence[bytes] = ()) -> str:
        """Return the JSON that a browser looks for a passkey by: one of the ``known``, or any of this site."""
        library, structs = _library()
        options = library.generate_authentication_options(
            rp_id=self.site,
            challenge=self._challenge(purpose, now),
            timeout=1000 * CHALLENGE_SECONDS,
            allow_credentials=[structs.PublicKeyCredentialDescriptor(id=one) for one in known],
            user_verification=structs.UserVerificationRequirement.REQUIRED,
        )
        return str(library.options_to_json(options))

    def created(self, purpose: Purpose, now: datetime, response: str) -> NewPasskey | None:
        """Return the passkey that a browser created for this very challenge, or None."""
        challenge = self._returned_challenge(purpose, now, response)
        if challenge is None:
            return None
        library, _structs = _library()
        try:
            made = library.verify_registration_response(
                credential=response,
                expected_challenge=challenge,
                expected_rp_id=self.site,
                expected_origin=self.public_url,
                require_user_verification=True,
            )
        except Exception:  # whatever cannot be read or verified is refused
            return None
        return NewPasskey(made.credential_id, made.credential_public_key, made.sign_count, challenge.hex())

    def presented(self, response: str) -> PresentedPasskey | None:
        """Return which passkey a response is of, to find its public key by; None if it cannot be read."""
        if len(response) > LONGEST_RESPONSE:
            return None
        try:
            found = json.loads(response)
            handle = found["response"].get("userHandle") or ""
            return PresentedPasskey(_bytes_of(found["rawId"]), _bytes_of(handle))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def proof(self, purpose: Purpose, now: datetime, response: str, public_key: bytes) -> PasskeyProof | None:
        """Return the proof that a response is, or None. The caller compares the count of signatures."""
        challenge = self._returned_challenge(purpose, now, response)
        if challenge is None:
            return None
        library, _structs = _library()
        try:
            verified = library.verify_authentication_response(
                credential=response,
                expected_challenge=challenge,
                expected_rp_id=self.site,
                expected_origin=self.public_url,
                credential_public_key=public_key,
                credential_current_sign_count=0,  # so that a copied passkey is not only refused but reported
                require_user_verification=True,
            )
        except Exception:  # whatever cannot be read or verified is refused
            return None
        return PasskeyProof(verified.new_sign_count, challenge.hex())

    # --- The challenge

    def _challenge(self, purpose: Purpose, now: datetime) -> bytes:
        nonce, end = secrets.token_bytes(NONCE_BYTES), int(now.timestamp()) + CHALLENGE_SECONDS
        return nonce + end.to_bytes(END_BYTES) + self._seal(purpose, nonce, end).encode()

    def _seal(self, purpose: Purpose, nonce: bytes, end: int) -> str:
        return self.keyring.index("passkey challenge", "\0".join((*purpose, nonce.hex(), str(end))))

    def _returned_challenge(self, purpose: Purpose, now: datetime, response: str) -> bytes | None:
        """Return the challenge in a response if it is one of ours for this purpose and browser, and not over."""
        if len(response) > LONGEST_RESPONSE:
            return None
        try:
            client_data = json.loads(_bytes_of(json.loads(response)["response"]["clientDataJSON"]))
            challenge = _bytes_of(client_data["challenge"])
            nonce, rest = challenge[:NONCE_BYTES], challenge[NONCE_BYTES:]
            end, seal = int.from_bytes(rest[:END_BYTES]), rest[END_BYTES:].decode("ascii")
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        is_ours = same_text(seal, self._seal(purpose, nonce, end)) and now.timestamp() < end
        return challenge if is_ours else None


def _bytes_of(text: str) -> bytes:
    """Return what a Base64 text of a browser stands for. Raise ValueError."""
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(text) from error


def _library() -> tuple[Any, Any]:
    """Return the WebAuthn library and its structures, which most processes never need."""
    return importlib.import_module("webauthn"), importlib.import_module("webauthn.helpers.structs")
