"""The short way for the commonest models: one numeric tensor of fixed shape in, one numeric tensor out.

A reader turns a body into the packed bytes of its rows, ready to be joined with others to a batch. `row_texts` turns
a whole batch of results into JSON in one pass. Neither answers for errors: a reader declines (`Unusual`) whatever it
is not sure of, and the codecs of the general path, which know every form and every word to say about it, decide.
"""

from __future__ import annotations

import functools
import math
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from servekit.codecs import npy
from servekit.codecs.decode import NPY, ROWS, is_json
from servekit.codecs.encode import JSON
from servekit.codecs.jsonbody import COUNTED_BYTES
from servekit.codecs.media import charset_of, parse_media_type
from servekit.codecs.nouns import ITEM, Form, Limits
from servekit.contract import Envelope, Infer
from servekit.errors import ServeError
from servekit.signature import Signature, Tensor

# numpy's names -> struct's; bool is left out, since struct takes any value for one.
CODES = {
    "float16": "e",
    "float32": "f",
    "float64": "d",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
}
NUMERIC = frozenset([*CODES, "bool"])
# From here on simdjson's own numbers are faster than Python's, where it is installed.
SIMDJSON_BYTES = 1024
# A parser keeps the memory that its longest body took, many times the body; a new one costs half as much as parsing.
# So the readers of a thread, of which callers can make a thousand, share one, and longer bodies have their own.
SHARED_PARSER_BYTES = 1024 * 1024


class Unusual(Exception):
    """Not for the short way; nothing is said about whether the body is right."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around the rows of an answer: prefix, row, between, row, ..., suffix.

    In JSON `row_texts` gives the rows. For other media types (prefix "") the general encoder writes the answer.
    """

    media_type: str
    form: Form
    prefix: bytes = b""
    between: bytes = b""
    suffix: bytes = b""


Buffer = bytes | memoryview
Taken = tuple[int, Sequence[Buffer], Frame]


class Reader(Protocol):
    """From a body, in one or several parts, to (rows, their packed bytes in parts, the frame of the answer).

    The bytes are in C order and native byte order. Raises Unusual. Not thread-safe.
    """

    def __call__(self, parts: Sequence[bytes]) -> Taken: ...


def fits(signature: Signature) -> bool:
    """Has the signature one numeric tensor of fixed shape in, one numeric tensor out?"""
    only_in, only_out = signature.only_input, signature.only_output
    if only_in is None or only_out is None:
        return False
    spec, result = only_in[1], only_out[1]
    return (
        isinstance(spec, Tensor)
        and spec.dtype in NUMERIC
        and None not in spec.shape
        and 0 not in spec.shape
        and isinstance(result, Tensor)
        and result.dtype in NUMERIC
    )


def reader(call: Infer, media_type: str, signature: Signature, limits: Limits) -> Reader | None:
    """The reader of such bodies as `call`'s whose answers are `media_type`; None when there is none.

    `call.body` is not looked at.
    """
    only = signature.only_input
    if only is None or not fits(signature) or call.fields:
        return None
    name, spec = only
    assert isinstance(spec, Tensor)  # noqa: S101 - fits() has seen it
    if media_type not in (JSON, NPY):
        return None
    kind, parameters = parse_media_type(call.content_type or "")
    if kind == NPY:
        return _npy_reader(spec, _frame(ROWS, signature) if media_type == JSON else Frame(media_type, ROWS), limits)
    if not is_json(kind) or media_type != JSON or spec.dtype not in CODES:
        return None
    try:
        if charset_of(parameters) != "utf-8":
            return None
    except ServeError:
        return None
    return _json_reader(name, spec, call.envelopes, signature, limits)


def row_texts(array: NDArray[Any]) -> list[bytes] | None:
    """Each row as JSON, without the brackets that `_frame` puts around it; None when JSON cannot carry all values."""
    if array.size == 0:
        return None
    if array.dtype.char == "e":
        array = array.astype(np.float32)
    depth = array.ndim
    text = orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
    if b"n" in text:  # null: NaN or Infinity was there
        return None
    return text[depth:-depth].split(b"]" * (depth - 1) + b"," + b"[" * (depth - 1))


def _frame(form: Form, signature: Signature) -> Frame:
    """The general encoder's answer of such a form, cut open where the rows stand."""
    [(name, spec)] = signature.outputs.items()
    assert isinstance(spec, Tensor)  # noqa: S101 - fits() has seen it
    opened, closed = b"[" * len(spec.shape), b"]" * len(spec.shape)
    key = orjson.dumps(name)
    envelope = form.envelope
    if form.kind == "item" or envelope is None:
        return Frame(JSON, form, b"{" + key + b":" + opened, b"", closed + b"}")
    outer = b"".join(b"{" + orjson.dumps(part) + b":" for part in envelope.results_at)
    end = b"}" * len(envelope.results_at)
    if form.kind == "columns":
        prefix, before, after, suffix = outer + b"{" + key + b":[", b"", b"", b"]}" + end
    elif envelope.results_as_objects:
        prefix, before, after, suffix = outer + b"[", b"{" + key + b":", b"}", b"]" + end
    else:
        prefix, before, after, suffix = outer + b"[", b"", b"", b"]" + end
    return Frame(JSON, form, prefix + before + opened, closed + after + b"," + before + opened, closed + after + suffix)


# --- npy ---


def _npy_reader(spec: Tensor, frame: Frame, limits: Limits) -> Reader | None:
    """Bodies whose rows have exactly the declared dtype and shape; the numbers stay where they arrived."""
    dtype, shape = np.dtype(spec.dtype), spec.shape
    if dtype.kind == "b":
        return None  # whose bytes must be looked at

    def read(parts: Sequence[bytes]) -> Taken:
        head = npy.common_head(parts[0]) if parts else None
        if head is None:
            raise Unusual
        came, fortran_order, came_dtype, offset = head
        rows = 1 if came == shape else came[0] if came and came[1:] == shape else 0
        claimed, there = math.prod(came) * dtype.itemsize, sum(map(len, parts)) - offset
        if fortran_order or came_dtype != dtype or not 0 < rows <= limits.max_rows or claimed != there:
            raise Unusual
        return rows, [memoryview(parts[0])[offset:], *parts[1:]], frame

    return read


# --- JSON ---


def _json_reader(
    name: str, spec: Tensor, envelopes: Iterable[Envelope], signature: Signature, limits: Limits
) -> Reader | None:
    """Objects with one key that say where the rows are, and nothing else."""
    places: Places = {}
    for envelope in envelopes:
        if not envelope.rows_at or envelope.rows_at[0] in places:
            continue
        form = Form("columns" if envelope.columns else "rows", envelope)
        path = (*envelope.rows_at, name) if envelope.columns else envelope.rows_at
        places[path[0]] = (path[1:], _frame(form, signature))
    # A body may also be one item; where the input has an envelope's name, the general path decides what is meant.
    if places.pop(name, None) is None and spec.shape:
        places[name] = ((), _frame(ITEM, signature))
    pack_row = _row_packer(spec)
    pack_rows = _quick_packer(spec)
    max_rows = limits.max_rows

    def read(parts: Sequence[bytes]) -> Taken:
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if pack_rows is not None and len(body) >= SIMDJSON_BYTES:
            return pack_rows(body, places, max_rows)
        if len(body) >= COUNTED_BYTES:
            raise Unusual  # so long that the work is not for the event loop, and its cost is to be counted first
        # struct takes True for 1. One letter of each word is looked for first, since that is much quicker.
        if (b"u" in body and b"true" in body) or (b"l" in body and b"false" in body):
            raise Unusual
        try:
            document = orjson.loads(body)
            if type(document) is not dict or len(document) != 1:
                raise Unusual
            [key] = document
            path, frame = places[key]
            value = document[key]
            for step in path:
                if len(value) != 1:
                    raise Unusual
                value = value[step]
            if frame.form is ITEM:
                return 1, (pack_row(value),), frame
            rows = len(value)
            if type(value) is not list or not 0 < rows <= max_rows:
                raise Unusual
            if type(value[0]) is dict:
                if frame.form.kind != "rows":
                    raise Unusual
                value = [_only(row, name) for row in value]
            if rows == 1:
                return 1, (pack_row(value[0]),), frame
            return rows, [pack_row(row) for row in value], frame
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, struct.error) as error:
            raise Unusual from error

    return read


def _only(row: Any, name: str) -> Any:
    """The value of a row that is an object of the one input."""
    if type(row) is not dict or len(row) != 1:
        raise Unusual
    return row[name]


def _row_packer(spec: Tensor) -> Callable[[Any], bytes]:
    """From a row as nested lists to its bytes. Raises struct.error, TypeError, OverflowError, Unusual."""
    shape = spec.shape
    # Standard sizes, since only those refuse a float that overflows.
    pack = struct.Struct(f"={math.prod(dim or 0 for dim in shape)}{CODES[spec.dtype]}").pack
    if not shape:
        return pack
    if len(shape) == 1:

        def pack_list(row: Any) -> bytes:
            if type(row) is not list:
                raise Unusual
            return pack(*row)

        return pack_list
    inner = shape[:-1]

    def pack_nested(row: Any) -> bytes:
        level = [row]
        for dim in inner:
            if any(type(item) is not list or len(item) != dim for item in level):
                raise Unusual
            level = list(chain.from_iterable(level))
        if any(type(item) is not list or len(item) != shape[-1] for item in level):
            raise Unusual
        return pack(*chain.from_iterable(level))

    return pack_nested


Places = dict[str, tuple[tuple[str, ...], Frame]]


@functools.lru_cache(maxsize=64)
def _shared_parser(_thread: int) -> Any:
    """The parser of this thread's readers. It refuses to parse while what it parsed is still in use."""
    import simdjson

    return simdjson.Parser()


def _quick_packer(spec: Tensor) -> Callable[[bytes, Places, int], Taken] | None:
    """simdjson's way for floats in long bodies, None where it is not installed or does not fit."""
    if spec.dtype not in ("float32", "float64") or len(spec.shape) != 1:
        return None
    try:
        import simdjson
    except ImportError:
        return None
    shared = _shared_parser(threading.get_ident())
    width = math.prod(dim or 0 for dim in spec.shape)
    dtype = np.dtype(spec.dtype)

    def pack(body: bytes, places: Places, max_rows: int) -> Taken:
        try:
            document: Any = (shared if len(body) <= SHARED_PARSER_BYTES else simdjson.Parser()).parse(body)
            [key] = document.keys()
            path, frame = places[key]
            value = document[key]
            for step in path:
                [only] = value.keys()
                if only != step:
                    raise Unusual
                value = value[step]
            # The buffer is flat whatever the nesting was, so the brackets are counted: keys of ours hold none.
            first, last = body.find(b"["), body.rfind(b"[")
            if frame.form is ITEM:
                rows, fits = 1, len(value) == width and first == last
            else:
                rows = len(value)
                fits = 0 < rows <= max_rows and all(len(row) == width for row in value)
                fits = fits and (body.find(b"[", first + 1) == last if rows == 1 else body.count(b"[") == 1 + rows)
            if not fits:
                raise Unusual
            numbers = np.frombuffer(value.as_buffer(of_type="d"), np.float64)
            if numbers.size != rows * width:
                raise Unusual
            packed = numbers if dtype.itemsize == 8 else narrowed(numbers)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, FloatingPointError) as error:
            raise Unusual from error
        return rows, (packed.view(np.uint8).data,), frame

    @np.errstate(over="raise")
    def narrowed(numbers: NDArray[np.float64]) -> NDArray[Any]:
        return numbers.astype(dtype)

    return pack
