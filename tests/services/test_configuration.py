"""The config file: what is refused and in which words, what an import changes, and the way out and back."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from auth_portal.clock import Clock
from auth_portal.crypto import Keyring
from auth_portal.errors import Misconfigured
from auth_portal.gateways.addresses import NetworkPolicy
from auth_portal.gateways.outbound import Outbound
from auth_portal.gateways.way_out import DeadEnd
from auth_portal.services.config.configuration import Configuration, ImportSummary
from auth_portal.services.config.file import BadConfig
from auth_portal.services.config.snapshot import Journeys, Snapshot
from auth_portal.store.db import Database, Transactions
from auth_portal.store.models import AuditEvent, ChannelRow, Journey, JourneyVersion, Portal

SMS = """
[[channels]]
name = "sms"
kind = "clickatell"
api_key = "the-real-key"
countries = ["ZA"]
daily_cap = 5000
"""
MAIL = """
[[channels]]
name = "mail"
kind = "smtp"
host = "mail.example.com"
port = 587
security = "starttls"
username = "acme"
password = "the-real-password"
sender = "Acme Bank <no-reply@acme.example>"
"""
HTTP = """
[[channels]]
name = "gateway"
kind = "http"
carries = "sms"
url = "https://gateway.example/send"
headers = { Authorization = "Bearer the-real-token", Accept = "text/plain" }
body = '{"to": "{to}", "text": "{text}"}'
countries = ["ZA"]
daily_cap = 10
"""


def journey(slug: str, *methods: str, extra: str = "", tail: str = "") -> str:
    """A journey with one verify step, extra keys, and tables behind it."""
    any_of = ", ".join(f'"{method}"' for method in methods or ("totp",))
    return f"""
[[journeys]]
slug = "{slug}"
name = "The {slug} journey"
{extra}
steps = [
  {{ kind = "identify", by = ["customer_id"] }},
  {{ kind = "verify", any_of = [{any_of}] }},
]
{tail}
"""


PORTAL = """
[portal]
name = "Acme Bank"
support_contact = "https://acme.example/help"
[portal.limits]
begins_per_minute = 7
"""
WHOLE = (
    PORTAL
    + SMS
    + MAIL
    + HTTP
    + journey(
        "balance", "sms_code", "totp", extra='default = true\nchannels = ["sms", "mail"]\nrelay_defence = "chat_code"'
    )
    + journey(
        "loans", "email_code", extra='channels = ["mail"]\nactive = false', tail="[journeys.limits]\ncode_digits = 8"
    )
)


SAME = '[journeys.results]\nverified = "ok"\n'


class Portals:
    """Configurations on one database."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self.database = database
        self.transactions = Transactions(database, keyring, clock)

    def open(self, *, has_sandbox: bool = False) -> Configuration:
        return Configuration(
            self.transactions,
            has_sandbox=has_sandbox,
            way_out=Outbound(NetworkPolicy()),
            notify_owners=lambda *_: None,
        )

    def load(self, text: str, *, prune: bool = False, has_sandbox: bool = False) -> ImportSummary:
        return self.open(has_sandbox=has_sandbox).import_toml(text, file_name="acme.toml", prune=prune)

    def faults(self, text: str, *, has_sandbox: bool = False) -> list[str]:
        before = self.tables()
        with pytest.raises(BadConfig) as refused:
            self.load(text, has_sandbox=has_sandbox)
        assert self.tables() == before  # nothing half-imported
        return list(refused.value.faults)

    def tables(self) -> list[Any]:
        with self.database.read() as connection:
            tables = (Portal, ChannelRow, Journey, JourneyVersion, AuditEvent)
            return [list(connection.execute(select(table.__table__))) for table in tables]

    def rows(self, table: Any) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(select(table.__table__)))

    @property
    def snapshot(self) -> Snapshot:
        return Journeys(self.transactions, has_sandbox=False).current()

    @property
    def version(self) -> int:
        (row,) = self.rows(Portal)
        return int(row.version)


@pytest.fixture
def portals(database: Database, keyring: Keyring, clock: Clock) -> Portals:
    """The configuration of an empty portal, on SQLite and on PostgreSQL."""
    return Portals(database, keyring, clock)


class TestImport:
    """What a good file does."""

    def test_what_the_file_says_is_what_requests_see(self, portals: Portals) -> None:
        summary = portals.load(WHOLE)
        assert summary.lines == (
            "portal: changed",
            "channel sms: added",
            "channel mail: added",
            "channel gateway: added",
            "journey balance: added",
            "journey loans: added",
        )
        snapshot = portals.snapshot
        assert snapshot.portal.name == "Acme Bank"
        assert snapshot.portal.limits.begins_per_minute == 7
        assert snapshot.default is not None
        assert snapshot.default.config.slug == "balance"
        assert snapshot.default.config.results["verified"] == "check_code"
        assert snapshot.journeys["loans"].config.limits.code_digits == 8
        assert not snapshot.journeys["loans"].config.active
        assert snapshot.channels["sms"].api_key == "the-real-key"  # type: ignore[attr-defined]
        assert snapshot.channels["mail"].password == "the-real-password"  # type: ignore[attr-defined]
        assert snapshot.channels["gateway"].headers["Authorization"] == "Bearer the-real-token"  # type: ignore[attr-defined]

    def test_e1_secrets_are_sealed_apart_and_only_names_are_audited(self, portals: Portals) -> None:
        portals.load(WHOLE)
        stored = repr([row._mapping for row in portals.rows(ChannelRow)])
        assert "the-real" not in stored
        assert "mail.example.com" in stored
        (event,) = portals.rows(AuditEvent)
        assert event.kind == "configuration_imported"
        changes = event.facts.pop("changes")
        assert event.facts == {
            "portal": True, "channels": ["gateway", "mail", "sms"], "journeys": ["balance", "loans"],
            "versions": {"balance": 1, "loans": 1}, "done": {
                "portal": "changed", "channel gateway": "added", "channel mail": "added", "channel sms": "added",
                "journey balance": "added", "journey loans": "added",
            },
        }  # fmt: skip
        assert changes["channel mail"]["host"] == ["", "mail.example.com"]
        assert changes["channel mail"]["password"] == ["", "given"]
        assert "the-real" not in repr(changes)

    def test_the_same_file_again_changes_nothing(self, portals: Portals) -> None:
        portals.load(WHOLE)
        before = portals.tables()
        assert portals.load(WHOLE).lines == ()
        assert portals.tables() == before

    def test_a_change_makes_a_new_version_and_keeps_the_old_one(self, portals: Portals) -> None:
        portals.load(journey("app"))
        version = portals.version
        assert portals.load(journey("app", extra="chat_seconds = 300")).lines == ("journey app: changed",)
        assert portals.version == version + 1
        assert sorted((row.number, row.document["chat_seconds"]) for row in portals.rows(JourneyVersion)) == [
            (1, 600),
            (2, 300),
        ]
        assert portals.snapshot.journeys["app"].number == 2

    def test_what_a_journey_does_not_say_is_the_default_again(self, portals: Portals) -> None:
        portals.load(journey("app", extra="chat_seconds = 300"))
        portals.load(journey("app"))
        assert portals.snapshot.journeys["app"].config.chat_seconds == 600

    def test_portal_changes_by_key(self, portals: Portals) -> None:
        portals.load('[portal]\nname = "Acme"\ndefault_region = "GB"\n[portal.limits]\nbegins_per_minute = 7\n')
        portals.load('[portal]\nname = "Acme Bank"\n[portal.limits]\npassword_checks_per_minute = 8\n')
        portal = portals.snapshot.portal
        assert (portal.name, portal.default_region) == ("Acme Bank", "GB")
        assert (portal.limits.begins_per_minute, portal.limits.password_checks_per_minute) == (7, 8)

    def test_what_the_file_does_not_name_is_left_alone(self, portals: Portals) -> None:
        portals.load(WHOLE)
        portals.load(journey("app"))
        assert set(portals.snapshot.journeys) == {"app", "balance", "loans"}
        assert set(portals.snapshot.channels) == {"sms", "mail", "gateway"}

    def test_prune_switches_off_and_deletes_nothing(self, portals: Portals) -> None:
        portals.load(WHOLE)
        summary = portals.load(journey("app"), prune=True)
        assert sorted(summary.lines) == [
            "channel gateway: switched off",
            "channel mail: switched off",
            "channel sms: switched off",
            "journey app: added",
            "journey balance: switched off",
        ]
        assert portals.snapshot.channels == {}
        assert not portals.snapshot.journeys["balance"].config.active
        assert {row.name for row in portals.rows(ChannelRow)} == {"sms", "mail", "gateway"}
        assert portals.load(WHOLE).lines[:4] == (
            "channel sms: switched on",
            "channel mail: switched on",
            "channel gateway: switched on",
            "journey balance: switched on",
        )

    def test_a_new_default_takes_the_place_of_the_old_one(self, portals: Portals) -> None:
        first = '[journeys.results]\nverified = "yes"'
        portals.load(journey("one", extra="default = true", tail=first))
        summary = portals.load(journey("two", extra="default = true"))
        assert set(summary.lines) == {"journey two: added", "journey one: is no longer the default"}
        assert portals.snapshot.default is not None
        assert portals.snapshot.default.config.slug == "two"
        assert not portals.snapshot.journeys["one"].config.default

    def test_r14_what_the_standards_advise_against_is_said(self, portals: Portals) -> None:
        summary = portals.load(
            SMS
            + MAIL
            + journey("sms", "sms_code", extra='channels = ["sms"]\nrelay_defence = "chat_code"')
            + journey("mail", "email_code", "totp", extra='channels = ["mail"]\nrelay_defence = "chat_code"')
            + journey("app", "totp")
            + journey("off", "email_code", extra='channels = ["mail"]\nactive = false')
        )
        assert [warning.partition(";")[0] for warning in summary.warnings] == [
            "journey sms: SMS is the only proof",
            "journey mail: a code by email proves access to the mailbox, not possession of a device",
            "journey app: relay_defence is none",
        ]

    def test_an_empty_file_changes_nothing(self, portals: Portals) -> None:
        assert portals.load("") == ImportSummary((), ())
        assert portals.rows(AuditEvent) == []


class TestExport:
    """The way out and back."""

    def test_export_then_import_is_no_change(self, portals: Portals) -> None:
        portals.load(WHOLE)
        before = portals.tables()
        exported = portals.open().export_toml()
        assert portals.load(exported, prune=True).lines == ()
        assert portals.tables() == before

    def test_secrets_never_leave(self, portals: Portals) -> None:
        portals.load(WHOLE)
        exported = portals.open().export_toml()
        assert "the-real" not in exported
        channels = {channel["name"]: channel for channel in tomllib.loads(exported)["channels"]}
        assert channels["sms"]["api_key"] == "keep"
        assert channels["mail"]["password"] == "keep"
        assert channels["gateway"]["headers"] == {"Authorization": "keep", "Accept": "keep"}

    def test_an_absent_secret_is_exported_as_absent(self, portals: Portals) -> None:
        portals.load(MAIL.replace("the-real-password", "").replace('"acme"', '""'))
        exported = portals.open().export_toml()
        assert tomllib.loads(exported)["channels"][0]["password"] == ""
        assert portals.load(exported).lines == ()

    def test_what_is_switched_off_stays_off(self, portals: Portals) -> None:
        portals.load(WHOLE)
        portals.load(journey("app"), prune=True)
        exported = portals.open().export_toml()
        assert "channels" not in tomllib.loads(exported)
        assert portals.load(exported).lines == ()
        (fault, *_) = portals.faults(exported.replace("active = false", "active = true"))
        assert "and there is no such channel in use" in fault

    def test_an_empty_portal(self, portals: Portals) -> None:
        exported = portals.open().export_toml()
        assert set(tomllib.loads(exported)) == {"portal"}
        assert portals.load(exported).lines == ()


KEEPING_MAIL = MAIL.replace("the-real-password", "keep")


class TestKeep:
    """ "keep" serves the server that the secret was given for, and no other (D4)."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: text,
            lambda text: text.replace("no-reply@", "hello@"),
            lambda text: text.replace("mail.example.com", "MAIL.example.com"),
            lambda text: text.replace('"starttls"', '"tls"'),
        ],
        ids=["nothing", "sender", "case", "more security"],
    )
    def test_d4_it_is_kept(self, portals: Portals, change: Callable[[str], str]) -> None:
        portals.load(MAIL)
        portals.load(change(KEEPING_MAIL))
        assert portals.snapshot.channels["mail"].password == "the-real-password"  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("mail.example.com", "evil.example.com"),
            ("587", "25"),
            ('"starttls"', '"none"'),
        ],
    )
    def test_d4_it_must_be_given_again(self, portals: Portals, old: str, new: str) -> None:
        portals.load(MAIL)
        assert portals.faults(KEEPING_MAIL.replace(old, new)) == [
            'acme.toml: channels[1] "mail" password: must be entered again: a stored secret is only used with the kind, '
            "host and port that it was entered for, and with no less security"
        ]

    def test_d4_another_kind_keeps_nothing(self, portals: Portals) -> None:
        portals.load(SMS)
        (fault,) = portals.faults(HTTP.replace('"gateway"', '"sms"').replace("Bearer the-real-token", "keep"))
        assert 'channels[1] "sms" headers: must be entered again' in fault

    def test_a_url_of_another_origin_keeps_nothing(self, portals: Portals) -> None:
        portals.load(HTTP)
        kept = HTTP.replace("Bearer the-real-token", "keep")
        portals.load(kept.replace("/send", "/v2/send"))
        assert portals.faults(kept.replace("https://gateway.example", "https://gateway.example:8443"))
        headers = portals.snapshot.channels["gateway"].headers  # type: ignore[attr-defined]
        assert headers["Authorization"] == "Bearer the-real-token"

    def test_there_must_be_something_to_keep(self, portals: Portals) -> None:
        assert portals.faults(KEEPING_MAIL) == [
            'acme.toml: channels[1] "mail" password: is "keep", but nothing is stored for it; enter it'
        ]
        portals.load(HTTP)
        assert portals.faults(HTTP.replace("Accept =", "X-Key =").replace('"text/plain"', '"keep"')) == [
            'acme.toml: channels[1] "gateway" headers.X-Key: is "keep", but nothing is stored for it; enter it'
        ]


BAD_PORTAL = """
[portal]
name = ""
flavour = "red"
default_region = "South Africa"
[portal.limits]
begins_per_minute = "7"
[extras]
"""


class TestFaults:
    """File, table, key and reason, all at once, and nothing half-imported."""

    def test_all_faults_at_once(self, portals: Portals) -> None:
        text = (
            BAD_PORTAL
            + SMS.replace("daily_cap = 5000", "").replace("the-real-key", "the-leaked-key\\u0001")
            + journey("balance")
            + journey(
                "loans",
                "totp",
                "carrier pigeon",
                extra='flavour = 1\nactive = "yes"\nreturn_url = "http://acme.example"\nchannels = "sms"',
                tail="[journeys.limits]\ncode_digits = 11\nsends = 0\nresend_waits = []\n"
                '[journeys.results]\nmaybe = "x"\n[journeys.data]\nname = "{nome}"\n'
                '[journeys.callback]\nserver = "somewhere"\ncontract = "post"',
            )
        )
        told = portals.faults(text)
        assert sorted(told) == sorted(
            [
                "acme.toml: extras: is not known; known: portal, channels, journeys",
                "acme.toml: portal name: must not be empty",
                "acme.toml: portal default_region: must be two capital letters such as ZA",
                "acme.toml: portal limits.begins_per_minute: must be a whole number",
                "acme.toml: portal flavour: is not known here",
                'acme.toml: channels[1] "sms" daily_cap: is missing',
                *(line for line in told if "api_key" in line),
                'acme.toml: journeys[2] "loans" flavour: is not known here',
                'acme.toml: journeys[2] "loans" active: must be true or false',
                'acme.toml: journeys[2] "loans" return_url: must begin with https://',
                'acme.toml: journeys[2] "loans" channels: must be a list',
                'acme.toml: journeys[2] "loans" steps[2].any_of: unknown method carrier pigeon; known: password, '
                "sms_code, email_code, totp, support_code",
                'acme.toml: journeys[2] "loans" limits.code_digits: must be at most 10',
                'acme.toml: journeys[2] "loans" limits.sends: must be at least 1',
                'acme.toml: journeys[2] "loans" limits.resend_waits: must have at least 1 entries',
                'acme.toml: journeys[2] "loans" results: unknown outcome maybe; known: verified, wrong, expired, '
                "cancelled, not_me, no_code, unavailable, completed, declined, handed_over",
                *(line for line in told if "unknown placeholder {nome}" in line),
                'acme.toml: journeys[2] "loans" callback.server: must be production, uat, sandbox or an address without '
                "a path such as https://flow.example",
                "acme.toml: journeys[2] \"loans\" callback.contract: must be 'external_link' or 'wait_for_callback'",
            ]
        )
        assert len([line for line in told if "api_key" in line]) == 1
        assert len([line for line in told if "{nome}" in line]) == 1
        assert "the-leaked-key" not in "\n".join(told)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("[portal]\nname = Acme\n", "is not TOML: Invalid value (at line 2, column 8)"),
            ('[portal]\nname = "a"\nname = "b"\n', "is not TOML: Cannot overwrite a value (at line 3, column 11)"),
            ("x = " + "[" * 2000, "is not TOML: "),
            ("portal = 1\n", "portal: must be written as [portal]"),
            ("channels = 1\n", "channels: must be written as [[channels]]"),
            ('[journeys]\nslug = "a"\n', "journeys: must be written as [[journeys]]"),
            ('[[channels]]\nname = "a"\nkind = "fax"\n', 'channels[1] "a" kind: must be one of smtp'),
            ('[[channels]]\nkind = "inbox"\n', "channels[1] name: is missing"),
            (journey("a").replace('slug = "a"\n', ""), "journeys[1] slug: is missing"),
            (journey("Loud"), 'journeys[1] "Loud" slug: must be small letters, digits and dashes, 41 at most'),
            (
                journey("a").replace('{ kind = "verify"', '{ kind = "puzzle"'),
                "journeys[1] \"a\" steps[2]: has an unknown kind; known: 'identify', 'verify', 'terms', 'questions', "
                "'handover'",
            ),
            (journey("a").replace('{ kind = "verify",', "{"), 'journeys[1] "a" steps[2]: needs a kind'),
            (journey("a") + journey("a"), 'journeys[2] "a" slug: is the same as that of journeys[1] "a"'),
            (SMS + SMS, 'channels[2] "sms" name: is the same as that of channels[1] "sms"'),
            (
                journey("a", extra="default = true") + journey("b", extra="default = true", tail=SAME),
                "journeys default: is true for a and b; only one can be the default",
            ),
            (journey("a", extra='channels = ["sms"]'), 'journeys[1] "a" channels: names "sms", and there is no such'),
            (
                MAIL + journey("a", "sms_code", "totp", extra='channels = ["mail"]'),
                'journeys[1] "a" steps[2].any_of: has sms_code, but none of the journey\'s channels carries SMS',
            ),
            (journey("a", "email_code"), 'journeys[1] "a" steps[2].any_of: has email_code, but none of the journey'),
            ('[[channels]]\nname = "a"\nkind = "inbox"\n', 'channels[1] "a" kind: needs the sandbox, which is off'),
            ('[[channels]]\nname = "a"\nkind = "console"\n', 'channels[1] "a" kind: needs the sandbox, which is off'),
            (
                journey("a", tail='[journeys.callback]\nserver = "sandbox"'),
                'journeys[1] "a" callback.server: is the sandbox, which is off',
            ),
            (
                journey("a", tail='[journeys.callback]\nserver = "http://flow.example"'),
                'journeys[1] "a" callback.server: The address must begin with https://',
            ),
            (
                journey("a", tail='[journeys.callback]\nserver = "https://10.0.0.1"'),
                'journeys[1] "a" callback.server: The address is not a public one',
            ),
            (HTTP.replace("https://gateway", "http://gateway"), 'channels[1] "gateway": The address must begin with'),
            (HTTP.replace("daily_cap = 10", ""), "a channel that carries SMS needs countries and a daily_cap"),
            (HTTP.replace('countries = ["ZA"]', ""), "a channel that carries SMS needs countries and a daily_cap"),
            (SMS.replace('countries = ["ZA"]', ""), 'channels[1] "sms" countries: is missing'),
        ],
    )
    def test_each_says_where_and_why(self, portals: Portals, text: str, told: str) -> None:
        faults = portals.faults(text)
        assert len(faults) == 1
        assert faults[0].startswith("acme.toml: ")
        assert told in faults[0]

    def test_a_channel_of_the_database_will_do(self, portals: Portals) -> None:
        portals.load(SMS)
        assert portals.load(journey("a", "sms_code", extra='channels = ["sms"]')).lines == ("journey a: added",)

    def test_a_channel_that_is_off_will_not(self, portals: Portals) -> None:
        portals.load(SMS)
        portals.load("", prune=True)
        (fault,) = portals.faults(journey("a", "sms_code", extra='channels = ["sms"]'))
        assert 'names "sms", and there is no such channel' in fault

    def test_a_broken_channel_is_told_once(self, portals: Portals) -> None:
        (fault,) = portals.faults(SMS.replace("5000", "0") + journey("a", "sms_code", extra='channels = ["sms"]'))
        assert 'channels[1] "sms" daily_cap' in fault

    def test_a_channel_cannot_leave_an_active_journey_without_a_way(self, portals: Portals) -> None:
        portals.load(HTTP + journey("a", "sms_code", extra='channels = ["gateway"]'))
        email = HTTP.replace('carries = "sms"', 'carries = "email"')
        (fault,) = portals.faults(email)
        assert 'acme.toml: journey "a" (not in this file) steps[2].any_of: has sms_code' in fault

    def test_with_the_sandbox_its_channels_and_server_are_taken(self, portals: Portals) -> None:
        portals.load(
            '[[channels]]\nname = "a"\nkind = "inbox"\n[[channels]]\nname = "b"\nkind = "console"\n'
            + journey("a", tail='[journeys.callback]\nserver = "sandbox"'),
            has_sandbox=True,
        )
        assert set(portals.snapshot.channels) == {"a", "b"}

    def test_the_operators_own_check_of_channels_is_asked(self, portals: Portals) -> None:
        class Strict(DeadEnd):
            def check_mail_host(self, host: str, port: int) -> None:
                raise Misconfigured("not this one")

        configuration = Configuration(
            portals.transactions,
            has_sandbox=False,
            way_out=Strict(lambda _taken: 200),
            notify_owners=lambda *_: None,
        )
        with pytest.raises(BadConfig, match='channels\\[1\\] "mail": not this one'):
            configuration.import_toml(MAIL, file_name="acme.toml")


class TestR35:
    """A link of one journey opened under another must not pass for it."""

    def test_r35_a_shared_text_is_refused(self, portals: Portals) -> None:
        (fault,) = portals.faults(journey("a", tail=SAME) + journey("b", tail=SAME))
        assert "journeys a and b both answer 'ok' for verified at production" in fault

    def test_r35_also_with_a_journey_that_is_not_in_the_file(self, portals: Portals) -> None:
        portals.load(journey("a", tail=SAME))
        assert len(portals.faults(journey("b", tail=SAME))) == 1
        portals.load(journey("b", tail=SAME), prune=True)  # a is off then

    def test_r35_two_that_agree_may_share(self, portals: Portals) -> None:
        agreed = "shares_result = true"
        portals.load(journey("a", extra=agreed, tail=SAME) + journey("b", extra=agreed, tail=SAME))

    def test_r35_at_another_server_it_is_another_text(self, portals: Portals) -> None:
        portals.load(journey("a", tail=SAME) + journey("b", tail=SAME + '[journeys.callback]\nserver = "uat"'))

    @pytest.mark.parametrize(
        ("server", "told"),
        [
            ("https://flow-callback.clickatell.com", 'must be written "production"'),
            ("https://flow-callback.clickatell.com:443/", 'must be written "production"'),
            ("https://control-callback-uat.payd.co", 'must be written "uat"'),
            ("https://flow.example:443", "must be written without :443"),
        ],
    )
    def test_r35_a_server_has_one_name(self, portals: Portals, server: str, told: str) -> None:
        (fault,) = portals.faults(journey("a", tail=f'[journeys.callback]\nserver = "{server}"'))
        assert f'journeys[1] "a" callback.server: {told}' in fault
