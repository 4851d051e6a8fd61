"""Results -> bytes, in the media type that the caller likes best."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import orjson

from servekit.codecs import image, npy
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
        default = offered[0]  # what a single picture or file is naturally sent as
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
    if len(specs) == 1:
        match specs[0]:
            case Text() | Tensor(shape=()):
                types.append(PLAIN)
            case Image():
                types.insert(0, PNG)
            case File():
                types.insert(0, OCTETS)
    return types


def encode(
    media_type: str, form: Form, columns: Mapping[str, Column], rows: int, signature: Signature, *, nan: Nan = "error"
) -> bytes:
    """The answer to one request: `columns` holds `rows` results of every declared output.

    Raises Unprocessable for NaN and Infinity in JSON (unless nan="null"), NotAcceptable when the type cannot carry
    several rows, PredictFailed for values that no JSON has.
    """
    if media_type == JSON:
        return _json(form, columns, rows, signature, nan)
    if media_type in JSON_LINES:
        ready = {name: _ready(name, columns[name], spec, nan) for name, spec in signature.outputs.items()}
        return b"".join(_dump({name: ready[name][i] for name in ready}, ready) + b"\n" for i in range(rows))
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
    return _dump(_ready(name, [value], spec, nan)[0], {name: [value]})


def result_object(signature: Signature, columns: Mapping[str, Column], row: int) -> dict[str, Any]:
    """One row as an object by output names, ready for JSON."""
    return {
        name: _ready(name, columns[name][row : row + 1], spec, "error")[0] for name, spec in signature.outputs.items()
    }


def _json(form: Form, columns: Mapping[str, Column], rows: int, signature: Signature, nan: Nan) -> bytes:
    ready = {name: _ready(name, columns[name], spec, nan) for name, spec in signature.outputs.items()}
    envelope = form.envelope
    if form.kind == "item" or envelope is None:
        return _dump({name: column[0] for name, column in ready.items()}, ready)
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
    return _dump(results, ready)


def _ready(name: str, column: Column, spec: Spec, nan: Nan) -> Any:
    """A column that orjson can write."""
    if isinstance(spec, Image):
        return [base64.b64encode(image.encode(pixels, name)).decode() for pixels in column]
    if isinstance(spec, File):
        return [base64.b64encode(_bytes(name, value)).decode() for value in column]
    if isinstance(column, np.ndarray):
        return _ready_array(name, column, nan)
    if nan == "error":
        _check_all_finite(name, column)
    return column


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
            f"Accept: numpy's files carry rows of one shape, and those of output {name!r} differ; ask for {JSON}",
            cause=error,
        ) from error
    if array.dtype.kind not in "biuf":
        raise PredictFailed(f"output {name!r}: expected numbers, got an array of {array.dtype}")
    return array


def _ready_array(name: str, array: Any, nan: Nan) -> Any:
    if array.dtype.kind == "f":
        if nan == "error" and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise _not_a_number(name, row)
        if array.dtype.itemsize == 2:
            array = array.astype(np.float32)
    elif array.dtype.kind not in "biu":
        values = array.tolist()
        if nan == "error":
            _check_all_finite(name, values)
        return values
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(array)


def _check_all_finite(name: str, column: list[Any]) -> None:
    for i, value in enumerate(column):
        try:
            _check_finite(name, value, i)
        except RecursionError as error:
            raise PredictFailed(f"output {name!r}, row {i}: nested too deep for JSON", cause=error) from error


def _check_finite(name: str, value: Any, row: int) -> None:
    if isinstance(value, (float, np.floating)):
        if not np.isfinite(value):
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


def _dump(document: Any, outputs: Mapping[str, Any]) -> bytes:
    """Raises PredictFailed that names which of the `outputs` in the document is at fault."""
    try:
        return _json_bytes(document)
    except NOT_JSON as error:
        for name, column in outputs.items():
            try:
                _json_bytes(column)
            except NOT_JSON as fault:
                raise PredictFailed(
                    f"output {name!r}: the predictor's result is not JSON: {fault}", cause=fault
                ) from fault
        raise PredictFailed(f"the predictor's result is not JSON: {error}", cause=error) from error


def _json_bytes(document: Any) -> bytes:
    return orjson.dumps(document, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def _plain(value: Any) -> Any:
    """What orjson cannot write by itself, but JSON can carry."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
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
