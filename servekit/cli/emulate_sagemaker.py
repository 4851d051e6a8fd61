"""`servekit emulate sagemaker` and `servekit emulate sagemaker-transform`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.container import ended, starter, taken
from servekit.cli.container import options as container_options
from servekit.cli.values import PathValue, check_values

if TYPE_CHECKING:
    from servekit.emulate.sagemaker.joining import Processing
    from servekit.emulate.sagemaker.transform import Job, Transform
    from servekit.publish.report import Report

FAILED, USAGE_ERROR, NEVER_READY, INTERRUPTED = 1, 2, 3, 130
MAX_TYPE_CHARS = 256

Command = Callable[..., None]


def _choice(*names: str) -> click.Choice[str]:
    return click.Choice(names, case_sensitive=False)


@click.command(context_settings={"max_content_width": 110})
@container_options("8080", model="/opt/ml/model")
@click.option("--port", type=click.IntRange(0, 65535), required=True, metavar="PORT", help="0: one that is free")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="the address to listen on")
@click.option("--endpoint-name", metavar="NAME", help="others are not found  [default: any name is good]")
@click.option("--variant", default="AllTraffic", show_default=True, metavar="NAME", help="the endpoint's only variant")
@click.option(
    "--payload-limit", type=click.Choice(["6MB", "25MB"]), default="25MB", show_default=True,
    help="of a request and of an answer: the developer guide says 25 MB, the service's model 6",
)  # fmt: skip
@click.option("--serverless", is_flag=True, help="a serverless endpoint: 4 MB, ModelNotReady while it starts, 3 min")
@click.option(
    "--multi-model", type=PathValue(path_type=Path), metavar="DIR",
    help="a multi-model endpoint: DIR has a folder for each TargetModel, and the container sees it as it is here",
)  # fmt: skip
@click.option(
    "--timeout-s", type=click.FloatRange(0.05, 3600), default=60.0, show_default=True, metavar="SECONDS",
    help="how long the container may take for an answer",
)  # fmt: skip
@click.option(
    "--stream-timeout-s", type=click.FloatRange(0.05, 3600), default=480.0, show_default=True, metavar="SECONDS",
    help="how long it may take for a stream",
)  # fmt: skip
@click.option(
    "--ping-interval-s", type=click.FloatRange(0.05, 3600), default=5.0, show_default=True, metavar="SECONDS",
    help="how often /ping is asked",
)  # fmt: skip
@click.option(
    "--startup-timeout-s", type=click.FloatRange(0.05, 3600), metavar="SECONDS",
    help="how long the container may take until /ping says 200  [default: 480; serverless: 180]",
)  # fmt: skip
@click.option(
    "--ping-failures", type=click.IntRange(1, 1000), default=3, show_default=True, metavar="N",
    help="so many failed pings in a row, and the container is replaced",
)  # fmt: skip
@click.option(
    "--s3", type=PathValue(path_type=Path), metavar="FOLDER",
    help="stands for S3: its folders are the buckets; makes asynchronous invocations possible",
)  # fmt: skip
@click.option(
    "--async-output", default="s3://servekit-async/output", show_default=True, metavar="S3URI",
    help="where the results of asynchronous invocations go",
)  # fmt: skip
@click.option(
    "--async-failures", default="s3://servekit-async/failures", show_default=True, metavar="S3URI",
    help="where their failures go",
)  # fmt: skip
@click.option(
    "--async-concurrency", type=click.IntRange(1, 1000), default=4, show_default=True, metavar="N",
    help="how many of them the container gets at once",
)  # fmt: skip
@click.option(
    "--async-ttl-s", type=click.FloatRange(0.05, 21600), default=21600.0, show_default=True, metavar="SECONDS",
    help="how long one may wait, where it does not say",
)  # fmt: skip
@click.option(
    "--async-timeout-s", type=click.FloatRange(0.05, 3600), default=900.0, show_default=True, metavar="SECONDS",
    help="how long the container may take for one, where it does not say",
)  # fmt: skip
def sagemaker(**options: Any) -> None:
    """A SageMaker endpoint in front of your container: what boto3's `sagemaker-runtime` talks to by `endpoint_url`.

    InvokeEndpoint, InvokeEndpointWithResponseStream, InvokeEndpointAsync, health checks. Signatures are not checked,
    but must be there. What goes on: GET /_emulate/state. See docs/how-to/emulate-sagemaker.md.
    """
    from servekit.errors import ServeError
    from servekit.images.programs import terminable

    try:
        with terminable():
            check_values(click.get_current_context())
            _endpoint(**options)
    except (ServeError, OSError) as error:
        click.echo(f"servekit: {error.message if isinstance(error, ServeError) else error}", err=True)
        sys.exit(USAGE_ERROR)


def _endpoint(
    *, port: int, host: str, payload_limit: str, serverless: bool, timeout_s: float, stream_timeout_s: float,
    ping_interval_s: float, startup_timeout_s: float | None, ping_failures: int, s3: Path | None, async_output: str,
    async_failures: str, async_concurrency: int, async_ttl_s: float, async_timeout_s: float, endpoint_name: str | None,
    variant: str, multi_model: Path | None, **container: Any,
) -> None:  # fmt: skip
    """Raises ServeError, OSError."""
    from servekit.emulate.sagemaker.app import PAYLOADS, SERVERLESS_BYTES, Rules, Runtime, make
    from servekit.emulate.sagemaker.endpoint import Endpoint, Schedule
    from servekit.emulate.sagemaker.models import Models
    from servekit.emulate.sagemaker.queue import Queue, Terms
    from servekit.emulate.sagemaker.storage import Folder
    from servekit.emulate.server import listen, serve
    from servekit.platforms.sagemaker.terms import TERMS

    given = taken(container)
    start = starter(given, TERMS)
    rules = Rules(
        endpoint_name=endpoint_name, variant=variant, timeout_s=timeout_s, stream_timeout_s=stream_timeout_s,
        max_bytes=SERVERLESS_BYTES if serverless else PAYLOADS[payload_limit], is_serverless=serverless,
    )  # fmt: skip
    schedule = Schedule(
        interval_s=ping_interval_s, start_limit_s=startup_timeout_s or (180.0 if serverless else 480.0),
        failures=ping_failures,
    )  # fmt: skip
    terms = None
    if s3 is not None:
        for option, uri in (("--async-output", async_output), ("--async-failures", async_failures)):
            _s3(option, uri)
        terms = Terms(
            Folder(s3), async_output.rstrip("/"), async_failures.rstrip("/"), async_concurrency, async_ttl_s,
            async_timeout_s,
        )  # fmt: skip
    with ExitStack() as stack:
        models = stack.enter_context(closing(Models(multi_model))) if multi_model is not None else None
        listener = stack.enter_context(listen(host, port))
        endpoint = stack.enter_context(closing(Endpoint(start, schedule, can_replace=given.container is None)))
        queue = stack.enter_context(closing(Queue(terms, endpoint))) if terms is not None else None
        runtime = stack.enter_context(closing(Runtime(rules, endpoint, queue, models)))
        serve(make(runtime), "sagemaker", listener)


def _s3(option: str, uri: str) -> None:
    """Raises ConfigError."""
    from servekit.emulate.sagemaker.storage import BadLocation, parse
    from servekit.errors import ConfigError

    try:
        if not uri.startswith("s3://"):
            raise BadLocation(f"{uri!r}: expected s3://BUCKET/PREFIX")
        parse(uri)
    except BadLocation as error:
        raise ConfigError(f"{option}: {error}") from error


@click.command("sagemaker-transform", context_settings={"max_content_width": 110})
@container_options("8080", model="/opt/ml/model")
@click.option("--input", type=PathValue(path_type=Path), required=True, metavar="DIR", help="the objects, or one file")
@click.option("--output", type=PathValue(path_type=Path), required=True, metavar="DIR", help="where NAME.out goes")
@click.option("--split-type", type=_choice("None", "Line", "RecordIO"), default="None", show_default=True)
@click.option(
    "--batch-strategy", type=_choice("SingleRecord", "MultiRecord"),
    help="one record in a request, or as many as fit  [default: the container's, else MultiRecord]",
)  # fmt: skip
@click.option(
    "--max-payload-mb", type=click.IntRange(0, 100), metavar="N",
    help="of a request; 0: unlimited, sent in chunks  [default: the container's, else 6]",
)  # fmt: skip
@click.option(
    "--max-concurrent", type=click.IntRange(0, 100), metavar="N",
    help="requests at once; 0: what the container says  [default: the container's, else 1]",
)  # fmt: skip
@click.option("--assemble-with", type=_choice("None", "Line"), default="None", show_default=True)
@click.option("--content-type", metavar="TYPE", help="of the records")
@click.option("--accept", metavar="TYPE", help="of the results")
@click.option("--compression-type", type=_choice("None", "Gzip"), default="None", show_default=True)
@click.option("--retries", type=click.IntRange(0, 3), default=3, show_default=True, metavar="N", help="of a request")
@click.option(
    "--timeout-s", type=click.FloatRange(0.05, 3600), default=600.0, show_default=True, metavar="SECONDS",
    help="of a request",
)  # fmt: skip
@click.option("--input-filter", default="$", show_default=True, metavar="JSONPATH", help="what the container sees")
@click.option("--output-filter", default="$", show_default=True, metavar="JSONPATH", help="what is kept")
@click.option("--join", type=_choice("None", "Input"), default="None", show_default=True, help="results to records")
@click.option(
    "--startup-timeout-s", type=click.FloatRange(0.05, 3600), default=480.0, show_default=True, metavar="SECONDS",
    help="how long the container may take until /ping says 200",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="print one JSON object at the end, for machines")
def transform(as_json: bool, **options: Any) -> None:
    """A batch transform job on this machine: a folder of objects in, one .out file for each in the output folder.

    An object of which one record fails has no .out file. The exit code is 0 when all succeeded, 1 when one failed,
    2 for a wrong option, 3 when the container never became ready. See docs/how-to/emulate-sagemaker.md.
    """
    from servekit.publish.report import Report

    report = Report(as_json=as_json)
    sys.exit(ended(report, lambda: _transform(report, **options)))


def _transform(report: Report, **options: Any) -> int:
    """Raises ServeError, OSError. The exit code."""
    from servekit.emulate.sagemaker.transform import NeverReady, Transform
    from servekit.platforms.sagemaker.terms import TERMS

    given = taken(options)
    job = _job(**options)
    for option in ("input_filter", "output_filter"):
        if getattr(job.processing, option).has_end:
            report.say(
                "note", f"{options[option]!r}: its end counts in, as SageMaker's pages say; elsewhere it does not"
            )
    start = starter(given, TERMS, job.environ())
    began_s = time.monotonic()
    with closing(start()) as subject, closing(Transform(job, subject, report.say)) as work:
        try:
            work.prepare()
            with report.bar("transform", f"{len(work.objects)} objects") as advance:
                work.run(lambda percentage, words: advance(percentage, words if report.bars else ""))
            code = FAILED if any(thing.state == "Failed" for thing in work.objects) else 0
            why = ""
        except NeverReady as error:
            code, why = NEVER_READY, str(error)
        except OSError as error:
            # Such as a disk that is full: what came before is told all the same.
            code, why = FAILED, str(error)
        except (KeyboardInterrupt, SystemExit) as error:
            code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else INTERRUPTED
            why = "interrupted"
    # All of its output is there once it is gone.
    lines = subject.process.output()[-20:] if subject.process is not None and code else []
    _tell(report, work, code, why, lines, time.monotonic() - began_s)
    return code


def _job(
    *, input: Path, output: Path, split_type: str, batch_strategy: str | None,  # noqa: A002 - the option's name
    max_payload_mb: int | None, max_concurrent: int | None, assemble_with: str, content_type: str | None,
    accept: str | None, compression_type: str, retries: int, timeout_s: float, input_filter: str, output_filter: str,
    join: str, startup_timeout_s: float,
) -> Job:  # fmt: skip
    """Raises ConfigError."""
    from servekit.emulate.sagemaker.records import SplitType, Strategy
    from servekit.emulate.sagemaker.transform import Job, Parameters, resolve
    from servekit.errors import ConfigError

    for option, kind in (("--content-type", content_type), ("--accept", accept)):
        if kind is not None and not (kind.isascii() and kind.isprintable() and len(kind) <= MAX_TYPE_CHARS):
            raise ConfigError(f"{option}: expected at most {MAX_TYPE_CHARS} visible ASCII characters, got {kind!r}")
    strategy = None if batch_strategy is None else Strategy(batch_strategy)
    parameters = Parameters(max_concurrent, strategy, max_payload_mb)
    if max_concurrent and max_payload_mb:
        resolve(parameters, {}, lambda *_: None)  # said before a container is started
    return Job(
        input, output, SplitType(split_type), parameters, assemble_with == "Line",
        _processing(input_filter, output_filter, join, content_type, accept, split_type, assemble_with), content_type,
        accept, retries, timeout_s, compression_type == "Gzip", startup_timeout_s,
    )  # fmt: skip


def _processing(
    input_filter: str, output_filter: str, join: str, content_type: str | None, accept: str | None, split_type: str,
    assemble_with: str,
) -> Processing:  # fmt: skip
    """Raises ConfigError."""
    from servekit.emulate.sagemaker import joining
    from servekit.emulate.sagemaker.jsonpath import parse
    from servekit.errors import ConfigError

    kind, wanted = ((text or "").partition(";")[0].strip().lower() for text in (content_type, accept))
    made = joining.Processing(
        kind, parse("--input-filter", input_filter), parse("--output-filter", output_filter), join == "Input"
    )
    if not made.is_on:
        return made
    what = "--input-filter, --output-filter and --join"
    if kind not in joining.KINDS or wanted != kind:
        raise ConfigError(
            f"{what}: expected --content-type and --accept to be the same, one of {', '.join(joining.KINDS)}, got "
            f"{content_type!r} and {accept!r}"
        )
    if split_type == "RecordIO" or split_type != assemble_with:
        raise ConfigError(
            f"{what}: expected --split-type and --assemble-with to be the same, Line or None, got {split_type} and "
            f"{assemble_with}"
        )
    if kind != joining.JSON and split_type != "Line":
        raise ConfigError(f"{what}: {kind} has a record in each line: expected --split-type Line --assemble-with Line")
    if kind == joining.CSV:
        for option, path in (("--input-filter", made.input_filter), ("--output-filter", made.output_filter)):
            if not path.is_of_rows:
                raise ConfigError(f"{option} {path.text!r}: a row of CSV has indexes only, such as $[0,2] or $[1:]")
    return made


def _tell(report: Report, work: Transform, code: int, why: str, lines: list[str], took_s: float) -> None:
    from dataclasses import asdict

    from servekit.publish.report import dumps

    done = [thing for thing in work.objects if thing.state == "Completed"]
    failed = [thing for thing in work.objects if thing.state == "Failed"]
    if report.as_json:
        document = {
            "ok": code == 0, "exit_code": code, "reason": why, "parameters": asdict(work.resolved), "log": lines,
            "objects": [thing.document() for thing in work.objects],
        }  # fmt: skip
        click.echo(dumps(document))
        return
    for thing in failed:
        report.say("failed", f"{thing.name}: {thing.reason}")
    for line in lines:
        report.say("container", line)
    if why:
        report.say("stopped", why)
    requests, retries = (sum(getattr(thing, name) for thing in work.objects) for name in ("requests", "retries"))
    click.echo(
        f"{len(done)} of {len(work.objects)} objects completed, {len(failed)} failed; "
        f"{sum(thing.records for thing in done)} records, {requests} requests, {retries} of them again; "
        f"{work.resolved.concurrent} at once, {work.resolved.strategy}, {work.resolved.payload_mb} MB; {took_s:.1f} s"
    )
