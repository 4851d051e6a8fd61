"""Results -> bytes, in the media type that the caller likes best."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import orjson

from servekit.codecs import image, npy, v2
from servekit.codecs.media import best_match, parse_media_type, shown
from servekit.codecs.nouns import Column, Form
from servekit.contract import Infer
from servekit.errors import NotAcceptable, PredictFailed, Unprocessable
from servekit.signature import File, Image, Signature, Spec, Tensor, Text

JSON = "application/json"
JSON_LINES = ("application/jsonlines", "application/x-ndjson")
CSV, PLAIN, PNG, OCTETS = "text/csv", "text/plain", "image/png", "application/octet-stream"
NPY, NPZ = "application/x-npy", "application/x-npz"

Nan = Literal["error", "null"]
NOT_JSON = (orjson.JSONEncodeError, TypeError, RecursionError)


def negotiate(call: Infer, signature: Signature) -> str:
    """The media type of the answer. Raises NotAcceptable naming what is offered, InvalidInput."""
    offered = offered_types(signature)
    default, _ = parse_media_type(call.default_accept)
    if default not in offered:
        default = offered[0]
    elif default == JSON:
        # What a single picture or file is naturally sent as, and what callers of Triton expect.
        sent_binary = v2.BINARY in offered and (call.content_type or "").lower().startswith(v2.BINARY)
        default = v2.BINARY if sent_binary else offered[0]
    chosen = best_match(call.accept or "", offered, default)
    if chosen is None:
        raise NotAcceptable(f"Accept: expected {' or '.join(offered)}, got {shown(call.accept or '')}")
    return chosen


def offered_types(signature: Signature) -> list[str]:
    """The types that can carry this predictor's outputs, most natural first."""
    specs = list(signature.outputs.values())
    types = [JSON, *JSON_LINES]
    numeric = all(isinstance(spec, Tensor) and spec.dtype != "str" for spec in specs)
    if all(isinstance(spec, (Tensor, Text)) for spec in specs):
        types.append(CSV)
    if numeric:
        types += [NPY, NPZ] if len(specs) == 1 else [NPZ]
    if all(isinstance(spec, (Tensor, Text)) for spec in specs):
        types.append(v2.BINARY)
    if len(specs) == 1:
        match specs[0]:
            case Text() | Tensor(shape=()):
                types.append(PLAIN)
            case Image():
                types.insert(0, PNG)
            case File():
                types.insert(0, OCTETS)
    return types


def answer(
    media_type: str, form: Form, columns: Mapping[str, Column], rows: int, signature: Signature, *, nan: Nan = "error"
) -> tuple[bytes, str]:
    """The answer to one request, as `encode` gives it, and its whole media type with the parameters that it needs."""
    if media_type == v2.BINARY:
        return _tensors(form, columns, signature, nan, binary=True)
    return encode(media_type, form, columns, rows, signature, nan=nan), media_type


def encode(
    media_type: str, form: Form, columns: Mapping[str, Column], rows: int, signature: Signature, *, nan: Nan = "error"
) -> bytes:
    """The body of the answer to one request: `columns` holds `rows` results of every declared output.

    Raises Unprocessable for NaN and Infinity in JSON (unless nan="null"), NotAcceptable when the type cannot carry
    several rows, PredictFailed for values that no JSON has.
    """
    if media_type == v2.BINARY or (media_type == JSON and form.kind == "v2"):
        return _tensors(form, columns, signature, nan, binary=media_type == v2.BINARY)[0]
    if media_type == JSON:
        return _json(form, columns, rows, signature, nan)
    if media_type in JSON_LINES:
        ready = {name: _ready(name, columns[name], spec) for name, spec in signature.outputs.items()}
        documents = (_dump({name: ready[name][i] for name in ready}, ready, "null") for i in range(rows))
        return _checked(b"".join(document + b"\n" for document in documents), ready, nan)
    if media_type == CSV:
        return _csv(columns, rows, signature)
    if media_type == NPZ:
        return npy.encode_npz({name: _array(name, columns[name]) for name in signature.outputs})
    name, spec = next(iter(signature.outputs.items()))
    column = columns[name]
    if media_type == NPY:
        return npy.encode(_array(name, column))
    if media_type == PLAIN:
        lines = [_cell(value) for value in column]
        return "\n".join(lines).encode("utf-8", "replace") + (b"" if form.kind == "item" else b"\n")
    if rows != 1:
        raise NotAcceptable(f"Accept: {media_type} carries one result, got {rows} rows; ask for {JSON}")
    return encode_output(spec, column[0], media_type, name=name)


def encode_output(spec: Spec, value: Any, media_type: str, *, name: str = "output", nan: Nan = "error") -> bytes:
    """One output of one item as a document of its own. Raises ServeError."""
    kind, _ = parse_media_type(media_type)
    if isinstance(spec, Image) and kind.startswith("image/"):
        return image.encode(value, name)
    if isinstance(spec, File) and kind != JSON:
        return _bytes(name, value)
    if kind == NPY:
        return npy.encode(_array(name, value))
    if kind == CSV:
        return _csv({name: [value]}, 1, Signature({name: spec}, {name: spec}))
    if kind == PLAIN:
        return _cell(value).encode("utf-8", "replace")
    return _dump(_ready(name, [value], spec)[0], {name: [value]}, nan)


def result_object(signature: Signature, columns: Mapping[str, Column], row: int) -> dict[str, Any]:
    """One row as an object by output names, ready for JSON. Raises Unprocessable for NaN and Infinity."""
    ready = {name: _ready(name, columns[name][row : row + 1], spec) for name, spec in signature.outputs.items()}
    for name, column in ready.items():
        _check_all_finite(name, column)
    return {name: column[0] for name, column in ready.items()}


def _json(form: Form, columns: Mapping[str, Column], rows: int, signature: Signature, nan: Nan) -> bytes:
    ready = {name: _ready(name, columns[name], spec) for name, spec in signature.outputs.items()}
    envelope = form.envelope
    if form.kind == "item" or envelope is None:
        return _dump({name: column[0] for name, column in ready.items()}, ready, nan)
    if form.kind == "columns":
        results: Any = ready
    elif len(ready) == 1 and not envelope.results_as_objects:
        results = next(iter(ready.values()))
    else:
        results = [{name: column[i] for name, column in ready.items()} for i in range(rows)]
    for key in reversed(envelope.results_at):
        results = {key: results}
    if form.echo:
        results = {**form.echo, **results}
    return _dump(results, ready, nan)


def _tensors(
    form: Form, columns: Mapping[str, Column], signature: Signature, nan: Nan, *, binary: bool
) -> tuple[bytes, str]:
    """The body of a V2 answer and its media type."""
    tensors: list[dict[str, Any]] = []
    parts: list[bytes | memoryview] = []
    listed = {}
    for name in form.outputs or signature.outputs:
        array, datatype = _tensor(name, columns[name], signature.outputs[name])
        if binary and form.outputs.get(name, True):
            tensor, raw = v2.binary_tensor(name, array, datatype)
            parts.append(raw)
        else:
            listed[name] = array if datatype == "BYTES" else _plain_array(array)
            tensor = v2.json_tensor(name, listed[name], datatype)
        tensors.append(tensor)
    head = _dump(v2.answer(form, tensors), listed, nan)
    return v2.assemble(head, parts) if binary else (head, JSON)


def _tensor(name: str, column: Column, spec: Spec) -> tuple[Any, str]:
    """A column as one array of numbers or of str, and its name in V2; what is neither becomes text as in JSON."""
    if isinstance(spec, Tensor) and spec.dtype != "str":
        array = _array(name, column)
        return array, v2.DATATYPES[array.dtype.newbyteorder("=").name]
    values = _ready(name, column, spec)
    if not isinstance(spec, (Tensor, Text, Image, File)):
        values = [_dump(value, {name: [value]}, "error").decode() for value in values]
    texts = np.array(values, object)
    if not all(isinstance(text, str) for text in texts.flat):
        raise NotAcceptable(f"Accept: a tensor carries texts of one shape, and those of output {name!r} are not")
    return texts, "BYTES"


def _ready(name: str, column: Column, spec: Spec) -> Any:
    """A column that orjson can write."""
    if isinstance(spec, Image):
        return [base64.b64encode(image.encode(pixels, name)).decode() for pixels in column]
    if isinstance(spec, File):
        return [base64.b64encode(_bytes(name, value)).decode() for value in column]
    return _plain_array(column) if isinstance(column, np.ndarray) else column


def _bytes(name: str, value: Any) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise PredictFailed(f"output {name!r}: expected bytes for a File, got {type(value).__name__}")
    return bytes(value)


def _array(name: str, column: Any) -> Any:
    """A column as one array of numbers. Raises NotAcceptable where its rows have shapes of their own."""
    try:
        array = np.asarray(column)
    except ValueError as error:
        raise NotAcceptable(
            f"Accept: one array carries rows of one shape, and those of output {name!r} differ; ask for {JSON}",
            cause=error,
        ) from error
    if array.dtype.kind not in "biuf":
        raise PredictFailed(f"output {name!r}: expected numbers, got an array of {array.dtype}")
    return array


def _plain_array(array: Any) -> Any:
    """An array of numbers as orjson takes it: native and contiguous; of all else the values.

    No number takes the way over Python's float, which would give a float32 the digits of a double.
    """
    if array.dtype.kind not in "biuf":
        return array.tolist()
    dtype = np.dtype(np.float32) if array.dtype == np.float16 else array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array, dtype) if array.ndim else array.astype(dtype)[()]


def _check_all_finite(name: str, column: Any) -> None:
    if isinstance(column, np.ndarray):
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            raise _not_a_number(name, int(np.argwhere(~np.isfinite(column))[0][0]))
        return
    for i, value in enumerate(column):
        try:
            _check_finite(name, value, i)
        except RecursionError as error:
            raise PredictFailed(f"output {name!r}, row {i}: nested too deep for JSON", cause=error) from error


def _check_finite(name: str, value: Any, row: int) -> None:
    if isinstance(value, (float, np.floating)):
        if not math.isfinite(value):
            raise _not_a_number(name, row)
    elif isinstance(value, np.ndarray):
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise _not_a_number(name, row)
    elif isinstance(value, Mapping):
        for item in value.values():
            _check_finite(name, item, row)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for member in dataclasses.fields(value):
            _check_finite(name, getattr(value, member.name), row)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            _check_finite(name, item, row)


def _not_a_number(name: str, row: int) -> Unprocessable:
    return Unprocessable(
        f"output {name}, row {row}: the model's answer holds NaN or Infinity, which JSON cannot carry; "
        "text/csv and application/x-npy can"
    )


def _dump(document: Any, outputs: Mapping[str, Any], nan: Nan) -> bytes:
    """Raises Unprocessable or PredictFailed that names which of the `outputs` in the document is at fault."""
    try:
        return _checked(_json_bytes(document), outputs, nan)
    except NOT_JSON as error:
        if nan == "error":
            _check_outputs(outputs)
        for name, column in outputs.items():
            try:
                _json_bytes(column)
            except NOT_JSON as fault:
                raise PredictFailed(
                    f"output {name!r}: the predictor's result is not JSON: {fault}", cause=fault
                ) from fault
        raise PredictFailed(f"the predictor's result is not JSON: {error}", cause=error) from error


def _checked(text: bytes, outputs: Mapping[str, Any], nan: Nan) -> bytes:
    # orjson writes null for NaN and the infinities, so without a null there is no need to look for them.
    if nan == "error" and b"null" in text:
        _check_outputs(outputs)
    return text


def _check_outputs(outputs: Mapping[str, Any]) -> None:
    for name, column in outputs.items():
        _check_all_finite(name, column)


def _json_bytes(document: Any) -> bytes:
    return orjson.dumps(document, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def _plain(value: Any) -> Any:
    """What orjson cannot write by itself, but JSON can carry."""
    if isinstance(value, np.ndarray):
        return _plain_array(value)
    if isinstance(value, np.generic):
        return np.float32(value) if isinstance(value, np.float16) else value.item()
    if isinstance(value, (set, frozenset)):
        try:
            return sorted(value)
        except TypeError:  # of several kinds
            return list(value)
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")


def _csv(columns: Mapping[str, Column], rows: int, signature: Signature) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    for i in range(rows):
        cells: list[str] = []
        for name in signature.outputs:
            value = columns[name][i]
            cells += [_cell(item) for item in np.ravel(value)] if np.ndim(value) else [_cell(value)]
        writer.writerow(cells)
    return buffer.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> str:
    if isinstance(value, np.generic):
        # A float32 as short as float32 can be told apart, not with the digits of a double.
        return str(value) if isinstance(value, np.floating) else str(value.item())
    return str(value)
