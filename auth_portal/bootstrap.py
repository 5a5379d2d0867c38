"""Where settings, gateways, services and web meet.

``create_app`` only wires: no connection, no thread, no key, so that every command loads. ``serve`` is the process's own
start, and a forked child's again: settings, keys and migrations are checked, then the engine, the gate and the
dispatcher threads are made. Under a ``flask`` command nothing is served.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from flask import Flask
from flask.cli import FlaskGroup

from auth_portal import i18n
from auth_portal.clock import Clock, iso, system_clock
from auth_portal.crypto import Keyring, MasterKeys, Passwords
from auth_portal.errors import Misconfigured
from auth_portal.gateways.channels import check_destination
from auth_portal.gateways.flow import FlowGateway
from auth_portal.gateways.outbound import NetworkPolicy, Outbound
from auth_portal.methods import all_methods, words_of
from auth_portal.services.access.admin_sessions import AdminSessions
from auth_portal.services.access.admins import Admins
from auth_portal.services.access.api_answers import ApiAnswers
from auth_portal.services.access.api_keys import ApiKeys
from auth_portal.services.alerts.alerts import Alerts
from auth_portal.services.alerts.webhooks import Webhooks
from auth_portal.services.config.channel_editor import ChannelEditor
from auth_portal.services.config.configuration import Configuration
from auth_portal.services.config.journey_editor import JourneyEditor
from auth_portal.services.config.journey_history import JourneyHistory
from auth_portal.services.config.logos import Logos
from auth_portal.services.config.portal_editor import PortalEditor
from auth_portal.services.deliveries import Deliverer
from auth_portal.services.delivery_lists import DeliveryLists
from auth_portal.services.directory.credential_links import CredentialLinks
from auth_portal.services.directory.credentials import Credentials
from auth_portal.services.directory.directory import Directory
from auth_portal.services.directory.erasure import Erasure
from auth_portal.services.directory.people import People
from auth_portal.services.directory.person_export import PersonExport
from auth_portal.services.dispatcher import INLINE_POLL_SECONDS, Dispatcher
from auth_portal.services.endings import Endings
from auth_portal.services.imports.imports import Imports
from auth_portal.services.imports.work import ImportWork
from auth_portal.services.imports.worker import ImportWorker
from auth_portal.services.journeys import Journeys, Snapshot
from auth_portal.services.messages import Texts
from auth_portal.services.method_names import all_proofs, any_method, method_name
from auth_portal.services.notices import Notices
from auth_portal.services.operations.health import Health
from auth_portal.services.operations.housekeeping import Housekeeping
from auth_portal.services.operations.keys import load_keyring
from auth_portal.services.outbox import Outbox
from auth_portal.services.serving import Services
from auth_portal.services.setup.drive_world import Parts
from auth_portal.services.setup.drives import Drives
from auth_portal.services.setup.reach import Reaches
from auth_portal.services.setup.trials import Trials
from auth_portal.services.stories.audit_trail import AuditTrail
from auth_portal.services.stories.overview import Overview
from auth_portal.services.stories.stories import Stories
from auth_portal.services.tickets import Tickets
from auth_portal.services.verifications import Verifications
from auth_portal.settings import Settings, read_settings
from auth_portal.store.db import Database, schema_fault
from auth_portal.telemetry import log_event, set_up_logging
from auth_portal.web import assets, credentials, edge, looks, ops, visitor
from auth_portal.web.admin import admin
from auth_portal.web.api.routes import api
from auth_portal.web.context import EXTENSION

ROOT = Path(__file__).resolve().parent.parent
# gunicorn and granian both stop for good, instead of trying for ever, when a worker leaves with this while loading.
EXIT_MISCONFIGURED = 3


def create_app(*, clock: Clock = system_clock) -> Flask:
    """The WSGI app, wired but not yet serving. All time comes from ``clock``."""
    app = Flask("auth_portal", template_folder=str(ROOT / "templates"), static_folder=None)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.add_extension("jinja2.ext.i18n")
    app.jinja_env.install_gettext_callables(i18n.gettext, i18n.ngettext, newstyle=False)  # type: ignore[attr-defined]
    app.jinja_env.globals.update({"_": i18n.gettext, "gettext": i18n.gettext, "ngettext": i18n.ngettext})
    app.jinja_env.filters["iso"] = iso
    app.jinja_env.globals.update(
        {"method_words": words_of, "method_name": method_name, "any_method": any_method, "all_proofs": all_proofs}
    )
    app.jinja_env.newstyle_gettext = True  # type: ignore[attr-defined]
    edge.register(app)
    assets.register(app)
    app.register_blueprint(visitor.visitor)
    app.register_blueprint(credentials.credentials)
    app.register_blueprint(ops.ops)
    app.register_blueprint(looks.looks)
    app.register_blueprint(admin)
    app.register_blueprint(api)
    if is_flask_command():
        # Only here: the commands bring Alembic, which a worker has no use for.
        commands = importlib.import_module("auth_portal.cli")
        commands.register(app, lambda settings, poll_seconds: build(settings, clock, poll_seconds))
    app.extensions["auth_portal_process"] = Process(app, clock)
    return app


def build(settings: Settings, clock: Clock, poll_seconds: float) -> tuple[Services, Database]:
    """Every service of one process. Raises Misconfigured with one line for each thing to mend."""
    ground = _ground(settings, clock)
    return _services(ground, _sending(ground, poll_seconds)), ground.database


@dataclass(frozen=True)
class Ground:
    """What nearly every service stands on."""

    settings: Settings
    clock: Clock
    database: Database
    keyring: Keyring
    passwords: Passwords
    outbound: Outbound
    journeys: Journeys
    notices: Notices
    texts: Texts
    webhooks: Webhooks


@dataclass(frozen=True)
class Sending:
    """What works in the background, and ``wake``, which tells it that there is something to send."""

    alerts: Alerts
    import_worker: ImportWorker
    dispatcher: Dispatcher
    wake: Callable[[], None]


def _ground(settings: Settings, clock: Clock) -> Ground:
    master = MasterKeys(settings.master_keys())
    if fault := schema_fault(settings.database):
        raise Misconfigured(fault)
    database = Database(settings.database)
    keyring = load_keyring(database, master)
    outbound = Outbound(NetworkPolicy.from_settings(settings))
    journeys = Journeys(database, keyring, has_sandbox=settings.has_sandbox)
    return Ground(
        settings, clock, database, keyring, Passwords(), outbound, journeys,
        notices=Notices(keyring, journeys), texts=Texts(settings.host),
        webhooks=Webhooks(database, keyring, clock, outbound),
    )  # fmt: skip


def _sending(on: Ground, poll_seconds: float) -> Sending:
    settings, clock, database, keyring, journeys = on.settings, on.clock, on.database, on.keyring, on.journeys
    outbox = Outbox(database, clock)
    flow = FlowGateway(on.outbound, sandbox_url=settings.sandbox_url)
    deliverer = Deliverer(
        database, keyring, clock, journeys, outbox, flow, on.outbound, on.texts, on.webhooks,
        sandbox_url=settings.sandbox_url,
    )  # fmt: skip
    endings = Endings(database, keyring, clock, journeys, lambda: None)
    alerts = Alerts(database, keyring, clock, journeys, on.notices, on.webhooks, public_url=settings.public_url)
    import_worker = ImportWorker(ImportWork(database, keyring, on.passwords, clock, on.notices, is_aside=True))
    housekeeping = Housekeeping(database, keyring, clock)
    dispatcher = Dispatcher(outbox, deliverer, endings, alerts, import_worker, housekeeping, poll_seconds=poll_seconds)
    wake = dispatcher.wake if settings.dispatch == "inline" else lambda: None
    return Sending(alerts, import_worker, dispatcher, wake)


def _services(on: Ground, sending: Sending) -> Services:
    clock, database, keyring, passwords = on.clock, on.database, on.keyring, on.passwords
    journeys, notices, public_url = on.journeys, on.notices, on.settings.public_url
    methods = all_methods(passwords)
    tickets = Tickets(database, keyring, clock, journeys)
    admins = Admins(database, keyring, clock, passwords, notices)
    configuration = Configuration(
        database, keyring, clock, has_sandbox=on.settings.has_sandbox, check_origin=on.outbound.check_origin,
        check_channel=partial(check_destination, outbound=on.outbound), tell_owners=notices.to_owners,
    )  # fmt: skip
    return Services(
        settings=on.settings,
        clock=clock,
        keyring=keyring,
        journeys=journeys,
        methods=methods,
        notices=notices,
        alerts=sending.alerts,
        webhooks=on.webhooks,
        dispatcher=sending.dispatcher,
        health=Health(database, clock),
        tickets=tickets,
        verifications=Verifications(database, keyring, clock, journeys, methods, passwords, tickets, sending.wake),
        delivery_lists=DeliveryLists(database, keyring, clock, sending.wake),
        stories=Stories(database, keyring, clock, journeys),
        audit_trail=AuditTrail(database, keyring, clock),
        overview=Overview(database, clock, journeys),
        admins=admins,
        admin_sessions=AdminSessions(database, keyring, clock, passwords, admins, notices),
        api_keys=ApiKeys(database, keyring, clock, notices),
        api_answers=ApiAnswers(database, keyring, clock),
        configuration=configuration,
        journey_editor=JourneyEditor(database, clock, configuration),
        journey_history=JourneyHistory(database),
        channel_editor=ChannelEditor(database, keyring, clock, configuration),
        portal_editor=PortalEditor(database, configuration),
        logos=Logos(database),
        trials=Trials(database, keyring, clock, configuration, admins, sending.wake),
        reaches=Reaches(database, clock, journeys),
        drives=Drives(database, keyring, journeys, Parts(clock, methods, passwords, on.texts), public_url=public_url),
        directory=Directory(database, keyring, passwords, clock),
        imports=Imports(database, keyring, clock, journeys, notices, sending.import_worker.wake),
        people=People(database, keyring, passwords, clock, journeys, notices),
        credentials=Credentials(database, keyring, clock, journeys, notices),
        credential_links=CredentialLinks(database, keyring, passwords, clock, journeys, notices, public_url),
        erasure=Erasure(database, keyring, clock),
        person_export=PersonExport(database, keyring, clock),
    )


class Process:
    """The serving of one process: made at its start, given up before a fork, made again in the child."""

    def __init__(self, app: Flask, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._database: Database | None = None
        self._has_sandbox = False

    def start(self, environment: Mapping[str, str] | None = None) -> Services:
        """Begins to serve. Raises Misconfigured; then nothing was begun."""
        set_up_logging()
        settings = read_settings(environment)
        services, self._database = build(settings, self._clock, INLINE_POLL_SECONDS)
        edge.serve_with(self._app, is_https=settings.is_https, session_key=services.keyring.session_key())
        self._app.extensions[EXTENSION] = services
        self._add_sandbox(services)
        if settings.dispatch == "inline":
            services.dispatcher.start()
        _say_what_is_loose(settings)
        return services

    def stop(self) -> None:
        """Stops the threads after what is on its way, and closes every connection."""
        services: Services | None = self._app.extensions.pop(EXTENSION, None)
        if services is None or self._database is None:
            return
        services.dispatcher.stop()
        self._database.close()
        self._database = None

    def warm(self) -> None:
        """Compiles what every child would compile for itself, so that they share it."""
        for name in self._app.jinja_env.list_templates(extensions=["html"]):
            self._app.jinja_env.get_template(name)

    def _add_sandbox(self, services: Services) -> None:
        self._app.jinja_env.globals["has_sandbox"] = services.settings.has_sandbox
        if not services.settings.has_sandbox or self._has_sandbox:
            return
        # Only here: a portal with real customers has no use for it.
        stand_in = importlib.import_module("auth_portal.sandbox.portal")
        self._app.register_blueprint(stand_in.of_portal(services.settings, self._snapshot, self._clock))
        self._app.config["CSRF_EXEMPT_ENDPOINTS"] = frozenset(stand_in.CSRF_EXEMPT)
        self._has_sandbox = True

    def _snapshot(self) -> Snapshot:
        services: Services = self._app.extensions[EXTENSION]
        return services.journeys.current()


def serve(app: Flask) -> None:
    """Serves from this process on, unless a ``flask`` command loaded it, and again in each forked child.

    A parent that forks stops serving for good (gunicorn's master under --preload): its children do the work.
    """
    if is_flask_command():
        return
    process: Process = app.extensions["auth_portal_process"]
    start = _starter(process)
    start()
    os.register_at_fork(before=_before_fork(process), after_in_child=start)


def _before_fork(process: Process) -> Callable[[], None]:
    def leave() -> None:
        process.stop()
        process.warm()
        # What was loaded so far is never collected: a child's collector would touch, and so copy, every page of it.
        gc.collect()
        gc.freeze()

    return leave


def _starter(process: Process) -> Callable[[], None]:
    def start() -> None:
        try:
            process.start()
        except Misconfigured as error:
            for fault in error.faults:
                print(f"auth-portal: {fault}", file=sys.stderr, flush=True)
            raise SystemExit(EXIT_MISCONFIGURED) from None

    return start


def is_flask_command() -> bool:
    """Whether a ``flask`` command loaded this process's app; granian's own command is none."""
    context = click.get_current_context(silent=True)
    return context is not None and isinstance(context.find_root().command, FlaskGroup)


def _say_what_is_loose(settings: Settings) -> None:
    if settings.allow_private_callbacks:
        log_event("private_callbacks_allowed", advice="unset PORTAL_ALLOW_PRIVATE_CALLBACKS outside closed networks")
    if settings.has_sandbox:
        log_event("sandbox_on", advice="everybody who reaches this portal can read the test inbox")
