"""What codecs are given and what they give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from servekit.contract import Envelope
from servekit.contract import Limits as Limits

Column = NDArray[np.generic] | list[Any]


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
