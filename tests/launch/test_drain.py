from __future__ import annotations

import pytest

from servekit.contract import DrainBudget, Platform, Reply
from servekit.errors import ConfigError
from servekit.launch.drain import resolve_budget

SHORT = DrainBudget(8, 18, 2, 30)
LONG = DrainBudget(60, 28, 2, 90)
UNBOUNDED = DrainBudget(0, 10, 2, None)


def platform(drain: DrainBudget) -> Platform:
    return Platform("x", lambda _site: (), lambda error, _request: Reply(error.status), drain)


@pytest.mark.parametrize(
    ("base", "linger_s", "finish_s", "expected"),
    [
        (SHORT, None, None, (8, 18)),
        (LONG, None, None, (60, 28)),
        (LONG, 5, None, (5, 28)),
        (LONG, 70, None, (70, 18)),
        (LONG, 87, None, (87, 1)),
        (LONG, None, 10, (60, 10)),
        (LONG, 30, 58, (30, 58)),
        (LONG, 0, None, (0, 28)),
        (UNBOUNDED, 500, None, (500, 10)),
        (UNBOUNDED, 500, 500, (500, 500)),
    ],
)
def test_budgets(base: DrainBudget, linger_s: float | None, finish_s: float | None, expected: tuple[int, int]) -> None:
    budget = resolve_budget([platform(base)], linger_s=linger_s, finish_s=finish_s)
    assert (budget.linger_s, budget.finish_s) == expected
    assert budget.kill_s is None or budget.linger_s + budget.finish_s + budget.margin_s <= budget.kill_s


@pytest.mark.parametrize(
    ("base", "linger_s", "finish_s", "total"),
    [(LONG, 88, None, "91"), (LONG, 60, 29, "91"), (LONG, None, 60, "122"), (SHORT, 30, None, "33")],
)
def test_what_does_not_fit_is_refused_with_the_sum(
    base: DrainBudget, linger_s: float | None, finish_s: float | None, total: str
) -> None:
    with pytest.raises(ConfigError, match=f"margin = {total} s"):
        resolve_budget([platform(base)], linger_s=linger_s, finish_s=finish_s)


def test_several_platforms_share_the_shortest_kill() -> None:
    assert resolve_budget([platform(LONG), platform(UNBOUNDED)], linger_s=None, finish_s=None) == SHORT
