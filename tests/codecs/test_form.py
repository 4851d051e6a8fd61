"""Forms: files and fields by input name."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from cases import multipart, npy, png
from hypothesis import given
from hypothesis import strategies as st

from servekit.codecs import form
from servekit.codecs.nouns import Limits
from servekit.errors import InvalidInput, ServeError, TooLarge
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text

LIMITS = Limits(max_form_parts=10, max_form_field_bytes=100)
Part = tuple[str, str | None, str | None, bytes]
ALL: dict[str, Spec] = {
    "picture": Image("L", 1, 1),
    "blob": File(),
    "note": Text(),
    "x": Tensor("float32", (2,)),
    "any": Json(),
}
WHOLE: list[Part] = [
    ("picture", "p.png", "image/png", png(1, 1, value=9)),
    ("blob", "b.bin", None, b"\0\r\n--x"),
    ("note", None, None, "grün".encode()),
    ("x", None, None, b"[1, 2]"),
    ("any", None, None, b'{"k": 1}'),
]


def read(parts: list[Part], fields: tuple[tuple[str, str], ...] = (), **inputs: Spec) -> Any:
    body, _ = multipart(*parts)
    decoded = form.decode(body, "frontier", fields, Signature(inputs or ALL, {"y": Json()}), LIMITS)
    columns = {
        name: column.tolist() if hasattr(column, "tolist") else column for name, column in decoded.columns.items()
    }
    return decoded.rows, decoded.form.kind, columns


def test_every_kind_of_input() -> None:
    assert read(WHOLE) == (
        1,
        "item",
        {"picture": [[[9.0]]], "blob": [b"\0\r\n--x"], "note": ["grün"], "x": [[1, 2]], "any": [{"k": 1}]},
    )


@pytest.mark.parametrize("name", ["picture", "picture[]"])
def test_several_files_are_several_rows(name: str) -> None:
    parts: list[Part] = [(name, f"{i}.png", "image/png", png(1, 1, value=i)) for i in (1, 2)]
    assert read(parts, picture=Image("L", 1, 1)) == (2, "rows", {"picture": [[[1.0]], [[2.0]]]})


@pytest.mark.parametrize(
    ("part", "spec", "expected"),
    [
        (("x", "x.npy", "application/x-npy", npy(np.array([1.0, 2.0]))), Tensor("float32", (2,)), [[1, 2]]),
        (("x", "x.bin", "application/octet-stream", npy(np.array([1, 2]))), Tensor("float32", (2,)), [[1, 2]]),
        (("x", "x.json", "application/json", b"[1, 2]"), Tensor("float32", (2,)), [[1, 2]]),
        (("x", None, None, b"3"), Tensor("int64"), [3]),
        (("x", None, None, b"a b"), Tensor("str"), ["a b"]),
        (("x", "t.txt", "text/plain", b"hello"), Text(), ["hello"]),
        (("x", None, None, b"no json"), Json(), ["no json"]),
        (("x", "x.csv", "text/csv", b"1,2\n"), Tensor("float32", (2,)), [[1, 2]]),
    ],
)
def test_values_by_what_they_are(part: Part, spec: Spec, expected: Any) -> None:
    assert read([part], x=spec)[2] == {"x": expected}


def test_query_arguments_fill_in_but_do_not_override() -> None:
    parts: list[Part] = [("a", None, None, b"1")]
    found = read(parts, (("a", "7"), ("b", "2"), ("c", "3")), a=Tensor("int64"), b=Tensor("int64"))
    assert found[2] == {"a": [1], "b": [2]}


@pytest.mark.parametrize(
    ("parts", "inputs", "kind", "says"),
    [
        ([("image", "a.png", None, b"x")], {"picture": Image()}, InvalidInput, "image: unknown file field, expected picture"),
        ([("other", None, None, b"x")], {"picture": Image()}, InvalidInput, "got the fields other"),
        ([], {"picture": Image()}, InvalidInput, "got the fields none"),
        ([("picture", None, None, b"x")], {"picture": Image()}, InvalidInput, "picture: expected an uploaded file"),
        ([("picture", "a.png", None, b"x")], {"picture": Image()}, InvalidInput, "picture (a.png): expected an image"),
        ([("x", None, None, b"[1]")], {"x": Tensor("float32", (2,))}, InvalidInput, "x: expected float32 of shape (2,)"),
        ([("x", None, None, b"one")], {"x": Tensor("int64")}, InvalidInput, 'x: expected int64 of shape (), got the string "one"'),
        ([("x", "x.json", "application/json", b"{broken")], {"x": Json()}, InvalidInput, "x (x.json): expected a JSON value, got an error"),
        ([("x", "x.csv", "text/csv", b"1,2\n3,4\n")], {"x": Tensor("float32", (2,))}, InvalidInput, "x: expected 1 line of CSV, got 2"),
        ([("x", "x.csv", "text/csv", b"1,a\n")], {"x": Tensor("float32", (2,))}, InvalidInput, "line 1, column 2"),
        ([("x", None, None, b"\xff")], {"x": Text()}, InvalidInput, "x: expected UTF-8"),
        ([("x", "a.npy", None, npy(np.zeros(3)))], {"x": Tensor("float32", (2,))}, InvalidInput, "x (a.npy)"),
        ([("a", None, None, b"1")] * 2 + [("b", None, None, b"1")], {"a": Json(), "b": Json()}, InvalidInput, "a 2, b 1"),
        ([("x", None, None, b"y" * 101)], {"x": Text()}, TooLarge, "x: expected a field of at most 100 bytes, got 101"),
        ([(f"f{i}", None, None, b"") for i in range(11)], {"x": Text()}, TooLarge, "at most 10 parts"),
    ],
)  # fmt: skip
def test_what_is_refused(parts: list[Part], inputs: dict[str, Spec], kind: type[ServeError], says: str) -> None:
    with pytest.raises(kind) as caught:
        read(parts, **inputs)
    assert says in caught.value.message


@pytest.mark.parametrize("boundary", [None, "", "other", "x" * 5000])
def test_boundaries(boundary: str | None) -> None:
    body, _ = multipart(("x", None, None, b"1"))
    with pytest.raises(ServeError):
        form.decode(body, boundary, (), Signature({"x": Json()}, {"y": Json()}), LIMITS)


@given(st.integers(0, 400), st.binary(max_size=20))
def test_damage_is_refused_or_read_but_never_crashes(at: int, noise: bytes) -> None:
    body = bytearray(multipart(*WHOLE)[0])
    body[at : at + len(noise)] = noise
    with contextlib.suppress(InvalidInput, TooLarge):
        form.decode(bytes(body), "frontier", (), Signature(ALL, {"y": Json()}), LIMITS)


def test_urlencoded_fields() -> None:
    signature = Signature({"a": Tensor("int64"), "t": Text()}, {"y": Json()})
    decoded = form.decode_urlencoded(b"a=1&t=x+y%21", (), signature, LIMITS)
    assert decoded is not None
    assert decoded.columns["t"] == ["x y!"]
    assert form.decode_urlencoded(b"hello world", (), signature, LIMITS) is None


def test_uploads_of_one_body_are_bounded_together() -> None:
    body, _ = multipart(*[("picture", f"{i}.png", "image/png", png(10, 10)) for i in range(5)])
    signature = Signature({"picture": Image("L")}, {"y": Json()})
    with pytest.raises(TooLarge, match=r"picture \(4.png\): expected at most 1600 bytes of pixels in one body"):
        form.decode(body, "frontier", (), signature, Limits(max_array_bytes=1600))
    decoded = form.decode(body, "frontier", (), signature, Limits(max_array_bytes=2000))
    assert decoded.rows == 5
