"""What is logged when there is too much to log."""

from __future__ import annotations

import logging

import pytest

from servekit.contract import Request
from servekit.errors import InvalidInput, NotFound, PredictFailed
from servekit.requestlog import Budget, RequestLog


def test_a_budget_gives_what_is_there_and_counts_the_rest() -> None:
    budget = Budget(10)
    assert budget.take(4, 0.0) == 4
    assert budget.take(10, 0.0) == 6
    assert budget.take(10, 0.5) == 5
    assert budget.take(1000, 100.0) == 10, "what is not used is not saved up"


def test_a_budget_sums_up_once_a_second() -> None:
    budget = Budget(10)
    budget.take(14, 5.0)
    assert budget.summary(5.0) == 4
    budget.take(20, 5.1)
    assert budget.summary(5.9) == 0, "too early"
    budget.take(20, 5.95)
    assert budget.summary(6.0) == 19 + 12
    assert budget.summary(60.0) == 0, "nothing was left out since"


def test_no_limit() -> None:
    budget = Budget(0)
    assert budget.take(10**6, 0.0) == 10**6
    assert budget.summary(10.0) == 0


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_requests_left_out_are_counted_in_a_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = RequestLog(clock, per_s=2)
    request = Request("POST", "/invocations", id="r1")
    for _ in range(5):
        if log.access_lines(1):
            log.access(request, 200, 0.001, 10)
    assert [record.getMessage() for record in caplog.records] == ["POST /invocations 200 1.0 ms"] * 2
    clock.now_s = 1.0
    log.sum_up()
    assert caplog.records[-1].getMessage() == "3 more requests, not logged one by one"


def test_errors_have_a_budget_of_their_own(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = RequestLog(clock, per_s=1)
    assert log.access_lines(5) in (0, 1)
    log.error(NotFound("nothing here"), 404, "r1")
    log.error(InvalidInput("bad"), 400, "r1")
    log.error(PredictFailed("worse"), 500, "r1")
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == ["invalid_input: bad"]
    log.sum_up(at_once=True)
    clock.now_s = 5.0
    log.error(PredictFailed("worse"), 500, "r1")
    assert caplog.records[-1].levelno == logging.ERROR


def test_a_disabled_log_costs_nothing(clock: Clock) -> None:
    logger = logging.getLogger("servekit.access")
    logger.disabled = True
    try:
        log = RequestLog(clock, per_s=1)
        assert log.access_lines(100) == 0
        logger.disabled = False
        logger.setLevel(logging.INFO)
        assert log.access_lines(1) == 1
    finally:
        logger.disabled = False
        logger.setLevel(logging.NOTSET)
