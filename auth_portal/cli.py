"""The operator's commands: ``auth-portal init``, ``db``, ``demo``, ``customers``, ``config`` and the rest.

A command reads the settings when it runs. If it cannot do its job it prints one line per reason on stderr,
``auth-portal: …``, and exits with 1, or with 2 if the reason is in the data that it was given. This module loads
Alembic, so only a ``flask`` command imports it.
"""

from __future__ import annotations

import gc
import logging
import os
import pwd
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import AppGroup
from markupsafe import Markup

from auth_portal.clock import Clock, iso
from auth_portal.errors import DatabaseAway, Misconfigured, Problem
from auth_portal.i18n import error_text, speaking
from auth_portal.services.config.file import BadConfig
from auth_portal.services.history.audit_check import AuditCheck, AuditFault, read_heads
from auth_portal.services.imports.imports import ImportReport
from auth_portal.services.operations import backups, installation
from auth_portal.services.operations.demo import load_demo
from auth_portal.services.operations.installation import Examination, examine, plain_faults
from auth_portal.services.operations.retention import prune
from auth_portal.services.serving import NOTHING_KNOWN, RETRY_SECONDS, Services
from auth_portal.settings import Settings, read_settings
from auth_portal.telemetry import Origin, log_event, origin, set_up_logging

Build = Callable[[Settings], Services]

EXTENSION = "auth_portal_cli"
CANNOT = 1
BAD_DATA = 2
MOST_FAULTS = 200  # lines that `audit verify` prints; their number is always printed
ERRORS = {
    "customer_unknown": "No customer has this ID.",
    "customer_id_shared": "Several customers have this ID in different spellings. Enter the exact spelling of one.",
}
FILE = click.Path(path_type=Path, dir_okay=False)  # opening a missing file gives our own one line


def register(app: Flask, build: Build, clock: Clock) -> None:
    """Add the commands to an app. ``build`` returns the services that they work with."""
    app.extensions[EXTENSION] = (build, clock)
    for command in commands.commands.values():
        app.cli.add_command(command)


class Command(click.Command):
    """A command that reports a failure in plain lines."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and exit with a status that scripts can read."""
        try:
            account = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # a container without an entry for its user
            account = f"number {os.getuid()}"
        account = f"the user {account} on {socket.gethostname()}"
        token = origin.set(Origin(command=ctx.command_path, account=account, is_recorded=True))
        ctx.call_on_close(lambda: origin.reset(token))
        try:
            with plain_faults():
                return super().invoke(ctx)
        except BadConfig as error:
            _leave(ctx, BAD_DATA, error.faults)
        except Misconfigured as error:
            _leave(ctx, CANNOT, error.faults)
        except Problem as problem:
            _leave(ctx, BAD_DATA, [ERRORS.get(problem.code) or error_text(problem.code, params=problem.params)])


class Commands(AppGroup):
    """A group of such commands."""

    command_class = Command


def _leave(ctx: click.Context, status: int, lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(f"auth-portal: {line}", err=True)
    ctx.exit(status)


def _say(lines: Iterable[object]) -> None:
    for line in lines:
        click.echo(str(line))


def _build() -> Build:
    build: Build = current_app.extensions[EXTENSION][0]
    return build


@contextmanager
def _portal(*, only_reads: bool = False) -> Iterator[Services]:
    """Yield the services of this installation and close them. Raise Misconfigured if it cannot be used.

    Nothing is written by a clock that differs from the database's (D8).
    """
    with closing(_build()(read_settings())) as services:
        if not only_reads and (fault := services.health.clock_fault()):
            raise Misconfigured(f"{fault}; set this machine's clock and run the command again")
        yield services


commands = Commands()


@commands.command("init")
def init() -> None:
    """Create the instance folder, keys and database; keep what exists."""
    clock: Clock = current_app.extensions[EXTENSION][1]
    _say(installation.initialise(read_settings(), clock) or ["Everything exists already."])


@commands.command("demo")
def demo() -> None:
    """Load a demo bank with journeys and customers; needs PORTAL_SANDBOX=1."""
    with _portal() as portal:
        _say(load_demo(portal.settings, portal.configuration, portal.command_import, portal.api_keys))


@commands.command("dispatch")
def dispatch() -> None:
    """Send callbacks and messages until stopped; for PORTAL_DISPATCH=off."""
    set_up_logging()
    # Blocked in all threads, they stay pending until they are waited for. A handler is called between two steps of
    # Python: of a signal that arrives after the last one before a wait, only the next signal would remind it.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    services = None
    while services is None:
        try:
            settings = read_settings()
            set_up_logging(settings.log_level)
            services = _build()(settings)
        except DatabaseAway as away:
            log_event("database_is_away", level=logging.ERROR, why=str(away))
            if signal.sigtimedwait(stops, RETRY_SECONDS):
                return
        except Misconfigured as error:
            _leave(click.get_current_context(), os.EX_CONFIG, error.faults)
    with closing(services):
        services.dispatcher.start()
        services.heart.start()
        services.heart.wake()
        gc.freeze()  # what was loaded so far is never garbage: a full collection stopped all threads for 0.1 s
        log_event("dispatcher_started")
        signal.sigwait(stops)
        services.heart.ask_to_stop()
        services.dispatcher.stop()
        services.heart.stop(1.0)
        log_event("dispatcher_stopped")


@commands.command("restored")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask first.")
def restored(is_sure: bool) -> None:
    """Make a database that came from a backup safe to serve. Run it once, before any server or dispatcher starts."""
    if not is_sure:
        clock: Clock = current_app.extensions[EXTENSION][1]
        _say(["What this does:", *(f"- {what}" for what in installation.closings(clock()))])
        click.confirm("Are all servers and dispatchers stopped, and is this database a restored one?", abort=True)
    with _portal() as portal:
        counts = installation.close_restored(portal.transactions)
    _say(f"{count} {what}." for what, count in counts.items())


@commands.command("backup")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--keep", type=click.IntRange(min=1), help="Remove all but so many newest backups of this portal in DIR.")
def backup(folder: Path, keep: int | None) -> None:
    """Make a backup of the database in DIR while the portal serves. The keys are not in it."""
    with _portal() as portal:
        made = backups.back_up(portal.settings, portal.transactions, folder, keep)
    _say([f"{made.path}: {made.size} bytes" + (f"; {made.removed} older backups removed" if made.removed else "")])
    place = backups.place_of_keys(portal.settings)
    click.echo(f"auth-portal: the keys are not in it: store {place} in another place, or it can't be read", err=True)


@commands.command("restore")
@click.argument("place", metavar="DIR_OR_FILE", type=click.Path(path_type=Path))
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask before data is replaced; it is stored aside anyway.")
def restore(place: Path, is_sure: bool) -> None:
    """Put a backup, or the newest one in a folder, in the database's place, and close what it would answer twice."""

    def agrees(question: str) -> bool:
        try:
            return is_sure or click.confirm(question)
        except click.Abort:  # there is no terminal to ask on
            return False

    clock: Clock = current_app.extensions[EXTENSION][1]
    restored = backups.restore(read_settings(), clock, place, agrees)
    _say([f"Restored {restored.manifest.file}, made at {iso(restored.manifest.made_at)}."])
    _say(f"{count} {what}." for what, count in restored.counts.items())
    _say([f"What was there before is stored as {restored.aside}."] if restored.aside else [])
    _say(["Run `auth-portal doctor`, then start the dispatchers and servers."])


@commands.command("pages")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False, exists=True))
def pages(folder: Path) -> None:
    """Write DIR/unavailable.html, for a proxy to show while no server answers. Repeat it after a change of look."""
    settings, file = read_settings(), folder / "unavailable.html"
    try:
        with _portal(only_reads=True) as portal:
            known = portal.journeys.current()
            look, css = known.contained_look(portal.logos.get)
    except Misconfigured as error:
        if file.exists():
            raise Misconfigured(*error.faults, f"{file} stays as it is") from error
        for fault in error.faults:
            click.echo(f"auth-portal: {fault}", err=True)
        click.echo("auth-portal: so the page has neither the portal's name nor its look", err=True)
        known = NOTHING_KNOWN
        look, css = known.contained_look(None)
    its = known.portal
    with speaking(its.language if its.language in its.offered else ""):
        text = current_app.jinja_env.get_template("unavailable.html").render(
            look=look,
            css=Markup(css),  # nosec B704  # noqa: S704 -- ours, and colours that were checked when they were saved
            business=its.name,
            support=its.support_contact,
            site_host=settings.shown_host,
            text=error_text("unavailable"),
            language_url="",
        )
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(text + "\n", encoding="utf-8")
    draft.chmod(0o644)  # the proxy is another user
    draft.replace(file)
    _say([f"{file}: {len(text.encode()) + 1} bytes"])


@commands.command("prune")
def prune_command() -> None:
    """Delete what retention allows: codes, verifications, audit events, counters."""
    with _portal() as portal:
        removed = prune(portal.transactions)
    _say(f"{count} {kind} removed." for kind, count in removed.items())


@commands.command("doctor")
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Check everything that the portal needs. Send no message and no callback."""
    try:
        settings = read_settings()
    except Misconfigured as error:
        _say(Examination(False, "settings", fault) for fault in error.faults)
        ctx.exit(CANNOT)
    is_well = True
    for finding in examine(settings, _build()):
        _say([finding])
        is_well = is_well and finding.is_well
    ctx.exit(0 if is_well else CANNOT)


db = Commands("db", help="The database's tables.")
customers = Commands("customers", help="The customers who can be verified.")
config = Commands("config", help="Portal settings, channels and journeys as a TOML file.")
admin = Commands("admin", help="The admins of the configuration page.")
keys = Commands("keys", help="The keys that encrypt the data keys.")
audit = Commands("audit", help="The audit trail.")
macs = Commands("macs", help="The MACs of the rows that say who a customer or admin is.")
for _group in (audit, macs, db, customers, config, admin, keys):
    commands.add_command(_group)


@db.command("upgrade")
def upgrade() -> None:
    """Migrate the database to this version."""
    installation.upgrade(read_settings(), current_app.extensions[EXTENSION][1])
    _say(["The database matches this version."])


@db.command("check")
def check() -> None:
    """Report whether the database matches this version."""
    if faults := installation.schema_faults(read_settings()):
        raise Misconfigured(*faults)
    _say(["The database matches this version."])


@db.command("stamp")
@click.argument("revision")
def stamp(revision: str) -> None:
    """Let version 0.1.0 (0002) start on these tables again, until the next upgrade. Later versions start without."""
    installation.stamp(read_settings(), revision)
    _say([f"A version whose last migration is {revision} starts now. `auth-portal db upgrade` takes this back."])


@customers.command("import")
@click.argument("file", type=FILE)
@click.option("--dry-run", is_flag=True, help="Count what would change and what notices it would send; write nothing.")
@click.option("--sheet", default="", help="The name or number of the sheet of a workbook; otherwise the first.")
@click.option("--notify", is_flag=True, help="Notify customers whose phone number or email address it changes.")
@click.option("--yes", "is_sure", is_flag=True, help="With --notify: send the messages without asking first.")
@click.pass_context
def import_customers(ctx: click.Context, file: Path, dry_run: bool, sheet: str, notify: bool, is_sure: bool) -> None:
    """Import a CSV file or workbook (.xlsx): all of it, or nothing if any row is invalid."""
    with _portal() as portal:
        bring_in = partial(
            portal.command_import.import_csv,
            file,
            default_region=portal.journeys.current().portal.default_region,
            sheet=sheet,
        )
        report = bring_in(dry_run=dry_run or (notify and not is_sure), is_notifying=notify)
        _say_import(ctx, file, report)
        if report.is_dry_run and not dry_run:
            try:
                is_sure = not report.routes or click.confirm("Import the file and send these messages?")
            except click.Abort:  # there is no terminal to ask on
                is_sure = False
            if not is_sure:
                raise Misconfigured("Nothing was imported.")
            _say_import(ctx, file, bring_in(dry_run=False, is_notifying=True))


def _say_import(ctx: click.Context, file: Path, report: ImportReport) -> None:
    if report.error_count:
        _leave(ctx, BAD_DATA, (f"{file.name}: {line}" for line in report.lines))
    _say(report.lines)


@customers.command("erase")
@click.argument("customer_id")
def erase(customer_id: str) -> None:
    """Erase a customer and everything that identifies them. Backups keep it until they are deleted."""
    with _portal() as portal:
        erased = portal.erasure.erase(portal.customers.row_of(customer_id))
    _say([f"Erased, with {erased.visits} visits and {erased.verifications} verifications."])


@customers.command("renew")
@click.argument("customer_id")
def renew(customer_id: str) -> None:
    """Unlock a customer's methods after too many wrong tries. First make sure who is asking."""
    with _portal() as portal:
        portal.credentials.renew(portal.customers.row_of(customer_id))
    _say(["Unlocked: this customer's wrong tries start again at zero."])


@config.command("import")
@click.argument("file", type=FILE)
@click.option("--prune", "is_pruning", is_flag=True, help="Also turn off channels and journeys that it does not name.")
@click.pass_context
def import_config(ctx: click.Context, file: Path, is_pruning: bool) -> None:
    """Make what the file names equal to the file: all of it, or nothing if the file has a fault."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        _leave(ctx, BAD_DATA, [f"{file.name}: is not UTF-8"])
    with _portal() as portal:
        summary = portal.configuration.import_toml(text, file_name=file.name, prune=is_pruning)
    _say(summary.lines or ["Nothing changed."])
    for warning in summary.warnings:
        click.echo(f"auth-portal: {warning}", err=True)


@config.command("export")
@click.argument("file", type=FILE, required=False)
def export_config(file: Path | None) -> None:
    """Write everything in use, secrets as "keep", to FILE or to the screen."""
    with _portal(only_reads=True) as portal:
        text = portal.configuration.export_toml()
    if file is None:
        click.echo(text, nl=False)
    else:
        file.write_text(text, encoding="utf-8")


@keys.command("rotate")
def rotate() -> None:
    """Encrypt every data key with the first of PORTAL_SECRET_KEYS."""
    with _portal() as portal:
        count = installation.rotate_keys(portal.transactions.database, portal.settings.master_keys(), portal.clock)
    _say(
        [
            f"{count} data keys are now encrypted with the first key."
            if count
            else "The first key already encrypts all of them."
        ]
    )


@admin.command("create")
@click.option("--role", default="owner", show_default=True, help="owner, support or auditor.")
@click.option("--email", default="", help="The address of the new admin.")
@click.option("--if-none", "only_first", is_flag=True, help="Print nothing if there is an owner already.")
def create_admin(role: str, email: str, only_first: bool) -> None:
    """Print a one-time link that makes a new admin: there is no default password."""
    with _portal() as portal:
        if only_first and portal.admins.has_owner():
            return
        token = portal.admins.invite(role, email=email)
    _say([f"{read_settings().public_url}/admin/join/{token}"])


@admin.command("reset")
@click.argument("email")
def reset_admin(email: str) -> None:
    """Print a one-time link to set a new password and app; the old ones stop working immediately."""
    with _portal() as portal:
        token = portal.admins.reset(portal.admins.id_of(email))
    _say([f"{read_settings().public_url}/admin/join/{token}"])


@audit.command("verify")
@click.option(
    "--heads", type=FILE, help="Compare with heads that were stored elsewhere: of `audit heads`, or log lines."
)
@click.pass_context
def verify_audit(ctx: click.Context, heads: Path | None) -> None:
    """Check every event and every block; exit with 1 and name what was edited, deleted, added or moved."""
    count, blocks, faults, last = 0, 0, 0, AuditCheck()
    with _portal(only_reads=True) as portal:
        for last in portal.audit_checks.check_all():
            count, blocks = count + last.count, blocks + last.blocks
            faults += _complain(last.faults, faults)
        if heads is not None:
            try:
                exported = read_heads(heads.read_text(encoding="utf-8").splitlines())
            except ValueError as error:
                _leave(ctx, BAD_DATA, [f"{heads.name}: {error}"])
            compared, differing = portal.audit_checks.compare(exported)
            faults += _complain(differing, faults)
            _say([f"{compared} of {len(exported)} heads compared; the other blocks were removed by retention."])
        examined = installation.examine_macs(portal.transactions, ended=True)
        if not examined.is_well:
            faults += _complain([AuditFault(examined.detail)], faults)
    _say([f"{count} events in {blocks} blocks checked, {faults} faults found."])
    if last.unsealed_since is not None:
        since = iso(last.unsealed_since)
        _say([f"{last.unsealed} events since {since} are not sealed yet. If one was deleted, that doesn't show."])
    ctx.exit(CANNOT if faults else 0)


def _complain(faults: Sequence[AuditFault], before: int) -> int:
    """Print faults, up to MOST_FAULTS with those before; return how many there are."""
    for fault in faults[: max(0, MOST_FAULTS - before)]:
        click.echo(f"auth-portal: {fault.words}", err=True)
    return len(faults)


@macs.command("seal")
@click.option("--again", is_flag=True, help="Also accept rows that were changed since MACs are required.")
def seal_macs(again: bool) -> None:
    """Write all missing MACs and require them from now on. Run it after the last process of the old version."""
    with _portal() as portal:
        broken = installation.require_macs(portal.transactions, again=again)
    changed = [row for row in broken if not row.is_missing]
    _say([f"{len(broken)} rows got a MAC. From now on, a row whose MAC is missing or wrong is not used."])
    _say(f"{row.table} {row.row}: its MAC was wrong; make sure that an old process changed it" for row in changed)


@audit.command("heads")
@click.option("--newest", is_flag=True, help="Only the newest one, which stands for everything before it.")
def audit_heads(newest: bool) -> None:
    """Print the number and head of each block. Store them where no one who can write the database can write."""
    with _portal(only_reads=True) as portal:
        _say(portal.audit_checks.heads(only_newest=newest))


@audit.command("restart")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask first.")
def restart_audit(is_sure: bool) -> None:
    """Give up a broken chain and seal all events again as they are now. Store the output of `audit verify` first."""
    if not is_sure:
        click.confirm("What was changed until now can't be found afterwards. Start the chain again?", abort=True)
    with _portal() as portal:
        installation.restart_audit(portal.transactions)
    _say(["The chain begins again. A dispatcher seals the events now."])
