"""Which codec reads a body, and which types a predictor can take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from servekit.codecs import form, image, jsonbody, npy, table, v2
from servekit.codecs.media import charset_of, decode_text, parse_media_type, shown
from servekit.codecs.nouns import ITEM, Decoded, Form, Limits
from servekit.codecs.values import array_column, column_of
from servekit.contract import INSTANCES, Infer
from servekit.errors import InvalidInput, UnsupportedMediaType
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text

JSON_LINES = frozenset(
    [
        "application/jsonlines",
        "application/x-jsonlines",
        "application/jsonl",
        "application/x-ndjson",
        "application/ndjson",
    ]
)
NPY, NPZ = "application/x-npy", "application/x-npz"
OCTETS = "application/octet-stream"
FORM, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
ROWS = Form("rows", INSTANCES)


def decode(call: Infer, signature: Signature, limits: Limits) -> Decoded:
    """The rows of a request body.

    Raises InvalidInput, TooLarge, and UnsupportedMediaType naming what the predictor takes.
    """
    kind, parameters = parse_media_type(call.content_type or "")
    body = call.body
    if not body and kind != FORM:
        raise InvalidInput(f"empty body: expected {' or '.join(accepted_types(signature))}")
    if kind == URLENCODED or not (call.content_type or "").strip():
        # curl names this type for every --data, whatever the data is.
        return _sniff(call, signature, limits, urlencoded=bool(kind))
    if kind == v2.BINARY and v2.carries_inputs(signature):
        return _binary_tensors(body, parameters, signature, limits)
    if is_json(kind):
        charset = charset_of(parameters)
        return jsonbody.decode(call, body if charset == "utf-8" else decode_text(body, charset), signature, limits)
    if kind == FORM:
        return form.decode(body, parameters.get("boundary"), call.fields, signature, limits)
    if kind not in accepted_types(signature) and not _is_picture(kind):
        raise _unsupported(call.content_type, signature)
    if kind == "text/csv":
        return table.decode_csv(decode_text(body, charset_of(parameters)), signature, limits)
    if kind in JSON_LINES:
        return table.decode_json_lines(decode_text(body, charset_of(parameters)), signature, limits)
    if kind == NPZ:
        return _arrays(npy.decode_npz(body, list(signature.inputs), limits), signature, limits)
    only = signature.only_input
    if only is None:
        raise _unsupported(call.content_type, signature)
    name, spec = only
    if kind == NPY and isinstance(spec, (Tensor, Image)):
        return _arrays({name: npy.decode(body, f"npy: {name}")}, signature, limits)
    if kind == "text/plain" and isinstance(spec, Text):
        return Decoded(1, {name: [decode_text(body, charset_of(parameters))]}, ITEM)
    if isinstance(spec, Image) and (_is_picture(kind) or kind == OCTETS):
        return Decoded(1, {name: image.decode(body, spec, limits, name)[None]}, ITEM)
    if isinstance(spec, File) and (_is_picture(kind) or kind == OCTETS):
        return Decoded(1, {name: [body]}, ITEM)
    raise _unsupported(call.content_type, signature)


def accepted_types(signature: Signature) -> list[str]:
    """The content types that this predictor takes, most natural first."""
    types = ["application/json", "application/jsonlines", FORM]
    specs = list(signature.inputs.values())
    if all(isinstance(spec, (Tensor, Text, Json)) for spec in specs):
        types.append("text/csv")
    if all(isinstance(spec, (Tensor, Image)) for spec in specs):
        types += [NPY, NPZ] if len(specs) == 1 else [NPZ]
    if v2.carries_inputs(signature):
        types.append(v2.BINARY)
    if len(specs) == 1:
        match specs[0]:
            case Text():
                types.insert(0, "text/plain")
            case Image():
                types[:0] = ["image/*", OCTETS]
            case File():
                types[:0] = [OCTETS, "image/*"]
    return types + [kind for kind in sorted(JSON_LINES) if kind not in types]


def is_json(kind: str) -> bool:
    """application/json, text/json, and every `+json` type."""
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def decode_file(spec: Spec, name: str, body: bytes, media_types: Sequence[str], filename: str, limits: Limits) -> Any:
    """One item from a file of its own: an array of the input's shape, a str, bytes, or a JSON value."""
    if isinstance(spec, (Image, File)):
        part = form.Part(name, filename, "", body)
        return form.uploads([part], spec, limits)[0]
    kinds = [parse_media_type(media_type)[0] for media_type in media_types]
    if isinstance(spec, Tensor) and ("text/csv" in kinds or filename.endswith(".csv")):
        return form.csv_item(decode_text(body), spec, name, limits)
    if isinstance(spec, Text):
        return decode_text(body)
    if body.startswith(b"\x93NUMPY") and isinstance(spec, Tensor):
        column = array_column(npy.decode(body, name), spec, name, limits)
        if len(column) != 1:
            raise InvalidInput(f"{name}: expected one item, {spec}, got {len(column)} rows")
        return column[0]
    jsonbody.check_objects(body, limits)
    return column_of([jsonbody.parse(body)], spec, lambda _: name, limits)[0]


def decode_json_item(body: bytes, signature: Signature, limits: Limits) -> dict[str, Any]:
    """One item from a JSON object of all inputs by name."""
    jsonbody.check_objects(body, limits)
    columns = jsonbody.item(jsonbody.parse(body), signature, limits, "body").columns
    return {name: column[0] for name, column in columns.items()}


def _sniff(call: Infer, signature: Signature, limits: Limits, *, urlencoded: bool) -> Decoded:
    only = signature.only_input
    if only is not None and isinstance(only[1], Text):
        return Decoded(1, {only[0]: [decode_text(call.body)]}, ITEM)
    if call.body.removeprefix(jsonbody.BYTE_ORDER_MARK).lstrip()[:1] not in (b"{", b"["):
        if urlencoded:
            fields = form.decode_urlencoded(call.body, call.fields, signature, limits)
            if fields is not None:
                return fields
        if only is not None and isinstance(only[1], Image):
            return Decoded(1, {only[0]: image.decode(call.body, only[1], limits, only[0])[None]}, ITEM)
        if only is not None and isinstance(only[1], File):
            return Decoded(1, {only[0]: [call.body]}, ITEM)
    return jsonbody.decode(call, call.body, signature, limits)


def _binary_tensors(body: bytes, parameters: dict[str, str], signature: Signature, limits: Limits) -> Decoded:
    size = v2.head_size(parameters, len(body))
    head = body[:size]
    jsonbody.check_objects(head, limits)
    bools = jsonbody.may_hold_bools(head)
    return v2.decode(jsonbody.parse(head), memoryview(body)[size:], signature, limits, bools=bools)


def _arrays(arrays: dict[str, Any], signature: Signature, limits: Limits) -> Decoded:
    columns = {name: array_column(arrays[name], spec, name, limits) for name, spec in signature.inputs.items()}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        got = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise InvalidInput(f"npz: expected as many rows for every input, got {got}")
    return Decoded(lengths.pop(), columns, ROWS)


def _is_picture(kind: str) -> bool:
    return kind.startswith("image/") or kind == "application/x-image"


def _unsupported(content_type: str | None, signature: Signature) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"Content-Type: expected {' or '.join(accepted_types(signature))}, got {shown(content_type or '')}"
    )
