"""`servekit run TARGET`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from servekit.launch.settings import OPTIONS

logger = logging.getLogger("servekit.launch")

USAGE_ERROR = 2
# gunicorn reads these, some of them when it is imported; a container's settings come from the table alone.
FOREIGN = ("GUNICORN_CMD_ARGS", "GUNICORN_PID", "GUNICORN_FD", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS")


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
        if option.metavar == "on|off":
            command = click.option(f"--no-{option.flag.removeprefix('--')}", f"no_{option.name}", is_flag=True)(command)
    return command


@click.command(context_settings={"max_content_width": 110})
@click.argument("target", required=False)
@_options
def run(target: str | None, **flags: Any) -> None:
    """Serve TARGET: module:Class, path/to/file.py[:Class], path/to/model.onnx, or a directory that holds one.

    Without TARGET: SERVEKIT_TARGET, else what the model directory holds. A flag beats its SERVEKIT_ variable, which
    beats the platform's own variable.
    """
    launch({"target": target, **_merged(flags)})


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@_options
def serve(**flags: Any) -> None:
    """Serve what SERVEKIT_TARGET names, else what the model directory holds (SageMaker runs `IMAGE serve`)."""
    launch({"target": None, **_merged(flags)}, undetected="sagemaker")


def _merged(flags: dict[str, Any]) -> dict[str, Any]:
    """`--no-docs` means `--docs off`."""
    values = {name: value for name, value in flags.items() if not name.startswith("no_")}
    return values | {
        name.removeprefix("no_"): "off" for name, value in flags.items() if name.startswith("no_") and value
    }


def launch(flags: dict[str, Any], *, undetected: str = "all") -> NoReturn:
    """Resolve the settings, say what was chosen, and serve; usage errors are one line and exit code 2."""
    # As PID 1 a process without a handler never hears SIGTERM; the supervisor's takes over from this one.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    for name in FOREIGN:
        os.environ.pop(name, None)
    from servekit.errors import ServeError
    from servekit.launch import gunicorn, logs
    from servekit.launch.floors import check_floors
    from servekit.launch.platforms import installed
    from servekit.launch.settings import resolve

    try:
        check_floors()
        settings = resolve(flags, os.environ, installed(), Path.cwd(), undetected=undetected)
    except ServeError as error:
        click.echo(f"servekit: {error.message}", err=True)
        sys.exit(USAGE_ERROR)
    logs.configure(settings.log_format, settings.log_level, access_log=settings.access_log)
    logger.info("%s", settings.summary())
    if settings.unknown:
        logger.warning("set, but no such options: %s", ", ".join(settings.unknown))
    if settings.request_timeout_s > settings.drain.finish_s:
        logger.info(
            "a request may take %g s, but what still runs %g s after the server has stopped accepting is cut off",
            settings.request_timeout_s,
            settings.drain.finish_s,
        )
    gunicorn.run(settings)
