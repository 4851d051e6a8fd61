"""What is read from a model file without onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import models
import onnx
import pytest

from servekit.backends.onnx import Session
from servekit.backends.onnxfile import CHILDREN, MIN_SHARED_BYTES, large_weights, read_weights
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


def test_every_way_to_a_tensor_is_walked() -> None:
    """The table against the ONNX project's own description of the file."""
    messages = {name: message for name, message in vars(onnx).items() if hasattr(message, "DESCRIPTOR")}
    fields = {
        name: {field.number: field.message_type.name for field in message.DESCRIPTOR.fields if field.message_type}
        for name, message in messages.items()
        if isinstance(message, type)
    }
    leads = {"TensorProto"}
    while more := {name for name, inner in fields.items() if leads & set(inner.values())} - leads:
        leads |= more
    expected: dict[str, dict[int, str]] = {}
    todo = ["ModelProto"]
    while todo:
        name = todo.pop()
        if name != "TensorProto" and name not in expected:
            expected[name] = {number: inner for number, inner in fields[name].items() if inner in leads}
            todo += expected[name].values()
    assert expected == CHILDREN


def hide(model: onnx.ModelProto, place: str) -> None:
    """Move the first initializer to another place where the format allows a tensor."""
    tensor = model.graph.initializer.pop(0)
    node = onnx.helper.make_node("Constant", [], [tensor.name])
    if place == "constant":
        model.graph.node.insert(0, node)
        node.attribute.append(onnx.helper.make_attribute("value", tensor))
        model.graph.node[0].CopyFrom(node)
    elif place == "sparse":
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif place == "sparse attribute":
        sparse = onnx.SparseTensorProto()
        sparse.indices.CopyFrom(tensor)
        node.attribute.append(onnx.helper.make_attribute("sparse_value", sparse))
        model.graph.node.append(node)
    elif place == "function":
        node.attribute.append(onnx.helper.make_attribute("value", tensor))
        model.functions.add(name="f", domain="d").node.append(node)
    elif place == "training":
        model.training_info.add().algorithm.initializer.append(tensor)


@pytest.mark.parametrize("place", ["constant", "sparse", "sparse attribute", "function", "training"])
def test_external_data_is_found_wherever_it_is_named(tmp_path: Path, place: str) -> None:
    path = models.external(tmp_path / "model.onnx")
    models.point_external_data_at(path, "../elsewhere")
    model = onnx.load(path, load_external_data=False)
    hide(model, place)
    for tensor in model.graph.initializer:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(LoadFailed, match=r"'\.\./elsewhere': expected a file in the model's directory"):
        Session(path)


def test_a_location_that_is_there_twice(tmp_path: Path) -> None:
    """Readers differ in which one they take."""
    path = models.external(tmp_path / "model.onnx")
    model = onnx.load(path, load_external_data=False)
    entries = model.graph.initializer[0].external_data
    entries.insert(0, onnx.StringStringEntryProto(key="location", value="/etc/passwd"))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(LoadFailed, match="'/etc/passwd': expected a file in the model's directory"):
        Session(path)


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("../other/model.data", "expected a file in the model's directory"),
        ("folder/../model.data", "expected a file in the model's directory"),
        ("/dev/zero", "expected a file in the model's directory"),
        ("/proc/self/environ", "expected a file in the model's directory"),
        ("link.data", "expected a file in the model's directory"),
        ("folder/model.data", "expected a file in the model's directory"),
        ("*/_ORT_MEM_ADDR_/*", "expected a file in the model's directory"),
        ("hard.data", "got 2 hard links; copy it"),
        ("pipe", "expected a regular file"),
        ("folder", "expected a file in the model's directory"),
        (".", "expected a regular file"),
        ("missing.data", "no such file"),
        ("loop", "no such file"),
        ("model.data\0/../../other/model.data", "expected a file in the model's directory"),
        ("model.data\0", "no such file"),
        ("x" * 5000, "no such file"),
    ],
)
def test_external_data_must_lie_in_the_models_directory(tmp_path: Path, location: str, says: str) -> None:
    models.external(tmp_path / "other" / "model.onnx")
    model = models.external(tmp_path / "own" / "model.onnx")
    (model.parent / "link.data").symlink_to("../other/model.data")
    (model.parent / "hard.data").hardlink_to("/".join((str(tmp_path), "other", "model.data")))
    (model.parent / "folder").symlink_to("../other")
    (model.parent / "loop").symlink_to("loop")
    # So that it would be a file, if it were one.
    (model.parent / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (model.parent / "*" / "_ORT_MEM_ADDR_" / "*").touch()
    os.mkfifo(model.parent / "pipe")
    models.point_external_data_at(model, location)
    with pytest.raises(LoadFailed, match=says) as caught:
        Session(model)
    assert str(tmp_path) not in caught.value.message
    assert len(caught.value.message) < 500


def test_a_hubs_cache_of_links_is_followed(tmp_path: Path) -> None:
    """Names in one directory, contents in another, as model hubs keep them."""
    model = models.external(tmp_path / "blobs" / "model.onnx")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("model.onnx", "model.data"):
        (snapshot / name).symlink_to(tmp_path / "blobs" / name)
    assert read_weights(snapshot / "model.onnx") == read_weights(model)
    assert [node.name for node in Session(snapshot / "model.onnx").inputs] == ["x"]
