"""The file that a person reviews, and the command that writes it and compares."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from serving import clean_environ

from servekit import Json, Tensor, Text
from servekit.cli.parity import parity as command
from servekit.errors import ConfigError
from servekit.parity import snapshot
from servekit.parity.answers import Answered, Failed, NotExpressible
from servekit.parity.compare import differences
from servekit.signature import Signature

PREDICTOR = """
from servekit import Predictor, Tensor

class Sum(Predictor):
    inputs = {"x": Tensor("float32", (2,))}
    outputs = {"total": Tensor("float32", ())}
    def predict(self, x):
        return x.sum(axis=1)
"""
ANY = Signature({"x": Tensor()}, {"y": Json()})
FLOAT = Signature({"x": Tensor()}, {"y": Tensor("float32", (None,))})
MANY = [i / 7 for i in range(100)]


def parity(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from servekit.cli.parity import parity; parity()", *arguments],
        cwd=cwd, env=clean_environ(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "predictor.py").write_text(PREDICTOR)
    samples = tmp_path / "samples"
    samples.mkdir()
    (samples / "good.json").write_text('{"instances": [[1, 2], [3, 4]]}')
    (samples / "short.json").write_text('{"instances": [[1]]}')
    return tmp_path


def test_written_reviewed_compared_and_broken(project: Path) -> None:
    common = (".", "--samples", "samples", "--snapshot", "samples/parity.yaml")
    missing = parity(*common, cwd=project)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "--update writes it" in missing.stderr

    first = parity(*common, "--update", cwd=project)
    assert first.returncode == 0, first.stderr
    assert "wrote samples/parity.yaml" in first.stderr
    text = (project / "samples/parity.yaml").read_text()
    assert yaml.safe_load(text)["samples"] == {
        "good.json": {"answer": [{"total": 3.0}, {"total": 7.0}]},
        "short.json": {"error": "invalid_input"},
    }
    # Nothing in it changes by itself.
    assert not re.search(r"20\d\d-|/tmp|\d+\.\d+\.\d+", text)
    same = parity(*common, cwd=project)
    assert same.returncode == 0
    assert "2 samples on modelarts, modzy, sagemaker: 2 equal, 0 differ" in same.stdout

    (project / "predictor.py").write_text(PREDICTOR.replace("x.sum(axis=1)", "x.sum(axis=1) + 1"))
    changed = parity(*common, cwd=project)
    assert changed.returncode == 1
    assert "CHANGED good.json" in changed.stdout
    assert "- answer:" not in changed.stdout
    assert "-   - {total: 3.0}" in changed.stdout or "- - {total: 3.0}" in changed.stdout
    assert "{total: 4.0}" in changed.stdout

    (project / "samples/short.json").unlink()
    gone = json.loads(parity(*common, "--json", cwd=project).stdout)
    assert (gone["ok"], gone["removed"]) == (False, ["short.json"])
    assert gone["samples"][0]["snapshot"]


def test_no_snapshot_is_written_of_platforms_that_differ(project: Path) -> None:
    (project / "predictor.py").write_text(
        PREDICTOR.replace("def predict(self, x)", "def predict(self, x, context)").replace(
            "x.sum(axis=1)", "x.sum(axis=1) + (context.platform == 'modzy')"
        )
    )
    done = parity(".", "--samples", "samples", "--snapshot", "p.yaml", "--update", cwd=project)
    assert done.returncode == 1
    assert "DIFFERS good.json" in done.stdout
    assert "modelarts and modzy: row 0, total: 3 and 4" in done.stdout
    assert not (project / "p.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--samples", "nowhere"], "--samples: expected a directory"),
        (["--samples", "samples", "--update"], "--update: expected --snapshot FILE"),
        (["--samples", "samples", "--platforms", "sagemaker,moon"], "--platforms: expected some of modelarts"),
        (["--samples", "samples", "--model-dir", "nowhere"], "--model-dir: expected a directory"),
        (["--samples", "samples", "--snapshot", "predictor.py"], "predictor.py: expected"),
        (["--samples", "samples", "--snapshot", "samples", "--update"], "--snapshot: expected a file in a directory"),
        (["--samples", "samples", "--snapshot", "no/p.yaml", "--update"], "--snapshot: expected a file in a directory"),
        (["--samples", "samples", "--tolerance", "nan"], "--tolerance: expected a number"),
    ],
)
def test_wrong_options_are_one_line(
    project: Path, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    done = CliRunner().invoke(command, [".", *arguments])
    assert done.exit_code == 2
    assert done.output.startswith(f"servekit: {says}")
    assert done.output.count("\n") == 1


@pytest.mark.parametrize("served", [[], ["--served"]])
def test_a_model_that_does_not_load(project: Path, served: list[str]) -> None:
    (project / "predictor.py").write_text(
        PREDICTOR + "    def load(self, model_dir):\n        raise OSError('no weights')\n"
    )
    done = parity(".", "--samples", "samples", "--platforms", "sagemaker", *served, cwd=project)
    assert done.returncode == 2
    assert "no weights" in done.stderr
    assert ("log    " in done.stderr) == bool(served)


def test_ctrl_c_leaves_no_server(project: Path) -> None:
    (project / "predictor.py").write_text(
        PREDICTOR + "    def load(self, model_dir):\n        import time; time.sleep(600)\n"
    )
    asked = [sys.executable, "-c", "from servekit.cli.parity import parity; parity()", str(project / "predictor.py")]
    process = subprocess.Popen(
        [*asked, "--samples", str(project / "samples"), "--served"],
        env=clean_environ(), stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        deadline_s = time.monotonic() + 60
        while len(naming(project)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said) == (130, "servekit: interrupted; nothing was compared\n")
    assert naming(project) == []


def naming(folder: Path) -> list[str]:
    """The command lines that name the folder, of all that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found += [line] if str(folder) in line else []
    return found


# --- what stands for what is long ---


def said(*rows: dict[str, Any], signature: Signature = ANY) -> snapshot.Entry:
    return snapshot.entry({"a": Answered(list(rows))}, signature)


def test_long_values_are_shortened_and_still_compared() -> None:
    short = said({"y": MANY}, signature=FLOAT)["answer"][0]["y"]
    assert short["shape"] == [100]
    assert short["first"] == MANY[:5]
    other = [*MANY]
    other[70], other[71] = other[71], other[70]
    near = [value * (1 + 1e-7) for value in MANY]
    before = said({"y": MANY}, signature=FLOAT)
    assert snapshot.differences(before, said({"y": other}, signature=FLOAT), FLOAT, ["a"], None)
    assert not snapshot.differences(before, said({"y": near}, signature=FLOAT), FLOAT, ["a"], None)
    assert snapshot.differences(before, said({"y": [*MANY, 1.0]}, signature=FLOAT), FLOAT, ["a"], None)


@pytest.mark.parametrize(
    ("value", "other"),
    [
        ("x" * 500, "x" * 499 + "y"),
        (list(range(200)), [*range(199), 7]),
        (["word"] * 100, ["word"] * 99 + ["other"]),
        ({str(i): i for i in range(200)}, {str(i): i + (i == 150) for i in range(200)}),
    ],
)
def test_a_change_deep_in_a_long_value_is_seen(value: Any, other: Any) -> None:
    before = said({"y": value})
    assert len(json.dumps(before)) < 600
    assert "sha256" in json.dumps(before)
    assert snapshot.differences(before, said({"y": other}), ANY, ["a"], None)
    assert not snapshot.differences(before, said({"y": value}), ANY, ["a"], None)


def test_many_rows_are_shortened_too() -> None:
    rows = [{"y": i} for i in range(100)]
    entry = said(*rows)["answer"]
    assert (entry["rows"], len(entry["first"])) == (100, 5)
    assert snapshot.differences(said(*rows), said(*rows[:-1], {"y": 7}), ANY, ["a"], None)


def test_platforms_that_were_not_asked_do_not_count() -> None:
    whole = snapshot.entry({"a": Failed(frozenset(["invalid_input"]), 400, ""), "b": NotExpressible("why")}, ANY)
    assert whole == {"error": "invalid_input", "not_expressible": {"b": "why"}}
    part = snapshot.entry({"a": Failed(frozenset(["invalid_input"]), 400, "")}, ANY)
    assert not snapshot.differences(whole, part, ANY, ["a"], None)
    assert snapshot.differences(whole, part, ANY, ["a", "b"], None)


@pytest.mark.parametrize("text", ["", "[", "format: 2\n", "format: 1\nsamples: 3\n", "format: 1\nsamples: {a: 1}\n"])
def test_a_file_that_is_no_snapshot(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"s\.yaml: "):
        snapshot.read(tmp_path / "s.yaml")


# --- equal, or not ---


@pytest.mark.parametrize(
    ("dtype", "one", "other", "equal"),
    [
        ("float32", [1.0, 2.0], [1.0, 2.00001], True),
        ("float32", [1.0, 2.0], [1.0, 2.001], False),
        ("float64", [1.0, 2.0], [1.0, 2.00001], False),
        ("float16", [1.0, 2.0], [1.0, 2.001], True),
        ("float32", [1.0, float("nan")], [1.0, float("nan")], True),
        ("float32", [1.0, float("nan")], [1.0, 2.0], False),
        ("float32", [1e-9, 1.0], [0.0, 1.0], True),
        ("float32", [1.0], [1.0, 1.0], False),
        ("float32", [float("inf")], [float("-inf")], False),
        ("int64", [2**60], [2**60 + 1], False),
        ("int64", [1], [True], False),
        ("bool", [True], [True], True),
    ],
)
def test_numbers_by_their_dtype(dtype: str, one: list[Any], other: list[Any], equal: bool) -> None:
    signature = Signature({"x": Tensor()}, {"y": Tensor(dtype, (None,))})
    assert (not differences([{"y": one}], [{"y": other}], signature)) is equal
    assert (not differences([{"y": other}], [{"y": one}], signature)) is equal


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ([{"y": "a"}], [{"y": "b"}], "row 0, y: 'a' and 'b'"),
        ([{"y": 1}], [], "1 and 0 rows"),
        ([{"y": 1}], [{"z": 1}], "row 0, y: only in the first"),
        ([{"y": {"k": [1, 2]}}], [{"y": {"k": [1, 3]}}], "row 0, y.k[1]: 2 and 3"),
        ([{"y": None}], [{"y": 0}], "row 0, y: None and 0"),
    ],
)
def test_differences_name_their_place(one: Any, other: Any, says: str) -> None:
    found = differences(one, other, Signature({"x": Text()}, {"y": Json()}))
    assert found[0] == says
