"""Whatever is sent, pasted or uploaded: an answer, never a fault, and no one gets what belongs to another.

Hypothesis makes up the input, another one in each run. ``pytest --hypothesis-profile=long`` tries fifty times as much.
"""

from __future__ import annotations

import csv
import io
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from html import unescape
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
import tomli_w
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from auth_portal.errors import Problem
from auth_portal.gateways.channels import KINDS
from auth_portal.services.config.configuration import Configuration
from auth_portal.services.config.file import BadConfig
from auth_portal.services.config.journey import JourneyConfig
from auth_portal.services.config.portal import PortalSettings
from auth_portal.services.directory.person import id_form
from auth_portal.services.verification.references import completed, read_query
from auth_portal.web.edge import client_address
from tests.receiver import Receiver
from tests.security.tools import STILL
from tests.world import CONFIG, MAIL, PHONE, STANDARD, Browser, World, open_world, read_customers

FEW = settings(max_examples=max(20, settings().max_examples // 4), suppress_health_check=list(HealthCheck))
SOME = settings(FEW, max_examples=2 * FEW.max_examples)
MANY = settings(suppress_health_check=list(HealthCheck))
ORIGIN = "http://127.0.0.1:8000"
HEADER_TEXT = st.text(st.characters(max_codepoint=0xFF, exclude_characters="\r\n\0"), max_size=80)
numbers = count()


@pytest.fixture(scope="module")
def still(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One portal for all of them, in which nothing leaves by itself."""
    folder, receiver = tmp_path_factory.mktemp("fuzzing"), Receiver()
    (folder / "portal.db").write_bytes(_sqlite_template.read_bytes())
    with open_world(folder, f"sqlite:///{folder / 'portal.db'}", receiver, settings=STILL) as world:
        yield world
    receiver.close()


def stranger(world: World) -> Browser:
    """A browser at an address of its own, so that no limit of an address gets in the way."""
    number = next(numbers)
    return world.browser(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")


# --- References


def hidden_reference(page: str) -> str | None:
    found = re.search(r'name="reference" value="([^"]*)"', page)
    return unescape(found[1]) if found else None


QUERIES = st.one_of(
    st.binary(max_size=120),
    st.binary(max_size=80).map(lambda raw: b"reference=" + raw),
    st.binary(max_size=40).map(lambda raw: b"reference=" + quote_from_bytes(raw, safe="").encode()),
    st.lists(
        st.sampled_from([b"reference=", b"&", b"=", b"%", b"%2", b"%26", b"a", b"+", b"%00", b"%0d%0a", b"fbclid=x"])
    ).map(b"".join),
)


@given(QUERIES)
@MANY
def test_r34_any_query_is_refused_or_read_byte_for_byte(still: World, query: bytes) -> None:
    """What the page then carries is printable, is what the query says, and is what a form would send on."""
    environ = {"QUERY_STRING": query.decode("latin-1")}
    answer = still.app.test_client().get("/j/app", base_url=ORIGIN, environ_overrides=environ)
    assert answer.status_code in (200, 400), query
    carried = hidden_reference(answer.text)
    assert (carried is not None) == (answer.status_code == 200), query
    if carried:
        assert re.fullmatch(r"[\x21-\x7e]{1,512}", carried), query
        assert carried == read_query(query.decode("utf-8", "surrogateescape")).text
        assert completed(carried, "") == carried
        plain = query.partition(b"reference=")[2]
        if b"%" not in plain and b"&" not in plain:
            assert carried.encode() == plain


# --- Cookies


@pytest.fixture(scope="module")
def token(still: World) -> str:
    """The cookie of a browser that is at the page of its code."""
    victim = stranger(still)
    victim.begin("cookies", "app")
    (found,) = [one.value for one in (victim.client._cookies or {}).values() if one.key == "verification"]
    return found


@given(data=st.data())
@SOME
def test_r04_no_cookie_but_its_own_opens_a_visit(still: World, token: str, data: st.DataObject) -> None:
    """Nothing made up, nor any change of a real one, shows the form of another browser."""
    place = st.integers(0, len(token) - 1)
    altered = st.one_of(
        place.map(lambda at: token[:at] + token[at + 1 :]),
        place.map(lambda at: token[:at]),
        st.tuples(place, HEADER_TEXT).map(lambda change: token[: change[0]] + change[1] + token[change[0] :]),
        st.tuples(HEADER_TEXT, HEADER_TEXT).map(lambda around: f"{around[0]}{token}{around[1]}"),
        st.sampled_from(
            [
                token.swapcase(),
                token + "=",
                token + "\x00",
                token * 2,
                token[::-1],
                quote_from_bytes(token.encode(), ""),
            ]
        ),
        HEADER_TEXT,
    )
    value = data.draw(altered)
    header = data.draw(st.sampled_from(["verification=", "admin=", "csrf=", "verification=x; csrf=", ""])) + value
    for method, path in (("GET", "/verify"), ("GET", "/done"), ("GET", "/admin/"), ("POST", "/verify")):
        client = still.app.test_client(use_cookies=False)
        answer = client.open(path, method=method, base_url=ORIGIN, headers={"Cookie": header})
        assert answer.status_code < 500, (path, header)
        kept = [one.partition("=")[2].strip('"') for one in re.split(r";\s*", header) if one[:13] == "verification="]
        sent_as_it_is = any(token in one.split(".") for one in kept)
        assert sent_as_it_is or "C-1001" not in answer.text, (path, header)
        assert sent_as_it_is or 'name="code"' not in answer.text, (path, header)


# --- Identifiers

OF = {
    "C-1001": ("c1001", PHONE[3:], MAIL),
    "C-1002": ("c1002", "831234567"),
    "C-1003": ("c1003",),
    "C-1004": ("c1004",),
}
REAL = st.sampled_from(["C-1001", "C-1002", "C-1003", PHONE, "0821234567", "27831234567", MAIL, "family@example.com"])
AROUND = st.text(
    st.one_of(
        st.characters(codec="utf-8"), st.sampled_from(" -\u200b\u202a\u2011\u00a0<>:;,.\"'\u0661\uff11\0tel:mailto@")
    ),
    max_size=8,
)


def skeleton(text: str) -> str:
    """A text in the coarsest form: what looks alike is alike, and nothing around it matters."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    digits = "".join(str(unicodedata.decimal(one)) if unicodedata.category(one) == "Nd" else one for one in folded)
    return "".join(one for one in digits if one.isalnum() or one in "@.")


TYPED = st.one_of(
    st.text(max_size=60),
    st.tuples(AROUND, REAL, AROUND).map("".join),
    st.tuples(REAL, st.integers(1, 6), AROUND).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
    ),
)


@given(typed=TYPED)
@FEW
def test_r25_what_is_typed_names_its_own_customer_or_none(still: World, typed: str) -> None:
    """Whoever is found has an identifier that is in what was typed; everything else is a stranger."""
    browser = stranger(still)
    browser.open(f"typed-{next(numbers)}", "either")
    answer = browser.post("/j/either", follow=False, identifier=typed)
    assert answer.status_code in (303, 422), typed
    assume(answer.status_code == 303)
    with still.database.read() as connection:
        found = connection.exec_driver_sql(
            "SELECT customers.customer_id FROM visits LEFT JOIN customers ON customers.id = visits.customer_row"
            " ORDER BY visits.id DESC LIMIT 1"
        ).scalar_one()
    assert found is None or any(one in skeleton(typed) for one in OF[found]), (typed, found)


# --- Headers of proxies

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


def read_as(world: World, hops: int, header: str, value: str) -> str | None:
    """The address that a request with this header is counted under, or None if it is refused."""
    environ = {
        f"HTTP_{header.upper().replace('-', '_')}": value,
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_SOFTWARE": "gunicorn/27",
    }
    with world.app.test_request_context("/", environ_overrides=environ):
        try:
            return client_address(hops, header)
        except Problem:
            return None


@given(
    client=st.one_of(
        HEADER_TEXT,
        st.lists(
            st.sampled_from(
                ["for=", "FOR=", '"', ";", ",", "192.0.2.9", "[2001:db8::9]", "_hidden", "by=", "\\", " ", "="]
            )
        ).map("".join),
    ),
    proxies=st.lists(ADDRESSES, min_size=1, max_size=3),
    has_port=st.booleans(),
)
@MANY
def test_r51_no_header_of_a_client_becomes_its_address(
    still: World, client: str, proxies: list[Any], has_port: bool
) -> None:
    """Each proxy appends what it saw. The outermost trusted one is believed, whatever stood there before."""
    expected = str(getattr(proxies[0], "ipv4_mapped", None) or proxies[0])
    port = ":4711" if has_port else ""
    for header in ("X-Forwarded-For", "Forwarded"):
        written = []
        for address in proxies:
            node = (
                f"[{address}]{port}" if address.version == 6 and (port or header == "Forwarded") else f"{address}{port}"
            )
            if header == "Forwarded":
                node = f'for="{node}"' if address.version == 6 or port else f"for={node}"
            written.append(node)
        assert read_as(still, len(proxies), header, ", ".join([client, *written])) == expected, header
        alone = read_as(still, len(proxies) + client.count(",") + 2, header, ", ".join([client, *written]))
        assert alone is None, "fewer proxies than are trusted"


# --- The customers file

CELL = st.text(st.characters(codec="utf-8"), max_size=30)


@given(rows=st.lists(st.tuples(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), CELL), max_size=8))
@MANY
def test_r25_no_row_of_a_customers_file_is_lost_or_shifted(rows: list[tuple[str, str]]) -> None:
    """Each row that says anything becomes a customer with its own name, a fault, or a note that it's no customer."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("customer_id", "name"), *rows])
    reading = read_customers(text.getvalue().encode(), region="ZA")
    assert not reading.is_cut or reading.faults
    names = {id_form(customer_id): name for customer_id, name in reversed(rows)}
    for entry in reading.entries:
        assert entry.key in names
        kept = entry.cells.get("name") or ""
        assert skeleton(kept) in skeleton(names[entry.key]) or kept in names[entry.key], (kept, names[entry.key])
    told = len(reading.entries) + len({fault.row for fault in reading.faults})
    told += next(iter(reading.notes.get("trailer", ())), 0)  # how many rows ended the file, such as "© 2026"
    blank = sum(not skeleton(customer_id + name) for customer_id, name in rows)
    assert reading.is_cut or len(rows) - blank <= told <= len(rows) + 1


# --- The config file

ANY_VALUE = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**40), 2**40),
        st.floats(),
        st.text(max_size=20),
        st.datetimes(),
        st.dates(),
        st.sampled_from(
            ["keep", "production", "totp", "sms_code", "identify", "verify", "phone_match", "https://[", "http://x"]
        ),
    ),
    lambda value: st.one_of(st.lists(value, max_size=3), st.dictionaries(st.text(max_size=8), value, max_size=3)),
    max_leaves=6,
)
KEYS = {
    "portal": sorted(PortalSettings.model_fields),
    "journeys": sorted(JourneyConfig.model_fields),
    "channels": sorted({key for kind in KINDS.values() for key in kind.config_type.model_fields}),
}


def changed(document: dict[str, Any], table: str, key: str, value: Any, *, is_removed: bool) -> str:
    """The file with one key of its first such table removed, or with another value."""
    there = document[table] if table == "portal" else document[table][0]
    there.pop(key, None)
    if not is_removed:
        there[key] = value
    return tomli_w.dumps(document)


@given(data=st.data())
@FEW
def test_any_config_file_is_imported_whole_or_refused_in_words(still: World, data: st.DataObject) -> None:
    """What is taken is written out and read again without a change; what is refused has changed nothing."""
    receiver = still.receiver.origin
    base = (CONFIG + STANDARD).replace("{{", "\0").replace("{receiver}", receiver).replace("\0", "{").replace("}}", "}")
    if data.draw(st.booleans()):
        table = data.draw(st.sampled_from(sorted(KEYS)))
        key = data.draw(st.sampled_from(KEYS[table]))
        value, is_removed = data.draw(ANY_VALUE), data.draw(st.booleans())
        text = changed(tomllib.loads(base), table, key, value, is_removed=is_removed)
    else:
        start = data.draw(st.integers(0, len(base)))
        end = data.draw(st.integers(start, min(len(base), start + 60)))
        text = base[:start] + data.draw(st.text(max_size=20)) + base[end:]
    before = export(still.services.configuration)
    refused: tuple[str, ...] = ()
    try:
        still.services.configuration.import_toml(text, file_name="made-up.toml")
    except BadConfig as fault:
        refused = tuple(fault.faults)
    if refused:
        assert all(line.startswith("made-up.toml: ") for line in refused)
        assert export(still.services.configuration) == before
        return
    after = export(still.services.configuration)
    again = still.services.configuration.import_toml(after, file_name="again.toml")
    assert again.changes == ()
    still.services.configuration.import_toml(base, file_name="base.toml", prune=True)


def export(configuration: Configuration) -> str:
    return configuration.export_toml()
