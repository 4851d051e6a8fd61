"""Writing config.json: what this predictor takes and gives, in the vendor's dialect.

The counterpart of `config.py`, which reads leniently; here the canonical forms are written: `Content-type` spelled so,
`items` as a list of one schema that is every element's, numbers of the health check as strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from servekit.platforms.modelarts.config import FORM_TYPE, JSON_TYPE
from servekit.platforms.modelarts.contract import ENVELOPES
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text

if TYPE_CHECKING:
    from servekit.containers import Product

MAX_ALGORITHM = 36
# Keys that mean the rows of a table where they stand alone.
ROW_KEYS = frozenset(envelope.rows_at[0] for envelope in ENVELOPES if envelope.rows_at and not envelope.columns)
OWN_KEYS = frozenset(["data", "req_data"])
Schema = dict[str, Any]


def config(product: Product) -> bytes:
    """config.json of an image: no runtime, dependencies or swr_location, which are for the vendor's own engines."""
    document = {
        "model_algorithm": product.name[:MAX_ALGORITHM],
        "model_type": "Image",
        "apis": [_api(product)],
        "health": {"url": "/health", "protocol": "http", "initial_delay_seconds": "12", "timeout_seconds": "10"},
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    # A lone surrogate is no text in UTF-8; behind a backslash it is JSON.
    return text.encode("utf-8", "backslashreplace")


def _api(product: Product) -> dict[str, Any]:
    signature = product.signature
    inputs, outputs = _properties(signature.inputs), _properties(signature.outputs)
    content_type = JSON_TYPE
    if _takes_form(product):
        content_type = FORM_TYPE
        inputs |= {name: {"type": "file"} for name, spec in signature.inputs.items() if isinstance(spec, (Image, File))}
    elif _is_table(signature):
        inputs, outputs = _rows("req_data", _columns(signature)), _rows("resp_data", outputs)
    return {
        "protocol": "http",
        "url": "/",
        "method": "post",
        "request": {"Content-type": content_type, "data": _object(inputs)},
        # A lone picture or file is sent as it is when nobody asks for JSON, but the platform knows no other type here.
        "response": {"Content-type": JSON_TYPE, "data": _object(outputs)},
    }


def _takes_form(product: Product) -> bool:
    """Are files uploaded? A batch service uploads one file a request, and of several inputs makes JSON from a CSV."""
    inputs = product.signature.inputs
    holds_files = any(isinstance(spec, (Image, File)) for spec in inputs.values())
    return holds_files and not (product.batch and len(inputs) > 1)


def _is_table(signature: Signature) -> bool:
    """Is a request a list of rows, and not one item?"""
    names = set(signature.inputs)
    # An item that is alone under such a name would be taken for rows, and beside others rows for an item.
    if len(names) == 1 and names <= ROW_KEYS:
        return True
    if names & OWN_KEYS:
        return False
    return all(_is_scalar(spec) for spec in signature.inputs.values())


def _is_scalar(spec: Spec) -> bool:
    return not spec.shape if isinstance(spec, Tensor) else not isinstance(spec, Json)


def _columns(signature: Signature) -> Mapping[str, Schema]:
    only = signature.only_input
    # A row of a lone Json input is its value, whatever keys that has.
    return {} if only is not None and isinstance(only[1], Json) else _properties(signature.inputs)


def _rows(key: str, columns: Mapping[str, Schema]) -> dict[str, Schema]:
    return {"data": _object({key: {"type": "array", "items": [_object(columns)]}})}


def _object(properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties}


def _properties(specs: Mapping[str, Spec]) -> dict[str, Schema]:
    return {name: _schema(spec) for name, spec in specs.items()}


def _schema(spec: Spec) -> Schema:
    """One item, as JSON carries it. Pictures and files are texts in base64."""
    match spec:
        case Tensor():
            schema: Schema = {"type": _type(spec.dtype)}
            for dim in reversed(spec.shape):
                size = {} if dim is None else {"minItems": dim, "maxItems": dim}
                schema = {"type": "array", "items": [schema], **size}
            return schema
        case Json():
            # The dialect has no schema for any value; an object is what it mostly is.
            return {"type": "object"}
        case Text() | Image() | File():
            return {"type": "string"}


def _type(dtype: str) -> str:
    if dtype in ("bool", "str"):
        return {"bool": "boolean", "str": "string"}[dtype]
    return "number" if dtype.startswith("float") else "integer"
