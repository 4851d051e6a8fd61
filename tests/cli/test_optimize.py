"""`servekit optimize` as a process, and what `servekit run` makes of its output."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import models
import pytest
from serving import clean_environ, script, serve

from servekit.backends.onnx import Session

MANIFEST = "*/manifest.json"


def optimize(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script("servekit"), "optimize", *arguments],
        cwd=cwd, env=clean_environ(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as an image build makes it."""
    work = tmp_path_factory.mktemp("work")
    models.external(work / "model.onnx")
    ended = optimize("model.onnx", "-o", "image", cwd=work)
    assert ended.returncode == 0, ended.stderr
    first, second = ended.stdout.splitlines()
    assert first.startswith("model.onnx: 12.0 MiB of weights, packed in image/.servekit/")
    assert "`servekit run image` shares them" in second
    return work / "image"


def manifest(image: Path) -> Path:
    [path] = (image / ".servekit").glob(MANIFEST)
    return path


def test_the_directory_holds_the_model_and_its_copy(image: Path) -> None:
    assert sorted(path.name for path in image.iterdir()) == [".servekit", "model.data", "model.onnx"]
    assert sorted(path.name for path in manifest(image).parent.iterdir()) == [
        "manifest.json",
        "model.onnx",
        "weights.bin",
    ]
    assert Session(image / "model.onnx").shared  # a single worker uses it, too


def test_to_do_it_again_changes_nothing(image: Path) -> None:
    before = manifest(image).stat().st_ino
    assert optimize("image/model.onnx", "-o", "image", cwd=image.parent).returncode == 0
    assert manifest(image).stat().st_ino == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"onnxruntime": "0.1 (other)"}, "made with onnxruntime 0.1 (other), this is "),
        ({"machine": "vax"}, "made for vax, this is "),
        ({"cpu": ["avx", "made_up"]}, "made for another CPU, this one is without made_up"),
    ],
)
def test_on_another_machine_the_model_is_used_as_it_is(
    image: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], says: str
) -> None:
    shutil.copytree(image, tmp_path / "image")
    path = manifest(tmp_path / "image")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    path.parent.rename(path.parent.with_name("0" * 32))
    assert not Session(tmp_path / "image" / "model.onnx").shared
    assert says in caplog.text


def test_run_serves_it_from_one_copy(image: Path, tmp_path: Path) -> None:
    environ = {"SERVEKIT_CACHE_DIR": str(tmp_path / "cache")}
    with serve(
        "image", "--workers", "2", "--drain-s", "0", platform="sagemaker", cwd=image.parent, environ=environ
    ) as server:
        reply = httpx2.post(server.url + "/invocations", json={"instances": [[0.0] * 1024]}, timeout=30)
        assert reply.status_code == 200
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        assert len(children) == 2
        for pid in children:
            assert "/image/.servekit/" in Path(f"/proc/{pid}/maps").read_text()
        assert "made a copy" not in server.log
    assert not (tmp_path / "cache").exists()


def test_a_small_model_is_only_copied(tmp_path: Path) -> None:
    models.dense(tmp_path / "small.onnx", width=16)
    ended = optimize("small.onnx", "-o", "image", cwd=tmp_path)
    assert ended.returncode == 0
    assert "nothing is gained by sharing" in ended.stdout
    assert [path.name for path in (tmp_path / "image").iterdir()] == ["small.onnx"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.onnx", None, "MODEL: expected an .onnx file, got 'missing.onnx'"),
        ("model.txt", b"x", "MODEL: expected an .onnx file, got 'model.txt'"),
        ("broken.onnx", b"not protobuf", "broken.onnx: not a model that onnxruntime can run"),
        ("large.onnx", b"\x3a" * 9 * 1024 * 1024, "large.onnx: not an ONNX model"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    ended = optimize(name, "-o", "image", cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert says in ended.stderr
    assert not (tmp_path / "image").exists()


def test_what_lies_in_the_directory_is_not_overwritten(tmp_path: Path) -> None:
    models.dense(tmp_path / "model.onnx", width=16)
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "model.onnx").write_text("mine")
    ended = optimize("model.onnx", "-o", "image", cwd=tmp_path)
    assert ended.returncode == 2
    assert "exists and is another file" in ended.stderr
    assert (tmp_path / "image" / "model.onnx").read_text() == "mine"
    assert optimize("model.onnx", "-o", "model.onnx", cwd=tmp_path).returncode == 2
    assert optimize("model.onnx", cwd=tmp_path).returncode == 2
