"""Pictures in every mode and size, and the ones that are traps."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from cases import png
from PIL import Image as Pillow

from servekit.codecs import image
from servekit.codecs.nouns import Limits
from servekit.errors import InvalidInput, PredictFailed, TooLarge
from servekit.signature import Image

LIMITS = Limits()


def saved(picture: Any, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def decoded(body: bytes, spec: Image, limits: Limits = LIMITS) -> Any:
    return image.decode(body, spec, limits, "picture")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (Image("L"), (6, 8)),
        (Image("RGB"), (6, 8, 3)),
        (Image("RGBA"), (6, 8, 4)),
        (Image("L", 28, 28), (28, 28)),
        (Image("RGB", 3, 2), (3, 2, 3)),
    ],
    ids=str,
)
def test_formats_modes_and_sizes(form: str, spec: Image, shape: tuple[int, ...]) -> None:
    pixels = decoded(saved(Pillow.new("RGB", (8, 6), (200, 200, 200)), form), spec)
    assert pixels.shape == shape
    assert pixels.dtype == np.float32
    assert np.abs(pixels[..., 0] - 200).max() <= 3


def test_transparency_lies_on_white() -> None:
    body = saved(Pillow.new("RGBA", (2, 2), (0, 0, 0, 0)), "PNG")
    assert decoded(body, Image("L")).min() == 255
    assert decoded(body, Image("RGBA"))[0, 0].tolist() == [0, 0, 0, 0]


def test_16_bits_are_scaled_not_clipped() -> None:
    picture = Pillow.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))
    assert decoded(saved(picture, "PNG"), Image("L")).tolist() == [[0, 100, 255]]


def test_a_dark_picture_of_16_bits_stays_dark() -> None:
    picture = Pillow.fromarray(np.full((2, 2), 200, np.uint16))
    assert decoded(saved(picture, "PNG"), Image("L")).max() <= 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])  # read when it is opened, or only when it is asked for
def test_damaged_exif_data_neither_fails_nor_warns(form: str) -> None:
    body = saved(Pillow.new("L", (2, 2), 9), form, exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")
    assert decoded(body, Image("L")).shape == (2, 2)


def test_a_large_picture_does_not_warn() -> None:
    # Pillow warns of what is above its own limit, below twice of which it still opens.
    limits = Limits(max_image_pixels=200_000_000)
    assert decoded(png(10_000, 10_000), Image("L", 2, 2), limits).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("spec", "size"), [(Image("L", 1000, None), (100_000, 1)), (Image("L", None, 1000), (1, 100_000))]
)
def test_a_strip_is_not_stretched_beyond_the_limit(spec: Image, size: tuple[int, int]) -> None:
    with pytest.raises(TooLarge, match=f"{size[0]}x{size[1]} pixels"):
        decoded(png(*size), spec)


def test_the_orientation_of_a_photo_is_applied() -> None:
    picture = Pillow.new("L", (4, 2))
    picture.putpixel((0, 0), 255)
    exif = Pillow.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    assert decoded(saved(picture, "PNG", exif=exif), Image("L")).shape == (4, 2)


def test_of_an_animation_the_first_frame() -> None:
    frames = [Pillow.new("L", (2, 2), shade) for shade in (10, 200)]
    body = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decoded(body, Image("L")).max() < 50


def claims(width: int, height: int) -> bytes:
    """A PNG whose head claims a size that its data does not have."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + crc + png(1, 1)[33:]


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (b"", InvalidInput, "empty body"),
        (b"hello", InvalidInput, "expected an image"),
        (png(50, 50, truncate=True), InvalidInput, "truncated"),
        (png(10_000, 10_000), TooLarge, "10000x10000"),
        (claims(100_000, 100_000), TooLarge, "pixels"),
        (claims(500, 500), InvalidInput, "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", InvalidInput, "expected an image"),
        (b"SIMPLE  =                    T" + b" " * 2880, InvalidInput, "expected an image"),
    ],
    ids=["empty", "text", "truncated", "100 megapixels", "claims", "short", "eps", "fits"],
)
def test_what_is_refused(body: bytes, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        decoded(body, Image("L", 28, 28))
    assert "picture" in str(caught.value)


def test_a_picture_of_any_size_is_bounded_by_what_it_becomes() -> None:
    with pytest.raises(TooLarge, match="100x100 pixels"):
        decoded(png(100, 100), Image("RGB"), Limits(max_array_bytes=100_000))
    assert decoded(png(100, 100), Image("RGB", 10, 10), Limits(max_array_bytes=100_000)).shape == (10, 10, 3)


def test_encode() -> None:
    body = image.encode(np.array([[0.0, 300.0, -5.0, np.nan]]), "out")
    assert decoded(body, Image("L")).tolist() == [[0, 255, 0, 0]]
    with pytest.raises(PredictFailed, match=r"'out'.*\(4,\)"):
        image.encode(np.zeros(4), "out")


@pytest.mark.parametrize("pixels", [np.zeros((0, 2)), np.zeros((2, 2, 2)), np.array([["a"]]), "text", None])
def test_what_is_no_picture(pixels: Any) -> None:
    with pytest.raises(PredictFailed, match="'out'"):
        image.encode(pixels, "out")
