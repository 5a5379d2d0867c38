"""What comes in from the network: R30 to R34, R38, R39, R41, and the two doors of the sandbox's absence."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import create_environ, run_wsgi_app

from auth_portal.bootstrap import create_app
from auth_portal.errors import Misconfigured
from auth_portal.services import limits
from auth_portal.services.verification.references import read_query
from auth_portal.services.verification.tickets import TicketRequest
from auth_portal.settings import read_settings
from auth_portal.store.models import Base, Verification
from auth_portal.web.edge import HEADERS
from tests.receiver import Receiver
from tests.security.tools import STILL, deliver, logged, results
from tests.world import Browser, World, open_world

TLS = {"PORTAL_PUBLIC_URL": "https://verify.example.com", "PORTAL_TRUSTED_PROXIES": "1", **STILL}
BOTS = [
    "WhatsApp/2.24.1 A",
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
    "Twitterbot/1.0",
    "TelegramBot (like TwitterBot)",
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_11_1) AppleWebKit/601.2.4 Version/9.0.1 Safari/601.2.4 facebookexternalhit/1.1 Facebot Twitterbot/1.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",  # mail scanner
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "SkypeUriPreview Preview/0.5 skype-url-preview@microsoft.com",
]


def everything(world: World) -> dict[str, list[Any]]:
    """Every row of every table."""
    with world.database.read() as connection:
        return {
            table.name: sorted(map(str, connection.execute(table.select()).all()))
            for table in Base.metadata.sorted_tables
        }


def routes(app: Flask, method: str) -> list[str]:
    """A path of every customer's route that takes a method; tests/admin and tests/api hold theirs to the same."""
    return sorted(
        {
            re.sub(r"<[^>]+>", "balance", rule.rule)
            for rule in app.url_map.iter_rules()
            if method in (rule.methods or ()) and not rule.rule.startswith(("/admin/", "/api/"))
        }
    )


VERIFY = ["/language", "/verify", "/verify/cancel", "/verify/change", "/verify/method", "/verify/resend"]
BEGIN = ["/", "/j/balance", "/j/balance/t/balance"]
DRIVE = [f"/drive/balance{path}" for path in (*BEGIN, *VERIFY)]  # the same pages for a test drive of a signed-in admin
POSTS = sorted([*BEGIN, "/credentials/balance", *VERIFY, *DRIVE])


def real_posts(world: World) -> list[str]:
    """The same with a one-time link and a ticket that are good, so that nothing but what is tried stands in the way."""
    ticket = world.services.tickets.register(TicketRequest("app", customer_id="C-1001")).path
    row = world.services.customers.row_of("C-1002")
    link = world.services.credential_links.make(row, "password", "hand", admin_id="a").link
    return ["/", f"/credentials/{link.rpartition('/')[2]}", "/j/balance", ticket, *VERIFY]


@pytest.fixture
def tls(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    with open_world(tmp_path, sqlite_url, receiver, settings=TLS) as opened:
        yield opened


def over_tls(world: World, address: str = "203.0.113.7") -> Browser:
    """A browser behind nginx."""
    browser = Browser(world, "127.0.0.1", "https://verify.example.com")
    browser.client.environ_base["HTTP_X_FORWARDED_FOR"] = address
    return browser


# -- CSRF -------------------------------------------------------------------------------------------------------


def test_r30_these_are_all_the_posts(small_still: World) -> None:
    assert routes(small_still.app, "POST") == POSTS
    for method in ("PUT", "PATCH", "DELETE"):
        assert routes(small_still.app, method) == []
    exempt = small_still.app.config.get("CSRF_EXEMPT_ENDPOINTS", ())
    assert all(endpoint.startswith("api.") for endpoint in exempt), "only what reads no cookie"


@pytest.mark.parametrize("with_cookie", [True, False])
@pytest.mark.parametrize("token", [None, "", "wrong", "ImFiYyI.Z0Z0Z0.AAAA"])
def test_r30_no_post_without_its_token(small_still: World, token: str | None, *, with_cookie: bool) -> None:
    browser = small_still.browser()
    browser.begin("one", "app")
    fields = {
        **browser.hidden("/verify"), "code": small_still.totp(), "identifier": "C-1002", "reference": "two",
        "method": "totp", "reason": "cancelled", "csrf_token": token or "",
        "password": "seven kudus dance slowly", "repeated": "seven kudus dance slowly",
    }  # fmt: skip
    if token is None:
        fields.pop("csrf_token")
    if not with_cookie:
        browser.client.delete_cookie("csrf", domain="127.0.0.1")
    posts = real_posts(small_still)
    before = everything(small_still)
    for path in posts:
        answer = browser.client.post(path, data=fields, base_url=browser.base_url)
        path_only = re.sub(r"\?v=[\w-]{8}$", "", answer.headers.get("Location", ""))
        assert (answer.status_code, path_only) in ((400, ""), (303, "/verify")), path
        assert everything(small_still) == before, path
        if not with_cookie:
            browser.client.delete_cookie("csrf", domain="127.0.0.1")


@pytest.mark.parametrize("path", DRIVE)
def test_r30_no_post_to_a_drive_without_its_token_and_its_admin(small_still: World, path: str) -> None:
    browser = small_still.browser()
    browser.begin("one", "app")
    fields = {**browser.hidden("/verify"), "code": small_still.totp(), "identifier": "C-1002", "reference": "two"}
    before = everything(small_still)
    without_token = browser.client.post(path, data={**fields, "csrf_token": ""}, base_url=browser.base_url)
    assert without_token.status_code == 410, "refused unread, before its token is looked at"
    assert browser.client.post(path, data=fields, base_url=browser.base_url).status_code == 410, "no admin, no drive"
    assert everything(small_still) == before


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_r30_no_post_from_another_site_even_with_its_token(tls: World, site: str) -> None:
    browser = over_tls(tls)
    browser.begin("one", "app")
    fields = {
        **browser.hidden("/verify"),
        "code": tls.totp(),
        "identifier": "C-1",
        "reference": "two",
        "reason": "not_me",
        "password": "seven kudus dance slowly",
        "repeated": "seven kudus dance slowly",
    }
    posts = real_posts(tls)
    before = everything(tls)
    for path in posts:
        answer = browser.client.post(path, data=fields, base_url=browser.base_url, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == 400, path
        assert everything(tls) == before, path


@pytest.mark.parametrize("site", ["same-origin", "none", None])
def test_r30_our_own_pages_post_through_tls_without_a_referer(tls: World, site: str | None) -> None:
    browser = over_tls(tls)
    headers = {"Origin": "null"} | ({"Sec-Fetch-Site": site} if site else {})
    browser.begin("one", "app")
    browser.prove(tls.totp(), headers=headers)
    assert browser.path == "/done"


def test_r30_a_token_of_another_browser_is_none(small_still: World) -> None:
    other, browser = small_still.browser(), small_still.browser()
    other.open("one")
    browser.open("one")
    answer = browser.client.post("/", data={**other.hidden("/"), "identifier": "C-1001"}, base_url=browser.base_url)
    assert answer.status_code == 400
    assert not small_still.rows(Verification)


def test_r30_what_bots_post_is_an_answer_and_no_fault(small_still: World) -> None:
    """Without a cookie, a reference or a journey: refused as such, not by breaking."""
    client = small_still.app.test_client()
    with logged() as log:
        for path, status in (("/", 400), ("/j/nope", 404), ("/j/balance", 400), ("/nope", 400), ("/verify", 303)):
            for data in ({}, {"reference": "a\0b"}, {"reference": "x" * 600}, {"reference": "ok"}):
                answer = client.post(path, data=data, base_url="http://127.0.0.1:8000")
                assert answer.status_code in (status, 400, 404), (path, data)
    assert "fault" not in log.getvalue()


def test_r34_a_hidden_field_is_no_way_into_the_database(still: World) -> None:
    for number, dropped in enumerate(["a\0b", "\U0001f600", "C-1001,0821234567", "utm_source,fbclid", "x" * 5000]):
        browser = still.browser()
        browser.open(f"reference-{number}", "app")
        page = browser.post("/j/app", identifier="C-1001", dropped=dropped, follow=False)
        assert page.status_code == 303
    assert {row.dropped_parameters for row in still.rows(Verification)} == {"", "utm_source,fbclid"}


FIELDS = ["identifier", "reference_tail", "opened", "again", "decline"]
NASTY = [
    "a\0b", "\r\nSet-Cookie: x=1", "\x7f", "\u2028", "\ufffe\U0010ffff", "'; DROP TABLE visits; --", "{{7*7}}<b>", "x" * 60_000,
]  # fmt: skip


def test_r34_nothing_that_a_landing_field_can_hold_breaks_a_page(still: World) -> None:
    browser = still.browser()
    for number, (field, value) in enumerate(product(FIELDS, NASTY)):
        browser.open(f"reference-{number}")
        answer = browser.post("/", follow=False, **{"identifier": "C-1001", field: value})
        assert answer.status_code in (200, 303, 400, 413, 422), (field, value[:20])
        assert "<b>" not in answer.text
        assert "x=1" not in str(answer.headers)


def test_r34_nothing_that_a_field_of_a_prompt_can_hold_breaks_a_page(still: World) -> None:
    browser = still.browser()
    for number, (path, value) in enumerate(product(VERIFY, NASTY)):
        if "/verify/cancel" not in browser.get("/verify").text:
            browser.begin(f"reference-{number}", "either")
        form = browser.hidden("/verify/cancel")
        for fields in ({**form, "code": value, "method": value, "identifier": value}, {**form, "prompt": value}):
            answer = browser.client.post(path, data={**fields, "reason": value}, base_url=browser.base_url)
            assert answer.status_code in (303, 400, 413, 422), (path, value[:20])
    assert results(still) == []


def test_r23_too_much_is_refused_at_once(small_still: World) -> None:
    browser = small_still.browser()
    browser.begin("one", "password")
    form = browser.hidden("/verify")
    for size in (64 * 1024 + 1, 1024 * 1024):
        answer = browser.client.post("/verify", data={**form, "password": "x" * size}, base_url=browser.base_url)
        assert answer.status_code == 413
    assert small_still.rows(Verification)[0].wrong_tries == 0


def test_r34_a_long_query_costs_no_time() -> None:
    """A search over the whole query for what apps add was quadratic: 64 kB took two seconds."""
    query = "reference=abc" + "&utm_source=1" * 20_000
    began = time.process_time()
    assert read_query(query).text == "abc"
    assert time.process_time() - began < 1.0


# -- GET changes nothing ----------------------------------------------------------------------------------------


def test_r31_ten_preview_bots_then_a_person(still: World) -> None:
    paths = [
        *routes(still.app, "GET"),
        "/?reference=one",
        "/j/app?reference=one",
        "/done?looked=3",
        "/static/app.js",
        "/nope",
    ]
    before = everything(still)
    for bot in BOTS:
        client = still.app.test_client()
        for path in paths:
            for method in ("GET", "HEAD"):
                answer = client.open(path, method=method, headers={"User-Agent": bot}, base_url="http://127.0.0.1:8000")
                assert answer.status_code < 500, (method, path)
    assert everything(still) == before
    person = still.browser()
    person.begin("one", "app")
    in_between = everything(still)
    for bot in BOTS:  # and while the person is at it
        still.app.test_client().get(
            "/j/app?reference=one", headers={"User-Agent": bot}, base_url="http://127.0.0.1:8000"
        )
    person.get("/verify")
    person.get("/done")
    person.client.head("/verify", base_url=person.base_url)
    assert everything(still) == in_between
    person.get("/verify")
    person.prove(still.totp())
    assert results(still) == ["verified_app"]
    assert not still.receiver.messages


def test_r31_the_same_query_in_a_get_is_no_form(small_still: World) -> None:
    browser = small_still.browser()
    browser.begin("one", "app")
    prompt = browser.hidden("/verify")["prompt"]
    before = everything(small_still)
    for path in (
        f"/verify?prompt={prompt}&code={small_still.totp()}",
        "/?reference=two&identifier=C-1001&decline=not_me",
    ):
        browser.get(path)
    for path in VERIFY[2:]:
        assert browser.client.get(path, base_url=browser.base_url).status_code == 405
    assert everything(small_still) == before


# -- headers ----------------------------------------------------------------------------------------------------


def test_r32_every_answer_has_every_header(tls: World) -> None:
    client = over_tls(tls).client
    paths = {*routes(tls.app, "GET"), *POSTS, "/nope", "/j/nope?reference=a", "/?reference=%00", "/?reference=a",
             "/static/nope.css", "/verify/", "/j/app/"}  # fmt: skip
    for path, method in product(sorted(paths), ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW")):
        answer = client.open(path, method=method, base_url="https://verify.example.com")
        missing = {name for name, value in HEADERS.items() if answer.headers.get(name) != value}
        assert not missing, (method, path)
        assert answer.headers["Strict-Transport-Security"].startswith("max-age=63072000")
        assert "Server" not in answer.headers
        assert "Content-Encoding" not in answer.headers
        assert not any(name.lower().startswith("access-control-") for name, _value in answer.headers), "no CORS"


def test_no_route_takes_trace_and_no_folder_is_listed(small_still: World) -> None:
    client = small_still.app.test_client()
    for rule in small_still.app.url_map.iter_rules():
        assert "TRACE" not in (rule.methods or ()), rule
    for path in ("/static", "/static/", "/static/icons/", "/logo/", "/theme/"):
        assert client.get(path, base_url="http://127.0.0.1:8000").status_code == 404, path
    answer = client.open("/verify", method="TRACE", base_url="http://127.0.0.1:8000", headers={"X-Secret": "s3cret"})
    assert answer.status_code == 405
    assert "s3cret" not in answer.text


def test_a_signed_field_counts_for_its_own_purpose_alone(small_still: World) -> None:
    """The moment at which a page was opened is signed for that page's journey."""
    browser = small_still.browser()
    browser.open("one", "app")
    opened = browser.hidden("/j/app")["opened"]
    browser.open("two", "balance")
    form = {**browser.hidden("/j/balance"), "identifier": "C-1001"}
    wrong = browser.client.post("/j/balance", data={**form, "opened": opened}, base_url=browser.base_url)
    assert wrong.status_code == 400
    assert not small_still.rows(Verification)
    assert browser.client.post("/j/balance", data=form, base_url=browser.base_url).status_code == 303


def test_a_password_field_hides_what_is_typed_and_helps_managers(small_still: World) -> None:
    browser = small_still.browser()
    page = browser.begin("one", "password").text
    field = re.search(r'<input id="password"[^>]*>', page)
    assert field
    assert 'type="password"' in field[0]
    assert 'autocomplete="current-password"' in field[0]
    assert not re.search(r"onpaste|autocomplete=.off|maxlength", field[0])


def test_r32_the_policy_allows_nothing_inline(small_still: World) -> None:
    policy = HEADERS["Content-Security-Policy"]
    for part in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"):
        assert part in policy
    assert "unsafe" not in policy
    assert HEADERS["Cross-Origin-Opener-Policy"] == "same-origin"
    assert HEADERS["Cache-Control"] == "no-store"
    browser = small_still.browser()
    browser.begin("one", "either")
    for page in (browser.page.text, browser.get("/?reference=a").text, browser.get("/nope").text):
        assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=|<style", page)


def test_r32_no_hsts_without_tls(small_still: World) -> None:
    assert "Strict-Transport-Security" not in small_still.browser().get("/?reference=a").headers


def test_r32_static_files_are_for_a_year_and_immutable(tls: World) -> None:
    browser = over_tls(tls)
    page = browser.get("/?reference=a").text
    found = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', page))
    assert found
    for url in found:
        answer = browser.client.get(url, base_url=browser.base_url)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
        assert f"max-age={365 * 24 * 3600}" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in answer.headers
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/app.js/../../app.py", "/static//etc/passwd"):
        assert browser.client.get(path, base_url=browser.base_url).status_code == 404


def test_r27_cookies_are_bound_to_this_host(tls: World) -> None:
    browser = over_tls(tls)
    answer = browser.client.get("/?reference=a", base_url=browser.base_url)
    cookies = answer.headers.getlist("Set-Cookie")
    browser.page = answer
    cookies += browser.post("/", follow=False, identifier="C-1001").headers.getlist("Set-Cookie")
    assert {cookie.split("=")[0] for cookie in cookies} == {"__Host-csrf", "__Host-verification"}
    for cookie in cookies:
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= {part.strip() for part in cookie.split(";")}
        assert "domain" not in cookie.lower()


# -- redirects, hosts and hops ----------------------------------------------------------------------------------


ELSEWHERE = [
    "//evil.example", "//evil.example/verify", "/\t/evil.example", "/\\evil.example", "//verify", "/verify//", "/j//evil.example",
    "/https://evil.example", "/?reference=a&next=https://evil.example", "/done?next=//evil.example", "/verify?url=//evil.example",
]  # fmt: skip


def test_r33_no_path_leads_elsewhere(small_still: World) -> None:
    client = small_still.app.test_client()
    for path, method in product(ELSEWHERE, ("GET", "POST")):
        raw, _, query = path.partition("?")
        answer = client.open(
            "/", method=method, base_url="http://127.0.0.1:8000", headers={"Referer": "https://evil.example/"},
            environ_overrides={"PATH_INFO": raw, "QUERY_STRING": query},
        )  # fmt: skip
        assert re.fullmatch(r"(/(verify|done)(\?v=[\w-]{8})?)?", answer.headers.get("Location", "")), path
        assert "evil.example" not in answer.headers.get("Refresh", "")


HOSTS = [
    "evil.example", "verify.example.com.evil.example", "verify.example.com:8080", "evil.example:443", "", "127.0.0.1", "localhost",
    "verify.example.com@evil.example", "verify.example.com\tevil.example",
]  # fmt: skip
NAMING_A_HOST = ["X-Forwarded-Host", "Forwarded", "X-Host", "X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Proto"]


def test_r39_another_host_is_refused(tls: World) -> None:
    client = over_tls(tls).client
    for host in HOSTS:
        answer = client.get("/?reference=a", base_url="https://verify.example.com", headers={"Host": host})
        assert answer.status_code == 400, host
        assert "evil" not in answer.text


def status_at(world: World, host: str) -> str:
    """The status of a landing page at a host. Flask's own client cannot read each of them."""
    environ = create_environ("/?reference=a", environ_overrides={"HTTP_HOST": host, "REMOTE_ADDR": "127.0.0.1"})
    return run_wsgi_app(world.app, environ)[1]


BUECHER = "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("public_url", "hosts"),
    [
        (
            "https://verify.example.com",
            ["VERIFY.Example.COM", "verify.example.com.", "verify.example.com:443", "Verify.example.com.:443", "verify.example.com:"],
        ),
        ("https://Verify.Example.com.:443/", ["verify.example.com", "verify.example.com:443"]),
        ("http://verify.example.com:80", ["verify.example.com", "VERIFY.example.com:80", "verify.example.com."]),
        ("https://verify.example.com:8443", ["verify.example.com:8443", "Verify.Example.com.:8443"]),
        (
            "https://Bücher.example",
            [BUECHER, BUECHER.upper(), f"{BUECHER}.:443", "bücher.example", "BÜCHER.example.", "bücher。example"],
        ),
        (f"https://{BUECHER}", [BUECHER, "bücher.example"]),
        ("https://faß.example", ["xn--fa-hia.example"]),
        ("http://[2001:DB8:0::1]:80", ["[2001:db8::1]", "[2001:DB8::1]:80"]),
        ("http://localhost:8000", ["LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "localhost.:8000"]),
    ],
)  # fmt: skip
def test_r39_a_host_is_ours_in_every_spelling(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, public_url: str, hosts: list[str]
) -> None:
    settings = {"PORTAL_PUBLIC_URL": public_url, "PORTAL_TRUSTED_PROXIES": "0", **STILL}
    with open_world(tmp_path, sqlite_url, receiver, settings=settings) as world:
        for host in hosts:
            assert status_at(world, host.encode().decode("latin-1")) == "200 OK", host
        for host in (
            "bucher.example",
            "xn--bcher-kva.example.evil.example",
            "verify.example.com:8080",
            "..",
            "example",
        ):
            assert status_at(world, host) == "400 BAD REQUEST", host


def test_an_international_host_is_read_by_people_and_sent_to_machines(
    tmp_path: Path, sqlite_url: str, receiver: Receiver
) -> None:
    settings = {"PORTAL_PUBLIC_URL": "https://bücher.example", "PORTAL_TRUSTED_PROXIES": "0", **STILL}
    with open_world(tmp_path, sqlite_url, receiver, settings=settings) as world:
        assert world.services.settings.public_url == f"https://{BUECHER}"
        browser = world.browser()
        browser.base_url = f"https://{BUECHER}"
        browser.begin("one")
        assert '<bdi dir="ltr">bücher.<wbr>example</bdi>' in browser.page.text
        browser.begin("two", "mail")
        deliver(world)
        sms, mail = sorted(receiver.messages, key=lambda message: "@" in message["to"])
        assert f"@{BUECHER} #" in sms["text"]
        assert "at bücher.example" in mail["text"]


@pytest.mark.parametrize(
    "url", ["https://a..b", "https://exa mple.com", "https://x:0", "https://x:99999", "https://[::g]", "https://a b"]
)
def test_what_is_no_host_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(Misconfigured, match="PORTAL_PUBLIC_URL"):
        read_settings({"PORTAL_PUBLIC_URL": url, "PORTAL_TRUSTED_PROXIES": "0"})


def test_r39_links_use_the_configured_origin(tls: World) -> None:
    browser = over_tls(tls)
    for name in NAMING_A_HOST:
        value = "host=evil.example" if name == "Forwarded" else "http://evil.example/x"
        form = {"reference": "a", "cookieless": "1"}
        answer = browser.client.post("/j/app", data=form, base_url=browser.base_url, headers={name: value})
        assert "evil.example" not in answer.text, name
        assert 'value="https://verify.example.com/j/app?reference=a"' in answer.text


def counted_as(world: World, reference: str, remote: str, forwarded: list[str]) -> tuple[int, str]:
    """The status of a begin, and under which address it was counted."""
    browser = Browser(world, remote)
    headers = [("X-Forwarded-For", value) for value in forwarded]
    browser.page = browser.client.get(f"/j/app?reference={reference}", base_url=browser.base_url, headers=headers)
    if browser.page.status_code != 200:
        return browser.page.status_code, ""
    form = {**browser.hidden("/j/app"), "identifier": "C-1"}
    answer = browser.client.post("/j/app", data=form, base_url=browser.base_url, headers=headers)
    digest = hashlib.sha256(reference.encode()).digest()
    (row,) = (row for row in world.rows(Verification) if row.reference_hash == digest)
    return answer.status_code, row.address_key


CLIENT, PROXY, SPOOF = "203.0.113.7", "10.0.0.1", "198.51.100.66"


HOPS = [
    (0, CLIENT, [], CLIENT),
    (0, CLIENT, [SPOOF], CLIENT),
    (0, CLIENT, [SPOOF, PROXY], CLIENT),
    (1, PROXY, [CLIENT], CLIENT),
    (1, PROXY, [f"{SPOOF}, {CLIENT}"], CLIENT),
    (1, PROXY, [SPOOF, CLIENT], CLIENT),  # the header came twice
    (1, PROXY, [f"  {CLIENT}  "], CLIENT),
    (1, "", [CLIENT], CLIENT),  # a unix socket behind nginx
    (2, PROXY, [f"{CLIENT}, 10.0.0.2"], CLIENT),
    (2, PROXY, [f"{SPOOF}, {CLIENT}, 10.0.0.2"], CLIENT),
    (2, PROXY, [f"{SPOOF}, {CLIENT}", "10.0.0.2"], CLIENT),
    (1, PROXY, ["2001:db8:1:2::77"], "2001:db8:1:2::1"),
    (0, "", [], None),
    (0, "", [CLIENT], None),
    (1, PROXY, [], None),
    (1, PROXY, [""], None),
    (1, PROXY, ["unknown"], None),
    (1, PROXY, [f"{CLIENT},"], None),
    (1, PROXY, [f"{CLIENT}, evil"], None),
    (1, PROXY, [f"{CLIENT}:4711"], CLIENT),  # Azure Application Gateway
    (1, PROXY, [f"{SPOOF}:1, {CLIENT}:65535"], CLIENT),
    (1, PROXY, ["[2001:db8:1:2::77]:4711"], "2001:db8:1:2::1"),
    (1, PROXY, ["[2001:db8:1:2::77]"], "2001:db8:1:2::1"),
    (1, PROXY, ["fe80::1%eth0"], "fe80::1"),
    (1, PROXY, ["[fe80::1%eth0]:80"], "fe80::1"),
    (1, PROXY, [f"::ffff:{CLIENT}"], CLIENT),
    (1, PROXY, [f"[::ffff:{CLIENT}]:4711"], CLIENT),
    (0, f"::ffff:{CLIENT}", [], CLIENT),  # a socket that serves both kinds
    (2, PROXY, [f"{CLIENT}:4711, 10.0.0.2:80"], CLIENT),
    (1, PROXY, [f"{CLIENT}:"], None),
    (1, PROXY, [f"{CLIENT}:65536"], None),
    (1, PROXY, [f"{CLIENT}:80:80"], None),
    (1, PROXY, [f"{CLIENT}:８０"], None),
    (1, PROXY, [f"[{CLIENT}]:80"], None),
    (1, PROXY, [f"{CLIENT}%eth0"], None),
    (1, PROXY, ["[2001:db8::1"], None),
    (1, PROXY, ["[2001:db8::1]:"], None),
    (1, PROXY, ["[2001:db8::1]x"], None),
    (1, PROXY, ["_hidden"], None),
    (1, PROXY, [f"for={CLIENT}"], None),
    (1, PROXY, ["999.1.1.1"], None),
    (2, PROXY, [CLIENT], None),
    (2, PROXY, ["", "10.0.0.2"], None),
]


FORWARDED = [
    (1, f"for={CLIENT}", True),
    (1, f"for={SPOOF}, for={CLIENT}", True),
    (1, f'for={SPOOF};x=", for={CLIENT}', True),  # a quote that the client left open
    (1, f'for={SPOOF};x=", by=10.0.0.1; For="{CLIENT}:4711" ;proto=https', True),
    (1, f'for="[::ffff:{CLIENT}]:4711"', True),
    (2, f"for={SPOOF},for={CLIENT},for=10.0.0.2", True),
    (1, f"for={CLIENT};for={SPOOF}", False),
    (1, "for=unknown", False),
    (1, 'for="_hidden"', False),
    (1, "by=10.0.0.1", False),
    (1, CLIENT, False),
    (1, "", False),
    (2, f"for={CLIENT}", False),
]


@pytest.mark.parametrize("hops", [1, 2])
def test_r51_the_address_in_forwarded(tmp_path: Path, sqlite_url: str, receiver: Receiver, hops: int) -> None:
    """RFC 7239's header has no hyphen, so no other name becomes the same one in the environment of WSGI."""
    settings = {**STILL, "PORTAL_TRUSTED_PROXIES": str(hops), "PORTAL_PROXY_HEADER": "forwarded"}
    with open_world(tmp_path, sqlite_url, receiver, settings=settings) as world:
        for number, (_, value, is_read) in enumerate(case for case in FORWARDED if case[0] == hops):
            browser = Browser(world, PROXY)
            browser.client.environ_base |= {"HTTP_FORWARDED": value, "HTTP_X_FORWARDED_FOR": SPOOF}
            browser.client.environ_base["SERVER_SOFTWARE"] = "Granian"
            answer = browser.client.get("/j/app?reference=a", base_url=browser.base_url)
            assert answer.status_code == (200 if is_read else 503), value
            if is_read:
                browser.begin(f"forwarded-{number}", "app")
        keys = {row.address_key for row in world.rows(Verification)}
        assert keys == {limits.address_key(CLIENT, world.services.keyring)}


@pytest.mark.parametrize("server", ["Granian", "", None, "uWSGI", "gunicorn", "not gunicorn/27"])
def test_r51_a_server_that_confuses_headers_is_refused(tls: World, server: str | None) -> None:
    client = tls.app.test_client()
    client.environ_base |= {"HTTP_X_FORWARDED_FOR": SPOOF}
    if server is not None:
        client.environ_base["SERVER_SOFTWARE"] = server
    with logged() as text:
        answer = client.get("/?reference=a", base_url="https://verify.example.com")
    assert answer.status_code == 503
    assert "server_unsafe" in text.getvalue()


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_r38_the_address_is_what_the_trusted_hop_says(
    tmp_path: Path, sqlite_url: str, receiver: Receiver, hops: int
) -> None:
    settings = {**STILL, "PORTAL_TRUSTED_PROXIES": str(hops)}
    with open_world(tmp_path, sqlite_url, receiver, settings=settings) as world:
        for number, (_, remote, forwarded, expected) in enumerate(case for case in HOPS if case[0] == hops):
            status, key = counted_as(world, f"reference-{number}", remote, forwarded)
            if expected is None:
                assert status == 503, forwarded
                continue
            assert status == 303, forwarded
            honest = [] if hops == 0 else [", ".join([expected, *["10.0.0.2"] * (hops - 1)])]
            assert key == counted_as(world, f"honest-{number}", expected if hops == 0 else PROXY, honest)[1], forwarded


def test_r38_a_probe_needs_no_proxy_and_no_host(tls: World) -> None:
    client = tls.app.test_client()
    assert client.get("/healthz", base_url="http://10.1.2.3:8000").status_code == 200
    assert client.get("/readyz", base_url="http://10.1.2.3:8000").status_code == 200


def test_d11_a_probe_writes_nothing_and_may_have_any_host(small_still: World) -> None:
    before = everything(small_still)
    for host in ("10.1.2.3:8000", "evil.example", "[::1]", ""):
        for path in ("/healthz", "/readyz"):
            assert small_still.app.test_client().get(path, headers={"Host": host}).status_code == 200, host
    assert everything(small_still) == before


def test_d11_tables_of_an_earlier_release_are_a_fault(small_still: World) -> None:
    with small_still.database.write() as connection:
        connection.exec_driver_sql("UPDATE schema_state SET revision = '0001'")
    answer = small_still.app.test_client().get("/readyz")
    assert (answer.status_code, answer.get_json()["faults"][0][:48]) == (
        503,
        "migrations: the database is at migration 0001, t",
    )


# -- faults -----------------------------------------------------------------------------------------------------


def test_r41_no_page_shows_how_it_broke(small_still: World) -> None:
    browser = small_still.browser()
    browser.begin("one", "app")
    form = {**browser.hidden("/verify"), "code": small_still.totp()}
    with small_still.database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE tries RENAME TO gone")
    with logged() as log:
        answer = browser.client.post("/verify", data=form, base_url=browser.base_url)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    for text in (answer.text, str(answer.headers)):
        assert not re.search(r"Traceback|sqlite|sqlalchemy|werkzeug|flask|python|\.py\b|tries", text, re.IGNORECASE)
    assert "request_fault" in log.getvalue()
    assert "INSERT" not in log.getvalue()
    assert not small_still.app.debug


def test_r41_before_it_serves_it_says_so() -> None:
    client = create_app().test_client()
    for path in ("/", "/verify", "/readyz"):
        assert client.get(path).status_code == 503


def test_r41_numbers_and_reasons_need_the_token(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    with open_world(
        tmp_path, sqlite_url, receiver, settings={**TLS, "PORTAL_METRICS_TOKEN": "a-long-token-for-metrics"}
    ) as world:
        client = over_tls(world).client
        for token in ("", "Bearer ", "Bearer wrong", "Basic a-long-token-for-metrics"):
            headers = {"Authorization": token} if token else {}
            assert client.get("/metrics", base_url="https://verify.example.com", headers=headers).status_code == 404
            assert "faults" not in client.get("/readyz", base_url="https://verify.example.com", headers=headers).text
        headers = {"Authorization": "Bearer a-long-token-for-metrics"}
        assert client.get("/metrics", base_url="https://verify.example.com", headers=headers).status_code == 200
        by_address = "http://10.0.0.7:8000"  # as a cluster's Prometheus asks each server
        assert client.get("/metrics", base_url=by_address, headers=headers).status_code == 200
        assert client.get("/metrics", base_url=by_address).status_code == 404
        assert client.get("/?reference=abc", base_url=by_address, headers=headers).status_code == 400
        deliver(world)


def test_without_a_token_no_other_name_of_this_machine_leads_to_the_metrics(small_still: World) -> None:
    """Or a page of another site, whose name leads here, could read them."""
    client = small_still.app.test_client()
    assert client.get("/metrics", base_url="http://evil.example").status_code == 400
