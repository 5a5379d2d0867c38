"""Record what this release writes, so that later releases can be tested against it without its code.

Run once for each release, on its last commit: ``python -m tests.releases.record > tests/releases/0.2.0.json``.
``0.1.0.json`` was recorded by the same story in a checkout of 0.1.0, with the names that its services had.

A portal is installed, configured and used through its own front door. The rows are recorded twice: ``before`` an upgrade
of the tables, and ``after`` it, when processes of the release go on serving: only what they added or changed since.
The address of Flow is written as ``{receiver}``.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, text

from auth_portal.services.access.api_keys import SCOPES
from tests.admin.desk import signed_in
from tests.api.program import Program
from tests.postgres import install
from tests.receiver import Receiver
from tests.security.tools import STILL, deliver
from tests.ticketed import ticket
from tests.world import CONFIG, PASSWORD, PHONE, World, journey, open_world

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 100
JOURNEYS = (
    journey("balance", "sms_code", default=True)
    + journey("app", "totp")
    + journey("transfer", "password", "sms_code|totp")
    + journey("pay", "sms_code", relay_defence="phone_match")
)


def plain(value: Any, origin: str) -> Any:
    """A value of a row as JSON holds it, without the address of this run."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"at": value.replace(tzinfo=value.tzinfo or UTC).isoformat()}
    return value.replace(origin, "{receiver}") if isinstance(value, str) else value


def rows_of(world: World) -> dict[str, dict[str, dict[str, Any]]]:
    """Every row by table and primary key, with the columns that are written."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    inspector = inspect(world.database.engine)
    with world.database.read() as connection:
        for table in inspector.get_table_names():
            if table == "alembic_version":
                continue
            keys = inspector.get_pk_constraint(table)["constrained_columns"]
            columns = [one["name"] for one in inspector.get_columns(table) if not one.get("computed")]
            found[table] = {}
            for row in connection.execute(text(f"SELECT {', '.join(columns)} FROM {table}")):
                values = {name: plain(value, world.receiver.origin) for name, value in row._mapping.items()}
                found[table][json.dumps([values[key] for key in keys])] = values
    return found


def main() -> int:
    """Play the story and print the rows."""
    receiver = Receiver()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'portal.db'}"
        install(folder, url)
        with open_world(folder, url, receiver, config=JOURNEYS, base=CONFIG, settings=STILL) as world:
            known, before = play(world)
            after = rows_of(world)
            with world.database.read() as connection:
                revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    later = {
        table: [row for key, row in rows.items() if before[table].get(key) != row] for table, rows in after.items()
    }
    assert all(before[table].keys() <= after[table].keys() for table in before), "a row was removed meanwhile"
    empty = [table for table, rows in after.items() if not rows]
    sys.stderr.write(f"without rows: {empty}\n")
    recorded = {
        "revision": revision,
        "known": {**known, "origin": receiver.origin, "now": world.clock.now.isoformat()},
        "before": {table: list(rows.values()) for table, rows in before.items()},
        "after": later,
    }
    json.dump(recorded, sys.stdout, indent=1, sort_keys=True)
    receiver.close()
    return 0


def play(world: World) -> tuple[dict[str, Any], dict[str, dict[str, dict[str, Any]]]]:
    """What customers, admins and programs do before the upgrade and after it; return what they know, and the rows."""
    services, known = world.services, dict[str, Any]()
    owner = signed_in(world)
    known["owner"] = {"email": owner.email, "seed": owner.seed}
    made = services.api_keys.create("CRM", tuple(SCOPES), 90, None)
    known["api_key"] = made.key
    services.webhooks.renew_secret()
    owner.get("/admin/journeys/balance")
    data = {**owner.hidden("/admin/journeys/balance/logo"), "logo": (io.BytesIO(PNG), "logo.png", "image/png")}
    owner.client.post("/admin/journeys/balance/logo", data=data, base_url=owner.base_url)
    services.journeys.renew()
    owner.get("/admin/journeys/app/drive")
    owner.post("/admin/journeys/app/drive")
    known["visits"] = {}

    def visit(reference: str, slug: str = "", identifier: str = "C-1001") -> Any:
        browser = world.browser()
        browser.begin(reference, slug, identifier)
        known["visits"][reference] = {one.key: one.value for one in (browser.client._cookies or {}).values()}
        return browser

    visit("finished", "app").prove(world.totp())
    deliver(world)
    world.clock.advance(31)
    visit("begun-before")
    deliver(world)
    known["visits"]["begun-before"]["code"] = world.receiver.code_for(PHONE)
    before = rows_of(world)

    # From here on the tables are those of the next release, and this one goes on.
    world.clock.advance(31)
    visit("half-way", "transfer").prove(PASSWORD)
    visit("proved-after", "app").prove(world.totp())
    visit("wrong-after", "app").prove("000000")
    visit("cancelled-after", "app").post("/verify/cancel", reason="cancelled")
    visit("code-due", identifier="C-1002")
    caller = Program(world, known["api_key"])
    body = {"customer_id": "C-2001", "name": "Nomsa Khumalo", "phone": "+27845550000"}
    assert caller.post("/customers", body, headers={"Idempotency-Key": "one"}).status_code == 201
    changed = {"phone": "+27845550001"}
    row = services.customers.row_of("C-1003")
    assert not services.customers.change(row, changed, admin_id=owner.admin_id).faults
    thandi = services.customers.row_of("C-1002")
    known["password_link"] = services.credential_links.make(thandi, "password", "hand", admin_id=owner.admin_id).link
    known["invitation"] = services.admins.invite("support", email="support@example.com", made_by=owner.admin_id)
    known["ticket"] = ticket(world, "pay").path
    file = io.BytesIO(b"customer_id,name,phone\nN-1,Zodwa,+27845550009\nN-2,,12\n")
    import_id = services.imports.receive(file, "people.csv", admin_id=owner.admin_id)
    assert services.imports.name_columns(import_id, ["customer_id", "name", "phone"]) == {}
    while services.dispatcher._import_work.work_once():
        pass
    known["import"] = import_id
    owner.get("/admin/")
    known["owner"]["cookies"] = {one.key: one.value for one in (owner.client._cookies or {}).values()}
    return known, before


if __name__ == "__main__":
    sys.exit(main())
