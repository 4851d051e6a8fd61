"""What a sample says, apart from any platform: rows of values, one item, or a body that only HTTP can carry.

Values stay as the sample has them: whether they are right is what the platforms are asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from servekit import codecs
from servekit.codecs import Limits, jsonbody
from servekit.codecs.decode import JSON_LINES, is_json
from servekit.codecs.media import charset_of, decode_text, parse_media_type
from servekit.contract import COMMON_ENVELOPES, Infer
from servekit.errors import ServeError
from servekit.parity.samples import Sample, Upload
from servekit.signature import File, Image, Json, Signature, Tensor, Text

# Beside those that servekit itself knows: the form of ModelArts' own rows.
ROWS_AT = (("data", "req_data"), ("req_data",), ("instances",))
TABLES = frozenset(["text/csv", "application/x-npy", "application/x-npz"]) | JSON_LINES


@dataclass(frozen=True, slots=True)
class Item:
    """One value for each input that came: JSON, or a file."""

    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """rows: JSON values, as `instances` has them. as_is: SageMaker takes the sample's own body."""

    rows: list[Any]
    as_is: bool


@dataclass(frozen=True, slots=True)
class Opaque:
    """A body that says nothing of items. reason: why, in words that follow a colon. broken: it is not even JSON."""

    reason: str
    broken: bool = False


Content = Item | Rows | Opaque


def read(sample: Sample, signature: Signature) -> Content:
    if sample.files:
        values = {name: _value(upload, name, signature) for name, upload in sample.files.items()}
        return Item(values)
    kind, parameters = parse_media_type(sample.content_type)
    if is_json(kind):
        return _json(sample.body, parameters, signature)
    if kind in TABLES:
        return _table(sample, signature)
    only = signature.only_input
    if only is None:
        return Opaque(f"a body of {kind} is one value, and the inputs are {', '.join(signature.inputs)}")
    name, spec = only
    picture = kind.startswith("image/") or kind == "application/octet-stream"
    if isinstance(spec, (Image, File)) and picture:
        return Item({name: Upload(sample.name, kind, sample.body)})
    if isinstance(spec, Text) and kind == "text/plain" and sample.body:
        return _text(sample, name, parameters)
    return Opaque(f"a body of {kind} for {spec}")


def values_by_name(row: Any, signature: Signature) -> dict[str, Any] | None:
    """A row as an object by input names; None where it is none."""
    only = signature.only_input
    if only is None:
        return row if isinstance(row, dict) else None
    name, spec = only
    if isinstance(spec, (Text, Image, File)) or not isinstance(row, dict):
        return row if isinstance(row, dict) and set(row) == {name} else {name: row}
    return row if set(row) == {name} and not isinstance(spec, Json) else {name: row}


def _value(upload: Upload, name: str, signature: Signature) -> Any:
    """A JSON value is sent as one; all else is a file."""
    spec = signature.inputs.get(name)
    if isinstance(spec, (Image, File)) or spec is None or not upload.filename.endswith((".json", ".txt")):
        return upload
    try:
        return upload.body.decode() if isinstance(spec, Text) else jsonbody.parse(upload.body)
    except (ServeError, UnicodeDecodeError):
        return upload


def _text(sample: Sample, name: str, parameters: dict[str, str]) -> Content:
    """Forms and files have texts in UTF-8, so that only such bytes can be handed on unread."""
    charset = ""
    try:
        charset = charset_of(parameters)
        return Item({name: decode_text(sample.body, charset)})
    except ServeError:
        if charset == "utf-8":
            return Item({name: Upload(sample.name, "text/plain", sample.body)})
        return Opaque("its text cannot be read by its charset")


def _json(body: bytes, parameters: dict[str, str], signature: Signature) -> Content:
    charset = ""
    try:
        charset = charset_of(parameters)
        document = jsonbody.parse(body if charset == "utf-8" else decode_text(body, charset))
    except ServeError:
        return Opaque("the body is not JSON", broken=charset == "utf-8")
    if isinstance(document, list):
        return Rows(document, as_is=True)
    if not isinstance(document, dict):
        only = signature.only_input
        takes = only is not None and isinstance(only[1], (Tensor, Text, Json))
        return Item({only[0]: document}) if only is not None and takes else Opaque("a lone JSON value")
    if all(name in document for name in signature.inputs):
        return Item(document)
    for path in ROWS_AT:
        value: Any = document
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, list):
            return Rows(value, as_is=any(envelope.rows_at == path for envelope in COMMON_ENVELOPES))
    columns = document.get("inputs")
    if isinstance(columns, dict) and columns and all(isinstance(column, list) for column in columns.values()):
        count = {len(column) for column in columns.values()}
        if len(count) == 1 and set(columns) == set(signature.inputs):
            rows = [{name: column[i] for name, column in columns.items()} for i in range(count.pop())]
            return Rows([_bare(row) for row in rows], as_is=True)
    only = signature.only_input
    if only is not None and isinstance(only[1], Json):
        return Item({only[0]: document})
    if any(name in document for name in signature.inputs):
        return Item(document)
    return Opaque("a JSON object with neither the inputs nor rows in it")


def _table(sample: Sample, signature: Signature) -> Content:
    """A table's rows are read here as the server will read them; where that fails, the body is sent as it is."""
    try:
        decoded = codecs.decode(Infer(sample.body, sample.content_type, None), signature, Limits())
    except ServeError as error:
        return Opaque(f"its rows cannot be read ({error.kind})")
    columns = {
        name: [value.tolist() if hasattr(value, "tolist") else value for value in column]
        for name, column in decoded.columns.items()
    }
    rows = [{name: column[i] for name, column in columns.items()} for i in range(decoded.rows)]
    return Rows([_bare(row) for row in rows], as_is=True)


def _bare(row: dict[str, Any]) -> Any:
    """A row of one input is its value: of a Json input an object would be the value itself."""
    return next(iter(row.values())) if len(row) == 1 else row
