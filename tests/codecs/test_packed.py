"""The short way says what the general path says, or nothing."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from cases import npy
from hypothesis import given, settings
from hypothesis import strategies as st

from servekit import Tensor
from servekit.codecs import Limits, decode, encode, packed, v2
from servekit.contract import BARE_LIST, COLUMNS, INSTANCES, Envelope, Infer
from servekit.errors import ServeError
from servekit.signature import Image, Json, Signature, Spec

LIMITS = Limits(max_rows=50)
JSON = "application/json"
WRAPPED = Envelope(("data", "req_data"), ("data", "resp_data"), echo=("meta",), results_as_objects=True)
ENVELOPES = (WRAPPED, INSTANCES, COLUMNS, BARE_LIST)


def signature(dtype: str = "float32", shape: tuple[int, ...] = (4,), out: Tensor | None = None) -> Signature:
    return Signature({"x": Tensor(dtype, shape)}, {"y": out or Tensor("float32", (3,))})


def call(body: bytes, content_type: str = JSON, accept: str | None = None) -> Infer:
    return Infer(body, content_type, accept, ENVELOPES)


def check(body: bytes, declared: Signature, content_type: str = JSON) -> bool:
    """True when the short way took the body; then the general path must have found the same."""
    read = packed.reader(call(b"", content_type), JSON, declared, LIMITS)
    assert read is not None
    try:
        rows, parts, frame = read([body])
    except packed.Unusual:
        return False
    decoded = decode(call(body, content_type), declared, LIMITS)
    column = decoded.columns["x"]
    spec = declared.inputs["x"]
    assert isinstance(spec, Tensor)
    array = np.frombuffer(b"".join(parts), spec.dtype).reshape(-1, *spec.shape)
    assert rows == decoded.rows
    assert isinstance(column, np.ndarray)
    assert column.dtype == array.dtype
    assert column.shape == array.shape
    assert column.tobytes() == array.tobytes()
    assert frame.form == decoded.form
    return True


LONG = json.dumps({"instances": [[0.5] * 400, [1] * 400]}).encode()

TAKEN = {
    "one row": (b'{"instances": [[1, 2.5, -3, 4e-3]]}', signature()),
    "rows": (b'{"instances": [[1, 2, 3, 4], [5, 6, 7, 8]]}', signature()),
    "named rows": (b'{"instances": [{"x": [1, 2, 3, 4]}, {"x": [5, 6, 7, 8]}]}', signature()),
    "columns": (b'{"inputs": {"x": [[1, 2, 3, 4]]}}', signature()),
    "deep": (b'{"data": {"req_data": [{"x": [1, 2, 3, 4]}]}}', signature()),
    "one item": (b'{"x": [1, 2, 3, 4]}', signature()),
    "matrix": (b'{"instances": [[[1, 2], [3, 4], [5, 6]]]}', signature(shape=(3, 2))),
    "scalars": (b'{"instances": [1, 2, 3]}', signature(shape=())),
    "integers": (b'{"instances": [[1, -2, 3, 9223372036854775807]]}', signature("int64")),
    "minus zero": (b'{"instances": [[-0.0, 0, -0, 1]]}', signature("float64")),
    "halves": (b'{"instances": [[65504, 0.1, 3, 4]]}', signature("float16")),
    "long": (LONG, signature(shape=(400,))),
    "long doubles": (LONG, signature("float64", shape=(400,))),
    "long columns": (json.dumps({"inputs": {"x": [[0.5] * 400]}}).encode(), signature(shape=(400,))),
    "a long item": (json.dumps({"x": [0.5] * 400}).encode(), signature(shape=(400,))),
}
DECLINED = {
    "true": (b'{"instances": [[1, 2, 3, true]]}', signature()),
    "null": (b'{"instances": [[1, 2, 3, null]]}', signature()),
    "text": (b'{"instances": [[1, 2, 3, "4"]]}', signature()),
    "text of the right length": (b'{"instances": ["1234"]}', signature("int8")),
    "short": (b'{"instances": [[1, 2, 3]]}', signature()),
    "ragged": (b'{"instances": [[1, 2, 3, 4], [1, 2, 3]]}', signature()),
    "nested": (b'{"instances": [[1, 2, 3, [4]]]}', signature()),
    "flat": (b'{"instances": [1, 2, 3, 4]}', signature()),
    "an object of the right size": (b'{"instances": [{"1": 1, "2": 2, "3": 3, "4": 4}]}', signature()),
    "no rows": (b'{"instances": []}', signature()),
    "too many rows": (json.dumps({"instances": [[1, 2, 3, 4]] * 51}).encode(), signature()),
    "more keys": (b'{"instances": [[1, 2, 3, 4]], "more": 1}', signature()),
    "echo": (b'{"data": {"req_data": [{"x": [1, 2, 3, 4]}]}, "meta": 1}', signature()),
    "overflow": (b'{"instances": [[1, 2, 3, 1e39]]}', signature()),
    "overflow of halves": (b'{"instances": [[1, 2, 3, 65520]]}', signature("float16")),
    "infinite": (b'{"instances": [[1, 2, 3, 1e400]]}', signature("float64")),
    "fraction": (b'{"instances": [[1, 2, 3, 4.5]]}', signature("int32")),
    "over the dtype": (b'{"instances": [[1, 2, 3, 256]]}', signature("uint8")),
    "negative": (b'{"instances": [[1, 2, 3, -1]]}', signature("uint64")),
    "not JSON": (b'{"instances": [[1, 2, 3, 4]]', signature()),
    "NaN": (b'{"instances": [[1, 2, 3, NaN]]}', signature()),
    "matrix of another shape": (b'{"instances": [[[1, 2, 3], [4, 5, 6]]]}', signature(shape=(3, 2))),
    "long, nested": (LONG.replace(b"0.5", b"[0.5]", 1), signature(shape=(400,))),
    "long, nested to the right count": (LONG.replace(b"0.5, 0.5", b"[0.5, 0.5], []", 1), signature(shape=(400,))),
    "long, true": (LONG.replace(b"0.5", b"true", 1), signature(shape=(400,))),
    "long, null": (LONG.replace(b"0.5", b"null", 1), signature(shape=(400,))),
    "long, text": (LONG.replace(b"0.5", b'"0.5"', 1), signature(shape=(400,))),
    "long, overflow": (LONG.replace(b"0.5", b"1e39", 1), signature(shape=(400,))),
    "long, ragged": (LONG.replace(b"0.5, ", b"", 1), signature(shape=(400,))),
    "long, more keys": (LONG[:-1] + b', "more": 1}', signature(shape=(400,))),
    "long, cut": (LONG[:-3], signature(shape=(400,))),
}


@pytest.mark.parametrize(("body", "declared"), TAKEN.values(), ids=TAKEN)
def test_taken(body: bytes, declared: Signature) -> None:
    assert check(body, declared)


def test_a_key_that_comes_twice() -> None:
    """RFC 8259 leaves its meaning open: orjson takes the last, simdjson sees both; nobody takes the first."""
    twice = LONG[:-1].replace(b"0.5", b"0.25") + b"," + LONG[1:]
    check(twice, signature(shape=(400,)))


@pytest.mark.parametrize(("body", "declared"), DECLINED.values(), ids=DECLINED)
def test_declined(body: bytes, declared: Signature) -> None:
    assert not check(body, declared)


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -0.0, 1, 2**53 + 1, 3.4028235e38, 3.5e38, 65504, 65520, 1e-45, 127, 128, 255, 256]),
)
LEAVES = st.one_of(NUMBERS, st.sampled_from([True, False, None, "1", [1], [], {}, [[1]]]))
# Mostly right bodies, sometimes with something wrong in them.
ROWS = st.one_of(
    st.lists(st.lists(NUMBERS, min_size=4, max_size=4), min_size=1, max_size=4),
    st.lists(st.lists(LEAVES, min_size=3, max_size=5), max_size=3),
    st.lists(st.one_of(LEAVES, st.fixed_dictionaries({"x": st.lists(NUMBERS, min_size=4, max_size=4)}))),
)
BODIES = st.one_of(
    ROWS.map(lambda rows: {"instances": rows}),
    ROWS.map(lambda rows: {"inputs": {"x": rows}}),
    ROWS.map(lambda rows: {"data": {"req_data": rows}}),
    st.lists(LEAVES, min_size=4, max_size=4).map(lambda row: {"x": row}),
    st.recursive(LEAVES, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=3), inner))),
)


@settings(max_examples=400, deadline=None)
@given(
    document=BODIES, dtype=st.sampled_from(sorted(packed.CODES)), padding=st.sampled_from([0, packed.SIMDJSON_BYTES])
)
def test_any_document_is_read_as_the_general_path_reads_it_or_declined(document: Any, dtype: str, padding: int) -> None:
    check(json.dumps(document).encode() + b" " * padding, signature(dtype))


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    body=st.sampled_from([body for body, _ in TAKEN.values() if len(body) < 200]),
    padding=st.sampled_from([0, packed.SIMDJSON_BYTES]),
)
def test_damaged_bodies(data: st.DataObject, body: bytes, padding: int) -> None:
    at = data.draw(st.integers(0, len(body) - 1))
    byte = data.draw(st.sampled_from(list(b'[]{},:" 0123456789.eE+-\\truefalsn\x00\xff')))
    damaged = body[:at] + bytes([byte]) + body[at + data.draw(st.integers(0, 2)) :]
    try:
        check(damaged + b" " * padding, signature())
    except ServeError as error:
        raise AssertionError(f"the short way took what the general path refuses: {error.message}") from error


@pytest.mark.parametrize(
    ("array", "taken"),
    [
        (np.ones((2, 4), np.float32), True),
        (np.ones(4, np.float32), True),
        (np.ones((2, 4), ">f4"), False),
        (np.ones((2, 4), np.float64), False),
        (np.asfortranarray(np.ones((2, 4), np.float32)), False),
        (np.ones((2, 5), np.float32), False),
        (np.ones((0, 4), np.float32), False),
        (np.ones((51, 4), np.float32), False),
    ],
)
def test_npy(array: np.ndarray[Any, Any], taken: bool) -> None:
    assert check(npy(array), signature(), "application/x-npy") == taken


@pytest.mark.parametrize("size", [100, 128, 130, 1000])
def test_a_body_in_parts(size: int) -> None:
    """As a socket delivers it; where even the head is cut, the general path reads it."""
    body = npy(np.arange(400, dtype=np.float32).reshape(100, 4)[:50])
    read = packed.reader(call(b"", "application/x-npy"), JSON, signature(), LIMITS)
    assert read is not None
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    if size < 128:
        with pytest.raises(packed.Unusual):
            read(parts)
        return
    rows, numbers, _ = read(parts)
    assert rows == 50
    assert b"".join(numbers) == np.arange(200, dtype=np.float32).tobytes()


def test_damaged_npy_is_declined() -> None:
    body = npy(np.ones((2, 4), np.float32))
    for end in range(len(body)):
        assert not check(body[:end], signature(), "application/x-npy")


SPECS: list[tuple[Spec, Spec, bool]] = [
    (Tensor("float32", (4,)), Tensor("float32", ()), True),
    (Tensor("bool", ()), Tensor("bool", (None,)), True),
    (Tensor("float32", (None,)), Tensor("float32", ()), False),
    (Tensor("str", ()), Tensor("float32", ()), False),
    (Tensor("float32", ()), Tensor("str", ()), False),
    (Tensor("float32", ()), Json(), False),
    (Image("L", 8, 8), Tensor("float32", ()), False),
]


@pytest.mark.parametrize(("spec", "result", "fits"), SPECS)
def test_which_models_it_is_for(spec: Spec, result: Spec, fits: bool) -> None:
    assert packed.fits(Signature({"x": spec}, {"y": result})) == fits
    assert not packed.fits(Signature({"x": spec, "z": spec}, {"y": result}))


OUTPUTS = [
    np.arange(12, dtype=np.float32).reshape(4, 3) / 7,
    np.arange(4, dtype=np.float64) / 3,
    np.arange(24, dtype=np.int64).reshape(4, 3, 2),
    np.array([True, False, True, True]),
    np.array([[0.1], [1e-7], [3e38], [-0.0]], np.float32),
    np.arange(8, dtype=np.float16).reshape(4, 2) / 3,
    np.arange(8, dtype=np.uint8).reshape(4, 1, 2, 1),
    np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3)),
]
BODIES_OF_FORMS = {
    "rows": b'{"instances": [[1, 2, 3, 4]]}',
    "columns": b'{"inputs": {"x": [[1, 2, 3, 4]]}}',
    "objects": b'{"data": {"req_data": [[1, 2, 3, 4]]}}',
    "item": b'{"x": [1, 2, 3, 4]}',
}


@pytest.mark.parametrize("body", BODIES_OF_FORMS.values(), ids=BODIES_OF_FORMS)
@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: f"{output.dtype} {output.shape}")
def test_answers_are_what_the_general_encoder_writes(output: np.ndarray[Any, Any], body: bytes) -> None:
    declared = signature(out=Tensor(str(output.dtype), output.shape[1:]))
    read = packed.reader(call(b""), JSON, declared, LIMITS)
    assert read is not None
    frame = read([body])[2]
    texts = packed.row_texts(output)
    assert texts is not None
    for start, stop in ((0, 1), (1, 3), (0, 4)) if frame.form.kind != "item" else ((2, 3),):
        short = frame.prefix + frame.between.join(texts[start:stop]) + frame.suffix
        columns = {"y": output[start:stop]}
        assert short == encode(JSON, frame.form, columns, stop - start, declared)
        assert orjson.loads(short) is not None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_json_cannot_carry_is_left_to_the_general_encoder(value: float, dtype: str) -> None:
    assert packed.row_texts(np.array([[1, 2], [3, value]], dtype)) is None


def test_names_are_escaped() -> None:
    declared = Signature({'a"b': Tensor("float32", (1,))}, {'"y\\': Tensor("float32", (1,))})
    read = packed.reader(call(b""), JSON, declared, LIMITS)
    assert read is not None
    frame = read([b'{"a\\"b": [1]}'])[2]
    texts = packed.row_texts(np.array([[5]], np.float32))
    assert texts is not None
    assert json.loads(frame.prefix + texts[0] + frame.suffix) == {'"y\\': [5.0]}


def test_other_types_have_no_reader() -> None:
    for content_type in ("text/csv", "application/json; charset=utf-16", "application/json; charset=nonsense", ""):
        assert packed.reader(call(b"", content_type), JSON, signature(), LIMITS) is None
    assert packed.reader(call(b""), "text/csv", signature(), LIMITS) is None
    assert packed.reader(call(b"", "application/x-npy"), v2.BINARY, signature(), LIMITS) is None


def test_a_reader_keeps_little_of_a_long_body() -> None:
    """There is one for every form of headers that callers think of."""
    body = b'{"instances":[' + b"[1,2,3,4]," * 200_000 + b"[1,2,3,4]]}"
    readers = [packed.reader(call(b""), JSON, signature(), Limits()) for _ in range(10)]
    before_kib = resident_kib()
    for read in readers:
        assert read is not None
        with contextlib.suppress(packed.Unusual):
            read([body])
    # They would keep 300 MiB.
    assert resident_kib() - before_kib < 150 * 1024


def resident_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
