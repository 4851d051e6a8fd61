"""Parsed JSON values, CSV cells and arrays -> columns of the declared dtype and shape.

The fast path packs all numbers at once (or, where a dimension is free, lets numpy read them). Only what it does not
take is walked in Python: to name the first value at fault, or to find that it is right after all.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.codecs import image
from servekit.codecs.media import shown
from servekit.codecs.nouns import Column, Limits
from servekit.errors import InvalidInput, TooLarge
from servekit.signature import File, Image, Json, Spec, Tensor, Text, shape_text

MAX_EXACT_FLOAT = 2.0**53
NUMBERS: frozenset[type] = frozenset([int, float])
LEAVES: dict[str, frozenset[type]] = {"bool": frozenset([bool]), "str": frozenset([str])}
# numpy's names -> struct's. In standard sizes ("=") struct refuses whatever a type cannot hold.
STRUCT_CODES = {
    "float16": "e",
    "float32": "f",
    "float64": "d",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
}

Where = Callable[[int], str]


def column_of(values: list[Any], spec: Spec, where: Where, limits: Limits, *, may_hold_bools: bool = True) -> Column:
    """A column of one value per row. `where(i)` names row i in errors. Raises InvalidInput, TooLarge."""
    match spec:
        case Tensor():
            return _tensor_column(values, spec, where, may_hold_bools=may_hold_bools)
        case Image():
            return stack(image.decode_all(_pictures(values, spec, where), spec, limits))
        case Text():
            for i, value in enumerate(values):
                if not isinstance(value, str):
                    raise InvalidInput(f"{where(i)}: expected a text, got {describe(value)}")
            return values
        case File():
            return [_base64(value, where(i), "a file") for i, value in enumerate(values)]
        case Json():
            for i, value in enumerate(values):
                _check_depth(value, where(i), limits)
            return values


def array_column(array: NDArray[Any], spec: Spec, name: str, limits: Limits) -> Column:
    """A column from an array that came as such: (rows, *shape), or exactly one item's shape.

    Raises InvalidInput, TooLarge.
    """
    shape = spec.shape if isinstance(spec, (Tensor, Image)) else ()
    dtype = spec.dtype if isinstance(spec, Tensor) else "float32"
    if fits(array.shape[1:], shape) and array.ndim == len(shape) + 1:
        rows = array
    elif fits(array.shape, shape) and array.ndim == len(shape):
        rows = array[np.newaxis]
    else:
        got = array.shape[1:] if array.ndim else array.shape
        raise InvalidInput(f"{name}: expected rows of {spec}, got rows of shape {shape_text(got)}")
    check_rows(len(rows), name, limits)
    converted = cast(rows, dtype)
    if converted is None:
        raise InvalidInput(f"{name}: expected rows of {spec}, got {rows.dtype} values that do not fit")
    return converted


def check_rows(count: int, where: str, limits: Limits) -> None:
    """Raises InvalidInput for no rows, TooLarge for too many."""
    if count == 0:
        raise InvalidInput(f"{where}: expected at least 1 row, got 0 rows")
    if count > limits.max_rows:
        raise TooLarge(f"{where}: expected at most {limits.max_rows} rows, got {count}")


def cast(array: NDArray[Any], dtype: str) -> NDArray[Any] | None:
    """The array as `dtype` when no value is changed beyond rounding to a float; None otherwise."""
    kind = array.dtype.kind
    if dtype == "str":
        return array.astype(object) if kind in "UTO" else None
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
        if np.isfinite(converted).all():
            return converted
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
    # True is 1 for struct and numpy, so that is left to the walk.
    if spec.dtype in STRUCT_CODES and not may_hold_bools:
        if is_fixed(spec):
            column = _packed_column(values, spec)
            if column is not None:
                return column
            return stack([tensor_item(value, spec, where(i)) for i, value in enumerate(values)])
        try:
            # A sum refuses what numpy would read as a number (strings, null), and tells whether a float is there.
            if not (isinstance(_sum(values, len(spec.shape)), float) and "int" in spec.dtype):
                array = np.array(values, _widest(spec.dtype))
                if fits(array.shape[1:], spec.shape):
                    converted = cast(array, spec.dtype)
                    if converted is not None:
                        return converted
        except (TypeError, ValueError, OverflowError):  # not numbers, ragged, or too large: the walk says where
            pass
    return stack([tensor_item(value, spec, where(i)) for i, value in enumerate(values)])


def is_fixed(spec: Tensor) -> bool:
    """Does every item hold the same number of values, and any at all?"""
    return None not in spec.shape and 0 not in spec.shape


def _packed_column(values: list[Any], spec: Tensor) -> NDArray[Any] | None:
    """The numbers of nested lists, copied once; None when not every one of them is a number that fits in its place.

    Only lengths are looked at on the way down: what has one and is no list (a text, an object) holds texts, and these
    struct refuses like everything else that is no number.
    """
    level = values
    try:
        for dim in spec.shape:
            if set(map(len, level)) != {dim}:
                return None
            level = level[0] if len(level) == 1 and type(level[0]) is list else list(chain.from_iterable(level))
        packer = struct.Struct(f"={len(level)}{STRUCT_CODES[spec.dtype]}")
        # A bytearray, since predictors may write into what they are given.
        memory = bytearray(packer.size)
        packer.pack_into(memory, 0, *level)
    except (TypeError, OverflowError, struct.error):
        return None
    return np.frombuffer(memory, spec.dtype).reshape(len(values), *spec.shape)


def tensor_item(value: Any, spec: Tensor, where: str) -> NDArray[Any]:
    """One item from nested lists. Raises InvalidInput that names the first value at fault."""
    _check_leaves(value, spec, where, len(spec.shape))
    if "int" in spec.dtype:
        value = _whole(value, spec, where)
    try:
        array = widened(value, spec.dtype)
    except ValueError:
        raise InvalidInput(f"{where}: expected {spec}, got a ragged list") from None
    if not fits(array.shape, spec.shape):
        raise InvalidInput(f"{where}: expected {spec}, got shape {shape_text(array.shape)}")
    if spec.dtype == "str":
        return array
    converted = cast(array, spec.dtype)
    if converted is None:
        leaf, path = value, where
        for i in first_unfit(array, spec.dtype):
            leaf, path = leaf[i], f"{path}[{i}]"
        raise InvalidInput(f"{path}: expected {_dtype_text(spec.dtype)}, got {describe(leaf)}")
    return converted


def _check_leaves(value: Any, spec: Tensor, where: str, depth: int) -> None:
    if isinstance(value, list):
        if depth == 0:
            raise InvalidInput(f"{where}: expected {_leaf_text(spec)}, got a list")
        if depth == 1 and set(map(type, value)) <= LEAVES.get(spec.dtype, NUMBERS):
            return
        for i, item in enumerate(value):
            _check_leaves(item, spec, f"{where}[{i}]", depth - 1)
        return
    if type(value) not in LEAVES.get(spec.dtype, NUMBERS):
        raise InvalidInput(f"{where}: expected {_leaf_text(spec)}, got {describe(value)}")
    if depth == len(spec.shape) and depth > 0:
        raise InvalidInput(f"{where}: expected {spec}, got {describe(value)}")


def _sum(value: Any, depth: int) -> Any:
    return sum(value) if depth == 0 else sum([_sum(item, depth - 1) for item in value])


def _whole(value: Any, spec: Tensor, where: str) -> Any:
    """Floats as the integers that they stand for; beyond 2**53 a float no longer says which."""
    if isinstance(value, list):
        if set(map(type, value)) == {int}:
            return value
        return [_whole(item, spec, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float):
        if not value.is_integer() or abs(value) >= MAX_EXACT_FLOAT:
            raise InvalidInput(f"{where}: expected {_dtype_text(spec.dtype)}, got {describe(value)}")
        return int(value)
    return value


def widened(values: Any, dtype: str) -> NDArray[Any]:
    """Nested lists of values of the right type as an array that holds them exactly. Raises ValueError when ragged."""
    try:
        return np.array(values, _widest(dtype))
    except OverflowError:  # beyond 64 bits
        return np.array(values, object)


def _widest(dtype: str) -> type[np.generic] | type[object]:
    # Left to choose, numpy makes floats of a mix of signed and unsigned integers.
    if dtype.startswith("float"):
        return np.float64
    if "int" in dtype:
        return np.uint64 if dtype == "uint64" else np.int64
    return np.bool_ if dtype == "bool" else object


def first_unfit(array: NDArray[Any], dtype: str) -> tuple[int, ...]:
    """The index of the first number that `dtype` cannot hold."""
    if dtype.startswith("float"):
        with np.errstate(over="ignore"):
            first = int(np.isinf(array.astype(dtype)).argmax())
    else:
        limits = np.iinfo(dtype)
        first = next(i for i, number in enumerate(array.ravel().tolist()) if not limits.min <= number <= limits.max)
    return tuple(int(i) for i in np.unravel_index(first, array.shape))


def _leaf_text(spec: Tensor) -> str:
    kind = {"bool": "true or false", "str": "a string"}.get(spec.dtype, "a number")
    return f"{spec} ({kind})" if spec.shape else kind


def _dtype_text(dtype: str) -> str:
    if dtype.startswith("float"):
        return f"a {dtype}, at most {np.finfo(dtype).max:.6g} in size"
    limits = np.iinfo(dtype)
    return f"a whole number from {limits.min} to {limits.max} ({dtype})"


# --- other values ---


def _pictures(values: list[Any], spec: Image, where: Where) -> Iterator[tuple[str, bytes | NDArray[Any]]]:
    """Pictures as files, or as pixels that came as nested lists, each with its name for errors."""
    for i, value in enumerate(values):
        if isinstance(value, list):
            yield where(i), tensor_item(value, Tensor("float32", spec.shape), where(i))
        else:
            yield where(i), _base64(value, where(i), str(spec))


def _base64(value: Any, where: str, wanted: str) -> bytes:
    text = value["b64"] if isinstance(value, dict) and set(value) == {"b64"} else value
    if not isinstance(text, str):
        raise InvalidInput(f"{where}: expected {wanted} as a base64 string, got {describe(value)}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{where}: expected {wanted} as a base64 string, got other text", cause=error) from error


def _check_depth(value: Any, where: str, limits: Limits) -> None:
    level = [value]
    for _ in range(limits.max_json_depth):
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise InvalidInput(f"{where}: expected JSON nested at most {limits.max_json_depth} deep, got more")


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
