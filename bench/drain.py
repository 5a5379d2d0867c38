"""Flow as fast as it could be: a receiver in a process of its own that says yes to every callback.

One thread answers all connections; it may wait before each answer. ``GET`` returns how many callbacks came.
`python -m bench.drain [SECONDS [CERTIFICATE]]` prints its port.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_YES = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class _Drain(asyncio.Protocol):
    """Reads whole requests off one connection, and answers each."""

    count = 0

    def __init__(self, seconds: float) -> None:
        self._seconds, self._read = seconds, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while b"\r\n\r\n" in self._read:
            head, _end, rest = self._read.partition(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
            )
            if len(rest) < length:
                return
            self._read = rest[length:]
            if head.startswith(b"GET "):
                body = str(_Drain.count).encode()
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                continue
            _Drain.count += 1
            if self._seconds:
                asyncio.get_running_loop().call_later(self._seconds, self._transport.write, _YES)
            else:
                self._transport.write(_YES)


class Drain:
    """A drain that runs, and its address."""

    def __init__(self, scheme: str, port: int) -> None:
        self.origin = f"{scheme}://127.0.0.1:{port}"

    @property
    def count(self) -> int:
        """How many callbacks came."""
        with urllib.request.urlopen(self.origin, timeout=10) as answer:
            return int(answer.read())


@contextmanager
def draining(seconds: float = 0, certificate: Path | None = None) -> Iterator[Drain]:
    """A drain that waits so long before each answer, with TLS if it has a certificate with its key."""
    options = [str(seconds), *([str(certificate)] if certificate else [])]
    program = subprocess.Popen([sys.executable, "-m", "bench.drain", *options], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    try:
        yield Drain("https" if certificate else "http", int(program.stdout.readline()))
    finally:
        program.terminate()
        program.wait(10)


async def _serve(seconds: float, certificate: str = "") -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if certificate else None
    if tls is not None:
        tls.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(lambda: _Drain(seconds), "127.0.0.1", 0, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(float([*sys.argv[1:], "0"][0]), *sys.argv[2:]))
