"""Each platform's own form of a sample, and its answer read back.

    sagemaker   POST /invocations with the sample's body; several inputs as multipart/form-data
    modelarts   POST to the path of config.json: `data.req_data` for rows, an object for an item, a form for uploads,
                and for everything where config.json says so
    modzy       POST /run for each row, its inputs as files in a directory, its results read from another one
    others      the route that predicts, as SageMaker's

What a platform has no form for is said: it is never passed over.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from servekit.contract import Infer, InferFiles, InputFile, Reply, Request, Route
from servekit.errors import ConfigError, ServeError
from servekit.parity import answers, reading
from servekit.parity.answers import Answered, NotExpressible, Outcome
from servekit.parity.reading import Item, Opaque, Rows
from servekit.parity.samples import Sample, Upload
from servekit.signature import File, Image, Json, Signature, Tensor, Text

JSON = "application/json"
MODELARTS, MODZY = "modelarts", "modzy"
# Each is a request of its own.
MAX_JOBS = 64
MAX_FORM_PARTS = 100
MAX_CONFIG_BYTES = 1024 * 1024

Header = tuple[str, str]


class Door(Protocol):
    """One platform's server, wherever it runs."""

    def ask(self, method: str, path: str, headers: Sequence[Header] = (), body: bytes = b"") -> Reply: ...


@dataclass(frozen=True, slots=True)
class Sent:
    """One request over HTTP. many: it holds rows, not one item."""

    path: str
    headers: tuple[Header, ...]
    body: bytes
    many: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """One platform's side of a target. takes_forms: its config.json declares multipart/form-data for the route."""

    platform: str
    signature: Signature
    route: Route
    takes_forms: bool = False

    @property
    def files(self) -> InferFiles | None:
        """What a job on files reads and writes; None where the route takes values."""
        job = {"type": "file", "input": "/input", "output": "/output"}
        call = _parsed(self.route, JSON, json.dumps(job).encode())
        return call if isinstance(call, InferFiles) else None


class NoRoute(ConfigError):
    """The platform takes no body by POST here: nothing can be expressed."""


def site(platform: str, routes: Sequence[Route], signature: Signature, search: Sequence[Path]) -> Site:
    """Raises NoRoute."""
    takes = [route for route in routes if "POST" in route.methods and route.takes_body]
    if not takes:
        raise NoRoute(f"{platform} has no route here that takes a body by POST")
    route = takes[0]
    return Site(platform, signature, route, platform == MODELARTS and _declares_form(route.path, search))


def ask(door: Door, where: Site, sample: Sample, folder: Path) -> Outcome:
    """The sample through one platform. folder: an empty one, for the files of jobs."""
    if where.files is not None:
        return _jobs(door, where, where.files, sample, folder)
    sent = request(where, sample)
    if isinstance(sent, NotExpressible):
        return sent
    reply = door.ask("POST", sent.path, sent.headers, sent.body)
    return answers.results(reply, where.signature, many=sent.many)


def request(where: Site, sample: Sample) -> Sent | NotExpressible:
    """The sample as one request over HTTP."""
    if where.platform == MODELARTS:
        return _modelarts(where, sample)
    return _invocation(where, sample)


# --- HTTP ---


def _invocation(where: Site, sample: Sample) -> Sent | NotExpressible:
    """The sample's own body, with its own type."""
    if not isinstance(_parsed(where.route, JSON, b"{}"), (Infer, type(None))):
        return NotExpressible(f"{where.route.path} does not take values")
    content = reading.read(sample, where.signature)
    if sample.files:
        assert isinstance(content, Item)  # noqa: S101 - that is what files are read as
        return _form(where, sample, [content.values])
    if isinstance(content, Rows) and not content.as_is:
        return _json(where, sample, {"instances": content.rows}, many=True) or NotExpressible("JSON has no NaN")
    return Sent(where.route.path, _headers(sample, sample.content_type), sample.body, isinstance(content, Rows))


def _modelarts(where: Site, sample: Sample) -> Sent | NotExpressible:
    content = reading.read(sample, where.signature)
    as_is = Sent(where.route.path, _headers(sample, sample.content_type), sample.body, isinstance(content, Rows))
    if isinstance(content, Opaque):
        return as_is
    if isinstance(content, Item):
        uploads = any(isinstance(value, Upload) for value in content.values.values())
        if where.takes_forms or uploads:
            return _form(where, sample, [content.values])
        return _json(where, sample, content.values, many=False) or as_is
    if where.takes_forms:
        rows = [reading.values_by_name(row, where.signature) for row in content.rows]
        named = [row for row in rows if row is not None]
        if len(named) < len(rows) or not rows:
            return NotExpressible("config.json declares a form, whose fields have names, and the rows are not objects")
        return _form(where, sample, named)
    only = where.signature.only_input
    rows_sent = content.rows
    if only is not None and not isinstance(only[1], Json):
        rows_sent = [row if isinstance(row, dict) else {only[0]: row} for row in rows_sent]
    return _json(where, sample, {"data": {"req_data": rows_sent}}, many=True) or as_is


def _json(where: Site, sample: Sample, document: Any, *, many: bool) -> Sent | None:
    try:
        body = json.dumps(document, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError):
        return None  # NaN, which JSON cannot carry
    return Sent(where.route.path, _headers(sample, JSON), body, many)


def _form(where: Site, sample: Sample, rows: list[dict[str, Any]]) -> Sent | NotExpressible:
    """Several rows are several parts of one name."""
    parts = [(name, _part(value, where.signature, name)) for row in rows for name, value in row.items()]
    if len(parts) > MAX_FORM_PARTS:
        return NotExpressible(f"a form of {len(parts)} parts; at most {MAX_FORM_PARTS} are sent")
    boundary = "servekit-parity"
    while any(boundary.encode() in part.body for _, part in parts):
        boundary += "-"
    body = bytearray()
    for name, part in parts:
        if not (name.isprintable() and '"' not in name and part.filename.isprintable() and '"' not in part.filename):
            return NotExpressible(f"a form field cannot be called {name!r:.80}")
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        head += f'; filename="{part.filename}"' if part.filename else ""
        head += f"\r\nContent-Type: {part.content_type}" if part.content_type else ""
        body += head.encode() + b"\r\n\r\n" + part.body + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    content_type = f"multipart/form-data; boundary={boundary}"
    return Sent(where.route.path, _headers(sample, content_type), bytes(body), len(rows) > 1)


def _part(value: Any, signature: Signature, name: str) -> Upload:
    if isinstance(value, Upload):
        return value
    spec = signature.inputs.get(name)
    if isinstance(spec, (Image, File)):
        decoded = _base64(value)
        if decoded is not None:
            return Upload(name, "", decoded)
    # A plain field of a text is the text; all else is JSON.
    plain = isinstance(value, str) and (isinstance(spec, Text) or (isinstance(spec, Tensor) and spec.dtype == "str"))
    return Upload("", "", value.encode("utf-8", "surrogatepass") if plain else json.dumps(value).encode())


def _headers(sample: Sample, content_type: str) -> tuple[Header, ...]:
    accept = sample.accept or JSON
    return (("Content-Type", content_type), ("Accept", accept)) if content_type else (("Accept", accept),)


# --- files ---


def _jobs(door: Door, where: Site, files: InferFiles, sample: Sample, folder: Path) -> Outcome:
    """A job for each row. The rows' answers; the first error where one fails, as one request would have it."""
    planned = jobs(where, files, sample)
    if isinstance(planned, NotExpressible):
        return planned
    rows: list[answers.Row] = []
    for number, inputs in enumerate(planned):
        source, target = folder / f"in{number}", folder / f"out{number}"
        write(inputs, source)
        reply = door.ask("POST", where.route.path, (("Content-Type", JSON),), job(source, target))
        if reply.status not in answers.SUCCESS:
            return answers.failure(reply)
        try:
            rows.append(_written(files, where.signature, target))
        except (OSError, ValueError, KeyError, TypeError) as error:
            return answers.Failed(frozenset(["not understood"]), reply.status, f"its results cannot be read: {error}")
    return Answered(rows)


def job(source: Path, target: Path) -> bytes:
    return json.dumps({"type": "file", "input": str(source), "output": str(target)}).encode()


def write(inputs: dict[str, bytes], folder: Path) -> None:
    folder.mkdir()
    for filename, body in inputs.items():
        (folder / filename).write_bytes(body)


def jobs(where: Site, files: InferFiles, sample: Sample) -> list[dict[str, bytes]] | NotExpressible:
    """The input files of each row, by name."""
    if sample.accept:
        return NotExpressible("a job has no Accept: its files have the types that model.yaml gives them")
    content = reading.read(sample, where.signature)
    if isinstance(content, Opaque):
        if content.broken and len(files.inputs) == 1 and _holds_json(files.inputs[0], where.signature):
            return [{files.inputs[0].filename: sample.body}]
        return NotExpressible(f"there is no file to put this into: {content.reason}")
    items = [content.values] if isinstance(content, Item) else content.rows
    if not items:
        return NotExpressible("no rows are no job")
    if len(items) > MAX_JOBS:
        return NotExpressible(f"{len(items)} rows are as many jobs; at most {MAX_JOBS} are tried")
    planned = []
    for item in items:
        values = item if isinstance(content, Item) else reading.values_by_name(item, where.signature)
        inputs = _input_files(values, files, where.signature)
        if isinstance(inputs, NotExpressible):
            return inputs
        planned.append(inputs)
    return planned


def _input_files(
    values: dict[str, Any] | None, files: InferFiles, signature: Signature
) -> dict[str, bytes] | NotExpressible:
    if values is None:
        return NotExpressible("a row that is no object does not say which file its values belong into")
    unknown = [name for name in values if name not in signature.inputs]
    if unknown:
        return NotExpressible(f"no file would be read for {unknown[0]!r:.80}")
    found: dict[str, bytes] = {}
    for file in files.inputs:
        if file.input is None:
            if any(isinstance(value, Upload) for value in values.values()):
                return NotExpressible(f"{file.filename} holds all inputs as JSON, and one is a file")
            found[file.filename] = json.dumps(values).encode()
        elif file.input in values:  # a file that is missing is what the platform is asked about
            body = _file_body(values[file.input], file, signature)
            if isinstance(body, NotExpressible):
                return body
            found[file.filename] = body
    return found


def _takes_csv(file: InputFile) -> bool:
    return file.filename.endswith(".csv") or "text/csv" in file.media_types


def _holds_json(file: InputFile, signature: Signature) -> bool:
    return file.input is None or isinstance(signature.inputs[file.input], (Tensor, Json))


def _file_body(value: Any, file: InputFile, signature: Signature) -> bytes | NotExpressible:
    spec = signature.inputs[file.input or ""]
    if isinstance(value, Upload):
        if isinstance(spec, Tensor) and value.content_type == "text/csv" and not _takes_csv(file):
            return NotExpressible(f"{file.filename} holds JSON or an npy array, and {value.filename} is CSV")
        return value.body
    if isinstance(spec, (Image, File)):
        body = _base64(value)
        return NotExpressible(f"{file.filename} holds bytes, and the value is no base64") if body is None else body
    if isinstance(spec, Text):
        if not isinstance(value, str):
            return NotExpressible(f"{file.filename} holds a text, and the value is none")
        return value.encode("utf-8", "surrogatepass")
    try:
        if isinstance(spec, Tensor) and _takes_csv(file):
            cells = np.array(value, object).ravel()
            return ",".join("" if cell is None else str(cell) for cell in cells).encode()
        return json.dumps(value, allow_nan=False).encode()
    except ValueError:
        # NaN: JSON has none, and an array file has.
        buffer = io.BytesIO()
        np.save(buffer, np.array(value, np.float64)[np.newaxis], allow_pickle=False)
        return buffer.getvalue()


def _written(files: InferFiles, signature: Signature, folder: Path) -> answers.Row:
    """The outputs of a job, by name."""
    row: answers.Row = {}
    for file in files.outputs:
        body = (folder / file.filename).read_bytes()
        if file.output is not None:
            row[file.output] = answers.file_value(body, file.media_type)
        elif not row:
            result = json.loads(body)["data"]["result"]
            row.update(result if isinstance(result, dict) else {"": result})
    return {name: row[name] for name in signature.outputs if name in row} or row


# --- small things ---


def _base64(value: Any) -> bytes | None:
    text = value["b64"] if isinstance(value, dict) and set(value) == {"b64"} else value
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        return None


def _parsed(route: Route, content_type: str, body: bytes) -> Any:
    try:
        return route.parse(Request("POST", route.path, headers=[(b"content-type", content_type.encode())], body=body))
    except ServeError:
        return None


def _declares_form(path: str, search: Sequence[Path]) -> bool:
    """Does config.json name a form for this route? That it is sound is known: the routes were made of it."""
    for directory in search:
        file = directory / "config.json"
        if file.is_file() and file.stat().st_size <= MAX_CONFIG_BYTES:
            apis = json.loads(file.read_bytes()).get("apis") or []
            for api in apis:
                side = api.get("request", {})
                content_type = next((value for key, value in side.items() if key.lower() == "content-type"), "")
                if api.get("url", "/") == path and str(api.get("method", "post")).upper() == "POST":
                    return str(content_type).lower().startswith("multipart/form-data")
            return False
    return False
