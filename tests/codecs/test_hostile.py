"""Whatever a body is, a codec reads it or blames the caller: no other error, and no more memory than was agreed."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bombs import BOMBS
from cases import multipart, npy, png
from fuzzing.bodies import ENVELOPES, LIMITS, SIGNATURES, attempt
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from servekit.codecs import decode, packed, v2
from servekit.contract import Infer
from servekit.errors import CallerError, TooLarge

FUZZ = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


# --- structured nonsense ---

NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([127, 128, -129, 2**31, 2**53 + 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**30]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.5, 1e38, 3.5e38, 65504.0, 65520.0, 5e-324, -0.0]),
)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=5) | st.sampled_from(["", "AAAA", "true", "b64", "\0"])
KEYS = st.sampled_from(["x", "a", "b", "t", "p", "f", "j", "b64", "features", "instances", "", "__class__"]) | st.text(
    max_size=3
)
VALUES = st.recursive(
    LEAVES | st.lists(NUMBERS, min_size=2, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=16,
)
DOCUMENTS = st.one_of(
    VALUES,
    VALUES.map(lambda value: {"instances": value}),
    VALUES.map(lambda value: {"inputs": value}),
    VALUES.map(lambda value: {"data": {"req_data": value}}),
    st.lists(VALUES, max_size=3).map(lambda rows: {"instances": [{"x": row} for row in rows]}),
    st.lists(st.lists(NUMBERS, min_size=4, max_size=4), max_size=3).map(lambda rows: {"instances": rows}),
)


@given(document=DOCUMENTS, pad=st.sampled_from([0, 0, 2000, 10_000]))
@FUZZ
def test_json(document: Any, pad: int) -> None:
    # Long bodies take other ways through the codecs.
    attempt("application/json", json.dumps(document).encode() + b" " * pad)


TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "a", "b", "t", "nothing"]) | LEAVES,
        "shape": st.lists(st.sampled_from([0, 1, 2, 4, -1, 2**40, 2**70, 1.0, None, True]), max_size=3) | LEAVES,
        "datatype": st.sampled_from([*v2.DTYPES, "BYTES", "FP8", ""]) | LEAVES,
        "data": VALUES,
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.sampled_from([0, 1, 4, 16, -1, 2**70, 1.5, None])}
        )
        | LEAVES,
    },
)


@given(
    tensors=st.lists(TENSOR, max_size=3) | LEAVES,
    more=st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), VALUES, max_size=3),
    data=st.binary(max_size=40),
    head=st.sampled_from(["right", "none", "0", "1", "-1", "9" * 30, "x", ""]),
)
@FUZZ
def test_tensors_of_the_inference_protocol(tensors: Any, more: dict[str, Any], data: bytes, head: str) -> None:
    text = json.dumps({"inputs": tensors, **more}).encode()
    size = str(len(text)) if head == "right" else head
    attempt("application/json", text)
    attempt(v2.BINARY if head == "none" else f"{v2.BINARY};json-header-size={size}", text + data)


@given(
    rows=st.lists(
        st.lists(
            NUMBERS.map(repr)
            | st.text(max_size=4)
            | st.sampled_from(["", '"', "nan", "1e999", "\u0661", "7\x1e", "\xa07", "7\x85"]),
            max_size=5,
        ),
        max_size=4,
    ),
    ends=st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\0"]),
    header=st.sampled_from(["", "x", "a,b", "b,a"]),
    charset=st.sampled_from(["", ";charset=latin-1", ";charset=utf-16", ";charset=utf-7", ";charset=hex"]),
)
@FUZZ
def test_csv_and_json_lines(rows: list[list[str]], ends: str, header: str, charset: str) -> None:
    text = ends.join([header, *(",".join(cells) for cells in rows)]).encode("utf-8", "surrogatepass")
    attempt("text/csv" + charset, text)
    attempt("application/jsonlines" + charset, text)
    attempt("application/x-www-form-urlencoded", text)


ARRAYS = [
    np.ones((2, 4), np.float32),
    np.ones(4, ">f8"),
    np.ones((1, 2, 2), np.int8),
    np.array(7, np.uint64),
    np.array([[True, False]]),
    np.array([["a", "bc"]]),
    np.zeros((0, 4), np.float32),
    np.full((1, 4), np.nan),
    np.asfortranarray(np.ones((3, 4), np.float32)),
]


def damage(data: st.DataObject, body: bytes) -> bytes:
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        match data.draw(st.sampled_from(["cut", "drop", "insert", "change", "number"])):
            case "cut":
                del damaged[at:]
            case "drop":
                del damaged[at : at + data.draw(st.integers(1, 8))]
            case "insert":
                damaged[at:at] = data.draw(st.binary(max_size=8))
            case "change":
                damaged[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "number":
                size = data.draw(st.sampled_from([1, 2, 4, 8]))
                damaged[at : at + size] = data.draw(st.sampled_from([b"\xff", b"\x7f", b"\0", b"\x80"])) * size
    return bytes(damaged)


@given(data=st.data(), array=st.sampled_from(ARRAYS))
@FUZZ
def test_arrays(data: st.DataObject, array: np.ndarray[Any, Any]) -> None:
    attempt("application/x-npy", damage(data, npy(array)))


@given(data=st.data(), arrays=st.lists(st.sampled_from(ARRAYS), max_size=2), deflate=st.booleans())
@FUZZ
def test_archives_of_arrays(data: st.DataObject, arrays: list[np.ndarray[Any, Any]], deflate: bool) -> None:
    names = ["x"] if len(arrays) == 1 else ["a", "b"]
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for name, array in zip(names, arrays, strict=False):
            archive.writestr(f"{name}.npy", npy(array))
    attempt("application/x-npz", damage(data, buffer.getvalue()))


def pictures() -> dict[str, bytes]:
    from PIL import Image as Pillow

    found = {"png": png(5, 4, value=7)}
    for form, mode in [
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("PNG", "I;16"),
        ("PNG", "1"),
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("WEBP", "RGBA"),
        ("BMP", "RGB"),
        ("GIF", "P"),
        ("TIFF", "RGB"),
        ("TIFF", "F"),
    ]:
        buffer = BytesIO()
        exif = Pillow.Exif()
        exif[0x0112] = 6
        more = {"exif": exif} if form in ("PNG", "JPEG", "WEBP") else {}
        Pillow.new(mode, (5, 4)).save(buffer, form, **more)
        found[f"{form} {mode}"] = buffer.getvalue()
    buffer = BytesIO()
    Pillow.new("RGB", (9, 9), (10, 200, 30)).save(buffer, "TIFF", compression="tiff_lzw")
    return found | {"TIFF in LZW": buffer.getvalue()}


PICTURES = pictures()
SEEING = [SIGNATURES[name] for name in ("picture", "free picture", "all")]


@pytest.mark.parametrize("name", PICTURES)
@given(data=st.data())
@settings(FUZZ, max_examples=60)
def test_pictures(name: str, data: st.DataObject) -> None:
    body = damage(data, PICTURES[name])
    attempt("image/png", body, SEEING)
    attempt("application/octet-stream", body, SEEING)


PART = st.tuples(
    st.sampled_from(["x", "x[]", "a", "b", "t", "p", "f", "j", "", "nothing", 'q"', "\r\n"]),
    st.none() | st.sampled_from(["", "p.png", "../../etc/passwd", "a\0b", "ü.csv"]),
    st.none() | st.sampled_from(["text/csv", "application/json", "application/x-npy", "image/png", "text/plain", ";"]),
    st.binary(max_size=20)
    | st.sampled_from([b"1", b"[1, 2]", b"1,2", b"null", png(2, 2), npy(np.ones(2)), b"\r\n--frontier"]),
)


@given(
    data=st.data(), parts=st.lists(PART, max_size=6), boundary=st.sampled_from(["frontier", "f", "", '"', "x" * 300])
)
@FUZZ
def test_forms(data: st.DataObject, parts: list[Any], boundary: str) -> None:
    body, headers = multipart(*parts)
    attempt(headers["Content-Type"].replace("frontier", boundary), damage(data, body))


@given(content_type=st.text(max_size=60), body=st.binary(max_size=60))
@example(content_type="multipart/form-data; boundary*=utf-8''%41", body=b"--A--")
@example(content_type="application/json; charset=utf-16", body=b"\xff")
@example(content_type="text/plain; charset=utf-7", body=b"+2AAAAA-")
@FUZZ
def test_any_type(content_type: str, body: bytes) -> None:
    attempt(content_type, body)


# --- single cases ---

JSON_CASES = {
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep lists, not closed": b"[" * 100_000,
    "deep objects": b'{"x":' * 100_000 + b"1" + b"}" * 100_000,
    "deep lists among rows": b'{"instances":[' + b"[" * 900 + b"]" * 900 + b"]}",
    "a number of 5,000 digits": b'{"instances":[[' + b"9" * 5000 + b",2,3,4]]}",
    "1e999": b'{"instances":[[1e999,2,3,4]]}',
    "-1e999": b'{"instances":[[-1e999,2,3,4]]}',
    "an exponent of 5,000 digits": b'{"instances":[[1e' + b"9" * 5000 + b",2,3,4]]}",
    "NaN": b'{"instances":[[NaN,2,3,4]]}',
    "Infinity": b'{"instances":[[Infinity,2,3,4]]}',
    "-Infinity": b'{"instances":[[-Infinity,2,3,4]]}',
    "a lone surrogate": b'{"instances":["\\ud800"]}',
    "a lone low surrogate": b'{"instances":["\\udc00"]}',
    "surrogates in the wrong order": b'{"instances":["\\udc00\\ud800"]}',
    "a surrogate for a key": b'{"\\ud800":1}',
    "UTF-8 of a surrogate": b'{"instances":["\xed\xa0\x80"]}',
    "bad UTF-8": b'{"instances":["\xff"]}',
    "overlong UTF-8": b'{"instances":["\xc0\xaf"]}',
    "UTF-16 without saying so": '{"instances":[[1,2,3,4]]}'.encode("utf-16"),
    "UTF-32 without saying so": '{"instances":[[1,2,3,4]]}'.encode("utf-32"),
    "NUL behind": b'{"instances":[[1,2,3,4]]}\0',
    "control character in a string": b'{"instances":["\x01"]}',
    "a bad escape": b'{"instances":["\\x41"]}',
    "two documents": b'{"instances":[[1,2,3,4]]}{"instances":[[1,2,3,4]]}',
    "a comma behind": b'{"instances":[[1,2,3,4],]}',
    "comments": b'/**/{"instances":[[1,2,3,4]]}',
    "single quotes": b"{'instances':[[1,2,3,4]]}",
    "hexadecimal": b'{"instances":[[0x1,2,3,4]]}',
    "leading zero": b'{"instances":[[01,2,3,4]]}',
    "leading plus": b'{"instances":[[+1,2,3,4]]}',
    "only a minus": b'{"instances":[[-,2,3,4]]}',
    "spaces": b" " * 1000,
    "a byte order mark": b"\xef\xbb\xbf",
    "null": b"null",
}


@pytest.mark.parametrize("pad", [0, 10_000])
@pytest.mark.parametrize("name", JSON_CASES)
def test_json_that_no_predictor_of_numbers_takes(name: str, pad: int) -> None:
    call = Infer(JSON_CASES[name] + b" " * pad, "application/json", None, ENVELOPES)
    with pytest.raises(CallerError):
        decode(call, SIGNATURES["floats"], LIMITS)
    attempt("application/json", call.body)


@pytest.mark.parametrize("name", JSON_CASES)
def test_nor_does_the_short_way(name: str) -> None:
    call = Infer(b"", "application/json", None, ENVELOPES)
    read = packed.reader(call, "application/json", SIGNATURES["floats"], LIMITS)
    assert read is not None
    for body in (JSON_CASES[name], JSON_CASES[name] + b" " * 10_000):
        with pytest.raises(packed.Unusual):
            read([body])


def test_a_json_value_is_no_deeper_than_a_predictor_can_walk() -> None:
    for depth in (90, 110, 500):
        body = b'{"instances":[' + b"[" * depth + b"]" * depth + b"]}"
        call = Infer(body, "application/json", None, ENVELOPES)
        if depth < 100:
            assert decode(call, SIGNATURES["json"], LIMITS).rows == 1
        else:
            with pytest.raises(CallerError, match="100 deep"):
                decode(call, SIGNATURES["json"], LIMITS)
        assert decode(call, SIGNATURES["json"], replace(LIMITS, max_json_depth=600)).rows == 1


MANY = b"[" + b"{}," * 500_000 + b"{}]"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", MANY),
        ("application/json; charset=latin-1", MANY),
        ("application/json", MANY.replace(b"{}", b'"a"')),
        ("application/json", MANY.replace(b"{}", b"[]")),
        ("application/jsonlines", MANY),
        ("multipart/form-data; boundary=frontier", multipart(("x", "x.json", None, MANY))[0]),
        ("text/csv", b"a," * 700_000),
        ("text/csv", b"\n" * 700_000),
        ("application/jsonlines", b"\n" * 700_000),
    ],
)
def test_what_python_would_make_of_a_body_is_counted_first(content_type: str, body: bytes) -> None:
    limits = replace(LIMITS, max_array_bytes=1024 * 1024)
    with pytest.raises(TooLarge, match="at most"):
        decode(Infer(body, content_type, None, ENVELOPES), SIGNATURES["json"], limits)


HUGE = [(74 * 2**30,), (2**31, 2**31, 2), (2**62, 4), (0, 2**62), (2**63,), (10**30,)]


@pytest.mark.parametrize("shape", HUGE, ids=str)
@pytest.mark.parametrize("rows", [0, 1])
def test_an_array_is_not_allocated_on_its_heads_word(shape: tuple[int, ...], rows: int) -> None:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(16 * rows)
    attempt("application/x-npy", body)
    size = {"name": "x", "shape": list(shape), "datatype": "FP32", "parameters": {"binary_data_size": 16 * rows}}
    head = json.dumps({"inputs": [size]}).encode() if math.prod(shape) < 2**64 else b"{}"
    attempt(f"{v2.BINARY};json-header-size={len(head)}", head + bytes(16 * rows))


@pytest.mark.slow
def test_the_worst_bodies_stay_within_their_memory() -> None:
    """In a process of its own, whose address space is bounded to what each case may cost beyond its body."""
    program = Path(__file__).parents[1] / "support" / "bombs.py"
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(BOMBS)
    for result in results:
        assert result["outcome"] in ("refused", "read"), result
        assert result["outcome"] == result["expected"], result


def test_the_bound_on_memory_is_one() -> None:
    """The control: an allocation beyond the bound fails in the same process."""
    program = Path(__file__).parents[1] / "support" / "bombs.py"
    done = subprocess.run(
        [sys.executable, str(program), "--control"], capture_output=True, text=True, timeout=60, check=False
    )
    assert json.loads(done.stdout)["outcome"] == "MemoryError"
