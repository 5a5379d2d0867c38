"""The stream of the audit trail to a receiver of syslog over TLS: a real one, away, slow, hanging up, and back again."""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from auth_portal.errors import Misconfigured
from auth_portal.gateways.outbound import to_one
from auth_portal.services.audit_chain import MESSAGE_BYTES, STREAM_LATE, AuditStream, restart_chain, stream_fault
from auth_portal.services.history.audit_check import read_heads
from auth_portal.settings import read_settings
from auth_portal.store.models import AuditStreamRow
from tests.admin.desk import ADMIN_ADDRESS, signed_in
from tests.receiver import Receiver, wait_for
from tests.security.test_audit_chain import Trail
from tests.world import World, open_world

HEAD = re.compile(
    rb"<(?P<pri>\d{2,3})>1 (?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) portal\.example auth-portal - "
    rb"(?P<kind>[\x21-\x7e]{1,32}) - (?P<said>\{.*\})"
)
HANG_UP = struct.pack("ii", 1, 0)


class Siem:
    """A receiver as RFC 5425 describes one: frames by their length, until the other side closes."""

    def __init__(self, context: ssl.SSLContext, port: int = 0) -> None:
        self.context = context
        self.frames: list[bytes] = []
        self.connections = 0
        self.reads: Callable[[ssl.SSLSocket], bool] = lambda _line: True
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _address = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            with suppress(OSError), self.context.wrap_socket(plain, server_side=True) as line:
                if self.reads(line):
                    self._read(line)

    def _read(self, line: ssl.SSLSocket) -> None:
        received = b""
        while piece := line.recv(65536):
            received += piece
        while received:
            length, _blank, rest = received.partition(b" ")
            self.frames.append(rest[: int(length)])
            received = rest[int(length) :]
        line.unwrap()

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self.listener.close()

    @property
    def said(self) -> list[dict[str, Any]]:
        found = [HEAD.fullmatch(frame) for frame in self.frames]
        assert all(found), self.frames
        return [json.loads(one["said"]) for one in found if one]

    @property
    def numbers(self) -> list[str]:
        return [one["number"] for one in self.said if "number" in one]


class Streamed:
    """A trail, its stream and the receiver."""

    def __init__(self, trail: Trail, folder: Path) -> None:
        self.trail = trail
        self.authority = trustme.CA()
        self.bundle = folder / "authority.pem"
        self.authority.cert_pem.write_to_path(str(self.bundle))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("127.0.0.1").configure_cert(self.context)
        self.siem = Siem(self.context)
        trail.record()
        trail.seal()
        self.stream = self.process()
        self.send()
        self.siem.frames.clear()

    def process(self) -> AuditStream:
        """The stream of what would be another process."""
        way_out = to_one("127.0.0.1", self.siem.port, self.bundle)
        return AuditStream(self.trail.transactions, way_out, f"127.0.0.1:{self.siem.port}", "portal.example")

    def send(self) -> None:
        while self.stream.send():
            pass

    def add(self, *counts: int) -> None:
        for count in counts:
            self.trail.record(count)
            self.trail.seal()

    def fault(self) -> str:
        with self.trail.transactions.read() as work:
            found = stream_fault(work)
        assert found is not None
        return found[1]


@pytest.fixture
def streamed(database_url: str, tmp_path: Path) -> Iterator[Streamed]:
    trail = Trail(database_url, tmp_path)
    found = Streamed(trail, tmp_path)
    yield found
    found.siem.close()
    for database in trail.opened:
        database.close()


def test_events_arrive_in_their_order_with_heads_that_can_be_compared(streamed: Streamed, tmp_path: Path) -> None:
    streamed.add(3, 2, 40)
    streamed.send()
    events = [one for one in streamed.siem.said if "number" in one]
    assert [event["number"] for event in events] == [
        f"{block}.{place}" for block, count in ((2, 3), (3, 2), (4, 40)) for place in range(1, count + 1)
    ]
    assert [event["facts"]["number"] for event in events] == [*range(3), *range(2), *range(40)]
    heads = [json.dumps(one) for one in streamed.siem.said if one.get("event") == "audit_sealed"]
    (tmp_path / "heads").write_text("\n".join(heads))
    assert [head.number for head in read_heads(heads)] == [2, 3, 4]
    streamed.send()
    assert len(streamed.siem.numbers) == 45, "nothing is sent twice while all goes well"


def test_a_receiver_that_is_away_gets_all_later_and_none_twice(streamed: Streamed) -> None:
    port = streamed.siem.port
    streamed.siem.close()
    streamed.add(2, 2)
    streamed.send()
    assert streamed.fault() == ""
    streamed.trail.clock.advance(STREAM_LATE.total_seconds() + 1)
    streamed.send()
    assert "Audit events have waited 5 min" in streamed.fault()
    assert "127.0.0.1" in streamed.fault()
    assert not streamed.stream.check()[0]
    streamed.siem = Siem(streamed.context, port)
    streamed.send()
    assert streamed.siem.connections == 0, "it rests after a failure"
    streamed.trail.clock.advance(300)
    streamed.stream = streamed.process()  # the portal was restarted
    streamed.send()
    assert streamed.siem.numbers == ["2.1", "2.2", "3.1", "3.2"]
    assert streamed.fault() == ""
    is_well, words = streamed.stream.check()
    assert (is_well, words.partition("; ")[2]) == (True, "received up to block 3, 0 wait")


def reset(line: ssl.SSLSocket) -> bool:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, HANG_UP)
    return False


def half(line: ssl.SSLSocket) -> bool:
    """It reads a part, and dies."""
    line.recv(100)
    return reset(line)


def early(line: ssl.SSLSocket) -> bool:
    """It is stopped while messages are on their way: it says goodbye, and reads none of them."""
    wait_for(lambda: line.pending() or line.recv(1))
    line.settimeout(0)
    with suppress(OSError):
        line.unwrap()
    return False


@pytest.mark.parametrize("reads", [reset, half, early])
def test_what_a_receiver_did_not_read_is_sent_again(streamed: Streamed, reads: Callable[[ssl.SSLSocket], bool]) -> None:
    streamed.add(*([400] * 3))
    streamed.siem.reads = reads
    streamed.send()
    assert streamed.siem.frames == []
    streamed.siem.reads = lambda _line: True
    streamed.trail.clock.advance(300)
    streamed.send()
    assert streamed.siem.numbers == [f"{block}.{place}" for block in (2, 3, 4) for place in range(1, 401)]


def test_a_receiver_that_takes_nothing_holds_up_for_a_bounded_time(
    streamed: Streamed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auth_portal.services.audit_chain.STREAM_SECONDS", 1.0)
    over = threading.Event()
    streamed.siem.reads = lambda _line: over.wait(60) and False
    streamed.add(*([500] * 20))
    streamed.send()
    over.set()
    streamed.trail.clock.advance(STREAM_LATE.total_seconds() + 1)
    assert "broke" in streamed.fault()


def test_another_certificate_gets_nothing(streamed: Streamed) -> None:
    port = streamed.siem.port
    streamed.siem.close()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    streamed.siem = Siem(context, port)
    streamed.add(1)
    streamed.send()
    assert streamed.siem.frames == []
    assert "certificate could not be verified" in streamed.stream.check()[1]


def test_a_receiver_may_require_a_certificate_of_the_portal(streamed: Streamed, tmp_path: Path) -> None:
    streamed.context.verify_mode = ssl.CERT_REQUIRED
    streamed.authority.configure_trust(streamed.context)
    streamed.add(1)
    streamed.send()
    assert streamed.siem.frames == []
    ours = tmp_path / "portal.pem"
    streamed.authority.issue_cert("portal.example").private_key_and_cert_chain_pem.write_to_path(str(ours))
    way_out = to_one("127.0.0.1", streamed.siem.port, streamed.bundle, ours)
    streamed.stream = AuditStream(streamed.trail.transactions, way_out, streamed.stream.target, "portal.example")
    streamed.trail.clock.advance(300)
    streamed.send()
    assert streamed.siem.numbers == ["2.1"]
    with pytest.raises(Misconfigured, match="PORTAL_AUDIT_SYSLOG_CERT"):
        to_one("127.0.0.1", streamed.siem.port, streamed.bundle, streamed.bundle)


def test_two_processes_send_in_turn(streamed: Streamed) -> None:
    other = streamed.process()
    streamed.add(1)
    assert other._take(2) is not None
    streamed.send()
    assert streamed.siem.frames == [], "the other one may be sending"
    streamed.trail.clock.advance(61)
    streamed.send()
    assert streamed.siem.numbers == ["2.1"], "it was killed"


def test_long_facts_and_odd_kinds_are_one_message_each(streamed: Streamed) -> None:
    with streamed.trail.transactions.write() as work:
        work.record("settings_changed", admin_id=None, changes={"portal": {"name": ["x" * 9000, "\n\x07é"]}})
        work.record("=cmd|' /C\ncalc", note="line\nbreak")
        work.record("admin_sign_in_failed", address="203.0.113.9")
    streamed.trail.seal()
    streamed.send()
    long, odd, failed, _head = streamed.siem.said
    assert long["facts"] == {"shortened": ["changes"]}
    assert odd["facts"] == {"note": "line\nbreak"}
    assert failed["facts"] == {"address": "203.0.113.9"}
    assert all(len(frame) <= MESSAGE_BYTES and b"\n" not in frame for frame in streamed.siem.frames)
    assert streamed.siem.frames[2].startswith(b"<108>1 ")
    assert streamed.siem.frames[0].startswith(b"<110>1 ")


def test_a_restarted_chain_is_sent_as_it_was_sealed_again(streamed: Streamed) -> None:
    streamed.add(1, 1, 1, 1)
    streamed.send()
    streamed.siem.frames.clear()
    with streamed.trail.transactions.write() as work:
        restart_chain(work)
    streamed.trail.seal()
    streamed.send()
    assert [one["kind"] for one in streamed.siem.said if "number" in one][-1] == "audit_chain_restarted"


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ("", ""),
        ("siem.example", "siem.example:6514"),
        ("SIEM.example:1514", "siem.example:1514"),
        ("[::1]", "[::1]:6514"),
    ],
)
def test_the_setting(given: str, target: str) -> None:
    assert read_settings({"PORTAL_AUDIT_SYSLOG": given}).audit_syslog == target


@pytest.mark.parametrize("given", ["https://siem.example", "siem.example:0", "siem.example:99999", "a b"])
def test_a_wrong_setting_is_refused(given: str) -> None:
    with pytest.raises(Misconfigured, match="PORTAL_AUDIT_SYSLOG: must be the host"):
        read_settings({"PORTAL_AUDIT_SYSLOG": given})


def stream_metrics(world: World) -> dict[str, float]:
    """What /metrics says of the stream."""
    page = world.app.test_client().get("/metrics", base_url="http://127.0.0.1:8000").text
    found = re.findall(r"^auth_portal_audit_stream_(\w+) (\S+)$", page, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_without_a_stream_its_metrics_have_no_value(small_world: World) -> None:
    assert stream_metrics(small_world) == {}


def test_a_chain_that_was_restarted_counts_as_waiting_from_its_beginning(streamed: Streamed) -> None:
    streamed.add(1, 1, 1)
    streamed.send()
    with streamed.trail.transactions.write() as work:
        restart_chain(work)
    streamed.trail.seal()
    streamed.trail.clock.advance(60)
    with streamed.trail.transactions.read() as work:
        figures = streamed.stream.figures(work)
    assert (figures["blocks"], figures["seconds"]) == (2, 60)


def test_no_alert_stays_when_the_setting_is_removed(streamed: Streamed) -> None:
    streamed.add(1)
    streamed.trail.clock.advance(timedelta(hours=1).total_seconds())
    with streamed.trail.transactions.read() as work:
        assert stream_fault(work) is None


def test_a_portal_sends_what_it_does_and_its_doctor_and_owners_hear_of_failures(
    database_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "siem.pem"))
    siem = Siem(context)
    settings = {"PORTAL_AUDIT_SYSLOG": f"127.0.0.1:{siem.port}", "PORTAL_CA_BUNDLE": str(tmp_path / "siem.pem")}
    with open_world(tmp_path, database_url, receiver, settings=settings) as world:
        owner = signed_in(world)
        wait_for(lambda: any(b"admin_signed_in" in frame for frame in siem.frames))
        (said,) = (json.loads(frame[frame.index(b"{") :]) for frame in siem.frames if b" admin_signed_in " in frame)
        assert (said["admin"], said["facts"]["address"]) == ("Ada Owner", ADMIN_ADDRESS)
        siem.close()
        owner.post("/admin/sign-out")
        owner.sign_in()
        wait_for(lambda: not world.services.audit_stream.check()[0])
        wait_for(lambda: any(row.failures for row in world.rows(AuditStreamRow)))
        world.clock.advance(STREAM_LATE.total_seconds() + 1)
        wait_for(lambda: "stream" in {alert.kind for alert in world.services.alerts.open(world.clock.now)})
        alert = next(one for one in world.services.alerts.open(world.clock.now) if one.kind == "stream")
        assert f"127.0.0.1:{siem.port}" in alert.text
        lag = stream_metrics(world)
        assert lag["seconds"] > STREAM_LATE.total_seconds()
        assert lag["blocks"] >= 1
        assert lag["failures"] >= 1
        until = lag["received_timestamp_seconds"]
        back = Siem(context, siem.port)
        world.clock.advance(600)
        wait_for(lambda: any(b"admin_signed_in" in frame for frame in back.frames))
        world.clock.advance(20)
        wait_for(lambda: "stream" not in {alert.kind for alert in world.services.alerts.open(world.clock.now)})
        wait_for(lambda: stream_metrics(world)["blocks"] == 0)
        lag = stream_metrics(world)
        assert (lag["seconds"], lag["failures"]) == (0, 0)
        assert until < lag["received_timestamp_seconds"] <= world.clock.now.timestamp()
        back.close()
