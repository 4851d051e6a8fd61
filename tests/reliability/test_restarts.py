"""Two replicas behind a balancer that never tries twice, restarted in turn under load: nobody may notice."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from faults import Balancer, Replica, haproxy, nginx, replica, restart, stock
from load import Ledger, Load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

# Two probes must fail, and the balancer's last requests must be over.
LINGER_S = "1.5"
OPTIONS = ("--workers", "2", "--drain-s", LINGER_S, "--finish-s", "5")
HAPROXY_RESTARTS = 10
NGINX_RESTARTS = 5
STOCK_RESTARTS = 4


def restart_in_turn(replicas: list[Replica], balancer: Balancer, times: int) -> Load:
    """What the callers got meanwhile."""
    with Load(balancer.port) as load:
        for number in range(times):
            restart(replicas[number % 2], balancer)
    return load


def test_behind_haproxy_nothing_is_lost(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    with ExitStack() as stack:
        pair = [stack.enter_context(replica("Counted", tmp_path, "--worker", worker, *OPTIONS)) for _ in range(2)]
        balancer = stack.enter_context(haproxy(tmp_path / "haproxy", pair))
        load = restart_in_turn(pair, balancer, HAPROXY_RESTARTS)
        assert load.failed == []
        assert sum(server.log.count("draining: accepting") for server in pair) == HAPROXY_RESTARTS
    assert len(load.results) > 100 * HAPROXY_RESTARTS
    ledger.check(load.results)


def test_behind_nginx_nothing_is_lost(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    with ExitStack() as stack:
        pair = [stack.enter_context(replica("Counted", tmp_path, "--worker", worker, *OPTIONS)) for _ in range(2)]
        balancer = stack.enter_context(nginx(tmp_path / "nginx", pair))
        load = restart_in_turn(pair, balancer, NGINX_RESTARTS)
        assert load.failed == []
        assert sum(server.log.count("draining: accepting") for server in pair) == NGINX_RESTARTS
    assert len(load.results) > 100 * NGINX_RESTARTS
    ledger.check(load.results)


def test_the_same_harness_sees_stock_servers_lose_requests(worker: str, tmp_path: Path, ledger: Ledger) -> None:
    with ExitStack() as stack:
        options = ("--workers", "2", "--graceful-timeout", "5")
        pair = [stack.enter_context(stock(worker, tmp_path, *options)) for _ in range(2)]
        balancer = stack.enter_context(haproxy(tmp_path / "haproxy", pair))
        load = restart_in_turn(pair, balancer, STOCK_RESTARTS)
    assert load.failed != []
    assert load.tally()["ok"] > 100
