"""Candidates for the codecs, side by side: `python -m benchmarks.codecs` prints Markdown tables of microseconds.

One thread, the best of several runs, on inputs made here. What is not installed is left out of the table.
"""

from __future__ import annotations

import importlib.util
import io
import json
import struct
import timeit
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image as Pillow

from servekit.codecs import Form, Limits, answer, decode, encode, npy, quick
from servekit.codecs.jsonbody import decode_document
from servekit.codecs.v2 import BINARY
from servekit.contract import INSTANCES, Infer
from servekit.signature import Signature, Tensor

REPEATS = 5
SECONDS_PER_RUN = 0.05
LIMITS = Limits()
NUMPY = orjson.OPT_SERIALIZE_NUMPY
ROWS = Form("rows", INSTANCES)

Candidates = dict[str, Callable[[], Any]]


def main() -> None:
    installed = {name: importlib.util.find_spec(name) is not None for name in ("msgspec", "simdjson", "simplejpeg")}
    random = np.random.default_rng(0)
    arrays = {
        f"{rows} x {'x'.join(map(str, shape)) or 'scalar'}": random.random((rows, *shape)).astype(np.float32)
        for rows, shape in ((1, (4,)), (32, (4,)), (1000, (4,)), (1, (784,)), (100, (784,)), (1, (28, 28)), (1000, ()))
    }
    _table("JSON to float32", {title: json_readers(array, installed) for title, array in arrays.items()})
    _table("float32 to JSON", {title: json_writers(array) for title, array in arrays.items()})
    _table("Binary", {"1000 x 150 float32": binary(random.random((1000, 150)).astype(np.float32))})
    _table(
        "JPEG to uint8", {f"{w}x{h}": jpegs(_photo(w, h), installed) for w, h in ((224, 224), (640, 480), (1920, 1080))}
    )
    _draft_differences()


def json_readers(array: NDArray[np.float32], installed: dict[str, bool]) -> Candidates:
    body = orjson.dumps({"instances": array}, option=NUMPY)
    shape = array.shape[1:]
    signature = Signature({"x": Tensor("float32", shape)}, {"y": Tensor("float32")})
    call = Infer(body, "application/json", None)

    def packed() -> Any:
        level = orjson.loads(body)["instances"]
        for _ in shape:
            level = list(chain.from_iterable(level))
        return np.frombuffer(struct.pack(f"={len(level)}f", *level), np.float32)

    found: Candidates = {
        "json + numpy": lambda: np.array(json.loads(body)["instances"], np.float32),
        "orjson, only parsed": lambda: orjson.loads(body),
        "orjson + numpy": lambda: np.array(orjson.loads(body)["instances"], np.float32),
        "orjson + struct": packed,
    }
    if installed["msgspec"]:
        import msgspec

        typed: Any = float
        for _ in range(array.ndim):
            typed = list[typed]
        decoder = msgspec.json.Decoder(dict[str, typed])
        found["msgspec + numpy"] = lambda: np.array(decoder.decode(body)["instances"], np.float32)
    if installed["simdjson"]:
        import simdjson

        def buffered() -> Any:
            document: Any = simdjson.Parser().parse(body)
            return np.frombuffer(document["instances"].as_buffer(of_type="d"), np.float64).astype(np.float32)

        found["simdjson's buffer"] = buffered
    found["servekit, without simdjson"] = lambda: decode_document(
        call, orjson.loads(body), signature, LIMITS, bools=False
    )
    found[f"servekit (simdjson from {quick.MIN_BYTES} bytes)"] = lambda: decode(call, signature, LIMITS)
    return found


def json_writers(array: NDArray[np.float32]) -> Candidates:
    signature = Signature({"x": Tensor("float32")}, {"y": Tensor("float32", array.shape[1:])})
    return {
        "json + tolist": lambda: json.dumps({"predictions": array.tolist()}),
        "orjson + tolist": lambda: orjson.dumps({"predictions": array.tolist()}),
        "orjson, array": lambda: orjson.dumps({"predictions": array}, option=NUMPY),
        "servekit": lambda: encode("application/json", ROWS, {"y": array}, len(array), signature),
    }


def binary(array: NDArray[np.float32]) -> Candidates:
    file = npy.encode(array)
    tensor = Tensor("float32", array.shape[1:])
    signature = Signature({"y": tensor}, {"y": tensor})
    body, content_type = answer(BINARY, ROWS, {"y": array}, len(array), signature)
    head, _, data = body.partition(b"}]}")
    sent = head.replace(b'"outputs"', b'"inputs"') + b"}]} " + data
    call = Infer(sent, content_type, None)

    def saved() -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    return {
        "npy: numpy.load": lambda: np.load(io.BytesIO(file)),
        "npy: servekit reads": lambda: npy.decode(file, "x"),
        "npy: numpy.save": saved,
        "npy: servekit writes": lambda: npy.encode(array),
        "V2: servekit reads": lambda: decode(call, signature, LIMITS),
        "V2: servekit writes": lambda: answer(BINARY, ROWS, {"y": array}, len(array), signature),
    }


def jpegs(body: bytes, installed: dict[str, bool]) -> Candidates:
    found: Candidates = {"Pillow": lambda: np.asarray(Pillow.open(io.BytesIO(body)))}
    if installed["simplejpeg"]:
        import simplejpeg

        found["simplejpeg"] = lambda: simplejpeg.decode_jpeg(body)
    found["Pillow, then 224x224"] = lambda: np.asarray(_small(body, 0))
    found["Pillow by draft, then 224x224"] = lambda: np.asarray(_small(body, 1))
    found["Pillow by draft of twice the size, then 224x224"] = lambda: np.asarray(_small(body, 2))
    return found


def _small(body: bytes, draft: int) -> Any:
    """224x224 pixels; with `draft` libjpeg scales while it decodes, to no less than that many times the size."""
    picture = Pillow.open(io.BytesIO(body))
    if draft:
        picture.draft("RGB", (224 * draft, 224 * draft))
    return picture.resize((224, 224), Pillow.Resampling.BILINEAR)


def _photo(width: int, height: int) -> bytes:
    """Gradients, edges and noise, at the quality of a camera."""
    y, x = np.mgrid[0:height, 0:width]
    planes = np.stack([x / 7 % 256, y / 5 % 256, (x // 40 + y // 40) % 2 * 200], -1)
    pixels = planes + np.random.default_rng(0).normal(0, 12, (height, width, 3))
    buffer = io.BytesIO()
    Pillow.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _draft_differences() -> None:
    print("\n### What draft changes in 224x224 pixels (0 to 255)\n\n| of | draft | mean | most |\n|---|---|---|---|")
    for width, height in ((640, 480), (1920, 1080)):
        body = _photo(width, height)
        whole = np.asarray(_small(body, 0), np.float32)
        for draft in (1, 2):
            change = np.abs(np.asarray(_small(body, draft), np.float32) - whole)
            print(f"| {width}x{height} | {draft}x | {change.mean():.2f} | {change.max():.0f} |")


def _table(title: str, columns: dict[str, Candidates]) -> None:
    names = list(next(iter(columns.values())))
    print(f"\n### {title}\n\n| us | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in names:
        print(f"| {name} | {' | '.join(_cells(name, columns))} |")


def _cells(name: str, columns: dict[str, Candidates]) -> Iterator[str]:
    for candidates in columns.values():
        microseconds = _best_s(candidates[name]) * 1e6
        yield f"{microseconds:.2f}" if microseconds < 10 else f"{microseconds:.0f}"


def _best_s(work: Callable[[], Any]) -> float:
    work()
    timer = timeit.Timer(work)
    once = max(timer.timeit(1), 1e-7)
    number = max(1, int(SECONDS_PER_RUN / once))
    return min(timer.repeat(REPEATS, number)) / number


if __name__ == "__main__":
    main()
