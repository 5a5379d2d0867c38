"""The floor: a bare Flask app, on the same server as the portal."""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.get("/healthz")
def hello() -> str:
    """The smallest answer."""
    return "hello"
