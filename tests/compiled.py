"""Templates are compiled once for all processes of a test run, its servers included."""

from __future__ import annotations

import os

from flask import Flask
from jinja2 import FileSystemBytecodeCache

FOLDER_VARIABLE = "TEMPLATES_OF_TEST"


def share_templates(app: Flask) -> None:
    """Let an app load what another one compiled in this run; outside of one, change nothing.

    Apps of one name have the same Jinja environment; another environment would compile the same text differently.
    """
    if folder := os.environ.get(FOLDER_VARIABLE):
        app.jinja_env.bytecode_cache = FileSystemBytecodeCache(folder, f"{app.name}-%s")
