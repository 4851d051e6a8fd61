"""What a platform's answer says, apart from the platform: rows by output names, or kinds of errors."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from servekit import errors
from servekit.codecs import Limits, npy
from servekit.codecs.media import parse_media_type
from servekit.contract import Reply
from servekit.errors import ServeError
from servekit.signature import Signature, Tensor, Text

Row = dict[str, Any]
MAX_MESSAGE_CHARS = 300
SUCCESS = range(200, 300)


@dataclass(frozen=True, slots=True)
class Answered:
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Failed:
    """kinds: those that the answer may mean; several where the platform's form does not tell them apart."""

    kinds: frozenset[str]
    status: int
    message: str

    def __str__(self) -> str:
        return " or ".join(sorted(self.kinds))


@dataclass(frozen=True, slots=True)
class NotExpressible:
    """The platform's form has no place for this sample."""

    reason: str


Outcome = Answered | Failed | NotExpressible


def _classes(root: type[ServeError]) -> Iterator[type[ServeError]]:
    yield root
    for child in root.__subclasses__():
        yield from _classes(child)


CLASSES = {cls.__name__: cls for cls in _classes(ServeError) if cls.__module__ == errors.__name__}
KINDS = {cls.kind for cls in CLASSES.values()}


def of_status(status: int) -> frozenset[str]:
    """What a status may mean where nothing else is said."""
    if status == 429:
        return frozenset([errors.Overloaded.kind])
    return frozenset(cls.kind for cls in CLASSES.values() if cls.status == status and cls is not ServeError)


# --- errors ---


def failure(reply: Reply) -> Failed:
    """The kind that the answer names in its own way, else what its status may mean."""
    document = _object(reply.body)
    message = next((str(document[key]) for key in ("message", "error_msg") if document.get(key)), "")
    message = message or reply.body[:MAX_MESSAGE_CHARS].decode("utf-8", "replace")
    kinds = _named(document, reply.status) or of_status(reply.status) or frozenset([f"status {reply.status}"])
    return Failed(kinds, reply.status, message[:MAX_MESSAGE_CHARS])


def _named(document: dict[str, Any], status: int) -> frozenset[str]:
    # SageMaker's form; ModelArts' form.
    for text in (document.get("error"), str(document.get("error_code", "")).rpartition(".")[2].lower()):
        if isinstance(text, str) and text in KINDS:
            return frozenset([text])
    # Modzy's form: a kind, or the name of the exception behind the error.
    technical = document.get("technicalInformation")
    name = technical.partition(":")[0] if isinstance(technical, str) else ""
    if name in KINDS:
        return frozenset([name])
    if name in CLASSES:
        return frozenset([CLASSES[name].kind])
    if name and status in (422, 500):
        # The predictor's own exception: it failed, or blamed the caller for it.
        kinds = (errors.PredictFailed.kind, errors.InvalidInput.kind, errors.Unprocessable.kind)
        return frozenset(kinds if status == 422 else kinds[:1])
    return frozenset()


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


# --- results ---


def results(reply: Reply, signature: Signature, *, many: bool = False) -> Outcome:
    """The rows of a reply over HTTP. many: rows were sent, not one item."""
    if reply.status not in SUCCESS:
        return failure(reply)
    try:
        return Answered(_rows(reply.body, reply.media_type, signature, many=many))
    except (ServeError, ValueError, KeyError, TypeError, RecursionError) as error:
        return Failed(
            frozenset(["not understood"]), reply.status,
            f"{reply.status} with a body that is not {reply.media_type}: {error}"[:MAX_MESSAGE_CHARS],
        )  # fmt: skip


def of_document(document: Any, signature: Signature, *, many: bool = False) -> list[Row]:
    """The rows of a JSON answer, in whichever form it has."""
    names = set(signature.outputs)
    if not isinstance(document, dict) or (set(document) == names and not many):
        return [document if isinstance(document, dict) else _by_name(document, signature)]
    inner = document.get("data") if "resp_data" not in document else document
    if isinstance(inner, dict) and isinstance(inner.get("resp_data"), list):
        return list(inner["resp_data"])
    if isinstance(document.get("predictions"), list):
        return [_by_name(value, signature) for value in document["predictions"]]
    columns = document.get("outputs")
    if isinstance(columns, dict) and set(columns) == names:
        count = len(next(iter(columns.values())))
        return [{name: columns[name][i] for name in signature.outputs} for i in range(count)]
    return [document]


def file_value(body: bytes, media_type: str) -> Any:
    """The value of one output in a file of its own."""
    kind, _ = parse_media_type(media_type)
    if kind == "application/json":
        return json.loads(body)
    if kind.startswith("text/"):
        return body.decode()
    return base64.b64encode(body).decode()


def _by_name(value: Any, signature: Signature) -> Row:
    if signature.only_output is not None:
        return {signature.only_output[0]: value}
    return value if isinstance(value, dict) else {"": value}


def _rows(body: bytes, media_type: str, signature: Signature, *, many: bool) -> list[Row]:
    kind, parameters = parse_media_type(media_type)
    only = signature.only_output
    if kind == "application/json":
        return of_document(json.loads(body), signature, many=many)
    if kind.endswith(("jsonlines", "ndjson")):
        return [_by_name(value, signature) if not isinstance(value, dict) else value for value in _lines(body)]
    if kind == "text/csv":
        return _csv(body, signature)
    if kind == "application/x-npy" and only is not None:
        return [{only[0]: value.tolist()} for value in npy.decode(body, only[0])]
    if kind == "application/x-npz":
        arrays = npy.decode_npz(body, list(signature.outputs), Limits())
        return [{name: array[i].tolist() for name, array in arrays.items()} for i in range(_count(arrays))]
    if kind == "text/plain" and only is not None:
        return [{only[0]: _cell(line, only[1])} for line in body.decode().removesuffix("\n").split("\n")]
    return [{only[0] if only else "body": base64.b64encode(body).decode(), **({"type": kind} if parameters else {})}]


def _count(arrays: dict[str, Any]) -> int:
    return len(next(iter(arrays.values())))


def _lines(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines() if line.strip()]


def _csv(body: bytes, signature: Signature) -> list[Row]:
    """By output names where each output is one cell, else the cells of the line."""
    lines = [line for line in csv.reader(io.StringIO(body.decode())) if line]
    specs = signature.outputs
    if all(isinstance(spec, Text) or (isinstance(spec, Tensor) and spec.shape == ()) for spec in specs.values()):
        return [
            {name: _cell(cell, spec) for (name, spec), cell in zip(specs.items(), line, strict=True)} for line in lines
        ]
    return [{"cells": [_number(cell) for cell in line]} for line in lines]


def _cell(cell: str, spec: Any) -> Any:
    if isinstance(spec, Tensor) and spec.dtype != "str":
        if spec.dtype == "bool":
            return cell.lower() == "true"
        return int(cell) if "int" in spec.dtype else float(cell)
    return cell


def _number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell
