"""The operator's commands: ``flask --app app init``, ``db``, ``demo``, ``customers``, ``config`` and the rest.

A command reads the settings when it runs. Where it cannot do its job it says so in one line per reason on stderr,
``auth-portal: …``, and leaves with 1; with 2 where the reason lies in the data that it was given. Loads Alembic, so
only a ``flask`` command imports this.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import AppGroup

from auth_portal.clock import Clock, system_clock
from auth_portal.errors import Misconfigured, Problem
from auth_portal.i18n import error_text
from auth_portal.services.config.file import BadConfig
from auth_portal.services.directory.directory import ImportReport
from auth_portal.services.dispatcher import OWN_POLL_SECONDS
from auth_portal.services.operations import installation
from auth_portal.services.operations.demo import load_demo
from auth_portal.services.operations.doctor import Finding, examine
from auth_portal.services.operations.keys import rotate_keys
from auth_portal.services.operations.opening import Opened, opened, plain_faults
from auth_portal.services.operations.retention import prune
from auth_portal.services.stories.audit_trail import AuditTrail
from auth_portal.settings import Settings, read_settings
from auth_portal.telemetry import log_event, set_up_logging

Build = Callable[[Settings, float], Any]  # the services of a process and its database, for a dispatcher's poll

EXTENSION = "auth_portal_cli"
CANNOT = 1
BAD_DATA = 2
ERRORS = {"customer_unknown": "Nobody has this customer ID."}
FILE = click.Path(path_type=Path, dir_okay=False)  # whether it is there is said by whoever opens it, in our one line


def register(app: Flask, build: Build, *, clock: Clock = system_clock) -> None:
    """Adds the commands to an app. ``build`` gives ``dispatch`` its services."""
    app.extensions[EXTENSION] = (build, clock)
    for command in commands.commands.values():
        app.cli.add_command(command)


class Command(click.Command):
    """Runs in the app's context; says in plain lines why it cannot."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command, and leaves with a status that scripts can read."""
        with _plainly(ctx):
            return super().invoke(ctx)


class Commands(AppGroup):
    """A group whose commands are all of that kind."""

    command_class = Command


@contextmanager
def _plainly(ctx: click.Context) -> Iterator[None]:
    try:
        with plain_faults():
            yield
    except BadConfig as error:
        _leave(ctx, BAD_DATA, error.faults)
    except Misconfigured as error:
        _leave(ctx, CANNOT, error.faults)
    except Problem as problem:
        _leave(ctx, BAD_DATA, [ERRORS.get(problem.code) or error_text(problem.code)])


def _leave(ctx: click.Context, status: int, lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(f"auth-portal: {line}", err=True)
    ctx.exit(status)


def _say(lines: Iterable[object]) -> None:
    for line in lines:
        click.echo(str(line))


def _clock() -> Clock:
    clock: Clock = current_app.extensions[EXTENSION][1]
    return clock


def _opened() -> AbstractContextManager[Opened]:
    return opened(read_settings(), _clock())


commands = Commands()


@commands.command("init")
def init() -> None:
    """Makes the instance folder, keys and database; what is there already stays."""
    _say(installation.initialise(read_settings(), _clock()) or ["Everything is there already."])


@commands.command("demo")
def demo() -> None:
    """Loads a demo bank with journeys and customers; needs PORTAL_SANDBOX=1."""
    with _opened() as portal:
        _say(load_demo(portal))


@commands.command("dispatch")
def dispatch() -> None:
    """Sends callbacks and messages until it is told to stop; for PORTAL_DISPATCH=off."""
    set_up_logging()
    build: Build = current_app.extensions[EXTENSION][0]
    services, database = build(read_settings(), OWN_POLL_SECONDS)
    with closing(database):
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        services.dispatcher.start()
        log_event("dispatcher_started")
        stopping.wait()
        services.dispatcher.stop()
        log_event("dispatcher_stopped")


@commands.command("prune")
def prune_command() -> None:
    """Removes what has been kept for long enough: codes, verifications, audit events, counters."""
    with _opened() as portal:
        removed = prune(portal.database, portal.clock)
    _say(f"{count} {kind} removed." for kind, count in removed.items())


@commands.command("doctor")
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Looks at everything the portal needs. Sends no message and no callback."""
    try:
        settings = read_settings()
    except Misconfigured as error:
        _say(Finding(False, "settings", fault) for fault in error.faults)
        ctx.exit(CANNOT)
    is_well = True
    for finding in examine(settings, _clock()):
        _say([finding])
        is_well = is_well and finding.is_well
    ctx.exit(0 if is_well else CANNOT)


db = Commands("db", help="The database's tables.")
customers = Commands("customers", help="The people who can be verified.")
config = Commands("config", help="Portal settings, channels and journeys as a TOML file.")
admin = Commands("admin", help="Who may use the configuration page.")
keys = Commands("keys", help="The keys that wrap the data keys.")
audit = Commands("audit", help="The audit trail.")
for _group in (audit, db, customers, config, admin, keys):
    commands.add_command(_group)


@db.command("upgrade")
def upgrade() -> None:
    """Brings the tables to what this version needs."""
    installation.upgrade(read_settings())
    _say(["The database is as this version needs it."])


@db.command("check")
def check() -> None:
    """Says whether the tables are what this version needs."""
    if faults := installation.schema_faults(read_settings()):
        raise Misconfigured(*faults)
    _say(["The database is as this version needs it."])


@customers.command("import")
@click.argument("file", type=FILE)
@click.option("--dry-run", is_flag=True, help="Counts what would change, and what telling takes; writes nothing.")
@click.option("--notify", is_flag=True, help="Tells customers whose phone or e-mail address it changes.")
@click.option("--yes", "is_sure", is_flag=True, help="With --notify: sends the messages without asking first.")
@click.pass_context
def import_customers(ctx: click.Context, file: Path, dry_run: bool, notify: bool, is_sure: bool) -> None:
    """Imports a CSV file: all of it, or with any broken row nothing."""
    with _opened() as portal:
        bring_in = partial(portal.directory.import_csv, file, default_region=portal.default_region)
        report = bring_in(dry_run=dry_run or (notify and not is_sure), is_telling=notify)
        _say_import(ctx, file, report)
        if report.is_dry_run and not dry_run:
            if report.ways and not _is_confirmed("Import the file and send these messages?"):
                raise Misconfigured("Nothing was imported.")
            _say_import(ctx, file, bring_in(dry_run=False, is_telling=True))


def _say_import(ctx: click.Context, file: Path, report: ImportReport) -> None:
    if report.error_count:
        _leave(ctx, BAD_DATA, (f"{file.name}: {line}" for line in report.lines))
    _say(report.lines)


def _is_confirmed(question: str) -> bool:
    """Whether somebody says yes; where nobody can be asked, nobody did."""
    try:
        return click.confirm(question)
    except click.Abort:
        return False


@customers.command("erase")
@click.argument("customer_id")
def erase(customer_id: str) -> None:
    """Removes a person and all that identifies them. Backups keep it until they are gone."""
    with _opened() as portal:
        erased = portal.erasure.erase(portal.row_of(customer_id))
    _say([f"Erased, with {erased.visits} visits and {erased.verifications} verifications."])


@customers.command("renew")
@click.argument("customer_id")
def renew(customer_id: str) -> None:
    """Opens a person's methods again after too many wrong tries. Make sure first of who is asking."""
    with _opened() as portal:
        portal.credentials.renew(portal.row_of(customer_id))
    _say(["Renewed: the wrong tries of this person are counted from none."])


@config.command("import")
@click.argument("file", type=FILE)
@click.option("--prune", "is_pruning", is_flag=True, help="Also switches off channels and journeys it does not name.")
@click.pass_context
def import_config(ctx: click.Context, file: Path, is_pruning: bool) -> None:
    """Makes what the file names equal to the file: all of it, or with any fault nothing."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        _leave(ctx, BAD_DATA, [f"{file.name}: is not UTF-8"])
    with _opened() as portal:
        summary = portal.configuration.import_toml(text, file_name=file.name, prune=is_pruning)
    _say(summary.lines or ["Nothing changed."])
    for warning in summary.warnings:
        click.echo(f"auth-portal: {warning}", err=True)


@config.command("export")
@click.argument("file", type=FILE, required=False)
def export_config(file: Path | None) -> None:
    """Writes everything in use, secrets as "keep", to FILE or to the screen."""
    with _opened() as portal:
        text = portal.configuration.export_toml()
    if file is None:
        click.echo(text, nl=False)
    else:
        file.write_text(text, encoding="utf-8")


@keys.command("rotate")
def rotate() -> None:
    """Wraps every data key under the first of PORTAL_SECRET_KEYS."""
    with _opened() as portal:
        count = rotate_keys(portal.database, portal.master, portal.clock)
    _say([f"{count} data keys are wrapped by the first key now." if count else "The first key wraps them all already."])


@admin.command("create")
@click.option("--role", default="owner", show_default=True, help="owner, support or auditor.")
@click.option("--email", default="", help="Whom the link is for.")
@click.option("--if-none", "only_first", is_flag=True, help="Says nothing where there is an owner already.")
def create_admin(role: str, email: str, only_first: bool) -> None:
    """Prints a one-time link with which somebody becomes an admin: there is no default password."""
    with _opened() as portal:
        if only_first and portal.admins.has_owner():
            return
        token = portal.admins.invite(role, email=email)
    _say([f"{read_settings().public_url}/admin/join/{token}"])


@admin.command("reset")
@click.argument("email")
def reset_admin(email: str) -> None:
    """Prints a one-time link with which an admin sets password and app anew; what they had opens nothing any more."""
    with _opened() as portal:
        token = portal.admins.reset(portal.admins.id_of(email))
    _say([f"{read_settings().public_url}/admin/join/{token}"])


@audit.command("verify")
@click.pass_context
def verify_audit(ctx: click.Context) -> None:
    """Holds each audit event against its own signature; leaves with 1 and names those that were altered.

    That none was removed, added or moved is not shown by it: events are not chained yet.
    """
    count, broken = 0, 0
    with _opened() as portal:
        for checked in AuditTrail(portal.database, portal.keyring, portal.clock).check_all():
            count += checked.count
            broken += len(checked.broken)
            for event_id in checked.broken:
                click.echo(f"auth-portal: event {event_id} was altered after it was written", err=True)
    _say(
        [f"{count} events checked, {broken} altered. Removed or added events are not found: they are not chained yet."]
    )
    ctx.exit(CANNOT if broken else 0)
