"""What every program of the tests imports; ``tests/programs.py`` says why it is imported ahead."""

from __future__ import annotations

import alembic.command
import flask.cli
import gunicorn.app.wsgiapp
import gunicorn.workers.gthread

import auth_portal.__main__
import auth_portal.bootstrap
import auth_portal.cli
import auth_portal.web.server

# Named, because the linter would remove imports that nothing uses.
__all__ = ["alembic", "auth_portal", "flask", "gunicorn"]
