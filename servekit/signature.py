"""What goes in and out of a predictor, declared once.

Codecs, schemas, manifests and content types all follow from these declarations. Nothing here imports numpy, so
`import servekit` stays cheap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from servekit.errors import ConfigError

DTYPES = frozenset(
    ["bool", "str", "float16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
IMAGE_CHANNELS = {"L": 0, "RGB": 3, "RGBA": 4}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array of `dtype` and `shape`, without the batch dimension; None in `shape` is a free dimension.

    `predict` receives a numpy array (N, *shape). dtype is a numpy name such as "float32", "int64", "bool", or "str"
    (an object array of str).
    """

    dtype: str = "float32"
    shape: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"Tensor(dtype={self.dtype!r}): expected one of {', '.join(sorted(DTYPES))}")
        # A list is a natural thing to write; keep the value hashable.
        object.__setattr__(self, "shape", tuple(self.shape))
        for dim in self.shape:
            if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int) or dim < 0):
                raise ConfigError(f"Tensor(shape={self.shape!r}): expected sizes >= 0 or None, got {dim!r}")

    def __str__(self) -> str:
        return f"{self.dtype} of shape {shape_text(self.shape)}"


@dataclass(frozen=True, slots=True)
class Image:
    """A picture, decoded and resized to `height` x `width` pixels (None: its own size).

    `predict` receives float32 (N, height, width) for mode "L" and (N, height, width, channels) for "RGB" and
    "RGBA", with values from 0 to 255. As an output: an array (height, width[, channels]) that is sent as PNG.
    """

    mode: str = "RGB"
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in IMAGE_CHANNELS:
            raise ConfigError(f"Image(mode={self.mode!r}): expected one of {', '.join(IMAGE_CHANNELS)}")
        for name, size in (("height", self.height), ("width", self.width)):
            if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
                raise ConfigError(f"Image({name}={size!r}): expected a size >= 1 in pixels, or None")

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of one decoded image."""
        channels = IMAGE_CHANNELS[self.mode]
        return (self.height, self.width, channels) if channels else (self.height, self.width)

    def __str__(self) -> str:
        size = "any size" if self.height is None else f"{self.height}x{self.width}"
        return f"a {self.mode} image of {size}"


@dataclass(frozen=True, slots=True)
class Text:
    """A str. `predict` receives a list of N str."""

    def __str__(self) -> str:
        return "a text"


@dataclass(frozen=True, slots=True)
class Json:
    """Any JSON value. `predict` receives a list of N parsed values."""

    def __str__(self) -> str:
        return "a JSON value"


@dataclass(frozen=True, slots=True)
class File:
    """Uploaded bytes, untouched. `predict` receives a list of N bytes objects."""

    def __str__(self) -> str:
        return "a file"


Spec = Tensor | Image | Text | Json | File


@dataclass(frozen=True, slots=True)
class Signature:
    """The declared inputs and outputs of a predictor, by name, in order."""

    inputs: Mapping[str, Spec]
    outputs: Mapping[str, Spec]

    def __post_init__(self) -> None:
        for side, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            if not isinstance(specs, Mapping) or not specs:
                raise ConfigError(
                    f"{side}: expected a dict of name to Tensor, Image, Text, Json or File, got {specs!r}"
                )
            for name, spec in specs.items():
                if not isinstance(name, str) or not name:
                    raise ConfigError(f"{side}: expected names that are non-empty strings, got {name!r}")
                if not isinstance(spec, Spec):
                    raise ConfigError(f"{side}[{name!r}]: expected Tensor, Image, Text, Json or File, got {spec!r}")

    @property
    def only_input(self) -> tuple[str, Spec] | None:
        """The name and spec of the input when there is exactly one."""
        return next(iter(self.inputs.items())) if len(self.inputs) == 1 else None

    @property
    def only_output(self) -> tuple[str, Spec] | None:
        """The name and spec of the output when there is exactly one."""
        return next(iter(self.outputs.items())) if len(self.outputs) == 1 else None


def shape_text(shape: tuple[int | None, ...]) -> str:
    """`(3, None)` as people write it: "(3, any)"."""
    inner = ", ".join("any" if dim is None else str(dim) for dim in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"
