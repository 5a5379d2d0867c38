"""The floor: a bare Flask app, on the same server as the portal. Not at /healthz, which the server answers itself."""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.get("/healthz")  # by which it is seen that it has started
@app.get("/hello")
def hello() -> str:
    """The smallest answer."""
    return "hello"
