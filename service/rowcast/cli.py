"""The command line: ``rowcast serve``, ``rowcast migrate`` and the others of ``COMMANDS``.

Commands are imported when they run, so ``rowcast version`` and ``rowcast --help`` do not load the whole service.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click

from rowcast import __version__
from rowcast.garbage import kept

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {  # name → module of rowcast.commands, and the help line
    "adopt": ("adopting", "Write a resource file for each table of an existing database."),
    "check": ("serving", "Validate a config directory, with the Python that it names, without a database."),
    "doctor": ("diagnosis", "Check whether changes are delivered, and what prevents it."),
    "dump": ("data", "Write all rows of a resource to a file."),
    "edge": ("edges", "Hold the streams of a service elsewhere, without a database connection."),
    "init": ("projects", "Write a new project into a directory."),
    "load": ("data", "Load the rows in a file into a resource."),
    "makemigrations": ("schema", "Write a revision with everything between database and config."),
    "migrate": ("schema", "Apply the revisions of the migrations directory."),
    "plan": ("schema", "Print the DDL between config and database."),
    "reload": ("reloading", "Apply a changed config to the running service."),
    "run": ("scripts", "Run a Python script with the models, outside requests."),
    "schemas": ("projects", "Write the JSON Schemas of config files, for editors."),
    "serve": ("serving", "Serve the resources until SIGTERM or SIGINT."),
    "shell": ("scripts", "Open a Python console with await and the models."),
    "token": ("tokens", "Make, list and revoke the tokens that callers authenticate with."),
}
ENVIRONMENT_FILE: Final = Path(".env")


class _Commands(click.Group):
    """A group whose commands are imported on first use."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. What its user can put right is a line on standard error, and exit code 1."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if not import_module("rowcast.commands.mistakes").report(error):
                raise
            ctx.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*COMMANDS, *super().list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        with kept():
            module = import_module(f"rowcast.commands.{COMMANDS[cmd_name][0]}")
            import_module("rowcast.commands.logs").configure_logs()
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(args[0], possibilities=self.list_commands(ctx), ctx=ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = {name: text for name, (_, text) in COMMANDS.items()} | {"version": "Print the version."}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(lines.items()))


@click.group(cls=_Commands)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Serve REST resources and a live stream of their changes, as a config directory declares them.

    Variables that are not set are read from the file .env in the working directory.
    """
    if ctx.invoked_subcommand in COMMANDS and ENVIRONMENT_FILE.is_file():
        import_module("rowcast.commands.environment").read_environment(ENVIRONMENT_FILE, os.environ)


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"rowcast {__version__}")
