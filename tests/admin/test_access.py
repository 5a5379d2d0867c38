"""Getting in and out of the configuration page, as a person and as somebody who should not."""

from __future__ import annotations

import re
from pathlib import Path

import pyotp
import pytest

from auth_portal.store.models import Admin, AdminSession, AuditEvent, RecoveryCode
from tests.admin.desk import ADMIN_PASSWORD, Desk, join, seed_of, signed_in
from tests.receiver import Receiver, wait_for
from tests.world import Browser, World, open_world


def joined(world: World, **fields: str) -> Browser:
    """A browser that followed an owner's link with a form; ``fields`` change what is typed."""
    token = world.services.admins.invite("owner")
    browser = Browser(world)
    browser.open_link(f"/admin/join/{token}")
    browser.seed = seed_of(browser)  # type: ignore[attr-defined]
    typed = {
        "name": "Ada Owner",
        "email": "ada@example.com",
        "password": ADMIN_PASSWORD,
        "repeated": ADMIN_PASSWORD,
        "code": pyotp.TOTP(browser.seed).at(world.clock.now.timestamp()),  # type: ignore[attr-defined]
        **fields,
    }
    browser.post(f"/admin/join/{token}", **typed)
    return browser


def test_a_link_makes_an_owner_who_keeps_the_recovery_codes_first(small_world: World) -> None:
    browser = joined(small_world)
    assert browser.path == "/admin/recovery-codes"
    codes = re.findall(r"<li>([a-z0-9]{5}-[a-z0-9]{5}-[a-z0-9]{5})</li>", browser.page.text)
    assert len(set(codes)) == 10
    assert browser.get("/admin/admins").request.path == "/admin/recovery-codes", "they come first"
    assert browser.post("/admin/recovery-codes").status_code == 422
    assert codes[0] in browser.page.text, "not ticked: still there"
    browser.post("/admin/recovery-codes", saved="1")
    assert browser.path == "/admin/"
    assert browser.get("/admin/recovery-codes").request.path == "/admin/account"
    stored = {bytes(row.recovery_sealed or b"") for row in small_world.rows(Admin)}
    assert stored == {b""}
    assert not {
        code for row in small_world.rows(RecoveryCode) for code in codes if code.replace("-", "") in row.code_key
    }


def test_a_link_works_once(small_world: World) -> None:
    token = small_world.services.admins.invite("support")
    for _number in range(3):
        assert Browser(small_world).get(f"/admin/join/{token}").status_code == 200, "looking uses nothing up (R31)"
    small_world.clock.advance(72 * 3600 + 1)
    assert Browser(small_world).get(f"/admin/join/{token}").status_code == 410
    browser = joined(small_world)
    assert browser.get(browser.page.request.path).status_code == 200
    used = small_world.services.admins.invite("owner")
    desk = signed_in(small_world, "support")
    assert desk.get(f"/admin/join/{used}x").status_code == 410


def test_r47_each_view_of_an_invitation_has_its_own_seed(small_world: World, owner: Desk) -> None:
    path = f"/admin/join/{small_world.services.admins.invite('support', made_by=owner.admin_id)}"
    early = Browser(small_world)
    assert "secret=" not in early.get(path).text
    early.open_link(path)
    browser = Browser(small_world, "192.0.2.9")
    assert "also opened in another browser" in browser.get(path).text
    browser.post(path, open="1")
    seeds = {seed_of(early), seed_of(browser)}
    browser.get(path)
    assert len({seed_of(browser), *seeds}) == 3
    wait_for(lambda: any("in a second browser" in mail["subject"] for mail in small_world.receiver.messages))
    (mail,) = [mail for mail in small_world.receiver.messages if "second browser" in mail["subject"]]
    assert mail["to"] == owner.email
    typed = {"name": "Bo", "email": "bo@example.com", "password": ADMIN_PASSWORD, "repeated": ADMIN_PASSWORD}
    stolen = browser.post(path, **typed, code=_now(small_world, seed_of(early)))
    assert (stolen.status_code, "the code your app shows now" in stolen.text) == (422, True)
    elsewhere = {"seed": early.hidden(path)["seed"], "code": _now(small_world, seed_of(early))}
    assert browser.post(path, **typed, **elsewhere).status_code == 422
    browser.post(path, **typed, code=_now(small_world, seed_of(browser)))
    assert browser.path == "/admin/recovery-codes"
    assert early.post(path, **typed, code=_now(small_world, seed_of(early))).status_code == 410


def _now(world: World, seed: str) -> str:
    return pyotp.TOTP(seed).at(world.clock.now.timestamp())


def test_r47_an_invitation_of_a_command_that_is_declined_ends_and_owners_hear(small_world: World, owner: Desk) -> None:
    path = f"/admin/join/{small_world.services.admins.invite('support')}"
    browser = Browser(small_world)
    browser.get(path)
    assert "no longer works" in browser.post(path, decline="1").text
    assert browser.get(path).status_code == 410
    wait_for(lambda: any("was declined" in mail["subject"] for mail in small_world.receiver.messages))
    (mail,) = [mail for mail in small_world.receiver.messages if "was declined" in mail["subject"]]
    assert mail["to"] == owner.email


@pytest.mark.parametrize(
    ("field", "typed", "said"),
    [
        ("name", "", "Enter your name."),
        ("email", "ada@", "an email address."),
        ("password", "kudu", "It needs at least 8"),
        ("password", "password1", "This is too easy to guess"),
        ("password", "ada@example.com", "This is too easy to guess"),
        ("repeated", "something else", "The two passwords are different."),
        ("code", "123456", "the code your app shows now."),
        ("code", "１２３４５６", "the code your app shows now."),
    ],
)
def test_what_was_typed_is_kept_but_the_password(small_world: World, field: str, typed: str, said: str) -> None:
    extra = {"repeated": typed} if field == "password" else {}
    browser = joined(small_world, **{field: typed}, **extra)
    assert browser.page.status_code == 422
    assert said in browser.page.text
    assert f'aria-describedby="{field}-' in browser.page.text or f'{field}-fault"' in browser.page.text
    assert ADMIN_PASSWORD not in browser.page.text
    if field not in ("name", "email"):
        assert 'value="Ada Owner"' in browser.page.text
        assert 'value="ada@example.com"' in browser.page.text
    assert small_world.rows(Admin) == []


def test_two_links_do_not_make_one_address_two_admins(small_world: World) -> None:
    joined(small_world)
    again = joined(small_world, email="ADA@example.com")
    assert again.page.status_code == 422
    assert "Another admin already has this email address." in again.page.text
    assert len(small_world.rows(Admin)) == 1


def test_r26_a_session_ends_on_the_server(small_world: World, owner: Desk) -> None:
    cookie = owner.client.get_cookie("admin", domain="127.0.0.1")
    assert cookie is not None
    owner.get("/admin/")
    owner.post("/admin/sign-out")
    assert "You&#39;ve signed out." in owner.page.text
    thief = Browser(small_world)
    thief.client.set_cookie("admin", cookie.value, domain="127.0.0.1")
    assert thief.get("/admin/admins").request.path == "/admin/sign-in"
    assert small_world.rows(AdminSession) == []


def test_r26_only_the_tokens_hash_is_stored(small_world: World, owner: Desk) -> None:
    cookie = owner.client.get_cookie("admin", domain="127.0.0.1")
    assert cookie is not None
    assert len(cookie.value) >= 22, "128 bits at least"
    assert all(cookie.value.encode() not in bytes(row.token_hash) for row in small_world.rows(AdminSession))


def test_r26_idle_for_15_minutes_and_8_hours_at_most(small_world: World, owner: Desk) -> None:
    small_world.clock.advance(15 * 60 - 1)
    assert owner.get("/admin/").request.path == "/admin/"
    small_world.clock.advance(15 * 60 + 1)
    assert owner.get("/admin/account?x=1").request.full_path == "/admin/sign-in?next=/admin/account%3Fx%3D1"
    owner.post("/admin/sign-in", email=owner.email, password=ADMIN_PASSWORD, code=owner.second_factor())
    assert owner.page.request.full_path == "/admin/account?x=1", "back where they wanted to go"
    owner.get("/admin/channels/_new?kind=smtp")
    small_world.clock.advance(15 * 60 + 1)
    owner.post("/admin/channels/_new", kind="smtp", name="late")
    assert owner.page.status_code == 403
    assert "weren't saved" in owner.page.text
    owner.post("/admin/sign-in", email=owner.email, password=ADMIN_PASSWORD, code=owner.second_factor())
    for _number in range(8 * 6):
        assert owner.get("/admin/").request.path == "/admin/"
        small_world.clock.advance(10 * 60)
    assert owner.get("/admin/").request.path == "/admin/sign-in"


def test_r26_a_new_session_at_each_sign_in(small_world: World, owner: Desk) -> None:
    before = owner.client.get_cookie("admin", domain="127.0.0.1")
    token = re.search(r'name="csrf_token" value="([^"]+)"', owner.get("/admin/account").text)
    assert token
    data = {"email": owner.email, "password": ADMIN_PASSWORD, "code": owner.second_factor()}
    owner.client.post("/admin/sign-in", data={**data, "csrf_token": token.group(1)}, base_url=owner.base_url)
    after = owner.client.get_cookie("admin", domain="127.0.0.1")
    assert before is not None
    assert after is not None
    assert before.value != after.value
    assert len(small_world.rows(AdminSession)) == 1, "the old one ended"


def test_r26_a_new_password_ends_the_other_sessions(small_world: World, owner: Desk) -> None:
    other = Desk(small_world, "198.51.100.9")
    other.seed, other.email = owner.seed, owner.email
    other.sign_in()
    assert other.path == "/admin/"
    owner.get("/admin/account")
    new = "eleven slow giraffes"
    owner.post("/admin/account/password", present="wrong", password=new, repeated=new)
    assert owner.page.status_code == 422
    assert "This isn't your current password." in owner.page.text
    owner.post("/admin/account/password", present=ADMIN_PASSWORD, password=new, repeated=new)
    assert "Your password was changed." in owner.page.text
    assert other.get("/admin/").request.path == "/admin/sign-in"
    assert other.sign_in().status_code == 422
    assert other.sign_in(password=new).request.path == "/admin/"


@pytest.mark.parametrize("wrong", [{"password": "not this one"}, {"code": "000000"}, {"email": "nobody@example.com"}])
def test_r40_nobody_learns_which_of_the_three_was_wrong(small_world: World, owner: Desk, wrong: dict[str, str]) -> None:
    owner.get("/admin/")
    owner.post("/admin/sign-out")
    page = owner.sign_in(**wrong)
    assert page.status_code == 422
    assert "We couldn't sign you in." in page.text
    assert [row.kind for row in small_world.rows(AuditEvent)].count("admin_sign_in_failed") == 1


def test_r40_five_wrong_ones_then_a_wait_never_a_lock(small_world: World, owner: Desk) -> None:
    owner.get("/admin/")
    owner.post("/admin/sign-out")
    for _number in range(5):
        assert owner.sign_in(password="not this one").status_code == 422
    assert owner.sign_in().status_code == 429
    assert int(owner.page.headers["Retry-After"]) <= 15 * 60
    elsewhere = Desk(small_world, "192.0.2.77")
    elsewhere.seed, elsewhere.email = owner.seed, owner.email
    assert elsewhere.sign_in().request.path == "/admin/", "from another address the name is not locked"
    small_world.clock.advance(15 * 60)
    assert owner.sign_in().request.path == "/admin/"


def test_r40_codes_cannot_be_guessed_from_many_addresses(world: World) -> None:
    """Somebody knows the password and has a botnet. The admin is told, and gets in by a recovery code."""
    browser = joined(world)
    code = re.findall(r"<li>([a-z0-9-]{17})</li>", browser.page.text)[0]

    def at(address: str, **fields: str) -> int:
        desk = Desk(world, address)
        desk.seed, desk.email = browser.seed, "ada@example.com"  # type: ignore[attr-defined]
        status = desk.sign_in(**fields).status_code
        return status if "sign-in" in desk.path else 0

    assert at("192.0.2.1") == 0, "before"
    for number in range(15):
        assert at(f"198.51.100.{number}", code="000000") == 422
    assert at("192.0.2.1", password="not this one") == 422
    assert at("192.0.2.1") == 422, "the app's right code no more, and nothing says why"
    (mail,) = wait_for(lambda: [mail for mail in world.receiver.messages if "15 times within a day" in str(mail)])
    assert "ada@example.com" in str(mail)
    assert at("192.0.2.1", code=code) == 0
    world.clock.advance(24 * 3600)
    assert at("192.0.2.1") == 0


@pytest.mark.parametrize("how", ["changed", "reset"])
def test_r40_a_new_password_ends_what_was_guessed_behind_the_old_one(small_world: World, owner: Desk, how: str) -> None:
    """Whoever knew the old password must not keep the admin's app shut for a day after it is gone."""
    for number in range(16):
        guesser = Desk(small_world, f"198.51.100.{100 + number}")
        guesser.email, guesser.seed = owner.email, owner.seed
        assert guesser.sign_in(code="000000").status_code == 422
    fresh = "nine elands sleep soundly"
    if how == "changed":
        owner.get("/admin/account")
        typed = {"present": ADMIN_PASSWORD, "password": fresh, "repeated": fresh}
        assert "changed" in owner.post("/admin/account/password", **typed).text
    else:
        token = small_world.services.admins.reset(owner.admin_id)
        join(owner, token, fresh)
        small_world.services.admins.hide_recovery_codes(owner.admin_id)
    elsewhere = Desk(small_world, "192.0.2.77")
    elsewhere.email, elsewhere.seed = owner.email, owner.seed
    assert elsewhere.sign_in(password=fresh).request.path == "/admin/"


def test_r40_without_the_password_nobody_spends_an_admins_codes(small_world: World, owner: Desk) -> None:
    for number in range(20):
        stranger = Desk(small_world, f"198.51.100.{100 + number}")
        stranger.email, stranger.seed = owner.email, owner.seed
        assert stranger.sign_in(password="not this one", code="000000").status_code == 422
    elsewhere = Desk(small_world, "192.0.2.77")
    elsewhere.email, elsewhere.seed = owner.email, owner.seed
    assert elsewhere.sign_in().request.path == "/admin/"


def test_r26_following_a_link_ends_the_session_that_the_browser_had(small_world: World, owner: Desk) -> None:
    token = small_world.services.admins.invite("support")
    before = {row.id for row in small_world.rows(AdminSession)}
    owner.open_link(f"/admin/join/{token}")
    code = pyotp.TOTP(seed_of(owner)).at(small_world.clock.now.timestamp())
    typed = {"name": "Bo", "email": "bo@example.com", "password": ADMIN_PASSWORD, "repeated": ADMIN_PASSWORD}
    owner.post(f"/admin/join/{token}", **typed, code=code)
    assert owner.path == "/admin/recovery-codes"
    assert before.isdisjoint(row.id for row in small_world.rows(AdminSession))


def test_r17_a_code_of_the_app_opens_once(small_world: World, owner: Desk) -> None:
    code = owner.second_factor()
    owner.get("/admin/")
    owner.post("/admin/sign-out")
    assert owner.sign_in(code=code).request.path == "/admin/"
    again = Desk(small_world, "192.0.2.77")
    again.seed, again.email = owner.seed, owner.email
    again.get("/admin/sign-in")
    assert again.post("/admin/sign-in", email=owner.email, password=ADMIN_PASSWORD, code=code).status_code == 422


def test_r20_a_recovery_code_opens_once_and_is_told(small_world: World) -> None:
    browser = joined(small_world)
    code = re.findall(r"<li>([a-z0-9-]{17})</li>", browser.page.text)[0]
    for expected, typed in (("/admin/recovery-codes", code.upper().replace("-", " ")), ("/admin/sign-in", code)):
        desk = Desk(small_world)
        desk.seed, desk.email = browser.seed, "ada@example.com"  # type: ignore[attr-defined]
        assert desk.sign_in(code=typed).request.path == expected
    assert "recovery_code_used" in [row.kind for row in small_world.rows(AuditEvent)]


def test_r33_next_leads_to_own_paths_alone(owner: Desk) -> None:
    owner.get("/admin/")
    owner.post("/admin/sign-out")
    for evil in (
        "https://evil.example/",
        "//evil.example",
        "/admin//evil.example",
        "/\tadmin/",
        "/j/balance",
        "/admin/\\evil",
    ):
        owner.get("/admin/sign-in")
        owner.page = owner.client.post(
            "/admin/sign-in",
            data={
                **owner.hidden("/admin/sign-in"),
                "next": evil,
                "email": owner.email,
                "password": ADMIN_PASSWORD,
                "code": owner.second_factor(),
            },
            base_url=owner.base_url,
        )
        assert owner.page.headers["Location"] == "/admin/", evil
        owner.get("/admin/")
        owner.post("/admin/sign-out")


def test_the_last_owner_stays(small_world: World, owner: Desk) -> None:
    for action, fields in (("role", {"role": "auditor"}), ("active", {"active": "0"})):
        owner.get(f"/admin/admins/{owner.admin_id}")
        owner.post(f"/admin/admins/{owner.admin_id}/{action}", **fields)
        assert owner.page.status_code == 422
        assert "This is the last owner." in owner.page.text


def test_r19_roles_are_told_to_all_owners(world: World) -> None:
    owner = signed_in(world, "owner")
    support = signed_in(world, "support")
    owner.get(f"/admin/admins/{support.admin_id}")
    owner.post(f"/admin/admins/{support.admin_id}/role", role="auditor")
    assert "Changed." in owner.page.text
    assert support.get("/admin/").request.path == "/admin/sign-in", "sessions of the old role end"
    mails = wait_for(lambda: [mail for mail in world.receiver.messages if "auditor" in str(mail)])
    assert any(owner.email in str(mail) for mail in mails)


def test_a_guarded_change_asks_for_the_second_factor_again(small_world: World, owner: Desk) -> None:
    small_world.clock.advance(10 * 60 + 1)
    owner.get("/admin/admins")
    assert 'name="second_factor"' in owner.page.text
    owner.post("/admin/admins/invite", role="support", email="new@example.com")
    assert owner.page.status_code == 422
    assert 'value="new@example.com"' in owner.page.text, "what was typed is kept"
    owner.post("/admin/admins/invite", role="support", email="new@example.com", second_factor="000000")
    assert owner.page.status_code == 422
    owner.post("/admin/admins/invite", role="support", email="new@example.com", second_factor=owner.second_factor())
    assert owner.page.status_code == 200
    assert "/admin/join/" in owner.page.text
    assert 'name="second_factor"' not in owner.get("/admin/admins").text, "it counts for ten minutes"


def test_a_reset_ends_sessions_and_gives_a_new_sign_in(small_world: World, owner: Desk, support: Desk) -> None:
    owner.get(f"/admin/admins/{support.admin_id}")
    owner.post(f"/admin/admins/{support.admin_id}/reset")
    link = re.search(r"/admin/join/[\w-]+", owner.page.text)
    assert link
    assert "no longer work: they can sign in again only" in owner.page.text
    assert support.get("/admin/").request.path == "/admin/sign-in"
    assert support.sign_in().status_code == 422, "neither the old password nor the old app"
    assert "link not used yet" in owner.get("/admin/admins").text
    support.open_link(link.group())
    support.seed = seed_of(support)
    new = "eleven slow giraffes"
    support.post(link.group(), password=new, repeated=new, code=support.second_factor())
    assert support.path == "/admin/recovery-codes"
    assert len(small_world.rows(RecoveryCode)) == 20
    support.post("/admin/recovery-codes", saved="1")
    assert support.path == "/admin/"


def test_a_reset_leaves_neither_recovery_codes_nor_links_behind(small_world: World) -> None:
    """A laptop was stolen with all that is on it; its thief may have made themselves a link, too."""
    thief = joined(small_world, email="ada@example.com")
    code = re.findall(r"<li>([a-z0-9-]{17})</li>", thief.page.text)[0]
    owner = signed_in(small_world, "owner")
    admins = small_world.services.admins
    ada = admins.id_of("ada@example.com")
    made_before = admins.invite("owner", made_by=ada)
    admins.reset(ada, made_by=owner.admin_id)
    desk = Desk(small_world)
    desk.email, desk.seed = "ada@example.com", thief.seed  # type: ignore[attr-defined]
    assert desk.sign_in(code=code).status_code == 422
    assert desk.sign_in().status_code == 422
    assert desk.get(f"/admin/join/{made_before}").status_code == 410
    assert [row for row in small_world.rows(RecoveryCode) if row.admin_id == ada] == []


def test_the_last_owner_who_can_sign_in_is_reset_by_the_command_alone(small_world: World, owner: Desk) -> None:
    path = f"/admin/admins/{owner.admin_id}"
    owner.get(path)
    page = owner.post(f"{path}/reset")
    assert page.status_code == 422
    assert "This is the last owner who can sign in" in page.text
    assert owner.get("/admin/").request.path == "/admin/", "nothing was ended"
    colleague = signed_in(small_world, "support")
    admins = small_world.services.admins
    admins.set_role(colleague.admin_id, "owner", by=owner.admin_id)
    admins.reset(colleague.admin_id, made_by=owner.admin_id)
    owner.get(path)
    assert owner.post(f"{path}/active", active="0").status_code == 422, "a colleague without a sign-in is no help"
    token = admins.reset(owner.admin_id)  # as `auth-portal admin reset` does
    assert owner.get("/admin/").request.path == "/admin/sign-in"
    assert admins.invitation(token).is_reset


def test_r26_a_sign_in_that_a_reset_overtakes_begins_no_session(
    small_world: World, owner: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is checked with no transaction open; what happens meanwhile counts."""
    sessions, admins = small_world.services.admin_sessions, small_world.services.admins
    colleague = signed_in(small_world, "support")
    passwords = sessions._passwords
    check = passwords.matches

    def overtaken(stored: str | None, typed: str) -> bool:
        admins.reset(colleague.admin_id, made_by=owner.admin_id)
        return check(stored, typed)

    colleague.get("/admin/")
    colleague.post("/admin/sign-out")
    monkeypatch.setattr(passwords, "matches", overtaken)
    assert colleague.sign_in().status_code == 422
    assert [row for row in small_world.rows(AdminSession) if row.admin_id == colleague.admin_id] == []


def test_a_disabled_admin_is_out_at_once(owner: Desk, support: Desk) -> None:
    owner.get(f"/admin/admins/{support.admin_id}")
    owner.post(f"/admin/admins/{support.admin_id}/active", active="0")
    assert support.get("/admin/").request.path == "/admin/sign-in"
    assert support.sign_in().status_code == 422


def test_r42_nothing_of_an_admin_is_in_the_log_or_the_audit(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    owner = signed_in(world, "owner")
    owner.get("/admin/")
    owner.post("/admin/sign-out")
    owner.sign_in(password="not this one")
    logged = capfd.readouterr().err + str([dict(row._mapping) for row in world.rows(AuditEvent)])
    for secret in (owner.seed, owner.email, ADMIN_PASSWORD, "not this one"):
        assert secret not in logged


def test_r30_another_sites_sign_in_is_refused(owner: Desk) -> None:
    owner.get("/admin/account")
    answer = owner.post("/admin/sign-out", follow=False, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 400
    assert "Another website" in answer.text
    assert owner.get("/admin/").request.path == "/admin/"


def test_a_customers_page_in_an_admins_browser_keeps_the_admins_forms(owner: Desk) -> None:
    """A test drive opens the customer's pages beside the configuration page; both use one cookie against forgery."""
    owner.open("ref-1", "app")
    cookie = owner.client.get_cookie("csrf", domain="127.0.0.1")
    assert cookie is not None
    assert (cookie.max_age or 0) >= 8 * 3600


def test_owners_and_auditors_read_who_has_access_and_support_does_not(small_world: World) -> None:
    owner, support, auditor = (signed_in(small_world, role) for role in ("owner", "support", "auditor"))
    small_world.clock.advance(90)
    assert support.get("/admin/admins").status_code == 403
    assert support.get(f"/admin/admins/{auditor.admin_id}").status_code == 403
    assert 'href="/admin/admins"' not in support.get("/admin/").text
    for reader in (owner, auditor):
        assert 'href="/admin/admins"' in reader.get("/admin/").text
        reader.get("/admin/admins")
        rows = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in reader.page.text.split("<tr>")[2:]]
        assert [row.split(" @")[0].split()[1] for row in rows[:3]] == ["Auditor", "Owner", "Support"]
        for row, role in zip(rows, ("auditor", "owner", "support"), strict=True):
            assert f"{role}@example.com {role} can sign in app 10 recovery codes left" in row
            assert re.search(r"\d+ (s|min) ago \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", row), row
        assert ("Invite an admin" in reader.page.text) is (reader is owner)
        reader.get(f"/admin/admins/{support.admin_id}")
        for words in ("support@example.com", "set up", "10 recovery codes left", "can sign in", "Last sign-in"):
            assert words in reader.page.text, words
        assert f"/admin/audit?admin={support.admin_id}" in reader.page.text
        for action in ("role", "active", "reset"):
            assert (f"/admin/admins/{support.admin_id}/{action}" in reader.page.text) is (reader is owner)


def test_a_list_of_admins_says_who_was_reset_switched_off_or_has_not_come_for_long(small_world: World) -> None:
    owner, support, auditor = (signed_in(small_world, role) for role in ("owner", "support", "auditor"))
    admins = small_world.services.admins
    admins.set_active(support.admin_id, False, by=owner.admin_id)
    admins.reset(auditor.admin_id, made_by=owner.admin_id)
    page = owner.get("/admin/admins").text
    assert "reset, link not used yet" in page
    assert "0 recovery codes left" in page
    assert "Only one owner can sign in" in page
    admins.set_active(support.admin_id, True, by=owner.admin_id)
    small_world.clock.advance(91 * 86400)
    owner.sign_in()
    page = owner.get("/admin/admins").text
    assert "can sign in, but has not for 91 days" in page
    assert "91 days ago" in page


def sent(world: World) -> list[dict[str, str]]:
    """The mails that left, with subjects as they are without the portal's name."""
    mails = [one for one in world.receiver.messages if one["kind"] == "mail"]
    return [{**one, "subject": one["subject"].removeprefix("Acme Bank: ")} for one in mails]


def test_an_invitation_can_go_by_email(small_world: World) -> None:
    """The link that is mailed is shown to no one else, and opens once."""
    owner = signed_in(small_world)
    assert "Send the one-time link to this address" in owner.get("/admin/admins").text
    page = owner.post(
        "/admin/admins/invite", role="support", email="new@example.com", mail="1", second_factor=owner.second_factor()
    )
    assert "The one-time link was sent to new@example.com" in page.text
    assert "/admin/join/" not in page.text
    mail = wait_for(lambda: next((one for one in sent(small_world) if one["to"] == "new@example.com"), None))
    assert mail["subject"] == "Your invitation"
    link = re.search(r"http://127.0.0.1:8000(/admin/join/\S+)", mail["text"])
    assert link is not None, mail["text"]
    assert Browser(small_world).get(link[1]).status_code == 200
    owner.get("/admin/admins")
    page = owner.post("/admin/admins/invite", role="support", email="", mail="1")
    assert page.status_code == 422
    assert 'aria-invalid="true"' in page.text


def test_a_reset_can_go_by_email(small_world: World) -> None:
    owner = signed_in(small_world)
    support = signed_in(small_world, "support")
    path = f"/admin/admins/{support.admin_id}"
    owner.get(path)
    page = owner.post(f"{path}/reset", mail="1", second_factor=owner.second_factor())
    assert "The one-time link was sent to" in page.text
    wait_for(
        lambda: {"Set up your sign-in", "An admin's sign-in was reset"} <= {one["subject"] for one in sent(small_world)}
    )
    for one in sent(small_world):
        assert ("/admin/join/" in one["text"]) is (one["subject"] == "Set up your sign-in"), "owners see no link"


def test_without_a_mail_channel_the_link_is_shown(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    with open_world(tmp_path, sqlite_url, receiver, config="", base="") as world:
        page = signed_in(world).get("/admin/admins").text
        assert 'name="mail"' not in page
        assert "No channel carries email" in page
