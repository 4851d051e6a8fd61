"""numpy's files: every layout, and every lie in a header."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from cases import npy, npz, npz_bomb
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from servekit.codecs import npy as codec
from servekit.codecs.nouns import Limits
from servekit.errors import InvalidInput, ServeError, TooLarge

LIMITS = Limits(max_array_bytes=1_000_000)


@given(arrays.arrays(st.sampled_from(["f4", ">f8", "i2", "u1", "?"]), arrays.array_shapes(max_dims=4, min_side=0)))
def test_round_trip(array: np.ndarray[Any, Any]) -> None:
    for layout in (np.ascontiguousarray(array), np.asfortranarray(array)):
        found = codec.decode(npy(layout), "x")
        assert found.shape == array.shape
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(np.load(io.BytesIO(codec.encode(array))), array)


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "<i2", ">u2", "<i4", "<u8", "f2", "<f4", ">f4", "f8"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 4)], ids=str)
def test_the_bytes_are_those_that_numpy_writes(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    assert codec.encode(array) == npy(array)
    assert codec.encode(np.array(array, order="F")) == npy(array)


@pytest.mark.parametrize(
    "shape", ["(3)", "(03,)", "(3, )", "(3,,)", "(+3,)", "3", "[3]", "(3.0,)", "(True,)", "( 3,)", "(1_0,)"]
)
def test_heads_that_numpy_does_not_write_are_numpys_to_judge(shape: str) -> None:
    body = header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n", b"\0" * 24)
    try:
        expected = np.load(io.BytesIO(body), allow_pickle=False).shape
    except (ValueError, TypeError):
        expected = None
    try:
        found = codec.decode(body, "x").shape
    except InvalidInput:
        found = None
    assert found == expected


def test_a_bool_is_one_or_the_other() -> None:
    body = npy(np.array([False, True, True]))[:-3] + b"\0\1\x7f"
    assert codec.decode(body, "x").view(np.uint8).tolist() == [0, 1, 1]


def test_the_data_is_not_copied() -> None:
    body = npy(np.arange(1000))
    found = codec.decode(body, "x")
    assert not found.flags.owndata
    assert not found.flags.writeable


def header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (npy(np.array([{}]), allow_pickle=True), "object"),
        (npy(np.zeros(3))[:-1], "24 bytes of data, got 23"),
        (npy(np.zeros(3)) + b"x", "24 bytes of data, got 25"),
        (b"", "npy"),
        (b"\x93NUMPY", "npy"),
        (b"\x93NUMPY\x03\x00" + b"\0" * 100, "version"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }\n"), "negative"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n"), "bytes of data, got 0"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (2**9999,), }\n"), "npy"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"), "object"),
        (header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }\n", b"\0" * 8), "dtype"),
        (header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': (0, {2**62}), }}\n"), "fit memory"),
        (header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': (0, {2**70}), }}\n"), "fit memory"),
        (
            header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({'1, ' * 65}), }}\n", b"\0" * 8),
            "dimensions, got 65",
        ),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (True,), }\n", b"\0" * 8), r"sizes .*True"),
        (header("{'descr': '|S0', 'fortran_order': False, 'shape': (1000000000000,), }\n"), "numbers or str"),
        (header("{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }\n", b"\xff" * 4), "code points"),
        (header("{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }\n", b"\x00\xd8\0\0"), "code points"),
        (npy(np.array([1j])), "complex128"),
        (npy(np.array(["2026-11-21"], "M8[D]")), "datetime64"),
        (header("__import__('os').system('true')\n"), "npy"),
        (header("x" * 20000 + "\n"), "npy"),
    ],
)
def test_what_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        codec.decode(body, "x")


@given(st.binary(max_size=200), st.integers(0, 150))
def test_damage_is_refused_or_read_but_never_crashes(noise: bytes, at: int) -> None:
    body = bytearray(npy(np.zeros((2, 3))))
    body[at : at + len(noise)] = noise
    with contextlib.suppress(InvalidInput):
        codec.decode(bytes(body), "x")


@pytest.mark.parametrize("dtype", ["<U3", ">U3"])
def test_text(dtype: str) -> None:
    assert codec.decode(npy(np.array(["grü", "", "\U0001f600"], dtype)), "x").tolist() == ["grü", "", "\U0001f600"]


def test_data_at_an_odd_place_is_aligned() -> None:
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\n"
    for spaces in range(8):
        found = codec.decode(header(" " * spaces + text, struct.pack("<d", 1.5)), "x")
        assert found.flags.aligned
        assert found.tolist() == [1.5]


def test_an_array_without_dimensions_keeps_none() -> None:
    assert np.load(io.BytesIO(codec.encode(np.float32(3)))).shape == ()


def test_npz() -> None:
    found = codec.decode_npz(npz(a=np.arange(2), b=np.ones((2, 2))), ["a", "b"], LIMITS)
    assert found["a"].tolist() == [0, 1]
    again = np.load(io.BytesIO(codec.encode_npz(found)))
    assert again["b"].tolist() == [[1, 1], [1, 1]]


def encrypted() -> bytes:
    body = bytearray(npz(a=np.arange(2)))
    body[6] |= 1  # the flag in the local header
    at = body.index(b"PK\x01\x02")
    body[at + 8] |= 1  # and in the directory
    return bytes(body)


def compressed(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a.npy", npy(np.arange(2)))
    return buffer.getvalue()


def crowded() -> bytes:
    """Members enough to fill memory with what zipfile knows of each."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(1000):
            archive.writestr(f"{i}", b"")
    return buffer.getvalue()


def liar() -> bytes:
    """The directory claims fewer bytes than the member unpacks to."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(np.zeros(100_000)))
    body = bytearray(buffer.getvalue())
    at = body.index(b"PK\x01\x02")
    body[at + 24 : at + 28] = struct.pack("<I", 200)
    return bytes(body)


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (npz(a=np.arange(2)), InvalidInput, "got no b"),
        (npz(a=np.arange(2), b=np.arange(2), c=np.arange(2)), InvalidInput, "unknown or repeated array c"),
        (npz_bomb("a", 400), TooLarge, "at most 1000000 bytes unpacked"),
        (b"PK", InvalidInput, "zip archive"),
        (npz(a=np.arange(200))[:-40], InvalidInput, "zip archive"),
        (encrypted(), InvalidInput, "a.npy encrypted"),
        (compressed(zipfile.ZIP_LZMA), InvalidInput, "stored or deflated"),
        (compressed(zipfile.ZIP_BZIP2), InvalidInput, "stored or deflated"),
        (crowded(), InvalidInput, "at most 64 arrays, got 1000"),
        (liar(), InvalidInput, "npz"),
        (npz(**{f"a{i}": np.arange(1) for i in range(65)}), InvalidInput, "at most 64 arrays"),
    ],
    ids=["missing", "unknown", "bomb", "no zip", "truncated", "encrypted", "lzma", "bzip2", "crowded", "liar", "many"],
)
def test_npz_that_is_refused(body: bytes, kind: type[ServeError], says: str) -> None:
    with pytest.raises(kind, match=says):
        codec.decode_npz(body, ["a", "b"], LIMITS)


@given(st.binary(max_size=30), st.integers(0, 400))
def test_a_damaged_archive_is_refused_or_read_but_never_crashes(noise: bytes, at: int) -> None:
    body = bytearray(npz(a=np.arange(2), b=np.arange(3)))
    body[at : at + len(noise)] = noise
    with contextlib.suppress(InvalidInput, TooLarge):
        codec.decode_npz(bytes(body), ["a", "b"], LIMITS)
