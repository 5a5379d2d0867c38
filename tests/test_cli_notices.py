"""What operators change by command reaches the owners as a change on the page does (R19)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from flask import Flask

from auth_portal import cli
from auth_portal.services.serving import build
from tests.admin.desk import MAIL_OF, signed_in
from tests.postgres import MASTER_KEY
from tests.receiver import wait_for
from tests.world import World, journey


def run(world: World, folder: Path, *args: str) -> None:
    """Run a command on the installation of a serving portal, in another app as a shell would."""
    app = Flask(__name__)
    cli.register(app, partial(build, clock=world.clock), world.clock)
    environment = {
        "PORTAL_INSTANCE": str(folder),
        "PORTAL_DATABASE_URL": world.database.url.render_as_string(hide_password=False),
        "PORTAL_SECRET_KEYS": MASTER_KEY,
        "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
    }
    result = app.test_cli_runner().invoke(args=list(args), env=environment)
    assert result.exit_code == 0, result.output


def mails_to_owner(world: World) -> list[str]:
    return [message["text"] for message in world.receiver.messages if message["to"] == MAIL_OF["owner"]]


CHANGES = {
    "a redirected callback": journey("balance", "sms_code", default=True, server="uat"),
    "a lower limit": journey("balance", "sms_code", default=True, server="{origin}", limits="wrong_tries = 3"),
    "a weaker proof": journey("transfer", "sms_code|totp", server="{origin}"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_r19_config_import_by_command_notifies_the_owners(world: World, tmp_path: Path, change: str) -> None:
    signed_in(world)
    file = tmp_path / "portal.toml"
    file.write_text(CHANGES[change].replace("{origin}", world.receiver.origin))
    slug = "transfer" if "transfer" in CHANGES[change] else "balance"
    assert not any(slug in text for text in mails_to_owner(world))
    run(world, tmp_path, "config", "import", str(file))
    world.services.dispatcher.wake()
    wait_for(lambda: any(slug in text for text in mails_to_owner(world)))


def test_an_invitation_by_command_notifies_the_owners(world: World, tmp_path: Path) -> None:
    signed_in(world)
    run(world, tmp_path, "admin", "create", "--role", "owner", "--email", "new@example.com")
    world.services.dispatcher.wake()
    wait_for(lambda: any("invited to the configuration page as owner" in text for text in mails_to_owner(world)))
