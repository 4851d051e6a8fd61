"""Named tensors as the Open Inference Protocol, version 2, has them: in JSON, and as binary data behind a JSON head.

    {"id": "7", "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1.5]}]}

In the binary form an input has `"parameters": {"binary_data_size": n}` instead of `data`, and its n bytes follow the
head in the order of the inputs: little-endian, row by row; each BYTES element behind its length in four bytes.

Sources: KServe, "Open Inference Protocol (V2)"; Triton, "Binary Tensor Data Extension"; the media type, whose parameter
json-header-size says how long the head is, is that of SageMaker's Triton containers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.codecs import image
from servekit.codecs.media import decode_text, shown
from servekit.codecs.nouns import Column, Decoded, Form, Limits
from servekit.codecs.values import array_column, check_rows, column_of, describe, stack
from servekit.errors import InvalidInput
from servekit.signature import File, Image, Signature, Spec, Tensor, Text

BINARY = "application/vnd.sagemaker-triton.binary+json"
HEAD_SIZE = "json-header-size"
# An answer must name its model, and a codec knows of one only.
MODEL_NAME = "model"
DTYPES = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"} | {
    f"{sign.upper()}INT{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
MAX_DIMENSIONS = 32
LENGTH_BYTES = 4
# So that the data of the first tensor lies aligned in memory, whatever its dtype.
ALIGNMENT = 8
SIZE = re.compile(r"[0-9]{1,18}")


def carries_inputs(signature: Signature) -> bool:
    """Can tensors hold every input? A Json value is none."""
    return all(isinstance(spec, (Tensor, Text, Image, File)) for spec in signature.inputs.values())


def is_request(document: Mapping[str, Any], signature: Signature) -> bool:
    """Is `document` of this form? A batch of objects that only look like tensors is what a Json input takes."""
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs or "inputs" in signature.inputs or not carries_inputs(signature):
        return False
    return isinstance(inputs[0], dict) and {"name", "shape", "datatype"} <= inputs[0].keys()


def head_size(parameters: Mapping[str, str], body_bytes: int) -> int:
    """How many bytes of the body are the JSON head; all of them when the type does not say. Raises InvalidInput."""
    text = parameters.get(HEAD_SIZE)
    if text is None:
        return body_bytes
    if not SIZE.fullmatch(text) or int(text) > body_bytes:
        raise InvalidInput(
            f"Content-Type: expected {HEAD_SIZE} to be at most the {body_bytes} bytes of the body, got {shown(text)}"
        )
    return int(text)


# --- requests ---


def decode(document: Any, data: memoryview, signature: Signature, limits: Limits, *, bools: bool) -> Decoded:
    """The rows of a request: its JSON document, and the binary data behind it, of which arrays are views.

    bools: may the document hold true or false? Raises InvalidInput, TooLarge.
    """
    entries = document.get("inputs") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InvalidInput(f"inputs: expected a list of tensors ({', '.join(signature.inputs)})")
    columns: dict[str, Column] = {}
    start = 0
    for i, entry in enumerate(entries):
        where = f"inputs[{i}]"
        name = _name(entry, signature.inputs, where)
        if name in columns:
            raise InvalidInput(f"{where}.name: expected every input once, got {name} again")
        size = _binary_size(entry, len(data) - start, where)
        if size is None:
            columns[name] = _from_json(entry, name, signature.inputs[name], limits, where, bools=bools)
        else:
            raw = data[start : start + size]
            start += size
            columns[name] = _from_binary(entry, raw, name, signature.inputs[name], limits, where)
    if start != len(data):
        raise InvalidInput(f"body: expected {start} bytes of binary data behind the JSON, got {len(data)}")
    missing = [name for name in signature.inputs if name not in columns]
    if missing:
        raise InvalidInput(f"inputs: expected {', '.join(signature.inputs)}, got no {', '.join(missing)}")
    rows = {len(column) for column in columns.values()}
    if len(rows) > 1:
        got = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise InvalidInput(f"inputs: expected as many rows for every input, got {got}")
    form = Form("v2", None, _echo(document), _wanted(document, signature))
    return Decoded(rows.pop(), {name: columns[name] for name in signature.inputs}, form)


def _name(entry: Any, names: Mapping[str, Spec], where: str) -> str:
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where}: expected an object with name, shape, datatype and data, got {describe(entry)}")
    name = entry.get("name")
    if not isinstance(name, str) or name not in names:
        raise InvalidInput(f"{where}.name: expected {' or '.join(names)}, got {describe(name)}")
    return name


def _shape(entry: dict[str, Any], where: str) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise InvalidInput(f"{where}.shape: expected a list of at most {MAX_DIMENSIONS} sizes, got {describe(shape)}")
    for i, dim in enumerate(shape):
        if type(dim) is not int or dim < 0:
            raise InvalidInput(f"{where}.shape[{i}]: expected a size of 0 or more, got {describe(dim)}")
    return tuple(shape)


def _binary_size(entry: dict[str, Any], left: int, where: str) -> int | None:
    """The bytes of the entry's binary data, None when it has JSON data."""
    parameters = entry.get("parameters")
    if not isinstance(parameters, dict) or "binary_data_size" not in parameters:
        return None
    size = parameters["binary_data_size"]
    if type(size) is not int or not 0 <= size <= left:
        raise InvalidInput(
            f"{where}.parameters.binary_data_size: expected at most the {left} bytes that are left behind the JSON, "
            f"got {describe(size)}"
        )
    if "data" in entry:
        raise InvalidInput(f"{where}: expected either data or binary_data_size, got both")
    return size


def _datatype(entry: dict[str, Any], spec: Spec, where: str) -> str:
    datatype = entry.get("datatype")
    if isinstance(spec, Image):
        expected = [*DTYPES, "BYTES"]
    else:
        expected = list(DTYPES) if isinstance(spec, Tensor) and spec.dtype != "str" else ["BYTES"]
    if datatype not in expected:
        raise InvalidInput(f"{where}.datatype: expected {' or '.join(expected)} for {spec}, got {describe(datatype)}")
    return str(datatype)


def _from_json(entry: dict[str, Any], name: str, spec: Spec, limits: Limits, where: str, *, bools: bool) -> Column:
    shape, datatype = _shape(entry, where), _datatype(entry, spec, where)
    data, place = entry.get("data"), f"{where}.data"
    if not isinstance(data, list):
        raise InvalidInput(f"{place}: expected a list, got {describe(data)}")
    flat = list not in set(map(type, data))
    if flat and len(data) != math.prod(shape):
        raise InvalidInput(f"{place}: expected {math.prod(shape)} values for the shape {list(shape)}, got {len(data)}")
    if datatype == "BYTES" and not isinstance(spec, Tensor):
        values = [item[0] if isinstance(item, list) and len(item) == 1 else item for item in data]
        _check_scalars(shape, spec, where)
        check_rows(len(values), name, limits)
        if len(values) != math.prod(shape):
            raise InvalidInput(f"{place}: expected {math.prod(shape)} values, got {len(values)}")
        return column_of(values, spec, lambda i: f"{place}[{i}]", limits)
    dtype = spec.dtype if isinstance(spec, Tensor) else "float32"
    tensor = Tensor(dtype, (len(data),) if flat else shape)
    column = column_of([data], tensor, lambda _: place, limits, may_hold_bools=bools)
    return array_column(_shaped(np.asarray(column[0]), shape, where), spec, name, limits)


def _from_binary(entry: dict[str, Any], raw: memoryview, name: str, spec: Spec, limits: Limits, where: str) -> Column:
    shape, datatype = _shape(entry, where), _datatype(entry, spec, where)
    if datatype != "BYTES":
        return array_column(_array(raw, DTYPES[datatype], shape, where), spec, name, limits)
    if shape and limits.max_rows < shape[0] <= len(raw):
        check_rows(shape[0], name, limits)  # before each is looked at
    items = _items(raw, math.prod(shape), where)
    if isinstance(spec, Tensor):
        texts = np.empty(len(items), object)
        texts[:] = [_text(item, f"{where}[{i}]") for i, item in enumerate(items)]
        return array_column(_shaped(texts, shape, where), spec, name, limits)
    _check_scalars(shape, spec, where)
    check_rows(len(items), name, limits)
    if isinstance(spec, Image):
        return stack(image.decode_all(((f"{name}[{i}]", item) for i, item in enumerate(items)), spec, limits))
    return items if isinstance(spec, File) else [_text(item, f"{where}[{i}]") for i, item in enumerate(items)]


def _array(raw: memoryview, dtype: str, shape: tuple[int, ...], where: str) -> NDArray[Any]:
    """The numbers as a view on the body, or a copy where they do not lie aligned, as native code expects them."""
    little = np.dtype(dtype).newbyteorder("<")
    if math.prod(shape) * little.itemsize != len(raw):
        raise InvalidInput(
            f"{where}: expected {math.prod(shape) * little.itemsize} bytes for {dtype} of shape {list(shape)}, "
            f"got {len(raw)}"
        )
    flat = np.frombuffer(raw, little) if len(raw) else np.empty(0, little)
    if dtype == "bool":
        flat = flat.view(np.uint8) != 0  # a byte of another value would be a bool that is neither
    elif not flat.flags.aligned:
        flat = flat.copy()
    return _shaped(flat, shape, where)


def _items(raw: memoryview, count: int, where: str) -> list[bytes]:
    """The elements of a BYTES tensor. No length is believed before it is known to fit."""
    if count * LENGTH_BYTES > len(raw):
        raise InvalidInput(f"{where}: expected {count} elements of BYTES, got {len(raw)} bytes")
    items = []
    start = 0
    for i in range(count):
        stop = start + LENGTH_BYTES
        size = int.from_bytes(raw[start:stop], "little")
        if stop > len(raw) or size > len(raw) - stop:
            raise InvalidInput(f"{where}: element {i} of BYTES claims {size} bytes, got {max(0, len(raw) - stop)}")
        start = stop + size
        items.append(bytes(raw[stop:start]))
    if start != len(raw):
        raise InvalidInput(f"{where}: expected {start} bytes for {count} elements of BYTES, got {len(raw)}")
    return items


def _shaped(flat: NDArray[Any], shape: tuple[int, ...], where: str) -> NDArray[Any]:
    try:
        return flat.reshape(shape)
    except ValueError as error:  # no data, and yet a size that numpy cannot count
        raise InvalidInput(f"{where}.shape: expected sizes that fit memory", cause=error) from error


def _check_scalars(shape: tuple[int, ...], spec: Spec, where: str) -> None:
    """Triton has no tensors without a second dimension in its batches, so a lone element may have one."""
    if shape[1:] not in ((), (1,)):
        raise InvalidInput(f"{where}.shape: expected [rows] or [rows, 1] for {spec}, got {list(shape)}")


def _text(item: bytes, where: str) -> str:
    try:
        return decode_text(item)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: expected UTF-8 text, got other bytes", cause=error) from error


def _echo(document: dict[str, Any]) -> dict[str, Any]:
    if "id" not in document:
        return {}
    if not isinstance(document["id"], str):
        raise InvalidInput(f"id: expected a string, got {describe(document['id'])}")
    return {"id": document["id"]}


def _wanted(document: dict[str, Any], signature: Signature) -> dict[str, bool]:
    """The outputs that are asked for, and whether they may be binary, by name."""
    entries = document.get("outputs") or []
    if not isinstance(entries, list):
        raise InvalidInput(f"outputs: expected a list of outputs, got {describe(entries)}")
    everywhere = _flag(document, "binary_data_output", default=True, where="")
    wanted = {}
    for i, entry in enumerate(entries):
        name = _name(entry, signature.outputs, f"outputs[{i}]")
        wanted[name] = _flag(entry, "binary_data", default=everywhere, where=f"outputs[{i}].")
    return wanted or ({} if everywhere else dict.fromkeys(signature.outputs, False))


def _flag(entry: dict[str, Any], key: str, *, default: bool, where: str) -> bool:
    parameters = entry.get("parameters")
    value = parameters.get(key, default) if isinstance(parameters, dict) else default
    if not isinstance(value, bool):
        raise InvalidInput(f"{where}parameters.{key}: expected true or false, got {describe(value)}")
    return value


# --- answers ---


def answer(form: Form, tensors: list[dict[str, Any]]) -> dict[str, Any]:
    """The document of an answer."""
    return {"model_name": MODEL_NAME, **(form.echo if form.kind == "v2" else {}), "outputs": tensors}


def json_tensor(name: str, array: NDArray[Any], datatype: str) -> dict[str, Any]:
    """An output whose values, given as orjson can write them, stand in the document."""
    data: Any = array.reshape(-1)
    if datatype == "BYTES":
        data = data.tolist()
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}


def binary_tensor(name: str, array: NDArray[Any], datatype: str) -> tuple[dict[str, Any], bytes | memoryview]:
    """An output whose bytes follow the document: of numbers, or of an object array of str (BYTES)."""
    raw: bytes | memoryview
    if datatype == "BYTES":
        items = [text.encode("utf-8", "replace") for text in array.ravel()]
        raw = b"".join(part for item in items for part in (len(item).to_bytes(LENGTH_BYTES, "little"), item))
    else:
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        raw = little.reshape(-1).view(np.uint8).data
    size = {"binary_data_size": len(raw)}
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": size}, raw


def assemble(head: bytes, parts: list[bytes | memoryview]) -> tuple[bytes, str]:
    """The body of a binary answer, and its media type."""
    head += b" " * (-len(head) % ALIGNMENT)
    return b"".join((head, *parts)), f"{BINARY};{HEAD_SIZE}={len(head)}"
