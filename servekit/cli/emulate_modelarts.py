"""`servekit emulate modelarts-batch` and `servekit emulate modelarts-service`."""

from __future__ import annotations

import os
import re
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servekit.cli.container import INTERRUPTED, USAGE_ERROR, Command, ended, starter, taken
from servekit.cli.container import options as container_options
from servekit.cli.values import PathValue

if TYPE_CHECKING:
    from servekit.emulate.modelarts.batch import Batch
    from servekit.emulate.modelarts.declared import Api, Declared, Health
    from servekit.emulate.modelarts.dispatcher import Keys
    from servekit.emulate.modelarts.mapping import Rule
    from servekit.publish.report import Report

FAILED, NEVER_READY = 1, 3
SHOWN_LINES = 20
MEBIBYTE = 1024 * 1024
TASK = re.compile(r"[A-Za-z0-9-]{1,64}")
# Example keys, which open nothing.
ACCESS_KEY, SECRET_KEY = "AKEXAMPLE", "SKEXAMPLE"


def _config(*, required: bool) -> Callable[[Command], Command]:
    return click.option(
        "--config", type=PathValue(path_type=Path), required=required, metavar="FILE",
        help="the image's config.json: routes, schemas, health check",
    )  # fmt: skip


@click.command("modelarts-batch", context_settings={"max_content_width": 110})
@container_options("8080")
@click.option(
    "--input", type=PathValue(path_type=Path), required=True, metavar="DIR", help="files, one file, or a .manifest"
)
@click.option("--output", type=PathValue(path_type=Path), required=True, metavar="DIR", help="where results go")
@_config(required=True)
@click.option(
    "--mapping-type", type=click.Choice(["file", "csv"]), default="file", show_default=True,
    help="a request for each file, or one for each row of each CSV file",
)  # fmt: skip
@click.option(
    "--mapping-rule", type=PathValue(path_type=Path), metavar="FILE",
    help="for csv: the schema with an index in each leaf  [default: the schema in config.json, if it has some]",
)  # fmt: skip
@click.option("--req-uri", metavar="PATH", help="which of config.json's routes  [default: the only one]")
@click.option(
    "--obs", type=PathValue(path_type=Path, exists=True, file_okay=False), metavar="DIR",
    help="stands for OBS in manifests: its folders are the buckets",
)  # fmt: skip
@click.option("--task-id", metavar="ID", help="in the name of the output's manifest  [default: made up]")
@click.option(
    "--concurrent", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="requests at once"
)
@click.option("--retries", type=click.IntRange(0, 10), default=3, show_default=True, metavar="N", help="of a request")
@click.option(
    "--timeout-s", type=click.FloatRange(0.05, 3600), default=600.0, show_default=True, metavar="SECONDS",
    help="of a request",
)  # fmt: skip
@click.option(
    "--startup-timeout-s", type=click.FloatRange(0.05, 7200), default=1200.0, show_default=True, metavar="SECONDS",
    help="how long the container may take until its health check says 200",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="print one JSON object at the end, for machines")
def modelarts_batch(as_json: bool, **options: Any) -> None:
    """A batch service on this machine: a folder of files in, NAME_result.txt for each one in the output folder.

    The exit code is 0 when all succeeded, 1 when one failed, 2 for a wrong option or file, 3 when the container never
    became ready. See docs/how-to/emulate-modelarts.md.
    """
    from servekit.publish.report import Report

    report = Report(as_json=as_json)
    sys.exit(ended(report, lambda: _batch(report, **options)))


def _batch(
    report: Report, *, input: Path, output: Path, config: Path, mapping_type: str,  # noqa: A002 - the option's name
    mapping_rule: Path | None, req_uri: str | None, obs: Path | None, task_id: str | None, concurrent: int,
    retries: int, timeout_s: float, startup_timeout_s: float, **container: Any,
) -> int:  # fmt: skip
    """Raises ServeError, OSError. The exit code."""
    from servekit.emulate.modelarts.batch import Batch, Job, NeverReady, check, form_field, found
    from servekit.emulate.modelarts.declared import load
    from servekit.errors import ConfigError
    from servekit.platforms.modelarts.terms import TERMS

    declared = load(config)
    api = _api(declared, req_uri)
    check(api)
    rule = _rule(api, mapping_rule) if mapping_type == "csv" else None
    if rule is None:
        form_field(api)
        if mapping_rule is not None:
            raise ConfigError("--mapping-rule: expected --mapping-type csv, too")
    if task_id is not None and not TASK.fullmatch(task_id):
        raise ConfigError(f"--task-id {task_id[:80]!r}: expected at most 64 letters, digits and -")
    job = Job(
        input, output, api, task_id or str(uuid.uuid4()), rule, declared.health, concurrent, retries, timeout_s,
        startup_timeout_s, obs,
    )  # fmt: skip
    found(job)  # said before a container is started
    start = starter(taken(container), TERMS)
    began_s = time.monotonic()
    with closing(start()) as subject, closing(Batch(job, subject)) as work:
        code, why = 0, ""
        try:
            work.prepare()
            with report.bar("batch", f"{len(work.items)} files") as advance:
                work.run(lambda percentage, words: advance(percentage, words if report.bars else ""))
            code = FAILED if any(item.state == "FAILED" for item in work.items) else 0
        except NeverReady as error:
            code, why = NEVER_READY, str(error)
        except (KeyboardInterrupt, SystemExit) as error:
            code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else INTERRUPTED
            why = "interrupted"
    # All of its output is there once it is gone.
    lines = subject.process.output()[-SHOWN_LINES:] if subject.process is not None and code else []
    _tell(report, work, code, why, lines, time.monotonic() - began_s)
    return code


def _api(declared: Declared, req_uri: str | None) -> Api:
    """Raises ConfigError."""
    from servekit.errors import ConfigError

    apis = [api for api in declared.apis if req_uri is None or api.url == req_uri]
    if len(apis) > 1 and (posts := [api for api in apis if api.method == "POST"]):
        apis = posts
    if len(apis) != 1:
        known = ", ".join(map(str, declared.apis))
        raise ConfigError(f"--req-uri{f' {req_uri}' if req_uri else ''}: expected one of config.json's routes: {known}")
    return apis[0]


def _rule(api: Api, file: Path | None) -> Rule:
    """Raises ConfigError."""
    from servekit.emulate.modelarts import mapping
    from servekit.errors import ConfigError

    if file is not None:
        return mapping.load(file)
    if not mapping.has_index(api.request):
        raise ConfigError(
            '--mapping-rule: expected a file: the schema of the request with an "index" in each leaf, the column that '
            "it takes its value from (config.json's own schema has none)"
        )
    return mapping.parse(api.request)


def _tell(report: Report, work: Batch, code: int, why: str, lines: list[str], took_s: float) -> None:
    from servekit.emulate.modelarts.batch import summary
    from servekit.publish.report import dumps

    counts = summary(work.items)
    if report.as_json:
        document = {
            "ok": code == 0, "exit_code": code, "reason": why, "log": lines, "manifest": str(work.manifest), **counts,
            "results": [item.document() for item in work.items],
        }  # fmt: skip
        click.echo(dumps(document))
        return
    for item in work.items:
        if item.state == "FAILED":
            report.say("failed", f"{item.source}: {item.reason}")
    for line in lines:
        report.say("container", line)
    if why:
        report.say("stopped", why)
    click.echo(
        f"{counts['successful']} of {counts['files']} files succeeded, {counts['failed']} failed; "
        f"{counts['requests']} requests, {counts['retries']} of them again; {took_s:.1f} s"
    )


# --- the dispatcher ---


def _seconds(name: str, default: float | None, text: str, least: float = 0.05) -> Callable[[Command], Command]:
    return click.option(
        name, type=click.FloatRange(least, 7200), default=default, show_default=default is not None, metavar="SECONDS",
        help=text,
    )  # fmt: skip


@click.command("modelarts-service", context_settings={"max_content_width": 110})
@container_options("8080")
@_config(required=False)
@click.option("--port", type=click.IntRange(0, 65535), required=True, metavar="PORT", help="0: one that is free")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="the address to listen on")
@click.option("--service-id", metavar="ID", help="others do not exist  [default: any id is good]")
@click.option("--verify", is_flag=True, help="verify tokens and signatures, which otherwise must only be there")
@click.option(
    "--max-body-mb", type=click.FloatRange(0.001, 1024), default=12.0, show_default=True, metavar="N",
    help="of a request: above it APIG.0201",
)  # fmt: skip
@_seconds("--timeout-s", 40.0, "of a request, to the end of its answer: then APIG.0203")
@click.option(
    "--rate-limit", type=click.IntRange(0, 100_000), default=100, show_default=True, metavar="N",
    help="requests in a second: above it ModelArts.4206; 0: none",
)  # fmt: skip
@_seconds(
    "--keep-alive-s", 200.0, "how long an idle connection to the container is kept: closed sooner, ModelArts.4503"
)
@click.option(
    "--breaker-errors", type=click.IntRange(0, 100_000), default=20, show_default=True, metavar="N",
    help="so many 5xx in its window open the breaker: ModelArts.4302; 0: never",
)  # fmt: skip
@_seconds("--breaker-window-s", 10.0, "the breaker's window")
@_seconds("--breaker-open-s", 30.0, "how long the breaker stays open")
@_seconds("--initial-delay-s", None, "of the health check  [default: config.json's]", least=0)
@_seconds("--health-timeout-s", None, "of a health check  [default: config.json's]")
@_seconds("--health-period-s", None, "between health checks  [default: config.json's, else 5]")
@click.option(
    "--health-failures", type=click.IntRange(1, 1000), metavar="N",
    help="so many in a row: abnormal, later concerning  [default: config.json's, else 12]",
)  # fmt: skip
@_seconds("--deploy-timeout-s", 1200.0, "how long the deployment may take")
def modelarts_service(**options: Any) -> None:
    """What stands before a real-time service: POST /v1/infers/SERVICE_ID/PATH, as the platform's clients call it.

    Limits, errors, connections that are kept alive, breaker and health check are the platform's. What goes on: GET
    /_emulate/state; faults: POST /_emulate/faults. See docs/how-to/emulate-modelarts.md.
    """
    from servekit.errors import ServeError
    from servekit.images.programs import terminable

    try:
        with terminable():
            _service(**options)
    except (ServeError, OSError) as error:
        click.echo(f"servekit: {error.message if isinstance(error, ServeError) else error}", err=True)
        sys.exit(USAGE_ERROR)


def _service(
    *, config: Path | None, port: int, host: str, service_id: str | None, verify: bool, max_body_mb: float,
    timeout_s: float, rate_limit: int, keep_alive_s: float, breaker_errors: int, breaker_window_s: float,
    breaker_open_s: float, initial_delay_s: float | None, health_timeout_s: float | None,
    health_period_s: float | None, health_failures: int | None, deploy_timeout_s: float, **container: Any,
) -> None:  # fmt: skip
    """Raises ServeError, OSError."""
    from servekit.emulate.modelarts.declared import load
    from servekit.emulate.modelarts.dispatcher import Dispatcher, Rules, Schedule, Service, make
    from servekit.emulate.server import listen, serve
    from servekit.platforms.modelarts.terms import TERMS

    declared = load(config) if config is not None else None
    rules = Rules(
        declared.apis if declared is not None else None, service_id, int(max_body_mb * MEBIBYTE), timeout_s,
        keep_alive_s, rate_limit, breaker_errors, breaker_window_s, breaker_open_s, _keys() if verify else None,
    )  # fmt: skip
    health = _health(
        declared.health if declared is not None else None, initial_delay_s=initial_delay_s,
        timeout_s=health_timeout_s, period_s=health_period_s, failures=health_failures,
    )  # fmt: skip
    start = starter(taken(container), TERMS)
    with ExitStack() as stack:
        listener = stack.enter_context(listen(host, port))
        service = stack.enter_context(closing(Service(start(), Schedule(health, deploy_timeout_s))))
        dispatcher = stack.enter_context(closing(Dispatcher(rules, service)))
        serve(make(dispatcher), "modelarts-service", listener)


def _health(health: Health | None, **said: Any) -> Health | None:
    """Raises ConfigError."""
    from dataclasses import replace

    from servekit.errors import ConfigError

    given = {name: number for name, number in said.items() if number is not None}
    if health is None:
        if given:
            raise ConfigError("--initial-delay-s, --health-...: expected --config with a health check in it")
        return None
    return replace(health, **given)


def _keys() -> Keys:
    from servekit.emulate.modelarts.dispatcher import Keys

    return Keys(
        os.environ.get("SERVEKIT_EMULATE_AK", "") or ACCESS_KEY,
        os.environ.get("SERVEKIT_EMULATE_SK", "") or SECRET_KEY, os.environ.get("SERVEKIT_EMULATE_TOKEN", ""),
    )  # fmt: skip
