"""What all commands have in common that talk to a control plane: their options, and how they end."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

INTERNAL_ERROR = 1
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
        from servekit.cli.values import check_values
        from servekit.images.programs import terminable
        from servekit.publish.report import Report

        report = Report(as_json=as_json)
        try:
            with terminable():
                check_values(click.get_current_context())
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


@contextmanager
def before_it_began(*, as_json: bool) -> Iterator[None]:
    """Around the reading of a command line, and the command: its own ends are said already."""
    try:
        yield
    except click.ClickException as error:
        if as_json:
            _print({"kind": "usage", "message": error.format_message()}, error.exit_code)
        raise
    except KeyboardInterrupt:
        click.echo("servekit: interrupted", err=True)
        if as_json:
            _print({"kind": "interrupted", "message": "interrupted"}, INTERRUPTED)
        sys.exit(INTERRUPTED)


def _print(document: dict[str, Any], exit_code: int) -> None:
    from servekit.publish.report import Report

    Report(as_json=True).failed(document, exit_code)


def _end(report: Any, error: BaseException) -> NoReturn:
    from servekit.errors import ServeError
    from servekit.publish.failures import PublishError, line
    from servekit.publish.secrets import hidden

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
    # A mistake of ours. Its text may hold anything.
    click.echo(hidden("".join(traceback.format_exception(error))), err=True)
    report.failed({"kind": "internal", "message": line(f"{type(error).__name__}: {error}")}, INTERNAL_ERROR)
    sys.exit(INTERNAL_ERROR)
