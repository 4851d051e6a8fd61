"""Predictors made from ONNX files: the signature comes from the graph, no class is needed.

`Session` is also for a user's own predictors: it sets up onnxruntime as a server wants it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

# onnxruntime reports home by default; a served model must call nobody. It reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from servekit.errors import ConfigError, LoadFailed
from servekit.predictor import Batching, Predictor
from servekit.signature import Json, Spec, Tensor

# onnxruntime's names of element types -> numpy's.
DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
} | {f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
# What scikit-learn's converters give for class probabilities: one map per row.
MAPS = ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))")
MAX_SIZE = 32
ERROR_LEVEL = 3


class Session:
    """An onnxruntime session whose threads fit the number of worker processes.

    Raises LoadFailed naming the file when it is not a model that onnxruntime can run.
    """

    def __init__(self, path: str | Path, *, optimize: bool = True) -> None:
        self.path = Path(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERROR_LEVEL
        workers = int(os.environ.get("SERVEKIT_WORKERS_EFFECTIVE") or 1)
        options.intra_op_num_threads = max(1, len(os.sched_getaffinity(0)) // workers)
        options.inter_op_num_threads = 1
        if workers > 1:
            # Spinning threads of one worker would burn the CPUs of its siblings.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        available = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:
            reason = str(error).replace(str(self.path), self.path.name).split("\n")[0]
            raise LoadFailed(
                f"{self.path.name}: not a model that onnxruntime can run: {reason}", cause=error
            ) from error
        self.inputs = self._session.get_inputs()
        self.outputs = self._session.get_outputs()
        self._output_names = [output.name for output in self.outputs]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The outputs by name: arrays, or what onnxruntime returns for sequences and maps."""
        return dict(zip(self._output_names, self._session.run(self._output_names, dict(inputs)), strict=True))


class OnnxPredictor(Predictor):
    """Base of the classes that `predictor_class` makes."""

    path: ClassVar[Path]
    # Rows that the graph insists on when its batch dimension is fixed.
    fixed_rows: ClassVar[int | None] = None
    # Outputs whose first dimension is not the batch: the whole array is the row's result.
    whole: ClassVar[frozenset[str]] = frozenset()

    def load(self, model_dir: Path) -> None:  # noqa: ARG002 - the target itself is the model
        self.session = Session(self.path)

    def predict(self, **inputs: Any) -> dict[str, Any]:
        rows = len(next(iter(inputs.values())))
        fixed = self.fixed_rows
        if fixed is not None and rows < fixed:
            inputs = {name: _padded(array, fixed) for name, array in inputs.items()}
        outputs = self.session.run(inputs)
        return {name: self._rows(name, outputs[name], rows) for name in self.outputs}

    def _rows(self, name: str, value: Any, rows: int) -> Any:
        if name in self.whole:
            return np.asarray(value)[np.newaxis]
        return value[:rows] if isinstance(value, list) or len(value) > rows else value


def predictor_class(path: Path) -> type[Predictor]:
    """A predictor for an .onnx file, its signature read from the graph.

    Raises LoadFailed for a broken file, ConfigError for a model that has no batch dimension or whose inputs and
    outputs HTTP cannot carry.
    """
    # Reading the signature needs no optimised graph; `load` makes the session that serves.
    session = Session(path, optimize=False)
    inputs: dict[str, Spec] = {}
    batch_dims = set()
    for node in session.inputs:
        if node.type not in DTYPES:
            raise ConfigError(f"{path.name}: input {node.name!r} has the type {node.type}, expected a tensor")
        shape = list(node.shape or [])
        if not shape:
            raise ConfigError(f"{path.name}: input {node.name!r} is a scalar, expected a batch dimension first")
        batch_dims.add(shape[0] if isinstance(shape[0], int) else None)
        inputs[node.name] = Tensor(DTYPES[node.type], _free(shape[1:]))
    if len(batch_dims) > 1:
        sizes = ", ".join(f"{node.name} {node.shape}" for node in session.inputs)
        raise ConfigError(f"{path.name}: inputs have different batch dimensions ({sizes})")
    fixed = batch_dims.pop() if batch_dims else None
    outputs: dict[str, Spec] = {}
    whole = set()
    for node in session.outputs:
        shape = list(node.shape or [])
        if node.type in MAPS:
            outputs[node.name] = Json()
        elif node.type not in DTYPES:
            raise ConfigError(f"{path.name}: output {node.name!r} has the type {node.type}, expected a tensor")
        elif not shape or (isinstance(shape[0], int) and shape[0] != fixed):
            whole.add(node.name)
            outputs[node.name] = Tensor(DTYPES[node.type], _free(shape))
        else:
            outputs[node.name] = Tensor(DTYPES[node.type], _free(shape[1:]))
    return type(
        _class_name(path),
        (OnnxPredictor,),
        {
            "__module__": __name__,
            "path": path,
            "inputs": inputs,
            "outputs": outputs,
            "batching": Batching(max_size=1 if whole else fixed or MAX_SIZE),
            "fixed_rows": fixed,
            "whole": frozenset(whole),
        },
    )


def _free(shape: list[int | str | None]) -> tuple[int | None, ...]:
    return tuple(dim if isinstance(dim, int) and dim >= 0 else None for dim in shape)


def _padded(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """The last row again, until there are as many as the graph insists on."""
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _class_name(path: Path) -> str:
    name = "".join(part.capitalize() for part in "".join(c if c.isalnum() else " " for c in path.stem).split())
    return name if name.isidentifier() else "Model"
