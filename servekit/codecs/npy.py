"""application/x-npy and application/x-npz: numpy's own files, without pickle and without trust."""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from servekit.codecs.media import shown
from servekit.codecs.nouns import Limits
from servekit.errors import InvalidInput, TooLarge

MAX_HEADER_BYTES = 10_000
MAX_MEMBERS = 64
MAX_DIMENSIONS = 32
DIRECTORY_ENTRY = b"PK\x01\x02"
# The head that numpy itself writes for plain numbers; all others are read by numpy, which takes ten times as long.
COMMON_HEAD = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([<>|][biuf][1248])', 'fortran_order': (False|True), "
    rb"'shape': \(((?:%(size)b, )+%(size)b|%(size)b,|)\), \} *\n" % {b"size": rb"(?:0|[1-9][0-9]{0,17})"},
    re.DOTALL,
)
# What zipfile raises on damaged archives.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
)


def decode(body: bytes, where: str) -> NDArray[Any]:
    """The array of an npy file, as a view on `body`. Raises InvalidInput.

    The size that the header claims must be the size of what follows it, so nothing is allocated on its word.
    """
    shape, fortran_order, dtype, offset = common_head(body) or _any_head(body, where)
    if dtype.hasobject or dtype.kind not in "biufU" or dtype.itemsize == 0:
        kind = "object" if dtype.hasobject else dtype
        raise InvalidInput(f"{where}: expected an npy array of numbers or str, got dtype {shown(str(kind))}")
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidInput(f"{where}: expected at most {MAX_DIMENSIONS} dimensions, got {len(shape)}")
    if any(type(dim) is not int or dim < 0 for dim in shape):
        raise InvalidInput(f"{where}: expected sizes that are not negative, got {shown(str(shape))}")
    claimed, there = math.prod(shape) * dtype.itemsize, len(body) - offset
    if claimed != there:
        raise InvalidInput(f"{where}: npy header says {claimed} bytes of data, got {there}")
    flat = np.frombuffer(body, dtype, offset=offset) if there else np.empty(0, dtype)
    if not flat.flags.aligned:
        flat = flat.copy()  # a header of unusual length; native code expects aligned data
    if dtype.kind == "U":
        _check_text(flat, where)
    elif dtype.kind == "b":
        flat = flat.view(np.uint8) != 0  # a byte of another value would be a bool that is neither
    try:
        return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)
    except ValueError as error:  # no data, and yet a size that numpy cannot count
        raise InvalidInput(f"{where}: expected sizes that fit memory, got {shown(str(shape))}", cause=error) from error


Head = tuple[tuple[int, ...], bool, np.dtype[Any], int]


def common_head(body: bytes) -> Head | None:
    """(shape, is in Fortran's order, dtype, where the data begins) of a file that begins with `body`; None for a head
    of another form than numpy's own."""
    head = COMMON_HEAD.match(body)
    if head is None or head.end() != 10 + int.from_bytes(head[1], "little") or head.end() > MAX_HEADER_BYTES:
        return None
    try:
        dtype = np.dtype(head[2].decode())
    except TypeError:  # a size that this kind does not have
        return None
    shape = tuple(int(dim) for dim in head[4].split(b",") if dim)
    return shape, head[3] == b"True", dtype, head.end()


def _any_head(body: bytes, where: str) -> Head:
    stream = io.BytesIO(body)
    try:
        version = npy_format.read_magic(stream)
        if version == (1, 0):
            header = npy_format.read_array_header_1_0(stream, max_header_size=MAX_HEADER_BYTES)
        elif version == (2, 0):
            header = npy_format.read_array_header_2_0(stream, max_header_size=MAX_HEADER_BYTES)
        else:
            raise InvalidInput(f"{where}: expected npy version 1.0 or 2.0, got {version[0]}.{version[1]}")
    except InvalidInput:
        raise
    except Exception as error:
        # numpy hands the header to Python's own tokenizer and parser, which raise what they like on hostile text.
        raise InvalidInput(f"{where}: expected an npy array, got a damaged or different file", cause=error) from error
    return (*header, stream.tell())


def _check_text(flat: NDArray[Any], where: str) -> None:
    """numpy trusts the code points of a str array; Python does not survive those that Unicode lacks."""
    points = flat.view(np.dtype(np.uint32).newbyteorder(flat.dtype.byteorder))
    if ((points > 0x10FFFF) | ((points >= 0xD800) & (points <= 0xDFFF))).any():
        raise InvalidInput(f"{where}: expected an npy array of str, got code points that Unicode does not have")


def encode(array: NDArray[Any]) -> bytes:
    """The npy file of an array of numbers: the bytes that numpy.save writes, copied once."""
    rows = np.asarray(array, order="C")
    head = io.BytesIO()
    npy_format.write_array_header_1_0(head, npy_format.header_data_from_array_1_0(rows))
    return b"".join((head.getvalue(), rows.reshape(-1).view(np.uint8).data))


def decode_npz(body: bytes, names: list[str], limits: Limits) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file by name. Raises InvalidInput, TooLarge (before anything is unpacked)."""
    # Counted first: zipfile would make an object of every entry.
    count = body.count(DIRECTORY_ENTRY)
    if count > MAX_MEMBERS:
        raise InvalidInput(f"npz: expected at most {MAX_MEMBERS} arrays, got {count}")
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            for member in members:
                if member.flag_bits & 1:
                    raise InvalidInput(f"npz: expected plain arrays, got {shown(member.filename)} encrypted")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    # What numpy writes; the other methods reserve memory that the archive chooses.
                    raise InvalidInput(
                        f"npz: expected stored or deflated arrays, got {shown(member.filename)} in another"
                    )
            total = sum(member.file_size for member in members)
            if total > limits.max_array_bytes:
                raise TooLarge(f"npz: expected at most {limits.max_array_bytes} bytes unpacked, got {total}")
            arrays: dict[str, NDArray[Any]] = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name not in names or name in arrays:
                    raise InvalidInput(f"npz: unknown or repeated array {shown(name)}, expected {', '.join(names)}")
                with archive.open(member) as opened:
                    # The archive's own word on the size is a claim too: read no further than it.
                    arrays[name] = decode(opened.read(member.file_size), f"npz: {name}")
    except DAMAGED as error:
        raise InvalidInput("npz: expected a zip archive of npy arrays, got a damaged one", cause=error) from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InvalidInput(f"npz: expected the arrays {', '.join(names)}, got no {', '.join(missing)}")
    return arrays


def encode_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The npz file of arrays of numbers by name, stored without compression."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", encode(array))
    return buffer.getvalue()
