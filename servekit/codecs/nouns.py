"""What codecs are given and what they give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from servekit.contract import Envelope

Column = NDArray[np.generic] | list[Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a body may cost. Sizes are checked before memory is taken.

    max_array_bytes also bounds what one body expands to (npz members, images after resize). max_image_pixels bounds one
    picture as its file's head has it, max_body_pixels all pictures of one body: small files may claim many pixels.
    """

    max_array_bytes: int = 256 * 1024 * 1024
    max_image_pixels: int = 50_000_000
    max_body_pixels: int = 200_000_000
    image_formats: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
    max_form_parts: int = 100
    max_form_field_bytes: int = 1024 * 1024
    max_rows: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a request body, which decides the form of a JSON answer.

    item: one item came in, one object by output names goes out.
    rows: a list of rows at `envelope.rows_at`. columns: an object of name -> batch at `envelope.rows_at`.
    v2: named tensors of the Open Inference Protocol, version 2.
    echo: what `envelope.echo` found in the request; of a V2 request its id.
    outputs: the outputs that a V2 request asks for, and whether each may be sent as binary data; none named means all.
    """

    kind: Literal["item", "rows", "columns", "v2"]
    envelope: Envelope | None = None
    echo: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, bool] = field(default_factory=dict)


ITEM = Form("item")


@dataclass(frozen=True, slots=True)
class Decoded:
    """The rows of one request. Every column has length `rows`.

    A Tensor or Image column is an array (rows, *shape) of the declared dtype; where a free dimension differs between
    rows it is a list of arrays. Text, Json and File columns are lists.
    """

    rows: int
    columns: dict[str, Column]
    form: Form
