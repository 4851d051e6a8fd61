"""`servekit VERB`, and `serve` as SageMaker starts it."""

from __future__ import annotations

import click

from servekit import __version__
from servekit.cli.inspect import inspect
from servekit.cli.optimize import optimize
from servekit.cli.run import run, serve

__all__ = ["main", "serve"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="servekit")
def main() -> None:
    """Write one model predictor, serve it as every hosting platform demands."""


main.add_command(run)
main.add_command(optimize)
main.add_command(inspect)
