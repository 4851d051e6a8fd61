"""`servekit bench URL|TARGET`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from servekit.bench.figures import Advice, Setting, Stage
    from servekit.bench.load import Aim
    from servekit.bench.runner import Bench, Loads
    from servekit.bench.subject import Local

NOT_MET, USAGE_ERROR, NOT_MEASURED, SIGNALLED = 1, 2, 3, 128
MAX_LEVELS = 20
MAX_RATE = 100_000.0
MAX_WORKERS = 64
BAR_PER_S = 10


@click.command(context_settings={"max_content_width": 110})
@click.argument("target", metavar="URL|TARGET")
@click.option("--platform", metavar="NAME", help="in whose form requests are sent  [default: sagemaker for a TARGET]")
@click.option("--sample", metavar="FILE", help="the request that is sent  [default: zeros for a TARGET, GET for a URL]")
@click.option("--content-type", metavar="TYPE", help="of the sample  [default: by the file's name]")
@click.option(
    "--concurrency", metavar="N,N,...", default="1,8,32,128", show_default=True, help="closed loops; none: none"
)
@click.option(
    "--rates", metavar="N,N,...", default="auto", show_default=True,
    help="open loops, requests per second; auto: half and 80 % of the best closed loop; none: none",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0.05, 3600), default=5.0, show_default=True, metavar="S", help="of each"
)
@click.option(
    "--warm-up-s", type=click.FloatRange(0, 600), default=2.0, show_default=True, metavar="S", help="not counted"
)
@click.option(
    "--timeout-s", type=click.FloatRange(0.1, 600), default=10.0, show_default=True, metavar="S", help="for an answer"
)
@click.option(
    "--connections",
    type=click.IntRange(1, 1000),
    default=256,
    show_default=True,
    metavar="N",
    help="of an open loop, at most",
)
@click.option(
    "--workers", metavar="N,N,...", help="of a TARGET  [default: the platform's; for a search 1 and all CPUs]"
)
@click.option("--model-dir", metavar="DIR", help="what `load` of a TARGET receives  [default: the target's folder]")
@click.option(
    "--target-p99-ms", type=click.FloatRange(0, min_open=True), metavar="MS",
    help="of a TARGET: search for the Batching and the workers that answer most within it; of a URL: is it kept?",
)  # fmt: skip
@click.option(
    "--max-settings",
    type=click.IntRange(1, 50),
    default=8,
    show_default=True,
    metavar="N",
    help="that a search tries at most",
)
@click.option("--html", metavar="FILE", help="write a report with plots, one file")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object, for machines")
def bench(**options: Any) -> None:
    """Measure a server behind URL, or TARGET served here: throughput, latency, errors, batches.

    Closed loops show what fits through, open loops what callers see who do not wait for one another. The exit code is
    0; 1 when requests failed, or nothing keeps --target-p99-ms; 2 for a wrong option; 3 when there is nothing to
    measure; 130 after Ctrl-C, with the figures until then.
    """
    from servekit.bench.subject import WrongAnswer
    from servekit.cli.values import check_values
    from servekit.errors import LoadFailed, ServeError
    from servekit.images.programs import terminable
    from servekit.parity.served import NotServing

    try:
        with terminable():
            check_values(click.get_current_context())
            code = _bench(**options)
    except (ServeError, OSError) as error:
        for line in error.lines if isinstance(error, NotServing) else ():
            click.echo(f"log    {line}", err=True)
        click.echo(f"servekit: {error.message if isinstance(error, ServeError) else error}", err=True)
        code = NOT_MEASURED if isinstance(error, (NotServing, WrongAnswer, LoadFailed)) else USAGE_ERROR
    except (KeyboardInterrupt, click.Abort):
        click.echo("servekit: interrupted before anything was measured", err=True)
        code = SIGNALLED + 2
    sys.exit(code)


def _bench(
    target: str, platform: str | None, sample: str | None, content_type: str | None, concurrency: str, rates: str,
    seconds: float, warm_up_s: float, timeout_s: float, connections: int, workers: str | None, model_dir: str | None,
    target_p99_ms: float | None, max_settings: int, html: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Raises ConfigError, LoadFailed, NotServing, WrongAnswer, OSError. The exit code."""
    from importlib.util import find_spec

    from servekit.bench import subject
    from servekit.bench.runner import Loads, conditions
    from servekit.errors import ConfigError

    loads = Loads(
        tuple(int(level) for level in _numbers("--concurrency", concurrency, 1, 1000, whole=True) or ()),
        _numbers("--rates", rates, 0.1, MAX_RATE), seconds, warm_up_s, connections,
    )  # fmt: skip
    if not loads.concurrency and not loads.rates:
        raise ConfigError("--concurrency none: expected --rates with numbers, else there is nothing to do")
    if target_p99_ms is not None and not loads.concurrency:
        raise ConfigError("--target-p99-ms: expected some --concurrency: what a server can bear is looked for there")
    file = None if sample is None else Path(sample)
    if html is not None and (Path(html).is_dir() or not Path(html).absolute().parent.is_dir()):
        raise ConfigError(f"--html: expected a file in a directory that exists, got {html!r}")
    if html is not None and find_spec("matplotlib") is None:
        raise ConfigError('--html: the package matplotlib is not installed: pip install "servekit[bench]"')
    said = _Said(target, loads, as_json=as_json, html=html, target_p99_ms=target_p99_ms)
    with said:
        if subject.is_url(target):
            if workers is not None or model_dir is not None:
                raise ConfigError("--workers, --model-dir: expected for a TARGET that is started here, not for a URL")
            host, port, ask = subject.at_url(target, platform, file, content_type)
            said.conditions |= conditions(request=ask.words, load=_words(loads))
            said.measure(subject.aim(host, port, ask, timeout_s))
        else:
            with tempfile.TemporaryDirectory(prefix="servekit-bench-") as folder:
                counts = _numbers("--workers", workers, 1, MAX_WORKERS, whole=True) if workers else None
                local = subject.local(
                    target, platform, file, content_type, None if model_dir is None else Path(model_dir),
                    Path(folder).resolve(),
                )  # fmt: skip
                said.conditions |= conditions(platform=local.platform, request=local.ask.words, load=_words(loads))
                said.local(local, None if counts is None else tuple(map(int, counts)), timeout_s, max_settings)
    return said.code


@dataclass(slots=True)
class _Said:
    """What is told, while it goes on and in the end: also after Ctrl-C, with the figures until then."""

    subject: str
    loads: Loads
    as_json: bool
    html: str | None
    target_p99_ms: float | None
    conditions: dict[str, Any] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    advice: Advice | None = None
    notes: list[str] = field(default_factory=list)
    code: int = 0
    _advance: Callable[[float, str], None] | None = None

    def __enter__(self) -> _Said:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        """Tells; an interruption ends here where something was measured."""
        from servekit.bench.runner import Interrupted

        ended = isinstance(error, (Interrupted, KeyboardInterrupt, SystemExit))
        if ended and (self.stages or self.advice is not None or isinstance(error, Interrupted)):
            number = error.signal if isinstance(error, Interrupted) else 2
            self.code = (
                error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else SIGNALLED + number
            )
            self._tell(interrupted=True)
            return True
        if error is None:
            self._tell(interrupted=False)
        return False

    # --- measuring ---

    def measure(self, aim: Aim) -> None:
        """A server that somebody else runs."""
        with self._bar(self._planned_s()):
            self._run(self._bench(aim))
        self._kept()

    def local(self, local: Local, workers: tuple[int, ...] | None, timeout_s: float, max_settings: int) -> None:
        """A target, with its own setting, and then a search where there is something to search for."""
        from servekit.bench import subject
        from servekit.bench.figures import Setting

        own = Setting(None if workers is None else workers[0])
        with self._bar(self._planned_s()), local.serve(own) as server:
            aim = subject.local_aim(server.port, local.ask, timeout_s)
            self._run(self._bench(aim, server))
        if self.target_p99_ms is not None:
            self._search(local, workers, timeout_s, max_settings)

    def _run(self, bench: Bench) -> None:
        bench.run(self.loads)

    def _bench(self, aim: Aim, server: Any = None) -> Bench:
        from servekit.bench.runner import Bench

        bench = Bench(aim, server, self._advance, self._seen)
        bench.stages = self.stages
        return bench

    def _kept(self) -> None:
        """Of a server that is not ours: which of the loads kept the target?"""
        from servekit.bench.figures import Advice

        if self.target_p99_ms is None:
            return
        meeting = [stage for stage in self.stages if stage.meets(self.target_p99_ms)]
        best = max(meeting, key=lambda stage: stage.per_s, default=None)
        if best is None:
            text = f"No load kept p99 within {self.target_p99_ms:g} ms."
            self.advice = Advice(self.target_p99_ms, None, text)
        else:
            self.notes.append(
                f"p99 stayed within {self.target_p99_ms:g} ms at {', '.join(stage.name for stage in meeting)}; most "
                f"answers at {best.name}: {best.per_s:,.5g}/s"
            )

    def _search(self, local: Local, workers: tuple[int, ...] | None, timeout_s: float, max_settings: int) -> None:
        from servekit.bench import subject
        from servekit.bench.figures import Advice
        from servekit.bench.runner import Bench
        from servekit.bench.search import Search
        from servekit.launch.cpus import usable_cpus

        assert self.target_p99_ms is not None  # noqa: S101 - the caller has looked
        counts = workers or tuple(dict.fromkeys((1, usable_cpus())))

        @contextmanager
        def serve(setting: Setting) -> Iterator[Bench]:
            with local.serve(setting) as server:
                yield Bench(subject.local_aim(server.port, local.ask, timeout_s), server, self._advance)

        search = Search(
            serve, local.what.predictor.batching, counts, self.loads, self.target_p99_ms,
            max_settings=max_settings, say=self._note,
        )  # fmt: skip
        try:
            with self._bar(self._search_s(max_settings)):
                self.advice = search.run()
        except BaseException:
            text = "The search was interrupted; nothing is recommended."
            self.advice = Advice(self.target_p99_ms, None, text, tried=tuple(search.tried))
            raise

    # --- telling ---

    def _tell(self, *, interrupted: bool) -> None:
        from servekit.bench import figures, report

        result = figures.Result(
            self.subject, self.conditions, tuple(self.stages), self.advice, tuple(self.notes), interrupted
        )
        if not interrupted and (result.failed or (self.advice is not None and self.advice.setting is None)):
            self.code = NOT_MET
        if self.as_json:
            from servekit.check.report import dumps

            click.echo(dumps(figures.document(result)))
        else:
            click.echo(report.text(result))
        # Last: the figures are told, also when there is no room for it.
        if self.html is not None:
            Path(self.html).write_text(report.html(result), encoding="utf-8")
            click.echo(f"wrote {self.html}", err=True)

    def _seen(self, stage: Stage) -> None:
        from servekit.bench.report import stage_line

        self._note(stage_line(stage))

    def _note(self, text: str) -> None:
        """A line in a log; a terminal has the bar."""
        if self._advance is None:
            click.echo(text, err=True)

    @contextmanager
    def _bar(self, seconds: float) -> Iterator[None]:
        if self.as_json or not sys.stderr.isatty():
            yield
            return
        length = max(1, int(seconds * BAR_PER_S))
        with click.progressbar(length=length, label="bench", file=sys.stderr, item_show_func=lambda text: text) as bar:
            whole_s = 0.0

            def advance(passed_s: float, text: str) -> None:
                nonlocal whole_s
                whole_s += passed_s
                bar.update(max(0, min(length, int(whole_s * BAR_PER_S)) - bar.pos), text)

            self._advance = advance
            try:
                yield
            finally:
                self._advance = None

    def _planned_s(self) -> float:
        opened = 2 if self.loads.rates is None else len(self.loads.rates)
        return self.loads.warm_up_s + (len(self.loads.concurrency) + opened) * self.loads.seconds

    def _search_s(self, max_settings: int) -> float:
        from servekit.bench.search import SEARCH_SECONDS

        each_s = min(self.loads.seconds, SEARCH_SECONDS)
        return (max_settings + 1) * (self.loads.warm_up_s + len(self.loads.concurrency) * each_s)


def _numbers(option: str, text: str, low: float, high: float, *, whole: bool = False) -> tuple[float, ...] | None:
    """None for `auto`. Raises ConfigError."""
    from servekit.errors import ConfigError

    word = text.strip().lower()
    if word == "auto" and option == "--rates":
        return None
    if word == "none" and option != "--workers":
        return ()
    kind = "whole numbers" if whole else "numbers"
    wrong = ConfigError(
        f"{option}: expected 1 to {MAX_LEVELS} {kind} from {low:g} to {high:g} with commas, got {text!r:.100}"
    )
    try:
        values = [float(int(part)) if whole else float(part) for part in text.split(",")]
    except ValueError:
        raise wrong from None
    if not 1 <= len(values) <= MAX_LEVELS or not all(low <= value <= high for value in values):
        raise wrong
    return tuple(dict.fromkeys(values))


def _words(loads: Loads) -> str:
    closed = f"closed loops of {', '.join(map(str, loads.concurrency))} connections" if loads.concurrency else ""
    rates = (
        "shares of the best rate" if loads.rates is None else f"{', '.join(f'{rate:g}' for rate in loads.rates)} per s"
    )
    opened = f"open loops at {rates}" if loads.rates != () else ""
    return (
        f"{', '.join(part for part in (closed, opened) if part)}; {loads.seconds:g} s each, after a warm-up of "
        f"{loads.warm_up_s:g} s; the load generator is a process of this machine"
    )
