"""`servekit parity TARGET --samples DIR`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from servekit.contract import Platform
    from servekit.parity.runner import Compared, Subject

DIFFERENT, USAGE_ERROR, INTERRUPTED = 1, 2, 130
MAX_WORDS = 50


@click.command(context_settings={"max_content_width": 110})
@click.argument("target")
@click.option("--samples", metavar="DIR", required=True, help="the requests: a file each, good ones and bad ones")
@click.option("--platforms", metavar="NAMES", help="with commas between them  [default: all that are installed]")
@click.option("--served", is_flag=True, help="through real servers, one after the other, not through the pure door")
@click.option("--model-dir", metavar="DIR", help="what `load` receives  [default: the target's folder]")
@click.option("--snapshot", metavar="FILE", help="hold the answers against this file, too")
@click.option("--update", is_flag=True, help="write the snapshot instead, where the platforms agree")
@click.option(
    "--tolerance", type=click.FloatRange(0, 1), metavar="SHARE",
    help="of a tensor's largest value by which numbers may differ  [default: by dtype, 1e-5 for float32]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="print one JSON object, for machines")
def parity(
    target: str, samples: str, platforms: str | None, served: bool, model_dir: str | None, snapshot: str | None,
    update: bool, tolerance: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Send the same samples through every platform's adapter: answers and kinds of errors must be equal.

    The exit code is 0 when all are equal, among each other and to the snapshot; 1 when some differ; 2 for a wrong
    option, a wrong file or a model that does not load.
    """
    from servekit.cli.values import check_values
    from servekit.errors import ServeError
    from servekit.images.programs import terminable
    from servekit.parity.served import NotServing

    try:
        with terminable():
            check_values(click.get_current_context())
            code = _parity(target, samples, platforms, served, model_dir, snapshot, update, tolerance, as_json)
    except (ServeError, OSError) as error:
        for line in error.lines if isinstance(error, NotServing) else ():
            click.echo(f"log    {line}", err=True)
        click.echo(f"servekit: {error.message if isinstance(error, ServeError) else error}", err=True)
        code = USAGE_ERROR
    except (KeyboardInterrupt, click.Abort):
        click.echo("servekit: interrupted; nothing was compared", err=True)
        code = INTERRUPTED
    sys.exit(code)


def _parity(
    target: str, samples: str, platforms: str | None, served: bool, model_dir: str | None, snapshot: str | None,
    update: bool, tolerance: float | None, as_json: bool,
) -> int:  # fmt: skip
    """Raises ConfigError, LoadFailed, NotServing, OSError. The exit code."""
    from servekit.errors import ConfigError
    from servekit.parity import report, runner
    from servekit.parity import snapshot as snapshots
    from servekit.parity.samples import read

    file = None if snapshot is None else Path(snapshot)
    if update and file is None:
        raise ConfigError("--update: expected --snapshot FILE with it")
    if file is not None and update and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise ConfigError(f"--snapshot: expected a file in a directory that exists, got {snapshot!r}")
    given = read(Path(samples), but=() if file is None else (file,))
    before = snapshots.read(file) if file is not None and not update else {}
    chosen = _platforms(platforms)
    what = runner.subject(target, None if model_dir is None else Path(model_dir), Path.cwd())
    # What a bad sample makes the engine log is what is looked for here.
    logging.getLogger("servekit").addHandler(logging.NullHandler())
    logging.getLogger("servekit").propagate = False
    with _steps(len(chosen) * len(given), quiet=as_json) as step:
        found = runner.run(what, chosen, given, served=served, tolerance=tolerance, step=step)
    changes: Mapping[str, list[str]] = {}
    entries = {
        compared.sample.name: snapshots.entry(compared.outcomes, what.signature) for compared in found if compared.equal
    }
    if file is not None and not update:
        changes = _changes(before, entries, what, list(chosen), tolerance, found)
    different = any(not compared.equal for compared in found) or bool(changes)
    if as_json:
        from servekit.check.report import dumps

        click.echo(dumps(report.document(found, list(chosen), changes)))
    else:
        _tell(found, changes, list(chosen))
    if file is not None and update:
        if different:
            click.echo(f"servekit: {file} was not written, since the platforms differ", err=True)
        else:
            snapshots.write(file, entries)
            click.echo(f"wrote {file}: read it before you commit it", err=True)
    return DIFFERENT if different else 0


def _tell(found: Sequence[Compared], changes: Mapping[str, list[str]], platforms: Sequence[str]) -> None:
    from servekit.parity import report

    for compared in found:
        click.echo("\n".join([report.line(compared), *report.details(compared)]))
    for name, lines in changes.items():
        click.echo("\n".join([f"CHANGED {name}, since the snapshot", *(f"        {line}" for line in lines)]))
    click.echo(f"\n{report.summary(found, platforms)}" + (f"; {len(changes)} changed" if changes else ""))


def _changes(
    before: Mapping[str, dict[str, object]], entries: Mapping[str, dict[str, object]], what: Subject,
    platforms: Sequence[str], tolerance: float | None, found: Sequence[Compared],
) -> dict[str, list[str]]:  # fmt: skip
    from servekit.parity import snapshot as snapshots

    changes = {
        name: snapshots.differences(before.get(name), entry, what.signature, platforms, tolerance)
        for name, entry in entries.items()
    }
    there = {compared.sample.name for compared in found}
    changes |= {name: ["- the sample is not there any more"] for name in before if name not in there}
    return {name: lines for name, lines in changes.items() if lines}


def _platforms(names: str | None) -> dict[str, Platform]:
    from servekit.errors import ConfigError
    from servekit.launch.platforms import installed

    known = installed()
    if names is None:
        return dict(known)
    wanted = list(dict.fromkeys(name.strip().lower() for name in names.split(",") if name.strip()))
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ConfigError(f"--platforms: expected some of {', '.join(known)}, got {names!r}")
    return {name: known[name] for name in wanted}


@contextmanager
def _steps(total: int, *, quiet: bool) -> Iterator[Callable[[str, str], None] | None]:
    """A bar on a terminal; nothing in a log, where the lines follow at once."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=total, label="samples", file=sys.stderr, item_show_func=lambda item: item) as bar:

        def step(platform: str, sample: str) -> None:
            bar.update(1, f"{platform}: {sample}"[:MAX_WORDS])

        yield step
