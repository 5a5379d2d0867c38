"""The alert rules for Prometheus: each fires when its fault happens, and none while all is well.

And the dashboard: each of its queries finds something in a Prometheus server that scrapes a portal at work.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from auth_portal.store import db
from tests.programs import ROOT
from tests.prometheus import RULES, Watch, metrics, promtool, scraping
from tests.receiver import Receiver, wait_for
from tests.security.tools import STILL, code_for, deliver
from tests.serving import Server, Visitor, serving
from tests.test_servers import configured
from tests.world import CONFIG, PASSWORD, PHONE, STANDARD, World, open_world

NAMES = re.findall(r"- alert: (\w+)", RULES.read_text())


@pytest.fixture
def still(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> Iterator[World]:
    """A portal that sends when a test says so, and whose channel soon reaches its cap."""
    base = CONFIG.replace("daily_cap = 100000", "daily_cap = 8")
    with open_world(tmp_path, sqlite_url, receiver, config=STANDARD, base=base, settings=STILL) as world:
        yield world


@pytest.fixture
def watch(still: World, tmp_path: Path) -> Watch:
    return Watch(still, tmp_path)


def verify(world: World, number: int) -> None:
    """One customer's whole way, with the right app code."""
    browser = world.browser()
    browser.begin(f"r-{number}", "app")
    world.clock.advance(31)
    browser.prove(world.totp())
    assert browser.path == "/done"


def test_the_rules_and_the_metrics_are_well_formed(still: World) -> None:
    verify(still, 1)
    deliver(still)
    checked = promtool("check", "metrics", given=metrics(still))
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert promtool("check", "rules", RULES).returncode == 0


def test_each_rule_has_a_case_in_which_it_fires() -> None:
    cases = RULES.with_name("rules.test.yml")
    judged = promtool("test", "rules", cases)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert set(re.findall(r"alertname: (\w+)", cases.read_text())) == set(NAMES)


def test_each_rule_has_a_page_in_the_runbook() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    assert re.findall(r"^## (\w+)$", runbook, re.MULTILINE) == NAMES
    anchors = re.findall(r"runbook: docs/runbook\.md#(\w+)$", RULES.read_text(), re.MULTILINE)
    assert anchors == [name.lower() for name in NAMES]
    for part in runbook.split("\n## ")[1:]:
        for heading in ("**It means**", "**Customers notice**", "**Do this**"):
            assert heading in part, part[:80]


def test_nothing_fires_while_all_is_well(still: World, watch: Watch) -> None:
    watch.scrape(10)
    for number in range(6):
        verify(still, number)
        deliver(still)
        watch.scrape(2)
    watch.scrape(20)
    assert watch.firing() == set()


def test_what_is_not_sent_fires_until_a_dispatcher_sends_it(still: World, watch: Watch) -> None:
    watch.scrape(5)
    browser = still.browser()
    browser.begin("r-1")
    code = code_for(still, PHONE)
    browser.prove(code)
    still.browser().begin("r-2")
    watch.scrape(8, is_dispatching=False)
    # What has not left has not been sealed either, and now for more than a minute.
    assert watch.firing() == {"AuthPortalNoDispatcher", "AuthPortalResultsWaiting", "AuthPortalMessagesWaiting"}
    watch.scrape(3, is_dispatching=False)
    assert "AuthPortalAuditUnsealed" in watch.firing()
    deliver(still)
    watch.scrape(2)
    assert watch.firing() == set()


def test_results_that_are_refused_fire(still: World, watch: Watch) -> None:
    watch.scrape(5)
    still.receiver.answers = [404] * 5
    verify(still, 1)
    deliver(still)
    watch.scrape(2)
    assert watch.firing() == {"AuthPortalResultsLost"}
    for number in range(2, 6):
        verify(still, number)
        deliver(still)
    watch.scrape(6)
    assert watch.firing() == {"AuthPortalResultsLost", "AuthPortalResultsFailing"}
    watch.scrape(45)
    assert watch.firing() == set()


def test_a_channel_that_fails_fires_and_so_does_its_cap(still: World, watch: Watch) -> None:
    watch.scrape(2)
    still.receiver.sms_answers = [503] * 40
    still.browser().begin("r-1")
    for _ in range(4):
        deliver(still)
        watch.scrape(1)
    watch.scrape(4)
    assert watch.firing() == {"AuthPortalChannelFailing"}
    still.receiver.sms_answers = []
    for number, customer in enumerate(("C-1001", "C-1002", "C-1003", "C-1001")):
        still.browser().begin(f"s-{number}", identifier=customer)
        deliver(still)
    watch.scrape(1)
    assert watch.firing() == {"AuthPortalCapNear"}


def test_verifications_that_do_not_succeed_fire(still: World, watch: Watch) -> None:
    verify(still, 0)
    browser = still.browser()
    browser.begin("s", "app")
    browser.post("/verify/cancel", reason="no_code")
    deliver(still)
    watch.scrape(2)
    for number in range(22):
        browser = still.browser()
        browser.begin(f"t-{number}", "app")
        browser.post("/verify/cancel", reason="no_code")
        deliver(still)
    watch.scrape(22)
    assert watch.firing() == {"AuthPortalFewSucceed"}


def test_requests_that_fail_fire(still: World, watch: Watch) -> None:
    watch.scrape(3)
    browser, engine = still.browser(), still.transactions.database.engine

    def refuse(_connection: object) -> None:
        raise OperationalError("COMMIT", {}, Exception("disk is full"))

    for _ in range(9):
        event.listen(engine, "commit", refuse)
        browser.open("r-1")
        assert browser.post("/", follow=False, decline="not_me", identifier="").status_code == 503
        event.remove(engine, "commit", refuse)
        watch.scrape(1)
    assert watch.firing() == {"AuthPortalErrors"}


def test_a_node_that_stops_or_cannot_serve_fires(still: World, watch: Watch) -> None:
    watch.scrape(2)
    still.services.health.is_draining = True
    watch.scrape(6)
    assert watch.firing() == {"AuthPortalNotReady"}
    watch.scrape(6, is_up=False)
    assert watch.firing() == {"AuthPortalDown", "AuthPortalNotReady"}
    watch.scrape(40, is_up=False)
    assert watch.firing() == {"AuthPortalDown", "AuthPortalNoMetrics"}


def test_a_clock_that_is_wrong_fires(
    tmp_path: Path, postgres_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_world(tmp_path, postgres_url, receiver, settings=STILL) as world:
        watch = Watch(world, tmp_path)
        watch.scrape(2)
        assert watch.firing() == set()
        monkeypatch.setattr(db, "machine_clock", lambda: time.time() + 7)
        watch.scrape(5)
        assert "AuthPortalClockWrong" in watch.firing()


def test_an_audit_trail_that_loses_blocks_fires(still: World, watch: Watch) -> None:
    verify(still, 1)
    deliver(still)
    watch.scrape(2)
    verify(still, 2)
    deliver(still)
    watch.scrape(2)
    assert watch.firing() == set()
    with still.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM audit_blocks WHERE number > 1")
    watch.scrape(1, is_dispatching=False)
    assert "AuthPortalAuditFell" in watch.firing()


def test_a_row_that_someone_changed_fires(still: World, watch: Watch) -> None:
    watch.scrape(2)
    with still.database.write() as connection:
        connection.exec_driver_sql("UPDATE customers SET identity_mac = 'x' WHERE customer_id = 'C-1001'")
    still.browser().begin("r-1", "app")
    watch.scrape(2)
    assert watch.firing() == {"AuthPortalAttack"}


DASHBOARD = ROOT / "deploy" / "grafana" / "auth-portal.json"
TOKEN = "a-long-token-for-metrics"


def config_of_the_docs(folder: Path, server: Server) -> str:
    """The config that docs/operations.md shows, for this portal."""
    text = (ROOT / "docs" / "operations.md").read_text().partition("### Watch it with Prometheus")[2]
    config = text.partition("```yaml\n")[2].partition("```")[0]
    (folder / "token").write_text(TOKEN)
    for shown, here in {
        "/etc/prometheus/auth-portal/rules.yml": str(RULES),
        "/etc/prometheus/auth-portal/token": str(folder / "token"),
        "verify.acme.example": f"127.0.0.1:{server.port}",
        "scheme: https": "scheme: http",
        "scrape_interval: 15s, evaluation_interval: 15s": "scrape_interval: 1s, evaluation_interval: 1s",
    }.items():
        assert shown in config, shown
        config = config.replace(shown, here)
    return config


def be_busy(server: Server) -> None:
    """Something of all that the portal counts."""
    visitor, now = Visitor(server.url), time.monotonic_ns()
    visitor.begin(f"right-{now}", "password")
    visitor.post("/verify", password=PASSWORD)
    visitor.session.cookies.clear()
    visitor.begin(f"sms-{now}")
    visitor.post("/verify/resend")  # too early


def test_each_query_of_the_dashboard_finds_something(tmp_path: Path, sqlite_url: str, receiver: Receiver) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 30
    values = {"$job": "auth-portal", "$price": "0.05", "$__rate_interval": "30s"}
    assert {f"${variable['name']}" for variable in dashboard["templating"]["list"]} - {"$datasource"} <= set(values)
    server = configured(
        tmp_path, sqlite_url, receiver, server="auth-portal", workers=2, settings={"PORTAL_METRICS_TOKEN": TOKEN}
    )
    with serving(server), scraping(tmp_path, config_of_the_docs(tmp_path, server)) as prometheus:
        left = {re.sub(r"\$\w+", lambda name: values[name[0]], query) for query in queries}

        def have_found() -> bool:
            be_busy(server)
            left.difference_update([query for query in left if prometheus.query(query)])
            return not left

        try:
            wait_for(have_found)
        except AssertionError:
            assert not left, left
        (group,) = prometheus.ask("rules")["groups"]
        assert {rule["name"]: rule["health"] for rule in group["rules"]} == dict.fromkeys(NAMES, "ok")
        server.kill()
        wait_for(lambda: prometheus.query('ALERTS{alertname="AuthPortalDown"}'))
