"""The OpenAPI 3.1 description of a server, from its routes and its predictor's signature."""

from __future__ import annotations

from typing import Any

from servekit import __version__
from servekit.dispatch import Dispatcher
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text

JsonSchema = dict[str, Any]


def schema(dispatcher: Dispatcher) -> JsonSchema:
    """The whole document."""
    signature = dispatcher.performer.signature
    paths: dict[str, JsonSchema] = {}
    for mount in dispatcher.mounted:
        for route in mount.routes:
            for method in route.methods:
                operation: JsonSchema = {
                    "tags": [mount.platform.name],
                    "summary": route.summary or f"{method} {route.path}",
                    "responses": {"default": {"description": "see the platform's contract"}},
                }
                if route.takes_body and method in ("POST", "PUT"):
                    operation["requestBody"] = {"required": True, "content": _contents(signature)}
                paths.setdefault(route.path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": dispatcher.performer.model.name, "version": __version__},
        "paths": paths,
    }


def _contents(signature: Signature) -> JsonSchema:
    only = signature.only_input
    row = item_schema(only[1]) if only else object_schema(signature.inputs)
    contents: JsonSchema = {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["instances"],
                "properties": {"instances": {"type": "array", "minItems": 1, "items": row}},
            }
        },
        "multipart/form-data": {"schema": object_schema(signature.inputs, upload=True)},
    }
    if only and isinstance(only[1], Text):
        contents["text/plain"] = {"schema": {"type": "string"}}
    if only and isinstance(only[1], Image):
        contents["image/*"] = {"schema": {"type": "string", "format": "binary"}}
    if only and isinstance(only[1], File):
        contents["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return contents


def object_schema(specs: Any, *, upload: bool = False) -> JsonSchema:
    """An object with one property per name."""
    properties = {
        name: {"type": "string", "format": "binary"}
        if upload and isinstance(spec, (Image, File))
        else item_schema(spec)
        for name, spec in specs.items()
    }
    return {"type": "object", "required": list(specs), "properties": properties}


def item_schema(spec: Spec) -> JsonSchema:
    """One item of an input or output, as JSON carries it."""
    match spec:
        case Tensor():
            inner: JsonSchema = _number(spec.dtype)
            for dim in reversed(spec.shape):
                size = {} if dim is None else {"minItems": dim, "maxItems": dim}
                inner = {"type": "array", "items": inner, **size}
            return inner
        case Text():
            return {"type": "string"}
        case Json():
            return {}
        case Image() | File():
            return {"type": "string", "contentEncoding": "base64"}


def _number(dtype: str) -> JsonSchema:
    if dtype == "bool":
        return {"type": "boolean"}
    if dtype == "str":
        return {"type": "string"}
    return {"type": "number" if dtype.startswith("float") else "integer"}
