"""Parsed JSON values, CSV cells and arrays -> columns of the declared dtype and shape.

The fast path lets numpy read all rows at once. Only when its result is not what was declared are the rows walked in
Python, to name the first value at fault.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.codecs import image
from servekit.codecs.media import shown
from servekit.codecs.nouns import Column, Limits
from servekit.errors import InvalidInput
from servekit.signature import File, Image, Json, Spec, Tensor, Text, shape_text

MAX_JSON_DEPTH = 100

Where = Callable[[int], str]


def column_of(values: list[Any], spec: Spec, where: Where, limits: Limits, *, may_hold_bools: bool = True) -> Column:
    """A column of one value per row. `where(i)` names row i in errors. Raises InvalidInput, TooLarge."""
    match spec:
        case Tensor():
            return _tensor_column(values, spec, where, may_hold_bools=may_hold_bools)
        case Image():
            pictures = [_image(value, spec, where(i), limits) for i, value in enumerate(values)]
            return stack(pictures)
        case Text():
            for i, value in enumerate(values):
                if not isinstance(value, str):
                    raise InvalidInput(f"{where(i)}: expected a text, got {describe(value)}")
            return values
        case File():
            return [_base64(value, where(i), "a file") for i, value in enumerate(values)]
        case Json():
            for i, value in enumerate(values):
                _check_depth(value, where(i))
            return values


def array_column(array: NDArray[Any], spec: Spec, name: str) -> Column:
    """A column from an array that came as such: (rows, *shape), or exactly one item's shape."""
    shape = spec.shape if isinstance(spec, (Tensor, Image)) else ()
    dtype = spec.dtype if isinstance(spec, Tensor) else "float32"
    if fits(array.shape[1:], shape) and array.ndim == len(shape) + 1:
        rows = array
    elif fits(array.shape, shape) and array.ndim == len(shape):
        rows = array[np.newaxis]
    else:
        got = array.shape[1:] if array.ndim else array.shape
        raise InvalidInput(f"{name}: expected rows of {spec}, got rows of shape {shape_text(got)}")
    if len(rows) == 0:
        raise InvalidInput(f"{name}: expected at least 1 row, got 0 rows")
    converted = cast(rows, dtype)
    if converted is None:
        raise InvalidInput(f"{name}: expected rows of {spec}, got {rows.dtype} values that do not fit")
    return converted


def cast(array: NDArray[Any], dtype: str) -> NDArray[Any] | None:
    """The array as `dtype` when no value is changed beyond rounding to a float; None otherwise."""
    kind = array.dtype.kind
    if dtype == "str":
        return array.astype(object) if kind in "UT" else None
    target = np.dtype(dtype)
    if array.dtype == target:
        return array if array.dtype.isnative else array.astype(target)
    if array.size == 0:
        return array.astype(target) if kind in "biuf" else None
    if target.kind == "b" or kind not in "iuf":
        return None
    if target.kind == "f":
        with np.errstate(over="ignore"):
            converted = array.astype(target)
        grew = kind == "f" or target.itemsize < 8
        return None if grew and (np.isinf(converted) & np.isfinite(array)).any() else converted
    limits = np.iinfo(target)
    low, high = array.min(), array.max()
    # Compare as Python numbers: numpy would round a large integer to a float first.
    if not (np.isfinite(low) and np.isfinite(high) and limits.min <= low.item() and high.item() <= limits.max):
        return None
    if kind == "f" and not (array == np.floor(array)).all():
        return None
    return array.astype(target)


def fits(shape: Sequence[int], declared: Sequence[int | None]) -> bool:
    """Does an item of `shape` match the declared shape?"""
    return len(shape) == len(declared) and all(
        want is None or want == size for want, size in zip(declared, shape, strict=True)
    )


def stack(items: list[NDArray[Any]]) -> Column:
    """Items of one shape as an array, others as a list."""
    return np.stack(items) if len({item.shape for item in items}) == 1 else items


# --- tensors from nested lists ---


def _tensor_column(values: list[Any], spec: Tensor, where: Where, *, may_hold_bools: bool) -> Column:
    # numpy reads True as 1 and 1 as "1" among their like, so those are left to the walk.
    if spec.dtype != "str" and (spec.dtype == "bool" or not may_hold_bools):
        try:
            array = np.array(values)
        except (ValueError, OverflowError):  # ragged, or too deep: the walk says where
            pass
        else:
            if array.ndim == len(spec.shape) + 1 and fits(array.shape[1:], spec.shape):
                converted = cast(array, spec.dtype)
                if converted is not None:
                    return converted
    return stack([tensor_item(value, spec, where(i)) for i, value in enumerate(values)])


def tensor_item(value: Any, spec: Tensor, where: str) -> NDArray[Any]:
    """One item from nested lists. Raises InvalidInput that names the first value at fault."""
    _check_leaves(value, spec, where, len(spec.shape))
    try:
        array = np.array(value, dtype=object if spec.dtype == "str" else None)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{where}: expected {spec}, got a ragged list") from None
    if not fits(array.shape, spec.shape):
        raise InvalidInput(f"{where}: expected {spec}, got shape {shape_text(array.shape)}")
    if spec.dtype == "str":
        return array
    converted = cast(array, spec.dtype)
    if converted is None:
        for path, leaf in _leaves(value, where):
            if cast(np.array(leaf), spec.dtype) is None:
                raise InvalidInput(f"{path}: expected {_dtype_text(spec.dtype)}, got {describe(leaf)}")
        raise InvalidInput(f"{where}: expected {spec}, got numbers that do not fit")
    return converted


def _check_leaves(value: Any, spec: Tensor, where: str, depth: int) -> None:
    if isinstance(value, list):
        if depth == 0:
            raise InvalidInput(f"{where}: expected {_leaf_text(spec)}, got a list")
        for i, item in enumerate(value):
            _check_leaves(item, spec, f"{where}[{i}]", depth - 1)
        return
    wanted = {"bool": bool, "str": str}.get(spec.dtype, (int, float))
    if not isinstance(value, wanted) or (isinstance(value, bool) and spec.dtype != "bool"):
        raise InvalidInput(f"{where}: expected {_leaf_text(spec)}, got {describe(value)}")
    if depth == len(spec.shape) and depth > 0:
        raise InvalidInput(f"{where}: expected {spec}, got {describe(value)}")


def _leaves(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return itertools.chain.from_iterable(_leaves(item, f"{where}[{i}]") for i, item in enumerate(value))
    return iter([(where, value)])


def _leaf_text(spec: Tensor) -> str:
    kind = {"bool": "true or false", "str": "a string"}.get(spec.dtype, "a number")
    return f"{spec} ({kind})" if spec.shape else kind


def _dtype_text(dtype: str) -> str:
    if dtype.startswith("float"):
        return f"a {dtype}, at most {np.finfo(dtype).max:.6g} in size"
    limits = np.iinfo(dtype)
    return f"a whole number from {limits.min} to {limits.max} ({dtype})"


# --- other values ---


def _image(value: Any, spec: Image, where: str, limits: Limits) -> NDArray[Any]:
    if isinstance(value, list):
        return tensor_item(value, Tensor("float32", spec.shape), where)
    return image.decode(_base64(value, where, str(spec)), spec, limits, where)


def _base64(value: Any, where: str, wanted: str) -> bytes:
    text = value["b64"] if isinstance(value, dict) and set(value) == {"b64"} else value
    if not isinstance(text, str):
        raise InvalidInput(f"{where}: expected {wanted} as a base64 string, got {describe(value)}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{where}: expected {wanted} as a base64 string, got other text", cause=error) from error


def _check_depth(value: Any, where: str) -> None:
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise InvalidInput(f"{where}: expected JSON nested at most {MAX_JSON_DEPTH} deep, got more")


def describe(value: Any) -> str:
    """A JSON value in a message: its kind, and itself when it is short."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return f'the string "{shown(value)}"'
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
    return f"a {type(value).__name__}"
