"""The stream of the audit trail to real servers of syslog, set up as their manuals say, where this machine has them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from auth_portal.gateways.outbound import to_one
from auth_portal.services.audit_chain import MESSAGE_BYTES, AuditStream
from tests.proxies import PLACES, UNPACKED
from tests.receiver import wait_for
from tests.security.test_audit_chain import Trail
from tests.serving import free_port

RSYSLOG = """
global(workDirectory="{folder}" defaultNetstreamDriverCAFile="{folder}/ca.pem"
  defaultNetstreamDriverCertFile="{folder}/cert.pem" defaultNetstreamDriverKeyFile="{folder}/key.pem")
module(load="imtcp" StreamDriver.Name="{driver}" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
template(name="raw" type="string" string="%rawmsg%\\n")
input(type="imtcp" port="{port}" address="127.0.0.1")
action(type="omfile" file="{folder}/received" template="raw")
"""
SYSLOG_NG = """
@version: 3.35
source portal {{
  syslog(ip("127.0.0.1") port({port}) transport("tls") flags(store-raw-message)
    tls(key-file("{folder}/key.pem") cert-file("{folder}/cert.pem") peer-verify(optional-untrusted)));
}};
destination file {{ file("{folder}/received" template("${{RAWMSG}}\\n")); }};
log {{ source(portal); destination(file); }};
"""
LINE = re.compile(r"<\d+>1 \S+ portal\.example auth-portal - \S+ - (\{.*\})")
READY = "<13>1 - - - - - - ready"  # a message that is not ours
PROGRAMS = {"rsyslog-gtls": "rsyslogd", "rsyslog-ossl": "rsyslogd"}  # which deploy/system-packages unpacks
if shutil.which("syslog-ng", path=PLACES) is not None:  # where the machine has it
    PROGRAMS["syslog-ng"] = "syslog-ng"
LIBRARIES = UNPACKED / "usr/lib"


class SyslogServer:
    """A server that writes what it receives into a file, and the stream of a trail to it."""

    def __init__(self, name: str, folder: Path, trail: Trail) -> None:
        self.name, self.folder, self.trail, self.port = name, folder, trail, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.received_file = folder / "received"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.take_certificate(authority)
        self.start()
        trail.record()
        trail.seal()
        way_out = to_one("127.0.0.1", self.port, folder / "ca.pem")
        self.stream = AuditStream(trail.transactions, way_out, f"127.0.0.1:{self.port}", "portal.example")
        self.send_all()

    def take_certificate(self, authority: trustme.CA) -> None:
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(str(self.folder / "cert.pem"))
        issued.private_key_pem.write_to_path(str(self.folder / "key.pem"))
        (self.folder / "trusted.pem").write_bytes(authority.cert_pem.bytes())

    def start(self) -> None:
        conf, program = self.folder / "server.conf", shutil.which(PROGRAMS[self.name], path=PLACES)
        assert program is not None
        text = SYSLOG_NG if self.name == "syslog-ng" else RSYSLOG
        conf.write_text(text.format(folder=self.folder, port=self.port, driver=self.name.rpartition("-")[2]))
        if self.name == "syslog-ng":
            own = [f"--{one}={self.folder}/{one}" for one in ("persist-file", "pidfile", "control")]
            options = ["-F", "--no-caps", "-f", str(conf), *own]
        else:
            modules = next((str(found.parent) for found in LIBRARIES.rglob("rsyslog/imtcp.so")), "")
            options = ["-n", "-f", str(conf), "-i", f"{self.folder}/pid", *(["-M", modules] if modules else [])]
        unpacked = os.pathsep.join({str(found.parent) for found in LIBRARIES.rglob("liblognorm.so*")})
        with (self.folder / "log").open("ab") as log:
            environment = {**os.environ, "LD_LIBRARY_PATH": unpacked}
            self.process = subprocess.Popen([program, *options], env=environment, stdout=log, stderr=log)
        wait_for(self._is_ready, 20)

    def _is_ready(self) -> bool:
        """Report whether it writes what it is sent.

        rsyslog's OpenSSL driver closes the number of a socket twice. If its file is opened in between, it goes on to
        write its lines into the next connection. So the file is opened while this one is still held.
        """
        before = self._lines.count(READY)
        trusted = ssl.create_default_context(cafile=self.folder / "trusted.pem")
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 1) as plain,
            trusted.wrap_socket(plain, server_hostname="127.0.0.1") as line,
        ):
            line.sendall(b"%d %b" % (len(READY), READY.encode()))
            wait_for(lambda: self._lines.count(READY) > before, 20)
            return True
        return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None

    def add(self, blocks: int, events: int = 500) -> None:
        for _ in range(blocks):
            self.trail.record(events)
            self.trail.seal()

    def send(self) -> None:
        while self.stream.send():
            pass

    def send_all(self) -> None:
        """As processes do: again after a fault."""
        self.send()
        for _try in range(5):
            if self.waiting:
                self.send_again()
        assert not self.waiting, self.stream.check()

    @property
    def waiting(self) -> float:
        """How many blocks it has not received."""
        with self.trail.transactions.read() as work:
            return self.stream.figures(work)["blocks"]

    def send_again(self) -> None:
        self.trail.clock.advance(300)
        self.send()

    @property
    def events(self) -> list[dict[str, object]]:
        """What it has written whole, without the heads of blocks."""
        lines = [line for line in self._lines if line != READY]
        found = [LINE.fullmatch(line) for line in lines]
        assert all(found), [line for line, one in zip(lines, found, strict=True) if one is None][:2]
        said = [json.loads(one[1]) for one in found if one]
        return [one for one in said if "number" in one]

    @property
    def _lines(self) -> list[str]:
        with suppress(FileNotFoundError):
            return self.received_file.read_text().rpartition("\n")[0].splitlines()
        return []

    def numbers(self, count: int) -> list[object]:
        """The numbers of the events that it has, once there are so many different ones."""
        wait_for(lambda: len({one["number"] for one in self.events}) >= count, 20)
        return [one["number"] for one in self.events]


@pytest.fixture(params=PROGRAMS)
def server(request: pytest.FixtureRequest, sqlite_url: str, tmp_path: Path) -> Iterator[SyslogServer]:
    trail, folder = Trail(sqlite_url, tmp_path), tmp_path / "server"
    folder.mkdir()
    found = SyslogServer(request.param, folder, trail)
    yield found
    found.stop(signal.SIGKILL)
    for database in trail.opened:
        database.close()


def test_a_backlog_arrives_once_and_in_order(server: SyslogServer, caplog: pytest.LogCaptureFixture) -> None:
    server.add(10)
    server.send_all()
    numbers = server.numbers(5001)
    expected = ["1.1"] + [f"{block}.{place}" for block in range(2, 12) for place in range(1, 501)]
    assert list(dict.fromkeys(numbers)) == expected
    assert len(numbers) == len(expected) or "audit_stream_failed" in caplog.messages, "once, while no connection broke"


def test_messages_up_to_the_longest_arrive_whole(server: SyslogServer) -> None:
    with server.trail.transactions.write() as work:
        work.record("settings_changed", changes={"portal": {"name": ["Zoë 銀行", "\n\x07é"]}})
        for length in range(MESSAGE_BYTES - 500, MESSAGE_BYTES + 300, 10):
            work.record("numbered", note="x" * length)
    server.trail.seal()
    server.send_all()
    assert len(set(server.numbers(82))) == 82
    assert server.events[1]["facts"] == {"changes": {"portal": {"name": ["Zoë 銀行", "\n\x07é"]}}}
    lengths = [len(line) for line in server.received_file.read_text().splitlines()]
    assert MESSAGE_BYTES - 10 <= max(lengths) <= MESSAGE_BYTES
    assert {"shortened": ["note"]} in [one["facts"] for one in server.events]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_it_has_not_read_when_it_ends_is_sent_again(server: SyslogServer, number: int) -> None:
    for after in (0.0, 0.04, 0.08):
        server.add(3)
        killer = threading.Timer(after, server.stop, [number])
        killer.start()
        server.stream.send()
        killer.join()
        server.start()
        server.send_again()
    server.send_again()
    assert len(set(server.numbers(4501))) == 4501


def test_one_that_is_suspended_holds_the_stream_up_for_a_bounded_time(
    server: SyslogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auth_portal.services.audit_chain.STREAM_SECONDS", 1.0)
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    server.add(4)
    server.send()
    assert not server.stream.check()[0]
    server.process.send_signal(signal.SIGCONT)
    monkeypatch.undo()
    server.send_again()
    server.send_again()
    assert len(set(server.numbers(2001))) == 2001


def test_one_with_another_certificate_gets_nothing(server: SyslogServer) -> None:
    server.stop()
    server.take_certificate(trustme.CA())
    server.start()
    server.add(1, events=1)
    server.send()
    assert "certificate could not be verified" in server.stream.check()[1]
    assert server.numbers(1) == ["1.1"]
