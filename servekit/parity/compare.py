"""Are two answers the same? Numbers by their dtype and a tolerance, NaN equal to NaN, all else exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from servekit.parity.answers import Row
from servekit.signature import Signature, Spec, Tensor

# Relative to the largest value of a tensor. Values outside of tensors have no dtype; most come from float32.
TOLERANCES = {"float16": 1e-3, "float32": 1e-5, "float64": 1e-9}
DEFAULT_TOLERANCE = 1e-5
MAX_DIFFERENCES = 10
MAX_SHOWN_CHARS = 120


def differences(
    first: Sequence[Row], second: Sequence[Row], signature: Signature, tolerance: float | None = None
) -> list[str]:
    """Where they differ, in words: "row 2, total: 4.5 and 4.75". At most 10."""
    if len(first) != len(second):
        return [f"{len(first)} and {len(second)} rows"]
    found: list[str] = []
    for i, (one, other) in enumerate(zip(first, second, strict=True)):
        for name in dict.fromkeys((*one, *other)):
            where = f"row {i}, {name}" if name else f"row {i}"
            if name not in one or name not in other:
                found.append(f"{where}: only in the {'first' if name in one else 'second'}")
            else:
                found += _output(one[name], other[name], where, signature.outputs.get(name), tolerance)
            if len(found) >= MAX_DIFFERENCES:
                return found[:MAX_DIFFERENCES]
    return found


def _output(one: Any, other: Any, where: str, spec: Spec | None, tolerance: float | None) -> list[str]:
    if isinstance(spec, Tensor) and spec.dtype in TOLERANCES:
        limit = TOLERANCES[spec.dtype] if tolerance is None else tolerance
        return floats(one, other, where, limit)
    return values(one, other, where, DEFAULT_TOLERANCE if tolerance is None else tolerance)


def floats(one: Any, other: Any, where: str, tolerance: float) -> list[str]:
    """Arrays of floating-point numbers as nested lists."""
    arrays = [_array(one), _array(other)]
    if arrays[0] is None or arrays[1] is None:
        return values(one, other, where, tolerance)
    left, right = arrays
    if left.shape != right.shape:
        return [f"{where}: shape {left.shape} and {right.shape}"]
    if left.size == 0:
        return []
    finite = np.abs(np.concatenate([left.ravel(), right.ravel()]))
    finite = finite[np.isfinite(finite)]
    scale = float(finite.max()) if finite.size else 0.0
    close = np.isclose(left, right, rtol=0, atol=tolerance * scale, equal_nan=True)
    if close.all():
        return []
    at = tuple(int(i) for i in np.argwhere(~close)[0])
    place = f"{where}{''.join(f'[{i}]' for i in at)}"
    more = int((~close).sum()) - 1
    return [f"{place}: {left[at]:.9g} and {right[at]:.9g}" + (f", and {more} more values" if more else "")]


def values(one: Any, other: Any, where: str, tolerance: float) -> list[str]:
    """Any two JSON values. A whole number is no bool; 1 and 1.0 are the same number."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        found: list[str] = []
        for key in dict.fromkeys((*one, *other)):
            if key in one and key in other:
                found += values(one[key], other[key], f"{where}.{key}", tolerance)
            else:
                found.append(f"{where}.{key}: only in the {'first' if key in one else 'second'}")
        return found[:MAX_DIFFERENCES]
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return [f"{where}: {len(one)} and {len(other)} values"]
        found = []
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            found += values(left, right, f"{where}[{i}]", tolerance)
            if len(found) >= MAX_DIFFERENCES:
                break
        return found
    if _same(one, other, tolerance):
        return []
    return [f"{where}: {shown(one)} and {shown(other)}"]


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, bool) or isinstance(other, bool) or isinstance(one, str) or one is None:
        return type(one) is type(other) and bool(one == other)
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        if isinstance(one, int) and isinstance(other, int):
            return one == other
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return math.isclose(one, other, rel_tol=tolerance)
    return type(one) is type(other) and bool(one == other)


def _array(value: Any) -> Any:
    """An array of floats; None for what is none, such as rows of several lengths, a text or a null."""
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array.astype(np.float64) if array.dtype.kind in "iuf" else None


def shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."
