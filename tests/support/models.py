"""ONNX models with weights that are worth sharing, each a little above the least size and quick to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
WIDTH = 1024


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], tensors: dict[str, Any]) -> Path:
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def value(name: str, shape: list[Any], dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def normal(*shape: int, seed: int = 0) -> Any:
    return (np.random.default_rng(seed).standard_normal(shape) / shape[-1] ** 0.5).astype("float32")


def dense(path: Path, layers: int = 3, width: int = WIDTH, op: str = "MatMul", seed: int = 0) -> Path:
    """`layers` matrices of width x width: 4 MiB each at the default width."""
    nodes, tensors = [], {}
    last = "x"
    for i in range(layers):
        tensors[f"w{i}"] = normal(width, width, seed=seed + i)
        tensors[f"b{i}"] = normal(width, seed=seed + 100 + i)
        if op == "Gemm":
            nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"a{i}"]))
        else:
            nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]))
            nodes.append(helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"]))
        last = "y" if i == layers - 1 else f"r{i}"
        nodes.append(helper.make_node("Relu", [f"a{i}"], [last]))
    return save(path, nodes, [value("x", ["N", width])], [value("y", ["N", width])], tensors)


def gemm(path: Path) -> Path:
    return dense(path, op="Gemm")


def conv(path: Path) -> Path:
    tensors = {"w0": normal(512, 3, 3, 3), "w1": normal(512, 512, 3, 3), "b1": normal(512)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c1"], ["y"]),
    ]
    return save(path, nodes, [value("x", ["N", 3, 8, 8])], [value("y", ["N", 512, 1, 1])], tensors)


def quantised(path: Path) -> Path:
    """Weights of 8 bits, activations quantised as they come."""
    width = 3072
    weights = np.random.default_rng(0).integers(-128, 127, (width, width), dtype=np.int8)
    tensors = {"w": weights, "zero": np.int8(0), "scale": np.float32(0.01)}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "q_scale", "q_zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "q_zero", "zero"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["q_scale", "scale"], ["s"]),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    return save(path, nodes, [value("x", ["N", width])], [value("y", ["N", width])], tensors)


def half(path: Path) -> Path:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "w"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=FLOAT),
    ]
    weights = normal(2304, 2304).astype("float16")
    return save(path, nodes, [value("x", ["N", 2304])], [value("y", ["N", 2304])], {"w": weights})


def branches(path: Path) -> Path:
    """Weights inside the two sides of an If."""

    def side(name: str, seed: int) -> Any:
        node = helper.make_node("MatMul", ["x", name], [f"{name}_y"])
        weights = numpy_helper.from_array(normal(WIDTH, WIDTH + 256, seed=seed), name)
        return helper.make_graph([node], name, [], [value(f"{name}_y", ["N", WIDTH + 256])], [weights])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=side("one", 1), else_branch=side("two", 2)),
    ]
    return save(path, nodes, [value("x", ["N", WIDTH])], [value("y", ["N", WIDTH + 256])], {"zero": np.float32(0)})


def external(path: Path) -> Path:
    """The same network as `dense`, its weights in a file beside it."""
    dense(path)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.stem}.data", size_threshold=1024)
    return path


def point_external_data_at(path: Path, location: str) -> None:
    """Change the location that each tensor names."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
