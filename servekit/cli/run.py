"""`servekit run TARGET`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from servekit.launch.settings import OPTIONS

USAGE_ERROR = 2


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """A flag for each option of the table."""
    for option in reversed(OPTIONS):
        default = "" if option.default is None else f"  [default: {option.default}]"
        command = click.option(
            option.flag,
            option.name,
            default=None,
            metavar=option.metavar,
            help=f"{option.help}; {option.variable}.{default}",
        )(command)
    return command


@click.command(context_settings={"max_content_width": 110})
@click.argument("target", required=False)
@_options
def run(target: str | None, **flags: str | None) -> None:
    """Serve TARGET: module:Class, path/to/file.py[:Class], path/to/model.onnx, or a directory that holds one.

    Without TARGET: SERVEKIT_TARGET, else what the model directory holds. A flag beats its SERVEKIT_ variable, which
    beats the platform's own variable.
    """
    launch({"target": target, **flags})


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@_options
def serve(**flags: str | None) -> None:
    """Serve what SERVEKIT_TARGET names, else what the model directory holds (SageMaker runs `IMAGE serve`)."""
    launch({"target": None, **flags})


def launch(flags: dict[str, Any]) -> NoReturn:
    """Resolve the settings, say what was chosen, and serve; usage errors are one line and exit code 2."""
    from servekit.errors import ServeError
    from servekit.launch import gunicorn, logs
    from servekit.launch.platforms import installed
    from servekit.launch.settings import resolve

    try:
        settings = resolve(flags, os.environ, installed(), Path.cwd())
        logs.configure(settings.log_format, settings.log_level, access_log=settings.access_log)
        logger = logging.getLogger("servekit.launch")
        logger.info("%s", settings.summary())
        for name in settings.unknown:
            logger.warning("%s is set, but there is no such option", name)
        gunicorn.run(settings)
    except ServeError as error:
        click.echo(f"servekit: {error.message}", err=True)
        sys.exit(USAGE_ERROR)
