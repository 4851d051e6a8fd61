"""The memory plan."""

from __future__ import annotations

from pathlib import Path

import models
import pytest

from servekit.backends.onnx import Session
from servekit.backends.plan import memory_plan

NBYTES = 3 * (1024 * 1024 + 1024) * 4


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVEKIT_CACHE_DIR", str(tmp_path / "cache"))


def test_before_and_after_the_first_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.dense(tmp_path / "own" / "model.onnx")
    alone, four = memory_plan(model, 1), memory_plan(model, 4)
    assert (alone.shared_bytes, alone.unique_bytes, alone.total_bytes) == (0, NBYTES, NBYTES)
    assert "one worker" in alone.why
    assert (four.shared_bytes, four.unique_bytes, four.total_bytes, four.private_bytes) == (
        NBYTES,
        0,
        NBYTES,
        4 * NBYTES,
    )
    assert f"makes a copy in {model.parent / '.servekit'}" in four.why
    assert not (model.parent / ".servekit").exists()
    monkeypatch.setenv("SERVEKIT_WORKERS_EFFECTIVE", "2")
    assert Session(model).shared
    for workers in (1, 4):
        plan = memory_plan(model, workers)
        assert (plan.shared_bytes, plan.unique_bytes, plan.total_bytes) == (NBYTES, 0, NBYTES)
        assert "the copy in" in plan.why


def test_a_copy_that_may_not_be_used_is_explained(tmp_path: Path) -> None:
    model = models.dense(tmp_path / "own" / "model.onnx")
    (model.parent / ".servekit").mkdir()
    (model.parent / ".servekit").chmod(0o777)
    assert "can be written by others" in memory_plan(model, 4).why


def test_small_models_are_private(tmp_path: Path) -> None:
    plan = memory_plan(models.dense(tmp_path / "model.onnx", layers=1, width=16), 3)
    assert (plan.weights_bytes, plan.unique_bytes, plan.total_bytes) == (1088, 1088, 3 * 1088)
    assert "nothing is gained" in plan.why
