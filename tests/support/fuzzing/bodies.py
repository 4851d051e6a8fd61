"""Predictors' inputs of every kind, and what a body may do to each: be read as declared, or be refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from servekit.codecs import Decoded, Limits, decode
from servekit.contract import BARE_LIST, COLUMNS, IMAGE_FORMATS, INSTANCES, Envelope, Infer
from servekit.errors import CallerError
from servekit.signature import File, Image, Json, Signature, Spec, Tensor, Text

LIMITS = Limits(
    max_array_bytes=4 * 1024 * 1024,
    max_image_pixels=100_000,
    max_body_pixels=200_000,
    max_form_parts=20,
    max_form_field_bytes=10_000,
    max_rows=1000,
    image_formats=IMAGE_FORMATS,
)
ENVELOPES = (INSTANCES, COLUMNS, Envelope(("data", "req_data"), ("predictions",)), BARE_LIST)
OUT: dict[str, Spec] = {"y": Tensor("float32", ())}
INPUTS: dict[str, dict[str, Spec]] = {
    "floats": {"x": Tensor("float32", (4,))},
    "whole": {"x": Tensor("int8", (2, 2))},
    "unsigned": {"x": Tensor("uint64", ())},
    "bools": {"x": Tensor("bool", (2,))},
    "free": {"x": Tensor("float64", (None, 2))},
    "words": {"x": Tensor("str", (None,))},
    "text": {"x": Text()},
    "json": {"x": Json()},
    "picture": {"x": Image("RGB", 4, 4)},
    "free picture": {"x": Image("L")},
    "file": {"x": File()},
    "pair": {"a": Tensor("int64", ()), "b": Tensor("float16", (None,))},
    "all": {"a": Tensor("float32", (2,)), "t": Text(), "p": Image("L", 2, 2), "f": File(), "j": Json()},
}
SIGNATURES = {name: Signature(inputs, OUT) for name, inputs in INPUTS.items()}


def attempt(content_type: str, body: bytes, signatures: Iterable[Signature] = SIGNATURES.values()) -> None:
    """Read the body for every kind of predictor. What is read must be what was declared."""
    for signature in signatures:
        call = Infer(body, content_type, None, ENVELOPES)
        decoded = refusal = None
        try:
            decoded = decode(call, signature, LIMITS)
        except CallerError as error:
            refusal = error
        if decoded is not None:
            check(decoded, signature)
        if refusal is not None:
            assert 400 <= refusal.status < 500
            assert 0 < len(refusal.message) < 2000


def check(decoded: Decoded, signature: Signature) -> None:
    assert 0 < decoded.rows <= LIMITS.max_rows
    assert decoded.columns.keys() == signature.inputs.keys()
    for name, spec in signature.inputs.items():
        column = decoded.columns[name]
        assert len(column) == decoded.rows
        for row in column:
            match spec:
                case Tensor() | Image():
                    assert isinstance(row, (np.ndarray, np.generic, bool, str))
                    assert_shape(np.asarray(row), spec)
                case Text():
                    assert isinstance(row, str)
                case File():
                    assert isinstance(row, bytes)
                case Json():
                    json.dumps(row)


def assert_shape(array: np.ndarray[Any, Any], spec: Tensor | Image) -> None:
    assert array.ndim == len(spec.shape)
    assert all(want is None or want == size for want, size in zip(spec.shape, array.shape, strict=True))
    if isinstance(spec, Image) or spec.dtype != "str":
        dtype = np.dtype(spec.dtype if isinstance(spec, Tensor) else "float32")
        assert array.dtype == dtype
        assert array.dtype.isnative
        if dtype.kind == "b":
            assert set(array.view(np.uint8).ravel().tolist()) <= {0, 1}
