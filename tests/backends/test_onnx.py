"""ONNX files served without code: real graphs, made here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from serving import serve

from servekit.backends.onnx import Session, predictor_class
from servekit.errors import ConfigError, LoadFailed
from servekit.signature import Json, Tensor
from servekit.testing import Client

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def value(name: str, dtype: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], domains: tuple[str, ...] = ("",)) -> Path:
    graph = helper.make_graph(nodes, "test", inputs, outputs)
    versions = {"": 17, "ai.onnx.ml": 3}
    opsets = [helper.make_opsetid(domain, versions[domain]) for domain in domains]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def add(path: Path, batch: Any = "N", dtype: int = FLOAT, tail: tuple[Any, ...] = (3,)) -> Path:
    """`a` + `b.c`, the second name being no Python identifier."""
    shape = [batch, *tail]
    return save(
        path,
        [helper.make_node("Add", ["a", "b.c"], ["sum"])],
        [value("a", dtype, shape), value("b.c", dtype, shape)],
        [value("sum", dtype, shape)],
    )


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (FLOAT, "float32"),
        (TensorProto.DOUBLE, "float64"),
        (INT64, "int64"),
        (TensorProto.INT32, "int32"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.UINT32, "uint32"),
    ],
)
def test_dtypes_and_names_come_from_the_graph(tmp_path: Path, dtype: int, name: str) -> None:
    path = add(tmp_path / "model.onnx", dtype=dtype)
    cls = predictor_class(path)
    assert cls.inputs == {"a": Tensor(name, (3,)), "b.c": Tensor(name, (3,))}
    assert cls.outputs == {"sum": Tensor(name, (3,))}
    with Client(path, platform="sagemaker") as client:
        rows = [{"a": [1, 2, 3], "b.c": [4, 5, 6]}, {"a": [0, 0, 0], "b.c": [1, 1, 1]}]
        reply = client.post("/invocations", json={"instances": rows})
        assert reply.json() == {"predictions": [[5, 7, 9], [1, 1, 1]]}


def test_errors_say_which_input_what_was_expected_and_what_came(tmp_path: Path) -> None:
    with Client(add(tmp_path / "model.onnx"), platform="sagemaker") as client:
        for row, says in [
            ({"a": [1, 2, 3]}, "instances[0].b.c: expected float32 of shape (3,), got nothing"),
            ({"a": [1, 2], "b.c": [1, 2, 3]}, "instances[0].a: expected float32 of shape (3,), got shape (2,)"),
            ({"a": [1, 2, "x"], "b.c": [1, 2, 3]}, 'instances[0].a[2]: expected float32 of shape (3,) (a number), got the string "x"'),
        ]:  # fmt: skip
            reply = client.post("/invocations", json={"instances": [row]})
            assert reply.status_code == 400
            assert says in reply.json()["message"]


def test_free_dimensions_may_differ_between_rows(tmp_path: Path) -> None:
    path = save(
        tmp_path / "model.onnx",
        [helper.make_node("ReduceMax", ["x"], ["top"], axes=[1], keepdims=0)],
        [value("x", FLOAT, ["N", "length"])],
        [value("top", FLOAT, ["N"])],
    )
    assert predictor_class(path).inputs == {"x": Tensor("float32", (None,))}
    with Client(path, platform="sagemaker") as client:
        reply = client.post("/invocations", json={"instances": [[1, 5], [2], [3, 4]]})
        assert reply.json() == {"predictions": [5.0, 2.0, 4.0]}


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_padded_and_cut(tmp_path: Path, batch: int) -> None:
    path = add(tmp_path / "model.onnx", batch=batch)
    assert predictor_class(path).batching.max_size == batch
    with Client(path, platform="sagemaker") as client:
        rows = [{"a": [i, 0, 0], "b.c": [0, 0, 0]} for i in range(6)]
        reply = client.post("/invocations", json={"instances": rows})
        assert reply.json() == {"predictions": [[i, 0, 0] for i in range(6)]}


def test_an_output_without_a_batch_dimension_is_served_row_by_row(tmp_path: Path) -> None:
    path = save(
        tmp_path / "model.onnx",
        [helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)],
        [value("x", FLOAT, ["N", 2])],
        [value("total", FLOAT, [])],
    )
    assert predictor_class(path).batching.max_size == 1
    with Client(path, platform="sagemaker") as client:
        assert client.post("/invocations", json=[[1, 2], [3, 4]]).json() == {"predictions": [3.0, 7.0]}


def test_strings_and_maps(tmp_path: Path) -> None:
    """What scikit-learn's converters make: a label, and a map of probabilities for each row."""
    path = save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Identity", ["words"], ["same"]),
            helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", classlabels_strings=["no", "yes"]),
        ],
        [value("words", STRING, ["N", 1]), value("scores", FLOAT, ["N", 2])],
        [
            value("same", STRING, ["N", 1]),
            helper.make_value_info(
                "probabilities",
                helper.make_sequence_type_proto(helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))),
            ),
        ],
        ("", "ai.onnx.ml"),
    )  # fmt: skip
    cls = predictor_class(path)
    assert cls.inputs["words"] == Tensor("str", (1,))
    assert cls.outputs["probabilities"] == Json()
    with Client(path, platform="sagemaker") as client:
        rows = [{"words": ["grün"], "scores": [0.25, 0.75]}, {"words": ["b"], "scores": [1, 0]}]
        assert client.post("/invocations", json={"instances": rows}).json() == {
            "predictions": [
                {"same": ["grün"], "probabilities": {"no": 0.25, "yes": 0.75}},
                {"same": ["b"], "probabilities": {"no": 1.0, "yes": 0.0}},
            ]
        }


def nonzero(path: Path, batch: Any = "N") -> Path:
    """As many rows as `x` has values that are not 0, as detectors give boxes."""
    return save(
        path,
        [
            helper.make_node("NonZero", ["x"], ["found"]),
            helper.make_node("Transpose", ["found"], ["boxes"], perm=[1, 0]),
        ],
        [value("x", FLOAT, [batch, 3])],
        [value("boxes", INT64, ["found", 2])],
    )


@pytest.mark.parametrize("batch", ["N", 1])
def test_an_output_of_any_length_is_no_batch(tmp_path: Path, batch: Any) -> None:
    path = nonzero(tmp_path / "model.onnx", batch)
    assert predictor_class(path).outputs == {"boxes": Tensor("int64", (None, 2))}
    with Client(path, platform="sagemaker") as client:
        reply = client.post("/invocations", json=[[1, 0, 5], [0, 0, 0], [0, 1, 0]])
        assert reply.json() == {"predictions": [[[0, 0], [0, 2]], [], [[0, 1]]]}


@pytest.mark.parametrize("declared", [["lost", 3], [None, 3], [1, 3]])
def test_a_batch_dimension_whose_name_was_lost_is_found(tmp_path: Path, declared: list[Any]) -> None:
    """Exporters name it differently in the outputs, or leave the 1 there that they traced with."""
    path = save(
        tmp_path / "model.onnx",
        [helper.make_node("Neg", ["x"], ["y"])],
        [value("x", FLOAT, ["N", 3])],
        [value("y", FLOAT, declared)],
    )
    cls = predictor_class(path)
    assert (cls.outputs, cls.batching.max_size > 1) == ({"y": Tensor("float32", (3,))}, True)
    with Client(path, platform="sagemaker") as client:
        reply = client.post("/invocations", json=[[1, 2, 3], [4, 5, 6]])
        assert reply.json() == {"predictions": [[-1, -2, -3], [-4, -5, -6]]}


def reshaped(path: Path, *, by_caller: bool) -> Path:
    """An output of which not even the rank is known."""
    size = "size"
    nodes = [
        helper.make_node("Shape", ["x"], ["ints"]),
        helper.make_node("Cast", ["ints"], ["floats"], to=FLOAT),
        helper.make_node("Cast", ["floats"], [size], to=INT64),
    ]
    inputs = [value("x", FLOAT, ["N", 4])]
    if by_caller:
        size = "asked"
        nodes = [helper.make_node("ReduceMax", ["sizes"], [size], axes=[0], keepdims=0)]
        inputs.append(value("sizes", INT64, ["N", "rank"]))
    return save(path, [*nodes, helper.make_node("Reshape", ["x", size], ["y"])], inputs, [value("y", FLOAT, None)])


def test_an_unknown_shape_is_tried_out(tmp_path: Path) -> None:
    path = reshaped(tmp_path / "model.onnx", by_caller=False)
    assert predictor_class(path).outputs == {"y": Tensor("float32", (None,))}
    with Client(path, platform="sagemaker") as client:
        reply = client.post("/invocations", json=[[1, 2, 3, 4], [5, 6, 7, 8]])
        assert reply.json() == {"predictions": [[1, 2, 3, 4], [5, 6, 7, 8]]}


def test_pictures_of_any_size_are_served(tmp_path: Path) -> None:
    """One pixel is too small for a convolution, so the warm-up must look for a size."""
    ones = helper.make_tensor("ones", FLOAT, [1, 1, 3, 3], [1.0] * 9)
    path = save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Constant", [], ["kernel"], value=ones),
            helper.make_node("Conv", ["x", "kernel"], ["y"]),
            helper.make_node("ReduceMax", ["y"], ["top"], axes=[1, 2, 3], keepdims=0),
        ],
        [value("x", FLOAT, ["N", 1, "height", "width"])],
        [value("top", FLOAT, ["N"])],
    )
    with Client(path, platform="sagemaker") as client:
        reply = client.post("/invocations", json=[[[[2, 2, 2, 2]] * 5], [[[1, 1, 1]] * 3]])
        assert reply.json() == {"predictions": [18.0, 9.0]}


def test_a_graph_that_takes_no_zeros_is_served_when_its_sizes_are_free(tmp_path: Path) -> None:
    five = helper.make_tensor("five", INT64, [2], [-1, 5])
    path = save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Constant", [], ["shape"], value=five),
            helper.make_node("Reshape", ["x", "shape"], ["y"]),
        ],
        [value("x", FLOAT, ["N", "five"])],
        [value("y", FLOAT, ["N", 5])],
    )
    with Client(path, platform="sagemaker") as client:
        assert client.post("/invocations", json=[[1, 2, 3, 4, 5]]).json() == {"predictions": [[1, 2, 3, 4, 5]]}


def test_any_name_is_a_good_name(tmp_path: Path) -> None:
    path = save(
        tmp_path / "model.onnx",
        [helper.make_node("Add", ["self", "context"], ["sum"])],
        [value("self", FLOAT, ["N"]), value("context", FLOAT, ["N"])],
        [value("sum", FLOAT, ["N"])],
    )
    with Client(path, platform="sagemaker") as client:
        reply = client.post("/invocations", json={"instances": [{"self": 1, "context": 2}]})
        assert reply.json() == {"predictions": [3.0]}


def scalar(path: Path) -> Path:
    return save(path, [helper.make_node("Neg", ["x"], ["y"])], [value("x", FLOAT, [])], [value("y", FLOAT, [])])


def two_batches(path: Path) -> Path:
    return save(
        path,
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["w"], ["z"])],
        [value("x", FLOAT, [2, 1]), value("w", FLOAT, [3, 1])],
        [value("y", FLOAT, [2, 1]), value("z", FLOAT, [3, 1])],
    )


def total_of_four(path: Path) -> Path:
    """With fewer than four rows, the filling would be in the total."""
    nodes = [helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)]
    return save(path, nodes, [value("x", FLOAT, [4, 2])], [value("total", FLOAT, [])])


def no_inputs(path: Path) -> Path:
    one = helper.make_tensor("one", FLOAT, [1], [1.0])
    return save(path, [helper.make_node("Constant", [], ["y"], value=one)], [], [value("y", FLOAT, [1])])


def bfloat16(path: Path) -> Path:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=FLOAT)]
    return save(path, nodes, [value("x", TensorProto.BFLOAT16, ["N"])], [value("y", FLOAT, ["N"])])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (scalar, "'x' is a scalar"),
        (two_batches, r"different batch dimensions \(x \[2, 1\], w \[3, 1\]\)"),
        (total_of_four, "output 'total' has no batch dimension .* the inputs always hold 4 rows"),
        (no_inputs, "no inputs"),
        (partial(reshaped, by_caller=True), "output 'y' has no shape"),
        (bfloat16, r"input 'x' has the type tensor\(bfloat16\), expected a tensor of float32, "),
    ],
)
def test_models_without_a_batch_are_refused(tmp_path: Path, make: Callable[[Path], Path], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        predictor_class(make(tmp_path / "model.onnx"))


def test_a_broken_file_is_named_and_ends_the_process(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(LoadFailed, match=r"model\.onnx: not a model that onnxruntime can run"):
        Session(path)
    with serve(str(path), platform="sagemaker", ready=False) as server:
        assert server.wait(30) != 0
        assert "model.onnx: not a model that onnxruntime can run" in server.log


@pytest.mark.parametrize("old", [b"x1", b"y1", b"d1"])
def test_names_that_are_no_text(tmp_path: Path, old: bytes) -> None:
    """Of an input, an output, a dimension."""
    nodes = [helper.make_node("Relu", ["x1"], ["y1"])]
    path = save(tmp_path / "model.onnx", nodes, [value("x1", FLOAT, ["N", "d1"])], [value("y1", FLOAT, ["N", "d1"])])
    path.write_bytes(path.read_bytes().replace(old, b"\xff\xfe"))
    with pytest.raises(LoadFailed, match=r"model\.onnx: expected names in UTF-8"):
        predictor_class(path)


def test_a_real_server_on_a_real_file(tmp_path: Path) -> None:
    import httpx2

    path = add(tmp_path / "model.onnx")
    with serve(str(path), "--workers", "2", platform="all") as server:
        row = {"a": [1, 2, 3], "b.c": [4, 5, 6]}
        reply = httpx2.post(server.url + "/invocations", json={"instances": [row]})
        assert reply.json() == {"predictions": [[5.0, 7.0, 9.0]]}
        assert httpx2.post(server.url + "/", json={"req_data": [row]}).json() == {
            "resp_data": [{"sum": [5.0, 7.0, 9.0]}]
        }


def test_a_session_for_a_users_own_predictor(tmp_path: Path) -> None:
    session = Session(add(tmp_path / "model.onnx"))
    ones = np.ones((2, 3), np.float32)
    assert session.run({"a": ones, "b.c": ones})["sum"].tolist() == [[2, 2, 2], [2, 2, 2]]


def chain(path: Path, count: int) -> Path:
    """`count` products with one small matrix: much work, few weights."""
    weights = numpy_helper.from_array(np.eye(512, dtype=np.float32), "w")
    names = ["x", *(f"h{i}" for i in range(count - 1)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    graph = helper.make_graph(
        nodes, "test", [value("x", FLOAT, ["N", 512])], [value("y", FLOAT, ["N", 512])], [weights]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(("count", "threads"), [(1, 1), (2000, 4)])
def test_a_quick_model_runs_in_one_thread(
    count: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVEKIT_CPUS_EFFECTIVE", "4")
    monkeypatch.setenv("SERVEKIT_WORKERS_EFFECTIVE", "1")
    path = chain(tmp_path / "chain.onnx", count)
    assert Session(path).threads == threads
    assert Session(path, threads=3).threads == 3
    monkeypatch.setenv("SERVEKIT_WORKERS_EFFECTIVE", "4")
    assert Session(path).threads == 1
