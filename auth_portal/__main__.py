"""The console command ``auth-portal`` (or ``python -m auth_portal``), from a wheel or the project, in any folder.

It has commands of its own, and each command of ``flask --app app`` under the same name.
"""

from __future__ import annotations

import click
from flask.cli import ScriptInfo

from auth_portal.bootstrap import create_app
from auth_portal.settings import VERSION


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
            ctx.obj = ScriptInfo(create_app=create_app, set_debug_flag=False)
        loaded: ScriptInfo = ctx.obj
        return loaded.load_app().cli


@click.group(cls=Console, context_settings={"help_option_names": ["-h", "--help"]})
def console() -> None:
    """Auth Portal: verifies the customers of a chat. All settings are environment variables that begin with PORTAL_."""


@console.command()
def version() -> None:
    """Print the version."""
    click.echo(VERSION)


def main() -> None:
    """Run the command that the command line names."""
    console(prog_name="auth-portal")


if __name__ == "__main__":
    main()
