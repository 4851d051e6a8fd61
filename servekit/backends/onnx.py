"""Predictors made from ONNX files: the signature comes from the graph, no class is needed.

`Session` is also for a user's own predictors: it sets up onnxruntime as a server wants it.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from servekit.backends.onnxfile import Weights, large_weights
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
CPU = "CPUExecutionProvider"
# Weights that lie outside of onnxruntime's arena are given back in full when they have been packed.
OUTSIDE_OF_ARENA = "session.use_device_allocator_for_initializers"
MAX_SIZE = 64
# What goes wrong is raised as well; onnxruntime's own copy of it would stand between the lines of a JSON log.
FATAL_LEVEL = 4
# Rows of a trial run: two tell a batch dimension from a dimension that happens to be 1.
TRIAL_ROWS = 2
# What free dimensions are tried with: a number or a token, a small picture, a classifier's picture.
TRIAL_SIZES = (1, 16, 224)
MAX_TRIAL_ELEMENTS = 2**24
# A model whose row takes less runs in one thread.
QUICK_S = 0.001

logger = logging.getLogger("servekit.backends")


class Session:
    """An onnxruntime session whose threads fit the number of worker processes, and whose weights they share.

    With several workers a large model (8 MiB of weights or more) is loaded from a copy that all of them map, made at
    the first start; see docs/how-to/onnx.md. Large models are loaded by one worker at a time.

    optimize: False for a session that only tells its inputs and outputs.
    threads: for one run; default: as many as the CPUs give each worker, but one for a model that needs less than a
        millisecond for a row: to share out so little costs more than it saves, and takes CPU from the requests.

    `shared` says whether the weights lie in pages that other processes use, too.

    Raises LoadFailed naming the file when it is not a model that onnxruntime can run, and when its external data lies
    outside of its directory.
    """

    def __init__(self, path: str | Path, *, optimize: bool = True, threads: int | None = None) -> None:
        self.path = Path(path)
        self.shared = False
        workers = int(os.environ.get("SERVEKIT_WORKERS_EFFECTIVE") or 1)
        available = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        options = partial(_options, workers, threads, optimize)
        self.threads: int = options().intra_op_num_threads
        weights = large_weights(self.path)
        if weights is not None:
            self._load_large(weights, workers, options, providers)
        else:
            many = self.threads if threads is None and optimize else 1
            if many > 1:
                options = partial(_options, workers, 1, optimize)
            self._session = self._open(self.path, options(), providers)
            if many > 1 and not _is_quick(self._session):
                self._session = self._open(self.path, _options(workers, many, optimize), providers)
            elif many > 1:
                self.threads = 1
        self.inputs = self._session.get_inputs()
        self.outputs = self._session.get_outputs()
        try:
            # onnxruntime decodes names, those of dimensions too, when they are asked for.
            for node in (*self.inputs, *self.outputs):
                _ = node.name, node.shape
        except UnicodeDecodeError as error:
            raise LoadFailed(
                f"{self.path.name}: expected names in UTF-8, got {error.object[:100]!r}", cause=error
            ) from error
        self._output_names = [output.name for output in self.outputs]

    def _open(self, path: Path, options: Any, providers: list[str]) -> Any:
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            reason = str(error).replace(str(path), self.path.name).split("\n")[0]
            raise LoadFailed(
                f"{self.path.name}: not a model that onnxruntime can run: {reason}", cause=error
            ) from error

    def _load_large(self, weights: Weights, workers: int, options: Callable[[], Any], providers: list[str]) -> None:
        # Small models do without these modules.
        from servekit.backends.sharing import frugal, shared_copy
        from servekit.backends.turns import turn

        if providers != [CPU]:
            # What is packed in a copy is for the CPU's kernels.
            logger.info("%s: its weights are not shared: they lie in the memory of a GPU", self.path.name)
        with turn() as notes, frugal():
            copy = shared_copy(self.path, weights, workers, notes) if providers == [CPU] else None
            if copy is not None:
                optimised = options()
                # To optimise the graph again would unpack what is packed.
                optimised.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
                optimised.add_session_config_entry(OUTSIDE_OF_ARENA, "1")
                try:
                    self._session = self._open(copy.graph, optimised, providers)
                    self.shared = copy.is_untouched()
                except LoadFailed as error:
                    logger.warning("%s: its copy is not used: %s", self.path.name, error.message)
            if not self.shared:
                private = options()
                private.add_session_config_entry(OUTSIDE_OF_ARENA, "1")
                self._session = self._open(self.path, private, providers)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The outputs by name: arrays, or what onnxruntime returns for sequences and maps."""
        return dict(zip(self._output_names, self._session.run(self._output_names, dict(inputs)), strict=True))


def _options(workers: int, threads: int | None, optimize: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_LEVEL
    # The launcher knows a container's CPU quota, which the affinity mask does not show.
    cpus = int(os.environ.get("SERVEKIT_CPUS_EFFECTIVE") or len(os.sched_getaffinity(0)))
    options.intra_op_num_threads = threads or max(1, cpus // workers)
    options.inter_op_num_threads = 1
    # Spinning threads would burn the CPU that the event loop, or a sibling, needs for the next requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


class OnnxPredictor(Predictor):
    """Base of the classes that `predictor_class` makes."""

    path: ClassVar[Path]
    inputs: ClassVar[Mapping[str, Tensor]]
    # Rows that the graph insists on when its batch dimension is fixed.
    fixed_rows: ClassVar[int | None] = None
    # Outputs whose first dimension is not the batch: the whole array is the row's result.
    whole: ClassVar[frozenset[str]] = frozenset()

    def load(self, model_dir: Path) -> None:  # noqa: ARG002 - the target itself is the model
        self.session = Session(self.path)

    def warm_up(self) -> None:
        """Predict on zeros. A graph with free dimensions may refuse every size tried here and still be sound."""
        try:
            _trial(self.session, self.inputs, self.fixed_rows or 1)
        except Exception as error:
            if not _has_free(self.inputs):
                raise
            logger.info("%s: not warmed up: zeros in the sizes %s do not fit: %s", self.path.name, TRIAL_SIZES, error)

    def predict(self, /, **inputs: Any) -> dict[str, Any]:
        rows = len(next(iter(inputs.values())))
        fixed = self.fixed_rows
        if fixed is None or rows == fixed:
            outputs = self.session.run(inputs)
        else:
            outputs = self.session.run({name: _padded(array, fixed) for name, array in inputs.items()})
            # Only what was filled up is cut off; an output of any other length is refused later, not shortened.
            outputs = {name: value[:rows] if len(value) == fixed else value for name, value in outputs.items()}
        return {name: np.asarray(value)[np.newaxis] if name in self.whole else value for name, value in outputs.items()}


def predictor_class(path: Path) -> type[Predictor]:
    """A predictor for an .onnx file, its signature read from the graph.

    Where an output does not begin with the batch dimension of the inputs, a run on zeros tells whether it is one all
    the same: exporters often lose its name. If it is not, rows are served one at a time and the whole output is the
    row's result.

    Raises LoadFailed for a broken file, ConfigError for a model that has no batch dimension or whose inputs and
    outputs HTTP cannot carry.
    """
    # Reading the signature needs no optimised graph; `load` makes the session that serves.
    session = Session(path, optimize=False)
    inputs, fixed = _read_inputs(session)
    outputs, whole = _read_outputs(session, inputs, fixed)
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
            "whole": whole,
        },
    )


def _read_inputs(session: Session) -> tuple[dict[str, Tensor], int | None]:
    """The inputs, and how many rows they always hold if the graph says so."""
    file = session.path.name
    inputs: dict[str, Tensor] = {}
    batch_dims = set()
    for node in session.inputs:
        dtype = _dtype(f"{file}: input {node.name!r}", node.type)
        shape = list(node.shape or [])
        if not shape:
            raise ConfigError(f"{file}: input {node.name!r} is a scalar, expected a batch dimension first")
        batch_dims.add(shape[0] if isinstance(shape[0], int) else None)
        inputs[node.name] = Tensor(dtype, _free(shape[1:]))
    if not inputs:
        raise ConfigError(f"{file}: the graph has no inputs, expected at least one with a batch dimension")
    if len(batch_dims) > 1:
        sizes = ", ".join(f"{node.name} {node.shape}" for node in session.inputs)
        raise ConfigError(f"{file}: inputs have different batch dimensions ({sizes})")
    return inputs, batch_dims.pop()


def _read_outputs(
    session: Session, inputs: Mapping[str, Tensor], fixed: int | None
) -> tuple[dict[str, Spec], frozenset[str]]:
    """The outputs, and the names of those whose first dimension is not the batch."""
    file = session.path.name
    batch_dims = {node.shape[0] for node in session.inputs} - {None}
    outputs: dict[str, Spec] = {}
    whole = set()
    tried: dict[str, Any] | None = None
    for node in session.outputs:
        if node.type in MAPS:
            outputs[node.name] = Json()
            continue
        dtype = _dtype(f"{file}: output {node.name!r}", node.type)
        shape = list(node.shape or [])
        if shape and shape[0] in batch_dims:
            outputs[node.name] = Tensor(dtype, _free(shape[1:]))
            continue
        if tried is None:
            tried = _tried(session, inputs, fixed or TRIAL_ROWS)
        seen = np.shape(tried[node.name]) if node.name in tried else None
        if seen is None and not shape:
            raise ConfigError(
                f"{file}: output {node.name!r} has no shape in the graph, expected a batch dimension first"
            )
        if seen[:1] == (fixed or TRIAL_ROWS,) if seen is not None else not isinstance(shape[0], int):
            outputs[node.name] = Tensor(dtype, _agreed(shape, seen)[1:])
        elif fixed is None or fixed == 1:
            whole.add(node.name)
            outputs[node.name] = Tensor(dtype, _agreed(shape, seen))
        else:
            # Rows that only fill the batch up would have a part in the result.
            raise ConfigError(
                f"{file}: output {node.name!r} has no batch dimension (its shape is {shape}), but the inputs always "
                f"hold {fixed} rows: expected inputs of one row, or of any number"
            )
    return outputs, frozenset(whole)


def _dtype(what: str, onnx_type: str) -> str:
    if onnx_type not in DTYPES:
        raise ConfigError(f"{what} has the type {onnx_type}, expected a tensor of {', '.join(DTYPES.values())}")
    return DTYPES[onnx_type]


def _is_quick(session: Any) -> bool:
    """Does a row of zeros take an onnxruntime session less than QUICK_S? Its first run does not count."""
    try:
        row = {
            node.name: np.zeros([dim if isinstance(dim, int) else 1 for dim in node.shape], DTYPES[node.type])
            for node in session.get_inputs()
        }
        session.run(None, row)
        started_s = time.perf_counter()
        session.run(None, row)
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
        logger.debug("no trial run: %s", error)
        return False
    return time.perf_counter() - started_s < QUICK_S


def _tried(session: Session, inputs: Mapping[str, Tensor], rows: int) -> dict[str, Any]:
    """The outputs of a trial run, or none when the graph does not take zeros."""
    try:
        return _trial(session, inputs, rows)
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
        logger.debug("%s: no trial run: %s", session.path.name, error)
        return {}


def _trial(session: Session, inputs: Mapping[str, Tensor], rows: int) -> dict[str, Any]:
    """The outputs for zeros, free dimensions in the first size that the graph takes; raises what the last raised."""
    sizes = TRIAL_SIZES if _has_free(inputs) else TRIAL_SIZES[:1]
    batches = [{name: (rows, *_sized(spec, size)) for name, spec in inputs.items()} for size in sizes]
    bounded = [shapes for shapes in batches[1:] if sum(map(math.prod, shapes.values())) <= MAX_TRIAL_ELEMENTS]
    *others, last = [batches[0], *bounded]
    for shapes in others:
        try:
            return session.run(_zeros(inputs, shapes))
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
            logger.debug("%s: zeros of the shapes %s do not fit: %s", session.path.name, shapes, error)
    return session.run(_zeros(inputs, last))


def _sized(spec: Tensor, size: int) -> tuple[int, ...]:
    return tuple(size if dim is None else dim for dim in spec.shape)


def _zeros(inputs: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Zeros, False and empty strings."""
    return {
        name: np.full(shapes[name], "", object) if spec.dtype == "str" else np.zeros(shapes[name], spec.dtype)
        for name, spec in inputs.items()
    }


def _has_free(inputs: Mapping[str, Tensor]) -> bool:
    return any(None in spec.shape or spec.dtype == "str" for spec in inputs.values())


def _agreed(declared: list[int | str | None], seen: tuple[int, ...] | None) -> tuple[int | None, ...]:
    """The declared dimensions that a trial run confirmed; the others are free."""
    if seen is None:
        return _free(declared)
    if len(declared) != len(seen):
        return (None,) * len(seen)
    return tuple(size if size == dim else None for dim, size in zip(declared, seen, strict=True))


def _free(shape: list[int | str | None]) -> tuple[int | None, ...]:
    return tuple(dim if isinstance(dim, int) and dim >= 0 else None for dim in shape)


def _padded(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """The last row again, until there are as many as the graph insists on."""
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _class_name(path: Path) -> str:
    name = "".join(part.capitalize() for part in "".join(c if c.isalnum() else " " for c in path.stem).split())
    return name if name.isidentifier() else "Model"
