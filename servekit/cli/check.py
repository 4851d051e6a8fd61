"""`servekit check URL --platform NAME`."""

from __future__ import annotations

import math
import shutil
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from servekit.check.runner import Finding
    from servekit.check.subject import Subject
    from servekit.terms import Clause, Sample, Terms

BROKEN, USAGE_ERROR, NEVER_READY, INTERRUPTED = 1, 2, 3, 130
MAX_SAMPLE_BYTES = 256 * 1024 * 1024
MAX_FILE_BYTES = 16 * 1024 * 1024
SHOWN_LINES = 20
CONTENT_TYPES = {
    ".json": "application/json", ".csv": "text/csv", ".npy": "application/x-npy", ".png": "image/png",
    ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".txt": "text/plain", ".bin": "application/octet-stream",
}  # fmt: skip
ENGINE_ARGUMENTS = f"{__name__}.engine_arguments"


class _Check(click.Command):
    """What stands behind `--` goes to docker or podman, and is no URL."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            ctx.meta[ENGINE_ARGUMENTS] = tuple(args[place + 1 :])
            args = args[:place]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- ENGINE ARGUMENTS]"]


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options, as they were typed."""

    url: str | None
    platform: str
    command: str | None
    image: str | None
    engine: str | None
    model: str | None
    port: int | None
    sample: tuple[str, ...]
    content_type: str | None
    file: tuple[str, ...]
    slow: bool
    wait_s: float | None
    only: str | None
    strict: bool
    as_json: bool
    junit: str | None
    engine_arguments: tuple[str, ...] = ()


@click.command(cls=_Check, context_settings={"max_content_width": 110})
@click.argument("url", required=False)
@click.option("--platform", metavar="NAME", required=True, help="whose contract: sagemaker, modelarts, modzy, ...")
@click.option("--command", metavar="COMMAND", help="start this and judge it; {port} in it is replaced by a free port")
@click.option("--image", metavar="TAG", help="run this image as the platform does, and judge it")
@click.option("--engine", metavar="NAME", help="docker or podman  [default: the first that works]")
@click.option("--model", metavar="DIR", help="what the platform puts where it has its models, for --image")
@click.option("--port", type=click.IntRange(1, 65535), help="where the container listens  [default: the platform's]")
@click.option("--sample", multiple=True, metavar="[NAME=]FILE", help="a request that must succeed; for Modzy its files")
@click.option("--content-type", metavar="TYPE", help="of the sample  [default: by the file's name]")
@click.option("--file", multiple=True, metavar="NAME=FILE", help="the container's config.json or model.yaml")
@click.option("--slow", is_flag=True, help="also wait where the contract speaks of minutes")
@click.option(
    "--wait-s", type=click.FloatRange(0, 3600, min_open=True), metavar="SECONDS",
    help="how long to wait for it to become ready  [default: as long as the platform; 10 for a URL]",
)  # fmt: skip
@click.option("--only", metavar="IDS", help="these clauses only, with commas between them")
@click.option("--strict", is_flag=True, help="fail also when a clause that must be kept could not be checked")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object, for machines")
@click.option("--junit", metavar="FILE", help="write the findings as JUnit XML, too")
@click.pass_context
def check(ctx: click.Context, /, **options: Any) -> None:
    """Judge a running container by a platform's contract, clause by clause.

    Give its URL, or a command or an image that is started here and ended afterwards. The exit code is 0 when no
    clause that must be kept is broken; 1 when one is, 2 for a wrong option, 3 when the container never became ready,
    130 after Ctrl-C.
    """
    from servekit.errors import ServeError
    from servekit.images.programs import terminable

    teller = _Teller(as_json=options["as_json"])
    error: str | None = None
    try:
        asked = _Asked(**options, engine_arguments=ctx.meta.get(ENGINE_ARGUMENTS, ()))
        with terminable():
            code: int | str | None = _check(asked, teller)
    except (ServeError, OSError) as failure:
        error = failure.message if isinstance(failure, ServeError) else str(failure)
        code = USAGE_ERROR
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as leaving:
        code = leaving.code
    if error is not None or not teller.told:
        teller.nothing(options["platform"], error)
    sys.exit(code)


def _check(asked: _Asked, teller: _Teller) -> int:
    """Raises ConfigError, OSError. The exit code."""
    from servekit.check import report, runner
    from servekit.check.trial import Trial

    terms = _only(_terms(asked.platform), asked.only)
    sample = _sample(asked.sample, asked.content_type)
    given = _files(asked.file, terms)
    report_file = _writable(asked.junit)
    interrupted: int | None = None
    never_ready, lines = False, []
    try:
        with closing(_subject(asked, terms)) as subject:
            files = {**subject.files, **given}
            if terms.adapted is not None:
                terms = terms.adapted(terms, files)
            trial = Trial(subject, terms, sample, asked.slow, files, asked.wait_s)
            runner.run(trial, trying=teller.trying, seen=teller.seen)
            never_ready = runner.never_ready(trial)
            lines = subject.process.output() if subject.process is not None and never_ready else []
    except (KeyboardInterrupt, SystemExit) as error:
        # Also while it is started, or ended: what was found until then is told.
        interrupted = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else INTERRUPTED
    found = runner.whole(terms, teller.found)
    teller.told = True
    _tell(found, lines, asked, interrupted=interrupted is not None)
    if report_file is not None:
        report_file.write_bytes(report.junit(found, asked.platform))
    if interrupted is not None:
        return interrupted
    if never_ready:
        return NEVER_READY
    return BROKEN if any(finding.fatal or (asked.strict and finding.unknown) for finding in found) else 0


class _Teller:
    """Says what is found as it is found; on a terminal also what is tried."""

    def __init__(self, *, as_json: bool) -> None:
        self.found: list[Finding] = []
        # All of it, or as much as Ctrl-C let through: nothing is said twice.
        self.told = False
        self._as_json = as_json
        self._draws = sys.stderr.isatty()

    def nothing(self, platform: str, error: str | None) -> None:
        """What ended it before its end. error: None for Ctrl-C or SIGTERM."""
        from servekit.check import report

        click.echo(f"servekit: {'interrupted, nothing was checked' if error is None else error}", err=True)
        if self._as_json and not self.told:
            click.echo(report.dumps(report.document([], platform, interrupted=error is None, error=error)))

    def trying(self, clause: Clause) -> None:
        if self._draws:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"...    {clause.id:<6} {clause.title}"[:width], err=True, nl=False)

    def seen(self, finding: Finding) -> None:
        from servekit.check import report
        from servekit.check.trial import Result

        self.found.append(finding)
        if self._draws:
            click.echo("\r\x1b[K", err=True, nl=False)
        # Those that were not are told together, by their reasons.
        if finding.verdict.result is not Result.NOT_CHECKED:
            click.echo(report.line(finding), err=self._as_json)


def _tell(found: list[Finding], lines: list[str], asked: _Asked, *, interrupted: bool) -> None:
    from servekit.check import report
    from servekit.check.trial import Result

    for line in lines[-SHOWN_LINES:]:
        click.echo(f"log    {line}", err=True)
    for line in report.not_checked(found):
        click.echo(line, err=asked.as_json)
    if asked.as_json:
        click.echo(report.dumps(report.document(found, asked.platform, interrupted=interrupted, log=lines)))
    else:
        for finding in found:
            if finding.verdict.result is Result.BROKEN:
                click.echo(f"\n{report.line(finding)}\n{report.details(finding)}")
        click.echo(f"\n{report.summary(found, asked.platform)}")
    if interrupted:
        click.echo("servekit: interrupted, and nothing that was started is left", err=True)


# --- the options ---


def _terms(name: str) -> Terms:
    from servekit.errors import ConfigError
    from servekit.launch.platforms import installed

    known = {platform.name: platform.terms for platform in installed().values() if platform.terms is not None}
    terms = known.get(name.strip().lower())
    if terms is None:
        raise ConfigError(f"--platform: expected one of {', '.join(known)}, got {name!r}")
    return terms()


def _only(terms: Terms, only: str | None) -> Terms:
    from dataclasses import replace

    from servekit.errors import ConfigError

    if only is None:
        return terms
    wanted = [name.strip().upper() for name in only.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in {clause.id for clause in terms.clauses}]
    if unknown or not wanted:
        raise ConfigError(f"--only: expected ids of clauses such as {terms.clauses[0].id}, got {only!r}")
    return replace(terms, clauses=tuple(clause for clause in terms.clauses if clause.id in wanted))


def _sample(given: tuple[str, ...], content_type: str | None) -> Sample | None:
    from servekit.errors import ConfigError
    from servekit.terms import Sample

    if not given:
        if content_type is not None:
            raise ConfigError("--content-type: expected a --sample that it is the type of")
        return None
    files: dict[str, bytes] = {}
    for text in given:
        name, equals, file = text.partition("=")
        path = Path(file if equals else text)
        if not path.is_file() or path.stat().st_size > MAX_SAMPLE_BYTES:
            raise ConfigError(f"--sample {text!r}: expected a file of at most {MAX_SAMPLE_BYTES} bytes")
        name = name if equals else path.name
        if not name.isprintable() or not name or "/" in name or name in (".", "..") or name in files:
            raise ConfigError(f"--sample {text!r}: expected the plain name of a file, and each name once")
        files[name] = path.read_bytes()
    first = Path(given[0].partition("=")[2] or given[0])
    kind = CONTENT_TYPES.get(first.suffix.lower(), "application/octet-stream") if content_type is None else content_type
    if not (kind.isprintable() and kind.isascii() and kind and kind == kind.strip()):
        raise ConfigError(f"--content-type: expected a media type such as application/json, got {kind!r}")
    return Sample(next(iter(files.values())), kind, files)


def _files(given: tuple[str, ...], terms: Terms) -> dict[str, bytes]:
    from servekit.errors import ConfigError

    found = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or name not in terms.files:
            known = " or ".join(f"{known}=FILE" for known in terms.files) or "none: this platform knows no such file"
            raise ConfigError(f"--file {text!r}: expected {known}")
        path = Path(file)
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"--file {text!r}: expected a file of at most {MAX_FILE_BYTES} bytes")
        found[name] = path.read_bytes()
    return found


def _writable(junit: str | None) -> Path | None:
    """Known before minutes of work are lost. Raises ConfigError."""
    from servekit.errors import ConfigError

    if junit is None:
        return None
    path = Path(junit)
    try:
        with path.open("ab"):
            return path
    except OSError as error:
        raise ConfigError(f"--junit {junit!r}: {error.strerror}") from error


def _subject(asked: _Asked, terms: Terms) -> Subject:
    from servekit.check import subject
    from servekit.errors import ConfigError

    if asked.wait_s is not None and math.isnan(asked.wait_s):
        raise ConfigError("--wait-s: expected a number of seconds, got nan")
    given = [name for name in ("url", "command", "image") if getattr(asked, name) is not None]
    if len(given) != 1:
        raise ConfigError("expected a URL, --command or --image, and one of them only")
    for name in ("engine", "model", "engine_arguments"):
        if getattr(asked, name) not in (None, ()) and asked.image is None:
            shown = "what stands behind --" if name == "engine_arguments" else f"--{name}"
            raise ConfigError(f"{shown}: expected --image, too")
    if asked.model is not None and not (asked.model and Path(asked.model).is_dir()):
        raise ConfigError(f"--model {asked.model!r}: expected a folder")
    if asked.url is not None:
        if asked.port is not None:
            raise ConfigError("--port: expected the port in the URL")
        return subject.at_url(asked.url)
    if asked.command is not None:
        return subject.Command(asked.command, terms.start, port=asked.port)
    assert asked.image is not None  # noqa: S101 - one of them is given
    from servekit.check import container

    return container.Container(
        asked.image, terms.start, engine=container.engine(asked.engine), shares_files=terms.moves_files,
        describes=terms.files, places=terms.places, port=asked.port,
        model=Path(asked.model) if asked.model is not None else None, extra=asked.engine_arguments,
    )  # fmt: skip
