"""A hook of the build: puts ``static/`` into the wheel, with a compressed copy next to each file that shrinks.

The folder of the project is not touched: what `make run` has compressed there may be older than the files.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from whitenoise.compress import main as compress


class CompressedStatic(BuildHookInterface):  # type: ignore[type-arg]
    """Makes the copy before the build and removes it afterwards."""

    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:
        """Copy the folder, compress what is in the copy and have it taken into the wheel."""
        self._copy = Path(tempfile.mkdtemp(prefix="auth-portal-static-"))
        static = self._copy / "static"
        shutil.copytree(Path(self.root) / "static", static, ignore=shutil.ignore_patterns("*.gz", "*.br"))
        compress(["--quiet", "--no-brotli", str(static)])
        build_data["force_include"][str(static)] = "auth_portal/static"

    def finalize(self, _version: str, _build_data: dict[str, Any], _artifact_path: str) -> None:
        """Remove the copy."""
        shutil.rmtree(self._copy)
