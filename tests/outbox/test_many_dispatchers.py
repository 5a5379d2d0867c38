"""Ten dispatchers over one outbox: every callback reaches Flow, and none of them twice (D1, D7).

``python -m bench dispatchers`` does the same with ten processes, and a thousand callbacks for each of them.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, insert, select

from auth_portal.clock import system_clock
from auth_portal.crypto import MasterKeys, token_hash
from auth_portal.services.delivery.outbox import ClaimedDelivery, FinishedAttempt, NewDelivery, add
from auth_portal.services.serving import build
from auth_portal.settings import read_settings
from auth_portal.store.db import Database, Transactions
from auth_portal.store.keys import load_keyring
from auth_portal.store.models import (
    CALLBACK,
    VERIFICATION_REFERENCE,
    Attempt,
    Delivery,
    JourneyVersion,
    Verification,
)
from tests.postgres import MASTER_KEY
from tests.receiver import GIVE_UP_SECONDS, Listens, Receiver, wait_for
from tests.world import CONFIG, STANDARD, configure, one_authority

Send = Callable[[ClaimedDelivery], FinishedAttempt]
DISPATCHERS = 10
EACH = 15  # callbacks
AT_A_TIME = "4"  # the fewer a dispatcher claims at once, the more often they meet


@contextmanager
def dispatching(folder: Path, database_url: str) -> Iterator[Counter[int]]:
    """Run ten dispatchers, each with connections and threads of its own; yield how many deliveries each one made.

    Nothing leaves before most of them have claimed something, so that they compete for the rest.
    """
    environment = {
        "PORTAL_INSTANCE": str(folder),
        "PORTAL_DATABASE_URL": database_url,
        "PORTAL_SECRET_KEYS": MASTER_KEY,
        "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
        "PORTAL_CA_BUNDLE": str(one_authority(folder)),
        "PORTAL_CALLBACK_THREADS": AT_A_TIME,
    }
    made: Counter[int] = Counter()
    compete = threading.Event()

    def counted(number: int, send: Send) -> Send:
        def count(claimed: ClaimedDelivery) -> FinishedAttempt:
            made[number] += 1
            if len(made) > DISPATCHERS / 2:
                compete.set()
            assert compete.wait(GIVE_UP_SECONDS)
            return send(claimed)

        return count

    with ExitStack() as stack:
        for number in range(DISPATCHERS):
            services = build(read_settings(environment), system_clock, read_settings(environment).poll_seconds)
            stack.callback(services.close)
            lane = services.dispatcher.lanes[0]
            setattr(lane, "send", counted(number, lane.send))  # noqa: B010
            stack.callback(services.dispatcher.stop)
            services.dispatcher.start()
        yield made


def fill(database_url: str, receiver: Listens, count: int) -> None:
    """Leave so many results in the outbox with one commit, as verifications do that have just ended."""
    with closing(Database(database_url)) as database:
        transactions = Transactions(database, load_keyring(database, MasterKeys((MASTER_KEY,))), system_clock)
        with transactions.write() as work:
            version = work.execute(select(JourneyVersion.id).limit(1)).scalar_one()
            ends_at = work.now + timedelta(minutes=10)
            for number in range(count):
                reference, row_id = f"r-{number}", work.new_id()
                verification = {
                    "id": row_id,
                    "reference_hash": token_hash(reference),
                    "reference_sealed": work.seal(reference, VERIFICATION_REFERENCE, row_id),
                    "server": receiver.origin,
                    "version_id": version,
                    "slug": "balance",
                    "address_key": "-",
                    "began_at": work.now,
                    "chat_started_at": work.now,
                    "proofs_until": ends_at,
                    "chat_ends_at": ends_at,
                    "outcome": "cancelled",
                    "ended_at": work.now,
                    **dict.fromkeys(("ticket_id", "visit_id", "customer_row")),
                    "methods": "",
                }
                work.execute(insert(Verification), work.keyring.signed("verifications", verification))
                callback = NewDelivery(
                    kind=CALLBACK,
                    target=receiver.origin,
                    contract="external_link",
                    verification_id=row_id,
                    lane=token_hash(reference),
                    body=json.dumps({"reference": reference, "result": "cancelled", "data": {}}),
                    priority=number % 3,
                    give_up_at=ends_at,
                )
                add(work, callback)


def wait_until_sent(database_url: str, count: int) -> None:
    """Wait until so many are on record as accepted."""
    with closing(Database(database_url)) as database, database.read() as connection:
        accepted = select(func.count()).where(Delivery.state == "accepted")
        wait_for(lambda: connection.execute(accepted).scalar_one() == count, max(GIVE_UP_SECONDS, count / 10))


def assert_once(database_url: str, receiver: Receiver, count: int) -> None:
    """Compare Flow's log and the portal's own: one post and one attempt for each callback."""
    posts = Counter(call.header for call in receiver.callbacks)
    assert posts == Counter(f"r-{number}" for number in range(count))
    with closing(Database(database_url)) as database, database.read() as connection:
        attempts = Counter(map(tuple, connection.execute(select(Attempt.number, Attempt.fate))))
    assert attempts == {(1, "accepted"): count}


def test_d07_ten_dispatchers_send_each_callback_exactly_once(
    tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    configure(database_url, receiver, CONFIG + STANDARD)
    count = DISPATCHERS * EACH
    with dispatching(tmp_path, database_url) as made:
        fill(database_url, receiver, count)
        wait_until_sent(database_url, count)
    assert_once(database_url, receiver, count)
    assert made.total() == count
