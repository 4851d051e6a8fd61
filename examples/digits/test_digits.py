"""The digits example: the same picture, as PNG and JPEG, small and large, through all three platforms."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image, ImageFilter, ImageOps

from servekit.testing import Client

HERE = Path(__file__).parent
SEVEN = {"mnist_result": 7}
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg"}


def pictures() -> dict[str, tuple[bytes, str]]:
    """One seven in many dresses: name -> (bytes, content type)."""
    with Image.open(HERE / "seven.png") as opened:
        original = opened.copy()
    found = {
        "seven.png": ((HERE / "seven.png").read_bytes(), "image/png"),
        "seven.jpg": ((HERE / "seven.jpg").read_bytes(), "image/jpeg"),
    }
    for size in (28, 100, 1000):
        for form, content_type in TYPES.items():
            for paper in (False, True):
                picture = ImageOps.invert(original) if paper else original
                buffer = io.BytesIO()
                picture.resize((size, size)).save(buffer, form)
                found[f"{form} {size} {'on paper' if paper else ''}"] = (buffer.getvalue(), content_type)
    return found


@pytest.mark.parametrize("name", sorted(pictures()))
def test_one_seven(name: str, tmp_path: Path) -> None:
    body, content_type = pictures()[name]
    with Client(HERE, platform="all") as client:
        assert client.post("/invocations", content=body, headers={"Content-Type": content_type}).json() == SEVEN
        assert client.post("/", files={"images": (name, body, content_type)}).json() == SEVEN
        (tmp_path / "images").write_bytes(body)
        job = {"type": "file", "input": str(tmp_path), "output": str(tmp_path)}
        assert client.post("/run", json=job).status_code == 200
    assert json.loads((tmp_path / "results.json").read_bytes())["data"]["result"] == SEVEN


@pytest.mark.parametrize(
    ("paper", "ink"), [(255, 0), (230, 30), (200, 60), (160, 90), (120, 20), (0, 255), (0, 60), (60, 200), (100, 255)]
)
def test_any_ink_on_any_paper(paper: int, ink: int) -> None:
    """Scans are grey on grey, and never quite sharp."""
    with Image.open(HERE / "seven.png") as opened:
        scan = opened.convert("L").point(lambda pixel: round(paper + (ink - paper) * pixel / 255))
    buffer = io.BytesIO()
    scan.resize((300, 300)).filter(ImageFilter.GaussianBlur(4)).save(buffer, "JPEG", quality=60)
    with Client(HERE, platform="modelarts") as client:
        assert client.post("/", files={"images": ("scan.jpg", buffer.getvalue(), "image/jpeg")}).json() == SEVEN


def test_blank_paper_is_answered() -> None:
    buffer = io.BytesIO()
    Image.new("L", (28, 28), 200).save(buffer, "PNG")
    with Client(HERE, platform="sagemaker") as client:
        reply = client.post("/invocations", content=buffer.getvalue(), headers={"Content-Type": "image/png"})
    assert reply.status_code == 200


def test_several_pictures_at_once() -> None:
    body = (HERE / "seven.png").read_bytes()
    with Client(HERE, platform="modelarts") as client:
        assert client.post("/", files=[("images", body), ("images", body)]).json() == {"predictions": [7, 7]}


def test_a_broken_picture_is_named() -> None:
    body = (HERE / "seven.png").read_bytes()
    with Client(HERE, platform="modelarts") as client:
        reply = client.post("/", files={"images": ("seven.png", body[: len(body) // 2], "image/png")})
    assert reply.status_code == 400
    assert "images (seven.png)" in reply.json()["error_msg"]


def test_the_model_is_small() -> None:
    assert (HERE / "model.onnx").stat().st_size < 1_000_000
