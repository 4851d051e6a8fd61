"""The waits of the commands that run within the tests' own process; those that run as processes wait as they do."""

from __future__ import annotations

import pytest

from servekit.publish import polling
from servekit.publish.modelarts import flow, models, services
from servekit.publish.modzy import publish

EVERY_S = 0.05


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (polling, flow, models, services, publish):
        monkeypatch.setattr(module, "EVERY_S", EVERY_S)
    monkeypatch.setattr(polling, "PAUSE_S", EVERY_S)
