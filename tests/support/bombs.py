"""Small bodies that want much memory, and what each may cost; as a program, it tries them within these bounds.

Prints a line of JSON for each: its name, what came of it, and the memory that it took at most.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from cases import multipart, npy, npz_bomb, png

from servekit.codecs import Limits, decode
from servekit.contract import BARE_LIST, COLUMNS, INSTANCES, Infer
from servekit.errors import CallerError
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text

MEBIBYTE = 1024 * 1024
FLOATS: dict[str, Spec] = {"x": Tensor("float32", (4,))}
FREE: dict[str, Spec] = {"x": Tensor("float32", (None,))}
PAIR: dict[str, Spec] = {"a": Tensor("float32", ()), "b": Tensor("float32", (None,))}
TEXT: dict[str, Spec] = {"x": Text()}
ANY: dict[str, Spec] = {"x": Json()}
PICTURE: dict[str, Spec] = {"x": Image("RGB", 28, 28)}
FREE_PICTURE: dict[str, Spec] = {"x": Image("RGB")}
FILE: dict[str, Spec] = {"x": File()}
# Beyond the body itself; most are refused before anything is made of them.
A_LITTLE_MIB = 64


@dataclass(frozen=True)
class Bomb:
    content_type: str
    body: Callable[[], bytes]
    inputs: dict[str, Spec]
    budget_mib: int = A_LITTLE_MIB
    expected: Literal["refused", "read"] = "refused"


def repeated(start: bytes, unit: bytes, end: bytes, mebibytes: float) -> Callable[[], bytes]:
    return lambda: start + unit * int(mebibytes * MEBIBYTE / len(unit)) + end


def claims(width: int, height: int, *, deep: bool = False) -> Callable[[], bytes]:
    """A PNG whose head claims a size, and whose data is a little."""

    def make() -> bytes:
        head = struct.pack(">IIBBBBB", width, height, 16 if deep else 8, 6, 0, 0, 0)
        checksum = struct.pack(">I", zlib.crc32(b"IHDR" + head))
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + checksum + png(1, 1)[33:]

    return make


def text_chunk() -> bytes:
    """A PNG with a comment that unpacks to 256 MiB."""
    packed = zlib.compressobj(9)
    zeros = bytes(MEBIBYTE)
    data = b"c\0\0" + b"".join(packed.compress(zeros) for _ in range(256)) + packed.flush()
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    whole = png(4, 4)
    return whole[:33] + chunk + whole[33:]


def jpeg(width: int, height: int) -> bytes:
    """A JPEG whose head claims a size."""
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes([1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1])
    return (
        b"\xff\xd8"
        + frame
        + b"\xff\xda"
        + struct.pack(">HB", 12, 3)
        + bytes([1, 0, 2, 17, 3, 17, 0, 63, 0])
        + b"\0" * 64
    )


def many_pictures() -> bytes:
    """A form of pictures, none of which is too large by itself."""
    picture = png(7000, 7000)
    body, _ = multipart(*(("x", "a.png", "image/png", picture) for _ in range(6)))
    return body


JSON = "application/json"
BOMBS: dict[str, Bomb] = {
    "a picture of 10,000 megapixels": Bomb("image/png", claims(100_000, 100_000), PICTURE),
    "a picture of 65,535 x 65,535": Bomb("image/jpeg", lambda: jpeg(65_535, 65_535), PICTURE),
    "a picture just above the limit": Bomb("image/png", lambda: png(7100, 7100), PICTURE),
    "a picture that becomes too large": Bomb("image/png", lambda: png(6900, 6900), FREE_PICTURE),
    "a picture that claims what it lacks": Bomb("image/png", claims(7000, 7000, deep=True), PICTURE, 400),
    "a picture with a comment of 256 MiB": Bomb("image/png", text_chunk, PICTURE, 64),
    "many pictures": Bomb("multipart/form-data; boundary=frontier", many_pictures, PICTURE, 400),
    "an archive of zeros": Bomb("application/x-npz", lambda: npz_bomb("x", 512), FLOATS),
    "an archive of zeros, for a file": Bomb(
        "application/octet-stream", lambda: npz_bomb("x", 64), FILE, expected="read"
    ),
    "an array of 74 GiB": Bomb(
        "application/x-npy", lambda: npy(np.zeros(4, np.float32)).replace(b"(4,)", b"(79456894976,)"), FREE
    ),
    "deep lists": Bomb(JSON, repeated(b"", b"[", b"", 1), ANY),
    "lists in a list": Bomb(JSON, repeated(b'{"instances":[', b"[],", b"[]]}", 16), ANY, 64),
    "objects in a list": Bomb(JSON, repeated(b'{"instances":[', b"{},", b"{}]}", 16), ANY, 64),
    "texts in a list": Bomb(JSON, repeated(b'{"instances":[', b'"ab",', b'"ab"]}', 16), TEXT, 512),
    "texts for numbers": Bomb(JSON, repeated(b'{"instances":[["', b'ab","', b'"]]}', 16), FREE, 512),
    "numbers": Bomb(JSON, repeated(b'{"instances":[[', b"257,", b"257]]}", 16), FREE, 512, "read"),
    "lists for numbers": Bomb(JSON, repeated(b'{"instances":[[', b"[],", b"[]]]}", 16), FREE, 64),
    "lists for rows": Bomb(JSON, repeated(b'{"instances":[', b"[],", b"[]]}", 16), FLOATS, 512),
    "objects for rows": Bomb(JSON, repeated(b'{"instances":[', b"{},", b"{}]}", 16), FLOATS, 512),
    "numbers for rows": Bomb(JSON, repeated(b'{"instances":[', b"1,", b"1]}", 16), FLOATS, 512),
    "rows of numbers": Bomb(JSON, repeated(b'{"instances":[', b"[1,2,3,4],", b"[1,2,3,4]]}", 16), FLOATS, 512),
    "lines": Bomb("application/jsonlines", repeated(b"", b"1\n", b"", 8), ANY, 64),
    "empty lines": Bomb("application/jsonlines", repeated(b"", b"\n", b"", 16), ANY, 64),
    "cells": Bomb("text/csv", repeated(b"", b"ab,", b"ab", 16), PAIR, 64),
    "empty cells": Bomb("text/csv", repeated(b"", b",", b"", 16), PAIR, 64),
    "empty lines of cells": Bomb("text/csv", repeated(b"", b"\n", b"", 16), PAIR, 64),
    "rows of cells": Bomb("text/csv", repeated(b"", b"1,2\n", b"", 16), PAIR, 64),
    "a quote that is not closed": Bomb("text/csv", repeated(b'"', b"a", b"", 16), PAIR, 120),
    "a form of line ends": Bomb("multipart/form-data; boundary=x", repeated(b"--x\r\n", b"\r\n", b"", 4), FILE),
    "a form of boundaries": Bomb("multipart/form-data; boundary=x", repeated(b"", b"--x\r\n", b"", 4), FILE),
    "a form of headers": Bomb("multipart/form-data; boundary=x", repeated(b"--x\r\n", b"A: b\r\n", b"", 4), FILE),
    "a form of empty parts": Bomb(
        "multipart/form-data; boundary=x",
        repeated(b"", b'--x\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n', b"--x--\r\n", 4),
        TEXT,
    ),
    "a field of 2 MiB": Bomb(
        "multipart/form-data; boundary=frontier", lambda: multipart(("x", None, None, b"a" * 2 * MEBIBYTE))[0], TEXT
    ),
    "urlencoded fields": Bomb(
        "application/x-www-form-urlencoded", repeated(b"x=1", b"&x=1", b"", 4), TEXT | {"y": Text()}
    ),
    "lengths of nothing": Bomb(
        "application/vnd.sagemaker-triton.binary+json;json-header-size=120",
        lambda: (
            json.dumps(
                {
                    "inputs": [
                        {
                            "name": "x",
                            "shape": [4 * MEBIBYTE],
                            "datatype": "BYTES",
                            "parameters": {"binary_data_size": 16 * MEBIBYTE},
                        }
                    ]
                }
            )
            .encode()
            .ljust(120)
            + bytes(16 * MEBIBYTE)
        ),
        TEXT,
        64,
    ),
}


def main() -> int:
    if "--control" in sys.argv:
        bounded("the control", lambda: len(bytearray(1024 * MEBIBYTE)), 100, "refused")
        return 0
    # Imports and pools are not what is measured.
    warm_up()
    for name, bomb in BOMBS.items():
        body = bomb.body()
        call = Infer(body, bomb.content_type, None, (INSTANCES, COLUMNS, BARE_LIST))
        signature = Signature(bomb.inputs, {"y": Tensor("float32", ())})
        bounded(
            name,
            lambda call=call, signature=signature: decode(call, signature, Limits()),
            bomb.budget_mib,
            bomb.expected,
        )  # type: ignore[misc]
    return 0


def warm_up() -> None:
    for content_type, body, inputs in [
        ("image/png", png(28, 28), PICTURE),
        (JSON, b'{"instances":[[1,2,3,4]]}', FLOATS),
        ("text/csv", b"1,2", PAIR),
    ]:
        decode(Infer(body, content_type, None), Signature(inputs, {"y": Tensor("float32", ())}), Limits())


def bounded(name: str, work: Callable[[], object], budget_mib: int, expected: str) -> None:
    """Run `work` with `budget_mib` of address space beyond what is in use."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") * 1024 + budget_mib * MEBIBYTE, hard))
    Path("/proc/self/clear_refs").write_text("5")
    before_kib = _status("VmRSS")
    outcome = "read"
    started_s = time.monotonic()
    try:
        work()
    except CallerError:
        outcome = "refused"
    except BaseException as error:  # noqa: BLE001 - the finding
        outcome = type(error).__name__
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    peak_mib = (_status("VmHWM") - before_kib) / 1024
    result = {
        "name": name,
        "outcome": outcome,
        "expected": expected,
        "peak_mib": round(peak_mib),
        "budget_mib": budget_mib,
    }
    print(json.dumps(result | {"seconds": round(time.monotonic() - started_s, 2)}), flush=True)


def _status(name: str) -> int:
    """A size of this process, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


if __name__ == "__main__":
    sys.exit(main())
