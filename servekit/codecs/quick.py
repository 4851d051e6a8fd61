"""JSON of numbers straight into arrays, through simdjson where it is installed (the extra `servekit[fast]`).

`decode` takes plain bodies of a predictor whose inputs are all numeric tensors of fixed shape, and declines (None)
whatever it is not sure of: further keys, repeated keys, ragged lists, numbers that do not fit. It never says what is
wrong, and what it gives is what `jsonbody` would give; that one reads what is declined.

simdjson flattens nested lists into a buffer without a look at their lengths, so these are checked here. A list that
stands where a number should be is found by counting: every list that belongs was seen, so one bracket more is one list
too many.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.codecs.nouns import ITEM, Column, Decoded, Form, Limits
from servekit.codecs.values import STRUCT_CODES, cast, is_fixed
from servekit.contract import Infer
from servekit.signature import Signature, Tensor

# Below this orjson and struct are as fast: to look at the document costs 10 us. See `python -m benchmarks.codecs`.
MIN_BYTES = 8 * 1024
# simdjson's buffers: doubles, and integers with and without sign. They refuse what is not of their kind.
BUFFERS = {"f": ("d", np.dtype(np.float64)), "i": ("i", np.dtype(np.int64)), "u": ("u", np.dtype(np.uint64))}


class _Declined(Exception):
    """Not for this way; nothing is said about whether the body is right."""


def decode(call: Infer, body: bytes, signature: Signature, limits: Limits) -> Decoded | None:
    """The rows of a JSON body, as `jsonbody.decode` gives them; None where that has to decide."""
    if len(body) < MIN_BYTES:
        return None
    specs = {name: spec for name, spec in signature.inputs.items() if isinstance(spec, Tensor)}
    if len(specs) < len(signature.inputs):
        return None
    if not all(spec.dtype in STRUCT_CODES and is_fixed(spec) for spec in specs.values()):
        return None
    parser = _parser()
    if parser is None:
        return None
    try:
        # A parser for every body: one cannot be shared between threads, and takes less than 1 us to make.
        form, lists = _find(call, parser().parse(body), specs.keys())
        rows = _count_rows(lists, form)
        if not 0 < rows <= limits.max_rows:
            return None  # before they are looked at one by one
        brackets = sum(_count_lists(lists[name], spec.shape, form) for name, spec in specs.items())
        if body.count(b"[") != brackets:
            return None
        columns: dict[str, Column] = {name: _numbers(lists[name], spec, rows) for name, spec in specs.items()}
        return Decoded(rows, columns, form)
    except (_Declined, ValueError, TypeError, LookupError, AttributeError, RuntimeError):
        return None


@functools.cache
def _parser() -> Callable[[], Any] | None:
    """simdjson's parser; None where it is not installed, which Python would search for anew each time."""
    try:
        from simdjson import Parser
    except ImportError:
        return None
    return Parser


def _find(call: Infer, document: Any, names: AbstractSet[str]) -> tuple[Form, dict[str, Any]]:
    """The form of the body and the list of each input: of its rows, or (ITEM) of its one value."""
    only = next(iter(names)) if len(names) == 1 else None
    if not hasattr(document, "keys"):
        for envelope in call.envelopes:
            if only is not None and not envelope.rows_at:
                return Form("rows", envelope), {only: document}
        raise _Declined
    keys = _keys(document)
    for envelope in call.envelopes:
        # A key that is both an input and the place of rows can mean either.
        if envelope.rows_at and envelope.rows_at[0] in keys and envelope.rows_at[0] in names:
            raise _Declined
    if keys == names:
        return ITEM, {name: document[name] for name in names}
    for envelope in call.envelopes:
        value = document
        for key in envelope.rows_at:
            value = value[key] if _keys(value) == {key} else None
            if value is None:
                break
        if value is None or not envelope.rows_at:
            continue
        if not envelope.columns:
            if only is None:
                raise _Declined
            return Form("rows", envelope), {only: value}
        if only is not None and not hasattr(value, "keys"):
            return Form("columns", envelope), {only: value}
        if _keys(value) == names:
            return Form("columns", envelope), {name: value[name] for name in names}
        raise _Declined
    raise _Declined


def _keys(value: Any) -> set[str]:
    if not hasattr(value, "keys"):
        raise _Declined
    keys = set(value.keys())
    if len(keys) < len(value):
        raise _Declined  # one came twice
    return keys


def _count_rows(lists: dict[str, Any], form: Form) -> int:
    if form is ITEM:
        return 1
    counts = {len(value) for value in lists.values()}
    return counts.pop() if len(counts) == 1 else 0


def _count_lists(value: Any, shape: tuple[int | None, ...], form: Form) -> int:
    """How many lists `value` is made of when every one has its declared length."""
    if form is ITEM:
        if not shape:
            raise _Declined
        count, level = 0, [value]
    else:
        count, level = 1, list(value) if shape else []
    for depth, dim in enumerate(shape):
        if depth:
            level = list(chain.from_iterable(level))
        if set(map(len, level)) != {dim}:
            raise _Declined
        count += len(level)
    return count


def _numbers(value: Any, spec: Tensor, rows: int) -> NDArray[Any]:
    code, wide = BUFFERS[spec.dtype[0]]
    numbers = np.frombuffer(value.as_buffer(of_type=code), wide)
    shape: tuple[Any, ...] = (rows, *spec.shape)
    if numbers.size != math.prod(shape):
        raise _Declined
    converted = cast(numbers, spec.dtype)
    if converted is None:
        raise _Declined
    # Predictors may write into what they are given.
    return (converted if converted.flags.writeable else converted.copy()).reshape(shape)
