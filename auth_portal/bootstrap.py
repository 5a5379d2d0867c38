"""The app, and how a process starts to serve it.

``create_app`` only puts the parts together: it needs no connection, thread or key, so every command loads. ``serve``
starts the process, and starts it again in a forked child: settings, keys and migrations are checked, then the services
are built and the dispatcher's threads started. Under a command of ``flask`` or
``auth-portal`` nothing is served.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, cast

import click
from flask import Flask
from flask.cli import ScriptInfo
from flask.templating import Environment
from sqlalchemy.exc import SQLAlchemyError

from auth_portal import i18n
from auth_portal.clock import Clock, iso, system_clock
from auth_portal.errors import DatabaseAway, Misconfigured
from auth_portal.methods import any_method, method_name, words_of
from auth_portal.services.config.journey import all_proofs
from auth_portal.services.history.words import CHOICES, OUTCOMES, browser_words, field_words, span, value_words
from auth_portal.services.serving import RETRY_SECONDS, Services, build
from auth_portal.services.steps import text_of, typed_texts
from auth_portal.settings import VERSION, CompiledTemplates, Settings, delivered, read_settings
from auth_portal.telemetry import log_event, reason_of, set_up_logging
from auth_portal.web import assets, credentials, edge, ops, visitor
from auth_portal.web.admin import admin, drive
from auth_portal.web.api import api
from auth_portal.web.context import EXTENSION

EXIT_MISCONFIGURED = os.EX_CONFIG  # 78: a setting, key or migration is wrong
REST_SECONDS = 5.0  # before a forked child that is misconfigured leaves: its parent makes another one at once
END_SECONDS = 1.0  # between two looks at whether the server has ended


class PlainGlobals(Environment):
    """Flask's environment of templates, which hands each of them its globals as one dict.

    Jinja's own chain of mappings is copied for each page and each macro that knows its page: a tenth of a page's time.
    After a change of the globals, ``refresh`` gives them to the templates that are loaded.
    """

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        """Return the globals of a template."""
        return {**self.globals, **(d or {})}

    def refresh(self) -> None:
        """Let the templates that are loaded have the globals of today."""
        for template in (self.cache or {}).values():
            template.globals = self.make_globals(None)
            template._module = None  # what others import of it was made with the globals of before


def create_app(*, clock: Clock = system_clock) -> Flask:
    """Return the WSGI app, put together but not yet serving. All time comes from ``clock``."""
    app = Flask("auth_portal", template_folder=str(delivered("templates")), static_folder=None)
    app.jinja_environment = PlainGlobals
    app.config.update(VERSION=VERSION, HEALTHZ=f"auth-portal {VERSION}\nok\n")
    app.jinja_env.bytecode_cache = CompiledTemplates()
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.add_extension("jinja2.ext.i18n")
    app.jinja_env.install_gettext_callables(i18n.gettext, i18n.ngettext, newstyle=False)  # type: ignore[attr-defined]
    app.jinja_env.globals.update({"_": i18n.gettext, "gettext": i18n.gettext, "ngettext": i18n.ngettext})
    app.jinja_env.globals.update({"plurals": i18n.plurals, "locale": i18n.SpokenLanguage(), "own_text": i18n.own_text})
    app.jinja_env.filters.update({"iso": iso, "in_language": text_of, "typed": typed_texts})
    app.jinja_env.globals.update(
        {
            "method_words": words_of,
            "method_name": method_name,
            "any_method": any_method,
            "all_proofs": all_proofs,
            "outcome_words": OUTCOMES,
            "span": span,
            "browser_words": browser_words,
            "country_name": i18n.country_name,
            "language_name": i18n.language_name,
            "lasting": i18n.lasting,
            "field_names": i18n.FIELD_NAMES,
            "field_words": field_words,
            "value_words": value_words,
            "choices": CHOICES,
        }
    )
    app.jinja_env.newstyle_gettext = True  # type: ignore[attr-defined]
    edge.register(app)
    assets.register(app, delivered("static"))
    app.register_blueprint(visitor.visitor)
    app.register_blueprint(credentials.credentials)
    app.register_blueprint(ops.ops)
    app.register_blueprint(admin)
    app.register_blueprint(drive.pages)
    app.register_blueprint(api)
    if is_command():
        # Only here: the commands bring Alembic, which a worker has no use for.
        commands = importlib.import_module("auth_portal.cli")
        commands.register(app, lambda settings: build(settings, clock, settings.poll_seconds), clock)
    app.extensions["auth_portal_process"] = Process(app, clock)
    return app


class Process:
    """The serving state of one process: built at its start, given up before a fork, built again in the child."""

    def __init__(self, app: Flask, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._has_sandbox = False
        self._is_stopping = threading.Event()
        self._waiting: threading.Thread | None = None
        self._ending: threading.Thread | None = None

    def start(self, environment: Mapping[str, str] | None = None) -> Services:
        """Start to serve. Raise Misconfigured if that cannot be done; then nothing was started."""
        settings = read_settings(environment)
        set_up_logging(settings.log_level)
        # Before the first request, which may come while there is no database.
        self._add_sandbox(settings)
        edge.serve_with(self._app, settings)
        cast("PlainGlobals", self._app.jinja_env).refresh()
        services = build(settings, self._clock)
        self._app.secret_key = services.keyring.session_key()
        self._app.extensions[EXTENSION] = services
        if settings.dispatch == "inline":
            services.dispatcher.start()
        else:
            services.dispatcher.watch()
        if settings.allow_private_callbacks:
            advice = "unset PORTAL_ALLOW_PRIVATE_CALLBACKS outside closed networks"
            log_event("private_callbacks_allowed", advice=advice)
        if settings.has_sandbox:
            log_event("sandbox_on", advice="anyone who can reach this portal can read the test inbox")
        return services

    def serve(self) -> None:
        """Start to serve, or wait in the background until the database is there (D9). Raise Misconfigured."""
        self._is_stopping.clear()
        try:
            self._begin()
        except (DatabaseAway, SQLAlchemyError, OSError) as away:
            self._report(away)
            self._waiting = threading.Thread(target=self._wait, name="database", daemon=True)
            self._waiting.start()
        self._ending = threading.Thread(target=self._stop_with_server, name="end")
        self._ending.start()  # no daemon: the interpreter waits for it

    def _stop_with_server(self) -> None:
        """Stop when the main thread has ended: of some servers, such as granian, nothing else says so.

        What is being sent at that moment would be sent twice.
        """
        while threading.main_thread().is_alive():
            if self._is_stopping.wait(END_SECONDS):
                return
        self.stop()

    def _begin(self) -> None:
        heart = self.start().heart
        heart.start()
        heart.wake()

    def _wait(self) -> None:
        while not self._is_stopping.wait(RETRY_SECONDS):
            try:
                self._begin()
            except (DatabaseAway, SQLAlchemyError, OSError) as away:
                self._report(away)
            except Misconfigured as error:
                print_faults(error)
                os._exit(EXIT_MISCONFIGURED)
            else:
                log_event("database_is_back")
                return

    def _report(self, away: Exception) -> None:
        log_event("database_is_away", level=logging.ERROR, why=reason_of(away) or str(away))

    def stop(self) -> None:
        """Stop the threads once they have finished what they are sending, and close every connection."""
        self._is_stopping.set()
        for thread in (self._waiting, self._ending):  # which a fork would copy in the middle of what they do
            if thread is not None and thread is not threading.current_thread():
                thread.join()
        self._waiting = self._ending = None
        services: Services | None = self._app.extensions.pop(EXTENSION, None)
        if services is not None:
            services.heart.ask_to_stop()
            services.dispatcher.stop()
            services.heart.stop(1.0)
            services.close()

    def drain(self) -> int:
        """Tell probes that this process stops; return the seconds for which it goes on serving nevertheless."""
        services: Services | None = self._app.extensions.get(EXTENSION)
        if services is None:
            return 0
        services.health.is_draining = True
        return services.settings.drain_seconds

    def warm(self) -> None:
        """Load what every child would load for itself, so that they share it: texts, and the pages of customers.

        Those of admins take 7 MiB; a child loads the few that it shows.
        """
        i18n.languages()
        for name in self._app.jinja_env.list_templates(extensions=["html"]):
            if "admin" not in name and not name.startswith(("api/", "macros/charts", "messages/", "sandbox/")):
                self._app.jinja_env.get_template(name)

    def _add_sandbox(self, settings: Settings) -> None:
        self._app.jinja_env.globals["has_sandbox"] = settings.has_sandbox
        if not settings.has_sandbox or self._has_sandbox:
            return
        # Only here: a portal with real customers has no use for it.
        stand_in = importlib.import_module("auth_portal.sandbox.portal")

        def snapshot() -> object:
            return self._app.extensions[EXTENSION].journeys.current()

        self._app.register_blueprint(stand_in.of_portal(settings, snapshot, self._clock))
        self._app.config["CSRF_EXEMPT_ENDPOINTS"] = frozenset(stand_in.CSRF_EXEMPT)
        self._has_sandbox = True


def serve(app: Flask) -> None:
    """Serve from this process and again from each forked child, unless a command loaded the app.

    A parent that forks stops serving for good (gunicorn's master under --preload): its children do the work.
    """
    if is_command():
        return
    process: Process = app.extensions["auth_portal_process"]

    def start() -> None:
        with leaving_if_misconfigured():
            process.serve()

    def start_again() -> None:
        # Until the server sets its own: the parent's would keep the request to stop for the parent, which waits 30 s.
        for request_to_stop in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(request_to_stop, signal.SIG_DFL)
        try:
            start()
        except SystemExit as exit_:  # which nothing would notice here, and the child would go on without services
            time.sleep(REST_SECONDS)
            os._exit(int(str(exit_.code)))

    def leave() -> None:
        process.stop()
        process.warm()
        # What was loaded so far is never collected: a child's collector would touch, and so copy, every page of it.
        gc.unfreeze()  # what has just been stopped is garbage
        gc.collect()
        gc.freeze()

    start()
    os.register_at_fork(before=leave, after_in_child=start_again)


@contextmanager
def leaving_if_misconfigured() -> Iterator[None]:
    """Leave with 78 where a setting, key or migration is wrong, with each fault in a line."""
    try:
        yield
    except Misconfigured as error:
        print_faults(error)
        raise SystemExit(EXIT_MISCONFIGURED) from None


def print_faults(error: Misconfigured) -> None:
    """Print each fault in a line on stderr."""
    for fault in error.faults:
        print(f"auth-portal: {fault}", file=sys.stderr, flush=True)


def is_command() -> bool:
    """Report whether a command of ``flask`` or ``auth-portal`` loaded this process's app; granian's own is not one."""
    context = click.get_current_context(silent=True)
    return context is not None and context.find_object(ScriptInfo) is not None
