"""Answers in every form and type."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from servekit.codecs import Form, encode, encode_output, negotiate, result_object
from servekit.codecs.encode import offered_types
from servekit.codecs.nouns import ITEM
from servekit.codecs.v2 import BINARY
from servekit.contract import BARE_LIST, COLUMNS, INSTANCES, Envelope, Infer
from servekit.errors import NotAcceptable, PredictFailed, Unprocessable
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text

X = {"x": Json()}
ONE = Signature(X, {"y": Tensor("float32", ())})
TWO = Signature(X, {"label": Text(), "scores": Tensor("float32", (2,))})
WRAPPED = Envelope(("data", "req_data"), ("data", "resp_data"), echo=("meta",), results_as_objects=True)


@dataclass
class Point:
    x: float


def body(form: Form, columns: dict[str, Any], rows: int, signature: Signature, **options: Any) -> Any:
    return json.loads(encode("application/json", form, columns, rows, signature, **options))


@pytest.mark.parametrize(
    ("form", "signature", "columns", "expected"),
    [
        (ITEM, ONE, {"y": np.array([0.5])}, {"y": 0.5}),
        (Form("rows", INSTANCES), ONE, {"y": np.array([0.5, 1])}, {"predictions": [0.5, 1.0]}),
        (Form("rows", BARE_LIST), ONE, {"y": [0.5]}, {"predictions": [0.5]}),
        (Form("columns", COLUMNS), ONE, {"y": np.array([0.5, 1])}, {"outputs": {"y": [0.5, 1.0]}}),
        (
            Form("rows", INSTANCES),
            TWO,
            {"label": ["a", "b"], "scores": np.array([[1, 2], [3, 4]])},
            {"predictions": [{"label": "a", "scores": [1, 2]}, {"label": "b", "scores": [3, 4]}]},
        ),
        (
            Form("rows", WRAPPED, {"meta": {"uuid": 1}}),
            ONE,
            {"y": np.array([0.5])},
            {"meta": {"uuid": 1}, "data": {"resp_data": [{"y": 0.5}]}},
        ),
    ],
)
def test_json_forms(form: Form, signature: Signature, columns: dict[str, Any], expected: Any) -> None:
    rows = len(next(iter(columns.values())))
    assert body(form, columns, rows, signature) == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (np.array([1, 2], ">i4"), [1, 2]),
        (np.array([0.5, 1], np.float16), [0.5, 1.0]),
        (np.array([True, False]), [True, False]),
        (np.array(["a", "b"], object), ["a", "b"]),
        (np.arange(8.0).reshape(2, 2, 2).T, [[[0, 4], [2, 6]], [[1, 5], [3, 7]]]),
        (np.arange(4)[::2], [0, 2]),
        ([np.float32(0.5), np.int64(2)], [0.5, 2]),
        ([{"k": np.arange(2)}, {"k": {1, 2}}], [{"k": [0, 1]}, {"k": [1, 2]}]),
        ([{1: "int key"}, None], [{"1": "int key"}, None]),
    ],
)
def test_values_of_all_kinds(column: Any, expected: Any) -> None:
    found = body(Form("rows", INSTANCES), {"y": column}, 2, Signature(X, {"y": Json()}))
    assert found == {"predictions": expected}


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-7, 3.4028235e38, 5.9604645e-8, 16777216.0, 1.0])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_number_has_the_same_digits_wherever_it_stands(value: float, dtype: str) -> None:
    with np.errstate(over="ignore"):
        number = np.array([value, value]).astype(dtype)
    if not np.isfinite(number).all():
        return
    [digits, again] = encode_output(Json(), number, "application/json")[1:-1].split(b",")
    assert digits == again
    strided = np.repeat(number, 2)[::2]
    for same in ([number], strided, [strided], [number[0]] * 2, {"k": strided}, [np.array(number[0])]):
        text = encode_output(Json(), same, "application/json")
        assert text.count(digits) == len(text.split(b","))
    rows = Form("rows", INSTANCES)
    signature = Signature(X, {"y": Tensor(dtype)})
    assert encode("application/json", rows, {"y": number}, 2, signature) == b'{"predictions":[%b,%b]}' % (
        digits,
        digits,
    )
    assert encode("application/jsonlines", rows, {"y": strided}, 2, signature) == b'{"y":%b}\n{"y":%b}\n' % (
        digits,
        digits,
    )


def test_a_null_that_is_meant_is_no_nan() -> None:
    signature = Signature(X, {"y": Json(), "s": Json()})
    columns: dict[str, Any] = {"y": [None, 1.0], "s": ["null", "null"]}
    for media_type in ("application/json", "application/jsonlines"):
        assert b"null" in encode(media_type, Form("rows", INSTANCES), columns, 2, signature)
        with pytest.raises(Unprocessable, match="output s, row 1"):
            encode(media_type, Form("rows", INSTANCES), columns | {"s": [None, [float("inf")]]}, 2, signature)
    with pytest.raises(Unprocessable, match="output y, row 0"):
        result_object(signature, columns | {"y": [{"k": float("nan")}, 1]}, 0)


@pytest.mark.parametrize(
    "column",
    [
        np.array([1.0, np.nan]),
        np.array([1.0, np.inf], np.float16),
        np.array([1.0, float("nan")], object),
        [1.0, {"a": [float("nan")]}],
        [1.0, {float("nan")}],
        [1.0, Point(float("nan"))],
        [0, np.nan],
    ],
)
def test_nan_is_refused_or_null(column: Any) -> None:
    signature = Signature(X, {"y": Json()})
    with pytest.raises(Unprocessable, match=r"output y, row 1: .*NaN"):
        body(Form("rows", INSTANCES), {"y": column}, 2, signature)
    found = encode("application/json", Form("rows", INSTANCES), {"y": column}, 2, signature, nan="null")
    assert b"null" in found


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "object"),
        (b"bytes", "bytes"),
        ({"k": object()}, "object"),
        ("\ud800", "UTF-8"),
        (np.array([1j]), "complex"),
        (2**70, "64-bit"),
    ],
)
def test_what_json_cannot_carry(value: Any, says: str) -> None:
    signature = Signature(X, {"fine": Json(), "y": Json()})
    for form in (ITEM, Form("rows", INSTANCES), Form("columns", COLUMNS)):
        with pytest.raises(PredictFailed, match=f"output 'y': .*not JSON.*{says}"):
            body(form, {"fine": [1], "y": [value]}, 1, signature)
    with pytest.raises(PredictFailed, match="output 'y'"):
        encode("application/jsonlines", ITEM, {"fine": [1], "y": [value]}, 1, signature)


def test_an_endless_value() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(PredictFailed, match="output 'y', row 0: nested too deep"):
        body(ITEM, {"y": [loop]}, 1, Signature(X, {"y": Json()}))


@pytest.mark.parametrize("media_type", ["application/json", "application/octet-stream"])
@pytest.mark.parametrize("value", ["text", 5, None])
def test_a_file_is_bytes(media_type: str, value: Any) -> None:
    with pytest.raises(PredictFailed, match="output 'y': expected bytes for a File"):
        encode(media_type, ITEM, {"y": [value]}, 1, Signature(X, {"y": File()}))


@pytest.mark.parametrize("media_type", ["application/x-npy", "application/x-npz"])
def test_rows_of_their_own_shapes_are_no_array(media_type: str) -> None:
    signature = Signature(X, {"y": Tensor("float32", (None,))})
    column = {"y": [np.zeros(2), np.zeros(3)]}
    with pytest.raises(NotAcceptable, match="output 'y' differ; ask for application/json"):
        encode(media_type, Form("rows", INSTANCES), column, 2, signature)
    assert body(Form("rows", INSTANCES), column, 2, signature) == {"predictions": [[0, 0], [0, 0, 0]]}


def test_files_and_images_in_json_are_base64() -> None:
    signature = Signature(X, {"file": File(), "picture": Image("L")})
    found = body(ITEM, {"file": [b"\0\1"], "picture": np.zeros((1, 2, 2))}, 1, signature)
    assert base64.b64decode(found["file"]) == b"\0\1"
    assert base64.b64decode(found["picture"]).startswith(b"\x89PNG")


def test_csv() -> None:
    columns = {"label": ['say "hi", you', "b"], "scores": np.array([[0.1, 2], [3, 4]], np.float32)}
    found = encode("text/csv", Form("rows", INSTANCES), columns, 2, TWO)
    assert found.decode() == '"say ""hi"", you",0.1,2.0\nb,3.0,4.0\n'


def test_lines_arrays_and_plain_text() -> None:
    rows = Form("rows", INSTANCES)
    y = {"y": np.array([0.5, 1.5], np.float32)}
    assert encode("application/jsonlines", rows, y, 2, ONE) == b'{"y":0.5}\n{"y":1.5}\n'
    assert np.load(io.BytesIO(encode("application/x-npy", rows, y, 2, ONE))).tolist() == [0.5, 1.5]
    assert np.load(io.BytesIO(encode("application/x-npz", rows, y, 2, ONE)))["y"].tolist() == [0.5, 1.5]
    assert encode("text/plain", rows, y, 2, ONE) == b"0.5\n1.5\n"
    assert encode("text/plain", ITEM, {"y": ["grün"]}, 1, Signature(X, {"y": Text()})).decode() == "grün"


@pytest.mark.parametrize(("spec", "media_type"), [(Image("L"), "image/png"), (File(), "application/octet-stream")])
def test_one_picture_or_file_is_sent_as_such_and_several_are_not(spec: Spec, media_type: str) -> None:
    signature = Signature(X, {"y": spec})
    value = np.zeros((2, 2)) if isinstance(spec, Image) else b"abc"
    assert encode(media_type, ITEM, {"y": [value]}, 1, signature)
    with pytest.raises(NotAcceptable, match="one result, got 2 rows"):
        encode(media_type, Form("rows", INSTANCES), {"y": [value, value]}, 2, signature)


@pytest.mark.parametrize(
    ("outputs", "offered"),
    [
        (
            {"y": Tensor("float32", (2,))},
            {"application/json", "text/csv", "application/x-npy", "application/x-npz", BINARY},
        ),
        ({"y": Tensor(), "z": Tensor()}, {"application/json", "text/csv", "application/x-npz", BINARY}),
        ({"y": Tensor("str")}, {"application/json", "text/csv", "text/plain", BINARY}),
        ({"y": Text()}, {"application/json", "text/csv", "text/plain", BINARY}),
        ({"y": Json()}, {"application/json"}),
        ({"y": Image()}, {"image/png", "application/json"}),
        ({"y": File()}, {"application/octet-stream", "application/json"}),
        ({"y": File(), "z": Text()}, {"application/json"}),
    ],
)
def test_what_is_offered(outputs: dict[str, Spec], offered: set[str]) -> None:
    lines = {"application/jsonlines", "application/x-ndjson"}
    assert set(offered_types(Signature(X, outputs))) == offered | lines


@pytest.mark.parametrize(
    ("accept", "default", "outputs", "expected"),
    [
        (None, "application/json", {"y": Tensor()}, "application/json"),
        (None, "text/csv", {"y": Tensor()}, "text/csv"),
        ("*/*", "text/csv", {"y": Tensor()}, "text/csv"),
        (None, "text/csv", {"y": Json()}, "application/json"),
        (None, "application/json", {"y": Image()}, "image/png"),
        ("application/json", "application/json", {"y": Image()}, "application/json"),
        ("text/csv, */*;q=0.1", "application/json", {"y": Json()}, "application/json"),
    ],
)
def test_negotiation(accept: str | None, default: str, outputs: dict[str, Spec], expected: str) -> None:
    call = Infer(b"", None, accept, default_accept=default)
    assert negotiate(call, Signature(X, outputs)) == expected


def test_nothing_fits() -> None:
    with pytest.raises(NotAcceptable, match=r"expected application/json or .*, got text/html"):
        negotiate(Infer(b"", None, "text/html"), ONE)


@pytest.mark.parametrize(
    ("spec", "value", "media_type", "expected"),
    [
        (Text(), "grün", "text/plain", "grün".encode()),
        (Text(), "a", "application/json", b'"a"'),
        (Tensor("int64"), np.int64(3), "application/json", b"3"),
        (Tensor("float32", (2,)), np.array([1, 2], np.float32), "text/csv", b"1.0,2.0\n"),
        (File(), b"\0", "application/pdf", b"\0"),
        (Json(), {"k": np.arange(2)}, "application/json", b'{"k":[0,1]}'),
    ],
)
def test_outputs_as_files(spec: Spec, value: Any, media_type: str, expected: bytes) -> None:
    assert encode_output(spec, value, media_type) == expected


def test_one_row_as_an_object() -> None:
    columns: dict[str, Any] = {"label": ["a", "b"], "scores": np.array([[1, 2], [3, 4]])}
    found = result_object(TWO, columns, 1)
    assert encode_output(Json(), found, "application/json") == b'{"label":"b","scores":[3,4]}'
