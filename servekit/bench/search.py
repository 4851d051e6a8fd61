"""Which `Batching`, and how many workers, for a latency target: a bounded search, each setting on a server of its own.

One thing is changed at a time, from the best so far: first the workers, then the size of batches, then how long an idle
model waits for more rows. What counts is how many answers came per second while 99 % of them came in time and none
failed. The best is then asked at a fixed rate, where nothing hides its queue: only what it kept there is recommended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

from servekit.bench.figures import Advice, Setting, Stage, Tried
from servekit.bench.runner import Bench, Loads
from servekit.bench.subject import WrongAnswer
from servekit.errors import ConfigError
from servekit.parity.served import NotServing
from servekit.predictor import Batching

# Two runs of one setting on an idle machine differ by less; so much more is taken for better.
BETTER = 1.1
SIZES = (1, 8, 32, 128)
DELAYS_MS = (0.0, 2.0, 5.0)
# Of the throughput of the closed loop, at which the best is asked in the end.
CONFIRM_SHARES = (0.8, 0.6, 0.4)
SEARCH_SECONDS = 2.0

Serve = Callable[[Setting], AbstractContextManager[Bench]]
Said = Callable[[str], None]


class Search:
    """max_settings: how many are tried at most, the declared one among them."""

    def __init__(
        self, serve: Serve, declared: Batching, workers: tuple[int, ...], loads: Loads, target_p99_ms: float, *,
        max_settings: int, say: Said | None = None,
    ) -> None:  # fmt: skip
        self._serve = serve
        self._declared = declared
        self._workers = workers
        self._loads = replace(loads, seconds=min(loads.seconds, SEARCH_SECONDS))
        self._target = target_p99_ms
        self._left = max_settings
        self._say = say or (lambda _text: None)
        self.tried: list[Tried] = []

    def run(self) -> Advice:
        """Raises Interrupted; `tried` then has what was measured."""
        best = self._try(Setting(self._workers[0]))
        first = best
        for workers in self._workers[1:]:
            best = self._better(best, replace(best.setting, workers=workers))
        sizes = sorted({*SIZES, self._declared.max_size * 4, max(1, self._declared.max_size // 4)})
        for size in self._near(sizes, self._declared.max_size):
            best = self._better(best, self._setting(best.setting, max_size=size))
        for delay_ms in self._delays():
            best = self._better(best, self._setting(best.setting, max_delay_ms=delay_ms))
        return self._advice(first, best)

    # --- trying ---

    def _setting(self, base: Setting, **changes: float) -> Setting:
        declared = {"max_size": self._declared.max_size, "max_delay_ms": float(self._declared.max_delay_ms)}
        now = {name: getattr(base, name) if base.max_size is not None else value for name, value in declared.items()}
        values = now | changes
        if values == declared:
            return Setting(base.workers)
        return Setting(base.workers, int(values["max_size"]), float(values["max_delay_ms"]))

    def _near(self, values: list[int], declared: int) -> Iterator[int]:
        """Those nearest to what is declared first, since there may not be the time for all."""
        ratio = [(max(value, declared) / min(value, declared), value) for value in values if value != declared]
        yield from (value for _, value in sorted(ratio))

    def _delays(self) -> list[float]:
        """A wait longer than the target could not be borne."""
        return [delay for delay in DELAYS_MS if delay != self._declared.max_delay_ms and delay < self._target / 2]

    def _better(self, best: Tried, setting: Setting) -> Tried:
        if self._left <= 0 or any(each.setting == setting for each in self.tried):
            return best
        found = self._try(setting)
        return found if self._score(found) > self._score(best) * BETTER else best

    def _score(self, tried: Tried) -> float:
        stage = tried.best(self._target)
        return 0.0 if stage is None else stage.per_s

    def _try(self, setting: Setting) -> Tried:
        self._left -= 1
        self._say(f"trying {setting}")
        bench: Bench | None = None
        problem = ""
        try:
            with self._serve(setting) as bench:
                bench.warm_up(self._loads)
                for callers in self._loads.concurrency:
                    bench.closed(callers, self._loads.seconds)
        except (NotServing, WrongAnswer, ConfigError) as error:
            problem = error.message
        finally:
            # Also when Ctrl-C ends it.
            self.tried.append(Tried(setting, tuple(bench.stages) if bench is not None else (), problem))
        return self.tried[-1]

    # --- what to do ---

    def _advice(self, first: Tried, best: Tried) -> Advice:
        stage = best.best(self._target)
        if stage is None:
            return Advice(self._target, None, self._none(), tried=tuple(self.tried))
        confirmed = self._confirm(best.setting, stage)
        if confirmed is None:
            text = (
                f"None of the {len(self.tried)} settings that were tried is recommended: {best.setting} answered "
                f"{_figures(stage)}, but under a fixed rate of {CONFIRM_SHARES[-1]:.0%} of that its p99 was above "
                f"{self._target:g} ms, or requests failed."
            )
            return Advice(self._target, None, text, tried=tuple(self.tried))
        batching = {"max_size": self._declared.max_size, "max_delay_ms": self._declared.max_delay_ms}
        if best.setting.max_size is not None:
            batching = {"max_size": best.setting.max_size, "max_delay_ms": best.setting.max_delay_ms or 0.0}
        text = self._words(first, best, stage, confirmed, batching)
        return Advice(self._target, best.setting, text, batching, tuple(self.tried), confirmed)

    def _confirm(self, setting: Setting, stage: Stage) -> Stage | None:
        """The stage at the highest of some fixed rates at which the setting keeps the target; None of none."""
        self._say(f"confirming {setting}")
        try:
            with self._serve(setting) as bench:
                bench.warm_up(self._loads)
                for share in CONFIRM_SHARES:
                    found = bench.open(max(1.0, float(f"{stage.per_s * share:.3g}")), self._loads)
                    if found.meets(self._target):
                        return found
        except (NotServing, WrongAnswer, ConfigError):
            return None
        return None

    def _none(self) -> str:
        fastest = min(
            (stage for tried in self.tried for stage in tried.stages if stage.latency is not None and not stage.failed),
            key=lambda stage: stage.latency.strict_p99_ms if stage.latency else 0.0, default=None,
        )  # fmt: skip
        text = f"None of the {len(self.tried)} settings that were tried keeps p99 within {self._target:g} ms."
        if fastest is None:
            return f"{text} None answered all requests."
        return f"{text} The lowest was {_figures(fastest)}."

    def _words(self, first: Tried, best: Tried, stage: Stage, confirmed: Stage, batching: dict[str, float]) -> str:
        workers = best.setting.workers
        said = [
            f"Batching(max_size={batching['max_size']}, max_delay_ms={batching['max_delay_ms']:g}) with "
            f"{'the default number of workers' if workers is None else f'--workers {workers}'}: of the "
            f"{len(self.tried)} settings that were tried, the one that answered most per second with p99 within "
            f"{self._target:g} ms: {_figures(stage)}."
        ]
        own = first.best(self._target)
        if best is first:
            said.append(f"It is what is declared; no other was better by more than {BETTER - 1:.0%}.")
        elif own is None:
            said.append(f"{str(first.setting).capitalize()}, none of the loads kept the target.")
        else:
            said.append(f"{str(first.setting).capitalize()}: {_figures(own)}.")
        said.append(f"Asked at a fixed rate, {confirmed.name}, it kept the target: {_figures(confirmed)}.")
        if stage.level == max(self._loads.concurrency):
            said.append(f"{stage.name.capitalize()} are the most that were tried: more may be answered more.")
        limits = {found.limited for found in (stage, confirmed) if found.limited}
        said += [f"The server may do better than shown: {limit}." for limit in sorted(limits)]
        said.append("It holds for this machine, this request and these loads; the model may need others elsewhere.")
        return " ".join(said)


def _figures(stage: Stage) -> str:
    latency = stage.latency
    p99 = "" if latency is None else f", p99 {latency.strict_p99_ms:.3g} ms"
    if latency is not None and latency.p99_ms is None:
        p99 = f", the slowest of {latency.count} {latency.max_ms:.3g} ms"
    return f"{stage.per_s:,.5g}/s at {stage.name}{p99}"
