"""The demo that ``flask demo`` loads: a bank, its journeys, and people that a newcomer can play.

Everything ends in the sandbox; where that is off, the demo is refused. The flow that the sandbox plays registers
tickets like a real one, so the demo makes it an API key, which may do nothing else. It lies in the instance folder
beside the secret keys, for its owner alone.
"""

from __future__ import annotations

import csv
from pathlib import Path

from auth_portal.errors import Misconfigured, Problem
from auth_portal.services.access.api_keys import DAYS
from auth_portal.services.operations.opening import Opened

FOLDER = Path(__file__).resolve().parents[2] / "demo"
CONFIG = FOLDER / "demo.toml"
CUSTOMERS = FOLDER / "customers.csv"
REGION = "ZA"
KEY_FILE = "sandbox_api_key"
KEY_NAME = "Sandbox (demo)"
LOOPBACK = "127.0.0.1"  # whose wrong keys are counted: a command comes from this machine
PERSON_FIELDS = ("customer_id", "name", "phone", "email", "password", "totp_secret")


def load_demo(portal: Opened) -> list[str]:
    """Loads configuration and customers, and tells what changed. Raises Misconfigured where the sandbox is off."""
    if not portal.settings.has_sandbox:
        raise Misconfigured("The demo needs the sandbox: set PORTAL_SANDBOX=1 (never where real customers are).")
    summary = portal.configuration.import_toml(CONFIG.read_text(encoding="utf-8"), file_name=CONFIG.name)
    report = portal.directory.import_csv(CUSTOMERS, default_region=REGION, dry_run=False)
    return [*summary.lines, *_furnish_key(portal), *report.lines[:1]]


def sandbox_key(instance: Path) -> str:
    """The API key of the sandbox's flow; nothing where no demo was loaded here."""
    path = instance / KEY_FILE
    return path.read_text(encoding="ascii").strip() if path.exists() else ""


def _furnish_key(portal: Opened) -> list[str]:
    """Makes the key where there is none in force; one that was revoked comes back with the demo, as its journeys do."""
    instance = portal.settings.instance
    if _is_in_force(portal, sandbox_key(instance)):
        return []
    made = portal.api_keys.create(KEY_NAME, ["tickets:write"], max(DAYS), admin_id=None)
    if made.faults:
        raise Misconfigured(*made.faults.values())
    path = instance / KEY_FILE
    instance.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(made.key, encoding="ascii")
    return [f"API key “{KEY_NAME}”: new"]


def _is_in_force(portal: Opened, key: str) -> bool:
    try:
        return bool(key) and bool(portal.api_keys.enter(key, LOOPBACK))
    except Problem:
        return False


def demo_people() -> list[dict[str, str]]:
    """The people of the demo, with what they know and hold: it is all made up."""
    with CUSTOMERS.open(encoding="utf-8", newline="") as file:
        return [{name: row[name] for name in PERSON_FIELDS} for row in csv.DictReader(file)]
