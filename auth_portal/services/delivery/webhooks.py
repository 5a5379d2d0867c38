"""Webhooks: alerts to a program of the business, signed as Standard Webhooks 1.0 describes (standardwebhooks.com).

They are rows of the outbox, so that they commit with the alert and block nothing. The address is fixed when the row is
written and the signature is made when it is sent, so that a renewed secret also signs what is still waiting.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select

from auth_portal.gateways.channels import Handover, Receipt
from auth_portal.gateways.flow import Fate, fate_of
from auth_portal.gateways.way_out import Blocked, NotReached, OutboundError, WayOut
from auth_portal.services.delivery.outbox import NOTICE_PRIORITY, WEBHOOK, ClaimedDelivery, NewDelivery, add
from auth_portal.store.db import Transactions, Work, dialect_insert
from auth_portal.store.models import MESSAGE, WEBHOOK_SECRET, WebhookSecret, table_of

LIFETIME = timedelta(hours=1)  # an older alert is of no use
ROW = 1
PREFIX = "whsec_"  # of a secret, before the Base64 of its bytes
SECRET_BYTES = 32
_HANDOVERS = {Fate.ACCEPTED: Handover.ACCEPTED, Fate.RETRY: Handover.RETRY, Fate.UNCLEAR: Handover.RETRY}
# Mails all owners: what changed as subject and lines, the admin who changed it, and the pages that show it.
NotifyOwners = Callable[[Work, str, Sequence[str], str | None, Sequence[str]], None]


class Webhooks:
    """Put alerts into the outbox, and send them."""

    def __init__(self, transactions: Transactions, outbound: WayOut, notify_owners: NotifyOwners) -> None:
        self._transactions = transactions
        self._outbound = outbound
        self._notify_owners = notify_owners

    def add(self, work: Work, url: str, content: dict[str, Any]) -> None:
        """Put one message into the outbox, in the caller's transaction."""
        webhook = NewDelivery(
            kind=MESSAGE,
            target=urlsplit(url).netloc[:255],
            contract=WEBHOOK,
            body=json.dumps({"url": url, "content": content}),
            about=json.dumps({"subject": content.get("type", "")}),
            priority=NOTICE_PRIORITY,
            give_up_at=work.now + LIFETIME,
        )
        add(work, webhook)

    def prepared(self, claimed: ClaimedDelivery) -> Callable[[], Receipt]:
        """Return what posts a claimed webhook once. Make a secret if there is none: nothing ever leaves unsigned."""
        message = json.loads(claimed.body(self._transactions.keyring))
        body = json.dumps(message["content"]).encode()
        timestamp = int(self._transactions.clock().timestamp())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "AuthPortal",
            "webhook-id": claimed.id,  # the same for every attempt, so that a repeat is recognised
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._secret() or self.renew_secret(), claimed.id, timestamp, body),
        }
        return partial(self._post, message["url"], headers, body)

    def _post(self, url: str, headers: dict[str, str], body: bytes) -> Receipt:
        """Post a webhook. Raise nothing that the network could cause. Of the answer only the status is stored."""
        try:
            answer = self._outbound.request("POST", url, headers=headers, body=body)
        except Blocked as error:
            return Receipt(Handover.OPERATOR, "blocked", error.reason)
        except NotReached as error:
            return Receipt(Handover.RETRY, "not_reached", f"Not reached: {error.reason}")
        except OutboundError as error:
            return Receipt(Handover.RETRY, "unclear", f"Sent, but {error.reason}")
        handover = _HANDOVERS.get(fate_of(answer.status), Handover.OPERATOR)
        return Receipt(handover, f"http_{answer.status}", f"HTTP {answer.status}")

    def has_secret(self) -> bool:
        """Return True if there is a secret to check signatures with."""
        return bool(self._secret())

    def renew_secret(self, admin_id: str | None = None) -> str:
        """Replace the secret; return the new one, which is shown once."""
        secret = PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        with self._transactions.write() as work:
            values = {"secret_sealed": work.seal(secret, WEBHOOK_SECRET, str(ROW)), "made_at": work.now}
            insert = dialect_insert(work.connection.dialect.name, table_of(WebhookSecret)).values(id=ROW, **values)
            work.execute(insert.on_conflict_do_update(index_elements=["id"], set_=values))
            work.record("webhook_secret_renewed", admin_id=admin_id)
            if admin_id is not None:  # not the first one, which the portal makes
                lines = ["Programs that check signatures refuse alerts until they have the new secret."]
                paths = ["/admin/settings"]
                self._notify_owners(work, "The webhook's secret was replaced", lines, admin_id, paths)
        return secret

    def _secret(self) -> str:
        with self._transactions.read() as work:
            query = select(WebhookSecret.secret_sealed).where(WebhookSecret.id == ROW)
            sealed = work.execute(query).scalar_one_or_none()
            return work.open(sealed, WEBHOOK_SECRET, str(ROW)) if sealed else ""


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the header ``webhook-signature``: the HMAC-SHA256 of ``<id>.<timestamp>.<body>`` under the secret."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"
