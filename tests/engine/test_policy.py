"""The batch policy with invented clocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.engine.policy import Close, Group, Wait, admits, decide, halves


@pytest.mark.parametrize(
    ("groups", "max_size", "max_delay_s", "now_s", "expected"),
    [
        ([], 8, 0.0, 10.0, Wait(None)),
        ([Group("a", 1, 10.0)], 8, 0.0, 10.0, Close("a", "idle")),
        ([Group("a", 8, 10.0)], 8, 0.0, 10.0, Close("a", "full")),
        ([Group("a", 1, 10.0)], 8, 0.5, 10.1, Wait(10.5)),
        ([Group("a", 1, 10.0)], 8, 0.5, 10.5, Close("a", "delay")),
        ([Group("a", 8, 10.0)], 8, 0.5, 10.0, Close("a", "full")),
        # the group that has waited longest goes first, full or not
        ([Group("a", 8, 11.0), Group("b", 1, 10.0)], 8, 0.0, 12.0, Close("b", "idle")),
        ([Group("a", 1, 10.0), Group("b", 8, 10.2)], 8, 1.0, 10.3, Close("b", "full")),
        # two groups that may still wait: the earlier deadline is the one to wake up for
        ([Group("a", 1, 10.4), Group("b", 2, 10.2)], 8, 1.0, 10.5, Wait(11.2)),
    ],
)
def test_decide(groups: list[Group], max_size: int, max_delay_s: float, now_s: float, expected: Close | Wait) -> None:
    assert decide(groups, max_size=max_size, max_delay_s=max_delay_s, now_s=now_s) == expected


@given(
    st.lists(st.tuples(st.integers(1, 64), st.floats(0, 100)), max_size=8),
    st.integers(1, 32),
    st.floats(0, 10),
    st.floats(0, 120),
)
def test_a_wait_ends_before_any_row_is_late(
    waiting: list[tuple[int, float]], max_size: int, max_delay_s: float, now_s: float
) -> None:
    groups = [Group(i, rows, oldest_s) for i, (rows, oldest_s) in enumerate(waiting)]
    decision = decide(groups, max_size=max_size, max_delay_s=max_delay_s, now_s=now_s)
    due = [group.oldest_s + max_delay_s for group in groups]
    if isinstance(decision, Wait):
        assert decision.until_s == (min(due) if due else None)
        assert all(late_s > now_s for late_s in due)
        assert all(group.rows < max_size for group in groups)
    else:
        chosen = groups[decision.key]  # type: ignore[call-overload]
        assert chosen.rows >= max_size or chosen.oldest_s + max_delay_s <= now_s


@pytest.mark.parametrize(
    ("queued_rows", "rows", "expected"),
    [(0, 1, True), (0, 500, True), (90, 10, True), (90, 11, False), (100, 1, False)],
)
def test_admits(queued_rows: int, rows: int, *, expected: bool) -> None:
    assert admits(queued_rows=queued_rows, rows=rows, max_queue=100) is expected


@pytest.mark.parametrize("count", [2, 3, 4, 7, 64])
def test_halves_cover_everything_once(count: int) -> None:
    items = list(range(count))
    first, second = halves(count)
    assert items[first] + items[second] == items
    assert items[first]
    assert items[second]
