"""Which codec reads a body: by its type, or by what it looks like where none is given."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from cases import multipart, npy, npz, png

from servekit.codecs import Limits, decode, decode_file, decode_json_item
from servekit.codecs.decode import accepted_types
from servekit.contract import Infer
from servekit.errors import InvalidInput, ServeError, TooLarge, UnsupportedMediaType
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text

LIMITS = Limits()
X = Tensor("float32", (2,))
URLENCODED = "application/x-www-form-urlencoded"
PICTURE = png(1, 1, value=9)


def read(body: bytes, content_type: str | None, limits: Limits = LIMITS, **inputs: Spec) -> Any:
    """The form's kind and the columns as lists."""
    decoded = decode(Infer(body, content_type, None), Signature(inputs, {"y": Json()}), limits)
    columns = {name: column.tolist() if isinstance(column, np.ndarray) else column for name, column in decoded.columns.items()}  # fmt: skip
    return decoded.form.kind, columns


@pytest.mark.parametrize(
    ("content_type", "body", "spec", "kind", "expected"),
    [
        ("application/json", b"[[1, 2]]", X, "rows", [[1, 2]]),
        ("APPLICATION/JSON;charset=UTF-8", b"[[1, 2]]", X, "rows", [[1, 2]]),
        ("application/vnd.acme+json", b"[[1, 2]]", X, "rows", [[1, 2]]),
        ("application/json; charset=utf-16", "[[1, 2]]".encode("utf-16"), X, "rows", [[1, 2]]),
        ("application/jsonlines", b"[1, 2]\n[3, 4]", X, "rows", [[1, 2], [3, 4]]),
        ("application/x-jsonlines", b"[1, 2]", X, "rows", [[1, 2]]),
        ("application/x-ndjson; charset=utf-8", b"[1, 2]", X, "rows", [[1, 2]]),
        ("text/csv; charset=utf-8", b"1,2\n", X, "rows", [[1, 2]]),
        ("application/x-npy", npy(np.array([[1, 2]])), X, "rows", [[1, 2]]),
        ("application/x-npy", npy(np.array([1, 2])), X, "rows", [[1, 2]]),
        ("application/x-npz", npz(x=np.array([[1, 2]])), X, "rows", [[1, 2]]),
        ("image/png", PICTURE, Image("L"), "item", [[[9]]]),
        ("application/x-image", PICTURE, Image("L"), "item", [[[9]]]),
        ("application/octet-stream", PICTURE, Image("L"), "item", [[[9]]]),
        ("image/png", PICTURE, File(), "item", [PICTURE]),
        ("application/octet-stream", b"\0", File(), "item", [b"\0"]),
        ("text/plain", "grün".encode(), Text(), "item", ["grün"]),
        ("text/plain; charset=latin-1", "grün".encode("latin-1"), Text(), "item", ["grün"]),
        ("text/plain; charset=\"us-ascii\"", b"a+b%20c", Text(), "item", ["a+b%20c"]),
        # No type, or the one that curl names for every --data.
        (None, b"hello world", Text(), "item", ["hello world"]),
        (URLENCODED, b"hello+world%21", Text(), "item", ["hello+world%21"]),
        (URLENCODED, b'{"x": 1}', Text(), "item", ['{"x": 1}']),
        ("", b" [[1, 2]]", X, "rows", [[1, 2]]),
        (URLENCODED, b'{"instances": [[1, 2]]}', X, "rows", [[1, 2]]),
        ("", b"\xef\xbb\xbf [[1, 2]]", X, "rows", [[1, 2]]),
        (URLENCODED, b"x=%5B1%2C2%5D", X, "item", [[1, 2]]),
        (URLENCODED, b"5", Tensor("int64"), "item", [5]),
        (None, PICTURE, Image("L"), "item", [[[9]]]),
        (URLENCODED, PICTURE, File(), "item", [PICTURE]),
        (None, b'{"instances": [{"b64": "AAE="}]}', File(), "rows", [b"\0\1"]),
    ],
)  # fmt: skip
def test_types(content_type: str | None, body: bytes, spec: Spec, kind: str, expected: Any) -> None:
    assert read(body, content_type, x=spec) == (kind, {"x": expected})


def test_a_form_takes_what_it_lacks_from_the_query() -> None:
    body, headers = multipart(("x", None, None, b"[1, 2]"))
    call = Infer(body, headers["Content-Type"], None, fields=(("t", "query"), ("x", "[9, 9]"), ("unknown", "")))
    decoded = decode(call, Signature({"x": X, "t": Text()}, {"y": Json()}), LIMITS)
    assert decoded.columns["t"] == ["query"]
    assert decoded.columns["x"][0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content_type", "inputs"),
    [
        ("video/mp4", {"x": X}),
        (";;;", {"x": X}),
        ("x" * 2000, {"x": X}),
        ("text/plain", {"x": X}),
        ("text/plain", {"x": Json()}),
        ("application/octet-stream", {"x": X}),
        ("application/octet-stream", {"x": Text()}),
        ("image/png", {"x": X}),
        ("image/png", {"x": Image(), "t": Text()}),
        ("text/csv", {"x": Image()}),
        ("application/x-npy", {"x": Text()}),
        ("application/x-npy", {"x": X, "z": X}),
        ("application/x-npz", {"x": X, "t": Text()}),
    ],
)
def test_a_type_that_is_not_taken(content_type: str, inputs: dict[str, Spec]) -> None:
    with pytest.raises(UnsupportedMediaType) as caught:
        read(b"x", content_type, **inputs)
    assert caught.value.message.startswith(("Content-Type: expected ", "text/csv cannot carry"))
    assert content_type[:10] in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("charset", ["klingon", "unicode_escape", "base64"])
@pytest.mark.parametrize("kind", ["application/json", "text/csv", "application/jsonlines"])
def test_a_charset_that_is_not_known(kind: str, charset: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=f"charset={charset}"):
        read(b"[[1, 2]]", f"{kind}; charset={charset}", x=X)


@pytest.mark.parametrize("content_type", [None, "application/json", "text/csv", "image/png", URLENCODED])
def test_an_empty_body(content_type: str | None) -> None:
    with pytest.raises(InvalidInput, match="empty body: expected application/json"):
        read(b"", content_type, x=X)


def test_an_error_names_the_types_that_would_do() -> None:
    signature = Signature({"p": Image()}, {"y": Json()})
    with pytest.raises(UnsupportedMediaType) as caught:
        decode(Infer(b"x", "text/html", None), signature, LIMITS)
    for kind in accepted_types(signature):
        assert kind in caught.value.message


@pytest.mark.parametrize("kind", ["application/x-npy", "application/x-npz"])
def test_rows_of_arrays_are_bounded_and_there_is_one(kind: str) -> None:
    for rows, refusal in ((0, InvalidInput), (3, TooLarge)):
        array = np.zeros((rows, 2))
        body = npy(array) if kind.endswith("npy") else npz(x=array)
        with pytest.raises(refusal, match=rf"x: expected .* rows?, got {rows}"):
            read(body, kind, Limits(max_rows=2), x=X)


def test_arrays_of_different_lengths() -> None:
    with pytest.raises(InvalidInput, match="npz: expected as many rows for every input, got a 2, b 3"):
        read(npz(a=np.zeros(2), b=np.zeros(3)), "application/x-npz", a=Tensor(), b=Tensor())


# --- Modzy's files ---


@pytest.mark.parametrize(
    ("spec", "body", "media_types", "filename", "expected"),
    [
        (X, b"[1, 2]", ("application/json",), "x", [1, 2]),
        (X, b"1,2\n", ("text/csv",), "x", [1, 2]),
        (X, b"1,2\n", (), "x.csv", [1, 2]),
        (X, npy(np.array([1, 2])), (), "x.npy", [1, 2]),
        (X, npy(np.array([[1, 2]])), (), "x.npy", [1, 2]),
        (Image("L"), PICTURE, ("image/png",), "p.png", [[9]]),
        (File(), b"\0", (), "f", b"\0"),
        (Text(), b"hello", ("text/plain",), "t.txt", "hello"),
        (Json(), b'{"a": 1}', ("application/json",), "j.json", {"a": 1}),
    ],
)
def test_files(spec: Spec, body: bytes, media_types: tuple[str, ...], filename: str, expected: Any) -> None:
    found = decode_file(spec, "x", body, media_types, filename, LIMITS)
    assert (found.tolist() if isinstance(found, np.ndarray) else found) == expected


@pytest.mark.parametrize(
    ("spec", "body", "filename", "says"),
    [
        (X, b"1,2\n3,4\n", "x.csv", "x: expected 1 line of CSV, got 2"),
        (X, npy(np.zeros((2, 2))), "x.npy", "x: expected one item, float32 of shape (2,), got 2 rows"),
        (X, b"[1]", "x.json", "x: expected float32 of shape (2,), got shape (1,)"),
        (Image(), b"text", "p.png", "x (p.png): expected an image"),
        (Text(), b"\xff", "t.txt", "expected UTF-8"),
        (Json(), b"{", "j.json", "expected JSON"),
    ],
)
def test_files_that_are_refused(spec: Spec, body: bytes, filename: str, says: str) -> None:
    with pytest.raises(ServeError) as caught:
        decode_file(spec, "x", body, (), filename, LIMITS)
    assert says in caught.value.message


def test_a_file_of_all_inputs() -> None:
    signature = Signature({"x": X, "t": Text()}, {"y": Json()})
    found = decode_json_item(json.dumps({"x": [1, 2], "t": "a"}).encode(), signature, LIMITS)
    assert found["x"].tolist() == [1, 2]
    assert found["t"] == "a"
    with pytest.raises(InvalidInput, match=r"body\.t: expected a text, got nothing"):
        decode_json_item(b'{"x": [1, 2]}', signature, LIMITS)
