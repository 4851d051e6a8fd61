"""Pictures <-> arrays, through Pillow (the extra `servekit[image]`).

Pillow opens every file, so what is accepted and what is said of the rest never depends on anything else. A JPEG that
needs neither resizing nor converting is then decoded by simplejpeg where it is installed (the extra `servekit[fast]`):
the same libjpeg-turbo and so the same pixels, but written straight into an array. All else stays with Pillow, because
handing the array back to it costs more than it saves.
"""

from __future__ import annotations

import contextlib
import functools
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
# Pillow's modes -> simplejpeg's names, where both have the same.
SIMPLEJPEG_COLOURS = {"L": "GRAY", "RGB": "RGB"}
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
    return decode_all([(where, body)], spec, limits)[0]


def decode_all(
    pictures: Iterable[tuple[str, bytes | NDArray[Any]]], spec: Image, limits: Limits
) -> list[NDArray[np.float32]]:
    """The pictures of one body, each with its name for errors, one by one until they outgrow a limit.

    What is an array already is kept as it is. Raises as `decode` does.
    """
    kept: list[NDArray[np.float32]] = []
    total = source_pixels = 0
    for where, picture in pictures:
        if isinstance(picture, bytes):
            pixels, used = _decode(picture, spec, limits, where, limits.max_body_pixels - source_pixels)
            source_pixels += used
        else:
            pixels = picture
        total += pixels.nbytes
        if total > limits.max_array_bytes:
            raise TooLarge(f"{where}: expected at most {limits.max_array_bytes} bytes of pixels in one body, got more")
        kept.append(pixels)
    return kept


def _decode(body: bytes, spec: Image, limits: Limits, where: str, pixels_left: int) -> tuple[NDArray[np.float32], int]:
    """The picture as declared, and how many pixels the file had."""
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
            source_pixels = picture.width * picture.height
            _check_size(*picture.size, spec, limits, where)
            if source_pixels > pixels_left:
                raise TooLarge(
                    f"{where}: expected pictures of at most {limits.max_body_pixels} pixels in one body, got more"
                )
            plain = _plain_jpeg(body, picture, spec)
            if plain is not None:
                return plain, source_pixels
            # A TIFF's directory is read again when the pixels are, and Pillow warns of each damaged entry.
            with _no_warnings() if picture.format == "TIFF" else contextlib.nullcontext():
                picture.load()
            with _no_warnings():  # of damaged EXIF data
                turned = picture.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT
                upright = ImageOps.exif_transpose(picture) if turned else picture
            return _pixels(upright, spec), source_pixels
    except UnidentifiedImageError as error:
        formats = ", ".join(limits.image_formats)
        raise InvalidInput(f"{where}: expected an image ({formats}), got other bytes", cause=error) from error
    except Pillow.DecompressionBombError as error:
        raise TooLarge(
            f"{where}: expected an image of at most {limits.max_image_pixels} pixels, got a larger one", cause=error
        ) from error
    except DAMAGED as error:
        raise InvalidInput(f"{where}: expected a whole image, got a damaged or truncated one", cause=error) from error


@functools.cache
def _simplejpeg() -> Any:
    """The module; None where it is not installed, which Python would search for anew each time."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _plain_jpeg(body: bytes, picture: Any, spec: Image) -> NDArray[np.float32] | None:
    """The pixels of an upright JPEG of the declared mode and size; None for all else, which is left to Pillow."""
    colours = SIMPLEJPEG_COLOURS.get(spec.mode)
    if colours is None or picture.format != "JPEG" or picture.mode != spec.mode:
        return None
    if (spec.width or picture.width, spec.height or picture.height) != picture.size:
        return None
    simplejpeg = _simplejpeg()
    if simplejpeg is None:
        return None
    try:
        # Two readers of one head: they must mean the same size, which is the one that was checked.
        if simplejpeg.decode_jpeg_header(body)[:2] != (picture.height, picture.width):
            return None
        with _no_warnings():  # of damaged EXIF data
            if picture.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT:
                return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(body, colours)
    except ValueError:  # strict: raised for all that libjpeg would only warn of
        return None
    return (pixels[..., 0] if colours == "GRAY" else pixels).astype(np.float32)


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
        deep = np.nan_to_num(np.array(picture, np.float32), copy=False)
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
