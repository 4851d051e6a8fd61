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
from PIL import ImageOps

from servekit.codecs import image
from servekit.codecs.nouns import Limits
from servekit.contract import IMAGE_FORMATS
from servekit.errors import InvalidInput, PredictFailed, ServeError, TooLarge
from servekit.signature import Image

LIMITS = Limits(image_formats=IMAGE_FORMATS)


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


@pytest.mark.parametrize("form", ["BMP", "GIF", "TIFF"])
def test_formats_that_are_off_unless_asked_for(form: str) -> None:
    body = saved(Pillow.new("RGB", (8, 6)), form)
    with pytest.raises(InvalidInput, match=r"expected an image \(PNG, JPEG, WEBP\)"):
        decoded(body, Image("RGB"), Limits())
    assert decoded(body, Image("RGB"), Limits(image_formats=(form,))).shape == (6, 8, 3)


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


# --- JPEG, by simplejpeg where it is installed: the pixels, refusals and words are Pillow's ---


def photo(mode: str, width: int, height: int) -> Any:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height // 4 + 1, width // 4 + 1, 4), np.uint8)
    return Pillow.fromarray(pixels).convert("RGB").resize((width, height)).convert(mode)


def by_pillow(body: bytes, spec: Image) -> Any:
    """What Pillow alone makes of a file that needs no turning."""
    with Pillow.open(io.BytesIO(body)) as picture:
        converted = picture.convert(spec.mode)
        size = (spec.width or picture.width, spec.height or picture.height)
        return np.asarray(
            converted if converted.size == size else converted.resize(size, Pillow.Resampling.BILINEAR), np.float32
        )


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 48), (33, 17)], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 20}, {"restart_marker_rows": 1}],
    ids=str,
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_the_pixels_of_a_jpeg_are_pillows(mode: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    body = saved(photo(mode, *size), "JPEG", **options)
    for spec in (Image("L"), Image("RGB"), Image("RGB", 10, 10)):
        np.testing.assert_array_equal(decoded(body, spec), by_pillow(body, spec))


def test_a_jpeg_is_turned_as_its_exif_data_says() -> None:
    exif = Pillow.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        body = saved(photo("RGB", 8, 4), "JPEG", exif=exif)
        with Pillow.open(io.BytesIO(body)) as picture:
            expected = np.asarray(ImageOps.exif_transpose(picture), np.float32)
        np.testing.assert_array_equal(decoded(body, Image("RGB")), expected)


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_jpeg_is_what_pillow_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    body = bytearray(saved(photo("RGB", 40, 30), "JPEG", progressive=bool(seed % 2), exif=Pillow.Exif()))
    if seed % 4 == 0:
        del body[random.integers(len(body)) :]
    else:
        body[random.integers(len(body))] = random.integers(256)
    outcomes = []
    # The first as simplejpeg may read it, the second resized and so Pillow's own.
    for spec in (Image("RGB"), Image("RGB", 30, 40)):
        try:
            outcomes.append(decoded(bytes(body), spec).shape)
        except ServeError as error:
            outcomes.append((type(error), error.message))
    refused = [outcome for outcome in outcomes if isinstance(outcome[0], type)]
    assert len(refused) in (0, 2), outcomes
    assert len(set(refused)) < 2, outcomes
    if not refused:
        np.testing.assert_array_equal(decoded(bytes(body), Image("RGB")), by_pillow(bytes(body), Image("RGB")))


def test_a_jpeg_is_bounded_before_it_is_decoded() -> None:
    body = bytearray(saved(photo("RGB", 16, 16), "JPEG"))
    at = body.index(b"\xff\xc0") + 5
    body[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(TooLarge, match="pixels"):
        decoded(bytes(body), Image("RGB"))
    body[at : at + 4] = struct.pack(">HH", 1_000, 1_000)
    with pytest.raises(TooLarge, match="1000x1000"):
        decoded(bytes(body), Image("RGB"), Limits(max_image_pixels=999_999))
