"""What `predict` returned -> one column per declared output, checked against the declaration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from servekit.errors import PredictFailed
from servekit.signature import Image, Json, Signature, Spec, Tensor, shape_text

if TYPE_CHECKING:
    from servekit.codecs import Column


def columns_of(returned: Any, rows: int, signature: Signature) -> dict[str, Column]:
    """One column of length `rows` per declared output. Raises PredictFailed naming what came and what was declared."""
    if isinstance(returned, Mapping):
        columns = _from_mapping(returned, rows, signature)
    elif isinstance(returned, (list, tuple)):
        columns = _from_rows(list(returned), rows, signature)
    elif hasattr(returned, "__array__"):
        only = signature.only_output
        if only is None:
            raise PredictFailed(
                f"predict returned one array, but {len(signature.outputs)} outputs are declared: "
                f"expected a dict of {_names(signature)}"
            )
        columns = {only[0]: np.asarray(returned)}
    else:
        raise PredictFailed(
            f"predict returned {_kind(returned)}: expected an array, a dict of {_names(signature)}, "
            f"or a list of {rows} results"
        )
    return {name: conform(name, columns[name], rows, spec) for name, spec in signature.outputs.items()}


def rows_of(returned: Any, rows: int) -> list[Any]:
    """One result per row, for a predictor with an `encode` hook, whose results need not match the declaration yet."""
    if isinstance(returned, Mapping):
        parts = {name: _listed(name, value, rows) for name, value in returned.items()}
        return [{name: part[i] for name, part in parts.items()} for i in range(rows)]
    return _listed("predict's result", returned, rows)


def encoded_columns(results: list[Any], encode: Callable[[Any], Any], signature: Signature) -> dict[str, Column]:
    """Apply the `encode` hook to each row's result; what it returns must match the declaration."""
    encoded = [encode(result) for result in results]
    columns = _from_rows(encoded, len(encoded), signature)
    return {name: conform(name, columns[name], len(encoded), spec) for name, spec in signature.outputs.items()}


def _from_mapping(returned: Mapping[str, Any], rows: int, signature: Signature) -> dict[str, Column]:
    if set(returned) != set(signature.outputs):
        raise PredictFailed(
            f"predict returned a dict with the keys {sorted(map(str, returned))}: expected {_names(signature)}"
        )
    return {name: _column(name, returned[name], rows) for name in signature.outputs}


def _from_rows(results: list[Any], rows: int, signature: Signature) -> dict[str, Column]:
    if len(results) != rows:
        raise PredictFailed(f"predict returned {len(results)} results for a batch of {rows} rows")
    names = set(signature.outputs)
    only = signature.only_output
    if only is not None and not all(isinstance(result, Mapping) and set(result) == names for result in results):
        return {only[0]: results}
    for i, result in enumerate(results):
        if not isinstance(result, Mapping) or set(result) != names:
            came = sorted(map(str, result)) if isinstance(result, Mapping) else _kind(result)
            raise PredictFailed(f"predict returned {came} for row {i}: expected a dict of {_names(signature)}")
    return {name: [result[name] for result in results] for name in signature.outputs}


def _column(name: str, value: Any, rows: int) -> Column:
    if isinstance(value, (list, tuple)):
        return list(value)
    if hasattr(value, "__array__"):
        return np.asarray(value)
    raise PredictFailed(f"output {name!r}: predict returned {_kind(value)}, expected an array or a list of {rows}")


def _listed(name: str, value: Any, rows: int) -> list[Any]:
    column = _column(name, value, rows)
    if _length(column) != rows:
        raise PredictFailed(f"output {name!r}: predict returned {_kind(value)} for a batch of {rows} rows")
    return list(column)


def conform(name: str, column: Column, rows: int, spec: Spec) -> Column:
    """The column with the declared dtype, if it has the declared shape and no value is changed by it."""
    if not isinstance(spec, Tensor):
        if _length(column) != rows:
            raise PredictFailed(f"output {name!r}: predict returned {_kind(column)} for a batch of {rows} rows")
        # Arrays of pixels stay arrays; everything else is a value per row.
        if isinstance(spec, Image) or isinstance(column, list):
            return column
        # As numbers of numpy a float32 keeps its own digits in JSON.
        return list(column) if isinstance(spec, Json) and column.dtype.kind in "biuf" else column.tolist()
    if isinstance(column, list):
        try:
            array = np.asarray(column)
        except ValueError:
            if None in spec.shape and len(column) == rows:
                return [_conform_array(name, np.asarray(item)[np.newaxis], 1, spec)[0] for item in column]
            raise PredictFailed(
                f"output {name!r}: predict returned rows of different shapes, expected {spec}"
            ) from None
    else:
        array = column
    return _conform_array(name, array, rows, spec)


def _conform_array(name: str, array: np.ndarray[Any, Any], rows: int, spec: Tensor) -> np.ndarray[Any, Any]:
    if array.ndim == 0 or array.shape[0] != rows:
        raise PredictFailed(
            f"output {name!r}: predict returned an array of shape {array.shape} for a batch of {rows} rows, "
            f"expected {shape_text((rows, *spec.shape))}"
        )
    same = len(array.shape) - 1 == len(spec.shape) and all(
        dim is None or dim == size for dim, size in zip(spec.shape, array.shape[1:], strict=True)
    )
    if not same:
        raise PredictFailed(
            f"output {name!r}: predict returned rows of shape {shape_text(array.shape[1:])}, expected {spec}"
        )
    if spec.dtype == "str":
        if array.dtype.kind not in "UOT":
            raise PredictFailed(f"output {name!r}: predict returned {array.dtype}, expected {spec}")
        return array.astype(object)
    target = np.dtype(spec.dtype)
    if array.dtype == target:
        return array
    if np.can_cast(array.dtype, target, "safe") or (array.dtype.kind == "f" and target.kind == "f"):
        with np.errstate(over="ignore"):
            return array.astype(target)
    if array.dtype.kind in "iu" and target.kind in "iuf":
        narrowed = array.astype(target)
        if target.kind == "f" or np.array_equal(narrowed, array):
            return narrowed
    raise PredictFailed(f"output {name!r}: predict returned {array.dtype}, expected {spec}")


def _length(column: Column) -> int | None:
    return None if isinstance(column, np.ndarray) and column.ndim == 0 else len(column)


def _names(signature: Signature) -> str:
    return ", ".join(repr(name) for name in signature.outputs)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
