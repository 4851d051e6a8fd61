"""`servekit inspect` as a process."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import models
import pytest
from serving import clean_environ, script

PREDICTOR = """
from servekit import Batching, Image, Predictor, Tensor

class Digits(Predictor):
    inputs = {"images": Image("L", 28, 28)}
    outputs = {"digit": Tensor("int64", ())}
    batching = Batching(max_size=5)
    def load(self, model_dir):
        raise RuntimeError("inspect loads nothing")
    def predict(self, images):
        return images
"""


def inspect(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script("servekit"), "inspect", *arguments],
        cwd=cwd, env=clean_environ(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_an_onnx_file(tmp_path: Path) -> None:
    models.dense(tmp_path / "model.onnx")
    facts = json.loads(inspect("model.onnx", "--workers", "4", "--json", cwd=tmp_path).stdout)
    assert (facts["kind"], facts["predictor"], facts["workers"]) == ("onnx", "Model", 4)
    assert facts["inputs"] == {
        "x": {"type": "Tensor", "text": "float32 of shape (1024,)", "dtype": "float32", "shape": [1024]}
    }
    assert "application/x-npy" in facts["accepts"]
    assert "text/csv" in facts["offers"]
    [plan] = facts["weights"]
    nbytes = 3 * (1024 * 1024 + 1024) * 4
    assert (plan["weights_bytes"], plan["total_bytes"], plan["private_bytes"]) == (nbytes, nbytes, 4 * nbytes)
    page = inspect("model.onnx", "--workers", "4", cwd=tmp_path).stdout
    assert "input     x: float32 of shape (1024,)" in page
    assert "with 4 workers" in page
    assert "model.onnx: 12.0 shared + 0.0 in each worker = 12.0 (unshared: 48.0)" in page
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_predictor_with_a_model_beside_it(tmp_path: Path) -> None:
    (tmp_path / "predictor.py").write_text(PREDICTOR)
    page = inspect(".", cwd=tmp_path).stdout
    assert "input     images: a L image of 28x28" in page
    assert "max_size=5" in page
    assert "image/*" in page
    assert "not known" in page
    models.dense(tmp_path / "net.onnx", layers=1, width=64)
    page = inspect("predictor.py:Digits", "--workers", "1", cwd=tmp_path).stdout
    assert "net.onnx: 0.0 shared" in page
    assert "servekit.backends.onnx.Session" in page


def test_a_model_in_a_folder_below(tmp_path: Path) -> None:
    """As `servekit init --from` writes projects."""
    (tmp_path / "predictor.py").write_text(PREDICTOR)
    for name in ("model/net.onnx", "model/._net.onnx", ".servekit/copy.onnx"):
        models.dense(tmp_path / name, layers=1, width=64)
    facts = json.loads(inspect(".", "--json", cwd=tmp_path).stdout)
    assert [plan["model"] for plan in facts["weights"]] == ["net.onnx"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing.py"], "nothing.py"),
        (["predictor.py:Nobody"], "expected a Predictor subclass Nobody"),
        (["broken.py"], "broken.py: ZeroDivisionError"),
        (["broken.onnx"], "broken.onnx"),
        (["names.onnx"], "names.onnx: expected names in UTF-8, got b'x\\xff'"),
        (
            ["predictor.py", "--model-dir", "nowhere"],
            "--model-dir: expected a directory or a .tar.gz file, got 'nowhere'",
        ),
        (["predictor.py", "--workers", "0"], "--workers"),
    ],
)
def test_bad_input_is_said_in_a_line_with_exit_code_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "predictor.py").write_text(PREDICTOR)
    (tmp_path / "broken.py").write_text("from servekit import Predictor\n1 / 0\nclass X(Predictor): pass\n")
    (tmp_path / "broken.onnx").write_bytes(b"not protobuf")
    models.save(tmp_path / "names.onnx", [], [models.value("xy", ["N"])], [models.value("xy", ["N"])], {})
    body = (tmp_path / "names.onnx").read_bytes()
    (tmp_path / "names.onnx").write_bytes(body.replace(b"xy", b"x\xff"))
    ended = inspect(*arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert says in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_an_archive_of_the_model_directory(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    models.dense(model / "net.onnx", layers=1, width=64)
    (tmp_path / "predictor.py").write_text(PREDICTOR)
    subprocess.run(["tar", "-C", str(model), "-czf", str(tmp_path / "model.tar.gz"), "."], check=True)
    page = inspect("predictor.py:Digits", "--model-dir", "model.tar.gz", cwd=tmp_path).stdout
    assert "net.onnx: 0.0 shared" in page
    ended = inspect("predictor.py", "--model-dir", "model.tar.gz", "--max-model-bytes", "100", cwd=tmp_path)
    assert ended.returncode == 2
    assert "model.tar.gz" in ended.stderr
    assert "Traceback" not in ended.stderr
