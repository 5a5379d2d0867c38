"""Journeys on the configuration page: made by form, live at once, changed by two, rolled back, switched off, deleted."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import BytesIO
from typing import Any

import pytest
from sqlalchemy import insert
from werkzeug.test import TestResponse

from auth_portal.store.models import AuditEvent, HourlyCount, Verification
from tests.admin.desk import Desk, signed_in
from tests.pictures import PNG, drawn, picture
from tests.receiver import wait_for
from tests.world import PHONE, World

LIVE_SECONDS = 2.0


class Fields(HTMLParser):
    """What a browser would send of the form for an action: the value of every field, as lists."""

    def __init__(self, page: str, action: str) -> None:
        super().__init__()
        self.values: dict[str, list[str]] = {}
        self._action, self._is_inside, self._area, self._list = action, False, "", ""
        self._options: list[tuple[str, bool]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = given.get("name") or ""
        if tag == "form":
            self._is_inside = given.get("action") == self._action
        elif tag == "textarea" and self._is_inside:
            self._area = name
            self.values[name] = [""]
        elif tag == "select" and self._is_inside:
            self._list, self._options = name, []
        elif tag == "option" and self._list:
            self._options.append((given.get("value") or "", "selected" in given))
        elif tag == "input" and self._is_inside and name and _is_sent(given):
            self.values.setdefault(name, []).append(given.get("value") or "")

    def handle_data(self, data: str) -> None:
        if self._area:
            self.values[self._area][0] += data.removeprefix("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._area = ""
        elif tag == "select" and self._list:
            chosen = [value for value, is_chosen in self._options if is_chosen] or [self._options[0][0]]
            self.values.setdefault(self._list, []).append(chosen[-1])
            self._list = ""
        elif tag == "form":
            self._is_inside = False


def _is_sent(given: dict[str, str | None]) -> bool:
    kind = given.get("type")
    return kind != "file" and (kind not in ("checkbox", "radio") or "checked" in given)


def fields(desk: Desk, action: str) -> dict[str, list[str]]:
    return Fields(desk.page.text, action).values


def send(desk: Desk, action: str, follow: bool = True, **changes: Any) -> TestResponse:
    """Sends the form as it stands on the page, with changes; a list for fields that come in numbers."""
    values: dict[str, Any] = {**fields(desk, action), **changes}
    desk.page = desk.client.post(action, data=values, base_url=desk.base_url)
    return desk._followed() if follow else desk.page


NEW = "/admin/journeys/_new"
EDIT = "/admin/journeys/balance/edit"


def make(desk: Desk, slug: str = "loans", **changes: Any) -> TestResponse:
    desk.get(NEW)
    given = {
        "name": "Ask about a loan", "slug": slug, "by": ["customer_id", "phone"], "step1": ["sms_code"],
        "channel": ["sms"], "server": "own", "server_own": desk.world.receiver.origin,
    }  # fmt: skip
    return send(desk, NEW, **{**given, **changes})


def edit(desk: Desk, **changes: Any) -> TestResponse:
    desk.get(EDIT)
    return send(desk, EDIT, **changes)


def live(world: World, slug: str, **wanted: Any) -> bool:
    """Whether requests meet a journey as it should be, within the time that the page promises."""

    def look() -> bool:
        found = world.services.journeys.current().journeys.get(slug)
        return found is not None and all(getattr(found.config, key) == value for key, value in wanted.items())

    return wait_for(look, seconds=LIVE_SECONDS)


def code(world: World) -> str:
    """The code that was sent to the customer's phone; owners get messages too."""
    wait_for(lambda: [message for message in world.receiver.messages if message["to"] == PHONE])
    return world.receiver.code_for(PHONE)


def test_a_journey_made_by_form_verifies_somebody(world: World) -> None:
    owner = signed_in(world)
    make(owner)
    assert owner.path == "/admin/journeys/loans", owner.page.text
    assert "Saved as version 1" in owner.page.text
    assert live(world, "loans", name="Ask about a loan")
    browser = world.browser()
    browser.begin("made-by-form", "loans")
    browser.prove(code(world))
    told = wait_for(lambda: world.receiver.callbacks)[0].body
    assert told["result"] == "verified_loans"
    assert told["data"] == {
        "outcome": "verified", "journey": "loans", "customer_id": "C-1001", "method": "sms_code",
        "verified_at": told["data"]["verified_at"],
    }  # fmt: skip


def test_the_form_of_a_stored_journey_changes_nothing_by_itself(owner: Desk) -> None:
    for slug in ("balance", "either", "transfer", "code-back", "waiting"):
        owner.get(f"/admin/journeys/{slug}/edit")
        send(owner, f"/admin/journeys/{slug}/edit", act="save")
        assert "Nothing was different" in owner.page.text, slug


def test_ways_to_prove_and_their_order_outlive_the_form(owner: Desk) -> None:
    """A method that the form's words do not know, or another order, is not lost by saving something else."""
    make(owner, step1=["totp", "support_code", "sms_code"], by=["phone", "customer_id"])
    owner.get("/admin/journeys/loans/edit")
    send(owner, "/admin/journeys/loans/edit", act="save", name="Other")
    config = owner.world.services.journey_history.journey("loans").config
    assert config.name == "Other"
    assert config.identifiers == ("phone", "customer_id")
    assert config.verify_steps[0].methods == ("totp", "support_code", "sms_code")


def test_bad_input_names_the_field_and_keeps_what_was_typed(owner: Desk) -> None:
    given = {"limits.code_digits": "4", "colour": "#FFEE0", "name": "Balance & more", "server": "own",
             "server_own": "ftp://nowhere", "chat_seconds": "soon", "channel": ["mail"]}  # fmt: skip
    page = edit(owner, **given)
    assert page.status_code == 422
    for words in (
        "Digits of a code: must be at least 6", "Colour: must be # and six digits", "Where the answer goes: must be production",
        "Chat clock: write it with its unit, such as 5 minutes or 90 seconds",
    ):  # fmt: skip
        assert words in page.text
    kept = fields(owner, EDIT)
    assert kept["channel"] == ["mail", ""], "and room for one more"
    assert {key: kept[key][0] for key in given} == {**given, "channel": "mail"}
    assert 'aria-describedby="limits-code_digits-help limits-code_digits-fault"' in page.text


def test_an_empty_form_of_a_journey_names_each_field_once_in_its_words(owner: Desk) -> None:
    page = make(owner, "", name="", step1=[])
    assert page.status_code == 422
    assert "Name customers see: must not be empty" in page.text
    assert "Name in the link:" not in page.text, "it is made from the name"
    assert "Steps: choose how customers prove who they are" in page.text
    assert "verify step" not in page.text


def test_a_method_without_a_channel_is_refused_at_its_step(owner: Desk) -> None:
    page = edit(owner, step1=["email_code"], channel=["sms"])
    assert "Step 2, how they prove it: has email code, but none of the journey" in page.text


def test_a_step_can_be_added_without_script(owner: Desk) -> None:
    page = edit(owner, act="add_step", name="Typed and not saved")
    assert "Then, another proof" in page.text
    send(owner, EDIT, act="save", step2=["totp"], second_factor=owner.second_factor())
    assert [step.methods for step in owner.world.services.journey_history.journey("balance").config.verify_steps] == [
        ("sms_code",), ("totp",)
    ]  # fmt: skip
    assert owner.world.services.journey_history.journey("balance").config.name == "Typed and not saved"


def test_the_preview_shows_the_exact_request_and_saves_nothing(owner: Desk) -> None:
    page = edit(owner, act="preview", data_key=["who", ""], data_text=["{customer_id} ({name})", ""])
    assert '"who":"C-1001 (Thandi Nkosi)"' in page.text.replace("&#34;", '"')
    assert f"POST {owner.world.receiver.origin}/callback" in page.text
    assert fields(owner, EDIT)["data_key"][0] == "who"
    assert owner.world.services.journey_history.journey("balance").edition.number == 1


def test_the_script_s_preview_is_the_same_part(owner: Desk) -> None:
    owner.get(EDIT)
    page = send(owner, EDIT, act="preview").text
    part = owner.client.post("/admin/journeys/_preview", data=fields(owner, EDIT), base_url=owner.base_url).text
    assert part.strip().startswith('<section class="card" id="preview"')
    assert part.strip() in page


def test_a_preview_of_a_broken_form_says_why(owner: Desk) -> None:
    page = edit(owner, act="preview", data_key=["who"], data_text=["{nobody}"])
    assert page.status_code == 200
    assert "Variables: who: unknown placeholder {nobody}" in page.text


def test_r19_a_callback_target_needs_the_second_factor_and_is_mailed(world: World) -> None:
    owner = signed_in(world)
    world.clock.advance(700)  # signing in showed it, and that counts for ten minutes
    page = edit(owner, server="uat")
    assert page.status_code == 422
    assert "authenticator app" in page.text
    assert fields(owner, EDIT)["server"] == ["uat"]
    send(owner, EDIT, second_factor="000000")
    assert owner.page.status_code == 422
    send(owner, EDIT, second_factor=owner.second_factor())
    assert live(world, "balance")
    assert world.services.journey_history.journey("balance").config.callback.server == "uat"
    mails = [message["text"] for message in wait_for(lambda: _mails(world, "Where the answer goes"))]
    assert "Chat Flow, UAT" in mails[0]


def _mails(world: World, words: str) -> list[Any]:
    return [message for message in world.receiver.messages if words in message["text"]]


def test_a_colour_alone_needs_no_second_factor(owner: Desk) -> None:
    owner.world.clock.advance(700)
    edit(owner, colour="#0b4a8f")
    assert owner.path == "/admin/journeys/balance"


@pytest.mark.parametrize("role", ["support", "auditor"])
def test_r40_support_and_auditor_read_and_cannot_change(small_world: World, role: str) -> None:
    desk = signed_in(small_world, role)
    assert desk.get("/admin/journeys/balance").status_code == 200
    assert "Delete" not in desk.page.text
    assert desk.get("/admin/journeys/balance/versions").status_code == 200
    assert desk.get(EDIT).status_code == 403


def test_two_admins_edit_the_same_journey(owner: Desk) -> None:
    """The second sees both differences, and saves what they changed alone."""
    owner.get(EDIT)
    stale = {**fields(owner, EDIT), "name": ["The second's name"]}
    edit(owner, chat_seconds="15 minutes", note="flows were slow")
    owner.page = owner.client.post(EDIT, data=stale, base_url=owner.base_url)
    assert owner.page.status_code == 409
    text = owner.page.text
    assert "Ada Owner saved version 2" in text
    assert "flows were slow" in text
    assert "What both of you changed" not in text
    assert "Save both changes" in text
    told = text[text.index("What you changed") : text.index("Open it again")]
    assert told.count('<th scope="row"') == 1  # the name alone: what the form leaves to defaults is no difference
    assert "<span>10 minutes</span>" in text
    assert "<span>15 minutes</span>" in text
    assert fields(owner, EDIT)["name"] == ["The second&#39;s name".replace("&#39;", "'")]
    assert owner.world.services.journey_history.journey("balance").config.chat_seconds == 900
    send(owner, EDIT)
    stored = owner.world.services.journey_history.journey("balance")
    assert (stored.edition.number, stored.config.name, stored.config.chat_seconds) == (3, "The second's name", 900)


def test_of_what_two_admins_changed_in_a_journey_each_field_is_kept(owner: Desk) -> None:
    """Variables, results, limits and steps too; for what both changed both values are shown, and the form has mine."""
    owner.get(EDIT)
    mine = {**fields(owner, EDIT), "name": ["Mine"], "limits.sends": ["2"], "results.expired": ["too_late"]}
    mine |= {"data_key": [*mine["data_key"][:-1], "mine"], "data_text": [*mine["data_text"][:-1], "{locale}"]}
    theirs = {
        "name": "Theirs",
        "chat_seconds": "15 min",
        "limits.code_seconds": "4 minutes",
        "results.cancelled": "stopped",
    }
    edit(owner, **theirs, data_key="theirs", data_text="{name}")
    owner.page = owner.client.post(EDIT, data=mine, base_url=owner.base_url)
    text = owner.page.text
    both = text[text.index("What both of you changed") : text.index("What they changed")]
    assert both.count('<th scope="row"') == 1
    assert ("Theirs" in both, "Mine" in both, "Save with my values" in text) == (True, True, True)
    send(owner, EDIT)
    stored = owner.world.services.journey_history.journey("balance").config
    assert (stored.name, stored.chat_seconds) == ("Mine", 900)
    assert (stored.limits.sends, stored.limits.code_seconds) == (2, 240)
    assert (stored.results["expired"], stored.results["cancelled"]) == ("too_late", "stopped")
    assert (stored.data["theirs"], stored.data["mine"]) == ("{name}", "{locale}")


def test_what_is_too_long_is_named_and_never_cut(owner: Desk) -> None:
    """The browser gets no length that it would cut a pasted text to; a note was cut when it was stored."""
    for path in ("/admin/customers/new", "/admin/customers", NEW, EDIT):
        owner.get(path)
        assert "maxlength" not in owner.page.text.replace('type="search" maxlength="2000"', ""), path
    edit(owner, name="Longer", note="n" * 201)
    assert owner.page.status_code == 422
    assert "At most 200 characters." in owner.page.text
    typed = {"customer_id": "1" * 129, "name": "x" * 201, "phone": "1" * 41, "email": "e" * 255, "locale": "l" * 17}
    owner.get("/admin/customers/new")
    page = owner.post("/admin/customers/new", **typed)
    assert page.status_code == 422
    assert page.text.count('aria-invalid="true"') == len(typed)


def test_a_version_is_brought_back(owner: Desk) -> None:
    edit(owner, chat_seconds="15 minutes", note="longer")
    owner.get("/admin/journeys/balance/versions")
    assert "longer" in owner.page.text
    owner.get("/admin/journeys/balance/versions/1")
    assert "<span>15 minutes</span>" in owner.page.text
    send(owner, "/admin/journeys/balance/versions/1")
    assert owner.world.services.journey_history.journey("balance").config.chat_seconds == 600
    owner.get("/admin/journeys/balance/versions")
    assert "back to version 1" in owner.page.text


def test_a_copy_is_off_until_it_is_switched_on(owner: Desk) -> None:
    owner.get("/admin/journeys/balance/copy")
    send(owner, "/admin/journeys/balance/copy", slug="balance", name="Taken")
    assert owner.page.status_code == 422
    assert "is already the name of another journey" in owner.page.text
    send(owner, "/admin/journeys/balance/copy", slug="balance-2", name="Second")
    assert owner.path == "/admin/journeys/balance-2"
    assert not owner.world.services.journey_history.journey("balance-2").config.active
    send(owner, "/admin/journeys/balance-2/active")
    assert live(owner.world, "balance-2", active=True)


def test_r35_switching_on_what_would_answer_for_another_is_refused(owner: Desk) -> None:
    make(owner, active="", **{"results.verified": "verified"})
    assert owner.path == "/admin/journeys/loans", owner.page.text
    send(owner, "/admin/journeys/loans/active")
    assert owner.page.status_code == 422
    assert "both answer" in owner.page.text


def test_a_journey_that_is_off_is_closed_and_answers_unavailable(world: World) -> None:
    owner = signed_in(world)
    owner.get("/admin/journeys/balance")
    send(owner, "/admin/journeys/balance/active")
    assert live(world, "balance", active=False)
    browser = world.browser()
    browser.open("closed-now")
    assert "We can't verify you right now" in browser.page.text
    assert 'name="identifier"' not in browser.page.text
    browser.post("/")
    assert browser.path == "/done"
    assert wait_for(lambda: world.receiver.callbacks)[0].body["data"]["outcome"] == "unavailable"


def test_the_threat_is_named_where_there_is_no_defence(owner: Desk) -> None:
    assert "the attacker's chat is verified as the customer" in owner.get("/admin/journeys/balance").text
    assert "verified as the customer" not in owner.get("/admin/journeys/code-back").text


def test_a_chat_code_brings_its_own_result_and_variable(owner: Desk) -> None:
    edit(owner, relay_defence="chat_code")
    config = owner.world.services.journey_history.journey("balance").config
    assert config.results["verified"] == "check_code"
    assert config.data["chat_code"] == "{chat_code}"


def test_r35_the_weaker_of_two_that_share_a_result_is_named(owner: Desk) -> None:
    world, shared = owner.world, {"shares_result": "1", "results.verified": "ok"}
    make(owner, slug="strong", name="Strong", step1=["totp"], step2=["sms_code"], **shared)
    make(owner, slug="weak", name="Weak", step1=["email_code"], channel=["sms", "mail"], **shared)
    assert live(world, "weak", shares_result=True)
    assert "which asks for less" in owner.get("/admin/journeys/strong").text
    assert "which asks for less" not in owner.get("/admin/journeys/weak").text
    assert "Your chat also accepts “Weak”" in world.browser().open("shared", "strong").text
    assert "as well" not in world.browser().open("shared", "weak").text


# --- While verifications are under way


def begun(world: World, reference: str) -> Any:
    browser = world.browser()
    browser.begin(reference)
    return browser


def test_a_deleted_journey_ends_what_was_begun_and_closes_its_links(world: World) -> None:
    owner, browser = signed_in(world), begun(world, "under-way")
    owner.get("/admin/journeys/balance/delete")
    assert "1 verification is under way" in owner.page.text
    send(owner, "/admin/journeys/balance/delete")
    assert owner.path == "/admin/journeys"
    wait_for(lambda: "balance" not in world.services.journeys.current().journeys, seconds=LIVE_SECONDS)
    browser.prove(code(world))
    assert wait_for(lambda: world.receiver.callbacks)[0].body["result"] == "verified"
    late = world.browser()
    late.open("sent-before")
    assert "We can't verify you right now" in late.page.text
    late.post("/")
    told = wait_for(lambda: [sent for sent in world.receiver.callbacks if sent.header == "sent-before"])[0]
    assert told.body["data"]["outcome"] == "unavailable"
    assert owner.get("/admin/journeys/balance").status_code == 404
    assert [event.kind for event in world.rows(AuditEvent)].count("journey_deleted") == 1


def test_a_closed_journey_lets_the_browser_under_way_go_on(world: World) -> None:
    """Its reopened link leads back to the code; in another browser the chat is told that it cannot be."""
    owner, browser = signed_in(world), begun(world, "reopened")
    owner.get("/admin/journeys/balance")
    send(owner, "/admin/journeys/balance/active")
    assert live(world, "balance", active=False)
    browser.open("reopened")
    browser.post("/")
    assert browser.path == "/verify"
    other = world.browser("203.0.113.8")
    other.open("reopened")
    other.post("/")
    assert other.path == "/done"
    assert [row.outcome for row in world.rows(Verification)] == ["unavailable"]
    assert wait_for(lambda: world.receiver.callbacks)[0].body["data"]["outcome"] == "unavailable"


def test_a_changed_callback_target_holds_for_what_begins_after(world: World) -> None:
    owner, browser = signed_in(world), begun(world, "to-the-old-one")
    edit(owner, server="uat")
    assert live(world, "balance")
    wait_for(
        lambda: world.services.journeys.current().journeys["balance"].config.callback.server == "uat",
        seconds=LIVE_SECONDS,
    )
    browser.prove(code(world))
    assert wait_for(lambda: world.receiver.callbacks)[0].header == "to-the-old-one"


# --- Looks


def test_words_colour_and_logo_are_on_the_customer_s_pages(owner: Desk) -> None:
    world = owner.world
    edit(owner, colour="#7a1f5c", **{"texts.landing": "Please have <your> card ready.", "texts.done": "See you soon."})
    token = fields(owner, "/admin/journeys/balance/logo")
    data = {**token, "logo": (BytesIO(PNG), "logo.png", "text/html")}
    owner.page = owner.client.post("/admin/journeys/balance/logo", data=data, base_url=owner.base_url)
    assert "The logo was changed" in owner._followed().text
    digest = world.services.journey_history.journey("balance").config.logo
    assert live(world, "balance", logo=digest)
    browser = world.browser()
    for page in (browser.open("looks").text, browser.name("C-1001").text):
        assert '<link rel="stylesheet" href="/look/7a1f5c-12.' in page
        assert f'src="/logo/{digest}"' in page
    assert "Please have &lt;your&gt; card ready." in world.browser().open("looks-again").text
    done = browser.prove(code(world)).text
    assert "See you soon." in done
    assert "/look/7a1f5c-12." in done


def test_looks_are_served_for_ever_and_hold_no_script(owner: Desk) -> None:
    data = {**fields_of_logo(owner), "logo": (BytesIO(PNG), "logo.svg", "image/svg+xml")}
    owner.client.post("/admin/journeys/balance/logo", data=data, base_url=owner.base_url)
    digest = owner.world.services.journey_history.journey("balance").config.logo
    for path, kind in ((f"/logo/{digest}", "image/png"),):
        answer = owner.client.get(path, base_url=owner.base_url)
        assert answer.status_code == 200
        assert answer.mimetype == kind
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "immutable" in answer.headers["Cache-Control"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for path in (f"/logo/{'0' * 64}", "/look/red-12.0123456789ab.css", "/look/0b4f8a-25.0123456789ab.css"):
        assert owner.client.get(path, base_url=owner.base_url).status_code == 404


def test_the_portal_s_look_is_every_journey_s_that_has_none_of_its_own(owner: Desk) -> None:
    world = owner.world
    owner.get("/admin/settings")
    before = world.services.configuration.stored().portal
    selected: dict[str, Any] = {"time_zone": before.time_zone, "notices_by": before.notices_by}
    send(owner, "/admin/settings", colour="#ffd400", radius="4", hide_name="1", **selected)
    assert "Saved." in owner.page.text
    for which, image in (("logo", PNG), ("logo_dark", picture("PNG", drawn(100, 50)))):
        owner.get("/admin/settings")
        owner.post("/admin/settings/logo", which=which, logo=(BytesIO(image), "logo.png"))
        assert "The logo was changed" in owner.page.text
    whole = world.services.configuration.stored().portal
    edit(owner, colour="#7a1f5c", radius="0", hide_name="0")
    assert world.services.configuration.stored().portal == whole
    look = world.services.journeys.renew().portal_look
    assert (look.colour, look.hides_name) == ("#ffd400", True)
    assert (look.logo, look.logo_dark, look.icon) == (f"/logo/{whole.logo}", f"/logo/{whole.logo_dark}", look.logo)
    assert look.stylesheet.startswith("/look/ffd400-4.")
    own = world.services.journeys.current().look(world.services.journeys.current().journey("balance").config)
    assert (own.colour, own.logo, own.logo_dark, own.hides_name) == ("#7a1f5c", look.logo, look.logo_dark, False)
    assert own.stylesheet.startswith("/look/7a1f5c-0.")
    assert f'src="{look.logo}"' in world.browser().get("/j/none-such").text, "an error page has the portal's look"
    owner.get("/admin/settings")
    owner.post("/admin/settings/logo", which="logo_dark", act="remove")
    owner.get("/admin/settings")
    assert send(owner, "/admin/settings", name="Another bank", **selected).status_code == 200
    found = world.services.configuration.stored().portal
    assert (found.logo, found.logo_dark, found.colour) == (whole.logo, "", "#ffd400"), "the form keeps the logos"


def test_a_form_shows_a_sample_of_the_look_that_was_typed(owner: Desk) -> None:
    page = edit(owner, act="preview", colour="#ffd400", radius="3").text
    assert '<img class="own" src="/look/ffd400-3-sample.' in page
    assert "Contrast of the text on the band: 14.6 to 1." in page
    url = re.search(r'src="(/look/ffd400-3-sample[^"]+)"', page)
    assert url
    drawing = owner.client.get(url[1], base_url=owner.base_url)
    assert drawing.mimetype == "image/svg+xml"
    assert 'fill="#ffd400"' in drawing.text
    assert "sample" not in edit(owner, act="preview", colour="yellow").text


@pytest.mark.parametrize(
    ("picture_file", "words"),
    [
        (b"\x89PNG\r\n\x1a\nnothing", "damaged"),
        (PNG + b"0" * 300_000, "at most 256 kB"),
        (b"", "choose a picture first"),
    ],
)
def test_a_wrong_picture_is_refused_on_both_pages(owner: Desk, picture_file: bytes, words: str) -> None:
    for page in ("/admin/settings", "/admin/journeys/balance"):
        owner.get(page)
        owner.post(f"{page}/logo", which="logo_dark", logo=(BytesIO(picture_file), "logo.png"))
        assert owner.page.status_code == 422, page
        assert words in owner.page.text, page


def fields_of_logo(owner: Desk) -> dict[str, Any]:
    owner.get("/admin/journeys/balance")
    return fields(owner, "/admin/journeys/balance/logo")


def test_a_logo_that_is_no_picture_is_refused(owner: Desk) -> None:
    data = {**fields_of_logo(owner), "logo": (BytesIO(b"<svg onload='alert(1)'/>"), "logo.png", "image/png")}
    page = owner.client.post("/admin/journeys/balance/logo", data=data, base_url=owner.base_url)
    assert page.status_code == 422
    assert "must be a PNG, JPEG or WebP picture" in page.text


def heads(page: str) -> dict[str, tuple[str, str]]:
    """The heads of the list's columns that sort it: where a press leads, and the present order of that column."""
    found = re.findall(r'<th scope="col"([^>]*)><a href="([^"]*)">\s*(\w+)</a>', page)
    orders = {name: re.search(r'aria-sort="(\w+)"', attributes) for attributes, _link, name in found}
    return {name: (link.replace("&amp;", "&"), order[1] if (order := orders[name]) else "") for _a, link, name in found}


def listed(page: str) -> list[str]:
    return re.findall(r'<th scope="row".*?href="/admin/journeys/([^"]+)"', page, re.DOTALL)


def test_the_list_is_sorted_by_a_press_on_the_head_of_a_column(owner: Desk) -> None:
    world = owner.world
    hour = world.clock.now.replace(minute=0, second=0, microsecond=0)
    rows = [
        {"hour": hour, "name": name, "labels": json.dumps(labels), "value": value}
        for slug, verified, expired in (("app", 30, 10), ("balance", 99, 1), ("password", 3, 0))
        for name, labels, value in (
            ("verifications_began", [slug], verified + expired),
            ("verification_stages", [slug, "verified", "proved", ""], verified),
            ("verification_stages", [slug, "expired", "named", ""], expired),
        )
    ]
    with world.database.write() as connection:
        connection.execute(insert(HourlyCount), rows)
    world.services.overview._cache.clear()
    page = owner.get("/admin/journeys").text
    assert listed(page)[:3] == ["balance", "app", "password"], "the most used first"
    assert [name for name, (_link, order) in heads(page).items() if order] == ["Begun"]
    assert heads(page)["Begun"][1] == "descending"
    turned = owner.get(heads(page)["Begun"][0]).text
    assert heads(turned)["Begun"][1] == "ascending"
    assert listed(turned)[-3:] == ["password", "app", "balance"]
    by_share = owner.get(heads(page)["Verified"][0]).text
    assert listed(by_share)[:2] == ["balance", "app"], "three are too few for a share, so they come after all shares"
    assert listed(owner.get(heads(by_share)["Verified"][0]).text)[:2] == ["app", "balance"], "also turned round"
    names = {slug: one.config.name for slug, one in world.services.journeys.current().journeys.items()}
    by_name = owner.get(heads(page)["Journey"][0]).text
    assert listed(by_name) == sorted(names, key=lambda slug: names[slug].casefold())
    assert listed(owner.get(heads(by_name)["Journey"][0]).text) == listed(by_name)[::-1]
    assert owner.get("/admin/journeys?sort=%01-none").status_code == 200


def test_states_are_sorted_and_a_filter_keeps_the_order(owner: Desk) -> None:
    owner.get("/admin/journeys/balance")
    send(owner, "/admin/journeys/balance/active")
    page = owner.get("/admin/journeys").text
    by_state = owner.get(heads(page)["State"][0]).text
    assert heads(by_state)["State"][1] == "ascending"
    assert listed(by_state)[0] == "balance", "what is off stands before what is open"
    assert 'href="/admin/journeys?sort=state&amp;state=off"' in by_state
    filtered = owner.get("/admin/journeys?sort=state&state=on").text
    assert heads(filtered)["State"] == ("/admin/journeys?sort=-state&state=on", "ascending")
    assert "balance" not in listed(filtered)


@pytest.mark.parametrize("tab", ["texts", "setup", "reach", "answers", "versions", "drive"])
def test_the_heading_of_a_tab_is_the_journey_with_its_state(owner: Desk, tab: str) -> None:
    page = owner.get(f"/admin/journeys/balance/{tab}").text
    name = owner.world.services.journeys.current().name_of("balance")
    assert f"<h1>{name}</h1>" in page
    assert "open</span>" in page.partition("<h1>")[2][:900]
    assert f'aria-current="page">{name}</li>' in page, "the breadcrumb doesn't repeat the tab"
    title = re.search("<title>(.*?) · ", page)
    assert title
    assert title[1] != name, "the browser's tab says which page it is"
