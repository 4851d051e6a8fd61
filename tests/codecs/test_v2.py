"""Tensors of the Open Inference Protocol, version 2: in JSON and as binary data, whole and damaged."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import png
from hypothesis import given
from hypothesis import strategies as st

from servekit.codecs import ITEM, Decoded, Form, Limits, answer, decode, encode, negotiate
from servekit.codecs.decode import accepted_types
from servekit.codecs.encode import offered_types
from servekit.codecs.v2 import BINARY, DTYPES
from servekit.contract import BARE_LIST, INSTANCES, Infer
from servekit.errors import InvalidInput, NotAcceptable, TooLarge, Unprocessable, UnsupportedMediaType
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text
from servekit.testing import Client

LIMITS = Limits(max_rows=1000)
PAIR: dict[str, Spec] = {"x": Tensor("float32", (2,)), "t": Text()}
OUT: dict[str, Spec] = {"y": Tensor("float32", ())}


def tensor(name: str, shape: list[int], datatype: str, data: Any = None, size: int | None = None) -> dict[str, Any]:
    rest: dict[str, Any] = {"data": data} if size is None else {"parameters": {"binary_data_size": size}}
    return {"name": name, "shape": shape, "datatype": datatype, **rest}


def request(*tensors: dict[str, Any], data: bytes = b"", **more: Any) -> tuple[bytes, str]:
    head = json.dumps({"inputs": tensors, **more}).encode()
    return head + data, f"{BINARY};json-header-size={len(head)}"


def read(body: bytes, content_type: str, inputs: dict[str, Spec], outputs: dict[str, Spec] = OUT) -> Decoded:
    return decode(Infer(body, content_type, None), Signature(inputs, outputs), LIMITS)


def items(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def plain(column: Any) -> Any:
    return column.tolist() if isinstance(column, np.ndarray) else column


@pytest.mark.parametrize(
    ("spec", "entry", "data", "expected"),
    [
        (Tensor("float32", (2,)), tensor("x", [2, 2], "FP32", [1, 2, 3, 4]), b"", [[1, 2], [3, 4]]),
        (Tensor("float32", (2,)), tensor("x", [2, 2], "FP32", [[1, 2], [3, 4]]), b"", [[1, 2], [3, 4]]),
        (Tensor("float32", (2,)), tensor("x", [2], "FP64", [1, 2]), b"", [[1, 2]]),
        (Tensor("int64", (None,)), tensor("x", [1, 3], "INT32", [1, 2, 3]), b"", [[1, 2, 3]]),
        (Tensor("bool"), tensor("x", [2], "BOOL", [True, False]), b"", [True, False]),
        (Tensor("str"), tensor("x", [2], "BYTES", ["a", "b"]), b"", ["a", "b"]),
        (Text(), tensor("x", [2], "BYTES", ["a", "b"]), b"", ["a", "b"]),
        (Text(), tensor("x", [2, 1], "BYTES", [["a"], ["b"]]), b"", ["a", "b"]),
        (File(), tensor("x", [1], "BYTES", ["AAE="]), b"", [b"\0\1"]),
        (Image("L", 1, 2), tensor("x", [1, 1, 2], "UINT8", [7, 8]), b"", [[[7, 8]]]),
        (Tensor("float32", (2,)), tensor("x", [2, 2], "FP32", size=16), np.arange(4, dtype="<f4").tobytes(), [[0, 1], [2, 3]]),
        (Tensor("float32"), tensor("x", [2], "FP16", size=4), np.array([0.5, 1], "<f2").tobytes(), [0.5, 1]),
        (Tensor("bool"), tensor("x", [3], "BOOL", size=3), b"\0\1\2", [False, True, True]),
        (Tensor("str", (1,)), tensor("x", [2, 1], "BYTES", size=12), items(b"ab", b"cd"), [["ab"], ["cd"]]),
        (Text(), tensor("x", [2, 1], "BYTES", size=11), items(b"", "grü"[:2].encode() + b"e"), ["", "gre"]),
        (File(), tensor("x", [1], "BYTES", size=6), items(b"\0\xff"), [b"\0\xff"]),
        (Image("L"), tensor("x", [1], "BYTES", size=len(png(1, 1, value=9)) + 4), items(png(1, 1, value=9)), [[[9]]]),
        (Image("L", 1, 2), tensor("x", [1, 1, 2], "UINT8", size=2), b"\7\x08", [[[7, 8]]]),
    ],
)  # fmt: skip
def test_inputs(spec: Spec, entry: dict[str, Any], data: bytes, expected: Any) -> None:
    body, content_type = request(entry, data=data)
    found = read(body, content_type, {"x": spec})
    assert found.form.kind == "v2"
    assert plain(found.columns["x"]) == expected
    assert found.rows == len(expected)
    if not data:
        assert plain(read(body, "application/json", {"x": spec}).columns["x"]) == expected
        assert plain(read(body, BINARY, {"x": spec}).columns["x"]) == expected, "no size: all is head"


def test_several_inputs_in_any_order_by_json_and_by_bytes() -> None:
    body, content_type = request(
        tensor("t", [2], "BYTES", size=10),
        tensor("x", [2, 2], "FP32", size=16),
        data=items(b"a", b"b") + np.arange(4, dtype="<f4").tobytes(),
        id="7",
        outputs=[{"name": "y", "parameters": {"binary_data": False}}],
    )
    found = read(body, content_type, PAIR)
    assert {name: plain(column) for name, column in found.columns.items()} == {"x": [[0, 1], [2, 3]], "t": ["a", "b"]}
    assert list(found.columns) == ["x", "t"]
    assert found.form == Form("v2", None, {"id": "7"}, {"y": False})


def test_aligned_numbers_are_a_view_on_the_body() -> None:
    entry = tensor("x", [4], "FP32", size=16)
    head = json.dumps({"inputs": [entry]}).encode()
    head += b" " * (-len(head) % 8)
    body = head + np.arange(4, dtype="<f4").tobytes()
    aligned = read(body, f"{BINARY};json-header-size={len(head)}", {"x": Tensor()}).columns["x"]
    assert isinstance(aligned, np.ndarray)
    assert not aligned.flags.writeable
    moved = read(b" " + body, f"{BINARY};json-header-size={len(head) + 1}", {"x": Tensor()}).columns["x"]
    assert isinstance(moved, np.ndarray)
    assert moved.flags.aligned
    assert plain(moved) == plain(aligned) == [0, 1, 2, 3]


X: dict[str, Spec] = {"x": Tensor("float32", (2,))}
FOUR = np.zeros(4, "<f4").tobytes()


@pytest.mark.parametrize(
    ("inputs", "entries", "data", "says"),
    [
        (X, [tensor("z", [1, 2], "FP32", [1, 2])], b"", 'inputs[0].name: expected x, got the string "z"'),
        (X, [tensor("x", [1, 2], "FP32", [1, 2])] * 2, b"", "inputs[1].name: expected every input once, got x again"),
        (X, [tensor("x", [1, 2], "FP32", [1, 2]), 5], b"", "inputs[1]: expected an object"),
        (X, [tensor("x", [1, -2], "FP32", [1, 2])], b"", "inputs[0].shape[1]: expected a size of 0 or more, got -2"),
        (X, [tensor("x", [1] * 33, "FP32", [1])], b"", "inputs[0].shape: expected a list of at most 32 sizes"),
        (X, [tensor("x", [1, 2], "FP99", [1, 2])], b"", "inputs[0].datatype: expected BOOL or FP16"),
        (X, [tensor("x", [1, 2], "BYTES", ["a", "b"])], b"", "inputs[0].datatype"),
        ({"x": Text()}, [tensor("x", [1], "FP32", [1])], b"", "inputs[0].datatype: expected BYTES for a text"),
        ({"x": Text()}, [tensor("x", [1, 2], "BYTES", ["a", "b"])], b"", "inputs[0].shape: expected [rows] or [rows, 1]"),
        ({"x": Text()}, [tensor("x", [1], "BYTES", [7])], b"", "inputs[0].data[0]: expected a text, got 7"),
        (X, [tensor("x", [1, 2], "FP32", [1, 2, 3])], b"", "inputs[0].data: expected 2 values for the shape [1, 2], got 3"),
        (X, [tensor("x", [1, 2], "FP32", [1, None])], b"", "inputs[0].data[1]: expected"),
        (X, [tensor("x", [1, 2], "FP32", [1, True])], b"", "inputs[0].data[1]: expected"),
        (X, [tensor("x", [1, 2], "FP32", [1, 1e39])], b"", "inputs[0].data[1]: expected a float32"),
        (X, [tensor("x", [1, 2], "FP32", [[1], [2]])], b"", "inputs[0].data: expected float32 of shape (1, 2), got shape (2, 1)"),
        (X, [tensor("x", [1, 2], "FP32", 5)], b"", "inputs[0].data: expected a list, got 5"),
        (X, [tensor("x", [1, 3], "FP32", [1, 2, 3])], b"", "x: expected rows of float32 of shape (2,), got rows of shape (3,)"),
        (X, [tensor("x", [0, 2], "FP32", [])], b"", "x: expected at least 1 row, got 0 rows"),
        (X, [tensor("x", [0, 2**62, 2**62], "FP32", [])], b"", "inputs[0].shape: expected sizes that fit memory"),
        (X, [tensor("x", [2, 2], "FP32", size=15)], FOUR[:15], "inputs[0]: expected 16 bytes for float32 of shape [2, 2], got 15"),
        (X, [tensor("x", [2, 2], "FP32", size=16)], FOUR[:15], "binary_data_size: expected at most the 15 bytes"),
        (X, [tensor("x", [2, 2], "FP32", size=2**62)], FOUR, "binary_data_size: expected at most the 16 bytes"),
        (X, [tensor("x", [2, 2], "FP32", size=-1)], FOUR, "binary_data_size: expected at most the 16 bytes that are left behind the JSON, got -1"),
        (X, [tensor("x", [2, 2], "FP32", size=16)], FOUR + b"x", "body: expected 16 bytes of binary data behind the JSON, got 17"),
        (X, [tensor("x", [2**40, 2], "FP32", size=16)], FOUR, "inputs[0]: expected 8796093022208 bytes"),
        (X, [{**tensor("x", [2, 2], "FP32", size=16), "data": [1]}], FOUR, "either data or binary_data_size"),
        (X, [tensor("x", [2, 2], "FP32", size=16)], np.full(4, np.nan, "<f8").tobytes(), "body: expected 16 bytes"),
        ({"x": Tensor("int8")}, [tensor("x", [2], "INT16", size=4)], np.array([1, 300], "<i2").tobytes(), "x: expected rows of int8 of shape (), got int16 values that do not fit"),
        ({"x": Tensor("bool")}, [tensor("x", [2], "UINT8", size=2)], b"\0\1", "do not fit"),
        ({"x": Text()}, [tensor("x", [2], "BYTES", size=6)], items(b"ab"), "inputs[0]: expected 2 elements of BYTES, got 6 bytes"),
        ({"x": Text()}, [tensor("x", [1], "BYTES", size=6)], b"\xff\xff\xff\xffab", "inputs[0]: element 0 of BYTES claims 4294967295 bytes, got 2"),
        ({"x": Text()}, [tensor("x", [2], "BYTES", size=9)], items(b"ab") + b"\0\0\0", "inputs[0]: element 1 of BYTES"),
        ({"x": Text()}, [tensor("x", [1], "BYTES", size=7)], items(b"ab") + b"x", "inputs[0]: expected 6 bytes for 1 elements"),
        ({"x": Text()}, [tensor("x", [1], "BYTES", size=6)], items(b"\xff\xff"), "inputs[0][0]: expected UTF-8 text"),
        ({"x": Text()}, [tensor("x", [2**50], "BYTES", size=6)], items(b"ab"), "elements of BYTES, got 6 bytes"),
        (PAIR, [tensor("x", [1, 2], "FP32", [1, 2])], b"", "inputs: expected x, t, got no t"),
        (PAIR, [tensor("x", [2], "FP32", [1, 2]), tensor("t", [2], "BYTES", ["a", "b"])], b"", "inputs: expected as many rows for every input, got x 1, t 2"),
    ],
)  # fmt: skip
def test_what_is_refused(inputs: dict[str, Spec], entries: list[Any], data: bytes, says: str) -> None:
    body, content_type = request(*entries, data=data)
    with pytest.raises(InvalidInput) as caught:
        read(body, content_type, inputs)
    assert says in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"id": 7}, "id: expected a string, got 7"),
        ({"outputs": {}}, None),
        ({"outputs": 7}, "outputs: expected a list of outputs, got 7"),
        ({"outputs": [{"name": "z"}]}, 'outputs[0].name: expected y, got the string "z"'),
        ({"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "outputs[0].parameters.binary_data: expected true or false"),
        ({"parameters": {"binary_data_output": "no"}}, "parameters.binary_data_output: expected true or false"),
        ({"parameters": 7, "anything": None}, None),
    ],
)  # fmt: skip
def test_what_else_a_request_says(more: dict[str, Any], says: str | None) -> None:
    body, content_type = request(tensor("x", [1, 2], "FP32", [1, 2]), **more)
    if says is None:
        assert read(body, content_type, X).rows == 1
        return
    with pytest.raises(InvalidInput) as caught:
        read(body, content_type, X)
    assert says in caught.value.message


@pytest.mark.parametrize("size", ["-1", "x", "", "9" * 30, "100000", "1e1", "٣"])
def test_the_size_of_the_head_is_not_believed(size: str) -> None:
    body, _ = request(tensor("x", [1, 2], "FP32", [1, 2]))
    with pytest.raises(InvalidInput, match="Content-Type: expected json-header-size to be at most"):
        read(body, f'{BINARY};json-header-size="{size}"', X)


@pytest.mark.parametrize("head", [b"[]", b"7", b"{}", b'{"inputs": {}}', b'{"inputs": []}', b'{"inputs": null}'])
def test_a_head_without_tensors(head: bytes) -> None:
    with pytest.raises(InvalidInput, match="inputs: expected a list of tensors"):
        read(head, BINARY, X)


def test_rows_are_bounded() -> None:
    body, content_type = request(tensor("x", [1001], "BYTES", size=4004), data=bytes(4004))
    with pytest.raises(TooLarge, match="x: expected at most 1000 rows, got 1001"):
        read(body, content_type, {"x": Text()})


def test_json_that_only_looks_like_tensors() -> None:
    entry = tensor("x", [1], "FP32", [1])
    body = json.dumps({"inputs": [entry]}).encode()
    assert read(body, "application/json", {"x": Json()}).columns == {"x": [entry]}
    with pytest.raises(InvalidInput):
        read(body, "application/json", {"inputs": Tensor("float32", (1,))})
    call = Infer(body, "application/json", None, (INSTANCES, BARE_LIST))
    with pytest.raises(InvalidInput, match="got an object with inputs"):  # a route that has no such form
        decode(call, Signature({"x": Tensor()}, OUT), LIMITS)


# --- answers ---


def split(body: bytes, media_type: str) -> tuple[dict[str, Any], bytes]:
    kind, _, size = media_type.partition(";json-header-size=")
    assert kind == BINARY
    assert int(size) % 8 == 0
    return json.loads(body[: int(size)]), body[int(size) :]


COLUMNS: dict[str, Any] = {"y": np.array([[0.5, 1], [2, 3]], np.float32), "label": ["a", "grün"]}
OUTPUTS = Signature(X, {"y": Tensor("float32", (2,)), "label": Text()})


def test_a_json_answer() -> None:
    found = json.loads(encode("application/json", Form("v2", None, {"id": "7"}), COLUMNS, 2, OUTPUTS))
    assert found == {
        "model_name": "model",
        "id": "7",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [0.5, 1, 2, 3]},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["a", "grün"]},
        ],
    }
    some = json.loads(encode("application/json", Form("v2", outputs={"label": True}), COLUMNS, 2, OUTPUTS))
    assert [output["name"] for output in some["outputs"]] == ["label"]


@pytest.mark.parametrize("form", [Form("v2"), ITEM, Form("rows", INSTANCES)], ids=["v2", "item", "rows"])
def test_a_binary_answer(form: Form) -> None:
    head, data = split(*answer(BINARY, form, COLUMNS, 2, OUTPUTS))
    assert head["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}},
        {"name": "label", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 14}},
    ]
    assert np.frombuffer(data[:16], "<f4").tolist() == [0.5, 1, 2, 3]
    assert data[16:] == items(b"a", "grün".encode())
    assert encode(BINARY, form, COLUMNS, 2, OUTPUTS) == answer(BINARY, form, COLUMNS, 2, OUTPUTS)[0]


def test_an_output_that_shall_not_be_binary() -> None:
    form = Form("v2", outputs={"label": False, "y": True})
    head, data = split(*answer(BINARY, form, COLUMNS, 2, OUTPUTS))
    assert head["outputs"][0] == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["a", "grün"]}
    assert len(data) == 16


def test_the_other_types_need_no_parameter() -> None:
    body, media_type = answer("application/json", Form("rows", INSTANCES), COLUMNS, 2, OUTPUTS)
    assert media_type == "application/json"
    assert body == encode("application/json", Form("rows", INSTANCES), COLUMNS, 2, OUTPUTS)


@pytest.mark.parametrize(
    ("spec", "column", "datatype", "data"),
    [
        (Tensor("float16"), np.array([0.1], np.float16), "FP16", [0.099975586]),
        (Tensor("bool"), np.array([True]), "BOOL", [True]),
        (Tensor("uint64"), np.array([2**64 - 1], np.uint64), "UINT64", [2**64 - 1]),
        (Tensor("int64"), [3], "INT64", [3]),
        (Tensor("str"), np.array(["a"], object), "BYTES", ["a"]),
        (Json(), [{"k": [1]}], "BYTES", ['{"k":[1]}']),
        (File(), [b"\0\1"], "BYTES", ["AAE="]),
    ],
)
def test_outputs_in_json(spec: Spec, column: Any, datatype: str, data: Any) -> None:
    found = json.loads(encode("application/json", Form("v2"), {"y": column}, 1, Signature(X, {"y": spec})))
    assert found["outputs"] == [{"name": "y", "datatype": datatype, "shape": [1], "data": data}]


def test_what_an_answer_cannot_carry() -> None:
    nan = {"y": np.array([[1, 2], [3, np.nan]], np.float32), "label": ["a", "b"]}
    with pytest.raises(Unprocessable, match=r"output y, row 1: .*NaN"):
        encode("application/json", Form("v2"), nan, 2, OUTPUTS)
    assert b"null" in encode("application/json", Form("v2"), nan, 2, OUTPUTS, nan="null")
    assert encode(BINARY, Form("v2"), nan, 2, OUTPUTS)
    for spec, column in (
        (Tensor("float32", (None,)), [np.zeros(1), np.zeros(2)]),
        (Tensor("str", (None,)), [np.array(["a"], object), np.array(["a", "b"], object)]),
    ):
        with pytest.raises(NotAcceptable, match="output 'y'"):
            encode(BINARY, Form("v2"), {"y": column}, 2, Signature(X, {"y": spec}))


def test_who_takes_and_gives_binary_tensors() -> None:
    assert BINARY in accepted_types(Signature(PAIR, OUT))
    assert BINARY not in accepted_types(Signature({"x": Json()}, OUT))
    assert BINARY in offered_types(OUTPUTS)
    assert BINARY not in offered_types(Signature(X, {"y": Json()}))
    assert BINARY not in offered_types(Signature(X, {"y": Image()}))
    with pytest.raises((UnsupportedMediaType, InvalidInput)):
        read(b'{"inputs": []}x', BINARY, {"x": Json()})


@pytest.mark.parametrize(
    ("content_type", "accept", "expected"),
    [
        (f"{BINARY};json-header-size=5", None, BINARY),
        (f"{BINARY};json-header-size=5", "*/*", BINARY),
        (f"{BINARY};json-header-size=5", "application/json", "application/json"),
        ("application/json", f"{BINARY};json-header-size=0", BINARY),
        ("application/json", None, "application/json"),
    ],
)
def test_negotiation(content_type: str, accept: str | None, expected: str) -> None:
    assert negotiate(Infer(b"", content_type, accept), OUTPUTS) == expected


PREDICTOR = """
from servekit import Predictor, Tensor

class Sum(Predictor):
    inputs = {"x": Tensor("float32", (2,))}
    outputs = {"y": Tensor("float32", ())}

    def predict(self, x):
        return x.sum(1)
"""


def test_through_a_whole_server(tmp_path: Path) -> None:
    (tmp_path / "predictor.py").write_text(PREDICTOR)
    body, content_type = request(tensor("x", [2, 2], "FP32", size=16), data=np.ones(4, "<f4").tobytes(), id="7")
    with Client(f"{tmp_path}/predictor.py:Sum", platform="sagemaker") as client:
        for _ in range(2):  # what one caller is sent does not depend on what others were
            reply = client.post("/invocations", content=body, headers={"Content-Type": content_type})
            head, data = split(reply.content, reply.headers["content-type"])
            assert head["id"] == "7"
            assert np.frombuffer(data, "<f4").tolist() == [2, 2]
            reply = client.post("/invocations", json={"instances": [[1, 2]]})
            assert reply.json() == {"predictions": [3]}
            reply = client.post("/invocations", json={"inputs": [tensor("x", [1, 2], "FP32", [1, 2])]})
            assert reply.headers["content-type"] == "application/json"
            assert reply.json()["outputs"][0]["data"] == [3]


@given(
    dtype=st.sampled_from(sorted(DTYPES.values())),
    shape=st.lists(st.integers(0, 3), max_size=2),
    rows=st.integers(1, 3),
    data=st.data(),
)
def test_what_is_sent_is_what_comes_back(dtype: str, shape: list[int], rows: int, data: st.DataObject) -> None:
    size = rows * int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = data.draw(st.binary(min_size=size, max_size=size))
    array = np.frombuffer(bytes(byte & 1 for byte in raw), bool) if dtype == "bool" else np.frombuffer(raw, dtype)
    array = array.reshape(rows, *shape)
    spec = Tensor(dtype, tuple(shape))
    body, media_type = answer(BINARY, ITEM, {"x": array}, rows, Signature(X, {"x": spec}))
    head, payload = split(body, media_type)
    again, content_type = request(*head["outputs"], data=payload)
    found = read(again, content_type, {"x": spec}).columns["x"]
    assert isinstance(found, np.ndarray)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


@given(data=st.data())
def test_damaged_bodies(data: st.DataObject) -> None:
    whole, content_type = request(
        tensor("t", [2], "BYTES", size=11),
        tensor("x", [2, 2], "FP32", size=16),
        data=items(b"a", b"bc") + np.arange(4, dtype="<f4").tobytes(),
        outputs=[{"name": "y"}],
    )
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        match data.draw(st.sampled_from(["cut", "drop", "change", "insert", "digit"])):
            case "cut":
                del damaged[at:]
            case "drop":
                del damaged[at : at + data.draw(st.integers(1, 8))]
            case "insert":
                damaged[at:at] = data.draw(st.binary(max_size=8))
            case "change" if at < len(damaged):
                damaged[at] = data.draw(st.integers(0, 255))
            case "digit":
                places = [i for i, byte in enumerate(damaged) if chr(byte).isdigit()]
                if places:
                    damaged[data.draw(st.sampled_from(places))] = data.draw(st.integers(ord("0"), ord("9")))
    with contextlib.suppress(InvalidInput, TooLarge):
        found = read(bytes(damaged), content_type, PAIR)
        assert {len(column) for column in found.columns.values()} == {found.rows}
