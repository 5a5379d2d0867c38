"""A hook of the build: puts ``static/`` and the compiled catalogs of ``translations/`` into the wheel.

Next to each file of ``static/`` that shrinks stands a compressed copy.

The project's own folder is not touched: what `make run` has compressed there may be older than the files.
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
        folder = Path(self.root) / "translations"
        for catalog in sorted(folder.glob("*/LC_MESSAGES/*.mo")):
            place = catalog.relative_to(folder).as_posix()
            build_data["force_include"][str(catalog)] = f"auth_portal/translations/{place}"

    def finalize(self, _version: str, _build_data: dict[str, Any], _artifact_path: str) -> None:
        """Remove the copy."""
        shutil.rmtree(self._copy)
