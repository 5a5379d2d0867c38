"""The dependency audit: does a known advisory affect a version that is pinned?

``python -m tests.advisories`` compares the requirements files with the snapshot in ``advisories.json`` and needs no
network. It fails for a version that is affected, and for a package that the snapshot was not made for: nothing is
called clean that was not looked up. ``python -m tests.advisories FOLDER`` makes the snapshot again, from a checkout of
the Python Packaging Advisory Database (https://github.com/pypa/advisory-database).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOT = Path(__file__).with_name("advisories.json")
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;#]+)", re.MULTILINE)
ORIGIN = "Python Packaging Advisory Database, https://github.com/pypa/advisory-database, licence CC BY 4.0; shortened"


def pinned() -> dict[str, Version]:
    """Each package of the requirements files, by canonical name, and its version."""
    text = "".join((ROOT / name).read_text() for name in ("requirements.txt", "requirements-dev.txt"))
    return {canonicalize_name(name): Version(version) for name, version in PINNED.findall(text)}


def affects(advisory: dict[str, Any], version: Version) -> bool:
    """Whether a version is in a range of an advisory, or one of those that it lists."""
    if str(version) in advisory["versions"]:
        return True
    return any(_contains(events, version) for events in advisory["ranges"])


def _contains(events: list[dict[str, str]], version: Version) -> bool:
    is_inside = False
    for event in events:  # in the order of versions, as OSV's schema has them
        ((kind, text),) = event.items()
        bound = Version(text)
        if kind == "introduced" and version >= bound:
            is_inside = True
        elif (kind == "fixed" and version >= bound) or (kind == "last_affected" and version > bound):
            is_inside = False
    return is_inside


def faults(snapshot: dict[str, Any], versions: dict[str, Version]) -> list[str]:
    """What keeps the pinned versions from being called clean."""
    unknown = sorted(set(versions) - set(snapshot["packages"]))
    found = [f"{name}: not in the snapshot of advisories. Make it again: see tests/advisories.py" for name in unknown]
    for advisory in snapshot["advisories"]:
        version = versions.get(advisory["package"])
        if version is not None and affects(advisory, version):
            names = ", ".join([advisory["id"], *advisory["aliases"]])
            found.append(f"{advisory['package']} {version}: {names}: {advisory['details']}")
    return found


def take_snapshot(checkout: Path) -> dict[str, Any]:
    """The advisories about pinned packages in a checkout of the database (a work tree, or a bare repository)."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    packages = sorted(pinned())
    files = git("ls-tree", "-r", "--name-only", "HEAD", "vulns/").splitlines()
    assert len(files) > 1000, "this is no checkout of the advisory database"
    ours = [path for path in files if canonicalize_name(path.split("/")[1]) in packages]
    advisories = [found for path in ours for found in _shortened(yaml.safe_load(git("show", f"HEAD:{path}")))]
    return {
        "origin": ORIGIN,
        "commit": git("rev-parse", "HEAD").strip(),
        "date": git("log", "-1", "--format=%cs").strip(),
        "packages": packages,
        "advisories": sorted(advisories, key=lambda advisory: (advisory["package"], advisory["id"])),
    }


def _shortened(advisory: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "withdrawn" in advisory:
        return
    for affected in advisory["affected"]:
        ranges = [each["events"] for each in affected.get("ranges", []) if each["type"] == "ECOSYSTEM"]
        yield {
            "id": advisory["id"],
            "aliases": advisory.get("aliases", []),
            "package": canonicalize_name(affected["package"]["name"]),
            "details": " ".join(advisory.get("details", "").split())[:160],
            "ranges": [events for events in ranges if _is_comparable(events)],
            # Where a range has a bound that is no version of today's form, versions are compared by their names.
            "versions": [] if ranges and all(map(_is_comparable, ranges)) else affected.get("versions", []),
        }


def _is_comparable(events: list[dict[str, str]]) -> bool:
    try:
        return all(Version(text) for event in events for text in event.values())
    except InvalidVersion:
        return False


def main() -> int:
    if len(sys.argv) > 1:
        SNAPSHOT.write_text(json.dumps(take_snapshot(Path(sys.argv[1])), indent=1) + "\n", encoding="utf-8")
    snapshot, versions = json.loads(SNAPSHOT.read_text(encoding="utf-8")), pinned()
    found = faults(snapshot, versions)
    print("\n".join(found), file=sys.stderr)
    age = (datetime.now(UTC).date() - date.fromisoformat(snapshot["date"])).days
    print(
        f"{len(versions)} pinned packages, {len(snapshot['advisories'])} advisories about them "
        f"as of {snapshot['date']} ({age} days old; later ones are not known here): {len(found)} faults"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
