"""Alerts to a program of the business: rows of the outbox, so that they commit with the alert and block nobody.

The address is fixed when the row is written, the signature is made when it is sent: a secret that was renewed counts
for what is still waiting too.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, select

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.gateways import webhook
from auth_portal.gateways.channels import Receipt
from auth_portal.gateways.way_out import WayOut
from auth_portal.services import audit, outbox
from auth_portal.services.outbox import Claimed
from auth_portal.store.db import Database, upsert
from auth_portal.store.models import WebhookSecret, table_of

LIFETIME = timedelta(hours=1)  # an alert that is older helps nobody
ROW = 1


class Webhooks:
    """Puts alerts into the outbox, and sends them."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock, outbound: WayOut) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._outbound = outbound

    def add(self, connection: Connection, now: datetime, url: str, content: dict[str, Any]) -> None:
        """Puts one message into the outbox, in the caller's transaction."""
        sealed = json.dumps({"url": url, "content": content})
        outbox.add_notice(
            connection, self._keyring, now, urlsplit(url).netloc[:255], sealed, now + LIFETIME, contract=outbox.WEBHOOK
        )

    def send(self, claimed: Claimed) -> Receipt:
        """Sends a claimed one, once. Without a secret one is made: nothing ever leaves unsigned."""
        assert claimed.body_sealed is not None, "a webhook has a body"
        message = json.loads(self._keyring.open(claimed.body_sealed, "deliveries", claimed.id, "body"))
        body = json.dumps(message["content"]).encode()
        return webhook.post(
            self._outbound, message["url"], self._secret() or self.renew_secret(), claimed.id, self._clock(), body
        )

    def has_secret(self) -> bool:
        """Whether somebody was shown what to check signatures with."""
        return bool(self._secret())

    def renew_secret(self, admin_id: str | None = None) -> str:
        """A new secret in the place of any older one, to be shown once."""
        now, secret = self._clock(), webhook.new_secret()
        sealed = self._keyring.seal(secret, "webhook_secrets", str(ROW), "secret")
        values = {"secret_sealed": sealed, "made_at": now}
        with self._database.write() as connection:
            insert = upsert(connection.dialect.name, table_of(WebhookSecret)).values(id=ROW, **values)
            connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=values))
            audit.record(connection, self._keyring, now, "webhook_secret_renewed", admin_id=admin_id)
        return secret

    def _secret(self) -> str:
        with self._database.read() as connection:
            sealed = connection.execute(
                select(WebhookSecret.secret_sealed).where(WebhookSecret.id == ROW)
            ).scalar_one_or_none()
        return self._keyring.open(sealed, "webhook_secrets", str(ROW), "secret") if sealed else ""
