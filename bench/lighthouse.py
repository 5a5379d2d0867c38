"""Let Lighthouse judge the pages that most customers see, as a phone on a slow network has them: ``make lighthouse``.

A browser walks to each page; Lighthouse, which npx fetches in a pinned version, opens it again in that browser, with
its cookies. Scores are from 0 to 100. No page may be indexed, which costs points of SEO on purpose.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.e2e.conftest import Portal
from tests.e2e.phone import ARGUMENTS, CHROMIUM, Person, Phone
from tests.e2e.test_pages import at_landing, question, sms_code, verified
from tests.serving import free_port, serving

LIGHTHOUSE = "lighthouse@12.8.2"  # for Node.js 18.20 and later
CATEGORIES = {
    "performance": "Performance",
    "accessibility": "Accessibility",
    "best-practices": "Best practices",
    "seo": "SEO",
}
PAGES: dict[str, Callable[[Phone, Person], Any]] = {
    "landing": at_landing,
    "code": sms_code,
    "survey": lambda phone, _person: question(phone, 1),
    "scale": lambda phone, _person: question(phone, 3),
    "done": verified,
}


def judged(url: str, port: int) -> dict[str, Any]:
    """Return Lighthouse's report about a page of the browser that listens on a port."""
    command = [
        "npx", "--yes", LIGHTHOUSE, url, f"--port={port}", "--disable-storage-reset", "--quiet", "--output=json",
        f"--only-categories={','.join(CATEGORIES)}",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"Lighthouse failed:\n{run.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(run.stdout)
    if report["finalDisplayedUrl"] != url:
        raise SystemExit(f"{url} led to {report['finalDisplayedUrl']}.")
    return report


def costs(report: dict[str, Any]) -> list[str]:
    """Return what costs points, each with its category."""
    found = []
    for category, title in CATEGORIES.items():
        for reference in report["categories"][category]["auditRefs"]:
            audit = report["audits"][reference["id"]]
            if reference["weight"] and audit["score"] is not None and audit["score"] < 1:
                found.append(f"{title}: {audit['title']} ({audit.get('displayValue') or audit['score']})")
    return found


def main() -> int:
    """Print one table, and what costs points."""
    if shutil.which("npx") is None:
        print("Lighthouse needs npx: apt-get install npm", file=sys.stderr)
        return 1
    lines, lost = [], []
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        port, portal = free_port(), Portal(Path(name))
        with serving(portal):
            context = playwright.chromium.launch_persistent_context(
                Path(name) / "profile", executable_path=CHROMIUM, args=[*ARGUMENTS, f"--remote-debugging-port={port}"]
            )
            for page, walk in PAGES.items():
                url = walk(Phone(portal, context, has_one_tab=True), portal.new_person()).url
                report = judged(url, port)
                scores = [f"{100 * report['categories'][category]['score']:>15.0f}" for category in CATEGORIES]
                lines.append(f"{page:10}{''.join(scores)}")
                lost += [f"{page}: {cost}" for cost in costs(report)]
            context.close()
    print(f"{'':10}{''.join(f'{title:>15}' for title in CATEGORIES.values())}", *lines, sep="\n")
    print("", *lost, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
