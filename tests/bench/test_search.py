"""Which setting is recommended, and how that is said: on a server whose speed is known to the microsecond."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from servekit import Batching
from servekit.bench.figures import Setting, Stage, histogram, latency
from servekit.bench.load import Aim
from servekit.bench.runner import Bench, Interrupted, Loads
from servekit.bench.search import Search
from servekit.parity.served import NotServing

DECLARED = Batching(max_size=8)
LOADS = Loads((1, 16), (), 1.0, 0.0)
# Seconds that a call of predict takes, for so many rows.
Cost = Callable[[int], float]


class Known(Bench):
    """A server that is not there. Each worker's batches are as large as the callers fill them."""

    def __init__(self, setting: Setting, cost: Cost, open_share: float) -> None:
        super().__init__(Aim("127.0.0.1", 1, b""))
        self._size = setting.max_size or DECLARED.max_size
        self._workers = setting.workers or 1
        self._cost, self._open_share = cost, open_share

    def closed(self, callers: int, seconds: float) -> Stage:
        each = max(1, callers // self._workers)
        rows = min(each, self._size)
        batches_waited = -(-each // rows)
        call_s = self._cost(rows)
        return self._said(
            "closed", callers, seconds, rows * min(self._workers, callers) / call_s, batches_waited * call_s
        )

    def open(self, per_s: float, loads: Loads) -> Stage:
        """In time up to a share of what the closed loop gave, else far too late."""
        most = max(self.closed(callers, 1.0).per_s for callers in loads.concurrency)
        late = per_s > most * self._open_share * 1.01
        return self._said("open", per_s, loads.seconds, per_s, 10.0 if late else 0.001)

    def _said(self, kind: str, level: float, seconds: float, per_s: float, latency_s: float) -> Stage:
        count = round(per_s * seconds)
        each = [latency_s] * count
        stage = Stage(kind, level, seconds, count, count, count, {}, latency(each), histogram(each))  # type: ignore[arg-type]
        self.stages.append(stage)
        return stage


def search(
    cost: Cost, target_ms: float, *, workers: tuple[int, ...] = (1,), settings: int = 8, open_share: float = 1.0
) -> tuple[Search, list[Setting]]:
    started: list[Setting] = []

    @contextmanager
    def serve(setting: Setting) -> Iterator[Bench]:
        started.append(setting)
        yield Known(setting, cost, open_share)

    return Search(serve, DECLARED, workers, LOADS, target_ms, max_settings=settings), started


def mostly_per_call(rows: int) -> float:
    return 0.010 + 0.0001 * rows


def mostly_per_row(rows: int) -> float:
    return 0.010 * rows


def test_larger_batches_where_they_cost_nothing() -> None:
    looking, started = search(mostly_per_call, 100.0)
    advice = looking.run()
    assert advice.setting == Setting(1, 32, 0.0)
    assert advice.batching == {"max_size": 32, "max_delay_ms": 0.0}
    assert advice.confirmed is not None
    assert advice.confirmed.meets(100.0)
    assert "Batching(max_size=32, max_delay_ms=0) with --workers 1" in advice.text
    assert "As declared, 1 worker: " in advice.text
    assert "16 connections are the most that were tried" in advice.text
    # One of them twice: it was asked at a fixed rate, too.
    assert len(started) == len(advice.tried) + 1 <= 9
    assert len(set(started)) == len(advice.tried)
    assert started[-1] == advice.setting


def test_what_is_declared_stays_where_nothing_is_better() -> None:
    looking, _ = search(mostly_per_row, 1000.0)
    advice = looking.run()
    assert advice.setting == Setting(1)
    assert advice.batching == {"max_size": 8, "max_delay_ms": 0.0}
    assert "It is what is declared" in advice.text


def test_more_workers_where_they_help() -> None:
    looking, _ = search(mostly_per_row, 1000.0, workers=(1, 2))
    assert looking.run().setting == Setting(2)


@pytest.mark.parametrize("target_ms", [5.0, 15.0, 40.0, 200.0])
def test_the_recommended_one_keeps_the_target_as_measured(target_ms: float) -> None:
    looking, _ = search(mostly_per_call, target_ms)
    advice = looking.run()
    if advice.setting is None:
        assert target_ms == 5.0
        assert "None of the" in advice.text
        assert "The lowest was" in advice.text
        assert not any(stage.meets(target_ms) for tried in advice.tried for stage in tried.stages)
        return
    [chosen] = [tried for tried in advice.tried if tried.setting == advice.setting]
    assert chosen.best(target_ms) is not None
    assert advice.confirmed is not None
    assert advice.confirmed.meets(target_ms)


@pytest.mark.parametrize("settings", [1, 2, 4])
def test_no_more_settings_than_allowed(settings: int) -> None:
    looking, _ = search(mostly_per_call, 100.0, workers=(1, 2, 4), settings=settings)
    assert len(looking.run().tried) == settings


def test_a_setting_that_fails_under_a_fixed_rate_is_not_recommended() -> None:
    looking, _ = search(mostly_per_call, 100.0, open_share=0.1)
    advice = looking.run()
    assert (advice.setting, advice.confirmed) == (None, None)
    assert "under a fixed rate" in advice.text


def test_a_lower_rate_is_confirmed_where_a_higher_one_is_not_kept() -> None:
    looking, _ = search(mostly_per_call, 100.0, open_share=0.65)
    advice = looking.run()
    best = max(stage.per_s for tried in advice.tried for stage in tried.stages)
    assert advice.confirmed is not None
    assert advice.confirmed.level == pytest.approx(0.6 * best, rel=0.05)


def test_a_wait_is_never_tried_that_the_target_cannot_bear() -> None:
    looking, started = search(mostly_per_call, 3.0, settings=50)
    looking.run()
    assert {setting.max_delay_ms for setting in started} <= {None, 0.0}


def test_servers_that_do_not_start_are_told_and_passed_over() -> None:
    @contextmanager
    def serve(setting: Setting) -> Iterator[Bench]:
        if setting.max_size == 32:
            raise NotServing("it fell over")
        yield Known(setting, mostly_per_call, 1.0)

    advice = Search(serve, DECLARED, (1,), LOADS, 100.0, max_settings=8).run()
    assert advice.setting is not None
    assert advice.setting.max_size != 32
    assert [tried.problem for tried in advice.tried if tried.setting.max_size == 32] == ["it fell over"]

    @contextmanager
    def never(setting: Setting) -> Iterator[Bench]:
        raise NotServing(f"no {setting}")
        yield

    advice = Search(never, DECLARED, (1,), LOADS, 100.0, max_settings=3).run()
    assert advice.setting is None
    assert "None answered all requests" in advice.text


def test_what_was_measured_is_kept_when_it_is_interrupted() -> None:
    class Cut(Known):
        def closed(self, callers: int, seconds: float) -> Stage:
            if callers == 16:
                raise Interrupted(2)
            return super().closed(callers, seconds)

    @contextmanager
    def serve(setting: Setting) -> Iterator[Bench]:
        yield Cut(setting, mostly_per_call, 1.0)

    looking = Search(serve, DECLARED, (1,), LOADS, 100.0, max_settings=3)
    with pytest.raises(Interrupted):
        looking.run()
    assert [[stage.level for stage in tried.stages] for tried in looking.tried] == [[1]]
