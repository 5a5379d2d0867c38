"""The requirements files: every package in one version, with hashes, as pyproject.toml lists them."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.advisories import PINNED
from tests.programs import ROOT

FILES = ("requirements.txt", "requirements-dev.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
_ENTRY = re.compile(r"^\S+==\S+(?: \\\n    --hash=sha256:[0-9a-f]{64})+$", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    """Each package of a file, by canonical name, and its version."""
    return {canonicalize_name(package): version for package, version in PINNED.findall((ROOT / name).read_text())}


@pytest.mark.parametrize("name", FILES)
def test_every_package_has_hashes_and_nothing_else_is_in_the_file(name: str) -> None:
    """Then pip installs nothing that has none, and asks no other registry than the one that it is set to."""
    rest = _ENTRY.sub("", (ROOT / name).read_text())
    assert len(pins(name)) > 40
    assert [line for line in rest.splitlines() if line and not line.startswith("#")] == []
    assert "://" not in rest


def test_what_the_wheel_requires_is_pinned_in_that_version() -> None:
    pinned = pins("requirements.txt")
    for line in PROJECT["project"]["dependencies"]:
        requirement = Requirement(line)
        assert str(requirement.specifier) == f"=={pinned[canonicalize_name(requirement.name)]}", line


def test_tests_run_with_the_packages_of_an_installation() -> None:
    development = pins("requirements-dev.txt")
    assert pins("requirements.txt").items() <= development.items()
    listed = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependency-groups"]["dev"]}
    assert listed <= development.keys()
