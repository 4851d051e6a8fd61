"""Models and request bodies, made once from a fixed seed: `python -m benchmarks.fixtures DIRECTORY [--large]`.

Runs in the harness's environment (numpy, onnx, Pillow). Files are NAME.onnx, WORKLOAD.FORM for a body in a peer's form,
and expected.json: the numbers that a right reply holds.
"""

from __future__ import annotations

import io
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SEED = 20240501
TINY = (4, 3)
DIGITS = (784, 512, 256, 10)
# Three square layers of float32: 400 MB.
LARGE = (5774, 5774, 5774, 5774)
FLOATS = [5.1, 3.5, 1.4, 0.2]
POISON = [-1.0, 3.5, 1.4, 0.2]
FOUR_FLOATS = ("tiny", "slow", "poison", "overload")

Array = NDArray[np.float32]
Layers = list[tuple[Array, Array]]


def layers(sizes: tuple[int, ...]) -> Layers:
    """Weights (inputs, outputs) and biases (outputs,) of a net of dense layers, relu between them."""
    random = np.random.default_rng(SEED)
    return [
        ((random.standard_normal((n, m), np.float32) / np.float32(n**0.5)), random.standard_normal(m, np.float32))
        for n, m in pairwise(sizes)
    ]


def run(net: Layers, x: Array) -> Array:
    """x (N, inputs) -> (N, outputs)."""
    for i, (weights, biases) in enumerate(net):
        x = x @ weights + biases
        if i < len(net) - 1:
            x = np.maximum(x, 0)
    return x


def to_onnx(net: Layers) -> onnx.ModelProto:
    """The same as a graph: input x ["N", inputs], output y ["N", outputs]."""
    nodes, tensors, last = [], [], "x"
    for i, (weights, biases) in enumerate(net):
        end = i == len(net) - 1
        tensors += [numpy_helper.from_array(weights, f"w{i}"), numpy_helper.from_array(biases, f"b{i}")]
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], ["y" if end else f"h{i}"]))
        last = f"h{i}"
        if not end:
            nodes.append(helper.make_node("Relu", [last], [f"r{i}"]))
            last = f"r{i}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", len(net[0][0])])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", len(net[-1][1])])
    graph = helper.make_graph(nodes, "net", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def json_bodies(row: Array, decimals: int) -> dict[str, bytes]:
    """One row in the two JSON forms: TensorFlow Serving's `instances`, and the Open Inference Protocol's V2."""
    values = [round(float(value), decimals) for value in row]
    v2 = {"inputs": [{"name": "x", "shape": [1, len(values)], "datatype": "FP32", "data": values}]}
    return {"instances": json.dumps({"instances": [values]}).encode(), "v2": json.dumps(v2).encode()}


def npy(rows: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    return file.getvalue()


def picture() -> Array:
    """A smooth picture with some noise, 224 x 224, RGB, 0 to 255: about 20 KB as JPEG."""
    random = np.random.default_rng(SEED)
    y, x = np.mgrid[0:224, 0:224] / 224
    waves = np.stack([np.sin(7 * x + 3 * y), np.cos(5 * y * x), np.sin(9 * y)], axis=-1)
    return np.clip(128 + 100 * waves + random.normal(0, 8, waves.shape), 0, 255).astype(np.float32)


def make(directory: Path) -> None:
    """Write all but the large model."""
    bodies: dict[str, bytes] = {}
    expected: dict[str, list[float]] = {"echo": [1.0]}
    random = np.random.default_rng(SEED)
    inputs = {"echo": (np.array([1.0], np.float32), 1)} | {
        name: (np.array(FLOATS, np.float32), 1) for name in FOUR_FLOATS
    }
    inputs["digits"] = (random.random(784, np.float32), 4)
    for name, (row, decimals) in inputs.items():
        bodies |= {f"{name}.{form}": body for form, body in json_bodies(row, decimals).items()}
    bodies |= {f"bad.{form}": body for form, body in json_bodies(np.array(POISON, np.float32), 1).items()}
    for name, sizes in {"tiny": TINY, "digits": DIGITS}.items():
        net = layers(sizes)
        onnx.save(to_onnx(net), directory / f"{name}.onnx")
        row = np.array(json.loads(bodies[f"{name}.instances"])["instances"], np.float32)
        expected[name] = run(net, row)[0].tolist()
    expected |= dict.fromkeys(("slow", "poison", "overload"), FLOATS[:3])
    image = random.random((1, 3, 224, 224), np.float32)
    bodies["npy.npy"] = npy(image)
    header = {
        "inputs": [
            {
                "name": "x",
                "shape": [1, 3, 224, 224],
                "datatype": "FP32",
                "parameters": {"binary_data_size": image.nbytes},
            }
        ]
    }
    bodies["npy.v2-head"] = json.dumps(header).encode()
    bodies["npy.v2-binary"] = bodies["npy.v2-head"] + image.tobytes()
    expected["npy"] = image[:, :, ::16, ::16].mean(axis=(2, 3))[0].tolist()
    file = io.BytesIO()
    Image.fromarray(picture().astype(np.uint8)).save(file, "JPEG", quality=85)
    bodies["jpeg.jpeg"] = file.getvalue()
    with Image.open(io.BytesIO(file.getvalue())) as decoded:
        expected["jpeg"] = np.asarray(decoded, np.float32).mean(axis=(0, 1)).tolist()
    for name, body in bodies.items():
        (directory / name).write_bytes(body)
    (directory / "expected.json").write_text(json.dumps(expected, indent=1))


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    make(directory)
    if "--large" in sys.argv and not (directory / "large.onnx").is_file():
        net = layers(LARGE)
        row = np.random.default_rng(SEED).random(LARGE[0], np.float32).round(4)
        for name in ("large", "large-private"):
            for form, body in json_bodies(row, 4).items():
                (directory / f"{name}.{form}").write_bytes(body)
        onnx.save(to_onnx(net), directory / "large.part")
        (directory / "large.part").rename(directory / "large.onnx")


if __name__ == "__main__":
    main()
