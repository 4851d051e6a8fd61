"""Pictures <-> arrays, through Pillow (the extra `servekit[image]`)."""

from __future__ import annotations

import io
import threading
import warnings
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

# The warning filters that `catch_warnings` changes belong to the whole process.
_opening = threading.Lock()


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
        with _opening, warnings.catch_warnings():
            # Pillow's own bomb warning would only repeat the check below.
            warnings.simplefilter("ignore")
            opened = Pillow.open(io.BytesIO(body), formats=limits.image_formats)
        with opened as picture:
            width, height = picture.size
            if width * height > limits.max_image_pixels:
                raise TooLarge(
                    f"{where}: expected an image of at most {limits.max_image_pixels} pixels, got {width}x{height}"
                )
            if spec.height is None and width * height * FLOAT_PIXEL_BYTES > limits.max_array_bytes:
                raise TooLarge(
                    f"{where}: expected an image of at most {limits.max_array_bytes} bytes, got {width}x{height} pixels"
                )
            picture.load()
            return _pixels(ImageOps.exif_transpose(picture), spec)
    except UnidentifiedImageError as error:
        formats = ", ".join(limits.image_formats)
        raise InvalidInput(f"{where}: expected an image ({formats}), got other bytes", cause=error) from error
    except Pillow.DecompressionBombError as error:
        raise TooLarge(
            f"{where}: expected an image of at most {limits.max_image_pixels} pixels, got a larger one", cause=error
        ) from error
    except DAMAGED as error:
        raise InvalidInput(f"{where}: expected a whole image, got a damaged or truncated one", cause=error) from error


def _pixels(picture: Any, spec: Image) -> NDArray[np.float32]:
    from PIL import Image as Pillow

    if picture.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        # Pillow clips these to 255 when it converts them; 16 bits are what such files hold.
        deep = np.asarray(picture, np.float32)
        if deep.size and deep.max() > 255:
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
    from PIL import Image as Pillow

    array = np.asarray(pixels)
    if array.dtype.kind not in "iuf" or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise PredictFailed(f"output {name!r}: expected pixels (height, width[, 3 or 4]), got shape {array.shape}")
    buffer = io.BytesIO()
    Pillow.fromarray(np.nan_to_num(array).clip(0, 255).round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
