"""The learned cost of a batch, from batches with known times."""

from __future__ import annotations

import pytest

from servekit.engine.cost import MAX_INLINE_S, MIN_BATCHES, OVERRUN_S, Cost


def learned(batches: list[tuple[int, float]]) -> Cost:
    cost = Cost()
    for rows, seconds in batches:
        cost.learn(rows, seconds)
    return cost


def test_nothing_is_known_before_some_batches() -> None:
    cost = learned([(1, 1e-5)] * (MIN_BATCHES - 1))
    assert not cost.known
    assert not cost.inline_rows(1)
    cost.learn(1, 1e-5)
    assert cost.known
    assert cost.inline_rows(1) == 1


def test_both_parts_are_found_from_batches_of_different_sizes() -> None:
    cost = learned([(rows, 0.005 + 0.0001 * rows) for rows in (1, 8, 64, 32, 2, 16, 64, 48, 5, 30)])
    assert cost.seconds_per_row == pytest.approx(0.0001, rel=1e-3)
    assert cost.seconds_per_batch == pytest.approx(0.005, rel=1e-3)
    assert cost.estimate_s(64) == pytest.approx(0.0114, rel=1e-3)


@pytest.mark.parametrize(
    ("batches", "estimate_s"),
    [
        ([(8, 0.01)] * 20, 0.01),  # one size tells the sum
        ([(1, 0.02), (64, 0.001)] * 20, 0.0105),  # larger and faster: no line that means anything
        ([(1, 0.0), (100, 1.0)] * 20, 0.5),
    ],
)
def test_no_part_is_ever_negative(batches: list[tuple[int, float]], estimate_s: float) -> None:
    cost = learned(batches)
    assert cost.seconds_per_row >= 0
    assert cost.seconds_per_batch >= 0
    mean_rows = round(sum(rows for rows, _ in batches) / len(batches))
    assert cost.estimate_s(mean_rows) == pytest.approx(estimate_s, rel=0.05)


def test_what_is_learned_follows_the_model() -> None:
    cost = learned([(4, 0.001)] * 100 + [(4, 0.1)] * 300)
    assert cost.estimate_s(4) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize(("limit_s", "rows"), [(1.0, 64), (0.0114, 64), (0.0083, 32), (0.006, 9), (0.001, 1)])
def test_rows_that_fit_a_time(limit_s: float, rows: int) -> None:
    cost = learned([(n, 0.005 + 0.0001 * n) for n in (1, 8, 64, 32, 2, 16, 64, 48, 5, 30)])
    assert cost.rows_within(limit_s, 64) in (rows, rows + 1)


def test_a_long_queue_of_a_quick_model_is_run_in_slices() -> None:
    cost = learned([(rows, 1e-4 * rows) for rows in (1, 2, 4, 8) * 5])
    assert cost.inline_rows(4) == 4
    assert cost.inline_rows(64) == pytest.approx(MAX_INLINE_S / 1e-4, abs=1)


@pytest.mark.parametrize(
    ("per_batch_s", "per_row_s"),
    [(0.001, 1e-4), (0.0, MAX_INLINE_S / 4), (MAX_INLINE_S * 2, 0.0)],
    ids=["costs by the batch", "slow rows", "slow at all"],
)
def test_what_would_be_slower_in_slices_is_for_a_thread(per_batch_s: float, per_row_s: float) -> None:
    cost = learned([(rows, per_batch_s + per_row_s * rows) for rows in (1, 2, 4, 8) * 5])
    assert cost.inline_rows(64) == 0


def test_a_model_that_sometimes_waits_leaves_the_loop() -> None:
    quick = [(1, 1e-5)] * 20
    late = [(1, OVERRUN_S * 2)]
    assert learned(quick + late + quick).inline_rows(1), "one hiccup of the machine is forgiven"
    unsteady = quick + late * 3 + quick * 5
    assert learned(unsteady).estimate_s(1) < MAX_INLINE_S
    assert not learned(unsteady).inline_rows(1)
    assert learned(unsteady + quick * 15).inline_rows(1), "and tried again in the end"
