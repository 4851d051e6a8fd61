"""Behind HAProxy and nginx a server sees what they have sent it, and nothing that was hidden in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing.proxied import compare, missing

INPUTS = 300

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("proxy", "kind"), [("haproxy", "fast lane"), ("nginx", "gevent")])
def test_a_server_sees_no_more_than_the_proxy_sent(proxy: str, kind: str, tmp_path: Path) -> None:
    if missing(proxy):
        pytest.skip(f"{proxy} is not installed")
    tmp_path.chmod(0o777)  # a worker of nginx is somebody else
    difference = compare(proxy, kind, range(INPUTS), tmp_path)
    assert difference.findings == []
    assert difference.sent > INPUTS / 3
    # Requests whose senders break off are sent, but not all of them are answered, and so counted.
    assert difference.sent * 0.9 <= difference.seen <= difference.sent, difference
