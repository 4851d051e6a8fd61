from __future__ import annotations

from pathlib import Path

import pytest
from faults import KINDS
from load import Ledger


@pytest.fixture(params=KINDS)
def worker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Of all replicas whose directory is `tmp_path`."""
    return Ledger(tmp_path / "ledger")
