"""Pictures <-> arrays, through Pillow (the extra `servekit[image]`)."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.codecs.nouns import Limits
from servekit.errors import InvalidInput, PredictFailed, TooLarge, UnsupportedMediaType
from servekit.signature import Image

BACKGROUND = (255, 255, 255, 255)
FLOAT_PIXEL_BYTES = 4 * 4
# What Pillow's decoders raise on damaged files.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, ZeroDivisionError, OverflowError)
ORIENTATION = 0x0112
UPRIGHT = 1

# The warning filters that `catch_warnings` changes belong to the whole process.
_filters = threading.Lock()


def decode(body: bytes, spec: Image, limits: Limits, where: str) -> NDArray[np.float32]:
    """One picture as float32 (height, width[, channels]), 0 to 255.

    The size in the file's head is checked before pixels are decoded. Turned as its EXIF orientation says, laid on
    white where it is transparent (unless the mode is RGBA), of an animation the first frame.
    Raises InvalidInput, TooLarge, and UnsupportedMediaType when Pillow is not installed.
    """
    try:
        from PIL import Image as Pillow
        from PIL import ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise UnsupportedMediaType(f"{where}: images need the extra servekit[image]", cause=error) from error
    if not body:
        raise InvalidInput(f"{where}: expected an image, got an empty body")
    try:
        with _no_warnings():  # Pillow's own bomb warning would only repeat the check below
            opened = Pillow.open(io.BytesIO(body), formats=limits.image_formats)
        with opened as picture:
            _check_size(*picture.size, spec, limits, where)
            picture.load()
            with _no_warnings():  # of damaged EXIF data
                turned = picture.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT
                upright = ImageOps.exif_transpose(picture) if turned else picture
            return _pixels(upright, spec)
    except UnidentifiedImageError as error:
        formats = ", ".join(limits.image_formats)
        raise InvalidInput(f"{where}: expected an image ({formats}), got other bytes", cause=error) from error
    except Pillow.DecompressionBombError as error:
        raise TooLarge(
            f"{where}: expected an image of at most {limits.max_image_pixels} pixels, got a larger one", cause=error
        ) from error
    except DAMAGED as error:
        raise InvalidInput(f"{where}: expected a whole image, got a damaged or truncated one", cause=error) from error


def bounded(pictures: Iterable[NDArray[Any]], where: str, limits: Limits) -> list[NDArray[Any]]:
    """All pictures of one body, decoded one by one until they outgrow the limit. Raises TooLarge."""
    kept = []
    total = 0
    for picture in pictures:
        total += picture.nbytes
        if total > limits.max_array_bytes:
            raise TooLarge(f"{where}: expected at most {limits.max_array_bytes} bytes of pixels in one body, got more")
        kept.append(picture)
    return kept


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_size(width: int, height: int, spec: Image, limits: Limits, where: str) -> None:
    """Both what the file holds and what it is resized to, before either is in memory."""
    if width * height > limits.max_image_pixels:
        raise TooLarge(f"{where}: expected an image of at most {limits.max_image_pixels} pixels, got {width}x{height}")
    # A photo may lie on its side, so that either of its sizes is the one that stays free.
    pixels = max((spec.height or high) * (spec.width or wide) for wide, high in ((width, height), (height, width)))
    if (spec.height is None or spec.width is None) and pixels * FLOAT_PIXEL_BYTES > limits.max_array_bytes:
        raise TooLarge(
            f"{where}: expected an image of at most {limits.max_array_bytes} bytes, got {width}x{height} pixels"
        )


def _pixels(picture: Any, spec: Image) -> NDArray[np.float32]:
    from PIL import Image as Pillow

    if picture.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        # Pillow clips these to 255 when it converts them.
        deep = np.array(picture, np.float32)
        # "I" and "F" do not say their range: 16 bits, unless all values fit 8.
        if picture.mode.startswith("I;16") or deep.max(initial=0) > 255:
            deep /= 257.0
        picture = Pillow.fromarray(deep.clip(0, 255).round().astype(np.uint8))
    if spec.mode != "RGBA" and (picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info):
        layer = picture.convert("RGBA")
        picture = Pillow.alpha_composite(Pillow.new("RGBA", layer.size, BACKGROUND), layer)
    picture = picture.convert(spec.mode)
    width, height = spec.width or picture.width, spec.height or picture.height
    if picture.size != (width, height):
        picture = picture.resize((width, height), Pillow.Resampling.BILINEAR)
    return np.asarray(picture, np.float32)


def encode(pixels: Any, name: str) -> bytes:
    """An array (height, width[, channels]) of values 0 to 255 as PNG. Raises PredictFailed."""
    try:
        from PIL import Image as Pillow
    except ImportError as error:
        raise PredictFailed(f"output {name!r}: images need the extra servekit[image]", cause=error) from error
    array = np.asarray(pixels)
    flat = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype.kind not in "biuf" or not flat or array.size == 0:
        raise PredictFailed(f"output {name!r}: expected pixels (height, width[, 3 or 4]), got shape {array.shape}")
    buffer = io.BytesIO()
    Pillow.fromarray(np.nan_to_num(array).clip(0, 255).round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
