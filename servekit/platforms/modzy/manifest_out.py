"""Writing model.yaml of specification 0.3: the counterpart of `manifest.py`, in the order of Modzy's model template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml

from servekit.contract import Limits
from servekit.platforms.modzy.files import RESULTS, default_inputs
from servekit.signature import File, Image, Json, Spec, Tensor, Text

if TYPE_CHECKING:
    from servekit.containers import Product

JSON = "application/json"
LINE_WIDTH = 110
MEGABYTE = 1_000_000
LIMITS = Limits()
# More is not read, whatever a manifest says.
MAX_MEGABYTES = LIMITS.max_array_bytes // MEGABYTE
# For a number in JSON: a double has up to 24 characters, and there is what stands between two.
NUMBER_BYTES = 32
# What a free dimension is taken for.
FREE_DIM = 10_000


def manifest(product: Product) -> bytes:
    """model.yaml of an image. Sizes are room enough for what the signature allows; a project may know better."""
    signature = product.signature
    document = {
        "specification": "0.3",
        "type": "file",
        "source": "servekit",
        "version": product.version,
        "name": product.name,
        "author": product.author,
        "description": {
            "summary": product.summary or product.name,
            "details": product.details,
            "technical": f"Inputs: {_listed(signature.inputs)}. Outputs: {_listed(signature.outputs)}.",
            "performance": "",
        },
        "releaseNotes": "",
        "tags": [],
        "filters": [],
        "metrics": [],
        "inputs": {
            file.filename: _input(name, spec)
            for file, (name, spec) in zip(default_inputs(signature), signature.inputs.items(), strict=True)
        },
        "outputs": {
            RESULTS: {
                "mediaType": JSON,
                "maxSize": _size(list(signature.outputs.values())),
                "description": f"data.result is an object with {_listed(signature.outputs)}.",
            }
        },
        # What the template tests with.
        "resources": {"memory": {"size": "512M"}, "cpu": {"count": 1}, "gpu": {"count": 0}},
        # The platform's default, and the time that servekit gives a request.
        "timeout": {"status": "60s", "run": "60s"},
        "internal": {
            "recommended": False,
            "experimental": False,
            "available": True,
            "features": {"explainable": False, "adversarialDefense": False},
        },
    }
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=LINE_WIDTH)
    return text.encode()


def _input(name: str, spec: Spec) -> dict[str, Any]:
    media_types, text = _accepted(spec)
    return {"acceptedMediaTypes": media_types, "maxSize": _size([spec]), "description": f"The input {name}: {text}."}


def _accepted(spec: Spec) -> tuple[list[str], str]:
    match spec:
        case Image():
            return [f"image/{name.lower()}" for name in LIMITS.image_formats], "a picture of any size"
        case File():
            return ["application/octet-stream"], "a file, taken as it is"
        case Text():
            return ["text/plain"], "a text in UTF-8"
        case Json():
            return [JSON], "a JSON value"
        case Tensor():
            return [JSON], f"JSON, {spec}"


def _size(specs: Sequence[Spec]) -> str:
    """Room for one value of each."""
    return f"{min(MAX_MEGABYTES, sum(_megabytes(spec) for spec in specs))}M"


def _megabytes(spec: Spec) -> int:
    match spec:
        case Tensor():
            numbers = math.prod(FREE_DIM if dim is None else dim for dim in spec.shape)
            return 10 if spec.dtype == "str" else max(1, -(-numbers * NUMBER_BYTES // MEGABYTE))
        case File():
            return 100
        case Image():
            return 20
        case Text() | Json():
            return 10


def _listed(specs: Any) -> str:
    return ", ".join(f"{name} ({spec})" for name, spec in specs.items())


class _Dumper(yaml.SafeDumper):
    """SafeDumper, but a text of several lines is written as they stand."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    lines = text.split("\n")
    style = None
    if not all(line.isprintable() for line in lines):
        style = '"'  # what else ends a line would be read as a space
    elif len(lines) > 1 and all(line == line.strip() for line in lines):
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)
