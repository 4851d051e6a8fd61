"""The fast ways from JSON to arrays against the careful one: the same arrays, or no word from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servekit.codecs import Decoded, Limits, jsonbody, quick
from servekit.contract import COMMON_ENVELOPES, Envelope, Infer
from servekit.errors import ServeError
from servekit.signature import Json, Signature, Spec, Tensor, Text

LIMITS = Limits(max_rows=20)
REQ_DATA = Envelope(("data", "req_data"), ("data", "resp_data"), echo=("meta",), results_as_objects=True)
ENVELOPES = (REQ_DATA, *COMMON_ENVELOPES)

DTYPES = ["float16", "float32", "float64", "int8", "uint8", "int32", "uint32", "int64", "uint64"]
LITERALS = [
    *("0", "1", "-1", "-0", "-0.0", "1.0", "1.5", "-2E+1", "1e-400", "5e-324", "0.1", "127", "128", "-129", "255", "256"),
    *("65504", "65519.99", "65520", "5.9604645e-8", "2.98023223876953125e-8", "4294967296", "2049", "2051"),
    *("3.4028235e38", "3.4028235677973365e+38", "3.4028235677973366e+38", "1e39", "1e400", "-1e400"),
    *("1.7976931348623157e308", "1.7976931348623159e308", "16777217", "33554433.000000001", "9007199254740993"),
    *("9007199254740992.0", "9223372036854775807", "9223372036854775808", "-9223372036854775808"),
    *("-9223372036854775809", "18446744073709551615", "18446744073709551616", "123456789012345678901234567890"),
]  # fmt: skip
WRONG = [
    *("true", "false", "null", '"1"', '""', "NaN", "Infinity", "-Infinity", "01", "1.", "+1", ".5", "0x1", "1_0"),
    *("[]", "[1]", "[[1]]", "{}", '{"x": 1}', '{"1": 2}', "", "1 2", "[1, [2]]"),
]

numbers = (
    st.sampled_from(LITERALS)
    | st.integers(-300, 300).map(str)
    | st.integers(-(2**65), 2**65).map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr)
)


@st.composite
def nested(draw: st.DrawFn, shape: tuple[int, ...], right: bool) -> str:
    """Nested lists of `shape` as JSON; where not `right`, lengths, depth and values are wrong now and then."""
    if not right and draw(st.integers(0, 15)) == 0:
        return draw(st.sampled_from(WRONG))
    if not shape:
        return draw(st.sampled_from(["0", "1", "7", "100"]) if right and draw(st.integers(0, 9)) else numbers)
    length = shape[0]
    if not right and draw(st.integers(0, 15)) == 0:
        length = draw(st.integers(0, 4))
    return "[" + ", ".join(draw(nested(shape[1:], right)) for _ in range(length)) + "]"


def wrapped(form: str, name: str, rows: str) -> str:
    key = "".join(f"\\u{ord(char):04x}" for char in "instances")
    return {
        "rows": f'{{"instances": {rows}}}',
        "escaped": f'{{"{key}": {rows}}}',
        "bare": rows,
        "batch": f'{{"inputs": {rows}}}',
        "columns": f'{{"inputs": {{"{name}": {rows}}}}}',
        "req_data": f'{{"data": {{"req_data": {rows}}}}}',
        "item": f'{{"{name}": {rows}}}',
        "objects": f'{{"instances": [{{"{name}": {rows}}}]}}',
        "extra": f'{{"instances": {rows}, "parameters": {{}}}}',
        "echo": f'{{"meta": [1], "data": {{"req_data": {rows}}}}}',
        "twice": f'{{"instances": [[1]], "instances": {rows}}}',
        "twice, then none": f'{{"instances": {rows}, "instances": 1}}',
        "both": f'{{"inputs": {rows}, "instances": {rows}}}',
        "twice inside": f'{{"inputs": {{"{name}": [], "{name}": {rows}}}}}',
        "wrong place": f'{{"data": {rows}}}',
        "unknown": f'{{"inputs": {{"z": {rows}}}}}',
        "deep": f'{{"instances": {"[" * 600}{rows}{"]" * 600}}}',
        "open": f'{{"instances": {rows}',
        "closed twice": f'{{"instances": {rows}}}}}',
        "garbage": f'{{"instances": {rows}}} x',
        "nul": f'{{"instances": {rows}}}\0',
        "mark": f'\ufeff{{"instances": {rows}}}',
        "two marks": f'\ufeff\ufeff{{"instances": {rows}}}',
        "comment": f'{{"instances": {rows} /* */}}',
        "surrogate": f'{{"\\ud800": {rows}}}',
    }[form]


GOOD = ["rows", "escaped", "bare", "batch", "columns", "req_data", "item"]
FORMS = [
    *(*GOOD, *GOOD, *GOOD, "twice, then none"),
    *("rows", "escaped", "bare", "batch", "columns", "req_data", "item", "objects", "extra", "echo", "twice", "both"),
    *("twice inside", "wrong place", "unknown", "deep", "open", "closed twice", "garbage", "nul", "mark", "two marks"),
    *("comment", "surrogate"),
]


def long(body: bytes) -> bytes:
    """Long enough for the fast way, and the same document."""
    return body + b" " * quick.MIN_BYTES


def outcome(body: bytes, signature: Signature, *, careful: bool) -> Any:
    """What comes of a body, in every detail that anyone can see, or what is said of it."""
    call = Infer(body, "application/json", None, ENVELOPES)
    try:
        if careful:
            decoded = jsonbody.decode_document(call, jsonbody.parse(body), signature, LIMITS, bools=True)
        else:
            decoded = jsonbody.decode(call, body, signature, LIMITS)
    except ServeError as error:
        return type(error), error.message
    return seen(decoded)


def seen(decoded: Decoded) -> Any:
    columns = {
        name: (column.dtype, column.shape, column.tobytes(), column.flags.writeable) if isinstance(column, np.ndarray) else column
        for name, column in decoded.columns.items()
    }  # fmt: skip
    return decoded.rows, decoded.form, list(columns.items())


@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 3), max_size=3).map(tuple),
    rows=st.integers(0, 4),
    form=st.sampled_from(FORMS),
    name=st.sampled_from(["x", "instances", "inputs", "a[b", "ü"]),
    right=st.booleans(),
    data=st.data(),
)
@settings(max_examples=1000, deadline=None)
def test_fast_is_careful(
    dtype: str, shape: tuple[int, ...], rows: int, form: str, name: str, right: bool, data: st.DataObject
) -> None:
    dims = shape if form in ("item", "objects") else (rows, *shape)
    body = wrapped(form, name, data.draw(nested(dims, right))).encode()
    signature = Signature({name: Tensor(dtype, shape)}, {"y": Json()})
    for sent in (body, long(body)):  # through struct, and through simdjson where it is installed
        assert outcome(sent, signature, careful=False) == outcome(sent, signature, careful=True)


@given(
    shapes=st.tuples(st.lists(st.integers(1, 3), max_size=2), st.lists(st.integers(1, 3), max_size=2)),
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    rows=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    form=st.sampled_from(["columns", "item", "swapped", "repeated", "objects"]),
    right=st.booleans(),
    data=st.data(),
)
@settings(max_examples=300, deadline=None)
def test_fast_is_careful_with_several_inputs(
    shapes: tuple[list[int], list[int]],
    dtypes: tuple[str, str],
    rows: tuple[int, int],
    form: str,
    right: bool,
    data: st.DataObject,
) -> None:
    alone = form in ("item", "objects")
    a, b = (
        data.draw(nested(tuple(shape) if alone else (count, *shape), right))
        for shape, count in zip(shapes, rows, strict=True)
    )
    body = {
        "columns": f'{{"inputs": {{"a": {a}, "b": {b}}}}}',
        "swapped": f'{{"inputs": {{"b": {b}, "a": {a}}}}}',
        "repeated": f'{{"inputs": {{"a": {a}, "b": {b}, "a": {a}}}}}',
        "item": f'{{"a": {a}, "b": {b}}}',
        "objects": f'{{"instances": [{{"a": {a}, "b": {b}}}]}}',
    }[form].encode()
    inputs = {name: Tensor(dtype, tuple(shape)) for name, dtype, shape in zip("ab", dtypes, shapes, strict=True)}
    signature = Signature(inputs, {"y": Json()})
    for sent in (body, long(body)):
        assert outcome(sent, signature, careful=False) == outcome(sent, signature, careful=True)


@given(body=st.binary(max_size=40), data=st.data())
@settings(max_examples=300, deadline=None)
def test_fast_is_careful_with_damaged_bodies(body: bytes, data: st.DataObject) -> None:
    whole = bytearray(long(b'{"instances": [[1, 2.5], [-3e2, 4]]}'))
    at = data.draw(st.integers(0, 40))
    whole[at : at + data.draw(st.integers(0, 5))] = body
    signature = Signature({"x": Tensor("float32", (2,))}, {"y": Json()})
    assert outcome(bytes(whole), signature, careful=False) == outcome(bytes(whole), signature, careful=True)


X = Tensor("float32", (2,))


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        (b'{"instances": [[1, 2], [3, 4]]}', {"x": X}),
        (b'{"data": {"req_data": [[1, 2]]}}', {"x": X}),
        (b"[[1, 2]]", {"x": X}),
        (b'{"inputs": [[1, 2]]}', {"x": X}),
        (b'{"inputs": {"x": [[1, 2]]}}', {"x": X}),
        (b'{"x": [1, 2]}', {"x": X}),
        (b'{"instances": [1, 2]}', {"x": Tensor("uint8")}),
        (b'{"instances": [[[1], [2]]]}', {"x": Tensor("int64", (2, 1))}),
        (b'{"inputs": {"a": [1], "b": [[1, 2]]}}', {"a": Tensor("float64"), "b": X}),
        (b'\xef\xbb\xbf{"instances": [[1, 2]]}', {"x": X}),
        (b'{"\\u0069nstances": [[1, 2]]}', {"x": X}),
    ],
)
def test_what_is_read_fast(body: bytes, inputs: dict[str, Spec]) -> None:
    pytest.importorskip("simdjson")
    call = Infer(body, "application/json", None, ENVELOPES)
    signature = Signature(inputs, {"y": Json()})
    decoded = quick.decode(call, long(body), signature, LIMITS)
    assert decoded is not None
    assert seen(decoded) == outcome(body, signature, careful=True)
    assert quick.decode(call, body, signature, LIMITS) is None, "short bodies gain nothing"


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        (b'{"instances": [[1, [2]], [3]]}', {"x": X}),
        (b'{"instances": [[1, 2, 3], [4]]}', {"x": X}),
        (b'{"instances": [[1, [2]], [3, 4]]}', {"x": X}),
        (b'{"instances": [[], []]}', {"x": X}),
        (b'{"instances": []}', {"x": X}),
        (b'{"instances": [[1, true]]}', {"x": X}),
        (b'{"instances": [[1, 1e39]]}', {"x": X}),
        (b'{"instances": [[1, 2]], "instances": [[3, 4]]}', {"x": X}),
        (b'{"instances": [[1, 2]], "instances": 5}', {"x": X}),
        (b'{"inputs": {"x": [[1, 2]], "x": 5}}', {"x": X}),
        (b'{"instances": [[1, 2]], "parameters": 1}', {"x": X}),
        (b'{"instances": ' + str([[1, 2]] * 21).encode() + b"}", {"x": X}),
        (b'{"instances": [[1, 2]]}', {"x": Tensor("float32", (None,))}),
        (b'{"instances": [[1, 2]]}', {"x": Json()}),
        (b'{"instances": [true]}', {"x": Tensor("bool")}),
        (b'{"inputs": {"a": [[1, 2]], "t": ["b"]}}', {"a": X, "t": Text()}),
        (b'{"inputs": {"a": [[1, 2]], "b": [[1, 2], [3, 4]]}}', {"a": X, "b": X}),
    ],
)
def test_what_is_left_to_the_careful_way(body: bytes, inputs: dict[str, Spec]) -> None:
    call = Infer(body, "application/json", None, ENVELOPES)
    assert quick.decode(call, long(body), Signature(inputs, {"y": Json()}), LIMITS) is None


def test_what_is_given_may_be_written_to() -> None:
    signature = Signature({"x": Tensor("float64", (2,))}, {"y": Json()})
    for body in (b'{"instances": [[1, 2]]}', long(b'{"instances": [[1, 2]]}')):
        column = jsonbody.decode(Infer(body, None, None), body, signature, LIMITS).columns["x"]
        assert isinstance(column, np.ndarray)
        column += 1
        assert column.tolist() == [[2, 3]]
