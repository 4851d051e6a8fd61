"""`servekit emulate modzy-jobs`."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.container import INTERRUPTED, ended, starter, taken
from servekit.cli.container import options as container_options
from servekit.cli.values import PathValue

if TYPE_CHECKING:
    from servekit.emulate.modzy.runner import Runner
    from servekit.publish.report import Report

FAILED, NEVER_READY = 1, 3
SHOWN_LINES = 20


@click.command("modzy-jobs", context_settings={"max_content_width": 110})
@container_options("$PSC_MODEL_PORT, which is set to a free one")
@click.option("--input", type=PathValue(path_type=Path), required=True, metavar="DIR", help="a directory per item")
@click.option("--output", type=PathValue(path_type=Path), required=True, metavar="DIR", help="where results go")
@click.option(
    "--model-yaml", type=PathValue(path_type=Path), required=True, metavar="FILE",
    help="which files an item has, how large they may be, and the time limits",
)  # fmt: skip
@click.option(
    "--files", type=PathValue(path_type=Path, file_okay=False), metavar="DIR",
    help="where items' files go; the container must see it under the same path  [default: the temporary directory]",
)  # fmt: skip
@click.option(
    "--startup-timeout-s", type=click.FloatRange(0.05, 3600), default=600.0, show_default=True, metavar="SECONDS",
    help="how long the container may take until it listens; /status then has model.yaml's timeout.status",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="print one JSON object at the end, for machines")
def modzy_jobs(as_json: bool, **options: Any) -> None:
    """A job on this machine: a directory of input files per item in, outputs and a document of results out.

    The exit code is 0 when all items succeeded, 1 when one failed, 2 for a wrong option or file, 3 when the container
    never became ready. See docs/how-to/emulate-modzy-jobs.md.
    """
    from servekit.publish.report import Report

    report = Report(as_json=as_json)
    sys.exit(ended(report, lambda: _jobs(report, **options)))


def _jobs(
    report: Report, *, input: Path, output: Path, model_yaml: Path, files: Path | None,  # noqa: A002 - the option's
    startup_timeout_s: float, **container: Any,
) -> int:  # fmt: skip
    """Raises ServeError, OSError. The exit code."""
    from servekit.emulate.modzy.runner import Job, NeverReady, Runner, found
    from servekit.errors import ConfigError
    from servekit.platforms.modzy.terms import TERMS
    from servekit.publish.modzy.metadata import of_file

    job = Job(input, output, of_file(model_yaml), files, startup_timeout_s)
    if files is not None and not files.is_dir():
        raise ConfigError(f"--files {files}: expected a directory that the container sees under the same path")
    found(job)  # said before a container is started
    start = starter(taken(container), TERMS)
    began_s = time.monotonic()
    with closing(start()) as subject, closing(Runner(job, subject)) as runner:
        code, why = 0, ""
        try:
            asyncio.run(_work(runner, report))
            code = FAILED if any(item.state == "FAILED" for item in runner.items) else 0
        except NeverReady as error:
            code, why = NEVER_READY, str(error)
        except (KeyboardInterrupt, SystemExit) as error:
            code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else INTERRUPTED
            why = "interrupted"
        if code in (0, FAILED):
            runner.write()
            runner.end()
    # All of its output is there once it is gone.
    lines = subject.process.output()[-SHOWN_LINES:] if subject.process is not None and code else []
    _tell(report, runner, code, why, lines, time.monotonic() - began_s)
    return code


async def _work(runner: Runner, report: Report) -> None:
    await runner.prepare()
    with report.bar("job", f"{len(runner.items)} items") as advance:
        await runner.run(lambda percentage, words: advance(percentage, words if report.bars else ""))


def _tell(report: Report, runner: Runner, code: int, why: str, lines: list[str], took_s: float) -> None:
    from servekit.publish.report import dumps

    document = runner.document()
    if report.as_json:
        more = {"ok": code == 0, "exit_code": code, "reason": why, "shutdown": runner.shutdown, "log": lines}
        click.echo(dumps({**more, **document}))
        return
    for item in runner.items:
        if item.state == "FAILED":
            report.say("failed", f"{item.name}: {item.reason}")
    for line in lines:
        report.say("container", line)
    if why:
        report.say("stopped", why)
    shutdown = runner.shutdown
    if shutdown is not None and (shutdown["exit_code"] != 0 or shutdown["status"] not in (None, 202)):
        said = "dropped the connection" if shutdown["status"] is None else f"answered {shutdown['status']}"
        ended = "still ran" if shutdown["exit_code"] is None else f"ended with {shutdown['exit_code']}"
        report.say("note", f"POST /shutdown: the container {said} and {ended}; Modzy expects 202 and the exit code 0")
    click.echo(
        f"{document['completed']} of {document['total']} items succeeded, {document['failed']} failed; {took_s:.1f} s"
    )
