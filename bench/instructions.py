"""How many instructions of the processor a request takes, which other programs on the machine cannot change.

Requests are given to the WSGI app in-process, without a server and a client, beside those of a bare Flask hello. One
process under valgrind loads the app; of its children one answers some requests, and one 100 more. The difference is
what 100 take.
`python -m bench instructions`, with valgrind installed; SQLite, nothing is sent.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from bench.drain import draining
from bench.load import CodePages, get
from bench.portal import database_url
from tests.postgres import MASTER_KEY
from tests.programs import ROOT
from tests.receiver import Receiver
from tests.serving import serving

FEW, MANY = 20, 120  # the first ones fill caches


def main() -> int:
    """Measure and print."""
    if shutil.which("valgrind") is None:
        print("valgrind is missing: install the package of that name.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="bench-instructions-") as name:
        folder = Path(name)
        environment, kinds = _prepared(folder)
        valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
        answering = [sys.executable, "-m", "bench.instructions", str(folder)]
        with (folder / "log").open("w") as log:
            subprocess.run(
                [*valgrind, f"--log-file={folder}/report.%p", *answering],
                cwd=ROOT, env=environment, stdout=log, stderr=log, check=True,
            )  # fmt: skip
        taken = {}
        for kind in kinds:
            few, many = (_counted(folder, f"{kind} {count}") for count in (FEW, MANY))
            taken[kind] = (many - few) / (MANY - FEW)
    print("instructions of a request, in thousands, and of hello")
    for kind, found in taken.items():
        print(f"  {kind:14} {found / 1000:8,.0f} {found / taken['hello']:6.1f}", flush=True)
    return 0


def _prepared(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Let customers begin, and write the requests of each kind into a file; return settings, and the kinds."""
    with closing(Receiver()) as receiver, draining() as drain:
        pages = CodePages(folder / "portal", database_url(folder), "gunicorn", receiver, drain, rounds=1)
        port, visits = pages.server.port, FEW + MANY
        with serving(pages.server, PORTAL_DISPATCH="inline"):
            pages.visits.begin(pages.server, visits)
    kinds = {
        "hello": [get(port, "/hello")] * visits,
        "landing page": [get(port, f"/?reference=r{number}") for number in range(visits)],
        "code page": pages.visits.pages(port, range(visits)),
        "right code": pages.visits.checks(port, range(visits)),
    }
    (folder / "requests").write_text(json.dumps({kind: [one.decode() for one in kinds[kind]] for kind in kinds}))
    return settings_of(folder, database_url(folder), pages.server.url), list(kinds)


def settings_of(folder: Path, database: str, url: str) -> dict[str, str]:
    """The environment of a process that answers in place of a server, and sends nothing."""
    settings = {
        "PORTAL_INSTANCE": str(folder / "portal"),
        "PORTAL_DATABASE_URL": database,
        "PORTAL_SECRET_KEYS": MASTER_KEY,
        "PORTAL_ALLOW_PRIVATE_CALLBACKS": "1",
        "PORTAL_PUBLIC_URL": url,
        "PORTAL_DISPATCH": "off",
        "PYTHONHASHSEED": "0",
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
    return {**others, **settings}


def _counted(folder: Path, name: str) -> int:
    """Return the instructions of a child and of its parent until then."""
    report = (folder / f"report.{(folder / name).read_text()}").read_text()
    found = re.search(r"I +refs: +([\d,]+)", report)
    assert found is not None, report
    return int(found[1].replace(",", ""))


def answer(folder: Path) -> None:
    """Answer the requests of each kind in two children of this process, and write down which are which."""
    apps = {True: import_module("bench.hello").app, False: import_module("app").app}
    for kind, requests in json.loads((folder / "requests").read_text()).items():
        for some in (requests[:FEW], requests[FEW:]):
            child = os.fork()
            if not child:
                _answer(apps[kind == "hello"], some)
            (folder / f"{kind} {len(some)}").write_text(str(child))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, kind


def _answer(app: Any, requests: Sequence[str]) -> NoReturn:
    is_well = all([answered(app, request)[:3] in ("200", "303") for request in requests])
    os._exit(0 if is_well else 1)


def answered(app: Any, request: str) -> str:
    """Give a request to a WSGI app in this process; return the status of its answer."""
    statuses: list[str] = []
    body = app(_environ(request), lambda status, _headers, _fault=None: statuses.append(status))
    b"".join(body)
    body.close()
    return statuses[0]


def _environ(request: str) -> Mapping[str, Any]:
    """Return a request as a server gives it to the app."""
    head, _end, body = request.partition("\r\n\r\n")
    line, *fields = head.split("\r\n")
    method, address, version = line.split(" ")
    headers = {name.upper().replace("-", "_"): value for name, value in (one.split(": ", 1) for one in fields)}
    as_cgi = {"CONTENT_TYPE", "CONTENT_LENGTH"}
    return {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": urlsplit(address).path,
        "QUERY_STRING": urlsplit(address).query,
        "RAW_URI": address,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": headers["HOST"].rpartition(":")[2],
        "SERVER_PROTOCOL": version,
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body.encode()),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **{name if name in as_cgi else f"HTTP_{name}": value for name, value in headers.items()},
    }


if __name__ == "__main__":
    answer(Path(sys.argv[1]))
