"""multipart/form-data (RFC 7578) and urlencoded fields: uploads and values by input name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import multipart

from servekit.codecs import image, jsonbody, npy, table
from servekit.codecs.media import decode_text, parse_media_type, shown
from servekit.codecs.nouns import ITEM, Column, Decoded, Form, Limits
from servekit.codecs.values import array_column, column_of, describe, fits, stack
from servekit.contract import INSTANCES
from servekit.errors import InvalidInput, TooLarge
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text

MAX_FIELDS = 1000


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form; `filename` is None for a plain value."""

    name: str
    filename: str | None
    content_type: str
    body: bytes

    @property
    def label(self) -> str:
        return self.name if self.filename is None else f"{self.name} ({shown(self.filename)})"


def decode(
    body: bytes, boundary: str | None, fields: Sequence[tuple[str, str]], signature: Signature, limits: Limits
) -> Decoded:
    """The rows of a form: several parts under one name are several rows. Raises InvalidInput, TooLarge."""
    if not boundary:
        raise InvalidInput("Content-Type: expected multipart/form-data with a boundary, got none")
    return _from_parts(_parts(body, boundary, limits), fields, signature, limits)


def decode_urlencoded(
    body: bytes, fields: Sequence[tuple[str, str]], signature: Signature, limits: Limits
) -> Decoded | None:
    """The rows of `name=value&...`; None when no name is an input's."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except (UnicodeDecodeError, ValueError):
        return None
    if not any(name in signature.inputs for name, _ in pairs):
        return None
    parts = [Part(name, None, "", value.encode("utf-8", "surrogateescape")) for name, value in pairs]
    return _from_parts(parts, fields, signature, limits)


def _parts(body: bytes, boundary: str, limits: Limits) -> list[Part]:
    parts: list[Part] = []
    segment: multipart.MultipartSegment | None = None
    chunks: list[bytes] = []
    try:
        with multipart.PushMultipartParser(
            boundary, max_segment_count=limits.max_form_parts, content_length=len(body)
        ) as parser:
            # An empty chunk tells the parser that nothing follows.
            for event in (event for chunk in (body, b"") for event in parser.parse(chunk)):
                if isinstance(event, multipart.MultipartSegment):
                    segment, chunks = event, []
                elif event:
                    chunks.append(bytes(event))
                elif segment is not None:
                    content_type = segment.header("Content-Type", "")
                    parts.append(Part(segment.name, segment.filename, content_type, b"".join(chunks)))
                    segment = None
    except multipart.ParserLimitReached as error:
        raise TooLarge(
            f"form: expected at most {limits.max_form_parts} parts with short headers, got more", cause=error
        ) from error
    except multipart.MultipartError as error:
        raise InvalidInput(f"form: expected multipart/form-data, got an error: {error}", cause=error) from error
    for part in parts:
        if part.filename is None and len(part.body) > limits.max_form_field_bytes:
            raise TooLarge(
                f"{part.label}: expected a field of at most {limits.max_form_field_bytes} bytes, got {len(part.body)}"
            )
    return parts


def _from_parts(parts: list[Part], fields: Sequence[tuple[str, str]], signature: Signature, limits: Limits) -> Decoded:
    by_name: dict[str, list[Part]] = {}
    for part in parts:
        name = part.name.removesuffix("[]") if part.name not in signature.inputs else part.name
        if name in signature.inputs:
            by_name.setdefault(name, []).append(part)
        elif part.filename is not None:
            raise InvalidInput(f"{shown(part.name)}: unknown file field, expected {', '.join(signature.inputs)}")
    for name, value in fields:
        if name in signature.inputs and name not in by_name:
            by_name[name] = [Part(name, None, "", value.encode())]
    for name, spec in signature.inputs.items():
        if name not in by_name:
            came = ", ".join(shown(part.name) for part in parts[:10]) or "none"
            raise InvalidInput(f"{name}: expected {spec} in a field of this name, got the fields {came}")
    counts = {name: len(by_name[name]) for name in signature.inputs}
    if len(set(counts.values())) > 1:
        got = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InvalidInput(f"form: expected as many fields for every input, got {got}")
    rows = next(iter(counts.values()))
    columns = {name: _column(by_name[name], spec, limits) for name, spec in signature.inputs.items()}
    return Decoded(rows, columns, ITEM if rows == 1 else Form("rows", INSTANCES))


def _column(parts: list[Part], spec: Spec, limits: Limits) -> Column:
    if isinstance(spec, (Image, File)):
        return uploads(parts, spec, limits)
    return column_of([_value(part, spec, limits) for part in parts], spec, lambda i: parts[i].label, limits)


def uploads(parts: list[Part], spec: Image | File, limits: Limits) -> Column:
    """The column of an input that takes files."""
    for part in parts:
        if part.filename is None:
            raise InvalidInput(f"{part.label}: expected an uploaded file ({spec}), got a text field")
    if isinstance(spec, File):
        return [part.body for part in parts]
    return stack(image.decode_all(((part.label, part.body) for part in parts), spec, limits))


def _value(part: Part, spec: Spec, limits: Limits) -> Any:
    """The JSON value, text or nested list that a part holds.

    A plain field of a Json input that is no JSON is the text that it is (`-F mode=fast`); a file must be JSON.
    """
    if isinstance(spec, Text):
        return _text(part)
    kind, _ = parse_media_type(part.content_type)
    if kind == "application/x-npy" or part.body.startswith(b"\x93NUMPY"):
        return _array_value(part, spec, limits)
    if kind == "text/csv" and isinstance(spec, Tensor):
        return csv_item(_text(part), spec, part.name, limits).tolist()
    if isinstance(spec, Tensor) and spec.dtype == "str" and not spec.shape:
        return _text(part)
    jsonbody.check_objects(part.body, limits)
    try:
        return jsonbody.parse(part.body)
    except InvalidInput as error:
        if isinstance(spec, Json) and part.filename is None:
            return _text(part)
        came = (
            describe(_text(part)) if part.filename is None else error.message.removeprefix("body: expected JSON, got ")
        )
        raise InvalidInput(f"{part.label}: expected {spec}, got {came}", cause=error) from error


def csv_item(text: str, spec: Tensor, name: str, limits: Limits) -> Any:
    """One item, an array of the input's shape, from one line of CSV."""
    decoded = table.decode_csv(text, Signature({name: spec}, {name: spec}), limits)
    if decoded.rows != 1:
        raise InvalidInput(f"{name}: expected 1 line of CSV, got {decoded.rows}")
    return decoded.columns[name][0]


def _array_value(part: Part, spec: Spec, limits: Limits) -> Any:
    if not isinstance(spec, Tensor):
        raise InvalidInput(f"{part.label}: expected {spec}, got an npy array")
    array = npy.decode(part.body, part.label)
    if not fits(array.shape, spec.shape):
        raise InvalidInput(f"{part.label}: expected {spec}, got an array of shape {array.shape}")
    column = array_column(array, spec, part.label, limits)
    return column[0].tolist()


def _text(part: Part) -> str:
    try:
        return decode_text(part.body)
    except InvalidInput as error:
        raise InvalidInput(f"{part.label}: expected UTF-8 text, got other bytes", cause=error) from error
