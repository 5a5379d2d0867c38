"""The demo that ``flask demo`` loads: a bank, its journeys, and people that a newcomer can play.

Everything ends in the sandbox; where that is off, the demo is refused.
"""

from __future__ import annotations

import csv
from pathlib import Path

from auth_portal.errors import Misconfigured
from auth_portal.services.operations.opening import Opened

FOLDER = Path(__file__).resolve().parents[2] / "demo"
CONFIG = FOLDER / "demo.toml"
CUSTOMERS = FOLDER / "customers.csv"
REGION = "ZA"
PERSON_FIELDS = ("customer_id", "name", "phone", "email", "password", "totp_secret")


def load_demo(portal: Opened) -> list[str]:
    """Loads configuration and customers, and tells what changed. Raises Misconfigured where the sandbox is off."""
    if not portal.settings.has_sandbox:
        raise Misconfigured("The demo needs the sandbox: set PORTAL_SANDBOX=1 (never where real customers are).")
    summary = portal.configuration.import_toml(CONFIG.read_text(encoding="utf-8"), file_name=CONFIG.name)
    report = portal.directory.import_csv(CUSTOMERS, default_region=REGION, dry_run=False)
    return [*summary.lines, *report.lines[:1]]


def demo_people() -> list[dict[str, str]]:
    """The people of the demo, with what they know and hold: it is all made up."""
    with CUSTOMERS.open(encoding="utf-8", newline="") as file:
        return [{name: row[name] for name in PERSON_FIELDS} for row in csv.DictReader(file)]
