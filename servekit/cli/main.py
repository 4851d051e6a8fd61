"""`servekit VERB`, and `serve` as SageMaker starts it."""

from __future__ import annotations

import importlib

import click

from servekit import __version__
from servekit.cli.run import serve

__all__ = ["main", "serve"]

# Where each verb is: a start imports the one that runs, and none of the others.
VERBS = {
    "run": "servekit.cli.run:run",
    "optimize": "servekit.cli.optimize:optimize",
    "inspect": "servekit.cli.inspect:inspect",
    "build": "servekit.cli.build:build",
    "init": "servekit.cli.init:init",
}


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click passes it
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click passes it
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="servekit")
def main() -> None:
    """Write one model predictor, serve it as every hosting platform demands."""
