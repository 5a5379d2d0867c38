"""The demo that ``auth-portal demo`` loads: a bank, its journeys, and customers whose part a newcomer can play.

Everything ends in the sandbox; while that is off, the demo is refused. The flow of the sandbox registers tickets like a
real one, so the demo creates an API key for it, which may do nothing else. The key's file is in the instance folder
next to the secret keys, readable by its owner alone.
"""

from __future__ import annotations

import csv
from contextlib import suppress
from pathlib import Path

from auth_portal.errors import Misconfigured, Problem
from auth_portal.services.access.api_keys import DAYS, ApiKeys
from auth_portal.services.config.configuration import Configuration
from auth_portal.services.imports.imports import CommandImport
from auth_portal.settings import Settings

FOLDER = Path(__file__).resolve().parents[2] / "demo"
CONFIG = FOLDER / "demo.toml"
CUSTOMERS = FOLDER / "customers.csv"
REGION = "ZA"
KEY_FILE = "sandbox_api_key"
KEY_NAME = "Sandbox (demo)"
LOOPBACK = "127.0.0.1"  # the address whose wrong keys are counted: a command runs on this machine
PERSON_FIELDS = ("customer_id", "name", "phone", "email", "password", "totp_secret")


def load_demo(
    settings: Settings, configuration: Configuration, command_import: CommandImport, api_keys: ApiKeys
) -> list[str]:
    """Load configuration and customers, and return what changed. Raise Misconfigured if the sandbox is off."""
    if not settings.has_sandbox:
        raise Misconfigured("The demo needs the sandbox: set PORTAL_SANDBOX=1 (never where real customers are).")
    summary = configuration.import_toml(CONFIG.read_text(encoding="utf-8"), file_name=CONFIG.name)
    report = command_import.import_csv(CUSTOMERS, default_region=REGION, dry_run=False)
    return [*summary.lines, *_create_key(settings.instance, api_keys), *report.lines[:1]]


def sandbox_key(instance: Path) -> str:
    """Return the API key of the sandbox's flow, or an empty text if no demo was loaded here."""
    path = instance / KEY_FILE
    return path.read_text(encoding="ascii").strip() if path.exists() else ""


def _create_key(instance: Path, api_keys: ApiKeys) -> list[str]:
    """Create the key unless a valid one exists; a revoked one comes back with the demo, as its journeys do."""
    if key := sandbox_key(instance):
        with suppress(Problem):
            api_keys.enter(key, LOOPBACK)
            return []
    made = api_keys.create(KEY_NAME, ["tickets:write"], max(DAYS), admin_id=None)
    if made.faults:
        raise Misconfigured(*made.faults.values())
    path = instance / KEY_FILE
    instance.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(made.key, encoding="ascii")
    return [f"API key “{KEY_NAME}”: new"]


def demo_people() -> list[dict[str, str]]:
    """Return the people of the demo, with what they know and own: all of it is made up."""
    with CUSTOMERS.open(encoding="utf-8", newline="") as file:
        return [{name: row[name] for name in PERSON_FIELDS} for row in csv.DictReader(file)]
