"""CPU that one callback costs the portal's side: on a connection of its own, and on one that serves again.

`python -m bench posts`
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trustme

from auth_portal.gateways.addresses import NetworkPolicy
from auth_portal.gateways.flow import PATHS, Fate, FlowGateway
from auth_portal.gateways.outbound import Outbound
from bench.drain import draining

POSTS = 1_000  # of a round
ROUNDS = 5
REFERENCE = "f7_4hn5=8f&%#nK="
BODY = json.dumps({"reference": REFERENCE, "result": "verified", "data": {"customer_id": "C-1001"}}).encode()


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        authority, pem, trusted = trustme.CA(), Path(name) / "server.pem", Path(name) / "ca.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
        authority.cert_pem.write_to_path(str(trusted))
        outbound = Outbound(NetworkPolicy(allow_private=True, ca_bundle=trusted))
        for certificate in (None, pem):
            with draining(certificate=certificate) as drain:
                flow = FlowGateway(outbound, sandbox_url="")
                url = drain.origin + PATHS["external_link"]

                def post_alone(url: str = url) -> bool:
                    return outbound.request("POST", url, headers={"reference": REFERENCE}, body=BODY).is_success

                def post(flow: FlowGateway = flow, server: str = drain.origin) -> bool:
                    return flow.send(server, "external_link", REFERENCE, BODY).fate is Fate.ACCEPTED

                alone, kept = _milliseconds(post_alone), _milliseconds(post)
                kind = "https" if certificate else "http"
                print(f"One callback over {kind}: {alone:.2f} ms of CPU on a new connection, {kept:.2f} on a kept one")
    return 0


def _milliseconds(act: Callable[[], bool]) -> float:
    """Return the CPU of this process for one post, in the best of some rounds."""
    found = []
    for _ in range(ROUNDS):
        before = time.process_time()
        assert all(act() for _ in range(POSTS))
        found.append((time.process_time() - before) / POSTS * 1000)
    return min(found)
