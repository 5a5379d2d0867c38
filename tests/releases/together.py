"""The real 0.1.0 next to this code, with journeys and cookies that 0.1.0 does not know: ``make test-deploy``.

Each of them serves one database, as while an upgrade is under way or after a rollback (``db stamp``). Journeys with terms,
questions or a hand-over are closed on 0.1.0, whatever step a customer has reached here; all others go on; and nothing is
verified that was not proved. Then one browser goes from one to the other with its visits. Last, customer IDs become
case-sensitive while both serve: 0.1.0 stops serving, and where the setting is taken away it finds no customer.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyotp
import requests
from sqlalchemy import select, update

from auth_portal.store.db import Database
from auth_portal.store.models import Portal
from tests.postgres import MASTER_KEY, fresh_postgres
from tests.receiver import GIVE_UP_SECONDS, Receiver, wait_for
from tests.releases.rolling import Code, Node, the_release_before, this_code
from tests.services.steps import HANDOVER, IDENTIFY, QUESTIONS, TERMS, stepped
from tests.serving import Visitor, free_port
from tests.world import PORTAL, TOTP_SECRET, journey

TOTP_STEP = '{ kind = "verify", any_of = ["totp"] }'
HOST = "127.0.0.1:8000"  # by which customers know both
SHORT = 60  # seconds of a chat that ends while only 0.1.0 runs
CUSTOMERS = 12  # one for each proof: an app's code is good once
TWO = (f"aBcDe,{TOTP_SECRET}", f"abcde,{TOTP_SECRET}")
NEW_KINDS = ("signed", "asked", "agent", "short")
JOURNEYS = (
    journey("app", "totp", default=True, channels=())
    + stepped("signed", TERMS, IDENTIFY, TOTP_STEP, channels="")
    + stepped("asked", IDENTIFY, TOTP_STEP, QUESTIONS, channels="")
    + stepped("agent", HANDOVER, channels="")
    + stepped("short", TERMS, more=f"chat_seconds = {SHORT}", channels="")
)


class OnPort(Node):
    """One of the two, on a port."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        super().__init__(folder, environment)
        self.bind = f"127.0.0.1:{free_port()}"

    @property
    def url(self) -> str:
        """Its own address."""
        return f"http://{self.bind}"

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-2000:]
        try:
            return requests.get(f"{self.url}/readyz", headers={"Host": HOST}, timeout=GIVE_UP_SECONDS).ok
        except requests.ConnectionError:
            return False


class Customer(Visitor):
    """A browser that goes from one to the other; its cookies go with it."""

    def __init__(self, node: OnPort) -> None:
        super().__init__(node.url)
        self.session.headers["Host"] = HOST

    def on(self, node: OnPort, path: str = "/verify") -> requests.Response:
        """Open a page of the other one."""
        self.url = node.url
        return self.get(path)

    def open(self, slug: str, reference: str) -> requests.Response:
        """Open a link."""
        return self.get(f"/j/{slug}?reference={quote(reference, safe='')}")

    def start(self, slug: str, reference: str, identifier: str = "") -> requests.Response:
        """Open a link and press its main button."""
        self.open(slug, reference)
        return self.post(f"/j/{slug}", identifier=identifier)

    @property
    def path(self) -> str:
        """The page that it is on."""
        return self.page.url.removeprefix(self.url).partition("?")[0]

    @property
    def visits(self) -> int:
        """How many visits its cookie holds."""
        return len(self.session.cookies["verification"].split("."))

    def tries(self, path: str = "/verify", **fields: str) -> None:
        """Send a form that this page may not have."""
        token = self.fields_of_any_form().get("csrf_token", "")
        self.page = self.session.post(self.url + path, data={"csrf_token": token, **fields}, timeout=GIVE_UP_SECONDS)

    def fields_of_any_form(self) -> dict[str, str]:
        """The hidden fields of the first form here, if there is one."""
        for path in ("/verify", "/verify/resend", "/verify/method", "/verify/cancel", "/verify/change", "/j/app"):
            if f'action="{path}"' in self.page.text:
                return self.fields(path)
        return {}


def totp() -> str:
    """The code that every customer's app shows."""
    return pyotp.TOTP(TOTP_SECRET).now()


@dataclass
class Story:
    """Both on one database, the chat that they answer, and what it has heard."""

    environment: dict[str, str]
    receiver: Receiver
    old: OnPort
    new: OnPort
    before: Code
    now: Code

    def heard(self, reference: str) -> dict[str, Any]:
        """The one result of a reference, once it is there."""
        wait_for(lambda: any(call.header == reference for call in self.receiver.callbacks))
        (found,) = [call.body for call in self.receiver.callbacks if call.header == reference]
        return {"result": found["result"], "outcome": found["data"]["outcome"]}

    def other_journeys_go_on(self) -> None:
        """Verify on 0.1.0."""
        customer = Customer(self.old)
        customer.start("app", "old-app", identifier="C-0")
        customer.post("/verify", code=totp())
        assert customer.path == "/done"
        assert self.heard("old-app") == {"result": "verified", "outcome": "verified"}

    def new_kinds_are_closed(self) -> None:
        """Open each of them on 0.1.0, which can only tell the chat so."""
        for slug in NEW_KINDS:
            customer = Customer(self.old)
            page = customer.open(slug, f"closed-{slug}")
            assert page.status_code == 200
            assert 'name="identifier"' not in page.text
            customer.post(f"/j/{slug}", identifier="C-1")
            assert customer.path == "/done"
            assert self.heard(f"closed-{slug}") == {"result": "failed", "outcome": "unavailable"}

    def what_has_begun_here_passes_nothing_there(self) -> None:
        """Bring visits of this code to 0.1.0 before, between and after their steps, and back."""
        signed = Customer(self.new)
        signed.start("signed", "signed")
        signed.post("/verify", accept="read")
        signed.post("/verify", identifier="C-2")
        asked = Customer(self.new)
        asked.start("asked", "asked", identifier="C-3")
        asked.post("/verify", code=totp())
        agent = Customer(self.new)
        agent.start("agent", "agent")
        for customer in (signed, asked, agent):
            prompt = customer.fields_of_any_form().get("prompt", "")
            for fields in ({"code": totp()}, {"code": "123456"}, {"identifier": "C-4"}, {"accept": "read"}):
                customer.on(self.old)
                assert customer.page.status_code == 500, "it says that nothing is lost, and to try again in a minute"
                customer.on(self.old, "/j/app?reference=other")  # a page with a token for its forms
                customer.tries(prompt=prompt, **fields)
                assert customer.page.status_code == 500
                customer.tries("/verify/method", prompt=prompt, method="sms_code")
        assert not [call.header for call in self.receiver.callbacks if call.header in ("signed", "asked", "agent")]
        signed.on(self.new)
        signed.post("/verify", code=totp())
        assert self.heard("signed") == {"result": "verified_signed", "outcome": "verified"}
        asked.on(self.new)
        for answer in ("balance", "9", ""):
            asked.post("/verify", answer=answer)
        assert self.heard("asked") == {"result": "verified_asked", "outcome": "verified"}
        agent.on(self.new)
        agent.post("/verify", choice="stay")
        assert self.heard("agent") == {"result": "completed", "outcome": "completed"}

    def a_link_that_is_opened_again_there_ends(self) -> None:
        """With one result, which is no success; in the browser that has begun it, too."""
        customer, other = Customer(self.new), Customer(self.old)
        customer.start("asked", "again", identifier="C-9")
        other.start("asked", "again")
        assert other.path == "/done"
        assert self.heard("again") == {"result": "failed", "outcome": "unavailable"}
        customer.on(self.new)
        assert customer.path == "/done"

    def a_browser_with_two_visits_goes_there_and_back(self) -> None:
        """0.1.0 shows the newest; a form for the other counts for nothing; what a new visit leaves is read here."""
        customer = Customer(self.new)
        customer.start("app", "first", identifier="C-5")
        customer.start("app", "second", identifier="C-6")
        assert customer.visits == 2
        first = self.prompt_of(customer, "first")
        customer.on(self.old)
        assert "C-6" in customer.page.text
        customer.tries(prompt=first, code=totp())
        assert "C-6" in customer.page.text
        assert customer.visits == 2
        customer.post("/verify", code=totp())
        assert customer.path == "/done"
        assert self.heard("second")["outcome"] == "verified"
        customer.start("app", "third", identifier="C-9")
        assert customer.visits == 1
        customer.on(self.new)
        assert "C-9" in customer.page.text
        customer.post("/verify", code=totp())
        assert self.heard("third")["outcome"] == "verified"
        customer.start("app", "first", identifier="C-5")
        assert customer.visits == 2
        customer.on(self.old)
        customer.post("/verify", code=totp())
        assert self.heard("first")["outcome"] == "verified"

    def prompt_of(self, customer: Customer, reference: str) -> str:
        """The prompt of an older visit of a browser, as its tab still has it."""
        link = re.search(r'href="(/verify\?v=[^"]+)"', customer.open("app", reference).text)
        assert link is not None, "this browser has started it"
        customer.get(link[1])
        return customer.fields("/verify")["prompt"]

    def a_visit_of_0_1_0_is_read_here(self) -> None:
        """And the other way round, with one visit in the cookie."""
        for begun, proved, number in ((self.old, self.new, 7), (self.new, self.old, 8)):
            customer = Customer(begun)
            customer.start("app", f"one-{number}", identifier=f"C-{number}")
            customer.on(proved)
            customer.post("/verify", code=totp())
            assert customer.path == "/done"
            assert self.heard(f"one-{number}")["outcome"] == "verified"

    def its_commands_work(self) -> None:
        """And its export has the journeys as it knows them."""
        file = Path(self.environment["PORTAL_INSTANCE"]) / "exported-by-0.1.0.toml"
        self.before.command(self.environment, "config", "export", str(file))
        assert all(f'slug = "{slug}"' in file.read_text() for slug in NEW_KINDS)
        self.before.command(self.environment, "audit", "verify")

    def a_chat_that_ends_there_is_over(self) -> None:
        """Let a chat run out while only 0.1.0 runs, whose sweeper ends it."""
        Customer(self.new).start("short", "short")
        self.new.stop()
        assert self.heard("short") == {"result": "failed", "outcome": "expired"}
        self.new.start(self.now)
        assert self.heard("short")["outcome"] == "expired", "it is not sent again here"

    def ids_become_case_sensitive(self) -> None:
        """And two customers come whose IDs differ in case alone; 0.1.0 closes, this code tells them apart."""
        folder = Path(self.environment["PORTAL_INSTANCE"])
        (folder / "case.toml").write_text("[portal]\ncase_sensitive_ids = true\n")
        (folder / "two.csv").write_text("".join(f"{line}\n" for line in ("customer_id,totp_secret", *TWO)))
        self.now.command(self.environment, "config", "import", str(folder / "case.toml"))
        self.now.command(self.environment, "customers", "import", str(folder / "two.csv"))
        wait_for(lambda: Customer(self.old).open("app", "closed").status_code == 500)
        customer = Customer(self.new)
        customer.start("app", "upper", identifier="aBcDe")
        customer.post("/verify", code=totp())
        assert self.heard("upper") == {"result": "verified", "outcome": "verified"}
        self.verifies_no_one(self.new, "ABCDE")

    def no_key_fits_without_the_setting(self) -> None:
        """Take it away in the database, as no command does while there are customers; 0.1.0 serves again."""
        with closing(Database(self.environment["PORTAL_DATABASE_URL"])) as database, database.write() as connection:
            (settings,) = connection.execute(select(Portal.settings)).one()
            without = {name: value for name, value in settings.items() if name != "case_sensitive_ids"}
            connection.execute(update(Portal).values(settings=without, version=Portal.version + 1))
        wait_for(lambda: Customer(self.old).open("app", "open").status_code == 200)
        for node in (self.old, self.new):
            for identifier in ("abcde", "aBcDe", "C:abcde", "C:aBcDe"):
                self.verifies_no_one(node, identifier)

    def verifies_no_one(self, node: OnPort, identifier: str) -> None:
        """Name someone and enter the code of every customer's app."""
        customer = Customer(node)
        customer.start("app", f"no-one-{node.bind}-{identifier}", identifier=identifier)
        customer.post("/verify", code=totp())
        assert customer.path == "/verify"

    def nothing_else_was_verified(self) -> None:
        """Compare all that the chat heard with what was proved."""
        verified = {call.header for call in self.receiver.callbacks if call.body["result"].startswith("verified")}
        assert verified == {"old-app", "signed", "asked", "first", "second", "third", "one-7", "one-8"}
        assert len(self.receiver.callbacks) == len({call.header for call in self.receiver.callbacks})


@contextmanager
def both(folder: Path, url: str, customers: int = CUSTOMERS) -> Iterator[Story]:
    """0.1.0 installs a portal, this code upgrades its tables and configures it, and both serve it."""
    receiver, before, now, nodes = Receiver(), the_release_before(), this_code(), list[OnPort]()
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PORTAL_INSTANCE": str(folder),
        "PORTAL_DATABASE_URL": url,
        "PORTAL_SECRET_KEYS": MASTER_KEY,
        "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
        "PORTAL_PUBLIC_URL": f"http://{HOST}",
    }
    text = (PORTAL + JOURNEYS).replace("{{", "\0").replace("{receiver}", receiver.origin)
    (folder / "portal.toml").write_text(text.replace("\0", "{").replace("}}", "}"))
    people = [f"C-{number},{TOTP_SECRET}" for number in range(customers)]
    (folder / "customers.csv").write_text("\n".join(["customer_id,totp_secret", *people, ""]))
    before.command(environment, "init")
    now.command(environment, "db", "upgrade")
    now.command(environment, "config", "import", str(folder / "portal.toml"))
    now.command(environment, "customers", "import", str(folder / "customers.csv"))
    now.command(environment, "db", "stamp", "0002")
    try:
        for name, code in (("old", before), ("new", now)):
            nodes.append(OnPort(folder / name, environment))
            nodes[-1].start(code)
        old, new = nodes
        yield Story(environment, receiver, old, new, before, now)
    finally:
        for node in nodes:
            node.kill()
        receiver.close()


def play(folder: Path, url: str) -> None:
    """Play the whole story once. Raise AssertionError where something is not as it must be."""
    with both(folder, url) as story:
        for part in (
            story.other_journeys_go_on,
            story.new_kinds_are_closed,
            story.what_has_begun_here_passes_nothing_there,
            story.a_link_that_is_opened_again_there_ends,
            story.a_browser_with_two_visits_goes_there_and_back,
            story.a_visit_of_0_1_0_is_read_here,
            story.its_commands_work,
            story.a_chat_that_ends_there_is_over,
            story.nothing_else_was_verified,
        ):
            part()
            print(f"  {part.__name__.replace('_', ' ')}", flush=True)


def play_case(folder: Path, url: str) -> None:
    """Play what happens to customer IDs in a portal without customers."""
    with both(folder, url, customers=0) as story:
        for part in (story.ids_become_case_sensitive, story.no_key_fits_without_the_setting):
            part()
            print(f"  {part.__name__.replace('_', ' ')}", flush=True)
        verified = {call.header for call in story.receiver.callbacks if call.body["result"].startswith("verified")}
        assert verified == {"upper"}


def main() -> int:
    """Play it on SQLite and on PostgreSQL."""
    with tempfile.TemporaryDirectory() as made:
        print("0.1.0 next to this code, on SQLite", flush=True)
        play(Path(made), f"sqlite:///{made}/portal.db")
    with tempfile.TemporaryDirectory() as made:
        play_case(Path(made), f"sqlite:///{made}/portal.db")
    with fresh_postgres(is_installed=False) as url, tempfile.TemporaryDirectory() as made:
        print("0.1.0 next to this code, on PostgreSQL", flush=True)
        play(Path(made), url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
