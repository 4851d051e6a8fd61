"""What all commands have in common that talk to a control plane: their options, and how they end."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

USAGE_ERROR = 2
INTERRUPTED = 130
WAIT_LIMIT_S = 3600.0

Command = Callable[..., None]


def control_options(command: Command) -> Command:
    """--json and --insecure-http; the command gets `report` and `insecure_http`, and may raise what it likes.

    Every end has its exit code: see docs/reference/publish.md.
    """

    @click.option("--json", "as_json", is_flag=True, help="print one JSON object at the end, for machines")
    @click.option("--insecure-http", is_flag=True, help="allow an endpoint with plain http that is not this machine")
    @functools.wraps(command)
    def run(*args: Any, as_json: bool, insecure_http: bool, **options: Any) -> None:
        from servekit.images.programs import terminable
        from servekit.publish.report import Report

        report = Report(as_json=as_json)
        try:
            with terminable():
                command(*args, report=report, insecure_http=insecure_http, **options)
        except BaseException as error:  # noqa: BLE001 - every end has its exit code
            _end(report, error)

    return run


def wait_options(command: Command) -> Command:
    """--wait-s: how long to wait for the platform; 0 does not wait."""
    return click.option(
        "--wait-s", type=click.FloatRange(0, 7 * 86400), default=WAIT_LIMIT_S, show_default=True, metavar="SECONDS",
        help="how long to wait for the platform to finish; 0: do not wait",
    )(command)  # fmt: skip


def _end(report: Any, error: BaseException) -> NoReturn:
    from servekit.errors import ServeError
    from servekit.publish.failures import PublishError, line

    if isinstance(error, (click.ClickException, click.exceptions.Exit)):
        raise error
    if isinstance(error, PublishError):
        report.error(error)
        sys.exit(error.exit_code)
    if isinstance(error, (ServeError, OSError)):
        text = error.message if isinstance(error, ServeError) else str(error)
        click.echo(f"servekit: {line(text)}", err=True)
        report.failed({"kind": "usage", "message": line(text)}, USAGE_ERROR)
        sys.exit(USAGE_ERROR)
    if isinstance(error, (KeyboardInterrupt, click.Abort, SystemExit)):
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else INTERRUPTED
        click.echo("servekit: interrupted", err=True)
        report.failed({"kind": "interrupted", "message": "interrupted"}, code)
        sys.exit(code)
    raise error
