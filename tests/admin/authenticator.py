"""A security key in software: what a browser and its device would send, and what an attacker would."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

PRESENT, VERIFIED, HAS_KEY = 0x01, 0x04, 0x40


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Authenticator:
    """One passkey of one person, at one site."""

    site: str = "localhost"
    origin: str = "http://localhost:8000"
    is_verifying: bool = True
    count: int = 0
    handle: bytes = b""
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    credential_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def create(self, options: dict[str, Any]) -> str:
        """The response to a request for a new passkey."""
        self.handle = decoded(options["user"]["id"])
        numbers = self.key.public_key().public_numbers()
        key = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)})
        data = self._data(HAS_KEY) + bytes(16) + len(self.credential_id).to_bytes(2) + self.credential_id + key
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        return self._response(
            clientDataJSON=self._client("webauthn.create", options["challenge"]), attestationObject=attestation
        )

    def use(self, options: dict[str, Any], *, kind: str = "webauthn.get") -> str:
        """The response to a request for a passkey."""
        self.count += 1
        client, data = self._client(kind, options["challenge"]), self._data(0)
        signed = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        return self._response(clientDataJSON=client, authenticatorData=data, signature=signed, userHandle=self.handle)

    def _data(self, flags: int) -> bytes:
        flags |= PRESENT | (VERIFIED if self.is_verifying else 0)
        return hashlib.sha256(self.site.encode()).digest() + bytes([flags]) + self.count.to_bytes(4)

    def _client(self, kind: str, challenge: str) -> bytes:
        return json.dumps({"type": kind, "challenge": challenge, "origin": self.origin}).encode()

    def _response(self, **parts: bytes) -> str:
        name = encoded(self.credential_id)
        response = {key: encoded(content) for key, content in parts.items()}
        return json.dumps({"id": name, "rawId": name, "type": "public-key", "response": response})
