"""Requests made from each platform's own OpenAPI description, right and wrong: no reply is a 5xx, none leaks."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing.campaign import troubles, workers
from serving import serve

pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from fuzzing import described

EXAMPLES = 340

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("platform", described.SERVED)
def test_a_servers_own_description_breaks_nothing(platform: str, tmp_path: Path) -> None:
    with serve(*described.arguments(platform), platform=platform, cwd=tmp_path) as server:
        before = workers(server)
        statuses, findings = described.hit(server.url, EXAMPLES)
        assert findings == []
        assert workers(server) == before
        assert troubles(server) == []
    assert statuses[200] > 0
    assert any(statuses[status] > EXAMPLES / 4 for status in (400, 415, 422)), statuses
