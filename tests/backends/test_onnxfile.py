"""What is read from a model file without onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import models
import pytest

from servekit.backends.onnx import Session
from servekit.backends.onnxfile import MIN_SHARED_BYTES, large_weights, read_weights
from servekit.errors import LoadFailed


@pytest.mark.parametrize(
    ("build", "nbytes"),
    [
        (models.dense, 3 * (1024 * 1024 + 1024) * 4),
        (models.gemm, 3 * (1024 * 1024 + 1024) * 4),
        (models.conv, (512 * 3 * 9 + 512 * 512 * 9 + 512) * 4),
        (models.quantised, 3072 * 3072 + 1 + 4),
        (models.half, 2304 * 2304 * 2),
        (models.branches, 2 * 1024 * 1280 * 4 + 4),
    ],
)
def test_weights_are_counted_wherever_they_stand(tmp_path: Path, build: Callable[[Path], Path], nbytes: int) -> None:
    weights = read_weights(build(tmp_path / "model.onnx"))
    assert (weights.nbytes, weights.external) == (nbytes, ())


def test_external_data_counts_and_is_named(tmp_path: Path) -> None:
    model = models.external(tmp_path / "model.onnx")
    weights = read_weights(model)
    assert weights.nbytes == 3 * (1024 * 1024 + 1024) * 4
    assert weights.external == ("model.data",)
    assert model.stat().st_size < MIN_SHARED_BYTES
    assert large_weights(model) == weights


def test_small_models_are_not_worth_it(tmp_path: Path) -> None:
    assert large_weights(models.dense(tmp_path / "model.onnx", width=64)) is None


def test_every_cut_of_a_file_is_an_error_or_a_smaller_model(tmp_path: Path) -> None:
    model = models.dense(tmp_path / "model.onnx", layers=1, width=8)
    whole = model.read_bytes()
    full = read_weights(model).nbytes
    errors = 0
    for end in range(1, len(whole)):
        model.write_bytes(whole[:end])
        try:
            assert read_weights(model).nbytes <= full
        except LoadFailed:
            errors += 1
    assert errors > len(whole) * 0.9


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a graph of 2**64 - 1 bytes
        b"\x3a" + b"\xff" * 20,  # a length without an end
        b"\x3f",  # a wire type that there is not
        b"\x39\x00",  # eight bytes promised, one there
    ],
)
def test_nonsense_is_refused(tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(content)
    with pytest.raises(LoadFailed, match="not an ONNX model"):
        read_weights(model)


def test_graphs_nested_without_end_are_refused(tmp_path: Path) -> None:
    def wrap(number: int, inner: bytes) -> bytes:
        size, length = len(inner), b""
        while size > 0x7F:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + inner

    graph = b""
    for _ in range(200):
        graph = wrap(1, wrap(5, wrap(6, graph)))
    model = tmp_path / "model.onnx"
    model.write_bytes(wrap(7, graph))
    with pytest.raises(LoadFailed, match="nested too deeply"):
        read_weights(model)


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("../other/model.data", "expected a file in the model's directory"),
        ("/dev/zero", "expected a file in the model's directory"),
        ("link.data", "expected a file in the model's directory"),
        ("folder/model.data", "expected a file in the model's directory"),
        ("pipe", "expected a regular file"),
        ("missing.data", "no such file"),
    ],
)
def test_external_data_must_lie_in_the_models_directory(tmp_path: Path, location: str, says: str) -> None:
    models.external(tmp_path / "other" / "model.onnx")
    model = models.external(tmp_path / "own" / "model.onnx")
    (model.parent / "link.data").symlink_to("../other/model.data")
    (model.parent / "folder").symlink_to("../other")
    os.mkfifo(model.parent / "pipe")
    models.point_external_data_at(model, location)
    with pytest.raises(LoadFailed, match=says) as caught:
        Session(model)
    assert str(tmp_path) not in caught.value.message


def test_a_hubs_cache_of_links_is_followed(tmp_path: Path) -> None:
    """Names in one directory, contents in another, as model hubs keep them."""
    model = models.external(tmp_path / "blobs" / "model.onnx")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("model.onnx", "model.data"):
        (snapshot / name).symlink_to(tmp_path / "blobs" / name)
    assert read_weights(snapshot / "model.onnx") == read_weights(model)
    assert [node.name for node in Session(snapshot / "model.onnx").inputs] == ["x"]
