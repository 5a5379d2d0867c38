"""The console command ``auth-portal`` (or ``python -m auth_portal``), from a wheel or the project, in any folder.

It has commands of its own, and each command of ``flask --app app`` under the same name.
"""

from __future__ import annotations

import gc

gc.disable()  # while modules are loaded: it would look at all of them time and again, and none is ever garbage

import importlib  # noqa: E402

import click  # noqa: E402
from flask import Flask  # noqa: E402
from flask.cli import ScriptInfo  # noqa: E402

from auth_portal import bootstrap  # noqa: E402
from auth_portal.settings import VERSION, read_settings  # noqa: E402

gc.enable()


class Console(click.Group):
    """Loads the app, and with it the commands of ``cli``, only for a command that it does not have itself."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *self._of_app(ctx).list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name, or None."""
        return super().get_command(ctx, cmd_name) or self._of_app(ctx).get_command(ctx, cmd_name)

    def _of_app(self, ctx: click.Context) -> click.Group:
        if ctx.obj is None:
            ctx.obj = ScriptInfo(create_app=bootstrap.create_app, set_debug_flag=False)
        loaded: ScriptInfo = ctx.obj
        return loaded.load_app().cli


@click.group(cls=Console, context_settings={"help_option_names": ["-h", "--help"]})
def console() -> None:
    """Auth Portal: verifies the customers of a chat. All settings are environment variables that begin with PORTAL_."""


@console.command()
def version() -> None:
    """Print the version."""
    click.echo(VERSION)


@console.command()
@click.option("--bind", metavar="ADDRESS", help="HOST:PORT, or unix:PATH (PORTAL_BIND).")
@click.option("--workers", metavar="NUMBER", help="Processes (PORTAL_WORKERS).")
@click.option("--threads", metavar="NUMBER", help="Threads of each process (PORTAL_THREADS).")
def serve(**options: str | None) -> None:
    """Serve the portal, with gunicorn, until SIGTERM.

    Exits with 78 if a setting, key or migration is wrong, with 75 if the address is in use.
    """
    with bootstrap.leaving_if_misconfigured():
        settings = read_settings(options={name: text for name, text in options.items() if text is not None})

    def load() -> Flask:
        app = bootstrap.create_app()
        bootstrap.serve(app)
        return app

    # Only here: other commands and other servers have no use for gunicorn.
    importlib.import_module("auth_portal.web.server").PortalServer(
        load,
        settings.drain_seconds,
        bind=settings.binds,
        workers=settings.workers,
        threads=settings.threads,
        umask=0o777 & ~settings.socket_mode,
    ).run()


def main() -> None:
    """Run the command that the command line names."""
    console(prog_name="auth-portal")


if __name__ == "__main__":
    main()
