"""One message to a program of the business, signed as Standard Webhooks 1.0 says, so that its libraries can check it.

Header ``webhook-signature: v1,<base64>`` is the HMAC-SHA256 of ``<webhook-id>.<webhook-timestamp>.<body>`` under the
secret, which is ``whsec_`` and the Base64 of 32 random bytes. https://www.standardwebhooks.com
"""

from __future__ import annotations

import base64
import hmac
import secrets
from datetime import datetime

from auth_portal.gateways.channels import Handover, Receipt
from auth_portal.gateways.flow import Fate, fate_of
from auth_portal.gateways.way_out import Blocked, NotReached, OutboundError, WayOut

PREFIX = "whsec_"
SECRET_BYTES = 32
_HANDOVERS = {Fate.ACCEPTED: Handover.ACCEPTED, Fate.RETRY: Handover.RETRY, Fate.UNCLEAR: Handover.RETRY}


def new_secret() -> str:
    """A secret to sign with."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"


def post(outbound: WayOut, url: str, secret: str, message_id: str, now: datetime, body: bytes) -> Receipt:
    """Posts it once. ``message_id`` is the same for every attempt, so that a repeat can be recognised.

    Raises nothing that the network could cause. Nothing of the answer is kept but its status.
    """
    timestamp = int(now.timestamp())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "AuthPortal",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, message_id, timestamp, body),
    }
    try:
        answer = outbound.request("POST", url, headers=headers, body=body)
    except Blocked as error:
        return Receipt(Handover.OPERATOR, "blocked", error.reason)
    except NotReached as error:
        return Receipt(Handover.RETRY, "not_reached", f"Not reached: {error.reason}")
    except OutboundError as error:
        return Receipt(Handover.RETRY, "unclear", f"Sent, but {error.reason}")
    handover = _HANDOVERS.get(fate_of(answer.status), Handover.OPERATOR)
    return Receipt(handover, f"http_{answer.status}", f"HTTP {answer.status}")
