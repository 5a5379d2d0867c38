"""Admins in tests: made through a real invitation, signed in through the real form."""

from __future__ import annotations

import re
from typing import Any

import pyotp
from werkzeug.test import TestResponse

from auth_portal.services.access.admins import JoinForm
from tests.world import Browser, World

ADMIN_PASSWORD = "seven kudus dance slowly"
REASON = "the customer called"
ADMIN_ADDRESS = "198.51.100.4"
MAIL_OF = {role: f"{role}@example.com" for role in ("owner", "support", "auditor")}


def seed_of(browser: Browser) -> str:
    """The key that a page shows to set up an authenticator app."""
    shown = re.search(r'id="key"[^>]*value="([A-Z2-7 ]+)"', browser.page.text)
    assert shown, browser.page.text
    return shown.group(1).replace(" ", "")


class Desk(Browser):
    """An admin's browser."""

    seed: str
    admin_id: str
    email: str

    def second_factor(self) -> str:
        """A code that was not used yet: each is good once, so the clock moves on a step."""
        self.world.clock.advance(31)
        return pyotp.TOTP(self.seed).at(self.world.clock.now.timestamp())

    def sign_in(self, **fields: str) -> TestResponse:
        self.get("/admin/sign-in")
        given = {"email": self.email, "password": ADMIN_PASSWORD, "code": self.second_factor(), **fields}
        return self.post("/admin/sign-in", **given)

    def post(self, path: str, follow: Any = True, headers: Any = None, **fields: Any) -> TestResponse:
        """Post a form; what is done to a customer has a reason, unless the test gives another."""
        reason = {"reason": REASON} if path.startswith("/admin/customers/") else {}
        return super().post(path, follow, headers, **{**reason, **fields})

    def submit(self, action: str, **fields: Any) -> TestResponse:
        """Posts a form of this page with the values that its fields have, changed by ``fields``."""
        return self.post(action, **fields)


def join(desk: Desk, token: str, password: str, *, name: str = "") -> str:
    """Follow a link with a fresh app; return the admin's id."""
    admins = desk.world.services.admins
    invitation = admins.invitation(token)
    shown = invitation.view.fresh_seed(desk.world.services.keyring)
    desk.seed = shown.seed
    joining = JoinForm(name, desk.email if name else "", password, password, desk.second_factor(), shown)
    assert admins.faults_of(invitation, joining) == {}
    return admins.join(invitation, joining)


def signed_in(world: World, role: str = "owner") -> Desk:
    """The browser of a new admin of this role who is at the home page."""
    admins = world.services.admins
    token = admins.invite(role, email=MAIL_OF[role])
    desk = Desk(world, ADMIN_ADDRESS)
    desk.email = MAIL_OF[role]
    desk.admin_id = join(desk, token, ADMIN_PASSWORD, name=f"Ada {role.capitalize()}")
    admins.hide_recovery_codes(desk.admin_id)
    assert desk.sign_in().status_code == 200
    assert desk.path == "/admin/", desk.page.text
    return desk
